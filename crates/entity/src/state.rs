//! What an account is made of; modules read it.

use crate::log::Log;
use crate::privacy::BlockList;
use crate::roster::Roster;
use crate::session::{Link, Session};
use bytes::Bytes;
use smallvec::SmallVec;
use std::collections::BTreeMap;
use types::{BareJid, Collection, Epoch, Jid, Partition, Seldom, SessionId};

/// Keys of the account's cells, and the prefixes of families of them.
pub mod cell {
    /// The account exists; its value is what the edge needs to log it in.
    pub const ACCOUNT: &[u8] = b"a";
    /// The log's checkpoint.
    pub const CHECKPOINT: &[u8] = b"c";
    /// Which rows are not settled, written sooner than the checkpoint so that little is delivered again after a crash.
    pub const CURSOR: &[u8] = b"d";
    /// How far this owner's numbers of sessions, forwards and owed cells have gone.
    pub const COUNTERS: &[u8] = b"k";
    /// The highest input of a session that is in no row: `n/<session>`.
    pub const NUMBER: &[u8] = b"n/";
    /// Inputs that two owners did not live to take, and that a third one has begun.
    pub const SUSPECTS: &[u8] = b"p";
    /// Outputs of detached sessions behind their rows: `t/<session>/<number>`.
    pub const TAIL: &[u8] = b"t/";
    /// Resources that were available and are gone, of late.
    pub const GONE: &[u8] = b"g";
    /// Session rows.
    pub const SESSION: &[u8] = b"s/";
    /// Forwards that rest on the account's state, not on a row.
    pub const OWED: &[u8] = b"o/";
    /// Cells of modules: `m/<module>`.
    pub const MODULE: &[u8] = b"m/";
}

/// See the module.
pub struct State {
    /// Whose it is.
    pub jid: BareJid,
    /// The epoch of this owner.
    pub epoch: Epoch,
    /// What the edge needs to log it in; `None`: there is no such account.
    pub credentials: Option<Bytes>,
    /// Contacts and subscriptions.
    pub roster: Roster,
    /// XEP-0191.
    pub blocks: BlockList,
    /// Its sessions, oldest first.
    pub sessions: Vec<Session>,
    /// Its messages.
    pub log: Log,
    /// One small cell for each module that keeps something, by the module's name.
    pub cells: Seldom<BTreeMap<String, Bytes>>,
}

/// The partition of an account's state.
pub fn partition(jid: &BareJid) -> Partition {
    Partition { collection: Collection::Account, key: Bytes::copy_from_slice(jid.as_str().as_bytes()) }
}

impl State {
    /// Where all but the log's rows lie. Made when something is written: a hundred bytes less while nothing is.
    pub fn partition(&self) -> Partition {
        partition(&self.jid)
    }

    /// Is there such an account?
    pub fn exists(&self) -> bool {
        self.credentials.is_some()
    }

    /// A session by its name.
    pub fn session(&self, id: SessionId) -> Option<&Session> {
        self.sessions.iter().find(|s| s.id == id)
    }

    /// A session by its name.
    pub fn session_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        self.sessions.iter_mut().find(|s| s.id == id)
    }

    /// A session by its resource.
    pub fn resource(&self, resource: &str) -> Option<&Session> {
        self.sessions.iter().find(|s| s.jid.resource() == resource)
    }

    /// Sessions that have sent available presence.
    pub fn available(&self) -> impl Iterator<Item = &Session> {
        self.sessions.iter().filter(|s| s.soft.presence.is_some())
    }

    /// A session whose stream is here or may come back.
    pub fn any_attached(&self) -> bool {
        self.sessions.iter().any(|s| matches!(s.link, Link::Attached(_)))
    }

    /// RFC 6121 §8.5.2: the sessions that a message to the bare JID goes to. By default the one with the highest
    /// priority, a tie going to the most recently connected; by setting all with a non-negative priority.
    pub fn route_bare(&self, all: bool) -> SmallVec<[SessionId; 4]> {
        let candidates = self.sessions.iter().filter_map(|s| {
            let priority = s.priority().filter(|p| *p >= 0)?;
            Some((priority, s.bound_at, s.id))
        });
        if all { candidates.map(|c| c.2).collect() } else { candidates.max().map(|c| c.2).into_iter().collect() }
    }

    /// Is this address the account or one of its resources?
    pub fn is_own(&self, jid: &Jid) -> bool {
        jid.bare_str() == self.jid.as_str()
    }
}
