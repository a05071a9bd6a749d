//! XEP-0160: Best Practices for Handling Offline Messages, with the stamp of XEP-0203. The account keeps them in its log;
//! here is decided which.

use crate::csi::is_chat_state_only;
use entity::module::{Ctx, Flow, Hook, Module, Phase, Point, Work, Xep};
use entity::state::State;
use stanza::{Condition, StanzaError};
use types::ns;

/// See the file.
pub const MODULE: Module = Module {
    name: "offline",
    xeps: &[
        Xep {
            number: 160,
            version: "1.0.1",
            title: "Best Practices for Handling Offline Messages",
            test: "modules::offline::tests::kept_until_somebody_comes",
        },
        Xep { number: 203, version: "2.0", title: "Delayed Delivery", test: "modules::offline::tests::kept_until_somebody_comes" },
    ],
    features: &[ns::OFFLINE],
    hooks: &[Hook { point: Point::Undelivered, phase: Phase::Store, run: decide }],
    ..Module::EMPTY
};

fn decide(ctx: &Ctx<'_>, state: &State, work: &mut Work) -> Flow {
    if is_chat_state_only(&work.stanza) {
        // §3: of no use later; so it needs no row at all.
        work.offline = false;
        work.passing = true;
    }
    if work.offline && state.log.offline_len() >= ctx.settings.offline_rows_max {
        return Flow::Refuse(StanzaError::new(Condition::ServiceUnavailable)); // §2
    }
    Flow::Continue
}

#[cfg(test)]
mod tests {
    use crate::check;
    use entity::testing::World;

    const DELAY: &str = "<delay xmlns='urn:xmpp:delay' from='x' stamp='2026-11-22T10:00:00.000Z'/>";
    const NEVER: &str = "<iq id='p' type='set'><prefs xmlns='urn:xmpp:mam:2' default='never'><always/><never/></prefs></iq>";

    /// In order, stamped when they are late, and only once.
    #[test]
    fn kept_until_somebody_comes() {
        check(&format!(
            "
            juliet/balcony comes
            romeo/orchard binds
            romeo/orchard > {NEVER}
            romeo/orchard is quiet
            romeo/orchard goes
            juliet/balcony > <message to='romeo@x' type='chat'><body>1</body></message>
            juliet/balcony > <message to='romeo@x/orchard' type='chat'><body>2</body></message>
            juliet/balcony > <message to='romeo@x'><body>3</body></message>
            juliet/balcony > <message to='romeo@x' type='chat'><active xmlns='http://jabber.org/protocol/chatstates'/></message>
            juliet/balcony > <message to='romeo@x' type='headline'><body>news</body></message>
            juliet/balcony > <message to='romeo@x' type='error'><body>error</body></message>
            wait 60
            romeo/tomb binds
            romeo/tomb > <presence><priority>-1</priority></presence>
            romeo/tomb < <presence from='romeo@x/tomb' to='romeo@x'><priority>-1</priority></presence>
            romeo/tomb > <presence/>
            romeo/tomb < <presence from='romeo@x/tomb' to='romeo@x'/>
            romeo/tomb < <message from='juliet@x/balcony' to='romeo@x' type='chat'><body>1</body>
                <delay xmlns='urn:xmpp:delay' from='x' stamp='2026-11-22T10:00:00.000Z'/></message>
            romeo/tomb < <message from='juliet@x/balcony' to='romeo@x/orchard' type='chat'><body>2</body>
                <delay xmlns='urn:xmpp:delay' from='x' stamp='2026-11-22T10:00:00.000Z'/></message>
            romeo/tomb < <message from='juliet@x/balcony' to='romeo@x'><body>3</body>
                <delay xmlns='urn:xmpp:delay' from='x' stamp='2026-11-22T10:00:00.000Z'/></message>
            romeo/tomb acks
            romeo/tomb goes
            romeo/tomb comes
            romeo/tomb hears nothing
            "
        ));
    }

    /// A client that does not acknowledge loses nothing when its stream breaks.
    #[test]
    fn not_acknowledged_comes_again() {
        check(&format!(
            "
            juliet/balcony comes
            romeo/orchard binds
            romeo/orchard > {NEVER}
            romeo/orchard is quiet
            romeo/orchard goes
            juliet/balcony > <message to='romeo@x' type='chat'><body>1</body></message>
            romeo/orchard binds
            romeo/orchard > <presence/>
            romeo/orchard < <presence from='romeo@x/orchard' to='romeo@x'/>
            romeo/orchard < <message from='juliet@x/balcony' to='romeo@x' type='chat'><body>1</body>{DELAY}</message>
            romeo/orchard drops
            romeo reloads
            romeo/tomb binds
            romeo/tomb > <presence/>
            romeo/tomb < <presence from='romeo@x/tomb' to='romeo@x'/>
            romeo/tomb < <message from='juliet@x/balcony' to='romeo@x' type='chat'><body>1</body>{DELAY}</message>
            "
        ));
    }

    /// §2: when no more can be kept, the sender hears of it.
    #[test]
    fn full() {
        let mut world = World::new(crate::pipeline());
        world.settings.offline_rows_max = 1;
        world.run(
            "
            juliet/balcony comes
            romeo/orchard binds
            juliet/balcony > <message to='romeo@x' type='chat'><body>1</body></message>
            juliet/balcony > <message to='romeo@x' type='chat' id='2'><body>2</body></message>
            juliet/balcony < <message from='romeo@x' to='juliet@x/balcony' type='error' id='2'><body>2</body>
                <error type='cancel'><service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message>
            ",
        );
    }
}
