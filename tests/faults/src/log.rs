//! The log: what was overwritten and what was made durable, in the order in which it happened.
//!
//! A record is a head of [`HEAD`] bytes and what follows it. A record's place is its first byte in the log; a sync says up to
//! which place it made things durable.

/// The name of the log in the state folder.
pub const FILE: &str = "log";
/// The name of the folder there that keeps what was unlinked.
pub const TRASH: &str = "trash";
/// Bytes of a record's head.
pub const HEAD: usize = 48;
/// Begins every record.
pub const MAGIC: u32 = 0x4c46_4843;
/// Most bytes of one write; a longer one is written in part, as the kernel may, too.
pub const WRITE_MAX: usize = 256 * 1024;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// A write to a file: `at`, `len`, `size` before it; behind the head what was there.
    Write = 1,
    /// What the next [`Kind::Size`] cuts off: `at`, `len`.
    Tail = 2,
    /// A file's size is set to `at`; it was `size`.
    Size = 3,
    /// A file or a folder was synced: what has its place before `at` is durable.
    Sync = 4,
    /// A sync failed: what has its place before `at` and is not durable yet never will be.
    SyncFailed = 5,
    /// A file was made. `inode` is the folder; the path.
    Create = 6,
    /// A folder was made. The same.
    MakeDir = 7,
    /// A file was removed. `inode` is the folder; the path, zero, its name in the trash.
    Unlink = 8,
    /// A folder was removed. `inode` is the folder; the path.
    RemoveDir = 9,
    /// A file was renamed. `inode` and `at` are the folders; the old path, zero, the new path, zero, the name in the trash of
    /// what it replaced, if anything.
    Rename = 10,
    /// Everything was synced.
    SyncAll = 11,
}

impl Kind {
    fn of(number: u32) -> Option<Kind> {
        use Kind::*;
        [Write, Tail, Size, Sync, SyncFailed, Create, MakeDir, Unlink, RemoveDir, Rename, SyncAll].into_iter().find(|k| *k as u32 == number)
    }
}

/// A record's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// What it is.
    pub kind: Kind,
    /// Bytes behind the head.
    pub rest: u32,
    /// Which file or folder.
    pub inode: u64,
    /// See [`Kind`].
    pub at: u64,
    /// Bytes written or cut.
    pub len: u64,
    /// The file's size before.
    pub size: u64,
}

impl Head {
    /// As it stands in the log.
    pub fn write(&self) -> [u8; HEAD] {
        let mut out = [0; HEAD];
        out[..4].copy_from_slice(&MAGIC.to_le_bytes());
        out[4..8].copy_from_slice(&(self.kind as u32).to_le_bytes());
        out[8..12].copy_from_slice(&self.rest.to_le_bytes());
        for (n, number) in [self.inode, self.at, self.len, self.size].into_iter().enumerate() {
            out[16 + n * 8..24 + n * 8].copy_from_slice(&number.to_le_bytes());
        }
        out
    }

    /// From the log. None: it is no head.
    pub fn read(bytes: &[u8]) -> Option<Head> {
        let short = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let long = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        if short(0)? != MAGIC {
            return None;
        }
        Some(Head { kind: Kind::of(short(4)?)?, rest: short(8)?, inode: long(16)?, at: long(24)?, len: long(32)?, size: long(40)? })
    }
}

/// A record of a log.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Its place.
    pub place: u64,
    /// Its head.
    pub head: Head,
    /// What is behind the head.
    pub rest: &'a [u8],
}

impl<'a> Record<'a> {
    /// The paths and names behind the head.
    pub fn names(&self) -> impl Iterator<Item = &'a str> {
        self.rest.split(|b| *b == 0).map(|name| std::str::from_utf8(name).unwrap_or_default())
    }
}

/// The records of a log. The last one may have been cut by the kill: what it describes has not begun.
pub fn records(log: &[u8]) -> impl Iterator<Item = Record<'_>> {
    let mut place = 0;
    std::iter::from_fn(move || {
        let bytes = log.get(place..)?;
        let head = Head::read(bytes)?;
        let rest = bytes.get(HEAD..HEAD + head.rest as usize)?;
        let record = Record { place: place as u64, head, rest };
        place += HEAD + rest.len();
        Some(record)
    })
}
