//! What an authenticated client sends.
//!
//! Every stanza of a session with XEP-0198 takes a number, and every answer to one takes one too, since the client counts
//! both and may resume elsewhere. So an answer that the edge makes itself (to a stanza that no account can take) is not
//! written to the client: it is submitted in the stanza's place, addressed to the session, and comes back as an output.
//! Without XEP-0198 nobody counts, and it is written at once. What is wrong inside a stanza (an IQ without id or payload,
//! say) is the account's to answer.

use super::Connection;
use super::register::Registration;
use bytes::Bytes;
use compact_str::CompactString;
use stanza::{Condition, IqType, Kind, Malformed, Parsed, Stanza, StanzaError};
use std::sync::Arc;
use stream::sm::{self, Nonza};
use stream::{Event, StreamError, stream_element};
use types::{FullJid, Jid, ns};
use xml::Element;

impl Connection {
    pub(super) fn handle_element(&mut self, bytes: Bytes) {
        let len = bytes.len();
        let parsed = match Stanza::parse_in(bytes, self.c2s.scope(), ns::CLIENT) {
            Ok(parsed) => parsed,
            Err(e) => return self.fail(e.into()),
        };
        match parsed {
            Parsed::Other(element) => self.nonza(&element),
            Parsed::Stanza(stanza) if self.session.is_none() => self.unbound(&stanza),
            Parsed::Malformed(_) if self.session.is_none() => self.fail(StreamError::NotAuthorized),
            Parsed::Stanza(stanza) => self.stanza(stanza, len, None),
            Parsed::Malformed(malformed) => self.malformed(malformed, len),
        }
    }

    /// A first-level element that is no stanza.
    fn nonza(&mut self, element: &Element) {
        match element.ns.as_str() {
            ns::SM if self.settings.features.stream_management => match Nonza::parse(element) {
                Ok(nonza) => self.stream_management(nonza),
                Err(e) => self.fail(e),
            },
            ns::CSI if self.settings.features.client_state => match (element.name.as_str(), &mut self.session) {
                ("active" | "inactive", Some(session)) => session.inactive = element.name == "inactive",
                // Every session begins active.
                ("active" | "inactive", None) => {}
                _ => self.fail(StreamError::UnsupportedStanzaType),
            },
            ns::STREAM => match stream_element(element) {
                Event::Error(e) => self.fail(e),
                event => self.handle_event(event),
            },
            _ => self.fail(StreamError::UnsupportedStanzaType),
        }
    }

    fn stream_management(&mut self, nonza: Nonza) {
        match nonza {
            Nonza::Enable { resume, max } => self.enable(resume, max),
            Nonza::Resume { previd, h } => self.resume(previd, h),
            Nonza::Request | Nonza::Ack { .. } => {
                let Some(session) = self.session.as_deref_mut().filter(|s| s.sm.is_some()) else {
                    return sm::write_failed(self.c2s.out(), "unexpected-request", None);
                };
                match nonza {
                    Nonza::Ack { h } => {
                        if let Err(e) = session.handle_ack(h) {
                            self.fail(e);
                        }
                    }
                    _ => session.handle_request(),
                }
            }
        }
    }

    fn malformed(&mut self, malformed: Malformed, len: usize) {
        if malformed.from.is_some() {
            return self.fail(StreamError::InvalidFrom);
        }
        let error = StanzaError::new(Condition::JidMalformed);
        self.stanza(malformed.stanza, len, Some(error));
    }

    /// A stanza of a session, the bytes that it came as, and what is wrong with its addresses.
    fn stanza(&mut self, mut stanza: Stanza, len: usize, error: Option<StanzaError>) {
        let Some(session) = self.session.as_deref() else { return };
        // RFC 6120 §8.1.2.1: the full or the bare address of the session, or none.
        if stanza.from.as_ref().is_some_and(|from| *from != session.jid && from.as_str() != session.jid.bare_str()) {
            return self.fail(StreamError::InvalidFrom);
        }
        if self.answers_ping(&stanza) && self.pong() {
            return;
        }
        let Some(session) = self.session.as_deref() else { return };
        stanza.from = Some(session.jid.to_jid());
        if let Some(error) = error {
            let reply = error.reply_to(&stanza);
            return self.answer(reply);
        }
        if stanza.is_request() && to_server(&stanza, &session.jid) {
            match stanza.payload() {
                Some(child) if child.is("bind", ns::BIND) => {
                    // RFC 6120 §7.1: one resource for each stream.
                    return self.answer(StanzaError::new(Condition::NotAllowed).reply_to(&stanza));
                }
                // RFC 3921 §3: a session is there since binding.
                Some(child) if child.is("session", ns::SESSION) => return self.answer(Some(stanza.result(None))),
                Some(child) if child.is("query", ns::REGISTER) => {
                    let own = session.jid.bare();
                    return match child.element() {
                        Ok(query) => self.register(Registration::bound(stanza, own), &query),
                        Err(e) => self.fail(e.into()),
                    };
                }
                _ => {}
            }
        }
        if stanza.lang.is_none() {
            // RFC 6120 §8.1.5.
            stanza.lang = self.c2s.lang().map(CompactString::new);
        }
        self.submit(stanza, len);
    }

    fn submit(&mut self, stanza: Stanza, len: usize) {
        if let Some(session) = self.session.as_deref_mut() {
            session.push_input(Arc::new(stanza), len);
        }
    }

    /// The edge's own answer to a stanza of the session; `None` if it must not be answered. See the module.
    pub(super) fn answer(&mut self, reply: Option<Stanza>) {
        let Some(session) = self.session.as_deref() else { return };
        let jid = session.jid.clone();
        let counts = session.sm.is_some();
        match (reply, counts) {
            (Some(mut reply), _) => {
                reply.to = Some(jid.to_jid());
                if reply.from.is_none() {
                    reply.from = Some(jid.bare().into());
                }
                if counts {
                    let len = reply.encoded_len_hint();
                    self.submit(reply, len);
                } else {
                    reply.write(self.c2s.out());
                }
            }
            // A result that answers nothing: it takes the number and has no effect (RFC 6120 §8.2.3).
            (None, true) => self.submit(Stanza::iq(IqType::Result, "").with_from(jid.to_jid()), 0),
            (None, false) => {}
        }
    }

    fn answers_ping(&self, stanza: &Stanza) -> bool {
        let Some((session, ping)) = self.session.as_ref().and_then(|s| Some((s, s.ping.as_ref()?))) else { return false };
        let answer = matches!(stanza.iq_type(), Some(IqType::Result | IqType::Error)) && stanza.kind == Kind::Iq;
        answer && stanza.id.as_ref() == Some(&ping.id) && to_server(stanza, &session.jid)
    }

    /// Our ping is answered, be it by an error: the client has read all that was before it. Whether nobody counts the answer.
    fn pong(&mut self) -> bool {
        let Some(session) = self.session.as_deref_mut() else { return false };
        if let Some(ping) = session.ping.take() {
            session.acknowledge(ping.m);
        }
        session.sm.is_none()
    }
}

/// Whether a stanza is addressed to the server or the account itself, which the server answers for.
fn to_server(stanza: &Stanza, jid: &FullJid) -> bool {
    stanza
        .to
        .as_ref()
        .is_none_or(|to: &Jid| to.is_bare() && (to.as_str() == jid.bare_str() || (to.local().is_none() && to.domain() == jid.domain())))
}
