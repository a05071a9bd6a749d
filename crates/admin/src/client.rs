//! A client of the interface for the commands: one blocking request over one connection, no more.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use config::Secret;

use crate::api::ErrorBody;
use crate::control::Code;

/// A server that does not answer by then is not going to.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of an answer; a page of users is far below.
const ANSWER_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Why a call gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nobody listens there, or the connection broke.
    #[error("the server does not answer on {address}: {source}")]
    Unreachable {
        /// Where it was looked for.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The server said no.
    #[error("{message}")]
    Refused {
        /// One of a closed set.
        code: Code,
        /// For people.
        message: String,
    },
    /// Somebody answers who is not this interface.
    #[error("{address} answers, but not as a Chappe server does")]
    Foreign {
        /// Who answered.
        address: SocketAddr,
    },
}

/// Where the interface is and what it wants to see.
#[derive(Clone, Debug)]
pub struct Client {
    /// A bound address of it.
    pub address: SocketAddr,
    /// The bearer token.
    pub token: Secret,
}

impl Client {
    /// Calls `method path` with a JSON body, if any, and returns the answer's body.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn call(&self, method: &str, path: &str, body: Option<&serde_json::Value>) -> Result<Vec<u8>, CallError> {
        let body = body.map(ToString::to_string).unwrap_or_default();
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", self.address);
        request.push_str(&format!("Authorization: Bearer {}\r\n", self.token.expose()));
        if !body.is_empty() {
            request.push_str(&format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len()));
        }
        request.push_str("\r\n");
        let answer = self
            .exchange(&[request.as_bytes(), body.as_bytes()])
            .map_err(|source| CallError::Unreachable { address: self.address, source })?;
        let (status, body) = parse(&answer).ok_or(CallError::Foreign { address: self.address })?;
        if (200..300).contains(&status) {
            return Ok(body.to_vec());
        }
        let error: ErrorBody = serde_json::from_slice(body).map_err(|_| CallError::Foreign { address: self.address })?;
        Err(CallError::Refused { code: error.error.code, message: error.error.message })
    }

    fn exchange(&self, parts: &[&[u8]]) -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&self.address, TIMEOUT)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        for part in parts {
            stream.write_all(part)?;
        }
        let mut answer = Vec::new();
        stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
        Ok(answer)
    }
}

/// Status and body of an answer. The interface sends lengths, never chunks.
fn parse(answer: &[u8]) -> Option<(u16, &[u8])> {
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n")?;
    let head = std::str::from_utf8(answer.get(..end)?).ok()?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    if head.to_ascii_lowercase().contains("\r\ntransfer-encoding:") {
        return None;
    }
    Some((status, answer.get(end + 4..)?))
}

/// Percent-encodes what a path segment or a query value cannot hold.
pub fn encode(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~@".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}
