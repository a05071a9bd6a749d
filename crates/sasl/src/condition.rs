//! Failures as the client sees them.

use std::fmt;

/// A SASL error condition (RFC 6120 §6.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Condition {
    /// §6.5.1: the client has sent `<abort/>`.
    Aborted,
    /// §6.5.2: the account has been disabled.
    AccountDisabled,
    /// §6.5.3: the credentials have expired.
    CredentialsExpired,
    /// §6.5.4: the mechanism needs TLS.
    EncryptionRequired,
    /// §6.5.5: the outer base64 is wrong.
    IncorrectEncoding,
    /// §6.5.6: the authorization identity is malformed or not one's own.
    InvalidAuthzid,
    /// §6.5.7: the mechanism is unknown or not offered.
    InvalidMechanism,
    /// §6.5.8: the data do not follow the mechanism's syntax.
    MalformedRequest,
    /// §6.5.9: the mechanism is weaker than policy allows.
    MechanismTooWeak,
    /// §6.5.10: the credentials are wrong. Says nothing about whether the account exists.
    NotAuthorized,
    /// §6.5.11: try again later.
    TemporaryAuthFailure,
}

impl Condition {
    /// The name of the element.
    pub const fn as_str(self) -> &'static str {
        match self {
            Condition::Aborted => "aborted",
            Condition::AccountDisabled => "account-disabled",
            Condition::CredentialsExpired => "credentials-expired",
            Condition::EncryptionRequired => "encryption-required",
            Condition::IncorrectEncoding => "incorrect-encoding",
            Condition::InvalidAuthzid => "invalid-authzid",
            Condition::InvalidMechanism => "invalid-mechanism",
            Condition::MalformedRequest => "malformed-request",
            Condition::MechanismTooWeak => "mechanism-too-weak",
            Condition::NotAuthorized => "not-authorized",
            Condition::TemporaryAuthFailure => "temporary-auth-failure",
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
