//! Streams as such: headers, errors, restarts, time, ends (RFC 6120 §4; RELIABILITY §4c, groups A, B, D, E).

use super::{check, check_with, settings};
use stream::Settings;

/// The answer to an input that ends a stream before its header is accepted.
#[track_caller]
fn refused(input: &str, condition: &str) {
    let version = if condition == "unsupported-version" && !input.contains("version='") { "" } else { "*version='1.0'" };
    check(&format!(
        "- connects in the clear
         C: {input}
         S: <?xml version='1.0'?><stream:stream *from='im.example'{version}*>
            <stream:error><{condition} xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>
         - closes
         - is done"
    ));
}

const STREAM: &str = "xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'";

#[test]
fn headers_that_are_refused() {
    refused("GET / HTTP/1.1\\x0d\\x0a", "not-well-formed"); // A01
    refused("SSH-2.0-OpenSSH_9.7", "not-well-formed"); // A03
    refused("<html>", "bad-format"); // A06
    refused("<stream:stream to='im.example' version='1.0' xmlns='jabber:client' xmlns:stream='http://x.example'>", "invalid-namespace"); // A07
    for ns in ["jabber:foo", "jabber:server"] {
        let header = format!("<stream:stream to='im.example' version='1.0' xmlns='{ns}' xmlns:stream='http://etherx.jabber.org/streams'>");
        refused(&header, "invalid-namespace"); // A08, A09
    }
    refused(
        "<s:stream to='im.example' version='1.0' xmlns='jabber:client' xmlns:s='http://etherx.jabber.org/streams'>",
        "bad-namespace-prefix",
    ); // A10
    for (to, condition) in [
        ("to='nowhere.example'", "host-unknown"),          // A11
        ("", "host-unknown"),                              // A12
        ("to='juliet@im.example'", "improper-addressing"), // A13
        ("to='im.example/balcony'", "improper-addressing"),
        ("to='@'", "improper-addressing"),
    ] {
        refused(&format!("<stream:stream {to} version='1.0' {STREAM}>"), condition);
    }
    for version in ["", "version='0.9'", "version='1.0.1'", "version='-1'", "version='1'"] {
        refused(&format!("<stream:stream to='im.example' {version} {STREAM}>"), "unsupported-version"); // A14
    }
    refused("<!DOCTYPE x><stream:stream>", "restricted-xml"); // B12
    refused("\\xfe\\xff\\x00<", "unsupported-encoding"); // C01
    refused("<?xml version='1.0' encoding='ISO-8859-1'?>", "unsupported-encoding"); // C02
    refused(&format!("<stream:stream to='im.example' version='1.0' {STREAM} x='{{10000 x}}'>"), "policy-violation"); // D04
}

#[test]
fn headers_that_are_accepted() {
    // A14: the lower version counts. §4.7.2: the client hears its own bare address.
    check(&format!(
        "C: <stream:stream to='IM.example' from='juliet@im.example/balcony' version='2.3' xml:lang='de' {STREAM}>
         S: *id='*' from='im.example' to='juliet@im.example' version='1.0' xml:lang='en'><stream:features>*"
    ));
    // Prefix-free (§4.8.5): each element names its namespace.
    check(
        "C: <stream to='im.example' version='1.0' xmlns='http://etherx.jabber.org/streams'>
         S: *<stream:features>*
         C: <auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='X'/></stream>
         S: <failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><invalid-mechanism/></failure></stream:stream>
         - closes",
    );
}

/// A15 to A17 and E14: who was addressed cannot change, nor who the client is.
#[test]
fn restarts_keep_to_what_was_said() {
    let restart = |header: &str, condition: &str| {
        check(&format!(
            "C: {{header}}
             S: *</stream:features>
             C: <auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AGp1bGlldAByMG0zMG15cjBtMzA=</auth>
             edge→core: credentials
             core→edge: keys
             S: <success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>
             edge→core: login succeeded
             C: <stream:stream version='1.0' {STREAM} {header}>
             S: *<stream:error><{condition} xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>
             - closes"
        ));
    };
    restart("to='other.example'", "invalid-from");
    restart("to='im.example' from='romeo@im.example'", "invalid-from");
    restart("to='im.example' from='/'", "invalid-from");
    check(&format!(
        "- connects in the clear
         C: {{header}}
         S: *</stream:features>
         C: <starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>
         S: <proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>
         - starts tls
         - tls is there
         C: <stream:stream to='other.example' version='1.0' {STREAM}>
         S: *<stream:error><host-unknown xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>
         - closes"
    ));
    check(
        "- connects by tls for other.example
         C: {header}
         S: *<stream:error><host-unknown xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>
         - closes",
    );
    // The name of a host behind an SRV record is nobody's domain.
    check("- connects by tls for xmpp1.hosting.example\nC: {header}\nS: *</stream:features>");
}

/// E01 to E04, E06, E13, A02: attacks on the change to TLS.
#[test]
fn starttls_takes_nothing_with_it() {
    for behind in ["<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'/>", "\\x16\\x03\\x01", "\\x20<iq/>"] {
        let script = format!(
            "- connects in the clear
             C: {{header}}
             S: *</stream:features>
             C: <starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>{behind}
             - closes
             - is done"
        );
        super::Script::new(settings(), usize::MAX).run(&script);
    }
    // White space says nothing: go-sendxmpp ends the element with a line feed, in the same segment.
    super::Script::new(settings(), usize::MAX).run(
        "- connects in the clear
         C: {header}
         S: *</stream:features>
         C: <starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>\\x20
         S: <proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>
         - starts tls",
    );
    // What follows later, in the clear, is not read either.
    check(
        "- connects in the clear
         C: {header}
         S: *</stream:features>
         C: <starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>
         S: <proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>
         - starts tls
         C: <iq/>
         - closes",
    );
    check("- connects in the clear\nC: \\x16\\x03\\x01\\x02\\x00\\x01\n- closes\n- is done");
    let unsupported = |input: &str| {
        check(&format!(
            "C: {{header}}
             S: *</stream:features>
             C: {input}
             S: <stream:error><unsupported-stanza-type xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>
             - closes"
        ));
    };
    unsupported("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>");
    unsupported("<compress xmlns='http://jabber.org/protocol/compress'><method>zlib</method></compress>");
}

/// What ends a stream in a session, and what the client sees of it.
#[test]
fn errors_in_a_session() {
    let ends = |input: &str, condition: &str| {
        check(&format!(
            "- binds
             C: {input}
             S: <stream:error><{condition} xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>
             edge→core: close a1
             - closes
             - is done"
        ));
    };
    for (input, condition) in [
        ("<stream:stream to='im.example'></stream:stream>", "invalid-xml"), // A19
        ("hello", "bad-format"),                                            // A21
        ("<x xmlns='urn:x'/>", "unsupported-stanza-type"),                  // A24
        ("<r xmlns='urn:xmpp:sm:2'/>", "unsupported-stanza-type"),          // G21
        ("<a xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>", "unsupported-stanza-type"),
        ("<stream:features/>", "unsupported-stanza-type"),
        ("<idle xmlns='urn:xmpp:csi:0'/>", "unsupported-stanza-type"),
        ("<message></iq>", "not-well-formed"),                           // B02
        ("<message a='1' a='2'/>", "not-well-formed"),                   // B03
        ("<p:message/>", "not-well-formed"),                             // B05
        ("<!-- x -->", "restricted-xml"),                                // B10
        ("<?x y?>", "restricted-xml"),                                   // B11
        ("<message>&foo;</message>", "not-well-formed"),                 // B17
        ("<message xmlns='jabber:server'/>", "unsupported-stanza-type"), // B27
        ("<message>\\xc0\\xaf</message>", "not-well-formed"),            // C04
        ("<{300 m}/>", "policy-violation"),                              // C15
        ("<message id='{8192 x}'/>", "policy-violation"),                // I-09
        ("<message><body>{300000 x}", "policy-violation"),               // D02
        ("{65 <a>}", "policy-violation"),                                // D05
        ("<message a='{17000 x}'/>", "policy-violation"),                // D08
        ("{65537 spaces}", "policy-violation"),                          // A23
    ] {
        ends(input, condition);
    }
}

/// D01, D02: the limit is what was advertised.
#[test]
fn a_stanza_of_exactly_the_limit_passes() {
    let settings = Settings { stanza_bytes_max: 300, ..settings() };
    let rest = "<message></message>".len();
    check_with(
        settings.clone(),
        &format!(
            "- binds
             C: <message>{{{} x}}</message>
             edge→core: submit 1 <message from='juliet@im.example/balcony'/>",
            300 - rest
        ),
    );
    check_with(
        settings,
        &format!(
            "- binds
             C: <message>{{{} x}}</message>
             S: <stream:error><policy-violation xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>
             edge→core: close a1
             - closes",
            301 - rest
        ),
    );
}

/// A04, A05: a client that does not get on with it.
#[test]
fn negotiation_takes_limited_time() {
    check(
        "- connects in the clear
         - 29 s pass
         C: <stream:stream
         - 1 s pass
         S: <?xml version='1.0'?><stream:stream *from='im.example' version='1.0' xml:lang='en'>
            <stream:error><connection-timeout xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>
         - closes
         - is done",
    );
    check(
        "- logs in
         - 30 s pass
         S: <stream:error><connection-timeout xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>
         - closes
         - is done",
    );
}

/// RFC 6120 §4.6: a silent client is asked, then given up; whatever it sends is a sign of life.
#[test]
fn a_silent_client_is_asked_then_left() {
    check(
        "- binds
         - 299 s pass
         C: {1 spaces}
         - 299 s pass
         - 1 s pass
         S: <iq to='juliet@im.example/balcony' from='im.example' id='ping-1.7-0' type='get'><ping xmlns='urn:xmpp:ping'/></iq>
         C: <iq id='ping-1.7-0' type='error'/>
         - 300 s pass
         S: <iq *</iq>
         - 60 s pass
         S: <stream:error><connection-timeout xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>
         edge→core: close a1
         - closes
         - is done",
    );
    check(
        "- resumable
         - 300 s pass
         S: <r xmlns='urn:xmpp:sm:3'/>
         C: <a xmlns='urn:xmpp:sm:3' h='0'/>
         - 300 s pass
         S: <r xmlns='urn:xmpp:sm:3'/>
         - 60 s pass
         S: <stream:error><connection-timeout xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>
         edge→core: detach a1
         - closes
         - is done",
    );
}

/// RFC 6120 §4.4, A20: what came before the end counts, what comes behind it does not.
#[test]
fn the_client_closes_its_stream() {
    check("C: {header}\nS: *</stream:features>\nC: </stream:stream><iq/>\nS: </stream:stream>\n- closes\n- is done");
    check(
        "- binds
         C: <message id='1'/></stream:stream><message id='2'/>
         edge→core: submit 1 <message from='juliet@im.example/balcony' id='1'/>
         - reads nothing
         core→edge: accepted 1
         edge→core: close a1
         S: </stream:stream>
         - closes
         - is done",
    );
    // The end tag waits only so long; the farewell to the session longer.
    check(
        "- binds
         C: <message id='1'/></stream:stream>
         edge→core: submit 1 <message from='juliet@im.example/balcony' id='1'/>
         - 4 s pass
         - 1 s pass
         edge→core: ask
         - 5 s pass
         edge→core: ask
         S: </stream:stream>
         - closes
         - is not done
         core→edge: accepted 1
         edge→core: close a1
         - is done",
    );
    // XEP-0198 §4: what was accepted is said before the end.
    check(
        "- resumable
         C: <message id='1'/></stream:stream>
         edge→core: submit 1 <message from='juliet@im.example/balcony' id='1'/>
         core→edge: accepted 1
         edge→core: close a1
         S: <a xmlns='urn:xmpp:sm:3' h='1'/></stream:stream>
         - closes
         - is done",
    );
}

/// What a broken socket, a reported error and a shutdown leave of a session.
#[test]
fn a_stream_can_end_without_its_session() {
    for (what, written) in [
        ("- socket breaks", ""),
        ("C: <stream:error><x xmlns='urn:x'/></stream:error>", "S: </stream:stream>"),
        (
            "- server drains",
            "S: <stream:error><system-shutdown xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>",
        ),
    ] {
        let closes = if written.is_empty() { "" } else { "- closes" };
        check(&format!("- resumable\n{what}\n{written}\nedge→core: detach a1\n{closes}\n- is done"));
        check(&format!("- binds\n{what}\n{written}\nedge→core: close a1\n{closes}\n- is done"));
    }
    // A22: at any point before.
    for before in ["", "C: <stream:str", "C: {header}\nS: *", "- logs in"] {
        check(&format!("- connects by tls\n{before}\n- socket breaks\n- is done"));
    }
    // Without XEP-0198 the edge stays until what was sent is accepted, be it by another owner.
    check(
        "- binds
         C: <message id='1'/>
         edge→core: submit 1 <message from='juliet@im.example/balcony' id='1'/>
         - socket breaks
         - is not done
         - owner of epoch 2
         edge→core: re-attach a1 accepted=0 inputs=1 m=0 acked=0 row=0 outputs=
         core→edge: re-attached 0
         edge→core: submit 1 (attempt 2) <message from='juliet@im.example/balcony' id='1'/>
         core→edge: accepted 1
         edge→core: close a2
         - is done",
    );
}
