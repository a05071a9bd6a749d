//! Commits that wait for their group.

use crate::format;
use std::collections::VecDeque;
use store::PlaneId;
use types::{Batch, Epoch, Op, ShardId, Ticket};

/// Bytes that can wait. Half of it is the high-water mark ([`Queue::is_high`]). Some seconds of a slow disk; what waits is
/// held by an edge or another shard as well, so a longer queue only delays their push back.
pub const QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Entries that can wait, the same in number.
pub const QUEUE_ENTRIES_MAX: usize = 65_536;
/// Entries that an empty queue keeps room for.
const ROOM_KEPT: usize = 1_024;
/// What an entry costs beside its keys and values.
const ENTRY_BYTES: usize = 128;

/// Something that wants a place in the order.
#[derive(Clone, Debug)]
pub enum Entry {
    /// Cells to write.
    Batch {
        /// Their stamp.
        stamp: u64,
        /// What and where.
        batch: Batch,
    },
    /// An epoch to raise, if it is as expected.
    Epoch {
        /// Who wants to know.
        plane: PlaneId,
        /// The shard.
        shard: ShardId,
        /// What it must be.
        expected: Option<Epoch>,
        /// What it becomes.
        to: Epoch,
    },
}

impl Entry {
    /// Bytes that it keeps, about.
    pub fn bytes(&self) -> usize {
        match self {
            Entry::Epoch { .. } => ENTRY_BYTES,
            Entry::Batch { batch, .. } => batch.ops.iter().fold(ENTRY_BYTES + batch.partition.key.len(), |sum, op| {
                sum + op.key().len()
                    + match op {
                        Op::Put { value, .. } => value.len() + ENTRY_BYTES / 2,
                        Op::Delete { .. } => ENTRY_BYTES / 2,
                    }
            }),
        }
    }

    /// True if the format can hold it. Its bounds are wider than those of `types::limit`, which callers keep to: a batch
    /// between the two is a bug, but no reason to stop.
    fn fits(&self) -> bool {
        let Entry::Batch { batch, .. } = self else { return true };
        batch.ops.iter().all(|op| {
            batch.partition.key.len() + op.key().len() <= format::KEYS_BYTES_MAX
                && !matches!(op, Op::Put { value, .. } if value.len() > format::VALUE_BYTES_MAX)
        })
    }
}

/// Why an entry was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// The queue is full. Wait for a group to be taken.
    #[error("the queue of commits is full")]
    Queue,
    /// Beyond what the format can hold, so far beyond `types::limit`: a bug of the caller.
    #[error("a batch beyond the bounds of the format")]
    Bounds,
}

/// The one queue of a node's commits. Bounded; when it is full, [`Queue::push`] refuses and the caller waits.
#[derive(Debug, Default)]
pub struct Queue {
    last: u64,
    bytes: usize,
    waiting: VecDeque<Entry>,
}

impl Queue {
    /// Take an entry and give it its place: one more than the last.
    ///
    /// # Errors
    /// It was not taken; it is handed back with the reason.
    #[allow(clippy::result_large_err, reason = "who waits for room keeps the entry; boxing it would allocate for each")]
    pub fn push(&mut self, entry: Entry) -> Result<Ticket, (Full, Entry)> {
        let bytes = entry.bytes();
        if !entry.fits() {
            return Err((Full::Bounds, entry));
        }
        // One entry is always taken, however big.
        if !self.waiting.is_empty() && (self.bytes + bytes > QUEUE_BYTES_MAX || self.waiting.len() >= QUEUE_ENTRIES_MAX) {
            return Err((Full::Queue, entry));
        }
        self.bytes += bytes;
        self.last += 1;
        self.waiting.push_back(entry);
        Ok(Ticket(self.last))
    }

    /// The next group: what waits, in order, up to about `bytes_max`, one entry at least; and its last ticket.
    pub fn take(&mut self, bytes_max: usize) -> Option<(Ticket, Vec<Entry>)> {
        let mut bytes = self.waiting.front()?.bytes();
        if self.bytes <= bytes_max {
            self.bytes = 0;
            // Handed over as it is: whoever has something to write waits for this, so nothing is copied. The next group is
            // likely to be as large; after a burst it is not.
            let room = VecDeque::with_capacity(self.waiting.len().min(ROOM_KEPT));
            let entries = std::mem::replace(&mut self.waiting, room).into();
            return Some((self.taken(), entries));
        }
        let mut count = 1;
        for entry in self.waiting.iter().skip(1) {
            if bytes + entry.bytes() > bytes_max {
                break;
            }
            bytes += entry.bytes();
            count += 1;
        }
        self.bytes -= bytes;
        let entries = self.waiting.drain(..count).collect();
        Some((self.taken(), entries))
    }

    /// The last ticket given.
    pub fn last(&self) -> Ticket {
        Ticket(self.last)
    }

    /// The last ticket that was taken; those behind it wait.
    pub fn taken(&self) -> Ticket {
        Ticket(self.last - self.waiting.len() as u64)
    }

    /// Bytes that wait, about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Past the high-water mark: new work should be refused.
    pub fn is_high(&self) -> bool {
        self.bytes > QUEUE_BYTES_MAX / 2 || self.waiting.len() > QUEUE_ENTRIES_MAX / 2
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Drop what waits (the store has failed).
    pub fn clear(&mut self) {
        self.waiting.clear();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use types::{Collection, Partition};

    fn entry(value: usize) -> Entry {
        let partition = Partition { collection: Collection::Log, key: Bytes::from_static(b"p") };
        let ops = vec![Op::Put { key: Bytes::from_static(b"k"), value: vec![0; value].into() }];
        Entry::Batch { stamp: 0, batch: Batch { partition, ops: ops.into() } }
    }

    #[test]
    fn groups_keep_the_order_and_the_bound() {
        let mut queue = Queue::default();
        for n in 1..=10 {
            assert_eq!(queue.push(entry(1_000)), Ok(Ticket(n)).map_err(|_: ()| unreachable!()));
        }
        let each = entry(1_000).bytes();
        let (last, entries) = queue.take(3 * each).unwrap();
        assert_eq!((last, entries.len(), queue.bytes()), (Ticket(3), 3, 7 * each));
        let (last, entries) = queue.take(1).unwrap();
        assert_eq!((last, entries.len()), (Ticket(4), 1), "one at least");
        let (last, entries) = queue.take(usize::MAX).unwrap();
        assert_eq!((last, entries.len(), queue.bytes()), (Ticket(10), 6, 0));
        assert!(queue.take(usize::MAX).is_none() && queue.is_empty());
        assert_eq!(queue.last(), Ticket(10));
    }

    impl PartialEq for Entry {
        fn eq(&self, other: &Entry) -> bool {
            format!("{self:?}") == format!("{other:?}")
        }
    }

    #[test]
    fn full_by_bytes_and_by_number() {
        let mut queue = Queue::default();
        let big = types::limit::CELL_VALUE_BYTES_MAX;
        let mut taken = 0;
        while queue.push(entry(big)).is_ok() {
            taken += 1;
        }
        assert_eq!(taken, QUEUE_BYTES_MAX / entry(big).bytes());
        assert!(queue.is_high());
        assert!(matches!(queue.push(entry(big)), Err((Full::Queue, _))));
        queue.take(1);
        assert!(queue.push(entry(big)).is_ok());

        let mut queue = Queue::default();
        let small = Entry::Epoch { plane: PlaneId(0), shard: ShardId(0), expected: None, to: Epoch(1) };
        for _ in 0..QUEUE_ENTRIES_MAX {
            assert!(queue.push(small.clone()).is_ok());
        }
        assert!(matches!(queue.push(small), Err((Full::Queue, _))));
    }

    #[test]
    fn beyond_the_format_is_refused() {
        let mut queue = Queue::default();
        let with_key = |len: usize| {
            let partition = Partition { collection: Collection::Log, key: vec![1; 100].into() };
            Entry::Batch { stamp: 0, batch: Batch { partition, ops: vec![Op::Delete { key: vec![1; len].into() }].into() } }
        };
        assert!(matches!(queue.push(with_key(format::KEYS_BYTES_MAX - 99)), Err((Full::Bounds, _))));
        assert!(queue.is_empty() && queue.last() == Ticket(0));
        assert!(queue.push(with_key(format::KEYS_BYTES_MAX - 100)).is_ok());
        const { assert!(types::limit::PARTITION_KEY_BYTES_MAX + types::limit::CELL_KEY_BYTES_MAX < format::KEYS_BYTES_MAX) };
    }
}
