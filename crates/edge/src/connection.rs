//! The actor of one client stream: owns the socket and its TLS, and drives [`crate::core::Connection`].
//!
//! Everything happens at the end of a turn, in [`StreamActor::poll`]: what the core wants is gathered, encrypted and
//! written at once, and only then more is read. Buffers belong to the plane; an idle connection holds none.

mod moving;

pub(crate) use moving::Moving;

use crate::budget::{Bucket, Place};
use crate::config::{ListenerKind, Live};
use crate::core::{Connection, Output};
use crate::plane::{Plane, READ_BYTES_MAX, Scratch, Slot};
use crate::tls::Tls;
use actor::{Clock, SmallActor};
use bytes::Bytes;
use frame::{CredentialsAnswer, EdgeMsg, FromEdge, ShardMsg, ToEdge, ToShard, ToShardBody};
use moving::Home;
use rpc::{Refused, RefusedReason};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use stream::TlsInfo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use types::{BareJid, Epoch, Instant, Now, ShardId};

/// Messages that wait for one stream: as many as its hub can have at hand in one turn. A stream handles all of them as soon as
/// it has a turn of its own; a smaller number would end the stream of a client that does read, for a burst in a busy moment.
/// What a client does not read is bounded in bytes ([`crate::config::Limits`]).
pub(crate) const MAILBOX_MAX: u32 = (crate::hub::HUB_BATCHES_MAX * rpc::BATCH_FRAMES_MAX) as u32;
/// Reads of one connection in a turn; then others have theirs.
const READS_PER_TURN: usize = 4;
/// With more than this waiting to be read by the client, nothing more is read from it.
const BACKLOG_STOPS_READING: usize = 256 * 1024;
/// A frame that the link refused is tried again after this.
const FRAME_RETRY: Duration = Duration::from_millis(10);
/// After the farewell: time for the client to read it and to close.
const LINGER_MAX: Duration = Duration::from_secs(3);

/// What a stream's actor takes.
pub(crate) enum Message {
    /// From a shard.
    Frame(ToEdge),
    /// A time that it asked for has come.
    Wake,
    /// A password was compared.
    Verified(bool),
    /// Keys were derived from a password.
    Derived(Result<Bytes, sasl::SaslError>),
    /// The shard that it speaks to has another owner or epoch.
    Placement { shard: ShardId, epoch: Epoch },
    /// The node is going down.
    Drain,
}

/// What the socket carries.
enum Channel {
    Plain,
    /// A box, so that a connection without costs nothing more.
    Tls(Box<Tls>),
}

/// How far the end of the socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// It goes on.
    No,
    /// Send what is waiting, then say that nothing follows.
    Flushing,
    /// Said; wait for the client to close, so that a reset does not overtake what it has not read yet.
    Lingering,
    /// It is closed; the core may still have something to say to its shard.
    Dead,
}

/// A frame that the link has no room for.
struct Held {
    account: BareJid,
    /// Taken out only to be tried again.
    body: EdgeMsg,
}

/// Bytes that wait for the socket.
struct Backlog {
    /// The socket has the first `sent` of them.
    bytes: Vec<u8>,
    sent: usize,
    /// When the socket last took some.
    since: Instant,
}

impl Backlog {
    fn waiting(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    fn sent(&mut self, count: usize, now: Instant) {
        self.sent += count;
        self.since = now;
        // Moved at most once per as many bytes as are moved.
        if self.sent > self.bytes.len() / 2 {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
    }
}

struct StreamActor {
    plane: Rc<Plane>,
    slot: Rc<Slot>,
    live: Arc<Live>,
    /// `None` once it is dead.
    socket: Option<TcpStream>,
    place: Place,
    channel: Channel,
    /// `None` during the handshake of direct TLS.
    core: Option<Box<Connection>>,
    /// Bytes that the socket has not taken, if there are any.
    backlog: Option<Box<Backlog>>,
    /// Nothing else of the core is done, and nothing read, until it is taken.
    held: Option<Box<Held>>,
    bytes: Bucket,
    stanzas: Bucket,
    /// Of the core's failed logins, those that its address was charged for.
    failures_charged: u8,
    /// Nothing is read before.
    read_after: Instant,
    /// End of a handshake, of flushing or of lingering.
    deadline: Instant,
    ending: Ending,
    home: Home,
    /// It ended as it should, not by a panic.
    finished: bool,
}

/// For the test of sizes: with a task around it (tokio's is 96 bytes, in steps of 128) it should take 256.
#[cfg(test)]
pub(crate) const ACTOR_BYTES: usize = size_of::<StreamActor>();

/// Begin with an accepted socket.
pub(crate) fn start(plane: Rc<Plane>, live: Arc<Live>, socket: TcpStream, place: Place, kind: ListenerKind) {
    let now = Clock.now();
    let mut actor = StreamActor::new(plane, live, socket, place);
    match kind {
        ListenerKind::StartTls => actor.begin_stream(now, None),
        ListenerKind::DirectTls => actor.begin_tls(now, true),
    }
    actor.run();
}

impl SmallActor for StreamActor {
    type Message = Message;

    fn handle(&mut self, message: Message) {
        let now = self.plane.now_in_turn();
        let Some(core) = &mut self.core else {
            if matches!(message, Message::Drain) {
                self.die(now);
            }
            return;
        };
        match message {
            Message::Frame(frame) => {
                if matches!(frame.body, ShardMsg::Deliver { .. }) {
                    core.lend(&mut self.plane.scratch.borrow_mut().spare);
                }
                core.handle_frame(now, frame);
            }
            Message::Wake => {}
            Message::Verified(ok) => core.handle_plain_verified(now, ok),
            Message::Derived(result) => core.handle_derived(now, result),
            Message::Placement { shard, epoch } => {
                // A frame for the old owner goes nowhere; the core says it again to the new one.
                if self.held.take().is_some() {
                    core.handle_unreachable(now);
                }
                core.handle_placement(now, shard, epoch);
            }
            Message::Drain => core.handle_drain(now),
        }
    }

    fn poll(&mut self, task: &mut std::task::Context<'_>) -> Poll<()> {
        let plane = Rc::clone(&self.plane);
        let mut scratch = plane.scratch.borrow_mut();
        let now = plane.end_turn();
        self.turn(now, task, &mut scratch);
        plane.counters.turn_ended();
        scratch.clear();
        drop(scratch);
        if let Home::Plane(home) = self.home
            && self.move_to(home)
        {
            self.finished = true;
            return Poll::Ready(());
        }
        if self.ending == Ending::Dead && self.held.is_none() && self.core.as_ref().is_none_or(|core| core.is_done()) {
            self.finished = true;
            return Poll::Ready(());
        }
        plane.arm(&self.slot, self.next_wake(now));
        Poll::Pending
    }
}

impl Drop for StreamActor {
    fn drop(&mut self) {
        // A turn that a panic has ended is over for the others, too.
        self.plane.end_turn();
        // A panic ends one stream. Its session must not stay attached to nobody: what the core has to say to its shard is
        // said, if it still can.
        if !self.finished
            && let Some(core) = self.core.take()
        {
            let farewell = std::panic::AssertUnwindSafe(|| self.farewell(core));
            if std::panic::catch_unwind(farewell).is_err() {
                tracing::error!(conn = ?self.slot.id, "a stream that panicked could not detach its session");
            }
        }
        self.plane.close_slot(&self.slot);
    }
}

impl StreamActor {
    /// One that has a place in the plane's table and does not run yet.
    fn new(plane: Rc<Plane>, live: Arc<Live>, socket: TcpStream, place: Place) -> StreamActor {
        let slot = plane.open_slot();
        StreamActor {
            plane,
            slot,
            live,
            socket: Some(socket),
            place,
            channel: Channel::Plain,
            core: None,
            backlog: None,
            held: None,
            bytes: Bucket::default(),
            stanzas: Bucket::default(),
            failures_charged: 0,
            read_after: Instant(0),
            deadline: Instant::NEVER,
            ending: Ending::No,
            home: Home::Unknown,
            finished: false,
        }
    }

    /// Let it run on this thread.
    fn run(self) -> Rc<Slot> {
        let slot = Rc::clone(&self.slot);
        // Nothing has set it before: the slot is new.
        let _ = slot.address.set(actor::start_small(MAILBOX_MAX, self));
        slot
    }

    /// One turn: what the core wants, then reading, while there is something to read and others need not wait too long.
    fn turn(&mut self, now: Now, task: &mut std::task::Context<'_>, scratch: &mut Scratch) {
        self.check_bounds(now);
        if let Some(core) = &mut self.core
            && core.next_timeout() <= now.mono
        {
            core.handle_timeout(now);
        }
        for _ in 0..READS_PER_TURN {
            self.drive_core(now, scratch);
            self.send(now, task, scratch);
            if !self.read(now, task, scratch) {
                return;
            }
        }
        self.drive_core(now, scratch);
        self.send(now, task, scratch);
        task.waker().wake_by_ref();
    }

    fn check_bounds(&mut self, now: Now) {
        let counters = &self.plane.counters;
        if self.ending == Ending::Dead {
            return;
        }
        if self.slot.overrun.replace(false) {
            counters.closed_overrun.increment(1);
            tracing::info!(conn = ?self.slot.id, "closed a stream that took no messages");
        } else if self.backlog.as_ref().is_some_and(|backlog| backlog.since + self.live.limits.write_stall_max <= now.mono) {
            counters.closed_stalled.increment(1);
        } else if self.deadline <= now.mono {
            if self.is_handshaking() {
                counters.handshakes_failed.increment(1);
            }
        } else {
            return;
        }
        self.die(now);
    }

    fn is_handshaking(&self) -> bool {
        matches!(&self.channel, Channel::Tls(tls) if tls.is_handshaking())
    }

    fn begin_stream(&mut self, now: Now, direct_tls: Option<TlsInfo>) {
        let mut random = [0; 32];
        if aws_lc_rs::rand::fill(&mut random).is_err() {
            // Nothing safe can be done without random numbers.
            return self.die(now);
        }
        let settings = Arc::clone(&self.live.settings);
        self.core = Some(Box::new(Connection::new(settings, self.slot.id, random, now, direct_tls)));
    }

    fn begin_tls(&mut self, now: Now, direct: bool) {
        match Tls::new(self.plane.configs.get(direct)) {
            Ok(tls) => {
                self.channel = Channel::Tls(Box::new(tls));
                self.deadline = now.mono + self.live.limits.tls_handshake_max;
            }
            Err(error) => {
                tracing::error!(%error, "cannot begin TLS with the configuration in force");
                self.die(now);
            }
        }
    }

    /// Do what the core wants done. What is to be written is left in `scratch.output`, encrypted.
    fn drive_core(&mut self, now: Now, scratch: &mut Scratch) {
        self.charge_failures(now);
        if let Some(held) = self.held.take() {
            self.submit(now, held.account, held.body);
        }
        while self.held.is_none() {
            let Some(output) = self.core.as_mut().and_then(|core| core.poll_output()) else {
                break;
            };
            match output {
                Output::Write(bytes) => scratch.take_written(bytes),
                Output::Frame { account, body } => self.submit(now, account, body),
                Output::StartTls => {
                    self.encrypt(now, scratch);
                    if self.ending == Ending::No {
                        self.begin_tls(now, false);
                    }
                }
                Output::VerifyPlain { credentials, password } => {
                    let job = move || Message::Verified(credentials.verify_plain(password.as_str()));
                    if !self.on_pool(job)
                        && let Some(core) = &mut self.core
                    {
                        core.handle_plain_unavailable(now);
                    }
                }
                Output::Derive { password, random, iterations } => {
                    let job = move || {
                        let derived = sasl::Credentials::derive(password.as_str(), &random, iterations);
                        Message::Derived(derived.map(|credentials| Bytes::from(credentials.encode())))
                    };
                    if !self.on_pool(job)
                        && let Some(core) = &mut self.core
                    {
                        core.handle_derived(now, Err(sasl::SaslError::Corrupt));
                    }
                }
                Output::Close => self.say_goodbye(now, scratch),
            }
        }
        self.encrypt(now, scratch);
    }

    /// Have a password thread do `job`. `false`: too many wait.
    fn on_pool(&self, job: impl FnOnce() -> Message + Send + 'static) -> bool {
        let Some(address) = self.slot.address.get().cloned() else {
            return false;
        };
        let taken = self.plane.shared.pool.run(address, job);
        if !taken {
            self.plane.counters.password_jobs_refused.increment(1);
        }
        taken
    }

    /// Hand a frame to the link, or hold it, or tell the core that nobody takes it.
    fn submit(&mut self, now: Now, account: BareJid, body: EdgeMsg) {
        let mut placement = self.plane.placement.borrow_mut();
        let map = placement.current();
        // A session is its account's for good, and the account its shard's.
        let known = self.slot.shard.get().filter(|_| body.session().is_some());
        debug_assert!(known.is_none_or(|shard| shard == map.locate(account.as_str()).0));
        let (shard, owner) = known.map_or_else(|| map.locate(account.as_str()), |shard| (shard, map.owner(shard)));
        drop(placement);
        self.slot.shard.set(Some(shard));
        let stanza = matches!(body, EdgeMsg::Submit { attempt: 1, .. });
        let login = if let EdgeMsg::LoginEnded { ok } = body { Some(ok) } else { None };
        let epoch = owner.map_or(Epoch::default(), |owner| owner.epoch);
        if let EdgeMsg::Credentials { req } = body
            && self.must_not_login(now)
        {
            self.plane.counters.logins_put_off.increment(1);
            let body = ShardMsg::Credentials { req, answer: CredentialsAnswer::Busy };
            if let Some(core) = &mut self.core {
                core.handle_frame(now, ToEdge { conn: self.slot.id, shard, epoch, body });
            }
            return;
        }
        if matches!(body, EdgeMsg::Credentials { .. })
            && let Some(owner) = owner
            && self.goes_to(owner)
        {
            // It asks when it is there, or from here if it cannot move.
            self.held = Some(Box::new(Held { account, body }));
            return;
        }
        let body = ToShardBody::Edge(FromEdge { conn: self.slot.id, account, body });
        let sent = match owner {
            Some(_) => self.plane.link.to_shard(ToShard { shard, epoch, body }).map_err(|Refused { reason, frame }| (reason, *frame)),
            None => Err((RefusedReason::NoOwner, ToShard { shard, epoch, body })),
        };
        match sent {
            Ok(()) => self.count_sent(now, stanza, login),
            Err((reason, frame)) => {
                self.plane.counters.frames_refused.increment(1);
                match (reason, frame.body) {
                    (RefusedReason::Full, ToShardBody::Edge(FromEdge { account, body, .. })) => {
                        self.held = Some(Box::new(Held { account, body }));
                    }
                    _ => {
                        if let Some(core) = &mut self.core {
                            core.handle_unreachable(now);
                        }
                    }
                }
            }
        }
    }

    fn count_sent(&mut self, now: Now, stanza: bool, login: Option<bool>) {
        match login {
            Some(true) => self.plane.counters.logins.increment(1),
            Some(false) => self.plane.counters.logins_failed.increment(1),
            None => {}
        }
        if stanza {
            self.plane.counters.stanzas_received.add(1);
            let limits = &self.live.limits;
            let mut ready = now.mono;
            if let Some(rate) = limits.stanzas_per_connection {
                self.stanzas.charge(rate, now.mono, 1);
                ready = self.stanzas.ready_at(rate, now.mono);
            }
            if let Some(rate) = limits.stanzas_per_address {
                ready = ready.max(self.place.charge_stanza(rate, now.mono));
            }
            self.slow(now, ready);
        }
    }

    /// Whether too many logins from this address failed of late.
    fn must_not_login(&self, now: Now) -> bool {
        let rate = self.live.limits.login_failures_per_address;
        rate.is_some_and(|rate| self.plane.shared.failing.is_over(rate, now.mono, self.place.key()))
    }

    /// Logins failed since the last look: charge them to the address, of accounts that do not exist as well.
    fn charge_failures(&mut self, now: Now) {
        let failures = self.core.as_ref().map_or(0, |core| core.failed_logins());
        if let Some(rate) = self.live.limits.login_failures_per_address {
            for _ in self.failures_charged..failures {
                self.plane.shared.failing.charge(rate, now.mono, self.place.key());
            }
        }
        self.failures_charged = failures;
    }

    /// Put what the core wrote behind `scratch.output`, as it goes over the wire.
    fn encrypt(&mut self, now: Now, scratch: &mut Scratch) {
        if scratch.plain_out.is_empty() {
            return;
        }
        if matches!(self.ending, Ending::No) {
            match &mut self.channel {
                Channel::Plain if scratch.output.is_empty() => std::mem::swap(&mut scratch.output, &mut scratch.plain_out),
                Channel::Plain => scratch.output.extend_from_slice(&scratch.plain_out),
                Channel::Tls(tls) => {
                    if let Err(error) = tls.write(&scratch.plain_out, &mut scratch.output) {
                        tracing::debug!(conn = ?self.slot.id, %error, "cannot write");
                        self.die(now);
                    }
                }
            }
        }
        scratch.plain_out.clear();
    }

    /// The core has said all that it will: flush, then close.
    fn say_goodbye(&mut self, now: Now, scratch: &mut Scratch) {
        self.encrypt(now, scratch);
        if self.ending != Ending::No {
            return;
        }
        if let Channel::Tls(tls) = &mut self.channel
            && let Err(error) = tls.close(&mut scratch.output)
        {
            tracing::debug!(conn = ?self.slot.id, %error, "cannot close cleanly");
        }
        self.ending = Ending::Flushing;
        self.deadline = now.mono + self.live.limits.write_stall_max;
    }

    /// Write what there is, as much as the socket takes; the rest is the backlog.
    fn send(&mut self, now: Now, task: &mut std::task::Context<'_>, scratch: &mut Scratch) {
        let Some(socket) = &mut self.socket else {
            return;
        };
        if let Some(backlog) = &mut self.backlog {
            backlog.bytes.append(&mut scratch.output);
        }
        let bytes = self.backlog.as_ref().map_or(&*scratch.output, |backlog| backlog.waiting());
        let mut written = 0;
        let mut failed = false;
        while written < bytes.len() {
            match Pin::new(&mut *socket).poll_write(task, &bytes[written..]) {
                Poll::Ready(Ok(n)) if n > 0 => written += n,
                Poll::Ready(_) => {
                    failed = true;
                    break;
                }
                Poll::Pending => break,
            }
        }
        self.plane.counters.bytes_sent.add(written as u64);
        let rest = bytes.len() - written;
        if failed {
            return self.die(now);
        }
        if rest == 0 {
            scratch.output.clear();
            self.backlog = None;
            if self.ending == Ending::Flushing {
                // shutdown(2) does not wait; an error means that the client is gone, which the next read shows.
                let _ = Pin::new(socket).poll_shutdown(task);
                self.ending = Ending::Lingering;
                self.deadline = now.mono + LINGER_MAX;
            }
            return;
        }
        match &mut self.backlog {
            None => {
                self.backlog = Some(Box::new(Backlog { bytes: scratch.output[written..].to_vec(), sent: 0, since: now.mono }));
                scratch.output.clear();
            }
            Some(backlog) if written > 0 => backlog.sent(written, now.mono),
            Some(_) => {}
        }
        if rest > self.live.limits.write_backlog_bytes_max {
            self.plane.counters.closed_backlog.increment(1);
            tracing::info!(conn = ?self.slot.id, bytes = rest, "closed a stream whose client reads too slowly");
            self.die(now);
        }
    }

    /// Read once. `true`: something came of it, so the core may want something.
    fn read(&mut self, now: Now, task: &mut std::task::Context<'_>, scratch: &mut Scratch) -> bool {
        let wanted = match self.ending {
            Ending::No => {
                self.held.is_none()
                    && self.read_after <= now.mono
                    && self.backlog.as_ref().is_none_or(|backlog| backlog.waiting().len() <= BACKLOG_STOPS_READING)
                    && self.core.as_ref().is_none_or(|core| core.wants_read())
            }
            Ending::Lingering => true,
            Ending::Flushing | Ending::Dead => false,
        };
        let Some(socket) = self.socket.as_mut().filter(|_| wanted) else {
            return false;
        };
        let partial = if let Channel::Tls(tls) = &self.channel { tls.partial() } else { &[] };
        let head = partial.len();
        scratch.input[..head].copy_from_slice(partial);
        let mut buffer = ReadBuf::new(&mut scratch.input[head..head + READ_BYTES_MAX]);
        match Pin::new(socket).poll_read(task, &mut buffer) {
            Poll::Pending => return false,
            Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
            Poll::Ready(_) => {
                self.die(now);
                return true;
            }
        }
        let count = buffer.filled().len();
        if self.ending == Ending::Lingering {
            return true;
        }
        self.plane.counters.bytes_received.add(count as u64);
        self.charge(now, count);
        if matches!(self.channel, Channel::Tls(_)) {
            self.decrypt(now, head + count, scratch);
        } else if let Some(core) = &mut self.core {
            core.handle_bytes(now, &scratch.input[..count]);
        }
        true
    }

    /// Process the first `count` bytes of `scratch.input`.
    fn decrypt(&mut self, now: Now, count: usize, scratch: &mut Scratch) {
        let Channel::Tls(tls) = &mut self.channel else {
            return;
        };
        let handshaking = tls.is_handshaking();
        scratch.plain_in.clear();
        let progress = match tls.read(&mut scratch.input[..count], &mut scratch.plain_in, &mut scratch.output) {
            Ok(progress) => progress,
            Err(error) => {
                if handshaking {
                    self.plane.counters.handshakes_failed.increment(1);
                }
                tracing::debug!(conn = ?self.slot.id, %error, "TLS ended");
                // The alert is in the output. Nothing may be asked of rustls behind an error.
                self.channel = Channel::Plain;
                return self.lose(now, Ending::Flushing);
            }
        };
        if let Some(info) = progress.established {
            self.plane.counters.handshakes.increment(1);
            self.deadline = Instant::NEVER;
            match &mut self.core {
                Some(core) => core.handle_tls(now, info),
                None => self.begin_stream(now, Some(info)),
            }
            if let (Some(core), Some(hash)) = (&mut self.core, progress.server_end_point) {
                core.set_server_end_point(hash);
            }
        }
        if let Some(core) = &mut self.core
            && !scratch.plain_in.is_empty()
        {
            core.handle_bytes(now, &scratch.plain_in);
        }
        if progress.closed && self.ending == Ending::No {
            self.drive_core(now, scratch);
            if self.ending == Ending::No {
                self.say_goodbye(now, scratch);
                self.lose(now, Ending::Flushing);
            }
        }
    }

    fn charge(&mut self, now: Now, count: usize) {
        let limits = &self.live.limits;
        let mut ready = now.mono;
        if let Some(rate) = limits.bytes_per_connection {
            self.bytes.charge(rate, now.mono, count);
            ready = self.bytes.ready_at(rate, now.mono);
        }
        if let Some(rate) = limits.bytes_per_address {
            ready = ready.max(self.place.charge_bytes(rate, now.mono, count));
        }
        self.slow(now, ready);
    }

    fn slow(&mut self, now: Now, ready: Instant) {
        if ready > now.mono && ready > self.read_after {
            if self.read_after <= now.mono {
                self.plane.counters.reads_slowed.increment(1);
            }
            self.read_after = ready;
        }
    }

    /// The socket is of no more use.
    fn die(&mut self, now: Now) {
        self.socket = None;
        self.channel = Channel::Plain;
        self.backlog = None;
        self.lose(now, Ending::Dead);
    }

    /// The client is gone, or is to go, without a farewell of its stream.
    fn lose(&mut self, now: Now, ending: Ending) {
        let deadline = if ending == Ending::Dead { Instant::NEVER } else { now.mono + self.live.limits.write_stall_max };
        self.deadline = deadline;
        self.ending = ending;
        if let Some(core) = &mut self.core {
            core.handle_closed(now);
        }
    }

    /// After a panic: let the core say what its shard must know.
    fn farewell(&mut self, mut core: Box<Connection>) {
        let now = Clock.now();
        core.handle_closed(now);
        // What a session has to say at its end is a few frames; more is a loop.
        for _ in 0..2 * types::limit::INPUTS_HELD_MAX {
            match core.poll_output() {
                Some(Output::Frame { account, body }) => {
                    let (shard, owner) = self.plane.shared.placement.current().locate(account.as_str());
                    let epoch = owner.map_or(Epoch::default(), |owner| owner.epoch);
                    let body = ToShardBody::Edge(FromEdge { conn: self.slot.id, account, body });
                    if self.plane.link.to_shard(ToShard { shard, epoch, body }).is_err() {
                        return;
                    }
                }
                Some(_) => {}
                None => return,
            }
        }
    }

    /// When it must have a turn even if nothing happens.
    fn next_wake(&self, now: Now) -> Instant {
        let mut next = self.deadline;
        if self.held.is_some() {
            next = next.min(now.mono + FRAME_RETRY);
        } else if let Some(core) = &self.core {
            next = next.min(core.next_timeout());
        }
        if self.read_after > now.mono {
            next = next.min(self.read_after);
        }
        if let Some(backlog) = &self.backlog {
            next = next.min(backlog.since + self.live.limits.write_stall_max);
        }
        next
    }
}
