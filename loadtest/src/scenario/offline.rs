//! Messages for accounts that are offline: first they are stored, then the recipients come, all at once, and get them.

use super::crew::{Crew, Curve, Flow, Phase};
use super::drive::{RESOURCE, Stage};
use super::meter::{Meter, Watch};
use super::person::{Payload, Person};
use super::{CONCURRENCY, Outcome, Run, close, crowd};
use crate::client::{self, Connection};
use crate::clock;
use crate::element::escape;
use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Messages that a sender sends before it waits for the server to have them.
const BATCH: u64 = 20;
const DISCO_INFO: &str = "http://jabber.org/protocol/disco#info";

/// How much for whom.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Offline {
    /// Clients that send: the first accounts.
    pub senders: usize,
    /// Accounts that get, and are not there yet: the accounts after them.
    pub recipients: usize,
    /// Messages for each recipient, all from one sender. Servers keep a limited number for an account.
    pub messages: u64,
    /// Bytes of a body.
    pub body_bytes: usize,
    /// Recipients that log in at the same time.
    pub concurrency: usize,
}

impl Default for Offline {
    fn default() -> Self {
        Offline { senders: 10, recipients: 100, messages: 50, body_bytes: 200, concurrency: CONCURRENCY }
    }
}

/// Runs it. `count` is of messages that came out of the store in the second part; their latency counts from the presence
/// that asked for them. How fast they were stored stands in the parts.
///
/// # Errors
/// No storage for offline accounts, a login that fails.
pub async fn offline(run: &Run, offline: Offline) -> Result<Outcome> {
    let Offline { senders, recipients, .. } = offline;
    ensure!(senders > 0 && recipients > 0, "messages need senders and recipients");
    let flows = (0..recipients).map(|r| Flow::new(r % senders, 1, false)).collect();
    let crew = Arc::new(Crew::new(senders + recipients, flows, Curve::default()));
    let (stored, took) = store(run, &crew, offline).await?;
    let mut outcome = flood(run, &crew, offline).await?;
    outcome.parts.insert("stored".into(), stored as f64);
    outcome.parts.insert("stored a second".into(), stored as f64 / took.max(1e-9));
    Ok(outcome)
}

/// How many messages the server has taken, and in how many seconds.
async fn store(run: &Run, crew: &Arc<Crew>, offline: Offline) -> Result<(u64, f64)> {
    let connections = super::sessions(run, 0, offline.senders, CONCURRENCY, &Arc::default()).await?;
    let meter = Arc::new(Meter::default());
    let mut watch = Watch::begin(run, "offline, storing", "messages", &meter).await?;
    let start = clock::seconds();
    let mut sending = tokio::task::JoinSet::new();
    for (s, connection) in connections.into_iter().enumerate() {
        let (run, crew, meter) = (run.clone(), crew.clone(), meter.clone());
        sending.spawn(async move { send(&run, &crew, connection, s, offline, &meter).await });
    }
    let all = async {
        let mut back = Vec::new();
        while let Some(connection) = sending.join_next().await {
            back.push(connection??);
        }
        anyhow::Ok(back)
    };
    let back = watch.until(all).await?;
    let took = clock::seconds() - start;
    run.progress.end();
    close(back).await;
    let refused: u64 = crew.flows.iter().map(|f| f.refused.load(Relaxed)).sum();
    let sent: u64 = crew.flows.iter().map(|f| f.sent.load(Relaxed)).sum();
    if refused == sent {
        bail!("the server offers no storage for offline accounts (XEP-0160): {}", crew.problems().join("; "));
    }
    Ok((sent - refused, took))
}

async fn send(run: &Run, crew: &Arc<Crew>, mut connection: Connection, s: usize, offline: Offline, meter: &Meter) -> Result<Connection> {
    let mut person = Person::new(s, crew, Vec::new(), []);
    let mut asked = 0;
    for r in (s..offline.recipients).step_by(offline.senders) {
        let account = run.accounts.get(offline.senders + r).context("more recipients than accounts")?;
        let (flow, to) = (u32::try_from(r)?, escape(&format!("{}@{}", account.username, run.target.domain)));
        let mut number = 0;
        while number < offline.messages {
            let (mut out, start, first) = (String::new(), clock::nanos(), number);
            while number < offline.messages.min(first + BATCH) {
                let _ = write!(out, "<message to='{to}' type='chat' id='m{flow}.{number}'><body>");
                Payload { flow, number, since: clock::nanos() }.write(crew.tag, offline.body_bytes, &mut out);
                out.push_str("</body></message>");
                crew.flows[r].sent.fetch_add(1, Relaxed);
                number += 1;
            }
            connection.send(&out).await?;
            asked += 1;
            confirmed(&mut connection, &mut person, &run.target.domain, asked).await?;
            let each = (clock::nanos() - start) / 1_000;
            (first..number).for_each(|_| meter.done(each));
        }
    }
    Ok(connection)
}

/// A server takes one client's stanzas in order (RFC 6120 §10.1), so an answer to the last says that it has the others;
/// refusals of them come before it or are waited for with it.
async fn confirmed(connection: &mut Connection, person: &mut Person, domain: &str, number: u64) -> Result<()> {
    let id = format!("have{number}");
    let to = escape(domain);
    connection.send(&format!("<iq type='get' id='{id}' to='{to}'><query xmlns='{DISCO_INFO}'/></iq>")).await?;
    loop {
        let answer = connection.next().await?;
        match answer.name.as_str() {
            "iq" if answer.attr("id") == Some(&id) => return Ok(()),
            "message" if answer.attr("type") == Some("error") => person.refused_message(answer.attr("id"), &client::Refused::of(&answer)),
            _ => {}
        }
    }
}

async fn flood(run: &Run, crew: &Arc<Crew>, offline: Offline) -> Result<Outcome> {
    let Offline { senders, recipients, concurrency, .. } = offline;
    let meter = crew.deliveries.clone();
    let mut watch = Watch::begin(run, "offline, coming back", "messages", &meter).await?;
    crew.enter(Phase::Measure);
    let (runs, crews) = (run.clone(), crew.clone());
    let coming = crowd(recipients, concurrency, move |r| {
        let (run, crew) = (runs.clone(), crews.clone());
        async move {
            let account = run.accounts.get(senders + r).context("more recipients than accounts")?;
            let mut connection = client::login(&run.target, account, RESOURCE).await?;
            let mut person = Person::new(senders + r, &crew, Vec::new(), [u32::try_from(r)?]);
            person.since = Some(clock::nanos());
            connection.send("<presence/>").await?;
            let flow = &crew.flows[r];
            // Those that do not come are waited for with everybody's, so that one lost message does not hold up the others.
            let got = async {
                while flow.missing() > 0 {
                    super::chat::next(&mut connection, &mut person).await?;
                }
                anyhow::Ok(())
            };
            let got = tokio::time::timeout(super::drive::QUIET_MAX, got).await;
            if let Ok(Err(error)) = got {
                crew.deliveries.trouble(&format!("{} left: {error:#}", account.username));
            }
            anyhow::Ok((r, connection, person))
        }
    });
    let came = watch.until(coming).await?;
    let outcome = watch.finish().await;
    // Whatever comes twice comes now.
    let mut stage = Stage::new(run, crew);
    for (r, connection, person) in came {
        stage.send(connection, person, senders + r);
    }
    crew.enter(Phase::Drain);
    stage.drain().await;
    tokio::time::sleep(super::drive::LOOK).await;
    stage.leave().await;
    Ok(Outcome { faults: crew.faults(), problems: crew.problems(), ..outcome })
}
