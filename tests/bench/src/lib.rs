//! The way of a message through Chappe, without sockets, threads and a disk: what it costs in instructions and allocations is
//! the same on a busy machine as on an idle one, so it can be held against a baseline.
//!
//! [`path::Path`] wires connections and shards of one plane together as the server does. `path` (the binary) runs one way for
//! a profiler; `tests/baseline.rs` holds allocations against `baseline.txt`; `bench.sh` counts instructions.

pub mod path;
pub mod store;
