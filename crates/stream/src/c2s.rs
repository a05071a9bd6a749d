//! A client's stream: from the first byte to authentication, then first-level elements as they come.

use crate::header::{self, Context, Level, Offered};
use crate::login::{self, Login};
use crate::{Random, Settings, StreamError, TlsInfo, sm};
use bytes::Bytes;
use sasl::{ChannelBinding, Credentials, Mechanism, Password};
use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};
use types::{BareJid, Instant, Seldom, ns};
use xml::{Element, Frame, Framer, Header, Limits, Scope, Writer};

/// White space is a keepalive (RFC 6120 §4.6.1), not a way to keep a server busy.
pub const SPACE_BYTES_PER_SECOND_MAX: u32 = 64 * 1024;

/// What a stream tells its user. Take them with [`C2s::poll`] until there is none.
#[derive(Debug)]
pub enum Event {
    /// `<proceed/>` is written: begin the TLS handshake, then call [`C2s::handle_tls`].
    StartTls,
    /// A login needs the account's keys: call [`C2s::handle_credentials`].
    Credentials {
        /// Whose.
        account: BareJid,
    },
    /// Run `credentials.verify_plain`, then call [`C2s::handle_plain_verified`]; if that cannot be done now,
    /// [`C2s::handle_plain_unavailable`].
    VerifyPlain {
        /// Of the account.
        credentials: Box<Credentials>,
        /// As the client sent it.
        password: Box<Password>,
    },
    /// A login of an account that exists has ended. After a success the stream is that account's.
    LoginEnded {
        /// Which.
        account: BareJid,
        /// Whether the client proved its identity.
        ok: bool,
    },
    /// An `<iq/>` with a `jabber:iq:register` query, where registration is allowed, from a client not authenticated.
    Register(Box<Element>),
    /// A first-level element of an authenticated client, not yet parsed. See [`C2s::scope`].
    Element(Bytes),
    /// The client has closed its stream. Answer with [`C2s::close`].
    End,
    /// The client reports a stream error; it sends nothing more.
    PeerError,
    /// The stream cannot go on: call [`C2s::close`] with it.
    Error(StreamError),
    /// Not a client of ours, or an attack: close the connection without a word.
    Drop,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// A header is due.
    Opening,
    /// Features are sent.
    Open,
    /// `<proceed/>` is sent.
    StartingTls,
    /// An error is told; nothing more is read.
    Failing,
    /// The end tag is sent.
    Closed,
}

/// What is needed only until the client is authenticated.
#[derive(Default)]
pub(crate) struct Negotiation {
    sni: Option<String>,
    pub(crate) binding: ChannelBinding,
    pub(crate) login: Option<Login>,
    /// Logins that ended without success, for whatever reason.
    pub(crate) failures: u8,
}

/// The server's side of one client stream (RFC 6120), without I/O.
///
/// Bytes go in by [`C2s::feed`]; [`C2s::poll`] says what they mean; what is to be sent gathers in [`C2s::out`].
/// Between events the stream stands still, so its user can stop in front of any element.
pub struct C2s {
    pub(crate) settings: Arc<Settings>,
    framer: Framer,
    pub(crate) stage: Stage,
    pub(crate) level: Level,
    /// The response header of this stream is sent.
    opened: bool,
    /// Whether anything was ever fed.
    fed: bool,
    /// The second of the last white space, and its bytes in that second.
    space: (u32, u32),
    /// Of the settings' domains, which one the client addresses.
    domain: Option<u32>,
    pub(crate) account: Option<BareJid>,
    /// Namespaces that the client's header declares, if they are not the usual ones.
    scope: Option<Box<Scope>>,
    lang: Option<Box<str>>,
    pub(crate) negotiation: Option<Box<Negotiation>>,
    /// Wrong proofs.
    pub(crate) failed_logins: u8,
    pub(crate) random: Random,
    pub(crate) out: Vec<u8>,
    /// What is to be told before anything is read.
    pending: Seldom<VecDeque<Event>>,
}

impl C2s {
    /// A stream that nothing has come on yet. `tls`: the connection began with a handshake (XEP-0368).
    pub fn new(settings: Arc<Settings>, random: Random, tls: Option<TlsInfo>) -> C2s {
        let limits = Limits { stanza_bytes_max: settings.stanza_bytes_unauthenticated_max };
        let mut c2s = C2s {
            settings,
            framer: Framer::new(limits),
            stage: Stage::Opening,
            level: Level::Plain,
            opened: false,
            fed: false,
            space: (0, 0),
            domain: None,
            account: None,
            scope: None,
            lang: None,
            negotiation: Some(Box::default()),
            failed_logins: 0,
            random,
            out: Vec::new(),
            pending: Seldom::default(),
        };
        if let Some(tls) = tls {
            c2s.secure(tls);
        }
        c2s
    }

    /// Adds received bytes. They wait until [`C2s::poll`] takes them.
    pub fn feed(&mut self, bytes: &[u8]) {
        match self.stage {
            // The rest of the clear text would be taken for the first of the secured one.
            Stage::StartingTls => self.fail_with(Event::Drop),
            // A TLS handshake on a port that begins in the clear.
            Stage::Opening if !self.fed && self.level == Level::Plain && bytes.first() == Some(&0x16) => {
                self.fail_with(Event::Drop);
            }
            Stage::Opening | Stage::Open => self.framer.feed(bytes),
            Stage::Failing | Stage::Closed => {}
        }
        self.fed |= !bytes.is_empty();
    }

    /// The handshake that [`Event::StartTls`] asked for is done: a new stream begins (RFC 6120 §5.4.3.3).
    pub fn handle_tls(&mut self, tls: TlsInfo) {
        if self.stage == Stage::StartingTls {
            self.secure(tls);
            self.restart();
        }
    }

    /// The hash of the certificate that the client was shown (RFC 5929 §4.1), to be told before it sends anything.
    pub fn set_server_end_point(&mut self, hash: Vec<u8>) {
        let Some(negotiation) = self.negotiation.as_mut() else { return };
        negotiation.binding = match std::mem::take(&mut negotiation.binding) {
            ChannelBinding::TlsExporter(tls_exporter) => ChannelBinding::Both { tls_exporter, tls_server_end_point: hash },
            _ => ChannelBinding::TlsServerEndPoint(hash),
        };
    }

    fn secure(&mut self, tls: TlsInfo) {
        self.level = Level::Secure;
        let negotiation = self.negotiation_mut();
        negotiation.sni = tls.sni;
        negotiation.binding = tls.exporter.map_or(ChannelBinding::None, ChannelBinding::TlsExporter);
    }

    pub(crate) fn restart(&mut self) {
        self.framer.restart();
        self.stage = Stage::Opening;
        self.opened = false;
    }

    /// What of a login or of TLS is known; made again after authentication only by a caller out of turn.
    pub(crate) fn negotiation_mut(&mut self) -> &mut Negotiation {
        self.negotiation.get_or_insert_default()
    }

    /// Keeps an event that came of an answer, for the next [`C2s::poll`].
    pub(crate) fn later(&mut self, event: Option<Event>) {
        if let Some(event) = event {
            self.pending.make().push_back(event);
        }
    }

    /// The next thing that the bytes fed mean; `None` if more bytes or an answer are needed first.
    pub fn poll(&mut self, now: Instant) -> Option<Event> {
        loop {
            if let Some(event) = self.pending.made().and_then(VecDeque::pop_front) {
                return Some(event);
            }
            // An idle stream holds no buffer.
            self.pending.take();
            if self.login_pauses() || !matches!(self.stage, Stage::Opening | Stage::Open) {
                return None;
            }
            let before = self.framer.remaining();
            let event = match self.framer.next() {
                Ok(None) => return None,
                Ok(Some(Frame::Whitespace)) => self.space(now, before - self.framer.remaining()),
                Ok(Some(Frame::Header(bytes))) => self.header(&bytes),
                Ok(Some(Frame::Element(bytes))) if self.level == Level::Authenticated => Some(Event::Element(bytes)),
                Ok(Some(Frame::Element(bytes))) => self.negotiate(&bytes),
                Ok(Some(Frame::End)) => Some(Event::End),
                Err(e) => Some(Event::Error(e.into())),
            };
            match event {
                Some(Event::Error(_) | Event::Drop | Event::End | Event::PeerError) => {
                    self.stage = Stage::Failing;
                    return event;
                }
                Some(event) => return Some(event),
                None => {}
            }
        }
    }

    pub(crate) fn fail_with(&mut self, event: Event) {
        self.stage = Stage::Failing;
        self.later(Some(event));
    }

    fn space(&mut self, now: Instant, bytes: usize) -> Option<Event> {
        // Only compared with the one before, so its lower half will do.
        let second = (now.0 / 1_000) as u32;
        let before = if self.space.0 == second { self.space.1 } else { 0 };
        self.space = (second, before.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX)));
        (self.space.1 > SPACE_BYTES_PER_SECOND_MAX).then_some(Event::Error(StreamError::PolicyViolation))
    }

    fn header(&mut self, bytes: &[u8]) -> Option<Event> {
        let header = match Header::parse(bytes) {
            Ok(header) => header,
            Err(e) => return Some(Event::Error(e.into())),
        };
        let checked = header::check(
            &header,
            &Context {
                settings: &self.settings,
                domain: self.domain(),
                account: self.account.as_ref(),
                sni: self.negotiation.as_ref().and_then(|n| n.sni.as_deref()),
            },
        );
        if let Ok(domain) = &checked {
            self.domain = Some(*domain);
        }
        self.open(Some(&header));
        if let Err(e) = checked {
            return Some(Event::Error(e));
        }
        self.lang = header.lang.as_deref().filter(|lang| is_language(lang)).map(Box::from);
        self.scope = (!is_usual(header.scope())).then(|| Box::new(header.scope().clone()));
        self.stage = Stage::Open;
        self.write_features();
        if self.level == Level::Authenticated {
            self.negotiation = None;
            self.framer.set_limits(Limits { stanza_bytes_max: self.settings.stanza_bytes_max });
        }
        None
    }

    /// Writes the response header, once for each stream.
    fn open(&mut self, received: Option<&Header>) {
        if std::mem::replace(&mut self.opened, true) {
            return;
        }
        let id = self.random.draw_name();
        if let Some(from) = self.domain().or(self.settings.domains.first()).cloned() {
            header::write(&mut self.out, &id, &from, received);
        }
    }

    fn write_features(&mut self) {
        let binding = self.negotiation.as_ref().map(|n| n.binding.clone()).unwrap_or_default();
        let usable = self.level == Level::Secure || !self.settings.tls_required;
        let mechanisms = if usable { login::offered(&self.settings.mechanisms, self.level, &binding) } else { Vec::new() };
        let plus = mechanisms.iter().any(|m| m.is_plus());
        let names: Vec<_> = mechanisms.into_iter().map(Mechanism::name).collect();
        let offered = Offered {
            settings: &self.settings,
            level: self.level,
            mechanisms: &names,
            channel_bindings: if plus { binding.types() } else { &[] },
        };
        header::write_features(&mut self.out, &offered);
    }

    /// An element of a client that is not authenticated.
    fn negotiate(&mut self, bytes: &[u8]) -> Option<Event> {
        let element = match Element::parse_in(bytes, self.scope()) {
            Ok(element) => element,
            Err(e) => return Some(Event::Error(e.into())),
        };
        match element.ns.as_str() {
            ns::TLS if element.name == "starttls" && self.level == Level::Plain => Some(self.starttls()),
            ns::SASL => self.sasl(&element),
            ns::STREAM => Some(stream_element(&element)),
            ns::CLIENT if self.registers(&element) => Some(Event::Register(Box::new(element))),
            ns::CLIENT => Some(Event::Error(StreamError::NotAuthorized)),
            // XEP-0198 §3: the order is enforced with `<failed/>`.
            ns::SM => match sm::Nonza::parse(&element) {
                Ok(sm::Nonza::Enable { .. } | sm::Nonza::Resume { .. }) => {
                    sm::write_failed(&mut self.out, "unexpected-request", None);
                    None
                }
                _ => Some(Event::Error(StreamError::NotAuthorized)),
            },
            _ => Some(Event::Error(StreamError::UnsupportedStanzaType)),
        }
    }

    fn registers(&self, element: &Element) -> bool {
        let registers = element.name == "iq" && element.children().any(|c| c.ns == ns::REGISTER);
        registers && header::may_register(&self.settings, self.level)
    }

    fn starttls(&mut self) -> Event {
        // What came with it would be read as the first of the secured stream (CVE-2011-0411 and its kin). White space says
        // nothing, and is thrown away. COMPAT: go-sendxmpp ends the element with a line feed.
        loop {
            match self.framer.next() {
                Ok(Some(Frame::Whitespace)) => {}
                Ok(None) if !self.framer.has_buffered() => break,
                _ => return Event::Drop,
            }
        }
        Writer::new(&mut self.out).open("proceed").attr("xmlns", ns::TLS).close();
        self.negotiation_mut().login = None;
        self.stage = Stage::StartingTls;
        Event::StartTls
    }

    /// Ends the stream: the header if it is not sent yet (RFC 6120 §4.9.1.2), the error if there is one, the end tag.
    /// Nothing is written after it.
    pub fn close(&mut self, error: Option<StreamError>) {
        if self.stage == Stage::Closed {
            return;
        }
        // Between `<proceed/>` and the handshake there is no stream to write to.
        if self.stage != Stage::StartingTls {
            self.open(None);
            if let Some(error) = error {
                error.write(&mut self.out);
            }
            self.out.extend_from_slice(b"</stream:stream>");
        }
        self.stage = Stage::Closed;
        self.pending.take();
        self.negotiation = None;
    }

    /// Whether a stream error or end tag can still be written.
    pub fn is_closed(&self) -> bool {
        self.stage == Stage::Closed
    }

    /// What is to be sent.
    pub fn out(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// The domain that the client addresses.
    pub fn domain(&self) -> Option<&BareJid> {
        self.settings.domains.get(self.domain? as usize)
    }

    /// Who the client is, once it has proved it.
    pub fn account(&self) -> Option<&BareJid> {
        self.account.as_ref()
    }

    /// How often the client gave a wrong proof, for an account that exists or for one that does not. What failed for
    /// another reason, such as a mechanism that is not offered or a server too busy, is not counted.
    pub fn failed_logins(&self) -> u8 {
        self.failed_logins
    }

    /// The language of stanzas that name none (RFC 6120 §8.1.5).
    pub fn lang(&self) -> Option<&str> {
        self.lang.as_deref()
    }

    /// Namespaces in force around first-level elements.
    pub fn scope(&self) -> &Scope {
        self.scope.as_deref().unwrap_or_else(|| usual_scope())
    }

    /// Random values of this connection.
    pub fn random(&mut self) -> &mut Random {
        &mut self.random
    }

    /// Whether the stream holds no buffer.
    pub fn is_idle(&self) -> bool {
        self.framer.is_idle() && self.out.capacity() == 0 && self.pending.is_unmade() && self.negotiation.is_none()
    }
}

/// A first-level element in the stream namespace.
pub fn stream_element(element: &Element) -> Event {
    match element.name.as_str() {
        "error" => Event::PeerError,
        // A header where none is due.
        "stream" => Event::Error(StreamError::InvalidXml),
        _ => Event::Error(StreamError::UnsupportedStanzaType),
    }
}

fn usual_scope() -> &'static Scope {
    static SCOPE: OnceLock<Scope> = OnceLock::new();
    SCOPE.get_or_init(|| Scope::of_stream(ns::CLIENT))
}

/// The same, in either order: nearly every stream, so it is not kept for each.
fn is_usual(scope: &Scope) -> bool {
    scope == usual_scope() || *scope == Scope::default().with("stream", ns::STREAM).with("", ns::CLIENT)
}

/// BCP 47, roughly: what may stand in `xml:lang`.
fn is_language(lang: &str) -> bool {
    !lang.is_empty() && lang.len() <= 35 && lang.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}
