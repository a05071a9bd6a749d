//! A client on tokio-xmpp, driven by lines of JSON: `{"send": "<stanza/>"}` and `{"end": true}` in, what it saw out.
//!
//! The argument is JSON with `jid`, `password` and `address`. It trusts what `SSL_CERT_FILE` names.
#![allow(clippy::disallowed_methods, reason = "a client of its own, on the real clock")]

use std::str::FromStr;

use anyhow::{Context, Result, bail};
use futures::StreamExt as _;
use serde_json::{Value, json};
use tokio_xmpp::connect::{DnsConfig, StartTlsServerConnector};
use tokio_xmpp::jid::Jid;
use tokio_xmpp::minidom::Element;
use tokio_xmpp::xmlstream::Timeouts;
use tokio_xmpp::{Client, Event, Stanza};

fn tell(line: &Value) {
    println!("{line}");
}

fn xml(stanza: Stanza) -> String {
    let element: Element = match stanza {
        Stanza::Iq(iq) => iq.into(),
        Stanza::Message(message) => message.into(),
        Stanza::Presence(presence) => presence.into(),
    };
    String::from(&element)
}

fn stanza(xml: &str) -> Result<Stanza> {
    let element = Element::from_str(xml)?;
    Ok(match element.name() {
        "iq" => Stanza::Iq(element.try_into()?),
        "message" => Stanza::Message(element.try_into()?),
        "presence" => Stanza::Presence(element.try_into()?),
        other => bail!("<{other}/> is no stanza"),
    })
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    // Refused only if it is there already.
    let _ = tokio_xmpp::rustls::crypto::aws_lc_rs::default_provider().install_default();
    let args: Value = serde_json::from_str(&std::env::args().nth(1).context("no arguments")?)?;
    let arg = |name: &str| args[name].as_str().with_context(|| format!("no {name}"));
    let connector = StartTlsServerConnector(DnsConfig::Addr { addr: arg("address")?.to_owned() });
    let mut client = Client::new_with_connector(Jid::new(arg("jid")?)?, arg("password")?, connector, Timeouts::tight());
    let (commands, mut taken) = tokio::sync::mpsc::channel(16);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if commands.blocking_send(line).is_err() {
                break;
            }
        }
    });
    loop {
        tokio::select! {
            event = client.next() => match event {
                Some(Event::Online { bound_jid, resumed, .. }) => tell(&json!({ "online": bound_jid.to_string(), "resumed": resumed })),
                Some(Event::Stanza(stanza)) => tell(&json!({ "stanza": xml(stanza) })),
                Some(Event::Disconnected(error)) => tell(&json!({ "disconnected": error.to_string() })),
                None => bail!("the client is at its end"),
            },
            line = taken.recv() => {
                let Some(line) = line else { return Ok(()) };
                let command: Value = serde_json::from_str(&line)?;
                match command["send"].as_str() {
                    Some(text) => {
                        client.send_stanza(stanza(text)?).await?;
                    }
                    None => {
                        client.send_end().await?;
                        tell(&json!({ "ended": true }));
                        return Ok(());
                    }
                }
            }
        }
    }
}
