//! Sessions that have an empty roster, are available, and do nothing: what one of them weighs in the server's memory.

use super::meter::{Meter, Watch};
use super::{CONCURRENCY, Outcome, Run, close, crowd};
use crate::client::{self, Connection};
use crate::clock;
use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// How many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Idle {
    /// Sessions that are there, with presence, before memory is first read: what the server keeps for any number of them.
    pub base: usize,
    /// Sessions that come then and are measured.
    pub sessions: usize,
    /// Seconds of quiet before each reading.
    pub settle: u64,
}

impl Default for Idle {
    fn default() -> Self {
        Idle { base: 50, sessions: 500, settle: 5 }
    }
}

/// Runs it. `count` is of sessions; `kib_each` is the growth of resident memory over them.
///
/// # Errors
/// A login that fails, a roster that is not empty.
pub async fn idle(run: &Run, idle: Idle) -> Result<Outcome> {
    let settle = Duration::from_secs(idle.settle);
    let meter = Arc::new(Meter::default());
    let mut all = quiet(run, 0, idle.base, &meter).await?;
    let mut watch = Watch::begin(run, "idle", "sessions", &meter).await?;
    watch.until(tokio::time::sleep(settle)).await;
    watch.measure().await;
    all.extend(watch.until(quiet(run, idle.base, idle.sessions, &meter)).await?);
    watch.until(tokio::time::sleep(settle)).await;
    let mut outcome = watch.finish().await;
    for connection in &mut all {
        // Whoever was thrown out meanwhile was no idle session.
        if connection.ask("get", "still", "<query xmlns='jabber:iq:roster'/>").await.is_err() {
            meter.trouble("a session did not last");
        }
    }
    close(all).await;
    outcome.faults = meter.faults();
    outcome.problems = meter.problems();
    outcome.kib_each = outcome.server.map(|used| used.rss_kib as f64 / idle.sessions.max(1) as f64);
    // The sessions come with logins, which another scenario measures.
    outcome.cpu_us_each = None;
    Ok(outcome)
}

async fn quiet(run: &Run, from: usize, n: usize, meter: &Arc<Meter>) -> Result<Vec<Connection>> {
    let (run, meter) = (run.clone(), meter.clone());
    crowd(n, CONCURRENCY, move |i| {
        let (run, meter) = (run.clone(), meter.clone());
        async move {
            let account = run.accounts.get(from + i).context("more sessions than accounts")?;
            let start = clock::nanos();
            let mut connection = client::login(&run.target, account, "load").await?;
            let items = connection.appear().await?;
            ensure!(items == 0, "{} has a roster of {items}", connection.jid);
            meter.done((clock::nanos() - start) / 1_000);
            Ok(connection)
        }
    })
    .await
}
