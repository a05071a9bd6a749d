//! XEP-0352: Client State Indication. What may wait while nobody looks: presence, and messages that hold nothing but a
//! chat state. Of each sender the newest of both is kept, and goes out before anything that may not wait.

use entity::module::{Module, Xep};
use stanza::{Kind, PresenceType, Stanza};
use types::ns;

/// See the file.
pub const MODULE: Module = Module {
    name: "csi",
    xeps: &[Xep { number: 352, version: "1.0.0", title: "Client State Indication", test: "modules::csi::tests::presence_waits" }],
    may_hold: Some(may_hold),
    ..Module::EMPTY
};

fn may_hold(stanza: &Stanza) -> bool {
    match stanza.kind {
        Kind::Presence => matches!(stanza.presence_type(), None | Some(PresenceType::Unavailable)),
        Kind::Message => is_chat_state_only(stanza),
        Kind::Iq => false,
    }
}

/// Whether it says nothing but that somebody types, or no longer does (XEP-0085 §5.5).
pub(crate) fn is_chat_state_only(stanza: &Stanza) -> bool {
    let beside = |ns: &str, name: &str| matches!(ns, ns::HINTS | ns::SID) || name == "thread" && ns == ns::CLIENT;
    !stanza.is_error()
        && stanza.children.iter().any(|c| c.ns == ns::CHAT_STATES)
        && stanza.children.iter().all(|c| c.ns == ns::CHAT_STATES || beside(&c.ns, &c.name))
}

#[cfg(test)]
mod tests {
    use crate::check;

    #[test]
    fn presence_waits() {
        check(
            "
            juliet meets romeo
            juliet/balcony comes
            romeo/orchard comes
            juliet/balcony sleeps
            romeo/orchard > <presence><show>away</show></presence>
            romeo/orchard < <presence from='romeo@x/orchard' to='romeo@x'><show>away</show></presence>
            romeo/orchard > <presence><show>dnd</show></presence>
            romeo/orchard < <presence from='romeo@x/orchard' to='romeo@x'><show>dnd</show></presence>
            romeo/orchard > <message to='juliet@x' type='chat'><composing xmlns='http://jabber.org/protocol/chatstates'/></message>
            juliet/balcony hears nothing
            juliet/balcony wakes
            juliet/balcony < <presence from='romeo@x/orchard' to='juliet@x'><show>dnd</show></presence>
            juliet/balcony < <message from='romeo@x/orchard' to='juliet@x' type='chat'>
                <composing xmlns='http://jabber.org/protocol/chatstates'/></message>
            ",
        );
    }

    /// What may not wait goes out at once, behind what did.
    #[test]
    fn messages_do_not_wait() {
        check(
            "
            juliet meets romeo
            juliet/balcony comes
            romeo/orchard comes
            juliet/balcony sleeps
            romeo/orchard > <presence><show>away</show></presence>
            romeo/orchard < <presence from='romeo@x/orchard' to='romeo@x'><show>away</show></presence>
            romeo/orchard > <message to='juliet@x' type='headline'><body>hi</body></message>
            juliet/balcony < <presence from='romeo@x/orchard' to='juliet@x'><show>away</show></presence>
            juliet/balcony < <message from='romeo@x/orchard' to='juliet@x' type='headline'><body>hi</body></message>
            ",
        );
    }
}
