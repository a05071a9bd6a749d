//! Bugs planted on purpose, so that the simulation can show that it would see them.
//!
//! Without the feature `planted`, [`is`] is always false and costs nothing; the simulation turns it on, and builds for the crash test.

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
    /// A resumed session's tail is not given to its new edge.
    DropTail,
    /// It is given twice.
    TailTwice,
    /// What comes while a session logs in does not go behind what waits for it.
    OfflineRace,
    /// The mark of the `live` index is written behind the obligation.
    LiveLate,
    /// A refused forward is sent again behind those that were sent after it.
    RefusedBehind,
    /// A repeat is confirmed before the row that it repeats is durable.
    ConfirmEarly,
    /// The checkpoint forgets the origins of rows that are dropped.
    DropForgets,
    /// A resumption is answered while inputs are in flight.
    ResumedInFlight,
    /// A resumption leaves the session row as it was.
    RowLeftBehind,
    /// The recipient speaks without waiting for the sender's commit.
    NoTicket,
    /// Nobody wakes an entity that owes something.
    NoLive,
    /// The journal is written, but not flushed, before what rests on it is said.
    NoSync,
    /// A commit that failed counts as done.
    ErrorIgnored,
    /// An input that made its entity panic is acknowledged though nothing of it was done.
    PanicAcks,
}

impl Bug {
    /// Those that the simulation must see, with the names that a command line has.
    pub const ALL: [(&'static str, Bug); 20] = [
        ("ack-early", Bug::AckEarly),
        ("no-attach-check", Bug::NoAttachCheck),
        ("no-second-forward", Bug::NoSecondForward),
        ("no-origin", Bug::NoOrigin),
        ("tail-in-core-only", Bug::TailInCoreOnly),
        ("no-seal", Bug::NoSeal),
        ("drop-tail", Bug::DropTail),
        ("tail-twice", Bug::TailTwice),
        ("refused-behind", Bug::RefusedBehind),
        ("confirm-early", Bug::ConfirmEarly),
        ("drop-forgets", Bug::DropForgets),
        ("resumed-in-flight", Bug::ResumedInFlight),
        ("row-left-behind", Bug::RowLeftBehind),
        ("no-live", Bug::NoLive),
        ("offline-race", Bug::OfflineRace),
        ("live-late", Bug::LiveLate),
        ("no-ticket", Bug::NoTicket),
        ("no-sync", Bug::NoSync),
        ("error-ignored", Bug::ErrorIgnored),
        ("panic-acks", Bug::PanicAcks),
    ];
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
