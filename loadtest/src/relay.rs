//! The bare relay: just enough of a server for chat, and nothing more. It is the floor that servers are held against: what
//! the kernel and the runtime cost for moving the same bytes over the same connections, framing included.
//!
//! Login is done properly and may cost what it likes. From then on a read's worth of messages is cut at `</message>`, each
//! gets `from` inserted, and the task that has read them writes them to the recipient's socket itself with one `writev`, out
//! of the buffer they were read into. Nothing is parsed but the recipient, nothing is copied unless the socket is full, and
//! no other task is woken.
//!
//! It knows full JIDs only, checks nothing of what clients send, and has neither XEP-0198, archive nor rosters. It
//! trusts that a client writes no `from` and that no message holds another one.
//!
//! With a certificate it has STARTTLS, for logins and nothing else: the floor of what a login over TLS costs with the same
//! library, the same keys and the same flights. Who is in over TLS is listened to and not answered.

mod cut;
mod login;

use crate::element;
use anyhow::{Context as _, Result, bail};
use cut::{Cut, cut};
use login::{Credentials, Login};
use std::collections::HashMap;
use std::io::IoSlice;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Bytes of one read, unless a stanza is longer.
const READ_BYTES: usize = 16 * 1024;
/// A client that sends a longer stanza is closed.
const STANZA_BYTES_MAX: usize = 256 * 1024;
/// A client that does not read is closed when so much waits for it.
const PENDING_BYTES_MAX: usize = 16 << 20;
/// Pieces of one `writev`; two for each message, and the kernel takes 1,024.
const PIECES_MAX: usize = 128;
/// What `from` is put behind.
const MESSAGE: &[u8] = b"<message";

/// What a relay is told.
#[derive(Clone, Debug)]
pub struct Relay {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Its domain.
    pub domain: String,
    /// The password of every account; any name is one.
    pub password: String,
    /// Threads that serve.
    pub threads: usize,
    /// Chain and key, as PEM: offer STARTTLS.
    pub certificate: Option<(PathBuf, PathBuf)>,
}

/// Those who are logged in, by full JID as it stands in an attribute.
type Peers = RwLock<HashMap<Vec<u8>, Arc<Peer>>>;

struct Host {
    domain: String,
    credentials: Credentials,
    tls: Option<TlsAcceptor>,
    peers: Peers,
}

/// One session, as others write to it.
struct Peer {
    jid: Vec<u8>,
    /// ` from='…'`
    from: Vec<u8>,
    writer: OwnedWriteHalf,
    /// What the socket did not take. While there is something, all goes behind it.
    pending: Mutex<Vec<u8>>,
    /// Told when something begins to be pending.
    stuck: Notify,
    gone: AtomicBool,
}

/// Serves until the process ends. `told` hears where it listens.
///
/// # Errors
/// It cannot listen there.
pub fn serve(relay: &Relay, told: impl FnOnce(SocketAddr)) -> Result<()> {
    let listener = TcpListener::bind(relay.listen).with_context(|| format!("{}", relay.listen))?;
    listener.set_nonblocking(true)?;
    let mut builder = match relay.threads {
        0 | 1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = builder.worker_threads(relay.threads.max(1)).enable_io().build()?;
    let tls = relay.certificate.as_ref().map(|(chain, key)| crate::tls::server(chain, key)).transpose()?.map(TlsAcceptor::from);
    let credentials = Credentials::new(&relay.password)?;
    let host = Arc::new(Host { domain: element::escape(&relay.domain), credentials, tls, peers: Peers::default() });
    told(listener.local_addr()?);
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loop {
            let (socket, _) = listener.accept().await?;
            let host = host.clone();
            // What a client does wrong ends its own connection.
            tokio::spawn(async move { session(&host, socket).await.ok() });
        }
    })
}

async fn session(host: &Host, socket: TcpStream) -> Result<()> {
    socket.set_nodelay(true)?;
    let mut input = Input::new(socket);
    let jid = match (login::login(host, &mut input, host.tls.is_some()).await?, &host.tls) {
        (Login::In(jid), _) => jid.into_bytes(),
        (Login::StartTls, Some(tls)) => return listen_only(host, tls.accept(input.io).await?).await,
        (Login::StartTls, None) => bail!("there is no TLS"),
    };
    let Input { io, buffer, filled } = input;
    let (reader, writer) = io.into_split();
    let mut input = Input { io: reader, buffer, filled };
    let from = [b" from='", jid.as_slice(), b"'"].concat();
    let (pending, stuck, gone) = (Mutex::default(), Notify::new(), AtomicBool::new(false));
    let peer = Arc::new(Peer { jid: jid.clone(), from, writer, pending, stuck, gone });
    let older = host.peers.write().unwrap_or_else(PoisonError::into_inner).insert(jid, peer.clone());
    if let Some(older) = older {
        older.leave();
    }
    let unsticking = tokio::spawn(unstick(peer.clone()));
    let ended = relay(host, &mut input, &peer).await;
    unsticking.abort();
    peer.leave();
    let mut peers = host.peers.write().unwrap_or_else(PoisonError::into_inner);
    if peers.get(&peer.jid).is_some_and(|p| Arc::ptr_eq(p, &peer)) {
        peers.remove(&peer.jid);
    }
    ended
}

/// Lets a client in over TLS and listens until it goes.
async fn listen_only(host: &Host, io: TlsStream<TcpStream>) -> Result<()> {
    let mut input = Input::new(io);
    login::login(host, &mut input, false).await?;
    loop {
        input.filled = 0;
        input.more().await?;
    }
}

/// What a client speaks over before it is in.
trait Io: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Io for T {}

/// Received bytes that are not used up.
struct Input<R> {
    io: R,
    buffer: Vec<u8>,
    filled: usize,
}

impl<R: AsyncRead + Unpin> Input<R> {
    fn new(io: R) -> Input<R> {
        Input { io, buffer: vec![0; READ_BYTES], filled: 0 }
    }

    /// Reads once behind what is there.
    async fn more(&mut self) -> Result<()> {
        if self.filled == self.buffer.len() {
            if self.filled >= STANZA_BYTES_MAX {
                bail!("a stanza without an end");
            }
            self.buffer.resize(2 * self.filled, 0);
        }
        let n = self.io.read(&mut self.buffer[self.filled..]).await?;
        if n == 0 {
            bail!("the client has gone");
        }
        self.filled += n;
        Ok(())
    }

    /// Forgets the first bytes.
    fn used(&mut self, n: usize) {
        self.buffer.copy_within(n..self.filled, 0);
        self.filled -= n;
    }
}

/// Relays what a client sends until it ends its stream.
async fn relay(host: &Host, input: &mut Input<OwnedReadHalf>, peer: &Arc<Peer>) -> Result<()> {
    // Whom the last message was for: usually the next one's recipient.
    let mut to: Option<Arc<Peer>> = None;
    loop {
        let (used, ended) = batch(host, peer, &input.buffer[..input.filled], &mut to)?;
        input.used(used);
        if ended {
            peer.write(&mut [IoSlice::new(b"</stream:stream>")]);
            return Ok(());
        }
        input.more().await?;
    }
}

/// Relays the whole stanzas of what was read; how many bytes they are, and whether the stream has ended.
fn batch(host: &Host, peer: &Arc<Peer>, bytes: &[u8], to: &mut Option<Arc<Peer>>) -> Result<(usize, bool)> {
    let mut at = 0;
    let mut run = Run { pieces: [IoSlice::new(&[]); PIECES_MAX], used: 0, from: &peer.from, bytes, kept: 0, end: 0 };
    loop {
        match cut(&bytes[at..])? {
            Cut::Message { to: wanted, end } => {
                let wanted = &bytes[at..][wanted];
                if !to.as_ref().is_some_and(|p| p.jid == wanted && !p.gone.load(Ordering::Relaxed)) {
                    run.write(to.as_deref());
                    *to = host.peers.read().unwrap_or_else(PoisonError::into_inner).get(wanted).cloned();
                }
                let Some(recipient) = to.as_deref() else {
                    peer.write(&mut [IoSlice::new(&nobody(&bytes[at..at + end], peer))]);
                    at += end;
                    continue;
                };
                run.add(at, at + end, recipient);
                at += end;
            }
            Cut::Other { end } => {
                run.write(to.as_deref());
                if let Some(answer) = answer(&bytes[at..at + end], &peer.jid) {
                    peer.write(&mut [IoSlice::new(&answer)]);
                }
                at += end;
            }
            Cut::Space { end } => {
                run.write(to.as_deref());
                at += end;
            }
            Cut::End => {
                run.write(to.as_deref());
                return Ok((bytes.len(), true));
            }
            Cut::Part => {
                run.write(to.as_deref());
                return Ok((at, false));
            }
        }
    }
}

/// Messages of one batch, one behind the other, all to the same recipient.
struct Run<'a> {
    pieces: [IoSlice<'a>; PIECES_MAX],
    used: usize,
    from: &'a [u8],
    bytes: &'a [u8],
    /// Before it, everything of the run is in the pieces.
    kept: usize,
    end: usize,
}

impl<'a> Run<'a> {
    fn add(&mut self, start: usize, end: usize, to: &Peer) {
        if self.used + 3 > PIECES_MAX {
            self.write(Some(to));
        }
        if self.used == 0 {
            self.kept = start;
        }
        self.piece(&self.bytes[self.kept..start + MESSAGE.len()]);
        self.piece(self.from);
        (self.kept, self.end) = (start + MESSAGE.len(), end);
    }

    fn piece(&mut self, bytes: &'a [u8]) {
        self.pieces[self.used] = IoSlice::new(bytes);
        self.used += 1;
    }

    fn write(&mut self, to: Option<&Peer>) {
        if self.used == 0 {
            return;
        }
        self.piece(&self.bytes[self.kept..self.end]);
        if let Some(to) = to {
            to.write(&mut self.pieces[..self.used]);
        }
        self.used = 0;
    }
}

impl Peer {
    /// Writes at once; what the socket does not take is kept.
    fn write(&self, mut pieces: &mut [IoSlice<'_>]) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if self.gone.load(Ordering::Relaxed) {
            return;
        }
        if pending.is_empty() {
            match self.writer.try_write_vectored(pieces) {
                Ok(n) => IoSlice::advance_slices(&mut pieces, n),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                // Its own task sees that it has gone.
                Err(_) => return,
            }
        }
        if pieces.is_empty() {
            return;
        }
        pieces.iter().for_each(|piece| pending.extend_from_slice(piece));
        let full = pending.len() > PENDING_BYTES_MAX;
        drop(pending);
        if full {
            self.leave();
        }
        self.stuck.notify_one();
    }

    /// Nothing is sent to it any more; its task sees the end of its connection.
    fn leave(&self) {
        self.gone.store(true, Ordering::Relaxed);
        let _ = rustix::net::shutdown(self.writer.as_ref(), rustix::net::Shutdown::Both);
    }
}

/// Writes what is pending as the socket takes it.
async fn unstick(peer: Arc<Peer>) -> std::io::Result<()> {
    loop {
        peer.stuck.notified().await;
        loop {
            peer.writer.writable().await?;
            let mut pending = peer.pending.lock().unwrap_or_else(PoisonError::into_inner);
            match peer.writer.try_write(&pending) {
                Ok(n) => drop(pending.drain(..n)),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            if pending.is_empty() {
                break;
            }
        }
    }
}

/// An attribute as it stands, in its text; empty if there is none.
fn attr(stanza: &[u8], name: &str) -> String {
    String::from_utf8_lossy(element::attr(stanza, name.as_bytes()).unwrap_or_default()).into_owned()
}

/// What a sender hears of a recipient that is not there (RFC 6121 §8.5.3.2.1).
fn nobody(message: &[u8], sender: &Peer) -> Vec<u8> {
    let (id, from) = (attr(message, "id"), attr(message, "to"));
    let to = String::from_utf8_lossy(&sender.jid);
    format!(
        "<message type='error' id='{id}' from='{from}' to='{to}'><error type='cancel'>\
         <service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message>"
    )
    .into_bytes()
}

/// What any server answers to a client that looks for its roster and becomes available; other requests get an empty result.
fn answer(stanza: &[u8], jid: &[u8]) -> Option<Vec<u8>> {
    let to = String::from_utf8_lossy(jid);
    match element::name(stanza) {
        b"iq" if matches!(attr(stanza, "type").as_str(), "get" | "set") => {
            let roster = memchr::memmem::find(stanza, b"jabber:iq:roster").map_or("", |_| "<query xmlns='jabber:iq:roster'/>");
            Some(format!("<iq type='result' id='{}' to='{to}'>{roster}</iq>", attr(stanza, "id")).into_bytes())
        }
        b"presence" if attr(stanza, "to").is_empty() && attr(stanza, "type").is_empty() => {
            Some(format!("<presence from='{to}' to='{to}'/>").into_bytes())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::{Read as _, Write as _};
    use std::time::Duration;

    /// A relay of its own for each test; its thread ends with the test program.
    fn started(threads: usize) -> SocketAddr {
        with_certificate(threads, None)
    }

    fn with_certificate(threads: usize, certificate: Option<(PathBuf, PathBuf)>) -> SocketAddr {
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let relay = Relay { listen, domain: "example.org".into(), password: "secret".into(), threads, certificate };
        std::thread::spawn(move || serve(&relay, |address| tell.send(address).unwrap()));
        told.recv().unwrap()
    }

    fn target(address: SocketAddr, tls: crate::client::TlsMode) -> crate::client::Target {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        crate::client::Target {
            address,
            domain: "example.org".into(),
            tls,
            config: crate::tls::resuming(&crate::tls::client(&crate::tls::Trust::Anybody).unwrap()),
            options: crate::client::Options::default(),
        }
    }

    async fn client(address: SocketAddr, user: &str) -> std::net::TcpStream {
        let target = target(address, crate::client::TlsMode::Plain);
        let account = crate::client::Account::new(user, "secret");
        let connection = crate::client::login(&target, &account, "load").await.unwrap();
        assert_eq!(connection.jid, format!("{user}@example.org/load"));
        let crate::client::Io::Plain(socket) = connection.io else { unreachable!("a plain target") };
        let socket = socket.into_std().unwrap();
        socket.set_nonblocking(false).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        socket
    }

    fn read(mut socket: &std::net::TcpStream, wanted: &str) {
        let mut got = vec![0; wanted.len()];
        socket.read_exact(&mut got).unwrap();
        assert_eq!(String::from_utf8(got).unwrap(), wanted);
    }

    fn message(to: &str, from: &str, body: &str) -> (String, String) {
        let tail = format!("to='{to}@example.org/load' type='chat'><body>{body}</body></message>");
        (format!("<message {tail}"), format!("<message from='{from}@example.org/load' {tail}"))
    }

    #[tokio::test]
    async fn messages_arrive_however_they_are_cut() {
        let address = started(1);
        let (romeo, juliet) = (client(address, "romeo").await, client(address, "juliet").await);
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        let bodies = proptest::collection::vec("[a-z<>'/]{0,40}", 1..12);
        let cuts = proptest::collection::vec(1..90_usize, 1..40);
        runner
            .run(&(bodies, cuts, any::<bool>()), |(bodies, cuts, spaces)| {
                let pairs = bodies.iter().map(|b| message("juliet", "romeo", &element::escape(b))).collect::<Vec<_>>();
                let sent = pairs.iter().map(|p| p.0.clone()).collect::<Vec<_>>().join(if spaces { " \n" } else { "" });
                let (mut rest, mut cuts) = (sent.as_bytes(), cuts.iter().cycle());
                while !rest.is_empty() {
                    let (now, later) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
                    (&romeo).write_all(now).unwrap();
                    rest = later;
                }
                read(&juliet, &pairs.into_iter().map(|p| p.1).collect::<String>());
                Ok(())
            })
            .unwrap();
    }

    #[tokio::test]
    async fn logs_in_over_tls_and_takes_tickets() {
        let folder = tempfile::tempdir().unwrap();
        let made = crate::tls::certificate(folder.path(), "example.org").unwrap();
        let address = with_certificate(1, Some((made.chain, made.key)));
        let target = target(address, crate::client::TlsMode::StartTls);
        for resumed in [false, true] {
            let account = crate::client::Account::new("romeo", "secret");
            let connection = crate::client::login(&target, &account, "load").await.unwrap();
            assert_eq!((connection.jid.as_str(), connection.io.is_resumed()), ("romeo@example.org/load", resumed));
        }
        // Who wants none is served beside it.
        client(address, "juliet").await;
    }

    #[tokio::test]
    async fn recipients_and_requests_take_turns() {
        let address = started(2);
        let (romeo, juliet) = (client(address, "romeo").await, client(address, "juliet").await);
        let (there, arrives) = message("juliet", "romeo", "1");
        let (here, returns) = message("romeo", "romeo", "2");
        let (nowhere, _) = message("nobody", "romeo", "3");
        let roster = "<iq type='get' id='q'><query xmlns='jabber:iq:roster'/></iq>";
        (&romeo).write_all(format!("{there}{here}{roster}{there}<presence/>{nowhere}{here}</stream:stream>").as_bytes()).unwrap();
        read(&juliet, &arrives.repeat(2));
        let jid = "romeo@example.org/load";
        let refused = "<message type='error' id='' from='nobody@example.org/load' to='romeo@example.org/load'><error type='cancel'>\
                       <service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message>";
        let roster = format!("<iq type='result' id='q' to='{jid}'><query xmlns='jabber:iq:roster'/></iq>");
        read(&romeo, &format!("{returns}{roster}<presence from='{jid}' to='{jid}'/>{refused}{returns}</stream:stream>"));
        assert_eq!((&romeo).read(&mut [0]).unwrap(), 0);
        (&juliet).write_all(message("romeo", "juliet", "4").0.as_bytes()).unwrap();
        read(&juliet, "<message type='error'");
    }

    #[tokio::test]
    async fn who_does_not_read_gets_it_later_and_in_order() {
        let address = started(1);
        let (romeo, juliet) = (client(address, "romeo").await, client(address, "juliet").await);
        let body = "x".repeat(60_000);
        let pairs: Vec<_> = (0..200).map(|i| message("juliet", "romeo", &format!("{i} {body}"))).collect();
        // More than the sockets hold, and less than may wait.
        pairs.iter().for_each(|p| (&romeo).write_all(p.0.as_bytes()).unwrap());
        pairs.iter().for_each(|p| read(&juliet, &p.1));
    }

    #[tokio::test]
    async fn limits() {
        let address = started(1);
        let (romeo, juliet) = (client(address, "romeo").await, client(address, "juliet").await);
        let long = message("juliet", "romeo", &"x".repeat(2 * STANZA_BYTES_MAX)).0;
        // The relay may close it before all is written.
        let _ = (&romeo).write_all(long.as_bytes());
        assert!((&romeo).read(&mut [0]).map_or(true, |n| n == 0));
        let romeo = client(address, "romeo").await;
        let one = message("juliet", "romeo", &"x".repeat(60_000)).0;
        for _ in 0..PENDING_BYTES_MAX / 60_000 * 2 {
            (&romeo).write_all(one.as_bytes()).unwrap();
        }
        // Juliet has been closed: what she gets ends, and romeo hears that she is not there.
        let mut got = Vec::new();
        let _ = (&juliet).read_to_end(&mut got);
        assert!(got.len() < 2 * PENDING_BYTES_MAX);
        read(&romeo, "<message type='error'");
    }
}
