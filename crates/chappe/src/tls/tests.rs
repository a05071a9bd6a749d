use std::io::{Read, Write};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::UnixTime;
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, ServerConnection, SignatureScheme};

use super::*;

fn config(folder: &Path, text: &str) -> Config {
    Config::parse(&format!("data_dir = '{}'\n{text}", folder.display())).unwrap()
}

/// A client that takes any certificate and lets us look at it.
#[derive(Debug)]
struct Anything;

impl ServerCertVerifier for Anything {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Runs a handshake in memory, of a client that comes for the first time: the fingerprint that the client sees.
fn handshake(server: Arc<ServerConfig>, name: &str, version: &'static rustls::SupportedProtocolVersion) -> Result<String, Error> {
    let connection = connection(server, name, &client(version)?)?;
    let leaf = connection.peer_certificates().and_then(|c| c.first()).unwrap();
    Ok(fingerprint(leaf))
}

/// A client that keeps the tickets that it gets.
fn client(version: &'static rustls::SupportedProtocolVersion) -> Result<Arc<ClientConfig>, Error> {
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider())).with_protocol_versions(&[version])?;
    Ok(Arc::new(builder.dangerous().with_custom_certificate_verifier(Arc::new(Anything)).with_no_client_auth()))
}

/// A connection's handshake, and a byte from each to the other.
fn connection(server: Arc<ServerConfig>, name: &str, client: &Arc<ClientConfig>) -> Result<ClientConnection, Error> {
    let mut client = ClientConnection::new(client.clone(), ServerName::try_from(name.to_owned()).unwrap())?;
    let mut server = ServerConnection::new(server)?;
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        server.read_tls(&mut wire.as_slice()).unwrap();
        server.process_new_packets()?;
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        client.read_tls(&mut wire.as_slice()).unwrap();
        client.process_new_packets()?;
    }
    client.writer().write_all(b"x").unwrap();
    let mut wire = Vec::new();
    client.write_tls(&mut wire).unwrap();
    server.read_tls(&mut wire.as_slice()).unwrap();
    server.process_new_packets()?;
    let mut got = [0; 1];
    server.reader().read_exact(&mut got).unwrap();
    server.writer().write_all(b"y").unwrap();
    let mut wire = Vec::new();
    while server.wants_write() {
        server.write_tls(&mut wire).unwrap();
    }
    client.read_tls(&mut wire.as_slice()).unwrap();
    client.process_new_packets()?;
    Ok(client)
}

const V13: &rustls::SupportedProtocolVersion = &rustls::version::TLS13;
const V12: &rustls::SupportedProtocolVersion = &rustls::version::TLS12;

#[test]
fn each_domain_has_its_certificate_and_keeps_it() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), "domains = ['a.example', 'bücher.example']");
    let tls = TlsStore::open(&config).unwrap();
    let facts = tls.facts();
    let see = |name| handshake(tls.starttls(), name, V13).unwrap();
    assert_eq!(see("a.example"), facts[0].fingerprint);
    assert_eq!(see("xn--bcher-kva.example"), facts[1].fingerprint);
    assert_ne!(facts[0].fingerprint, facts[1].fingerprint);
    assert_eq!(see("unknown.example"), facts[0].fingerprint, "the first domain's");
    assert_eq!(TlsStore::open(&config).unwrap().facts(), facts, "reused at the next start");
    use std::os::unix::fs::PermissionsExt;
    let mode = |name: &str| fs::metadata(folder.path().join("tls").join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("a.example.key"), 0o600);
    assert_eq!(mode(""), 0o700);
}

#[test]
fn the_lowest_version_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let tls = TlsStore::open(&config(folder.path(), "")).unwrap();
    assert!(handshake(tls.starttls(), "localhost", V12).is_ok());
    let strict = TlsStore::open(&config(folder.path(), "[tls]\nmin_version = '1.3'")).unwrap();
    assert!(handshake(strict.starttls(), "localhost", V12).is_err());
    assert!(handshake(strict.starttls(), "localhost", V13).is_ok());
}

#[test]
fn configured_certificates_come_first_and_are_swapped_whole() {
    let folder = tempfile::tempdir().unwrap();
    let files = self_made(folder.path(), "a.example").unwrap();
    let other = self_made(&folder.path().join("other"), "a.example").unwrap();
    let text = format!(
        "domains = ['b.example', 'a.example']\n[tls]\ncertificates = [{{ chain = '{}', key = '{}' }}]",
        files.chain.display(),
        files.key.display()
    );
    let config = config(folder.path(), &text);
    let tls = TlsStore::open(&config).unwrap();
    assert_eq!(tls.facts().iter().map(|f| f.self_made).collect::<Vec<_>>(), [true, false]);
    let before = handshake(tls.starttls(), "a.example", V13).unwrap();

    fs::copy(&other.chain, &files.chain).unwrap();
    let fault = load(&config).unwrap_err().to_string();
    assert!(fault.contains("is not the key of"), "{fault}");
    assert_eq!(handshake(tls.starttls(), "a.example", V13).unwrap(), before, "a bad pair replaces nothing");

    fs::copy(&other.key, &files.key).unwrap();
    tls.swap(load(&config).unwrap());
    assert_ne!(handshake(tls.starttls(), "a.example", V13).unwrap(), before);
}

#[test]
fn who_comes_again_needs_no_certificate_until_it_is_another_one() {
    use rustls::HandshakeKind::{Full, Resumed};
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), "domains = ['a.example', 'b.example']");
    let tls = TlsStore::open(&config).unwrap();
    for version in [V13, V12] {
        let client = client(version).unwrap();
        let kind = |name: &str| connection(tls.starttls(), name, &client).unwrap().handshake_kind();
        assert_eq!([kind("a.example"), kind("a.example"), kind("a.example")], [Some(Full), Some(Resumed), Some(Resumed)]);
        assert_eq!(kind("b.example"), Some(Full), "a ticket is of one name");
        tls.swap(load(&config).unwrap());
        assert_eq!([kind("a.example"), kind("a.example")], [Some(Full), Some(Resumed)]);
    }
}

#[test]
fn the_server_chooses_aes_128() {
    let folder = tempfile::tempdir().unwrap();
    let tls = TlsStore::open(&config(folder.path(), "")).unwrap();
    for (version, suite) in [(V13, CipherSuite::TLS13_AES_128_GCM_SHA256), (V12, CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256)] {
        let client = client(version).unwrap();
        assert_eq!(client.crypto_provider().cipher_suites[0].suite(), CipherSuite::TLS13_AES_256_GCM_SHA384, "what clients begin with");
        let got = connection(tls.starttls(), "localhost", &client).unwrap().negotiated_cipher_suite();
        assert_eq!(got.map(|s| s.suite()), Some(suite));
    }
}
