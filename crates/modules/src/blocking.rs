//! XEP-0191: Blocking Command. The list itself, and whom it matches, is [`entity::privacy`]; a list that cannot be read
//! blocks everybody.

use entity::module::{Action, Answer, At, Ctx, Flow, Hook, IqCtx, IqHandler, IqKind, Module, Phase, Point, Work, Xep};
use entity::privacy::BlockChange;
use entity::state::State;
use stanza::{Condition, ErrorType, IqType, Kind, MessageType, Stanza, StanzaError};
use std::sync::Arc;
use types::limit::BLOCKED_MAX;
use types::{Jid, SessionId, ns};
use xml::Element;

/// See the file.
pub const MODULE: Module = Module {
    name: "blocking",
    xeps: &[Xep { number: 191, version: "1.3", title: "Blocking Command", test: "modules::blocking::tests::block_and_unblock" }],
    features: &[ns::BLOCKING],
    hooks: &[
        Hook { point: Point::Outbound, phase: Phase::Guard, run: outbound },
        Hook { point: Point::Inbound, phase: Phase::Guard, run: inbound },
    ],
    iqs: &[
        IqHandler { ns: ns::BLOCKING, name: "blocklist", kind: IqKind::Get, at: At::Own, run: list, resume: None },
        IqHandler { ns: ns::BLOCKING, name: "block", kind: IqKind::Set, at: At::Own, run: block, resume: None },
        IqHandler { ns: ns::BLOCKING, name: "unblock", kind: IqKind::Set, at: At::Own, run: unblock, resume: None },
    ],
    ..Module::EMPTY
};

/// §3.3: who is blocked finds the user offline.
fn inbound(_: &Ctx<'_>, state: &State, work: &mut Work) -> Flow {
    if !work.stanza.from.as_ref().is_some_and(|from| state.blocks.blocks(from)) {
        return Flow::Continue;
    }
    match work.stanza.kind {
        Kind::Presence => Flow::Drop,
        Kind::Iq if !work.stanza.is_request() => Flow::Drop,
        // The answer that it gets from somebody who is offline, or does not exist (RFC 6121 §8.5.4).
        Kind::Message if work.stanza.message_type() == MessageType::Headline => Flow::Drop,
        Kind::Iq | Kind::Message => Flow::Refuse(StanzaError::new(Condition::ServiceUnavailable)),
    }
}

/// §3.3: whom the user blocked, the user cannot reach.
fn outbound(_: &Ctx<'_>, state: &State, work: &mut Work) -> Flow {
    if !work.stanza.to.as_ref().is_some_and(|to| state.blocks.blocks(to)) {
        return Flow::Continue;
    }
    let blocked = Element::new("blocked", ns::BLOCKING_ERRORS);
    Flow::Refuse(StanzaError::new(Condition::NotAcceptable).with_type(ErrorType::Cancel).with_app(blocked))
}

/// §3.2
fn list(cx: &mut IqCtx<'_>, _: &Stanza, _: &Element) -> Answer {
    match cx.state.blocks.list() {
        Err(error) => Answer::Error(error),
        Ok(list) => {
            if let Some(session) = cx.own_session() {
                session.soft_mut().blocklist = true;
            }
            Answer::Result(Some(list))
        }
    }
}

fn block(cx: &mut IqCtx<'_>, _: &Stanza, command: &Element) -> Answer {
    if cx.ctx.low_space {
        return Answer::Error(Condition::ResourceConstraint.into());
    }
    match cx.state.blocks.block(command, BLOCKED_MAX) {
        Err(error) => Answer::Error(error),
        Ok(change) => changed(cx, change, Action::HidePresence),
    }
}

fn unblock(cx: &mut IqCtx<'_>, _: &Stanza, command: &Element) -> Answer {
    match cx.state.blocks.unblock(command) {
        Err(error) => Answer::Error(error),
        Ok(change) => changed(cx, change, Action::ShowPresence),
    }
}

/// Write it, tell the resources that asked for the list, let contacts see the user go or come.
fn changed(cx: &mut IqCtx<'_>, mut change: BlockChange, tell: fn(Jid) -> Action) -> Answer {
    for op in std::mem::take(&mut change.writes) {
        cx.fx.op(&cx.state.partition(), op);
    }
    let pushes: Vec<(SessionId, Stanza)> = cx
        .state
        .sessions
        .iter()
        .filter(|s| s.soft.blocklist)
        .map(|s| {
            // The output's number makes the id unique within the session.
            let push = Stanza::iq(IqType::Set, &format!("block-{:x}", s.m + 1)).with_to(s.jid.clone());
            (s.id, push.with_child_element(&change.push))
        })
        .collect();
    cx.actions.extend(pushes.into_iter().map(|(id, push)| Action::Send(id, Arc::new(push))));
    let audience: Vec<Jid> = change.audience(cx.state.roster.subscribers()).collect();
    cx.actions.extend(audience.into_iter().map(tell));
    Answer::Result(None)
}

#[cfg(test)]
mod tests {
    use crate::check;
    use bytes::Bytes;
    use entity::testing::{World, jid};

    const LIST: &str = "<iq id='l' type='get'><blocklist xmlns='urn:xmpp:blocking'/></iq>";
    const UNAVAILABLE: &str = "<error type='cancel'><service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>";
    const BLOCKED: &str = "<error type='cancel'><not-acceptable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/>
        <blocked xmlns='urn:xmpp:blocking:errors'/></error>";

    #[test]
    fn block_and_unblock() {
        check(&format!(
            "
            juliet meets romeo
            juliet/balcony comes
            romeo/orchard comes
            juliet/balcony is quiet
            juliet/crypt binds
            juliet/crypt > {LIST}
            juliet/crypt < <iq id='l' type='result' to='juliet@x/crypt'><blocklist xmlns='urn:xmpp:blocking'/></iq>
            juliet/balcony > <iq id='1' type='set'><block xmlns='urn:xmpp:blocking'><item jid='Romeo@x'/></block></iq>
            juliet/crypt < <iq id='block-2' type='set' to='juliet@x/crypt'>
                <block xmlns='urn:xmpp:blocking'><item jid='romeo@x'/></block></iq>
            romeo/orchard < <presence type='unavailable' from='juliet@x/balcony' to='romeo@x'/>
            juliet/balcony < <iq id='1' type='result' to='juliet@x/balcony'/>
            romeo/orchard > <message to='juliet@x' type='chat' id='2'><body>hi</body></message>
            romeo/orchard < <message from='juliet@x' to='romeo@x/orchard' type='error' id='2'><body>hi</body>{UNAVAILABLE}</message>
            romeo/orchard > <iq to='juliet@x/balcony' type='get' id='3'><q xmlns='q'/></iq>
            romeo/orchard < <iq from='juliet@x/balcony' to='romeo@x/orchard' type='error' id='3'>{UNAVAILABLE}</iq>
            romeo/orchard > <iq to='juliet@x/balcony' type='result' id='3'/>
            romeo/orchard > <presence to='juliet@x'/>
            romeo/orchard > <presence to='juliet@x/balcony' type='unavailable'/>
            juliet/balcony > <message to='romeo@x' type='chat' id='4'><body>hi</body></message>
            juliet/balcony < <message from='romeo@x' to='juliet@x/balcony' type='error' id='4'><body>hi</body>{BLOCKED}</message>
            juliet/balcony > <iq to='romeo@x/orchard' type='get' id='5'><q xmlns='q'/></iq>
            juliet/balcony < <iq from='romeo@x/orchard' to='juliet@x/balcony' type='error' id='5'>{BLOCKED}</iq>
            juliet/balcony > <presence to='romeo@x' id='6'/>
            juliet/balcony < <presence from='romeo@x' to='juliet@x/balcony' type='error' id='6'>{BLOCKED}</presence>
            juliet/balcony > <presence><show>away</show></presence>
            juliet/balcony < <presence from='juliet@x/balcony' to='juliet@x'><show>away</show></presence>
            romeo/orchard hears nothing
            juliet reloads
            juliet/hall binds
            juliet/hall > <presence/>
            juliet/hall < <presence from='juliet@x/hall' to='juliet@x'/>
            romeo/orchard hears nothing
            juliet/hall > <iq id='7' type='set'><unblock xmlns='urn:xmpp:blocking'><item jid='romeo@x'/></unblock></iq>
            romeo/orchard < <presence from='juliet@x/hall' to='romeo@x'/>
            juliet/hall < <iq id='7' type='result' to='juliet@x/hall'/>
            romeo/orchard > <message to='juliet@x/hall' type='headline'><body>hi</body></message>
            juliet/hall < <message from='romeo@x/orchard' to='juliet@x/hall' type='headline'><body>hi</body></message>
            "
        ));
    }

    /// H16: a blocked stranger cannot tell the user from nobody.
    #[test]
    fn as_if_nobody_were_there() {
        for text in [
            "<message to='{}' type='chat' id='1'><body>hi</body></message>",
            "<message to='{}/balcony' id='1'><body>hi</body></message>",
            "<message to='{}' type='headline' id='1'><body>hi</body></message>",
            "<message to='{}/balcony' type='headline' id='1'><body>hi</body></message>",
            "<message to='{}' type='groupchat' id='1'><body>hi</body></message>",
            "<message to='{}' type='error' id='1'><body>hi</body></message>",
            "<iq to='{}' type='get' id='1'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>",
            "<iq to='{}/balcony' type='get' id='1'><q xmlns='q'/></iq>",
            "<iq to='{}' type='get' id='1'><vCard xmlns='vcard-temp'/></iq>",
            "<presence to='{}'/>",
            "<presence to='{}' type='subscribe'/>",
            "<presence to='{}' type='probe'/>",
        ] {
            let answers = |whom: &str| {
                let mut world = World::new(crate::pipeline());
                world.run(
                    "
                    juliet/balcony comes
                    juliet/balcony > <iq id='1' type='set'><block xmlns='urn:xmpp:blocking'><item jid='tybalt@x'/></block></iq>
                    juliet/balcony is quiet
                    tybalt/street comes
                    ",
                );
                world.says("tybalt/street", &text.replace("{}", whom));
                assert!(world.heard("juliet/balcony").is_empty(), "{text}");
                let heard = world.heard("tybalt/street");
                heard.iter().map(|s| s.to_element().unwrap().to_string().replace(whom, "{}")).collect::<Vec<_>>()
            };
            assert_eq!(answers("juliet@x"), answers("nobody@x"), "{text}");
        }
    }

    /// Fails closed: nobody gets through a list that cannot be read, until the user empties it.
    #[test]
    fn broken_list() {
        let mut world = World::new(crate::pipeline());
        world.create(&jid("juliet"));
        let cells = world.cells.get_mut(&entity::state::partition(&jid("juliet"))).unwrap();
        cells.insert(Bytes::from_static(b"b/@"), Bytes::from_static(b"?"));
        world.run(&format!(
            "
            juliet reloads
            juliet/balcony comes
            romeo/orchard comes
            romeo/orchard > <message to='juliet@x/balcony' type='normal' id='1'><body>hi</body></message>
            romeo/orchard < <message from='juliet@x/balcony' to='romeo@x/orchard' type='error' id='1'><body>hi</body>{UNAVAILABLE}</message>
            juliet/balcony > {LIST}
            juliet/balcony < <iq id='l' type='error' to='juliet@x/balcony'>
                <error type='wait'><internal-server-error xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>
            juliet/balcony > <iq id='2' type='set'><unblock xmlns='urn:xmpp:blocking'/></iq>
            juliet/balcony < <iq id='2' type='result' to='juliet@x/balcony'/>
            romeo/orchard > <message to='juliet@x/balcony' type='headline' id='1'><body>hi</body></message>
            juliet/balcony < <message from='romeo@x/orchard' to='juliet@x/balcony' type='headline' id='1'><body>hi</body></message>
            "
        ));
    }

    /// A list can only be read and changed by its owner.
    #[test]
    fn strangers() {
        for text in [LIST, "<iq id='l' type='set'><unblock xmlns='urn:xmpp:blocking'/></iq>"] {
            let text = text.replace("<iq", "<iq to='juliet@x'");
            check(&format!(
                "
                juliet/balcony comes
                tybalt/street binds
                tybalt/street > {text}
                tybalt/street < <iq id='l' type='error' from='juliet@x' to='tybalt@x/street'>{UNAVAILABLE}</iq>
                "
            ));
        }
    }
}
