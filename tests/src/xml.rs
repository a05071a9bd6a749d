//! Elements, and a stream that yields them. The parser is rxml, which takes only what XMPP allows (RFC 6120 §11.1):
//! a server that sends anything else fails the test that sees it.

use std::collections::VecDeque;
use std::fmt::Write as _;

use anyhow::{Context as _, Result, bail, ensure};
use rxml::{Event, Parse, WithOptions as _};

/// An element with its children, namespaces resolved.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Element {
    /// Local name.
    pub name: String,
    /// Namespace.
    pub ns: String,
    /// Attributes: prefix-free name (`xml:lang` is written so) and value.
    pub attrs: Vec<(String, String)>,
    /// Child elements and text in order.
    pub nodes: Vec<Node>,
}

/// What stands in an element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// An element.
    Element(Element),
    /// Text, with references resolved.
    Text(String),
}

impl Element {
    /// An empty element.
    pub fn new(name: &str, ns: &str) -> Element {
        Element { name: name.into(), ns: ns.into(), ..Element::default() }
    }

    /// An attribute more.
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Element {
        self.attrs.push((name.into(), value.into()));
        self
    }

    /// A child element more.
    pub fn child(mut self, child: Element) -> Element {
        self.nodes.push(Node::Element(child));
        self
    }

    /// Text more.
    pub fn text(mut self, text: impl Into<String>) -> Element {
        self.nodes.push(Node::Text(text.into()));
        self
    }

    /// An attribute's value.
    pub fn attr(&self, name: &str) -> Option<&str> {
        self.attrs.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// Whether it has this name and namespace.
    pub fn is(&self, name: &str, ns: &str) -> bool {
        self.name == name && self.ns == ns
    }

    /// The first child of this name and namespace.
    pub fn get(&self, name: &str, ns: &str) -> Option<&Element> {
        self.children().find(|e| e.is(name, ns))
    }

    /// The child elements.
    pub fn children(&self) -> impl Iterator<Item = &Element> {
        self.nodes.iter().filter_map(|n| match n {
            Node::Element(e) => Some(e),
            Node::Text(_) => None,
        })
    }

    /// The text directly in it.
    pub fn own_text(&self) -> String {
        self.nodes
            .iter()
            .filter_map(|n| match n {
                Node::Text(t) => Some(t.as_str()),
                Node::Element(_) => None,
            })
            .collect()
    }

    /// Text of a child in the same namespace, as `<body/>`.
    pub fn child_text(&self, name: &str) -> Option<String> {
        self.get(name, &self.ns).map(Element::own_text)
    }

    /// The condition of a stanza error, if it is one (RFC 6120 §8.3).
    pub fn error_condition(&self) -> Option<String> {
        if self.attr("type") != Some("error") {
            return None;
        }
        let error = self.get("error", &self.ns)?;
        error.children().find(|c| c.ns == crate::ns::STANZAS && c.name != "text").map(|c| c.name.clone())
    }

    /// As XML; `around` is the namespace that is declared already.
    pub fn write(&self, around: &str) -> String {
        let mut out = String::new();
        self.write_to(around, &mut out);
        out
    }

    fn write_to(&self, around: &str, out: &mut String) {
        let _ = write!(out, "<{}", self.name);
        if self.ns != around {
            let _ = write!(out, " xmlns='{}'", escape(&self.ns));
        }
        for (name, value) in &self.attrs {
            let _ = write!(out, " {name}='{}'", escape(value));
        }
        if self.nodes.is_empty() {
            out.push_str("/>");
            return;
        }
        out.push('>');
        for node in &self.nodes {
            match node {
                Node::Element(e) => e.write_to(&self.ns, out),
                Node::Text(t) => out.push_str(&escape(t)),
            }
        }
        let _ = write!(out, "</{}>", self.name);
    }
}

/// Text as it may stand in content and in attributes.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&apos;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
    }
    out
}

/// What a stream yields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// The stream's start tag, without children.
    Open(Element),
    /// A complete first-level child.
    Element(Element),
    /// The stream's end tag.
    Close,
}

/// Bytes of a name or an attribute's value that a server may send.
const TOKEN_BYTES_MAX: usize = 64 * 1024;

/// Bytes to items. A new one is made for each stream restart (RFC 6120 §4.3.3).
pub struct StreamParser {
    parser: rxml::Parser,
    stack: Vec<Element>,
    opened: bool,
    items: VecDeque<Item>,
}

impl Default for StreamParser {
    fn default() -> Self {
        // RFC 6120 sets no bound to an attribute's value; without this the parser's would be 8 KiB.
        let options = rxml::Options { max_token_length: TOKEN_BYTES_MAX, ..rxml::Options::default() };
        StreamParser { parser: rxml::Parser::with_options(options), stack: Vec::new(), opened: false, items: VecDeque::new() }
    }
}

impl StreamParser {
    /// Takes all of some bytes. An error is one of the XML that the server sent.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<()> {
        while self.parse_event(&mut bytes)? {}
        Ok(())
    }

    /// Takes bytes up to the end of the next item and gives it; what is behind it stays where it is.
    pub fn advance(&mut self, bytes: &mut &[u8]) -> Result<Option<Item>> {
        while self.items.is_empty() && self.parse_event(bytes)? {}
        Ok(self.items.pop_front())
    }

    /// Whether there was an event; if not, more bytes are needed.
    fn parse_event(&mut self, bytes: &mut &[u8]) -> Result<bool> {
        let whole = *bytes;
        let told = || format!("the server sent {:?}", String::from_utf8_lossy(whole));
        match self.parser.parse(bytes, false) {
            Ok(Some(event)) => self.event(event).with_context(told).map(|()| true),
            Ok(None) => Ok(false),
            Err(rxml::error::EndOrError::NeedMoreData) => {
                ensure!(bytes.is_empty(), "{} bytes left behind", bytes.len());
                Ok(false)
            }
            Err(rxml::error::EndOrError::Error(e)) => Err(anyhow::anyhow!("the server's XML: {e}")).with_context(told),
        }
    }

    /// The next complete item.
    pub fn next_item(&mut self) -> Option<Item> {
        self.items.pop_front()
    }

    /// Whether nothing is read that was not taken.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty() && self.stack.is_empty()
    }

    fn event(&mut self, event: Event) -> Result<()> {
        match event {
            Event::XmlDeclaration(..) => {}
            Event::StartElement(_, (ns, name), attrs) => {
                let mut element = Element::new(name.as_ref(), ns.as_ref());
                for ((ns, name), value) in attrs {
                    let ns = ns.to_string();
                    let name = if ns == "http://www.w3.org/XML/1998/namespace" { format!("xml:{name}") } else { name.to_string() };
                    element.attrs.push((name, value.to_string()));
                }
                if self.opened {
                    self.stack.push(element);
                } else {
                    self.opened = true;
                    self.items.push_back(Item::Open(element));
                }
            }
            Event::EndElement(_) => match (self.stack.pop(), self.stack.last_mut()) {
                (Some(done), Some(parent)) => parent.nodes.push(Node::Element(done)),
                (Some(done), None) => self.items.push_back(Item::Element(done)),
                (None, _) => self.items.push_back(Item::Close),
            },
            Event::Text(_, text) => match self.stack.last_mut() {
                Some(top) => match top.nodes.last_mut() {
                    Some(Node::Text(before)) => before.push_str(&text),
                    _ => top.nodes.push(Node::Text(text.to_string())),
                },
                // RFC 6120 §4.6.1: whitespace between stanzas keeps a connection alive; nothing else may stand there.
                None => ensure!(text.trim().is_empty(), "text between stanzas: {text:?}"),
            },
        }
        Ok(())
    }
}

/// Reads one element, with its namespaces declared in it.
pub fn parse(xml: &str) -> Result<Element> {
    let mut parser = StreamParser::default();
    parser.feed(b"<around>")?;
    parser.feed(xml.as_bytes())?;
    match (parser.next_item(), parser.next_item()) {
        (_, Some(Item::Element(element))) => Ok(element),
        _ => bail!("no element: {xml}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_survive_any_cut() {
        let doc = "<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' id='a'>\
                   <message to='a@b'><body>1 &lt; 2 &amp; é</body><x xmlns='y'/></message> <presence/></stream:stream>";
        for step in 1..doc.len() {
            let mut parser = StreamParser::default();
            for chunk in doc.as_bytes().chunks(step) {
                parser.feed(chunk).unwrap();
            }
            assert!(matches!(parser.next_item(), Some(Item::Open(e)) if e.attr("id") == Some("a")));
            let Some(Item::Element(m)) = parser.next_item() else { panic!("no message") };
            assert_eq!(m.child_text("body").unwrap(), "1 < 2 & é");
            assert_eq!(m.write("jabber:client"), "<message to='a@b'><body>1 &lt; 2 &amp; é</body><x xmlns='y'/></message>");
            assert!(matches!(parser.next_item(), Some(Item::Element(p)) if p.is("presence", "jabber:client")));
            assert_eq!(parser.next_item(), Some(Item::Close));
        }
    }

    #[test]
    fn text_between_stanzas_is_refused() {
        let mut parser = StreamParser::default();
        assert!(parser.feed(b"<stream xmlns='a'>x<b/>").is_err());
    }
}
