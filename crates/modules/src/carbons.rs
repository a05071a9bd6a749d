//! XEP-0280: Message Carbons. What one session sends or gets, the account's other sessions see too.
//!
//! `<private/>` stays where it is: since version 1.0 nobody removes it (§9). A message to oneself is copied once, as sent.
//! `urn:xmpp:carbons:rules:0` is not claimed: an error is copied if what it sends back was eligible, and not every error
//! sends something back (§6.1).

use crate::forward::wrapped;
use crate::sid::stamped;
use entity::module::{Answer, At, Ctx, Flow, Hook, IqCtx, IqHandler, IqKind, Module, Phase, Point, Work, Xep};
use entity::session::Session;
use entity::state::State;
use stanza::{Child, Kind, MessageType, Stanza};
use std::sync::Arc;
use types::ns;
use xml::Element;

/// See the file.
pub const MODULE: Module = Module {
    name: "carbons",
    xeps: &[
        Xep { number: 280, version: "1.0.1", title: "Message Carbons", test: "modules::carbons::tests::copies" },
        Xep { number: 297, version: "1.0", title: "Stanza Forwarding", test: "modules::carbons::tests::copies" },
    ],
    features: &[ns::CARBONS],
    hooks: &[
        Hook { point: Point::Outbound, phase: Phase::Copy, run: sent },
        Hook { point: Point::Inbound, phase: Phase::Copy, run: received },
    ],
    iqs: &[
        IqHandler { ns: ns::CARBONS, name: "enable", kind: IqKind::Set, at: At::Own, run: enable, resume: None },
        IqHandler { ns: ns::CARBONS, name: "disable", kind: IqKind::Set, at: At::Own, run: disable, resume: None },
    ],
    ..Module::EMPTY
};

const CONFERENCE: &str = "jabber:x:conference";

fn enable(cx: &mut IqCtx<'_>, _: &Stanza, _: &Element) -> Answer {
    switch(cx, true)
}

fn disable(cx: &mut IqCtx<'_>, _: &Stanza, _: &Element) -> Answer {
    switch(cx, false)
}

fn switch(cx: &mut IqCtx<'_>, on: bool) -> Answer {
    if let Some(session) = cx.own_session()
        && session.soft.carbons != on
    {
        session.soft_mut().carbons = on;
    }
    Answer::Result(None)
}

/// §8
fn sent(_: &Ctx<'_>, state: &State, work: &mut Work) -> Flow {
    // To oneself: decided where it is known which sessions get it.
    let own = work.stanza.to.as_ref().is_some_and(|to| state.is_own(to));
    if !own && is_eligible(work, false) {
        let sender = work.session;
        copy(state, work, "sent", |s| Some(s.id) == sender);
    }
    Flow::Continue
}

/// §7
fn received(_: &Ctx<'_>, state: &State, work: &mut Work) -> Flow {
    let own = work.stanza.from.clone().filter(|from| state.is_own(from));
    if own.is_some() && work.stanza.is_error() || !is_eligible(work, own.is_none()) {
        return Flow::Continue;
    }
    let targets = work.targets.clone();
    let direction = if own.is_some() { "sent" } else { "received" };
    copy(state, work, direction, |s| targets.contains(&s.id) || own.as_ref().is_some_and(|from| s.jid == *from));
    Flow::Continue
}

fn copy(state: &State, work: &mut Work, direction: &str, but: impl Fn(&Session) -> bool) {
    let mut others = state.sessions.iter().filter(|s| s.soft.carbons && !but(s)).peekable();
    if others.peek().is_none() {
        return;
    }
    let child = wrapped(direction, ns::CARBONS, &[], None, &stamped(state, work).to_bytes());
    let carbon = Stanza::new(Kind::Message, work.stanza.type_.clone()).with_from(state.jid.clone()).with_child(child);
    work.copies.extend(others.map(|s| (s.id, Arc::new(carbon.clone().with_to(s.jid.clone())))));
}

/// §6.1. Hints were read before (XEP-0334 `no-copy`).
fn is_eligible(work: &Work, from_others: bool) -> bool {
    let stanza = &work.stanza;
    let has = |name: &str, ns: &str| stanza.child(name, ns).is_some();
    let type_ = stanza.message_type();
    if has("private", ns::CARBONS) || matches!(type_, MessageType::Groupchat | MessageType::Headline) {
        return false;
    }
    let instant = stanza.has_body() || stanza.children.iter().any(is_instant_messaging);
    if type_ == MessageType::Error {
        return from_others && instant;
    }
    if !work.copyable {
        return false;
    }
    if let Some(x) = stanza.child("x", ns::MUC_USER) {
        let invite = x.element().is_ok_and(|x| x.child("invite", ns::MUC_USER).is_some());
        // What comes from an occupant, the room has already sent to every session in it.
        if invite || from_others {
            return invite;
        }
    }
    instant || type_ == MessageType::Chat || has("x", CONFERENCE)
}

/// "Payload elements typically used in IM": receipts, chat states, markers.
fn is_instant_messaging(child: &Child) -> bool {
    matches!(child.ns.as_str(), ns::RECEIPTS | ns::CHAT_STATES | ns::MARKERS)
}

#[cfg(test)]
mod tests {
    use crate::check;

    const ON: &str = "<iq id='on' type='set'><enable xmlns='urn:xmpp:carbons:2'/></iq>";
    const OFF: &str = "<iq id='off' type='set'><disable xmlns='urn:xmpp:carbons:2'/></iq>";

    #[test]
    fn copies() {
        check(&format!(
            "
            romeo/garden comes
            juliet/balcony comes
            romeo/home comes
            romeo/garden is quiet
            romeo/garden > {ON}
            romeo/garden < <iq id='on' type='result' to='romeo@x/garden'/>
            romeo/garden > {ON}
            romeo/garden < <iq id='on' type='result' to='romeo@x/garden'/>
            juliet/balcony > <message to='romeo@x/home' type='chat'><body>thou?</body></message>
            romeo/home < <message from='juliet@x/balcony' to='romeo@x/home' type='chat'><body>thou?</body>
                <stanza-id xmlns='urn:xmpp:sid:0' by='romeo@x' id='000000000001'/></message>
            romeo/garden < <message from='romeo@x' to='romeo@x/garden' type='chat'><received xmlns='urn:xmpp:carbons:2'>
                <forwarded xmlns='urn:xmpp:forward:0'>
                <message xmlns='jabber:client' from='juliet@x/balcony' to='romeo@x/home' type='chat'><body>thou?</body>
                <stanza-id xmlns='urn:xmpp:sid:0' by='romeo@x' id='000000000001'/></message></forwarded></received></message>
            romeo/home > <message to='juliet@x/balcony' type='chat'><body>neither</body></message>
            romeo/garden < <message from='romeo@x' to='romeo@x/garden' type='chat'><sent xmlns='urn:xmpp:carbons:2'>
                <forwarded xmlns='urn:xmpp:forward:0'>
                <message xmlns='jabber:client' from='romeo@x/home' to='juliet@x/balcony' type='chat'><body>neither</body>
                <stanza-id xmlns='urn:xmpp:sid:0' by='romeo@x' id='000000000002'/></message></forwarded></sent></message>
            juliet/balcony < <message from='romeo@x/home' to='juliet@x/balcony' type='chat'><body>neither</body>
                <stanza-id xmlns='urn:xmpp:sid:0' by='juliet@x' id='000000000002'/></message>
            romeo/garden > {OFF}
            romeo/garden < <iq id='off' type='result' to='romeo@x/garden'/>
            romeo/home > <message to='juliet@x/balcony' type='headline'><body>!</body></message>
            juliet/balcony < <message from='romeo@x/home' to='juliet@x/balcony' type='headline'><body>!</body></message>
            "
        ));
    }

    /// Which messages are copied: (attributes and children, copied when sent, copied when received).
    #[test]
    fn rules() {
        let hint = "<no-store xmlns='urn:xmpp:hints'/>";
        for (text, sent, received) in [
            ("type='chat'><body>b</body>", true, true),
            ("type='chat'><encrypted xmlns='e'/>", true, true),
            ("><body>b</body>", true, true),
            (" type='new'><body>b</body>", true, true),
            ("><subject>s</subject>", false, false),
            ("><received xmlns='urn:xmpp:receipts' id='1'/>", true, true),
            ("><active xmlns='http://jabber.org/protocol/chatstates'/>", true, true),
            ("><displayed xmlns='urn:xmpp:chat-markers:0' id='1'/>", true, true),
            ("type='headline'><body>b</body>", false, false),
            ("type='chat'><body>b</body><private xmlns='urn:xmpp:carbons:2'/>", false, false),
            ("type='chat'><body>b</body><no-copy xmlns='urn:xmpp:hints'/>", false, false),
            ("type='error'><body>b</body><no-copy xmlns='urn:xmpp:hints'/>", false, true),
            ("type='error'><subject>s</subject>", false, false),
            ("type='chat'><body>b</body><x xmlns='http://jabber.org/protocol/muc#user'/>", true, false),
            ("><x xmlns='http://jabber.org/protocol/muc#user'><invite from='a@x'/></x>", true, true),
            ("><x xmlns='jabber:x:conference' jid='room@x'/>", true, true),
        ] {
            let mut world = entity::testing::World::new(crate::pipeline());
            world.run(&format!(
                "romeo/home comes\nromeo/other binds\nromeo/other > {ON}\nromeo/other is quiet\njuliet/balcony comes
                juliet/other binds\njuliet/other > {ON}\njuliet/other is quiet"
            ));
            world.says("juliet/balcony", &format!("<message to='romeo@x/home' {text}{hint}</message>"));
            let heard = |world: &mut entity::testing::World, who: &str| world.heard(who).len();
            assert_eq!(heard(&mut world, "romeo/home"), 1, "{text}");
            assert_eq!((heard(&mut world, "juliet/other") == 1, heard(&mut world, "romeo/other") == 1), (sent, received), "{text}");
        }
    }

    /// A message to oneself reaches each session once.
    #[test]
    fn to_oneself() {
        check(&format!(
            "
            romeo/home comes
            romeo/garden comes
            romeo/home is quiet
            romeo/phone binds
            romeo/phone > {ON}
            romeo/phone is quiet
            romeo/garden > {ON}
            romeo/garden is quiet
            romeo/home > {ON}
            romeo/home is quiet
            romeo/home > <message to='romeo@x' type='chat'><body>milk</body></message>
            romeo/garden < <message from='romeo@x/home' to='romeo@x' type='chat'><body>milk</body>
                <stanza-id xmlns='urn:xmpp:sid:0' by='romeo@x' id='000000000001'/></message>
            romeo/phone < <message from='romeo@x' to='romeo@x/phone' type='chat'><sent xmlns='urn:xmpp:carbons:2'>
                <forwarded xmlns='urn:xmpp:forward:0'>
                <message xmlns='jabber:client' from='romeo@x/home' to='romeo@x' type='chat'><body>milk</body>
                <stanza-id xmlns='urn:xmpp:sid:0' by='romeo@x' id='000000000001'/></message></forwarded></sent></message>
            "
        ));
    }

    /// Nobody sees a copy of what was refused.
    #[test]
    fn refused_is_not_copied() {
        check(&format!(
            "
            romeo/home comes
            romeo/garden binds
            romeo/garden > {ON}
            romeo/garden is quiet
            romeo/home > <message to='juliet@y' type='chat' id='1'><body>hi</body></message>
            romeo/home < <message from='juliet@y' to='romeo@x/home' type='error' id='1'><body>hi</body>
                <error type='cancel'><remote-server-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message>
            "
        ));
    }
}
