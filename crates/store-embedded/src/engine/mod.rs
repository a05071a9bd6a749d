//! The journal's disk in production: fjall for the cells, redb for the mark.

mod disk;
mod mark;
mod scan;

pub(crate) use disk::{FjallDisk, FjallSource, Tuning};
pub(crate) use mark::MarkFile;
pub use scan::survey;
