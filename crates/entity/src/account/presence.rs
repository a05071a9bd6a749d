//! Presence of the account's sessions and of its contacts (RFC 6121 §3, §4).

use super::Account;
use crate::effect::{Effect, Effects};
use crate::module::{Ctx, Flow, Point};
use crate::session::Link;
use crate::subscription::{Disclosure, Kind};
use bytes::{Bytes, BytesMut};
use compact_str::CompactString;
use frame::{PeerMsg, SharedStanza};
use smallvec::SmallVec;
use stanza::{Condition, IqType, PresenceType, Stanza, StanzaError};
use std::sync::Arc;
use std::time::Duration;
use types::limit::DIRECTED_PRESENCE_MAX;
use types::{BareJid, FullJid, Jid, Origin, SessionId, Timestamp};
use xml::Element;

/// How long a resource is spoken of as gone to a new owner of somebody who saw it: longer than a takeover takes.
const JUST_GONE: Duration = Duration::from_secs(300);

impl Account {
    /// A presence stanza of one of our sessions.
    pub(super) fn out_presence(&mut self, ctx: &Ctx<'_>, id: SessionId, n: u64, stanza: SharedStanza, fx: &mut Effects) {
        let original = stanza.clone();
        let result = match (stanza.presence_type(), stanza.to.clone()) {
            (None, None) => self.available(ctx, id, stanza, fx),
            (Some(PresenceType::Unavailable), None) => {
                self.unavailable(ctx, id, Some(stanza), fx);
                Ok(())
            }
            (None | Some(PresenceType::Unavailable), Some(to)) => self.directed(ctx, id, to, stanza, fx),
            (Some(PresenceType::Probe), _) => Ok(()), // §4.3: probes are the server's business.
            (Some(PresenceType::Error), Some(to)) => {
                self.state_to(ctx, &to.to_bare(), stanza, None, fx);
                Ok(())
            }
            (Some(PresenceType::Error), None) => Ok(()),
            (Some(PresenceType::Unknown), _) => Err(StanzaError::new(Condition::BadRequest)),
            (Some(_), None) => Err(StanzaError::new(Condition::BadRequest)),
            (Some(type_), Some(to)) => self.out_subscription(ctx, id, n, type_, &to, &stanza, fx),
        };
        if let Err(error) = result {
            self.reply_error(ctx, id, &original, &error, fx);
        }
    }

    /// §4.2, §4.4: broadcast. The stanza goes out without `to`, and is the same one for all; each recipient's edge adds its own.
    fn available(&mut self, ctx: &Ctx<'_>, id: SessionId, stanza: SharedStanza, fx: &mut Effects) -> Result<(), StanzaError> {
        if let Some(p) = stanza.child("priority", types::ns::CLIENT)
            && p.text().trim().parse::<i8>().is_err()
        {
            return Err(StanzaError::new(Condition::BadRequest)); // §4.7.2.3: an integer between -128 and +127.
        }
        let Some(s) = self.state.session_mut(id) else { return Ok(()) };
        let initial = s.soft.presence.is_none();
        s.soft_mut().presence = Some(stanza.clone());
        self.tell_subscribers(ctx, &stanza, &|_| true, fx);
        self.tell_own(ctx, &stanza, None, fx);
        if initial {
            self.first_presence(ctx, id, fx);
        }
        self.flush_offline(ctx, id, fx);
        Ok(())
    }

    /// §4.2.2: what a session gets when it becomes available.
    fn first_presence(&mut self, ctx: &Ctx<'_>, id: SessionId, fx: &mut Effects) {
        let others: Vec<SharedStanza> = self.state.available().filter(|s| s.id != id).filter_map(|s| s.soft.presence.clone()).collect();
        for p in others {
            self.output(ctx, id, None, p, fx);
        }
        // In the name of the session, so that the answers go to it alone and the others do not hear everything again. (§4.3.1
        // has the bare JID for probes to other servers, and none at all within one.)
        if let Some(jid) = self.session_jid(id) {
            self.probe(ctx, jid.as_jid(), Some(id), &|_| true, fx);
        }
        // §3.1.3 rule 4: requests that nobody has answered yet.
        let waiting: Vec<_> = self.state.roster.pending_in().map(|(jid, children)| request(jid, children)).collect();
        for request in waiting {
            self.output(ctx, id, None, Arc::new(request), fx);
        }
    }

    /// §4.3: ask our contacts how they are, on behalf of one session, or of the account, which may have lost an answer.
    fn probe(&mut self, ctx: &Ctx<'_>, asks: &Jid, asker: Option<SessionId>, concerns: &dyn Fn(&BareJid) -> bool, fx: &mut Effects) {
        let contacts: Vec<BareJid> = self.state.roster.subscriptions().filter(|j| concerns(j)).cloned().collect();
        if contacts.is_empty() {
            return;
        }
        let probe = Arc::new(Stanza::presence(Some(PresenceType::Probe)).with_from(asks.clone()));
        for to in contacts {
            self.state_to(ctx, &to, probe.clone(), asker, fx);
        }
    }

    /// §4.5: the session is not available any more; whoever saw it hears of it.
    pub(super) fn unavailable(&mut self, ctx: &Ctx<'_>, id: SessionId, stanza: Option<SharedStanza>, fx: &mut Effects) {
        let Some(jid) = self.session_jid(id) else { return };
        let resource = CompactString::from(jid.resource());
        let stanza = stanza.unwrap_or_else(|| Arc::new(Stanza::presence(Some(PresenceType::Unavailable)).with_from(jid)));
        let Some(s) = self.state.session_mut(id) else { return };
        let was_available = s.soft.presence.is_some();
        if !was_available && s.soft.directed.is_empty() {
            return;
        }
        let soft = s.soft_mut();
        soft.presence = None;
        let directed = std::mem::take(&mut soft.directed);
        if was_available {
            self.remember_gone(ctx, &resource, fx);
            self.tell_subscribers(ctx, &stanza, &|_| true, fx);
            self.tell_own(ctx, &stanza, Some(id), fx);
        }
        for to in directed {
            // §4.6.3: and those that it sent directed presence.
            let bare = to.to_bare();
            if !(was_available && self.state.roster.is_subscriber(&bare)) {
                self.state_to(ctx, &bare, addressed(stanza.clone(), &to), None, fx);
            }
        }
    }

    /// The session was lost with its presence: everyone who may have seen it hears that it is gone.
    pub(super) fn unavailable_for_sure(&mut self, ctx: &Ctx<'_>, id: SessionId, fx: &mut Effects) {
        let Some(jid) = self.session_jid(id) else { return };
        let stanza = Arc::new(Stanza::presence(Some(PresenceType::Unavailable)).with_from(jid));
        self.tell_subscribers(ctx, &stanza, &|_| true, fx);
        self.tell_own(ctx, &stanza, Some(id), fx);
    }

    fn tell_subscribers(&mut self, ctx: &Ctx<'_>, stanza: &SharedStanza, concerns: &dyn Fn(&BareJid) -> bool, fx: &mut Effects) {
        let contacts: Vec<BareJid> = self.state.roster.subscribers().filter(|j| concerns(j)).cloned().collect();
        // As guards see it: one copy, addressed to one after the other.
        let mut seen = stanza.clone();
        for to in contacts {
            if !has_account(ctx, &to) {
                continue;
            }
            Arc::make_mut(&mut seen).to = Some(to.to_jid());
            if self.guarded(ctx, Point::Outbound, &seen, None) == Flow::Continue {
                fx.push(Effect::Peer(to, PeerMsg::State { stanza: stanza.clone(), asker: None }));
            }
        }
    }

    /// A session is gone that nobody here knew: whoever may have seen it hears of it.
    pub(super) fn say_gone(&mut self, ctx: &Ctx<'_>, stanza: &SharedStanza, fx: &mut Effects) {
        self.tell_subscribers(ctx, stanza, &|_| true, fx);
        self.tell_own(ctx, stanza, None, fx);
    }

    fn tell_own(&mut self, ctx: &Ctx<'_>, stanza: &SharedStanza, but: Option<SessionId>, fx: &mut Effects) {
        let ids: Vec<SessionId> = self.state.available().map(|s| s.id).filter(|id| Some(*id) != but).collect();
        for id in ids {
            self.output(ctx, id, None, stanza.clone(), fx);
        }
    }

    /// Presence to another account, if guards (a block list) let it pass.
    fn state_to(&mut self, ctx: &Ctx<'_>, to: &BareJid, stanza: SharedStanza, asker: Option<SessionId>, fx: &mut Effects) {
        if !has_account(ctx, to) {
            return;
        }
        let seen = if stanza.to.is_some() { stanza.clone() } else { addressed(stanza.clone(), to.as_jid()) };
        if self.guarded(ctx, Point::Outbound, &seen, None) == Flow::Continue {
            fx.push(Effect::Peer(to.clone(), PeerMsg::State { stanza, asker }));
        }
    }

    /// §4.6: presence for one address.
    fn directed(&mut self, ctx: &Ctx<'_>, id: SessionId, to: Jid, stanza: SharedStanza, fx: &mut Effects) -> Result<(), StanzaError> {
        let bare = to.to_bare();
        Self::reachable(ctx, &bare)?;
        if let Flow::Refuse(error) = self.guarded(ctx, Point::Outbound, &stanza, Some(id)) {
            return Err(error);
        }
        let Some(s) = self.state.session_mut(id) else { return Ok(()) };
        if stanza.presence_type().is_none() {
            if !s.soft.directed.contains(&to) {
                if s.soft.directed.len() >= DIRECTED_PRESENCE_MAX {
                    return Err(StanzaError::new(Condition::PolicyViolation));
                }
                s.soft_mut().directed.push(to.clone());
            }
        } else if s.soft.directed.contains(&to) {
            s.soft_mut().directed.retain(|j| *j != to);
        }
        if self.state.is_own(&to) {
            self.in_presence(ctx, stanza, None, fx);
        } else {
            self.state_to(ctx, &bare, stanza, None, fx);
        }
        Ok(())
    }

    /// §3: subscribe, subscribed, unsubscribe, unsubscribed, always from and to bare JIDs.
    #[expect(clippy::too_many_arguments, reason = "one call site")]
    fn out_subscription(
        &mut self,
        ctx: &Ctx<'_>,
        id: SessionId,
        n: u64,
        type_: PresenceType,
        to: &Jid,
        stanza: &Stanza,
        fx: &mut Effects,
    ) -> Result<(), StanzaError> {
        let Some(kind) = kind_of(type_) else { return Err(StanzaError::new(Condition::BadRequest)) };
        let contact = to.to_bare();
        Self::reachable(ctx, &contact)?;
        if ctx.low_space {
            return Err(StanzaError::new(Condition::ResourceConstraint));
        }
        let mut stanza = stanza.clone();
        stanza.from = Some(self.state.jid.to_jid());
        stanza.to = Some(contact.to_jid());
        let stanza = Arc::new(stanza);
        if let Flow::Refuse(error) = self.guarded(ctx, Point::Outbound, &stanza, Some(id)) {
            return Err(error);
        }
        let change = self.state.roster.outbound(kind, &contact, &ctx.settings.roster)?;
        self.mark_live(fx);
        for op in change.writes {
            fx.op(&self.state.partition(), op);
        }
        self.disclose_before(ctx, change.disclosure, &contact, fx);
        if change.route {
            let origin = Origin { session: id, n, k: 0 };
            let key = self.owed_cell(ctx, &contact, origin, &stanza, fx);
            self.forward(ctx, contact, origin, key, stanza, fx);
        }
        if let Some(push) = change.push {
            self.roster_push(ctx, &push, fx);
        }
        Ok(())
    }

    /// A subscription stanza of another account, or of the server on its behalf.
    pub(super) fn in_subscription(&mut self, ctx: &Ctx<'_>, from: &BareJid, stanza: SharedStanza, fx: &mut Effects) {
        let Some(kind) = stanza.presence_type().and_then(kind_of) else { return };
        // A request to nobody, or from somebody blocked, is dropped without a word: it must not tell which it was.
        if !self.state.exists() || self.guarded(ctx, Point::Inbound, &stanza, None) != Flow::Continue {
            return;
        }
        let change = self.state.roster.inbound(kind, from, children_of(&stanza), &ctx.settings.roster);
        if change.refused {
            return;
        }
        for op in change.writes {
            fx.op(&self.state.partition(), op);
        }
        if change.deliver {
            let to_all = kind == Kind::Subscribe;
            let ids: Vec<SessionId> = self
                .state
                .sessions
                .iter()
                .filter(|s| if to_all { s.soft.presence.is_some() } else { s.soft.interested })
                .map(|s| s.id)
                .collect();
            for id in ids {
                self.output(ctx, id, None, stanza.clone(), fx);
            }
        }
        if let Some(push) = change.push {
            self.roster_push(ctx, &push, fx);
        }
        // §3.3.3: unavailable after the stanza and the push, before what the account answers.
        self.disclose_before(ctx, change.disclosure, from, fx);
        if let Some(reply) = change.auto_reply {
            self.subscription_reply(ctx, reply, from, fx);
        }
    }

    /// What the account answers or says by itself, durable: bare JID to bare JID.
    pub(super) fn subscription_reply(&mut self, ctx: &Ctx<'_>, kind: Kind, to: &BareJid, fx: &mut Effects) {
        if !ctx.settings.hosts(to.domain()) {
            return;
        }
        self.mark_live(fx);
        let stanza = Stanza::new(stanza::Kind::Presence, kind.as_str()).with_from(self.state.jid.clone()).with_to(to.clone());
        let stanza = Arc::new(stanza);
        let origin = self.own_origin();
        let key = self.owed_cell(ctx, to, origin, &stanza, fx);
        self.forward(ctx, to.clone(), origin, key, stanza, fx);
    }

    pub(super) fn disclose_before(&mut self, ctx: &Ctx<'_>, what: Disclosure, to: &BareJid, fx: &mut Effects) {
        if what == Disclosure::Unavailable {
            self.hide_from(ctx, to.as_jid(), fx);
        }
    }

    /// `subscribed` has arrived ◊: what it lets the contact see would go to nobody who comes online there before it (§3.1.5).
    pub(super) fn disclose_granted(&mut self, ctx: &Ctx<'_>, stanza: &Stanza, to: &BareJid, fx: &mut Effects) {
        if stanza.presence_type() == Some(PresenceType::Subscribed) && self.state.roster.is_subscriber(to) {
            self.show_to(ctx, to.as_jid(), None, fx);
        }
    }

    /// The current presence of each available session, for one address.
    pub(super) fn show_to(&mut self, ctx: &Ctx<'_>, to: &Jid, asker: Option<SessionId>, fx: &mut Effects) {
        let all: Vec<SharedStanza> = self.state.available().filter_map(|s| s.soft.presence.clone()).collect();
        for p in all {
            self.state_to(ctx, &to.to_bare(), addressed(p, to), asker, fx);
        }
    }

    /// `unavailable` of each available session, for one address.
    pub(super) fn hide_from(&mut self, ctx: &Ctx<'_>, to: &Jid, fx: &mut Effects) {
        for p in self.all_unavailable(to) {
            self.state_to(ctx, &to.to_bare(), p, None, fx);
        }
    }

    /// As [`Account::hide_from`], for an address that was blocked just now: nothing else passes the guards (XEP-0191 §3.3).
    pub(super) fn hide_from_blocked(&mut self, ctx: &Ctx<'_>, to: &Jid, fx: &mut Effects) {
        let next_hop = to.to_bare();
        if ctx.settings.hosts(next_hop.domain()) && !next_hop.is_domain() {
            for stanza in self.all_unavailable(to) {
                fx.push(Effect::Peer(next_hop.clone(), PeerMsg::State { stanza, asker: None }));
            }
        }
    }

    fn all_unavailable(&self, to: &Jid) -> Vec<SharedStanza> {
        let gone = |jid: &FullJid| Stanza::presence(Some(PresenceType::Unavailable)).with_from(jid.clone()).with_to(to.clone());
        self.state.available().map(|s| Arc::new(gone(&s.jid))).collect()
    }

    /// A roster push to every interested session (RFC 6121 §2.1.6).
    pub(super) fn roster_push(&mut self, ctx: &Ctx<'_>, query: &Element, fx: &mut Effects) {
        let ids: Vec<SessionId> = self.state.sessions.iter().filter(|s| s.soft.interested).map(|s| s.id).collect();
        for id in ids {
            self.push_iq(ctx, id, query, fx);
        }
    }

    /// An IQ set of the server to one session; the answer is not waited for.
    pub(super) fn push_iq(&mut self, ctx: &Ctx<'_>, id: SessionId, payload: &Element, fx: &mut Effects) {
        let Some(s) = self.state.session(id) else { return };
        // The output's number makes the id unique within the session.
        let push = Stanza::iq(IqType::Set, &format!("push-{:x}", s.m + 1)).with_to(s.jid.clone()).with_child_element(payload);
        self.output(ctx, id, None, Arc::new(push), fx);
    }

    /// Presence of somebody else, or a probe (§4.3.2, §4.4.2, §4.5.3).
    pub(super) fn in_presence(&mut self, ctx: &Ctx<'_>, stanza: SharedStanza, asker: Option<SessionId>, fx: &mut Effects) {
        if stanza.from.is_none() || !self.state.exists() || self.guarded(ctx, Point::Inbound, &stanza, None) != Flow::Continue {
            return;
        }
        match stanza.presence_type() {
            None | Some(PresenceType::Unavailable) => self.deliver_presence(ctx, stanza, asker, fx),
            Some(PresenceType::Error) => {
                if stanza.to.as_ref().is_some_and(Jid::is_full) {
                    self.deliver_presence(ctx, stanza, None, fx);
                }
            }
            type_ => {
                let Some(from) = stanza.from.clone() else { return };
                if type_ == Some(PresenceType::Probe) {
                    return self.answer_probe(ctx, &from, asker, fx);
                }
                self.in_subscription(ctx, &from.to_bare(), stanza, fx);
            }
        }
    }

    fn deliver_presence(&mut self, ctx: &Ctx<'_>, stanza: SharedStanza, asker: Option<SessionId>, fx: &mut Effects) {
        let resource = stanza.to.as_ref().and_then(|to| to.resource());
        let ids: SmallVec<[SessionId; 4]> = match resource {
            // A session of that name that is not the one that asked hears all that follows only when it is available itself.
            _ if asker.is_some() => self.state.available().map(|s| s.id).filter(|id| Some(*id) == asker).collect(),
            Some(r) => self.state.resource(r).map(|s| s.id).into_iter().collect(),
            None => self.state.available().map(|s| s.id).collect(),
        };
        for id in ids {
            self.output(ctx, id, None, stanza.clone(), fx);
        }
    }

    /// Resources that somebody may still take for available, gone at `since` or later.
    fn not_available(&self, since: Timestamp) -> Vec<FullJid> {
        let there = |r: &str| self.state.resource(r).is_some_and(|s| s.soft.presence.is_some() || matches!(s.link, Link::Attaching { .. }));
        let gone = self.gone.iter().filter(|(_, at)| *at >= since).filter_map(|(r, _)| self.state.jid.with_resource(r).ok());
        gone.filter(|jid| !there(jid.resource())).collect()
    }

    fn answer_probe(&mut self, ctx: &Ctx<'_>, from: &Jid, asker: Option<SessionId>, fx: &mut Effects) {
        let bare = from.to_bare();
        let may_see = self.state.roster.is_subscriber(&bare) || bare == self.state.jid;
        if !may_see {
            return; // The same silence as for an account that does not exist.
        }
        if asker.is_none() {
            // Whoever asks may have lost the word that a resource went.
            for jid in self.not_available(Timestamp::default()) {
                let p = Stanza::presence(Some(PresenceType::Unavailable)).with_from(jid).with_to(from.clone());
                self.state_to(ctx, &bare, Arc::new(p), asker, fx);
            }
        }
        let attaching = self.state.sessions.iter().any(|s| matches!(s.link, Link::Attaching { .. }));
        if self.state.available().next().is_none() {
            if attaching {
                return; // Nobody knows yet; they say it themselves, or end.
            }
            let p = Stanza::presence(Some(PresenceType::Unavailable)).with_from(self.state.jid.clone()).with_to(from.clone());
            return self.state_to(ctx, &bare, Arc::new(p), asker, fx);
        }
        self.show_to(ctx, from, asker, fx);
    }

    /// Another shard has a new owner: it gets our newest presence again, and is asked for that of our contacts.
    pub(super) fn presence_again(&mut self, ctx: &Ctx<'_>, concerns: &dyn Fn(&BareJid) -> bool, fx: &mut Effects) {
        // The newest word of a resource may be that it is gone, and may have been said to the last owner.
        let since = Timestamp(ctx.now.wall.0.saturating_sub(JUST_GONE.as_millis() as u64));
        for jid in self.not_available(since) {
            let p = Stanza::presence(Some(PresenceType::Unavailable)).with_from(jid);
            self.tell_subscribers(ctx, &Arc::new(p), concerns, fx);
        }
        let all: Vec<SharedStanza> = self.state.available().filter_map(|s| s.soft.presence.clone()).collect();
        if all.is_empty() {
            return;
        }
        for p in all {
            self.tell_subscribers(ctx, &p, concerns, fx);
        }
        self.probe(ctx, &self.state.jid.to_jid(), None, concerns, fx);
    }

    /// This owner is new: contacts get the session's newest presence, the session that of its contacts.
    pub(crate) fn presence_after_takeover(&mut self, ctx: &Ctx<'_>, id: SessionId, fx: &mut Effects) {
        let Some(p) = self.state.session(id).and_then(|s| s.soft.presence.clone()) else { return };
        self.tell_subscribers(ctx, &p, &|_| true, fx);
        // To itself as well, if it was attached: what was held back for an inactive client (XEP-0352) died with the last
        // owner, its own presence among it.
        let attached = self.state.session(id).is_some_and(|s| s.conn().is_some());
        self.tell_own(ctx, &p, Some(id).filter(|_| !attached), fx);
        let own = self.state.jid.to_jid();
        let others: Vec<SharedStanza> = self.state.available().filter(|s| s.id != id).filter_map(|s| s.soft.presence.clone()).collect();
        for p in others {
            self.output(ctx, id, None, p, fx);
        }
        for jid in self.not_available(Timestamp::default()) {
            let p = Stanza::presence(Some(PresenceType::Unavailable)).with_from(jid).with_to(own.clone());
            self.output(ctx, id, None, Arc::new(p), fx);
        }
        self.probe(ctx, &own, None, &|_| true, fx);
    }
}

/// Presence for this address goes to an account.
fn has_account(ctx: &Ctx<'_>, to: &BareJid) -> bool {
    ctx.settings.hosts(to.domain()) && !to.is_domain()
}

fn kind_of(type_: PresenceType) -> Option<Kind> {
    Some(match type_ {
        PresenceType::Subscribe => Kind::Subscribe,
        PresenceType::Subscribed => Kind::Subscribed,
        PresenceType::Unsubscribe => Kind::Unsubscribe,
        PresenceType::Unsubscribed => Kind::Unsubscribed,
        _ => return None,
    })
}

/// The stanza with another `to`.
fn addressed(mut stanza: SharedStanza, to: &Jid) -> SharedStanza {
    Arc::make_mut(&mut stanza).to = Some(to.clone());
    stanza
}

fn children_of(stanza: &Stanza) -> Bytes {
    let mut out = BytesMut::new();
    for child in &stanza.children {
        out.extend_from_slice(&child.bytes);
    }
    out.freeze()
}

/// A subscription request as it was kept: its children inside a new envelope.
fn request(from: &BareJid, children: &Bytes) -> Stanza {
    let empty = Stanza::presence(Some(PresenceType::Subscribe)).with_from(from.clone());
    let mut whole = BytesMut::from(&b"<presence type='subscribe'>"[..]);
    whole.extend_from_slice(children);
    whole.extend_from_slice(b"</presence>");
    match Stanza::decode(whole.freeze()) {
        Ok(parsed) => Stanza { children: parsed.children, ..empty },
        Err(_) => empty,
    }
}
