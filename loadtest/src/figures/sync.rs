//! What a disk takes to make a write durable: the floor of a message that is archived before it is delivered.

use crate::clock;
use crate::histogram::Histogram;
use crate::scenario::Latency;
use anyhow::Result;
use std::io::Write as _;
use std::path::Path;

/// Writes, each followed by `fdatasync`.
const WRITES: usize = 300;
/// Bytes of one, about what a group of a few messages takes.
const BYTES: usize = 4_096;

/// Appends to a file in `folder`, one write at a time.
///
/// # Errors
/// The disk's.
pub(super) fn raw(folder: &Path) -> Result<Latency> {
    let mut file = tempfile::tempfile_in(folder)?;
    let times = Histogram::default();
    for _ in 0..WRITES {
        let start = clock::nanos();
        file.write_all(&[b'x'; BYTES])?;
        file.sync_data()?;
        times.record((clock::nanos() - start) / 1_000);
    }
    Ok(Latency::of(&times.counts()).unwrap_or_default())
}
