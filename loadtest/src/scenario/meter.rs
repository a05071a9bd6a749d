//! What is counted while a scenario runs, and the seconds that become of it.

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

const SECOND: Duration = Duration::from_secs(1);
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
    series: Vec<Second>,
}

impl<'a> Watch<'a> {
    /// From here on seconds are kept; the measured time begins here too unless [`Watch::measure`] comes later.
    pub(super) async fn begin(run: &'a Run, name: &'static str, unit: &'static str, meter: &Arc<Meter>) -> Result<Watch<'a>> {
        let zero = mark(meter, run.sample().await?);
        Ok(Watch { run, meter: meter.clone(), name, unit, began: zero.at, last: zero.clone(), zero, series: Vec::new() })
    }

    /// The measured time begins.
    pub(super) async fn measure(&mut self) {
        self.second().await;
        self.zero = self.last.clone();
    }

    /// Until something is done.
    pub(super) async fn until<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                () = tokio::time::sleep(SECOND) => self.second().await,
            }
        }
    }

    /// Ends a second, or what there is of it.
    async fn second(&mut self) {
        // A page that an overloaded server does not give is no end of the run; that there is one was seen at its begin.
        let now = mark(&self.meter, self.run.sample().await.unwrap_or_default());
        let length = now.at - self.last.at;
        if length < 0.01 {
            return;
        }
        let used = self.last.sample.zip(now.sample).map(|(from, to)| Used::between(&from, &to));
        let second = Second {
            at: now.at,
            count: now.count - self.last.count,
            errors: now.wrong - self.last.wrong,
            latency: Latency::of(&now.latency.since(&self.last.latency)),
            cpu: used.map(|used| used.cpu_us as f64 / 1e6 / length),
            rss_kib: now.sample.map(|s| s.rss_kib),
        };
        self.tell(&second, length, now.count);
        self.series.push(second);
        self.last = now;
    }

    fn tell(&self, second: &Second, length: f64, count: u64) {
        let mut line =
            format!("{}: {:.0} s, {count} {}, {:.0} a second", self.name, second.at - self.began, self.unit, second.count as f64 / length);
        if let Some(latency) = second.latency {
            let _ = write!(line, ", p50 {:.2} p99 {:.2} ms", latency.p50, latency.p99);
        }
        let Faults { lost, duplicated, reordered, errors } = self.meter.faults();
        let _ = write!(line, ", lost {lost}, duplicated {duplicated}, reordered {reordered}, errors {errors}");
        if let Some((cpu, kib)) = second.cpu.zip(second.rss_kib) {
            let _ = write!(line, ", server {cpu:.2} CPU {} MiB", kib / 1024);
        }
        self.run.progress.show(&line);
    }

    /// The measured time is over. Faults are not in the outcome yet: what is on its way may still arrive.
    pub(super) async fn finish(mut self) -> Outcome {
        self.second().await;
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

fn mark(meter: &Meter, sample: Option<Sample>) -> Mark {
    Mark { at: clock::seconds(), count: meter.count.load(Relaxed), wrong: meter.wrong(), latency: meter.latency.counts(), sample }
}
