use crate::check;
use entity::effect::Effects;
use entity::log::{Checkpoint, Log};
use entity::row::{self, Row, archive_id, bucket, cell_key};
use entity::seal::{self, Seal};
use entity::state::{cell, partition};
use entity::testing::{START, World, jid};
use entity::{Effect, row::Owed};
use frame::{Pos, SharedStanza};
use stanza::{Kind, MessageType, Stanza};
use std::sync::Arc;
use types::{Epoch, Op, Origin, Timestamp, ns};
use xml::Element;

const FORM: &str = "<field var='FORM_TYPE' type='hidden'><value>urn:xmpp:mam:2</value></field>";

fn id(row: u64) -> String {
    archive_id(row)
}

/// A result as juliet/balcony hears it: what is in it.
fn result(row: u64, queryid: &str, stamp: &str, message: &str) -> String {
    format!(
        "juliet/balcony < <message from='juliet@x' to='juliet@x/balcony'><result xmlns='urn:xmpp:mam:2' id='{}'{queryid}>
        <forwarded xmlns='urn:xmpp:forward:0'><delay xmlns='urn:xmpp:delay' stamp='{stamp}'/>{message}</forwarded></result></message>",
        id(row)
    )
}

#[test]
fn both_sides_are_archived() {
    let queryid = " queryid='q1'";
    let sent = "<message xmlns='jabber:client' from='juliet@x/balcony' to='romeo@x' type='chat' id='a'><body>art thou</body></message>";
    let got = "<message xmlns='jabber:client' from='romeo@x/orchard' to='juliet@x' type='chat' id='b'><body>neither</body>
        <stanza-id xmlns='urn:xmpp:sid:0' by='juliet@x' id='000000000002'/></message>";
    check(&format!(
        "
        juliet/balcony comes
        romeo/orchard comes
        juliet/balcony > <message to='romeo@x' type='chat' id='a'><body>art thou</body></message>
        romeo/orchard is quiet
        wait 2
        romeo/orchard > <message to='juliet@x' type='chat' id='b'><body>neither</body></message>
        juliet/balcony is quiet
        juliet/balcony > <iq id='1' type='set'><query xmlns='urn:xmpp:mam:2' queryid='q1'/></iq>
        {}
        {}
        juliet/balcony < <iq id='1' type='result' to='juliet@x/balcony'><fin xmlns='urn:xmpp:mam:2' complete='true'>
            <set xmlns='http://jabber.org/protocol/rsm'><first index='0'>000000000001</first><last>000000000002</last>
            <count>2</count></set></fin></iq>
        juliet reloads
        juliet/balcony binds
        juliet/balcony > <iq id='2' type='set' to='juliet@x'><query xmlns='urn:xmpp:mam:2' queryid='q1'/></iq>
        {}
        {}
        juliet/balcony < <iq id='2' type='result' to='juliet@x/balcony' from='juliet@x'><fin xmlns='urn:xmpp:mam:2' complete='true'>
            <set xmlns='http://jabber.org/protocol/rsm'><first index='0'>000000000001</first><last>000000000002</last>
            <count>2</count></set></fin></iq>
        ",
        result(1, queryid, "2026-11-22T10:00:00.000Z", sent),
        result(2, queryid, "2026-11-22T10:00:02.000Z", got),
        result(1, queryid, "2026-11-22T10:00:00.000Z", sent),
        result(2, queryid, "2026-11-22T10:00:02.000Z", got),
    ));
}

/// What is kept: (attributes and children, archived).
#[test]
fn conversations_are_archived() {
    for (text, archived) in [
        ("type='chat'><body>b</body>", true),
        ("><body>b</body>", true),
        ("type='chat'><encrypted xmlns='e'/>", true),
        ("type='chat'><received xmlns='urn:xmpp:receipts' id='1'/>", true),
        ("type='chat'><active xmlns='http://jabber.org/protocol/chatstates'/>", false),
        ("type='chat'><active xmlns='http://jabber.org/protocol/chatstates'/><store xmlns='urn:xmpp:hints'/>", true),
        ("type='chat'><body>b</body><no-store xmlns='urn:xmpp:hints'/>", false),
        ("type='chat'><body>b</body><no-permanent-store xmlns='urn:xmpp:hints'/>", false),
        ("type='headline'><body>b</body>", false),
        ("type='error'><body>b</body><store xmlns='urn:xmpp:hints'/>", false),
        ("type='groupchat'><body>b</body>", false),
        ("type='chat'>", false),
    ] {
        let mut world = World::new(crate::pipeline());
        world.run("juliet/balcony comes\nromeo/orchard comes");
        world.says("juliet/balcony", &format!("<message to='romeo@x/orchard' {text}</message>"));
        world.heard("juliet/balcony");
        assert_eq!(world.heard("romeo/orchard").len(), 1, "{text}");
        for who in ["juliet/balcony", "romeo/orchard"] {
            assert_eq!(ask(&mut world, who, "").0.len(), usize::from(archived), "{who}: {text}");
        }
    }
}

/// Five messages, at 10:00:00, :10, …, alternately sent to romeo@x/orchard and got from tybalt@x/street.
fn five() -> World {
    let mut world = World::new(crate::pipeline());
    world.run("juliet/balcony comes\nromeo/orchard comes\ntybalt/street comes");
    for n in 0..5 {
        if n % 2 == 0 {
            world.says("juliet/balcony", "<message to='romeo@x/orchard' type='chat'><body>hi</body></message>");
        } else {
            world.says("tybalt/street", "<message to='juliet@x' type='chat'><body>ho</body></message>");
        }
        world.run("juliet/balcony is quiet\nromeo/orchard is quiet\ntybalt/street is quiet\nwait 10");
    }
    world
}

/// The rows that a query gives, and its `<fin/>` or the error's condition.
fn ask(world: &mut World, who: &str, inner: &str) -> (Vec<u64>, String) {
    world.says(who, &format!("<iq id='1' type='set'><query xmlns='urn:xmpp:mam:2'>{inner}</query></iq>"));
    let mut heard = world.heard(who);
    let end = heard.pop().unwrap();
    let rows = heard.iter().map(|s| {
        let result = s.child("result", ns::MAM).unwrap();
        entity::row::parse_archive_id(&result.attr("id").unwrap()).unwrap()
    });
    let rows = rows.collect();
    if let Some(error) = stanza::StanzaError::from_stanza(&end) {
        return (rows, format!("{}/{}", error.type_.as_str(), error.condition.name()));
    }
    (rows, fin(&end))
}

/// `complete first..last of count`, what there is of it.
fn fin(iq: &SharedStanza) -> String {
    let fin = iq.child("fin", ns::MAM).unwrap().element().unwrap();
    let set = fin.child("set", ns::RSM).unwrap();
    let text = |name| set.child(name, ns::RSM).map(|c| c.text().into_owned()).unwrap_or_default();
    let row = |name| text(name).trim_start_matches('0').to_owned();
    let index = set.child("first", ns::RSM).and_then(|f| f.attr("index")).unwrap_or("?");
    format!("{} {}@{index}..{} of {}", fin.attr("complete").unwrap_or("more"), row("first"), row("last"), text("count"))
}

#[test]
fn pages() {
    let mut world = five();
    let set = |inner: &str| format!("<set xmlns='http://jabber.org/protocol/rsm'>{inner}</set>");
    for (page, extra, rows, end) in [
        ("", "", &[1, 2, 3, 4, 5][..], "true 1@0..5 of 5"),
        ("<max>2</max>", "", &[1, 2], "more 1@0..2 of "),
        ("<max>2</max><after>000000000002</after>", "", &[3, 4], "more 3@?..4 of "),
        ("<max>2</max><after>000000000003</after>", "", &[4, 5], "true 4@?..5 of "),
        ("<max>2</max><after>000000000005</after>", "", &[], "true @?.. of "),
        ("<max>2</max><before/>", "", &[4, 5], "more 4@?..5 of "),
        ("<max>2</max><before>000000000004</before>", "", &[2, 3], "more 2@?..3 of "),
        ("<max>2</max><before>000000000003</before>", "", &[1, 2], "true 1@?..2 of "),
        ("<max>2</max><before>000000000001</before>", "", &[], "true @?.. of "),
        ("<max>9</max><before/>", "", &[1, 2, 3, 4, 5], "true 1@0..5 of 5"),
        ("<max>9</max><after>000000000001</after><before>000000000004</before>", "", &[2, 3], "true 2@?..3 of "),
        ("<max>2</max>", "<flip-page/>", &[2, 1], "more 1@0..2 of "),
        ("<max>2</max><before/>", "<flip-page/>", &[5, 4], "more 4@?..5 of "),
        ("<max>0</max>", "", &[], "more @?.. of 5"),
        ("<max>1000000000</max>", "", &[1, 2, 3, 4, 5], "true 1@0..5 of 5"),
        ("<max>-1</max>", "", &[], "modify/bad-request"),
        ("<max>abc</max>", "", &[], "modify/bad-request"),
        ("<index>2</index>", "", &[], "cancel/feature-not-implemented"),
        ("<before>nonsense</before>", "", &[], "cancel/item-not-found"),
        ("<before>000000000006</before>", "", &[], "cancel/item-not-found"),
        ("<after>000000000000</after>", "", &[], "cancel/item-not-found"),
        ("<after>ffffffffffffffff</after>", "", &[], "cancel/item-not-found"),
    ] {
        let got = ask(&mut world, "juliet/balcony", &format!("{}{extra}", set(page)));
        assert_eq!((got.0.as_slice(), got.1.as_str()), (rows, end), "{page}{extra}");
    }
}

#[test]
fn filters() {
    let mut world = five();
    let field = |var: &str, values: &str| {
        let values: String = values.split(' ').map(|v| format!("<value>{v}</value>")).collect();
        format!("<field var='{var}'>{values}</field>")
    };
    let wide = "w".repeat(60_000);
    for (fields, rows, end) in [
        ("with=romeo@x", &[1, 3, 5][..], "true 1@0..5 of 3"),
        ("with=Romeo@X/orchard", &[1, 3, 5], "true 1@0..5 of 3"),
        ("with=romeo@x/tomb", &[], "true @?.. of 0"),
        ("with=tybalt@x", &[2, 4], "true 2@0..4 of 2"),
        ("with=juliet@x", &[], "true @?.. of 0"),
        ("with=juliet@x/balcony", &[1, 3, 5], "true 1@0..5 of 3"),
        ("with=@", &[], "modify/bad-request"),
        (&format!("with={wide}"), &[], "modify/bad-request"),
        ("start=2026-11-22T10:00:20Z", &[3, 4, 5], "true 3@0..5 of 3"),
        ("start=2026-11-22T10:00:20.001Z", &[4, 5], "true 4@0..5 of 2"),
        ("start=2020-01-01T00:00:00Z", &[1, 2, 3, 4, 5], "true 1@0..5 of 5"),
        ("start=2030-01-01T00:00:00Z", &[], "true @?.. of 0"),
        ("end=2026-11-22T10:00:20Z", &[1, 2, 3], "true 1@0..3 of 3"),
        ("end=2026-11-22T10:00:19.999Z", &[1, 2], "true 1@0..2 of 2"),
        ("end=2020-01-01T00:00:00Z", &[], "true @?.. of 0"),
        ("start=2026-11-22T10:00:10Z;end=2026-11-22T10:00:30Z;with=tybalt@x", &[2, 4], "true 2@0..4 of 2"),
        ("start=2026-11-22T11:00:40+01:00", &[5], "true 5@0..5 of 1"),
        ("start=yesterday", &[], "modify/bad-request"),
        ("start=2026-11-22T10:00:20Z 2026-11-22T10:00:20Z", &[], "modify/bad-request"),
        ("after-id=000000000002", &[3, 4, 5], "true 3@0..5 of 3"),
        ("after-id=000000000002;before-id=000000000005", &[3, 4], "true 3@0..4 of 2"),
        ("after-id=000000000004;before-id=000000000002", &[], "true @?.. of 0"),
        ("before-id=000000000009", &[], "cancel/item-not-found"),
        ("ids=000000000004 000000000002", &[2, 4], "true 2@0..4 of 2"),
        ("ids=000000000004 000000000002;with=romeo@x", &[], "true @?.. of 0"),
        ("ids=000000000004 000000000002;start=2026-11-22T10:00:20Z", &[4], "true 4@0..4 of 1"),
        ("ids=000000000004 000000000009", &[], "cancel/item-not-found"),
        ("ids=x", &[], "cancel/item-not-found"),
        ("include-groupchat=true", &[], "cancel/feature-not-implemented"),
    ] {
        let fields_xml: String = fields.split(';').map(|f| f.split_once('=').unwrap()).map(|(var, v)| field(var, v)).collect();
        let got = ask(&mut world, "juliet/balcony", &format!("<x xmlns='jabber:x:data' type='submit'>{FORM}{fields_xml}</x>"));
        assert_eq!((got.0.as_slice(), got.1.as_str()), (rows, end), "{}", &fields[..fields.len().min(100)]);
    }
    for (form, end) in [
        (format!("<x xmlns='jabber:x:data' type='form'>{FORM}</x>"), "modify/bad-request"),
        ("<x xmlns='jabber:x:data' type='submit'/>".into(), "modify/bad-request"),
        ("<x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE'><value>f</value></field></x>".into(), "modify/bad-request"),
        (format!("<x xmlns='jabber:x:data' type='submit'>{FORM}<field/></x>"), "modify/bad-request"),
        (format!("<x xmlns='jabber:x:data' type='submit'>{FORM}</x>"), "true 1@0..5 of 5"),
        (
            format!("<x xmlns='jabber:x:data' type='submit'>{FORM}{}</x>", field("ids", &vec!["000000000001"; 251].join(" "))),
            "modify/bad-request",
        ),
    ] {
        assert_eq!(ask(&mut world, "juliet/balcony", &form).1, end, "{form}");
    }
}

/// Messages to oneself (§4.1.1).
#[test]
fn with_oneself() {
    let mut world = World::new(crate::pipeline());
    world.run("juliet/balcony comes\nromeo/orchard comes");
    for to in ["juliet@x", "romeo@x", "juliet@x/balcony"] {
        world.says("juliet/balcony", &format!("<message to='{to}' type='chat'><body>hi</body></message>"));
    }
    world.heard("juliet/balcony");
    let form = |with| format!("<x xmlns='jabber:x:data' type='submit'>{FORM}<field var='with'><value>{with}</value></field></x>");
    assert_eq!(ask(&mut world, "juliet/balcony", &form("juliet@x")).0, [1, 3]);
    assert_eq!(ask(&mut world, "juliet/balcony", "").0, [1, 2, 3]);
    world.heard("romeo/orchard");
}

#[test]
fn form_node_and_queryid() {
    let one = |type_, var| format!("<field type='{type_}' var='{var}'/>");
    check(&format!(
        "
        juliet/balcony binds
        juliet/balcony > <iq id='1' type='get'><query xmlns='urn:xmpp:mam:2'/></iq>
        juliet/balcony < <iq id='1' type='result' to='juliet@x/balcony'><query xmlns='urn:xmpp:mam:2'>
            <x xmlns='jabber:x:data' type='form'>{FORM}{}{}{}{}{}<field type='list-multi' var='ids'>
            <validate xmlns='http://jabber.org/protocol/xdata-validate' datatype='xs:string'><open/></validate></field>
            </x></query></iq>
        juliet/balcony > <iq id='3' type='set'><query xmlns='urn:xmpp:mam:2' queryid='{}'/></iq>
        juliet/balcony < <iq id='3' type='error' to='juliet@x/balcony'>
            <error type='modify'><bad-request xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>
        juliet/balcony > <iq id='2' type='set'><query xmlns='urn:xmpp:mam:2' node='n'/></iq>
        juliet/balcony < <iq id='2' type='error' to='juliet@x/balcony'>
            <error type='cancel'><item-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>
        ",
        one("jid-single", "with"),
        one("text-single", "start"),
        one("text-single", "end"),
        one("text-single", "before-id"),
        one("text-single", "after-id"),
        "q".repeat(types::limit::STANZA_ID_BYTES_MAX + 1),
    ));
}

#[test]
fn metadata() {
    check(
        "
        romeo/orchard binds
        juliet/balcony comes
        juliet/balcony > <iq id='1' type='get'><metadata xmlns='urn:xmpp:mam:2'/></iq>
        juliet/balcony < <iq id='1' type='result' to='juliet@x/balcony'><metadata xmlns='urn:xmpp:mam:2'/></iq>
        juliet/balcony > <message to='romeo@x' type='chat'><body>hi</body></message>
        juliet/balcony > <iq id='2' type='get'><metadata xmlns='urn:xmpp:mam:2'/></iq>
        juliet/balcony < <iq id='2' type='result' to='juliet@x/balcony'><metadata xmlns='urn:xmpp:mam:2'>
            <start id='000000000001' timestamp='2026-11-22T10:00:00.000Z'/>
            <end id='000000000001' timestamp='2026-11-22T10:00:00.000Z'/></metadata></iq>
        wait 9
        juliet/balcony > <message to='romeo@x' type='chat'><body>ho</body></message>
        juliet/balcony > <iq id='3' type='get'><metadata xmlns='urn:xmpp:mam:2'/></iq>
        juliet/balcony < <iq id='3' type='result' to='juliet@x/balcony'><metadata xmlns='urn:xmpp:mam:2'>
            <start id='000000000001' timestamp='2026-11-22T10:00:00.000Z'/>
            <end id='000000000002' timestamp='2026-11-22T10:00:09.000Z'/></metadata></iq>
        ",
    );
}

/// XEP-0441: (preferences, who is in the roster, archived with romeo, archived with tybalt).
#[test]
fn preferences() {
    let jids = |list: &[&str]| list.iter().map(|j| format!("<jid>{j}</jid>")).collect::<String>();
    for (default, always, never, romeo, tybalt) in [
        ("always", &[][..], &[][..], true, true),
        ("never", &[], &[], false, false),
        ("roster", &[], &[], true, false),
        ("never", &["tybalt@x"], &[], false, true),
        ("always", &[], &["tybalt@x", "romeo@x/orchard"], false, false),
        ("roster", &["tybalt@x/street"], &["romeo@x"], false, true),
        ("always", &["romeo@x"], &["romeo@x", "tybalt@x/house"], false, true),
    ] {
        let prefs = format!(
            "<prefs xmlns='urn:xmpp:mam:2' default='{default}'><always>{}</always><never>{}</never></prefs>",
            jids(always),
            jids(&{
                let mut sorted = never.to_vec();
                sorted.sort_unstable();
                sorted
            })
        );
        let mut world = World::new(crate::pipeline());
        world.run(&format!(
            "
            juliet meets romeo
            juliet/balcony comes
            juliet/balcony > <iq id='1' type='set'>{prefs}</iq>
            juliet/balcony < <iq id='1' type='result' to='juliet@x/balcony'>{prefs}</iq>
            juliet reloads
            juliet/balcony comes
            juliet/balcony > <iq id='1' type='get'><prefs xmlns='urn:xmpp:mam:2'/></iq>
            juliet/balcony < <iq id='1' type='result' to='juliet@x/balcony'>{prefs}</iq>
            romeo/orchard comes
            tybalt/street comes
            juliet/balcony is quiet
            "
        ));
        let mut expected = Vec::new();
        for (who, to, archived) in [
            ("juliet/balcony", "romeo@x/orchard", romeo),
            ("romeo/orchard", "juliet@x", romeo),
            ("juliet/balcony", "tybalt@x/street", tybalt),
            ("tybalt/street", "juliet@x", tybalt),
        ] {
            world.says(who, &format!("<message to='{to}' type='chat'><body>{who}{to}</body></message>"));
            expected.extend(archived.then(|| format!("{who}{to}")));
        }
        for who in ["juliet/balcony", "romeo/orchard", "tybalt/street"] {
            world.heard(who);
        }
        world.says("juliet/balcony", "<iq id='1' type='set'><query xmlns='urn:xmpp:mam:2'/></iq>");
        let heard = world.heard("juliet/balcony");
        let body = |s: &SharedStanza| {
            let result: Element = s.child("result", ns::MAM)?.element().ok()?;
            let message = result.child("forwarded", ns::FORWARD)?.child("message", ns::CLIENT)?;
            Some(message.child("body", ns::CLIENT)?.text().into_owned())
        };
        assert_eq!(heard.iter().filter_map(body).collect::<Vec<_>>(), expected, "{prefs}");
    }
}

#[test]
fn bad_preferences() {
    for (prefs, condition) in [
        ("<prefs xmlns='urn:xmpp:mam:2'/>", "bad-request"),
        ("<prefs xmlns='urn:xmpp:mam:2' default='sometimes'/>", "bad-request"),
        ("<prefs xmlns='urn:xmpp:mam:2' default='never'><always><jid>@</jid></always></prefs>", "jid-malformed"),
    ] {
        check(&format!(
            "
            juliet/balcony binds
            juliet/balcony > <iq id='1' type='set'>{prefs}</iq>
            juliet/balcony < <iq id='1' type='error' to='juliet@x/balcony'>
                <error type='modify'><{condition} xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>
            "
        ));
    }
    let many: String = (0..=super::prefs::JIDS_MAX).map(|n| format!("<jid>u{n}@x</jid>")).collect();
    let mut world = World::new(crate::pipeline());
    world.run("juliet/balcony binds");
    let prefs = format!("<prefs xmlns='urn:xmpp:mam:2' default='never'><never>{many}</never></prefs>");
    world.says("juliet/balcony", &format!("<iq id='1' type='set'>{prefs}</iq>"));
    assert!(world.heard("juliet/balcony")[0].is_error());
}

/// K10: nobody reads somebody else's archive, or asks about it.
#[test]
fn strangers() {
    for text in [
        "<iq to='juliet@x' id='1' type='set'><query xmlns='urn:xmpp:mam:2'/></iq>",
        "<iq to='juliet@x' id='1' type='get'><query xmlns='urn:xmpp:mam:2'/></iq>",
        "<iq to='juliet@x' id='1' type='get'><metadata xmlns='urn:xmpp:mam:2'/></iq>",
        "<iq to='juliet@x' id='1' type='get'><prefs xmlns='urn:xmpp:mam:2'/></iq>",
        "<iq to='juliet@x' id='1' type='set'><prefs xmlns='urn:xmpp:mam:2' default='always'/></iq>",
    ] {
        check(&format!(
            "
            juliet meets romeo
            romeo/orchard comes
            romeo/orchard > {text}
            romeo/orchard < <iq id='1' type='error' from='juliet@x' to='romeo@x/orchard'>
                <error type='auth'><forbidden xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>
            "
        ));
    }
}

/// K14: four queries of one account run at a time.
#[test]
fn parallel_queries() {
    let asks = |n| format!("juliet/balcony > <iq id='{n}' type='set'><query xmlns='urn:xmpp:mam:2'/></iq>");
    let answered = |n| {
        format!(
            "juliet/balcony < <iq id='{n}' type='result' to='juliet@x/balcony'><fin xmlns='urn:xmpp:mam:2' complete='true'>
            <set xmlns='http://jabber.org/protocol/rsm'><count>0</count></set></fin></iq>"
        )
    };
    let all = |what: &dyn Fn(i32) -> String| (1..=4).map(what).collect::<Vec<_>>().join("\n");
    check(&format!(
        "
        juliet/balcony comes
        romeo/orchard comes
        juliet/balcony enables
        juliet/balcony > <message to='romeo@x' type='chat'><body>hi</body><no-permanent-store xmlns='urn:xmpp:hints'/></message>
        romeo/orchard is quiet
        store stops
        {}
        {}
        juliet/balcony < <iq id='5' type='error' to='juliet@x/balcony'>
            <error type='wait'><resource-constraint xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>
        store answers
        {}
        {}
        {}
        ",
        all(&asks),
        asks(5),
        all(&answered),
        asks(6),
        answered(6),
    ));
}

/// A client that does not acknowledge gets smaller pages, then none, and keeps its session.
#[test]
fn pages_fit_the_tail() {
    let mut world = World::new(crate::pipeline());
    world.create(&jid("romeo"));
    world.run("juliet/balcony comes\njuliet/balcony enables");
    for _ in 0..300 {
        world.says("juliet/balcony", "<message to='romeo@x' type='chat'><body>hi</body></message>");
    }
    let mut sizes = Vec::new();
    loop {
        let (rows, end) = ask(&mut world, "juliet/balcony", "");
        if rows.is_empty() {
            assert_eq!(end, "wait/resource-constraint");
            break;
        }
        sizes.push(rows.len());
        assert!(sizes.len() < 1_000);
    }
    assert_eq!(sizes, [250, 124, 62, 30]);
    assert_eq!(world.ended("juliet/balcony"), None);
    world.run("juliet/balcony acks");
    assert_eq!(ask(&mut world, "juliet/balcony", "").0.len(), 250);
}

/// A page of big messages is bounded by its bytes.
#[test]
fn pages_are_bounded_in_bytes() {
    let mut world = World::new(crate::pipeline());
    world.create(&jid("romeo"));
    world.run("juliet/balcony comes");
    let body = "b".repeat(200_000);
    for _ in 0..8 {
        world.says("juliet/balcony", &format!("<message to='romeo@x' type='chat'><body>{body}</body></message>"));
    }
    let (rows, end) = ask(&mut world, "juliet/balcony", "");
    assert_eq!((rows.as_slice(), end.as_str()), (&[1, 2, 3, 4, 5][..], "more 1@0..5 of "));
    assert!(super::search::PAGE_BYTES_MAX / body.len() == 5);
    let (rows, _) = ask(&mut world, "juliet/balcony", "<set xmlns='http://jabber.org/protocol/rsm'><before/></set>");
    assert_eq!(rows, [4, 5, 6, 7, 8]);
}

/// A filter, as the query that is tested should do it.
type Keep = dyn Fn(u64, &Row) -> bool;

/// An archive of several buckets with holes, looked at in every way, and what a plain filter over all rows says.
#[test]
fn big_archive() {
    const LAST: u64 = 25_000;
    let start = Timestamp::parse(START).unwrap();
    let mut draws = Draws(7);
    let mut rows: Vec<(u64, Row)> = Vec::new();
    let mut at = start;
    for row in 1..=LAST {
        at = Timestamp(at.0 + draws.below(3));
        // A bucket that is all but empty, and holes elsewhere.
        if (10_000..19_000).contains(&row) || draws.below(5) != 0 {
            continue;
        }
        let peer = ["romeo@x/orchard", "tybalt@x/street", "paris@x/church"][if row % 97 == 0 { 2 } else { (row % 2) as usize }];
        let stanza = Stanza::message(jid("juliet"), MessageType::Chat).with_from(types::Jid::parse(peer).unwrap()).with_body("b");
        let sender = stanza.from.as_ref().unwrap().to_bare();
        let archived = draws.below(4) != 0;
        rows.push((
            row,
            Row { at, sender, origin: Origin::default(), target: None, archived, owed: Owed::new(), stanza: Arc::new(stanza) },
        ));
    }
    let mut world = filled(&rows, LAST, at);
    let archived: Vec<&(u64, Row)> = rows.iter().filter(|(_, r)| r.archived).collect();
    let pick = |draws: &mut Draws| archived[draws.below(archived.len() as u64) as usize];
    for n in 0..150 {
        let (mut fields, mut page) = (String::new(), String::new());
        let mut keep: Vec<Box<Keep>> = Vec::new();
        let mut field = |var: &str, value: &str| fields.push_str(&format!("<field var='{var}'><value>{value}</value></field>"));
        if draws.below(2) == 0 {
            let with = ["romeo@x", "paris@x", "tybalt@x/street", "nobody@x"][draws.below(4) as usize];
            field("with", with);
            keep.push(Box::new(move |_, r| r.stanza.from.as_ref().is_some_and(|f| f.as_str() == with || f.bare_str() == with)));
        }
        if draws.below(3) == 0 {
            let from = Timestamp(start.0 + draws.below(at.0 - start.0 + 100));
            field("start", &from.to_string());
            keep.push(Box::new(move |_, r| r.at >= from));
        }
        if draws.below(3) == 0 {
            let until = Timestamp(start.0 + draws.below(at.0 - start.0 + 100));
            field("end", &until.to_string());
            keep.push(Box::new(move |_, r| r.at <= until));
        }
        if draws.below(4) == 0 {
            let after = pick(&mut draws).0;
            field("after-id", &id(after));
            keep.push(Box::new(move |row, _| row > after));
        }
        let backwards = draws.below(2) == 0;
        if backwards {
            page.push_str("<before/>");
        } else if draws.below(2) == 0 {
            let after = pick(&mut draws).0;
            page.push_str(&format!("<after>{}</after>", id(after)));
            keep.push(Box::new(move |row, _| row > after));
        }
        let max = [1, 10, 250][draws.below(3) as usize];
        let mut wanted: Vec<u64> = archived.iter().filter(|(row, r)| keep.iter().all(|k| k(*row, r))).map(|(row, _)| *row).collect();
        let complete = wanted.len() <= max;
        if backwards {
            wanted.drain(..wanted.len().saturating_sub(max));
        }
        wanted.truncate(max);
        let asked = format!(
            "<x xmlns='jabber:x:data' type='submit'>{FORM}{fields}</x><set xmlns='http://jabber.org/protocol/rsm'><max>{max}</max>{page}</set>"
        );
        let (got, end) = ask(&mut world, "juliet/balcony", &asked);
        assert_eq!(got, wanted, "{n}: {asked}");
        assert_eq!(end.starts_with("true"), complete, "{n}: {asked}: {end}");
    }
    world.says("juliet/balcony", "<iq id='1' type='get'><metadata xmlns='urn:xmpp:mam:2'/></iq>");
    let metadata = world.heard("juliet/balcony")[0].child("metadata", ns::MAM).unwrap().element().unwrap();
    let end = |name| metadata.child(name, ns::MAM).unwrap().attr("id").unwrap().to_owned();
    assert_eq!((end("start"), end("end")), (id(archived[0].0), id(archived.last().unwrap().0)));
    let count = "<set xmlns='http://jabber.org/protocol/rsm'><max>0</max></set>";
    assert_eq!(ask(&mut world, "juliet/balcony", count).1, format!("more @?.. of {}", archived.len()));
}

/// Rows that a stale owner wrote behind its seal are not in the archive, also where a page of the log ends between two cells of one row.
#[test]
fn stale_rows_are_no_items() {
    let at = Timestamp::parse(START).unwrap();
    let row = |body: &str| Row {
        at,
        sender: jid("romeo"),
        origin: Origin::default(),
        target: None,
        archived: true,
        owed: Owed::new(),
        stanza: Arc::new(Stanza::message(jid("juliet"), MessageType::Chat).with_from(jid("romeo")).with_body(body)),
    };
    let mut world = World::new(crate::pipeline());
    world.sealed = true;
    let juliet = jid("juliet");
    world.create(&juliet);
    // Owner 2 took over at row 151; owner 1 went on for a while.
    let mut seal = Seal::default();
    seal.close(Epoch(2), 151);
    world.cells.entry(row::seal(&juliet)).or_default().insert(seal::KEY.into(), seal.encode());
    let cells = world.cells.entry(bucket(&juliet, 1)).or_default();
    for (rows, epoch, body) in [(1..=151, 1, "good"), (152..=400, 1, "stale"), (152..=501, 2, "good")] {
        for n in rows {
            cells.insert(cell_key(Pos { row: n, epoch: Epoch(epoch) }), row(body).encode());
        }
    }
    checkpoint(&mut world, 501, at);
    world.run("juliet reloads\njuliet reloads\njuliet/balcony comes");
    for (page, direction) in [("<max>250</max>", "after"), ("<max>250</max><before/>", "before")] {
        let (mut page, mut all) = (page.to_owned(), Vec::new());
        loop {
            let asked = format!("<set xmlns='http://jabber.org/protocol/rsm'>{page}</set>");
            world.says("juliet/balcony", &format!("<iq id='1' type='set'><query xmlns='urn:xmpp:mam:2'>{asked}</query></iq>"));
            let mut heard = world.heard("juliet/balcony");
            let end = fin(&heard.pop().unwrap());
            assert!(heard.iter().all(|s| !s.to_element().unwrap().to_string().contains("stale")), "{page}");
            let ids: Vec<String> = heard.iter().map(|s| s.child("result", ns::MAM).unwrap().attr("id").unwrap()).collect();
            let next = if direction == "after" { ids.last() } else { ids.first() };
            page = format!("<max>250</max><{direction}>{}</{direction}>", next.unwrap());
            all.extend(ids);
            if end.starts_with("true") {
                break;
            }
        }
        all.sort_unstable();
        assert_eq!(all, (1..=501).map(id).collect::<Vec<_>>(), "{direction}");
    }
}

/// Juliet, with these rows in her log.
fn filled(rows: &[(u64, Row)], last: u64, at: Timestamp) -> World {
    let mut world = World::new(crate::pipeline());
    let (juliet, epoch) = (jid("juliet"), Epoch(1));
    world.create(&juliet);
    for (row, value) in rows {
        let cells = world.cells.entry(bucket(&juliet, *row)).or_default();
        cells.insert(cell_key(Pos { row: *row, epoch }), value.encode());
    }
    checkpoint(&mut world, last, at);
    world.run("juliet reloads\njuliet/balcony comes");
    assert_eq!(world.account(&juliet).state.log.last(), last);
    world
}

/// Juliet's log is settled up to its last row.
fn checkpoint(world: &mut World, last: u64, at: Timestamp) {
    let juliet = jid("juliet");
    let mut checkpoint = Checkpoint::default();
    checkpoint.last = last;
    checkpoint.last_at = at;
    let mut fx = Effects::default();
    Log::from_checkpoint(checkpoint).checkpoint(&juliet, &partition(&juliet), cell::CHECKPOINT, at, &mut fx);
    for effect in fx.list {
        let Effect::Write(batch) = effect else { panic!() };
        for op in batch.ops {
            let Op::Put { key, value } = op else { panic!() };
            world.cells.entry(batch.partition.clone()).or_default().insert(key, value);
        }
    }
}

/// Numbers without a pattern that the test depends on, the same each time.
struct Draws(u64);

impl Draws {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// Kinds of stanzas other than messages never come here.
#[test]
fn results_are_messages() {
    let mut world = five();
    world.says("juliet/balcony", "<iq id='1' type='set'><query xmlns='urn:xmpp:mam:2'/></iq>");
    let heard = world.heard("juliet/balcony");
    assert!(heard[..5].iter().all(|s| s.kind == Kind::Message && s.type_ == stanza::Type::Absent));
    assert_eq!(heard[5].kind, Kind::Iq);
}
