//! What can be measured, and what comes of it.

mod chat;
mod idle;
mod login;

pub use chat::{Chat, chat};
pub use idle::{Idle, idle};
pub use login::{Login, login};

use crate::client::{Account, Connection, Target};
use crate::histogram::{Counts, Histogram};
use crate::order::Faults;
use crate::probe::Probe;
use crate::process::{Sample, Used};
use crate::progress::Progress;
use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
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
    /// Who is told how it goes.
    pub progress: Arc<Progress>,
    /// What looks on while the scenario measures.
    pub probe: Option<Probe>,
}

impl Run {
    fn sample(&self) -> Result<Option<Sample>> {
        self.pid.map(Sample::take).transpose()
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
    fn of(counts: &Counts) -> Option<Latency> {
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
    /// Second by second.
    pub series: Vec<Second>,
    /// How often each latency was seen in the measured time: the upper end of a bucket in microseconds, and the count.
    pub histogram: Vec<(u64, u64)>,
}

impl Outcome {
    fn new(count: u64, before: Option<Sample>, after: Option<Sample>, seconds: f64) -> Outcome {
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

/// Logs in accounts `from..from + n`, so many at a time, and returns their sessions in order.
async fn sessions(run: &Run, from: usize, n: usize, concurrency: usize, latency: &Arc<Histogram>) -> Result<Vec<Connection>> {
    let next = Arc::new(AtomicUsize::new(0));
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..concurrency.clamp(1, n.max(1)) {
        let (run, next, latency) = (run.clone(), next.clone(), latency.clone());
        workers.spawn(async move {
            let mut mine = Vec::new();
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                if i >= n {
                    return anyhow::Ok(mine);
                }
                let account = run.accounts.get(from + i).context("more sessions than accounts")?;
                let start = crate::clock::nanos();
                let connection = crate::client::login(&run.target, account, "load").await?;
                latency.record((crate::clock::nanos() - start) / 1_000);
                run.progress.add(1);
                mine.push((i, connection));
            }
        });
    }
    let mut all = Vec::with_capacity(n);
    while let Some(done) = workers.join_next().await {
        all.extend(done??);
    }
    all.sort_by_key(|(i, _)| *i);
    Ok(all.into_iter().map(|(_, connection)| connection).collect())
}

/// Ends sessions, many at a time.
async fn close(connections: Vec<Connection>) {
    let mut closing = tokio::task::JoinSet::new();
    for connection in connections {
        closing.spawn(connection.close());
    }
    closing.join_all().await;
}

/// Makes the accounts, which must not exist, each on a connection of its own (XEP-0077).
///
/// # Errors
/// A refusal.
pub async fn register(run: &Run) -> Result<()> {
    run.progress.begin("register", "accounts");
    let next = Arc::new(AtomicUsize::new(0));
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..CONCURRENCY {
        let (run, next) = (run.clone(), next.clone());
        workers.spawn(async move {
            while let Some(account) = run.accounts.get(next.fetch_add(1, Ordering::Relaxed)) {
                let mut connection = Connection::open(&run.target).await?;
                connection.register(account).await?;
                connection.close().await;
                run.progress.add(1);
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = workers.join_next().await {
        done??;
    }
    run.progress.end();
    Ok(())
}
