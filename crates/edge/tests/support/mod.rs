//! What the socket tests share: a running edge, a shard side that is only as much as they need, and a small client.
//!
//! The fake shard is not a model of the real one: it gives keys, binds, and accepts or withholds.

#![allow(dead_code, reason = "each test program uses its part")]

use actor::{Actor, Context, Planes};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use chappe_edge as edge;
use chappe_edge::core::Settings;
use chappe_edge::{EdgeConfig, EdgeHandle, Limits, Listener, ListenerKind, Live};
use frame::{Bound, CredentialsAnswer, EdgeMsg, FromEdge, Output, ShardMsg, ToEdge, ToShard, ToShardBody};
use rpc::{Deliver, Link, LocalNet, Placement, PlaneLink, ShardMap};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;
use types::{Attach, BareJid, ConnId, Epoch, Instant, SessionId, ShardId};

pub const WAIT: Duration = Duration::from_secs(20);
pub const PASSWORD: &str = "r0m30myr0m30";
const SHARDS: u16 = 16;

pub fn now() -> Instant {
    actor::Clock.now().mono
}

pub fn passed(since: Instant) -> Duration {
    now().since(since)
}

/// What the fake shard saw, and how it behaves.
#[derive(Default)]
pub struct Shards {
    pub state: Mutex<State>,
    /// Inboxes say that they are full.
    pub stuck: AtomicBool,
    changed: Condvar,
}

#[derive(Default)]
pub struct State {
    /// Every frame, in a few words: `bind`, `submit 1`, `detach`, ...
    pub seen: Vec<String>,
    /// Inputs are noted, and accepted only when this is false.
    pub withhold: bool,
    pub epoch: u32,
    credentials: HashMap<String, Bytes>,
    /// Where each session is: connection, shard, last n.
    pub sessions: HashMap<String, (ConnId, ShardId, u64)>,
}

impl Shards {
    /// Wait until `ready` holds; fails after [`WAIT`].
    pub fn wait(&self, what: &str, ready: impl Fn(&State) -> bool) {
        let start = now();
        let mut state = self.state.lock().unwrap();
        while !ready(&state) {
            let left = WAIT.saturating_sub(passed(start));
            assert!(!left.is_zero(), "{what}: the shards saw {:?}", state.seen);
            state = self.changed.wait_timeout(state, left).unwrap().0;
        }
    }

    pub fn count(&self, prefix: &str) -> usize {
        self.state.lock().unwrap().seen.iter().filter(|s| s.starts_with(prefix)).count()
    }
}

struct FakeShard {
    link: Arc<PlaneLink>,
    shards: Arc<Shards>,
}

impl Actor for FakeShard {
    type Message = Vec<ToShard>;

    fn handle(&mut self, _: &mut Context<'_, Self>, frames: Vec<ToShard>) {
        let mut state = self.shards.state.lock().unwrap();
        for frame in frames {
            let (shard, epoch) = (frame.shard, frame.epoch);
            let ToShardBody::Edge(FromEdge { conn, account, body }) = frame.body else { continue };
            let Some(body) = answer(&mut state, conn, shard, &account, body) else { continue };
            self.link.to_edge(ToEdge { conn, shard, epoch, body }).unwrap();
        }
        self.shards.changed.notify_all();
    }
}

fn answer(state: &mut State, conn: ConnId, shard: ShardId, account: &BareJid, body: EdgeMsg) -> Option<ShardMsg> {
    let session = SessionId { epoch: 1, seq: 1 };
    let attach = Attach(1);
    let name = account.as_str().to_owned();
    match body {
        EdgeMsg::Credentials { req } => {
            state.seen.push("credentials".into());
            let answer = state.credentials.get(&name).cloned().map_or(CredentialsAnswer::Unknown, CredentialsAnswer::Known);
            Some(ShardMsg::Credentials { req, answer })
        }
        EdgeMsg::LoginEnded { ok } => {
            state.seen.push(format!("login {ok}"));
            None
        }
        EdgeMsg::Bind { req, resource, .. } => {
            state.seen.push("bind".into());
            state.sessions.insert(name, (conn, shard, 0));
            let jid = account.with_resource(resource.as_deref().unwrap_or("made")).unwrap();
            Some(ShardMsg::Bound { req, result: Ok(Bound { session, attach, jid }) })
        }
        EdgeMsg::Enable { req, .. } => {
            state.seen.push("enable".into());
            let sm = frame::Sm { base_n: 0, base_m: 0, previd: Some("previd".into()), resume_secs: 300 };
            Some(ShardMsg::Enabled { req, session, attach, sm })
        }
        EdgeMsg::Submit { n, .. } => {
            state.seen.push(format!("submit {n}"));
            state.sessions.get_mut(&name).unwrap().2 = n;
            (!state.withhold).then_some(ShardMsg::Outcome { session, attach, accepted: n })
        }
        EdgeMsg::Reattach { req, copy } => {
            state.seen.push(format!("reattach {} inputs", copy.inputs.len()));
            let answer = Some(frame::Reattached { session, attach: Attach(2), accepted: copy.accepted, adopted: false });
            Some(ShardMsg::Reattached { req, answer })
        }
        EdgeMsg::Detach { .. } => {
            state.seen.push("detach".into());
            None
        }
        EdgeMsg::Close { .. } => {
            state.seen.push("close".into());
            None
        }
        EdgeMsg::Ask { .. } => {
            let accepted = if state.withhold { 0 } else { state.sessions[&name].2 };
            Some(ShardMsg::Outcome { session, attach, accepted })
        }
        _ => None,
    }
}

/// A running edge on two planes, with the fake shards.
pub struct World {
    pub planes: Planes,
    pub net: Arc<LocalNet>,
    pub shards: Arc<Shards>,
    pub edge: EdgeHandle,
    pub roots: Arc<RootCertStore>,
}

impl World {
    pub fn new(limits: Limits) -> World {
        World::with(limits, |_| {})
    }

    pub fn with(limits: Limits, change: impl FnOnce(&mut Settings)) -> World {
        let (provider, roots) = certificate();
        World::with_tls(limits, change, provider, roots)
    }

    pub fn with_tls(limits: Limits, change: impl FnOnce(&mut Settings), provider: edge::TlsProvider, roots: Arc<RootCertStore>) -> World {
        let planes = Planes::start(2).unwrap();
        let placement = Arc::new(Placement::new(ShardMap::on_one_node(0, SHARDS, 2, Epoch(1))));
        let net = Arc::new(LocalNet::new(0, 2, placement, None, |plane, flush| planes.at_turn_end(plane, flush)));
        let shards = Arc::new(Shards::default());
        for plane in 0..2 {
            let (link, seen) = (net.link(plane), Arc::clone(&shards));
            let host = planes.start_actor(plane, 64, move || FakeShard { link, shards: seen });
            let knobs = Arc::clone(&shards);
            let deliver = move |batch| {
                if knobs.stuck.load(Ordering::SeqCst) {
                    return Deliver::Full(batch);
                }
                match host.try_send(batch) {
                    Ok(()) => Deliver::Taken,
                    Err(actor::SendError::Full(batch)) => Deliver::Full(batch),
                    Err(actor::SendError::Closed(_)) => Deliver::Gone,
                }
            };
            assert!(net.register_shard_host(plane, Box::new(deliver)));
        }
        let mut settings = Settings::new(vec![BareJid::parse("im.example").unwrap()]);
        change(&mut settings);
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let config = EdgeConfig {
            node: 0,
            listeners: vec![
                Listener { address: any, kind: ListenerKind::StartTls },
                Listener { address: any, kind: ListenerKind::DirectTls },
            ],
            live: Live { settings: Arc::new(settings), limits },
            password_threads: Some(2),
        };
        let edge = edge::start(config, &net, provider, &planes).unwrap();
        let world = World { planes, net, shards, edge, roots };
        world.add_account("romeo");
        world
    }

    pub fn add_account(&self, name: &str) {
        let keys = sasl::Credentials::derive(PASSWORD, &[7; 32], sasl::ITERATIONS_MIN).unwrap();
        let mut state = self.shards.state.lock().unwrap();
        state.credentials.insert(format!("{name}@im.example"), keys.encode().into());
    }

    /// Send a message to the session of `name`, as its shard does, numbered `m`.
    pub fn deliver(&self, name: &str, m: u64, body: &str) -> Result<(), ()> {
        let (conn, shard, _) = self.shards.state.lock().unwrap().sessions[&format!("{name}@im.example")];
        let to = BareJid::parse(&format!("{name}@im.example")).unwrap();
        let stanza = stanza::Stanza::message(to, stanza::MessageType::Chat).with_body(body);
        let output = Output { m, pos: None, stanza: Arc::new(stanza) };
        let session = SessionId { epoch: 1, seq: 1 };
        let body = ShardMsg::Deliver { session, attach: Attach(1), output };
        self.net.link(conn.plane).to_edge(ToEdge { conn, shard, epoch: Epoch(1), body }).map_err(|_| ())
    }

    pub fn wait_for_connections(&self, count: usize) {
        let start = now();
        while self.edge.counts().connections != count {
            assert!(passed(start) < WAIT, "{:?}", self.edge.counts());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn connect(&self, listener: usize) -> TcpStream {
        let socket = TcpStream::connect(self.edge.addresses()[listener]).unwrap();
        socket.set_read_timeout(Some(WAIT)).unwrap();
        socket.set_write_timeout(Some(WAIT)).unwrap();
        socket
    }

    pub fn tls(&self, socket: TcpStream, alpn: &[&[u8]]) -> StreamOwned<ClientConnection, TcpStream> {
        StreamOwned::new(client(&self.roots, alpn), socket)
    }

    /// A stream on direct TLS, opened.
    pub fn direct(&self) -> Client<StreamOwned<ClientConnection, TcpStream>> {
        let mut client = Client::new(self.tls(self.connect(1), &[b"xmpp-client"]));
        client.open();
        client
    }

    /// A stream after STARTTLS, opened again.
    pub fn starttls(&self) -> Client<StreamOwned<ClientConnection, TcpStream>> {
        let mut clear = Client::new(self.connect(0));
        clear.open();
        clear.send("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>");
        clear.expect("<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>");
        let mut client = Client::new(self.tls(clear.socket, &[]));
        client.open();
        client
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.planes.stop();
    }
}

pub fn certificate() -> (edge::TlsProvider, Arc<RootCertStore>) {
    let key = rcgen::KeyPair::generate().unwrap();
    let cert = rcgen::CertificateParams::new(vec!["im.example".into()]).unwrap().self_signed(&key).unwrap();
    let der: CertificateDer<'static> = cert.der().clone();
    let mut roots = RootCertStore::empty();
    roots.add(der.clone()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![der], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        .unwrap();
    let config = Arc::new(config);
    (Arc::new(move || Arc::clone(&config)), Arc::new(roots))
}

pub fn client(roots: &Arc<RootCertStore>, alpn: &[&[u8]]) -> ClientConnection {
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(Arc::clone(roots))
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    ClientConnection::new(Arc::new(config), ServerName::try_from("im.example").unwrap()).unwrap()
}

/// A client that sends text and waits for text.
pub struct Client<S> {
    pub socket: S,
    text: String,
}

impl<S: Read + Write> Client<S> {
    pub fn new(socket: S) -> Client<S> {
        Client { socket, text: String::new() }
    }

    pub fn send(&mut self, text: &str) {
        self.socket.write_all(text.as_bytes()).unwrap();
        self.socket.flush().unwrap();
    }

    pub fn open(&mut self) {
        self.send("<?xml version='1.0'?><stream:stream to='im.example' version='1.0' xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>");
        self.expect("</stream:features>");
    }

    /// Read up to `end`; what came before it, and it.
    pub fn expect(&mut self, end: &str) -> String {
        loop {
            if let Some(at) = self.text.find(end) {
                return self.text.drain(..at + end.len()).collect();
            }
            let mut buffer = [0; 4_096];
            let n = self.socket.read(&mut buffer).unwrap_or_else(|e| panic!("{e}, waiting for {end:?}, got {:?}", self.text));
            assert!(n > 0, "closed, waiting for {end:?}, got {:?}", self.text);
            self.text.push_str(std::str::from_utf8(&buffer[..n]).unwrap());
        }
    }

    /// Read until the server closes.
    pub fn rest(&mut self) -> String {
        let mut bytes = Vec::new();
        let _ = self.socket.read_to_end(&mut bytes);
        let mut text = std::mem::take(&mut self.text);
        text.push_str(&String::from_utf8_lossy(&bytes));
        text
    }
}

impl Client<StreamOwned<ClientConnection, TcpStream>> {
    /// SCRAM-SHA-256-PLUS over this channel, then binding.
    pub fn login(&mut self, name: &str) {
        let exporter = self.socket.conn.export_keying_material(vec![0; 32], b"EXPORTER-Channel-Binding", Some(b"")).unwrap();
        self.login_bound(name, sasl::ChannelBinding::TlsExporter(exporter));
    }

    /// SCRAM-SHA-256-PLUS with this binding, then binding of a resource.
    pub fn login_bound(&mut self, name: &str, binding: sasl::ChannelBinding) {
        let mut scram = sasl::client::Client::new(sasl::Mechanism::ScramSha256Plus, name, PASSWORD, &binding, "clientnonce");
        let initial = STANDARD.encode(scram.initial());
        self.send(&format!("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='SCRAM-SHA-256-PLUS'>{initial}</auth>"));
        let challenge = inner(&self.expect("</challenge>"));
        let response = STANDARD.encode(scram.handle_challenge(&challenge).unwrap());
        self.send(&format!("<response xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>{response}</response>"));
        scram.handle_success(Some(&inner(&self.expect("</success>")))).unwrap();
        self.bind();
    }

    /// XEP-0198: from here on the session can be resumed.
    pub fn enable(&mut self) {
        self.send("<enable xmlns='urn:xmpp:sm:3' resume='true'/>");
        self.expect("<enabled ");
    }

    pub fn plain(&mut self, name: &str, password: &str) {
        let message = STANDARD.encode(format!("\0{name}\0{password}"));
        self.send(&format!("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>{message}</auth>"));
    }

    pub fn bind(&mut self) {
        self.open();
        self.send("<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>orchard</resource></bind></iq>");
        self.expect("/orchard</jid></bind></iq>");
    }
}

/// The decoded text of the last element of `xml`.
fn inner(xml: &str) -> Vec<u8> {
    let end = xml.rfind("</").unwrap();
    let start = xml[..end].rfind('>').unwrap() + 1;
    STANDARD.decode(&xml[start..end]).unwrap()
}

/// A client that takes any certificate: for measurements, where who the server is does not matter.
pub fn careless_client() -> ClientConnection {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    ClientConnection::new(Arc::new(config), ServerName::try_from("im.example").unwrap()).unwrap()
}

#[derive(Debug)]
struct AnyCertificate(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
