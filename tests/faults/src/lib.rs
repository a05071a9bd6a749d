//! Power cuts and disk faults under a real process.
//!
//! The package `chappe-faults-preload` is a library that is preloaded into a server. It sees every system call that changes a
//! directory, and
//!
//! - appends to a *log* what the call is about to overwrite, so that it can be undone, and what was made durable;
//! - makes calls fail, wait or lie when a word of the *control* page says so, and counts what it did.
//!
//! Both are files of a *state folder* outside that directory. The log is written before the call that it describes, so it is
//! right whenever the process is killed. Here is the other side: [`Layer`] sets the words and reads the counts, and
//! [`Layer::cut`] turns the directory of a killed process into one that a disk may have after the power was cut.
//!
//! Start with [`Layer`].

mod control;
mod cut;
mod library;
pub mod log;

pub use control::{Layer, Word};
pub use cut::Dropped;
pub use library::library;
