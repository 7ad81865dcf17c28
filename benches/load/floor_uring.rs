//! The floor on io_uring: the answers of [`crate::floor`] with one system call a batch in place of two.
//!
//! A multishot RECVMSG fills buffers of a provided ring; answers, a SENDMSG each, are submitted by the `io_uring_enter(2)` that
//! waits for the next query. What this costs less than the floor is what a server could save by io_uring.
#![allow(unsafe_code, reason = "rings and buffers shared with the kernel are the subject of this file")]

use std::alloc::{Layout, alloc_zeroed};
use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::{BufRingEntry, Fixed};
use io_uring::{IoUring, cqueue, opcode, squeue};

use crate::floor;

/// Answers on 127.0.0.1:`port` until it is killed.
pub(crate) fn serve(port: u16) -> io::Result<()> {
    let socket = UdpSocket::bind(("127.0.0.1", port))?;
    floor::enlarge_buffers(&socket)?;
    // Submissions: an answer for each buffer, and the receive.
    let mut builder = IoUring::builder();
    let mut ring: IoUring =
        builder.setup_single_issuer().setup_defer_taskrun().build(u32::from(BUFFERS) * 2)?;
    ring.submitter().register_files(&[socket.as_raw_fd()])?;
    let mut free = FreeBuffers::new();
    // SAFETY: the ring's memory is page-aligned, holds BUFFERS entries and is never freed.
    unsafe { ring.submitter().register_buf_ring_with_flags(free.entries as u64, BUFFERS, GROUP, 0)? };

    let body = floor::body();
    let count = usize::from(BUFFERS);
    let mut buffers = vec![[0_u8; BUFFER]; count];
    // SAFETY: all-zero is a valid value of these plain C structs.
    let mut parts: Vec<[libc::iovec; 2]> = vec![unsafe { std::mem::zeroed() }; count];
    // SAFETY: as above.
    let mut answers: Vec<libc::msghdr> = vec![unsafe { std::mem::zeroed() }; count];
    // The vectors are never resized below, so the pointers set here stay valid for as long as the loop runs.
    for id in 0..BUFFERS {
        let index = usize::from(id);
        let buffer = buffers[index].as_mut_ptr();
        free.give(id, buffer);
        parts[index] = [
            libc::iovec { iov_base: buffer.wrapping_add(QUERY).cast(), iov_len: 0 },
            libc::iovec { iov_base: body.as_ptr().cast_mut().cast(), iov_len: body.len() },
        ];
        answers[index].msg_iov = parts[index].as_mut_ptr();
        answers[index].msg_iovlen = 2;
        answers[index].msg_name = buffer.wrapping_add(NAME).cast();
        answers[index].msg_namelen = NAME_LENGTH as libc::socklen_t;
    }
    // SAFETY: as above.
    let mut shape: libc::msghdr = unsafe { std::mem::zeroed() };
    shape.msg_namelen = NAME_LENGTH as libc::socklen_t;
    let receive = opcode::RecvMsgMulti::new(Fixed(0), &raw const shape, GROUP).build().user_data(RECEIVE);

    let mut receiving = false;
    let mut sending = 0;
    loop {
        if !receiving {
            // SAFETY: `shape` lives as long as the loop.
            unsafe { ring.submission().push(&receive) }.map_err(full)?;
            receiving = true;
        }
        // A send completes while it is submitted; the one completion beyond them is a query.
        match ring.submit_and_wait(sending + 1) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        let (_, mut submissions, completions) = ring.split();
        for completion in completions {
            if completion.user_data() != RECEIVE {
                let id = completion.user_data() as u16;
                free.give(id, buffers[usize::from(id)].as_mut_ptr());
                sending -= 1;
                continue;
            }
            // It ends when no buffer is free, and is submitted anew.
            receiving = cqueue::more(completion.flags());
            let Some(id) = cqueue::buffer_select(completion.flags()) else { continue };
            let index = usize::from(id);
            let header = &mut buffers[index][QUERY..];
            header[2] |= 0x80; // QR
            header[3] = 0x80; // RA, NOERROR
            header[9] = 1; // NSCOUNT
            parts[index][0].iov_len = completion.result().unsigned_abs() as usize - QUERY;
            let send = opcode::SendMsg::new(Fixed(0), &raw const answers[index]).build().user_data(id.into());
            // SAFETY: the answer's header, parts and buffer are left alone until its completion gives the buffer back.
            unsafe { submissions.push(&send) }.map_err(full)?;
            sending += 1;
        }
    }
}

/// The ring that tells the kernel which buffers are free (io_uring_register(2), IORING_REGISTER_PBUF_RING).
struct FreeBuffers {
    entries: *mut BufRingEntry,
    tail: u16,
}

impl FreeBuffers {
    fn new() -> Self {
        let size = usize::from(BUFFERS) * size_of::<BufRingEntry>();
        let layout = Layout::from_size_align(size, PAGE).expect("the size is far below isize::MAX");
        // SAFETY: the size is not zero. It is never freed: the kernel reads it until the process ends.
        let entries: *mut BufRingEntry = unsafe { alloc_zeroed(layout) }.cast();
        assert!(!entries.is_null(), "no memory for {size} bytes");
        Self { entries, tail: 0 }
    }

    /// Lets the kernel receive into buffer `id`, which is at `buffer`.
    fn give(&mut self, id: u16, buffer: *mut u8) {
        // SAFETY: BUFFERS is a power of two, so the index is within the ring; the kernel reads entries below the tail alone.
        let entry = unsafe { &mut *self.entries.add(usize::from(self.tail & (BUFFERS - 1))) };
        entry.set_addr(buffer as u64);
        entry.set_len(BUFFER as u32);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the tail is an aligned u16 within the first entry, which setting an entry's fields leaves alone.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(self.entries).cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}

fn full(_: squeue::PushError) -> io::Error {
    io::Error::other("the submission queue is full")
}

/// Twice a batch of the floor's: what is received while a batch is answered has room.
const BUFFERS: u16 = 128;
const GROUP: u16 = 0;
const RECEIVE: u64 = u64::MAX;
const PAGE: usize = 4096;
/// A buffer begins with struct io_uring_recvmsg_out, four u32; the address follows, then the query.
const NAME: usize = 16;
const NAME_LENGTH: usize = size_of::<libc::sockaddr_in>();
const QUERY: usize = NAME + NAME_LENGTH;
/// Room for any query.
const BUFFER: usize = QUERY + 2_048;
