//! Whatever comes, in whatever order: nothing is submitted before a client is authenticated and bound, and numbers are dense.

use super::script::keys;
use super::settings;
use crate::core::{Connection, Output};
use bytes::Bytes;
use frame::{Bound, CredentialsAnswer, EdgeMsg, Reattached, ShardMsg, Sm, ToEdge};
use proptest::prelude::*;
use std::sync::Arc;
use std::time::Duration;
use stream::TlsInfo;
use types::{Attach, ConnId, Epoch, FullJid, Instant, Now, ReqId, SessionId, ShardId};

/// One thing that happens.
#[derive(Clone, Debug)]
enum Happens {
    Bytes(Vec<u8>),
    Text(&'static str),
    Frame { epoch: u32, kind: u8, req: u64, n: u64 },
    Placement(u32),
    Unreachable,
    Verified(bool),
    Derived(bool),
    Tls,
    Passes(u64),
    Drain,
    Closed,
}

const TEXTS: &[&str] = &[
    "<stream:stream to='im.example' version='1.0' xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>",
    "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AGp1bGlldAByMG0zMG15cjBtMzA=</auth>",
    "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='SCRAM-SHA-1'/>",
    "<iq type='set' id='1'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>",
    "<resume xmlns='urn:xmpp:sm:3' h='0' previd='x'/>",
    "<enable xmlns='urn:xmpp:sm:3' resume='true'/>",
    "<r xmlns='urn:xmpp:sm:3'/>",
    "<a xmlns='urn:xmpp:sm:3' h='1'/>",
    "<message to='romeo@im.example'><body>hi</body></message>",
    "<presence/>",
    "<iq type='get' id='2'/>",
    "<message to='@'/>",
    "<inactive xmlns='urn:xmpp:csi:0'/>",
    "<iq type='set' id='3'><query xmlns='jabber:iq:register'><username>juliet</username><password>x</password></query></iq>",
    "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>",
    "</stream:stream>",
    "<",
    " ",
];

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        1 => prop::collection::vec(any::<u8>(), 0..40).prop_map(Happens::Bytes),
        // In the order of a sound session more often than not, so that much of it is reached.
        8 => prop::sample::select(TEXTS).prop_map(Happens::Text),
        8 => (1..3u32, 0..12u8, 0..12u64, 0..6u64).prop_map(|(epoch, kind, req, n)| Happens::Frame { epoch, kind, req, n }),
        1 => (1..4u32).prop_map(Happens::Placement),
        1 => Just(Happens::Unreachable),
        2 => any::<bool>().prop_map(Happens::Verified),
        1 => any::<bool>().prop_map(Happens::Derived),
        1 => Just(Happens::Tls),
        1 => (0..100_000u64).prop_map(Happens::Passes),
        1 => Just(Happens::Drain),
        1 => Just(Happens::Closed),
    ]
}

/// A sound session, so that what follows by chance meets one.
fn beginning() -> Vec<Happens> {
    let frame = |kind, req| Happens::Frame { epoch: 1, kind, req, n: 0 };
    let text = |i: usize| Happens::Text(TEXTS[i]);
    vec![text(0), text(1), frame(0, 1), Happens::Verified(true), text(0), text(3), frame(1, 2), text(5), frame(2, 3)]
}

struct World {
    c: Connection,
    now: Now,
    /// What frames the connection may trust: the shard really said that it is authenticated, and bound.
    proved: bool,
    bound: bool,
    next: u64,
    attach: u32,
}

const SESSION: SessionId = SessionId { epoch: 1, seq: 1 };

impl World {
    fn frame(&mut self, epoch: u32, kind: u8, req: u64, n: u64) {
        let (session, attach, req) = (SESSION, Attach(self.attach), ReqId(req));
        let sm = Sm { base_n: self.next - 1, base_m: 0, previd: Some("x".into()), resume_secs: 1 };
        let output = frame::Output { m: n, pos: None, stanza: Arc::new(stanza::Stanza::presence(None)) };
        let jid = FullJid::parse("juliet@im.example/r").unwrap();
        let body = match kind {
            0 => ShardMsg::Credentials { req, answer: CredentialsAnswer::Known(Bytes::from(keys().encode())) },
            1 => ShardMsg::Bound { req, result: Ok(Bound { session, attach, jid }) },
            2 => ShardMsg::Enabled { req, session, attach, sm },
            3 => ShardMsg::ResumeFailed { req, h: None },
            4 => ShardMsg::Reattached { req, answer: Some(Reattached { session, attach, accepted: n, adopted: n.is_multiple_of(2) }) },
            5 => ShardMsg::Reattached { req, answer: None },
            6 => ShardMsg::Outcome { session, attach, accepted: n },
            7 => ShardMsg::Refused { session, attach, n },
            8 => ShardMsg::Deliver { session, attach, output },
            9 => ShardMsg::Again { session },
            10 => ShardMsg::Ended { session, attach, reason: frame::EndReason::Conflict },
            _ => ShardMsg::AccountDone { req, result: Ok(()) },
        };
        let was = self.c.session().is_some();
        self.c.handle_frame(self.now, ToEdge { conn: ConnId::default(), shard: ShardId(0), epoch: Epoch(epoch), body });
        self.bound |= kind == 1 && !was && self.c.session().is_some();
        // A shard is believed about what the client has sent, also if it has not been submitted to it under this attach.
        if let Some(s) = self.c.session.as_deref() {
            self.next = self.next.max(s.accepted + 1);
        }
    }

    fn happens(&mut self, happens: Happens) {
        let now = self.now;
        match happens {
            Happens::Bytes(bytes) => self.c.handle_bytes(now, &bytes),
            Happens::Text(text) => self.c.handle_bytes(now, text.as_bytes()),
            Happens::Frame { epoch, kind, req, n } => self.frame(epoch, kind, req, n),
            Happens::Placement(epoch) => self.c.handle_placement(now, ShardId(0), Epoch(epoch)),
            Happens::Unreachable => self.c.handle_unreachable(now),
            Happens::Verified(ok) => {
                let before = self.c.account().is_some();
                self.c.handle_plain_verified(now, ok);
                self.proved |= ok && !before && self.c.account().is_some();
            }
            Happens::Derived(ok) => {
                let credentials = if ok { Ok(Bytes::from(keys().encode())) } else { Err(sasl::SaslError::Password) };
                self.c.handle_derived(now, credentials);
            }
            Happens::Tls => self.c.handle_tls(now, TlsInfo::default()),
            Happens::Passes(ms) => {
                self.now.mono = Instant(self.now.mono.0 + ms);
                self.c.handle_timeout(self.now);
            }
            Happens::Drain => self.c.handle_drain(now),
            Happens::Closed => self.c.handle_closed(now),
        }
        // A fault of the connection would be an endless stream of outputs.
        for _ in 0..10_000 {
            let Some(output) = self.c.poll_output() else {
                assert!(self.c.next_timeout() > self.now.mono);
                return;
            };
            let Output::Frame { body, account } = output else { continue };
            match body {
                EdgeMsg::Submit { n, attempt, stanza, .. } => {
                    assert!(self.proved && self.bound, "submitted {n} before authentication and binding");
                    assert!((1..=3).contains(&attempt) && n >= 1 && n <= self.next, "{n}, attempt {attempt}, next {}", self.next);
                    assert!(stanza.from.as_ref().is_some_and(|from| from.to_bare() == account));
                    self.next = self.next.max(n + 1);
                }
                EdgeMsg::Reattach { copy, .. } => {
                    assert!(self.bound);
                    let numbers: Vec<u64> = copy.inputs.iter().map(|(n, _)| *n).collect();
                    let dense: Vec<u64> = (copy.accepted + 1..).take(numbers.len()).collect();
                    assert_eq!(numbers, dense);
                    // Whoever takes the copy may accept what is in it.
                    self.next = self.next.max(copy.accepted + numbers.len() as u64 + 1);
                }
                EdgeMsg::Bind { .. } | EdgeMsg::Resume { .. } | EdgeMsg::Enable { .. } => assert!(self.proved),
                _ => {}
            }
        }
        panic!("outputs without end");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn nothing_is_submitted_before_its_time(
        direct in any::<bool>(),
        sound in any::<bool>(),
        events in prop::collection::vec(happens(), 0..60),
    ) {
        let mut settings = settings();
        settings.registration = true;
        settings.idle_timeout = Duration::from_secs(60);
        let now = Now { mono: Instant(1_000), ..Now::default() };
        let tls = (direct || sound).then(TlsInfo::default);
        let c = Connection::new(Arc::new(settings), ConnId::default(), [1; 32], now, tls);
        let mut world = World { c, now, proved: false, bound: false, next: 1, attach: 1 };
        for event in sound.then(beginning).into_iter().flatten().chain(events) {
            world.happens(event);
        }
        if sound {
            prop_assert!(world.proved && world.bound);
        }
    }
}
