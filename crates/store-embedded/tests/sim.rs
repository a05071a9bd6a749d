//! The simulated store keeps what it acknowledged through crashes, loses nothing else by halves, and is the same again
//! from the same seed.

use bytes::Bytes;
use chappe_store_embedded::journal::RecoverError;
use chappe_store_embedded::sim::{SimFaults, SimStore};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use store::{Completion, Health, PlaneId, Read, Store};
use types::{Batch, Collection, Epoch, Instant, Op, Partition, ShardId, Ticket};

type Log = Arc<Mutex<Vec<Completion>>>;

struct World {
    store: SimStore,
    now: Instant,
    log: Log,
    plane: PlaneId,
}

fn partition(n: u64) -> Partition {
    Partition { collection: Collection::Account, key: Bytes::copy_from_slice(&(n % 3).to_be_bytes()) }
}

fn batch(n: u64) -> Batch {
    let value = Bytes::copy_from_slice(&n.to_be_bytes());
    let cell = |c: u8| Op::Put { key: [&n.to_be_bytes()[..], &[c]].concat().into(), value: value.clone() };
    Batch { partition: partition(n), ops: (0..4).map(cell).collect() }
}

fn register(store: &SimStore) -> (PlaneId, Log) {
    let log = Log::default();
    let sink = log.clone();
    (store.register(Box::new(move |c| sink.lock().unwrap().push(c))), log)
}

impl World {
    fn new(seed: u64, faults: SimFaults) -> World {
        let store = SimStore::seeded(seed, faults);
        let (plane, log) = register(&store);
        World { store, now: Instant(0), log, plane }
    }
    fn run(&mut self, ms: u64) {
        self.now = self.now + Duration::from_millis(ms);
        self.store.step(self.now);
    }
    fn durable(&self) -> u64 {
        self.log.lock().unwrap().iter().filter_map(|c| if let Completion::Durable(t) = c { Some(t.0) } else { None }).max().unwrap_or(0)
    }
    fn restart(&mut self) -> Result<(), RecoverError> {
        self.store.crash();
        self.store.reopen()?;
        (self.plane, self.log) = register(&self.store);
        Ok(())
    }
    /// Numbers of whole batches that are there; panics at a torn one.
    fn there(&self) -> Vec<u64> {
        let mut found = BTreeMap::<u64, u32>::new();
        for p in self.store.partitions() {
            for cell in self.store.dump(&p) {
                *found.entry(u64::from_be_bytes(cell.value[..].try_into().unwrap())).or_default() += 1;
            }
        }
        assert!(found.values().all(|cells| *cells == 4), "torn: {found:?}");
        found.into_keys().collect()
    }
}

/// Lives with crashes between them. What was acknowledged stays; of the rest a prefix of each life may stay.
fn lives(seed: u64, faults: SimFaults) -> (Vec<u64>, u64) {
    let mut w = World::new(seed, faults);
    let (mut next, mut lost) = (0, 0);
    let mut kept: Vec<u64> = Vec::new();
    for life in 0..30u64 {
        let first = next;
        for _ in 0..1 + (seed + life) % 40 {
            let ticket = w.store.commit(w.plane, next, batch(next));
            if ticket == Ticket(u64::MAX) {
                break;
            }
            assert_eq!(ticket.0, next - first + 1);
            next += 1;
            w.run((next * 7 + seed) % 5);
        }
        let acknowledged = w.durable();
        w.restart().unwrap();
        let there = w.there();
        let new = there.len() as u64 - kept.len() as u64;
        assert!(new >= acknowledged, "seed {seed} life {life}: {new} of {acknowledged}");
        kept.extend(first..first + new);
        assert_eq!(there, kept, "seed {seed} life {life}");
        lost += next - first - new;
        // Numbers of batches that were lost are not used again here, so that the check is strict.
    }
    (kept, lost)
}

#[test]
fn acknowledged_batches_survive_crashes() {
    let mut lost = 0;
    for seed in 0..25 {
        lost += lives(seed, SimFaults::default()).1;
        lost += lives(seed, SimFaults { commit_fails: 0.05, group_bytes_max: 600, ..SimFaults::default() }).1;
    }
    assert!(lost > 50, "the crashes lose what was not flushed: {lost}");
}

#[test]
fn a_seed_is_a_run() {
    for seed in 0..10 {
        let faults = SimFaults { commit_fails: 0.02, ..SimFaults::default() };
        assert_eq!(lives(seed, faults.clone()), lives(seed, faults));
    }
}

#[test]
fn damage_is_found_or_is_in_the_cut_end() {
    let (mut refused, mut cut) = (0, 0);
    for seed in 0..200 {
        let mut w = World::new(seed, SimFaults::none());
        for n in 0..20 {
            w.store.commit(w.plane, n, batch(n));
            w.run(300);
        }
        w.store.crash();
        assert!(w.store.damage());
        match w.store.reopen() {
            Err(RecoverError::Middle(_) | RecoverError::Lost { .. }) => {
                refused += 1;
                assert!(!w.store.is_running() && w.store.health() == Health::Failed);
                assert!(w.store.reopen().is_err(), "and it refuses again");
            }
            Err(e) => panic!("{e}"),
            Ok(recovered) => {
                cut += 1;
                assert!(recovered.cut.is_some() && recovered.group >= recovered.mark, "{recovered:?}");
                let there = w.there();
                assert!(there.iter().copied().eq(0..there.len() as u64) && there.len() == 19, "{there:?}");
            }
        }
    }
    assert!(refused > 150 && cut > 0, "refused {refused} cut {cut}");
}

#[test]
fn a_failed_commit_says_nothing_more() {
    let mut w = World::new(1, SimFaults::none());
    let first = w.store.commit(w.plane, 0, batch(0));
    w.run(10);
    assert_eq!(w.durable(), first.0);
    w.store.fail_next_commit();
    let second = w.store.commit(w.plane, 1, batch(1));
    w.store.read(w.plane, 1, second, Read::all(partition(0)));
    w.store.raise_epoch(w.plane, ShardId(0), None, Epoch(1));
    w.run(1_000);
    assert!(w.store.failed().is_some_and(|why| why.contains("simulated")));
    assert_eq!(w.store.health(), Health::Failed);
    assert_eq!(w.store.commit(w.plane, 2, batch(2)), Ticket(u64::MAX));
    w.run(1_000);
    assert_eq!(*w.log.lock().unwrap(), [Completion::Durable(first)]);
    w.restart().unwrap();
    assert_eq!(w.store.health(), Health::Ok);
    assert_eq!(w.there()[0], 0);
}

#[test]
fn planes_of_an_earlier_life_are_strangers() {
    let mut w = World::new(1, SimFaults::none());
    let (old, old_log) = (w.plane, w.log.clone());
    w.restart().unwrap();
    assert_ne!(w.plane, old);
    assert_eq!(w.store.commit(old, 0, batch(0)), Ticket(u64::MAX));
    w.store.read(old, 1, Ticket::NONE, Read::all(partition(0)));
    w.store.commit(w.plane, 0, batch(1));
    w.run(100);
    assert!(old_log.lock().unwrap().is_empty());
    assert_eq!(w.there(), [1]);
}

#[test]
fn the_journal_is_folded_and_survives() {
    let mut w = World::new(3, SimFaults::none());
    let value = Bytes::from(vec![7; 20_000]);
    for n in 0..60u64 {
        let ops = vec![Op::Put { key: Bytes::copy_from_slice(&n.to_be_bytes()), value: value.clone() }];
        w.store.commit(w.plane, n, Batch { partition: partition(0), ops: ops.into() });
        w.run(10);
        if n % 7 == 0 {
            w.restart().unwrap();
        }
    }
    assert_eq!(w.store.dump(&partition(0)).len(), 60);
}
