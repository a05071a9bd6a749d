//! The frames that edges and shards exchange.
//!
//! Plain data: what travels over a link, whether as actor messages within one process, as gRPC between nodes, or
//! through the simulator. Nothing here decides anything. Start with [`EdgeMsg`] (edge to shard), [`ShardMsg`] (back),
//! and [`PeerMsg`] (shard to shard). The words (attach, origin, epoch, ticket, tail) are those of `ARCHITECTURE.md`.

use bytes::Bytes;
use compact_str::CompactString;
use smallvec::SmallVec;
use stanza::{Stanza, StanzaError};
use std::sync::Arc;
use types::{Attach, BareJid, ConnId, Epoch, FullJid, Jid, Origin, ReqId, SessionId, ShardId, Ticket};

/// A parsed stanza, shared by everyone who holds it.
pub type SharedStanza = Arc<Stanza>;

/// A place in an account's log: the row and the epoch of the owner that wrote it. Ordered by row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Pos {
    /// Row number, from 1; 0 is "before the first".
    pub row: u64,
    /// Epoch of the owner that wrote it.
    pub epoch: Epoch,
}

/// What travels to the owner of a shard.
#[derive(Clone, Debug)]
pub struct ToShard {
    /// The shard addressed.
    pub shard: ShardId,
    /// The epoch that the sender believes its owner to have; another one is refused.
    pub epoch: Epoch,
    /// The message.
    pub body: ToShardBody,
}

/// See [`ToShard`].
#[derive(Clone, Debug)]
pub enum ToShardBody {
    /// From a connection.
    Edge(FromEdge),
    /// From another entity.
    Peer(Peer),
}

/// A message of one connection about one account.
#[derive(Clone, Debug)]
pub struct FromEdge {
    /// Where answers go.
    pub conn: ConnId,
    /// The account that it concerns.
    pub account: BareJid,
    /// What.
    pub body: EdgeMsg,
}

/// Edge to Account.
#[derive(Clone, Debug)]
pub enum EdgeMsg {
    /// The keys for one login attempt. Answer: [`ShardMsg::Credentials`].
    Credentials {
        /// Names the answer.
        req: ReqId,
    },
    /// How a login attempt ended; failures are counted in the Account. No answer.
    LoginEnded {
        /// Whether the client proved its identity.
        ok: bool,
    },
    /// Create the account (XEP-0077, or the administrator). Answer: [`ShardMsg::AccountDone`].
    Create {
        /// Names the answer.
        req: ReqId,
        /// `sasl::Credentials`, encoded; opaque to the shard.
        credentials: Bytes,
    },
    /// Replace the keys. Answer: [`ShardMsg::AccountDone`].
    SetCredentials {
        /// Names the answer.
        req: ReqId,
        /// `sasl::Credentials`, encoded.
        credentials: Bytes,
    },
    /// Remove the account: sessions end with `not-authorized`, subscriptions are cancelled. Answer: [`ShardMsg::AccountDone`].
    Remove {
        /// Names the answer.
        req: ReqId,
    },
    /// Resource binding (RFC 6120 §7). Answer: [`ShardMsg::Bound`].
    Bind {
        /// Names the answer.
        req: ReqId,
        /// The resource that the client asked for, prepared.
        resource: Option<CompactString>,
        /// For a resource that the server makes.
        random: [u8; 16],
    },
    /// XEP-0198 `<enable/>`, behind the inputs sent before it. Answer: [`ShardMsg::Enabled`].
    Enable {
        /// Names the answer.
        req: ReqId,
        /// The session.
        session: SessionId,
        /// Its attach.
        attach: Attach,
        /// Seconds that the client asks for; `None`: it does not ask to resume.
        resume_secs: Option<u32>,
        /// Part of the resumption id, so that it cannot be guessed.
        random: [u8; 16],
    },
    /// XEP-0198 `<resume/>`. Answer: [`ShardMsg::Resumed`] or [`ShardMsg::ResumeFailed`].
    Resume {
        /// Names the answer.
        req: ReqId,
        /// The id that `<enabled/>` gave.
        previd: CompactString,
        /// Outputs that the client has handled (XEP-0198 count, wraps at 2^32).
        h: u32,
    },
    /// The session's core is gone or lost it: here is the edge's copy. Answer: [`ShardMsg::Reattached`].
    Reattach {
        /// Names the answer.
        req: ReqId,
        /// What the edge holds.
        copy: Box<SessionCopy>,
    },
    /// The session's `n`-th stanza (n counts from 1 at bind).
    Submit {
        /// The session.
        session: SessionId,
        /// Its attach.
        attach: Attach,
        /// Number of the stanza in the session.
        n: u64,
        /// 1 the first time; 2 and later: earlier owners did not live to take it, so it runs alone. From 3 on one that two
        /// owners had begun as a suspect is refused as poison.
        attempt: u8,
        /// The stanza, with `from` not yet checked.
        stanza: SharedStanza,
    },
    /// The client has acknowledged every output up to `m`.
    Acked {
        /// The session.
        session: SessionId,
        /// Its attach.
        attach: Attach,
        /// Number of the output in the session.
        m: u64,
    },
    /// XEP-0352: the client became active or inactive.
    Active {
        /// The session.
        session: SessionId,
        /// Its attach.
        attach: Attach,
        /// `<active/>` or `<inactive/>`.
        active: bool,
    },
    /// What has been accepted? (An outcome may have been lost.) Answer: [`ShardMsg::Outcome`].
    Ask {
        /// The session.
        session: SessionId,
        /// Its attach.
        attach: Attach,
    },
    /// The stream is gone without a farewell; the edge keeps nothing from here on.
    Detach {
        /// The session.
        session: SessionId,
        /// Its attach.
        attach: Attach,
    },
    /// The client closed its stream (or may not go on): the session ends.
    Close {
        /// The session.
        session: SessionId,
        /// Its attach.
        attach: Attach,
    },
}

impl EdgeMsg {
    /// The session that it is about; those that begin one name none.
    pub fn session(&self) -> Option<SessionId> {
        match self {
            EdgeMsg::Enable { session, .. }
            | EdgeMsg::Submit { session, .. }
            | EdgeMsg::Acked { session, .. }
            | EdgeMsg::Active { session, .. }
            | EdgeMsg::Ask { session, .. }
            | EdgeMsg::Detach { session, .. }
            | EdgeMsg::Close { session, .. } => Some(*session),
            EdgeMsg::Reattach { copy, .. } => Some(copy.session),
            EdgeMsg::Credentials { .. }
            | EdgeMsg::LoginEnded { .. }
            | EdgeMsg::Create { .. }
            | EdgeMsg::SetCredentials { .. }
            | EdgeMsg::Remove { .. }
            | EdgeMsg::Bind { .. }
            | EdgeMsg::Resume { .. } => None,
        }
    }
}

/// What an edge holds of a session, handed to a new owner.
#[derive(Clone, Debug)]
pub struct SessionCopy {
    /// The session.
    pub session: SessionId,
    /// The attach under which the edge holds it: must be the one in the session row.
    pub attach: Attach,
    /// Its full JID.
    pub jid: FullJid,
    /// The highest input that the old owner declared accepted.
    pub accepted: u64,
    /// Inputs not known to be accepted, in order, dense from `accepted + 1`.
    pub inputs: Vec<(u64, SharedStanza)>,
    /// The highest output received from the old owner.
    pub m: u64,
    /// The highest output that the client has acknowledged.
    pub m_acked: u64,
    /// The last log position among all outputs received.
    pub pos: Pos,
    /// Outputs that the client has not acknowledged, in order. Of a client without XEP-0198 those that came from a row: a ping asks for them.
    pub outputs: Vec<Output>,
    /// What else the old owner asked it to keep.
    pub soft: Arc<Soft>,
}

/// State of a session that is in no row while it is attached: the edge is its second holder.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Soft {
    /// The last presence broadcast, if the session is available.
    pub presence: Option<SharedStanza>,
    /// RFC 6121 §2.2: the client asked for its roster.
    pub interested: bool,
    /// XEP-0280.
    pub carbons: bool,
    /// XEP-0191 §3.2: the client asked for its block list.
    pub blocklist: bool,
    /// XEP-0352: inactive.
    pub inactive: bool,
    /// RFC 6121 §4.6.3: whom the session sent directed presence.
    pub directed: Vec<Jid>,
    /// XEP-0198 is on: where its counts start, and the id it can be resumed by.
    pub sm: Option<Sm>,
}

/// XEP-0198 of one session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sm {
    /// Inputs before `<enable/>`: the client's count is `n - base_n`.
    pub base_n: u64,
    /// Outputs before `<enabled/>`: the server's count is `m - base_m`.
    pub base_m: u64,
    /// The resumption id; `None` if the client did not ask.
    pub previd: Option<CompactString>,
    /// Seconds for which it can be resumed.
    pub resume_secs: u32,
}

/// One numbered output of a session.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// Counts from 1 at bind.
    pub m: u64,
    /// The log row that it came from, if it has one.
    pub pos: Option<Pos>,
    /// What the client gets. Without `to` it is for the session's bare address, which the edge writes: what an account says to
    /// many is one stanza for all of them.
    pub stanza: SharedStanza,
}

/// A message to one connection.
#[derive(Clone, Debug)]
pub struct ToEdge {
    /// The connection; if it is gone the frame is dropped (the session is then detached by its edge).
    pub conn: ConnId,
    /// The shard that speaks, and its epoch: an edge takes only those of the owner that it asked last.
    pub shard: ShardId,
    /// See `shard`.
    pub epoch: Epoch,
    /// What.
    pub body: ShardMsg,
}

/// Account to edge. Everything about a session carries its attach; a connection ignores another one.
#[derive(Clone, Debug)]
pub enum ShardMsg {
    /// Keys for a login.
    Credentials {
        /// The request.
        req: ReqId,
        /// What the account has.
        answer: CredentialsAnswer,
    },
    /// Outcome of creating, changing or removing an account.
    AccountDone {
        /// The request.
        req: ReqId,
        /// Done, or why not.
        result: Result<(), AccountError>,
    },
    /// Outcome of resource binding.
    Bound {
        /// The request.
        req: ReqId,
        /// The session, or the error of RFC 6120 §7.6.2.
        result: Result<Bound, StanzaError>,
    },
    /// XEP-0198 is on, durable.
    Enabled {
        /// The request.
        req: ReqId,
        /// The session.
        session: SessionId,
        /// Its attach.
        attach: Attach,
        /// Counts and id.
        sm: Sm,
    },
    /// Resumed: every input taken is accepted.
    Resumed {
        /// The request.
        req: ReqId,
        /// What the edge takes over.
        resumed: Box<Resumed>,
    },
    /// Not resumed; `h` if the log knows it. The client goes on to bind.
    ResumeFailed {
        /// The request.
        req: ReqId,
        /// Inputs that need not be sent again (XEP-0198 count).
        h: Option<u32>,
    },
    /// Bind, resume, enable or re-attach cannot be taken now: ask again after a while.
    Busy {
        /// The request.
        req: ReqId,
    },
    /// The answer to a re-attach.
    Reattached {
        /// The request.
        req: ReqId,
        /// `None`: the session has ended; close the stream.
        answer: Option<Reattached>,
    },
    /// Inputs up to `accepted` are accepted.
    Outcome {
        /// The session.
        session: SessionId,
        /// Its attach.
        attach: Attach,
        /// Highest n with all before it accepted.
        accepted: u64,
    },
    /// Inputs from `n` on were not taken: submit them again, in order, after a while.
    Refused {
        /// The session.
        session: SessionId,
        /// Its attach.
        attach: Attach,
        /// The first one not taken.
        n: u64,
    },
    /// Send this to the client.
    Deliver {
        /// The session.
        session: SessionId,
        /// Its attach.
        attach: Attach,
        /// What.
        output: Output,
    },
    /// Hold this with the session.
    Keep {
        /// The session.
        session: SessionId,
        /// Its attach.
        attach: Attach,
        /// Replaces what was held.
        soft: Arc<Soft>,
    },
    /// Your session was detached, or this owner does not know it: re-attach with your copy.
    Again {
        /// The session.
        session: SessionId,
    },
    /// The session is no longer yours: close the stream.
    Ended {
        /// The session.
        session: SessionId,
        /// The attach that ended.
        attach: Attach,
        /// What the client is told.
        reason: EndReason,
    },
}

/// Why a session left its connection: the stream error that the client gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// RFC 6120 §4.9.3.3: another stream took the resource or resumed the session.
    Conflict,
    /// The account was removed or its password changed by the administrator: `not-authorized`.
    NotAuthorized,
    /// A bound was reached: `resource-constraint`.
    ResourceConstraint,
    /// The client acknowledged what was never sent, or broke a policy.
    PolicyViolation,
    /// The server could not go on: `internal-server-error`.
    Internal,
}

/// See [`ShardMsg::Credentials`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CredentialsAnswer {
    /// `sasl::Credentials`, encoded.
    Known(Bytes),
    /// No such account: the edge goes on with a decoy.
    Unknown,
    /// Too many failures of late: `temporary-auth-failure`.
    Locked,
    /// The shard cannot answer now: `temporary-auth-failure`.
    Busy,
}

/// Why an account was not created, changed or removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccountError {
    /// There is one.
    Exists,
    /// There is none.
    NotFound,
    /// Not a JID of an account here.
    NotAllowed,
    /// Low on space or loading.
    Busy,
}

/// A new session.
#[derive(Clone, Debug)]
pub struct Bound {
    /// The session.
    pub session: SessionId,
    /// Its first attach.
    pub attach: Attach,
    /// Its full JID.
    pub jid: FullJid,
}

/// A session that goes on on this edge.
#[derive(Clone, Debug)]
pub struct Resumed {
    /// The session.
    pub session: SessionId,
    /// Its new attach.
    pub attach: Attach,
    /// Its full JID.
    pub jid: FullJid,
    /// All inputs up to here are accepted; the next one is `accepted + 1`.
    pub accepted: u64,
    /// Outputs not acknowledged, in order: send them again.
    pub outputs: Vec<Output>,
    /// The highest output so far.
    pub m: u64,
    /// The highest output acknowledged.
    pub m_acked: u64,
    /// The last log position among all outputs so far.
    pub pos: Pos,
    /// What to hold (its `sm` gives the counts' bases).
    pub soft: Arc<Soft>,
}

/// A session whose copy was taken.
#[derive(Clone, Debug)]
pub struct Reattached {
    /// The session.
    pub session: SessionId,
    /// Its new attach.
    pub attach: Attach,
    /// The highest input accepted; submit the later ones again.
    pub accepted: u64,
    /// What an earlier owner did with them is not known: each may have been carried out, or have killed it.
    pub adopted: bool,
}

/// A message of one entity to another.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The entity that sends.
    pub from: BareJid,
    /// Its shard's epoch.
    pub from_epoch: Epoch,
    /// The sender's shard: to look it up costs as much as the rest of what a frame's age takes to judge.
    pub from_shard: ShardId,
    /// The entity addressed.
    pub to: BareJid,
    /// What.
    pub body: PeerMsg,
}

/// Entity to entity.
#[derive(Clone, Debug)]
pub enum PeerMsg {
    /// A durable stanza. Answer: [`PeerMsg::Confirm`] or [`PeerMsg::Refuse`].
    Forward {
        /// Its name; the receiver knows a repeat by it.
        origin: Origin,
        /// The one before it from this sender to this recipient, unless that is confirmed.
        prev: Option<Origin>,
        /// On a node with one journal: the sender's commit that this rests on.
        ticket: Ticket,
        /// The sender is to be acknowledged: confirm only what is durable.
        durable: bool,
        /// With the sender's full JID as `from`.
        stanza: SharedStanza,
    },
    /// The receiver has this one and every earlier one from this sender, durable.
    Confirm {
        /// The forward.
        origin: Origin,
    },
    /// The receiver does not take it now (it lacks `prev`, is loading, or is full): start again from the first unconfirmed.
    Refuse {
        /// The forward.
        origin: Origin,
    },
    /// Presence: the newest value per (from, to) counts. The ticket orders it behind what it rests on.
    State {
        /// The presence stanza.
        stanza: SharedStanza,
        /// Of a probe, the session that asks; of an answer to one, the session that asked. It is for no other, whatever
        /// resource that session had.
        asker: Option<SessionId>,
    },
    /// Presence for this entity came while it was loading, and was more than it could park: say it again, all of it.
    StateAgain,
    /// An IQ or a passing message: delivered at most once, or answered with an error by the receiver.
    Request {
        /// The stanza.
        stanza: SharedStanza,
    },
}

/// A few frames for one node or plane, in order.
pub type Frames<T> = SmallVec<[T; 4]>;
