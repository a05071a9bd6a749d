//! A strict tokenizer with namespaces over one whole element.
//!
//! quick-xml finds where a tag ends; it checks neither names nor attributes nor namespaces, so that is done here. (Its
//! `Reader` keeps the names of open elements, which are kept here as well: two allocations and a reallocation for a message.)

use crate::chars::validate;
use crate::tag::{self, Class, Declaration, Declarations, Name, RawAttrs, Sink};
use crate::{Scope, XmlError, intern};
use compact_str::CompactString;
use quick_xml::parser::{ElementParser, Parser};
use smallvec::SmallVec;
use std::borrow::Cow;
use types::limit::{XML_DEPTH_MAX, XML_NAMESPACES_MAX};
use types::ns;

/// Declarations in force are numbered; these two stand for what needs no declaration.
const NO_NAMESPACE: u16 = u16::MAX;
const XML_NAMESPACE: u16 = u16::MAX - 1;
/// Namespaces in XML §3: bound to the prefix `xmlns`, and must not be declared.
const XMLNS_URI: &str = "http://www.w3.org/2000/xmlns/";

/// What [`Tokens::next`] has found. The element's name and attributes are read from [`Tokens`].
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A start tag, also of an empty element.
    Start,
    /// Character data, unescaped, line ends normalised. Text that touches may come in several events.
    Text(Cow<'a, str>),
    /// An end tag. The element's name can still be asked for; its attributes cannot.
    End,
    /// Behind the root's end tag.
    Eof,
}

/// An attribute of the current element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttrRef<'t> {
    /// Namespace; empty for an attribute without prefix.
    pub ns: &'t str,
    /// Local name.
    pub name: &'t str,
    /// Unescaped, normalised value.
    pub value: &'t str,
}

struct Open<'a> {
    name: Name<'a>,
    ns: u16,
    /// Declarations in force outside of this element.
    declarations: u16,
    /// The default namespace outside of this element.
    default: u16,
    /// Set by a start tag that ends with `/>`.
    empty: bool,
}

/// Tokenizer over the bytes of one element.
pub struct Tokens<'a> {
    text: &'a str,
    /// Where the last token ends.
    position: usize,
    depth_max: usize,
    open: SmallVec<[Open<'a>; 8]>,
    declarations: Declarations<'a>,
    /// Number of the default namespace.
    default: u16,
    attrs: RawAttrs<'a>,
    state: State,
    /// Where the last start tag begins.
    from: usize,
    /// Length of `declarations` outside of the fragment that [`Tokens::watch`] began.
    outside: u16,
    content_ns: &'a str,
    content_is_client: bool,
    /// Whether the default namespace outside of the watched fragment is the content namespace.
    inherits_content: bool,
    alike: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Before,
    Inside,
    /// The end of the current element was told; it is dropped at the next call.
    Ending,
    After,
}

impl<'a> Tokens<'a> {
    /// Tokenizer over `bytes`, one element from `<` to `>`, in the namespaces of `scope`; at most
    /// [`XML_DEPTH_MAX`] deep.
    ///
    /// # Errors
    /// [`XmlError::NotWellFormed`] unless `bytes` are UTF-8 made of XML's characters.
    pub fn new(bytes: &'a [u8], scope: &'a Scope) -> Result<Tokens<'a>, XmlError> {
        let declarations = scope.declarations.iter().map(|(prefix, uri)| (prefix.as_str(), uri.as_str()));
        Tokens::with(bytes, declarations)
    }

    /// As [`Tokens::new`], with (prefix, namespace) pairs for a scope.
    ///
    /// # Errors
    /// As [`Tokens::new`].
    pub fn with(bytes: &'a [u8], scope: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Tokens<'a>, XmlError> {
        let text = validate(bytes)?;
        if !text.starts_with('<') {
            return Err(XmlError::NotWellFormed);
        }
        let mut declarations = Declarations::new();
        let scope = scope.into_iter();
        declarations.extend(scope.map(|(prefix, uri)| Declaration::new(prefix, uri.into())));
        let outside = declarations.len() as u16;
        let default = declarations.iter().rposition(|d| d.prefix.is_empty()).map_or(NO_NAMESPACE, |i| i as u16);
        Ok(Tokens {
            text,
            position: 0,
            depth_max: XML_DEPTH_MAX,
            open: SmallVec::new(),
            declarations,
            default,
            attrs: SmallVec::new(),
            state: State::Before,
            from: 0,
            outside,
            content_ns: ns::CLIENT,
            content_is_client: true,
            inherits_content: true,
            alike: true,
        })
    }

    /// Allows elements to be `depth` deep instead of [`XML_DEPTH_MAX`].
    pub fn with_depth_max(mut self, depth: usize) -> Self {
        self.depth_max = depth;
        self
    }

    /// The next token.
    ///
    /// # Errors
    /// What is wrong; the tokenizer must not be asked again then.
    #[allow(clippy::should_implement_trait, reason = "an iterator could not say what ended it once and for all")]
    pub fn next(&mut self) -> Result<Event<'a>, XmlError> {
        match self.state {
            State::Ending => self.drop_current(),
            State::Inside if self.open.last().is_some_and(|open| open.empty) => {
                self.state = State::Ending;
                return Ok(Event::End);
            }
            State::After if self.position() == self.text.len() => return Ok(Event::Eof),
            State::After => return Err(XmlError::NotWellFormed),
            State::Before | State::Inside => {}
        }
        if self.state == State::After {
            return self.next();
        }
        loop {
            let rest = &self.text[self.position..];
            return match (rest.as_bytes().first(), rest.as_bytes().get(1)) {
                (Some(b'<'), Some(b'/')) => self.end(rest),
                (Some(b'<'), Some(b'!')) => match self.bang(rest)? {
                    "" => continue,
                    data => Ok(Event::Text(normalise_line_ends(data.into()))),
                },
                // The declaration belongs to the stream (RFC 6120 §11.5), and no other instruction may come (§11.1).
                (Some(b'<'), Some(b'?')) if is_declaration(rest) => Err(XmlError::NotWellFormed),
                (Some(b'<'), Some(b'?')) => Err(XmlError::RestrictedXml),
                (Some(b'<'), _) => self.start(rest),
                (Some(b'&'), _) => self.reference(rest),
                (Some(_), _) => self.text(rest),
                (None, _) => Err(XmlError::NotWellFormed),
            };
        }
    }

    /// Bytes read so far: where the last token ends.
    #[inline]
    pub fn position(&self) -> usize {
        self.position
    }

    /// Where the last start tag begins.
    #[inline]
    pub fn start_position(&self) -> usize {
        self.from
    }

    /// How many elements are open, the current one included.
    #[inline]
    pub fn depth(&self) -> usize {
        self.open.len()
    }

    /// Local name of the current element; empty before the root.
    #[inline]
    pub fn name(&self) -> &'a str {
        self.open.last().map_or("", |open| open.name.local())
    }

    /// Namespace of the current element; empty if it has none.
    #[inline]
    pub fn ns(&self) -> &str {
        self.open.last().map_or("", |open| self.uri(open.ns))
    }

    /// Prefix of the current element; empty if it has none.
    pub fn prefix(&self) -> &'a str {
        self.open.last().map_or("", |open| open.name.prefix())
    }

    /// Attributes of the current element, in the order written, without namespace declarations. Only after
    /// [`Event::Start`].
    pub fn attrs(&self) -> impl Iterator<Item = AttrRef<'_>> {
        self.attrs.iter().map(|a| AttrRef { ns: self.uri(a.ns), name: a.name.local(), value: &a.value })
    }

    /// From here on, watches whether a fragment can be copied behind a start tag whose default namespace is
    /// `content_ns`. Call it before the [`Event::Start`] of the fragment.
    pub fn watch(&mut self, content_ns: &'a str) {
        if self.state == State::Ending {
            self.drop_current();
            // `next` must not drop it again; the parent is inside.
            self.state = if self.open.is_empty() { State::After } else { State::Inside };
        }
        self.outside = self.declarations.len() as u16;
        self.content_ns = content_ns;
        self.content_is_client = content_ns == ns::CLIENT;
        self.inherits_content = self.uri(self.default) == content_ns;
        self.alike = true;
    }

    /// Whether everything since [`Tokens::watch`] is read alike by every XML parser, wherever it is copied to: no CDATA, no CR,
    /// no character reference, no white space but spaces and no bare `>` in attributes, no namespace from outside of the
    /// fragment other than the content namespace by default, no stream namespace.
    pub fn alike(&self) -> bool {
        self.alike
    }

    /// The namespaces in force where [`Tokens::watch`] was called.
    pub fn scope_outside(&self) -> Scope {
        scope_of(&self.declarations[..self.outside as usize])
    }

    /// The namespaces in force in the current element.
    pub fn scope_inside(&self) -> Scope {
        scope_of(&self.declarations)
    }

    fn drop_current(&mut self) {
        if let Some(open) = self.open.pop() {
            self.declarations.truncate(open.declarations as usize);
            self.default = open.default;
        }
        self.state = if self.open.is_empty() { State::After } else { State::Inside };
    }

    /// A start tag, with which `rest` begins.
    fn start(&mut self, rest: &'a str) -> Result<Event<'a>, XmlError> {
        if self.open.len() >= self.depth_max {
            return Err(XmlError::PolicyViolation);
        }
        let end = ElementParser::default().feed(rest.as_bytes()).ok_or(XmlError::NotWellFormed)?;
        self.from = self.position;
        self.position += end + 1;
        let empty = rest.as_bytes()[end - 1] == b'/';
        let inside = &rest[1..if empty { end - 1 } else { end }];
        let (declarations, default) = (self.declarations.len() as u16, self.default);
        let mut sink = Sink { attrs: &mut self.attrs, declarations: &mut self.declarations, alike: &mut self.alike };
        let name = tag::scan(inside, &mut sink)?;
        if self.declarations.len() > declarations as usize {
            self.check_declarations(declarations as usize)?;
        }
        if !self.attrs.is_empty() {
            self.resolve_attrs()?;
        }
        let prefix = name.prefix();
        let ns = self.resolve(prefix)?;
        self.alike &= self.is_alike(prefix, ns);
        self.open.push(Open { name, ns, declarations, default, empty });
        self.state = State::Inside;
        Ok(Event::Start)
    }

    /// Whether an element with this prefix and namespace can be copied, as far as its own name goes.
    #[inline]
    fn is_alike(&self, prefix: &str, ns: u16) -> bool {
        let class = self.declarations.get(ns as usize).map_or(Class::Other, |d| d.class);
        // RFC 6120 §4.8.5: content must not be routed with a prefix.
        if class == Class::Content && !prefix.is_empty() {
            return false;
        }
        // RFC 6120 §4.8.3: what stands in an element of another namespace is not moved to another content namespace.
        let inherited = prefix.is_empty() && ns < self.outside;
        let parent = || self.open.last().map_or("", |open| self.uri(open.ns));
        !inherited || self.content_is_client || parent() == self.content_ns
    }

    /// Checks the declarations from `before` on: those of one start tag. Namespaces in XML §2.2, §3, §6.3.
    fn check_declarations(&mut self, before: usize) -> Result<(), XmlError> {
        for i in before..self.declarations.len() {
            let Declaration { prefix, uri, class } = &self.declarations[i];
            let reserved = *prefix == "xmlns" || *uri == XMLNS_URI || (*prefix == "xml") != (*uri == ns::XML);
            let undeclares = !prefix.is_empty() && uri.is_empty();
            if reserved || undeclares || self.declarations[before..i].iter().any(|d| d.prefix == *prefix) {
                return Err(XmlError::NotWellFormed);
            }
            // A server's own name for its content namespace must be inherited, to become `jabber:client` elsewhere.
            // Some parsers refuse to see `xml` declared, as it may be.
            if *class == Class::Stream || *prefix == "xml" || (!self.content_is_client && *uri == self.content_ns) {
                self.alike = false;
            }
            if prefix.is_empty() {
                self.default = i as u16;
            }
        }
        if self.declarations.len() > XML_NAMESPACES_MAX { Err(XmlError::PolicyViolation) } else { Ok(()) }
    }

    fn resolve_attrs(&mut self) -> Result<(), XmlError> {
        for i in 0..self.attrs.len() {
            let name = self.attrs[i].name;
            let ns = match name.prefix() {
                "" => NO_NAMESPACE,
                prefix => self.resolve(prefix)?,
            };
            self.attrs[i].ns = ns;
            // Two prefixes may name one namespace (Namespaces in XML §6.3).
            let same = |b: &tag::RawAttr<'_>| b.name.local() == name.local() && (b.ns == ns || self.uri(b.ns) == self.uri(ns));
            if self.attrs[..i].iter().any(same) {
                return Err(XmlError::NotWellFormed);
            }
        }
        Ok(())
    }

    /// Number of the declaration of `prefix`; notes whether it stands outside of the watched fragment.
    fn resolve(&mut self, prefix: &str) -> Result<u16, XmlError> {
        if prefix.is_empty() {
            // No namespace at all is inherited too.
            let inherited = self.default < self.outside || self.default == NO_NAMESPACE;
            self.alike &= !inherited || self.inherits_content;
            return Ok(self.default);
        }
        if prefix == "xml" {
            return Ok(XML_NAMESPACE);
        }
        let i = self.declarations.iter().rposition(|d| d.prefix == prefix).ok_or(XmlError::NotWellFormed)?;
        self.alike &= i >= self.outside as usize;
        Ok(i as u16)
    }

    fn uri(&self, ns: u16) -> &str {
        match ns {
            NO_NAMESPACE => "",
            XML_NAMESPACE => ns::XML,
            i => &self.declarations[i as usize].uri,
        }
    }

    /// An end tag, with which `rest` begins.
    fn end(&mut self, rest: &'a str) -> Result<Event<'a>, XmlError> {
        let end = memchr::memchr(b'>', rest.as_bytes()).ok_or(XmlError::NotWellFormed)?;
        // XML 1.0 §3.1, production ETag: white space may follow the name.
        let name = rest[2..end].trim_end_matches([' ', '\t', '\n', '\r']);
        if self.open.last().is_none_or(|open| open.name.whole != name) {
            return Err(XmlError::NotWellFormed);
        }
        self.position += end + 1;
        self.state = State::Ending;
        Ok(Event::End)
    }

    /// What begins with `<!`: the content of a CDATA section, or what must not come (RFC 6120 §11.1).
    fn bang(&mut self, rest: &'a str) -> Result<&'a str, XmlError> {
        if rest.starts_with("<!--") || rest.starts_with("<!DOCTYPE") {
            return Err(XmlError::RestrictedXml);
        }
        let data = rest.strip_prefix("<![CDATA[").filter(|_| !self.open.is_empty()).ok_or(XmlError::NotWellFormed)?;
        let len = data.find("]]>").ok_or(XmlError::NotWellFormed)?;
        self.position += rest.len() - data.len() + len + "]]>".len();
        self.alike = false;
        Ok(&data[..len])
    }

    /// A reference, with which `rest` begins.
    fn reference(&mut self, rest: &'a str) -> Result<Event<'a>, XmlError> {
        // An end that is further away belongs to something else.
        let name = rest[1..].split([';', '&', '<']).next().unwrap_or_default();
        let behind = 1 + name.len();
        if rest.as_bytes().get(behind) != Some(&b';') {
            return Err(XmlError::NotWellFormed);
        }
        let c = tag::reference(name, &mut self.alike)?;
        self.position += behind + 1;
        Ok(Event::Text(short(c)))
    }

    /// Character data, with which `rest` begins.
    fn text(&mut self, rest: &'a str) -> Result<Event<'a>, XmlError> {
        if self.open.is_empty() {
            return Err(XmlError::NotWellFormed);
        }
        let text = &rest[..memchr::memchr2(b'<', b'&', rest.as_bytes()).unwrap_or(rest.len())];
        self.position += text.len();
        let Some(first) = memchr::memchr2(b'>', b'\r', text.as_bytes()) else {
            return Ok(Event::Text(text.into()));
        };
        // XML 1.0 §2.4.
        if text.contains("]]>") {
            return Err(XmlError::NotWellFormed);
        }
        if memchr::memchr(b'\r', &text.as_bytes()[first..]).is_none() {
            return Ok(Event::Text(text.into()));
        }
        self.alike = false;
        Ok(Event::Text(normalise_line_ends(text.into())))
    }
}

/// XML 1.0 §2.8, the beginning of production XMLDecl.
fn is_declaration(rest: &str) -> bool {
    rest.strip_prefix("<?xml").is_some_and(|behind| behind.starts_with([' ', '\t', '\n', '\r', '?']))
}

fn scope_of(declarations: &[Declaration<'_>]) -> Scope {
    let declarations = declarations.iter().map(|d| (CompactString::from(d.prefix), intern(&d.uri))).collect();
    Scope { declarations }
}

/// XML 1.0 §2.11: CRLF and CR become LF.
fn normalise_line_ends(text: Cow<'_, str>) -> Cow<'_, str> {
    if !text.contains('\r') {
        return text;
    }
    Cow::Owned(text.replace("\r\n", "\n").replace('\r', "\n"))
}

/// A character as text; those of the five entities without an allocation.
fn short(c: char) -> Cow<'static, str> {
    Cow::Borrowed(match c {
        '&' => "&",
        '<' => "<",
        '>' => ">",
        '"' => "\"",
        '\'' => "'",
        c => return Cow::Owned(c.to_string()),
    })
}
