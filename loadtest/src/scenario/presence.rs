//! Presence: everybody has a roster of contacts, made by subscriptions (RFC 6121 §3), and everybody's changes go to all of
//! them.

use super::archive::bare;
use super::crew::{Crew, Flow};
use super::drive::{Stage, Timing};
use super::person::{Person, Talk, What};
use super::{Outcome, Run, open_loop, window_of};
use crate::client::Connection;
use crate::element::{Element, escape};
use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

const ROSTER: &str = "jabber:iq:roster";

/// Who knows how many.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Presence {
    /// Clients.
    pub clients: usize,
    /// Contacts of each, an even number: the neighbours in a ring, half of them on either side.
    pub contacts: usize,
    /// Closed loop: changes of one client that not all contacts have.
    pub window: u64,
    /// Open loop: changes a second of all clients together.
    pub rate: Option<f64>,
    /// Seconds before the measured time.
    pub warm_up: f64,
    /// Seconds measured.
    pub seconds: f64,
}

impl Default for Presence {
    fn default() -> Self {
        Presence { clients: 200, contacts: 50, window: 1, rate: None, warm_up: 2.0, seconds: 10.0 }
    }
}

/// Runs it. `count` is of deliveries: a change that 50 contacts get counts 50.
///
/// # Errors
/// A subscription that does not come about, a login that fails.
pub async fn presence(run: &Run, presence: Presence) -> Result<Outcome> {
    let Presence { clients, contacts, .. } = presence;
    let connections = super::present(run, clients).await?;
    let connections = befriend(run, connections, contacts).await?;
    let window = window_of(presence.rate, presence.window);
    let flows = (0..clients).map(|i| Flow::new(i, contacts, window.is_some())).collect();
    let crew = Arc::new(Crew::new(clients, flows, open_loop(presence.rate)));
    let mut stage = Stage::new(run, &crew);
    for (i, connection) in connections.into_iter().enumerate() {
        let talk = Talk::new(What::Presence { flow: u32::try_from(i)? }, window, 1.0 / clients as f64, i, clients);
        let inbox = neighbours(i, contacts, clients).into_iter().filter_map(|c| u32::try_from(c).ok());
        stage.send(connection, Person::new(i, &crew, vec![talk], inbox), i);
    }
    let timing = Timing { warm_up: presence.warm_up, seconds: presence.seconds };
    stage.perform("presence", "deliveries", &crew.deliveries.clone(), timing).await
}

/// The contacts of one in the ring.
pub(super) fn neighbours(i: usize, contacts: usize, clients: usize) -> Vec<usize> {
    (1..=contacts / 2).flat_map(|d| [(i + d) % clients, (i + clients - d) % clients]).collect()
}

/// Subscribes everybody to their neighbours, both ways, where that is not so yet.
pub(super) async fn befriend(run: &Run, connections: Vec<Connection>, contacts: usize) -> Result<Vec<Connection>> {
    let clients = connections.len();
    ensure!(contacts.is_multiple_of(2) && contacts < clients, "{contacts} contacts: an even number, less than {clients} clients");
    let jids: Vec<_> = connections.iter().map(|c| bare(&c.jid).to_owned()).collect();
    let mut meeting = tokio::task::JoinSet::new();
    for (i, connection) in connections.into_iter().enumerate() {
        let wanted = neighbours(i, contacts, clients).into_iter().map(|c| jids[c].clone()).collect();
        meeting.spawn(async move { meet(connection, wanted).await.map(|connection| (i, connection)) });
    }
    let mut all = Vec::with_capacity(clients);
    while let Some(met) = meeting.join_next().await {
        all.push(met??);
        run.progress.show(&format!("presence: {} of {clients} have their contacts", all.len()));
    }
    run.progress.end();
    all.sort_by_key(|(i, _)| *i);
    Ok(all.into_iter().map(|(_, connection)| connection).collect())
}

/// Asks for what is missing and allows what is asked, until the roster says `both` for everybody. Contacts that an earlier
/// run has left are removed: they would get what nobody waits for.
async fn meet(mut connection: Connection, wanted: BTreeSet<String>) -> Result<Connection> {
    let (mut missing, mut removing) = (wanted.clone(), 0);
    let own = connection.jid.clone();
    let mut out = String::new();
    // Requests may come before the roster does, so nothing is passed over while it is waited for.
    connection.send(&format!("<iq type='get' id='contacts'><query xmlns='{ROSTER}'/></iq>")).await?;
    let mut asked = false;
    while !asked || !missing.is_empty() || removing > 0 {
        let stanza = connection.next().await.with_context(|| format!("{own} waits for {missing:?}"))?;
        let from = stanza.attr("from").map(|f| bare(f).to_owned()).unwrap_or_default();
        match (stanza.name.as_str(), stanza.attr("type")) {
            ("presence", Some("subscribe")) if wanted.contains(&from) => {
                connection.send(&format!("<presence type='subscribed' to='{}'/>", escape(&from))).await?;
            }
            ("presence", Some("error")) => {
                let refused = crate::client::Refused::of(&stanza);
                anyhow::bail!("{own}: subscription to {from}: {refused}");
            }
            ("iq", Some("set")) => {
                let id = escape(stanza.attr("id").unwrap_or_default());
                connection.send(&format!("<iq type='result' id='{id}'/>")).await?;
                let items = stanza.child("query", ROSTER).map(|q| q.children.as_slice()).unwrap_or_default();
                items.iter().for_each(|item| settled(item, &mut missing));
            }
            ("iq", Some("result")) if stanza.attr("id") == Some("contacts") => {
                let items = stanza.child("query", ROSTER).map(|q| q.children.as_slice()).unwrap_or_default();
                items.iter().for_each(|item| settled(item, &mut missing));
                asked = true;
                for jid in items.iter().filter_map(|item| item.attr("jid")).filter(|jid| !wanted.contains(*jid)) {
                    let item = format!("<item jid='{}' subscription='remove'/>", escape(jid));
                    let _ = write!(out, "<iq type='set' id='remove'><query xmlns='{ROSTER}'>{item}</query></iq>");
                    removing += 1;
                }
                for jid in &missing {
                    let _ = write!(out, "<presence type='subscribe' to='{}'/>", escape(jid));
                }
                connection.send(&out).await?;
            }
            // An error says that the other side was quicker.
            ("iq", _) if stanza.attr("id") == Some("remove") => removing -= 1,
            _ => {}
        }
    }
    Ok(connection)
}

fn settled(item: &Element, missing: &mut BTreeSet<String>) {
    if item.attr("subscription") == Some("both")
        && let Some(jid) = item.attr("jid")
    {
        missing.remove(jid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_knows_who_knows_them() {
        for (contacts, clients) in [(2, 3), (50, 51), (50, 200), (4, 5)] {
            for i in 0..clients {
                let known = neighbours(i, contacts, clients);
                assert_eq!(known.iter().collect::<BTreeSet<_>>().len(), contacts, "{i} of {clients}");
                assert!(known.iter().all(|c| *c != i && neighbours(*c, contacts, clients).contains(&i)));
            }
        }
    }
}
