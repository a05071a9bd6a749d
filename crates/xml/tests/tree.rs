//! Building, reading and writing small trees by hand.

use types::ns;
use xml::{Element, Event, Scope, Tokens, Writer, escape_attr, escape_text};

#[test]
fn a_tree_is_built_and_read() {
    let query = Element::new("query", "urn:q")
        .with_attr("a", "1")
        .with_attr("a", "2")
        .with_attr("xml:lang", "en")
        .with_attr_opt("b", None::<&str>)
        .with_attr_opt("c", Some("<'\">"))
        .with_text("x ")
        .with_text("& y")
        .with_child(Element::new("item", "urn:q").with_text(""))
        .with_children(["i", "j"].map(|name| Element::new(name, "urn:other")))
        .with_text(" z");
    let text = "<query xmlns='urn:q' a='2' xml:lang='en' c='&lt;&apos;&quot;&gt;'>x &amp; y<item/><i xmlns='urn:other'/>\
                <j xmlns='urn:other'/> z</query>";
    assert_eq!(query.to_string(), text);
    assert_eq!(Element::parse(text.as_bytes(), ns::CLIENT), Ok(query.clone()));
    assert!(query.is("query", "urn:q") && !query.is("query", "urn:other") && !query.is("item", "urn:q"));
    assert_eq!((query.attr("a"), query.attr("xml:lang"), query.attr("lang")), (Some("2"), Some("en"), None));
    assert_eq!(query.attr_ns("lang", ns::XML), Some("en"));
    assert_eq!(query.text(), "x & y z");
    assert_eq!(query.children().count(), 3);
    assert!(query.child("i", "urn:other").is_some() && query.child("i", "urn:q").is_none());
    // Behind a start tag of the same namespace none is declared.
    assert!(String::from_utf8(query.to_bytes("urn:q").to_vec()).unwrap().starts_with("<query a="));
}

#[test]
fn a_writer_writes() {
    let mut out = Vec::new();
    Writer::new(&mut out)
        .open("stream:features")
        .open("mechanisms")
        .attr("xmlns", ns::SASL)
        .attr_opt("x", None)
        .open("mechanism")
        .text("A & B")
        .close()
        .raw(b"<m/>")
        .close()
        .open("empty")
        .attr_opt("y", Some("'"))
        .close()
        .close();
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "<stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>A &amp; B</mechanism><m/></mechanisms>\
         <empty y='&apos;'/></stream:features>"
    );
}

#[test]
fn what_is_escaped() {
    let text = |s: &str| {
        let mut out = Vec::new();
        escape_text(s, &mut out);
        String::from_utf8(out).unwrap()
    };
    let attr = |s: &str| {
        let mut out = Vec::new();
        escape_attr(s, &mut out);
        String::from_utf8(out).unwrap()
    };
    assert_eq!(text("a]]>b<&>\"'\t\n\r"), "a]]&gt;b&lt;&amp;&gt;\"'\t\n&#13;");
    assert_eq!(attr("<&>\"'\t\n\r"), "&lt;&amp;&gt;&quot;&apos;&#9;&#10;&#13;");
    // What no parser may read is not written.
    assert_eq!(text("a\u{0}b\u{fffe}c\u{ffff}\u{ffef}\u{fffd}\u{1f}"), "abc\u{ffef}\u{fffd}");
    assert_eq!(text("é漢😀"), "é漢😀");
}

/// The tokenizer tells where a fragment stands and whether it can be copied.
#[test]
fn fragments_are_watched() {
    let scope = Scope::of_stream(ns::CLIENT).with("o", "urn:outside");
    for (fragment, alike) in [
        ("<a>x</a>", true),
        ("<a xmlns='u' b='&amp;'><c xml:lang='en'/></a>", true),
        ("<p:a xmlns:p='u'/>", true),
        ("<o:a/>", false),
        ("<a o:b=''/>", false),
        ("<a xmlns:o='urn:inside' o:b=''/>", true),
        ("<a xmlns='jabber:client'/>", true),
        ("<a xmlns=''/>", true),
        ("<p:a xmlns:p='jabber:client'/>", false),
        ("<p:a xmlns:p='jabber:server'/>", false),
        ("<stream:a/>", false),
        ("<a xmlns='http://etherx.jabber.org/streams'/>", false),
        ("<a xmlns:xml='http://www.w3.org/XML/1998/namespace'/>", false),
        ("<a>&#65;</a>", false),
        ("<a>\r</a>", false),
        ("<a><![CDATA[]]></a>", false),
        ("<a b='\t'/>", false),
        ("<a b='>'/>", false),
        ("<a b='&#65;'/>", false),
        ("<a>></a>", true),
    ] {
        let text = format!("<m> {fragment}<z/></m>");
        let mut tokens = Tokens::new(text.as_bytes(), &scope).unwrap();
        assert_eq!(tokens.next(), Ok(Event::Start));
        assert_eq!(tokens.next(), Ok(Event::Text(" ".into())));
        tokens.watch(ns::CLIENT);
        assert_eq!(tokens.next(), Ok(Event::Start));
        assert_eq!(tokens.start_position(), 4);
        while tokens.next() != Ok(Event::End) || tokens.depth() > 2 {}
        assert_eq!(&text[4..tokens.position()], fragment);
        assert_eq!(tokens.alike(), alike, "{fragment}");
        assert_eq!(tokens.scope_outside(), scope);
    }
}
