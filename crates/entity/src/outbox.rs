//! The outbox: forwards that no next hop has confirmed, in order for each recipient.
//!
//! In memory only; what must survive is a row of the log or a cell of the account, named by [`Key`].
//! Each recipient has a lane. Within a lane the order never changes, at most [`FORWARD_WINDOW_MAX`] are under way, and a
//! refusal or a renewed link starts again from the first unconfirmed (`ARCHITECTURE.md`, One log).

use frame::{PeerMsg, Pos, SharedStanza};
use smallvec::SmallVec;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use types::limit::FORWARD_WINDOW_MAX;
use types::unlucky::{self, Bound};
use types::{BareJid, Instant, Origin, Seldom, Ticket, Timestamp};

/// Where an unconfirmed forward is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// A row of the log.
    Row(Pos),
    /// A cell of the account (a subscription's stanza, written with the roster).
    Cell(u64),
    /// Nowhere else: the sender is not to be acknowledged, and its edge holds it until it is confirmed.
    Memory,
}

/// A forward that is not confirmed.
#[derive(Clone, Debug)]
pub struct Pending {
    /// Its name.
    pub origin: Origin,
    /// Where it is kept.
    pub key: Key,
    /// What is forwarded.
    pub stanza: SharedStanza,
    /// When the account took it, for giving up.
    pub since: Timestamp,
}

#[derive(Default, Debug)]
struct Lane {
    queue: VecDeque<Pending>,
    /// How many from the front are under way.
    sent: usize,
    /// Set by a refusal: nothing is sent before.
    retry_at: Option<Instant>,
    refusals: u32,
    /// When the last forward left: without a word for [`AGAIN_AFTER`], all under way is sent again.
    sent_at: Option<Instant>,
}

impl Lane {
    fn wakes(&self) -> Instant {
        let again = self.sent_at.filter(|_| self.sent > 0).map(|at| at + again_after());
        self.retry_at.or(again).unwrap_or(Instant::NEVER)
    }
}

/// The first pause after a refusal; doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// A confirmation may be lost without anybody noticing: one that is addressed to an owner who has just been replaced is
/// dropped, and only its sender's link says that it is new.
const AGAIN_AFTER: Duration = Duration::from_secs(10);

fn again_after() -> Duration {
    unlucky::within(Bound::ForwardAgain, AGAIN_AFTER)
}

/// See the module.
#[derive(Default, Debug)]
pub struct Outbox {
    lanes: Seldom<BTreeMap<BareJid, Lane>>,
    len: usize,
}

impl Outbox {
    /// Unconfirmed forwards in all.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Nothing is owed to any next hop.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn lane(&mut self, to: &BareJid) -> Option<&mut Lane> {
        self.lanes.made()?.get_mut(to)
    }

    /// Append behind everything for this recipient.
    pub fn push(&mut self, to: BareJid, pending: Pending) {
        self.lanes.make().entry(to).or_default().queue.push_back(pending);
        self.len += 1;
    }

    /// The forwards to this recipient that may leave now.
    pub fn send(&mut self, to: &BareJid, now: Instant) -> SmallVec<[PeerMsg; 1]> {
        let Some(lane) = self.lane(to) else { return SmallVec::new() };
        if lane.retry_at.is_some_and(|at| at > now) {
            return SmallVec::new();
        }
        lane.retry_at = None;
        if lane.sent_at.is_some_and(|at| at + again_after() <= now) {
            lane.sent = 0;
        }
        let end = lane.queue.len().min(unlucky::at_most(Bound::ForwardWindow, FORWARD_WINDOW_MAX));
        let frames: SmallVec<[PeerMsg; 1]> = (lane.sent..end)
            .map(|i| PeerMsg::Forward {
                origin: lane.queue[i].origin,
                prev: i.checked_sub(1).map(|p| lane.queue[p].origin),
                ticket: Ticket::NONE,
                durable: lane.queue[i].key != Key::Memory,
                stanza: lane.queue[i].stanza.clone(),
            })
            .collect();
        lane.sent = lane.sent.max(end);
        if !frames.is_empty() {
            lane.sent_at = Some(now);
        }
        frames
    }

    /// The recipient has everything up to `origin`: what is settled by that, in order.
    pub fn confirm(&mut self, from: &BareJid, origin: Origin) -> SmallVec<[Pending; 1]> {
        let Some(lanes) = self.lanes.made() else { return SmallVec::new() };
        let Some(lane) = lanes.get_mut(from) else { return SmallVec::new() };
        // Confirmed is only what was sent; an older confirmation names something that is gone.
        let Some(at) = lane.queue.iter().take(lane.sent).position(|p| p.origin == origin) else { return SmallVec::new() };
        let done: SmallVec<[Pending; 1]> = lane.queue.drain(..=at).collect();
        lane.sent -= done.len();
        lane.refusals = 0;
        self.len -= done.len();
        if lane.queue.is_empty() {
            lanes.remove(from);
        }
        done
    }

    /// The recipient did not take `origin`: start again from the first unconfirmed, after a pause.
    pub fn refuse(&mut self, from: &BareJid, origin: Origin, now: Instant) {
        let Some(lane) = self.lane(from) else { return };
        if !lane.queue.iter().take(lane.sent).any(|p| p.origin == origin) {
            return;
        }
        if types::planted::is(types::planted::Bug::RefusedBehind)
            && let Some(at) = lane.queue.iter().position(|p| p.origin == origin)
            && let Some(refused) = lane.queue.remove(at)
        {
            lane.queue.push_back(refused);
        }
        (lane.sent, lane.sent_at) = (0, None);
        // The first refusal of a run may only mean that a frame was lost; later ones back off.
        let pause = RETRY_MAX.min(RETRY_MIN * 2u32.saturating_pow(lane.refusals.min(10)));
        lane.refusals += 1;
        lane.retry_at = Some(now + pause);
    }

    /// The next hop of these recipients has a new owner or a new link: forward again from the first unconfirmed.
    pub fn renew(&mut self, mut concerns: impl FnMut(&BareJid) -> bool) -> Vec<BareJid> {
        let mut again = Vec::new();
        for (to, lane) in self.lanes.made().into_iter().flatten() {
            if concerns(to) {
                (lane.sent, lane.sent_at) = (0, None);
                lane.retry_at = None;
                again.push(to.clone());
            }
        }
        again
    }

    /// Recipients whose pause has ended.
    pub fn due(&self, now: Instant) -> Vec<BareJid> {
        self.lanes.iter().filter(|(_, l)| l.wakes() <= now).map(|(to, _)| to.clone()).collect()
    }

    /// Give up what was taken before `limit`, from the front of each lane.
    pub fn give_up(&mut self, limit: Timestamp) -> Vec<(BareJid, Pending)> {
        let mut gone = Vec::new();
        let Some(lanes) = self.lanes.made() else { return gone };
        lanes.retain(|to, lane| {
            while lane.queue.front().is_some_and(|p| p.since < limit) {
                if let Some(p) = lane.queue.pop_front() {
                    lane.sent = lane.sent.saturating_sub(1);
                    gone.push((to.clone(), p));
                }
            }
            !lane.queue.is_empty()
        });
        self.len -= gone.len();
        gone
    }

    /// When something is due.
    pub fn next_wake(&self) -> Instant {
        self.lanes.values().map(Lane::wakes).min().unwrap_or(Instant::NEVER)
    }

    /// Every recipient with something unconfirmed.
    pub fn recipients(&self) -> impl Iterator<Item = &BareJid> {
        self.lanes.keys()
    }

    /// Every unconfirmed forward to a recipient, in order (for checkers).
    pub fn pending(&self, to: &BareJid) -> impl Iterator<Item = &Pending> {
        self.lanes.get(to).into_iter().flat_map(|l| l.queue.iter())
    }
}
