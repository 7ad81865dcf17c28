//! The netfilter netlink socket: one request, one dump or one batch at a time.
//!
//! The kernel works on an nfnetlink request inside `send(2)` and has queued its answer when that returns; a dump goes
//! on inside `recv(2)` (Documentation/userspace-api/netlink/intro.rst). The socket is therefore non-blocking, and an
//! empty queue means that there is no answer, not that one should wait for it.

use std::io;
use std::time::Instant;

use netlink_packet_core::{
    DoneBuffer, ErrorBuffer, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_ALIGNTO,
    NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer, NetlinkHeader, NetlinkMessage,
};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_NETFILTER;

/// One message to the kernel.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    family: NetfilterProtoFamily,
    flags: u16,
    inner: NetfilterMessageInner,
}

impl Request {
    /// A message of this family with flags beside `NLM_F_REQUEST`.
    pub(crate) fn new(
        family: NetfilterProtoFamily,
        flags: u16,
        inner: impl Into<NetfilterMessageInner>,
    ) -> Self {
        Self { family, flags, inner: inner.into() }
    }
}

/// Why a batch was not committed. Nothing of it is in force then.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// Which of the requests the kernel refused, if it said so.
    pub(crate) index: Option<usize>,
    /// Its answer.
    pub(crate) source: io::Error,
}

/// A socket to the netfilter subsystems.
///
/// An nftables table with an owner belongs to the socket that made it and is removed by the kernel when that is closed.
#[derive(Debug)]
pub(crate) struct Channel {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Channel {
    /// Opens a socket in the calling thread's network namespace.
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.set_non_blocking(true)?;
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(RECEIVE_BUFFER) })
    }

    /// Sends one request and hands each message of the answer (type without subsystem, attributes) to `visit`.
    pub(crate) fn request(&mut self, request: Request, visit: impl FnMut(u8, &[u8])) -> io::Result<()> {
        let sequence = self.send(&[Request { flags: request.flags | NLM_F_ACK, ..request }])?;
        self.receive(sequence, None, visit).map(drop)
    }

    /// Asks for all objects and hands each (type without subsystem, attributes) to `visit`.
    ///
    /// Returns false when it stopped at the deadline; the channel must not be used any more then. A dump during which
    /// the set changed (`NLM_F_DUMP_INTR`) fails with [`io::ErrorKind::Interrupted`].
    pub(crate) fn dump(
        &mut self,
        request: Request,
        deadline: Option<Instant>,
        visit: impl FnMut(u8, &[u8]),
    ) -> io::Result<bool> {
        let sequence = self.send(&[Request { flags: request.flags | NLM_F_DUMP, ..request }])?;
        self.receive(sequence, deadline, visit)
    }

    /// Sends requests as one transaction: all take effect at once, or none does.
    pub(crate) fn batch(&mut self, requests: &[Request]) -> Result<(), Refusal> {
        let subsystem = NFNL_SUBSYS_NFTABLES;
        let frame = |message| {
            NetfilterMessage::new(NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, subsystem), message)
        };
        let mut bytes = Vec::new();
        append(&mut bytes, frame(ControlMessage::BatchBegin), NLM_F_REQUEST, self.next_sequence());
        let first = self.sequence.wrapping_add(1);
        for (index, request) in requests.iter().enumerate() {
            // Errors come unasked; one acknowledgement, of the last request, says that it was committed.
            let acknowledge = if index + 1 == requests.len() { NLM_F_ACK } else { 0 };
            let message =
                NetfilterMessage::new(NetfilterHeader::new(request.family, 0, 0), request.inner.clone());
            append(&mut bytes, message, NLM_F_REQUEST | request.flags | acknowledge, self.next_sequence());
        }
        let last = self.sequence;
        append(&mut bytes, frame(ControlMessage::BatchEnd), NLM_F_REQUEST, self.next_sequence());

        let refusal = |index, source| Refusal { index, source };
        self.discard_queue();
        self.socket.send(&bytes, 0).map_err(|error| refusal(None, error))?;
        let mut committed = false;
        let mut refused = None;
        loop {
            match self.receive_datagram() {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(refusal(None, error)),
            }
            for message in messages(&self.buffer) {
                if message.message_type() != NLMSG_ERROR {
                    continue;
                }
                let sequence = message.sequence_number();
                match error_code(message.payload()) {
                    None => committed |= sequence == last,
                    Some(source) => {
                        let index = sequence.wrapping_sub(first) as usize;
                        refused.get_or_insert(refusal((index < requests.len()).then_some(index), source));
                    }
                }
            }
        }
        match refused {
            Some(refused) => Err(refused),
            None if committed => Ok(()),
            None => Err(refusal(None, io::Error::other("the kernel did not acknowledge the transaction"))),
        }
    }

    fn send(&mut self, requests: &[Request]) -> io::Result<u32> {
        let mut bytes = Vec::new();
        for request in requests {
            let message =
                NetfilterMessage::new(NetfilterHeader::new(request.family, 0, 0), request.inner.clone());
            append(&mut bytes, message, NLM_F_REQUEST | request.flags, self.next_sequence());
        }
        self.discard_queue();
        self.socket.send(&bytes, 0)?;
        Ok(self.sequence)
    }

    fn receive(
        &mut self,
        sequence: u32,
        deadline: Option<Instant>,
        mut visit: impl FnMut(u8, &[u8]),
    ) -> io::Result<bool> {
        loop {
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(false);
            }
            self.receive_datagram()?;
            for message in messages(&self.buffer) {
                if message.sequence_number() != sequence {
                    continue;
                }
                if message.flags() & NLM_F_DUMP_INTR != 0 {
                    return Err(io::ErrorKind::Interrupted.into());
                }
                match message.message_type() {
                    NLMSG_ERROR => return error_code(message.payload()).map_or(Ok(true), Err),
                    NLMSG_DONE => return done_code(message.payload()).map_or(Ok(true), Err),
                    kind => {
                        if let Some(attributes) = message.payload().get(NFGENMSG_LEN..) {
                            visit(kind as u8, attributes);
                        }
                    }
                }
            }
        }
    }

    fn receive_datagram(&mut self) -> io::Result<()> {
        self.buffer.clear();
        self.socket.recv(&mut self.buffer, 0).map(drop)
    }

    /// Throws away what an earlier request left, so that it is not taken for this one's answer.
    fn discard_queue(&mut self) {
        while self.receive_datagram().is_ok() {}
    }

    fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }
}

/// The messages of one datagram.
pub(crate) fn messages(mut datagram: &[u8]) -> impl Iterator<Item = NetlinkBuffer<&[u8]>> {
    std::iter::from_fn(move || {
        let message = NetlinkBuffer::new_checked(datagram).ok()?;
        let length = (message.length() as usize).next_multiple_of(usize::from(NLMSG_ALIGNTO));
        datagram = datagram.get(length..).unwrap_or_default();
        Some(message)
    })
}

fn append(bytes: &mut Vec<u8>, message: NetfilterMessage, flags: u16, sequence: u32) {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    header.sequence_number = sequence;
    let mut message = NetlinkMessage::new(header, message.into());
    message.finalize();
    let start = bytes.len();
    bytes.resize(start + message.buffer_len(), 0);
    message.serialize(&mut bytes[start..]);
}

/// The error an `NLMSG_ERROR` reports; an acknowledgement is one without.
fn error_code(payload: &[u8]) -> Option<io::Error> {
    match ErrorBuffer::new_checked(payload) {
        Ok(error) => error.code().map(|code| io::Error::from_raw_os_error(code.get().saturating_neg())),
        Err(_) => Some(io::ErrorKind::InvalidData.into()),
    }
}

/// The error an `NLMSG_DONE` reports.
fn done_code(payload: &[u8]) -> Option<io::Error> {
    let code = DoneBuffer::new_checked(payload).map_or(0, |done| done.code());
    (code < 0).then(|| io::Error::from_raw_os_error(code.saturating_neg()))
}

/// `NFNL_SUBSYS_NFTABLES` (include/uapi/linux/netfilter/nfnetlink.h): the subsystem a batch is for.
const NFNL_SUBSYS_NFTABLES: u16 = 10;

/// Length of `struct nfgenmsg` (include/uapi/linux/netfilter/nfnetlink.h), which precedes the attributes.
pub(crate) const NFGENMSG_LEN: usize = 4;

/// The kernel makes dump datagrams of at most 32 KiB (`max_recvmsg_len` in net/netlink/af_netlink.c).
const RECEIVE_BUFFER: usize = 64 * 1024;
