//! Several outcomes as one, as if one process had counted everything.

use crate::file::Work;
use crate::histogram::Counts;
use crate::process::{Sample, Used};
use crate::scenario::{Latency, MOMENT, Outcome, Second, Tick};
use std::collections::BTreeMap;

/// Problems that are kept for the reader.
const PROBLEMS_MAX: usize = 20;
/// Behind the name of a part that is a rate; without it stands what the rate is of.
const A_SECOND: &str = " a second";
/// Seconds behind the newest one whose histograms are kept. No worker is so far behind: it would count as gone.
const OPEN_MAX: i64 = 30;
/// The kernel counts CPU in steps of a hundredth of a second: shorter looks say little.
pub(super) const LOOK_MIN: f64 = 0.25;

/// The seconds of all workers, summed up as they come.
#[derive(Default)]
pub struct Seconds {
    warm_up: Stretch,
    measured: Stretch,
}

/// Seconds that are counted from one moment on.
#[derive(Default)]
struct Stretch {
    sums: BTreeMap<i64, Sum>,
    /// CPUs and resident KiB of the server.
    server: BTreeMap<i64, (f64, u64)>,
}

/// One second of all workers.
#[derive(Default)]
struct Sum {
    at: f64,
    count: u64,
    wrong: u64,
    /// Empty once the latency is known.
    pairs: BTreeMap<u64, u64>,
    largest: u64,
    latency: Option<Latency>,
}

impl Sum {
    fn close(&mut self) {
        if !self.pairs.is_empty() {
            self.latency = Latency::of(&Counts::of_pairs(std::mem::take(&mut self.pairs), self.largest));
        }
    }
}

/// The second that something falls into, by its middle: its ends are never quite those of the clock. A moment belongs to the
/// second before it, whose end may be a little late.
fn second_of(end: f64, length: f64) -> i64 {
    let back = if length < MOMENT { 0.5 } else { length / 2.0 };
    (end - back).max(0.0).floor() as i64
}

impl Stretch {
    fn series(self, zero: f64) -> impl Iterator<Item = Second> {
        self.sums.into_iter().map(move |(key, mut sum)| {
            sum.close();
            let server = self.server.get(&key);
            let (cpu, rss_kib) = (server.map(|s| s.0), server.map(|s| s.1));
            Second { at: sum.at - zero, count: sum.count, errors: sum.wrong, latency: sum.latency, cpu, rss_kib }
        })
    }
}

impl Seconds {
    fn of(&mut self, measured: bool) -> &mut Stretch {
        if measured { &mut self.measured } else { &mut self.warm_up }
    }

    /// Adds a worker's second, from before the measured time began or since.
    pub fn add(&mut self, measured: bool, tick: &Tick) {
        let (key, sums) = (second_of(tick.at, tick.length), &mut self.of(measured).sums);
        if let Some((_, old)) = sums.range_mut(..key - OPEN_MAX).next_back() {
            old.close();
        }
        let sum = sums.entry(key).or_default();
        sum.at = sum.at.max(tick.at);
        sum.count += tick.count;
        sum.wrong += tick.wrong;
        sum.largest = sum.largest.max(tick.latency.largest());
        for (micros, count) in tick.latency.pairs() {
            *sum.pairs.entry(micros).or_default() += count;
        }
    }

    /// Adds what the server used between two looks at it; the second one was at `end`, on the clock of the workers' seconds.
    pub fn server(&mut self, measured: bool, end: f64, from: &Sample, to: &Sample) {
        let length = (to.at - from.at).max(1e-9);
        let used = (Used::between(from, to).cpu_us as f64 / 1e6 / length, to.rss_kib);
        let known = self.of(measured).server.entry(second_of(end, length));
        // Looks that are close to each other see less.
        known
            .and_modify(|known| {
                if length >= LOOK_MIN {
                    *known = used
                }
            })
            .or_insert(used);
    }

    /// One by one. If no measured time was told to begin, it has begun with the first.
    pub fn series(self) -> Vec<Second> {
        let Seconds { warm_up, measured } = self;
        let (before, measured) = if measured.sums.is_empty() { (measured, warm_up) } else { (warm_up, measured) };
        let zero = before.sums.values().map(|sum| sum.at).fold(0.0, f64::max);
        before.series(zero).chain(measured.series(0.0)).collect()
    }
}

/// One outcome of all, each with the name of its worker. `before` and `after` are looks at the server.
pub fn outcome(work: &Work, all: &[(String, Outcome)], seconds: Seconds, before: Option<Sample>, after: Option<Sample>) -> Outcome {
    let outcomes = || all.iter().map(|(_, outcome)| outcome);
    // They began together; what one of them did alone at the end belongs to the run.
    let length = outcomes().map(|o| o.seconds).fold(0.0, f64::max);
    let mut whole = Outcome::new(outcomes().map(|o| o.count).sum(), before, after, length);
    let largest = outcomes().filter_map(|o| o.latency).map(|l| (l.largest * 1e3).round() as u64).max();
    let counts = Counts::of_pairs(outcomes().flat_map(|o| o.histogram.iter().copied()), largest.unwrap_or(0));
    (whole.latency, whole.histogram) = (Latency::of(&counts), counts.pairs());
    outcomes().for_each(|o| whole.faults.add(o.faults));
    let problems = all.iter().flat_map(|(name, o)| o.problems.iter().map(move |problem| format!("{name}: {problem}")));
    whole.problems = problems.take(PROBLEMS_MAX).collect();
    whole.parts = parts(all);
    whole.series = seconds.series();
    if let Work::Idle(idle) = work {
        // As in one process: sessions are weighed, and logins are not.
        whole.kib_each = whole.server.map(|used| used.rss_kib as f64 / idle.sessions.max(1) as f64);
        whole.cpu_us_each = None;
    }
    whole
}

/// Figures add up; a rate is what all did in the time of the slowest.
fn parts(all: &[(String, Outcome)]) -> BTreeMap<String, f64> {
    let mut sums: BTreeMap<String, f64> = BTreeMap::new();
    let mut longest: BTreeMap<String, f64> = BTreeMap::new();
    for (_, outcome) in all {
        for (name, value) in &outcome.parts {
            *sums.entry(name.clone()).or_default() += value;
            if let Some(of) = name.strip_suffix(A_SECOND).and_then(|name| outcome.parts.get(name)).filter(|_| *value > 0.0) {
                let time = longest.entry(name.clone()).or_default();
                *time = time.max(of / value);
            }
        }
    }
    for (name, time) in longest.iter().filter(|(_, time)| **time > 0.0) {
        if let Some(of) = name.strip_suffix(A_SECOND).and_then(|name| sums.get(name)).copied() {
            sums.insert(name.clone(), of / time);
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::histogram::Histogram;
    use crate::order::Faults;
    use crate::scenario::{Chat, Idle};

    fn counts(values: impl Iterator<Item = u64>) -> Counts {
        let histogram = Histogram::default();
        values.for_each(|v| histogram.record(v));
        histogram.counts()
    }

    fn tick(at: f64, values: impl Iterator<Item = u64> + Clone) -> Tick {
        let count = u64::try_from(values.clone().count()).unwrap();
        Tick { at, length: 1.0, count, wrong: 1, faults: Faults::default(), latency: counts(values) }
    }

    fn part(values: impl Iterator<Item = u64>, seconds: f64) -> Outcome {
        let counts = counts(values);
        let (faults, problems) = (Faults { lost: 1, errors: 2, ..Faults::default() }, vec!["why".to_owned(); 15]);
        let (latency, histogram) = (Latency::of(&counts), counts.pairs());
        Outcome { count: counts.total(), seconds, latency, histogram, faults, problems, ..Outcome::default() }
    }

    fn names(all: Vec<Outcome>) -> Vec<(String, Outcome)> {
        all.into_iter().enumerate().map(|(i, o)| (format!("w{i}"), o)).collect()
    }

    #[test]
    fn as_if_one_had_counted_everything() {
        // One worker is quick and has much, one is slow and has little: a mean of their percentiles would be wrong.
        let (quick, slow) = ((0..9_000).map(|v| v % 97), (0..1_000).map(|v| 50_000 + v));
        let all = names(vec![part(quick.clone(), 10.0), part(slow.clone(), 12.5)]);
        let whole = outcome(&Work::Chat(Chat::default()), &all, Seconds::default(), None, None);
        let one = counts(quick.chain(slow));
        assert_eq!((whole.count, whole.seconds, whole.rate), (10_000, 12.5, 800.0));
        assert_eq!((whole.latency, whole.histogram), (Latency::of(&one), one.pairs()));
        assert_eq!(whole.faults, Faults { lost: 2, errors: 4, ..Faults::default() });
        assert_eq!((whole.problems.len(), &*whole.problems[0], &*whole.problems[19]), (PROBLEMS_MAX, "w0: why", "w1: why"));
    }

    #[test]
    fn seconds_of_one_moment_are_one() {
        let mut seconds = Seconds::default();
        for late in [0.0, 0.02, 0.3] {
            seconds.add(false, &tick(1.0 + late, 0..10));
            seconds.add(false, &tick(2.0 + late / 100.0, 0..10));
            seconds.add(true, &tick(1.0 + late, 0..100));
            seconds.add(true, &tick(2.0 + late, 100..200));
        }
        let looks = [0.0, 1.0, 2.0].map(|at| Sample { at: 50.0 + at, user_us: (at * 5e5) as u64, rss_kib: 7, ..Sample::default() });
        seconds.server(true, 1.01, &looks[0], &looks[1]);
        let series = seconds.series();
        let counted: Vec<_> = series.iter().map(|s| (s.count, s.errors)).collect();
        assert_eq!(counted, [(30, 3), (30, 3), (300, 3), (300, 3)]);
        assert!(series.windows(2).all(|w| w[0].at < w[1].at), "{series:?}");
        assert_eq!((series[1].at, series[2].at, series[3].at), (0.0, 1.3, 2.3));
        let three = Counts::of_pairs((100..200).flat_map(|v| counts([v].into_iter()).pairs()).map(|(v, _)| (v, 3)), 199);
        assert_eq!((series[3].latency, series[3].cpu), (Latency::of(&three), None));
        assert_eq!((series[2].cpu, series[2].rss_kib), (Some(0.5), Some(7)));
    }

    #[test]
    fn a_moment_belongs_to_the_second_before() {
        let mut seconds = Seconds::default();
        seconds.add(true, &tick(1.0018, 0..10));
        seconds.add(true, &Tick { length: 0.00003, ..tick(1.00183, 0..8) });
        seconds.add(true, &Tick { length: 0.004, ..tick(0.004, 0..1) });
        assert_eq!(seconds.series().iter().map(|s| (s.at, s.count)).collect::<Vec<_>>(), [(1.00183, 19)]);
    }

    #[test]
    fn old_seconds_keep_no_histogram() {
        let mut seconds = Seconds::default();
        (1..200).for_each(|at| seconds.add(true, &tick(f64::from(at), 5..6)));
        let open = seconds.measured.sums.values().filter(|sum| !sum.pairs.is_empty()).count();
        assert_eq!(open, usize::try_from(OPEN_MAX).unwrap() + 1);
        assert!(seconds.series().iter().all(|s| s.latency.is_some_and(|l| l.p99 == 0.005)));
    }

    #[test]
    fn without_warm_up_everything_is_measured() {
        let mut seconds = Seconds::default();
        seconds.add(false, &tick(1.0, 0..10));
        seconds.add(false, &tick(1.4, 0..10));
        assert_eq!(seconds.series().iter().map(|s| (s.at, s.count)).collect::<Vec<_>>(), [(1.4, 20)]);
    }

    #[test]
    fn figures_by_name() {
        let stored = |n: f64, rate: f64| Outcome {
            parts: [("stored".to_owned(), n), ("stored a second".to_owned(), rate), ("x".to_owned(), 1.0)].into(),
            ..Outcome::default()
        };
        let all = names(vec![stored(100.0, 50.0), stored(300.0, 100.0), Outcome::default()]);
        assert_eq!(parts(&all), [("stored".into(), 400.0), ("stored a second".into(), 400.0 / 3.0), ("x".into(), 2.0)].into());
    }

    #[test]
    fn the_server_is_seen_once() {
        let look = |at, user_us, rss_kib| Sample { at, user_us, rss_kib, ..Sample::default() };
        let (before, after) = (look(1.0, 0, 1_000), look(3.0, 600_000, 5_000));
        let all = names(vec![part(0..10, 2.0), part(0..30, 2.0)]);
        let chat = outcome(&Work::Chat(Chat::default()), &all, Seconds::default(), Some(before), Some(after));
        assert_eq!((chat.server.map(|u| u.cpu_us), chat.cpu_us_each, chat.kib_each), (Some(600_000), Some(15_000.0), None));
        let idle = Work::Idle(Idle { sessions: 40, ..Idle::default() });
        let idle = outcome(&idle, &all, Seconds::default(), Some(before), Some(after));
        assert_eq!((idle.kib_each, idle.cpu_us_each, idle.rss_before_kib), (Some(100.0), None, Some(1_000)));
    }
}
