//! What an edge holds of a session.

use bytes::BufMut;
use compact_str::CompactString;
use frame::{Bound, Output, Pos, Resumed, SessionCopy, SharedStanza, Sm, Soft};
use std::collections::VecDeque;
use std::sync::Arc;
use stream::sm;
use types::limit::{INPUTS_HELD_BYTES_MAX, INPUTS_HELD_MAX};
use types::unlucky;
use types::{Attach, Epoch, FullJid, Instant, ReqId, SessionId};

/// How the session leaves this connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leave {
    /// It ends.
    Close,
    /// It waits to be resumed, if it can be; else it ends.
    Detach,
}

/// Whether the shard knows that this edge holds the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// It does, under [`Session::attach`].
    Attached,
    /// The copy is to be handed over.
    Lost,
    /// The copy was handed over; this request answers it.
    Reattaching(ReqId),
}

/// An input that is not known to be accepted.
pub(super) struct Input {
    pub stanza: SharedStanza,
    pub bytes: u32,
    /// How often an owner was given it.
    pub attempt: u8,
}

/// A ping that a client without XEP-0198 is to answer.
pub(super) struct Ping {
    pub id: CompactString,
    /// The last output before it.
    pub m: u64,
}

pub(super) struct Session {
    pub id: SessionId,
    pub attach: Attach,
    pub jid: FullJid,
    /// The owner that gave the attach.
    pub epoch: Epoch,
    pub link: Link,
    pub leave: Option<Leave>,
    /// The farewell was said.
    pub left: bool,

    /// The last input accepted. Those held follow it without a gap.
    pub accepted: u64,
    pub inputs: VecDeque<Input>,
    input_bytes: usize,
    /// The last input that is with the shard.
    pub sent: u64,
    /// When an input was last submitted or accepted, or asked about.
    pub moved: Instant,

    /// The last output received.
    pub m: u64,
    /// The last one acknowledged, and the last of which the shard was told so.
    pub m_acked: u64,
    pub acked_told: u64,
    /// The last log position among outputs.
    pub pos: Pos,
    /// Outputs not acknowledged, in order: all of a client with XEP-0198, of another one those of the log.
    pub unacked: VecDeque<Output>,
    /// The last output that `<r/>` or a ping was sent behind.
    requested: u64,
    /// An `<r/>` is not answered yet.
    request_open: bool,
    /// When all `<r/>` so far would have been written at [`super::REQUEST_EVERY`].
    requests_paid: Instant,
    pub ping: Option<Box<Ping>>,

    pub sm: Option<Sm>,
    /// An `<r/>` of the client is to be answered.
    pub ack_wanted: bool,
    /// Inputs at the time of the client's last `<r/>`: it hears of them as they are accepted.
    ack_until: u64,
    /// What the last `<a/>` counted, and when it was sent.
    ack_told: u64,
    ack_at: Instant,

    /// XEP-0352, and what the shard knows of it.
    pub inactive: bool,
    pub inactive_told: bool,
    pub soft: Arc<Soft>,
}

impl Session {
    /// A session just bound.
    pub fn bound(bound: Bound, epoch: Epoch, now: Instant) -> Session {
        let Bound { session, attach, jid } = bound;
        Session {
            id: session,
            attach,
            jid,
            epoch,
            link: Link::Attached,
            leave: None,
            left: false,
            accepted: 0,
            inputs: VecDeque::new(),
            input_bytes: 0,
            sent: 0,
            moved: now,
            m: 0,
            m_acked: 0,
            acked_told: 0,
            pos: Pos::default(),
            unacked: VecDeque::new(),
            requested: 0,
            request_open: false,
            requests_paid: Instant::default(),
            ping: None,
            sm: None,
            ack_wanted: false,
            ack_until: 0,
            ack_told: 0,
            ack_at: Instant::default(),
            inactive: false,
            inactive_told: false,
            soft: Arc::default(),
        }
    }

    /// A session that goes on here. Its state is active, whatever it was (XEP-0352 §5.2).
    pub fn resumed(resumed: Resumed, epoch: Epoch, now: Instant) -> Session {
        let Resumed { session, attach, jid, accepted, outputs, m, m_acked, pos, soft } = resumed;
        let mut s = Session::bound(Bound { session, attach, jid }, epoch, now);
        (s.accepted, s.sent, s.ack_told, s.ack_until) = (accepted, accepted, accepted, accepted);
        (s.m, s.m_acked, s.acked_told) = (m, m_acked, m_acked);
        s.pos = pos;
        s.unacked = outputs.into();
        s.sm = soft.sm.clone();
        s.soft = soft;
        s
    }

    /// The last input taken from the client.
    pub fn n(&self) -> u64 {
        self.accepted + self.inputs.len() as u64
    }

    /// No further input can be held.
    pub fn is_full(&self) -> bool {
        self.inputs.len() >= unlucky::at_most(unlucky::Bound::InputsHeld, INPUTS_HELD_MAX) || self.input_bytes >= INPUTS_HELD_BYTES_MAX
    }

    /// The client's state has changed, and inputs before that are still to be submitted.
    pub fn active_waits(&self) -> bool {
        self.inactive != self.inactive_told && self.sent < self.n()
    }

    /// One more input, which takes about so many bytes.
    pub fn push_input(&mut self, stanza: SharedStanza, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.input_bytes += bytes as usize;
        self.inputs.push_back(Input { stanza, bytes, attempt: 1 });
    }

    /// Inputs up to `accepted` are accepted. Whether any of them was not known to be.
    pub fn accept(&mut self, accepted: u64, now: Instant) -> bool {
        let accepted = accepted.min(self.n());
        if accepted <= self.accepted {
            return false;
        }
        for input in self.inputs.drain(..(accepted - self.accepted) as usize) {
            self.input_bytes -= input.bytes as usize;
        }
        if self.inputs.is_empty() {
            // An idle session holds no buffer.
            self.inputs = VecDeque::new();
        }
        self.accepted = accepted;
        self.sent = self.sent.max(accepted);
        self.moved = now;
        true
    }

    /// Inputs from `n` on are no longer with the shard.
    pub fn unsubmit(&mut self, n: u64) {
        self.sent = self.sent.min(n.saturating_sub(1)).max(self.accepted);
    }

    /// The next input to submit, if it is its turn. One that an owner has died over goes alone, so that at most one is
    /// suspected each time.
    pub fn next_input(&self) -> Option<(u64, &Input)> {
        let at = |n: u64| self.inputs.get(usize::try_from(n.checked_sub(self.accepted + 1)?).ok()?);
        let next = at(self.sent + 1)?;
        let in_flight = self.sent > self.accepted;
        let alone = next.attempt > 1 || at(self.sent).is_some_and(|last| last.attempt > 1);
        (!(in_flight && alone)).then_some((self.sent + 1, next))
    }

    /// An output has come. `false` if it is not the next one: something before it is missing.
    pub fn take_output(&mut self, output: Output) -> bool {
        if output.m != self.m + 1 {
            return false;
        }
        self.m = output.m;
        if let Some(pos) = output.pos {
            self.pos = self.pos.max(pos);
        }
        if self.sm.is_some() || output.pos.is_some() {
            self.unacked.push_back(output);
        }
        true
    }

    /// The client has every output up to `m`.
    pub fn acknowledge(&mut self, m: u64) {
        self.m_acked = self.m_acked.max(m);
        let kept = self.unacked.iter().position(|o| o.m > m).unwrap_or(self.unacked.len());
        self.unacked.drain(..kept);
        if self.unacked.is_empty() {
            self.unacked = VecDeque::new();
        }
    }

    /// XEP-0198 `<a/>`.
    ///
    /// # Errors
    /// The stream error for a count that cannot be.
    pub fn handle_ack(&mut self, h: u32) -> Result<(), stream::StreamError> {
        let Some(sm) = &self.sm else { return Ok(()) };
        // What was sent before counting began has been received, whatever is counted now.
        let m = sm::acknowledged(h, sm.base_m, self.m_acked.max(sm.base_m), self.m)?;
        self.request_open = false;
        self.acknowledge(m);
        Ok(())
    }

    /// XEP-0198 `<r/>`.
    pub fn handle_request(&mut self) {
        self.ack_wanted = true;
        self.ack_until = self.n();
    }

    /// XEP-0198 is on from here.
    pub fn enabled(&mut self, sm: Sm) {
        self.ack_told = sm.base_n;
        self.requested = 0;
        self.request_open = false;
        self.sm = Some(sm);
    }

    /// The count of inputs accepted, as the client counts.
    pub fn h(&self) -> u32 {
        sm::count(self.accepted, self.sm.as_ref().map_or(0, |sm| sm.base_n))
    }

    /// It can be resumed elsewhere.
    pub fn is_resumable(&self) -> bool {
        self.sm.as_ref().is_some_and(|sm| sm.previd.is_some())
    }

    /// Whether an `<a/>` is due, and from when on. `alone`: nothing else leaves with it.
    pub fn ack_due(&self, alone: bool) -> Option<Instant> {
        self.sm.as_ref()?;
        let next = self.ack_at + super::ACK_EVERY;
        if self.accepted > self.ack_told {
            let asked = self.ack_wanted || self.ack_told < self.ack_until;
            return asked.then_some(if alone { next } else { Instant::default() });
        }
        let soon = if self.inputs.is_empty() { next } else { next.max(self.moved + super::ACK_WITHIN) };
        self.ack_wanted.then_some(soon)
    }

    /// Writes `<a/>` if it is due.
    pub fn write_ack(&mut self, out: &mut impl BufMut, now: Instant, alone: bool) {
        if self.ack_due(alone).is_some_and(|at| at <= now) {
            sm::write_ack(out, self.h());
            self.ack_wanted = false;
            self.ack_told = self.accepted;
            self.ack_at = now;
        }
    }

    /// Writes `<a/>` before the end tag, if it says anything new (XEP-0198 §4 recommends it).
    pub fn write_last_ack(&mut self, out: &mut impl BufMut) {
        if self.sm.is_some() && (self.accepted > self.ack_told || self.ack_wanted) {
            sm::write_ack(out, self.h());
            self.ack_told = self.accepted;
            self.ack_wanted = false;
        }
    }

    /// When an `<r/>` is due behind outputs that none was written behind: one at a time and at once, so that a client that
    /// leaves has said what it has; but in a flow of outputs not behind each, since an answer costs both sides as much as a
    /// stanza.
    pub fn request_due(&self) -> Option<Instant> {
        let last = self.unacked.back().filter(|o| o.m > self.requested && !self.request_open && self.sm.is_some())?;
        let many = last.m - self.requested >= super::REQUEST_AFTER_STANZAS;
        let ahead = super::REQUEST_EVERY * super::REQUESTS_AT_ONCE;
        Some(if many { Instant::default() } else { Instant(self.requests_paid.0.saturating_sub(ahead.as_millis() as u64)) })
    }

    /// Writes `<r/>` if it is due. Whether it did.
    pub fn write_request(&mut self, out: &mut impl BufMut, now: Instant) -> bool {
        let due = self.request_due().is_some_and(|at| at <= now);
        if due {
            self.force_request(out, now);
        }
        due
    }

    /// Writes `<r/>`.
    pub fn force_request(&mut self, out: &mut impl BufMut, now: Instant) {
        sm::write_request(out);
        self.requested = self.m;
        self.request_open = true;
        self.requests_paid = self.requests_paid.max(now) + super::REQUEST_EVERY;
    }

    /// Whether a ping is due behind outputs of the log (a client without XEP-0198).
    pub fn ping_due(&self) -> bool {
        self.sm.is_none() && self.ping.is_none() && self.unacked.back().is_some_and(|o| o.m > self.requested)
    }

    /// A ping was written.
    pub fn pinged(&mut self, id: CompactString) {
        self.requested = self.m;
        self.ping = Some(Box::new(Ping { id, m: self.m }));
    }

    /// The shard has another owner, or lost the session: nothing of the old attach counts any more ◊.
    pub fn reattach(&mut self) {
        self.link = Link::Lost;
    }

    /// What is handed to a new owner.
    pub fn copy(&mut self) -> SessionCopy {
        if self.soft.sm != self.sm || self.soft.inactive != self.inactive {
            let soft = Arc::make_mut(&mut self.soft);
            soft.sm.clone_from(&self.sm);
            soft.inactive = self.inactive;
        }
        self.inactive_told = self.inactive;
        self.acked_told = self.m_acked;
        SessionCopy {
            session: self.id,
            attach: self.attach,
            jid: self.jid.clone(),
            accepted: self.accepted,
            inputs: (self.accepted + 1..).zip(self.inputs.iter().map(|input| input.stanza.clone())).collect(),
            m: self.m,
            m_acked: self.m_acked,
            pos: self.pos,
            outputs: self.unacked.iter().filter(|_| !types::planted::is(types::planted::Bug::TailInCoreOnly)).cloned().collect(),
            soft: self.soft.clone(),
        }
    }

    /// A new owner has taken the copy. What is left of the inputs is submitted again.
    /// `adopted`: it knows nothing of what the last one did.
    pub fn reattached(&mut self, attach: Attach, epoch: Epoch, accepted: u64, adopted: bool, now: Instant) {
        if adopted {
            // The owner before has died, and one of those that it had may be why.
            let in_flight = usize::try_from(self.sent - self.accepted).unwrap_or(usize::MAX);
            for input in self.inputs.iter_mut().take(in_flight) {
                input.attempt = (input.attempt + 1).min(3);
            }
        }
        self.attach = attach;
        self.epoch = epoch;
        self.link = Link::Attached;
        self.accept(accepted, now);
        self.sent = self.accepted;
        self.moved = now;
    }

    /// The session is to leave this connection.
    pub fn leave(&mut self, leave: Leave) {
        let leave = if self.is_resumable() { leave } else { Leave::Close };
        self.leave.get_or_insert(leave);
    }
}
