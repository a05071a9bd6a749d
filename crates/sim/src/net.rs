//! Parties (a plane of a node, with a shard host, connections, or both), what each of them knows of the placement, and the
//! links between them: in order, delayed, and lost when they break.

use frame::{ToEdge, ToShard};
use shard::core::{Directory, Host};
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use store::{Completion, PlaneId};
use types::{BareJid, Epoch, ShardId};

/// Who runs a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The party's number.
    pub party: usize,
    /// Its epoch.
    pub epoch: Epoch,
}

/// What one party knows of the placement.
pub struct View {
    me: usize,
    journal: bool,
    shards: u16,
    owners: Mutex<Vec<Option<Owner>>>,
}

impl View {
    /// Nobody owns anything. `journal`: all parties are planes of one node, under one journal.
    pub fn new(me: usize, journal: bool, shards: u16) -> View {
        View { me, journal, shards, owners: Mutex::new(vec![None; usize::from(shards)]) }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Option<Owner>>> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The owner of a shard, as far as this party knows.
    pub fn owner(&self, shard: ShardId) -> Option<Owner> {
        self.lock()[usize::from(shard.0)]
    }

    /// The party hears of an owner.
    pub fn set(&self, shard: ShardId, owner: Option<Owner>) {
        self.lock()[usize::from(shard.0)] = owner;
    }
}

impl Directory for View {
    fn shard_of(&self, jid: &BareJid) -> ShardId {
        rpc::shard_of(jid.as_str(), self.shards)
    }

    fn epoch(&self, shard: ShardId) -> Option<Epoch> {
        self.owner(shard).map(|o| o.epoch)
    }

    fn is_local(&self, shard: ShardId) -> bool {
        self.owner(shard).is_some_and(|o| self.journal || o.party == self.me)
    }
}

/// A frame on its way.
#[derive(Clone, Debug)]
pub enum Payload {
    /// To a shard.
    Shard(Box<ToShard>),
    /// To a connection.
    Edge(Box<ToEdge>),
}

/// What waits for a party that is stopped.
pub enum Waiting {
    /// A frame.
    Frame(Payload),
    /// A word of the store.
    Completion(Completion),
}

/// See the module.
pub struct Party {
    /// What it knows of the placement.
    pub view: std::sync::Arc<View>,
    /// Its shards.
    pub host: Option<Host>,
    /// Its number at the store.
    pub plane: Option<PlaneId>,
    /// It can hold connections.
    pub is_edge: bool,
    /// It can run shards.
    pub is_core: bool,
    /// The process runs.
    pub up: bool,
    /// The process is stopped and will go on.
    pub stopped: bool,
    /// What came meanwhile.
    pub waiting: VecDeque<Waiting>,
    /// Shards of which it was told something while it was stopped.
    pub missed: std::collections::BTreeSet<ShardId>,
    /// Frames for owners that it has not heard of yet.
    pub early: Vec<ToShard>,
    /// Its earlier life had connections up to this number.
    pub life: u32,
}

/// One direction between two parties.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// Raised when what is under way is lost.
    pub generation: u32,
    /// When the last frame arrives.
    pub last: u64,
    /// Frames are taken.
    pub up: bool,
}
