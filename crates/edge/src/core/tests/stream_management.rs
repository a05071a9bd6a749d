//! XEP-0198 and XEP-0352 (RELIABILITY §4c, group G).

use super::{check, check_with, settings};

#[test]
fn enabling() {
    check(
        "- binds
         C: <enable xmlns='urn:xmpp:sm:3'/>
         edge→core: enable
         - reads nothing
         core→edge: enabled
         S: <enabled xmlns='urn:xmpp:sm:3'/>
         - reads
         # G07: once.
         C: <enable xmlns='urn:xmpp:sm:3' resume='true'/>
         S: <failed xmlns='urn:xmpp:sm:3'><unexpected-request xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></failed>
         C: <resume xmlns='urn:xmpp:sm:3' h='0' previd='x'/>
         S: <failed xmlns='urn:xmpp:sm:3'><unexpected-request xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></failed>",
    );
    // The client names the time; it cannot have more than there is.
    for (max, secs) in [("60", 60), ("100000", 3600), ("x", 300)] {
        check(&format!("- binds\nC: <enable xmlns='urn:xmpp:sm:3' resume='1' max='{max}'/>\nedge→core: enable resume={secs}"));
    }
    // G06: the order is enforced with <failed/>, at each level.
    let failed = "<failed xmlns='urn:xmpp:sm:3'><unexpected-request xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></failed>";
    check(&format!("- logs in\nC: <enable xmlns='urn:xmpp:sm:3'/>\nS: {failed}"));
    check(&format!("C: {{header}}\nS: *</stream:features>\nC: <enable xmlns='urn:xmpp:sm:3'/>\nS: {failed}"));
    for nonza in ["<r xmlns='urn:xmpp:sm:3'/>", "<a xmlns='urn:xmpp:sm:3' h='0'/>"] {
        check(&format!("- binds\nC: {nonza}\nS: {failed}"));
    }
    let mut off = settings();
    off.features.stream_management = false;
    check_with(
        off,
        "- binds
         C: <enable xmlns='urn:xmpp:sm:3'/>
         S: <stream:error><unsupported-stanza-type xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>
         edge→core: close a1
         - closes",
    );
}

/// Counting begins behind what was sent before: that must be accepted first, and stanzas behind wait for `<enabled/>`.
#[test]
fn enabling_among_stanzas() {
    check(
        "- binds
         C: <presence/><enable xmlns='urn:xmpp:sm:3' resume='true'/><message id='1'/><r xmlns='urn:xmpp:sm:3'/>
         edge→core: submit 1 <presence from='juliet@im.example/balcony'/>
         core→edge: deliver <presence from='juliet@im.example/balcony'/>
         S: <presence to='juliet@im.example' from='juliet@im.example/balcony'/>
         core→edge: accepted 1
         edge→core: enable resume=300
         core→edge: enabled some-id base_n=1
         S: <enabled xmlns='urn:xmpp:sm:3' id='some-id' resume='true' max='300'/>
         edge→core: submit 2 <message from='juliet@im.example/balcony' id='1'/>
         core→edge: accepted 2
         S: <a xmlns='urn:xmpp:sm:3' h='1'/>
         core→edge: deliver <message to='juliet@im.example/balcony' from='romeo@im.example/orchard'/>
         S: <message to='juliet@im.example/balcony' from='romeo@im.example/orchard'/><r xmlns='urn:xmpp:sm:3'/>
         C: <a xmlns='urn:xmpp:sm:3' h='1'/>
         edge→core: acked 2",
    );
}

/// An `<r/>` is answered with what is accepted, as soon as that is anything new, and again when more is.
#[test]
fn acknowledging_what_the_client_sent() {
    check(
        "- resumable
         C: <message id='1'/><message id='2'/><r xmlns='urn:xmpp:sm:3'/>
         edge→core: submit 1 *
         edge→core: submit 2 *
         core→edge: accepted 1
         S: <a xmlns='urn:xmpp:sm:3' h='1'/>
         core→edge: accepted 2
         - 9 ms pass
         - 1 ms pass
         S: <a xmlns='urn:xmpp:sm:3' h='2'/>
         # Nobody asked about the third.
         C: <message id='3'/>
         edge→core: submit 3 *
         core→edge: accepted 3",
    );
    // G12: many in one read are one; what says nothing new comes no more than once in 10 ms.
    check(
        "- resumable
         C: {1000 <r xmlns='urn:xmpp:sm:3'/>}
         S: <a xmlns='urn:xmpp:sm:3' h='0'/>
         C: {1000 <r xmlns='urn:xmpp:sm:3'/>}
         - 9 ms pass
         - 1 ms pass
         S: <a xmlns='urn:xmpp:sm:3' h='0'/>
         C: <message id='1'/><r xmlns='urn:xmpp:sm:3'/>
         edge→core: submit 1 *
         core→edge: accepted 1
         - 10 ms pass
         S: <a xmlns='urn:xmpp:sm:3' h='1'/>",
    );
}

/// What leaves anyhow takes an `<a/>` along; one alone waits. Nothing accepted is said too, at last.
#[test]
fn an_answer_waits_for_company_but_not_long() {
    check(
        "- resumable
         C: <message id='1'/><r xmlns='urn:xmpp:sm:3'/>
         edge→core: submit 1 *
         core→edge: accepted 1
         S: <a xmlns='urn:xmpp:sm:3' h='1'/>
         C: <message id='2'/><r xmlns='urn:xmpp:sm:3'/>
         edge→core: submit 2 *
         core→edge: accepted 2
         core→edge: deliver <message id='1'/>
         S: <message to='juliet@im.example' id='1'/><a xmlns='urn:xmpp:sm:3' h='2'/><r xmlns='urn:xmpp:sm:3'/>
         C: <message id='3'/><r xmlns='urn:xmpp:sm:3'/>
         edge→core: submit 3 *
         - 99 ms pass
         - 1 ms pass
         S: <a xmlns='urn:xmpp:sm:3' h='2'/>
         core→edge: accepted 3
         - 10 ms pass
         S: <a xmlns='urn:xmpp:sm:3' h='3'/>",
    );
}

/// `<r/>` goes behind a burst, one at a time; `<a/>` drops what it covers.
#[test]
fn being_acknowledged_by_the_client() {
    check(
        "- resumable
         core→edge: deliver <message id='1'/>
         S: <message to='juliet@im.example' id='1'/><r xmlns='urn:xmpp:sm:3'/>
         core→edge: deliver <message id='2'/>
         S: <message to='juliet@im.example' id='2'/>
         core→edge: deliver <message id='3'/>
         S: <message to='juliet@im.example' id='3'/>
         C: <a xmlns='urn:xmpp:sm:3' h='1'/>
         edge→core: acked 1
         S: <r xmlns='urn:xmpp:sm:3'/>
         C: <a xmlns='urn:xmpp:sm:3' h='2'/>
         edge→core: acked 2
         # It has not handled the third yet: asking at once again would never end.
         C: <a xmlns='urn:xmpp:sm:3' h='3'/>
         edge→core: acked 3
         - is idle",
    );
    // G08 to G10.
    for (a, error) in [
        (
            "h='2'",
            "<undefined-condition xmlns='urn:ietf:params:xml:ns:xmpp-streams'/><handled-count-too-high xmlns='urn:xmpp:sm:3' h='2' send-count='1'/>",
        ),
        ("h='4294967295'", "<undefined-condition xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>"),
        ("h='-1'", "<bad-format xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>"),
        ("", "<bad-format xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>"),
    ] {
        check(&format!(
            "- resumable
             core→edge: deliver <message id='1'/>
             S: <message to='juliet@im.example' id='1'/><r xmlns='urn:xmpp:sm:3'/>
             C: <a xmlns='urn:xmpp:sm:3' {a}/>
             S: <stream:error>{error}</stream:error></stream:stream>
             edge→core: close a1
             - closes"
        ));
    }
}

/// In a flow not each output has an `<r/>` behind it; 16 without one have.
#[test]
fn in_a_flow_the_client_is_asked_less_often() {
    let mut script = "- resumable\n".to_owned();
    let deliver =
        |n: u32, request: &str| format!("core→edge: deliver <message id='{n}'/>\nS: <message to='juliet@im.example' id='{n}'/>{request}\n");
    let asks = "<r xmlns='urn:xmpp:sm:3'/>";
    let answer = |n: u32| format!("C: <a xmlns='urn:xmpp:sm:3' h='{n}'/>\nedge→core: acked {n}\n");
    for n in 1..=9 {
        script += &(deliver(n, asks) + &answer(n));
    }
    script += &deliver(10, "");
    script += &format!("- 19 ms pass\n- 1 ms pass\nS: {asks}\n{}", answer(10));
    for n in 11..=25 {
        script += &deliver(n, "");
    }
    check(&(script + &deliver(26, asks)));
}

/// G11: both counts wrap at 2^32.
#[test]
fn counts_wrap() {
    check(
        "- logs in
         C: <resume xmlns='urn:xmpp:sm:3' h='4294967293' previd='some-id'/>
         edge→core: resume some-id h=4294967293
         core→edge: resumed accepted=4294967295 acked=4294967294 base_m=1|<message id='1'/>|<message id='2'/>|<message id='3'/>
         S: <resumed xmlns='urn:xmpp:sm:3' h='4294967295' previd='some-id'/><message to='juliet@im.example' id='1'/><message to='juliet@im.example' id='2'/>
            <message to='juliet@im.example' id='3'/><r xmlns='urn:xmpp:sm:3'/>
         C: <a xmlns='urn:xmpp:sm:3' h='4294967295'/>
         edge→core: acked 4294967296
         C: <a xmlns='urn:xmpp:sm:3' h='0'/>
         edge→core: acked 4294967297
         C: <message id='4'/><r xmlns='urn:xmpp:sm:3'/>
         edge→core: submit 4294967296 *
         core→edge: accepted 4294967296
         S: <a xmlns='urn:xmpp:sm:3' h='0'/>",
    );
}

#[test]
fn resuming() {
    check(
        "- logs in
         C: <resume xmlns='urn:xmpp:sm:3' h='1' previd='some-id'/><message id='x'/>
         edge→core: resume some-id h=1
         - reads nothing
         core→edge: (attach 2) resumed accepted=5 acked=3 base_n=2 base_m=2|row=8 <message id='1'/>|<presence/>
         S: <resumed xmlns='urn:xmpp:sm:3' h='3' previd='some-id'/><message to='juliet@im.example' id='1'/>
            <presence to='juliet@im.example'/><r xmlns='urn:xmpp:sm:3'/>
         edge→core: submit 6 <message from='juliet@im.example/balcony' id='x'/>
         core→edge: accepted 6
         core→edge: (attach 2) accepted 6
         C: <a xmlns='urn:xmpp:sm:3' h='3'/><r xmlns='urn:xmpp:sm:3'/>
         edge→core: acked 5
         S: <a xmlns='urn:xmpp:sm:3' h='4'/>
         core→edge: (attach 2) deliver <message id='2'/>
         S: <message to='juliet@im.example' id='2'/><r xmlns='urn:xmpp:sm:3'/>
         - socket breaks
         edge→core: detach a2
         - is done",
    );
    // G13, G17: not to be resumed; the client goes on to bind.
    for (answer, h) in [("", ""), (" 12", " h='12'")] {
        check(&format!(
            "- logs in
             C: <resume xmlns='urn:xmpp:sm:3' h='0' previd='x'/>
             edge→core: resume x h=0
             core→edge: not-resumed{answer}
             S: <failed xmlns='urn:xmpp:sm:3'{h}><item-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></failed>
             C: <iq type='set' id='1'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>
             edge→core: bind anything"
        ));
    }
    // G15: longer than any id of ours.
    check(
        "- logs in
         C: <resume xmlns='urn:xmpp:sm:3' h='0' previd='{4001 x}'/>
         S: <failed xmlns='urn:xmpp:sm:3'><item-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></failed>",
    );
    // Asked again of a new owner; the old one's answer comes too late.
    check(
        "- logs in
         C: <resume xmlns='urn:xmpp:sm:3' h='0' previd='x'/>
         edge→core: resume x h=0
         - owner of epoch 2
         edge→core: resume x h=0
         core→edge: (epoch 1) (req 1) resumed accepted=5
         core→edge: (req 1) not-resumed
         core→edge: resumed accepted=6
         S: <resumed xmlns='urn:xmpp:sm:3' h='6' previd='x'/>",
    );
}

/// A client without XEP-0198 answers a ping behind what came from the log; any answer will do, and nobody else sees it.
#[test]
fn a_ping_stands_in_for_acknowledgements() {
    check(
        "- binds
         core→edge: deliver <presence/>
         S: <presence to='juliet@im.example'/>
         core→edge: deliver row=5 <message id='1'/>
         S: <message to='juliet@im.example' id='1'/><iq to='juliet@im.example/balcony' from='im.example' id='ping-1.7-2' type='get'><ping xmlns='urn:xmpp:ping'/></iq>
         core→edge: deliver row=6 <message id='2'/>
         S: <message to='juliet@im.example' id='2'/>
         C: <iq type='result' id='ping-1.7-2' to='romeo@im.example'/>
         edge→core: submit 1 *
         core→edge: accepted 1
         C: <iq type='result' id='ping-1.7-2' to='im.example'/>
         edge→core: acked 2
         S: <iq to='juliet@im.example/balcony' from='im.example' id='ping-1.7-3' type='get'><ping xmlns='urn:xmpp:ping'/></iq>
         C: <iq type='error' id='ping-1.7-3'><error type='cancel'/></iq>
         edge→core: acked 3
         - is idle",
    );
    // Asked before counting began, answered behind: the answer is one of the client's stanzas, and counts.
    check(
        "- binds
         core→edge: deliver row=5 <message id='1'/>
         S: <message to='juliet@im.example' id='1'/><iq *id='ping-1.7-1'*</iq>
         C: <enable xmlns='urn:xmpp:sm:3'/><iq type='result' id='ping-1.7-1'/>
         edge→core: enable
         core→edge: enabled
         S: <enabled xmlns='urn:xmpp:sm:3'/>
         edge→core: acked 1
         edge→core: submit 1 <iq from='juliet@im.example/balcony' id='ping-1.7-1' type='result'/>",
    );
}

/// XEP-0352 §5.1: between the stanzas before and behind it. §5.2: a resumed stream is active.
#[test]
fn client_state_keeps_its_place_among_stanzas() {
    check(
        "- binds
         C: <active xmlns='urn:xmpp:csi:0'/>
         C: <presence/><inactive xmlns='urn:xmpp:csi:0'/><message/><active xmlns='urn:xmpp:csi:0'/><message/>
         edge→core: submit 1 <presence from='juliet@im.example/balcony'/>
         edge→core: inactive
         edge→core: submit 2 <message from='juliet@im.example/balcony'/>
         edge→core: active
         edge→core: submit 3 <message from='juliet@im.example/balcony'/>",
    );
    check("- logs in\nC: <inactive xmlns='urn:xmpp:csi:0'/>\n- reads");
}
