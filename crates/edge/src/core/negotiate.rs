//! From the first byte to a session: TLS, login, resource binding, resumption.

use super::session::Leave;
use super::{Ask, Connection, End, LEAVE_WITHIN, Output};
use frame::EdgeMsg;
use stanza::{Condition, IqType, Kind, Stanza, StanzaError};
use stream::sm::{self, PREVID_BYTES_MAX};
use stream::{Event, StreamError};
use types::jid::prepare_resource;
use types::ns;
use xml::Element;

impl Connection {
    pub(super) fn handle_event(&mut self, event: Event) {
        match event {
            Event::StartTls => self.push(Output::StartTls),
            Event::Credentials { account } => self.ask(account, Ask::Credentials),
            Event::VerifyPlain { credentials, password } => {
                self.push(Output::VerifyPlain { credentials: *credentials, password: *password });
            }
            Event::LoginEnded { account, ok } => {
                if ok {
                    self.deadline = self.now + self.settings.unauthenticated_timeout;
                }
                self.push(Output::Frame { account, body: EdgeMsg::LoginEnded { ok } });
            }
            Event::Register(iq) => self.register_anew(&iq),
            Event::Element(bytes) => self.handle_element(bytes),
            Event::End => self.client_ends(),
            Event::PeerError => self.lose_politely(),
            Event::Error(error) => self.fail(error),
            Event::Drop => {
                self.c2s.out().clear();
                self.end = End::Closed;
                self.push(Output::Close);
            }
        }
    }

    /// The client has closed its stream (RFC 6120 §4.4): ours follows when what it sent is accepted.
    fn client_ends(&mut self) {
        self.end = End::Closing(self.now + self.settings.close_timeout);
        self.deadline = self.now + LEAVE_WITHIN;
        self.asked = None;
        if let Some(session) = &mut self.session {
            session.leave(Leave::Close);
        }
    }

    /// The client reports a stream error: nothing more comes, and what it may resume stays.
    fn lose_politely(&mut self) {
        if let Some(session) = &mut self.session {
            session.leave(Leave::Detach);
        }
        self.close(None);
    }

    /// A stanza of an authenticated client that has no session yet.
    pub(super) fn unbound(&mut self, stanza: &Stanza) {
        let bind = match stanza.payload() {
            Some(child) if stanza.kind == Kind::Iq && stanza.iq_type() == Some(IqType::Set) && child.is("bind", ns::BIND) => child,
            // RFC 6120 §7.1: nothing but binding before binding.
            _ => return self.fail(StreamError::NotAuthorized),
        };
        let Some(id) = stanza.id.as_ref() else {
            return self.refuse_bind(stanza, Condition::BadRequest);
        };
        let Ok(bind) = bind.element() else {
            return self.fail(StreamError::NotWellFormed);
        };
        let wanted = bind.child("resource", ns::BIND).map(Element::text).filter(|r| !r.is_empty());
        // RFC 6120 §7.7.2.1: a resource that cannot be one is not replaced behind the client's back.
        let resource = match wanted.as_deref().map(prepare_resource).transpose() {
            Ok(resource) => resource.map(|r| r.into_owned()),
            Err(_) => return self.refuse_bind(stanza, Condition::BadRequest),
        };
        let random = self.c2s.random().draw();
        let Some(account) = self.c2s.account().cloned() else { return };
        self.ask(account, Ask::Bind { id: id.to_string(), resource, random });
    }

    fn refuse_bind(&mut self, stanza: &Stanza, condition: Condition) {
        if let Some(reply) = StanzaError::new(condition).reply_to(stanza) {
            reply.write(self.c2s.out());
        }
    }

    /// XEP-0198 §5.
    pub(super) fn resume(&mut self, previd: String, h: u32) {
        let Some(account) = self.c2s.account().cloned().filter(|_| self.session.is_none()) else {
            return sm::write_failed(self.c2s.out(), "unexpected-request", None);
        };
        // No id of ours is that long.
        if previd.len() > PREVID_BYTES_MAX {
            return sm::write_failed(self.c2s.out(), "item-not-found", None);
        }
        self.ask(account, Ask::Resume { previd, h });
    }

    /// XEP-0198 §3.
    pub(super) fn enable(&mut self, resume: bool, max: Option<u32>) {
        let Some(session) = self.session.as_ref().filter(|s| s.sm.is_none()) else {
            return sm::write_failed(self.c2s.out(), "unexpected-request", None);
        };
        let account = session.jid.bare();
        let secs = |d: std::time::Duration| u32::try_from(d.as_secs()).unwrap_or(u32::MAX);
        let default = secs(self.settings.resume_timeout);
        let resume_secs = resume.then(|| max.unwrap_or(default).min(secs(self.settings.resume_timeout_max)));
        let random = self.c2s.random().draw();
        self.ask(account, Ask::Enable { resume_secs, random });
    }
}
