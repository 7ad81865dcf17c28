//! Hints to the processor's cache: what is about to be read.

/// Bytes of a cache line on every processor in use.
const LINE: usize = 64;

/// Has the line that `value` begins in brought near. Costs an instruction; changes nothing that a program can see.
#[inline]
pub fn line<T>(value: &T) {
    address(std::ptr::from_ref(value).cast());
}

/// The same for `LINES` lines from there on: `value` may be the head of something longer. What happens to lie behind a
/// shorter one is brought near in vain.
#[inline]
pub fn lines<const LINES: usize, T>(value: &T) {
    for line in 0..LINES {
        address(std::ptr::from_ref(value).cast::<u8>().wrapping_add(line * LINE));
    }
}

#[inline]
fn address(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is part of x86_64, and the instruction reads nothing: any address is good.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast());
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a hint, which reads nothing and touches no register or flag: any address is good.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{at}]", at = in(reg) at, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = at;
}
