//! One client of the crash harness: it talks, and when the stream breaks it comes back as XEP-0198 says.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::Result;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::time::{Instant, sleep, sleep_until};

use super::{Phase, Report, Shared};
use crate::client::{self, BindRefused, Client, End, LoginRefused, Resumption, chat};
use crate::history::{AckBy, Event, Via};
use crate::ns;
use crate::server::{PASSWORD, Server};
use crate::sm::{Fault, Sent};
use crate::xml::{Element, parse};

/// No more than so many messages wait for acknowledgement; a person would have stopped typing.
const WAITING_MAX: usize = 40;

/// How a stream may end without anybody having broken a rule.
const FAIR_ENDS: [&str; 4] = ["system-shutdown", "reset", "connection-timeout", "resource-constraint"];

pub(super) struct Talker {
    client: Client,
    name: String,
    peer: String,
    rng: SmallRng,
    shared: Shared,
    session: u32,
    said: u64,
    /// Messages of an ended session that nobody acknowledged, to be sent in the next one.
    again: VecDeque<Sent>,
    /// The id of the last row that is known to have come: catch-up starts behind it.
    last_row: Option<String>,
    /// From where the archive is to be read, if the session is new.
    catch_up: Option<Option<String>>,
    settled: bool,
}

impl Talker {
    pub(super) async fn start(server: &Server, user: &str, peer: &str, seed: u64, shared: Shared) -> Result<Talker> {
        let client = Client::connect_sm(&server.connector()?, user, PASSWORD, "crash").await?;
        let domain = server.domain();
        let (name, peer) = (format!("{user}@{domain}"), format!("{peer}@{domain}"));
        let rng = SmallRng::seed_from_u64(seed);
        let mut talker = Talker {
            client,
            name,
            peer,
            rng,
            shared,
            session: 0,
            said: 0,
            again: VecDeque::new(),
            last_row: None,
            catch_up: None,
            settled: false,
        };
        talker.bound()?;
        Ok(talker)
    }

    fn add(&self, event: Event) {
        self.shared.history.add(event);
    }

    fn broken(&self, why: String) {
        self.add(Event::Broken { client: self.name.clone(), why });
    }

    pub(super) async fn run(mut self) {
        loop {
            let phase = *self.shared.phase.borrow();
            if phase == Phase::Finish {
                break;
            }
            if let Err(e) = self.turn(phase).await {
                self.ended(e);
                self.reconnect().await;
            }
        }
        let result = self.finish().await;
        let _ = self.shared.reports.send(Report::Finished(result)).await;
    }

    /// Until something happens: a stanza, a time to speak, another phase.
    async fn turn(&mut self, phase: Phase) -> Result<()> {
        if self.catch_up.is_some() {
            return self.catch_up().await;
        }
        if phase == Phase::Drain && !self.settled && self.client.sm.waiting() == 0 {
            self.settled = true;
            let _ = self.shared.reports.send(Report::Settled(self.name.clone())).await;
        }
        let pace = self.shared.plan.pace;
        let pause = Duration::from_micros(self.rng.random_range(0..=2 * pace.as_micros() as u64));
        let speak_at = Instant::now() + if phase == Phase::Chat { pause } else { Duration::from_millis(500) };
        let mut phases = self.shared.phase.clone();
        loop {
            tokio::select! {
                event = self.client.next() => self.saw(event?),
                () = sleep_until(speak_at) => break,
                _ = phases.wait_for(|p| *p != phase) => return Ok(()),
            }
            if phase == Phase::Drain && self.client.sm.waiting() == 0 {
                return Ok(());
            }
        }
        match phase {
            Phase::Chat if self.client.sm.waiting() < WAITING_MAX => self.speak()?,
            _ => self.client.request_ack()?,
        }
        if phase == Phase::Chat && self.rng.random_ratio(1, self.shared.plan.cut_one_in) {
            self.client.cut();
        }
        Ok(())
    }

    fn speak(&mut self) -> Result<()> {
        self.said += 1;
        let user = self.name.split('@').next().unwrap_or_default();
        let id = format!("{user}-{}-{}", self.shared.plan.seed, self.said);
        let body = format!("{id} <&> {}", "é".repeat(self.rng.random_range(0..200)));
        // RFC 6121 §8.5.3.2.1: a chat message to a resource that is gone is treated as one to the bare JID.
        let to = if self.rng.random_ratio(1, 5) { format!("{}/crash", self.peer) } else { self.peer.clone() };
        let stanza = chat(&to, &id, &body);
        self.sent(&id, &to, &body);
        self.client.push(&stanza)?;
        if self.rng.random_ratio(1, 3) {
            self.client.request_ack()?;
        }
        Ok(())
    }

    fn sent(&self, id: &str, address: &str, body: &str) {
        let (client, to, address) = (self.name.clone(), self.peer.clone(), address.to_owned());
        self.shared.board(|b| b.sent.entry(to.clone()).or_default().insert(id.to_owned()));
        self.add(Event::Sent { client, session: self.session, to, address, id: id.to_owned(), body: body.to_owned() });
    }

    fn acked(&self, acked: &[Sent], by: AckBy) {
        for sent in acked.iter().filter(|s| s.xml.starts_with("<message")) {
            self.shared.board(|b| b.acked += 1);
            self.add(Event::Acked { client: self.name.clone(), id: sent.id.clone(), by });
        }
    }

    fn saw(&mut self, event: client::Event) {
        match event {
            client::Event::Acked(acked) => self.acked(&acked, AckBy::A),
            client::Event::Stanza(stanza) if stanza.name == "message" => self.message(&stanza),
            client::Event::Stanza(_) => {}
        }
    }

    fn message(&mut self, message: &Element) {
        if message.attr("type") == Some("error") {
            let id = message.attr("id").unwrap_or_default().to_owned();
            let condition = message.error_condition().unwrap_or_else(|| "none".into());
            // Nothing more is to come of it; whether that is fair the checker knows.
            self.shared.board(|b| b.sent.get_mut(&self.peer).map(|ids| ids.remove(&id)));
            return self.add(Event::Bounced { client: self.name.clone(), id, condition });
        }
        let stanza_id = message
            .children()
            .find(|c| c.is("stanza-id", ns::SID) && c.attr("by") == Some(&self.name))
            .and_then(|c| c.attr("id"))
            .map(str::to_owned);
        if stanza_id.is_some() {
            self.last_row.clone_from(&stanza_id);
        }
        self.received(message, Via::Stream, stanza_id);
    }

    fn received(&self, message: &Element, via: Via, stanza_id: Option<String>) {
        let client = self.name.clone();
        let id = message.attr("id").unwrap_or_default().to_owned();
        self.shared.board(|b| b.received.entry(client.clone()).or_default().insert(id.clone()));
        let (from, body) = (bare(message.attr("from")), message.child_text("body").unwrap_or_default());
        self.add(Event::Received { client, session: self.session, via, from, id, body, stanza_id });
    }

    /// Reads what the archive has from others behind the last known row.
    async fn catch_up(&mut self) -> Result<()> {
        let Some(after) = self.catch_up.clone() else { return Ok(()) };
        for row in self.client.archive(None, after.as_deref()).await? {
            if bare(row.message.attr("from")) != self.name {
                self.received(&row.message, Via::Catchup, Some(row.id));
            }
        }
        self.catch_up = None;
        Ok(())
    }

    /// A stream has ended. Whoever broke a rule is told; a crash breaks none.
    fn ended(&mut self, error: anyhow::Error) {
        self.client.cut();
        self.shared.board(|b| b.live.remove(&self.name));
        match error.downcast_ref::<End>() {
            Some(End::Broken(_) | End::Closed) => {}
            Some(End::Error(condition)) if FAIR_ENDS.contains(&condition.as_str()) => {}
            _ => self.broken(format!("{error:#}")),
        }
    }

    /// Until there is a session again.
    async fn reconnect(&mut self) {
        while let Some(event) = self.client.kept() {
            self.saw(event);
        }
        loop {
            match self.reconnect_once().await {
                Ok(()) => return,
                Err(e) => {
                    let refused = e.downcast_ref::<LoginRefused>().is_some_and(|r| r.condition == "temporary-auth-failure");
                    // A server without disk space may say so instead of taking a session.
                    let full = self.shared.plan.fault == super::Fault::Full
                        && e.downcast_ref::<BindRefused>().is_some_and(|r| r.condition == "resource-constraint");
                    if !refused && !full {
                        self.ended(e);
                    }
                    self.client.cut();
                }
            }
            sleep(Duration::from_millis(self.rng.random_range(10..100))).await;
        }
    }

    async fn reconnect_once(&mut self) -> Result<()> {
        if self.client.sm.previd.is_none() {
            self.client.rebind().await?;
            return self.bound();
        }
        let resumption = match self.client.try_resume().await {
            Err(e) if e.downcast_ref::<Fault>().is_some() => {
                // The numbers make no sense, so the session is worth nothing.
                self.again.extend(self.client.sm.take_unacked());
                return Err(e);
            }
            other => other?,
        };
        match resumption {
            Resumption::Resumed { acked, resent } => {
                self.acked(&acked, AckBy::Resumed);
                self.shared.board(|b| {
                    b.resumed += 1;
                    b.live.insert(self.name.clone())
                });
                let (client, session) = (self.name.clone(), self.session);
                self.add(Event::Resumed { client, session, resent: resent.len() });
                Ok(())
            }
            Resumption::Failed { h, acked, left } => {
                let messages = left.iter().filter(|s| s.xml.starts_with("<message")).count();
                self.shared.board(|b| b.refused += 1);
                let (client, session) = (self.name.clone(), self.session);
                self.add(Event::ResumeFailed { client, session, h, left: messages });
                self.acked(&acked, AckBy::Failed);
                self.again.extend(left);
                self.catch_up = Some(self.catch_up.take().unwrap_or_else(|| self.last_row.clone()));
                self.client.rebind().await?;
                self.bound()
            }
        }
    }

    /// A new session: presence first, then what the old one left, in its order; the archive is read in the next turn.
    fn bound(&mut self) -> Result<()> {
        self.session += 1;
        self.settled = false;
        self.shared.board(|b| b.live.insert(self.name.clone()));
        self.add(Event::Bound { client: self.name.clone(), session: self.session });
        self.client.push(&Element::new("presence", ns::CLIENT))?;
        while let Some(sent) = self.again.pop_front() {
            if !sent.xml.starts_with("<message") {
                continue;
            }
            // What this client wrote it can read; if not, the checker finds the text altered.
            let message = parse(&sent.xml.replacen(' ', &format!(" xmlns='{}' ", ns::CLIENT), 1)).unwrap_or_default();
            self.sent(&sent.id, message.attr("to").unwrap_or_default(), &message.child_text("body").unwrap_or_default());
            self.client.push_again(&sent)?;
        }
        self.client.request_ack()
    }

    /// Reads the whole archive, as evidence.
    async fn finish(&mut self) -> Result<()> {
        let rows = loop {
            match self.client.archive(None, None).await {
                Ok(rows) => break rows,
                Err(e) if e.downcast_ref::<End>().is_some() => self.reconnect().await,
                Err(e) => return Err(e.context(format!("{}'s archive", self.name))),
            }
        };
        for row in rows {
            let message = &row.message;
            self.add(Event::Archived {
                owner: self.name.clone(),
                row: row.id,
                from: bare(message.attr("from")),
                to: bare(message.attr("to")),
                id: message.attr("id").unwrap_or_default().to_owned(),
                body: message.child_text("body").unwrap_or_default(),
            });
        }
        self.add(Event::ArchiveRead { owner: self.name.clone() });
        Ok(())
    }
}

fn bare(jid: Option<&str>) -> String {
    jid.unwrap_or_default().split('/').next().unwrap_or_default().to_owned()
}
