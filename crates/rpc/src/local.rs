//! Links within one process: a buffer per pair of planes, handed over at the end of a turn.

use crate::placement::PlacementReader;
use crate::{Link, Placement, Refused, RefusedReason};
use frame::{ToEdge, ToShard};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// Frames that wait on one plane for one inbox; beyond that a frame is refused. A plane of 10,000 busy connections
/// makes about a hundred in a turn; a frame is a few hundred bytes beside the stanza that it shares.
pub const OUTGOING_FRAMES_MAX: usize = 1_024;
/// So many are handed over before the turn ends, to bound the size of a batch and the time that its first frame waits.
pub const BATCH_FRAMES_MAX: usize = 256;
/// An inbox that was full is tried again after this.
pub const RETRY_AFTER: Duration = Duration::from_millis(1);

/// What an inbox did with a batch.
pub enum Deliver<T> {
    /// Took it.
    Taken,
    /// Has no room; here it is back.
    Full(Vec<T>),
    /// Has ended.
    Gone,
}

/// A plane's way in: puts a batch into the mailbox of its shard host or its edge hub, never waits.
pub type Inbox<T> = Box<dyn Fn(Vec<T>) -> Deliver<T> + Send + Sync>;

/// Makes "run this at the end of the turn of that plane" out of a plane and the work (the work returns a delay after
/// which it wants to be run again). The result is called, from any thread, to ask for it. `actor::Planes::at_turn_end`.
pub trait TurnEnd: Fn(u16, Box<dyn Fn() -> Option<Duration> + Send>) -> Box<dyn Fn() + Send + Sync> {}
impl<F: Fn(u16, Box<dyn Fn() -> Option<Duration> + Send>) -> Box<dyn Fn() + Send + Sync>> TurnEnd for F {}

/// All planes of a process, connected with each other: one FIFO per (plane, plane, edge or shard).
///
/// At start each shard host and each edge hub registers its inbox; what is sent to one before waits in its sender's
/// buffer. Everybody on plane *k* sends through [`LocalNet::link`]`(k)`, so that order is per pair of planes.
pub struct LocalNet {
    shared: Arc<Shared>,
    links: Vec<Arc<PlaneLink>>,
}

struct Shared {
    node: u16,
    placement: Arc<Placement>,
    shard_hosts: Vec<OnceLock<Inbox<ToShard>>>,
    edge_hubs: Vec<OnceLock<Inbox<ToEdge>>>,
    remote: Option<Arc<dyn Link>>,
}

impl LocalNet {
    /// Connect `planes` planes of node `node`. Frames for other nodes go to `remote`; without one they are refused.
    pub fn new(node: u16, planes: u16, placement: Arc<Placement>, remote: Option<Arc<dyn Link>>, turn_end: impl TurnEnd) -> LocalNet {
        let shared = Arc::new(Shared {
            node,
            placement,
            shard_hosts: (0..planes).map(|_| OnceLock::new()).collect(),
            edge_hubs: (0..planes).map(|_| OnceLock::new()).collect(),
            remote,
        });
        let link = |plane| {
            let outgoing = Arc::new(Outgoing::new(Arc::clone(&shared)));
            let flushed = Arc::clone(&outgoing);
            let ask_flush = turn_end(plane, Box::new(move || flushed.flush()));
            Arc::new(PlaneLink { outgoing, ask_flush })
        };
        let links = (0..planes).map(link).collect();
        LocalNet { shared, links }
    }

    /// The link for everything that runs on a plane. A number that is not a plane's gives plane 0's.
    pub fn link(&self, plane: u16) -> Arc<PlaneLink> {
        Arc::clone(self.links.get(usize::from(plane)).unwrap_or(&self.links[0]))
    }

    /// Where placement is read.
    pub fn placement(&self) -> &Arc<Placement> {
        &self.shared.placement
    }

    /// The shard host of a plane takes frames by `inbox`. `false` if there is one already, or no such plane.
    pub fn register_shard_host(&self, plane: u16, inbox: Inbox<ToShard>) -> bool {
        self.shared.shard_hosts.get(usize::from(plane)).is_some_and(|slot| slot.set(inbox).is_ok())
    }

    /// The edge hub of a plane takes frames by `inbox`. `false` if there is one already, or no such plane.
    pub fn register_edge_hub(&self, plane: u16, inbox: Inbox<ToEdge>) -> bool {
        self.shared.edge_hubs.get(usize::from(plane)).is_some_and(|slot| slot.set(inbox).is_ok())
    }
}

/// What a plane has not handed over yet.
struct Outgoing {
    shared: Arc<Shared>,
    /// One buffer per plane. A plane's link is used by that plane; the lock is there for who sends from elsewhere.
    shard_hosts: Mutex<ToOwners>,
    edge_hubs: Mutex<Vec<Queue<ToEdge>>>,
    /// A flush is asked for and has not begun.
    asked: AtomicBool,
}

/// Frames for the owners of shards.
struct ToOwners {
    placement: PlacementReader,
    queues: Vec<Queue<ToShard>>,
}

/// Frames for one inbox.
struct Queue<T> {
    /// Between turns without a buffer.
    frames: Vec<T>,
    /// Frames of the last batch: the next one is made with room for as many, it would grow step by step.
    usual: usize,
    /// The inbox was full: what comes behind waits, or order would break.
    blocked: bool,
    /// The inbox has ended.
    gone: bool,
}

/// The [`Link`] of one plane. Where a frame goes to another node its way there is used under the lock: it must not come back.
pub struct PlaneLink {
    outgoing: Arc<Outgoing>,
    ask_flush: Box<dyn Fn() + Send + Sync>,
}

impl PlaneLink {
    /// Hand over now what waits, instead of at the end of the turn.
    pub fn flush(&self) {
        if self.outgoing.flush().is_some() {
            self.ask();
        }
    }

    /// Frames taken and not handed over yet: bounded by [`OUTGOING_FRAMES_MAX`] per inbox.
    pub fn outgoing(&self) -> usize {
        let shards: usize = lock(&self.outgoing.shard_hosts).queues.iter().map(|q| q.frames.len()).sum();
        let edges: usize = lock(&self.outgoing.edge_hubs).iter().map(|q| q.frames.len()).sum();
        shards + edges
    }

    /// Send many frames with one taking of its locks: `work` sends them, and must not use this link otherwise.
    pub fn hold<R>(&self, work: impl FnOnce(&mut HeldLink<'_>) -> R) -> R {
        let Outgoing { shared, shard_hosts, edge_hubs, .. } = &*self.outgoing;
        let result = work(&mut HeldLink { shared, shard_hosts: lock(shard_hosts), edge_hubs: lock(edge_hubs) });
        self.ask();
        result
    }

    fn ask(&self) {
        // Looked at first: most frames of a turn find it asked, and a swap costs more than half of what a frame costs here.
        if !self.outgoing.asked.load(Ordering::Acquire) && !self.outgoing.asked.swap(true, Ordering::AcqRel) {
            (self.ask_flush)();
        }
    }
}

impl Link for PlaneLink {
    fn to_shard(&self, frame: ToShard) -> Result<(), Refused<ToShard>> {
        self.outgoing.shared.push_to_shard(&mut lock(&self.outgoing.shard_hosts), frame)?;
        self.ask();
        Ok(())
    }

    fn to_edge(&self, frame: ToEdge) -> Result<(), Refused<ToEdge>> {
        self.outgoing.shared.push_to_edge(&mut lock(&self.outgoing.edge_hubs), frame)?;
        self.ask();
        Ok(())
    }
}

/// A plane's link in the hands of one who has many frames. Nobody else sends through it meanwhile.
pub struct HeldLink<'a> {
    shared: &'a Shared,
    shard_hosts: MutexGuard<'a, ToOwners>,
    edge_hubs: MutexGuard<'a, Vec<Queue<ToEdge>>>,
}

impl HeldLink<'_> {
    /// As [`Link::to_shard`].
    pub fn to_shard(&mut self, frame: ToShard) -> Result<(), Refused<ToShard>> {
        self.shared.push_to_shard(&mut self.shard_hosts, frame)
    }

    /// As [`Link::to_edge`].
    pub fn to_edge(&mut self, frame: ToEdge) -> Result<(), Refused<ToEdge>> {
        self.shared.push_to_edge(&mut self.edge_hubs, frame)
    }
}

impl Shared {
    fn push_to_shard(&self, outgoing: &mut ToOwners, frame: ToShard) -> Result<(), Refused<ToShard>> {
        let Some(owner) = outgoing.placement.current().owner(frame.shard) else {
            return Err(Refused::new(RefusedReason::NoOwner, frame));
        };
        if owner.node != self.node {
            return match &self.remote {
                Some(remote) => remote.to_shard(frame),
                None => Err(Refused::new(RefusedReason::NoOwner, frame)),
            };
        }
        push(&mut outgoing.queues, &self.shard_hosts, owner.plane, frame)
    }

    fn push_to_edge(&self, outgoing: &mut [Queue<ToEdge>], frame: ToEdge) -> Result<(), Refused<ToEdge>> {
        if frame.conn.node != self.node {
            return match &self.remote {
                Some(remote) => remote.to_edge(frame),
                None => Err(Refused::new(RefusedReason::NoOwner, frame)),
            };
        }
        push(outgoing, &self.edge_hubs, frame.conn.plane, frame)
    }
}

impl<T> Refused<T> {
    fn new(reason: RefusedReason, frame: T) -> Refused<T> {
        Refused { reason, frame: Box::new(frame) }
    }
}

impl Outgoing {
    fn new(shared: Arc<Shared>) -> Outgoing {
        fn queues<T>(planes: usize) -> Vec<Queue<T>> {
            (0..planes).map(|_| Queue { frames: Vec::new(), usual: 0, blocked: false, gone: false }).collect()
        }
        let planes = shared.shard_hosts.len();
        let shard_hosts = Mutex::new(ToOwners { placement: shared.placement.reader(), queues: queues(planes) });
        Outgoing { shared, shard_hosts, edge_hubs: Mutex::new(queues(planes)), asked: AtomicBool::new(false) }
    }

    /// Hand over everything; a delay if an inbox was full.
    fn flush(&self) -> Option<Duration> {
        // Before the work: a frame that comes during it asks again.
        self.asked.store(false, Ordering::Release);
        let shards = flush_all(&mut lock(&self.shard_hosts).queues, &self.shared.shard_hosts);
        let edges = flush_all(&mut lock(&self.edge_hubs), &self.shared.edge_hubs);
        (shards || edges).then_some(RETRY_AFTER)
    }
}

fn push<T>(queues: &mut [Queue<T>], inboxes: &[OnceLock<Inbox<T>>], plane: u16, frame: T) -> Result<(), Refused<T>> {
    let plane = usize::from(plane);
    let (Some(queue), Some(inbox)) = (queues.get_mut(plane), inboxes.get(plane)) else {
        return Err(Refused::new(RefusedReason::NoOwner, frame));
    };
    if queue.gone {
        return Err(Refused::new(RefusedReason::Gone, frame));
    }
    if queue.frames.len() >= OUTGOING_FRAMES_MAX {
        return Err(Refused::new(RefusedReason::Full, frame));
    }
    if queue.frames.capacity() == 0 {
        queue.frames.reserve_exact(queue.usual.clamp(1, BATCH_FRAMES_MAX));
    }
    queue.frames.push(frame);
    // A blocked inbox is left to the retry: trying again at every frame would cost more than it brings.
    if queue.frames.len() >= BATCH_FRAMES_MAX && !queue.blocked {
        queue.flush(inbox);
    }
    Ok(())
}

/// Whether one of them still has frames that its inbox did not take.
fn flush_all<T>(queues: &mut [Queue<T>], inboxes: &[OnceLock<Inbox<T>>]) -> bool {
    let mut blocked = false;
    for (queue, inbox) in queues.iter_mut().zip(inboxes) {
        queue.flush(inbox);
        blocked |= queue.blocked;
    }
    blocked
}

impl<T> Queue<T> {
    fn flush(&mut self, inbox: &OnceLock<Inbox<T>>) {
        if self.frames.is_empty() {
            self.blocked = false;
            return;
        }
        let Some(inbox) = inbox.get() else {
            self.blocked = true; // Not registered yet: the process is starting.
            return;
        };
        self.usual = self.frames.len();
        match inbox(std::mem::take(&mut self.frames)) {
            Deliver::Taken => self.blocked = false,
            Deliver::Full(frames) => {
                self.frames = frames;
                self.blocked = true;
            }
            // What was buffered is lost as on a broken link; every later frame is refused, so senders learn of it.
            Deliver::Gone => {
                self.gone = true;
                self.blocked = false;
            }
        }
    }
}

/// Nothing panics while one of these locks is held but an inbox, and then the buffers are still whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
