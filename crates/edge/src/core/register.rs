//! In-band registration (XEP-0077): accounts made, passwords changed, accounts removed.
//!
//! The edge derives keys from the password, so that no password ever goes to a shard.

use super::{Ask, Connection, Output};
use bytes::Bytes;
use frame::{AccountError, EdgeMsg};
use sasl::SaslError;
use stanza::{Condition, IqType, Stanza, StanzaError};
use stream::register::{Request, fields};
use types::{BareJid, ReqId, ns};
use xml::Element;

/// One request about an account.
pub(super) struct Registration {
    /// What is answered.
    iq: Stanza,
    /// The client's own account, if it is authenticated.
    own: Option<BareJid>,
    step: Step,
}

enum Step {
    /// Nothing is asked yet.
    Begun,
    /// Keys are derived.
    Deriving,
    /// Keys are there; encoded.
    Derived(Bytes),
    Remove,
}

impl Registration {
    /// Of a client with a session.
    pub fn bound(iq: Stanza, own: BareJid) -> Registration {
        Registration { iq, own: Some(own), step: Step::Begun }
    }

    /// Whether the shard can be asked.
    pub fn is_ready(&self) -> bool {
        matches!(self.step, Step::Derived(_) | Step::Remove)
    }

    /// The question to the shard.
    pub fn frame(&self, req: ReqId) -> Option<EdgeMsg> {
        match (&self.step, &self.own) {
            (Step::Derived(credentials), None) => Some(EdgeMsg::Create { req, credentials: credentials.clone() }),
            (Step::Derived(credentials), Some(_)) => Some(EdgeMsg::SetCredentials { req, credentials: credentials.clone() }),
            (Step::Remove, _) => Some(EdgeMsg::Remove { req }),
            _ => None,
        }
    }

    /// The answer to a removal that has happened, if this is one. It is the last that the client hears, and counts nowhere.
    pub fn removed(&self) -> Option<Stanza> {
        let Step::Remove = self.step else { return None };
        let mut result = self.iq.result(None);
        if result.from.is_none() {
            result.from = self.own.as_ref().map(BareJid::to_jid);
        }
        Some(result)
    }
}

impl Connection {
    /// From a client that is not authenticated, where that is allowed.
    pub(super) fn register_anew(&mut self, element: &Element) {
        let type_ = match element.attr("type") {
            Some("get") => IqType::Get,
            Some("set") => IqType::Set,
            // Results and errors answer nothing here.
            _ => return,
        };
        let mut iq = Stanza::iq(type_, element.attr("id").unwrap_or_default());
        iq.to = self.c2s.domain().map(|d| d.to_jid());
        if let Some(query) = element.child("query", ns::REGISTER) {
            self.register(Registration { iq, own: None, step: Step::Begun }, query);
        }
    }

    pub(super) fn register(&mut self, mut registration: Registration, query: &Element) {
        let set = registration.iq.iq_type() == Some(IqType::Set);
        let (account, step) = match Request::parse(query, set) {
            Err(e) => return self.settle(&registration, Err(e)),
            Ok(Request::Fields) => {
                let form = fields(registration.own.as_ref().and_then(BareJid::local));
                return self.settle(&registration, Ok(Some(form)));
            }
            Ok(Request::Remove) => match &registration.own {
                Some(own) => (own.clone(), Step::Remove),
                // XEP-0077 §3.2.
                None => return self.settle(&registration, Err(Condition::RegistrationRequired.into())),
            },
            Ok(Request::Set { username, password }) => {
                let domain = registration.own.as_ref().or(self.c2s.domain()).map_or("", BareJid::domain);
                let account = match BareJid::new(Some(&username), domain) {
                    Ok(account) => account,
                    Err(_) => return self.settle(&registration, Err(Condition::NotAcceptable.into())),
                };
                if registration.own.as_ref().is_some_and(|own| *own != account) {
                    // Nobody changes another one's password.
                    return self.settle(&registration, Err(Condition::Forbidden.into()));
                }
                let (random, iterations) = (self.c2s.random().draw(), self.settings.iterations);
                self.push(Output::Derive { password, random, iterations });
                (account, Step::Deriving)
            }
        };
        registration.step = step;
        self.ask(account, Ask::Register(registration));
    }

    /// Keys were derived, or the password cannot be one.
    pub(super) fn derived(&mut self, credentials: Result<Bytes, SaslError>) {
        let Some(Ask::Register(registration)) = self.asked.as_mut().map(|a| &mut a.what) else { return };
        if !matches!(registration.step, Step::Deriving) {
            return;
        }
        match credentials {
            Ok(credentials) => registration.step = Step::Derived(credentials),
            Err(_) => {
                if let Some(Ask::Register(registration)) = self.asked.take().map(|a| a.what) {
                    self.settle(&registration, Err(Condition::NotAcceptable.into()));
                }
            }
        }
    }

    /// The shard has answered.
    pub(super) fn account_done(&mut self, registration: Registration, result: Result<(), AccountError>) {
        let result = result.map_err(|e| match e {
            AccountError::Exists => Condition::Conflict,
            AccountError::NotFound => Condition::RegistrationRequired,
            AccountError::NotAllowed => Condition::NotAllowed,
            AccountError::Busy => Condition::ResourceConstraint,
        });
        self.settle(&registration, result.map(|()| None).map_err(StanzaError::new));
    }

    fn settle(&mut self, registration: &Registration, result: Result<Option<Element>, StanzaError>) {
        if let (Ok(_), Some(removed)) = (&result, registration.removed()) {
            return removed.write(self.c2s.out());
        }
        let reply = match result {
            Ok(payload) => Some(registration.iq.result(payload)),
            Err(e) => e.reply_to(&registration.iq),
        };
        match reply {
            // Without a session there is nobody to count it.
            Some(reply) if registration.own.is_none() => reply.write(self.c2s.out()),
            reply => self.answer(reply),
        }
    }
}
