//! RELIABILITY §4c group A as far as it is framing: every input at every split gives the same outcome.
#![allow(clippy::disallowed_methods, reason = "it measures time")]

use types::ns;
use xml::{Frame, Framer, Header, Limits, XmlError};

const HEADER: &str = "<?xml version='1.0'?><stream:stream xmlns='jabber:client' \
     xmlns:stream='http://etherx.jabber.org/streams' to='example.org' version='1.0'>";

/// Frames as text, runs of white space as one.
fn run(limits: Limits, chunks: impl IntoIterator<Item = impl AsRef<[u8]>>) -> (Vec<String>, Option<XmlError>) {
    let mut framer = Framer::new(limits);
    let mut frames: Vec<String> = Vec::new();
    for chunk in chunks {
        framer.feed(chunk.as_ref());
        loop {
            let frame = match framer.next() {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(framer.next(), Err(error), "an error lasts");
                    assert!(framer.is_idle(), "a failed framer holds nothing");
                    return (frames, Some(error));
                }
            };
            let text = match frame {
                Frame::Header(bytes) => format!("H{}", std::str::from_utf8(&bytes).unwrap()),
                Frame::Element(bytes) => format!("E{}", std::str::from_utf8(&bytes).unwrap()),
                Frame::Whitespace => "W".into(),
                Frame::End => "/".into(),
            };
            if text != "W" || frames.last().is_none_or(|last| last != "W") {
                frames.push(text);
            }
        }
        assert!(framer.has_buffered() || framer.is_idle(), "no buffer without a partial frame");
    }
    (frames, None)
}

/// The outcome of `input`: whole, in two parts cut anywhere, and byte by byte.
fn outcome(limits: Limits, input: &[u8]) -> (Vec<String>, Option<XmlError>) {
    let whole = run(limits, [input]);
    assert_eq!(run(limits, input.chunks(1)), whole, "byte by byte: {}", String::from_utf8_lossy(input));
    // Every cut of a long input would take too long; its beginning and end have it all.
    for cut in (0..input.len()).filter(|cut| *cut < 400 || cut + 20 > input.len()) {
        let (a, b) = input.split_at(cut);
        assert_eq!(run(limits, [a, b]), whole, "cut at {cut}: {}", String::from_utf8_lossy(input));
    }
    for step in [2, 3, 7, 64] {
        assert_eq!(run(limits, input.chunks(step)), whole, "step {step}");
    }
    whole
}

fn check(input: impl AsRef<[u8]>, frames: &[&str], error: Option<XmlError>) {
    let (got, got_error) = outcome(Limits::UNAUTHENTICATED, input.as_ref());
    assert_eq!(got, frames, "{}", String::from_utf8_lossy(input.as_ref()));
    assert_eq!(got_error, error, "{}", String::from_utf8_lossy(input.as_ref()));
}

/// As [`check`], behind a header.
fn check_inside(input: impl AsRef<[u8]>, frames: &[&str], error: Option<XmlError>) {
    let mut whole = HEADER.as_bytes().to_vec();
    whole.extend_from_slice(input.as_ref());
    let header = format!("H{HEADER}");
    let mut want = vec![header.as_str()];
    want.extend(frames);
    check(whole, &want, error);
}

#[test]
fn a_stream() {
    let elements = [
        "<message to='b@example.org'><body>caf\u{e9} &amp; &#x1F600; a>b</body><active xmlns='urn:x'/></message>",
        "<presence/>",
        "<a b='/>' c=\"'>\" d = 'x' ><b/><c ></c ></a\t>",
        "<a><![CDATA[</a>]]]]><![CDATA[><a>]]>]]></a>",
        "<\u{e9}\u{e9}/>",
        "<p:a xmlns:p='urn:p'>\r\n</p:a>",
        "<a//>",
    ];
    for element in &elements[..6] {
        check_inside(element, &[&format!("E{element}")], None);
    }
    check_inside(elements[6], &[], Some(XmlError::NotWellFormed));
    let all = elements[..6].join(" \n");
    let mut want: Vec<String> = elements[..6].iter().flat_map(|e| [format!("E{e}"), "W".into()]).collect();
    want.pop();
    want.push("/".into());
    let want: Vec<&str> = want.iter().map(String::as_str).collect();
    check_inside(format!("{all}</stream:stream >"), &want, None);
    // A20: nothing behind the end.
    check_inside(format!("{all}</stream:stream><message/> x <!--"), &want, None);
}

#[test]
fn a_beginning() {
    use XmlError::*;
    let root = HEADER.split_once("?>").unwrap().1;
    check(root, &[&format!("H{root}")], None);
    check(format!(" \n{root}"), &["W", &format!("H{root}")], None);
    let spaced = format!("<?xml version=\"1.0\" encoding='Utf-8' standalone='no' ?> \r\n{root}");
    check(&spaced, &[&format!("H{spaced}")], None);
    check("<stream:stream/>", &["H<stream:stream/>", "/"], None);
    for (input, error) in [
        ("GET / HTTP/1.1\r\n", NotWellFormed),      // A01
        ("SSH-2.0-OpenSSH_9.9\r\n", NotWellFormed), // A03
        ("\u{16}\u{3}\u{1}\u{2}", NotWellFormed),   // A02
        ("\u{feff}<stream:stream>", NotWellFormed), // C03
        ("</stream:stream>", NotWellFormed),
        ("<!-- x --><stream:stream>", RestrictedXml), // B10
        ("<?php x?>", RestrictedXml),                 // B11
        ("<?xml-stylesheet x?>", RestrictedXml),
        ("<!DOCTYPE x><stream:stream>", RestrictedXml), // B12
        ("<?xml version='1.0'?><!DOCTYPE x [", RestrictedXml),
        ("<?xml version='1.0'?><?xml version='1.0'?>", NotWellFormed),
        ("<?xml version='1.0'?>x", NotWellFormed),
        ("<?xml version='1.1'?><a>", NotWellFormed),                          // B22
        ("<?xml version='1.0' encoding='ISO-8859-1'?>", UnsupportedEncoding), // C02
        ("<?xml version='1.0' encoding='UTF-16'?>", UnsupportedEncoding),
        ("<?xml encoding='UTF-8'?>", NotWellFormed),
        ("<?xml version='1.0'encoding='UTF-8'?>", NotWellFormed),
        ("<?xml version='1.0' standalone='maybe'?>", NotWellFormed),
        ("<?xml?>", NotWellFormed),
        ("<?xml version='1.0'>", NotWellFormed),
        ("<![CDATA[x]]>", NotWellFormed),
        ("< a>", NotWellFormed),
        ("<>", NotWellFormed),
    ] {
        check(input, &[], Some(error));
    }
    check(b"\xFF\xFE<\0?\0x\0", &[], Some(UnsupportedEncoding)); // C01
    check(b"\xFE\xFF\0<\0?\0x", &[], Some(UnsupportedEncoding));
    check(b"<\0?\0", &[], None);
    check(b"<\0?\0x\0m\0l\0>", &[], Some(NotWellFormed));
    check(b"<a b='\xC0\xAF'>", &[], Some(NotWellFormed));
}

#[test]
fn what_ends_a_stream() {
    use XmlError::*;
    for (input, error) in [
        ("text", BadFormat), // A21
        ("&amp;", BadFormat),
        ("<![CDATA[x]]>", BadFormat),
        ("\u{0}", NotWellFormed),
        ("</stream>", NotWellFormed),
        ("</stream:stream x='y'>", NotWellFormed),
        ("<message><body>hi</message><message>", NotWellFormed), // B01
        ("<a></b>", NotWellFormed),                              // B02
        ("<a></ a>", NotWellFormed),
        ("<a></A>", NotWellFormed),
        ("<a b='<'/>", NotWellFormed), // B08
        ("<a b=<c/>", NotWellFormed),
        ("<a / >", NotWellFormed),
        ("<a <b/>", NotWellFormed),
        ("<a></a <", NotWellFormed),
        ("<!-- x -->", RestrictedXml),
        ("<a><!-- x --></a>", RestrictedXml),
        ("<?x?>", RestrictedXml),
        ("<a><?x y?></a>", RestrictedXml),
        ("<?xml version='1.0'?>", NotWellFormed), // B21
        ("<a><?xml version='1.0'?></a>", NotWellFormed),
        ("<!DOCTYPE a>", RestrictedXml),
        ("<a><!ENTITY x 'y'></a>", RestrictedXml),
        ("<a><![INCLUDE[x]]></a>", RestrictedXml),
        ("<jåN xmlns=\"x\"/</iq>", NotWellFormed), // C16
        ("<a>\u{b}</a>", NotWellFormed),           // C09
        ("<a b='\u{1}'/>", NotWellFormed),
        ("<a>\u{ffff}</a>", NotWellFormed), // C10
        ("</stream:stream\u{0}>", NotWellFormed),
    ] {
        check_inside(input, &[], Some(error));
    }
    for bytes in [&b"\xC0\xAF"[..], b"\xE0\x80\xAF", b"\xF0\x80\x80\xAF", b"\xED\xA0\x80", b"\xF4\x90\x80\x80", b"\xFF", b"\xE2\x82"] {
        // C04 to C08: in text, in a name, in a value.
        check_inside([&b"<a>"[..], bytes, b"</a>"].concat(), &[], Some(NotWellFormed));
        check_inside([&b"<a"[..], bytes, b"/>"].concat(), &[], Some(NotWellFormed));
        check_inside([&b"<a b='"[..], bytes, b"'/>"].concat(), &[], Some(NotWellFormed));
    }
}

#[test]
fn limits() {
    use XmlError::PolicyViolation;
    let limits = Limits { stanza_bytes_max: 200 };
    let behind = |text: &str| [HEADER.as_bytes(), text.as_bytes()].concat();
    // D01, D02.
    let exact = format!("<a>{}</a>", "x".repeat(200 - 7));
    assert_eq!(outcome(limits, &behind(&exact)).0[1], format!("E{exact}"));
    let longer = format!("<a>{}</a>", "x".repeat(200 - 6));
    assert_eq!(outcome(limits, &behind(&longer)).1, Some(PolicyViolation));
    // An error beyond the maximum is not seen, however the network cuts.
    assert_eq!(outcome(limits, &behind(&format!("<a>{}<!--", "x".repeat(200)))).1, Some(PolicyViolation));
    assert_eq!(outcome(limits, &behind(&format!("<a b='{}", "x".repeat(200)))).1, Some(PolicyViolation));
    assert_eq!(outcome(limits, format!("<s a='{}'>", "x".repeat(200)).as_bytes()).1, Some(PolicyViolation));
    // White space between elements is no element.
    assert_eq!(outcome(limits, &behind(&" ".repeat(1000))).1, None);
    // D05, D06.
    let depth = |n: usize| behind(&format!("{}{}", "<a>".repeat(n), "</a>".repeat(n)));
    assert_eq!(outcome(Limits::AUTHENTICATED, &depth(64)).1, None);
    assert_eq!(outcome(Limits::AUTHENTICATED, &depth(65)).1, Some(PolicyViolation));
    // C15.
    assert_eq!(outcome(Limits::AUTHENTICATED, &behind(&format!("<{}/>", "n".repeat(256)))).1, None);
    assert_eq!(outcome(Limits::AUTHENTICATED, &behind(&format!("<{}/>", "n".repeat(5000)))).1, Some(PolicyViolation));
}

#[test]
fn limits_change_and_streams_restart() {
    let mut framer = Framer::new(Limits { stanza_bytes_max: 150 });
    framer.feed(HEADER.as_bytes());
    assert!(matches!(framer.next(), Ok(Some(Frame::Header(_)))));
    framer.set_limits(Limits::AUTHENTICATED);
    let long = format!("<a>{}</a>", "x".repeat(1000));
    framer.feed(long.as_bytes());
    assert_eq!(framer.next(), Ok(Some(Frame::Element(long.into()))));
    // E01, E03: something stands behind `<starttls/>`.
    framer.feed(b"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/> ");
    assert!(matches!(framer.next(), Ok(Some(Frame::Element(_)))));
    assert!(framer.has_buffered());
    assert_eq!(framer.remaining(), 1);
    framer.restart();
    framer.feed(HEADER.as_bytes());
    assert_eq!(framer.next(), Ok(Some(Frame::Whitespace)));
    assert!(matches!(framer.next(), Ok(Some(Frame::Header(_)))));
    assert!(!framer.has_buffered());
    assert!(framer.is_idle());
    // A19: a second header without a restart is an element that never ends, or an undeclared prefix.
    framer.feed(b"<stream:stream>");
    assert_eq!(framer.next(), Ok(None));
}

/// D03, D12: time and memory do not depend on how the network cuts.
#[test]
fn linear_in_bytes() {
    let mut framer = Framer::new(Limits::AUTHENTICATED);
    framer.feed(HEADER.as_bytes());
    framer.next().unwrap();
    let long = format!("<a b='{}' c='1'>{}</a>", "x".repeat(60_000), "y".repeat(60_000));
    let begin = std::time::Instant::now();
    for byte in long.as_bytes() {
        framer.feed(&[*byte]);
        assert!(framer.buffer_capacity() <= STANZA_BYTES_MAX + 1);
        if let Some(frame) = framer.next().unwrap() {
            assert_eq!(frame, Frame::Element(long.clone().into()));
        }
    }
    assert!(framer.is_idle());
    // 120,000 rescans of 60,000 bytes would take minutes.
    assert!(begin.elapsed().as_secs() < 20, "{:?}", begin.elapsed());
    // An endless text is refused at the limit, and no more is held.
    framer.feed(b"<a>");
    let mut fed = 3;
    let error = loop {
        framer.feed(&[b'x'; 4096]);
        fed += 4096;
        assert!(framer.buffer_capacity() <= STANZA_BYTES_MAX + 4096);
        if let Err(error) = framer.next() {
            break error;
        }
    };
    assert_eq!(error, XmlError::PolicyViolation);
    assert!(fed <= STANZA_BYTES_MAX + 4096);
    assert!(framer.is_idle());
}

use types::limit::STANZA_BYTES_MAX;

#[test]
fn headers() {
    use XmlError::*;
    let of = |text: &str| Header::parse(text.as_bytes());
    let header = of(HEADER).unwrap();
    assert_eq!(header.to.as_deref(), Some("example.org"));
    assert_eq!(header.content_ns.as_deref(), Some(ns::CLIENT));
    assert_eq!(header.check(ns::CLIENT), Ok(()));
    assert_eq!(header.check(ns::SERVER), Err(InvalidNamespace)); // A09
    assert_eq!(header.scope().resolve("stream"), Some(ns::STREAM));
    let streams = "http://etherx.jabber.org/streams";
    let free = of(&format!("<stream xmlns='{streams}' xml:lang='en' id='7' from='a@b' version='1.0'>")).unwrap();
    assert_eq!(free.content_ns, None);
    assert_eq!((free.lang.as_deref(), free.id.as_deref(), free.from.as_deref()), (Some("en"), Some("7"), Some("a@b")));
    assert_eq!(free.check(ns::CLIENT), Ok(()));
    let other = of(&format!("<stream:stream xmlns='jabber:foo' xmlns:stream='{streams}' version='1.0'>")).unwrap();
    assert_eq!(other.check(ns::CLIENT), Err(InvalidNamespace)); // A08
    for (text, error) in [
        (format!("<stream:foo xmlns:stream='{streams}'>"), BadFormat), // A06
        ("<html>".into(), BadFormat),
        ("<stream:stream xmlns:stream='urn:x'>".into(), InvalidNamespace), // A07
        ("<stream>".into(), InvalidNamespace),
        ("<stream:stream>".into(), NotWellFormed),
        (format!("<s:stream xmlns:s='{streams}' xmlns='jabber:client'>"), BadNamespacePrefix), // A10
        (format!("<stream:stream xmlns:stream='{streams}' a='1' a='2'>"), NotWellFormed),
        (format!("<stream:stream xmlns:stream='{streams}'><a>"), NotWellFormed),
        (format!("<stream:stream xmlns:stream='{streams}' {}>", many_attributes(64)), PolicyViolation),
    ] {
        assert_eq!(of(&text).err(), Some(error), "{text}");
    }
    // A14.
    for (version, ok) in [
        ("", false),
        ("version='0.9'", false),
        ("version='1.0'", true),
        ("version='1.9'", true),
        ("version='2.0'", true),
        ("version='1.0.1'", false),
        ("version='-1'", false),
        ("version='1'", false),
        ("version='+1.0'", false),
        ("version='1.'", false),
        ("version='99999999999.0'", false),
    ] {
        let header = of(&format!("<stream:stream xmlns='jabber:client' xmlns:stream='{streams}' {version}>")).unwrap();
        assert_eq!(header.check(ns::CLIENT), if ok { Ok(()) } else { Err(UnsupportedVersion) }, "{version}");
    }
}

fn many_attributes(n: usize) -> String {
    (0..n).map(|i| format!("a{i}='' ")).collect()
}
