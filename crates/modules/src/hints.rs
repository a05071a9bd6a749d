//! XEP-0334: Message Processing Hints. Those in an error are the original's and mean nothing (§5).

use entity::module::{Ctx, Flow, Hook, Module, Phase, Point, Work, Xep};
use entity::state::State;
use stanza::Stanza;
use types::ns;

/// See the file.
pub const MODULE: Module = Module {
    name: "hints",
    xeps: &[Xep { number: 334, version: "1.0.0", title: "Message Processing Hints", test: "modules::hints::tests::no_store" }],
    features: &[ns::HINTS],
    hooks: &[Hook { point: Point::Outbound, phase: Phase::Mark, run: mark }, Hook { point: Point::Inbound, phase: Phase::Mark, run: mark }],
    ..Module::EMPTY
};

fn mark(_: &Ctx<'_>, _: &State, work: &mut Work) -> Flow {
    if has(&work.stanza, "no-store") {
        work.passing = true;
        work.offline = false;
    }
    if has(&work.stanza, "no-copy") {
        work.copyable = false;
    }
    Flow::Continue
}

/// Whether the message has this hint, and may have it.
pub(crate) fn has(stanza: &Stanza, hint: &str) -> bool {
    !stanza.is_error() && stanza.child(hint, ns::HINTS).is_some()
}

#[cfg(test)]
mod tests {
    use crate::check;

    /// Delivered if somebody is there; neither kept nor archived.
    #[test]
    fn no_store() {
        check(
            "
            romeo/orchard binds
            juliet/balcony comes
            juliet/balcony > <message to='romeo@x' type='chat'><body>hi</body><no-store xmlns='urn:xmpp:hints'/></message>
            romeo/orchard > <presence/>
            romeo/orchard < <presence from='romeo@x/orchard' to='romeo@x'/>
            juliet/balcony > <message to='romeo@x' type='chat'><body>you</body><no-store xmlns='urn:xmpp:hints'/></message>
            romeo/orchard < <message from='juliet@x/balcony' to='romeo@x' type='chat'><body>you</body>
                <no-store xmlns='urn:xmpp:hints'/></message>
            romeo/orchard > <iq id='1' type='set'><query xmlns='urn:xmpp:mam:2'/></iq>
            romeo/orchard < <iq id='1' type='result' to='romeo@x/orchard'>
                <fin xmlns='urn:xmpp:mam:2' complete='true'><set xmlns='http://jabber.org/protocol/rsm'><count>0</count></set></fin></iq>
            ",
        );
    }

    /// Kept for later, but not in the archive of either.
    #[test]
    fn no_permanent_store() {
        check(
            "
            juliet/balcony comes
            romeo/orchard binds
            juliet/balcony > <message to='romeo@x'><body>hi</body><no-permanent-store xmlns='urn:xmpp:hints'/></message>
            juliet/balcony > <iq id='1' type='set'><query xmlns='urn:xmpp:mam:2'/></iq>
            juliet/balcony < <iq id='1' type='result' to='juliet@x/balcony'>
                <fin xmlns='urn:xmpp:mam:2' complete='true'><set xmlns='http://jabber.org/protocol/rsm'><count>0</count></set></fin></iq>
            romeo/orchard > <iq id='1' type='set'><query xmlns='urn:xmpp:mam:2'/></iq>
            romeo/orchard < <iq id='1' type='result' to='romeo@x/orchard'>
                <fin xmlns='urn:xmpp:mam:2' complete='true'><set xmlns='http://jabber.org/protocol/rsm'><count>0</count></set></fin></iq>
            romeo/orchard > <presence/>
            romeo/orchard < <presence from='romeo@x/orchard' to='romeo@x'/>
            romeo/orchard < <message from='juliet@x/balcony' to='romeo@x'><body>hi</body>
                <no-permanent-store xmlns='urn:xmpp:hints'/>
                <delay xmlns='urn:xmpp:delay' from='x' stamp='2026-11-22T10:00:00.000Z'/></message>
            ",
        );
    }
}
