//! A client: from a TCP connection to a bound session (RFC 6120), and what it asks for once it is there.

mod login;
mod transport;
mod websocket;

#[cfg(test)]
mod tests;

pub use login::login;
pub use transport::{ANSWER_MAX, Io, Mechanism, Options, Profile, Target, TlsMode, WEBSOCKET_PATH, sources};

use crate::element::{Element, escape};
use crate::scram::Keys;
use crate::splitter::{Frame, Splitter};
use anyhow::{Context as _, Result, anyhow, bail, ensure};
use std::sync::Mutex;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const TLS: &str = "urn:ietf:params:xml:ns:xmpp-tls";
const BIND: &str = "urn:ietf:params:xml:ns:xmpp-bind";
const REGISTER: &str = "jabber:iq:register";
const STANZAS: &str = "urn:ietf:params:xml:ns:xmpp-stanzas";
/// The namespace of stream management (XEP-0198).
pub const SM: &str = "urn:xmpp:sm:3";
const STREAM: &str = "http://etherx.jabber.org/streams";
/// Bytes of one read.
pub const READ_BYTES: usize = 8 * 1024;
/// A server that does not end its stream is left so long after the client has ended its own.
const CLOSE_MAX: Duration = Duration::from_secs(5);

/// An account, and what follows from its password once it is known.
pub struct Account {
    /// Localpart.
    pub username: String,
    /// In the clear.
    pub password: String,
    keys: Mutex<Option<Keys>>,
    /// XEP-0484.
    token: Mutex<Option<String>>,
}

impl Account {
    /// An account that may or may not exist.
    pub fn new(username: impl Into<String>, password: impl Into<String>) -> Account {
        Account { username: username.into(), password: password.into(), keys: Mutex::default(), token: Mutex::default() }
    }
}

/// An answer of type `error`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refused {
    /// The condition (RFC 6120 §8.3.3).
    pub condition: String,
    /// What the server says about it.
    pub text: String,
}

impl std::error::Error for Refused {}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "refused: {}", self.condition)?;
        if self.text.is_empty() { Ok(()) } else { write!(f, " ({})", self.text) }
    }
}

impl Refused {
    /// Of a stanza of type `error`.
    pub fn of(stanza: &Element) -> Refused {
        let error = stanza.children.iter().find(|c| c.name == "error");
        let condition = error.and_then(|e| e.children.iter().find(|c| c.ns == STANZAS && c.name != "text"));
        let text = error.and_then(|e| e.child("text", STANZAS)).map(|t| t.text.clone());
        Refused { condition: condition.map_or_else(|| "undefined-condition".into(), |c| c.name.clone()), text: text.unwrap_or_default() }
    }

    /// Whether the server says that it has no such thing, not that this one request is wrong.
    pub fn is_lacking(&self) -> bool {
        matches!(self.condition.as_str(), "feature-not-implemented" | "service-unavailable" | "not-allowed" | "remote-server-not-found")
    }
}

/// Says that the server lacks a feature if that is why it refused, and passes on every other failure.
///
/// # Errors
/// The failure.
pub fn or_lacking<T>(answer: Result<T>, feature: &str) -> Result<T> {
    answer.map_err(|error| match error.downcast_ref::<Refused>() {
        Some(refused) if refused.is_lacking() => anyhow!("the server offers no {feature}: {}", refused.condition),
        _ => error.context(feature.to_owned()),
    })
}

/// A client's connection, before and after login.
pub struct Connection {
    /// The socket.
    pub io: Io,
    /// What of the stream was received.
    pub splitter: Splitter,
    /// The start tag of the server's stream.
    pub header: Vec<u8>,
    features: Element,
    domain: String,
    /// The full JID, once bound.
    pub jid: String,
}

impl Connection {
    /// Connects, and starts TLS as the target says.
    ///
    /// # Errors
    /// No connection, a certificate that is not trusted, a server that does not offer STARTTLS.
    pub async fn open(target: &Target) -> Result<Connection> {
        Connection::open_from(target, None).await
    }

    /// The same, for a known account: under TLS the stream's header names it, which XEP-0388 asks for.
    async fn open_from(target: &Target, account: Option<&Account>) -> Result<Connection> {
        let io = transport::connect(target).await?;
        let mut connection = Connection::over(io, &target.domain);
        let from = account.map(|a| a.username.as_str());
        connection.start_stream(from.filter(|_| connection.io.is_secure())).await?;
        if target.tls == TlsMode::StartTls { connection.start_tls(target, from).await } else { Ok(connection) }
    }

    /// A connection on which nothing was said.
    fn over(io: Io, domain: &str) -> Connection {
        Connection {
            io,
            splitter: Splitter::default(),
            header: Vec::new(),
            features: Element::default(),
            domain: domain.to_owned(),
            jid: String::new(),
        }
    }

    async fn start_tls(mut self, target: &Target, from: Option<&str>) -> Result<Connection> {
        ensure!(self.features.child("starttls", TLS).is_some(), "the server offers no STARTTLS");
        self.send(&format!("<starttls xmlns='{TLS}'/>")).await?;
        let answer = self.next().await?;
        ensure!((answer.name.as_str(), answer.ns.as_str()) == ("proceed", TLS), "STARTTLS: {answer:?}");
        let Io::Plain(tcp) = self.io else { bail!("TLS within TLS") };
        ensure!(!self.splitter.has_rest(), "clear text behind <proceed/>");
        self.io = transport::handshake(tcp, target).await?;
        self.start_stream(from).await?;
        Ok(self)
    }

    async fn start_stream(&mut self, from: Option<&str>) -> Result<()> {
        self.splitter.restart();
        let domain = escape(&self.domain);
        let from = from.map(|name| format!(" from='{}@{domain}'", escape(name))).unwrap_or_default();
        let header =
            format!("<?xml version='1.0'?><stream:stream to='{domain}'{from} version='1.0' xmlns='jabber:client' xmlns:stream='{STREAM}'>");
        self.send(&header).await?;
        self.next_features().await
    }

    async fn next_features(&mut self) -> Result<()> {
        self.features = self.next().await?;
        ensure!(self.features.name == "features" && self.features.ns == STREAM, "no features: {:?}", self.features);
        Ok(())
    }

    /// Sends bytes at once.
    ///
    /// # Errors
    /// The connection is gone, or takes nothing.
    pub async fn send(&mut self, text: &str) -> Result<()> {
        let sending = async {
            self.io.write_all(text.as_bytes()).await?;
            self.io.flush().await
        };
        Ok(tokio::time::timeout(ANSWER_MAX, sending).await.context("the server does not read")??)
    }

    /// The next element of the stream.
    ///
    /// # Errors
    /// The stream's end, a stream error, or silence.
    pub async fn next(&mut self) -> Result<Element> {
        tokio::time::timeout(ANSWER_MAX, self.next_element()).await.context("no answer")?
    }

    async fn next_element(&mut self) -> Result<Element> {
        loop {
            match self.splitter.next()? {
                Some(Frame::Header(header)) => self.header = header.to_vec(),
                Some(Frame::Element(element)) => {
                    let element = Element::parse(element, &self.header)?;
                    ensure!(element.name != "error" || element.ns != STREAM, "stream error: {}", stream_error(&element));
                    return Ok(element);
                }
                Some(Frame::End) => bail!("the server has ended the stream"),
                None => {
                    let mut bytes = [0; READ_BYTES];
                    let n = self.io.read(&mut bytes).await?;
                    ensure!(n > 0, "the server has closed the connection");
                    self.splitter.feed(&bytes[..n]);
                }
            }
        }
    }

    /// Sends an IQ to the own account and waits for its result; what comes before is passed over.
    ///
    /// # Errors
    /// An error answer, as [`Refused`].
    pub async fn ask(&mut self, kind: &str, id: &str, payload: &str) -> Result<Element> {
        self.ask_whom("", kind, id, payload).await
    }

    /// Sends an IQ to an address.
    ///
    /// # Errors
    /// An error answer, as [`Refused`].
    pub async fn ask_whom(&mut self, to: &str, kind: &str, id: &str, payload: &str) -> Result<Element> {
        let to = if to.is_empty() { String::new() } else { format!(" to='{}'", escape(to)) };
        self.send(&format!("<iq type='{kind}' id='{id}'{to}>{payload}</iq>")).await?;
        loop {
            let answer = self.next().await?;
            if answer.name == "iq" && answer.attr("id") == Some(id) {
                ensure!(answer.attr("type") == Some("result"), Refused::of(&answer));
                return Ok(answer);
            }
        }
    }

    /// Makes an account on this connection, before any login (XEP-0077).
    ///
    /// # Errors
    /// A refusal; also of a name that is taken, which is a [`Refused`] with `conflict`.
    pub async fn register(&mut self, account: &Account) -> Result<()> {
        let (username, password) = (escape(&account.username), escape(&account.password));
        let fields = format!("<username>{username}</username><password>{password}</password>");
        let answer = self.ask("set", "register", &format!("<query xmlns='{REGISTER}'>{fields}</query>")).await;
        or_lacking(answer, "in-band registration (XEP-0077)")?;
        Ok(())
    }

    /// Asks for the roster, then becomes available (RFC 6121 §2.2, §4.2) and waits until the server has told its own
    /// resource so. Returns how many items the roster has.
    ///
    /// # Errors
    /// A refusal.
    pub async fn appear(&mut self) -> Result<usize> {
        let items = self.roster().await?.len();
        self.send("<presence/>").await?;
        loop {
            let answer = self.next().await?;
            if answer.name == "presence" && answer.attr("from") == Some(&self.jid) {
                return Ok(items);
            }
        }
    }

    /// The roster's items.
    ///
    /// # Errors
    /// A refusal.
    pub async fn roster(&mut self) -> Result<Vec<Element>> {
        let roster = self.ask("get", "roster", "<query xmlns='jabber:iq:roster'/>").await?;
        let query = roster.children.into_iter().find(|c| c.name == "query");
        Ok(query.map(|q| q.children).unwrap_or_default())
    }

    /// Turns stream management on, without resumption (XEP-0198 §3).
    ///
    /// # Errors
    /// A refusal.
    pub async fn enable_management(&mut self) -> Result<()> {
        self.enable("").await.map(|_| ())
    }

    /// Turns stream management on; returns what the session can be resumed with (XEP-0198 §5).
    ///
    /// # Errors
    /// A refusal.
    pub async fn enable_resumption(&mut self) -> Result<String> {
        let enabled = self.enable(" resume='true'").await?;
        let resumes = matches!(enabled.attr("resume"), Some("true" | "1"));
        let id = enabled.attr("id").filter(|_| resumes).context("the server offers no resumption of sessions (XEP-0198)")?;
        Ok(id.to_owned())
    }

    async fn enable(&mut self, how: &str) -> Result<Element> {
        ensure!(self.features.child("sm", SM).is_some(), "the server offers no stream management (XEP-0198)");
        self.send(&format!("<enable xmlns='{SM}'{how}/>")).await?;
        loop {
            let answer = self.next().await?;
            if answer.ns == SM {
                ensure!(answer.name == "enabled", "XEP-0198: {answer:?}");
                return Ok(answer);
            }
            // An account with contacts hears of them, and what comes before this answer is not counted (§3).
            ensure!(matches!(&*answer.name, "message" | "presence" | "iq"), "XEP-0198: {answer:?}");
        }
    }

    /// Takes up an earlier session in place of binding: the server's count of stanzas that it had from it, or what it
    /// answered instead, after which this connection can bind.
    ///
    /// # Errors
    /// The stream's end.
    pub async fn resume(&mut self, previous: &str, handled: u32) -> Result<Result<u32, Element>> {
        self.send(&format!("<resume xmlns='{SM}' previd='{}' h='{handled}'/>", escape(previous))).await?;
        let answer = self.next().await?;
        if answer.name != "resumed" || answer.ns != SM {
            return Ok(Err(answer));
        }
        Ok(Ok(answer.attr("h").context("<resumed/> without h")?.parse()?))
    }

    /// Ends the stream and waits for the server to do so, so that nothing of it is left to do. A connection that breaks
    /// meanwhile is over as well.
    pub async fn close(mut self) {
        if self.send("</stream:stream>").await.is_ok() {
            let _ = tokio::time::timeout(CLOSE_MAX, self.drain()).await;
        }
    }

    async fn drain(&mut self) {
        let mut bytes = vec![0; READ_BYTES];
        loop {
            while let Ok(Some(frame)) = self.splitter.next() {
                if frame == Frame::End {
                    let _ = self.io.shutdown().await;
                }
            }
            match self.io.read(&mut bytes).await {
                Ok(n) if n > 0 => self.splitter.feed(&bytes[..n]),
                _ => return,
            }
        }
    }
}

fn stream_error(error: &Element) -> String {
    let all: Vec<_> = error.children.iter().map(|c| if c.name == "text" { c.text.as_str() } else { c.name.as_str() }).collect();
    all.join(": ")
}
