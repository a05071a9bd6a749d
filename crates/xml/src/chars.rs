//! Characters and names of XML 1.0 (fifth edition) and Namespaces in XML 1.0 (third edition).

use crate::XmlError;
use types::limit::XML_NAME_BYTES_MAX;

/// Checks that `bytes` are UTF-8 and hold only what XML 1.0 §2.2 calls a Char.
///
/// # Errors
/// [`XmlError::NotWellFormed`].
pub fn validate(bytes: &[u8]) -> Result<&str, XmlError> {
    let text = simdutf8::basic::from_utf8(bytes).map_err(|_| XmlError::NotWellFormed)?;
    // One pass without branches, so that the compiler can vectorise it.
    let mut control = false;
    for &b in bytes {
        control |= (b < 0x20) & (b != b'\t') & (b != b'\n') & (b != b'\r');
    }
    if control || has_fffe_or_ffff(bytes) {
        return Err(XmlError::NotWellFormed);
    }
    Ok(text)
}

/// U+FFFE and U+FFFF, the only valid UTF-8 above U+0020 that is no Char.
fn has_fffe_or_ffff(bytes: &[u8]) -> bool {
    memchr::memchr_iter(0xEF, bytes).any(|i| bytes[i + 1..].starts_with(&[0xBF, 0xBE]) || bytes[i + 1..].starts_with(&[0xBF, 0xBF]))
}

/// XML 1.0 §2.2, production Char.
pub const fn is_char(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='\u{D7FF}' | '\u{E000}'..='\u{FFFD}' | '\u{10000}'..='\u{10FFFF}')
}

/// XML 1.0 §2.3, production S.
#[inline]
pub const fn is_space(b: u8) -> bool {
    matches!(b, b' ' | b'\t' | b'\n' | b'\r')
}

/// XML 1.0 §2.3, production NameStartChar without the colon.
const fn is_name_start(c: char) -> bool {
    matches!(c,
        'A'..='Z' | '_' | 'a'..='z' | '\u{C0}'..='\u{D6}' | '\u{D8}'..='\u{F6}' | '\u{F8}'..='\u{2FF}'
        | '\u{370}'..='\u{37D}' | '\u{37F}'..='\u{1FFF}' | '\u{200C}'..='\u{200D}' | '\u{2070}'..='\u{218F}'
        | '\u{2C00}'..='\u{2FEF}' | '\u{3001}'..='\u{D7FF}' | '\u{F900}'..='\u{FDCF}' | '\u{FDF0}'..='\u{FFFD}'
        | '\u{10000}'..='\u{EFFFF}')
}

/// XML 1.0 §2.3, production NameChar without the colon.
const fn is_name_char(c: char) -> bool {
    is_name_start(c) || matches!(c, '-' | '.' | '0'..='9' | '\u{B7}' | '\u{300}'..='\u{36F}' | '\u{203F}'..='\u{2040}')
}

/// Namespaces in XML §3, production NCName, of at most [`XML_NAME_BYTES_MAX`] bytes.
///
/// # Errors
/// [`XmlError::PolicyViolation`] for a longer one, [`XmlError::NotWellFormed`] for another text.
pub fn check_ncname(name: &str) -> Result<(), XmlError> {
    if name.len() > XML_NAME_BYTES_MAX {
        return Err(XmlError::PolicyViolation);
    }
    let bytes = name.as_bytes();
    let Some(&first) = bytes.first() else {
        return Err(XmlError::NotWellFormed);
    };
    if (first.is_ascii_alphabetic() || first == b'_') && bytes.iter().all(|&b| ASCII_NAME[b as usize]) {
        return Ok(());
    }
    let mut chars = name.chars();
    if chars.next().is_some_and(is_name_start) && chars.all(is_name_char) { Ok(()) } else { Err(XmlError::NotWellFormed) }
}

/// Splits a QName at its colon (Namespaces in XML §4) and checks both parts. The prefix is empty if there is none.
///
/// # Errors
/// As [`check_ncname`].
#[inline]
pub fn split_qname(name: &str) -> Result<(&str, &str), XmlError> {
    let (prefix, local) = match name.bytes().position(|b| b == b':') {
        None => ("", name),
        Some(i) => {
            check_ncname(&name[..i])?;
            (&name[..i], &name[i + 1..])
        }
    };
    check_ncname(local)?;
    Ok((prefix, local))
}

/// ASCII bytes of a NameChar, without the colon.
static ASCII_NAME: [bool; 256] = {
    let mut table = [false; 256];
    let mut b = 0;
    while b < 128 {
        table[b] = is_name_char(b as u8 as char);
        b += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters() {
        for (bytes, ok) in [
            (&b"a\tb\nc\rd"[..], true),
            ("\u{1FFFE}\u{2028}\u{85}\u{7F}\u{FFFD}\u{FDD0}".as_bytes(), true),
            ("\u{FFFE}".as_bytes(), false),
            ("x\u{FFFF}y".as_bytes(), false),
            (b"\x00", false),
            (b"\x0B", false),
            (b"\x1F", false),
            (b"\xC0\xAF", false),
            (b"\xE0\x80\xAF", false),
            (b"\xF0\x80\x80\xAF", false),
            (b"\xED\xA0\x80", false),
            (b"\xF4\x90\x80\x80", false),
            (b"\xFF", false),
            (b"\xE2\x82\x3C", false),
            (b"\xE2\x82", false),
        ] {
            assert_eq!(validate(bytes).is_ok(), ok, "{bytes:x?}");
        }
    }

    #[test]
    fn names() {
        use XmlError::*;
        let long = "n".repeat(XML_NAME_BYTES_MAX);
        let longer = "n".repeat(XML_NAME_BYTES_MAX + 1);
        for (name, want) in [
            ("a", Ok(("", "a"))),
            ("_a-b.c1", Ok(("", "_a-b.c1"))),
            ("p:a", Ok(("p", "a"))),
            ("jåN", Ok(("", "jåN"))),
            ("日本", Ok(("", "日本"))),
            ("", Err(NotWellFormed)),
            (":a", Err(NotWellFormed)),
            ("a:", Err(NotWellFormed)),
            ("a:b:c", Err(NotWellFormed)),
            ("1a", Err(NotWellFormed)),
            ("-a", Err(NotWellFormed)),
            ("p:1", Err(NotWellFormed)),
            ("a\u{D7}", Err(NotWellFormed)),
            ("\u{B7}a", Err(NotWellFormed)),
            ("a/b", Err(NotWellFormed)),
            (&long, Ok(("", &long[..]))),
            (&longer, Err(PolicyViolation)),
        ] {
            assert_eq!(split_qname(name), want, "{name}");
        }
    }
}
