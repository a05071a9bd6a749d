//! The mark and the node's identity, in a redb file of their own.

use crate::journal::DiskError;
use redb::{Database, ReadableDatabase, TableDefinition};
use std::path::Path;

const MARK: TableDefinition<&str, u64> = TableDefinition::new("mark");
const NODE: TableDefinition<&str, &[u8]> = TableDefinition::new("node");
const GROUP: &str = "group";
const IDENTITY: &str = "identity";

/// Which group was durable once, and who this node is.
pub(crate) struct MarkFile {
    db: Database,
    identity: [u8; 16],
}

fn error(e: impl std::fmt::Display) -> DiskError {
    DiskError(format!("durability mark: {e}"))
}

impl MarkFile {
    /// Begin one, with this identity and mark 0. It is durable when this returns.
    pub(crate) fn create(path: &Path, identity: [u8; 16]) -> Result<MarkFile, DiskError> {
        // Beside and then renamed: a file that is there is whole.
        let fresh = path.with_extension("new");
        if fresh.exists() {
            std::fs::remove_file(&fresh).map_err(error)?;
        }
        let db = Database::create(&fresh).map_err(error)?;
        let write = db.begin_write().map_err(error)?;
        write.open_table(MARK).map_err(error)?.insert(GROUP, 0).map_err(error)?;
        write.open_table(NODE).map_err(error)?.insert(IDENTITY, &identity[..]).map_err(error)?;
        write.commit().map_err(error)?;
        drop(db);
        std::fs::rename(&fresh, path).map_err(error)?;
        if let Some(dir) = path.parent() {
            std::fs::File::open(dir).and_then(|d| d.sync_all()).map_err(error)?;
        }
        MarkFile::open(path)
    }

    /// Open one that is there.
    pub(crate) fn open(path: &Path) -> Result<MarkFile, DiskError> {
        let db = Database::open(path).map_err(error)?;
        let read = db.begin_read().map_err(error)?;
        let table = read.open_table(NODE).map_err(error)?;
        let stored = table.get(IDENTITY).map_err(error)?.ok_or_else(|| error("it has no identity"))?;
        let identity = stored.value().try_into().map_err(|_| error("its identity is not 16 bytes"))?;
        drop((stored, table, read));
        Ok(MarkFile { db, identity })
    }

    pub(crate) fn identity(&self) -> [u8; 16] {
        self.identity
    }

    pub(crate) fn read(&self) -> Result<u64, DiskError> {
        let read = self.db.begin_read().map_err(error)?;
        let table = read.open_table(MARK).map_err(error)?;
        Ok(table.get(GROUP).map_err(error)?.ok_or_else(|| error("it names no group"))?.value())
    }

    /// Durable when this returns.
    pub(crate) fn write(&self, group: u64) -> Result<(), DiskError> {
        let write = self.db.begin_write().map_err(error)?;
        write.open_table(MARK).map_err(error)?.insert(GROUP, group).map_err(error)?;
        write.commit().map_err(error)
    }
}
