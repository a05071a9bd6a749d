//! Runs seeds, and prints the first one that goes wrong with the end of its trace.
// How fast it is, is measured in real time.
#![allow(clippy::disallowed_methods, reason = "how long a real run took is told to who started it; the simulation itself has no clock")]

use anyhow::bail;
use chappe_sim::{Coverage, Keep, Less, Mode, run_covering, run_less, shrink};
use clap::{Parser, ValueEnum};
use std::time::{Duration, Instant};

/// Lines of the trace that a failure prints.
const LINES_PRINTED: usize = 60;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Modes {
    /// Embedded store, one node.
    E,
    /// Cluster on hostile replicas.
    C,
    /// Each seed in both.
    Both,
}

#[derive(Parser, Debug)]
#[command(about = "Simulated cluster: production code, virtual clock, seeded faults, checkers")]
struct Args {
    /// How many seeds.
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// The first one.
    #[arg(long, default_value_t = 1)]
    start: u64,
    /// Only this one, printing its end.
    #[arg(long)]
    seed: Option<u64>,
    /// Which clusters.
    #[arg(long, value_enum, default_value_t = Modes::Both)]
    mode: Modes,
    /// Print the whole trace.
    #[arg(long)]
    trace: bool,
    /// Run each seed twice and compare.
    #[arg(long)]
    twice: bool,
    /// Plant each bug, or the one named, and say at which seed it is seen; with `--seed`: plant it in that run. Needs
    /// `--features planted`.
    #[arg(long, num_args = 0..=1, default_missing_value = "all")]
    planted: Option<String>,
    /// Leave something out: `faults=3,9 acts=40 lucky calm`. A wrong word tells which there are.
    #[arg(long, default_value = "")]
    less: Less,
    /// Make the failing run of this seed small, and show what is left of it.
    #[arg(long, requires = "seed")]
    shrink: bool,
    /// Show which event met which state, and how often.
    #[arg(long)]
    coverage: bool,
    /// Go on after a failure, and count.
    #[arg(long)]
    keep_going: bool,
}

fn main() -> std::process::ExitCode {
    match all() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(e) => {
            println!("{e}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn all() -> anyhow::Result<()> {
    let args = Args::parse();
    std::panic::set_hook(Box::new(|info| eprintln!("{info}")));
    let modes: &[Mode] = match args.mode {
        Modes::E => &[Mode::Embedded],
        Modes::C => &[Mode::Cluster],
        Modes::Both => &[Mode::Embedded, Mode::Cluster],
    };
    if let Some(which) = &args.planted {
        if args.seed.is_none() {
            return planted(which, &args, modes);
        }
        plant(which)?;
    }
    if let (true, Some(seed)) = (args.shrink, args.seed) {
        return modes.iter().try_for_each(|mode| show_smallest(seed, *mode));
    }
    let (first, last) = args.seed.map_or((args.start, args.start + args.seeds), |s| (s, s + 1));
    let began = Instant::now();
    let (mut simulated, mut runs, mut failures) = (0, 0u64, 0u64);
    let (mut messages, mut deliveries, mut resumed, mut refused) = (0, 0, 0, 0);
    let mut coverage = Coverage::default();
    let mut told = Instant::now();
    for seed in first..last {
        for &mode in modes {
            let outcome = if args.coverage {
                run_covering(seed, mode, &mut coverage)
            } else {
                run_less(seed, mode, &args.less, if args.trace { Keep::All } else { Keep::Hash })
            };
            runs += 1;
            simulated += outcome.simulated_ms;
            messages += outcome.messages;
            deliveries += outcome.deliveries;
            resumed += outcome.resumed;
            refused += outcome.failed;
            if args.twice && run_less(seed, mode, &args.less, Keep::Hash).hash != outcome.hash {
                bail!("seed {seed} in mode {mode:?} does not replay");
            }
            if let Some(failure) = outcome.failure {
                failures += 1;
                println!("seed {seed} mode {mode:?}: {failure}");
                if !args.keep_going {
                    if !args.trace {
                        print_end(&run_less(seed, mode, &args.less, Keep::Last).lines);
                    }
                    bail!("seed {seed} in mode {mode:?} after {runs} runs; replay with --seed {seed} --trace: {failure}");
                }
            }
            if told.elapsed() > Duration::from_secs(10) {
                told = Instant::now();
                println!("… seed {seed}: {runs} runs, {:.1} a second", runs as f64 / began.elapsed().as_secs_f64());
            }
        }
    }
    let took = began.elapsed().as_secs_f64();
    println!(
        "{runs} runs, {failures} failures, {:.1} runs/s, {:.0} × real time, {messages} messages, {deliveries} deliveries, {resumed} resumed, {refused} resumptions refused",
        runs as f64 / took,
        simulated as f64 / 1_000.0 / took,
    );
    if args.coverage {
        println!("{}", coverage.table());
    }
    if failures > 0 {
        bail!("{failures} failures");
    }
    Ok(())
}

fn print_end(lines: &[String]) {
    lines.iter().skip(lines.len().saturating_sub(LINES_PRINTED)).for_each(|line| println!("{line}"));
}

fn show_smallest(seed: u64, mode: Mode) -> anyhow::Result<()> {
    let tell = |less: &Less, outcome: &chappe_sim::Outcome| {
        println!("… {} faults, {} acts, {} messages: {less}", outcome.faults, outcome.acts, outcome.messages);
    };
    let Some((less, outcome)) = shrink(seed, mode, tell) else {
        println!("seed {seed} in mode {mode:?} does not fail");
        return Ok(());
    };
    print_end(&run_less(seed, mode, &less, Keep::Last).lines);
    let how = outcome.failure.unwrap_or_default();
    bail!("replay with --seed {seed} --mode {} --less '{less}' --trace: {how}", if mode == Mode::Embedded { "e" } else { "c" });
}

/// One seed with one bug, to look at.
#[cfg(feature = "planted")]
fn plant(which: &str) -> anyhow::Result<()> {
    use types::planted::Bug;
    let Some((_, bug)) = Bug::ALL.iter().find(|(name, _)| *name == which) else {
        bail!("with --seed name one of {}", Bug::ALL.map(|(name, _)| name).join(", "));
    };
    types::planted::plant(Some(*bug));
    Ok(())
}

#[cfg(not(feature = "planted"))]
fn plant(_: &str) -> anyhow::Result<()> {
    bail!("this build cannot plant bugs: build with --features planted")
}

/// Each planted bug must be seen; the build must be able to plant any.
#[cfg(feature = "planted")]
fn planted(which: &str, args: &Args, modes: &[Mode]) -> anyhow::Result<()> {
    use types::planted::{Bug, plant};
    let mut missed = Vec::new();
    for (name, bug) in Bug::ALL.iter().filter(|(name, _)| which == "all" || which == *name) {
        plant(Some(*bug));
        let began = Instant::now();
        let all = (args.start..args.start + args.seeds).flat_map(|seed| modes.iter().map(move |mode| (seed, *mode)));
        // A seed that fails without the bug shows nothing.
        let found = all.map(|(seed, mode)| (seed, mode, run_less(seed, mode, &args.less, Keep::Hash))).find(|(seed, mode, outcome)| {
            outcome.failure.is_some() && {
                plant(None);
                let sound = run_less(*seed, *mode, &args.less, Keep::Hash).failure.is_none();
                plant(Some(*bug));
                sound
            }
        });
        plant(None);
        let took = began.elapsed().as_secs_f64();
        match found {
            Some((seed, mode, outcome)) => {
                println!("{name:<20} seed {seed:>4} {mode:?} in {took:.1} s: {}", outcome.failure.unwrap_or_default());
            }
            None => {
                println!("{name:<20} not seen within {} seeds", args.seeds);
                missed.push(*name);
            }
        }
    }
    if missed.is_empty() { Ok(()) } else { bail!("not seen: {}", missed.join(", ")) }
}

#[cfg(not(feature = "planted"))]
fn planted(_: &str, _: &Args, _: &[Mode]) -> anyhow::Result<()> {
    bail!("this build cannot plant bugs: build with --features planted")
}
