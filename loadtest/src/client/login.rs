//! Who the client is: SASL as RFC 6120 has it, or SASL2 with Bind 2 and FAST.

use super::transport::{Mechanism, Profile, Target};
use super::{Account, BIND, Connection};
use crate::element::{Element, escape};
use crate::scram::{Exchange, Hash, hmac_sha_256};
use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use std::sync::PoisonError;

const SASL: &str = "urn:ietf:params:xml:ns:xmpp-sasl";
const SASL2: &str = "urn:xmpp:sasl:2";
const BIND2: &str = "urn:xmpp:bind:0";
const FAST: &str = "urn:xmpp:fast:0";
/// The mechanism of tokens that needs no channel binding.
const TOKEN: &str = "HT-SHA-256-NONE";

/// Connects and logs in.
///
/// # Errors
/// Those of each step.
pub async fn login(target: &Target, account: &Account, resource: &str) -> Result<Connection> {
    let mut connection = Connection::open_from(target, Some(account)).await?;
    connection.enter(target, account, Some(resource)).await.with_context(|| account.username.clone())?;
    Ok(connection)
}

impl Connection {
    /// Connects and authenticates, and binds nothing: for a session that is to be resumed.
    ///
    /// # Errors
    /// Those of each step.
    pub async fn authenticated(target: &Target, account: &Account) -> Result<Connection> {
        let mut connection = Connection::open_from(target, Some(account)).await?;
        connection.enter(target, account, None).await.with_context(|| account.username.clone())?;
        Ok(connection)
    }

    pub(super) async fn enter(&mut self, target: &Target, account: &Account, resource: Option<&str>) -> Result<()> {
        if target.options.profile == Profile::Sasl {
            self.authenticate(account, target.options.mechanism).await?;
            return if let Some(resource) = resource { self.bind(resource).await } else { Ok(()) };
        }
        self.authenticate2(account, target, resource).await
    }

    /// The mechanism to use: the one that is wished for, or the best that is offered, PLAIN only where nobody listens.
    fn mechanism(&self, offered: &Element, wished: Option<Mechanism>) -> Result<Mechanism> {
        let names: Vec<_> = offered.children.iter().filter(|m| m.name == "mechanism").map(|m| m.text.trim()).collect();
        if let Some(wished) = wished {
            ensure!(names.contains(&wished.name()), "the server offers no {}, but {}", wished.name(), names.join(", "));
            return Ok(wished);
        }
        let usable = |m: &Mechanism| names.contains(&m.name()) && (*m != Mechanism::Plain || self.io.is_secure());
        let found = Mechanism::ALL.into_iter().find(usable);
        found.with_context(|| format!("the server offers no mechanism that can be used here, but {}", names.join(", ")))
    }

    /// Proves who the client is (RFC 6120 §6). Then a new stream.
    ///
    /// # Errors
    /// No mechanism that is known, or a refusal.
    pub async fn authenticate(&mut self, account: &Account, wished: Option<Mechanism>) -> Result<()> {
        let offered = self.features.child("mechanisms", SASL).context("the server offers no SASL mechanisms here")?;
        let mechanism = self.mechanism(offered, wished)?;
        let name = mechanism.name();
        let auth = |initial: &str| format!("<auth xmlns='{SASL}' mechanism='{name}'>{}</auth>", BASE64.encode(initial));
        let hash = match mechanism {
            Mechanism::Plain => {
                self.send(&auth(&plain(account))).await?;
                self.sasl("success", SASL).await?;
                return self.start_stream(None).await;
            }
            Mechanism::ScramSha1 => Hash::Sha1,
            Mechanism::ScramSha256 => Hash::Sha256,
        };
        let mut exchange = Exchange::new(hash, &account.username)?;
        self.send(&auth(&exchange.first())).await?;
        let challenge = decoded(&self.sasl("challenge", SASL).await?.text)?;
        let last = proof(&mut exchange, &challenge, account)?;
        self.send(&format!("<response xmlns='{SASL}'>{}</response>", BASE64.encode(last))).await?;
        let success = self.sasl("success", SASL).await?;
        exchange.verify(&decoded(&success.text)?)?;
        self.start_stream(None).await
    }

    /// The answer of this name; a refusal by its condition.
    async fn sasl(&mut self, wanted: &str, ns: &str) -> Result<Element> {
        let answer = self.next().await?;
        if answer.name == "failure" && answer.ns == ns {
            let words: Vec<_> =
                answer.children.iter().map(|c| if c.name == "text" { &c.text } else { &c.name }).map(String::as_str).collect();
            bail!("the login was refused: {}", words.join(": "));
        }
        ensure!(answer.name == wanted && answer.ns == ns, "{wanted} is due: {answer:?}");
        Ok(answer)
    }

    /// XEP-0388, with the resource in the same request (XEP-0386), and with a token in place of the password if there is one.
    async fn authenticate2(&mut self, account: &Account, target: &Target, resource: Option<&str>) -> Result<()> {
        let offered = self.features.child("authentication", SASL2).context("the server offers no SASL2 (XEP-0388) here")?;
        let inline = offered.child("inline", SASL2);
        let inside = |name: &str, ns: &str| inline.and_then(|i| i.child(name, ns));
        let binds = resource.is_some() && inside("bind", BIND2).is_some();
        ensure!(binds || resource.is_none(), "the server offers no Bind 2 (XEP-0386)");
        let fast = target.options.profile == Profile::Fast;
        let tokens = inside("fast", FAST).is_some_and(|f| f.children.iter().any(|m| m.text.trim() == TOKEN));
        ensure!(tokens || !fast, "the server offers no FAST (XEP-0484) with {TOKEN}");
        let mechanism = self.mechanism(offered, target.options.mechanism)?;
        // Some servers give no token without the client's name for itself; it must stay the same from login to login.
        let agent = user_agent(&account.username);
        let bind = resource.filter(|_| binds).map(|tag| format!("<bind xmlns='{BIND2}'><tag>{}</tag></bind>", escape(tag)));
        let rest = agent + &bind.unwrap_or_default();
        let token = account.token.lock().unwrap_or_else(PoisonError::into_inner).clone().filter(|_| fast);
        let success = match token {
            Some(token) => self.by_token(account, &token, &rest).await?,
            None => {
                let wish = if fast { format!("<request-token xmlns='{FAST}' mechanism='{TOKEN}'/>") } else { String::new() };
                self.by_password(account, mechanism, &(rest + &wish)).await?
            }
        };
        if let Some(token) = success.child("token", FAST).and_then(|t| t.attr("token")) {
            *account.token.lock().unwrap_or_else(PoisonError::into_inner) = Some(token.to_owned());
        }
        if binds {
            ensure!(success.child("bound", BIND2).is_some(), "no resource is bound");
            let jid = success.children.iter().find(|c| matches!(c.name.as_str(), "authorization-identifier" | "authorization-identity"));
            self.jid = jid.context("<success/> names nobody")?.text.trim().to_owned();
        }
        // No new stream, but new features (XEP-0388 §2.6).
        self.next_features().await
    }

    async fn by_password(&mut self, account: &Account, mechanism: Mechanism, rest: &str) -> Result<Element> {
        let hash = match mechanism {
            Mechanism::Plain => {
                self.send(&request(mechanism.name(), plain(account).as_bytes(), rest)).await?;
                return self.sasl("success", SASL2).await;
            }
            Mechanism::ScramSha1 => Hash::Sha1,
            Mechanism::ScramSha256 => Hash::Sha256,
        };
        let mut exchange = Exchange::new(hash, &account.username)?;
        self.send(&request(mechanism.name(), exchange.first().as_bytes(), rest)).await?;
        let challenge = decoded(&self.sasl("challenge", SASL2).await?.text)?;
        let last = proof(&mut exchange, &challenge, account)?;
        self.send(&format!("<response xmlns='{SASL2}'>{}</response>", BASE64.encode(last))).await?;
        let success = self.sasl("success", SASL2).await?;
        exchange.verify(&decoded(&additional(&success)?)?)?;
        Ok(success)
    }

    /// HT-SHA-256-NONE: one request, and a success in which the server proves that it knows the token too.
    async fn by_token(&mut self, account: &Account, token: &str, rest: &str) -> Result<Element> {
        let mut initial = account.username.clone().into_bytes();
        initial.push(0);
        initial.extend(hmac_sha_256(token.as_bytes(), b"Initiator"));
        self.send(&request(TOKEN, &initial, &format!("{rest}<fast xmlns='{FAST}'/>"))).await?;
        let answer = self.sasl("success", SASL2).await;
        // A token that was refused is of no more use (XEP-0484 §4).
        let success = answer.inspect_err(|_| *account.token.lock().unwrap_or_else(PoisonError::into_inner) = None)?;
        let proof = BASE64.decode(additional(&success)?)?;
        ensure!(proof == hmac_sha_256(token.as_bytes(), b"Responder"), "the server does not know the token");
        Ok(success)
    }

    /// Binds a resource (RFC 6120 §7).
    ///
    /// # Errors
    /// A refusal.
    pub async fn bind(&mut self, resource: &str) -> Result<()> {
        let resource = escape(resource);
        let answer = self.ask("set", "bind", &format!("<bind xmlns='{BIND}'><resource>{resource}</resource></bind>")).await?;
        let jid = answer.child("bind", BIND).and_then(|b| b.child("jid", BIND)).context("no JID is bound")?;
        self.jid.clone_from(&jid.text);
        Ok(())
    }
}

fn plain(account: &Account) -> String {
    format!("\0{}\0{}", account.username, account.password)
}

fn proof(exchange: &mut Exchange, challenge: &str, account: &Account) -> Result<String> {
    let mut keys = account.keys.lock().unwrap_or_else(PoisonError::into_inner);
    exchange.last(challenge, &account.password, &mut keys)
}

fn request(mechanism: &str, initial: &[u8], rest: &str) -> String {
    let initial = BASE64.encode(initial);
    format!("<authenticate xmlns='{SASL2}' mechanism='{mechanism}'><initial-response>{initial}</initial-response>{rest}</authenticate>")
}

/// XEP-0388 §2.4 wants a UUID of version 4 that an installation keeps.
fn user_agent(username: &str) -> String {
    let hash = hmac_sha_256(b"loadtest", username.as_bytes());
    let hex: String = hash.iter().take(16).map(|b| format!("{b:02x}")).collect();
    let id = format!("{}-{}-4{}-8{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..32]);
    format!("<user-agent id='{id}'><software>loadtest</software></user-agent>")
}

fn additional(success: &Element) -> Result<String> {
    let data = success.child("additional-data", SASL2).context("<success/> without additional data")?;
    Ok(data.text.trim().to_owned())
}

fn decoded(text: &str) -> Result<String> {
    Ok(String::from_utf8(BASE64.decode(text.trim())?)?)
}
