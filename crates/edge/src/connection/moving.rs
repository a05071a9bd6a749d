//! A stream on its way from the plane that accepted it to the plane that has its account.
//!
//! It moves once, at the end of a turn, when it has asked for its account's keys and no shard has heard of it: nobody has to
//! be told, and nothing can be on its way to where it was. What the client has sent meanwhile waits in its socket.

use super::{Channel, Ending, Held, StreamActor};
use crate::budget::{Bucket, Place};
use crate::config::Live;
use crate::core::Connection;
use crate::hub::HubMessage;
use crate::plane::{Plane, Shared, Slot};
use actor::SendError;
use rpc::Owner;
use std::net::TcpStream;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use types::Instant;

/// Where a stream lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Home {
    /// Where it was accepted, until it names its account.
    Unknown,
    /// On that plane: it moves at the end of the turn.
    Plane(u16),
    /// Here, for good.
    Here,
}

/// See the module. Dropped instead of arriving, it is a closed connection that nobody has to hear of.
pub(crate) struct Moving {
    live: Arc<Live>,
    socket: TcpStream,
    place: Place,
    channel: Channel,
    core: Box<Connection>,
    /// The question that it asks when it has arrived.
    held: Option<Box<Held>>,
    bytes: Bucket,
    stanzas: Bucket,
    failures_charged: u8,
    read_after: Instant,
    _counted: Counted,
}

/// Between two planes it is a connection all the same: draining waits for it.
struct Counted(Arc<Shared>);

impl Counted {
    fn new(shared: &Arc<Shared>) -> Counted {
        shared.connections.fetch_add(1, Ordering::Relaxed);
        Counted(Arc::clone(shared))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Moving {
    /// Run on this plane from now on. `None`: it cannot, and has ended.
    pub(crate) fn arrive(mut self, plane: &Rc<Plane>) -> Option<Rc<Slot>> {
        let socket = registered(self.socket)?;
        let mut actor = StreamActor::new(Rc::clone(plane), self.live, socket, self.place);
        self.core.set_id(actor.slot.id);
        actor.channel = self.channel;
        actor.core = Some(self.core);
        actor.held = self.held;
        actor.bytes = self.bytes;
        actor.stanzas = self.stanzas;
        actor.failures_charged = self.failures_charged;
        actor.read_after = self.read_after;
        actor.home = Home::Here;
        Some(actor.run())
    }

    /// Nobody takes it: what was taken out of its actor goes back.
    fn stay(self, actor: &mut StreamActor) {
        actor.socket = registered(self.socket);
        actor.channel = self.channel;
        actor.core = Some(self.core);
        actor.held = self.held;
    }
}

fn registered(socket: TcpStream) -> Option<tokio::net::TcpStream> {
    tokio::net::TcpStream::from_std(socket)
        .inspect_err(|error| tracing::warn!(%error, "a plane cannot take a socket; its stream ends"))
        .ok()
}

impl StreamActor {
    /// Told the owner of its account before it first asks it: whether the stream moves there at the end of the turn.
    pub(super) fn goes_to(&mut self, owner: Owner) -> bool {
        if self.home != Home::Unknown {
            return false;
        }
        let elsewhere = owner.node == self.plane.shared.node && owner.plane != self.plane.number;
        self.home = if elsewhere { Home::Plane(owner.plane) } else { Home::Here };
        elsewhere
    }

    /// Go to that plane. `false`: it stays, and asks from here. `true`: this actor has nothing more to do.
    pub(super) fn move_to(&mut self, home: u16) -> bool {
        self.home = Home::Here;
        let shared = Arc::clone(&self.plane.shared);
        let Some(hub) = shared.hubs.get().and_then(|hubs| hubs.get(usize::from(home))) else { return false };
        if self.ending != Ending::No || self.backlog.is_some() || self.slot.overrun.get() {
            return false;
        }
        let (Some(socket), Some(core)) = (self.socket.take(), self.core.take()) else { return true };
        let socket = match socket.into_std() {
            Ok(socket) => socket,
            Err(error) => {
                tracing::warn!(%error, "a socket cannot leave its plane; its stream ends");
                return true;
            }
        };
        let moving = Moving {
            live: Arc::clone(&self.live),
            socket,
            place: self.place.again(),
            channel: std::mem::replace(&mut self.channel, Channel::Plain),
            core,
            held: self.held.take(),
            bytes: self.bytes,
            stanzas: self.stanzas,
            failures_charged: self.failures_charged,
            read_after: self.read_after,
            _counted: Counted::new(&shared),
        };
        match hub.try_send(HubMessage::Moved(Box::new(moving))) {
            Err(SendError::Full(HubMessage::Moved(moving)) | SendError::Closed(HubMessage::Moved(moving))) => {
                moving.stay(self);
                self.socket.is_none()
            }
            _ => true,
        }
    }
}
