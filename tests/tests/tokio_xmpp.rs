//! tokio-xmpp (crates.io) talks with the running server. Its sessions are processes of tokio-xmpp-peer, this test says what they do.

use std::collections::VecDeque;

use anyhow::{Context, Result, bail, ensure};
use chappe_tests::client::{ArchiveRow, RosterItem, chat};
use chappe_tests::ns;
use chappe_tests::peer::Peer;
use chappe_tests::proxy::Proxy;
use chappe_tests::server::{Config, PASSWORD, Server};
use chappe_tests::xml::{Element, parse};
use serde_json::json;

/// A session of tokio-xmpp.
struct Driven {
    peer: Peer,
    jid: String,
    seen: VecDeque<Element>,
    online: VecDeque<bool>,
    ids: u32,
}

impl Driven {
    /// Starts one and waits until it is online and available.
    async fn start(server: &Server, address: std::net::SocketAddr, jid: &str) -> Result<Driven> {
        let args = json!({ "jid": jid, "password": PASSWORD, "address": address.to_string() });
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_tokio-xmpp-peer"));
        command.arg(args.to_string()).env("SSL_CERT_FILE", server.ca()).env_remove("SSL_CERT_DIR");
        let peer = Peer::start("tokio-xmpp-peer", command)?;
        let mut driven = Driven { peer, jid: jid.into(), seen: VecDeque::new(), online: VecDeque::new(), ids: 0 };
        ensure!(!driven.wait_online().await?, "a first session is not resumed");
        driven.send(Element::new("presence", ns::CLIENT)).await?;
        driven.wait("own presence", |e| e.name == "presence" && e.attr("from") == Some(jid)).await?;
        Ok(driven)
    }

    async fn read(&mut self) -> Result<()> {
        let line = self.peer.line().await?.context("tokio-xmpp-peer has ended")?;
        if let Some(xml) = line["stanza"].as_str() {
            self.seen.push_back(parse(xml)?);
        } else if let Some(resumed) = line["resumed"].as_bool() {
            ensure!(line["online"] == self.jid, "{line}");
            self.online.push_back(resumed);
        } else {
            bail!("{}: {line}", self.jid);
        }
        Ok(())
    }

    /// Waits until it is online again; gives whether it resumed.
    async fn wait_online(&mut self) -> Result<bool> {
        loop {
            if let Some(resumed) = self.online.pop_front() {
                return Ok(resumed);
            }
            self.read().await?;
        }
    }

    async fn wait(&mut self, what: &str, wanted: impl Fn(&Element) -> bool) -> Result<Element> {
        loop {
            if let Some(at) = self.seen.iter().position(&wanted) {
                return self.seen.remove(at).context("seen");
            }
            self.read().await.with_context(|| format!("{} waits for {what}; it has seen {:#?}", self.jid, self.seen))?;
        }
    }

    async fn send(&mut self, stanza: Element) -> Result<()> {
        self.peer.say(&json!({ "send": stanza.write("") })).await
    }

    async fn say(&mut self, to: &str, body: &str) -> Result<()> {
        self.ids += 1;
        let id = format!("x{}", self.ids);
        self.send(chat(to, &id, body)).await
    }

    async fn wait_body(&mut self, body: &str) -> Result<Element> {
        self.wait(body, |e| e.name == "message" && e.child_text("body").as_deref() == Some(body)).await
    }

    async fn presence(&mut self, kind: &str, to: &str) -> Result<()> {
        self.send(Element::new("presence", ns::CLIENT).with("type", kind).with("to", to)).await
    }

    async fn iq(&mut self, kind: &str, payload: Element) -> Result<Element> {
        self.ids += 1;
        let id = format!("q{}", self.ids);
        self.send(Element::new("iq", ns::CLIENT).with("type", kind).with("id", &id).child(payload)).await?;
        let answer = self.wait(&id, |e| e.name == "iq" && e.attr("id") == Some(&id)).await?;
        ensure!(answer.attr("type") == Some("result"), "{answer:?}");
        Ok(answer)
    }

    async fn end(mut self) -> Result<()> {
        self.peer.say(&json!({ "end": true })).await?;
        while let Some(line) = self.peer.line().await? {
            if line == json!({ "ended": true }) {
                return self.peer.ended().await;
            }
        }
        bail!("no end")
    }
}

#[tokio::test]
async fn a_conversation() -> Result<()> {
    let server = Server::start(Config::default()).await?;
    let proxy = Proxy::start(server.ports().c2s).await?;
    for user in ["juliet", "romeo", "paris"] {
        server.add_user(user, PASSWORD).await?;
    }
    let direct = server.ports().c2s;
    let mut juliet = Driven::start(&server, proxy.address, "juliet@localhost/balcony").await?;
    let mut romeo = Driven::start(&server, direct, "romeo@localhost/orchard").await?;

    // Roster, subscription both ways, presence.
    let item = Element::new("item", ns::ROSTER).with("jid", "romeo@localhost").with("name", "Romeo");
    juliet.iq("set", Element::new("query", ns::ROSTER).child(item)).await?;
    for (asks, asked) in [(true, "romeo"), (false, "juliet")] {
        let (asking, answering) = if asks { (&mut juliet, &mut romeo) } else { (&mut romeo, &mut juliet) };
        let bare = asking.jid.split('/').next().unwrap_or_default().to_owned();
        asking.presence("subscribe", &format!("{asked}@localhost")).await?;
        answering.wait("a request", |e| e.attr("type") == Some("subscribe") && e.attr("from") == Some(&bare)).await?;
        answering.presence("subscribed", &bare).await?;
        let full = answering.jid.clone();
        asking.wait("presence", |e| e.name == "presence" && e.attr("from") == Some(&full) && e.attr("type").is_none()).await?;
    }
    let roster = juliet.iq("get", Element::new("query", ns::ROSTER)).await?;
    let items: Vec<_> = roster.get("query", ns::ROSTER).context("query")?.children().map(RosterItem::read).collect();
    assert_eq!((items[0].jid.as_str(), items[0].name.as_str(), items[0].subscription.as_str()), ("romeo@localhost", "Romeo", "both"));

    // Messages both ways.
    juliet.say("romeo@localhost", "Art thou not Romeo? <&>").await?;
    assert_eq!(romeo.wait_body("Art thou not Romeo? <&>").await?.attr("from"), Some("juliet@localhost/balcony"));
    romeo.say("juliet@localhost/balcony", "Neither, fair saint").await?;
    juliet.wait_body("Neither, fair saint").await?;

    // Offline.
    romeo.end().await?;
    juliet.wait("absence", |e| e.attr("type") == Some("unavailable") && e.attr("from") == Some("romeo@localhost/orchard")).await?;
    for n in 0..3 {
        juliet.say("romeo@localhost", &format!("offline {n}")).await?;
    }
    // Behind this answer all of them are taken.
    juliet.iq("get", Element::new("query", ns::ROSTER)).await?;
    let mut romeo = Driven::start(&server, direct, "romeo@localhost/orchard").await?;
    for n in 0..3 {
        let message = romeo.wait("an offline message", |e| e.name == "message").await?;
        assert_eq!(message.child_text("body"), Some(format!("offline {n}")));
    }

    // The archive.
    let set = Element::new("set", ns::RSM).child(Element::new("max", ns::RSM).text("20"));
    juliet.iq("set", Element::new("query", ns::MAM).with("queryid", "m").child(set)).await?;
    let mut bodies = Vec::new();
    while let Some(at) = juliet.seen.iter().position(|e| e.get("result", ns::MAM).is_some()) {
        let wrapper = juliet.seen.remove(at).context("seen")?;
        let row = ArchiveRow::read(wrapper.get("result", ns::MAM).context("result")?)?;
        bodies.push(row.message.child_text("body").unwrap_or_default());
    }
    assert_eq!(bodies, ["Art thou not Romeo? <&>", "Neither, fair saint", "offline 0", "offline 1", "offline 2"]);

    // Carbons.
    let mut chamber = Driven::start(&server, direct, "juliet@localhost/chamber").await?;
    chamber.iq("set", Element::new("enable", ns::CARBONS)).await?;
    romeo.say("juliet@localhost/balcony", "for the balcony").await?;
    juliet.wait_body("for the balcony").await?;
    let carbon = chamber.wait("a carbon", |e| e.get("received", ns::CARBONS).is_some()).await?;
    assert_eq!(carbon.attr("from"), Some("juliet@localhost"));
    juliet.say("romeo@localhost", "from the balcony").await?;
    chamber.wait("a carbon", |e| e.get("sent", ns::CARBONS).is_some()).await?;
    chamber.end().await?;

    // Blocking.
    let mut paris = Driven::start(&server, direct, "paris@localhost/hall").await?;
    let item = Element::new("item", ns::BLOCKING).with("jid", "paris@localhost");
    juliet.iq("set", Element::new("block", ns::BLOCKING).child(item.clone())).await?;
    paris.say("juliet@localhost", "unheard").await?;
    let error = paris.wait("an error", |e| e.name == "message" && e.attr("type") == Some("error")).await?;
    assert_eq!(error.error_condition().as_deref(), Some("service-unavailable"));
    juliet.iq("set", Element::new("unblock", ns::BLOCKING).child(item)).await?;
    paris.say("juliet@localhost", "heard").await?;
    juliet.wait_body("heard").await?;
    assert!(!juliet.seen.iter().any(|e| e.child_text("body").as_deref() == Some("unheard")));
    paris.end().await?;

    // Resumption after a cut connection: the client connects again by itself.
    romeo.seen.clear();
    ensure!(proxy.cut() == 1, "there was no connection to cut");
    for n in 0..3 {
        romeo.say("juliet@localhost", &format!("in the tunnel {n}")).await?;
    }
    assert!(juliet.wait_online().await?, "not resumed");
    for n in 0..3 {
        juliet.wait_body(&format!("in the tunnel {n}")).await?;
    }
    juliet.say("romeo@localhost", "out of the tunnel").await?;
    romeo.wait_body("out of the tunnel").await?;
    let left = |e: &Element| e.attr("type") == Some("unavailable") && e.attr("from") == Some("juliet@localhost/balcony");
    assert!(!romeo.seen.iter().any(left), "she was seen leaving: {:?}", romeo.seen);
    juliet.end().await?;
    romeo.end().await
}
