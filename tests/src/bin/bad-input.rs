//! Feeds the corpus of bad input (`tests/corpus`) to a server, at length.
#![allow(clippy::disallowed_methods, reason = "a harness of real processes lives by the real clock")]

use std::process::ExitCode;

use anyhow::Result;
use chappe_tests::corpus::run::{Options, is_good, run_all, table};
use chappe_tests::corpus::{Absent, Group, check_rows};
use clap::Parser;

/// Every entry whole, byte by byte and in 20 random cuts; full amounts. Ends with 0 if every outcome is the expected one.
#[derive(Parser)]
struct Args {
    /// Only entries whose ids begin with one of these: `A`, `B13`.
    only: Vec<String>,
    /// As in CI: a few random cuts, reduced amounts.
    #[arg(long)]
    short: bool,
    /// Where chance starts; by default a new one each run.
    #[arg(long)]
    seed: Option<u64>,
    /// Without a line for each entry.
    #[arg(long)]
    quiet: bool,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let groups = Group::read_all()?;
    if args.only.is_empty() {
        check_rows(&groups, &Absent::read()?)?;
    }
    let seed = args.seed.unwrap_or_else(|| chappe_tests::random() >> 16);
    let options = Options { long: !args.short, seed, only: args.only, verbose: !args.quiet };
    let scores = run_all(&groups, &options).await?;
    println!("seed {seed}\n{}", table(&scores));
    Ok(if is_good(&scores) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
