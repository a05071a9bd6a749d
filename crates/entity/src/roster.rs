//! The roster of one account: contacts, groups, subscriptions, requests that wait, versions (RFC 6121 §2, §3).
//!
//! Pure. [`Roster::get`] and [`Roster::set`] answer the account's clients, [`Roster::outbound`] and [`Roster::inbound`]
//! take presence of the four subscription types. Each change comes back as cells to write in the account's partition,
//! a push for its interested resources, and what has to be sent to the contact. The roster in memory has already
//! changed then: whoever asked must write the cells, or load the roster anew.
//!
//! Start with [`Roster`]; the rules of subscriptions are in [`crate::subscription`], the cells in `cell`.

mod cell;
#[cfg(test)]
mod tests;

use crate::codec::Corrupt;
use crate::subscription::{self, Disclosure, Kind, State};
use bytes::Bytes;
use compact_str::CompactString;
use smallvec::SmallVec;
use stanza::{Condition, StanzaError};
use std::collections::BTreeSet;
use std::sync::Arc;
use types::{BareJid, Op, Timestamp, limit, ns};
use xml::Element;

/// Requests that wait for the user's answer; a flood of them must not fill the roster (RFC 6121 §3.1.3).
pub const REQUESTS_MAX: usize = 1_000;
/// Bytes of a request that are kept; of a bigger one only the fact is kept (RFC 6121 §3.1.3).
pub const REQUEST_BYTES_MAX: usize = 8 * 1024;
/// Removals that are remembered for clients that ask for what has changed; who missed more gets the full roster.
pub const TOMBSTONES_MAX: usize = 64;

/// The bounds that a server's operator can set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Items of one roster.
    pub items_max: usize,
    /// Groups of one item.
    pub groups_max: usize,
    /// Bytes of a name or of a group.
    pub name_bytes_max: usize,
    /// Requests that wait.
    pub requests_max: usize,
    /// Bytes of a request.
    pub request_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            items_max: limit::ROSTER_ITEMS_MAX,
            groups_max: limit::ROSTER_GROUPS_MAX,
            name_bytes_max: limit::ROSTER_NAME_BYTES_MAX,
            requests_max: REQUESTS_MAX,
            request_bytes_max: REQUEST_BYTES_MAX,
        }
    }
}

/// What the roster knows of one contact.
///
/// A contact who asked and was never answered is not in the roster (§3.1.3), and neither is one who was removed; both
/// have an item here all the same, which is not *listed*.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    jid: BareJid,
    name: CompactString,
    groups: SmallVec<[Arc<str>; 1]>,
    /// Version of the last change that clients were told of; of an item that is not listed, of its removal. 0: none.
    changed: u64,
    /// The request that waits; there is one exactly if the state is pending in.
    request: Option<Box<Bytes>>,
    state: State,
    approved: bool,
    listed: bool,
}

impl Item {
    fn new(jid: BareJid) -> Item {
        Item {
            jid,
            name: CompactString::const_new(""),
            groups: SmallVec::new(),
            changed: 0,
            request: None,
            state: State::None,
            approved: false,
            listed: false,
        }
    }

    /// Whose item this is.
    pub fn jid(&self) -> &BareJid {
        &self.jid
    }

    /// The handle that the user gave; empty if none.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// In the order in which the client gave them.
    pub fn groups(&self) -> impl Iterator<Item = &str> {
        self.groups.iter().map(|g| &**g)
    }

    /// The subscription.
    pub fn state(&self) -> State {
        self.state
    }

    /// Whether the contact's next request is approved in advance (§3.4).
    pub fn is_approved(&self) -> bool {
        self.approved
    }

    /// Remembers that the item was removed, and nothing else.
    fn is_tombstone(&self) -> bool {
        !self.listed && self.changed != 0
    }

    /// Nothing to remember.
    fn is_void(&self) -> bool {
        !self.listed && self.changed == 0 && self.state == State::None
    }

    /// What presence can change of what clients see; `None` if they do not see the item.
    fn shown(&self) -> Option<(&'static str, bool, bool)> {
        self.listed.then(|| (self.state.subscription(), self.state.is_pending_out(), self.approved))
    }

    /// The item as clients see it (§2.1.2).
    fn to_element(&self) -> Element {
        let mut item = Element::new("item", ns::ROSTER).with_attr("jid", self.jid.as_str());
        if !self.listed {
            return item.with_attr("subscription", "remove");
        }
        if !self.name.is_empty() {
            item = item.with_attr("name", &self.name);
        }
        item = item.with_attr("subscription", self.state.subscription());
        if self.state.is_pending_out() {
            item = item.with_attr("ask", "subscribe");
        }
        if self.approved {
            item = item.with_attr("approved", "true");
        }
        for group in &self.groups {
            item = item.with_child(Element::new("group", ns::ROSTER).with_text(group));
        }
        item
    }
}

/// The answer to a roster get (§2.1.4, §2.6.3). Elements are the `<query/>`s; the Account puts them into IQs.
#[derive(Clone, Debug, PartialEq)]
pub enum RosterAnswer {
    /// The complete roster, for the result.
    Full(Element),
    /// The client has the current version: a result without `<query/>`.
    Current,
    /// A result without `<query/>`, then these as roster pushes to that client, in this order.
    Pushes(Vec<Element>),
}

/// What a roster set did.
#[derive(Clone, Debug, PartialEq)]
pub struct RosterChange {
    /// Whose item was created, changed or removed.
    pub jid: BareJid,
    /// It was removed.
    pub removed: bool,
    /// The `<query/>` of a roster push to each interested resource.
    pub push: Element,
    /// Cells of the account's partition, for one batch.
    pub writes: Vec<Op>,
    /// Presence to send to the contact, in this order, bare JID to bare JID (§2.5.2).
    pub presences: SmallVec<[Kind; 2]>,
    /// What goes to the contact before those.
    pub disclosure: Disclosure,
}

/// What a subscription stanza of the user does.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OutboundChange {
    /// Send the stanza to the contact, stamped with the user's bare JID.
    pub route: bool,
    /// Presence of the user's available resources for the contact.
    pub disclosure: Disclosure,
    /// The `<query/>` of a roster push to each interested resource, after the stanza was routed.
    pub push: Option<Element>,
    /// Cells of the account's partition, for one batch.
    pub writes: Vec<Op>,
}

/// What a subscription stanza of a contact does.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InboundChange {
    /// Hand the stanza to the user: a request to the available resources, the other kinds to the interested ones (§3.1).
    pub deliver: bool,
    /// The `<query/>` of a roster push to each interested resource, after the stanza was delivered.
    pub push: Option<Element>,
    /// Presence to send to the contact on behalf of the user, bare JID to bare JID.
    pub auto_reply: Option<Kind>,
    /// Presence of the user's available resources for the contact.
    pub disclosure: Disclosure,
    /// Cells of the account's partition, for one batch.
    pub writes: Vec<Op>,
    /// Too many requests wait already: this one was not taken, and nothing else happens.
    pub refused: bool,
}

/// One account's roster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roster {
    owner: BareJid,
    /// Of the last change that clients were told of.
    version: u64,
    /// The oldest version from which changes can be told.
    floor: u64,
    /// Sorted by JID.
    items: Vec<Item>,
}

impl Roster {
    /// The roster of an account that is created, and the cell to write. Versions begin at the time of creation, so that
    /// a client that remembers an earlier account of the same name gets the full roster.
    pub fn create(owner: BareJid, now: Timestamp) -> (Roster, Op) {
        let roster = Roster { owner, version: now.0, floor: now.0, items: Vec::new() };
        let cell = roster.version_cell();
        (roster, cell)
    }

    /// The roster from the cells of its account's partition; other cells than the roster's are skipped.
    ///
    /// # Errors
    /// [`Corrupt`] if one of them does not decode, or contradicts another. The roster decides who sees a presence, so
    /// it is read whole or not at all.
    pub fn load(owner: BareJid, cells: impl IntoIterator<Item = (Bytes, Bytes)>) -> Result<Roster, Corrupt> {
        let mut roster = Roster { owner, version: 0, floor: 0, items: Vec::new() };
        let mut groups = BTreeSet::new();
        for (key, value) in cells {
            if key == cell::VERSION_KEY {
                (roster.version, roster.floor) = cell::decode_version(value)?;
            } else if key.starts_with(cell::ITEM_PREFIX) {
                roster.items.push(cell::decode_item(&key, value, &mut groups)?);
            }
        }
        roster.items.sort_unstable_by(|a, b| a.jid.cmp(&b.jid));
        roster.items.shrink_to_fit();
        if roster.items.windows(2).any(|w| w[0].jid == w[1].jid) {
            return Err(Corrupt("roster has an item twice"));
        }
        if roster.items.iter().any(|i| i.changed > roster.version) {
            return Err(Corrupt("roster item is newer than the roster"));
        }
        Ok(roster)
    }

    /// The version that clients see as `ver`. It grows with each push.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The items that clients see, in the order of their JIDs.
    pub fn items(&self) -> impl Iterator<Item = &Item> {
        self.items.iter().filter(|i| i.listed)
    }

    /// The item that clients see.
    pub fn item(&self, contact: &BareJid) -> Option<&Item> {
        self.find(contact).ok().map(|at| &self.items[at]).filter(|i| i.listed)
    }

    /// The subscription; of who is not in the roster, `None` or `NonePendingIn`.
    pub fn state(&self, contact: &BareJid) -> State {
        self.find(contact).map_or(State::None, |at| self.items[at].state)
    }

    /// Who sees the user's presence (`from` or `both`): broadcasts go there (§4.2.2).
    pub fn subscribers(&self) -> impl Iterator<Item = &BareJid> {
        self.items.iter().filter(|i| i.state.is_from()).map(|i| &i.jid)
    }

    /// Whose presence the user sees (`to` or `both`): probes go there (§4.3.1).
    pub fn subscriptions(&self) -> impl Iterator<Item = &BareJid> {
        self.items.iter().filter(|i| i.state.is_to()).map(|i| &i.jid)
    }

    /// Whether `contact` sees the user's presence (`from` or `both`).
    pub fn is_subscriber(&self, contact: &BareJid) -> bool {
        self.state(contact).is_from()
    }

    /// Whether the user sees the presence of `contact` (`to` or `both`).
    pub fn is_subscribed_to(&self, contact: &BareJid) -> bool {
        self.state(contact).is_to()
    }

    /// Requests that wait for the user, as [`Roster::inbound`] got them (empty if they were too big): each goes to every
    /// resource that becomes available (§3.1.3 rule 4).
    pub fn pending_in(&self) -> impl Iterator<Item = (&BareJid, &Bytes)> {
        self.items.iter().filter_map(|i| i.request.as_deref().map(|r| (&i.jid, r)))
    }

    /// Contacts whose answer the user waits for, to ask again (§3.1.2).
    pub fn pending_out(&self) -> impl Iterator<Item = &BareJid> {
        self.items.iter().filter(|i| i.state.is_pending_out()).map(|i| &i.jid)
    }

    /// A roster get. `requested_ver` is the `ver` attribute, if the client sent one (§2.6.2).
    ///
    /// A version that this roster never had, or forgot, gives the full roster, as does one since which so much has
    /// changed that the full roster is shorter (§2.6.3).
    pub fn get(&self, requested_ver: Option<&str>) -> RosterAnswer {
        let known = requested_ver.and_then(|text| text.parse::<u64>().ok().filter(|ver| ver.to_string() == text));
        let since = match known {
            Some(ver) if ver == self.version => return RosterAnswer::Current,
            Some(ver) if (self.floor..self.version).contains(&ver) => ver,
            _ => return RosterAnswer::Full(self.full()),
        };
        let mut changed: Vec<&Item> = self.items.iter().filter(|i| i.changed > since).collect();
        if changed.len() > self.items().count() {
            return RosterAnswer::Full(self.full());
        }
        changed.sort_unstable_by_key(|i| i.changed);
        RosterAnswer::Pushes(changed.into_iter().map(push_of).collect())
    }

    /// A roster set (§2.3 to §2.5); `query` is the IQ's child. Whether the sender may do so is not checked here.
    ///
    /// # Errors
    /// The stanza error of §2.3.3 or §2.5.3; `jid-malformed`; `not-allowed` for the account itself;
    /// `resource-constraint` for an item beyond the limit. Nothing has changed then.
    pub fn set(&mut self, query: &Element, limits: &Limits) -> Result<RosterChange, StanzaError> {
        let item = only_item(query)?;
        let text = item.attr("jid").ok_or(Condition::BadRequest)?;
        let jid = types::Jid::parse(text).map_err(|_| Condition::JidMalformed)?;
        let jid = BareJid::try_from(jid).map_err(|_| Condition::BadRequest)?;
        if jid == self.owner {
            return Err(Condition::NotAllowed.into());
        }
        // §2.1.2.5: every other value of the attribute is ignored, as are `ask` and `approved`.
        if item.attr("subscription") == Some("remove") {
            return self.remove(jid);
        }
        let name = item.attr("name").unwrap_or_default();
        if name.len() > limits.name_bytes_max {
            return Err(Condition::NotAcceptable.into());
        }
        let groups = groups_of(item, limits)?;
        if self.item(&jid).is_none() {
            self.check_room(limits)?;
        }
        let groups = groups.iter().map(|g| self.share_group(g)).collect();
        let at = self.find_or_insert(&jid);
        let item = &mut self.items[at];
        item.name = name.into();
        item.groups = groups;
        item.listed = true;
        let (push, writes) = self.commit(at, true);
        let push = push.unwrap_or_else(|| push_of(&self.items[at]));
        Ok(RosterChange { jid, removed: false, push, writes, presences: SmallVec::new(), disclosure: Disclosure::Nothing })
    }

    /// §2.5. A request under way is withdrawn and one that waits is refused, as tables 3 and 5 of Appendix A do: what
    /// the user removes must not grow back.
    fn remove(&mut self, jid: BareJid) -> Result<RosterChange, StanzaError> {
        let at = self.find(&jid).ok().filter(|&at| self.items[at].listed).ok_or(Condition::ItemNotFound)?;
        let state = self.items[at].state;
        let mut presences = SmallVec::new();
        if state.is_to() || state.is_pending_out() {
            presences.push(Kind::Unsubscribe);
        }
        if state.is_from() || state.is_pending_in() {
            presences.push(Kind::Unsubscribed);
        }
        let disclosure = if state.is_from() { Disclosure::Unavailable } else { Disclosure::Nothing };
        self.items[at] = Item::new(jid.clone());
        let (_, mut writes) = self.commit(at, true);
        let push = push_of(&self.items[at]);
        self.forget_tombstones(&mut writes);
        Ok(RosterChange { jid, removed: true, push, writes, presences, disclosure })
    }

    /// A presence of type `kind` from one of the user's clients (§3.1.2, §3.1.5, §3.2.2, §3.3.2, §3.4.2).
    ///
    /// # Errors
    /// `resource-constraint` if it would add an item beyond the limit. Nothing has changed then.
    pub fn outbound(&mut self, kind: Kind, contact: &BareJid, limits: &Limits) -> Result<OutboundChange, StanzaError> {
        if *contact == self.owner {
            // One is subscribed to oneself (§4.2.2); there is nothing to ask.
            return Ok(OutboundChange::default());
        }
        let (state, approved) = self.standing(contact);
        let outcome = subscription::outbound(state, approved, kind);
        let next = outcome.next;
        // §3.1.2, §3.4.2 rule 4, §A.1: what the user asked for or granted is in the roster, what the contact asked is not.
        let listed = next.is_to() || next.is_from() || next.is_pending_out() || outcome.approved;
        if listed && self.item(contact).is_none() {
            self.check_room(limits)?;
        }
        let (push, writes) = self.apply(contact, next, outcome.approved, None);
        Ok(OutboundChange { route: outcome.route, disclosure: outcome.disclosure, push, writes })
    }

    /// A presence of type `kind` from `contact`, who is not blocked (§3.1.3, §3.1.6, §3.2.3, §3.3.3, §3.4.2).
    ///
    /// `request` is the stanza in the form in which the Account stores stanzas, nothing that is read here; of a contact's
    /// requests the last one is kept for later (§3.1.3 rule 4). It can be empty for the other kinds.
    pub fn inbound(&mut self, kind: Kind, contact: &BareJid, request: Bytes, limits: &Limits) -> InboundChange {
        if *contact == self.owner {
            return InboundChange::default();
        }
        let (state, approved) = self.standing(contact);
        let outcome = subscription::inbound(state, approved, kind);
        let asks = kind == Kind::Subscribe && outcome.next.is_pending_in();
        if asks && !state.is_pending_in() && self.pending_in().count() >= limits.requests_max {
            return InboundChange { refused: true, ..InboundChange::default() };
        }
        let kept = if request.len() > limits.request_bytes_max { Bytes::new() } else { request };
        let (push, writes) = self.apply(contact, outcome.next, outcome.approved, asks.then_some(kept));
        let subscription::Inbound { deliver, auto_reply, disclosure, .. } = outcome;
        InboundChange { deliver, push, auto_reply, disclosure, writes, refused: false }
    }

    /// Give an item its new standing; a new `request` replaces the one that waits.
    fn apply(&mut self, contact: &BareJid, state: State, approved: bool, request: Option<Bytes>) -> (Option<Element>, Vec<Op>) {
        if state == State::None && !approved && self.find(contact).is_err() {
            return (None, Vec::new());
        }
        let at = self.find_or_insert(contact);
        let item = &mut self.items[at];
        let before = item.clone();
        item.state = state;
        item.approved = approved;
        item.listed |= state.is_to() || state.is_from() || state.is_pending_out() || approved;
        if !state.is_pending_in() {
            item.request = None;
        } else if let Some(request) = request {
            item.request = Some(Box::new(request));
        }
        if *item == before {
            return (None, Vec::new());
        }
        let modified = item.shown() != before.shown();
        self.commit(at, modified)
    }

    /// The cells of the item at `at`, which has changed; if `modified` in a way that clients see, a push and a version.
    fn commit(&mut self, at: usize, modified: bool) -> (Option<Element>, Vec<Op>) {
        let mut writes = Vec::with_capacity(2);
        if modified {
            self.version += 1;
            self.items[at].changed = self.version;
            writes.push(self.version_cell());
        }
        let push = modified.then(|| push_of(&self.items[at]));
        self.write_item(at, &mut writes);
        (push, writes)
    }

    /// The cell of the item at `at`, which leaves memory if there is nothing to remember.
    fn write_item(&mut self, at: usize, writes: &mut Vec<Op>) {
        let key = cell::item_key(&self.items[at].jid);
        if self.items[at].is_void() {
            self.items.remove(at);
            writes.push(Op::Delete { key });
        } else {
            writes.push(Op::Put { key, value: cell::encode_item(&self.items[at]) });
        }
    }

    /// The keys of all its cells, for an account that is removed.
    pub fn cell_keys(&self) -> impl Iterator<Item = Bytes> {
        self.items.iter().map(|i| cell::item_key(&i.jid)).chain([Bytes::from(cell::VERSION_KEY)])
    }

    fn version_cell(&self) -> Op {
        Op::Put { key: cell::VERSION_KEY.into(), value: cell::encode_version(self.version, self.floor) }
    }

    /// Keep [`TOMBSTONES_MAX`]: forget the oldest removal, and with it the versions before it.
    fn forget_tombstones(&mut self, writes: &mut Vec<Op>) {
        let tombstones = || self.items.iter().enumerate().filter(|(_, i)| i.is_tombstone());
        if tombstones().count() <= TOMBSTONES_MAX {
            return;
        }
        // A removal adds at most one, so forgetting one is enough.
        let Some((oldest, item)) = tombstones().min_by_key(|(_, i)| i.changed) else { return };
        self.floor = item.changed;
        self.items[oldest].changed = 0;
        self.write_item(oldest, writes);
        // The last operation on a cell counts.
        writes.push(self.version_cell());
    }

    fn full(&self) -> Element {
        let query = Element::new("query", ns::ROSTER).with_attr("ver", self.version.to_string());
        self.items().fold(query, |query, item| query.with_child(item.to_element()))
    }

    fn find(&self, contact: &BareJid) -> Result<usize, usize> {
        self.items.binary_search_by(|i| i.jid.cmp(contact))
    }

    fn find_or_insert(&mut self, contact: &BareJid) -> usize {
        self.find(contact).unwrap_or_else(|at| {
            self.items.insert(at, Item::new(contact.clone()));
            at
        })
    }

    fn standing(&self, contact: &BareJid) -> (State, bool) {
        self.find(contact).map_or((State::None, false), |at| (self.items[at].state, self.items[at].approved))
    }

    fn check_room(&self, limits: &Limits) -> Result<(), StanzaError> {
        if self.items().count() < limits.items_max { Ok(()) } else { Err(Condition::ResourceConstraint.into()) }
    }

    /// The group's text, shared with the items that are in it already.
    fn share_group(&self, group: &str) -> Arc<str> {
        let shared = self.items.iter().flat_map(|i| &i.groups).find(|g| ***g == *group);
        shared.cloned().unwrap_or_else(|| group.into())
    }
}

/// The `<query/>` of a roster push (§2.1.6): one item, and the version that it made (§2.6.3).
fn push_of(item: &Item) -> Element {
    Element::new("query", ns::ROSTER).with_attr("ver", item.changed.to_string()).with_child(item.to_element())
}

/// §2.1.5 rule 1: one and only one.
fn only_item(query: &Element) -> Result<&Element, StanzaError> {
    if !query.is("query", ns::ROSTER) {
        return Err(Condition::BadRequest.into());
    }
    let mut items = query.children().filter(|c| c.is("item", ns::ROSTER));
    match (items.next(), items.next()) {
        (Some(item), None) => Ok(item),
        _ => Err(Condition::BadRequest.into()),
    }
}

/// The groups of an item in a roster set (§2.3.3).
fn groups_of(item: &Element, limits: &Limits) -> Result<Vec<CompactString>, StanzaError> {
    let mut groups: Vec<CompactString> = Vec::new();
    for group in item.children().filter(|c| c.is("group", ns::ROSTER)) {
        let text = group.text();
        if text.is_empty() || text.len() > limits.name_bytes_max || groups.len() == limits.groups_max {
            return Err(Condition::NotAcceptable.into());
        }
        if groups.iter().any(|g| **g == *text) {
            return Err(Condition::BadRequest.into());
        }
        groups.push(CompactString::from(&*text));
    }
    Ok(groups)
}
