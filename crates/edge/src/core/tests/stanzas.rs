//! Stanzas of a session (RFC 6120 §8; RELIABILITY §4c, groups H and I): whose they are, what is wrong with them, how they are
//! held until they are accepted.

use super::{check, check_with, settings};
use stream::Settings;

const JULIET: &str = "from='juliet@im.example/balcony'";

/// H01, H02, H10: a client speaks for itself alone.
#[test]
fn the_sender_is_stamped() {
    for from in ["", "from='juliet@im.example'", "from='juliet@im.example/balcony'", "from='JULIET@im.example/balcony'"] {
        check(&format!(
            "- binds\nC: <message {from} to='romeo@im.example'/>\nedge→core: submit 1 <message to='romeo@im.example' {JULIET}/>"
        ));
    }
    for from in ["romeo@im.example", "juliet@im.example/chamber", "im.example", "@", ""] {
        check(&format!(
            "- binds
             C: <message from='{from}'/>
             S: <stream:error><invalid-from xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>
             edge→core: close a1
             - closes"
        ));
    }
}

/// RFC 6120 §8.1.5: the stream's language is that of stanzas that name none.
#[test]
fn the_language_of_the_stream_is_stamped() {
    check(
        "C: {header}
         S: *</stream:features>
         C: <auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AGp1bGlldAByMG0zMG15cjBtMzA=</auth>
         edge→core: credentials
         core→edge: keys
         S: <success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>
         edge→core: login succeeded
         C: <stream:stream to='im.example' version='1.0' xml:lang='it' xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>
         S: *</stream:features>
         C: <iq type='set' id='1'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>
         edge→core: bind anything
         core→edge: bound
         S: *</iq>
         C: <message/><message xml:lang='de'/>
         edge→core: submit 1 <message from='juliet@im.example/balcony' xml:lang='it'/>
         edge→core: submit 2 <message from='juliet@im.example/balcony' xml:lang='de'/>",
    );
}

/// What the edge answers itself: `(stanza, its error, what stands in front of the error)`.
const REFUSED: &[(&str, &str, &str)] = &[
    // H03 to H05.
    ("<message to='@im.example' id='1'/>", "type='modify'><jid-malformed", "message|1"),
    ("<message to='romeo@' id='1'/>", "type='modify'><jid-malformed", "message|1"),
    ("<presence to='a@b@c' type='subscribe' id='1'/>", "type='modify'><jid-malformed", "presence|1"),
    ("<iq to='/r' type='get' id='1'><x xmlns='urn:x'/></iq>", "type='modify'><jid-malformed", "iq|1"),
];

#[test]
fn what_no_account_can_take_is_answered() {
    for (stanza, error, head) in REFUSED {
        let (name, id) = head.split_once('|').unwrap();
        check(&format!(
            "- binds
             C: {stanza}
             S: <{name} to='juliet@im.example/balcony' from='juliet@im.example' id='{id}' type='error'><error {error}
                 xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></{name}>
             - reads"
        ));
    }
    // No answer to an answer (RFC 6120 §8.3.1 rule 8).
    for stanza in ["<iq type='error' to='@' id='1'/>", "<message type='error' to='@'/>", "<presence type='unavailable' to='@'/>"] {
        check(&format!("- binds\nC: {stanza}\n- reads"));
    }
}

/// The same where stanzas are counted: the answer takes the place of the stanza, and comes back as an output.
#[test]
fn what_is_answered_is_counted() {
    for (stanza, error, head) in REFUSED {
        let (name, id) = head.split_once('|').unwrap();
        let answer = format!(
            "<{name} to='juliet@im.example/balcony' from='juliet@im.example' id='{id}' type='error'><error {error}
             xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></{name}>"
        );
        check(&format!(
            "- resumable
             C: {stanza}<r xmlns='urn:xmpp:sm:3'/>
             edge→core: submit 1 {answer}
             core→edge: deliver {answer}
             S: {answer}<r xmlns='urn:xmpp:sm:3'/>
             core→edge: accepted 1
             S: <a xmlns='urn:xmpp:sm:3' h='1'/>"
        ));
    }
    check(
        "- resumable
         C: <iq type='result' to='@' id='1'/><presence to='@' type='unavailable'/>
         edge→core: submit 1 <iq from='juliet@im.example/balcony' id='' type='result'/>
         edge→core: submit 2 <iq from='juliet@im.example/balcony' id='' type='result'/>",
    );
}

/// 64 inputs or 256 KiB: then the socket is not read, and what was read is not looked at.
#[test]
fn inputs_are_held_until_accepted() {
    let many: String = (1..=70).map(|n| format!("<message id='{n}'/>")).collect();
    let submits = |range: std::ops::RangeInclusive<u32>| -> String {
        range.map(|n| format!("edge→core: submit {n} <message {JULIET} id='{n}'/>\n")).collect()
    };
    check(&format!(
        "- binds
         C: {many}
         {}
         - reads nothing
         core→edge: accepted 3
         {}
         - reads nothing
         core→edge: accepted 20
         {}
         - reads
         core→edge: accepted 70
         - is idle",
        submits(1..=64),
        submits(65..=67),
        submits(68..=70)
    ));
    check(
        "- binds
         C: <message><body>{200000 x}</body></message>
         edge→core: submit 1 *
         - reads
         C: <message><body>{200000 x}</body></message><presence/>
         edge→core: submit 2 *
         - reads nothing
         core→edge: accepted 1
         edge→core: submit 3 <presence from='juliet@im.example/balcony'/>
         - reads",
    );
}

/// Refused, unreachable, unanswered: submitted again, in order, without a new attempt.
#[test]
fn inputs_are_submitted_again() {
    check_with(
        Settings { retry_after: std::time::Duration::from_millis(100), ..settings() },
        "
        - binds
        C: <message id='1'/><message id='2'/><message id='3'/>
        edge→core: submit 1 <message from='juliet@im.example/balcony' id='1'/>
        edge→core: submit 2 <message from='juliet@im.example/balcony' id='2'/>
        edge→core: submit 3 <message from='juliet@im.example/balcony' id='3'/>
        core→edge: accepted 1
        core→edge: refused 2
        core→edge: refused 3
        C: <message id='4'/>
        - 500 ms pass
        edge→core: submit 2 <message from='juliet@im.example/balcony' id='2'/>
        edge→core: submit 3 <message from='juliet@im.example/balcony' id='3'/>
        edge→core: submit 4 <message from='juliet@im.example/balcony' id='4'/>
        core→edge: refused 1
        core→edge: refused 5
        core→edge: accepted 4
        - link refuses
        C: <message id='5'/>
        - 3000 ms pass
        - link works
        - 2000 ms pass
        edge→core: submit 5 <message from='juliet@im.example/balcony' id='5'/>
        - 5 s pass
        edge→core: ask
        core→edge: accepted 5
        - 60 s pass
        ",
    );
}

/// I-01 to I-03: an IQ that lacks something has an account that can say so.
#[test]
fn an_iq_that_lacks_something_is_submitted() {
    for iq in
        ["<iq type='get'/>", "<iq id='1'/>", "<iq id='1' type='foo'/>", "<iq id='1' type='set'><a xmlns='urn:a'/><b xmlns='urn:b'/></iq>"]
    {
        check(&format!("- binds\nC: {iq}\nedge→core: submit 1 <iq {JULIET}*"));
    }
}
