//! How sessions come, move between edges, and go: credentials, bind, XEP-0198 enable and resume, re-attach, end.

use super::inbound::{flush_window, takes_offline};
use super::{Account, Lost};
use crate::effect::{Effect, Effects};
use crate::log::Open;
use crate::module::{ConflictPolicy, Ctx};
use crate::row::OFFLINE;
use crate::session::{Link, Session, SessionRow, TailRow};
use crate::state::{State, cell};
use bytes::Bytes;
use compact_str::{CompactString, format_compact};
use frame::{AccountError, Bound, CredentialsAnswer, EndReason, PeerMsg, Reattached, Resumed, SessionCopy, ShardMsg, SharedStanza, Sm};
use stanza::{Condition, IqType, Kind, PresenceType, Stanza, StanzaError};
use std::sync::Arc;
use std::time::Duration;
use types::limit::RESUME_TIMEOUT_MAX;
use types::planted::{self, Bug};
use types::{Attach, ConnId, FullJid, Instant, Op, ReqId, SessionId, Timestamp};

/// Sessions that one account remembers though nobody can resume them, and for how long; beyond that the oldest is forgotten.
const LOST_MAX: usize = 16;
const LOST_FOR: Duration = Duration::from_secs(24 * 3_600);
/// Failed logins are counted over this time.
const FAILURES_WINDOW: Duration = Duration::from_secs(60);

impl Account {
    pub(super) fn credentials(&mut self, ctx: &Ctx<'_>, conn: ConnId, req: ReqId, fx: &mut Effects) {
        if ctx.now.mono.since(self.failures_since) > FAILURES_WINDOW {
            self.failures = 0;
        }
        let max = ctx.settings.login_failures_max;
        let answer = match &self.state.credentials {
            _ if max > 0 && self.failures >= max => CredentialsAnswer::Locked,
            // A copy: a clone would make both share for as long as the account is awake.
            Some(c) => CredentialsAnswer::Known(Bytes::copy_from_slice(c)),
            None => CredentialsAnswer::Unknown,
        };
        fx.push(Effect::Edge(conn, ShardMsg::Credentials { req, answer }));
    }

    pub(super) fn login_ended(&mut self, ctx: &Ctx<'_>, ok: bool) {
        if ok {
            self.failures = 0;
            return;
        }
        if self.failures == 0 {
            self.failures_since = ctx.now.mono;
        }
        self.failures += 1;
    }

    pub(super) fn create(&mut self, ctx: &Ctx<'_>, conn: ConnId, req: ReqId, credentials: Bytes, fx: &mut Effects) {
        let result = if self.state.exists() {
            Err(AccountError::Exists)
        } else if self.state.jid.is_domain() || !ctx.settings.hosts(self.state.jid.domain()) {
            Err(AccountError::NotAllowed)
        } else if ctx.low_space {
            Err(AccountError::Busy)
        } else {
            // The index first: superfluous there is harmless, missing is not.
            self.index(ctx, |key| Op::Put { key, value: Bytes::from_static(b"\x01") }, fx);
            let (roster, version) = crate::roster::Roster::create(self.state.jid.clone(), ctx.now.wall);
            self.state.roster = roster;
            fx.put(&self.state.partition(), cell::ACCOUNT, credentials.clone());
            fx.op(&self.state.partition(), version);
            self.state.credentials = Some(credentials);
            Ok(())
        };
        fx.push(Effect::Edge(conn, ShardMsg::AccountDone { req, result }));
    }

    pub(super) fn set_credentials(&mut self, conn: ConnId, req: ReqId, credentials: Bytes, fx: &mut Effects) {
        let result = if self.state.exists() {
            fx.put(&self.state.partition(), cell::ACCOUNT, credentials.clone());
            self.state.credentials = Some(credentials);
            self.failures = 0;
            Ok(())
        } else {
            Err(AccountError::NotFound)
        };
        fx.push(Effect::Edge(conn, ShardMsg::AccountDone { req, result }));
    }

    /// RFC 6120 §7.
    pub(super) fn bind(
        &mut self,
        ctx: &Ctx<'_>,
        conn: ConnId,
        req: ReqId,
        resource: Option<CompactString>,
        random: [u8; 16],
        fx: &mut Effects,
    ) {
        let result = self.try_bind(ctx, conn, resource, random, fx);
        fx.push(Effect::Edge(conn, ShardMsg::Bound { req, result }));
    }

    fn try_bind(
        &mut self,
        ctx: &Ctx<'_>,
        conn: ConnId,
        resource: Option<CompactString>,
        random: [u8; 16],
        fx: &mut Effects,
    ) -> Result<Bound, StanzaError> {
        if !self.state.exists() {
            return Err(StanzaError::new(Condition::NotAllowed));
        }
        if ctx.low_space {
            return Err(StanzaError::new(Condition::ResourceConstraint));
        }
        let made = || random.iter().take(9).map(|b| format_compact!("{b:02x}")).collect::<CompactString>();
        let mut resource = resource.unwrap_or_else(made);
        if let Some(old) = self.state.resource(&resource) {
            let (id, detached) = (old.id, old.conn().is_none());
            // RFC 6120 §7.7.2.2. A detached session is nobody's active stream: it gives way under every policy.
            match ctx.settings.conflict {
                ConflictPolicy::DisallowNew if !detached => return Err(StanzaError::new(Condition::Conflict)),
                ConflictPolicy::Override if !detached => resource = made(),
                _ => self.end_session(ctx, id, Some(EndReason::Conflict), fx),
            }
        }
        self.make_room(ctx, fx)?;
        let jid = self.state.jid.with_resource(&resource).map_err(|_| StanzaError::new(Condition::BadRequest))?;
        self.mark_live(fx);
        self.counters.session += 1;
        let id = SessionId { epoch: self.state.epoch.0, seq: self.counters.session };
        let session = Session::new(id, jid.clone(), Attach(1), Link::Attached(conn), self.bind_stamp(ctx));
        self.add_session(session);
        let from = fx.list.len();
        self.write_session(id, None, fx);
        self.write_counters(fx);
        // Where edges and cores are one process, a session that cannot be resumed ends with it: the row tells the next owner no more than
        // who has seen the session. Its own client need not wait for that.
        if ctx.settings.attaching.is_zero() {
            fx.defer(from, conn);
        }
        Ok(Bound { session: id, attach: Attach(1), jid })
    }

    /// Bind stamps order sessions, so they never repeat or run backwards.
    fn bind_stamp(&self, ctx: &Ctx<'_>) -> Timestamp {
        let last = self.state.sessions.iter().map(|s| s.bound_at.0).max().unwrap_or(0);
        Timestamp(ctx.now.wall.0.max(last + 1))
    }

    /// Room for one more session: the oldest detached one gives way.
    fn make_room(&mut self, ctx: &Ctx<'_>, fx: &mut Effects) -> Result<(), StanzaError> {
        if self.state.sessions.len() < ctx.settings.sessions_max {
            return Ok(());
        }
        let oldest = self.state.sessions.iter().find(|s| s.conn().is_none()).map(|s| s.id);
        let id = oldest.ok_or_else(|| StanzaError::new(Condition::ResourceConstraint))?;
        self.expire(ctx, id, fx);
        Ok(())
    }

    /// XEP-0198 §3.
    #[expect(clippy::too_many_arguments, reason = "one call site, the fields of one frame")]
    pub(super) fn enable(
        &mut self,
        ctx: &Ctx<'_>,
        conn: ConnId,
        req: ReqId,
        session: SessionId,
        resume_secs: Option<u32>,
        random: [u8; 16],
        fx: &mut Effects,
    ) {
        let max = ctx.settings.resume_secs_max.min(RESUME_TIMEOUT_MAX.as_secs() as u32);
        let Some(s) = self.state.session_mut(session) else { return };
        let previd = resume_secs.filter(|_| max > 0).map(|_| {
            let random: CompactString = random.iter().map(|b| format_compact!("{b:02x}")).collect();
            format_compact!("{session}-{random}")
        });
        let secs = resume_secs.map_or(0, |wanted| if wanted == 0 { max } else { wanted.min(max) });
        let sm = Sm { base_n: s.taken, base_m: s.m, previd, resume_secs: secs };
        s.soft_mut().sm = Some(sm.clone());
        let attach = s.attach;
        self.write_session(session, None, fx);
        fx.push(Effect::Edge(conn, ShardMsg::Enabled { req, session, attach, sm }));
    }

    /// XEP-0198 §5.
    pub(super) fn resume(&mut self, ctx: &Ctx<'_>, conn: ConnId, req: ReqId, previd: &str, h: u32, fx: &mut Effects) {
        let found = self.state.sessions.iter().find(|s| s.resumable().is_some_and(|sm| sm.previd.as_deref() == Some(previd)));
        let Some(s) = found else {
            let h = self.resume_lost(previd);
            return fx.push(Effect::Edge(conn, ShardMsg::ResumeFailed { req, h }));
        };
        let id = s.id;
        if let Link::Attaching { .. } = s.link {
            // The edge that held it may be alive, but its client is not there any more.
            self.lose(ctx, id, fx);
            let h = self.resume_lost(previd);
            return fx.push(Effect::Edge(conn, ShardMsg::ResumeFailed { req, h }));
        }
        let Some(m) = s.m_of(h) else {
            let h = s.h_of(s.taken);
            return fx.push(Effect::Edge(conn, ShardMsg::ResumeFailed { req, h: Some(h) }));
        };
        let (old, attach) = (s.conn(), s.attach);
        if let Some(old) = old {
            let ended = ShardMsg::Ended { session: id, attach, reason: EndReason::Conflict };
            fx.push(Effect::Edge(old, ended));
        }
        self.move_to(id, conn, fx);
        let Some(s) = self.state.session_mut(id) else { return };
        let rows = s.acked(m).unwrap_or_default();
        let resumed = Resumed {
            session: id,
            attach: s.attach,
            jid: s.jid.clone(),
            accepted: s.taken,
            outputs: tail_of(s),
            m: s.m,
            m_acked: s.m_acked,
            pos: s.pos,
            soft: s.soft.clone(),
        };
        // The client is back: what was held back for an inactive one is due when it says so (XEP-0352 §5).
        s.soft_changed = false;
        for row in rows {
            self.state.log.settle(row, id);
        }
        fx.push(Effect::Edge(conn, ShardMsg::Resumed { req, resumed: Box::new(resumed) }));
        if self.state.session(id).is_some_and(|s| s.soft.inactive) {
            self.set_active(id, true, fx);
        }
        self.flush_offline(ctx, id, fx);
    }

    /// Give the session to a connection: a new attach, durable before anything under it is answered ◊.
    fn move_to(&mut self, id: SessionId, conn: ConnId, fx: &mut Effects) {
        self.mark_live(fx);
        if let Some(s) = self.state.session_mut(id) {
            s.attach = Attach(s.attach.0 + 1);
            s.link = Link::Attached(conn);
            s.confirm_by = Instant::NEVER;
            for m in s.cells.take() {
                fx.delete(&self.state.partition(), TailRow::key(id, m));
            }
        }
        if !planted::is(Bug::RowLeftBehind) {
            self.write_session(id, None, fx);
        }
    }

    /// An edge hands over its copy.
    pub(super) fn reattach(&mut self, ctx: &Ctx<'_>, conn: ConnId, req: ReqId, copy: SessionCopy, fx: &mut Effects) {
        let id = copy.session;
        // A connection that has the session and names an earlier attach did not hear of the later one: the answer was lost.
        let unheard = |s: &&Session| s.link == Link::Attached(conn) && copy.attach < s.attach;
        let repeats = self.state.session(id).is_some_and(|s| unheard(&s));
        let usable = self.state.session(id).filter(|s| s.attach == copy.attach || repeats).map(|s| s.link);
        let adopts = matches!(usable, Some(Link::Attaching { .. }));
        let taken_over = match usable {
            // Somebody else has it, or it has ended.
            None => None,
            Some(Link::Attaching { .. }) => self.adopt(&copy),
            Some(Link::Attached(c)) if c != conn => None,
            Some(_) => {
                let missing = self.rejoin(&copy);
                if missing.is_none() {
                    // The edge closes the stream, and nobody holds the session.
                    self.end_session(ctx, id, None, fx);
                }
                missing
            }
        };
        let Some(missing) = taken_over else {
            return fx.push(Effect::Edge(conn, ShardMsg::Reattached { req, answer: None }));
        };
        if adopts {
            self.let_wait(id, &copy);
        }
        self.move_to(id, conn, fx);
        let Some(s) = self.state.session(id) else { return };
        let answer = Reattached { session: id, attach: s.attach, accepted: copy.accepted, adopted: adopts || repeats };
        let attach = s.attach;
        fx.push(Effect::Edge(conn, ShardMsg::Reattached { req, answer: Some(answer) }));
        for output in missing {
            fx.push(Effect::Edge(conn, ShardMsg::Deliver { session: id, attach, output }));
        }
        self.deliver_owed(ctx, id, &copy, fx);
        self.run_again(ctx, id, &copy, fx);
        if adopts {
            self.presence_after_takeover(ctx, id, fx);
        }
        self.flush_offline(ctx, id, fx);
    }

    /// This owner knows nothing but the row: the copy is the session.
    fn adopt(&mut self, copy: &SessionCopy) -> Option<Vec<frame::Output>> {
        let id = copy.session;
        let known = self.state.log.number(id);
        let s = self.state.session_mut(id)?;
        // What came while it was awaited goes behind what the edge has; rows come by `deliver_owed`.
        let waited: Vec<SharedStanza> = s.tail.iter().filter(|o| o.pos.is_none()).map(|o| o.stanza.clone()).collect();
        s.taken = copy.accepted.max(known);
        s.accepted = copy.accepted;
        s.m = copy.m;
        s.m_acked = copy.m_acked;
        s.tail = copy.outputs.iter().cloned().collect();
        s.tail_bytes = s.tail.iter().map(|o| o.stanza.encoded_len_hint()).sum();
        s.pos = copy.pos;
        s.soft = copy.soft.clone();
        s.flushed = true;
        s.ask_again();
        let lost: Vec<u64> = s.given.iter().filter(|(_, m)| *m > copy.m).map(|(row, _)| *row).collect();
        let waited: Vec<frame::Output> = waited.into_iter().map(|stanza| s.output(None, stanza)).collect();
        // Rows up to the last position that are not in the copy were acknowledged, but for those that were given out of
        // their turn and never arrived.
        let delivered: Vec<u64> = copy.outputs.iter().filter_map(|o| o.pos).map(|p| p.row).collect();
        let had = |row: &u64| *row <= copy.pos.row && !delivered.contains(row) && !lost.contains(row);
        let acked: Vec<u64> = self.state.log.owed_to(id).map(|o| o.pos.row).filter(had).collect();
        for row in acked {
            self.state.log.settle(row, id);
        }
        // An offline row that was on its way to this session is owed to it, not to the next one.
        for row in delivered {
            if self.state.log.get(row).is_some_and(|o| o.owed.contains(&OFFLINE)) {
                self.state.log.owe(row, OFFLINE, id);
            }
        }
        self.claim_waiting(id, copy);
        Some(waited)
    }

    /// Rows that wait for whoever comes next go to an adopted session in their place among those owed to it, not behind
    /// what came while it was awaited. The session row that follows names them.
    fn claim_waiting(&mut self, id: SessionId, copy: &SessionCopy) {
        let Some(s) = self.state.session(id) else { return };
        let room = if takes_offline(s) { flush_window().saturating_sub(s.tail.len()) } else { 0 };
        let claimed: Vec<u64> = self.state.log.owed_to(OFFLINE).take(room).map(|o| o.pos.row).collect();
        for row in &claimed {
            self.state.log.owe(*row, OFFLINE, id);
        }
        let State { sessions, log, .. } = &mut self.state;
        let Some(s) = sessions.iter_mut().find(|s| s.id == id) else { return };
        s.waits.retain(|row| !claimed.contains(row));
        s.given.make().extend(claimed.iter().map(|row| (*row, u64::MAX)));
        let in_tail: Vec<u64> = s.tail.iter().filter_map(|o| o.pos).map(|p| p.row).collect();
        let lost: Vec<u64> = s.given.iter().filter(|(_, m)| *m > copy.m).map(|(row, _)| *row).collect();
        let due = log.owed_to(id).map(|o| o.pos.row).filter(|row| (*row > copy.pos.row || lost.contains(row)) && !in_tail.contains(row));
        for (row, m) in due.zip(s.m + 1..) {
            for given in s.given.made().into_iter().flatten().filter(|(r, _)| *r == row) {
                given.1 = m;
            }
        }
    }

    /// What came while an adopted session was awaited went to it, though nobody knew that it takes what waits. Where some of
    /// that has no room yet, the rows of the session behind it wait as well. The session row that follows names them.
    fn let_wait(&mut self, id: SessionId, copy: &SessionCopy) {
        let State { sessions, log, .. } = &mut self.state;
        let Some(s) = sessions.iter_mut().find(|s| s.id == id && takes_offline(s)) else { return };
        let Some(first) = log.owed_to(OFFLINE).next().map(|o| o.pos.row) else { return };
        let in_tail = |row: u64| s.tail.iter().any(|o| o.pos.is_some_and(|p| p.row == row));
        let had = |row: u64| row <= copy.pos.row && !s.given.iter().any(|(r, m)| *r == row && *m > copy.m);
        let alone = |o: &&Open| o.owed.as_slice() == [id] && !o.had;
        let ours = log.owed_to(id).filter(alone).map(|o| o.pos.row).filter(|row| *row > first && !had(*row) && !in_tail(*row));
        let rows: Vec<u64> = ours.collect();
        for row in &rows {
            log.reroute(*row, id);
        }
        s.given.retain(|(row, _)| !rows.contains(row));
        s.waits.make().extend(rows);
    }

    /// This owner has the session in memory; the edge may lack outputs that a broken link lost.
    fn rejoin(&mut self, copy: &SessionCopy) -> Option<Vec<frame::Output>> {
        let s = self.state.session_mut(copy.session)?;
        let missing: Vec<_> = s.tail.iter().filter(|o| o.m > copy.m).cloned().collect();
        // Without XEP-0198 passing outputs are not kept: if one is lost, the stream must end, or the client
        // would never know that it missed a presence.
        (missing.len() as u64 == s.m.saturating_sub(copy.m)).then_some(missing)
    }

    /// Inputs that the last owner took, as far as this one knows. The others its edge submits again: those that somebody may
    /// have died over, one by one.
    fn run_again(&mut self, ctx: &Ctx<'_>, id: SessionId, copy: &SessionCopy, fx: &mut Effects) {
        let known = self.state.session(id).map_or(0, |s| s.taken);
        for (n, stanza) in copy.inputs.iter().take_while(|(n, _)| *n <= known) {
            self.repeat(ctx, id, *n, stanza, fx);
        }
        self.tell_outcome(id, fx);
    }

    /// An input that was taken before its owner died. Messages are in the log; presence may not have reached the edge as the
    /// state of the session, and the newest counts; an own IQ is answered (gets and sets of ours can be repeated); someone else's is not forwarded twice.
    pub(super) fn repeat(&mut self, ctx: &Ctx<'_>, id: SessionId, n: u64, stanza: &SharedStanza, fx: &mut Effects) {
        match stanza.kind {
            Kind::Iq if stanza.is_request() => {}
            // Whoever asked hears an error if the answer did not reach it.
            Kind::Iq => return,
            Kind::Presence if matches!(stanza.presence_type(), None | Some(stanza::PresenceType::Unavailable)) => {
                return self.out_presence(ctx, id, n, stanza.clone(), fx);
            }
            Kind::Presence | Kind::Message => return,
        }
        let is_answer = |o: &frame::Output| o.stanza.kind == Kind::Iq && !o.stanza.is_request() && o.stanza.id == stanza.id;
        if self.state.session(id).is_some_and(|s| s.tail.iter().any(is_answer)) {
            return;
        }
        let to = stanza.to.as_ref();
        if to.is_none_or(|to| self.state.is_own(to) && to.is_bare() || to.local().is_none()) {
            self.out_iq(ctx, id, n, stanza.clone(), fx);
        } else {
            if let (Some(to), Some(iq)) = (stanza.to.clone(), stanza.id.clone()) {
                self.note_answered(id, to, iq);
            }
            self.reply_error(ctx, id, stanza, &StanzaError::new(Condition::RemoteServerTimeout), fx);
        }
    }

    /// Rows owed to the session that its edge never had.
    fn deliver_owed(&mut self, ctx: &Ctx<'_>, id: SessionId, copy: &SessionCopy, fx: &mut Effects) {
        let Some(s) = self.state.session(id) else { return };
        let in_tail: Vec<u64> = s.tail.iter().filter_map(|o| o.pos).map(|p| p.row).collect();
        let lost: Vec<u64> = s.given.iter().filter(|(_, m)| *m > copy.m).map(|(row, _)| *row).collect();
        let rows: Vec<_> = self
            .state
            .log
            .owed_to(id)
            .filter(|o| (o.pos.row > copy.pos.row || lost.contains(&o.pos.row)) && !in_tail.contains(&o.pos.row))
            .map(|o| (o.pos, o.stanza.clone()))
            .collect();
        for (pos, stanza) in rows {
            self.output(ctx, id, Some(pos), stanza, fx);
        }
    }

    /// The stream is gone without a farewell.
    pub(super) fn detach(&mut self, ctx: &Ctx<'_>, id: SessionId, fx: &mut Effects) {
        // Nobody but this core holds what was held back: from here on it is part of the tail, which the row has.
        self.release_held(id, fx);
        let Some(s) = self.state.session_mut(id) else { return };
        let Some(secs) = s.resumable().map(|sm| sm.resume_secs) else {
            return self.end_session(ctx, id, None, fx);
        };
        s.link = Link::Detached { until: ctx.now.mono + Duration::from_secs(secs.into()) };
        s.confirm_by = Instant::NEVER;
        let until = Timestamp(ctx.now.wall.0 + u64::from(secs) * 1_000);
        self.write_session(id, Some(until), fx);
    }

    /// Edge and core died together: the log has every message, but nobody knows the rest of the tail. Its row stays for
    /// a while, so that a client that comes back hears how much was accepted.
    pub(crate) fn lose(&mut self, ctx: &Ctx<'_>, id: SessionId, fx: &mut Effects) {
        let Some(at) = self.state.sessions.iter().position(|s| s.id == id) else { return };
        let s = self.state.sessions.remove(at);
        let resource = CompactString::from(s.jid.resource());
        self.remember_gone(ctx, &resource, fx);
        // Nobody knows whether it was available: who saw it must not see a ghost.
        let gone = Stanza::presence(Some(PresenceType::Unavailable)).with_from(s.jid.clone());
        self.say_gone(ctx, &Arc::new(gone), fx);
        self.answer_asked(ctx, &s, fx);
        self.keep_lost(ctx, &s, fx);
        self.reroute(ctx, id, fx);
    }

    /// Instead of the session its row stays, which says so: durable before any client hears that it cannot be resumed, since
    /// what an edge still has of it would be taken twice then.
    fn keep_lost(&mut self, ctx: &Ctx<'_>, s: &Session, fx: &mut Effects) {
        let Some(sm) = s.resumable().cloned() else {
            return self.remove_rows(s.id, fx);
        };
        let until = Timestamp(ctx.now.wall.0 + LOST_FOR.as_millis() as u64);
        fx.put(&self.state.partition(), SessionRow::key(s.id), SessionRow::lost(s, until, self.state.epoch).encode());
        self.lost.make().push(Lost { id: s.id, sm, until: ctx.now.mono + LOST_FOR });
        if self.lost.len() > LOST_MAX {
            let oldest = self.lost.first().map(|l| l.id);
            self.forget_lost(|l| Some(l.id) == oldest, fx);
        }
    }

    /// At load: a row of a session that cannot be resumed.
    pub(crate) fn load_lost(&mut self, ctx: &Ctx<'_>, id: SessionId, sm: Option<Sm>, until: Timestamp, fx: &mut Effects) {
        match sm {
            Some(sm) if until > ctx.now.wall => {
                let left = Duration::from_millis(until.0 - ctx.now.wall.0);
                let lost = self.lost.make();
                lost.push(Lost { id, sm, until: ctx.now.mono + left });
                lost.sort_by_key(|l| l.until);
            }
            _ => self.remove_rows(id, fx),
        }
    }

    /// XEP-0198 §5: what the client need not send again, if the session was lost. It stays known: the answer may be lost,
    /// too, and then the client asks again.
    fn resume_lost(&self, previd: &str) -> Option<u32> {
        let lost = self.lost.iter().find(|l| l.sm.previd.as_deref() == Some(previd))?;
        Some(self.state.log.number(lost.id).saturating_sub(lost.sm.base_n) as u32)
    }

    pub(super) fn forget_lost(&mut self, which: impl Fn(&Lost) -> bool, fx: &mut Effects) {
        let (gone, kept): (Vec<_>, Vec<_>) = self.lost.take().into_iter().partition(|l| which(l));
        self.lost = kept.into();
        for lost in gone {
            self.remove_rows(lost.id, fx);
        }
    }

    pub(crate) fn remove_rows(&mut self, id: SessionId, fx: &mut Effects) {
        self.state.log.forget_number(id);
        fx.delete(&self.state.partition(), SessionRow::key(id));
        fx.delete(&self.state.partition(), super::number_key(id));
    }

    /// Its time to be resumed is over. A client that comes later still hears how much was accepted.
    pub(super) fn expire(&mut self, ctx: &Ctx<'_>, id: SessionId, fx: &mut Effects) {
        if let Some(s) = self.end(ctx, id, None, fx) {
            self.keep_lost(ctx, &s, fx);
            self.reroute(ctx, id, fx);
        }
    }

    /// The session is over for good.
    pub(super) fn end_session(&mut self, ctx: &Ctx<'_>, id: SessionId, reason: Option<EndReason>, fx: &mut Effects) {
        let Some(s) = self.end(ctx, id, reason, fx) else { return };
        if s.acknowledges() {
            self.remove_rows(id, fx);
            return self.reroute(ctx, id, fx);
        }
        let from = fx.list.len();
        // It never had a number of its own.
        self.state.log.forget_number(id);
        fx.delete(&self.state.partition(), SessionRow::key(id));
        self.reroute(ctx, id, fx);
        // As its beginning was: with the row goes, in one batch, what says whose its messages are now.
        if let Some(conn) = s.conn().filter(|_| ctx.settings.attaching.is_zero()) {
            fx.defer(from, conn);
        }
    }

    /// Its contacts see it go; what remains of it is the caller's to keep or to remove. `None`: there is no such session.
    fn end(&mut self, ctx: &Ctx<'_>, id: SessionId, reason: Option<EndReason>, fx: &mut Effects) -> Option<Session> {
        let at = self.state.sessions.iter().position(|s| s.id == id)?;
        let s = &self.state.sessions[at];
        let attaching = matches!(s.link, Link::Attaching { .. });
        if attaching {
            let resource = CompactString::from(s.jid.resource());
            self.remember_gone(ctx, &resource, fx);
            // Its presence died with its edge and its core: whoever saw it hears that it is gone.
            self.unavailable_for_sure(ctx, id, fx);
        } else {
            self.unavailable(ctx, id, None, fx);
        }
        let s = self.state.sessions.remove(at);
        self.answer_asked(ctx, &s, fx);
        for m in s.cells.iter() {
            fx.delete(&self.state.partition(), TailRow::key(id, *m));
        }
        if let (Some(conn), Some(reason)) = (s.conn(), reason) {
            fx.push(Effect::Edge(conn, ShardMsg::Ended { session: id, attach: s.attach, reason }));
        }
        if let Some(requests) = self.requests.made() {
            requests.retain(|(session, ..)| *session != id);
        }
        Some(s)
    }

    /// Requests that its client can no longer answer.
    fn answer_asked(&mut self, ctx: &Ctx<'_>, s: &Session, fx: &mut Effects) {
        for (from, id) in s.asked.iter() {
            let asked = Stanza::iq(IqType::Get, id).with_from(from.clone()).with_to(s.jid.clone());
            let Some(reply) = StanzaError::new(Condition::ServiceUnavailable).reply_to(&asked) else { continue };
            if self.state.is_own(from) {
                let to = from.resource().and_then(|r| self.state.resource(r)).map(|s| s.id);
                if let Some(to) = to {
                    self.output(ctx, to, None, Arc::new(reply), fx);
                }
            } else {
                fx.push(Effect::Peer(from.to_bare(), PeerMsg::Request { stanza: Arc::new(reply) }));
            }
        }
    }

    /// Remove the account: by the administrator, or by its owner (XEP-0077 §3.2).
    pub(super) fn remove(&mut self, ctx: &Ctx<'_>, answer: Option<(ConnId, ReqId)>, fx: &mut Effects) {
        let result = if self.state.exists() { Ok(()) } else { Err(AccountError::NotFound) };
        if result.is_ok() {
            self.cancel_subscriptions(ctx, fx);
            let ids: Vec<SessionId> = self.state.sessions.iter().map(|s| s.id).collect();
            for id in ids {
                self.end_session(ctx, id, Some(EndReason::NotAuthorized), fx);
            }
            self.erase(ctx, fx);
        }
        if let Some((conn, req)) = answer {
            fx.push(Effect::Edge(conn, ShardMsg::AccountDone { req, result }));
        }
    }

    /// One more session: a new one, or one of a new owner that waits for its edge.
    pub(crate) fn add_session(&mut self, session: Session) {
        // Most accounts have one: room for four would be more than all else of the account.
        self.state.sessions.reserve_exact(1);
        self.state.sessions.push(session);
    }

    /// The full JID of one of our sessions.
    pub(super) fn session_jid(&self, id: SessionId) -> Option<FullJid> {
        self.state.session(id).map(|s| s.jid.clone())
    }
}

/// What a client has not acknowledged, for the edge that resumes it.
fn tail_of(s: &Session) -> Vec<frame::Output> {
    if planted::is(Bug::DropTail) {
        return Vec::new();
    }
    if planted::is(Bug::TailTwice) {
        return s.tail.iter().chain(&s.tail).cloned().collect();
    }
    s.tail.iter().cloned().collect()
}
