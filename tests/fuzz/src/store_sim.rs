//! The simulated store, which is the real queue, groups, mark and recovery over a disk in memory: what was acknowledged is
//! there after any crash; of the rest a prefix; batches are whole; a damaged journal is refused, or was damaged in the end
//! that is cut.
//!
//! The first two bytes seed the disk, each of the others is something that happens.

use crate::input::Input;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use store::{Completion, PlaneId, Store};
use store_embedded::journal::RecoverError;
use store_embedded::sim::{SimFaults, SimStore};
use types::{Batch, Collection, Instant, Op, Partition, Ticket};

struct World {
    store: SimStore,
    now: Instant,
    plane: PlaneId,
    durable: Arc<AtomicU64>,
    /// Batches of earlier lives that are there.
    kept: Vec<u64>,
    /// The first of this life, and the next.
    first: u64,
    next: u64,
    damaged: bool,
}

/// See the module.
pub fn store_sim(data: &[u8]) {
    let mut input = Input(data);
    let seed = input.u16();
    let group_bytes_max = if seed & 1 == 0 { 600 } else { 4 << 20 };
    let store = SimStore::seeded(seed.into(), SimFaults { group_bytes_max, ..SimFaults::default() });
    let (plane, durable) = register(&store);
    let mut world = World { store, now: Instant(0), plane, durable, kept: Vec::new(), first: 0, next: 0, damaged: false };
    for _ in 0..256 {
        if input.is_empty() || !world.step(input.u8()) {
            return;
        }
    }
    world.restart();
}

fn register(store: &SimStore) -> (PlaneId, Arc<AtomicU64>) {
    let durable = Arc::new(AtomicU64::new(0));
    let sink = Arc::clone(&durable);
    let plane = store.register(Box::new(move |c| {
        if let Completion::Durable(ticket) = c {
            sink.fetch_max(ticket.0, Ordering::Relaxed);
        }
    }));
    (plane, durable)
}

fn batch(n: u64, size: u8) -> Batch {
    let partition = Partition { collection: Collection::Account, key: Bytes::copy_from_slice(&(n % 3).to_be_bytes()) };
    let value = Bytes::from(vec![size; 8 + usize::from(size)]);
    let cell = |c: u8| Op::Put { key: [&n.to_be_bytes()[..], &[c]].concat().into(), value: value.clone() };
    Batch { partition, ops: (0..3).map(cell).collect() }
}

impl World {
    /// Whether it goes on.
    fn step(&mut self, what: u8) -> bool {
        match what {
            0..=99 => {
                let ticket = self.store.commit(self.plane, self.next, batch(self.next, what));
                if ticket != Ticket(u64::MAX) {
                    self.next += 1;
                    assert_eq!(ticket.0, self.next - self.first);
                }
            }
            100..=199 => {
                self.now = self.now + Duration::from_millis(u64::from(what - 100) * if what.is_multiple_of(10) { 100 } else { 1 });
                self.store.step(self.now);
            }
            200..=229 => return self.restart(),
            230..=239 => self.store.fail_next_commit(),
            _ => {
                self.store.crash();
                self.damaged |= self.store.damage();
                return self.restart();
            }
        }
        true
    }

    /// Numbers of batches that are there, each whole.
    fn there(&self) -> Vec<u64> {
        let mut found = BTreeMap::<u64, u32>::new();
        for cell in self.store.partitions().iter().flat_map(|p| self.store.dump(p)) {
            let (n, _) = cell.key.split_first_chunk::<8>().expect("a key of a batch");
            *found.entry(u64::from_be_bytes(*n)).or_default() += 1;
        }
        assert!(found.values().all(|cells| *cells == 3), "torn: {found:?}");
        found.into_keys().collect()
    }

    /// A crash, and the next start. Whether it goes on.
    fn restart(&mut self) -> bool {
        let acknowledged = self.durable.load(Ordering::Relaxed);
        self.store.crash();
        let recovered = match self.store.reopen() {
            Ok(recovered) => recovered,
            Err(RecoverError::Lost { .. } | RecoverError::Middle(_)) => {
                assert!(self.damaged, "a crash is no damage");
                return false;
            }
            Err(e) => panic!("{e}"),
        };
        assert!(recovered.group >= recovered.mark, "groups below the mark are missing: {recovered:?}");
        let there = self.there();
        let known: Vec<u64> = self.kept.iter().copied().chain(self.first..self.next).collect();
        assert!(known.starts_with(&there), "{there:?} of {known:?}");
        let due = self.kept.len() as u64 + acknowledged;
        assert!(there.len() as u64 >= due || (self.damaged && recovered.cut.is_some()), "{} of {due}", there.len());
        self.kept = there;
        self.first = self.next;
        (self.plane, self.durable) = register(&self.store);
        true
    }
}
