//! An account's log in memory: its end, the rows that are not settled, and the origins that it knows repeats by.
//!
//! A row is *settled* when it is owed to nobody and, if it is a forward, the next hop has confirmed it. A settled row
//! stays if it is archived; otherwise it is dropped, after a checkpoint that knows its origin is durable ◊.
//! The checkpoint is one cell of the account; everything in it follows from rows and is rebuilt by reading those since.

use crate::codec::{Corrupt, Reader, Writer};
use crate::effect::Effects;
use crate::row::{self, OFFLINE, Owed, Row};
use bytes::Bytes;
use frame::{Pos, SharedStanza};
use std::collections::BTreeMap;
use types::limit::{BUCKET_ROWS_MAX, ORIGIN_FORGET};
use types::{BareJid, Epoch, Op, Origin, Partition, Seldom, SessionId, Timestamp};

/// Changes after which the checkpoint is written without waiting for the timer.
pub const CHECKPOINT_EVERY: u32 = 256;
/// Sending sessions whose highest origin one account remembers; beyond that the oldest is forgotten.
pub const ORIGINS_MAX: usize = 16_384;

/// A row that is not settled.
#[derive(Clone, Debug)]
pub struct Open {
    /// Where it lies.
    pub pos: Pos,
    /// It stays when it is settled.
    pub archived: bool,
    /// To whom it is owed.
    pub owed: Owed,
    /// One of those to whom it was owed has it.
    pub had: bool,
    /// The next hop has not confirmed it.
    pub outbox: bool,
    /// Its name as a forward.
    pub origin: Origin,
    /// When it was taken.
    pub at: Timestamp,
    /// The message.
    pub stanza: SharedStanza,
}

/// The highest origin seen of one sending session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    n: u64,
    k: u32,
    at: Timestamp,
}

/// The forwards known of one sender. See [`Log::heard`].
#[derive(Clone, Copy, Debug)]
pub struct Heard<'a>(Option<&'a BTreeMap<SessionId, Seen>>);

impl Heard<'_> {
    /// Is this forward (or a later one of its session) known?
    pub fn knows(self, origin: Origin) -> bool {
        self.0.and_then(|s| s.get(&origin.session)).is_some_and(|seen| (seen.n, seen.k) >= (origin.n, origin.k))
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Log {
    last: u64,
    last_at: Timestamp,
    open: Seldom<BTreeMap<u64, Open>>,
    origins: Seldom<BTreeMap<BareJid, BTreeMap<SessionId, Seen>>>,
    /// The highest input of each own session that is in a row (for `<failed h/>`).
    numbers: Seldom<BTreeMap<SessionId, u64>>,
    drops: Seldom<Vec<Pos>>,
    /// Rows that are owed to whoever comes next; they are in memory, all of them.
    offline: u32,
    /// At most one more than [`ORIGINS_MAX`].
    origins_len: u32,
    dirty: u32,
    settled: bool,
    /// The bucket of the row before, with its number; an idle log holds none.
    bucket: Option<Box<(u64, Partition)>>,
}

/// What a checkpoint says, before the rows behind it are read.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Rows up to here are settled unless they are in `open`.
    pub last: u64,
    /// Stamp of the last row.
    pub last_at: Timestamp,
    /// Rows up to `last` that are not settled, as ranges (first, last).
    pub open: Vec<(u64, u64)>,
    origins: Vec<(BareJid, SessionId, Seen)>,
    numbers: Vec<(SessionId, u64)>,
}

/// Which rows are settled, as the cursor cell says: newer than the checkpoint's own word, and smaller.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// Rows up to here are settled unless they are in `open`.
    pub last: u64,
    /// Ranges (first, last).
    pub open: Vec<(u64, u64)>,
}

impl Cursor {
    /// Reverses [`Log::cursor`].
    pub fn decode(value: Bytes) -> Result<Cursor, Corrupt> {
        let mut r = Reader::new(value, VERSION)?;
        let c = Cursor { last: r.u64()?, open: read_ranges(&mut r)? };
        r.end()?;
        Ok(c)
    }

    /// Is this row not settled, as far as the cursor knows?
    pub fn is_open(&self, row: u64) -> bool {
        row > self.last || self.open.iter().any(|(first, last)| (*first..=*last).contains(&row))
    }
}

fn read_ranges(r: &mut Reader) -> Result<Vec<(u64, u64)>, Corrupt> {
    let mut ranges = Vec::new();
    for _ in 0..r.count()? {
        let first = r.u64()?;
        ranges.push((first, first.saturating_add(r.u64()?)));
    }
    Ok(ranges)
}

fn write_ranges(w: &mut Writer, ranges: &[(u64, u64)]) {
    w.u64(ranges.len() as u64);
    for (first, last) in ranges {
        w.u64(*first).u64(last - first);
    }
}

const VERSION: u8 = 1;

impl Checkpoint {
    /// Reverses [`Log::checkpoint`].
    pub fn decode(value: Bytes) -> Result<Checkpoint, Corrupt> {
        let mut r = Reader::new(value, VERSION)?;
        let mut c = Checkpoint { last: r.u64()?, last_at: Timestamp(r.u64()?), ..Checkpoint::default() };
        c.open = read_ranges(&mut r)?;
        for _ in 0..r.count()? {
            let sender = r.bare_jid()?;
            let o = r.origin()?;
            c.origins.push((sender, o.session, Seen { n: o.n, k: o.k, at: Timestamp(r.u64()?) }));
        }
        for _ in 0..r.count()? {
            c.numbers.push((r.session()?, r.u64()?));
        }
        r.end()?;
        // Far from where the number of the next row could overflow.
        if c.last > u64::MAX / 2 {
            return Err(Corrupt("checkpoint's row"));
        }
        Ok(c)
    }
}

impl Log {
    /// The log as the checkpoint tells it; rows follow by [`Log::adopt`].
    pub fn from_checkpoint(c: Checkpoint) -> Log {
        let mut log = Log { last: c.last, last_at: c.last_at, ..Log::default() };
        for (sender, session, seen) in c.origins {
            log.see(&sender, Origin { session, n: seen.n, k: seen.k }, seen.at);
        }
        for (session, n) in c.numbers {
            log.note_number(session, n);
        }
        log.dirty = 0;
        log
    }

    /// A row read at load. `open`: the checkpoint lists it, or it lies behind the checkpoint.
    pub fn adopt(&mut self, account: &BareJid, pos: Pos, row: Row, open: bool) {
        if pos.row > self.last {
            self.last = pos.row;
            self.last_at = self.last_at.max(row.at);
            self.dirty += 1;
        }
        self.note(account, &row);
        if open {
            self.insert(pos, row);
        } else if !row.archived {
            self.drops.make().push(pos);
        }
    }

    fn note(&mut self, account: &BareJid, row: &Row) {
        if row.sender == *account {
            self.note_number(row.origin.session, row.origin.n);
        } else {
            self.see(&row.sender, row.origin, row.at);
        }
    }

    fn insert(&mut self, pos: Pos, row: Row) {
        let open = Open {
            pos,
            archived: row.archived,
            owed: row.owed,
            had: false,
            outbox: row.target.is_some(),
            origin: row.origin,
            at: row.at,
            stanza: row.stanza,
        };
        if open.owed.is_empty() && !open.outbox {
            if !open.archived {
                self.drops.make().push(pos);
            }
            return;
        }
        self.offline += u32::from(open.owed.contains(&OFFLINE));
        self.open.make().insert(pos.row, open);
    }

    /// Append a row; it is durable when the effect's ticket is.
    pub fn append(&mut self, account: &BareJid, epoch: Epoch, mut row: Row, fx: &mut Effects) -> Pos {
        row.at = row.at.max(self.last_at);
        let pos = Pos { row: self.last + 1, epoch };
        fx.put(&self.bucket(account, pos.row), row::cell_key(pos), row.encode());
        self.last = pos.row;
        self.last_at = row.at;
        self.dirty += 1;
        self.note(account, &row);
        self.insert(pos, row);
        pos
    }

    /// The partition of a row: mostly that of the one before.
    fn bucket(&mut self, account: &BareJid, row: u64) -> Partition {
        let number = row / BUCKET_ROWS_MAX;
        match &self.bucket {
            Some(known) if known.0 == number => known.1.clone(),
            _ => {
                let partition = row::bucket(account, row);
                self.bucket = Some(Box::new((number, partition.clone())));
                partition
            }
        }
    }

    /// The last row's number; 0 if there is none.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// The stamp that a row taken at `at` gets: stamps never run backwards.
    pub fn stamp(&self, at: Timestamp) -> Timestamp {
        at.max(self.last_at)
    }

    /// Rows owed to whoever comes next.
    pub fn offline_len(&self) -> usize {
        self.offline as usize
    }

    /// What is known of a sender.
    pub fn heard(&self, sender: &BareJid) -> Heard<'_> {
        Heard(self.origins.get(sender))
    }

    /// Remember the highest origin of a sending session.
    pub fn see(&mut self, sender: &BareJid, origin: Origin, at: Timestamp) {
        let origins = self.origins.make();
        let sessions = match origins.get_mut(sender) {
            Some(sessions) => sessions,
            None => origins.entry(sender.clone()).or_default(),
        };
        let before = sessions.len();
        let seen = sessions.entry(origin.session).or_insert(Seen { n: 0, k: 0, at });
        if (origin.n, origin.k) >= (seen.n, seen.k) {
            *seen = Seen { n: origin.n, k: origin.k, at };
        }
        self.origins_len += u32::from(sessions.len() > before);
        if self.origins_len as usize > ORIGINS_MAX {
            self.forget(at, true);
        }
    }

    /// Forget origins older than 48 h; under pressure also the older half.
    fn forget(&mut self, now: Timestamp, pressure: bool) {
        let window = u64::try_from(ORIGIN_FORGET.as_millis()).unwrap_or(u64::MAX);
        let mut limit = now.0.saturating_sub(window);
        if pressure {
            let mut ages: Vec<u64> = self.origins.values().flat_map(|s| s.values().map(|x| x.at.0)).collect();
            ages.sort_unstable();
            limit = limit.max(ages.get(ages.len() / 2).copied().unwrap_or(0));
        }
        let Some(origins) = self.origins.made() else { return };
        origins.retain(|_, sessions| {
            sessions.retain(|_, seen| seen.at.0 >= limit);
            !sessions.is_empty()
        });
        self.origins_len = origins.values().map(|sessions| sessions.len() as u32).sum();
    }

    /// The highest input of an own session that is in a row.
    pub fn number(&self, session: SessionId) -> u64 {
        self.numbers.get(&session).copied().unwrap_or(0)
    }

    /// An input of an own session that is in no row.
    pub fn note_number(&mut self, session: SessionId, n: u64) {
        let number = self.numbers.make().entry(session).or_default();
        *number = (*number).max(n);
    }

    /// The session's number is of no use any more.
    pub fn forget_number(&mut self, session: SessionId) {
        if let Some(numbers) = self.numbers.made() {
            numbers.remove(&session);
        }
    }

    /// Rows that are not settled, in order.
    pub fn open(&self) -> impl Iterator<Item = &Open> {
        self.open.values()
    }

    /// One row that is not settled.
    pub fn get(&self, row: u64) -> Option<&Open> {
        self.open.get(&row)
    }

    /// Rows owed to `whom`, in order.
    pub fn owed_to(&self, whom: SessionId) -> impl Iterator<Item = &Open> {
        self.open.values().filter(move |o| o.owed.contains(&whom))
    }

    fn open_mut(&mut self, row: u64) -> Option<&mut Open> {
        self.open.made()?.get_mut(&row)
    }

    /// `whom` has the row.
    pub fn settle(&mut self, row: u64, whom: SessionId) {
        if let Some(open) = self.open_mut(row) {
            open.had = true;
        }
        self.forget_owed(row, whom);
    }

    /// `whom` is gone without it. It waits for whoever comes next, unless another one has it or is owed it: one session
    /// must not get it twice.
    pub fn reroute(&mut self, row: u64, whom: SessionId) {
        match self.open.get(&row) {
            Some(open) if open.had || open.owed.iter().any(|s| *s != whom) => self.forget_owed(row, whom),
            _ => self.owe(row, whom, OFFLINE),
        }
    }

    fn forget_owed(&mut self, row: u64, whom: SessionId) {
        let Some(open) = self.open_mut(row) else { return };
        let before = open.owed.len();
        open.owed.retain(|s| *s != whom);
        if open.owed.len() != before {
            self.offline -= u32::from(whom == OFFLINE);
            self.dirty += 1;
            self.close(row);
        }
    }

    /// What was owed to `from` is owed to `to`.
    pub fn owe(&mut self, row: u64, from: SessionId, to: SessionId) {
        let Some(open) = self.open_mut(row) else { return };
        let before = u32::from(open.owed.contains(&OFFLINE));
        open.owed.retain(|s| *s != from);
        if !open.owed.contains(&to) {
            open.owed.push(to);
        }
        let after = u32::from(open.owed.contains(&OFFLINE));
        self.offline = self.offline - before + after;
        self.dirty += 1;
    }

    /// The next hop has the row.
    pub fn confirmed(&mut self, row: u64) {
        let Some(open) = self.open_mut(row) else { return };
        open.outbox = false;
        self.dirty += 1;
        self.close(row);
    }

    fn close(&mut self, row: u64) {
        self.settled = true;
        if self.open.get(&row).is_some_and(|o| o.owed.is_empty() && !o.outbox)
            && let Some(open) = self.open.made().and_then(|open| open.remove(&row))
            && !open.archived
        {
            self.drops.make().push(open.pos);
        }
    }

    /// Changes since the last checkpoint.
    pub fn dirty(&self) -> u32 {
        self.dirty
    }

    /// Write the checkpoint to `partition` and, behind it, drop what is settled and not archived.
    pub fn checkpoint(&mut self, account: &BareJid, partition: &Partition, key: &'static [u8], now: Timestamp, fx: &mut Effects) {
        self.forget(now, false);
        let mut w = Writer::new(VERSION);
        w.u64(self.last).u64(self.last_at.0);
        write_ranges(&mut w, &self.ranges());
        let forgets = types::planted::is(types::planted::Bug::DropForgets);
        w.u64(if forgets { 0 } else { u64::from(self.origins_len) });
        for (sender, sessions) in self.origins.iter().filter(|_| !forgets) {
            for (session, seen) in sessions {
                w.str(sender.as_str()).origin(Origin { session: *session, n: seen.n, k: seen.k }).u64(seen.at.0);
            }
        }
        w.u64(self.numbers.len() as u64);
        for (session, n) in self.numbers.iter() {
            w.session(*session).u64(*n);
        }
        fx.put(partition, key, w.finish());
        // On a store without one order the shard keeps at most one batch in flight, so the drop follows the checkpoint.
        for pos in self.drops.take() {
            fx.op(&self.bucket(account, pos.row), Op::Delete { key: row::cell_key(pos) });
        }
        self.bucket = None;
        self.dirty = 0;
    }

    /// The cell that says which rows are settled.
    pub fn cursor(&mut self) -> Bytes {
        self.settled = false;
        let mut w = Writer::new(VERSION);
        w.u64(self.last);
        write_ranges(&mut w, &self.ranges());
        w.finish()
    }

    /// A row was settled or owed to somebody else since the last cursor.
    pub fn is_settled_since_cursor(&self) -> bool {
        self.settled
    }

    fn ranges(&self) -> Vec<(u64, u64)> {
        let mut out: Vec<(u64, u64)> = Vec::new();
        for row in self.open.keys() {
            match out.last_mut() {
                Some((_, last)) if *last + 1 == *row => *last = *row,
                _ => out.push((*row, *row)),
            }
        }
        out
    }
}
