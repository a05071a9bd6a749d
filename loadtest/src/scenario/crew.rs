//! What the clients of a run have in common: the phase, what each sends and how much of it has arrived.

use super::meter::Meter;
use crate::clock;
use crate::order::Faults;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use tokio::sync::Notify;

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// Clients come; nobody acts.
    Gather = 0,
    /// Clients act; nothing is measured yet.
    Warm = 1,
    /// Measured.
    Measure = 2,
    /// Nothing new is sent; what is on its way arrives.
    Drain = 3,
    /// Everybody leaves.
    Leave = 4,
}

/// What one client sends, numbered from 0.
#[derive(Default)]
pub(super) struct Flow {
    /// Which client sends it.
    pub(super) sender: usize,
    /// How many clients get each of it.
    pub(super) fan_out: u64,
    /// The sender waits for arrivals before it sends more.
    pub(super) windowed: bool,
    pub(super) sent: AtomicU64,
    /// Deliveries, each counted once.
    pub(super) arrived: AtomicU64,
    /// Answered with an error.
    pub(super) refused: AtomicU64,
}

impl Flow {
    pub(super) fn new(sender: usize, fan_out: usize, windowed: bool) -> Flow {
        Flow { sender, fan_out: u64::try_from(fan_out).unwrap_or(u64::MAX), windowed, ..Flow::default() }
    }

    /// Messages of which every delivery is settled, in number; which they are does not matter.
    pub(super) fn done(&self) -> u64 {
        self.refused.load(Relaxed) + self.arrived.load(Relaxed) / self.fan_out.max(1)
    }

    /// Deliveries that are due and not there.
    pub(super) fn missing(&self) -> u64 {
        let due = self.sent.load(Relaxed).saturating_sub(self.refused.load(Relaxed)) * self.fan_out;
        due.saturating_sub(self.arrived.load(Relaxed))
    }
}

/// Everybody.
pub(super) struct Crew {
    /// Other runs on the same accounts have another one, so what they left behind is not taken for this run's.
    pub(super) tag: u32,
    phase: AtomicU8,
    /// When clients began to act.
    start: AtomicU64,
    pub(super) flows: Vec<Flow>,
    pub(super) wakes: Vec<Notify>,
    /// Actions a second of all clients together, if they do not wait for each other.
    pub(super) curve: Curve,
    /// If this is a part of a run: the share of the load that the parts before it make, and its own.
    pub(super) slot: OnceLock<(f64, f64)>,
    /// Sent under XEP-0198 and not acknowledged.
    pub(super) unacked: AtomicU64,
    /// Queries of archives that have no answer.
    pub(super) asked: AtomicU64,
    /// Clients that left before the end.
    pub(super) gone: AtomicU64,
    /// Messages and presence delivered.
    pub(super) deliveries: Arc<Meter>,
    /// Items out of archives.
    pub(super) results: Arc<Meter>,
    /// Sessions resumed.
    pub(super) resumptions: Arc<Meter>,
}

impl Crew {
    pub(super) fn new(people: usize, flows: Vec<Flow>, curve: Curve) -> Crew {
        Crew {
            tag: tag(),
            phase: AtomicU8::new(Phase::Gather as u8),
            start: AtomicU64::new(0),
            flows,
            wakes: (0..people).map(|_| Notify::new()).collect(),
            curve,
            slot: OnceLock::new(),
            unacked: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            gone: AtomicU64::new(0),
            deliveries: Arc::default(),
            results: Arc::default(),
            resumptions: Arc::default(),
        }
    }

    pub(super) fn phase(&self) -> Phase {
        match self.phase.load(Relaxed) {
            0 => Phase::Gather,
            1 => Phase::Warm,
            2 => Phase::Measure,
            3 => Phase::Drain,
            _ => Phase::Leave,
        }
    }

    /// The next phase begins, for everybody.
    pub(super) fn enter(&self, phase: Phase) {
        if phase == Phase::Warm || (phase == Phase::Measure && self.start() == 0) {
            self.start.store(clock::nanos(), Relaxed);
        }
        self.phase.store(phase as u8, Relaxed);
        self.wake_all();
    }

    pub(super) fn wake_all(&self) {
        self.wakes.iter().for_each(Notify::notify_one);
    }

    pub(super) fn start(&self) -> u64 {
        self.start.load(Relaxed)
    }

    /// Where an action falls within an interval of all parts together, given where it falls within this one's, both from 0 to
    /// 1: parts act in turn, and not all at once.
    pub(super) fn place(&self, offset: f64) -> f64 {
        self.slot.get().map_or(offset, |(before, share)| before + offset * share)
    }

    /// Deliveries, acknowledgements and answers that are still to come.
    pub(super) fn missing(&self) -> u64 {
        self.flows.iter().map(Flow::missing).sum::<u64>() + self.unacked.load(Relaxed) + self.asked.load(Relaxed)
    }

    pub(super) fn is_empty(&self) -> bool {
        usize::try_from(self.gone.load(Relaxed)).unwrap_or(usize::MAX) >= self.wakes.len()
    }

    /// Meters, each once.
    pub(super) fn meters(&self) -> Vec<&Arc<Meter>> {
        let mut all: Vec<&Arc<Meter>> = Vec::new();
        for meter in [&self.deliveries, &self.results, &self.resumptions] {
            if !all.iter().any(|m| Arc::ptr_eq(m, meter)) {
                all.push(meter);
            }
        }
        all
    }

    /// What went wrong, once nothing more is waited for.
    pub(super) fn faults(&self) -> Faults {
        let mut faults = Faults { lost: self.flows.iter().map(Flow::missing).sum(), ..Faults::default() };
        for meter in self.meters() {
            faults.add(meter.faults());
        }
        faults
    }

    pub(super) fn problems(&self) -> Vec<String> {
        self.meters().iter().flat_map(|m| m.problems()).collect()
    }
}

/// A number that other runs do not have: the nanoseconds of the clock, mixed with the process.
pub(super) fn tag() -> u32 {
    let mixed = (clock::since_epoch_nanos() ^ (u64::from(std::process::id()) << 40)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    u32::try_from(mixed >> 32).unwrap_or(0)
}

/// A rate over time: straight lines between points of seconds and rate, and the last rate from then on.
#[derive(Clone, Debug, Default)]
pub(super) struct Curve(Vec<(f64, f64)>);

/// Between points a rate is summed up in steps of so many seconds.
const STEP: f64 = 0.02;

impl Curve {
    pub(super) fn constant(rate: f64) -> Curve {
        Curve(vec![(0.0, rate)])
    }

    /// Points in order of time.
    pub(super) fn through(points: &[(f64, f64)]) -> Curve {
        Curve(points.to_vec())
    }

    pub(super) fn rate(&self, at: f64) -> f64 {
        let after = self.0.iter().position(|(t, _)| *t > at);
        match after {
            None => self.0.last().map_or(0.0, |(_, rate)| *rate),
            Some(0) => self.0[0].1,
            Some(i) => {
                let ((t0, r0), (t1, r1)) = (self.0[i - 1], self.0[i]);
                r0 + (r1 - r0) * (at - t0) / (t1 - t0)
            }
        }
    }

    /// When, in seconds from the start, this part of the rate has made `wanted` more actions due since `from`; never, if the
    /// rate ends at zero before.
    pub(super) fn after(&self, from: f64, share: f64, wanted: f64) -> Option<f64> {
        let (mut at, mut left) = (from, wanted);
        let end = self.0.last().map_or(0.0, |(t, _)| *t);
        while at < end {
            let made = self.rate(at + STEP / 2.0) * share * STEP;
            if made >= left {
                return Some(at + STEP * left / made);
            }
            left -= made;
            at += STEP;
        }
        let rate = self.rate(at) * share;
        (rate > 0.0).then(|| at + left / rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constant_rate_has_equal_steps() {
        let curve = Curve::constant(10.0);
        assert_eq!(curve.after(0.0, 0.5, 1.0), Some(0.2));
        assert_eq!(curve.after(3.0, 1.0, 0.0), Some(3.0));
        assert_eq!(Curve::constant(0.0).after(0.0, 1.0, 1.0), None);
    }

    #[test]
    fn a_curve_makes_as_many_actions_as_its_area() {
        let curve = Curve::through(&[(0.0, 0.0), (10.0, 20.0), (20.0, 0.0)]);
        assert!((curve.rate(5.0) - 10.0).abs() < 1e-9);
        let (mut at, mut n) = (0.0, 0);
        while let Some(next) = curve.after(at, 1.0, 1.0) {
            (at, n) = (next, n + 1);
        }
        assert!((199..=200).contains(&n), "{n}");
    }

    #[test]
    fn deliveries_that_are_due() {
        let flow = Flow::new(0, 3, true);
        flow.sent.store(5, Relaxed);
        flow.refused.store(1, Relaxed);
        flow.arrived.store(7, Relaxed);
        assert_eq!((flow.done(), flow.missing()), (3, 5));
    }
}
