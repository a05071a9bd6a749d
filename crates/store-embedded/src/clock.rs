//! The one place of this driver that reads the clock.

#![allow(clippy::disallowed_methods, reason = "a driver's threads wait in real time; the logic takes `now` as an argument")]

use std::time::{Duration, Instant};

/// Counts from when it was started.
pub(crate) struct Clock(Instant);

impl Clock {
    pub fn start() -> Clock {
        Clock(Instant::now())
    }

    /// What is left of `wait` since the start; zero when it is over.
    pub fn left(&self, wait: Duration) -> Duration {
        wait.saturating_sub(self.0.elapsed())
    }

    /// The time since the start, for a timer.
    pub fn now(&self) -> types::Instant {
        types::Instant(u64::try_from(self.0.elapsed().as_millis()).unwrap_or(u64::MAX))
    }
}
