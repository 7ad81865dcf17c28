//! The floor of a miss: what a query costs that goes on over TCP, and whose answer comes back, when nothing is done with either.
//!
//! One thread, one connection. Queries go on with another id, as many in one write as were received together; answers go back
//! with their own id again, as many in one `sendmmsg` as one read brought. No name is read, nothing is kept, nobody is timed out:
//! what a server takes beyond this is its own.
#![allow(unsafe_code, reason = "poll(2), for which std has nothing")]

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _};

use nodens::sys::mmsg::{Batch, Outgoing};
use nodens::sys::tcp;

/// Relays from 127.0.0.1:`port` to 127.0.0.1:`upstream` until it is killed.
pub(crate) fn serve(port: u16, upstream: u16) -> io::Result<()> {
    let udp = UdpSocket::bind(("127.0.0.1", port))?;
    crate::floor::enlarge_buffers(&udp)?;
    let mut stream = TcpStream::connect(("127.0.0.1", upstream))?;
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;

    let mut batch = Batch::new();
    let mut outgoing = Outgoing::default();
    let nowhere = SocketAddr::from(([0; 4], 0));
    let mut clients = vec![([0_u8; 2], nowhere); 1 << 16];
    let mut next_id = 0_u16;
    let mut to_write = Vec::new();
    let mut read = vec![0_u8; READ];
    let mut filled = 0;
    loop {
        wait(&udp, &stream)?;
        loop {
            let received = match batch.receive(udp.as_fd(), false) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                other => other?,
            };
            for index in 0..received {
                let query = batch.datagram(index);
                let [id0, id1, rest @ ..] = query.bytes() else { continue };
                clients[usize::from(next_id)] = ([*id0, *id1], query.peer());
                to_write.extend_from_slice(&(query.bytes().len() as u16).to_be_bytes());
                to_write.extend_from_slice(&next_id.to_be_bytes());
                to_write.extend_from_slice(rest);
                next_id = next_id.wrapping_add(1);
            }
            if received < nodens::sys::mmsg::BATCH {
                break;
            }
        }
        let has_written = !to_write.is_empty();
        while !to_write.is_empty() {
            match stream.write(&to_write) {
                Ok(written) => drop(to_write.drain(..written)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        match stream.read(&mut read[filled..]) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(more) => filled += more,
            Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        }
        if !has_written {
            // nsd leaves Nagle's algorithm on, and would hold its next reply back.
            tcp::acknowledge(&stream)?;
        }
        let (mut replies, mut at) = (Vec::with_capacity(64), 0);
        while let Some((length, rest)) = read[at..filled].split_first_chunk_mut() {
            let length = usize::from(u16::from_be_bytes(*length));
            let Some([id0, id1, ..]) = rest.get_mut(..length) else { break };
            let (id, peer) = clients[usize::from(u16::from_be_bytes([*id0, *id1]))];
            [*id0, *id1] = id;
            replies.push((peer, at + 2..at + 2 + length));
            at += 2 + length;
        }
        outgoing.send(udp.as_fd(), replies.into_iter().map(|(peer, range)| (peer, &read[range])));
        read.copy_within(at..filled, 0);
        filled -= at;
    }
}

/// Waits until either has something to read.
fn wait(udp: &UdpSocket, stream: &TcpStream) -> io::Result<()> {
    let mut watched = [udp.as_raw_fd(), stream.as_raw_fd()].map(|fd| libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    });
    // SAFETY: the pointer is to a live array of two.
    match unsafe { libc::poll(watched.as_mut_ptr(), 2, -1) } {
        -1 if io::Error::last_os_error().kind() != ErrorKind::Interrupted => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Room for what one read brings: a message's 64 KiB at least.
const READ: usize = 1 << 17;
