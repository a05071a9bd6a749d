//! The composition of a node: edge, shards and store.

use admin::{BoxFuture, Control, ControlError, Listening, Readiness};
use config::{Config, Secret};
use types::BareJid;

use crate::tls::TlsStore;

/// A running node.
pub struct NodeHandle {}

/// Starts the node's parts; returns when its listeners are bound.
///
/// # Errors
/// Always, until the parts are put together.
pub async fn start(_config: Config, _tls: TlsStore) -> anyhow::Result<NodeHandle> {
    anyhow::bail!("edge, shards and store are not put together yet")
}

impl NodeHandle {
    /// Stops accepting, writes the sessions' rows, closes the store.
    pub async fn drain(&self) -> anyhow::Result<()> {
        Ok(())
    }
}

fn missing<T: Send + 'static>() -> BoxFuture<'static, Result<T, ControlError>> {
    Box::pin(async { Err(ControlError::Unavailable("the node is not put together yet".into())) })
}

impl Control for NodeHandle {
    fn create_user(&self, _: BareJid, _: Secret) -> BoxFuture<'_, Result<(), ControlError>> {
        missing()
    }
    fn set_password(&self, _: BareJid, _: Secret) -> BoxFuture<'_, Result<(), ControlError>> {
        missing()
    }
    fn delete_user(&self, _: BareJid) -> BoxFuture<'_, Result<(), ControlError>> {
        missing()
    }
    fn list_users(&self, _: BareJid, _: Option<BareJid>, _: usize) -> BoxFuture<'_, Result<Vec<BareJid>, ControlError>> {
        missing()
    }
    fn apply(&self, _: Config) -> BoxFuture<'_, Result<(), ControlError>> {
        missing()
    }
    fn readiness(&self) -> Readiness {
        Readiness::default()
    }
    fn listening(&self) -> Listening {
        Listening::default()
    }
}
