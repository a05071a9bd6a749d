//! What is kept of a password.

use crate::mechanism::Hash;
use crate::{SaslError, password};
use aws_lc_rs::{constant_time, pbkdf2};
use std::fmt;
use std::num::NonZeroU32;
use zeroize::Zeroizing;

/// RFC 5802 §5.1 and RFC 7677 §3: not below 4,096.
pub const ITERATIONS_MIN: u32 = 4_096;
/// What new accounts get unless it is set otherwise.
pub const ITERATIONS_DEFAULT: u32 = 10_000;
/// More would let one login keep a core busy for the better part of a second.
pub const ITERATIONS_MAX: u32 = 1_000_000;
/// Bytes of a salt. Own ones have 16; imported ones can be longer.
pub const SALT_BYTES_MAX: usize = 64;
/// Bytes of a salt that this crate makes.
const SALT_BYTES: usize = 16;

/// The version that [`Credentials::encode`] writes.
const VERSION: u8 = 1;
/// Encoded flag: see [`Credentials::is_decoy`].
const FLAG_DECOY: u8 = 1;

/// The keys of one SCRAM hash (RFC 5802 §3).
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    hash: Hash,
    stored_key: Zeroizing<Vec<u8>>,
    server_key: Zeroizing<Vec<u8>>,
    salt: Vec<u8>,
    iterations: u32,
}

impl Keys {
    /// From values made elsewhere, e.g. on import from another server (XEP-0227).
    ///
    /// # Errors
    /// [`SaslError::KeyLength`] if a key has not [`Hash::key_bytes`] or the salt not 1..=[`SALT_BYTES_MAX`] bytes;
    /// [`SaslError::Iterations`].
    pub fn new(hash: Hash, stored_key: &[u8], server_key: &[u8], salt: &[u8], iterations: u32) -> Result<Keys, SaslError> {
        let length = hash.key_bytes();
        if stored_key.len() != length || server_key.len() != length || salt.is_empty() || salt.len() > SALT_BYTES_MAX {
            return Err(SaslError::KeyLength);
        }
        check_iterations(iterations)?;
        Ok(Keys {
            hash,
            stored_key: Zeroizing::new(stored_key.to_vec()),
            server_key: Zeroizing::new(server_key.to_vec()),
            salt: salt.to_vec(),
            iterations,
        })
    }

    /// From a prepared password. Costs `iterations` rounds of HMAC.
    pub(crate) fn derive(hash: Hash, prepared: &str, salt: &[u8], iterations: u32) -> Result<Keys, SaslError> {
        let rounds = check_iterations(iterations)?;
        let mut salted = Zeroizing::new(vec![0; hash.key_bytes()]);
        pbkdf2::derive(hash.pbkdf2(), rounds, salt, prepared.as_bytes(), &mut salted);
        let client_key = hash.hmac(&salted, &[b"Client Key"]);
        let stored_key = hash.digest(client_key.as_ref());
        let server_key = hash.hmac(&salted, &[b"Server Key"]);
        Keys::new(hash, stored_key.as_ref(), server_key.as_ref(), salt, iterations)
    }

    /// `H(ClientKey)`: verifies a proof, cannot make one.
    pub fn stored_key(&self) -> &[u8] {
        &self.stored_key
    }

    /// `HMAC(SaltedPassword, "Server Key")`: proves to the client that the server knows it.
    pub fn server_key(&self) -> &[u8] {
        &self.server_key
    }

    /// Sent to whoever tries to log in.
    pub fn salt(&self) -> &[u8] {
        &self.salt
    }

    /// Rounds of PBKDF2.
    pub fn iterations(&self) -> u32 {
        self.iterations
    }
}

/// Hides the keys: with the server key one can pose as the server.
impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("hash", &self.hash).field("iterations", &self.iterations).finish_non_exhaustive()
    }
}

/// Everything that is kept of a password: keys from which it cannot be had back other than by guessing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Credentials {
    sha1: Keys,
    sha256: Keys,
    decoy: bool,
}

impl Credentials {
    /// Make the keys of a password. Costs two runs of PBKDF2: not for a thread that has other things to do.
    ///
    /// `random`: 32 bytes that are never used again; 16 become the salt of each hash. The password is prepared by
    /// SASLprep, or by OpaqueString where SASLprep refuses it (characters newer than Unicode 3.2).
    ///
    /// # Errors
    /// [`SaslError::PasswordEmpty`], [`SaslError::PasswordTooLong`], [`SaslError::Password`], [`SaslError::Iterations`].
    pub fn derive(password: &str, random: &[u8; 2 * SALT_BYTES], iterations: u32) -> Result<Credentials, SaslError> {
        let prepared = password::prepare(password)?;
        let (salt1, salt256) = random.split_at(SALT_BYTES);
        Ok(Credentials {
            sha1: Keys::derive(Hash::Sha1, &prepared, salt1, iterations)?,
            sha256: Keys::derive(Hash::Sha256, &prepared, salt256, iterations)?,
            decoy: false,
        })
    }

    /// From keys made elsewhere.
    ///
    /// # Errors
    /// [`SaslError::KeyLength`] if the keys are not of the hash of their place.
    pub fn from_keys(sha1: Keys, sha256: Keys) -> Result<Credentials, SaslError> {
        if sha1.hash != Hash::Sha1 || sha256.hash != Hash::Sha256 {
            return Err(SaslError::KeyLength);
        }
        Ok(Credentials { sha1, sha256, decoy: false })
    }

    /// Credentials for an account that does not exist: they look and cost the same, and never verify.
    ///
    /// The same `secret` and `username` give the same salts each time, as those of a real account would be. `username` is
    /// the canonical name (with the domain, where one secret serves several). `iterations` must be what real accounts
    /// have; it is brought within bounds.
    pub fn decoy(secret: &[u8; 32], username: &str, iterations: u32) -> Credentials {
        let iterations = iterations.clamp(ITERATIONS_MIN, ITERATIONS_MAX);
        let keys = |hash: Hash, label: &[u8]| {
            let part = |purpose: &[u8]| Hash::Sha256.hmac(secret, &[label, b"\0", purpose, b"\0", username.as_bytes()]);
            Keys {
                hash,
                stored_key: Zeroizing::new(part(b"stored key").as_ref()[..hash.key_bytes()].to_vec()),
                server_key: Zeroizing::new(part(b"server key").as_ref()[..hash.key_bytes()].to_vec()),
                salt: part(b"salt").as_ref()[..SALT_BYTES].to_vec(),
                iterations,
            }
        };
        Credentials { sha1: keys(Hash::Sha1, b"sha-1"), sha256: keys(Hash::Sha256, b"sha-256"), decoy: true }
    }

    /// Whether these were made by [`Credentials::decoy`].
    pub fn is_decoy(&self) -> bool {
        self.decoy
    }

    /// The keys of one hash.
    pub fn keys(&self, hash: Hash) -> &Keys {
        match hash {
            Hash::Sha1 => &self.sha1,
            Hash::Sha256 => &self.sha256,
        }
    }

    /// Whether this is the password. Costs one run of PBKDF2, for a decoy too: run it off the hot threads.
    ///
    /// A password that cannot be one (empty, too long, control characters) is refused at once, for every account alike.
    pub fn verify_plain(&self, password: &str) -> bool {
        let Ok(prepared) = password::prepare(password) else {
            return false;
        };
        let Ok(tried) = Keys::derive(Hash::Sha256, &prepared, &self.sha256.salt, self.sha256.iterations) else {
            return false;
        };
        // No short cut: a decoy takes as long as a wrong password.
        let equal = constant_time::verify_slices_are_equal(&tried.stored_key, &self.sha256.stored_key).is_ok();
        equal & !self.decoy
    }

    /// For the store and for the link between edge and shard. Versioned; read by [`Credentials::decode`].
    ///
    /// Layout: version, flags; then for SHA-1 and SHA-256 each: iterations (u32, big-endian), length of the salt (u8),
    /// salt, stored key, server key.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION, if self.decoy { FLAG_DECOY } else { 0 }];
        for keys in [&self.sha1, &self.sha256] {
            out.extend_from_slice(&keys.iterations.to_be_bytes());
            // At most `SALT_BYTES_MAX`.
            out.push(keys.salt.len() as u8);
            out.extend_from_slice(&keys.salt);
            out.extend_from_slice(&keys.stored_key);
            out.extend_from_slice(&keys.server_key);
        }
        out
    }

    /// Read what [`Credentials::encode`] wrote.
    ///
    /// # Errors
    /// [`SaslError::Version`], [`SaslError::Corrupt`], and those of [`Keys::new`].
    pub fn decode(bytes: &[u8]) -> Result<Credentials, SaslError> {
        let mut input = bytes;
        let version = take(&mut input, 1)?[0];
        if version != VERSION {
            return Err(SaslError::Version(version));
        }
        let flags = take(&mut input, 1)?[0];
        if flags & !FLAG_DECOY != 0 {
            return Err(SaslError::Corrupt);
        }
        let sha1 = take_keys(&mut input, Hash::Sha1)?;
        let sha256 = take_keys(&mut input, Hash::Sha256)?;
        if !input.is_empty() {
            return Err(SaslError::Corrupt);
        }
        Ok(Credentials { sha1, sha256, decoy: flags & FLAG_DECOY != 0 })
    }
}

fn check_iterations(iterations: u32) -> Result<NonZeroU32, SaslError> {
    match NonZeroU32::new(iterations) {
        Some(rounds) if (ITERATIONS_MIN..=ITERATIONS_MAX).contains(&iterations) => Ok(rounds),
        _ => Err(SaslError::Iterations(iterations)),
    }
}

fn take<'a>(input: &mut &'a [u8], count: usize) -> Result<&'a [u8], SaslError> {
    let (taken, rest) = input.split_at_checked(count).ok_or(SaslError::Corrupt)?;
    *input = rest;
    Ok(taken)
}

fn take_keys(input: &mut &[u8], hash: Hash) -> Result<Keys, SaslError> {
    let iterations = take(input, 4)?.try_into().map(u32::from_be_bytes).map_err(|_| SaslError::Corrupt)?;
    let salt_bytes = usize::from(take(input, 1)?[0]);
    let salt = take(input, salt_bytes)?;
    let stored_key = take(input, hash.key_bytes())?;
    let server_key = take(input, hash.key_bytes())?;
    Keys::new(hash, stored_key, server_key, salt, iterations)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PASSWORD_BYTES_MAX, SaslError as E};
    use proptest::prelude::*;

    fn derive(password: &str) -> Result<Credentials, SaslError> {
        Credentials::derive(password, &std::array::from_fn(|i| i as u8), ITERATIONS_MIN)
    }

    /// Both spellings give the same keys.
    #[track_caller]
    fn same(a: &str, b: &str) {
        let credentials = derive(a).unwrap();
        assert_eq!(credentials, derive(b).unwrap());
        assert!(credentials.verify_plain(b));
        assert!(!credentials.verify_plain(&format!("{b}x")));
    }

    #[test]
    fn passwords_are_prepared() {
        same("pencil", "pencil");
        // RFC 4013 §3.
        same("I\u{ad}X", "IX");
        same("\u{aa}", "a");
        same("\u{2168}", "IX");
        same("a\u{a0}b", "a b");
        same("a\u{308}", "\u{e4}");
        // Case counts.
        assert!(!derive("user").unwrap().verify_plain("USER"));
        // SASLprep refuses these (newer than Unicode 3.2; mixed directions), OpaqueString does not.
        same("correct horse \u{1f40e}", "correct horse \u{1f40e}");
        same("\u{627}1", "\u{627}1");
    }

    #[test]
    fn passwords_that_cannot_be() {
        for (password, error) in [
            ("", E::PasswordEmpty),
            ("\u{ad}", E::PasswordEmpty),
            ("a\u{7}", E::Password),
            ("a\0", E::Password),
            ("a\n", E::Password),
            ("a\u{80}", E::Password),
            ("a\u{e000}", E::Password),
            (&"a".repeat(PASSWORD_BYTES_MAX + 1), E::PasswordTooLong),
        ] {
            assert_eq!(derive(password), Err(error), "{password:?}");
            assert!(!derive("pencil").unwrap().verify_plain(password));
        }
        assert!(derive(&"a".repeat(PASSWORD_BYTES_MAX)).is_ok());
    }

    #[test]
    fn iterations_are_bounded() {
        for iterations in [0, 1, ITERATIONS_MIN - 1, ITERATIONS_MAX + 1, u32::MAX] {
            assert_eq!(Credentials::derive("pencil", &[0; 32], iterations), Err(E::Iterations(iterations)));
        }
    }

    #[test]
    fn salts_are_of_the_random_bytes_and_keys_of_the_salts() {
        let credentials = derive("pencil").unwrap();
        assert_eq!(credentials.keys(Hash::Sha1).salt(), &*(0..16).collect::<Vec<u8>>());
        assert_eq!(credentials.keys(Hash::Sha256).salt(), &*(16..32).collect::<Vec<u8>>());
        let other = Credentials::derive("pencil", &[5; 32], ITERATIONS_MIN).unwrap();
        assert_ne!(credentials.keys(Hash::Sha256).stored_key(), other.keys(Hash::Sha256).stored_key());
    }

    #[test]
    fn decoys_are_stable_and_differ_by_user_and_secret() {
        let decoy = Credentials::decoy(&[1; 32], "user", ITERATIONS_MIN);
        assert_eq!(decoy, Credentials::decoy(&[1; 32], "user", ITERATIONS_MIN));
        for other in [Credentials::decoy(&[1; 32], "other", ITERATIONS_MIN), Credentials::decoy(&[2; 32], "user", ITERATIONS_MIN)] {
            for hash in [Hash::Sha1, Hash::Sha256] {
                assert_ne!(decoy.keys(hash).salt(), other.keys(hash).salt());
                assert_ne!(decoy.keys(hash).stored_key(), other.keys(hash).stored_key());
            }
        }
        assert_ne!(decoy.keys(Hash::Sha1).salt(), decoy.keys(Hash::Sha256).salt());
        assert!(decoy.is_decoy() && Credentials::decode(&decoy.encode()).unwrap().is_decoy());
        assert_eq!(decoy.encode().len(), derive("pencil").unwrap().encode().len());
        assert!(!decoy.verify_plain("pencil"));
    }

    /// The layout is on disks: a change needs a new version.
    #[test]
    fn encoding() {
        let credentials = derive("pencil").unwrap();
        let encoded = credentials.encode();
        assert_eq!(encoded[..7], [1, 0, 0, 0, 16, 0, 16]);
        assert_eq!(encoded.len(), 2 + (4 + 1 + 16 + 40) + (4 + 1 + 16 + 64));
        assert_eq!(Credentials::decode(&encoded), Ok(credentials));
        for end in 0..encoded.len() {
            assert_eq!(Credentials::decode(&encoded[..end]), Err(E::Corrupt), "{end}");
        }
        let changed = |at: usize, to: u8| {
            let mut bytes = encoded.clone();
            bytes[at] = to;
            Credentials::decode(&bytes)
        };
        assert_eq!(changed(0, 2), Err(E::Version(2)));
        assert_eq!(changed(1, 2), Err(E::Corrupt));
        assert_eq!(changed(4, 0), Err(E::Iterations(0)));
        assert_eq!(changed(6, 0), Err(E::KeyLength));
        assert_eq!(changed(6, 65), Err(E::KeyLength));
        assert_eq!(Credentials::decode(&[encoded.as_slice(), &[0]].concat()), Err(E::Corrupt));
    }

    #[test]
    fn keys_from_elsewhere() {
        let (k20, k32, salt) = ([1; 20], [1; 32], [1; SALT_BYTES_MAX + 1]);
        let keys = |hash, key: &[u8], salt: &[u8]| Keys::new(hash, key, key, salt, ITERATIONS_MIN);
        assert!(keys(Hash::Sha1, &k20, &salt[..1]).is_ok() && keys(Hash::Sha256, &k32, &salt[..64]).is_ok());
        for refused in [
            keys(Hash::Sha1, &k32, &salt[..1]),
            keys(Hash::Sha256, &k20, &salt[..1]),
            keys(Hash::Sha1, &k20, &[]),
            keys(Hash::Sha1, &k20, &salt),
        ] {
            assert_eq!(refused, Err(E::KeyLength));
        }
        let (one, two) = (keys(Hash::Sha1, &k20, &salt[..9]).unwrap(), keys(Hash::Sha256, &k32, &salt[..64]).unwrap());
        assert_eq!(Credentials::from_keys(two.clone(), one.clone()), Err(E::KeyLength));
        let credentials = Credentials::from_keys(one, two).unwrap();
        assert_eq!(Credentials::decode(&credentials.encode()), Ok(credentials));
    }

    proptest! {
        /// Any bytes: no panic; what is read is written the same.
        #[test]
        fn any_bytes(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let [version, flags, ..] = &mut bytes[..] {
                (*version, *flags) = (1, *flags & 1);
            }
            if let Ok(credentials) = Credentials::decode(&bytes) {
                prop_assert_eq!(credentials.encode(), bytes);
            }
        }
    }
}
