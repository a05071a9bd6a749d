//! `path WAY ROUNDS`: one way, for a profiler; prints what each message cost.
use anyhow::{Context as _, Result};
use chappe_bench::path::{Path, Way};
use clap::Parser;
use std::sync::atomic::Ordering::Relaxed;

#[derive(Parser)]
#[command(about = "The way of a message without sockets and disk: allocations, cells and bytes of each; under callgrind, instructions")]
struct Args {
    /// chat, chat-single, chat-managed, chat-archived, chat-archived-managed
    way: String,
    /// Rounds in which every client sends a burst
    #[arg(default_value_t = 100)]
    rounds: u64,
    /// Clients
    #[arg(long, default_value_t = 50)]
    clients: usize,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let (_, way) = Way::ALL.iter().find(|(name, _)| *name == args.way).context("no such way")?;
    let mut path = Path::new(*way, args.clients)?;
    for _ in 0..3 {
        path.round();
    }
    let (puts, deletes, bytes, written) =
        (path.store.puts.load(Relaxed), path.store.deletes.load(Relaxed), path.store.bytes.load(Relaxed), path.written);
    let mut messages = 0;
    let info = allocation_counter::measure(|| messages = (0..args.rounds).map(|_| path.round()).sum());
    let each = |n: u64| n as f64 / messages.max(1) as f64;
    println!(
        "{messages} messages; each: {:.1} allocations of {:.0} bytes, {:.2} cells written and {:.2} deleted, {:.0} bytes of cells, {:.0} bytes sent",
        each(info.count_total),
        each(info.bytes_total),
        each(path.store.puts.load(Relaxed) - puts),
        each(path.store.deletes.load(Relaxed) - deletes),
        each(path.store.bytes.load(Relaxed) - bytes),
        each(path.written - written),
    );
    Ok(())
}
