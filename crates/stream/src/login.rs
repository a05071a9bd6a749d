//! SASL on a stream (RFC 6120 §6).

use crate::StreamError;
use crate::c2s::{C2s, Event};
use crate::header::Level;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sasl::{ChannelBinding, Condition, Credentials, Mechanism, Offer, Server, Step};
use types::{BareJid, ns};
use xml::{Element, Writer};

/// A login that runs.
pub(crate) struct Login {
    server: Server,
    /// Known once the client has named itself.
    account: Option<BareJid>,
    /// The account exists: it counts failures.
    known: bool,
    waits: Waits,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Waits {
    Client,
    Credentials,
    Verification,
}

/// What the account's shard says of the keys that a login needs.
#[derive(Debug)]
pub enum Keys {
    /// Here they are.
    Known(Credentials),
    /// There is no such account. The login goes on with a decoy, and fails like a wrong password.
    Unknown,
    /// They cannot be had now, or the account has had too many failures of late.
    Unavailable,
}

/// The mechanisms that a stream can be offered.
pub(crate) fn offered(wanted: &[Mechanism], level: Level, binding: &ChannelBinding) -> Vec<Mechanism> {
    let fits = |m: &Mechanism| match m {
        // RFC 6120 §13.8.3, RFC 7590: never in the clear.
        Mechanism::Plain => level == Level::Secure,
        m if m.is_plus() => !binding.types().is_empty(),
        _ => true,
    };
    wanted.iter().copied().filter(fits).collect()
}

impl C2s {
    /// An element of the SASL namespace from a client that is not authenticated.
    pub(crate) fn sasl(&mut self, element: &Element) -> Option<Event> {
        if self.level == Level::Plain && self.settings.tls_required {
            return self.fail(Condition::EncryptionRequired);
        }
        match element.name.as_str() {
            "auth" => self.auth(element),
            "response" => self.response(element),
            "abort" => self.fail(Condition::Aborted),
            _ => self.fail(Condition::MalformedRequest),
        }
    }

    fn auth(&mut self, element: &Element) -> Option<Event> {
        if self.negotiation_mut().login.is_some() {
            return self.fail(Condition::MalformedRequest);
        }
        let binding = self.negotiation_mut().binding.clone();
        let offered = offered(&self.settings.mechanisms, self.level, &binding);
        // Only what was offered on this very stream, however well we know the name.
        let wanted = element.attr("mechanism").and_then(Mechanism::from_name).filter(|m| offered.contains(m));
        let (Some(mechanism), Some(domain)) = (wanted, self.domain().cloned()) else {
            return self.fail(Condition::InvalidMechanism);
        };
        let plus_offered = offered.iter().any(|m| m.is_plus());
        let server = Server::new(mechanism, Offer { domain, plus_offered, channel_binding: binding }, self.random.draw());
        let message = match decode(element) {
            Ok(message) => message,
            Err(condition) => return self.fail(condition),
        };
        let mut login = Login { server, account: None, known: false, waits: Waits::Client };
        let step = match message {
            Some(message) => login.server.handle_initial(&message),
            None => login.server.handle_no_initial(),
        };
        self.negotiation_mut().login = Some(login);
        self.step(step)
    }

    fn response(&mut self, element: &Element) -> Option<Event> {
        let message = decode(element).map(Option::unwrap_or_default);
        match (self.negotiation_mut().login.as_mut(), message) {
            (Some(login), Ok(message)) => {
                let step = login.server.handle_response(&message);
                self.step(step)
            }
            (None, _) => self.fail(Condition::MalformedRequest),
            (_, Err(condition)) => self.fail(condition),
        }
    }

    /// The answer to [`Event::Credentials`].
    pub fn handle_credentials(&mut self, keys: Keys) {
        let decoy_secret = self.settings.decoy_secret;
        let iterations = self.settings.iterations;
        let Some(login) = self.login_that(Waits::Credentials) else { return };
        let credentials = match keys {
            Keys::Known(credentials) => {
                login.known = true;
                credentials
            }
            Keys::Unknown => {
                let name = login.account.as_ref().map_or("", BareJid::as_str);
                Credentials::decoy(&decoy_secret, name, iterations)
            }
            Keys::Unavailable => {
                let event = self.fail(Condition::TemporaryAuthFailure);
                return self.later(event);
            }
        };
        let step = login.server.handle_credentials(credentials);
        let event = self.step(step);
        self.later(event);
    }

    /// The answer to [`Event::VerifyPlain`].
    pub fn handle_plain_verified(&mut self, verified: bool) {
        let Some(login) = self.login_that(Waits::Verification) else { return };
        let step = login.server.handle_plain_verified(verified);
        let event = self.step(step);
        self.later(event);
    }

    /// The other answer to [`Event::VerifyPlain`]: nobody has the time to compare now (RFC 6120 §6.5.11). It says nothing
    /// about the password, so it is no failure of the account's.
    pub fn handle_plain_unavailable(&mut self) {
        if self.login_that(Waits::Verification).is_some() {
            let event = self.fail(Condition::TemporaryAuthFailure);
            self.later(event);
        }
    }

    /// Whether a login waits for [`C2s::handle_credentials`].
    pub fn wants_credentials(&self) -> bool {
        self.login_waits() == Some(Waits::Credentials)
    }

    /// Whether a login waits for anything but the client.
    pub(crate) fn login_pauses(&self) -> bool {
        self.login_waits().is_some_and(|waits| waits != Waits::Client)
    }

    fn login_waits(&self) -> Option<Waits> {
        Some(self.negotiation.as_ref()?.login.as_ref()?.waits)
    }

    fn login_that(&mut self, waits: Waits) -> Option<&mut Login> {
        self.negotiation.as_mut()?.login.as_mut().filter(|login| login.waits == waits)
    }

    fn step(&mut self, step: Step) -> Option<Event> {
        let domain = self.domain().cloned();
        let login = self.negotiation.as_mut()?.login.as_mut()?;
        match step {
            Step::NeedCredentials { username } => {
                // The name is a canonical localpart, so it makes an account's address with the stream's domain.
                let account = BareJid::new(Some(&username), domain.as_ref().map_or("", BareJid::domain)).ok();
                login.account = account.clone();
                login.waits = Waits::Credentials;
                match account {
                    Some(account) => Some(Event::Credentials { account }),
                    None => self.fail(Condition::NotAuthorized),
                }
            }
            Step::VerifyPlain { credentials, password } => {
                login.waits = Waits::Verification;
                Some(Event::VerifyPlain { credentials: Box::new(credentials), password: Box::new(password) })
            }
            Step::Challenge(data) => {
                login.waits = Waits::Client;
                write_data(&mut self.out, "challenge", Some(&data));
                None
            }
            Step::Success { additional, .. } => {
                write_data(&mut self.out, "success", additional.as_deref());
                let account = login.account.take()?;
                self.negotiation_mut().login = None;
                self.account = Some(account.clone());
                self.level = Level::Authenticated;
                // RFC 6120 §6.4.6: a new stream, without closing the old one.
                self.restart();
                Some(Event::LoginEnded { account, ok: true })
            }
            Step::Failure(condition) => self.fail(condition),
        }
    }

    /// Ends the login, if one runs; closes the stream after too many failures (RFC 6120 §6.4.5).
    fn fail(&mut self, condition: Condition) -> Option<Event> {
        let tries_max = self.settings.login_tries_max;
        if condition == Condition::NotAuthorized {
            self.failed_logins = self.failed_logins.saturating_add(1);
        }
        let negotiation = self.negotiation_mut();
        let login = negotiation.login.take();
        negotiation.failures = negotiation.failures.saturating_add(1);
        let event = login.filter(|l| l.known && condition == Condition::NotAuthorized).and_then(|l| l.account);
        let event = event.map(|account| Event::LoginEnded { account, ok: false });
        if negotiation.failures > tries_max {
            self.later(event);
            self.fail_with(Event::Error(StreamError::PolicyViolation));
            return None;
        }
        let w = Writer::new(&mut self.out).open("failure").attr("xmlns", ns::SASL);
        w.open(condition.as_str()).close().close();
        event
    }
}

/// The data of an `<auth/>` or `<response/>`: `None` if there are none, and empty ones for `=` (RFC 6120 §6.4.2).
fn decode(element: &Element) -> Result<Option<Vec<u8>>, Condition> {
    let text = element.text();
    match text.as_ref() {
        "" => Ok(None),
        "=" => Ok(Some(Vec::new())),
        text => STANDARD.decode(text).map(Some).map_err(|_| Condition::IncorrectEncoding),
    }
}

fn write_data(out: &mut Vec<u8>, name: &str, data: Option<&[u8]>) {
    let w = Writer::new(out).open(name).attr("xmlns", ns::SASL);
    match data {
        // An empty challenge is an empty element; an empty success has data of length zero.
        Some(data) if !data.is_empty() => w.text(&STANDARD.encode(data)).close(),
        _ => w.close(),
    };
}
