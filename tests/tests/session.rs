//! Sessions of our own strict client with the running server.
#![allow(clippy::disallowed_methods, reason = "a harness of real processes lives by the real clock")]

use anyhow::{Context as _, Result, ensure};
use chappe_tests::client::{Client, LoginRefused, Resumption, register};
use chappe_tests::sasl::Mechanism;
use chappe_tests::server::{Config, Kind, PASSWORD, Server};
use chappe_tests::xml::Element;

#[tokio::test]
async fn starttls_and_direct_tls() -> Result<()> {
    let server = Server::start(Config::default()).await?;
    server.add_user("juliet", PASSWORD).await?;
    for connector in [server.connector()?, server.direct_connector()?] {
        let mut juliet = Client::connect(&connector, "juliet", PASSWORD, "balcony").await?;
        assert_eq!(juliet.jid, "juliet@localhost/balcony");
        juliet.ping().await?;
        juliet.close().await?;
    }
    if server.kind() == Kind::Chappe {
        assert_eq!(server.direct_connector()?.secure().await?.alpn.as_deref(), Some("xmpp-client"), "XEP-0368 §2");
    }
    Ok(())
}

#[tokio::test]
async fn every_mechanism_logs_in_and_refuses() -> Result<()> {
    let server = Server::start(Config::default()).await?;
    server.add_user("juliet", PASSWORD).await?;
    let mechanisms: &[Mechanism] = match server.kind() {
        Kind::Chappe => &Mechanism::ALL,
        // Prosody 0.12 keeps the keys of one hash and has no tls-exporter.
        Kind::Prosody => &[Mechanism::ScramSha1, Mechanism::Plain],
    };
    for mechanism in mechanisms {
        let mut connector = server.connector()?;
        connector.mechanism = Some(*mechanism);
        Client::connect(&connector, "juliet", PASSWORD, "").await?.close().await?;
        for (user, password) in [("juliet", "wrong"), ("nobody", PASSWORD)] {
            let Err(refused) = connector.login(user, password).await else { panic!("{user} got in") };
            let refused: LoginRefused = refused.downcast()?;
            assert_eq!(refused.condition, "not-authorized", "{user} with {mechanism:?} (RFC 6120 §6.5.10)");
        }
    }
    Ok(())
}

#[tokio::test]
async fn in_band_registration() -> Result<()> {
    let server = Server::start(Config::default()).await?;
    assert_eq!(register(&server.connector()?, "juliet", PASSWORD).await?, None);
    assert_eq!(register(&server.connector()?, "juliet", "other").await?.as_deref(), Some("conflict"));
    server.client("juliet", "balcony").await?.close().await?;
    let closed = Server::start(Config { in_band_registration: false, ..Config::default() }).await?;
    assert_eq!(register(&closed.connector()?, "romeo", PASSWORD).await?.as_deref(), Some("not offered"));
    Ok(())
}

#[tokio::test]
async fn subscription_presence_and_messages() -> Result<()> {
    let server = Server::start(Config::default()).await?;
    let mut juliet = server.new_client("juliet", "balcony").await?;
    let mut romeo = server.new_client("romeo", "orchard").await?;
    for client in [&mut juliet, &mut romeo] {
        assert_eq!(client.roster().await?, []);
        client.available(0).await?;
    }
    juliet.roster_set("romeo@localhost", "Romeo", &["Lovers"]).await?;
    juliet.wait_push("romeo@localhost", "none", false).await?;
    juliet.presence("subscribe", Some("romeo@localhost")).await?;
    juliet.wait_push("romeo@localhost", "none", true).await?;
    romeo.wait_presence("juliet@localhost", "subscribe").await?;
    romeo.presence("subscribed", Some("juliet@localhost")).await?;
    romeo.wait_push("juliet@localhost", "from", false).await?;
    juliet.wait_push("romeo@localhost", "to", false).await?;
    juliet.wait_presence("romeo@localhost", "subscribed").await?;
    juliet.wait_presence("romeo@localhost/orchard", "").await?;
    romeo.presence("subscribe", Some("juliet@localhost")).await?;
    juliet.wait_presence("romeo@localhost", "subscribe").await?;
    juliet.presence("subscribed", Some("romeo@localhost")).await?;
    romeo.wait_push("juliet@localhost", "both", false).await?;
    romeo.wait_presence("juliet@localhost/balcony", "").await?;
    let roster = juliet.roster().await?;
    assert_eq!(
        (roster[0].subscription.as_str(), roster[0].name.as_str(), &roster[0].groups[..]),
        ("both", "Romeo", &["Lovers".to_owned()][..])
    );

    juliet.chat("romeo@localhost", "Art thou not Romeo?").await?;
    let message = romeo.wait_body("Art thou not Romeo?").await?;
    assert_eq!(message.attr("from"), Some("juliet@localhost/balcony"));
    romeo.chat(&juliet.jid, "Neither, fair saint").await?;
    juliet.wait_body("Neither, fair saint").await?;

    romeo.close().await?;
    juliet.wait_presence("romeo@localhost/orchard", "unavailable").await?;
    Ok(())
}

#[tokio::test]
async fn offline_messages_come_in_order_with_their_time() -> Result<()> {
    let server = Server::start(Config::default()).await?;
    server.add_user("romeo", PASSWORD).await?;
    let mut juliet = server.new_client("juliet", "balcony").await?;
    for n in 0..5 {
        juliet.chat("romeo@localhost", &format!("offline {n}")).await?;
    }
    juliet.ping().await?;
    let mut romeo = server.client("romeo", "orchard").await?;
    romeo.available(0).await?;
    for n in 0..5 {
        let message = romeo.wait("an offline message", |e| e.name == "message").await?;
        assert_eq!(message.child_text("body").as_deref(), Some(format!("offline {n}").as_str()));
        ensure!(message.get("delay", chappe_tests::ns::DELAY).is_some(), "no delay (XEP-0203) in {message:?}");
    }
    // Without XEP-0198 they count as delivered when the client has answered the ping that the server sends behind them.
    romeo.ping().await?;
    romeo.close().await?;
    // Delivered once only (XEP-0160).
    let mut again = server.client("romeo", "orchard").await?;
    again.available(0).await?;
    again.ping().await?;
    assert_eq!(again.take(|e| e.name == "message"), None);
    Ok(())
}

#[tokio::test]
async fn the_archive_pages_both_sides() -> Result<()> {
    let server = Server::start(Config::default()).await?;
    let mut juliet = server.new_client("juliet", "balcony").await?;
    let mut romeo = server.new_client("romeo", "orchard").await?;
    romeo.available(0).await?;
    for n in 0..12 {
        juliet.chat("romeo@localhost", &format!("line {n}")).await?;
        romeo.wait_body(&format!("line {n}")).await?;
    }
    for client in [&mut juliet, &mut romeo] {
        let page = client.archive_page(None, None, 5).await?;
        assert!(!page.complete && page.rows.len() == 5);
        let all = client.archive(None, None).await?;
        let bodies: Vec<_> = all.iter().filter_map(|r| r.message.child_text("body")).collect();
        assert_eq!(bodies, (0..12).map(|n| format!("line {n}")).collect::<Vec<_>>());
        let rest = client.archive(None, Some(&all[8].id)).await?;
        assert_eq!(rest.iter().map(|r| &r.id).collect::<Vec<_>>(), all[9..].iter().map(|r| &r.id).collect::<Vec<_>>());
    }
    assert_eq!(juliet.archive(Some("nobody@localhost"), None).await?.len(), 0);
    Ok(())
}

#[tokio::test]
async fn carbons_between_two_sessions() -> Result<()> {
    let server = Server::start(Config::default()).await?;
    let mut balcony = server.new_client("juliet", "balcony").await?;
    let mut chamber = server.client("juliet", "chamber").await?;
    let mut romeo = server.new_client("romeo", "orchard").await?;
    for client in [&mut balcony, &mut chamber, &mut romeo] {
        client.available(0).await?;
    }
    chamber.carbons(true).await?;
    romeo.chat("juliet@localhost/balcony", "to the balcony").await?;
    balcony.wait_body("to the balcony").await?;
    assert_eq!(chamber.wait_carbon("received", "to the balcony").await?.attr("to"), Some("juliet@localhost/balcony"));
    balcony.chat("romeo@localhost", "from the balcony").await?;
    romeo.wait_body("from the balcony").await?;
    assert_eq!(chamber.wait_carbon("sent", "from the balcony").await?.attr("from"), Some("juliet@localhost/balcony"));
    Ok(())
}

#[tokio::test]
async fn the_blocked_are_not_heard() -> Result<()> {
    let server = Server::start(Config::default()).await?;
    let mut juliet = server.new_client("juliet", "balcony").await?;
    let mut paris = server.new_client("paris", "hall").await?;
    juliet.available(0).await?;
    paris.available(0).await?;
    juliet.block("paris@localhost", true).await?;
    assert_eq!(juliet.blocklist().await?, ["paris@localhost"]);
    for to in ["juliet@localhost", "juliet@localhost/balcony"] {
        let id = paris.chat(to, "unheard").await?;
        if server.kind() == Kind::Prosody && to.contains('/') {
            paris.ping().await?;
            continue; // It drops what goes to a full JID; the XEP says SHOULD.
        }
        // XEP-0191 §3.3: an error <service-unavailable/> goes back.
        let error = paris.wait("an error", |e| e.attr("id") == Some(&id) && e.attr("type") == Some("error")).await?;
        assert_eq!(error.error_condition().as_deref(), Some("service-unavailable"), "to {to}");
    }
    juliet.block("paris@localhost", false).await?;
    paris.chat("juliet@localhost", "heard").await?;
    juliet.wait_body("heard").await?;
    assert_eq!(juliet.take(|e| e.child_text("body").as_deref() == Some("unheard")), None);
    Ok(())
}

#[tokio::test]
async fn a_cut_session_resumes() -> Result<()> {
    let server = Server::start(Config::default()).await?;
    server.add_user("juliet", PASSWORD).await?;
    let mut romeo = server.new_client("romeo", "orchard").await?;
    let mut juliet = Client::connect_sm(&server.connector()?, "juliet", PASSWORD, "balcony").await?;
    juliet.available(0).await?;
    romeo.available(0).await?;
    juliet.wait_acked().await?;
    juliet.cut();
    for n in 0..3 {
        romeo.chat("juliet@localhost", &format!("in the dark {n}")).await?;
    }
    romeo.ping().await?;
    juliet.chat("romeo@localhost", "said while cut").await.ok();
    let Resumption::Resumed { acked, resent } = juliet.resume().await? else { panic!("not resumed") };
    assert_eq!((acked.len(), resent.len()), (0, 1));
    for n in 0..3 {
        let message = juliet.wait("a message", |e| e.name == "message").await?;
        assert_eq!(message.child_text("body").as_deref(), Some(format!("in the dark {n}").as_str()));
    }
    romeo.wait_body("said while cut").await?;
    juliet.wait_acked().await?;
    assert_eq!(juliet.sm.sent(), juliet.sm.acked());
    Ok(())
}

#[tokio::test]
async fn an_unknown_session_is_not_resumed() -> Result<()> {
    let server = Server::start(Config::default()).await?;
    server.add_user("juliet", PASSWORD).await?;
    let mut juliet = Client::connect_sm(&server.connector()?, "juliet", PASSWORD, "balcony").await?;
    juliet.sm.previd = Some("no-such-session".into());
    let Resumption::Failed { h: None, .. } = juliet.resume().await? else { panic!("resumed") };
    // XEP-0198 §5: the stream is there to be bound.
    assert_eq!(juliet.jid, "juliet@localhost/balcony");
    juliet.ping().await
}

#[tokio::test]
async fn capabilities_in_the_stream_features() -> Result<()> {
    const DISCO_INFO: &str = "http://jabber.org/protocol/disco#info";
    let server = Server::start(Config::default()).await?;
    let mut juliet = server.new_client("juliet", "balcony").await?;
    let caps = juliet.features().get("c", "http://jabber.org/protocol/caps").context("no capabilities (XEP-0115 §6.3)")?;
    ensure!(caps.attr("hash") == Some("sha-1"), "{caps:?}");
    let [node, ver] = ["node", "ver"].map(|name| caps.attr(name).unwrap_or_default().to_owned());
    // §6.2: what the version stands for can be asked for by it, and is what the server says of itself.
    let named = Element::new("query", DISCO_INFO).with("node", format!("{node}#{ver}"));
    let named = juliet.iq_ok("get", Some("localhost"), named).await?;
    let own = juliet.iq_ok("get", Some("localhost"), Element::new("query", DISCO_INFO)).await?;
    let features = |result: &Element| -> Vec<String> {
        let query = result.get("query", DISCO_INFO);
        query.into_iter().flat_map(Element::children).filter_map(|c| c.attr("var")).map(str::to_owned).collect()
    };
    assert_eq!(features(&named), features(&own));
    // Prosody 0.12 does not say it.
    if server.kind() == Kind::Chappe {
        ensure!(features(&own).iter().any(|f| f == "http://jabber.org/protocol/caps"), "§7: {own:?}");
    }
    Ok(())
}
