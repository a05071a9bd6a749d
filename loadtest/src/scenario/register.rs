//! Accounts by in-band registration (XEP-0077), each on a connection of its own.

use super::meter::{Meter, Watch};
use super::{CONCURRENCY, Outcome, Run, crowd};
use crate::client::{Connection, Refused};
use crate::clock;
use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// How.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Register {
    /// Connections at the same time.
    pub concurrency: usize,
    /// An account that is there already is no error.
    pub existing: bool,
}

impl Default for Register {
    fn default() -> Self {
        Register { concurrency: CONCURRENCY, existing: true }
    }
}

/// Makes the run's accounts, which must not exist.
///
/// # Errors
/// A refusal.
pub async fn register(run: &Run) -> Result<Outcome> {
    accounts(run, Register { existing: false, ..Register::default() }).await
}

/// Makes the run's accounts. `count` is of those that are new.
///
/// # Errors
/// A refusal.
pub async fn accounts(run: &Run, register: Register) -> Result<Outcome> {
    let (meter, there) = (Arc::new(Meter::default()), Arc::new(AtomicU64::new(0)));
    let mut watch = Watch::begin(run, "register", "accounts", &meter).await?;
    let (runs, counts, known) = (run.clone(), meter.clone(), there.clone());
    let all = crowd(run.accounts.len(), register.concurrency, move |i| {
        let (run, meter, there) = (runs.clone(), counts.clone(), known.clone());
        async move {
            let account = run.accounts.get(i).context("no such account")?;
            let start = clock::nanos();
            let mut connection = Connection::open(&run.target).await?;
            match connection.register(account).await {
                Ok(()) => meter.done((clock::nanos() - start) / 1_000),
                Err(error) if register.existing && is_conflict(&error) => _ = there.fetch_add(1, Relaxed),
                Err(error) => return Err(error.context(account.username.clone())),
            }
            connection.close().await;
            Ok(())
        }
    });
    watch.until(all).await?;
    let mut outcome = watch.finish().await;
    outcome.faults = meter.faults();
    outcome.parts.insert("existed already".into(), there.load(Relaxed) as f64);
    Ok(outcome)
}

fn is_conflict(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Refused>().is_some_and(|r| r.condition == "conflict")
}
