//! Commit, then speak; one panic, one stanza; bounds. Two accounts on one host over a store that is stepped by hand.

use super::{Directory, Host, Out, Shared};
use entity::module::{Ctx, Flow, Hook, Module, Phase, Point, Work};
use entity::state::State;
use entity::{Pipeline, Settings};
use frame::{EdgeMsg, FromEdge, Peer, PeerMsg, ShardMsg, ToShard, ToShardBody};
use stanza::{Parsed, Stanza};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use store::memory::Plain;
use store::{Completion, Order, Page, Read, Store};
use types::limit::PARKED_INPUTS_MAX;
use types::{
    Attach, BareJid, Collection, ConnId, Epoch, Instant, Now, Origin, Partition, ReqId, SessionId, ShardId, Ticket, Timestamp, ns,
};

const EPOCH: Epoch = Epoch(1);

struct Here;

impl Directory for Here {
    fn shard_of(&self, _: &BareJid) -> ShardId {
        ShardId(0)
    }
    fn epoch(&self, _: ShardId) -> Option<Epoch> {
        Some(EPOCH)
    }
    fn is_local(&self, _: ShardId) -> bool {
        true
    }
}

/// Archives every message; panics at one that says so.
fn hook(_: &Ctx<'_>, _: &State, work: &mut Work) -> Flow {
    work.archive = true;
    let poison = work.stanza.child("body", ns::CLIENT).is_some_and(|b| b.text() == "poison");
    assert!(!poison, "as the test asked");
    Flow::Continue
}

const OUT: Hook = Hook { point: Point::Outbound, phase: Phase::Store, run: hook };
static MODULE: Module = Module { name: "test", hooks: &[OUT, Hook { point: Point::Inbound, ..OUT }], ..Module::EMPTY };

struct Bench {
    host: Host,
    store: Arc<Plain>,
    heard: Arc<Mutex<Vec<Completion>>>,
    now: Now,
}

impl Bench {
    fn new(order: Order) -> Bench {
        let store = Arc::new(Plain::stepped(order));
        let heard = Arc::new(Mutex::new(Vec::new()));
        let ears = heard.clone();
        let plane = store.register(Box::new(move |c| ears.lock().unwrap().push(c)));
        // On one journal edges and shards live and die together, so nobody is waited for after a start.
        let attaching = if order == Order::Journal { Duration::ZERO } else { Settings::default().attaching };
        let shared = Shared {
            store: store.clone(),
            plane,
            directory: Arc::new(Here),
            settings: Arc::new(Settings { domains: vec!["x".into()], attaching, ..Settings::default() }),
            pipeline: Arc::new(Pipeline::new(&[&MODULE])),
        };
        let mut bench = Bench { host: Host::new(shared), store, heard, now: Now { mono: Instant(1_000), wall: Timestamp(1_000_000) } };
        bench.host.take(bench.now, ShardId(0), EPOCH);
        bench.settle();
        bench
    }

    /// Everything that waits for the store happens.
    fn settle(&mut self) -> Vec<Out> {
        let mut out = Vec::new();
        loop {
            self.store.step_all();
            let heard = std::mem::take(&mut *self.heard.lock().unwrap());
            let idle = heard.is_empty();
            for completion in heard {
                self.host.handle_completion(self.now, completion);
            }
            let more = self.pump();
            if idle && more.is_empty() {
                return out;
            }
            out.extend(more);
        }
    }

    /// Frames between shards pass at once, as on one plane; those to edges are returned.
    fn pump(&mut self) -> Vec<Out> {
        let mut edges = Vec::new();
        loop {
            let out = self.host.take_out();
            if out.is_empty() {
                return edges;
            }
            for frame in out {
                match frame {
                    Out::Shard(frame) => self.host.handle_frame(self.now, frame),
                    edge => edges.push(edge),
                }
            }
        }
    }

    /// The shard's `live` index.
    fn live(&mut self) -> Page {
        let partition = Partition { collection: Collection::Live, key: 0u16.to_be_bytes().to_vec().into() };
        let plane = self.store.register({
            let ears = self.heard.clone();
            Box::new(move |c| ears.lock().unwrap().push(c))
        });
        self.store.read(plane, u64::MAX, Ticket::NONE, Read { partition, from: Default::default(), to: None, limit: 10, reverse: false });
        self.store.step_all();
        let heard = std::mem::take(&mut *self.heard.lock().unwrap());
        let page = heard.into_iter().find_map(|c| match c {
            Completion::Read { id: u64::MAX, result } => Some(result),
            _ => None,
        });
        page.expect("answered").expect("read")
    }

    fn edge(&mut self, who: &str, slot: u64, body: EdgeMsg) {
        let conn = ConnId { node: 0, plane: 0, slot };
        let from = FromEdge { conn, account: BareJid::parse(who).unwrap(), body };
        self.host.handle_frame(self.now, ToShard { shard: ShardId(0), epoch: EPOCH, body: ToShardBody::Edge(from) });
    }

    /// An account with one session with XEP-0198.
    fn session(&mut self, who: &str, slot: u64) -> SessionId {
        self.edge(who, slot, EdgeMsg::Create { req: ReqId(1), credentials: "keys".into() });
        self.edge(who, slot, EdgeMsg::Bind { req: ReqId(2), resource: Some("r".into()), random: [1; 16] });
        let out = self.settle();
        let session = said(&out).iter().find_map(|m| match m {
            ShardMsg::Bound { result: Ok(bound), .. } => Some(bound.session),
            _ => None,
        });
        let session = session.expect("bound");
        let enable = EdgeMsg::Enable { req: ReqId(3), session, attach: Attach(1), resume_secs: Some(60), random: [2; 16] };
        self.edge(who, slot, enable);
        self.settle();
        session
    }

    fn submit(&mut self, who: &str, slot: u64, session: SessionId, n: u64, xml: &str) {
        let submit = EdgeMsg::Submit { session, attach: Attach(1), n, attempt: 1, stanza: Arc::new(parse(xml, who)) };
        self.edge(who, slot, submit);
    }
}

fn parse(xml: &str, who: &str) -> Stanza {
    match Stanza::parse(xml.to_owned().into(), ns::CLIENT).unwrap() {
        Parsed::Stanza(s) => s.with_from(BareJid::parse(who).unwrap().with_resource("r").unwrap()),
        other => panic!("{other:?}"),
    }
}

fn said(out: &[Out]) -> Vec<ShardMsg> {
    out.iter().filter_map(|o| if let Out::Edge(e) = o { Some(e.body.clone()) } else { None }).collect()
}

fn delivered(out: &[Out]) -> Vec<String> {
    let outputs = said(out).into_iter().filter_map(|m| if let ShardMsg::Deliver { output, .. } = m { Some(output) } else { None });
    outputs.map(|o| String::from_utf8_lossy(&o.stanza.to_bytes()).into_owned()).collect()
}

fn accepted(out: &[Out]) -> Option<u64> {
    said(out).iter().rev().find_map(|m| if let ShardMsg::Outcome { accepted, .. } = m { Some(*accepted) } else { None })
}

const TO_ROMEO: &str = "<message to='romeo@x/r' type='chat'><body>hi</body></message>";

#[test]
fn nothing_is_said_before_it_is_durable() {
    for order in [Order::Journal, Order::PerBatch] {
        let mut b = Bench::new(order);
        let juliet = b.session("juliet@x", 1);
        b.session("romeo@x", 2);
        b.submit("juliet@x", 1, juliet, 1, TO_ROMEO);
        let early = b.pump();
        assert!(early.is_empty(), "{order:?}: said before the flush: {early:?}");
        assert!(b.store.waiting() > 0);
        let out = b.settle();
        assert_eq!(accepted(&out), Some(1), "{order:?}");
        assert_eq!(delivered(&out).len(), 1, "{order:?}");
    }
}

#[test]
fn a_login_waits_for_no_flush_but_who_hears_of_it_does() {
    let mut b = Bench::new(Order::Journal);
    b.session("romeo@x", 2);
    b.edge("juliet@x", 1, EdgeMsg::Create { req: ReqId(1), credentials: "keys".into() });
    b.settle();
    b.edge("juliet@x", 1, EdgeMsg::Bind { req: ReqId(2), resource: Some("r".into()), random: [1; 16] });
    let early = said(&b.pump());
    let [ShardMsg::Bound { result: Ok(bound), .. }] = &early[..] else { panic!("{early:?}") };
    let written = b.store.waiting();
    assert!(written > 0, "the session's row is on its way");
    b.submit("juliet@x", 1, bound.session, 1, "<presence to='romeo@x/r'/>");
    assert_eq!((delivered(&b.pump()).len(), b.store.waiting()), (0, written));
    assert_eq!(delivered(&b.settle()).len(), 1);
    // Nor does an older session of the account hear of a new one that a crash could make a ghost.
    b.edge("juliet@x", 3, EdgeMsg::Bind { req: ReqId(2), resource: Some("new".into()), random: [3; 16] });
    let early = said(&b.pump());
    let [ShardMsg::Bound { result: Ok(new), .. }] = &early[..] else { panic!("{early:?}") };
    let new = new.session;
    let written = b.store.waiting();
    b.submit("juliet@x", 3, new, 1, "<presence to='juliet@x/r'/>");
    assert_eq!((delivered(&b.pump()).len(), b.store.waiting()), (0, written));
    assert_eq!(delivered(&b.settle()).len(), 1);
    // One that can be resumed is promised something.
    let enable = EdgeMsg::Enable { req: ReqId(3), session: bound.session, attach: Attach(1), resume_secs: Some(60), random: [2; 16] };
    b.edge("juliet@x", 1, enable);
    assert!(b.pump().is_empty());
    assert!(said(&b.settle()).iter().any(|m| matches!(m, ShardMsg::Enabled { .. })));
    // Where edges outlive cores, every session is.
    let mut b = Bench::new(Order::PerBatch);
    b.edge("juliet@x", 1, EdgeMsg::Create { req: ReqId(1), credentials: "keys".into() });
    b.settle();
    b.edge("juliet@x", 1, EdgeMsg::Bind { req: ReqId(2), resource: Some("r".into()), random: [1; 16] });
    assert!(b.pump().is_empty());
    assert!(said(&b.settle()).iter().any(|m| matches!(m, ShardMsg::Bound { result: Ok(_), .. })));
}

#[test]
fn one_flush_from_sender_to_recipient() {
    let mut b = Bench::new(Order::Journal);
    let juliet = b.session("juliet@x", 1);
    b.session("romeo@x", 2);
    b.submit("juliet@x", 1, juliet, 1, TO_ROMEO);
    b.pump();
    // Both rows wait in the one journal: the forward went at once, with its ticket.
    let before = b.store.waiting();
    assert!(before >= 2, "{before} batches wait");
    b.store.step_all();
    let heard = std::mem::take(&mut *b.heard.lock().unwrap());
    for completion in heard {
        b.host.handle_completion(b.now, completion);
    }
    let out = b.pump();
    assert_eq!((accepted(&out), delivered(&out).len()), (Some(1), 1));
}

#[test]
fn a_panic_costs_one_stanza() {
    let mut b = Bench::new(Order::Journal);
    let juliet = b.session("juliet@x", 1);
    b.session("romeo@x", 2);
    b.submit("juliet@x", 1, juliet, 1, TO_ROMEO);
    b.settle();
    let poison = "<message to='romeo@x' type='chat' id='p'><body>poison</body></message>";
    b.submit("juliet@x", 1, juliet, 2, poison);
    let out = b.settle();
    assert!(said(&out).iter().any(|m| matches!(m, ShardMsg::Again { .. })), "the edge is asked for its copy: {out:?}");
    // What an edge does then: it hands its copy over, with the input that was not accepted.
    let copy = frame::SessionCopy {
        session: juliet,
        attach: Attach(1),
        jid: BareJid::parse("juliet@x").unwrap().with_resource("r").unwrap(),
        accepted: 1,
        inputs: vec![(2, Arc::new(parse(poison, "juliet@x")))],
        m: 0,
        m_acked: 0,
        pos: frame::Pos::default(),
        outputs: Vec::new(),
        soft: Arc::new(frame::Soft {
            sm: Some(frame::Sm { base_n: 0, base_m: 0, previd: Some("p".into()), resume_secs: 60 }),
            ..frame::Soft::default()
        }),
    };
    b.edge("juliet@x", 1, EdgeMsg::Reattach { req: ReqId(9), copy: Box::new(copy) });
    let again = EdgeMsg::Submit { session: juliet, attach: Attach(2), n: 2, attempt: 2, stanza: Arc::new(parse(poison, "juliet@x")) };
    b.edge("juliet@x", 1, again);
    let out = b.settle();
    let heard = delivered(&out);
    assert!(heard.iter().any(|s| s.contains("internal-server-error") && s.contains("id='p'")), "{heard:?}");
    assert_eq!(accepted(&out), Some(2), "and the stream goes on");
    let stanza = Arc::new(parse(TO_ROMEO, "juliet@x"));
    b.edge("juliet@x", 1, EdgeMsg::Submit { session: juliet, attach: Attach(2), n: 3, attempt: 1, stanza });
    assert_eq!(accepted(&b.settle()), Some(3));
}

#[test]
fn a_forward_that_panics_bounces_and_is_confirmed() {
    let mut b = Bench::new(Order::Journal);
    b.session("romeo@x", 2);
    let juliet = BareJid::parse("juliet@x").unwrap();
    let poison = Arc::new(parse("<message to='romeo@x' id='p'><body>poison</body></message>", "juliet@x"));
    let origin = |n| Origin { session: SessionId { epoch: 1, seq: 1 }, n, k: 0 };
    let forward = |b: &mut Bench, n: u64, stanza: &frame::SharedStanza| {
        let (origin, prev) = (origin(n), (n > 1).then(|| origin(n - 1)));
        let body = PeerMsg::Forward { origin, prev, ticket: Ticket::NONE, durable: true, stanza: stanza.clone() };
        let peer = Peer { from: juliet.clone(), from_epoch: EPOCH, from_shard: ShardId(0), to: BareJid::parse("romeo@x").unwrap(), body };
        b.host.handle_frame(b.now, ToShard { shard: ShardId(0), epoch: EPOCH, body: ToShardBody::Peer(peer) });
        // What goes back to juliet's account, before it gets there.
        loop {
            let out: Vec<Out> = b.host.take_out();
            let back = out.iter().filter_map(|o| match o {
                Out::Shard(ToShard { body: ToShardBody::Peer(p), .. }) => Some(p.body.clone()),
                _ => None,
            });
            let back: Vec<PeerMsg> = back.collect();
            if !back.is_empty() || b.store.waiting() == 0 {
                return back;
            }
            b.store.step_all();
            let heard = std::mem::take(&mut *b.heard.lock().unwrap());
            for completion in heard {
                b.host.handle_completion(b.now, completion);
            }
        }
    };
    let back = forward(&mut b, 1, &poison);
    assert!(matches!(&back[..], [PeerMsg::Refuse { .. }]), "the entity is gone with it: {back:?}");
    b.settle();
    let back = forward(&mut b, 1, &poison);
    assert!(matches!(&back[..], [PeerMsg::Request { .. }, ..]), "{back:?}");
    // It counts as received: what follows it is taken.
    let back = forward(&mut b, 2, &Arc::new(parse(TO_ROMEO, "juliet@x")));
    assert!(back.iter().any(|m| matches!(m, PeerMsg::Confirm { origin: o } if *o == origin(2))), "{back:?}");
}

/// It panics over the first of the inputs that waited while it loaded: the others wait again, and are not lost.
#[test]
fn what_waits_behind_a_panic_is_taken_later() {
    let mut b = Bench::new(Order::Journal);
    let body = PeerMsg::Forward {
        origin: Origin { session: SessionId { epoch: 1, seq: 1 }, n: 1, k: 0 },
        prev: None,
        ticket: Ticket::NONE,
        durable: true,
        stanza: Arc::new(parse("<message to='romeo@x' id='p'><body>poison</body></message>", "juliet@x")),
    };
    b.edge("romeo@x", 1, EdgeMsg::Create { req: ReqId(1), credentials: "keys".into() });
    let peer = Peer {
        from: BareJid::parse("juliet@x").unwrap(),
        from_epoch: EPOCH,
        from_shard: ShardId(0),
        to: BareJid::parse("romeo@x").unwrap(),
        body,
    };
    b.host.handle_frame(b.now, ToShard { shard: ShardId(0), epoch: EPOCH, body: ToShardBody::Peer(peer) });
    b.edge("romeo@x", 2, EdgeMsg::Credentials { req: ReqId(7) });
    let out = b.settle();
    let answered = |m: &ShardMsg| matches!(m, ShardMsg::Credentials { req: ReqId(7), answer: frame::CredentialsAnswer::Known(_) });
    assert!(said(&out).iter().any(answered), "{out:?}");
}

#[test]
fn while_an_entity_loads_its_inputs_park_within_a_bound() {
    let mut b = Bench::new(Order::Journal);
    for req in 0..=PARKED_INPUTS_MAX as u64 {
        b.edge("nobody@x", 7, EdgeMsg::Credentials { req: ReqId(req) });
    }
    let refused = b.pump();
    let busy = |m: &ShardMsg| matches!(m, ShardMsg::Credentials { answer: frame::CredentialsAnswer::Busy, .. });
    assert_eq!(said(&refused).iter().filter(|m| busy(m)).count(), 1, "the one beyond the bound");
    let answered = b.settle();
    let unknown = |m: &ShardMsg| matches!(m, ShardMsg::Credentials { answer: frame::CredentialsAnswer::Unknown, .. });
    assert_eq!(said(&answered).iter().filter(|m| unknown(m)).count(), PARKED_INPUTS_MAX);
}

#[test]
fn frames_of_another_epoch_are_dropped() {
    let mut b = Bench::new(Order::Journal);
    let from = FromEdge { conn: ConnId::default(), account: BareJid::parse("a@x").unwrap(), body: EdgeMsg::Credentials { req: ReqId(1) } };
    b.host.handle_frame(b.now, ToShard { shard: ShardId(0), epoch: Epoch(2), body: ToShardBody::Edge(from) });
    assert!(b.settle().is_empty());
}

#[test]
fn an_idle_entity_sleeps_and_wakes_as_it_was() {
    let mut b = Bench::new(Order::Journal);
    let juliet = b.session("juliet@x", 1);
    b.submit("juliet@x", 1, juliet, 1, "<message to='romeo@x' type='chat'><body>into the void</body></message>");
    b.settle();
    b.edge("juliet@x", 1, EdgeMsg::Close { session: juliet, attach: Attach(1) });
    b.settle();
    for _ in 0..10 {
        b.now.mono = b.now.mono + std::time::Duration::from_secs(30);
        b.now.wall = Timestamp(b.now.wall.0 + 30_000);
        b.host.handle_timer(b.now);
        b.settle();
    }
    assert_eq!(b.host.shards().flat_map(|s| s.accounts()).count(), 0, "all asleep");
    b.edge("juliet@x", 1, EdgeMsg::Credentials { req: ReqId(5) });
    let out = b.settle();
    assert!(matches!(&said(&out)[..], [ShardMsg::Credentials { answer: frame::CredentialsAnswer::Known(_), .. }]), "{out:?}");
}

/// A mark that one replica has may have been read by luck: the owner after this one may read the other two.
#[test]
fn without_one_order_a_new_owner_writes_the_marks_that_it_read() {
    let mut b = Bench::new(Order::PerBatch);
    b.session("romeo@x", 2);
    b.host.take(b.now, ShardId(0), Epoch(2));
    b.settle();
    let marks = b.live();
    let stamps: Vec<u64> = marks.rows.iter().map(|c| c.stamp >> 32).collect();
    assert_eq!(stamps, [2], "{marks:?}");
}

/// What it wrote last nobody waits for; if it slept, it would wake as it was before.
#[test]
fn nobody_sleeps_while_its_rows_are_not_durable() {
    let mut b = Bench::new(Order::Journal);
    let juliet = b.session("juliet@x", 1);
    b.edge("juliet@x", 1, EdgeMsg::Close { session: juliet, attach: Attach(1) });
    b.pump();
    assert!(b.store.waiting() > 0);
    let later = |b: &mut Bench| {
        b.now.mono = b.now.mono + Duration::from_secs(90);
        b.now.wall = Timestamp(b.now.wall.0 + 90_000);
        b.host.handle_timer(b.now);
    };
    for _ in 0..3 {
        later(&mut b);
        assert_eq!(b.host.shards().flat_map(|s| s.accounts()).count(), 1);
    }
    b.settle();
    for _ in 0..3 {
        later(&mut b);
        b.settle();
    }
    assert_eq!(b.host.shards().flat_map(|s| s.accounts()).count(), 0);
}
