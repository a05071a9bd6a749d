//! Stanzas are read, kept and written.

use bytes::{Bytes, BytesMut};
use stanza::{Child, Condition, ErrorType, IqType, Kind, MessageType, Parsed, PresenceType, Stanza, StanzaError};
use types::{Jid, ns};
use xml::{Element, Header, XmlError};

fn parse_over(text: &str, stream_ns: &str) -> Result<Parsed, XmlError> {
    Stanza::parse(Bytes::copy_from_slice(text.as_bytes()), stream_ns)
}

fn parse(text: &str) -> Stanza {
    match parse_over(text, ns::CLIENT) {
        Ok(Parsed::Stanza(stanza)) => stanza,
        other => panic!("{text}: {other:?}"),
    }
}

/// What is written for what was read; it must come out the same when it is read again.
fn check(input: &str, stream_ns: &str, want: &str) {
    let Ok(Parsed::Stanza(stanza)) = parse_over(input, stream_ns) else {
        panic!("{input}");
    };
    let bytes = stanza.to_bytes();
    assert_eq!(std::str::from_utf8(&bytes).unwrap(), want, "{input}");
    assert_eq!(Stanza::decode(bytes).unwrap(), stanza, "{input}");
}

#[test]
fn a_plain_child_passes_verbatim() {
    for child in [
        "<body>hi</body>",
        "<body>a &amp; b &lt;c&gt; &quot;d&quot; &apos;e&apos; \n\t f</body>",
        "<body  xml:lang = \"de\" >Grüße 👋</body >",
        "<active xmlns='http://jabber.org/protocol/chatstates'/>",
        "<x xmlns=\"urn:x\" a='&amp;\"'><y/><z xmlns=''>t</z></x>",
        "<p:x xmlns:p='urn:x' p:a='1'><p:y/></p:x>",
        "<body>a > b</body>",
    ] {
        let text = format!("<message>{child}</message>");
        check(&text, ns::CLIENT, &text);
        check(&text, ns::SERVER, &text);
        assert_eq!(parse(&text).children[0].bytes, child);
    }
}

#[test]
fn another_child_is_written_anew() {
    for (input, want) in [
        ("<body><![CDATA[a<b]]></body>", "<body>a&lt;b</body>"),
        ("<body>a\r\nb\rc</body>", "<body>a\nb\nc</body>"),
        ("<body>&#65;&#x1F600;</body>", "<body>A😀</body>"),
        ("<body>&#13;&#10;</body>", "<body>&#13;\n</body>"),
        ("<x xmlns='urn:x' a='1\n2'/>", "<x xmlns='urn:x' a='1 2'/>"),
        ("<x xmlns='urn:x' a='1&#10;2'/>", "<x xmlns='urn:x' a='1&#10;2'/>"),
        ("<x xmlns='urn:x' a='>'/>", "<x xmlns='urn:x' a='&gt;'/>"),
        ("<stream:features/>", "<features xmlns='http://etherx.jabber.org/streams'/>"),
        ("<x xmlns='urn:x' xmlns:stream='http://etherx.jabber.org/streams'/>", "<x xmlns='urn:x'/>"),
    ] {
        check(&format!("<message>{input}</message>"), ns::CLIENT, &format!("<message>{want}</message>"));
    }
}

#[test]
fn a_child_depends_on_nothing_around_it() {
    check(
        "<c:message xmlns:c='jabber:client' xmlns='urn:d' xmlns:e='urn:e'><x/><c:body>b</c:body><e:y e:a='1'/></c:message>",
        ns::CLIENT,
        "<message><x xmlns='urn:d'/><body>b</body><y xmlns='urn:e' xmlns:ns0='urn:e' ns0:a='1'/></message>",
    );
    check("<message xmlns='jabber:client'><body>b</body></message>", ns::CLIENT, "<message><body>b</body></message>");
    check(
        "<message><body xmlns='jabber:server'>b</body><f xmlns='urn:f'><message xmlns='jabber:server'/></f></message>",
        ns::SERVER,
        "<message><body>b</body><f xmlns='urn:f'><message xmlns='jabber:server'/></f></message>",
    );
    check("<message><body xmlns='jabber:server'>b</body></message>", ns::CLIENT, "<message><body xmlns='jabber:server'>b</body></message>");
    check("<message> <![CDATA[]]><a xmlns='u'/> text <b/></message>", ns::CLIENT, "<message><a xmlns='u'/><b/></message>");
}

#[test]
fn the_head() {
    let stanza = parse(
        "<message type=\"chat\" id='&lt;1&apos;' from='Romeo@Example.com/&quot;' xml:lang='en' to='juliet@example.com' \
         xmlns:f='urn:f' f:a='1' b='2'><body>hi</body></message>",
    );
    assert_eq!(stanza.kind, Kind::Message);
    assert_eq!(stanza.message_type(), MessageType::Chat);
    assert_eq!(stanza.id.as_deref(), Some("<1'"));
    assert_eq!(stanza.from, Some(Jid::parse("romeo@example.com/\"").unwrap()));
    assert_eq!(stanza.lang.as_deref(), Some("en"));
    assert!(stanza.has_body());
    assert_eq!(stanza.child("body", ns::CLIENT).unwrap().text(), "hi");
    let want = "<message to='juliet@example.com' from='romeo@example.com/&quot;' id='&lt;1&apos;' type='chat' xml:lang='en' \
                xmlns:ns0='urn:f' ns0:a='1' b='2'><body>hi</body></message>";
    assert_eq!(stanza.to_bytes(), want);
    assert_eq!(Stanza::decode(stanza.to_bytes()).unwrap(), stanza);
    let mut out = BytesMut::new();
    stanza.write_with_ns(&mut out);
    assert_eq!(&out[..], want.replacen("<message", "<message xmlns='jabber:client'", 1).as_bytes());
}

#[test]
fn what_is_no_stanza() {
    for (input, stream_ns, want) in [
        ("<message xmlns='jabber:server'/>", ns::CLIENT, XmlError::UnsupportedStanzaType),
        ("<iq xmlns='jabber:client'/>", ns::SERVER, XmlError::UnsupportedStanzaType),
        ("<message><body></message>", ns::CLIENT, XmlError::NotWellFormed),
        ("<message/><message/>", ns::CLIENT, XmlError::NotWellFormed),
        ("<message><!-- x --></message>", ns::CLIENT, XmlError::RestrictedXml),
        ("<message><p:x/></message>", ns::CLIENT, XmlError::NotWellFormed),
    ] {
        assert_eq!(parse_over(input, stream_ns), Err(want), "{input}");
    }
    for (input, name, of) in [
        ("<r xmlns='urn:xmpp:sm:3'/>", "r", ns::SM),
        ("<stream:error><not-authorized xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>", "error", ns::STREAM),
        ("<message xmlns='urn:m'/>", "message", "urn:m"),
        ("<foo/>", "foo", ns::CLIENT),
    ] {
        match parse_over(input, ns::CLIENT) {
            Ok(Parsed::Other(element)) => assert!(element.is(name, of), "{element}"),
            other => panic!("{input}: {other:?}"),
        }
    }
}

#[test]
fn an_address_that_is_none() {
    let Ok(Parsed::Malformed(bad)) = parse_over("<iq id='7' type='get' to='@x' from='a@b'><q xmlns='u'/></iq>", ns::SERVER) else {
        panic!();
    };
    assert_eq!(bad.to.as_deref(), Some("@x"));
    assert_eq!(bad.from, None);
    assert_eq!(
        bad.reply().unwrap().to_bytes(),
        "<iq to='a@b' id='7' type='error'><error type='modify'><jid-malformed \
         xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>"
    );
    assert!(matches!(parse_over("<iq type='result' to='@x'/>", ns::CLIENT), Ok(Parsed::Malformed(bad)) if bad.reply().is_none()));
}

#[test]
fn types_of_each_kind() {
    assert_eq!(parse("<message/>").message_type(), MessageType::Normal);
    assert_eq!(parse("<message type='foo'/>").message_type(), MessageType::Normal);
    assert_eq!(parse("<message type='foo'/>").to_bytes(), "<message type='foo'/>");
    assert_eq!(parse("<presence/>").presence_type(), None);
    assert_eq!(parse("<presence type='probe'/>").presence_type(), Some(PresenceType::Probe));
    assert_eq!(parse("<presence type='available'/>").presence_type(), Some(PresenceType::Unknown));
    assert_eq!(parse("<iq/>").iq_type(), None);
    assert_eq!(parse("<iq type='chat'/>").iq_type(), None);
    assert_eq!(parse("<iq type='set'/>").iq_type(), Some(IqType::Set));
}

#[test]
fn built_stanzas() {
    let to = Jid::parse("a@b/c").unwrap();
    let message = Stanza::message(to.clone(), MessageType::Chat).with_id("1").with_body("x < y");
    assert_eq!(message.to_bytes(), "<message to='a@b/c' id='1' type='chat'><body>x &lt; y</body></message>");
    let query = Element::new("query", ns::ROSTER).with_attr("ver", "");
    let iq = Stanza::iq(IqType::Get, "2").with_from(to.clone()).with_child_element(&query);
    assert_eq!(iq.to_bytes(), "<iq from='a@b/c' id='2' type='get'><query xmlns='jabber:iq:roster' ver=''/></iq>");
    assert_eq!(iq.result(None).to_bytes(), "<iq to='a@b/c' id='2' type='result'/>");
    assert_eq!(iq.payload().unwrap().element().unwrap(), query);
    let mut presence = Stanza::presence(Some(PresenceType::Unavailable)).with_to(to).with_child(Child::from(&query));
    presence.retain_children(|c| !c.is("query", ns::ROSTER));
    assert_eq!(presence.to_bytes(), "<presence to='a@b/c' type='unavailable'/>");
    assert_eq!(message.encoded_len_hint(), message.to_bytes().len());
}

#[test]
fn errors_are_answered_only_once() {
    let error = Condition::ServiceUnavailable.with_text("no");
    for (input, answered) in [
        ("<message from='a@b'/>", true),
        ("<message type='error'/>", false),
        ("<message type='headline'/>", true),
        ("<presence/>", true),
        ("<presence type='subscribe'/>", true),
        ("<presence type='unavailable'/>", false),
        ("<presence type='subscribed'/>", false),
        ("<presence type='error'/>", false),
        ("<presence type='foo'/>", true),
        ("<iq type='get' id='1'/>", true),
        ("<iq/>", true),
        ("<iq type='result' id='1'/>", false),
        ("<iq type='error' id='1'/>", false),
    ] {
        let stanza = parse(input);
        let reply = error.reply_to(&stanza);
        assert_eq!(reply.is_some(), answered, "{input}");
        if let Some(reply) = reply {
            assert_eq!(reply.to, stanza.from);
            assert_eq!(StanzaError::from_stanza(&reply), Some(error.clone()), "{input}");
            assert!(error.reply_to(&reply).is_none());
        }
    }
}

#[test]
fn errors_read_and_written() {
    for &condition in Condition::ALL {
        let error = StanzaError::new(condition).with_app(Element::new("x", "urn:x"));
        assert_eq!(StanzaError::from_element(&error.to_element()), error);
    }
    let gone = StanzaError::new(Condition::Gone).with_address("xmpp:x@y").with_type(ErrorType::Modify);
    assert_eq!(
        gone.to_element().to_string(),
        "<error xmlns='jabber:client' type='modify'><gone xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'>xmpp:x@y</gone></error>"
    );
    assert_eq!(StanzaError::from_element(&gone.to_element()), gone);
    let stanza = parse("<iq type='error' id='1'><error type='foo'><new xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>");
    assert_eq!(StanzaError::from_stanza(&stanza), Some(Condition::UndefinedCondition.into()));
}

#[test]
fn what_a_message_brought_goes_back_if_it_is_small() {
    let error = StanzaError::new(Condition::ServiceUnavailable);
    let names = |text: &str| -> Vec<String> {
        let reply = error.reply_to(&parse(text)).unwrap();
        reply.children.iter().map(|c| c.name.to_string()).collect()
    };
    assert_eq!(names("<message><body>hi</body><x xmlns='u'/></message>"), ["body", "x", "error"]);
    // Only one `<error/>`, and that is ours (RFC 6120 §8.3.1 rule 7).
    assert_eq!(names("<message><error type='wait'/><error xmlns='u'/></message>"), ["error", "error"]);
    assert_eq!(StanzaError::from_stanza(&error.reply_to(&parse("<message><error type='wait'/></message>")).unwrap()), Some(error.clone()));
    assert_eq!(names(&format!("<message><body>{}</body></message>", "x".repeat(4_000))), ["error"]);
    assert_eq!(names("<iq type='set' id='1'><query xmlns='u'/></iq>"), ["error"]);
    assert_eq!(error.reply_to(&parse("<iq type='set'/>")).unwrap().id.as_deref(), Some(""));
}

#[test]
fn limits() {
    let children = |n: usize| format!("<message>{}</message>", "<a/>".repeat(n));
    assert_eq!(parse(&children(1_024)).children.len(), 1_024);
    assert_eq!(parse_over(&children(1_025), ns::CLIENT), Err(XmlError::PolicyViolation));
    let id = |n: usize| format!("<iq type='get' id='{}'/>", "i".repeat(n));
    assert_eq!(parse(&id(1_023)).id.map(|id| id.len()), Some(1_023));
    assert_eq!(parse_over(&id(1_024), ns::CLIENT), Err(XmlError::PolicyViolation)); // I-09
    // D09: many elements that are no children cost no memory of their own.
    let many = format!("<message><x xmlns='u'>{}</x></message>", "<a/>".repeat(20_000));
    assert_eq!(parse(&many).to_bytes(), many);
}

#[test]
fn a_stanza_as_deep_as_may_be_can_be_wrapped() {
    let deep = |n: usize| format!("<message>{}{}</message>", "<a>".repeat(n), "</a>".repeat(n));
    assert_eq!(parse_over(&deep(64), ns::CLIENT), Err(XmlError::PolicyViolation));
    let inner = parse(&deep(63));
    let forwarded = Element::new("forwarded", ns::FORWARD).with_child(inner.to_element().unwrap());
    let outer =
        Stanza::message(Jid::parse("a@b").unwrap(), MessageType::Chat).with_child(Element::new("sent", ns::CARBONS).with_child(forwarded));
    let decoded = Stanza::decode(outer.to_bytes()).unwrap();
    assert_eq!(decoded, outer);
    assert_eq!(decoded.child("sent", ns::CARBONS).unwrap().element().unwrap().children().count(), 1);
    // Also what is written anew.
    let rewritten = format!("<message>{}&#65;{}</message>", "<a>".repeat(63), "</a>".repeat(63));
    assert_eq!(parse(&rewritten).to_bytes(), rewritten.replace("&#65;", "A"));
}

#[test]
fn a_header_declares_for_its_stanzas() {
    let header = Header::parse(
        b"<stream:stream xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams' xmlns:db='jabber:server:dialback' \
          version='1.0' xmlns:u='urn:u'>",
    )
    .unwrap();
    let parse = |text: &'static str| Stanza::parse_in(Bytes::from_static(text.as_bytes()), header.scope(), ns::SERVER);
    assert!(matches!(parse("<db:result from='a' to='b'>k</db:result>"), Ok(Parsed::Other(e)) if e.is("result", "jabber:server:dialback")));
    match parse("<message><u:x/><body>b</body></message>") {
        Ok(Parsed::Stanza(stanza)) => assert_eq!(stanza.to_bytes(), "<message><x xmlns='urn:u'/><body>b</body></message>"),
        other => panic!("{other:?}"),
    }
    // Prefix-free canonicalization (RFC 6120 §4.8.2): the default namespace is the stream's.
    let free = Header::parse(b"<stream xmlns='http://etherx.jabber.org/streams' version='1.0'>").unwrap();
    let parse = |text: &'static str| Stanza::parse_in(Bytes::from_static(text.as_bytes()), free.scope(), ns::CLIENT);
    match parse("<message xmlns='jabber:client'><body>b</body><x xmlns='u'/></message>") {
        Ok(Parsed::Stanza(stanza)) => assert_eq!(stanza.to_bytes(), "<message><body>b</body><x xmlns='u'/></message>"),
        other => panic!("{other:?}"),
    }
    assert!(matches!(parse("<message/>"), Ok(Parsed::Other(e)) if e.ns == ns::STREAM));
}

/// J07, J11: what is hidden in a prefix or in CDATA is seen by name, and stays one stanza.
#[test]
fn nothing_hides() {
    let prefixed = parse("<presence><m:x xmlns:m='http://jabber.org/protocol/muc#user'><m:item affiliation='owner'/></m:x></presence>");
    assert!(prefixed.child("x", ns::MUC_USER).is_some());
    let smuggled = parse("<message><body><![CDATA[</body></message><message from='x@y'>]]></body></message>");
    assert_eq!(smuggled.to_bytes(), "<message><body>&lt;/body&gt;&lt;/message&gt;&lt;message from='x@y'&gt;</body></message>");
    // RFC 6120 §4.8.5: content does not leave with a prefix.
    let content = parse("<message><c:body xmlns:c='jabber:client'>b</c:body></message>");
    assert_eq!(content.to_bytes(), "<message><body>b</body></message>");
    assert_eq!(parse("<message><x xmlns='u' a='1' b='2'/></message>").children[0].attr("b").as_deref(), Some("2"));
}
