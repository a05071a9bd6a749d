//! A tree for small payloads.

use crate::write::{escape_text, start_tag};
use crate::{Event, Scope, Tokens, XmlError, intern};
use bytes::{BufMut, Bytes};
use compact_str::CompactString;
use std::borrow::Cow;
use types::ns;

/// An attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attr {
    /// Namespace; empty for an attribute without prefix.
    pub ns: CompactString,
    /// Local name.
    pub name: CompactString,
    /// Value, not escaped.
    pub value: CompactString,
}

/// An element with all that is in it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Element {
    /// Local name.
    pub name: CompactString,
    /// Namespace; empty if it has none.
    pub ns: CompactString,
    /// Attributes in the order written, without namespace declarations.
    pub attrs: Vec<Attr>,
    /// Elements and text in the order written. Two texts never stand side by side after parsing.
    pub children: Vec<Node>,
}

/// What can stand in an element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// A child element.
    Element(Element),
    /// Character data, not escaped.
    Text(String),
}

/// Splits off the one prefix that is always declared: `xml`.
fn attr_name(name: &str) -> (&'static str, &str) {
    match name.strip_prefix("xml:") {
        Some(local) => (ns::XML, local),
        None => ("", name),
    }
}

impl Element {
    /// An empty element.
    pub fn new(name: &str, ns: &str) -> Element {
        Element { name: CompactString::new(name), ns: intern(ns), attrs: Vec::new(), children: Vec::new() }
    }

    /// Adds or replaces an attribute; `xml:lang` is understood.
    pub fn set_attr(&mut self, name: &str, value: impl AsRef<str>) {
        let (ns, name) = attr_name(name);
        let value = CompactString::new(value);
        match self.attrs.iter_mut().find(|a| a.ns == ns && a.name == name) {
            Some(attr) => attr.value = value,
            None => self.attrs.push(Attr { ns: intern(ns), name: CompactString::new(name), value }),
        }
    }

    /// With an attribute added or replaced; `xml:lang` is understood.
    pub fn with_attr(mut self, name: &str, value: impl AsRef<str>) -> Element {
        self.set_attr(name, value);
        self
    }

    /// With an attribute, if there is a value.
    pub fn with_attr_opt(self, name: &str, value: Option<impl AsRef<str>>) -> Element {
        match value {
            Some(value) => self.with_attr(name, value),
            None => self,
        }
    }

    /// With a child element added.
    pub fn with_child(mut self, child: Element) -> Element {
        self.children.push(Node::Element(child));
        self
    }

    /// With several child elements added.
    pub fn with_children(mut self, children: impl IntoIterator<Item = Element>) -> Element {
        self.children.extend(children.into_iter().map(Node::Element));
        self
    }

    /// With text added. Characters that XML cannot hold are left out when it is written.
    pub fn with_text(mut self, text: impl AsRef<str>) -> Element {
        self.push_text(text.as_ref());
        self
    }

    /// Adds a child element.
    pub fn push_child(&mut self, child: Element) {
        self.children.push(Node::Element(child));
    }

    fn push_text(&mut self, text: &str) {
        match self.children.last_mut() {
            Some(Node::Text(last)) => last.push_str(text),
            _ if text.is_empty() => {}
            _ => self.children.push(Node::Text(text.to_owned())),
        }
    }

    /// Value of an attribute without namespace, or of `xml:lang`.
    pub fn attr(&self, name: &str) -> Option<&str> {
        let (ns, name) = attr_name(name);
        self.attr_ns(name, ns)
    }

    /// Value of an attribute in a namespace.
    pub fn attr_ns(&self, name: &str, ns: &str) -> Option<&str> {
        self.attrs.iter().find(|a| a.name == name && a.ns == ns).map(|a| a.value.as_str())
    }

    /// Whether it has this name in this namespace.
    pub fn is(&self, name: &str, ns: &str) -> bool {
        self.name == name && self.ns == ns
    }

    /// The first child element of this name and namespace.
    pub fn child(&self, name: &str, ns: &str) -> Option<&Element> {
        self.children().find(|c| c.is(name, ns))
    }

    /// Child elements.
    pub fn children(&self) -> impl Iterator<Item = &Element> {
        self.children.iter().filter_map(|node| match node {
            Node::Element(child) => Some(child),
            Node::Text(_) => None,
        })
    }

    /// Text that stands directly in it, without that of its children.
    pub fn text(&self) -> Cow<'_, str> {
        let mut texts = self.children.iter().filter_map(|node| match node {
            Node::Text(text) => Some(text.as_str()),
            Node::Element(_) => None,
        });
        let first = texts.next().unwrap_or_default();
        match texts.next() {
            None => Cow::Borrowed(first),
            Some(second) => {
                let mut all = String::from(first);
                all.push_str(second);
                all.extend(texts);
                Cow::Owned(all)
            }
        }
    }

    /// Reads one element, strictly. `default_ns` is the default namespace around it; no prefix is declared but `xml`.
    ///
    /// # Errors
    /// What is wrong with it, as a stream error.
    pub fn parse(bytes: &[u8], default_ns: &str) -> Result<Element, XmlError> {
        Element::read(Tokens::with(bytes, [("", default_ns)])?)
    }

    /// As [`Element::parse`], with the namespaces of `scope` around it.
    ///
    /// # Errors
    /// As [`Element::parse`].
    pub fn parse_in(bytes: &[u8], scope: &Scope) -> Result<Element, XmlError> {
        Element::read(Tokens::new(bytes, scope)?)
    }

    /// Reads the element over which `tokens` was made, none of which is read yet.
    ///
    /// # Errors
    /// As [`Element::parse`].
    pub fn read(mut tokens: Tokens<'_>) -> Result<Element, XmlError> {
        // At most as long as the tokenizer lets elements be deep.
        let mut parents: Vec<Element> = Vec::new();
        let mut current = Element::default();
        loop {
            match tokens.next()? {
                Event::Start => parents.push(std::mem::replace(&mut current, Element::of_start(&tokens))),
                Event::Text(text) => current.push_text(&text),
                Event::End => {
                    let Some(mut parent) = parents.pop() else {
                        return Err(XmlError::NotWellFormed);
                    };
                    parent.children.push(Node::Element(std::mem::take(&mut current)));
                    current = parent;
                }
                Event::Eof => break,
            }
        }
        match current.children.pop() {
            Some(Node::Element(root)) => Ok(root),
            _ => Err(XmlError::NotWellFormed),
        }
    }

    /// Name, namespace and attributes of the element whose start `tokens` has just told.
    fn of_start(tokens: &Tokens<'_>) -> Element {
        let attrs = tokens.attrs();
        let attrs = attrs.map(|a| Attr { ns: intern(a.ns), name: a.name.into(), value: a.value.into() }).collect();
        Element { name: tokens.name().into(), ns: intern(tokens.ns()), attrs, children: Vec::new() }
    }

    /// Writes it canonically: elements without prefixes, `xmlns` only where the namespace changes from `parent_ns`, attributes
    /// in foreign namespaces with generated prefixes. It recurses as deep as the element is.
    pub fn write(&self, out: &mut impl BufMut, parent_ns: &str) {
        let default_ns = start_tag(out, &self.name, &self.ns, parent_ns, self.attrs.iter().map(Attr::borrow));
        if self.children.is_empty() {
            return out.put_slice(b"/>");
        }
        out.put_slice(b">");
        for node in &self.children {
            match node {
                Node::Element(child) => child.write(out, default_ns),
                Node::Text(text) => escape_text(text, out),
            }
        }
        crate::write::end_tag(out, &self.name, &self.ns);
    }

    /// [`Element::write`] into new bytes.
    pub fn to_bytes(&self, parent_ns: &str) -> Bytes {
        let mut out = Vec::with_capacity(128);
        self.write(&mut out, parent_ns);
        Bytes::from(out)
    }
}

impl Attr {
    /// The attribute, borrowed.
    pub fn borrow(&self) -> crate::token::AttrRef<'_> {
        crate::token::AttrRef { ns: &self.ns, name: &self.name, value: &self.value }
    }
}

/// Written as it stands where no namespace is inherited.
impl std::fmt::Display for Element {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut out = Vec::new();
        self.write(&mut out, "");
        f.write_str(&String::from_utf8_lossy(&out))
    }
}
