//! What an entity asks its store to write: batches within one partition.

use bytes::Bytes;
use smallvec::SmallVec;
use std::fmt;

/// A family of partitions. The number is part of the on-disk format and is never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Collection {
    /// One partition per account: keys, roster, settings, session rows, checkpoint, owed state forwards.
    Account = 1,
    /// One partition per bucket of an entity's log: rows, keyed by row number and epoch; one for its seal.
    Log = 2,
    /// One partition per shard: entities with an open session, an unsettled outbox or a timer.
    Live = 3,
    /// One partition per shard: the accounts that exist.
    Index = 4,
    /// One partition per shard: the epoch of its owner (lightweight transactions on Cassandra).
    Epoch = 5,
}

impl Collection {
    /// All of them, for tools that walk a store.
    pub const ALL: [Collection; 5] = [Collection::Account, Collection::Log, Collection::Live, Collection::Index, Collection::Epoch];
}

/// A partition: the unit of atomicity and of ordered scans.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition {
    /// The family.
    pub collection: Collection,
    /// The partition's key, at most [`crate::limit::PARTITION_KEY_BYTES_MAX`].
    pub key: Bytes,
}

impl fmt::Debug for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}/{}", self.collection, self.key.escape_ascii())
    }
}

/// One cell to write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Op {
    /// Set `key` to `value`.
    Put {
        /// Key within the partition, at most [`crate::limit::CELL_KEY_BYTES_MAX`].
        key: Bytes,
        /// At most [`crate::limit::CELL_VALUE_BYTES_MAX`].
        value: Bytes,
    },
    /// Remove `key`; it need not exist.
    Delete {
        /// Key within the partition.
        key: Bytes,
    },
}

impl Op {
    /// The cell's key.
    pub fn key(&self) -> &Bytes {
        match self {
            Op::Put { key, .. } | Op::Delete { key } => key,
        }
    }
}

/// Mostly there is one.
pub type Ops = SmallVec<[Op; 1]>;

/// Writes within one partition, applied atomically; the last operation per key counts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Batch {
    /// Where.
    pub partition: Partition,
    /// What, in order.
    pub ops: Ops,
}

/// A place in a node's commit order. Zero is durable from the beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Ticket(pub u64);

impl Ticket {
    /// Depends on nothing.
    pub const NONE: Ticket = Ticket(0);
}
