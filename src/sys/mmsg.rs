//! Datagrams in batches: `recvmmsg(2)` and `sendmmsg(2)`.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};

/// Datagrams received or sent by one system call: enough to share its cost, few enough that the first answer of a batch
/// does not wait long for the last.
pub const BATCH: usize = 64;

/// Room for one received datagram, in bytes. A query is a few hundred at most; a longer one is seen as truncated.
pub const DATAGRAM_ROOM: usize = 2048;

/// From one room to the next, in bytes. A power of two would put the heads of all rooms in the same few sets of the
/// first-level cache.
const STRIDE: usize = DATAGRAM_ROOM + 64;

/// Pieces one reply may consist of.
pub const PIECES: usize = 5;

/// Buffers, addresses and headers for a batch of received datagrams and their replies. Allocated once.
pub struct Batch {
    rooms: Box<[[u8; STRIDE]; BATCH]>,
    addresses: Box<[libc::sockaddr_in6; BATCH]>,
    receive_pieces: Box<[libc::iovec; BATCH]>,
    receive: Box<[libc::mmsghdr; BATCH]>,
    send_pieces: Box<[[libc::iovec; PIECES]; BATCH]>,
    send: Box<[libc::mmsghdr; BATCH]>,
    received: usize,
}

/// A datagram where it was received.
pub struct Datagram<'a> {
    /// It was longer than its room; the rest is lost.
    pub oversize: bool,
    room: &'a mut [u8; DATAGRAM_ROOM],
    len: usize,
    address: &'a libc::sockaddr_in6,
}

impl<'a> Datagram<'a> {
    /// A datagram of the first `len` bytes of `room` that came from nowhere, for benchmarks without sockets. Its peer is
    /// `[::]:0`.
    ///
    /// # Panics
    /// If `len` is more than [`DATAGRAM_ROOM`].
    pub fn detached(room: &'a mut [u8; DATAGRAM_ROOM], len: usize) -> Self {
        // SAFETY: a plain C structure, for which zeroes are valid.
        static NOWHERE: libc::sockaddr_in6 = unsafe { std::mem::zeroed() };
        assert!(len <= DATAGRAM_ROOM, "{len} bytes do not fit");
        Self { room, len, oversize: false, address: &NOWHERE }
    }

    /// Its bytes.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &self.room[..self.len]
    }

    /// Its bytes, to be made a reply.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.room[..self.len]
    }

    /// Writes `bytes` at `at` of its room, over what was received or behind it.
    ///
    /// # Panics
    /// If they do not fit into the room.
    #[inline]
    pub fn write<const N: usize>(&mut self, at: usize, bytes: &[u8; N]) {
        self.room[at..at + N].copy_from_slice(bytes);
    }

    /// Who sent it.
    pub fn peer(&self) -> SocketAddr {
        from_raw(self.address)
    }
}

// SAFETY: the raw pointers in the headers point into the boxes of the same Batch (receive side, set before each call) or
// are dead between calls (send side); nothing refers to a thread.
unsafe impl Send for Batch {}

const ADDRESS_LEN: libc::socklen_t = size_of::<libc::sockaddr_in6>() as libc::socklen_t;

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}

impl Batch {
    /// An empty batch; its memory becomes resident as datagrams arrive.
    pub fn new() -> Self {
        // SAFETY: all of these are plain C structures or bytes, for which zeroes are valid.
        let mut batch = unsafe {
            Self {
                rooms: Box::new_zeroed().assume_init(),
                addresses: Box::new_zeroed().assume_init(),
                receive_pieces: Box::new_zeroed().assume_init(),
                receive: Box::new_zeroed().assume_init(),
                send_pieces: Box::new_zeroed().assume_init(),
                send: Box::new_zeroed().assume_init(),
                received: 0,
            }
        };
        for i in 0..BATCH {
            batch.receive_pieces[i] =
                libc::iovec { iov_base: (&raw mut batch.rooms[i]).cast(), iov_len: DATAGRAM_ROOM };
            let header = &mut batch.receive[i].msg_hdr;
            header.msg_name = (&raw mut batch.addresses[i]).cast();
            header.msg_namelen = ADDRESS_LEN;
            header.msg_iov = &raw mut batch.receive_pieces[i];
            header.msg_iovlen = 1;
            let header = &mut batch.send[i].msg_hdr;
            header.msg_iov = (&raw mut batch.send_pieces[i]).cast();
        }
        batch
    }

    /// Waits for a datagram and takes all that have arrived, up to [`BATCH`]; their number, 0 where the socket is shut
    /// down and none has. With `wait` false it returns `WouldBlock` where none has.
    pub fn receive(&mut self, socket: BorrowedFd<'_>, wait: bool) -> io::Result<usize> {
        // The kernel wrote the last batch's lengths over these.
        for message in &mut self.receive[..self.received] {
            message.msg_hdr.msg_namelen = ADDRESS_LEN;
        }
        self.received = 0;
        let flags = if wait { libc::MSG_WAITFORONE } else { libc::MSG_DONTWAIT };
        // SAFETY: each header points at an address and one piece, which point at rooms of this batch; all outlive the
        // call and are exclusively borrowed by it.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.receive.as_mut_ptr(),
                BATCH as libc::c_uint,
                flags as _,
                std::ptr::null_mut(),
            )
        };
        if count < 0 {
            return Err(io::Error::last_os_error());
        }
        // A socket that is shut down wakes its reader with a message of no bytes. An empty datagram has a sender.
        let woken = count == 1 && self.receive[0].msg_hdr.msg_namelen == 0;
        self.received = count as usize;
        if woken {
            // Its header is to be made good again as any other's.
            return Ok(0);
        }
        Ok(self.received)
    }

    /// Datagram `index` of the last batch.
    ///
    /// # Panics
    /// If the last batch had fewer.
    #[inline]
    pub fn datagram(&mut self, index: usize) -> Datagram<'_> {
        let message = &self.receive[..self.received][index];
        let len = (message.msg_len as usize).min(DATAGRAM_ROOM);
        let room =
            self.rooms[index].first_chunk_mut().expect("a room is no shorter than what is received into it");
        Datagram {
            room,
            len,
            oversize: message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
            address: &self.addresses[index],
        }
    }

    /// Sends a reply to each datagram that `reply` gives one for: the first `head_len` bytes of the datagram's room,
    /// and behind it the pieces. Returns how many the kernel took, and the last error where it refused some.
    ///
    /// Nothing is copied in user space: the kernel reads the datagram's room and the pieces.
    pub fn reply<'a>(
        &mut self,
        socket: BorrowedFd<'_>,
        reply: impl Fn(usize) -> Option<(usize, [&'a [u8]; PIECES - 1])>,
    ) -> (usize, Option<io::Error>) {
        let mut queued = 0;
        for index in 0..self.received {
            let Some((head_len, pieces)) = reply(index) else { continue };
            let out = &mut self.send_pieces[queued];
            out[0] = libc::iovec {
                iov_base: (&raw mut self.rooms[index]).cast(),
                iov_len: head_len.min(DATAGRAM_ROOM),
            };
            let mut used = 1;
            for piece in pieces {
                if !piece.is_empty() {
                    out[used] =
                        libc::iovec { iov_base: piece.as_ptr().cast_mut().cast(), iov_len: piece.len() };
                    used += 1;
                }
            }
            let header = &mut self.send[queued].msg_hdr;
            header.msg_name = (&raw mut self.addresses[index]).cast();
            header.msg_namelen = self.receive[index].msg_hdr.msg_namelen;
            header.msg_iovlen = used as _;
            queued += 1;
        }
        // SAFETY: the first `queued` headers point at addresses and rooms of this batch and at pieces of lifetime 'a,
        // all alive during the call; the kernel only reads them.
        unsafe { send_all(socket, &mut self.send[..queued]) }
    }
}

/// Datagrams collected from many places and sent together.
#[derive(Default)]
pub struct Outgoing {
    addresses: Vec<(libc::sockaddr_in6, libc::socklen_t)>,
    pieces: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
}

// SAFETY: the raw pointers are dead between calls of `send`; nothing refers to a thread.
unsafe impl Send for Outgoing {}

impl Outgoing {
    /// Sends each datagram to its peer. Returns how many the kernel took, and the last error where it refused some.
    /// A full send buffer is not waited for.
    pub fn send<'a>(
        &mut self,
        socket: BorrowedFd<'_>,
        datagrams: impl Iterator<Item = (SocketAddr, &'a [u8])>,
    ) -> (usize, Option<io::Error>) {
        self.addresses.clear();
        self.pieces.clear();
        self.headers.clear();
        for (peer, bytes) in datagrams {
            self.addresses.push(to_raw(peer));
            self.pieces
                .push(libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() });
        }
        // Only now, when the vectors no longer grow, do their elements stay where they are.
        for ((address, address_len), piece) in self.addresses.iter_mut().zip(&mut self.pieces) {
            // SAFETY: a plain C structure, for which zeroes are valid.
            let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
            message.msg_hdr.msg_name = (&raw mut *address).cast();
            message.msg_hdr.msg_namelen = *address_len;
            message.msg_hdr.msg_iov = &raw mut *piece;
            message.msg_hdr.msg_iovlen = 1;
            self.headers.push(message);
        }
        // SAFETY: the headers point at addresses and pieces of this value, and those at bytes of lifetime 'a, all alive
        // and unmoved during the call; the kernel only reads them.
        unsafe { send_all(socket, &mut self.headers) }
    }
}

/// Sends all of `messages`. One that the kernel refuses (an unreachable peer, a full buffer) is passed over, so that
/// it costs the others nothing.
///
/// # Safety
/// Every header must point at an address and pieces that are alive during the call.
unsafe fn send_all(socket: BorrowedFd<'_>, messages: &mut [libc::mmsghdr]) -> (usize, Option<io::Error>) {
    let mut at = 0;
    let mut sent = 0;
    let mut error = None;
    while at < messages.len() {
        let rest = &mut messages[at..];
        // SAFETY: as this function's own contract; the pointer and length are those of a live slice.
        let count = unsafe {
            libc::sendmmsg(
                socket.as_raw_fd(),
                rest.as_mut_ptr(),
                rest.len().min(1024) as libc::c_uint,
                libc::MSG_DONTWAIT as _,
            )
        };
        if count > 0 {
            sent += count as usize;
            at += count as usize;
            continue;
        }
        let refused = io::Error::last_os_error();
        if refused.kind() != io::ErrorKind::Interrupted {
            at += 1;
            error = Some(refused);
        }
    }
    (sent, error)
}

fn from_raw(raw: &libc::sockaddr_in6) -> SocketAddr {
    if libc::c_int::from(raw.sin6_family) == libc::AF_INET {
        // SAFETY: both are plain C structures, and sockaddr_in is the smaller; the family says this is one.
        let v4 = unsafe { *(&raw const *raw).cast::<libc::sockaddr_in>() };
        let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
        return SocketAddr::V4(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)));
    }
    let ip = Ipv6Addr::from(raw.sin6_addr.s6_addr);
    SocketAddr::V6(SocketAddrV6::new(ip, u16::from_be(raw.sin6_port), raw.sin6_flowinfo, raw.sin6_scope_id))
}

fn to_raw(address: SocketAddr) -> (libc::sockaddr_in6, libc::socklen_t) {
    // SAFETY: a plain C structure, for which zeroes are valid.
    let mut raw: libc::sockaddr_in6 = unsafe { std::mem::zeroed() };
    match address {
        SocketAddr::V4(v4) => {
            // SAFETY: sockaddr_in is smaller than the sockaddr_in6 behind the pointer, and its alignment no greater.
            let in4 = unsafe { &mut *(&raw mut raw).cast::<libc::sockaddr_in>() };
            in4.sin_family = libc::AF_INET as libc::sa_family_t;
            in4.sin_port = v4.port().to_be();
            in4.sin_addr.s_addr = u32::from(*v4.ip()).to_be();
            (raw, size_of::<libc::sockaddr_in>() as libc::socklen_t)
        }
        SocketAddr::V6(v6) => {
            raw.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            raw.sin6_port = v6.port().to_be();
            raw.sin6_addr.s6_addr = v6.ip().octets();
            raw.sin6_flowinfo = v6.flowinfo();
            raw.sin6_scope_id = v6.scope_id();
            (raw, ADDRESS_LEN)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Shutdown, UdpSocket};
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn an_empty_datagram_counts_and_the_end_of_a_socket_does_not() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let server = UdpSocket::bind(address).unwrap();
            let client = UdpSocket::bind(address).unwrap();
            client.send_to(&[], server.local_addr().unwrap()).unwrap();
            let mut batch = Batch::new();
            assert_eq!(batch.receive(server.as_fd(), true).unwrap(), 1);
            assert_eq!(batch.datagram(0).peer(), client.local_addr().unwrap());

            // What is queued comes first.
            client.send_to(b"late", server.local_addr().unwrap()).unwrap();
            let socket = socket2::SockRef::from(&server);
            socket.connect(&client.local_addr().unwrap().into()).unwrap();
            socket.shutdown(Shutdown::Read).unwrap();
            assert_eq!(batch.receive(server.as_fd(), true).unwrap(), 1);
            assert_eq!(batch.datagram(0).bytes(), b"late");
            assert_eq!(batch.receive(server.as_fd(), true).unwrap(), 0);
            let ended = batch.receive(server.as_fd(), false).unwrap_err();
            assert_eq!(ended.kind(), io::ErrorKind::WouldBlock);
        }
    }
}
