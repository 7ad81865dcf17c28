//! The floor of a miss: what a query costs that goes on over TCP, and whose answer comes back, when nothing is done with either.
//!
//! One thread, one connection. Queries go on with another id, as many in one write as were received together; answers go back
//! with their own id again, as many in one `sendmmsg` as one read brought. No name is read, nothing is kept, nobody is timed out:
//! what a server takes beyond this is its own.
#![allow(unsafe_code, reason = "poll(2), for which std has nothing")]

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::thread;
use std::time::Duration;

use nodens::sys::mmsg::{Batch, Outgoing};
use nodens::sys::tcp;

/// Relays from 127.0.0.1:`port` to 127.0.0.1:`upstream` until it is killed.
pub(crate) fn serve(port: u16, upstream: u16) -> io::Result<()> {
    let udp = UdpSocket::bind(("127.0.0.1", port))?;
    crate::floor::enlarge_buffers(&udp)?;
    let mut stream = connect(upstream)?;

    let mut batch = Batch::new();
    let mut outgoing = Outgoing::default();
    let nowhere = SocketAddr::from(([0; 4], 0));
    let mut clients = vec![([0_u8; 2], nowhere); 1 << 16];
    let mut next_id = 0_u16;
    let mut to_write = Vec::new();
    let mut read = vec![0_u8; READ];
    let mut filled = 0;
    let mut replies = Vec::with_capacity(64);
    let mut acknowledged = true;
    let mut outstanding = 0_usize;
    loop {
        if outstanding >= CROWD {
            thread::sleep(GATHER);
        }
        if !has_input(&udp, &stream, if acknowledged { -1 } else { 0 })? {
            // Nothing to send along: nsd leaves Nagle's algorithm on, and would hold its next reply back.
            tcp::acknowledge(&stream)?;
            acknowledged = true;
            continue;
        }
        match stream.read(&mut read[filled..]) {
            // nsd closes what nobody has used for two minutes.
            Ok(0) if outstanding == 0 => stream = connect(upstream)?,
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(more) => {
                filled += more;
                acknowledged = false;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        let mut at = 0;
        while let Some((length, rest)) = read[at..filled].split_first_chunk_mut() {
            let length = usize::from(u16::from_be_bytes(*length));
            let Some([id0, id1, ..]) = rest.get_mut(..length) else { break };
            let (id, peer) = clients[usize::from(u16::from_be_bytes([*id0, *id1]))];
            [*id0, *id1] = id;
            replies.push((peer, at + 2..at + 2 + length));
            at += 2 + length;
        }
        outstanding = outstanding.saturating_sub(replies.len());
        outgoing.send(udp.as_fd(), replies.drain(..).map(|(peer, range)| (peer, &read[range])));
        read.copy_within(at..filled, 0);
        filled -= at;

        match batch.receive(udp.as_fd(), false) {
            Ok(received) => {
                for index in 0..received {
                    let query = batch.datagram(index);
                    let [id0, id1, rest @ ..] = query.bytes() else { continue };
                    clients[usize::from(next_id)] = ([*id0, *id1], query.peer());
                    to_write.extend_from_slice(&(query.bytes().len() as u16).to_be_bytes());
                    to_write.extend_from_slice(&next_id.to_be_bytes());
                    to_write.extend_from_slice(rest);
                    next_id = next_id.wrapping_add(1);
                    outstanding += 1;
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        if !to_write.is_empty() {
            match stream.write(&to_write) {
                Ok(written) => drop(to_write.drain(..written)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            acknowledged = true;
        }
    }
}

fn connect(upstream: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", upstream))?;
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// Whether either has something to read within `timeout` milliseconds; -1 is for ever.
fn has_input(udp: &UdpSocket, stream: &TcpStream, timeout: i32) -> io::Result<bool> {
    let mut watched =
        [udp.as_raw_fd(), stream.as_raw_fd()].map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
    // SAFETY: the pointer is to a live array of two.
    match unsafe { libc::poll(watched.as_mut_ptr(), 2, timeout) } {
        -1 if io::Error::last_os_error().kind() != ErrorKind::Interrupted => Err(io::Error::last_os_error()),
        ready => Ok(ready > 0),
    }
}

/// As in nodens (`src/run/gather.rs`), but for the rate, which is high here: from so many unanswered queries on, what comes is let
/// gather for so long.
const CROWD: usize = 32;
const GATHER: Duration = Duration::from_micros(50);
/// Room for what one read brings: a message's 64 KiB at least.
const READ: usize = 1 << 17;
