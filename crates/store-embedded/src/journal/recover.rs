//! What to do with a journal found at start.

use super::{Disk, DiskError};
use std::fmt;

/// What a journal holds, found without writing anything.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Survey {
    /// The newest group before any damage; none if the journal names none (all groups are in the tables).
    pub last: Option<u64>,
    /// The first thing that is not as it was written.
    pub damage: Option<Damage>,
}

/// A place in the journal that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The journal's file, for people.
    pub file: String,
    /// Where the last intact group before it ends.
    pub at: u64,
    /// From there to the last byte that is not zero.
    pub bytes: u64,
    /// What is wrong.
    pub what: String,
    /// An intact group found behind it. Each group is flushed before the next is written, so this one was durable.
    pub beyond: Option<u64>,
    /// The file is not the newest one: it was flushed whole before the next was begun.
    pub sealed: bool,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}, {} bytes from offset {}", self.what, self.file, self.bytes, self.at)
    }
}

/// How a journal was taken up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The newest group.
    pub group: u64,
    /// What the mark said.
    pub mark: u64,
    /// What was cut from the end: a group that was being written when the process or the machine stopped.
    pub cut: Option<Damage>,
}

/// Why a journal was not taken up. Nothing was written, or a copy of what was cut is kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecoverError {
    /// Durable groups are missing.
    #[error("{}", lost(*mark, *found, damage.as_deref()))]
    Lost {
        /// What was durable.
        mark: u64,
        /// What there is.
        found: u64,
        /// Where it ends, if known.
        damage: Option<Box<Damage>>,
    },
    /// A durable group is damaged.
    #[error("{}", middle(.0))]
    Middle(Box<Damage>),
    /// The disk's own words.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

const ADVICE: &str = "No data was discarded. Restore a backup, or copy the data directory away and start once with `--accept-loss`";

fn lost(mark: u64, found: u64, damage: Option<&Damage>) -> String {
    let place = damage.map(|d| format!(" ({d})")).unwrap_or_default();
    format!(
        "the journal is corrupt: group {mark} was durable, but only groups up to {found} can be read{place}. {ADVICE} to go \
         on without the missing groups"
    )
}

fn middle(damage: &Damage) -> String {
    let beyond = damage.beyond.map(|g| format!(", while group {g} behind it is intact")).unwrap_or_default();
    format!("the journal is corrupt in the middle: {damage}{beyond}. {ADVICE} to go on without everything behind that place")
}

/// Take up a journal, or refuse.
///
/// A bad end above the mark is what a crash leaves: it is cut and reported. Everything else that is not as it was
/// written is corruption: groups below the mark missing, damage with an intact group behind it, damage in a file that
/// was complete. Refused before anything is written, unless `accept_loss`: then the journal is cut there too.
///
/// # Errors
/// Why it is refused.
pub fn recover(disk: &mut impl Disk, accept_loss: bool) -> Result<Recovered, RecoverError> {
    let survey = disk.survey()?;
    let mark = disk.mark()?;
    if !accept_loss {
        judge(&survey, mark)?;
    }
    if let Some(damage) = &survey.damage {
        disk.cut(damage)?;
    }
    let group = disk.load()?;
    // The engine must have what the survey saw: it could have cut more by itself, silently.
    let expected = mark.max(survey.last.unwrap_or(0));
    if group >= expected {
        return Ok(Recovered { group, mark, cut: survey.damage });
    }
    if !accept_loss {
        return Err(RecoverError::Lost { mark: expected, found: group, damage: survey.damage.map(Box::new) });
    }
    // A number is never used twice, and the next start must find what the mark asks for.
    disk.append(expected + 1, &[])?;
    disk.sync()?;
    Ok(Recovered { group: expected + 1, mark, cut: survey.damage })
}

fn judge(survey: &Survey, mark: u64) -> Result<(), RecoverError> {
    if let Some(damage) = survey.damage.as_ref().filter(|d| d.sealed || d.beyond.is_some()) {
        return Err(RecoverError::Middle(Box::new(damage.clone())));
    }
    match survey.last {
        Some(found) if found < mark => Err(RecoverError::Lost { mark, found, damage: survey.damage.clone().map(Box::new) }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn damage(beyond: Option<u64>, sealed: bool) -> Option<Damage> {
        Some(Damage { file: "1.jnl".into(), at: 10, bytes: 20, what: "checksum".into(), beyond, sealed })
    }

    #[test]
    fn the_mark_decides() {
        let ok = |last, damage, mark| judge(&Survey { last, damage }, mark).is_ok();
        for (last, damage, mark, want) in [
            (Some(9), None, 9, true),
            (Some(9), None, 5, true),
            (None, None, 9, true), // only the tables can tell; checked when they are loaded
            (Some(8), None, 9, false),
            (Some(9), damage(None, false), 9, true),
            (Some(8), damage(None, false), 9, false),
            (Some(9), damage(Some(11), false), 9, false),
            (Some(9), damage(None, true), 9, false),
            (None, damage(None, false), 9, true),
            (None, damage(Some(12), false), 9, false),
        ] {
            assert_eq!(ok(last, damage.clone(), mark), want, "{last:?} {damage:?} {mark}");
        }
    }

    #[test]
    fn the_words_say_what_to_do() {
        let words = judge(&Survey { last: Some(8), damage: damage(None, false) }, 9).unwrap_err().to_string();
        assert!(words.contains("group 9 was durable") && words.contains("only groups up to 8"), "{words}");
        assert!(words.contains("checksum in 1.jnl, 20 bytes from offset 10") && words.contains("Restore a backup"), "{words}");
        assert!(words.contains("accept-loss") && words.contains("No data was discarded"), "{words}");
        let words = judge(&Survey { last: Some(9), damage: damage(Some(11), false) }, 9).unwrap_err().to_string();
        assert!(words.contains("group 11 behind it is intact"), "{words}");
    }
}
