//! A script, played on a back end.

use std::collections::VecDeque;
use std::fmt::Write as _;

use anyhow::{Context, Result, bail, ensure};

use super::parse::{Action, Script, Step};
use super::pattern::{Vars, compare, filled};
use super::{Backend, Came, Level};
use crate::ns;
use crate::xml::Element;

/// What a client knows of itself.
#[derive(Default)]
struct Client {
    open: bool,
    /// Features that the script need not look at.
    features: Option<Element>,
    /// Read ahead, to see whether it is there.
    ahead: VecDeque<Came>,
    /// Stanzas handled since `<enabled/>` (XEP-0198 §3); a stanza counts when the script has received it.
    handled: Option<u32>,
    previd: Option<String>,
    resuming: bool,
}

struct Player<'a, B> {
    script: &'a Script,
    backend: &'a mut B,
    clients: Vec<Client>,
    vars: Vars,
}

/// Plays a script to its end, at which nobody may have anything left that was not received.
///
/// # Errors
/// The line at which it went wrong, what was expected and what came.
pub async fn play(script: &Script, backend: &mut impl Backend) -> Result<()> {
    let clients = script.people.iter().map(|_| Client::default()).collect();
    let mut player = Player { script, backend, clients, vars: Vars::new() };
    for step in &script.steps {
        player.step(step).await.with_context(|| format!("{}: {}", step.place, step.text))?;
    }
    player.backend.settle().await?;
    for who in 0..player.clients.len() {
        player.nothing(who).await.with_context(|| format!("{}: at the end, {} has more", script.name, script.people[who].name))?;
    }
    Ok(())
}

/// Plays a script and says what comes beyond what it expects, as lines of a script, to be judged and taken over by its author.
///
/// # Errors
/// As [`play`].
pub async fn record(script: &Script, backend: &mut impl Backend) -> Result<String> {
    let clients = script.people.iter().map(|_| Client::default()).collect();
    let mut player = Player { script, backend, clients, vars: Vars::new() };
    let mut out = String::new();
    for step in &script.steps {
        if !matches!(step.action, Action::Receive(..) | Action::Disconnected(_) | Action::Cut) {
            player.record_all(&mut out).await?;
        }
        let _ = writeln!(out, "{}\n", step.text);
        player.step(step).await.with_context(|| format!("{out}{}: {}", step.place, step.text))?;
    }
    player.record_all(&mut out).await?;
    Ok(out)
}

/// An element over many lines, as scripts have it.
fn pretty(element: &Element, around: &str, depth: usize, out: &mut String) {
    let tabs = "\t".repeat(depth);
    if element.children().next().is_none() || !element.own_text().trim().is_empty() {
        let _ = writeln!(out, "{tabs}{}", element.write(around));
        return;
    }
    let bare = Element { nodes: Vec::new(), ..element.clone() };
    let _ = writeln!(out, "{tabs}{}", bare.write(around).replace("/>", ">"));
    element.children().for_each(|c| pretty(c, &element.ns, depth + 1, out));
    let _ = writeln!(out, "{tabs}</{}>", element.name);
}

impl<B: Backend> Player<'_, B> {
    async fn record_all(&mut self, out: &mut String) -> Result<()> {
        self.backend.settle().await?;
        for who in 0..self.clients.len() {
            self.record(who, out).await?;
        }
        Ok(())
    }

    async fn record(&mut self, who: usize, out: &mut String) -> Result<()> {
        let name = &self.script.people[who].name;
        let mut first = true;
        while let Some(came) = self.next(who, false).await? {
            match came {
                Came::Element(element) => {
                    if std::mem::take(&mut first) {
                        let _ = writeln!(out, "{name} receives:");
                    }
                    pretty(&element, ns::CLIENT, 1, out);
                    self.count(who, &element);
                }
                Came::End(condition) => {
                    let with = condition.map(|c| format!(" with {c}")).unwrap_or_default();
                    let _ = writeln!(out, "{}{name} is disconnected{with}", if first { "" } else { "\n" });
                    first = false;
                    self.backend.cut(who).await?;
                    self.gone(who);
                }
            }
        }
        if !first {
            out.push('\n');
        }
        Ok(())
    }

    async fn step(&mut self, step: &Step) -> Result<()> {
        let who = step.who;
        match &step.action {
            Action::Open => self.open(who, Level::Secured).await?,
            Action::LogIn => self.open(who, Level::LoggedIn).await?,
            Action::Connect => {
                self.open(who, Level::LoggedIn).await?;
                self.bind(who).await?;
            }
            Action::RestartStream => {
                let features = self.backend.restart_stream(who).await?;
                self.clients[who].features = Some(features);
            }
            Action::Send(xml) => {
                ensure!(self.clients[who].open, "not connected");
                let xml = filled(xml, &self.vars)?;
                self.backend.send(who, &xml).await?;
                self.backend.settle().await?;
            }
            Action::Receive(patterns, true) => {
                for pattern in patterns {
                    self.receive(who, pattern).await?;
                }
            }
            Action::Receive(patterns, false) => self.receive_all(who, patterns).await?,
            Action::ReceiveNothing => {
                self.backend.settle().await?;
                self.nothing(who).await?;
            }
            Action::Disconnect => self.disconnect(who).await?,
            Action::Cut => {
                ensure!(self.clients[who].open, "not connected");
                self.backend.cut(who).await?;
                self.gone(who);
                self.backend.settle().await?;
            }
            Action::Resume => {
                let previd = self.clients[who].previd.clone().context("there is no session to resume: <enabled/> was not received")?;
                let h = self.clients[who].handled.unwrap_or(0);
                self.open(who, Level::LoggedIn).await?;
                self.clients[who].resuming = true;
                self.backend.send(who, &format!("<resume xmlns='{}' previd='{previd}' h='{h}'/>", ns::SM)).await?;
                self.backend.settle().await?;
            }
            Action::Disconnected(condition) => self.disconnected(who, condition.as_deref()).await?,
            Action::Pass(time) => self.backend.pass(*time).await?,
            Action::Restart(kill) => {
                if *kill {
                    (0..self.clients.len()).for_each(|who| self.gone(who));
                }
                self.backend.restart(*kill).await?;
            }
        }
        Ok(())
    }

    fn gone(&mut self, who: usize) {
        let client = &mut self.clients[who];
        client.open = false;
        client.features = None;
        client.ahead.clear();
    }

    async fn open(&mut self, who: usize, level: Level) -> Result<()> {
        ensure!(!self.clients[who].open, "connected already");
        let features = self.backend.open(who, &self.script.people[who], level).await?;
        let client = &mut self.clients[who];
        client.open = true;
        client.features = Some(features);
        client.ahead.clear();
        Ok(())
    }

    /// RFC 6120 §7
    async fn bind(&mut self, who: usize) -> Result<()> {
        let person = &self.script.people[who];
        let resource = match person.resource.as_str() {
            "" => String::new(),
            r => format!("<resource>{}</resource>", crate::xml::escape(r)),
        };
        let client = &mut self.clients[who];
        (client.handled, client.previd, client.features) = (None, None, None);
        self.backend.send(who, &format!("<iq type='set' id='bind'><bind xmlns='{}'>{resource}</bind></iq>", ns::BIND)).await?;
        let Some(Came::Element(answer)) = self.next(who, true).await? else { bail!("no answer to bind") };
        let jid = answer.get("bind", ns::BIND).and_then(|b| b.child_text("jid")).with_context(|| format!("bind: {}", show(&answer)))?;
        let own = format!("{}@localhost/{}", person.user, person.resource);
        ensure!(jid == own || (person.resource.is_empty() && jid.starts_with(&own)), "bound {jid} and not {own}");
        Ok(())
    }

    /// What comes next, `<r/>` aside: it is answered with what the script has received (XEP-0198 §4).
    async fn next(&mut self, who: usize, patient: bool) -> Result<Option<Came>> {
        if let Some(came) = self.clients[who].ahead.pop_front() {
            return Ok(Some(came));
        }
        if !self.clients[who].open {
            return Ok(None);
        }
        loop {
            let came = self.backend.next(who, patient).await?;
            match &came {
                Some(Came::Element(e)) if e.is("r", ns::SM) => {
                    let h =
                        self.clients[who].handled.with_context(|| format!("{}: <r/> before <enabled/>", self.script.people[who].name))?;
                    // The server may have gone since; what it said before is still read.
                    let _ = self.backend.send(who, &format!("<a xmlns='{}' h='{h}'/>", ns::SM)).await;
                }
                Some(Came::End(_)) => {
                    self.clients[who].open = false;
                    return Ok(came);
                }
                _ => return Ok(came),
            }
        }
    }

    async fn next_element(&mut self, who: usize, wanted: &str) -> Result<Element> {
        match self.next(who, true).await? {
            Some(Came::Element(element)) => Ok(element),
            Some(Came::End(condition)) => {
                bail!("expected\n{wanted}came: the end of the stream{}", condition.map(|c| format!(", with {c}")).unwrap_or_default())
            }
            None => bail!("expected\n{wanted}came: nothing"),
        }
    }

    async fn receive(&mut self, who: usize, pattern: &Element) -> Result<()> {
        let features = self.clients[who].features.take();
        let came = match features {
            Some(features) if pattern.is("features", ns::STREAM) => features,
            _ => self.next_element(who, &show(pattern)).await?,
        };
        compare(pattern, &came, &mut self.vars).map_err(|why| anyhow::anyhow!("expected\n{}came\n{}{why}", show(pattern), show(&came)))?;
        self.count(who, &came);
        Ok(())
    }

    async fn receive_all(&mut self, who: usize, patterns: &[Element]) -> Result<()> {
        self.clients[who].features = None;
        let mut left: Vec<&Element> = patterns.iter().collect();
        while !left.is_empty() {
            let wanted: String = left.iter().map(|p| show(p)).collect();
            let came = self.next_element(who, &wanted).await?;
            let fits = |p: &&Element| compare(p, &came, &mut self.vars.clone()).is_ok();
            let Some(i) = left.iter().position(fits) else { bail!("expected one of\n{wanted}came\n{}", show(&came)) };
            let _ = compare(left.remove(i), &came, &mut self.vars);
            self.count(who, &came);
        }
        Ok(())
    }

    fn count(&mut self, who: usize, came: &Element) {
        let client = &mut self.clients[who];
        match (came.ns.as_str(), came.name.as_str()) {
            (ns::CLIENT, _) => client.handled = client.handled.map(|h| h.wrapping_add(1)),
            (ns::SM, "enabled") => (client.handled, client.previd) = (Some(0), came.attr("id").map(str::to_owned)),
            (ns::SM, "resumed") => client.handled = client.handled.or(Some(0)),
            (ns::SM, "failed") if std::mem::take(&mut client.resuming) => (client.handled, client.previd) = (None, None),
            _ => {}
        }
    }

    async fn nothing(&mut self, who: usize) -> Result<()> {
        let mut more = String::new();
        while let Some(came) = self.next(who, false).await? {
            match came {
                Came::Element(e) => more.push_str(&show(&e)),
                Came::End(condition) => {
                    let _ = writeln!(more, "    the end of the stream{}", condition.map(|c| format!(", with {c}")).unwrap_or_default());
                    break;
                }
            }
        }
        ensure!(more.is_empty(), "expected nothing, came\n{more}");
        Ok(())
    }

    /// RFC 6120 §4.4: the server answers with its own end tag.
    async fn disconnect(&mut self, who: usize) -> Result<()> {
        ensure!(self.clients[who].open, "not connected");
        self.backend.settle().await?;
        self.nothing(who).await?;
        self.backend.send(who, "</stream:stream>").await?;
        match self.next(who, true).await? {
            Some(Came::End(None)) => {}
            other => bail!("expected </stream:stream>, came {other:?}"),
        }
        self.backend.cut(who).await?;
        self.gone(who);
        self.backend.settle().await
    }

    async fn disconnected(&mut self, who: usize, condition: Option<&str>) -> Result<()> {
        match self.next(who, true).await? {
            Some(Came::End(c)) if c.as_deref() == condition => {}
            Some(Came::End(c)) => bail!("the stream ended with {}", c.as_deref().unwrap_or("no error")),
            Some(Came::Element(e)) => bail!("expected the end of the stream, came\n{}", show(&e)),
            None => bail!("the stream goes on, and nothing came"),
        }
        self.backend.cut(who).await?;
        self.gone(who);
        self.backend.settle().await
    }
}

fn show(element: &Element) -> String {
    format!("    {}\n", element.write(ns::CLIENT))
}
