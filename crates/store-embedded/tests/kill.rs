//! `kill -9` of a process that commits: every ticket that it was told of is there afterwards, in whole batches.

#![allow(clippy::disallowed_methods, reason = "a test of real threads waits in real time")]

use bytes::Bytes;
use chappe_store_embedded::{Embedded, Options};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};
use store::{Completion, Read, Store};
use types::{Batch, Collection, Op, Partition, Ticket};

const CHILD: &str = "CHAPPE_TEST_KILL_DIR";
/// Cells of one batch, all with the same value.
const CELLS: u8 = 3;

fn partition(n: u64) -> Partition {
    Partition { collection: Collection::Log, key: Bytes::copy_from_slice(&(n % 7).to_be_bytes()) }
}

fn options() -> Options {
    Options { low_space_bytes: 0, ..Options::default() }
}

/// Commits without end, some hundred tickets ahead of what is durable, and prints what is.
fn child(dir: &Path) -> ! {
    let store = Embedded::open(dir, options()).unwrap();
    let first = store.recovered().group;
    let (tell, told) = sync_channel(1_000);
    let plane = store.register(Box::new(move |c| {
        if let Completion::Durable(t) = c {
            let _ = tell.try_send(t.0);
        }
    }));
    let mut out = std::io::stdout().lock();
    // Numbers of this run are above all earlier ones: a group has at least one batch.
    let base = first * 1_000_000;
    let mut durable = 0;
    for n in 1u64.. {
        let value = Bytes::copy_from_slice(&(base + n).to_be_bytes());
        let ops =
            (0..CELLS).map(|c| Op::Put { key: [&(base + n).to_be_bytes()[..], &[c]].concat().into(), value: value.clone() }).collect();
        assert_eq!(store.commit(plane, n, Batch { partition: partition(base + n), ops }), Ticket(n));
        if n % 50 == 0 {
            // Groups of all sizes, and not so much to check afterwards.
            std::thread::sleep(Duration::from_millis(n / 50 % 5));
        }
        while n - durable > 300 {
            durable = told.recv().unwrap();
            writeln!(out, "{}", base + durable).unwrap();
            out.flush().unwrap();
        }
    }
    unreachable!()
}

#[test]
fn acknowledged_tickets_survive_kill_9() {
    if let Ok(dir) = std::env::var(CHILD) {
        child(Path::new(&dir));
    }
    let dir = tempfile::tempdir().unwrap();
    // (base, last acknowledged) of each run.
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for round in 0..4u64 {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "acknowledged_tickets_survive_kill_9", "--nocapture", "--test-threads", "1"])
            .env(CHILD, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut last = 0;
        let mut until = None;
        while let Some(Ok(line)) = lines.next() {
            let Some(n) = line.rsplit(' ').next().and_then(|l| l.parse::<u64>().ok()) else { continue };
            last = n;
            // Some while after the first word, different each time.
            let until = until.get_or_insert_with(|| Instant::now() + Duration::from_millis(100 + 331 * round));
            if Instant::now() > *until {
                break;
            }
        }
        process.kill().unwrap();
        // What it had written to the pipe before it died counts too.
        for line in lines.map_while(Result::ok) {
            last = line.parse().unwrap_or(last);
        }
        process.wait().unwrap();
        assert!(last > 0, "it never acknowledged anything");
        runs.push((last / 1_000_000 * 1_000_000, last));
        check(dir.path(), &runs);
    }
    let acknowledged: u64 = runs.iter().map(|(base, last)| last - base).sum();
    println!("{acknowledged} acknowledged batches survived {} kills", runs.len());
}

fn check(dir: &Path, runs: &[(u64, u64)]) {
    let store = Embedded::open(dir, options()).unwrap();
    let (tell, told) = sync_channel(100);
    let plane = store.register(Box::new(move |c| {
        if let Completion::Read { result, .. } = c {
            let _ = tell.try_send(result.unwrap());
        }
    }));
    let mut found = std::collections::BTreeMap::<u64, u8>::new();
    for n in 0..7 {
        store.read(plane, n, Ticket::NONE, Read::all(partition(n)));
        for cell in told.recv().unwrap().rows {
            let number = u64::from_be_bytes(cell.value[..].try_into().unwrap());
            assert_eq!(cell.key[..8], number.to_be_bytes());
            *found.entry(number).or_default() += 1;
        }
    }
    assert!(found.values().all(|cells| *cells == CELLS), "a torn batch");
    for (base, last) in runs {
        let there: Vec<u64> = found.range(base + 1..base + 1_000_000).map(|(n, _)| *n).collect();
        assert!(there.len() as u64 >= last - base, "{} of {} acknowledged", there.len(), last - base);
        assert!(there.iter().copied().eq(base + 1..=base + there.len() as u64), "a hole in the order");
    }
}
