//! CLOCK_REALTIME, wrong by [`Word::ClockStep`]. The monotonic clock is left alone.

use faults::Word;
use libc::{c_int, clockid_t, time_t, timespec, timeval};

use crate::{page, sys};

fn step() -> i64 {
    page::get(Word::ClockStep) as i64
}

fn now(clock: clockid_t) -> Result<timespec, c_int> {
    let mut time = timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` lives.
    let done = unsafe { sys::call3(libc::SYS_clock_gettime, clock as u64, (&raw mut time).addr() as u64, 0) };
    if done < 0 {
        return Err(-done as c_int);
    }
    let step = step();
    if step != 0 && matches!(clock, libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE | libc::CLOCK_TAI) {
        page::count(Word::ClockReads, 1);
        let nanos = i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec) + i128::from(step) * 1_000_000;
        time.tv_sec = nanos.div_euclid(1_000_000_000) as i64;
        time.tv_nsec = nanos.rem_euclid(1_000_000_000) as i64;
    }
    Ok(time)
}

/// libc's.
///
/// # Safety
/// `out` is valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: clockid_t, out: *mut timespec) -> c_int {
    match now(clock) {
        // SAFETY: the caller's.
        Ok(time) => unsafe {
            *out = time;
            0
        },
        // SAFETY: the thread's own errno.
        Err(error) => unsafe {
            *libc::__errno_location() = error;
            -1
        },
    }
}

/// libc's.
///
/// # Safety
/// `out` is valid or null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gettimeofday(out: *mut timeval, _zone: *mut libc::c_void) -> c_int {
    if let (Ok(time), false) = (now(libc::CLOCK_REALTIME), out.is_null()) {
        // SAFETY: the caller's.
        unsafe { *out = timeval { tv_sec: time.tv_sec, tv_usec: time.tv_nsec / 1000 } };
    }
    0
}

/// libc's.
///
/// # Safety
/// `out` is valid or null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn time(out: *mut time_t) -> time_t {
    let seconds = now(libc::CLOCK_REALTIME).map_or(-1, |t| t.tv_sec);
    if !out.is_null() {
        // SAFETY: the caller's.
        unsafe { *out = seconds };
    }
    seconds
}
