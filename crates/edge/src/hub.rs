//! The actor of a plane that accepts connections, gives frames to them, and runs their timers.

use crate::config::ListenerKind;
use crate::connection::{self, Message, Moving};
use crate::plane::{Plane, Slot};
use actor::{Actor, Clock, Context};
use frame::{ShardMsg, ToEdge};
use std::cell::Cell;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Sleep;
use types::{Epoch, Instant, ShardId};

/// Batches that wait for a hub: each plane sends one in a turn, so this is some turns of some planes.
pub(crate) const HUB_BATCHES_MAX: usize = 64;
/// After an error of accept(2) that is not one connection's (such as no file descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Draining goes in steps of this.
const DRAIN_STEP: Duration = Duration::from_millis(100);
/// Timers are rounded up to this, so that what is due together is done together.
const TIMER_RESOLUTION_MS: u64 = 5;

/// What a hub takes.
pub(crate) enum HubMessage {
    /// From shards.
    Frames(Vec<ToEdge>),
    /// These shards have another owner or epoch.
    Placement(Arc<[(ShardId, Epoch)]>),
    /// A stream that is at home here.
    Moved(Box<Moving>),
    /// Close the listeners.
    StopAccepting,
    /// Tell every connection to drain, so many a second.
    Drain { per_second: usize },
}

/// See the module.
pub(crate) struct Hub {
    plane: Rc<Plane>,
    listeners: Vec<(TcpListener, ListenerKind)>,
    stop: Rc<Stop>,
    /// Whoever comes now is to go again.
    draining: bool,
    sleep: Option<Pin<Box<Sleep>>>,
    sleeps_until: Instant,
}

/// Tells the accepting futures to end.
#[derive(Default)]
struct Stop {
    asked: Cell<bool>,
    notify: Notify,
}

impl Hub {
    pub(crate) fn new(plane: Rc<Plane>, listeners: Vec<(TcpListener, ListenerKind)>) -> Hub {
        Hub { plane, listeners, stop: Rc::default(), draining: false, sleep: None, sleeps_until: Instant::NEVER }
    }

    fn frames(&self, frames: Vec<ToEdge>) {
        let mut stanzas = 0;
        // Those of one connection come in a row.
        let mut last: Option<Rc<Slot>> = None;
        for frame in frames {
            let number = frame.conn.slot;
            if last.as_ref().is_none_or(|slot| slot.id.slot != number) {
                last = self.plane.slot(number);
            }
            let Some(slot) = &last else {
                // Its session is detached by the frame that the connection sent as it ended.
                self.plane.counters.frames_late.increment(1);
                continue;
            };
            if matches!(frame.body, ShardMsg::Deliver { .. }) {
                stanzas += 1;
            }
            self.plane.tell(slot, Message::Frame(frame));
        }
        self.plane.counters.stanzas_sent.increment(stanzas);
    }

    fn placement(&self, changed: &[(ShardId, Epoch)]) {
        for slot in self.plane.slots() {
            let change = changed.iter().find(|(shard, _)| Some(*shard) == slot.shard.get());
            if let Some(&(shard, epoch)) = change {
                self.plane.tell(&slot, Message::Placement { shard, epoch });
            }
        }
    }

    fn stop_accepting(&mut self) {
        self.listeners.clear();
        self.stop.asked.set(true);
        self.stop.notify.notify_waiters();
    }

    /// Tell the next ones, and go on later with the rest.
    fn drain(&mut self, context: &mut Context<'_, Self>, mut slots: Vec<Rc<Slot>>, per_step: usize) {
        for slot in slots.drain(slots.len().saturating_sub(per_step)..) {
            self.plane.tell(&slot, Message::Drain);
        }
        if !slots.is_empty() {
            context.after(DRAIN_STEP, move |hub, context| hub.drain(context, slots, per_step));
        }
    }
}

impl Actor for Hub {
    type Message = HubMessage;
    const POLLED: bool = true;

    fn started(&mut self, context: &mut Context<'_, Self>) {
        for (listener, kind) in self.listeners.drain(..) {
            let address = listener.local_addr().ok();
            match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => {
                    let accepting = accept(Rc::clone(&self.plane), listener, kind, Rc::clone(&self.stop));
                    context.spawn(accepting, |_, _, ()| {});
                }
                Err(error) => tracing::error!(?address, %error, "cannot accept connections"),
            }
        }
    }

    fn handle(&mut self, context: &mut Context<'_, Self>, message: HubMessage) {
        match message {
            HubMessage::Frames(frames) => self.frames(frames),
            HubMessage::Placement(changed) => self.placement(&changed),
            HubMessage::Moved(moving) => {
                if let Some(slot) = moving.arrive(&self.plane)
                    && self.draining
                {
                    self.plane.tell(&slot, Message::Drain);
                }
            }
            HubMessage::StopAccepting => self.stop_accepting(),
            HubMessage::Drain { per_second } => {
                self.stop_accepting();
                self.draining = true;
                let steps = usize::try_from(Duration::from_secs(1).as_millis() / DRAIN_STEP.as_millis()).unwrap_or(1);
                let slots = self.plane.slots();
                self.drain(context, slots, per_second.div_ceil(steps).max(1));
            }
        }
    }

    fn poll(&mut self, _: &mut Context<'_, Self>, task: &mut std::task::Context<'_>) {
        loop {
            let now = Clock.now().mono;
            let next = self.plane.run_timers(now, task.waker());
            if next == Instant::NEVER {
                self.sleep = None;
                self.sleeps_until = Instant::NEVER;
                return;
            }
            if next != self.sleeps_until || self.sleep.is_none() {
                let wait = Duration::from_millis(next.since(now).as_millis() as u64 + TIMER_RESOLUTION_MS);
                self.sleep = Some(Box::pin(tokio::time::sleep(wait)));
                self.sleeps_until = next;
            }
            match self.sleep.as_mut().map(|sleep| sleep.as_mut().poll(task)) {
                Some(Poll::Ready(())) => self.sleep = None,
                _ => return,
            }
        }
    }
}

/// Accept until told to stop.
async fn accept(plane: Rc<Plane>, listener: tokio::net::TcpListener, kind: ListenerKind, stop: Rc<Stop>) {
    while !stop.asked.get() {
        let accepted = tokio::select! {
            biased;
            () = stop.notify.notified() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, address)) => admit(&plane, socket, address, kind),
            Err(error) if is_of_one_connection(&error) => plane.counters.accept_errors.increment(1),
            Err(error) => {
                plane.counters.accept_errors.increment(1);
                tracing::warn!(%error, "cannot accept a connection; if file descriptors ran out, raise the limit of open files");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// accept(2): errors of the connection that was to be accepted.
fn is_of_one_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

/// Begin with a connection, or close it if it is one too many.
fn admit(plane: &Rc<Plane>, socket: tokio::net::TcpStream, address: SocketAddr, kind: ListenerKind) {
    let shared = &plane.shared;
    let live = shared.live.load_full();
    let limits = &live.limits;
    if limits.connections_max.is_some_and(|max| shared.connections.load(Ordering::Relaxed) >= max) {
        shared.refused.fetch_add(1, Ordering::Relaxed);
        plane.counters.refused_total.increment(1);
        return;
    }
    let Some(place) = shared.addresses.enter(address.ip(), limits.connections_per_address_max) else {
        shared.refused.fetch_add(1, Ordering::Relaxed);
        plane.counters.refused_address.increment(1);
        return;
    };
    shared.accepted.fetch_add(1, Ordering::Relaxed);
    plane.counters.accepted.increment(1);
    connection::start(Rc::clone(plane), live, socket, place, kind);
}
