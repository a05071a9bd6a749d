//! fjall as the journal's disk.

use super::mark::MarkFile;
use super::scan;
use crate::journal::{Damage, Disk, DiskError, Survey, Write};
use crate::source::Source;
use crate::{dir, format};
use fjall::{CompressionType, Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch as WriteBatch, PersistMode, Readable, Slice};
use std::fs::OpenOptions;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use store::{Page, Read, StoreError};
use types::planted::{self, Bug};
use types::{Epoch, ShardId};

const CELLS: &str = "cells";

/// What fjall is told.
#[derive(Clone, Debug)]
pub(crate) struct Tuning {
    pub cache_bytes: u64,
    pub memory_bytes_max: u64,
    pub journal_bytes_max: u64,
    pub workers: usize,
}

pub(crate) struct FjallDisk {
    dir: PathBuf,
    tuning: Tuning,
    mark: Arc<MarkFile>,
    open: Option<FjallSource>,
    pending: Option<WriteBatch>,
    scratch: Vec<u8>,
}

/// The readable side, for the readers' threads.
#[derive(Clone)]
pub(crate) struct FjallSource {
    db: Database,
    cells: Keyspace,
}

fn error(e: impl std::fmt::Display) -> DiskError {
    DiskError(format!("engine: {e}"))
}

impl FjallDisk {
    /// A disk in `dir`, which is fjall's alone. Nothing is opened yet.
    pub(crate) fn new(dir: &Path, tuning: Tuning, mark: Arc<MarkFile>) -> FjallDisk {
        FjallDisk { dir: dir.to_owned(), tuning, mark, open: None, pending: None, scratch: Vec::new() }
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
        self.open = Some(FjallSource { db, cells });
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
        let mut key = std::mem::take(&mut self.scratch);
        let FjallSource { db, cells } = self.source_ref()?;
        let flush = if planted::is(Bug::NoSync) { PersistMode::Buffer } else { PersistMode::SyncData };
        let mut batch = WriteBatch::with_capacity(db.clone(), writes.len() + 1).durability(Some(flush));
        for write in writes {
            format::cell_key(write.partition, write.key, &mut key);
            match write.value {
                None => batch.remove(cells, &key[..]),
                Some(value) => {
                    let head = format::value_head(&key, write.stamp, value);
                    let mut parts = head.chain(&value[..]);
                    let stored = Slice::from_reader(&mut parts, head.len() + value.len()).map_err(error)?;
                    batch.insert(cells, &key[..], stored);
                }
            }
        }
        batch.insert(cells, format::GROUP_KEY, format::group_value(group));
        self.scratch = key;
        self.pending = Some(batch);
        Ok(())
    }

    fn sync(&mut self) -> Result<(), DiskError> {
        // fjall writes and flushes in one call, and makes the batch visible after the flush.
        self.pending.take().map_or(Ok(()), |batch| batch.commit().map_err(error))
    }
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
        // A snapshot: fjall 3.1's `Keyspace::range` reads at no fixed moment, so it can see a part of a batch.
        let cells = self.db.snapshot().range(&self.cells, from..to);
        let pair = |guard: fjall::Guard| guard.into_inner().map_err(|e| e.to_string());
        if read.reverse { format::page(read, prefix, cells.rev().map(pair)) } else { format::page(read, prefix, cells.map(pair)) }
    }
}
