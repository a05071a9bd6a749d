use super::*;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion};
use std::io::{Read, Write};

struct Pair {
    provider: TlsProvider,
    roots: Arc<RootCertStore>,
}

fn certificate() -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["im.example".into()]).unwrap().self_signed(&key).unwrap();
    (certificate.der().clone(), PrivateKeyDer::Pkcs8(key.serialize_der().into()))
}

impl Pair {
    fn new(change: impl FnOnce(&mut ServerConfig)) -> Pair {
        let (certificate, key) = certificate();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).unwrap();
        let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        change(&mut config);
        let config = Arc::new(config);
        Pair { provider: Arc::new(move || Arc::clone(&config)), roots: Arc::new(roots) }
    }

    fn client(&self, version: &'static SupportedProtocolVersion, alpn: &[&[u8]]) -> ClientConnection {
        let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(Arc::clone(&self.roots))
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
        ClientConnection::new(Arc::new(config), ServerName::try_from("im.example").unwrap()).unwrap()
    }

    fn server(&self, direct: bool) -> Tls {
        Tls::new(Configs::new(Arc::clone(&self.provider)).get(direct)).unwrap()
    }
}

/// What the server made of bytes, all in all.
#[derive(Default)]
struct Seen {
    info: Option<TlsInfo>,
    end_point: Option<Vec<u8>>,
    plain: Vec<u8>,
    closed: bool,
    kept_max: usize,
}

/// Feed the server in chunks of `chunk`; its output goes to the client.
fn feed(server: &mut Tls, client: &mut ClientConnection, bytes: &[u8], chunk: usize, seen: &mut Seen) -> Result<(), TlsError> {
    for part in bytes.chunks(chunk) {
        let mut input = server.partial().to_vec();
        input.extend_from_slice(part);
        let mut out = Vec::new();
        let result = server.read(&mut input, &mut seen.plain, &mut out);
        give(client, &out);
        let progress = result?;
        seen.end_point = progress.server_end_point.or(seen.end_point.take());
        seen.info = progress.established.or(seen.info.take());
        seen.closed |= progress.closed;
        seen.kept_max = seen.kept_max.max(server.partial().len());
    }
    Ok(())
}

fn give(client: &mut ClientConnection, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        client.read_tls(&mut bytes).unwrap();
        let _ = client.process_new_packets();
    }
}

fn taken(client: &mut ClientConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).unwrap();
    }
    bytes
}

fn handshake(server: &mut Tls, client: &mut ClientConnection, chunk: usize) -> Result<Seen, TlsError> {
    let mut seen = Seen::default();
    for _ in 0..8 {
        let bytes = taken(client);
        feed(server, client, &bytes, chunk, &mut seen)?;
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok(seen)
}

fn export(client: &ClientConnection) -> Vec<u8> {
    client.export_keying_material(vec![0; 32], b"EXPORTER-Channel-Binding", Some(b"")).unwrap()
}

#[test]
fn handshake_and_data_in_chunks_of_any_size() {
    let pair = Pair::new(|_| {});
    for (version, chunk) in [
        (&rustls::version::TLS13, 1),
        (&rustls::version::TLS13, 7),
        (&rustls::version::TLS13, 32_768),
        (&rustls::version::TLS12, 1),
        (&rustls::version::TLS12, 9_000),
    ] {
        let (mut server, mut client) = (pair.server(false), pair.client(version, &[]));
        let mut seen = handshake(&mut server, &mut client, chunk).unwrap();
        let info = seen.info.clone().unwrap();
        assert_eq!(info.sni.as_deref(), Some("im.example"));
        assert_eq!(info.version13, version.version == rustls::ProtocolVersion::TLSv1_3);
        let sent: Vec<u8> = (0..200_000_u32).map(|n| n as u8).collect();
        let mut rest = &sent[..];
        while !rest.is_empty() {
            let n = client.writer().write(rest).unwrap();
            rest = &rest[n..];
            let bytes = taken(&mut client);
            feed(&mut server, &mut client, &bytes, chunk, &mut seen).unwrap();
        }
        assert_eq!(seen.plain, sent);
        assert!(server.partial().is_empty() && server.partial.capacity() == 0, "an idle connection holds no buffer");
        assert!(seen.kept_max < 20_000, "{}", seen.kept_max);

        let mut out = Vec::new();
        server.write(&sent, &mut out).unwrap();
        let mut got = Vec::new();
        let mut bytes = &out[..];
        while !bytes.is_empty() {
            client.read_tls(&mut bytes).unwrap();
            let state = client.process_new_packets().unwrap();
            let at = got.len();
            got.resize(at + state.plaintext_bytes_to_read(), 0);
            client.reader().read_exact(&mut got[at..]).unwrap();
        }
        assert_eq!(got, sent);
    }
}

#[test]
fn channel_binding_equals_the_clients() {
    let pair = Pair::new(|_| {});
    let (mut server, mut client) = (pair.server(false), pair.client(&rustls::version::TLS13, &[]));
    let seen = handshake(&mut server, &mut client, 500).unwrap();
    assert_eq!(seen.info.unwrap().exporter, Some(export(&client)));

    // TLS 1.2: RFC 9266 §4.2 wants extended master secret, which only the configuration can promise.
    let (mut server, mut client) = (pair.server(false), pair.client(&rustls::version::TLS12, &[]));
    assert_eq!(handshake(&mut server, &mut client, 500).unwrap().info.unwrap().exporter, None);
    let pair = Pair::new(|config| config.require_ems = true);
    let (mut server, mut client) = (pair.server(false), pair.client(&rustls::version::TLS12, &[]));
    let seen = handshake(&mut server, &mut client, 500).unwrap();
    assert_eq!(seen.info.unwrap().exporter, Some(export(&client)));
}

#[test]
fn a_resumed_session_binds_too() {
    let pair = Pair::new(|_| {});
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(Arc::clone(&pair.roots))
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::in_memory_sessions(4);
    let config = Arc::new(config);
    let mut kinds = Vec::new();
    for _ in 0..2 {
        let mut client = ClientConnection::new(Arc::clone(&config), ServerName::try_from("im.example").unwrap()).unwrap();
        let mut server = pair.server(false);
        let seen = handshake(&mut server, &mut client, 4_000).unwrap();
        let info = seen.info.unwrap();
        assert_eq!(info.exporter, Some(export(&client)));
        assert_eq!(info.sni.as_deref(), Some("im.example"));
        let shown = client.peer_certificates().unwrap()[0].to_vec();
        let resumed = client.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
        assert_eq!(seen.end_point, (!resumed).then(|| end_point::hash(&shown).unwrap()));
        kinds.push(client.handshake_kind().unwrap());
    }
    assert_eq!(kinds, [rustls::HandshakeKind::Full, rustls::HandshakeKind::Resumed]);
}

#[test]
fn direct_tls_names_its_protocol() {
    let pair = Pair::new(|_| {});
    let (mut server, mut client) = (pair.server(true), pair.client(&rustls::version::TLS13, &[b"xmpp-client"]));
    handshake(&mut server, &mut client, 500).unwrap();
    assert_eq!(client.alpn_protocol(), Some(&b"xmpp-client"[..]));
    // XEP-0368 §3 lets a client without ALPN in; another protocol gets an alert.
    let (mut server, mut client) = (pair.server(true), pair.client(&rustls::version::TLS13, &[]));
    handshake(&mut server, &mut client, 500).unwrap();
    let (mut server, mut client) = (pair.server(true), pair.client(&rustls::version::TLS13, &[b"h2"]));
    assert!(handshake(&mut server, &mut client, 500).is_err());
    let told = client.process_new_packets().unwrap_err();
    assert_eq!(told, rustls::Error::AlertReceived(rustls::AlertDescription::NoApplicationProtocol));
}

#[test]
fn key_updates_and_close_notify() {
    let pair = Pair::new(|_| {});
    let (mut server, mut client) = (pair.server(false), pair.client(&rustls::version::TLS13, &[]));
    let mut seen = handshake(&mut server, &mut client, 500).unwrap();
    for round in 0..5_u8 {
        client.refresh_traffic_keys().unwrap();
        client.writer().write_all(&[round]).unwrap();
        let bytes = taken(&mut client);
        feed(&mut server, &mut client, &bytes, 3, &mut seen).unwrap();
        let mut out = Vec::new();
        server.write(b"pong", &mut out).unwrap();
        give(&mut client, &out);
        let mut pong = [0; 4];
        client.reader().read_exact(&mut pong).unwrap();
        assert_eq!(&pong, b"pong");
    }
    assert_eq!(seen.plain, [0, 1, 2, 3, 4]);
    client.send_close_notify();
    let bytes = taken(&mut client);
    feed(&mut server, &mut client, &bytes, 100, &mut seen).unwrap();
    assert!(seen.closed);
    let mut out = Vec::new();
    server.close(&mut out).unwrap();
    give(&mut client, &out);
    assert_eq!(client.reader().read(&mut [0]).unwrap(), 0, "closed cleanly");
}

#[test]
fn what_is_not_tls_gets_an_alert() {
    let pair = Pair::new(|_| {});
    for bytes in [&b"<?xml version='1.0'?><stream:stream>"[..], &[22, 3, 1, 0xff, 0xff, 0], &[22, 3, 1, 0, 0], b"\x80\x2e\x01\x00\x02"] {
        let mut server = pair.server(false);
        let (mut plain, mut out) = (Vec::new(), Vec::new());
        let result = server.read(&mut bytes.to_vec(), &mut plain, &mut out);
        assert!(plain.is_empty());
        assert!(matches!(result, Err(TlsError::Protocol(_))), "{bytes:?}");
        assert_eq!(out.first(), Some(&21), "an alert record");
    }
    let mut server = pair.server(false);
    assert!(server.write(b"too early", &mut Vec::new()).is_err());
}

#[test]
fn an_endless_handshake_message_is_bounded() {
    let pair = Pair::new(|_| {});
    let mut server = pair.server(false);
    // A ClientHello that says it has 65,535 bytes, in records of 16 bytes that never complete it.
    let mut records = vec![22, 3, 1, 0, 16, 1, 0, 0xff, 0xff];
    records.extend_from_slice(&[0; 12]);
    let mut result = Ok(Progress::default());
    for _ in 0..20_000 {
        let mut input = server.partial().to_vec();
        input.extend_from_slice(&records);
        result = server.read(&mut input, &mut Vec::new(), &mut Vec::new());
        if result.is_err() {
            break;
        }
        assert!(server.partial().len() <= PARTIAL_BYTES_MAX);
        records = vec![22, 3, 1, 0, 16];
        records.extend_from_slice(&[0; 16]);
    }
    assert!(result.is_err());
}

#[test]
fn a_new_certificate_is_used_without_a_restart() {
    let (first, second) = (Pair::new(|_| {}), Pair::new(|_| {}));
    let current = Arc::new(std::sync::Mutex::new((first.provider)()));
    let reader = Arc::clone(&current);
    let configs = Configs::new(Arc::new(move || Arc::clone(&reader.lock().unwrap())));
    assert!(Arc::ptr_eq(&configs.get(true), &configs.get(true)), "made once");
    assert!(!Arc::ptr_eq(&configs.get(true), &configs.get(false)));
    let old = configs.get(false);
    *current.lock().unwrap() = (second.provider)();
    let mut server = Tls::new(configs.get(false)).unwrap();
    handshake(&mut server, &mut second.client(&rustls::version::TLS13, &[]), 999).unwrap();
    let mut server = Tls::new(old).unwrap();
    assert!(handshake(&mut server, &mut second.client(&rustls::version::TLS13, &[]), 999).is_err());
}

/// xorshift, for tests that want many different inputs and the same ones each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }
}

#[test]
fn no_bytes_make_it_panic() {
    // rustls panics if it is driven the wrong way behind an error, so every kind of damage is tried at every stage.
    let pair = Pair::new(|_| {});
    let mut ended = 0;
    for seed in 1..=600 {
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15 ^ (seed << 20));
        let version = if seed % 3 == 0 { &rustls::version::TLS12 } else { &rustls::version::TLS13 };
        let (mut server, mut client) = (pair.server(seed % 2 == 0), pair.client(version, &[]));
        let mut seen = Seen::default();
        'stream: for _ in 0..6 {
            let _ = client.writer().write(&[b'x'; 300]);
            let mut bytes = taken(&mut client);
            match dice.below(5) {
                0 if !bytes.is_empty() => {
                    let at = dice.below(bytes.len());
                    bytes[at] ^= 1 << dice.below(8);
                }
                1 if !bytes.is_empty() => bytes.truncate(dice.below(bytes.len())),
                2 => (0..dice.below(40)).for_each(|_| bytes.push(dice.below(256) as u8)),
                3 => bytes.extend_from_slice(&[22, 3, 3, 0, 4, dice.below(30) as u8, 0, 0, dice.below(3) as u8]),
                _ => {}
            }
            let chunk = 1 + dice.below(2_000);
            if feed(&mut server, &mut client, &bytes, chunk, &mut seen).is_err() {
                ended += 1;
                break 'stream;
            }
            if !server.is_handshaking() {
                let mut out = Vec::new();
                server.write(&[b'y'; 3_000], &mut out).unwrap();
            }
        }
    }
    assert!(ended > 100, "the damage was noticed only {ended} times");
}
