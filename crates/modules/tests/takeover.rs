//! Sessions whose core has died: what the next owner makes of an edge's copy (`ARCHITECTURE.md`, When something dies).

use chappe_modules::pipeline;
use entity::session::{Link, TailRow};
use entity::testing::{World, jid};
use frame::{EdgeMsg, Output, SessionCopy, ShardMsg};
use stanza::{MessageType, Parsed, Stanza};
use std::sync::Arc;
use types::{Attach, Collection, ConnId, Partition, ReqId, SessionId};

/// Juliet with XEP-0198, Romeo, and what Juliet's edge holds of her session.
fn begin() -> (World, ConnId, SessionCopy) {
    let mut world = World::new(pipeline());
    world.run("juliet/balcony comes\njuliet/balcony enables\nromeo/orchard comes\njuliet/balcony fades");
    let (conn, copy) = held(&mut world);
    (world, conn, copy)
}

/// What Juliet's edge holds of her session.
fn held(world: &mut World) -> (ConnId, SessionCopy) {
    let s = &world.account(&jid("juliet")).state.sessions[0];
    let conn = s.conn().expect("attached");
    let copy = SessionCopy {
        session: s.id,
        attach: s.attach,
        jid: s.jid.clone(),
        accepted: s.accepted,
        inputs: Vec::new(),
        m: s.m,
        m_acked: s.m_acked,
        pos: s.pos,
        outputs: s.tail.iter().cloned().collect(),
        soft: s.soft.clone(),
    };
    (conn, copy)
}

fn reattach(world: &mut World, conn: ConnId, copy: &SessionCopy) {
    let msg = EdgeMsg::Reattach { req: ReqId(77), copy: Box::new(copy.clone()) };
    world.input(&jid("juliet"), |a, ctx, fx| a.handle_edge(ctx, conn, msg, fx));
}

fn submit(world: &mut World, conn: ConnId, session: SessionId, attach: Attach, n: u64, attempt: u8, stanza: Stanza) {
    let jid = jid("juliet");
    let from = world.account(&jid).state.session(session).map(|s| s.jid.clone()).expect("a session");
    let msg = EdgeMsg::Submit { session, attach, n, attempt, stanza: Arc::new(stanza.with_from(from)) };
    world.input(&jid, |a, ctx, fx| a.handle_edge(ctx, conn, msg, fx));
}

fn message(type_: MessageType) -> Stanza {
    Stanza::message(jid("romeo"), type_).with_id("1").with_body("hi")
}

fn state(world: &mut World, session: SessionId) -> (Attach, u64, Link) {
    let s = world.account(&jid("juliet")).state.session(session).expect("a session");
    (s.attach, s.taken, s.link)
}

const HI: &str = "romeo/orchard < <message from='juliet@x/balcony' to='romeo@x' type='chat' id='1'><body>hi</body>
    <stanza-id xmlns='urn:xmpp:sid:0' by='romeo@x' id='000000000001'/></message>";

/// Two owners died while they had it, of whatever: the next one carries it out, once its mark is durable.
#[test]
fn a_suspect_gets_its_chance() {
    let (mut world, conn, copy) = begin();
    world.act("store stops");
    submit(&mut world, conn, copy.session, copy.attach, copy.accepted + 1, 3, message(MessageType::Chat));
    assert_eq!(state(&mut world, copy.session).1, copy.accepted, "not before the mark is durable");
    // Asked for once more meanwhile.
    submit(&mut world, conn, copy.session, copy.attach, copy.accepted + 1, 3, message(MessageType::Chat));
    world.act("store answers");
    assert_eq!(state(&mut world, copy.session).1, copy.accepted + 1);
    world.run(HI);
}

/// Detached before the mark was durable: the session's row says that it was not taken, and so it is not.
#[test]
fn a_suspect_is_not_taken_behind_a_detach() {
    let (mut world, conn, copy) = begin();
    world.act("store stops");
    submit(&mut world, conn, copy.session, copy.attach, copy.accepted + 1, 3, message(MessageType::Chat));
    let msg = EdgeMsg::Detach { session: copy.session, attach: copy.attach };
    world.input(&jid("juliet"), |a, ctx, fx| a.handle_edge(ctx, conn, msg, fx));
    world.act("store answers");
    assert_eq!(state(&mut world, copy.session).1, copy.accepted);
    world.run("romeo/orchard hears nothing");
}

/// Two more died as well: it was begun, and never taken. It is poison.
#[test]
fn poison_is_refused() {
    let (mut world, conn, copy) = begin();
    world.act("store stops");
    let mut attach = copy.attach;
    for _ in 0..2 {
        submit(&mut world, conn, copy.session, attach, copy.accepted + 1, 3, message(MessageType::Chat));
        assert_eq!(state(&mut world, copy.session).1, copy.accepted);
        world.act("juliet reloads");
        reattach(&mut world, conn, &SessionCopy { attach, ..copy.clone() });
        attach = state(&mut world, copy.session).0;
    }
    let stanza = Arc::new(message(MessageType::Chat).with_from(copy.jid.clone()));
    let msg = EdgeMsg::Submit { session: copy.session, attach, n: copy.accepted + 1, attempt: 3, stanza };
    let heard = world.said(&jid("juliet"), |a, ctx, fx| a.handle_edge(ctx, conn, msg, fx));
    let refused = |m: &ShardMsg| match m {
        ShardMsg::Deliver { output, .. } => String::from_utf8_lossy(&output.stanza.to_bytes()).contains("internal-server-error"),
        _ => false,
    };
    assert!(heard.iter().any(refused), "{heard:?}");
    assert_eq!(state(&mut world, copy.session).1, copy.accepted + 1, "and the stream goes on");
    world.run("romeo/orchard hears nothing");
}

/// At most once: what passes may have been passed on by the owner that died.
#[test]
fn what_passes_is_not_passed_on_twice() {
    let (mut world, conn, copy) = begin();
    submit(&mut world, conn, copy.session, copy.attach, copy.accepted + 1, 2, message(MessageType::Headline));
    assert_eq!(state(&mut world, copy.session).1, copy.accepted + 1);
    world.run("romeo/orchard hears nothing");
    submit(&mut world, conn, copy.session, copy.attach, copy.accepted + 2, 2, message(MessageType::Chat));
    world.run(HI);
}

/// The answer to a re-attach was lost with its link: the edge offers the copy that it had then.
#[test]
fn a_reattach_is_repeated() {
    let (mut world, conn, copy) = begin();
    world.act("juliet reloads");
    reattach(&mut world, conn, &copy);
    reattach(&mut world, conn, &copy);
    let (attach, taken, link) = state(&mut world, copy.session);
    assert_eq!((attach, taken, link), (Attach(copy.attach.0 + 2), copy.accepted, Link::Attached(conn)));
    // Another connection that holds an old copy is not listened to.
    let other = ConnId { slot: conn.slot + 1_000, ..conn };
    reattach(&mut world, other, &copy);
    assert_eq!(state(&mut world, copy.session).2, Link::Attached(conn));
}

/// Its client heard that it cannot be resumed, and sends again what was not taken: a late edge must not bring it back, not
/// even to an owner that was told nothing of this.
#[test]
fn a_lost_session_stays_lost() {
    let (mut world, conn, copy) = begin();
    world.act("juliet reloads");
    world.act("wait 6");
    assert!(world.account(&jid("juliet")).state.session(copy.session).is_none(), "nobody came for it");
    world.act("juliet reloads");
    reattach(&mut world, conn, &copy);
    assert!(world.account(&jid("juliet")).state.session(copy.session).is_none());
}

/// A farewell was lost with the link that it was said on: nobody has the session, and it ends.
#[test]
fn a_lost_farewell_is_noticed() {
    let (mut world, conn, copy) = begin();
    world.input(&jid("juliet"), |a, ctx, fx| a.handle_link_renewed(ctx, &|c| c == conn, fx));
    reattach(&mut world, conn, &copy);
    world.act("wait 6");
    assert_eq!(state(&mut world, copy.session).2, Link::Attached(conn), "its edge has said that it has it");
    world.input(&jid("juliet"), |a, ctx, fx| a.handle_link_renewed(ctx, &|c| c == conn, fx));
    world.act("wait 6");
    assert!(matches!(state(&mut world, copy.session).2, Link::Detached { .. }));
}

/// Soft state reaches the edge before the input that it came from is accepted there, and so forgotten.
#[test]
fn state_is_kept_before_it_is_accepted() {
    let (mut world, conn, copy) = begin();
    let presence = Stanza::presence(None).with_from(copy.jid.clone());
    let n = copy.accepted + 1;
    let msg = EdgeMsg::Submit { session: copy.session, attach: copy.attach, n, attempt: 1, stanza: Arc::new(presence) };
    let said = world.said(&jid("juliet"), |a, ctx, fx| a.handle_edge(ctx, conn, msg, fx));
    let keep = said.iter().position(|m| matches!(m, ShardMsg::Keep { .. })).expect("kept");
    let outcome = said.iter().position(|m| matches!(m, ShardMsg::Outcome { accepted, .. } if *accepted == n)).expect("accepted");
    assert!(keep < outcome);
}

/// Juliet took a window of what Romeo had sent her, her core died, and he sends another message while she is awaited; her
/// edge's copy, and what is still to come.
fn busy() -> (World, ConnId, SessionCopy, Vec<String>) {
    let mut world = World::new(pipeline());
    world.create(&jid("juliet"));
    world.run("romeo/orchard comes");
    // As many are on their way at a time, beside her own presence.
    let window = entity::session::tail_stanzas_max() / 2 - 1;
    for i in 0..window + 3 {
        world.act(&format!("romeo/orchard > <message to='juliet@x' type='chat' id='{i}'><body>hi</body></message>"));
    }
    for step in ["juliet/balcony binds", "juliet/balcony enables", "juliet/balcony > <presence/>", "wait 120", "juliet/balcony fades"] {
        world.act(step);
    }
    let (conn, copy) = held(&mut world);
    world.act("juliet reloads");
    world.act("romeo/orchard > <message to='juliet@x/balcony' type='chat' id='late'><body>hi</body></message>");
    let rest = (window..window + 3).map(|i| i.to_string()).chain(["late".to_owned()]).collect();
    (world, conn, copy, rest)
}

/// The messages that a frame of her edge brings.
fn brings(world: &mut World, conn: ConnId, msg: EdgeMsg) -> Vec<String> {
    let said = world.said(&jid("juliet"), |a, ctx, fx| a.handle_edge(ctx, conn, msg, fx));
    let message = |m| match m {
        ShardMsg::Deliver { output, .. } => output.stanza.id.as_deref().map(str::to_owned),
        _ => None,
    };
    said.into_iter().filter_map(message).collect()
}

fn again(copy: &SessionCopy) -> EdgeMsg {
    EdgeMsg::Reattach { req: ReqId(77), copy: Box::new(copy.clone()) }
}

const NONE: [&str; 0] = [];

/// What comes while a session is awaited goes behind the older messages that its client has had no time for.
#[test]
fn what_comes_meanwhile_does_not_overtake() {
    let (mut world, conn, copy, rest) = busy();
    assert_eq!(brings(&mut world, conn, again(&copy)), NONE);
    // Nor when the next owner dies as well.
    world.act("juliet reloads");
    let copy = SessionCopy { attach: Attach(copy.attach.0 + 1), ..copy };
    assert_eq!(brings(&mut world, conn, again(&copy)), NONE);
    let acked = EdgeMsg::Acked { session: copy.session, attach: Attach(copy.attach.0 + 1), m: copy.m };
    assert_eq!(brings(&mut world, conn, acked), rest);
}

/// Nor is it taken for had because the session got a later one: it wants no old messages any more, but its own.
#[test]
fn what_waits_is_not_had() {
    let (mut world, conn, copy, rest) = busy();
    assert_eq!(brings(&mut world, conn, again(&copy)), NONE);
    let says = |world: &mut World, copy: &SessionCopy, n: u64, priority: &str| {
        let xml = format!("<presence><priority>{priority}</priority></presence>");
        let Ok(Parsed::Stanza(stanza)) = Stanza::parse(xml.into_bytes().into(), types::ns::CLIENT) else { panic!() };
        let stanza = Arc::new(stanza.with_from(copy.jid.clone()));
        let (session, attach) = (copy.session, copy.attach);
        brings(world, conn, EdgeMsg::Submit { session, attach, n, attempt: 1, stanza })
    };
    let (_, copy) = held(&mut world);
    assert_eq!(says(&mut world, &copy, copy.accepted + 1, "-1"), NONE);
    world.act("romeo/orchard > <message to='juliet@x/balcony' type='chat' id='later'><body>hi</body></message>");
    let (_, copy) = held(&mut world);
    assert_eq!(copy.outputs.last().and_then(|o| o.stanza.id.as_deref()), Some("later"));
    for died in 0..2 {
        world.act("juliet reloads");
        let copy = SessionCopy { attach: Attach(copy.attach.0 + died), ..copy.clone() };
        assert_eq!(brings(&mut world, conn, again(&copy)), NONE);
    }
    let (_, copy) = held(&mut world);
    let acked = EdgeMsg::Acked { session: copy.session, attach: copy.attach, m: copy.m };
    assert_eq!(brings(&mut world, conn, acked), NONE);
    assert_eq!(says(&mut world, &copy, copy.accepted + 1, "0"), rest);
}

/// What a session acknowledged is not given to the next one, though the owner dies right behind its end.
#[test]
fn what_was_had_is_not_given_to_the_next() {
    let mut world = World::new(pipeline());
    world.create(&jid("juliet"));
    world.run("romeo/orchard comes");
    world.act("romeo/orchard > <message to='juliet@x' type='chat' id='1'><body>hi</body></message>");
    for step in ["binds", "enables", "> <presence/>", "acks", "goes"] {
        world.act(&format!("juliet/balcony {step}"));
    }
    world.act("juliet reloads");
    for step in ["binds", "> <presence/>"] {
        world.act(&format!("juliet/chamber {step}"));
    }
    assert!(world.heard("juliet/chamber").iter().all(|s| s.id.as_deref() != Some("1")));
}

/// What an owner that died wrote for a detached session arrives when the next one has given its number anew: it is not taken
/// for a part of the tail.
#[test]
fn a_late_cell_of_a_dead_owner_is_none() {
    let mut world = World::new(pipeline());
    world.sealed = true;
    world.run("juliet/balcony comes\njuliet/balcony enables\nromeo/orchard comes\njuliet meets romeo");
    for step in ["juliet/balcony drops", "romeo/orchard > <presence><status>1</status></presence>"] {
        world.act(step);
    }
    let tail = |world: &mut World| -> Vec<String> {
        let s = &world.account(&jid("juliet")).state.sessions[0];
        s.tail.iter().map(|o| String::from_utf8_lossy(&o.stanza.to_bytes()).into_owned()).collect()
    };
    let (id, m) = {
        let s = &world.account(&jid("juliet")).state.sessions[0];
        (s.id, s.m)
    };
    let epoch = world.account(&jid("juliet")).state.epoch;
    world.act("juliet reloads");
    let before = tail(&mut world);
    assert!(before.iter().any(|s| s.contains("<status>1</status>")), "{before:?}");
    let late = Output { m: m + 1, pos: None, stanza: Arc::new(message(MessageType::Headline)) };
    let partition = Partition { collection: Collection::Account, key: jid("juliet").as_str().as_bytes().to_vec().into() };
    let cells = world.cells.get_mut(&partition).expect("its cells");
    cells.insert(TailRow::key(id, m + 1), TailRow::encode(&late, epoch));
    // It has a row, and therefore no cell that would replace the late one.
    world.act("romeo/orchard > <message to='juliet@x' type='chat' id='2'><body>new</body></message>");
    world.act("juliet reloads");
    let after = tail(&mut world);
    assert!(after.iter().any(|s| s.contains("new")) && !after.iter().any(|s| s.contains("<body>hi</body>")), "{after:?}");
}
