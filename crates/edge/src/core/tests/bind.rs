//! Resource binding (RFC 6120 §7; RELIABILITY §4c, group G).

use super::check;

#[test]
fn a_resource_is_bound() {
    check(
        "- logs in
         C: <iq type='set' id='1'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>
         edge→core: bind anything
         - reads nothing
         core→edge: bound
         S: <iq id='1' type='result'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'>
            <jid>juliet@im.example/balcony</jid></bind></iq>
         - reads
         # G02: once for each stream.
         C: <iq type='set' id='2'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>
         S: <iq to='juliet@im.example/balcony' from='juliet@im.example' id='2' type='error'><error type='cancel'>
            <not-allowed xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>
         # RFC 3921 §3.
         C: <iq type='set' id='3'><session xmlns='urn:ietf:params:xml:ns:xmpp-session'/></iq>
         S: <iq to='juliet@im.example/balcony' from='juliet@im.example' id='3' type='result'/>",
    );
}

#[test]
fn binding_can_be_refused_and_tried_again() {
    // G03: what PRECIS does not allow, and what is too long.
    for resource in ["\\x7f", "{1024 r}"] {
        check(&format!(
            "- logs in
             C: <iq type='set' id='1'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>{resource}</resource></bind></iq>
             S: <iq id='1' type='error'><error type='modify'><bad-request xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>"
        ));
    }
    // G05, and who comes later.
    check(
        "- logs in
         C: <iq type='set' id='1'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>balcony</resource></bind></iq>
         edge→core: bind balcony
         core→edge: unbound resource-constraint
         S: <iq id='1' type='error'><error type='wait'><resource-constraint xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>
         C: <iq type='set' id='2'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>balcony</resource></bind></iq>
         edge→core: bind balcony
         - owner of epoch 2
         edge→core: bind balcony
         core→edge: (epoch 1) bound
         core→edge: bound
         S: <iq id='2' type='result'>*",
    );
    // Given twice, or too late: what nobody holds is given back.
    check(
        "- logs in
         C: <iq type='set' id='1'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>
         edge→core: bind anything
         - owner of epoch 1
         edge→core: bind anything
         core→edge: (req 2) bound
         edge→core: close a1
         core→edge: (attach 2) bound
         S: <iq id='1' type='result'>*
         core→edge: (req 2) bound",
    );
    check(
        "- logs in
         C: <resume xmlns='urn:xmpp:sm:3' h='0' previd='x'/>
         edge→core: resume x h=0
         - socket breaks
         - is not done
         core→edge: resumed accepted=1
         edge→core: detach a1
         - is done",
    );
    // The same for one that is new. One that never comes is not waited for longer than LEAVE_WITHIN.
    check(
        "- logs in
         C: <iq type='set' id='1'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>
         edge→core: bind anything
         - socket breaks
         - is not done
         core→edge: bound
         edge→core: close a1
         - is done",
    );
    check(
        "- logs in
         C: <iq type='set' id='1'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>
         edge→core: bind anything
         - socket breaks
         - is not done
         - 60 s pass
         - is done",
    );
}

/// G01, F01: nothing but binding before binding, nothing but login before login.
#[test]
fn stanzas_come_after_binding() {
    let error = "<stream:error><not-authorized xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>";
    for stanza in [
        "<message to='romeo@im.example'/>",
        "<presence/>",
        "<iq type='get' id='1'><query xmlns='jabber:iq:roster'/></iq>",
        "<iq type='get' id='1'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>",
        "<message to='@'/>",
    ] {
        check(&format!("- logs in\nC: {stanza}\nS: {error}\n- closes\n- is done"));
        check(&format!("C: {{header}}\nS: *</stream:features>\nC: {stanza}\nS: {error}\n- closes\n- is done"));
    }
}

/// G04: another stream took the resource; and what else ends a session from afar.
#[test]
fn a_session_is_ended_by_its_account() {
    for (reason, condition) in [
        ("conflict", "conflict"),
        ("not-authorized", "not-authorized"),
        ("resource-constraint", "resource-constraint"),
        ("policy-violation", "policy-violation"),
        ("internal", "internal-server-error"),
    ] {
        check(&format!(
            "- binds
             core→edge: (attach 9) ended {reason}
             core→edge: (epoch 2) ended {reason}
             core→edge: ended {reason}
             S: <stream:error><{condition} xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>
             - closes
             - is done"
        ));
    }
}
