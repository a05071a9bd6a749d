//! One-to-one chat: pairs of clients, each sending to the other's full JID.
//!
//! Closed loop: each client keeps `window` messages on their way. Open loop: each sends at a fixed rate whatever the
//! server does, and a message's latency counts from when it was due, so a stall is not hidden by the waiting sender.

use super::crew::{Crew, Flow, Phase};
use super::drive::{Stage, Timing};
use super::person::{Management, Payload, Person, Talk, What};
use super::{Outcome, Run, open_loop, window_of};
use crate::client::Connection;
use crate::element::escape;
use crate::splitter::Frame;
use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Who talks how.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
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
    #[serde(rename = "seconds")]
    pub measure: f64,
}

impl Default for Chat {
    fn default() -> Self {
        Chat { pairs: 25, window: 4, rate: None, management: false, ack_every: 5, body_bytes: 200, warm_up: 2.0, measure: 10.0 }
    }
}

/// Runs it. `count` is of messages delivered in the measured time.
///
/// # Errors
/// A login that fails, or all clients leave.
pub async fn chat(run: &Run, chat: Chat) -> Result<Outcome> {
    let people = chat.pairs * 2;
    let mut connections = super::present(run, people).await?;
    let window = window_of(chat.rate, chat.window);
    let flows = (0..people).map(|i| Flow::new(i, 1, window.is_some())).collect();
    let crew = Arc::new(Crew::new(people, flows, open_loop(chat.rate)));
    let jids: Vec<_> = connections.iter().map(|c| escape(&c.jid)).collect();
    if chat.management {
        for connection in &mut connections {
            connection.enable_management().await?;
        }
    }
    let mut stage = Stage::new(run, &crew);
    for (i, connection) in connections.into_iter().enumerate() {
        let what = What::Message { flow: u32::try_from(i)?, to: jids[i ^ 1].clone(), kind: "chat", body_bytes: chat.body_bytes };
        let talk = Talk::new(what, window, 1.0 / people as f64, i, people);
        let mut person = Person::new(i, &crew, vec![talk], [u32::try_from(i ^ 1)?]);
        person.management = chat.management.then(|| Management::new(None, chat.ack_every));
        stage.send(connection, person, i);
    }
    let timing = Timing { warm_up: chat.warm_up, seconds: chat.measure };
    stage.perform("chat", "messages", &crew.deliveries.clone(), timing).await
}

/// A flow from each to its partner.
pub(super) fn fill(people: usize) -> Vec<Flow> {
    (0..people).map(|i| Flow::new(i, 1, false)).collect()
}

/// Each sends so many messages to its partner and waits until it has as many; the connections come back.
pub(super) async fn converse(
    run: &Run,
    crew: &Arc<Crew>,
    connections: Vec<Connection>,
    messages: u64,
    body_bytes: usize,
) -> Result<Vec<Connection>> {
    crew.enter(Phase::Warm);
    let jids: Vec<_> = connections.iter().map(|c| escape(&c.jid)).collect();
    let mut talking = tokio::task::JoinSet::new();
    for (i, connection) in connections.into_iter().enumerate() {
        let (crew, to, progress) = (crew.clone(), jids[i ^ 1].clone(), run.progress.clone());
        talking.spawn(async move {
            let done = tell(connection, &crew, i, &to, (messages, body_bytes)).await;
            progress.show("filling archives");
            done.map(|connection| (i, connection))
        });
    }
    let mut all = Vec::new();
    while let Some(done) = talking.join_next().await {
        all.push(done??);
    }
    run.progress.end();
    all.sort_by_key(|(i, _)| *i);
    Ok(all.into_iter().map(|(_, connection)| connection).collect())
}

/// Messages that one sends before it reads again.
const BATCH: u64 = 20;

async fn tell(mut connection: Connection, crew: &Arc<Crew>, i: usize, to: &str, (messages, bytes): (u64, usize)) -> Result<Connection> {
    use std::fmt::Write as _;
    use std::sync::atomic::Ordering::Relaxed;
    let flow = u32::try_from(i)?;
    let mut person = Person::new(i, crew, Vec::new(), [u32::try_from(i ^ 1)?]);
    let (mine, theirs) = (&crew.flows[i], &crew.flows[i ^ 1]);
    loop {
        let (sent, arrived) = (mine.sent.load(Relaxed), theirs.arrived.load(Relaxed));
        if sent == messages && arrived + theirs.refused.load(Relaxed) >= messages {
            return Ok(connection);
        }
        // In step with the partner, so that neither fills the other's buffers.
        if sent < messages && sent <= arrived + BATCH {
            let mut out = String::new();
            for number in sent..messages.min(sent + BATCH) {
                let _ = write!(out, "<message to='{to}' type='chat' id='m{flow}.{number}'><body>");
                Payload { flow, number, since: crate::clock::nanos() }.write(crew.tag, bytes, &mut out);
                out.push_str("</body></message>");
                mine.sent.fetch_add(1, Relaxed);
            }
            connection.send(&out).await?;
            continue;
        }
        next(&mut connection, &mut person).await?;
    }
}

/// Takes what comes next; silence is a failure.
pub(super) async fn next(connection: &mut Connection, person: &mut Person) -> Result<()> {
    loop {
        match connection.splitter.next()? {
            Some(Frame::Element(stanza)) => {
                person.take(stanza)?;
                let mut out = String::new();
                person.poll(0, &mut out)?;
                return if out.is_empty() { Ok(()) } else { connection.send(&out).await };
            }
            Some(other) => anyhow::bail!("{}", if other == Frame::End { "the server has ended the stream" } else { "a second header" }),
            None => {}
        }
        let mut bytes = [0; crate::client::READ_BYTES];
        let reading = tokio::io::AsyncReadExt::read(&mut connection.io, &mut bytes);
        let n = tokio::time::timeout(crate::client::ANSWER_MAX, reading).await.context("no answer")??;
        ensure!(n > 0, "the server has closed the connection");
        connection.splitter.feed(&bytes[..n]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::element;

    #[test]
    fn bodies_have_their_length() {
        let payload = Payload { flow: 3, number: 14, since: 159 };
        let mut text = String::new();
        payload.write(0xabc, 200, &mut text);
        assert_eq!(text.len(), 200);
        assert_eq!(Payload::parse(text.as_bytes(), 0xabc), Some(payload));
        assert_eq!(Payload::parse(text.as_bytes(), 0xabd), None);
        let stanza = format!("<message><body>{text}</body></message>");
        assert_eq!(element::body(stanza.as_bytes()), Some(text.as_bytes()));
    }
}
