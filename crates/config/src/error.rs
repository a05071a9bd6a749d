//! What can be wrong with a configuration, in words that say what to do.

use std::path::PathBuf;

/// One fault of a configuration file, an override or the environment.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The file cannot be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML (a key that is there twice is not, either).
    #[error("{place}: {message}")]
    Syntax {
        /// File and line.
        place: String,
        /// What the TOML parser says.
        message: String,
    },
    /// No setting has this name.
    #[error("{place}: unknown key `{key}`{}", nearest.map(|n| format!(", did you mean `{n}`?")).unwrap_or_default())]
    UnknownKey {
        /// File and line.
        place: String,
        /// The key as it stands there.
        key: String,
        /// The setting whose name is nearest, if any is near.
        nearest: Option<&'static str>,
    },
    /// The value is of another type, lacks a unit or is out of range.
    #[error("{place}: `{key}`: expected {expected}")]
    BadValue {
        /// File and line.
        place: String,
        /// The setting.
        key: String,
        /// What it takes, and what it got.
        expected: String,
    },
}

/// Everything that is wrong, not only the first thing.
#[derive(Debug, thiserror::Error)]
#[error("{}", lines(problems))]
pub struct ConfigError {
    /// At least one.
    pub problems: Vec<Problem>,
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// The candidate that a typing mistake most likely meant: at most a third of its letters differ.
pub(crate) fn nearest(key: &str, candidates: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    let last = |k: &str| k.rsplit('.').next().unwrap_or(k).to_owned();
    // Also the last part alone, so that a key in the wrong section finds its home.
    let near = |c: &str| distance(key, c).min(1 + distance(&last(key), &last(c)));
    let best = candidates.map(|c| (near(c), c)).min_by_key(|(d, _)| *d)?;
    (best.0 <= (last(key).chars().count() / 3).max(2)).then_some(best.1)
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut left = i + 1;
        let mut diagonal = i;
        for (cell, y) in row.iter_mut().skip(1).zip(&b) {
            let above = *cell;
            // `left` is the cell just written, `diagonal` the one above it.
            left = (left + 1).min(above + 1).min(diagonal + usize::from(x != *y));
            diagonal = above;
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, d) in [("", "", 0), ("abc", "", 3), ("", "abc", 3), ("kitten", "sitting", 3), ("abc", "abc", 0), ("ab", "ba", 2)] {
            assert_eq!(distance(a, b), d, "{a} {b}");
        }
    }
}
