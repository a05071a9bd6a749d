//! The production cores in this process: edge connections, shards and the embedded store's code over a simulated disk, with
//! every module, under a virtual clock. No socket, no thread; the same each time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use chappe_tests::ns;
use chappe_tests::script::{Backend, Came, Level, Person, Script};
use chappe_tests::xml::{Element, Item, StreamParser};
use edge::core::{Connection, Output, Settings as EdgeSettings, TlsInfo};
use entity::module::ConflictPolicy;
use entity::{Pipeline, Settings};
use frame::{EdgeMsg, FromEdge, ToShard, ToShardBody};
use sasl::Credentials;
use shard::core::{Directory, Host, Out, Shared};
use store::{Completion, Store as _};
use store_embedded::sim::{SimFaults, SimStore};
use types::{BareJid, ConnId, Epoch, Instant, Now, ReqId, ShardId, Timestamp};

/// Wall clock at instant 0: 2026-11-18.
const WALL: u64 = 1_795_000_000_000;
/// How long things take to settle: far more than the simulated disk needs, far less than any timeout.
const SETTLE_MS: u64 = 300;
/// Shards.
const SHARDS: u16 = 8;
/// Rounds of SCRAM, the least that is allowed.
const ITERATIONS: u32 = 4_096;

struct Conn {
    core: Connection,
    client: usize,
    unread: VecDeque<Bytes>,
    open: bool,
}

#[derive(Default)]
struct Socket {
    slot: u64,
    parser: StreamParser,
    closed: bool,
}

/// One node owns every shard.
struct OneNode(Epoch);

impl Directory for OneNode {
    fn shard_of(&self, jid: &BareJid) -> ShardId {
        rpc::shard_of(jid.as_str(), SHARDS)
    }

    fn epoch(&self, _: ShardId) -> Option<Epoch> {
        Some(self.0)
    }

    fn is_local(&self, _: ShardId) -> bool {
        true
    }
}

/// See the module.
pub struct Cores {
    now: u64,
    epoch: Epoch,
    store: Arc<SimStore>,
    completions: Arc<Mutex<VecDeque<Completion>>>,
    host: Option<Host>,
    conns: BTreeMap<u64, Conn>,
    sockets: Vec<Option<Socket>>,
    slots: u64,
    shard_frames: VecDeque<ToShard>,
    edge_settings: Arc<EdgeSettings>,
    settings: Arc<Settings>,
    pipeline: Arc<Pipeline>,
    problem: Option<String>,
}

impl Cores {
    /// A node with the script's settings and accounts.
    pub fn start(script: &Script) -> Result<Cores> {
        let (edge_settings, settings) = settings(script)?;
        let mut cores = Cores {
            now: 0,
            epoch: Epoch(0),
            store: Arc::new(SimStore::seeded(1, SimFaults::none())),
            completions: Arc::default(),
            host: None,
            conns: BTreeMap::new(),
            sockets: script.people.iter().map(|_| None).collect(),
            slots: 0,
            shard_frames: VecDeque::new(),
            edge_settings: Arc::new(edge_settings),
            settings: Arc::new(settings),
            pipeline: Arc::new(modules::pipeline()),
            problem: None,
        };
        cores.begin();
        let users: BTreeSet<(&str, &str)> =
            script.people.iter().filter(|p| !p.unregistered).map(|p| (p.user.as_str(), p.password.as_str())).collect();
        for (user, password) in users {
            let account = BareJid::parse(&format!("{user}@localhost"))?;
            let credentials = Credentials::derive(password, &[7; 32], ITERATIONS)?.encode().into();
            let conn = ConnId { node: u16::MAX, plane: 0, slot: 0 };
            let shard = rpc::shard_of(account.as_str(), SHARDS);
            let from = FromEdge { conn, account, body: EdgeMsg::Create { req: ReqId(1), credentials } };
            cores.shard_frames.push_back(ToShard { shard, epoch: cores.epoch, body: ToShardBody::Edge(from) });
        }
        cores.run(SETTLE_MS)?;
        Ok(cores)
    }

    fn clock(&self) -> Now {
        Now { mono: Instant(self.now), wall: Timestamp(WALL + self.now) }
    }

    /// The process starts and takes every shard.
    fn begin(&mut self) {
        self.epoch = Epoch(self.epoch.0 + 1);
        self.completions = Arc::default();
        let completions = self.completions.clone();
        let plane = self.store.register(Box::new(move |c| completions.lock().unwrap_or_else(PoisonError::into_inner).push_back(c)));
        let (settings, pipeline) = (self.settings.clone(), self.pipeline.clone());
        let mut host = Host::new(Shared { store: self.store.clone(), plane, directory: Arc::new(OneNode(self.epoch)), settings, pipeline });
        let now = self.clock();
        (0..SHARDS).for_each(|s| host.take(now, ShardId(s), self.epoch));
        self.host = Some(host);
        self.route();
    }

    fn route(&mut self) {
        let now = self.clock();
        let Some(host) = &mut self.host else { return };
        for out in host.take_out() {
            match out {
                Out::Shard(frame) => self.shard_frames.push_back(frame),
                Out::Edge(frame) => {
                    if let Some(conn) = self.conns.get_mut(&frame.conn.slot).filter(|_| frame.conn.node == 0) {
                        conn.core.handle_frame(now, frame);
                    }
                }
            }
        }
    }

    /// Time passes, and everything that is due happens.
    fn run(&mut self, ms: u64) -> Result<()> {
        let end = self.now + ms;
        loop {
            self.present();
            if let Some(problem) = self.problem.take() {
                bail!("{problem}");
            }
            let host = self.host.as_ref().map_or(u64::MAX, |h| h.next_wake().0);
            let conns = self.conns.values().map(|c| c.core.next_timeout().0).min().unwrap_or(u64::MAX);
            let store = self.store.next_event().map_or(u64::MAX, |i| i.0);
            let next = host.min(conns).min(store).max(self.now);
            if next > end {
                self.now = end;
                self.store.step(Instant(end));
                return Ok(());
            }
            self.now = next;
            self.store.step(Instant(next));
            let now = self.clock();
            if host <= next
                && let Some(host) = &mut self.host
            {
                host.handle_timer(now);
            }
            self.conns.values_mut().filter(|c| c.core.next_timeout().0 <= next).for_each(|c| c.core.handle_timeout(now));
        }
    }

    /// Everything that takes no time.
    fn present(&mut self) {
        loop {
            let now = self.clock();
            self.route();
            let mut idle = true;
            while let Some(frame) = self.shard_frames.pop_front() {
                idle = false;
                if let Some(host) = &mut self.host {
                    host.handle_frame(now, frame);
                }
                self.route();
            }
            loop {
                let next = self.completions.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                let Some(completion) = next else { break };
                idle = false;
                if let Some(host) = &mut self.host {
                    host.handle_completion(now, completion);
                }
                self.route();
            }
            let slots: Vec<u64> = self.conns.keys().copied().collect();
            for slot in slots {
                idle &= !self.drive(slot);
            }
            if idle {
                return;
            }
        }
    }

    /// Gives whether the connection did anything.
    fn drive(&mut self, slot: u64) -> bool {
        let now = self.clock();
        let Some(mut conn) = self.conns.remove(&slot) else { return false };
        let mut did = false;
        loop {
            while let Some(output) = conn.core.poll_output() {
                did = true;
                self.carry_out(now, slot, &mut conn, output);
            }
            let next = if conn.core.wants_read() { conn.unread.pop_front() } else { None };
            let Some(bytes) = next else { break };
            did = true;
            conn.core.handle_bytes(now, &bytes);
        }
        if !conn.core.is_done() {
            self.conns.insert(slot, conn);
        }
        did
    }

    fn carry_out(&mut self, now: Now, slot: u64, conn: &mut Conn, output: Output) {
        let socket = self.sockets[conn.client].as_mut().filter(|s| s.slot == slot);
        match output {
            Output::Write(bytes) => {
                if let Some(socket) = socket
                    && let Err(e) = socket.parser.feed(&bytes)
                {
                    self.problem = Some(format!("{e:#}: {}", String::from_utf8_lossy(&bytes)));
                }
            }
            Output::Frame { account, body } => {
                let shard = rpc::shard_of(account.as_str(), SHARDS);
                let body = ToShardBody::Edge(FromEdge { conn: conn.core.id(), account, body });
                self.shard_frames.push_back(ToShard { shard, epoch: self.epoch, body });
            }
            Output::VerifyPlain { credentials, password } => {
                let ok = credentials.verify_plain(password.as_str());
                conn.core.handle_plain_verified(now, ok);
            }
            Output::Derive { password, random, iterations } => {
                let derived = Credentials::derive(password.as_str(), &random, iterations).map(|c| Bytes::from(c.encode()));
                conn.core.handle_derived(now, derived);
            }
            Output::StartTls => self.problem = Some("a connection under TLS starts TLS".into()),
            Output::Close => {
                if let Some(socket) = socket {
                    socket.closed = true;
                }
                if std::mem::take(&mut conn.open) {
                    conn.unread.clear();
                    conn.core.handle_closed(now);
                }
            }
        }
    }

    fn header(&mut self, client: usize) -> Result<()> {
        let header = format!(
            "<?xml version='1.0'?><stream:stream xmlns='{}' xmlns:stream='{}' to='localhost' version='1.0' xml:lang='en'>",
            ns::CLIENT,
            ns::STREAM
        );
        self.push(client, header.into())
    }

    fn push(&mut self, client: usize, bytes: Bytes) -> Result<()> {
        let slot = self.sockets[client].as_ref().context("not connected")?.slot;
        if let Some(conn) = self.conns.get_mut(&slot).filter(|c| c.open) {
            conn.unread.push_back(bytes);
        }
        self.run(SETTLE_MS)
    }

    fn item(&mut self, client: usize) -> Result<Option<Item>> {
        let socket = self.sockets[client].as_mut().context("not connected")?;
        Ok(socket.parser.next_item())
    }

    fn element(&mut self, client: usize) -> Result<Element> {
        match self.item(client)? {
            Some(Item::Element(element)) => Ok(element),
            other => bail!("expected an element, came {other:?}"),
        }
    }

    fn opened(&mut self, client: usize) -> Result<Element> {
        let Some(Item::Open(header)) = self.item(client)? else { bail!("no stream header") };
        ensure!(header.is("stream", ns::STREAM) && header.attr("from") == Some("localhost"), "{header:?}");
        self.element(client)
    }
}

/// The head's settings, in the cores' own words; the defaults are those of the configuration.
fn settings(script: &Script) -> Result<(EdgeSettings, Settings)> {
    let mut edge = EdgeSettings::new(vec![BareJid::parse("localhost")?]);
    edge.iterations = ITERATIONS;
    edge.features.more = modules::disco::server_caps(&modules::pipeline()).to_string();
    edge.login_tries_max = 5;
    edge.resume_timeout = types::limit::RESUME_TIMEOUT;
    edge.resume_timeout_max = types::limit::RESUME_TIMEOUT_MAX;
    edge.idle_timeout = Duration::from_secs(300);
    edge.idle_answer_timeout = Duration::from_secs(60);
    let mut settings = Settings { attaching: Duration::ZERO, ..Settings::default() };
    settings.resume_secs_max = u32::try_from(edge.resume_timeout_max.as_secs())?;
    for (key, value) in &script.settings {
        match (key.as_str(), value.as_str()) {
            ("registration", "open") => edge.registration = true,
            ("bare JID", "highest") => settings.bare_to_all = false,
            ("bare JID", "all") => settings.bare_to_all = true,
            ("conflict", "replace") => settings.conflict = ConflictPolicy::TerminateOld,
            ("conflict", "refuse") => settings.conflict = ConflictPolicy::DisallowNew,
            ("conflict", "override") => settings.conflict = ConflictPolicy::Override,
            ("archive", "always") => settings.archive_default = entity::module::ArchiveDefault::Always,
            ("archive", "roster") => settings.archive_default = entity::module::ArchiveDefault::Roster,
            ("archive", "never") => settings.archive_default = entity::module::ArchiveDefault::Never,
            _ => bail!("no such setting: {key}: {value}"),
        }
    }
    Ok((edge, settings))
}

impl Backend for Cores {
    async fn open(&mut self, client: usize, person: &Person, level: Level) -> Result<Element> {
        self.slots += 1;
        let slot = self.slots;
        let id = ConnId { node: 0, plane: 0, slot };
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&slot.to_be_bytes());
        let core = Connection::new(self.edge_settings.clone(), id, seed, self.clock(), Some(TlsInfo::default()));
        self.conns.insert(slot, Conn { core, client, unread: VecDeque::new(), open: true });
        self.sockets[client] = Some(Socket { slot, ..Socket::default() });
        self.header(client)?;
        let features = self.opened(client)?;
        if level == Level::Secured {
            return Ok(features);
        }
        let plain = STANDARD.encode(format!("\0{}\0{}", person.user, person.password));
        self.push(client, format!("<auth xmlns='{}' mechanism='PLAIN'>{plain}</auth>", ns::SASL).into())?;
        let answer = self.element(client)?;
        ensure!(answer.is("success", ns::SASL), "login: {}", answer.write(ns::CLIENT));
        self.restart_stream(client).await
    }

    async fn restart_stream(&mut self, client: usize) -> Result<Element> {
        self.sockets[client].as_mut().context("not connected")?.parser = StreamParser::default();
        self.header(client)?;
        self.opened(client)
    }

    async fn send(&mut self, client: usize, xml: &str) -> Result<()> {
        self.push(client, Bytes::copy_from_slice(xml.as_bytes()))
    }

    async fn next(&mut self, client: usize, _: bool) -> Result<Option<Came>> {
        match self.item(client)? {
            Some(Item::Element(e)) if e.is("error", ns::STREAM) => {
                let condition = e.children().find(|c| c.ns == ns::STREAMS && c.name != "text").map_or("none", |c| &c.name);
                Ok(Some(Came::End(Some(condition.to_owned()))))
            }
            Some(Item::Element(element)) => Ok(Some(Came::Element(element))),
            Some(Item::Close) => Ok(Some(Came::End(None))),
            Some(Item::Open(header)) => bail!("a second stream header: {header:?}"),
            None if self.sockets[client].as_ref().is_some_and(|s| s.closed) => bail!("the connection broke"),
            None => Ok(None),
        }
    }

    async fn cut(&mut self, client: usize) -> Result<()> {
        let now = self.clock();
        if let Some(socket) = self.sockets[client].take()
            && let Some(conn) = self.conns.get_mut(&socket.slot).filter(|c| c.open)
        {
            conn.open = false;
            conn.unread.clear();
            conn.core.handle_closed(now);
        }
        self.run(SETTLE_MS)
    }

    async fn settle(&mut self) -> Result<()> {
        self.run(SETTLE_MS)
    }

    async fn pass(&mut self, time: Duration) -> Result<()> {
        self.run(u64::try_from(time.as_millis())?)
    }

    async fn restart(&mut self, kill: bool) -> Result<()> {
        if !kill {
            let now = self.clock();
            self.conns.values_mut().for_each(|c| c.core.handle_drain(now));
            self.run(SETTLE_MS)?;
        }
        self.store.crash();
        self.conns.clear();
        self.shard_frames.clear();
        self.host = None;
        if kill {
            self.sockets.iter_mut().for_each(|s| *s = None);
        }
        self.store.reopen().map_err(|e| anyhow::anyhow!("{e}"))?;
        self.begin();
        self.run(SETTLE_MS)
    }
}
