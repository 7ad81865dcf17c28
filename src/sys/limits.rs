//! What the kernel lets the process have.

use std::io;

/// Raises the limit of open descriptors to the most that the process may give itself (RLIMIT_NOFILE, getrlimit(2)). A container often starts with 1,024, for the sake of programs that use select(2): fewer than the clients' connections
/// that the defaults allow.
pub fn raise_descriptors() -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes one `rlimit`, which lives until the call returns.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the kernel reads one `rlimit`, which lives until the call returns.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Whether an error says that descriptors or memory are wanting, here and not at the other end (socket(2)).
pub fn is_exhausted(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanting_here_is_told_from_what_is_wanting_there() {
        for (code, here) in [(libc::EMFILE, true), (libc::ENFILE, true), (libc::ECONNREFUSED, false)] {
            assert_eq!(is_exhausted(&io::Error::from_raw_os_error(code)), here, "{code}");
        }
    }

    #[test]
    fn all_that_may_be_had_is_had() {
        raise_descriptors().unwrap();
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
        let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
        let [soft, hard] = [3, 4].map(|column| line.split_whitespace().nth(column).unwrap().to_owned());
        assert_eq!(soft, hard);
    }
}
