//! Two clients that chat while bad input is fed to their server, and what they see of it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::client::{Client, Connector, chat};
use crate::ns;
use crate::server::{PASSWORD, Server};
use crate::xml::Element;

/// Between an answer and the next message.
const PACE: Duration = Duration::from_millis(25);

/// How long one message took, of all of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Latency {
    /// Messages.
    pub count: usize,
    /// Half of them took no longer.
    pub p50: Duration,
    /// All but one in a hundred.
    pub p99: Duration,
    /// The longest.
    pub max: Duration,
}

impl Latency {
    /// Of these times.
    pub fn of(mut times: Vec<Duration>) -> Latency {
        times.sort_unstable();
        let at =
            |per_cent: usize| times.get((times.len() * per_cent / 100).min(times.len().saturating_sub(1))).copied().unwrap_or_default();
        Latency { count: times.len(), p50: at(50), p99: at(99), max: at(100) }
    }
}

/// The pair, chatting.
pub struct Canary {
    stop: watch::Sender<bool>,
    chatted: watch::Receiver<u64>,
    task: JoinHandle<Result<Vec<Duration>>>,
    healthy: Connector,
    listener: Client,
}

impl Canary {
    /// Makes the accounts and starts to chat.
    pub async fn start(server: &Server) -> Result<Canary> {
        let mut pair = Vec::new();
        for user in ["canary1", "canary2", "healthy"] {
            server.add_user(user, PASSWORD).await?;
        }
        for user in ["canary1", "canary2", "canary2"] {
            let mut client = server.client(user, "").await?;
            client.send(Element::new("presence", ns::CLIENT)).await?;
            pair.push(client);
        }
        let listener = pair.pop().context("three")?;
        let (b, a) = (pair.pop().context("three")?, pair.pop().context("three")?);
        let (stop, stopped) = watch::channel(false);
        let (told, chatted) = watch::channel(0);
        let task = tokio::spawn(talk(a, b, told, stopped));
        Ok(Canary { stop, chatted, task, healthy: server.connector()?, listener })
    }

    /// A login, and a message from it; and the pair has chatted on.
    pub async fn check(&mut self) -> Result<()> {
        let before = *self.chatted.borrow();
        let mut client = Client::connect(&self.healthy, "healthy", PASSWORD, "").await.context("a healthy login")?;
        let text = format!("{before}");
        client.send(chat(&self.listener.jid, "health", &text)).await?;
        let message = self.listener.wait("the message of a healthy login", |e| e.attr("id") == Some("health")).await?;
        ensure!(message.child_text("body") == Some(text), "{message:?}");
        self.listener.clear();
        client.close().await.context("a healthy end")?;
        let deadline = self.healthy.deadline;
        let chatted = tokio::time::timeout(deadline, self.chatted.wait_for(|n| *n > before)).await.is_ok_and(|r| r.is_ok());
        ensure!(chatted, "the pair chats no more");
        Ok(())
    }

    /// Ends the chat; gives how long messages took.
    pub async fn finish(self) -> Result<Vec<Duration>> {
        let _ = self.stop.send(true);
        self.task.await?.context("the pair that chats")
    }
}

/// A message there and one back, again and again. One that is lost, doubled or out of order is an error.
async fn talk(mut a: Client, mut b: Client, told: watch::Sender<u64>, stopped: watch::Receiver<bool>) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    for n in 0_u64.. {
        if *stopped.borrow() {
            break;
        }
        for there in [true, false] {
            let (from, to) = if there { (&mut a, &mut b) } else { (&mut b, &mut a) };
            let begin = Instant::now();
            from.send(chat(&to.jid, &n.to_string(), "tweet")).await?;
            let message = to.wait(&format!("message {n}"), |e| e.name == "message").await?;
            times.push(begin.elapsed());
            ensure!(message.attr("id") == Some(&n.to_string()), "instead of message {n}: {message:?}");
        }
        told.send_replace(n);
        tokio::time::sleep(PACE).await;
    }
    Ok(times)
}
