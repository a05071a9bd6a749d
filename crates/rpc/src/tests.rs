use super::*;
use frame::{EdgeMsg, FromEdge, Peer, PeerMsg, ShardMsg, ToShardBody};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use types::{Attach, BareJid, ConnId, Epoch, Origin, ReqId, SessionId, ShardId};

/// Flushes asked for; a test runs them by hand.
#[derive(Clone, Default)]
struct Turns(Arc<Mutex<Vec<Flush>>>, Arc<AtomicUsize>);
type Flush = Box<dyn Fn() -> Option<Duration> + Send>;

impl Turns {
    fn net(&self, planes: u16, shards: u16) -> LocalNet {
        let placement = Arc::new(Placement::new(ShardMap::on_one_node(0, shards, planes, Epoch(1))));
        LocalNet::new(0, planes, placement, None, |plane, flush| {
            assert_eq!(usize::from(plane), self.0.lock().unwrap().len());
            self.0.lock().unwrap().push(flush);
            let asked = Arc::clone(&self.1);
            Box::new(move || {
                asked.fetch_add(1, Ordering::SeqCst);
            })
        })
    }
    fn end(&self, plane: usize) -> Option<Duration> {
        self.0.lock().unwrap()[plane]()
    }
}

/// An inbox with room for `room` batches, and what it got.
type Batches<T> = Arc<Mutex<Vec<Vec<T>>>>;

fn inbox<T: Send + 'static>(room: usize) -> (Inbox<T>, Batches<T>) {
    let got = Arc::new(Mutex::new(Vec::new()));
    let put = Arc::clone(&got);
    let inbox = move |batch| {
        let mut got = put.lock().unwrap();
        if got.len() >= room {
            return Deliver::Full(batch);
        }
        got.push(batch);
        Deliver::Taken
    };
    (Box::new(inbox), got)
}

fn ask(shard: u16, n: u64) -> ToShard {
    let account = BareJid::parse("juliet@capulet.example").unwrap();
    let body = ToShardBody::Edge(FromEdge { conn: ConnId::default(), account, body: EdgeMsg::Credentials { req: ReqId(n) } });
    ToShard { shard: ShardId(shard), epoch: Epoch(1), body }
}

fn number(frame: &ToShard) -> u64 {
    match &frame.body {
        ToShardBody::Edge(FromEdge { body: EdgeMsg::Credentials { req }, .. }) => req.0,
        other => panic!("{other:?}"),
    }
}

fn confirm() -> ToShard {
    let jid = BareJid::parse("romeo@montague.example").unwrap();
    let body = PeerMsg::Confirm { origin: Origin::default() };
    let body = ToShardBody::Peer(Peer { from: jid.clone(), from_epoch: Epoch(1), from_shard: ShardId(0), to: jid, body });
    ToShard { shard: ShardId(0), epoch: Epoch(1), body }
}

fn again(plane: u16, slot: u64) -> ToEdge {
    ToEdge {
        conn: ConnId { node: 0, plane, slot },
        shard: ShardId(0),
        epoch: Epoch(1),
        body: ShardMsg::Outcome { session: SessionId::default(), attach: Attach(1), accepted: slot },
    }
}

#[test]
fn one_batch_per_turn_and_plane() {
    let turns = Turns::default();
    let net = turns.net(2, 8);
    let (take, got) = inbox(10);
    assert!(net.register_shard_host(1, take));
    let (take_edge, got_edge) = inbox(10);
    assert!(net.register_edge_hub(0, take_edge));
    let link = net.link(0);
    for n in 0..5 {
        link.to_shard(ask(1 + 2 * (n as u16 % 3), n)).unwrap();
    }
    link.to_edge(again(0, 7)).unwrap();
    assert_eq!(turns.1.load(Ordering::SeqCst), 1, "asked once in the turn");
    assert!(got.lock().unwrap().is_empty(), "nothing before its end");
    assert_eq!(turns.end(0), None);
    let batches: Vec<Vec<u64>> = got.lock().unwrap().iter().map(|b| b.iter().map(number).collect()).collect();
    assert_eq!(batches, [vec![0, 1, 2, 3, 4]]);
    assert_eq!(got_edge.lock().unwrap()[0][0].conn.slot, 7);
    link.to_shard(confirm()).unwrap();
    assert_eq!(turns.1.load(Ordering::SeqCst), 2);
}

#[test]
fn refuses_when_full_and_keeps_order() {
    let turns = Turns::default();
    let net = turns.net(1, 1);
    let link = net.link(0);
    // Nobody is registered yet: frames wait, then are refused, and come back.
    for n in 0..OUTGOING_FRAMES_MAX as u64 {
        link.to_shard(ask(0, n)).unwrap();
    }
    let refused = link.to_shard(ask(0, 9_999)).unwrap_err();
    assert_eq!((refused.reason, number(&refused.frame)), (RefusedReason::Full, 9_999));
    assert_eq!(turns.end(0), Some(RETRY_AFTER));
    assert_eq!(link.outgoing(), OUTGOING_FRAMES_MAX);
    let (take, got) = inbox(2);
    assert!(net.register_shard_host(0, take));
    assert!(!net.register_shard_host(0, Box::new(|_| Deliver::Gone)), "one host per plane");
    assert_eq!(turns.end(0), None);
    link.to_shard(ask(0, 1_024)).unwrap();
    assert_eq!(turns.end(0), None);
    // The inbox is full now: what follows waits behind, and goes in order when there is room.
    link.to_shard(ask(0, 1_025)).unwrap();
    assert_eq!(turns.end(0), Some(RETRY_AFTER));
    link.to_shard(ask(0, 1_026)).unwrap();
    let mut all: Vec<u64> = got.lock().unwrap().drain(..).flatten().map(|f| number(&f)).collect();
    assert_eq!(turns.end(0), None);
    all.extend(got.lock().unwrap().iter().flatten().map(number));
    assert_eq!(all, (0..=1_026).collect::<Vec<_>>());
}

#[test]
fn a_batch_is_bounded_within_a_turn() {
    let turns = Turns::default();
    let net = turns.net(1, 1);
    let (take, got) = inbox(100);
    net.register_shard_host(0, take);
    for n in 0..=BATCH_FRAMES_MAX as u64 {
        net.link(0).to_shard(ask(0, n)).unwrap();
    }
    assert_eq!(got.lock().unwrap().len(), 1);
    assert_eq!(net.link(0).outgoing(), 1);
}

#[test]
fn refuses_what_has_no_addressee() {
    let turns = Turns::default();
    let net = turns.net(1, 2);
    let link = net.link(0);
    let mut map = ShardMap::on_one_node(0, 2, 1, Epoch(1));
    map.owners[1] = None;
    assert_eq!(net.placement().replace(map.clone()), [ShardId(1)]);
    assert_eq!(link.to_shard(ask(1, 0)).unwrap_err().reason, RefusedReason::NoOwner);
    assert_eq!(link.to_shard(ask(77, 0)).unwrap_err().reason, RefusedReason::NoOwner);
    map.owners[1] = Some(Owner { node: 3, plane: 0, epoch: Epoch(2) });
    net.placement().replace(map);
    assert_eq!(link.to_shard(ask(1, 0)).unwrap_err().reason, RefusedReason::NoOwner, "no link to node 3");
    let mut elsewhere = again(0, 1);
    elsewhere.conn.node = 3;
    assert_eq!(link.to_edge(elsewhere).unwrap_err().reason, RefusedReason::NoOwner);
    assert_eq!(link.to_edge(again(9, 1)).unwrap_err().reason, RefusedReason::NoOwner);
    net.register_edge_hub(0, Box::new(|_| Deliver::Gone));
    link.to_edge(again(0, 1)).unwrap();
    link.flush();
    assert_eq!(link.to_edge(again(0, 1)).unwrap_err().reason, RefusedReason::Gone);
}

#[test]
fn shard_of_never_changes() {
    // On disk these decide where an account's rows are: a failure here is data that is not found again.
    for (jid, of_1024, of_16) in EXPECTED {
        assert_eq!((shard_of(jid, 1_024).0, shard_of(jid, 16).0), (*of_1024, *of_16), "{jid}");
    }
    let mut counts = [0_u32; 64];
    for n in 0..64_000 {
        counts[usize::from(shard_of(&format!("user{n}@example.org"), 64).0)] += 1;
    }
    assert!(counts.iter().all(|c| (800..1_200).contains(c)), "{counts:?}");
}

/// Computed by another program.
const EXPECTED: &[(&str, u16, u16)] = &[
    ("juliet@capulet.example", 1016, 8),
    ("romeo@montague.example", 447, 15),
    ("example.org", 175, 15),
    ("a@b", 816, 0),
    ("ünïcode@例え.example", 217, 9),
    ("user1@example.org", 996, 4),
    ("user2@example.org", 144, 0),
];
