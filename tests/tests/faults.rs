//! What the server makes of a disk that fails, one case at a time; `tests/crash.rs` has them under a chat.

use anyhow::{Result, ensure};
use chappe_tests::server::{Config, LayerUse, PASSWORD, Server};
use faults::Word;

/// A folder is begun, an account made, and the power goes: whatever of the names is not synced may be gone.
#[tokio::test]
async fn a_new_data_folder_survives_a_power_cut() -> Result<()> {
    for seed in 0..6 {
        let layer = Some(LayerUse { record: true, reads: false });
        let mut server = Server::chappe(Config { layer, ..Config::default() }).await?;
        server.add_user("juliet", PASSWORD).await?;
        server.kill9().await?;
        let dropped = server.layer()?.cut(seed)?;
        ensure!(server.layer()?.get(Word::Uncovered)? == 0, "{}", server.log());
        server.restart().await?;
        let client = server.client("juliet", "balcony").await;
        assert!(client.is_ok(), "seed {seed}, {dropped:?}: {:#}", client.err().unwrap());
    }
    Ok(())
}
