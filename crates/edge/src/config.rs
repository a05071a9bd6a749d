//! What an edge is told when it starts, and what can be changed while it runs.

use crate::budget::{FailureRate, Rate};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use stream::Settings;

/// One address to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Where. With port 0 the system chooses one; see `EdgeHandle::addresses`.
    pub address: SocketAddr,
    /// How a stream begins there.
    pub kind: ListenerKind,
}

/// See [`Listener`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerKind {
    /// In the clear, then STARTTLS (RFC 6120 §5).
    StartTls,
    /// TLS from the first byte (XEP-0368).
    DirectTls,
}

/// How an edge starts.
#[derive(Clone)]
pub struct EdgeConfig {
    /// The node's number in the cluster; 0 on a single node.
    pub node: u16,
    /// Where to listen.
    pub listeners: Vec<Listener>,
    /// What can be replaced while it runs.
    pub live: Live,
    /// Threads that derive keys from passwords. `None`: half of the CPUs, at least one.
    pub password_threads: Option<usize>,
}

/// What can be replaced while the edge runs; connections keep what they began with.
#[derive(Clone)]
pub struct Live {
    /// For streams.
    pub settings: Arc<Settings>,
    /// For sockets.
    pub limits: Limits,
}

/// Limits of the sockets. `None` switches a limit off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections in all; further ones are closed as they are accepted. A connection needs about 8 KiB.
    pub connections_max: Option<usize>,
    /// Connections from one IPv4 address or one IPv6 /64.
    pub connections_per_address_max: Option<usize>,
    /// Bytes that are read from one connection (as they come from the network, TLS included).
    pub bytes_per_connection: Option<Rate>,
    /// Bytes that are read from all connections of one IPv4 address or IPv6 /64.
    pub bytes_per_address: Option<Rate>,
    /// Stanzas that are read from one connection.
    pub stanzas_per_connection: Option<Rate>,
    /// Stanzas that are read from all connections of one IPv4 address or IPv6 /64.
    pub stanzas_per_address: Option<Rate>,
    /// Logins with a wrong proof from one IPv4 address or IPv6 /64. Beyond that every login from there is answered
    /// `temporary-auth-failure`, without asking the account's shard.
    pub login_failures_per_address: Option<FailureRate>,
    /// Bytes that wait for one client to read them; one more closes the connection. Its session can be resumed.
    pub write_backlog_bytes_max: usize,
    /// A client that takes none of its waiting bytes for this long is gone.
    pub write_stall_max: Duration,
    /// From the first byte of a handshake, or from accepting on a direct TLS port, to its end.
    pub tls_handshake_max: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections_max: Some(100_000),
            connections_per_address_max: Some(1_000),
            // A client that fetches pictures inline or joins many rooms stays below; a flood does not.
            bytes_per_connection: Some(Rate { per_second: 64 * 1024, burst: 1024 * 1024 }),
            bytes_per_address: Some(Rate { per_second: 1024 * 1024, burst: 16 * 1024 * 1024 }),
            stanzas_per_connection: Some(Rate { per_second: 50, burst: 1_000 }),
            stanzas_per_address: Some(Rate { per_second: 1_000, burst: 10_000 }),
            // Many people behind one address mistype now and then; whoever guesses gets 29,000 tries a day.
            login_failures_per_address: Some(FailureRate { every: Duration::from_secs(3), burst: 40 }),
            // Several full pages of an archive; a stanza of the largest size four times.
            write_backlog_bytes_max: 1024 * 1024,
            write_stall_max: Duration::from_secs(60),
            tls_handshake_max: Duration::from_secs(15),
        }
    }
}

impl Limits {
    /// Nothing that depends on how fast or how many: for tests and load generators.
    pub fn without_rates() -> Limits {
        Limits {
            connections_max: None,
            connections_per_address_max: None,
            bytes_per_connection: None,
            bytes_per_address: None,
            stanzas_per_connection: None,
            stanzas_per_address: None,
            login_failures_per_address: None,
            ..Limits::default()
        }
    }
}
