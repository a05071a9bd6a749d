//! The crash harness, in short: `cargo run -p chappe-tests --bin crash` is the long form.

use std::time::Duration;

use anyhow::Result;
use chappe_tests::checker::Rule;
use chappe_tests::crash::{Fault, Plan, run};
use chappe_tests::history::History;
use chappe_tests::server::{Kind, Server};

async fn short(fault: Fault, faults: u32) -> Result<()> {
    let plan = Plan { pairs: 2, faults, fault, seed: chappe_tests::random() >> 16, up_max: Duration::from_millis(800), ..Plan::default() };
    if Kind::from_env()? == Kind::Prosody && fault.config().layer.is_some() {
        // The layer knows how Chappe ends when its disk fails; others may do as they like.
        return Ok(());
    }
    // Prosody keeps sessions in memory only, and stumbles over clients that cut and resume while it is stopped: there it shows
    // that the harness is right where nothing dies, and that the checker sees what dies.
    let plan = if Kind::from_env()? == Kind::Prosody { Plan { cut_one_in: u32::MAX, ..plan } } else { plan };
    let mut server = Server::start(fault.config()).await?;
    let history = server.folder().join("history.jsonl");
    let verdict = run(&mut server, &plan, &History::new(Some(&history))?).await?;
    let table = verdict.table(5);
    println!("seed {}\n{table}", plan.seed);
    match (server.kind(), fault) {
        (Kind::Prosody, Fault::Kill) => assert!(verdict.count(Rule::FailedWithoutH) > 0, "{table}"),
        (Kind::Prosody, Fault::Term) => assert!(verdict.count(Rule::ResumeRefused) > 0, "{table}"),
        _ => assert!(verdict.is_good(), "seed {}, history {}\n{table}", plan.seed, server.keep().display()),
    }
    assert!(verdict.sent > 50 && verdict.faults == faults as usize, "{table}");
    if fault == Fault::Term && server.kind() == Kind::Chappe {
        assert!(verdict.resumed > 0 && verdict.resume_failed == 0, "{table}");
    }
    Ok(())
}

#[tokio::test]
async fn kill_loses_and_doubles_nothing() -> Result<()> {
    short(Fault::Kill, 8).await
}

#[tokio::test]
async fn after_sigterm_clients_resume() -> Result<()> {
    short(Fault::Term, 4).await
}

#[tokio::test]
async fn sigstop_is_only_a_pause() -> Result<()> {
    short(Fault::Stop, 3).await
}

#[tokio::test]
async fn a_power_cut_takes_nothing_that_was_acknowledged() -> Result<()> {
    short(Fault::Power, 3).await
}

#[tokio::test]
async fn a_full_disk_refuses_or_stops_and_loses_nothing() -> Result<()> {
    short(Fault::Full, 2).await
}

#[tokio::test]
async fn a_slow_disk_is_only_slow() -> Result<()> {
    short(Fault::Slow, 1).await
}

#[tokio::test]
async fn an_error_of_the_disk_ends_the_process_and_nothing_else() -> Result<()> {
    short(Fault::SyncError, 2).await?;
    short(Fault::ReadError, 1).await
}

#[tokio::test]
async fn a_clock_that_jumps_changes_nothing() -> Result<()> {
    short(Fault::Clock, 4).await
}
