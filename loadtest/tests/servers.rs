//! The ready scenarios, tiny, against servers that are started here: Prosody if the system has it, and Chappe's binary if
//! `CHAPPE_BIN` names it.

mod prosody;

use anyhow::{Context as _, Result};
use loadtest::client::{Profile, TlsMode};
use loadtest::file::File;
use loadtest::run::prepare;
use loadtest::scenario::Outcome;
use loadtest::server::{Program, Setup, Tuning};
use loadtest::tls;
use prosody::{MODULES, Prosody, prosody};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What may arrive between two looks: a window of each of the few clients here.
const BETWEEN: u64 = 24;
const SHORT: [&str; 2] = ["warm_up=0.2", "seconds=0.8"];

/// Where a scenario runs.
#[derive(Clone)]
struct Place {
    address: String,
    domain: &'static str,
    transport: TlsMode,
    login: Profile,
}

impl Prosody {
    fn place(&self, port: usize, transport: TlsMode) -> Place {
        let address = format!("127.0.0.1:{}", self.ports[port]);
        Place { address, domain: "localhost", transport, login: Profile::Sasl }
    }
}

/// One of the ready files, smaller.
async fn run(place: &Place, name: &str, accounts: &str, set: &[&str]) -> Result<Outcome> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("scenarios/{name}.toml"));
    let mut file = File::read(&path, &set.iter().map(|&s| s.to_owned()).collect::<Vec<_>>())?;
    file.server.address = Some(place.address.clone());
    file.server.domain = Some(place.domain.into());
    file.server.transport = Some(place.transport);
    file.server.login = Some(place.login);
    file.accounts.prefix = Some(accounts.into());
    file.accounts.count = Some(12);
    let run = prepare(&file)?;
    let outcome = tokio::time::timeout(Duration::from_secs(50), file.work.run(&run)).await.context("it hangs")??;
    assert!(outcome.faults.is_clean(), "{name}: {:?} {:?}", outcome.faults, outcome.problems);
    Ok(outcome)
}

/// Runs it; what was counted must be in the seconds, and in the histogram if each has a latency of its own.
async fn check(place: &Place, name: &str, accounts: &str, set: &[&str]) -> Outcome {
    let outcome = run(place, name, accounts, set).await.unwrap_or_else(|e| panic!("{name}: {e:#}"));
    assert!(outcome.count > 0, "{name}: {outcome:?}");
    let measured: u64 = outcome.series.iter().filter(|s| s.at > 0.0).map(|s| s.count).sum();
    assert_eq!(measured, outcome.count, "{name}: {:?}", outcome.series);
    if !matches!(name, "archive" | "mixed") {
        // Clients go on while both are read: of those that arrive in that moment one of the two may know already.
        let recorded: u64 = outcome.histogram.iter().map(|(_, n)| n).sum();
        assert!(recorded.abs_diff(outcome.count) <= BETWEEN, "{name}: {recorded} latencies of {}", outcome.count);
    }
    outcome
}

async fn everything_a_small_server_has(place: &Place) {
    check(place, "register", "user", &[]).await;
    check(place, "login", "user", &["logins=6"]).await;
    check(place, "idle", "user", &["base=2", "sessions=4", "settle=0"]).await;
    check(place, "chat", "user", &[&SHORT[..], &["pairs=3"]].concat()).await;
    check(place, "chat", "user", &[&SHORT[..], &["pairs=3", "management=true"]].concat()).await;
    check(place, "chat-rate", "user", &[&SHORT[..], &["pairs=3", "rate=60"]].concat()).await;
    check(place, "offline", "user", &["senders=2", "recipients=4", "messages=9"]).await;
    check(place, "archive", "user", &[&SHORT[..], &["pairs=2", "messages=8", "page=3"]].concat()).await;
    let cut = check(place, "reconnect", "user", &[&SHORT[..], &["pairs=3", "rate=40", "cuts=8", "away=0.05"]].concat()).await;
    assert!(cut.parts["messages delivered"] > 10.0, "{cut:?}");
    check(place, "register", "friend", &[]).await;
    check(place, "presence", "friend", &[&SHORT[..], &["clients=7", "contacts=4", "rate=20"]].concat()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_scenario_against_prosody() {
    let Some(server) = prosody() else { return };
    let place = server.place(0, TlsMode::Plain);
    everything_a_small_server_has(&place).await;
    check(&place, "group", "user", &[&SHORT[..], &["rooms=2", "occupants=4", "senders=2"]].concat()).await;
    let day = ["clients=6", "contacts=4", "occupants=3", "visitors=4", "away=0.05", "day=[[0,30],[0.5,80],[1,30]]"];
    check(&place, "mixed", "friend", &[&SHORT[..], &day].concat()).await;
    // Other contacts than before, who would get what is not theirs.
    check(&place, "presence", "friend", &[&SHORT[..], &["clients=6", "contacts=2", "rate=20"]].concat()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_in_to_prosody() {
    let Some(server) = prosody() else { return };
    check(&server.place(0, TlsMode::StartTls), "register", "user", &[]).await;
    for (port, transport) in [(0, TlsMode::StartTls), (1, TlsMode::Direct), (2, TlsMode::Ws), (3, TlsMode::Wss)] {
        let place = server.place(port, transport);
        check(&place, "login", "user", &["logins=4"]).await;
        check(&place, "chat", "user", &["warm_up=0.1", "seconds=0.3", "pairs=2", "management=true"]).await;
    }
    let why = |outcome: Result<Outcome>| format!("{:#}", outcome.unwrap_err());
    let two = |login| Place { domain: "two.localhost", login, ..server.place(0, TlsMode::StartTls) };
    let one = Place { login: Profile::Sasl2, ..server.place(0, TlsMode::StartTls) };
    assert!(why(run(&one, "login", "user", &["logins=1"]).await).contains("the server offers no SASL2"));
    if !Path::new(MODULES).join("mod_sasl2").exists() {
        eprintln!("not tested: there are no prosody-modules here");
        return;
    }
    check(&two(Profile::Sasl2), "register", "user", &[]).await;
    check(&two(Profile::Sasl2), "login", "user", &["logins=4"]).await;
    // The logins before the measured ones bring the tokens.
    check(&two(Profile::Fast), "login", "user", &["logins=4"]).await;
    check(&two(Profile::Fast), "reconnect", "user", &[&SHORT[..], &["pairs=2", "rate=40", "cuts=8", "away=0.05"]].concat()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_scenario_against_chappe() {
    let Some(binary) = std::env::var_os("CHAPPE_BIN").map(PathBuf::from) else {
        eprintln!("not tested: CHAPPE_BIN names no binary");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let certificate = tls::certificate(folder.path(), "localhost").unwrap();
    let setup = Setup { archive: true, tuning: Tuning::Usual };
    let server = Program::Chappe(binary).start(folder.path(), &certificate, setup).unwrap();
    let config = tls::client(&tls::Trust::Anybody).unwrap();
    let address = server.target(TlsMode::StartTls, &config).address.to_string();
    let place = Place { address, domain: "localhost", transport: TlsMode::StartTls, login: Profile::Sasl };
    everything_a_small_server_has(&place).await;
    let why = |outcome: Result<Outcome>| format!("{:#}", outcome.unwrap_err());
    assert!(why(run(&place, "group", "user", &["rooms=1", "occupants=2", "senders=1"]).await).contains("the server offers no group chat"));
    let fast = Place { login: Profile::Fast, ..place };
    assert!(why(run(&fast, "login", "user", &["logins=1"]).await).contains("the server offers no SASL2"));
}
