//! Kills a server under chatting clients and proves, or disproves, that nothing acknowledged is lost.
#![allow(clippy::disallowed_methods, reason = "a harness of real processes lives by the real clock")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use chappe_tests::checker;
use chappe_tests::crash::{Fault, Plan, run};
use chappe_tests::history::{self, History};
use chappe_tests::server::Server;
use clap::Parser;

/// Pairs of clients with XEP-0198 chat while the server (`CHAPPE_TEST_SERVER`: chappe or prosody) is killed and started again,
/// or its disk fails.
/// Ends with 0 if every column of the table is 0.
#[derive(Parser)]
struct Args {
    /// How many faults.
    #[arg(long, default_value_t = 200)]
    kills: u32,
    /// Which fault.
    #[arg(long, visible_alias = "signal", value_enum, ignore_case = true, default_value = "kill")]
    fault: Fault,
    /// Pairs of clients.
    #[arg(long, default_value_t = 4)]
    pairs: usize,
    /// Where chance starts; by default a new one each run.
    #[arg(long)]
    seed: Option<u64>,
    /// Longest time between two faults, in milliseconds.
    #[arg(long, default_value_t = 1500)]
    up_max_ms: u64,
    /// Mean pause between two messages of a client, in milliseconds.
    #[arg(long, default_value_t = 30)]
    pace_ms: u64,
    /// One message in so many is followed by the client's own cutting of its connection.
    #[arg(long, default_value_t = 200)]
    cut_one_in: u32,
    /// Where the history is written, one JSON object a line.
    #[arg(long, default_value = "crash-history.jsonl")]
    history: PathBuf,
    /// Judges a history written before and starts nothing.
    #[arg(long)]
    check: Option<PathBuf>,
    /// How many examples of each breach are shown.
    #[arg(long, default_value_t = 5)]
    examples: usize,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let verdict = match &args.check {
        Some(file) => checker::check(&history::read(file)?),
        None => {
            let plan = Plan {
                pairs: args.pairs,
                faults: args.kills,
                fault: args.fault,
                seed: args.seed.unwrap_or_else(|| chappe_tests::random() >> 16),
                up_max: Duration::from_millis(args.up_max_ms),
                pace: Duration::from_millis(args.pace_ms),
                cut_one_in: args.cut_one_in,
                progress: true,
                ..Plan::default()
            };
            eprintln!("seed {}", plan.seed);
            let mut server = Server::start(plan.fault.config()).await?;
            let result = run(&mut server, &plan, &History::new(Some(&args.history))?).await;
            if !result.as_ref().is_ok_and(checker::Verdict::is_good) {
                eprintln!("seed {}; history {}; server's folder {}", plan.seed, args.history.display(), server.keep().display());
            }
            result?
        }
    };
    print!("{}", verdict.table(args.examples));
    Ok(if verdict.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
