//! Stanzas of the account's own sessions on their way out.

use super::{Account, PendingRead, SUSPECTS_MAX, Suspect};
use crate::codec::Writer;
use crate::effect::{Effect, Effects, Scan};
use crate::module::{Ctx, Flow, Point, Work};
use crate::outbox::Key;
use crate::row::{Owed, Row};
use crate::session::Session;
use crate::state::cell;
use frame::{PeerMsg, SharedStanza};
use smallvec::SmallVec;
use stanza::{Condition, Kind, MessageType, StanzaError};
use std::sync::Arc;
use types::limit::OUTBOX_ROWS_MAX;
use types::{BareJid, Origin, SessionId};

impl Account {
    /// The session's `n`-th stanza.
    pub(super) fn submit(&mut self, ctx: &Ctx<'_>, id: SessionId, n: u64, attempt: u8, stanza: SharedStanza, fx: &mut Effects) {
        let Some(s) = self.state.session_mut(id) else { return };
        if n <= s.taken {
            // A repeat: the outcome was lost.
            return self.tell_outcome(id, fx);
        }
        if n != s.taken + 1 {
            let (attach, n) = (s.attach, s.taken + 1);
            if let Some(conn) = s.conn() {
                fx.push(Effect::Edge(conn, frame::ShardMsg::Refused { session: id, attach, n }));
            }
            return;
        }
        if attempt > 2 && !self.is_poison(id, n) {
            return self.suspect(id, n, attempt, stanza, fx);
        }
        self.carry_out(ctx, id, n, attempt, stanza, fx);
    }

    /// Two owners did not live to take it. They may have died of it, or of something else: that it is begun once more is
    /// durable before it is, so that the next owner knows.
    fn suspect(&mut self, id: SessionId, n: u64, attempt: u8, stanza: SharedStanza, fx: &mut Effects) {
        let begun = |r: &PendingRead| matches!(r, PendingRead::Suspect(s) if (s.session, s.n) == (id, n));
        let Some(attach) = self.state.session(id).map(|s| s.attach).filter(|_| !self.reads.values().any(begun)) else { return };
        let mut w = Writer::new(1);
        let oldest = self.suspects.len().saturating_sub(SUSPECTS_MAX - 1);
        let marked: Vec<_> = self.suspects.iter().skip(oldest).copied().chain([(id, n)]).collect();
        w.u64(marked.len() as u64);
        for (session, n) in &marked {
            w.session(*session).u64(*n);
        }
        fx.put(&self.state.partition(), cell::SUSPECTS, w.finish());
        self.next_read += 1;
        self.reads.make().insert(self.next_read, PendingRead::Suspect(Suspect { session: id, attach, n, attempt, stanza }));
        let partition = self.state.partition();
        fx.push(Effect::Read(self.next_read, Scan { partition, from: cell::SUSPECTS.into(), to: None, limit: 1, reverse: false }));
    }

    /// That it is begun is durable.
    pub(super) fn try_suspect(&mut self, ctx: &Ctx<'_>, suspect: Suspect, fx: &mut Effects) {
        let Suspect { session, attach, n, attempt, stanza } = suspect;
        let here = |s: &Session| s.attach == attach && s.conn().is_some() && s.taken + 1 == n;
        // Else the session has ended, moved on or been detached meanwhile: its row says that this was not taken.
        if self.state.session(session).is_some_and(here) {
            self.carry_out(ctx, session, n, attempt, stanza, fx);
        }
    }

    /// Two owners have begun it, alone, and neither lived to take it.
    fn is_poison(&self, id: SessionId, n: u64) -> bool {
        self.suspects.iter().filter(|s| **s == (id, n)).count() >= 2
    }

    pub(super) fn carry_out(&mut self, ctx: &Ctx<'_>, id: SessionId, n: u64, attempt: u8, stanza: SharedStanza, fx: &mut Effects) {
        let Some(s) = self.state.session_mut(id) else { return };
        s.taken = n;
        let numbered = s.acknowledges();
        self.current = Some((id, n));
        if numbered && stanza.kind != Kind::Message {
            self.write_number(id, n, fx);
        }
        if self.is_poison(id, n) || self.poison.contains(&(id, n)) {
            self.reply_error(ctx, id, &stanza, &StanzaError::new(Condition::InternalServerError), fx);
        } else {
            match stanza.kind {
                Kind::Message => self.out_message(ctx, id, n, attempt, stanza, fx),
                Kind::Presence => self.out_presence(ctx, id, n, stanza, fx),
                // Without a number in the store, nobody knows whether an earlier owner has forwarded it.
                Kind::Iq if attempt > 1 && !numbered => self.repeat(ctx, id, n, &stanza, fx),
                Kind::Iq => self.out_iq(ctx, id, n, stanza, fx),
            }
        }
        self.current = None;
        if numbered && self.state.log.number(id) < n && self.state.session(id).is_some() {
            self.write_number(id, n, fx);
        }
        self.tell_outcome(id, fx);
    }

    /// A stanza on its way, before any hook has seen it.
    pub(super) fn work(&self, stanza: SharedStanza, session: Option<SessionId>) -> Work {
        let type_ = if stanza.kind == Kind::Message { stanza.message_type() } else { MessageType::Normal };
        let ordinary = matches!(type_, MessageType::Chat | MessageType::Normal);
        Work {
            session,
            targets: SmallVec::new(),
            copies: Vec::new(),
            row: self.state.log.last() + 1,
            archive: false,
            offline: ordinary,
            passing: !ordinary,
            copyable: ordinary,
            stanza,
        }
    }

    fn out_message(&mut self, ctx: &Ctx<'_>, id: SessionId, n: u64, attempt: u8, stanza: SharedStanza, fx: &mut Effects) {
        let original = stanza.clone();
        if let Err(error) = self.try_message(ctx, id, n, attempt, stanza, fx) {
            self.reply_error(ctx, id, &original, &error, fx);
        }
    }

    fn try_message(
        &mut self,
        ctx: &Ctx<'_>,
        id: SessionId,
        n: u64,
        attempt: u8,
        mut stanza: SharedStanza,
        fx: &mut Effects,
    ) -> Result<(), StanzaError> {
        if stanza.to.is_none() {
            // RFC 6120 §10.3.1: to the sender's own bare JID.
            Arc::make_mut(&mut stanza).to = Some(self.state.jid.to_jid());
        }
        let mut work = self.work(stanza, Some(id));
        match ctx.pipeline.run(Point::Outbound, ctx, &self.state, &mut work) {
            Flow::Continue => {}
            Flow::Drop => return Ok(()),
            Flow::Refuse(error) => return Err(error),
        }
        if work.passing && attempt > 1 {
            // At most once: an earlier owner may have passed it on.
            return Ok(());
        }
        let durable_sender = self.state.session(id).is_some_and(|s| s.acknowledges());
        if ctx.low_space && !work.passing {
            return Err(StanzaError::new(Condition::ResourceConstraint));
        }
        // Said last: they rest on the row, and there are none of a message that is refused here.
        let copies = std::mem::take(&mut work.copies);
        self.pass_on(ctx, id, n, durable_sender, work, fx)?;
        for (session, copy) in copies {
            self.output(ctx, session, None, copy, fx);
        }
        Ok(())
    }

    /// Hooks are done with it: to this account, or to the next hop.
    fn pass_on(
        &mut self,
        ctx: &Ctx<'_>,
        id: SessionId,
        n: u64,
        durable_sender: bool,
        work: Work,
        fx: &mut Effects,
    ) -> Result<(), StanzaError> {
        let origin = Origin { session: id, n, k: 0 };
        let Some(to) = &work.stanza.to else { return Err(StanzaError::new(Condition::BadRequest)) };
        if self.state.is_own(to) {
            let sender = self.state.jid.clone();
            return self.in_message(ctx, &sender, origin, durable_sender, work.stanza, fx);
        }
        if !ctx.settings.hosts(to.domain()) {
            return Err(StanzaError::new(Condition::RemoteServerNotFound));
        }
        if to.local().is_none() {
            return Err(StanzaError::new(Condition::ServiceUnavailable));
        }
        let next_hop = to.to_bare();
        if work.passing {
            if durable_sender {
                // Before it leaves: a client that hears that it was not taken sends it again.
                self.write_number(id, n, fx);
            }
            fx.push(Effect::Peer(next_hop, PeerMsg::Request { stanza: work.stanza }));
            return Ok(());
        }
        if self.outbox.len() >= OUTBOX_ROWS_MAX {
            return Err(StanzaError::new(Condition::ResourceConstraint));
        }
        let key = if work.archive || durable_sender {
            self.mark_live(fx);
            let row = Row {
                at: ctx.now.wall,
                sender: self.state.jid.clone(),
                origin,
                target: Some(to.clone()),
                archived: work.archive,
                owed: Owed::new(),
                stanza: work.stanza.clone(),
            };
            Key::Row(self.state.log.append(&self.state.jid, self.state.epoch, row, fx))
        } else {
            if let Some(s) = self.state.session_mut(id) {
                s.relayed.push_back(n);
            }
            Key::Memory
        };
        self.forward(ctx, next_hop, origin, key, work.stanza, fx);
        Ok(())
    }

    /// May a stanza that is no message leave for (or come from) this address? Guards only.
    pub(super) fn guarded(&self, ctx: &Ctx<'_>, point: Point, stanza: &SharedStanza, session: Option<SessionId>) -> Flow {
        let mut work = self.work(stanza.clone(), session);
        ctx.pipeline.guard(point, ctx, &self.state, &mut work)
    }

    /// Can this address be reached at all, from here?
    pub(super) fn reachable(ctx: &Ctx<'_>, to: &BareJid) -> Result<(), StanzaError> {
        if ctx.settings.hosts(to.domain()) { Ok(()) } else { Err(StanzaError::new(Condition::RemoteServerNotFound)) }
    }
}
