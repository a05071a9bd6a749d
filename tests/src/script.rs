//! Transcripts: what clients send and what must come, in words and XML, for readers who know XMPP.
//!
//! `tests/scripts/README.md` describes the format. A [`Script`] is read by [`Script::read`] and played by [`play`] on any
//! [`Backend`]: the running server over TCP ([`tcp::Tcp`]), or the server's cores under a virtual clock (in `tests/scripts/`,
//! so that nothing here links the server). What comes is compared exactly: every attribute, every child, in order.

mod parse;
mod pattern;
mod play;
pub mod tcp;

use std::time::Duration;

use anyhow::Result;

pub use parse::{Action, Person, Script, Step};
pub use pattern::Vars;
pub use play::{play, record};

use crate::xml::Element;

/// How far a stream is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Under TLS, before login.
    Secured,
    /// Logged in, nothing bound.
    LoggedIn,
}

/// What came on a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Came {
    /// A first-level element.
    Element(Element),
    /// The server ended the stream, with this condition if it was an error.
    End(Option<String>),
}

/// What a script is played on. Clients are named by their place in [`Script::people`].
#[allow(async_fn_in_trait, reason = "used by this crate alone, on one thread")]
pub trait Backend {
    /// Connects a client, up to the features of this level, which it gives.
    async fn open(&mut self, client: usize, person: &Person, level: Level) -> Result<Element>;
    /// Opens the stream anew after a login that the script itself made (RFC 6120 §6.4.6); gives the features.
    async fn restart_stream(&mut self, client: usize) -> Result<Element>;
    /// Sends text as it is.
    async fn send(&mut self, client: usize, xml: &str) -> Result<()>;
    /// What comes next, or `None` if nothing does. With `patient`, only after waiting as long as an answer may ever take.
    async fn next(&mut self, client: usize, patient: bool) -> Result<Option<Came>>;
    /// The socket breaks.
    async fn cut(&mut self, client: usize) -> Result<()>;
    /// Lets what was sent take effect, before somebody else goes on.
    async fn settle(&mut self) -> Result<()>;
    /// Time passes.
    async fn pass(&mut self, time: Duration) -> Result<()>;
    /// The server ends, at once or by SIGTERM, and starts again on its data.
    async fn restart(&mut self, kill: bool) -> Result<()>;
}
