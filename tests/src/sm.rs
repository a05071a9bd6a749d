//! The client's half of XEP-0198, by the letter and without I/O: what was sent and not acknowledged, what was handled,
//! and which numbers a server may say.

use std::collections::VecDeque;

/// What a server may not do with its numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It acknowledged more than was sent (XEP-0198 §4).
    Ahead {
        /// What it said.
        h: u32,
        /// What was sent.
        sent: u32,
    },
    /// It took an acknowledgement back.
    Back {
        /// What it said.
        h: u32,
        /// What it had said.
        acked: u32,
    },
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Fault::Ahead { h, sent } => write!(f, "h={h} though only {sent} were sent"),
            Fault::Back { h, acked } => write!(f, "h={h} after h={acked}"),
        }
    }
}

impl std::error::Error for Fault {}

/// One stanza that waits for its acknowledgement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// The stanza's `id`; empty if it has none.
    pub id: String,
    /// The stanza as it was written.
    pub xml: String,
}

/// The counters and the queue of one managed session.
#[derive(Clone, Debug, Default)]
pub struct Sm {
    /// Whether `<enable/>` was sent: outbound stanzas are counted from there (XEP-0198 §4).
    pub counting: bool,
    /// Whether `<enabled/>` came: inbound stanzas are counted from there.
    pub enabled: bool,
    /// The SM-ID, if the session may be resumed.
    pub previd: Option<String>,
    /// Stanzas of the server that were handled, modulo 2^32.
    pub handled: u32,
    acked: u32,
    queue: VecDeque<Sent>,
}

impl Sm {
    /// The state from the moment `<enable/>` is sent.
    pub fn start() -> Sm {
        Sm { counting: true, ..Sm::default() }
    }

    /// How many were sent, modulo 2^32.
    pub fn sent(&self) -> u32 {
        self.acked.wrapping_add(u32::try_from(self.queue.len()).unwrap_or(u32::MAX))
    }

    /// The highest number that the server has acknowledged.
    pub fn acked(&self) -> u32 {
        self.acked
    }

    /// What waits for acknowledgement, oldest first.
    pub fn unacked(&self) -> impl Iterator<Item = &Sent> {
        self.queue.iter()
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// A stanza is written to the stream.
    pub fn push(&mut self, id: &str, xml: &str) {
        if self.counting {
            self.queue.push_back(Sent { id: id.into(), xml: xml.into() });
        }
    }

    /// `h` of `<a/>`, `<resumed/>` or `<failed/>`: gives what it covers and forgets it.
    pub fn ack(&mut self, h: u32) -> Result<Vec<Sent>, Fault> {
        // h wraps at 2^32 (XEP-0198 §4), so distances are compared, never values.
        let covered = h.wrapping_sub(self.acked);
        if covered as usize > self.queue.len() {
            let fault = if covered > u32::MAX / 2 { Fault::Back { h, acked: self.acked } } else { Fault::Ahead { h, sent: self.sent() } };
            return Err(fault);
        }
        self.acked = h;
        Ok(self.queue.drain(..covered as usize).collect())
    }

    /// The session is over: gives what was never acknowledged.
    pub fn take_unacked(&mut self) -> Vec<Sent> {
        let left = self.queue.drain(..).collect();
        *self = Sm::default();
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(n: usize) -> Sm {
        let mut sm = Sm { counting: true, ..Sm::default() };
        for i in 0..n {
            sm.push(&i.to_string(), "<message/>");
        }
        sm
    }

    #[test]
    fn acks_cover_the_oldest() {
        let mut sm = with(3);
        assert_eq!(sm.ack(2).unwrap().iter().map(|s| s.id.as_str()).collect::<Vec<_>>(), ["0", "1"]);
        assert_eq!(sm.ack(2).unwrap(), []);
        assert_eq!(sm.ack(1), Err(Fault::Back { h: 1, acked: 2 }));
        assert_eq!(sm.ack(4), Err(Fault::Ahead { h: 4, sent: 3 }));
        assert_eq!(sm.take_unacked().len(), 1);
    }

    #[test]
    fn acks_wrap() {
        let mut sm = Sm { acked: u32::MAX, ..with(2) };
        assert_eq!(sm.sent(), 1);
        assert_eq!(sm.ack(0).unwrap().len(), 1);
        assert_eq!(sm.ack(u32::MAX), Err(Fault::Back { h: u32::MAX, acked: 0 }));
        assert_eq!(sm.ack(1).unwrap().len(), 1);
    }

    #[test]
    fn nothing_counts_before_enable() {
        let mut sm = Sm::default();
        sm.push("a", "<presence/>");
        assert_eq!(sm.sent(), 0);
    }
}
