//! One client at work, without any I/O: stanzas go in, stanzas come out.

use super::archive::Pages;
use super::crew::{Crew, Phase};
use crate::client::{Refused, SM};
use crate::clock;
use crate::element::{self, Element, attr};
use crate::order::{Arrival, Order};
use anyhow::{Context as _, Result, bail, ensure};
use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// The generator's own timer may be late by so much; an action is late only beyond it.
const TIMER_SLACK_NS: u64 = 2_000_000;
const FILLER: &str = "the quick brown fox jumps over the lazy dog ";
/// Around every stanza, as far as its namespace goes.
const STREAM: &[u8] = b"<s xmlns='jabber:client'>";
const STANZAS: &str = "urn:ietf:params:xml:ns:xmpp-stanzas";
/// Actions that one look takes care of: a client that is far behind also reads.
const BATCH_MAX: usize = 64;

/// What an action is.
pub(super) enum What {
    /// A message; `to` stands escaped.
    Message { flow: u32, to: String, kind: &'static str, body_bytes: usize },
    /// A new presence, for everybody who is subscribed to it.
    Presence { flow: u32 },
    /// The next page of the own archive.
    Page,
    /// The connection breaks.
    Cut,
}

/// When an action is due.
pub(super) enum Pace {
    /// So many on their way; the next one when one has arrived.
    Window(u64),
    /// This part of the crew's rate, whatever the server does. `due`: nanoseconds, once it is known.
    Share { part: f64, due: Option<u64>, offset: f64 },
}

/// What a client does over and over.
pub(super) struct Talk {
    pub(super) what: What,
    pub(super) pace: Pace,
}

impl Talk {
    /// Closed loop if there is a window, else this client's part of the crew's rate; it begins spread over one interval.
    pub(super) fn new(what: What, window: Option<u64>, part: f64, number: usize, people: usize) -> Talk {
        let offset = (number as f64 + 0.5) / people.max(1) as f64;
        let pace = window.map_or(Pace::Share { part, due: None, offset }, Pace::Window);
        Talk { what, pace }
    }
}

/// What the client wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// To be asked again at this time, or when something comes.
    Wait(Option<u64>),
    /// To lose its connection and come back.
    Cut,
    /// To leave.
    Leave,
}

/// XEP-0198 on the client's side.
pub(super) struct Management {
    /// What the session can be resumed with.
    pub(super) id: Option<String>,
    /// Stanzas received.
    pub(super) handled: u32,
    sent: u32,
    acked: u32,
    /// Sent and not acknowledged; empty without resumption.
    unacked: VecDeque<String>,
    ack_due: bool,
    ack_every: u32,
    /// `sent` when the last acknowledgement was asked for.
    asked: u32,
}

impl Management {
    pub(super) fn new(id: Option<String>, ack_every: u64) -> Management {
        let ack_every = u32::try_from(ack_every.max(1)).unwrap_or(u32::MAX);
        Management { id, handled: 0, sent: 0, acked: 0, unacked: VecDeque::new(), ack_due: false, ack_every, asked: 0 }
    }

    /// The server has had `h` stanzas; how many of them are news.
    fn acknowledged(&mut self, h: u32) -> Result<u32> {
        // `h` wraps at 2^32 (XEP-0198 §4), so compare distances, never values.
        let news = h.wrapping_sub(self.acked);
        ensure!(news <= self.sent.wrapping_sub(self.acked), "the server acknowledges {h} of {} stanzas", self.sent);
        self.acked = h;
        self.unacked.drain(..usize::try_from(news)?.min(self.unacked.len()));
        Ok(news)
    }
}

/// One client.
pub(super) struct Person {
    pub(super) number: usize,
    pub(super) crew: Arc<Crew>,
    pub(super) talks: Vec<Talk>,
    /// The flows that it gets.
    pub(super) inbox: HashMap<u32, Order>,
    pub(super) management: Option<Management>,
    pub(super) pages: Option<Pages>,
    /// Latencies count from then, not from when something was sent.
    pub(super) since: Option<u64>,
    answers: String,
}

impl Person {
    pub(super) fn new(number: usize, crew: &Arc<Crew>, talks: Vec<Talk>, inbox: impl IntoIterator<Item = u32>) -> Person {
        let inbox = inbox.into_iter().map(|flow| (flow, Order::default())).collect();
        let crew = crew.clone();
        Person { number, crew, talks, inbox, management: None, pages: None, since: None, answers: String::new() }
    }

    /// Takes a first-level element of the stream.
    pub(super) fn take(&mut self, stanza: &[u8]) -> Result<()> {
        match element::name(stanza) {
            b"r" => {
                if let Some(management) = &mut self.management {
                    management.ack_due = true;
                }
                return Ok(());
            }
            b"a" => {
                let h = attr(stanza, b"h").and_then(|h| std::str::from_utf8(h).ok()?.parse().ok()).context("<a/> without h")?;
                return self.acknowledged(h);
            }
            b"error" => bail!("stream error: {}", String::from_utf8_lossy(stanza)),
            b"message" | b"presence" | b"iq" => {}
            _ => return Ok(()),
        }
        if let Some(management) = &mut self.management {
            management.handled = management.handled.wrapping_add(1);
        }
        let refused = attr(stanza, b"type") == Some(b"error");
        match element::name(stanza) {
            b"message" if refused => self.refused(stanza),
            b"message" => {
                if let Some(pages) = self.pages.as_mut().filter(|p| p.is_result(stanza)) {
                    pages.result(&self.crew, stanza);
                } else {
                    self.arrived(element::body(stanza));
                }
            }
            b"presence" if refused => {
                let refused = Element::parse(stanza, STREAM).map_or_else(|_| Refused::default(), |e| Refused::of(&e));
                self.crew.deliveries.trouble(&format!("presence {refused}"));
            }
            b"presence" => self.arrived(element::text_of(stanza, b"<status")),
            _ => self.query(stanza)?,
        }
        Ok(())
    }

    /// What the server says to have handled.
    pub(super) fn acknowledged(&mut self, h: u32) -> Result<()> {
        let management = self.management.as_mut().context("<a/> without XEP-0198")?;
        let news = management.acknowledged(h)?;
        self.crew.unacked.fetch_sub(u64::from(news), Relaxed);
        Ok(())
    }

    fn refused(&mut self, stanza: &[u8]) {
        let id = attr(stanza, b"id").and_then(|id| std::str::from_utf8(id).ok());
        let refused = Element::parse(stanza, STREAM).map_or_else(|_| Refused::default(), |e| Refused::of(&e));
        self.refused_message(id, &refused);
    }

    /// A message that came back.
    pub(super) fn refused_message(&mut self, id: Option<&str>, refused: &Refused) {
        self.crew.deliveries.trouble(&format!("message {refused}"));
        let flow = id.and_then(|id| id.strip_prefix('m')?.split_once('.')?.0.parse().ok());
        let flow = flow.and_then(|flow: usize| self.crew.flows.get(flow)).filter(|f| f.sender == self.number);
        if let Some(flow) = flow {
            flow.refused.fetch_add(1, Relaxed);
        }
    }

    /// A payload of this run, in a message or a presence; whatever else people and servers say is passed over.
    fn arrived(&mut self, text: Option<&[u8]>) {
        let now = clock::nanos();
        let Some(payload) = text.and_then(|t| Payload::parse(t, self.crew.tag)) else { return };
        let Some(flow) = usize::try_from(payload.flow).ok().and_then(|f| self.crew.flows.get(f)) else { return };
        let Some(order) = self.inbox.get_mut(&payload.flow) else {
            // One's own presence comes back to oneself.
            if flow.sender != self.number {
                self.crew.deliveries.trouble("what was sent to somebody else");
            }
            return;
        };
        match order.judge(payload.number) {
            Arrival::Again => {
                self.crew.deliveries.duplicated.fetch_add(1, Relaxed);
                return;
            }
            Arrival::Late => _ = self.crew.deliveries.reordered.fetch_add(1, Relaxed),
            Arrival::InOrder => {}
        }
        let since = payload.since.max(self.since.unwrap_or(0));
        self.crew.deliveries.done(now.saturating_sub(since) / 1_000);
        let arrived = flow.arrived.fetch_add(1, Relaxed) + 1;
        if flow.windowed && arrived.is_multiple_of(flow.fan_out.max(1)) {
            self.crew.wakes[flow.sender].notify_one();
        }
    }

    fn query(&mut self, stanza: &[u8]) -> Result<()> {
        let value = |name| String::from_utf8_lossy(attr(stanza, name).unwrap_or_default()).into_owned();
        let (kind, id) = (value(b"type"), value(b"id"));
        if let Some(pages) = self.pages.as_mut().filter(|p| matches!(kind.as_str(), "result" | "error") && p.is_answer(&id)) {
            return pages.answer(&self.crew, stanza);
        }
        let to = Some(value(b"from")).filter(|f| !f.is_empty()).map(|f| format!(" to='{f}'")).unwrap_or_default();
        // Pings (XEP-0199) and roster pushes (RFC 6121 §2.1.6) are what a server asks of a client that offers nothing.
        let known = kind == "set" || memchr::memmem::find(stanza, b"urn:xmpp:ping").is_some();
        match kind.as_str() {
            "get" | "set" if known => _ = write!(self.answers, "<iq type='result' id='{id}'{to}/>"),
            "get" => {
                let error = format!("<error type='cancel'><service-unavailable xmlns='{STANZAS}'/></error>");
                let _ = write!(self.answers, "<iq type='error' id='{id}'{to}>{error}</iq>");
            }
            _ => return Ok(()),
        }
        if let Some(management) = &mut self.management {
            sent(management, &self.crew, &self.answers);
        }
        Ok(())
    }

    /// What goes before the end of its stream.
    pub(super) fn last_ack(&self) -> String {
        self.management.as_ref().map(|m| format!("<a xmlns='{SM}' h='{}'/>", m.handled)).unwrap_or_default()
    }

    /// Writes what is due behind `out`, and says what comes then.
    pub(super) fn poll(&mut self, now: u64, out: &mut String) -> Result<Next> {
        let phase = self.crew.phase();
        if phase == Phase::Leave {
            return Ok(Next::Leave);
        }
        out.push_str(&std::mem::take(&mut self.answers));
        if let Some(management) = self.management.as_mut().filter(|m| m.ack_due) {
            management.ack_due = false;
            let _ = write!(out, "<a xmlns='{SM}' h='{}'/>", management.handled);
        }
        if let Some(management) = self.management.as_mut().filter(|m| phase == Phase::Drain && m.asked != m.sent) {
            management.asked = management.sent;
            let _ = write!(out, "<r xmlns='{SM}'/>");
        }
        if !matches!(phase, Phase::Warm | Phase::Measure) {
            return Ok(Next::Wait(None));
        }
        let mut next = None;
        let mut cut = false;
        // Each action is told the talk that it belongs to; a talk never adds or removes one.
        for i in 0..self.talks.len() {
            let mut done = 0;
            while let Some(since) = self.due(i, now) {
                cut |= matches!(self.talks[i].what, What::Cut);
                self.act(i, since, out)?;
                done += 1;
                if done == BATCH_MAX || cut {
                    break;
                }
            }
            let due = match self.talks[i].pace {
                _ if done == BATCH_MAX => Some(now),
                Pace::Share { due, .. } => due,
                Pace::Window(_) => None,
            };
            next = due.map_or(next, |due| Some(next.unwrap_or(u64::MAX).min(due)));
        }
        Ok(if cut { Next::Cut } else { Next::Wait(next) })
    }

    /// Whether the talk's next action is due, and since when; its latency counts from then.
    fn due(&mut self, i: usize, now: u64) -> Option<u64> {
        let (crew, talk) = (&self.crew, &mut self.talks[i]);
        match &mut talk.pace {
            Pace::Window(window) => {
                let free = match &talk.what {
                    What::Message { flow, .. } | What::Presence { flow } => {
                        let flow = &crew.flows[usize::try_from(*flow).ok()?];
                        flow.sent.load(Relaxed) < flow.done() + *window
                    }
                    What::Page => self.pages.as_ref().is_some_and(Pages::is_free),
                    What::Cut => false,
                };
                free.then(clock::nanos)
            }
            Pace::Share { part, due, offset } => {
                let start = crew.start();
                let seconds = |at: u64| at.saturating_sub(start) as f64 / 1e9;
                let nanos = |at: Option<f64>| at.map_or(u64::MAX, |at| start + (at * 1e9) as u64);
                let at = *due.get_or_insert_with(|| nanos(crew.curve.after(0.0, *part, crew.place(*offset))));
                if at > now || (matches!(talk.what, What::Page) && !self.pages.as_ref().is_some_and(Pages::is_free)) {
                    return None;
                }
                *due = Some(nanos(crew.curve.after(seconds(at), *part, 1.0)));
                Some(if now - at > TIMER_SLACK_NS { at } else { now })
            }
        }
    }

    fn act(&mut self, i: usize, since: u64, out: &mut String) -> Result<()> {
        let (start, crew) = (out.len(), &self.crew);
        match &self.talks[i].what {
            What::Message { flow, to, kind, body_bytes } => {
                let number = crew.flows[usize::try_from(*flow)?].sent.fetch_add(1, Relaxed);
                let _ = write!(out, "<message to='{to}' type='{kind}' id='m{flow}.{number}'><body>");
                Payload { flow: *flow, number, since }.write(crew.tag, *body_bytes, out);
                out.push_str("</body></message>");
            }
            What::Presence { flow } => {
                let number = crew.flows[usize::try_from(*flow)?].sent.fetch_add(1, Relaxed);
                out.push_str("<presence><status>");
                Payload { flow: *flow, number, since }.write(crew.tag, 0, out);
                out.push_str("</status></presence>");
            }
            What::Page => self.pages.as_mut().context("no archive to read")?.ask(crew, since, out),
            What::Cut => return Ok(()),
        }
        if let Some(management) = &mut self.management {
            sent(management, &self.crew, &out[start..]);
            if management.sent.is_multiple_of(management.ack_every) {
                management.asked = management.sent;
                let _ = write!(out, "<r xmlns='{SM}'/>");
            }
        }
        Ok(())
    }

    /// After a resumption: what the server has not had, to be sent again. It is counted already.
    pub(super) fn again(&mut self, out: &mut String) {
        if let Some(management) = &mut self.management {
            management.ack_due = false;
            management.asked = management.acked;
            management.unacked.iter().for_each(|stanza| out.push_str(stanza));
        }
    }

    /// The session is a new one: what the old one had unacknowledged is sent as the first of it.
    pub(super) fn renewed(&mut self, id: Option<String>, out: &mut String) {
        if let Some(old) = &mut self.management {
            let mut new = Management::new(id, u64::from(old.ack_every));
            new.unacked = std::mem::take(&mut old.unacked);
            new.sent = u32::try_from(new.unacked.len()).unwrap_or(u32::MAX);
            *old = new;
        }
        self.again(out);
    }
}

/// Counts a stanza as sent, and keeps it if it may have to be sent again.
fn sent(management: &mut Management, crew: &Crew, stanza: &str) {
    management.sent = management.sent.wrapping_add(1);
    crew.unacked.fetch_add(1, Relaxed);
    if management.id.is_some() {
        management.unacked.push_back(stanza.to_owned());
    }
}

/// What the text of a message begins with: the run, who sends it, its number there, and when it was sent or due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Payload {
    pub(super) flow: u32,
    pub(super) number: u64,
    pub(super) since: u64,
}

impl Payload {
    /// Behind it, words up to so many bytes.
    pub(super) fn write(self, tag: u32, bytes: usize, out: &mut String) {
        let start = out.len();
        let _ = write!(out, "lt{tag:08x} {} {} {} ", self.flow, self.number, self.since);
        while out.len() - start < bytes {
            out.push_str(&FILLER[..(bytes + start - out.len()).min(FILLER.len())]);
        }
    }

    pub(super) fn parse(text: &[u8], tag: u32) -> Option<Payload> {
        let mut fields = std::str::from_utf8(text).ok()?.split(' ');
        if u32::from_str_radix(fields.next()?.strip_prefix("lt")?, 16).ok()? != tag {
            return None;
        }
        let mut number = || fields.next()?.parse::<u64>().ok();
        Some(Payload { flow: u32::try_from(number()?).ok()?, number: number()?, since: number()? })
    }
}

#[cfg(test)]
mod tests {
    use super::super::crew::{Curve, Flow};
    use super::*;
    use crate::order::Faults;
    use crate::splitter::{Frame, Splitter};

    const SECOND: u64 = 1_000_000_000;

    /// Two clients that know each other.
    fn crew(windowed: bool, rate: f64) -> Arc<Crew> {
        let crew = Crew::new(2, vec![Flow::new(0, 1, windowed), Flow::new(1, 1, windowed)], Curve::constant(rate));
        crew.enter(Phase::Measure);
        Arc::new(crew)
    }

    fn person(crew: &Arc<Crew>, number: u32, window: Option<u64>) -> Person {
        let what = What::Message { flow: number, to: "b@c/d".into(), kind: "chat", body_bytes: 60 };
        let talk = Talk::new(what, window, 0.5, usize::try_from(number).unwrap(), 2);
        Person::new(usize::try_from(number).unwrap(), crew, vec![talk], [number ^ 1])
    }

    fn message(crew: &Crew, flow: u32, number: u64) -> String {
        let mut text = String::from("<message from='a'><body>");
        Payload { flow, number, since: 0 }.write(crew.tag, 0, &mut text);
        text + "</body></message>"
    }

    fn written(person: &mut Person, now: u64) -> Vec<String> {
        let mut out = String::new();
        person.poll(now, &mut out).unwrap();
        let (mut splitter, mut all) = (Splitter::default(), Vec::new());
        splitter.feed(format!("<s>{out}").as_bytes());
        while let Some(frame) = splitter.next().unwrap() {
            if let Frame::Element(element) = frame {
                all.push(String::from_utf8(element.to_vec()).unwrap());
            }
        }
        all
    }

    #[track_caller]
    fn check(numbers: &[u64], sent: u64, wanted: [u64; 4]) {
        let crew = crew(true, 0.0);
        crew.flows[1].sent.store(sent, Relaxed);
        let mut juliet = person(&crew, 0, Some(1));
        for number in numbers {
            juliet.take(message(&crew, 1, *number).as_bytes()).unwrap();
        }
        let [lost, duplicated, reordered, errors] = wanted;
        assert_eq!(crew.faults(), Faults { lost, duplicated, reordered, errors }, "{numbers:?} of {sent}");
    }

    #[test]
    fn what_goes_wrong_is_counted() {
        check(&[0, 1, 2], 3, [0, 0, 0, 0]);
        check(&[0, 2], 3, [1, 0, 0, 0]);
        check(&[0, 1, 1, 2, 0], 3, [0, 2, 0, 0]);
        check(&[0, 2, 1], 3, [0, 0, 1, 0]);
        check(&[], 2, [2, 0, 0, 0]);
    }

    #[test]
    fn strangers_are_passed_over_and_strays_are_not() {
        let crew = crew(true, 0.0);
        let mut juliet = person(&crew, 0, Some(1));
        for text in ["<message><body>hello</body></message>", "<message/>", "<presence/>", "<x/>"] {
            juliet.take(text.as_bytes()).unwrap();
        }
        let of_another_run = message(&crew, 1, 0).replace(&format!("{:08x}", crew.tag), "00000000");
        juliet.take(of_another_run.as_bytes()).unwrap();
        juliet.take(message(&crew, 0, 0).as_bytes()).unwrap();
        assert!(crew.faults().is_clean());
        let mut stranger = Person::new(1, &crew, Vec::new(), []);
        stranger.take(message(&crew, 0, 0).as_bytes()).unwrap();
        assert_eq!((crew.faults().errors, crew.problems()), (1, vec!["what was sent to somebody else".to_owned()]));
    }

    #[test]
    fn refused_messages_are_errors_and_not_lost() {
        let crew = crew(true, 0.0);
        let mut romeo = person(&crew, 0, Some(2));
        assert_eq!(written(&mut romeo, 1).len(), 2);
        assert_eq!(written(&mut romeo, 2).len(), 0);
        let error = "<message type='error' id='m0.0'><error type='wait'><resource-constraint xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message>";
        romeo.take(error.as_bytes()).unwrap();
        assert_eq!(crew.problems(), ["message refused: resource-constraint"]);
        // There is room for one more.
        assert_eq!(written(&mut romeo, 3).len(), 1);
        assert_eq!(crew.faults(), Faults { lost: 2, errors: 1, ..Faults::default() });
    }

    #[test]
    fn an_open_loop_counts_from_when_messages_were_due() {
        let crew = crew(false, 20.0);
        let mut romeo = person(&crew, 0, None);
        let start = crew.start();
        let since = |text: &String| Payload::parse(element::body(text.as_bytes()).unwrap(), crew.tag).unwrap().since - start;
        // Ten a second for this one of two, begun a quarter of an interval later.
        assert_eq!(written(&mut romeo, start).len(), 0);
        let late: Vec<_> = written(&mut romeo, start + SECOND / 2).iter().map(since).collect();
        assert_eq!(late.iter().map(|s| s / 1_000_000).collect::<Vec<_>>(), [25, 125, 225, 325, 425]);
        let on_time: Vec<_> = written(&mut romeo, start + SECOND * 526 / 1000).iter().map(since).collect();
        assert_eq!(on_time, [SECOND * 526 / 1000]);
    }

    #[test]
    fn stanzas_are_acknowledged_and_sent_again() {
        let crew = crew(true, 0.0);
        let mut romeo = person(&crew, 0, Some(3));
        romeo.management = Some(Management::new(Some("id".into()), 2));
        let first = written(&mut romeo, 1);
        assert_eq!(first.iter().map(|s| element::name(s.as_bytes())).collect::<Vec<_>>(), [&b"message"[..], b"message", b"r", b"message"]);
        assert_eq!(crew.unacked.load(Relaxed), 3);
        romeo.take(b"<a xmlns='urn:xmpp:sm:3' h='1'/>").unwrap();
        assert_eq!(crew.unacked.load(Relaxed), 2);
        let mut again = String::new();
        romeo.again(&mut again);
        assert_eq!(again, first[1].clone() + &first[3]);
        // The old session is gone: its stanzas are the first of the new one.
        let mut anew = String::new();
        romeo.renewed(Some("new".into()), &mut anew);
        assert_eq!(anew, again);
        romeo.take(b"<a xmlns='urn:xmpp:sm:3' h='2'/>").unwrap();
        assert_eq!(crew.unacked.load(Relaxed), 0);
        assert!(romeo.take(b"<a xmlns='urn:xmpp:sm:3' h='3'/>").unwrap_err().to_string().contains("acknowledges 3 of 2"));
    }

    #[test]
    fn questions_are_answered_and_counted() {
        let crew = crew(true, 0.0);
        let mut romeo = Person::new(0, &crew, Vec::new(), []);
        romeo.management = Some(Management::new(None, 5));
        romeo.take(b"<iq type='get' id='1' from='c'><ping xmlns='urn:xmpp:ping'/></iq>").unwrap();
        romeo.take(b"<r xmlns='urn:xmpp:sm:3'/>").unwrap();
        let written = written(&mut romeo, 1);
        assert_eq!(written, ["<iq type='result' id='1' to='c'/>", "<a xmlns='urn:xmpp:sm:3' h='1'/>"]);
        assert_eq!(crew.unacked.load(Relaxed), 1);
        romeo.take(b"<iq type='get' id='2'><query xmlns='jabber:iq:version'/></iq>").unwrap();
        assert!(super::tests::written(&mut romeo, 1)[0].contains("service-unavailable"));
        assert!(romeo.take(b"<stream:error><x/></stream:error>").is_err());
    }
}
