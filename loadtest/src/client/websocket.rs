//! XMPP over WebSocket (RFC 7395), as bytes of an RFC 6120 stream to both sides: what is written is cut into messages of
//! one element each, and the stream's header and end are written as `<open/>` and `<close/>`; and the other way round.

use super::transport::Io;
use crate::element;
use crate::splitter::{Frame, Splitter};
use anyhow::{Result, ensure};
use futures::{Sink as _, Stream as _};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::{HeaderValue, StatusCode, header::SEC_WEBSOCKET_PROTOCOL};
use tokio_tungstenite::tungstenite::{Error, Message};

const FRAMING: &str = "urn:ietf:params:xml:ns:xmpp-framing";
const HEADER: &[u8] = b"<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' version='1.0'>";
const END: &[u8] = b"</stream:stream>";

/// A WebSocket that looks like a TCP connection with a stream.
pub struct Stream {
    socket: WebSocketStream<Io>,
    secure: bool,
    /// Cuts what is written.
    splitter: Splitter,
    /// Received and not yet read.
    rest: Vec<u8>,
    /// Of it, what was read.
    taken: usize,
}

impl Stream {
    /// Asks for a WebSocket on a connection.
    ///
    /// # Errors
    /// What the server answers instead.
    pub async fn open(io: Io, host: &str, path: &str) -> Result<Stream> {
        let secure = io.is_secure();
        let scheme = if secure { "wss" } else { "ws" };
        let mut request = format!("{scheme}://{host}{path}").into_client_request()?;
        request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("xmpp"));
        let (socket, response) = tokio_tungstenite::client_async(request, io).await?;
        ensure!(response.status() == StatusCode::SWITCHING_PROTOCOLS, "HTTP {}", response.status());
        Ok(Stream { socket, secure, splitter: Splitter::default(), rest: Vec::new(), taken: 0 })
    }

    /// Whether it runs under TLS.
    pub fn is_secure(&self) -> bool {
        self.secure
    }
}

/// The message that carries a part of the stream.
fn message(frame: Frame<'_>) -> io::Result<String> {
    match frame {
        Frame::Header(header) => {
            let to = element::attr(header, b"to").map(text).transpose()?.unwrap_or_default();
            Ok(format!("<open xmlns='{FRAMING}' to='{to}' version='1.0'/>"))
        }
        Frame::End => Ok(format!("<close xmlns='{FRAMING}'/>")),
        Frame::Element(element) => {
            let whole = text(element)?;
            // Nothing is around a stanza that could say its namespace (RFC 7395 §3.3.3).
            let name = element::name(element);
            if matches!(name, b"message" | b"presence" | b"iq") && element::attr(element, b"xmlns").is_none() {
                let (start, rest) = whole.split_at(1 + name.len());
                return Ok(format!("{start} xmlns='jabber:client'{rest}"));
            }
            Ok(whole.to_owned())
        }
    }
}

fn text(bytes: &[u8]) -> io::Result<&str> {
    std::str::from_utf8(bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

/// The part of the stream that a message carries.
fn part(message: &[u8]) -> &[u8] {
    match element::name(message) {
        b"open" => HEADER,
        b"close" => END,
        _ => message,
    }
}

fn failed(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        other => io::Error::other(other),
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.taken == this.rest.len() {
            match ready!(Pin::new(&mut this.socket).poll_next(cx)) {
                None | Some(Ok(Message::Close(_)) | Err(Error::ConnectionClosed | Error::AlreadyClosed)) => return Poll::Ready(Ok(())),
                Some(Ok(Message::Text(text))) => {
                    this.rest.clear();
                    this.rest.extend_from_slice(part(text.as_bytes()));
                    this.taken = 0;
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(failed(error))),
            }
        }
        let n = (this.rest.len() - this.taken).min(buf.remaining());
        buf.put_slice(&this.rest[this.taken..this.taken + n]);
        this.taken += n;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut this.socket).poll_ready(cx)).map_err(failed)?;
        if buf.starts_with(b"<?xml") {
            this.splitter.restart();
        }
        this.splitter.feed(buf);
        while let Some(frame) = this.splitter.next().map_err(io::Error::other)? {
            Pin::new(&mut this.socket).start_send(Message::text(message(frame)?)).map_err(failed)?;
        }
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx).map_err(failed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match ready!(Pin::new(&mut self.get_mut().socket).poll_close(cx)) {
            Ok(()) | Err(Error::ConnectionClosed | Error::AlreadyClosed) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(failed(error))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(stream: &str, wanted: &[&str]) {
        let mut splitter = Splitter::default();
        splitter.feed(stream.as_bytes());
        let mut messages = Vec::new();
        while let Some(frame) = splitter.next().unwrap() {
            messages.push(message(frame).unwrap());
        }
        assert_eq!(messages, wanted);
    }

    #[test]
    fn a_stream_becomes_messages() {
        check(
            "<?xml version='1.0'?><stream:stream to='a&amp;b' version='1.0'><auth xmlns='u'>x</auth><iq id='1'/>\
             <message xmlns='jabber:client'/><presence><a/></presence></stream:stream>",
            &[
                "<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='a&amp;b' version='1.0'/>",
                "<auth xmlns='u'>x</auth>",
                "<iq xmlns='jabber:client' id='1'/>",
                "<message xmlns='jabber:client'/>",
                "<presence xmlns='jabber:client'><a/></presence>",
                "<close xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>",
            ],
        );
    }

    #[test]
    fn messages_become_a_stream() {
        assert_eq!(part(b"<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' id='1'/>"), HEADER);
        assert_eq!(part(b"<f:close xmlns:f='urn:ietf:params:xml:ns:xmpp-framing'/>"), END);
        assert_eq!(part(b"<iq/>"), b"<iq/>");
    }
}
