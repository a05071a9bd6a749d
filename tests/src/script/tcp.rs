//! The running server, over TCP, STARTTLS and SCRAM.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::{Backend, Came, Level, Person, Script};
use crate::client::{Client, End, Stream};
use crate::ns;
use crate::server::{Config, PASSWORD, Server};
use crate::xml::{Element, Item};

/// How long the server may take to say what it must.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long is looked whether it says what it must not, when everything before has taken effect.
const GLANCE: Duration = Duration::from_millis(40);
/// The account that finds out whether what was sent has taken effect.
const PROBE: &str = "probe-of-the-script";

/// See the module.
pub struct Tcp {
    server: Server,
    streams: Vec<Option<Stream>>,
    left: Vec<Vec<Came>>,
    probe: Option<Client>,
}

impl Tcp {
    /// A server with the script's settings and accounts.
    pub async fn start(script: &Script) -> Result<Tcp> {
        let server = Server::chappe(config(script)?).await?;
        let users: BTreeSet<(&str, &str)> =
            script.people.iter().filter(|p| !p.unregistered).map(|p| (p.user.as_str(), p.password.as_str())).collect();
        for (user, password) in users {
            server.add_user(user, password).await?;
        }
        server.add_user(PROBE, PASSWORD).await?;
        let probe = Some(probe(&server).await?);
        Ok(Tcp { server, streams: script.people.iter().map(|_| None).collect(), left: vec![Vec::new(); script.people.len()], probe })
    }

    fn stream(&mut self, client: usize) -> Result<&mut Stream> {
        self.streams[client].as_mut().context("not connected")
    }
}

async fn probe(server: &Server) -> Result<Client> {
    let mut probe = server.client(PROBE, "probe").await?;
    probe.send(Element::new("presence", ns::CLIENT)).await?;
    Ok(probe)
}

/// The head's settings, in the server's own words.
fn config(script: &Script) -> Result<Config> {
    let mut config = Config { in_band_registration: false, resume_timeout: 300, ..Config::default() };
    for (key, value) in &script.settings {
        match (key.as_str(), value.as_str()) {
            ("registration", "open") => config.in_band_registration = true,
            ("bare JID", "highest" | "all") => config.extra += &format!("[routing]\nbare_jid = {value:?}\n"),
            ("conflict", "replace" | "refuse" | "override") => config.extra += &format!("[bind]\nconflict = {value:?}\n"),
            ("archive", "always" | "roster" | "never") => config.extra += &format!("[archive]\ndefault = {value:?}\n"),
            _ => bail!("no such setting: {key}: {value}"),
        }
    }
    Ok(config)
}

impl Backend for Tcp {
    async fn open(&mut self, client: usize, person: &Person, level: Level) -> Result<Element> {
        let connector = self.server.connector()?;
        let (stream, features) = match level {
            Level::Secured => {
                let secured = connector.secure().await?;
                (secured.stream, secured.features)
            }
            Level::LoggedIn => {
                let authenticated = connector.login(&person.user, &person.password).await?;
                (authenticated.stream, authenticated.features)
            }
        };
        self.streams[client] = Some(stream);
        self.left[client].clear();
        Ok(features)
    }

    async fn restart_stream(&mut self, client: usize) -> Result<Element> {
        tokio::time::timeout(PATIENCE, self.stream(client)?.open("localhost")).await?
    }

    async fn send(&mut self, client: usize, xml: &str) -> Result<()> {
        let stream = self.stream(client)?;
        stream.push(xml)?;
        tokio::time::timeout(PATIENCE, stream.flush()).await??;
        Ok(())
    }

    async fn next(&mut self, client: usize, patient: bool) -> Result<Option<Came>> {
        if !self.left[client].is_empty() {
            return Ok(Some(self.left[client].remove(0)));
        }
        let Some(stream) = self.streams[client].as_mut() else { return Ok(None) };
        let Ok(item) = tokio::time::timeout(if patient { PATIENCE } else { GLANCE }, stream.next()).await else { return Ok(None) };
        came(item).map(Some)
    }

    async fn cut(&mut self, client: usize) -> Result<()> {
        self.streams[client] = None;
        self.left[client].clear();
        Ok(())
    }

    /// Messages of another account make the way of every stanza twice: from edge to shard, to the disk, to a shard and an edge.
    /// What was sent before them is then there too, but for a server under great load.
    async fn settle(&mut self) -> Result<()> {
        let Some(probe) = self.probe.as_mut() else { return Ok(()) };
        for _ in 0..2 {
            let id = probe.fresh_id();
            let body = Element::new("body", ns::CLIENT).text("?");
            let message = Element::new("message", ns::CLIENT).with("id", &id).with("to", format!("{PROBE}@localhost/probe"));
            probe.send(message.child(body)).await?;
            probe.wait("the probe", |e| e.attr("id") == Some(&id)).await?;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        Ok(())
    }

    async fn pass(&mut self, time: Duration) -> Result<()> {
        ensure!(time <= Duration::from_secs(5), "too long for a test against the clock");
        tokio::time::sleep(time).await;
        Ok(())
    }

    async fn restart(&mut self, kill: bool) -> Result<()> {
        self.probe = None;
        if kill {
            self.streams.iter_mut().for_each(|s| *s = None);
            self.left.iter_mut().for_each(Vec::clear);
            self.server.kill9().await?;
        } else {
            // The server waits for clients to read its farewell.
            let readers: Vec<_> = self.streams.iter_mut().map(|s| s.take().map(|s| tokio::spawn(read_out(s)))).collect();
            self.server.sigterm().await?;
            for (reader, left) in readers.into_iter().zip(&mut self.left) {
                if let Some(reader) = reader {
                    left.extend(reader.await??);
                }
            }
        }
        self.server.restart().await?;
        self.probe = Some(probe(&self.server).await?);
        Ok(())
    }
}

fn came(item: Result<Item>) -> Result<Came> {
    match item {
        Ok(Item::Element(element)) => Ok(Came::Element(element)),
        Ok(item) => bail!("unexpected: {item:?}"),
        Err(e) => match e.downcast::<End>()? {
            End::Error(condition) => Ok(Came::End(Some(condition))),
            End::Closed => Ok(Came::End(None)),
            End::Broken(why) => bail!("the connection broke: {why}"),
        },
    }
}

async fn read_out(mut stream: Stream) -> Result<Vec<Came>> {
    let mut all = Vec::new();
    loop {
        let item = came(stream.next().await)?;
        let is_end = matches!(item, Came::End(_));
        all.push(item);
        if is_end {
            return Ok(all);
        }
    }
}
