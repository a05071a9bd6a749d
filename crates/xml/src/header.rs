//! The stream header: XML declaration and root start tag (RFC 6120 §4.7, §4.8).

use crate::chars::{is_space, validate};
use crate::element::Attr;
use crate::tag::{self, Declarations, RawAttrs, Sink};
use crate::{Event, Scope, Tokens, XmlError, intern};
use compact_str::CompactString;
use types::ns;

/// A received stream header, its namespaces checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// `to`, as written.
    pub to: Option<CompactString>,
    /// `from`, as written.
    pub from: Option<CompactString>,
    /// `id`, as written.
    pub id: Option<CompactString>,
    /// `version`, as written; see [`Header::check`].
    pub version: Option<CompactString>,
    /// `xml:lang`: the language of stanzas that name none (RFC 6120 §4.7.4).
    pub lang: Option<CompactString>,
    /// The default namespace if it is not the stream namespace: the content namespace (RFC 6120 §4.8.2). `None` means
    /// prefix-free canonicalization: each first-level element names its own.
    pub content_ns: Option<CompactString>,
    /// Other attributes.
    pub attrs: Vec<Attr>,
    scope: Scope,
}

impl Header {
    /// Reads a header: an XML declaration or none, white space, the root's start tag.
    ///
    /// # Errors
    /// `BadFormat` if the root is no `stream`, `InvalidNamespace` if it is not in the stream namespace, `BadNamespacePrefix`
    /// if that has another prefix than `stream` (RFC 6120 §4.8.5) or none beside a content namespace, else as the tokenizer.
    pub fn parse(bytes: &[u8]) -> Result<Header, XmlError> {
        let mut text = validate(bytes)?;
        if text.starts_with("<?") {
            let end = text.find("?>").ok_or(XmlError::NotWellFormed)? + 2;
            check_declaration(&text.as_bytes()[..end])?;
            text = &text[end..];
        }
        let text = text.trim_start_matches([' ', '\t', '\n', '\r']);
        let mut tokens = Tokens::with(text.as_bytes(), [])?;
        if tokens.next()? != Event::Start || tokens.position() != text.len() {
            return Err(XmlError::NotWellFormed);
        }
        if tokens.name() != "stream" {
            return Err(XmlError::BadFormat);
        }
        if tokens.ns() != ns::STREAM {
            return Err(XmlError::InvalidNamespace);
        }
        let scope = tokens.scope_inside();
        let prefix = tokens.prefix();
        if !matches!(prefix, "stream" | "") {
            return Err(XmlError::BadNamespacePrefix);
        }
        let content_ns = scope.resolve("").filter(|&ns| ns != ns::STREAM && !ns.is_empty()).map(intern);
        let mut header = Header { to: None, from: None, id: None, version: None, lang: None, content_ns, attrs: Vec::new(), scope };
        for attr in tokens.attrs() {
            let value = CompactString::new(attr.value);
            match (attr.ns, attr.name) {
                ("", "to") => header.to = Some(value),
                ("", "from") => header.from = Some(value),
                ("", "id") => header.id = Some(value),
                ("", "version") => header.version = Some(value),
                (ns::XML, "lang") => header.lang = Some(value),
                (ns, name) => header.attrs.push(Attr { ns: intern(ns), name: name.into(), value }),
            }
        }
        Ok(header)
    }

    /// Checks what depends on the listener: the content namespace, if one is declared, and the version.
    ///
    /// # Errors
    /// `InvalidNamespace` unless the content namespace is `content_ns`; `UnsupportedVersion` unless the version is at least 1.0.
    pub fn check(&self, content_ns: &str) -> Result<(), XmlError> {
        if self.content_ns.as_ref().is_some_and(|ns| ns != content_ns) {
            return Err(XmlError::InvalidNamespace);
        }
        match self.version_number() {
            Some((major, _)) if major >= 1 => Ok(()),
            _ => Err(XmlError::UnsupportedVersion),
        }
    }

    /// (major, minor), compared as numbers (RFC 6120 §4.7.5). `None` if there is no version, which means 0.9, or it is no
    /// such pair of numbers.
    pub fn version_number(&self) -> Option<(u32, u32)> {
        let number = |s: &str| s.bytes().all(|b| b.is_ascii_digit()).then(|| s.parse::<u32>().ok()).flatten();
        let (major, minor) = self.version.as_ref()?.split_once('.')?;
        Some((number(major)?, number(minor)?))
    }

    /// The namespaces that the header declares for first-level elements.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }
}

/// Checks an XML declaration, `<?xml` to `?>` (XML 1.0 §2.8). `standalone` means nothing without a document type.
///
/// # Errors
/// `NotWellFormed`, also for a version other than 1.0; `UnsupportedEncoding` for an encoding other than UTF-8 (RFC 6120
/// §11.6).
pub fn check_declaration(bytes: &[u8]) -> Result<(), XmlError> {
    // A declaration is ASCII, so that it can be read before the encoding is known.
    let text = std::str::from_utf8(bytes).map_err(|_| XmlError::NotWellFormed)?;
    let inside = text.strip_prefix("<?").and_then(|t| t.strip_suffix("?>")).ok_or(XmlError::NotWellFormed)?;
    if inside.as_bytes().get(3).is_none_or(|&b| !is_space(b)) {
        return Err(XmlError::NotWellFormed);
    }
    let (mut attrs, mut declarations, mut alike) = (RawAttrs::new(), Declarations::new(), true);
    let name = tag::scan(inside, &mut Sink { attrs: &mut attrs, declarations: &mut declarations, alike: &mut alike })?;
    if name.whole != "xml" || !declarations.is_empty() {
        return Err(XmlError::NotWellFormed);
    }
    let names: Vec<_> = attrs.iter().map(|a| a.name.whole).collect();
    let order: &[&[&str]] = &[&["version"], &["version", "encoding"], &["version", "standalone"], &["version", "encoding", "standalone"]];
    if !order.contains(&&names[..]) || attrs[0].value != "1.0" {
        return Err(XmlError::NotWellFormed);
    }
    for attr in &attrs[1..] {
        match attr.name.whole {
            "encoding" if !attr.value.eq_ignore_ascii_case("utf-8") => return Err(XmlError::UnsupportedEncoding),
            "standalone" if !matches!(&*attr.value, "yes" | "no") => return Err(XmlError::NotWellFormed),
            _ => {}
        }
    }
    Ok(())
}
