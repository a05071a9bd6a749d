//! SASL (RFC 4422) as pure state machines: SCRAM-SHA-1 and SCRAM-SHA-256 with and without channel binding
//! (RFC 5802, RFC 7677, RFC 9266) and PLAIN (RFC 4616).
//!
//! It never does I/O, never reads a clock, never draws a random number: nonces and salts come in as bytes. It knows no
//! XML and no outer base64, keeps no password beyond the step that verifies it, and decides nothing about which
//! mechanisms to offer.
//!
//! Start with [`Server`], which is fed with what the client says and answers with a [`Step`]; [`Credentials`] is
//! everything that is kept of a password. [`client`] is the other side, for tests and load generators.

pub mod client;
mod condition;
mod credentials;
mod mechanism;
mod password;
mod scram;
mod server;

pub use condition::Condition;
pub use credentials::{Credentials, ITERATIONS_DEFAULT, ITERATIONS_MAX, ITERATIONS_MIN, Keys, SALT_BYTES_MAX};
pub use mechanism::{CHANNEL_BINDING_TYPES, ChannelBinding, Hash, Mechanism};
pub use password::{PASSWORD_BYTES_MAX, Password};
pub use scram::{MESSAGE_BYTES_MAX, NONCE_BYTES_MAX};
pub use server::{Offer, Server, Step};

/// Why credentials cannot be made, read or used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SaslError {
    /// The password is empty, or nothing is left of it when prepared.
    #[error("password is empty")]
    PasswordEmpty,
    /// The password has more than [`PASSWORD_BYTES_MAX`] bytes.
    #[error("password is too long")]
    PasswordTooLong,
    /// The password holds characters that neither SASLprep nor OpaqueString allows, such as control characters.
    #[error("password holds characters that are not allowed")]
    Password,
    /// The iteration count is outside of [`ITERATIONS_MIN`]..=[`ITERATIONS_MAX`].
    #[error("iteration count {0} is out of bounds")]
    Iterations(u32),
    /// A key has not the length of its hash, or a salt is empty or too long.
    #[error("key or salt has a wrong length")]
    KeyLength,
    /// Encoded credentials are of a version that this server does not know.
    #[error("credentials are of unknown version {0}")]
    Version(u8),
    /// Encoded credentials are cut, too long, or contradict themselves.
    #[error("credentials are corrupt")]
    Corrupt,
}
