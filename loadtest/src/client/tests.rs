//! Logins against recorded servers, whose bytes arrive in pieces of any size.

use super::websocket;
use super::*;
use crate::tls::{self, Trust};
use futures::{SinkExt as _, StreamExt as _};
use proptest::prelude::*;
use std::net::{Ipv4Addr, SocketAddr};
use tokio::io::DuplexStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};

/// Of the loopback within the process: a piece is never larger than its buffer.
const PIECE_MAX: usize = 4096;
const HEADER: &str =
    "<?xml version='1.0'?>\n<stream:stream xmlns='jabber:client' xmlns:stream=\"http://etherx.jabber.org/streams\" id='7' version='1.0'>";
/// RFC 7677 §3; the same challenge serves SCRAM-SHA-1.
const CHALLENGE: &str =
    "cj1yT3ByTkdmd0ViZVJXZ2JORWtxTyVodllEcFdVYTJSYVRDQWZ1eEZJbGopaE5sRiRrMCxzPVcyMlphSjBTTlk3c29Fc1VFamI2Z1E9PSxpPTQwOTY=";
const PROOF_1: &str = "dj1UcTFkS0tkRm9uZHpBcEdNQURBemNDTm1DcjQ9";
const PROOF_256: &str = "dj02cnJpVFJCaTIzV3BSUi93dHVwK21NaFVaVW4vZEI1bkxUSlJzamw5NUc0PQ==";
const RESPONDER: &str = "VXKmPgSWGVYJJzwjvopQub7mTgNpMkB55zJFv0RypbE=";

/// What the server waits for, and what it then sends.
type Script = Vec<(&'static str, String)>;

fn sasl(mechanism: &str, proof: &str) -> Script {
    let features = format!(
        "<stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>{mechanism}</mechanism></mechanisms></stream:features>"
    );
    vec![
        ("xmlns:stream='http://etherx.jabber.org/streams'>", format!("{HEADER}{features}")),
        ("</auth>", format!("<challenge xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>{CHALLENGE}</challenge>")),
        ("</response>", format!("<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>{proof}</success>")),
        (
            "xmlns:stream='http://etherx.jabber.org/streams'>",
            format!("{HEADER} <stream:features><bind xmlns='{BIND}'/><sm xmlns='{SM}'><!--not XMPP--></sm></stream:features>")
                .replace("<!--not XMPP-->", "<![CDATA[<]]>"),
        ),
        ("</iq>", format!("<iq id='bind' type='result'><bind xmlns='{BIND}'><jid>user@localhost/r&amp;ä</jid></bind></iq>")),
    ]
}

fn sasl2(success: &str, challenge: bool) -> Script {
    let authentication = "<authentication xmlns='urn:xmpp:sasl:2'><mechanism>SCRAM-SHA-256</mechanism><inline><bind xmlns='urn:xmpp:bind:0'/>\
                          <fast xmlns='urn:xmpp:fast:0'><mechanism>HT-SHA-256-NONE</mechanism></fast></inline></authentication>";
    let mut script =
        vec![("xmlns:stream='http://etherx.jabber.org/streams'>", format!("{HEADER}<stream:features>{authentication}</stream:features>"))];
    let bound = "<authorization-identifier>user@localhost/r~1</authorization-identifier><bound xmlns='urn:xmpp:bind:0'/>";
    let success = format!("<success xmlns='urn:xmpp:sasl:2'>{success}{bound}</success><stream:features/>");
    if challenge {
        script.push(("</authenticate>", format!("<challenge xmlns='urn:xmpp:sasl:2'>{CHALLENGE}</challenge>")));
        script.push(("</response>", success));
    } else {
        script.push(("</authenticate>", success));
    }
    script
}

fn target(options: Options) -> Target {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    let config = tls::client(&Trust::Anybody).unwrap();
    Target { address, domain: "localhost".into(), tls: TlsMode::Plain, config, options }
}

fn account(token: Option<&str>) -> Account {
    let account = Account::new("user", "pencil");
    *account.token.lock().unwrap() = token.map(str::to_owned);
    account
}

/// Plays the server's side, cut where the sizes say, over and over.
async fn play(mut io: DuplexStream, script: Script, sizes: &[usize]) {
    let mut sizes = sizes.iter().copied().cycle();
    for (wanted, reply) in script {
        let (mut seen, mut byte) = (Vec::new(), [0]);
        while !seen.ends_with(wanted.as_bytes()) {
            assert_eq!(io.read(&mut byte).await.unwrap(), 1, "waiting for {wanted}, had {}", String::from_utf8_lossy(&seen));
            seen.push(byte[0]);
        }
        let mut rest = reply.as_bytes();
        while !rest.is_empty() {
            let (piece, more) = rest.split_at(sizes.next().unwrap_or(1).clamp(1, rest.len()));
            io.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
            rest = more;
        }
    }
}

async fn enter(io: Io, options: Options, account: &Account) -> Result<Connection> {
    let mut connection = Connection::over(io, "localhost");
    connection.start_stream(None).await?;
    connection.enter(&target(options), account, Some("r")).await?;
    Ok(connection)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// The JID of a login, or why there is none.
fn run(options: &Options, account: &Account, script: Script, sizes: &[usize]) -> Result<String> {
    runtime().block_on(async {
        let (client, server) = tokio::io::duplex(PIECE_MAX);
        let (connection, ()) = tokio::join!(enter(Io::Memory(client), options.clone(), account), play(server, script, sizes));
        Ok(connection?.jid)
    })
}

fn wished(mechanism: Mechanism) -> Options {
    Options { mechanism: Some(mechanism), ..Options::default() }
}

fn of(profile: Profile) -> Options {
    Options { profile, ..Options::default() }
}

#[track_caller]
fn every_way_in(sizes: &[usize]) {
    let jid = |options: &Options, account: &Account, script| run(options, account, script, sizes).unwrap();
    let fresh = account(None);
    assert_eq!(jid(&wished(Mechanism::ScramSha1), &fresh, sasl("SCRAM-SHA-1", PROOF_1)), "user@localhost/r&ä");
    assert_eq!(jid(&Options::default(), &fresh, sasl("SCRAM-SHA-256", PROOF_256)), "user@localhost/r&ä");
    let proof = format!("<additional-data>{PROOF_256}</additional-data>");
    assert_eq!(jid(&of(Profile::Sasl2), &fresh, sasl2(&proof, true)), "user@localhost/r~1");
    let with_token = proof + "<token xmlns='urn:xmpp:fast:0' expiry='2030-01-01T00:00:00Z' token='secret-token'/>";
    assert_eq!(jid(&of(Profile::Fast), &fresh, sasl2(&with_token, true)), "user@localhost/r~1");
    assert_eq!(fresh.token.lock().unwrap().as_deref(), Some("secret-token"));
    let by_token = format!("<additional-data>{RESPONDER}</additional-data>");
    assert_eq!(jid(&of(Profile::Fast), &fresh, sasl2(&by_token, false)), "user@localhost/r~1");
}

#[test]
fn logins_byte_by_byte_and_whole() {
    every_way_in(&[1]);
    every_way_in(&[PIECE_MAX]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn logins_in_any_pieces(sizes in proptest::collection::vec(1..90_usize, 1..20)) {
        every_way_in(&sizes);
    }
}

#[test]
fn a_server_that_does_not_know_the_secret_is_refused() {
    let wrong = |options, account: Account, script| format!("{:#}", run(&options, &account, script, &[PIECE_MAX]).unwrap_err());
    assert!(wrong(Options::default(), account(None), sasl("SCRAM-SHA-256", PROOF_1)[..3].to_vec()).contains("signature is wrong"));
    let answer = format!("<additional-data>{PROOF_256}</additional-data>");
    let script = sasl2(&answer, false);
    assert!(wrong(of(Profile::Fast), account(Some("secret-token")), script).contains("does not know the token"));
}

#[test]
fn what_is_not_offered_is_named() {
    let why = |options, account: Account, script: Script| format!("{:#}", run(&options, &account, script, &[3]).unwrap_err());
    let first = |mut script: Script| script.drain(..1).collect::<Script>();
    let scram = || first(sasl("SCRAM-SHA-256", ""));
    assert_eq!(why(wished(Mechanism::ScramSha1), account(None), scram()), "the server offers no SCRAM-SHA-1, but SCRAM-SHA-256");
    assert_eq!(why(of(Profile::Sasl2), account(None), scram()), "the server offers no SASL2 (XEP-0388) here");
    let plain = first(sasl("PLAIN", ""));
    assert_eq!(why(Options::default(), account(None), plain), "the server offers no mechanism that can be used here, but PLAIN");
    let mut poor = first(sasl2("", false));
    poor[0].1 = poor[0].1.replace("<fast xmlns='urn:xmpp:fast:0'><mechanism>HT-SHA-256-NONE</mechanism></fast>", "");
    let no_fast = "the server offers no FAST (XEP-0484) with HT-SHA-256-NONE";
    assert_eq!(why(of(Profile::Fast), account(None), poor), no_fast);
}

/// Passes on what the server sends, in pieces once the WebSocket is there: the library takes many small pieces before it
/// for an attack.
async fn cut(from: DuplexStream, to: DuplexStream, piece: usize) {
    let ((mut from, mut back), (mut reader, mut to)) = (tokio::io::split(from), tokio::io::split(to));
    let cutting = async {
        let (mut bytes, mut open) = (vec![0; PIECE_MAX], false);
        while let Ok(n @ 1..) = from.read(&mut bytes).await {
            for part in bytes[..n].chunks(if open { piece } else { PIECE_MAX }) {
                if to.write_all(part).await.is_err() {
                    return;
                }
                tokio::task::yield_now().await;
            }
            open = true;
        }
        let _ = to.shutdown().await;
    };
    let _ = tokio::join!(cutting, async {
        let _ = tokio::io::copy(&mut reader, &mut back).await;
        let _ = back.shutdown().await;
    });
}

/// The same over a WebSocket.
fn over_websocket(options: &Options, script: Script, piece: usize) -> Result<String> {
    #[allow(clippy::result_large_err, reason = "the callback's type is the library's")]
    fn accept(request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
        assert_eq!(request.headers().get("sec-websocket-protocol").unwrap(), "xmpp");
        response.headers_mut().insert("sec-websocket-protocol", "xmpp".parse().unwrap());
        Ok(response)
    }
    runtime().block_on(async {
        let (client, to) = tokio::io::duplex(PIECE_MAX);
        let (from, server) = tokio::io::duplex(PIECE_MAX);
        let serve = async {
            let mut socket = tokio_tungstenite::accept_hdr_async(server, accept).await.unwrap();
            for (wanted, reply) in script {
                let wanted = if wanted.contains("xmlns:stream") { "/>" } else { wanted };
                let Some(Ok(Message::Text(text))) = socket.next().await else { panic!("waiting for {wanted}") };
                assert!(text.ends_with(wanted), "{text}");
                let features = reply.strip_prefix(HEADER).unwrap_or(&reply);
                if features.len() != reply.len() {
                    socket.send(Message::text("<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' id='7'/>")).await.unwrap();
                }
                for part in features.split_inclusive("</success>") {
                    let part = part.trim().replace("<stream:features", "<stream:features xmlns:stream='http://etherx.jabber.org/streams'");
                    socket.send(Message::text(part)).await.unwrap();
                }
            }
            let Some(Ok(Message::Text(text))) = socket.next().await else { panic!("waiting for the end") };
            assert_eq!(text.as_str(), "<close xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>");
            socket.send(Message::text(text)).await.unwrap();
            while let Some(Ok(_)) = socket.next().await {}
        };
        let enter = async {
            let io = Io::WebSocket(Box::new(websocket::Stream::open(Io::Memory(client), "localhost", "/ws").await?));
            let connection = enter(io, options.clone(), &account(None)).await?;
            let jid = connection.jid.clone();
            connection.close().await;
            anyhow::Ok(jid)
        };
        tokio::join!(enter, serve, cut(from, to, piece)).0
    })
}

#[test]
fn logins_over_websockets_in_pieces() {
    for piece in [1, 2, 3, 7, 64, PIECE_MAX] {
        assert_eq!(over_websocket(&Options::default(), sasl("SCRAM-SHA-256", PROOF_256), piece).unwrap(), "user@localhost/r&ä");
        let proof = format!("<additional-data>{PROOF_256}</additional-data>");
        assert_eq!(over_websocket(&of(Profile::Sasl2), sasl2(&proof, true), piece).unwrap(), "user@localhost/r~1");
    }
}

#[test]
fn refusals_have_their_condition() {
    let text = "<iq type='error'><query/><error type='cancel'><conflict xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/>\
                <text xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'>taken</text></error></iq>";
    let refused = Refused::of(&Element::parse(text.as_bytes(), b"").unwrap());
    assert_eq!(refused.to_string(), "refused: conflict (taken)");
    assert!(!refused.is_lacking());
    let lacking = Refused { condition: "service-unavailable".into(), text: String::new() };
    let error = or_lacking::<()>(Err(lacking.into()), "dance").unwrap_err();
    assert_eq!(error.to_string(), "the server offers no dance: service-unavailable");
}

#[test]
fn what_comes_before_management_is_on_is_not_the_answer() {
    let enabled = |before: &str, answer: &str| {
        let mut script = sasl("SCRAM-SHA-256", PROOF_256);
        script.push(("resume='true'/>", format!("{before}{answer}")));
        runtime().block_on(async {
            let (ours, theirs) = tokio::io::duplex(PIECE_MAX);
            let server = tokio::spawn(async move { play(theirs, script, &[7]).await });
            let mut connection = enter(Io::Memory(ours), Options::default(), &account(None)).await.unwrap();
            let id = connection.enable_resumption().await.map_err(|e| e.to_string());
            server.abort();
            id
        })
    };
    let answer = format!("<enabled xmlns='{SM}' id='x' resume='true'/>");
    assert_eq!(enabled("", &answer), Ok("x".into()));
    assert_eq!(enabled("<presence from='a@localhost/r'/><message/>", &answer), Ok("x".into()));
    assert!(enabled("", &format!("<failed xmlns='{SM}'/>")).unwrap_err().starts_with("XEP-0198"));
    assert!(enabled("<stream:error/>", &answer).is_err());
}
