//! The clocks of the shells. Pure cores get what this reads as an argument.

use std::sync::OnceLock;
use types::{Instant, Now, Timestamp};

/// Reads both clocks. Every clock of a process counts from the same start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock;

impl Clock {
    /// Monotonic milliseconds since the first reading in this process, and wall-clock milliseconds since 1970.
    ///
    /// The monotonic part is at least 1, so that it can be told from "never read".
    #[allow(clippy::disallowed_methods, reason = "the one place where a shell reads a clock: the lint keeps all else away from it")]
    pub fn now(self) -> Now {
        static START: OnceLock<std::time::Instant> = OnceLock::new();
        let passed = START.get_or_init(std::time::Instant::now).elapsed().as_millis();
        // A wall clock before 1970 is a broken machine; stamps then read 1970.
        let wall = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_millis();
        Now {
            mono: Instant(u64::try_from(passed).unwrap_or(u64::MAX).saturating_add(1)),
            wall: Timestamp(u64::try_from(wall).unwrap_or(u64::MAX)),
        }
    }
}
