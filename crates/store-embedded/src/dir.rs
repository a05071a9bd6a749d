//! The data directory: who may use it, and which format it has.
//!
//! ```text
//! format.toml   the format's number; a directory without it is not ours
//! lock          held while a process uses the directory
//! mark.redb     the durability mark, the node's identity
//! cells/        fjall's
//! ```

use crate::format::FORMAT;
use crate::journal::{DiskError, RecoverError};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

const FORMAT_FILE: &str = "format.toml";
const LOCK_FILE: &str = "lock";

/// Why a data directory is not opened. Nothing in it was changed, or a copy of what was cut is kept.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("{} is in use by another process{}", .dir.display(), .holder.as_ref().map(|pid| format!(" (pid {pid})")).unwrap_or_default())]
    Locked {
        /// The directory.
        dir: PathBuf,
        /// Who, if it says so.
        holder: Option<String>,
    },
    /// A newer program wrote it.
    #[error("{} has format {found}, this program reads formats up to {FORMAT}: start the newer program again. Nothing was changed", .dir.display())]
    Newer {
        /// The directory.
        dir: PathBuf,
        /// Its format.
        found: u32,
    },
    /// It is not a data directory, or a part of one.
    #[error("{}: {what}", .dir.display())]
    NotOurs {
        /// The directory.
        dir: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// It is another node's.
    #[error("{} belongs to node {found}, not to node {expected}: is another node's disk mounted here? Nothing was changed", .dir.display())]
    OtherNode {
        /// The directory.
        dir: PathBuf,
        /// Whose it is, in hex.
        found: String,
        /// Whose it should be, in hex.
        expected: String,
    },
    /// The journal is not taken up.
    #[error("{}: {source}", .dir.display())]
    Recover {
        /// The directory.
        dir: PathBuf,
        /// Why.
        source: RecoverError,
    },
    /// The operating system refuses.
    #[error("{}: {source}", .dir.display())]
    Io {
        /// The directory.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl OpenError {
    pub(crate) fn disk(dir: &Path, error: DiskError) -> OpenError {
        OpenError::Recover { dir: dir.to_owned(), source: RecoverError::Disk(error) }
    }
}

/// A data directory that this process holds.
#[derive(Debug)]
pub(crate) struct DataDir {
    pub path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Take it, or begin one where there is nothing. A refusal writes nothing.
    pub(crate) fn take(path: &Path) -> Result<DataDir, OpenError> {
        let io = |source| OpenError::Io { dir: path.to_owned(), source };
        let seen = read_format(path)?;
        if seen.is_none() {
            create(path).map_err(io)?;
            if !is_fresh(path).map_err(io)? {
                let what =
                    format!("there are files but no {FORMAT_FILE}; not a data directory of this program, or its {FORMAT_FILE} was lost");
                return Err(OpenError::NotOurs { dir: path.to_owned(), what });
            }
        }
        let lock = lock(path)?;
        // Again under the lock: somebody could have begun it meanwhile. One of an earlier format is one of this format as it is.
        if read_format(path)? != Some(FORMAT) {
            write_format(path).map_err(io)?;
        }
        Ok(DataDir { path: path.to_owned(), _lock: lock })
    }

    pub(crate) fn cells(&self) -> PathBuf {
        self.path.join("cells")
    }

    pub(crate) fn mark(&self) -> PathBuf {
        self.path.join("mark.redb")
    }
}

fn create(path: &Path) -> io::Result<()> {
    if path.exists() {
        return Ok(());
    }
    // A folder whose name is not durable takes all that is synced in it along.
    let parent = match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => Path::new("/"),
    };
    create(parent)?;
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    match builder.create(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        done => done?,
    }
    sync_above(parent)
}

/// Make the names in a folder durable that may be another's, whose names we may not read.
fn sync_above(folder: &Path) -> io::Result<()> {
    match File::open(folder) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        opened => opened?.sync_all(),
    }
}

/// Make the names of all folders in `folder` durable, its own, and that of the data directory around it.
pub(crate) fn sync_names(folder: &Path) -> io::Result<()> {
    sync_folders(folder)?;
    folder.ancestors().skip(1).take(2).filter(|f| !f.as_os_str().is_empty()).try_for_each(sync_above)
}

fn sync_folders(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_folders(&entry.path())?;
        }
    }
    File::open(folder)?.sync_all()
}

/// Nothing is there but what an interrupted beginning leaves, or what a file system puts there itself.
fn is_fresh(path: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        if ![LOCK_FILE, "format.new", "lost+found"].iter().any(|known| name == *known) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A format that this program reads, none if there is no file.
fn read_format(path: &Path) -> Result<Option<u32>, OpenError> {
    let dir = path.to_owned();
    let text = match fs::read_to_string(path.join(FORMAT_FILE)) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(OpenError::Io { dir, source }),
    };
    let found = text.lines().find_map(|line| line.strip_prefix("format = ")?.trim().parse::<u32>().ok());
    match found {
        Some(found) if found > FORMAT => Err(OpenError::Newer { dir, found }),
        Some(1..=FORMAT) => Ok(found),
        _ => Err(OpenError::NotOurs { dir, what: format!("{FORMAT_FILE} does not say a format that this program knows") }),
    }
}

fn write_format(path: &Path) -> io::Result<()> {
    let text = format!("# The data directory of an XMPP server. Written by the program; not for editing.\nformat = {FORMAT}\n");
    let fresh = path.join("format.new");
    let mut file = File::create(&fresh)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&fresh, path.join(FORMAT_FILE))?;
    File::open(path)?.sync_all()
}

fn lock(path: &Path) -> Result<File, OpenError> {
    let io = |source| OpenError::Io { dir: path.to_owned(), source };
    let file = path.join(LOCK_FILE);
    let mut lock = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&file).map_err(io)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // For people only: who holds it may be unreadable.
            let _ = (&mut lock).take(32).read_to_string(&mut holder);
            let holder = Some(holder.trim().to_owned()).filter(|h| !h.is_empty());
            return Err(OpenError::Locked { dir: path.to_owned(), holder });
        }
        Err(TryLockError::Error(source)) => return Err(io(source)),
    }
    lock.set_len(0).map_err(io)?;
    writeln!(lock, "{}", std::process::id()).map_err(io)?;
    Ok(lock)
}

/// Bytes that are free for this process on the file system of `path`.
pub(crate) fn free_bytes(path: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}
