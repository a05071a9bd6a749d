//! Elements as a client needs them: whole ones as a small tree while it negotiates, and a few looks into the bytes of a
//! stanza while it measures.

use anyhow::{Context as _, Result, bail, ensure};

/// Deeper elements are not tested but broken.
const DEPTH_MAX: usize = 64;

/// An element with its namespace resolved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Element {
    /// Local name.
    pub name: String,
    /// Namespace; empty if there is none.
    pub ns: String,
    /// Attributes as they stand, namespace declarations included.
    pub attributes: Vec<(String, String)>,
    /// Child elements.
    pub children: Vec<Element>,
    /// All character data that are its own, together.
    pub text: String,
}

impl Element {
    /// Parses one element. `outer`: the start tag of the stream around it, whose namespaces hold.
    ///
    /// # Errors
    /// What is not well-formed.
    pub fn parse(bytes: &[u8], outer: &[u8]) -> Result<Element> {
        let mut scope = Vec::new();
        if !outer.is_empty() {
            declare(&attributes(std::str::from_utf8(outer)?)?, &mut scope);
        }
        let mut parser = Parser { text: std::str::from_utf8(bytes)?, at: 0, scope };
        let element = parser.element(0)?;
        ensure!(parser.at == bytes.len(), "something follows the element");
        Ok(element)
    }

    /// An attribute's value.
    pub fn attr(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// The first child of this name and namespace.
    pub fn child(&self, name: &str, ns: &str) -> Option<&Element> {
        self.children.iter().find(|c| c.name == name && c.ns == ns)
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    /// Prefix and namespace, innermost last.
    scope: Vec<(String, String)>,
}

impl<'a> Parser<'a> {
    fn until(&mut self, end: &str) -> Result<&'a str> {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let length = rest.find(end).with_context(|| format!("no {end:?} in {rest:?}"))?;
        self.at += length + end.len();
        Ok(&rest[..length])
    }

    /// The tag at hand: from after `<` to before `>`.
    fn tag(&mut self) -> Result<&'a str> {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let mut quote = None;
        for (i, byte) in rest.bytes().enumerate() {
            match (quote, byte) {
                (None, b'>') => {
                    self.at += i + 1;
                    return Ok(&rest[1..i]);
                }
                (None, b'\'' | b'"') => quote = Some(byte),
                (Some(q), b) if q == b => quote = None,
                _ => {}
            }
        }
        bail!("a tag without an end: {rest:?}")
    }

    fn element(&mut self, depth: usize) -> Result<Element> {
        ensure!(depth < DEPTH_MAX, "too deep");
        ensure!(self.text[self.at..].starts_with('<'), "no element");
        let tag = self.tag()?;
        let empty = tag.ends_with('/');
        let tag = tag.trim_end_matches('/');
        let attributes = attributes(tag)?;
        let outer = self.scope.len();
        declare(&attributes, &mut self.scope);
        let full = tag.split_ascii_whitespace().next().context("a tag without a name")?;
        let (prefix, name) = full.split_once(':').unwrap_or(("", full));
        let ns = self.scope.iter().rev().find(|(p, _)| p == prefix).map(|(_, ns)| ns.clone());
        ensure!(ns.is_some() || prefix.is_empty(), "prefix {prefix} is not declared");
        let mut element = Element { name: name.to_owned(), ns: ns.unwrap_or_default(), attributes, ..Element::default() };
        loop {
            if empty {
                break;
            }
            element.text += &unescape(self.until_tag()?)?;
            let rest = &self.text[self.at..];
            if rest.starts_with("<![CDATA[") {
                self.at += "<![CDATA[".len();
                element.text += self.until("]]>")?;
            } else if rest.starts_with("</") {
                let end = self.tag()?[1..].trim_ascii_end();
                ensure!(end == full, "</{end}> ends <{full}>");
                break;
            } else {
                element.children.push(self.element(depth + 1)?);
            }
        }
        self.scope.truncate(outer);
        Ok(element)
    }

    fn until_tag(&mut self) -> Result<&'a str> {
        let rest = &self.text[self.at..];
        let length = rest.find('<').context("an element without an end")?;
        self.at += length;
        Ok(&rest[..length])
    }
}

fn declare(attributes: &[(String, String)], scope: &mut Vec<(String, String)>) {
    for (name, value) in attributes {
        if name == "xmlns" {
            scope.push((String::new(), value.clone()));
        } else if let Some(prefix) = name.strip_prefix("xmlns:") {
            scope.push((prefix.to_owned(), value.clone()));
        }
    }
}

fn attributes(tag: &str) -> Result<Vec<(String, String)>> {
    let mut rest = tag.trim_start_matches('<').trim_end_matches(['>', '/']);
    rest = rest.split_once(|c: char| c.is_ascii_whitespace()).map_or("", |(_, rest)| rest).trim_ascii();
    let mut all = Vec::new();
    while !rest.is_empty() {
        let (name, value) = rest.split_once('=').context("an attribute without a value")?;
        let value = value.trim_ascii_start();
        let quote = value.chars().next().filter(|q| matches!(q, '\'' | '"')).context("a value without quotes")?;
        let (value, after) = value[1..].split_once(quote).context("a value without an end")?;
        all.push((name.trim_ascii().to_owned(), unescape(value)?));
        rest = after.trim_ascii();
    }
    Ok(all)
}

fn unescape(text: &str) -> Result<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out += &rest[..at];
        let (name, after) = rest[at + 1..].split_once(';').context("a reference without an end")?;
        let number = |digits: &str, radix| u32::from_str_radix(digits, radix).ok().and_then(char::from_u32);
        out.push(match name {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "quot" => '"',
            "apos" => '\'',
            _ => match name.strip_prefix("#x") {
                Some(digits) => number(digits, 16),
                None => name.strip_prefix('#').and_then(|digits| number(digits, 10)),
            }
            .with_context(|| format!("&{name}; is not known"))?,
        });
        rest = after;
    }
    Ok(out + rest)
}

/// Text as it may stand in an attribute or element.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '\'' => out += "&apos;",
            '"' => out += "&quot;",
            c => out.push(c),
        }
    }
    out
}

/// The local name in a start tag.
pub fn name(element: &[u8]) -> &[u8] {
    let tag = element.strip_prefix(b"<").unwrap_or(element);
    let end = tag.iter().position(|b| matches!(b, b' ' | b'\t' | b'\r' | b'\n' | b'/' | b'>')).unwrap_or(tag.len());
    let full = &tag[..end];
    full.iter().position(|b| *b == b':').map_or(full, |colon| &full[colon + 1..])
}

/// The value of an attribute in the element's start tag, as it stands.
pub fn attr<'a>(element: &'a [u8], wanted: &[u8]) -> Option<&'a [u8]> {
    let mut rest = element.get(1 + element.iter().skip(1).position(|b| b.is_ascii_whitespace() || *b == b'>')?..)?;
    loop {
        rest = rest.trim_ascii_start();
        if rest.starts_with(b">") || rest.starts_with(b"/") {
            return None;
        }
        let equals = memchr::memchr(b'=', rest)?;
        let name = rest[..equals].trim_ascii_end();
        let value = rest[equals + 1..].trim_ascii_start();
        let quote = *value.first()?;
        let end = 1 + memchr::memchr(quote, value.get(1..)?)?;
        if name == wanted {
            return Some(&value[1..end]);
        }
        rest = &value[end + 1..];
    }
}

/// The character data at the start of the first `<body/>`, as they stand.
pub fn body(stanza: &[u8]) -> Option<&[u8]> {
    text_of(stanza, b"<body")
}

/// The character data at the start of the first element that begins so, as they stand.
pub fn text_of<'a>(stanza: &'a [u8], start: &[u8]) -> Option<&'a [u8]> {
    for at in memchr::memmem::find_iter(stanza, start) {
        let after = &stanza[at + start.len()..];
        if matches!(after.first(), Some(b'>' | b' ')) {
            let text = &after[memchr::memchr(b'>', after)? + 1..];
            return text.get(..memchr::memchr(b'<', text)?);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTER: &[u8] = b"<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>";

    #[test]
    fn a_tree_with_namespaces() {
        let text = b"<stream:features><mechanisms xmlns='urn:s'><mechanism>A &amp; &#x42;<![CDATA[<]]></mechanism></mechanisms>\
            <x:y xmlns:x=\"urn:x\" a='1 > 0' /></stream:features>";
        let features = Element::parse(text, OUTER).unwrap();
        assert_eq!((features.name.as_str(), features.ns.as_str()), ("features", "http://etherx.jabber.org/streams"));
        let mechanisms = features.child("mechanisms", "urn:s").unwrap();
        assert_eq!(mechanisms.child("mechanism", "urn:s").unwrap().text, "A & B<");
        assert_eq!(features.child("y", "urn:x").unwrap().attr("a"), Some("1 > 0"));
        assert_eq!(Element::parse(b"<iq/>", OUTER).unwrap().ns, "jabber:client");
    }

    #[test]
    fn what_is_not_well_formed_is_refused() {
        for bad in ["<a>", "<a></b>", "<a b></a>", "<a b='1></a>", "<a>&nbsp;</a>", "<x:a/>", "<a/><b/>", "a"] {
            assert!(Element::parse(bad.as_bytes(), b"").is_err(), "{bad}");
        }
        let deep = "<a>".repeat(DEPTH_MAX + 1) + &"</a>".repeat(DEPTH_MAX + 1);
        assert!(Element::parse(deep.as_bytes(), b"").is_err());
    }

    #[test]
    fn looks_into_bytes() {
        let stanza = b"<message to='a@b/c' type = \"chat\" id='7'><bodyguard/><body xml:lang='en'>7 8</body></message>";
        assert_eq!(name(stanza), b"message");
        assert_eq!(name(b"<c:r/>"), b"r");
        assert_eq!(attr(stanza, b"type"), Some(&b"chat"[..]));
        assert_eq!(attr(stanza, b"id"), Some(&b"7"[..]));
        assert_eq!(attr(stanza, b"from"), None);
        assert_eq!(attr(b"<a xmlns='u' h='5'/>", b"h"), Some(&b"5"[..]));
        assert_eq!(attr(b"<r/>", b"h"), None);
        assert_eq!(body(stanza), Some(&b"7 8"[..]));
        assert_eq!(body(b"<message/>"), None);
    }

    #[test]
    fn escaped_text_comes_back() {
        let text = "a<b>&'\"é";
        let element = Element::parse(format!("<a b='{0}'>{0}</a>", escape(text)).as_bytes(), b"").unwrap();
        assert_eq!((element.text.as_str(), element.attr("b")), (text, Some(text)));
    }
}
