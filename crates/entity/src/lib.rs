//! Entities: the owners of a JID's state, as pure state machines.
//!
//! An entity takes one input at a time and returns effects. It opens no socket, reads no clock, draws no random number
//! and never touches a store: time, randomness and what was read come in as arguments. So it can be tested as a table,
//! run in a simulation, and moved to another node.
//!
//! Start with [`account`]; [`module`] is the extension point; [`log`], [`outbox`] and [`session`] carry the promise.

pub mod account;
pub mod codec;
pub mod effect;
pub mod load;
pub mod log;
pub mod module;
pub mod outbox;
pub mod privacy;
pub mod roster;
pub mod row;
pub mod seal;
pub mod session;
pub mod state;
pub mod subscription;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use account::Account;
pub use effect::{Effect, Effects, ReadId, Scan};
pub use load::Loader;
pub use module::{Ctx, Pipeline, Settings};
