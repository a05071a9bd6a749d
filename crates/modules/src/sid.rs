//! XEP-0359: Unique and Stable Stanza IDs. What the account archives gets the id of its row; what claims to be such an id is
//! removed, also where none is added (§3).

use entity::module::{Ctx, Flow, Hook, Module, Phase, Point, Work, Xep};
use entity::row::archive_id;
use entity::state::State;
use frame::SharedStanza;
use stanza::Child;
use std::sync::Arc;
use types::{BareJid, Jid, ns};
use xml::Element;

/// See the file.
pub const MODULE: Module = Module {
    name: "sid",
    xeps: &[Xep { number: 359, version: "0.7.0", title: "Unique and Stable Stanza IDs", test: "modules::sid::tests::ids" }],
    account_features: &[ns::SID],
    hooks: &[
        Hook { point: Point::Outbound, phase: Phase::Mark, run: strip },
        Hook { point: Point::Inbound, phase: Phase::Mark, run: strip },
        Hook { point: Point::Inbound, phase: Phase::Shape, run: stamp },
    ],
    ..Module::EMPTY
};

fn strip(_: &Ctx<'_>, state: &State, work: &mut Work) -> Flow {
    let forged = |c: &Child| c.is("stanza-id", ns::SID) && claims(c, &state.jid);
    if work.stanza.children.iter().any(forged) {
        Arc::make_mut(&mut work.stanza).retain_children(|c| !forged(c));
    }
    Flow::Continue
}

fn claims(id: &Child, own: &BareJid) -> bool {
    id.attr("by").is_some_and(|by| by == own.as_str() || Jid::parse(&by).is_ok_and(|by| by == *own.as_jid()))
}

fn stamp(_: &Ctx<'_>, state: &State, work: &mut Work) -> Flow {
    work.stanza = stamped(state, work);
    Flow::Continue
}

/// The message as the account's own sessions see it: with the archive's id, if it is archived. (Somebody else never gets
/// that id: it tells how many messages there are.)
pub(crate) fn stamped(state: &State, work: &Work) -> SharedStanza {
    let mut stanza = work.stanza.clone();
    if work.archive {
        let id = Element::new("stanza-id", ns::SID).with_attr("by", state.jid.as_str()).with_attr("id", archive_id(work.row));
        Arc::make_mut(&mut stanza).children.push(Child::from(&id));
    }
    stanza
}

#[cfg(test)]
mod tests {
    use crate::check;

    #[test]
    fn ids() {
        check(
            "
            juliet/balcony comes
            romeo/orchard comes
            juliet/balcony > <message to='romeo@x' type='chat'><body>hi</body>
                <origin-id xmlns='urn:xmpp:sid:0' id='o'/>
                <stanza-id xmlns='urn:xmpp:sid:0' by='juliet@x' id='1'/>
                <stanza-id xmlns='urn:xmpp:sid:0' by='Romeo@X' id='2'/>
                <stanza-id xmlns='urn:xmpp:sid:0' by='room@y' id='3'/></message>
            romeo/orchard < <message from='juliet@x/balcony' to='romeo@x' type='chat'><body>hi</body>
                <origin-id xmlns='urn:xmpp:sid:0' id='o'/>
                <stanza-id xmlns='urn:xmpp:sid:0' by='room@y' id='3'/>
                <stanza-id xmlns='urn:xmpp:sid:0' by='romeo@x' id='000000000001'/></message>
            juliet/balcony > <message to='romeo@x' type='headline'><stanza-id xmlns='urn:xmpp:sid:0' by='romeo@x' id='2'/></message>
            romeo/orchard < <message from='juliet@x/balcony' to='romeo@x' type='headline'/>
            ",
        );
    }
}
