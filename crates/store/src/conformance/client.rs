//! A client that waits, for the cases.

use super::Harness;
use crate::{Cell, Completion, Order, Page, PlaneId, Read, Store, StoreError};
use bytes::Bytes;
use std::sync::{Arc, Mutex, PoisonError};
use types::{Batch, Collection, Epoch, Op, Partition, ShardId, Ticket};

type Log = Arc<Mutex<Vec<Completion>>>;

/// A plane of a store under test, with everything it was told.
pub struct Client<'a> {
    name: &'static str,
    harness: &'a mut dyn Harness,
    store: Arc<dyn Store>,
    plane: PlaneId,
    log: Log,
    stamp: u64,
    reads: u64,
}

impl<'a> Client<'a> {
    /// Register a plane.
    pub fn new(name: &'static str, harness: &'a mut dyn Harness) -> Client<'a> {
        let store = harness.store();
        let (plane, log) = register(&*store);
        Client { name, harness, store, plane, log, stamp: 1 << 32, reads: 0 }
    }

    pub(super) fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// A second plane and what it hears.
    pub(super) fn other_plane(&self) -> (PlaneId, Log) {
        register(&*self.store)
    }

    pub(super) fn journal(&self) -> bool {
        self.store.order() == Order::Journal
    }

    pub(super) fn heard(&self) -> Vec<Completion> {
        lock(&self.log)
    }

    /// Close the store and open it again, as a new plane. False if it keeps nothing.
    pub(super) fn reopen(&mut self) -> bool {
        // The old store must be gone before the new one can have the data.
        self.store = Arc::new(crate::memory::Plain::stepped(Order::Journal));
        if !self.harness.reopen() {
            return false;
        }
        self.store = self.harness.store();
        (self.plane, self.log) = register(&*self.store);
        true
    }

    /// Commit with the next stamp; do not wait.
    pub(super) fn commit(&mut self, p: &Partition, ops: Vec<Op>) -> Ticket {
        self.stamp += 1;
        self.commit_at(self.stamp, p, ops)
    }

    pub(super) fn commit_at(&mut self, stamp: u64, p: &Partition, ops: Vec<Op>) -> Ticket {
        self.store.commit(self.plane, stamp, Batch { partition: p.clone(), ops: ops.into() })
    }

    /// Commit and wait until it is durable.
    pub(super) fn write(&mut self, p: &Partition, ops: Vec<Op>) -> Ticket {
        let ticket = self.commit(p, ops);
        self.wait_for(ticket);
        ticket
    }

    pub(super) fn wait_for(&mut self, ticket: Ticket) {
        let log = self.log.clone();
        self.wait(&mut || {
            find(&log, 0, |c| match c {
                Completion::Durable(t) => (*t >= ticket).then_some(()),
                Completion::Committed(t) => (*t == ticket).then_some(()),
                _ => None,
            })
            .is_some()
        });
    }

    pub(super) fn wait(&mut self, done: &mut dyn FnMut() -> bool) {
        assert!(self.harness.drive(done), "{}: not done; heard {:?}", self.name, tail(&self.log));
    }

    /// Ask for a page; do not wait. The number to give to [`Client::page`].
    pub(super) fn ask(&mut self, after: Ticket, read: Read) -> u64 {
        self.reads += 1;
        self.store.read(self.plane, self.reads, after, read);
        self.reads
    }

    pub(super) fn answer(&mut self, id: u64) -> Result<Page, StoreError> {
        let log = self.log.clone();
        let answer = move || {
            find(&log, 0, |c| match c {
                Completion::Read { id: of, result } if *of == id => Some(result.clone()),
                _ => None,
            })
        };
        self.wait(&mut || answer().is_some());
        answer().expect("waited for it")
    }

    /// Read now, again if the store could not answer in time.
    pub(super) fn read(&mut self, after: Ticket, read: Read) -> Page {
        for _ in 0..20 {
            let id = self.ask(after, read.clone());
            match self.answer(id) {
                Ok(page) => return page,
                Err(StoreError::Timeout) => {}
                Err(e) => panic!("{}: {e}", self.name),
            }
        }
        panic!("{}: no answer to {read:?}", self.name)
    }

    pub(super) fn all(&mut self, p: &Partition) -> Vec<(Bytes, Bytes)> {
        pairs(self.read(Ticket::NONE, Read::all(p.clone())))
    }

    /// Raise an epoch and wait.
    pub(super) fn raise(&mut self, shard: u16, expected: Option<u32>, to: u32) -> Result<u32, Option<u32>> {
        let seen = self.heard().len();
        self.store.raise_epoch(self.plane, ShardId(shard), expected.map(Epoch), Epoch(to));
        let log = self.log.clone();
        let answer = move || {
            find(&log, seen, |c| match c {
                Completion::Epoch { shard: of, result } if *of == ShardId(shard) => Some(*result),
                _ => None,
            })
        };
        self.wait(&mut || answer().is_some());
        answer().expect("waited for it").map(|e| e.0).map_err(|c| c.current.map(|e| e.0))
    }
}

fn register(store: &dyn Store) -> (PlaneId, Log) {
    let log = Log::default();
    let sink = log.clone();
    let plane = store.register(Box::new(move |c| sink.lock().unwrap_or_else(PoisonError::into_inner).push(c)));
    (plane, log)
}

/// All that was heard.
pub(super) fn lock(log: &Log) -> Vec<Completion> {
    log.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// The first of what was heard from `skip` on that `pick` takes.
fn find<T>(log: &Log, skip: usize, pick: impl FnMut(&Completion) -> Option<T>) -> Option<T> {
    let heard = log.lock().unwrap_or_else(PoisonError::into_inner);
    heard.get(skip..)?.iter().find_map(pick)
}

fn tail(log: &Log) -> Vec<Completion> {
    let all = lock(log);
    all[all.len().saturating_sub(5)..].to_vec()
}

pub(super) fn pairs(page: Page) -> Vec<(Bytes, Bytes)> {
    page.rows.into_iter().map(|Cell { key, value, .. }| (key, value)).collect()
}

pub(super) fn partition(collection: Collection, key: &[u8]) -> Partition {
    Partition { collection, key: Bytes::copy_from_slice(key) }
}

pub(super) fn put(key: &[u8], value: &[u8]) -> Op {
    Op::Put { key: Bytes::copy_from_slice(key), value: Bytes::copy_from_slice(value) }
}

pub(super) fn delete(key: &[u8]) -> Op {
    Op::Delete { key: Bytes::copy_from_slice(key) }
}
