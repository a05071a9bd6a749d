//! The inside of a start tag: its name and attributes, strictly.

use crate::XmlError;
use crate::chars::{is_char, is_space, split_qname};
use smallvec::SmallVec;
use std::borrow::Cow;
use types::limit::{XML_ATTRIBUTE_BYTES_MAX, XML_ATTRIBUTES_MAX, XML_NAME_BYTES_MAX};
use types::ns;

/// A name as it was written, `prefix:local` or `local`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Name<'a> {
    pub whole: &'a str,
    /// Where the local part begins.
    local: u16,
}

impl<'a> Name<'a> {
    #[inline]
    pub fn prefix(self) -> &'a str {
        if self.local == 0 { "" } else { &self.whole[..self.local as usize - 1] }
    }

    #[inline]
    pub fn local(self) -> &'a str {
        &self.whole[self.local as usize..]
    }
}

/// An attribute as it was written; its value is unescaped and normalised (XML 1.0 §3.3.3).
#[derive(Clone, Debug)]
pub(crate) struct RawAttr<'a> {
    pub name: Name<'a>,
    pub value: Cow<'a, str>,
    /// Set by the tokenizer: number of the declaration of the prefix.
    pub ns: u16,
}

/// A namespace declaration.
#[derive(Clone, Debug)]
pub(crate) struct Declaration<'a> {
    /// Empty for the default namespace.
    pub prefix: &'a str,
    pub uri: Cow<'a, str>,
    pub class: Class,
}

/// Namespaces that decide whether an element can be copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Stream,
    /// `jabber:client` or `jabber:server`.
    Content,
    Other,
}

impl<'a> Declaration<'a> {
    pub fn new(prefix: &'a str, uri: Cow<'a, str>) -> Declaration<'a> {
        let class = match &*uri {
            ns::STREAM => Class::Stream,
            ns::CLIENT | ns::SERVER => Class::Content,
            _ => Class::Other,
        };
        Declaration { prefix, uri, class }
    }
}

pub(crate) type RawAttrs<'a> = SmallVec<[RawAttr<'a>; 6]>;
pub(crate) type Declarations<'a> = SmallVec<[Declaration<'a>; 6]>;

/// Where a tag's attributes go.
pub(crate) struct Sink<'t, 'a> {
    /// Attributes; cleared first.
    pub attrs: &'t mut RawAttrs<'a>,
    /// Namespace declarations; appended, not checked.
    pub declarations: &'t mut Declarations<'a>,
    /// Cleared by anything that another parser might read in another way.
    pub alike: &'t mut bool,
}

/// Reads what stands between `<` and `>` (or `/>`) of a start tag.
pub(crate) fn scan<'a>(inside: &'a str, sink: &mut Sink<'_, 'a>) -> Result<Name<'a>, XmlError> {
    let bytes = inside.as_bytes();
    let name = read_name(inside, 0)?;
    let mut i = name.whole.len();
    sink.attrs.clear();
    if i == bytes.len() {
        return Ok(name);
    }
    // Asked once for all values: whether each is its own text.
    let plain = memchr::memchr3(b'&', b'<', b'>', bytes).is_none() && memchr::memchr3(b'\n', b'\t', b'\r', bytes).is_none();
    let mut count = 0;
    loop {
        let before = i;
        i = skip_space(bytes, i);
        if i == bytes.len() {
            return Ok(name);
        }
        count += 1;
        if i == before {
            return Err(XmlError::NotWellFormed);
        }
        if count > XML_ATTRIBUTES_MAX {
            return Err(XmlError::PolicyViolation);
        }
        i = scan_attr(inside, i, plain, sink)?;
    }
}

/// One attribute that begins at `i`; returns where it ends.
#[inline]
fn scan_attr<'a>(inside: &'a str, i: usize, plain: bool, sink: &mut Sink<'_, 'a>) -> Result<usize, XmlError> {
    let bytes = inside.as_bytes();
    let name = read_name(inside, i)?;
    let mut i = skip_space(bytes, i + name.whole.len());
    if bytes.get(i) != Some(&b'=') {
        return Err(XmlError::NotWellFormed);
    }
    i = skip_space(bytes, i + 1);
    let quote = match bytes.get(i) {
        Some(&q @ (b'"' | b'\'')) => q,
        _ => return Err(XmlError::NotWellFormed),
    };
    i += 1;
    let len = memchr::memchr(quote, &bytes[i..]).ok_or(XmlError::NotWellFormed)?;
    if len > XML_ATTRIBUTE_BYTES_MAX {
        return Err(XmlError::PolicyViolation);
    }
    let raw = &inside[i..i + len];
    let value = if plain { Cow::Borrowed(raw) } else { unescape_value(raw, sink.alike)? };
    if let Some(rest) = name.whole.strip_prefix("xmlns")
        && (rest.is_empty() || name.local == 6)
    {
        sink.declarations.push(Declaration::new(rest.strip_prefix(':').unwrap_or(rest), value));
    } else {
        sink.attrs.push(RawAttr { name, value, ns: 0 });
    }
    Ok(i + len + 1)
}

/// ASCII bytes of an NCName (Namespaces in XML §3); a name does not begin with each of them.
static ASCII_NAME: [bool; 256] = {
    let mut table = [false; 256];
    let mut b = 0;
    while b < 128 {
        table[b] = matches!(b as u8, b'A'..=b'Z' | b'a'..=b'z' | b'_' | b'0'..=b'9' | b'-' | b'.');
        b += 1;
    }
    table
};

/// The QName that begins at `from` (Namespaces in XML §4).
#[inline]
fn read_name(inside: &str, from: usize) -> Result<Name<'_>, XmlError> {
    let bytes = &inside.as_bytes()[from..];
    let len = bytes.iter().position(|&b| !ASCII_NAME[b as usize]).unwrap_or(bytes.len());
    let plain = !matches!(bytes.get(len), Some(b':' | 0x80..)) && len <= XML_NAME_BYTES_MAX;
    if plain && bytes.first().is_some_and(|&b| b.is_ascii_alphabetic() || b == b'_') {
        return Ok(Name { whole: &inside[from..from + len], local: 0 });
    }
    read_rare_name(&inside[from..], len)
}

/// A name with a prefix, or beyond ASCII, or none at all; its first `len` bytes are ASCII.
#[inline(never)]
fn read_rare_name(from: &str, len: usize) -> Result<Name<'_>, XmlError> {
    let in_name = |b: u8| ASCII_NAME[b as usize] || b == b':' || b >= 0x80;
    let rest = &from.as_bytes()[len..];
    let whole = &from[..len + rest.iter().position(|&b| !in_name(b)).unwrap_or(rest.len())];
    let (prefix, _) = split_qname(whole)?;
    Ok(Name { whole, local: if prefix.is_empty() { 0 } else { prefix.len() as u16 + 1 } })
}

#[inline]
fn skip_space(bytes: &[u8], mut i: usize) -> usize {
    while i < bytes.len() && is_space(bytes[i]) {
        i += 1;
    }
    i
}

/// XML 1.0 §3.3.3: white space becomes a space (a line end counts as one, §2.11), references are replaced.
fn unescape_value<'a>(raw: &'a str, alike: &mut bool) -> Result<Cow<'a, str>, XmlError> {
    let special = |b: &u8| matches!(b, b'&' | b'<' | b'>' | b'\t' | b'\n' | b'\r');
    let Some(first) = raw.as_bytes().iter().position(special) else {
        return Ok(Cow::Borrowed(raw));
    };
    let mut out = String::with_capacity(raw.len());
    out.push_str(&raw[..first]);
    let mut rest = &raw[first..];
    while let Some(&b) = rest.as_bytes().first() {
        match b {
            b'<' => return Err(XmlError::NotWellFormed),
            b'&' => {
                let end = memchr::memchr(b';', rest.as_bytes()).ok_or(XmlError::NotWellFormed)?;
                out.push(reference(&rest[1..end], alike)?);
                rest = &rest[end + 1..];
            }
            b'\t' | b'\n' | b'\r' => {
                *alike = false;
                out.push(' ');
                rest = rest.strip_prefix("\r\n").unwrap_or(&rest[1..]);
            }
            // A bare `>` is legal here, but a careless parser ends the tag at it.
            b'>' => {
                *alike = false;
                out.push('>');
                rest = &rest[1..];
            }
            _ => {
                let n = rest.as_bytes().iter().position(special).unwrap_or(rest.len());
                out.push_str(&rest[..n]);
                rest = &rest[n..];
            }
        }
    }
    Ok(Cow::Owned(out))
}

/// What stands between `&` and `;`: one of the five entities of XML 1.0 §4.6 or a character reference (§4.1).
pub(crate) fn reference(name: &str, alike: &mut bool) -> Result<char, XmlError> {
    match name {
        "amp" => return Ok('&'),
        "lt" => return Ok('<'),
        "gt" => return Ok('>'),
        "quot" => return Ok('"'),
        "apos" => return Ok('\''),
        _ => {}
    }
    *alike = false;
    let digits = name.strip_prefix('#').ok_or(XmlError::NotWellFormed)?;
    let (digits, radix) = match digits.strip_prefix('x') {
        Some(hex) => (hex, 16),
        None => (digits, 10),
    };
    // `from_str_radix` would take a sign.
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(XmlError::NotWellFormed);
    }
    let code = u32::from_str_radix(digits, radix).map_err(|_| XmlError::NotWellFormed)?;
    char::from_u32(code).filter(|&c| is_char(c)).ok_or(XmlError::NotWellFormed)
}
