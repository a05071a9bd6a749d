//! The composition of a node: store, shards and edge on the planes of one process.

mod accounts;
mod live;

use accounts::Accounts;
use actor::{Address, Planes};
use admin::{BoxFuture, Check, Control, ControlError, Listening, Readiness};
use anyhow::Context as _;
use config::{Auto, Config, Secret};
use edge::{EdgeConfig, EdgeHandle, Listener, ListenerKind};
use rpc::{LocalNet, Placement, ShardMap};
use shard::core::Directory;
use shard::host::{HostConfig, HostMessage};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use store::{Health, Store};
use store_embedded::{Embedded, Options};
use types::{BareJid, Epoch, ShardId};

use crate::tls::{TlsStore, write_private};

/// Clients told to go each second while the node drains.
const DRAIN_PER_SECOND: usize = 5_000;
/// A drain ends after this, whoever is left: their sessions are as after a crash.
const DRAIN_WITHIN: Duration = Duration::from_secs(20);
/// How often the drain looks whether everything is durable.
const POLL_EVERY: Duration = Duration::from_millis(10);
/// The folder of the store within the data folder.
const STORE_DIR: &str = "store";
/// The file of the secret that makes an account that does not exist look like one that does.
const DECOY_FILE: &str = "decoy.secret";

/// A running node.
pub struct NodeHandle {
    planes: Planes,
    hosts: Vec<Address<HostMessage>>,
    edge: EdgeHandle,
    listeners: Vec<ListenerKind>,
    accounts: Accounts,
    store: Mutex<Option<Arc<Embedded>>>,
    decoy: [u8; 32],
    draining: AtomicBool,
}

/// Starts the node's parts; returns when its listeners are bound. `accept_loss`: see [`Options::accept_loss`].
///
/// # Errors
/// What keeps it from starting, in words for the operator.
pub async fn start(config: Config, tls: TlsStore, accept_loss: bool) -> anyhow::Result<Arc<NodeHandle>> {
    let planes = match &config.cluster.planes {
        Auto::Fixed(n) => Planes::start(*n)?,
        Auto::Auto => Planes::one_per_cpu()?,
    };
    let store = open_store(&config, accept_loss).await?;
    let decoy = decoy_secret(config.data_dir())?;
    let shards = config.cluster.shards;
    let (accounts, admin_link) = Accounts::new(store.clone(), shards);
    let epoch = accounts.raise_epochs().await.context("the shards' epochs cannot be raised")?;
    let placement = Arc::new(Placement::new(ShardMap::on_one_node(0, shards, planes.count(), epoch)));
    let turns = planes.clone();
    let net = LocalNet::new(0, planes.count(), placement.clone(), Some(admin_link), move |plane, work| turns.at_turn_end(plane, work));
    let hosts = start_hosts(&config, store.clone(), &net, &planes, placement.clone(), epoch);
    accounts.connect(net.link(0), placement);
    let listeners = listeners_of(&config);
    let kinds = listeners.iter().map(|l| l.kind).collect();
    let edge_config = EdgeConfig { node: 0, listeners, live: live::edge(&config, decoy), password_threads: None };
    let starttls = tls.starttls();
    let edge = edge::start(edge_config, &net, Arc::new(move || starttls.clone()), &planes)?;
    accounts.iterations(config.auth.scram_iterations);
    Ok(Arc::new(NodeHandle {
        planes,
        hosts,
        edge,
        listeners: kinds,
        accounts,
        store: Mutex::new(Some(store)),
        decoy,
        draining: AtomicBool::new(false),
    }))
}

async fn open_store(config: &Config, accept_loss: bool) -> anyhow::Result<Arc<Embedded>> {
    let dir = config.data_dir().join(STORE_DIR);
    let s = &config.store;
    let options = Options {
        group_wait_us: u64::try_from(s.group_wait.as_micros()).unwrap_or(u64::MAX),
        low_space_bytes: s.low_space.map_or(0, |b| b.0),
        readers: usize::from(s.readers),
        cache_bytes: s.cache.0,
        journal_bytes_max: s.journal.0,
        accept_loss,
        ..Options::default()
    };
    let opened = tokio::task::spawn_blocking(move || Embedded::open(&dir, options)).await?;
    Ok(Arc::new(opened?))
}

fn start_hosts(
    config: &Config,
    store: Arc<Embedded>,
    net: &LocalNet,
    planes: &Planes,
    placement: Arc<Placement>,
    epoch: Epoch,
) -> Vec<Address<HostMessage>> {
    let host = HostConfig {
        store,
        directory: Arc::new(OneNode(ShardMap::clone(&placement.current()))),
        settings: Arc::new(live::entities(config)),
        pipeline: Arc::new(modules::pipeline()),
    };
    let (shards, count) = (config.cluster.shards, planes.count());
    shard::host::start(&host, net, planes, |plane| (0..shards).filter(|s| s % count == plane).map(|s| (ShardId(s), epoch)).collect())
}

fn listeners_of(config: &Config) -> Vec<Listener> {
    let of = |addresses: &config::Addresses, kind| addresses.0.iter().map(move |&address| Listener { address, kind }).collect::<Vec<_>>();
    let mut all = of(&config.listen.c2s, ListenerKind::StartTls);
    all.extend(of(&config.listen.c2s_tls, ListenerKind::DirectTls));
    all
}

/// The secret of this server, made at its first start: a name that is nobody's must look the same tomorrow.
fn decoy_secret(dir: &Path) -> anyhow::Result<[u8; 32]> {
    let path = dir.join(DECOY_FILE);
    if let Ok(text) = std::fs::read(&path)
        && let Ok(secret) = <[u8; 32]>::try_from(text)
    {
        return Ok(secret);
    }
    let mut secret = [0; 32];
    aws_lc_rs::rand::fill(&mut secret).context("the system gives no random numbers")?;
    write_private(&path, &secret)?;
    Ok(secret)
}

/// Every shard is here, under one journal, and stays: its epochs are those of this start. Asked twice for a message.
struct OneNode(ShardMap);

impl Directory for OneNode {
    fn shard_of(&self, jid: &BareJid) -> ShardId {
        rpc::shard_of(jid.as_str(), self.0.shards())
    }

    fn epoch(&self, shard: ShardId) -> Option<Epoch> {
        self.0.owner(shard).map(|o| o.epoch)
    }

    fn is_local(&self, _: ShardId) -> bool {
        true
    }
}

impl NodeHandle {
    /// Stops accepting, lets every client go (their sessions can be resumed), waits until everything is durable.
    pub async fn drain(&self) -> anyhow::Result<()> {
        self.draining.store(true, Ordering::Release);
        let left = self.edge.drain(DRAIN_PER_SECOND, DRAIN_WITHIN).await;
        if left > 0 {
            tracing::warn!(connections = left, "some clients did not go in time: their sessions are as after a crash");
        }
        let quiet = async {
            for host in &self.hosts {
                while !is_quiet(host).await {
                    tokio::time::sleep(POLL_EVERY).await;
                }
            }
        };
        if tokio::time::timeout(DRAIN_WITHIN, quiet).await.is_err() {
            tracing::warn!("the store did not become quiet in time");
        }
        let planes = self.planes.clone();
        let store = self.store.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.accounts.close();
        // Threads are joined: not on a thread that serves futures.
        tokio::task::spawn_blocking(move || {
            planes.stop();
            drop(store);
        })
        .await?;
        Ok(())
    }
}

async fn is_quiet(host: &Address<HostMessage>) -> bool {
    let (tell, told) = tokio::sync::oneshot::channel();
    match host.try_send(HostMessage::Quiet(tell)) {
        Ok(()) => told.await.unwrap_or(true),
        Err(actor::SendError::Full(_)) => false,
        Err(_) => true,
    }
}

impl Control for NodeHandle {
    fn create_user(&self, jid: BareJid, password: Secret) -> BoxFuture<'_, Result<(), ControlError>> {
        Box::pin(self.accounts.create(jid, password))
    }

    fn set_password(&self, jid: BareJid, password: Secret) -> BoxFuture<'_, Result<(), ControlError>> {
        Box::pin(self.accounts.set_password(jid, password))
    }

    fn delete_user(&self, jid: BareJid) -> BoxFuture<'_, Result<(), ControlError>> {
        Box::pin(self.accounts.remove(jid))
    }

    fn list_users(&self, domain: BareJid, after: Option<BareJid>, limit: usize) -> BoxFuture<'_, Result<Vec<BareJid>, ControlError>> {
        Box::pin(self.accounts.list(domain, after, limit))
    }

    fn apply(&self, config: Config) -> BoxFuture<'_, Result<(), ControlError>> {
        Box::pin(async move {
            if self.draining.load(Ordering::Acquire) {
                return Err(ControlError::Unavailable("the node drains".into()));
            }
            self.edge.reload(live::edge(&config, self.decoy));
            self.accounts.iterations(config.auth.scram_iterations);
            let (settings, pipeline) = (Arc::new(live::entities(&config)), Arc::new(modules::pipeline()));
            for host in &self.hosts {
                let message = || HostMessage::Configure(settings.clone(), pipeline.clone());
                while let Err(actor::SendError::Full(_)) = host.try_send(message()) {
                    tokio::time::sleep(POLL_EVERY).await;
                }
            }
            Ok(())
        })
    }

    fn readiness(&self) -> Readiness {
        let store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        let store = match store.as_ref().map(|s| s.health()) {
            Some(Health::Ok | Health::Busy) => None,
            Some(Health::LowSpace) => Some("low on disk space: messages are refused; free some, or lower store.low_space".into()),
            Some(Health::Failed) => Some("a commit failed; the process ends".into()),
            None => Some("closed".into()),
        };
        let dead = |alive: bool, what: &str| (!alive).then(|| format!("{what} of a plane ended; the log says why"));
        let check = |name: &str, problem| Check { name: name.into(), problem };
        Readiness {
            draining: self.draining.load(Ordering::Acquire),
            checks: vec![
                check("store", store),
                check("shards", dead(self.hosts.iter().all(Address::is_open), "the shards")),
                check("edge", dead(self.edge.is_alive(), "the edge")),
            ],
        }
    }

    fn listening(&self) -> Listening {
        let mut listening = Listening::default();
        for (address, kind) in self.edge.addresses().into_iter().zip(&self.listeners) {
            match kind {
                ListenerKind::StartTls => listening.c2s.push(address),
                ListenerKind::DirectTls => listening.c2s_tls.push(address),
            }
        }
        listening
    }
}
