//! What the administrator decides about client streams.

use sasl::Mechanism;
use std::time::Duration;
use types::{BareJid, limit};

/// Settings of client streams, shared by all of them. A reload gives new streams a new value; a running one keeps its own.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The domains served, at least one. The first stands in for a domain that a client did not name.
    pub domains: Vec<BareJid>,
    /// Mechanisms, in the order offered. PLAIN is offered only under TLS, a -PLUS one only with channel binding.
    pub mechanisms: Vec<Mechanism>,
    /// Whether TLS comes before anything else (RFC 7590 §3.1). False is for tests and for links that are private.
    pub tls_required: bool,
    /// Whether anyone may create an account (XEP-0077).
    pub registration: bool,
    /// SCRAM iterations of keys made from now on.
    pub iterations: u32,
    /// Makes the salts of accounts that do not exist; must be the same on every edge, and stay so.
    pub decoy_secret: [u8; 32],
    /// Bytes of one stanza of an authenticated client.
    pub stanza_bytes_max: usize,
    /// Bytes of one first-level element before.
    pub stanza_bytes_unauthenticated_max: usize,
    /// From the first byte to authentication; and again from there to a session.
    pub unauthenticated_timeout: Duration,
    /// Failed logins on one stream; the next one closes it.
    pub login_tries_max: u8,
    /// Silence after which the client is asked for a sign of life (RFC 6120 §4.6.1).
    pub idle_timeout: Duration,
    /// How long it has for an answer.
    pub idle_answer_timeout: Duration,
    /// How long a closed stream waits for what it has sent to be accepted, or for the other side's end tag.
    pub close_timeout: Duration,
    /// Before asking a shard again that did not answer or refused.
    pub retry_after: Duration,
    /// Seconds for which a session can be resumed if the client names none.
    pub resume_timeout: Duration,
    /// The most that a client can ask for.
    pub resume_timeout_max: Duration,
    /// What is offered once a client is authenticated.
    pub features: Features,
}

/// Stream features of modules that live behind the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Features {
    /// XEP-0198.
    pub stream_management: bool,
    /// XEP-0352.
    pub client_state: bool,
    /// RFC 6121 §2.6.1.
    pub roster_versions: bool,
    /// RFC 6121 §3.4.
    pub pre_approval: bool,
    /// XEP-0478.
    pub limits: bool,
    /// More features, as XML, for example XEP-0115's `<c/>`.
    pub more: String,
}

impl Default for Features {
    fn default() -> Features {
        Features {
            stream_management: true,
            client_state: true,
            roster_versions: true,
            pre_approval: true,
            limits: true,
            more: String::new(),
        }
    }
}

impl Settings {
    /// The defaults, for these domains.
    pub fn new(domains: Vec<BareJid>) -> Settings {
        Settings {
            domains,
            mechanisms: Mechanism::ALL.to_vec(),
            tls_required: true,
            registration: false,
            iterations: 10_000,
            decoy_secret: [0; 32],
            stanza_bytes_max: limit::STANZA_BYTES_MAX,
            stanza_bytes_unauthenticated_max: limit::STANZA_BYTES_UNAUTHENTICATED_MAX,
            unauthenticated_timeout: Duration::from_secs(30),
            login_tries_max: 3,
            idle_timeout: Duration::from_secs(300),
            idle_answer_timeout: Duration::from_secs(60),
            close_timeout: Duration::from_secs(10),
            retry_after: Duration::from_millis(500),
            resume_timeout: limit::RESUME_TIMEOUT,
            resume_timeout_max: limit::RESUME_TIMEOUT_MAX,
            features: Features::default(),
        }
    }

    /// The served domain of this address, if it is one.
    pub fn domain(&self, domain: &str) -> Option<&BareJid> {
        self.domains.iter().find(|d| *d == domain)
    }
}

/// What the TLS layer knows about a connection.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct TlsInfo {
    /// The name that the client asked a certificate for.
    pub sni: Option<String>,
    /// Keying material of RFC 9266; `None` on TLS 1.2 without extended master secret.
    pub exporter: Option<Vec<u8>>,
    /// Whether it is TLS 1.3.
    pub version13: bool,
}
