//! Which mechanisms there are, and what they bind to.

use aws_lc_rs::{digest, hmac, pbkdf2};
use std::fmt;

/// The channel-binding types that [`Server`](crate::Server) understands, the stronger first, for the list of XEP-0440.
/// What is announced on a stream are [`ChannelBinding::types`] of that stream.
pub const CHANNEL_BINDING_TYPES: &[&str] = &[TLS_EXPORTER, TLS_SERVER_END_POINT];

/// RFC 9266.
pub(crate) const TLS_EXPORTER: &str = "tls-exporter";
/// RFC 5929 §4; XEP-0440 §4 asks servers to have it.
pub(crate) const TLS_SERVER_END_POINT: &str = "tls-server-end-point";

/// The hash of a SCRAM mechanism.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hash {
    /// RFC 5802. Sound as HMAC, and what old clients have.
    Sha1,
    /// RFC 7677.
    Sha256,
}

impl Hash {
    /// Bytes of a key, a proof and a signature.
    pub const fn key_bytes(self) -> usize {
        match self {
            Hash::Sha1 => 20,
            Hash::Sha256 => 32,
        }
    }

    pub(crate) fn hmac(self, key: &[u8], parts: &[&[u8]]) -> hmac::Tag {
        let algorithm = match self {
            Hash::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Hash::Sha256 => hmac::HMAC_SHA256,
        };
        let mut context = hmac::Context::with_key(&hmac::Key::new(algorithm, key));
        for part in parts {
            context.update(part);
        }
        context.sign()
    }

    pub(crate) fn digest(self, data: &[u8]) -> digest::Digest {
        let algorithm = match self {
            Hash::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
            Hash::Sha256 => &digest::SHA256,
        };
        digest::digest(algorithm, data)
    }

    pub(crate) fn pbkdf2(self) -> pbkdf2::Algorithm {
        match self {
            Hash::Sha1 => pbkdf2::PBKDF2_HMAC_SHA1,
            Hash::Sha256 => pbkdf2::PBKDF2_HMAC_SHA256,
        }
    }
}

/// A mechanism that this server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mechanism {
    /// `SCRAM-SHA-1` (RFC 5802).
    ScramSha1,
    /// `SCRAM-SHA-1-PLUS`: the same, bound to the TLS channel.
    ScramSha1Plus,
    /// `SCRAM-SHA-256` (RFC 7677).
    ScramSha256,
    /// `SCRAM-SHA-256-PLUS`: the same, bound to the TLS channel.
    ScramSha256Plus,
    /// `PLAIN` (RFC 4616). To be offered under TLS only.
    Plain,
}

impl Mechanism {
    /// All, in the order of preference: what is bound to the channel first, then the stronger hash.
    pub const ALL: [Mechanism; 5] =
        [Mechanism::ScramSha256Plus, Mechanism::ScramSha1Plus, Mechanism::ScramSha256, Mechanism::ScramSha1, Mechanism::Plain];

    /// The registered name.
    pub const fn name(self) -> &'static str {
        match self {
            Mechanism::ScramSha1 => "SCRAM-SHA-1",
            Mechanism::ScramSha1Plus => "SCRAM-SHA-1-PLUS",
            Mechanism::ScramSha256 => "SCRAM-SHA-256",
            Mechanism::ScramSha256Plus => "SCRAM-SHA-256-PLUS",
            Mechanism::Plain => "PLAIN",
        }
    }

    /// The mechanism of that name (upper case, RFC 4422 §3.1).
    pub fn from_name(name: &str) -> Option<Mechanism> {
        Mechanism::ALL.into_iter().find(|m| m.name() == name)
    }

    /// Whether it is bound to the channel.
    pub const fn is_plus(self) -> bool {
        matches!(self, Mechanism::ScramSha1Plus | Mechanism::ScramSha256Plus)
    }

    /// The hash; `None` for PLAIN.
    pub const fn hash(self) -> Option<Hash> {
        match self {
            Mechanism::ScramSha1 | Mechanism::ScramSha1Plus => Some(Hash::Sha1),
            Mechanism::ScramSha256 | Mechanism::ScramSha256Plus => Some(Hash::Sha256),
            Mechanism::Plain => None,
        }
    }
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What of the channel a `-PLUS` mechanism can be bound to.
#[derive(Clone, PartialEq, Eq, Default)]
pub enum ChannelBinding {
    /// Nothing: no TLS, or nothing of it that is safe to use.
    #[default]
    None,
    /// `tls-exporter` (RFC 9266 §2): 32 bytes exported with the label `EXPORTER-Channel-Binding` and an empty context;
    /// of TLS 1.2 only with the extended master secret.
    TlsExporter(Vec<u8>),
    /// `tls-server-end-point` (RFC 5929 §4.1): the hash of the server's certificate.
    TlsServerEndPoint(Vec<u8>),
    /// Either, as the client likes.
    Both {
        /// As [`ChannelBinding::TlsExporter`].
        tls_exporter: Vec<u8>,
        /// As [`ChannelBinding::TlsServerEndPoint`].
        tls_server_end_point: Vec<u8>,
    },
}

impl ChannelBinding {
    /// The types that this channel can be bound by, as XEP-0440 announces them.
    pub fn types(&self) -> &'static [&'static str] {
        match self {
            ChannelBinding::None => &[],
            ChannelBinding::TlsExporter(_) => &[TLS_EXPORTER],
            ChannelBinding::TlsServerEndPoint(_) => &[TLS_SERVER_END_POINT],
            ChannelBinding::Both { .. } => CHANNEL_BINDING_TYPES,
        }
    }

    /// The data of the type of that name; `None` if this channel has none.
    pub fn data(&self, name: &str) -> Option<&[u8]> {
        match (name, self) {
            (TLS_EXPORTER, ChannelBinding::TlsExporter(data) | ChannelBinding::Both { tls_exporter: data, .. }) => Some(data),
            (TLS_SERVER_END_POINT, ChannelBinding::TlsServerEndPoint(data)) => Some(data),
            (TLS_SERVER_END_POINT, ChannelBinding::Both { tls_server_end_point: data, .. }) => Some(data),
            _ => None,
        }
    }
}

/// The types only: exported keying material does not belong in logs.
impl fmt::Debug for ChannelBinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ChannelBinding").field(&self.types()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for mechanism in Mechanism::ALL {
            assert_eq!(Mechanism::from_name(mechanism.name()), Some(mechanism));
            assert_eq!(mechanism.is_plus(), mechanism.name().ends_with("-PLUS"));
        }
        for unknown in ["", "plain", "ANONYMOUS", "SCRAM-SHA-512", "SCRAM-SHA-1 "] {
            assert_eq!(Mechanism::from_name(unknown), None);
        }
    }

    #[test]
    fn channels_have_data_of_their_types_only() {
        let exporter = ChannelBinding::TlsExporter(vec![1]);
        let end_point = ChannelBinding::TlsServerEndPoint(vec![2]);
        let both = ChannelBinding::Both { tls_exporter: vec![1], tls_server_end_point: vec![2] };
        for (channel, by_exporter, by_end_point) in [
            (ChannelBinding::None, None, None),
            (exporter, Some(&[1][..]), None),
            (end_point, None, Some(&[2][..])),
            (both, Some(&[1][..]), Some(&[2][..])),
        ] {
            assert_eq!((channel.data("tls-exporter"), channel.data("tls-server-end-point")), (by_exporter, by_end_point));
            assert_eq!(channel.data("tls-unique"), None);
            assert!(channel.types().iter().all(|name| channel.data(name).is_some()));
            assert_eq!(channel.types().len(), by_exporter.iter().len() + by_end_point.iter().len());
        }
    }
}
