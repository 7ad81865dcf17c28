//! The system calls that std does not have: pinning, the death signal of a child, sending signals, catching ours.
#![allow(unsafe_code, reason = "no safe wrapper in the dependencies; each block states why it is sound")]

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

/// Set once SIGINT, SIGTERM or SIGHUP came.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Turns the signals that ask a program to end into a flag, so that what was started is stopped on the way out.
pub(crate) fn catch_signals() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler only stores to an atomic, which is async-signal-safe.
        unsafe { libc::signal(signal, on_signal as *const () as libc::sighandler_t) };
    }
}

/// Whether one of those signals came.
pub(crate) fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

extern "C" fn on_signal(_signal: libc::c_int) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// Lets the calling thread, and every thread and process it starts from now on, run on `cpu` alone.
pub(crate) fn pin(cpu: usize) -> io::Result<()> {
    // SAFETY: an all-zero cpu_set_t is a valid empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: CPU_SET bounds-checks `cpu` against the set it writes to.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the pointer is to a live set of the size given.
    let result = unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The processors this process may run on, in ascending order.
pub(crate) fn allowed_cpus() -> io::Result<Vec<usize>> {
    // SAFETY: an all-zero cpu_set_t is a valid empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live set of the size given, which the kernel fills.
    let result = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: CPU_ISSET only reads within the set for indices below CPU_SETSIZE.
    Ok((0..libc::CPU_SETSIZE.unsigned_abs() as usize)
        .filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) })
        .collect())
}

/// Makes the child run on `cpu`, in a process group of its own (so a terminal's ^C reaches the harness alone), and be sent
/// `on_orphan` by the kernel should the harness die without stopping it.
pub(crate) fn confine(command: &mut Command, cpu: usize, on_orphan: libc::c_int) {
    command.process_group(0);
    // SAFETY: between fork and exec only sched_setaffinity and prctl are called: both are async-signal-safe system calls,
    // and neither allocates.
    unsafe {
        command.pre_exec(move || {
            pin(cpu)?;
            if libc::prctl(libc::PR_SET_PDEATHSIG, on_orphan) != 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
}

/// Sends `signal` to a process this harness started and has not reaped yet (so its id cannot have been reused).
pub(crate) fn signal_process(pid: u32, signal: libc::c_int) {
    // SAFETY: kill takes no pointers.
    unsafe { libc::kill(pid.cast_signed(), signal) };
}

/// Sends `signal` to the process group that [`confine`] made for `pid`.
pub(crate) fn signal_group(pid: u32, signal: libc::c_int) {
    // SAFETY: kill takes no pointers.
    unsafe { libc::kill(-pid.cast_signed(), signal) };
}

/// Clock ticks per second, the unit of the times in /proc/PID/stat.
pub(crate) fn clock_ticks() -> u64 {
    // SAFETY: sysconf takes no pointers.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    u64::try_from(ticks).unwrap_or(100)
}
