//! The readable side of a disk.

use store::{Page, Read, StoreError};

/// Reads durable groups. Callable from many threads.
pub(crate) trait Source: Send + Sync {
    /// The page at this moment: whole groups, the newest durable one included.
    fn read(&self, read: &Read) -> Result<Page, StoreError>;
}
