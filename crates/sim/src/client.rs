//! A client that speaks XML, counts by XEP-0198, and remembers what it said and heard.

use crate::audit::Kept;
use crate::book::{Book, Msg, MsgId, Poison, Request, name, parse_name};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand::Rng;
use rand::rngs::SmallRng;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use types::ns;
use xml::{Element, Frame, Framer, Limits, Scope};

/// Milliseconds without any answer after which a client takes its stream for dead.
const PATIENCE_MS: u64 = 20_000;

/// How far a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// No stream.
    Offline,
    /// First header sent.
    Opening,
    /// `<auth/>` sent.
    Auth,
    /// Second header sent.
    Reopening,
    /// `<resume/>` sent.
    Resuming,
    /// Bind sent.
    Binding,
    /// `<enable/>` sent.
    Enabling,
    /// It chats.
    Online,
    /// It has closed its stream and waits for the server's end tag.
    Closing,
}

/// What a client asks of the world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Send these bytes.
    Bytes(Vec<u8>),
    /// Answer an `<r/>` after this many milliseconds.
    AckIn(u64),
    /// The stream is over: drop the socket, and connect again after so many milliseconds.
    Drop(u64),
}

struct Sent {
    xml: String,
    message: Option<MsgId>,
}

/// See the module.
pub struct Client {
    /// Its number.
    pub id: usize,
    /// Its account's number.
    pub account: usize,
    /// The resource that it asks for.
    pub resource: Option<String>,
    /// XEP-0198.
    pub sm: bool,
    /// XEP-0280.
    pub carbons: bool,
    /// Of its presence.
    pub priority: i8,
    /// Milliseconds that it takes to answer `<r/>`.
    pub slow: u64,
    /// Accounts that it talks to.
    pub peers: Vec<usize>,
    /// How far it is.
    pub phase: Phase,
    /// Its socket.
    pub slot: Option<u64>,
    /// Its full JID.
    pub jid: Option<String>,
    /// Counts its sessions.
    pub session: u64,
    /// What it last said in its presence.
    pub status: u64,
    /// It has sent available presence in this session.
    pub available: bool,
    /// Presence that it saw of others, newest.
    pub view: BTreeMap<String, Option<u64>>,
    /// When it last heard anything, or began to wait.
    pub heard: u64,
    /// Its account has no other session: what waits for one does not come behind what another one got.
    pub alone: bool,
    /// It asks everyone for their presence when it is online the first time.
    pub subscribes: bool,
    /// It has its account keep no archive.
    pub forgets: bool,
    /// Its account keeps one.
    pub archives: bool,
    /// One message in so many makes an account panic; 0: none does.
    pub poison: u32,
    /// When the server last answered a request that it answers by itself.
    pub served: u64,
    framer: Framer,
    previd: Option<String>,
    handled: u32,
    sent: u32,
    acked: u32,
    unacked: VecDeque<Sent>,
    /// Of the last session, to be sent again in this one.
    again: VecDeque<Sent>,
    /// Its own presence has come back: what waited is on its way before what comes now.
    reflected: bool,
    next: u64,
    seen: BTreeSet<(bool, MsgId)>,
    last_from: BTreeMap<((usize, u64), bool), u64>,
    open_requests: BTreeSet<MsgId>,
    wishes: Vec<Wish>,
    /// See [`Kept`].
    pub kept: Kept,
}

/// The bare JID of an account.
pub fn account_jid(account: usize) -> String {
    format!("u{account}@localhost")
}

fn account_of(jid: &str) -> Option<usize> {
    jid.strip_prefix('u')?.split('@').next()?.parse().ok()
}

impl Client {
    /// A client that is not online yet.
    pub fn new(id: usize, account: usize, peers: Vec<usize>) -> Client {
        Client {
            id,
            account,
            resource: None,
            sm: true,
            carbons: false,
            priority: 0,
            slow: 0,
            peers,
            phase: Phase::Offline,
            slot: None,
            jid: None,
            session: 0,
            status: 0,
            available: false,
            view: BTreeMap::new(),
            heard: 0,
            alone: false,
            subscribes: false,
            forgets: false,
            archives: true,
            poison: 0,
            served: 0,
            framer: Framer::new(Limits { stanza_bytes_max: 1 << 20 }),
            previd: None,
            handled: 0,
            sent: 0,
            acked: 0,
            unacked: VecDeque::new(),
            again: VecDeque::new(),
            reflected: false,
            next: 0,
            seen: BTreeSet::new(),
            last_from: BTreeMap::new(),
            open_requests: BTreeSet::new(),
            wishes: Vec::new(),
            kept: Kept::default(),
        }
    }

    /// What it wants done since it was asked last.
    pub fn take_wishes(&mut self) -> Vec<Wish> {
        std::mem::take(&mut self.wishes)
    }

    /// Messages and IQs that the server has not acknowledged.
    pub fn unacked(&self) -> usize {
        self.unacked.len() + self.again.len()
    }

    /// A socket is there.
    pub fn connect(&mut self, slot: u64, now: u64) {
        self.slot = Some(slot);
        self.heard = now;
        self.phase = Phase::Opening;
        self.framer = Framer::new(Limits { stanza_bytes_max: 1 << 20 });
        self.header();
    }

    /// The socket is gone.
    pub fn cut(&mut self, book: &mut Book) {
        if self.phase == Phase::Offline {
            return;
        }
        self.slot = None;
        self.phase = Phase::Offline;
        if self.previd.is_none() {
            self.session_over(true, book);
        }
    }

    /// Nothing has come for long: the stream is dead.
    pub fn is_impatient(&self, now: u64) -> bool {
        self.phase != Phase::Offline && self.heard + PATIENCE_MS < now
    }

    fn header(&mut self) {
        self.say("<?xml version='1.0'?><stream:stream to='localhost' version='1.0' xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>".into());
    }

    pub(crate) fn say(&mut self, xml: String) {
        if let Some(Wish::Bytes(bytes)) = self.wishes.last_mut() {
            bytes.extend_from_slice(xml.as_bytes());
        } else {
            self.wishes.push(Wish::Bytes(xml.into_bytes()));
        }
    }

    /// A stanza: counted, and kept until it is acknowledged.
    pub(crate) fn stanza(&mut self, xml: String, message: Option<MsgId>) {
        if self.sm && matches!(self.phase, Phase::Enabling | Phase::Online | Phase::Closing) {
            self.sent = self.sent.wrapping_add(1);
            self.unacked.push_back(Sent { xml: xml.clone(), message });
        }
        self.say(xml);
    }

    /// Bytes of the server.
    pub fn handle_bytes(&mut self, now: u64, bytes: &[u8], book: &mut Book, rng: &mut SmallRng) {
        self.heard = now;
        self.framer.feed(bytes);
        loop {
            match self.framer.next() {
                Ok(None) => return,
                Ok(Some(Frame::Element(bytes))) => match Element::parse_in(&bytes, &Scope::of_stream(ns::CLIENT)) {
                    Ok(element) => self.handle_element(now, &element, book, rng),
                    Err(e) => book.fail(format!("client {} cannot parse {:?}: {e}", self.id, String::from_utf8_lossy(&bytes))),
                },
                Ok(Some(Frame::End)) => {
                    if self.phase == Phase::Closing {
                        self.previd = None;
                        self.session_over(true, book);
                    }
                    self.phase = Phase::Offline;
                    self.slot = None;
                    if self.previd.is_none() {
                        self.session_over(true, book);
                    }
                    self.wishes.push(Wish::Drop(rng.random_range(50..1_500)));
                    return;
                }
                Ok(Some(_)) => {}
                Err(e) => return book.fail(format!("client {} cannot frame: {e}", self.id)),
            }
            if self.phase == Phase::Offline {
                return;
            }
        }
    }

    fn handle_element(&mut self, now: u64, e: &Element, book: &mut Book, rng: &mut SmallRng) {
        match (e.ns.as_str(), e.name.as_str()) {
            (ns::STREAM, "features") => self.features(),
            (ns::STREAM, "error") => {}
            (ns::SASL, "success") => {
                self.framer.restart();
                self.phase = Phase::Reopening;
                self.header();
            }
            (ns::SASL, _) => self.wishes.push(Wish::Drop(rng.random_range(200..1_000))),
            (ns::SM, name) => self.nonza(name, e, book, rng),
            (_, "iq") if self.phase == Phase::Binding => self.bound(e, book, rng),
            (_, "message" | "presence" | "iq") => {
                if self.sm && self.phase != Phase::Enabling {
                    self.handled = self.handled.wrapping_add(1);
                }
                match e.name.as_str() {
                    "message" => self.message(e, book),
                    "presence" => self.presence(e),
                    _ => self.iq(now, e, book),
                }
            }
            _ => book.fail(format!("client {} got {}", self.id, e.name)),
        }
    }

    fn features(&mut self) {
        match self.phase {
            Phase::Opening => {
                let user = format!("u{}", self.account);
                let plain = STANDARD.encode(format!("\0{user}\0secret"));
                self.phase = Phase::Auth;
                self.say(format!("<auth xmlns='{}' mechanism='PLAIN'>{plain}</auth>", ns::SASL));
            }
            Phase::Reopening => match self.previd.clone() {
                Some(previd) => {
                    self.phase = Phase::Resuming;
                    self.say(format!("<resume xmlns='{}' previd='{previd}' h='{}'/>", ns::SM, self.handled));
                }
                None => self.bind(),
            },
            _ => {}
        }
    }

    fn bind(&mut self) {
        self.phase = Phase::Binding;
        let resource = self.resource.as_ref().map(|r| format!("<resource>{r}</resource>")).unwrap_or_default();
        self.say(format!("<iq type='set' id='bind'><bind xmlns='{}'>{resource}</bind></iq>", ns::BIND));
    }

    fn bound(&mut self, e: &Element, book: &mut Book, rng: &mut SmallRng) {
        if e.attr("type") != Some("result") {
            self.wishes.push(Wish::Drop(rng.random_range(300..2_000)));
            self.cut(book);
            return;
        }
        self.jid = e.child("bind", ns::BIND).and_then(|b| b.child("jid", ns::BIND)).map(|j| j.text().into_owned());
        self.session += 1;
        self.seen.clear();
        self.last_from.clear();
        self.view.clear();
        self.available = false;
        self.reflected = false;
        // XEP-0198 §4: what is sent is counted from <enable/> on, what comes from <enabled/> on.
        let again = std::mem::take(&mut self.unacked);
        self.again.extend(again);
        (self.sent, self.acked) = (0, 0);
        if self.sm {
            self.phase = Phase::Enabling;
            self.say(format!("<enable xmlns='{}' resume='true'/>", ns::SM));
        } else {
            self.begin();
        }
    }

    fn nonza(&mut self, name: &str, e: &Element, book: &mut Book, rng: &mut SmallRng) {
        let h = e.attr("h").and_then(|h| h.parse::<u32>().ok());
        match name {
            "enabled" => {
                self.previd = e.attr("id").map(str::to_owned);
                self.handled = 0;
                self.begin();
            }
            "resumed" => {
                book.resumed += 1;
                // Whatever it was (XEP-0352 §5.2).
                self.kept.inactive = false;
                self.phase = Phase::Online;
                self.acknowledged(h.unwrap_or(0), book);
                let again: Vec<String> = self.unacked.iter().map(|s| s.xml.clone()).collect();
                for xml in again {
                    self.say(xml);
                }
            }
            "failed" if self.phase == Phase::Resuming => {
                book.failed += 1;
                if let Some(h) = h {
                    self.acknowledged(h, book);
                }
                self.previd = None;
                self.session_over(h.is_none(), book);
                self.bind();
            }
            "a" => self.acknowledged(h.unwrap_or(0), book),
            "r" if self.slow == 0 => self.ack(),
            "r" => self.wishes.push(Wish::AckIn(rng.random_range(0..self.slow))),
            _ => book.fail(format!("client {}: <{name}/> in {:?}", self.id, self.phase)),
        }
    }

    /// Say how much it has handled.
    pub fn ack(&mut self) {
        if self.sm && self.phase == Phase::Online {
            self.say(format!("<a xmlns='{}' h='{}'/>", ns::SM, self.handled));
        }
    }

    /// Ask the server to acknowledge.
    pub fn request_ack(&mut self) {
        if self.sm && self.phase == Phase::Online {
            self.say(format!("<r xmlns='{}'/>", ns::SM));
        }
    }

    fn acknowledged(&mut self, h: u32, book: &mut Book) {
        if h < self.acked || h > self.sent {
            return book.fail(format!("client {}: h={h} after {} of {} sent", self.id, self.acked, self.sent));
        }
        for _ in self.acked..h {
            let Some(sent) = self.unacked.pop_front() else { break };
            if let Some(m) = sent.message.and_then(|id| book.messages.get_mut(&id)) {
                m.acked = true;
                m.acked_at = self.heard;
            }
        }
        self.acked = h;
    }

    /// The session is lost: what is not acknowledged is sent again in the next one. `uncovered`: the server did not say how
    /// much it has.
    fn session_over(&mut self, uncovered: bool, book: &mut Book) {
        for sent in std::mem::take(&mut self.again).into_iter().rev() {
            self.unacked.push_front(sent);
        }
        for sent in &self.unacked {
            if let Some(m) = sent.message.and_then(|id| book.messages.get_mut(&id)) {
                m.uncovered |= uncovered;
            }
        }
        // Presence and IQs of the old session are of no use in a new one.
        self.unacked.retain(|s| s.message.is_some());
        for id in std::mem::take(&mut self.open_requests) {
            if let Some(r) = book.requests.get_mut(&id) {
                r.void = true;
            }
        }
        self.available = false;
        self.jid = None;
        self.kept.inactive = false;
        self.kept.void |= uncovered || !self.sm;
    }

    /// The session is ready: what was not acknowledged first, then presence.
    fn begin(&mut self) {
        self.phase = Phase::Online;
        let again = std::mem::take(&mut self.again);
        self.look();
        if self.carbons {
            self.stanza(format!("<iq type='set' id='carbons'><enable xmlns='{}'/></iq>", ns::CARBONS), None);
        }
        for sent in again {
            self.stanza(sent.xml, sent.message);
        }
        self.announce();
        if std::mem::take(&mut self.subscribes) {
            for peer in self.peers.clone() {
                self.stanza(format!("<presence type='subscribe' to='{}'/>", account_jid(peer)), None);
            }
        }
        if std::mem::take(&mut self.forgets) {
            let prefs = format!("<prefs xmlns='{}' default='never'><always/><never/></prefs>", ns::MAM);
            self.stanza(format!("<iq type='set' id='prefs'>{prefs}</iq>"), None);
        }
        self.request_ack();
    }

    /// Presence with a new status.
    pub fn announce(&mut self) {
        self.status += 1;
        self.available = true;
        let (status, priority) = (self.status, self.priority);
        self.stanza(format!("<presence><status>{status}</status><priority>{priority}</priority></presence>"), None);
    }

    /// End the session properly.
    pub fn close(&mut self) {
        if self.phase == Phase::Online {
            self.phase = Phase::Closing;
            self.say("</stream:stream>".into());
        }
    }

    /// A chat message to one of its peers, or a headline.
    pub fn chat(&mut self, now: u64, durable: bool, book: &mut Book, rng: &mut SmallRng) {
        let to = self.peers[rng.random_range(0..self.peers.len())];
        self.next += 1;
        let id = (self.id, self.next);
        let address = self.address(to, rng);
        let type_ = if durable { "chat" } else { "headline" };
        let poison = if self.poison == 0 || !durable || !rng.random_ratio(1, self.poison) {
            None
        } else if rng.random_bool(0.5) {
            Some(Poison::Sender)
        } else {
            Some(Poison::Recipient)
        };
        let msg = Msg {
            from: self.account,
            to,
            series: (self.id, if self.sm { 0 } else { self.session }),
            session: self.session,
            durable: durable && self.sm,
            kept: durable,
            poison,
            acked: false,
            refused: false,
            uncovered: false,
            received: 0,
            at: now,
            acked_at: 0,
        };
        book.messages.insert(id, msg);
        let text = name(id);
        let poison = poison.map(|p| format!("<poison xmlns='{}' for='{p:?}'/>", crate::poison::NS)).unwrap_or_default();
        self.stanza(format!("<message type='{type_}' to='{address}' id='{text}'><body>{text}</body>{poison}</message>"), Some(id));
        if rng.random_bool(0.5) {
            self.request_ack();
        }
    }

    /// A message that nobody can take: it comes back, and nothing is written at its addressee.
    pub fn chat_in_vain(&mut self) {
        self.next += 1;
        let id = format!("vain:{}:{}", self.id, self.next);
        self.stanza(format!("<message type='chat' to='nobody@localhost' id='{id}'><body>{id}</body></message>"), None);
    }

    /// The bare JID, or a resource that is known to be there.
    fn address(&self, to: usize, rng: &mut SmallRng) -> String {
        let bare = account_jid(to);
        let there: Vec<&String> = self.view.iter().filter(|(j, s)| s.is_some() && account_of(j) == Some(to)).map(|(j, _)| j).collect();
        if there.is_empty() || rng.random_bool(0.7) { bare } else { there[rng.random_range(0..there.len())].clone() }
    }

    /// A ping to a peer's resource.
    pub fn ask(&mut self, now: u64, book: &mut Book, rng: &mut SmallRng) {
        let others: Vec<String> =
            self.view.iter().filter(|(j, s)| s.is_some() && account_of(j) != Some(self.account)).map(|(j, _)| j.clone()).collect();
        if others.is_empty() {
            return;
        }
        let to = &others[rng.random_range(0..others.len())];
        self.next += 1;
        let id = (self.id, self.next);
        book.requests.insert(id, Request { session: self.session, answers: 0, void: false, at: now, reached: 0 });
        self.open_requests.insert(id);
        self.stanza(format!("<iq type='get' id='{}' to='{to}'><ping xmlns='{}'/></iq>", name(id), ns::PING), None);
    }

    fn message(&mut self, e: &Element, book: &mut Book) {
        if self.archived(e) {
            return;
        }
        let carbon = e.child("sent", ns::CARBONS).or_else(|| e.child("received", ns::CARBONS));
        let inner = carbon.and_then(|c| c.child("forwarded", ns::FORWARD)).and_then(|f| f.child("message", ns::CLIENT));
        let is_carbon = inner.is_some();
        let message = inner.unwrap_or(e);
        let Some(id) = message.attr("id").and_then(parse_name) else { return };
        if message.attr("type") == Some("error") {
            if let Some(m) = book.messages.get_mut(&id)
                && !is_carbon
            {
                m.refused = true;
            }
            return;
        }
        if is_carbon && carbon.is_some_and(|c| c.name == "sent") {
            return;
        }
        let Some(m) = book.messages.get_mut(&id) else {
            return book.fail(format!("client {} got a message that nobody sent: {id:?}", self.id));
        };
        let (uncovered, to, from, series, durable, at) = (m.uncovered, m.to, m.from, m.series, m.durable, m.at);
        if !is_carbon {
            m.received += 1;
            book.deliveries += 1;
        }
        if to != self.account || message.attr("from").and_then(account_of) != Some(from) {
            return book.fail(format!("client {} got {id:?}, which went to account {to}", self.id));
        }
        // Neither its sender nor its recipient wrote a row: who died has forgotten it, and it may come once more, be it to a
        // session that is younger than what it was given to at first.
        let unwritten = !durable && !self.archives && book.forgot(at);
        if !self.seen.insert((is_carbon, id)) {
            if !uncovered && !unwritten {
                book.fail(format!("client {} got {id:?} twice in one session", self.id));
            }
            return;
        }
        if is_carbon {
            return;
        }
        // A full address and a bare one may go different ways: a resource that takes no waiting messages takes its own.
        let full = message.attr("to").is_some_and(|to| to.contains('/'));
        let last = self.last_from.entry((series, full)).or_default();
        if self.alone && id.1 < *last && !uncovered && !unwritten && message.attr("type") != Some("headline") {
            book.fail(format!("client {} got {id:?} behind {last}", self.id));
        }
        if message.attr("type") != Some("headline") && self.reflected {
            *last = (*last).max(id.1);
        }
    }

    fn presence(&mut self, e: &Element) {
        let from = e.attr("from").unwrap_or_default().to_owned();
        match e.attr("type") {
            Some("subscribe") => {
                self.stanza(format!("<presence type='subscribed' to='{from}'/>"), None);
            }
            Some("unavailable") => {
                if from.contains('/') {
                    self.view.insert(from, None);
                } else {
                    let prefix = format!("{from}/");
                    self.view.retain(|j, _| !j.starts_with(&prefix));
                }
            }
            None => {
                self.reflected |= self.jid.as_deref() == Some(&from);
                let status = e.child("status", ns::CLIENT).and_then(|s| s.text().parse().ok());
                self.view.insert(from, Some(status.unwrap_or(0)));
            }
            Some(_) => {}
        }
    }

    /// A question that the server answers by itself.
    pub fn look(&mut self) {
        self.stanza(format!("<iq type='get' id='roster'><query xmlns='{}'/></iq>", ns::ROSTER), None);
    }

    fn iq(&mut self, now: u64, e: &Element, book: &mut Book) {
        let (id, type_) = (e.attr("id").unwrap_or_default().to_owned(), e.attr("type").unwrap_or_default());
        match type_ {
            "get" | "set" => {
                if let Some(r) = parse_name(&id).and_then(|id| book.requests.get_mut(&id)) {
                    r.reached += 1;
                    if r.reached > 1 {
                        book.fail(format!("the request {id} was forwarded twice"));
                    }
                }
                let to = e.attr("from").map(|f| format!(" to='{f}'")).unwrap_or_default();
                self.stanza(format!("<iq type='result' id='{id}'{to}/>"), None);
            }
            _ => {
                let Some(id) = parse_name(&id) else {
                    if id == "roster" && type_ == "result" {
                        self.served = now;
                    }
                    return self.kept_answer(&id, e);
                };
                self.open_requests.remove(&id);
                // Who died may have forgotten that it answered with an error.
                let lost = book.requests.get(&id).is_some_and(|r| book.forgot(r.at));
                // One that was answered as lost may be answered again when a new session has the resource: it did not ask.
                if let Some(r) = book.requests.get_mut(&id).filter(|r| r.session == self.session) {
                    r.answers += 1;
                    if r.answers > 1 && !r.void && !lost {
                        book.fail(format!("the request {id:?} was answered twice"));
                    }
                }
            }
        }
    }
}
