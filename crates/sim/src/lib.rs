//! The simulated cluster: the production cores (connections, shards, entities, the stores' logic) under a virtual clock,
//! with clients that speak XML, seeded faults, and checkers for the promise.
//!
//! One thread, one source of chance: a seed replays exactly. Nothing of it is a model: what runs is what the server runs,
//! only sockets, threads, gRPC, placement's consensus and the disk are imitated. Start with [`run`].
//!
//! A seed draws a plan (`plan`): the cluster, its clients, tiny bounds in the product ([`types::unlucky`]), and what breaks
//! (`faults`). What clients said and heard is in a book (`book`), which `check` holds against the store. A run that fails is made
//! small by [`shrink()`], which leaves things out of the plan ([`Less`]); [`run_covering`] counts which event met which state.

mod audit;
mod book;
mod check;
mod client;
mod coverage;
mod faults;
mod less;
mod net;
mod plan;
mod poison;
mod shrink;
mod trace;
mod world;

pub use coverage::Coverage;
pub use less::{Less, Without};
pub use plan::Mode;
pub use shrink::shrink;

use frame::EdgeMsg;
use rand::Rng;
use sasl::{Credentials, Hash, Keys};
use trace::Trace;
use types::{BareJid, ReqId};
use world::{Event, Stores, World};

/// Milliseconds without faults in which accounts are made and clients make friends.
const SETUP_MS: u64 = 8_000;
/// Milliseconds after which everybody who asks is served again, once everything that was down may come back.
const PROMPT_MS: u64 = 10_000;
/// Milliseconds behind the faults in which those clients that went are not back: what was accepted arrives without them.
const ALONE_MS: u64 = 40_000;
/// Milliseconds of rest after the faults: longer than any timeout.
const REST_MS: u64 = 150_000;
/// Milliseconds in which clients read what was kept for them.
const AUDIT_MS: u64 = 20_000;
/// How often bounds are checked.
const BOUNDS_EVERY_MS: u64 = 500;

/// How one seed went.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What went wrong first.
    pub failure: Option<String>,
    /// Milliseconds simulated.
    pub simulated_ms: u64,
    /// Messages sent by clients.
    pub messages: u64,
    /// Messages delivered to clients.
    pub deliveries: u64,
    /// Streams resumed.
    pub resumed: u64,
    /// Resumptions refused.
    pub failed: u64,
    /// Faults.
    pub faults: u32,
    /// Things that clients did.
    pub acts: u32,
    /// Hash of everything that happened.
    pub hash: u64,
    /// The last lines of the trace, if kept.
    pub lines: Vec<String>,
}

/// How much of the trace is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Only the hash.
    Hash,
    /// The last lines.
    Last,
    /// Every line, printed at once.
    All,
}

/// Run one seed.
pub fn run(seed: u64, mode: Mode, keep: Keep) -> Outcome {
    run_less(seed, mode, &Less::default(), keep)
}

/// Run one seed without some of its trouble.
pub fn run_less(seed: u64, mode: Mode, less: &Less, keep: Keep) -> Outcome {
    play(World::new(seed, mode, less.clone(), Trace::new(keep != Keep::Hash, keep == Keep::All))).0
}

/// Run one seed and take down which event met which state.
pub fn run_covering(seed: u64, mode: Mode, coverage: &mut Coverage) -> Outcome {
    let mut world = World::new(seed, mode, Less::default(), Trace::new(false, false));
    world.coverage = Some(Coverage::default());
    let (outcome, seen) = play(world);
    coverage.add(seen);
    outcome
}

fn play(mut world: World) -> (Outcome, Coverage) {
    world.say_plan();
    types::unlucky::set(world.plan.unlucky.0, world.plan.unlucky.1);
    set_up(&mut world);
    if world.book.failure.is_none() {
        let end = world.now + world.plan.fault_ms;
        world.faulty = true;
        match &world.store {
            Stores::Sim(store) => store.set_faults(world.plan.disk.clone()),
            Stores::Hostile(store) => store.set_hostility(world.plan.hostility.clone()),
        }
        world.at(0, 500, Event::Fault);
        for client in 0..world.clients.len() {
            world.at(0, 500, Event::Act { client });
        }
        while world.now < end && world.book.failure.is_none() {
            let next = end.min(world.now + BOUNDS_EVERY_MS);
            world.run_until(next);
            world.check_bounds();
        }
    }
    if world.plan.blackout && world.plan.first_words && world.book.failure.is_none() {
        world.log_in_anew();
    }
    if world.book.failure.is_none() {
        world.heal();
        let healed = world.now;
        if world.plan.prompt {
            world.run_until(healed + PROMPT_MS / 2);
            world.look();
            world.run_until(healed + PROMPT_MS);
            world.check_served(healed);
        }
        world.run_until(healed + ALONE_MS);
    }
    if world.book.failure.is_none() {
        world.check_delivered();
        world.returned = true;
        let end = world.now + REST_MS;
        world.run_until(end);
    }
    if world.book.failure.is_none() {
        world.audit();
        let end = world.now + AUDIT_MS;
        world.run_until(end);
    }
    if world.book.failure.is_none() {
        world.check_all();
    }
    types::unlucky::set(0, 0);
    let lines = world.trace.lines().map(str::to_owned).collect();
    let outcome = Outcome {
        failure: world.book.failure.clone(),
        simulated_ms: world.now,
        messages: world.book.messages.len() as u64,
        deliveries: world.book.deliveries,
        resumed: world.book.resumed,
        failed: world.book.failed,
        faults: world.faults,
        acts: world.acts,
        hash: world.trace.hash(),
        lines,
    };
    (outcome, world.coverage.unwrap_or_default())
}

/// Accounts are made, clients come online and subscribe to each other.
fn set_up(world: &mut World) {
    world.begin();
    for account in 0..world.plan.accounts {
        let Ok(jid) = BareJid::parse(&client::account_jid(account)) else { continue };
        let Some(credentials) = cheap_credentials() else { return world.fail("no credentials") };
        world.administer(&jid, EdgeMsg::Create { req: ReqId(1), credentials: credentials.encode().into() });
    }
    for client in 0..world.clients.len() {
        let at = world.rng.random_range(1_000..1_500);
        world.at_exactly(at, Event::Connect { client });
    }
    world.run_until(SETUP_MS);
}

/// Keys that no password has: the simulation answers for the password.
fn cheap_credentials() -> Option<Credentials> {
    let keys = |hash, len: usize| Keys::new(hash, &vec![7; len], &vec![8; len], &[9; 16], 4_096).ok();
    Credentials::from_keys(keys(Hash::Sha1, 20)?, keys(Hash::Sha256, 32)?).ok()
}

impl World {
    /// Every client reads its roster, its block list and its archive.
    fn audit(&mut self) {
        for client in 0..self.clients.len() {
            self.clients[client].audit();
            self.grant(client);
        }
    }

    /// Every client asks for something.
    fn look(&mut self) {
        for client in 0..self.clients.len() {
            if self.clients[client].phase == client::Phase::Online {
                self.clients[client].look();
                self.grant(client);
            }
        }
    }

    fn say_plan(&mut self) {
        let plan = format!("{:?}", self.plan);
        self.say(|| plan);
    }
}
