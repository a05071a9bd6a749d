//! System calls from the one place that the filter lets pass.

use std::arch::global_asm;

// The kernel tells a filter the address behind the `syscall` instruction: `chappe_faults_passed`.
global_asm!(
    ".hidden chappe_faults_call",
    ".hidden chappe_faults_passed",
    ".globl chappe_faults_call",
    ".globl chappe_faults_passed",
    "chappe_faults_call:",
    "mov rax, rdi",
    "mov rdi, rsi",
    "mov rsi, rdx",
    "mov rdx, rcx",
    "mov r10, r8",
    "mov r8, r9",
    "mov r9, [rsp + 8]",
    "syscall",
    "chappe_faults_passed:",
    "ret",
);

unsafe extern "C" {
    fn chappe_faults_call(number: i64, a: u64, b: u64, c: u64, d: u64, e: u64, f: u64) -> i64;
    static chappe_faults_passed: u8;
}

/// The address that the filter knows.
pub fn passed() -> u64 {
    // SAFETY: only the address of the label is taken.
    (&raw const chappe_faults_passed).addr() as u64
}

/// A system call that is not trapped. The result is the kernel's: an error is its negative number.
///
/// # Safety
/// That of the call.
pub unsafe fn call(number: i64, args: [u64; 6]) -> i64 {
    let [a, b, c, d, e, f] = args;
    // SAFETY: the caller's; the routine above follows the C convention and touches nothing else.
    unsafe { chappe_faults_call(number, a, b, c, d, e, f) }
}

/// The same with fewer arguments.
///
/// # Safety
/// That of the call.
pub unsafe fn call3(number: i64, a: u64, b: u64, c: u64) -> i64 {
    // SAFETY: the caller's.
    unsafe { call(number, [a, b, c, 0, 0, 0]) }
}

/// Says something on standard error.
pub fn say(parts: &[&[u8]]) {
    for part in parts {
        // SAFETY: the slice is valid for its length.
        unsafe { call3(libc::SYS_write, 2, part.as_ptr().addr() as u64, part.len() as u64) };
    }
}

/// Ends the process.
pub fn exit(status: u64) {
    // SAFETY: no pointers.
    unsafe { call3(libc::SYS_exit_group, status, 0, 0) };
}

/// What is known of a file.
#[derive(Clone, Copy)]
pub struct Stat {
    pub inode: u64,
    pub size: u64,
    pub mode: u32,
}

impl Stat {
    pub fn is_file(self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFREG
    }

    pub fn is_folder(self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFDIR
    }
}

fn stat(number: i64, first: u64) -> Option<Stat> {
    // SAFETY: zeros are a valid `stat`; it is plain numbers.
    let mut out: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `first` is a descriptor or a path that ends with zero; `out` lives.
    let done = unsafe { call3(number, first, (&raw mut out).addr() as u64, 0) };
    (done == 0).then_some(Stat { inode: out.st_ino, size: out.st_size as u64, mode: out.st_mode })
}

/// Of a descriptor.
pub fn fstat(fd: u64) -> Option<Stat> {
    stat(libc::SYS_fstat, fd)
}

/// Of a path, which must be from [`Path`], without following a link.
pub fn lstat(path: &Path) -> Option<Stat> {
    stat(libc::SYS_lstat, path.pointer())
}

/// A path of bounded length, with a zero behind it.
pub struct Path {
    bytes: [u8; 4096],
    len: usize,
}

impl Path {
    pub const fn new() -> Path {
        Path { bytes: [0; 4096], len: 0 }
    }

    pub fn get(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    pub fn pointer(&self) -> u64 {
        self.bytes.as_ptr().addr() as u64
    }

    /// Adds; what does not fit is left out.
    pub fn push(&mut self, more: &[u8]) -> &mut Path {
        let more = &more[..more.len().min(self.bytes.len() - 1 - self.len)];
        self.bytes[self.len..self.len + more.len()].copy_from_slice(more);
        self.len += more.len();
        self.bytes[self.len] = 0;
        self
    }

    /// Adds a number in decimal.
    pub fn number(&mut self, mut number: u64) -> &mut Path {
        let mut digits = [0; 20];
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        self.push(&digits[at..])
    }

    /// Without its last part.
    pub fn parent(&self) -> Path {
        let mut parent = Path::new();
        let end = self.get().iter().rposition(|b| *b == b'/').unwrap_or(0);
        parent.push(&self.get()[..end]);
        parent
    }

    /// What a link of `/proc` names.
    pub fn read_link(&mut self, link: &Path) -> bool {
        // SAFETY: both are valid for their length.
        let len = unsafe { call3(libc::SYS_readlink, link.pointer(), self.pointer(), 4095) };
        self.len = len.max(0) as usize;
        self.bytes[self.len] = 0;
        len > 0
    }
}

/// The bytes of a C string of the process.
///
/// # Safety
/// It is one, or null.
pub unsafe fn c_string<'a>(pointer: u64) -> &'a [u8] {
    if pointer == 0 {
        return b"";
    }
    let pointer = pointer as *const u8;
    let mut len = 0;
    // SAFETY: the caller's: there is a zero.
    while unsafe { *pointer.add(len) } != 0 {
        len += 1;
    }
    // SAFETY: as above.
    unsafe { std::slice::from_raw_parts(pointer, len) }
}
