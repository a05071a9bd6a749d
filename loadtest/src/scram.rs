//! The client's side of SCRAM-SHA-256 (RFC 5802, RFC 7677).

use anyhow::{Context as _, Result, ensure};
use aws_lc_rs::{constant_time, digest, hmac, pbkdf2, rand};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use std::num::NonZeroU32;

/// A server that asks for more rounds is not tested but broken.
const ITERATIONS_MAX: u32 = 10_000_000;
const NONCE_BYTES: usize = 18;

/// What follows from a password, a salt and a count of rounds. Kept, so that the generator pays for it once an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    salt: Vec<u8>,
    iterations: u32,
    client: Vec<u8>,
    server: Vec<u8>,
}

impl Keys {
    fn new(password: &str, salt: Vec<u8>, iterations: NonZeroU32) -> Keys {
        let mut salted = [0; digest::SHA256_OUTPUT_LEN];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, &salt, password.as_bytes(), &mut salted);
        Keys { salt, iterations: iterations.get(), client: mac(&salted, b"Client Key"), server: mac(&salted, b"Server Key") }
    }
}

/// One login.
#[derive(Debug)]
pub struct Exchange {
    nonce: String,
    first_bare: String,
    /// The signature that only the true server can send.
    expected: Option<String>,
}

impl Exchange {
    /// A login with a nonce of its own. The user name must need no escaping (RFC 5802 §5.1: no comma, no equals sign).
    ///
    /// # Errors
    /// No random bytes.
    pub fn new(username: &str) -> Result<Exchange> {
        let mut random = [0; NONCE_BYTES];
        rand::fill(&mut random)?;
        Ok(Exchange::with_nonce(username, &BASE64.encode(random)))
    }

    fn with_nonce(username: &str, nonce: &str) -> Exchange {
        Exchange { nonce: nonce.to_owned(), first_bare: format!("n={username},r={nonce}"), expected: None }
    }

    /// The first message.
    pub fn first(&self) -> String {
        format!("n,,{}", self.first_bare)
    }

    /// The answer to the server's challenge. `keys` are used if they fit its salt, and made if not.
    ///
    /// # Errors
    /// A challenge against the RFC.
    pub fn last(&mut self, challenge: &str, password: &str, keys: &mut Option<Keys>) -> Result<String> {
        let field =
            |name: &str| challenge.split(',').find_map(|f| f.strip_prefix(name)).with_context(|| format!("no {name} in {challenge}"));
        let nonce = field("r=")?;
        ensure!(nonce.starts_with(&self.nonce) && nonce.len() > self.nonce.len(), "the server's nonce is not its own");
        let salt = BASE64.decode(field("s=")?)?;
        let iterations: NonZeroU32 = field("i=")?.parse()?;
        ensure!(iterations.get() <= ITERATIONS_MAX, "{iterations} rounds");
        let fits = keys.as_ref().is_some_and(|k| k.salt == salt && k.iterations == iterations.get());
        if !fits {
            *keys = Some(Keys::new(password, salt, iterations));
        }
        let keys = keys.as_ref().context("keys were just made")?;
        let without_proof = format!("c=biws,r={nonce}");
        let message = format!("{},{challenge},{without_proof}", self.first_bare);
        let stored = digest::digest(&digest::SHA256, &keys.client);
        let signature = mac(stored.as_ref(), message.as_bytes());
        let proof: Vec<u8> = keys.client.iter().zip(&signature).map(|(k, s)| k ^ s).collect();
        self.expected = Some(format!("v={}", BASE64.encode(mac(&keys.server, message.as_bytes()))));
        Ok(format!("{without_proof},p={}", BASE64.encode(proof)))
    }

    /// Holds what came with the success against what was expected.
    ///
    /// # Errors
    /// The server does not know the password, or said nothing.
    pub fn verify(&self, last: &str) -> Result<()> {
        let expected = self.expected.as_deref().context("success before a challenge")?;
        let same = constant_time::verify_slices_are_equal(last.as_bytes(), expected.as_bytes()).is_ok();
        ensure!(same, "the server's signature is wrong");
        Ok(())
    }
}

fn mac(key: &[u8], data: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data).as_ref().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7677 §3.
    #[test]
    fn the_example_of_the_rfc() {
        let mut exchange = Exchange::with_nonce("user", "rOprNGfwEbeRWgbNEkqO");
        assert_eq!(exchange.first(), "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let challenge = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let mut keys = None;
        let last = exchange.last(challenge, "pencil", &mut keys).unwrap();
        assert_eq!(last, "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=");
        assert!(exchange.verify("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=").is_ok());
        assert!(exchange.verify("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G5=").is_err());
        let kept = keys.clone();
        Exchange::with_nonce("user", "rOprNGfwEbeRWgbNEkqO").last(challenge, "pencil", &mut keys).unwrap();
        assert_eq!(keys, kept);
    }

    #[test]
    fn a_bad_challenge_is_refused() {
        for bad in ["r=abc,s=QQ==,i=1", "r=other,s=QQ==,i=1", "r=abcd,s=QQ==,i=0", "r=abcd,i=1", "r=abcd,s=QQ==,i=4000000000", ""] {
            assert!(Exchange::with_nonce("u", "abc").last(bad, "p", &mut None).is_err(), "{bad}");
        }
    }
}
