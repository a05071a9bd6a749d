//! From the first byte to the bound session: SCRAM-SHA-256 with one password for all.

use super::{Host, Input, Io, cut};
use crate::element::{Element, escape};
use anyhow::{Context as _, Result, bail, ensure};
use aws_lc_rs::{constant_time, digest, hmac, pbkdf2, rand};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use std::num::NonZeroU32;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

const STARTTLS: &str = "urn:ietf:params:xml:ns:xmpp-tls";
const SASL: &str = "urn:ietf:params:xml:ns:xmpp-sasl";
const BIND: &str = "urn:ietf:params:xml:ns:xmpp-bind";
const STREAM: &str = "http://etherx.jabber.org/streams";
/// Around what clients send.
const OUTER: &[u8] = b"<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>";
const ITERATIONS: u32 = 4_096;
const RANDOM_BYTES: usize = 18;

/// What follows from the password. Every account has the same salt, so this is paid for once.
pub(super) struct Credentials {
    salt: String,
    stored: Vec<u8>,
    server: Vec<u8>,
}

fn random() -> Result<String> {
    let mut bytes = [0; RANDOM_BYTES];
    rand::fill(&mut bytes)?;
    Ok(BASE64.encode(bytes))
}

fn mac(key: &[u8], data: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data).as_ref().to_vec()
}

impl Credentials {
    pub(super) fn new(password: &str) -> Result<Credentials> {
        let salt = random()?;
        let rounds = NonZeroU32::new(ITERATIONS).context("no rounds")?;
        let mut salted = [0; digest::SHA256_OUTPUT_LEN];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, &BASE64.decode(&salt)?, password.as_bytes(), &mut salted);
        let stored = digest::digest(&digest::SHA256, &mac(&salted, b"Client Key")).as_ref().to_vec();
        Ok(Credentials { salt, stored, server: mac(&salted, b"Server Key") })
    }

    /// The server's last message if the client knows the password (RFC 5802 §3).
    fn verify(&self, exchange: &str, proof: &[u8]) -> Result<String> {
        let signature = mac(&self.stored, exchange.as_bytes());
        ensure!(proof.len() == signature.len(), "a proof of {} bytes", proof.len());
        let key: Vec<u8> = proof.iter().zip(&signature).map(|(p, s)| p ^ s).collect();
        let stored = digest::digest(&digest::SHA256, &key);
        ensure!(constant_time::verify_slices_are_equal(stored.as_ref(), &self.stored).is_ok(), "a wrong password");
        Ok(format!("v={}", BASE64.encode(mac(&self.server, exchange.as_bytes()))))
    }
}

async fn send(io: &mut (impl AsyncWrite + Unpin), text: &str) -> Result<()> {
    io.write_all(text.as_bytes()).await?;
    Ok(io.flush().await?)
}

/// How a client has come in, or not yet.
pub(super) enum Login {
    /// Its full JID as it stands in an attribute.
    In(String),
    /// It wants TLS first, and has heard that it may.
    StartTls,
}

/// Waits for the client's header and answers it.
async fn header(host: &Host, input: &mut Input<impl Io>, features: &str) -> Result<()> {
    loop {
        let bytes = &input.buffer[..input.filled];
        if let Some(start) = memchr::memmem::find(bytes, b"<stream:stream")
            && let Some(end) = memchr::memchr(b'>', &bytes[start..])
        {
            input.used(start + end + 1);
            break;
        }
        input.more().await?;
    }
    let (domain, id) = (&host.domain, random()?);
    send(
        &mut input.io,
        &format!(
            "<?xml version='1.0'?><stream:stream from='{domain}' id='{id}' version='1.0' xmlns='jabber:client' \
             xmlns:stream='{STREAM}'><stream:features>{features}</stream:features>"
        ),
    )
    .await
}

async fn element(input: &mut Input<impl Io>) -> Result<Element> {
    loop {
        let space = input.buffer[..input.filled].iter().take_while(|b| b.is_ascii_whitespace()).count();
        input.used(space);
        ensure!(!input.buffer[..input.filled].starts_with(b"</"), "the client has ended its stream");
        if let Some(end) = cut::element_end(&input.buffer[..input.filled])? {
            let element = Element::parse(&input.buffer[..end], OUTER)?;
            input.used(end);
            return Ok(element);
        }
        input.more().await?;
    }
}

/// Lets a client in. `tls`: it may have TLS first.
pub(super) async fn login(host: &Host, input: &mut Input<impl Io>, tls: bool) -> Result<Login> {
    let starttls = if tls { format!("<starttls xmlns='{STARTTLS}'/>") } else { String::new() };
    header(host, input, &format!("{starttls}<mechanisms xmlns='{SASL}'><mechanism>SCRAM-SHA-256</mechanism></mechanisms>")).await?;
    let auth = loop {
        let element = element(input).await?;
        match element.name.as_str() {
            "auth" => break element,
            "starttls" if tls => {
                // Nothing that follows it may be taken for what TLS protects (RFC 6120 §5.3.3).
                ensure!(input.filled == 0, "bytes behind <starttls/>");
                send(&mut input.io, &format!("<proceed xmlns='{STARTTLS}'/>")).await?;
                return Ok(Login::StartTls);
            }
            // Accounts need not be made; who makes one is told that it is.
            "iq" => send(&mut input.io, &format!("<iq type='result' id='{}'/>", escape(element.attr("id").unwrap_or_default()))).await?,
            other => bail!("<{other}/> before login"),
        }
    };
    let user = match scram(host, input, &auth).await {
        Ok(user) => user,
        Err(error) => {
            let _ = send(&mut input.io, &format!("<failure xmlns='{SASL}'><not-authorized/></failure></stream:stream>")).await;
            return Err(error);
        }
    };
    header(host, input, &format!("<bind xmlns='{BIND}'/>")).await?;
    let iq = element(input).await?;
    let bind = iq.child("bind", BIND).context("no resource is asked for")?;
    let resource = bind.child("resource", BIND).map(|r| r.text.clone()).filter(|r| !r.is_empty());
    let resource = resource.map_or_else(random, Ok)?;
    let jid = format!("{}@{}/{}", escape(&user), host.domain, escape(&resource));
    let id = escape(iq.attr("id").unwrap_or_default());
    send(&mut input.io, &format!("<iq type='result' id='{id}'><bind xmlns='{BIND}'><jid>{jid}</jid></bind></iq>")).await?;
    Ok(Login::In(jid))
}

async fn scram(host: &Host, input: &mut Input<impl Io>, auth: &Element) -> Result<String> {
    ensure!(auth.attr("mechanism") == Some("SCRAM-SHA-256"), "{:?}", auth.attr("mechanism"));
    let text = |element: &Element| anyhow::Ok(String::from_utf8(BASE64.decode(element.text.trim())?)?);
    let first = text(auth)?;
    let bare = first.strip_prefix("n,,").context("no channel can be bound here")?;
    let field = |text: &str, name: &str| {
        let field = text.split(',').find_map(|f| f.strip_prefix(name));
        field.map(str::to_owned).with_context(|| format!("no {name}"))
    };
    let nonce = field(bare, "r=")? + &random()?;
    let challenge = format!("r={nonce},s={},i={ITERATIONS}", host.credentials.salt);
    send(&mut input.io, &format!("<challenge xmlns='{SASL}'>{}</challenge>", BASE64.encode(&challenge))).await?;
    let last = text(&element(input).await?)?;
    let (without_proof, proof) = last.rsplit_once(",p=").context("no proof")?;
    ensure!(field(without_proof, "r=")? == nonce, "another nonce");
    let verifier = host.credentials.verify(&format!("{bare},{challenge},{without_proof}"), &BASE64.decode(proof)?)?;
    send(&mut input.io, &format!("<success xmlns='{SASL}'>{}</success>", BASE64.encode(verifier))).await?;
    Ok(field(bare, "n=")?.replace("=2C", ",").replace("=3D", "="))
}
