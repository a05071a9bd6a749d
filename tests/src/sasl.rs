//! SASL from the client's side: PLAIN (RFC 4616), SCRAM-SHA-1 and -256 with and without channel binding (RFC 5802, RFC 7677).

use anyhow::{Context, Result, bail, ensure};
use aws_lc_rs::{constant_time, digest, hmac, pbkdf2};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// A mechanism that this client has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// RFC 4616.
    Plain,
    /// RFC 5802.
    ScramSha1,
    /// RFC 5802 with `tls-exporter` (RFC 9266).
    ScramSha1Plus,
    /// RFC 7677.
    ScramSha256,
    /// RFC 7677 with `tls-exporter` (RFC 9266).
    ScramSha256Plus,
}

impl Mechanism {
    /// Best first.
    pub const ALL: [Mechanism; 5] =
        [Mechanism::ScramSha256Plus, Mechanism::ScramSha256, Mechanism::ScramSha1Plus, Mechanism::ScramSha1, Mechanism::Plain];

    /// Its registered name.
    pub fn name(self) -> &'static str {
        match self {
            Mechanism::Plain => "PLAIN",
            Mechanism::ScramSha1 => "SCRAM-SHA-1",
            Mechanism::ScramSha1Plus => "SCRAM-SHA-1-PLUS",
            Mechanism::ScramSha256 => "SCRAM-SHA-256",
            Mechanism::ScramSha256Plus => "SCRAM-SHA-256-PLUS",
        }
    }

    /// Whether it binds the channel.
    pub fn is_plus(self) -> bool {
        matches!(self, Mechanism::ScramSha1Plus | Mechanism::ScramSha256Plus)
    }
}

/// A login under way.
pub enum Login {
    /// PLAIN has one message.
    Plain,
    /// SCRAM, before or after the server's first message.
    Scram(Scram),
}

/// The client's half of SCRAM.
pub struct Scram {
    sha256: bool,
    gs2: String,
    binding: Vec<u8>,
    password: String,
    first_bare: String,
    nonce: String,
    server_signature: Option<Vec<u8>>,
}

/// Which channel binding the client says in its GS2 header (RFC 5802 §6).
#[derive(Clone, Debug)]
pub enum Binding {
    /// `n`: the client has none.
    None,
    /// `y`: the client has one and believes that the server has none.
    NotOffered,
    /// `p=name`, with the data.
    Bound(&'static str, Vec<u8>),
}

impl Login {
    /// Starts a login and gives the initial response, not yet in base64.
    pub fn start(mechanism: Mechanism, user: &str, password: &str, nonce: &str, binding: Binding) -> (Login, Vec<u8>) {
        if mechanism == Mechanism::Plain {
            return (Login::Plain, format!("\0{user}\0{password}").into_bytes());
        }
        let (gs2, data) = match binding {
            Binding::None => ("n,,".to_owned(), Vec::new()),
            Binding::NotOffered => ("y,,".to_owned(), Vec::new()),
            Binding::Bound(name, data) => (format!("p={name},,"), data),
        };
        let user = user.replace('=', "=3D").replace(',', "=2C");
        let first_bare = format!("n={user},r={nonce}");
        let message = format!("{gs2}{first_bare}").into_bytes();
        let scram = Scram {
            sha256: matches!(mechanism, Mechanism::ScramSha256 | Mechanism::ScramSha256Plus),
            gs2,
            binding: data,
            password: password.into(),
            first_bare,
            nonce: nonce.into(),
            server_signature: None,
        };
        (Login::Scram(scram), message)
    }

    /// Answers a challenge.
    pub fn challenge(&mut self, data: &[u8]) -> Result<Vec<u8>> {
        match self {
            Login::Plain => bail!("a challenge in PLAIN"),
            Login::Scram(scram) => scram.challenge(data),
        }
    }

    /// Checks what comes with success: in SCRAM, that the server knows the password too.
    pub fn success(&self, data: &[u8]) -> Result<()> {
        let Login::Scram(scram) = self else { return Ok(()) };
        let expected = scram.server_signature.as_ref().context("success before the challenge")?;
        let text = std::str::from_utf8(data)?;
        let signature = STANDARD.decode(text.strip_prefix("v=").with_context(|| format!("no v= in {text:?}"))?)?;
        constant_time::verify_slices_are_equal(&signature, expected).ok().context("the server's signature is wrong")
    }
}

impl Scram {
    fn hmac(&self, key: &[u8], data: &[u8]) -> Vec<u8> {
        let algorithm = if self.sha256 { hmac::HMAC_SHA256 } else { hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY };
        hmac::sign(&hmac::Key::new(algorithm, key), data).as_ref().to_vec()
    }

    fn challenge(&mut self, data: &[u8]) -> Result<Vec<u8>> {
        ensure!(self.server_signature.is_none(), "a second challenge in SCRAM");
        let server_first = std::str::from_utf8(data)?;
        let mut fields = server_first.split(',');
        let mut field = |name: &str| -> Result<&str> {
            fields.next().and_then(|f| f.strip_prefix(name)).with_context(|| format!("no {name} in {server_first:?}"))
        };
        let nonce = field("r=")?;
        let salt = STANDARD.decode(field("s=")?)?;
        let iterations: u32 = field("i=")?.parse()?;
        ensure!(nonce.starts_with(&self.nonce) && nonce.len() > self.nonce.len(), "the server's nonce {nonce:?}");
        ensure!(iterations >= 4096, "{iterations} iterations (RFC 7677 §4)");
        let (algorithm, hash, len) = if self.sha256 {
            (pbkdf2::PBKDF2_HMAC_SHA256, &digest::SHA256, 32)
        } else {
            (pbkdf2::PBKDF2_HMAC_SHA1, &digest::SHA1_FOR_LEGACY_USE_ONLY, 20)
        };
        let mut salted = vec![0; len];
        pbkdf2::derive(algorithm, iterations.try_into()?, &salt, self.password.as_bytes(), &mut salted);
        let client_key = self.hmac(&salted, b"Client Key");
        let stored_key = digest::digest(hash, &client_key);
        let mut bound = self.gs2.clone().into_bytes();
        bound.extend_from_slice(&self.binding);
        let without_proof = format!("c={},r={nonce}", STANDARD.encode(bound));
        let auth_message = format!("{},{server_first},{without_proof}", self.first_bare);
        let signature = self.hmac(stored_key.as_ref(), auth_message.as_bytes());
        let proof: Vec<u8> = client_key.iter().zip(&signature).map(|(a, b)| a ^ b).collect();
        let server_key = self.hmac(&salted, b"Server Key");
        self.server_signature = Some(self.hmac(&server_key, auth_message.as_bytes()));
        Ok(format!("{without_proof},p={}", STANDARD.encode(proof)).into_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7677 §3 and RFC 5802 §5.
    #[test]
    fn the_rfcs_examples() {
        let run = |mechanism, nonce, challenge: &str, response: &str, success: &str| {
            let (mut login, _) = Login::start(mechanism, "user", "pencil", nonce, Binding::None);
            assert_eq!(String::from_utf8(login.challenge(challenge.as_bytes()).unwrap()).unwrap(), response);
            login.success(success.as_bytes()).unwrap();
            assert!(login.success(b"v=AAAA").is_err());
        };
        run(
            Mechanism::ScramSha256,
            "rOprNGfwEbeRWgbNEkqO",
            "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
            "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
        );
        run(
            Mechanism::ScramSha1,
            "fyko+d2lbbFgONRv9qkxdawL",
            "r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096",
            "c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
            "v=rmF9pqV8S7suAoZWja4dJRkFsKQ=",
        );
    }
}
