//! The threads over a disk that stalls and fails on request.

use crate::journal::{Damage, Disk, DiskError, Entry, QUEUE_ENTRIES_MAX, Recovered, Survey, Write};
use crate::shared::{ReadJob, Shared, lock};
use crate::source::Source;
use crate::{Embedded, Options, READS_MAX};
use bytes::Bytes;
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::time::Duration;
use store::{Completion, Health, Page, PlaneId, Read, Store, StoreError};
use types::{Batch, Collection, Epoch, Op, Partition, ShardId, Ticket};

const SOON: Duration = Duration::from_secs(20);

#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<Barrier>, Condvar)>);

#[derive(Default)]
struct Barrier {
    mode: Mode,
    /// Threads that stand before it.
    stalled: usize,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum Mode {
    #[default]
    Go,
    Stall,
    Fail,
    Panic,
}

impl Gate {
    fn set(&self, mode: Mode) {
        self.0.0.lock().unwrap().mode = mode;
        self.0.1.notify_all();
    }
    /// Returns when a thread stands before it: what that thread took before, it has taken.
    fn until_stalled(&self) {
        let none = |b: &mut Barrier| b.stalled == 0;
        let (_barrier, waited) = self.0.1.wait_timeout_while(self.0.0.lock().unwrap(), SOON, none).unwrap();
        assert!(!waited.timed_out());
    }
    fn pass(&self) -> Result<(), DiskError> {
        let mut barrier = self.0.0.lock().unwrap();
        barrier.stalled += 1;
        self.0.1.notify_all();
        let mut barrier = self.0.1.wait_while(barrier, |b| b.mode == Mode::Stall).unwrap();
        barrier.stalled -= 1;
        let now = barrier.mode;
        drop(barrier);
        match now {
            Mode::Fail => Err(DiskError("no space left on device".into())),
            Mode::Panic => panic!("the engine panics"),
            _ => Ok(()),
        }
    }
}

impl Disk for Gate {
    fn survey(&mut self) -> Result<Survey, DiskError> {
        Ok(Survey::default())
    }
    fn mark(&mut self) -> Result<u64, DiskError> {
        Ok(0)
    }
    fn cut(&mut self, _: &Damage) -> Result<(), DiskError> {
        Ok(())
    }
    fn load(&mut self) -> Result<u64, DiskError> {
        Ok(0)
    }
    fn epoch(&mut self, _: ShardId) -> Result<Option<Epoch>, DiskError> {
        Ok(None)
    }
    fn append(&mut self, _: u64, _: &[Write<'_>]) -> Result<(), DiskError> {
        Ok(())
    }
    fn sync(&mut self) -> Result<(), DiskError> {
        self.pass()
    }
}

impl Source for Gate {
    fn read(&self, _: &Read) -> Result<Page, StoreError> {
        self.pass().map(|()| Page::default()).map_err(|e| StoreError::Failed(e.0))
    }
}

struct World {
    store: Arc<Embedded>,
    disk: Gate,
    reads: Gate,
    plane: PlaneId,
    heard: mpsc::Receiver<Completion>,
    fatal: mpsc::Receiver<String>,
}

fn world() -> World {
    let (tell, fatal) = mpsc::sync_channel(100);
    let on_fatal = Box::new(move |what: &str| drop(tell.try_send(what.to_owned())));
    let (disk, reads) = (Gate::default(), Gate::default());
    let recovered = Recovered { group: 0, mark: 0, cut: None };
    let options = Options { readers: 1, on_fatal, ..Options::default() };
    let store = Arc::new(Embedded::assemble(disk.clone(), reads.clone(), recovered, options).unwrap());
    let (tell, heard) = mpsc::sync_channel(READS_MAX + 1_000);
    let plane = store.register(Box::new(move |c| drop(tell.try_send(c))));
    World { store, disk, reads, plane, heard, fatal }
}

fn batch() -> Batch {
    let partition = Partition { collection: Collection::Log, key: Bytes::from_static(b"p") };
    Batch { partition, ops: vec![Op::Delete { key: Bytes::from_static(b"k") }].into() }
}

fn read() -> Read {
    Read::all(batch().partition)
}

#[test]
fn a_failed_commit_is_fatal_and_nothing_is_answered() {
    for mode in [Mode::Fail, Mode::Panic] {
        let w = world();
        let first = w.store.commit(w.plane, 1, batch());
        assert_eq!(w.heard.recv_timeout(SOON), Ok(Completion::Durable(first)));
        w.disk.set(mode);
        let lost = w.store.commit(w.plane, 2, batch());
        w.store.read(w.plane, 7, lost, read());
        let what = w.fatal.recv_timeout(SOON).unwrap();
        assert!(what.contains(if mode == Mode::Fail { "no space" } else { "panicked" }), "{what}");
        assert!(matches!(w.heard.recv_timeout(SOON), Ok(Completion::Read { id: 7, result: Err(StoreError::Failed(_)) })));
        assert_eq!(w.store.health(), Health::Failed);
        // Even if the disk were well again: what it holds is unknown.
        w.disk.set(Mode::Go);
        assert_eq!(w.store.commit(w.plane, 3, batch()), Ticket(u64::MAX));
        w.store.raise_epoch(w.plane, ShardId(1), None, Epoch(1));
        w.store.read(w.plane, 8, Ticket::NONE, read());
        assert!(matches!(w.heard.recv_timeout(SOON), Ok(Completion::Read { id: 8, result: Err(StoreError::Failed(_)) })));
        drop(w.store);
        assert_eq!(w.heard.try_recv().ok(), None, "no ticket after the failure");
        assert_eq!(w.fatal.try_recv().ok(), None, "said once");
    }
}

#[test]
fn a_full_queue_says_busy_first_and_then_holds_the_caller() {
    let w = world();
    w.disk.set(Mode::Stall);
    w.store.commit(w.plane, 0, batch());
    // The writer has taken that one, and the queue is empty again: fill it.
    w.disk.until_stalled();
    let store = w.store.clone();
    let plane = w.plane;
    let (tell, told) = mpsc::sync_channel(10);
    let filler = std::thread::spawn(move || {
        let mut busy = 0;
        for n in 1..=QUEUE_ENTRIES_MAX + 10 {
            store.commit(plane, n as u64, batch());
            if busy == 0 && store.health() == Health::Busy {
                busy = n;
                tell.send(n).unwrap();
            }
        }
        tell.send(usize::MAX).unwrap();
    });
    assert_eq!(told.recv_timeout(SOON), Ok(QUEUE_ENTRIES_MAX / 2 + 1), "busy from more than half of it on");
    assert!(told.recv_timeout(Duration::from_millis(500)).is_err(), "it is held while nothing is flushed");
    w.disk.set(Mode::Go);
    assert_eq!(told.recv_timeout(SOON), Ok(usize::MAX));
    filler.join().unwrap();
    let last = w.store.commit(w.plane, 0, batch());
    assert_eq!(last, Ticket(QUEUE_ENTRIES_MAX as u64 + 12));
    while w.heard.recv_timeout(SOON).unwrap() != Completion::Durable(last) {}
    assert_eq!(w.store.health(), Health::Ok);
}

#[test]
fn a_failure_lets_go_callers_that_are_held() {
    let w = world();
    w.disk.set(Mode::Stall);
    let store = w.store.clone();
    let plane = w.plane;
    let filler = std::thread::spawn(move || (0..QUEUE_ENTRIES_MAX * 2).map(|_| store.commit(plane, 0, batch())).max());
    std::thread::sleep(Duration::from_millis(200));
    w.disk.set(Mode::Fail);
    assert_eq!(filler.join().unwrap(), Some(Ticket(u64::MAX)));
}

#[test]
fn too_many_reads_are_refused() {
    let w = world();
    w.reads.set(Mode::Stall);
    w.store.read(w.plane, 0, Ticket::NONE, read());
    // That one is with the reader.
    w.reads.until_stalled();
    for id in 1..READS_MAX as u64 + 10 {
        w.store.read(w.plane, id, Ticket::NONE, read());
    }
    let refused: Vec<_> = std::iter::from_fn(|| w.heard.try_recv().ok()).collect();
    assert!((9..=10).contains(&refused.len()), "{}", refused.len());
    assert!(refused.iter().all(|c| matches!(c, Completion::Read { result: Err(StoreError::Busy), .. })));
    w.reads.set(Mode::Go);
    for _ in 0..READS_MAX {
        assert!(matches!(w.heard.recv_timeout(SOON), Ok(Completion::Read { result: Ok(_), .. })));
    }
}

#[test]
fn a_panic_of_the_engine_answers_the_read_and_the_reader_goes_on() {
    let w = world();
    w.reads.set(Mode::Panic);
    w.store.read(w.plane, 1, Ticket::NONE, read());
    assert!(matches!(w.heard.recv_timeout(SOON), Ok(Completion::Read { id: 1, result: Err(StoreError::Corrupt { .. }) })));
    w.reads.set(Mode::Go);
    w.store.read(w.plane, 2, Ticket::NONE, read());
    assert!(matches!(w.heard.recv_timeout(SOON), Ok(Completion::Read { id: 2, result: Ok(_) })));
}

#[test]
fn what_nobody_waits_for_begins_no_group() {
    let shared = Shared::new(0, Box::new(|_| ()));
    let may_wait = || lock(&shared.commits).may_wait();
    let push = |later| shared.push(Entry::Batch { stamp: 0, batch: batch() }, later);
    let take_some = |bytes_max| lock(&shared.commits).queue.take(bytes_max).map(|(last, entries)| (last.0, entries.len()));
    let take = || take_some(usize::MAX);
    assert_eq!((push(true), push(true), may_wait()), (Ticket(1), Ticket(2), true));
    assert_eq!((push(false), may_wait(), take(), may_wait()), (Ticket(3), false, Some((3, 3)), true), "it goes with the next one");
    push(true);
    push(true);
    shared.hurry(Ticket(3));
    assert!(may_wait(), "that one is on its way");
    shared.hurry(Ticket(4));
    assert!(!may_wait());
    // A group that is full without it leaves it waited for.
    assert_eq!((take_some(1), may_wait()), (Some((4, 1)), true));
    shared.ask(Ticket(5), ReadJob { plane: PlaneId(0), id: 1, read: read() });
    assert_eq!((may_wait(), take(), may_wait()), (false, Some((5, 1)), true), "a read waits for it");
    shared.hurry(Ticket(u64::MAX));
    assert!(may_wait(), "a ticket of a store that failed");
}

#[test]
fn what_nobody_waits_for_becomes_durable_all_the_same() {
    let w = world();
    let alone = w.store.commit_later(w.plane, 1, batch());
    assert_eq!(w.heard.recv_timeout(SOON), Ok(Completion::Durable(alone)));
    let at_the_end = w.store.commit_later(w.plane, 2, batch());
    drop(w.store);
    assert_eq!(w.heard.try_iter().last(), Some(Completion::Durable(at_the_end)));
}

#[test]
fn closing_makes_durable_what_is_queued() {
    let w = world();
    w.disk.set(Mode::Stall);
    let last = (0..1_000).map(|n| w.store.commit(w.plane, n, batch())).max().unwrap();
    let gate = w.disk.clone();
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        gate.set(Mode::Go);
    });
    drop(w.store);
    let heard: Vec<_> = w.heard.try_iter().collect();
    assert_eq!(heard.last(), Some(&Completion::Durable(last)), "{heard:?}");
    assert!(heard.len() <= 3, "coalesced: {}", heard.len());
}
