//! What the threads of an open store share.

use crate::journal::{Entry, Full, Queue};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use store::{Completion, PlaneId, Read, StoreError};
use types::Ticket;

/// Reads that wait or run. Beyond that a read is answered with `Busy` and its caller asks again: each belongs to an
/// entity that loads, and parks what comes meanwhile.
pub const READS_MAX: usize = 16_384;

pub(crate) type SharedSink = Arc<dyn Fn(Completion) + Send + Sync>;
/// Called once, with what failed, when nothing more can become durable.
pub type OnFatal = Box<dyn Fn(&str) + Send + Sync>;

pub(crate) struct Shared {
    pub commits: Mutex<Commits>,
    /// The writer waits here for work.
    pub work: Condvar,
    /// Callers wait here for room.
    pub room: Condvar,
    sinks: RwLock<Vec<SharedSink>>,
    /// The last durable ticket.
    pub durable: AtomicU64,
    /// The last durable group.
    pub group: AtomicU64,
    pub reads: Mutex<Reads>,
    pub reads_work: Condvar,
    pub high: AtomicBool,
    pub low_space: AtomicBool,
    pub failed: AtomicBool,
    on_fatal: OnFatal,
}

#[derive(Default)]
pub(crate) struct Commits {
    pub queue: Queue,
    pub closed: bool,
    /// Callers that wait for room.
    pub held: usize,
    /// Somebody waits for the last entry that has this ticket, or an earlier one.
    pub wanted: Ticket,
}

impl Commits {
    /// Nobody waits for anything in the queue.
    pub fn may_wait(&self) -> bool {
        self.wanted.0 <= self.queue.taken().0
    }
}

#[derive(Default)]
pub(crate) struct Reads {
    pub ready: VecDeque<ReadJob>,
    /// By the ticket they wait for, in order of asking.
    pub waiting: BTreeMap<(Ticket, u64), ReadJob>,
    pub asked: u64,
    pub closed: bool,
}

pub(crate) struct ReadJob {
    pub plane: PlaneId,
    pub id: u64,
    pub read: Read,
}

/// A thread that panicked while it held a lock left a whole state: the guarded sections only move values.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub fn new(group: u64, on_fatal: OnFatal) -> Shared {
        Shared {
            commits: Mutex::default(),
            work: Condvar::new(),
            room: Condvar::new(),
            sinks: RwLock::default(),
            durable: AtomicU64::new(0),
            group: AtomicU64::new(group),
            reads: Mutex::default(),
            reads_work: Condvar::new(),
            high: AtomicBool::new(false),
            low_space: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            on_fatal,
        }
    }

    pub fn register(&self, sink: SharedSink) -> PlaneId {
        let mut sinks = self.sinks.write().unwrap_or_else(PoisonError::into_inner);
        sinks.push(sink);
        PlaneId(sinks.len() as u32 - 1)
    }

    pub fn tell(&self, plane: PlaneId, completion: Completion) {
        let sink = self.sinks.read().unwrap_or_else(PoisonError::into_inner).get(plane.0 as usize).cloned();
        if let Some(sink) = sink {
            sink(completion);
        }
    }

    pub fn tell_all(&self, completion: &Completion) {
        for sink in self.sinks.read().unwrap_or_else(PoisonError::into_inner).iter() {
            sink(completion.clone());
        }
    }

    /// Queue an entry; waits while the queue is full. The writer does not begin for one that nobody waits for (`later`). When
    /// the store has failed or closes nothing is queued, and the ticket is one that never becomes durable.
    pub fn push(&self, entry: Entry, later: bool) -> Ticket {
        let mut commits = lock(&self.commits);
        let mut entry = entry;
        loop {
            if commits.closed || self.failed.load(Ordering::Acquire) {
                return Ticket(u64::MAX);
            }
            let (empty, idle) = (commits.queue.is_empty(), commits.may_wait());
            match commits.queue.push(entry) {
                Ok(ticket) => {
                    self.high.store(commits.queue.is_high(), Ordering::Relaxed);
                    if !later {
                        commits.wanted = ticket;
                    }
                    drop(commits);
                    if empty || idle && !later {
                        self.work.notify_one();
                    }
                    return ticket;
                }
                Err((Full::Queue, back)) => {
                    entry = back;
                    commits.wanted = commits.queue.last();
                    self.work.notify_one();
                    commits.held += 1;
                    commits = self.room.wait(commits).unwrap_or_else(PoisonError::into_inner);
                    commits.held -= 1;
                }
                Err((Full::Bounds, _)) => {
                    drop(commits);
                    self.fail(&Full::Bounds.to_string());
                    return Ticket(u64::MAX);
                }
            }
        }
    }

    /// Somebody waits for a ticket that nobody waited for.
    pub fn hurry(&self, ticket: Ticket) {
        let mut commits = lock(&self.commits);
        let idle = commits.may_wait();
        commits.wanted = ticket.min(commits.queue.last()).max(commits.wanted);
        let wakes = idle && !commits.may_wait();
        drop(commits);
        if wakes {
            self.work.notify_one();
        }
    }

    /// Nothing more becomes durable. Waiting callers and reads are let go.
    pub fn fail(&self, what: &str) {
        if self.failed.swap(true, Ordering::AcqRel) {
            return;
        }
        tracing::error!(error = what, "the store failed; nothing more can be made durable");
        (self.on_fatal)(what);
        let mut commits = lock(&self.commits);
        commits.queue.clear();
        drop(commits);
        self.room.notify_all();
        self.work.notify_all();
        let mut reads = lock(&self.reads);
        let jobs: Vec<ReadJob> = std::mem::take(&mut reads.waiting).into_values().collect();
        drop(reads);
        for job in jobs {
            self.tell(job.plane, Completion::Read { id: job.id, result: Err(StoreError::Failed(what.to_owned())) });
        }
    }

    /// Queue a read, or refuse it.
    pub fn ask(&self, after: Ticket, job: ReadJob) {
        if after.0 > self.durable.load(Ordering::Acquire) {
            self.hurry(after);
        }
        let mut reads = lock(&self.reads);
        // Under the lock: `fail` sets it and then lets go what waits.
        let failed = self.failed.load(Ordering::Acquire);
        if failed || reads.closed || reads.ready.len() + reads.waiting.len() >= READS_MAX {
            drop(reads);
            let error = if failed { StoreError::Failed("see the log".into()) } else { StoreError::Busy };
            self.tell(job.plane, Completion::Read { id: job.id, result: Err(error) });
            return;
        }
        // The writer raises `durable` before it takes this lock, so no read is left waiting.
        if after.0 <= self.durable.load(Ordering::Acquire) {
            reads.ready.push_back(job);
            drop(reads);
            self.reads_work.notify_one();
        } else {
            reads.asked += 1;
            let number = reads.asked;
            reads.waiting.insert((after, number), job);
        }
    }

    /// Everything up to `ticket` is durable: tell it, and let reads go that waited for it.
    pub fn durable(&self, ticket: Ticket, group: u64) {
        self.group.store(group, Ordering::Release);
        self.durable.store(ticket.0, Ordering::Release);
        self.tell_all(&Completion::Durable(ticket));
        let mut reads = lock(&self.reads);
        let later = reads.waiting.split_off(&(Ticket(ticket.0 + 1), 0));
        let ready = std::mem::replace(&mut reads.waiting, later);
        let count = ready.len();
        reads.ready.extend(ready.into_values());
        drop(reads);
        match count {
            0 => {}
            1 => self.reads_work.notify_one(),
            _ => self.reads_work.notify_all(),
        }
    }
}
