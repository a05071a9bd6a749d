//! Stanzas: one that gets another head is one stanza with that head, and its children mean to a second parser what they meant
//! where they came from, on a stream, in a store, wrapped in another stanza. Nothing is smuggled out of one.
//!
//! The first byte says on which kind of stream it comes and what is stamped, then a piece that becomes its id, and one that
//! becomes its language; the rest is the stanza.

use crate::input::Input;
use crate::memory::within;
use crate::witness::{self, sorted};
use bytes::Bytes;
use compact_str::CompactString;
use stanza::{Condition, Parsed, Stanza, StanzaError};
use types::{Jid, ns};
use xml::{Element, Node};

/// Addresses of all kinds, among them one with every character that XML escapes.
const STAMPS: [&str; 4] = ["romeo@im.example/orchard", "im.example", "é@münchen.example/'\"<>&", "juliet@im.example"];
/// Bytes of memory for each byte of a stanza: `<a/>` becomes a child of 80 bytes in a vector that doubles.
const CHILD_FACTOR: usize = 72;

/// See the module.
pub fn stanza(data: &[u8]) {
    let mut input = Input(data);
    let flags = input.u8();
    let (id, lang) = (input.piece(), input.piece());
    let text = input.0;
    if text.len() > witness::TEXT_BYTES_MAX || witness::is_blind_to(text) {
        return;
    }
    let stream_ns = if flags & 1 == 0 { ns::CLIENT } else { ns::SERVER };
    let frame = Bytes::copy_from_slice(text);
    let parsed = within(8_192 + CHILD_FACTOR * text.len(), "stanza", || Stanza::parse(frame, stream_ns));
    let seen = witness::element(text, stream_ns);
    match parsed {
        Ok(Parsed::Stanza(stanza)) => {
            let seen = seen.expect("accepted, but ill-formed");
            check_head(&stanza, &seen);
            check(stamped(stanza, flags, id, lang), &children(seen, stream_ns));
        }
        // An address is missing there: what else it says is as of any stanza.
        Ok(Parsed::Malformed(malformed)) => {
            if let Some(reply) = malformed.reply() {
                let reply = witness::element(&reply.to_bytes(), ns::CLIENT).expect("an error is one stanza");
                assert_eq!(reply.attr("type"), Some("error"));
            }
            check(stamped(malformed.stanza, flags, id, lang), &children(seen.expect("accepted, but ill-formed"), stream_ns));
        }
        Ok(Parsed::Other(element)) => assert_eq!(Some(sorted(element)), seen),
        Err(_) => {}
    }
}

/// What was read of the head is what stands there.
fn check_head(stanza: &Stanza, seen: &Element) {
    assert_eq!(seen.name, stanza.kind.name());
    assert_eq!(seen.attr("id"), stanza.id.as_deref());
    assert_eq!(seen.attr("type"), stanza.type_.as_str());
    assert_eq!(seen.attr("xml:lang"), stanza.lang.as_deref());
    assert_eq!(seen.attr("to").map(|to| Jid::parse(to).ok()), stanza.to.clone().map(Some));
    assert_eq!(seen.attr("from").map(|from| Jid::parse(from).ok()), stanza.from.clone().map(Some));
}

/// As edges, entities and modules do.
fn stamped(mut stanza: Stanza, flags: u8, id: &[u8], lang: &[u8]) -> Stanza {
    let jid = |n: u8| Jid::parse(STAMPS[usize::from(n & 3)]).expect("an address");
    if flags & 2 != 0 {
        stanza.from = Some(jid(flags >> 4));
    }
    if flags & 4 != 0 {
        stanza.to = Some(jid(flags >> 6));
    }
    if flags & 8 != 0 {
        stanza.id = Some(String::from_utf8_lossy(id).into());
        stanza.lang.get_or_insert_with(|| CompactString::from_utf8_lossy(lang));
    }
    stanza
}

/// Characters that XML cannot hold are left out.
fn kept(text: &str) -> CompactString {
    text.chars().filter(|&c| xml::chars::is_char(c)).collect()
}

fn check(mut stanza: Stanza, wanted: &[Element]) {
    let bytes = stanza.to_bytes();
    stanza.id = stanza.id.map(|id| kept(&id));
    stanza.lang = stanza.lang.map(|lang| kept(&lang));
    let head = |element: &Element| {
        assert_eq!((&*element.name, &*element.ns), (stanza.kind.name(), ns::CLIENT));
        assert_eq!(element.attr("to"), stanza.to.as_ref().map(Jid::as_str));
        assert_eq!(element.attr("from"), stanza.from.as_ref().map(Jid::as_str));
        assert_eq!(element.attr("id"), stanza.id.as_deref());
        assert_eq!(element.attr("type"), stanza.type_.as_str());
        assert_eq!(element.attr("xml:lang"), stanza.lang.as_deref());
        let named = [stanza.to.is_some(), stanza.from.is_some(), stanza.id.is_some(), stanza.lang.is_some()];
        let type_ = usize::from(stanza.type_.as_str().is_some());
        let count = named.into_iter().filter(|n| *n).count() + type_ + stanza.other_attrs.len();
        assert_eq!(element.attrs.len(), count, "attributes that nobody wrote");
    };
    // On a stream of either kind.
    let seen = witness::element(&bytes, ns::CLIENT).expect("one stanza");
    head(&seen);
    assert_eq!(children(seen, ns::CLIENT), wanted);
    let seen = witness::element(&bytes, ns::SERVER).expect("one stanza");
    assert_eq!((&*seen.name, &*seen.ns), (stanza.kind.name(), ns::SERVER));
    // In a row and out of it.
    let decoded = Stanza::decode(bytes).expect("what was written is read");
    let own: Vec<Element> = decoded.children.iter().map(|c| sorted(c.element().expect("a child is an element"))).collect();
    assert_eq!(own, wanted);
    assert_eq!(decoded.id, stanza.id);
    let again = decoded.to_bytes();
    assert_eq!(Stanza::decode(again.clone()).map(|s| s.to_bytes()), Ok(again));
    // Forwarded, where the default namespace is another one.
    let mut out = Vec::from(*b"<forwarded xmlns='urn:xmpp:forward:0'>");
    stanza.write_with_ns(&mut out);
    out.extend_from_slice(b"</forwarded>");
    let forwarded = witness::element(&out, ns::CLIENT).expect("one element");
    let inner: Vec<&Element> = forwarded.children().collect();
    assert_eq!(inner.len(), 1, "one stanza is forwarded");
    head(inner[0]);
    assert_eq!(children(inner[0].clone(), ns::CLIENT), wanted);
    // The answer to it: what goes back is not more than one stanza either.
    if let Some(reply) = StanzaError::new(Condition::ServiceUnavailable).reply_to(&stanza) {
        let reply = witness::element(&reply.to_bytes(), ns::CLIENT).expect("an error is one stanza");
        assert_eq!(reply.children().filter(|c| c.is("error", ns::CLIENT)).count(), 1);
    }
}

/// RFC 6120 §4.8.3: content of a server's stream is in `jabber:client` here; what stands in other namespaces is not touched.
fn rescoped(mut element: Element) -> Element {
    if element.ns == ns::SERVER {
        element.ns = ns::CLIENT.into();
        for node in &mut element.children {
            if let Node::Element(child) = node {
                *child = rescoped(std::mem::take(child));
            }
        }
    }
    element
}

fn children(stanza: Element, stream_ns: &str) -> Vec<Element> {
    let children = stanza.children().cloned();
    if stream_ns == ns::SERVER { children.map(rescoped).collect() } else { children.collect() }
}
