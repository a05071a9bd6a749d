//! What the connections of one plane share: buffers, timers, the table by which frames find them.

use crate::budget::{Addresses, FailingAddresses};
use crate::config::Live;
use crate::connection::Message;
use crate::counters::Counters;
use crate::hub::HubMessage;
use crate::tls::{Configs, PARTIAL_BYTES_MAX};
use crate::work::Pool;
use actor::{Address, Clock};
use arc_swap::ArcSwap;
use rpc::{Link, Placement, PlacementReader};
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Waker;
use std::time::Duration;
use types::{ConnId, Instant, Now, ShardId};

/// Bytes read from a socket at once.
pub(crate) const READ_BYTES_MAX: usize = 32 * 1024;
/// A plane's buffer that has grown beyond this is given back at the end of the turn.
const SCRATCH_KEEP_MAX: usize = 256 * 1024;

/// What the planes of an edge share.
pub(crate) struct Shared {
    pub(crate) node: u16,
    pub(crate) live: ArcSwap<Live>,
    pub(crate) placement: Arc<Placement>,
    pub(crate) addresses: Arc<Addresses>,
    pub(crate) failing: FailingAddresses,
    pub(crate) pool: Pool,
    /// Each plane's; set when all of them are there.
    pub(crate) hubs: OnceLock<Vec<Address<HubMessage>>>,
    /// Connections on all planes.
    pub(crate) connections: AtomicUsize,
    pub(crate) accepted: AtomicUsize,
    pub(crate) refused: AtomicUsize,
}

/// Buffers that a connection borrows for a turn; none of them holds anything between turns.
pub(crate) struct Scratch {
    /// From the socket.
    pub(crate) input: Vec<u8>,
    /// Decrypted.
    pub(crate) plain_in: Vec<u8>,
    /// From the core, not encrypted yet.
    pub(crate) plain_out: Vec<u8>,
    /// To the socket.
    pub(crate) output: Vec<u8>,
    /// Empty; lent to a core that is about to write.
    pub(crate) spare: Vec<u8>,
}

impl Scratch {
    fn new() -> Scratch {
        Scratch {
            input: vec![0; PARTIAL_BYTES_MAX + READ_BYTES_MAX],
            plain_in: Vec::new(),
            plain_out: Vec::new(),
            output: Vec::new(),
            spare: Vec::new(),
        }
    }

    /// Put what a core wrote behind `plain_out`, and keep its buffer.
    pub(crate) fn take_written(&mut self, mut bytes: Vec<u8>) {
        if self.plain_out.is_empty() {
            std::mem::swap(&mut self.plain_out, &mut bytes);
        } else {
            self.plain_out.extend_from_slice(&bytes);
        }
        if bytes.capacity() > self.spare.capacity() {
            bytes.clear();
            self.spare = bytes;
        }
    }

    /// Empty them, and give back what grew too much.
    pub(crate) fn clear(&mut self) {
        for buffer in [&mut self.plain_in, &mut self.plain_out, &mut self.output, &mut self.spare] {
            buffer.clear();
            buffer.shrink_to(SCRATCH_KEEP_MAX);
        }
    }
}

/// One connection as its plane knows it.
pub(crate) struct Slot {
    pub(crate) id: ConnId,
    /// Set as its actor starts.
    pub(crate) address: OnceCell<Address<Message>>,
    /// When the plane looks at it; [`Instant::NEVER`]: it does not.
    armed: Cell<Instant>,
    /// Whole seconds later than that it is to be woken, if nothing else happens.
    later_secs: Cell<u16>,
    /// The shard that it last spoke to.
    pub(crate) shard: Cell<Option<ShardId>>,
    /// A message found its mailbox full: it must end.
    pub(crate) overrun: Cell<bool>,
}

/// Of one plane; lives on its thread.
pub(crate) struct Plane {
    pub(crate) number: u16,
    pub(crate) shared: Arc<Shared>,
    pub(crate) link: Arc<dyn Link>,
    pub(crate) configs: Configs,
    pub(crate) counters: Counters,
    pub(crate) scratch: RefCell<Scratch>,
    /// Looked at for every frame.
    pub(crate) placement: RefCell<PlacementReader>,
    /// The time at which the turn of a connection began that is under way.
    turn: Cell<Option<Now>>,
    slots: RefCell<HashMap<u64, Rc<Slot>, foldhash::fast::RandomState>>,
    next_slot: Cell<u64>,
    /// Exactly one entry for each connection that is armed.
    timers: RefCell<BTreeSet<(Instant, u64)>>,
    /// Who runs the timers.
    timer_waker: RefCell<Option<Waker>>,
}

impl Plane {
    pub(crate) fn new(number: u16, shared: Arc<Shared>, link: Arc<dyn Link>, configs: Configs) -> Plane {
        Plane {
            number,
            placement: RefCell::new(shared.placement.reader()),
            shared,
            link,
            configs,
            counters: Counters::new(),
            scratch: RefCell::new(Scratch::new()),
            turn: Cell::new(None),
            slots: RefCell::default(),
            next_slot: Cell::new(1),
            timers: RefCell::default(),
            timer_waker: RefCell::default(),
        }
    }

    /// One time for all that a connection is told in one turn. (The clock was a fiftieth of a message.)
    pub(crate) fn now_in_turn(&self) -> Now {
        let now = self.turn.get().unwrap_or_else(|| Clock.now());
        self.turn.set(Some(now));
        now
    }

    /// The same, at the end of the turn: the next one reads the clock.
    pub(crate) fn end_turn(&self) -> Now {
        self.turn.take().unwrap_or_else(|| Clock.now())
    }

    /// A place in the table for a new connection. Its number is never used again.
    pub(crate) fn open_slot(&self) -> Rc<Slot> {
        let number = self.next_slot.get();
        self.next_slot.set(number + 1);
        let slot = Rc::new(Slot {
            id: ConnId { node: self.shared.node, plane: self.number, slot: number },
            address: OnceCell::new(),
            armed: Cell::new(Instant::NEVER),
            later_secs: Cell::new(0),
            shard: Cell::new(None),
            overrun: Cell::new(false),
        });
        self.slots.borrow_mut().insert(number, Rc::clone(&slot));
        self.shared.connections.fetch_add(1, Ordering::Relaxed);
        self.counters.connections.increment(1.0);
        slot
    }

    /// The connection has ended.
    pub(crate) fn close_slot(&self, slot: &Slot) {
        self.timers.borrow_mut().remove(&(slot.armed.get(), slot.id.slot));
        if self.slots.borrow_mut().remove(&slot.id.slot).is_some() {
            self.shared.connections.fetch_sub(1, Ordering::Relaxed);
            self.counters.connections.decrement(1.0);
        }
    }

    /// Send a message to a connection. If its mailbox is full it ends: it holds more than a session may have under way.
    pub(crate) fn tell(&self, slot: &Slot, message: Message) {
        let Some(address) = slot.address.get() else {
            return self.counters.frames_late.increment(1);
        };
        match address.try_send(message) {
            Ok(()) => {}
            // It has messages to wake it, and looks at this first.
            Err(actor::SendError::Full(_)) => slot.overrun.set(true),
            Err(actor::SendError::Closed(_)) => self.counters.frames_late.increment(1),
        }
    }

    pub(crate) fn slot(&self, number: u64) -> Option<Rc<Slot>> {
        self.slots.borrow().get(&number).cloned()
    }

    /// All connections, as they are now.
    pub(crate) fn slots(&self) -> Vec<Rc<Slot>> {
        self.slots.borrow().values().cloned().collect()
    }

    /// Wake this connection at `at` (or earlier, if it was to be woken earlier and has not been yet).
    ///
    /// A deadline that moves back costs nothing: it is looked at when the old one comes. What a client says is mostly answered
    /// at once, so what was to be asked then need not be.
    pub(crate) fn arm(&self, slot: &Slot, at: Instant) {
        let armed = slot.armed.get();
        if at >= armed {
            let later = if armed == Instant::NEVER { 0 } else { at.since(armed).as_secs() };
            return slot.later_secs.set(u16::try_from(later).unwrap_or(u16::MAX));
        }
        slot.later_secs.set(0);
        let mut timers = self.timers.borrow_mut();
        timers.remove(&(armed, slot.id.slot));
        let first = timers.first().map_or(Instant::NEVER, |timer| timer.0);
        timers.insert((at, slot.id.slot));
        slot.armed.set(at);
        if at < first
            && let Some(waker) = &*self.timer_waker.borrow()
        {
            waker.wake_by_ref();
        }
    }

    /// Wake everybody whose time has come; when the next one is due.
    pub(crate) fn run_timers(&self, now: Instant, waker: &Waker) -> Instant {
        let mut known = self.timer_waker.borrow_mut();
        if !known.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *known = Some(waker.clone());
        }
        drop(known);
        loop {
            let mut timers = self.timers.borrow_mut();
            match timers.first().copied() {
                Some((at, number)) if at <= now => {
                    timers.pop_first();
                    drop(timers);
                    let Some(slot) = self.slot(number) else { continue };
                    match slot.later_secs.take() {
                        0 => {
                            slot.armed.set(Instant::NEVER);
                            self.tell(&slot, Message::Wake);
                        }
                        secs => {
                            let later = at + Duration::from_secs(secs.into());
                            slot.armed.set(later);
                            self.timers.borrow_mut().insert((later, number));
                        }
                    }
                }
                first => return first.map_or(Instant::NEVER, |(at, _)| at),
            }
        }
    }
}
