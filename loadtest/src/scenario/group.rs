//! Group chat (XEP-0045): rooms, some of whose occupants talk; everybody in a room gets everything said there.

use super::crew::{Crew, Flow};
use super::drive::{Stage, Timing};
use super::person::{Person, Talk, What};
use super::{CONCURRENCY, Outcome, Run, crowd, open_loop, window_of};
use crate::client::{self, Connection, Refused};
use crate::element::escape;
use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

const MUC: &str = "http://jabber.org/protocol/muc";
const MUC_USER: &str = "http://jabber.org/protocol/muc#user";
const MUC_OWNER: &str = "http://jabber.org/protocol/muc#owner";
const DISCO_INFO: &str = "http://jabber.org/protocol/disco#info";
const DISCO_ITEMS: &str = "http://jabber.org/protocol/disco#items";
const LACKING: &str = "group chat (XEP-0045)";

/// How many rooms of what size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Group {
    /// Rooms.
    pub rooms: usize,
    /// Occupants of each; each is a client of its own.
    pub occupants: usize,
    /// Of them, how many talk.
    pub senders: usize,
    /// Closed loop: messages of one sender that not all occupants have.
    pub window: u64,
    /// Open loop: messages a second of all senders of all rooms together.
    pub rate: Option<f64>,
    /// Bytes of a body.
    pub body_bytes: usize,
    /// The domain of the rooms; the server is asked if none.
    pub service: Option<String>,
    /// Seconds before the measured time.
    pub warm_up: f64,
    /// Seconds measured.
    pub seconds: f64,
}

impl Default for Group {
    fn default() -> Self {
        Group { rooms: 4, occupants: 20, senders: 4, window: 1, rate: None, body_bytes: 200, service: None, warm_up: 2.0, seconds: 10.0 }
    }
}

/// Runs it. `count` is of deliveries: a message in a room of 20 counts 20.
///
/// # Errors
/// No group chat, a room that refuses, a login that fails.
pub async fn group(run: &Run, group: Group) -> Result<Outcome> {
    let Group { rooms, occupants, senders, .. } = group;
    ensure!(rooms > 0 && senders > 0 && senders <= occupants, "rooms need senders among their occupants");
    let people = rooms * occupants;
    let window = window_of(group.rate, group.window);
    let speakers = rooms * senders;
    let flows = (0..speakers).map(|s| Flow::new(s / senders * occupants + s % senders, occupants, window.is_some())).collect();
    let crew = Arc::new(Crew::new(people, flows, open_loop(group.rate)));
    let service = service(run, group.service.as_deref()).await?;
    let room = |r: usize| room_jid(crew.tag, r, &service);
    let mut stage = Stage::new(run, &crew);
    for r in 0..rooms {
        // The first makes the room; the others come once it is open.
        let mut inside = vec![enter(run, r * occupants, &room(r)).await?];
        let (runs, jid) = (run.clone(), room(r));
        inside.extend(
            crowd(occupants - 1, CONCURRENCY, move |i| {
                let (run, jid) = (runs.clone(), jid.clone());
                async move { enter(&run, r * occupants + 1 + i, &jid).await }
            })
            .await?,
        );
        for (o, connection) in inside.into_iter().enumerate() {
            let (i, flow) = (r * occupants + o, u32::try_from(r * senders + o)?);
            let what = What::Message { flow, to: escape(&room(r)), kind: "groupchat", body_bytes: group.body_bytes };
            let talk = Talk::new(what, window, 1.0 / speakers as f64, r * senders + o, speakers);
            let talks = if o < senders { vec![talk] } else { Vec::new() };
            let flows = (r * senders..(r + 1) * senders).filter_map(|f| u32::try_from(f).ok());
            stage.send(connection, Person::new(i, &crew, talks, flows), i);
        }
    }
    let timing = Timing { warm_up: group.warm_up, seconds: group.seconds };
    stage.perform("group", "deliveries", &crew.deliveries.clone(), timing).await
}

/// A room that no other run has.
pub(super) fn room_jid(tag: u32, number: usize, service: &str) -> String {
    format!("load{tag:08x}-{number}@{service}")
}

async fn enter(run: &Run, account: usize, room: &str) -> Result<Connection> {
    let known = run.accounts.get(account).context("more occupants than accounts")?;
    let mut connection = client::login(&run.target, known, super::drive::RESOURCE).await?;
    connection.appear().await?;
    join(&mut connection, room, &known.username).await?;
    Ok(connection)
}

/// The domain where rooms are.
pub(super) async fn service(run: &Run, given: Option<&str>) -> Result<String> {
    if let Some(given) = given {
        return Ok(given.to_owned());
    }
    let account = run.accounts.first().context("no accounts")?;
    let mut connection = client::login(&run.target, account, "looking").await?;
    let found = find(&mut connection, &run.target.domain).await;
    connection.close().await;
    found
}

async fn find(connection: &mut Connection, domain: &str) -> Result<String> {
    let items = connection.ask_whom(domain, "get", "items", &format!("<query xmlns='{DISCO_ITEMS}'/>")).await;
    let items = client::or_lacking(items, LACKING)?;
    let query = items.child("query", DISCO_ITEMS).context("no answer of XEP-0030")?;
    for (i, jid) in query.children.iter().filter_map(|item| item.attr("jid")).enumerate() {
        // An item that does not answer for itself is not the one.
        let Ok(info) = connection.ask_whom(jid, "get", &format!("info{i}"), &format!("<query xmlns='{DISCO_INFO}'/>")).await else {
            continue;
        };
        let features = info.child("query", DISCO_INFO).map(|q| q.children.as_slice()).unwrap_or_default();
        if features.iter().any(|f| f.name == "feature" && f.attr("var") == Some(MUC)) {
            return Ok(jid.to_owned());
        }
    }
    bail!("the server offers no {LACKING}")
}

/// Enters a room and, if it is new, opens it with the server's own settings (XEP-0045 §10.1.2).
pub(super) async fn join(connection: &mut Connection, room: &str, nick: &str) -> Result<()> {
    let (room, own) = (escape(room), format!("{room}/{nick}"));
    let history = "<history maxstanzas='0'/>";
    connection.send(&format!("<presence to='{}'><x xmlns='{MUC}'>{history}</x></presence>", escape(&own))).await?;
    let new = loop {
        let answer = connection.next().await?;
        if answer.name != "presence" || !answer.attr("from").is_some_and(|f| f.starts_with(&room)) {
            continue;
        }
        if answer.attr("type") == Some("error") {
            let refused = Refused::of(&answer);
            ensure!(!refused.is_lacking(), "the server offers no {LACKING} at {room}: {}", refused.condition);
            bail!("{room}: {refused}");
        }
        let status = answer.child("x", MUC_USER).map(|x| x.children.as_slice()).unwrap_or_default();
        let has = |code: &str| status.iter().any(|s| s.name == "status" && s.attr("code") == Some(code));
        if has("110") || answer.attr("from") == Some(&own) {
            break has("201");
        }
    };
    if new {
        let form = format!("<query xmlns='{MUC_OWNER}'><x xmlns='jabber:x:data' type='submit'/></query>");
        connection.ask_whom(&room, "set", "open", &form).await.with_context(|| room.clone())?;
    }
    Ok(())
}
