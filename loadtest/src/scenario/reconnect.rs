//! Cut connections: pairs chat, connections break without a word, and their clients come back and resume (XEP-0198 §5).
//! What was on its way must arrive once all the same.

use super::crew::{Crew, Curve, Flow};
use super::drive::{RESOURCE, Stage, Timing};
use super::person::{Management, Person, Talk, What};
use super::{Outcome, Run};
use crate::client::{Connection, SM};
use crate::clock;
use crate::element::escape;
use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// How often what breaks.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Reconnect {
    /// Pairs of clients; both of a pair send.
    pub pairs: usize,
    /// Connections that are cut, a second, of all together.
    pub cuts: f64,
    /// Seconds that a client stays away.
    pub away: f64,
    /// Messages a second of all together, which go on meanwhile.
    pub rate: f64,
    /// An `<r/>` after so many messages.
    pub ack_every: u64,
    /// Bytes of a body.
    pub body_bytes: usize,
    /// Seconds before the measured time.
    pub warm_up: f64,
    /// Seconds measured.
    pub seconds: f64,
}

impl Default for Reconnect {
    fn default() -> Self {
        Reconnect { pairs: 50, cuts: 20.0, away: 0.5, rate: 100.0, ack_every: 5, body_bytes: 200, warm_up: 2.0, seconds: 20.0 }
    }
}

/// Runs it. `count` is of sessions resumed; their latency counts from the first byte of the new connection.
///
/// # Errors
/// No resumption; a login that fails.
pub async fn reconnect(run: &Run, reconnect: Reconnect) -> Result<Outcome> {
    let people = reconnect.pairs * 2;
    let mut connections = super::present(run, people).await?;
    let flows = (0..people).map(|i| Flow::new(i, 1, false)).collect();
    let total = reconnect.rate + reconnect.cuts;
    let crew = Arc::new(Crew::new(people, flows, Curve::constant(total)));
    let jids: Vec<_> = connections.iter().map(|c| escape(&c.jid)).collect();
    let mut ids = Vec::new();
    for connection in &mut connections {
        ids.push(connection.enable_resumption().await?);
    }
    let mut stage = Stage::new(run, &crew);
    stage.away = reconnect.away;
    let part = |rate: f64| if total > 0.0 { rate / total / people as f64 } else { 0.0 };
    for (i, (connection, id)) in connections.into_iter().zip(ids).enumerate() {
        let what = What::Message { flow: u32::try_from(i)?, to: jids[i ^ 1].clone(), kind: "chat", body_bytes: reconnect.body_bytes };
        let talks =
            vec![Talk::new(what, None, part(reconnect.rate), i, people), Talk::new(What::Cut, None, part(reconnect.cuts), i, people)];
        let mut person = Person::new(i, &crew, talks, [u32::try_from(i ^ 1)?]);
        person.management = Some(Management::new(Some(id), reconnect.ack_every));
        stage.send(connection, person, i);
    }
    let timing = Timing { warm_up: reconnect.warm_up, seconds: reconnect.seconds };
    let mut outcome = stage.perform("reconnect", "sessions resumed", &crew.resumptions.clone(), timing).await?;
    outcome.parts.insert("messages delivered".into(), crew.deliveries.count.load(Relaxed) as f64);
    Ok(outcome)
}

/// A new connection for the session of an old one. A session that the server does not resume is an error of the run, and
/// a new one takes its place.
pub(super) async fn come_back(run: &Run, person: &mut Person, account: usize, out: &mut String) -> Result<Connection> {
    let start = clock::nanos();
    let account = run.accounts.get(account).context("no such account")?;
    let management = person.management.as_ref().context("a cut without XEP-0198")?;
    let (id, handled) = (management.id.clone().context("a cut without resumption")?, management.handled);
    let mut connection = Connection::authenticated(&run.target, account).await?;
    match connection.resume(&id, handled).await? {
        Ok(h) => {
            person.acknowledged(h)?;
            person.crew.resumptions.done((clock::nanos() - start) / 1_000);
            person.again(out);
        }
        Err(failed) => {
            let words: Vec<_> = failed.children.iter().map(|c| c.name.as_str()).collect();
            person.crew.resumptions.trouble(&format!("not resumed: {} {}", failed.name, words.join(" ")));
            if let Some(h) = failed.attr("h").filter(|_| failed.ns == SM).and_then(|h| h.parse().ok()) {
                person.acknowledged(h)?;
            }
            connection.bind(RESOURCE).await?;
            connection.appear().await?;
            let id = connection.enable_resumption().await?;
            person.renewed(Some(id), out);
        }
    }
    Ok(connection)
}
