//! Reads fjall's journal files without touching them.
//!
//! fjall 3.1 cuts whatever does not parse, silently, wherever it stands (fjall-rs/fjall#311), and does so while it opens.
//! So the journal is judged before fjall sees it. The layout is that of fjall 3 (`journal/entry.rs`), numbers little
//! endian: a batch is `1 ‖ items (4) ‖ seqno (8)`, items `2 ‖ type (1) ‖ compression (1) ‖ keyspace (8) ‖ key length (2) ‖
//! value length (4) ‖ length on disk (4) ‖ key ‖ value` or `4 ‖ keyspace (8)`, then `3 ‖ xxh3 of the items (8) ‖ "FJL\x03"`.
//! A test writes with fjall and reads with this, so a change of layout is noticed.

use crate::format;
use crate::journal::{Damage, DiskError, Survey};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::xxh3_64;

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
const TRAILER: &[u8] = b"FJL\x03";
const ITEM_HEAD: usize = 21;
const START_BYTES: usize = 13;
/// A batch's sequence number, which no checksum covers. So many nobody has written.
const SEQNO_MAX: u64 = 1 << 56;

/// fjall's journal files in a directory, oldest first. Empty if there is no directory.
pub(crate) fn files(dir: &Path) -> Result<Vec<(u64, PathBuf)>, DiskError> {
    let mut found = Vec::new();
    if !dir.exists() {
        return Ok(found);
    }
    let error = |e: std::io::Error| DiskError(format!("{}: {e}", dir.display()));
    for entry in std::fs::read_dir(dir).map_err(error)? {
        let path = entry.map_err(error)?.path();
        let number = path.extension().is_some_and(|e| e == "jnl").then(|| path.file_stem()?.to_str()?.parse::<u64>().ok()).flatten();
        if let Some(number) = number {
            found.push((number, path));
        }
    }
    found.sort();
    Ok(found)
}

/// What fjall's journal in `dir` holds, without touching it: what every start judges.
///
/// # Errors
/// A file cannot be read.
pub fn survey(dir: &Path) -> Result<Survey, DiskError> {
    let mut survey = Survey::default();
    let files = files(dir)?;
    let mut seqno = None;
    for (n, (_, path)) in files.iter().enumerate() {
        let bytes = std::fs::read(path).map_err(|e| DiskError(format!("{}: {e}", path.display())))?;
        let found = scan(&bytes, survey.last, &mut seqno);
        survey.last = found.last.or(survey.last);
        if let Some(mut damage) = found.damage {
            damage.file = path.display().to_string();
            damage.sealed = n + 1 < files.len();
            survey.damage = Some(damage);
            break;
        }
    }
    Ok(survey)
}

/// One file. `before` is the newest group of the files before it, `seqno` the newest sequence number.
fn scan(bytes: &[u8], before: Option<u64>, seqno: &mut Option<u64>) -> Survey {
    let mut at = 0;
    let mut last = None;
    let what = loop {
        match batch(&bytes[at..]).and_then(|batch| batch.follows(last, before, *seqno)) {
            Ok(batch) => {
                at += batch.len;
                last = batch.group.or(last);
                *seqno = Some(batch.seqno);
            }
            Err(what) => break what,
        }
    };
    let rest = &bytes[at..];
    // fjall allocates a journal in advance: zeros up to the end are no damage.
    let used = used(rest);
    if used == 0 {
        return Survey { last, damage: None };
    }
    let damage = Damage {
        file: String::new(),
        at: at as u64,
        bytes: used as u64,
        what: what.to_owned(),
        beyond: beyond(&rest[..used], last.or(before)),
        sealed: false,
    };
    Survey { last, damage: Some(damage) }
}

/// Bytes up to the last one that is not zero. By blocks: there can be 64 MiB of zeros.
fn used(bytes: &[u8]) -> usize {
    const ZEROS: [u8; 4096] = [0; 4096];
    let mut end = bytes.len();
    for block in bytes.rchunks(ZEROS.len()) {
        if *block != ZEROS[..block.len()] {
            return end - block.len() + block.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
        }
        end -= block.len();
    }
    0
}

/// The number of an intact group somewhere in `rest`, later than `last`.
fn beyond(rest: &[u8], last: Option<u64>) -> Option<u64> {
    (0..rest.len()).filter(|at| rest[*at] == START && rest.get(at + START_BYTES).is_some_and(|t| *t == ITEM || *t == CLEAR)).find_map(
        |at| {
            let group = batch(&rest[at..]).ok()?.group;
            group.filter(|g| last.is_none_or(|last| *g > last))
        },
    )
}

/// An intact batch.
struct Batch {
    len: usize,
    seqno: u64,
    /// The group that it names, if any.
    group: Option<u64>,
    /// It holds more than that name.
    has_cells: bool,
}

impl Batch {
    /// The batch, if its group has the number that is due behind `last`, which stands in the same file. A group that
    /// replaced another one whole (a write that went to the wrong place) is intact, and the other one is missing all the same.
    fn follows(self, last: Option<u64>, before: Option<u64>, seqno: Option<u64>) -> Result<Batch, &'static str> {
        // Of two values of a cell the engine takes that with the greater number, so a wrong one could bring back an old value.
        if self.seqno >= SEQNO_MAX || seqno.is_some_and(|newest| self.seqno <= newest) {
            return Err("a sequence number does not grow");
        }
        match (self.group, last.or(before)) {
            (Some(group), Some(newest)) if group <= newest => Err("an earlier group stands there again"),
            // A start that accepted a loss has left numbers out, and says so with a group that holds nothing. Between files
            // the engine's tables may have what is not there.
            (Some(group), Some(newest)) if group - newest > 1 && last.is_some() && self.has_cells => Err("a group is missing there"),
            _ => Ok(self),
        }
    }
}

/// One intact batch at the start of `bytes`.
fn batch(bytes: &[u8]) -> Result<Batch, &'static str> {
    let (head, _) = bytes.split_at_checked(START_BYTES).ok_or("ends within a batch's head")?;
    if head[0] != START {
        return Err("no batch begins there");
    }
    let count = number(&head[1..5]);
    let mut at = START_BYTES;
    let mut group = None;
    for _ in 0..count {
        let rest = &bytes[at..];
        at += match rest.first() {
            Some(&ITEM) => {
                let head = rest.get(..ITEM_HEAD).ok_or("ends within an item's head")?;
                let key_len = number(&head[11..13]) as usize;
                let value_len = number(&head[17..21]) as usize;
                let body = rest.get(ITEM_HEAD..ITEM_HEAD + key_len + value_len).ok_or("ends within an item")?;
                if &body[..key_len] == format::GROUP_KEY {
                    group = format::group_number(&body[key_len..]);
                }
                ITEM_HEAD + key_len + value_len
            }
            Some(&CLEAR) if rest.len() >= 9 => 9,
            Some(_) => return Err("no item begins there"),
            None => return Err("ends within a batch"),
        };
    }
    let end = bytes.get(at..at + 9 + TRAILER.len()).ok_or("ends within a batch's end")?;
    if end[0] != END || &end[9..] != TRAILER {
        return Err("a batch has no end");
    }
    if xxh3_64(&bytes[START_BYTES..at]) != number(&end[1..9]) {
        return Err("checksum of a batch does not match");
    }
    let seqno = number(&head[5..]);
    Ok(Batch { seqno, len: at + 9 + TRAILER.len(), group, has_cells: count > 1 })
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_at_the_end_are_not_used() {
        for len in [1, 4_095, 4_096, 4_097, 10_000] {
            let mut bytes = vec![0; len];
            assert_eq!(used(&bytes), 0);
            for at in [0, 1, len / 2, len - 1] {
                bytes[at.min(len - 1)] = 7;
                let last = bytes.iter().rposition(|b| *b != 0).map_or(0, |n| n + 1);
                assert_eq!(used(&bytes), last, "{len} {at}");
            }
        }
        assert_eq!(used(&[]), 0);
    }
}
