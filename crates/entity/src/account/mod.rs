//! An account: the owner of a bare JID with a localpart.
//!
//! A state machine without I/O: `handle_*` takes one input, time comes with it, [`Effects`] go out. Start with
//! [`Account::handle_edge`] (what a connection asks), [`Account::handle_peer`] (what another entity sends) and
//! [`crate::load`] (how it wakes). The parts: `login` (sessions come, move and go), `outbound` and `inbound`
//! (messages), `presence`, `iq`.

mod inbound;
mod iq;
mod login;
mod outbound;
mod presence;

use crate::codec::{Corrupt, Reader, Writer};
use crate::effect::{Effect, Effects, ReadId};
use crate::log::CHECKPOINT_EVERY;
use crate::module::{Ctx, IqHandler, LogScan};
use crate::outbox::{Key, Outbox};
use crate::row::OFFLINE;
use crate::seal::Seal;
use crate::session::{HELD_MAX, Link, Session, SessionRow, TailRow};
use crate::state::{State, cell};
use frame::{EdgeMsg, EndReason, PeerMsg, Pos, ShardMsg, SharedStanza, Sm};
use smallvec::smallvec;
use stanza::{Condition, Kind, Stanza, StanzaError};
use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use types::limit::FORWARD_GIVE_UP;
use types::planted::{self, Bug};
use types::unlucky::{self, Bound};
use types::{BareJid, Batch, Collection, ConnId, Epoch, Instant, Jid, Op, Origin, Partition, Seldom, SessionId, ShardId, Timestamp};

/// A checkpoint is written no later than this after the first change that it would record.
const CHECKPOINT_WITHIN: Duration = Duration::from_secs(5);
/// Which rows are settled is written no later than this after the first change: what a crash delivers again to a new
/// session is at most what was acknowledged within it.
const CURSOR_WITHIN: Duration = Duration::from_millis(250);
/// IQ requests to others that one account keeps in mind, so as to answer them if the other owner dies.
const REQUESTS_MAX: usize = 256;
/// Queries that read the log at a time; further ones get `resource-constraint`, so that one client's do not hold up a shard.
pub const QUERIES_MAX: usize = 4;
/// Ended resources that an account remembers for those who lost the word of it, and for how long: longer than any
/// session can be detached.
const GONE_MAX: usize = 32;
const GONE_FOR: Duration = Duration::from_secs(2 * 3_600);
/// See [`Account::suspects`]; the oldest is forgotten.
const SUSPECTS_MAX: usize = 16;
/// Rows of one page when an account is removed.
const PURGE_ROWS: usize = 500;

/// See the module.
pub struct Account {
    /// What modules see.
    pub state: State,
    outbox: Outbox,
    seal: Seal,
    counters: Counters,
    /// Resources that were available and ended, newest last: whoever lost the word of it asks again.
    gone: Seldom<Vec<(compact_str::CompactString, Timestamp)>>,
    next_read: ReadId,
    reads: Seldom<BTreeMap<ReadId, PendingRead>>,
    /// IQ requests of own sessions that another entity has not answered: (session, to, id).
    requests: Seldom<Vec<(SessionId, Jid, compact_str::CompactString)>>,
    /// Those that the account answered itself because the other end died: an answer that comes after all is too late.
    answered: Seldom<VecDeque<(SessionId, Jid, compact_str::CompactString)>>,
    /// Sessions that cannot be resumed any more (their time is over, or edge and core died together), oldest first: the log
    /// knows what they sent.
    lost: Seldom<Vec<Lost>>,
    live: bool,
    cursor_at: Instant,
    checkpoint_at: Instant,
    give_up_at: Instant,
    failures: u32,
    failures_since: Instant,
    /// Sessions whose tail reached its bound during this input.
    overfull: Seldom<Vec<SessionId>>,
    used_at: Instant,
    /// The input being carried out, for whoever catches a panic.
    current: Option<(SessionId, u64)>,
    poison: Seldom<Vec<(SessionId, u64)>>,
    /// The same for forwards of other accounts.
    poison_forwards: Seldom<Vec<(BareJid, Origin)>>,
    /// Inputs that an owner began though two before it had not lived to take them, newest last; once for each such owner.
    suspects: Seldom<Vec<(SessionId, u64)>>,
}

/// See [`Account::lost`].
struct Lost {
    id: SessionId,
    sm: Sm,
    /// Its row is removed then.
    until: Instant,
}

enum PendingRead {
    Iq {
        iq: SharedStanza,
        handler: &'static IqHandler,
        session: Option<SessionId>,
        scan: LogScan,
        data: Box<dyn Any + Send>,
    },
    Purge {
        first: u64,
    },
    /// Its mark as a suspect is durable: the input is carried out.
    Suspect(Suspect),
}

/// An input that two owners did not live to take.
struct Suspect {
    session: SessionId,
    attach: types::Attach,
    n: u64,
    attempt: u8,
    stanza: SharedStanza,
}

/// Numbers that must never be given twice within an epoch, also when the account sleeps and wakes in between.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    epoch: Epoch,
    session: u32,
    own: u32,
    cell: u64,
}

impl Counters {
    /// Those of the cell if it is of this epoch, else from the beginning.
    pub(crate) fn load(cell: Option<bytes::Bytes>, epoch: Epoch) -> Result<Counters, Corrupt> {
        let fresh = Counters { epoch, ..Counters::default() };
        let Some(cell) = cell else { return Ok(fresh) };
        let mut r = Reader::new(cell, 1)?;
        let read = Counters { epoch: Epoch(r.u32()?), session: r.u32()?, own: r.u32()?, cell: r.u64()? };
        r.end()?;
        Ok(if read.epoch == epoch { read } else { fresh })
    }

    fn encode(&self) -> bytes::Bytes {
        let mut w = Writer::new(1);
        w.u64(self.epoch.0.into()).u64(self.session.into()).u64(self.own.into()).u64(self.cell);
        w.finish()
    }
}

impl Account {
    /// An account of this state, as loaded; obligations follow from [`Account::wake`].
    pub(crate) fn assemble(state: State, seal: Seal, counters: Counters, live: bool) -> Account {
        Account {
            state,
            outbox: Outbox::default(),
            seal,
            counters,
            gone: Seldom::default(),
            next_read: 0,
            reads: Seldom::default(),
            requests: Seldom::default(),
            answered: Seldom::default(),
            lost: Seldom::default(),
            live,
            cursor_at: Instant::NEVER,
            checkpoint_at: Instant::NEVER,
            give_up_at: Instant::NEVER,
            failures: 0,
            failures_since: Instant(0),
            overfull: Seldom::default(),
            used_at: Instant(0),
            current: None,
            poison: Seldom::default(),
            poison_forwards: Seldom::default(),
            suspects: Seldom::default(),
        }
    }

    /// A message of a connection.
    pub fn handle_edge(&mut self, ctx: &Ctx<'_>, conn: ConnId, msg: EdgeMsg, fx: &mut Effects) {
        match msg {
            EdgeMsg::Credentials { req } => self.credentials(ctx, conn, req, fx),
            EdgeMsg::LoginEnded { ok } => self.login_ended(ctx, ok),
            EdgeMsg::Create { req, credentials } => self.create(ctx, conn, req, credentials, fx),
            EdgeMsg::SetCredentials { req, credentials } => self.set_credentials(conn, req, credentials, fx),
            EdgeMsg::Remove { req } => self.remove(ctx, Some((conn, req)), fx),
            EdgeMsg::Bind { req, resource, random } => self.bind(ctx, conn, req, resource, random, fx),
            EdgeMsg::Enable { req, session, attach, resume_secs, random } => {
                if self.check(conn, session, attach, fx) {
                    self.enable(ctx, conn, req, session, resume_secs, random, fx);
                }
            }
            EdgeMsg::Resume { req, previd, h } => self.resume(ctx, conn, req, &previd, h, fx),
            EdgeMsg::Reattach { req, copy } => self.reattach(ctx, conn, req, *copy, fx),
            EdgeMsg::Submit { session, attach, n, attempt, stanza } => {
                if self.check(conn, session, attach, fx) {
                    self.submit(ctx, session, n, attempt, stanza, fx);
                }
            }
            EdgeMsg::Acked { session, attach, m } => {
                if self.check(conn, session, attach, fx) {
                    self.acked(ctx, session, m, fx);
                }
            }
            EdgeMsg::Active { session, attach, active } => {
                if self.check(conn, session, attach, fx) {
                    self.set_active(session, active, fx);
                }
            }
            EdgeMsg::Ask { session, attach } => {
                if self.check(conn, session, attach, fx) {
                    self.tell_outcome(session, fx);
                }
            }
            EdgeMsg::Detach { session, attach } => {
                if self.is_current(conn, session, attach) {
                    self.detach(ctx, session, fx);
                }
            }
            EdgeMsg::Close { session, attach } => {
                if self.is_current(conn, session, attach) {
                    self.end_session(ctx, session, None, fx);
                }
            }
        }
        self.finish(ctx, fx);
    }

    /// A message of another entity.
    pub fn handle_peer(&mut self, ctx: &Ctx<'_>, from: &BareJid, msg: PeerMsg, fx: &mut Effects) {
        match msg {
            PeerMsg::Forward { origin, prev, durable, stanza, .. } => {
                self.take_forward(ctx, from, origin, prev, durable, stanza, fx);
            }
            PeerMsg::Confirm { origin } => self.confirmed(ctx, from, origin, fx),
            PeerMsg::Refuse { origin } => self.outbox.refuse(from, origin, ctx.now.mono),
            PeerMsg::State { stanza, asker } => self.in_presence(ctx, stanza, asker, fx),
            PeerMsg::StateAgain => self.presence_again(ctx, &|jid: &BareJid| jid == from, fx),
            PeerMsg::Request { stanza } => self.in_request(ctx, from, stanza, fx),
        }
        self.finish(ctx, fx);
    }

    /// Time has passed.
    pub fn handle_timer(&mut self, ctx: &Ctx<'_>, fx: &mut Effects) {
        let now = ctx.now.mono;
        for to in self.outbox.due(now) {
            self.send_forwards(ctx, &to, fx);
        }
        let over: Vec<SessionId> = self
            .state
            .sessions
            .iter()
            .filter(|s| matches!(s.link, Link::Detached { until } | Link::Attaching { until } if until <= now))
            .map(|s| s.id)
            .collect();
        for id in over {
            match self.state.session(id).map(|s| s.link) {
                Some(Link::Attaching { .. }) => self.lose(ctx, id, fx),
                _ => self.expire(ctx, id, fx),
            }
        }
        let unconfirmed = self.state.sessions.iter().filter(|s| s.confirm_by <= now);
        let unconfirmed: Vec<_> = unconfirmed.filter_map(|s| Some((s.id, s.attach, s.conn()?))).collect();
        for (session, attach, conn) in unconfirmed {
            self.let_go(ctx, session, attach, conn, fx);
        }
        self.forget_lost(|l| l.until <= now, fx);
        if self.cursor_at <= now {
            self.write_cursor(fx);
        }
        if self.give_up_at <= now {
            self.give_up(ctx, fx);
        }
        if self.checkpoint_at <= now {
            self.checkpoint(ctx, fx);
        }
        self.finish(ctx, fx);
    }

    /// Other shards have a new owner or a new link: whoever lives there gets again what it has not confirmed, and the
    /// newest presence.
    pub fn handle_renewed(&mut self, ctx: &Ctx<'_>, shard_of: &dyn Fn(&BareJid) -> ShardId, shard: ShardId, fx: &mut Effects) {
        for to in self.outbox.renew(|to| shard_of(to) == shard) {
            self.send_forwards(ctx, &to, fx);
        }
        self.presence_again(ctx, &|jid: &BareJid| shard_of(jid) == shard, fx);
        let lost: Vec<_> = {
            let (lost, kept): (Vec<_>, Vec<_>) = self.requests.take().into_iter().partition(|(_, to, _)| shard_of(&to.to_bare()) == shard);
            self.requests = kept.into();
            lost
        };
        for (session, to, id) in lost {
            self.iq_lost(session, to, id, fx);
        }
        self.finish(ctx, fx);
    }

    /// The plane of these connections is gone without a farewell.
    pub fn handle_conns_lost(&mut self, ctx: &Ctx<'_>, lost: &dyn Fn(ConnId) -> bool, fx: &mut Effects) {
        let held = self.state.sessions.iter().filter_map(|s| Some((s.id, s.attach, s.conn().filter(|c| lost(*c))?)));
        let held: Vec<_> = held.collect();
        for (session, attach, conn) in held {
            self.let_go(ctx, session, attach, conn, fx);
        }
        self.finish(ctx, fx);
    }

    fn let_go(&mut self, ctx: &Ctx<'_>, session: SessionId, attach: types::Attach, conn: ConnId, fx: &mut Effects) {
        self.detach(ctx, session, fx);
        // If its edge lives after all it hears of it, though its client may say nothing for long.
        let word = match self.state.session(session) {
            Some(_) => ShardMsg::Again { session },
            None => ShardMsg::Ended { session, attach, reason: EndReason::Internal },
        };
        fx.push(Effect::Edge(conn, word));
    }

    /// The link to the edge of these connections is a new one. What it still has it re-attaches; a farewell may have been
    /// lost with the old link, and then nobody has the session.
    pub fn handle_link_renewed(&mut self, ctx: &Ctx<'_>, of: &dyn Fn(ConnId) -> bool, fx: &mut Effects) {
        let by = ctx.now.mono + ctx.settings.attaching;
        for s in self.state.sessions.iter_mut().filter(|s| s.conn().is_some_and(of)) {
            s.confirm_by = s.confirm_by.min(by);
        }
        self.finish(ctx, fx);
    }

    /// When [`Account::handle_timer`] wants to be called.
    pub fn next_wake(&self) -> Instant {
        // Asked at the end of each turn of the account.
        let mut at = self.outbox.next_wake().min(self.cursor_at).min(self.checkpoint_at).min(self.give_up_at);
        for s in &self.state.sessions {
            at = at.min(match s.link {
                Link::Detached { until } | Link::Attaching { until } => until,
                Link::Attached(_) => s.confirm_by,
            });
        }
        for lost in self.lost.iter() {
            at = at.min(lost.until);
        }
        at
    }

    /// It may be forgotten: it owes nothing and everything that it knows is in the store.
    pub fn may_sleep(&self, now: Instant, idle: Duration) -> bool {
        self.state.sessions.is_empty()
            && self.outbox.is_empty()
            && self.reads.is_empty()
            && self.state.log.dirty() == 0
            && now.since(self.used_at) >= idle
    }

    /// Unconfirmed forwards (for checkers and metrics).
    pub fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// The session's stanza that is being carried out.
    pub fn current(&self) -> Option<(SessionId, u64)> {
        self.current
    }

    /// These stanzas, of our sessions and of other accounts, made an earlier life of this entity panic: they are answered with
    /// an error, not carried out.
    pub fn poison(&mut self, inputs: &[(SessionId, u64)], forwards: &[(BareJid, Origin)]) {
        self.poison = inputs.to_vec().into();
        self.poison_forwards = forwards.to_vec().into();
    }

    /// The input is done: tell edges what to keep, end what reached a bound, write what is due.
    fn finish(&mut self, ctx: &Ctx<'_>, fx: &mut Effects) {
        self.used_at = ctx.now.mono;
        while let Some(id) = self.overfull.made().and_then(Vec::pop) {
            self.end_session(ctx, id, Some(EndReason::ResourceConstraint), fx);
        }
        for s in &mut self.state.sessions {
            tell_soft(s, fx);
        }
        if planted::is(Bug::LiveLate) && !self.live && !self.outbox.is_empty() {
            self.live = true;
            fx.push(Effect::Live);
        }
        if self.state.log.dirty() >= unlucky::at_most(Bound::CheckpointEvery, CHECKPOINT_EVERY as usize) as u32 {
            self.checkpoint(ctx, fx);
        } else if self.state.log.dirty() > 0 && self.checkpoint_at == Instant::NEVER {
            self.checkpoint_at = ctx.now.mono + unlucky::within(Bound::CheckpointWithin, CHECKPOINT_WITHIN);
        }
        if self.outbox.is_empty() {
            self.give_up_at = Instant::NEVER;
        } else if self.give_up_at == Instant::NEVER {
            self.give_up_at = ctx.now.mono + FORWARD_GIVE_UP;
        }
        if self.state.log.is_settled_since_cursor() && self.cursor_at == Instant::NEVER {
            self.cursor_at = ctx.now.mono + unlucky::within(Bound::CursorWithin, CURSOR_WITHIN);
        }
        if self.live && self.state.sessions.is_empty() && self.outbox.is_empty() && self.state.log.dirty() == 0 {
            self.live = false;
            fx.push(Effect::NotLive);
        }
    }

    fn checkpoint(&mut self, ctx: &Ctx<'_>, fx: &mut Effects) {
        let State { sessions, log, .. } = &mut self.state;
        for s in sessions {
            // From here on the checkpoint says that the others are settled.
            s.given.retain(|(row, _)| log.get(*row).is_some_and(|o| o.owed.contains(&s.id)));
            s.waits.retain(|row| log.get(*row).is_some_and(|o| o.owed.contains(&OFFLINE)));
        }
        self.checkpoint_at = Instant::NEVER;
        if self.state.log.dirty() == 0 {
            return;
        }
        let partition = &self.state.partition();
        let State { jid, log, .. } = &mut self.state;
        log.checkpoint(jid, partition, cell::CHECKPOINT, ctx.now.wall, fx);
        self.write_cursor(fx);
    }

    fn write_cursor(&mut self, fx: &mut Effects) {
        self.cursor_at = Instant::NEVER;
        let cursor = self.state.log.cursor();
        fx.put(&self.state.partition(), cell::CURSOR, cursor);
    }

    /// A new owner found obligations: they were marked before they arose.
    pub(crate) fn still_live(&mut self, fx: &mut Effects) {
        self.mark_live(fx);
    }

    /// At load: a forward that the last owner left, in its place.
    pub(crate) fn push_forward(&mut self, to: BareJid, pending: crate::outbox::Pending) {
        self.outbox.push(to, pending);
    }

    /// At load: forward again from the first unconfirmed, before anything new.
    pub(crate) fn resume_forwards(&mut self, ctx: &Ctx<'_>, fx: &mut Effects) {
        let all: Vec<BareJid> = self.outbox.recipients().cloned().collect();
        for to in all {
            self.send_forwards(ctx, &to, fx);
        }
        self.finish(ctx, fx);
    }

    /// Before an obligation arises.
    fn mark_live(&mut self, fx: &mut Effects) {
        if !self.live && !planted::is(Bug::LiveLate) {
            self.live = true;
            fx.push(Effect::Live);
        }
    }

    /// Does this frame come from the connection that has the session now? If not, it is told what to do.
    fn check(&mut self, conn: ConnId, session: SessionId, attach: types::Attach, fx: &mut Effects) -> bool {
        match self.state.session(session) {
            Some(s) if s.attach == attach && s.link == Link::Attached(conn) => true,
            Some(_) if planted::is(Bug::NoAttachCheck) => true,
            // Detached while the edge still lives ◊: it must re-attach.
            Some(s) if s.attach == attach && s.conn().is_none() => {
                fx.push(Effect::Edge(conn, ShardMsg::Again { session }));
                false
            }
            _ => {
                let ended = ShardMsg::Ended { session, attach, reason: EndReason::Conflict };
                fx.push(Effect::Edge(conn, ended));
                false
            }
        }
    }

    fn is_current(&self, conn: ConnId, session: SessionId, attach: types::Attach) -> bool {
        let current = |s: &crate::session::Session| s.attach == attach && s.link == Link::Attached(conn);
        self.state.session(session).is_some_and(|s| current(s) || planted::is(Bug::NoAttachCheck))
    }

    /// One output for one session, numbered; CSI may hold it back (XEP-0352).
    fn output(&mut self, ctx: &Ctx<'_>, id: SessionId, pos: Option<Pos>, stanza: SharedStanza, fx: &mut Effects) {
        let Some(s) = self.state.session_mut(id) else { return };
        if s.soft.inactive && s.conn().is_some() {
            if pos.is_none() && ctx.pipeline.may_hold(&stanza) {
                let key = stanza.from.clone().unwrap_or_else(|| s.jid.to_jid());
                s.held.make().insert((stanza.kind == Kind::Message, key), stanza);
                if s.held.len() <= unlucky::at_most(Bound::HeldStanzas, HELD_MAX) {
                    return;
                }
                self.release_held(id, fx);
                return;
            }
            self.release_held(id, fx);
        }
        self.send(id, pos, stanza, fx);
    }

    pub(super) fn release_held(&mut self, id: SessionId, fx: &mut Effects) {
        let Some(s) = self.state.session_mut(id) else { return };
        for stanza in s.held.take().into_values() {
            self.send(id, None, stanza, fx);
        }
    }

    fn send(&mut self, id: SessionId, pos: Option<Pos>, stanza: SharedStanza, fx: &mut Effects) {
        let Some(s) = self.state.session_mut(id) else { return };
        let output = s.output(pos, stanza);
        if matches!(s.link, Link::Detached { .. }) && pos.is_none_or(|p| s.given.iter().any(|(row, _)| *row == p.row)) {
            // Core and store hold a detached session: what is in no row owed to it lies in a cell.
            s.cells.make().push(output.m);
            fx.put(&self.state.partition(), TailRow::key(id, output.m), TailRow::encode(&output, self.state.epoch));
        }
        let Some(s) = self.state.session_mut(id) else { return };
        if let Some(conn) = s.conn() {
            fx.push(Effect::Edge(conn, ShardMsg::Deliver { session: id, attach: s.attach, output }));
        }
        if s.tail_full() && !self.overfull.contains(&id) {
            self.overfull.make().push(id);
        }
    }

    /// The answer to a stanza of one of our sessions that ends here.
    fn reply_error(&mut self, ctx: &Ctx<'_>, session: SessionId, stanza: &Stanza, error: &StanzaError, fx: &mut Effects) {
        let Some(mut reply) = error.reply_to(stanza) else { return };
        if let Some(s) = self.state.session(session) {
            reply.to = Some(s.jid.to_jid());
        }
        self.output(ctx, session, None, Arc::new(reply), fx);
    }

    fn set_active(&mut self, id: SessionId, active: bool, fx: &mut Effects) {
        if let Some(s) = self.state.session_mut(id)
            && s.soft.inactive == active
        {
            s.soft_mut().inactive = !active;
        }
        if active {
            self.release_held(id, fx);
        }
    }

    fn acked(&mut self, ctx: &Ctx<'_>, id: SessionId, m: u64, fx: &mut Effects) {
        let Some(s) = self.state.session_mut(id) else { return };
        match s.acked(m) {
            Some(rows) => {
                for row in rows {
                    self.state.log.settle(row, id);
                }
                self.flush_offline(ctx, id, fx);
            }
            None => self.end_session(ctx, id, Some(EndReason::PolicyViolation), fx),
        }
    }

    /// Write the session row: attached, or with everything that nobody else holds.
    fn write_session(&self, id: SessionId, detached_until: Option<Timestamp>, fx: &mut Effects) {
        let Some(s) = self.state.session(id) else { return };
        let row = match detached_until {
            None => SessionRow::attached(s, self.state.epoch),
            Some(until) => SessionRow::detached(s, until, self.state.epoch),
        };
        fx.put(&self.state.partition(), SessionRow::key(id), row.encode());
    }

    /// Put a durable stanza on its way to another entity; its row or cell is written already.
    fn forward(&mut self, ctx: &Ctx<'_>, to: BareJid, origin: Origin, key: Key, stanza: SharedStanza, fx: &mut Effects) {
        let since = ctx.now.wall;
        self.outbox.push(to.clone(), crate::outbox::Pending { origin, key, stanza, since });
        let mut frames = self.outbox.send(&to, ctx.now.mono);
        // Nearly always there is one.
        let last = frames.pop();
        for frame in frames {
            fx.push(Effect::Peer(to.clone(), frame));
        }
        if let Some(last) = last {
            fx.push(Effect::Peer(to, last));
        }
    }

    fn send_forwards(&mut self, ctx: &Ctx<'_>, to: &BareJid, fx: &mut Effects) {
        for frame in self.outbox.send(to, ctx.now.mono) {
            fx.push(Effect::Peer(to.clone(), frame));
        }
    }

    fn confirmed(&mut self, ctx: &Ctx<'_>, from: &BareJid, origin: Origin, fx: &mut Effects) {
        for done in self.outbox.confirm(from, origin) {
            self.settle_forward(&done, fx);
            self.disclose_granted(ctx, &done.stanza, from, fx);
        }
        self.send_forwards(ctx, from, fx);
    }

    fn settle_forward(&mut self, done: &crate::outbox::Pending, fx: &mut Effects) {
        match done.key {
            Key::Row(pos) => self.state.log.confirmed(pos.row),
            Key::Cell(number) => fx.delete(&self.state.partition(), owed_key(number)),
            Key::Memory => {
                if let Some(s) = self.state.session_mut(done.origin.session) {
                    s.relayed.retain(|n| *n != done.origin.n);
                    self.tell_outcome(done.origin.session, fx);
                }
            }
        }
    }

    /// Inputs are accepted up to the last one taken, or to the one before the first that waits for its next hop.
    fn tell_outcome(&mut self, id: SessionId, fx: &mut Effects) {
        let Some(s) = self.state.session_mut(id) else { return };
        s.accepted = s.relayed.front().map_or(s.taken, |n| n - 1).max(s.accepted);
        // First: once it is accepted, the edge forgets the input that the state came from.
        tell_soft(s, fx);
        if let Some(conn) = s.conn() {
            fx.push(Effect::Edge(conn, ShardMsg::Outcome { session: id, attach: s.attach, accepted: s.accepted }));
        }
    }

    /// 24 hours without a next hop: the sender gets an error if it is still there.
    fn give_up(&mut self, ctx: &Ctx<'_>, fx: &mut Effects) {
        self.give_up_at = ctx.now.mono + Duration::from_secs(600);
        let window = u64::try_from(FORWARD_GIVE_UP.as_millis()).unwrap_or(u64::MAX);
        for (_, pending) in self.outbox.give_up(Timestamp(ctx.now.wall.0.saturating_sub(window))) {
            self.settle_forward(&pending, fx);
            self.reply_error(ctx, pending.origin.session, &pending.stanza, &StanzaError::new(Condition::RemoteServerTimeout), fx);
        }
    }

    /// A name for a forward that no session sent.
    fn own_origin(&mut self) -> Origin {
        // Durable with the cell that the forward rests on.
        self.counters.own += 1;
        let n = u64::from(self.state.epoch.0) << 32 | u64::from(self.counters.own);
        Origin { session: SessionId::ACCOUNT, n, k: 0 }
    }

    /// A forward that rests on the account's state is a cell, written in the batch of that state.
    fn owed_cell(&mut self, ctx: &Ctx<'_>, to: &BareJid, origin: Origin, stanza: &SharedStanza, fx: &mut Effects) -> Key {
        self.counters.cell += 1;
        let number = u64::from(self.state.epoch.0) << 32 | self.counters.cell;
        let mut w = crate::codec::Writer::new(1);
        w.u64(self.state.log.last()).str(to.as_str()).origin(origin).u64(ctx.now.wall.0).bytes(&stanza.to_bytes());
        fx.put(&self.state.partition(), owed_key(number), w.finish());
        self.write_counters(fx);
        Key::Cell(number)
    }

    /// At load.
    pub(crate) fn load_suspects(&mut self, cell: bytes::Bytes) -> Result<(), Corrupt> {
        let mut r = Reader::new(cell, 1)?;
        for _ in 0..r.count()? {
            self.suspects.make().push((r.session()?, r.u64()?));
        }
        r.end()
    }

    /// At load.
    pub(crate) fn load_gone(&mut self, cell: bytes::Bytes) -> Result<(), Corrupt> {
        let mut r = Reader::new(cell, 1)?;
        for _ in 0..r.count()? {
            let resource = compact_str::CompactString::from(r.string()?);
            self.gone.make().push((resource, Timestamp(r.u64()?)));
        }
        r.end()
    }

    /// A resource that may have been available has ended.
    fn remember_gone(&mut self, ctx: &Ctx<'_>, resource: &str, fx: &mut Effects) {
        let window = u64::try_from(GONE_FOR.as_millis()).unwrap_or(u64::MAX);
        let gone = self.gone.make();
        gone.retain(|(r, at)| r != resource && at.0 + window > ctx.now.wall.0);
        if gone.len() >= GONE_MAX {
            gone.remove(0);
        }
        gone.push((resource.into(), ctx.now.wall));
        let mut w = Writer::new(1);
        w.u64(gone.len() as u64);
        for (resource, at) in gone.iter() {
            w.str(resource).u64(at.0);
        }
        fx.put(&self.state.partition(), cell::GONE, w.finish());
    }

    /// In the batch of what was just numbered.
    fn write_counters(&self, fx: &mut Effects) {
        fx.put(&self.state.partition(), cell::COUNTERS, self.counters.encode());
    }

    fn index(&self, ctx: &Ctx<'_>, op: fn(bytes::Bytes) -> Op, fx: &mut Effects) {
        let key = bytes::Bytes::copy_from_slice(self.state.jid.as_str().as_bytes());
        let partition = Partition { collection: Collection::Index, key: ctx.shard.0.to_be_bytes().to_vec().into() };
        fx.push(Effect::Write(Batch { partition, ops: smallvec![op(key)] }));
    }

    /// The number of an input of an acknowledged session that is in no row: `h` must not run back when edge and core die
    /// together, and an IQ must be known as a repeat.
    fn write_number(&mut self, id: SessionId, n: u64, fx: &mut Effects) {
        self.state.log.note_number(id, n);
        fx.put(&self.state.partition(), number_key(id), Writer::new(1).u64(n).finish());
    }

    /// Rows owed to a session that is gone go to the best other session, or wait (XEP-0160).
    fn reroute(&mut self, ctx: &Ctx<'_>, gone: SessionId, fx: &mut Effects) {
        let rows: Vec<u64> = self.state.log.owed_to(gone).map(|o| o.pos.row).collect();
        for row in rows {
            self.state.log.reroute(row, gone);
        }
        if let Some(next) = self.state.route_bare(false).first().copied() {
            self.flush_offline(ctx, next, fx);
        }
        // What it had acknowledged must not come to the next one: it goes with the session's row, which said whose it was.
        if self.state.log.is_settled_since_cursor() {
            self.write_cursor(fx);
        }
    }
}

/// A soft state that has changed goes to the edge, its second holder.
fn tell_soft(s: &mut Session, fx: &mut Effects) {
    if std::mem::take(&mut s.soft_changed)
        && let Some(conn) = s.conn()
    {
        fx.push(Effect::Edge(conn, ShardMsg::Keep { session: s.id, attach: s.attach, soft: s.soft.clone() }));
    }
}

/// The key of an owed cell: numbers sort in the order of writing.
pub(crate) fn owed_key(number: u64) -> bytes::Bytes {
    let mut key = cell::OWED.to_vec();
    key.extend_from_slice(&number.to_be_bytes());
    key.into()
}

/// See [`cell::NUMBER`].
pub(crate) fn number_key(id: SessionId) -> bytes::Bytes {
    [cell::NUMBER, id.to_string().as_bytes()].concat().into()
}
