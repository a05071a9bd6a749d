//! The I/O of a client at work: it reads, writes, waits, and comes back when its connection was cut.

use super::Run;
use super::crew::{Crew, Phase};
use super::meter::{Meter, Watch};
use super::person::{Next, Person};
use crate::client::{Connection, READ_BYTES};
use crate::clock;
use crate::splitter::Frame;
use anyhow::{Context as _, Result, bail, ensure};
use std::future::Future as _;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::task::JoinSet;

/// Nothing has arrived for so long, so nothing more will.
pub(super) const QUIET_MAX: Duration = Duration::from_secs(15);
/// Between looks at what is still on its way.
pub(super) const LOOK: Duration = Duration::from_millis(20);
/// A client that does not leave by then is left behind.
const LEAVE_MAX: Duration = Duration::from_secs(30);
pub(super) const RESOURCE: &str = "load";

/// How long.
#[derive(Clone, Copy)]
pub(super) struct Timing {
    /// Seconds before the measured time.
    pub(super) warm_up: f64,
    /// Seconds measured.
    pub(super) seconds: f64,
}

/// Clients at work.
pub(super) struct Stage<'a> {
    run: &'a Run,
    crew: Arc<Crew>,
    at_work: JoinSet<()>,
    /// Seconds that a client stays away after a cut.
    pub(super) away: f64,
}

enum Ending {
    Leave,
    Cut,
}

impl<'a> Stage<'a> {
    pub(super) fn new(run: &'a Run, crew: &Arc<Crew>) -> Stage<'a> {
        if let Some(part) = &run.part {
            // A crew has one stage at a time, and always the same run.
            let _ = crew.slot.set((part.before, part.share));
        }
        Stage { run, crew: crew.clone(), at_work: JoinSet::new(), away: 0.0 }
    }

    /// Sets a client to work. `account` is its number among the accounts.
    pub(super) fn send(&mut self, connection: Connection, person: Person, account: usize) {
        let (run, crew, away) = (self.run.clone(), self.crew.clone(), Duration::from_secs_f64(self.away));
        self.at_work.spawn(async move {
            let number = person.number;
            if let Err(error) = live(&run, connection, person, account, away).await {
                let who = run.accounts.get(account).map_or("", |a| a.username.as_str());
                crew.deliveries.trouble(&format!("{who} left: {error:#}"));
                crew.gone.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                crew.wakes[number].notify_one();
            }
        });
    }

    /// Lets them act, measures, waits for what is on its way, and lets them leave.
    pub(super) async fn perform(
        mut self,
        name: &'static str,
        unit: &'static str,
        meter: &Arc<Meter>,
        timing: Timing,
    ) -> Result<super::Outcome> {
        let (run, crew) = (self.run, self.crew.clone());
        let mut watch = Watch::begin(run, name, unit, meter).await?;
        crew.enter(Phase::Warm);
        watch.until(hold(&crew, timing.warm_up)).await?;
        let probe = run.probe.as_ref().zip(run.pid).map(|(probe, pid)| probe.start(pid, timing.seconds)).transpose()?;
        watch.measure().await;
        crew.enter(Phase::Measure);
        watch.until(hold(&crew, timing.seconds)).await?;
        let mut outcome = watch.finish().await;
        crew.enter(Phase::Drain);
        if let Some(mut probe) = probe {
            tokio::task::spawn_blocking(move || probe.wait()).await??;
        }
        self.drain().await;
        self.leave().await;
        outcome.faults = crew.faults();
        outcome.problems = crew.problems();
        Ok(outcome)
    }

    /// Until everything has arrived, or nothing more does.
    pub(super) async fn drain(&self) {
        let (mut least, mut since) = (u64::MAX, clock::seconds());
        while !self.crew.is_empty() && clock::seconds() - since < QUIET_MAX.as_secs_f64() {
            let missing = self.crew.missing();
            if missing == 0 {
                return;
            }
            if missing < least {
                (least, since) = (missing, clock::seconds());
            }
            self.crew.wake_all();
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Everybody goes.
    pub(super) async fn leave(&mut self) {
        self.crew.enter(Phase::Leave);
        let everybody = async { while self.at_work.join_next().await.is_some() {} };
        if tokio::time::timeout(LEAVE_MAX, everybody).await.is_err() {
            self.at_work.abort_all();
        }
    }
}

/// Waits, as long as anybody is there.
async fn hold(crew: &Crew, seconds: f64) -> Result<()> {
    let end = clock::seconds() + seconds;
    loop {
        let left = end - clock::seconds();
        ensure!(!crew.is_empty(), "all clients have left: {}", crew.problems().join("; "));
        if left <= 0.0 {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_secs_f64(left.min(0.25))).await;
    }
}

async fn live(run: &Run, mut connection: Connection, mut person: Person, account: usize, away: Duration) -> Result<()> {
    let mut out = String::new();
    loop {
        match carry(&mut connection, &mut person, &mut out).await? {
            Ending::Leave => {
                // Else what it has not acknowledged waits for the next session (XEP-0198 §4 recommends it).
                let _ = connection.send(&person.last_ack()).await;
                connection.close().await;
                return Ok(());
            }
            Ending::Cut => {
                // What was not written yet is kept as unacknowledged.
                out.clear();
                drop(connection);
                tokio::time::sleep(away).await;
                connection = super::reconnect::come_back(run, &mut person, account, &mut out).await?;
            }
        }
    }
}

/// Reads and writes until the client wants something else.
async fn carry(connection: &mut Connection, person: &mut Person, out: &mut String) -> Result<Ending> {
    let crew = person.crew.clone();
    let mut bytes = vec![0; READ_BYTES];
    let (mut at, mut flushed) = (0, out.is_empty());
    let mut wait = None;
    loop {
        while let Some(frame) = connection.splitter.next()? {
            match frame {
                Frame::Header(_) => bail!("a second header"),
                Frame::Element(stanza) => person.take(stanza)?,
                Frame::End if crew.phase() == Phase::Leave => return Ok(Ending::Leave),
                Frame::End => bail!("the server has ended the stream"),
            }
        }
        // A client that the server does not read falls behind its own time, which its latencies show.
        if at == out.len() && flushed {
            out.clear();
            at = 0;
            match person.poll(clock::nanos(), out)? {
                Next::Wait(next) => wait = next,
                Next::Cut => return Ok(Ending::Cut),
                Next::Leave => return Ok(Ending::Leave),
            }
            flushed = out.is_empty();
        }
        let n = step(connection, person.number, &crew, &mut bytes, (out.as_bytes(), &mut at, &mut flushed), wait).await?;
        connection.splitter.feed(&bytes[..n.unwrap_or(0)]);
        ensure!(n != Some(0), "the server has closed the connection");
    }
}

/// Writes what there is, until bytes were read (how many) or it is time to look again (none).
async fn step(
    connection: &mut Connection,
    number: usize,
    crew: &Crew,
    bytes: &mut [u8],
    (out, at, flushed): (&[u8], &mut usize, &mut bool),
    wait: Option<u64>,
) -> Result<Option<usize>> {
    let mut woken = pin!(crew.wakes[number].notified());
    let delay = wait.map_or(Duration::from_secs(3600), |due| Duration::from_nanos(due.saturating_sub(clock::nanos())));
    let mut sleep = pin!(tokio::time::sleep(delay));
    let done = std::future::poll_fn(|cx| {
        let mut io = Pin::new(&mut connection.io);
        while !*flushed {
            let progress = if *at < out.len() {
                io.as_mut().poll_write(cx, &out[*at..]).map(|n| match n? {
                    0 => Err(io::Error::from(io::ErrorKind::WriteZero)),
                    n => {
                        *at += n;
                        Ok(())
                    }
                })
            } else {
                io.as_mut().poll_flush(cx).map_ok(|()| *flushed = true)
            };
            match progress {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => break,
            }
        }
        let mut buffer = ReadBuf::new(bytes);
        if let Poll::Ready(read) = io.as_mut().poll_read(cx, &mut buffer) {
            return Poll::Ready(read.map(|()| Some(buffer.filled().len())));
        }
        if *flushed && (woken.as_mut().poll(cx).is_ready() || (wait.is_some() && sleep.as_mut().poll(cx).is_ready())) {
            return Poll::Ready(Ok(None));
        }
        Poll::Pending
    });
    done.await.context("the connection")
}
