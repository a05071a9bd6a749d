//! What clients said and heard: the promise is checked against it.

use stanza::{Kind, MessageType, Stanza};
use std::collections::BTreeMap;

/// Names a message: its client, and a counter of that client.
pub type MsgId = (usize, u64);

/// A message as its sender knows it.
#[derive(Clone, Debug)]
pub struct Msg {
    /// The account that sends.
    pub from: usize,
    /// The account addressed.
    pub to: usize,
    /// Its place in an order: all sessions of a client with XEP-0198, which sends again what was lost, or one session of
    /// another one, whose last inputs may still be under way when it has a new stream (RFC 6120 §10.1 orders one stream).
    pub series: (usize, u64),
    /// The client's session that sent it first.
    pub session: u64,
    /// The sender is acknowledged and the message is durable.
    pub durable: bool,
    /// It goes into archives.
    pub kept: bool,
    /// The account that takes it panics.
    pub poison: Option<Poison>,
    /// The server has said so.
    pub acked: bool,
    /// An error for it was on its way to the sender, whose session may have been gone.
    pub refused: bool,
    /// Sent again in a new session though the server did not say that it has not got it.
    pub uncovered: bool,
    /// Clients that received it (a delivery, not a carbon).
    pub received: u32,
    /// When it was first sent.
    pub at: u64,
    /// When the server said that it has it.
    pub acked_at: u64,
}

/// Which account a message makes panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Poison {
    /// Its sender's.
    Sender,
    /// Its recipient's.
    Recipient,
}

/// An IQ request of a client to another one.
#[derive(Clone, Debug)]
pub struct Request {
    /// The client's session that asked.
    pub session: u64,
    /// Answers so far.
    pub answers: u32,
    /// The session ended before it was answered.
    pub void: bool,
    /// When it was asked.
    pub at: u64,
    /// Times it reached its addressee.
    pub reached: u32,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Book {
    /// Every message.
    pub messages: BTreeMap<MsgId, Msg>,
    /// Every IQ request, by client and counter.
    pub requests: BTreeMap<MsgId, Request>,
    /// The first thing that went wrong.
    pub failure: Option<String>,
    /// When the store was low on space: a refusal may have been lost with the session.
    pub low_space: Vec<(u64, u64)>,
    /// When a core died, or was taken for dead, or lost a link: an IQ under way may have died with it.
    pub lost: Vec<u64>,
    /// When an account panicked: it may have forgotten what it answered.
    pub panics: Vec<u64>,
    /// Deliveries, for the figures.
    pub deliveries: u64,
    /// Resumptions that worked.
    pub resumed: u64,
    /// Resumptions that did not.
    pub failed: u64,
}

impl Book {
    /// Somebody who had to do with a request of this time may have forgotten it.
    pub fn forgot(&self, at: u64) -> bool {
        self.lost.iter().chain(&self.panics).any(|t| *t >= at)
    }

    /// Takes down what is refused.
    pub fn note_refusal(&mut self, stanza: &Stanza) {
        if stanza.kind == Kind::Message
            && stanza.message_type() == MessageType::Error
            && let Some(m) = stanza.id.as_deref().and_then(parse_name).and_then(|id| self.messages.get_mut(&id))
        {
            m.refused = true;
        }
    }

    /// Something went wrong; only the first counts.
    pub fn fail(&mut self, what: impl Into<String>) {
        if self.failure.is_none() {
            self.failure = Some(what.into());
        }
    }
}

/// `m:<client>:<seq>` as the id of a message or IQ.
pub fn name(id: MsgId) -> String {
    format!("m:{}:{}", id.0, id.1)
}

/// Reverses [`name`].
pub fn parse_name(text: &str) -> Option<MsgId> {
    let (client, seq) = text.strip_prefix("m:")?.split_once(':')?;
    Some((client.parse().ok()?, seq.parse().ok()?))
}
