//! IQs: those the account or its server answers, and those that pass (RFC 6120 §8.2.3, RFC 6121 §8.5).

use super::{Account, PURGE_ROWS, PendingRead, QUERIES_MAX, REQUESTS_MAX};
use crate::codec::Corrupt;
use crate::effect::{Effect, Effects, ReadId};
use crate::module::{Action, Answer, At, Ctx, Flow, IqCtx, IqHandler, IqKind, LogScan, Point, Rows, bucket_scan};
use crate::roster::RosterAnswer;
use crate::row::{self, Kept};
use crate::state::cell;
use crate::subscription::Kind;
use bytes::Bytes;
use frame::{PeerMsg, SharedStanza};
use stanza::{Condition, IqType, Stanza, StanzaError};
use std::sync::Arc;
use types::limit::BUCKET_ROWS_MAX;
use types::{BareJid, Jid, Op, SessionId, ns};
use xml::Element;

impl Account {
    /// An IQ of one of our sessions.
    pub(super) fn out_iq(&mut self, ctx: &Ctx<'_>, id: SessionId, _n: u64, stanza: SharedStanza, fx: &mut Effects) {
        if let Err(error) = self.try_iq(ctx, id, stanza.clone(), fx) {
            self.reply_error(ctx, id, &stanza, &error, fx);
        }
    }

    fn try_iq(&mut self, ctx: &Ctx<'_>, id: SessionId, stanza: SharedStanza, fx: &mut Effects) -> Result<(), StanzaError> {
        let type_ = stanza.iq_type().ok_or_else(|| StanzaError::new(Condition::BadRequest))?;
        let request = matches!(type_, IqType::Get | IqType::Set);
        if stanza.id.as_deref().is_none_or(str::is_empty) || (request && stanza.children.len() != 1) {
            return Err(StanzaError::new(Condition::BadRequest));
        }
        let own = stanza.to.as_ref().is_none_or(|to| self.state.is_own(to) && to.is_bare());
        let server = stanza.to.as_ref().is_some_and(|to| to.local().is_none() && to.is_bare() && ctx.settings.hosts(to.domain()));
        if own || server {
            if request {
                self.answer_iq(ctx, Some(id), stanza, if own { At::Own } else { At::Server }, fx);
            }
            return Ok(());
        }
        let to = stanza.to.clone().ok_or_else(|| StanzaError::new(Condition::BadRequest))?;
        if !request
            && let Some(s) = self.state.session_mut(id)
            && let Some(asked_of_it) = s.asked.made()
        {
            asked_of_it.retain(|(from, asked)| *from != to || stanza.id.as_ref() != Some(asked));
        }
        if self.state.is_own(&to) {
            return self.iq_to_resource(ctx, stanza, fx);
        }
        let next_hop = to.to_bare();
        Self::reachable(ctx, &next_hop)?;
        if next_hop.is_domain() {
            return Err(StanzaError::new(Condition::ServiceUnavailable));
        }
        match self.guarded(ctx, Point::Outbound, &stanza, Some(id)) {
            Flow::Continue => {}
            Flow::Drop => return Ok(()),
            Flow::Refuse(error) => return Err(error),
        }
        if request && let Some(iq_id) = stanza.id.clone() {
            if self.requests.len() >= REQUESTS_MAX {
                // The oldest is forgotten: it will still be answered, unless its owner dies.
                self.requests.make().remove(0);
            }
            self.requests.make().push((id, to, iq_id));
        }
        fx.push(Effect::Peer(next_hop, PeerMsg::Request { stanza }));
        Ok(())
    }

    /// §8.5.3: an IQ for one of our resources.
    fn iq_to_resource(&mut self, ctx: &Ctx<'_>, stanza: SharedStanza, fx: &mut Effects) -> Result<(), StanzaError> {
        let resource = stanza.to.as_ref().and_then(|to| to.resource());
        let session = resource.and_then(|r| self.state.resource(r)).map(|s| s.id);
        match session {
            Some(id) => {
                if stanza.is_request()
                    && let Some(s) = self.state.session_mut(id)
                {
                    s.ask(&stanza);
                }
                self.output(ctx, id, None, stanza, fx);
                Ok(())
            }
            None => Err(StanzaError::new(Condition::ServiceUnavailable)),
        }
    }

    /// An IQ of another entity.
    pub(super) fn in_iq(&mut self, ctx: &Ctx<'_>, from: &BareJid, stanza: SharedStanza, fx: &mut Effects) {
        if !stanza.is_request() {
            if let (Some(sender), Some(id), Some(requests)) = (&stanza.from, &stanza.id, self.requests.made()) {
                requests.retain(|(_, to, iq_id)| iq_id != id || to != sender);
            }
            // XEP-0191 §3.3: of a blocked entity, silently dropped.
            if self.guarded(ctx, Point::Inbound, &stanza, None) == Flow::Continue {
                let session = stanza.to.as_ref().and_then(|to| to.resource()).and_then(|r| self.state.resource(r)).map(|s| s.id);
                let late = |(s, to, id): &(SessionId, Jid, compact_str::CompactString)| {
                    Some(*s) == session && stanza.from.as_ref() == Some(to) && stanza.id.as_ref() == Some(id)
                };
                if let Some(at) = self.answered.iter().position(late) {
                    self.answered.make().remove(at);
                    return;
                }
                let _ = self.iq_to_resource(ctx, stanza, fx); // §8.5.3.2.3: nobody is there to hear it.
            }
            return;
        }
        let result = match self.guarded(ctx, Point::Inbound, &stanza, None) {
            Flow::Refuse(error) => Err(error),
            Flow::Drop => return,
            Flow::Continue if !self.state.exists() => Err(StanzaError::new(Condition::ServiceUnavailable)),
            Flow::Continue if stanza.to.as_ref().is_some_and(Jid::is_full) => {
                if self.shares_presence(&stanza) {
                    self.iq_to_resource(ctx, stanza.clone(), fx)
                } else {
                    // As if the resource were not there (§8.5.3.1, §11).
                    Err(StanzaError::new(Condition::ServiceUnavailable))
                }
            }
            // Whatever a stranger asks, the answer is that of an account that does not exist (RFC 6120 §13.10.2).
            Flow::Continue if !self.state.roster.is_subscriber(from) => Err(StanzaError::new(Condition::ServiceUnavailable)),
            Flow::Continue => {
                self.answer_iq(ctx, None, stanza.clone(), At::Account, fx);
                Ok(())
            }
        };
        if let Err(error) = result {
            self.bounce(from, &stanza, &error, fx);
        }
    }

    /// §8.5.3.1: does the sender see the presence of the addressed resource, by a subscription or by directed presence?
    fn shares_presence(&self, stanza: &Stanza) -> bool {
        let Some(from) = &stanza.from else { return false };
        let bare = from.to_bare();
        let session = stanza.to.as_ref().and_then(Jid::resource).and_then(|r| self.state.resource(r));
        self.state.roster.is_subscriber(&bare)
            || session.is_some_and(|s| s.soft.directed.iter().any(|jid| jid == from || jid == bare.as_jid()))
    }

    /// An own request is answered with an error, here: a later answer must not follow.
    pub(super) fn note_answered(&mut self, session: SessionId, to: Jid, id: compact_str::CompactString) {
        let answered = self.answered.make();
        if answered.len() >= REQUESTS_MAX {
            answered.pop_front();
        }
        answered.push_back((session, to, id));
    }

    /// An own request whose addressee's owner is gone: nobody will answer it.
    pub(super) fn iq_lost(&mut self, session: SessionId, to: Jid, id: compact_str::CompactString, fx: &mut Effects) {
        let Some(jid) = self.session_jid(session) else { return };
        self.note_answered(session, to.clone(), id.clone());
        let asked = Stanza::iq(IqType::Get, &id).with_to(to).with_from(jid);
        if let Some(reply) = StanzaError::new(Condition::RemoteServerTimeout).reply_to(&asked) {
            self.send(session, None, Arc::new(reply), fx);
        }
    }

    /// A request that the account or its server answers.
    fn answer_iq(&mut self, ctx: &Ctx<'_>, session: Option<SessionId>, iq: SharedStanza, at: At, fx: &mut Effects) {
        let Some(payload) = iq.payload().and_then(|c| c.element().ok()) else {
            return self.iq_done(ctx, session, &iq, Err(StanzaError::new(Condition::BadRequest)), fx);
        };
        if payload.is("query", ns::ROSTER) {
            return self.roster_iq(ctx, session, &iq, &payload, at, fx);
        }
        let found = ctx
            .pipeline
            .iq(&payload.ns, &payload.name, at)
            .or_else(|| if at == At::Own { ctx.pipeline.iq(&payload.ns, &payload.name, At::Account) } else { None });
        let Some(handler) = found else {
            return self.iq_done(ctx, session, &iq, Err(StanzaError::new(Condition::ServiceUnavailable)), fx);
        };
        let allowed = match handler.kind {
            IqKind::Both => true,
            IqKind::Get => iq.iq_type() == Some(IqType::Get),
            IqKind::Set => iq.iq_type() == Some(IqType::Set),
        };
        if !allowed {
            return self.iq_done(ctx, session, &iq, Err(StanzaError::new(Condition::NotAllowed)), fx);
        }
        self.run_handler(ctx, session, iq, handler, None, Some(&payload), fx);
    }

    #[expect(clippy::too_many_arguments, reason = "first run and continuation share one path")]
    fn run_handler(
        &mut self,
        ctx: &Ctx<'_>,
        session: Option<SessionId>,
        iq: SharedStanza,
        handler: &'static IqHandler,
        rows: Option<(Box<dyn std::any::Any + Send>, Rows)>,
        payload: Option<&Element>,
        fx: &mut Effects,
    ) {
        let first = rows.is_none();
        let own = self.state.jid.to_jid();
        let from = iq.from.clone().unwrap_or(own);
        let mut actions = Vec::new();
        let mut cx = IqCtx { ctx: *ctx, state: &mut self.state, session, from: &from, fx, actions: &mut actions };
        let answer = match (rows, payload, handler.resume) {
            (Some((data, rows)), _, Some(resume)) => resume(&mut cx, &iq, data, rows),
            (None, Some(payload), _) => (handler.run)(&mut cx, &iq, payload),
            _ => Answer::Error(StanzaError::new(Condition::InternalServerError)),
        };
        let removed = self.act(ctx, actions, fx);
        match answer {
            Answer::Result(payload) => self.iq_done(ctx, session, &iq, Ok(payload), fx),
            Answer::Error(error) => self.iq_done(ctx, session, &iq, Err(error), fx),
            Answer::Read(..) if first && self.reads.len() >= QUERIES_MAX => {
                self.iq_done(ctx, session, &iq, Err(StanzaError::new(Condition::ResourceConstraint)), fx);
            }
            Answer::Read(scan, data) => {
                self.next_read += 1;
                self.reads.make().insert(self.next_read, PendingRead::Iq { iq, handler, session, scan, data });
                fx.push(Effect::Read(self.next_read, bucket_scan(&self.state.jid, scan)));
            }
        }
        if removed {
            self.remove(ctx, None, fx);
        }
    }

    fn act(&mut self, ctx: &Ctx<'_>, actions: Vec<Action>, fx: &mut Effects) -> bool {
        let mut removed = false;
        for action in actions {
            match action {
                Action::Send(id, stanza) => self.output(ctx, id, None, stanza, fx),
                Action::ShowPresence(jid) => self.show_to_authorized(ctx, &jid, fx),
                Action::HidePresence(jid) => self.hide_from_blocked(ctx, &jid, fx),
                Action::RemoveAccount => removed = true,
            }
        }
        removed
    }

    fn show_to_authorized(&mut self, ctx: &Ctx<'_>, jid: &Jid, fx: &mut Effects) {
        let subscribers: Vec<BareJid> = self
            .state
            .roster
            .subscribers()
            .filter(|s| **s == jid.to_bare() || jid.local().is_none() && s.domain() == jid.domain())
            .cloned()
            .collect();
        for s in subscribers {
            self.show_to(ctx, if jid.is_full() { jid } else { s.as_jid() }, None, fx);
        }
    }

    /// The answer goes to the session that asked, or to the entity.
    fn iq_done(
        &mut self,
        ctx: &Ctx<'_>,
        session: Option<SessionId>,
        iq: &SharedStanza,
        result: Result<Option<Element>, StanzaError>,
        fx: &mut Effects,
    ) {
        let reply = match result {
            Ok(payload) => Some(iq.result(payload)),
            Err(error) => error.reply_to(iq),
        };
        let Some(mut reply) = reply else { return };
        match session {
            Some(id) => {
                reply.to = self.session_jid(id).map(Into::into);
                self.output(ctx, id, None, Arc::new(reply), fx);
            }
            None => {
                if let Some(to) = reply.to.as_ref().map(Jid::to_bare) {
                    fx.push(Effect::Peer(to, PeerMsg::Request { stanza: Arc::new(reply) }));
                }
            }
        }
    }

    /// RFC 6121 §2.
    fn roster_iq(&mut self, ctx: &Ctx<'_>, session: Option<SessionId>, iq: &SharedStanza, query: &Element, at: At, fx: &mut Effects) {
        let Some(id) = session else {
            // Somebody else's roster (§2.1.5, §2.3.3).
            return self.iq_done(ctx, session, iq, Err(StanzaError::new(Condition::Forbidden)), fx);
        };
        if at == At::Server {
            return self.iq_done(ctx, session, iq, Err(StanzaError::new(Condition::ServiceUnavailable)), fx);
        }
        if iq.iq_type() == Some(IqType::Get) {
            if let Some(s) = self.state.session_mut(id) {
                s.soft_mut().interested = true;
            }
            let (result, pushes) = match self.state.roster.get(query.attr("ver")) {
                RosterAnswer::Full(query) => (Some(query), Vec::new()),
                RosterAnswer::Current => (None, Vec::new()),
                RosterAnswer::Pushes(pushes) => (None, pushes),
            };
            self.iq_done(ctx, session, iq, Ok(result), fx);
            for push in pushes {
                self.push_iq(ctx, id, &push, fx);
            }
            return;
        }
        if ctx.low_space {
            return self.iq_done(ctx, session, iq, Err(StanzaError::new(Condition::ResourceConstraint)), fx);
        }
        match self.state.roster.set(query, &ctx.settings.roster) {
            Err(error) => self.iq_done(ctx, session, iq, Err(error), fx),
            Ok(change) => {
                for op in change.writes {
                    fx.op(&self.state.partition(), op);
                }
                self.disclose_before(ctx, change.disclosure, &change.jid, fx);
                for kind in change.presences {
                    self.subscription_reply(ctx, kind, &change.jid, fx);
                }
                self.roster_push(ctx, &change.push, fx);
                self.iq_done(ctx, session, iq, Ok(None), fx);
            }
        }
    }

    /// Rows that were asked for.
    pub fn handle_read(&mut self, ctx: &Ctx<'_>, id: ReadId, cells: Result<(Vec<(Bytes, Bytes)>, bool), ()>, fx: &mut Effects) {
        match self.reads.made().and_then(|reads| reads.remove(&id)) {
            Some(PendingRead::Iq { iq, handler, session, scan, data }) => {
                match cells.and_then(|(cells, more)| self.rows(scan, cells, more).map_err(|_| ())) {
                    Ok(rows) => self.run_handler(ctx, session, iq, handler, Some((data, rows)), None, fx),
                    // A store that cannot answer now: the client may try again.
                    Err(()) => self.iq_done(ctx, session, &iq, Err(StanzaError::new(Condition::ResourceConstraint)), fx),
                }
            }
            Some(PendingRead::Suspect(suspect)) => self.try_suspect(ctx, suspect, fx),
            Some(PendingRead::Purge { first }) => self.purge(first, cells.unwrap_or_default(), fx),
            None => {}
        }
        self.finish(ctx, fx);
    }

    fn rows(&self, scan: LogScan, mut cells: Vec<(Bytes, Bytes)>, more: bool) -> Result<Rows, Corrupt> {
        let at = if scan.reverse { scan.last } else { scan.first };
        let bucket = at / BUCKET_ROWS_MAX;
        if more && let Some((key, _)) = cells.last() {
            // A row may have cells of several epochs, of which the page may hold a part: the next one begins with it.
            let cut = row::parse_key(key)?.row;
            let whole = cells.iter().take_while(|(key, _)| row::parse_key(key).is_ok_and(|pos| pos.row != cut)).count();
            if whole > 0 {
                cells.truncate(whole);
            }
        }
        let last_read = cells.last().map(|(key, _)| row::parse_key(key)).transpose()?.map(|p| p.row);
        let next = if scan.reverse {
            let end = if more { last_read } else { Some(bucket * BUCKET_ROWS_MAX) };
            end.filter(|row| *row > scan.first.max(1)).map(|row| row - 1)
        } else {
            let end = if more { last_read } else { Some((bucket + 1) * BUCKET_ROWS_MAX - 1) };
            end.filter(|row| *row < scan.last).map(|row| row + 1)
        };
        let mut rows = Vec::with_capacity(cells.len());
        for (key, value) in cells {
            let pos = row::parse_key(&key)?;
            if self.seal.valid(pos) {
                rows.push((pos, Kept::decode(value)?));
            }
        }
        Ok(Rows { scan, rows, next })
    }

    /// Contacts of an account that goes hear that it does (XEP-0077 §3.2).
    pub(super) fn cancel_subscriptions(&mut self, ctx: &Ctx<'_>, fx: &mut Effects) {
        let contacts: Vec<(BareJid, crate::subscription::State)> =
            self.state.roster.items().map(|i| (i.jid().clone(), i.state())).collect();
        let asking: Vec<BareJid> = self.state.roster.pending_in().map(|(jid, _)| jid.clone()).collect();
        for contact in asking.iter().filter(|a| contacts.iter().all(|(c, _)| c != *a)) {
            self.farewell(ctx, Kind::Unsubscribed, contact, fx);
        }
        for (contact, state) in contacts {
            if state.is_to() || state.is_pending_out() {
                self.farewell(ctx, Kind::Unsubscribe, &contact, fx);
            }
            if state.is_from() || state.is_pending_in() {
                self.farewell(ctx, Kind::Unsubscribed, &contact, fx);
            }
        }
    }

    /// As state, not as a durable forward: the account that would owe it is gone.
    fn farewell(&mut self, ctx: &Ctx<'_>, kind: Kind, to: &BareJid, fx: &mut Effects) {
        if ctx.settings.hosts(to.domain()) {
            let p = Stanza::new(stanza::Kind::Presence, kind.as_str()).with_from(self.state.jid.clone()).with_to(to.clone());
            fx.push(Effect::Peer(to.clone(), PeerMsg::State { stanza: Arc::new(p), asker: None }));
        }
    }

    /// Remove every cell of the account, its log a page at a time.
    pub(super) fn erase(&mut self, ctx: &Ctx<'_>, fx: &mut Effects) {
        let partition = self.state.partition();
        for key in self.state.roster.cell_keys() {
            fx.delete(&partition, key);
        }
        for key in self.state.blocks.cell_keys() {
            fx.delete(&partition, key);
        }
        for name in self.state.cells.take().into_keys() {
            fx.delete(&partition, [cell::MODULE, name.as_bytes()].concat());
        }
        fx.delete(&partition, cell::CHECKPOINT);
        fx.delete(&partition, cell::CURSOR);
        fx.delete(&partition, cell::ACCOUNT);
        self.index(ctx, |key| Op::Delete { key }, fx);
        self.state.credentials = None;
        let (roster, _) = crate::roster::Roster::create(self.state.jid.clone(), ctx.now.wall);
        self.state.roster = roster;
        self.state.blocks = crate::privacy::BlockList::new(self.state.jid.clone());
        self.purge_from(1, fx);
    }

    fn purge_from(&mut self, first: u64, fx: &mut Effects) {
        let last = self.state.log.last();
        if first > last {
            return;
        }
        self.next_read += 1;
        self.reads.make().insert(self.next_read, PendingRead::Purge { first });
        let scan = LogScan { first, last, reverse: false, limit: PURGE_ROWS };
        fx.push(Effect::Read(self.next_read, bucket_scan(&self.state.jid, scan)));
    }

    fn purge(&mut self, first: u64, (cells, more): (Vec<(Bytes, Bytes)>, bool), fx: &mut Effects) {
        let bucket = row::bucket(&self.state.jid, first);
        let mut next = (first / BUCKET_ROWS_MAX + 1) * BUCKET_ROWS_MAX;
        for (key, _) in cells {
            if more && let Ok(pos) = row::parse_key(&key) {
                next = pos.row + 1;
            }
            fx.delete(&bucket, key);
        }
        self.purge_from(next, fx);
    }
}
