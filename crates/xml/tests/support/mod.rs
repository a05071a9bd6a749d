//! A second, strict parser (rxml) as a witness, and XML made at random.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use proptest::prelude::*;
use rxml::{Event, Parse};
use xml::{Attr, Element, Node};

/// What rxml reads where `xml` stands in an element whose default namespace is `default_ns` and which declares the prefix
/// `stream`: one element, or nothing.
pub fn witness(xml: &[u8], default_ns: &str) -> Option<Element> {
    // rxml refuses or drops some CRs in attributes. A parser acts as if line ends were normalised before parsing (XML 1.0
    // §2.11), so that is done for it; what this crate makes of CR is pinned by tables.
    let text = String::from_utf8(xml.to_vec()).ok()?;
    witness_of_normalised(text.replace("\r\n", "\n").replace('\r', "\n").as_bytes(), default_ns)
}

fn witness_of_normalised(xml: &[u8], default_ns: &str) -> Option<Element> {
    let mut doc = format!("<?xml version='1.0'?><w xmlns='{default_ns}' xmlns:stream='http://etherx.jabber.org/streams'>").into_bytes();
    doc.extend_from_slice(xml);
    doc.extend_from_slice(b"</w>");
    let mut parser = rxml::Parser::new();
    let mut rest = &doc[..];
    let mut stack = vec![Element::default()];
    loop {
        match parser.parse(&mut rest, true) {
            Ok(Some(Event::XmlDeclaration(..))) => {}
            Ok(Some(Event::StartElement(_, (ns, name), attrs))) => {
                let mut element = Element::new(name.as_ref(), ns.as_ref());
                for ((ns, name), value) in attrs.iter() {
                    let (ns, name) = (ns.to_string().into(), name.to_string().into());
                    element.attrs.push(Attr { ns, name, value: value.as_str().into() });
                }
                stack.push(element);
            }
            Ok(Some(Event::EndElement(_))) => {
                let element = stack.pop().unwrap();
                stack.last_mut().unwrap().children.push(Node::Element(element));
            }
            Ok(Some(Event::Text(_, text))) => match stack.last_mut().unwrap().children.last_mut() {
                Some(Node::Text(last)) => last.push_str(&text),
                _ if text.is_empty() => {}
                _ => stack.last_mut().unwrap().children.push(Node::Text(text.to_string())),
            },
            Ok(None) => break,
            Err(_) => return None,
        }
    }
    let mut wrapped = stack.pop()?;
    let Some(Node::Element(w)) = wrapped.children.first_mut() else {
        return None;
    };
    match (w.children.len(), w.children.pop()) {
        (1, Some(Node::Element(element))) => Some(sorted(element)),
        _ => None,
    }
}

/// Many cases by default, more by `PROPTEST_CASES`; a failure is shown, not kept in a file.
pub fn config() -> ProptestConfig {
    let default = ProptestConfig::default();
    ProptestConfig { cases: default.cases.max(512), failure_persistence: None, ..default }
}

/// With attributes in one order.
pub fn sorted(mut element: Element) -> Element {
    element.attrs.sort_by(|a, b| (&a.ns, &a.name).cmp(&(&b.ns, &b.name)));
    for node in &mut element.children {
        if let Node::Element(child) = node {
            *child = sorted(std::mem::take(child));
        }
    }
    element
}

/// Text in the many ways it can be written.
fn any_text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => "[a-z ]{0,8}",
        1 => Just("é漢😀\u{1FFFE}\u{2028}".to_owned()),
        1 => "[ \t\r\n]{1,3}",
        1 => prop::sample::select(vec!["&amp;", "&lt;", "&gt;", "&quot;", "&apos;"]).prop_map(str::to_owned),
        1 => prop::sample::select(vec!["&#65;", "&#x1F600;", "&#13;", "&#10;", "&#9;", "&#xe9;"]).prop_map(str::to_owned),
        1 => prop::sample::select(vec!["<![CDATA[]]>", "<![CDATA[a<&]]]>", "<![CDATA[\r\n>]]>"]).prop_map(str::to_owned),
        1 => prop::sample::select(vec![">", "]]", "\"", "'", "/>"]).prop_map(str::to_owned),
    ];
    prop::collection::vec(piece, 0..4).prop_map(|pieces| pieces.concat())
}

fn any_attr() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec![
        "a",
        "b",
        "xml:lang",
        "p:a",
        "q:a",
        "xmlns",
        "xmlns:p",
        "xmlns:q",
        "é",
        "id",
        "stream:a",
        "xmlns:stream",
    ]);
    let value = prop_oneof![
        6 => "[a-z]{0,6}",
        4 => prop::sample::select(vec!["urn:p", "urn:q", "jabber:client", "jabber:server", "http://etherx.jabber.org/streams"])
            .prop_map(str::to_owned),
        2 => prop::sample::select(vec!["&amp;&lt;&gt;&quot;&apos;", "&#10;", "\n", "\r\n\t", ">", "&#x41;é"]).prop_map(str::to_owned),
    ];
    let space = prop::sample::select(vec![" ", " ", " ", "\n", "  "]);
    (space, name, prop::sample::select(vec!["=", "=", "=", " = "]), value, prop::sample::select(vec!['\'', '"']))
        .prop_map(|(space, name, eq, value, quote)| format!("{space}{name}{eq}{quote}{value}{quote}"))
}

/// An element that is often well-formed.
pub fn any_element() -> impl Strategy<Value = String> {
    let name = || prop::sample::select(vec!["a", "b", "body", "p:a", "q:b", "stream:x", "é", "forwarded", "message"]);
    let tag = move || (name(), prop::collection::vec(any_attr(), 0..4), prop::sample::select(vec!["", "", " ", "\n"]));
    let leaf = (tag(), prop::option::of(any_text())).prop_map(|(tag, text)| element(tag, text));
    leaf.prop_recursive(4, 16, 4, move |inner| {
        (tag(), prop::collection::vec(prop_oneof![any_text(), inner], 0..4)).prop_map(|(tag, content)| element(tag, Some(content.concat())))
    })
}

fn element((name, attrs, space): (&str, Vec<String>, &str), content: Option<String>) -> String {
    let mut seen = Vec::new();
    let mut tag = String::from(name);
    for attr in attrs {
        // Most duplicates are left out, so that most elements are well-formed.
        let key = attr.split('=').next().unwrap_or_default().trim().to_owned();
        if !seen.contains(&key) {
            tag.push_str(&attr);
            seen.push(key);
        }
    }
    // The prefixes are usually declared.
    for prefix in ["p", "q"] {
        if tag.contains(&format!("{prefix}:")) && !seen.contains(&format!("xmlns:{prefix}")) {
            tag.push_str(&format!(" xmlns:{prefix}='urn:{prefix}'"));
        }
    }
    match content {
        Some(content) => format!("<{tag}{space}>{content}</{name}{space}>"),
        None => format!("<{tag}{space}/>"),
    }
}

/// A change somewhere in a text that makes it ill-formed more often than not.
#[derive(Clone, Debug)]
pub enum Mutation {
    Insert(usize, &'static str),
    Delete(usize, usize),
    Double(usize, usize),
}

pub fn any_mutation() -> impl Strategy<Value = Mutation> {
    let fragments = vec![
        "<",
        ">",
        "/",
        "&",
        ";",
        "'",
        "\"",
        "=",
        " ",
        ":",
        "]]>",
        "<![CDATA[",
        "<!--",
        "-->",
        "<?x?>",
        "<!DOCTYPE a>",
        "&#0;",
        "&#xFFFE;",
        "&#x110000;",
        "&foo;",
        "&#99999999999999999999;",
        "</a>",
        "<a>",
        "<a/>",
        "\u{0}",
        "\u{b}",
        "\u{ffff}",
        "xmlns:p=''",
        " xmlns:xml='urn:x'",
        " xmlns:xmlns='urn:x'",
        " xmlns='http://www.w3.org/XML/1998/namespace'",
        "1",
        "-",
        "é",
        "\r",
        "x:",
        " a='1'",
        "&#;",
        "&#x;",
        "&#+1;",
        "&amp",
        "xml:",
        "xmlns:",
        "<xml:a/>",
    ];
    prop_oneof![
        3 => (any::<usize>(), prop::sample::select(fragments)).prop_map(|(at, text)| Mutation::Insert(at, text)),
        1 => (any::<usize>(), 1usize..4).prop_map(|(at, n)| Mutation::Delete(at, n)),
        1 => (any::<usize>(), 1usize..6).prop_map(|(at, n)| Mutation::Double(at, n)),
    ]
}

pub fn mutate(text: &str, mutations: &[Mutation]) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    for mutation in mutations {
        let len = chars.len();
        match mutation {
            Mutation::Insert(at, text) => {
                let at = at % (len + 1);
                chars.splice(at..at, text.chars());
            }
            Mutation::Delete(at, n) => {
                let at = at % len.max(1);
                chars.drain(at.min(len)..(at + n).min(len));
            }
            Mutation::Double(at, n) => {
                let at = at % len.max(1);
                let piece: Vec<char> = chars[at.min(len)..(at + n).min(len)].to_vec();
                chars.splice(at.min(len)..at.min(len), piece);
            }
        }
    }
    chars.into_iter().collect()
}
