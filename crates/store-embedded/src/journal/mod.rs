//! The journal without I/O: queue → groups → tickets → durable, and what to do with a journal found at start.
//!
//! A *group* is what one flush makes durable. Groups are numbered from 1 without a gap over the life of a data
//! directory; the number is written in the group itself, and from time to time to the *mark*, which is kept elsewhere.
//! So at start the mark says how much must be there ([`recover`]). Tickets are of one run and start at 1.
//!
//! Where groups go is a [`Disk`]: fjall in production, memory in a simulation. Start with [`Queue`] and [`Committer`].

mod commit;
mod mark;
mod queue;
mod recover;

pub use commit::{Committer, Done};
pub use mark::MarkTimer;
pub use queue::{Entry, Full, QUEUE_BYTES_MAX, QUEUE_ENTRIES_MAX, Queue};
pub use recover::{Damage, RecoverError, Recovered, Survey, recover};

use bytes::Bytes;
use types::{Epoch, Partition, ShardId};

/// A failure of the disk below the journal, in its own words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DiskError(pub String);

/// One cell that a group writes. No two of a group are for the same cell.
#[derive(Clone, Copy, Debug)]
pub struct Write<'a> {
    /// Where.
    pub partition: &'a Partition,
    /// The cell's key.
    pub key: &'a Bytes,
    /// When, as the caller counts.
    pub stamp: u64,
    /// None removes it.
    pub value: Option<&'a Bytes>,
}

/// Where groups go.
///
/// At start, in this order: `survey`, `mark`, perhaps `cut`, `load`. Then `append` and `sync` by turns.
pub trait Disk {
    /// What the journal holds, found without writing anything.
    ///
    /// # Errors
    /// It cannot be read at all.
    fn survey(&mut self) -> Result<Survey, DiskError>;

    /// The mark: a group that was durable once. Zero if none ever was.
    ///
    /// # Errors
    /// It cannot be read, or is missing where there is a journal.
    fn mark(&mut self) -> Result<u64, DiskError>;

    /// Cut the journal where the damage begins, durably, keeping a copy aside. What was cut is never read again.
    ///
    /// # Errors
    /// It cannot be cut; then nothing was.
    fn cut(&mut self, damage: &Damage) -> Result<(), DiskError>;

    /// Make the cells readable, and say which is the newest group among them (zero: none).
    ///
    /// # Errors
    /// The engine refuses.
    fn load(&mut self) -> Result<u64, DiskError>;

    /// The epoch of a shard among durable groups.
    ///
    /// # Errors
    /// It cannot be read.
    fn epoch(&mut self, shard: ShardId) -> Result<Option<Epoch>, DiskError>;

    /// Write a group, all or nothing. It is neither durable nor readable before `sync`.
    ///
    /// # Errors
    /// It may be there or not; nothing more can be appended.
    fn append(&mut self, group: u64, writes: &[Write<'_>]) -> Result<(), DiskError>;

    /// Make what was appended durable, then readable.
    ///
    /// # Errors
    /// It may be durable or not; nothing more can be appended.
    fn sync(&mut self) -> Result<(), DiskError>;
}
