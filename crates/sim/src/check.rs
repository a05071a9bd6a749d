//! What must hold when the faults are over and everything has come to rest.

use crate::book::{Msg, MsgId, parse_name};
use crate::client::{Phase, account_jid};
use crate::plan::Mode;
use crate::world::{Stores, World};
use entity::row::{self, Row};
use entity::seal::Seal;
use entity::session::Link;
use frame::Pos;
use std::collections::{BTreeMap, BTreeSet};
use store::Cell;
use types::limit::{OUTBOX_ROWS_MAX, SESSIONS_MAX, TAIL_STANZAS_MAX};
use types::{BareJid, Partition};

impl World {
    fn dump(&self, partition: &Partition) -> Vec<Cell> {
        match &self.store {
            Stores::Sim(s) => s.dump(partition),
            Stores::Hostile(s) => s.dump(partition),
        }
    }

    /// The valid rows of an account's log.
    fn rows(&self, jid: &BareJid) -> Result<Vec<(Pos, Row)>, String> {
        let seal = self.dump(&row::seal(jid)).into_iter().next().map(|cell| Seal::decode(cell.value)).transpose();
        let seal = seal.map_err(|e| e.to_string())?.unwrap_or_default();
        let mut rows = Vec::new();
        for cell in self.dump(&row::bucket(jid, 1)) {
            let pos = row::parse_key(&cell.key).map_err(|e| e.to_string())?;
            if seal.valid(pos) {
                rows.push((pos, Row::decode(cell.value).map_err(|e| e.to_string())?));
            }
        }
        Ok(rows)
    }

    /// Bounds that hold at every moment.
    pub fn check_bounds(&mut self) {
        let mut wrong = None;
        for (p, party) in self.parties.iter().enumerate() {
            for account in party.host.iter().flat_map(|h| h.shards()).flat_map(|s| s.accounts()) {
                let long = account.state.sessions.iter().any(|s| s.tail.len() > TAIL_STANZAS_MAX);
                if long || account.state.sessions.len() > SESSIONS_MAX || account.outbox().len() > OUTBOX_ROWS_MAX {
                    wrong = Some(format!("p{p}: {} is beyond a bound", account.state.jid));
                }
            }
        }
        if let Some(wrong) = wrong {
            self.fail(wrong);
        }
    }

    /// Everything: after faults, healing and rest.
    pub fn check_all(&mut self) {
        let found = self
            .check_clients()
            .and_then(|()| self.check_archives())
            .and_then(|()| self.check_kept())
            .and_then(|()| self.check_requests())
            .and_then(|()| self.check_presence())
            .and_then(|()| self.check_sessions());
        if let Err(wrong) = found {
            self.fail(wrong);
        }
    }

    /// What was acknowledged has arrived, though its sender may have gone and its account been forgotten by its core.
    pub fn check_delivered(&mut self) {
        let mut archives = Vec::new();
        for account in 0..self.plan.accounts {
            let rows = BareJid::parse(&account_jid(account)).map_err(|e| e.to_string()).and_then(|jid| self.rows(&jid));
            let ids = rows.unwrap_or_default().into_iter().filter_map(|(_, r)| r.stanza.id.as_deref().and_then(parse_name));
            archives.push(ids.collect::<BTreeSet<MsgId>>());
        }
        // It has been accepted if its sender was told so, or as soon as its row is there.
        let accepted = |id: &MsgId, m: &Msg| m.acked || archives[m.from].contains(id);
        let owed = |id: &MsgId, m: &Msg| {
            m.durable && accepted(id, m) && m.poison.is_none() && !self.was_refused(m) && !archives[m.to].contains(id)
        };
        let missing = self.book.messages.iter().find(|(id, m)| !self.plan.forgetful[m.to] && owed(id, m));
        if let Some(wrong) = missing.map(|(id, m)| format!("message {id:?} ({m:?}) waits for its sender to come back")) {
            self.fail(wrong);
        }
    }

    /// Who asked, or came back, since the faults ended at `healed` has been answered.
    pub fn check_served(&mut self, healed: u64) {
        let waits = |c: &&crate::client::Client| !self.plan.late(c.id) && (c.phase != Phase::Online || c.served < healed);
        let wrong = self.clients.iter().find(waits).map(|c| {
            format!("client {} is {:?} and was served at {} last: {} s after the faults", c.id, c.phase, c.served, crate::PROMPT_MS / 1_000)
        });
        if let Some(wrong) = wrong {
            self.fail(wrong);
        }
    }

    /// Its sender was told that it went nowhere, or would have been, had it stayed.
    fn was_refused(&self, m: &Msg) -> bool {
        m.refused || self.book.low_space.iter().any(|(from, to)| m.at <= *to && m.acked_at >= *from)
    }

    fn check_clients(&self) -> Result<(), String> {
        for c in &self.clients {
            if c.phase != Phase::Online {
                return Err(format!("client {} does not come online: {:?}", c.id, c.phase));
            }
            if c.unacked() > 0 {
                return Err(format!("client {}: {} stanzas are never acknowledged", c.id, c.unacked()));
            }
        }
        Ok(())
    }

    fn check_archives(&self) -> Result<(), String> {
        let mut archives = Vec::new();
        for account in 0..self.plan.accounts {
            let jid = BareJid::parse(&account_jid(account)).map_err(|e| e.to_string())?;
            let rows = self.rows(&jid).map_err(|e| format!("log of {jid}: {e}"))?;
            let mut numbers = BTreeSet::new();
            if let Some((pos, _)) = rows.iter().find(|(pos, _)| !numbers.insert(pos.row)) {
                let all: Vec<_> = rows.iter().filter(|(p, _)| p.row == pos.row).map(|(p, r)| (p.epoch.0, r.origin)).collect();
                return Err(format!("{jid} has two valid rows {}: {all:?}, {:?}", pos.row, self.dump(&row::seal(&jid))));
            }
            let (mut sent, mut got) = (BTreeMap::<MsgId, u32>::new(), BTreeMap::<MsgId, u32>::new());
            let mut last: BTreeMap<(bool, (usize, u64)), u64> = BTreeMap::new();
            for (pos, row) in rows.iter().filter(|(_, r)| r.archived) {
                let Some(id) = row.stanza.id.as_deref().and_then(parse_name) else { continue };
                let own = row.sender == jid;
                *if own { &mut sent } else { &mut got }.entry(id).or_default() += 1;
                let Some(m) = self.book.messages.get(&id) else { continue };
                let uncovered = m.uncovered;
                let before = last.entry((own, m.series)).or_default();
                if id.1 < *before && !uncovered {
                    return Err(format!("archive of {jid}, row {}: {id:?} behind {before} of its sender", pos.row));
                }
                *before = (*before).max(id.1);
            }
            archives.push((sent, got));
        }
        for (id, m) in &self.book.messages {
            let refused = self.was_refused(m);
            let sent = archives[m.from].0.get(id).copied().unwrap_or(0);
            let got = archives[m.to].1.get(id).copied().unwrap_or(0);
            let what = || format!("message {id:?} of u{} to u{} ({m:?})", m.from, m.to);
            if (sent > 1 || got > 1) && !m.uncovered {
                return Err(format!("{}: {sent} rows at the sender, {got} at the recipient", what()));
            }
            if let Some(poison) = m.poison {
                // What nobody can take is refused, and its sender hears of it unless somebody died on the way.
                let sender = &self.clients[id.0];
                let lost = self.book.lost.iter().any(|at| *at >= m.at);
                if m.durable && m.acked && !refused && !lost && sender.session == m.session {
                    return Err(format!("{}: it was acknowledged, nobody could take it ({poison:?}), and nothing was said", what()));
                }
                continue;
            }
            let (keeps_sent, keeps_got) = (!self.plan.forgetful[m.from], !self.plan.forgetful[m.to]);
            let (sent, got) = (if keeps_sent { sent } else { 1 }, if keeps_got { got } else { 1 });
            // On one journal; in a cluster a row of an owner that was one no more may have been seen, and be none.
            if self.plan.mode == Mode::Embedded && m.kept && m.received > 0 && sent == 0 && !m.uncovered {
                return Err(format!("{}: received, but not in the sender's archive", what()));
            }
            if m.durable && m.acked && !refused && (sent == 0 || got == 0) {
                return Err(format!("{}: acknowledged, but {sent} rows at the sender, {got} at the recipient", what()));
            }
            if m.durable && m.received > 0 && got == 0 {
                return Err(format!("{}: received, but not in the recipient's archive", what()));
            }
            let all_acknowledge = self.clients.iter().filter(|c| c.account == m.to).all(|c| c.sm && c.priority >= 0);
            if m.durable && m.acked && !refused && m.received == 0 && all_acknowledge {
                return Err(format!("{}: no client of the recipient ever received it", what()));
            }
        }
        Ok(())
    }

    /// What clients found in the end: settings, and the archive as XEP-0313 shows it.
    fn check_kept(&self) -> Result<(), String> {
        for c in &self.clients {
            let jid = BareJid::parse(&account_jid(c.account)).map_err(|e| e.to_string())?;
            let rows = self.rows(&jid)?;
            let ids = rows.iter().filter(|(_, r)| r.archived).filter_map(|(_, r)| r.stanza.id.as_deref().and_then(parse_name));
            let ids: Vec<MsgId> = ids.collect();
            match &c.kept.archive {
                Some(found) if *found == ids => {}
                Some(found) => {
                    let odd = found.iter().find(|id| !ids.contains(id)).or_else(|| ids.iter().find(|id| !found.contains(id)));
                    let (found, there) = (found.len(), ids.len());
                    return Err(format!(
                        "client {} finds {found} messages in the archive of {jid}, {there} are there; odd is {odd:?}",
                        c.id
                    ));
                }
                None => return Err(format!("client {} did not come to the end of the archive of {jid}", c.id)),
            }
            let (item, block) = (&c.kept.item, &c.kept.block);
            if c.sm && !c.kept.void && !(item.done..=item.said).contains(&item.found) {
                return Err(format!("client {}: a roster item is {item:?}", c.id));
            }
            if c.sm && !c.kept.void && !(block.done..=block.said).any(|v| v % 2 == block.found) {
                return Err(format!("client {}: a block is {block:?}", c.id));
            }
        }
        Ok(())
    }

    fn check_requests(&self) -> Result<(), String> {
        for (id, r) in &self.book.requests {
            let asker = &self.clients[id.0];
            // Neither end may have died in between: the edge that knew of it, or the core.
            let lost = self.book.forgot(r.at);
            if r.answers == 0 && !r.void && !lost && asker.session == r.session && asker.sm {
                return Err(format!("the request {id:?} ({r:?}) is never answered"));
            }
        }
        Ok(())
    }

    fn check_presence(&self) -> Result<(), String> {
        let online: BTreeMap<&str, u64> = self.clients.iter().filter_map(|c| Some((c.jid.as_deref()?, c.status))).collect();
        for c in &self.clients {
            for (jid, status) in &online {
                let seen = c.view.get(*jid).copied().flatten();
                if seen != Some(*status) {
                    return Err(format!("client {} sees {jid} as {seen:?}, it is {status}", c.id));
                }
            }
            for (jid, seen) in &c.view {
                if seen.is_some() && !online.contains_key(jid.as_str()) {
                    return Err(format!("client {} sees a ghost: {jid} ({seen:?})", c.id));
                }
            }
        }
        Ok(())
    }

    fn check_sessions(&self) -> Result<(), String> {
        let mut live = 0;
        for shard in 0..self.plan.shards {
            let owner = self.owners[usize::from(shard)];
            let Some(host) = &self.parties[owner.party].host else { return Err("a shard has no owner at the end".into()) };
            let Some(shard) = host.shards().find(|s| s.id().0 == shard && s.epoch() == owner.epoch) else {
                return Err(format!("s{shard} has no owner at the end"));
            };
            for account in shard.accounts() {
                if !account.outbox().is_empty() {
                    return Err(format!("{}: {} forwards are never confirmed", account.state.jid, account.outbox().len()));
                }
                for s in &account.state.sessions {
                    let Link::Attached(conn) = s.link else {
                        return Err(format!("{}: {:?} at the end", s.jid, s.link));
                    };
                    let holder = self.conns.get(&conn.slot).filter(|c| c.core.session() == Some(s.id) && c.client_open);
                    if holder.is_none() {
                        return Err(format!("{} is live on c{}, which does not hold it", s.jid, conn.slot));
                    }
                    live += 1;
                }
            }
        }
        if live != self.clients.len() {
            return Err(format!("{live} sessions of {} clients", self.clients.len()));
        }
        Ok(())
    }
}
