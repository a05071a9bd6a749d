//! Certificates by SNI, swapped whole on reload, and the TLS settings of every listener.
//!
//! A domain gets the first configured certificate that names it; one that none names gets a self-made one, made once
//! and kept in `tls/` of the data folder.

use std::collections::HashMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use arc_swap::ArcSwap;
use config::{CertificateFiles, Config, TlsVersion};
use rustls::client::verify_server_name;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, NoServerSessionStorage, ParsedCertificate, ProducesTickets, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CipherSuite, ServerConfig};

/// What is told about a certificate in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The domain that it serves.
    pub domain: String,
    /// SHA-256 of the certificate, in the usual form.
    pub fingerprint: String,
    /// Where it came from.
    pub file: PathBuf,
    /// Made by this server: clients have to be told to trust it.
    pub self_made: bool,
}

/// Certificates that were read and checked, not yet in force.
#[derive(Debug)]
pub struct Loaded {
    by_name: HashMap<String, Arc<CertifiedKey>>,
    first: Arc<CertifiedKey>,
    facts: Vec<Facts>,
    /// Tickets last no longer than the certificates that were shown with them.
    tickets: Arc<dyn ProducesTickets>,
}

/// The certificates in force. A clone is a pointer to the same ones.
#[derive(Clone, Debug)]
pub struct TlsStore {
    current: Arc<ArcSwap<Loaded>>,
    starttls: Arc<ServerConfig>,
}

impl TlsStore {
    /// Reads or makes the certificates of every domain of `config`.
    ///
    /// # Errors
    /// A file that cannot be read, is not a certificate, or does not fit its key.
    pub fn open(config: &Config) -> anyhow::Result<TlsStore> {
        let current = Arc::new(ArcSwap::from_pointee(load(config)?));
        let starttls = Arc::new(server_config(config, &current)?);
        Ok(TlsStore { current, starttls })
    }

    /// For listeners where TLS comes after STARTTLS. Where it comes first, the edge adds ALPN (XEP-0368 §3).
    pub fn starttls(&self) -> Arc<ServerConfig> {
        self.starttls.clone()
    }

    /// Puts certificates in force: every handshake from now on gets them.
    pub fn swap(&self, loaded: Loaded) {
        self.current.store(Arc::new(loaded));
    }

    /// What is in force, a row for each domain.
    pub fn facts(&self) -> Vec<Facts> {
        self.current.load().facts.clone()
    }
}

fn server_config(config: &Config, current: &Arc<ArcSwap<Loaded>>) -> anyhow::Result<ServerConfig> {
    let both = [&rustls::version::TLS13, &rustls::version::TLS12];
    let versions = match config.tls.min_version {
        TlsVersion::V12 => &both[..],
        TlsVersion::V13 => &both[..1],
    };
    let builder = ServerConfig::builder_with_provider(Arc::new(provider())).with_protocol_versions(versions)?;
    let mut tls = builder.with_no_client_auth().with_cert_resolver(Arc::new(BySni(current.clone())));
    tls.ignore_client_order = true;
    // RFC 9266 §4.2: the exporter binds a TLS 1.2 channel only with the extended master secret, and SCRAM relies on it.
    tls.require_ems = true;
    // A client that comes again needs no certificate and no signature (RFC 8446 §2.2): the client holds the session in a
    // ticket, the server nothing. It is of the name that the client asked for, and each one is as good as a whole handshake:
    // with fresh keys, without early data.
    tls.session_storage = Arc::new(NoServerSessionStorage {});
    tls.ticketer = Arc::new(Tickets(current.clone()));
    tls.send_tls13_tickets = 1;
    Ok(tls)
}

/// AES-128 first, as RFC 9325 §4.2 has it and RFC 8446 §9.1 demands: most clients begin their list with AES-256, whose SHA-384 no
/// CPU has instructions for, while those for SHA-256 are common. It takes a twentieth off a login.
fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    let first = [
        CipherSuite::TLS13_AES_128_GCM_SHA256,
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    ];
    provider.cipher_suites.sort_by_key(|suite| !first.contains(&suite.suite()));
    provider
}

/// Tickets of the certificates in force.
#[derive(Debug)]
struct Tickets(Arc<ArcSwap<Loaded>>);

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        self.0.load().tickets.enabled()
    }

    fn lifetime(&self) -> u32 {
        self.0.load().tickets.lifetime()
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.0.load().tickets.encrypt(plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.0.load().tickets.decrypt(cipher)
    }
}

#[derive(Debug)]
struct BySni(Arc<ArcSwap<Loaded>>);

impl ResolvesServerCert for BySni {
    /// A name that is not served gets the first domain's certificate: the client sees that it does not fit, and the
    /// stream gets `host-unknown` if it goes on.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let loaded = self.0.load();
        let named = hello.server_name().and_then(|name| loaded.by_name.get(&name.to_ascii_lowercase()));
        Some(named.unwrap_or(&loaded.first).clone())
    }
}

/// Reads, and where there is none makes, the certificate of every domain. Puts nothing in force.
///
/// # Errors
/// A file that cannot be read, is not a certificate, or does not fit its key.
pub fn load(config: &Config) -> anyhow::Result<Loaded> {
    let configured = config.tls.certificates.iter().map(|files| Ok((files, read(files)?)));
    let configured = configured.collect::<anyhow::Result<Vec<_>>>()?;
    let (mut by_name, mut facts, mut first) = (HashMap::new(), Vec::new(), None);
    for domain in config.domains() {
        let name = ascii(domain)?;
        let made;
        let (files, key, self_made) = match configured.iter().find(|(_, key)| names(key, &name)) {
            Some((files, key)) => (*files, key.clone(), false),
            None => {
                made = self_made(&config.data_dir().join("tls"), &name)?;
                let key = read(&made)?;
                (&made, key, true)
            }
        };
        let leaf = key.cert.first().context("a certificate file without a certificate")?;
        facts.push(Facts { domain: domain.clone(), fingerprint: fingerprint(leaf), file: files.chain.clone(), self_made });
        first.get_or_insert_with(|| key.clone());
        by_name.insert(name, key);
    }
    let tickets = aws_lc_rs::Ticketer::new()?;
    Ok(Loaded { by_name, first: first.context("no domain")?, facts, tickets })
}

/// The domain as DNS and SNI write it.
fn ascii(domain: &str) -> anyhow::Result<String> {
    let bare = domain.trim_start_matches('[').trim_end_matches(']');
    if bare.parse::<std::net::IpAddr>().is_ok() {
        return Ok(bare.to_owned());
    }
    idna::domain_to_ascii(domain).map_err(|_| anyhow::anyhow!("the domain {domain} cannot be written in a certificate"))
}

fn names(key: &CertifiedKey, name: &str) -> bool {
    let parsed = key.cert.first().and_then(|leaf| ParsedCertificate::try_from(leaf).ok());
    match (parsed, ServerName::try_from(name)) {
        (Some(parsed), Ok(name)) => verify_server_name(&parsed, &name).is_ok(),
        _ => false,
    }
}

fn read(files: &CertificateFiles) -> anyhow::Result<Arc<CertifiedKey>> {
    let (chain_file, key_file) = (files.chain.display(), files.key.display());
    let chain = CertificateDer::pem_file_iter(&files.chain).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.with_context(|| format!("{chain_file}: not a readable PEM certificate chain"))?;
    if chain.is_empty() {
        bail!("{chain_file}: no certificate in it");
    }
    let key = PrivateKeyDer::from_pem_file(&files.key).with_context(|| format!("{key_file}: not a readable PEM private key"))?;
    let certified = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider());
    certified.map(Arc::new).with_context(|| format!("{key_file} is not the key of {chain_file}, or of a kind that cannot be used"))
}

/// The files of the domain's self-made certificate; made if they are not there.
fn self_made(folder: &Path, name: &str) -> anyhow::Result<CertificateFiles> {
    let safe = |c: char| if c.is_ascii_alphanumeric() || "-.".contains(c) { c } else { '_' };
    let stem: String = name.chars().map(safe).collect();
    let files = CertificateFiles { chain: folder.join(format!("{stem}.crt")), key: folder.join(format!("{stem}.key")) };
    if files.chain.exists() && files.key.exists() {
        return Ok(files);
    }
    crate::run::private_folder(folder)?;
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let mut params = rcgen::CertificateParams::new(vec![name.to_owned()])?;
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.use_authority_key_identifier_extension = false;
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    // People trust it by its fingerprint; an end would only surprise them.
    params.not_before = rcgen::date_time_ymd(2024, 1, 1);
    params.not_after = rcgen::date_time_ymd(2074, 1, 1);
    let certificate = params.self_signed(&key)?;
    write_private(&files.key, key.serialize_pem().as_bytes())?;
    write_private(&files.chain, certificate.pem().as_bytes())?;
    tracing::info!(domain = name, file = %files.chain.display(), "self-signed certificate made");
    Ok(files)
}

/// Writes a file that only its owner can read; it is there whole or not at all.
///
/// # Errors
/// Those of the file system.
pub fn write_private(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let write = || -> std::io::Result<()> {
        let mut name = path.as_os_str().to_owned();
        name.push(".new");
        let new = PathBuf::from(name);
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    write().with_context(|| format!("{}: cannot be written", path.display()))
}

fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    let digest = ::aws_lc_rs::digest::digest(&::aws_lc_rs::digest::SHA256, certificate);
    digest.as_ref().iter().map(|b| format!("{b:02X}")).collect::<Vec<_>>().join(":")
}

#[cfg(test)]
mod tests;
