//! Latencies, counted by all clients at once without a lock.

use std::sync::atomic::{AtomicU64, Ordering};

/// Buckets of each power of two: a value is known within 1/32, that is 3 %.
const PER_OCTAVE: u64 = 32;
const OCTAVES: u64 = 40;

/// A histogram of microseconds.
pub struct Histogram {
    buckets: Box<[AtomicU64]>,
    largest: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        let buckets = (0..PER_OCTAVE * OCTAVES).map(|_| AtomicU64::new(0)).collect();
        Histogram { buckets, largest: AtomicU64::new(0) }
    }
}

fn bucket(value: u64) -> usize {
    let index = if value < 2 * PER_OCTAVE {
        value
    } else {
        let shift = u64::from(value.ilog2()) - u64::from(PER_OCTAVE.ilog2());
        (shift * PER_OCTAVE) + (value >> shift)
    };
    usize::try_from(index.min(PER_OCTAVE * OCTAVES - 1)).unwrap_or(0)
}

/// The greatest value of a bucket.
fn value(index: usize) -> u64 {
    let index = u64::try_from(index).unwrap_or(u64::MAX);
    if index < 2 * PER_OCTAVE {
        return index;
    }
    let shift = index / PER_OCTAVE - 1;
    let mantissa = index - shift * PER_OCTAVE;
    ((mantissa + 1) << shift) - 1
}

impl Histogram {
    /// Counts one value, in microseconds.
    pub fn record(&self, micros: u64) {
        self.buckets[bucket(micros)].fetch_add(1, Ordering::Relaxed);
        self.largest.fetch_max(micros, Ordering::Relaxed);
    }

    /// What was counted until now.
    pub fn counts(&self) -> Counts {
        Counts { buckets: self.buckets.iter().map(|b| b.load(Ordering::Relaxed)).collect(), largest: self.largest.load(Ordering::Relaxed) }
    }
}

/// A histogram at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts {
    buckets: Vec<u64>,
    largest: u64,
}

impl Counts {
    /// What was counted since `earlier`; the largest value stays that of the whole.
    #[must_use]
    pub fn since(&self, earlier: &Counts) -> Counts {
        let buckets = self.buckets.iter().zip(&earlier.buckets).map(|(now, then)| now - then).collect();
        Counts { buckets, largest: self.largest }
    }

    /// The buckets that are not empty: the greatest value of each in microseconds, and how many it holds.
    pub fn pairs(&self) -> Vec<(u64, u64)> {
        let filled = self.buckets.iter().enumerate().filter(|(_, count)| **count > 0);
        filled.map(|(index, count)| (value(index), *count)).collect()
    }

    /// Of such buckets, for instance those of several processes one after the other, and the largest value of all.
    pub fn of_pairs(pairs: impl IntoIterator<Item = (u64, u64)>, largest: u64) -> Counts {
        let mut counts = Histogram::default().counts();
        counts.largest = largest;
        for (micros, count) in pairs {
            let sum = &mut counts.buckets[bucket(micros)];
            *sum = sum.saturating_add(count);
        }
        counts
    }

    /// How many values.
    pub fn total(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The value that this part of all (0 to 1) does not exceed, in microseconds; `None` without values.
    pub fn quantile(&self, part: f64) -> Option<u64> {
        let wanted = ((self.total() as f64 * part).ceil() as u64).max(1);
        let mut seen = 0;
        let found = self.buckets.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        found.map(|index| value(index).min(self.largest))
    }

    /// The largest value, in microseconds.
    pub fn largest(&self) -> u64 {
        self.largest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_in_a_bucket_near_it() {
        for v in (0..100_000).chain([1 << 30, (1 << 40) + 7]) {
            let top = value(bucket(v));
            assert!(top >= v && top - v <= v / PER_OCTAVE, "{v} → {top}");
        }
        assert_eq!(bucket(u64::MAX), usize::try_from(PER_OCTAVE * OCTAVES - 1).unwrap());
    }

    #[test]
    fn quantiles() {
        let histogram = Histogram::default();
        assert_eq!(histogram.counts().quantile(0.5), None);
        (1..=50).for_each(|v| histogram.record(v));
        let before = histogram.counts();
        assert_eq!((before.quantile(0.5), before.quantile(1.0), before.quantile(0.0)), (Some(25), Some(50), Some(1)));
        histogram.record(7);
        let since = histogram.counts().since(&before);
        assert_eq!((since.total(), since.quantile(0.99)), (1, Some(7)));
        assert_eq!(since.pairs(), [(7, 1)]);
    }

    #[test]
    fn merged_as_if_counted_in_one() {
        let (a, b, both) = (Histogram::default(), Histogram::default(), Histogram::default());
        for v in (0..5_000).map(|v| v * v) {
            (if v % 3 == 0 { &a } else { &b }).record(v);
            both.record(v);
        }
        let largest = a.counts().largest().max(b.counts().largest());
        assert_eq!(Counts::of_pairs([a.counts().pairs(), b.counts().pairs()].concat(), largest), both.counts());
    }
}
