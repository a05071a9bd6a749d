//! The numbers that name things (see `ARCHITECTURE.md`, Words).

use std::fmt;
use std::str::FromStr;

/// A slice of the JID space. Fixed in number when a cluster is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ShardId(pub u16);

/// The number that placement gives a shard's owner; a higher one replaces a lower one, everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Epoch(pub u32);

/// A session within its account: the epoch of the owner that bound it, and a counter of that owner.
///
/// Never reused. `SessionId::ACCOUNT` names the account itself as the sender (for stanzas that no session sent).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SessionId {
    /// Epoch of the shard's owner at the time of binding.
    pub epoch: u32,
    /// Counts from 1 within the epoch.
    pub seq: u32,
}

impl SessionId {
    /// The account itself, as a sender.
    pub const ACCOUNT: SessionId = SessionId { epoch: 0, seq: 0 };
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}.{:x}", self.epoch, self.seq)
    }
}

impl FromStr for SessionId {
    type Err = ();
    fn from_str(s: &str) -> Result<Self, ()> {
        let (a, b) = s.split_once('.').ok_or(())?;
        Ok(SessionId { epoch: u32::from_str_radix(a, 16).map_err(|_| ())?, seq: u32::from_str_radix(b, 16).map_err(|_| ())? })
    }
}

/// Raised by the Account each time a session gets an edge (bind, resume, re-attach).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Attach(pub u32);

/// The name of a forward within its sender: the `k`-th forward of the session's `n`-th stanza.
///
/// For `SessionId::ACCOUNT`, `n` is the account's own counter. Ordered: of one session, a later forward is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Origin {
    /// The session that sent the stanza.
    pub session: SessionId,
    /// The stanza's number in that session, from 1.
    pub n: u64,
    /// The forward's number among those of that stanza, from 0.
    pub k: u32,
}

/// One connection of one edge: the plane (arbiter) it lives on and a slot that is never reused while the process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ConnId {
    /// The edge node's number in the cluster; 0 on a single node.
    pub node: u16,
    /// The arbiter on that node.
    pub plane: u16,
    /// Counts from 1 on that arbiter.
    pub slot: u64,
}

/// Names a request of one connection, so that an answer to an earlier stream is known as such.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ReqId(pub u64);
