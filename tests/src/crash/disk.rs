//! Faults of the disk and of the clock, by the layer of `chappe-faults`.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use faults::{Dropped, Layer, Word};
use rand::Rng as _;

use super::{Fault, Faults};
use crate::history::Event;
use crate::server::Server;

/// The status of a process that cannot make durable what it has taken (`EX_SOFTWARE`).
const STORE_FAILED: i32 = 70;
/// In milliseconds.
const HOUR: i64 = 3_600_000;
/// How long a sync takes when the power can be cut: long enough that a kill often falls into one.
const SYNC: Duration = Duration::from_millis(3);

/// What faults did, over the run.
#[derive(Default)]
pub(super) struct Acts {
    dropped: Dropped,
    cuts: u64,
    ended: u64,
    refused_starts: u64,
    /// By how many milliseconds the clock is wrong.
    step: i64,
}

fn layer(server: &Server) -> Result<&Layer> {
    server.layer()
}

fn set(server: &Server, word: Word, value: u64) -> Result<()> {
    Ok(layer(server)?.set(word, value)?)
}

impl Faults<'_> {
    /// Before the first fault.
    pub(super) async fn prepare(&mut self) -> Result<()> {
        if self.plan.fault == Fault::Power {
            if std::env::var_os("CHAPPE_PLANT").is_some() {
                // What is lost shall be messages, not the accounts that were just made.
                self.server.kill9().await?;
                layer(self.server)?.forget()?;
                self.server.restart().await?;
            }
            set(self.server, Word::SyncDelay, SYNC.as_micros() as u64)?;
        }
        Ok(())
    }

    /// Makes one, and waits until the server takes clients again.
    pub(super) async fn disk_fault(&mut self, fault: Fault) -> Result<()> {
        match fault {
            Fault::Power => self.power().await,
            Fault::Full if self.rng.random() => self.full().await,
            Fault::Full => self.low().await,
            Fault::Slow => self.slow().await,
            Fault::ReadError => self.read_error().await,
            Fault::SyncError => self.sync_error().await,
            _ => self.clock().await,
        }
    }

    /// Ends the process at a moment of chance, or at a place where the power can go, counted from here.
    async fn strike(&mut self) -> Result<()> {
        if self.rng.random() {
            return self.server.kill9().await;
        }
        set(self.server, Word::CutAfter, self.rng.random_range(1..60))?;
        // Nobody may be writing, and so nobody reach the place.
        if tokio::time::timeout(Duration::from_secs(5), self.server.wait_exit()).await.is_err() {
            self.server.kill9().await?;
        }
        set(self.server, Word::CutAfter, 0)
    }

    async fn power(&mut self) -> Result<()> {
        self.strike().await?;
        self.cut()?;
        // One in four goes again while it starts: recovery must bear a cut too.
        while self.rng.random_ratio(1, 4) {
            set(self.server, Word::CutAfter, self.rng.random_range(1..80))?;
            self.server.spawn()?;
            if self.server.ended_or_ready().await?.is_none() {
                self.server.kill9().await?;
            }
            set(self.server, Word::CutAfter, 0)?;
            self.cut()?;
        }
        let before = self.server.log().len();
        self.server.spawn()?;
        if self.server.ended_or_ready().await?.is_none() {
            return Ok(());
        }
        // A fault in any case; but what is lost the archives can tell only if it goes on.
        let said = self.server.log().split_off(before);
        let why = said.lines().find(|l| l.starts_with("chappe: ")).unwrap_or(&said).to_owned();
        self.shared.history.add(Event::Broken { client: "the server".into(), why });
        self.server.accept_loss();
        self.server.restart().await
    }

    fn cut(&mut self) -> Result<()> {
        let seed = self.rng.random();
        let before = self.server.folder().join("before-cut");
        if std::env::var_os("CHAPPE_TEST_KEEP").is_some() {
            copy(&self.server.data(), &before)?;
        }
        let dropped = layer(self.server)?.cut(seed).context("cutting the power")?;
        self.acts.cuts += 1;
        self.acts.dropped += dropped;
        Ok(())
    }

    /// The disk fills up between two writes and nobody knew: the process ends, and starts again when there is room.
    async fn full(&mut self) -> Result<()> {
        set(self.server, Word::Space, self.rng.random_range(0..64 * 1024))?;
        self.ends().await?;
        if self.rng.random_ratio(1, 3) {
            set(self.server, Word::Space, 0)?;
            self.server.spawn()?;
            let ended = self.server.ended_or_ready().await?;
            let status = ended.with_context(|| format!("it starts on a full disk:\n{}", self.server.log()))?;
            ensure!(!status.success(), "it cannot start on a full disk and ends with {status}");
            self.acts.refused_starts += 1;
        }
        set(self.server, Word::Space, u64::MAX)?;
        self.server.restart().await
    }

    /// Until the process has ended by itself, since it cannot go on.
    async fn ends(&mut self) -> Result<()> {
        let status = self.server.wait_exit().await?;
        ensure!(status.code() == Some(STORE_FAILED), "it ended with {status}:\n{}", self.server.log());
        self.acts.ended += 1;
        Ok(())
    }

    /// There is little room left and the server sees it: it refuses messages and lives.
    async fn low(&mut self) -> Result<()> {
        let asked = layer(self.server)?.get(Word::FreeAsked)?;
        set(self.server, Word::Free, self.rng.random_range(0..1 << 20))?;
        while layer(self.server)?.get(Word::FreeAsked)? <= asked + 1 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.pause(Duration::from_millis(200), Duration::from_secs(2)).await;
        set(self.server, Word::Free, u64::MAX)?;
        // It says that it is ready only when it takes messages again.
        self.server.wait_ready().await
    }

    async fn slow(&mut self) -> Result<()> {
        let delay = self.rng.random_range(1_000..=5_000);
        set(self.server, Word::SyncDelay, delay * 1_000)?;
        self.pause(Duration::from_millis(delay), Duration::from_millis(delay * 2)).await;
        set(self.server, Word::SyncDelay, 0)?;
        self.server.wait_ready().await
    }

    /// The files cannot be read when it starts: it says so and ends, and starts when they can.
    async fn read_error(&mut self) -> Result<()> {
        set(self.server, Word::ReadsSpared, self.rng.random_range(0..40))?;
        set(self.server, Word::ReadErrors, self.rng.random_range(1..5))?;
        self.server.kill9().await?;
        self.server.spawn()?;
        if let Some(status) = self.server.ended_or_ready().await? {
            ensure!(!status.success(), "it cannot read its files and ends with {status}");
            let log = self.server.log();
            let last = log.lines().rev().take(20).any(|l| l.contains("Input/output error"));
            ensure!(last, "it does not say that its files cannot be read:\n{log}");
            self.acts.refused_starts += 1;
        }
        set(self.server, Word::ReadErrors, 0)?;
        set(self.server, Word::ReadsSpared, 0)?;
        if self.server.pid().is_err() {
            self.server.spawn()?;
        }
        self.server.wait_ready().await
    }

    /// A write or a sync fails, once: what was written before it may be lost, whatever a later sync says.
    async fn sync_error(&mut self) -> Result<()> {
        let which = if self.rng.random_ratio(2, 3) { Word::SyncErrors } else { Word::WriteErrors };
        set(self.server, which, 1)?;
        self.ends().await?;
        self.cut()?;
        self.server.restart().await
    }

    /// The clock jumps by up to an hour, to and fro; now and then the server starts anew with it.
    async fn clock(&mut self) -> Result<()> {
        let anew = self.rng.random_ratio(1, 4);
        // The time to resume of a session that is detached counts by this clock across a start: it has 600 s here.
        let most = if anew { (self.acts.step + 300_000).min(HOUR) } else { HOUR };
        self.acts.step = self.rng.random_range(-HOUR..=most);
        set(self.server, Word::ClockStep, self.acts.step as u64)?;
        if anew {
            let status = self.server.sigterm().await?;
            ensure!(status.success(), "it ended with {status}:\n{}", self.server.log());
            self.server.restart().await?;
            // Until all are back: what is detached counts by this clock until it is loaded, too.
            self.pause(Duration::from_millis(300), Duration::from_millis(600)).await;
            for _ in 0..6 {
                self.all_live().await;
            }
        }
        self.server.wait_ready().await
    }

    /// Tells the history what the faults did, and that the layer saw everything.
    pub(super) fn tell_acts(&self) -> Result<()> {
        let Ok(layer) = layer(self.server) else { return Ok(()) };
        let uncovered = layer.get(Word::Uncovered)?;
        ensure!(uncovered == 0, "{uncovered} calls on the data folder are not covered by the layer:\n{}", self.server.log());
        let (d, count) = (self.acts.dropped, |word| layer.get(word).context("the control page"));
        let acts = match self.plan.fault {
            Fault::Power => vec![
                ("bytes put back", d.bytes),
                ("files torn", d.torn),
                ("sizes put back", d.sizes),
                ("names put back", d.names),
                ("cuts, some while it starts", self.acts.cuts),
                ("of these in mid-change", count(Word::Cuts)?),
            ],
            Fault::Full => vec![
                ("ENOSPC", count(Word::Full)?),
                ("free space lied about", count(Word::FreeAsked)?),
                ("ended by itself", self.acts.ended),
                ("starts refused", self.acts.refused_starts),
            ],
            Fault::Slow => vec![("syncs made to wait", count(Word::SyncsDelayed)?)],
            Fault::ReadError => vec![("EIO", count(Word::ReadsFailed)?), ("starts refused", self.acts.refused_starts)],
            Fault::SyncError => vec![
                ("EIO of a sync", count(Word::SyncsFailed)?),
                ("EIO of a write", count(Word::WritesFailed)?),
                ("ended by itself", self.acts.ended),
                ("bytes put back", d.bytes),
            ],
            _ => vec![("wrong times read", count(Word::ClockReads)?)],
        };
        for (n, (what, count)) in acts.into_iter().enumerate() {
            // A power cut that took nothing away is a kill, however often it struck.
            let count = if self.plan.fault == Fault::Power && n > 3 && !d.any() { 0 } else { count };
            let (fault, what) = (self.plan.fault.name().to_owned(), what.to_owned());
            self.shared.history.add(Event::Acted { fault, what, count });
        }
        Ok(())
    }
}

fn copy(from: &std::path::Path, to: &std::path::Path) -> std::io::Result<()> {
    let _ = std::fs::remove_dir_all(to);
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let place = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &place)?;
        } else {
            std::fs::copy(entry.path(), place)?;
        }
    }
    Ok(())
}
