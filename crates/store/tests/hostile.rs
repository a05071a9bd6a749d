//! The hostile store is as hostile as it says, keeps its promise, and does the same again from the same seed.

use bytes::Bytes;
use chappe_store::memory::{Hostile, Hostility, REPLICAS};
use chappe_store::{Cell, Completion, PlaneId, Read, Store, StoreError};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use types::{Batch, Collection, Epoch, Instant, Op, Partition, ShardId, Ticket};

type Log = Arc<Mutex<Vec<(u64, Completion)>>>;

struct World {
    store: Arc<Hostile>,
    now: Instant,
    log: Log,
    plane: PlaneId,
}

fn world(seed: u64, knobs: Hostility) -> World {
    let store = Arc::new(Hostile::seeded(seed, knobs));
    let log = Log::default();
    let sink = log.clone();
    let plane = store.register(Box::new(move |c| sink.lock().unwrap().push((0, c))));
    World { store, now: Instant(0), log, plane }
}

fn p() -> Partition {
    Partition { collection: Collection::Log, key: Bytes::from_static(b"p") }
}

fn put(key: &'static [u8], value: &'static [u8]) -> Batch {
    Batch { partition: p(), ops: vec![Op::Put { key: Bytes::from_static(key), value: Bytes::from_static(value) }].into() }
}

impl World {
    fn run(&mut self, seconds: u64) {
        let until = self.now + Duration::from_secs(seconds);
        while let Some(at) = self.store.next_event().filter(|at| *at <= until) {
            self.step(at);
        }
        self.step(until);
    }
    fn step(&mut self, at: Instant) {
        let before = self.log.lock().unwrap().len();
        self.now = at;
        self.store.step(at);
        for entry in &mut self.log.lock().unwrap()[before..] {
            entry.0 = at.0;
        }
    }
    fn heard(&self) -> Vec<Completion> {
        self.log.lock().unwrap().iter().map(|(_, c)| c.clone()).collect()
    }
    fn read(&mut self, id: u64) -> Result<Vec<Cell>, StoreError> {
        self.store.read(self.plane, id, Ticket::NONE, Read::all(p()));
        loop {
            let found = self.heard().into_iter().find_map(|c| match c {
                Completion::Read { id: of, result } if of == id => Some(result.map(|p| p.rows)),
                _ => None,
            });
            if let Some(found) = found {
                return found;
            }
            self.run(1);
        }
    }
}

/// A hundred batches of two planes, reads and epochs among them, one plane dying: what was heard, and what remains.
fn trace(seed: u64, look: bool) -> (Vec<(u64, Completion)>, Vec<Cell>) {
    let mut w = world(seed, Hostility::harsh());
    let doomed = w.store.register(Box::new(|_| {}));
    for n in 0..100u64 {
        w.store.commit(if n % 3 == 0 { doomed } else { w.plane }, n, put(b"k", b"v"));
        w.store.read(w.plane, n, Ticket(n), Read::all(p()));
        w.store.raise_epoch(w.plane, ShardId(1), Some(Epoch(n as u32)), Epoch(n as u32 + 1));
        if n == 60 {
            w.store.client_died(doomed);
        }
        w.run(n % 4);
        if look {
            w.store.dump(&p());
            w.store.dump_replica(1, &p());
            w.store.partitions();
            w.store.under_way();
            w.store.undecided();
            w.store.next_event();
        }
    }
    w.run(300);
    let log = w.log.lock().unwrap().clone();
    (log, w.store.dump(&p()))
}

#[test]
fn a_seed_is_a_run_and_looking_changes_nothing() {
    for seed in 0..5 {
        assert_eq!(trace(seed, false), trace(seed, true));
    }
    assert_ne!(trace(1, false).0, trace(2, false).0);
}

#[test]
fn every_batch_is_committed_once_in_the_end() {
    for seed in 0..20 {
        let mut w = world(seed, Hostility::harsh());
        let tickets: Vec<Ticket> = (0..50).map(|n| w.store.commit(w.plane, n, put(b"k", b"v"))).collect();
        w.run(120);
        w.store.calm();
        w.run(30);
        assert_eq!(w.store.undecided(), 0);
        let mut committed: Vec<Ticket> =
            w.heard().into_iter().filter_map(|c| if let Completion::Committed(t) = c { Some(t) } else { None }).collect();
        assert!(w.heard().iter().any(|c| matches!(c, Completion::Slow(_))), "seed {seed} was not hostile");
        committed.sort();
        assert_eq!(committed, tickets, "seed {seed}");
    }
}

#[test]
fn a_committed_batch_is_seen_whichever_replica_is_down() {
    for seed in 0..30 {
        let mut w = world(seed, Hostility { lost: 0.3, read_repair: 0.0, ..Hostility::none() });
        let ticket = w.store.commit(w.plane, 1, put(b"k", b"v"));
        while !w.heard().contains(&Completion::Committed(ticket)) {
            w.run(1);
        }
        for replica in 0..REPLICAS {
            w.store.set_down(replica, w.now + Duration::from_secs(5));
            assert_eq!(w.read(replica as u64).unwrap().len(), 1, "seed {seed}, replica {replica} down");
            w.store.calm();
            w.store.set_hostility(Hostility { lost: 0.3, read_repair: 0.0, ..Hostility::none() });
        }
    }
}

#[test]
fn without_a_quorum_nothing_is_known_and_reads_say_so() {
    let mut w = world(1, Hostility { hint: 0.0, ..Hostility::none() });
    let until = w.now + Duration::from_secs(60);
    w.store.set_down(0, until);
    w.store.set_down(1, until);
    let ticket = w.store.commit(w.plane, 1, put(b"k", b"v"));
    w.store.raise_epoch(w.plane, ShardId(1), None, Epoch(1));
    assert_eq!(w.read(1), Err(StoreError::Timeout));
    assert_eq!(w.store.dump_replica(2, &p()).len(), 1, "one replica has it, and the caller does not know");
    assert!(w.heard().contains(&Completion::Slow(ticket)));
    assert!(!w.heard().iter().any(|c| matches!(c, Completion::Committed(_) | Completion::Epoch { .. })));
    w.run(70);
    assert!(w.heard().contains(&Completion::Committed(ticket)), "retried until known");
    assert!(w.heard().contains(&Completion::Epoch { shard: ShardId(1), result: Ok(Epoch(1)) }));
}

#[test]
fn what_a_dead_client_wrote_may_come_late_or_never_and_loses_to_its_successor() {
    let (mut never, mut late) = (0, 0);
    for seed in 0..100 {
        let knobs =
            Hostility { hop_ms: (5, 10), orphan_lost: 0.5, orphan_late: 0.9, orphan_late_ms: (30_000, 60_000), ..Hostility::none() };
        let mut w = world(seed, knobs);
        let heard = Log::default();
        let sink = heard.clone();
        let doomed = w.store.register(Box::new(move |c| sink.lock().unwrap().push((0, c))));
        let mut batch = put(b"k", b"old");
        batch.ops.push(Op::Put { key: Bytes::from_static(b"only old"), value: Bytes::new() });
        w.store.commit(doomed, (1 << 32) | 9, batch);
        w.store.read(doomed, 1, Ticket::NONE, Read::all(p()));
        w.store.client_died(doomed);
        let new = w.store.commit(w.plane, 2 << 32, put(b"k", b"new"));
        w.run(20);
        assert!(w.heard().contains(&Completion::Committed(new)));
        let early = w.store.dump(&p()).len() == 2;
        w.run(100);
        let cells = w.store.dump(&p());
        assert_eq!(&cells[0].value[..], b"new", "the newer stamp wins, whenever the older one comes");
        match (early, cells.len()) {
            (false, 2) => late += 1,
            (false, 1) => never += 1,
            _ => {}
        }
        assert_eq!(w.store.under_way(), 0);
        assert!(heard.lock().unwrap().is_empty(), "nothing is told to the dead");
    }
    assert!(never > 0 && late > 0, "never {never} late {late}");
}

#[test]
fn an_unknown_batch_can_be_seen_and_then_not() {
    let seen_and_gone = (0..200).any(|seed| {
        let knobs = Hostility { hint: 0.0, orphan_lost: 0.7, read_repair: 0.0, ..Hostility::none() };
        let mut w = world(seed, knobs);
        let doomed = w.store.register(Box::new(|_| {}));
        w.store.commit(doomed, 1, put(b"k", b"v"));
        w.store.client_died(doomed);
        w.run(5);
        let seen: Vec<bool> = (0..6).map(|n| !w.read(n).unwrap().is_empty()).collect();
        seen.windows(2).any(|w| w[0] && !w[1])
    });
    assert!(seen_and_gone);
}
