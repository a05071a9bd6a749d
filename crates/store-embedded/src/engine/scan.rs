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

/// What the journal in `dir` holds.
pub(crate) fn survey(dir: &Path) -> Result<Survey, DiskError> {
    let mut survey = Survey::default();
    let files = files(dir)?;
    for (n, (_, path)) in files.iter().enumerate() {
        let bytes = std::fs::read(path).map_err(|e| DiskError(format!("{}: {e}", path.display())))?;
        let found = scan(&bytes);
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

fn scan(bytes: &[u8]) -> Survey {
    let mut at = 0;
    let mut last = None;
    let what = loop {
        match batch(&bytes[at..]) {
            Ok((len, group)) => {
                at += len;
                last = group.or(last);
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
        beyond: beyond(&rest[..used], last),
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
    (1..rest.len()).filter(|at| rest[*at] == START && rest.get(at + START_BYTES).is_some_and(|t| *t == ITEM || *t == CLEAR)).find_map(
        |at| {
            let (_, group) = batch(&rest[at..]).ok()?;
            group.filter(|g| last.is_none_or(|last| *g > last))
        },
    )
}

/// One intact batch at the start of `bytes`: its length and the group it names, if any.
fn batch(bytes: &[u8]) -> Result<(usize, Option<u64>), &'static str> {
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
    Ok((at + 9 + TRAILER.len(), group))
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
