//! Preparation and enforcement of the parts of a JID (RFC 7622 §3.2 to §3.4).

use super::{JidError, Part, Parts};
use crate::limit::JID_PART_BYTES_MAX;
use idna::uts46::{AsciiDenyList, Hyphens, Uts46, verify_dns_length};
use precis_profiles::precis_core::profile::Profile;
use precis_profiles::precis_core::{IdentifierClass, StringClass};
use precis_profiles::{OpaqueString, UsernameCaseMapped};
use std::borrow::Cow;
use std::net::Ipv6Addr;
use std::sync::Arc;

/// A part that is longer than this before preparation is refused unread, so that work is bounded. Mapping makes
/// a part shorter at most by about this factor (full-width letters: 3; NFC: up to 3 code points into one).
const RAW_BYTES_MAX: usize = 8 * JID_PART_BYTES_MAX;

/// RFC 8264 §7: enforcement is repeated until nothing changes any more, no more than three times beyond the first.
const ENFORCE_ROUNDS_MAX: usize = 4;

/// Bring a localpart into canonical form: UsernameCaseMapped (RFC 8265 §3.3) without the characters of RFC 7622 §3.3.1.
///
/// # Errors
/// [`JidError::LocalpartEmpty`], [`JidError::LocalpartTooLong`] (1,023 bytes after preparation), [`JidError::Localpart`].
pub fn prepare_localpart(local: &str) -> Part<'_> {
    if local.is_empty() {
        return Err(JidError::LocalpartEmpty);
    }
    let prepared = if local.is_ascii() {
        match ascii_local(local)? {
            Case::Lower => Cow::Borrowed(local),
            Case::Mixed => Cow::Owned(local.to_ascii_lowercase()),
        }
    } else {
        let mapped = enforce(local, &UsernameCaseMapped::new(), JidError::LocalpartTooLong, JidError::Localpart)?;
        // After mapping: a full-width commercial at has become an ASCII one.
        if mapped.bytes().any(is_excluded_from_local) {
            return Err(JidError::Localpart);
        }
        mapped
    };
    within(prepared, JidError::LocalpartTooLong)
}

/// Bring a resourcepart into canonical form: OpaqueString (RFC 8265 §4.2).
///
/// A leading space is refused as RFC 7622 §3.5 has it (example 18), though OpaqueString alone would let it pass.
///
/// # Errors
/// [`JidError::ResourceEmpty`], [`JidError::ResourceTooLong`] (1,023 bytes after preparation), [`JidError::Resource`].
pub fn prepare_resource(resource: &str) -> Part<'_> {
    if resource.is_empty() {
        return Err(JidError::ResourceEmpty);
    }
    let prepared = if resource.is_ascii() {
        ascii_resource(resource)?;
        Cow::Borrowed(resource)
    } else {
        enforce(resource, &OpaqueString::new(), JidError::ResourceTooLong, JidError::Resource)?
    };
    if prepared.starts_with(' ') {
        return Err(JidError::Resource);
    }
    within(prepared, JidError::ResourceTooLong)
}

/// Bring a domainpart into canonical form (RFC 7622 §3.2): a domain name of lower-case NR-LDH labels and U-labels
/// without a final dot, an IPv4 address, or an IPv6 address in brackets (written as by RFC 5952).
///
/// A-labels become U-labels; mapping is that of UTS 46, what remains must be allowed by IDNA2008 (RFC 5892).
///
/// # Errors
/// [`JidError::DomainEmpty`]; [`JidError::DomainTooLong`] (in A-labels: 63 bytes a label, 253 in all, RFC 1034 §3.1);
/// [`JidError::Domain`].
pub fn prepare_domain(domain: &str) -> Part<'_> {
    // §3.2: stripped before any other step.
    let domain = domain.strip_suffix('.').unwrap_or(domain);
    if domain.is_empty() {
        return Err(JidError::DomainEmpty);
    }
    if let Some(literal) = domain.strip_prefix('[') {
        let address: Ipv6Addr = literal.strip_suffix(']').and_then(|a| a.parse().ok()).ok_or(JidError::Domain)?;
        let canonical = format!("[{address}]");
        return Ok(if canonical == domain { Cow::Borrowed(domain) } else { Cow::Owned(canonical) });
    }
    match ascii_domain(domain)? {
        Some(Case::Lower) => Ok(Cow::Borrowed(domain)),
        Some(Case::Mixed) => Ok(Cow::Owned(domain.to_ascii_lowercase())),
        None => international_domain(domain),
    }
}

/// A domain name with characters beyond ASCII or with A-labels.
fn international_domain(domain: &str) -> Part<'_> {
    if domain.len() > RAW_BYTES_MAX {
        return Err(JidError::DomainTooLong);
    }
    let (mapped, checked) = Uts46::new().to_unicode(domain.as_bytes(), AsciiDenyList::STD3, Hyphens::Check);
    checked.map_err(|_| JidError::Domain)?;
    // UTS 46 takes other dots (U+3002) for separators, so a final one may have appeared only now.
    let mapped = match mapped {
        Cow::Borrowed(m) => Cow::Borrowed(m.strip_suffix('.').unwrap_or(m)),
        Cow::Owned(mut m) => {
            if m.ends_with('.') {
                m.pop();
            }
            Cow::Owned(m)
        }
    };
    // UTS 46 is more lenient than IDNA2008: it lets symbols pass. Of mapped text, the code points and contextual
    // rules of the IdentifierClass are those of RFC 5892 (RFC 8264 §9), apart from ASCII, which STD3 has dealt with.
    for label in mapped.split('.') {
        if label.is_empty() {
            return Err(JidError::Domain);
        }
        if !label.is_ascii() && IdentifierClass::default().allows(label).is_err() {
            return Err(JidError::Domain);
        }
    }
    let (ascii, again) = (
        Uts46::new().to_ascii(mapped.as_bytes(), AsciiDenyList::STD3, Hyphens::Check, idna::uts46::DnsLength::Ignore),
        Uts46::new().to_unicode(mapped.as_bytes(), AsciiDenyList::STD3, Hyphens::Check),
    );
    let ascii = ascii.map_err(|_| JidError::Domain)?;
    if !verify_dns_length(&ascii, false) {
        return Err(JidError::DomainTooLong);
    }
    // Canonical means: stays as it is.
    if again.1.is_err() || again.0 != mapped {
        return Err(JidError::Domain);
    }
    within(mapped, JidError::DomainTooLong)
}

/// Apply a PRECIS profile until the text stays as it is.
fn enforce<'a, P: Profile>(text: &'a str, profile: &P, too_long: JidError, refused: JidError) -> Part<'a> {
    if text.len() > RAW_BYTES_MAX {
        return Err(too_long);
    }
    let mut now: Cow<'a, str> = Cow::Borrowed(text);
    for _ in 0..ENFORCE_ROUNDS_MAX {
        let next = profile.enforce(&*now).map_err(|_| refused)?;
        if next == now {
            return Ok(now);
        }
        now = Cow::Owned(next.into_owned());
    }
    Err(refused)
}

fn within(prepared: Cow<'_, str>, too_long: JidError) -> Part<'_> {
    if prepared.len() > JID_PART_BYTES_MAX { Err(too_long) } else { Ok(prepared) }
}

/// Whether an ASCII text has to be folded.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Case {
    Lower,
    Mixed,
}

impl Case {
    fn of(has_upper: bool) -> Case {
        if has_upper { Case::Mixed } else { Case::Lower }
    }
}

/// The fast path: all ASCII, no A-label, no address in brackets, no final dot. Allocates the result and nothing else.
/// `None`: not such a one, take the long way.
pub(super) fn ascii(parts: &Parts<'_>) -> Result<Option<Arc<str>>, JidError> {
    if !parts.text.is_ascii() || parts.domain.ends_with('.') || parts.domain.starts_with('[') {
        return Ok(None);
    }
    let mut case = Case::Lower;
    if let Some(local) = parts.local {
        if local.is_empty() {
            return Err(JidError::LocalpartEmpty);
        }
        case = ascii_local(local)?;
    }
    if parts.domain.is_empty() {
        return Err(JidError::DomainEmpty);
    }
    match ascii_domain(parts.domain)? {
        None => return Ok(None),
        Some(Case::Mixed) => case = Case::Mixed,
        Some(Case::Lower) => {}
    }
    if let Some(resource) = parts.resource {
        if resource.is_empty() {
            return Err(JidError::ResourceEmpty);
        }
        ascii_resource(resource)?;
    }
    let mut text: Arc<str> = Arc::from(parts.text);
    if case == Case::Mixed {
        // Just made, so nobody else holds it.
        if let Some(text) = Arc::get_mut(&mut text) {
            text[..parts.bare_len()].make_ascii_lowercase();
        }
    }
    Ok(Some(text))
}

/// RFC 7622 §3.3.1.
const fn is_excluded_from_local(b: u8) -> bool {
    matches!(b, b'"' | b'&' | b'\'' | b'/' | b':' | b'<' | b'>' | b'@')
}

/// Must be folded in a localpart or domainpart.
const UPPER: u8 = 1;
/// Of ASCII, the IdentifierClass allows U+0021 to U+007E (RFC 8264 §4.2.1), RFC 7622 §3.3.1 fewer.
const NOT_LOCAL: u8 = 2;
/// Of ASCII, the FreeformClass allows U+0020 to U+007E (RFC 8264 §4.3.1).
const NOT_RESOURCE: u8 = 4;
/// Letters, digits, hyphens and the dots between labels.
const NOT_DOMAIN: u8 = 8;

/// What each byte of ASCII is, so that a part is judged by one look at each byte and one branch at the end.
const CLASS: [u8; 256] = {
    let mut class = [0; 256];
    let mut i = 0;
    while i < 256 {
        let b = i as u8;
        if b.is_ascii_uppercase() {
            class[i] |= UPPER;
        }
        if !b.is_ascii_graphic() || is_excluded_from_local(b) {
            class[i] |= NOT_LOCAL;
        }
        if !b.is_ascii_graphic() && b != b' ' {
            class[i] |= NOT_RESOURCE;
        }
        if !b.is_ascii_alphanumeric() && b != b'-' && b != b'.' {
            class[i] |= NOT_DOMAIN;
        }
        i += 1;
    }
    class
};

/// All that the bytes of a part are.
fn classes(part: &str) -> u8 {
    part.bytes().fold(0, |seen, b| seen | CLASS[usize::from(b)])
}

fn ascii_local(local: &str) -> Result<Case, JidError> {
    if local.len() > JID_PART_BYTES_MAX {
        return Err(JidError::LocalpartTooLong);
    }
    let seen = classes(local);
    if seen & NOT_LOCAL != 0 { Err(JidError::Localpart) } else { Ok(Case::of(seen & UPPER != 0)) }
}

fn ascii_resource(resource: &str) -> Result<(), JidError> {
    if resource.len() > JID_PART_BYTES_MAX {
        return Err(JidError::ResourceTooLong);
    }
    if resource.starts_with(' ') || classes(resource) & NOT_RESOURCE != 0 {
        return Err(JidError::Resource);
    }
    Ok(())
}

/// NR-LDH labels (RFC 5890 §2.3.1) by themselves. `None`: there are A-labels or other characters.
fn ascii_domain(domain: &str) -> Result<Option<Case>, JidError> {
    if !domain.is_ascii() {
        return Ok(None);
    }
    let seen = classes(domain);
    if seen & NOT_DOMAIN != 0 {
        return Err(JidError::Domain);
    }
    let mut too_long = domain.len() > 253;
    for label in domain.as_bytes().split(|b| *b == b'.') {
        match label {
            // Reserved labels: A-labels, or nothing that is defined.
            [_, _, b'-', b'-', ..] => return Ok(None),
            [] | [b'-', ..] | [.., b'-'] => return Err(JidError::Domain),
            _ => too_long |= label.len() > 63,
        }
    }
    if too_long { Err(JidError::DomainTooLong) } else { Ok(Some(Case::of(seen & UPPER != 0))) }
}
