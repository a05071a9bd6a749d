//! Addresses (RFC 7622).
//!
//! Every address in the server is held in its canonical form, so two addresses are equal when their bytes are equal.
//! Parsing is the only way in: [`Jid::parse`], [`BareJid::parse`], [`FullJid::parse`] and [`BareJid::with_resource`].
//! The rules for each part are in [`prepare_localpart`], [`prepare_domain`] and [`prepare_resource`].
//!
//! A clone, and the bare JID of a full one, share the text: no allocation.

mod prepare;
#[cfg(test)]
mod tests;

use std::borrow::{Borrow, Cow};
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

pub use prepare::{prepare_domain, prepare_localpart, prepare_resource};

/// Why a string is not a JID. As a protocol answer: `jid-malformed` (RFC 6120 §8.3.3.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum JidError {
    /// There is an `@` with nothing before it.
    #[error("localpart is empty")]
    LocalpartEmpty,
    /// The localpart has more than [`crate::limit::JID_PART_BYTES_MAX`] bytes.
    #[error("localpart is too long")]
    LocalpartTooLong,
    /// The localpart holds something that RFC 7622 §3.3 does not allow.
    #[error("localpart is not allowed")]
    Localpart,
    /// Nothing is left for the domainpart.
    #[error("domainpart is empty")]
    DomainEmpty,
    /// The domainpart is beyond the bounds of RFC 7622 §3.2 or of RFC 1034 §3.1.
    #[error("domainpart is too long")]
    DomainTooLong,
    /// The domainpart is neither a domain name (IDNA2008) nor an IP address.
    #[error("domainpart is not allowed")]
    Domain,
    /// There is a `/` with nothing behind it.
    #[error("resourcepart is empty")]
    ResourceEmpty,
    /// The resourcepart has more than [`crate::limit::JID_PART_BYTES_MAX`] bytes.
    #[error("resourcepart is too long")]
    ResourceTooLong,
    /// The resourcepart holds something that RFC 7622 §3.4 does not allow.
    #[error("resourcepart is not allowed")]
    Resource,
    /// A full JID was wanted, and this one is bare.
    #[error("resourcepart is missing")]
    ResourceMissing,
    /// A bare JID was wanted, and this one is full.
    #[error("resourcepart is not expected")]
    ResourceUnexpected,
}

/// An address, bare or full.
#[derive(Clone)]
pub struct Jid {
    /// Canonical text. A bare JID that was taken from a full one shares it, and ends earlier.
    text: Arc<str>,
    /// Bytes of the localpart; 0 if there is none (an empty one is not allowed).
    local: u16,
    /// Where the bare JID ends: bytes of localpart, `@` and domainpart.
    bare: u16,
    /// Where this JID ends; equal to `bare` if there is no resourcepart. At most 3 * 1023 + 2.
    end: u16,
}

/// An address without a resourcepart: an account, a room, a service or a server.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BareJid(Jid);

/// An address with a resourcepart: a session, or an occupant of a room.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FullJid(Jid);

/// A position within a JID. Parts are bounded by 1,023 bytes, so positions always fit.
fn position(bytes: usize) -> u16 {
    debug_assert!(bytes <= 3 * crate::limit::JID_PART_BYTES_MAX + 2);
    bytes as u16
}

impl Jid {
    /// Parse and bring into canonical form.
    ///
    /// # Errors
    /// [`JidError`] names the first part that breaks the rules of RFC 7622.
    pub fn parse(text: &str) -> Result<Jid, JidError> {
        let parts = Parts::split(text);
        if let Some(canonical) = prepare::ascii(&parts)? {
            return Ok(parts.share(canonical));
        }
        let local = parts.local.map(prepare_localpart).transpose()?;
        let domain = prepare_domain(parts.domain)?;
        let resource = parts.resource.map(prepare_resource).transpose()?;
        Ok(Jid::assemble(local.as_deref(), &domain, resource.as_deref()))
    }

    /// Join parts that are already canonical.
    fn assemble(local: Option<&str>, domain: &str, resource: Option<&str>) -> Jid {
        let mut text = String::with_capacity(local.map_or(0, |l| l.len() + 1) + domain.len() + resource.map_or(0, |r| r.len() + 1));
        if let Some(local) = local {
            text.push_str(local);
            text.push('@');
        }
        text.push_str(domain);
        let bare = position(text.len());
        if let Some(resource) = resource {
            text.push('/');
            text.push_str(resource);
        }
        let end = position(text.len());
        Jid { text: text.into(), local: position(local.map_or(0, str::len)), bare, end }
    }

    /// The canonical text.
    pub fn as_str(&self) -> &str {
        &self.text[..usize::from(self.end)]
    }

    /// The part before `@`, if there is one.
    pub fn local(&self) -> Option<&str> {
        (self.local != 0).then(|| &self.text[..usize::from(self.local)])
    }

    /// The domainpart, in U-labels.
    pub fn domain(&self) -> &str {
        let start = if self.local == 0 { 0 } else { usize::from(self.local) + 1 };
        &self.text[start..usize::from(self.bare)]
    }

    /// The part behind `/`, if there is one.
    pub fn resource(&self) -> Option<&str> {
        self.is_full().then(|| &self.text[usize::from(self.bare) + 1..usize::from(self.end)])
    }

    /// Whether there is no resourcepart.
    pub fn is_bare(&self) -> bool {
        self.bare == self.end
    }

    /// Whether there is a resourcepart.
    pub fn is_full(&self) -> bool {
        !self.is_bare()
    }

    /// This address without its resourcepart. Shares the text: no allocation.
    pub fn to_bare(&self) -> BareJid {
        BareJid(Jid { text: Arc::clone(&self.text), local: self.local, bare: self.bare, end: self.bare })
    }

    /// This address as a full JID; `None` if it has no resourcepart.
    pub fn to_full(&self) -> Option<FullJid> {
        self.is_full().then(|| FullJid(self.clone()))
    }

    /// The text without the resourcepart, e.g. to look up an account without a new value.
    pub fn bare_str(&self) -> &str {
        &self.text[..usize::from(self.bare)]
    }
}

impl BareJid {
    /// Parse and bring into canonical form.
    ///
    /// # Errors
    /// [`JidError`]; [`JidError::ResourceUnexpected`] if there is a resourcepart.
    pub fn parse(text: &str) -> Result<BareJid, JidError> {
        let jid = Jid::parse(text)?;
        if jid.is_full() { Err(JidError::ResourceUnexpected) } else { Ok(BareJid(jid)) }
    }

    /// From parts that need not be canonical yet.
    ///
    /// # Errors
    /// As [`prepare_localpart`] and [`prepare_domain`]. A separator within a part is an error, never a split.
    pub fn new(local: Option<&str>, domain: &str) -> Result<BareJid, JidError> {
        let local = local.map(prepare_localpart).transpose()?;
        let domain = prepare_domain(domain)?;
        Ok(BareJid(Jid::assemble(local.as_deref(), &domain, None)))
    }

    /// A server or service.
    ///
    /// # Errors
    /// As [`prepare_domain`].
    pub fn from_domain(domain: &str) -> Result<BareJid, JidError> {
        BareJid::new(None, domain)
    }

    /// The canonical text.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The part before `@`, if there is one.
    pub fn local(&self) -> Option<&str> {
        self.0.local()
    }

    /// The domainpart, in U-labels.
    pub fn domain(&self) -> &str {
        self.0.domain()
    }

    /// Whether this is a mere domain: there is no localpart.
    pub fn is_domain(&self) -> bool {
        self.0.local == 0
    }

    /// The domain of this address as an address.
    pub fn to_domain(&self) -> BareJid {
        if self.is_domain() { self.clone() } else { BareJid(Jid::assemble(None, self.domain(), None)) }
    }

    /// This address with a resourcepart, which need not be canonical yet.
    ///
    /// # Errors
    /// As [`prepare_resource`].
    pub fn with_resource(&self, resource: &str) -> Result<FullJid, JidError> {
        let resource = prepare_resource(resource)?;
        Ok(FullJid(Jid::assemble(self.local(), self.domain(), Some(&resource))))
    }

    /// The same as a [`Jid`]. Shares the text.
    pub fn to_jid(&self) -> Jid {
        self.0.clone()
    }

    /// The same as a [`Jid`], borrowed.
    pub fn as_jid(&self) -> &Jid {
        &self.0
    }

    /// The same as a [`Jid`].
    pub fn into_jid(self) -> Jid {
        self.0
    }
}

impl FullJid {
    /// Parse and bring into canonical form.
    ///
    /// # Errors
    /// [`JidError`]; [`JidError::ResourceMissing`] if there is no resourcepart.
    pub fn parse(text: &str) -> Result<FullJid, JidError> {
        let jid = Jid::parse(text)?;
        if jid.is_bare() { Err(JidError::ResourceMissing) } else { Ok(FullJid(jid)) }
    }

    /// The canonical text.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The part before `@`, if there is one.
    pub fn local(&self) -> Option<&str> {
        self.0.local()
    }

    /// The domainpart, in U-labels.
    pub fn domain(&self) -> &str {
        self.0.domain()
    }

    /// The part behind `/`.
    pub fn resource(&self) -> &str {
        // A full JID has one by construction.
        self.0.resource().unwrap_or_default()
    }

    /// This address without its resourcepart. Shares the text: no allocation.
    pub fn bare(&self) -> BareJid {
        self.0.to_bare()
    }

    /// The text without the resourcepart.
    pub fn bare_str(&self) -> &str {
        self.0.bare_str()
    }

    /// The same as a [`Jid`]. Shares the text.
    pub fn to_jid(&self) -> Jid {
        self.0.clone()
    }

    /// The same as a [`Jid`], borrowed.
    pub fn as_jid(&self) -> &Jid {
        &self.0
    }

    /// The same as a [`Jid`].
    pub fn into_jid(self) -> Jid {
        self.0
    }
}

/// The parts of a string by RFC 7622 §3.2: the resourcepart is cut at the first `/`, then the localpart at the first `@`.
pub(crate) struct Parts<'a> {
    /// The whole.
    text: &'a str,
    /// Before the first `@`; may be empty.
    local: Option<&'a str>,
    /// Between; may be empty.
    domain: &'a str,
    /// Behind the first `/`; may be empty.
    resource: Option<&'a str>,
}

impl<'a> Parts<'a> {
    fn split(text: &'a str) -> Parts<'a> {
        let (bare, resource) = match text.split_once('/') {
            Some((bare, resource)) => (bare, Some(resource)),
            None => (text, None),
        };
        let (local, domain) = match bare.split_once('@') {
            Some((local, domain)) => (Some(local), domain),
            None => (None, bare),
        };
        Parts { text, local, domain, resource }
    }

    /// Bytes before the resourcepart and its `/`.
    fn bare_len(&self) -> usize {
        self.local.map_or(0, |l| l.len() + 1) + self.domain.len()
    }

    /// The canonical text has the same parts at the same places.
    fn share(&self, canonical: Arc<str>) -> Jid {
        Jid {
            local: position(self.local.map_or(0, str::len)),
            bare: position(self.bare_len()),
            end: position(canonical.len()),
            text: canonical,
        }
    }
}

// Canonical text holds everything: the positions of the parts follow from it (§3.2), so text alone is compared and
// hashed, in agreement with `Borrow<str>`.

impl PartialEq for Jid {
    fn eq(&self, other: &Jid) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Jid {}

impl PartialOrd for Jid {
    fn partial_cmp(&self, other: &Jid) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Jid {
    fn cmp(&self, other: &Jid) -> Ordering {
        self.as_str().cmp(other.as_str())
    }
}

impl Hash for Jid {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

macro_rules! text_traits { ($($name:ident)*) => { $(
    impl fmt::Display for $name {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.pad(self.as_str())
        }
    }

    impl fmt::Debug for $name {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.as_str())
        }
    }

    impl Borrow<str> for $name {
        fn borrow(&self) -> &str {
            self.as_str()
        }
    }

    impl AsRef<str> for $name {
        fn as_ref(&self) -> &str {
            self.as_str()
        }
    }

    impl PartialEq<str> for $name {
        fn eq(&self, other: &str) -> bool {
            self.as_str() == other
        }
    }

    impl PartialEq<&str> for $name {
        fn eq(&self, other: &&str) -> bool {
            self.as_str() == *other
        }
    }

    impl FromStr for $name {
        type Err = JidError;
        fn from_str(text: &str) -> Result<Self, JidError> {
            $name::parse(text)
        }
    }

    impl TryFrom<&str> for $name {
        type Error = JidError;
        fn try_from(text: &str) -> Result<Self, JidError> {
            $name::parse(text)
        }
    }
)* } }

text_traits! { Jid BareJid FullJid }

macro_rules! compare { ($($a:ident $b:ident),*) => { $(
    impl PartialEq<$b> for $a {
        fn eq(&self, other: &$b) -> bool {
            self.as_str() == other.as_str()
        }
    }
)* } }

compare! { Jid BareJid, BareJid Jid, Jid FullJid, FullJid Jid }

impl From<BareJid> for Jid {
    fn from(jid: BareJid) -> Jid {
        jid.0
    }
}

impl From<FullJid> for Jid {
    fn from(jid: FullJid) -> Jid {
        jid.0
    }
}

impl From<&BareJid> for Jid {
    fn from(jid: &BareJid) -> Jid {
        jid.0.clone()
    }
}

impl From<&FullJid> for Jid {
    fn from(jid: &FullJid) -> Jid {
        jid.0.clone()
    }
}

impl From<FullJid> for BareJid {
    fn from(jid: FullJid) -> BareJid {
        jid.bare()
    }
}

impl TryFrom<Jid> for BareJid {
    type Error = JidError;
    fn try_from(jid: Jid) -> Result<BareJid, JidError> {
        if jid.is_bare() { Ok(BareJid(jid)) } else { Err(JidError::ResourceUnexpected) }
    }
}

impl TryFrom<Jid> for FullJid {
    type Error = JidError;
    fn try_from(jid: Jid) -> Result<FullJid, JidError> {
        if jid.is_full() { Ok(FullJid(jid)) } else { Err(JidError::ResourceMissing) }
    }
}

/// For the modules below: a part as it came or as it was changed.
type Part<'a> = Result<Cow<'a, str>, JidError>;
