//! Addresses: the canonical form stays as it is, is the only one of its address, keeps RFC 7622's lengths, can stand in
//! XML, and is the same whether an address is parsed whole or in parts.
//!
//! The input is an address; behind a zero byte another one.

use crate::memory::within;
use types::jid::{prepare_domain, prepare_localpart, prepare_resource};
use types::limit::JID_PART_BYTES_MAX;
use types::{BareJid, FullJid, Jid};

/// See the module.
pub fn jid(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (one, two) = text.split_once('\0').unwrap_or((text, ""));
    let (a, b) = (check(one), check(two));
    if let (Some(a), Some(b)) = (a, b) {
        assert_eq!(a == b, a.as_str() == b.as_str());
        assert_eq!(a.cmp(&b), a.as_str().cmp(b.as_str()));
        assert_eq!(a.to_bare() == b.to_bare(), a.bare_str() == b.bare_str());
    }
}

fn check(text: &str) -> Option<Jid> {
    // Tables of Unicode normalisation need some room of their own.
    let parsed = within(64 * 1024 + 32 * text.len(), "address", || Jid::parse(text));
    check_parts(text, &parsed);
    let jid = parsed.ok()?;
    let canonical = jid.as_str();
    assert!(canonical.len() <= 3 * JID_PART_BYTES_MAX + 2);
    for part in [jid.local(), Some(jid.domain()), jid.resource()].into_iter().flatten() {
        assert!((1..=JID_PART_BYTES_MAX).contains(&part.len()), "{part:?}");
    }
    assert!(canonical.chars().all(xml::chars::is_char), "{canonical:?} cannot stand in XML");

    let again = Jid::parse(canonical).expect("a canonical address is one");
    assert_eq!(again.as_str(), canonical, "from {text:?}");
    assert_eq!((again.local(), again.domain(), again.resource()), (jid.local(), jid.domain(), jid.resource()));
    assert_eq!(again, jid);

    // Joined again from its parts, and bare.
    let bare = BareJid::new(jid.local(), jid.domain()).expect("canonical parts");
    assert_eq!(bare.as_str(), jid.bare_str());
    assert_eq!(bare, jid.to_bare());
    assert_eq!(BareJid::parse(jid.bare_str()).as_ref(), Ok(&bare));
    match jid.resource() {
        Some(resource) => {
            assert_eq!(bare.with_resource(resource).map(FullJid::into_jid), Ok(jid.clone()));
            assert_eq!(FullJid::parse(canonical).map(FullJid::into_jid), Ok(jid.clone()));
        }
        None => assert!(FullJid::parse(canonical).is_err()),
    }
    // Case is not a part of localpart and domainpart.
    if text.is_ascii() {
        let (bare, resource) = text.split_once('/').map_or((text, None), |(b, r)| (b, Some(r)));
        let mut loud = bare.to_ascii_uppercase();
        if let Some(resource) = resource {
            loud.push('/');
            loud.push_str(resource);
        }
        assert_eq!(Jid::parse(&loud).as_ref(), Ok(&jid), "{loud:?}");
    }
    Some(jid)
}

/// RFC 7622 §3.2: what the parts give by themselves is what the whole gives.
fn check_parts(text: &str, parsed: &Result<Jid, types::jid::JidError>) {
    let (bare, resource) = text.split_once('/').map_or((text, None), |(b, r)| (b, Some(r)));
    let (local, domain) = bare.split_once('@').map_or((None, bare), |(l, d)| (Some(l), d));
    let parts = (local.map(prepare_localpart).transpose(), prepare_domain(domain), resource.map(prepare_resource).transpose());
    match (parts, parsed) {
        ((Ok(local), Ok(domain), Ok(resource)), Ok(jid)) => {
            assert_eq!((jid.local(), jid.domain(), jid.resource()), (local.as_deref(), &*domain, resource.as_deref()));
        }
        ((Ok(_), Ok(_), Ok(_)), Err(e)) => panic!("{text:?}: {e}, but each part is one"),
        (_, Ok(jid)) => panic!("{text:?} is {jid}, but a part is none"),
        (_, Err(_)) => {}
    }
}
