//! Judges a history. It knows nothing of servers or sockets: the events in, a verdict out.
//!
//! Each rule is one column of the [`Verdict`]; a good run has zeros in all of them. What is merely worth knowing (how many
//! resumptions, how many messages came only by catch-up) is counted beside them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt::Write as _;

use crate::history::{AckBy, Event, Via};

/// The rules. Each is a promise of the server towards clients that keep to XEP-0198.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// An acknowledged message is in the recipient's archive.
    LostToRecipientArchive,
    /// An acknowledged message is in the sender's archive.
    LostToSenderArchive,
    /// An acknowledged message came to the recipient, by a stream or by catch-up.
    NotReceived,
    /// No message is in an archive twice.
    TwiceInArchive,
    /// No message comes twice in one session, resumptions included.
    TwiceInSession,
    /// In an archive, the messages of one sender to one recipient stand in the order of sending.
    ArchiveOrder,
    /// In a session, the messages of one sender to one address come in the order of sending. To one address: before a session
    /// is available, what is for its full JID comes at once (RFC 6121 §8.5.3.1), what is for the bare JID waits (§8.5.2.2).
    SessionOrder,
    /// Nothing comes or is archived that was not sent so: sender, recipient and text.
    Altered,
    /// An archive's row for a message has the id that the message carried (XEP-0359 §5).
    StanzaId,
    /// No message to an existing account comes back as an error.
    Bounced,
    /// What an `h` covered stays covered: nothing acknowledged is asked for again, no number goes back or too far.
    Protocol,
    /// A refused resumption says how much was accepted (`<failed h/>`), wherever something was sent in the session.
    FailedWithoutH,
    /// A session is resumed, unless the server crashed since it was last there: after a cut connection, after SIGTERM
    /// and a restart, after SIGSTOP and SIGCONT.
    ResumeRefused,
    /// When all is drained, every message is acknowledged.
    NeverAcked,
    /// The history can prove what it should: both ends' archives were read, and each kind of fault did something.
    NoEvidence,
}

impl Rule {
    /// All, in the table's order.
    pub const ALL: [Rule; 15] = [
        Rule::LostToRecipientArchive,
        Rule::LostToSenderArchive,
        Rule::NotReceived,
        Rule::TwiceInArchive,
        Rule::TwiceInSession,
        Rule::ArchiveOrder,
        Rule::SessionOrder,
        Rule::Altered,
        Rule::StanzaId,
        Rule::Bounced,
        Rule::Protocol,
        Rule::FailedWithoutH,
        Rule::ResumeRefused,
        Rule::NeverAcked,
        Rule::NoEvidence,
    ];

    /// Its column's name.
    pub fn name(self) -> &'static str {
        match self {
            Rule::LostToRecipientArchive => "acked, not in recipient's archive",
            Rule::LostToSenderArchive => "acked, not in sender's archive",
            Rule::NotReceived => "acked, never received",
            Rule::TwiceInArchive => "twice in an archive",
            Rule::TwiceInSession => "twice in a session",
            Rule::ArchiveOrder => "out of order in an archive",
            Rule::SessionOrder => "out of order in a session",
            Rule::Altered => "altered or never sent",
            Rule::StanzaId => "stanza-id differs from archive",
            Rule::Bounced => "bounced",
            Rule::Protocol => "protocol broken",
            Rule::FailedWithoutH => "<failed/> without h",
            Rule::ResumeRefused => "resumption refused without a crash",
            Rule::NeverAcked => "never acknowledged",
            Rule::NoEvidence => "archive not read, or an idle fault",
        }
    }
}

/// What a history proves.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Each breach: rule and what broke it.
    pub breaches: Vec<(Rule, String)>,
    /// Messages sent, each counted once.
    pub sent: usize,
    /// Of these, acknowledged.
    pub acked: usize,
    /// Of these, by `<a/>`, by `<resumed/>`, by `<failed/>`.
    pub acked_by: [usize; 3],
    /// Messages received by a stream.
    pub streamed: usize,
    /// Messages that came by catch-up and by no stream.
    pub only_catchup: usize,
    /// Messages sent again in a new session, as `<failed/>` did not cover them.
    pub sent_again: usize,
    /// Sessions bound.
    pub bound: usize,
    /// Resumptions that went on.
    pub resumed: usize,
    /// Resumptions that were refused.
    pub resume_failed: usize,
    /// Faults made.
    pub faults: usize,
    /// Messages refused with `resource-constraint` while the disk was full: nothing is owed of these.
    pub refused: usize,
    /// What faults did: which fault, what, how much.
    pub acted: Vec<(String, String, u64)>,
}

impl Verdict {
    /// How often a rule was broken.
    pub fn count(&self, rule: Rule) -> usize {
        self.breaches.iter().filter(|(r, _)| *r == rule).count()
    }

    /// Whether no rule was broken.
    pub fn is_good(&self) -> bool {
        self.breaches.is_empty()
    }

    /// The table, and up to `examples` breaches of each rule.
    pub fn table(&self, examples: usize) -> String {
        let mut out = String::new();
        let facts = [
            ("faults", self.faults),
            ("messages sent", self.sent),
            ("  acknowledged", self.acked),
            ("    by <a/>", self.acked_by[0]),
            ("    by <resumed/>", self.acked_by[1]),
            ("    by <failed/>", self.acked_by[2]),
            ("  sent again in a new session", self.sent_again),
            ("received by a stream", self.streamed),
            ("received by catch-up only", self.only_catchup),
            ("sessions bound", self.bound),
            ("resumed", self.resumed),
            ("resumption refused", self.resume_failed),
            ("refused for want of disk space", self.refused),
        ];
        for (name, value) in facts {
            let _ = writeln!(out, "{name:<36}{value:>9}");
        }
        for (fault, what, count) in &self.acted {
            let _ = writeln!(out, "{:<36}{count:>9}", format!("{fault}: {what}"));
        }
        let _ = writeln!(out, "{:-<45}", "");
        for rule in Rule::ALL {
            let _ = writeln!(out, "{:<36}{:>9}", rule.name(), self.count(rule));
            for (_, what) in self.breaches.iter().filter(|(r, _)| *r == rule).take(examples) {
                let _ = writeln!(out, "    {what}");
            }
        }
        out
    }
}

/// A message as its sender meant it.
struct Message<'a> {
    from: &'a str,
    to: &'a str,
    address: &'a str,
    body: &'a str,
    /// Its place among all that its sender said.
    order: usize,
    acked: bool,
    refused: bool,
    sessions: Vec<u32>,
}

#[derive(Default)]
struct Checker<'a> {
    verdict: Verdict,
    messages: HashMap<&'a str, Message<'a>>,
    /// (client, session) → ids of its streams, in order.
    streams: BTreeMap<(&'a str, u32), Vec<&'a str>>,
    /// client → ids received in any way.
    received: HashMap<&'a str, HashSet<&'a str>>,
    /// owner → rows (row id, message id).
    archives: BTreeMap<&'a str, Vec<(&'a str, &'a str)>>,
    read: HashSet<&'a str>,
    /// (client, message id, stanza id).
    stanza_ids: Vec<(&'a str, &'a str, &'a str)>,
    catchup: HashSet<(&'a str, &'a str)>,
    /// Clients whose session was bound or resumed since the last crash.
    resumable: HashSet<&'a str>,
    /// Whether a kill is under way: what a client tells now may have been before it.
    dying: bool,
    /// Faults of the disk or the clock that were made.
    kinds: BTreeSet<&'a str>,
    /// Whether the disk is full now.
    full: bool,
    /// Messages sent when it had room again.
    room_at: usize,
}

/// Faults that end the process before it can say anything.
const DEADLY: [&str; 5] = ["kill", "power", "full", "read-error", "sync-error"];
/// Faults whose effect must be told ([`Event::Acted`]).
const TOLD: [&str; 6] = ["power", "full", "slow", "read-error", "sync-error", "clock"];

/// Judges a history.
pub fn check(events: &[Event]) -> Verdict {
    let mut checker = Checker::default();
    for event in events {
        checker.take(event);
    }
    checker.judge()
}

impl<'a> Checker<'a> {
    fn breach(&mut self, rule: Rule, what: String) {
        self.verdict.breaches.push((rule, what));
    }

    fn take(&mut self, event: &'a Event) {
        match event {
            Event::Bound { client, .. } => {
                self.verdict.bound += 1;
                self.live(client);
            }
            Event::Resumed { client, .. } => {
                self.verdict.resumed += 1;
                self.live(client);
            }
            Event::ResumeFailed { client, session, h, left } => {
                self.verdict.resume_failed += 1;
                if self.resumable.contains(client.as_str()) {
                    self.breach(Rule::ResumeRefused, format!("{client} session {session}"));
                }
                // Without a number the client must send again what it sent, though it may have been accepted.
                if h.is_none() && *left > 0 {
                    self.breach(Rule::FailedWithoutH, format!("{client} session {session}: {left} unacknowledged"));
                }
            }
            Event::Sent { client, session, to, address, id, body } => {
                let order = self.messages.len();
                let message = Message { from: client, to, address, body, order, acked: false, refused: false, sessions: Vec::new() };
                self.sent(id, message, *session);
            }
            Event::Acked { client, id, by } => self.acked(client, id, *by),
            Event::Received { client, session, via, from, id, body, stanza_id } => {
                self.unaltered(&format!("{client} received"), from, client, id, body);
                self.received.entry(client).or_default().insert(id);
                match via {
                    Via::Stream => {
                        self.streams.entry((client, *session)).or_default().push(id);
                        self.verdict.streamed += 1;
                    }
                    Via::Catchup => {
                        self.catchup.insert((client, id));
                    }
                }
                if let Some(stanza_id) = stanza_id {
                    self.stanza_ids.push((client, id, stanza_id));
                }
            }
            Event::Bounced { client, id, condition } => self.bounced(client, id, condition),
            Event::Broken { client, why } => self.breach(Rule::Protocol, format!("{client}: {why}")),
            Event::Archived { owner, row, from, to, id, body } => {
                self.unaltered(&format!("{owner}'s archive has"), from, to, id, body);
                if owner != from && owner != to {
                    self.breach(Rule::Altered, format!("{owner}'s archive has {id} from {from} to {to}"));
                }
                self.archives.entry(owner).or_default().push((row, id));
            }
            Event::ArchiveRead { owner } => {
                self.read.insert(owner);
            }
            Event::Fault { kind, .. } => {
                self.verdict.faults += 1;
                if DEADLY.contains(&kind.as_str()) {
                    self.dying = true;
                    self.resumable.clear();
                }
                self.full |= kind == "full";
                self.kinds.extend(TOLD.into_iter().filter(|t| t == kind));
            }
            Event::Acted { fault, what, count } => self.verdict.acted.push((fault.clone(), what.clone(), *count)),
            Event::Up { .. } => {
                self.dying = false;
                if std::mem::take(&mut self.full) {
                    self.room_at = self.messages.len();
                }
            }
            Event::Drain {} => {}
        }
    }

    fn live(&mut self, client: &'a str) {
        if !self.dying {
            self.resumable.insert(client);
        }
    }

    fn sent(&mut self, id: &'a str, message: Message<'a>, session: u32) {
        let client = message.from;
        let message = self.messages.entry(id).or_insert(message);
        let (acked, again) = (message.acked, !message.sessions.is_empty());
        message.sessions.push(session);
        if again {
            self.verdict.sent_again += 1;
        }
        if acked {
            self.breach(Rule::Protocol, format!("{client} sent {id} again though it was acknowledged"));
        }
    }

    fn acked(&mut self, client: &'a str, id: &'a str, by: AckBy) {
        let Some(message) = self.messages.get_mut(id).filter(|m| m.from == client) else {
            return self.breach(Rule::Protocol, format!("{client} got {id} acknowledged and never sent it"));
        };
        if std::mem::replace(&mut message.acked, true) {
            return self.breach(Rule::Protocol, format!("{client} got {id} acknowledged twice"));
        }
        self.verdict.acked_by[by as usize] += 1;
    }

    /// A message came back. While the disk is full that is fair, with the condition that says so; then it is nowhere else.
    fn bounced(&mut self, client: &str, id: &'a str, condition: &str) {
        let (full, room_at) = (self.full, self.room_at);
        let message = self.messages.get_mut(id).filter(|m| m.from == client && condition == "resource-constraint");
        match message.filter(|m| full || m.order < room_at) {
            Some(message) => message.refused = true,
            None => self.breach(Rule::Bounced, format!("{client}: {id} {condition}")),
        }
    }

    /// Whether the message is one that was sent so. Events stand in the order of one clock, so it was sent before.
    fn unaltered(&mut self, who: &str, from: &str, to: &str, id: &str, body: &str) {
        match self.messages.get(id) {
            None => self.breach(Rule::Altered, format!("{who} {id}, which nobody sent")),
            Some(m) if m.from != from || m.to != to || m.body != body => {
                self.breach(Rule::Altered, format!("{who} {id} from {from} to {to}: {body:?}"));
            }
            Some(_) => {}
        }
    }

    fn judge(mut self) -> Verdict {
        self.judge_archives();
        self.judge_streams();
        self.judge_messages();
        self.judge_stanza_ids();
        let streamed: HashSet<(&str, &str)> =
            self.streams.iter().flat_map(|((client, _), ids)| ids.iter().map(|id| (*client, *id))).collect();
        self.verdict.only_catchup = self.catchup.iter().filter(|c| !streamed.contains(*c)).count();
        self.verdict.sent = self.messages.len();
        self.verdict.acked = self.messages.values().filter(|m| m.acked).count();
        self.verdict.breaches.sort();
        self.verdict
    }

    fn judge_archives(&mut self) {
        for (owner, rows) in std::mem::take(&mut self.archives) {
            let ids: Vec<&str> = rows.iter().map(|(_, id)| *id).collect();
            self.judge_sequence(&ids, &format!("{owner}'s archive"), Rule::TwiceInArchive, Rule::ArchiveOrder, |m| m.to);
            self.archives.insert(owner, rows);
        }
    }

    fn judge_streams(&mut self) {
        for ((client, session), ids) in std::mem::take(&mut self.streams) {
            self.judge_sequence(&ids, &format!("{client} session {session}"), Rule::TwiceInSession, Rule::SessionOrder, |m| m.address);
            self.streams.insert((client, session), ids);
        }
    }

    /// No id twice, and those of one sender to one target in the order of sending.
    fn judge_sequence(&mut self, ids: &[&'a str], place: &str, twice: Rule, order: Rule, target: fn(&Message<'a>) -> &'a str) {
        let mut seen = HashSet::new();
        let mut last: HashMap<(&str, &str), usize> = HashMap::new();
        for id in ids {
            if !seen.insert(*id) {
                self.breach(twice, format!("{place}: {id}"));
                continue;
            }
            let Some(m) = self.messages.get(id) else { continue };
            let before = last.entry((m.from, target(m))).or_insert(m.order);
            if *before > m.order {
                self.verdict.breaches.push((order, format!("{place}: {id} came too late")));
            } else {
                *before = m.order;
            }
        }
    }

    fn judge_messages(&mut self) {
        let mut in_archive: HashSet<(&str, &str)> = HashSet::new();
        for (owner, rows) in &self.archives {
            in_archive.extend(rows.iter().map(|(_, id)| (*owner, *id)));
        }
        let mut breaches = Vec::new();
        let mut owners = HashSet::new();
        for (id, m) in &self.messages {
            owners.extend([m.from, m.to]);
            let name = format!("{id} from {} to {}", m.from, m.to);
            if !m.acked {
                breaches.push((Rule::NeverAcked, name));
                continue;
            }
            if m.refused {
                self.verdict.refused += 1;
                if [m.from, m.to].iter().any(|o| in_archive.contains(&(o, *id))) || self.received.get(m.to).is_some_and(|r| r.contains(id))
                {
                    breaches.push((Rule::Bounced, format!("{name}, and yet it was taken")));
                }
                continue;
            }
            if self.read.contains(m.to) && !in_archive.contains(&(m.to, *id)) {
                breaches.push((Rule::LostToRecipientArchive, name.clone()));
            }
            if self.read.contains(m.from) && !in_archive.contains(&(m.from, *id)) {
                breaches.push((Rule::LostToSenderArchive, name.clone()));
            }
            if !self.received.get(m.to).is_some_and(|r| r.contains(id)) {
                breaches.push((Rule::NotReceived, name));
            }
        }
        let unread = owners.into_iter().filter(|o| !self.read.contains(o));
        breaches.extend(unread.map(|o| (Rule::NoEvidence, o.to_owned())));
        let idle = |kind: &&&str| self.verdict.acted.iter().filter(|(fault, ..)| fault == **kind).all(|(_, _, count)| *count == 0);
        breaches.extend(self.kinds.iter().filter(idle).map(|kind| (Rule::NoEvidence, format!("{kind} did nothing"))));
        self.verdict.breaches.extend(breaches);
    }

    fn judge_stanza_ids(&mut self) {
        let mut rows: HashMap<(&str, &str), HashSet<&str>> = HashMap::new();
        for (owner, archive) in &self.archives {
            for (row, id) in archive {
                rows.entry((owner, id)).or_default().insert(row);
            }
        }
        for (client, id, stanza_id) in std::mem::take(&mut self.stanza_ids) {
            // A message that is in no archive has been told already, by another rule.
            if rows.get(&(client, id)).is_some_and(|r| !r.contains(stanza_id)) {
                self.breach(Rule::StanzaId, format!("{client}: {id} came as {stanza_id}"));
            }
        }
    }
}

#[cfg(test)]
mod table;
#[cfg(test)]
mod tests;
