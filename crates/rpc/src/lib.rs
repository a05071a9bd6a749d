//! How frames travel between edges and shards: the [`Link`] trait, its form within one process, and placement.
//!
//! A link is one FIFO between two parties (RFC 6120 §10.1 wants order, and order holds only on one channel). It takes a
//! frame or refuses it, at once; it never waits for room and never drops silently. What was taken is lost only when the
//! link breaks or the addressee ends, and then its holder knows by the rules of `ARCHITECTURE.md`, "When something dies".
//!
//! [`LocalNet`] is the form within one process: frames pass as batches, once per turn and pair of planes, never
//! serialised. Another node's frames go to a [`Link`] given to [`LocalNet::new`], so a form over a network takes its
//! place beside this one. Nothing here knows actors, sockets or clocks: what wakes and what delivers is handed in.
//!
//! Start with [`Link`], then [`LocalNet`]; [`shard_of`] and [`Placement`] say where an address lives.

mod local;
mod placement;
#[cfg(test)]
mod tests;

pub use local::{BATCH_FRAMES_MAX, Deliver, HeldLink, Inbox, LocalNet, OUTGOING_FRAMES_MAX, PlaneLink, RETRY_AFTER, TurnEnd};
pub use placement::{Owner, Placement, PlacementReader, ShardMap, shard_of};

use frame::{ToEdge, ToShard};

/// One end of what carries frames. Frames given to one `Link` arrive at each addressee in the order given.
pub trait Link: Send + Sync + 'static {
    /// To the owner of the frame's shard, wherever it is.
    ///
    /// # Errors
    /// [`Refused`], with the frame, which was not sent.
    fn to_shard(&self, frame: ToShard) -> Result<(), Refused<ToShard>>;

    /// To the edge of the frame's connection.
    ///
    /// # Errors
    /// [`Refused`], with the frame, which was not sent.
    fn to_edge(&self, frame: ToEdge) -> Result<(), Refused<ToEdge>>;
}

/// A frame that was not taken. Who sent it holds it again, and acts by its own rule.
#[derive(Clone, Debug)]
pub struct Refused<T> {
    /// Why.
    pub reason: RefusedReason,
    /// The frame, boxed: a refusal is rare, and every answer would have its size.
    pub frame: Box<T>,
}

/// See [`Refused`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusedReason {
    /// Too much is on the way already. An edge stops reading the socket and tries again; a shard keeps what is owed in
    /// its log and its windows, and answers a request with an error.
    Full,
    /// Nobody owns the shard now, or there is no such edge node. Try again when placement changes.
    NoOwner,
    /// The addressee's actor has ended: its plane is broken until the process is started again.
    Gone,
}
