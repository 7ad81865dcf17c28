//! The floor: what a UDP answer costs when nothing is done to make it.
//!
//! The same system calls, batch size and flags as a worker of nodens uses, and nothing between them but flipping QR and
//! appending a constant authority section of the size the mix's negative answers have. What a server takes beyond this is its own.
#![allow(unsafe_code, reason = "bare recvmmsg and sendmmsg are the subject of this file")]

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd as _;

use socket2::SockRef;

/// Answers on 127.0.0.1:`port` until it is killed.
pub(crate) fn serve(port: u16) -> io::Result<()> {
    let socket = UdpSocket::bind(("127.0.0.1", port))?;
    enlarge_buffers(&socket)?;
    let fd = socket.as_raw_fd();
    let body = body();

    let mut buffers = vec![[0_u8; DATAGRAM]; BATCH];
    // SAFETY: all-zero is a valid value of these plain C structs.
    let mut names: Vec<libc::sockaddr_storage> = vec![unsafe { std::mem::zeroed() }; BATCH];
    // SAFETY: as above.
    let mut receive_parts: Vec<libc::iovec> = vec![unsafe { std::mem::zeroed() }; BATCH];
    // SAFETY: as above.
    let mut send_parts: Vec<[libc::iovec; 2]> = vec![unsafe { std::mem::zeroed() }; BATCH];
    // SAFETY: as above.
    let mut receive: Vec<libc::mmsghdr> = vec![unsafe { std::mem::zeroed() }; BATCH];
    // SAFETY: as above.
    let mut send: Vec<libc::mmsghdr> = vec![unsafe { std::mem::zeroed() }; BATCH];
    // The vectors are never resized below, so the pointers set here stay valid for as long as the loop runs.
    for index in 0..BATCH {
        let buffer = buffers[index].as_mut_ptr().cast();
        receive_parts[index] = libc::iovec { iov_base: buffer, iov_len: DATAGRAM };
        receive[index].msg_hdr.msg_iov = &raw mut receive_parts[index];
        receive[index].msg_hdr.msg_iovlen = 1;
        receive[index].msg_hdr.msg_name = (&raw mut names[index]).cast();
        send_parts[index] = [
            libc::iovec { iov_base: buffer, iov_len: 0 },
            libc::iovec { iov_base: body.as_ptr().cast_mut().cast(), iov_len: body.len() },
        ];
        send[index].msg_hdr.msg_iov = send_parts[index].as_mut_ptr();
        send[index].msg_hdr.msg_iovlen = 2;
        send[index].msg_hdr.msg_name = (&raw mut names[index]).cast();
    }

    loop {
        for message in &mut receive {
            message.msg_hdr.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        }
        // SAFETY: `receive` holds BATCH headers whose pointers are to live buffers of the lengths given.
        let received = unsafe {
            libc::recvmmsg(
                fd,
                receive.as_mut_ptr(),
                BATCH as u32,
                libc::MSG_WAITFORONE as _,
                std::ptr::null_mut(),
            )
        };
        if received < 0 {
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            return Err(error);
        }
        let received = received.unsigned_abs() as usize;
        for index in 0..received {
            let header = &mut buffers[index];
            header[2] |= 0x80; // QR
            header[3] = 0x80; // RA, NOERROR
            header[9] = 1; // NSCOUNT
            send_parts[index][0].iov_len = receive[index].msg_len as usize;
            send[index].msg_hdr.msg_namelen = receive[index].msg_hdr.msg_namelen;
        }
        let mut sent = 0;
        while sent < received {
            // SAFETY: the first `received` headers of `send` point to live buffers and to the addresses recvmmsg wrote.
            let result =
                unsafe { libc::sendmmsg(fd, send.as_mut_ptr().add(sent), (received - sent) as u32, 0) };
            // A client that went away costs its own answer alone.
            sent += result.max(1).unsigned_abs() as usize;
        }
    }
}

/// An SOA record as the mix's NXDOMAIN answers carry it, owner compressed to the question's name.
pub(crate) fn body() -> Vec<u8> {
    let mut rdata = Vec::new();
    for name in [&["ns", "dns", "cluster", "local"][..], &["hostmaster", "cluster", "local"][..]] {
        for label in name {
            rdata.push(label.len() as u8);
            rdata.extend_from_slice(label.as_bytes());
        }
        rdata.push(0);
    }
    for number in [1_u32, 7_200, 1_800, 86_400, 3_600] {
        rdata.extend_from_slice(&number.to_be_bytes());
    }
    let mut body = vec![0xc0, 12, 0, 6, 0, 1, 0, 0, 0x0e, 0x10];
    body.extend_from_slice(&(rdata.len() as u16).to_be_bytes());
    body.extend_from_slice(&rdata);
    body
}

/// The receive buffer is forced past `net.core.rmem_max` where the process may.
pub(crate) fn enlarge_buffers(socket: &UdpSocket) -> io::Result<()> {
    let size: libc::c_int = BUFFER;
    for option in [libc::SO_RCVBUFFORCE, libc::SO_SNDBUFFORCE] {
        // SAFETY: the pointer is to a live c_int of the length given.
        unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                option,
                (&raw const size).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
    }
    let socket = SockRef::from(socket);
    let wanted = BUFFER.unsigned_abs() as usize;
    if socket.recv_buffer_size()? < wanted {
        socket.set_recv_buffer_size(wanted)?;
    }
    Ok(())
}

const BATCH: usize = 64;
/// Room for any query.
const DATAGRAM: usize = 2_048;
/// Holds a burst of 5,000 queries at the kernel's 768 bytes of bookkeeping each, twice over.
const BUFFER: libc::c_int = 8 << 20;
