//! Channel binding by keying material exporters (RFC 9266), computed here because the unbuffered API has no exporter.
//!
//! rustls tells the exporter's secret to the key log of its configuration while it processes a record, on the same
//! thread. It is caught there, kept until the handshake ends, used once and wiped.

use rustls::SupportedCipherSuite;
use rustls::crypto::tls13::OkmBlock;
use std::cell::RefCell;
use zeroize::{Zeroize, Zeroizing};

/// RFC 9266 §4.2.
const LABEL: &[u8] = b"EXPORTER-Channel-Binding";
/// RFC 9266 §4.2.
const OUTPUT_BYTES: usize = 32;

/// What a handshake told so far.
#[derive(Default)]
pub(crate) struct Caught {
    pub(crate) server_name: Option<String>,
    /// What the client is shown, as DER.
    pub(crate) certificate: Option<Vec<u8>>,
    secret: Option<Secret>,
    /// TLS 1.2 alone needs it.
    server_random: Option<[u8; 32]>,
}

struct Secret {
    client_random: [u8; 32],
    bytes: Zeroizing<Vec<u8>>,
}

thread_local! {
    /// Of the records being processed on this thread now.
    static CAUGHT: RefCell<Caught> = RefCell::default();
}

/// Forget what another connection of this thread may have left.
pub(crate) fn clear() {
    CAUGHT.with_borrow_mut(|caught| *caught = Caught::default());
}

/// A client has said hello, and gets this certificate.
pub(crate) fn catch_hello(server_name: Option<String>, certificate: Option<Vec<u8>>) {
    CAUGHT.with_borrow_mut(|caught| {
        caught.server_name = server_name;
        caught.certificate = certificate;
    });
}

/// Take over what this thread caught while it processed records of one connection; `out` is what it is to send.
pub(crate) fn collect(caught: &mut Caught, out: &[u8]) {
    CAUGHT.with_borrow_mut(|new| {
        caught.server_name = new.server_name.take().or(caught.server_name.take());
        caught.certificate = new.certificate.take().or(caught.certificate.take());
        caught.secret = new.secret.take().or(caught.secret.take());
    });
    if caught.server_random.is_none() {
        caught.server_random = server_random(out);
    }
}

/// The random value in a ServerHello at the start of our first records (RFC 5246 §7.4.1.3): record head (5 bytes),
/// handshake head (4), version (2), random (32).
fn server_random(out: &[u8]) -> Option<[u8; 32]> {
    let is_server_hello = out.first() == Some(&22) && out.get(5) == Some(&2);
    is_server_hello.then(|| out.get(11..43)?.try_into().ok())?
}

/// The key log that catches what exporters need, and nothing else.
#[derive(Debug)]
pub(crate) struct CatchSecret {
    /// Also of TLS 1.2: only where extended master secret is required of the client.
    pub(crate) tls12: bool,
}

impl rustls::KeyLog for CatchSecret {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        if !self.will_log(label) {
            return;
        }
        let Ok(client_random) = client_random.try_into() else {
            return;
        };
        let bytes = Zeroizing::new(secret.to_vec());
        CAUGHT.with_borrow_mut(|caught| caught.secret = Some(Secret { client_random, bytes }));
    }

    fn will_log(&self, label: &str) -> bool {
        label == "EXPORTER_SECRET" || (self.tls12 && label == "CLIENT_RANDOM")
    }
}

impl Caught {
    /// Data for `tls-exporter`; `None` if this channel cannot be bound. RFC 9266 §4.2: the context is present and empty;
    /// TLS 1.2 only with extended master secret.
    pub(crate) fn channel_binding(&self, suite: SupportedCipherSuite, extended_master_secret: bool) -> Option<Vec<u8>> {
        let secret = self.secret.as_ref()?;
        let mut output = vec![0; OUTPUT_BYTES];
        match suite {
            SupportedCipherSuite::Tls13(suite) => {
                // RFC 8446 §7.5: Derive-Secret(secret, label, ""), then "exporter" over the hash of the context.
                let hash_of_nothing = suite.common.hash_provider.hash(&[]);
                let mut derived = [0; 64];
                let derived = derived.get_mut(..hash_of_nothing.as_ref().len())?;
                expand_label(suite, &secret.bytes, LABEL, hash_of_nothing.as_ref(), derived)?;
                expand_label(suite, derived, b"exporter", hash_of_nothing.as_ref(), &mut output)?;
                derived.zeroize();
            }
            SupportedCipherSuite::Tls12(suite) => {
                if !extended_master_secret {
                    return None;
                }
                // RFC 5705 §4: both randoms, then the length of the context (two bytes) and the context.
                let mut seed = secret.client_random.to_vec();
                seed.extend_from_slice(&self.server_random?);
                seed.extend_from_slice(&[0, 0]);
                suite.prf_provider.for_secret(&mut output, &secret.bytes, LABEL, &seed);
            }
        }
        Some(output)
    }
}

/// HKDF-Expand-Label (RFC 8446 §7.1).
fn expand_label(suite: &rustls::Tls13CipherSuite, secret: &[u8], label: &[u8], context: &[u8], output: &mut [u8]) -> Option<()> {
    const PREFIX: &[u8] = b"tls13 ";
    let length = u16::try_from(output.len()).ok()?.to_be_bytes();
    let label_length = [u8::try_from(PREFIX.len() + label.len()).ok()?];
    let context_length = [u8::try_from(context.len()).ok()?];
    let expander = suite.hkdf_provider.expander_for_okm(&OkmBlock::new(secret));
    expander.expand_slice(&[&length, &label_length, PREFIX, label, &context_length, context], output).ok()
}
