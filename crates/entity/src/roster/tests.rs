//! Scripts: a line with `>` is an input, the lines below are all that it did. After each one the cells that were
//! written so far are loaded, and must give the same roster.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// A roster and the cells that were written for it.
struct World {
    roster: Roster,
    cells: BTreeMap<Bytes, Bytes>,
    limits: Limits,
}

fn jid(text: &str) -> BareJid {
    BareJid::parse(text).unwrap()
}

/// A payload as a client writes it, in the roster's namespace.
fn query(items: &str) -> Element {
    Element::parse(format!("<query xmlns='{}'>{items}</query>", ns::ROSTER).as_bytes(), "").unwrap()
}

/// The item of a push or of a roster, without what all have in common.
fn text(item: &Element) -> String {
    item.to_string().replace('"', "'").replace(&format!(" xmlns='{}'", ns::ROSTER), "")
}

fn texts(query: &Element) -> Vec<String> {
    query.children().map(text).collect()
}

fn push_text(push: &Element) -> String {
    assert!(push.is("query", ns::ROSTER));
    let [item] = &texts(push)[..] else { panic!("§2.1.6: one item in {push}") };
    format!("push {} {item}", push.attr("ver").unwrap())
}

impl World {
    fn new(limits: Limits) -> World {
        let (roster, cell) = Roster::create(jid("romeo@example.net"), Timestamp(0));
        let mut world = World { roster, cells: BTreeMap::new(), limits };
        world.write(vec![cell]);
        world
    }

    fn write(&mut self, writes: Vec<Op>) {
        for op in writes {
            match op {
                Op::Put { key, value } => _ = self.cells.insert(key, value),
                Op::Delete { key } => assert!(self.cells.remove(&key).is_some(), "deletes what is not there"),
            }
        }
        let loaded = Roster::load(self.roster.owner.clone(), self.cells.clone());
        assert_eq!(loaded.as_ref(), Ok(&self.roster), "the cells say something else");
    }

    fn set(&mut self, items: &str) -> Result<RosterChange, StanzaError> {
        let before = self.roster.clone();
        let change = self.roster.set(&query(items), &self.limits);
        match &change {
            Ok(change) => self.write(change.writes.clone()),
            Err(_) => assert_eq!(self.roster, before),
        }
        change
    }

    fn outbound(&mut self, kind: Kind, contact: &str) -> Result<OutboundChange, StanzaError> {
        let before = self.roster.clone();
        let change = self.roster.outbound(kind, &jid(contact), &self.limits);
        match &change {
            Ok(change) => self.write(change.writes.clone()),
            Err(_) => assert_eq!(self.roster, before),
        }
        change
    }

    fn inbound(&mut self, kind: Kind, contact: &str, request: &str) -> InboundChange {
        let request = Bytes::copy_from_slice(request.as_bytes());
        let change = self.roster.inbound(kind, &jid(contact), request, &self.limits);
        self.write(change.writes.clone());
        change
    }

    /// One input, and the lines that say what it did.
    fn run(&mut self, input: &str) -> Vec<String> {
        let (verb, rest) = input.split_once(' ').unwrap_or((input, ""));
        let mut words = rest.split(' ');
        let mut kind = || Kind::from_type(words.next().unwrap()).unwrap();
        match verb {
            "set" => self.run_set(rest),
            "out" => {
                let kind = kind();
                match self.outbound(kind, words.next().unwrap()) {
                    Ok(o) => line(o.route, "route").chain(disclosed(o.disclosure)).chain(o.push.iter().map(push_text)).collect(),
                    Err(error) => vec![error.to_string()],
                }
            }
            "in" => {
                let kind = kind();
                let i = self.inbound(kind, words.next().unwrap(), words.next().unwrap_or_default());
                let reply = i.auto_reply.map(|k| format!("reply {}", k.as_str()));
                line(i.refused, "refused")
                    .chain(line(i.deliver, "deliver"))
                    .chain(i.push.iter().map(push_text))
                    .chain(reply)
                    .chain(disclosed(i.disclosure))
                    .collect()
            }
            "get" => self.run_get(words.next().filter(|w| !w.is_empty())),
            "waiting" => self.roster.pending_in().map(|(j, r)| format!("{j} {}", String::from_utf8_lossy(r)).trim().into()).collect(),
            other => panic!("no such input: {other}"),
        }
    }

    fn run_set(&mut self, items: &str) -> Vec<String> {
        match self.set(items) {
            Ok(c) => {
                assert_eq!(c.removed, self.roster.item(&c.jid).is_none());
                let sent = c.presences.iter().map(|k| format!("send {}", k.as_str()));
                [push_text(&c.push)].into_iter().chain(disclosed(c.disclosure)).chain(sent).collect()
            }
            Err(error) => vec![error.to_string()],
        }
    }

    fn run_get(&self, ver: Option<&str>) -> Vec<String> {
        match self.roster.get(ver) {
            RosterAnswer::Current => vec!["current".into()],
            RosterAnswer::Full(query) => [format!("full {}", query.attr("ver").unwrap())].into_iter().chain(texts(&query)).collect(),
            RosterAnswer::Pushes(pushes) => pushes.iter().map(push_text).collect(),
        }
    }
}

fn line(on: bool, text: &str) -> impl Iterator<Item = String> {
    on.then(|| text.to_owned()).into_iter()
}

fn disclosed(disclosure: Disclosure) -> Option<String> {
    (disclosure != Disclosure::Nothing).then(|| format!("presence {disclosure:?}").to_lowercase())
}

fn check_with(limits: Limits, script: &str) {
    let mut world = World::new(limits);
    let mut lines = script.lines().map(str::trim).filter(|l| !l.is_empty()).peekable();
    while let Some(input) = lines.next() {
        let input = input.strip_prefix("> ").unwrap_or_else(|| panic!("not an input: {input}"));
        let mut expected = Vec::new();
        while let Some(line) = lines.next_if(|l| !l.starts_with("> ")) {
            expected.push(line);
        }
        assert_eq!(world.run(input), expected, "after: {input}");
    }
}

fn check(script: &str) {
    check_with(Limits::default(), script);
}

/// §2.1.4, §2.3, §2.4, §2.5, §2.6.
#[test]
fn roster_sets() {
    check(
        "
        > get
        full 0
        > set <item jid='Nurse@example.com' name='Nurse'><group>Servants</group></item>
        push 1 <item jid='nurse@example.com' name='Nurse' subscription='none'><group>Servants</group></item>
        > set <item jid='nurse@example.com' name='N &amp; co'><group>Friends</group><group>Servants</group></item>
        push 2 <item jid='nurse@example.com' name='N &amp; co' subscription='none'><group>Friends</group><group>Servants</group></item>
        > set <item jid='nurse@example.com' name=''/>
        push 3 <item jid='nurse@example.com' subscription='none'/>
        > set <item jid='mother@example.com'/>
        push 4 <item jid='mother@example.com' subscription='none'/>
        > get
        full 4
        <item jid='mother@example.com' subscription='none'/>
        <item jid='nurse@example.com' subscription='none'/>
        > get 4
        current
        > get 3
        push 4 <item jid='mother@example.com' subscription='none'/>
        > get 2
        push 3 <item jid='nurse@example.com' subscription='none'/>
        push 4 <item jid='mother@example.com' subscription='none'/>
        > set <item jid='nurse@example.com' subscription='remove'/>
        push 5 <item jid='nurse@example.com' subscription='remove'/>
        > get 4
        push 5 <item jid='nurse@example.com' subscription='remove'/>
        > get 2
        full 5
        <item jid='mother@example.com' subscription='none'/>
        > set <item jid='nurse@example.com'/>
        push 6 <item jid='nurse@example.com' subscription='none'/>
        > get 4
        push 6 <item jid='nurse@example.com' subscription='none'/>
        ",
    );
}

/// §2.6.2, I-22: whatever is not a version that this roster had.
#[test]
fn unknown_versions_get_the_full_roster() {
    let mut world = World::new(Limits::default());
    world.run("set <item jid='nurse@example.com'/>");
    let long = "9".repeat(10_000);
    for ver in ["", "2", "-1", "+0", "00", "0 ", "x", "18446744073709551616", &long] {
        assert!(matches!(world.roster.get(Some(ver)), RosterAnswer::Full(_)), "{ver}");
    }
    // An account of the same name that is created later shares no version with the earlier one.
    let (later, _) = Roster::create(jid("romeo@example.net"), Timestamp(1_795_368_840_000));
    for ver in ["0", "1"] {
        assert!(matches!(later.get(Some(ver)), RosterAnswer::Full(_)), "{ver}");
    }
    assert_eq!(later.get(Some("1795368840000")), RosterAnswer::Current);
}

/// §2.3.3, §2.5.3, I-16, I-17, I-19, I-20, I-21, I-23: (roster set, answer).
#[test]
fn bad_roster_sets() {
    let limits = Limits { items_max: 2, groups_max: 2, name_bytes_max: 5, ..Limits::default() };
    check_with(
        limits,
        "
        > set <item jid='a@example.com'/>
        push 1 <item jid='a@example.com' subscription='none'/>
        > set <item jid='b@example.com'/><item jid='c@example.com'/>
        modify/bad-request
        > set
        modify/bad-request
        > set <item xmlns='other' jid='b@example.com'/>
        modify/bad-request
        > set <item/>
        modify/bad-request
        > set <item jid='@example.com'/>
        modify/jid-malformed
        > set <item jid='b@example.com/balcony'/>
        modify/bad-request
        > set <item jid='ROMEO@example.net'/>
        cancel/not-allowed
        > set <item jid='romeo@example.net' subscription='remove'/>
        cancel/not-allowed
        > set <item jid='b@example.com' subscription='remove'/>
        cancel/item-not-found
        > set <item jid='b@example.com' name='éééé'/>
        modify/not-acceptable
        > set <item jid='b@example.com'><group/></item>
        modify/not-acceptable
        > set <item jid='b@example.com'><group>123456</group></item>
        modify/not-acceptable
        > set <item jid='b@example.com'><group>1</group><group>2</group><group>3</group></item>
        modify/not-acceptable
        > set <item jid='b@example.com'><group>1</group><group>1</group></item>
        modify/bad-request
        > set <item jid='b@example.com' subscription='both' ask='subscribe' approved='true'/>
        push 2 <item jid='b@example.com' subscription='none'/>
        > set <item jid='c@example.com'/>
        wait/resource-constraint
        > out subscribe c@example.com
        wait/resource-constraint
        > out subscribed c@example.com
        wait/resource-constraint
        > set <item jid='b@example.com' name='12345'><group>12345</group></item>
        push 3 <item jid='b@example.com' name='12345' subscription='none'><group>12345</group></item>
        > in subscribe c@example.com
        deliver
        > out subscribed c@example.com
        wait/resource-constraint
        > set <item jid='a@example.com' subscription='remove'/>
        push 4 <item jid='a@example.com' subscription='remove'/>
        > out subscribed c@example.com
        route
        presence current
        push 5 <item jid='c@example.com' subscription='from'/>
        ",
    );
    let query = Element::new("query", "other").with_child(Element::new("item", ns::ROSTER).with_attr("jid", "b@example.com"));
    let error = World::new(limits).roster.set(&query, &limits).unwrap_err();
    assert_eq!(error.to_string(), "modify/bad-request");
    // The bound of I-20.
    let group = |bytes: usize| format!("<item jid='b@example.com'><group>{}</group></item>", "g".repeat(bytes));
    let mut world = World::new(Limits::default());
    assert_eq!(world.set(&group(1_024)).unwrap_err().to_string(), "modify/not-acceptable");
    assert!(world.set(&group(1_023)).is_ok());
}

/// §3.1 as narrated: Romeo asks Juliet, she approves; then the other way round; then both ends of it.
#[test]
fn mutual_subscription() {
    check(
        "
        > out subscribe juliet@example.com
        route
        push 1 <item jid='juliet@example.com' subscription='none' ask='subscribe'/>
        > out subscribe juliet@example.com
        route
        > set <item jid='juliet@example.com' name='Juliet'/>
        push 2 <item jid='juliet@example.com' name='Juliet' subscription='none' ask='subscribe'/>
        > in subscribed juliet@example.com
        deliver
        push 3 <item jid='juliet@example.com' name='Juliet' subscription='to'/>
        > in subscribed juliet@example.com
        > in subscribe juliet@example.com
        deliver
        > get 3
        current
        > out subscribed juliet@example.com
        route
        presence current
        push 4 <item jid='juliet@example.com' name='Juliet' subscription='both'/>
        > in subscribe juliet@example.com
        reply subscribed
        presence current
        > in unsubscribe juliet@example.com
        deliver
        push 5 <item jid='juliet@example.com' name='Juliet' subscription='to'/>
        reply unsubscribed
        presence unavailable
        > in unsubscribed juliet@example.com
        deliver
        push 6 <item jid='juliet@example.com' name='Juliet' subscription='none'/>
        > in unsubscribed juliet@example.com
        > out unsubscribe juliet@example.com
        route
        > out unsubscribed juliet@example.com
        ",
    );
}

/// §3.1.3: a request does not add to the roster, waits, is withdrawn or answered; the last one is kept.
#[test]
fn requests_wait() {
    check(
        "
        > in subscribe juliet@example.com <nick/>
        deliver
        > in subscribe juliet@example.com <hint/>
        > in subscribe mercutio@example.com
        deliver
        > waiting
        juliet@example.com <hint/>
        mercutio@example.com
        > get
        full 0
        > in unsubscribe juliet@example.com
        deliver
        reply unsubscribed
        > out unsubscribed mercutio@example.com
        route
        > waiting
        > in subscribe juliet@example.com
        deliver
        > set <item jid='juliet@example.com'/>
        push 1 <item jid='juliet@example.com' subscription='none'/>
        > out subscribe juliet@example.com
        route
        push 2 <item jid='juliet@example.com' subscription='none' ask='subscribe'/>
        > waiting
        juliet@example.com
        > out subscribed juliet@example.com
        route
        presence current
        push 3 <item jid='juliet@example.com' subscription='from' ask='subscribe'/>
        > waiting
        ",
    );
    // §3.1.3, the second warning: bounds in number and size. A repeat is not one more.
    check_with(
        Limits { requests_max: 2, request_bytes_max: 4, ..Limits::default() },
        "
        > in subscribe a@example.com <ab>
        deliver
        > in subscribe b@example.com <abc>
        deliver
        > in subscribe c@example.com
        refused
        > in subscribe b@example.com <b>
        > waiting
        a@example.com <ab>
        b@example.com <b>
        > in unsubscribe a@example.com
        deliver
        reply unsubscribed
        > in subscribe c@example.com <abc>
        deliver
        > waiting
        b@example.com <b>
        c@example.com
        ",
    );
}

/// §3.4 and §3.2.2 rule 2.
#[test]
fn pre_approval() {
    check(
        "
        > out subscribed juliet@example.com
        push 1 <item jid='juliet@example.com' subscription='none' approved='true'/>
        > out subscribed juliet@example.com
        > out unsubscribed juliet@example.com
        push 2 <item jid='juliet@example.com' subscription='none'/>
        > out subscribed juliet@example.com
        push 3 <item jid='juliet@example.com' subscription='none' approved='true'/>
        > out subscribe juliet@example.com
        route
        push 4 <item jid='juliet@example.com' subscription='none' ask='subscribe' approved='true'/>
        > in subscribed juliet@example.com
        deliver
        push 5 <item jid='juliet@example.com' subscription='to' approved='true'/>
        > in subscribe juliet@example.com
        push 6 <item jid='juliet@example.com' subscription='both'/>
        reply subscribed
        presence current
        > out subscribed juliet@example.com
        > in unsubscribe juliet@example.com
        deliver
        push 7 <item jid='juliet@example.com' subscription='to'/>
        reply unsubscribed
        presence unavailable
        > in subscribe juliet@example.com
        deliver
        ",
    );
}

/// §2.5.2, in every state: (how it comes about, what the removal sends).
#[test]
fn removal_ends_subscriptions() {
    for (before, sent) in [
        ("", ""),
        ("out subscribed", ""),
        ("out subscribe", "send unsubscribe"),
        ("in subscribe", "send unsubscribed"),
        ("out subscribe, in subscribe", "send unsubscribe, send unsubscribed"),
        ("out subscribe, in subscribed", "send unsubscribe"),
        ("out subscribe, in subscribed, in subscribe", "send unsubscribe, send unsubscribed"),
        ("in subscribe, out subscribed", "presence unavailable, send unsubscribed"),
        ("in subscribe, out subscribed, out subscribe", "presence unavailable, send unsubscribe, send unsubscribed"),
        ("in subscribe, out subscribed, out subscribe, in subscribed", "presence unavailable, send unsubscribe, send unsubscribed"),
    ] {
        let mut world = World::new(Limits::default());
        world.run("set <item jid='nurse@example.com' name='Nurse'/>");
        for step in before.split(", ").filter(|s| !s.is_empty()) {
            world.run(&format!("{step} nurse@example.com"));
        }
        let version = world.roster.version() + 1;
        let did = world.run("set <item jid='nurse@example.com' subscription='remove'/>");
        let (push, did) = did.split_first().unwrap();
        assert_eq!(*push, format!("push {version} <item jid='nurse@example.com' subscription='remove'/>"));
        assert_eq!(did.join(", "), sent, "after: {before}");
        assert_eq!(world.run("waiting"), [""; 0]);
        assert_eq!(world.roster.state(&jid("nurse@example.com")), State::None);
        // Nothing of the old item shows in a new one.
        let push = world.run("out subscribe nurse@example.com").pop().unwrap();
        assert_eq!(push, format!("push {} <item jid='nurse@example.com' subscription='none' ask='subscribe'/>", version + 1));
    }
}

/// A request from who is not listed cannot be removed from the roster, and one after a removal hides no tombstone.
#[test]
fn requests_and_removals_share_a_cell() {
    check(
        "
        > in subscribe nurse@example.com
        deliver
        > set <item jid='nurse@example.com' subscription='remove'/>
        cancel/item-not-found
        > set <item jid='nurse@example.com'/>
        push 1 <item jid='nurse@example.com' subscription='none'/>
        > set <item jid='mother@example.com'/>
        push 2 <item jid='mother@example.com' subscription='none'/>
        > set <item jid='nurse@example.com' subscription='remove'/>
        push 3 <item jid='nurse@example.com' subscription='remove'/>
        send unsubscribed
        > in subscribe nurse@example.com <nick/>
        deliver
        > get 2
        push 3 <item jid='nurse@example.com' subscription='remove'/>
        > waiting
        nurse@example.com <nick/>
        > in unsubscribe nurse@example.com
        deliver
        reply unsubscribed
        > get 2
        push 3 <item jid='nurse@example.com' subscription='remove'/>
        ",
    );
}

/// I-14, §4.2.2: one is subscribed to oneself already.
#[test]
fn presence_to_oneself_is_ignored() {
    for kind in Kind::ALL {
        let mut world = World::new(Limits::default());
        assert_eq!(world.outbound(kind, "romeo@example.net"), Ok(OutboundChange::default()));
        assert_eq!(world.inbound(kind, "romeo@example.net", "<nick/>"), InboundChange::default());
    }
}

#[test]
fn who_sees_whom() {
    let mut world = World::new(Limits::default());
    for step in [
        "out subscribe to@example.com",
        "in subscribed to@example.com",
        "in subscribe from@example.com",
        "out subscribed from@example.com",
        "out subscribe both@example.com",
        "in subscribed both@example.com",
        "in subscribe both@example.com",
        "out subscribed both@example.com",
        "out subscribe asked@example.com",
        "in subscribe asks@example.com",
    ] {
        world.run(step);
    }
    let roster = &world.roster;
    let texts = |jids: Vec<&BareJid>| jids.into_iter().map(|j| j.local().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(texts(roster.subscribers().collect()), ["both", "from"]);
    assert_eq!(texts(roster.subscriptions().collect()), ["both", "to"]);
    assert_eq!(texts(roster.pending_out().collect()), ["asked"]);
    assert_eq!(texts(roster.pending_in().map(|(j, _)| j).collect()), ["asks"]);
    for (who, sees, seen) in [("to", false, true), ("from", true, false), ("both", true, true), ("asks", false, false), ("x", false, false)]
    {
        let contact = jid(&format!("{who}@example.com"));
        assert_eq!((roster.is_subscriber(&contact), roster.is_subscribed_to(&contact)), (sees, seen), "{who}");
    }
}

/// Beyond the bound the oldest removal is forgotten, in memory and in the store, and older versions get the full roster.
#[test]
fn tombstones_are_bounded() {
    let mut world = World::new(Limits::default());
    let removals = TOMBSTONES_MAX as u64 + 2;
    for n in 0..removals {
        world.run(&format!("set <item jid='n{n}@example.com'/>"));
    }
    for n in 0..200 {
        world.run(&format!("set <item jid='kept{n}@example.com'/>"));
    }
    let before = world.roster.version();
    for n in 0..removals {
        // One of them also asks; that outlives the tombstone.
        world.run(&format!("set <item jid='n{n}@example.com' subscription='remove'/>"));
        if n == 0 {
            world.run("in subscribe n0@example.com");
        }
    }
    assert_eq!(world.roster.items.iter().filter(|i| i.is_tombstone()).count(), TOMBSTONES_MAX);
    assert_eq!(world.run("waiting"), ["n0@example.com"]);
    let answer = |ver: u64| world.roster.get(Some(&ver.to_string()));
    assert!(matches!(answer(before), RosterAnswer::Full(_)));
    assert!(matches!(answer(before + 1), RosterAnswer::Full(_)));
    let RosterAnswer::Pushes(pushes) = answer(before + 2) else { panic!() };
    assert_eq!(pushes.len(), TOMBSTONES_MAX);
}

/// Fifty contacts cost little: no allocation for an item beyond its JID, its first group is shared.
#[test]
fn items_are_small() {
    assert!(size_of::<Item>() <= 96, "{}", size_of::<Item>());
    let mut world = World::new(Limits::default());
    for n in 0..50 {
        world.run(&format!("set <item jid='n{n}@example.com' name='A name of 24 bytes at most'><group>Friends</group></item>"));
    }
    for roster in [&world.roster, &Roster::load(jid("romeo@example.net"), world.cells.clone()).unwrap()] {
        let group = &roster.items[0].groups[0];
        assert!(roster.items.iter().all(|i| Arc::ptr_eq(&i.groups[0], group) && !i.groups.spilled()));
    }
}

/// Cells that are cut, changed or contradict each other give an error, never a panic and never half a roster.
#[test]
fn broken_cells_are_refused() {
    let mut world = World::new(Limits::default());
    world.run("set <item jid='nurse@example.com' name='Nurse'><group>A</group><group>B</group></item>");
    world.run("in subscribe nurse@example.com <nick/>");
    world.run("in subscribe juliet@example.com <nick/>");
    let load = |cells: &BTreeMap<Bytes, Bytes>| Roster::load(jid("romeo@example.net"), cells.clone());
    for (key, value) in &world.cells {
        for len in 0..value.len() {
            let mut cells = world.cells.clone();
            cells.insert(key.clone(), value.slice(..len));
            assert!(load(&cells).is_err(), "{key:?} cut at {len}");
        }
        let mut cells = world.cells.clone();
        cells.insert(key.clone(), [value, &b"\0"[..]].concat().into());
        assert!(load(&cells).is_err(), "{key:?} with a byte more");
    }
    // (key, value, what is wrong with it)
    for (key, value, wrong) in [
        (&b"r/nurse@example.com"[..], &[2, 1, 0, 1, 0, 0][..], "format"),
        (b"r/nurse@example.com", &[1, 9, 0, 1, 0, 0], "flags"),
        (b"r/nurse@example.com", &[1, 1, 9, 1, 0, 0], "state"),
        (b"r/nurse@example.com", &[1, 1, 0, 2, 0, 0], "newer than the roster"),
        (b"r/nurse@example.com", &[1, 1, 0, 0, 0, 0], "listed without a version"),
        (b"r/nurse@example.com", &[1, 1, 2, 1, 0, 0], "pending in without a request"),
        (b"r/nurse@example.com", &[1, 5, 0, 1, 0, 0, 0], "a request that is not pending"),
        (b"r/nurse@example.com", &[1, 3, 8, 1, 0, 0], "approved and granted"),
        (b"r/nurse@example.com", &[1, 0, 8, 1], "granted and not listed"),
        (b"r/nurse@example.com", &[1, 0, 0, 0], "void"),
        (b"r/nurse@example.com", &[1, 1, 0, 1, 1, 0xff, 0], "utf-8"),
        (b"r/TYBALT@example.com", &[1, 1, 0, 1, 0, 0], "jid not canonical"),
        (b"r/tybalt@example.com/x", &[1, 1, 0, 1, 0, 0], "jid not bare"),
        (b"r/\xff", &[1, 1, 0, 1, 0, 0], "jid not text"),
        (b"rv", &[1, 1, 2], "floor above version"),
    ] {
        let mut cells = world.cells.clone();
        cells.insert(Bytes::from_static(key), Bytes::from_static(value));
        assert!(load(&cells).is_err(), "{wrong}");
    }
    // Other cells of the account's partition are not the roster's.
    let mut cells = world.cells.clone();
    cells.insert("b/juliet@example.com".into(), "x".into());
    assert_eq!(load(&cells).as_ref(), Ok(&world.roster));
}

const CONTACTS: [&str; 4] = ["juliet@example.com", "nurse@example.com", "mercutio@example.com", "example.org"];

/// One step of a random life.
#[derive(Clone, Debug)]
enum Step {
    Set(usize, Option<&'static str>, Vec<&'static str>),
    Remove(usize),
    Out(usize, Kind),
    In(usize, Kind, &'static str),
}

fn any_step() -> impl Strategy<Value = Step> {
    let kind = || prop::sample::select(&Kind::ALL[..]);
    let who = || 0..CONTACTS.len();
    let groups = prop::sample::subsequence(vec!["Friends", "Family", "Work"], 0..=3);
    prop_oneof![
        2 => (who(), prop::option::of(Just("A name")), groups).prop_map(|(w, n, g)| Step::Set(w, n, g)),
        2 => who().prop_map(Step::Remove),
        5 => (who(), kind()).prop_map(|(w, k)| Step::Out(w, k)),
        5 => (who(), kind(), prop::sample::select(&["", "<nick/>"][..])).prop_map(|(w, k, r)| Step::In(w, k, r)),
    ]
}

impl World {
    /// Whether there was a push.
    fn step(&mut self, step: &Step) -> bool {
        match step {
            Step::Set(who, name, groups) => {
                let groups: String = groups.iter().map(|g| format!("<group>{g}</group>")).collect();
                let item = format!("<item jid='{}' name='{}'>{groups}</item>", CONTACTS[*who], name.unwrap_or_default());
                self.set(&item).is_ok()
            }
            Step::Remove(who) => self.set(&format!("<item jid='{}' subscription='remove'/>", CONTACTS[*who])).is_ok(),
            Step::Out(who, kind) => self.outbound(*kind, CONTACTS[*who]).is_ok_and(|c| c.push.is_some()),
            Step::In(who, kind, request) => self.inbound(*kind, CONTACTS[*who], request).push.is_some(),
        }
    }

    /// The full roster as a client keeps it.
    fn cache(&self) -> BTreeMap<String, String> {
        let RosterAnswer::Full(query) = self.roster.get(None) else { panic!() };
        query.children().map(|i| (i.attr("jid").unwrap().to_owned(), text(i))).collect()
    }
}

/// What a client does with a roster push (§2.1.6, §2.5).
fn take_push(cache: &mut BTreeMap<String, String>, push: &Element) {
    let item = push.children().next().unwrap();
    let jid = item.attr("jid").unwrap().to_owned();
    if item.attr("subscription") == Some("remove") {
        cache.remove(&jid);
    } else {
        cache.insert(jid, text(item));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// The version grows with each push and only then; from every version that ever was, the answer leads to the
    /// roster as it is; pushes come in order, each with a version of its own (§2.6.3).
    #[test]
    fn versions_tell_the_truth(steps in prop::collection::vec(any_step(), 0..50)) {
        let mut world = World::new(Limits::default());
        let mut caches = BTreeMap::from([(0, world.cache())]);
        for step in &steps {
            let before = world.roster.version();
            let pushed = world.step(step);
            prop_assert_eq!(world.roster.version(), before + u64::from(pushed), "{:?}", step);
            prop_assert!(pushed || world.cache() == caches[&before], "changed without a push: {:?}", step);
            caches.insert(world.roster.version(), world.cache());
        }
        for (ver, cache) in &caches {
            let mut cache = cache.clone();
            match world.roster.get(Some(&ver.to_string())) {
                RosterAnswer::Current => prop_assert_eq!(*ver, world.roster.version()),
                RosterAnswer::Full(_) => continue,
                RosterAnswer::Pushes(pushes) => {
                    let vers: Vec<u64> = pushes.iter().map(|p| p.attr("ver").unwrap().parse().unwrap()).collect();
                    prop_assert!(vers.windows(2).all(|w| w[0] < w[1]) && vers[0] > *ver);
                    prop_assert_eq!(vers.last(), Some(&world.roster.version()));
                    pushes.iter().for_each(|p| take_push(&mut cache, p));
                }
            }
            prop_assert_eq!(&cache, &world.cache(), "from {}", ver);
        }
    }

    /// Two accounts that do as they please, each stanza handed over before the next input: the rosters agree.
    #[test]
    fn two_rosters_agree(steps in prop::collection::vec((0..2usize, prop::option::of(prop::sample::select(&Kind::ALL[..]))), 0..40)) {
        let names = ["romeo@example.net", "juliet@example.com"];
        let limits = Limits::default();
        let mut rosters = names.map(|n| Roster::create(jid(n), Timestamp(0)).0);
        for (who, what) in steps {
            let peer = jid(names[1 - who]);
            let mut sent: std::collections::VecDeque<(usize, Kind)> = match what {
                Some(kind) => rosters[who].outbound(kind, &peer, &limits).unwrap().route.then_some((who, kind)).into_iter().collect(),
                None => {
                    let removal = query(&format!("<item jid='{peer}' subscription='remove'/>"));
                    rosters[who].set(&removal, &limits).map(|c| c.presences).unwrap_or_default().into_iter().map(|k| (who, k)).collect()
                }
            };
            let mut handed = 0;
            while let Some((from, kind)) = sent.pop_front() {
                let change = rosters[1 - from].inbound(kind, &jid(names[from]), Bytes::new(), &limits);
                sent.extend(change.auto_reply.map(|k| (1 - from, k)));
                handed += 1;
                prop_assert!(handed < 8, "replies go round in circles");
            }
            let [a, b] = [rosters[0].state(&jid(names[1])), rosters[1].state(&jid(names[0]))];
            for (one, other) in [(a, b), (b, a)] {
                prop_assert_eq!(one.is_to(), other.is_from(), "{:?} and {:?}", a, b);
                prop_assert_eq!(one.is_pending_out(), other.is_pending_in(), "{:?} and {:?}", a, b);
            }
        }
    }

    /// Whatever a cell holds, loading says a roster or an error; and a roster that loads says the same when written.
    #[test]
    fn garbage_never_panics(value in prop::collection::vec(prop_oneof![0u8..10, any::<u8>()], 0..24)) {
        let key = Bytes::from_static(b"r/nurse@example.com");
        let cells = [(Bytes::from_static(b"rv"), cell::encode_version(u64::MAX / 2, 0)), (key, value.clone().into())];
        if let Ok(roster) = Roster::load(jid("romeo@example.net"), cells) {
            let again = [(cell::item_key(&roster.items[0].jid), cell::encode_item(&roster.items[0]))];
            let again = [(Bytes::from_static(b"rv"), cell::encode_version(u64::MAX / 2, 0))].into_iter().chain(again);
            prop_assert_eq!(Roster::load(jid("romeo@example.net"), again), Ok(roster));
        }
        _ = cell::decode_version(value.into());
    }
}
