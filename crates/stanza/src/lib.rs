//! Stanzas: a parsed head over the bytes of its children, error stanzas, and the rule by which children pass.
//!
//! [`Stanza::parse`] reads a first-level element once. The head (kind, to, from, id, type, lang) becomes values; each child
//! stays as bytes with its name and namespace known ([`Child`]). [`Stanza::write`] writes the head anew and copies the
//! children: a child's bytes mean the same to every parser behind any start tag whose default namespace is `jabber:client`
//! or `jabber:server`, which [`Child`] makes sure of.
//!
//! This crate never decides what a stanza means, never does I/O, and never looks into a child unless asked.
//!
//! Start with [`Stanza`], then [`StanzaError`].

mod child;
mod error;
mod kind;
mod parse;
mod stanza;

pub use child::Child;
pub use error::{Condition, ErrorType, StanzaError};
pub use kind::{IqType, Kind, MessageType, PresenceType, Type};
pub use parse::{Malformed, Parsed};
pub use stanza::Stanza;
