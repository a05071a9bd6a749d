//! The control page, the lock, and what the layer knows of paths and descriptors.

use std::sync::atomic::{AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering};

use faults::Word;

use crate::record;
use crate::sys::{self, Path};

/// Descriptors above are not followed; a process has fewer.
const FDS: usize = 65_536;

static PAGE: AtomicPtr<AtomicU64> = AtomicPtr::new(std::ptr::null_mut());
static LOCK: AtomicU32 = AtomicU32::new(0);
/// Which descriptors may be of the directory.
static OURS: [AtomicU8; FDS] = [const { AtomicU8::new(0) }; FDS];

/// Written once, before the handler is in place.
struct Places {
    directory: Path,
    trash: Path,
}

struct Once(std::cell::UnsafeCell<Places>);
// SAFETY: written only by `begin`, before there is another thread; read only afterwards.
unsafe impl Sync for Once {}
static PLACES: Once = Once(std::cell::UnsafeCell::new(Places { directory: Path::new(), trash: Path::new() }));

fn places() -> &'static Places {
    // SAFETY: see `Once`.
    unsafe { &*PLACES.0.get() }
}

pub fn begin(directory: &[u8], state: &[u8]) -> bool {
    // SAFETY: see `Once`: the loader runs this on the only thread.
    let places = unsafe { &mut *PLACES.0.get() };
    places.directory.push(directory);
    places.trash.push(state).push(b"/").push(faults::log::TRASH.as_bytes()).push(b"/");
    let mut control = Path::new();
    control.push(state).push(b"/control");
    // SAFETY: a path with its zero; a mapping of a file of this length, which nobody shortens.
    let page = unsafe {
        let fd = sys::call3(libc::SYS_open, control.pointer(), (libc::O_RDWR | libc::O_CLOEXEC) as u64, 0);
        if fd < 0 {
            return false;
        }
        let (access, kind) = ((libc::PROT_READ | libc::PROT_WRITE) as u64, libc::MAP_SHARED as u64);
        sys::call(libc::SYS_mmap, [0, 4096, access, kind, fd as u64, 0])
    };
    if page <= 0 {
        return false;
    }
    PAGE.store(page as *mut AtomicU64, Ordering::Release);
    let mut log = Path::new();
    log.push(state).push(b"/").push(faults::log::FILE.as_bytes());
    record::begin(&log)
}

/// A word of the control page. None: the layer is not in use.
pub fn word(word: Word) -> Option<&'static AtomicU64> {
    let page = PAGE.load(Ordering::Acquire);
    // SAFETY: the page has 512 words and stays mapped.
    (!page.is_null()).then(|| unsafe { &*page.add(word as usize) })
}

pub fn get(which: Word) -> u64 {
    word(which).map_or(0, |w| w.load(Ordering::SeqCst))
}

pub fn count(which: Word, n: u64) {
    if let Some(word) = word(which) {
        word.fetch_add(n, Ordering::SeqCst);
    }
}

/// Takes one of a number of faults that are to happen. Gives whether there was one.
pub fn take(which: Word, counted: Word) -> bool {
    let taken = word(which).is_some_and(|w| w.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok());
    if taken {
        count(counted, 1);
    }
    taken
}

/// A place where the power can go.
pub fn point() {
    if get(Word::CutAfter) > 0 && word(Word::CutAfter).is_some_and(|w| w.fetch_sub(1, Ordering::SeqCst) == 1) {
        count(Word::Cuts, 1);
        // SAFETY: no pointers.
        unsafe {
            let me = sys::call3(libc::SYS_getpid, 0, 0, 0);
            sys::call3(libc::SYS_kill, me as u64, libc::SIGKILL as u64, 0);
        }
    }
}

/// Held while a change is recorded and made, so that the log has their order.
pub struct Held(());

pub fn lock() -> Held {
    while LOCK.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
        // SAFETY: no pointers.
        unsafe { sys::call3(libc::SYS_sched_yield, 0, 0, 0) };
    }
    Held(())
}

impl Drop for Held {
    fn drop(&mut self) {
        LOCK.store(0, Ordering::Release);
    }
}

/// Whether a path is the directory or within it.
pub fn is_within(path: &[u8]) -> bool {
    let directory = places().directory.get();
    path.strip_prefix(directory).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

/// A name in the trash.
pub fn trash(inode: u64, place: u64) -> (Path, usize) {
    let mut path = Path::new();
    path.push(places().trash.get());
    let name = path.get().len();
    path.number(inode).push(b"-").number(place);
    (path, name)
}

/// A path of the process as an absolute one, if it is within the directory.
pub fn resolve(folder: u64, path: &[u8]) -> Option<Path> {
    let mut full = Path::new();
    if path.first() != Some(&b'/') {
        let mut link = Path::new();
        match folder as i32 {
            libc::AT_FDCWD => link.push(b"/proc/self/cwd"),
            fd => link.push(b"/proc/self/fd/").number(fd as u64),
        };
        if !full.read_link(&link) {
            return None;
        }
        full.push(b"/");
    }
    full.push(path);
    if !is_within(full.get()) {
        return None;
    }
    if full.get().windows(4).any(|w| w == b"/../") {
        uncovered(b"a path with ..", full.get());
    }
    Some(full)
}

/// Remembers of a new descriptor whether it is of the directory.
pub fn opened(fd: i64, ours: bool) {
    if let Some(slot) = usize::try_from(fd).ok().and_then(|fd| OURS.get(fd)) {
        slot.store(ours.into(), Ordering::Release);
    }
}

/// Whether a descriptor is of the directory, and what it is.
pub fn ours(fd: u64) -> Option<sys::Stat> {
    let slot = OURS.get(usize::try_from(fd as u32).ok()?)?;
    if slot.load(Ordering::Acquire) == 0 {
        return None;
    }
    // It may have been closed, and a socket may have its number now.
    let stat = sys::fstat(fd).filter(|s| s.is_file() || s.is_folder());
    if stat.is_none() {
        slot.store(0, Ordering::Release);
    }
    stat
}

/// Something that the layer does not cover touches the directory.
pub fn uncovered(what: &[u8], path: &[u8]) {
    count(Word::Uncovered, 1);
    sys::say(&[b"chappe-faults: NOT COVERED: ", what, b" on ", path, b"\n"]);
}
