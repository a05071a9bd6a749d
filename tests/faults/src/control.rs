//! The control page, and the folder in which everything of the layer stands.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use crate::{cut, log};

/// The name of the control page in the state folder.
pub const FILE: &str = "control";
/// Its bytes.
pub const BYTES: usize = 4096;

/// A word of 64 bits on the control page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Word {
    /// Not 0: the log is written. Set before the process starts.
    Record = 0,
    /// Bytes that can still be written; then ENOSPC. All ones: no end.
    Space = 1,
    /// Free bytes that the file system claims to have. All ones: what it has.
    Free = 2,
    /// Microseconds that each sync waits.
    SyncDelay = 3,
    /// So many reads fail with EIO.
    ReadErrors = 4,
    /// So many writes fail with EIO.
    WriteErrors = 5,
    /// So many syncs fail with EIO.
    SyncErrors = 6,
    /// Milliseconds, signed, by which CLOCK_REALTIME is wrong.
    ClockStep = 7,
    /// The process kills itself at the so manieth place where a power cut can strike: before and behind each change and each
    /// sync. 0: it does not.
    CutAfter = 8,
    /// So many reads go well before one fails.
    ReadsSpared = 9,
    /// From here on the layer counts. How often a process began with the layer.
    Began = 16,
    /// Writes to files of the directory.
    Writes = 17,
    /// Bytes of these.
    Bytes = 18,
    /// Syncs of files and folders.
    Syncs = 19,
    /// Files and folders made, renamed, removed.
    Names = 20,
    /// ENOSPC returned.
    Full = 21,
    /// EIO returned to reads.
    ReadsFailed = 22,
    /// EIO returned to writes.
    WritesFailed = 23,
    /// EIO returned to syncs.
    SyncsFailed = 24,
    /// Syncs that were made to wait.
    SyncsDelayed = 25,
    /// Readings of the clock that were wrong.
    ClockReads = 26,
    /// The process killed itself ([`Word::CutAfter`]).
    Cuts = 27,
    /// Calls on the directory that the layer does not cover. A run that has one proves nothing.
    Uncovered = 28,
    /// Times that the free space was asked for and the answer was made up.
    FreeAsked = 29,
    /// Reads of files of the directory, if reads are watched.
    Reads = 30,
}

/// The layer of one directory, from outside.
#[derive(Debug)]
pub struct Layer {
    directory: PathBuf,
    state: PathBuf,
    control: File,
}

impl Layer {
    /// A layer for `directory`, which stands on the same file system as the `state` folder. That one is made.
    ///
    /// # Errors
    /// The file system's.
    pub fn new(directory: &Path, state: &Path) -> io::Result<Layer> {
        fs::create_dir_all(state.join(log::TRASH))?;
        let control = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(state.join(FILE))?;
        control.set_len(BYTES as u64)?;
        let layer = Layer { directory: directory.canonicalize()?, state: state.canonicalize()?, control };
        layer.set(Word::Space, u64::MAX)?;
        layer.set(Word::Free, u64::MAX)?;
        layer.forget()?;
        Ok(layer)
    }

    /// What a process needs in its environment, with `library` built from `chappe-faults-preload`. `reads`: reads are watched,
    /// too, so that they can fail.
    pub fn environment(&self, library: &Path, reads: bool) -> Vec<(&'static str, PathBuf)> {
        let mut all = vec![
            ("LD_PRELOAD", library.to_owned()),
            ("CHAPPE_FAULTS_DIRECTORY", self.directory.clone()),
            ("CHAPPE_FAULTS_STATE", self.state.clone()),
        ];
        if reads {
            all.push(("CHAPPE_FAULTS_READS", "1".into()));
        }
        all
    }

    /// Sets a word.
    ///
    /// # Errors
    /// The file system's.
    pub fn set(&self, word: Word, value: u64) -> io::Result<()> {
        self.control.write_all_at(&value.to_le_bytes(), word as u64 * 8)
    }

    /// Reads a word.
    ///
    /// # Errors
    /// The file system's.
    pub fn get(&self, word: Word) -> io::Result<u64> {
        let mut bytes = [0; 8];
        self.control.read_exact_at(&mut bytes, word as u64 * 8)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Cuts the power of a process that has been killed: of what it changed and did not sync, `seed` says what is kept. What is
    /// there then is durable, and the log begins anew.
    ///
    /// # Errors
    /// The directory cannot be put back; then it is worth nothing.
    pub fn cut(&self, seed: u64) -> io::Result<cut::Dropped> {
        let log = fs::read(self.state.join(log::FILE))?;
        let dropped = cut::cut(&self.directory, &self.state.join(log::TRASH), &log, seed)?;
        self.forget()?;
        Ok(dropped)
    }

    /// Takes everything that is there for durable, while no process runs on it.
    ///
    /// # Errors
    /// The file system's.
    pub fn forget(&self) -> io::Result<()> {
        File::create(self.state.join(log::FILE))?;
        for entry in fs::read_dir(self.state.join(log::TRASH))? {
            fs::remove_file(entry?.path())?;
        }
        Ok(())
    }
}
