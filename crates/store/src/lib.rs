//! The store contract: what an entity's writes are committed to before anybody hears of them.
//!
//! A wide-column store: `(collection, partition, key) → value`, ordered scans within a partition. A batch within one
//! partition is atomic and its last operation per key counts. Data words ([`types::Batch`], [`types::Op`],
//! [`types::Partition`], [`types::Ticket`]) are in `types`.
//!
//! This crate never does I/O, never starts a thread and never reads a clock. Start with [`Store`]; a new
//! implementation starts with [`conformance`], a test with [`memory::Plain`], a simulation with [`memory::Hostile`].

pub mod conformance;
pub mod memory;

use bytes::Bytes;
use std::time::Duration;
use types::{Batch, Epoch, Partition, ShardId, Ticket};

/// How the commits of one node are ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// One order over all commits of this node: a ticket is a place in it. Of two writes of a cell the later one counts.
    Journal,
    /// Each batch by itself (Cassandra). Of two writes of a cell the one with the higher stamp counts; of equal stamps
    /// a delete beats a put and the greater value beats the smaller.
    PerBatch,
}

/// A client of the store: one plane of shards. Never reused while the store lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PlaneId(pub u32);

/// Where a plane's completions go.
///
/// Called on any thread (a writer's, a reader's, for a refused read also the caller's), for one plane in order. It must
/// not block and must not call the store: it hands over and returns.
pub type Sink = Box<dyn Fn(Completion) + Send + Sync>;

/// Whether there is room for new durable work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Go on.
    Ok,
    /// The queue of commits is past its high-water mark. Refuse new durable work with `resource-constraint`; a plane
    /// that commits regardless is held back (its call blocks) once the queue is full.
    Busy,
    /// Less space than the low-water mark. Refuse new durable work with `resource-constraint`; what is under way goes on.
    LowSpace,
    /// A commit failed: nothing more will become durable and the process ends.
    Failed,
}

impl Health {
    /// True if new durable work may be taken.
    pub fn takes_work(self) -> bool {
        self == Health::Ok
    }
}

/// An ordered scan of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// Where.
    pub partition: Partition,
    /// First key, inclusive. Empty: from the first one.
    pub from: Bytes,
    /// Bound, exclusive; none: to the end.
    pub to: Option<Bytes>,
    /// Rows at most. Zero gives none, and `more` says whether there is one.
    pub limit: usize,
    /// From the greatest key of the range down to the smallest.
    pub reverse: bool,
}

impl Read {
    /// The whole partition, from its smallest key.
    pub fn all(partition: Partition) -> Read {
        Read { partition, from: Bytes::new(), to: None, limit: usize::MAX, reverse: false }
    }

    /// One cell.
    pub fn one(partition: Partition, key: Bytes) -> Read {
        let mut to = Vec::with_capacity(key.len() + 1);
        to.extend_from_slice(&key);
        to.push(0);
        Read { partition, from: key, to: Some(to.into()), limit: 1, reverse: false }
    }

    /// Every cell whose key begins with `prefix`.
    pub fn prefix(partition: Partition, prefix: Bytes) -> Read {
        let to = after_prefix(&prefix);
        Read { partition, from: prefix, to, limit: usize::MAX, reverse: false }
    }

    /// True if `key` is within the bounds.
    pub fn contains(&self, key: &[u8]) -> bool {
        key >= &self.from[..] && self.to.as_ref().is_none_or(|to| key < &to[..])
    }
}

/// The smallest key greater than every key that begins with `prefix`; none if there is none.
fn after_prefix(prefix: &[u8]) -> Option<Bytes> {
    let last = prefix.iter().rposition(|b| *b != u8::MAX)?;
    let mut to = prefix[..=last].to_vec();
    to[last] += 1;
    Some(to.into())
}

/// One cell as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    /// Its key within the partition.
    pub key: Bytes,
    /// Its value.
    pub value: Bytes,
    /// The stamp of the batch that wrote it.
    pub stamp: u64,
}

/// What a [`Read`] found.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Page {
    /// In the order asked for, `limit` at most.
    pub rows: Vec<Cell>,
    /// There is at least one row more within the bounds.
    pub more: bool,
}

/// Why a read has no page.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// No quorum answered in time. Ask again later.
    #[error("the store did not answer in time")]
    Timeout,
    /// Too many reads wait. Ask again later.
    #[error("too many reads wait")]
    Busy,
    /// What is on disk does not match its checksum. Asking again will not help.
    #[error("corrupt cell in {partition}: {what}")]
    Corrupt {
        /// Where.
        partition: String,
        /// What does not match.
        what: String,
    },
    /// The store has failed and the process is about to end.
    #[error("the store has failed: {0}")]
    Failed(String),
}

/// The epoch of a shard is not the expected one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the shard's epoch is {current:?}")]
pub struct EpochConflict {
    /// What it is; none if it was never raised.
    pub current: Option<Epoch>,
}

/// What the store tells a plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Completion {
    /// Journal only: every ticket up to and including this one is durable. Sent to every plane, coalesced, increasing.
    Durable(Ticket),
    /// PerBatch only: the batch with this ticket is known durable, once. The store retries the identical batch until its
    /// outcome is known, so there is no "unknown".
    Committed(Ticket),
    /// PerBatch only: the store cannot tell yet and goes on retrying. For information; may come several times.
    Slow(Ticket),
    /// The answer to [`Store::read`], once.
    Read {
        /// The caller's number.
        id: u64,
        /// The page.
        result: Result<Page, StoreError>,
    },
    /// The answer to [`Store::raise_epoch`], once; what it says is durable.
    Epoch {
        /// The shard.
        shard: ShardId,
        /// The epoch that was asked for, or what stands in its way.
        result: Result<Epoch, EpochConflict>,
    },
}

/// See [`Store::commit_later`].
pub const LATER_MAX: Duration = Duration::from_millis(50);

/// Where entities' batches go. Non-blocking (but see [`Health::Busy`]), callable from any thread.
pub trait Store: Send + Sync + 'static {
    /// One order over all commits of this node, or none.
    fn order(&self) -> Order;

    /// Register a plane; completions for commits and reads made with the returned number go to `sink`.
    ///
    /// A journal tells it of tickets that become durable from now on; the first such word covers all before it.
    fn register(&self, sink: Sink) -> PlaneId;

    /// Queue a batch within the bounds of `types::limit` (others are a bug of the caller). An empty batch is a ticket
    /// and nothing else.
    ///
    /// Journal: the ticket is its place in the one order: a call that happens after another one, by any plane, has the
    /// greater ticket. PerBatch: a fresh number whose completion comes by itself; two batches under way for the same
    /// cells may be applied in either order, `stamp` decides.
    ///
    /// Once the store has failed ([`Health::Failed`]) nothing is queued and the ticket is one that never becomes durable.
    ///
    /// `stamp` is epoch << 32 | commit number: the write timestamp of every cell of the batch.
    fn commit(&self, plane: PlaneId, stamp: u64, batch: Batch) -> Ticket;

    /// As [`Store::commit`], for what nobody waits for: a journal may let it wait for company, until something behind it is
    /// committed or waited for, for [`LATER_MAX`] at most.
    fn commit_later(&self, plane: PlaneId, stamp: u64, batch: Batch) -> Ticket {
        self.commit(plane, stamp, batch)
    }

    /// Somebody waits for `ticket` now, which [`Store::commit_later`] gave.
    fn hurry(&self, _ticket: Ticket) {}

    /// Ordered scan, answered by [`Completion::Read`] with the same `id`.
    ///
    /// Journal: it runs once `after` is durable and sees every commit up to there, perhaps later ones that are durable
    /// too, whose [`Completion::Durable`] may still be on its way. PerBatch: it runs once `after` is known durable and
    /// sees every batch that was known durable before it ran; a batch of unknown outcome it may see or not, and a later
    /// read may differ. [`Ticket::NONE`] waits for nothing.
    fn read(&self, plane: PlaneId, id: u64, after: Ticket, read: Read);

    /// Raise the epoch of a shard, the only conditional write: if it is `expected` (none: never raised) and `to` is
    /// greater, it becomes `to`. Answered by [`Completion::Epoch`] when that is durable.
    ///
    /// If it is `to` already the answer is `Ok(to)`: placement gives an epoch to one owner only, so this is a repeat.
    fn raise_epoch(&self, plane: PlaneId, shard: ShardId, expected: Option<Epoch>, to: Epoch);

    /// Whether new durable work should be taken. Cheap: asked for every input.
    fn health(&self) -> Health;
}

/// What becomes of a shard's epoch when `to` is asked for: the rule of [`Store::raise_epoch`], for implementations.
///
/// # Errors
/// The conflict to report.
pub fn decide_epoch(current: Option<Epoch>, expected: Option<Epoch>, to: Epoch) -> Result<Epoch, EpochConflict> {
    if current == Some(to) || (current == expected && current.is_none_or(|c| c < to)) { Ok(to) } else { Err(EpochConflict { current }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::Collection;

    fn partition() -> Partition {
        Partition { collection: Collection::Account, key: Bytes::from_static(b"p") }
    }

    #[test]
    fn bounds_of_reads() {
        let one = Read::one(partition(), Bytes::from_static(b"k"));
        assert!(one.contains(b"k") && !one.contains(b"k\0") && !one.contains(b"j"));
        let prefix = Read::prefix(partition(), Bytes::from_static(b"k\xff"));
        assert!(prefix.contains(b"k\xff") && prefix.contains(b"k\xff\xff\xff"));
        assert!(!prefix.contains(b"l") && !prefix.contains(b"k\xfe\xff"));
        let all_ones = Read::prefix(partition(), Bytes::from_static(b"\xff\xff"));
        assert!(all_ones.contains(b"\xff\xff\xff") && all_ones.to.is_none() && !all_ones.contains(b"\xff"));
        assert!(Read::all(partition()).contains(b""));
    }

    #[test]
    fn epochs_rise_only_from_what_was_expected() {
        let e = |n| Some(Epoch(n));
        for (current, expected, to, want) in [
            (None, None, 1, Ok(Epoch(1))),
            (None, e(1), 2, Err(EpochConflict { current: None })),
            (e(1), None, 2, Err(EpochConflict { current: e(1) })),
            (e(1), e(1), 2, Ok(Epoch(2))),
            (e(2), e(1), 2, Ok(Epoch(2))),
            (e(2), e(2), 1, Err(EpochConflict { current: e(2) })),
            (e(3), e(1), 2, Err(EpochConflict { current: e(3) })),
        ] {
            assert_eq!(decide_epoch(current, expected, Epoch(to)), want, "{current:?} {expected:?} {to}");
        }
    }
}
