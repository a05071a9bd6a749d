//! XEP-0199: XMPP Ping, to the server and to one's own account. To somebody else's bare JID there is no answer but
//! `service-unavailable`, the same as for an account that does not exist.

use entity::module::{Answer, At, IqCtx, IqHandler, IqKind, Module, Xep};
use stanza::Stanza;
use types::ns;
use xml::Element;

/// See the file.
pub const MODULE: Module = Module {
    name: "ping",
    xeps: &[Xep { number: 199, version: "2.0.1", title: "XMPP Ping", test: "modules::ping::tests::ping" }],
    features: &[ns::PING],
    account_features: &[ns::PING],
    iqs: &[PING, IqHandler { at: At::Own, ..PING }],
    ..Module::EMPTY
};

const PING: IqHandler = IqHandler { ns: ns::PING, name: "ping", kind: IqKind::Get, at: At::Server, run: pong, resume: None };

fn pong(_: &mut IqCtx<'_>, _: &Stanza, _: &Element) -> Answer {
    Answer::Result(None)
}

#[cfg(test)]
mod tests {
    use crate::check;

    /// XEP-0199 §4.2, §4.3.
    #[test]
    fn ping() {
        check(
            "
            juliet/balcony binds
            juliet/balcony > <iq id='1' type='get' to='x'><ping xmlns='urn:xmpp:ping'/></iq>
            juliet/balcony < <iq id='1' type='result' from='x' to='juliet@x/balcony'/>
            juliet/balcony > <iq id='2' type='get'><ping xmlns='urn:xmpp:ping'/></iq>
            juliet/balcony < <iq id='2' type='result' to='juliet@x/balcony'/>
            juliet/balcony > <iq id='3' type='set' to='x'><ping xmlns='urn:xmpp:ping'/></iq>
            juliet/balcony < <iq id='3' type='error' from='x' to='juliet@x/balcony'>
                <error type='cancel'><not-allowed xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>
            ",
        );
    }

    /// Nobody learns from a ping whether an account exists.
    #[test]
    fn strangers() {
        check(
            "
            romeo/orchard binds
            juliet/balcony binds
            juliet/balcony > <iq id='1' type='get' to='romeo@x'><ping xmlns='urn:xmpp:ping'/></iq>
            juliet/balcony < <iq id='1' type='error' from='romeo@x' to='juliet@x/balcony'>
                <error type='cancel'><service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>
            juliet/balcony > <iq id='2' type='get' to='nobody@x'><ping xmlns='urn:xmpp:ping'/></iq>
            juliet/balcony < <iq id='2' type='error' from='nobody@x' to='juliet@x/balcony'>
                <error type='cancel'><service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>
            ",
        );
    }
}
