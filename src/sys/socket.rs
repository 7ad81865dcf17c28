//! The listening sockets and their options.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};

use socket2::{Domain, Protocol, Socket, Type};

use crate::config::ByteSize;

/// A UDP socket that clients ask.
#[derive(Debug)]
pub struct UdpListener {
    socket: Socket,
    address: SocketAddr,
}

/// A socket that could not be made, and which step failed.
#[derive(Debug, thiserror::Error)]
#[error("{step} for {address}: {source}")]
pub struct BindError {
    step: &'static str,
    address: SocketAddr,
    #[source]
    source: io::Error,
}

impl BindError {
    /// The address, if the reason is that another socket has it.
    pub fn taken(&self) -> Option<SocketAddr> {
        (self.source.kind() == io::ErrorKind::AddrInUse).then_some(self.address)
    }
}

impl UdpListener {
    /// Binds `address` beside other sockets of the same user that do the same (SO_REUSEPORT), also before an interface
    /// carries it (IP_FREEBIND).
    pub fn bind(address: SocketAddr) -> Result<Self, BindError> {
        let failed = |step| move |source| BindError { step, address, source };
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM.cloexec(), Some(Protocol::UDP))
            .map_err(failed("opening a UDP socket"))?;
        prepare(&socket, address)?;
        socket.bind(&address.into()).map_err(failed("binding UDP"))?;
        let bound = socket.local_addr().map_err(failed("reading the UDP address"))?;
        let address = bound.as_socket().unwrap_or(address);
        Ok(Self { socket, address })
    }

    /// The address it is bound to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Asks for a receive buffer of `wanted` bytes, past the system's limit where privileges allow; what the kernel
    /// gave, in bytes of payload and overhead together (socket(7): it doubles what is asked).
    pub fn set_receive_buffer(&self, wanted: ByteSize) -> io::Result<u64> {
        let wanted = usize::try_from(wanted.0).unwrap_or(usize::MAX).min(1 << 30);
        if force_receive_buffer(&self.socket, wanted).is_err() {
            self.socket.set_recv_buffer_size(wanted)?;
        }
        // The kernel reports the doubled value.
        Ok(self.socket.recv_buffer_size()? as u64 / 2)
    }

    /// As [`Self::set_receive_buffer`], for replies: a burst of them must not be refused.
    pub fn set_send_buffer(&self, wanted: ByteSize) -> io::Result<()> {
        self.socket.set_send_buffer_size(usize::try_from(wanted.0).unwrap_or(usize::MAX).min(1 << 30))
    }

    /// Takes the socket out of its SO_REUSEPORT group: a connected socket is not chosen for new packets, and what is
    /// queued stays readable. `sink` is an address nothing comes from.
    pub fn stop_attracting(&self) -> io::Result<()> {
        // The discard port of the socket's own address: no client has it as its source.
        self.socket.connect(&SocketAddr::new(self.address.ip(), 9).into())
    }

    /// Makes a blocked receive return at once, now and from then on.
    pub fn shut_down(&self) -> io::Result<()> {
        match self.socket.shutdown(std::net::Shutdown::Read) {
            // An unconnected UDP socket says so, and wakes its readers all the same.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            other => other,
        }
    }
}

impl AsFd for UdpListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Binds a TCP listener the way [`UdpListener::bind`] binds; non-blocking, for an async runtime.
pub fn bind_tcp(address: SocketAddr) -> Result<std::net::TcpListener, BindError> {
    /// Connections waiting to be accepted; the kernel caps it at net.core.somaxconn (4,096 by default).
    const BACKLOG: i32 = 4096;
    let failed = |step| move |source| BindError { step, address, source };
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.cloexec(), Some(Protocol::TCP))
        .map_err(failed("opening a TCP socket"))?;
    prepare(&socket, address)?;
    socket.set_reuse_address(true).map_err(failed("setting SO_REUSEADDR"))?;
    // Accepted sockets inherit it: a reply is one write and must not wait for an acknowledgement.
    socket.set_tcp_nodelay(true).map_err(failed("setting TCP_NODELAY"))?;
    socket.bind(&address.into()).map_err(failed("binding TCP"))?;
    socket.listen(BACKLOG).map_err(failed("listening on TCP"))?;
    socket.set_nonblocking(true).map_err(failed("setting O_NONBLOCK"))?;
    Ok(socket.into())
}

fn prepare(socket: &Socket, address: SocketAddr) -> Result<(), BindError> {
    let failed = |step| move |source| BindError { step, address, source };
    socket.set_reuse_port(true).map_err(failed("setting SO_REUSEPORT"))?;
    match address {
        SocketAddr::V4(_) => socket.set_freebind_v4(true).map_err(failed("setting IP_FREEBIND")),
        SocketAddr::V6(_) => {
            socket.set_only_v6(true).map_err(failed("setting IPV6_V6ONLY"))?;
            socket.set_freebind_v6(true).map_err(failed("setting IPV6_FREEBIND"))
        }
    }
}

/// SO_RCVBUFFORCE, which net.core.rmem_max does not bound; needs CAP_NET_ADMIN.
fn force_receive_buffer(socket: &Socket, wanted: usize) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let value = libc::c_int::try_from(wanted).unwrap_or(libc::c_int::MAX);
    // SAFETY: the option takes an int, whose address and size are given; the descriptor is open.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
