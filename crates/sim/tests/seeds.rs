//! A short run of the simulation: `cargo run --release -p chappe-sim -- --seeds 10000` is the long one.

use chappe_sim::{Keep, Mode, run};

fn seeds(mode: Mode, first: u64, count: u64) {
    for seed in first..first + count {
        let outcome = run(seed, mode, Keep::Hash);
        assert_eq!(outcome.failure, None, "seed {seed} in mode {mode:?}: chappe-sim --seed {seed} --trace shows it");
        assert!(outcome.messages > 0, "seed {seed}: nobody said anything");
    }
}

#[test]
fn one_node_keeps_its_promise() {
    seeds(Mode::Embedded, 1, 40);
}

#[test]
fn a_cluster_keeps_its_promise() {
    seeds(Mode::Cluster, 1, 40);
}

#[test]
fn a_seed_replays_exactly() {
    for mode in [Mode::Embedded, Mode::Cluster] {
        for seed in 1..6 {
            let (a, b) = (run(seed, mode, Keep::Hash), run(seed, mode, Keep::Last));
            assert_eq!(a.hash, b.hash, "seed {seed} in mode {mode:?}");
            assert_eq!((a.simulated_ms, a.deliveries), (b.simulated_ms, b.deliveries));
            assert_ne!(a.hash, run(seed + 100, mode, Keep::Hash).hash, "the hash sees what happens");
        }
    }
}
