//! Fresh logins: TCP, TLS if any, SCRAM-SHA-256, binding. The sessions stay until all are in, so no logout is measured.

use super::{Latency, Outcome, Run, close, sessions};
use crate::clock;
use crate::histogram::Histogram;
use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Logins before the measured ones.
const WARM_UP: usize = 32;

/// How many, and how many at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    /// Logins that are measured.
    pub logins: usize,
    /// Clients that log in at the same time.
    pub concurrency: usize,
}

/// Runs it. `count` is of logins.
///
/// # Errors
/// A login that fails.
pub async fn login(run: &Run, login: Login) -> Result<Outcome> {
    let latency = Arc::new(Histogram::default());
    let warm = sessions(run, 0, WARM_UP.min(login.logins), login.concurrency, &latency).await?;
    close(warm).await;
    run.progress.begin("login", "logins");
    let (latency, start) = (Arc::new(Histogram::default()), clock::seconds());
    let before = run.sample()?;
    let all = sessions(run, 0, login.logins, login.concurrency, &latency).await?;
    let after = run.sample()?;
    let seconds = clock::seconds() - start;
    run.progress.end();
    close(all).await;
    let mut outcome = Outcome::new(u64::try_from(login.logins)?, before, after, seconds);
    outcome.latency = Latency::of(&latency.counts());
    Ok(outcome)
}
