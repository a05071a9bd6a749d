//! The inside of a start tag: its name and attributes, strictly.

use crate::XmlError;
use crate::chars::{is_char, is_space, split_qname};
use smallvec::SmallVec;
use std::borrow::Cow;
use types::limit::{XML_ATTRIBUTE_BYTES_MAX, XML_ATTRIBUTES_MAX, XML_NAME_BYTES_MAX};

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
        i = scan_attr(inside, i, sink)?;
    }
}

/// One attribute that begins at `i`; returns where it ends.
#[inline]
fn scan_attr<'a>(inside: &'a str, i: usize, sink: &mut Sink<'_, 'a>) -> Result<usize, XmlError> {
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
    let (value, len) = read_value(&inside[i..], quote, sink.alike)?;
    if let Some(rest) = name.whole.strip_prefix("xmlns")
        && (rest.is_empty() || name.local == 6)
    {
        sink.declarations.push(Declaration { prefix: rest.strip_prefix(':').unwrap_or(rest), uri: value });
    } else {
        sink.attrs.push(RawAttr { name, value, ns: 0 });
    }
    Ok(i + len + 1)
}

/// Classes of bytes in names: the ASCII part of XML 1.0 §2.3, and the rest.
const NAME_START: u8 = 1;
const NAME: u8 = 2;
const COLON: u8 = 3;
const NOT_ASCII: u8 = 4;

static NAME_CLASS: [u8; 256] = {
    let mut class = [0; 256];
    let mut b = 0;
    while b < 256 {
        class[b] = match b as u8 {
            b'A'..=b'Z' | b'a'..=b'z' | b'_' => NAME_START,
            b'0'..=b'9' | b'-' | b'.' => NAME,
            b':' => COLON,
            0x80.. => NOT_ASCII,
            _ => 0,
        };
        b += 1;
    }
    class
};

/// The QName that begins at `from` (Namespaces in XML §4).
#[inline]
fn read_name(inside: &str, from: usize) -> Result<Name<'_>, XmlError> {
    let bytes = &inside.as_bytes()[from..];
    let mut local = 0;
    let mut plain = bytes.first().is_some_and(|&b| NAME_CLASS[b as usize] == NAME_START);
    let mut len = bytes.len();
    for (i, &b) in bytes.iter().enumerate() {
        match NAME_CLASS[b as usize] {
            NAME_START | NAME => {}
            0 => {
                len = i;
                break;
            }
            COLON if local == 0 && bytes.get(i + 1).is_some_and(|&b| NAME_CLASS[b as usize] == NAME_START) => local = i + 1,
            _ => plain = false,
        }
    }
    let whole = &inside[from..from + len];
    if plain && local.max(len - local) <= XML_NAME_BYTES_MAX {
        return Ok(Name { whole, local: local as u16 });
    }
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

/// Bytes at which a value ends or needs a closer look.
static VALUE_SPECIAL: [bool; 256] = {
    let mut special = [false; 256];
    let list = b"&<>\t\n\r'\"";
    let mut i = 0;
    while i < list.len() {
        special[list[i] as usize] = true;
        i += 1;
    }
    special
};

/// The value up to `quote`, and how many bytes it has as written.
#[inline]
fn read_value<'a>(from: &'a str, quote: u8, alike: &mut bool) -> Result<(Cow<'a, str>, usize), XmlError> {
    let bytes = from.as_bytes();
    for (i, &b) in bytes.iter().enumerate() {
        if !VALUE_SPECIAL[b as usize] {
            continue;
        }
        if b == quote {
            if i > XML_ATTRIBUTE_BYTES_MAX {
                return Err(XmlError::PolicyViolation);
            }
            return Ok((Cow::Borrowed(&from[..i]), i));
        }
        if matches!(b, b'\'' | b'"') {
            continue;
        }
        let len = i + memchr::memchr(quote, &bytes[i..]).ok_or(XmlError::NotWellFormed)?;
        if len > XML_ATTRIBUTE_BYTES_MAX {
            return Err(XmlError::PolicyViolation);
        }
        return Ok((Cow::Owned(unescape_value(&from[..len], i, alike)?), len));
    }
    Err(XmlError::NotWellFormed)
}

/// XML 1.0 §3.3.3: white space becomes a space (a line end counts as one, §2.11), references are replaced.
fn unescape_value(raw: &str, first: usize, alike: &mut bool) -> Result<String, XmlError> {
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
                let plain = |b: &u8| matches!(b, b'&' | b'<' | b'>' | b'\t' | b'\n' | b'\r');
                let n = rest.as_bytes().iter().position(plain).unwrap_or(rest.len());
                out.push_str(&rest[..n]);
                rest = &rest[n..];
            }
        }
    }
    Ok(out)
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
