use super::*;
use crate::client::{Client, ClientError};
use crate::credentials::{ITERATIONS_MIN, Keys};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use std::sync::LazyLock;

const EXPORTER: &[u8] = &[7; 32];
const NONCE: &str = "fyko+d2lbbFgONRv9qkxdawL";

/// One account for all tests: PBKDF2 is slow in debug builds.
static PENCIL: LazyLock<Credentials> = LazyLock::new(|| Credentials::derive("pencil", &[1; 32], ITERATIONS_MIN).unwrap());
static DECOY: LazyLock<Credentials> = LazyLock::new(|| Credentials::decoy(&[9; 32], "user", ITERATIONS_MIN));

fn both() -> ChannelBinding {
    ChannelBinding::Both { tls_exporter: EXPORTER.to_vec(), tls_server_end_point: vec![8; 32] }
}

fn server_of(mechanism: Mechanism, plus_offered: bool, channel_binding: ChannelBinding) -> Server {
    let domain = BareJid::from_domain("example.com").unwrap();
    Server::new(mechanism, Offer { domain, plus_offered, channel_binding }, [3; 24])
}

/// A server on TLS that offers everything.
fn server(mechanism: Mechanism) -> Server {
    server_of(mechanism, true, both())
}

/// Run a login until it ends; the client verifies the server.
fn login(server: &mut Server, client: &mut Client, credentials: &Credentials) -> Step {
    let mut step = server.handle_initial(&client.initial());
    loop {
        step = match step {
            Step::NeedCredentials { username } => {
                assert_eq!(username, "user");
                server.handle_credentials(credentials.clone())
            }
            Step::Challenge(challenge) => server.handle_response(&client.handle_challenge(&challenge).unwrap()),
            Step::VerifyPlain { credentials, password } => server.handle_plain_verified(credentials.verify_plain(password.as_str())),
            Step::Success { username, additional } => {
                assert_eq!(client.handle_success(additional.as_deref()), Ok(()));
                return Step::Success { username, additional };
            }
            Step::Failure(_) => return step,
        };
    }
}

#[track_caller]
fn refuse_initial(mechanism: Mechanism, message: &[u8], condition: Condition) {
    let mut server = server(mechanism);
    assert_eq!(server.handle_initial(message), Step::Failure(condition), "{mechanism} {:?}", message.escape_ascii().to_string());
    assert_eq!(server.handle_credentials(PENCIL.clone()), Step::Failure(Condition::MalformedRequest));
}

#[track_caller]
fn accept_initial(mechanism: Mechanism, message: &[u8]) {
    let step = server(mechanism).handle_initial(message);
    assert_eq!(step, Step::NeedCredentials { username: "user".into() }, "{mechanism} {:?}", message.escape_ascii().to_string());
}

/// Feed messages that are known in advance.
#[track_caller]
fn check_vector(mechanism: Mechanism, salt: &str, nonce: &str, script: [&str; 4]) {
    let keys = |hash| Keys::derive(hash, "pencil", &STANDARD.decode(salt).unwrap(), 4096).unwrap();
    let credentials = Credentials::from_keys(keys(Hash::Sha1), keys(Hash::Sha256)).unwrap();
    let offer = Offer { domain: BareJid::from_domain("example.com").unwrap(), plus_offered: false, channel_binding: ChannelBinding::None };
    let mut server = Server::with_server_nonce(mechanism, offer, nonce.to_owned());
    assert_eq!(server.handle_initial(script[0].as_bytes()), Step::NeedCredentials { username: "user".into() });
    assert_eq!(server.handle_credentials(credentials), Step::Challenge(script[1].into()));
    let success = Step::Success { username: "user".into(), additional: Some(script[3].into()) };
    assert_eq!(server.handle_response(script[2].as_bytes()), success);
    assert_eq!(server.handle_response(script[2].as_bytes()), Step::Failure(Condition::MalformedRequest));
}

/// RFC 5802 §5.
#[test]
fn vector_of_scram_sha_1() {
    check_vector(
        Mechanism::ScramSha1,
        "QSXCR+Q6sek8bf92",
        "3rfcNHYJY1ZVvWVs7j",
        [
            "n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL",
            "r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096",
            "c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
            "v=rmF9pqV8S7suAoZWja4dJRkFsKQ=",
        ],
    );
}

/// RFC 7677 §3.
#[test]
fn vector_of_scram_sha_256() {
    check_vector(
        Mechanism::ScramSha256,
        "W22ZaJ0SNY7soEsUEjb6gQ==",
        "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0",
        [
            "n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
            "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
            "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
        ],
    );
}

#[test]
fn every_mechanism_logs_in_and_refuses_a_wrong_password() {
    for mechanism in Mechanism::ALL {
        for binding in [ChannelBinding::TlsExporter(EXPORTER.to_vec()), ChannelBinding::TlsServerEndPoint(vec![8; 32])] {
            let mut right = Client::new(mechanism, "user", "pencil", &binding, NONCE);
            let step = login(&mut server(mechanism), &mut right, &PENCIL);
            assert!(matches!(&step, Step::Success { username, .. } if username == "user"), "{mechanism}: {step:?}");
            let mut wrong = Client::new(mechanism, "user", "pencil ", &binding, NONCE);
            assert_eq!(login(&mut server(mechanism), &mut wrong, &PENCIL), Step::Failure(Condition::NotAuthorized), "{mechanism}");
            // Case, width: another spelling of the same account.
            let mut other = Client::new(mechanism, "U\u{ff33}er", "pencil", &binding, NONCE);
            assert!(matches!(login(&mut server(mechanism), &mut other, &PENCIL), Step::Success { .. }), "{mechanism}");
        }
    }
}

#[test]
fn an_empty_challenge_asks_for_the_initial_response() {
    for mechanism in Mechanism::ALL {
        let mut server = server(mechanism);
        assert_eq!(server.handle_no_initial(), Step::Challenge(Vec::new()));
        let binding = ChannelBinding::TlsExporter(EXPORTER.to_vec());
        let message = Client::new(mechanism, "user", "pencil", &binding, NONCE).initial();
        assert_eq!(server.handle_response(&message), Step::NeedCredentials { username: "user".into() });
        assert_eq!(server.handle_no_initial(), Step::Failure(Condition::MalformedRequest));
    }
}

/// F05.
#[test]
fn plain_by_its_grammar() {
    for malformed in [
        &b""[..],
        b"user",
        b"\0user",
        b"user\0pencil",
        b"\0\0pencil",
        b"\0user\0pencil\0",
        b"\0user\0pen\0cil",
        b"\0us\xff\0p",
        b"\0user\0\xc0\x80",
    ] {
        refuse_initial(Mechanism::Plain, malformed, Condition::MalformedRequest);
    }
    refuse_initial(Mechanism::Plain, b"\0user\0", Condition::NotAuthorized);
    let long = [b"\0user\0".as_slice(), &vec![b'a'; 1 << 20]].concat();
    refuse_initial(Mechanism::Plain, &long, Condition::MalformedRequest);
    accept_initial(Mechanism::Plain, b"\0user\0pencil");
}

/// F10, F11, F12.
#[test]
fn the_authorization_identity_is_ones_own() {
    for own in ["user@example.com", "USER@example.com", "user@EXAMPLE.com", "user@example.com.", "u\u{ff33}er@example.com"] {
        accept_initial(Mechanism::Plain, format!("{own}\0user\0pencil").as_bytes());
        accept_initial(Mechanism::ScramSha1, format!("n,a={own},n=user,r=x").as_bytes());
    }
    let refused = [
        "victim@example.com",
        "victim",
        "user",
        "example.com",
        "user@example.com/r",
        "user@example.net",
        "user@sub.example.com",
        "user@ex\u{430}mple.com",
        "us\u{435}r@example.com",
        "user @example.com",
        "@example.com",
        "user@",
        "user@example.com@example.com",
    ];
    for other in refused {
        refuse_initial(Mechanism::Plain, format!("{other}\0user\0pencil").as_bytes(), Condition::InvalidAuthzid);
        refuse_initial(Mechanism::ScramSha256, format!("n,a={other},n=user,r=x").as_bytes(), Condition::InvalidAuthzid);
    }
    // Escapes are undone before it is compared.
    refuse_initial(Mechanism::ScramSha256, b"n,a=user=2Cx@example.com,n=user,r=x", Condition::InvalidAuthzid);
}

/// An own authorization identity is part of what is signed.
#[test]
fn the_authorization_identity_is_protected() {
    let mut client =
        Client::new(Mechanism::ScramSha256, "user", "pencil", &ChannelBinding::None, NONCE).with_gs2_header("n,a=user@example.com,");
    assert!(matches!(login(&mut server(Mechanism::ScramSha256), &mut client, &PENCIL), Step::Success { .. }));
    let mut server = server(Mechanism::ScramSha256);
    let honest = Client::new(Mechanism::ScramSha256, "user", "pencil", &ChannelBinding::None, NONCE);
    server.handle_initial(&honest.initial());
    let Step::Challenge(challenge) = server.handle_credentials(PENCIL.clone()) else { panic!() };
    let mut changed = honest.with_gs2_header("n,a=user@example.com,");
    assert_eq!(server.handle_response(&changed.handle_challenge(&challenge).unwrap()), Step::Failure(Condition::NotAuthorized));
}

/// F23: a name that can be nobody's.
#[test]
fn names_that_cannot_be() {
    for name in
        ["us er", "user ", "user@example.com", "us/er", "us:er", "\u{2170}", "us\u{ad}er", "us\u{200b}er", "\"user\"", &"u".repeat(1024)]
    {
        refuse_initial(Mechanism::Plain, format!("\0{name}\0pencil").as_bytes(), Condition::NotAuthorized);
        refuse_initial(Mechanism::ScramSha1, format!("n,,n={name},r=x").as_bytes(), Condition::NotAuthorized);
    }
}

/// F14.
#[test]
fn a_stripped_list_of_mechanisms_is_noticed() {
    for mechanism in [Mechanism::ScramSha1, Mechanism::ScramSha256] {
        refuse_initial(mechanism, b"y,,n=user,r=x", Condition::NotAuthorized);
        let mut without = server_of(mechanism, false, ChannelBinding::None);
        let mut client = Client::new(mechanism, "user", "pencil", &ChannelBinding::None, NONCE).with_gs2_header("y,,");
        assert!(matches!(login(&mut without, &mut client, &PENCIL), Step::Success { .. }));
        // Turning `y` into `n` on the way is noticed too: the header is signed.
        let mut server = server(mechanism);
        server.handle_initial(&Client::new(mechanism, "user", "pencil", &ChannelBinding::None, NONCE).initial());
        let Step::Challenge(challenge) = server.handle_credentials(PENCIL.clone()) else { panic!() };
        assert_eq!(server.handle_response(&client.handle_challenge(&challenge).unwrap()), Step::Failure(Condition::NotAuthorized));
    }
}

/// F15.
#[test]
fn the_channel_must_be_the_same() {
    for mechanism in [Mechanism::ScramSha1Plus, Mechanism::ScramSha256Plus] {
        let other_channel = ChannelBinding::TlsExporter(vec![6; 32]);
        let mut client = Client::new(mechanism, "user", "pencil", &other_channel, NONCE);
        assert_eq!(login(&mut server(mechanism), &mut client, &PENCIL), Step::Failure(Condition::NotAuthorized));
        // The data of one type under the name of the other.
        let mut client = Client::new(mechanism, "user", "pencil", &ChannelBinding::TlsExporter(vec![8; 32]), NONCE);
        assert_eq!(login(&mut server(mechanism), &mut client, &PENCIL), Step::Failure(Condition::NotAuthorized));
        // No data.
        let mut client = Client::new(mechanism, "user", "pencil", &ChannelBinding::None, NONCE).with_gs2_header("p=tls-exporter,,");
        assert_eq!(login(&mut server(mechanism), &mut client, &PENCIL), Step::Failure(Condition::NotAuthorized));
        for unknown in ["p=tls-unique,,n=user,r=x", "p=TLS-EXPORTER,,n=user,r=x", "p=x,,n=user,r=x"] {
            refuse_initial(mechanism, unknown.as_bytes(), Condition::NotAuthorized);
        }
        refuse_initial(mechanism, b"n,,n=user,r=x", Condition::MalformedRequest);
        refuse_initial(mechanism, b"y,,n=user,r=x", Condition::MalformedRequest);
        // A type that this channel has not.
        let mut only = server_of(mechanism, true, ChannelBinding::TlsServerEndPoint(vec![8; 32]));
        assert_eq!(only.handle_initial(b"p=tls-exporter,,n=user,r=x"), Step::Failure(Condition::NotAuthorized));
    }
    refuse_initial(Mechanism::ScramSha1, b"p=tls-exporter,,n=user,r=x", Condition::MalformedRequest);
}

/// Bring a server to its challenge and answer with `change` of the right answer.
fn answer(change: impl FnOnce(String) -> String) -> Step {
    let mut server = server(Mechanism::ScramSha1);
    let mut client = Client::new(Mechanism::ScramSha1, "user", "pencil", &ChannelBinding::None, NONCE);
    server.handle_initial(&client.initial());
    let Step::Challenge(challenge) = server.handle_credentials(PENCIL.clone()) else { panic!() };
    let answer = String::from_utf8(client.handle_challenge(&challenge).unwrap()).unwrap();
    server.handle_response(change(answer).as_bytes())
}

/// Replace the value of an attribute.
fn set(message: &str, name: &str, value: &str) -> String {
    let start = message.find(name).unwrap() + name.len();
    let end = message[start..].find(',').map_or(message.len(), |e| start + e);
    format!("{}{value}{}", &message[..start], &message[end..])
}

/// F16 and F17.
#[test]
fn the_last_message_must_be_right() {
    assert!(matches!(answer(|m| m), Step::Success { .. }));
    let zero = STANDARD.encode([0; 20]);
    let not_authorized: [&dyn Fn(String) -> String; 6] = [
        &|m| set(&m, ",p=", &zero),
        &|m| set(&m, "c=", "eSws"),
        &|m| set(&m, "c=", ""),
        &|m| set(&m, "r=", NONCE),
        &|m| set(&m, "r=", &format!("{NONCE}AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwME")),
        // An extension that the proof does not cover.
        &|m| m.replace(",p=", ",x=1,p="),
    ];
    for (i, change) in not_authorized.into_iter().enumerate() {
        assert_eq!(answer(change), Step::Failure(Condition::NotAuthorized), "{i}");
    }
    let malformed: [&dyn Fn(String) -> String; 9] = [
        &|_| String::new(),
        &|m| set(&m, "r=", ""),
        &|m| set(&m, "r=", "another"),
        &|m| set(&m, "r=", &format!("{NONCE}{}", "A".repeat(10_000))),
        &|m| set(&m, "r=", &"A".repeat(10_000)),
        &|m| set(&m, ",p=", ""),
        &|m| set(&m, ",p=", &STANDARD.encode([0; 19])),
        &|m| set(&m, ",p=", &STANDARD.encode([0; 32])),
        &|m| m.replace("c=", "m=1,c="),
    ];
    for (i, change) in malformed.into_iter().enumerate() {
        assert_eq!(answer(change), Step::Failure(Condition::MalformedRequest), "{i}");
    }
}

/// F17: what was right on one stream is wrong on the next, and for another user.
#[test]
fn an_old_exchange_cannot_be_replayed() {
    let mechanism = Mechanism::ScramSha256;
    let mut client = Client::new(mechanism, "user", "pencil", &ChannelBinding::None, NONCE);
    let mut first = server(mechanism);
    first.handle_initial(&client.initial());
    let Step::Challenge(challenge) = first.handle_credentials(PENCIL.clone()) else { panic!() };
    let last = client.handle_challenge(&challenge).unwrap();
    assert!(matches!(first.handle_response(&last), Step::Success { .. }));
    let offer = Offer { domain: BareJid::from_domain("example.com").unwrap(), plus_offered: true, channel_binding: both() };
    let mut second = Server::new(mechanism, offer, [4; 24]);
    second.handle_initial(&client.initial());
    second.handle_credentials(PENCIL.clone());
    assert_eq!(second.handle_response(&last), Step::Failure(Condition::NotAuthorized));
    let mut third = server(mechanism);
    third.handle_initial(format!("n,,n=other,r={NONCE}").as_bytes());
    third.handle_credentials(PENCIL.clone());
    assert_eq!(third.handle_response(&last), Step::Failure(Condition::NotAuthorized));
}

/// F19: the same steps and the same bytes but for the salt, whether the account exists or not, even for a client that
/// has the decoy's keys.
#[test]
fn an_unknown_account_looks_like_a_wrong_password() {
    for mechanism in Mechanism::ALL {
        let binding = ChannelBinding::TlsExporter(EXPORTER.to_vec());
        let steps = |credentials: &Credentials| {
            let mut server = server(mechanism);
            let mut client = Client::new(mechanism, "user", "wrong", &binding, NONCE);
            server.handle_initial(&client.initial());
            match server.handle_credentials(credentials.clone()) {
                Step::Challenge(challenge) => {
                    let text = String::from_utf8(challenge.clone()).unwrap();
                    (set(&text, "s=", ""), text.len(), server.handle_response(&client.handle_challenge(&challenge).unwrap()))
                }
                Step::VerifyPlain { credentials, password } => {
                    (String::new(), 0, server.handle_plain_verified(credentials.verify_plain(password.as_str())))
                }
                other => panic!("{other:?}"),
            }
        };
        let (known, unknown) = (steps(&PENCIL), steps(&DECOY));
        assert_eq!(known, unknown, "{mechanism}");
        assert_eq!(known.2, Step::Failure(Condition::NotAuthorized));
    }
    // Even with the right keys: what is marked as a decoy never verifies.
    let mut marked = PENCIL.encode();
    marked[1] = 1;
    let marked = Credentials::decode(&marked).unwrap();
    for mechanism in Mechanism::ALL {
        let mut client = Client::new(mechanism, "user", "pencil", &ChannelBinding::TlsExporter(EXPORTER.to_vec()), NONCE);
        assert_eq!(login(&mut server(mechanism), &mut client, &marked), Step::Failure(Condition::NotAuthorized));
    }
}

/// A server that does not know the password is refused by the client.
#[test]
fn the_client_verifies_the_server() {
    let mut client = Client::new(Mechanism::ScramSha1, "user", "pencil", &ChannelBinding::None, NONCE);
    client.handle_challenge(format!("r={NONCE}x,s=AAAA,i=4096").as_bytes()).unwrap();
    for data in [None, Some(&b"v="[..]), Some(b"v=rmF9pqV8S7suAoZWja4dJRkFsKQ="), Some(b"e=other-error")] {
        assert_eq!(client.handle_success(data), Err(ClientError::Signature));
    }
}

#[test]
fn calls_out_of_turn_fail_the_login() {
    let out_of_turn: [&dyn Fn(&mut Server) -> Step; 3] =
        [&|s| s.handle_credentials(PENCIL.clone()), &|s| s.handle_plain_verified(true), &|s| s.handle_no_initial()];
    for mechanism in [Mechanism::ScramSha256, Mechanism::Plain] {
        let initial = Client::new(mechanism, "user", "pencil", &ChannelBinding::None, NONCE).initial();
        for (i, call) in out_of_turn.iter().enumerate() {
            let mut fresh = server(mechanism);
            if i < 2 {
                assert_eq!(call(&mut fresh), Step::Failure(Condition::MalformedRequest));
                assert_eq!(fresh.handle_initial(&initial), Step::Failure(Condition::MalformedRequest));
            }
            let mut waiting = server(mechanism);
            waiting.handle_initial(&initial);
            if i > 0 {
                assert_eq!(call(&mut waiting), Step::Failure(Condition::MalformedRequest));
                assert_eq!(waiting.handle_credentials(PENCIL.clone()), Step::Failure(Condition::MalformedRequest));
            }
        }
        let mut waiting = server(mechanism);
        waiting.handle_initial(&initial);
        assert_eq!(waiting.handle_initial(&initial), Step::Failure(Condition::MalformedRequest));
        let mut waiting = server(mechanism);
        waiting.handle_initial(&initial);
        assert_eq!(waiting.handle_response(&initial), Step::Failure(Condition::MalformedRequest));
    }
}

#[test]
fn nothing_secret_is_printed() {
    let mut server = server(Mechanism::Plain);
    server.handle_initial(b"\0user\0canary-pencil");
    let before = format!("{server:?}");
    let step = server.handle_credentials(PENCIL.clone());
    let printed = format!("{before}{server:?}{step:?}{:?}{:?}", PENCIL.keys(Hash::Sha1), both());
    assert!(!printed.contains("canary"), "{printed}");
    assert!(!printed.contains("7, 7"), "{printed}");
    let key = format!("{:?}", PENCIL.keys(Hash::Sha256).stored_key());
    assert!(!printed.contains(key.trim_matches(['[', ']'])), "{printed}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// Whatever comes: no panic, and no success.
    #[test]
    fn any_bytes(initial in any::<Vec<u8>>(), response in any::<Vec<u8>>(), which in 0usize..5) {
        let mut server = server(Mechanism::ALL[which]);
        let steps = [server.handle_initial(&initial), server.handle_credentials(PENCIL.clone()), server.handle_response(&response)];
        let any_success = steps.iter().any(|s| matches!(s, Step::Success { .. }));
        prop_assert!(!any_success);
    }

    /// Nearly right messages: no panic, and no success without the right proof.
    #[test]
    fn nearly_right(
        header in "(n|y|p=tls-exporter|p=tls-unique),(a=user@example.com)?,",
        name in "user|us=2Cer|[a-z=,]{1,4}",
        response in "c=(biws|eSws|[a-zA-Z0-9+/=]{0,8}),r=fyko[a-zA-Z0-9+/]{0,40}(,[a-z]=[a-z]{0,3})?,p=[a-zA-Z0-9+/]{27}=",
        which in 0usize..5,
    ) {
        let mut server = server(Mechanism::ALL[which]);
        server.handle_initial(format!("{header}n={name},r=fyko").as_bytes());
        server.handle_credentials(PENCIL.clone());
        let step = server.handle_response(response.as_bytes());
        let success = matches!(step, Step::Success { .. });
        prop_assert!(!success);
    }
}

/// Each single byte of a right answer changed: never a success.
#[test]
fn every_byte_of_the_answer_counts() {
    let length = {
        let mut length = 0;
        answer(|m| {
            length = m.len();
            m
        });
        length
    };
    for at in 0..length {
        let step = answer(|m| {
            let mut bytes = m.into_bytes();
            bytes[at] ^= 1;
            String::from_utf8(bytes).unwrap()
        });
        assert!(matches!(step, Step::Failure(Condition::NotAuthorized | Condition::MalformedRequest)), "{at}: {step:?}");
    }
}
