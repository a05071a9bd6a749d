//! Accounts as the administrator manages them: frames to the account's shard, and scans of the index.

use admin::ControlError;
use bytes::Bytes;
use config::Secret;
use frame::{AccountError, EdgeMsg, FromEdge, ShardMsg, ToEdge, ToShard, ToShardBody};
use rpc::{Link, Placement, PlaneLink, Refused, shard_of};
use sasl::Credentials;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use store::{Completion, Order, PlaneId, Read, Store};
use store_embedded::Embedded;
use tokio::sync::oneshot;
use types::{BareJid, Collection, ConnId, Epoch, Partition, ReqId, ShardId, Ticket};

/// The node number of the administrator's "connection": no node has it, so its answers come to [`AdminLink`].
const ADMIN_NODE: u16 = u16::MAX;
/// How long an answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Accounts read at once from one shard's index.
const INDEX_PAGE: usize = 1_000;

/// See the module.
pub struct Accounts {
    shards: u16,
    store: Mutex<Option<Arc<Embedded>>>,
    plane: PlaneId,
    asked: Arc<Asked>,
    out: OnceLock<(Arc<PlaneLink>, Arc<Placement>)>,
    iterations: AtomicU32,
}

/// Questions that wait for an answer.
#[derive(Default)]
struct Asked {
    next: AtomicU64,
    reads: Mutex<HashMap<u64, oneshot::Sender<Completion>>>,
    epochs: Mutex<HashMap<ShardId, oneshot::Sender<Completion>>>,
    done: Mutex<HashMap<u64, oneshot::Sender<Result<(), AccountError>>>>,
}

/// Takes the answers that shards send to the administrator.
struct AdminLink(Arc<Asked>);

impl Link for AdminLink {
    fn to_shard(&self, frame: ToShard) -> Result<(), Refused<ToShard>> {
        Err(Refused { reason: rpc::RefusedReason::NoOwner, frame: Box::new(frame) })
    }

    fn to_edge(&self, frame: ToEdge) -> Result<(), Refused<ToEdge>> {
        if let ShardMsg::AccountDone { req, result } = frame.body
            && let Some(answer) = lock(&self.0.done).remove(&req.0)
        {
            let _ = answer.send(result);
        }
        Ok(())
    }
}

impl Accounts {
    /// Also the link that [`rpc::LocalNet`] takes for nodes that are not there.
    pub fn new(store: Arc<Embedded>, shards: u16) -> (Accounts, Arc<dyn Link>) {
        debug_assert_eq!(store.order(), Order::Journal);
        let asked = Arc::new(Asked::default());
        let ears = asked.clone();
        let plane = store.register(Box::new(move |completion| {
            let waiting = match &completion {
                Completion::Read { id, .. } => lock(&ears.reads).remove(id),
                Completion::Epoch { shard, .. } => lock(&ears.epochs).remove(shard),
                _ => None,
            };
            if let Some(waiting) = waiting {
                let _ = waiting.send(completion);
            }
        }));
        let link = Arc::new(AdminLink(asked.clone()));
        let store = Mutex::new(Some(store));
        (Accounts { shards, store, plane, asked, out: OnceLock::new(), iterations: AtomicU32::new(0) }, link)
    }

    /// Frames leave by this link.
    pub fn connect(&self, link: Arc<PlaneLink>, placement: Arc<Placement>) {
        let _ = self.out.set((link, placement));
    }

    /// Rounds of PBKDF2 in keys made from now on.
    pub fn iterations(&self, rounds: u32) {
        self.iterations.store(rounds, Ordering::Relaxed);
    }

    /// Let go of the store.
    pub fn close(&self) {
        lock(&self.store).take();
    }

    /// One epoch for all shards of this node, above every epoch that any of them had.
    pub async fn raise_epochs(&self) -> anyhow::Result<Epoch> {
        // Ask with an expectation that cannot hold: the answer is the current epoch.
        let mut current = Vec::new();
        for shard in 0..self.shards {
            current.push(self.ask_epoch(ShardId(shard), Some(Epoch(u32::MAX)), Epoch(u32::MAX))?);
        }
        let mut known = Vec::new();
        for answer in current {
            match answer.await? {
                Completion::Epoch { result: Err(conflict), .. } => known.push(conflict.current),
                other => anyhow::bail!("the store answered {other:?}"),
            }
        }
        let to = Epoch(known.iter().flatten().map(|e| e.0).max().unwrap_or(0) + 1);
        let raised: Vec<_> =
            (0..self.shards).zip(&known).map(|(shard, current)| self.ask_epoch(ShardId(shard), *current, to)).collect::<Result<_, _>>()?;
        for answer in raised {
            match answer.await? {
                Completion::Epoch { result: Ok(_), .. } => {}
                other => anyhow::bail!("the store answered {other:?}"),
            }
        }
        Ok(to)
    }

    fn ask_epoch(&self, shard: ShardId, expected: Option<Epoch>, to: Epoch) -> anyhow::Result<oneshot::Receiver<Completion>> {
        let (tell, told) = oneshot::channel();
        lock(&self.asked.epochs).insert(shard, tell);
        let store = self.store().map_err(|e| anyhow::anyhow!("{e}"))?;
        store.raise_epoch(self.plane, shard, expected, to);
        Ok(told)
    }

    fn store(&self) -> Result<Arc<Embedded>, ControlError> {
        lock(&self.store).clone().ok_or_else(|| ControlError::Unavailable("the node has ended".into()))
    }

    /// See [`admin::Control::create_user`].
    pub async fn create(&self, jid: BareJid, password: Secret) -> Result<(), ControlError> {
        let credentials = self.derive(password).await?;
        self.ask(jid, |req| EdgeMsg::Create { req, credentials }).await
    }

    /// See [`admin::Control::set_password`].
    pub async fn set_password(&self, jid: BareJid, password: Secret) -> Result<(), ControlError> {
        let credentials = self.derive(password).await?;
        self.ask(jid, |req| EdgeMsg::SetCredentials { req, credentials }).await
    }

    /// See [`admin::Control::delete_user`].
    pub async fn remove(&self, jid: BareJid) -> Result<(), ControlError> {
        self.ask(jid, |req| EdgeMsg::Remove { req }).await
    }

    /// See [`admin::Control::list_users`].
    pub async fn list(&self, domain: BareJid, after: Option<BareJid>, limit: usize) -> Result<Vec<BareJid>, ControlError> {
        let mut all = Vec::new();
        for shard in 0..self.shards {
            let mut from = after.as_ref().map_or_else(Bytes::new, |a| next_key(a.as_str().as_bytes()));
            loop {
                let page = self.index(shard, from).await?;
                let last = page.rows.last().map(|c| c.key.clone());
                let jids = page.rows.iter().filter_map(|c| BareJid::parse(std::str::from_utf8(&c.key).ok()?).ok());
                all.extend(jids.filter(|j| j.domain() == domain.domain()));
                match last.filter(|_| page.more) {
                    Some(last) => from = next_key(&last),
                    None => break,
                }
            }
            // The smallest ones so far are enough: bounded memory, however many there are.
            all.sort_unstable();
            all.truncate(limit);
        }
        Ok(all)
    }

    async fn index(&self, shard: u16, from: Bytes) -> Result<store::Page, ControlError> {
        let partition = Partition { collection: Collection::Index, key: shard.to_be_bytes().to_vec().into() };
        let id = self.asked.next.fetch_add(1, Ordering::Relaxed);
        let (tell, told) = oneshot::channel();
        lock(&self.asked.reads).insert(id, tell);
        let read = Read { partition, from, to: None, limit: INDEX_PAGE, reverse: false };
        self.store()?.read(self.plane, id, Ticket::NONE, read);
        match tokio::time::timeout(ANSWER_WITHIN, told).await {
            Ok(Ok(Completion::Read { result: Ok(page), .. })) => Ok(page),
            Ok(Ok(Completion::Read { result: Err(error), .. })) => Err(ControlError::Unavailable(error.to_string())),
            _ => Err(ControlError::Unavailable("the store does not answer".into())),
        }
    }

    /// Keys from a password, off the threads that serve futures.
    async fn derive(&self, password: Secret) -> Result<Bytes, ControlError> {
        let rounds = self.iterations.load(Ordering::Relaxed);
        let derived = tokio::task::spawn_blocking(move || {
            let mut random = [0; 32];
            aws_lc_rs::rand::fill(&mut random).map_err(|_| ControlError::Internal("no random numbers".into()))?;
            let keys = Credentials::derive(password.expose(), &random, rounds);
            keys.map(|k| Bytes::from(k.encode())).map_err(|e| ControlError::Invalid(format!("this password cannot be used: {e}")))
        });
        derived.await.map_err(|e| ControlError::Internal(e.to_string()))?
    }

    async fn ask(&self, jid: BareJid, body: impl FnOnce(ReqId) -> EdgeMsg) -> Result<(), ControlError> {
        let gone = || ControlError::Unavailable("the shard does not answer".into());
        let (link, placement) = self.out.get().ok_or_else(gone)?;
        let req = self.asked.next.fetch_add(1, Ordering::Relaxed);
        let (tell, told) = oneshot::channel();
        lock(&self.asked.done).insert(req, tell);
        let shard = shard_of(jid.as_str(), self.shards);
        let epoch = placement.current().owner(shard).ok_or_else(gone)?.epoch;
        let conn = ConnId { node: ADMIN_NODE, plane: 0, slot: req };
        let from = FromEdge { conn, account: jid.clone(), body: body(ReqId(req)) };
        let sent = link.to_shard(ToShard { shard, epoch, body: ToShardBody::Edge(from) });
        let answer = match sent {
            Ok(()) => tokio::time::timeout(ANSWER_WITHIN, told).await,
            Err(_) => return Err(gone()),
        };
        lock(&self.asked.done).remove(&req);
        match answer {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(AccountError::Exists))) => Err(ControlError::AlreadyExists(jid.to_string())),
            Ok(Ok(Err(AccountError::NotFound))) => Err(ControlError::NotFound(jid.to_string())),
            Ok(Ok(Err(AccountError::NotAllowed))) => Err(ControlError::Invalid(format!("{jid} cannot be an account here"))),
            Ok(Ok(Err(AccountError::Busy))) => Err(ControlError::Unavailable("low on space, or starting: try again".into())),
            Ok(Err(_)) | Err(_) => Err(gone()),
        }
    }
}

/// The smallest key behind this one.
fn next_key(key: &[u8]) -> Bytes {
    [key, &[0]].concat().into()
}

/// Nothing panics while one of these locks is held.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
