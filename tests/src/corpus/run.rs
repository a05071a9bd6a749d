//! Feeds groups of entries to servers, and looks after each entry whether the server is well.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures::{StreamExt as _, TryStreamExt as _};

use super::canary::{Canary, Latency};
use super::feed::{Form, Lane, MARKER};
use super::{Amount, Entry, Group};
use crate::server::{Config, PASSWORD, Server};

/// Entries are fed on so many connections at a time.
const LANES: usize = 4;
/// Groups that run at a time, each with a server of its own.
const GROUPS: usize = 2;
/// Memory that a group may leave behind, once it has been fed several times: what allocators and the store's
/// caches move by in a run. A leak grows with every pass.
const LEFT_BYTES_MAX: u64 = 2 << 20;
/// Passes until what grows is a leak.
const PASSES_MAX: usize = 6;
/// A line of the log is no longer.
const LOG_LINE_BYTES_MAX: usize = 1024;

/// How to run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// 20 random forms, every byte alone, full amounts.
    pub long: bool,
    /// Where chance starts.
    pub seed: u64,
    /// Only these entries, by the beginning of their ids.
    pub only: Vec<String>,
    /// Says how each entry fares.
    pub verbose: bool,
}

impl Options {
    fn forms(&self) -> Vec<(bool, Form)> {
        let singly = if self.long { 1 << 16 } else { 256 };
        let mut forms = vec![(false, Form::Whole), (true, Form::Bytes(singly))];
        if self.long {
            forms.extend([(true, Form::Whole), (false, Form::Bytes(singly))]);
        }
        let random = if self.long { 20 } else { 2 };
        forms.extend((0..random).map(|i| (i % 2 == 0, Form::Random(self.seed.wrapping_add(i)))));
        forms
    }

    fn amount(&self, amount: Amount) -> u32 {
        if self.long { amount.long } else { amount.ci }
    }

    fn wants(&self, id: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|o| id.starts_with(o.as_str()))
    }
}

/// How a group fared.
#[derive(Debug, Default)]
pub struct Score {
    /// The group's letter and title.
    pub name: String,
    /// Entries fed.
    pub entries: usize,
    /// Connections made for them.
    pub fed: usize,
    /// What failed: id and how.
    pub failed: BTreeMap<String, Vec<String>>,
    /// Of the pair that chatted.
    pub latency: Latency,
    /// Bytes of memory after the last pass, more than before it.
    pub grown: i64,
    /// How long it took.
    pub took: Duration,
}

/// The table of all groups.
pub fn table(scores: &[Score]) -> String {
    let mut out =
        String::from("group                                 passed of   fed  canary: messages, p50, p99, longest     memory    took\n");
    for s in scores {
        let bad = s.failed.keys().filter(|id| id.as_str() != s.name).count();
        let l = s.latency;
        let _ = writeln!(
            out,
            "{:<38} {:>5} {:>3} {:>5}  {:>8} {:>7.1?} {:>8.1?} {:>8.1?} {:>+8} KiB {:>6.1?}",
            s.name,
            s.entries - bad,
            s.entries,
            s.fed,
            l.count,
            l.p50,
            l.p99,
            l.max,
            s.grown / 1024,
            s.took
        );
    }
    for (id, how) in scores.iter().flat_map(|s| &s.failed) {
        let how: Vec<String> = how.iter().map(|h| h.chars().take(600).collect()).collect();
        let _ = writeln!(out, "{id}: {}", how.join("\n    "));
    }
    out
}

/// A server, those who use it, and what to feed them on.
struct Bench {
    server: Server,
    canary: Canary,
    lanes: Vec<Lane>,
}

impl Bench {
    /// A machine that is short of everything may fail once to bring all this up; that is told, and is not what is judged here.
    async fn start(extra: &str) -> Result<Bench> {
        match Bench::begin(extra).await {
            Err(e) => {
                eprintln!("begun again: {e:#}");
                Bench::begin(extra).await.context("begun again")
            }
            begun => begun,
        }
    }

    async fn begin(extra: &str) -> Result<Bench> {
        let off = if extra.contains("login_failures_per_account") { "" } else { "login_failures_per_account = \"off\"\n" };
        let extra = format!("{off}{extra}\n[auth]\nscram_iterations = 4096\n");
        let config = Config { extra, ..Config::default() };
        let server = Server::chappe(config).await?;
        let token = std::fs::read_to_string(server.data().join("admin.token")).unwrap_or_default().trim().to_owned();
        let canary = Canary::start(&server).await.context("the pair that chats")?;
        let mut lanes = Vec::new();
        for number in 0..LANES {
            for user in Lane::users(number) {
                server.add_user(&user, PASSWORD).await?;
            }
            lanes.push(Lane::new(number, server.connector()?, server.direct_connector()?, server.ports().admin, token.clone()));
        }
        Ok(Bench { server, canary, lanes })
    }

    /// Feeds an entry in all forms; gives how many times, and what was wrong.
    async fn feed(&mut self, entry: &Entry, forms: &[(bool, Form)]) -> (usize, Vec<String>) {
        let mut jobs: Vec<(Option<&str>, bool, Form)> = Vec::new();
        let inputs: Vec<Option<&str>> =
            if entry.each.is_empty() { vec![None] } else { entry.each.iter().map(|e| Some(e.as_str())).collect() };
        for each in inputs {
            let fitting = forms.iter().filter(|(_, form)| !entry.at_once || *form == Form::Whole);
            jobs.extend(fitting.map(|&(direct, form)| (each, direct && entry.at.has_both_ways(), form)));
        }
        jobs.dedup_by(|a, b| a == b);
        let count = jobs.len();
        let lanes = self.lanes.len();
        let feeding = self.lanes.iter_mut().enumerate().map(|(number, lane)| {
            let jobs = &jobs;
            async move {
                let mut wrong = Vec::new();
                for &(each, direct, form) in jobs.iter().skip(number).step_by(lanes) {
                    let told = || {
                        format!(
                            "{form:?}{}{}",
                            if direct { ", direct TLS" } else { "" },
                            each.map_or(String::new(), |e| format!(", {e:.60}"))
                        )
                    };
                    match lane.feed(entry, each, direct, form).await {
                        Ok(none_or) => wrong.extend(none_or.map(|w| format!("{w} [{}]", told()))),
                        Err(e) => wrong.push(format!("{e:#} [{}]", told())),
                    }
                }
                wrong
            }
        });
        let mut wrong: Vec<String> = futures::future::join_all(feeding).await.concat();
        wrong.truncate(4);
        (count, wrong)
    }

    /// Feeds an entry with many connections open, or many times over.
    async fn feed_many(&mut self, entry: &Entry, options: &Options) -> (usize, Vec<String>) {
        let mut count = 0;
        let mut wrong = Vec::new();
        let mut held = Vec::new();
        if let Some(amount) = entry.held {
            let before = self.server.rss().unwrap_or_default();
            for i in 0..options.amount(amount) {
                match self.lanes[0].hold(entry, i % 2 == 1 && entry.at.has_both_ways()).await {
                    Ok(reached) => held.push(reached),
                    // Refused, which is what the one more is to see.
                    Err(_) if entry.held_kib.is_none() => {}
                    Err(e) => wrong.push(format!("{e:#}")),
                }
                count += 1;
            }
            let each = self.server.rss().unwrap_or_default().saturating_sub(before) / 1024 / u64::from(options.amount(amount).max(1));
            if entry.held_kib.is_some_and(|max| each > max) {
                wrong.push(format!("{each} KiB a connection"));
            }
        }
        let times = entry.times.map_or(1, |t| options.amount(t));
        let each_lane = (times as usize).div_ceil(self.lanes.len());
        let forms: Vec<(bool, Form)> = (0..if times == 1 { 1 } else { LANES }).map(|i| (i % 2 == 1, Form::Whole)).collect();
        for _ in 0..each_lane {
            let (n, w) = self.feed_each_lane(entry, &forms).await;
            count += n;
            wrong.extend(w);
            if !wrong.is_empty() {
                break;
            }
        }
        (count, wrong)
    }

    /// One form on each lane.
    async fn feed_each_lane(&mut self, entry: &Entry, forms: &[(bool, Form)]) -> (usize, Vec<String>) {
        let feeding = self.lanes.iter_mut().zip(forms).map(|(lane, &(direct, form))| async move {
            let each = entry.each.first().map(String::as_str);
            match lane.feed(entry, each, direct && entry.at.has_both_ways(), form).await {
                Ok(wrong) => wrong,
                Err(e) => Some(format!("{e:#}")),
            }
        });
        let wrong: Vec<String> = futures::future::join_all(feeding).await.into_iter().flatten().collect();
        (forms.len(), wrong)
    }

    async fn feed_entry(&mut self, entry: &Entry, options: &Options, forms: &[(bool, Form)]) -> (usize, Vec<String>) {
        let (count, mut wrong) = match entry.times.is_some() || entry.held.is_some() {
            true => self.feed_many(entry, options).await,
            false => self.feed(entry, forms).await,
        };
        if let Err(e) = self.server.pid_alive() {
            wrong.push(format!("{e:#}"));
        } else if let Err(e) = self.canary.check().await {
            wrong.push(format!("afterwards: {e:#}"));
        }
        (count, wrong)
    }

    /// Looks for what a log must not hold.
    fn check_log(&self) -> Result<()> {
        for line in self.server.log().lines() {
            ensure!(!line.contains(MARKER), "the log holds payload: {line:.300}");
            ensure!(!line.contains(PASSWORD), "the log holds a password: {line:.300}");
            ensure!(!line.contains("panicked"), "the server has panicked: {line:.300}");
            ensure!(line.len() <= LOG_LINE_BYTES_MAX, "a line of {} bytes: {line:.300}", line.len());
        }
        Ok(())
    }

    async fn finish(self) -> Result<Vec<Duration>> {
        self.check_log()?;
        self.canary.finish().await
    }
}

/// Feeds one group.
///
/// # Errors
/// If a server does not start; what entries do is in the score.
pub async fn run(group: &Group, options: &Options) -> Result<Score> {
    let begin = Instant::now();
    let mut score = Score { name: format!("{} {}", group.group, group.title), ..Score::default() };
    let entries: Vec<&Entry> = group.entry.iter().filter(|e| options.wants(&e.id)).collect();
    if entries.is_empty() {
        return Ok(score);
    }
    let forms = options.forms();
    let mut times = Vec::new();
    let mut bench = Bench::start("").await?;
    let mut special: BTreeMap<&str, Vec<&Entry>> = BTreeMap::new();
    let mut plain = Vec::new();
    for entry in &entries {
        match &entry.config {
            Some(config) => special.entry(config).or_default().push(entry),
            None => plain.push(*entry),
        }
    }
    for entry in &plain {
        score.feed(&mut bench, entry, options, &forms).await;
    }
    if score.failed.is_empty()
        && let Err(e) = score.weigh(&mut bench, &plain).await
    {
        score.failed.insert(score.name.clone(), vec![format!("{e:#}")]);
    }
    score.end(bench, &mut times).await;
    for (config, entries) in special {
        let mut bench = Bench::start(config).await.context(config.to_owned())?;
        for entry in entries {
            score.feed(&mut bench, entry, options, &forms).await;
        }
        score.end(bench, &mut times).await;
    }
    score.latency = Latency::of(times);
    score.took = begin.elapsed();
    Ok(score)
}

impl Score {
    async fn feed(&mut self, bench: &mut Bench, entry: &Entry, options: &Options, forms: &[(bool, Form)]) {
        let begin = Instant::now();
        let (fed, wrong) = bench.feed_entry(entry, options, forms).await;
        self.entries += 1;
        self.fed += fed;
        if options.verbose {
            println!(
                "{:<6} {:<60.60} {:>5} × {:>7.1?} {}",
                entry.id,
                entry.words,
                fed,
                begin.elapsed(),
                if wrong.is_empty() { "" } else { "FAILED" }
            );
        }
        if !wrong.is_empty() {
            self.failed.insert(entry.id.clone(), wrong);
        }
    }

    async fn end(&mut self, bench: Bench, times: &mut Vec<Duration>) {
        match bench.finish().await {
            Ok(all) => times.extend(all),
            Err(e) => {
                self.failed.entry(self.name.clone()).or_default().push(format!("{e:#}"));
            }
        }
    }

    /// Feeds the group again until its memory stays where it was.
    async fn weigh(&mut self, bench: &mut Bench, entries: &[&Entry]) -> Result<()> {
        let light: Vec<&&Entry> = entries.iter().filter(|e| e.times.is_none() && e.held.is_none()).collect();
        let form = [(false, Form::Whole)];
        let mut grown = Vec::new();
        for _ in 0..PASSES_MAX {
            let before = bench.server.rss()?;
            for entry in &light {
                let (fed, wrong) = bench.feed(entry, &form).await;
                self.fed += fed;
                ensure!(wrong.is_empty(), "{} in a later pass: {}", entry.id, wrong.join("; "));
            }
            bench.canary.check().await?;
            let after = bench.server.rss()?;
            self.grown = i64::try_from(after)? - i64::try_from(before)?;
            if after <= before + LEFT_BYTES_MAX {
                return Ok(());
            }
            grown.push(format!("{} KiB", self.grown / 1024));
        }
        bail!("each pass leaves more memory behind: {}", grown.join(", "))
    }
}

/// Feeds all groups.
///
/// # Errors
/// As [`run`].
pub async fn run_all(groups: &[Group], options: &Options) -> Result<Vec<Score>> {
    let wanted = groups.iter().filter(|g| g.entry.iter().any(|e| options.wants(&e.id)));
    let running = wanted.map(|group| async { run(group, options).await.with_context(|| format!("group {}", group.group)) });
    futures::stream::iter(running).buffered(GROUPS).try_collect().await
}

/// Whether everything is as expected.
pub fn is_good(scores: &[Score]) -> bool {
    scores.iter().all(|s| s.failed.is_empty())
}
