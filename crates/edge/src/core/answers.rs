//! What an account's shard says to a connection.

use super::session::{Link, Session};
use super::{Ask, Connection, End, Output};
use frame::{CredentialsAnswer, EdgeMsg, EndReason, Reattached, ShardMsg, ToEdge};
use stanza::{IqType, Stanza};
use std::sync::Arc;
use stream::{Keys, StreamError, sm};
use types::{Attach, Epoch, FullJid, Now, ReqId, SessionId, ns};
use xml::Element;

/// Room behind a stanza for what is escaped in its attributes, and for an `<r/>`.
const BEHIND: usize = 64;

impl Connection {
    /// A frame from the owner of the account's shard.
    ///
    /// An answer counts only if it names what was asked last; what concerns a session only if it carries its attach, comes
    /// from the owner that gave it, and the session's copy was not handed to another one since ◊.
    pub fn handle_frame(&mut self, now: Now, frame: ToEdge) {
        self.now = now.mono;
        if frame.conn != self.id || frame.epoch < self.floor {
            return;
        }
        let epoch = frame.epoch;
        match frame.body {
            ShardMsg::Credentials { req, answer } => self.credentials(epoch, req, answer),
            ShardMsg::AccountDone { req, result } => {
                if let Some(Ask::Register(registration)) = self.answered(epoch, req, |a| matches!(a, Ask::Register(_))) {
                    self.account_done(registration, result);
                }
            }
            ShardMsg::Bound { req, result } => match self.answered(epoch, req, |a| matches!(a, Ask::Bind { .. })) {
                Some(Ask::Bind { id, .. }) => self.bound(epoch, &id, result),
                _ => {
                    if let Ok(b) = result {
                        self.orphan(b.session, &b.jid, EdgeMsg::Close { session: b.session, attach: b.attach });
                    }
                }
            },
            ShardMsg::Enabled { req, session, attach, sm } => {
                if self.current(epoch, session, attach).is_some()
                    && self.answered(epoch, req, |a| matches!(a, Ask::Enable { .. })).is_some()
                {
                    self.enabled(sm);
                }
            }
            ShardMsg::Resumed { req, resumed } => match self.answered(epoch, req, |a| matches!(a, Ask::Resume { .. })) {
                Some(Ask::Resume { previd, .. }) => self.resumed(epoch, &previd, *resumed),
                _ => {
                    let r = *resumed;
                    self.orphan(r.session, &r.jid, EdgeMsg::Detach { session: r.session, attach: r.attach });
                }
            },
            ShardMsg::ResumeFailed { req, h } => {
                if self.answered(epoch, req, |a| matches!(a, Ask::Resume { .. })).is_some() {
                    sm::write_failed(self.c2s.out(), "item-not-found", h);
                }
            }
            ShardMsg::Reattached { req, answer } => self.reattached(epoch, req, answer),
            ShardMsg::Busy { req } => self.busy(req),
            ShardMsg::Again { session } => self.again(epoch, session),
            ShardMsg::Ended { session, attach, reason } => {
                if self.current(epoch, session, attach).is_some() {
                    self.ended(reason);
                }
            }
            body => self.session_frame(epoch, body),
        }
        self.pump();
    }

    /// What concerns the session alone.
    fn session_frame(&mut self, epoch: Epoch, body: ShardMsg) {
        let now = self.now;
        match body {
            ShardMsg::Outcome { session, attach, accepted } => {
                let moved = self.current(epoch, session, attach).is_some_and(|s| s.accept(accepted, now));
                self.tries = if moved { 0 } else { self.tries };
            }
            ShardMsg::Refused { session, attach, n } => {
                let refused = self.current(epoch, session, attach).filter(|s| (s.accepted + 1..=s.sent).contains(&n));
                if let Some(s) = refused {
                    s.unsubmit(n);
                    self.hold();
                }
            }
            ShardMsg::Deliver { session, attach, output } => self.deliver(epoch, session, attach, output),
            ShardMsg::Keep { session, attach, soft } => {
                if let Some(s) = self.current(epoch, session, attach) {
                    s.soft = soft;
                }
            }
            // Answers, which are not of the session alone.
            _ => {}
        }
    }

    /// The session, if this frame may speak about it.
    fn current(&mut self, epoch: Epoch, session: SessionId, attach: Attach) -> Option<&mut Session> {
        let s = self.session.as_deref_mut().filter(|s| !s.left)?;
        (s.id == session && s.attach == attach && s.epoch == epoch && s.link == Link::Attached).then_some(s)
    }

    /// What was asked, if this answers it.
    fn answered(&mut self, epoch: Epoch, req: ReqId, kind: impl Fn(&Ask) -> bool) -> Option<Ask> {
        if !self.asked.as_ref().is_some_and(|a| a.req == Some(req) && kind(&a.what)) {
            return None;
        }
        self.floor = epoch;
        self.tries = 0;
        self.asked.take().map(|asked| asked.what)
    }

    fn credentials(&mut self, epoch: Epoch, req: ReqId, answer: CredentialsAnswer) {
        if self.answered(epoch, req, |a| matches!(a, Ask::Credentials)).is_none() {
            return;
        }
        self.c2s.handle_credentials(match answer {
            CredentialsAnswer::Known(bytes) => match sasl::Credentials::decode(&bytes) {
                Ok(credentials) => Keys::Known(credentials),
                // Of a version that this edge does not read: not the client's fault.
                Err(_) => Keys::Unavailable,
            },
            CredentialsAnswer::Unknown => Keys::Unknown,
            CredentialsAnswer::Locked | CredentialsAnswer::Busy => Keys::Unavailable,
        });
    }

    /// A session was given to this connection that asked again since, or has ended: nobody holds it, and its account must know.
    fn orphan(&mut self, id: SessionId, jid: &FullJid, body: EdgeMsg) {
        if self.session.as_ref().is_none_or(|s| s.id != id) {
            self.push(Output::Frame { account: jid.bare(), body });
        }
    }

    fn bound(&mut self, epoch: Epoch, id: &str, result: Result<frame::Bound, stanza::StanzaError>) {
        let answer = match result {
            Ok(bound) => {
                let jid = Element::new("jid", ns::BIND).with_text(bound.jid.as_str());
                self.session = Some(Box::new(Session::bound(bound, epoch, self.now)));
                Some(Stanza::iq(IqType::Result, id).with_child(Element::new("bind", ns::BIND).with_child(jid)))
            }
            Err(e) => e.reply_to(&Stanza::iq(IqType::Set, id)),
        };
        if self.end == End::Closed {
            // Its client has gone before it came.
            if let Some(session) = &mut self.session {
                session.leave(super::session::Leave::Close);
            }
            return;
        }
        if let Some(answer) = answer {
            answer.write(self.c2s.out());
        }
    }

    fn enabled(&mut self, sm: frame::Sm) {
        let Some(session) = self.session.as_deref_mut() else { return };
        sm::write_enabled(self.c2s.out(), sm.previd.as_deref().map(|previd| (previd, sm.resume_secs)));
        session.enabled(sm);
    }

    fn resumed(&mut self, epoch: Epoch, previd: &str, resumed: frame::Resumed) {
        let mut session = Session::resumed(resumed, epoch, self.now);
        if self.end == End::Closed {
            session.leave(super::session::Leave::Detach);
            self.session = Some(Box::new(session));
            return;
        }
        let out = self.c2s.out();
        sm::write_resumed(out, previd, session.h());
        for output in &session.unacked {
            output.stanza.write_to(session.jid.bare_str(), out);
        }
        self.session = Some(Box::new(session));
    }

    fn reattached(&mut self, epoch: Epoch, req: ReqId, answer: Option<Reattached>) {
        let now = self.now;
        let Some(session) = self.session.as_deref_mut().filter(|s| s.link == Link::Reattaching(req) && !s.left) else { return };
        self.floor = epoch;
        self.tries = 0;
        match answer {
            Some(Reattached { session: id, attach, accepted, adopted }) if id == session.id => {
                session.reattached(attach, epoch, accepted, adopted, now);
                // The owner has the session, and forgot what was asked about it.
                if let Some(asked) = self.asked.as_mut().filter(|a| matches!(a.what, Ask::Enable { .. })) {
                    asked.req = None;
                }
            }
            _ => {
                self.session = None;
                self.fail(StreamError::InternalServerError);
            }
        }
    }

    fn again(&mut self, epoch: Epoch, id: SessionId) {
        let Some(session) = self.session.as_deref_mut().filter(|s| s.id == id && !s.left) else { return };
        if session.link == Link::Attached && epoch >= session.epoch {
            self.floor = epoch;
            session.reattach();
        }
    }

    /// What was asked last is asked again after a while.
    fn busy(&mut self, req: ReqId) {
        let asked = self.asked.as_mut().filter(|a| a.req == Some(req));
        let session = self.session.as_deref_mut().filter(|s| s.link == Link::Reattaching(req) && !s.left);
        match (asked, session) {
            (Some(asked), _) => asked.req = None,
            (None, Some(session)) => session.reattach(),
            (None, None) => return,
        }
        self.hold();
    }

    fn deliver(&mut self, epoch: Epoch, session: SessionId, attach: Attach, output: frame::Output) {
        let Some(s) = self.current(epoch, session, attach) else { return };
        let (m, stanza) = (output.m, Arc::clone(&output.stanza));
        if s.take_output(output) {
            if self.end != End::Closed
                && let Some(session) = &self.session
            {
                let (own, out) = (session.jid.bare_str(), self.c2s.out());
                out.reserve(stanza.encoded_len_hint() + own.len() + BEHIND);
                stanza.write_to(own, out);
            }
        } else if m > s.m {
            // Something between was lost: the copy says what.
            s.reattach();
        }
    }

    fn ended(&mut self, reason: EndReason) {
        self.session = None;
        if let Some(Ask::Register(registration)) = self.asked.as_ref().map(|a| &a.what)
            && reason == EndReason::NotAuthorized
            && let Some(answer) = registration.removed()
        {
            // XEP-0077 §3.2: the client that removed its account hears that first.
            answer.write(self.c2s.out());
        }
        self.fail(match reason {
            EndReason::Conflict => StreamError::Conflict,
            EndReason::NotAuthorized => StreamError::NotAuthorized,
            EndReason::ResourceConstraint => StreamError::ResourceConstraint,
            EndReason::PolicyViolation => StreamError::PolicyViolation,
            EndReason::Internal => StreamError::InternalServerError,
        });
    }
}
