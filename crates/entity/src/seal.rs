//! Seals: how the log tells rows of a stale owner from its own (`ARCHITECTURE.md`, The store, Cassandra).
//!
//! Needed only where batches have no common order. A cell says: owner `by` adopted the log up to row `last`; rows of the
//! epochs from `since` to `by - 1` beyond it do not exist. Of two cells that cover an epoch the younger owner's counts ◊.

use crate::codec::{Corrupt, Reader, Writer};
use bytes::Bytes;
use frame::Pos;
use types::Epoch;

/// One cell: see the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seal {
    /// The owner that wrote it.
    pub by: Epoch,
    /// The first epoch that it closes.
    pub since: Epoch,
    /// The last valid row of those epochs.
    pub last: u64,
}

/// All seals of one log.
#[derive(Clone, Debug, Default)]
pub struct Seals(Vec<Seal>);

impl Seal {
    /// The cell's key.
    pub fn key(&self) -> Bytes {
        self.by.0.to_be_bytes().to_vec().into()
    }

    /// The cell's value.
    pub fn encode(&self) -> Bytes {
        Writer::new(1).u64(self.since.0.into()).u64(self.last).finish()
    }

    /// Reverses [`Seal::key`] and [`Seal::encode`].
    pub fn decode(key: &[u8], value: Bytes) -> Result<Seal, Corrupt> {
        let by: [u8; 4] = key.try_into().map_err(|_| Corrupt("seal key"))?;
        let mut r = Reader::new(value, 1)?;
        let seal = Seal { by: Epoch(u32::from_be_bytes(by)), since: Epoch(r.u32()?), last: r.u64()? };
        r.end()?;
        Ok(seal)
    }
}

impl Seals {
    /// Add one.
    pub fn add(&mut self, seal: Seal) {
        self.0.push(seal);
    }

    /// Does the row exist?
    pub fn valid(&self, pos: Pos) -> bool {
        if types::planted::is(types::planted::Bug::NoSeal) {
            return true;
        }
        let covering = self.0.iter().filter(|s| s.since <= pos.epoch && pos.epoch < s.by);
        covering.max_by_key(|s| s.by).is_none_or(|s| pos.row <= s.last)
    }

    /// The first epoch that no seal closes.
    pub fn next_epoch(&self) -> Epoch {
        self.0.iter().map(|s| s.by).max().unwrap_or(Epoch(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pos(row: u64, epoch: u32) -> Pos {
        Pos { row, epoch: Epoch(epoch) }
    }

    #[test]
    fn younger_seal_counts() {
        let mut seals = Seals::default();
        assert!(seals.valid(pos(9, 1)));
        seals.add(Seal { by: Epoch(3), since: Epoch(1), last: 5 });
        assert!(seals.valid(pos(5, 1)) && !seals.valid(pos(6, 1)) && !seals.valid(pos(6, 2)) && seals.valid(pos(6, 3)));
        // Owner 4 did not see the seal of 3, which lands late.
        seals.add(Seal { by: Epoch(4), since: Epoch(1), last: 7 });
        assert!(seals.valid(pos(7, 1)) && !seals.valid(pos(8, 3)) && seals.valid(pos(8, 4)));
        assert_eq!(seals.next_epoch(), Epoch(4));
    }
}
