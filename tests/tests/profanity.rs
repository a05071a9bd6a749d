//! Profanity (Debian), driven in tmux, talks with our own client through the running server.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use chappe_tests::client::Client;
use chappe_tests::ns;
use chappe_tests::proxy::Proxy;
use chappe_tests::server::{Config, PASSWORD, Server};
use chappe_tests::terminal::Terminal;
use chappe_tests::xml::Element;

fn start(home: &Path) -> Result<Terminal> {
    Terminal::start("profanity", &["-l", "DEBUG"], home)
}

async fn connect(home: &Path, address: SocketAddr) -> Result<Terminal> {
    let juliet = start(home)?;
    juliet.shows("[offline]").await?;
    juliet.ask("/carbons on", "Message carbons preference enabled.").await?;
    juliet.ask("/reconnect 1", "Reconnect interval set to 1").await?;
    // «trust» takes the certificate of the run's authority without asking.
    let (host, port) = (address.ip(), address.port());
    juliet.ask(&format!("/connect juliet@localhost/balcony server {host} port {port} tls trust"), "Enter password:").await?;
    juliet.ask(PASSWORD, "juliet@localhost/balcony logged in successfully").await?;
    Ok(juliet)
}

/// What Profanity wrote to its log, which at this level holds the stanzas.
fn log(home: &Path) -> Result<String> {
    std::fs::read_to_string(home.join(".local/share/profanity/logs/profanity.log")).context("profanity's log")
}

/// The subscription both ways, and presence.
async fn subscribe(juliet: &Terminal, romeo: &mut Client) -> Result<()> {
    juliet.ask("/roster add romeo@localhost Romeo", "Roster item added: romeo@localhost (Romeo)").await?;
    juliet.ask("/roster group add Lovers romeo@localhost", "Romeo added to group Lovers").await?;
    juliet.ask("/sub request romeo@localhost", "Sent subscription request to romeo@localhost.").await?;
    romeo.wait_presence("juliet@localhost", "subscribe").await?;
    romeo.presence("subscribed", Some("juliet@localhost")).await?;
    romeo.wait_push("juliet@localhost", "from", false).await?;
    romeo.presence("subscribe", Some("juliet@localhost")).await?;
    juliet.shows("Received authorization request from romeo@localhost").await?;
    juliet.ask("/sub allow romeo@localhost", "Accepted subscription for romeo@localhost").await?;
    romeo.wait_push("juliet@localhost", "both", false).await?;
    romeo.wait_presence("juliet@localhost/balcony", "").await?;
    juliet.ask_until("/roster", "romeo@localhost (Romeo) - both - Lovers").await?;

    juliet.ask("/status set away \"in the garden\"", "Status set to away").await?;
    let away = romeo.wait_presence("juliet@localhost/balcony", "").await?;
    ensure!(
        away.child_text("show").as_deref() == Some("away") && away.child_text("status").as_deref() == Some("in the garden"),
        "{away:?}"
    );
    let dnd = Element::new("presence", ns::CLIENT).child(Element::new("show", ns::CLIENT).text("dnd"));
    romeo.send(dnd.child(Element::new("status", ns::CLIENT).text("fighting"))).await?;
    juliet.shows("Romeo (orchard) is dnd, \"fighting\"").await
}

#[tokio::test]
async fn a_conversation() -> Result<()> {
    let server = Server::start(Config::default()).await?;
    let proxy = Proxy::start(server.ports().c2s).await?;
    let home = tempfile::tempdir()?;
    let mut romeo = server.new_client("romeo", "orchard").await?;
    let mut paris = server.new_client("paris", "hall").await?;
    romeo.roster().await?;
    romeo.available(0).await?;
    paris.available(0).await?;

    // In-band registration.
    let newcomer = start(home.path())?;
    newcomer.shows("[offline]").await?;
    let port = server.ports().c2s.port();
    newcomer.ask(&format!("/register juliet localhost port {port} tls trust"), "Enter password:").await?;
    newcomer.ask(PASSWORD, "Confirm password:").await?;
    newcomer.ask(PASSWORD, "Registration successful.").await?;
    newcomer.quit("/quit").await?;

    let juliet = connect(home.path(), proxy.address).await?;
    subscribe(&juliet, &mut romeo).await?;

    // Messages both ways.
    juliet.enter("/msg romeo@localhost Art thou not Romeo?")?;
    let message = romeo.wait_body("Art thou not Romeo?").await?;
    ensure!(message.attr("from") == Some("juliet@localhost/balcony"), "{message:?}");
    romeo.chat("juliet@localhost", "Neither, fair saint").await?;
    juliet.shows("Neither, fair saint").await?;

    // Carbons, from another session of the account.
    let mut chamber = server.client("juliet", "chamber").await?;
    chamber.carbons(true).await?;
    chamber.available(0).await?;
    chamber.chat("romeo@localhost", "said in the chamber").await?;
    romeo.wait_body("said in the chamber").await?;
    juliet.shows("said in the chamber").await?;
    juliet.enter("said on the balcony")?;
    chamber.wait_carbon("sent", "said on the balcony").await?;
    chamber.close().await?;

    // Blocking.
    juliet.enter("/win 1")?;
    juliet.ask("/blocked add paris@localhost", "User paris@localhost successfully blocked.").await?;
    let id = paris.chat("juliet@localhost", "unheard").await?;
    let error = paris.wait("an error", |e| e.attr("id") == Some(&id) && e.attr("type") == Some("error")).await?;
    ensure!(error.error_condition().as_deref() == Some("service-unavailable"), "{error:?}");
    juliet.ask("/blocked remove paris@localhost", "User paris@localhost successfully unblocked.").await?;
    paris.chat("juliet@localhost", "heard").await?;
    juliet.shows("paris@localhost").await?;
    ensure!(!log(home.path())?.contains("unheard"), "the blocked were heard");

    // Resumption after a cut connection.
    romeo.clear();
    ensure!(proxy.cut() == 1, "there was no connection to cut");
    juliet.shows("Lost connection").await?;
    for n in 0..3 {
        romeo.chat("juliet@localhost", &format!("in the tunnel {n}")).await?;
    }
    romeo.ping().await?;
    // It connects again by itself.
    juliet.enter("/win 2")?;
    for n in 0..3 {
        juliet.shows(&format!("in the tunnel {n}")).await?;
    }
    ensure!(log(home.path())?.contains("<resumed "), "it was not resumed");
    romeo.ping().await?;
    let left = |e: &Element| e.attr("type") == Some("unavailable") && e.attr("from") == Some("juliet@localhost/balcony");
    ensure!(romeo.take(left).is_none(), "she was seen leaving");

    // Offline.
    juliet.quit("/quit").await?;
    romeo.wait_presence("juliet@localhost/balcony", "unavailable").await?;
    for n in 0..3 {
        romeo.chat("juliet@localhost", &format!("while she is away {n}")).await?;
    }
    romeo.ping().await?;
    let juliet = connect(home.path(), proxy.address).await?;
    juliet.enter("/msg romeo@localhost")?;
    for n in 0..3 {
        juliet.shows(&format!("while she is away {n}")).await?;
    }
    juliet.quit("/quit").await
}
