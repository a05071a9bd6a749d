//! What the server makes of a disk that fails, one case at a time; `tests/crash.rs` has them under a chat.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use chappe_tests::client::chat;
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

/// A server that has had a chat and was stopped in good order.
async fn chatted() -> Result<Server> {
    let mut server = Server::chappe(Config::default()).await?;
    let mut juliet = server.new_client("juliet", "balcony").await?;
    server.add_user("romeo", PASSWORD).await?;
    juliet.enable_sm(true).await?;
    for n in 0..20 {
        juliet.send(chat("romeo@localhost", &format!("m{n}"), &format!("line {n}"))).await?;
        juliet.wait_acked().await?;
    }
    juliet.close().await?;
    let status = server.sigterm().await?;
    ensure!(status.success(), "{status}");
    Ok(server)
}

/// The journal, and where what is written in it ends: behind that it is zeros, allocated in advance.
fn journal(server: &Server) -> Result<(PathBuf, Vec<u8>, usize)> {
    let path = server.data().join("store/cells/0.jnl");
    let bytes = std::fs::read(&path)?;
    let end = bytes.iter().rposition(|b| *b != 0).context("an empty journal")? + 1;
    Ok((path, bytes, end))
}

/// It ends by itself and says so: the lines that it said since `before`.
async fn refused(server: &mut Server, before: usize) -> Result<String> {
    server.spawn()?;
    let status = server.ended_or_ready().await?.context("it has started")?;
    ensure!(status.code() == Some(1), "{status}");
    Ok(server.log().split_off(before))
}

#[track_caller]
fn says(log: &str, words: &[&str]) {
    for word in words {
        assert!(log.contains(word), "no {word:?} in:\n{log}");
    }
}

const WHAT_TO_DO: [&str; 4] = ["No data was discarded", "Restore a backup", "copy the data directory away", "`--accept-loss`"];

#[tokio::test]
async fn a_journal_damaged_in_the_middle_refuses_to_start() -> Result<()> {
    for flipped in [1, 64] {
        let mut server = chatted().await?;
        let (path, mut bytes, end) = journal(&server)?;
        bytes[end / 2..end / 2 + flipped].iter_mut().for_each(|b| *b ^= 0x55);
        std::fs::write(&path, &bytes)?;
        let before = server.log().len();
        let said = refused(&mut server, before).await?;
        says(&said, &["the journal is corrupt", "0.jnl", "bytes from offset"]);
        says(&said, &WHAT_TO_DO);
        ensure!(std::fs::read(&path)? == bytes, "a refusal has changed the journal");
    }
    Ok(())
}

#[tokio::test]
async fn a_journal_that_lacks_durable_groups_refuses_to_start() -> Result<()> {
    let mut server = chatted().await?;
    let (path, mut bytes, end) = journal(&server)?;
    bytes[end - 20..end].fill(0);
    std::fs::write(&path, &bytes)?;
    let before = server.log().len();
    let said = refused(&mut server, before).await?;
    says(&said, &["the journal is corrupt", "was durable, but only groups up to", "can be read"]);
    says(&said, &WHAT_TO_DO);
    Ok(())
}

#[tokio::test]
async fn a_torn_end_is_cut_and_told() -> Result<()> {
    let mut server = chatted().await?;
    let (path, mut bytes, end) = journal(&server)?;
    // The beginning of a group that was being written when the power went: as the first one begins.
    bytes.copy_within(0..40, end);
    std::fs::write(&path, &bytes)?;
    let before = server.log().len();
    server.restart().await?;
    let said = server.log().split_off(before);
    says(&said, &["cut the end of the journal", "a copy is kept beside it", "0.jnl", &format!("bytes from offset {end}")]);
    ensure!(path.with_file_name("0.jnl.damaged.0").exists(), "no copy is kept");
    let mut romeo = server.client("romeo", "orchard").await?;
    ensure!(romeo.archive(None, None).await?.len() == 20, "a part of the chat is gone");
    Ok(())
}
