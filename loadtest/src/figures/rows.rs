//! The rows of the figures, and what they aim at. A row is data: its name, what is done, with which servers.

use super::Plan;
use crate::client::TlsMode::{self, Plain, StartTls};
use crate::scenario::{self, Chat, Idle, Login, Outcome, Run};
use crate::server::{Program, Tuning};
use anyhow::Result;

/// What a row does.
#[derive(Clone, Copy, Debug)]
pub(super) enum Work {
    Login(Login),
    Idle(Idle),
    Chat(Chat),
}

impl Work {
    pub(super) async fn run(self, run: &Run) -> Result<Outcome> {
        match self {
            Work::Login(login) => scenario::login(run, login).await,
            Work::Idle(idle) => scenario::idle(run, idle).await,
            Work::Chat(chat) => scenario::chat(run, chat).await,
        }
    }
}

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
}

impl Servers {
    /// The variants of a program that run; none if it does not. ejabberd always has both its numbers of schedulers: one is
    /// better in CPU, the other in latency.
    pub(super) fn variants(self, program: &Program) -> Vec<Tuning> {
        let more = match self {
            Servers::All | Servers::Relay => None,
            Servers::Collectors => Some(Tuning::DefaultCollector),
            Servers::Synced => Some(Tuning::SyncedArchive),
        };
        let runs = *program != Program::Relay || self == Servers::Relay;
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
}

pub(super) fn cells(plan: &Plan) -> Vec<Cell> {
    use Servers::{All, Collectors, Relay, Synced};
    let login = Work::Login(Login { logins: plan.logins, concurrency: scenario::CONCURRENCY });
    let idle = Work::Idle(Idle { base: plan.idle_base, sessions: plan.idle, settle: plan.settle });
    let (closed, managed) = (plan.chat(false, None), plan.chat(true, None));
    let open = plan.chat(false, Some(plan.rate));
    [
        ("login, plain", Plain, false, login, All),
        ("login, TLS 1.3", StartTls, false, login, All),
        ("idle session, plain", Plain, false, idle, Collectors),
        ("idle session, TLS 1.3", StartTls, false, idle, Collectors),
        ("chat, no archive", Plain, false, closed, Relay),
        ("chat, no archive, TLS 1.3", StartTls, false, closed, All),
        ("chat, no archive, XEP-0198", Plain, false, managed, All),
        ("chat, archives", Plain, true, closed, Synced),
        ("chat, archives, XEP-0198", Plain, true, managed, All),
        ("chat at a fixed rate, no archive", Plain, false, open, Relay),
        // Not with a synced archive: Prosody does not manage the rate, and what waits at the end would count as lost.
        ("chat at a fixed rate, archives", Plain, true, open, All),
    ]
    .map(|(key, tls, archive, work, servers)| Cell { key, tls, archive, work, servers })
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
    ("chat, no archive", Goal::Part(10.0)),
    ("chat, no archive, TLS 1.3", Goal::Part(10.0)),
    ("chat, no archive, XEP-0198", Goal::Part(6.0)),
    ("chat, archives", Goal::Part(8.0)),
    ("presence, 50 contacts", Goal::Part(12.0)),
    ("archive, pages of 50", Goal::Part(20.0)),
    ("login, TLS 1.3", Goal::Part(6.0)),
    ("login, TLS 1.3 resumed", Goal::Part(12.0)),
    ("idle session, plain", Goal::Kib(4.0)),
    ("idle session, TLS 1.3", Goal::Kib(8.0)),
];

#[cfg(test)]
mod tests {
    use super::*;

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
