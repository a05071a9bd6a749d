//! The edge: listeners, TLS, and one actor per client stream.
//!
//! [`core`] is the connection without I/O: what a stream and the edge's half of a session do. Around it is the shell of
//! this crate: each plane has its own listeners, accepts connections and keeps them until they end; an actor per stream
//! owns the socket and drives the core; frames go to shards and come from them over [`rpc`].
//!
//! A stream is accepted on whatever plane the kernel chose. When it first asks for an account's keys it moves to the plane
//! that has the account, if that is one of this node, so that from then on what it says to its account stays on one thread.
//!
//! It never stores anything, never decides what a stanza means, and never knows an entity. It waits for nothing but its
//! sockets: what a link refuses is held, and the socket is not read meanwhile. An idle connection holds no buffer.
//!
//! Start with [`start`] and [`EdgeConfig`]; inside, `connection` is one stream (`connection::moving`: its way to another
//! plane), `plane` what the streams of one plane share, `hub` the actor that accepts and dispatches, `tls` rustls over a
//! plane's buffers, `budget` the rates.

pub mod core;

mod budget;
mod config;
mod connection;
mod counters;
mod hub;
mod listen;
mod plane;
mod tls;
mod work;

pub use budget::{FailureRate, Rate};
pub use config::{EdgeConfig, Limits, Listener, ListenerKind, Live};
pub use listen::ListenError;
pub use tls::TlsProvider;

use actor::{Address, Planes, SendError};
use arc_swap::ArcSwap;
use hub::{HUB_BATCHES_MAX, Hub, HubMessage};
use plane::{Plane, Shared};
use rpc::{Deliver, LocalNet};
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use types::ShardId;

/// How often a control message is tried again while a hub's mailbox is full, and how often draining looks at progress.
const POLL_EVERY: Duration = Duration::from_millis(10);

/// Why an edge did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The threads for passwords cannot be started.
    #[error("cannot start threads for passwords: {0}")]
    Threads(std::io::Error),
    /// The planes have an edge already, or the network has fewer planes.
    #[error("plane {0} has an edge already")]
    Registered(u16),
}

/// A running edge. Clones name the same one; dropping them changes nothing.
#[derive(Clone)]
pub struct EdgeHandle(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    hubs: Vec<Address<HubMessage>>,
    listeners: Vec<Listener>,
}

/// See [`EdgeHandle::counts`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Connections now.
    pub connections: usize,
    /// Accepted since the start.
    pub accepted: usize,
    /// Closed as they were accepted, because of a limit.
    pub refused: usize,
}

/// Listen, and serve what connects. `tls` gives the certificates: [`TlsProvider`].
///
/// A metrics recorder must be installed before: handles are made once. Every plane of `net` gets a hub, which takes the
/// frames for its connections.
///
/// # Errors
/// [`StartError`]; nothing listens then.
pub fn start(config: EdgeConfig, net: &LocalNet, tls: TlsProvider, planes: &Planes) -> Result<EdgeHandle, StartError> {
    counters::describe();
    let half_of_cpus = || std::thread::available_parallelism().map_or(1, |cpus| usize::from(cpus).div_ceil(2));
    let pool = work::Pool::start(config.password_threads.unwrap_or_else(half_of_cpus)).map_err(StartError::Threads)?;
    let shared = Arc::new(Shared {
        node: config.node,
        live: ArcSwap::from_pointee(config.live),
        placement: Arc::clone(net.placement()),
        addresses: Arc::default(),
        failing: Default::default(),
        pool,
        hubs: OnceLock::new(),
        connections: AtomicUsize::new(0),
        accepted: AtomicUsize::new(0),
        refused: AtomicUsize::new(0),
    });
    let (listeners, mut sockets) = bind_all(&config.listeners, planes.count())?;
    let mut hubs = Vec::new();
    for number in 0..planes.count() {
        let (shared, link, tls) = (Arc::clone(&shared), net.link(number), Arc::clone(&tls));
        let sockets = std::mem::take(&mut sockets[usize::from(number)]);
        let hub = planes.start_actor(number, HUB_BATCHES_MAX, move || {
            let plane = Rc::new(Plane::new(number, shared, link, tls::Configs::new(tls)));
            Hub::new(plane, sockets)
        });
        let inbox = hub.clone();
        let deliver = move |frames| match inbox.try_send(HubMessage::Frames(frames)) {
            Ok(()) => Deliver::Taken,
            Err(SendError::Full(HubMessage::Frames(frames))) => Deliver::Full(frames),
            Err(_) => Deliver::Gone,
        };
        if !net.register_edge_hub(number, Box::new(deliver)) {
            return Err(StartError::Registered(number));
        }
        hubs.push(hub);
    }
    // A stream that came before stays where it is.
    let _ = shared.hubs.set(hubs.clone());
    for listener in &listeners {
        tracing::info!(address = %listener.address, kind = ?listener.kind, "listening for clients");
    }
    Ok(EdgeHandle(Arc::new(Inner { shared, hubs, listeners })))
}

type Sockets = Vec<(TcpListener, ListenerKind)>;

/// Each listener with the address it got, and each plane's sockets.
fn bind_all(listeners: &[Listener], planes: u16) -> Result<(Vec<Listener>, Vec<Sockets>), ListenError> {
    let mut bound = Vec::new();
    let mut sockets: Vec<Sockets> = (0..planes).map(|_| Vec::new()).collect();
    for listener in listeners {
        let mut address = listener.address;
        for (socket, plane) in listen::bind(listener.address, planes)?.into_iter().zip(&mut sockets) {
            address = socket.local_addr().unwrap_or(address);
            plane.push((socket, listener.kind));
        }
        bound.push(Listener { address, kind: listener.kind });
    }
    Ok((bound, sockets))
}

impl EdgeHandle {
    /// Where it listens, with the ports that the system chose, in the order of the configuration.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.0.listeners.iter().map(|listener| listener.address).collect()
    }

    /// Numbers since the start; the rest is in the metrics.
    pub fn counts(&self) -> Counts {
        let shared = &self.0.shared;
        Counts {
            connections: shared.connections.load(Ordering::Relaxed),
            accepted: shared.accepted.load(Ordering::Relaxed),
            refused: shared.refused.load(Ordering::Relaxed),
        }
    }

    /// Whether every plane still serves.
    pub fn is_alive(&self) -> bool {
        self.0.hubs.iter().all(Address::is_open)
    }

    /// New connections get these settings and limits; those that are open keep theirs.
    pub fn reload(&self, live: Live) {
        self.0.shared.live.store(Arc::new(live));
    }

    /// Close the listeners. Connections go on.
    pub async fn stop_accepting(&self) {
        self.tell_hubs(|| HubMessage::StopAccepting).await;
    }

    /// These shards have another owner or epoch in the placement now: their connections are told.
    pub async fn placement_changed(&self, shards: &[ShardId]) {
        let map = self.0.shared.placement.current();
        let changed: Arc<[_]> = shards.iter().filter_map(|&shard| Some((shard, map.owner(shard)?.epoch))).collect();
        drop(map);
        self.tell_hubs(|| HubMessage::Placement(Arc::clone(&changed))).await;
    }

    /// Close the listeners, tell `per_second` clients each second that the server goes down (RFC 6120 §4.9.3.20), and wait
    /// until all are gone, at most `within`. Returns how many are left.
    ///
    /// A connection is gone when what its session has to say has been handed to its shard, so when none is left the
    /// shards have everything.
    pub async fn drain(&self, per_second: usize, within: Duration) -> usize {
        let planes = self.0.hubs.len().max(1);
        let done = async {
            self.tell_hubs(|| HubMessage::Drain { per_second: per_second.div_ceil(planes) }).await;
            while self.counts().connections > 0 {
                tokio::time::sleep(POLL_EVERY).await;
            }
        };
        let _ = tokio::time::timeout(within, done).await;
        self.counts().connections
    }

    /// Send a control message to every hub that lives. A full mailbox empties within a turn.
    async fn tell_hubs(&self, message: impl Fn() -> HubMessage) {
        for hub in &self.0.hubs {
            while let Err(SendError::Full(_)) = hub.try_send(message()) {
                tokio::time::sleep(POLL_EVERY).await;
            }
        }
    }
}
