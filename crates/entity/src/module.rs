//! The only extension point: a XEP is data and plain functions (`ARCHITECTURE.md`, Modules).
//!
//! Hooks lie on the way of every message; IQ handlers answer what is addressed to the account or to the server.
//! Neither sees a socket, a clock or the store's driver: they see [`State`] and push effects.

use crate::effect::{Effects, Scan};
use crate::row::Kept;
use crate::session::Session;
use crate::state::State;
use frame::{Pos, SharedStanza};
use smallvec::SmallVec;
use stanza::{Stanza, StanzaError};
use std::any::Any;
use std::collections::BTreeMap;
use types::{Jid, Now, SessionId};
use xml::Element;

/// A XEP that a module implements: the README's table and service discovery come from here.
#[derive(Clone, Copy, Debug)]
pub struct Xep {
    /// `198` for XEP-0198.
    pub number: u16,
    /// The version implemented.
    pub version: &'static str,
    /// Its title.
    pub title: &'static str,
    /// The test that proves it: a file, or `file::test`.
    pub test: &'static str,
}

/// See the module documentation.
#[derive(Clone, Copy, Debug)]
pub struct Module {
    /// Also its name in the configuration.
    pub name: &'static str,
    /// What it implements.
    pub xeps: &'static [Xep],
    /// Features of the server's own disco#info (XEP-0030).
    pub features: &'static [&'static str],
    /// Features of an account's disco#info.
    pub account_features: &'static [&'static str],
    /// On the way of every message.
    pub hooks: &'static [Hook],
    /// IQ requests that it answers.
    pub iqs: &'static [IqHandler],
    /// XEP-0352: may this wait while the client is inactive, the newest per sender replacing older ones?
    pub may_hold: Option<fn(&Stanza) -> bool>,
}

impl Module {
    /// Nothing: the base for `..Module::EMPTY`.
    pub const EMPTY: Module = Module { name: "", xeps: &[], features: &[], account_features: &[], hooks: &[], iqs: &[], may_hold: None };
}

/// Where on a message's way a hook runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Point {
    /// At the sender's account. Messages; for phase `Guard` also IQs and presence to others.
    Outbound,
    /// At the recipient's account. Messages; for phase `Guard` also IQs and presence from others.
    Inbound,
    /// A message that no session can take.
    Undelivered,
}

/// Order within a point, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// May it pass at all?
    Guard,
    /// What does it say about itself? (hints, ids)
    Mark,
    /// Is it kept? (archive, offline)
    Store,
    /// Who else gets it? (carbons; they name the archive's id)
    Copy,
    /// How does it look to the client?
    Shape,
}

/// One function at one place.
#[derive(Clone, Copy, Debug)]
pub struct Hook {
    /// Where.
    pub point: Point,
    /// When.
    pub phase: Phase,
    /// What.
    pub run: HookFn,
}

/// Looks at a stanza on its way.
pub type HookFn = fn(&Ctx<'_>, &State, &mut Work) -> Flow;

/// What becomes of the stanza.
#[derive(Clone, Debug, PartialEq)]
pub enum Flow {
    /// It goes on.
    Continue,
    /// It ends here; its sender hears nothing.
    Drop,
    /// It ends here; its sender gets this error (RFC 6120 §8.3).
    Refuse(StanzaError),
}

/// A stanza on its way, with what hooks decided so far.
#[derive(Clone, Debug)]
pub struct Work {
    /// The stanza; change it through `Arc::make_mut`.
    pub stanza: SharedStanza,
    /// Outbound: the session that sent it.
    pub session: Option<SessionId>,
    /// Inbound: the sessions that routing chose, before copies.
    pub targets: SmallVec<[SessionId; 4]>,
    /// Copies for further sessions of this account, complete. They are sent if the message is.
    pub copies: Vec<(SessionId, SharedStanza)>,
    /// The number of the log row that it gets if it gets one.
    pub row: u64,
    /// Goes into the account's archive.
    pub archive: bool,
    /// May be kept until a session comes (XEP-0160); else it is dropped when none is there.
    pub offline: bool,
    /// Passing: at most once, no row (headlines, `no-store`).
    pub passing: bool,
    /// May be copied to other sessions (XEP-0280).
    pub copyable: bool,
}

/// What every function gets: time and settings.
#[derive(Clone, Copy, Debug)]
pub struct Ctx<'a> {
    /// The shard that runs the entity.
    pub shard: types::ShardId,
    /// The store is low on space: durable work is refused early, with `resource-constraint`.
    pub low_space: bool,
    /// Both clocks.
    pub now: Now,
    /// The domain's settings.
    pub settings: &'a Settings,
    /// All modules, for service discovery.
    pub pipeline: &'a Pipeline,
}

/// Settings of entities. Live: swapped whole.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Hosted domains, prepared.
    pub domains: Vec<String>,
    /// A message to a bare JID goes to all non-negative resources, not to the highest alone (RFC 6121 §8.5.2.1.1).
    pub bare_to_all: bool,
    /// What is archived for an account without preferences of its own (XEP-0313 §7).
    pub archive_default: ArchiveDefault,
    /// RFC 6120 §7.7.2.2.
    pub conflict: ConflictPolicy,
    /// How long a session outlives its stream at most, in seconds.
    pub resume_secs_max: u32,
    /// How long a new owner waits for the edges that hold its sessions. Zero where edges and cores are one process: then
    /// an edge that held one is as dead as the last owner.
    pub attaching: std::time::Duration,
    /// Sessions of one account.
    pub sessions_max: usize,
    /// Messages that wait for an account without a session.
    pub offline_rows_max: usize,
    /// Bounds of rosters.
    pub roster: crate::roster::Limits,
    /// Failed logins per account within a minute before further ones are put off; 0 switches it off.
    pub login_failures_max: u32,
    /// XEP-0077 for those who have an account.
    pub software_version: &'static str,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            domains: vec!["localhost".into()],
            bare_to_all: false,
            archive_default: ArchiveDefault::Always,
            conflict: ConflictPolicy::TerminateOld,
            resume_secs_max: 300,
            attaching: types::limit::ATTACHING_MAX,
            sessions_max: types::limit::SESSIONS_MAX,
            offline_rows_max: types::limit::OFFLINE_ROWS_MAX,
            roster: crate::roster::Limits::default(),
            login_failures_max: 0,
            software_version: env!("CARGO_PKG_VERSION"),
        }
    }
}

impl Settings {
    /// Is this domain ours?
    pub fn hosts(&self, domain: &str) -> bool {
        self.domains.iter().any(|d| d == domain)
    }
}

/// XEP-0313 §7 `default`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArchiveDefault {
    /// All messages.
    Always,
    /// Those with contacts of the roster.
    Roster,
    /// None.
    Never,
}

/// RFC 6120 §7.7.2.2: what happens when a client asks for a resource that is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConflictPolicy {
    /// The new stream gets a resource made by the server.
    Override,
    /// The new stream gets a `conflict` error.
    DisallowNew,
    /// The old stream ends with `conflict` (the recommended one).
    TerminateOld,
}

/// A function that answers IQ requests with one payload.
#[derive(Clone, Copy, Debug)]
pub struct IqHandler {
    /// Namespace of the payload.
    pub ns: &'static str,
    /// Its element's name.
    pub name: &'static str,
    /// `get`, `set` or both.
    pub kind: IqKind,
    /// Whose IQs it answers.
    pub at: At,
    /// Decides, given what is in memory.
    pub run: fn(&mut IqCtx<'_>, &Stanza, &Element) -> Answer,
    /// Goes on when the rows that [`Answer::Read`] asked for are there.
    pub resume: Option<ResumeFn>,
}

/// See [`IqHandler::resume`]: with what [`Answer::Read`] carried, and the rows.
pub type ResumeFn = fn(&mut IqCtx<'_>, &Stanza, Box<dyn Any + Send>, Rows) -> Answer;

/// See [`IqHandler::kind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IqKind {
    /// `get` only; `set` gets `not-allowed`.
    Get,
    /// `set` only.
    Set,
    /// Both.
    Both,
}

/// To whom an IQ is addressed, and by whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// The account, by its own sessions (no `to`, or the bare JID).
    Own,
    /// The account, by anyone (the handler checks who may).
    Account,
    /// The server's domain, by a session of this account.
    Server,
}

/// What an IQ handler works with.
pub struct IqCtx<'a> {
    /// Time and settings.
    pub ctx: Ctx<'a>,
    /// The account.
    pub state: &'a mut State,
    /// The session that asks, if it is one of the account's own.
    pub session: Option<SessionId>,
    /// Who asks.
    pub from: &'a Jid,
    /// Cells to write: use [`IqCtx::put`].
    pub fx: &'a mut Effects,
    /// What else happens, in order, before the answer.
    pub actions: &'a mut Vec<Action>,
}

impl IqCtx<'_> {
    /// Write a cell of the account.
    pub fn put(&mut self, key: impl Into<bytes::Bytes>, value: impl Into<bytes::Bytes>) {
        self.fx.put(&self.state.partition(), key, value);
    }

    /// Remove a cell of the account.
    pub fn delete(&mut self, key: impl Into<bytes::Bytes>) {
        self.fx.delete(&self.state.partition(), key);
    }

    /// The session that asks.
    pub fn own_session(&mut self) -> Option<&mut Session> {
        let id = self.session?;
        self.state.session_mut(id)
    }
}

/// Something that a handler wants done besides answering.
#[derive(Clone, Debug)]
pub enum Action {
    /// An output for one of the account's sessions (a push, an archive result).
    Send(SessionId, SharedStanza),
    /// Show the account's presence to this address, if it may see it.
    ShowPresence(Jid),
    /// Show this address `unavailable`.
    HidePresence(Jid),
    /// Remove the account (XEP-0077 cancellation), after the answer.
    RemoveAccount,
}

/// How an IQ handler answers.
pub enum Answer {
    /// A result, with its payload.
    Result(Option<Element>),
    /// An error.
    Error(StanzaError),
    /// Read the log first, then `resume`.
    Read(LogScan, Box<dyn Any + Send>),
}

/// Rows of the account's own archive that a handler wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogScan {
    /// First row, inclusive.
    pub first: u64,
    /// Last row, inclusive.
    pub last: u64,
    /// From the last to the first.
    pub reverse: bool,
    /// At most so many, of one bucket at a time; ask again for more.
    pub limit: usize,
}

/// Rows that were read, in the order asked for.
pub struct Rows {
    /// What was asked.
    pub scan: LogScan,
    /// Valid rows (those beyond a seal are skipped).
    pub rows: Vec<(Pos, Kept)>,
    /// The row to go on from, if the range is not exhausted.
    pub next: Option<u64>,
}

/// All active modules of a domain as flat tables, built at start and swapped whole.
#[derive(Debug, Default)]
pub struct Pipeline {
    modules: Vec<&'static Module>,
    hooks: BTreeMap<Point, Vec<HookFn>>,
    guards: BTreeMap<Point, Vec<HookFn>>,
}

impl Pipeline {
    /// The tables of these modules.
    pub fn new(modules: &[&'static Module]) -> Pipeline {
        let mut all: Vec<Hook> = modules.iter().flat_map(|m| m.hooks.iter().copied()).collect();
        // Stable: within a phase the order of the list of modules stands.
        all.sort_by_key(|h| (h.point, h.phase));
        let mut p = Pipeline { modules: modules.to_vec(), ..Pipeline::default() };
        for hook in all {
            p.hooks.entry(hook.point).or_default().push(hook.run);
            if hook.phase == Phase::Guard {
                p.guards.entry(hook.point).or_default().push(hook.run);
            }
        }
        p
    }

    /// The modules, in order.
    pub fn modules(&self) -> &[&'static Module] {
        &self.modules
    }

    /// Run every hook of a point.
    pub fn run(&self, point: Point, ctx: &Ctx<'_>, state: &State, work: &mut Work) -> Flow {
        run(self.hooks.get(&point), ctx, state, work)
    }

    /// Run only the guards (for presence and IQs).
    pub fn guard(&self, point: Point, ctx: &Ctx<'_>, state: &State, work: &mut Work) -> Flow {
        run(self.guards.get(&point), ctx, state, work)
    }

    /// XEP-0352: does a module let this wait for an inactive client?
    pub fn may_hold(&self, stanza: &Stanza) -> bool {
        self.modules.iter().any(|m| m.may_hold.is_some_and(|f| f(stanza)))
    }

    /// The handler of a payload.
    pub fn iq(&self, ns: &str, name: &str, at: At) -> Option<&'static IqHandler> {
        self.modules.iter().flat_map(|m| m.iqs).find(|h| h.ns == ns && h.name == name && h.at == at)
    }
}

fn run(hooks: Option<&Vec<HookFn>>, ctx: &Ctx<'_>, state: &State, work: &mut Work) -> Flow {
    for hook in hooks.into_iter().flatten() {
        match hook(ctx, state, work) {
            Flow::Continue => {}
            end => return end,
        }
    }
    Flow::Continue
}

/// The scan of one bucket that serves (a part of) a [`LogScan`]; see [`Rows::next`].
pub fn bucket_scan(account: &types::BareJid, scan: LogScan) -> Scan {
    use types::limit::BUCKET_ROWS_MAX;
    let at = if scan.reverse { scan.last } else { scan.first };
    let bucket_first = at / BUCKET_ROWS_MAX * BUCKET_ROWS_MAX;
    let first = scan.first.max(bucket_first);
    let last = scan.last.min(bucket_first + BUCKET_ROWS_MAX - 1);
    Scan {
        partition: crate::row::bucket(account, at),
        from: crate::row::cell_key(Pos { row: first, epoch: types::Epoch(0) }),
        to: Some(crate::row::cell_key(Pos { row: last + 1, epoch: types::Epoch(0) })),
        limit: scan.limit,
        reverse: scan.reverse,
    }
}
