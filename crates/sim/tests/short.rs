//! The simulation, in short: `just sim 10000` is the long form. `CHAPPE_SIM_SEEDS` sets how many seeds of each kind run.

use chappe_sim::{Keep, Mode, run};

/// Seeds of each kind of cluster, where nothing else is asked for: some ten seconds without optimization.
const SEEDS: u64 = 250;
/// Lines of the trace that a failure prints.
const LINES_PRINTED: usize = 60;

fn check(mode: Mode) {
    let seeds = std::env::var("CHAPPE_SIM_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(SEEDS);
    let (mut messages, mut resumed) = (0, 0);
    for seed in 1..=seeds {
        let outcome = run(seed, mode, Keep::Hash);
        if let Some(failure) = outcome.failure {
            let lines = run(seed, mode, Keep::Last).lines;
            let end = lines[lines.len().saturating_sub(LINES_PRINTED)..].join("\n");
            panic!("seed {seed} in mode {mode:?}: {failure}\n{end}\nreplay with: cargo run -p chappe-sim -- --seed {seed} --trace");
        }
        messages += outcome.messages;
        resumed += outcome.resumed;
    }
    // A simulation in which nothing happens would hold every promise.
    assert!(messages > 10 * seeds && resumed > seeds / 4, "{seeds} seeds: {messages} messages, {resumed} resumptions");
}

#[test]
fn one_node_on_the_embedded_store() {
    check(Mode::Embedded);
}

#[test]
fn a_cluster_on_hostile_replicas() {
    check(Mode::Cluster);
}

#[test]
fn a_seed_replays_exactly() {
    for mode in [Mode::Embedded, Mode::Cluster] {
        let [first, second] = [Keep::Hash, Keep::Last].map(|keep| run(7, mode, keep));
        assert_eq!(first.hash, second.hash, "{mode:?}");
        assert!(!second.lines.is_empty());
        assert_ne!(run(8, mode, Keep::Hash).hash, first.hash, "{mode:?}");
    }
}
