//! RELIABILITY §4c groups B, C, D as far as they are the tokenizer's; the witness sees the same.
#![allow(clippy::disallowed_methods, reason = "it measures time")]

mod support;

use XmlError::{NotWellFormed, PolicyViolation, RestrictedXml};
use support::{sorted, witness};
use types::ns;
use xml::{Element, XmlError};

/// What `inside`, put into `<r>`, is read as: written canonically, or an error.
fn check(inside: &str, want: Result<&str, XmlError>) {
    let text = format!("<r>{inside}</r>");
    let got = Element::parse(text.as_bytes(), ns::CLIENT);
    let seen = witness(text.as_bytes(), ns::CLIENT);
    match want {
        Ok(want) => {
            let element = got.unwrap_or_else(|e| panic!("{inside}: {e}"));
            let want = if want.is_empty() { "<r/>".to_owned() } else { format!("<r>{want}</r>") };
            assert_eq!(String::from_utf8_lossy(&element.to_bytes(ns::CLIENT)), want, "{inside}");
            assert_eq!(seen, Some(sorted(element)), "{inside}");
        }
        Err(error) => {
            assert_eq!(got, Err(error), "{inside}");
            // rxml lets through what Namespaces in XML §3 and XML 1.0 §3.1 forbid: the namespace of `xmlns` itself, and
            // declaring a prefix twice.
            let lax = inside.contains("2000/xmlns") || inside.matches(" xmlns='u'").count() + inside.matches(":p='u'").count() > 1;
            if error != PolicyViolation && !lax {
                assert_eq!(seen, None, "{inside}");
            }
        }
    }
}

#[test]
fn tags_and_attributes() {
    for (inside, want) in [
        ("<a></b>", Err(NotWellFormed)),          // B02
        ("<a b='1' b='2'/>", Err(NotWellFormed)), // B03
        ("<a b='1' B='2'/>", Ok("<a b='1' B='2'/>")),
        ("<a b=1/>", Err(NotWellFormed)), // B08
        ("<a b/>", Err(NotWellFormed)),
        ("<a b=/>", Err(NotWellFormed)),
        ("<a ='1'/>", Err(NotWellFormed)),
        ("<a b='<'/>", Err(NotWellFormed)),
        ("<a b='1'c='2'/>", Err(NotWellFormed)),
        ("<a b = \"'\" />", Ok("<a b='&apos;'/>")),
        ("<a b='1'/ >", Err(NotWellFormed)),
        ("<a / b='1'>", Err(NotWellFormed)),
        ("< a/>", Err(NotWellFormed)),
        ("</a>", Err(NotWellFormed)),
        ("<a></a b='1'>", Err(NotWellFormed)),
        ("<a></a\n>", Ok("<a/>")),
        ("<a b='x\n\ty\r\nz\rw'/>", Ok("<a b='x  y z w'/>")), // B23
        ("<a b='&#10;&#9;&#13; '/>", Ok("<a b='&#10;&#9;&#13; '/>")),
        ("<a b='>'/>", Ok("<a b='&gt;'/>")),
        ("<a:b:c/>", Err(NotWellFormed)), // B25
        ("<1a/>", Err(NotWellFormed)),
        ("<-a/>", Err(NotWellFormed)),
        ("<a 1b=''/>", Err(NotWellFormed)),
        ("<a:/>", Err(NotWellFormed)),
        ("<:a/>", Err(NotWellFormed)),
        ("<a :b=''/>", Err(NotWellFormed)),
        ("<a b:=''/>", Err(NotWellFormed)),
        ("<a\u{a0}b=''/>", Err(NotWellFormed)),
        ("<jåN/>", Ok("<jåN/>")), // C14
        ("<日本 語='1'/>", Ok("<日本 語='1'/>")),
    ] {
        check(inside, want);
    }
}

#[test]
fn namespaces() {
    for (inside, want) in [
        ("<a xmlns:p='u' xmlns:q='u' p:b='1' q:b='2'/>", Err(NotWellFormed)), // B04
        ("<a xmlns:p='u' xmlns:q='v' p:b='1' q:b='2'/>", Ok("<a xmlns:ns0='u' ns0:b='1' xmlns:ns1='v' ns1:b='2'/>")),
        ("<a xmlns='u' xmlns:p='u' p:b='1' b='2'/>", Ok("<a xmlns='u' xmlns:ns0='u' ns0:b='1' b='2'/>")),
        ("<a xmlns:p='u' p:b='1' p:c='2'/>", Ok("<a xmlns:ns0='u' ns0:b='1' ns0:c='2'/>")),
        ("<p:a/>", Err(NotWellFormed)), // B05
        ("<a p:b='1'/>", Err(NotWellFormed)),
        ("<a xmlns:p='u'/><p:b/>", Err(NotWellFormed)),
        ("<a xmlns:xml='urn:x'/>", Err(NotWellFormed)), // B06
        ("<a xmlns:xmlns='urn:x'/>", Err(NotWellFormed)),
        ("<a xmlns:xmlns='http://www.w3.org/2000/xmlns/'/>", Err(NotWellFormed)),
        ("<a xmlns:p='http://www.w3.org/XML/1998/namespace'/>", Err(NotWellFormed)),
        ("<a xmlns='http://www.w3.org/XML/1998/namespace'/>", Err(NotWellFormed)),
        ("<a xmlns:p='http://www.w3.org/2000/xmlns/'/>", Err(NotWellFormed)),
        ("<a xmlns='http://www.w3.org/2000/xmlns/'/>", Err(NotWellFormed)),
        ("<xmlns:a/>", Err(NotWellFormed)),
        ("<a xmlns:p=''/>", Err(NotWellFormed)), // B07
        ("<a xmlns='u' xmlns='u'/>", Err(NotWellFormed)),
        ("<a xmlns:p='u' xmlns:p='u'/>", Err(NotWellFormed)),
        ("<a xmlns=''/>", Ok("<a xmlns=''/>")),
        ("<a xmlns='u'><b xmlns=''><c/></b><d/></a>", Ok("<a xmlns='u'><b xmlns=''><c/></b><d/></a>")),
        (
            "<p:a xmlns:p='u'><p:b><c xmlns:p='v'><p:d/></c></p:b></p:a>",
            Ok("<a xmlns='u'><b><c xmlns='jabber:client'><d xmlns='v'/></c></b></a>"),
        ),
        ("<a xml:lang='en' xml:foo='1'/>", Ok("<a xml:lang='en' xml:foo='1'/>")),
        ("<xml:a><b/></xml:a>", Ok("<xml:a><b/></xml:a>")),
        ("<a xmlns='u'><xml:a xmlns='v'><b/></xml:a></a>", Ok("<a xmlns='u'><xml:a><b xmlns='v'/></xml:a></a>")),
        ("<a xmlns='u&apos;&amp;'/>", Ok("<a xmlns='u&apos;&amp;'/>")),
        ("<a xmlns='u\u{c}'/>", Err(NotWellFormed)), // B26
        ("<a xmlns='u&#0;'/>", Err(NotWellFormed)),
        ("<a xmlns='u&#x1;v'/>", Err(NotWellFormed)),
    ] {
        check(inside, want);
    }
    // The one declaration of `xml` that is legal changes nothing.
    let element = Element::parse(b"<a xmlns:xml='http://www.w3.org/XML/1998/namespace' xml:lang='en'/>", ns::CLIENT);
    assert_eq!(element.unwrap().attr("xml:lang"), Some("en"));
}

#[test]
fn text_and_references() {
    for (inside, want) in [
        ("]]>", Err(NotWellFormed)), // B09
        ("]]&gt;", Ok("]]&gt;")),
        ("> \" '", Ok("&gt; \" '")),
        ("<!-- c -->", Err(RestrictedXml)), // B10
        ("<?x y?>", Err(RestrictedXml)),    // B11
        ("&foo;", Err(NotWellFormed)),      // B17
        ("& b", Err(NotWellFormed)),
        ("&amp", Err(NotWellFormed)),
        ("&;", Err(NotWellFormed)),
        ("&AMP;", Err(NotWellFormed)),
        ("&amp;&lt;&gt;&quot;&apos;", Ok("&amp;&lt;&gt;\"'")),
        ("&#0;", Err(NotWellFormed)), // B18
        ("&#x1;", Err(NotWellFormed)),
        ("&#xD800;", Err(NotWellFormed)),
        ("&#xFFFE;", Err(NotWellFormed)),
        ("&#x110000;", Err(NotWellFormed)),
        ("&#99999999999999999999;", Err(NotWellFormed)), // B19
        ("&#;", Err(NotWellFormed)),
        ("&#x;", Err(NotWellFormed)),
        ("&#+65;", Err(NotWellFormed)),
        ("&#X41;", Err(NotWellFormed)),
        ("&#65a;", Err(NotWellFormed)),
        ("&#65;&#x1f600;&#x0000041;", Ok("A😀A")),
        ("<![CDATA[a<b&amp;]]]]><![CDATA[>]]>", Ok("a&lt;b&amp;amp;]]&gt;")), // B20
        ("<![cdata[x]]>", Err(NotWellFormed)),
        ("<![CDATA[]]>", Ok("")),
        ("a<![CDATA[]]>b<![CDATA[]]>", Ok("ab")),
        ("<![CDATA[x]]", Err(NotWellFormed)),
        ("<!-- c", Err(RestrictedXml)),
        ("<!x>", Err(NotWellFormed)),
        ("<?xmlish y?>", Err(RestrictedXml)),
        ("&a<b/>;", Err(NotWellFormed)),
        ("&a&amp;", Err(NotWellFormed)),
        ("<?xml version='1.0'?>", Err(NotWellFormed)), // B21
        ("a\r\nb\rc\n\rd", Ok("a\nb\nc\n\nd")),        // B24
        ("<![CDATA[a\r\nb\rc]]>", Ok("a\nb\nc")),
        ("&#13;&#xA;", Ok("&#13;\n")),
        ("\u{1FFFE}\u{2028}\u{2029}\u{85}\u{7f}", Ok("\u{1FFFE}\u{2028}\u{2029}\u{85}\u{7f}")), // C11, C17
        ("\u{202e}\u{200b}e\u{301}\u{301}", Ok("\u{202e}\u{200b}e\u{301}\u{301}")),             // C12
        ("\u{fffe}", Err(NotWellFormed)),                                                       // C10
        ("\u{8}", Err(NotWellFormed)),                                                          // C09
    ] {
        check(inside, want);
    }
}

/// B12 to B16: nothing of a document type is ever read.
#[test]
fn document_types() {
    for doctype in [
        "<!DOCTYPE r>",
        "<!DOCTYPE r [<!ENTITY a 'b'>]>",
        "<!DOCTYPE r [<!ENTITY % p SYSTEM 'file:///etc/passwd'> %p;]>",
        "<!DOCTYPE r SYSTEM 'http://169.254.169.254/'>",
    ] {
        assert_eq!(Element::parse(format!("<r>{doctype}</r>").as_bytes(), ns::CLIENT), Err(RestrictedXml));
        assert!(Element::parse(format!("{doctype}<r/>").as_bytes(), ns::CLIENT).is_err());
    }
}

/// C04 to C08.
#[test]
fn encodings() {
    for bytes in [&b"\xC0\xAF"[..], b"\xE0\x80\xAF", b"\xF0\x80\x80\xAF", b"\xED\xA0\x80", b"\xF4\x90\x80\x80", b"\xFF", b"\xE2\x82"] {
        for (before, behind) in [(&b"<r>"[..], &b"</r>"[..]), (b"<r a='", b"'/>"), (b"<r", b"/>"), (b"<r>", b"<a/></r>")] {
            assert_eq!(Element::parse(&[before, bytes, behind].concat(), ns::CLIENT), Err(NotWellFormed));
        }
    }
    assert_eq!(Element::parse("\u{feff}<r/>".as_bytes(), ns::CLIENT), Err(NotWellFormed));
}

#[test]
fn one_element_and_nothing_else() {
    for text in ["", " ", "x", "<r/> ", " <r/>", "<r/><r/>", "<r/>x", "<r>", "<r", "<", "<r></r", "<r/>&amp;", "<r/><![CDATA[x]]>"] {
        assert_eq!(Element::parse(text.as_bytes(), ns::CLIENT), Err(NotWellFormed), "{text}");
    }
}

#[test]
fn limits() {
    let parse = |text: String| Element::parse(text.as_bytes(), ns::CLIENT).map(|_| ());
    let nested = |n: usize| format!("{}{}", "<a>".repeat(n), "</a>".repeat(n));
    assert_eq!(parse(nested(64)), Ok(())); // D05
    assert_eq!(parse(nested(65)), Err(PolicyViolation));
    assert_eq!(parse(nested(100_000)), Err(PolicyViolation)); // D06
    let attributes = |n: usize| format!("<a {}/>", (0..n).map(|i| format!("b{i}='' ")).collect::<String>());
    assert_eq!(parse(attributes(64)), Ok(())); // D07
    assert_eq!(parse(attributes(65)), Err(PolicyViolation));
    let value = |n: usize| format!("<a b='{}'/>", "x".repeat(n));
    assert_eq!(parse(value(16 * 1024)), Ok(())); // D08
    assert_eq!(parse(value(16 * 1024 + 1)), Err(PolicyViolation));
    let name = |n: usize| format!("<{}/>", "n".repeat(n));
    assert_eq!(parse(name(256)), Ok(())); // C15
    assert_eq!(parse(name(257)), Err(PolicyViolation));
    // D10: one declaration is there already, the default namespace.
    let declarations = |n: usize| {
        let tags = |i: usize| (0..60).map(|j| format!("xmlns:p{i}x{j}='u' ")).collect::<String>();
        let depth = n / 60;
        let open: String = (0..depth).map(|i| format!("<a {}>", tags(i))).collect();
        format!("{open}{}", "</a>".repeat(depth))
    };
    assert_eq!(parse(declarations(240)), Ok(()));
    assert_eq!(parse(declarations(300)), Err(PolicyViolation));
    // Siblings do not add up.
    assert_eq!(parse(format!("<r>{}</r>", declarations(240).repeat(20))), Ok(()));
}

/// D09, D11 and their like: cost grows with bytes, not with their square.
#[test]
fn no_quadratic_cost() {
    let many = 60_000;
    let flood: String =
        (0..1_000).map(|i| format!("<a {}/>", (0..60).map(|j| format!("x{i}{j}=''")).collect::<Vec<_>>().join(" "))).collect();
    let deep = format!("{}{}", "<a>".repeat(63), "</a>".repeat(63));
    for (what, text) in [
        ("children", "<a/>".repeat(many)),
        ("references", "&amp;".repeat(many)),
        ("character references", "&#65;".repeat(many)),
        ("cdata", "<![CDATA[x]]>".repeat(many)),
        // One that is empty is no token, and must not take a frame of the stack each.
        ("empty cdata", "<![CDATA[]]>".repeat(many)),
        ("brackets", "]".repeat(many) + "&gt;"),
        ("bytes 0xEF", "\u{ffef}".repeat(many)),
        ("carriage returns", "\r".repeat(many)),
        ("attributes", flood),
        ("depth", deep.repeat(many / 400)),
    ] {
        let text = format!("<r>{text}</r>");
        let begin = std::time::Instant::now();
        let element = Element::parse(text.as_bytes(), ns::CLIENT).unwrap_or_else(|e| panic!("{what}: {e}"));
        let bytes = element.to_bytes(ns::CLIENT);
        assert!(!bytes.is_empty());
        // Quadratic work on 10^5 bytes takes minutes in a debug build; this takes milliseconds.
        assert!(begin.elapsed().as_secs() < 20, "{what}: {:?}", begin.elapsed());
    }
}
