//! What is said when: everything follows from the state, in [`Connection::poll_output`] and at
//! [`Connection::next_timeout`].

use super::session::{Leave, Link, Session};
use super::{ASK_AFTER, Ask, CREDENTIALS_WITHIN, Connection, End, Keys, Output, Polled};
use compact_str::{CompactString, format_compact};
use frame::EdgeMsg;
use stream::StreamError;
use types::unlucky::{self, Bound};
use types::{Instant, ReqId, ns};

impl Connection {
    /// The next thing to do; `None` until something is handed in or time has passed.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.polled = Polled::Nothing;
        loop {
            if matches!(self.queue.front(), Some(Output::StartTls | Output::Close))
                && let Some(write) = self.take_write()
            {
                return Some(write);
            }
            if let Some(output) = self.queue.made().and_then(|queue| queue.pop_front()) {
                return Some(output);
            }
            if let Some(output) = self.next_frame() {
                return Some(output);
            }
            // A frame said may be what the stream waited for.
            self.pump();
            if self.queue.is_empty() && !self.has_frame() {
                break;
            }
        }
        // An idle connection holds no buffer.
        self.queue.take();
        self.finish_closing();
        if !self.queue.is_empty() {
            return self.poll_output();
        }
        self.compose();
        self.take_write()
    }

    /// A buffer for what is to be written, empty: it comes back with it, in [`Output::Write`].
    pub fn lend(&mut self, buffer: &mut Vec<u8>) {
        let out = self.c2s.out();
        if out.capacity() == 0 {
            std::mem::swap(out, buffer);
        }
    }

    fn take_write(&mut self) -> Option<Output> {
        let out = std::mem::take(self.c2s.out());
        (!out.is_empty()).then(|| Output::Write(out))
    }

    fn has_frame(&self) -> bool {
        self.held_until <= self.now && (self.asks() || self.said().is_some())
    }

    /// Whether a question is to be asked.
    fn asks(&self) -> bool {
        let Some(asked) = &self.asked else { return false };
        asked.req.is_none()
            && match &asked.what {
                // Counting begins behind what was sent before, so that must have been taken.
                Ask::Enable { .. } => self.session.as_ref().is_some_and(|s| s.link == Link::Attached && s.inputs.is_empty()),
                Ask::Register(r) => r.is_ready(),
                _ => true,
            }
    }

    fn next_frame(&mut self) -> Option<Output> {
        if self.held_until > self.now {
            return None;
        }
        if self.asks() {
            return self.ask_now();
        }
        let said = self.said()?;
        let req = if matches!(said, Said::Reattach) { self.next_req() } else { ReqId::default() };
        let session = self.session.as_deref_mut()?;
        let account = session.jid.bare();
        let (polled, body) = say(session, &said, req, self.now);
        self.polled = polled;
        Some(Output::Frame { account, body })
    }

    fn said(&self) -> Option<Said> {
        next_said(self.session.as_deref()?, self.now, self.deadline)
    }

    fn ask_now(&mut self) -> Option<Output> {
        let req = self.next_req();
        let asked = self.asked.as_mut()?;
        let body = match &asked.what {
            Ask::Credentials => EdgeMsg::Credentials { req },
            Ask::Bind { resource, random, .. } => {
                EdgeMsg::Bind { req, resource: resource.as_deref().map(CompactString::new), random: *random }
            }
            Ask::Resume { previd, h } => EdgeMsg::Resume { req, previd: previd.into(), h: *h },
            Ask::Enable { resume_secs, random } => {
                let session = self.session.as_ref()?;
                let (session, attach) = (session.id, session.attach);
                EdgeMsg::Enable { req, session, attach, resume_secs: *resume_secs, random: *random }
            }
            Ask::Register(registration) => registration.frame(req)?,
        };
        asked.req = Some(req);
        self.polled = Polled::Asked;
        Some(Output::Frame { account: asked.account.clone(), body })
    }

    /// The client has closed its stream: ours follows when all that it sent is accepted.
    fn finish_closing(&mut self) {
        let End::Closing(until) = self.end else { return };
        let settled = self.session.as_ref().is_none_or(|s| s.inputs.is_empty() && s.link == Link::Attached);
        if settled || until <= self.now {
            self.close(None);
        }
    }

    /// Adds what goes behind a burst of outputs: answers to `<r/>`, then an `<r/>` or ping of ours.
    fn compose(&mut self) {
        if self.end == End::Closed {
            return;
        }
        let Some(session) = self.session.as_deref_mut() else { return };
        let asks = session.request_due().is_some_and(|at| at <= self.now);
        let alone = self.c2s.out().is_empty() && !asks;
        session.write_ack(self.c2s.out(), self.now, alone);
        if self.end != End::Open {
            return;
        }
        let probed = match &session.sm {
            Some(_) => session.write_request(self.c2s.out(), self.now),
            None => session.ping_due(),
        };
        if probed && session.sm.is_none() {
            self.write_ping();
        }
        if probed {
            self.probed = self.probed.min(self.now);
        }
    }

    /// XEP-0199, to a client without XEP-0198. What comes back is taken here and never submitted.
    fn write_ping(&mut self) {
        let Some(session) = self.session.as_deref_mut() else { return };
        let id = format_compact!("ping-{}-{}", session.id, session.m);
        let ping = stanza::Stanza::iq(stanza::IqType::Get, &id)
            .with_from(session.jid.bare().to_domain())
            .with_to(session.jid.to_jid())
            .with_child(xml::Element::new("ping", ns::PING));
        session.pinged(id);
        ping.write(self.c2s.out());
    }

    /// Asks a silent client for a sign of life (RFC 6120 §4.6.1).
    fn probe(&mut self) {
        self.probed = self.now;
        let Some(session) = self.session.as_deref_mut() else { return };
        match &session.sm {
            Some(_) => session.force_request(self.c2s.out(), self.now),
            None => self.write_ping(),
        }
    }

    pub(super) fn time_out(&mut self) {
        let now = self.now;
        if let Some(asked) = &self.asked
            && matches!(asked.what, Ask::Credentials)
            && asked.since + CREDENTIALS_WITHIN <= now
        {
            self.asked = None;
            self.c2s.handle_credentials(Keys::Unavailable);
        }
        if self.end == End::Closed && self.deadline <= now {
            self.asked = None;
        }
        if self.end != End::Open {
            return;
        }
        if self.session.is_none() {
            if self.deadline <= now {
                self.fail(StreamError::ConnectionTimeout);
            }
        } else if self.is_paused() {
            // It is not the client that is silent: we do not read.
            self.heard = now;
            self.probed = Instant::NEVER;
        } else if self.probed != Instant::NEVER {
            if self.probed + self.settings.idle_answer_timeout <= now {
                self.fail(StreamError::ConnectionTimeout);
            }
        } else if self.heard + self.settings.idle_timeout <= now {
            self.probe();
        }
    }

    /// When [`Connection::handle_timeout`] is to be called next.
    pub fn next_timeout(&self) -> Instant {
        let mut at = Instant::NEVER;
        if let Some(asked) = &self.asked
            && matches!(asked.what, Ask::Credentials)
        {
            at = at.min(asked.since + CREDENTIALS_WITHIN);
        }
        if self.held_until > self.now {
            at = at.min(self.held_until);
        }
        match self.end {
            End::Open if self.session.is_none() => at = at.min(self.deadline),
            End::Open => {
                let silent = match self.probed {
                    Instant::NEVER => self.heard + self.settings.idle_timeout,
                    probed => probed + self.settings.idle_answer_timeout,
                };
                at = at.min(silent);
            }
            End::Closing(until) => at = at.min(until),
            End::Closed if self.awaits_session() => at = at.min(self.deadline),
            End::Closed => {}
        }
        if let Some(session) = self.session.as_deref().filter(|s| !s.left) {
            if session.sent > session.accepted && session.link == Link::Attached {
                at = at.min(session.moved + unlucky::within(Bound::AskAfter, ASK_AFTER));
            }
            if self.end == End::Closed {
                at = at.min(self.deadline);
            } else {
                at = [session.ack_due(true), session.request_due()].into_iter().flatten().fold(at, Instant::min);
            }
        }
        // Never in the past: a caller that sleeps until then makes progress each time.
        at.max(Instant(self.now.0 + 1))
    }
}

/// What a session has to say to its shard.
enum Said {
    Reattach,
    Acked(u64),
    Submit,
    Active(bool),
    Ask,
    Farewell,
}

/// The next thing that a session has to say, if any.
fn next_said(s: &Session, now: Instant, deadline: Instant) -> Option<Said> {
    if s.left {
        return None;
    }
    match s.link {
        Link::Lost => return Some(Said::Reattach),
        Link::Reattaching(_) => return leaves(s, now, deadline).then_some(Said::Farewell),
        Link::Attached => {}
    }
    if s.acked_told < s.m_acked {
        Some(Said::Acked(s.m_acked))
    } else if leaves(s, now, deadline) {
        Some(Said::Farewell)
    } else if s.next_input().is_some() {
        Some(Said::Submit)
    } else if s.inactive != s.inactive_told && s.sent == s.n() {
        // The client's state keeps its place among stanzas (XEP-0352 §5.1).
        Some(Said::Active(!s.inactive))
    } else {
        (s.sent > s.accepted && s.moved + unlucky::within(Bound::AskAfter, ASK_AFTER) <= now).then_some(Said::Ask)
    }
}

/// Whether it is time for the farewell: to end, a session waits until its inputs are accepted.
fn leaves(s: &Session, now: Instant, deadline: Instant) -> bool {
    match s.leave {
        None => false,
        Some(_) if deadline <= now => true,
        Some(_) if s.link != Link::Attached => false,
        Some(Leave::Detach) => true,
        Some(Leave::Close) => s.inputs.is_empty(),
    }
}

/// Says it. `req` names the request, if it is one.
fn say(s: &mut Session, said: &Said, req: ReqId, now: Instant) -> (Polled, EdgeMsg) {
    let (session, attach) = (s.id, s.attach);
    match *said {
        Said::Reattach => {
            s.link = Link::Reattaching(req);
            (Polled::Reattach, EdgeMsg::Reattach { req, copy: Box::new(s.copy()) })
        }
        Said::Acked(m) => {
            s.acked_told = m;
            (Polled::Acked, EdgeMsg::Acked { session, attach, m })
        }
        Said::Submit => {
            let n = s.sent + 1;
            (s.sent, s.moved) = (n, now);
            // The caller has seen that there is one.
            let input = &s.inputs[(n - s.accepted - 1) as usize];
            (Polled::Submit, EdgeMsg::Submit { session, attach, n, attempt: input.attempt, stanza: input.stanza.clone() })
        }
        Said::Active(active) => {
            s.inactive_told = s.inactive;
            (Polled::Active, EdgeMsg::Active { session, attach, active })
        }
        Said::Ask => {
            s.moved = now;
            (Polled::Nothing, EdgeMsg::Ask { session, attach })
        }
        Said::Farewell => {
            s.left = true;
            let detach = s.leave == Some(Leave::Detach);
            (Polled::Leave, if detach { EdgeMsg::Detach { session, attach } } else { EdgeMsg::Close { session, attach } })
        }
    }
}
