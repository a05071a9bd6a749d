//! A day: clients that do a bit of everything, at a rate that rises and falls.

use super::archive::{Pages, prepare};
use super::crew::{Crew, Curve, Flow};
use super::drive::{Stage, Timing};
use super::group;
use super::meter::Meter;
use super::person::{Management, Person, Talk, What};
use super::presence::{befriend, neighbours};
use super::{Outcome, Run};
use crate::client::{self, Connection};
use crate::clock;
use crate::element::escape;
use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::Semaphore;

/// Visitors that are in at the same time.
const VISITORS_MAX: usize = 64;

/// How often what is done, against each other.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Weights {
    /// A message to one's partner.
    pub chat: f64,
    /// A message to one's room.
    pub group: f64,
    /// A change of presence, to all contacts.
    pub presence: f64,
    /// The newest page of one's archive.
    pub archive: f64,
    /// A connection that breaks and a session that is resumed.
    pub reconnect: f64,
    /// A visitor, from an account of its own: login, presence, logout.
    pub login: f64,
}

impl Default for Weights {
    fn default() -> Self {
        Weights { chat: 60.0, group: 10.0, presence: 15.0, archive: 5.0, reconnect: 5.0, login: 5.0 }
    }
}

/// Who, and how much over time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mixed {
    /// Clients that stay, an even number.
    pub clients: usize,
    /// Contacts of each.
    pub contacts: usize,
    /// Occupants of each room.
    pub occupants: usize,
    /// Accounts after those of the clients that visitors use.
    pub visitors: usize,
    /// Points of seconds and actions a second, with straight lines between them. Zero is where the warm-up begins.
    pub day: Vec<(f64, f64)>,
    /// What actions are.
    pub weights: Weights,
    /// Bytes of a body.
    pub body_bytes: usize,
    /// Items of a page.
    pub page: u32,
    /// Seconds that a client stays away when its connection breaks.
    pub away: f64,
    /// The domain of the rooms; the server is asked if none.
    pub service: Option<String>,
    /// Seconds before the measured time.
    pub warm_up: f64,
    /// Seconds measured.
    pub seconds: f64,
}

impl Default for Mixed {
    fn default() -> Self {
        Mixed {
            clients: 100,
            contacts: 20,
            occupants: 10,
            visitors: 50,
            day: vec![(0.0, 20.0), (20.0, 100.0), (40.0, 60.0), (50.0, 120.0), (60.0, 20.0)],
            weights: Weights::default(),
            body_bytes: 200,
            page: 20,
            away: 0.5,
            service: None,
            warm_up: 2.0,
            seconds: 60.0,
        }
    }
}

impl Weights {
    fn all(&self) -> [f64; 6] {
        [self.chat, self.group, self.presence, self.archive, self.reconnect, self.login]
    }
}

/// Runs it. `count` is of everything that came about: deliveries, items out of archives, sessions resumed, visits.
///
/// # Errors
/// A feature that has a weight and is not offered, a login that fails.
pub async fn mixed(run: &Run, mixed: Mixed) -> Result<Outcome> {
    let (clients, weights) = (mixed.clients, mixed.weights);
    let total: f64 = weights.all().iter().sum();
    ensure!(clients > 0 && clients.is_multiple_of(2), "clients come in pairs");
    ensure!(total > 0.0 && weights.all().iter().all(|w| *w >= 0.0), "no weight is above zero");
    ensure!(mixed.day.is_sorted_by(|a, b| a.0 < b.0) && !mixed.day.is_empty(), "a day needs points in order of time");
    ensure!(weights.group == 0.0 || mixed.occupants > 1, "a room needs two occupants");
    ensure!(weights.login == 0.0 || mixed.visitors > 0, "visits need accounts for visitors");
    let mut connections = super::present(run, clients).await?;
    if weights.presence > 0.0 {
        connections = befriend(run, connections, mixed.contacts).await?;
    }
    let mut crew = Crew::new(clients, flows(&mixed), Curve::through(&mixed.day));
    // Everything counts as one.
    crew.results = crew.deliveries.clone();
    crew.resumptions = crew.deliveries.clone();
    let crew = Arc::new(crew);
    let rooms = if weights.group > 0.0 { gather(run, &crew, &mixed, &mut connections).await? } else { Vec::new() };
    if weights.archive > 0.0 {
        for connection in &mut connections {
            prepare(connection).await?;
        }
    }
    let mut stage = Stage::new(run, &crew);
    stage.away = mixed.away;
    let jids: Vec<_> = connections.iter().map(|c| escape(&c.jid)).collect();
    for (i, mut connection) in connections.into_iter().enumerate() {
        let mut person = Person::new(i, &crew, talks(&mixed, i, &jids, &rooms)?, inbox(&mixed, i));
        person.pages = (weights.archive > 0.0).then(|| Pages::newest(mixed.page));
        if weights.reconnect > 0.0 {
            person.management = Some(Management::new(Some(connection.enable_resumption().await?), 5));
        }
        stage.send(connection, person, i);
    }
    let visits = tokio::spawn(visit(run.clone(), crew.clone(), mixed.clone(), weights.login / total));
    let timing = Timing { warm_up: mixed.warm_up, seconds: mixed.seconds };
    let outcome = stage.perform("mixed", "events", &crew.deliveries.clone(), timing).await;
    visits.abort();
    outcome
}

/// Three flows of each client: to the partner, to the room, to the contacts.
fn flows(mixed: &Mixed) -> Vec<Flow> {
    let each = |i: usize| [(1, i), (occupants(mixed, i), i), (mixed.contacts, i)];
    (0..mixed.clients).flat_map(each).map(|(fan_out, i)| Flow::new(i, fan_out, false)).collect()
}

/// Those in the room of a client: the last room may be smaller.
fn occupants(mixed: &Mixed, i: usize) -> usize {
    let first = i / mixed.occupants.max(1) * mixed.occupants.max(1);
    mixed.occupants.max(1).min(mixed.clients - first)
}

fn inbox(mixed: &Mixed, i: usize) -> Vec<u32> {
    let first = i / mixed.occupants.max(1) * mixed.occupants.max(1);
    let contacts = if mixed.weights.presence > 0.0 { neighbours(i, mixed.contacts, mixed.clients) } else { Vec::new() };
    let flows = [(i ^ 1) * 3].into_iter();
    let flows = flows.chain((first..first + occupants(mixed, i)).map(|o| o * 3 + 1));
    flows.chain(contacts.into_iter().map(|c| c * 3 + 2)).filter_map(|f| u32::try_from(f).ok()).collect()
}

fn talks(mixed: &Mixed, i: usize, jids: &[String], rooms: &[String]) -> Result<Vec<Talk>> {
    let (weights, total) = (mixed.weights, mixed.weights.all().iter().sum::<f64>());
    let flow = |kind: usize| u32::try_from(i * 3 + kind);
    let body_bytes = mixed.body_bytes;
    let mut all = Vec::new();
    let mut add = |weight: f64, what: What| {
        if weight > 0.0 {
            all.push(Talk::new(what, None, weight / total / mixed.clients as f64, i, mixed.clients));
        }
    };
    add(weights.chat, What::Message { flow: flow(0)?, to: jids[i ^ 1].clone(), kind: "chat", body_bytes });
    if let Some(room) = rooms.get(i / mixed.occupants.max(1)) {
        add(weights.group, What::Message { flow: flow(1)?, to: escape(room), kind: "groupchat", body_bytes });
    }
    add(weights.presence, What::Presence { flow: flow(2)? });
    add(weights.archive, What::Page);
    add(weights.reconnect, What::Cut);
    Ok(all)
}

/// Everybody enters a room.
async fn gather(run: &Run, crew: &Crew, mixed: &Mixed, connections: &mut [Connection]) -> Result<Vec<String>> {
    let service = group::service(run, mixed.service.as_deref()).await?;
    let mut rooms = Vec::new();
    for (r, inside) in connections.chunks_mut(mixed.occupants).enumerate() {
        let room = group::room_jid(crew.tag, r, &service);
        for connection in inside {
            let nick = connection.jid.split('@').next().unwrap_or_default().to_owned();
            group::join(connection, &room, &nick).await?;
        }
        rooms.push(room);
    }
    Ok(rooms)
}

/// Visitors come at their part of the rate until they are stopped.
async fn visit(run: Run, crew: Arc<Crew>, mixed: Mixed, part: f64) -> Result<()> {
    use super::crew::Phase;
    while crew.phase() == Phase::Gather {
        tokio::time::sleep(super::drive::LOOK).await;
    }
    let (room, next) = (Arc::new(Semaphore::new(VISITORS_MAX)), Arc::new(AtomicUsize::new(0)));
    let (mut at, mut wanted) = (0.0, crew.place(1.0));
    while let Some(due) = crew.curve.after(at, part, wanted) {
        (at, wanted) = (due, 1.0);
        let due = crew.start() + (due * 1e9) as u64;
        tokio::time::sleep(Duration::from_nanos(due.saturating_sub(clock::nanos()))).await;
        if crew.phase() > Phase::Measure {
            break;
        }
        let (run, meter, permit) = (run.clone(), crew.deliveries.clone(), room.clone().acquire_owned().await?);
        let account = mixed.clients + next.fetch_add(1, Relaxed) % mixed.visitors;
        tokio::spawn(async move {
            call(&run, &meter, account, due).await;
            drop(permit);
        });
    }
    Ok(())
}

async fn call(run: &Run, meter: &Meter, account: usize, due: u64) {
    let visit = async {
        let account = run.accounts.get(account).context("more visitors than accounts")?;
        let mut connection = client::login(&run.target, account, "visit").await?;
        connection.appear().await?;
        anyhow::Ok(connection)
    };
    match visit.await {
        Ok(connection) => {
            meter.done(clock::nanos().saturating_sub(due) / 1_000);
            connection.close().await;
        }
        Err(error) => meter.trouble(&format!("visitor: {error:#}")),
    }
}
