//! A second, strict parser (rxml), which shares no code with ours (that stands on quick-xml).
//!
//! Where the two may differ, in all:
//!
//! - Limits of ours: a `policy-violation` is no disagreement. rxml has one of its own: 8,192 bytes for a name or a value.
//!   Callers leave longer texts out.
//! - CR: rxml refuses or drops some CRs in attributes. A parser acts as if line ends were normalised before parsing
//!   (XML 1.0 §2.11), so that is done for it.
//! - rxml takes a namespace that is declared twice in one tag, and lets the last one count: [`declares_twice`].
//! - rxml wants an XML declaration: one is put in front where there is none.

use rxml::error::EndOrError;
use rxml::{Event, Parse};
use types::ns;
use xml::{Attr, Element, Node};

/// Longer texts are not shown to the witness.
pub const TEXT_BYTES_MAX: usize = 8_000;

/// How far a document goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// So far there is nothing wrong with it.
    Incomplete,
    /// The root's end tag has come.
    Ended,
    /// It is ill-formed.
    Failed,
}

/// A document that grows.
pub struct Document {
    parser: rxml::Parser,
    /// Elements that are open, the root first.
    open: Vec<Element>,
    /// The root's start tag has come.
    pub opened: bool,
    /// First-level elements that are complete, attributes sorted; text beside them is dropped.
    pub elements: Vec<Element>,
    /// How far it is.
    pub state: State,
    /// There was text or CDATA between first-level elements, other than white space, behind so many of them.
    pub text_behind: Option<usize>,
}

impl Document {
    /// A new one, in front of the XML declaration.
    pub fn new() -> Document {
        Document {
            parser: rxml::Parser::new(),
            open: Vec::new(),
            opened: false,
            elements: Vec::new(),
            state: State::Incomplete,
            text_behind: None,
        }
    }

    /// More of it. What follows the end is not looked at.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while self.state == State::Incomplete {
            match self.parser.parse(&mut bytes, false) {
                Ok(Some(event)) => self.event(event),
                Ok(None) => self.state = State::Ended,
                Err(EndOrError::NeedMoreData) => return,
                Err(EndOrError::Error(_)) => self.state = State::Failed,
            }
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::XmlDeclaration(..) => {}
            Event::StartElement(_, (ns, name), attrs) => {
                let mut element = Element::new(name.as_ref(), ns.as_ref());
                for ((ns, name), value) in attrs.iter() {
                    let (ns, name) = (ns.to_string().into(), name.to_string().into());
                    element.attrs.push(Attr { ns, name, value: value.as_str().into() });
                }
                element.attrs.sort_by(|a, b| (&a.ns, &a.name).cmp(&(&b.ns, &b.name)));
                self.opened = true;
                self.open.push(element);
            }
            Event::EndElement(_) => {
                let element = self.open.pop().expect("rxml matches tags");
                match self.open.len() {
                    0 => self.state = State::Ended,
                    1 => self.elements.push(element),
                    _ => self.open.last_mut().expect("there is one").children.push(Node::Element(element)),
                }
            }
            Event::Text(_, text) if self.open.len() == 1 => {
                if !text.chars().all(|c| matches!(c, ' ' | '\t' | '\r' | '\n')) {
                    self.text_behind.get_or_insert(self.elements.len());
                }
            }
            Event::Text(_, text) => {
                let children = &mut self.open.last_mut().expect("text stands in an element").children;
                match children.last_mut() {
                    Some(Node::Text(last)) => last.push_str(&text),
                    _ if text.is_empty() => {}
                    _ => children.push(Node::Text(text.to_string())),
                }
            }
        }
    }
}

/// Line ends as a parser takes them.
pub fn normalised(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    for (i, b) in bytes.iter().enumerate() {
        match b {
            b'\r' if bytes.get(i + 1) == Some(&b'\n') => {}
            b'\r' => out.push(b'\n'),
            b => out.push(*b),
        }
    }
    out
}

/// The witness lacks the range U+FDF0 to U+FFFD of the characters of a name (XML 1.0 §2.3, production 4): of a text that has one
/// it says nothing.
pub fn is_blind_to(text: &[u8]) -> bool {
    text.windows(3).any(|w| w[0] == 0xef && (w[1] > 0xb7 || w[1] == 0xb7 && w[2] >= 0xb0))
}

/// What the witness reads where `xml` stands on a stream with this default namespace: exactly one element, or nothing.
pub fn element(xml: &[u8], default_ns: &str) -> Option<Element> {
    let mut document = Document::new();
    let root = format!("<?xml version='1.0'?><w xmlns='{default_ns}' xmlns:stream='{}'>", ns::STREAM);
    document.feed(root.as_bytes());
    document.feed(&normalised(xml));
    if document.state != State::Incomplete || document.open.len() != 1 || document.text_behind.is_some() {
        return None;
    }
    document.feed(b"</w>");
    match (document.state, document.elements.len(), document.elements.pop()) {
        (State::Ended, 1, Some(element)) => Some(element),
        _ => None,
    }
}

/// With attributes in one order, as the witness gives them.
pub fn sorted(mut element: Element) -> Element {
    element.attrs.sort_by(|a, b| (&a.ns, &a.name).cmp(&(&b.ns, &b.name)));
    for node in &mut element.children {
        if let Node::Element(child) = node {
            *child = sorted(std::mem::take(child));
        }
    }
    element
}

/// Whether some tag declares the same prefix twice.
pub fn declares_twice(xml: &[u8]) -> bool {
    let mut names: Vec<&[u8]> = Vec::new();
    let (mut quote, mut from) = (None, None);
    for (i, &b) in xml.iter().enumerate() {
        match (quote, b) {
            (Some(q), b) if b == q => quote = None,
            (Some(_), _) => {}
            (None, b'"' | b'\'') => quote = Some(b),
            (None, b'<') => (names, from) = (Vec::new(), None),
            (None, b'=' | b' ' | b'\t' | b'\r' | b'\n') => {
                let name = from.take().map_or(&b""[..], |from| &xml[from..i]);
                if name == b"xmlns" || name.starts_with(b"xmlns:") {
                    if names.contains(&name) {
                        return true;
                    }
                    names.push(name);
                }
            }
            (None, _) => drop(from.get_or_insert(i)),
        }
        if quote.is_some() {
            from = None;
        }
    }
    false
}
