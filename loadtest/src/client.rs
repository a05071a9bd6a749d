//! A client: from a TCP connection to a bound session (RFC 6120), and what it asks for once it is there.

use crate::element::{Element, escape};
use crate::scram::{Exchange, Keys};
use crate::splitter::{Frame, Splitter};
use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustls::pki_types::ServerName;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const TLS: &str = "urn:ietf:params:xml:ns:xmpp-tls";
const SASL: &str = "urn:ietf:params:xml:ns:xmpp-sasl";
const BIND: &str = "urn:ietf:params:xml:ns:xmpp-bind";
const SM: &str = "urn:xmpp:sm:3";
const STREAM: &str = "http://etherx.jabber.org/streams";
/// An answer that takes longer is a failure of the run.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// Bytes of one read.
pub const READ_BYTES: usize = 8 * 1024;

/// When TLS begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsMode {
    /// Never.
    Plain,
    /// By STARTTLS (RFC 6120 §5).
    StartTls,
    /// With the first byte (XEP-0368).
    Direct,
}

/// A server as clients reach it.
#[derive(Clone)]
pub struct Target {
    /// Where it listens.
    pub address: SocketAddr,
    /// The domain of the accounts.
    pub domain: String,
    /// When TLS begins.
    pub tls: TlsMode,
    /// What is trusted.
    pub config: Arc<rustls::ClientConfig>,
}

/// An account, and the keys that follow from its password once they are known.
pub struct Account {
    /// Localpart.
    pub username: String,
    /// In the clear.
    pub password: String,
    keys: Mutex<Option<Keys>>,
}

impl Account {
    /// An account that may or may not exist.
    pub fn new(username: impl Into<String>, password: impl Into<String>) -> Account {
        Account { username: username.into(), password: password.into(), keys: Mutex::new(None) }
    }
}

/// A TCP connection, with or without TLS.
pub enum Io {
    /// In the clear.
    Plain(TcpStream),
    /// Under TLS.
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Io::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Io::Tls(io) => Pin::new(io.as_mut()).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            Io::Plain(io) => Pin::new(io).poll_write(cx, buf),
            Io::Tls(io) => Pin::new(io.as_mut()).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Io::Plain(io) => Pin::new(io).poll_flush(cx),
            Io::Tls(io) => Pin::new(io.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Io::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Io::Tls(io) => Pin::new(io.as_mut()).poll_shutdown(cx),
        }
    }
}

/// A client's connection, before and after login.
pub struct Connection {
    /// The socket.
    pub io: Io,
    /// What of the stream was received.
    pub splitter: Splitter,
    /// The start tag of the server's stream.
    header: Vec<u8>,
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
        let tcp = TcpStream::connect(target.address).await.with_context(|| format!("{}", target.address))?;
        tcp.set_nodelay(true)?;
        let io = match target.tls {
            TlsMode::Direct => handshake(tcp, target).await?,
            TlsMode::Plain | TlsMode::StartTls => Io::Plain(tcp),
        };
        let mut connection = Connection {
            io,
            splitter: Splitter::default(),
            header: Vec::new(),
            features: Element::default(),
            domain: target.domain.clone(),
            jid: String::new(),
        };
        connection.start_stream().await?;
        if target.tls == TlsMode::StartTls { connection.start_tls(target).await } else { Ok(connection) }
    }

    async fn start_tls(mut self, target: &Target) -> Result<Connection> {
        ensure!(self.features.child("starttls", TLS).is_some(), "STARTTLS is not offered");
        self.send(&format!("<starttls xmlns='{TLS}'/>")).await?;
        let answer = self.next().await?;
        ensure!((answer.name.as_str(), answer.ns.as_str()) == ("proceed", TLS), "STARTTLS: {answer:?}");
        let Io::Plain(tcp) = self.io else { bail!("TLS within TLS") };
        ensure!(!self.splitter.has_rest(), "clear text behind <proceed/>");
        self.io = handshake(tcp, target).await?;
        self.start_stream().await?;
        Ok(self)
    }

    async fn start_stream(&mut self) -> Result<()> {
        self.splitter.restart();
        let domain = escape(&self.domain);
        let header =
            format!("<?xml version='1.0'?><stream:stream to='{domain}' version='1.0' xmlns='jabber:client' xmlns:stream='{STREAM}'>");
        self.send(&header).await?;
        self.features = self.next().await?;
        ensure!(self.features.name == "features" && self.features.ns == STREAM, "no features: {:?}", self.features);
        Ok(())
    }

    /// Sends bytes at once.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn send(&mut self, text: &str) -> Result<()> {
        self.io.write_all(text.as_bytes()).await?;
        Ok(self.io.flush().await?)
    }

    /// The next element of the stream.
    ///
    /// # Errors
    /// The stream's end, a stream error, or silence.
    pub async fn next(&mut self) -> Result<Element> {
        tokio::time::timeout(ANSWER_MAX, self.next_element()).await.context("no answer")?
    }

    async fn next_element(&mut self) -> Result<Element> {
        let mut bytes = vec![0; READ_BYTES];
        loop {
            match self.splitter.next()? {
                Some(Frame::Header(header)) => self.header = header.to_vec(),
                Some(Frame::Element(element)) => {
                    let element = Element::parse(element, &self.header)?;
                    ensure!(element.name != "error" || element.ns != STREAM, "stream error: {element:?}");
                    return Ok(element);
                }
                Some(Frame::End) => bail!("the server has ended the stream"),
                None => {
                    let n = self.io.read(&mut bytes).await?;
                    ensure!(n > 0, "the server has closed the connection");
                    self.splitter.feed(&bytes[..n]);
                }
            }
        }
    }

    /// Proves who the client is: SCRAM-SHA-256, or PLAIN under TLS where there is no SCRAM. Then a new stream.
    ///
    /// # Errors
    /// No mechanism that is known, or a refusal.
    pub async fn authenticate(&mut self, account: &Account) -> Result<()> {
        let offered = self.features.child("mechanisms", SASL).context("no mechanisms are offered")?;
        let offers = |name: &str| offered.children.iter().any(|m| m.text.trim() == name);
        if offers("SCRAM-SHA-256") {
            self.scram(account).await?;
        } else if offers("PLAIN") && matches!(self.io, Io::Tls(_)) {
            let message = BASE64.encode(format!("\0{}\0{}", account.username, account.password));
            self.send(&format!("<auth xmlns='{SASL}' mechanism='PLAIN'>{message}</auth>")).await?;
            self.sasl("success").await?;
        } else {
            bail!("neither SCRAM-SHA-256 nor PLAIN under TLS is offered: {offered:?}");
        }
        self.start_stream().await
    }

    async fn scram(&mut self, account: &Account) -> Result<()> {
        let mut exchange = Exchange::new(&account.username)?;
        let first = BASE64.encode(exchange.first());
        self.send(&format!("<auth xmlns='{SASL}' mechanism='SCRAM-SHA-256'>{first}</auth>")).await?;
        let challenge = self.sasl("challenge").await?;
        let last = {
            let mut keys = account.keys.lock().unwrap_or_else(PoisonError::into_inner);
            exchange.last(&challenge, &account.password, &mut keys)?
        };
        self.send(&format!("<response xmlns='{SASL}'>{}</response>", BASE64.encode(last))).await?;
        let last = self.sasl("success").await?;
        exchange.verify(&last)
    }

    async fn sasl(&mut self, wanted: &str) -> Result<String> {
        let answer = self.next().await?;
        ensure!(answer.name == wanted && answer.ns == SASL, "{wanted} is due: {answer:?}");
        Ok(String::from_utf8(BASE64.decode(answer.text.trim())?)?)
    }

    /// Binds a resource (RFC 6120 §7).
    ///
    /// # Errors
    /// A refusal.
    pub async fn bind(&mut self, resource: &str) -> Result<()> {
        let resource = escape(resource);
        let answer = self.ask("set", "bind", &format!("<bind xmlns='{BIND}'><resource>{resource}</resource></bind>")).await?;
        let jid = answer.child("bind", BIND).and_then(|b| b.child("jid", BIND)).context("no JID is bound")?;
        self.jid.clone_from(&jid.text);
        Ok(())
    }

    /// Sends an IQ to the own account and waits for its result; what comes before is passed over.
    ///
    /// # Errors
    /// An error answer.
    pub async fn ask(&mut self, kind: &str, id: &str, payload: &str) -> Result<Element> {
        self.send(&format!("<iq type='{kind}' id='{id}'>{payload}</iq>")).await?;
        loop {
            let answer = self.next().await?;
            if answer.name == "iq" && answer.attr("id") == Some(id) {
                ensure!(answer.attr("type") == Some("result"), "refused: {answer:?}");
                return Ok(answer);
            }
        }
    }

    /// Makes an account on this connection, before any login (XEP-0077).
    ///
    /// # Errors
    /// A refusal; also of a name that is taken.
    pub async fn register(&mut self, account: &Account) -> Result<()> {
        let (username, password) = (escape(&account.username), escape(&account.password));
        let fields = format!("<username>{username}</username><password>{password}</password>");
        self.ask("set", "register", &format!("<query xmlns='jabber:iq:register'>{fields}</query>")).await?;
        Ok(())
    }

    /// Asks for the roster, then becomes available (RFC 6121 §2.2, §4.2) and waits until the server has told its own
    /// resource so. Returns how many items the roster has.
    ///
    /// # Errors
    /// A refusal.
    pub async fn appear(&mut self) -> Result<usize> {
        let roster = self.ask("get", "roster", "<query xmlns='jabber:iq:roster'/>").await?;
        let items = roster.child("query", "jabber:iq:roster").map_or(0, |q| q.children.len());
        self.send("<presence/>").await?;
        loop {
            let answer = self.next().await?;
            if answer.name == "presence" && answer.attr("from") == Some(&self.jid) {
                return Ok(items);
            }
        }
    }

    /// Turns stream management on, without resumption (XEP-0198 §3).
    ///
    /// # Errors
    /// A refusal.
    pub async fn enable_management(&mut self) -> Result<()> {
        ensure!(self.features.child("sm", SM).is_some(), "XEP-0198 is not offered");
        self.send(&format!("<enable xmlns='{SM}'/>")).await?;
        let answer = self.next().await?;
        ensure!(answer.name == "enabled" && answer.ns == SM, "XEP-0198: {answer:?}");
        Ok(())
    }

    /// Ends the stream and waits for the server to do so, so that nothing of it is left to do.
    ///
    /// # Errors
    /// None of the connection's: it is over either way.
    pub async fn close(mut self) {
        if self.send("</stream:stream>").await.is_ok() {
            let mut bytes = vec![0; READ_BYTES];
            let drain = async { while matches!(self.io.read(&mut bytes).await, Ok(n) if n > 0) {} };
            let _ = tokio::time::timeout(Duration::from_secs(5), drain).await;
        }
    }
}

async fn handshake(tcp: TcpStream, target: &Target) -> Result<Io> {
    let name = ServerName::try_from(target.domain.clone())?;
    let connector = TlsConnector::from(target.config.clone());
    let tls = tokio::time::timeout(ANSWER_MAX, connector.connect(name, tcp)).await.context("no TLS handshake")??;
    Ok(Io::Tls(Box::new(tls)))
}

/// Connects and logs in.
///
/// # Errors
/// Those of each step.
pub async fn login(target: &Target, account: &Account, resource: &str) -> Result<Connection> {
    let mut connection = Connection::open(target).await?;
    connection.authenticate(account).await.with_context(|| account.username.clone())?;
    connection.bind(resource).await?;
    Ok(connection)
}
