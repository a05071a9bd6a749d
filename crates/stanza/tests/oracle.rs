//! What passes through a stanza means to a second parser, behind our envelope, what it meant where it came from.

#[path = "../../xml/tests/support/mod.rs"]
mod support;

use bytes::Bytes;
use proptest::prelude::*;
use stanza::{Child, Parsed, Stanza};
use support::{any_element, any_mutation, config, mutate, sorted, witness};
use types::ns;
use xml::{Element, Node};

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

/// A stanza in any surface form.
fn any_stanza() -> impl Strategy<Value = String> {
    let kind = prop::sample::select(vec!["message", "presence", "iq"]);
    let attr = prop::sample::select(vec![
        " to='a@b/c'",
        " from=\"x.y\"",
        " id='&lt;7&#10;'",
        " type='chat'",
        " type=\"set\"",
        " xml:lang='en'",
        " xmlns:p='urn:env'",
        " xmlns='jabber:client'",
        " xmlns='jabber:server'",
        " xmlns:q='jabber:client'",
        " f='1'",
    ]);
    let body = prop_oneof![3 => any_element(), 1 => "[ \n]{0,2}"];
    (kind, prop::collection::vec(attr, 0..4), prop::collection::vec(body, 0..4)).prop_map(|(kind, attrs, body)| {
        let mut attrs = attrs;
        attrs.sort_unstable();
        attrs.dedup_by_key(|a| a.split('=').next().unwrap_or_default());
        format!("<{kind}{}>{}</{kind}>", attrs.concat(), body.concat())
    })
}

fn check(text: &str, stream_ns: &str) -> Result<(), TestCaseError> {
    let parsed = Stanza::parse(Bytes::copy_from_slice(text.as_bytes()), stream_ns);
    let seen = witness(text.as_bytes(), stream_ns);
    let stanza = match parsed {
        Ok(Parsed::Stanza(stanza)) => stanza,
        Ok(Parsed::Other(element)) => {
            prop_assert_eq!(Some(sorted(element)), seen, "{}", text);
            return Ok(());
        }
        Ok(Parsed::Malformed(_)) | Err(_) => return Ok(()),
    };
    let Some(seen) = seen else {
        return Err(TestCaseError::fail(format!("accepted, but ill-formed: {text}")));
    };
    prop_assert_eq!(seen.attr("id"), stanza.id.as_deref());
    let want = children(seen, stream_ns);
    // Each child on its own.
    let own: Vec<Element> = stanza.children.iter().map(|c| sorted(c.element().unwrap())).collect();
    prop_assert_eq!(&own, &want, "{}", text);
    for (child, element) in stanza.children.iter().zip(&own) {
        prop_assert!(child.is(&element.name, &element.ns), "{} {}", child.name, child.ns);
    }
    // All of them behind our envelope, and again after one more hop.
    let bytes = stanza.to_bytes();
    let behind = witness(&bytes, ns::CLIENT).ok_or_else(|| TestCaseError::fail(format!("{text}\nwritten {bytes:?}")))?;
    prop_assert_eq!(children(behind.clone(), ns::CLIENT), want, "{}", text);
    let decoded = Stanza::decode(bytes.clone()).unwrap();
    prop_assert_eq!(decoded.children.iter().map(|c| sorted(c.element().unwrap())).collect::<Vec<_>>(), own);
    // A superfluous `xmlns='jabber:client'` may fall away once; a row read and written again and again stays as it is.
    let again = decoded.to_bytes();
    prop_assert_eq!(Stanza::decode(again.clone()).unwrap().to_bytes(), again);
    // Forwarded in another envelope, where the default namespace is another one.
    let mut out = Vec::from(*b"<forwarded xmlns='urn:xmpp:forward:0'>");
    stanza.write_with_ns(&mut out);
    out.extend_from_slice(b"</forwarded>");
    let forwarded = witness(&out, "urn:other").unwrap();
    prop_assert_eq!(forwarded.children().next(), Some(&behind), "{}", text);
    prop_assert_eq!(sorted(stanza.to_element().unwrap()), behind);
    // Between servers the content namespace is another one, inherited all the same.
    let abroad = witness(&stanza.to_bytes(), ns::SERVER).unwrap();
    prop_assert_eq!(abroad.ns, ns::SERVER);
    Ok(())
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn children_pass_unchanged(text in any_stanza(), server in any::<bool>()) {
        check(&text, if server { ns::SERVER } else { ns::CLIENT })?;
    }

    #[test]
    fn children_pass_unchanged_or_are_refused(
        text in any_stanza(), mutations in prop::collection::vec(any_mutation(), 1..3), server in any::<bool>(),
    ) {
        check(&mutate(&text, &mutations), if server { ns::SERVER } else { ns::CLIENT })?;
    }

    #[test]
    fn a_child_made_of_an_element_is_that_element(text in any_element()) {
        if let Ok(element) = Element::parse(text.as_bytes(), ns::CLIENT) {
            let child = Child::from(&element);
            prop_assert_eq!(child.text(), element.text());
            prop_assert_eq!(child.element(), Ok(element));
        }
    }

    #[test]
    fn any_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "[<>/!?&;='\" messagiqx:-]{0,60}") {
        for bytes in [Bytes::from(bytes), Bytes::from(text)] {
            let _ = Stanza::parse(bytes.clone(), ns::CLIENT);
            let _ = Stanza::decode(bytes);
        }
    }
}
