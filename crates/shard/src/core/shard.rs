//! One shard: entities wake on their first input, what they write goes to the store, what they say waits for it.

use super::slot::{Entity, Held, Loading, MISSED_MAX, Said, Slot};
use super::{Cx, Out};
use bytes::Bytes;
use entity::{Account, Ctx, Effect, Effects, Loader, Scan};
use foldhash::fast::RandomState;
use frame::{AccountError, CredentialsAnswer, EdgeMsg, FromEdge, Peer, PeerMsg, ShardMsg, ToEdge, ToShard, ToShardBody};
use smallvec::smallvec;
use stanza::{Condition, StanzaError};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;
use store::{Order, Page, Read, StoreError};
use types::limit::PARKED_INPUTS_MAX;
use types::planted::{self, Bug};
use types::unlucky::{self, Bound};
use types::{BareJid, Batch, Collection, ConnId, Epoch, Instant, Now, Op, Partition, ShardId, Ticket};

/// An idle entity without obligations sleeps after this.
const SLEEP_AFTER: Duration = Duration::from_secs(60);
/// How often sleepers are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(20);
/// Marks of the `live` index read at once.
const LIVE_PAGE: usize = 1_000;
/// A list of effects with more room is not kept for the next input.
const SPARE_EFFECTS: usize = 64;

/// See the module.
pub struct Shard {
    slots: HashMap<BareJid, Slot, RandomState>,
    desk: Desk,
}

/// All of a shard but its slots: an input is carried out with its entity's slot in hand, which is looked up once.
struct Desk {
    id: ShardId,
    epoch: Epoch,
    order: Order,
    /// Entities that wait for the store.
    waiting: BTreeSet<BareJid>,
    /// As [`Slot::wake_at`] has it.
    wakes: BTreeSet<(Instant, BareJid)>,
    reads: BTreeMap<u64, ReadFor>,
    commits: BTreeMap<Ticket, BareJid>,
    next_read: u64,
    next_commit: u32,
    sweep_at: Instant,
    loading: usize,
    /// An empty list, for the effects of the next input.
    spare: Vec<Effect>,
}

enum ReadFor {
    Load(BareJid),
    Entity(BareJid, entity::ReadId),
    Live,
}

impl Shard {
    pub(super) fn new(id: ShardId, epoch: Epoch, order: Order) -> Shard {
        let desk = Desk {
            id,
            epoch,
            order,
            waiting: BTreeSet::new(),
            wakes: BTreeSet::new(),
            reads: BTreeMap::new(),
            commits: BTreeMap::new(),
            next_read: 0,
            next_commit: 0,
            sweep_at: Instant::NEVER,
            loading: 0,
            spare: Vec::new(),
        };
        Shard { slots: HashMap::default(), desk }
    }

    /// Its number.
    pub fn id(&self) -> ShardId {
        self.desk.id
    }

    /// This owner's epoch.
    pub fn epoch(&self) -> Epoch {
        self.desk.epoch
    }

    /// Wake whoever the `live` index lists: nobody who owes something sleeps.
    pub(super) fn start(&mut self, _now: Now, cx: &mut Cx<'_>) {
        self.read_live(Bytes::new(), cx);
    }

    fn read_live(&mut self, from: Bytes, cx: &mut Cx<'_>) {
        if planted::is(Bug::NoLive) {
            return;
        }
        let id = self.desk.read_id(ReadFor::Live);
        let read = Read {
            partition: self.desk.live_partition(),
            from,
            to: None,
            limit: unlucky::at_most(Bound::LivePage, LIVE_PAGE),
            reverse: false,
        };
        cx.shared.store.read(cx.shared.plane, id, Ticket::NONE, read);
    }

    pub(super) fn is_waiting(&self) -> bool {
        !self.desk.waiting.is_empty()
    }

    pub(super) fn is_loading(&self) -> bool {
        self.desk.loading > 0 || !self.desk.reads.is_empty()
    }

    /// When something is due.
    pub fn next_wake(&self) -> Instant {
        self.desk.wakes.first().map_or(Instant::NEVER, |w| w.0).min(self.desk.sweep_at)
    }

    /// Accounts that are awake (for checkers and metrics).
    pub fn accounts(&self) -> impl Iterator<Item = &Account> {
        self.slots.values().filter_map(|s| match &s.entity {
            Entity::Awake(a) => Some(&**a),
            Entity::Loading(_) => None,
        })
    }

    pub(super) fn handle_frame(&mut self, now: Now, frame: ToShard, cx: &mut Cx<'_>) {
        if frame.epoch != self.desk.epoch {
            return;
        }
        if let ToShardBody::Peer(p) = &frame.body {
            // A frame of a stale owner of the sender's shard: the new one forwards again.
            let known = cx.shared.directory.epoch(p.from_shard);
            if known.is_some_and(|e| e > p.from_epoch) {
                return;
            }
            if known != Some(p.from_epoch) {
                let heard = cx.heard.entry(p.from_shard).or_default();
                *heard = p.from_epoch.max(*heard);
            }
        }
        let jid = match &frame.body {
            ToShardBody::Edge(e) => &e.account,
            ToShardBody::Peer(p) => &p.to,
        };
        match self.slots.get_mut(jid) {
            Some(slot) => self.desk.take(now, slot, frame.body, cx),
            None => {
                let jid = jid.clone();
                self.load(&jid, false, cx);
                self.take(now, &jid, frame.body, cx);
            }
        }
    }

    fn take(&mut self, now: Now, jid: &BareJid, body: ToShardBody, cx: &mut Cx<'_>) {
        match self.slots.get_mut(jid) {
            Some(slot) => self.desk.take(now, slot, body, cx),
            None => self.desk.refuse(body, cx),
        }
    }

    /// Begin to load an entity.
    fn load(&mut self, jid: &BareJid, live: bool, cx: &mut Cx<'_>) {
        let loader = Loader::new(jid.clone(), self.desk.epoch, self.desk.order == Order::PerBatch);
        let slot = self.slots.entry(jid.clone()).insert_entry(Slot::loading(loader, live)).into_mut();
        self.desk.loading += 1;
        self.desk.continue_load(jid, slot, cx);
    }

    pub(super) fn handle_read(&mut self, now: Now, id: u64, result: Result<Page, StoreError>, cx: &mut Cx<'_>) {
        match self.desk.reads.remove(&id) {
            Some(ReadFor::Load(jid)) => self.loaded_page(now, &jid, result, cx),
            Some(ReadFor::Entity(jid, read)) => {
                let cells = result.map(cells_of).map_err(|error| {
                    tracing::warn!(%jid, %error, "a read failed");
                });
                if let Some(slot) = self.slots.get_mut(&jid) {
                    self.desk.run(now, &jid, slot, cx, |a, ctx, fx| a.handle_read(ctx, read, cells, fx));
                }
            }
            Some(ReadFor::Live) => self.live_page(result, cx),
            None => {}
        }
    }

    fn live_page(&mut self, result: Result<Page, StoreError>, cx: &mut Cx<'_>) {
        let page = match result {
            Ok(page) => page,
            Err(error) => {
                tracing::warn!(shard = self.desk.id.0, %error, "cannot read the live index yet");
                return self.read_live(Bytes::new(), cx);
            }
        };
        let last = page.rows.last().map(|c| c.key.clone());
        for cell in page.rows {
            let jid = std::str::from_utf8(&cell.key).ok().and_then(|t| BareJid::parse(t).ok());
            match jid {
                Some(jid) if !self.slots.contains_key(&jid) => self.load(&jid, true, cx),
                Some(jid) => {
                    if let Some(slot) = self.slots.get_mut(&jid) {
                        slot.live = true;
                    }
                }
                None => tracing::error!(shard = self.desk.id.0, "a mark of the live index is no address"),
            }
        }
        if page.more
            && let Some(last) = last
        {
            self.read_live([&last[..], &[0]].concat().into(), cx);
        }
    }

    fn loaded_page(&mut self, now: Now, jid: &BareJid, result: Result<Page, StoreError>, cx: &mut Cx<'_>) {
        let Some(slot) = self.slots.get_mut(jid) else { return };
        let Entity::Loading(loading) = &mut slot.entity else { return };
        let page = match result {
            Ok(page) => page,
            Err(error @ (StoreError::Timeout | StoreError::Busy)) => {
                tracing::debug!(%jid, %error, "loading goes on");
                return self.desk.continue_load(jid, slot, cx);
            }
            Err(error) => return self.load_failed(jid, &error.to_string(), cx),
        };
        let (cells, more) = cells_of(page);
        if let Err(error) = loading.loader.handle_page(cells, more) {
            return self.load_failed(jid, &error.to_string(), cx);
        }
        if loading.loader.next_read().is_some() {
            return self.desk.continue_load(jid, slot, cx);
        }
        self.awake(now, jid, cx);
    }

    fn awake(&mut self, now: Now, jid: &BareJid, cx: &mut Cx<'_>) {
        let Some(slot) = self.slots.get_mut(jid) else { return };
        let mut empty = Entity::loading(Loader::new(jid.clone(), self.desk.epoch, false));
        if let Entity::Loading(loading) = &mut empty {
            loading.started = true;
        }
        let Entity::Loading(loading) = std::mem::replace(&mut slot.entity, empty) else { return };
        let Loading { loader, parked, missed, .. } = *loading;
        let live = slot.live;
        let mut fx = Effects::default();
        let ctx = context(self.desk.id, now, cx);
        match loader.finish(&ctx, live, &mut fx) {
            Ok(mut account) => {
                if let Some(poison) = &slot.poison {
                    account.poison(&poison.inputs, &poison.forwards);
                }
                slot.entity = Entity::Awake(Box::new(account));
                self.desk.loading -= 1;
                if live && self.desk.order == Order::PerBatch {
                    // Perhaps one replica has the mark and was asked: the next owner may ask the other two.
                    self.desk.mark(jid, slot, true, cx);
                }
                self.desk.carry_out(jid, slot, fx, cx);
                for body in parked {
                    // One of them may make it panic: then it loads again, and the others wait once more.
                    self.take(now, jid, body, cx);
                }
                let Some(slot) = self.slots.get_mut(jid) else { return };
                for from in missed {
                    self.desk.tell(jid, slot, from, PeerMsg::StateAgain, cx);
                }
                self.desk.rearm(now, jid, slot);
            }
            Err(error) => {
                if let Entity::Loading(loading) = &mut slot.entity {
                    loading.parked = parked;
                }
                self.load_failed(jid, &error.to_string(), cx);
            }
        }
    }

    /// What does not decode is not guessed: whoever asks is refused, until it is mended.
    fn load_failed(&mut self, jid: &BareJid, error: &str, cx: &mut Cx<'_>) {
        tracing::error!(%jid, error, "an account cannot be loaded");
        self.desk.loading -= 1;
        if let Some(Slot { entity: Entity::Loading(loading), .. }) = self.slots.remove(jid) {
            for body in loading.parked {
                self.desk.refuse(body, cx);
            }
        }
    }

    pub(super) fn handle_durable(&mut self, _now: Now, cx: &mut Cx<'_>) {
        let waiting: Vec<BareJid> = self.desk.waiting.iter().cloned().collect();
        for jid in waiting {
            match self.slots.get_mut(&jid) {
                Some(slot) => self.desk.release(&jid, slot, cx),
                None => _ = self.desk.waiting.remove(&jid),
            }
        }
    }

    pub(super) fn handle_committed(&mut self, _now: Now, ticket: Ticket, cx: &mut Cx<'_>) {
        let Some(jid) = self.desk.commits.remove(&ticket) else { return };
        let Some(slot) = self.slots.get_mut(&jid) else {
            self.desk.waiting.remove(&jid);
            return;
        };
        if let Some(own) = slot.batches()
            && let Some((_, merged)) = own.in_flight.take_if(|(t, _)| *t == ticket)
        {
            own.committed += merged;
        }
        self.desk.flush_batches(&jid, slot, cx);
        self.desk.release(&jid, slot, cx);
        if matches!(&slot.entity, Entity::Loading(loading) if !loading.started) {
            self.desk.continue_load(&jid, slot, cx);
        }
    }

    pub(super) fn handle_timer(&mut self, now: Now, cx: &mut Cx<'_>) {
        while self.desk.wakes.first().is_some_and(|(at, _)| *at <= now.mono)
            && let Some((_, jid)) = self.desk.wakes.pop_first()
        {
            let Some(slot) = self.slots.get_mut(&jid) else { continue };
            slot.wake_at = Instant::NEVER;
            match &slot.entity {
                Entity::Awake(a) if a.next_wake() > now.mono => self.desk.rearm(now, &jid, slot),
                _ => _ = self.desk.run(now, &jid, slot, cx, |a, ctx, fx| a.handle_timer(ctx, fx)),
            }
        }
        if self.desk.sweep_at <= now.mono {
            self.sweep(now, cx);
        }
    }

    /// Idle entities sleep: everything that they know is in the store, also what nobody waits for.
    fn sweep(&mut self, now: Now, cx: &Cx<'_>) {
        let desk = &mut self.desk;
        self.slots.retain(|jid, slot| {
            let idle = matches!(&slot.entity, Entity::Awake(a) if a.may_sleep(now.mono, unlucky::within(Bound::SleepAfter, SLEEP_AFTER)));
            let stays = !idle || slot.is_waiting() || !is_durable(desk.order, slot, slot.need, cx);
            if !stays {
                desk.forget_wake(jid, slot);
            }
            stays
        });
        let empty = self.slots.is_empty();
        desk.sweep_at = if empty { Instant::NEVER } else { now.mono + unlucky::within(Bound::SweepEvery, SWEEP_EVERY) };
    }

    pub(super) fn handle_renewed(&mut self, now: Now, renewed: ShardId, cx: &mut Cx<'_>) {
        let directory = cx.shared.directory.clone();
        self.each(now, cx, |a, ctx, fx| a.handle_renewed(ctx, &|jid| directory.shard_of(jid), renewed, fx));
    }

    pub(super) fn handle_conns_lost(&mut self, now: Now, lost: &dyn Fn(ConnId) -> bool, cx: &mut Cx<'_>) {
        // What a lost connection asked of an entity that still loads must not attach anything to it. If its edge lives after
        // all, it asks again.
        let mut refused: Vec<(BareJid, ToShardBody)> = Vec::new();
        for (jid, slot) in &mut self.slots {
            if let Entity::Loading(loading) = &mut slot.entity {
                let gone = |body: &ToShardBody| matches!(body, ToShardBody::Edge(from) if lost(from.conn));
                let (gone, kept) = std::mem::take(&mut loading.parked).into_iter().partition(gone);
                loading.parked = kept;
                let gone: VecDeque<ToShardBody> = gone;
                refused.extend(gone.into_iter().map(|body| (jid.clone(), body)));
            }
        }
        refused.sort_by(|a, b| a.0.cmp(&b.0));
        for (_, body) in refused {
            self.desk.refuse(body, cx);
        }
        self.each(now, cx, |a, ctx, fx| a.handle_conns_lost(ctx, lost, fx));
    }

    pub(super) fn handle_link_renewed(&mut self, now: Now, of: &dyn Fn(ConnId) -> bool, cx: &mut Cx<'_>) {
        self.each(now, cx, |a, ctx, fx| a.handle_link_renewed(ctx, of, fx));
    }

    fn each(&mut self, now: Now, cx: &mut Cx<'_>, f: impl Fn(&mut Account, &Ctx<'_>, &mut Effects)) {
        let mut all: Vec<BareJid> = self.slots.keys().cloned().collect();
        all.sort_unstable();
        for jid in all {
            if let Some(slot) = self.slots.get_mut(&jid) {
                self.desk.run(now, &jid, slot, cx, &f);
            }
        }
    }
}

impl Desk {
    fn live_partition(&self) -> Partition {
        Partition { collection: Collection::Live, key: self.id.0.to_be_bytes().to_vec().into() }
    }

    fn read_id(&mut self, what: ReadFor) -> u64 {
        // The shard's number in the upper bits tells the host whose answer it is; the epoch tells an answer to an
        // earlier owner on the same host.
        self.next_read += 1;
        let id = u64::from(self.id.0) << 48 | (u64::from(self.epoch.0) & 0xffff) << 32 | self.next_read & 0xffff_ffff;
        self.reads.insert(id, what);
        id
    }

    /// An input of an entity that is awake, or loads.
    fn take(&mut self, now: Now, slot: &mut Slot, body: ToShardBody, cx: &mut Cx<'_>) {
        match &mut slot.entity {
            Entity::Loading(l) if l.parked.len() < unlucky::at_most(Bound::ParkedInputs, PARKED_INPUTS_MAX) => l.parked.push_back(body),
            Entity::Loading(l) => {
                if let ToShardBody::Peer(Peer { from, body: PeerMsg::State { .. } | PeerMsg::StateAgain, .. }) = &body
                    && l.missed.len() < MISSED_MAX
                {
                    l.missed.insert(from.clone());
                }
                self.refuse(body, cx);
            }
            Entity::Awake(_) => self.input(now, slot, body, cx),
        }
    }

    fn continue_load(&mut self, jid: &BareJid, slot: &mut Slot, cx: &mut Cx<'_>) {
        slot.wait_for_all();
        let (busy, need) = (slot.is_committing(), slot.need);
        let Entity::Loading(loading) = &mut slot.entity else { return };
        if busy {
            return; // An earlier life's batch is in flight: its outcome first.
        }
        loading.started = true;
        let Some(scan) = loading.loader.next_read() else { return };
        let after = if self.order == Order::Journal { Ticket(need) } else { Ticket::NONE };
        let id = self.read_id(ReadFor::Load(jid.clone()));
        cx.shared.store.read(cx.shared.plane, id, after, read_of(scan));
    }

    /// An input that cannot be taken now. Who holds it tries again, or is told.
    fn refuse(&self, body: ToShardBody, cx: &mut Cx<'_>) {
        match body {
            ToShardBody::Edge(FromEdge { conn, body, .. }) => {
                let answer = match body {
                    EdgeMsg::Credentials { req } => ShardMsg::Credentials { req, answer: CredentialsAnswer::Busy },
                    EdgeMsg::Create { req, .. } | EdgeMsg::SetCredentials { req, .. } | EdgeMsg::Remove { req } => {
                        ShardMsg::AccountDone { req, result: Err(AccountError::Busy) }
                    }
                    EdgeMsg::Bind { req, .. }
                    | EdgeMsg::Resume { req, .. }
                    | EdgeMsg::Enable { req, .. }
                    | EdgeMsg::Reattach { req, .. } => ShardMsg::Busy { req },
                    EdgeMsg::Submit { session, attach, n, .. } => ShardMsg::Refused { session, attach, n },
                    EdgeMsg::Acked { session, .. }
                    | EdgeMsg::Active { session, .. }
                    | EdgeMsg::Ask { session, .. }
                    | EdgeMsg::Detach { session, .. }
                    | EdgeMsg::Close { session, .. } => ShardMsg::Again { session },
                    EdgeMsg::LoginEnded { .. } => return,
                };
                cx.out.push(self.to_edge(conn, answer));
            }
            ToShardBody::Peer(peer) => match peer.body {
                PeerMsg::Forward { origin, .. } => self.peer(&peer.to, &peer.from, PeerMsg::Refuse { origin }, cx),
                PeerMsg::Request { stanza } if stanza.is_request() => {
                    if let Some(reply) = StanzaError::new(Condition::ResourceConstraint).reply_to(&stanza) {
                        self.peer(&peer.to, &peer.from, PeerMsg::Request { stanza: Arc::new(reply) }, cx);
                    }
                }
                // State is asked for again once it is awake, passing stanzas are passing, confirmations are for those who wait awake.
                _ => {}
            },
        }
    }

    fn to_edge(&self, conn: ConnId, body: ShardMsg) -> Out {
        Out::Edge(ToEdge { conn, shard: self.id, epoch: self.epoch, body })
    }

    fn peer(&self, from: &BareJid, to: &BareJid, body: PeerMsg, cx: &mut Cx<'_>) {
        cx.out.extend(self.peer_frame(from, to.clone(), cx.shared.directory.shard_of(to), body, cx));
    }

    fn peer_frame(&self, from: &BareJid, to: BareJid, shard: ShardId, body: PeerMsg, cx: &Cx<'_>) -> Option<Out> {
        // Without an owner there is nobody to tell; the next one is told by `handle_renewed`. One that has spoken may be
        // younger than the one that this node knows of: it is the one that is meant.
        let epoch = cx.shared.directory.epoch(shard)?;
        let epoch = cx.heard.get(&shard).copied().unwrap_or_default().max(epoch);
        let peer = Peer { from: from.clone(), from_epoch: self.epoch, from_shard: self.id, to, body };
        Some(Out::Shard(ToShard { shard, epoch, body: ToShardBody::Peer(peer) }))
    }

    /// One input of an entity that is awake.
    fn input(&mut self, now: Now, slot: &mut Slot, body: ToShardBody, cx: &mut Cx<'_>) {
        match body {
            ToShardBody::Edge(FromEdge { conn, account, body }) => {
                self.run(now, &account, slot, cx, |a, ctx, fx| a.handle_edge(ctx, conn, body, fx));
            }
            ToShardBody::Peer(Peer { from, to: jid, body, .. }) => {
                if let PeerMsg::Forward { origin, ticket, .. } = &body {
                    let (origin, ticket) = (*origin, *ticket);
                    // Append early, speak late: what follows rests on the sender's commit, too.
                    if self.order == Order::Journal && !planted::is(Bug::NoTicket) {
                        slot.need = slot.need.max(ticket.0);
                    }
                    let ok = self.run(now, &jid, slot, cx, |a, ctx, fx| a.handle_peer(ctx, &from, body, fx));
                    if !ok {
                        slot.poison.get_or_insert_default().add_forward(from.clone(), origin);
                        // Its sender need not wait to find that nobody answers: it comes again, and bounces.
                        self.peer(&jid, &from, PeerMsg::Refuse { origin }, cx);
                    }
                    return;
                }
                self.run(now, &jid, slot, cx, |a, ctx, fx| a.handle_peer(ctx, &from, body, fx));
            }
        }
    }

    /// Run an entity on one input. A panic harms no more than this input: the entity reloads, without its effects.
    fn run(
        &mut self,
        now: Now,
        jid: &BareJid,
        slot: &mut Slot,
        cx: &mut Cx<'_>,
        f: impl FnOnce(&mut Account, &Ctx<'_>, &mut Effects),
    ) -> bool {
        let Entity::Awake(account) = &mut slot.entity else { return true };
        let mut fx = Effects { list: std::mem::take(&mut self.spare) };
        let ctx = context(self.id, now, cx);
        if catch_unwind(AssertUnwindSafe(|| f(account, &ctx, &mut fx))).is_ok() {
            self.carry_out(jid, slot, fx, cx);
            self.rearm(now, jid, slot);
            return true;
        }
        tracing::error!(%jid, "an entity panicked; it is loaded again");
        let poisoned = account.current();
        let sessions: Vec<_> = account.state.sessions.iter().filter_map(|s| Some((s.conn()?, s.id))).collect();
        if planted::is(Bug::PanicAcks)
            && let Some((session, n)) = poisoned
            && let Some(s) = account.state.session(session)
            && let Some(conn) = s.conn()
        {
            let done = ShardMsg::Outcome { session, attach: s.attach, accepted: n };
            cx.out.push(self.to_edge(conn, done));
        }
        if let Some((session, n)) = poisoned {
            slot.poison.get_or_insert_default().add_input(session, n);
        }
        let loader = Loader::new(jid.clone(), self.epoch, self.order == Order::PerBatch).again();
        slot.entity = Entity::loading(loader);
        self.loading += 1;
        // The edges hold the other copy of each session.
        for (conn, session) in sessions {
            cx.out.push(self.to_edge(conn, ShardMsg::Again { session }));
        }
        self.continue_load(jid, slot, cx);
        false
    }

    fn carry_out(&mut self, jid: &BareJid, slot: &mut Slot, mut fx: Effects, cx: &mut Cx<'_>) {
        for effect in fx.list.drain(..) {
            match effect {
                Effect::Write(batch) => self.write(slot, batch, cx),
                Effect::Later(conn, batch) => self.write_later(jid, slot, batch, conn, cx),
                Effect::Live => self.mark(jid, slot, true, cx),
                Effect::NotLive => self.mark(jid, slot, false, cx),
                Effect::Edge(conn, msg @ ShardMsg::Resumed { .. }) if planted::is(Bug::ResumedInFlight) => {
                    cx.out.push(self.to_edge(conn, msg));
                }
                Effect::Peer(to, msg @ PeerMsg::Confirm { .. }) if planted::is(Bug::ConfirmEarly) => self.peer(jid, &to, msg, cx),
                Effect::Edge(conn, msg) => {
                    let frame = self.to_edge(conn, msg);
                    self.say(jid, slot, Said::Frame(frame), cx);
                }
                Effect::Peer(to, msg) => self.tell(jid, slot, to, msg, cx),
                Effect::Read(id, scan) => self.say(jid, slot, Said::Read(id, scan), cx),
            }
        }
        if fx.list.capacity() <= SPARE_EFFECTS {
            self.spare = fx.list;
        }
        self.flush_batches(jid, slot, cx);
    }

    fn mark(&mut self, jid: &BareJid, slot: &mut Slot, live: bool, cx: &mut Cx<'_>) {
        slot.live = live;
        let key = Bytes::copy_from_slice(jid.as_str().as_bytes());
        let op = if live { Op::Put { key, value: Bytes::from_static(b"\x01") } } else { Op::Delete { key } };
        let batch = Batch { partition: self.live_partition(), ops: smallvec![op] };
        if self.order == Order::Journal {
            // The obligation itself is written behind it, and nothing rests on the mark alone.
            let stamp = self.stamp();
            cx.shared.store.commit_later(cx.shared.plane, stamp, batch);
        } else {
            self.write(slot, batch, cx);
        }
    }

    fn write_later(&mut self, jid: &BareJid, slot: &mut Slot, batch: Batch, conn: ConnId, cx: &mut Cx<'_>) {
        if self.order != Order::Journal {
            return self.write(slot, batch, cx);
        }
        let stamp = self.stamp();
        if !slot.is_for_later(conn) {
            need_all(slot, cx);
        }
        slot.wait_later(cx.shared.store.commit_later(cx.shared.plane, stamp, batch), conn);
        self.waiting.insert(jid.clone());
    }

    fn write(&mut self, slot: &mut Slot, batch: Batch, cx: &mut Cx<'_>) {
        let stamp = self.stamp();
        if self.order == Order::Journal {
            let ticket = cx.shared.store.commit(cx.shared.plane, stamp, batch);
            slot.need = slot.need.max(ticket.0);
        } else {
            slot.push(batch);
        }
    }

    fn stamp(&mut self) -> u64 {
        self.next_commit += 1;
        u64::from(self.epoch.0) << 32 | u64::from(self.next_commit)
    }

    /// Without one order: one batch in flight for each entity; what waits for the same partition goes as one.
    fn flush_batches(&mut self, jid: &BareJid, slot: &mut Slot, cx: &mut Cx<'_>) {
        if self.order == Order::Journal {
            return;
        }
        let stamp = self.stamp();
        let Some(own) = slot.batches() else { return };
        if own.in_flight.is_some() {
            return;
        }
        let Some(mut batch) = own.waiting.pop_front() else { return };
        let mut merged = 1;
        while own.waiting.front().is_some_and(|b| b.partition == batch.partition) {
            if let Some(next) = own.waiting.pop_front() {
                batch.ops.extend(next.ops);
                merged += 1;
            }
        }
        let ticket = cx.shared.store.commit(cx.shared.plane, stamp, batch);
        own.in_flight = Some((ticket, merged));
        cx.commits.insert(ticket, self.id);
        self.commits.insert(ticket, jid.clone());
        self.waiting.insert(jid.clone());
    }

    /// A forward to an entity under the same journal leaves at once, with its ticket; all else waits its turn.
    fn tell(&mut self, jid: &BareJid, slot: &mut Slot, to: BareJid, mut msg: PeerMsg, cx: &mut Cx<'_>) {
        let shard = cx.shared.directory.shard_of(&to);
        if let PeerMsg::Forward { ticket, .. } = &mut msg
            && self.order == Order::Journal
            && cx.shared.directory.is_local(shard)
        {
            need_all(slot, cx);
            *ticket = Ticket(slot.need);
            cx.out.extend(self.peer_frame(jid, to, shard, msg, cx));
            return;
        }
        if let Some(frame) = self.peer_frame(jid, to, shard, msg, cx) {
            self.say(jid, slot, Said::Frame(frame), cx);
        }
    }

    fn say(&mut self, jid: &BareJid, slot: &mut Slot, what: Said, cx: &mut Cx<'_>) {
        let order = self.order;
        if !matches!(&what, Said::Frame(Out::Edge(to)) if slot.is_for_later(to.conn)) {
            need_all(slot, cx);
        }
        let need = slot.need;
        if slot.lane.is_empty() && is_durable(order, slot, need, cx) {
            return self.speak(jid, what, cx);
        }
        slot.lane.push_back(Held { need, what });
        self.waiting.insert(jid.clone());
    }

    fn speak(&mut self, jid: &BareJid, what: Said, cx: &mut Cx<'_>) {
        match what {
            Said::Frame(frame) => push_out(cx.out, frame),
            Said::Read(id, scan) => {
                let id = self.read_id(ReadFor::Entity(jid.clone(), id));
                cx.shared.store.read(cx.shared.plane, id, Ticket::NONE, read_of(scan));
            }
        }
    }

    fn release(&mut self, jid: &BareJid, slot: &mut Slot, cx: &mut Cx<'_>) {
        slot.forget_later(cx.durable);
        while let Some(need) = slot.lane.front().map(|h| h.need) {
            if !is_durable(self.order, slot, need, cx) {
                break;
            }
            let Some(held) = slot.lane.pop_front() else { break };
            if slot.lane.is_empty() {
                // An idle entity holds no buffer.
                slot.lane = VecDeque::new();
            }
            self.speak(jid, held.what, cx);
        }
        if !slot.is_waiting() {
            self.waiting.remove(jid);
            if self.waiting.is_empty() {
                // An empty set keeps its last node.
                self.waiting = BTreeSet::new();
            }
        }
    }

    fn rearm(&mut self, now: Now, jid: &BareJid, slot: &mut Slot) {
        let next = match &slot.entity {
            Entity::Awake(a) => a.next_wake(),
            Entity::Loading(_) => Instant::NEVER,
        };
        // One that moves back stays where it is until it comes: most of what is waited for happens long before.
        if next < slot.wake_at {
            self.forget_wake(jid, slot);
            self.wakes.insert((next, jid.clone()));
            slot.wake_at = next;
        }
        if self.sweep_at == Instant::NEVER {
            self.sweep_at = now.mono + unlucky::within(Bound::SweepEvery, SWEEP_EVERY);
        }
    }

    fn forget_wake(&mut self, jid: &BareJid, slot: &Slot) {
        if slot.wake_at != Instant::NEVER {
            self.wakes.remove(&(slot.wake_at, jid.clone()));
        }
    }
}

/// Somebody waits for everything that an entity has written.
fn need_all(slot: &mut Slot, cx: &Cx<'_>) {
    if let Some(ticket) = slot.wait_for_all().filter(|ticket| *ticket > cx.durable) {
        cx.shared.store.hurry(ticket);
    }
}

fn is_durable(order: Order, slot: &Slot, need: u64, cx: &Cx<'_>) -> bool {
    if planted::is(Bug::AckEarly) {
        return true;
    }
    match order {
        Order::Journal => need <= cx.durable.0,
        Order::PerBatch => need <= slot.committed(),
    }
}

/// An outcome that follows another one of the same connection replaces it.
fn push_out(out: &mut Vec<Out>, frame: Out) {
    if let (Some(Out::Edge(last)), Out::Edge(new)) = (out.last_mut(), &frame)
        && last.conn == new.conn
        && let (ShardMsg::Outcome { session: a, .. }, ShardMsg::Outcome { session: b, .. }) = (&last.body, &new.body)
        && a == b
    {
        last.body = new.body.clone();
        return;
    }
    out.push(frame);
}

fn context<'a>(shard: ShardId, now: Now, cx: &Cx<'a>) -> Ctx<'a> {
    Ctx { shard, low_space: !cx.shared.store.health().takes_work(), now, settings: &cx.shared.settings, pipeline: &cx.shared.pipeline }
}

fn read_of(scan: Scan) -> Read {
    let Scan { partition, from, to, limit, reverse } = scan;
    Read { partition, from, to, limit, reverse }
}

fn cells_of(page: Page) -> (Vec<(Bytes, Bytes)>, bool) {
    (page.rows.into_iter().map(|c| (c.key, c.value)).collect(), page.more)
}
