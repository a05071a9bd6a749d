//! Where a divided run stands: what its workers have told, and what the server used meanwhile.

use super::merge::{self, Seconds};
use super::proto::report::What;
use super::wire;
use crate::clock;
use crate::file::File;
use crate::histogram::Counts;
use crate::metrics::Metrics;
use crate::order::Faults;
use crate::process::{Sample, Used};
use crate::progress::Progress;
use crate::scenario::{self, Glance, Latency, Outcome, Tick};
use anyhow::{Context as _, Result, bail, ensure};
use std::collections::BTreeMap;

/// What the controller must do now.
#[derive(Debug, PartialEq)]
pub(super) enum Next {
    /// Read on.
    Read,
    /// Let all go on: they are ready.
    Go,
    /// Nothing more: all outcomes are there.
    End,
}

/// How far a worker is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    #[default]
    Coming,
    Ready,
    Acting,
    Measuring,
    Finished,
}

#[derive(Default)]
struct Worker {
    name: String,
    step: Step,
    /// A second, since the last line for people.
    told: bool,
    faults: Faults,
    outcome: Option<Outcome>,
}

/// What all do between one go and the next.
struct Stage {
    name: String,
    unit: String,
    began: f64,
    /// From when on seconds count.
    zero: f64,
    measured: bool,
    seconds: Seconds,
    count: u64,
    /// The server when the measured time began, now, and when it was over.
    before: Option<Sample>,
    last: Option<Sample>,
    after: Option<Sample>,
    news: News,
}

/// What came since the last line for people.
#[derive(Default)]
struct News {
    since: f64,
    count: u64,
    pairs: BTreeMap<u64, u64>,
    largest: u64,
}

/// A run.
pub(super) struct Course<'a> {
    file: &'a File,
    metrics: Option<Metrics>,
    progress: &'a Progress,
    workers: Vec<Worker>,
    stage: Option<Stage>,
}

impl<'a> Course<'a> {
    /// A run of these workers, which have nothing told yet.
    ///
    /// # Errors
    /// The server cannot be looked at: that is told before anybody begins.
    pub(super) async fn new(file: &'a File, names: &[&str], progress: &'a Progress) -> Result<Course<'a>> {
        let metrics = file.server.metrics.as_deref().map(Metrics::at).transpose()?;
        let workers = names.iter().map(|name| Worker { name: (*name).to_owned(), ..Worker::default() }).collect();
        let course = Course { file, metrics, progress, workers, stage: None };
        course.sample().await?;
        Ok(course)
    }

    /// Takes a report of a worker.
    ///
    /// # Errors
    /// The worker has failed, or its report is none.
    pub(super) async fn take(&mut self, from: usize, what: What) -> Result<Next> {
        let worker = self.workers.get_mut(from).context("a report of nobody")?;
        match what {
            What::Ready(ready) => {
                worker.step = Step::Ready;
                if self.all(Step::Ready) {
                    self.begin(ready.name, ready.unit).await;
                    return Ok(Next::Go);
                }
            }
            What::Measuring(_) => {
                worker.step = Step::Measuring;
                self.measure().await;
            }
            What::Second(second) => {
                worker.faults = second.faults.map_or(worker.faults, wire::to_faults);
                let (measured, tick) = (worker.step >= Step::Measuring, wire::to_tick(second)?);
                worker.told = true;
                self.stage.as_mut().context("a second of nothing")?.add(measured, &tick);
                if self.workers.iter().all(|worker| worker.told || worker.step == Step::Finished) {
                    self.workers.iter_mut().for_each(|worker| worker.told = false);
                    self.second().await;
                }
            }
            What::Finished(_) => {
                worker.step = Step::Finished;
                if self.all(Step::Finished) {
                    let sample = self.look().await;
                    self.progress.end();
                    self.stage.as_mut().context("an end of nothing")?.after = sample;
                }
            }
            What::Outcome(outcome) => {
                worker.outcome = Some(wire::to_outcome(outcome)?);
                worker.step = Step::Finished;
                if self.workers.iter().all(|w| w.outcome.is_some()) {
                    return Ok(Next::End);
                }
            }
            What::Failure(why) => bail!("{}", wire::bounded(&why)),
        }
        Ok(Next::Read)
    }

    fn all(&self, step: Step) -> bool {
        self.workers.iter().all(|worker| worker.step == step)
    }

    /// Whether a worker has told everything.
    pub(super) fn has_outcome(&self, of: usize) -> bool {
        self.workers.get(of).is_some_and(|worker| worker.outcome.is_some())
    }

    async fn sample(&self) -> Result<Option<Sample>> {
        scenario::sample(self.metrics.as_ref(), self.file.server.pid).await
    }

    async fn begin(&mut self, name: String, unit: String) {
        let before = self.sample().await.unwrap_or_default();
        let (began, news) = (clock::seconds(), News { since: clock::seconds(), ..News::default() });
        let seconds = Seconds::default();
        self.workers.iter_mut().for_each(|worker| worker.step = Step::Acting);
        let (zero, measured, last, after) = (began, false, before, None);
        self.stage = Some(Stage { name, unit, began, zero, measured, seconds, count: 0, before, last, after, news });
    }

    /// The measured time begins, for the first of them and so for all: they went on together and warm up for as long.
    async fn measure(&mut self) {
        if self.stage.as_ref().is_none_or(|stage| stage.measured) {
            return;
        }
        let sample = self.look().await;
        if let Some(stage) = &mut self.stage {
            (stage.measured, stage.zero, stage.before) = (true, clock::seconds(), sample);
        }
    }

    /// Looks at the server.
    async fn look(&mut self) -> Option<Sample> {
        // A page that an overloaded server does not give is no end of the run.
        let sample = self.sample().await.unwrap_or_default();
        let stage = self.stage.as_mut()?;
        if let (Some(from), Some(to)) = (&stage.last, &sample) {
            stage.seconds.server(stage.measured, to.at - stage.zero, from, to);
        }
        stage.last = sample;
        sample
    }

    /// Says who is waited for, if anybody is.
    pub(super) fn gather(&self) {
        let ready = self.workers.iter().filter(|worker| worker.step > Step::Coming).count();
        if self.stage.is_none() || self.workers.iter().any(|worker| worker.step == Step::Ready) {
            self.progress.show(&format!("{}: {ready} of {} workers are ready", self.file.work.name(), self.workers.len()));
        }
    }

    /// Everybody has told a second: looks at the server, and tells people how it goes.
    async fn second(&mut self) {
        let Some(from) = self.stage.as_ref().map(|stage| stage.last) else { return };
        // Right after another look there is nothing to see.
        let soon = from.is_some_and(|from| clock::seconds() - from.at < merge::LOOK_MIN);
        let to = if soon { None } else { self.look().await };
        let mut faults = Faults::default();
        self.workers.iter().for_each(|worker| faults.add(worker.faults));
        let used = |(from, to): (Sample, Sample)| (Used::between(&from, &to).cpu_us as f64 / 1e6 / (to.at - from.at).max(1e-9), to.rss_kib);
        if let Some(stage) = &mut self.stage {
            self.progress.show(&stage.line(faults, from.zip(to).map(used)));
        }
    }

    /// What came of it.
    ///
    /// # Errors
    /// Something is missing.
    pub(super) fn end(self) -> Result<Outcome> {
        let stage = self.stage.context("nothing was done")?;
        let named = |worker: Worker| Some((worker.name, worker.outcome?));
        let number = self.workers.len();
        let all: Vec<_> = self.workers.into_iter().filter_map(named).collect();
        ensure!(all.len() == number, "an outcome is missing");
        Ok(merge::outcome(&self.file.work, &all, stage.seconds, stage.before, stage.after))
    }
}

impl Stage {
    fn add(&mut self, measured: bool, tick: &Tick) {
        self.seconds.add(measured, tick);
        self.count += tick.count;
        self.news.count += tick.count;
        self.news.largest = self.news.largest.max(tick.latency.largest());
        for (micros, count) in tick.latency.pairs() {
            *self.news.pairs.entry(micros).or_default() += count;
        }
    }

    fn line(&mut self, faults: Faults, server: Option<(f64, u64)>) -> String {
        let now = clock::seconds();
        let news = std::mem::replace(&mut self.news, News { since: now, ..News::default() });
        let rate = news.count as f64 / (now - news.since).max(1e-3);
        let latency = Latency::of(&Counts::of_pairs(news.pairs, news.largest));
        Glance { name: &self.name, unit: &self.unit, seconds: now - self.began, count: self.count, rate, latency, faults, server }.line()
    }
}

#[cfg(test)]
mod tests;
