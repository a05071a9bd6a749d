//! Feeds one input once, in one form, and sees what comes of it.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::outcome::{self, Finish, Seen};
use super::reach::{Reached, reach};
use super::template::{Op, Reader, Vars, expand_text};
use super::{Entry, Level};
use crate::client::{Client, Connector, End, Io, Stream};
use crate::ns;
use crate::server::PASSWORD;
use crate::xml::Item;

/// Text that stands in payloads and may never stand in a log.
pub const MARKER: &str = "Wherefore-art-thou-7g4q";

/// How long an outcome may take that is not the expected one already.
const OUTCOME_WITHIN: Duration = Duration::from_secs(15);

/// How bytes are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One write.
    Whole,
    /// A write for each byte: of the first and the last so many; what is between goes in writes of 1,000.
    Bytes(usize),
    /// Up to 20 cuts at random.
    Random(u64),
}

impl Form {
    fn cut(self, bytes: &[u8]) -> Vec<&[u8]> {
        match self {
            Form::Whole => vec![bytes],
            Form::Bytes(max) => {
                let head = bytes.len().min(max);
                let tail = bytes.len().saturating_sub(max).max(head);
                let singly = |part: &'_ [u8]| (0..part.len()).map(|i| i..i + 1).collect::<Vec<_>>();
                let mut pieces: Vec<&[u8]> = singly(&bytes[..head]).into_iter().map(|r| &bytes[r]).collect();
                pieces.extend(bytes[head..tail].chunks(1_000));
                pieces.extend(singly(&bytes[tail..]).into_iter().map(|r| &bytes[tail..][r]));
                pieces
            }
            Form::Random(seed) => {
                let mut random = SmallRng::seed_from_u64(seed);
                let mut cuts: Vec<usize> = (0..random.random_range(1..=20)).map(|_| random.random_range(0..=bytes.len())).collect();
                cuts.extend([0, bytes.len()]);
                cuts.sort_unstable();
                cuts.dedup();
                cuts.windows(2).map(|w| &bytes[w[0]..w[1]]).collect()
            }
        }
    }
}

/// One user and one peer; what is fed at the same time is fed on different lanes.
pub struct Lane {
    number: usize,
    runs: u64,
    peer: Option<Client>,
    clear: Connector,
    direct: Connector,
    admin: SocketAddr,
    token: String,
}

impl Lane {
    /// A lane of a server.
    pub fn new(number: usize, clear: Connector, direct: Connector, admin: SocketAddr, token: String) -> Lane {
        Lane { number, runs: 0, peer: None, clear, direct, admin, token }
    }

    /// The accounts of the lane of this number.
    pub fn users(number: usize) -> [String; 2] {
        [format!("romeo{number}"), format!("juliet{number}")]
    }

    fn vars(&mut self, each: Option<&str>) -> Vars {
        self.runs += 1;
        let domain = self.clear.domain.clone();
        let [user, peer] = Lane::users(self.number);
        let mut vars = Vars::new();
        let mut set = |name: &str, value: String| vars.insert(name.into(), value);
        set("bare", format!("{user}@{domain}"));
        set("peer_bare", format!("{peer}@{domain}"));
        set("id", format!("{}x{}", self.number, self.runs));
        let header = "<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'";
        set("header", format!("{header} to='{domain}' version='1.0'>"));
        set("user_upper", user.to_uppercase());
        set("user_wide", user.chars().map(|c| char::from_u32(u32::from(c) + 0xFEE0).unwrap_or(c)).collect());
        set("user", user);
        set("peer_upper", peer.to_uppercase());
        set("peer_user", peer);
        set("domain", domain);
        set("password", PASSWORD.into());
        set("marker", MARKER.into());
        set("token", self.token.clone());
        set("tls", "urn:ietf:params:xml:ns:xmpp-tls".into());
        set("sasl", "urn:ietf:params:xml:ns:xmpp-sasl".into());
        set("stream", "http://etherx.jabber.org/streams".into());
        if let Some(each) = each {
            set("each", each.into());
        }
        vars
    }

    async fn peer(&mut self) -> Result<&mut Client> {
        if !self.peer.as_ref().is_some_and(Client::is_connected) {
            let user = &Lane::users(self.number)[1];
            let mut peer = Client::connect(&self.clear, user, PASSWORD, "").await.context("the peer")?;
            peer.push_raw("<presence/>")?;
            self.peer = Some(peer);
        }
        let peer = self.peer.as_mut().context("the peer")?;
        settle(peer).await?;
        peer.clear();
        Ok(peer)
    }

    /// Reaches the entry's level and sends everything, without waiting for an outcome; for connections that are held.
    pub async fn hold(&mut self, entry: &Entry, direct: bool) -> Result<Reached> {
        let mut vars = self.vars(entry.each.first().map(String::as_str));
        let connector = if direct { self.direct.clone() } else { self.clear.clone() };
        let mut reached = reach(&connector, entry.at, self.admin, &mut vars).await?;
        let mut reader = Reader::new(&entry.send)?;
        while let Some(Op::Send(bytes)) = reader.next(&vars)? {
            match &mut reached {
                Reached::Stream(stream) => {
                    stream.push_bytes(&bytes);
                    let mut heard = false;
                    while let Ok(Some(_)) = stream.next_or_written().await {
                        heard = true;
                    }
                    // The server has begun with it.
                    if !heard {
                        let _ = timeout(OUTCOME_WITHIN, stream.next()).await;
                    }
                }
                Reached::Raw(io) => io.write_all(&bytes).await?,
            }
        }
        Ok(reached)
    }

    /// Feeds an entry once; says what is wrong with what came of it, if anything is.
    pub async fn feed(&mut self, entry: &Entry, each: Option<&str>, direct: bool, form: Form) -> Result<Option<String>> {
        let mut vars = self.vars(each);
        if entry.needs_peer() {
            let jid = self.peer().await?.jid.clone();
            vars.insert("peer".into(), jid);
        }
        let mut connector = if direct || entry.at == Level::Direct { self.direct.clone() } else { self.clear.clone() };
        connector.reset = entry.send.ends_with("{cut}");
        let reached = reach(&connector, entry.at, self.admin, &mut vars).await?;
        let (code, text) = match reached {
            Reached::Raw(io) => raw(io, entry, form, &vars).await?,
            Reached::Stream(stream) => {
                let mut run = Run { entry, form, vars: &mut vars, stream: *stream, seen: Seen::default(), answered: false };
                // The peer reads meanwhile, as clients do: what it has no room for is not what is tested.
                let peer = self.peer.as_mut().filter(|_| entry.needs_peer());
                let reads = async {
                    if let Some(peer) = peer {
                        let _ = peer.wait("nothing", |_| false).await;
                    }
                    std::future::pending::<()>().await;
                };
                tokio::select! {
                    ran = run.run() => ran?,
                    () = reads => {}
                }
                (run.seen.code(entry.at), run.seen.text())
            }
        };
        let mut wrong = Vec::new();
        if !outcome::is(&entry.expect, &code) {
            wrong.push(format!("{code}, not {}", entry.expect));
        }
        let peer_text = self.peer_text(entry, &vars).await?;
        let lists = [(&entry.sees, &entry.never, &text), (&entry.peer_sees, &entry.peer_never, &peer_text)];
        for (sees, never, text) in lists {
            for (part, wanted) in sees.iter().map(|s| (s, true)).chain(never.iter().map(|n| (n, false))) {
                let part = expand_text(part, &vars)?;
                if text.contains(&part) != wanted {
                    wrong.push(format!("{} {part:?} in {text:.600?}", if wanted { "no" } else { "there is" }));
                }
            }
        }
        Ok((!wrong.is_empty()).then(|| wrong.join("; ")))
    }

    /// What the peer has seen of a run.
    async fn peer_text(&mut self, entry: &Entry, vars: &Vars) -> Result<String> {
        let Some(peer) = self.peer.as_mut().filter(|_| entry.needs_peer()) else { return Ok(String::new()) };
        let mut all: Vec<String> = Vec::new();
        // The runner's last message comes behind all that the entry sent; when the stream has ended there is none.
        if entry.at.is_bound() && ["OK", "IGN"].iter().any(|code| outcome::is(&entry.expect, code)) {
            let last = last_id(vars);
            peer.wait("the last message", |e| e.attr("id") == Some(&last)).await?;
        }
        for part in &entry.peer_sees {
            let part = expand_text(part, vars)?;
            // The same stanza may hold several.
            if !all.iter().any(|t| t.contains(&part)) {
                let found = timeout(OUTCOME_WITHIN, peer.wait("what it is to see", |e| e.write(ns::CLIENT).contains(&part))).await;
                all.extend(found.ok().and_then(Result::ok).map(|e| e.write(ns::CLIENT)));
            }
        }
        settle(peer).await?;
        while let Some(stanza) = peer.take(|_| true) {
            all.push(stanza.write(ns::CLIENT));
        }
        Ok(all.concat())
    }
}

/// What is under way to a client has come.
async fn settle(client: &mut Client) -> Result<()> {
    client.iq("get", None, crate::xml::Element::new("ping", ns::PING)).await.map(|_| ())
}

fn last_id(vars: &Vars) -> String {
    format!("last-{}", vars["id"])
}

struct Run<'a> {
    entry: &'a Entry,
    form: Form,
    vars: &'a mut Vars,
    stream: Stream,
    seen: Seen,
    /// The runner's own question behind the entry has been answered.
    answered: bool,
}

impl Run<'_> {
    async fn run(&mut self) -> Result<()> {
        match timeout(OUTCOME_WITHIN, self.send()).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => return self.ended(e).await,
            Err(_) => {
                self.seen.end = Some(Finish::Odd("what it waited for did not come".into()));
                return Ok(());
            }
        }
        if self.seen.end.is_some() {
            return Ok(());
        }
        if self.entry.at.is_bound() {
            let id = last_id(self.vars);
            let peer = if self.entry.needs_peer() { &self.vars["peer"] } else { "" };
            let to_peer = if peer.is_empty() {
                String::new()
            } else {
                format!("<message type='chat' to='{peer}' id='{id}'><body>.</body></message>")
            };
            // Asked of the account that the entry speaks to, so that the answer is behind what that says.
            self.stream.push_bytes(
                format!("{to_peer}<iq type='get' id='{id}' to='{}'><ping xmlns='urn:xmpp:ping'/></iq>", self.vars["peer_bare"]).as_bytes(),
            );
        }
        let deadline = tokio::time::Instant::now() + OUTCOME_WITHIN;
        while !self.is_enough()? {
            match tokio::time::timeout_at(deadline, self.stream.next()).await {
                Ok(Ok(item)) => self.take(item),
                Ok(Err(e)) => return self.ended(e).await,
                Err(_) => break,
            }
        }
        Ok(())
    }

    /// Whether nothing more is to be waited for.
    fn is_enough(&self) -> Result<bool> {
        if self.entry.at.is_bound() && !self.answered {
            return Ok(false);
        }
        let text = self.seen.text();
        for part in &self.entry.sees {
            if !text.contains(&expand_text(part, self.vars)?) {
                return Ok(false);
            }
        }
        Ok(outcome::is(&self.entry.expect, &self.seen.code(self.entry.at)))
    }

    fn take(&mut self, item: Item) {
        let Item::Element(element) = item else { return };
        if element.is("challenge", ns::SASL) {
            let text = String::from_utf8(STANDARD.decode(element.own_text()).unwrap_or_default()).unwrap_or_default();
            let nonce = text.split(',').find_map(|p| p.strip_prefix("r=")).unwrap_or_default();
            self.vars.insert("nonce".into(), nonce.into());
        }
        if element.is("success", ns::SASL) {
            self.stream.restart();
        }
        if element.attr("id") == Some(&last_id(self.vars)) {
            self.answered = true;
        } else {
            self.seen.add(element);
        }
    }

    async fn send(&mut self) -> Result<()> {
        let mut reader = Reader::new(&self.entry.send)?;
        while let Some(op) = reader.next(self.vars)? {
            match op {
                Op::Send(bytes) => {
                    for piece in self.form.cut(&bytes) {
                        self.stream.push_bytes(piece);
                        while let Some(item) = self.stream.next_or_written().await? {
                            self.take(item);
                        }
                    }
                }
                Op::Wait(name) => loop {
                    if self.seen.elements.last().is_some_and(|e| e.name == name) {
                        // What was waited for is no outcome.
                        self.seen.elements.pop();
                        break;
                    }
                    let item = self.stream.next().await?;
                    self.take(item);
                },
                Op::Pause(time) => {
                    let until = tokio::time::Instant::now() + time;
                    while let Ok(item) = tokio::time::timeout_at(until, self.stream.next()).await {
                        self.take(item?);
                    }
                }
                Op::Fin => self.stream.shutdown().await,
                Op::Cut => {
                    self.seen.end = Some(Finish::Cut);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// The stream is at its end: how, exactly?
    async fn ended(&mut self, error: anyhow::Error) -> Result<()> {
        let end = match error.downcast::<End>() {
            Ok(end) => end,
            // Behind <proceed/> a TLS alert may say that what came is no handshake.
            Err(_) if self.seen.elements.iter().any(|e| e.is("proceed", ns::TLS)) => End::Broken("TLS".into()),
            // XML that the strict parser does not take, for one.
            Err(e) => {
                self.seen.end = Some(Finish::Odd(format!("{e:#}")));
                return Ok(());
            }
        };
        let finish = match end {
            End::Broken(_) => Finish::Cut,
            End::Closed => self.closed(Finish::Closed).await,
            End::Error(condition) => match timeout(OUTCOME_WITHIN, self.stream.next()).await {
                Ok(Err(e)) if e.downcast_ref() == Some(&End::Closed) => self.closed(Finish::Error(condition)).await,
                _ => Finish::Odd(format!("SE:{condition} without an end of the stream")),
            },
        };
        self.seen.end = Some(finish);
        Ok(())
    }

    /// Behind the end tag the connection ends.
    async fn closed(&mut self, finish: Finish) -> Finish {
        // RFC 6120 §4.4: who hears the end tag says its own.
        self.stream.push_bytes(b"</stream:stream>");
        let _ = timeout(OUTCOME_WITHIN, self.stream.next_or_written()).await;
        match timeout(OUTCOME_WITHIN, self.stream.next()).await {
            Ok(Err(_)) => finish,
            Ok(Ok(item)) => Finish::Odd(format!("{item:?} behind the end of the stream")),
            Err(_) => Finish::Odd(format!("{finish:?} and the connection stays")),
        }
    }
}

/// Feeds bytes and reads bytes.
async fn raw(io: Box<dyn Io>, entry: &Entry, form: Form, vars: &Vars) -> Result<(String, String)> {
    let (mut read, mut write) = tokio::io::split(io);
    let sending = async {
        let mut reader = Reader::new(&entry.send)?;
        while let Some(op) = reader.next(vars)? {
            match op {
                Op::Send(bytes) => {
                    for piece in form.cut(&bytes) {
                        if write.write_all(piece).await.is_err() || write.flush().await.is_err() {
                            return Ok(());
                        }
                    }
                }
                Op::Pause(time) => tokio::time::sleep(time).await,
                Op::Fin => write.shutdown().await?,
                Op::Wait(_) | Op::Cut => anyhow::bail!("{}: not on this level", entry.id),
            }
        }
        Ok(())
    };
    let mut answer = Vec::new();
    let mut end = false;
    let reading = async {
        // Enough for a status line; what an error page says is not looked at.
        while answer.len() < 1 << 16 && !(entry.at == Level::Http && answer.len() > 12) {
            if !matches!(read.read_buf(&mut answer).await, Ok(n) if n > 0) {
                end = true;
                break;
            }
        }
    };
    let both = async { tokio::join!(sending, reading).0 };
    if let Ok(result) = timeout(OUTCOME_WITHIN, both).await {
        result?;
    }
    let text = String::from_utf8_lossy(&answer).into_owned();
    let code = match (entry.at, answer.first()) {
        (Level::Http, Some(_)) => format!("HTTP {}", text.split(' ').nth(1).unwrap_or_default()),
        (_, None) if end => "CL".into(),
        (_, None) => "silence".into(),
        // A TLS record of type alert (RFC 8446 §5.1).
        (_, Some(0x15)) if end => "ALERT".into(),
        _ => "OK".into(),
    };
    Ok((code, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_sends_everything() {
        let bytes: Vec<u8> = (0..5_000_u32).map(|i| i as u8).collect();
        for form in [Form::Whole, Form::Bytes(10), Form::Bytes(4_999), Form::Bytes(9_999), Form::Random(1), Form::Random(2)] {
            assert_eq!(form.cut(&bytes).concat(), bytes, "{form:?}");
            assert!(form.cut(&bytes).iter().all(|p| !p.is_empty()), "{form:?}");
        }
        assert_eq!(Form::Bytes(3).cut(b"abcd"), [b"a", b"b", b"c", b"d"]);
    }
}
