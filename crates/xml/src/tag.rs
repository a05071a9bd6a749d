//! The inside of a start tag: its name and attributes, strictly.

use crate::XmlError;
use crate::chars::{is_char, is_space, split_qname};
use smallvec::SmallVec;
use std::borrow::Cow;
use types::limit::{XML_ATTRIBUTE_BYTES_MAX, XML_ATTRIBUTES_MAX};

/// An attribute as it was written; its value is unescaped and normalised (XML 1.0 §3.3.3).
#[derive(Clone, Debug)]
pub(crate) struct RawAttr<'a> {
    pub prefix: &'a str,
    pub local: &'a str,
    pub value: Cow<'a, str>,
    /// Set by the tokenizer: index of the declaration of `prefix`.
    pub ns: u16,
}

pub(crate) type RawAttrs<'a> = SmallVec<[RawAttr<'a>; 6]>;

/// Name of a tag, split at its colon.
pub(crate) struct Name<'a> {
    pub whole: &'a str,
    pub prefix: &'a str,
    pub local: &'a str,
}

/// Reads what stands between `<` and `>` (or `/>`) of a start tag. `alike` is cleared by anything that another parser
/// might read in another way.
pub(crate) fn scan<'a>(inside: &'a str, attrs: &mut RawAttrs<'a>, alike: &mut bool) -> Result<Name<'a>, XmlError> {
    let bytes = inside.as_bytes();
    let mut i = bytes.iter().position(|&b| is_space(b)).unwrap_or(bytes.len());
    let whole = &inside[..i];
    let (prefix, local) = split_qname(whole)?;
    attrs.clear();
    loop {
        let before = i;
        i = skip_space(bytes, i);
        if i == bytes.len() {
            return Ok(Name { whole, prefix, local });
        }
        if i == before {
            return Err(XmlError::NotWellFormed);
        }
        i = scan_attr(inside, i, attrs, alike)?;
    }
}

/// One attribute that begins at `i`; returns where it ends.
#[inline]
fn scan_attr<'a>(inside: &'a str, i: usize, attrs: &mut RawAttrs<'a>, alike: &mut bool) -> Result<usize, XmlError> {
    let bytes = inside.as_bytes();
    let name_len = bytes[i..].iter().position(|&b| b == b'=' || is_space(b)).ok_or(XmlError::NotWellFormed)?;
    let (prefix, local) = split_qname(&inside[i..i + name_len])?;
    let mut i = skip_space(bytes, i + name_len);
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
    if len > XML_ATTRIBUTE_BYTES_MAX || attrs.len() == XML_ATTRIBUTES_MAX {
        return Err(XmlError::PolicyViolation);
    }
    let value = read_value(&inside[i..i + len], alike)?;
    attrs.push(RawAttr { prefix, local, value, ns: 0 });
    Ok(i + len + 1)
}

#[inline]
fn skip_space(bytes: &[u8], mut i: usize) -> usize {
    while i < bytes.len() && is_space(bytes[i]) {
        i += 1;
    }
    i
}

#[inline]
fn read_value<'a>(raw: &'a str, alike: &mut bool) -> Result<Cow<'a, str>, XmlError> {
    let bytes = raw.as_bytes();
    let special = |b: &u8| matches!(b, b'&' | b'<' | b'>' | b'\t' | b'\n' | b'\r');
    match bytes.iter().position(special) {
        None => Ok(Cow::Borrowed(raw)),
        Some(first) => unescape_value(raw, first, alike).map(Cow::Owned),
    }
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
