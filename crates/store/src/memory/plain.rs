//! A store without faults.

use super::cells::{Cells, versions};
use crate::{Cell, Completion, EpochConflict, Health, Order, Page, PlaneId, Read, Sink, Store, decide_epoch};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use types::{Batch, Epoch, Partition, ShardId, Ticket};

/// A store in memory, without faults, for unit tests.
///
/// Everything happens in the order it was asked for: at once, within the call ([`Plain::immediate`]), or one thing per
/// [`Plain::step`]. Its queue is bounded by what the test asks of it.
pub struct Plain {
    order: Order,
    immediate: bool,
    inner: Mutex<Inner>,
}

struct Inner {
    sinks: Vec<Arc<dyn Fn(Completion) + Send + Sync>>,
    queue: VecDeque<Work>,
    early: Vec<Work>,
    cells: Cells,
    epochs: BTreeMap<ShardId, Epoch>,
    issued: u64,
    durable: u64,
    health: Health,
}

enum Work {
    Commit { plane: PlaneId, ticket: Ticket, stamp: u64, batch: Batch },
    Read { plane: PlaneId, id: u64, after: Ticket, read: Read },
    Epoch { plane: PlaneId, shard: ShardId, expected: Option<Epoch>, to: Epoch },
}

impl Plain {
    /// Completions come within the call that asks, so [`Completion::Durable`] before [`Store::commit`] has returned.
    pub fn immediate(order: Order) -> Plain {
        Plain::new(order, true)
    }

    /// Nothing happens but in [`Plain::step`].
    pub fn stepped(order: Order) -> Plain {
        Plain::new(order, false)
    }

    fn new(order: Order, immediate: bool) -> Plain {
        let inner = Inner {
            sinks: Vec::new(),
            queue: VecDeque::new(),
            early: Vec::new(),
            cells: Cells::default(),
            epochs: BTreeMap::new(),
            issued: 0,
            durable: 0,
            health: Health::Ok,
        };
        Plain { order, immediate, inner: Mutex::new(inner) }
    }

    /// Do the oldest thing that was asked for. False if there was none.
    pub fn step(&self) -> bool {
        let mut inner = self.lock();
        let Some(work) = inner.queue.pop_front() else { return false };
        let order = self.order;
        let told = inner.work(order, work);
        drop(inner);
        for (sink, completion) in told {
            sink(completion);
        }
        true
    }

    /// Do everything that was asked for, and what comes of it.
    pub fn step_all(&self) {
        while self.step() {}
    }

    /// How many things wait.
    pub fn waiting(&self) -> usize {
        let inner = self.lock();
        inner.queue.len() + inner.early.len()
    }

    /// What [`Store::health`] says from now on.
    pub fn set_health(&self, health: Health) {
        self.lock().health = health;
    }

    /// The cells of a partition, by key.
    pub fn dump(&self, partition: &Partition) -> Vec<Cell> {
        self.lock().cells.scan(&Read::all(partition.clone())).rows
    }

    /// The partitions that were written to.
    pub fn partitions(&self) -> Vec<Partition> {
        self.lock().cells.partitions().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn queue(&self, mut inner: MutexGuard<'_, Inner>, work: Work) {
        inner.queue.push_back(work);
        drop(inner);
        if self.immediate {
            self.step_all();
        }
    }
}

type Told = Vec<(Arc<dyn Fn(Completion) + Send + Sync>, Completion)>;

impl Inner {
    fn work(&mut self, order: Order, work: Work) -> Told {
        match work {
            Work::Commit { plane, ticket, stamp, batch } => {
                match order {
                    Order::Journal => self.cells.overwrite(&batch.partition, stamp, &batch.ops),
                    Order::PerBatch => self.cells.merge(&batch.partition, &versions(stamp, batch.ops)),
                }
                self.durable = ticket.0;
                // Reads that asked for a ticket before anybody had it.
                let (ready, early) =
                    std::mem::take(&mut self.early).into_iter().partition(|w| matches!(w, Work::Read { after, .. } if after.0 <= ticket.0));
                self.early = early;
                self.queue.extend::<Vec<_>>(ready);
                match order {
                    Order::Journal => self.sinks.iter().map(|s| (s.clone(), Completion::Durable(ticket))).collect(),
                    Order::PerBatch => self.tell(plane, Completion::Committed(ticket)),
                }
            }
            Work::Read { plane, id, after, read } if after.0 > self.durable => {
                self.early.push(Work::Read { plane, id, after, read });
                Vec::new()
            }
            Work::Read { plane, id, read, .. } => {
                let page: Page = self.cells.scan(&read);
                self.tell(plane, Completion::Read { id, result: Ok(page) })
            }
            Work::Epoch { plane, shard, expected, to } => {
                let result: Result<Epoch, EpochConflict> = decide_epoch(self.epochs.get(&shard).copied(), expected, to);
                if let Ok(epoch) = result {
                    self.epochs.insert(shard, epoch);
                }
                self.tell(plane, Completion::Epoch { shard, result })
            }
        }
    }

    fn tell(&self, plane: PlaneId, completion: Completion) -> Told {
        self.sinks.get(plane.0 as usize).map(|s| (s.clone(), completion)).into_iter().collect()
    }
}

impl Store for Plain {
    fn order(&self) -> Order {
        self.order
    }

    fn register(&self, sink: Sink) -> PlaneId {
        let mut inner = self.lock();
        inner.sinks.push(sink.into());
        PlaneId(inner.sinks.len() as u32 - 1)
    }

    fn commit(&self, plane: PlaneId, stamp: u64, batch: Batch) -> Ticket {
        let mut inner = self.lock();
        inner.issued += 1;
        let ticket = Ticket(inner.issued);
        self.queue(inner, Work::Commit { plane, ticket, stamp, batch });
        ticket
    }

    fn read(&self, plane: PlaneId, id: u64, after: Ticket, read: Read) {
        self.queue(self.lock(), Work::Read { plane, id, after, read });
    }

    fn raise_epoch(&self, plane: PlaneId, shard: ShardId, expected: Option<Epoch>, to: Epoch) {
        self.queue(self.lock(), Work::Epoch { plane, shard, expected, to });
    }

    fn health(&self) -> Health {
        self.lock().health
    }
}
