//! The shards of one plane, sans I/O.

pub mod shard;
mod slot;
#[cfg(test)]
mod tests;

use entity::{Pipeline, Settings};
use frame::{ToEdge, ToShard};
use shard::Shard;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use store::{Completion, Order, PlaneId, Store};
use types::{BareJid, ConnId, Epoch, Instant, Now, ShardId, Ticket};

/// Frames that a host has room for between turns: some 100 KiB.
pub const OUT_KEPT_MAX: usize = 1_024;

/// Where entities live, as this node knows it.
pub trait Directory: Send + Sync + 'static {
    /// The shard of an entity.
    fn shard_of(&self, jid: &BareJid) -> ShardId;
    /// The epoch of a shard's owner; `None`: nobody owns it now.
    fn epoch(&self, shard: ShardId) -> Option<Epoch>;
    /// Does it live on this node, under the same journal?
    fn is_local(&self, shard: ShardId) -> bool;
}

/// A frame to send, in order.
#[derive(Clone, Debug)]
pub enum Out {
    /// To a connection.
    Edge(ToEdge),
    /// To the owner of a shard. If its epoch is higher than the router knows, it waits until the router hears of that owner.
    Shard(ToShard),
}

/// What every shard of a plane shares.
pub struct Shared {
    /// Commits and reads.
    pub store: Arc<dyn Store>,
    /// This plane's number at the store.
    pub plane: PlaneId,
    /// Where others live.
    pub directory: Arc<dyn Directory>,
    /// Settings; swapped whole by [`Host::configure`].
    pub settings: Arc<Settings>,
    /// Modules; swapped whole.
    pub pipeline: Arc<Pipeline>,
}

/// See the module.
pub struct Host {
    shared: Shared,
    order: Order,
    shards: BTreeMap<ShardId, Hosted>,
    /// Batches under way on a store without order: whose they are.
    commits: BTreeMap<Ticket, ShardId>,
    durable: Ticket,
    /// The youngest owner of a shard that has spoken to one of ours before this node heard of it.
    heard: BTreeMap<ShardId, Epoch>,
    /// Shards with something that waits for the store, and when each wants to be woken: kept here so that neither a
    /// commit nor a timer looks at all of them.
    waiting: BTreeSet<ShardId>,
    wakes: BTreeSet<(Instant, ShardId)>,
    out: Vec<Out>,
}

impl Host {
    /// A host without shards.
    pub fn new(shared: Shared) -> Host {
        let order = shared.store.order();
        Host {
            shared,
            order,
            shards: BTreeMap::new(),
            commits: BTreeMap::new(),
            durable: Ticket::NONE,
            heard: BTreeMap::new(),
            waiting: BTreeSet::new(),
            wakes: BTreeSet::new(),
            out: Vec::new(),
        }
    }

    /// Own a shard under this epoch, which is raised in the store: wake every entity that owes something.
    pub fn take(&mut self, now: Now, shard: ShardId, epoch: Epoch) {
        self.drop_shard(shard);
        let hosted = Hosted { shard: Shard::new(shard, epoch, self.order), waits: false, wake_at: Instant::NEVER };
        self.shards.insert(shard, hosted);
        self.with(shard, |s, cx| s.start(now, cx));
    }

    /// Another node owns the shard now: stop at once, say nothing more.
    pub fn drop_shard(&mut self, shard: ShardId) {
        if let Some(hosted) = self.shards.remove(&shard) {
            self.waiting.remove(&shard);
            self.wakes.remove(&(hosted.wake_at, shard));
        }
    }

    /// New settings and modules.
    pub fn configure(&mut self, settings: Arc<Settings>, pipeline: Arc<Pipeline>) {
        self.shared.settings = settings;
        self.shared.pipeline = pipeline;
    }

    /// A frame for one of the shards. Frames for another epoch are dropped: who sent them hears of the new owner.
    pub fn handle_frame(&mut self, now: Now, frame: ToShard) {
        self.with(frame.shard, |s, cx| s.handle_frame(now, frame, cx));
    }

    /// A word of the store.
    pub fn handle_completion(&mut self, now: Now, completion: Completion) {
        match completion {
            Completion::Durable(ticket) => {
                self.durable = self.durable.max(ticket);
                let waiting: Vec<ShardId> = self.waiting.iter().copied().collect();
                for id in waiting {
                    self.with(id, |s, cx| s.handle_durable(now, cx));
                }
            }
            Completion::Committed(ticket) => {
                if let Some(id) = self.commits.remove(&ticket) {
                    self.with(id, |s, cx| s.handle_committed(now, ticket, cx));
                }
            }
            Completion::Read { id, result } => {
                let shard = ShardId((id >> 48) as u16);
                self.with(shard, |s, cx| s.handle_read(now, id, result, cx));
            }
            Completion::Slow(_) | Completion::Epoch { .. } => {}
        }
    }

    /// Time has passed.
    pub fn handle_timer(&mut self, now: Now) {
        let due: Vec<ShardId> = self.wakes.iter().take_while(|(at, _)| *at <= now.mono).map(|(_, id)| *id).collect();
        for id in due {
            self.with(id, |s, cx| s.handle_timer(now, cx));
        }
    }

    /// A shard elsewhere (or here) has a new owner or a new link.
    pub fn handle_renewed(&mut self, now: Now, renewed: ShardId) {
        self.for_all(|s, cx| s.handle_renewed(now, renewed, cx));
    }

    /// Connections that are gone without a farewell.
    pub fn handle_conns_lost(&mut self, now: Now, lost: &dyn Fn(ConnId) -> bool) {
        self.for_all(|s, cx| s.handle_conns_lost(now, lost, cx));
    }

    /// The link to an edge is a new one: these are its connections.
    pub fn handle_link_renewed(&mut self, now: Now, of: &dyn Fn(ConnId) -> bool) {
        self.for_all(|s, cx| s.handle_link_renewed(now, of, cx));
    }

    /// When [`Host::handle_timer`] wants to be called.
    pub fn next_wake(&self) -> Instant {
        self.wakes.first().map_or(Instant::NEVER, |(at, _)| *at)
    }

    /// Frames to send, in order.
    pub fn take_out(&mut self) -> Vec<Out> {
        std::mem::take(&mut self.out)
    }

    /// The buffer of [`Host::take_out`] for the next frames; what is in it is dropped. One that has grown beyond
    /// [`OUT_KEPT_MAX`] is given back.
    pub fn reuse(&mut self, mut buffer: Vec<Out>) {
        buffer.clear();
        if self.out.capacity() == 0 && buffer.capacity() <= OUT_KEPT_MAX {
            self.out = buffer;
        }
    }

    /// Nothing waits for the store.
    pub fn is_quiet(&self) -> bool {
        !self.shards().any(|s| s.is_waiting() || s.is_loading())
    }

    /// Its shards (for checkers and metrics).
    pub fn shards(&self) -> impl Iterator<Item = &Shard> {
        self.shards.values().map(|hosted| &hosted.shard)
    }

    fn for_all(&mut self, mut run: impl FnMut(&mut Shard, &mut Cx<'_>)) {
        let ids: Vec<ShardId> = self.shards.keys().copied().collect();
        for id in ids {
            self.with(id, &mut run);
        }
    }

    fn with(&mut self, id: ShardId, run: impl FnOnce(&mut Shard, &mut Cx<'_>)) {
        let Host { shared, shards, commits, durable, heard, out, .. } = self;
        let Some(Hosted { shard, waits, wake_at }) = shards.get_mut(&id) else { return };
        run(shard, &mut Cx { shared, commits, durable: *durable, heard, out });
        if shard.is_waiting() != *waits {
            *waits = !*waits;
            if *waits {
                self.waiting.insert(id);
            } else {
                self.waiting.remove(&id);
            }
        }
        let before = std::mem::replace(wake_at, shard.next_wake());
        if *wake_at != before {
            if before != Instant::NEVER {
                self.wakes.remove(&(before, id));
            }
            if *wake_at != Instant::NEVER {
                self.wakes.insert((*wake_at, id));
            }
        }
    }
}

/// A shard, and how it is listed at its host.
struct Hosted {
    shard: Shard,
    waits: bool,
    wake_at: Instant,
}

/// What a shard works with.
pub struct Cx<'a> {
    shared: &'a Shared,
    commits: &'a mut BTreeMap<Ticket, ShardId>,
    durable: Ticket,
    heard: &'a mut BTreeMap<ShardId, Epoch>,
    out: &'a mut Vec<Out>,
}
