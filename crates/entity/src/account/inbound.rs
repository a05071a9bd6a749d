//! Messages for the account, from others and from itself (RFC 6121 §8.5).

use super::Account;
use crate::effect::{Effect, Effects};
use crate::module::{Ctx, Flow, Point, Work};
use crate::row::{OFFLINE, Owed, Row};
use crate::session::{Session, tail_stanzas_max};
use frame::{PeerMsg, SharedStanza};
use smallvec::SmallVec;
use stanza::{Child, Condition, Kind, MessageType, StanzaError};
use std::sync::Arc;
use std::time::Duration;
use types::unlucky::{self, Bound};
use types::{BareJid, Origin, SessionId, Timestamp, ns};
use xml::Element;

/// A session that has not sent presence for so long after it was bound may never send any.
const PRESENCE_WITHIN: Duration = Duration::from_secs(10);
/// Offline messages that one session has on its way at a time; more follow as it acknowledges.
pub(super) fn flush_window() -> usize {
    unlucky::at_most(Bound::FlushWindow, tail_stanzas_max() / 2)
}

impl Account {
    /// A durable stanza of another entity.
    #[expect(clippy::too_many_arguments, reason = "one call site, the fields of one frame")]
    pub(super) fn take_forward(
        &mut self,
        ctx: &Ctx<'_>,
        from: &BareJid,
        origin: Origin,
        prev: Option<Origin>,
        durable: bool,
        stanza: SharedStanza,
        fx: &mut Effects,
    ) {
        let heard = self.state.log.heard(from);
        if heard.knows(origin) && !types::planted::is(types::planted::Bug::NoOrigin) {
            // Everything of ours leaves behind what we wrote before, so the row that this repeats is durable then ◊.
            return fx.push(Effect::Peer(from.clone(), PeerMsg::Confirm { origin }));
        }
        if prev.is_some_and(|prev| !heard.knows(prev)) || (ctx.low_space && durable) {
            return fx.push(Effect::Peer(from.clone(), PeerMsg::Refuse { origin }));
        }
        let poison = self.poison_forwards.iter().any(|(f, o)| (f, *o) == (from, origin));
        let result = match stanza.kind {
            // Refused as anything else is that cannot be taken: it counts as received, so that what follows it is taken.
            _ if poison => Err(StanzaError::new(Condition::InternalServerError)),
            Kind::Message => self.in_message(ctx, from, origin, durable, stanza.clone(), fx),
            Kind::Presence => {
                self.in_subscription(ctx, from, stanza.clone(), fx);
                Ok(())
            }
            Kind::Iq => Ok(()),
        };
        self.state.log.see(from, origin, ctx.now.wall);
        if let Err(error) = result {
            self.bounce(from, &stanza, &error, fx);
        }
        fx.push(Effect::Peer(from.clone(), PeerMsg::Confirm { origin }));
    }

    /// A passing message or an IQ of another entity.
    pub(super) fn in_request(&mut self, ctx: &Ctx<'_>, from: &BareJid, stanza: SharedStanza, fx: &mut Effects) {
        match stanza.kind {
            Kind::Message => {
                if let Err(error) = self.in_message(ctx, from, Origin::default(), false, stanza.clone(), fx) {
                    self.bounce(from, &stanza, &error, fx);
                }
            }
            Kind::Iq => self.in_iq(ctx, from, stanza, fx),
            Kind::Presence => self.in_presence(ctx, stanza, None, fx),
        }
    }

    /// An error for a stanza that ends here, to the entity that sent it.
    pub(super) fn bounce(&mut self, from: &BareJid, stanza: &SharedStanza, error: &StanzaError, fx: &mut Effects) {
        if let Some(reply) = error.reply_to(stanza) {
            fx.push(Effect::Peer(from.clone(), PeerMsg::Request { stanza: Arc::new(reply) }));
        }
    }

    /// RFC 6121 §8.5: which of our sessions a message goes to.
    fn route(&self, ctx: &Ctx<'_>, stanza: &SharedStanza) -> Result<SmallVec<[SessionId; 4]>, StanzaError> {
        let resource = stanza.to.as_ref().and_then(|to| to.resource());
        if let Some(s) = resource.and_then(|r| self.state.resource(r)) {
            return Ok(SmallVec::from_slice(&[s.id]));
        }
        match stanza.message_type() {
            // §8.5.3.2.1: only chat goes on to the other resources, or waits.
            MessageType::Normal if resource.is_some() => Err(StanzaError::new(Condition::ServiceUnavailable)),
            // §8.5.2.1.1, §8.5.3.2.1
            MessageType::Chat | MessageType::Normal => Ok(self.state.route_bare(ctx.settings.bare_to_all)),
            MessageType::Groupchat => Err(StanzaError::new(Condition::ServiceUnavailable)),
            MessageType::Headline if resource.is_none() => Ok(self.state.route_bare(true)),
            MessageType::Headline | MessageType::Error => Ok(SmallVec::new()),
        }
    }

    /// A message for this account. `durable`: whoever sent it waits for it to be durable here.
    ///
    /// # Errors
    /// What the sender is to be told; nothing has happened then.
    pub(super) fn in_message(
        &mut self,
        ctx: &Ctx<'_>,
        sender: &BareJid,
        origin: Origin,
        durable: bool,
        stanza: SharedStanza,
        fx: &mut Effects,
    ) -> Result<(), StanzaError> {
        if !self.state.exists() {
            // §8.5.4: a headline is ignored, as it is by an account that is offline.
            let ignored = stanza.message_type() == MessageType::Headline;
            return if ignored { Ok(()) } else { Err(StanzaError::new(Condition::ServiceUnavailable)) };
        }
        let mut work = self.work(stanza, None);
        work.targets = self.route(ctx, &work.stanza)?;
        match ctx.pipeline.run(Point::Inbound, ctx, &self.state, &mut work) {
            Flow::Continue => {}
            Flow::Drop => return Ok(()),
            Flow::Refuse(error) => return Err(error),
        }
        if work.targets.is_empty() {
            match ctx.pipeline.run(Point::Undelivered, ctx, &self.state, &mut work) {
                Flow::Continue => {}
                Flow::Drop => return Ok(()),
                Flow::Refuse(error) => return Err(error),
            }
        } else {
            work.offline = false;
        }
        let copies = std::mem::take(&mut work.copies);
        self.keep_and_deliver(ctx, sender, origin, durable, work, fx);
        for (session, copy) in copies {
            self.output(ctx, session, None, copy, fx);
        }
        Ok(())
    }

    /// Write the row that the message needs, if any, and hand it to the sessions that get it.
    fn keep_and_deliver(&mut self, ctx: &Ctx<'_>, sender: &BareJid, origin: Origin, durable: bool, work: Work, fx: &mut Effects) {
        let behind = !work.passing
            && self.state.log.offline_len() > 0
            && self.goes_behind(ctx, sender, &work)
            && !types::planted::is(types::planted::Bug::OfflineRace);
        let keep = work.archive || work.offline || (durable && !work.passing) || behind;
        let mut owed = Owed::new();
        if keep {
            if work.offline {
                owed.push(OFFLINE);
            }
            // If one of several acknowledges it, all must: what one of them leaves is not given to one that had it.
            if work.targets.iter().any(|id| self.is_owed(*id, work.archive)) {
                owed.extend(work.targets.iter().copied());
            }
            if behind {
                owed = Owed::from_slice(&[OFFLINE]);
            }
        }
        let queued = self.state.log.offline_len() > 0 && owed.contains(&OFFLINE);
        let mut pos = None;
        if keep {
            let row = Row {
                at: ctx.now.wall,
                sender: sender.clone(),
                origin,
                target: None,
                archived: work.archive,
                owed: owed.clone(),
                stanza: work.stanza.clone(),
            };
            pos = Some(self.state.log.append(&self.state.jid, self.state.epoch, row, fx));
        }
        if queued {
            for id in work.targets {
                self.flush_offline(ctx, id, fx);
            }
            return;
        }
        let Work { mut targets, stanza, .. } = work;
        let last = targets.pop();
        for id in targets {
            self.output(ctx, id, pos.filter(|_| owed.contains(&id)), stanza.clone(), fx);
        }
        if let Some(id) = last {
            self.output(ctx, id, pos.filter(|_| owed.contains(&id)), stanza, fx);
        }
    }

    /// Older messages wait for whoever takes them. To sessions that take them this one goes behind all of them. One that
    /// has not said yet whether it will gets what is sent to its full JID at once, but not before what the same sender
    /// sent earlier, while it is as young as a session that is about to send its presence; one with a negative priority
    /// never will. (RFC 6121 §8.5.3.1 has it delivered, so it must not wait for a presence that may never come.)
    fn goes_behind(&self, ctx: &Ctx<'_>, sender: &BareJid, work: &Work) -> bool {
        let all = |which: &dyn Fn(&Session) -> bool| {
            !work.targets.is_empty() && work.targets.iter().all(|id| self.state.session(*id).is_some_and(which))
        };
        let same_sender = |s: &SharedStanza| s.from.as_ref().is_some_and(|from| from.bare_str() == sender.as_str());
        let young = Timestamp(ctx.now.wall.0.saturating_sub(PRESENCE_WITHIN.as_millis() as u64));
        let begins = |s: &Session| s.soft.presence.is_none() && s.bound_at > young;
        all(&takes_offline) || (all(&begins) && self.state.log.owed_to(OFFLINE).any(|o| same_sender(&o.stanza)))
    }

    /// Is a row owed to this session until it acknowledges? A client without XEP-0198 finds archived ones in its archive;
    /// one that has just bound may be about to enable it.
    fn is_owed(&self, id: SessionId, archived: bool) -> bool {
        self.state.session(id).is_some_and(|s| s.acknowledges() || !archived || s.soft.presence.is_none())
    }

    /// Send what waited for a session to come (XEP-0160), oldest first, a window at a time.
    pub(super) fn flush_offline(&mut self, ctx: &Ctx<'_>, id: SessionId, fx: &mut Effects) {
        if self.state.log.offline_len() == 0 {
            return;
        }
        let Some(s) = self.state.session(id) else { return };
        if !takes_offline(s) {
            return;
        }
        let room = flush_window().saturating_sub(s.tail.len());
        let rows: Vec<_> = self.state.log.owed_to(OFFLINE).take(room).map(|o| (o.pos, o.at, o.stanza.clone())).collect();
        if rows.is_empty() {
            return;
        }
        self.release_held(id, fx);
        let attached = self.state.session_mut(id).is_some_and(|s| {
            s.waits.retain(|row| !rows.iter().any(|(pos, ..)| pos.row == *row));
            s.given.make().extend(rows.iter().zip(s.m + 1..).map(|((pos, ..), m)| (pos.row, m)));
            s.conn().is_some()
        });
        if attached {
            // Before they are said: the rows themselves say that they are owed to nobody in particular.
            self.write_session(id, None, fx);
        }
        let by = self.state.jid.domain().to_owned();
        for (pos, at, mut stanza) in rows {
            self.state.log.owe(pos.row, OFFLINE, id);
            // XEP-0203: when the account took it.
            let delay = Element::new("delay", ns::DELAY).with_attr("from", &by).with_attr("stamp", at.to_string());
            Arc::make_mut(&mut stanza).children.push(Child::from(&delay));
            self.output(ctx, id, Some(pos), stanza, fx);
        }
    }
}

/// A session with non-negative priority takes what waited.
pub(super) fn takes_offline(s: &Session) -> bool {
    s.priority().is_some_and(|p| p >= 0)
}
