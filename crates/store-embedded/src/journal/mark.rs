//! When to write the mark.

use std::time::Duration;
use types::Instant;

/// The mark is written when a group became durable and this much time has passed since it was written last.
pub const MARK_EVERY: Duration = Duration::from_secs(1);

/// Says when the mark is due, and which.
#[derive(Clone, Copy, Debug)]
pub struct MarkTimer {
    written: u64,
    at: Instant,
}

impl MarkTimer {
    /// `written` is what the mark says.
    pub fn new(written: u64, now: Instant) -> MarkTimer {
        MarkTimer { written, at: now }
    }

    /// The number to write now, if any. It counts as written.
    pub fn due(&mut self, now: Instant, durable: u64) -> Option<u64> {
        if durable <= self.written || now.since(self.at) < MARK_EVERY {
            return None;
        }
        self.written = durable;
        self.at = now;
        Some(durable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_a_second_and_only_if_there_is_news() {
        let mut timer = MarkTimer::new(5, Instant(0));
        assert_eq!(timer.due(Instant(999), 9), None);
        assert_eq!(timer.due(Instant(1_000), 9), Some(9));
        assert_eq!(timer.due(Instant(9_000), 9), None);
        assert_eq!(timer.due(Instant(9_001), 10), Some(10));
        assert_eq!(timer.due(Instant(9_500), 11), None);
    }
}
