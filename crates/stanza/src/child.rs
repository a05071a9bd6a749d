//! A child of a stanza, as bytes.

use bytes::Bytes;
use compact_str::CompactString;
use types::ns;
use xml::{Element, Event, Tokens, XmlError};

/// How much deeper than what was received a stanza may be that this server has wrapped (carbons, archive results).
pub(crate) const WRAPPED_DEPTH_MAX: usize = types::limit::XML_DEPTH_MAX + 16;

/// A child element of a stanza. Its `bytes` are one whole element, fit to be copied behind any start tag whose default
/// namespace is the content namespace: what was received, if every parser reads that alike, else written anew
/// ([`xml::Tokens::alike`], [`xml::rewrite`]). A child in the content namespace carries no `xmlns` and is said to be in
/// `jabber:client`, also if it came over a stream of `jabber:server`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    /// Local name.
    pub name: CompactString,
    /// Namespace; empty if it has none.
    pub ns: CompactString,
    /// The whole element.
    pub bytes: Bytes,
}

impl Child {
    /// Whether it has this name in this namespace.
    #[inline]
    pub fn is(&self, name: &str, ns: &str) -> bool {
        self.name == name && self.ns == ns
    }

    /// The child as a tree.
    ///
    /// # Errors
    /// None for a child of a parsed stanza or of an [`Element`]; what is wrong with bytes put in by hand.
    pub fn element(&self) -> Result<Element, XmlError> {
        Element::read(Tokens::with(&self.bytes, [("", ns::CLIENT)])?.with_depth_max(WRAPPED_DEPTH_MAX))
    }

    /// Text that stands directly in the child, without that of its children. Empty if the bytes, put in by hand, are no
    /// element.
    pub fn text(&self) -> String {
        let mut text = String::new();
        match self.read_text(&mut text) {
            Ok(()) => text,
            Err(_) => String::new(),
        }
    }

    fn read_text(&self, text: &mut String) -> Result<(), XmlError> {
        let mut tokens = Tokens::with(&self.bytes, [("", ns::CLIENT)])?.with_depth_max(WRAPPED_DEPTH_MAX);
        loop {
            match tokens.next()? {
                Event::Text(piece) if tokens.depth() == 1 => text.push_str(&piece),
                Event::Eof => return Ok(()),
                _ => {}
            }
        }
    }

    /// Value of an attribute without namespace.
    pub fn attr(&self, name: &str) -> Option<String> {
        let mut tokens = Tokens::with(&self.bytes, [("", ns::CLIENT)]).ok()?;
        tokens.next().ok()?;
        tokens.attrs().find(|a| a.ns.is_empty() && a.name == name).map(|a| a.value.to_owned())
    }
}

impl From<&Element> for Child {
    fn from(element: &Element) -> Child {
        Child { name: element.name.clone(), ns: element.ns.clone(), bytes: element.to_bytes(ns::CLIENT) }
    }
}

impl From<Element> for Child {
    fn from(element: Element) -> Child {
        Child::from(&element)
    }
}
