//! Runs seeds, and prints the first one that goes wrong with the end of its trace.
// How fast it is, is measured in real time.
#![allow(clippy::disallowed_methods, reason = "how long a real run took is told to who started it; the simulation itself has no clock")]

use anyhow::bail;
use chappe_sim::{Coverage, Keep, Less, Mode, Outcome, run_covering, run_less, shrink};
use clap::{Parser, ValueEnum};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Lines of the trace that a failure prints.
const LINES_PRINTED: usize = 60;
/// Outcomes that wait to be counted.
const OUTCOMES_MAX: usize = 64;

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
    /// Runs at a time.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
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
    let runs: Vec<(u64, Mode)> = (first..last).flat_map(|seed| modes.iter().map(move |mode| (seed, *mode))).collect();
    let began = Instant::now();
    let (sum, coverage) = run_all(&args, &runs)?;
    let took = began.elapsed().as_secs_f64();
    println!(
        "{} runs, {} failures, {:.1} runs/s, {:.0} × real time, {} messages, {} deliveries, {} resumed, {} resumptions refused",
        sum.runs,
        sum.failures,
        sum.runs as f64 / took,
        sum.simulated_ms as f64 / 1_000.0 / took,
        sum.messages,
        sum.deliveries,
        sum.resumed,
        sum.refused,
    );
    if args.coverage {
        println!("{}", coverage.table());
    }
    if sum.failures > 0 {
        bail!("{} failures", sum.failures);
    }
    Ok(())
}

/// What all runs were together.
#[derive(Default)]
struct Sum {
    runs: u64,
    failures: u64,
    simulated_ms: u64,
    messages: u64,
    deliveries: u64,
    resumed: u64,
    refused: u64,
}

/// Runs them, several at a time, and stops at the first failure unless told to go on.
fn run_all(args: &Args, runs: &[(u64, Mode)]) -> anyhow::Result<(Sum, Coverage)> {
    let (next, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let began = Instant::now();
    let (mut sum, mut coverage, mut failed) = (Sum::default(), Coverage::default(), None);
    let threads = args.jobs.max(1);
    let (tell, told_of) = std::sync::mpsc::sync_channel(OUTCOMES_MAX);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                let (tell, next, over) = (tell.clone(), &next, &over);
                scope.spawn(move || {
                    let mut seen = Coverage::default();
                    while !over.load(Relaxed)
                        && let Some((seed, mode)) = runs.get(next.fetch_add(1, Relaxed))
                    {
                        let (outcome, replays) = one(args, *seed, *mode, &mut seen);
                        if tell.send((*seed, *mode, outcome, replays)).is_err() {
                            break;
                        }
                    }
                    seen
                })
            })
            .collect();
        drop(tell);
        let mut said = Instant::now();
        for (seed, mode, outcome, replays) in told_of {
            sum.runs += 1;
            sum.simulated_ms += outcome.simulated_ms;
            sum.messages += outcome.messages;
            sum.deliveries += outcome.deliveries;
            sum.resumed += outcome.resumed;
            sum.refused += outcome.failed;
            let wrong = outcome.failure.or((!replays).then(|| "it does not replay".into()));
            if let Some(wrong) = wrong {
                sum.failures += 1;
                println!("seed {seed} mode {mode:?}: {wrong}");
                if !args.keep_going {
                    over.store(true, Relaxed);
                    failed.get_or_insert((seed, mode, wrong));
                }
            }
            if said.elapsed() > Duration::from_secs(10) {
                said = Instant::now();
                println!("… seed {seed}: {} runs, {:.1} a second", sum.runs, sum.runs as f64 / began.elapsed().as_secs_f64());
            }
        }
        for worker in workers {
            // A worker that panics is a bug of the simulator, which the hook has printed.
            coverage.add(worker.join().unwrap_or_default());
        }
    });
    if let Some((seed, mode, wrong)) = failed {
        if !args.trace {
            print_end(&run_less(seed, mode, &args.less, Keep::Last).lines);
        }
        bail!("seed {seed} in mode {mode:?} after {} runs; replay with --seed {seed} --trace: {wrong}", sum.runs);
    }
    Ok((sum, coverage))
}

/// One run, and whether it replays, if that is asked.
fn one(args: &Args, seed: u64, mode: Mode, coverage: &mut Coverage) -> (Outcome, bool) {
    let outcome = if args.coverage {
        run_covering(seed, mode, coverage)
    } else {
        run_less(seed, mode, &args.less, if args.trace { Keep::All } else { Keep::Hash })
    };
    let replays = !args.twice || run_less(seed, mode, &args.less, Keep::Hash).hash == outcome.hash;
    (outcome, replays)
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
