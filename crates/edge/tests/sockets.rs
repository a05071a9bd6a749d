//! The shell over real sockets on loopback: logins, pushing back, bounds, limits, draining.

mod support;

use chappe_edge as edge;
use chappe_edge::{FailureRate, Limits, Rate};
use frame::{EdgeMsg, FromEdge, ToShard, ToShardBody};
use rpc::{Link, ShardMap};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;
use support::{Client, PASSWORD, WAIT, World, now, passed};
use types::{Epoch, limit};

fn limits() -> Limits {
    Limits::without_rates()
}

/// Run a future of the handle's.
fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

const MESSAGE: &str = "<message to='juliet@im.example' type='chat'><body>hi</body></message>";

#[test]
fn logs_in_over_starttls_and_over_direct_tls() {
    let world = World::new(limits());
    for mut client in [world.starttls(), world.direct()] {
        world.shards.state.lock().unwrap().seen.clear();
        client.login("romeo");
        client.send(MESSAGE);
        world.shards.wait("a message", |s| s.seen.contains(&"submit 1".into()));
        world.deliver("romeo", 1, "good night").unwrap();
        client.expect("<body>good night</body></message>");
        client.send("</stream:stream>");
        assert!(client.rest().ends_with("</stream:stream>"));
        world.shards.wait("the session to end", |s| s.seen.contains(&"close".into()));
        let seen = world.shards.state.lock().unwrap().seen.clone();
        assert_eq!(seen, ["credentials", "login true", "bind", "submit 1", "close"]);
    }
    world.wait_for_connections(0);
    assert_eq!(world.edge.counts().accepted, 2);
}

#[test]
fn binds_by_the_certificate_too() {
    // XEP-0440 §4: a client that knows only tls-server-end-point.
    let world = World::new(limits());
    let mut client = world.direct();
    let der = client.socket.conn.peer_certificates().unwrap()[0].to_vec();
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &der).as_ref().to_vec();
    client.login_bound("romeo", sasl::ChannelBinding::TlsServerEndPoint(hash));
}

#[test]
fn a_stream_moves_to_the_plane_of_its_account() {
    const STREAMS: usize = 24;
    let world = World::new(limits());
    let mut clients: Vec<_> = (0..STREAMS)
        .map(|n| {
            let name = format!("user{n}");
            world.add_account(&name);
            // The kernel chooses where it begins: that the sixteen that must be right are so by chance is one in 65,000.
            let mut client = if n % 2 == 0 { world.direct() } else { world.starttls() };
            if n % 3 == 0 {
                // One that knows no account of this name goes where that would be, and stays there.
                client.plain(&format!("nobody{n}"), "guess");
                client.expect("</failure>");
            }
            client.login(&name);
            (name, client)
        })
        .collect();
    world.wait_for_connections(STREAMS);
    for (n, (name, client)) in clients.iter_mut().enumerate() {
        let (conn, shard, _) = world.shards.state.lock().unwrap().sessions[&format!("{name}@im.example")];
        let owner = world.net.placement().current().owner(shard).unwrap();
        assert!(n % 3 == 0 || conn.plane == owner.plane, "{name}: {conn:?} {owner:?}");
        client.send(MESSAGE);
        world.shards.wait("a message", |s| s.sessions[&format!("{name}@im.example")].2 == 1);
        world.deliver(name, 1, "good night").unwrap();
        client.expect("<body>good night</body></message>");
    }
    assert_eq!(world.edge.counts().accepted, STREAMS);
    drop(clients);
    world.wait_for_connections(0);
    world.shards.wait("all sessions to end", |s| s.seen.iter().filter(|w| *w == "close" || *w == "detach").count() == STREAMS);
}

#[test]
fn plain_is_verified_off_the_plane() {
    let world = World::new(limits());
    let mut client = world.direct();
    client.plain("romeo", "wrong");
    client.expect("<not-authorized/></failure>");
    client.plain("romeo", PASSWORD);
    client.expect("<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'");
    client.bind();
    let seen = world.shards.state.lock().unwrap().seen.clone();
    assert_eq!(seen, ["credentials", "login false", "credentials", "login true", "bind"]);
}

#[test]
fn a_lost_socket_detaches_the_session() {
    let world = World::new(limits());
    let mut client = world.direct();
    client.login("romeo");
    client.enable();
    drop(client);
    world.shards.wait("detach", |s| s.seen.contains(&"detach".into()));
    world.wait_for_connections(0);
}

#[test]
fn bytes_behind_starttls_close_the_connection() {
    // RFC 6120 §5.4.3.3 and CVE-2011-0411: what came in the clear is not taken for what came secured.
    let world = World::new(limits());
    let mut client = Client::new(world.connect(0));
    client.open();
    client.send("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/><auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AHIAcg==</auth>");
    let rest = client.rest();
    assert!(!rest.contains("<proceed"), "{rest}");
    assert!(!rest.contains("<success"), "{rest}");
    drop(client);
    world.wait_for_connections(0);
}

#[test]
fn what_is_no_tls_is_told_so_on_the_direct_port() {
    let world = World::new(limits());
    let mut client = Client::new(world.connect(1));
    client.send("<?xml version='1.0'?><stream:stream to='im.example'");
    let mut alert = Vec::new();
    client.socket.read_to_end(&mut alert).unwrap();
    assert_eq!(alert.first(), Some(&21), "{alert:?}");
    drop(client);
    world.wait_for_connections(0);
}

#[test]
fn a_handshake_has_its_time() {
    let world = World::new(Limits { tls_handshake_max: Duration::from_millis(100), ..limits() });
    let mut silent = world.connect(1);
    assert_eq!(silent.read(&mut [0; 16]).unwrap_or(0), 0);
    world.wait_for_connections(0);
    assert_eq!(world.shards.count(""), 0);
}

#[test]
fn reads_no_more_than_the_edge_may_hold() {
    let world = World::new(limits());
    let mut client = world.starttls();
    client.login("romeo");
    world.shards.state.lock().unwrap().withhold = true;
    // Far more than the socket buffers take: sending must come to a halt.
    let body = "x".repeat(8_000);
    let message = format!("<message to='juliet@im.example' type='chat'><body>{body}</body></message>");
    // A write of this client may also try to read.
    client.socket.sock.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    client.socket.sock.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut sent = 0_usize;
    let mut rest: &[u8] = &[];
    let halted = loop {
        if rest.is_empty() {
            rest = message.as_bytes();
            sent += 1;
        }
        match client.socket.write(rest) {
            Ok(n) => rest = &rest[n..],
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break true,
            Err(e) => panic!("{e}"),
        }
        if sent > 20_000 {
            break false;
        }
    };
    assert!(halted, "the edge went on reading");
    // 256 KiB are reached before 64 stanzas; the one that reaches it is still taken.
    let held = limit::INPUTS_HELD_BYTES_MAX / message.len() + 1;
    world.shards.wait("inputs", |s| s.seen.iter().any(|s| s.starts_with("submit ")));
    std::thread::sleep(Duration::from_millis(200));
    let submitted = world.shards.count("submit ");
    assert!(submitted <= held + 1 && submitted >= held - 2, "{submitted} of about {held}");
    // Small ones are bounded by number: a second client.
    world.add_account("mercutio");
    let mut other = world.direct();
    other.login("mercutio");
    let before = world.shards.count("submit ");
    for _ in 0..200 {
        other.send(MESSAGE);
    }
    world.shards.wait("64 inputs", |s| s.seen.iter().filter(|s| s.starts_with("submit ")).count() >= before + limit::INPUTS_HELD_MAX);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(world.shards.count("submit "), before + limit::INPUTS_HELD_MAX);
}

/// A client that reads nothing, while its shard goes on delivering; what was delivered.
fn deliver_to_a_deaf_client(world: &World) -> usize {
    let mut client = world.direct();
    client.login("romeo");
    client.enable();
    let body = "y".repeat(16_000);
    let start = now();
    let mut m = 0;
    while world.edge.counts().connections > 0 {
        assert!(passed(start) < WAIT, "still open after {m} messages");
        if m < 4_000 {
            for _ in 0..20 {
                m += 1;
                let _ = world.deliver("romeo", m, &body);
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    world.shards.wait("detach", |s| s.seen.contains(&"detach".into()));
    drop(client);
    m as usize * body.len()
}

#[test]
fn a_burst_in_a_busy_moment_ends_no_stream() {
    const MESSAGES: u64 = 4_000;
    let world = World::new(limits());
    let mut client = world.direct();
    client.login("romeo");
    // Its actor gets no turn while its shard delivers.
    let (conn, ..) = world.shards.state.lock().unwrap().sessions["romeo@im.example"];
    let (go_on, busy) = mpsc::sync_channel::<()>(0);
    let until = move || assert!(busy.recv_timeout(WAIT).is_err());
    assert!(world.planes.run_on(conn.plane, until));
    for m in 1..=MESSAGES {
        world.deliver("romeo", m, &m.to_string()).unwrap();
    }
    drop(go_on);
    let got = client.expect(&format!("<body>{MESSAGES}</body></message>"));
    assert_eq!(got.matches("<body>").count() as u64, MESSAGES);
}

#[test]
fn a_slow_reader_gets_everything_in_order() {
    const MESSAGES: u64 = 100;
    let world = World::new(Limits { write_backlog_bytes_max: usize::MAX, write_stall_max: WAIT, ..limits() });
    let socket = world.connect(1);
    // What the client's kernel does not take waits at the edge.
    socket2::SockRef::from(&socket).set_recv_buffer_size(64 * 1024).unwrap();
    let mut client = Client::new(world.tls(socket, &[b"xmpp-client"]));
    client.open();
    client.login("romeo");
    client.enable();
    // Half of them at once: megabytes wait for the client, who changes its keys meanwhile, and speaks.
    let body = |m: u64| format!("{m}:{}", "z".repeat(40_000));
    let deliver = |numbers: std::ops::RangeInclusive<u64>| numbers.for_each(|m| while world.deliver("romeo", m, &body(m)).is_err() {});
    deliver(1..=MESSAGES / 2);
    client.socket.conn.refresh_traffic_keys().unwrap();
    client.send(MESSAGE);
    for m in 1..=MESSAGES / 4 {
        assert!(client.expect("</message>").contains(&format!("<body>{}</body>", body(m))), "{m}");
    }
    deliver(MESSAGES / 2 + 1..=MESSAGES);
    for m in MESSAGES / 4 + 1..=MESSAGES {
        assert!(client.expect("</message>").contains(&format!("<body>{}</body>", body(m))), "{m}");
    }
    world.shards.wait("a message", |s| s.seen.iter().any(|s| s.starts_with("submit ")));
    // It closes its half without a word: the session can be resumed, and the edge closes the other half.
    client.socket.sock.shutdown(std::net::Shutdown::Write).unwrap();
    world.shards.wait("detach", |s| s.seen.contains(&"detach".into()));
    client.rest();
    world.wait_for_connections(0);
}

#[test]
fn a_slow_reader_is_closed_at_the_bound() {
    let world = World::new(Limits { write_backlog_bytes_max: 256 * 1024, write_stall_max: WAIT, ..limits() });
    let delivered = deliver_to_a_deaf_client(&world);
    assert!(delivered > 256 * 1024, "{delivered}");
}

#[test]
fn a_stuck_reader_is_closed_in_time() {
    let limits = Limits { write_backlog_bytes_max: usize::MAX, write_stall_max: Duration::from_millis(300), ..limits() };
    deliver_to_a_deaf_client(&World::new(limits));
}

#[test]
fn connections_are_counted_per_address_and_in_all() {
    for limits in [Limits { connections_per_address_max: Some(3), ..limits() }, Limits { connections_max: Some(3), ..limits() }] {
        let world = World::new(limits);
        let open: Vec<TcpStream> = (0..3).map(|_| world.connect(0)).collect();
        world.wait_for_connections(3);
        let mut one_too_many = world.connect(0);
        assert_eq!(one_too_many.read(&mut [0; 16]).unwrap_or(0), 0, "closed");
        assert_eq!(world.edge.counts().refused, 1);
        drop(open);
        world.wait_for_connections(0);
        Client::new(world.connect(0)).open();
    }
}

#[test]
fn a_rate_slows_reading_and_loses_nothing() {
    let rate = Rate { per_second: 100_000, burst: 20_000 };
    for limits in [
        Limits { bytes_per_connection: Some(rate), ..limits() },
        Limits { bytes_per_address: Some(rate), ..limits() },
        Limits { stanzas_per_connection: Some(Rate { per_second: 40, burst: 5 }), ..limits() },
        Limits { stanzas_per_address: Some(Rate { per_second: 40, burst: 5 }), ..limits() },
    ] {
        let world = World::new(limits);
        let mut client = world.direct();
        client.login("romeo");
        let message = format!("<message to='juliet@im.example' type='chat'><body>{}</body></message>", "z".repeat(4_000));
        let start = now();
        // 100 KB or 25 stanzas beyond a burst: between 0.5 and 1 s at the rate.
        for _ in 0..30 {
            client.send(&message);
        }
        world.shards.wait("all of them", |s| s.seen.contains(&"submit 30".into()));
        let took = passed(start);
        assert!(took >= Duration::from_millis(400), "{took:?} with {limits:?}");
        assert!(took < Duration::from_secs(8), "{took:?} with {limits:?}");
        assert_eq!(world.shards.count("submit "), 30);
    }
}

#[test]
fn an_address_that_guesses_passwords_is_put_off() {
    let every = Duration::from_secs(2);
    let world = World::new(Limits { login_failures_per_address: Some(FailureRate { every, burst: 3 }), ..limits() });
    // On connections that come and go, for accounts that exist and that do not.
    for name in ["romeo", "nobody", "romeo"] {
        let mut client = world.direct();
        client.plain(name, "wrong");
        client.expect("<not-authorized/></failure>");
    }
    let last = now();
    let asked = world.shards.count("credentials");
    assert_eq!(asked, 3);
    let mut client = world.starttls();
    client.plain("romeo", PASSWORD);
    client.expect("<temporary-auth-failure/></failure>");
    assert_eq!(world.shards.count("credentials"), asked, "no shard is asked");
    // What was put off did not fail, so one failure is forgiven in its time; meanwhile nobody is told more.
    while passed(last) < every + Duration::from_millis(200) {
        std::thread::sleep(Duration::from_millis(50));
    }
    client.plain("romeo", PASSWORD);
    client.expect("<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'");
    assert_eq!(world.shards.count("login false"), 2, "nobody counts the failures of nobody's account");
}

#[test]
fn a_new_owner_gets_the_edges_copy() {
    let world = World::new(limits());
    let mut client = world.direct();
    client.login("romeo");
    world.shards.state.lock().unwrap().withhold = true;
    client.send(MESSAGE);
    world.shards.wait("a message", |s| s.seen.contains(&"submit 1".into()));
    let changed = world.net.placement().replace(ShardMap::on_one_node(0, 16, 2, Epoch(2)));
    assert_eq!(changed.len(), 16);
    block_on(world.edge.placement_changed(&changed));
    world.shards.wait("the copy", |s| s.seen.contains(&"reattach 1 inputs".into()));
}

#[test]
fn what_a_link_refuses_is_held_and_said_in_order() {
    let world = World::new(limits());
    let mut client = world.direct();
    client.login("romeo");
    world.shards.stuck.store(true, Ordering::SeqCst);
    // Fill what may wait for the shard's host, from the plane of this client.
    let (conn, shard, _) = world.shards.state.lock().unwrap().sessions["romeo@im.example"];
    let link = world.net.link(conn.plane);
    let account = types::BareJid::parse("romeo@im.example").unwrap();
    let noise = || {
        let body = EdgeMsg::LoginEnded { ok: false };
        let body = ToShardBody::Edge(FromEdge { conn, account: account.clone(), body });
        ToShard { shard, epoch: Epoch(1), body }
    };
    while link.to_shard(noise()).is_ok() {}
    assert!(link.outgoing() >= rpc::OUTGOING_FRAMES_MAX);
    for _ in 0..limit::INPUTS_HELD_MAX {
        client.send(MESSAGE);
    }
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(world.shards.count("submit "), 0);
    world.shards.stuck.store(false, Ordering::SeqCst);
    world.shards.wait("all inputs", |s| s.seen.contains(&"submit 64".into()));
    let state = world.shards.state.lock().unwrap();
    let submits: Vec<_> = state.seen.iter().filter(|s| s.starts_with("submit ")).cloned().collect();
    assert_eq!(submits, (1..=64).map(|n| format!("submit {n}")).collect::<Vec<_>>());
}

#[test]
fn a_panic_ends_one_stream_alone() {
    let (provider, roots) = support::certificate();
    let broken = Arc::new(AtomicBool::new(false));
    let breaks = Arc::clone(&broken);
    let provider: edge::TlsProvider = Arc::new(move || {
        assert!(!breaks.load(Ordering::SeqCst), "on purpose");
        provider()
    });
    let world = World::with_tls(limits(), |_| {}, provider, roots);
    // On both planes.
    let mut others: Vec<_> = (0..8).map(|_| Client::new(world.connect(0))).collect();
    others.iter_mut().for_each(Client::open);
    broken.store(true, Ordering::SeqCst);
    for mut client in others.drain(..4) {
        client.send("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>");
        client.rest();
    }
    world.wait_for_connections(4);
    broken.store(false, Ordering::SeqCst);
    for mut client in others {
        client.send("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>");
        client.expect("<proceed");
    }
    assert!(world.edge.is_alive());
}

#[test]
fn draining_tells_everybody_and_ends() {
    let world = World::new(limits());
    let mut clients: Vec<_> = ["a", "b", "c", "d", "e"]
        .iter()
        .map(|name| {
            world.add_account(name);
            let mut client = world.direct();
            client.login(name);
            client.enable();
            client
        })
        .collect();
    let clear = world.connect(0);
    world.wait_for_connections(6);
    let address = world.edge.addresses()[0];
    let edge = world.edge.clone();
    let drained = std::thread::spawn(move || block_on(edge.drain(1_000, WAIT)));
    for client in &mut clients {
        let rest = client.rest();
        assert!(rest.contains("<system-shutdown") && rest.ends_with("</stream:stream>"), "{rest}");
    }
    drop(clients);
    drop(clear);
    assert_eq!(drained.join().unwrap(), 0);
    assert_eq!(world.shards.count("detach"), 5, "every session can be resumed");
    assert!(TcpStream::connect(address).is_err(), "nobody listens");
}

#[test]
fn new_limits_hold_for_new_connections() {
    let world = World::new(limits());
    let kept = world.connect(0);
    world.wait_for_connections(1);
    let settings = Arc::new(edge::core::Settings::new(vec![types::BareJid::parse("im.example").unwrap()]));
    world.edge.reload(edge::Live { settings, limits: Limits { connections_max: Some(1), ..limits() } });
    let mut refused = world.connect(0);
    assert_eq!(refused.read(&mut [0; 16]).unwrap_or(0), 0);
    let mut kept = Client::new(kept);
    kept.open();
}

#[test]
fn silence_counts_from_the_last_word() {
    // Longer than a second by something that is not whole: a wake that was moved comes in seconds, then in the rest.
    const IDLE: Duration = Duration::from_millis(1_700);
    let world = World::with(limits(), |settings| {
        settings.idle_timeout = IDLE;
        settings.idle_answer_timeout = Duration::from_millis(300);
    });
    let mut client = world.direct();
    client.login("romeo");
    // Of these moments one is as likely to move the wake as another.
    for _ in 0..2 {
        std::thread::sleep(Duration::from_millis(1_300));
        client.send(MESSAGE);
    }
    let last = now();
    client.expect("<ping xmlns='urn:xmpp:ping'");
    let took = passed(last);
    assert!((IDLE - Duration::from_millis(50)..IDLE * 3).contains(&took), "asked after {took:?}");
    assert!(client.rest().contains("<connection-timeout"));
    assert!(passed(last) >= IDLE + Duration::from_millis(250));
}
