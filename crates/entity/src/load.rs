//! How an account wakes: which cells are read, and what is made of them.
//!
//! Sans-I/O: [`Loader::next_read`] says what to read, [`Loader::handle_page`] takes it, [`Loader::finish`] makes the
//! [`Account`] and its first effects. Where batches have no common order, the first of them is the seal: nothing is said
//! that rests on what was read before that is durable ◊ (everything an entity says waits for what it wrote before).

use crate::account::{Account, Counters};
use crate::codec::{Corrupt, Reader};
use crate::effect::{Effects, Scan};
use crate::log::{Checkpoint, Cursor, Log};
use crate::module::Ctx;
use crate::outbox::Key;
use crate::privacy::BlockList;
use crate::roster::Roster;
use crate::row::{self, OFFLINE, Row, decode_stanza};
use crate::seal::{self, Seal};
use crate::session::{Link, Session, SessionRow, TailRow};
use crate::state::{State, cell, partition};
use bytes::Bytes;
use frame::{Output, Pos, SharedStanza, Soft};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use types::limit::{ATTACHING_MAX, BUCKET_ROWS_MAX};
use types::planted::{self, Bug};
use types::unlucky::{self, Bound};
use types::{BareJid, Epoch, Origin, SessionId, Timestamp};

/// Cells of one page.
const PAGE: usize = 1_000;

enum Step {
    State {
        from: Bytes,
    },
    Seal,
    /// Rows from here on: those that the checkpoint lists, then all behind it.
    Rows {
        next: u64,
        inside: Option<(u64, u64)>,
        /// The last cell that was read of them. A row may have cells of several epochs.
        after: Option<Bytes>,
    },
    Done,
}

/// The least key behind this one.
fn behind(key: &Bytes) -> Bytes {
    [&key[..], &[0]].concat().into()
}

/// See the module.
pub struct Loader {
    jid: BareJid,
    epoch: Epoch,
    /// Batches have no common order: the seal is read and written.
    sealed: bool,
    step: Step,
    cells: BTreeMap<Bytes, Bytes>,
    seal: Seal,
    checkpoint: Checkpoint,
    cursor: Cursor,
    ranges: Vec<(u64, u64)>,
    /// Candidates by row: several owners may have written one.
    rows: BTreeMap<u64, Vec<(Pos, Row)>>,
    /// Behind the checkpoint, reading stops at the first bucket without rows.
    seen_in_bucket: bool,
    /// See [`Loader::again`].
    again: bool,
}

impl Loader {
    /// Load `jid` as the owner of `epoch`. `sealed`: the store has no order over all batches.
    pub fn new(jid: BareJid, epoch: Epoch, sealed: bool) -> Loader {
        Loader {
            jid,
            epoch,
            sealed,
            step: Step::State { from: Bytes::new() },
            cells: BTreeMap::new(),
            seal: Seal::default(),
            checkpoint: Checkpoint::default(),
            cursor: Cursor::default(),
            ranges: Vec::new(),
            rows: BTreeMap::new(),
            seen_in_bucket: false,
            again: false,
        }
    }

    /// An earlier life of it ended within this process (a panic): the edges of its sessions live and are waited for, also
    /// where they would have died together with it.
    pub fn again(self) -> Loader {
        Loader { again: true, ..self }
    }

    /// What to read next; `None`: [`Loader::finish`].
    pub fn next_read(&self) -> Option<Scan> {
        let scan = |partition, from, to| Some(Scan { partition, from, to, limit: unlucky::at_most(Bound::LoadPage, PAGE), reverse: false });
        match &self.step {
            Step::State { from } => scan(partition(&self.jid), from.clone(), None),
            Step::Seal => scan(row::seal(&self.jid), Bytes::new(), None),
            Step::Rows { next, inside, after } => {
                let bucket_end = (next / BUCKET_ROWS_MAX + 1) * BUCKET_ROWS_MAX;
                let end = inside.map_or(bucket_end, |(_, last)| bucket_end.min(last + 1));
                let key = |row| row::cell_key(Pos { row, epoch: Epoch(0) });
                let from = after.as_ref().map_or_else(|| key(*next), behind);
                scan(row::bucket(&self.jid, *next), from, Some(key(end)))
            }
            Step::Done => None,
        }
    }

    /// The page that was asked for.
    ///
    /// # Errors
    /// A cell does not decode: the account is not loaded, and nothing is guessed.
    pub fn handle_page(&mut self, cells: Vec<(Bytes, Bytes)>, more: bool) -> Result<(), Corrupt> {
        match std::mem::replace(&mut self.step, Step::Done) {
            Step::State { .. } => {
                let last = cells.last().map(|(k, _)| k.clone());
                self.cells.extend(cells);
                self.step = match last.filter(|_| more) {
                    Some(last) => Step::State { from: behind(&last) },
                    None => self.state_read()?,
                };
            }
            Step::Seal => {
                if let Some((_, value)) = cells.into_iter().next() {
                    self.seal = Seal::decode(value)?;
                }
                self.step = self.next_rows(None);
            }
            Step::Rows { next, inside, .. } => {
                let last = cells.last().map(|(k, _)| k.clone());
                for (key, value) in cells {
                    let pos = row::parse_key(&key)?;
                    self.seen_in_bucket = true;
                    self.rows.entry(pos.row).or_default().push((pos, Row::decode(value)?));
                }
                self.step = match last.filter(|_| more) {
                    after @ Some(_) => Step::Rows { next, inside, after },
                    None => self.next_rows(Some((next, inside))),
                };
            }
            Step::Done => {}
        }
        Ok(())
    }

    fn state_read(&mut self) -> Result<Step, Corrupt> {
        if let Some(value) = self.cells.remove(cell::CHECKPOINT) {
            self.checkpoint = Checkpoint::decode(value)?;
        }
        let Checkpoint { last, open, .. } = &self.checkpoint;
        self.cursor = match self.cells.remove(cell::CURSOR) {
            Some(value) => Cursor::decode(value)?,
            None => Cursor::default(),
        };
        if self.cursor.last < *last {
            self.cursor = Cursor { last: *last, open: open.clone() };
        }
        // Rows behind the checkpoint are read anyway, for their origins.
        let before = self.cursor.open.iter().filter(|(first, _)| first <= last).map(|(first, end)| (*first, *end.min(last)));
        self.ranges = before.rev().collect();
        Ok(if self.sealed { Step::Seal } else { self.next_rows(None) })
    }

    /// Ranges of the checkpoint first, then everything behind it, bucket by bucket until one has no row.
    fn next_rows(&mut self, read: Option<(u64, Option<(u64, u64)>)>) -> Step {
        if let Some((next, inside)) = read {
            let bucket_end = (next / BUCKET_ROWS_MAX + 1) * BUCKET_ROWS_MAX;
            match inside {
                Some((_, last)) if last >= bucket_end => return Step::Rows { next: bucket_end, inside, after: None },
                Some(_) => {}
                None if std::mem::take(&mut self.seen_in_bucket) => {
                    return Step::Rows { next: bucket_end, inside: None, after: None };
                }
                None => return Step::Done,
            }
        }
        match self.ranges.pop() {
            Some(range) => Step::Rows { next: range.0, inside: Some(range), after: None },
            None => {
                // The bucket of the last known row may be full: then the next one is looked at, too.
                let next = self.checkpoint.last + 1;
                self.seen_in_bucket = false;
                Step::Rows { next, inside: None, after: None }
            }
        }
    }

    /// The account, and what it owes. `live`: it is marked in the shard's index.
    ///
    /// # Errors
    /// As [`Loader::handle_page`].
    pub fn finish(mut self, ctx: &Ctx<'_>, live: bool, fx: &mut Effects) -> Result<Account, Corrupt> {
        let (mut log, behind) = self.adopt();
        if self.sealed && self.seal.next_epoch() < self.epoch {
            // What the last owner had under way may lie on one replica only, and a later read need not see it: what is
            // adopted is made certain before the seal says so.
            for (pos, row) in behind {
                fx.put(&row::bucket(&self.jid, pos.row), row::cell_key(pos), row.encode());
            }
            // So with the numbers of inputs that are in no row: a client that has heard of one must not hear of a lower one ◊.
            for (key, value) in self.cells.iter().filter(|(key, _)| key.starts_with(cell::NUMBER)) {
                fx.put(&partition(&self.jid), key.clone(), value.clone());
            }
        }
        if self.sealed && (log.last() > 0 || !self.cells.is_empty()) && self.seal.next_epoch() < self.epoch {
            self.seal.close(self.epoch, log.last());
            fx.put(&row::seal(&self.jid), Bytes::from_static(seal::KEY), self.seal.encode());
        }
        // Taken, not cloned: it stays as long as the account is awake, and so would what clones share.
        let credentials = self.cells.remove(cell::ACCOUNT);
        let cells =
            |prefix: &'static [u8]| self.cells.iter().filter(move |(k, _)| k.starts_with(prefix)).map(|(k, v)| (k.clone(), v.clone()));
        let mut modules = BTreeMap::new();
        for (key, value) in cells(cell::MODULE) {
            let name = String::from_utf8(key[cell::MODULE.len()..].to_vec()).map_err(|_| Corrupt("module cell"))?;
            modules.insert(name, value);
        }
        for (key, value) in cells(cell::NUMBER) {
            let session = std::str::from_utf8(&key[cell::NUMBER.len()..]).ok().and_then(|s| s.parse().ok());
            let mut r = Reader::new(value, 1)?;
            log.note_number(session.ok_or(Corrupt("number key"))?, r.u64()?);
        }
        let counters = Counters::load(self.cells.get(cell::COUNTERS).cloned(), self.epoch)?;
        let sessions: Vec<SessionRow> = cells(cell::SESSION).map(|(_, v)| SessionRow::decode(v)).collect::<Result<_, _>>()?;
        let owed: Vec<OwedCell> = cells(cell::OWED).map(|(k, v)| OwedCell::decode(&k, v)).collect::<Result<_, _>>()?;
        let roster = Roster::load(self.jid.clone(), self.cells.iter().map(|(k, v)| (k.clone(), v.clone())))?;
        let blocks = BlockList::load(self.jid.clone(), self.cells.iter().map(|(k, v)| (k.clone(), v.clone())));
        let mut tails: BTreeMap<SessionId, Vec<(TailRow, Epoch)>> = BTreeMap::new();
        for (key, value) in cells(cell::TAIL) {
            let session = TailRow::session_of_key(&key).ok_or(Corrupt("tail key"))?;
            tails.entry(session).or_default().push(TailRow::decode(value)?);
        }
        let gone = self.cells.get(cell::GONE).cloned();
        let suspects = self.cells.get(cell::SUSPECTS).cloned();
        let state =
            State { jid: self.jid, epoch: self.epoch, credentials, roster, blocks, sessions: Vec::new(), log, cells: modules.into() };
        let attaching = if self.again { ctx.settings.attaching.max(ATTACHING_MAX) } else { ctx.settings.attaching };
        let mut account = Account::assemble(state, self.seal, counters, live);
        if let Some(gone) = gone {
            account.load_gone(gone)?;
        }
        if let Some(suspects) = suspects {
            account.load_suspects(suspects)?;
        }
        account.wake(ctx, Start { attaching, sealed: self.sealed }, sessions, tails, owed, fx);
        Ok(account)
    }

    /// The dense prefix of valid rows, and those open ones that the checkpoint lists.
    fn adopt(&mut self) -> (Log, Vec<(Pos, Row)>) {
        let last = self.checkpoint.last;
        let mut log = Log::from_checkpoint(std::mem::take(&mut self.checkpoint));
        let mut expected = last + 1;
        let mut behind = Vec::new();
        for (number, candidates) in std::mem::take(&mut self.rows) {
            // Of several valid ones the oldest epoch was there first; a younger owner that wrote this number had sealed it.
            let valid = candidates.into_iter().filter(|(pos, _)| self.seal.valid(*pos)).min_by_key(|(pos, _)| pos.epoch);
            let Some((pos, row)) = valid else { continue };
            if number <= last {
                log.adopt(&self.jid, pos, row, true);
            } else if number == expected {
                if self.sealed {
                    behind.push((pos, row.clone()));
                }
                log.adopt(&self.jid, pos, row, self.cursor.is_open(number));
                expected += 1;
            } else {
                break;
            }
        }
        (log, behind)
    }
}

/// A forward that rests on the account's state.
pub(crate) struct OwedCell {
    number: u64,
    after: u64,
    to: BareJid,
    origin: Origin,
    since: Timestamp,
    stanza: SharedStanza,
}

impl OwedCell {
    fn decode(key: &[u8], value: Bytes) -> Result<OwedCell, Corrupt> {
        let number: [u8; 8] = key[cell::OWED.len()..].try_into().map_err(|_| Corrupt("owed key"))?;
        let mut r = Reader::new(value, 1)?;
        let after = r.u64()?;
        let to = r.bare_jid()?;
        let origin = r.origin()?;
        let since = Timestamp(r.u64()?);
        let stanza = decode_stanza(r.bytes()?)?;
        r.end()?;
        Ok(OwedCell { number: u64::from_be_bytes(number), after, to, origin, since, stanza })
    }
}

/// How an account begins.
#[derive(Clone, Copy)]
struct Start {
    /// So long the edges of its sessions are waited for.
    attaching: Duration,
    /// On a store without one order, where what the last owner had under way may arrive later.
    sealed: bool,
}

impl Account {
    /// Take up what the last owner left: sessions, and forwards that no next hop has confirmed.
    fn wake(
        &mut self,
        ctx: &Ctx<'_>,
        start: Start,
        sessions: Vec<SessionRow>,
        mut tails: BTreeMap<SessionId, Vec<(TailRow, Epoch)>>,
        owed: Vec<OwedCell>,
        fx: &mut Effects,
    ) {
        let (lost, sessions): (Vec<_>, Vec<_>) = sessions.into_iter().partition(|row| row.lost.is_some());
        for row in lost {
            self.load_lost(ctx, row.id, row.sm, row.lost.unwrap_or_default(), fx);
        }
        // A stale owner's row may land after a newer one's session took the resource: of two, the last bound is the one.
        let stale = |row: &SessionRow| sessions.iter().any(|o| o.jid == row.jid && (o.bound_at, o.id) > (row.bound_at, row.id));
        let gone: Vec<SessionId> = sessions.iter().filter(|row| stale(row)).map(|row| row.id).collect();
        for id in &gone {
            self.remove_rows(*id, fx);
        }
        let sessions: Vec<SessionRow> = sessions.into_iter().filter(|row| !gone.contains(&row.id)).collect();
        let known: BTreeSet<SessionId> = sessions.iter().map(|s| s.id).collect();
        // Owed to sessions that have ended: owed to whoever comes next. Before the others claim what they were given of it.
        let gone: Vec<(u64, SessionId)> = self
            .state
            .log
            .open()
            .flat_map(|o| o.owed.iter().map(|s| (o.pos.row, *s)))
            .filter(|(_, s)| *s != OFFLINE && !known.contains(s))
            .collect();
        let waits = sessions.iter().flat_map(|s| s.waits.iter().map(|row| (*row, s.id)));
        for (row, session) in gone.into_iter().chain(waits) {
            self.state.log.reroute(row, session);
        }
        for row in sessions {
            let tail = tails.remove(&row.id).unwrap_or_default();
            let session = self.session_of(ctx, start, row, tail, fx);
            self.add_session(session);
        }
        self.state.sessions.sort_by_key(|s| s.bound_at);
        self.outbox_of(owed);
        if !self.state.sessions.is_empty() || !self.outbox().is_empty() {
            self.still_live(fx);
        }
        if start.attaching.is_zero() {
            let held: Vec<SessionId> =
                self.state.sessions.iter().filter(|s| matches!(s.link, Link::Attaching { .. })).map(|s| s.id).collect();
            for id in held {
                self.lose(ctx, id, fx);
            }
        }
        let detached: Vec<SessionId> =
            self.state.sessions.iter().filter(|s| matches!(s.link, Link::Detached { .. })).map(|s| s.id).collect();
        for id in detached {
            self.presence_after_takeover(ctx, id, fx);
        }
        self.resume_forwards(ctx, fx);
    }

    fn outbox_of(&mut self, owed: Vec<OwedCell>) {
        if planted::is(Bug::NoSecondForward) {
            return;
        }
        let rows = self.state.log.open().filter(|o| o.outbox);
        let mut all: Vec<(u64, u64, BareJid, crate::outbox::Pending)> = rows
            .filter_map(|o| {
                let to = o.stanza.to.as_ref()?.to_bare();
                let pending = crate::outbox::Pending { origin: o.origin, key: Key::Row(o.pos), stanza: o.stanza.clone(), since: o.at };
                Some((o.pos.row, 0, to, pending))
            })
            .collect();
        all.extend(owed.into_iter().map(|c| {
            let pending = crate::outbox::Pending { origin: c.origin, key: Key::Cell(c.number), stanza: c.stanza, since: c.since };
            (c.after, c.number, c.to, pending)
        }));
        // The order in which they were taken: a cell behind the row that was the last one then.
        all.sort_by_key(|(row, cell, ..)| (*row, *cell));
        for (_, _, to, pending) in all {
            self.push_forward(to, pending);
        }
    }

    fn session_of(&mut self, ctx: &Ctx<'_>, start: Start, row: SessionRow, cells: Vec<(TailRow, Epoch)>, fx: &mut Effects) -> Session {
        let until = ctx.now.mono + start.attaching;
        let mut s = Session::new(row.id, row.jid, row.attach, Link::Attaching { until }, row.bound_at);
        let soft = row.detached.as_ref().map_or_else(Soft::default, |d| d.soft.clone());
        s.soft = Arc::new(Soft { sm: row.sm, ..soft });
        s.given = row.given.into();
        s.waits = row.waits.into();
        // Cells that an attach has not removed yet say nothing new. Nor do those of an owner before the row's: it had not seen
        // them, and has given their numbers anew ◊.
        s.cells = cells.iter().map(|(t, _)| t.m).collect::<Vec<_>>().into();
        let cells: Vec<TailRow> = cells.into_iter().filter(|(_, by)| *by >= row.by).map(|(t, _)| t).collect();
        if let Some(d) = row.detached {
            let left = Duration::from_millis(d.until.0.saturating_sub(ctx.now.wall.0));
            s.link = Link::Detached { until: ctx.now.mono + left };
            // Messages sent after the detach went to the log and count: their inputs were accepted before it.
            s.taken = d.taken;
            s.accepted = d.taken;
            s.m = d.m;
            s.m_acked = d.m_acked;
            s.pos = d.pos;
            s.tail = d.tail.into_iter().map(|t| Output { m: t.m, pos: t.pos, stanza: t.stanza }).collect();
            let behind: Vec<TailRow> = cells.into_iter().filter(|t| t.m > d.m).collect();
            let rows: Vec<u64> = s.tail.iter().map(|o| o.pos).chain(behind.iter().map(|t| t.pos)).flatten().map(|p| p.row).collect();
            s.waits.retain(|row| !rows.contains(row));
            // Those that only a cell says were given to it: the cell goes with the next attach, the session's row must say it.
            let mut given: Vec<(u64, u64)> = s.given.to_vec();
            given.extend(rows.iter().filter(|row| !s.given.iter().any(|(r, _)| r == *row)).map(|row| (*row, 0)));
            s.given = given.into_iter().filter(|(row, m)| self.claim(*row, s.id) || *m > 0).collect::<Vec<_>>().into();
            // What it had and is not in its tail, its client has acknowledged.
            let had = |row: &u64| (*row <= d.pos.row || s.given.iter().any(|(r, _)| r == row)) && !rows.contains(row);
            let acked: Vec<u64> = self.state.log.owed_to(s.id).map(|o| o.pos.row).filter(had).collect();
            for row in acked {
                self.state.log.settle(row, s.id);
            }
            s.tail_bytes = s.tail.iter().map(|o| o.stanza.encoded_len_hint()).sum();
            self.append(&mut s, behind, &rows);
            for (row, m) in s.given.made().into_iter().flatten() {
                if let Some(output) = s.tail.iter().find(|o| o.pos.is_some_and(|p| p.row == *row)) {
                    *m = output.m;
                }
            }
            s.ask_again();
            if start.sealed {
                // What this owner has not seen of the last one's must not come between later.
                let partition = self.state.partition();
                fx.put(&partition, SessionRow::key(s.id), SessionRow::detached(&s, d.until, self.state.epoch).encode());
                for m in s.cells.take() {
                    fx.delete(&partition, TailRow::key(s.id, m));
                }
            }
        } else {
            s.taken = self.state.log.number(s.id);
            s.accepted = s.taken;
            for (row, _) in s.given.iter() {
                self.claim(*row, s.id);
            }
        }
        s
    }

    /// A row that waited for whoever comes next was given to this session. Whether the row itself says otherwise.
    fn claim(&mut self, row: u64, id: SessionId) -> bool {
        // The row may still name one that was lost before, whose own row waits for its client.
        let owed = self.state.log.get(row).map(|o| o.owed.clone()).unwrap_or_default();
        if owed.contains(&id) {
            return false;
        }
        for before in &owed {
            self.state.log.owe(row, *before, id);
        }
        !owed.is_empty()
    }

    /// What a detached session was sent after its row was written, in that order: what is in cells, and the rows owed to it
    /// since, which stand where the cells' numbers leave gaps. No client has seen these numbers: they are given anew, dense.
    fn append(&self, s: &mut Session, cells: Vec<TailRow>, here: &[u64]) {
        let (after, mut m) = (s.pos.row, s.m);
        let new = |o: &&crate::log::Open| o.pos.row > after && !here.contains(&o.pos.row);
        let rows: Vec<_> = self.state.log.owed_to(s.id).filter(new).map(|o| (o.pos, o.stanza.clone())).collect();
        let mut rows = rows.into_iter();
        for cell in cells {
            let gap = usize::try_from(cell.m.saturating_sub(m + 1)).unwrap_or(usize::MAX);
            for (pos, stanza) in rows.by_ref().take(gap) {
                s.output(Some(pos), stanza);
            }
            m = cell.m;
            s.output(cell.pos, cell.stanza);
        }
        for (pos, stanza) in rows {
            s.output(Some(pos), stanza);
        }
    }
}
