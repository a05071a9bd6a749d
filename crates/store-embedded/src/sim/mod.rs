//! The embedded store in a simulation: the real queue, groups, tickets, mark and recovery over a simulated disk.

mod disk;
mod store;

pub use store::{SimFaults, SimStore};
