//! A disk that forgets what was not flushed.

use crate::format;
use crate::journal::{Damage, Disk, DiskError, Survey, Write};
use rand::Rng;
use rand::rngs::SmallRng;
use std::collections::BTreeMap;
use store::{Page, Read, StoreError};
use types::{Epoch, ShardId};

const SECTOR: usize = 512;
const MAGIC: &[u8] = b"GRP1";
/// `magic ‖ length (4) ‖ crc32 (4) ‖ group (8)`, then the cells; the checksum covers group and cells.
const HEAD: usize = 20;
/// Flushed journal that is kept before it is folded into the tables.
const FOLD_BYTES: usize = 256 * 1024;
const REMOVED: u32 = u32::MAX;

type Table = BTreeMap<Vec<u8>, Vec<u8>>;

/// Journal, tables and mark in memory. The journal's bytes are real, so that tearing them is.
#[derive(Default)]
pub(super) struct SimDisk {
    /// Flushed.
    journal: Vec<u8>,
    /// Written, not flushed.
    fresh: Vec<u8>,
    tables: Table,
    folded: u64,
    mark: u64,
    /// What can be read: tables and the journal, flushed or not.
    cells: Table,
    group: u64,
    /// The next of these fails.
    pub fail_append: bool,
    pub fail_sync: bool,
}

impl SimDisk {
    pub fn write_mark(&mut self, group: u64) {
        self.mark = group;
    }

    /// The machine stops: what was not flushed is lost, whole, or torn, as `rng` says.
    pub fn crash(&mut self, rng: &mut SmallRng) {
        let mut fresh = std::mem::take(&mut self.fresh);
        match rng.random_range(0..4) {
            0 => fresh.clear(),
            1 => {}
            2 => fresh.truncate(rng.random_range(0..=fresh.len())),
            _ => {
                // Sectors reach the disk in any order; the others are as the file was allocated.
                let start = self.journal.len();
                for at in (start / SECTOR..=(start + fresh.len()) / SECTOR).map(|sector| sector * SECTOR) {
                    if rng.random_bool(0.5) {
                        let from = at.max(start) - start;
                        let to = (at + SECTOR - start).min(fresh.len());
                        fresh[from.min(to)..to].fill(0);
                    }
                }
            }
        }
        self.journal.append(&mut fresh);
        self.cells.clear();
        self.group = 0;
        (self.fail_append, self.fail_sync) = (false, false);
    }

    /// Overwrite flushed bytes. False if there are none. Only the next start notices.
    pub fn damage(&mut self, rng: &mut SmallRng) -> bool {
        if self.journal.is_empty() {
            return false;
        }
        let at = rng.random_range(0..self.journal.len());
        self.journal[at] ^= rng.random_range(1..=255u8);
        true
    }

    pub fn read(&self, read: &Read) -> Result<Page, StoreError> {
        let Some((from, to, prefix)) = format::bounds(read) else { return Ok(Page::default()) };
        let range = self.cells.range(from..to).map(Ok::<_, String>);
        if read.reverse { format::page(read, prefix, range.rev()) } else { format::page(read, prefix, range) }
    }

    /// Every cell's key as it is stored.
    pub fn keys(&self) -> impl Iterator<Item = &Vec<u8>> {
        self.cells.keys()
    }

    fn fold(&mut self) {
        let journal = std::mem::take(&mut self.journal);
        let mut at = 0;
        while let Ok((len, group)) = parse(&journal[at..], |key, value| set(&mut self.tables, key, value)) {
            at += len;
            self.folded = group;
        }
    }
}

fn set(table: &mut Table, key: &[u8], value: Option<&[u8]>) {
    match value {
        Some(value) => drop(table.insert(key.to_vec(), value.to_vec())),
        None => drop(table.remove(key)),
    }
}

impl Disk for SimDisk {
    fn survey(&mut self) -> Result<Survey, DiskError> {
        let (mut at, mut last) = (0, None);
        let what = loop {
            match parse(&self.journal[at..], |_, _| {}) {
                Ok((len, group)) => {
                    at += len;
                    last = Some(group);
                }
                Err(what) => break what,
            }
        };
        let rest = &self.journal[at..];
        let Some(end) = rest.iter().rposition(|b| *b != 0) else { return Ok(Survey { last, damage: None }) };
        let beyond = (1..rest.len()).find_map(|n| parse(&rest[n..], |_, _| {}).ok()).map(|(_, group)| group);
        let damage =
            Damage { file: "simulated journal".into(), at: at as u64, bytes: end as u64 + 1, what: what.into(), beyond, sealed: false };
        Ok(Survey { last, damage: Some(damage) })
    }

    fn mark(&mut self) -> Result<u64, DiskError> {
        Ok(self.mark)
    }

    fn cut(&mut self, damage: &Damage) -> Result<(), DiskError> {
        self.journal.truncate(damage.at as usize);
        Ok(())
    }

    fn load(&mut self) -> Result<u64, DiskError> {
        self.cells = self.tables.clone();
        self.group = self.folded;
        let mut at = 0;
        while let Ok((len, group)) = parse(&self.journal[at..], |key, value| set(&mut self.cells, key, value)) {
            at += len;
            self.group = group;
        }
        // Only zeros are left, or what was cut.
        self.journal.truncate(at);
        Ok(self.group)
    }

    fn epoch(&mut self, shard: ShardId) -> Result<Option<Epoch>, DiskError> {
        let read = Read::one(format::epoch_partition(shard), format::EPOCH_CELL.into());
        let page = self.read(&read).map_err(|e| DiskError(e.to_string()))?;
        let Some(cell) = page.rows.first() else { return Ok(None) };
        let epoch = cell.value[..].try_into().map_err(|_| DiskError("an epoch is not one".into()))?;
        Ok(Some(Epoch(u32::from_be_bytes(epoch))))
    }

    fn append(&mut self, group: u64, writes: &[Write<'_>]) -> Result<(), DiskError> {
        let mut body = group.to_le_bytes().to_vec();
        let mut key = Vec::new();
        for write in writes {
            format::cell_key(write.partition, write.key, &mut key);
            body.extend_from_slice(&(key.len() as u32).to_le_bytes());
            match write.value {
                None => {
                    body.extend_from_slice(&REMOVED.to_le_bytes());
                    body.extend_from_slice(&key);
                }
                Some(value) => {
                    let head = format::value_head(&key, write.stamp, value);
                    body.extend_from_slice(&((head.len() + value.len()) as u32).to_le_bytes());
                    body.extend_from_slice(&key);
                    body.extend_from_slice(&head);
                    body.extend_from_slice(value);
                }
            }
        }
        let start = self.fresh.len();
        self.fresh.extend_from_slice(MAGIC);
        self.fresh.extend_from_slice(&((body.len() - 8) as u32).to_le_bytes());
        self.fresh.extend_from_slice(&crc32fast::hash(&body).to_le_bytes());
        self.fresh.extend_from_slice(&body);
        // A caller that did not look at the result would go on with what it believes to have written.
        let applied = parse(&self.fresh[start..], |key, value| set(&mut self.cells, key, value));
        self.group = applied.map_err(|e| DiskError(e.into()))?.1;
        if std::mem::take(&mut self.fail_append) {
            self.fresh.truncate(start + body.len() / 2);
            return Err(DiskError("simulated: no space left".into()));
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), DiskError> {
        if std::mem::take(&mut self.fail_sync) {
            // The kernel forgets what it could not write, and the next flush succeeds.
            self.fresh.clear();
            return Err(DiskError("simulated: flush failed".into()));
        }
        self.journal.append(&mut self.fresh);
        if self.journal.len() > FOLD_BYTES {
            self.fold();
        }
        Ok(())
    }
}

/// One intact group at the start of `bytes`: its length and number. `cell` gets its cells, and nothing of a bad one.
fn parse(bytes: &[u8], mut cell: impl FnMut(&[u8], Option<&[u8]>)) -> Result<(usize, u64), &'static str> {
    let number = |at: usize| bytes.get(at..at + 4).map(|b| b.iter().rev().fold(0u32, |n, b| n << 8 | u32::from(*b)));
    if bytes.get(..4) != Some(MAGIC) {
        return Err("no group begins there");
    }
    let len = number(4).ok_or("ends within a group's head")? as usize;
    let body = bytes.get(12..HEAD + len).ok_or("ends within a group")?;
    if Some(crc32fast::hash(body)) != number(8) {
        return Err("checksum of a group does not match");
    }
    let mut at = HEAD;
    while at < HEAD + len {
        let (Some(key_len), Some(value_len)) = (number(at), number(at + 4)) else { return Err("ends within a cell") };
        let key_end = at + 8 + key_len as usize;
        let value_end = key_end + if value_len == REMOVED { 0 } else { value_len as usize };
        let (Some(key), Some(value)) = (bytes.get(at + 8..key_end), bytes.get(key_end..value_end)) else {
            return Err("ends within a cell");
        };
        cell(key, (value_len != REMOVED).then_some(value));
        at = value_end;
    }
    let group = format::group_number(&bytes[12..HEAD]).ok_or("no group number")?;
    Ok((HEAD + len, group))
}
