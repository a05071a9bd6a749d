//! Passwords: held shortly, prepared, wiped.

use crate::SaslError;
use precis_profiles::OpaqueString;
use precis_profiles::precis_core::profile::Profile;
use std::fmt;
use zeroize::Zeroizing;

/// A longer password is refused before any work on it.
pub const PASSWORD_BYTES_MAX: usize = 1_023;

/// A password as the client sent it. Wiped when dropped, and never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Zeroizing<String>);

impl Password {
    /// Take over a password.
    pub fn new(password: String) -> Password {
        Password(Zeroizing::new(password))
    }

    /// The text, not prepared.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

/// Prepare a password for PBKDF2: SASLprep (RFC 4013), as RFC 5802 §2.2 has it and as SCRAM clients do it.
///
/// SASLprep knows Unicode 3.2 and refuses everything newer, such as most emoji, and some mixtures of directions. What it
/// refuses is prepared as OpaqueString (RFC 8265 §4.2) instead, so that such a password works with PLAIN and with those
/// clients that send it unprepared or by RFC 8265. Where both accept a password, SASLprep alone counts.
pub(crate) fn prepare(password: &str) -> Result<Zeroizing<String>, SaslError> {
    if password.is_empty() {
        return Err(SaslError::PasswordEmpty);
    }
    if password.len() > PASSWORD_BYTES_MAX {
        return Err(SaslError::PasswordTooLong);
    }
    let prepared = match stringprep::saslprep(password) {
        Ok(prepared) => prepared.into_owned(),
        Err(_) => OpaqueString::new().enforce(password).map_err(|_| SaslError::Password)?.into_owned(),
    };
    if prepared.is_empty() {
        return Err(SaslError::PasswordEmpty);
    }
    Ok(Zeroizing::new(prepared))
}
