//! A certificate authority for one test run, so that every client can verify the server as it would on the Internet.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

/// The files of one run's authority and of the server certificate that it signed.
#[derive(Clone, Debug)]
pub struct Certificates {
    /// What clients trust.
    pub ca: PathBuf,
    /// The server's certificate.
    pub chain: PathBuf,
    /// The server's key, readable by its owner.
    pub key: PathBuf,
}

impl Certificates {
    /// Makes them in a folder, for one domain.
    pub fn make(folder: &Path, domain: &str) -> Result<Certificates> {
        let mut ca = CertificateParams::new(Vec::<String>::new())?;
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        ca.distinguished_name.push(DnType::CommonName, "Chappe test authority");
        let ca_key = KeyPair::generate()?;
        let ca_certificate = ca.self_signed(&ca_key)?;
        let mut leaf = CertificateParams::new(vec![domain.to_owned()])?;
        leaf.distinguished_name.push(DnType::CommonName, domain);
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        leaf.use_authority_key_identifier_extension = true;
        let leaf_key = KeyPair::generate()?;
        let leaf = leaf.signed_by(&leaf_key, &Issuer::new(ca, ca_key))?;
        let files = Certificates { ca: folder.join("ca.pem"), chain: folder.join("server.pem"), key: folder.join("server.key") };
        std::fs::write(&files.ca, ca_certificate.pem())?;
        std::fs::write(&files.chain, leaf.pem())?;
        private_file(&files.key, &leaf_key.serialize_pem())?;
        Ok(files)
    }
}

fn private_file(path: &Path, text: &str) -> Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    Ok(file.write_all(text.as_bytes())?)
}

/// A configuration that trusts exactly the certificates of a PEM file.
pub fn trusting(pem: &Path) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(pem).with_context(|| format!("{}", pem.display()))? {
        roots.add(certificate?)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    // XEP-0368 §2: only direct TLS says what it will speak; the connector takes this away for STARTTLS.
    config.alpn_protocols = vec![b"xmpp-client".to_vec()];
    Ok(Arc::new(config))
}
