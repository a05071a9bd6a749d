//! How a client reaches a server: TCP, TLS, WebSocket.

use super::websocket;
use anyhow::{Context as _, Result, bail, ensure};
use rustls::pki_types::ServerName;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;

/// An answer that takes longer is a failure of the run.
pub const ANSWER_MAX: Duration = Duration::from_secs(60);
/// Where most servers take WebSockets.
pub const WEBSOCKET_PATH: &str = "/xmpp-websocket";

/// What lies between XMPP and TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TlsMode {
    /// Nothing.
    Plain,
    /// TLS by STARTTLS (RFC 6120 §5).
    StartTls,
    /// TLS with the first byte (XEP-0368).
    Direct,
    /// A WebSocket in the clear (RFC 7395).
    Ws,
    /// A WebSocket under TLS.
    Wss,
}

impl TlsMode {
    /// By its name in files and on the command line.
    ///
    /// # Errors
    /// The names there are.
    pub fn named(name: &str) -> Result<TlsMode, String> {
        match name {
            "plain" => Ok(TlsMode::Plain),
            "starttls" => Ok(TlsMode::StartTls),
            "direct" => Ok(TlsMode::Direct),
            "ws" => Ok(TlsMode::Ws),
            "wss" => Ok(TlsMode::Wss),
            _ => Err("plain, starttls, direct, ws or wss".into()),
        }
    }
}

/// A SASL mechanism.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mechanism {
    /// RFC 7677.
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    /// RFC 5802.
    #[serde(rename = "SCRAM-SHA-1")]
    ScramSha1,
    /// RFC 4616.
    #[serde(rename = "PLAIN")]
    Plain,
}

impl Mechanism {
    /// What a client prefers, best first.
    pub const ALL: [Mechanism; 3] = [Mechanism::ScramSha256, Mechanism::ScramSha1, Mechanism::Plain];

    /// As servers offer it.
    pub fn name(self) -> &'static str {
        match self {
            Mechanism::ScramSha256 => "SCRAM-SHA-256",
            Mechanism::ScramSha1 => "SCRAM-SHA-1",
            Mechanism::Plain => "PLAIN",
        }
    }

    /// By that name.
    ///
    /// # Errors
    /// The names there are.
    pub fn named(name: &str) -> Result<Mechanism, String> {
        let found = Mechanism::ALL.into_iter().find(|m| m.name() == name);
        found.ok_or_else(|| "SCRAM-SHA-256, SCRAM-SHA-1 or PLAIN".into())
    }
}

/// Which protocol a login speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// RFC 6120 §6: SASL, a new stream, then binding.
    #[default]
    Sasl,
    /// XEP-0388 with Bind 2 (XEP-0386) in the same request.
    Sasl2,
    /// The same; from the second login of an account on with a token (XEP-0484).
    Fast,
}

impl Profile {
    /// By its name in files and on the command line.
    ///
    /// # Errors
    /// The names there are.
    pub fn named(name: &str) -> Result<Profile, String> {
        match name {
            "sasl" => Ok(Profile::Sasl),
            "sasl2" => Ok(Profile::Sasl2),
            "fast" => Ok(Profile::Fast),
            _ => Err("sasl, sasl2 or fast".into()),
        }
    }
}

/// What else a client may be told. The default is what most clients do.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The path of WebSockets; [`WEBSOCKET_PATH`] if none.
    pub path: Option<String>,
    /// The mechanism; the best that is offered if none.
    pub mechanism: Option<Mechanism>,
    /// How to log in.
    pub profile: Profile,
    /// Source addresses, each connection from the next one; what the system chooses if none. One address has some 28,000
    /// ports for connections to one address and port.
    pub sources: Arc<[IpAddr]>,
}

/// A server as clients reach it.
#[derive(Clone)]
pub struct Target {
    /// Where it listens.
    pub address: SocketAddr,
    /// The domain of the accounts.
    pub domain: String,
    /// What lies between XMPP and TCP.
    pub tls: TlsMode,
    /// What is trusted.
    pub config: Arc<rustls::ClientConfig>,
    /// What else there is to say.
    pub options: Options,
}

/// A connection that carries the bytes of a stream.
pub enum Io {
    /// In the clear.
    Plain(TcpStream),
    /// Under TLS.
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
    /// In the messages of a WebSocket.
    WebSocket(Box<websocket::Stream>),
    /// Within this process, for tests.
    Memory(DuplexStream),
}

impl Io {
    /// Whether nobody on the way can read it.
    pub fn is_secure(&self) -> bool {
        match self {
            Io::Plain(_) | Io::Memory(_) => false,
            Io::Tls(_) => true,
            Io::WebSocket(stream) => stream.is_secure(),
        }
    }
}

impl Io {
    /// Whether its TLS session is an earlier one's, so that no certificate was shown.
    pub fn is_resumed(&self) -> bool {
        matches!(self, Io::Tls(io) if io.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Resumed))
    }
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Io::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Io::Tls(io) => Pin::new(io.as_mut()).poll_read(cx, buf),
            Io::WebSocket(io) => Pin::new(io.as_mut()).poll_read(cx, buf),
            Io::Memory(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            Io::Plain(io) => Pin::new(io).poll_write(cx, buf),
            Io::Tls(io) => Pin::new(io.as_mut()).poll_write(cx, buf),
            Io::WebSocket(io) => Pin::new(io.as_mut()).poll_write(cx, buf),
            Io::Memory(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Io::Plain(io) => Pin::new(io).poll_flush(cx),
            Io::Tls(io) => Pin::new(io.as_mut()).poll_flush(cx),
            Io::WebSocket(io) => Pin::new(io.as_mut()).poll_flush(cx),
            Io::Memory(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Io::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Io::Tls(io) => Pin::new(io.as_mut()).poll_shutdown(cx),
            Io::WebSocket(io) => Pin::new(io.as_mut()).poll_shutdown(cx),
            Io::Memory(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}

/// Connects, up to where the stream begins.
pub(super) async fn connect(target: &Target) -> Result<Io> {
    let tcp = tokio::time::timeout(ANSWER_MAX, tcp(target)).await;
    let tcp = tcp.context("no answer").and_then(|r| r).with_context(|| format!("no connection to {}", target.address))?;
    tcp.set_nodelay(true)?;
    match target.tls {
        TlsMode::Plain | TlsMode::StartTls => Ok(Io::Plain(tcp)),
        TlsMode::Direct => handshake(tcp, target).await,
        TlsMode::Ws => websocket(Io::Plain(tcp), target).await,
        TlsMode::Wss => websocket(handshake(tcp, target).await?, target).await,
    }
}

async fn tcp(target: &Target) -> Result<TcpStream> {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let sources = &target.options.sources;
    if sources.is_empty() {
        return Ok(TcpStream::connect(target.address).await?);
    }
    let source = sources[NEXT.fetch_add(1, Relaxed) % sources.len()];
    ensure!(source.is_ipv4() == target.address.is_ipv4(), "{source} and {} are not of one family", target.address);
    let socket = if source.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.bind(SocketAddr::new(source, 0)).with_context(|| format!("source address {source}"))?;
    Ok(socket.connect(target.address).await?)
}

pub(super) async fn handshake(tcp: TcpStream, target: &Target) -> Result<Io> {
    let name = ServerName::try_from(target.domain.clone())?;
    let connector = TlsConnector::from(target.config.clone());
    let tls = tokio::time::timeout(ANSWER_MAX, connector.connect(name, tcp)).await.context("no TLS handshake")?;
    Ok(Io::Tls(Box::new(tls.with_context(|| format!("TLS with {}", target.address))?)))
}

async fn websocket(io: Io, target: &Target) -> Result<Io> {
    let path = target.options.path.as_deref().unwrap_or(WEBSOCKET_PATH);
    let stream = tokio::time::timeout(ANSWER_MAX, websocket::Stream::open(io, &target.domain, path)).await;
    let stream = stream.context("no answer").and_then(|r| r).with_context(|| format!("the server offers no WebSocket at {path}"))?;
    Ok(Io::WebSocket(Box::new(stream)))
}

/// `127.0.0.1` or `127.0.0.1-9`, the last number of which counts up; several, with commas between them.
///
/// # Errors
/// What is no address, or a range backwards.
pub fn sources(text: &str) -> Result<Arc<[IpAddr]>> {
    let mut all = Vec::new();
    for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let Some((first, last)) = part.split_once('-') else {
            all.push(part.parse().with_context(|| format!("{part} is no address"))?);
            continue;
        };
        let IpAddr::V4(first) = first.parse().with_context(|| format!("{first} is no address"))? else {
            bail!("{part}: a range is of IPv4 addresses")
        };
        let [a, b, c, from] = first.octets();
        let to: u8 = last.parse().with_context(|| format!("{part}: {last} is no number up to 255"))?;
        ensure!(from <= to, "{part} goes backwards");
        all.extend((from..=to).map(|d| IpAddr::from([a, b, c, d])));
    }
    Ok(all.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_addresses() {
        let texts = |text: &str| sources(text).unwrap().iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        assert_eq!(texts("127.0.0.2-4, 10.0.0.1,::1"), "127.0.0.2 127.0.0.3 127.0.0.4 10.0.0.1 ::1");
        assert_eq!(texts(""), "");
        for bad in ["x", "127.0.0.3-2", "127.0.0.1-256", "::1-3"] {
            assert!(sources(bad).is_err(), "{bad}");
        }
    }
}
