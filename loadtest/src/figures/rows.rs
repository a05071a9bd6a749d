//! The rows of the figures, and what they aim at. A row is data: its name, what is done, with which servers.

use super::page::of;
use super::targets::is_peer;
use super::{Plan, Row};
use crate::client::TlsMode::{self, Plain, StartTls};
use crate::file::Work;
use crate::scenario::{Chat, Idle, Storm};
use crate::server::{Program, Tuning};

/// Which servers a row runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Servers {
    /// All that are servers.
    All,
    /// Also with Prosody's default collector.
    Collectors,
    /// Also with an archive that is synced.
    Synced,
    /// Also the bare relay.
    Relay,
    /// Also the bare relay, and Chappe with one plane.
    Wakes,
}

impl Servers {
    /// The variants of a program that run; none if it does not. ejabberd always has both its numbers of schedulers: one is
    /// better in CPU, the other in latency.
    pub(super) fn variants(self, program: &Program) -> Vec<Tuning> {
        let more = match self {
            Servers::All | Servers::Relay => None,
            Servers::Wakes => Some(Tuning::OnePlane),
            Servers::Collectors => Some(Tuning::DefaultCollector),
            Servers::Synced => Some(Tuning::SyncedArchive),
        };
        let runs = *program != Program::Relay || matches!(self, Servers::Relay | Servers::Wakes);
        let all = [Some(Tuning::Usual), Some(Tuning::AllCpus), more].into_iter().flatten();
        all.filter(|tuning| runs && program.has(*tuning)).collect()
    }
}

/// One row of the table.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    pub key: &'static str,
    pub tls: TlsMode,
    pub archive: bool,
    pub work: Work,
    pub servers: Servers,
    /// Not at the plan's rate, but at half of what the better peer has managed in this row of the same run.
    pub half_of: Option<&'static str>,
}

impl Cell {
    /// What is done, after what the rows before have found.
    pub fn work(&self, rows: &[Row]) -> Work {
        match (&self.work, self.half_of.and_then(|key| half_rate(rows, key))) {
            (Work::Chat(chat), Some(rate)) => Work::Chat(Chat { rate: Some(rate), ..*chat }),
            (work, _) => work.clone(),
        }
    }
}

/// Half of the better peer's best rate in a row.
fn half_rate(rows: &[Row], key: &str) -> Option<f64> {
    let row = rows.iter().find(|r| r.key == key)?;
    let peers = row.runs.iter().filter(|(name, _)| is_peer(name));
    let rates = peers.filter_map(|(_, runs)| Some(of(runs, |o| Some(o.rate))?.0));
    rates.max_by(f64::total_cmp).map(|rate| (rate / 2.0).round())
}

pub(super) const NO_ARCHIVE: &str = "chat, no archive";
pub(super) const ARCHIVES: &str = "chat, archives";
/// Their rows at half of the better peer's rate.
pub(super) const HALF_NO_ARCHIVE: &str = "chat at half of the better peer's rate, no archive";
pub(super) const HALF_ARCHIVES: &str = "chat at half of the better peer's rate, archives";

pub(super) fn cells(plan: &Plan) -> Vec<Cell> {
    use Servers::{All, Collectors, Relay, Synced, Wakes};
    let login = |resume| Work::Login(Storm { logins: plan.logins, resume, ..Storm::default() });
    let idle = || Work::Idle(Idle { base: plan.idle_base, sessions: plan.idle, settle: plan.settle });
    let chat = |management, rate| Work::Chat(plan.chat(management, rate));
    let (closed, managed, open) = (|| chat(false, None), || chat(true, None), || chat(false, Some(plan.rate)));
    let presence = Work::Presence(plan.presence());
    let pages = Work::Archive(plan.archive());
    [
        ("login, plain", Plain, false, login(false), Wakes),
        ("login, TLS 1.3", StartTls, false, login(false), Wakes),
        ("login, TLS 1.3 resumed", StartTls, false, login(true), Wakes),
        ("idle session, plain", Plain, false, idle(), Collectors),
        ("idle session, TLS 1.3", StartTls, false, idle(), Collectors),
        (NO_ARCHIVE, Plain, false, closed(), Relay),
        ("chat, no archive, TLS 1.3", StartTls, false, closed(), All),
        ("chat, no archive, XEP-0198", Plain, false, managed(), All),
        (ARCHIVES, Plain, true, closed(), Synced),
        ("chat, archives, XEP-0198", Plain, true, managed(), All),
        ("presence, 50 contacts", Plain, false, presence, All),
        ("archive, pages of 50", Plain, true, pages, All),
        (HALF_NO_ARCHIVE, Plain, false, open(), Wakes),
        // Not with a synced archive: Prosody does not manage the rate, and what waits at the end would count as lost.
        (HALF_ARCHIVES, Plain, true, open(), All),
    ]
    .map(|(key, tls, archive, work, servers)| {
        let half_of = [(HALF_NO_ARCHIVE, NO_ARCHIVE), (HALF_ARCHIVES, ARCHIVES)].into_iter().find(|h| h.0 == key).map(|h| h.1);
        Cell { key, tls, archive, work, servers, half_of }
    })
    .into()
}

/// How little a figure is to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Goal {
    /// One so-many-th of the better peer's CPU.
    Part(f64),
    /// So many KiB.
    Kib(f64),
}

/// What each row is to reach; a row that is not there yet is listed as not measured.
pub(super) const TARGETS: [(&str, Goal); 10] = [
    (NO_ARCHIVE, Goal::Part(10.0)),
    ("chat, no archive, TLS 1.3", Goal::Part(10.0)),
    ("chat, no archive, XEP-0198", Goal::Part(6.0)),
    (ARCHIVES, Goal::Part(8.0)),
    ("presence, 50 contacts", Goal::Part(12.0)),
    ("archive, pages of 50", Goal::Part(20.0)),
    ("login, TLS 1.3", Goal::Part(6.0)),
    ("login, TLS 1.3 resumed", Goal::Part(12.0)),
    ("idle session, plain", Goal::Kib(4.0)),
    ("idle session, TLS 1.3", Goal::Kib(8.0)),
];

#[cfg(test)]
mod tests {
    use super::super::targets::OURS;
    use super::*;
    use crate::scenario::Outcome;

    #[test]
    fn who_runs() {
        use Tuning::{AllCpus, DefaultCollector, SyncedArchive, Usual};
        let check = |servers: Servers, prosody: &[Tuning], ejabberd: &[Tuning], relay: &[Tuning]| {
            let variants = [Program::Prosody, Program::Ejabberd, Program::Relay].map(|p| servers.variants(&p));
            assert_eq!(variants, [prosody, ejabberd, relay]);
        };
        check(Servers::All, &[Usual], &[Usual, AllCpus], &[]);
        check(Servers::Collectors, &[Usual, DefaultCollector], &[Usual, AllCpus], &[]);
        check(Servers::Synced, &[Usual, SyncedArchive], &[Usual, AllCpus], &[]);
        check(Servers::Relay, &[Usual], &[Usual, AllCpus], &[Usual]);
        check(Servers::Wakes, &[Usual], &[Usual, AllCpus], &[Usual]);
        assert_eq!(Servers::Wakes.variants(&Program::Chappe("chappe".into())), [Usual, Tuning::OnePlane]);
    }

    #[test]
    fn half_of_the_better_peer() {
        let runs = |rates: &[f64]| rates.iter().map(|rate| Outcome { rate: *rate, ..Outcome::default() }).collect();
        let all = [
            ("Prosody", runs(&[900.0])),
            ("ejabberd", runs(&[500.0])),
            ("ejabberd, all CPUs", runs(&[1000.0, 3000.0])),
            (OURS, runs(&[9e9])),
            ("Chappe, one plane", runs(&[9e9])),
        ];
        let row = Row { key: ARCHIVES.into(), runs: all.map(|(name, runs)| (name.to_owned(), runs)).into() };
        let cell = cells(&Plan::full()).into_iter().find(|c| c.key == HALF_ARCHIVES).unwrap();
        let rate = |rows: &[Row]| match cell.work(rows) {
            Work::Chat(chat) => chat.rate,
            _ => None,
        };
        assert_eq!(rate(&[row]), Some(1000.0));
        assert_eq!(rate(&[]), Some(Plan::full().rate));
    }

    #[test]
    fn a_row_has_one_name() {
        let mut keys: Vec<_> = cells(&Plan::full()).iter().map(|c| c.key).collect();
        let all = keys.len();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), all);
    }
}
