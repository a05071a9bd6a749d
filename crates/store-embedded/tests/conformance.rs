//! The embedded store and its simulated twin pass the suite.

#![allow(clippy::disallowed_methods, reason = "a test of real threads waits in real time")]

use chappe_store_embedded::sim::{SimFaults, SimStore};
use chappe_store_embedded::{Embedded, Options};
use std::sync::Arc;
use std::time::{Duration, Instant};
use store::Store;
use store::conformance::{self, Harness};

fn options() -> Options {
    Options { low_space_bytes: 0, ..Options::default() }
}

struct OnDisk {
    dir: tempfile::TempDir,
    store: Option<Arc<Embedded>>,
}

impl Harness for OnDisk {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone().unwrap()
    }
    fn drive(&mut self, done: &mut dyn FnMut() -> bool) -> bool {
        let until = Instant::now() + Duration::from_secs(60);
        while Instant::now() < until {
            if done() {
                return true;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        false
    }
    fn reopen(&mut self) -> bool {
        let store = self.store.take().unwrap();
        drop(Arc::into_inner(store).expect("the suite has let go of it"));
        self.store = Some(Arc::new(Embedded::open(self.dir.path(), options()).unwrap()));
        true
    }
}

#[test]
fn the_embedded_store_passes() {
    conformance::run(&mut || {
        let dir = tempfile::tempdir().unwrap();
        let store = Some(Arc::new(Embedded::open(dir.path(), options()).unwrap()));
        Box::new(OnDisk { dir, store })
    });
}

#[test]
fn it_passes_when_groups_wait_and_are_small() {
    conformance::run(&mut || {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { group_wait_us: 500, group_bytes_max: 2_000, readers: 1, ..options() };
        let store = Some(Arc::new(Embedded::open(dir.path(), options).unwrap()));
        Box::new(OnDisk { dir, store })
    });
}

struct Simulated {
    store: Arc<SimStore>,
    now: types::Instant,
}

impl Harness for Simulated {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }
    fn drive(&mut self, done: &mut dyn FnMut() -> bool) -> bool {
        for _ in 0..100_000 {
            if done() {
                return true;
            }
            self.now = self.store.next_event().unwrap_or(self.now).max(self.now);
            self.store.step(self.now);
        }
        false
    }
    fn reopen(&mut self) -> bool {
        self.store.reopen().unwrap();
        true
    }
}

#[test]
fn the_simulated_store_passes() {
    for seed in 0..5 {
        for faults in [SimFaults::none(), SimFaults::default(), SimFaults { group_bytes_max: 1_000, ..SimFaults::default() }] {
            conformance::run(&mut || {
                Box::new(Simulated { store: Arc::new(SimStore::seeded(seed, faults.clone())), now: types::Instant(0) })
            });
        }
    }
}
