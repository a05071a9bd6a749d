//! What is counted while a scenario runs, and the seconds that become of it.

use super::part::{Event, Tick};
use super::{Latency, Outcome, Run, Second};
use crate::clock;
use crate::histogram::{Counts, Histogram};
use crate::order::Faults;
use crate::process::{Sample, Used};
use anyhow::Result;
use std::fmt::Write as _;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Of a second, in seconds.
const SECOND: f64 = 1.0;
/// What is shorter than this many seconds says nothing of a server's CPU and belongs to the second before it.
pub(crate) const MOMENT: f64 = 0.01;
/// Different reasons that are kept for the reader.
const PROBLEMS_MAX: usize = 5;

/// Counts of one kind, from all clients.
#[derive(Default)]
pub(super) struct Meter {
    pub(super) count: AtomicU64,
    pub(super) lost: AtomicU64,
    pub(super) duplicated: AtomicU64,
    pub(super) reordered: AtomicU64,
    pub(super) errors: AtomicU64,
    pub(super) latency: Histogram,
    problems: Mutex<Vec<String>>,
}

impl Meter {
    /// One more is done.
    pub(super) fn done(&self, micros: u64) {
        self.latency.record(micros);
        self.count.fetch_add(1, Relaxed);
    }

    /// Something went wrong, and why.
    pub(super) fn trouble(&self, why: &str) {
        self.errors.fetch_add(1, Relaxed);
        let mut problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        if problems.len() < PROBLEMS_MAX && !problems.iter().any(|p| p == why) {
            problems.push(why.to_owned());
        }
    }

    pub(super) fn problems(&self) -> Vec<String> {
        self.problems.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn faults(&self) -> Faults {
        let [lost, duplicated, reordered, errors] =
            [&self.lost, &self.duplicated, &self.reordered, &self.errors].map(|count| count.load(Relaxed));
        Faults { lost, duplicated, reordered, errors }
    }

    fn wrong(&self) -> u64 {
        let Faults { lost, duplicated, reordered, errors } = self.faults();
        lost + duplicated + reordered + errors
    }
}

/// The state of a meter at one moment.
#[derive(Clone)]
struct Mark {
    at: f64,
    count: u64,
    wrong: u64,
    latency: Counts,
    sample: Option<Sample>,
}

/// Looks at a meter and at the server once a second, and tells how it goes.
pub(super) struct Watch<'a> {
    run: &'a Run,
    meter: Arc<Meter>,
    name: &'static str,
    unit: &'static str,
    began: f64,
    /// Where the measured time begins.
    zero: Mark,
    last: Mark,
    /// When the next second ends.
    due: f64,
    series: Vec<Second>,
}

impl<'a> Watch<'a> {
    /// From here on seconds are kept; the measured time begins here too unless [`Watch::measure`] comes later. A part of a
    /// run waits here for the others.
    pub(super) async fn begin(run: &'a Run, name: &'static str, unit: &'static str, meter: &Arc<Meter>) -> Result<Watch<'a>> {
        if let Some(part) = &run.part {
            part.ready(name, unit).await?;
        }
        let zero = mark(meter, run.sample().await?);
        let (began, last, due) = (zero.at, zero.clone(), zero.at + SECOND);
        Ok(Watch { run, meter: meter.clone(), name, unit, began, last, zero, due, series: Vec::new() })
    }

    /// The measured time begins.
    pub(super) async fn measure(&mut self) {
        self.second().await;
        self.zero = self.last.clone();
        self.due = self.zero.at + SECOND;
        self.told(Event::Measuring).await;
    }

    /// Until something is done.
    pub(super) async fn until<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            let left = Duration::from_secs_f64((self.due - clock::seconds()).max(0.0));
            tokio::select! {
                done = &mut work => return done,
                () = tokio::time::sleep(left) => self.second().await,
            }
        }
    }

    /// Ends a second, or what there is of it.
    async fn second(&mut self) {
        // A page that an overloaded server does not give is no end of the run; that there is one was seen at its begin.
        let now = mark(&self.meter, self.run.sample().await.unwrap_or_default());
        let length = now.at - self.last.at;
        // Seconds follow the clock, so that those of several processes stay together; one that comes late is followed by no
        // short one.
        while self.due < now.at + SECOND / 2.0 {
            self.due += SECOND;
        }
        // All that was done in less than a moment counts as much as the rest.
        if length < MOMENT && (now.count, now.wrong) == (self.last.count, self.last.wrong) {
            return;
        }
        let used = self.last.sample.zip(now.sample).map(|(from, to)| Used::between(&from, &to));
        let latency = now.latency.since(&self.last.latency);
        let second = Second {
            at: now.at,
            count: now.count - self.last.count,
            errors: now.wrong - self.last.wrong,
            latency: Latency::of(&latency),
            cpu: used.filter(|_| length >= MOMENT).map(|used| used.cpu_us as f64 / 1e6 / length),
            rss_kib: now.sample.map(|s| s.rss_kib),
        };
        self.tell(&second, length, now.count);
        let (at, count, wrong, faults) = (now.at - self.zero.at, second.count, second.errors, self.meter.faults());
        self.told(Event::Second(Tick { at, length, count, wrong, faults, latency })).await;
        match self.series.last_mut().filter(|_| length < MOMENT) {
            Some(before) => (before.at, before.count, before.errors) = (now.at, before.count + count, before.errors + wrong),
            None => self.series.push(second),
        }
        self.last = now;
    }

    async fn told(&self, event: Event) {
        if let Some(part) = &self.run.part {
            part.tell(event).await;
        }
    }

    fn tell(&self, second: &Second, length: f64, count: u64) {
        let glance = Glance {
            name: self.name,
            unit: self.unit,
            seconds: second.at - self.began,
            count,
            rate: second.count as f64 / length,
            latency: second.latency,
            faults: self.meter.faults(),
            server: second.cpu.zip(second.rss_kib),
        };
        self.run.progress.show(&glance.line());
    }

    /// The measured time is over. Faults are not in the outcome yet: what is on its way may still arrive.
    pub(super) async fn finish(mut self) -> Outcome {
        self.second().await;
        self.told(Event::Finished).await;
        self.run.progress.end();
        let latency = self.last.latency.since(&self.zero.latency);
        let (count, seconds) = (self.last.count - self.zero.count, self.last.at - self.zero.at);
        let mut outcome = Outcome::new(count, self.zero.sample, self.last.sample, seconds);
        outcome.latency = Latency::of(&latency);
        outcome.histogram = latency.pairs();
        let zero = self.zero.at;
        outcome.series = self.series.into_iter().map(|second| Second { at: second.at - zero, ..second }).collect();
        outcome
    }
}

/// How it goes at one moment.
pub(crate) struct Glance<'a> {
    pub(crate) name: &'a str,
    pub(crate) unit: &'a str,
    /// Since it began.
    pub(crate) seconds: f64,
    pub(crate) count: u64,
    pub(crate) rate: f64,
    pub(crate) latency: Option<Latency>,
    pub(crate) faults: Faults,
    /// CPUs and resident KiB of the server.
    pub(crate) server: Option<(f64, u64)>,
}

impl Glance<'_> {
    /// For people.
    pub(crate) fn line(&self) -> String {
        let Glance { name, unit, seconds, count, rate, .. } = self;
        let mut line = format!("{name}: {seconds:.0} s, {count} {unit}, {rate:.0} a second");
        if let Some(latency) = self.latency {
            let _ = write!(line, ", p50 {:.2} p99 {:.2} ms", latency.p50, latency.p99);
        }
        let Faults { lost, duplicated, reordered, errors } = self.faults;
        let _ = write!(line, ", lost {lost}, duplicated {duplicated}, reordered {reordered}, errors {errors}");
        if let Some((cpu, kib)) = self.server {
            let _ = write!(line, ", server {cpu:.2} CPU {} MiB", kib / 1024);
        }
        line
    }
}

fn mark(meter: &Meter, sample: Option<Sample>) -> Mark {
    Mark { at: clock::seconds(), count: meter.count.load(Relaxed), wrong: meter.wrong(), latency: meter.latency.counts(), sample }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{Options, Target, TlsMode};
    use crate::progress::Progress;
    use crate::tls::{Trust, client};

    #[tokio::test]
    async fn what_is_done_in_a_moment_counts() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let target = Target {
            address: ([127, 0, 0, 1], 1).into(),
            domain: "example.org".into(),
            tls: TlsMode::Plain,
            config: client(&Trust::Anybody).unwrap(),
            options: Options::default(),
        };
        let (accounts, progress) = ([].into(), Arc::new(Progress::silent()));
        let run = Run { target, accounts, pid: None, metrics: None, progress, probe: None, part: None };
        let meter = Arc::new(Meter::default());
        let watch = Watch::begin(&run, "login", "logins", &meter).await.unwrap();
        meter.done(700);
        let outcome = watch.finish().await;
        let in_series: u64 = outcome.series.iter().map(|s| s.count).sum();
        assert_eq!((outcome.count, in_series, outcome.histogram.len()), (1, 1, 1));
    }
}
