//! fjall as the journal's disk.

use super::mark::MarkFile;
use super::scan;
use super::young::{Raw, Rows, Young, merged};
use crate::journal::{Damage, Disk, DiskError, Survey, Write};
use crate::source::Source;
use crate::{dir, format};
use fjall::{
    CompressionType, Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch as WriteBatch, PersistMode, Readable, Slice, Snapshot,
};
use std::fs::OpenOptions;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use store::{Page, Read, StoreError};
use types::planted::{self, Bug};
use types::{Collection, Epoch, ShardId};

const CELLS: &str = "cells";

/// What fjall is told.
#[derive(Clone, Debug)]
pub(crate) struct Tuning {
    pub cache_bytes: u64,
    pub memory_bytes_max: u64,
    pub journal_bytes_max: u64,
    /// See [`super::YOUNG_BYTES_MAX`].
    pub young_bytes_max: usize,
    pub workers: usize,
}

pub(crate) struct FjallDisk {
    dir: PathBuf,
    tuning: Tuning,
    mark: Arc<MarkFile>,
    open: Option<FjallSource>,
    pending: Option<Pending>,
    scratch: Vec<u8>,
    raw: Raw,
    rows: Rows,
}

/// A group that was appended, and what becomes of those that are young when it is durable.
struct Pending {
    batch: WriteBatch,
    group: u64,
    young: Option<Slice>,
    settles: usize,
}

/// The readable side, for the readers' threads.
#[derive(Clone)]
pub(crate) struct FjallSource {
    db: Database,
    cells: Keyspace,
    seen: Arc<RwLock<Seen>>,
}

/// What readers see, group by group: a cell that settles is in the tables' next moment and no longer among the young.
struct Seen {
    young: Young,
    tables: Snapshot,
}

fn error(e: impl std::fmt::Display) -> DiskError {
    DiskError(format!("engine: {e}"))
}

impl FjallDisk {
    /// A disk in `dir`, which is fjall's alone. Nothing is opened yet.
    pub(crate) fn new(dir: &Path, tuning: Tuning, mark: Arc<MarkFile>) -> FjallDisk {
        FjallDisk {
            dir: dir.to_owned(),
            mark,
            open: None,
            pending: None,
            scratch: Vec::new(),
            raw: Raw::default(),
            rows: Rows::new(tuning.young_bytes_max),
            tuning,
        }
    }

    /// The readable side. None before it is loaded.
    pub(crate) fn source(&self) -> Option<FjallSource> {
        self.open.clone()
    }

    fn source_ref(&self) -> Result<&FjallSource, DiskError> {
        self.open.as_ref().ok_or_else(|| error("not loaded"))
    }
}

impl Disk for FjallDisk {
    fn survey(&mut self) -> Result<Survey, DiskError> {
        if !self.dir.exists() {
            return Ok(Survey { last: Some(0), damage: None });
        }
        scan::survey(&self.dir)
    }

    fn mark(&mut self) -> Result<u64, DiskError> {
        self.mark.read()
    }

    fn cut(&mut self, damage: &Damage) -> Result<(), DiskError> {
        let path = Path::new(&damage.file);
        keep_aside(path).map_err(error)?;
        let number = |p: &Path| p.file_stem()?.to_str()?.parse::<u64>().ok();
        // What follows a cut (only if its loss was accepted) would leave a hole in the order.
        for (later, file) in scan::files(&self.dir)?.into_iter().rev() {
            if Some(later) > number(path) {
                keep_aside(&file).map_err(error)?;
                std::fs::remove_file(&file).map_err(error)?;
            }
        }
        let file = OpenOptions::new().write(true).open(path).map_err(error)?;
        file.set_len(damage.at).and_then(|()| file.sync_all()).map_err(error)
    }

    fn load(&mut self) -> Result<u64, DiskError> {
        let db = Database::builder(&self.dir)
            // fjall checks a journal by compressing again what it has decompressed: another version of the compressor
            // would make every journal corrupt.
            .journal_compression(CompressionType::None)
            .cache_size(self.tuning.cache_bytes)
            .max_journaling_size(self.tuning.journal_bytes_max)
            .worker_threads(self.tuning.workers)
            .open()
            .map_err(error)?;
        let memory = self.tuning.memory_bytes_max;
        let options = || KeyspaceCreateOptions::default().max_memtable_size(memory);
        let cells = db.keyspace(CELLS, options).map_err(error)?;
        // The engine syncs its files, but not the name of each folder that it makes.
        dir::sync_names(&self.dir).map_err(error)?;
        let stored = cells.get(format::GROUP_KEY).map_err(error)?;
        let group = match &stored {
            None => 0,
            Some(stored) => format::group_number(stored).ok_or_else(|| error("the group's number is not one"))?,
        };
        let mut young = Young::new(self.tuning.young_bytes_max);
        for guard in cells.prefix(format::YOUNG_KEY) {
            let (key, raw) = guard.into_inner().map_err(error)?;
            let number = format::young_number(&key).ok_or_else(|| error("a young group has no number"))?;
            young.take_back(number, raw).map_err(|what| error(format!("group {number}: {what}")))?;
        }
        let seen = Arc::new(RwLock::new(Seen { young, tables: db.snapshot() }));
        self.open = Some(FjallSource { db, cells, seen });
        Ok(group)
    }

    fn epoch(&mut self, shard: ShardId) -> Result<Option<Epoch>, DiskError> {
        let read = Read::one(format::epoch_partition(shard), format::EPOCH_CELL.into());
        let page = self.source_ref()?.read(&read).map_err(error)?;
        let Some(cell) = page.rows.first() else { return Ok(None) };
        let epoch = cell.value[..].try_into().map_err(|_| error("an epoch is not one"))?;
        Ok(Some(Epoch(u32::from_be_bytes(epoch))))
    }

    fn append(&mut self, group: u64, writes: &[Write<'_>]) -> Result<(), DiskError> {
        let FjallSource { db, cells, seen } = self.open.as_ref().ok_or_else(|| error("not loaded"))?;
        let young = &seen.read().unwrap_or_else(PoisonError::into_inner).young;
        let (key, raw) = (&mut self.scratch, &mut self.raw);
        raw.clear();
        let flush = if planted::is(Bug::NoSync) { PersistMode::Buffer } else { PersistMode::SyncData };
        let mut batch = WriteBatch::with_capacity(db.clone(), writes.len() + 2).durability(Some(flush));
        for write in writes {
            format::cell_key(write.partition, write.key, key);
            // What else there is lives long: rosters, sessions.
            let lives = write.partition.collection != Collection::Log || self.rows.live_after(write.value.is_some());
            match write.value {
                Some(value) if !lives || young.has(key) => raw.put(key, write.stamp, value),
                Some(value) => {
                    let head = format::value_head(key, write.stamp, value);
                    let mut parts = head.chain(&value[..]);
                    let stored = Slice::from_reader(&mut parts, head.len() + value.len()).map_err(error)?;
                    batch.insert(cells, &key[..], stored);
                }
                None if young.has(key) => raw.delete(key),
                None => batch.remove(cells, &key[..]),
            }
        }
        let raw = raw.finish();
        let settles = raw.as_ref().map_or(0, |raw| young.too_many(raw.len()));
        let (settled, were) = young.oldest(settles);
        for number in settled {
            batch.remove(cells, format::young_key(number));
        }
        let mut deleted: Vec<&[u8]> = Vec::new();
        for (key, stored) in were {
            match stored {
                Some(stored) => batch.insert(cells, key, stored),
                None => deleted.push(key),
            }
        }
        remove_settled(&mut batch, cells, deleted)?;
        if let Some(raw) = &raw {
            batch.insert(cells, format::young_key(group), raw.clone());
        }
        batch.insert(cells, format::GROUP_KEY, format::group_value(group));
        self.pending = Some(Pending { batch, group, young: raw, settles });
        Ok(())
    }

    fn sync(&mut self) -> Result<(), DiskError> {
        let Some(Pending { batch, group, young: raw, settles }) = self.pending.take() else { return Ok(()) };
        // fjall writes and flushes in one call, and makes the batch visible after the flush.
        batch.commit().map_err(error)?;
        let FjallSource { db, seen, .. } = self.source_ref()?;
        let mut seen = seen.write().unwrap_or_else(PoisonError::into_inner);
        seen.young.settled(settles);
        if let Some(raw) = raw {
            seen.young.add(group, raw);
        }
        seen.tables = db.snapshot();
        Ok(())
    }
}

/// Remove cells that were deleted while they were young. Most of them never settled, and the engine has nothing of them. A log's
/// rows are deleted many at a time, one behind the other: one look tells that there is nothing between the first and the last.
fn remove_settled(batch: &mut WriteBatch, cells: &Keyspace, mut deleted: Vec<&[u8]>) -> Result<(), DiskError> {
    deleted.sort_unstable();
    let partition = |key: &[u8]| format::split(key).map_or(0, |(partition, _)| partition.len());
    for run in deleted.chunk_by(|a, b| a[..partition(a)] == b[..partition(b)]) {
        if let [first, .., last] = run {
            let Some(there) = cells.range(*first..=*last).next() else { continue };
            there.key().map_err(error)?;
        }
        for key in run {
            if cells.contains_key(key).map_err(error)? {
                batch.remove(cells, *key);
            }
        }
    }
    Ok(())
}

/// Copy a journal file to a name that fjall does not read.
fn keep_aside(path: &Path) -> std::io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    for n in 0..1_000 {
        let aside = path.with_file_name(format!("{name}.damaged.{n}"));
        if !aside.exists() {
            std::fs::copy(path, &aside)?;
            return std::fs::File::open(&aside)?.sync_all();
        }
    }
    Err(std::io::Error::other("a thousand damaged journals are kept already"))
}

impl Source for FjallSource {
    fn read(&self, read: &Read) -> Result<Page, StoreError> {
        let Some((from, to, prefix)) = format::bounds(read) else { return Ok(Page::default()) };
        let seen = self.seen.read().unwrap_or_else(PoisonError::into_inner);
        let young = seen.young.page(read, &from[..prefix]);
        let tables = seen.tables.clone();
        drop(seen);
        let cells = tables.range(&self.cells, from..to);
        let pair = |guard: fjall::Guard| guard.into_inner().map_err(|e| e.to_string());
        if read.reverse {
            format::page(read, prefix, merged(young, cells.rev().map(pair), true))
        } else {
            format::page(read, prefix, merged(young, cells.map(pair), false))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};
    use std::collections::BTreeMap;
    use types::Partition;

    const YOUNG_BYTES: usize = 4 * 1024;

    fn open(dir: &Path) -> FjallDisk {
        let tuning = Tuning {
            cache_bytes: 1 << 20,
            memory_bytes_max: 1 << 20,
            journal_bytes_max: 64 << 20,
            young_bytes_max: YOUNG_BYTES,
            workers: 1,
        };
        let mark = dir.join("mark");
        let mark = if mark.exists() { MarkFile::open(&mark) } else { MarkFile::create(&mark, [0; 16]) };
        FjallDisk::new(&dir.join("cells"), tuning, Arc::new(mark.unwrap()))
    }

    fn partition(rng: &mut SmallRng) -> Partition {
        let collection = if rng.random_bool(0.5) { Collection::Log } else { Collection::Account };
        // One's key begins as the other's.
        Partition { collection, key: Bytes::from_static([&b"a"[..], b"ab"][rng.random_range(0..2)]) }
    }

    fn key(rng: &mut SmallRng) -> Bytes {
        let n: u8 = rng.random_range(0..40);
        if n == 0 { Bytes::new() } else { vec![n; 1 + usize::from(n)].into() }
    }

    /// Groups of everything in any order, pages of all kinds between them, and starts: always what a map would hold.
    #[test]
    fn young_or_settled_it_is_one_store() {
        for seed in 0..12 {
            let rng = &mut SmallRng::seed_from_u64(seed);
            // Rows that die and rows that live take different ways.
            let deletes = [0.1, 0.5, 0.9][seed as usize % 3];
            let dir = tempfile::tempdir().unwrap();
            let mut disk = open(dir.path());
            let mut group = disk.load().unwrap();
            let mut model: BTreeMap<(u8, Bytes, Bytes), (u64, Bytes)> = BTreeMap::new();
            let mut settled = false;
            for step in 0..250 {
                if rng.random_bool(0.02) {
                    drop(disk);
                    disk = open(dir.path());
                    assert_eq!(disk.survey().unwrap().damage, None);
                    assert_eq!(disk.load().unwrap(), group, "seed {seed} step {step}");
                }
                let mut cells = BTreeMap::new();
                for _ in 0..rng.random_range(0..12) {
                    let value = (!rng.random_bool(deletes)).then(|| Bytes::from(vec![step as u8; rng.random_range(0..300)]));
                    cells.insert((partition(rng), key(rng)), (step, value));
                }
                let write = |((partition, key), (stamp, value)): (&'_ (Partition, Bytes), &'_ (u64, Option<Bytes>))| {
                    let (partition, key, value) = (partition.clone(), key.clone(), value.clone());
                    (partition, key, *stamp, value)
                };
                let owned: Vec<_> = cells.iter().map(write).collect();
                let writes: Vec<Write<'_>> =
                    owned.iter().map(|(p, k, stamp, v)| Write { partition: p, key: k, stamp: *stamp, value: v.as_ref() }).collect();
                group += 1;
                disk.append(group, &writes).unwrap();
                settled |= disk.pending.as_ref().unwrap().settles > 0;
                disk.sync().unwrap();
                for (partition, key, stamp, value) in owned {
                    let place = (partition.collection as u8, partition.key, key);
                    match value {
                        Some(value) => model.insert(place, (stamp, value)),
                        None => model.remove(&place),
                    };
                }
                let mut read = Read::all(partition(rng));
                read.limit = rng.random_range(1..60);
                read.reverse = rng.random();
                read.from = if rng.random() { key(rng) } else { Bytes::new() };
                read.to = rng.random::<bool>().then(|| key(rng));
                let page = disk.source().unwrap().read(&read).unwrap();
                let mut want: Vec<_> = model
                    .iter()
                    .filter(|((collection, p, _), _)| *collection == read.partition.collection as u8 && *p == read.partition.key)
                    .map(|((_, _, key), (stamp, value))| (key.clone(), *stamp, value.clone()))
                    .filter(|(key, ..)| *key >= read.from && read.to.as_ref().is_none_or(|to| key < to))
                    .collect();
                if read.reverse {
                    want.reverse();
                }
                let more = want.len() > read.limit;
                want.truncate(read.limit);
                let found: Vec<_> = page.rows.into_iter().map(|cell| (cell.key, cell.stamp, cell.value)).collect();
                assert_eq!((found, page.more), (want, more), "seed {seed} step {step} {read:?}");
            }
            assert!(settled, "seed {seed}: nothing settled");
            let bytes = disk.source().unwrap().seen.read().unwrap().young.bytes();
            assert!(bytes <= YOUNG_BYTES + 8 * 1024, "{bytes}");
        }
    }
}
