//! The monotonic clock.

use crate::cache::Now;

/// Milliseconds of `CLOCK_MONOTONIC_COARSE`: a read of the vDSO page, exact to a timer tick (1–10 ms), which is what
/// TTLs need. Never 0, so that `Now::default()` is in the past.
#[inline]
pub fn now() -> Now {
    let time = read(libc::CLOCK_MONOTONIC_COARSE);
    Now((time.tv_sec as u64 * 1000 + time.tv_nsec as u64 / 1_000_000).max(1))
}

/// Microseconds of `CLOCK_MONOTONIC`: for durations that are reported.
#[inline]
pub fn micros() -> u64 {
    let time = read(libc::CLOCK_MONOTONIC);
    time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1000
}

fn read(clock: libc::clockid_t) -> libc::timespec {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec the call writes to; both clocks exist on every Linux, so it cannot fail, and
    // if it did the zeroes stand.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    time
}
