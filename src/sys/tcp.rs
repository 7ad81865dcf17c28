//! What the kernel knows of a TCP peer.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Bytes that were written and that the peer's kernel has not acknowledged (SIOCOUTQ, tcp(7)). A peer that is there
/// acknowledges within a round trip and a delayed-ACK timer, however slow the program behind it is.
pub fn unacknowledged(stream: &impl AsFd) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the descriptor is open as long as `stream` is borrowed; TIOCOUTQ, which is SIOCOUTQ's number, writes one
    // int to `bytes`, which lives until the call returns.
    let result = unsafe { libc::ioctl(stream.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(usize::try_from(bytes).unwrap_or_default())
}

/// Acknowledges now what was received and is not yet acknowledged (TCP_QUICKACK, tcp(7)); what comes later the kernel may
/// again hold back for something to send along.
///
/// The option's value is 2 for that: with 1, or any odd number, the kernel acknowledges every later read at once too
/// (`__tcp_sock_set_quickack` in net/ipv4/tcp.c).
pub fn acknowledge(stream: &impl AsFd) -> io::Result<()> {
    let now_only: libc::c_int = 2;
    // SAFETY: the descriptor is open as long as `stream` is borrowed; the kernel reads one int, which lives until the call
    // returns.
    let result = unsafe {
        libc::setsockopt(
            stream.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_QUICKACK,
            (&raw const now_only).cast(),
            size_of_val(&now_only) as libc::socklen_t,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::{TcpListener, TcpStream};
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_living_peer_acknowledges_what_its_program_does_not_read() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        stream.write_all(b"unread").unwrap();
        let deadline = Instant::now() + Duration::from_secs(5);
        while unacknowledged(&stream).unwrap() > 0 {
            assert!(Instant::now() < deadline, "never acknowledged");
            std::thread::yield_now();
        }
        // More than both socket buffers hold stays with the sender.
        stream.set_nonblocking(true).unwrap();
        while stream.write(&[0; 4096]).is_ok() {}
        assert!(unacknowledged(&stream).unwrap() > 0);
    }
}
