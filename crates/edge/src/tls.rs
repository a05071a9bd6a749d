//! TLS on a client stream, without a buffer of its own while idle.
//!
//! rustls' unbuffered API is driven over buffers that belong to the plane: a connection keeps bytes only while a record
//! (or a handshake message over several records) is incomplete. That API gives neither the server name nor keying
//! material; both are caught where rustls tells them: the certificate resolver and the key log of the configuration.

mod end_point;
mod exporter;
#[cfg(test)]
mod tests;

use rustls::server::{ClientHello, ResolvesServerCert, ServerConfig, UnbufferedServerConnection};
use rustls::sign::CertifiedKey;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus, WriteTraffic};
use std::cell::RefCell;
use std::sync::Arc;
use stream::TlsInfo;

/// Bytes that one connection may keep of records not processed yet: a handshake message has at most 65,535 bytes, in
/// records with their heads, and one more record may have begun.
pub(crate) const PARTIAL_BYTES_MAX: usize = 96 * 1024;
/// XEP-0368 §3: the protocol that a client names on direct TLS.
pub(crate) const ALPN_CLIENT: &[u8] = b"xmpp-client";
/// Room that a TLS record needs beside its payload, with some to spare: header, content type, tag, explicit nonce.
const RECORD_OVERHEAD: usize = 64;
/// Payload of one record.
const RECORD_PAYLOAD: usize = 16 * 1024;
/// Turns of the state machine for one call. Each consumes input or output; this only ends a loop that does neither.
const TURNS_MAX: usize = 4_096;

/// Why TLS ended. The alert that tells the client, if there is one, is in the output already.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error("tls: {0}")]
    Protocol(#[from] rustls::Error),
    #[error("tls: {PARTIAL_BYTES_MAX} bytes without a complete message")]
    TooMuch,
    #[error("tls: no progress")]
    Stuck,
    #[error("tls: cannot write now")]
    NotOpen,
}

/// What came out of received bytes.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// The handshake ended with these bytes: what is known of the channel.
    pub(crate) established: Option<TlsInfo>,
    /// With that: data for `tls-server-end-point`, if there is any.
    pub(crate) server_end_point: Option<Vec<u8>>,
    /// The client has sent `close_notify`: nothing comes any more.
    pub(crate) closed: bool,
}

/// The TLS side of one connection.
pub(crate) struct Tls {
    connection: UnbufferedServerConnection,
    /// Received and not processed: part of a record, or records of an incomplete handshake message.
    partial: Vec<u8>,
    /// Until the handshake ends.
    handshake: Option<Box<exporter::Caught>>,
    /// `require_ems` of the configuration: RFC 9266 §4.2 lets TLS 1.2 bind only with it.
    extended_master_secret: bool,
}

impl Tls {
    /// Begin a handshake. `config` must come from [`Configs`].
    pub(crate) fn new(config: Arc<ServerConfig>) -> Result<Tls, TlsError> {
        let extended_master_secret = config.require_ems;
        let connection = UnbufferedServerConnection::new(config)?;
        Ok(Tls { connection, partial: Vec::new(), handshake: Some(Box::default()), extended_master_secret })
    }

    /// Whether the handshake is still going on.
    pub(crate) fn is_handshaking(&self) -> bool {
        self.handshake.is_some()
    }

    /// What earlier bytes left over; the caller puts it in front of what it reads next.
    pub(crate) fn partial(&self) -> &[u8] {
        &self.partial
    }

    /// Process `input`: what [`Tls::partial`] said, followed by new bytes. Plaintext is appended to `plain`, what must be
    /// sent to `out`.
    pub(crate) fn read(&mut self, input: &mut [u8], plain: &mut Vec<u8>, out: &mut Vec<u8>) -> Result<Progress, TlsError> {
        exporter::clear();
        let mut progress = Progress::default();
        let mut at = 0;
        let mut turns = 0;
        loop {
            turns += 1;
            if turns > TURNS_MAX {
                return Err(TlsError::Stuck);
            }
            let UnbufferedStatus { discard, state } = self.connection.process_tls_records(&mut input[at..]);
            let mut used = discard;
            let mut blocked = false;
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        used += record.discard;
                        plain.extend_from_slice(record.payload);
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => encode(|to| data.encode(to), out)?,
                // What was encoded is in `out`, which is sent before anything else.
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => progress.closed = true,
                Ok(ConnectionState::Closed) => {
                    progress.closed = true;
                    blocked = true;
                }
                Ok(ConnectionState::WriteTraffic(_) | ConnectionState::BlockedHandshake) => blocked = true,
                // Early data is not enabled; a state of a later rustls is one that this driver does not know.
                Ok(_) => return Err(TlsError::Stuck),
                Err(error) => {
                    self.alert(out);
                    return Err(error.into());
                }
            }
            at = (at + used).min(input.len());
            if blocked {
                break;
            }
        }
        self.keep(&input[at..])?;
        self.handshake_progress(out, &mut progress);
        Ok(progress)
    }

    /// Encrypt `plain` behind `out`. In slices of a record's size, in as few records as there can be.
    pub(crate) fn write(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), TlsError> {
        self.write_traffic(out, |traffic, out| {
            let room = plain.len() + (plain.len() / RECORD_PAYLOAD + 1) * RECORD_OVERHEAD;
            encrypt(|to| traffic.encrypt(plain, to), room, out)
        })
    }

    /// Say that nothing more will be sent.
    pub(crate) fn close(&mut self, out: &mut Vec<u8>) -> Result<(), TlsError> {
        self.write_traffic(out, |traffic, out| encrypt(|to| traffic.queue_close_notify(to), RECORD_OVERHEAD, out))
    }

    /// Go to the state in which application data may be sent, and send.
    fn write_traffic(
        &mut self,
        out: &mut Vec<u8>,
        mut send: impl FnMut(&mut WriteTraffic<'_, rustls::server::ServerConnectionData>, &mut Vec<u8>) -> Result<(), TlsError>,
    ) -> Result<(), TlsError> {
        for _ in 0..TURNS_MAX {
            // The partial input goes in each time: rustls keeps positions in it between calls.
            let UnbufferedStatus { discard, state } = self.connection.process_tls_records(&mut self.partial);
            let sent = match state? {
                ConnectionState::EncodeTlsData(mut data) => encode(|to| data.encode(to), out).map(|()| false),
                ConnectionState::TransmitTlsData(data) => {
                    data.done();
                    Ok(false)
                }
                ConnectionState::WriteTraffic(mut traffic) => send(&mut traffic, out).map(|()| true),
                ConnectionState::PeerClosed => Ok(false),
                _ => Err(TlsError::NotOpen),
            };
            self.partial.drain(..discard.min(self.partial.len()));
            if sent? {
                return Ok(());
            }
        }
        Err(TlsError::Stuck)
    }

    /// Keep what is left of the input, and free the buffer when nothing is.
    fn keep(&mut self, rest: &[u8]) -> Result<(), TlsError> {
        if rest.len() > PARTIAL_BYTES_MAX {
            return Err(TlsError::TooMuch);
        }
        if rest.is_empty() {
            self.partial = Vec::new();
        } else {
            self.partial.clear();
            self.partial.extend_from_slice(rest);
        }
        Ok(())
    }

    /// After an error: the alert that rustls has queued for the client.
    fn alert(&mut self, out: &mut Vec<u8>) {
        // Only while there is something queued: that comes out before rustls looks at input again, and looking at input
        // behind an error is what it panics at.
        while self.connection.wants_write() {
            match self.connection.process_tls_records(&mut []).state {
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    if encode(|to| data.encode(to), out).is_err() {
                        return;
                    }
                }
                Ok(ConnectionState::ReadTraffic(mut traffic)) => while traffic.next_record().is_some() {},
                _ => return,
            }
        }
    }

    fn handshake_progress(&mut self, out: &[u8], progress: &mut Progress) {
        let Some(caught) = &mut self.handshake else {
            return;
        };
        exporter::collect(caught, out);
        if self.connection.is_handshaking() {
            return;
        }
        let version13 = self.connection.protocol_version() == Some(rustls::ProtocolVersion::TLSv1_3);
        let exporter =
            self.connection.negotiated_cipher_suite().and_then(|suite| caught.channel_binding(suite, self.extended_master_secret));
        progress.established = Some(TlsInfo { sni: caught.server_name.take(), exporter, version13 });
        // RFC 5929 §4.1 means the certificate of the full handshake, which may have been another one.
        if self.connection.handshake_kind() != Some(rustls::HandshakeKind::Resumed) {
            progress.server_end_point = caught.certificate.take().and_then(|der| end_point::hash(&der));
        }
        self.handshake = None;
    }
}

/// Append what `encode` writes to `out`, with as much room as it asks for.
fn encode(mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>, out: &mut Vec<u8>) -> Result<(), TlsError> {
    let end = out.len();
    match encode(&mut []) {
        // Nothing fits into nothing, but for an empty chunk: the answer says how much is needed.
        Ok(_) | Err(EncodeError::AlreadyEncoded) => Ok(()),
        Err(EncodeError::InsufficientSize(size)) => {
            out.resize(end + size.required_size, 0);
            let written = encode(&mut out[end..]).unwrap_or(0);
            out.truncate(end + written);
            if written == 0 { Err(TlsError::Stuck) } else { Ok(()) }
        }
    }
}

/// Append what `encrypt` writes to `out`: with `room`, then with as much as it asks for.
fn encrypt(mut encrypt: impl FnMut(&mut [u8]) -> Result<usize, EncryptError>, room: usize, out: &mut Vec<u8>) -> Result<(), TlsError> {
    let end = out.len();
    let mut room = room;
    // The first answer may ask for more room; the second one is final.
    for _ in 0..2 {
        out.resize(end + room, 0);
        match encrypt(&mut out[end..]) {
            Ok(written) => {
                out.truncate(end + written);
                return Ok(());
            }
            Err(EncryptError::InsufficientSize(size)) => room = size.required_size,
            Err(EncryptError::EncryptExhausted) => break,
        }
    }
    out.truncate(end);
    Err(TlsError::NotOpen)
}

/// Gives the TLS configuration in force: called for every handshake, so that certificates can be replaced live. It
/// should give the same `Arc` as long as nothing has changed.
pub type TlsProvider = Arc<dyn Fn() -> Arc<ServerConfig> + Send + Sync>;

/// A plane's configurations, derived from the provider's and remade when it gives another one.
pub(crate) struct Configs {
    provider: TlsProvider,
    made: RefCell<Option<Made>>,
}

struct Made {
    from: Arc<ServerConfig>,
    starttls: Arc<ServerConfig>,
    direct: Arc<ServerConfig>,
}

impl Configs {
    pub(crate) fn new(provider: TlsProvider) -> Configs {
        Configs { provider, made: RefCell::new(None) }
    }

    /// For a new handshake; `direct`: on a direct TLS port, with ALPN (XEP-0368).
    pub(crate) fn get(&self, direct: bool) -> Arc<ServerConfig> {
        let from = (self.provider)();
        let mut made = self.made.borrow_mut();
        let made = match &mut *made {
            Some(made) if Arc::ptr_eq(&made.from, &from) => made,
            slot => slot.insert(Made { starttls: derive(&from, Vec::new()), direct: derive(&from, vec![ALPN_CLIENT.to_vec()]), from }),
        };
        Arc::clone(if direct { &made.direct } else { &made.starttls })
    }
}

fn derive(from: &ServerConfig, alpn: Vec<Vec<u8>>) -> Arc<ServerConfig> {
    let mut config = from.clone();
    config.alpn_protocols = alpn;
    // RFC 8446 §8: early data can be replayed.
    config.max_early_data_size = 0;
    config.key_log = Arc::new(exporter::CatchSecret { tls12: config.require_ems });
    config.cert_resolver = Arc::new(CatchName(Arc::clone(&config.cert_resolver)));
    Arc::new(config)
}

/// Notes the server name that a client asks for and the certificate it gets; the resolver configured chooses.
#[derive(Debug)]
struct CatchName(Arc<dyn ResolvesServerCert>);

impl ResolvesServerCert for CatchName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(str::to_owned);
        let key = self.0.resolve(hello);
        let certificate = key.as_ref().and_then(|key| key.cert.first());
        exporter::catch_hello(name, certificate.map(|der| der.to_vec()));
        key
    }

    fn only_raw_public_keys(&self) -> bool {
        self.0.only_raw_public_keys()
    }
}
