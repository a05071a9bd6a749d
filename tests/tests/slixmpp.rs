//! slixmpp (PyPI) talks with the running server. The script is clients/slixmpp_conversation.py.

use anyhow::{Context, Result, ensure};
use chappe_tests::peer::Peer;
use chappe_tests::proxy::Proxy;
use chappe_tests::server::{Config, PASSWORD, Server};
use serde_json::json;

/// What the script must have said, in this order.
const STEPS: [&str; 11] = [
    "registration",
    "roster",
    "subscription",
    "presence",
    "messages",
    "offline",
    "archive",
    "carbons",
    "blocking",
    "resumption",
    "refusal",
];

#[tokio::test]
async fn a_conversation() -> Result<()> {
    let server = Server::start(Config::default()).await?;
    let proxy = Proxy::start(server.ports().c2s).await?;
    let args = json!({
        "host": "127.0.0.1",
        "port": server.ports().c2s.port(),
        "proxy_port": proxy.address.port(),
        "domain": server.domain(),
        "ca": server.ca(),
        "password": PASSWORD,
    });
    let mut script = Peer::python("slixmpp_conversation.py", &args)?;
    let mut steps = Vec::new();
    while let Some(line) = script.line().await? {
        if line["do"] == "cut" {
            ensure!(proxy.cut() == 1, "there was no connection to cut");
            script.say(&json!("cut")).await?;
        } else {
            steps.push(line["step"].as_str().context("a step")?.to_owned());
        }
    }
    script.ended().await.with_context(|| format!("after {steps:?}"))?;
    assert_eq!(steps, STEPS);
    Ok(())
}
