//! Fresh logins: TCP, TLS if any, SASL, binding. The sessions stay until all are in, so no logout is measured.

use super::meter::{Meter, Watch};
use super::{CONCURRENCY, Outcome, Run, close, crowd};
use crate::client::{self, Connection};
use crate::clock;
use crate::tls;
use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Logins before the measured ones.
const WARM_UP: usize = 32;

/// How many, how many at a time, or at which rate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Storm {
    /// Logins that are measured, each of an account of its own.
    pub logins: usize,
    /// Clients that log in at the same time, at most.
    pub concurrency: usize,
    /// Logins a second, whatever the server does; without it the next comes when one is in.
    pub rate: Option<f64>,
    /// TLS sessions are resumed (RFC 8446 §2.2) where an earlier login has left a ticket.
    pub resume: bool,
}

impl Default for Storm {
    fn default() -> Self {
        Storm { logins: 200, concurrency: CONCURRENCY, rate: None, resume: false }
    }
}

/// Runs it. `count` is of logins; at a rate their latency counts from when they were due.
///
/// # Errors
/// All logins fail.
pub async fn storm(run: &Run, storm: Storm) -> Result<Outcome> {
    let mut run = run.clone();
    if storm.resume {
        run.target.config = tls::resuming(&run.target.config);
    }
    let run = &run;
    let warm = super::sessions(run, 0, WARM_UP.min(storm.logins), storm.concurrency, &Arc::default()).await?;
    close(warm).await;
    let meter = Arc::new(Meter::default());
    let mut watch = Watch::begin(run, "login", "logins", &meter).await?;
    let sessions = Arc::new(Mutex::new(Vec::<Connection>::new()));
    let (runs, counts, kept, start) = (run.clone(), meter.clone(), sessions.clone(), clock::nanos());
    // The parts of a run act in turn.
    let before = run.part.as_ref().map_or(0.0, |part| part.before);
    let all = crowd(storm.logins, storm.concurrency, move |i| {
        let (run, meter, kept) = (runs.clone(), counts.clone(), kept.clone());
        async move {
            let due = storm.rate.map_or_else(clock::nanos, |rate| start + ((i as f64 + before) / rate * 1e9) as u64);
            tokio::time::sleep(Duration::from_nanos(due.saturating_sub(clock::nanos()))).await;
            let account = run.accounts.get(i).context("more logins than accounts")?;
            match client::login(&run.target, account, "load").await {
                Ok(connection) => {
                    meter.done((clock::nanos().saturating_sub(due)) / 1_000);
                    kept.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
                }
                Err(error) => meter.trouble(&format!("{error:#}")),
            }
            anyhow::Ok(())
        }
    });
    watch.until(all).await?;
    let mut outcome = watch.finish().await;
    let sessions = std::mem::take(&mut *sessions.lock().unwrap_or_else(PoisonError::into_inner));
    if storm.resume {
        let resumed = sessions.iter().filter(|c| c.io.is_resumed()).count();
        outcome.parts.insert("TLS sessions resumed".into(), resumed as f64);
    }
    close(sessions).await;
    outcome.faults = meter.faults();
    outcome.problems = meter.problems();
    if outcome.count == 0 && storm.logins > 0 {
        bail!("no login succeeded: {}", outcome.problems.join("; "));
    }
    Ok(outcome)
}
