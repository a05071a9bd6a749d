//! Bugs planted on purpose, so that the simulation can show that it would see them.
//!
//! Without the feature `planted`, [`is`] is always false and costs nothing; only the simulation turns it on.

/// One mistake that somebody could make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// What rests on a commit is said before it.
    AckEarly,
    /// A frame of a session is taken from whoever sends it.
    NoAttachCheck,
    /// A new owner does not forward again what no next hop has confirmed.
    NoSecondForward,
    /// A forward that comes again is not known.
    NoOrigin,
    /// Neither the edge nor the session row holds what the client has not acknowledged.
    TailInCoreOnly,
    /// Rows of a stale owner are taken for valid.
    NoSeal,
    /// The recipient speaks without waiting for the sender's commit.
    NoTicket,
    /// Nobody wakes an entity that owes something.
    NoLive,
}

impl Bug {
    /// Those that the simulation must see, with the names that a command line has.
    pub const SEEN: [(&'static str, Bug); 6] = [
        ("ack-early", Bug::AckEarly),
        ("no-attach-check", Bug::NoAttachCheck),
        ("no-second-forward", Bug::NoSecondForward),
        ("no-origin", Bug::NoOrigin),
        ("tail-in-core-only", Bug::TailInCoreOnly),
        ("no-seal", Bug::NoSeal),
    ];

    /// Those that it is still too kind to see.
    pub const UNSEEN: [(&'static str, Bug); 2] = [("no-ticket", Bug::NoTicket), ("no-live", Bug::NoLive)];
}

#[cfg(feature = "planted")]
static PLANTED: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(u8::MAX);

/// Plant one bug, in the whole process, or none.
#[cfg(feature = "planted")]
pub fn plant(bug: Option<Bug>) {
    PLANTED.store(bug.map_or(u8::MAX, |b| b as u8), std::sync::atomic::Ordering::Relaxed);
}

/// Is this bug planted?
#[cfg(feature = "planted")]
pub fn is(bug: Bug) -> bool {
    PLANTED.load(std::sync::atomic::Ordering::Relaxed) == bug as u8
}

/// Is this bug planted? Never, in this build.
#[cfg(not(feature = "planted"))]
#[inline(always)]
pub const fn is(_: Bug) -> bool {
    false
}
