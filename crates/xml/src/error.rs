//! What is wrong with received XML, named by the stream error that answers it.

/// Why received bytes are refused. Each variant is a stream error condition of RFC 6120 §4.9.3; after any of them the
/// stream cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum XmlError {
    /// Well-formed, but not what a stream may hold here (RFC 6120 §4.9.3.1).
    #[error("xml that cannot be processed")]
    BadFormat,
    /// A stream prefix other than `stream` (RFC 6120 §4.9.3.2).
    #[error("unsupported namespace prefix")]
    BadNamespacePrefix,
    /// The stream's or the content namespace is not the one that belongs here (RFC 6120 §4.9.3.10).
    #[error("wrong stream or content namespace")]
    InvalidNamespace,
    /// Well-formed, but not valid for the schema (RFC 6120 §4.9.3.11).
    #[error("xml that is not valid")]
    InvalidXml,
    /// Not well-formed, or not namespace-well-formed (RFC 6120 §4.9.3.13, §11.3).
    #[error("xml that is not well-formed")]
    NotWellFormed,
    /// One of the maxima of [`types::limit`] is passed (RFC 6120 §4.9.3.14).
    #[error("xml beyond a limit")]
    PolicyViolation,
    /// A comment, processing instruction, document type or entity declaration (RFC 6120 §4.9.3.18, §11.1).
    #[error("restricted xml")]
    RestrictedXml,
    /// An encoding other than UTF-8 (RFC 6120 §4.9.3.22, §11.6).
    #[error("unsupported encoding")]
    UnsupportedEncoding,
    /// A stanza's name in a namespace that is not the stream's content namespace (RFC 6120 §4.9.3.24).
    #[error("unsupported stanza type")]
    UnsupportedStanzaType,
    /// A stream version below 1.0, or no version (RFC 6120 §4.9.3.25).
    #[error("unsupported stream version")]
    UnsupportedVersion,
}

impl XmlError {
    /// Name of the stream error condition element.
    pub const fn condition(self) -> &'static str {
        match self {
            XmlError::BadFormat => "bad-format",
            XmlError::BadNamespacePrefix => "bad-namespace-prefix",
            XmlError::InvalidNamespace => "invalid-namespace",
            XmlError::InvalidXml => "invalid-xml",
            XmlError::NotWellFormed => "not-well-formed",
            XmlError::PolicyViolation => "policy-violation",
            XmlError::RestrictedXml => "restricted-xml",
            XmlError::UnsupportedEncoding => "unsupported-encoding",
            XmlError::UnsupportedStanzaType => "unsupported-stanza-type",
            XmlError::UnsupportedVersion => "unsupported-version",
        }
    }
}
