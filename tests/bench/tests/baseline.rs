//! Allocations and cells of each way, held against `baseline.txt`: they are the same on every machine, so more of them is a
//! regression. Time is measured elsewhere.

use chappe_bench::path::{Path, Way};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;

/// How much worse than the baseline a figure may be: maps grow at other moments when something else changes.
const SLACK: f64 = 1.02;

/// (allocations, their bytes, cells written, cells deleted), of one message.
fn measure(way: Way) -> [f64; 4] {
    let mut path = Path::new(way, 10).unwrap();
    for _ in 0..10 {
        path.round();
    }
    let cells = |path: &Path| (path.store.puts.load(Relaxed), path.store.deletes.load(Relaxed));
    let before = cells(&path);
    let mut messages = 0;
    let info = allocation_counter::measure(|| messages = (0..100).map(|_| path.round()).sum());
    let after = cells(&path);
    [info.count_total, info.bytes_total, after.0 - before.0, after.1 - before.1].map(|n| n as f64 / messages as f64)
}

#[test]
fn no_more_than_before() {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("baseline.txt");
    let text = std::fs::read_to_string(&file).unwrap_or_default();
    let known: BTreeMap<&str, Vec<f64>> = text
        .lines()
        .filter(|l| !l.starts_with('#'))
        .filter_map(|l| {
            let mut fields = l.split_whitespace();
            Some((fields.next()?, fields.map(|f| f.parse().unwrap()).collect()))
        })
        .collect();
    let mut now = String::from("# way, then of one message: allocations, their bytes, cells written, cells deleted\n");
    let mut worse = Vec::new();
    for (name, way) in Way::ALL {
        let figures = measure(way);
        now += &format!("{name:<24}{:>8.2}{:>9.0}{:>7.2}{:>7.2}\n", figures[0], figures[1], figures[2], figures[3]);
        let allowed = known.get(name).map_or(&[][..], Vec::as_slice);
        if allowed.len() != 4 || figures.iter().zip(allowed).any(|(now, then)| *now > then * SLACK + 0.02) {
            worse.push(format!("{name}: {figures:.2?}, and the baseline is {allowed:?}"));
        }
    }
    assert!(worse.is_empty(), "{}\nif that is meant, {} is to become:\n{now}", worse.join("\n"), file.display());
}
