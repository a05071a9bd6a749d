//! Sessions that have an empty roster, are available, and do nothing: what one of them weighs in the server's memory.

use super::{CONCURRENCY, Outcome, Run, close, sessions};
use crate::clock;
use crate::histogram::Histogram;
use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// How many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Idle {
    /// Sessions that are there, with presence, before memory is first read: what the server keeps for any number of them.
    pub base: usize,
    /// Sessions that come then and are measured.
    pub sessions: usize,
    /// Seconds of quiet before each reading.
    pub settle: u64,
}

/// Runs it. `count` is of sessions; `kib_each` is the growth of resident memory over them.
///
/// # Errors
/// A login that fails, a roster that is not empty.
pub async fn idle(run: &Run, idle: Idle) -> Result<Outcome> {
    run.progress.begin("idle", "sessions");
    let latency = Arc::new(Histogram::default());
    let mut all = present(run, 0, idle.base, &latency).await?;
    tokio::time::sleep(Duration::from_secs(idle.settle)).await;
    let (before, start) = (run.sample()?, clock::seconds());
    all.extend(present(run, idle.base, idle.sessions, &latency).await?);
    tokio::time::sleep(Duration::from_secs(idle.settle)).await;
    let after = run.sample()?;
    let seconds = clock::seconds() - start;
    run.progress.end();
    close(all).await;
    let mut outcome = Outcome::new(u64::try_from(idle.sessions)?, before, after, seconds);
    outcome.kib_each = outcome.server.map(|used| used.rss_kib as f64 / idle.sessions.max(1) as f64);
    // The sessions come with logins, which another scenario measures.
    outcome.cpu_us_each = None;
    Ok(outcome)
}

async fn present(run: &Run, from: usize, n: usize, latency: &Arc<Histogram>) -> Result<Vec<crate::client::Connection>> {
    let mut all = sessions(run, from, n, CONCURRENCY, latency).await?;
    for connection in &mut all {
        let items = connection.appear().await?;
        ensure!(items == 0, "{} has a roster of {items}", connection.jid);
    }
    Ok(all)
}
