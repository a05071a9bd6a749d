//! TLS of clients, and a certificate for servers that are started here.

use anyhow::{Context as _, Result, ensure};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CipherSuite, ClientConfig, DigitallySignedStruct, NamedGroup, RootCertStore, ServerConfig, SignatureScheme};
use std::collections::VecDeque;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Whom clients trust.
#[derive(Clone, Debug)]
pub enum Trust {
    /// Who has a certificate that one of these has signed.
    Authorities(PathBuf),
    /// The same, with the text of such a file.
    Pem(Vec<u8>),
    /// Anybody: the name and the signatures are not looked at. For tests of servers with self-made certificates.
    Anybody,
}

/// TLS 1.3 without resumption: each login pays for a whole handshake.
///
/// # Errors
/// A file that is no certificate.
pub fn client(trust: &Trust) -> Result<Arc<ClientConfig>> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_protocol_versions(&[&rustls::version::TLS13])?;
    let mut config = match trust {
        Trust::Authorities(file) => {
            let found = std::fs::read(file).map_err(Into::into).and_then(|text| roots(&text));
            builder.with_root_certificates(found.with_context(|| format!("{}", file.display()))?).with_no_client_auth()
        }
        Trust::Pem(text) => builder.with_root_certificates(roots(text)?).with_no_client_auth(),
        Trust::Anybody => builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider))).with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// TLS 1.3 for the relay, as a server has it at its cheapest: one ticket, and the least of the ciphers.
///
/// # Errors
/// Files that are no certificate and its key.
pub fn server(chain: &Path, key: &Path) -> Result<Arc<ServerConfig>> {
    let certificates = CertificateDer::pem_file_iter(chain)?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(key)?;
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.retain(|suite| suite.suite() == CipherSuite::TLS13_AES_128_GCM_SHA256);
    let builder = ServerConfig::builder_with_provider(Arc::new(provider)).with_protocol_versions(&[&rustls::version::TLS13])?;
    let mut config = builder.with_no_client_auth().with_single_cert(certificates, key)?;
    config.ticketer = aws_lc_rs::Ticketer::new()?;
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}

fn roots(pem: &[u8]) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        roots.add(certificate?)?;
    }
    ensure!(!roots.is_empty(), "no certificate in it");
    Ok(roots)
}

/// The same for clients that come again: each login takes a ticket that an earlier one has left, if there is one.
pub fn resuming(client: &ClientConfig) -> Arc<ClientConfig> {
    let mut config = client.clone();
    config.resumption = Resumption::store(Arc::new(Tickets::default()));
    Arc::new(config)
}

/// Tickets of one server, each used once; rustls' own store keeps eight, which are too few for clients at the same time.
#[derive(Debug, Default)]
struct Tickets(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    group: Option<NamedGroup>,
    tickets: VecDeque<Tls13ClientSessionValue>,
}

/// Tickets that are kept; the oldest gives way.
const TICKETS_MAX: usize = 4_096;

impl Tickets {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        self.kept().group = Some(group);
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.kept().group
    }

    // Clients speak TLS 1.3 only.
    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        let mut kept = self.kept();
        if kept.tickets.len() >= TICKETS_MAX {
            kept.tickets.pop_front();
        }
        kept.tickets.push_back(ticket);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.kept().tickets.pop_front()
    }
}

#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// How long a certificate is good for. Erlang's timers reach 49 days, and ejabberd sets one for the end of its certificate.
const DAYS: i64 = 30;

/// Files of a certificate, ECDSA P-256.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// Who signed it.
    pub authority: PathBuf,
    /// The certificate.
    pub chain: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// Makes a certificate for a domain in a folder.
///
/// # Errors
/// Those of the file system.
pub fn certificate(folder: &Path, domain: &str) -> Result<Certificate> {
    let mut ca = CertificateParams::new(Vec::<String>::new())?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    ca.distinguished_name.push(DnType::CommonName, "loadtest");
    let ca_key = KeyPair::generate()?;
    let ca_certificate = ca.self_signed(&ca_key)?;
    let mut leaf = CertificateParams::new(vec![domain.to_owned()])?;
    leaf.distinguished_name.push(DnType::CommonName, domain);
    let (year, month, day) = crate::clock::in_days(DAYS);
    leaf.not_after = rcgen::date_time_ymd(year, month, day);
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate()?;
    let leaf = leaf.signed_by(&key, &Issuer::new(ca, ca_key))?;
    let files = Certificate { authority: folder.join("ca.pem"), chain: folder.join("chain.pem"), key: folder.join("key.pem") };
    std::fs::write(&files.authority, ca_certificate.pem())?;
    std::fs::write(&files.chain, leaf.pem())?;
    private(&files.key, &key.serialize_pem())?;
    Ok(files)
}

/// Servers refuse a key that others can read.
fn private(path: &Path, text: &str) -> Result<()> {
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    Ok(file.write_all(text.as_bytes())?)
}
