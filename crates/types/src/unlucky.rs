//! Bounds where the simulation makes the product unlucky: a buffer of one, a time-out at once, a page of two rows.
//!
//! Each is a bound whose value changes no promise, so that what usually happens once in a thousand hours (a window that is
//! full, a page that ends between two rows) happens in every other run. Without the feature `unlucky`, and in a thread that
//! nobody made unlucky, every bound has its usual value.

use std::time::Duration;

/// A bound that may be smaller, or a time that may be shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Messages that waited, given to a session at once.
    FlushWindow,
    /// Settled rows until the checkpoint is written.
    CheckpointEvery,
    /// The longest until it is written.
    CheckpointWithin,
    /// The longest until the cursor is written.
    CursorWithin,
    /// Inputs parked while an entity loads.
    ParkedInputs,
    /// Forwards under way to one recipient.
    ForwardWindow,
    /// A forward without an answer is sent again after this.
    ForwardAgain,
    /// An input without an outcome is asked for after this.
    AskAfter,
    /// Cells read at once while an entity loads.
    LoadPage,
    /// Marks of the `live` index read at once.
    LivePage,
    /// An idle entity sleeps after this.
    SleepAfter,
    /// Sleepers are looked for so often.
    SweepEvery,
    /// Stanzas of a session's tail.
    TailStanzas,
    /// Stanzas held for an inactive client.
    HeldStanzas,
    /// Inputs that an edge keeps until they are accepted.
    InputsHeld,
}

impl Bound {
    /// All of them.
    pub const ALL: [Bound; 15] = [
        Bound::FlushWindow,
        Bound::CheckpointEvery,
        Bound::CheckpointWithin,
        Bound::CursorWithin,
        Bound::ParkedInputs,
        Bound::ForwardWindow,
        Bound::ForwardAgain,
        Bound::AskAfter,
        Bound::LoadPage,
        Bound::LivePage,
        Bound::SleepAfter,
        Bound::SweepEvery,
        Bound::TailStanzas,
        Bound::HeldStanzas,
        Bound::InputsHeld,
    ];
}

/// However unlucky: below this a client that does nothing wrong could not come online, or would not get in a day what waits.
#[cfg(feature = "unlucky")]
fn least(bound: Bound) -> u64 {
    match bound {
        Bound::TailStanzas => 200,
        Bound::FlushWindow => 16,
        Bound::ParkedInputs => 4,
        _ => 1,
    }
}

/// The value of a bound: `usual`, or less, mostly from 1.
#[inline]
pub fn at_most(bound: Bound, usual: usize) -> usize {
    usize::try_from(scale(bound, usual as u64)).unwrap_or(usual)
}

/// The value of a time: `usual`, or anything from a fortieth of it.
#[inline]
pub fn within(bound: Bound, usual: Duration) -> Duration {
    let ms = usual.as_millis() as u64;
    Duration::from_millis(scale(bound, ms).max(ms / 40))
}

#[cfg(not(feature = "unlucky"))]
#[inline(always)]
fn scale(_: Bound, usual: u64) -> u64 {
    usual
}

#[cfg(feature = "unlucky")]
thread_local! {
    static LUCK: std::cell::Cell<Luck> = const { std::cell::Cell::new(Luck { seed: 0, bounds: 0 }) };
}

#[cfg(feature = "unlucky")]
#[derive(Clone, Copy)]
struct Luck {
    seed: u64,
    bounds: u32,
}

/// From now on this thread is unlucky at these bounds (bit `n` is `Bound::ALL[n]`), in a way that the seed decides.
#[cfg(feature = "unlucky")]
pub fn set(seed: u64, bounds: u32) {
    LUCK.set(Luck { seed, bounds });
}

#[cfg(feature = "unlucky")]
fn scale(bound: Bound, usual: u64) -> u64 {
    let luck = LUCK.get();
    if luck.bounds & (1 << bound as u32) == 0 || usual < 2 {
        return usual;
    }
    // Small values are as likely as large ones: a power of two first, then a value below it.
    let mut hash = luck.seed ^ (bound as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ hash >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^= hash >> 31;
    let top = (usual >> (hash % u64::from(64 - usual.leading_zeros()))).max(1);
    (1 + (hash >> 8) % top).max(least(bound)).min(usual)
}

#[cfg(all(test, feature = "unlucky"))]
mod tests {
    use super::{Bound, at_most, set};

    #[test]
    fn only_where_it_is_told_and_never_out_of_bounds() {
        for seed in 0..2_000 {
            set(seed, 1);
            let v = at_most(Bound::FlushWindow, 250);
            assert!((16..=250).contains(&v), "{v}");
            assert_eq!(at_most(Bound::LoadPage, 1_000), 1_000);
        }
        let mut seen = (0..2_000).map(|seed| {
            set(seed, 1);
            at_most(Bound::FlushWindow, 250)
        });
        assert!(seen.any(|v| v == 16) && seen.any(|v| v > 100));
        set(0, 0);
        assert_eq!(at_most(Bound::FlushWindow, 250), 250);
    }
}
