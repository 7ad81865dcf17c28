//! A small client of the harness itself: for checking answers, and for what dnsperf has no mode for.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use crate::mix::{Qtype, Question};
use crate::sys;

/// What an answer's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) rcode: u8,
    pub(crate) answers: u16,
    pub(crate) truncated: bool,
}

/// Asks one question as a resolver library does: over UDP, and over TCP where the answer did not fit.
pub(crate) fn ask(port: u16, name: &str, qtype: Qtype, limit: Duration) -> io::Result<Reply> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(("127.0.0.1", port))?;
    let query = query(name, qtype, 0x6e6f);
    socket.send(&query)?;
    let reply = receive(&socket, &query, limit)?;
    if reply.truncated { ask_tcp(port, &query, limit) } else { Ok(reply) }
}

/// What one client with many short-lived sockets saw.
#[derive(Debug, Default)]
pub(crate) struct FreshPorts {
    pub(crate) answered: u64,
    pub(crate) lost: u64,
    pub(crate) nxdomain: u64,
    pub(crate) elapsed: Duration,
}

/// Sends every query from a new socket, as a resolver library does: [`OPEN`] sockets are opened, sent on, read and closed again
/// and again, for `length`.
pub(crate) fn fresh_ports(port: u16, questions: &[Question], length: Duration) -> io::Result<FreshPorts> {
    let queries: Vec<Vec<u8>> =
        questions.iter().map(|question| query(&question.name, question.qtype, 0x7065)).collect();
    let mut result = FreshPorts::default();
    let begin = Instant::now();
    let mut next = queries.iter().cycle();
    while begin.elapsed() < length && !sys::interrupted() {
        let mut open = Vec::with_capacity(OPEN);
        for query in next.by_ref().take(OPEN) {
            let socket = UdpSocket::bind("127.0.0.1:0")?;
            socket.connect(("127.0.0.1", port))?;
            socket.send(query)?;
            open.push((socket, query));
        }
        for (socket, query) in open {
            match receive(&socket, query, PATIENCE) {
                Ok(reply) => {
                    result.answered += 1;
                    result.nxdomain += u64::from(reply.rcode == NXDOMAIN);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => result.lost += 1,
                Err(error) => return Err(error),
            }
        }
    }
    result.elapsed = begin.elapsed();
    Ok(result)
}

/// The answer to `query` that arrives on `socket`, or `WouldBlock` after `limit`. Anything else that arrives is ignored.
fn receive(socket: &UdpSocket, query: &[u8], limit: Duration) -> io::Result<Reply> {
    let mut buffer = [0_u8; 4_096];
    socket.set_read_timeout(Some(limit))?;
    let end = Instant::now() + limit;
    loop {
        let length = socket.recv(&mut buffer)?;
        if let Some(reply) = read(&buffer[..length], query) {
            return Ok(reply);
        }
        if Instant::now() > end {
            return Err(io::ErrorKind::WouldBlock.into());
        }
    }
}

fn ask_tcp(port: u16, query: &[u8], limit: Duration) -> io::Result<Reply> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(limit))?;
    let mut framed = (query.len() as u16).to_be_bytes().to_vec();
    framed.extend_from_slice(query);
    stream.write_all(&framed)?;
    let mut length = [0_u8; 2];
    stream.read_exact(&mut length)?;
    let mut message = vec![0_u8; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message)?;
    read(&message, query).ok_or_else(|| io::Error::other("the answer over TCP is to another query"))
}

/// The header of `message`, if it is an answer to `query`.
fn read(message: &[u8], query: &[u8]) -> Option<Reply> {
    let ours = message.len() >= query.len()
        && message[..2] == query[..2]
        && message[2] & 0x80 != 0
        && message[12..query.len()] == query[12..];
    ours.then(|| Reply {
        rcode: message[3] & 0x0f,
        answers: u16::from_be_bytes([message[6], message[7]]),
        truncated: message[2] & 0x02 != 0,
    })
}

/// A query with RD set and nothing else (RFC 1035 section 4.1).
fn query(name: &str, qtype: Qtype, id: u16) -> Vec<u8> {
    let [high, low] = id.to_be_bytes();
    let mut query = vec![high, low, 0x01, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(label.len() as u8);
        query.extend_from_slice(label.as_bytes());
    }
    query.push(0);
    query.extend_from_slice(&qtype.code().to_be_bytes());
    query.extend_from_slice(&[0, 1]);
    query
}

/// RFC 1035 section 4.1.1.
pub(crate) const NXDOMAIN: u8 = 3;
/// Sockets open at once.
const OPEN: usize = 64;
/// A resolver library's usual patience is five seconds; on loopback one tells lost from late.
const PATIENCE: Duration = Duration::from_secs(1);
