//! The store of a simulated node.

use super::disk::SimDisk;
use crate::journal::{Committer, DiskError, Entry, Full, MarkTimer, Queue, RecoverError, Recovered, recover};
use ::store::{Cell, Completion, Health, LATER_MAX, Order, PlaneId, Read, Sink, Store};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use types::{Batch, Collection, Epoch, Instant, Partition, ShardId, Ticket};

/// How the simulated disk behaves. Times in milliseconds, ranges inclusive, probabilities 0 to 1.
#[derive(Clone, Debug, PartialEq)]
pub struct SimFaults {
    /// A flush takes this long.
    pub sync_ms: (u64, u64),
    /// A flush takes `slow_sync_ms` instead.
    pub slow_sync: f64,
    /// How long a slow one takes.
    pub slow_sync_ms: (u64, u64),
    /// A read takes this long.
    pub read_ms: (u64, u64),
    /// A commit fails; the store has failed and its process must end.
    pub commit_fails: f64,
    /// Bytes of one group, about.
    pub group_bytes_max: usize,
}

impl SimFaults {
    /// A quick disk that never fails.
    pub fn none() -> SimFaults {
        SimFaults {
            sync_ms: (0, 2),
            slow_sync: 0.0,
            slow_sync_ms: (0, 0),
            read_ms: (0, 1),
            commit_fails: 0.0,
            group_bytes_max: 4 * 1024 * 1024,
        }
    }
}

impl Default for SimFaults {
    /// A busy disk: flushes of some milliseconds, now and then of a second.
    fn default() -> SimFaults {
        SimFaults { sync_ms: (0, 8), slow_sync: 0.01, slow_sync_ms: (20, 1_000), read_ms: (0, 5), ..SimFaults::none() }
    }
}

/// The embedded store over a simulated disk: [`Order::Journal`], one thread, no clock, the same from the same seed.
///
/// Time passes in [`SimStore::step`] alone, and completions come there alone: step to the present before asking.
/// [`SimStore::crash`] ends the process: planes and everything queued are gone, what was not flushed is lost, whole or
/// torn. [`SimStore::reopen`] is the next start, through the real recovery. Planes of an earlier life are answered with
/// silence and a ticket that never becomes durable.
///
/// When a commit fails the store is [`Health::Failed`] and says nothing more: the simulation must crash it.
/// A full queue (`journal::QUEUE_BYTES_MAX`) would hold back a real caller; here it fails the store, in words.
pub struct SimStore {
    inner: Mutex<Inner>,
}

type SharedSink = Arc<dyn Fn(Completion) + Send + Sync>;

struct Inner {
    rng: SmallRng,
    faults: SimFaults,
    now: Instant,
    sequence: u64,
    planes: u32,
    low_space: bool,
    // One of the two: running, or the disk of a stopped process.
    life: Option<Life>,
    disk: Option<SimDisk>,
}

/// What ends with the process.
struct Life {
    committer: Committer<SimDisk>,
    queue: Queue,
    sinks: BTreeMap<PlaneId, SharedSink>,
    events: BTreeMap<(Instant, u64), Event>,
    waiting: BTreeMap<(Ticket, u64), (PlaneId, u64, Read)>,
    durable: Ticket,
    /// Somebody waits for this one.
    wanted: Ticket,
    busy: bool,
    mark: MarkTimer,
    failed: Option<String>,
    fail_next: bool,
}

enum Event {
    Begin,
    /// What nobody waits for has waited long enough.
    Late,
    Finish,
    Read(PlaneId, u64, Read),
}

impl SimStore {
    /// An empty store at instant 0, running.
    pub fn new(rng: SmallRng, faults: SimFaults) -> SimStore {
        let inner = Inner {
            rng,
            faults,
            now: Instant(0),
            sequence: 0,
            planes: 0,
            low_space: false,
            life: Some(Life::new(SimDisk::default(), 0, 0, Instant(0))),
            disk: None,
        };
        SimStore { inner: Mutex::new(inner) }
    }

    /// The same from a seed.
    pub fn seeded(seed: u64, faults: SimFaults) -> SimStore {
        SimStore::new(SmallRng::seed_from_u64(seed), faults)
    }

    /// Let time pass up to `now` (never backwards): everything due happens, in order, and completions are delivered.
    pub fn step(&self, now: Instant) {
        loop {
            let mut inner = self.lock();
            let told = inner.advance(now);
            drop(inner);
            let Some(told) = told else { return };
            for (sink, completion) in told {
                sink(completion);
            }
        }
    }

    /// When something will happen next; none if nothing is under way.
    pub fn next_event(&self) -> Option<Instant> {
        let inner = self.lock();
        inner.life.as_ref()?.events.keys().next().map(|(at, _)| *at)
    }

    /// The process ends at once (`kill -9`, power loss). Nothing more is answered.
    pub fn crash(&self) {
        let mut inner = self.lock();
        let Some(life) = inner.life.take() else { return };
        let mut disk = life.committer.into_disk();
        disk.crash(&mut inner.rng);
        inner.disk = Some(disk);
    }

    /// Start again on what the crash left (crashes first, if it runs). A fresh process: register planes anew.
    ///
    /// # Errors
    /// The journal is corrupt; the store stays stopped.
    pub fn reopen(&self) -> Result<Recovered, RecoverError> {
        self.crash();
        let mut inner = self.lock();
        let Some(mut disk) = inner.disk.take() else { return Err(DiskError("no disk".into()).into()) };
        match recover(&mut disk, false) {
            Ok(recovered) => {
                inner.life = Some(Life::new(disk, recovered.group, recovered.mark, inner.now));
                Ok(recovered)
            }
            Err(e) => {
                inner.disk = Some(disk);
                Err(e)
            }
        }
    }

    /// The next commit fails.
    pub fn fail_next_commit(&self) {
        if let Some(life) = &mut self.lock().life {
            life.fail_next = true;
        }
    }

    /// From now on nothing fails and nothing is slow.
    pub fn calm(&self) {
        let mut inner = self.lock();
        inner.faults = SimFaults { group_bytes_max: inner.faults.group_bytes_max, ..SimFaults::none() };
        inner.low_space = false;
        if let Some(life) = &mut inner.life {
            life.fail_next = false;
        }
    }

    /// Why it has failed, if it has. The process must end: [`SimStore::crash`].
    pub fn failed(&self) -> Option<String> {
        self.lock().life.as_ref().and_then(|life| life.failed.clone())
    }

    /// Runs, and has not failed.
    pub fn is_running(&self) -> bool {
        self.lock().life.as_ref().is_some_and(|life| life.failed.is_none())
    }

    /// Change one byte of the flushed journal of a stopped store. False if there is none. [`SimStore::reopen`] must refuse,
    /// unless the byte is in the last group and that is above the mark.
    pub fn damage(&self) -> bool {
        let inner = &mut *self.lock();
        inner.disk.as_mut().is_some_and(|disk| disk.damage(&mut inner.rng))
    }

    /// Replace the faults. What is under way is not touched.
    pub fn set_faults(&self, faults: SimFaults) {
        self.lock().faults = faults;
    }

    /// What [`Store::health`] says of space from now on.
    pub fn set_low_space(&self, low: bool) {
        self.lock().low_space = low;
    }

    /// The cells of a partition as they are read, by key. Empty while stopped.
    pub fn dump(&self, partition: &Partition) -> Vec<Cell> {
        let inner = self.lock();
        let page = inner.life.as_ref().and_then(|life| life.committer.disk().read(&Read::all(partition.clone())).ok());
        page.unwrap_or_default().rows
    }

    /// The partitions that have durable cells. Empty while stopped.
    pub fn partitions(&self) -> Vec<Partition> {
        let inner = self.lock();
        let Some(life) = &inner.life else { return Vec::new() };
        let mut all: Vec<Partition> = life.committer.disk().keys().filter_map(|key| partition_of(key)).collect();
        all.dedup();
        all
    }

    /// The last durable ticket of this life. [`Ticket::NONE`] while stopped.
    pub fn durable(&self) -> Ticket {
        self.lock().life.as_ref().map_or(Ticket::NONE, |life| life.durable)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn partition_of(key: &[u8]) -> Option<Partition> {
    let collection = Collection::ALL.into_iter().find(|c| *c as u8 == key[0])?;
    let len = usize::from(u16::from_be_bytes([*key.get(1)?, *key.get(2)?]));
    Some(Partition { collection, key: bytes::Bytes::copy_from_slice(key.get(3..3 + len)?) })
}

impl Life {
    fn new(disk: SimDisk, group: u64, mark: u64, now: Instant) -> Life {
        Life {
            committer: Committer::new(disk, group),
            queue: Queue::default(),
            sinks: BTreeMap::new(),
            events: BTreeMap::new(),
            waiting: BTreeMap::new(),
            durable: Ticket::NONE,
            wanted: Ticket::NONE,
            busy: false,
            mark: MarkTimer::new(mark, now),
            failed: None,
            fail_next: false,
        }
    }

    fn fail(&mut self, why: String) {
        self.failed = Some(why);
        self.events.clear();
        self.waiting.clear();
        self.queue.clear();
    }

    fn tell(&self, plane: PlaneId, completion: Completion) -> Option<(SharedSink, Completion)> {
        Some((self.sinks.get(&plane)?.clone(), completion))
    }
}

type Told = Vec<(SharedSink, Completion)>;

impl Inner {
    /// The next thing that is due by `until`, and what is to be told of it. None if there is none; then it is `until`.
    fn advance(&mut self, until: Instant) -> Option<Told> {
        let due = self.life.as_mut().and_then(|life| {
            let entry = life.events.first_entry().filter(|e| e.key().0 <= until)?;
            Some((entry.key().0, entry.remove()))
        });
        let Some((at, event)) = due else {
            self.now = self.now.max(until);
            return None;
        };
        self.now = self.now.max(at);
        Some(match event {
            Event::Begin => self.begin(),
            Event::Late => {
                self.want(Ticket(u64::MAX));
                Told::new()
            }
            Event::Finish => self.finish(),
            Event::Read(plane, id, read) => {
                let life = self.life.as_ref()?;
                let result = life.committer.disk().read(&read);
                life.tell(plane, Completion::Read { id, result }).into_iter().collect()
            }
        })
    }

    fn begin(&mut self) -> Told {
        if let Some(life) = self.life.as_mut().filter(|life| !life.queue.is_empty() && life.wanted <= life.queue.taken()) {
            life.busy = false;
            self.sequence += 1;
            life.events.insert((self.now + LATER_MAX, self.sequence), Event::Late);
            return Told::new();
        }
        let fails = self.faults.commit_fails > 0.0 && self.rng.random_bool(self.faults.commit_fails);
        let slow = self.faults.slow_sync > 0.0 && self.rng.random_bool(self.faults.slow_sync);
        let takes = between(&mut self.rng, if slow { self.faults.slow_sync_ms } else { self.faults.sync_ms });
        let in_append = self.rng.random_bool(0.5);
        let Some(life) = &mut self.life else { return Told::new() };
        let Some((last, entries)) = life.queue.take(self.faults.group_bytes_max) else {
            life.busy = false;
            return Told::new();
        };
        if fails || std::mem::take(&mut life.fail_next) {
            let disk = life.committer.disk_mut();
            (disk.fail_append, disk.fail_sync) = (in_append, !in_append);
        }
        if let Err(e) = life.committer.begin(last, entries) {
            life.fail(e.to_string());
        } else {
            self.sequence += 1;
            life.events.insert((self.now + takes, self.sequence), Event::Finish);
        }
        Told::new()
    }

    fn finish(&mut self) -> Told {
        let now = self.now;
        let Some(life) = &mut self.life else { return Told::new() };
        let done = match life.committer.finish() {
            Ok(Some(done)) => done,
            Ok(None) => return Told::new(),
            Err(e) => {
                life.fail(e.to_string());
                return Told::new();
            }
        };
        life.durable = done.durable;
        if let Some(mark) = life.mark.due(now, done.group) {
            life.committer.disk_mut().write_mark(mark);
        }
        let mut told: Told = life.sinks.values().map(|sink| (sink.clone(), Completion::Durable(done.durable))).collect();
        for (plane, shard, result) in done.epochs {
            told.extend(life.tell(plane, Completion::Epoch { shard, result }));
        }
        let later = life.waiting.split_off(&(Ticket(done.durable.0 + 1), 0));
        for (plane, id, read) in std::mem::replace(&mut life.waiting, later).into_values() {
            let takes = between(&mut self.rng, self.faults.read_ms);
            self.sequence += 1;
            life.events.insert((now + takes, self.sequence), Event::Read(plane, id, read));
        }
        self.sequence += 1;
        life.events.insert((now, self.sequence), Event::Begin);
        told
    }

    /// Somebody waits for a ticket.
    fn want(&mut self, ticket: Ticket) {
        let Some(life) = self.life.as_mut().filter(|l| l.failed.is_none()) else { return };
        life.wanted = ticket.min(life.queue.last()).max(life.wanted);
        if !life.busy && life.wanted > life.queue.taken() {
            life.busy = true;
            self.sequence += 1;
            life.events.insert((self.now, self.sequence), Event::Begin);
        }
    }

    fn push(&mut self, plane: PlaneId, entry: Entry, later: bool) -> Ticket {
        let Some(life) = self.life.as_mut().filter(|l| l.failed.is_none() && l.sinks.contains_key(&plane)) else {
            return Ticket(u64::MAX);
        };
        let ticket = match life.queue.push(entry) {
            Ok(ticket) => ticket,
            Err((why @ (Full::Queue | Full::Bounds), _)) => {
                life.fail(why.to_string());
                return Ticket(u64::MAX);
            }
        };
        if !later {
            self.want(ticket);
        } else if !life.busy {
            self.sequence += 1;
            life.events.insert((self.now + LATER_MAX, self.sequence), Event::Late);
        }
        ticket
    }
}

fn between(rng: &mut SmallRng, (low, high): (u64, u64)) -> Duration {
    Duration::from_millis(rng.random_range(low..=high.max(low)))
}

impl Store for SimStore {
    fn order(&self) -> Order {
        Order::Journal
    }

    fn register(&self, sink: Sink) -> PlaneId {
        let mut inner = self.lock();
        let plane = PlaneId(inner.planes);
        inner.planes += 1;
        if let Some(life) = &mut inner.life {
            life.sinks.insert(plane, sink.into());
        }
        plane
    }

    fn commit(&self, plane: PlaneId, stamp: u64, batch: Batch) -> Ticket {
        self.lock().push(plane, Entry::Batch { stamp, batch }, false)
    }

    fn commit_later(&self, plane: PlaneId, stamp: u64, batch: Batch) -> Ticket {
        self.lock().push(plane, Entry::Batch { stamp, batch }, true)
    }

    fn hurry(&self, ticket: Ticket) {
        self.lock().want(ticket);
    }

    fn read(&self, plane: PlaneId, id: u64, after: Ticket, read: Read) {
        let inner = &mut *self.lock();
        let takes = between(&mut inner.rng, inner.faults.read_ms);
        let Some(life) = inner.life.as_mut().filter(|l| l.failed.is_none()) else { return };
        inner.sequence += 1;
        if after <= life.durable {
            life.events.insert((inner.now + takes, inner.sequence), Event::Read(plane, id, read));
        } else {
            life.waiting.insert((after, inner.sequence), (plane, id, read));
            inner.want(after);
        }
    }

    fn raise_epoch(&self, plane: PlaneId, shard: ShardId, expected: Option<Epoch>, to: Epoch) {
        self.lock().push(plane, Entry::Epoch { plane, shard, expected, to }, false);
    }

    fn health(&self) -> Health {
        let inner = self.lock();
        match &inner.life {
            None => Health::Failed,
            Some(life) if life.failed.is_some() => Health::Failed,
            Some(_) if inner.low_space => Health::LowSpace,
            Some(life) if life.queue.is_high() => Health::Busy,
            Some(_) => Health::Ok,
        }
    }
}
