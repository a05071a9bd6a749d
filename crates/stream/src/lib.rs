//! XMPP streams of clients as pure state machines: RFC 6120 from the first byte to authentication, the elements and counters
//! of XEP-0198, and the forms of XEP-0077.
//!
//! It never does I/O, never reads a clock, never draws a random number, knows no session and no shard: who holds what of a
//! session is the edge's affair.
//!
//! Start with [`C2s`] and its [`Event`]s.

mod c2s;
mod error;
mod header;
mod login;
mod random;
pub mod register;
mod settings;
pub mod sm;

pub use c2s::{C2s, Event, SPACE_BYTES_PER_SECOND_MAX, stream_element};
pub use error::StreamError;
pub use header::Level;
pub use login::Keys;
pub use random::Random;
pub use settings::{Features, Settings, TlsInfo};
