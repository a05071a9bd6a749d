//! The preloaded layer of `chappe-faults`: it sees every system call of a process that changes a directory.
//!
//! A seccomp filter of the process itself traps these calls, whoever makes them: libc, or code that speaks to the kernel
//! directly (rustix does). The handler of the trap does what is asked for and then makes the call, from the one place whose
//! calls the filter lets pass. The clock is read without a system call, so there libc's functions are replaced.
//!
//! The handler may run within any function of the process. So nothing here allocates, panics, or calls libc, once it is in
//! place. What the layer cannot follow (a shared mapping that can be written, hard links, O_DIRECT and O_SYNC, `truncate` by
//! path) it passes on, says so on standard error, and counts as [`Word::Uncovered`].
//!
//! Linux on x86-64 only; elsewhere the library does nothing, so a harness sees that nothing acted.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod calls;
mod clock;
mod filter;
mod page;
mod record;
mod sys;

use faults::Word;

/// Runs when the library is loaded, before `main`.
#[used]
#[unsafe(link_section = ".init_array")]
static BEGIN: extern "C" fn() = begin;

extern "C" fn begin() {
    let (Some(directory), Some(state)) = (std::env::var_os("CHAPPE_FAULTS_DIRECTORY"), std::env::var_os("CHAPPE_FAULTS_STATE")) else {
        return;
    };
    use std::os::unix::ffi::OsStrExt as _;
    if !page::begin(directory.as_bytes(), state.as_bytes()) {
        sys::say(&[b"chappe-faults: the state folder is not usable\n"]);
        sys::exit(99);
    }
    if !filter::install(std::env::var_os("CHAPPE_FAULTS_READS").is_some()) {
        sys::say(&[b"chappe-faults: the kernel refuses a seccomp filter\n"]);
        sys::exit(99);
    }
    page::count(Word::Began, 1);
}
