//! A session: a bound full JID, which outlives its stream while it can be resumed (XEP-0198).

use crate::codec::{Corrupt, Reader, Writer};
use crate::row::decode_stanza;
use crate::state::cell;
use bytes::Bytes;
use compact_str::CompactString;
use frame::{Output, Pos, SharedStanza, Sm, Soft};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use types::limit::TAIL_STANZAS_MAX;
use types::unlucky::{self, Bound};
use types::{Attach, ConnId, Epoch, FullJid, Instant, Jid, Seldom, SessionId, Timestamp};

/// [`TAIL_STANZAS_MAX`], for whoever must leave room in a tail.
pub fn tail_stanzas_max() -> usize {
    unlucky::at_most(Bound::TailStanzas, TAIL_STANZAS_MAX)
}
/// Bytes of a session's tail, beside [`TAIL_STANZAS_MAX`].
pub const TAIL_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Stanzas that XEP-0352 holds back for one inactive client; then all are sent.
pub const HELD_MAX: usize = 256;

/// Requests of others that one session is asked at a time and that are answered for it when it ends; the oldest is
/// forgotten.
pub const ASKED_MAX: usize = 256;

/// Where a session's stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// On this connection.
    Attached(ConnId),
    /// Nowhere: it can be resumed until then.
    Detached {
        /// When it ends.
        until: Instant,
    },
    /// A new owner waits for the edge that holds it.
    Attaching {
        /// When it is given up.
        until: Instant,
    },
}

/// See the module. What is in [`Soft`] has a second holder, the edge.
#[derive(Clone, Debug)]
pub struct Session {
    /// Its name.
    pub id: SessionId,
    /// Its full JID.
    pub jid: FullJid,
    /// The current attach.
    pub attach: Attach,
    /// Where its stream is.
    pub link: Link,
    /// The link to its edge was renewed: the edge says by then that it still has it, or a farewell was lost with the link.
    pub confirm_by: Instant,
    /// Orders sessions by when they were bound ("most recently connected").
    pub bound_at: Timestamp,
    /// Soft state; changed through [`Session::soft_mut`] so that the edge hears of it.
    pub soft: Arc<Soft>,
    /// The soft state changed and its edge has not been told.
    pub soft_changed: bool,
    /// Highest input taken.
    pub taken: u64,
    /// Highest input accepted, as told last (relayed inputs are accepted later than taken).
    pub accepted: u64,
    /// Relayed inputs that the next hop has not confirmed, in order.
    pub relayed: VecDeque<u64>,
    /// Highest output.
    pub m: u64,
    /// Highest output acknowledged.
    pub m_acked: u64,
    /// Outputs not acknowledged.
    pub tail: VecDeque<Output>,
    /// Their size.
    pub tail_bytes: usize,
    /// The last log position among all outputs.
    pub pos: Pos,
    /// IQ requests of others that its client has not answered: (from, id).
    pub asked: Seldom<VecDeque<(Jid, CompactString)>>,
    /// Rows that waited for whoever comes next and were given to this session, with the number that they got: until the
    /// checkpoint knows it, only the session row says so.
    pub given: Seldom<Vec<(u64, u64)>>,
    /// Rows that name this session, and wait for whoever comes next nevertheless, behind older ones that do: only the session
    /// row says so.
    pub waits: Seldom<Vec<u64>>,
    /// Outputs of a detached session that lie in cells of their own, behind its row.
    pub cells: Seldom<Vec<u64>>,
    /// XEP-0352: what waits for the client to become active, newest per sender. Presence and messages apart: neither may
    /// replace the other.
    pub held: Seldom<BTreeMap<(bool, Jid), SharedStanza>>,
    /// Offline messages have been sent to it (once, when it first became available).
    pub flushed: bool,
}

impl Session {
    /// A new one.
    pub fn new(id: SessionId, jid: FullJid, attach: Attach, link: Link, bound_at: Timestamp) -> Session {
        Session {
            id,
            jid,
            attach,
            link,
            confirm_by: Instant::NEVER,
            bound_at,
            soft: Arc::default(),
            soft_changed: false,
            taken: 0,
            accepted: 0,
            relayed: VecDeque::new(),
            m: 0,
            m_acked: 0,
            tail: VecDeque::new(),
            tail_bytes: 0,
            pos: Pos::default(),
            asked: Seldom::default(),
            given: Seldom::default(),
            waits: Seldom::default(),
            cells: Seldom::default(),
            held: Seldom::default(),
            flushed: false,
        }
    }

    /// Change the soft state; the edge is told at the end of the input.
    pub fn soft_mut(&mut self) -> &mut Soft {
        self.soft_changed = true;
        Arc::make_mut(&mut self.soft)
    }

    /// Its connection, if it has one.
    pub fn conn(&self) -> Option<ConnId> {
        match self.link {
            Link::Attached(conn) => Some(conn),
            _ => None,
        }
    }

    /// The priority of an available session (RFC 6121 §4.7.2.3); `None` if it is not available.
    pub fn priority(&self) -> Option<i8> {
        let presence = self.soft.presence.as_ref()?;
        Some(priority_of(presence))
    }

    /// XEP-0198 is on.
    pub fn acknowledges(&self) -> bool {
        self.soft.sm.is_some()
    }

    /// It can be resumed.
    pub fn resumable(&self) -> Option<&Sm> {
        self.soft.sm.as_ref().filter(|sm| sm.previd.is_some())
    }

    /// A request goes to the client: if the session ends before the answer, whoever asked hears so (XEP-0198 §5).
    pub fn ask(&mut self, request: &SharedStanza) {
        if let (Some(from), Some(id)) = (&request.from, &request.id) {
            let asked = self.asked.make();
            if asked.len() >= ASKED_MAX {
                asked.pop_front();
            }
            asked.push_back((from.clone(), id.clone()));
        }
    }

    /// At load, or from a copy: what the tail asks.
    pub fn ask_again(&mut self) {
        let requests: Vec<SharedStanza> = self.tail.iter().filter(|o| o.stanza.is_request()).map(|o| o.stanza.clone()).collect();
        for request in requests {
            self.ask(&request);
        }
    }

    /// Number an output and keep it in the tail if somebody will acknowledge it.
    pub fn output(&mut self, pos: Option<Pos>, stanza: SharedStanza) -> Output {
        self.m += 1;
        let output = Output { m: self.m, pos, stanza };
        if let Some(pos) = pos {
            self.pos = self.pos.max(pos);
        }
        // What comes while a new owner waits for the edge waits with it.
        if self.acknowledges() || pos.is_some() || matches!(self.link, Link::Attaching { .. }) {
            self.tail_bytes += output.stanza.encoded_len_hint();
            self.tail.push_back(output.clone());
        }
        output
    }

    /// The tail has reached a bound.
    pub fn tail_full(&self) -> bool {
        self.tail.len() > tail_stanzas_max() || self.tail_bytes > TAIL_BYTES_MAX
    }

    /// Everything up to `m` is acknowledged: the rows that are settled by it. `None` if `m` was never sent.
    pub fn acked(&mut self, m: u64) -> Option<Vec<u64>> {
        if m > self.m {
            return None;
        }
        self.m_acked = self.m_acked.max(m);
        // Nearly always it is all of it.
        if self.tail.back().is_none_or(|o| o.m <= m) {
            self.tail_bytes = 0;
            return Some(std::mem::take(&mut self.tail).iter().filter_map(|o| o.pos).map(|p| p.row).collect());
        }
        let mut rows = Vec::new();
        while self.tail.front().is_some_and(|o| o.m <= m)
            && let Some(output) = self.tail.pop_front()
        {
            self.tail_bytes = self.tail_bytes.saturating_sub(output.stanza.encoded_len_hint());
            rows.extend(output.pos.map(|p| p.row));
        }
        Some(rows)
    }

    /// The output number that a client's XEP-0198 count `h` names; `h` wraps at 2^32, so distances count, not values.
    pub fn m_of(&self, h: u32) -> Option<u64> {
        let sm = self.soft.sm.as_ref()?;
        let acked = self.m_acked.max(sm.base_m) - sm.base_m;
        let ahead = u64::from(h.wrapping_sub(acked as u32));
        let m = sm.base_m + acked + ahead;
        (m <= self.m).then_some(m)
    }

    /// The XEP-0198 count of inputs up to `n`.
    pub fn h_of(&self, n: u64) -> u32 {
        let base = self.soft.sm.as_ref().map_or(0, |sm| sm.base_n);
        n.saturating_sub(base) as u32
    }
}

/// RFC 6121 §4.7.2.3: absent or broken means 0.
pub fn priority_of(presence: &stanza::Stanza) -> i8 {
    presence.child("priority", types::ns::CLIENT).and_then(|c| c.text().trim().parse().ok()).unwrap_or(0)
}

/// The session row: who holds the session, and for a detached one everything that is in no other row.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionRow {
    /// Its name.
    pub id: SessionId,
    /// Its full JID.
    pub jid: FullJid,
    /// The attach that the row speaks of.
    pub attach: Attach,
    /// When it was bound.
    pub bound_at: Timestamp,
    /// XEP-0198.
    pub sm: Option<Sm>,
    /// See [`Session::given`].
    pub given: Vec<(u64, u64)>,
    /// See [`Session::waits`].
    pub waits: Vec<u64>,
    /// The owner that wrote it: cells of an older one, which may arrive at any time, are not behind it.
    pub by: Epoch,
    /// Nobody but this row holds it.
    pub detached: Option<DetachedRow>,
    /// Nobody holds it any more, and no edge that still has a copy may bring it back: until then its client hears how
    /// much was accepted.
    pub lost: Option<Timestamp>,
}

/// See [`SessionRow::detached`].
#[derive(Clone, Debug, PartialEq)]
pub struct DetachedRow {
    /// It can be resumed until then.
    pub until: Timestamp,
    /// Inputs taken; all of them accepted when this row is durable.
    pub taken: u64,
    /// Highest output.
    pub m: u64,
    /// Highest output acknowledged.
    pub m_acked: u64,
    /// The last log position among all outputs.
    pub pos: Pos,
    /// The tail: rows by their position, the rest whole.
    pub tail: Vec<TailRow>,
    /// Soft state but for XEP-0198.
    pub soft: Soft,
}

/// One output of a detached session.
#[derive(Clone, Debug, PartialEq)]
pub struct TailRow {
    /// Its number.
    pub m: u64,
    /// Its row, if it has one.
    pub pos: Option<Pos>,
    /// What the client gets (an offline message differs from its row by its delay stamp).
    pub stanza: SharedStanza,
}

impl TailRow {
    /// The key of an output that came after the session's row was written.
    pub fn key(id: SessionId, m: u64) -> Bytes {
        [cell::TAIL, format!("{id}/{m:016x}").as_bytes()].concat().into()
    }

    /// Whose it is.
    pub fn session_of_key(key: &[u8]) -> Option<SessionId> {
        let text = std::str::from_utf8(key.strip_prefix(cell::TAIL)?).ok()?;
        text.split_once('/')?.0.parse().ok()
    }

    /// The value of that cell. `by`: the owner that writes it.
    pub fn encode(output: &Output, by: Epoch) -> Bytes {
        let mut w = Writer::new(VERSION);
        TailRow { m: output.m, pos: output.pos, stanza: output.stanza.clone() }.write(&mut w);
        w.u64(by.0.into());
        w.finish()
    }

    /// Reverses [`TailRow::encode`].
    pub fn decode(value: Bytes) -> Result<(TailRow, Epoch), Corrupt> {
        let mut r = Reader::new(value, VERSION)?;
        let row = TailRow::read(&mut r)?;
        // It was not there at first.
        let by = Epoch(if r.is_done() { 0 } else { r.u32()? });
        r.end()?;
        Ok((row, by))
    }

    fn write(&self, w: &mut Writer) {
        let pos = self.pos.unwrap_or_default();
        w.u64(self.m).u64(pos.row).u64(pos.epoch.0.into()).bytes(&self.stanza.to_bytes());
    }

    fn read(r: &mut Reader) -> Result<TailRow, Corrupt> {
        let m = r.u64()?;
        let at = Pos { row: r.u64()?, epoch: Epoch(r.u32()?) };
        let stanza = decode_stanza(r.bytes()?)?;
        Ok(TailRow { m, pos: (at.row != 0).then_some(at), stanza })
    }
}

const VERSION: u8 = 1;

impl SessionRow {
    /// The row that says: attached. `by`: the owner that writes it.
    pub fn attached(s: &Session, by: Epoch) -> SessionRow {
        SessionRow {
            id: s.id,
            jid: s.jid.clone(),
            attach: s.attach,
            bound_at: s.bound_at,
            sm: s.soft.sm.clone(),
            given: s.given.to_vec(),
            waits: s.waits.to_vec(),
            by,
            detached: None,
            lost: None,
        }
    }

    /// The row that says: it cannot be resumed.
    pub fn lost(s: &Session, until: Timestamp, by: Epoch) -> SessionRow {
        SessionRow { given: Vec::new(), waits: Vec::new(), lost: Some(until), ..SessionRow::attached(s, by) }
    }

    /// The row that says: detached, and all that this row alone holds.
    pub fn detached(s: &Session, until: Timestamp, by: Epoch) -> SessionRow {
        let kept = |_: &&Output| !types::planted::is(types::planted::Bug::TailInCoreOnly);
        let tail = s.tail.iter().filter(kept).map(|o| TailRow { m: o.m, pos: o.pos, stanza: o.stanza.clone() }).collect();
        let soft = Soft { sm: None, ..(*s.soft).clone() };
        let detached = DetachedRow { until, taken: s.taken, m: s.m, m_acked: s.m_acked, pos: s.pos, tail, soft };
        SessionRow { detached: Some(detached), ..SessionRow::attached(s, by) }
    }

    /// The cell's key.
    pub fn key(id: SessionId) -> Bytes {
        format!("s/{id}").into()
    }

    /// The cell's value.
    pub fn encode(&self) -> Bytes {
        let mut w = Writer::new(VERSION);
        w.session(self.id).str(self.jid.as_str()).u64(self.attach.0.into()).u64(self.bound_at.0);
        match &self.sm {
            None => drop(w.u8(0)),
            Some(sm) => {
                w.u8(1).u64(sm.base_n).u64(sm.base_m).u64(sm.resume_secs.into());
                w.str(sm.previd.as_deref().unwrap_or(""));
            }
        }
        w.u64(self.given.len() as u64);
        for (row, m) in &self.given {
            w.u64(*row).u64(*m);
        }
        match (&self.detached, self.lost) {
            (None, None) => drop(w.u8(0)),
            (None, Some(until)) => drop(w.u8(2).u64(until.0)),
            (Some(d), _) => {
                w.u8(1).u64(d.until.0).u64(d.taken).u64(d.m).u64(d.m_acked);
                w.u64(d.pos.row).u64(d.pos.epoch.0.into());
                w.u64(d.tail.len() as u64);
                for t in &d.tail {
                    t.write(&mut w);
                }
                encode_soft(&mut w, &d.soft);
            }
        }
        w.u64(self.by.0.into());
        // The rare one.
        if !self.waits.is_empty() {
            w.u64(self.waits.len() as u64);
            for row in &self.waits {
                w.u64(*row);
            }
        }
        w.finish()
    }

    /// Reverses [`SessionRow::encode`].
    pub fn decode(value: Bytes) -> Result<SessionRow, Corrupt> {
        let mut r = Reader::new(value, VERSION)?;
        let id = r.session()?;
        let jid = FullJid::parse(&r.string()?).map_err(|_| Corrupt("session jid"))?;
        let attach = Attach(r.u32()?);
        let bound_at = Timestamp(r.u64()?);
        let sm = if r.u8()? == 0 {
            None
        } else {
            let (base_n, base_m, resume_secs) = (r.u64()?, r.u64()?, r.u32()?);
            let previd = CompactString::from(r.string()?);
            Some(Sm { base_n, base_m, resume_secs, previd: (!previd.is_empty()).then_some(previd) })
        };
        let mut given = Vec::new();
        for _ in 0..r.count()? {
            given.push((r.u64()?, r.u64()?));
        }
        let (mut detached, mut lost) = (None, None);
        match r.u8()? {
            0 => {}
            1 => detached = Some(decode_detached(&mut r)?),
            2 => lost = Some(Timestamp(r.u64()?)),
            _ => return Err(Corrupt("session row")),
        }
        // Neither was there at first.
        let by = Epoch(if r.is_done() { 0 } else { r.u32()? });
        let waits = if r.is_done() { 0 } else { r.count()? };
        let waits = (0..waits).map(|_| r.u64()).collect::<Result<_, _>>()?;
        r.end()?;
        Ok(SessionRow { id, jid, attach, bound_at, sm, given, waits, by, detached, lost })
    }
}

fn decode_detached(r: &mut Reader) -> Result<DetachedRow, Corrupt> {
    let until = Timestamp(r.u64()?);
    let (taken, m, m_acked) = (r.u64()?, r.u64()?, r.u64()?);
    let pos = Pos { row: r.u64()?, epoch: Epoch(r.u32()?) };
    let mut tail = Vec::new();
    for _ in 0..r.count()? {
        tail.push(TailRow::read(r)?);
    }
    Ok(DetachedRow { until, taken, m, m_acked, pos, tail, soft: decode_soft(r)? })
}

fn encode_soft(w: &mut Writer, soft: &Soft) {
    let flags = u8::from(soft.interested)
        | u8::from(soft.carbons) << 1
        | u8::from(soft.blocklist) << 2
        | u8::from(soft.inactive) << 3
        | u8::from(soft.presence.is_some()) << 4;
    w.u8(flags);
    if let Some(p) = &soft.presence {
        w.bytes(&p.to_bytes());
    }
    w.u64(soft.directed.len() as u64);
    for jid in &soft.directed {
        w.str(jid.as_str());
    }
}

fn decode_soft(r: &mut Reader) -> Result<Soft, Corrupt> {
    let flags = r.u8()?;
    let presence = if flags & 16 != 0 { Some(decode_stanza(r.bytes()?)?) } else { None };
    let mut directed = Vec::new();
    for _ in 0..r.count()? {
        directed.push(r.jid()?);
    }
    Ok(Soft {
        presence,
        interested: flags & 1 != 0,
        carbons: flags & 2 != 0,
        blocklist: flags & 4 != 0,
        inactive: flags & 8 != 0,
        directed,
        sm: None,
    })
}
