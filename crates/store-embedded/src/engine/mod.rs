//! The journal's disk in production: fjall for the cells, redb for the mark.

mod disk;
mod mark;
mod scan;
mod young;

pub(crate) use disk::{FjallDisk, FjallSource, Tuning};
pub(crate) use mark::MarkFile;
pub use scan::survey;
pub(crate) use young::YOUNG_BYTES_MAX;
