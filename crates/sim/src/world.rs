//! The simulated cluster: a clock, a queue of events, and everything that runs on them.

use crate::book::Book;
use crate::client::{Client, Phase, Wish};
use crate::coverage::{Coverage, Of, account_state, session_state, variant};
use crate::less::Less;
use crate::net::{Link, Owner, Party, Payload, View, Waiting};
use crate::plan::{Mode, Plan};
use crate::trace::Trace;
use bytes::Bytes;
use edge::core::{Connection, Output, Settings as EdgeSettings, TlsInfo};
use entity::{Pipeline, Settings};
use frame::{EdgeMsg, FromEdge, Peer, PeerMsg, ShardMsg, ToEdge, ToShard, ToShardBody};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use shard::core::{Host, Out, Shared};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use store::memory::Hostile;
use store::{Completion, PlaneId, Store};
use store_embedded::sim::{SimFaults, SimStore};
use types::{BareJid, ConnId, Epoch, Instant, Now, ShardId, Ticket, Timestamp};

/// Wall clock at instant 0.
const WALL: u64 = 1_795_000_000_000;
/// Steps within one millisecond beyond which something runs in circles.
const STEPS_PER_MS_MAX: u32 = 200_000;

/// Frames that wait for a router to hear of the owner that they are for; further ones are lost.
const EARLY_MAX: usize = 1_024;

/// Something that will happen.
#[derive(Clone, Debug)]
pub enum Event {
    /// A frame arrives.
    Frame { from: usize, to: usize, generation: u32, life: u32, payload: Payload },
    /// Bytes of a client arrive; `None`: its socket is gone.
    ToServer { slot: u64, bytes: Option<Bytes> },
    /// Bytes of the server arrive; `None`: it has closed.
    ToClient { slot: u64, bytes: Option<Bytes> },
    /// A client connects, if it is offline and wants to.
    Connect { client: usize },
    /// A client does something.
    Act { client: usize },
    /// A client answers `<r/>`.
    Ack { client: usize, session: u64 },
    /// Something breaks.
    Fault,
    /// A party hears of the placement.
    Heard { party: usize, shard: ShardId, owner: Option<Owner> },
    /// A party takes a shard.
    Take { party: usize, shard: ShardId, epoch: Epoch },
    /// A party starts again.
    Start { party: usize, life: u32 },
    /// A party that was stopped goes on.
    Wake { party: usize, life: u32 },
    /// Placement gives away what a party had.
    Reassign { party: usize, life: u32, dead: bool },
    /// There was no core to give this shard to.
    Give { shard: ShardId, epoch: Epoch },
    /// A link is there again.
    Renew { a: usize, b: usize },
    /// A party takes connections of an edge up to `slot` for lost.
    ConnsLost { party: usize, edge: usize, slot: u64 },
    /// The disk has room again.
    Room,
}

/// The store of the cluster.
pub enum Stores {
    /// One node's disk.
    Sim(Arc<SimStore>),
    /// Three replicas.
    Hostile(Arc<Hostile>),
}

impl Stores {
    fn next(&self) -> Option<u64> {
        match self {
            Stores::Sim(s) => s.next_event(),
            Stores::Hostile(s) => s.next_event(),
        }
        .map(|i| i.0)
    }

    fn step(&self, now: u64) {
        match self {
            Stores::Sim(s) => s.step(Instant(now)),
            Stores::Hostile(s) => s.step(Instant(now)),
        }
    }

    /// As the shards see it.
    pub fn shared(&self) -> Arc<dyn Store> {
        match self {
            Stores::Sim(s) => s.clone(),
            Stores::Hostile(s) => s.clone(),
        }
    }
}

/// A connection and its socket.
pub struct Conn {
    /// The edge's half.
    pub core: Connection,
    /// Where it is.
    pub party: usize,
    /// The client's side is there.
    pub client_open: bool,
    /// What the client sent and nobody has read.
    pub unread: VecDeque<Bytes>,
    up_last: u64,
    down_last: u64,
}

type Completions = Arc<Mutex<VecDeque<(PlaneId, Completion)>>>;

/// See the module.
pub struct World {
    /// What this run is.
    pub plan: Plan,
    /// What is left out of it.
    pub less: Less,
    /// Faults so far, also those that are left out.
    pub faults: u32,
    /// Things that clients did so far, likewise.
    pub acts: u32,
    /// Milliseconds since the start.
    pub now: u64,
    /// Chance, for all but what has its own.
    pub rng: SmallRng,
    /// Chance of what breaks: a run with less of it is otherwise the same for longer.
    pub chaos: SmallRng,
    /// Chance of what clients do, likewise.
    habits: SmallRng,
    /// What happened.
    pub trace: Trace,
    /// What clients said and heard.
    pub book: Book,
    /// What met what, if somebody wants to know.
    pub coverage: Option<Coverage>,
    /// The clients.
    pub clients: Vec<Client>,
    /// Connections, by slot.
    pub conns: BTreeMap<u64, Conn>,
    /// Parties.
    pub parties: Vec<Party>,
    /// The store.
    pub store: Stores,
    /// The placement as it is.
    pub owners: Vec<Owner>,
    /// Whether faults go on.
    pub faulty: bool,
    /// Clients say nothing new.
    pub quiet: bool,
    /// Those that went when the faults ended may come back.
    pub returned: bool,
    /// Everybody stays away until then.
    pub nobody_until: u64,
    pub(crate) links: BTreeMap<(usize, usize), Link>,
    pub(crate) sockets: Vec<Option<u64>>,
    pub(crate) epoch: u32,
    /// Of forwards under one journal, by the stanza's id: what an answer to it rests on.
    pub(crate) tickets: BTreeMap<String, Ticket>,
    completions: Completions,
    queue: BTreeMap<(u64, u64), Event>,
    sequence: u64,
    next_slot: u64,
    steps: u32,
    edge_settings: Arc<EdgeSettings>,
    settings: Arc<Settings>,
    pipeline: Arc<Pipeline>,
}

impl World {
    /// A cluster that has not started.
    pub fn new(seed: u64, mode: Mode, less: Less, trace: Trace) -> World {
        let mut rng = SmallRng::seed_from_u64(seed ^ 0x5eed_0000 ^ u64::from(mode == Mode::Cluster) << 40);
        let mut plan = Plan::draw(mode, &mut rng);
        less.apply(&mut plan);
        let store_rng = SmallRng::seed_from_u64(rng.random());
        let store = match mode {
            Mode::Embedded => Stores::Sim(Arc::new(SimStore::new(store_rng, SimFaults::none()))),
            Mode::Cluster => Stores::Hostile(Arc::new(Hostile::new(store_rng, store::memory::Hostility::none()))),
        };
        let clients = plan.clients();
        let sockets = vec![None; clients.len()];
        let mut world = World {
            less,
            faults: 0,
            acts: 0,
            now: 0,
            chaos: SmallRng::seed_from_u64(rng.random()),
            habits: SmallRng::seed_from_u64(rng.random()),
            rng,
            trace,
            book: Book::default(),
            coverage: None,
            clients,
            conns: BTreeMap::new(),
            parties: Vec::new(),
            store,
            owners: Vec::new(),
            faulty: false,
            quiet: false,
            returned: false,
            nobody_until: 0,
            links: BTreeMap::new(),
            sockets,
            epoch: 0,
            tickets: BTreeMap::new(),
            completions: Arc::default(),
            queue: BTreeMap::new(),
            sequence: 0,
            next_slot: 0,
            steps: 0,
            edge_settings: Arc::new(plan.edge_settings()),
            settings: Arc::new(plan.settings()),
            pipeline: Arc::new(Pipeline::new(&[modules::all(), &[&crate::poison::MODULE]].concat())),
            plan,
        };
        for p in 0..world.plan.parties {
            let view = Arc::new(View::new(p, mode == Mode::Embedded, world.plan.shards));
            let (is_edge, is_core) = world.plan.roles(p);
            let waiting = VecDeque::new();
            world.parties.push(Party {
                view,
                host: None,
                plane: None,
                is_edge,
                is_core,
                up: false,
                stopped: false,
                waiting,
                early: Vec::new(),
                missed: std::collections::BTreeSet::new(),
                life: 0,
            });
        }
        world
    }

    /// Both clocks.
    pub fn clock(&self) -> Now {
        Now { mono: Instant(self.now), wall: Timestamp(WALL + self.now) }
    }

    /// A moment between `low` and `high` milliseconds from now.
    pub fn at(&mut self, low: u64, high: u64, event: Event) {
        let at = self.now + self.rng.random_range(low..=high.max(low));
        self.at_exactly(at, event);
    }

    /// At this moment.
    pub fn at_exactly(&mut self, at: u64, event: Event) {
        self.sequence += 1;
        self.queue.insert((at, self.sequence), event);
    }

    /// A line of the trace.
    pub fn say(&mut self, text: impl FnOnce() -> String) {
        let now = self.now;
        self.trace.line(now, text);
    }

    /// Something is wrong.
    pub fn fail(&mut self, what: impl Into<String>) {
        let what = what.into();
        self.say(|| format!("!!! {what}"));
        self.book.fail(what);
    }

    /// A process begins: it registers at the store and owns nothing yet.
    pub fn start_party(&mut self, p: usize) {
        self.parties[p].up = true;
        self.parties[p].stopped = false;
        self.parties[p].life += 1;
        self.parties[p].waiting.clear();
        self.parties[p].early.clear();
        self.parties[p].missed.clear();
        if !self.parties[p].is_core {
            return;
        }
        let store = self.store.shared();
        let completions = self.completions.clone();
        let cell = Arc::new(Mutex::new(PlaneId(0)));
        let mine = cell.clone();
        let plane = store.register(Box::new(move |completion| {
            let plane = *mine.lock().unwrap_or_else(PoisonError::into_inner);
            completions.lock().unwrap_or_else(PoisonError::into_inner).push_back((plane, completion));
        }));
        *cell.lock().unwrap_or_else(PoisonError::into_inner) = plane;
        let directory = self.parties[p].view.clone();
        let shared = Shared { store, plane, directory, settings: self.settings.clone(), pipeline: self.pipeline.clone() };
        self.parties[p].host = Some(Host::new(shared));
        self.parties[p].plane = Some(plane);
    }

    /// Everything up to `end` happens, or something goes wrong.
    pub fn run_until(&mut self, end: u64) {
        while self.book.failure.is_none() {
            let next = self.next_time();
            if next > end {
                self.now = end;
                return;
            }
            if next > self.now {
                (self.now, self.steps) = (next, 0);
            }
            self.steps += 1;
            if self.steps > STEPS_PER_MS_MAX {
                return self.fail("something runs in circles");
            }
            self.step();
            if crate::poison::has_panicked() {
                self.book.panics.push(self.now);
            }
        }
    }

    fn next_time(&self) -> u64 {
        let running = self.parties.iter().filter(|p| p.up && !p.stopped);
        let hosts = running.filter_map(|p| p.host.as_ref()).map(|h| h.next_wake().0);
        let conns = self.conns.values().filter(|c| !self.parties[c.party].stopped).map(|c| c.core.next_timeout().0);
        let queue = self.queue.keys().next().map(|(at, _)| *at);
        hosts.chain(conns).chain(queue).chain(self.store.next()).min().unwrap_or(u64::MAX).max(self.now)
    }

    fn step(&mut self) {
        if self.store.next().is_some_and(|at| at <= self.now) {
            self.store.step(self.now);
            return self.completed();
        }
        if let Some(entry) = self.queue.first_entry()
            && entry.key().0 <= self.now
        {
            let event = entry.remove();
            return self.happen(event);
        }
        let now = self.clock();
        for p in 0..self.parties.len() {
            let party = &mut self.parties[p];
            if party.up
                && !party.stopped
                && let Some(host) = &mut party.host
                && host.next_wake() <= now.mono
            {
                host.handle_timer(now);
                return self.route(p);
            }
        }
        let due = self.conns.iter().find(|(_, c)| !self.parties[c.party].stopped && c.core.next_timeout().0 <= self.now);
        if let Some((slot, _)) = due {
            let slot = *slot;
            self.cover_conn(slot, || "a time-out".into());
            self.with_conn(slot, |c, now| c.handle_timeout(now));
        }
    }

    fn completed(&mut self) {
        loop {
            let next = self.completions.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some((plane, completion)) = next else { break };
            let Some(p) = self.parties.iter().position(|p| p.up && p.plane == Some(plane)) else { continue };
            self.trace.note(u64::from(plane.0) << 8 | 1);
            self.say(|| format!("store → p{p}: {}", brief(&completion)));
            if self.parties[p].stopped {
                self.parties[p].waiting.push_back(Waiting::Completion(completion));
            } else {
                self.complete(p, completion);
            }
        }
        if let Stores::Sim(store) = &self.store
            && store.failed().is_some()
        {
            self.say(|| "a commit failed: the process ends".into());
            self.crash_node();
        }
    }

    pub(crate) fn complete(&mut self, p: usize, completion: Completion) {
        let now = self.clock();
        if let Some(host) = &mut self.parties[p].host {
            host.handle_completion(now, completion);
        }
        self.route(p);
    }

    /// Send what a host has said.
    pub fn route(&mut self, p: usize) {
        let Some(host) = &mut self.parties[p].host else { return };
        for out in host.take_out() {
            if self.faulty && self.plan.cut_short > 0 && self.chaos.random_ratio(1, self.plan.cut_short) && self.next_fault() {
                // What it has not said yet it will never say.
                return self.cut_short(p);
            }
            self.check_late_enough(&out);
            match out {
                Out::Edge(frame) => {
                    if let ShardMsg::Deliver { output, .. } = &frame.body {
                        self.book.note_refusal(&output.stanza);
                    }
                    let to = self.plan.party_of(frame.conn);
                    self.send(p, to, Payload::Edge(Box::new(frame)));
                }
                Out::Shard(frame) if self.parties[p].view.owner(frame.shard).is_some_and(|o| o.epoch < frame.epoch) => {
                    if self.parties[p].early.len() < EARLY_MAX {
                        self.parties[p].early.push(frame);
                    }
                }
                Out::Shard(frame) => {
                    if let Some(owner) = self.parties[p].view.owner(frame.shard) {
                        self.send(p, owner.party, Payload::Shard(Box::new(frame)));
                    }
                }
            }
        }
    }

    /// On one journal a forward travels before it is durable: what is said of it must not.
    fn check_late_enough(&mut self, out: &Out) {
        let Stores::Sim(store) = &self.store else { return };
        let stanza = match out {
            Out::Edge(ToEdge { body: ShardMsg::Deliver { output, .. }, .. }) => &output.stanza,
            Out::Shard(ToShard { body: ToShardBody::Peer(Peer { body: PeerMsg::Request { stanza }, .. }), .. }) => stanza,
            _ => return,
        };
        let Some((id, ticket)) = stanza.id.as_deref().and_then(|id| self.tickets.get_key_value(id)) else { return };
        // A client that was not told that it had been taken sent it again, and what is spoken of is the first one.
        let again = crate::book::parse_name(id).and_then(|id| self.book.messages.get(&id)).is_some_and(|m| m.uncovered);
        if *ticket > store.durable() && store.is_running() && !again {
            let wrong = format!("{id} is spoken of, but {ticket:?} of its sender is not durable yet");
            self.fail(wrong);
        }
    }

    /// Put a frame on a link. False if the link does not take it.
    pub fn send(&mut self, from: usize, to: usize, payload: Payload) -> bool {
        let delay =
            if from == to { self.rng.random_range(0..=1) } else { self.rng.random_range(self.plan.delay_ms.0..=self.plan.delay_ms.1) };
        let now = self.now;
        let life = self.parties[to].life;
        let link = self.links.entry((from, to)).or_insert(Link { generation: 0, last: 0, up: true });
        if !link.up {
            return false;
        }
        let at = link.last.max(now + delay);
        link.last = at;
        let generation = link.generation;
        self.at_exactly(at, Event::Frame { from, to, generation, life, payload });
        true
    }

    pub(crate) fn deliver(&mut self, p: usize, payload: Payload) {
        if self.parties[p].stopped {
            return self.parties[p].waiting.push_back(Waiting::Frame(payload));
        }
        let now = self.clock();
        match payload {
            Payload::Shard(frame) => {
                if let ToShardBody::Peer(Peer { body: PeerMsg::Forward { ticket, stanza, .. }, .. }) = &frame.body
                    && let Some(id) = &stanza.id
                {
                    // One that comes again names a later ticket than its row has; none of an earlier life of the node is looked at.
                    self.tickets.entry(id.to_string()).or_insert(*ticket);
                }
                self.cover_shard(p, &frame);
                self.trace.note(u64::from(frame.shard.0) << 8 | 2);
                self.say(|| format!("→ p{p} {}", brief_shard(&frame)));
                if let ToShardBody::Peer(Peer { body: PeerMsg::Request { stanza }, .. }) = &frame.body {
                    self.book.note_refusal(stanza);
                }
                if let Some(host) = &mut self.parties[p].host {
                    host.handle_frame(now, *frame);
                }
                self.route(p);
            }
            Payload::Edge(frame) => {
                self.trace.note(frame.conn.slot << 8 | 3);
                self.say(|| format!("→ c{} e{} {}", frame.conn.slot, frame.epoch.0, clip(&format!("{:?}", frame.body))));
                let slot = frame.conn.slot;
                self.cover_conn(slot, || variant(&frame.body));
                self.with_conn(slot, |c, now| c.handle_frame(now, *frame));
            }
        }
    }

    fn cover_shard(&mut self, p: usize, frame: &ToShard) {
        let Some(coverage) = &mut self.coverage else { return };
        let (jid, session) = match &frame.body {
            ToShardBody::Edge(e) => (&e.account, e.body.session()),
            ToShardBody::Peer(peer) => (&peer.to, None),
        };
        let shards = self.parties[p].host.iter().flat_map(|h| h.shards()).filter(|s| s.id() == frame.shard && s.epoch() == frame.epoch);
        let account = shards.flat_map(|s| s.accounts()).find(|a| a.state.jid == *jid);
        match &frame.body {
            ToShardBody::Edge(e) => coverage.note(Of::Session, session_state(account, session), variant(&e.body)),
            ToShardBody::Peer(peer) => coverage.note(Of::Account, account_state(account), variant(&peer.body)),
        }
    }

    /// Something meets a connection.
    pub(crate) fn cover_conn(&mut self, slot: u64, event: impl FnOnce() -> String) {
        if let (Some(coverage), Some(conn)) = (&mut self.coverage, self.conns.get(&slot)) {
            coverage.note(Of::Connection, conn.core.state_name(), event());
        }
    }

    /// Hand something to a connection and carry out what it wants.
    pub fn with_conn(&mut self, slot: u64, run: impl FnOnce(&mut Connection, Now)) {
        let now = self.clock();
        let Some(mut conn) = self.conns.remove(&slot) else { return };
        run(&mut conn.core, now);
        self.drive(slot, &mut conn);
        if !conn.core.is_done() {
            self.conns.insert(slot, conn);
        } else if conn.client_open {
            let at = conn.down_last.max(self.now + 1);
            self.at_exactly(at, Event::ToClient { slot, bytes: None });
            conn.unread.clear();
        }
    }

    fn drive(&mut self, slot: u64, conn: &mut Conn) {
        let now = self.clock();
        loop {
            while let Some(output) = conn.core.poll_output() {
                self.carry_out(slot, conn, output);
            }
            if !conn.core.wants_read() {
                return;
            }
            let Some(bytes) = conn.unread.pop_front() else { return };
            conn.core.handle_bytes(now, &bytes);
        }
    }

    fn carry_out(&mut self, slot: u64, conn: &mut Conn, output: Output) {
        let now = self.clock();
        match output {
            Output::Write(bytes) => {
                self.trace.note_bytes(&bytes);
                if conn.client_open {
                    let at = conn.down_last.max(self.now + self.rng.random_range(0..=5));
                    conn.down_last = at;
                    self.at_exactly(at, Event::ToClient { slot, bytes: Some(bytes.into()) });
                }
            }
            Output::Frame { account, body } => {
                let shard = rpc::shard_of(account.as_str(), self.plan.shards);
                let owner = self.parties[conn.party].view.owner(shard);
                let full = self.faulty && self.rng.random_bool(0.005);
                let taken = owner.is_some_and(|owner| {
                    let from = FromEdge { conn: conn.core.id(), account, body };
                    let frame = ToShard { shard, epoch: owner.epoch, body: ToShardBody::Edge(from) };
                    !full && self.send(conn.party, owner.party, Payload::Shard(Box::new(frame)))
                });
                if !taken {
                    if let Some(coverage) = &mut self.coverage {
                        coverage.note(Of::Connection, conn.core.state_name(), "a full link".into());
                    }
                    conn.core.handle_unreachable(now);
                }
            }
            Output::VerifyPlain { .. } => conn.core.handle_plain_verified(now, true),
            Output::Derive { .. } | Output::StartTls => self.fail("a connection asked for what no client wants"),
            Output::Close => {
                if conn.client_open {
                    conn.client_open = false;
                    let at = conn.down_last.max(self.now + 1);
                    self.at_exactly(at, Event::ToClient { slot, bytes: None });
                }
                conn.unread.clear();
                conn.core.handle_closed(now);
            }
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Frame { from, to, generation, life, payload } => {
                let link = self.links.get(&(from, to));
                let arrives = link.is_some_and(|l| l.generation == generation) && self.parties[to].up && self.parties[to].life == life;
                if arrives {
                    self.deliver(to, payload);
                }
            }
            Event::ToServer { slot, bytes } => self.reach_server(slot, bytes),
            Event::ToClient { slot, bytes } => self.reach_client(slot, bytes),
            Event::Connect { client } => self.connect(client),
            Event::Act { client } => self.act(client),
            Event::Ack { client, session } => {
                if self.clients[client].session == session {
                    self.clients[client].ack();
                    self.grant(client);
                }
            }
            other => self.fault(other),
        }
    }

    fn reach_server(&mut self, slot: u64, bytes: Option<Bytes>) {
        self.cover_conn(slot, || if bytes.is_some() { "bytes".into() } else { "the socket gone".into() });
        let Some(conn) = self.conns.get_mut(&slot) else { return };
        match bytes {
            Some(bytes) => {
                conn.unread.push_back(bytes);
                if !self.parties[conn.party].stopped {
                    self.with_conn(slot, |_, _| {});
                }
            }
            None => {
                conn.client_open = false;
                conn.unread.clear();
                if !self.parties[conn.party].stopped {
                    self.with_conn(slot, |c, now| c.handle_closed(now));
                }
            }
        }
    }

    fn reach_client(&mut self, slot: u64, bytes: Option<Bytes>) {
        let Some(client) = self.sockets.iter().position(|s| *s == Some(slot)) else { return };
        match bytes {
            Some(bytes) => {
                self.say(|| format!("  k{client} ← {}", clip(&String::from_utf8_lossy(&bytes))));
                let World { clients, book, rng, now, .. } = self;
                clients[client].handle_bytes(*now, &bytes, book, rng);
                self.grant(client);
            }
            None => self.lose_socket(client, 50, 2_000),
        }
    }

    /// A client's socket is gone, as the client sees it; it connects again within these bounds.
    pub fn lose_socket(&mut self, client: usize, low: u64, high: u64) {
        self.say(|| format!("  k{client} lost its stream"));
        self.sockets[client] = None;
        let World { clients, book, .. } = self;
        clients[client].cut(book);
        self.at(low, high, Event::Connect { client });
    }

    fn connect(&mut self, client: usize) {
        if self.sockets[client].is_some() || self.is_away(client) {
            if self.sockets[client].is_none() {
                self.at(200, 1_000, Event::Connect { client });
            }
            return;
        }
        let edges: Vec<usize> = (0..self.parties.len()).filter(|p| self.parties[*p].is_edge && self.parties[*p].up).collect();
        if edges.is_empty() {
            return self.at(100, 1_000, Event::Connect { client });
        }
        let party = edges[self.rng.random_range(0..edges.len())];
        self.next_slot += 1;
        let slot = self.next_slot;
        let id = self.plan.conn_id(party, slot);
        let seed: [u8; 32] = self.rng.random();
        let core = Connection::new(self.edge_settings.clone(), id, seed, self.clock(), Some(TlsInfo::default()));
        let conn = Conn { core, party, client_open: true, unread: VecDeque::new(), up_last: 0, down_last: 0 };
        self.conns.insert(slot, conn);
        self.sockets[client] = Some(slot);
        self.clients[client].connect(slot, self.now);
        self.say(|| format!("  k{client} connects as c{slot} to p{party}"));
        self.grant(client);
    }

    /// Does it stay away, by habit or because all do?
    fn is_away(&self, client: usize) -> bool {
        let late = self.quiet && !self.returned && self.plan.late(client);
        late || self.now < self.nobody_until || (!self.quiet && self.plan.away(client, self.now))
    }

    /// What a client wants done.
    pub fn grant(&mut self, client: usize) {
        for wish in self.clients[client].take_wishes() {
            match wish {
                Wish::Bytes(bytes) => {
                    let Some(slot) = self.sockets[client] else { continue };
                    let bytes = Bytes::from(bytes);
                    self.say(|| format!("  k{client} → {}", clip(&String::from_utf8_lossy(&bytes))));
                    let now = self.now + self.rng.random_range(0..=5);
                    if let Some(conn) = self.conns.get_mut(&slot) {
                        conn.up_last = conn.up_last.max(now);
                        let at = conn.up_last;
                        self.at_exactly(at, Event::ToServer { slot, bytes: Some(bytes) });
                    }
                }
                Wish::AckIn(ms) => {
                    let session = self.clients[client].session;
                    self.at(ms, ms, Event::Ack { client, session });
                }
                Wish::Drop(ms) => {
                    if let Some(slot) = self.sockets[client] {
                        self.at(0, 5, Event::ToServer { slot, bytes: None });
                    }
                    self.lose_socket(client, ms, ms + 500);
                }
            }
        }
    }

    fn act(&mut self, client: usize) {
        std::mem::swap(&mut self.rng, &mut self.habits);
        self.act_by_habit(client);
        std::mem::swap(&mut self.rng, &mut self.habits);
    }

    fn act_by_habit(&mut self, client: usize) {
        self.at(self.plan.pace_ms / 4, self.plan.pace_ms * 2, Event::Act { client });
        if self.clients[client].is_impatient(self.now) {
            self.cut_client(client, true);
            return;
        }
        let away = self.is_away(client);
        if self.clients[client].phase != Phase::Online {
            return;
        }
        if !self.quiet && !away {
            self.acts += 1;
            if !self.less.has_act(self.acts) {
                return;
            }
        }
        let World { clients, book, rng, now, quiet, .. } = self;
        let c = &mut clients[client];
        if *quiet && !away {
            c.settle();
            if rng.random_bool(0.3) {
                c.request_ack();
            }
        } else if away {
            c.close();
        } else {
            match rng.random_range(0..100) {
                0..2 => c.chat_in_vain(),
                2..70 => {
                    for _ in 0..rng.random_range(1..=3) {
                        c.chat(*now, true, book, rng);
                    }
                }
                70..75 => c.chat(*now, false, book, rng),
                75..85 => c.ask(*now, book, rng),
                85..92 => c.announce(),
                92..94 => c.close(),
                94..97 => c.keep(rng),
                _ => c.request_ack(),
            }
        }
        self.grant(client);
    }

    /// The socket of a client breaks; the server hears of it soon, late, or never.
    pub fn cut_client(&mut self, client: usize, hears: bool) {
        let Some(slot) = self.sockets[client] else { return };
        self.say(|| format!("  k{client} is cut off c{slot}"));
        // What is under way is lost, from here on or altogether.
        if hears {
            self.at(0, 50, Event::ToServer { slot, bytes: None });
        } else if let Some(conn) = self.conns.get_mut(&slot) {
            conn.client_open = false;
        }
        self.lose_socket(client, 10, 3_000);
    }

    /// A frame of the administrator.
    pub fn administer(&mut self, account: &BareJid, body: EdgeMsg) {
        let shard = rpc::shard_of(account.as_str(), self.plan.shards);
        let owner = self.owners[usize::from(shard.0)];
        let conn = ConnId { node: u16::MAX, plane: 0, slot: 0 };
        let from = FromEdge { conn, account: account.clone(), body };
        self.deliver(owner.party, Payload::Shard(Box::new(ToShard { shard, epoch: owner.epoch, body: ToShardBody::Edge(from) })));
    }
}

fn clip(text: &str) -> String {
    let mut out: String = text.chars().take(400).collect();
    out.retain(|c| c != '\n');
    out
}

fn brief(completion: &Completion) -> String {
    match completion {
        Completion::Read { id, result } => {
            format!("read {id:x}: {}", result.as_ref().map_or_else(ToString::to_string, |p| format!("{} cells", p.rows.len())))
        }
        other => format!("{other:?}"),
    }
}

fn brief_shard(frame: &ToShard) -> String {
    let head = format!("s{} e{}", frame.shard.0, frame.epoch.0);
    match &frame.body {
        ToShardBody::Edge(e) => format!("{head} c{} {} {}", e.conn.slot, e.account, clip(&format!("{:?}", e.body))),
        ToShardBody::Peer(p) => format!("{head} {} → {} {}", p.from, p.to, clip(&format!("{:?}", p.body))),
    }
}
