//! System calls, the clock and hints to the processor's cache: the only room with `unsafe`.
//!
//! Each call has a safe wrapper whose lifetimes say what the kernel may read or write, and for how long.

#![allow(
    unsafe_code,
    reason = "recvmmsg, sendmmsg and their like have no safe wrapper; every block says why it is sound"
)]

pub mod caps;
pub mod clock;
pub mod limits;
pub mod mmsg;
pub mod prefetch;
pub mod socket;
pub mod tcp;
