//! The client's side of SCRAM-SHA-1 and SCRAM-SHA-256 (RFC 5802, RFC 7677).

use anyhow::{Context as _, Result, ensure};
use aws_lc_rs::{constant_time, digest, hmac, pbkdf2};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use std::num::NonZeroU32;

/// A server that asks for more rounds is not tested but broken.
const ITERATIONS_MAX: u32 = 10_000_000;
#[cfg(not(test))]
const NONCE_BYTES: usize = 18;

/// The hash function of a mechanism.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hash {
    /// SCRAM-SHA-1.
    Sha1,
    /// SCRAM-SHA-256.
    Sha256,
}

impl Hash {
    fn hmac(self) -> hmac::Algorithm {
        match self {
            Hash::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Hash::Sha256 => hmac::HMAC_SHA256,
        }
    }

    fn digest(self, data: &[u8]) -> digest::Digest {
        match self {
            Hash::Sha1 => digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, data),
            Hash::Sha256 => digest::digest(&digest::SHA256, data),
        }
    }

    fn salted(self, password: &str, salt: &[u8], iterations: NonZeroU32) -> Vec<u8> {
        let (algorithm, bytes) = match self {
            Hash::Sha1 => (pbkdf2::PBKDF2_HMAC_SHA1, digest::SHA1_OUTPUT_LEN),
            Hash::Sha256 => (pbkdf2::PBKDF2_HMAC_SHA256, digest::SHA256_OUTPUT_LEN),
        };
        let mut salted = vec![0; bytes];
        pbkdf2::derive(algorithm, iterations, salt, password.as_bytes(), &mut salted);
        salted
    }

    fn mac(self, key: &[u8], data: &[u8]) -> Vec<u8> {
        hmac::sign(&hmac::Key::new(self.hmac(), key), data).as_ref().to_vec()
    }
}

/// HMAC-SHA-256, which the mechanisms of XEP-0484 are made of.
pub fn hmac_sha_256(key: &[u8], data: &[u8]) -> Vec<u8> {
    Hash::Sha256.mac(key, data)
}

/// What follows from a password, a salt and a count of rounds. Kept, so that the generator pays for it once an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    hash: Hash,
    salt: Vec<u8>,
    iterations: u32,
    client: Vec<u8>,
    server: Vec<u8>,
}

impl Keys {
    fn new(hash: Hash, password: &str, salt: Vec<u8>, iterations: NonZeroU32) -> Keys {
        let salted = hash.salted(password, &salt, iterations);
        let (client, server) = (hash.mac(&salted, b"Client Key"), hash.mac(&salted, b"Server Key"));
        Keys { hash, salt, iterations: iterations.get(), client, server }
    }
}

/// One login.
#[derive(Debug)]
pub struct Exchange {
    hash: Hash,
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
    pub fn new(hash: Hash, username: &str) -> Result<Exchange> {
        Ok(Exchange::with_nonce(hash, username, &nonce()?))
    }

    fn with_nonce(hash: Hash, username: &str, nonce: &str) -> Exchange {
        Exchange { hash, nonce: nonce.to_owned(), first_bare: format!("n={username},r={nonce}"), expected: None }
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
        let fits = keys.as_ref().is_some_and(|k| k.hash == self.hash && k.salt == salt && k.iterations == iterations.get());
        if !fits {
            *keys = Some(Keys::new(self.hash, password, salt, iterations));
        }
        let keys = keys.as_ref().context("keys were just made")?;
        let without_proof = format!("c=biws,r={nonce}");
        let message = format!("{},{challenge},{without_proof}", self.first_bare);
        let stored = self.hash.digest(&keys.client);
        let signature = self.hash.mac(stored.as_ref(), message.as_bytes());
        let proof: Vec<u8> = keys.client.iter().zip(&signature).map(|(k, s)| k ^ s).collect();
        self.expected = Some(format!("v={}", BASE64.encode(self.hash.mac(&keys.server, message.as_bytes()))));
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

#[cfg(not(test))]
fn nonce() -> Result<String> {
    let mut random = [0; NONCE_BYTES];
    aws_lc_rs::rand::fill(&mut random)?;
    Ok(BASE64.encode(random))
}

/// Recorded servers answer one nonce only: that of RFC 7677 §3.
#[cfg(test)]
fn nonce() -> Result<String> {
    Ok("rOprNGfwEbeRWgbNEkqO".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(hash: Hash, nonce: &str, challenge: &str, last: &str, verifier: &str) {
        let mut exchange = Exchange::with_nonce(hash, "user", nonce);
        assert_eq!(exchange.first(), format!("n,,n=user,r={nonce}"));
        let mut keys = None;
        assert_eq!(exchange.last(challenge, "pencil", &mut keys).unwrap(), last);
        assert!(exchange.verify(verifier).is_ok());
        assert!(exchange.verify(&verifier.replace('=', "5")).is_err());
        let kept = keys.clone();
        Exchange::with_nonce(hash, "user", nonce).last(challenge, "pencil", &mut keys).unwrap();
        assert_eq!(keys, kept);
    }

    /// RFC 5802 §5 and RFC 7677 §3.
    #[test]
    fn the_examples_of_the_rfcs() {
        check(
            Hash::Sha1,
            "fyko+d2lbbFgONRv9qkxdawL",
            "r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096",
            "c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
            "v=rmF9pqV8S7suAoZWja4dJRkFsKQ=",
        );
        check(
            Hash::Sha256,
            "rOprNGfwEbeRWgbNEkqO",
            "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
            "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
        );
    }

    #[test]
    fn a_bad_challenge_is_refused() {
        for bad in ["r=abc,s=QQ==,i=1", "r=other,s=QQ==,i=1", "r=abcd,s=QQ==,i=0", "r=abcd,i=1", "r=abcd,s=QQ==,i=4000000000", ""] {
            assert!(Exchange::with_nonce(Hash::Sha256, "u", "abc").last(bad, "p", &mut None).is_err(), "{bad}");
        }
    }
}
