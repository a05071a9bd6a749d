//! XEP-0030: Service Discovery, of the server and of an account; what they offer is the list of modules. XEP-0115: Entity
//! Capabilities of the server, told in its stream features ([`server_caps`]); those of clients pass with their presence.
//!
//! An account answers its owner and those who see its presence. To anybody else it is not there: `service-unavailable`,
//! the answer for an account that does not exist (§8; RFC 6121 §8.5.1). That holds for items as well, where §8 would have
//! an empty result: only one answer for both tells nothing.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use entity::Pipeline;
use entity::module::{Answer, At, IqCtx, IqHandler, IqKind, Module, Xep};
use sha1::{Digest, Sha1};
use stanza::{Condition, Stanza};
use std::collections::BTreeSet;
use types::ns;
use xml::Element;

/// Names this software in entity capabilities (XEP-0115 §4).
pub const CAPS_NODE: &str = "urn:chappe:server";

/// See the file.
pub const MODULE: Module = Module {
    name: "disco",
    xeps: &[
        Xep { number: 30, version: "2.5.0", title: "Service Discovery", test: "modules::disco::tests::server" },
        Xep { number: 115, version: "1.6.0", title: "Entity Capabilities", test: "modules::disco::tests::verification_string" },
    ],
    // XEP-0115 §7: who has capabilities says so.
    features: &[ns::CAPS, ns::DISCO_INFO, ns::DISCO_ITEMS],
    account_features: &[ns::DISCO_INFO, ns::DISCO_ITEMS],
    iqs: &[
        IqHandler { ns: ns::DISCO_INFO, run: server_info, ..QUERY },
        IqHandler { ns: ns::DISCO_ITEMS, run: server_items, ..QUERY },
        IqHandler { ns: ns::DISCO_INFO, run: account_info, at: At::Account, ..QUERY },
        IqHandler { ns: ns::DISCO_ITEMS, run: account_items, at: At::Account, ..QUERY },
    ],
    ..Module::EMPTY
};

const QUERY: IqHandler = IqHandler { ns: ns::DISCO_INFO, name: "query", kind: IqKind::Get, at: At::Server, run: server_info, resume: None };

/// Category, type, name.
type Identity = (&'static str, &'static str, Option<&'static str>);
const SERVER: Identity = ("server", "im", Some("Chappe"));
const ACCOUNT: Identity = ("account", "registered", None);

fn features(pipeline: &Pipeline, of: fn(&Module) -> &'static [&'static str]) -> BTreeSet<&'static str> {
    pipeline.modules().iter().flat_map(|m| of(m)).copied().collect()
}

fn info((category, type_, name): Identity, features: &BTreeSet<&'static str>) -> Element {
    let identity =
        Element::new("identity", ns::DISCO_INFO).with_attr("category", category).with_attr("type", type_).with_attr_opt("name", name);
    let feature = |var: &&str| Element::new("feature", ns::DISCO_INFO).with_attr("var", var);
    Element::new("query", ns::DISCO_INFO).with_child(identity).with_children(features.iter().map(feature))
}

/// XEP-0115 §5.1: the verification string of the server's disco#info.
pub fn server_ver(pipeline: &Pipeline) -> String {
    let (category, type_, name) = SERVER;
    let mut text = format!("{category}/{type_}//{}<", name.unwrap_or_default());
    for feature in features(pipeline, |m| m.features) {
        text.push_str(feature);
        text.push('<');
    }
    STANDARD.encode(Sha1::digest(text))
}

/// XEP-0115 §6.3: `<c/>` for the stream's features, so that a client that knows this server need not ask.
pub fn server_caps(pipeline: &Pipeline) -> Element {
    Element::new("c", ns::CAPS).with_attr("hash", "sha-1").with_attr("node", CAPS_NODE).with_attr("ver", server_ver(pipeline))
}

fn server_info(cx: &mut IqCtx<'_>, _: &Stanza, query: &Element) -> Answer {
    let pipeline = cx.ctx.pipeline;
    let all = info(SERVER, &features(pipeline, |m| m.features));
    match query.attr("node") {
        None => Answer::Result(Some(all)),
        // XEP-0115 §6.2
        Some(node) if node.strip_prefix(CAPS_NODE).and_then(|n| n.strip_prefix('#')) == Some(&server_ver(pipeline)) => {
            Answer::Result(Some(all.with_attr("node", node)))
        }
        Some(_) => Answer::Error(Condition::ItemNotFound.into()),
    }
}

fn server_items(_: &mut IqCtx<'_>, _: &Stanza, query: &Element) -> Answer {
    match query.attr("node") {
        None => Answer::Result(Some(Element::new("query", ns::DISCO_ITEMS))),
        Some(_) => Answer::Error(Condition::ItemNotFound.into()),
    }
}

/// May who asks know that there is an account?
fn is_trusted(cx: &IqCtx<'_>) -> bool {
    cx.session.is_some() || cx.state.roster.is_subscriber(&cx.from.to_bare())
}

fn account_info(cx: &mut IqCtx<'_>, _: &Stanza, query: &Element) -> Answer {
    if !is_trusted(cx) {
        return Answer::Error(Condition::ServiceUnavailable.into());
    }
    match query.attr("node") {
        None => Answer::Result(Some(info(ACCOUNT, &features(cx.ctx.pipeline, |m| m.account_features)))),
        Some(_) => Answer::Error(Condition::ItemNotFound.into()),
    }
}

fn account_items(cx: &mut IqCtx<'_>, _: &Stanza, query: &Element) -> Answer {
    if !is_trusted(cx) {
        return Answer::Error(Condition::ServiceUnavailable.into());
    }
    if query.attr("node").is_some() {
        return Answer::Error(Condition::ItemNotFound.into());
    }
    // §4.2: available resources.
    let item = |jid: &types::FullJid| Element::new("item", ns::DISCO_ITEMS).with_attr("jid", jid.as_str());
    let items = cx.state.available().map(|s| item(&s.jid));
    Answer::Result(Some(Element::new("query", ns::DISCO_ITEMS).with_children(items)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check;

    const UNAVAILABLE: &str = "<error type='cancel'><service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>";
    const NOT_FOUND: &str = "<error type='cancel'><item-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>";

    #[test]
    fn server() {
        let ver = server_ver(&crate::pipeline());
        let all = "<identity category='server' type='im' name='Chappe'/>
            <feature var='http://jabber.org/protocol/caps'/>
            <feature var='http://jabber.org/protocol/disco#info'/>
            <feature var='http://jabber.org/protocol/disco#items'/>
            <feature var='jabber:iq:register'/>
            <feature var='jabber:iq:version'/>
            <feature var='msgoffline'/>
            <feature var='urn:xmpp:blocking'/>
            <feature var='urn:xmpp:carbons:2'/>
            <feature var='urn:xmpp:hints'/>
            <feature var='urn:xmpp:ping'/>
            <feature var='urn:xmpp:time'/>";
        check(&format!(
            "
            juliet/balcony binds
            juliet/balcony > <iq id='1' type='get' to='x'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>
            juliet/balcony < <iq id='1' type='result' from='x' to='juliet@x/balcony'>
                <query xmlns='http://jabber.org/protocol/disco#info'>{all}</query></iq>
            juliet/balcony > <iq id='2' type='get' to='x'>
                <query xmlns='http://jabber.org/protocol/disco#info' node='{CAPS_NODE}#{ver}'/></iq>
            juliet/balcony < <iq id='2' type='result' from='x' to='juliet@x/balcony'>
                <query xmlns='http://jabber.org/protocol/disco#info' node='{CAPS_NODE}#{ver}'>{all}</query></iq>
            juliet/balcony > <iq id='3' type='get' to='x'><query xmlns='http://jabber.org/protocol/disco#info' node='n'/></iq>
            juliet/balcony < <iq id='3' type='error' from='x' to='juliet@x/balcony'>{NOT_FOUND}</iq>
            juliet/balcony > <iq id='4' type='get' to='x'><query xmlns='http://jabber.org/protocol/disco#items'/></iq>
            juliet/balcony < <iq id='4' type='result' from='x' to='juliet@x/balcony'>
                <query xmlns='http://jabber.org/protocol/disco#items'/></iq>
            juliet/balcony > <iq id='5' type='get' to='x'><query xmlns='http://jabber.org/protocol/disco#items' node='n'/></iq>
            juliet/balcony < <iq id='5' type='error' from='x' to='juliet@x/balcony'>{NOT_FOUND}</iq>
            "
        ));
    }

    /// XEP-0115 §5.2, its example, with this module's way to build the string.
    #[test]
    fn verification_string() {
        const EXODUS: Module = Module {
            features: &[
                "http://jabber.org/protocol/muc",
                "http://jabber.org/protocol/caps",
                "http://jabber.org/protocol/disco#items",
                "http://jabber.org/protocol/disco#info",
            ],
            ..Module::EMPTY
        };
        let sorted: Vec<_> = features(&Pipeline::new(&[&EXODUS]), |m| m.features).into_iter().collect();
        let text = format!("client/pc//Exodus 0.9.1<{}<", sorted.join("<"));
        assert_eq!(STANDARD.encode(Sha1::digest(text)), "QgayPKawpkPSDYmwT/WM94uAlu0=");
        let caps = server_caps(&crate::pipeline());
        assert_eq!(caps.attr("ver"), Some(server_ver(&crate::pipeline()).as_str()));
        assert_ne!(server_ver(&crate::pipeline()), server_ver(&Pipeline::new(&[&EXODUS])));
    }

    /// What an account tells, and whom.
    #[test]
    fn account() {
        let info = "<query xmlns='http://jabber.org/protocol/disco#info'>
            <identity category='account' type='registered'/>
            <feature var='http://jabber.org/protocol/disco#info'/>
            <feature var='http://jabber.org/protocol/disco#items'/>
            <feature var='urn:xmpp:mam:2'/>
            <feature var='urn:xmpp:mam:2#extended'/>
            <feature var='urn:xmpp:ping'/>
            <feature var='urn:xmpp:sid:0'/></query>";
        let items = "<query xmlns='http://jabber.org/protocol/disco#items'><item jid='juliet@x/balcony'/></query>";
        check(&format!(
            "
            juliet meets romeo
            juliet/balcony comes
            juliet/crypt binds
            romeo/orchard binds
            tybalt/street binds
            juliet/crypt > <iq id='1' type='get'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>
            juliet/crypt < <iq id='1' type='result' to='juliet@x/crypt'>{info}</iq>
            juliet/crypt > <iq id='2' type='get' to='juliet@x'><query xmlns='http://jabber.org/protocol/disco#items'/></iq>
            juliet/crypt < <iq id='2' type='result' from='juliet@x' to='juliet@x/crypt'>{items}</iq>
            romeo/orchard > <iq id='1' type='get' to='juliet@x'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>
            romeo/orchard < <iq id='1' type='result' from='juliet@x' to='romeo@x/orchard'>{info}</iq>
            romeo/orchard > <iq id='2' type='get' to='juliet@x'><query xmlns='http://jabber.org/protocol/disco#info' node='n'/></iq>
            romeo/orchard < <iq id='2' type='error' from='juliet@x' to='romeo@x/orchard'>{NOT_FOUND}</iq>
            romeo/orchard > <iq id='3' type='get' to='juliet@x'><query xmlns='http://jabber.org/protocol/disco#items'/></iq>
            romeo/orchard < <iq id='3' type='result' from='juliet@x' to='romeo@x/orchard'>{items}</iq>
            romeo/orchard > <iq id='4' type='get' to='juliet@x'><query xmlns='http://jabber.org/protocol/disco#items' node='n'/></iq>
            romeo/orchard < <iq id='4' type='error' from='juliet@x' to='romeo@x/orchard'>{NOT_FOUND}</iq>
            "
        ));
        for what in ["info'", "items'", "info' node='n'", "items' node='n'"] {
            for whom in ["juliet", "nobody"] {
                check(&format!(
                    "
                    juliet/balcony comes
                    tybalt/street binds
                    tybalt/street > <iq id='1' type='get' to='{whom}@x'><query xmlns='http://jabber.org/protocol/disco#{what}/></iq>
                    tybalt/street < <iq id='1' type='error' from='{whom}@x' to='tybalt@x/street'>{UNAVAILABLE}</iq>
                    "
                ));
            }
        }
    }
}
