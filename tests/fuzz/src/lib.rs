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

/// A target, its name (that of its folders and of its binary), and how many mutations of its corpus the short run in CI
/// makes: as many as take some seconds in a debug build.
pub const TARGETS: &[(&str, fn(&[u8]), usize)] = &[
    ("cells", cells, 20_000),
    ("config", config, 1_000),
    ("framer", framer, 5_000),
    ("jid", jid, 20_000),
    ("sasl", sasl, 10_000),
    ("stanza", stanza, 5_000),
    ("store", store, 300),
    ("store_sim", store_sim, 2_000),
    ("stream", stream, 2_000),
];
