//! One entity of a shard: awake or loading, and what it said that is not durable yet.

use super::Out;
use entity::{Account, Loader, ReadId, Scan};
use frame::ToShardBody;
use std::collections::{BTreeSet, VecDeque};
use types::{BareJid, Batch, ConnId, Instant, Origin, SessionId, Ticket};

/// See the module.
pub(super) struct Slot {
    pub entity: Entity,
    /// What was said, in order, and what it waits for.
    pub lane: VecDeque<Held>,
    /// What the next word of the entity waits for: a ticket of the journal, or a count of its own batches.
    pub need: u64,
    /// What it has at the store and cannot be told by [`Slot::need`] alone. An idle entity holds no box.
    pub own: Option<Box<Own>>,
    /// Stanzas that made it panic: they are refused.
    pub poison: Option<Box<Poison>>,
    /// Marked in the shard's `live` index.
    pub live: bool,
    /// When the shard looks after it, or [`Instant::NEVER`]; it may want so later than that.
    pub wake_at: Instant,
}

/// See [`Slot::own`].
pub(super) enum Own {
    /// Under a journal: written, and all but one connection wait for it.
    Later {
        ticket: Ticket,
        /// The connection that does not wait for it.
        but: ConnId,
    },
    /// Without one order.
    Batches(Batches),
}

/// The batches of an entity where the store gives no order to those of different partitions.
#[derive(Default)]
pub(super) struct Batches {
    /// They wait for the one in flight.
    pub waiting: VecDeque<Batch>,
    /// The batch in flight, and how many of the entity's batches it makes durable.
    pub in_flight: Option<(Ticket, u64)>,
    /// Those that are durable.
    pub committed: u64,
}

/// An entity's state of waking. A slot is in a hash map, where each byte counts nearly twice: so both are boxes.
pub(super) enum Entity {
    /// Reads are under way, or wait for batches in flight.
    Loading(Box<Loading>),
    /// It takes inputs.
    Awake(Box<Account>),
}

/// An entity that wakes.
pub(super) struct Loading {
    pub loader: Loader,
    pub started: bool,
    /// Inputs that wait, at most [`types::limit::PARKED_INPUTS_MAX`].
    pub parked: VecDeque<ToShardBody>,
    /// Whose presence was not parked; they are asked for it again.
    pub missed: BTreeSet<BareJid>,
}

/// Something said, and what it waits for.
pub(super) struct Held {
    pub need: u64,
    pub what: Said,
}

/// See [`Held`].
pub(super) enum Said {
    Frame(Out),
    Read(ReadId, Scan),
}

/// See [`Slot::poison`]. Bounded by [`POISON_MAX`].
#[derive(Default)]
pub(super) struct Poison {
    pub inputs: Vec<(SessionId, u64)>,
    pub forwards: Vec<(BareJid, Origin)>,
}

/// Accounts whose presence one loading entity can miss and ask for again; that of further ones is lost.
pub(super) const MISSED_MAX: usize = 4_096;

/// Poisonous stanzas that one entity remembers until it sleeps; the oldest is forgotten.
pub(super) const POISON_MAX: usize = 64;

impl Slot {
    pub fn loading(loader: Loader, live: bool) -> Slot {
        Slot { entity: Entity::loading(loader), lane: VecDeque::new(), need: 0, own: None, poison: None, live, wake_at: Instant::NEVER }
    }

    /// Under a journal: what is said from here on waits for this, but not what one connection hears.
    pub fn wait_later(&mut self, ticket: Ticket, but: ConnId) {
        self.own = Some(Box::new(Own::Later { ticket, but }));
    }

    fn later(&self) -> Option<(Ticket, ConnId)> {
        match self.own.as_deref() {
            Some(Own::Later { ticket, but }) => Some((*ticket, *but)),
            _ => None,
        }
    }

    /// Under a journal: somebody hears of what was written, and it is no longer for later.
    pub fn wait_for_all(&mut self) -> Option<Ticket> {
        let (ticket, _) = self.later()?;
        self.own = None;
        self.need = self.need.max(ticket.0);
        Some(ticket)
    }

    /// What is durable nobody waits for.
    pub fn forget_later(&mut self, durable: Ticket) {
        if self.later().is_some_and(|(ticket, _)| ticket <= durable) {
            self.wait_for_all();
        }
    }

    /// What this connection hears need not wait.
    pub fn is_for_later(&self, conn: ConnId) -> bool {
        self.later().is_some_and(|(_, but)| but == conn)
    }

    /// It waits for the store.
    pub fn is_waiting(&self) -> bool {
        !self.lane.is_empty() || self.is_committing() || self.later().is_some()
    }

    /// Without one order: its batches.
    pub fn batches(&mut self) -> Option<&mut Batches> {
        match self.own.as_deref_mut() {
            Some(Own::Batches(batches)) => Some(batches),
            _ => None,
        }
    }

    /// Without one order: one more batch, behind those that wait.
    pub fn push(&mut self, batch: Batch) {
        self.need += 1;
        if let Own::Batches(batches) = &mut **self.own.get_or_insert_with(|| Box::new(Own::Batches(Batches::default()))) {
            batches.waiting.push_back(batch);
        }
    }

    /// Without one order: a batch is in flight, or waits for one.
    pub fn is_committing(&self) -> bool {
        matches!(self.own.as_deref(), Some(Own::Batches(own)) if own.in_flight.is_some() || !own.waiting.is_empty())
    }

    /// Batches of its own that are durable, without one order.
    pub fn committed(&self) -> u64 {
        if let Some(Own::Batches(own)) = self.own.as_deref() { own.committed } else { 0 }
    }
}

impl Entity {
    pub fn loading(loader: Loader) -> Entity {
        Entity::Loading(Box::new(Loading { loader, started: false, parked: VecDeque::new(), missed: BTreeSet::new() }))
    }
}

impl Poison {
    pub fn add_input(&mut self, session: SessionId, n: u64) {
        if self.inputs.len() >= POISON_MAX {
            self.inputs.remove(0);
        }
        self.inputs.push((session, n));
    }

    pub fn add_forward(&mut self, from: BareJid, origin: Origin) {
        if self.forwards.len() >= POISON_MAX {
            self.forwards.remove(0);
        }
        self.forwards.push((from, origin));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words that every account awake has. Who needs another one says so here.
    #[test]
    fn what_every_account_has_is_bounded() {
        for (what, bytes, bytes_max) in [
            ("slot", size_of::<Slot>(), 88),
            ("account", size_of::<Account>(), 512),
            ("session", size_of::<entity::session::Session>(), 248),
        ] {
            println!("{what}: {bytes} B");
            assert!(bytes <= bytes_max, "{what}: {bytes} B, at most {bytes_max}");
        }
    }
}
