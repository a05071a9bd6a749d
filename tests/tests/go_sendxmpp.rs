//! go-sendxmpp (Debian) sends and listens through the running server. It trusts the run's authority by `SSL_CERT_FILE`.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chappe_tests::peer::installed;
use chappe_tests::server::{Config, PASSWORD, Server};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::Command;

const DEADLINE: Duration = Duration::from_secs(30);

fn command(server: &Server, home: &Path, user: &str, password: &str, args: &[&str]) -> Result<Command> {
    let mut command = Command::new(installed("go-sendxmpp")?);
    command.args(["-u", &format!("{user}@localhost"), "-p", password]).args(args);
    command.env("HOME", home).env("SSL_CERT_FILE", server.ca()).env("SSL_CERT_DIR", home).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Ok(command)
}

/// Sends a message and waits until the program has ended.
async fn send(server: &Server, home: &Path, password: &str, args: &[&str], text: &str) -> Result<std::process::Output> {
    say(command(server, home, "juliet", password, args)?, text).await
}

async fn say(mut command: Command, text: &str) -> Result<std::process::Output> {
    let mut child = command.spawn()?;
    let mut stdin = child.stdin.take().context("stdin")?;
    stdin.write_all(text.as_bytes()).await?;
    drop(stdin);
    Ok(tokio::time::timeout(DEADLINE, child.wait_with_output()).await.context("it has not ended")??)
}

#[tokio::test]
async fn it_sends_by_starttls_and_direct_tls_and_listens() -> Result<()> {
    let server = Server::start(Config::default()).await?;
    let home = tempfile::tempdir()?;
    server.add_user("juliet", PASSWORD).await?;
    let mut romeo = server.new_client("romeo", "orchard").await?;
    romeo.available(0).await?;
    let (starttls, direct) = (server.ports().c2s.to_string(), server.ports().c2s_tls.to_string());

    for (args, text) in [(vec!["-j", &starttls], "by STARTTLS <&> é"), (vec!["-t", "-j", &direct], "by direct TLS")] {
        let mut args = args;
        args.push("romeo@localhost");
        let output = send(&server, home.path(), PASSWORD, &args, text).await?;
        ensure!(output.status.success(), "{output:?}");
        let message = romeo.wait_body(text).await?;
        ensure!(message.attr("from").is_some_and(|f| f.starts_with("juliet@localhost/")), "{message:?}");
    }

    // Offline: what it sends to nobody waits.
    romeo.close().await?;
    let output = send(&server, home.path(), PASSWORD, &["-j", &starttls, "romeo@localhost"], "for later").await?;
    ensure!(output.status.success(), "{output:?}");
    let mut romeo = server.client("romeo", "orchard").await?;
    romeo.available(0).await?;
    romeo.wait_body("for later").await?;

    // It listens. Another session of its account sees when it is there. (What waited while nobody listened is not part of
    // this: behind it comes a ping, XEP-0199, since the client does not acknowledge, and go-sendxmpp 0.5.6 ends with a nil
    // pointer when a server pings it.)
    let mut watch = server.client("juliet", "watch").await?;
    watch.available(-1).await?;
    let mut listener = command(&server, home.path(), "juliet", PASSWORD, &["-l", "-j", &starttls])?.spawn()?;
    let mut lines = BufReader::new(listener.stdout.take().context("stdout")?).lines();
    let there = |from: &str| from.starts_with("juliet@localhost/") && !from.ends_with("/watch");
    watch.wait("presence of the listener", |e| e.name == "presence" && e.attr("from").is_some_and(there)).await?;
    romeo.chat("juliet@localhost", "while somebody listens").await?;
    let line = tokio::time::timeout(DEADLINE, lines.next_line()).await.context("nothing came")??.context("it has ended")?;
    ensure!(line.contains("romeo@localhost") && line.ends_with("while somebody listens"), "{line:?}");
    listener.kill().await?;
    Ok(())
}

#[tokio::test]
async fn a_wrong_password_or_certificate_is_refused() -> Result<()> {
    let server = Server::start(Config::default()).await?;
    let home = tempfile::tempdir()?;
    server.add_user("juliet", PASSWORD).await?;
    server.add_user("romeo", PASSWORD).await?;
    let address = server.ports().c2s.to_string();
    let args = ["-j", &address, "romeo@localhost"];
    let output = send(&server, home.path(), "wrong", &args, "never").await?;
    ensure!(!output.status.success(), "{output:?}");
    // Without the authority, the client must not go on: so the run's certificates prove something.
    let mut stranger = command(&server, home.path(), "juliet", PASSWORD, &args)?;
    stranger.env("SSL_CERT_FILE", "/dev/null");
    let output = say(stranger, "never").await?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success() && said.contains("certificate"), "{output:?}");
    Ok(())
}
