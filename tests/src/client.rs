//! A strict XMPP client: it does what the RFCs ask of a client and fails at whatever a server may not do.
//!
//! [`Connector`] makes an authenticated stream, [`Client`] is a session on it. A client is driven by whoever awaits it: no task of
//! its own, so nothing is handled or counted before the test has it. Waiting keeps what it was not asked for.

mod connect;
mod ops;
mod stream;

use std::collections::VecDeque;

use anyhow::{Context, Result, bail, ensure};

pub use connect::{Authenticated, Connector, LoginRefused, Secured};
pub use ops::{ArchivePage, ArchiveRow, RosterItem, chat, register};
pub use stream::{End, Io, Stream};

use crate::ns;
use crate::sm::{Sent, Sm};
use crate::xml::{Element, Item};

/// What [`Client::next`] saw.
#[derive(Clone, Debug)]
pub enum Event {
    /// A stanza, which counts as handled from here.
    Stanza(Element),
    /// The server acknowledged these.
    Acked(Vec<Sent>),
}

/// The server would not bind a resource (RFC 6120 §7.6.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindRefused {
    /// The stanza error's condition.
    pub condition: String,
}

impl std::fmt::Display for BindRefused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "bind refused: {}", self.condition)
    }
}

impl std::error::Error for BindRefused {}

/// What became of an attempt to resume.
#[derive(Clone, Debug)]
pub enum Resumption {
    /// The session goes on. What `h` did not cover has been sent again, in order.
    Resumed {
        /// What `h` covered.
        acked: Vec<Sent>,
        /// What was sent again.
        resent: Vec<Sent>,
    },
    /// The session is gone and a new one is bound in its place.
    Failed {
        /// The number that came with `<failed/>`.
        h: Option<u32>,
        /// What it covered: the server has these for good.
        acked: Vec<Sent>,
        /// What it did not cover, to be sent again by whoever wants it delivered.
        left: Vec<Sent>,
    },
}

/// A bound session.
pub struct Client {
    connector: Connector,
    user: String,
    password: String,
    stream: Option<Stream>,
    features: Element,
    /// The full JID.
    pub jid: String,
    /// Stream management.
    pub sm: Sm,
    /// Whether `<r/>` is answered, and pings of others too. Off to play a client that hangs.
    pub answers: bool,
    inbox: VecDeque<Element>,
    /// What was acknowledged while something else was waited for.
    acked: Vec<Sent>,
    ids: u64,
}

impl Client {
    /// Logs in and binds a resource; an empty one lets the server choose (RFC 6120 §7.6).
    pub async fn connect(connector: &Connector, user: &str, password: &str, resource: &str) -> Result<Client> {
        let authenticated = connector.login(user, password).await?;
        let mut client = Client {
            connector: connector.clone(),
            user: user.into(),
            password: password.into(),
            stream: Some(authenticated.stream),
            features: authenticated.features,
            jid: String::new(),
            sm: Sm::default(),
            answers: true,
            inbox: VecDeque::new(),
            acked: Vec::new(),
            ids: 0,
        };
        client.bind(resource).await?;
        Ok(client)
    }

    /// Logs in, binds and enables stream management with resumption.
    pub async fn connect_sm(connector: &Connector, user: &str, password: &str, resource: &str) -> Result<Client> {
        let mut client = Client::connect(connector, user, password, resource).await?;
        client.enable_sm(true).await?;
        Ok(client)
    }

    /// The bare JID.
    pub fn bare(&self) -> &str {
        self.jid.split('/').next().unwrap_or_default()
    }

    /// The resource.
    pub fn resource(&self) -> &str {
        self.jid.split_once('/').map_or("", |(_, r)| r)
    }

    /// How this client connects.
    pub fn connector(&mut self) -> &mut Connector {
        &mut self.connector
    }

    /// The stream features after login.
    pub fn features(&self) -> &Element {
        &self.features
    }

    /// Whether there is a connection.
    pub fn is_connected(&self) -> bool {
        self.stream.is_some()
    }

    async fn bind(&mut self, resource: &str) -> Result<()> {
        ensure!(self.features.get("bind", ns::BIND).is_some(), "no binding in {:?}", self.features);
        let mut bind = Element::new("bind", ns::BIND);
        if !resource.is_empty() {
            bind = bind.child(Element::new("resource", ns::BIND).text(resource));
        }
        let answer = self.iq("set", None, bind).await?;
        if answer.attr("type") == Some("error") {
            let condition = answer.error_condition().unwrap_or_default();
            return Err(anyhow::Error::new(BindRefused { condition }).context(format!("bind: {answer:?}")));
        }
        ensure!(answer.attr("type") == Some("result"), "bind: {answer:?}");
        let jid = answer.get("bind", ns::BIND).and_then(|b| b.child_text("jid")).context("bind without a JID")?;
        let domain = &self.connector.domain;
        ensure!(jid.contains('/') && jid.split(['@', '/']).nth(1) == Some(domain.as_str()), "bound {jid}");
        self.jid = jid;
        Ok(())
    }

    /// Enables stream management.
    pub async fn enable_sm(&mut self, resume: bool) -> Result<()> {
        ensure!(self.features.get("sm", ns::SM).is_some(), "no stream management in {:?}", self.features);
        let mut enable = Element::new("enable", ns::SM);
        if resume {
            enable = enable.with("resume", "true");
        }
        self.push_raw(&enable.write(ns::CLIENT))?;
        self.sm = Sm::start();
        let answer = self.sm_answer().await?;
        ensure!(answer.is("enabled", ns::SM), "enable: {answer:?}");
        self.sm.enabled = true;
        self.sm.previd = match answer.attr("resume") {
            Some("true" | "1") => Some(answer.attr("id").context("resume without an id")?.to_owned()),
            _ => None,
        };
        ensure!(!resume || self.sm.previd.is_some(), "the server does not let the session be resumed: {answer:?}");
        Ok(())
    }

    /// The next nonza but `<r/>` and `<a/>`; stanzas before it are kept for later, uncounted as they came before `<enabled/>`.
    async fn sm_answer(&mut self) -> Result<Element> {
        let connector = self.connector.clone();
        connector
            .within("stream management", async {
                loop {
                    let element = self.stream()?.element().await?;
                    if element.ns != ns::CLIENT {
                        return Ok(element);
                    }
                    self.inbox.push_back(element);
                }
            })
            .await
    }

    /// Forgets the connection without a word; the socket closes.
    pub fn cut(&mut self) {
        self.stream = None;
    }

    /// Ends the session properly (RFC 6120 §4.4).
    pub async fn close(mut self) -> Result<()> {
        let stream = self.stream.take().context("no connection")?;
        self.connector.within("close", stream.close()).await
    }

    /// Connects again and resumes, or binds anew if the server says `<failed/>`.
    pub async fn resume(&mut self) -> Result<Resumption> {
        let resumption = self.try_resume().await?;
        match resumption {
            Resumption::Failed { .. } => self.rebind().await?,
            Resumption::Resumed { .. } => self.flush().await?,
        }
        Ok(resumption)
    }

    /// Binds a new session with stream management in the place of one that is gone: on the stream that is there after a
    /// refused resumption (XEP-0198 §5), or else on a new one.
    pub async fn rebind(&mut self) -> Result<()> {
        ensure!(self.sm.waiting() == 0, "what the old session left unacknowledged must be taken first");
        if self.stream.is_none() {
            let authenticated = self.connector.clone().login(&self.user, &self.password).await?;
            self.stream = Some(authenticated.stream);
            self.features = authenticated.features;
        }
        let resource = self.resource().to_owned();
        let result = match self.bind(&resource).await {
            Ok(()) => self.enable_sm(true).await,
            Err(e) => Err(e),
        };
        if result.is_err() {
            // Half a session is none: the next attempt starts with a new stream.
            self.stream = None;
            self.sm = Sm::default();
        }
        result
    }

    /// Connects again and resumes. After `<failed/>` the stream waits for [`rebind`](Self::rebind).
    pub async fn try_resume(&mut self) -> Result<Resumption> {
        self.stream = None;
        let previd = self.sm.previd.clone().context("nothing to resume")?;
        let authenticated = self.connector.clone().login(&self.user, &self.password).await?;
        self.stream = Some(authenticated.stream);
        self.features = authenticated.features;
        let resume = Element::new("resume", ns::SM).with("previd", &previd).with("h", self.sm.handled.to_string());
        self.push_raw(&resume.write(ns::CLIENT))?;
        let connector = self.connector.clone();
        let answer = connector.within("resume", async { self.stream()?.element().await }).await?;
        match answer.name.as_str() {
            "resumed" if answer.ns == ns::SM => {
                ensure!(answer.attr("previd") == Some(&previd), "resumed another session: {answer:?}");
                let acked = self.sm.ack(number(&answer, "h")?)?;
                let resent: Vec<Sent> = self.sm.unacked().cloned().collect();
                for sent in &resent {
                    self.push_raw(&sent.xml)?;
                }
                if !resent.is_empty() {
                    self.request_ack()?;
                }
                Ok(Resumption::Resumed { acked, resent })
            }
            "failed" if answer.ns == ns::SM => {
                let h = answer.attr("h").map(|_| number(&answer, "h")).transpose()?;
                let acked = h.map_or(Ok(Vec::new()), |h| self.sm.ack(h))?;
                let left = self.sm.take_unacked();
                Ok(Resumption::Failed { h, acked, left })
            }
            _ => bail!("resume: {answer:?}"),
        }
    }

    fn stream(&mut self) -> Result<&mut Stream> {
        self.stream.as_mut().ok_or_else(|| End::Broken("not connected".into()).into())
    }

    /// Queues bytes that are no stanza of this session's counting, or bad on purpose.
    pub fn push_raw(&mut self, xml: &str) -> Result<()> {
        self.stream()?.push(xml)
    }

    /// Queues a stanza. It goes out while the client waits for anything.
    pub fn push(&mut self, stanza: &Element) -> Result<()> {
        let xml = stanza.write(ns::CLIENT);
        // Counted even if the connection is gone: it waits for the resumption.
        self.sm.push(stanza.attr("id").unwrap_or_default(), &xml);
        match self.stream.as_mut() {
            Some(stream) => stream.push(&xml),
            None if self.sm.previd.is_some() => Ok(()),
            None => bail!("not connected"),
        }
    }

    /// Queues a stanza that another session left unacknowledged.
    pub fn push_again(&mut self, sent: &Sent) -> Result<()> {
        self.sm.push(&sent.id, &sent.xml);
        self.push_raw(&sent.xml)
    }

    /// Queues `<r/>`.
    pub fn request_ack(&mut self) -> Result<()> {
        self.push_raw("<r xmlns='urn:xmpp:sm:3'/>")
    }

    /// Queues `<a/>` for what was handled.
    pub fn ack(&mut self) -> Result<()> {
        let h = self.sm.handled;
        self.push_raw(&format!("<a xmlns='urn:xmpp:sm:3' h='{h}'/>"))
    }

    /// Sends a stanza.
    pub async fn send(&mut self, stanza: Element) -> Result<()> {
        self.push(&stanza)?;
        self.flush().await
    }

    /// Writes what is queued.
    pub async fn flush(&mut self) -> Result<()> {
        let connector = self.connector.clone();
        connector.within("writing", async { Ok(self.stream()?.flush().await?) }).await
    }

    /// A fresh id.
    pub fn fresh_id(&mut self) -> String {
        self.ids += 1;
        format!("t{}", self.ids)
    }

    /// The next event; without a deadline, safe to cancel. An end of the connection is an [`End`].
    pub async fn next(&mut self) -> Result<Event> {
        match self.kept() {
            Some(event) => Ok(event),
            None => self.next_of_stream().await,
        }
    }

    /// What came while something else was waited for. Who makes a new session takes these first: they belong to the old one.
    pub fn kept(&mut self) -> Option<Event> {
        if !self.acked.is_empty() {
            return Some(Event::Acked(std::mem::take(&mut self.acked)));
        }
        self.inbox.pop_front().map(Event::Stanza)
    }

    fn keep(&mut self, event: Event) {
        match event {
            Event::Stanza(stanza) => self.inbox.push_back(stanza),
            Event::Acked(acked) => self.acked.extend(acked),
        }
    }

    async fn next_of_stream(&mut self) -> Result<Event> {
        loop {
            let stream = self.stream.as_mut().ok_or_else(|| End::Broken("not connected".into()))?;
            let result = stream.next().await;
            let element = match result {
                Ok(Item::Element(element)) => element,
                Ok(item) => bail!("expected an element, got {item:?}"),
                Err(e) => {
                    self.stream = None;
                    return Err(e);
                }
            };
            match (element.ns.as_str(), element.name.as_str()) {
                (ns::CLIENT, "message" | "presence" | "iq") => {
                    if self.sm.enabled {
                        self.sm.handled = self.sm.handled.wrapping_add(1);
                    }
                    if !self.answer(&element)? {
                        return Ok(Event::Stanza(element));
                    }
                }
                (ns::SM, "r") if self.answers => self.ack()?,
                (ns::SM, "r") => {}
                (ns::SM, "a") => {
                    ensure!(self.sm.counting, "<a/> without stream management");
                    let acked = self.sm.ack(number(&element, "h")?)?;
                    if !acked.is_empty() {
                        return Ok(Event::Acked(acked));
                    }
                }
                _ => bail!("unexpected: {element:?}"),
            }
        }
    }

    /// Answers a request, which every client must (RFC 6120 §8.2.3). Gives whether the test need not see it.
    fn answer(&mut self, iq: &Element) -> Result<bool> {
        let kind = iq.attr("type").unwrap_or_default();
        if iq.name != "iq" || !matches!(kind, "get" | "set") || !self.answers {
            return Ok(false);
        }
        let mut answer = Element::new("iq", ns::CLIENT).with("id", iq.attr("id").context("an iq without an id")?);
        if let Some(from) = iq.attr("from") {
            answer = answer.with("to", from);
        }
        let own = iq.attr("from").is_none_or(|from| from == self.bare() || from == self.jid);
        let push = own && kind == "set" && iq.children().any(|c| [ns::ROSTER, ns::BLOCKING].contains(&c.ns.as_str()));
        let ping = kind == "get" && iq.get("ping", ns::PING).is_some();
        if push || ping {
            self.push(&answer.with("type", "result"))?;
        } else {
            let condition = Element::new("service-unavailable", ns::STANZAS);
            let error = Element::new("error", ns::CLIENT).with("type", "cancel").child(condition);
            self.push(&answer.with("type", "error").child(error))?;
        }
        Ok(ping)
    }

    /// Waits for a stanza; others are kept. `what` is for the reader of a failure.
    pub async fn wait(&mut self, what: &str, mut wanted: impl FnMut(&Element) -> bool) -> Result<Element> {
        if let Some(at) = self.inbox.iter().position(&mut wanted) {
            return self.inbox.remove(at).context("the inbox changed");
        }
        let connector = self.connector.clone();
        let result = connector
            .within(what, async {
                loop {
                    match self.next_of_stream().await? {
                        Event::Stanza(stanza) if wanted(&stanza) => return Ok(stanza),
                        other => self.keep(other),
                    }
                }
            })
            .await;
        result.with_context(|| {
            let seen: Vec<String> = self.inbox.iter().map(|e| e.write(ns::CLIENT)).collect();
            format!("{} waits for {what}; it has seen {seen:#?}", self.jid)
        })
    }

    /// Waits until everything sent is acknowledged.
    pub async fn wait_acked(&mut self) -> Result<()> {
        self.request_ack()?;
        let connector = self.connector.clone();
        connector
            .within("acknowledgement", async {
                while self.sm.waiting() > 0 {
                    let event = self.next_of_stream().await?;
                    self.keep(event);
                }
                Ok(())
            })
            .await
    }

    /// Takes a stanza that has come already, if there is one.
    pub fn take(&mut self, mut wanted: impl FnMut(&Element) -> bool) -> Option<Element> {
        let at = self.inbox.iter().position(&mut wanted)?;
        self.inbox.remove(at)
    }

    /// Forgets what has come.
    pub fn clear(&mut self) {
        self.inbox.clear();
    }
}

fn number(element: &Element, name: &str) -> Result<u32> {
    let value = element.attr(name).with_context(|| format!("no {name} in {element:?}"))?;
    value.parse().with_context(|| format!("{name}={value:?}"))
}
