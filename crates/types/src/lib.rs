//! The words that every other crate speaks: JIDs, identifiers, time, storage batches, limits and namespaces.
//!
//! Pure data. It never does I/O, never reads a clock, never draws a random number.
//! Start with [`jid`] for addresses and [`id`] for the numbers of `ARCHITECTURE.md`.

pub mod batch;
pub mod id;
pub mod jid;
pub mod limit;
pub mod ns;
pub mod planted;
mod seldom;
pub mod time;
pub mod unlucky;

pub use batch::{Batch, Collection, Op, Ops, Partition, Ticket};
pub use id::{Attach, ConnId, Epoch, Origin, ReqId, SessionId, ShardId};
pub use jid::{BareJid, FullJid, Jid, JidError};
pub use seldom::{Empty, Seldom};
pub use time::{Instant, Now, Timestamp};
