//! The block list of one account (XEP-0191): who reaches it, and whom it reaches.
//!
//! Pure. It fails closed: a list that cannot be read blocks everybody but the account itself, until the user unblocks
//! all or the cells are repaired. What a blocked stanza is answered with is the Account's part.
//!
//! Start with [`BlockList`].

use crate::codec::{Reader, Writer};
use bytes::Bytes;
use stanza::{Condition, ErrorType, StanzaError};
use types::{BareJid, Jid, Op, ns};
use xml::Element;

/// An entry's cell is `b/` and the JID; its value is the format's version alone.
const PREFIX: &[u8] = b"b/";
const FORMAT: u8 = 1;

/// The addresses that one account blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockList {
    owner: BareJid,
    entries: Entries,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Entries {
    /// Sorted.
    Listed(Vec<Jid>),
    /// At least one cell did not decode. These are all the keys.
    Broken(Vec<Bytes>),
}

/// What a block or unblock command did.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockChange {
    /// Entries that were added, or removed; not those that were there, or missing, before.
    pub entries: Vec<Jid>,
    /// The list was broken, so that everybody was blocked, and is empty now.
    pub everybody: bool,
    /// `<block/>` or `<unblock/>`, for an IQ-set to each resource that has asked for the list.
    pub push: Element,
    /// Cells of the account's partition, for one batch.
    pub writes: Vec<Op>,
}

impl BlockList {
    /// Blocks nobody.
    pub fn new(owner: BareJid) -> BlockList {
        BlockList { owner, entries: Entries::Listed(Vec::new()) }
    }

    /// The list from the cells of its account's partition; other cells than the list's are skipped.
    pub fn load(owner: BareJid, cells: impl IntoIterator<Item = (Bytes, Bytes)>) -> BlockList {
        let cells: Vec<_> = cells.into_iter().filter(|(key, _)| key.starts_with(PREFIX)).collect();
        let entries = match cells.iter().map(|(key, value)| decode(key, value)).collect::<Option<Vec<Jid>>>() {
            Some(mut list) => {
                list.sort_unstable();
                Entries::Listed(list)
            }
            None => Entries::Broken(cells.into_iter().map(|(key, _)| key).collect()),
        };
        BlockList { owner, entries }
    }

    /// Whether stanzas from and to `jid` are blocked. The account's own resources never are (XEP-0191 §5).
    pub fn blocks(&self, jid: &Jid) -> bool {
        match &self.entries {
            Entries::Listed(list) if list.is_empty() => false,
            _ if jid.bare_str() == self.owner.as_str() => false,
            Entries::Broken(_) => true,
            Entries::Listed(list) => matches_of(jid).iter().any(|text| list.binary_search_by(|e| e.as_str().cmp(text)).is_ok()),
        }
    }

    /// Whether the stored list could not be read.
    pub fn is_broken(&self) -> bool {
        matches!(self.entries, Entries::Broken(_))
    }

    /// How many entries there are; of a broken list, cells.
    pub fn len(&self) -> usize {
        match &self.entries {
            Entries::Listed(list) => list.len(),
            Entries::Broken(keys) => keys.len(),
        }
    }

    /// Whether nobody is blocked.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The answer to `<blocklist/>` (XEP-0191 §3.2).
    ///
    /// # Errors
    /// `internal-server-error` if the list is broken.
    pub fn list(&self) -> Result<Element, StanzaError> {
        Ok(element("blocklist", self.listed()?))
    }

    /// `<block/>` (XEP-0191 §3.3).
    ///
    /// # Errors
    /// `bad-request` without an item, `jid-malformed`, `not-allowed` for the account itself, `resource-constraint` if
    /// there would be more than `blocked_max`; `internal-server-error` if the list is broken. Nothing has changed then.
    pub fn block(&mut self, command: &Element, blocked_max: usize) -> Result<BlockChange, StanzaError> {
        let items = items_of(command, "block")?;
        if items.is_empty() {
            return Err(Condition::BadRequest.into());
        }
        if items.iter().any(|jid| jid.bare_str() == self.owner.as_str()) {
            return Err(Condition::NotAllowed.into());
        }
        let list = self.listed()?;
        let entries: Vec<Jid> = items.iter().filter(|i| list.binary_search(i).is_err()).cloned().collect();
        if list.len() + entries.len() > blocked_max {
            return Err(Condition::ResourceConstraint.into());
        }
        let value = Writer::new(FORMAT).finish();
        let writes = entries.iter().map(|e| Op::Put { key: key_of(e), value: value.clone() }).collect();
        let mut list = list.to_vec();
        list.extend_from_slice(&entries);
        list.sort_unstable();
        self.entries = Entries::Listed(list);
        Ok(BlockChange { entries, everybody: false, push: element("block", &items), writes })
    }

    /// `<unblock/>` (XEP-0191 §3.4); without an item, all (§3.5), which also mends a broken list.
    ///
    /// # Errors
    /// `jid-malformed`, `bad-request` for an item without a JID; `internal-server-error` if the list is broken. Nothing
    /// has changed then.
    pub fn unblock(&mut self, command: &Element) -> Result<BlockChange, StanzaError> {
        let items = items_of(command, "unblock")?;
        let push = element("unblock", &items);
        if items.is_empty() {
            return Ok(self.unblock_all(push));
        }
        let (gone, kept): (Vec<Jid>, Vec<Jid>) = self.listed()?.iter().cloned().partition(|e| items.contains(e));
        self.entries = Entries::Listed(kept);
        let writes = gone.iter().map(|e| Op::Delete { key: key_of(e) }).collect();
        Ok(BlockChange { entries: gone, everybody: false, push, writes })
    }

    fn unblock_all(&mut self, push: Element) -> BlockChange {
        let before = std::mem::replace(&mut self.entries, Entries::Listed(Vec::new()));
        let (entries, everybody, keys) = match before {
            Entries::Listed(list) => {
                let keys = list.iter().map(key_of).collect();
                (list, false, keys)
            }
            Entries::Broken(keys) => (Vec::new(), true, keys),
        };
        let writes = keys.into_iter().map(|key| Op::Delete { key }).collect();
        BlockChange { entries, everybody, push, writes }
    }

    /// The keys of all its cells, for an account that is removed.
    pub fn cell_keys(&self) -> Vec<Bytes> {
        match &self.entries {
            Entries::Listed(list) => list.iter().map(key_of).collect(),
            Entries::Broken(keys) => keys.clone(),
        }
    }

    fn listed(&self) -> Result<&[Jid], StanzaError> {
        match &self.entries {
            Entries::Listed(list) => Ok(list),
            Entries::Broken(_) => Err(Condition::InternalServerError.of_type(ErrorType::Wait)),
        }
    }
}

impl BlockChange {
    /// Of those who see the account's presence, who loses sight of it by a block (send `unavailable`, XEP-0191 §3.3) or
    /// regains it by an unblock (send the current presence, §3.4). After an unblock, leave out whom another entry still
    /// blocks. An entry with a resourcepart gives that full JID.
    pub fn audience<'a>(&'a self, subscribers: impl Iterator<Item = &'a BareJid> + 'a) -> impl Iterator<Item = Jid> + 'a {
        subscribers.flat_map(move |subscriber| {
            let whole = self.everybody || self.entries.iter().any(|e| covers(e, subscriber.as_jid()));
            let parts = self.entries.iter().filter(move |e| !whole && e.is_full() && e.bare_str() == subscriber.as_str());
            whole.then(|| subscriber.to_jid()).into_iter().chain(parts.cloned())
        })
    }
}

/// Whether an entry of a block list matches `jid` (XEP-0191 §6).
pub fn covers(entry: &Jid, jid: &Jid) -> bool {
    matches_of(jid).contains(&entry.as_str())
}

/// XEP-0191 §6: the entries that match `jid`. Itself (`user@domain/resource` or `domain/resource`: only that resource),
/// its bare JID (any resource), its domain (itself, any user, any resource).
fn matches_of(jid: &Jid) -> [&str; 3] {
    [jid.as_str(), jid.bare_str(), jid.domain()]
}

/// The items of a command, each once.
fn items_of(command: &Element, name: &str) -> Result<Vec<Jid>, StanzaError> {
    if !command.is(name, ns::BLOCKING) {
        return Err(Condition::BadRequest.into());
    }
    let mut items = Vec::new();
    for item in command.children().filter(|c| c.is("item", ns::BLOCKING)) {
        let text = item.attr("jid").ok_or(Condition::BadRequest)?;
        let jid = Jid::parse(text).map_err(|_| Condition::JidMalformed)?;
        if !items.contains(&jid) {
            items.push(jid);
        }
    }
    Ok(items)
}

fn element(name: &str, items: &[Jid]) -> Element {
    let item = |jid: &Jid| Element::new("item", ns::BLOCKING).with_attr("jid", jid.as_str());
    items.iter().fold(Element::new(name, ns::BLOCKING), |list, jid| list.with_child(item(jid)))
}

fn key_of(entry: &Jid) -> Bytes {
    [PREFIX, entry.as_str().as_bytes()].concat().into()
}

fn decode(key: &[u8], value: &Bytes) -> Option<Jid> {
    Reader::new(value.clone(), FORMAT).ok()?.end().ok()?;
    let text = std::str::from_utf8(key.strip_prefix(PREFIX)?).ok()?;
    Jid::parse(text).ok().filter(|jid| jid.as_str() == text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const OWNER: &str = "juliet@capulet.com";

    fn jid(text: &str) -> Jid {
        Jid::parse(text).unwrap()
    }

    fn owner() -> BareJid {
        BareJid::parse(OWNER).unwrap()
    }

    /// A command as a client writes it: `block romeo@montague.net iago@shakespeare.lit`.
    fn command(text: &str) -> (&str, Element) {
        let mut words = text.split(' ');
        let name = words.next().unwrap();
        let item = |jid: &str| Element::new("item", ns::BLOCKING).with_attr("jid", jid);
        (name, Element::new(name, ns::BLOCKING).with_children(words.map(item)))
    }

    /// A list and the cells that were written for it.
    struct World {
        list: BlockList,
        cells: BTreeMap<Bytes, Bytes>,
        blocked_max: usize,
    }

    impl World {
        fn new(cells: &[(&'static str, &'static [u8])]) -> World {
            let cells = cells.iter().map(|(k, v)| (Bytes::from_static(k.as_bytes()), Bytes::from_static(v)));
            let cells: BTreeMap<Bytes, Bytes> = cells.collect();
            World { list: BlockList::load(owner(), cells.clone()), cells, blocked_max: 3 }
        }

        /// Run one command; the cells must give the same list afterwards, and an error must change nothing.
        fn run(&mut self, text: &str) -> Result<BlockChange, StanzaError> {
            let before = self.list.clone();
            let change = match command(text) {
                ("block", element) => self.list.block(&element, self.blocked_max),
                ("unblock", element) => self.list.unblock(&element),
                (other, _) => panic!("no such command: {other}"),
            };
            let Ok(done) = &change else {
                assert_eq!(self.list, before);
                return change;
            };
            let (name, pushed) = command(text);
            assert!(done.push.is(name, ns::BLOCKING) && (pushed.children().count() > 0) == (done.push.children().count() > 0));
            for op in done.writes.clone() {
                match op {
                    Op::Put { key, value } => assert_eq!(self.cells.insert(key, value), None, "writes what is there"),
                    Op::Delete { key } => assert!(self.cells.remove(&key).is_some(), "deletes what is not there"),
                }
            }
            assert_eq!(BlockList::load(owner(), self.cells.clone()), self.list, "the cells say something else");
            change
        }

        fn entries(&self) -> Vec<String> {
            self.list.list().unwrap().children().map(|i| i.attr("jid").unwrap().to_owned()).collect()
        }
    }

    /// Each script: commands, then who is blocked by the outcome and who is not.
    fn check(script: &[&str], blocked: &[&str], free: &[&str]) {
        let mut world = World::new(&[]);
        for line in script {
            world.run(line).unwrap();
        }
        for (jids, is_blocked) in [(blocked, true), (free, false)] {
            for text in jids {
                assert_eq!(world.list.blocks(&jid(text)), is_blocked, "{text} after {script:?}");
            }
        }
    }

    /// XEP-0191 §6, rule by rule, and its composition.
    #[test]
    fn matching() {
        let everybody = ["a@x.org", "a@x.org/r", "a@x.org/s", "b@x.org", "b@x.org/r", "x.org", "x.org/r", "x.org/s", "a@sub.x.org"];
        let rest = |blocked: &[&str]| everybody.iter().copied().filter(|j| !blocked.contains(j)).collect::<Vec<_>>();
        for (script, blocked) in [
            (&[][..], &[][..]),
            (&["block a@x.org/r"], &["a@x.org/r"]),
            (&["block a@x.org"], &["a@x.org", "a@x.org/r", "a@x.org/s"]),
            (&["block x.org/r"], &["x.org/r"]),
            (&["block x.org"], &["a@x.org", "a@x.org/r", "a@x.org/s", "b@x.org", "b@x.org/r", "x.org", "x.org/r", "x.org/s"]),
            (&["block A@X.org"], &["a@x.org", "a@x.org/r", "a@x.org/s"]),
            (&["block a@x.org a@x.org/r", "unblock a@x.org"], &["a@x.org/r"]),
            (&["block a@x.org", "unblock a@x.org/r"], &["a@x.org", "a@x.org/r", "a@x.org/s"]),
            (&["block a@x.org x.org/r b@x.org/r", "unblock"], &[]),
        ] {
            check(script, blocked, &rest(blocked));
        }
    }

    /// XEP-0191 §5: never from one of the user's resources to another, whatever the list says.
    #[test]
    fn own_resources_are_free() {
        let own = ["juliet@capulet.com", "juliet@capulet.com/balcony"];
        check(&["block capulet.com"], &["capulet.com", "tybalt@capulet.com/x"], &own);
        for text in own {
            let error = World::new(&[]).run(&format!("block romeo@montague.net {text}")).unwrap_err();
            assert_eq!(error.to_string(), "cancel/not-allowed");
        }
    }

    /// Fails closed, as a matrix: (cells, broken, romeo blocked, iago blocked).
    #[test]
    fn unreadable_lists_block_everybody() {
        let good: (&str, &[u8]) = ("b/romeo@montague.net", &[1]);
        for (cells, broken, romeo, iago) in [
            (vec![], false, false, false),
            (vec![good], false, true, false),
            (vec![good, ("r/iago@shakespeare.lit", &[7][..])], false, true, false),
            (vec![good, ("b/iago@shakespeare.lit", &[1])], false, true, true),
            (vec![good, ("b/iago@shakespeare.lit", &[])], true, true, true),
            (vec![good, ("b/iago@shakespeare.lit", &[2])], true, true, true),
            (vec![good, ("b/iago@shakespeare.lit", &[1, 0])], true, true, true),
            (vec![("b/", &[1])], true, true, true),
            (vec![("b/@", &[1])], true, true, true),
            (vec![("b/IAGO@shakespeare.lit", &[1])], true, true, true),
        ] {
            let mut world = World::new(&cells);
            let blocks = |text: &str, list: &BlockList| list.blocks(&jid(text));
            assert_eq!(world.list.is_broken(), broken, "{cells:?}");
            assert_eq!(blocks("romeo@montague.net/orchard", &world.list), romeo, "{cells:?}");
            assert_eq!(blocks("iago@shakespeare.lit", &world.list), iago, "{cells:?}");
            assert!(!blocks("juliet@capulet.com/balcony", &world.list), "{cells:?}");
            if broken {
                assert_eq!(world.list.list().unwrap_err().to_string(), "wait/internal-server-error");
                for text in ["block iago@shakespeare.lit", "unblock iago@shakespeare.lit"] {
                    assert_eq!(world.run(text).unwrap_err().to_string(), "wait/internal-server-error");
                }
                // The way out, by the user's own word.
                assert!(world.run("unblock").unwrap().everybody);
                assert!(world.list.is_empty() && !world.list.is_broken() && world.cells.is_empty());
            }
        }
    }

    /// XEP-0191 §3.3: (command, answer); the bound is 3 entries.
    #[test]
    fn bad_commands() {
        let mut world = World::new(&[]);
        world.run("block a@x.org b@x.org").unwrap();
        for (text, answer) in [
            ("block", "modify/bad-request"),
            ("block @", "modify/jid-malformed"),
            ("block c@x.org @", "modify/jid-malformed"),
            ("unblock @", "modify/jid-malformed"),
            ("block c@x.org d@x.org", "wait/resource-constraint"),
        ] {
            assert_eq!(world.run(text).unwrap_err().to_string(), answer, "{text}");
        }
        for element in [
            Element::new("block", "other").with_child(Element::new("item", ns::BLOCKING).with_attr("jid", "c@x.org")),
            Element::new("block", ns::BLOCKING).with_child(Element::new("item", ns::BLOCKING)),
            Element::new("block", ns::BLOCKING).with_child(Element::new("item", "other").with_attr("jid", "c@x.org")),
        ] {
            assert_eq!(world.list.block(&element, 3).unwrap_err().to_string(), "modify/bad-request", "{element}");
        }
        // What is there already does not count again.
        assert_eq!(world.run("block a@x.org b@x.org c@x.org").unwrap().entries, [jid("c@x.org")]);
        assert_eq!(world.run("unblock a@x.org z@x.org").unwrap().entries, [jid("a@x.org")]);
        assert_eq!(world.entries(), ["b@x.org", "c@x.org"]);
    }

    /// XEP-0191 §3.3 to §3.5: each resource that asked for the list gets what the client sent, in canonical form.
    #[test]
    fn pushes() {
        let mut world = World::new(&[]);
        for (text, push) in [
            ("block Romeo@montague.net romeo@montague.net", "<block xmlns='urn:xmpp:blocking'><item jid='romeo@montague.net'/></block>"),
            ("block romeo@montague.net", "<block xmlns='urn:xmpp:blocking'><item jid='romeo@montague.net'/></block>"),
            ("unblock romeo@montague.net", "<unblock xmlns='urn:xmpp:blocking'><item jid='romeo@montague.net'/></unblock>"),
            ("unblock", "<unblock xmlns='urn:xmpp:blocking'/>"),
        ] {
            assert_eq!(world.run(text).unwrap().push.to_string().replace('"', "'"), push, "{text}");
        }
        assert_eq!(world.list.list().unwrap().to_string().replace('"', "'"), "<blocklist xmlns='urn:xmpp:blocking'/>");
    }

    /// XEP-0191 §3.3, §3.4: of the subscribers, who is told: (command, told).
    #[test]
    fn audiences() {
        let subscribers = ["a@x.org", "b@x.org", "c@y.org"].map(|t| BareJid::parse(t).unwrap());
        for (text, told) in [
            ("block a@x.org", &["a@x.org"][..]),
            ("block x.org", &["a@x.org", "b@x.org"]),
            ("block c@y.org/r c@y.org/s", &["c@y.org/r", "c@y.org/s"]),
            ("block c@y.org c@y.org/r", &["c@y.org"]),
            ("block stranger@x.org y.org/r", &[]),
        ] {
            let mut world = World::new(&[]);
            let sorted = |change: &BlockChange| change.audience(subscribers.iter()).map(|j| j.to_string()).collect::<Vec<_>>();
            assert_eq!(sorted(&world.run(text).unwrap()), told, "{text}");
            assert_eq!(sorted(&world.run(text).unwrap()), [""; 0], "again: {text}");
            assert_eq!(sorted(&world.run("unblock").unwrap()), told, "un{text}");
        }
        let mut broken = World::new(&[("b/@", &[1])]);
        assert_eq!(broken.run("unblock").unwrap().audience(subscribers.iter()).count(), 3);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

        /// After any commands, the cells give the list, and it blocks exactly who one of its entries covers.
        #[test]
        fn lists_are_their_cells(
            script in prop::collection::vec(
                (any::<bool>(), prop::collection::vec(prop::sample::select(&["a@x.org", "a@x.org/r", "x.org", "x.org/r", "b@x.org"][..]), 0..3)),
                0..12,
            )
        ) {
            let mut world = World::new(&[]);
            for (block, jids) in script {
                let name = if block { "block" } else { "unblock" };
                _ = world.run([vec![name], jids].concat().join(" ").as_str());
                let entries: Vec<Jid> = world.entries().iter().map(|e| jid(e)).collect();
                for text in ["a@x.org", "a@x.org/r", "a@x.org/s", "b@x.org/r", "x.org", "x.org/r", "y.org"] {
                    let covered = entries.iter().any(|e| covers(e, &jid(text)));
                    prop_assert_eq!(world.list.blocks(&jid(text)), covered, "{} in {:?}", text, entries);
                }
            }
        }
    }
}
