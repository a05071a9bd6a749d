//! One entity of a shard: awake or loading, and what it said that is not durable yet.

use super::Out;
use entity::{Account, Loader, ReadId, Scan};
use frame::ToShardBody;
use std::collections::{BTreeSet, VecDeque};
use types::{BareJid, Batch, Origin, SessionId, Ticket};

/// See the module.
pub(super) struct Slot {
    pub entity: Entity,
    /// What was said, in order, and what it waits for.
    pub lane: VecDeque<Held>,
    /// What the next word of the entity waits for: a ticket of the journal, or a count of its own batches.
    pub need: u64,
    /// Without one order: batches that wait for the one in flight.
    pub batches: VecDeque<Batch>,
    /// Without one order: the batch in flight, and how many of the entity's batches it makes durable.
    pub in_flight: Option<(Ticket, u64)>,
    /// Without one order: batches of this entity that are durable.
    pub committed: u64,
    /// Stanzas that made it panic: they are refused.
    pub poison: Poison,
    /// Marked in the shard's `live` index.
    pub live: bool,
}

/// An entity's state of waking.
pub(super) enum Entity {
    /// Reads are under way (or wait for batches in flight); inputs wait, [`types::limit::PARKED_INPUTS_MAX`] of them.
    /// `missed`: whose presence was not parked; they are asked for it again.
    Loading { loader: Box<Loader>, started: bool, parked: VecDeque<ToShardBody>, missed: BTreeSet<BareJid> },
    /// It takes inputs.
    Awake(Box<Account>),
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
        Slot {
            entity: Entity::Loading { loader: Box::new(loader), started: false, parked: VecDeque::new(), missed: BTreeSet::new() },
            lane: VecDeque::new(),
            need: 0,
            batches: VecDeque::new(),
            in_flight: None,
            committed: 0,
            poison: Poison::default(),
            live,
        }
    }

    /// It waits for the store.
    pub fn is_waiting(&self) -> bool {
        !self.lane.is_empty() || self.in_flight.is_some() || !self.batches.is_empty()
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
