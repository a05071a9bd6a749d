//! Stream errors (RFC 6120 §4.9): what ends a stream, and how the other side is told.

use bytes::BufMut;
use types::ns;
use xml::{Writer, XmlError};

/// A condition of RFC 6120 §4.9.3. After any of them the stream is closed (§4.9.1.1).
///
/// `see-other-host` is absent: this server never redirects, a client may connect to any edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum StreamError {
    /// §4.9.3.1: XML that cannot be processed here.
    #[error("xml that cannot be processed")]
    BadFormat,
    /// §4.9.3.2: the stream namespace has a prefix other than `stream`.
    #[error("unsupported namespace prefix")]
    BadNamespacePrefix,
    /// §4.9.3.3: another stream took the resource or resumed the session.
    #[error("replaced by another stream")]
    Conflict,
    /// §4.9.3.4: nothing came for too long, or negotiation took too long.
    #[error("the other side is silent")]
    ConnectionTimeout,
    /// §4.9.3.5: the domain is no longer served here.
    #[error("the domain is no longer served")]
    HostGone,
    /// §4.9.3.6: the domain is not served here, or none was named.
    #[error("the domain is not served")]
    HostUnknown,
    /// §4.9.3.7: an address that cannot stand here.
    #[error("improper address")]
    ImproperAddressing,
    /// §4.9.3.8: the server could not go on.
    #[error("internal server error")]
    InternalServerError,
    /// §4.9.3.9: a `from` that this stream did not authenticate.
    #[error("from is not the authenticated address")]
    InvalidFrom,
    /// §4.9.3.10: the stream's or the content namespace is wrong.
    #[error("wrong stream or content namespace")]
    InvalidNamespace,
    /// §4.9.3.11: XML that does not follow the schema.
    #[error("invalid xml")]
    InvalidXml,
    /// §4.9.3.12: something was sent that needs authentication or binding first.
    #[error("not authorized")]
    NotAuthorized,
    /// §4.9.3.13: not XML.
    #[error("xml is not well-formed")]
    NotWellFormed,
    /// §4.9.3.14: a limit of this server was passed.
    #[error("policy violation")]
    PolicyViolation,
    /// §4.9.3.15: another server could not be reached.
    #[error("remote connection failed")]
    RemoteConnectionFailed,
    /// §4.9.3.16: the stream must be opened anew.
    #[error("reset")]
    Reset,
    /// §4.9.3.17: the server lacks room.
    #[error("resource constraint")]
    ResourceConstraint,
    /// §4.9.3.18: a comment, processing instruction, document type or entity.
    #[error("restricted xml")]
    RestrictedXml,
    /// §4.9.3.20: the server is being shut down.
    #[error("system shutdown")]
    SystemShutdown,
    /// §4.9.3.21 with `<handled-count-too-high/>` (XEP-0198 §6).
    #[error("client acknowledged {h} stanzas of {send_count}")]
    HandledCountTooHigh {
        /// What the client claims to have handled.
        h: u32,
        /// What it was sent.
        send_count: u32,
    },
    /// §4.9.3.21: none of the others.
    #[error("undefined condition")]
    UndefinedCondition,
    /// §4.9.3.22: an encoding other than UTF-8.
    #[error("unsupported encoding")]
    UnsupportedEncoding,
    /// §4.9.3.23: a feature is missing that is needed here.
    #[error("unsupported feature")]
    UnsupportedFeature,
    /// §4.9.3.24: a first-level element that is not known here.
    #[error("unsupported stanza type")]
    UnsupportedStanzaType,
    /// §4.9.3.25: a version below 1.0.
    #[error("unsupported version")]
    UnsupportedVersion,
}

impl StreamError {
    /// The name of the condition's element.
    pub const fn condition(self) -> &'static str {
        match self {
            StreamError::BadFormat => "bad-format",
            StreamError::BadNamespacePrefix => "bad-namespace-prefix",
            StreamError::Conflict => "conflict",
            StreamError::ConnectionTimeout => "connection-timeout",
            StreamError::HostGone => "host-gone",
            StreamError::HostUnknown => "host-unknown",
            StreamError::ImproperAddressing => "improper-addressing",
            StreamError::InternalServerError => "internal-server-error",
            StreamError::InvalidFrom => "invalid-from",
            StreamError::InvalidNamespace => "invalid-namespace",
            StreamError::InvalidXml => "invalid-xml",
            StreamError::NotAuthorized => "not-authorized",
            StreamError::NotWellFormed => "not-well-formed",
            StreamError::PolicyViolation => "policy-violation",
            StreamError::RemoteConnectionFailed => "remote-connection-failed",
            StreamError::Reset => "reset",
            StreamError::ResourceConstraint => "resource-constraint",
            StreamError::RestrictedXml => "restricted-xml",
            StreamError::SystemShutdown => "system-shutdown",
            StreamError::HandledCountTooHigh { .. } | StreamError::UndefinedCondition => "undefined-condition",
            StreamError::UnsupportedEncoding => "unsupported-encoding",
            StreamError::UnsupportedFeature => "unsupported-feature",
            StreamError::UnsupportedStanzaType => "unsupported-stanza-type",
            StreamError::UnsupportedVersion => "unsupported-version",
        }
    }

    /// Writes `<stream:error/>`, with the application's condition if there is one (§4.9.4).
    pub fn write(self, out: &mut impl BufMut) {
        let error = Writer::new(out).open("stream:error").open(self.condition()).attr("xmlns", ns::STREAMS).close();
        match self {
            StreamError::HandledCountTooHigh { h, send_count } => error
                .open("handled-count-too-high")
                .attr("xmlns", ns::SM)
                .attr("h", &h.to_string())
                .attr("send-count", &send_count.to_string())
                .close()
                .close(),
            _ => error.close(),
        };
    }
}

impl From<XmlError> for StreamError {
    fn from(e: XmlError) -> StreamError {
        match e {
            XmlError::BadFormat => StreamError::BadFormat,
            XmlError::BadNamespacePrefix => StreamError::BadNamespacePrefix,
            XmlError::InvalidNamespace => StreamError::InvalidNamespace,
            XmlError::InvalidXml => StreamError::InvalidXml,
            XmlError::NotWellFormed => StreamError::NotWellFormed,
            XmlError::PolicyViolation => StreamError::PolicyViolation,
            XmlError::RestrictedXml => StreamError::RestrictedXml,
            XmlError::UnsupportedEncoding => StreamError::UnsupportedEncoding,
            XmlError::UnsupportedStanzaType => StreamError::UnsupportedStanzaType,
            XmlError::UnsupportedVersion => StreamError::UnsupportedVersion,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_error_is_written_with_its_condition() {
        let check = |e: StreamError, wanted: &str| {
            let mut out = Vec::new();
            e.write(&mut out);
            assert_eq!(String::from_utf8_lossy(&out), wanted);
        };
        check(StreamError::HostUnknown, "<stream:error><host-unknown xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>");
        check(
            StreamError::HandledCountTooHigh { h: 10, send_count: 8 },
            "<stream:error><undefined-condition xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>\
             <handled-count-too-high xmlns='urn:xmpp:sm:3' h='10' send-count='8'/></stream:error>",
        );
    }
}
