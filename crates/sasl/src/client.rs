//! The client's side, for tests and load generators. Verifies the server as a real client does.

use crate::mechanism::{ChannelBinding, Mechanism};
use crate::password;
use crate::{Hash, SaslError};
use aws_lc_rs::{constant_time, pbkdf2};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::num::NonZeroU32;
use zeroize::Zeroizing;

/// Why the client gives up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The server's message does not follow the grammar, or its nonce does not extend the client's.
    #[error("server's message is malformed")]
    Malformed,
    /// The server does not know the password: its signature is wrong or missing.
    #[error("server's signature is wrong")]
    Signature,
    /// The password cannot be used.
    #[error(transparent)]
    Password(#[from] SaslError),
}

/// One login.
pub struct Client {
    mechanism: Mechanism,
    username: String,
    password: Zeroizing<String>,
    gs2_header: String,
    binding: Vec<u8>,
    nonce: String,
    /// What the server has to sign with, once the proof is out.
    expected: Option<Vec<u8>>,
}

impl Client {
    /// A login by `mechanism`. `nonce` is printable ASCII without a comma, never used again. A `-PLUS` mechanism uses the
    /// first type of `binding`; without one it sends none, and the server refuses it.
    pub fn new(mechanism: Mechanism, username: &str, password: &str, binding: &ChannelBinding, nonce: &str) -> Client {
        let (gs2_header, data) = match binding.types().first() {
            Some(name) if mechanism.is_plus() => (format!("p={name},,"), binding.data(name).unwrap_or_default()),
            _ => ("n,,".to_owned(), &[][..]),
        };
        Client {
            mechanism,
            username: username.to_owned(),
            password: Zeroizing::new(password.to_owned()),
            gs2_header,
            binding: data.to_owned(),
            nonce: nonce.to_owned(),
            expected: None,
        }
    }

    /// Replace the GS2 header (both commas included), e.g. to claim an authorization identity.
    pub fn with_gs2_header(mut self, header: &str) -> Client {
        self.gs2_header = header.to_owned();
        self
    }

    fn first_bare(&self) -> String {
        let name = self.username.replace('=', "=3D").replace(',', "=2C");
        format!("n={name},r={}", self.nonce)
    }

    /// The initial response.
    pub fn initial(&self) -> Vec<u8> {
        match self.mechanism.hash() {
            Some(_) => format!("{}{}", self.gs2_header, self.first_bare()).into_bytes(),
            None => format!("\0{}\0{}", self.username, *self.password).into_bytes(),
        }
    }

    /// The answer to a challenge.
    ///
    /// # Errors
    /// [`ClientError::Malformed`], [`ClientError::Password`].
    pub fn handle_challenge(&mut self, challenge: &[u8]) -> Result<Vec<u8>, ClientError> {
        let malformed = ClientError::Malformed;
        let hash = self.mechanism.hash().ok_or(malformed)?;
        let server_first = std::str::from_utf8(challenge).map_err(|_| malformed)?;
        let mut fields = server_first.split(',');
        let mut field = |name| fields.next().and_then(|f| f.strip_prefix(name)).ok_or(malformed);
        let nonce = field("r=")?;
        let salt = STANDARD.decode(field("s=")?).map_err(|_| malformed)?;
        let iterations: NonZeroU32 = field("i=")?.parse().map_err(|_| malformed)?;
        if nonce.len() <= self.nonce.len() || !nonce.starts_with(&self.nonce) {
            return Err(malformed);
        }
        let prepared = password::prepare(&self.password)?;
        let mut salted = Zeroizing::new(vec![0; hash.key_bytes()]);
        pbkdf2::derive(hash.pbkdf2(), iterations, &salt, prepared.as_bytes(), &mut salted);
        let binding = STANDARD.encode([self.gs2_header.as_bytes(), &self.binding].concat());
        let without_proof = format!("c={binding},r={nonce}");
        let message = format!("{},{server_first},{without_proof}", self.first_bare());
        let (proof, expected) = sign(hash, &salted, message.as_bytes());
        self.expected = Some(expected);
        Ok(format!("{without_proof},p={}", STANDARD.encode(proof)).into_bytes())
    }

    /// The data of the success.
    ///
    /// # Errors
    /// [`ClientError::Signature`]: the server has not proven that it knows the password.
    pub fn handle_success(&self, additional: Option<&[u8]>) -> Result<(), ClientError> {
        if self.mechanism.hash().is_none() {
            return Ok(());
        }
        let signature = additional
            .and_then(|a| a.strip_prefix(b"v="))
            .and_then(|v| STANDARD.decode(v.split(|b| *b == b',').next().unwrap_or_default()).ok());
        match (&self.expected, signature) {
            (Some(expected), Some(signature)) if constant_time::verify_slices_are_equal(expected, &signature).is_ok() => Ok(()),
            _ => Err(ClientError::Signature),
        }
    }
}

/// Proof and the server's signature (RFC 5802 §3).
fn sign(hash: Hash, salted: &[u8], message: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let client_key = hash.hmac(salted, &[b"Client Key"]);
    let stored_key = hash.digest(client_key.as_ref());
    let client_signature = hash.hmac(stored_key.as_ref(), &[message]);
    let proof = client_key.as_ref().iter().zip(client_signature.as_ref()).map(|(k, s)| k ^ s).collect();
    let server_key = hash.hmac(salted, &[b"Server Key"]);
    (proof, hash.hmac(server_key.as_ref(), &[message]).as_ref().to_vec())
}
