//! The embedded store: a journal with group commit and tickets (fjall), and a durability mark (redb).
//!
//! One writer thread owns the journal. It takes what waits, writes it as one group, flushes it, and only then says
//! `Durable`. At start it judges the journal before the engine may touch it: a bad end above the mark is cut and
//! reported, anything else is corruption and refuses ([`journal::recover`]). A commit that fails ends the process; its
//! outcome is found out at the next start and never guessed.
//!
//! The engine holds a group as one value first; its cells are found in memory until they *settle* among the engine's own, if they
//! live that long (`engine::young`).
//!
//! It never answers before a flush, never retries a failed one, never drops a commit it has given a ticket. Start with
//! [`Embedded::open`]; the logic without I/O is [`journal`]; a simulation runs the same logic in [`sim::SimStore`].

mod clock;
mod dir;
mod embedded;
#[cfg(test)]
mod embedded_tests;
mod engine;
pub mod format;
pub mod journal;
mod shared;
pub mod sim;
mod source;

pub use dir::OpenError;
pub use embedded::{Embedded, Options};
pub use engine::survey;
pub use shared::{OnFatal, READS_MAX};
