//! A load generator for XMPP servers: it logs in, keeps sessions, chats, and counts what the server's process spends.
//!
//! It works against any server of RFC 6120 and names nothing of Chappe's own crates. It checks while it measures: a figure
//! of a run that lost, doubled or reordered a message says so. It never reads a server's data and needs no help from it;
//! CPU and memory come from `/proc` for a server on the same machine, and else from its Prometheus metrics.
//!
//! Start with [`scenario`] for what is measured, [`file`] for the files that say how much of it, [`client`] for the client,
//! [`workers`] for a load that several processes make together,
//! [`figures`] for the run that compares servers, [`relay`] for the floor they stand on, [`report`] and [`compare`] for what
//! becomes of the outcomes.

pub mod client;
pub mod clock;
pub mod compare;
pub mod element;
pub mod figures;
pub mod file;
pub mod histogram;
pub mod metrics;
pub mod order;
pub mod probe;
pub mod process;
pub mod progress;
pub mod relay;
pub mod report;
pub mod run;
pub mod runs;
pub mod scenario;
pub mod scram;
pub mod server;
pub mod splitter;
pub mod tls;
pub mod workers;
