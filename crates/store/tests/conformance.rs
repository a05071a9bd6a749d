//! The stores in memory pass the suite, the hostile one also at its worst.

use chappe_store::conformance::{self, Harness};
use chappe_store::memory::{Hostile, Hostility, Plain};
use chappe_store::{Order, Store};
use std::sync::Arc;
use std::time::Duration;
use types::Instant;

struct PlainHarness(Arc<Plain>);

impl Harness for PlainHarness {
    fn store(&self) -> Arc<dyn Store> {
        self.0.clone()
    }
    fn drive(&mut self, done: &mut dyn FnMut() -> bool) -> bool {
        for _ in 0..100_000 {
            if done() {
                return true;
            }
            self.0.step();
        }
        false
    }
}

struct HostileHarness {
    store: Arc<Hostile>,
    now: Instant,
}

impl Harness for HostileHarness {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }
    fn drive(&mut self, done: &mut dyn FnMut() -> bool) -> bool {
        for _ in 0..200_000 {
            if done() {
                return true;
            }
            self.now = self.store.next_event().unwrap_or(self.now + Duration::from_secs(1)).max(self.now);
            self.store.step(self.now);
        }
        false
    }
}

#[test]
fn plain_passes() {
    for order in [Order::Journal, Order::PerBatch] {
        conformance::run(&mut || Box::new(PlainHarness(Arc::new(Plain::stepped(order)))));
        conformance::run(&mut || Box::new(PlainHarness(Arc::new(Plain::immediate(order)))));
    }
}

fn hostile(seed: u64, knobs: Hostility) -> Box<dyn Harness> {
    Box::new(HostileHarness { store: Arc::new(Hostile::seeded(seed, knobs)), now: Instant(0) })
}

#[test]
fn hostile_passes_without_faults() {
    conformance::run(&mut || hostile(1, Hostility::none()));
}

#[test]
fn hostile_passes_at_its_worst() {
    for seed in 0..5 {
        conformance::run(&mut || hostile(seed, Hostility::harsh()));
        conformance::run(&mut || hostile(seed, Hostility::default()));
    }
}
