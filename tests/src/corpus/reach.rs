//! Brings a connection to the level where an entry is fed.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::Level;
use super::template::Vars;
use crate::client::{Connector, Io, Stream};
use crate::ns;
use crate::server::PASSWORD;
use crate::xml::Element;

/// A connection, with XML on it or not.
pub enum Reached {
    /// A stream, or one to be.
    Stream(Box<Stream>),
    /// Bytes.
    Raw(Box<dyn Io>),
}

impl Reached {
    fn stream(stream: Stream) -> Reached {
        Reached::Stream(Box::new(stream))
    }
}

/// Makes a connection of this level. What is known of it goes into `vars`.
pub async fn reach(connector: &Connector, level: Level, admin: std::net::SocketAddr, vars: &mut Vars) -> Result<Reached> {
    connector.within("reaching the level", reach_now(connector, level, admin, vars)).await
}

async fn tcp(connector: &Connector, address: std::net::SocketAddr) -> Result<TcpStream> {
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    if connector.reset {
        tcp.set_zero_linger()?;
    }
    Ok(tcp)
}

async fn reach_now(connector: &Connector, level: Level, admin: std::net::SocketAddr, vars: &mut Vars) -> Result<Reached> {
    let domain = connector.domain.as_str();
    match level {
        Level::Http => return Ok(Reached::Raw(Box::new(tcp(connector, admin).await?))),
        Level::Direct => return Ok(Reached::Raw(Box::new(tcp(connector, connector.address).await?))),
        Level::Tcp => return Ok(Reached::stream(Stream::new(Box::new(tcp(connector, connector.address).await?)))),
        Level::Start if !connector.direct_tls => {
            return Ok(Reached::stream(Stream::new(Box::new(tcp(connector, connector.address).await?))));
        }
        Level::Start => return Ok(Reached::stream(Stream::new(tls(connector, Box::new(tcp(connector, connector.address).await?)).await?))),
        Level::Open | Level::Proceed | Level::Secured => {
            let mut stream = Stream::new(Box::new(tcp(connector, connector.address).await?));
            stream.open(domain).await?;
            if level == Level::Open {
                return Ok(Reached::stream(stream));
            }
            stream.push(&Element::new("starttls", ns::TLS).write(ns::CLIENT))?;
            let answer = stream.element().await?;
            ensure!(answer.is("proceed", ns::TLS), "STARTTLS: {answer:?}");
            let io = stream.into_io()?;
            return Ok(match level {
                Level::Proceed => Reached::Raw(io),
                _ => Reached::stream(Stream::new(tls(connector, io).await?)),
            });
        }
        _ => {}
    }
    let mut stream = connector.secure().await?.stream;
    if level == Level::Tls {
        return Ok(Reached::stream(stream));
    }
    // PLAIN is the shortest way in; other tests take the others.
    let user = vars.get("user").context("user")?;
    let auth = Element::new("auth", ns::SASL).with("mechanism", "PLAIN").text(STANDARD.encode(format!("\0{user}\0{PASSWORD}")));
    stream.push(&auth.write(ns::CLIENT))?;
    let answer = stream.element().await?;
    ensure!(answer.is("success", ns::SASL), "login: {answer:?}");
    if level == Level::Restart {
        stream.restart();
        return Ok(Reached::stream(stream));
    }
    stream.open(domain).await?;
    if level.is_bound() {
        let bind = Element::new("bind", ns::BIND);
        stream.push(&Element::new("iq", ns::CLIENT).with("type", "set").with("id", "bind").child(bind).write(ns::CLIENT))?;
        let answer = stream.element().await?;
        let jid = answer.get("bind", ns::BIND).and_then(|b| b.child_text("jid")).with_context(|| format!("bind: {answer:?}"))?;
        vars.insert("jid".into(), jid);
    }
    if level == Level::Managed {
        stream.push(&Element::new("enable", ns::SM).with("resume", "true").write(ns::CLIENT))?;
        let answer = stream.element().await?;
        let id = answer.attr("id").with_context(|| format!("enable: {answer:?}"))?;
        vars.insert("previd".into(), id.into());
    }
    Ok(Reached::stream(stream))
}

async fn tls(connector: &Connector, io: Box<dyn Io>) -> Result<Box<dyn Io>> {
    let mut config = (*connector.tls).clone();
    if !connector.direct_tls {
        config.alpn_protocols.clear();
    }
    let name = ServerName::try_from(connector.domain.clone())?;
    Ok(Box::new(TlsConnector::from(Arc::new(config)).connect(name, io).await?))
}
