//! What an idle connection costs the edge: resident memory of this process, with the clients in another one.
//!
//! A small version of the measurement with 10,000: `CHAPPE_IDLE_CONNECTIONS=10000 cargo test --release -p chappe-edge
//! --test memory -- --nocapture` (a process needs as many open files).

mod support;

use chappe_edge::Limits;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use support::World;

/// Above what debug builds and allocators were seen to need, below what a buffer per connection would add.
const PLAIN_BYTES_MAX: usize = 14 * 1024;
const TLS_BYTES_MAX: usize = 24 * 1024;

fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4_096
}

/// Not a test of its own: the process that holds the clients. It opens connections and then waits to be killed.
#[test]
fn clients() {
    let Ok(text) = std::env::var("CHAPPE_IDLE_CLIENTS") else {
        return;
    };
    let mut words = text.split(' ');
    let address: SocketAddr = words.next().unwrap().parse().unwrap();
    let count: usize = words.next().unwrap().parse().unwrap();
    let tls = words.next() == Some("tls");
    let mut sockets = Vec::new();
    for _ in 0..count {
        let mut socket = TcpStream::connect(address).unwrap();
        if tls {
            let mut connection = support::careless_client();
            let mut tls = rustls::Stream::new(&mut connection, &mut socket);
            open(&mut tls);
        } else {
            open(&mut socket);
        }
        sockets.push(socket);
    }
    println!("ready");
    std::thread::park();
}

/// Open a stream and read its features; then be idle.
fn open(socket: &mut (impl Read + Write)) {
    socket
        .write_all(b"<stream:stream to='im.example' version='1.0' xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>")
        .unwrap();
    let mut text = Vec::new();
    while !text.ends_with(b"</stream:features>") {
        let mut byte = [0; 1_024];
        let n = socket.read(&mut byte).unwrap();
        assert!(n > 0);
        text.extend_from_slice(&byte[..n]);
    }
}

struct Clients(Child);

impl Clients {
    fn start(address: SocketAddr, count: usize, kind: &str) -> Clients {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "clients", "--nocapture"])
            .env_remove("CHAPPE_IDLE_KIND")
            .env("CHAPPE_IDLE_CLIENTS", format!("{address} {count} {kind}"))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Clients(child)
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Not a test of its own: a fresh process that measures one kind, so that memory freed by another is not used again.
#[test]
fn measure() {
    let Ok(kind) = std::env::var("CHAPPE_IDLE_KIND") else {
        return;
    };
    let (listener, bytes_max) = if kind == "tls" { (1, TLS_BYTES_MAX) } else { (0, PLAIN_BYTES_MAX) };
    let count: usize = std::env::var("CHAPPE_IDLE_CONNECTIONS").map_or(500, |n| n.parse().unwrap());
    let world = World::with(Limits::without_rates(), |settings| {
        settings.unauthenticated_timeout = std::time::Duration::from_secs(3_600);
    });
    // What the first connections make once: certificates, buffers of the planes, tables.
    let warm = Clients::start(world.edge.addresses()[listener], 50, &kind);
    world.wait_for_connections(50);
    let before = resident();
    let clients = Clients::start(world.edge.addresses()[listener], count, &kind);
    // One after the other: as long as their number needs.
    while world.edge.counts().connections < count + 50 {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    // The last one may be in its handshake still.
    std::thread::sleep(std::time::Duration::from_millis(500));
    let each = resident().saturating_sub(before) / count;
    println!("{count} idle {kind} connections: {each} bytes each");
    drop((warm, clients));
    assert!(each < bytes_max, "{each} bytes for an idle {kind} connection");
}

#[test]
fn an_idle_connection_is_small() {
    for kind in ["plain", "tls"] {
        let measured = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "measure", "--nocapture"])
            .env("CHAPPE_IDLE_KIND", kind)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&measured.stdout);
        let line = said.lines().find(|line| line.contains("bytes each")).unwrap_or_default();
        println!("{line}");
        assert!(measured.status.success(), "{said}{}", String::from_utf8_lossy(&measured.stderr));
    }
}
