//! Channel binding by the server's certificate: `tls-server-end-point` (RFC 5929 §4).

use aws_lc_rs::digest::{self, SHA256, SHA384, SHA512};

/// OBJECT IDENTIFIERs of certificate signatures, and the hash that §4.1 has for them: the signature's own, but SHA-256
/// for MD5 and SHA-1. For others (RSASSA-PSS names its hash in parameters, Ed25519 has none) the binding is not defined or
/// not known here, and is not offered.
const SIGNATURES: &[(&[u8], &digest::Algorithm)] = &[
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 4], &SHA256),  // md5WithRSAEncryption
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 5], &SHA256),  // sha1WithRSAEncryption
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 11], &SHA256), // sha256WithRSAEncryption
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 12], &SHA384), // sha384WithRSAEncryption
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 13], &SHA512), // sha512WithRSAEncryption
    (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 1], &SHA256),           // ecdsa-with-SHA1
    (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2], &SHA256),        // ecdsa-with-SHA256
    (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3], &SHA384),        // ecdsa-with-SHA384
    (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 4], &SHA512),        // ecdsa-with-SHA512
];

const SEQUENCE: u8 = 0x30;
const OBJECT_IDENTIFIER: u8 = 0x06;

/// Of a certificate in DER; `None` if the binding is not defined for it.
pub(crate) fn hash(certificate: &[u8]) -> Option<Vec<u8>> {
    // RFC 5280 §4.1: Certificate ::= SEQUENCE { tbsCertificate, signatureAlgorithm SEQUENCE { algorithm, .. }, .. }
    let (whole, _) = element(certificate, SEQUENCE)?;
    let (_, rest) = element(whole, SEQUENCE)?;
    let (signature_algorithm, _) = element(rest, SEQUENCE)?;
    let (oid, _) = element(signature_algorithm, OBJECT_IDENTIFIER)?;
    let (_, algorithm) = SIGNATURES.iter().find(|(known, _)| *known == oid)?;
    Some(digest::digest(algorithm, certificate).as_ref().to_vec())
}

/// The content of the first element, which must have this tag, and what follows it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&first, rest) = der.split_first()?;
    let (&length, rest) = rest.split_first()?;
    if first != tag {
        return None;
    }
    let (length, rest) = match length {
        0..=0x7f => (usize::from(length), rest),
        // A certificate's lengths fit into three bytes.
        0x81..=0x83 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
            (bytes.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(algorithm: &'static rcgen::SignatureAlgorithm) -> Vec<u8> {
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        rcgen::CertificateParams::new(vec!["im.example".into()]).unwrap().self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn the_hash_follows_the_signature() {
        let der = certificate(&rcgen::PKCS_ECDSA_P256_SHA256);
        assert_eq!(hash(&der).unwrap(), digest::digest(&SHA256, &der).as_ref());
        let der = certificate(&rcgen::PKCS_ECDSA_P384_SHA384);
        assert_eq!(hash(&der).unwrap(), digest::digest(&SHA384, &der).as_ref());
        assert_eq!(hash(&certificate(&rcgen::PKCS_ED25519)), None, "not defined");
    }

    #[test]
    fn sha1_counts_as_sha256() {
        let sha1_with_rsa = [0x30, 0x0f, 0x30, 0, 0x30, 0x0b, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 5];
        assert_eq!(hash(&sha1_with_rsa).unwrap(), digest::digest(&SHA256, &sha1_with_rsa).as_ref());
    }

    #[test]
    fn what_is_no_certificate_has_none() {
        let der = certificate(&rcgen::PKCS_ECDSA_P256_SHA256);
        for end in 0..der.len() {
            hash(&der[..end]);
        }
        assert_eq!(hash(&der[..40]), None);
        assert_eq!(hash(&[0x30, 0x84, 1, 1, 1, 1]), None);
        assert_eq!(hash(b""), None);
    }
}
