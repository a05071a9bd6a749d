//! One connection: bytes in and out, stream restarts, nothing of sessions.

use std::io::ErrorKind;

use anyhow::{Result, bail, ensure};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf};

use crate::ns;
use crate::xml::{Element, Item, StreamParser, escape};

/// What a stream runs on.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// The connection is gone, by whatever end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The server sent a stream error with this condition (RFC 6120 §4.9).
    Error(String),
    /// The server closed the stream.
    Closed,
    /// The connection broke, without a word.
    Broken(String),
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            End::Error(condition) => write!(f, "stream error: {condition}"),
            End::Closed => f.write_str("the server closed the stream"),
            End::Broken(why) => write!(f, "the connection broke: {why}"),
        }
    }
}

impl std::error::Error for End {}

/// How much is written before the caller must wait: a test never has more in hand.
const OUT_BYTES_MAX: usize = 4 << 20;

/// Room for one read, at least.
const READ_BYTES: usize = 4096;

/// An XML stream over a connection.
pub struct Stream {
    read: ReadHalf<Box<dyn Io>>,
    write: WriteHalf<Box<dyn Io>>,
    parser: StreamParser,
    input: Vec<u8>,
    out: Vec<u8>,
    flush: bool,
}

impl Stream {
    /// Takes a connection.
    pub fn new(io: Box<dyn Io>) -> Stream {
        let (read, write) = tokio::io::split(io);
        Stream { read, write, parser: StreamParser::default(), input: Vec::new(), out: Vec::new(), flush: false }
    }

    /// Gives the connection back, for TLS. Fails if the server said more than it may before TLS: whoever
    /// keeps such bytes takes what an attacker wrote in the clear for the server's word (RFC 6120 §5.4.3.3).
    pub fn into_io(self) -> Result<Box<dyn Io>> {
        ensure!(self.parser.is_empty() && self.input.is_empty(), "data behind <proceed/>");
        ensure!(self.out.is_empty(), "unsent data before TLS");
        Ok(self.read.unsplit(self.write))
    }

    /// Queues XML; it goes out while [`next`](Self::next) or [`flush`](Self::flush) waits.
    pub fn push(&mut self, xml: &str) -> Result<()> {
        ensure!(self.out.len() + xml.len() <= OUT_BYTES_MAX, "the server does not read");
        self.out.extend_from_slice(xml.as_bytes());
        Ok(())
    }

    /// Writes what is queued.
    pub async fn flush(&mut self) -> Result<(), End> {
        while !self.out.is_empty() || self.flush {
            Self::write_some(&mut self.write, &mut self.out, &mut self.flush).await?;
        }
        Ok(())
    }

    async fn write_some(write: &mut WriteHalf<Box<dyn Io>>, out: &mut Vec<u8>, flush: &mut bool) -> Result<(), End> {
        if out.is_empty() {
            write.flush().await.map_err(broken)?;
            *flush = false;
        } else {
            let n = write.write(out).await.map_err(broken)?;
            out.drain(..n);
            *flush = true;
        }
        Ok(())
    }

    /// The next item of what has been read, if it is complete.
    fn read_item(&mut self) -> Result<Option<Item>> {
        // Only up to the end of an item: behind <success/> another stream begins, for another parser.
        let mut unread = self.input.as_slice();
        let item = self.parser.advance(&mut unread)?;
        let read = self.input.len() - unread.len();
        self.input.drain(..read);
        match item {
            Some(Item::Element(e)) if e.is("error", ns::STREAM) => {
                let condition = e.children().find(|c| c.ns == ns::STREAMS && c.name != "text");
                Err(End::Error(condition.map_or_else(|| "none".into(), |c| c.name.clone())).into())
            }
            Some(Item::Close) => Err(End::Closed.into()),
            item => Ok(item),
        }
    }

    /// The next item of the stream. Safe to cancel.
    pub async fn next(&mut self) -> Result<Item> {
        loop {
            if let Some(item) = self.read_item()? {
                return Ok(item);
            }
            self.step().await??;
        }
    }

    /// As [`next`](Self::next), but `None` as soon as all that was queued is written. What cannot be written any more is
    /// forgotten: a server that ends a stream may have said why, and that is still to be read.
    pub(crate) async fn next_or_written(&mut self) -> Result<Option<Item>> {
        loop {
            if let Some(item) = self.read_item()? {
                return Ok(Some(item));
            }
            if self.out.is_empty() && !self.flush {
                return Ok(None);
            }
            if self.step().await?.is_err() {
                self.out.clear();
                self.flush = false;
            }
        }
    }

    /// Reads or writes something. The inner result is that of writing.
    async fn step(&mut self) -> Result<Result<(), End>> {
        let writing = !self.out.is_empty() || self.flush;
        self.input.reserve(READ_BYTES);
        tokio::select! {
            read = self.read.read_buf(&mut self.input) => {
                match read {
                    Ok(0) => Err(End::Broken("end of file".into()).into()),
                    Ok(_) => Ok(Ok(())),
                    Err(e) => Err(broken(e).into()),
                }
            }
            written = Self::write_some(&mut self.write, &mut self.out, &mut self.flush), if writing => Ok(written),
        }
    }

    /// Queues bytes that need not be XML.
    pub(crate) fn push_bytes(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// The next element.
    pub async fn element(&mut self) -> Result<Element> {
        match self.next().await? {
            Item::Element(element) => Ok(element),
            item => bail!("expected an element, got {item:?}"),
        }
    }

    /// Sends nothing more; what comes is still read.
    pub(crate) async fn shutdown(&mut self) {
        let _ = self.write.shutdown().await;
    }

    /// What comes next is a stream header again.
    pub(crate) fn restart(&mut self) {
        self.parser = StreamParser::default();
    }

    /// Opens the stream, or opens it anew (RFC 6120 §4.3.3); gives the features.
    pub async fn open(&mut self, domain: &str) -> Result<Element> {
        self.restart();
        self.push(&format!(
            "<?xml version='1.0'?><stream:stream xmlns='{}' xmlns:stream='{}' to='{}' version='1.0' xml:lang='en'>",
            ns::CLIENT,
            ns::STREAM,
            escape(domain)
        ))?;
        let Item::Open(header) = self.next().await? else { bail!("no stream header") };
        ensure!(header.is("stream", ns::STREAM), "the root is {header:?}");
        ensure!(header.attr("from") == Some(domain), "from={:?} (RFC 6120 §4.7.1)", header.attr("from"));
        ensure!(header.attr("version") == Some("1.0"), "version={:?}", header.attr("version"));
        ensure!(header.attr("id").is_some_and(|id| !id.is_empty()), "no stream id (RFC 6120 §4.7.3)");
        let features = self.element().await?;
        ensure!(features.is("features", ns::STREAM), "expected features, got {features:?}");
        Ok(features)
    }

    /// Ends the stream and waits for the server's end of it.
    pub async fn close(mut self) -> Result<()> {
        self.push("</stream:stream>")?;
        self.flush().await?;
        loop {
            match self.next().await {
                Ok(_) => {}
                Err(e) => match e.downcast::<End>()? {
                    End::Closed => return Ok(()),
                    end => return Err(end.into()),
                },
            }
        }
    }
}

fn broken(e: std::io::Error) -> End {
    let why = match e.kind() {
        ErrorKind::UnexpectedEof => "end of file without close_notify".to_owned(),
        _ => e.to_string(),
    };
    End::Broken(why)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use rand::rngs::SmallRng;
    use rand::{Rng as _, SeedableRng as _};
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
    use tokio::io::AsyncReadExt as _;

    use super::*;

    /// Pushes, cancels at random and reads; every byte must come once and in order, both ways, over narrow pipes.
    async fn survives_cancelling(client: Box<dyn Io>, server: Box<dyn Io>, seed: u64) {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut stream = Stream::new(client);
        let (mut server_read, mut server_write) = tokio::io::split(server);
        let mut expected = String::new();
        let reader = tokio::spawn(async move {
            let mut got = Vec::new();
            let mut chunk = [0; 61];
            while let Ok(n @ 1..) = server_read.read(&mut chunk).await {
                got.extend_from_slice(&chunk[..n]);
                tokio::task::yield_now().await;
            }
            String::from_utf8(got).unwrap()
        });
        let writer = tokio::spawn(async move {
            server_write.write_all(b"<stream xmlns='jabber:client'>").await.unwrap();
            for n in 0..200 {
                server_write.write_all(format!("<message id='{n}'><body>{}</body></message>", "x".repeat(n)).as_bytes()).await.unwrap();
                server_write.flush().await.unwrap();
            }
            server_write
        });
        let mut seen = -1;
        for n in 0..400 {
            let xml = format!("<a n='{n}'>{}</a>", "é".repeat(rng.random_range(0..300)));
            expected += &xml;
            stream.push(&xml).unwrap();
            let patience = Duration::from_micros(rng.random_range(0..300));
            while let Ok(item) = tokio::time::timeout(patience, stream.next()).await {
                if let Item::Element(e) = item.unwrap() {
                    seen += 1;
                    assert_eq!(e.attr("id"), Some(seen.to_string().as_str()));
                }
            }
        }
        while seen < 199 {
            if let Item::Element(_) = stream.next().await.unwrap() {
                seen += 1;
            }
        }
        stream.flush().await.unwrap();
        let _server_write = writer.await.unwrap();
        drop(stream);
        assert_eq!(reader.await.unwrap(), expected);
    }

    #[tokio::test]
    async fn nothing_is_lost_or_doubled_by_cancelling() {
        for seed in 0..5 {
            let (client, server) = tokio::io::duplex(97);
            survives_cancelling(Box::new(client), Box::new(server), seed).await;
        }
    }

    #[tokio::test]
    async fn nor_under_tls() {
        let folder = tempfile::tempdir().unwrap();
        let files = crate::tls::Certificates::make(folder.path(), "localhost").unwrap();
        let chain = vec![CertificateDer::from_pem_file(&files.chain).unwrap()];
        let key = PrivateKeyDer::from_pem_file(&files.key).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config.with_no_client_auth().with_single_cert(chain, key).unwrap()));
        let connector = tokio_rustls::TlsConnector::from(crate::tls::trusting(&files.ca).unwrap());
        for seed in 0..5 {
            let (client, server) = tokio::io::duplex(997);
            let name = ServerName::try_from("localhost").unwrap();
            let (client, server) = tokio::join!(connector.connect(name, client), acceptor.accept(server));
            survives_cancelling(Box::new(client.unwrap()), Box::new(server.unwrap()), seed).await;
        }
    }
}
