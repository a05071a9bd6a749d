//! What the admin interface asks of the node, and the closed set of answers.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;

use config::{Config, Secret};
use serde::{Deserialize, Serialize};
use types::BareJid;

/// A future behind a pointer, so that [`Control`] can be a trait object.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A running node, as the admin interface and the signals see it.
///
/// The interface has checked that a JID's domain is served and that it has a localpart.
pub trait Control: Send + Sync + 'static {
    /// Makes an account. The password is kept only as keys; answered when they are durable.
    ///
    /// # Errors
    /// `AlreadyExists`, `Invalid` (a password that PRECIS refuses), `Unavailable`.
    fn create_user(&self, jid: BareJid, password: Secret) -> BoxFuture<'_, Result<(), ControlError>>;

    /// Replaces an account's password. Open sessions stay.
    ///
    /// # Errors
    /// `NotFound`, `Invalid`, `Unavailable`.
    fn set_password(&self, jid: BareJid, password: Secret) -> BoxFuture<'_, Result<(), ControlError>>;

    /// Removes an account with all it has, and ends its sessions.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`.
    fn delete_user(&self, jid: BareJid) -> BoxFuture<'_, Result<(), ControlError>>;

    /// The accounts of `domain` whose JID is greater than `after`, in ascending order, at most `limit` of them.
    ///
    /// # Errors
    /// `Unavailable`.
    fn list_users(&self, domain: BareJid, after: Option<BareJid>, limit: usize) -> BoxFuture<'_, Result<Vec<BareJid>, ControlError>>;

    /// Takes over the live settings of `config`. It has been checked; what needs a restart is as it was.
    ///
    /// # Errors
    /// `Unavailable` while draining.
    fn apply(&self, config: Config) -> BoxFuture<'_, Result<(), ControlError>>;

    /// Whether the node can serve clients now. Called often: it reads what is known and asks nobody.
    fn readiness(&self) -> Readiness;

    /// The addresses that are bound. A configured port 0 shows here as the port that it became.
    fn listening(&self) -> Listening;
}

/// The reading of configuration and certificates anew, which the command does around the node.
pub trait Reload: Send + Sync + 'static {
    /// Reads the file and the certificates; applies all or nothing.
    ///
    /// # Errors
    /// `Invalid` with every fault and its line; what was in force stays so.
    fn reload(&self) -> BoxFuture<'_, Result<Reloaded, ControlError>>;

    /// The configuration in force.
    fn config(&self) -> Config;
}

/// What a reload did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// Settings that changed and are in force.
    pub applied: Vec<String>,
    /// Settings that changed in the file and wait for a restart.
    pub restart: Vec<String>,
    /// Certificates that are in force.
    pub certificates: usize,
}

/// Bound addresses by kind of listener.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listening {
    /// Clients, STARTTLS.
    pub c2s: Vec<SocketAddr>,
    /// Clients, direct TLS.
    pub c2s_tls: Vec<SocketAddr>,
    /// The admin interface itself. The command fills it in.
    #[serde(default)]
    pub admin: Vec<SocketAddr>,
}

/// Whether a node can serve clients, and why not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    /// SIGTERM came: no new streams, the open ones end.
    pub draining: bool,
    /// Each part that a client needs.
    pub checks: Vec<Check>,
}

impl Readiness {
    /// All checks pass and the node is not draining.
    pub fn is_ready(&self) -> bool {
        !self.draining && self.checks.iter().all(|c| c.problem.is_none())
    }
}

/// One part that a client needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What is looked at, as `store` or `shards`.
    pub name: String,
    /// What is wrong with it, if anything.
    pub problem: Option<String>,
}

/// Why the node did not do it. The text is for the person at the other end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// The account does not exist.
    #[error("{0} does not exist")]
    NotFound(String),
    /// The account is there already.
    #[error("{0} exists already")]
    AlreadyExists(String),
    /// The input is not acceptable.
    #[error("{0}")]
    Invalid(String),
    /// The caller may not do this.
    #[error("{0}")]
    Denied(String),
    /// Not now: starting, draining, or the store does not answer.
    #[error("{0}")]
    Unavailable(String),
    /// A fault of the server; the text goes to the log and not to the caller.
    #[error("the server failed; its log says why")]
    Internal(String),
}

/// The closed set of codes that an answer of the interface can bear.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// 404.
    NotFound,
    /// 409.
    AlreadyExists,
    /// 400.
    Invalid,
    /// 401: no token, or a wrong one.
    Unauthenticated,
    /// 403.
    Denied,
    /// 405.
    MethodNotAllowed,
    /// 413.
    TooLarge,
    /// 503.
    Unavailable,
    /// 500.
    Internal,
}

impl Code {
    /// The status of the HTTP response.
    pub fn status(self) -> u16 {
        match self {
            Code::Invalid => 400,
            Code::Unauthenticated => 401,
            Code::Denied => 403,
            Code::NotFound => 404,
            Code::MethodNotAllowed => 405,
            Code::AlreadyExists => 409,
            Code::TooLarge => 413,
            Code::Internal => 500,
            Code::Unavailable => 503,
        }
    }
}

impl ControlError {
    /// Its code.
    pub fn code(&self) -> Code {
        match self {
            ControlError::NotFound(_) => Code::NotFound,
            ControlError::AlreadyExists(_) => Code::AlreadyExists,
            ControlError::Invalid(_) => Code::Invalid,
            ControlError::Denied(_) => Code::Denied,
            ControlError::Unavailable(_) => Code::Unavailable,
            ControlError::Internal(_) => Code::Internal,
        }
    }
}
