//! Black-box tests of Chappe: what a client sees of a running server, and nothing else.
//!
//! Here are a strict XMPP client of our own ([`client`]), servers as child processes ([`server`]), a TCP proxy that cuts connections
//! ([`proxy`]), the crash harness ([`crash`]), which writes a history that the [`checker`] judges afterwards, and transcripts
//! ([`script`]).
//!
//! The library links no crate of the server, so that a fault there cannot hide itself here; one test, `scripts`, plays its
//! transcripts on the server's cores as well as over TCP. The other tests run against
//! Prosody (`CHAPPE_TEST_SERVER=prosody`), which shows that they ask for nothing but the protocol.
//!
//! Start reading with [`server::Server`] and [`client::Client`]; `README.md` says how to run everything.

// These tests live in real time, with real processes and real randomness.
#![allow(clippy::disallowed_methods, reason = "a harness of real processes lives by the real clock")]

pub mod checker;
pub mod client;
pub mod corpus;
pub mod crash;
pub mod history;
pub mod peer;
pub mod proxy;
pub mod sasl;
pub mod script;
pub mod server;
pub mod sm;
pub mod terminal;
pub mod tls;
pub mod xml;

/// The namespaces that the tests speak.
pub mod ns {
    /// Clients' stanzas (RFC 6120 §4.8.2).
    pub const CLIENT: &str = "jabber:client";
    /// The stream's own elements (RFC 6120 §4.8.1).
    pub const STREAM: &str = "http://etherx.jabber.org/streams";
    /// STARTTLS (RFC 6120 §5).
    pub const TLS: &str = "urn:ietf:params:xml:ns:xmpp-tls";
    /// SASL (RFC 6120 §6).
    pub const SASL: &str = "urn:ietf:params:xml:ns:xmpp-sasl";
    /// Which channel bindings the server has (XEP-0440).
    pub const SASL_CB: &str = "urn:xmpp:sasl-cb:0";
    /// Resource binding (RFC 6120 §7).
    pub const BIND: &str = "urn:ietf:params:xml:ns:xmpp-bind";
    /// Conditions of stanza errors (RFC 6120 §8.3.3).
    pub const STANZAS: &str = "urn:ietf:params:xml:ns:xmpp-stanzas";
    /// Conditions of stream errors (RFC 6120 §4.9.3).
    pub const STREAMS: &str = "urn:ietf:params:xml:ns:xmpp-streams";
    /// Stream management (XEP-0198).
    pub const SM: &str = "urn:xmpp:sm:3";
    /// Rosters (RFC 6121 §2).
    pub const ROSTER: &str = "jabber:iq:roster";
    /// In-band registration (XEP-0077).
    pub const REGISTER: &str = "jabber:iq:register";
    /// The stream feature of in-band registration (XEP-0077 §8).
    pub const REGISTER_FEATURE: &str = "http://jabber.org/features/iq-register";
    /// Archives (XEP-0313).
    pub const MAM: &str = "urn:xmpp:mam:2";
    /// Result sets (XEP-0059).
    pub const RSM: &str = "http://jabber.org/protocol/rsm";
    /// Forwarded stanzas (XEP-0297).
    pub const FORWARD: &str = "urn:xmpp:forward:0";
    /// Stanza ids (XEP-0359).
    pub const SID: &str = "urn:xmpp:sid:0";
    /// Carbons (XEP-0280).
    pub const CARBONS: &str = "urn:xmpp:carbons:2";
    /// Blocking (XEP-0191).
    pub const BLOCKING: &str = "urn:xmpp:blocking";
    /// Delayed delivery (XEP-0203).
    pub const DELAY: &str = "urn:xmpp:delay";
    /// Pings (XEP-0199).
    pub const PING: &str = "urn:xmpp:ping";
    /// Data forms (XEP-0004).
    pub const DATA: &str = "jabber:x:data";
    /// Service discovery (XEP-0030).
    pub const DISCO_INFO: &str = "http://jabber.org/protocol/disco#info";
    /// What a client does not look at for now (XEP-0352).
    pub const CSI: &str = "urn:xmpp:csi:0";
}

/// A number that nobody can guess.
pub fn random() -> u64 {
    let mut bytes = [0; 8];
    // It fails only where the kernel has no randomness; then nothing here means anything.
    aws_lc_rs::rand::fill(&mut bytes).expect("randomness");
    u64::from_le_bytes(bytes)
}
