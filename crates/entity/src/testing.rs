//! Accounts in memory, driven by scripts that read like transcripts. For tests of this crate and of those above it.
//!
//! ```text
//! juliet/balcony comes                               binds, sends presence; what follows from that is not heard
//! juliet/balcony > <message to='romeo@x'><body>hi</body></message>
//! romeo/orchard  < <message from='juliet@x/balcony' to='romeo@x'><body>hi</body></message>
//! ```
//!
//! A script is exact: at each step every session must have heard what the lines before say, in that order, and nothing
//! else. The domain is `x`, the clock stands still but for `wait`. Verbs: `binds`, `comes`, `goes` (closes its stream),
//! `fades` (from now on it gets nothing, and the server does not know), `drops` (the stream is gone), `resumes`, `enables` (XEP-0198, with resumption), `acks` (all that it heard), `sleeps`,
//! `wakes` (XEP-0352), `hears nothing`, `is quiet` (forgets what it heard); `juliet meets romeo` (subscriptions both ways),
//! `juliet reloads` (from its cells, under a new owner), `wait 5` (seconds), `store stops`
//! and `store answers` (reads wait meanwhile), `link breaks` and `link mends` (what accounts tell each other meanwhile is lost), `forwards wait` and
//! `forwards arrive` (what is durable is slower meanwhile than what is not).

use crate::module::{Ctx, Pipeline, Settings};
use crate::{Account, Effect, Effects, Loader, Scan};
use bytes::Bytes;
use frame::{Bound, EdgeMsg, Output, Peer, PeerMsg, ShardMsg, SharedStanza, Sm};
use stanza::{Parsed, Stanza};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound as Edge;
use std::sync::Arc;
use std::time::Duration;
use types::{Attach, BareJid, ConnId, Epoch, Now, Op, Partition, ReqId, SessionId, ShardId, Timestamp, ns};
use xml::Element;

/// The instant at which every script begins.
pub const START: &str = "2026-11-22T10:00:00Z";

/// See the module.
pub struct World {
    /// Change them before the first step, or between steps.
    pub settings: Settings,
    /// What the store holds.
    pub cells: BTreeMap<Partition, BTreeMap<Bytes, Bytes>>,
    /// The store has no order over all batches: owners write seals, and heed them.
    pub sealed: bool,
    /// The store is low on space.
    pub low_space: bool,
    pipeline: Pipeline,
    now: Now,
    epoch: u32,
    accounts: BTreeMap<BareJid, Account>,
    clients: BTreeMap<String, Client>,
    conns: u64,
    queue: VecDeque<Task>,
    /// What accounts tell each other is lost.
    broken: bool,
    /// Reads wait here while the store does not answer.
    waiting: Option<VecDeque<Task>>,
    /// Forwards wait here while they are slow.
    slow: Option<VecDeque<Task>>,
}

#[derive(Default)]
struct Client {
    account: Option<BareJid>,
    conn: ConnId,
    session: SessionId,
    attach: Attach,
    n: u64,
    accepted: u64,
    m: u64,
    sm: Option<Sm>,
    /// Nothing reaches it any more.
    faded: bool,
    heard: VecDeque<SharedStanza>,
    ended: Option<String>,
}

impl Client {
    /// As its edge writes it.
    fn hear(&mut self, output: Output) {
        assert_eq!(output.m, self.m + 1, "outputs are dense");
        self.m = output.m;
        let mut stanza = output.stanza;
        if stanza.to.is_none() {
            Arc::make_mut(&mut stanza).to = self.account.as_ref().map(BareJid::to_jid);
        }
        self.heard.push_back(stanza);
    }
}

enum Task {
    Peer(Peer),
    Read(BareJid, u64, Scan),
}

/// Run a script; panics with the line that differs.
pub fn check(pipeline: Pipeline, script: &str) {
    World::new(pipeline).run(script);
}

impl World {
    /// Nobody is there yet.
    pub fn new(pipeline: Pipeline) -> World {
        let wall = Timestamp::parse(START).unwrap();
        World {
            settings: Settings { domains: vec!["x".into()], ..Settings::default() },
            cells: BTreeMap::new(),
            sealed: false,
            low_space: false,
            pipeline,
            now: Now { mono: types::Instant(1_000_000), wall },
            epoch: 1,
            accounts: BTreeMap::new(),
            clients: BTreeMap::new(),
            conns: 0,
            queue: VecDeque::new(),
            broken: false,
            waiting: None,
            slow: None,
        }
    }

    /// Run a script; panics with the line that differs.
    pub fn run(&mut self, script: &str) {
        let mut steps: Vec<String> = Vec::new();
        for line in script.lines().map(str::trim).filter(|l| !l.is_empty()) {
            match steps.last_mut().filter(|_| line.starts_with('<')) {
                Some(step) => step.push_str(line),
                None => steps.push(line.to_owned()),
            }
        }
        for step in &steps {
            self.step(step);
        }
        self.all_heard("at the end");
    }

    fn step(&mut self, step: &str) {
        let (who, what) = step.split_once(char::is_whitespace).unwrap_or_else(|| panic!("no verb: {step}"));
        let what = what.trim();
        if let Some(expected) = what.strip_prefix("< ") {
            return self.expect(who, expected.trim(), step);
        }
        if what == "hears nothing" {
            return assert!(self.client(who).heard.is_empty(), "{step}: {}", self.client(who).heard[0].to_element().unwrap());
        }
        if what == "is quiet" {
            return self.client(who).heard.clear();
        }
        self.all_heard(step);
        self.act(step);
    }

    /// A step of a script, whatever sessions have heard that nobody spoke of.
    pub fn act(&mut self, step: &str) {
        let (who, what) = step.split_once(char::is_whitespace).unwrap_or_else(|| panic!("no verb: {step}"));
        let what = what.trim();
        if let Some(text) = what.strip_prefix("> ") {
            return self.says(who, text.trim());
        }
        match what.split_once(' ') {
            Some(("meets", other)) => return self.meet(who, other),
            None if who == "link" => return self.link(what == "mends"),
            None if who == "store" && what == "stops" => return self.waiting = Some(VecDeque::new()),
            None if who == "store" && what == "answers" => {
                self.queue.extend(self.waiting.take().unwrap());
                return self.drain();
            }
            None if who == "forwards" && what == "wait" => return self.slow = Some(VecDeque::new()),
            None if who == "forwards" && what == "arrive" => {
                self.queue.extend(self.slow.take().unwrap());
                return self.drain();
            }
            None if who == "wait" => return self.wait(what.parse().unwrap()),
            _ => {}
        }
        match what {
            "binds" => self.bind(who),
            "comes" => {
                self.bind(who);
                self.says(who, "<presence/>");
                self.quiet();
            }
            "fades" => self.client(who).faded = true,
            "enables" => self.enable(who),
            "resumes" => self.resume(who),
            "acks" => {
                let c = self.client(who);
                let (session, attach, m) = (c.session, c.attach, c.m);
                self.edge(who, EdgeMsg::Acked { session, attach, m });
            }
            "goes" | "drops" | "sleeps" | "wakes" => {
                let c = self.client(who);
                let (session, attach) = (c.session, c.attach);
                self.edge(
                    who,
                    match what {
                        "goes" => EdgeMsg::Close { session, attach },
                        "drops" => EdgeMsg::Detach { session, attach },
                        _ => EdgeMsg::Active { session, attach, active: what == "wakes" },
                    },
                );
            }
            "reloads" => {
                self.epoch += 1;
                self.accounts.remove(&jid(who));
                self.account(&jid(who));
            }
            _ => panic!("unknown verb: {step}"),
        }
    }

    /// An account, as it is in memory.
    pub fn account(&mut self, jid: &BareJid) -> &mut Account {
        if !self.accounts.contains_key(jid) {
            let mut loader = Loader::new(jid.clone(), Epoch(self.epoch), self.sealed);
            while let Some(scan) = loader.next_read() {
                let (cells, more) = self.scan(&scan);
                loader.handle_page(cells, more).unwrap();
            }
            let mut made = None;
            self.with_ctx(jid, |ctx, fx| made = Some(loader.finish(ctx, false, fx).unwrap()));
            self.accounts.insert(jid.clone(), made.unwrap());
            self.drain();
        }
        self.accounts.get_mut(jid).unwrap()
    }

    /// What a session has heard and the script has not spoken of.
    pub fn heard(&mut self, who: &str) -> Vec<SharedStanza> {
        self.client(who).heard.drain(..).collect()
    }

    /// Why the session's stream was ended.
    pub fn ended(&mut self, who: &str) -> Option<String> {
        self.client(who).ended.clone()
    }

    /// Inputs of the session that are accepted, and inputs that it sent.
    pub fn accepted(&mut self, who: &str) -> (u64, u64) {
        let c = self.client(who);
        (c.accepted, c.n)
    }

    /// Create an account without a session.
    pub fn create(&mut self, account: &BareJid) {
        if !self.account(account).state.exists() {
            let create = EdgeMsg::Create { req: ReqId(0), credentials: Bytes::from_static(b"keys") };
            self.input(account, |a, ctx, fx| a.handle_edge(ctx, ConnId::default(), create, fx));
        }
    }

    /// A stanza of a session.
    pub fn says(&mut self, who: &str, text: &str) {
        let c = self.client(who);
        c.n += 1;
        let (session, attach, n, account) = (c.session, c.attach, c.n, c.account.clone().unwrap());
        let full = account.with_resource(who.split_once('/').unwrap().1).unwrap();
        let stanza = match Stanza::parse(Bytes::copy_from_slice(text.as_bytes()), ns::CLIENT) {
            Ok(Parsed::Stanza(stanza)) => stanza.with_from(full),
            other => panic!("{text}: {other:?}"),
        };
        self.edge(who, EdgeMsg::Submit { session, attach, n, attempt: 1, stanza: Arc::new(stanza) });
    }

    fn client(&mut self, who: &str) -> &mut Client {
        self.clients.get_mut(who).unwrap_or_else(|| panic!("{who} is not there"))
    }

    fn all_heard(&mut self, step: &str) {
        for (who, client) in &self.clients {
            if let Some(first) = client.heard.front() {
                panic!("{step}\nbut {who} heard: {}", first.to_element().unwrap());
            }
        }
    }

    fn quiet(&mut self) {
        self.clients.values_mut().for_each(|c| c.heard.clear());
    }

    fn expect(&mut self, who: &str, expected: &str, step: &str) {
        let got = self.client(who).heard.pop_front().unwrap_or_else(|| panic!("heard nothing: {step}"));
        let (mut got, mut expected) =
            (got.to_element().unwrap(), Element::parse(expected.as_bytes(), ns::CLIENT).unwrap_or_else(|e| panic!("{e}: {step}")));
        sort(&mut got);
        sort(&mut expected);
        assert!(got == expected, "{step}\n expected: {expected}\n      got: {got}");
    }

    fn bind(&mut self, who: &str) {
        let (name, resource) = who.split_once('/').unwrap();
        let account = jid(name);
        self.create(&account);
        self.conns += 1;
        let conn = ConnId { node: 0, plane: 0, slot: self.conns };
        let client = Client { account: Some(account), conn, ..Client::default() };
        self.clients.insert(who.into(), client);
        self.edge(who, EdgeMsg::Bind { req: ReqId(1), resource: Some(resource.into()), random: [7; 16] });
        assert!(self.client(who).session != SessionId::ACCOUNT, "{who} was not bound");
    }

    fn enable(&mut self, who: &str) {
        let c = self.client(who);
        let (session, attach) = (c.session, c.attach);
        self.edge(who, EdgeMsg::Enable { req: ReqId(2), session, attach, resume_secs: Some(0), random: [8; 16] });
    }

    fn resume(&mut self, who: &str) {
        self.conns += 1;
        let conn = ConnId { node: 0, plane: 0, slot: self.conns };
        let c = self.client(who);
        c.conn = conn;
        c.faded = false;
        let sm = c.sm.clone().unwrap();
        let h = u32::try_from(c.m - sm.base_m).unwrap();
        self.edge(who, EdgeMsg::Resume { req: ReqId(3), previd: sm.previd.unwrap(), h });
    }

    fn meet(&mut self, a: &str, b: &str) {
        for (a, b) in [(a, b), (b, a)] {
            self.create(&jid(a));
            self.create(&jid(b));
            for (from, to, type_) in [(a, b, "subscribe"), (b, a, "subscribed")] {
                let who = format!("{from}/meeting");
                self.bind(&who);
                self.says(&who, &format!("<presence to='{}' type='{type_}'/>", jid(to)));
                let c = self.client(&who);
                let (session, attach) = (c.session, c.attach);
                self.edge(&who, EdgeMsg::Close { session, attach });
                self.clients.remove(&who);
            }
        }
        self.quiet();
    }

    fn wait(&mut self, secs: u64) {
        let end = self.now.mono + Duration::from_secs(secs);
        loop {
            let next = self.accounts.iter().map(|(jid, a)| (a.next_wake(), jid.clone())).min();
            let Some((at, jid)) = next.filter(|(at, _)| *at <= end) else { break };
            self.pass(at.max(self.now.mono).since(self.now.mono));
            self.input(&jid, |a, ctx, fx| a.handle_timer(ctx, fx));
        }
        self.pass(end.since(self.now.mono));
    }

    /// When it is there again, each side is told that the other is to be reached anew.
    fn link(&mut self, mended: bool) {
        self.broken = !mended;
        let all: Vec<BareJid> = self.accounts.keys().filter(|_| mended).cloned().collect();
        for jid in all {
            self.input(&jid, |a, ctx, fx| a.handle_renewed(ctx, &|_| ShardId(0), ShardId(0), fx));
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now.mono = self.now.mono + time;
        self.now.wall = Timestamp(self.now.wall.0 + u64::try_from(time.as_millis()).unwrap());
    }

    fn edge(&mut self, who: &str, msg: EdgeMsg) {
        let c = self.client(who);
        let (account, conn) = (c.account.clone().unwrap(), c.conn);
        self.input(&account, |a, ctx, fx| a.handle_edge(ctx, conn, msg, fx));
    }

    /// One input of one account, and all that follows from it.
    pub fn input(&mut self, jid: &BareJid, run: impl FnOnce(&mut Account, &Ctx<'_>, &mut Effects)) {
        self.account(jid);
        let mut account = self.accounts.remove(jid).unwrap();
        self.with_ctx(jid, |ctx, fx| run(&mut account, ctx, fx));
        self.accounts.insert(jid.clone(), account);
        self.drain();
    }

    /// What one input of an account says to edges, in order; nobody hears it.
    pub fn said(&mut self, jid: &BareJid, run: impl FnOnce(&mut Account, &Ctx<'_>, &mut Effects)) -> Vec<ShardMsg> {
        let mut said = Vec::new();
        self.input(jid, |account, ctx, fx| {
            run(account, ctx, fx);
            fx.list.retain(|effect| match effect {
                Effect::Edge(_, msg) => {
                    said.push(msg.clone());
                    false
                }
                _ => true,
            });
        });
        said
    }

    fn with_ctx(&mut self, jid: &BareJid, run: impl FnOnce(&Ctx<'_>, &mut Effects)) {
        let mut fx = Effects::default();
        let ctx = Ctx { shard: ShardId(0), low_space: self.low_space, now: self.now, settings: &self.settings, pipeline: &self.pipeline };
        run(&ctx, &mut fx);
        for effect in fx.list {
            self.effect(jid, effect);
        }
    }

    fn drain(&mut self) {
        while let Some(task) = self.queue.pop_front() {
            match task {
                Task::Peer(peer) => {
                    let to = peer.to.clone();
                    self.input(&to, |a, ctx, fx| a.handle_peer(ctx, &peer.from, peer.body, fx));
                }
                Task::Read(jid, id, scan) => {
                    let page = self.scan(&scan);
                    self.input(&jid, |a, ctx, fx| a.handle_read(ctx, id, Ok(page), fx));
                }
            }
        }
    }

    fn effect(&mut self, from: &BareJid, effect: Effect) {
        match effect {
            Effect::Write(batch) | Effect::Later(_, batch) => {
                let cells = self.cells.entry(batch.partition).or_default();
                for op in batch.ops {
                    match op {
                        Op::Put { key, value } => drop(cells.insert(key, value)),
                        Op::Delete { key } => drop(cells.remove(&key)),
                    }
                }
            }
            Effect::Edge(conn, msg) => self.hear(conn, msg),
            Effect::Peer(..) if self.broken => {}
            Effect::Peer(to, body) => {
                // A link keeps order between two parties, and copies what it carries.
                let body = match body {
                    PeerMsg::State { stanza, asker } => PeerMsg::State { stanza: through_link(&stanza), asker },
                    body => body,
                };
                let from_epoch = Epoch(self.epoch);
                let slow = self.slow.as_mut().filter(|_| matches!(body, PeerMsg::Forward { .. }));
                slow.unwrap_or(&mut self.queue).push_back(Task::Peer(Peer {
                    from: from.clone(),
                    from_epoch,
                    from_shard: ShardId(0),
                    to,
                    body,
                }));
            }
            Effect::Read(id, scan) => self.waiting.as_mut().unwrap_or(&mut self.queue).push_back(Task::Read(from.clone(), id, scan)),
            Effect::Live | Effect::NotLive => {}
        }
    }

    fn hear(&mut self, conn: ConnId, msg: ShardMsg) {
        let Some(c) = self.clients.values_mut().find(|c| c.conn == conn) else { return };
        match msg {
            ShardMsg::Bound { result: Ok(Bound { session, attach, .. }), .. } => (c.session, c.attach) = (session, attach),
            ShardMsg::Enabled { sm, .. } => c.sm = Some(sm),
            ShardMsg::Resumed { resumed, .. } => {
                c.attach = resumed.attach;
                for output in resumed.outputs {
                    c.hear(output);
                }
            }
            ShardMsg::Deliver { .. } if c.faded => {}
            ShardMsg::Deliver { output, .. } => {
                c.hear(output);
            }
            ShardMsg::Outcome { accepted, .. } => c.accepted = accepted,
            ShardMsg::Ended { reason, .. } => c.ended = Some(format!("{reason:?}")),
            _ => {}
        }
    }

    fn scan(&self, scan: &Scan) -> (Vec<(Bytes, Bytes)>, bool) {
        let Some(cells) = self.cells.get(&scan.partition) else { return (Vec::new(), false) };
        let end = scan.to.clone().map_or(Edge::Unbounded, Edge::Excluded);
        let range = cells.range((Edge::Included(scan.from.clone()), end)).map(|(k, v)| (k.clone(), v.clone()));
        let mut found: Vec<_> =
            if scan.reverse { range.rev().take(scan.limit + 1).collect() } else { range.take(scan.limit + 1).collect() };
        let more = found.len() > scan.limit;
        found.truncate(scan.limit);
        (found, more)
    }
}

/// The bare JID of a name: `juliet` is `juliet@x`.
pub fn jid(name: &str) -> BareJid {
    BareJid::parse(&format!("{name}@x")).unwrap()
}

fn through_link(stanza: &Stanza) -> SharedStanza {
    Arc::new(Stanza::decode(stanza.to_bytes()).unwrap())
}

/// The order of attributes means nothing.
fn sort(element: &mut Element) {
    element.attrs.sort_by(|a, b| (&a.ns, &a.name).cmp(&(&b.ns, &b.name)));
    for node in &mut element.children {
        if let xml::Node::Element(child) = node {
            sort(child);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(script: &str) {
        super::check(Pipeline::default(), script);
    }

    #[test]
    fn a_message_reaches_the_other() {
        check(
            "
            juliet/balcony comes
            romeo/orchard  comes
            juliet/balcony > <message to='romeo@x' type='chat' id='1'><body>hi</body></message>
            romeo/orchard  < <message from='juliet@x/balcony' to='romeo@x' type='chat' id='1'><body>hi</body></message>
            ",
        );
    }

    /// RFC 6121 §8.5.3.2.1: a full JID that is not there.
    #[test]
    fn no_resource_matches() {
        check(
            "
            juliet/balcony comes
            romeo/orchard  comes
            juliet/balcony > <message to='romeo@x/gone' type='chat'><body>hi</body></message>
            romeo/orchard  < <message from='juliet@x/balcony' to='romeo@x/gone' type='chat'><body>hi</body></message>
            juliet/balcony > <message to='romeo@x/gone' id='2'><body>hi</body></message>
            juliet/balcony < <message from='romeo@x/gone' to='juliet@x/balcony' id='2' type='error'><body>hi</body>
                <error type='cancel'><service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message>
            juliet/balcony > <message to='romeo@x/gone' type='headline'><body>hi</body></message>
            juliet/balcony > <message to='romeo@x/gone' type='error'><body>hi</body></message>
            juliet/balcony > <message to='romeo@x/gone' type='groupchat' id='3'><body>hi</body></message>
            juliet/balcony < <message from='romeo@x/gone' to='juliet@x/balcony' id='3' type='error'><body>hi</body>
                <error type='cancel'><service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message>
            ",
        );
    }

    /// RFC 6121 §8.5.3.1: who does not see the resource cannot ask it; directed presence lets see.
    #[test]
    fn requests_need_presence() {
        let refused = "juliet/balcony < <iq from='romeo@x/orchard' to='juliet@x/balcony' id='1' type='error'>
            <error type='cancel'><service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>";
        let asks = "juliet/balcony > <iq to='romeo@x/orchard' id='1' type='get'><q xmlns='q'/></iq>";
        let heard = "romeo/orchard < <iq from='juliet@x/balcony' to='romeo@x/orchard' id='1' type='get'><q xmlns='q'/></iq>";
        let both = "juliet/balcony comes\nromeo/orchard comes";
        check(&format!("{both}\n{asks}\n{refused}"));
        check(&format!("{both}\nromeo/orchard > <presence to='juliet@x'/>\njuliet/balcony is quiet\n{asks}\n{heard}"));
        check(&format!("juliet meets romeo\n{both}\n{asks}\n{heard}"));
    }

    /// A message that waits for an inactive client does not replace the presence of its sender.
    #[test]
    fn what_waits_is_kept_by_kind() {
        const HOLD: crate::module::Module =
            crate::module::Module { name: "hold", may_hold: Some(|s| !s.has_body()), ..crate::module::Module::EMPTY };
        super::check(
            Pipeline::new(&[&HOLD]),
            "
            juliet/balcony comes
            romeo/orchard  comes
            juliet/balcony sleeps
            romeo/orchard  > <presence to='juliet@x'/>
            romeo/orchard  > <message to='juliet@x/balcony' type='headline'/>
            juliet/balcony wakes
            juliet/balcony < <presence from='romeo@x/orchard' to='juliet@x'/>
            juliet/balcony < <message from='romeo@x/orchard' to='juliet@x/balcony' type='headline'/>
            ",
        );
    }
}
