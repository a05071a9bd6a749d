//! What can be measured, and what comes of it.

mod archive;
mod chat;
mod crew;
mod drive;
mod group;
mod idle;
mod login;
mod meter;
mod mixed;
mod offline;
mod part;
mod person;
mod presence;
mod reconnect;
mod register;

pub use archive::{Archive, archive};
pub use chat::{Chat, chat};
pub use group::{Group, group};
pub use idle::{Idle, idle};
pub use login::{Storm, storm};
pub use mixed::{Mixed, Weights, mixed};
pub use offline::{Offline, offline};
pub use part::{Event, Part, Tick};
pub use presence::{Presence, presence};
pub use reconnect::{Reconnect, reconnect};
pub use register::{Register, accounts, register};

pub(crate) use meter::{Glance, MOMENT};

use crate::client::{Account, Connection, Target};
use crate::histogram::Counts;
use crate::metrics::Metrics;
use crate::order::Faults;
use crate::probe::Probe;
use crate::process::{Sample, Used};
use crate::progress::Progress;
use anyhow::{Context as _, Result};
use crew::Curve;
use meter::Meter;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Clients that negotiate at the same time, unless a scenario says otherwise.
pub const CONCURRENCY: usize = 16;

/// What every scenario runs against.
#[derive(Clone)]
pub struct Run {
    /// The server.
    pub target: Target,
    /// Accounts, which exist.
    pub accounts: Arc<[Account]>,
    /// The server's process, if it is on this machine.
    pub pid: Option<u32>,
    /// Where the server tells its CPU and memory, if it is not.
    pub metrics: Option<Metrics>,
    /// Who is told how it goes.
    pub progress: Arc<Progress>,
    /// What looks on while the scenario measures.
    pub probe: Option<Probe>,
    /// Whom it tells how it goes, if it is only a part of a run.
    pub part: Option<Arc<Part>>,
}

impl Run {
    async fn sample(&self) -> Result<Option<Sample>> {
        sample(self.metrics.as_ref(), self.pid).await
    }
}

/// Looks at the server, if there is a way.
pub(crate) async fn sample(metrics: Option<&Metrics>, pid: Option<u32>) -> Result<Option<Sample>> {
    match (metrics, pid) {
        (Some(metrics), _) => metrics.sample().await.map(Some),
        (None, pid) => pid.map(Sample::take).transpose(),
    }
}

/// Latencies, milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Half of all are not above it.
    pub p50: f64,
    /// Nine tenths.
    pub p90: f64,
    /// 99 of 100.
    pub p99: f64,
    /// The largest of the run, warm-up included.
    pub largest: f64,
}

impl Latency {
    pub(crate) fn of(counts: &Counts) -> Option<Latency> {
        let at = |part| counts.quantile(part).map(|us| us as f64 / 1e3);
        Some(Latency { p50: at(0.5)?, p90: at(0.9)?, p99: at(0.99)?, largest: counts.largest() as f64 / 1e3 })
    }
}

/// One second of a run, for plots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Second {
    /// Its end, in seconds since the measured time began; negative while it warmed up.
    pub at: f64,
    /// What was counted in it.
    pub count: u64,
    /// What went wrong in it.
    pub errors: u64,
    /// Latencies of what was counted in it, if anything was.
    pub latency: Option<Latency>,
    /// CPU of the server's process, in CPUs.
    pub cpu: Option<f64>,
    /// The server's resident memory at its end, KiB.
    pub rss_kib: Option<u64>,
}

/// What came of one run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Outcome {
    /// What was counted in the measured time: logins, messages delivered, sessions.
    pub count: u64,
    /// Length of the measured time, seconds.
    pub seconds: f64,
    /// `count` a second.
    pub rate: f64,
    /// What the server's process used meanwhile.
    pub server: Option<Used>,
    /// CPU of the server's process for one, microseconds.
    pub cpu_us_each: Option<f64>,
    /// Growth of the server's resident memory for one, KiB; only of `idle`.
    pub kib_each: Option<f64>,
    /// The server's resident memory before the measured time, KiB.
    pub rss_before_kib: Option<u64>,
    /// From the first byte to the bound session, or from sending to arrival.
    pub latency: Option<Latency>,
    /// What went wrong, of the whole run.
    pub faults: Faults,
    /// Why, a few of the reasons.
    pub problems: Vec<String>,
    /// Other figures, by name.
    pub parts: BTreeMap<String, f64>,
    /// Second by second.
    pub series: Vec<Second>,
    /// How often each latency was seen in the measured time: the upper end of a bucket in microseconds, and the count.
    pub histogram: Vec<(u64, u64)>,
}

impl Outcome {
    pub(crate) fn new(count: u64, before: Option<Sample>, after: Option<Sample>, seconds: f64) -> Outcome {
        let server = before.zip(after).map(|(from, to)| Used::between(&from, &to));
        Outcome {
            count,
            seconds,
            rate: count as f64 / seconds.max(1e-9),
            server,
            cpu_us_each: server.filter(|_| count > 0).map(|used| used.cpu_us as f64 / count as f64),
            rss_before_kib: before.map(|s| s.rss_kib),
            ..Outcome::default()
        }
    }
}

/// Does something `n` times, so many at a time, and returns what came of it in order; the first failure ends it.
async fn crowd<T, F>(n: usize, concurrency: usize, work: impl Fn(usize) -> F + Clone + Send + 'static) -> Result<Vec<T>>
where
    T: Send + 'static,
    F: Future<Output = Result<T>> + Send,
{
    let next = Arc::new(AtomicUsize::new(0));
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..concurrency.clamp(1, n.max(1)) {
        let (next, work) = (next.clone(), work.clone());
        workers.spawn(async move {
            let mut mine = Vec::new();
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                if i >= n {
                    return anyhow::Ok(mine);
                }
                mine.push((i, work(i).await?));
            }
        });
    }
    let mut all = Vec::with_capacity(n);
    while let Some(done) = workers.join_next().await {
        all.extend(done??);
    }
    all.sort_by_key(|(i, _)| *i);
    Ok(all.into_iter().map(|(_, done)| done).collect())
}

/// Logs in accounts `from..from + n`, so many at a time, and returns their sessions in order.
async fn sessions(run: &Run, from: usize, n: usize, concurrency: usize, meter: &Arc<Meter>) -> Result<Vec<Connection>> {
    let (run, meter) = (run.clone(), meter.clone());
    crowd(n, concurrency, move |i| {
        let (run, meter) = (run.clone(), meter.clone());
        async move {
            let account = run.accounts.get(from + i).context("more sessions than accounts")?;
            let start = crate::clock::nanos();
            let connection = crate::client::login(&run.target, account, drive::RESOURCE).await?;
            meter.done((crate::clock::nanos() - start) / 1_000);
            Ok(connection)
        }
    })
    .await
}

/// The first `n` accounts, logged in and available.
async fn present(run: &Run, n: usize) -> Result<Vec<Connection>> {
    run.progress.show("logging in");
    let runs = run.clone();
    let all = crowd(n, CONCURRENCY, move |i| {
        let run = runs.clone();
        async move {
            let account = run.accounts.get(i).context("more clients than accounts")?;
            let mut connection = crate::client::login(&run.target, account, drive::RESOURCE).await?;
            connection.appear().await?;
            Ok(connection)
        }
    });
    let all = all.await;
    run.progress.end();
    all
}

/// The rate of clients that do not wait for each other.
fn open_loop(rate: Option<f64>) -> Curve {
    Curve::constant(rate.unwrap_or(0.0))
}

/// What is on its way of one client, if there is no rate.
fn window_of(rate: Option<f64>, window: u64) -> Option<u64> {
    rate.is_none().then_some(window.max(1))
}

/// Ends sessions, many at a time.
async fn close(connections: Vec<Connection>) {
    let mut closing = tokio::task::JoinSet::new();
    for connection in connections {
        closing.spawn(connection.close());
    }
    closing.join_all().await;
}
