//! What breaks, and how it comes back.

use crate::net::{Owner, Payload, Waiting};
use crate::plan::Mode;
use crate::world::{Event, Stores, World};
use rand::Rng;
use types::{Epoch, ShardId};

/// Milliseconds in which somebody who has logged in anew has said something.
const FIRST_WORDS_MS: u64 = 5_000;

impl World {
    /// The cluster starts for the first time.
    pub fn begin(&mut self) {
        match self.plan.mode {
            Mode::Embedded => self.start_node(),
            Mode::Cluster => {
                for p in 0..self.parties.len() {
                    self.start_party(p);
                }
                self.epoch = 1;
                let cores = self.cores();
                for shard in (0..self.plan.shards).map(ShardId) {
                    let party = cores[usize::from(shard.0) % cores.len()];
                    let owner = Owner { party, epoch: Epoch(1) };
                    self.owners.push(owner);
                    for p in &self.parties {
                        p.view.set(shard, Some(owner));
                    }
                    self.take(party, shard, owner.epoch);
                }
            }
        }
    }

    /// Cores that run.
    fn cores(&self) -> Vec<usize> {
        (0..self.parties.len()).filter(|p| self.parties[*p].is_core && self.parties[*p].up && !self.parties[*p].stopped).collect()
    }

    /// The single node starts: every shard is its own, under a new epoch.
    fn start_node(&mut self) {
        self.epoch += 1;
        for p in 0..self.parties.len() {
            self.start_party(p);
        }
        let epoch = Epoch(self.epoch);
        self.owners = (0..self.plan.shards).map(|s| Owner { party: usize::from(s) % self.parties.len(), epoch }).collect();
        for (shard, owner) in (0..self.plan.shards).map(ShardId).zip(self.owners.clone()) {
            for p in &self.parties {
                p.view.set(shard, Some(owner));
            }
        }
        for (shard, owner) in (0..self.plan.shards).map(ShardId).zip(self.owners.clone()) {
            self.take(owner.party, shard, epoch);
        }
    }

    fn take(&mut self, p: usize, shard: ShardId, epoch: Epoch) {
        let now = self.clock();
        self.say(|| format!("p{p} takes s{} e{}", shard.0, epoch.0));
        if let Some(host) = &mut self.parties[p].host {
            host.take(now, shard, epoch);
        }
        self.route(p);
    }

    /// The process of the single node is killed, or its machine loses power.
    pub fn crash_node(&mut self) {
        if !self.parties[0].up {
            return;
        }
        self.say(|| "the node dies".into());
        self.tickets.values_mut().for_each(|ticket| *ticket = types::Ticket::NONE);
        self.book.lost.push(self.now);
        if let Stores::Sim(store) = &self.store {
            store.crash();
        }
        for p in 0..self.parties.len() {
            self.parties[p].up = false;
            self.parties[p].host = None;
            self.parties[p].plane = None;
        }
        self.lose_conns(&|_| true);
        let life = self.parties[0].life;
        self.at(20, 3_000, Event::Start { party: 0, life });
    }

    /// Connections are gone with their process: clients hear of it, or find out.
    fn lose_conns(&mut self, of: &dyn Fn(usize) -> bool) {
        let gone: Vec<u64> = self.conns.iter().filter(|(_, c)| of(c.party)).map(|(slot, _)| *slot).collect();
        let quiet = self.rng.random_bool(0.2) && self.faulty;
        for slot in gone {
            self.conns.remove(&slot);
            if !quiet {
                self.at(10, 200, Event::ToClient { slot, bytes: None });
            }
        }
    }

    /// One of the things that only happen to processes, links and disks.
    pub(crate) fn fault(&mut self, event: Event) {
        match event {
            Event::Fault if self.faulty => {
                let every = self.plan.fault_every;
                std::mem::swap(&mut self.rng, &mut self.chaos);
                self.at(every / 4, every * 2, Event::Fault);
                if self.next_fault() {
                    self.break_something();
                }
                std::mem::swap(&mut self.rng, &mut self.chaos);
            }
            Event::Start { party, life } if !self.parties[party].up && self.parties[party].life == life => self.start_again(party),
            Event::Wake { party, life } if self.parties[party].life == life => self.wake(party),
            Event::Reassign { party, life, dead } => {
                // It may have come back in time.
                let p = &self.parties[party];
                if p.life == life && (dead || p.stopped) {
                    self.reassign(party);
                }
            }
            Event::Give { shard, epoch } if self.owners[usize::from(shard.0)].epoch == epoch => self.give(shard),
            Event::Take { party, shard, epoch } => self.take_if_still(party, shard, epoch),
            Event::Heard { party, shard, owner } => self.heard(party, shard, owner),
            Event::Renew { a, b } => self.renew(a, b),
            Event::ConnsLost { party, edge, slot } => self.conns_lost(party, edge, slot),
            Event::Room => {
                if let Stores::Sim(store) = &self.store {
                    store.set_low_space(false);
                }
            }
            _ => {}
        }
    }

    /// Counts a fault. `false`: it is left out.
    pub(crate) fn next_fault(&mut self) -> bool {
        self.faults += 1;
        self.less.has_fault(self.faults)
    }

    fn break_something(&mut self) {
        let weights = self.plan.weights;
        let kinds = if self.plan.mode == Mode::Embedded { 5 } else { 8 };
        let sum: u32 = weights[..kinds].iter().sum();
        let mut pick = self.rng.random_range(0..sum.max(1));
        let mut kind = 0;
        while kind + 1 < kinds && pick >= weights[kind] {
            pick -= weights[kind];
            kind += 1;
        }
        let client = self.rng.random_range(0..self.clients.len());
        match (self.plan.mode, kind) {
            (_, 0) => self.cut_client(client, true),
            (_, 1) => self.cut_client(client, false),
            (Mode::Embedded, 2) => self.crash_node(),
            (Mode::Embedded, 3) => {
                if let Stores::Sim(store) = &self.store {
                    store.fail_next_commit();
                }
            }
            (Mode::Embedded, _) => {
                if let Stores::Sim(store) = &self.store {
                    store.set_low_space(true);
                }
                let until = self.now + self.rng.random_range(10..2_000);
                self.book.low_space.push((self.now, until));
                self.at_exactly(until, Event::Room);
            }
            (Mode::Cluster, 2) => {
                if let Some(p) = self.some(|p| p.is_edge) {
                    self.crash_edge(p);
                }
            }
            (Mode::Cluster, 3) => {
                if let Some(p) = self.some(|p| p.is_core) {
                    self.crash_core(p);
                }
            }
            (Mode::Cluster, 4) => self.break_link(),
            (Mode::Cluster, 5) => self.stop_party(false),
            (Mode::Cluster, 6) => self.stop_party(true),
            (Mode::Cluster, _) => self.move_shard(),
        }
    }

    fn some(&mut self, of: impl Fn(&crate::net::Party) -> bool) -> Option<usize> {
        let all: Vec<usize> =
            (0..self.parties.len()).filter(|p| self.parties[*p].up && !self.parties[*p].stopped && of(&self.parties[*p])).collect();
        if all.is_empty() { None } else { Some(all[self.rng.random_range(0..all.len())]) }
    }

    /// A process dies between two of its words.
    pub(crate) fn cut_short(&mut self, p: usize) {
        match self.plan.mode {
            Mode::Embedded => self.crash_node(),
            Mode::Cluster => self.crash_core(p),
        }
    }

    /// Everything stops.
    fn black_out(&mut self) {
        for p in 0..self.parties.len() {
            if !self.parties[p].up || self.parties[p].stopped {
                continue;
            }
            match self.plan.mode {
                Mode::Embedded => self.crash_node(),
                Mode::Cluster if self.parties[p].is_core => self.crash_core(p),
                Mode::Cluster => self.crash_edge(p),
            }
        }
    }

    /// What is down comes back at once, and who holds a dead socket hears of it.
    fn come_back(&mut self) {
        let soon = 300;
        self.plan.delay_ms.1 = self.plan.delay_ms.1.min(5);
        for p in 0..self.parties.len() {
            let (life, up, stopped) = (self.parties[p].life, self.parties[p].up, self.parties[p].stopped);
            let starts = self.plan.mode == Mode::Cluster || p == 0;
            if !up && starts {
                self.at(0, soon, Event::Start { party: p, life });
            } else if stopped {
                self.at(0, soon, Event::Wake { party: p, life });
            }
        }
        let broken: Vec<(usize, usize)> = self.links.iter().filter(|(_, l)| !l.up).map(|(pair, _)| *pair).collect();
        for (a, b) in broken {
            self.at(0, soon, Event::Renew { a, b });
        }
        for slot in self.sockets.iter().flatten().copied().collect::<Vec<u64>>() {
            if !self.conns.contains_key(&slot) {
                self.at(0, soon, Event::ToClient { slot, bytes: None });
            }
        }
    }

    fn crash_edge(&mut self, p: usize) {
        self.book.lost.push(self.now);
        self.say(|| format!("edge p{p} dies"));
        let slot = self.conns.keys().next_back().copied().unwrap_or(0);
        self.kill(p);
        self.lose_conns(&|party| party == p);
        self.tell_conns_lost(p, slot);
    }

    fn tell_conns_lost(&mut self, edge: usize, slot: u64) {
        for party in 0..self.parties.len() {
            if self.parties[party].is_core {
                self.at(10, 2_000, Event::ConnsLost { party, edge, slot });
            }
        }
    }

    fn crash_core(&mut self, p: usize) {
        if !self.parties[p].up {
            return;
        }
        self.book.lost.push(self.now);
        self.say(|| format!("core p{p} dies"));
        if let (Stores::Hostile(store), Some(plane)) = (&self.store, self.parties[p].plane) {
            store.client_died(plane);
        }
        self.parties[p].host = None;
        self.parties[p].plane = None;
        let life = self.parties[p].life;
        self.kill(p);
        self.at(300, 3_000, Event::Reassign { party: p, life, dead: true });
    }

    fn kill(&mut self, p: usize) {
        let life = self.parties[p].life;
        self.parties[p].up = false;
        let cut = self.rng.random_bool(0.5);
        for ((from, to), link) in &mut self.links {
            if *from == p && cut || *to == p {
                link.generation += 1;
            }
        }
        self.at(500, 10_000, Event::Start { party: p, life });
    }

    fn start_again(&mut self, p: usize) {
        if self.plan.mode == Mode::Cluster {
            self.say(|| format!("p{p} starts again"));
            self.start_party(p);
            for (shard, owner) in self.owners.clone().into_iter().enumerate() {
                let shard = ShardId(u16::try_from(shard).unwrap_or(0));
                self.parties[p].view.set(shard, Some(owner));
                if owner.party == p {
                    // It was not away long enough for another owner to be found.
                    self.give(shard);
                }
            }
            return;
        }
        let Stores::Sim(store) = &self.store else { return };
        match store.reopen() {
            Ok(recovered) => {
                self.say(|| format!("the node starts again: {recovered:?}"));
                self.start_node();
            }
            Err(e) => self.fail(format!("the store does not open after a crash: {e}")),
        }
    }

    /// Every shard of a party goes to another core, under a higher epoch.
    fn reassign(&mut self, party: usize) {
        for shard in 0..self.plan.shards {
            if self.owners[usize::from(shard)].party == party {
                self.give(ShardId(shard));
            }
        }
    }

    fn give(&mut self, shard: ShardId) {
        let cores = self.cores();
        let old = self.owners[usize::from(shard.0)];
        if cores.is_empty() {
            return self.at(200, 500, Event::Give { shard, epoch: old.epoch });
        }
        let party = cores[self.rng.random_range(0..cores.len())];
        let owner = Owner { party, epoch: Epoch(old.epoch.0 + 1) };
        self.book.lost.push(self.now);
        self.owners[usize::from(shard.0)] = owner;
        // Who has it stops before another may start.
        self.heard(old.party, shard, Some(owner));
        self.at(0, 500, Event::Take { party, shard, epoch: owner.epoch });
    }

    fn take_if_still(&mut self, party: usize, shard: ShardId, epoch: Epoch) {
        let owner = Owner { party, epoch };
        if self.owners[usize::from(shard.0)] != owner {
            return;
        }
        if !self.parties[party].up {
            return self.give(shard);
        }
        if self.parties[party].stopped {
            return self.at(50, 100, Event::Take { party, shard, epoch });
        }
        self.heard(party, shard, Some(owner));
        self.take(party, shard, epoch);
        for p in 0..self.parties.len() {
            if p != party {
                self.at(0, 300, Event::Heard { party: p, shard, owner: Some(owner) });
            }
        }
    }

    fn heard(&mut self, p: usize, shard: ShardId, owner: Option<Owner>) {
        let Some(new) = owner else { return };
        let known = self.parties[p].view.owner(shard);
        if !self.parties[p].up || known.is_some_and(|k| k.epoch > new.epoch) {
            return;
        }
        if self.parties[p].stopped {
            // It hears when it wakes.
            self.parties[p].missed.insert(shard);
            return;
        }
        self.parties[p].view.set(shard, owner);
        self.say(|| format!("p{p} hears that s{} is p{} e{}", shard.0, new.party, new.epoch.0));
        let now = self.clock();
        if let Some(host) = &mut self.parties[p].host {
            if known != Some(new) {
                host.drop_shard(shard);
            }
            host.handle_renewed(now, shard);
        }
        self.route(p);
        let (now_known, early) = std::mem::take(&mut self.parties[p].early).into_iter().partition(|f: &frame::ToShard| f.shard == shard);
        self.parties[p].early = early;
        let now_known: Vec<frame::ToShard> = now_known;
        for frame in now_known.into_iter().filter(|f| f.epoch == new.epoch) {
            self.send(p, new.party, Payload::Shard(Box::new(frame)));
        }
        self.tell_conns(p, shard, new.epoch);
    }

    fn tell_conns(&mut self, p: usize, shard: ShardId, epoch: Epoch) {
        let shards = self.plan.shards;
        let concerned = |jid: &types::BareJid| rpc::shard_of(jid.as_str(), shards) == shard;
        let slots: Vec<u64> =
            self.conns.iter().filter(|(_, c)| c.party == p && c.core.concerns().is_some_and(concerned)).map(|(slot, _)| *slot).collect();
        for slot in slots {
            self.cover_conn(slot, || "a new owner".into());
            self.with_conn(slot, |c, now| c.handle_placement(now, shard, epoch));
        }
    }

    fn break_link(&mut self) {
        let a = self.rng.random_range(0..self.parties.len());
        let b = self.rng.random_range(0..self.parties.len());
        if a == b {
            return;
        }
        self.book.lost.push(self.now);
        self.say(|| format!("the link p{a} - p{b} breaks"));
        for pair in [(a, b), (b, a)] {
            let link = self.links.entry(pair).or_insert(crate::net::Link { generation: 0, last: 0, up: true });
            link.generation += 1;
            link.up = false;
        }
        self.at(10, 4_000, Event::Renew { a, b });
    }

    fn renew(&mut self, a: usize, b: usize) {
        for pair in [(a, b), (b, a)] {
            if let Some(link) = self.links.get_mut(&pair) {
                link.up = true;
            }
        }
        self.say(|| format!("the link p{a} - p{b} is there again"));
        let now = self.clock();
        for (me, peer) in [(a, b), (b, a)] {
            let node = self.plan.conn_id(peer, 0).node;
            if self.parties[me].up
                && self.parties[peer].is_edge
                && let Some(host) = &mut self.parties[me].host
            {
                host.handle_link_renewed(now, &|conn| conn.node == node);
            }
            self.route(me);
            for shard in (0..self.plan.shards).map(ShardId) {
                let known = self.parties[me].view.owner(shard);
                if known.is_some_and(|o| o.party == peer) {
                    self.heard(me, shard, known);
                }
            }
        }
    }

    fn conns_lost(&mut self, p: usize, edge: usize, slot: u64) {
        let now = self.clock();
        if !self.parties[p].up {
            return;
        }
        let stopped = self.parties[edge].stopped;
        if self.parties[p].stopped {
            return self.at(100, 200, Event::ConnsLost { party: p, edge, slot });
        }
        self.say(|| format!("p{p} takes the connections of p{edge} up to c{slot} for lost"));
        // A link has a number: what a dead process sent is not read any more.
        if let Some(link) = self.links.get_mut(&(edge, p)).filter(|_| !stopped) {
            link.generation += 1;
            self.at(0, 10, Event::Renew { a: edge, b: p });
        }
        let node = self.plan.conn_id(edge, 0).node;
        if let Some(host) = &mut self.parties[p].host {
            host.handle_conns_lost(now, &|conn| conn.node == node && conn.slot <= slot);
        }
        self.route(p);
    }

    fn stop_party(&mut self, core: bool) {
        let Some(p) = self.some(|p| if core { p.is_core } else { p.is_edge }) else { return };
        let ms = self.rng.random_range(50..8_000);
        self.say(|| format!("p{p} stops for {ms} ms"));
        self.parties[p].stopped = true;
        self.book.lost.push(self.now + ms);
        let life = self.parties[p].life;
        self.at(ms, ms, Event::Wake { party: p, life });
        if core {
            self.at(1_500, 2_500, Event::Reassign { party: p, life, dead: false });
        } else if ms > 1_000 {
            let slot = self.conns.keys().next_back().copied().unwrap_or(0);
            let at = self.rng.random_range(500..4_000);
            if at < ms {
                for party in 0..self.parties.len() {
                    if self.parties[party].is_core {
                        self.at(at, at + 100, Event::ConnsLost { party, edge: p, slot });
                    }
                }
            }
        }
    }

    fn wake(&mut self, p: usize) {
        if !self.parties[p].up || !self.parties[p].stopped {
            return;
        }
        self.say(|| format!("p{p} goes on"));
        self.parties[p].stopped = false;
        // A lease that ended meanwhile is noticed first: it owns what it still owns.
        for shard in (0..self.plan.shards).map(ShardId) {
            let owner = self.owners[usize::from(shard.0)];
            // Or a link of it is a new one.
            let missed = self.parties[p].missed.remove(&shard);
            if missed || self.parties[p].view.owner(shard) != Some(owner) {
                self.heard(p, shard, Some(owner));
            }
        }
        let waiting = std::mem::take(&mut self.parties[p].waiting);
        for w in waiting {
            match w {
                Waiting::Frame(payload) => self.deliver(p, payload),
                Waiting::Completion(completion) => self.complete(p, completion),
            }
        }
        let conns: Vec<(u64, bool)> = self.conns.iter().filter(|(_, c)| c.party == p).map(|(s, c)| (*s, c.client_open)).collect();
        for (slot, open) in conns {
            self.with_conn(slot, |c, now| {
                if !open {
                    c.handle_closed(now)
                }
            });
        }
    }

    fn move_shard(&mut self) {
        let shard = ShardId(self.rng.random_range(0..self.plan.shards));
        let owner = self.owners[usize::from(shard.0)];
        if self.parties[owner.party].up && !self.parties[owner.party].stopped {
            self.say(|| format!("s{} moves", shard.0));
            self.give(shard);
        }
    }

    /// Everybody goes for a while and logs in anew, until soon after one of them has said something: what an account writes
    /// for the first time is under way.
    pub fn log_in_anew(&mut self) {
        self.nobody_until = self.now + self.rng.random_range(2_000..12_000);
        for client in 0..self.clients.len() {
            self.clients[client].close();
            self.grant(client);
        }
        self.run_until(self.nobody_until);
        let patient_until = self.now + FIRST_WORDS_MS;
        while !self.somebody_owes() && self.now < patient_until && self.book.failure.is_none() {
            self.run_until(self.now + 1);
        }
        let soon = self.rng.random_range(1..=100);
        let end = self.now + self.rng.random_range(0..=soon);
        self.run_until(end);
    }

    fn somebody_owes(&self) -> bool {
        let hosts = self.parties.iter().filter_map(|p| p.host.as_ref());
        hosts.flat_map(|h| h.shards()).flat_map(|s| s.accounts()).any(|a| !a.outbox().is_empty())
    }

    /// No more faults: everything that is down comes back.
    pub fn heal(&mut self) {
        self.say(|| "no more faults".into());
        self.faulty = false;
        self.quiet = true;
        if self.plan.blackout {
            self.black_out();
        }
        if self.plan.prompt {
            self.come_back();
        }
        match &self.store {
            Stores::Sim(store) => store.calm(),
            Stores::Hostile(store) => store.calm(),
        }
    }
}
