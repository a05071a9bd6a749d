//! Connections and shards of one plane, wired as in the server: bytes in, bytes out.

use crate::store::Forgetful;
use anyhow::{Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use edge::core::{Connection, Output, Settings as EdgeSettings, TlsInfo};
use entity::{Pipeline, Settings};
use frame::{EdgeMsg, FromEdge, ToShard, ToShardBody};
use rpc::{Placement, ShardMap};
use sasl::{Credentials, Hash, Keys};
use shard::core::{Directory, Host, Out, Shared};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use store::{Completion, Store};
use types::{BareJid, ConnId, Epoch, Instant, Now, ReqId, ShardId, Timestamp};

/// As many as a node has by default.
const SHARDS: u16 = 16;
/// Wall clock at instant 0.
const WALL: u64 = 1_795_000_000_000;

/// What clients and accounts have on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// XEP-0198 on both sides; an `<r/>` behind every fifth message, as `loadtest` does.
    pub managed: bool,
    /// Both archive.
    pub archive: bool,
    /// Messages that each client sends at once.
    pub burst: usize,
}

impl Way {
    /// All that are measured, with their names.
    pub const ALL: [(&'static str, Way); 5] = [
        ("chat", Way { managed: false, archive: false, burst: 4 }),
        ("chat-single", Way { managed: false, archive: false, burst: 1 }),
        ("chat-managed", Way { managed: true, archive: false, burst: 4 }),
        ("chat-archived", Way { managed: false, archive: true, burst: 4 }),
        ("chat-archived-managed", Way { managed: true, archive: true, burst: 4 }),
    ];
}

struct Here(Arc<Placement>);

impl Directory for Here {
    fn shard_of(&self, jid: &BareJid) -> ShardId {
        self.0.current().locate(jid.as_str()).0
    }
    fn epoch(&self, _: ShardId) -> Option<Epoch> {
        Some(Epoch(1))
    }
    fn is_local(&self, _: ShardId) -> bool {
        true
    }
}

struct Client {
    core: Connection,
    jid: String,
    /// Stanzas heard since XEP-0198 was enabled.
    handled: u32,
    sent: u64,
    heard: Vec<u8>,
}

/// See the module.
pub struct Path {
    way: Way,
    now: Now,
    host: Host,
    /// What is written.
    pub store: Arc<Forgetful>,
    completions: Arc<Mutex<Vec<Completion>>>,
    placement: Arc<Placement>,
    clients: Vec<Client>,
    /// Bytes that came out.
    pub written: u64,
    messages: u64,
}

impl Path {
    /// So many clients, of an account each, online.
    ///
    /// # Errors
    /// One of them does not get in.
    pub fn new(way: Way, clients: usize) -> Result<Path> {
        let store = Arc::new(Forgetful::default());
        let completions = Arc::new(Mutex::new(Vec::new()));
        let heard = completions.clone();
        let plane = store.register(Box::new(move |c| heard.lock().unwrap_or_else(PoisonError::into_inner).push(c)));
        let placement = Arc::new(Placement::new(ShardMap::on_one_node(0, SHARDS, 1, Epoch(1))));
        let archive = if way.archive { entity::module::ArchiveDefault::Always } else { entity::module::ArchiveDefault::Never };
        let settings = Settings {
            domains: vec!["localhost".into()],
            archive_default: archive,
            attaching: std::time::Duration::ZERO,
            ..Settings::default()
        };
        let shared = Shared {
            store: store.clone(),
            plane,
            directory: Arc::new(Here(placement.clone())),
            settings: Arc::new(settings),
            pipeline: Arc::new(Pipeline::new(modules::all())),
        };
        let now = Now { mono: Instant(1_000), wall: Timestamp(WALL) };
        let mut path =
            Path { way, now, host: Host::new(shared), store, completions, placement, clients: Vec::new(), written: 0, messages: 0 };
        for shard in 0..SHARDS {
            path.host.take(path.now, ShardId(shard), Epoch(1));
        }
        path.settle();
        let edge = Arc::new(EdgeSettings::new(BareJid::parse("localhost").into_iter().collect()));
        for id in 0..clients {
            path.join(id, &edge)?;
        }
        path.clients.iter_mut().for_each(|c| c.heard.clear());
        Ok(path)
    }

    fn join(&mut self, id: usize, edge: &Arc<EdgeSettings>) -> Result<()> {
        let account = BareJid::parse(&format!("user{id}@localhost"))?;
        let keys = |hash, len: usize| Keys::new(hash, &vec![7; len], &vec![8; len], &[9; 16], 4_096);
        let credentials = Credentials::from_keys(keys(Hash::Sha1, 20)?, keys(Hash::Sha256, 32)?)?.encode().into();
        self.ask(0, account, EdgeMsg::Create { req: ReqId(1), credentials });
        self.settle();
        let conn = ConnId { node: 0, plane: 0, slot: id as u64 };
        let core = Connection::new(edge.clone(), conn, [3; 32], self.now, Some(TlsInfo::default()));
        self.clients.push(Client { core, jid: format!("user{id}@localhost/load"), handled: 0, sent: 0, heard: Vec::new() });
        let header = "<?xml version='1.0'?><stream:stream to='localhost' version='1.0' xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>";
        let plain = STANDARD.encode(format!("\0user{id}\0secret"));
        let mut steps = vec![
            format!("{header}<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>{plain}</auth>"),
            format!("{header}<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>load</resource></bind></iq>"),
        ];
        steps.extend(self.way.managed.then(|| "<enable xmlns='urn:xmpp:sm:3' resume='true'/>".to_owned()));
        steps.push("<presence/>".to_owned());
        for step in steps {
            self.feed(id, step.as_bytes());
            self.settle();
        }
        let heard = String::from_utf8_lossy(&self.clients[id].heard).into_owned();
        ensure!(heard.contains("<presence") && (!self.way.managed || heard.contains("<enabled")), "client {id}: {heard}");
        self.clients[id].handled = 1;
        if self.way.managed {
            // An `<r/>` came behind the presence; while it is open there is no other.
            self.feed(id, b"<a xmlns='urn:xmpp:sm:3' h='1'/>");
            self.settle();
        }
        Ok(())
    }

    fn ask(&mut self, slot: u64, account: BareJid, body: EdgeMsg) {
        let conn = ConnId { node: 0, plane: 0, slot };
        let shard = self.placement.current().locate(account.as_str()).0;
        let frame = ToShard { shard, epoch: Epoch(1), body: ToShardBody::Edge(FromEdge { conn, account, body }) };
        self.host.handle_frame(self.now, frame);
    }

    /// Bytes of a client arrive.
    fn feed(&mut self, id: usize, bytes: &[u8]) {
        let now = self.now;
        self.clients[id].core.handle_bytes(now, bytes);
        self.drive(id);
    }

    fn drive(&mut self, id: usize) {
        while let Some(output) = self.clients[id].core.poll_output() {
            match output {
                Output::Write(bytes) => self.wrote(id, &bytes),
                Output::Frame { account, body } => self.ask(id as u64, account, body),
                Output::VerifyPlain { .. } => self.clients[id].core.handle_plain_verified(self.now, true),
                Output::Derive { .. } | Output::StartTls | Output::Close => {}
            }
        }
    }

    fn wrote(&mut self, id: usize, bytes: &[u8]) {
        self.written += bytes.len() as u64;
        let client = &mut self.clients[id];
        client.heard.extend_from_slice(bytes);
    }

    /// All that waits happens: frames, commits, timers stand still.
    fn settle(&mut self) {
        loop {
            let mut idle = true;
            for out in self.host.take_out() {
                idle = false;
                match out {
                    Out::Shard(frame) => self.host.handle_frame(self.now, frame),
                    Out::Edge(frame) => {
                        let id = frame.conn.slot as usize;
                        if let Some(client) = self.clients.get_mut(id) {
                            client.core.handle_frame(self.now, frame);
                            self.drive(id);
                        }
                    }
                }
            }
            if idle {
                self.store.step();
                let completions = std::mem::take(&mut *self.completions.lock().unwrap_or_else(PoisonError::into_inner));
                if completions.is_empty() {
                    return;
                }
                // The host hears of the newest ticket alone, as from a group.
                let (durable, others): (Vec<_>, Vec<_>) = completions.into_iter().partition(|c| matches!(c, Completion::Durable(_)));
                for completion in others.into_iter().chain(durable.into_iter().next_back()) {
                    self.host.handle_completion(self.now, completion);
                }
            }
        }
    }

    /// Every client sends a burst to its partner, hears its partner's, and acknowledges. How many messages arrived.
    #[inline(never)]
    pub fn round(&mut self) -> u64 {
        let before = self.messages;
        let mut bytes = String::new();
        for id in 0..self.clients.len() {
            bytes.clear();
            let to = self.clients[id ^ 1].jid.clone();
            for _ in 0..self.way.burst {
                let client = &mut self.clients[id];
                client.sent += 1;
                let n = client.sent;
                let _ = write!(bytes, "<message to='{to}' type='chat' id='m{n}'><body>{n} {:<195}</body></message>", n);
                if self.way.managed && n.is_multiple_of(5) {
                    bytes.push_str("<r xmlns='urn:xmpp:sm:3'/>");
                }
            }
            self.feed(id, bytes.as_bytes());
        }
        self.settle();
        self.answer();
        self.settle();
        self.now.mono = Instant(self.now.mono.0 + 10);
        self.now.wall = Timestamp(self.now.wall.0 + 10);
        if self.host.next_wake() <= self.now.mono {
            self.host.handle_timer(self.now);
            self.settle();
        }
        self.messages - before
    }

    /// Clients read what they got, and answer `<r/>` and pings.
    fn answer(&mut self) {
        for id in 0..self.clients.len() {
            let heard = std::mem::take(&mut self.clients[id].heard);
            let text = std::str::from_utf8(&heard).unwrap_or_default();
            assert!(!text.contains("<stream:error"), "{text}");
            let messages = text.matches("<message").count() as u32;
            self.messages += u64::from(messages);
            let stanzas = messages + (text.matches("<presence").count() + text.matches("<iq").count()) as u32;
            self.clients[id].handled += stanzas;
            let mut answer = String::new();
            if text.contains("<r xmlns") {
                let _ = write!(answer, "<a xmlns='urn:xmpp:sm:3' h='{}'/>", self.clients[id].handled);
            }
            for ping in text.split("<iq ").skip(1) {
                let value = ping.split("id='").nth(1).and_then(|t| t.split('\'').next()).unwrap_or_default();
                let _ = write!(answer, "<iq type='result' id='{value}' to='localhost'/>");
            }
            if !answer.is_empty() {
                self.feed(id, answer.as_bytes());
            }
            let mut heard = heard;
            heard.clear();
            self.clients[id].heard = heard;
        }
    }
}
#[cfg(test)]
mod tests {
    use super::{Path, Way};

    #[test]
    fn every_message_arrives() {
        for (name, way) in Way::ALL {
            let mut path = Path::new(way, 4).unwrap();
            for round in 0..300 {
                assert_eq!(path.round(), 4 * way.burst as u64, "{name}, round {round}");
            }
        }
    }
}
