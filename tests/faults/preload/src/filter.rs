//! The filter: which calls are trapped, and the trap.

use std::ffi::c_void;

use libc::{c_int, c_long, sock_filter, sock_fprog};

use crate::{calls, sys};

/// Trapped whatever their arguments are.
const CHANGES: [c_long; 42] = [
    libc::SYS_open,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_creat,
    libc::SYS_write,
    libc::SYS_pwrite64,
    libc::SYS_writev,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_ftruncate,
    libc::SYS_truncate,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_sync,
    libc::SYS_syncfs,
    libc::SYS_fallocate,
    libc::SYS_copy_file_range,
    libc::SYS_sendfile,
    libc::SYS_splice,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_unlink,
    libc::SYS_unlinkat,
    libc::SYS_rmdir,
    libc::SYS_mkdir,
    libc::SYS_mkdirat,
    libc::SYS_link,
    libc::SYS_linkat,
    libc::SYS_symlink,
    libc::SYS_symlinkat,
    libc::SYS_dup,
    libc::SYS_dup2,
    libc::SYS_dup3,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_io_uring_setup,
    libc::SYS_mknod,
    libc::SYS_mknodat,
    libc::SYS_tee,
    libc::SYS_vmsplice,
    libc::SYS_ioctl,
];

/// Trapped too if reads are watched.
const READS: [c_long; 5] = [libc::SYS_read, libc::SYS_pread64, libc::SYS_readv, libc::SYS_preadv, libc::SYS_preadv2];

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const IF: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const IF_SET: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// Where `struct seccomp_data` has what: the number, the address, the arguments.
const NUMBER: u32 = 0;
const ADDRESS: u32 = 8;
const ARGS: u32 = 16;

fn code(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}

fn jump(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

fn program(reads: bool) -> Vec<sock_filter> {
    let (pass, trap) = (code(RETURN, libc::SECCOMP_RET_ALLOW), code(RETURN, libc::SECCOMP_RET_TRAP));
    let passed = sys::passed();
    let mut all = vec![
        code(LOAD, ADDRESS),
        jump(IF, passed as u32, 0, 3),
        code(LOAD, ADDRESS + 4),
        jump(IF, (passed >> 32) as u32, 0, 1),
        pass,
        code(LOAD, NUMBER),
        // fcntl, if it makes another descriptor.
        jump(IF, libc::SYS_fcntl as u32, 0, 5),
        code(LOAD, ARGS + 8),
        jump(IF, libc::F_DUPFD as u32, 1, 0),
        jump(IF, libc::F_DUPFD_CLOEXEC as u32, 0, 1),
        trap,
        pass,
        // mmap, if others see what is written there and it is of a file.
        jump(IF, libc::SYS_mmap as u32, 0, 8),
        code(LOAD, ARGS + 16),
        jump(IF_SET, libc::PROT_WRITE as u32, 0, 4),
        code(LOAD, ARGS + 24),
        jump(IF_SET, libc::MAP_SHARED as u32, 0, 2),
        code(LOAD, ARGS + 32),
        jump(IF, u32::MAX, 0, 1),
        pass,
        trap,
    ];
    let watched: Vec<c_long> = CHANGES.into_iter().chain(READS.into_iter().filter(|_| reads)).collect();
    for (n, number) in watched.iter().enumerate() {
        all.push(jump(IF, *number as u32, (watched.len() - n) as u8, 0));
    }
    all.extend([pass, trap]);
    all
}

/// Puts the trap and the filter in place, for this thread and all that come.
pub fn install(reads: bool) -> bool {
    let mut program = program(reads);
    let program = sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: zeros are a valid `sigaction`; the handler has the signature that SA_SIGINFO asks for; the program lives.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = (trapped as extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void)) as usize;
        action.sa_flags = libc::SA_SIGINFO;
        // Nothing else may run within: it could wait for the lock that this one holds.
        libc::sigfillset(&raw mut action.sa_mask);
        libc::sigaction(libc::SIGSYS, &action, std::ptr::null_mut()) == 0
            && libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0
    }
}

extern "C" fn trapped(_signal: c_int, _info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel's own context of the trap; the registers are those of the call, which has not begun.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let at = |register: c_int| registers[register as usize] as u64;
    let args = [libc::REG_RDI, libc::REG_RSI, libc::REG_RDX, libc::REG_R10, libc::REG_R8, libc::REG_R9].map(at);
    registers[libc::REG_RAX as usize] = calls::handle(at(libc::REG_RAX) as c_long, args);
}
