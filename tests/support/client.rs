//! A small DNS client: queries as bytes that a test bends as it likes, replies by hickory-proto, deadlines on everything.

#![allow(dead_code, unreachable_pub, reason = "each test file includes this and uses its part")]

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{RData, RecordType};

use super::wait::seconds;

pub const A: u16 = 1;
pub const NS: u16 = 2;
pub const CNAME: u16 = 5;
pub const SOA: u16 = 6;
pub const TXT: u16 = 16;
pub const AAAA: u16 = 28;
pub const OPT: u16 = 41;
pub const ANY: u16 = 255;

/// Header flags.
pub const QR: u16 = 0x8000;
pub const AA: u16 = 0x0400;
pub const TC: u16 = 0x0200;
pub const RD: u16 = 0x0100;
pub const RA: u16 = 0x0080;
pub const Z: u16 = 0x0040;
pub const AD: u16 = 0x0020;
pub const CD: u16 = 0x0010;

/// Longest wait for a reply that should come.
const PATIENCE: Duration = seconds(10);

/// A query to be.
#[derive(Debug, Clone)]
pub struct Query {
    pub id: u16,
    pub flags: u16,
    pub name: Vec<u8>,
    pub qtype: u16,
    pub qclass: u16,
    pub edns: Option<Edns>,
}

/// An OPT record to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edns {
    pub payload: u16,
    pub rcode: u8,
    pub version: u8,
    /// DO is 0x8000.
    pub flags: u16,
    /// Code and data.
    pub options: Vec<(u16, Vec<u8>)>,
}

impl Default for Edns {
    fn default() -> Self {
        Self { payload: 1232, rcode: 0, version: 0, flags: 0, options: Vec::new() }
    }
}

impl Query {
    /// A recursive query of class IN, without EDNS.
    pub fn new(name: &str, qtype: u16) -> Self {
        Self { id: rand::random(), flags: RD, name: wire_name(name), qtype, qclass: 1, edns: None }
    }

    /// The same with these flags instead of RD alone.
    pub fn flags(mut self, flags: u16) -> Self {
        self.flags = flags;
        self
    }

    /// In this class.
    pub fn class(mut self, qclass: u16) -> Self {
        self.qclass = qclass;
        self
    }

    /// With this OPT.
    pub fn edns(mut self, edns: Edns) -> Self {
        self.edns = Some(edns);
        self
    }

    /// With an OPT of this payload size.
    pub fn payload(self, payload: u16) -> Self {
        self.edns(Edns { payload, ..Edns::default() })
    }

    /// With an OPT that has DO set.
    pub fn dnssec_ok(self) -> Self {
        self.edns(Edns { flags: 0x8000, ..Edns::default() })
    }

    /// With an OPT that has this option.
    pub fn option(self, code: u16, data: &[u8]) -> Self {
        self.edns(Edns { options: vec![(code, data.to_vec())], ..Edns::default() })
    }

    /// As it is sent.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for word in [self.id, self.flags, 1, 0, 0, u16::from(self.edns.is_some())] {
            bytes.extend_from_slice(&word.to_be_bytes());
        }
        bytes.extend_from_slice(&self.question());
        if let Some(edns) = &self.edns {
            bytes.extend_from_slice(&edns.bytes());
        }
        bytes
    }

    /// The question as it is sent.
    pub fn question(&self) -> Vec<u8> {
        let mut question = self.name.clone();
        question.extend_from_slice(&self.qtype.to_be_bytes());
        question.extend_from_slice(&self.qclass.to_be_bytes());
        question
    }
}

impl Edns {
    /// The record as it is sent.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend_from_slice(&OPT.to_be_bytes());
        bytes.extend_from_slice(&self.payload.to_be_bytes());
        bytes.extend_from_slice(&[self.rcode, self.version]);
        bytes.extend_from_slice(&self.flags.to_be_bytes());
        let length: usize = self.options.iter().map(|(_, data)| 4 + data.len()).sum();
        bytes.extend_from_slice(&(length as u16).to_be_bytes());
        for (code, data) in &self.options {
            bytes.extend_from_slice(&code.to_be_bytes());
            bytes.extend_from_slice(&(data.len() as u16).to_be_bytes());
            bytes.extend_from_slice(data);
        }
        bytes
    }
}

/// A name in wire form, letters as they are. `.` is the root.
pub fn wire_name(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(label.len() as u8);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

/// A reply: its bytes, and what hickory-proto makes of them.
#[derive(Debug, Clone)]
pub struct Reply {
    pub bytes: Vec<u8>,
    pub message: Message,
}

impl Reply {
    /// Parses it; panics where hickory-proto cannot.
    pub fn parse(bytes: Vec<u8>) -> Self {
        let message = Message::from_vec(&bytes).unwrap_or_else(|error| panic!("{error}: {bytes:02x?}"));
        Self { bytes, message }
    }

    /// The header's id.
    pub fn id(&self) -> u16 {
        self.word(0)
    }

    /// The header's second word without the rcode.
    pub fn flags(&self) -> u16 {
        self.word(1) & 0xfff0
    }

    /// Whether all of these flags are set.
    pub fn has(&self, flags: u16) -> bool {
        self.word(1) & flags == flags
    }

    /// The rcode with its upper bits from the OPT.
    pub fn rcode(&self) -> ResponseCode {
        self.message.metadata.response_code
    }

    /// Records in the question, answer, authority and additional section, OPT included.
    pub fn counts(&self) -> [u16; 4] {
        [2, 3, 4, 5].map(|word| self.word(word))
    }

    /// The question's bytes as they came back.
    pub fn question(&self) -> &[u8] {
        let mut at = 12;
        while self.bytes[at] != 0 {
            at += 1 + usize::from(self.bytes[at]);
        }
        &self.bytes[12..at + 5]
    }

    /// The addresses in the answer section, sorted.
    pub fn addresses(&self) -> Vec<[u8; 4]> {
        let mut addresses: Vec<_> = self
            .message
            .answers
            .iter()
            .filter_map(|record| match &record.data {
                RData::A(address) => Some(address.0.octets()),
                _ => None,
            })
            .collect();
        addresses.sort_unstable();
        addresses
    }

    /// Types and TTLs of the answer section.
    pub fn answer_ttls(&self) -> Vec<(RecordType, u32)> {
        self.message.answers.iter().map(|record| (record.record_type(), record.ttl)).collect()
    }

    /// The smallest TTL of answer and authority section. Panics if they are empty.
    pub fn ttl(&self) -> u32 {
        let records = self.message.answers.iter().chain(&self.message.authorities);
        records.map(|record| record.ttl).min().expect("the reply has records")
    }

    /// The options of the OPT, by code, as they are on the wire.
    pub fn options(&self) -> Vec<(u16, Vec<u8>)> {
        let Some(mut options) = self.opt() else { return Vec::new() };
        let mut found = Vec::new();
        while let [c0, c1, l0, l1, rest @ ..] = options {
            let (data, behind) = rest.split_at(usize::from(u16::from_be_bytes([*l0, *l1])));
            found.push((u16::from_be_bytes([*c0, *c1]), data.to_vec()));
            options = behind;
        }
        found
    }

    /// The data of the OPT.
    fn opt(&self) -> Option<&[u8]> {
        let mut at = 12 + self.question().len() * usize::from(self.word(2).min(1));
        for _ in 0..self.counts()[1..].iter().sum::<u16>() {
            while self.bytes[at] != 0 && self.bytes[at] < 0xc0 {
                at += 1 + usize::from(self.bytes[at]);
            }
            at += if self.bytes[at] == 0 { 1 } else { 2 };
            let word = |at: usize| u16::from_be_bytes([self.bytes[at], self.bytes[at + 1]]);
            let end = at + 10 + usize::from(word(at + 8));
            if word(at) == OPT {
                return Some(&self.bytes[at + 10..end]);
            }
            at = end;
        }
        None
    }

    /// The info code of an extended error (RFC 8914).
    pub fn extended_error(&self) -> Option<u16> {
        self.options()
            .into_iter()
            .find(|(code, _)| *code == 15)
            .map(|(_, data)| u16::from_be_bytes([data[0], data[1]]))
    }

    fn word(&self, index: usize) -> u16 {
        u16::from_be_bytes([self.bytes[2 * index], self.bytes[2 * index + 1]])
    }
}

/// Asks over UDP; panics when no reply comes.
pub fn udp(server: SocketAddr, query: &Query) -> Reply {
    let bytes = udp_within(server, &query.bytes(), PATIENCE);
    let reply = Reply::parse(bytes.unwrap_or_else(|| panic!("no answer from {server} to {query:?}")));
    assert_eq!(reply.id(), query.id);
    reply
}

/// Asks over TCP, on a connection of its own; panics when no reply comes.
pub fn tcp(server: SocketAddr, query: &Query) -> Reply {
    let mut connection = Tcp::connect(server);
    connection.send(&query.bytes());
    let reply = connection.receive();
    assert_eq!(reply.id(), query.id);
    reply
}

/// Asks over both, which must not differ but in what the transport explains.
pub fn both(server: SocketAddr, query: &Query) -> [Reply; 2] {
    [udp(server, query), tcp(server, query)]
}

/// Sends these bytes over UDP: the reply's, if one comes within `limit`.
pub fn udp_within(server: SocketAddr, bytes: &[u8], limit: Duration) -> Option<Vec<u8>> {
    let socket = Udp::connect(server);
    socket.send(bytes);
    socket.receive_within(limit)
}

/// Sends these bytes over UDP; panics when no reply comes.
pub fn udp_bytes(server: SocketAddr, bytes: &[u8]) -> Reply {
    let reply = udp_within(server, bytes, PATIENCE);
    Reply::parse(reply.unwrap_or_else(|| panic!("no answer from {server} to {bytes:02x?}")))
}

/// Sends these bytes over TCP as one message: the reply, or `None` where the connection is closed.
pub fn tcp_bytes(server: SocketAddr, bytes: &[u8]) -> Option<Reply> {
    let mut connection = Tcp::connect(server);
    connection.send(bytes);
    connection.try_receive().expect("an answer or the end in time").map(Reply::parse)
}

/// Checks that this gets no answer over UDP: a good query sent behind it is answered, and only that.
pub fn udp_silence(server: SocketAddr, bytes: &[u8], good: &Query) {
    let socket = Udp::connect(server);
    socket.send(bytes);
    socket.send(&good.bytes());
    let reply = Reply::parse(socket.receive_within(PATIENCE).expect("the good query is answered"));
    assert_eq!(reply.id(), good.id, "{bytes:02x?} was answered");
    // One worker answers in order, so what has not come by now does not come.
    assert_eq!(socket.receive_within(Duration::from_millis(20)), None, "{bytes:02x?} was answered");
}

/// A UDP socket of a client's.
pub struct Udp(UdpSocket);

impl Udp {
    /// A socket that hears this server only.
    pub fn connect(server: SocketAddr) -> Self {
        let any: SocketAddr = if server.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
        let socket = UdpSocket::bind(any).expect("a socket");
        socket.connect(server).expect("loopback has a route");
        Self(socket)
    }

    /// Sends a message.
    pub fn send(&self, bytes: &[u8]) {
        // Refused where the server is gone: then no answer comes either.
        let _ = self.0.send(bytes);
    }

    /// The next message, if one comes within `limit`.
    pub fn receive_within(&self, limit: Duration) -> Option<Vec<u8>> {
        let deadline = Instant::now() + limit;
        let mut buffer = vec![0; 65_535];
        loop {
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            self.0.set_read_timeout(Some(left)).expect("a timeout above 0");
            match self.0.recv(&mut buffer) {
                Ok(length) => return Some(buffer[..length].to_vec()),
                Err(_) if Instant::now() >= deadline => return None,
                // ECONNREFUSED of an earlier send comes at once.
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    /// The next message; panics when none comes.
    pub fn receive(&self) -> Reply {
        Reply::parse(self.receive_within(PATIENCE).expect("an answer in time"))
    }
}

/// A TCP connection of a client's.
pub struct Tcp(TcpStream);

impl Tcp {
    /// Connects.
    pub fn connect(server: SocketAddr) -> Self {
        Self::try_connect(server).unwrap_or_else(|error| panic!("no connection to {server}: {error}"))
    }

    /// Connects, if it can.
    pub fn try_connect(server: SocketAddr) -> io::Result<Self> {
        Self::from(TcpStream::connect_timeout(&server, PATIENCE)?)
    }

    /// Connects from this source address.
    pub fn connect_from(source: Ipv4Addr, server: SocketAddr) -> Self {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::from((source, 0)).into()).expect("a loopback address");
        socket.connect_timeout(&server.into(), PATIENCE).expect("the server accepts");
        Self::from(socket.into()).expect("socket options")
    }

    fn from(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self(stream))
    }

    /// The stream itself.
    pub fn stream(&mut self) -> &mut TcpStream {
        &mut self.0
    }

    /// Sends a message behind its length, in one write.
    pub fn send(&mut self, message: &[u8]) {
        self.write(&frame(message)).expect("the connection is open");
    }

    /// Sends bytes as they are.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    /// The next message; panics when none comes.
    pub fn receive(&mut self) -> Reply {
        let message = self.try_receive().expect("an answer in time").expect("the connection is open");
        Reply::parse(message)
    }

    /// The next message, `None` at the end of the connection.
    pub fn try_receive(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut length = [0; 2];
        match self.0.read_exact(&mut length) {
            Ok(()) => {}
            Err(error) if is_end(&error) => return Ok(None),
            Err(error) => return Err(error),
        }
        let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
        self.0.read_exact(&mut message)?;
        Ok(Some(message))
    }

    /// Waits until the server closes; panics when it sends something or does not close within `limit`.
    pub fn closed_within(&mut self, limit: Duration) {
        self.0.set_read_timeout(Some(limit)).expect("a timeout above 0");
        let mut byte = [0];
        match self.0.read(&mut byte) {
            Ok(0) => {}
            Ok(_) => panic!("the server sent something"),
            Err(error) => assert!(is_end(&error), "not closed within {limit:?}: {error}"),
        }
        self.0.set_read_timeout(Some(PATIENCE)).expect("a timeout above 0");
    }
}

/// A message behind its length.
pub fn frame(message: &[u8]) -> Vec<u8> {
    let mut frame = (message.len() as u16).to_be_bytes().to_vec();
    frame.extend_from_slice(message);
    frame
}

fn is_end(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    )
}
