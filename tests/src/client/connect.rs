//! From an address to an authenticated stream: TCP, TLS, SASL.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ProtocolVersion};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::stream::{End, Stream};
use crate::ns;
use crate::sasl::{Binding, Login, Mechanism};
use crate::xml::Element;

/// Where and how to connect.
#[derive(Clone)]
pub struct Connector {
    /// The server's address, or a proxy's.
    pub address: SocketAddr,
    /// The domain, which the certificate must name.
    pub domain: String,
    /// TLS from the first byte (XEP-0368) and not STARTTLS.
    pub direct_tls: bool,
    /// What is trusted.
    pub tls: Arc<ClientConfig>,
    /// This mechanism and no other; without it the best that is offered.
    pub mechanism: Option<Mechanism>,
    /// How long any one step may take.
    pub deadline: Duration,
    /// The connection is reset where it would be closed.
    pub reset: bool,
}

/// A stream under TLS, before login.
pub struct Secured {
    /// The stream.
    pub stream: Stream,
    /// What the server offers.
    pub features: Element,
    /// The data of `tls-exporter` (RFC 9266), under TLS 1.3.
    pub exporter: Option<Vec<u8>>,
    /// The protocol that the server chose (XEP-0368 §2).
    pub alpn: Option<String>,
}

/// A stream after login.
pub struct Authenticated {
    /// The stream.
    pub stream: Stream,
    /// What the server offers.
    pub features: Element,
    /// What was used.
    pub mechanism: Mechanism,
}

/// The server refused a login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginRefused {
    /// The condition (RFC 6120 §6.5).
    pub condition: String,
}

impl std::fmt::Display for LoginRefused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "login refused: {}", self.condition)
    }
}

impl std::error::Error for LoginRefused {}

impl Connector {
    /// Within the deadline.
    pub(crate) async fn within<T>(&self, what: &str, future: impl Future<Output = Result<T>>) -> Result<T> {
        match tokio::time::timeout(self.deadline, future).await {
            Ok(result) => result.with_context(|| what.to_owned()),
            Err(_) => bail!("{what}: nothing within {:?}", self.deadline),
        }
    }

    /// Connects and secures the stream.
    pub async fn secure(&self) -> Result<Secured> {
        self.within("TCP and TLS", self.secure_now()).await
    }

    async fn secure_now(&self) -> Result<Secured> {
        let tcp = TcpStream::connect(self.address).await.map_err(|e| End::Broken(e.to_string()))?;
        tcp.set_nodelay(true)?;
        if self.reset {
            tcp.set_zero_linger()?;
        }
        let mut config = (*self.tls).clone();
        let io: Box<dyn super::stream::Io> = if self.direct_tls {
            Box::new(tcp)
        } else {
            // XEP-0368 §2 speaks of direct TLS only: after STARTTLS the protocol is known.
            config.alpn_protocols.clear();
            let mut stream = Stream::new(Box::new(tcp));
            let features = stream.open(&self.domain).await?;
            let starttls = features.get("starttls", ns::TLS).with_context(|| format!("no STARTTLS in {features:?}"))?;
            ensure!(starttls.get("required", ns::TLS).is_some(), "STARTTLS is not required (RFC 7590 §3.1)");
            ensure!(features.get("mechanisms", ns::SASL).is_none(), "SASL is offered in the clear");
            stream.push(&Element::new("starttls", ns::TLS).write(ns::CLIENT))?;
            let answer = stream.element().await?;
            ensure!(answer.is("proceed", ns::TLS), "STARTTLS: {answer:?}");
            stream.into_io()?
        };
        let name = ServerName::try_from(self.domain.clone())?;
        let tls = TlsConnector::from(Arc::new(config)).connect(name, io).await.map_err(|e| End::Broken(format!("TLS: {e}")))?;
        let (_, connection) = tls.get_ref();
        // A server that knows no ALPN ignores it (RFC 7301 §3.2); one that knows it may choose nothing else.
        let alpn = connection.alpn_protocol().map(|p| String::from_utf8_lossy(p).into_owned());
        ensure!(alpn.as_deref().is_none_or(|p| p == "xmpp-client"), "ALPN: {alpn:?}");
        let exporter = match connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => {
                Some(connection.export_keying_material(vec![0; 32], b"EXPORTER-Channel-Binding", Some(b""))?)
            }
            _ => None,
        };
        let mut stream = Stream::new(Box::new(tls));
        let features = stream.open(&self.domain).await?;
        ensure!(features.get("starttls", ns::TLS).is_none(), "STARTTLS under TLS (RFC 6120 §5.3.4)");
        Ok(Secured { stream, features, exporter, alpn })
    }

    /// Connects and logs in.
    pub async fn login(&self, user: &str, password: &str) -> Result<Authenticated> {
        let secured = self.secure().await?;
        self.within("login", self.login_on(secured, user, password)).await
    }

    async fn login_on(&self, secured: Secured, user: &str, password: &str) -> Result<Authenticated> {
        let Secured { mut stream, features, exporter, .. } = secured;
        let (mechanism, binding) = self.choose(&features, exporter)?;
        let nonce: String = format!("{:016x}{:016x}", crate::random(), crate::random());
        let (mut login, initial) = Login::start(mechanism, user, password, &nonce, binding);
        let auth = Element::new("auth", ns::SASL).with("mechanism", mechanism.name()).text(STANDARD.encode(initial));
        stream.push(&auth.write(ns::CLIENT))?;
        loop {
            let answer = stream.element().await?;
            ensure!(answer.ns == ns::SASL, "SASL: {answer:?}");
            let data = STANDARD.decode(answer.own_text().trim())?;
            match answer.name.as_str() {
                "challenge" => {
                    let response = Element::new("response", ns::SASL).text(STANDARD.encode(login.challenge(&data)?));
                    stream.push(&response.write(ns::CLIENT))?;
                }
                "success" => {
                    login.success(&data)?;
                    break;
                }
                "failure" => {
                    let condition = answer.children().find(|c| c.name != "text").map_or("none", |c| &c.name).to_owned();
                    return Err(LoginRefused { condition }.into());
                }
                other => bail!("SASL: <{other}/>"),
            }
        }
        let features = stream.open(&self.domain).await?;
        ensure!(features.get("mechanisms", ns::SASL).is_none(), "SASL is offered after login (RFC 6120 §6.4.6)");
        Ok(Authenticated { stream, features, mechanism })
    }

    fn choose(&self, features: &Element, exporter: Option<Vec<u8>>) -> Result<(Mechanism, Binding)> {
        let offered = features.get("mechanisms", ns::SASL).with_context(|| format!("no SASL in {features:?}"))?;
        let names: Vec<String> = offered.children().filter(|c| c.is("mechanism", ns::SASL)).map(Element::own_text).collect();
        // XEP-0440: a PLUS mechanism may be there for another binding only.
        let exporter_offered =
            features.get("sasl-channel-binding", ns::SASL_CB).is_some_and(|b| b.children().any(|c| c.attr("type") == Some("tls-exporter")));
        let exporter = exporter.filter(|_| exporter_offered);
        let can = |m: &Mechanism| names.iter().any(|n| n == m.name()) && (!m.is_plus() || exporter.is_some());
        let mechanism = match self.mechanism {
            Some(m) => Some(m).filter(can),
            None => Mechanism::ALL.into_iter().find(can),
        };
        let mechanism = mechanism.with_context(|| format!("{:?} of {names:?}", self.mechanism))?;
        let plus_offered = names.iter().any(|n| n.ends_with("-PLUS"));
        let binding = match exporter {
            Some(data) if mechanism.is_plus() => Binding::Bound("tls-exporter", data),
            Some(_) if !plus_offered => Binding::NotOffered,
            _ => Binding::None,
        };
        Ok((mechanism, binding))
    }
}
