//! What the process may never gain.

use std::io;

/// Makes sure that the calling thread, and those it starts, gain no privilege from a file they execute: no set-user-id bit,
/// no file capabilities (`PR_SET_NO_NEW_PRIVS`, prctl(2)). It cannot be undone. Fails only before Linux 3.5.
pub fn forbid_new_privileges() -> io::Result<()> {
    // SAFETY: this option takes no pointer; prctl(2) wants 1 and three zeroes.
    let result = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1_u64, 0_u64, 0_u64, 0_u64) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
