//! From the first byte to authentication.

use super::script::{PASSWORD, keys};
use super::{check, check_with, settings};
use crate::core::{Connection, Output};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use frame::{CredentialsAnswer, EdgeMsg, ShardMsg, ToEdge};
use sasl::client::Client;
use sasl::{ChannelBinding, Mechanism};
use std::sync::Arc;
use stream::TlsInfo;
use types::{ConnId, Epoch, Now, ShardId};

/// RFC 6120 §9.1, RFC 7590, XEP-0440, XEP-0478: what is offered when.
#[test]
fn features_of_each_level() {
    let mut with_limits = settings();
    with_limits.features.limits = true;
    check_with(
        with_limits,
        "
        - connects in the clear
        C: {header}
        S: <?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'
           id='*' from='im.example' version='1.0' xml:lang='en'>
           <stream:features><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/></starttls>
           <limits xmlns='urn:xmpp:stream-limits:0'><max-bytes>10000</max-bytes></limits></stream:features>
        C: <starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>
        S: <proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>
        - starts tls
        - tls is there
        C: {header}
        S: *<stream:features><sasl-channel-binding xmlns='urn:xmpp:sasl-cb:0'><channel-binding type='tls-exporter'/></sasl-channel-binding>
           <mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>SCRAM-SHA-256-PLUS</mechanism>
           <mechanism>SCRAM-SHA-1-PLUS</mechanism><mechanism>SCRAM-SHA-256</mechanism><mechanism>SCRAM-SHA-1</mechanism>
           <mechanism>PLAIN</mechanism></mechanisms>
           <limits xmlns='urn:xmpp:stream-limits:0'><max-bytes>10000</max-bytes></limits></stream:features>
        C: <auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AGp1bGlldAByMG0zMG15cjBtMzA=</auth>
        edge→core: credentials
        core→edge: keys
        S: <success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>
        edge→core: login succeeded
        C: {header}
        S: *<stream:features><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/>
           <session xmlns='urn:ietf:params:xml:ns:xmpp-session'><optional/></session><sm xmlns='urn:xmpp:sm:3'/>
           <csi xmlns='urn:xmpp:csi:0'/><ver xmlns='urn:xmpp:features:rosterver'/><sub xmlns='urn:xmpp:features:pre-approval'/>
           <limits xmlns='urn:xmpp:stream-limits:0'><max-bytes>262144</max-bytes><idle-seconds>300</idle-seconds></limits>
           </stream:features>
        ",
    );
    // TLS 1.2 without extended master secret: no keying material, so nothing to bind to.
    check(
        "C: {header}
         S: *<stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>SCRAM-SHA-256</mechanism>
            <mechanism>SCRAM-SHA-1</mechanism><mechanism>PLAIN</mechanism></mechanisms></stream:features>",
    );
    // Where TLS may be left out, a password still does not cross in the clear.
    let mut clear = settings();
    clear.tls_required = false;
    check_with(
        clear,
        "- connects in the clear
         C: {header}
         S: *<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>
            <mechanism>SCRAM-SHA-256</mechanism><mechanism>SCRAM-SHA-1</mechanism></mechanisms></stream:features>",
    );
}

fn now() -> Now {
    Now::default()
}

/// Runs a login of the test client; the last XML that the server wrote, what the account was told, wrong proofs counted.
fn log_in(mechanism: Mechanism, tls: TlsInfo, client: Client, answer: CredentialsAnswer) -> (String, Vec<bool>, u8) {
    let mut client = client;
    let mut c = Connection::new(Arc::new(settings()), ConnId::default(), [7; 32], now(), Some(tls));
    c.set_server_end_point(vec![4; 32]);
    let header = "<stream:stream to='im.example' version='1.0' xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>";
    c.handle_bytes(now(), header.as_bytes());
    let mechanism = mechanism.name();
    let initial = STANDARD.encode(client.initial());
    c.handle_bytes(now(), format!("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='{mechanism}'>{initial}</auth>").as_bytes());
    let (mut last, mut ended) = (String::new(), Vec::new());
    while let Some(output) = c.poll_output() {
        match output {
            Output::Write(bytes) => {
                last = String::from_utf8(bytes).unwrap();
                if let Some(at) = last.find("<challenge xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>") {
                    let data = last[at..].split_once('>').unwrap().1.split_once('<').unwrap().0;
                    let response = STANDARD.encode(client.handle_challenge(&STANDARD.decode(data).unwrap()).unwrap());
                    let response = format!("<response xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>{response}</response>");
                    c.handle_bytes(now(), response.as_bytes());
                }
            }
            Output::Frame { body: EdgeMsg::Credentials { req }, .. } => {
                let body = ShardMsg::Credentials { req, answer: answer.clone() };
                c.handle_frame(now(), ToEdge { conn: ConnId::default(), shard: ShardId(0), epoch: Epoch(1), body });
            }
            Output::Frame { body: EdgeMsg::LoginEnded { ok }, .. } => ended.push(ok),
            Output::VerifyPlain { credentials, password } => {
                let ok = credentials.verify_plain(password.as_str());
                c.handle_plain_verified(now(), ok);
            }
            other => panic!("{other:?}"),
        }
    }
    (last, ended, c.failed_logins())
}

/// RFC 5802, RFC 7677, RFC 9266, RFC 5929: each mechanism, each binding, right and wrong.
#[test]
fn scram_with_and_without_channel_binding() {
    let known = CredentialsAnswer::Known(Bytes::from(keys().encode()));
    let tls = |byte| TlsInfo { sni: None, exporter: Some(vec![byte; 32]), version13: true };
    let exporter = |byte| ChannelBinding::TlsExporter(vec![byte; 32]);
    let end_point = |byte| ChannelBinding::TlsServerEndPoint(vec![byte; 32]);
    let check = |mechanism, binding: ChannelBinding, password, answer: &CredentialsAnswer, wanted: &str, ended: &[bool]| {
        let client = Client::new(mechanism, "juliet", password, &binding, "cnonce");
        let (last, logins, failed) = log_in(mechanism, tls(3), client, answer.clone());
        assert_eq!(failed, u8::from(wanted.contains("not-authorized")), "{mechanism} {binding:?}");
        assert!(last.contains(wanted), "{mechanism} {binding:?}: {last}");
        assert_eq!(logins, ended, "{mechanism} {binding:?}");
    };
    let none = ChannelBinding::None;
    for mechanism in Mechanism::ALL {
        let binding = if mechanism.is_plus() { exporter(3) } else { none.clone() };
        check(mechanism, binding.clone(), PASSWORD, &known, "<success", &[true]);
        check(mechanism, binding.clone(), "wrong", &known, "<not-authorized/>", &[false]);
        // F19: the same answer for nobody's account; there is no account to count it.
        check(mechanism, binding.clone(), PASSWORD, &CredentialsAnswer::Unknown, "<not-authorized/>", &[]);
        check(mechanism, binding.clone(), PASSWORD, &CredentialsAnswer::Locked, "<temporary-auth-failure/>", &[]);
        check(mechanism, binding, PASSWORD, &CredentialsAnswer::Busy, "<temporary-auth-failure/>", &[]);
    }
    // F15: another channel's keys.
    check(Mechanism::ScramSha256Plus, exporter(8), PASSWORD, &known, "<not-authorized/>", &[false]);
    check(Mechanism::ScramSha256Plus, end_point(4), PASSWORD, &known, "<success", &[true]);
    check(Mechanism::ScramSha256Plus, end_point(8), PASSWORD, &known, "<not-authorized/>", &[false]);
    // F14: `y` although -PLUS was offered: somebody has taken it from the list.
    let stripped = Client::new(Mechanism::ScramSha1, "juliet", PASSWORD, &none, "cnonce").with_gs2_header("y,,");
    assert!(log_in(Mechanism::ScramSha1, tls(3), stripped, known.clone()).0.contains("<not-authorized/>"));
    // F11, F12: an authorization identity.
    for (authzid, wanted) in [
        ("victim@im.example", "<invalid-authzid/>"),
        ("juliet@other.example", "<invalid-authzid/>"),
        ("juliet@im.example", "<success"),
        ("JULIET@im.example", "<success"),
        ("juliet@im.example/balcony", "<invalid-authzid/>"),
    ] {
        let client = Client::new(Mechanism::ScramSha1, "juliet", PASSWORD, &none, "cnonce");
        let client = client.with_gs2_header(&format!("n,a={authzid},"));
        let (last, ..) = log_in(Mechanism::ScramSha1, tls(3), client, known.clone());
        assert!(last.contains(wanted), "{authzid}: {last}");
    }
}

/// RFC 6120 §6.5.11: a server without time for a password says so; it is nobody's failure, and the client may try again.
#[test]
fn a_password_that_nobody_has_time_for() {
    let mut c = Connection::new(Arc::new(settings()), ConnId::default(), [7; 32], now(), Some(TlsInfo::default()));
    c.handle_bytes(
        now(),
        b"<stream:stream to='im.example' version='1.0' xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>",
    );
    let mut seen = Vec::new();
    for wanted in [None, Some(true)] {
        c.handle_bytes(now(), b"<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AGp1bGlldAByMG0zMG15cjBtMzA=</auth>");
        while let Some(output) = c.poll_output() {
            match output {
                Output::Write(bytes) => seen.push(String::from_utf8(bytes).unwrap()),
                Output::Frame { body: EdgeMsg::Credentials { req }, .. } => {
                    let answer = CredentialsAnswer::Known(Bytes::from(keys().encode()));
                    let body = ShardMsg::Credentials { req, answer };
                    c.handle_frame(now(), ToEdge { conn: ConnId::default(), shard: ShardId(0), epoch: Epoch(1), body });
                }
                Output::VerifyPlain { .. } => match wanted {
                    Some(ok) => c.handle_plain_verified(now(), ok),
                    None => c.handle_plain_unavailable(now()),
                },
                Output::Frame { body: EdgeMsg::LoginEnded { ok }, .. } => assert!(ok, "no failure of the account"),
                other => panic!("{other:?}"),
            }
        }
    }
    let [first, second] = &seen[..] else { panic!("{seen:?}") };
    assert!(first.ends_with("<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><temporary-auth-failure/></failure>"), "{first}");
    assert_eq!(second, "<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>");
    assert_eq!(c.failed_logins(), 0);
}

/// RELIABILITY §4c, group F, as far as it ends before keys are asked for.
#[test]
fn logins_that_fail_at_once() {
    let failures = |auth: &str, condition: &str| {
        check(&format!(
            "C: {{header}}
             S: *</stream:features>
             C: {auth}
             S: <failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><{condition}/></failure>",
        ));
    };
    let auth =
        |mechanism: &str, data: &str| format!("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='{mechanism}'>{data}</auth>");
    for (mechanism, data, condition) in [
        ("GSSAPI", "", "invalid-mechanism"),           // F02
        ("ANONYMOUS", "", "invalid-mechanism"),        // F03
        ("SCRAM-SHA-1-PLUS", "", "invalid-mechanism"), // F03: not on a stream without channel binding
        ("plain", "", "invalid-mechanism"),
        ("PLAIN", "AGp1b!", "incorrect-encoding"),       // F04
        ("PLAIN", "AGp1", "malformed-request"),          // F05: one NUL
        ("PLAIN", "AGp1bGlldA", "incorrect-encoding"),   // F04: padding
        ("PLAIN", "AGp1bGlld B=", "incorrect-encoding"), // F04: white space
        ("PLAIN", "AGp1bGlldAB=", "incorrect-encoding"), // F04: trailing bits
        ("PLAIN", "=", "malformed-request"),
        ("PLAIN", "AGp1bGlldAA=", "not-authorized"),          // F05: empty password
        ("PLAIN", "dmljdGltAGp1bGlldABy", "invalid-authzid"), // F10
        ("SCRAM-SHA-1", "biwsbj1qLHI9", "malformed-request"), // F16: empty nonce
    ] {
        failures(&auth(mechanism, data), condition);
    }
    failures("<response xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>", "malformed-request"); // F09
    failures("<abort xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>", "aborted"); // F24
    failures("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>", "invalid-mechanism");
    // E05: TLS comes first.
    check(&format!(
        "- connects in the clear
         C: {{header}}
         S: *</stream:features>
         C: {}
         S: <failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><encryption-required/></failure>",
        auth("PLAIN", "AGp1bGlldAByMG0zMG15cjBtMzA=")
    ));
}

/// F07, F09, F24: what a client does between the steps of a login.
#[test]
fn a_login_is_a_dialogue() {
    let settings = settings();
    check_with(
        settings.clone(),
        "
        C: {header}
        S: *</stream:features>
        # No initial response: an empty challenge asks for it (RFC 6120 §6.4.2).
        C: <auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='SCRAM-SHA-1'/>
        S: <challenge xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>
        C: <auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AGp1bGlldAByMG0zMG15cjBtMzA=</auth>
        S: <failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><malformed-request/></failure>
        C: <auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='SCRAM-SHA-1'/>
        S: <challenge xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>
        C: <abort xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>
        S: <failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><aborted/></failure>
        C: <auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AGp1bGlldAByMG0zMG15cjBtMzA=</auth>
        edge→core: credentials
        core→edge: unknown
        S: <failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><not-authorized/></failure>
        C: <auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AGp1bGlldAByMG0zMG15cjBtMzA=</auth>
        edge→core: credentials
        core→edge: unknown
        S: <stream:error><policy-violation xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>
        - closes
        - is done
        ",
    );
    // A wrong password of an account that exists is counted there, the last one too.
    check_with(
        stream::Settings { login_tries_max: 0, ..settings },
        "
        C: {header}
        S: *</stream:features>
        C: <auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AGp1bGlldAB3cm9uZw==</auth>
        edge→core: credentials
        core→edge: keys
        S: <stream:error><policy-violation xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>
        edge→core: login failed
        - closes
        ",
    );
}

/// Keys are asked for again when their owner changes; an old answer says nothing; silence is not waited for for ever.
#[test]
fn keys_come_late_or_from_another_owner() {
    check(
        "
        C: {header}
        S: *</stream:features>
        C: <auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AGp1bGlldAByMG0zMG15cjBtMzA=</auth>
        edge→core: credentials
        - reads nothing
        - owner of epoch 2
        edge→core: credentials
        core→edge: (req 1) unknown
        core→edge: (epoch 1) unknown
        core→edge: keys
        S: <success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>
        edge→core: login succeeded
        ",
    );
    check(
        "
        C: {header}
        S: *</stream:features>
        - link refuses
        C: <auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AGp1bGlldAByMG0zMG15cjBtMzA=</auth>
        - 1 s pass
        - link works
        - 1 s pass
        edge→core: credentials
        - 8 s pass
        S: <failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><temporary-auth-failure/></failure>
        core→edge: keys
        ",
    );
}
