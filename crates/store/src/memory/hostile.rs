//! A store that is allowed everything Cassandra is allowed.

use super::cells::{Cells, Row, page, versions};
use super::hostility::Hostility;
use crate::{Cell, Completion, Health, Order, PlaneId, Read, Sink, Store, StoreError, decide_epoch};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use types::{Batch, Epoch, Instant, Partition, ShardId, Ticket};

/// Replicas of every partition.
pub const REPLICAS: usize = 3;
const QUORUM: usize = 2;
const WEATHER_EVERY: Duration = Duration::from_secs(1);

/// Three replicas, QUORUM writes and reads, per-cell timestamps, and faults as [`Hostility`] says. [`Order::PerBatch`].
///
/// - A batch is atomic at each replica, and reaches each at a time of its own, or never; an attempt succeeds when two have
///   acknowledged it. Otherwise the caller gives up on the attempt, hears `Slow`, and the identical batch is sent again,
///   while what was sent before may still arrive, seconds or minutes later.
/// - A read asks two replicas, each at its own time, and takes the newest version per cell. So it sees every batch that
///   was committed before it began, and of an unknown one perhaps nothing, perhaps all; the next read may differ. Read
///   repair writes back what was read and no more: a read of one cell can leave a part of an unknown batch behind, so that
///   a later, wider read sees that part alone (Cassandra says the same of its own).
/// - Epochs are linearizable and need two replicas; their answers can be lost and are asked for again.
/// - What a dead client had under way may arrive at any later time, or never ([`Hostile::client_died`]).
///
/// Deterministic: one seeded source, one queue of events, no thread and no clock. Time passes in [`Hostile::step`] alone:
/// step to the present before asking anything. Completions come in `step` alone. Inspection draws nothing.
pub struct Hostile {
    inner: Mutex<Inner>,
}

type SharedSink = Arc<dyn Fn(Completion) + Send + Sync>;

struct Inner {
    rng: SmallRng,
    knobs: Hostility,
    now: Instant,
    weather_at: Instant,
    sequence: u64,
    queue: BTreeMap<(Instant, u64), Event>,
    replicas: [Replica; REPLICAS],
    sinks: Vec<Option<SharedSink>>,
    told: Vec<(PlaneId, Completion)>,
    tickets: u64,
    writes: BTreeMap<Ticket, Write>,
    asks: BTreeMap<u64, Ask>,
    reads: BTreeMap<u64, Reading>,
    waiting: BTreeMap<Ticket, Vec<u64>>,
    epochs: BTreeMap<ShardId, Epoch>,
    health: Health,
}

#[derive(Default)]
struct Replica {
    cells: Cells,
    down_until: Instant,
    slow_until: Instant,
    slow_by: u64,
}

struct Mutation {
    partition: Partition,
    cells: Row,
}

struct Write {
    plane: PlaneId,
    mutation: Arc<Mutation>,
    attempt: u32,
    acks: usize,
}

#[derive(Clone, Copy)]
struct Ask {
    plane: PlaneId,
    shard: ShardId,
    expected: Option<Epoch>,
    to: Epoch,
    attempt: u32,
}

struct Reading {
    plane: PlaneId,
    id: u64,
    read: Read,
    attempt: u32,
    fetched: Vec<(usize, Row)>,
}

enum Event {
    /// A batch reaches a replica. `attempt` is none if nobody waits for its acknowledgement.
    Arrive {
        plane: Option<PlaneId>,
        replica: usize,
        mutation: Arc<Mutation>,
        attempt: Option<(Ticket, u32)>,
    },
    Ack {
        ticket: Ticket,
        attempt: u32,
    },
    WriteDone {
        ticket: Ticket,
        attempt: u32,
    },
    WriteTimeout {
        ticket: Ticket,
        attempt: u32,
    },
    WriteAgain {
        ticket: Ticket,
    },
    Fetch {
        reading: u64,
        attempt: u32,
        replica: usize,
    },
    Fetched {
        reading: u64,
        attempt: u32,
        replica: usize,
        row: Row,
    },
    ReadTimeout {
        reading: u64,
        attempt: u32,
    },
    ReadAgain {
        reading: u64,
    },
    Answer {
        plane: PlaneId,
        completion: Completion,
    },
    /// An epoch is decided.
    Decide {
        number: u64,
        ask: Ask,
    },
    Decided {
        number: u64,
        completion: Completion,
    },
    AskTimeout {
        number: u64,
        attempt: u32,
    },
    AskAgain {
        number: u64,
    },
}

impl Hostile {
    /// An empty store at instant 0.
    pub fn new(rng: SmallRng, knobs: Hostility) -> Hostile {
        let inner = Inner {
            rng,
            knobs,
            now: Instant(0),
            weather_at: Instant(0) + WEATHER_EVERY,
            sequence: 0,
            queue: BTreeMap::new(),
            replicas: Default::default(),
            sinks: Vec::new(),
            told: Vec::new(),
            tickets: 0,
            writes: BTreeMap::new(),
            asks: BTreeMap::new(),
            reads: BTreeMap::new(),
            waiting: BTreeMap::new(),
            epochs: BTreeMap::new(),
            health: Health::Ok,
        };
        Hostile { inner: Mutex::new(inner) }
    }

    /// The same from a seed.
    pub fn seeded(seed: u64, knobs: Hostility) -> Hostile {
        Hostile::new(SmallRng::seed_from_u64(seed), knobs)
    }

    /// Let time pass up to `now` (never backwards, and a moment that comes, so not [`Instant::NEVER`]): everything due
    /// happens, in order, and completions are delivered.
    pub fn step(&self, now: Instant) {
        loop {
            let mut inner = self.lock();
            let more = inner.advance(now);
            let told: Vec<_> = std::mem::take(&mut inner.told)
                .into_iter()
                .filter_map(|(plane, completion)| Some((inner.sinks.get(plane.0 as usize)?.clone()?, completion)))
                .collect();
            drop(inner);
            for (sink, completion) in told {
                sink(completion);
            }
            if !more {
                return;
            }
        }
    }

    /// When something will happen next; none if nothing is under way.
    pub fn next_event(&self) -> Option<Instant> {
        self.lock().queue.keys().next().map(|(at, _)| *at)
    }

    /// The process that owned `plane` is gone. Nothing more is delivered to it or retried for it; what it had under way
    /// is lost, late or neither, by the `orphan` knobs.
    pub fn client_died(&self, plane: PlaneId) {
        self.lock().client_died(plane);
    }

    /// Replace the knobs. What is under way is not touched.
    pub fn set_hostility(&self, knobs: Hostility) {
        self.lock().knobs = knobs;
    }

    /// No more faults: every replica is up and quick. What is already late stays late.
    pub fn calm(&self) {
        let mut inner = self.lock();
        inner.knobs = Hostility::none();
        for replica in &mut inner.replicas {
            replica.down_until = Instant(0);
            replica.slow_until = Instant(0);
        }
    }

    /// Replica `index` (below [`REPLICAS`]; others are ignored) does not answer until `until`.
    pub fn set_down(&self, index: usize, until: Instant) {
        if let Some(replica) = self.lock().replicas.get_mut(index) {
            replica.down_until = until;
        }
    }

    /// What [`Store::health`] says from now on.
    pub fn set_health(&self, health: Health) {
        self.lock().health = health;
    }

    /// The newest version of every live cell over all replicas, by key.
    pub fn dump(&self, partition: &Partition) -> Vec<Cell> {
        let inner = self.lock();
        let mut all = Cells::default();
        for replica in &inner.replicas {
            if let Some(row) = replica.cells.row(partition) {
                all.merge(partition, row);
            }
        }
        all.scan(&Read::all(partition.clone())).rows
    }

    /// The live cells of one replica (below [`REPLICAS`]), by key.
    pub fn dump_replica(&self, index: usize, partition: &Partition) -> Vec<Cell> {
        let inner = self.lock();
        inner.replicas.get(index).map(|r| r.cells.scan(&Read::all(partition.clone())).rows).unwrap_or_default()
    }

    /// Every partition that some replica was told of.
    pub fn partitions(&self) -> Vec<Partition> {
        let inner = self.lock();
        let mut all: Vec<_> = inner.replicas.iter().flat_map(|r| r.cells.partitions().cloned()).collect();
        all.sort();
        all.dedup();
        all
    }

    /// Batches of living clients whose outcome is not known yet.
    pub fn undecided(&self) -> usize {
        self.lock().writes.len()
    }

    /// Batches, also of dead clients and earlier attempts, that some replica may still be about to apply.
    pub fn under_way(&self) -> usize {
        self.lock().queue.values().filter(|e| matches!(e, Event::Arrive { .. })).count()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for Hostile {
    fn order(&self) -> Order {
        Order::PerBatch
    }

    fn register(&self, sink: Sink) -> PlaneId {
        let mut inner = self.lock();
        inner.sinks.push(Some(sink.into()));
        PlaneId(inner.sinks.len() as u32 - 1)
    }

    fn commit(&self, plane: PlaneId, stamp: u64, batch: Batch) -> Ticket {
        let mut inner = self.lock();
        inner.tickets += 1;
        let ticket = Ticket(inner.tickets);
        if inner.alive(plane) {
            let mutation = Mutation { partition: batch.partition, cells: versions(stamp, batch.ops) };
            inner.writes.insert(ticket, Write { plane, mutation: Arc::new(mutation), attempt: 0, acks: 0 });
            inner.send_write(ticket);
        }
        ticket
    }

    fn read(&self, plane: PlaneId, id: u64, after: Ticket, read: Read) {
        let mut inner = self.lock();
        if !inner.alive(plane) {
            return;
        }
        inner.sequence += 1;
        let number = inner.sequence;
        inner.reads.insert(number, Reading { plane, id, read, attempt: 0, fetched: Vec::new() });
        if inner.writes.contains_key(&after) {
            inner.waiting.entry(after).or_default().push(number);
        } else {
            inner.send_read(number);
        }
    }

    fn raise_epoch(&self, plane: PlaneId, shard: ShardId, expected: Option<Epoch>, to: Epoch) {
        let mut inner = self.lock();
        if inner.alive(plane) {
            inner.sequence += 1;
            let number = inner.sequence;
            inner.asks.insert(number, Ask { plane, shard, expected, to, attempt: 0 });
            inner.send_ask(number);
        }
    }

    fn health(&self) -> Health {
        self.lock().health
    }
}

impl Inner {
    /// Do the next thing that is due by `until`. False if there is none; then it is `until`.
    fn advance(&mut self, until: Instant) -> bool {
        let next = self.queue.first_key_value().map_or(Instant::NEVER, |((at, _), _)| *at);
        if self.weather_at <= until && self.weather_at <= next {
            self.now = self.now.max(self.weather_at);
            self.weather_at = self.weather_at + WEATHER_EVERY;
            self.weather();
            return true;
        }
        if next <= until
            && let Some(((at, _), event)) = self.queue.pop_first()
        {
            self.now = self.now.max(at);
            self.happen(event);
            return true;
        }
        self.now = self.now.max(until);
        false
    }

    fn weather(&mut self) {
        for i in 0..REPLICAS {
            if self.chance(self.knobs.down) {
                self.replicas[i].down_until = self.after(self.knobs.down_ms);
            }
            if self.chance(self.knobs.slow) {
                self.replicas[i].slow_until = self.after(self.knobs.slow_for_ms);
                self.replicas[i].slow_by = self.between(self.knobs.slow_ms);
            }
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrive { replica, mutation, attempt, .. } => self.arrive(replica, mutation, attempt),
            Event::Ack { ticket, attempt } => self.ack(ticket, attempt),
            Event::WriteDone { ticket, attempt } => self.write_done(ticket, attempt),
            Event::WriteTimeout { ticket, attempt } => self.write_timeout(ticket, attempt),
            Event::WriteAgain { ticket } => self.send_write(ticket),
            Event::Fetch { reading, attempt, replica } => self.fetch(reading, attempt, replica),
            Event::Fetched { reading, attempt, replica, row } => self.fetched(reading, attempt, replica, row),
            Event::ReadTimeout { reading, attempt } => self.read_timeout(reading, attempt),
            Event::ReadAgain { reading } => self.send_read(reading),
            Event::Answer { plane, completion } => self.told.push((plane, completion)),
            Event::Decide { number, ask } => self.decide(number, ask),
            Event::Decided { number, completion } => {
                if let Some(ask) = self.asks.remove(&number) {
                    self.told.push((ask.plane, completion));
                }
            }
            Event::AskTimeout { number, attempt } => {
                if let Some(ask) = self.asks.get_mut(&number)
                    && ask.attempt == attempt
                {
                    ask.attempt += 1;
                    let at = self.after(self.knobs.retry_ms);
                    self.at(at, Event::AskAgain { number });
                }
            }
            Event::AskAgain { number } => self.send_ask(number),
        }
    }

    // Writes.

    fn send_write(&mut self, ticket: Ticket) {
        let Some(write) = self.writes.get_mut(&ticket) else { return };
        write.acks = 0;
        let (plane, mutation, attempt) = (write.plane, write.mutation.clone(), write.attempt);
        self.at(self.now + ms(self.knobs.timeout_ms), Event::WriteTimeout { ticket, attempt });
        if self.chance(self.knobs.request_lost) {
            return;
        }
        for replica in 0..REPLICAS {
            let at = self.hop(replica);
            if !self.chance(self.knobs.lost) {
                let mutation = mutation.clone();
                self.at(at, Event::Arrive { plane: Some(plane), replica, mutation, attempt: Some((ticket, attempt)) });
            }
        }
    }

    fn arrive(&mut self, replica: usize, mutation: Arc<Mutation>, attempt: Option<(Ticket, u32)>) {
        let down_until = self.replicas[replica].down_until;
        if down_until > self.now {
            if self.chance(self.knobs.hint) {
                // The hint is the store's own: its client's death does not touch it, and nobody waits for it.
                self.at(down_until, Event::Arrive { plane: None, replica, mutation, attempt: None });
            }
            return;
        }
        self.replicas[replica].cells.merge(&mutation.partition, &mutation.cells);
        if let Some((ticket, attempt)) = attempt {
            let at = self.hop(replica);
            self.at(at, Event::Ack { ticket, attempt });
        }
    }

    fn ack(&mut self, ticket: Ticket, attempt: u32) {
        let Some(write) = self.writes.get_mut(&ticket) else { return };
        if write.attempt != attempt {
            return;
        }
        write.acks += 1;
        if write.acks == QUORUM && !self.chance(self.knobs.answer_lost) {
            let at = self.after(self.knobs.hop_ms);
            self.at(at, Event::WriteDone { ticket, attempt });
        }
    }

    fn write_done(&mut self, ticket: Ticket, attempt: u32) {
        if self.writes.get(&ticket).is_none_or(|w| w.attempt != attempt) {
            return;
        }
        if let Some(write) = self.writes.remove(&ticket) {
            self.told.push((write.plane, Completion::Committed(ticket)));
        }
        for reading in self.waiting.remove(&ticket).unwrap_or_default() {
            self.send_read(reading);
        }
    }

    fn write_timeout(&mut self, ticket: Ticket, attempt: u32) {
        let Some(write) = self.writes.get_mut(&ticket) else { return };
        if write.attempt == attempt {
            write.attempt += 1;
            let plane = write.plane;
            self.told.push((plane, Completion::Slow(ticket)));
            let at = self.after(self.knobs.retry_ms);
            self.at(at, Event::WriteAgain { ticket });
        }
    }

    // Reads.

    fn send_read(&mut self, reading: u64) {
        let Some(r) = self.reads.get_mut(&reading) else { return };
        r.fetched.clear();
        let attempt = r.attempt;
        self.at(self.now + ms(self.knobs.timeout_ms), Event::ReadTimeout { reading, attempt });
        if self.chance(self.knobs.request_lost) {
            return;
        }
        // The coordinator avoids a replica that it knows to be down, if it can.
        let now = self.now;
        let mut chosen: Vec<usize> = (0..REPLICAS).filter(|i| self.replicas[*i].down_until <= now).collect();
        if chosen.len() < QUORUM {
            chosen = (0..REPLICAS).collect();
        }
        while chosen.len() > QUORUM {
            let out = self.rng.random_range(0..chosen.len());
            chosen.remove(out);
        }
        for replica in chosen {
            let at = self.hop(replica);
            self.at(at, Event::Fetch { reading, attempt, replica });
        }
    }

    fn fetch(&mut self, reading: u64, attempt: u32, replica: usize) {
        let Some(r) = self.reads.get(&reading) else { return };
        if r.attempt != attempt || self.replicas[replica].down_until > self.now {
            return;
        }
        let row = self.replicas[replica].cells.slice(&r.read);
        let at = self.hop(replica);
        self.at(at, Event::Fetched { reading, attempt, replica, row });
    }

    fn fetched(&mut self, reading: u64, attempt: u32, replica: usize, row: Row) {
        let Some(r) = self.reads.get_mut(&reading) else { return };
        if r.attempt != attempt {
            return;
        }
        r.fetched.push((replica, row));
        if r.fetched.len() < QUORUM || self.chance(self.knobs.answer_lost) {
            return;
        }
        let Some(r) = self.reads.remove(&reading) else { return };
        let mut merged = Cells::default();
        for (_, row) in &r.fetched {
            merged.merge(&r.read.partition, row);
        }
        let row = merged.slice(&r.read);
        if self.chance(self.knobs.read_repair) {
            self.repair(&r, &row);
        }
        let completion = Completion::Read { id: r.id, result: Ok(page(&row, &r.read)) };
        // Behind the repair, which takes no longer than two hops.
        let at = self.now + ms(self.knobs.hop_ms.1 * 2);
        self.at(at, Event::Answer { plane: r.plane, completion });
    }

    fn repair(&mut self, r: &Reading, row: &Row) {
        for (replica, had) in &r.fetched {
            let cells: Row = row
                .iter()
                .filter(|(key, version)| had.get(*key) != Some(version))
                .map(|(key, version)| (key.clone(), version.clone()))
                .collect();
            if !cells.is_empty() {
                let mutation = Arc::new(Mutation { partition: r.read.partition.clone(), cells });
                let at = self.after(self.knobs.hop_ms);
                self.at(at, Event::Arrive { plane: None, replica: *replica, mutation, attempt: None });
            }
        }
    }

    fn read_timeout(&mut self, reading: u64, attempt: u32) {
        let Some(r) = self.reads.get_mut(&reading) else { return };
        if r.attempt != attempt {
            return;
        }
        r.attempt += 1;
        if r.attempt < self.knobs.read_attempts {
            let at = self.after(self.knobs.retry_ms);
            self.at(at, Event::ReadAgain { reading });
        } else if let Some(r) = self.reads.remove(&reading) {
            self.told.push((r.plane, Completion::Read { id: r.id, result: Err(StoreError::Timeout) }));
        }
    }

    // Epochs.

    fn send_ask(&mut self, number: u64) {
        let Some(ask) = self.asks.get(&number).copied() else { return };
        self.at(self.now + ms(self.knobs.timeout_ms), Event::AskTimeout { number, attempt: ask.attempt });
        if !self.chance(self.knobs.request_lost) {
            let at = self.hop(0);
            self.at(at, Event::Decide { number, ask });
        }
    }

    fn decide(&mut self, number: u64, ask: Ask) {
        let now = self.now;
        if self.replicas.iter().filter(|r| r.down_until <= now).count() < QUORUM {
            return;
        }
        let result = decide_epoch(self.epochs.get(&ask.shard).copied(), ask.expected, ask.to);
        if let Ok(epoch) = result {
            self.epochs.insert(ask.shard, epoch);
        }
        let current = self.asks.get(&number).is_some_and(|a| a.attempt == ask.attempt);
        if current && !self.chance(self.knobs.answer_lost) {
            let at = self.after(self.knobs.hop_ms);
            self.at(at, Event::Decided { number, completion: Completion::Epoch { shard: ask.shard, result } });
        }
    }

    fn client_died(&mut self, plane: PlaneId) {
        if let Some(sink) = self.sinks.get_mut(plane.0 as usize) {
            *sink = None;
        }
        let orphans: Vec<Ticket> = self.writes.iter().filter(|(_, w)| w.plane == plane).map(|(t, _)| *t).collect();
        for ticket in orphans {
            self.writes.remove(&ticket);
            // A read of another plane that waits for this one will never know.
            for reading in self.waiting.remove(&ticket).unwrap_or_default() {
                if let Some(r) = self.reads.remove(&reading) {
                    self.told.push((r.plane, Completion::Read { id: r.id, result: Err(StoreError::Timeout) }));
                }
            }
        }
        self.asks.retain(|_, ask| ask.plane != plane);
        self.reads.retain(|_, r| r.plane != plane);
        let theirs: Vec<(Instant, u64)> = self
            .queue
            .iter()
            .filter(|(_, event)| match event {
                Event::Arrive { plane: by, .. } => *by == Some(plane),
                Event::Decide { ask, .. } => ask.plane == plane,
                _ => false,
            })
            .map(|(key, _)| *key)
            .collect();
        for key in theirs {
            if self.chance(self.knobs.orphan_lost) {
                self.queue.remove(&key);
            } else if self.chance(self.knobs.orphan_late) {
                let later = ms(self.between(self.knobs.orphan_late_ms));
                if let Some(event) = self.queue.remove(&key) {
                    self.at(key.0 + later, event);
                }
            }
        }
    }

    fn alive(&self, plane: PlaneId) -> bool {
        self.sinks.get(plane.0 as usize).is_some_and(Option::is_some)
    }

    // Time and chance.

    fn at(&mut self, at: Instant, event: Event) {
        self.sequence += 1;
        self.queue.insert((at, self.sequence), event);
    }

    fn after(&mut self, range: (u64, u64)) -> Instant {
        let wait = self.between(range);
        self.now + ms(wait)
    }

    /// When a message to or from `replica` arrives.
    fn hop(&mut self, replica: usize) -> Instant {
        let range = if self.chance(self.knobs.late) { self.knobs.late_ms } else { self.knobs.hop_ms };
        let at = self.after(range);
        let replica = &self.replicas[replica];
        if replica.slow_until > self.now { at + ms(replica.slow_by) } else { at }
    }

    fn between(&mut self, (low, high): (u64, u64)) -> u64 {
        self.rng.random_range(low..=high.max(low))
    }

    fn chance(&mut self, p: f64) -> bool {
        // No draw for what is switched off: a swarm's member is not another run because a knob is there.
        p > 0.0 && self.rng.random_bool(p.min(1.0))
    }
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}
