//! The clocks of the shells. Pure cores get what this reads as an argument.

use std::cell::Cell;
use std::sync::OnceLock;
use types::{Instant, Now, Timestamp};

/// Reads both clocks. Every clock of a process counts from the same start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock;

thread_local! {
    /// What this thread has read last. Within one millisecond the wall clock is not asked again: a busy plane reads the time
    /// some hundred times in one.
    static LAST: Cell<Now> = const { Cell::new(Now { mono: Instant(0), wall: Timestamp(0) }) };
}

impl Clock {
    /// Monotonic milliseconds since the first reading in this process, and wall-clock milliseconds since 1970.
    ///
    /// The monotonic part is at least 1, so that it can be told from "never read".
    #[allow(clippy::disallowed_methods, reason = "the one place where a shell reads a clock: the lint keeps all else away from it")]
    pub fn now(self) -> Now {
        static START: OnceLock<std::time::Instant> = OnceLock::new();
        let passed = START.get_or_init(std::time::Instant::now).elapsed().as_millis();
        let mono = Instant(u64::try_from(passed).unwrap_or(u64::MAX).saturating_add(1));
        let last = LAST.get();
        if last.mono == mono {
            return last;
        }
        // A wall clock before 1970 is a broken machine; stamps then read 1970.
        let wall = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_millis();
        let now = Now { mono, wall: Timestamp(u64::try_from(wall).unwrap_or(u64::MAX)) };
        LAST.set(now);
        now
    }
}
