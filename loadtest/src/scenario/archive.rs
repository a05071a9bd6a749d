//! Archives (XEP-0313): pairs chat until each archive holds something, then everybody reads the own archive page by page
//! (XEP-0059), over and over.

use super::chat::{converse, fill};
use super::crew::{Crew, Phase};
use super::drive::{Stage, Timing};
use super::person::{Payload, Person, Talk, What};
use super::{Outcome, Run, open_loop};
use crate::client::{Connection, or_lacking};
use crate::clock;
use crate::element::{self, Element, attr, escape};
use crate::order::{Arrival, Order};
use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

const MAM: &str = "urn:xmpp:mam:2";
const RSM: &str = "http://jabber.org/protocol/rsm";
/// Some servers write archives behind the messages' back; so long is waited for the last of them.
const WRITTEN_MAX: f64 = 20.0;

/// How much there is, and how it is read.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Archive {
    /// Pairs of clients; both of a pair chat and then read.
    pub pairs: usize,
    /// Messages that each sends before anything is measured.
    pub messages: u64,
    /// Bytes of a body.
    pub body_bytes: usize,
    /// Items of a page.
    pub page: u32,
    /// Pages a second of all together; without it each asks for the next page when it has the last one.
    pub rate: Option<f64>,
    /// Seconds before the measured time.
    pub warm_up: f64,
    /// Seconds measured.
    pub seconds: f64,
}

impl Default for Archive {
    fn default() -> Self {
        Archive { pairs: 10, messages: 200, body_bytes: 200, page: 50, rate: None, warm_up: 2.0, seconds: 10.0 }
    }
}

/// Runs it. `count` is of items that came out of archives; latencies are of whole pages. A walk through an archive that
/// misses a message, has one twice or has two in the wrong order says so.
///
/// # Errors
/// No archives; a login that fails.
pub async fn archive(run: &Run, archive: Archive) -> Result<Outcome> {
    ensure!(archive.pairs > 0 && archive.page > 0, "an archive needs pairs and pages");
    let people = archive.pairs * 2;
    let mut bases = Vec::new();
    let mut connections = super::present(run, people).await?;
    for connection in &mut connections {
        bases.push(prepare(connection).await?);
    }
    let mut crew = Crew::new(people, fill(people), open_loop(archive.rate));
    // Results and deliveries are not of one kind: only results are counted.
    crew.deliveries = Arc::default();
    let crew = Arc::new(crew);
    let mut filled = converse(run, &crew, connections, archive.messages, archive.body_bytes).await?;
    let faults = crew.faults();
    ensure!(faults.is_clean(), "while the archives were filled: {faults:?} {}", crew.problems().join("; "));
    for (i, connection) in filled.iter_mut().enumerate() {
        written(connection, &crew, &bases[i], archive).await?;
    }
    crew.enter(Phase::Gather);
    let mut stage = Stage::new(run, &crew);
    for (i, connection) in filled.into_iter().enumerate() {
        let window = if archive.rate.is_some() { None } else { Some(1) };
        let talk = Talk::new(What::Page, window, 1.0 / people as f64, i, people);
        let mut person = Person::new(i, &crew, vec![talk], flows_of(i));
        person.pages = Some(Pages::walk(archive.page, bases[i].clone(), flows_of(i)));
        stage.send(connection, person, i);
    }
    let timing = Timing { warm_up: archive.warm_up, seconds: archive.seconds };
    stage.perform("archive", "items", &crew.results.clone(), timing).await
}

/// The flows that the archive of one of a pair holds.
fn flows_of(i: usize) -> [u32; 2] {
    [i, i ^ 1].map(|f| u32::try_from(f).unwrap_or(u32::MAX))
}

pub(super) fn bare(jid: &str) -> &str {
    jid.split_once('/').map_or(jid, |(bare, _)| bare)
}

/// Whether there is an archive at all; then everything is to be kept. Returns the newest item that is there.
pub(super) async fn prepare(connection: &mut Connection) -> Result<Option<String>> {
    const LACKING: &str = "message archive (XEP-0313)";
    let own = bare(&connection.jid).to_owned();
    let info = connection.ask_whom(&own, "get", "mam-disco", "<query xmlns='http://jabber.org/protocol/disco#info'/>").await;
    let info = or_lacking(info, LACKING)?;
    let features = info.children.first().map(|q| q.children.as_slice()).unwrap_or_default();
    ensure!(features.iter().any(|f| f.attr("var") == Some(MAM)), "the server offers no {LACKING}");
    let prefs = format!("<prefs xmlns='{MAM}' default='always'><always/><never/></prefs>");
    // Servers without preferences archive as they are configured.
    let _ = connection.ask("set", "mam-prefs", &prefs).await;
    let newest = format!("<query xmlns='{MAM}'><set xmlns='{RSM}'><max>1</max><before/></set></query>");
    let answer = or_lacking(connection.ask("set", "mam-newest", &newest).await, LACKING)?;
    Ok(last_of(&answer))
}

fn last_of(answer: &Element) -> Option<String> {
    let set = answer.child("fin", MAM)?.child("set", RSM)?;
    set.child("last", RSM).map(|l| l.text.clone()).filter(|l| !l.is_empty())
}

/// Waits until the archive holds what it must.
async fn written(connection: &mut Connection, crew: &Crew, base: &Option<String>, archive: Archive) -> Result<()> {
    let (start, mut found) = (clock::seconds(), 0);
    while clock::seconds() - start < WRITTEN_MAX {
        let (mut after, mut n) = (base.clone(), 0);
        loop {
            let query = query("written", archive.page, after.as_deref());
            connection.send(&format!("<iq type='set' id='written'>{query}</iq>")).await?;
            let answer = loop {
                let next = connection.next().await?;
                match next.name.as_str() {
                    "message" => n += u64::from(archived(&next).is_some_and(|p| p.starts_with(&format!("lt{:08x} ", crew.tag)))),
                    "iq" if next.attr("id") == Some("written") => break next,
                    _ => {}
                }
            };
            ensure!(answer.attr("type") == Some("result"), crate::client::Refused::of(&answer));
            let complete = answer.child("fin", MAM).and_then(|f| f.attr("complete"));
            after = last_of(&answer);
            if after.is_none() || matches!(complete, Some("true" | "1")) {
                break;
            }
        }
        found = n;
        if found >= archive.messages * 2 {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    // What is missing then is counted by the walks.
    ensure!(found > 0, "the archive of {} stays empty", connection.jid);
    Ok(())
}

fn archived(message: &Element) -> Option<&str> {
    let forwarded = message.child("result", MAM)?.child("forwarded", "urn:xmpp:forward:0")?;
    let inner = forwarded.children.iter().find(|c| c.name == "message")?;
    inner.children.iter().find(|c| c.name == "body").map(|b| b.text.as_str())
}

fn query(id: &str, max: u32, after: Option<&str>) -> String {
    let after = after.map(|a| format!("<after>{}</after>", escape(a))).unwrap_or_default();
    format!("<query xmlns='{MAM}' queryid='{id}'><set xmlns='{RSM}'><max>{max}</max>{after}</set></query>")
}

/// The pages that one client asks for.
pub(super) struct Pages {
    max: u32,
    /// The item behind which a walk begins.
    base: Option<String>,
    after: Option<String>,
    /// Only the newest page, again and again.
    newest: bool,
    /// The number of the query, and since when it is due; none if nothing is asked.
    asked: Option<u64>,
    number: u64,
    /// What this walk must have seen at its end.
    orders: HashMap<u32, Order>,
    seen: u64,
}

impl Pages {
    /// Whole walks through what these flows have said.
    fn walk(max: u32, base: Option<String>, flows: [u32; 2]) -> Pages {
        let orders = flows.map(|f| (f, Order::default())).into();
        let after = base.clone();
        Pages { max, base, after, newest: false, asked: None, number: 0, orders, seen: 0 }
    }

    /// The newest page.
    pub(super) fn newest(max: u32) -> Pages {
        let orders = HashMap::new();
        Pages { max, base: None, after: None, newest: true, asked: None, number: 0, orders, seen: 0 }
    }

    pub(super) fn is_free(&self) -> bool {
        self.asked.is_none()
    }

    pub(super) fn ask(&mut self, crew: &Crew, since: u64, out: &mut String) {
        self.number += 1;
        self.asked = Some(since);
        crew.asked.fetch_add(1, Relaxed);
        let id = format!("p{}", self.number);
        let mut query = query(&id, self.max, self.after.as_deref());
        if self.newest {
            query = query.replace("</max>", "</max><before/>");
        }
        let _ = write!(out, "<iq type='set' id='{id}'>{query}</iq>");
    }

    pub(super) fn is_result(&self, stanza: &[u8]) -> bool {
        let at = self.asked.and_then(|_| memchr::memmem::find(stanza, b"<result"));
        at.is_some_and(|at| attr(&stanza[at..], b"queryid") == Some(format!("p{}", self.number).as_bytes()))
    }

    pub(super) fn result(&mut self, crew: &Crew, stanza: &[u8]) {
        crew.results.count.fetch_add(1, Relaxed);
        let Some(payload) = element::body(stanza).and_then(|b| Payload::parse(b, crew.tag)) else { return };
        let Some(order) = self.orders.get_mut(&payload.flow) else { return };
        match order.judge(payload.number) {
            Arrival::Again => _ = crew.results.duplicated.fetch_add(1, Relaxed),
            Arrival::Late => {
                crew.results.reordered.fetch_add(1, Relaxed);
                self.seen += 1;
            }
            Arrival::InOrder => self.seen += 1,
        }
    }

    pub(super) fn is_answer(&self, id: &str) -> bool {
        self.asked.is_some() && id.strip_prefix('p').and_then(|n| n.parse().ok()) == Some(self.number)
    }

    pub(super) fn answer(&mut self, crew: &Crew, stanza: &[u8]) -> Result<()> {
        let since = self.asked.take().context("an answer to nothing")?;
        crew.asked.fetch_sub(1, Relaxed);
        let answer = Element::parse(stanza, b"<s xmlns='jabber:client'>")?;
        if answer.attr("type") != Some("result") {
            crew.results.trouble(&format!("archive {}", crate::client::Refused::of(&answer)));
            return Ok(());
        }
        crew.results.latency.record(clock::nanos().saturating_sub(since) / 1_000);
        if self.newest {
            return Ok(());
        }
        let complete = answer.child("fin", MAM).and_then(|f| f.attr("complete"));
        self.after = last_of(&answer);
        if self.after.is_none() || matches!(complete, Some("true" | "1")) {
            self.end_of_walk(crew);
        }
        Ok(())
    }

    fn end_of_walk(&mut self, crew: &Crew) {
        let flows = self.orders.keys().filter_map(|f| crew.flows.get(usize::try_from(*f).ok()?));
        let due: u64 = flows.map(|f| f.sent.load(Relaxed)).sum();
        crew.results.lost.fetch_add(due.saturating_sub(self.seen), Relaxed);
        self.orders.values_mut().for_each(|order| *order = Order::default());
        (self.seen, self.after) = (0, self.base.clone());
    }
}
