//! The seal: how the log tells rows of a stale owner from its own (`ARCHITECTURE.md`, The store, Cassandra).
//!
//! Needed only where batches have no common order. Every owner adopts the log up to some row, and closes the epochs before its
//! own: their rows beyond that one do not exist. It is one cell with all that is closed, written by each owner anew, so the
//! youngest counts whole ◊: what the owner before it closed may lie on one replica only, and a later owner need not see it.

use crate::codec::{Corrupt, Reader, Writer};
use bytes::Bytes;
use frame::Pos;
use types::Epoch;

/// The cell's key.
pub const KEY: &[u8] = b"seal";

/// Epochs whose rows end with the same one: those before `by` that no earlier range has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    by: Epoch,
    /// The last valid row of those epochs.
    last: u64,
}

/// What is closed: see the module. As many ranges as owners have added rows; 12 bytes each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seal(Vec<Range>);

impl Seal {
    /// The cell's value.
    pub fn encode(&self) -> Bytes {
        let mut w = Writer::new(1);
        w.u64(self.0.len() as u64);
        for range in &self.0 {
            w.u64(range.by.0.into()).u64(range.last);
        }
        w.finish()
    }

    /// Reverses [`Seal::encode`].
    ///
    /// # Errors
    /// What is no seal, or has epochs out of order.
    pub fn decode(value: Bytes) -> Result<Seal, Corrupt> {
        let mut r = Reader::new(value, 1)?;
        let mut seal = Seal::default();
        for _ in 0..r.count()? {
            let range = Range { by: Epoch(r.u32()?), last: r.u64()? };
            if range.by <= seal.next_epoch() {
                return Err(Corrupt("seal order"));
            }
            seal.0.push(range);
        }
        r.end()?;
        Ok(seal)
    }

    /// The owner of `by` has adopted the log up to row `last`: every earlier epoch that is open ends there.
    pub fn close(&mut self, by: Epoch, last: u64) {
        match self.0.last_mut() {
            Some(range) if range.last == last => range.by = by,
            _ => self.0.push(Range { by, last }),
        }
    }

    /// Does the row exist?
    pub fn valid(&self, pos: Pos) -> bool {
        if types::planted::is(types::planted::Bug::NoSeal) {
            return true;
        }
        let at = self.0.partition_point(|range| range.by <= pos.epoch);
        self.0.get(at).is_none_or(|range| pos.row <= range.last)
    }

    /// The first epoch that is open.
    pub fn next_epoch(&self) -> Epoch {
        self.0.last().map_or(Epoch(0), |range| range.by)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pos(row: u64, epoch: u32) -> Pos {
        Pos { row, epoch: Epoch(epoch) }
    }

    #[test]
    fn an_epoch_ends_where_the_next_owner_says() {
        let mut seal = Seal::default();
        assert!(seal.valid(pos(9, 1)));
        seal.close(Epoch(3), 5);
        assert!(seal.valid(pos(5, 1)) && !seal.valid(pos(6, 1)) && !seal.valid(pos(6, 2)) && seal.valid(pos(6, 3)));
        seal.close(Epoch(4), 7);
        assert!(!seal.valid(pos(6, 2)) && seal.valid(pos(7, 3)) && !seal.valid(pos(8, 3)) && seal.valid(pos(8, 4)));
        assert_eq!(seal.next_epoch(), Epoch(4));
        let again = Seal::decode(seal.encode());
        assert_eq!(again.as_ref(), Ok(&seal));
        // Owners that add nothing leave nothing behind.
        let bytes = seal.encode().len();
        seal.close(Epoch(9), 7);
        assert_eq!((seal.next_epoch(), seal.encode().len()), (Epoch(9), bytes));
        assert!(!seal.valid(pos(6, 2)) && !seal.valid(pos(8, 8)) && seal.valid(pos(8, 9)));
    }

    #[test]
    fn what_is_no_seal_is_told() {
        let no = Writer::new(1).u64(2).u64(4).u64(1).u64(4).u64(2).finish();
        assert_eq!(Seal::decode(no), Err(Corrupt("seal order")));
        assert!(Seal::decode(Bytes::from_static(b"\x01")).is_err());
    }
}
