//! Groups, from entries to durable.

use super::{Disk, DiskError, Entry, Write};
use crate::format;
use bytes::Bytes;
use foldhash::fast::RandomState;
use std::collections::{BTreeMap, HashSet};
use store::{EpochConflict, PlaneId, decide_epoch};
use types::planted::{self, Bug};
use types::{Epoch, Op, Partition, ShardId, Ticket};

/// A group that became durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// Its number.
    pub group: u64,
    /// Its last ticket: all up to here are durable.
    pub durable: Ticket,
    /// What became of the epochs in it.
    pub epochs: Vec<(PlaneId, ShardId, Result<Epoch, EpochConflict>)>,
}

/// Writes groups to a disk, one at a time.
///
/// After an error it must not be used again: whether the group is durable is unknown, so the process ends and finds out
/// at its next start.
pub struct Committer<D> {
    disk: D,
    last: u64,
    epochs: BTreeMap<ShardId, Option<Epoch>>,
    under_way: Option<Done>,
}

impl<D: Disk> Committer<D> {
    /// Go on behind group `last`, on a disk that was loaded ([`super::recover`]).
    pub fn new(disk: D, last: u64) -> Committer<D> {
        Committer { disk, last, epochs: BTreeMap::new(), under_way: None }
    }

    /// The disk, for reading.
    pub fn disk(&self) -> &D {
        &self.disk
    }

    /// The disk, to write its mark or to damage it in a simulation.
    pub fn disk_mut(&mut self) -> &mut D {
        &mut self.disk
    }

    /// The disk as a crash finds it.
    pub fn into_disk(self) -> D {
        self.disk
    }

    /// Write the next group. `durable` is its last ticket.
    ///
    /// # Errors
    /// The disk's; the store has failed.
    pub fn begin(&mut self, durable: Ticket, entries: Vec<Entry>) -> Result<(), DiskError> {
        let mut done = Done { group: self.last + 1, durable, epochs: Vec::new() };
        let raised = self.raise(&entries, &mut done)?;
        let mut writes: Vec<Write<'_>> =
            raised.iter().map(|(partition, key, value, stamp)| Write { partition, key, stamp: *stamp, value: Some(value) }).collect();
        cells(&entries, &mut writes);
        let appended = self.disk.append(done.group, &writes);
        if !planted::is(Bug::ErrorIgnored) {
            appended?;
        }
        self.last = done.group;
        self.under_way = Some(done);
        Ok(())
    }

    /// Make it durable. None if no group was begun.
    ///
    /// # Errors
    /// The disk's; the store has failed.
    pub fn finish(&mut self) -> Result<Option<Done>, DiskError> {
        if self.under_way.is_some() && !planted::is(Bug::NoSync) {
            let synced = self.disk.sync();
            if !planted::is(Bug::ErrorIgnored) {
                synced?;
            }
        }
        Ok(self.under_way.take())
    }

    /// Decide the epochs of a group, in order, and say what is to be written for them.
    fn raise(&mut self, entries: &[Entry], done: &mut Done) -> Result<Vec<(Partition, Bytes, Bytes, u64)>, DiskError> {
        let mut raised = BTreeMap::new();
        for entry in entries {
            let Entry::Epoch { plane, shard, expected, to } = entry else { continue };
            let current = match self.epochs.get(shard) {
                Some(known) => *known,
                None => self.disk.epoch(*shard)?,
            };
            let result = decide_epoch(current, *expected, *to);
            self.epochs.insert(*shard, result.map_or_else(|conflict| conflict.current, Some));
            if let Ok(epoch) = result {
                raised.insert(*shard, epoch);
            }
            done.epochs.push((*plane, *shard, result));
        }
        let row = |(shard, epoch): (ShardId, Epoch)| {
            let value = Bytes::copy_from_slice(&epoch.0.to_be_bytes());
            (format::epoch_partition(shard), Bytes::from_static(format::EPOCH_CELL), value, u64::from(epoch.0) << 32)
        };
        Ok(raised.into_iter().map(row).collect())
    }
}

/// The cells of a group, in the order of writing: of several writes of a cell the last one, since the order decides.
fn cells<'a>(entries: &'a [Entry], writes: &mut Vec<Write<'a>>) {
    let ops: usize = entries.iter().map(|e| if let Entry::Batch { batch, .. } = e { batch.ops.len() } else { 0 }).sum();
    writes.reserve(ops);
    let from = writes.len();
    // Membership only: its order is never looked at.
    let room = if ops > 1 { ops } else { 0 };
    let mut seen: HashSet<(&Partition, &Bytes), RandomState> = HashSet::with_capacity_and_hasher(room, RandomState::default());
    for entry in entries.iter().rev() {
        let Entry::Batch { stamp, batch } = entry else { continue };
        for op in batch.ops.iter().rev() {
            if ops > 1 && !seen.insert((&batch.partition, op.key())) {
                continue;
            }
            let (key, value) = match op {
                Op::Put { key, value } => (key, Some(value)),
                Op::Delete { key } => (key, None),
            };
            writes.push(Write { partition: &batch.partition, key, stamp: *stamp, value });
        }
    }
    writes[from..].reverse();
}
