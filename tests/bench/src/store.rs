//! A store that keeps accounts and forgets messages: what is measured is not a map in memory.

use std::sync::atomic::{AtomicU64, Ordering};
use store::memory::Plain;
use store::{Health, Order, PlaneId, Read, Sink, Store};
use types::{Batch, Collection, Epoch, Op, ShardId, Ticket};

/// See the module. Everything is durable when [`Forgetful::step`] has been called.
pub struct Forgetful {
    kept: Plain,
    /// Cells written, and bytes of their keys and values.
    pub puts: AtomicU64,
    /// Cells deleted.
    pub deletes: AtomicU64,
    /// See [`Forgetful::puts`].
    pub bytes: AtomicU64,
}

impl Default for Forgetful {
    fn default() -> Forgetful {
        Forgetful { kept: Plain::stepped(Order::Journal), puts: AtomicU64::new(0), deletes: AtomicU64::new(0), bytes: AtomicU64::new(0) }
    }
}

impl Forgetful {
    /// What was asked for happens.
    pub fn step(&self) {
        self.kept.step_all();
    }

    fn count(&self, batch: &Batch) {
        for op in &batch.ops {
            match op {
                Op::Put { key, value } => {
                    self.puts.fetch_add(1, Ordering::Relaxed);
                    self.bytes.fetch_add((batch.partition.key.len() + key.len() + value.len()) as u64, Ordering::Relaxed);
                }
                Op::Delete { .. } => drop(self.deletes.fetch_add(1, Ordering::Relaxed)),
            }
        }
    }
}

impl Store for Forgetful {
    fn order(&self) -> Order {
        self.kept.order()
    }

    fn register(&self, sink: Sink) -> PlaneId {
        self.kept.register(sink)
    }

    fn commit(&self, plane: PlaneId, stamp: u64, mut batch: Batch) -> Ticket {
        self.count(&batch);
        if batch.partition.collection == Collection::Log {
            batch.ops.clear();
        }
        self.kept.commit(plane, stamp, batch)
    }

    fn read(&self, plane: PlaneId, id: u64, after: Ticket, read: Read) {
        self.kept.read(plane, id, after, read);
    }

    fn raise_epoch(&self, plane: PlaneId, shard: ShardId, expected: Option<Epoch>, to: Epoch) {
        self.kept.raise_epoch(plane, shard, expected, to);
    }

    fn health(&self) -> Health {
        self.kept.health()
    }
}
