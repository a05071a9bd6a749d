//! What clients ask servers: requests, rosters, archives, carbons, blocking, registration.

use anyhow::{Context, Result, ensure};

use super::connect::{Connector, Secured};
use super::{Client, Stream};
use crate::ns;
use crate::xml::Element;

/// An item of a roster (RFC 6121 §2.1.2).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RosterItem {
    /// The contact.
    pub jid: String,
    /// `none`, `to`, `from`, `both` or, in a push, `remove`.
    pub subscription: String,
    /// Whether a request to the contact is open.
    pub ask: bool,
    /// The name.
    pub name: String,
    /// The groups, sorted.
    pub groups: Vec<String>,
}

impl RosterItem {
    /// Reads an `<item/>`.
    pub fn read(item: &Element) -> RosterItem {
        let mut groups: Vec<String> = item.children().filter(|c| c.name == "group").map(Element::own_text).collect();
        groups.sort();
        let attr = |name| item.attr(name).unwrap_or_default().to_owned();
        let subscription = item.attr("subscription").unwrap_or("none").to_owned();
        RosterItem { jid: attr("jid"), subscription, ask: item.attr("ask") == Some("subscribe"), name: attr("name"), groups }
    }
}

/// A message of an archive (XEP-0313 §4.2).
#[derive(Clone, Debug)]
pub struct ArchiveRow {
    /// The archive's id of it.
    pub id: String,
    /// When it was archived, as the server writes it.
    pub stamp: String,
    /// The message.
    pub message: Element,
}

/// A page of an archive.
#[derive(Clone, Debug)]
pub struct ArchivePage {
    /// Its rows, oldest first.
    pub rows: Vec<ArchiveRow>,
    /// Whether nothing is behind it in the direction of paging.
    pub complete: bool,
    /// The id of its last row, from the server's result set.
    pub last: Option<String>,
    /// The id of its first row, from the server's result set.
    pub first: Option<String>,
}

/// A field of a data form.
fn field(name: &str, value: &str) -> Element {
    Element::new("field", ns::DATA).with("var", name).child(Element::new("value", ns::DATA).text(value))
}

impl Client {
    /// Sends a request and waits for its answer, be it a result or an error (RFC 6120 §8.2.3).
    pub async fn iq(&mut self, kind: &str, to: Option<&str>, payload: Element) -> Result<Element> {
        let id = self.fresh_id();
        let mut iq = Element::new("iq", ns::CLIENT).with("type", kind).with("id", &id);
        if let Some(to) = to {
            iq = iq.with("to", to);
        }
        let what = format!("the answer to <iq/> {}", payload.ns);
        self.send(iq.child(payload)).await?;
        let own = [self.bare().to_owned(), self.jid.clone(), self.connector().domain.clone()];
        let from_asked = |from: Option<&str>| match (to, from) {
            (Some(to), Some(from)) => from == to,
            // RFC 6120 §8.1.2.1: what the account itself answers may come without a `from`.
            (Some(to), None) => own.iter().any(|o| o == to),
            (None, None) => true,
            (None, Some(from)) => own.iter().any(|o| o == from),
        };
        self.wait(&what, |e| {
            e.name == "iq" && e.attr("id") == Some(&id) && matches!(e.attr("type"), Some("result" | "error")) && from_asked(e.attr("from"))
        })
        .await
    }

    /// The same, where only a result will do.
    pub async fn iq_ok(&mut self, kind: &str, to: Option<&str>, payload: Element) -> Result<Element> {
        let answer = self.iq(kind, to, payload).await?;
        ensure!(answer.attr("type") == Some("result"), "refused: {}", answer.write(ns::CLIENT));
        Ok(answer)
    }

    /// A ping to the server and back: what was sent to this session before is here then.
    pub async fn ping(&mut self) -> Result<()> {
        let domain = self.connector().domain.clone();
        self.iq_ok("get", Some(&domain), Element::new("ping", ns::PING)).await.map(|_| ())
    }

    /// Says `<presence/>`, and waits until the server has sent it back (RFC 6121 §4.2.2), so that the session is available.
    pub async fn available(&mut self, priority: i8) -> Result<()> {
        let mut presence = Element::new("presence", ns::CLIENT);
        if priority != 0 {
            presence = presence.child(Element::new("priority", ns::CLIENT).text(priority.to_string()));
        }
        self.send(presence).await?;
        let jid = self.jid.clone();
        self.wait("own presence", |e| e.name == "presence" && e.attr("from") == Some(&jid) && e.attr("type").is_none()).await?;
        Ok(())
    }

    /// Says what presence asks: `subscribe`, `subscribed`, `unsubscribe`, `unsubscribed`, `unavailable`.
    pub async fn presence(&mut self, kind: &str, to: Option<&str>) -> Result<()> {
        let mut presence = Element::new("presence", ns::CLIENT).with("type", kind);
        if let Some(to) = to {
            presence = presence.with("to", to);
        }
        self.send(presence).await
    }

    /// A chat message with a body, an id and an origin-id; gives the id.
    pub async fn chat(&mut self, to: &str, body: &str) -> Result<String> {
        let id = format!("{}-{:016x}", self.fresh_id(), crate::random());
        self.send(chat(to, &id, body)).await?;
        Ok(id)
    }

    /// Waits for a message with this body, from whoever.
    pub async fn wait_body(&mut self, body: &str) -> Result<Element> {
        self.wait(&format!("a message {body:?}"), |e| e.name == "message" && e.child_text("body").as_deref() == Some(body)).await
    }

    /// The roster (RFC 6121 §2.1.3), sorted.
    pub async fn roster(&mut self) -> Result<Vec<RosterItem>> {
        let answer = self.iq_ok("get", None, Element::new("query", ns::ROSTER)).await?;
        let query = answer.get("query", ns::ROSTER).context("a roster without <query/>")?;
        let mut items: Vec<_> = query.children().map(RosterItem::read).collect();
        items.sort();
        Ok(items)
    }

    /// Sets a roster item (RFC 6121 §2.3).
    pub async fn roster_set(&mut self, jid: &str, name: &str, groups: &[&str]) -> Result<()> {
        let mut item = Element::new("item", ns::ROSTER).with("jid", jid).with("name", name);
        for group in groups {
            item = item.child(Element::new("group", ns::ROSTER).text(*group));
        }
        self.iq_ok("set", None, Element::new("query", ns::ROSTER).child(item)).await.map(|_| ())
    }

    /// Removes a roster item (RFC 6121 §2.5).
    pub async fn roster_remove(&mut self, jid: &str) -> Result<()> {
        let item = Element::new("item", ns::ROSTER).with("jid", jid).with("subscription", "remove");
        self.iq_ok("set", None, Element::new("query", ns::ROSTER).child(item)).await.map(|_| ())
    }

    /// Waits for a roster push about a contact whose subscription and open request are these.
    pub async fn wait_push(&mut self, jid: &str, subscription: &str, ask: bool) -> Result<RosterItem> {
        let find = |e: &Element| {
            let item = e.get("query", ns::ROSTER)?.children().next().map(RosterItem::read)?;
            (e.attr("type") == Some("set") && item.jid == jid && item.subscription == subscription && item.ask == ask).then_some(item)
        };
        let push = self.wait(&format!("a roster push: {jid} {subscription} ask={ask}"), |e| find(e).is_some()).await?;
        find(&push).context("the push changed")
    }

    /// Waits for presence of a type from a JID; an empty type is availability.
    pub async fn wait_presence(&mut self, from: &str, kind: &str) -> Result<Element> {
        let bare = !from.contains('/');
        self.wait(&format!("presence {kind:?} from {from}"), |e| {
            let sender = e.attr("from").unwrap_or_default();
            let sender = if bare { sender.split('/').next().unwrap_or_default() } else { sender };
            e.name == "presence" && sender == from && e.attr("type").unwrap_or_default() == kind
        })
        .await
    }

    /// Enables carbons (XEP-0280 §4).
    pub async fn carbons(&mut self, on: bool) -> Result<()> {
        let name = if on { "enable" } else { "disable" };
        self.iq_ok("set", None, Element::new(name, ns::CARBONS)).await.map(|_| ())
    }

    /// Waits for a carbon, `sent` or `received`, of a message with this body; gives the message in it.
    pub async fn wait_carbon(&mut self, direction: &str, body: &str) -> Result<Element> {
        let find = |e: &Element| {
            let inner = e.get(direction, ns::CARBONS)?.get("forwarded", ns::FORWARD)?.get("message", ns::CLIENT)?;
            (inner.child_text("body").as_deref() == Some(body)).then(|| inner.clone())
        };
        let carbon = self.wait(&format!("a carbon ({direction}) of {body:?}"), |e| find(e).is_some()).await?;
        // XEP-0280 §11: a carbon from anybody but one's own account is a forgery.
        ensure!(carbon.attr("from") == Some(self.bare()), "a carbon from {:?}", carbon.attr("from"));
        find(&carbon).context("the carbon changed")
    }

    /// Blocks or unblocks (XEP-0191 §3).
    pub async fn block(&mut self, jid: &str, on: bool) -> Result<()> {
        let item = Element::new("item", ns::BLOCKING).with("jid", jid);
        let name = if on { "block" } else { "unblock" };
        self.iq_ok("set", None, Element::new(name, ns::BLOCKING).child(item)).await.map(|_| ())
    }

    /// Who is blocked, sorted.
    pub async fn blocklist(&mut self) -> Result<Vec<String>> {
        let answer = self.iq_ok("get", None, Element::new("blocklist", ns::BLOCKING)).await?;
        let list = answer.get("blocklist", ns::BLOCKING).context("no <blocklist/>")?;
        let mut jids: Vec<_> = list.children().filter_map(|i| i.attr("jid")).map(str::to_owned).collect();
        jids.sort();
        Ok(jids)
    }

    /// A page of the own archive: at most `max` rows after the row `after` (XEP-0313 §4.3), with a peer or with all.
    pub async fn archive_page(&mut self, with: Option<&str>, after: Option<&str>, max: usize) -> Result<ArchivePage> {
        let mut rsm = Element::new("set", ns::RSM).child(Element::new("max", ns::RSM).text(max.to_string()));
        if let Some(after) = after {
            rsm = rsm.child(Element::new("after", ns::RSM).text(after));
        }
        let filters: Vec<_> = with.map(|w| ("with", w)).into_iter().collect();
        self.archive_query(&filters, rsm).await
    }

    /// A query of the own archive by form fields and a result set request.
    pub async fn archive_query(&mut self, filters: &[(&str, &str)], rsm: Element) -> Result<ArchivePage> {
        let queryid = self.fresh_id();
        let mut query = Element::new("query", ns::MAM).with("queryid", &queryid);
        if !filters.is_empty() {
            let mut form = Element::new("x", ns::DATA).with("type", "submit").child(field("FORM_TYPE", ns::MAM));
            for (name, value) in filters {
                form = form.child(field(name, value));
            }
            query = query.child(form);
        }
        let answer = self.iq_ok("set", None, query.child(rsm)).await?;
        // XEP-0313 §4.2: all results come before the answer.
        let mut rows = Vec::new();
        let own = self.bare().to_owned();
        let is_result = |e: &Element| {
            let from_self = e.attr("from").is_none_or(|f| f == own);
            from_self && e.get("result", ns::MAM).is_some_and(|r| r.attr("queryid") == Some(&queryid))
        };
        while let Some(wrapper) = self.take(is_result) {
            rows.push(ArchiveRow::read(wrapper.get("result", ns::MAM).context("no result")?)?);
        }
        let fin = answer.get("fin", ns::MAM).context("no <fin/>")?;
        let set = fin.get("set", ns::RSM);
        let page = ArchivePage {
            complete: matches!(fin.attr("complete"), Some("true" | "1")),
            first: set.and_then(|s| s.child_text("first")),
            last: set.and_then(|s| s.child_text("last")),
            rows,
        };
        ensure!(page.last.as_deref() == page.rows.last().map(|r| r.id.as_str()), "<last/> is not the last row: {:?}", page.last);
        ensure!(page.first.as_deref() == page.rows.first().map(|r| r.id.as_str()), "<first/> is not the first row: {:?}", page.first);
        Ok(page)
    }

    /// The whole own archive from behind `after`, page by page.
    pub async fn archive(&mut self, with: Option<&str>, after: Option<&str>) -> Result<Vec<ArchiveRow>> {
        let mut all: Vec<ArchiveRow> = Vec::new();
        let mut after = after.map(str::to_owned);
        loop {
            let page = self.archive_page(with, after.as_deref(), 50).await?;
            let empty = page.rows.is_empty();
            all.extend(page.rows);
            if page.complete {
                return Ok(all);
            }
            ensure!(!empty, "an empty page that is not the last");
            after = page.last;
        }
    }
}

impl ArchiveRow {
    /// Reads a `<result/>`.
    pub fn read(result: &Element) -> Result<ArchiveRow> {
        let forwarded = result.get("forwarded", ns::FORWARD).context("no <forwarded/>")?;
        let stamp = forwarded.get("delay", ns::DELAY).and_then(|d| d.attr("stamp")).context("no stamp")?;
        let message = forwarded.get("message", ns::CLIENT).context("no message")?;
        Ok(ArchiveRow { id: result.attr("id").context("no id")?.to_owned(), stamp: stamp.to_owned(), message: message.clone() })
    }
}

/// A chat message with a body, an id and an origin-id (XEP-0359).
pub fn chat(to: &str, id: &str, body: &str) -> Element {
    Element::new("message", ns::CLIENT)
        .with("to", to)
        .with("id", id)
        .with("type", "chat")
        .child(Element::new("body", ns::CLIENT).text(body))
        .child(Element::new("origin-id", ns::SID).with("id", id))
}

/// Makes an account in-band before login (XEP-0077 §3.1). Gives the refusal's condition, if it is refused.
pub async fn register(connector: &Connector, user: &str, password: &str) -> Result<Option<String>> {
    let Secured { mut stream, features, .. } = connector.secure().await?;
    connector
        .within("registration", async {
            if features.get("register", ns::REGISTER_FEATURE).is_none() {
                return Ok(Some("not offered".into()));
            }
            let form = ask(&mut stream, "get", "r1", Element::new("query", ns::REGISTER)).await?;
            let query = form.get("query", ns::REGISTER).with_context(|| format!("no form: {form:?}"))?;
            ensure!(query.get("username", ns::REGISTER).is_some() && query.get("password", ns::REGISTER).is_some(), "{query:?}");
            let query = Element::new("query", ns::REGISTER)
                .child(Element::new("username", ns::REGISTER).text(user))
                .child(Element::new("password", ns::REGISTER).text(password));
            let answer = ask(&mut stream, "set", "r2", query).await?;
            if answer.attr("type") == Some("result") {
                stream.close().await?;
                return Ok(None);
            }
            Ok(Some(answer.error_condition().with_context(|| format!("{answer:?}"))?))
        })
        .await
}

async fn ask(stream: &mut Stream, kind: &str, id: &str, payload: Element) -> Result<Element> {
    let iq = Element::new("iq", ns::CLIENT).with("type", kind).with("id", id).child(payload);
    stream.push(&iq.write(ns::CLIENT))?;
    let answer = stream.element().await?;
    ensure!(answer.name == "iq" && answer.attr("id") == Some(id), "{answer:?}");
    Ok(answer)
}
