//! One-to-one chat: pairs of clients, each sending to the other's full JID.
//!
//! Closed loop: each client keeps `window` messages on their way. Open loop: each sends at a fixed rate whatever the
//! server does, and a message's latency counts from when it was due, so a stall is not hidden by the waiting sender.

use super::{CONCURRENCY, Latency, Outcome, Run, sessions};
use crate::client::{Connection, Io, READ_BYTES};
use crate::clock;
use crate::element::{self, attr, body};
use crate::histogram::Histogram;
use crate::order::{Faults, Order};
use crate::splitter::{Frame, Splitter};
use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::{Notify, watch};

/// After the last message so long is waited for those on their way.
const DRAIN_MAX: Duration = Duration::from_secs(15);
/// The generator's own timer may be late by so much; a message is late only beyond it.
const TIMER_SLACK_NS: u64 = 2_000_000;
const SM: &str = "urn:xmpp:sm:3";

/// Who talks how.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Chat {
    /// Pairs of clients; both of a pair send.
    pub pairs: usize,
    /// Closed loop: messages of one sender on their way.
    pub window: u64,
    /// Open loop: messages a second of all senders together.
    pub rate: Option<f64>,
    /// Stream management (XEP-0198) on both sides.
    pub management: bool,
    /// With it: an `<r/>` after so many messages.
    pub ack_every: u64,
    /// Bytes of a body, at least 60.
    pub body_bytes: usize,
    /// Seconds before the measured time.
    pub warm_up: f64,
    /// Seconds measured.
    pub measure: f64,
}

/// Before both the clients talk and nothing is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Measure = 1,
    Drain = 2,
}

#[derive(Default)]
struct Shared {
    phase: AtomicU8,
    delivered: AtomicU64,
    errors: AtomicU64,
    latency: Histogram,
}

impl Shared {
    fn is(&self, phase: Phase) -> bool {
        self.phase.load(Relaxed) == phase as u8
    }
}

/// The messages of one client to its partner.
struct Flow {
    to: String,
    sent: AtomicU64,
    /// Arrived as new ones.
    arrived: AtomicU64,
    refused: AtomicU64,
    order: Mutex<Order>,
    /// XEP-0198: what of `sent` the server has taken.
    acked: AtomicU64,
    /// Wakes the sender: there is room, or something to answer.
    wake: Notify,
}

impl Flow {
    fn settled(&self, management: bool) -> bool {
        let sent = self.sent.load(Relaxed);
        self.arrived.load(Relaxed) + self.refused.load(Relaxed) >= sent && (!management || self.acked.load(Relaxed) >= sent)
    }
}

struct Talker {
    chat: Chat,
    shared: Arc<Shared>,
    out: Arc<Flow>,
    incoming: Arc<Flow>,
    /// Stanzas received since XEP-0198 was enabled.
    handled: AtomicU32,
    ack_due: AtomicBool,
    answers: Mutex<Vec<u8>>,
}

/// Runs it. `count` is of messages delivered in the measured time.
///
/// # Errors
/// A login that fails, or a connection that ends.
pub async fn chat(run: &Run, chat: Chat) -> Result<Outcome> {
    let clients = chat.pairs * 2;
    let mut connections = sessions(run, 0, clients, CONCURRENCY, &Arc::default()).await?;
    for connection in &mut connections {
        if chat.management {
            connection.enable_management().await?;
        }
    }
    let flows: Vec<_> = (0..clients).map(|i| Arc::new(flow(&connections[i ^ 1].jid))).collect();
    let shared = Arc::new(Shared::default());
    let (finish, finished) = watch::channel(false);
    let mut talkers = tokio::task::JoinSet::new();
    for (i, mut connection) in connections.into_iter().enumerate() {
        // Available, so that messages are theirs to get; with XEP-0198 the presence that comes back is counted.
        connection.send("<presence/>").await?;
        let talker = Talker {
            chat,
            shared: shared.clone(),
            out: flows[i].clone(),
            incoming: flows[i ^ 1].clone(),
            handled: AtomicU32::new(0),
            ack_due: AtomicBool::new(false),
            answers: Mutex::default(),
        };
        talkers.spawn(talk(connection, talker, i, finished.clone()));
    }
    let measured = measure(run, chat, &shared, &flows);
    let mut outcome = tokio::select! {
        outcome = measured => outcome?,
        // Nobody leaves before the end unless something broke.
        Some(ended) = talkers.join_next() => { ended??; bail!("a client left") }
    };
    finish.send_replace(true);
    while let Some(ended) = talkers.join_next().await {
        ended??;
    }
    for flow in &flows {
        let order = flow.order.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = flow.sent.load(Relaxed) - flow.refused.load(Relaxed);
        outcome.faults.add(order.faults(sent, flow.arrived.load(Relaxed)));
    }
    outcome.faults.add(Faults { errors: shared.errors.load(Relaxed), ..Faults::default() });
    Ok(outcome)
}

fn flow(to: &str) -> Flow {
    Flow {
        to: element::escape(to),
        sent: AtomicU64::new(0),
        arrived: AtomicU64::new(0),
        refused: AtomicU64::new(0),
        order: Mutex::default(),
        acked: AtomicU64::new(0),
        wake: Notify::new(),
    }
}

async fn measure(run: &Run, chat: Chat, shared: &Shared, flows: &[Arc<Flow>]) -> Result<Outcome> {
    tokio::time::sleep(Duration::from_secs_f64(chat.warm_up)).await;
    let probe = run.probe.as_ref().zip(run.pid).map(|(probe, pid)| probe.start(pid, chat.measure)).transpose()?;
    run.progress.begin("chat", "messages");
    let before = run.sample()?;
    let (start, first, latency) = (clock::seconds(), shared.delivered.load(Relaxed), shared.latency.counts());
    shared.phase.store(Phase::Measure as u8, Relaxed);
    let (mut told, mut now) = (first, start);
    while now - start < chat.measure {
        tokio::time::sleep(Duration::from_secs_f64((chat.measure - (now - start)).min(1.0))).await;
        let delivered = shared.delivered.load(Relaxed);
        run.progress.add(delivered - told);
        run.progress.note(&format!("errors {}", shared.errors.load(Relaxed)));
        (told, now) = (delivered, clock::seconds());
    }
    let after = run.sample()?;
    let (seconds, count) = (clock::seconds() - start, shared.delivered.load(Relaxed) - first);
    let latency = shared.latency.counts().since(&latency);
    shared.phase.store(Phase::Drain as u8, Relaxed);
    run.progress.end();
    if let Some(mut probe) = probe {
        tokio::task::spawn_blocking(move || probe.wait()).await??;
    }
    let drain = async {
        while !flows.iter().all(|f| f.settled(chat.management)) {
            flows.iter().for_each(|f| f.wake.notify_one());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let _ = tokio::time::timeout(DRAIN_MAX, drain).await;
    let mut outcome = Outcome::new(count, before, after, seconds);
    outcome.latency = Latency::of(&latency);
    Ok(outcome)
}

async fn talk(connection: Connection, talker: Talker, number: usize, mut finished: watch::Receiver<bool>) -> Result<()> {
    let Connection { io, splitter, jid, .. } = connection;
    let (reader, mut writer) = tokio::io::split(io);
    // One task: a client's two halves never wake each other across threads.
    tokio::select! {
        done = async { tokio::try_join!(talker.read(reader, splitter), talker.write(&mut writer, number)) } => {
            let _ = done.context(jid)?;
        }
        _ = finished.wait_for(|f| *f) => {}
    }
    let _ = writer.write_all(b"</stream:stream>").await;
    let _ = writer.shutdown().await;
    Ok(())
}

impl Talker {
    async fn read(&self, mut reader: ReadHalf<Io>, mut splitter: Splitter) -> Result<()> {
        let mut bytes = vec![0; READ_BYTES];
        loop {
            while let Some(frame) = splitter.next()? {
                match frame {
                    Frame::Header(_) => bail!("a second header"),
                    Frame::Element(stanza) => self.take(stanza)?,
                    Frame::End => bail!("the server has ended the stream"),
                }
            }
            let n = reader.read(&mut bytes).await?;
            if n == 0 {
                bail!("the server has closed the connection");
            }
            splitter.feed(&bytes[..n]);
        }
    }

    fn take(&self, stanza: &[u8]) -> Result<()> {
        match element::name(stanza) {
            b"r" => {
                self.ack_due.store(true, Relaxed);
                self.out.wake.notify_one();
                return Ok(());
            }
            b"a" => {
                let h = attr(stanza, b"h").and_then(|h| std::str::from_utf8(h).ok()?.parse::<u64>().ok()).context("<a/> without h")?;
                // The presence was the first stanza that counted.
                self.out.acked.store(h.saturating_sub(1), Relaxed);
                return Ok(());
            }
            b"error" => bail!("stream error: {}", String::from_utf8_lossy(stanza)),
            _ => {}
        }
        self.handled.fetch_add(1, Relaxed);
        match element::name(stanza) {
            b"message" if attr(stanza, b"type") == Some(b"error") => {
                self.shared.errors.fetch_add(1, Relaxed);
                self.out.refused.fetch_add(1, Relaxed);
                self.out.wake.notify_one();
            }
            b"message" => self.arrived(stanza)?,
            b"iq" if attr(stanza, b"type") == Some(b"get") => {
                let value = |name| String::from_utf8_lossy(attr(stanza, name).unwrap_or_default()).into_owned();
                let to = Some(value(b"from")).filter(|f| !f.is_empty()).map(|f| format!(" to='{f}'")).unwrap_or_default();
                let answer = format!("<iq type='result' id='{}'{to}/>", value(b"id"));
                self.answers.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(answer.as_bytes());
                self.out.wake.notify_one();
            }
            _ => {}
        }
        Ok(())
    }

    fn arrived(&self, stanza: &[u8]) -> Result<()> {
        let now = clock::nanos();
        let text = body(stanza).and_then(|b| std::str::from_utf8(b).ok()).context("a message without a body")?;
        let mut fields = text.split(' ').map(str::parse::<u64>);
        let (Some(Ok(number)), Some(Ok(due))) = (fields.next(), fields.next()) else { bail!("a body that nobody sent: {text}") };
        if !self.incoming.order.lock().unwrap_or_else(PoisonError::into_inner).arrived(number) {
            return Ok(());
        }
        self.shared.latency.record(now.saturating_sub(due) / 1_000);
        self.shared.delivered.fetch_add(1, Relaxed);
        self.incoming.arrived.fetch_add(1, Relaxed);
        self.incoming.wake.notify_one();
        Ok(())
    }

    async fn write(&self, writer: &mut WriteHalf<Io>, number: usize) -> Result<()> {
        let clients = self.chat.pairs * 2;
        let interval = self.chat.rate.map(|rate| (clients as f64 / rate * 1e9) as u64);
        // Open loop: senders begin spread over one interval, not all at once.
        let mut due = clock::nanos() + interval.unwrap_or(0) * u64::try_from(number)? / u64::try_from(clients)?;
        let (mut batch, mut asked) = (String::new(), 0);
        loop {
            batch.clear();
            if self.ack_due.swap(false, Relaxed) {
                let _ = write!(batch, "<a xmlns='{SM}' h='{}'/>", self.handled.load(Relaxed));
            }
            let answers = std::mem::take(&mut *self.answers.lock().unwrap_or_else(PoisonError::into_inner));
            batch += std::str::from_utf8(&answers)?;
            let sent = self.out.sent.load(Relaxed);
            if self.shared.is(Phase::Drain) {
                if self.chat.management && asked != sent {
                    asked = sent;
                    let _ = write!(batch, "<r xmlns='{SM}'/>");
                }
            } else if let Some(interval) = interval {
                while due <= clock::nanos() {
                    self.push(&mut batch, due);
                    due += interval;
                }
            } else {
                let gone = self.out.arrived.load(Relaxed) + self.out.refused.load(Relaxed);
                (sent..gone + self.chat.window).for_each(|_| self.push(&mut batch, u64::MAX));
            }
            if !batch.is_empty() {
                writer.write_all(batch.as_bytes()).await?;
                writer.flush().await?;
            } else if interval.is_some() && !self.shared.is(Phase::Drain) {
                let wait = Duration::from_nanos(due.saturating_sub(clock::nanos()));
                let _ = tokio::time::timeout(wait, self.out.wake.notified()).await;
            } else {
                self.out.wake.notified().await;
            }
        }
    }

    /// Writes the next message. Its latency counts from now, or from when it was due if that is long ago.
    fn push(&self, batch: &mut String, due: u64) {
        let (now, number) = (clock::nanos(), self.out.sent.fetch_add(1, Relaxed));
        let since = if now.saturating_sub(due) > TIMER_SLACK_NS { due } else { now };
        let _ = write!(batch, "<message to='{}' type='chat' id='m{number}'><body>", self.out.to);
        let start = batch.len();
        let _ = write!(batch, "{number} {since} ");
        while batch.len() - start < self.chat.body_bytes {
            batch.push_str(&"the quick brown fox jumps over the lazy dog "[..(self.chat.body_bytes + start - batch.len()).min(44)]);
        }
        batch.push_str("</body></message>");
        if self.chat.management && (number + 1).is_multiple_of(self.chat.ack_every.max(1)) {
            let _ = write!(batch, "<r xmlns='{SM}'/>");
        }
    }
}
