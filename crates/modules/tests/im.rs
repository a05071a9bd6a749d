//! RFC 6121 on real accounts with every module, as transcripts: see `entity::testing`.

use chappe_modules::pipeline;
use entity::testing::{World, check, jid};
use frame::EdgeMsg;
use types::{Collection, ConnId, ReqId};

fn run(script: &str) {
    check(pipeline(), script);
}

/// The error of a stanza that is refused, as it stands in the reply.
fn error(type_: &str, condition: &str) -> String {
    format!("<error type='{type_}'><{condition} xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>")
}

const NO_STORE: &str = "<no-store xmlns='urn:xmpp:hints'/>";

/// §8.5.2.1.1: who gets a message to the bare JID. (priorities of three sessions, in the order of binding; type; who.)
#[test]
fn messages_to_the_bare_jid() {
    for (priorities, type_, who) in [
        ([Some(0), Some(0), Some(0)], "chat", &[2][..]),
        ([Some(5), Some(5), Some(-1)], "chat", &[1]),
        ([Some(5), Some(1), None], "normal", &[0]),
        ([Some(-1), None, None], "chat", &[]),
        ([Some(1), Some(0), Some(-1)], "headline", &[0, 1]),
        ([None, Some(0), None], "headline", &[1]),
        ([Some(1), Some(0), Some(-1)], "error", &[]),
    ] {
        let mut world = World::new(pipeline());
        world.run("juliet/balcony comes\nromeo/0 binds\nromeo/1 binds\nromeo/2 binds");
        for (n, priority) in priorities.iter().enumerate() {
            if let Some(p) = priority {
                world.says(&format!("romeo/{n}"), &format!("<presence><priority>{p}</priority></presence>"));
            }
        }
        (0..3).for_each(|n| drop(world.heard(&format!("romeo/{n}"))));
        world.says("juliet/balcony", &format!("<message to='romeo@x' type='{type_}'><body>hi</body>{NO_STORE}</message>"));
        let heard: Vec<usize> = (0..3).filter(|n| !world.heard(&format!("romeo/{n}")).is_empty()).collect();
        assert_eq!(heard, who, "{priorities:?} {type_}");
        assert!(world.heard("juliet/balcony").is_empty());
    }
}

#[test]
fn groupchat_and_nobody() {
    run(&format!(
        "
        juliet/balcony comes
        romeo/orchard comes
        juliet/balcony > <message to='romeo@x' type='groupchat' id='1'><body>hi</body></message>
        juliet/balcony < <message from='romeo@x' to='juliet@x/balcony' type='error' id='1'><body>hi</body>{0}</message>
        juliet/balcony > <message to='nobody@x' id='2'><body>hi</body></message>
        juliet/balcony < <message from='nobody@x' to='juliet@x/balcony' type='error' id='2'><body>hi</body>{0}</message>
        juliet/balcony > <message to='x' id='3'><body>hi</body></message>
        juliet/balcony < <message from='x' to='juliet@x/balcony' type='error' id='3'><body>hi</body>{0}</message>
        juliet/balcony > <message to='romeo@y' id='4'><body>hi</body></message>
        juliet/balcony < <message from='romeo@y' to='juliet@x/balcony' type='error' id='4'><body>hi</body>{1}</message>
        juliet/balcony > <message id='5' type='headline'><body>to myself</body></message>
        juliet/balcony < <message from='juliet@x/balcony' to='juliet@x' id='5' type='headline'><body>to myself</body></message>
        ",
        error("cancel", "service-unavailable"),
        error("cancel", "remote-server-not-found"),
    ));
}

/// §3.1.5: presence does not overtake the `subscribed` that it rests on, or whoever comes in between never sees it.
#[test]
fn presence_follows_subscribed() {
    run("
        juliet/balcony comes
        romeo/orchard comes
        romeo/orchard > <presence to='juliet@x' type='subscribe'/>
        juliet/balcony < <presence from='romeo@x' to='juliet@x' type='subscribe'/>
        forwards wait
        juliet/balcony > <presence to='romeo@x' type='subscribed'/>
        romeo/new comes
        forwards arrive
        romeo/orchard < <presence from='juliet@x/balcony' to='romeo@x'/>
        romeo/new < <presence from='juliet@x/balcony' to='romeo@x'/>
        ");
}

/// §3.1, §2.1.6: the whole of a subscription, as both see it.
#[test]
fn subscription() {
    let mut world = World::new(pipeline());
    world.run("juliet/1 comes\nromeo/1 comes");
    let roster = "<iq id='r' type='get'><query xmlns='jabber:iq:roster'/></iq>";
    for who in ["juliet/1", "romeo/1"] {
        world.says(who, roster);
        let heard = world.heard(who);
        assert_eq!(heard.len(), 1);
        assert!(heard[0].payload().unwrap().element().unwrap().children.is_empty());
    }
    let said = |world: &mut World, who: &str| -> Vec<String> {
        let heard = world.heard(who);
        heard.iter().map(|s| brief(&s.to_element().unwrap())).collect()
    };
    world.says("juliet/1", "<presence to='romeo@x/any' type='subscribe'><status>hi</status></presence>");
    assert_eq!(said(&mut world, "juliet/1"), ["push romeo@x none ask"]);
    assert_eq!(said(&mut world, "romeo/1"), ["presence subscribe from juliet@x to romeo@x: status"]);
    // Asked again, told again.
    world.says("juliet/1", "<presence to='romeo@x' type='subscribe'/>");
    assert_eq!(said(&mut world, "juliet/1"), [""; 0]);
    world.heard("romeo/1");
    world.says("romeo/1", "<presence to='juliet@x' type='subscribed'/>");
    assert_eq!(said(&mut world, "romeo/1"), ["push juliet@x from"]);
    assert_eq!(
        said(&mut world, "juliet/1"),
        ["presence subscribed from romeo@x to juliet@x", "push romeo@x to", "presence from romeo@x/1 to juliet@x"]
    );
    world.says("romeo/1", "<presence to='juliet@x' type='subscribe'/>");
    assert_eq!(said(&mut world, "romeo/1"), ["push juliet@x from ask"]);
    assert_eq!(said(&mut world, "juliet/1"), ["presence subscribe from romeo@x to juliet@x"]);
    world.says("juliet/1", "<presence to='romeo@x' type='subscribed'/>");
    assert_eq!(said(&mut world, "juliet/1"), ["push romeo@x both"]);
    assert_eq!(
        said(&mut world, "romeo/1"),
        ["presence subscribed from juliet@x to romeo@x", "push juliet@x both", "presence from juliet@x/1 to romeo@x"]
    );
    // Presence goes both ways now.
    world.says("juliet/1", "<presence><show>away</show></presence>");
    assert_eq!(said(&mut world, "romeo/1"), ["presence from juliet@x/1 to romeo@x: show"]);
    assert_eq!(said(&mut world, "juliet/1"), ["presence from juliet@x/1 to juliet@x: show"]);
    // §3.3: romeo no longer wants hers.
    world.says("romeo/1", "<presence to='juliet@x' type='unsubscribe'/>");
    assert_eq!(said(&mut world, "romeo/1"), ["push juliet@x from", "presence unavailable from juliet@x/1 to romeo@x"]);
    assert_eq!(said(&mut world, "juliet/1"), ["presence unsubscribe from romeo@x to juliet@x", "push romeo@x to"]);
    // §2.5: juliet removes him altogether.
    world
        .says("juliet/1", "<iq id='d' type='set'><query xmlns='jabber:iq:roster'><item jid='romeo@x' subscription='remove'/></query></iq>");
    assert_eq!(said(&mut world, "juliet/1"), ["push romeo@x remove", "iq result", "presence unavailable from romeo@x/1 to juliet@x"]);
    assert_eq!(said(&mut world, "romeo/1"), ["presence unsubscribe from juliet@x to romeo@x", "push juliet@x none"]);
}

/// What happened, in a few words.
fn brief(s: &xml::Element) -> String {
    if let Some(item) = s.child("query", "jabber:iq:roster").and_then(|q| q.children().next()) {
        let ask = if item.attr("ask").is_some() { " ask" } else { "" };
        return format!("push {} {}{ask}", item.attr("jid").unwrap(), item.attr("subscription").unwrap());
    }
    let mut text = s.name.to_string();
    for (name, before) in [("type", ""), ("from", "from "), ("to", "to ")] {
        if let Some(value) = s.attr(name).filter(|_| s.name != "iq" || name == "type") {
            text.push_str(&format!(" {before}{value}"));
        }
    }
    let children: Vec<String> = s.children().map(|c| c.name.to_string()).collect();
    if !children.is_empty() {
        text.push_str(&format!(": {}", children.join(" ")));
    }
    text
}

/// §4: who sees whom come, change and go.
#[test]
fn presence() {
    run("
        juliet meets romeo
        romeo/orchard comes
        juliet/balcony binds
        juliet/balcony > <presence/>
        juliet/balcony < <presence from='juliet@x/balcony' to='juliet@x'/>
        romeo/orchard < <presence from='juliet@x/balcony' to='romeo@x'/>
        juliet/balcony < <presence from='romeo@x/orchard' to='juliet@x/balcony'/>
        romeo/tomb binds
        romeo/tomb > <presence><priority>-1</priority></presence>
        romeo/orchard < <presence from='romeo@x/tomb' to='romeo@x'><priority>-1</priority></presence>
        romeo/tomb < <presence from='romeo@x/tomb' to='romeo@x'><priority>-1</priority></presence>
        romeo/tomb < <presence from='romeo@x/orchard' to='romeo@x'/>
        juliet/balcony < <presence from='romeo@x/tomb' to='juliet@x'><priority>-1</priority></presence>
        romeo/tomb < <presence from='juliet@x/balcony' to='romeo@x/tomb'/>
        romeo/tomb drops
        romeo/orchard < <presence from='romeo@x/tomb' to='romeo@x' type='unavailable'/>
        juliet/balcony < <presence from='romeo@x/tomb' to='juliet@x' type='unavailable'/>
        juliet/balcony > <presence type='unavailable'><status>bye</status></presence>
        romeo/orchard < <presence from='juliet@x/balcony' to='romeo@x' type='unavailable'><status>bye</status></presence>
        juliet/balcony > <presence type='unavailable'/>
        romeo/orchard > <presence><show>away</show></presence>
        romeo/orchard < <presence from='romeo@x/orchard' to='romeo@x'><show>away</show></presence>
        juliet/balcony > <presence/>
        juliet/balcony < <presence from='juliet@x/balcony' to='juliet@x'/>
        romeo/orchard < <presence from='juliet@x/balcony' to='romeo@x'/>
        juliet/balcony < <presence from='romeo@x/orchard' to='juliet@x/balcony'><show>away</show></presence>
    ");
}

/// §4.6: presence for one address, and its end.
#[test]
fn directed_presence() {
    run("
        juliet/balcony comes
        tybalt/street comes
        juliet/balcony > <presence to='tybalt@x/street'><status>en garde</status></presence>
        tybalt/street < <presence from='juliet@x/balcony' to='tybalt@x/street'><status>en garde</status></presence>
        juliet/balcony > <presence><show>away</show></presence>
        juliet/balcony < <presence from='juliet@x/balcony' to='juliet@x'><show>away</show></presence>
        juliet/balcony goes
        tybalt/street < <presence from='juliet@x/balcony' to='tybalt@x/street' type='unavailable'/>
        juliet/balcony binds
        juliet/balcony > <presence to='tybalt@x'/>
        tybalt/street < <presence from='juliet@x/balcony' to='tybalt@x'/>
        juliet/balcony > <presence to='tybalt@x' type='unavailable'/>
        tybalt/street < <presence from='juliet@x/balcony' to='tybalt@x' type='unavailable'/>
        juliet/balcony goes
        tybalt/street hears nothing
    ");
}

/// RFC 6120 §8.2.3, §10.3.3; RFC 6121 §8.5.2.1.3: what has no handler is answered, what is no request is not.
#[test]
fn requests() {
    let unavailable = error("cancel", "service-unavailable");
    run(&format!(
        "
        juliet/balcony comes
        romeo/orchard binds
        juliet/balcony > <iq id='1' type='get'><q xmlns='q'/></iq>
        juliet/balcony < <iq id='1' type='error' to='juliet@x/balcony'>{unavailable}</iq>
        juliet/balcony > <iq id='2' type='get' to='x'><q xmlns='q'/></iq>
        juliet/balcony < <iq id='2' type='error' to='juliet@x/balcony' from='x'>{unavailable}</iq>
        juliet/balcony > <iq id='3' type='set' to='romeo@x'><q xmlns='q'/></iq>
        juliet/balcony < <iq id='3' type='error' to='juliet@x/balcony' from='romeo@x'>{unavailable}</iq>
        juliet/balcony > <iq id='4' type='set' to='nobody@x'><q xmlns='q'/></iq>
        juliet/balcony < <iq id='4' type='error' to='juliet@x/balcony' from='nobody@x'>{unavailable}</iq>
        juliet/balcony > <iq id='5' type='set' to='juliet@x/gone'><q xmlns='q'/></iq>
        juliet/balcony < <iq id='5' type='error' to='juliet@x/balcony' from='juliet@x/gone'>{unavailable}</iq>
        juliet/balcony > <iq id='6' type='get' to='juliet@x/balcony'><q xmlns='q'/></iq>
        juliet/balcony < <iq id='6' type='get' to='juliet@x/balcony' from='juliet@x/balcony'><q xmlns='q'/></iq>
        juliet/balcony > <iq id='7' type='result' to='x'/>
        juliet/balcony > <iq id='8' type='error' to='nobody@x'/>
        juliet/balcony > <iq id='9' type='get' to='romeo@y'><q xmlns='q'/></iq>
        juliet/balcony < <iq id='9' type='error' to='juliet@x/balcony' from='romeo@y'>{}</iq>
        romeo/orchard hears nothing
        ",
        error("cancel", "remote-server-not-found"),
    ));
}

/// XEP-0198 §5: what came while the stream was gone, in order, once; carbons stay on.
#[test]
fn resumption() {
    let message = |n: u8| {
        format!(
            "<message from='romeo@x/orchard' to='juliet@x' type='chat'><body>{n}</body>
            <stanza-id xmlns='urn:xmpp:sid:0' by='juliet@x' id='00000000000{n}'/></message>"
        )
    };
    run(&format!(
        "
        juliet/balcony comes
        romeo/orchard comes
        juliet/balcony enables
        juliet/balcony > <iq id='1' type='set'><enable xmlns='urn:xmpp:carbons:2'/></iq>
        juliet/balcony < <iq id='1' type='result' to='juliet@x/balcony'/>
        juliet/balcony acks
        romeo/orchard > <message to='juliet@x' type='chat'><body>1</body></message>
        juliet/balcony < {}
        juliet/balcony acks
        juliet/balcony drops
        romeo/orchard > <message to='juliet@x' type='chat'><body>2</body></message>
        romeo/orchard > <message to='juliet@x' type='chat'><body>3</body></message>
        wait 60
        juliet/balcony resumes
        juliet/balcony < {}
        juliet/balcony < {}
        juliet/balcony acks
        juliet/balcony drops
        juliet/balcony resumes
        juliet/balcony hears nothing
        juliet/crypt comes
        juliet/balcony is quiet
        juliet/crypt > <message to='romeo@x' type='headline'><body>!</body></message>
        romeo/orchard < <message from='juliet@x/crypt' to='romeo@x' type='headline'><body>!</body></message>
        juliet/crypt > <message to='romeo@x' type='chat'><body>!</body>{NO_STORE}</message>
        romeo/orchard < <message from='juliet@x/crypt' to='romeo@x' type='chat'><body>!</body>{NO_STORE}</message>
        juliet/balcony < <message from='juliet@x' to='juliet@x/balcony' type='chat'><sent xmlns='urn:xmpp:carbons:2'>
            <forwarded xmlns='urn:xmpp:forward:0'><message xmlns='jabber:client' from='juliet@x/crypt' to='romeo@x' type='chat'>
            <body>!</body>{NO_STORE}</message></forwarded></sent></message>
        ",
        message(1),
        message(2),
        message(3),
    ));
}

/// Nobody resumes: what the session was owed waits for the next one.
#[test]
fn resumption_that_never_came() {
    let message = "<message from='romeo@x/orchard' to='juliet@x' type='chat'><body>1</body>
        <stanza-id xmlns='urn:xmpp:sid:0' by='juliet@x' id='000000000001'/>
        <delay xmlns='urn:xmpp:delay' from='x' stamp='2026-11-22T10:00:00.000Z'/></message>";
    for end in ["wait 400", "wait 400\njuliet reloads", "juliet reloads\nwait 400"] {
        run(&format!(
            "
            juliet/balcony comes
            juliet/balcony enables
            juliet/balcony drops
            romeo/orchard comes
            romeo/orchard > <message to='juliet@x' type='chat'><body>1</body></message>
            {end}
            juliet/crypt binds
            juliet/crypt > <presence/>
            juliet/crypt < <presence from='juliet@x/crypt' to='juliet@x'/>
            juliet/crypt < {message}
            juliet/crypt acks
            juliet/crypt goes
            juliet reloads
            juliet/crypt comes
            juliet/crypt hears nothing
            "
        ));
    }
}

/// A session that is detached lives through a new owner of its account.
#[test]
fn resumption_after_reload() {
    run("
        juliet/balcony comes
        juliet/balcony enables
        juliet/balcony drops
        romeo/orchard comes
        romeo/orchard > <message to='juliet@x' type='chat'><body>1</body></message>
        juliet reloads
        romeo/orchard > <message to='juliet@x/balcony' type='chat'><body>2</body></message>
        juliet/balcony resumes
        juliet/balcony < <message from='romeo@x/orchard' to='juliet@x' type='chat'><body>1</body>
            <stanza-id xmlns='urn:xmpp:sid:0' by='juliet@x' id='000000000001'/></message>
        juliet/balcony < <message from='romeo@x/orchard' to='juliet@x/balcony' type='chat'><body>2</body>
            <stanza-id xmlns='urn:xmpp:sid:0' by='juliet@x' id='000000000002'/></message>
        juliet/balcony acks
        juliet/balcony > <message to='romeo@x' type='chat'><body>3</body></message>
        romeo/orchard < <message from='juliet@x/balcony' to='romeo@x' type='chat'><body>3</body>
            <stanza-id xmlns='urn:xmpp:sid:0' by='romeo@x' id='000000000003'/></message>
    ");
}

/// Every input is accepted, whatever becomes of it.
#[test]
fn everything_is_accepted() {
    let mut world = World::new(pipeline());
    world.run("juliet/balcony comes\nromeo/orchard comes\njuliet/balcony enables");
    for text in [
        "<message to='romeo@x'><body>1</body></message>",
        "<message to='nobody@x'><body>1</body></message>",
        "<message to='romeo@y'><body>1</body></message>",
        "<message/>",
        "<presence/>",
        "<presence to='romeo@x' type='subscribe'/>",
        "<presence type='strange'/>",
        "<presence to='nobody@x' type='subscribe'/>",
        "<iq/>",
        "<iq id='1' type='get'/>",
        "<iq id='1' type='get'><a xmlns='a'/><b xmlns='b'/></iq>",
        "<iq id='1' type='set'><query xmlns='urn:xmpp:mam:2'/></iq>",
        "<message to='juliet@x/balcony'><body>me</body></message>",
        "<message to='juliet@x/balcony' type='error'/>",
    ] {
        world.says("juliet/balcony", text);
        let (accepted, sent) = world.accepted("juliet/balcony");
        assert_eq!(accepted, sent, "{text}");
    }
    world.heard("juliet/balcony");
    world.heard("romeo/orchard");
}

/// The store is low on space: what would have to be kept is refused, and says so.
#[test]
fn low_space() {
    let mut world = World::new(pipeline());
    world.run("juliet meets romeo\njuliet/balcony comes\nromeo/orchard comes\njuliet/balcony is quiet");
    world.low_space = true;
    let full = error("wait", "resource-constraint");
    world.run(&format!(
        "
        juliet/balcony > <message to='romeo@x' type='chat' id='1'><body>1</body></message>
        juliet/balcony < <message from='romeo@x' to='juliet@x/balcony' type='error' id='1'><body>1</body>{full}</message>
        juliet/balcony > <message to='romeo@x' type='headline'><body>1</body></message>
        romeo/orchard < <message from='juliet@x/balcony' to='romeo@x' type='headline'><body>1</body></message>
        juliet/balcony > <iq id='2' type='set'><block xmlns='urn:xmpp:blocking'><item jid='a@x'/></block></iq>
        juliet/balcony < <iq id='2' type='error' to='juliet@x/balcony'>{full}</iq>
        juliet/balcony > <iq id='3' type='set'><prefs xmlns='urn:xmpp:mam:2' default='never'/></iq>
        juliet/balcony < <iq id='3' type='error' to='juliet@x/balcony'>{full}</iq>
        juliet/balcony > <iq id='4' type='set'><query xmlns='jabber:iq:roster'><item jid='a@x'/></query></iq>
        juliet/balcony < <iq id='4' type='error' to='juliet@x/balcony'>{full}</iq>
        juliet/balcony > <presence><show>away</show></presence>
        juliet/balcony < <presence from='juliet@x/balcony' to='juliet@x'><show>away</show></presence>
        romeo/orchard < <presence from='juliet@x/balcony' to='romeo@x'><show>away</show></presence>
        "
    ));
}

/// A new session with the same resource ends the old one (RFC 6120 §7.7.2.2), and contacts see both.
#[test]
fn conflict() {
    let mut world = World::new(pipeline());
    world.run(
        "
        juliet meets romeo
        romeo/orchard comes
        juliet/balcony comes
        romeo/orchard is quiet
        ",
    );
    world.create(&jid("juliet"));
    world.run(
        "
        juliet/balcony binds
        romeo/orchard < <presence from='juliet@x/balcony' to='romeo@x' type='unavailable'/>
        juliet/balcony > <presence/>
        romeo/orchard < <presence from='juliet@x/balcony' to='romeo@x'/>
        juliet/balcony < <presence from='juliet@x/balcony' to='juliet@x'/>
        juliet/balcony < <presence from='romeo@x/orchard' to='juliet@x/balcony'/>
        ",
    );
}

/// §8.5.4, Table 1: O kept, E error, S silence, D delivered to that resource, M to the most available, A to all.
/// (What Romeo has; then for normal, chat, groupchat, headline; to the bare JID, to a full JID that is there, to another.)
#[test]
fn delivery_rules() {
    for (account, sessions, bare, matching, other) in [
        (false, &[][..], "EEES", "    ", "EEES"),
        (true, &[], "OOES", "    ", "EOES"),
        (true, &[-1], "OOES", "DDDD", "EOES"),
        (true, &[0], "DDED", "DDDD", "EDES"),
        (true, &[1, 5], "MMEA", "DDDD", "EMES"),
    ] {
        for (to, outcomes) in [("romeo@x", bare), ("romeo@x/0", matching), ("romeo@x/gone", other)] {
            for (type_, outcome) in ["normal", "chat", "groupchat", "headline"].into_iter().zip(outcomes.chars()) {
                let mut world = World::new(pipeline());
                world.run("juliet/balcony comes");
                if account {
                    world.create(&jid("romeo"));
                }
                for (n, _) in sessions.iter().enumerate() {
                    world.run(&format!("romeo/{n} binds"));
                }
                for (n, p) in sessions.iter().enumerate() {
                    world.says(&format!("romeo/{n}"), &format!("<presence><priority>{p}</priority></presence>"));
                }
                (0..sessions.len()).for_each(|n| drop(world.heard(&format!("romeo/{n}"))));
                world.says("juliet/balcony", &format!("<message to='{to}' type='{type_}'><body>hi</body></message>"));
                let errors = world.heard("juliet/balcony").len();
                let delivered: Vec<usize> = (0..sessions.len()).filter(|n| !world.heard(&format!("romeo/{n}")).is_empty()).collect();
                let kept = world.account(&jid("romeo")).state.log.offline_len();
                let got = match (errors, kept, delivered.as_slice(), sessions.len()) {
                    (1, 0, [], _) => 'E',
                    (0, 1, [], _) => 'O',
                    (0, 0, [], _) => 'S',
                    (0, 0, [0], _) => 'D',
                    (0, 0, [1], 2) => 'M',
                    (0, 0, all, n) if all.len() == n => 'A',
                    other => panic!("{other:?}"),
                };
                assert!(outcome == ' ' || got == outcome, "{account} {sessions:?} {to} {type_}: {got}");
            }
        }
    }
}

/// XEP-0077 §3.2 and RFC 6121 §8.5.1: an account that is removed is gone, with all that it had.
#[test]
fn removal() {
    let mut world = World::new(pipeline());
    world.run(
        "
        juliet meets romeo
        romeo/orchard comes
        juliet/balcony comes
        romeo/orchard is quiet
        romeo/orchard > <iq id='r' type='get'><query xmlns='jabber:iq:roster'/></iq>
        romeo/orchard is quiet
        romeo/orchard > <message to='juliet@x' type='chat'><body>hi</body></message>
        juliet/balcony is quiet
        romeo/orchard is quiet
        ",
    );
    let remove = EdgeMsg::Remove { req: ReqId(9) };
    world.input(&jid("juliet"), |a, ctx, fx| a.handle_edge(ctx, ConnId::default(), remove, fx));
    let heard: Vec<String> = world.heard("romeo/orchard").iter().map(|s| brief(&s.to_element().unwrap())).collect();
    assert!(heard.contains(&"presence unavailable from juliet@x/balcony to romeo@x".to_owned()), "{heard:?}");
    assert!(heard.contains(&"presence unsubscribed from juliet@x to romeo@x".to_owned()), "{heard:?}");
    assert_eq!(world.ended("juliet/balcony").as_deref(), Some("NotAuthorized"));
    world.run("wait 10");
    // What is left says which numbers are used up and which forwards were taken: neither may come again.
    for (partition, cells) in world.cells.iter().filter(|(p, _)| p.key.starts_with(b"juliet@x")) {
        assert!(partition.collection != Collection::Log || cells.is_empty(), "{cells:?}");
        for key in cells.keys() {
            let gone = key[..] == *b"a" || key.contains(&b'/') || key.starts_with(b"r");
            assert!(!gone, "{key:?}");
        }
    }
    world.run(&format!(
        "
        romeo/orchard > <message to='juliet@x' type='chat' id='1'><body>hi</body></message>
        romeo/orchard < <message from='juliet@x' to='romeo@x/orchard' type='error' id='1'><body>hi</body>{}</message>
        juliet reloads
        juliet/balcony comes
        juliet/balcony > <iq id='1' type='set'><query xmlns='urn:xmpp:mam:2'/></iq>
        juliet/balcony < <iq id='1' type='result' to='juliet@x/balcony'><fin xmlns='urn:xmpp:mam:2' complete='true'>
            <set xmlns='http://jabber.org/protocol/rsm'><count>0</count></set></fin></iq>
        ",
        error("cancel", "service-unavailable"),
    ));
}

/// §8.5.3.1: a resource that takes nothing of what waits still gets what is sent to it.
#[test]
fn full_jid_does_not_wait() {
    run("
        juliet/balcony comes
        romeo/tomb binds
        romeo/tomb > <presence><priority>-1</priority></presence>
        romeo/tomb is quiet
        romeo/tomb enables
        juliet/balcony > <message to='romeo@x' type='chat'><body>waits</body></message>
        juliet/balcony > <message to='romeo@x/tomb' type='chat'><body>does not</body></message>
        romeo/tomb < <message from='juliet@x/balcony' to='romeo@x/tomb' type='chat'><body>does not</body>
            <stanza-id xmlns='urn:xmpp:sid:0' by='romeo@x' id='000000000002'/></message>
    ");
}

/// One sender's messages stay in order, to the bare JID and to a full JID alike, also behind what waits.
#[test]
fn full_jid_waits_behind_the_same_sender() {
    let message = |n: u32, to: &str| {
        format!(
            "<message from='juliet@x/balcony' to='{to}' type='chat'><body>{n}</body>
            <stanza-id xmlns='urn:xmpp:sid:0' by='romeo@x' id='00000000000{n}'/><delay xmlns='urn:xmpp:delay' from='x' stamp='2026-11-22T10:00:00.000Z'/></message>"
        )
    };
    run(&format!(
        "
        juliet/balcony comes
        romeo/tomb binds
        romeo/tomb goes
        juliet/balcony > <message to='romeo@x' type='chat'><body>1</body></message>
        romeo/orchard binds
        juliet/balcony > <message to='romeo@x/orchard' type='chat'><body>2</body></message>
        romeo/orchard hears nothing
        romeo/orchard > <presence/>
        romeo/orchard < <presence from='romeo@x/orchard' to='romeo@x'/>
        romeo/orchard < {}
        romeo/orchard < {}
        ",
        message(1, "romeo@x"),
        message(2, "romeo@x/orchard"),
    ));
}

/// §8.5.3.1: but a session that never says whether it is available still gets what is sent to it.
#[test]
fn full_jid_does_not_wait_for_long() {
    run("
        juliet/balcony comes
        romeo/tomb binds
        romeo/tomb goes
        juliet/balcony > <message to='romeo@x' type='chat'><body>1</body></message>
        romeo/bot binds
        wait 11
        juliet/balcony > <message to='romeo@x/bot' type='chat'><body>2</body></message>
        romeo/bot < <message from='juliet@x/balcony' to='romeo@x/bot' type='chat'><body>2</body>
            <stanza-id xmlns='urn:xmpp:sid:0' by='romeo@x' id='000000000002'/></message>
    ");
}
