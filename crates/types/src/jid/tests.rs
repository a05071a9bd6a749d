use super::*;
use proptest::prelude::*;

/// Parse, compare with the canonical text, and see that the canonical text stays as it is, part by part.
#[track_caller]
fn check(text: &str, canonical: &str) {
    let jid = Jid::parse(text).unwrap_or_else(|e| panic!("{text:?}: {e}"));
    assert_eq!(jid.as_str(), canonical, "{text:?}");
    check_canonical(&jid);
}

#[track_caller]
fn check_canonical(jid: &Jid) {
    let again = Jid::parse(jid.as_str()).unwrap_or_else(|e| panic!("{jid:?} again: {e}"));
    assert_eq!(&again, jid);
    assert_eq!((again.local(), again.domain(), again.resource()), (jid.local(), jid.domain(), jid.resource()));
    let parts = [
        jid.local().map(|l| format!("{l}@")).unwrap_or_default(),
        jid.domain().to_owned(),
        jid.resource().map(|r| format!("/{r}")).unwrap_or_default(),
    ];
    assert_eq!(parts.concat(), jid.as_str());
    assert_eq!(jid.to_bare().as_str(), jid.bare_str());
    assert!(jid.to_bare().to_jid().is_bare());
    for part in [jid.local(), Some(jid.domain()), jid.resource()].into_iter().flatten() {
        assert!((1..=1023).contains(&part.len()), "{jid:?}");
    }
}

#[track_caller]
fn refuse(text: &str, error: JidError) {
    assert_eq!(Jid::parse(text), Err(error), "{text:?}");
}

/// RFC 7622 §3.5, table 1.
#[test]
fn examples_of_the_rfc_are_accepted() {
    check("juliet@example.com", "juliet@example.com");
    check("juliet@example.com/foo", "juliet@example.com/foo");
    check("juliet@example.com/foo bar", "juliet@example.com/foo bar");
    check("juliet@example.com/foo@bar", "juliet@example.com/foo@bar");
    check(r"foo\20bar@example.com", r"foo\20bar@example.com");
    check("fussball@example.com", "fussball@example.com");
    check("fu\u{df}ball@example.com", "fu\u{df}ball@example.com");
    check("\u{3c0}@example.com", "\u{3c0}@example.com");
    check("\u{3a3}@example.com/foo", "\u{3c3}@example.com/foo");
    check("\u{3c3}@example.com/foo", "\u{3c3}@example.com/foo");
    check("\u{3c2}@example.com/foo", "\u{3c2}@example.com/foo");
    check("king@example.com/\u{265a}", "king@example.com/\u{265a}");
    check("example.com", "example.com");
    check("example.com/foobar", "example.com/foobar");
    check("a.example.com/b@example.net", "a.example.com/b@example.net");
}

/// RFC 7622 §3.5, table 2.
#[test]
fn counter_examples_of_the_rfc_are_refused() {
    refuse("\"juliet\"@example.com", JidError::Localpart);
    refuse("foo bar@example.com", JidError::Localpart);
    refuse("juliet@example.com/ foo", JidError::Resource);
    refuse("@example.com/", JidError::LocalpartEmpty);
    refuse("henry\u{2163}@example.com", JidError::Localpart);
    refuse("\u{265a}@example.com", JidError::Localpart);
    refuse("juliet@", JidError::DomainEmpty);
    refuse("/foobar", JidError::DomainEmpty);
}

/// H03.
#[test]
fn separators_out_of_place_are_refused() {
    refuse("", JidError::DomainEmpty);
    refuse("@", JidError::LocalpartEmpty);
    refuse("/", JidError::DomainEmpty);
    refuse(".", JidError::DomainEmpty);
    refuse("@host", JidError::LocalpartEmpty);
    refuse("a@", JidError::DomainEmpty);
    refuse("a@@b", JidError::Domain);
    refuse("a@b@c", JidError::Domain);
    refuse("/r", JidError::DomainEmpty);
    refuse("a@/r", JidError::DomainEmpty);
    refuse("a@b/", JidError::ResourceEmpty);
    refuse("\u{e4}@b/", JidError::ResourceEmpty);
    check("a@b//", "a@b//");
    check("a@b/c/d@e/", "a@b/c/d@e/");
}

/// H04, and the same for the other parts. Bounds count bytes after preparation.
#[test]
fn parts_are_bounded() {
    let (fits, over) = ("a".repeat(1023), "a".repeat(1024));
    check(&format!("{fits}@b/{fits}"), &format!("{fits}@b/{fits}"));
    refuse(&format!("{over}@b"), JidError::LocalpartTooLong);
    refuse(&format!("b/{over}"), JidError::ResourceTooLong);
    let umlauts = "\u{e4}".repeat(511);
    check(&format!("{umlauts}a@b/{umlauts}a"), &format!("{umlauts}a@b/{umlauts}a"));
    refuse(&format!("{umlauts}\u{e4}@b"), JidError::LocalpartTooLong);
    refuse(&format!("b/{umlauts}\u{e4}"), JidError::ResourceTooLong);
    // Too long as it comes, but not when prepared: three bytes become one.
    check(&format!("{}@b", "\u{ff41}".repeat(1023)), &format!("{fits}@b"));
    refuse(&format!("{}@b", "\u{ff41}".repeat(1024)), JidError::LocalpartTooLong);
    // Refused unread.
    refuse(&format!("{}@b", "\u{ff41}".repeat(100_000)), JidError::LocalpartTooLong);
    refuse(&format!("b/{}", "\u{ff41}".repeat(100_000)), JidError::ResourceTooLong);
    refuse(&"\u{e4}".repeat(100_000), JidError::DomainTooLong);
}

/// H05 and the rest of ASCII.
#[test]
fn localparts_of_ascii() {
    for b in 0u8..=0x7f {
        let c = char::from(b);
        let allowed = c.is_ascii_graphic() && !"\"&'/:<>@".contains(c);
        assert_eq!(prepare_localpart(&format!("a{c}b")).is_ok(), allowed, "{c:?}");
        // The long way agrees with the fast one.
        assert_eq!(prepare_localpart(&format!("\u{e4}{c}b")).is_ok(), allowed, "{c:?}");
    }
    check("!#$%*+,-.=?[\\]^_`{|}~@b", "!#$%*+,-.=?[\\]^_`{|}~@b");
    check("ADMIN@EXAMPLE.com/HoMe", "admin@example.com/HoMe");
}

/// H06 and F23: whatever looks like another name is that name or no name, as the table says.
#[test]
fn localparts_beyond_ascii() {
    check("\u{ff41}\u{ff24}\u{ff4d}\u{ff49}\u{ff4e}@b", "admin@b");
    for refused in [
        "\u{fb01}sh",    // ligature fi
        "\u{2170}",      // small Roman numeral one
        "\u{2163}",      // Roman numeral four
        "\u{212a}",      // Kelvin sign
        "\u{2460}",      // circled one
        "\u{1d552}",     // double-struck a
        "ad\u{ad}min",   // soft hyphen
        "ad\u{200b}min", // zero-width space
        "ad\u{200d}min", // joiner without its context
        "ad\u{feff}min", // byte order mark
        "admin ",        // trailing space
        "admin\u{a0}",   // no-break space
        "admin\u{3000}", // ideographic space
        "admin\u{202e}", // right-to-left override
        "a\u{ff20}b",    // full-width commercial at
        "a\u{ff0f}b",    // full-width solidus
        "a\u{ff06}b",    // full-width ampersand
        "a\u{2764}b",    // symbol
        "a\u{1f600}b",   // emoji
        "\u{1100}\u{1161}\u{ffff}",
        "a\u{0}b",
        "a\u{7f}b",
        "a\u{85}b",
        "\u{10ffff}",
    ] {
        assert_eq!(prepare_localpart(refused), Err(JidError::Localpart), "{refused:?}");
    }
    // Another letter, so another account: what PRECIS says of the dotless i, and of the long s by compatibility.
    check("adm\u{131}n@b", "adm\u{131}n@b");
    refuse("\u{17f}@b", JidError::Localpart);
    // NFC: decomposed is composed; the dotted capital I has no composed small form.
    check("a\u{308}@b", "\u{e4}@b");
    check("\u{c4}@b", "\u{e4}@b");
    check("\u{130}@b", "i\u{307}@b");
    // Contextual rule: middle dot between two l.
    check("l\u{b7}l@b", "l\u{b7}l@b");
    refuse("a\u{b7}b@b", JidError::Localpart);
}

/// H13.
#[test]
fn unassigned_code_points_are_refused() {
    refuse("a\u{378}@b", JidError::Localpart);
    refuse("b/a\u{378}", JidError::Resource);
    refuse("a\u{378}.example", JidError::Domain);
    refuse("a\u{e000}@b", JidError::Localpart);
    refuse("b/a\u{e000}", JidError::Resource);
}

/// H14: RFC 5893 §2.
#[test]
fn bidi_rule() {
    check("\u{5d0}\u{5d1}@b", "\u{5d0}\u{5d1}@b");
    refuse("\u{5d0}a@b", JidError::Localpart);
    refuse("a\u{5d0}@b", JidError::Localpart);
    check("\u{5d0}\u{5d1}.example", "\u{5d0}\u{5d1}.example");
    refuse("\u{5d0}a.example", JidError::Domain);
    refuse("1\u{5d0}.example", JidError::Domain);
    // A resourcepart has no direction of its own (RFC 8265 §4.2.2).
    check("b/\u{5d0}a", "b/\u{5d0}a");
}

/// H15: escapes (XEP-0106) are text.
#[test]
fn escapes_are_literal() {
    for text in [r"d\27artagnan@b", r"\5c20@b", r"\5c@b", r"\20@b", r"a\@b"] {
        check(text, text);
    }
    assert_ne!(Jid::parse(r"a\5Cb@b").unwrap(), Jid::parse(r"a\b@b").unwrap());
}

/// H07.
#[test]
fn domains_by_name() {
    check("EXAMPLE.com.", "example.com");
    check("a@EXAMPLE.com./R", "a@example.com/R");
    check("B\u{dc}cher.example", "b\u{fc}cher.example");
    check("bu\u{308}cher.example", "b\u{fc}cher.example");
    check("xn--bcher-kva.example", "b\u{fc}cher.example");
    check("XN--BCHER-KVA.example.", "b\u{fc}cher.example");
    check("xn--fuball-cta.example", "fu\u{df}ball.example");
    check("\u{ff45}xample.com", "example.com");
    check("example\u{3002}com", "example.com");
    check("example.com\u{3002}", "example.com");
    check("\u{212a}.example", "k.example");
    check("\u{5d0}.xn--4dbrk0ce", "\u{5d0}.\u{5d9}\u{5e9}\u{5e8}\u{5d0}\u{5dc}");
    for refused in [
        "xn--",
        "xn--a",
        "xn---",
        "xn--a-",
        "xn--example-.com", // decodes to plain ASCII (RUSTSEC-2024-0421)
        "xn--ls8h.la",      // a symbol: UTS 46 would take it, IDNA2008 does not
        "i\u{2764}.ws",
        "xn--99999999999999",
        "xn--bcher-kva8445foa", // decodes to more than BMP letters
        "xn--b\u{fc}cher-kva",
        "ab--cd.example", // reserved LDH label
        "-a.example",
        "a-.example",
        "-\u{e4}.example",
        "a..b",
        ".a",
        "a..",
        "a.\u{3002}",
        "\u{e4}..b",
        "a b",
        "a\u{e4} b",
        "a:5222",
        "a\u{ff0f}b",
        "a\u{2100}b",
        "a\u{ad}\u{301}\u{338}\u{2260}",
        "a\u{200d}b.example",
        "\u{301}a.example",
        "a\u{0}",
    ] {
        assert_eq!(prepare_domain(refused), Err(JidError::Domain), "{refused:?}");
    }
}

/// H08.
#[test]
fn domains_by_address_and_their_bounds() {
    check("127.0.0.1", "127.0.0.1");
    check("a@[::1]/r", "a@[::1]/r");
    check("[2001:DB8:0:0::1]", "[2001:db8::1]");
    check("[::FFFF:192.0.2.1]", "[::ffff:192.0.2.1]");
    for refused in ["[::1", "::1", "[]", "[::1]x", "[fe80::1%eth0]", "[127.0.0.1]", "[v1.a]", "a[::1]", "[[::1]]"] {
        refuse(refused, JidError::Domain);
    }
    refuse("a_b.example", JidError::Domain);
    refuse("a_\u{e4}.example", JidError::Domain);
    let label = "a".repeat(63);
    check(&format!("{label}.b"), &format!("{label}.b"));
    refuse(&format!("a{label}.b"), JidError::DomainTooLong);
    let name = [label.as_str(), &label, &label, &label[..61]].join(".");
    assert_eq!(name.len(), 253);
    check(&name, &name);
    check(&format!("{name}."), &name);
    refuse(&format!("{name}a"), JidError::DomainTooLong);
    // A U-label counts as its A-label.
    assert!(prepare_domain(&"\u{e4}".repeat(30)).is_ok());
    refuse(&format!("{}.b", "\u{e4}".repeat(80)), JidError::DomainTooLong);
}

/// H09.
#[test]
fn confusable_domains_are_their_own() {
    check("ex\u{430}mple.com", "ex\u{430}mple.com");
    assert_ne!(Jid::parse("ex\u{430}mple.com").unwrap(), "example.com");
}

#[test]
fn resources_are_opaque() {
    // NFC, not NFKC: the Kelvin sign is canonically a K, the ligature is itself.
    check("b/\u{212a}\u{fb01}", "b/K\u{fb01}");
    check("b/A\u{30a}", "b/\u{c5}");
    check("b/a\u{a0}b\u{3000}", "b/a b ");
    check("b/trailing ", "b/trailing ");
    check("b/<&'\">", "b/<&'\">");
    check("b/\u{1f600}", "b/\u{1f600}");
    for refused in
        ["b/a\tb", "b/a\nb", "b/\u{7f}", "b/\u{0}", "b/ ", "b/\u{a0}a", "b/\u{e4}\u{1}", "b/a\u{200b}", "b/a\u{ad}", "b/\u{fffe}"]
    {
        refuse(refused, JidError::Resource);
    }
}

#[test]
fn bare_and_full() {
    let full = FullJid::parse("Juliet@Capulet.example/Balcony").unwrap();
    assert_eq!((full.local(), full.domain(), full.resource()), (Some("juliet"), "capulet.example", "Balcony"));
    assert_eq!(full.bare(), BareJid::parse("juliet@capulet.example").unwrap());
    assert_eq!(full.bare().with_resource("Balcony").unwrap(), full);
    assert_eq!(full.bare().to_domain(), "capulet.example");
    assert!(full.bare().to_domain().is_domain() && !full.bare().is_domain());
    assert_eq!(
        format!("{full} {full:?} {:>24}", full.bare()),
        "juliet@capulet.example/Balcony juliet@capulet.example/Balcony   juliet@capulet.example"
    );
    assert_eq!(full.as_jid().to_full(), Some(full.clone()));
    assert_eq!(full.bare().to_jid().to_full(), None);
    assert_eq!(Jid::from(full.bare()), full.bare());
    assert_eq!(BareJid::parse("a@b/c"), Err(JidError::ResourceUnexpected));
    assert_eq!(FullJid::parse("a@b"), Err(JidError::ResourceMissing));
    assert_eq!(BareJid::new(Some("a"), "b/c"), Err(JidError::Domain));
    assert_eq!(BareJid::new(Some("a@b"), "c"), Err(JidError::Localpart));
    assert_eq!(BareJid::new(Some("A"), "B.").unwrap(), "a@b");
    assert_eq!(BareJid::from_domain("a@b"), Err(JidError::Domain));
}

/// A bare JID that shares a longer text is the same key as one that was parsed.
#[test]
fn shared_text_is_the_same_key() {
    use std::collections::{BTreeMap, HashMap};
    let parsed = BareJid::parse("juliet@capulet.example").unwrap();
    let shared = FullJid::parse("juliet@capulet.example/balcony").unwrap().bare();
    let map: HashMap<BareJid, u8> = [(shared.clone(), 1)].into();
    assert_eq!((map.get(&parsed), map.get("juliet@capulet.example")), (Some(&1), Some(&1)));
    let map: BTreeMap<BareJid, u8> = [(shared, 1)].into();
    assert_eq!(map.get(&parsed), Some(&1));
    assert_eq!(std::mem::size_of::<BareJid>(), 24);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Any text: no panic; what parses is canonical.
    #[test]
    fn any_text(text in "\\PC{0,24}") {
        if let Ok(jid) = Jid::parse(&text) {
            check_canonical(&jid);
        }
    }

    /// More likely to parse than any text: letters of several scripts, marks, dots, separators.
    #[test]
    fn likely_text(
        local in "[a-zA-Z\u{c0}-\u{17f}\u{370}-\u{3ff}\u{300}-\u{345}\u{5d0}-\u{5ea}\u{ff01}-\u{ff5e}\u{1e00}-\u{1fff}]{1,6}",
        domain in "[a-zA-Z0-9.\u{c0}-\u{17f}\u{370}-\u{3ff}\u{300}-\u{345}\u{3002}\u{ff0e}\u{ff21}-\u{ff5a}-]{1,9}",
        resource in "[a-z \u{a0}\u{c0}-\u{17f}\u{300}-\u{345}\u{1e00}-\u{1fff}\u{2000}-\u{20ff}\u{ac00}-\u{d7a3}\u{1100}-\u{11ff}]{1,6}",
    ) {
        for text in [format!("{local}@example"), domain.clone(), format!("{local}@{domain}/{resource}"), format!("a/{resource}")] {
            if let Ok(jid) = Jid::parse(&text) {
                check_canonical(&jid);
            }
        }
    }

    /// A-labels that decode to something are canonical as U-labels; both spellings are one domain.
    #[test]
    fn a_labels(label in "xn--[a-z0-9-]{1,12}") {
        if let Ok(jid) = Jid::parse(&label) {
            check_canonical(&jid);
            prop_assert!(!jid.domain().contains("xn--"));
        }
    }

    /// The fast path says what the long way says.
    #[test]
    fn ascii_fast_path_agrees(text in "[ -~]{0,12}") {
        let parts = Parts::split(&text);
        let by_parts = (|| {
            let local = parts.local.map(prepare_localpart).transpose()?;
            let domain = prepare_domain(parts.domain)?;
            let resource = parts.resource.map(prepare_resource).transpose()?;
            Ok(Jid::assemble(local.as_deref(), &domain, resource.as_deref()))
        })();
        prop_assert_eq!(Jid::parse(&text), by_parts);
    }
}
