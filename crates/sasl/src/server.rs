//! One login, from the first message to its outcome.

use crate::condition::Condition;
use crate::credentials::Credentials;
use crate::mechanism::{ChannelBinding, Hash, Mechanism};
use crate::password::Password;
use crate::scram::{self, BindingFlag};
use aws_lc_rs::constant_time;
use types::BareJid;

/// What the stream has offered to this client.
#[derive(Clone, Debug)]
pub struct Offer {
    /// The domain that the client logs in to; a mere domain.
    pub domain: BareJid,
    /// Whether a `-PLUS` mechanism was in the list. A client that can bind and says it saw none has been lied to.
    pub plus_offered: bool,
    /// What the channel can be bound to.
    pub channel_binding: ChannelBinding,
}

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Fetch the account's credentials, or make a decoy ([`Credentials::decoy`]) if there is no such account, and call
    /// [`Server::handle_credentials`]. If they cannot be had now, drop the login with
    /// [`Condition::TemporaryAuthFailure`].
    NeedCredentials {
        /// The canonical localpart.
        username: String,
    },
    /// Send a challenge; its answer goes to [`Server::handle_response`].
    Challenge(Vec<u8>),
    /// Run `credentials.verify_plain(password.as_str())` where it may take its time, then call
    /// [`Server::handle_plain_verified`].
    VerifyPlain {
        /// What was handed over.
        credentials: Credentials,
        /// As the client sent it.
        password: Password,
    },
    /// The client is who it says.
    Success {
        /// The canonical localpart: authentication and authorization identity in one.
        username: String,
        /// Data that go with the success.
        additional: Option<Vec<u8>>,
    },
    /// The login has failed. Nothing else can come of it.
    Failure(Condition),
}

/// The server's side of one login. Each call but the first answers the step before; a call out of turn fails the login.
#[derive(Debug)]
pub struct Server {
    mechanism: Mechanism,
    offer: Offer,
    server_nonce: String,
    state: State,
}

/// Where the login stands.
enum State {
    /// Nothing has come yet.
    Initial,
    /// SCRAM: the first message is here, the credentials are not.
    ScramFirst(Exchange),
    /// SCRAM: the challenge is out.
    ScramChallenged { exchange: Exchange, credentials: Credentials, server_first: String },
    /// PLAIN: the message is here, the credentials are not.
    PlainFirst { username: String, password: Password },
    /// PLAIN: the password is being verified.
    PlainVerifying { username: String },
    /// Succeeded or failed.
    Done,
}

/// What of the first message is needed later.
struct Exchange {
    hash: Hash,
    username: String,
    client_nonce_bytes: usize,
    /// Client's and server's part.
    nonce: String,
    /// What `c=` has to be.
    binding: Vec<u8>,
    client_first_bare: String,
}

/// Names of states only: passwords and keys are not for logs.
impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            State::Initial => "Initial",
            State::ScramFirst(_) => "ScramFirst",
            State::ScramChallenged { .. } => "ScramChallenged",
            State::PlainFirst { .. } => "PlainFirst",
            State::PlainVerifying { .. } => "PlainVerifying",
            State::Done => "Done",
        })
    }
}

impl Server {
    /// A login by a mechanism that was offered. `nonce_random`: 24 bytes that are never used again.
    pub fn new(mechanism: Mechanism, offer: Offer, nonce_random: [u8; 24]) -> Server {
        Server::with_server_nonce(mechanism, offer, scram::server_nonce(&nonce_random))
    }

    pub(crate) fn with_server_nonce(mechanism: Mechanism, offer: Offer, server_nonce: String) -> Server {
        Server { mechanism, offer, server_nonce, state: State::Initial }
    }

    /// The mechanism in use.
    pub fn mechanism(&self) -> Mechanism {
        self.mechanism
    }

    /// `<auth/>` came without an initial response: an empty challenge asks for it (RFC 4422 §5, RFC 6120 §6.4.2).
    /// The answer goes to [`Server::handle_response`].
    pub fn handle_no_initial(&mut self) -> Step {
        match self.state {
            State::Initial => Step::Challenge(Vec::new()),
            _ => self.fail(Condition::MalformedRequest),
        }
    }

    /// The initial response, decoded.
    pub fn handle_initial(&mut self, message: &[u8]) -> Step {
        let State::Initial = self.state else {
            return self.fail(Condition::MalformedRequest);
        };
        let step = match self.mechanism.hash() {
            Some(hash) => self.scram_first(hash, message),
            None => self.plain_first(message),
        };
        self.settle(step)
    }

    /// The answer to a challenge, decoded.
    pub fn handle_response(&mut self, message: &[u8]) -> Step {
        match std::mem::replace(&mut self.state, State::Done) {
            State::Initial => {
                self.state = State::Initial;
                self.handle_initial(message)
            }
            State::ScramChallenged { exchange, credentials, server_first } => {
                let step = scram_final(exchange, &credentials, &server_first, message);
                self.settle(step)
            }
            _ => self.fail(Condition::MalformedRequest),
        }
    }

    /// The account's credentials, or a decoy.
    pub fn handle_credentials(&mut self, credentials: Credentials) -> Step {
        match std::mem::replace(&mut self.state, State::Done) {
            State::ScramFirst(exchange) => {
                let keys = credentials.keys(exchange.hash);
                let server_first = scram::server_first(&exchange.nonce, keys.salt(), keys.iterations());
                let challenge = server_first.clone().into_bytes();
                self.state = State::ScramChallenged { exchange, credentials, server_first };
                Step::Challenge(challenge)
            }
            State::PlainFirst { username, password } => {
                self.state = State::PlainVerifying { username };
                Step::VerifyPlain { credentials, password }
            }
            _ => self.fail(Condition::MalformedRequest),
        }
    }

    /// What [`Credentials::verify_plain`] said.
    pub fn handle_plain_verified(&mut self, verified: bool) -> Step {
        match std::mem::replace(&mut self.state, State::Done) {
            State::PlainVerifying { username } if verified => Step::Success { username, additional: None },
            State::PlainVerifying { .. } => Step::Failure(Condition::NotAuthorized),
            _ => self.fail(Condition::MalformedRequest),
        }
    }

    fn fail(&mut self, condition: Condition) -> Step {
        self.state = State::Done;
        Step::Failure(condition)
    }

    fn settle(&mut self, step: Result<Step, Condition>) -> Step {
        step.unwrap_or_else(|condition| self.fail(condition))
    }

    fn scram_first(&mut self, hash: Hash, message: &[u8]) -> Result<Step, Condition> {
        let first = scram::client_first(message)?;
        let data = self.binding_data(first.flag)?;
        let username = self.identity(&first.username, first.authzid.as_deref())?;
        let exchange = Exchange {
            hash,
            username: username.clone(),
            client_nonce_bytes: first.nonce.len(),
            nonce: format!("{}{}", first.nonce, self.server_nonce),
            binding: [first.gs2_header.as_bytes(), data].concat(),
            client_first_bare: first.bare.to_owned(),
        };
        self.state = State::ScramFirst(exchange);
        Ok(Step::NeedCredentials { username })
    }

    /// RFC 5802 §6: the channel-binding data that go with the flag.
    fn binding_data(&self, flag: BindingFlag<'_>) -> Result<&[u8], Condition> {
        match (flag, self.mechanism.is_plus()) {
            // The client has not seen the `-PLUS` that was offered: somebody has taken it from the list.
            (BindingFlag::NotOffered, false) if self.offer.plus_offered => Err(Condition::NotAuthorized),
            (BindingFlag::Unsupported | BindingFlag::NotOffered, false) => Ok(&[]),
            (BindingFlag::Used(name), true) => self.offer.channel_binding.data(name).ok_or(Condition::NotAuthorized),
            // `-PLUS` means `p=` and the other way round (RFC 5801 §5).
            _ => Err(Condition::MalformedRequest),
        }
    }

    fn plain_first(&mut self, message: &[u8]) -> Result<Step, Condition> {
        let malformed = Condition::MalformedRequest;
        if message.len() > scram::MESSAGE_BYTES_MAX {
            return Err(malformed);
        }
        let mut fields = std::str::from_utf8(message).map_err(|_| malformed)?.split('\0');
        let (Some(authzid), Some(authcid), Some(password), None) = (fields.next(), fields.next(), fields.next(), fields.next()) else {
            return Err(malformed);
        };
        if authcid.is_empty() {
            return Err(malformed);
        }
        let username = self.identity(authcid, Some(authzid).filter(|a| !a.is_empty()))?;
        if password.is_empty() {
            return Err(Condition::NotAuthorized);
        }
        self.state = State::PlainFirst { username: username.clone(), password: Password::new(password.to_owned()) };
        Ok(Step::NeedCredentials { username })
    }

    /// The canonical localpart, if the client asks to act as itself.
    ///
    /// A name that can be nobody's fails like a wrong password. RFC 6120 §6.3.8: the authorization identity is a bare
    /// JID; nobody can act as another here, so it has to be the client's own, in whatever spelling.
    fn identity(&self, username: &str, authzid: Option<&str>) -> Result<String, Condition> {
        let own = BareJid::new(Some(username), self.offer.domain.domain()).map_err(|_| Condition::NotAuthorized)?;
        if let Some(authzid) = authzid
            && BareJid::parse(authzid).ok().as_ref() != Some(&own)
        {
            return Err(Condition::InvalidAuthzid);
        }
        own.local().map(str::to_owned).ok_or(Condition::NotAuthorized)
    }
}

/// RFC 5802 §3: verify the proof, sign.
fn scram_final(exchange: Exchange, credentials: &Credentials, server_first: &str, message: &[u8]) -> Result<Step, Condition> {
    let Exchange { hash, username, client_nonce_bytes, nonce, binding, client_first_bare } = exchange;
    let last = scram::client_final(message)?;
    if last.proof.len() != hash.key_bytes() || !last.nonce.starts_with(&nonce[..client_nonce_bytes]) {
        return Err(Condition::MalformedRequest);
    }
    let keys = credentials.keys(hash);
    let signed: [&[u8]; 5] = [client_first_bare.as_bytes(), b",", server_first.as_bytes(), b",", last.without_proof.as_bytes()];
    let client_signature = hash.hmac(keys.stored_key(), &signed);
    let client_key: Vec<u8> = last.proof.iter().zip(client_signature.as_ref()).map(|(p, s)| p ^ s).collect();
    let stored_key = hash.digest(&client_key);
    let server_signature = hash.hmac(keys.server_key(), &signed);
    // All of it is computed for everyone and combined without a short cut, so that time and answer do not tell which
    // was wrong, nor whether the account exists.
    let proven = constant_time::verify_slices_are_equal(stored_key.as_ref(), keys.stored_key()).is_ok();
    let bound = constant_time::verify_slices_are_equal(&last.binding, &binding).is_ok();
    let fresh = constant_time::verify_slices_are_equal(last.nonce.as_bytes(), nonce.as_bytes()).is_ok();
    if proven & bound & fresh & !credentials.is_decoy() {
        let additional = Some(scram::server_final(server_signature.as_ref()).into_bytes());
        Ok(Step::Success { username, additional })
    } else {
        Err(Condition::NotAuthorized)
    }
}

#[cfg(test)]
mod tests;
