//! What a call may allocate.

/// Runs `call`, which must never hold more than `bytes_max` bytes beyond what was there before.
#[track_caller]
pub fn within<T>(bytes_max: usize, what: &str, call: impl FnOnce() -> T) -> T {
    let mut result = None;
    let info = allocation_counter::measure(|| result = Some(call()));
    assert!(info.bytes_max <= bytes_max as u64, "{what}: {} bytes of memory, at most {bytes_max} are due", info.bytes_max);
    result.expect("the call was made")
}
