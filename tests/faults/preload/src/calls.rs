//! What becomes of each call.

use faults::Word;
use faults::log::{Kind, WRITE_MAX};
use libc::c_long;

use crate::page::{self, count, lock, opened, ours, point, resolve, take, uncovered};
use crate::record;
use crate::sys::{self, Path, Stat, c_string};

type Args = [u64; 6];

const CWD: u64 = libc::AT_FDCWD as u64;

fn error(number: libc::c_int) -> i64 {
    -i64::from(number)
}

fn pass(number: c_long, args: Args) -> i64 {
    // SAFETY: the process's own call, as it made it.
    unsafe { sys::call(number, args) }
}

/// A call on a path, whose string is the process's own.
fn path(folder: u64, pointer: u64) -> Option<Path> {
    // SAFETY: the kernel would read the same string.
    resolve(folder, unsafe { c_string(pointer) })
}

/// A trapped call; gives the kernel's result or what stands for it.
pub fn handle(number: c_long, args: Args) -> i64 {
    let [a, b, c, d, e, _] = args;
    match number {
        libc::SYS_write => write(number, args, None),
        libc::SYS_pwrite64 => write(number, args, Some(d)),
        libc::SYS_writev | libc::SYS_pwritev | libc::SYS_pwritev2 => vector(number, args),
        libc::SYS_read | libc::SYS_pread64 | libc::SYS_readv | libc::SYS_preadv | libc::SYS_preadv2 => read(number, args),
        libc::SYS_fsync | libc::SYS_fdatasync => sync(number, args),
        libc::SYS_sync | libc::SYS_syncfs => sync_all(number, args),
        libc::SYS_open => open(number, args, path(CWD, a), b),
        libc::SYS_openat => open(number, args, path(a, b), c),
        libc::SYS_creat => open(number, args, path(CWD, a), (libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC) as u64),
        libc::SYS_ftruncate => set_size(number, args),
        libc::SYS_unlink => unlink(number, args, path(CWD, a)),
        libc::SYS_unlinkat if c & libc::AT_REMOVEDIR as u64 == 0 => unlink(number, args, path(a, b)),
        libc::SYS_unlinkat => folder(number, args, path(a, b), Kind::RemoveDir),
        libc::SYS_rmdir => folder(number, args, path(CWD, a), Kind::RemoveDir),
        libc::SYS_mkdir => folder(number, args, path(CWD, a), Kind::MakeDir),
        libc::SYS_mkdirat => folder(number, args, path(a, b), Kind::MakeDir),
        libc::SYS_rename => rename(number, args, path(CWD, a), path(CWD, b), 0),
        libc::SYS_renameat => rename(number, args, path(a, b), path(c, d), 0),
        libc::SYS_renameat2 => rename(number, args, path(a, b), path(c, d), e),
        libc::SYS_dup | libc::SYS_dup2 | libc::SYS_dup3 | libc::SYS_fcntl => duplicate(number, args),
        libc::SYS_statfs => free(path(CWD, a).is_some(), number, args),
        libc::SYS_fstatfs => free(ours(a).is_some(), number, args),
        // The process has another way for each of these, and takes it.
        libc::SYS_openat2 | libc::SYS_io_uring_setup => error(libc::ENOSYS),
        libc::SYS_fallocate if ours(a).is_some() => error(libc::EOPNOTSUPP),
        libc::SYS_copy_file_range | libc::SYS_splice if ours(c).is_some() || ours(a).is_some() => error(libc::EINVAL),
        libc::SYS_sendfile if ours(a).is_some() || ours(b).is_some() => error(libc::EINVAL),
        // And these nobody has.
        libc::SYS_truncate | libc::SYS_mknod => not_covered(number, args, path(CWD, a)),
        libc::SYS_mknodat => not_covered(number, args, path(a, b)),
        libc::SYS_link => not_covered(number, args, path(CWD, a).or_else(|| path(CWD, b))),
        libc::SYS_linkat => not_covered(number, args, path(a, b).or_else(|| path(c, d))),
        libc::SYS_symlink => not_covered(number, args, path(CWD, b)),
        libc::SYS_symlinkat => not_covered(number, args, path(b, c)),
        libc::SYS_mmap => not_covered(number, args, ours(e).map(|_| name(e))),
        libc::SYS_ioctl => not_covered(number, args, ours(a).map(|_| name(a))),
        _ => pass(number, args),
    }
}

/// The path of a descriptor.
fn name(fd: u64) -> Path {
    let (mut link, mut out) = (Path::new(), Path::new());
    link.push(b"/proc/self/fd/").number(fd);
    out.read_link(&link);
    out
}

fn not_covered(number: c_long, args: Args, ours: Option<Path>) -> i64 {
    if let Some(path) = ours {
        let mut what = Path::new();
        what.push(b"system call ").number(number as u64);
        uncovered(what.get(), path.get());
    }
    pass(number, args)
}

fn write(number: c_long, mut args: Args, at: Option<u64>) -> i64 {
    let fd = args[0];
    let Some(_) = ours(fd) else { return pass(number, args) };
    let held = lock();
    if take(Word::WriteErrors, Word::WritesFailed) {
        return error(libc::EIO);
    }
    args[2] = args[2].min(WRITE_MAX as u64);
    let space = page::get(Word::Space);
    if space < args[2] {
        if space == 0 {
            count(Word::Full, 1);
            return error(libc::ENOSPC);
        }
        args[2] = space;
    }
    // Under the lock: another write may have made it longer.
    let Some(stat) = sys::fstat(fd) else { return pass(number, args) };
    if record::is_on() {
        record::add_write(&held, fd, stat.inode, place(fd, at, stat), args[2], stat.size);
    }
    point();
    let written = pass(number, args);
    if written > 0 {
        count(Word::Writes, 1);
        count(Word::Bytes, written as u64);
        if let Some(word) = page::word(Word::Space).filter(|_| space != u64::MAX) {
            word.store(space - written as u64, std::sync::atomic::Ordering::SeqCst);
        }
    }
    point();
    written
}

/// Where a write goes.
fn place(fd: u64, at: Option<u64>, stat: Stat) -> u64 {
    // SAFETY: no pointers.
    unsafe {
        let flags = sys::call3(libc::SYS_fcntl, fd, libc::F_GETFL as u64, 0);
        if flags >= 0 && flags & i64::from(libc::O_APPEND) != 0 {
            return stat.size;
        }
        at.unwrap_or_else(|| sys::call3(libc::SYS_lseek, fd, 0, libc::SEEK_CUR as u64).max(0) as u64)
    }
}

/// Only the first part of a vector that has one is written, as the kernel may do, too.
fn vector(number: c_long, args: Args) -> i64 {
    let [fd, parts, len, at, _, flags] = args;
    if ours(fd).is_none() {
        return pass(number, args);
    }
    if number == libc::SYS_pwritev2 && flags != 0 {
        uncovered(b"pwritev2 with flags", name(fd).get());
    }
    // SAFETY: the kernel would read the same array.
    let parts = unsafe { std::slice::from_raw_parts(parts as *const libc::iovec, len as usize) };
    let Some(part) = parts.iter().find(|p| p.iov_len > 0) else { return 0 };
    let args = [fd, part.iov_base.addr() as u64, part.iov_len as u64, at, 0, 0];
    if number == libc::SYS_writev || (number == libc::SYS_pwritev2 && at == u64::MAX) {
        return write(libc::SYS_write, args, None);
    }
    write(libc::SYS_pwrite64, args, Some(at))
}

fn read(number: c_long, args: Args) -> i64 {
    if ours(args[0]).is_some_and(Stat::is_file) {
        let spared = page::get(Word::ReadErrors) > 0 && take(Word::ReadsSpared, Word::Reads);
        if !spared && take(Word::ReadErrors, Word::ReadsFailed) {
            return error(libc::EIO);
        }
        count(Word::Reads, u64::from(!spared));
    }
    pass(number, args)
}

fn sync(number: c_long, args: Args) -> i64 {
    let Some(stat) = ours(args[0]) else { return pass(number, args) };
    let up_to = {
        let _held = lock();
        record::place()
    };
    let delay = page::get(Word::SyncDelay);
    if delay > 0 {
        count(Word::SyncsDelayed, 1);
        let time = libc::timespec { tv_sec: (delay / 1_000_000) as i64, tv_nsec: (delay % 1_000_000 * 1_000) as i64 };
        // SAFETY: `time` lives; what is left of it is not asked for.
        unsafe { sys::call3(libc::SYS_nanosleep, (&raw const time).addr() as u64, 0, 0) };
    }
    point();
    let failed = take(Word::SyncErrors, Word::SyncsFailed);
    let done = if failed { error(libc::EIO) } else { pass(number, args) };
    if record::is_on() {
        let kind = if done == 0 { Kind::Sync } else { Kind::SyncFailed };
        let head = faults::log::Head { kind, rest: 0, inode: stat.inode, at: up_to, len: 0, size: 0 };
        record::add(&lock(), head, &[]);
    }
    if done == 0 {
        count(Word::Syncs, 1);
    }
    point();
    done
}

fn sync_all(number: c_long, args: Args) -> i64 {
    let up_to = {
        let _held = lock();
        record::place()
    };
    let done = pass(number, args);
    if record::is_on() && done == 0 {
        record::add(&lock(), faults::log::Head { kind: Kind::SyncAll, rest: 0, inode: 0, at: up_to, len: 0, size: 0 }, &[]);
    }
    done
}

/// Whether there is no room for something new.
fn full() -> bool {
    let full = page::get(Word::Space) == 0;
    if full {
        count(Word::Full, 1);
    }
    full
}

fn inode(path: &Path) -> u64 {
    sys::lstat(path).map_or(0, |s| s.inode)
}

fn open(number: c_long, args: Args, path: Option<Path>, flags: u64) -> i64 {
    let has = |flag: libc::c_int| flags & flag as u64 == flag as u64;
    let Some(path) = path else {
        let fd = pass(number, args);
        opened(fd, false);
        return fd;
    };
    if has(libc::O_DIRECT) || has(libc::O_DSYNC) || has(libc::O_TMPFILE) {
        uncovered(b"an open with O_DIRECT, O_SYNC, O_DSYNC or O_TMPFILE", path.get());
    }
    let change = has(libc::O_CREAT) || has(libc::O_TRUNC);
    let held = change.then(lock);
    if let Some(held) = &held {
        match sys::lstat(&path) {
            None if has(libc::O_CREAT) => {
                if full() {
                    return error(libc::ENOSPC);
                }
                count(Word::Names, 1);
                if record::is_on() {
                    record::add_names(held, Kind::Create, inode(&path.parent()), 0, &[path.get()]);
                }
                point();
            }
            Some(stat) if has(libc::O_TRUNC) && !has(libc::O_EXCL) && stat.is_file() && record::is_on() => {
                // SAFETY: a path with its zero; our own descriptor.
                unsafe {
                    let fd = sys::call3(libc::SYS_open, path.pointer(), (libc::O_RDONLY | libc::O_CLOEXEC) as u64, 0);
                    record::add_size(held, fd as u64, stat.inode, 0, stat.size);
                    sys::call3(libc::SYS_close, fd as u64, 0, 0);
                }
                point();
            }
            _ => {}
        }
    }
    let fd = pass(number, args);
    opened(fd, true);
    if change {
        point();
    }
    fd
}

fn set_size(number: c_long, args: Args) -> i64 {
    let [fd, to, ..] = args;
    if ours(fd).is_none() {
        return pass(number, args);
    }
    let held = lock();
    let Some(stat) = sys::fstat(fd) else { return pass(number, args) };
    if to > stat.size && full() {
        return error(libc::ENOSPC);
    }
    if record::is_on() {
        record::add_size(&held, fd, stat.inode, to, stat.size);
    }
    point();
    let done = pass(number, args);
    point();
    done
}

/// Keeps a file that is about to lose its name. Gives its name in the trash, as a path and from where.
fn keep(path: &Path, stat: Stat) -> (Path, usize) {
    let (kept, name) = page::trash(stat.inode, record::place());
    // SAFETY: paths with their zeros.
    let done = unsafe { sys::call(libc::SYS_linkat, [CWD, path.pointer(), CWD, kept.pointer(), 0, 0]) };
    if done < 0 {
        uncovered(b"a file that cannot be kept", path.get());
    }
    (kept, name)
}

fn unlink(number: c_long, args: Args, path: Option<Path>) -> i64 {
    let Some(path) = path else { return pass(number, args) };
    let held = lock();
    if let Some(stat) = sys::lstat(&path).filter(|_| record::is_on()) {
        let (kept, name) = keep(&path, stat);
        record::add_names(&held, Kind::Unlink, inode(&path.parent()), 0, &[path.get(), &kept.get()[name..]]);
    }
    count(Word::Names, 1);
    point();
    let done = pass(number, args);
    point();
    done
}

fn folder(number: c_long, args: Args, path: Option<Path>, kind: Kind) -> i64 {
    let Some(path) = path else { return pass(number, args) };
    let held = lock();
    let making = kind == Kind::MakeDir;
    if making != sys::lstat(&path).is_some() {
        if making && full() {
            return error(libc::ENOSPC);
        }
        if record::is_on() {
            record::add_names(&held, kind, inode(&path.parent()), 0, &[path.get()]);
        }
        count(Word::Names, 1);
    }
    point();
    let done = pass(number, args);
    point();
    done
}

fn rename(number: c_long, args: Args, from: Option<Path>, to: Option<Path>, flags: u64) -> i64 {
    let (from, to) = match (from, to) {
        (Some(from), Some(to)) if flags & !u64::from(libc::RENAME_NOREPLACE) == 0 => (from, to),
        (None, None) => return pass(number, args),
        (from, to) => return not_covered(number, args, from.or(to)),
    };
    let held = lock();
    let replaced = sys::lstat(&to);
    let will = sys::lstat(&from).is_some() && (flags == 0 || replaced.is_none());
    if record::is_on() && will {
        let kept = replaced.filter(|s| s.is_file()).map(|stat| keep(&to, stat));
        let kept = kept.as_ref().map_or(&b""[..], |(path, name)| &path.get()[*name..]);
        record::add_names(&held, Kind::Rename, inode(&from.parent()), inode(&to.parent()), &[from.get(), to.get(), kept]);
    }
    count(Word::Names, 1);
    point();
    let done = pass(number, args);
    point();
    done
}

fn duplicate(number: c_long, args: Args) -> i64 {
    let is_ours = ours(args[0]).is_some();
    let fd = pass(number, args);
    opened(fd, is_ours);
    fd
}

fn free(ours: bool, number: c_long, args: Args) -> i64 {
    let done = pass(number, args);
    let free = page::get(Word::Free);
    if ours && done == 0 && free != u64::MAX {
        count(Word::FreeAsked, 1);
        // SAFETY: the kernel has just written there.
        let stat = unsafe { &mut *(args[1] as *mut libc::statfs) };
        let blocks = free / (stat.f_frsize.max(1) as u64);
        stat.f_bfree = blocks;
        stat.f_bavail = blocks;
    }
    done
}
