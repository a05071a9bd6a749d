//! Cells with timestamps, the way a replica keeps them.

use crate::{Cell, Page, Read};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Bound;
use types::{Op, Ops, Partition};

/// A cell's value, or its tombstone, and when it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Version {
    pub stamp: u64,
    pub value: Option<Bytes>,
}

impl Version {
    /// True if this one is kept and `other` is dropped: newest wins; then a delete; then the greater value.
    pub fn beats(&self, other: &Version) -> bool {
        let rank = |v: &Version| (v.stamp, v.value.is_none());
        (rank(self), &self.value) > (rank(other), &other.value)
    }
}

/// The cells of one partition, tombstones included.
pub(super) type Row = BTreeMap<Bytes, Version>;

/// All partitions of one replica.
#[derive(Clone, Debug, Default)]
pub(super) struct Cells {
    partitions: BTreeMap<Partition, Row>,
}

impl Cells {
    /// Writes that decide among themselves by their stamps.
    pub fn merge<'a>(&mut self, partition: &Partition, cells: impl IntoIterator<Item = (&'a Bytes, &'a Version)>) {
        let row = self.partitions.entry(partition.clone()).or_default();
        for (key, version) in cells {
            match row.get_mut(key) {
                Some(old) if !version.beats(old) => {}
                Some(old) => *old = version.clone(),
                None => {
                    row.insert(key.clone(), version.clone());
                }
            }
        }
    }

    /// Writes whose order decides.
    pub fn overwrite(&mut self, partition: &Partition, stamp: u64, ops: &[Op]) {
        let row = self.partitions.entry(partition.clone()).or_default();
        for op in ops {
            match op {
                Op::Put { key, value } => {
                    row.insert(key.clone(), Version { stamp, value: Some(value.clone()) });
                }
                Op::Delete { key } => {
                    row.remove(key);
                }
            }
        }
        if row.is_empty() {
            self.partitions.remove(partition);
        }
    }

    /// The versions within the bounds of `read`, tombstones included, whatever its limit.
    pub fn slice(&self, read: &Read) -> Row {
        let Some(row) = self.partitions.get(&read.partition) else { return Row::new() };
        range(row, read).map(|(k, v)| (k.clone(), v.clone())).collect()
    }

    /// What `read` finds here.
    pub fn scan(&self, read: &Read) -> Page {
        self.partitions.get(&read.partition).map(|row| page(row, read)).unwrap_or_default()
    }

    /// A partition as it is.
    pub fn row(&self, partition: &Partition) -> Option<&Row> {
        self.partitions.get(partition)
    }

    /// Every partition that was written to.
    pub fn partitions(&self) -> impl Iterator<Item = &Partition> {
        self.partitions.keys()
    }
}

fn range<'a>(row: &'a Row, read: &Read) -> Box<dyn DoubleEndedIterator<Item = (&'a Bytes, &'a Version)> + 'a> {
    let to = match &read.to {
        // A range whose end is before its start is empty; the map would panic.
        Some(to) if *to <= read.from => return Box::new(std::iter::empty()),
        Some(to) => Bound::Excluded(to.clone()),
        None => Bound::Unbounded,
    };
    Box::new(row.range((Bound::Included(read.from.clone()), to)))
}

/// The live cells of `row` within the bounds and limit of `read`.
pub(super) fn page(row: &Row, read: &Read) -> Page {
    let live = range(row, read)
        .filter_map(|(key, version)| version.value.clone().map(|value| Cell { key: key.clone(), value, stamp: version.stamp }));
    if read.reverse { take(live.rev(), read.limit) } else { take(live, read.limit) }
}

fn take(mut cells: impl Iterator<Item = Cell>, limit: usize) -> Page {
    let rows = cells.by_ref().take(limit).collect();
    Page { rows, more: cells.next().is_some() }
}

/// The last operation per key, as versions of one stamp.
pub(super) fn versions(stamp: u64, ops: Ops) -> Row {
    ops.into_iter()
        .map(|op| match op {
            Op::Put { key, value } => (key, Version { stamp, value: Some(value) }),
            Op::Delete { key } => (key, Version { stamp, value: None }),
        })
        .collect()
}
