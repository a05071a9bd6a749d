//! One client's connection, without I/O: a [`stream::C2s`] and the edge's half of its session.
//!
//! The edge is the second holder of an attached session (`ARCHITECTURE.md`, idea 5): it keeps each input until the account
//! has accepted it, each output until the client has acknowledged it, and hands both over when the account's shard has a
//! new owner. [`Connection`] does that; the shell around it owns the socket, TLS, timers and links.
//!
//! ```text
//! bytes  → handle_bytes ─┐                   ┌→ Output::Write, StartTls, Close     to the socket
//! frames → handle_frame ─┤→ Connection ──────┤→ Output::Frame                      to the account's shard
//! time   → handle_timeout┘   poll_output     └→ Output::VerifyPlain, Derive        to a thread that may take its time
//! ```
//!
//! Frames are not queued: what is to be said follows from the state and is said when [`Connection::poll_output`] comes to
//! it, so a frame that the link refuses ([`Connection::handle_unreachable`]) is simply due again later.
//!
//! Start with [`Connection`]; `negotiate` (login, bind, resume), `stanzas` (what a bound client sends), `answers` (what
//! the shard says), `session` (what is held), `due` (what is said when).

mod answers;
mod due;
mod negotiate;
mod register;
mod session;
mod stanzas;
#[cfg(test)]
mod tests;
mod xeps;

pub use stream::{Features, Level, Settings, StreamError, TlsInfo};
pub use xeps::{RFCS, XEPS};

use bytes::Bytes;
use frame::EdgeMsg;
use register::Registration;
use sasl::{Credentials, Password, SaslError};
use session::{Leave, Session};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use stream::{C2s, Keys, Random};
use types::{BareJid, ConnId, Epoch, Instant, Now, ReqId, Seldom, SessionId, ShardId};

/// An answer for a login that takes longer is a `temporary-auth-failure`.
pub const CREDENTIALS_WITHIN: Duration = Duration::from_secs(10);
/// A session whose inputs have met silence for so long asks what was accepted: an outcome may have been lost.
pub const ASK_AFTER: Duration = Duration::from_secs(5);
/// A session that has lost its stream waits so long for what it has sent to be accepted, and for a shard to listen.
pub const LEAVE_WITHIN: Duration = Duration::from_secs(60);
/// An `<a/>` that says nothing new, or that would leave alone, leaves no more often: a packet costs as much as some stanzas.
pub const ACK_EVERY: Duration = Duration::from_millis(10);
/// An `<r/>` behind stanzas that are being accepted is answered when they are; earlier only if for so long none was.
pub const ACK_WITHIN: Duration = Duration::from_millis(100);
/// In a flow of outputs the client is asked for an `<a/>` no more often, on average.
pub const REQUEST_EVERY: Duration = Duration::from_millis(20);
/// So many in a row are not in the way of [`REQUEST_EVERY`]: a conversation is no flow.
pub const REQUESTS_AT_ONCE: u32 = 8;
/// Behind so many outputs it is asked at the latest.
pub const REQUEST_AFTER_STANZAS: u64 = 16;
/// Retries wait at most `retry_after` times two to this power.
const BACKOFF_MAX: u8 = 4;

/// What the shell is to do. Take them with [`Connection::poll_output`] until there is none, in this order.
#[derive(Debug)]
pub enum Output {
    /// Send these bytes.
    Write(Vec<u8>),
    /// Begin the TLS handshake as server, behind what was written; then [`Connection::handle_tls`].
    StartTls,
    /// To the owner of the account's shard. If the link does not take it, call [`Connection::handle_unreachable`] before
    /// anything else.
    Frame {
        /// Where it goes.
        account: BareJid,
        /// What.
        body: EdgeMsg,
    },
    /// Run `credentials.verify_plain(password.as_str())`; then [`Connection::handle_plain_verified`]. If that cannot be done
    /// now: [`Connection::handle_plain_unavailable`].
    VerifyPlain {
        /// Of the account, or a decoy.
        credentials: Credentials,
        /// As the client sent it.
        password: Password,
    },
    /// Run `Credentials::derive(password.as_str(), &random, iterations)` and encode; then [`Connection::handle_derived`].
    Derive {
        /// As the client sent it.
        password: Password,
        /// Becomes the salts.
        random: [u8; 32],
        /// Of SCRAM.
        iterations: u32,
    },
    /// Flush, send TLS close_notify, close the socket. The connection may go on without it: see [`Connection::is_done`].
    Close,
}

/// What is asked of a shard, or of the shell: the stream stands still until it is answered.
struct Asked {
    /// Names the answer; `None`: it is to be asked (again).
    req: Option<ReqId>,
    account: BareJid,
    what: Ask,
    since: Instant,
}

enum Ask {
    Credentials,
    Bind { id: String, resource: Option<String>, random: [u8; 16] },
    Resume { previd: String, h: u32 },
    Enable { resume_secs: Option<u32>, random: [u8; 16] },
    Register(Registration),
}

/// Which frame was polled last: the one that [`Connection::handle_unreachable`] speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Polled {
    Nothing,
    Asked,
    Reattach,
    Submit,
    Acked,
    Active,
    Leave,
}

/// How far the end of the stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It is open.
    Open,
    /// The client has sent its end tag; ours follows when what it sent is accepted, or then.
    Closing(Instant),
    /// Our end tag is written, or the socket is gone.
    Closed,
}

/// See the module.
pub struct Connection {
    settings: Arc<Settings>,
    id: ConnId,
    c2s: C2s,
    now: Instant,
    /// What the shell is to do, beside frames that follow from the state.
    queue: Seldom<VecDeque<Output>>,
    /// Each is a question to the shard or one of a re-attach: 32 bits last longer than any socket.
    requests: u32,
    asked: Option<Box<Asked>>,
    session: Option<Box<Session>>,
    end: End,
    /// Older owners than this are not listened to ◊.
    floor: Epoch,
    polled: Polled,
    /// No frame is said before this instant, and how often that has been so in a row.
    held_until: Instant,
    tries: u8,
    /// For negotiation, and for leaving.
    deadline: Instant,
    /// When the client last said anything.
    heard: Instant,
    /// Since when a sign of life is awaited; [`Instant::NEVER`]: none is.
    probed: Instant,
}

impl Connection {
    /// A connection that was just accepted.
    ///
    /// `random` is the seed of all that this connection draws, from a secure source. `direct_tls`: the connection began with
    /// a handshake (XEP-0368), which is done.
    pub fn new(settings: Arc<Settings>, id: ConnId, random: [u8; 32], now: Now, direct_tls: Option<TlsInfo>) -> Connection {
        let deadline = now.mono + settings.unauthenticated_timeout;
        Connection {
            c2s: C2s::new(settings.clone(), Random::new(random), direct_tls),
            settings,
            id,
            now: now.mono,
            queue: Seldom::default(),
            requests: 0,
            asked: None,
            session: None,
            end: End::Open,
            floor: Epoch::default(),
            polled: Polled::Nothing,
            held_until: Instant::default(),
            tries: 0,
            deadline,
            heard: now.mono,
            probed: Instant::NEVER,
        }
    }

    /// The hash of the certificate that the client was shown, for `tls-server-end-point` (RFC 5929 §4.1, XEP-0440 §4).
    /// To be called right behind [`Connection::new`] with TLS or [`Connection::handle_tls`], if at all.
    pub fn set_server_end_point(&mut self, hash: Vec<u8>) {
        self.c2s.set_server_end_point(hash);
    }

    /// Bytes have come from the client.
    pub fn handle_bytes(&mut self, now: Now, bytes: &[u8]) {
        self.now = now.mono;
        if self.end == End::Closed {
            return;
        }
        self.heard = now.mono;
        self.probed = Instant::NEVER;
        self.c2s.feed(bytes);
        self.pump();
    }

    /// The handshake that [`Output::StartTls`] asked for is done.
    pub fn handle_tls(&mut self, now: Now, info: TlsInfo) {
        self.now = now.mono;
        self.c2s.handle_tls(info);
    }

    /// The answer to [`Output::VerifyPlain`].
    pub fn handle_plain_verified(&mut self, now: Now, ok: bool) {
        self.now = now.mono;
        self.c2s.handle_plain_verified(ok);
        self.pump();
    }

    /// The other answer to [`Output::VerifyPlain`]: too many wait. The client gets `temporary-auth-failure`.
    pub fn handle_plain_unavailable(&mut self, now: Now) {
        self.now = now.mono;
        self.c2s.handle_plain_unavailable();
        self.pump();
    }

    /// The answer to [`Output::Derive`]: encoded credentials.
    pub fn handle_derived(&mut self, now: Now, credentials: Result<Bytes, SaslError>) {
        self.now = now.mono;
        self.derived(credentials);
        self.pump();
    }

    /// The shard of [`Connection::concerns`] has a new owner, or the link to it was renewed. Whatever was asked is asked again; from here on
    /// an older owner is not listened to ◊.
    pub fn handle_placement(&mut self, now: Now, _shard: ShardId, epoch: Epoch) {
        self.now = now.mono;
        if epoch < self.floor {
            return;
        }
        self.floor = epoch;
        self.held_until = now.mono;
        if let Some(asked) = &mut self.asked {
            asked.req = None;
        }
        if let Some(session) = &mut self.session
            && !session.left
        {
            session.reattach();
        }
    }

    /// The frame polled last could not be handed to the link. It is due again after a while, and until then no other is said.
    pub fn handle_unreachable(&mut self, now: Now) {
        self.now = now.mono;
        self.hold();
        match (std::mem::replace(&mut self.polled, Polled::Nothing), &mut self.session, &mut self.asked) {
            (Polled::Asked, _, Some(asked)) => asked.req = None,
            (Polled::Reattach, Some(session), _) => session.reattach(),
            (Polled::Submit, Some(session), _) => session.unsubmit(session.sent),
            (Polled::Acked, Some(session), _) => session.acked_told = 0,
            (Polled::Active, Some(session), _) => session.inactive_told = !session.inactive,
            (Polled::Leave, Some(session), _) => session.left = false,
            _ => {}
        }
    }

    /// Frames wait for a while, longer each time in a row.
    fn hold(&mut self) {
        self.held_until = self.now + self.settings.retry_after * (1u32 << self.tries);
        self.tries = (self.tries + 1).min(BACKOFF_MAX);
    }

    /// Time has passed: to be called at [`Connection::next_timeout`]; harmless earlier.
    pub fn handle_timeout(&mut self, now: Now) {
        self.now = now.mono;
        self.time_out();
        self.pump();
    }

    /// The server shuts down: the client is told, and may resume elsewhere or later.
    pub fn handle_drain(&mut self, now: Now) {
        self.now = now.mono;
        self.fail(StreamError::SystemShutdown);
    }

    /// The socket is gone.
    pub fn handle_closed(&mut self, now: Now) {
        self.now = now.mono;
        self.lose();
        self.c2s.out().clear();
    }

    /// Whether the socket is to be read: not while 64 inputs or 256 KiB wait to be accepted, nor while the stream waits for
    /// an answer.
    pub fn wants_read(&self) -> bool {
        self.end == End::Open && !self.is_paused() && !self.c2s.wants_credentials()
    }

    /// Who the client is, once it has proved it.
    pub fn account(&self) -> Option<&BareJid> {
        self.c2s.account()
    }

    /// Whose shard this connection deals with: the account that it has, or that it asks about.
    pub fn concerns(&self) -> Option<&BareJid> {
        self.c2s.account().or(self.asked.as_ref().map(|a| &a.account))
    }

    /// How often the client gave a wrong proof of who it is, whether the account exists or not.
    pub fn failed_logins(&self) -> u8 {
        self.c2s.failed_logins()
    }

    /// The session, once it is bound or resumed, until it has ended or was handed back.
    pub fn session(&self) -> Option<SessionId> {
        self.session.as_ref().filter(|s| !s.left).map(|s| s.id)
    }

    /// How far it is, in a word or two, for whoever counts what has been tried: one of [`Connection::STATES`].
    pub fn state_name(&self) -> &'static str {
        match (&self.asked, &self.session, self.end) {
            (Some(asked), ..) => match asked.what {
                Ask::Credentials => "asks for keys",
                Ask::Bind { .. } => "binds",
                Ask::Resume { .. } => "resumes",
                Ask::Enable { .. } => "enables",
                Ask::Register(_) => "registers",
            },
            (None, Some(s), _) if s.left => "has left",
            (None, Some(_), End::Closed) => "leaves",
            (None, Some(_), End::Closing(_)) => "closes",
            (None, Some(s), End::Open) => match s.link {
                session::Link::Attached => "attached",
                session::Link::Lost => "lost its owner",
                session::Link::Reattaching(_) => "re-attaches",
            },
            (None, None, End::Open) => "negotiates",
            (None, None, _) => "ends",
        }
    }

    /// All that [`Connection::state_name`] says.
    pub const STATES: [&'static str; 13] = [
        "negotiates",
        "asks for keys",
        "registers",
        "binds",
        "resumes",
        "enables",
        "attached",
        "lost its owner",
        "re-attaches",
        "closes",
        "leaves",
        "has left",
        "ends",
    ];

    /// This connection's name.
    pub fn id(&self) -> ConnId {
        self.id
    }

    /// It is somewhere else now. No shard may have heard its name, or hear it later.
    pub fn set_id(&mut self, id: ConnId) {
        self.id = id;
    }

    /// Nothing more will come of it: the stream is closed, and no session needs it.
    pub fn is_done(&self) -> bool {
        self.end == End::Closed && !self.awaits_session() && self.queue.is_empty() && self.session.as_ref().is_none_or(|s| s.left)
    }

    /// Whether no buffer is held: of a session that waits, only the session.
    pub fn is_idle(&self) -> bool {
        self.c2s.is_idle() && self.queue.is_unmade() && self.asked.is_none()
    }

    /// A session was asked for and may come after the stream is gone: somebody must end it, or nobody holds it.
    fn awaits_session(&self) -> bool {
        self.asked.as_ref().is_some_and(|a| a.req.is_some() && matches!(a.what, Ask::Bind { .. } | Ask::Resume { .. }))
    }

    fn push(&mut self, output: Output) {
        self.queue.make().push_back(output);
    }

    fn next_req(&mut self) -> ReqId {
        self.requests += 1;
        ReqId(self.requests.into())
    }

    fn ask(&mut self, account: BareJid, what: Ask) {
        self.asked = Some(Box::new(Asked { req: None, account, what, since: self.now }));
    }

    /// Takes what the stream has, as far as it may go on.
    fn pump(&mut self) {
        while !self.is_paused() {
            let Some(event) = self.c2s.poll(self.now) else { break };
            self.handle_event(event);
        }
    }

    /// In front of which the stream stands still: stanzas are taken in order (RFC 6120 §10.1), and only what can be held.
    fn is_paused(&self) -> bool {
        let answered_first = self.asked.as_ref().is_some_and(|a| !matches!(a.what, Ask::Credentials));
        answered_first || self.end != End::Open || self.session.as_ref().is_some_and(|s| s.is_full() || s.active_waits())
    }

    /// Ends the stream with an error. What becomes of the session depends on whose fault it is.
    fn fail(&mut self, error: StreamError) {
        if self.end == End::Closed {
            return;
        }
        if let Some(session) = &mut self.session {
            let resumable =
                matches!(error, StreamError::SystemShutdown | StreamError::ConnectionTimeout | StreamError::InternalServerError);
            session.leave(if resumable { Leave::Detach } else { Leave::Close });
        }
        self.close(Some(error));
    }

    /// Ends the stream without a farewell to the session: the client can resume it.
    fn lose(&mut self) {
        if let Some(session) = &mut self.session {
            session.leave(Leave::Detach);
        }
        if self.end != End::Closed {
            self.close(None);
            if let Some(queue) = self.queue.made() {
                queue.retain(|output| matches!(output, Output::Frame { .. }));
            }
        }
    }

    /// Writes the end of the stream.
    fn close(&mut self, error: Option<StreamError>) {
        if let Some(session) = &mut self.session {
            session.write_last_ack(self.c2s.out());
        }
        self.c2s.close(error);
        self.push(Output::Close);
        self.end = End::Closed;
        if !self.awaits_session() {
            self.asked = None;
        }
        self.deadline = self.now + LEAVE_WITHIN;
        self.held_until = self.held_until.min(self.now);
    }
}
