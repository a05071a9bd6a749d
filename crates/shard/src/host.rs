//! The actor of a plane's shards: carries frames, completions of the store and time to [`Host`], and its frames away.

use crate::core::{Host, Out, Shared};
use actor::{Actor, Address, Clock, Context, Planes};
use entity::{Pipeline, Settings};
use frame::ToShard;
use rpc::{Deliver, HeldLink, LocalNet, PlaneLink, RefusedReason};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use store::{Completion, PlaneId, Store};
use types::{ConnId, Epoch, Instant, Now, ShardId, Ticket};

/// Batches of frames that wait for one host; beyond that links keep them, and then refuse.
pub const HOST_BATCHES_MAX: usize = 256;
/// Frames that a full link has not taken yet. Beyond that the link is broken: sessions re-attach, forwards start again.
pub const STUCK_FRAMES_MAX: usize = 65_536;
/// When a link that was full is tried again.
const RETRY_AFTER: Duration = Duration::from_millis(5);

/// What a host takes.
pub enum HostMessage {
    /// Frames, in order.
    Frames(Vec<ToShard>),
    /// The store has something to say.
    Completions,
    /// Own these shards.
    Take(Vec<(ShardId, Epoch)>),
    /// New settings and modules.
    Configure(Arc<Settings>, Arc<Pipeline>),
    /// Say whether nothing waits for the store.
    Quiet(tokio::sync::oneshot::Sender<bool>),
}

/// What the store said and the host has not heard: the newest ticket, and answers to reads, of which there are no more
/// than were asked for.
#[derive(Default)]
struct Heard {
    durable: Ticket,
    others: Vec<Completion>,
}

/// The store's way to a plane. It never waits: a full mailbox is read soon, and every message looks here.
#[derive(Default)]
struct Ears {
    heard: Mutex<Heard>,
    asked: AtomicBool,
    host: std::sync::OnceLock<Address<HostMessage>>,
}

impl Ears {
    fn hear(&self, completion: Completion) {
        {
            let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
            match completion {
                Completion::Durable(ticket) => heard.durable = heard.durable.max(ticket),
                other => heard.others.push(other),
            }
        }
        if !self.asked.swap(true, Ordering::AcqRel) && self.host.get().is_none_or(|h| h.try_send(HostMessage::Completions).is_err()) {
            self.asked.store(false, Ordering::Release);
        }
    }

    fn take(&self) -> Heard {
        self.asked.store(false, Ordering::Release);
        std::mem::take(&mut *self.heard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// See the module.
struct HostActor {
    core: Host,
    ears: Arc<Ears>,
    link: Arc<PlaneLink>,
    clock: Clock,
    durable: Ticket,
    /// Frames that a full link refused, in order; nothing overtakes them.
    stuck: VecDeque<Out>,
    /// The earliest timer that is set.
    armed: Instant,
}

/// How to start the hosts of a node.
pub struct HostConfig {
    /// Where shards commit.
    pub store: Arc<dyn Store>,
    /// Where others live.
    pub directory: Arc<dyn crate::core::Directory>,
    /// Of entities.
    pub settings: Arc<Settings>,
    /// Of modules.
    pub pipeline: Arc<Pipeline>,
}

/// Start one host on each plane and register it with the network. `shards` says which each owns.
pub fn start(
    config: &HostConfig,
    net: &LocalNet,
    planes: &Planes,
    shards: impl Fn(u16) -> Vec<(ShardId, Epoch)>,
) -> Vec<Address<HostMessage>> {
    let mut hosts = Vec::new();
    for plane in 0..planes.count() {
        let ears = Arc::new(Ears::default());
        let heard = Arc::clone(&ears);
        let number: PlaneId = config.store.register(Box::new(move |completion| heard.hear(completion)));
        let shared = Shared {
            store: Arc::clone(&config.store),
            plane: number,
            directory: Arc::clone(&config.directory),
            settings: Arc::clone(&config.settings),
            pipeline: Arc::clone(&config.pipeline),
        };
        let link = net.link(plane);
        let own_ears = Arc::clone(&ears);
        let host = planes.start_actor(plane, HOST_BATCHES_MAX, move || HostActor {
            core: Host::new(shared),
            ears: own_ears,
            link,
            clock: Clock,
            durable: Ticket::NONE,
            stuck: VecDeque::new(),
            armed: Instant::NEVER,
        });
        let _ = ears.host.set(host.clone());
        let inbox = host.clone();
        net.register_shard_host(
            plane,
            Box::new(move |frames| match inbox.try_send(HostMessage::Frames(frames)) {
                Ok(()) => Deliver::Taken,
                Err(actor::SendError::Full(HostMessage::Frames(frames))) => Deliver::Full(frames),
                Err(_) => Deliver::Gone,
            }),
        );
        // A new actor's mailbox is empty.
        let _ = host.try_send(HostMessage::Take(shards(plane)));
        hosts.push(host);
    }
    hosts
}

impl Actor for HostActor {
    type Message = HostMessage;

    fn handle(&mut self, context: &mut Context<'_, Self>, message: HostMessage) {
        let now = self.clock.now();
        match message {
            HostMessage::Frames(frames) => {
                for frame in frames {
                    self.core.handle_frame(now, frame);
                }
            }
            HostMessage::Completions => {}
            HostMessage::Take(shards) => {
                for (shard, epoch) in shards {
                    self.core.take(now, shard, epoch);
                }
            }
            HostMessage::Configure(settings, pipeline) => self.core.configure(settings, pipeline),
            HostMessage::Quiet(answer) => {
                self.listen(now);
                let _ = answer.send(self.core.is_quiet() && self.stuck.is_empty());
            }
        }
        self.listen(now);
        self.send();
        self.arm(now, context);
    }
}

impl HostActor {
    /// Set a timer for what is due next, unless an earlier one is set.
    fn arm(&mut self, now: Now, context: &mut Context<'_, Self>) {
        let mut next = self.core.next_wake();
        if !self.stuck.is_empty() {
            next = next.min(now.mono + RETRY_AFTER);
        }
        if next >= self.armed {
            return;
        }
        self.armed = next;
        // A millisecond more: timers are coarse, and one that fires early would only be set again.
        let delay = next.since(now.mono) + Duration::from_millis(1);
        context.after(delay, |host, context| {
            host.armed = Instant::NEVER;
            let now = host.clock.now();
            host.listen(now);
            if host.core.next_wake() <= now.mono {
                host.core.handle_timer(now);
            }
            host.send();
            host.arm(now, context);
        });
    }
}

impl HostActor {
    fn listen(&mut self, now: Now) {
        let heard = self.ears.take();
        for completion in heard.others {
            self.core.handle_completion(now, completion);
        }
        if heard.durable > self.durable {
            self.durable = heard.durable;
            self.core.handle_completion(now, Completion::Durable(heard.durable));
        }
    }

    fn send(&mut self) {
        let mut out = self.core.take_out();
        let stuck = &mut self.stuck;
        if !stuck.is_empty() {
            stuck.extend(out.drain(..));
            self.link.hold(|link| {
                while let Some(frame) = stuck.pop_front() {
                    if let Some(refused) = send(link, frame) {
                        stuck.push_front(refused);
                        break;
                    }
                }
            });
        } else if !out.is_empty() {
            self.link.hold(|link| {
                let mut frames = out.drain(..);
                while let Some(frame) = frames.next() {
                    if let Some(refused) = send(link, frame) {
                        stuck.push_back(refused);
                        stuck.extend(frames);
                        break;
                    }
                }
            });
        }
        self.core.reuse(out);
        if self.stuck.len() > STUCK_FRAMES_MAX {
            self.broken();
        }
    }

    /// A link that takes nothing any more: what was on it is lost, everybody starts again by the rules for that.
    fn broken(&mut self) {
        tracing::error!(frames = self.stuck.len(), "a link within the node takes no frames; its sessions re-attach");
        self.stuck.clear();
        let now = self.clock.now();
        self.core.handle_conns_lost(now, &|_: ConnId| true);
        let shards: Vec<ShardId> = self.core.shards().map(|s| s.id()).collect();
        for shard in shards {
            self.core.handle_renewed(now, shard);
        }
        self.stuck.extend(self.core.take_out());
    }
}

/// The frame, if the link is full.
fn send(link: &mut HeldLink<'_>, frame: Out) -> Option<Out> {
    match frame {
        Out::Edge(frame) => match link.to_edge(frame) {
            Err(refused) if refused.reason == RefusedReason::Full => Some(Out::Edge(*refused.frame)),
            _ => None,
        },
        Out::Shard(frame) => match link.to_shard(frame) {
            Err(refused) if refused.reason == RefusedReason::Full => Some(Out::Shard(*refused.frame)),
            _ => None,
        },
    }
}
