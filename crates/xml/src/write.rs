//! Writing XML: escaping, canonical tags, and a small writer for hand-made protocol elements.

use crate::chars::is_char;
use crate::token::AttrRef;
use crate::{Event, Tokens, XmlError};
use bytes::BufMut;
use smallvec::SmallVec;
use types::ns;

/// Writes character data. `>` is escaped too, so that `]]>` cannot come to be; CR, which a parser would turn into LF, as a
/// character reference; a character that XML cannot hold is left out.
pub fn escape_text(text: &str, out: &mut impl BufMut) {
    escape(text, out, false);
}

/// Writes an attribute's value, fit for either kind of quote. Tab, LF and CR, which a parser would turn into spaces, as
/// character references.
pub fn escape_attr(value: &str, out: &mut impl BufMut) {
    escape(value, out, true);
}

const PLAIN: u8 = 0;
const MARKUP: u8 = 1;
const IN_ATTR: u8 = 2;
const CONTROL: u8 = 3;
/// Begins U+FFFE and U+FFFF, among others.
const MAYBE_FFFE: u8 = 4;

static CLASS: [u8; 256] = {
    let mut class = [PLAIN; 256];
    let mut b = 0;
    while b < 0x20 {
        class[b] = CONTROL;
        b += 1;
    }
    class[b'\t' as usize] = IN_ATTR;
    class[b'\n' as usize] = IN_ATTR;
    class[b'\'' as usize] = IN_ATTR;
    class[b'"' as usize] = IN_ATTR;
    class[b'\r' as usize] = MARKUP;
    class[b'&' as usize] = MARKUP;
    class[b'<' as usize] = MARKUP;
    class[b'>' as usize] = MARKUP;
    class[0xEF] = MAYBE_FFFE;
    class
};

/// Whether nothing of 16 bytes is anything but [`PLAIN`]: compared all at once.
fn is_plain(bytes: &[u8; 16]) -> bool {
    bytes
        .iter()
        .fold(true, |plain, &b| plain & (b >= 0x20) & (b != b'\'') & (b != b'"') & (b != b'&') & (b != b'<') & (b != b'>') & (b != 0xEF))
}

fn escape(text: &str, out: &mut impl BufMut, attr: bool) {
    let bytes = text.as_bytes();
    let mut done = 0;
    // Most of what is written needs no escape.
    let mut i = 16 * bytes.as_chunks::<16>().0.iter().take_while(|chunk| is_plain(chunk)).count();
    while i < bytes.len() {
        let class = CLASS[bytes[i] as usize];
        if class == PLAIN || (class == IN_ATTR && !attr) {
            i += 1;
            continue;
        }
        if class == MAYBE_FFFE && text[i..].chars().next().is_some_and(is_char) {
            i += 3;
            continue;
        }
        out.put_slice(&bytes[done..i]);
        out.put_slice(match bytes[i] {
            b'&' => b"&amp;",
            b'<' => b"&lt;",
            b'>' => b"&gt;",
            b'\'' => b"&apos;",
            b'"' => b"&quot;",
            b'\t' => b"&#9;",
            b'\n' => b"&#10;",
            b'\r' => b"&#13;",
            _ => b"",
        });
        i += if class == MAYBE_FFFE { 3 } else { 1 };
        done = i;
    }
    out.put_slice(&bytes[done..]);
}

/// Writes `<name`, the namespace if it changes, and the attributes; neither `>` nor `/>`. Returns the default namespace
/// inside of the element.
pub(crate) fn start_tag<'n, 't>(
    out: &mut impl BufMut,
    name: &str,
    ns: &'n str,
    parent_ns: &'n str,
    attrs: impl Iterator<Item = AttrRef<'t>>,
) -> &'n str {
    out.put_slice(b"<");
    // The one namespace that cannot be a default namespace (Namespaces in XML §3).
    let in_xml = ns == ns::XML;
    if in_xml {
        out.put_slice(b"xml:");
    }
    out.put_slice(name.as_bytes());
    if !in_xml && ns != parent_ns {
        out.put_slice(b" xmlns='");
        escape_attr(ns, out);
        out.put_slice(b"'");
    }
    let mut prefixes = Prefixes::default();
    for attr in attrs {
        prefixes.write_attr(out, attr);
    }
    if in_xml { parent_ns } else { ns }
}

pub(crate) fn end_tag(out: &mut impl BufMut, name: &str, ns: &str) {
    out.put_slice(if ns == ns::XML { b"</xml:" } else { b"</" });
    out.put_slice(name.as_bytes());
    out.put_slice(b">");
}

/// Prefixes generated for the attributes of one start tag.
#[derive(Default)]
pub struct Prefixes<'t> {
    declared: SmallVec<[&'t str; 2]>,
}

impl<'t> Prefixes<'t> {
    /// Writes a space and the attribute, with a declaration before it if its namespace is new to this tag.
    pub fn write_attr(&mut self, out: &mut impl BufMut, attr: AttrRef<'t>) {
        out.put_slice(b" ");
        if attr.ns == ns::XML {
            out.put_slice(b"xml:");
        } else if !attr.ns.is_empty() {
            let k = self.declared.iter().position(|&ns| ns == attr.ns).unwrap_or_else(|| {
                out.put_slice(format!("xmlns:ns{}='", self.declared.len()).as_bytes());
                escape_attr(attr.ns, out);
                out.put_slice(b"' ");
                self.declared.push(attr.ns);
                self.declared.len() - 1
            });
            out.put_slice(format!("ns{k}:").as_bytes());
        }
        out.put_slice(attr.name.as_bytes());
        out.put_slice(b"='");
        escape_attr(attr.value, out);
        out.put_slice(b"'");
    }
}

/// Writes the element over which `tokens` was made anew, as [`crate::Element::write`] would, without building a tree.
///
/// # Errors
/// What is wrong with the element.
pub fn rewrite(mut tokens: Tokens<'_>, parent_ns: &str, out: &mut impl BufMut) -> Result<(), XmlError> {
    // Default namespaces as written, the innermost last; as many as elements are open.
    let mut defaults: Vec<String> = vec![parent_ns.to_owned()];
    let mut tag_open = false;
    loop {
        let event = tokens.next()?;
        if tag_open && event != Event::End {
            out.put_slice(b">");
        }
        match event {
            Event::Start => {
                let outer = defaults.last().map_or("", String::as_str);
                let inner = start_tag(out, tokens.name(), tokens.ns(), outer, tokens.attrs()).to_owned();
                defaults.push(inner);
                tag_open = true;
                continue;
            }
            Event::Text(text) => escape_text(&text, out),
            Event::End => {
                defaults.pop();
                if tag_open {
                    out.put_slice(b"/>");
                } else {
                    end_tag(out, tokens.name(), tokens.ns());
                }
            }
            Event::Eof => return Ok(()),
        }
        tag_open = false;
    }
}

/// A writer for hand-made protocol elements: names are literals, values are escaped.
///
/// ```
/// let mut out = Vec::new();
/// xml::Writer::new(&mut out).open("failed").attr("xmlns", "urn:xmpp:sm:3").attr("h", "7").close();
/// assert_eq!(out, b"<failed xmlns='urn:xmpp:sm:3' h='7'/>");
/// ```
pub struct Writer<'o, 'n, B: BufMut> {
    out: &'o mut B,
    open: SmallVec<[&'n str; 4]>,
    tag_open: bool,
}

impl<'o, 'n, B: BufMut> Writer<'o, 'n, B> {
    /// A writer that appends to `out`.
    pub fn new(out: &'o mut B) -> Self {
        Writer { out, open: SmallVec::new(), tag_open: false }
    }

    fn end_start_tag(&mut self) {
        if std::mem::take(&mut self.tag_open) {
            self.out.put_slice(b">");
        }
    }

    /// Begins an element. `name` is written as it is.
    pub fn open(mut self, name: &'n str) -> Self {
        self.end_start_tag();
        self.out.put_slice(b"<");
        self.out.put_slice(name.as_bytes());
        self.open.push(name);
        self.tag_open = true;
        self
    }

    /// Adds an attribute to the element just begun; ignored behind its first content.
    pub fn attr(self, name: &str, value: &str) -> Self {
        if self.tag_open {
            self.out.put_slice(b" ");
            self.out.put_slice(name.as_bytes());
            self.out.put_slice(b"='");
            escape_attr(value, self.out);
            self.out.put_slice(b"'");
        }
        self
    }

    /// Adds an attribute if there is a value.
    pub fn attr_opt(self, name: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.attr(name, value),
            None => self,
        }
    }

    /// Adds character data.
    pub fn text(mut self, text: &str) -> Self {
        self.end_start_tag();
        escape_text(text, self.out);
        self
    }

    /// Adds bytes that are XML already.
    pub fn raw(mut self, xml: &[u8]) -> Self {
        self.end_start_tag();
        self.out.put_slice(xml);
        self
    }

    /// Ends the innermost element.
    pub fn close(mut self) -> Self {
        if let Some(name) = self.open.pop() {
            if std::mem::take(&mut self.tag_open) {
                self.out.put_slice(b"/>");
            } else {
                self.out.put_slice(b"</");
                self.out.put_slice(name.as_bytes());
                self.out.put_slice(b">");
            }
        }
        self
    }
}
