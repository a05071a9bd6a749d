//! SASL: no panic; no success without the right password or proof, over the right channel, with the right nonce; nobody acts
//! as somebody else; an honest client succeeds; nothing comes of a login that has ended.
//!
//! The first bytes choose the mechanism and what is offered; then come steps, each a byte and what it needs.

use crate::input::Input;
use crate::memory::within;
use aws_lc_rs::{digest, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sasl::{ChannelBinding, Condition, Credentials, Hash, Keys, Mechanism, Offer, Password, Server, Step};
use std::sync::LazyLock;
use types::BareJid;

const DOMAIN: &str = "example.com";
const PASSWORD: &str = "pencil";
const EXPORTER: &[u8] = &[7; 32];
const END_POINT: &[u8] = &[8; 32];
/// What a password would be derived to; here it is given, so that no iteration costs time.
const CLIENT_KEY: &[u8] = &[3; 32];
const STEP_BYTES_MAX: usize = 64 * 1024;

static CREDENTIALS: LazyLock<Credentials> = LazyLock::new(|| {
    let keys = |hash: Hash| {
        let stored = digest_of(hash, &CLIENT_KEY[..hash.key_bytes()]);
        Keys::new(hash, &stored, &[4; 32][..hash.key_bytes()], b"salt", 4_096).expect("keys of the right length")
    };
    Credentials::from_keys(keys(Hash::Sha1), keys(Hash::Sha256)).expect("one of each")
});

fn digest_of(hash: Hash, data: &[u8]) -> Vec<u8> {
    let algorithm = match hash {
        Hash::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
        Hash::Sha256 => &digest::SHA256,
    };
    digest::digest(algorithm, data).as_ref().to_vec()
}

/// RFC 5802 §3: the proof of who has the client key.
fn proof(hash: Hash, message: &str) -> Vec<u8> {
    let algorithm = match hash {
        Hash::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
        Hash::Sha256 => hmac::HMAC_SHA256,
    };
    let key = &CLIENT_KEY[..hash.key_bytes()];
    let signature = hmac::sign(&hmac::Key::new(algorithm, &digest_of(hash, key)), message.as_bytes());
    key.iter().zip(signature.as_ref()).map(|(k, s)| k ^ s).collect()
}

/// What has happened, seen from outside.
struct World {
    server: Server,
    mechanism: Mechanism,
    /// The first message, and whether it was taken.
    first: Vec<u8>,
    username: Option<String>,
    challenge: Option<String>,
    password: Option<Password>,
    decoy: bool,
    ended: bool,
    success: bool,
}

/// See the module.
pub fn sasl(data: &[u8]) {
    let mut input = Input(data);
    let mechanism = Mechanism::ALL[usize::from(input.u8()) % Mechanism::ALL.len()];
    let flags = input.u8();
    let channel_binding = match flags & 3 {
        0 => ChannelBinding::None,
        1 => ChannelBinding::TlsExporter(EXPORTER.to_vec()),
        2 => ChannelBinding::TlsServerEndPoint(END_POINT.to_vec()),
        _ => ChannelBinding::Both { tls_exporter: EXPORTER.to_vec(), tls_server_end_point: END_POINT.to_vec() },
    };
    let domain = BareJid::from_domain(DOMAIN).expect("a domain");
    let offer = Offer { domain, plus_offered: flags & 4 != 0, channel_binding };
    let mut world = World {
        server: Server::new(mechanism, offer, [input.u8(); 24]),
        mechanism,
        first: Vec::new(),
        username: None,
        challenge: None,
        password: None,
        decoy: false,
        ended: false,
        success: false,
    };
    for _ in 0..16 {
        if input.is_empty() {
            break;
        }
        world.step(&mut input);
    }
}

impl World {
    fn step(&mut self, input: &mut Input<'_>) {
        match input.u8() % 8 {
            0 => {
                let message = message(input);
                self.initial(&message, Server::handle_initial);
            }
            1 | 2 => {
                let message = message(input);
                self.response(&message);
            }
            kind @ (3 | 4) => {
                let decoy = kind == 4;
                let credentials =
                    if decoy { Credentials::decoy(&[1; 32], self.username.as_deref().unwrap_or("x"), 4_096) } else { CREDENTIALS.clone() };
                let (asked, idle) = (self.username.is_some(), self.challenge.is_none() && self.password.is_none());
                self.decoy = decoy;
                match self.call(|s| s.handle_credentials(credentials)) {
                    Step::Challenge(challenge) => {
                        assert!(asked && idle && self.mechanism.hash().is_some());
                        self.challenge = Some(String::from_utf8(challenge).expect("a challenge is text"));
                    }
                    Step::VerifyPlain { password, .. } => {
                        assert!(asked && idle && self.mechanism.hash().is_none());
                        self.password = Some(password);
                    }
                    Step::Failure(_) => {}
                    other => panic!("{other:?} for credentials"),
                }
            }
            5 => {
                // As whoever compares passwords would say.
                let ok = !self.decoy && self.password.as_ref().is_some_and(|p| p.as_str() == PASSWORD);
                let (asked, ended) = (self.password.is_some(), self.ended);
                match self.call(|s| s.handle_plain_verified(ok)) {
                    Step::Success { username, additional: None } => {
                        assert!(ok && asked);
                        self.succeeded(&username);
                    }
                    Step::Failure(_) => assert!(!ok || ended, "the right password is refused"),
                    other => panic!("{other:?} for a verified password"),
                }
            }
            6 => match self.call(Server::handle_no_initial) {
                Step::Challenge(empty) => assert!(empty.is_empty()),
                Step::Failure(Condition::MalformedRequest) => {}
                other => panic!("{other:?} for no initial response"),
            },
            _ => self.honest(input.u8()),
        }
    }

    /// Every call: what has ended stays so, and little memory is used.
    fn call(&mut self, call: impl FnOnce(&mut Server) -> Step) -> Step {
        let step = within(STEP_BYTES_MAX, "a step", || call(&mut self.server));
        if self.ended {
            assert_eq!(step, Step::Failure(Condition::MalformedRequest), "after the end");
        }
        self.ended |= matches!(step, Step::Success { .. } | Step::Failure(_));
        step
    }

    fn initial(&mut self, message: &[u8], call: impl FnOnce(&mut Server, &[u8]) -> Step) {
        match self.call(|s| call(s, message)) {
            Step::NeedCredentials { username } => {
                assert!(self.username.is_none(), "two first messages");
                self.first = message.to_vec();
                self.check_identity(&username);
                self.username = Some(username);
            }
            Step::Failure(_) => {}
            other => panic!("{other:?} for a first message"),
        }
    }

    fn response(&mut self, message: &[u8]) {
        if self.username.is_none() && !self.ended {
            return self.initial(message, Server::handle_response);
        }
        match self.call(|s| s.handle_response(message)) {
            Step::Success { username, additional } => {
                assert!(self.is_proven(message), "success without proof: {:?}", message.escape_ascii().to_string());
                assert!(additional.is_some_and(|a| a.starts_with(b"v=")));
                self.succeeded(&username);
            }
            Step::Failure(_) => {}
            other => panic!("{other:?} for a response"),
        }
    }

    fn succeeded(&mut self, username: &str) {
        self.success = true;
        assert!(!self.decoy, "nobody logs in to an account that does not exist");
        assert_eq!(Some(username), self.username.as_deref());
    }

    /// RFC 6120 §6.3.8: the name is prepared, and an authorization identity is one's own address.
    fn check_identity(&self, username: &str) {
        let text = std::str::from_utf8(&self.first).expect("only text is taken");
        let unescape = |name: &str| name.replace("=2C", ",").replace("=3D", "=");
        let (authzid, authcid) = match self.mechanism.hash() {
            None => {
                let fields: Vec<&str> = text.split('\0').collect();
                (fields[0].to_owned(), fields[1].to_owned())
            }
            Some(_) => {
                let fields: Vec<&str> = text.split(',').collect();
                (unescape(fields[1].trim_start_matches("a=")), unescape(&fields[2][2..]))
            }
        };
        let own = BareJid::new(Some(&authcid), DOMAIN).expect("a name that can be somebody's");
        assert_eq!(own.local(), Some(username));
        assert!(authzid.is_empty() || BareJid::parse(&authzid).as_ref() == Ok(&own), "{authzid:?} by {own}");
    }

    /// What the client's final message must say, but for its extensions and its proof (RFC 5802 §7); `None` if there is
    /// none due.
    fn expected(&self) -> Option<(String, String)> {
        let text = std::str::from_utf8(&self.first).ok()?;
        let bare = text.splitn(3, ',').nth(2)?;
        let header = &text[..text.len() - bare.len()];
        let data = match text.split(',').next()? {
            "p=tls-exporter" => EXPORTER,
            "p=tls-server-end-point" => END_POINT,
            _ => &[],
        };
        let nonce = self.challenge.as_deref()?.strip_prefix("r=")?.split(',').next()?;
        Some((STANDARD.encode([header.as_bytes(), data].concat()), nonce.to_owned()))
    }

    fn auth_message(&self, without_proof: &str) -> String {
        let text = std::str::from_utf8(&self.first).unwrap_or_default();
        let bare = text.splitn(3, ',').nth(2).unwrap_or_default();
        format!("{bare},{},{without_proof}", self.challenge.as_deref().unwrap_or_default())
    }

    fn is_proven(&self, message: &[u8]) -> bool {
        let (Some(hash), Some((binding, nonce))) = (self.mechanism.hash(), self.expected()) else { return false };
        let Ok(text) = std::str::from_utf8(message) else { return false };
        let Some((without_proof, given)) = text.rsplit_once(",p=") else { return false };
        let mut fields = without_proof.split(',');
        fields.next() == Some(&format!("c={binding}"))
            && fields.next() == Some(&format!("r={nonce}"))
            && given == STANDARD.encode(proof(hash, &self.auth_message(without_proof)))
            && self.mechanism.is_plus() == text_is_bound(&self.first)
    }

    /// The final message of somebody who has the key, right (`change` 0) or wrong in one thing.
    fn honest(&mut self, change: u8) {
        let (Some(hash), Some((mut binding, mut nonce))) = (self.mechanism.hash(), self.expected()) else { return };
        match change {
            1 => binding = STANDARD.encode("n,,"),
            2 => drop(nonce.pop()),
            3 => nonce.push('x'),
            _ => {}
        }
        let extension = if change == 4 { ",x=y" } else { "" };
        let without_proof = format!("c={binding},r={nonce}{extension}");
        let mut proof = proof(hash, &self.auth_message(&without_proof));
        match change {
            5 => proof[0] ^= 1,
            6 => drop(proof.pop()),
            _ => {}
        }
        let message = format!("{without_proof},p={}", STANDARD.encode(proof));
        let (ended, decoy) = (self.ended, self.decoy);
        self.response(message.as_bytes());
        if matches!(change, 0 | 4) && !ended && !decoy {
            // Whoever has the key and says nothing wrong is let in: nothing comes of a second call.
            assert!(self.success, "an honest client is refused: {message}");
        }
    }
}

/// Whether the first message says that the channel is bound.
fn text_is_bound(first: &[u8]) -> bool {
    first.starts_with(b"p=")
}

/// A message behind its length in two bytes. Much longer ones than are taken are made of shorter ones.
fn message(input: &mut Input<'_>) -> Vec<u8> {
    let len = input.u16();
    let piece = input.take((len & 0x0fff).into());
    if len & 0xf000 == 0xf000 { piece.repeat(64) } else { piece.to_vec() }
}
