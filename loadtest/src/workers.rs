//! One load by several processes, on one host or on many: a controller divides it, workers make its parts, over gRPC.
//!
//! A process has a limit of open files, a host one of ports, and either has its share of CPU. The controller is
//! `loadtest run --workers …`, or `--spawn N`, which starts workers itself; a worker is `loadtest worker`.
//!
//! [`split`] divides a file, [`controller`] leads a run, [`worker`] makes a part, [`merge`] puts outcomes together as if one
//! process had counted everything: counts and histograms add up, and percentiles come from the sum.
//!
//! What goes over the wire is in the clear: a token keeps strangers out of a worker, but who can listen can read the
//! accounts' password.

pub mod controller;
mod course;
mod local;
pub mod merge;
pub mod split;
pub mod token;
mod wire;
pub mod worker;

/// What `proto/loadtest.proto` says.
#[allow(missing_docs, clippy::all, reason = "generated")]
pub mod proto {
    tonic::include_proto!("chappe.loadtest.v1");
}

use std::time::Duration;

/// Controllers and workers are of one version. The number is that of the protocol; it grows when what workers do or count
/// changes within a version.
pub const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "/1");
/// Workers of one controller. It holds a stream of each and adds up what all of them tell every second.
pub const WORKERS_MAX: usize = 256;
/// Bytes of what a controller sends at once: a scenario, and certificates.
pub const ORDER_BYTES_MAX: usize = 2 << 20;
/// Bytes of certificates.
pub const AUTHORITIES_BYTES_MAX: u64 = 1 << 20;
/// Bytes of what a worker sends at once: a histogram has at most 1,280 buckets, of twenty bytes each.
pub const REPORT_BYTES_MAX: usize = 256 << 10;
/// Reports of a worker that wait for its controller to read them: about a minute of them.
pub const REPORTS_MAX: usize = 64;
/// Orders that wait for a worker.
pub const ORDERS_MAX: usize = 8;
/// Characters of what a worker says about its failure, and of each of its problems.
pub const WORDS_MAX: usize = 1_000;
/// What connects to a worker, and what a worker is asked first, is there by then.
pub const CONNECT_MAX: Duration = Duration::from_secs(10);
/// Between looks at whether the other side is still there.
pub const ALIVE_EVERY: Duration = Duration::from_secs(2);
/// A side that has not answered by then is gone: its host has died or is cut off. An ended process is noticed at once.
pub const ALIVE_MAX: Duration = Duration::from_secs(6);
