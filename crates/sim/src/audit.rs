//! What a client keeps with its account (a roster item, a block, its archive), and what it finds there in the end.

use crate::book::{MsgId, parse_name};
use crate::client::Client;
use rand::Rng;
use rand::rngs::SmallRng;
use types::ns;
use xml::Element;

/// Results of one page of the archive.
const PAGE: usize = 20;

/// A setting that one client alone changes: what it said last, and what it knows to be done.
#[derive(Clone, Debug, Default)]
pub struct Register {
    /// The last value that was sent; 0 is what was there before the first.
    pub said: u64,
    /// The highest value whose result came.
    pub done: u64,
    /// What the account says in the end.
    pub found: u64,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// The name of a roster item.
    pub item: Register,
    /// A block list entry: there for an odd value.
    pub block: Register,
    /// A session went without a word of how much was taken: what it had under way may be done at any time.
    pub void: bool,
    /// XEP-0352: the client said that it is inactive.
    pub inactive: bool,
    /// What the archive has, in order; `None` until the client has read it to its end.
    pub archive: Option<Vec<MsgId>>,
    pages: Vec<MsgId>,
    last: String,
    auditing: bool,
    refused: bool,
    queries: u64,
}

impl Client {
    /// Something that is not a message: a setting, a look into the archive, a word about being looked at.
    pub fn keep(&mut self, rng: &mut SmallRng) {
        match rng.random_range(0..4) {
            0 => {
                self.kept.item.said += 1;
                let (id, v) = (self.id, self.kept.item.said);
                let item = format!("<item jid='x{id}@localhost' name='v{v}'><group>g</group></item>");
                self.request(&format!("item:{v}"), "set", &format!("<query xmlns='{}'>{item}</query>", ns::ROSTER));
            }
            1 => {
                self.kept.block.said += 1;
                let (id, v) = (self.id, self.kept.block.said);
                let name = if v % 2 == 1 { "block" } else { "unblock" };
                let list = format!("<{name} xmlns='{}'><item jid='b{id}@localhost'/></{name}>", ns::BLOCKING);
                self.request(&format!("block:{v}"), "set", &list);
            }
            2 => self.query(),
            _ => self.set_active(self.kept.inactive),
        }
    }

    /// XEP-0352.
    pub fn set_active(&mut self, active: bool) {
        self.kept.inactive = !active;
        self.say(format!("<{} xmlns='{}'/>", if active { "active" } else { "inactive" }, ns::CSI));
    }

    /// Before the end: say that it is active, ask again what the server had no time for.
    pub fn settle(&mut self) {
        if self.kept.inactive {
            self.set_active(true);
        }
        if std::mem::take(&mut self.kept.refused) {
            self.query();
        }
    }

    fn request(&mut self, id: &str, type_: &str, payload: &str) {
        self.stanza(format!("<iq type='{type_}' id='{id}'>{payload}</iq>"), None);
    }

    fn query(&mut self) {
        self.kept.queries += 1;
        let (id, last) = (self.kept.queries, self.kept.last.clone());
        let after = if last.is_empty() || !self.kept.auditing { String::new() } else { format!("<after>{last}</after>") };
        let set = format!("<set xmlns='{}'><max>{PAGE}</max>{after}</set>", ns::RSM);
        self.request(&format!("query:{id}"), "set", &format!("<query xmlns='{}' queryid='{id}'>{set}</query>", ns::MAM));
    }

    /// Ask for everything that was kept.
    pub fn audit(&mut self) {
        self.kept.auditing = true;
        (self.kept.pages, self.kept.last) = (Vec::new(), String::new());
        self.request("roster?", "get", &format!("<query xmlns='{}'/>", ns::ROSTER));
        self.request("blocks?", "get", &format!("<blocklist xmlns='{}'/>", ns::BLOCKING));
        self.query();
        self.request_ack();
    }

    /// The answer to one of these.
    pub fn kept_answer(&mut self, id: &str, e: &Element) {
        let result = e.attr("type") == Some("result");
        let number = |n: &str| n.parse::<u64>().unwrap_or(0);
        match id.split_once(':') {
            Some(("item", v)) if result => self.kept.item.done = self.kept.item.done.max(number(v)),
            Some(("block", v)) if result => self.kept.block.done = self.kept.block.done.max(number(v)),
            Some(("query", _)) if !result => self.kept.refused = self.kept.auditing,
            Some(("query", v)) if self.kept.auditing && number(v) == self.kept.queries => self.page_done(e),
            None if id == "roster?" => {
                let mine = format!("x{}@localhost", self.id);
                let items = e.child("query", ns::ROSTER).into_iter().flat_map(Element::children);
                let name = items.filter(|i| i.attr("jid") == Some(&mine)).find_map(|i| i.attr("name")?.strip_prefix('v'));
                self.kept.item.found = name.map_or(0, number);
            }
            None if id == "blocks?" => {
                let mine = format!("b{}@localhost", self.id);
                let mut items = e.child("blocklist", ns::BLOCKING).into_iter().flat_map(Element::children);
                self.kept.block.found = items.any(|i| i.attr("jid") == Some(&mine)).into();
            }
            _ => {}
        }
    }

    fn page_done(&mut self, e: &Element) {
        let Some(fin) = e.child("fin", ns::MAM) else { return };
        let last = fin.child("set", ns::RSM).and_then(|s| s.child("last", ns::RSM)).map(|l| l.text().into_owned());
        if fin.attr("complete") == Some("true") {
            self.kept.archive = Some(std::mem::take(&mut self.kept.pages));
        } else if let Some(last) = last {
            self.kept.last = last;
            self.query();
        }
        self.request_ack();
    }

    /// A message out of the archive. `false`: it is an ordinary one.
    pub fn archived(&mut self, message: &Element) -> bool {
        let Some(result) = message.child("result", ns::MAM) else { return false };
        let inner = result.child("forwarded", ns::FORWARD).and_then(|f| f.child("message", ns::CLIENT));
        let current = result.attr("queryid") == Some(&self.kept.queries.to_string());
        if let Some(id) = inner.and_then(|m| m.attr("id")).and_then(parse_name).filter(|_| self.kept.auditing && current) {
            self.kept.pages.push(id);
        }
        true
    }
}
