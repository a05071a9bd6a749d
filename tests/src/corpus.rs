//! Bad input as data: what is fed to a running server, on which level, and what must come of it.
//!
//! `tests/corpus/README.md` describes the files. [`Group::read_all`] reads them; [`run`](run::run) starts a server for each
//! group, feeds each entry whole, byte by byte and cut at random, and looks after each whether the server is well: a login, a
//! message, two clients that chat all the while, the log, and the memory at the end of the group.

mod canary;
mod feed;
mod outcome;
mod reach;
pub mod run;
mod template;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// How far a connection has come before an entry is fed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Connected to the port for STARTTLS; nothing is sent yet.
    Tcp,
    /// Connected to the port for direct TLS; nothing is sent yet, no TLS either.
    Direct,
    /// A stream header is due: in the clear, and inside direct TLS.
    Start,
    /// A stream is open, in the clear.
    Open,
    /// `<proceed/>` has come; TLS is due.
    Proceed,
    /// TLS by STARTTLS is done; a stream header is due, the second one.
    Secured,
    /// A stream is open inside TLS.
    Tls,
    /// Logged in; a stream header is due.
    Restart,
    /// Logged in, and a stream is open.
    Auth,
    /// A resource is bound.
    Bound,
    /// The same with stream management that allows resumption.
    Managed,
    /// Connected to the admin interface.
    Http,
}

impl Level {
    /// Whether the level can be reached by STARTTLS or in the clear, and by direct TLS.
    fn has_both_ways(self) -> bool {
        use Level::*;
        matches!(self, Start | Tls | Restart | Auth | Bound | Managed)
    }

    fn is_bound(self) -> bool {
        matches!(self, Level::Bound | Level::Managed)
    }
}

/// How often or how many, in CI and in the long form.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Amount {
    /// In CI.
    pub ci: u32,
    /// In the long form.
    pub long: u32,
}

/// One input, or several of one kind.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The row, and a letter where a row has several entries.
    pub id: String,
    /// What it is.
    pub words: String,
    /// Where it is fed.
    pub at: Level,
    /// What is fed: a template.
    pub send: String,
    /// With these, the entry is fed once for each, which stands for `{each}` in `send`.
    #[serde(default)]
    pub each: Vec<String>,
    /// The outcome.
    pub expect: String,
    /// What the answers must hold, as canonical XML.
    #[serde(default)]
    pub sees: Vec<String>,
    /// What they must not hold.
    #[serde(default)]
    pub never: Vec<String>,
    /// The same for the peer, who is connected and available if it is named anywhere.
    #[serde(default)]
    pub peer_sees: Vec<String>,
    /// What the peer must not see.
    #[serde(default)]
    pub peer_never: Vec<String>,
    /// Why this is right, where the table leaves a choice.
    #[serde(default)]
    pub because: Option<String>,
    /// Configuration of a server for this entry, in TOML: lines of `[limits]`, then other tables.
    #[serde(default)]
    pub config: Option<String>,
    /// Fed whole alone: what comes later than the rest is another thing.
    #[serde(default)]
    pub at_once: bool,
    /// Fed so often, whole, one after the other.
    #[serde(default)]
    pub times: Option<Amount>,
    /// So many connections are fed it and stay open, before one more is fed it and its outcome counts.
    #[serde(default)]
    pub held: Option<Amount>,
    /// With `held`: KiB of the server's memory that one of them may cost.
    #[serde(default)]
    pub held_kib: Option<u64>,
}

impl Entry {
    fn texts(&self) -> impl Iterator<Item = &str> {
        [self.send.as_str()].into_iter().chain(self.each.iter().map(String::as_str))
    }

    fn needs_peer(&self) -> bool {
        let named = self.texts().any(|t| t.contains("{peer"));
        named || !self.peer_sees.is_empty() || !self.peer_never.is_empty()
    }

    /// The row of the table: the id without the letter behind it.
    fn row(&self) -> &str {
        self.id.trim_end_matches(|c: char| c.is_ascii_lowercase())
    }
}

/// A row that is proved by another test.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Elsewhere {
    /// The row.
    pub id: String,
    /// Which test, as a path from the root of the repository and a name.
    pub test: String,
}

/// A row that is not tested.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeftOut {
    /// The rows.
    pub ids: Vec<String>,
    /// Why.
    pub because: String,
}

/// A file of entries.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Its letter.
    pub group: String,
    /// What it is about.
    pub title: String,
    /// Ids of its rows; each has an entry, or stands in `left-out.toml`.
    pub rows: Vec<String>,
    /// Its entries.
    pub entry: Vec<Entry>,
}

/// `left-out.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Absent {
    /// Rows that other tests prove.
    pub elsewhere: Vec<Elsewhere>,
    /// Rows that nothing proves here.
    pub left_out: Vec<LeftOut>,
}

/// Where the files are.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

impl Group {
    /// Reads all groups.
    ///
    /// # Errors
    /// If a file is not as described.
    pub fn read_all() -> Result<Vec<Group>> {
        let mut files: Vec<PathBuf> = std::fs::read_dir(folder())?.map(|f| Ok(f?.path())).collect::<Result<_>>()?;
        files.retain(|f| f.extension().is_some_and(|e| e == "toml") && !f.ends_with("left-out.toml"));
        files.sort();
        files.iter().map(|f| toml::from_str(&std::fs::read_to_string(f)?).with_context(|| f.display().to_string())).collect()
    }
}

impl Absent {
    /// Reads the rows that have no entry.
    ///
    /// # Errors
    /// If the file is not as described.
    pub fn read() -> Result<Absent> {
        Ok(toml::from_str(&std::fs::read_to_string(folder().join("left-out.toml"))?)?)
    }
}

/// Checks that every row of every group has an entry or is said to be absent, and none is both.
///
/// # Errors
/// Says which.
pub fn check_rows(groups: &[Group], absent: &Absent) -> Result<()> {
    let mut gone: BTreeSet<&str> = BTreeSet::new();
    for id in absent.elsewhere.iter().map(|e| e.id.as_str()).chain(absent.left_out.iter().flat_map(|l| &l.ids).map(String::as_str)) {
        ensure!(gone.insert(id), "{id} is absent twice");
    }
    let mut ids = BTreeSet::new();
    for group in groups {
        for entry in &group.entry {
            ensure!(ids.insert(&entry.id), "{} is there twice", entry.id);
            ensure!(group.rows.iter().any(|r| r == entry.row()), "{}: group {} has no such row", entry.id, group.group);
        }
        for row in &group.rows {
            let has = group.entry.iter().any(|e| e.row() == row);
            // A row can be proved in part.
            ensure!(has || gone.contains(row.as_str()), "{row} has no entry and is not absent");
        }
    }
    Ok(())
}
