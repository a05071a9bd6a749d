//! What a run is: the shape of the cluster, its clients, its settings and what will break, drawn from the seed.

use crate::client::Client;
use edge::core::Settings as EdgeSettings;
use entity::Settings;
use rand::Rng;
use rand::rngs::SmallRng;
use std::time::Duration;
use store::memory::Hostility;
use store_embedded::sim::SimFaults;
use types::{BareJid, ConnId};

/// What kind of cluster is simulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// One node on the embedded store: a crash takes everything that was not flushed.
    Embedded,
    /// Edges and cores on a store of three hostile replicas.
    Cluster,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The kind.
    pub mode: Mode,
    /// Planes of the node, or nodes of the cluster.
    pub parties: usize,
    /// Of the parties, the first so many are edges (in a cluster).
    pub edges: usize,
    /// Shards.
    pub shards: u16,
    /// Accounts.
    pub accounts: usize,
    /// Accounts that keep no archive.
    pub forgetful: Vec<bool>,
    /// One message in so many makes the account that takes it panic, its sender's or its recipient's; 0: none does.
    pub poison: u32,
    /// Everything stops at once when the faults end.
    pub blackout: bool,
    /// Everybody logs in anew before it, and it comes amid their first words.
    pub first_words: bool,
    /// What was down is there again when the faults end, and the service with it, within [`crate::PROMPT_MS`].
    pub prompt: bool,
    /// Bounds that are smaller than usual: see [`types::unlucky`].
    pub unlucky: (u64, u32),
    /// A process that runs shards dies between two of the things that it says, once in so many times; 0: never.
    pub cut_short: u32,
    /// Milliseconds of faults.
    pub fault_ms: u64,
    /// Milliseconds between faults, about.
    pub fault_every: u64,
    /// Milliseconds between what one client does, about.
    pub pace_ms: u64,
    /// Of a link between nodes.
    pub delay_ms: (u64, u64),
    /// How long sessions outlive their streams, in seconds.
    pub resume_secs: u32,
    /// Messages to a bare JID go to all resources.
    pub bare_to_all: bool,
    /// Weights of the kinds of faults.
    pub weights: [u32; 8],
    /// The disk, while faults go on.
    pub disk: SimFaults,
    /// The replicas, while faults go on.
    pub hostility: Hostility,
    clients: Vec<ClientPlan>,
}

#[derive(Clone, Debug)]
struct ClientPlan {
    account: usize,
    sm: bool,
    carbons: bool,
    priority: i8,
    named: bool,
    slow: u64,
    /// (period, length, offset) of being away.
    away: (u64, u64, u64),
    /// When the faults end it goes, and comes back long after: what its account owes is done without it.
    late: bool,
}

impl Plan {
    /// Draw a plan.
    pub fn draw(mode: Mode, rng: &mut SmallRng) -> Plan {
        let accounts = rng.random_range(2..=4);
        // Sometimes all of them: then nobody wakes an account by asking after it.
        let all_late = rng.random_bool(0.25);
        let late = if all_late { 1.0 } else { 0.3 };
        // Clients without XEP-0198, and accounts without an archive: less is written, and less waits for it.
        let plain = rng.random_bool(0.1);
        let forgetful = (0..accounts).map(|_| rng.random_bool(if plain { 0.4 } else { 0.1 })).collect();
        let mut clients = Vec::new();
        for account in 0..accounts {
            for _ in 0..if rng.random_bool(0.3) { 2 } else { 1 } {
                clients.push(ClientPlan {
                    account,
                    sm: !plain && rng.random_bool(0.9),
                    carbons: rng.random_bool(0.4),
                    priority: if rng.random_bool(0.9) { rng.random_range(0..3) } else { -1 },
                    named: rng.random_bool(0.8),
                    slow: if rng.random_bool(0.3) { rng.random_range(1..3_000) } else { 0 },
                    away: if rng.random_bool(0.4) {
                        (rng.random_range(8_000..30_000), rng.random_range(1_000..8_000), rng.random_range(0..10_000))
                    } else {
                        (0, 0, 0)
                    },
                    late: rng.random_bool(late),
                });
            }
        }
        let mut weights = [0; 8];
        for w in &mut weights {
            *w = if rng.random_bool(0.7) { rng.random_range(1..=6) } else { 0 };
        }
        weights[0] = weights[0].max(1);
        if plain {
            // What is said too early is seen when its speaker dies right behind it.
            weights[2] = 12;
        }
        let poison = if rng.random_bool(0.2) { rng.random_range(10..60) } else { 0 };
        let (edges, cores) = (rng.random_range(1..=3), rng.random_range(1..=4));
        let unlucky = if rng.random_bool(0.5) { 0 } else { rng.random::<u32>() & rng.random::<u32>() };
        Plan {
            mode,
            parties: if mode == Mode::Embedded { 2 } else { edges + cores },
            edges,
            shards: [1, 2, 8, 8, 16][rng.random_range(0..5)],
            accounts,
            forgetful,
            poison,
            blackout: rng.random_bool(if all_late { 0.7 } else { 0.2 }),
            first_words: rng.random_bool(0.5),
            // What makes accounts panic is still on its way when the faults end.
            prompt: rng.random_bool(0.6) && poison == 0,
            unlucky: (rng.random(), unlucky),
            cut_short: if rng.random_bool(0.3) { rng.random_range(100..3_000) } else { 0 },
            fault_ms: rng.random_range(10_000..40_000),
            fault_every: if plain { rng.random_range(1_500..6_000) } else { rng.random_range(200..6_000) },
            pace_ms: rng.random_range(100..1_200),
            delay_ms: (0, if rng.random_bool(0.5) { 3 } else { rng.random_range(3..150) }),
            resume_secs: if rng.random_bool(0.7) { 40 } else { rng.random_range(1..8) },
            bare_to_all: rng.random_bool(0.3),
            weights,
            disk: {
                // A tiny group splits what is written together.
                let group_bytes_max = if rng.random_bool(0.6) { 4 << 20 } else { rng.random_range(1..2_000) };
                let usual = SimFaults { group_bytes_max, ..SimFaults::default() };
                if rng.random_bool(0.5) && !plain {
                    usual
                } else {
                    SimFaults { sync_ms: (0, rng.random_range(1..150)), slow_sync: 0.03, slow_sync_ms: (20, 1_500), ..usual }
                }
            },
            hostility: match rng.random_range(0..4) {
                0 => Hostility::none(),
                1 => Hostility::default(),
                _ => Hostility::draw(rng),
            },
            clients,
        }
    }

    /// Two edges, two cores, and so many accounts with one client each, of which each knows all others.
    pub fn crowd(&mut self, clients: usize) {
        let some = self.clients.clone();
        let one = |account| ClientPlan { account, named: true, ..some[account % some.len()].clone() };
        self.clients = (0..clients).map(one).collect();
        (self.accounts, self.forgetful, self.edges) = (clients, vec![false; clients], 2);
        self.parties = if self.mode == Mode::Embedded { 2 } else { 4 };
    }

    /// Clients stay, and acknowledge at once.
    pub fn steady(&mut self) {
        for c in &mut self.clients {
            (c.slow, c.away) = (0, (0, 0, 0));
        }
    }

    /// The clients, all offline.
    pub fn clients(&self) -> Vec<Client> {
        let mut first = vec![true; self.accounts];
        let peers = |account: usize| (0..self.accounts).filter(|a| *a != account).collect();
        self.clients
            .iter()
            .enumerate()
            .map(|(id, p)| {
                let mut c = Client::new(id, p.account, peers(p.account));
                c.sm = p.sm;
                c.carbons = p.carbons;
                c.priority = p.priority;
                c.resource = p.named.then(|| format!("r{id}"));
                c.slow = p.slow;
                c.poison = self.poison;
                c.alone = p.named && self.clients.iter().filter(|o| o.account == p.account).count() == 1;
                c.subscribes = std::mem::take(&mut first[p.account]);
                c.archives = !self.forgetful[p.account];
                c.forgets = c.subscribes && self.forgetful[p.account];
                c
            })
            .collect()
    }

    /// Is the client away at this moment, by its habits?
    pub fn away(&self, client: usize, now: u64) -> bool {
        let (period, length, offset) = self.clients[client].away;
        period > 0 && now > crate::SETUP_MS && (now + offset) % period < length
    }

    /// Does the client go when the faults end?
    pub fn late(&self, client: usize) -> bool {
        self.clients[client].late
    }

    /// (edge, core)
    pub fn roles(&self, party: usize) -> (bool, bool) {
        match self.mode {
            Mode::Embedded => (true, true),
            Mode::Cluster => (party < self.edges, party >= self.edges),
        }
    }

    /// The name of a connection.
    pub fn conn_id(&self, party: usize, slot: u64) -> ConnId {
        let party = u16::try_from(party).unwrap_or(u16::MAX);
        match self.mode {
            Mode::Embedded => ConnId { node: 0, plane: party, slot },
            Mode::Cluster => ConnId { node: party, plane: 0, slot },
        }
    }

    /// Where a connection is.
    pub fn party_of(&self, conn: ConnId) -> usize {
        match self.mode {
            _ if conn.node == u16::MAX => 0,
            Mode::Embedded => conn.plane.into(),
            Mode::Cluster => conn.node.into(),
        }
    }

    /// Of connections.
    pub fn edge_settings(&self) -> EdgeSettings {
        let domain = BareJid::parse("localhost").into_iter().collect();
        let mut settings = EdgeSettings::new(domain);
        settings.idle_timeout = Duration::from_secs(15);
        settings.idle_answer_timeout = Duration::from_secs(10);
        settings.iterations = 1;
        settings
    }

    /// Of entities.
    pub fn settings(&self) -> Settings {
        let defaults = Settings::default();
        let attaching = if self.mode == Mode::Embedded { Duration::ZERO } else { defaults.attaching };
        Settings { resume_secs_max: self.resume_secs, bare_to_all: self.bare_to_all, attaching, ..defaults }
    }
}
