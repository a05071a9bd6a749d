//! Fuzz targets: what reads bytes from strangers, or from a disk, and what must hold whatever they are.
//!
//! A target is a function from bytes to nothing that panics when its property does not hold. libFuzzer drives the targets
//! from binaries of their own (`libfuzzer/`, `just fuzz TARGET MINUTES`); an ordinary test replays `corpus/` and
//! `regressions/` and mutates them a little, with no compiler but the usual one. Each target's module says what it checks.
//!
//! Nothing here decides what is right: a second parser (rxml), a model, or the code's own inverse does.
//!
//! Start with [`TARGETS`].

mod cells;
mod config;
mod framer;
mod input;
mod jid;
mod memory;
mod sasl;
mod stanza;
mod store;
mod store_sim;
mod stream;
mod witness;

pub use self::cells::cells;
pub use self::config::config;
pub use self::framer::framer;
pub use self::jid::jid;
pub use self::sasl::sasl;
pub use self::stanza::stanza;
pub use self::store::store;
pub use self::store_sim::store_sim;
pub use self::stream::stream;

/// A target.
pub struct Target {
    /// That of its folders and of its binary.
    pub name: &'static str,
    /// Panics if the property does not hold for an input.
    pub run: fn(&[u8]),
    /// How many mutations of its corpus the short run in CI makes: as many as take some seconds in a debug build.
    pub mutations: usize,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "cells", run: cells, mutations: 20_000 },
    Target { name: "config", run: config, mutations: 1_000 },
    Target { name: "framer", run: framer, mutations: 4_000 },
    Target { name: "jid", run: jid, mutations: 20_000 },
    Target { name: "sasl", run: sasl, mutations: 10_000 },
    Target { name: "stanza", run: stanza, mutations: 5_000 },
    Target { name: "store", run: store, mutations: 600 },
    Target { name: "store_sim", run: store_sim, mutations: 2_000 },
    Target { name: "stream", run: stream, mutations: 2_000 },
];
