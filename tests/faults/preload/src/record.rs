//! Writes the log. All of it under the lock.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use faults::Word;
use faults::log::{HEAD, Head, Kind, WRITE_MAX};

use crate::page::{self, Held};
use crate::sys::{self, Path};

static LOG: AtomicI64 = AtomicI64::new(-1);
static PLACE: AtomicU64 = AtomicU64::new(0);

struct Buffer(UnsafeCell<[u8; WRITE_MAX]>);
// SAFETY: used only by who holds the lock (`old`).
unsafe impl Sync for Buffer {}
static BUFFER: Buffer = Buffer(UnsafeCell::new([0; WRITE_MAX]));

/// Goes on behind what the log has; a record that a kill cut short is dropped.
pub fn begin(path: &Path) -> bool {
    // SAFETY: a path with its zero, and buffers that live.
    unsafe {
        let flags = libc::O_RDWR | libc::O_APPEND | libc::O_CREAT | libc::O_CLOEXEC;
        let fd = sys::call3(libc::SYS_open, path.pointer(), flags as u64, 0o600);
        if fd < 0 {
            return false;
        }
        let Some(stat) = sys::fstat(fd as u64) else { return false };
        let mut place = 0;
        loop {
            let mut head = [0; HEAD];
            let read = sys::call(libc::SYS_pread64, [fd as u64, head.as_mut_ptr().addr() as u64, HEAD as u64, place, 0, 0]);
            let Some(head) = Head::read(&head).filter(|_| read == HEAD as i64) else { break };
            let next = place + HEAD as u64 + u64::from(head.rest);
            if next > stat.size {
                break;
            }
            place = next;
        }
        sys::call3(libc::SYS_ftruncate, fd as u64, place, 0);
        PLACE.store(place, Ordering::Relaxed);
        LOG.store(fd, Ordering::Release);
    }
    true
}

/// Whether there is a log to write.
pub fn is_on() -> bool {
    page::get(Word::Record) != 0
}

/// The place of the next record.
pub fn place() -> u64 {
    PLACE.load(Ordering::Relaxed)
}

/// Appends a record.
pub fn add(_: &Held, mut head: Head, parts: &[&[u8]]) {
    head.rest = parts.iter().map(|p| p.len() as u32).sum();
    let bytes = head.write();
    let mut all = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; 8];
    all[0] = libc::iovec { iov_base: bytes.as_ptr() as *mut _, iov_len: HEAD };
    for (slot, part) in all[1..].iter_mut().zip(parts) {
        *slot = libc::iovec { iov_base: part.as_ptr() as *mut _, iov_len: part.len() };
    }
    let len = HEAD as u64 + u64::from(head.rest);
    // SAFETY: the parts live and are only read.
    let written =
        unsafe { sys::call3(libc::SYS_writev, LOG.load(Ordering::Acquire) as u64, all.as_ptr().addr() as u64, parts.len() as u64 + 1) };
    if written != len as i64 {
        // Without its log the layer would tell lies.
        sys::say(&[b"chappe-faults: the log cannot be written\n"]);
        sys::exit(99);
    }
    PLACE.fetch_add(len, Ordering::Relaxed);
}

/// Names of files.
pub fn add_names(held: &Held, kind: Kind, folder: u64, other: u64, names: &[&[u8]]) {
    let mut parts: [&[u8]; 5] = [b"\0"; 5];
    for (n, name) in names.iter().enumerate() {
        parts[n * 2] = name;
    }
    add(held, Head { kind, rest: 0, inode: folder, at: other, len: 0, size: 0 }, &parts[..names.len() * 2 - 1]);
}

/// A descriptor of its own for reading a file that may be open for writing only.
fn reader(fd: u64) -> i64 {
    let mut path = Path::new();
    path.push(b"/proc/self/fd/").number(fd);
    // SAFETY: a path with its zero.
    unsafe { sys::call3(libc::SYS_open, path.pointer(), (libc::O_RDONLY | libc::O_CLOEXEC) as u64, 0) }
}

/// What a write of `len` bytes at `at` overwrites.
pub fn add_write(held: &Held, fd: u64, inode: u64, at: u64, len: u64, size: u64) {
    let there = size.saturating_sub(at).min(len);
    let reader = if there > 0 { reader(fd) } else { -1 };
    let old = old(held, reader, at, there);
    add(held, Head { kind: Kind::Write, rest: 0, inode, at, len, size }, &[old]);
    close(reader);
}

/// What setting a size cuts off, and then the size.
pub fn add_size(held: &Held, fd: u64, inode: u64, to: u64, size: u64) {
    let reader = if to < size { reader(fd) } else { -1 };
    let mut at = to;
    while at < size {
        // A journal is mostly a hole.
        // SAFETY: no pointers.
        let data = unsafe { sys::call3(libc::SYS_lseek, reader as u64, at, libc::SEEK_DATA as u64) };
        if data < 0 {
            break;
        }
        at = data as u64;
        let old = old(held, reader, at, (size - at).min(16 * 1024));
        let len = old.len() as u64;
        if len == 0 {
            break;
        }
        if old.iter().any(|b| *b != 0) {
            add(held, Head { kind: Kind::Tail, rest: 0, inode, at, len, size }, &[old]);
        }
        at += len;
    }
    add(held, Head { kind: Kind::Size, rest: 0, inode, at: to, len: 0, size }, &[]);
    close(reader);
}

fn old(_: &Held, reader: i64, at: u64, len: u64) -> &'static [u8] {
    // SAFETY: who holds the lock is the only one here, and is done with the last slice before it asks for another.
    let buffer = unsafe { &mut *BUFFER.0.get() };
    let len = len.min(WRITE_MAX as u64);
    if reader < 0 || len == 0 {
        return &[];
    }
    // SAFETY: the buffer has this length.
    let read = unsafe { sys::call(libc::SYS_pread64, [reader as u64, buffer.as_mut_ptr().addr() as u64, len, at, 0, 0]) };
    &buffer[..read.max(0) as usize]
}

fn close(fd: i64) {
    if fd >= 0 {
        // SAFETY: our own descriptor.
        unsafe { sys::call3(libc::SYS_close, fd as u64, 0, 0) };
    }
}
