//! What every store must do, as one suite.
//!
//! Call [`run`] from a test of each implementation. A case panics with its name and what it saw.

mod cases;
mod client;

pub use client::Client;

use crate::Store;
use std::sync::Arc;

/// A fresh store, and the way to let it work.
pub trait Harness {
    /// The store. After [`Harness::reopen`] it may be another one.
    fn store(&self) -> Arc<dyn Store>;

    /// Let the store work until `done`. False if it is not done after a generous while.
    fn drive(&mut self, done: &mut dyn FnMut() -> bool) -> bool;

    /// Close it in good order and open it again with the data it had. False if it keeps nothing.
    fn reopen(&mut self) -> bool {
        false
    }
}

/// A case: its name and what it does with a client of a fresh store.
pub type Case = (&'static str, fn(&mut Client<'_>));

/// Every case of the suite.
pub const CASES: &[Case] = &[
    ("scans go both ways", cases::scans_both_ways),
    ("limits and more", cases::limits_and_more),
    ("bounds of a range", cases::range_bounds),
    ("keys are ordered as unsigned bytes", cases::key_order),
    ("the last operation per key counts", cases::last_operation),
    ("an empty batch is a ticket", cases::empty_batch),
    ("the later write counts", cases::later_write),
    ("deletes", cases::deletes),
    ("a read sees its ticket", cases::read_after_ticket),
    ("a page is of one moment per batch", cases::atomicity),
    ("big values", cases::big_values),
    ("many partitions", cases::many_partitions),
    ("partitions do not overlap", cases::partitions_apart),
    ("epochs", cases::epochs),
    ("tickets", cases::tickets),
    ("every commit is answered", cases::answered),
    ("answers go to who asked", cases::two_planes),
    ("pages add up", cases::paging),
    ("as a map, at random", cases::random),
    ("what was durable is there after opening again", cases::reopened),
];

/// Run every case, each on a store of its own.
pub fn run(make: &mut dyn FnMut() -> Box<dyn Harness>) {
    for (name, case) in CASES {
        let mut harness = make();
        let mut client = Client::new(name, &mut *harness);
        case(&mut client);
    }
}
