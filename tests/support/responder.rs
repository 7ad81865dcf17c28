//! An upstream that answers what a function of the test says, over UDP and TCP, and remembers what it was asked.
//!
//! `support/upstream.rs` scripts faults of the network; this one is for what stands in the messages.

#![allow(dead_code, unreachable_pub, reason = "each test file includes this and uses its part")]

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::{A, CNAME, SOA};
use hickory_proto::rr::{Name, RData, Record};

use super::loopback;

/// A query as it arrived.
#[derive(Debug, Clone)]
pub struct Asked {
    /// In lower case, without the last dot.
    pub name: String,
    /// The type.
    pub qtype: u16,
    /// The header's second word.
    pub flags: u16,
    /// How often this question was asked before.
    pub before: usize,
    /// Over UDP; else over TCP.
    pub udp: bool,
    /// All of it.
    pub query: Message,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// A running upstream; gone when dropped.
pub struct Responder {
    address: SocketAddr,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// Makes the reply to a query, or none.
type Answer = Box<dyn Fn(&Asked) -> Option<Vec<u8>> + Send + Sync>;

struct Shared {
    answer: Answer,
    asked: Mutex<Vec<Asked>>,
    streams: Mutex<Vec<TcpStream>>,
    stopped: AtomicBool,
}

impl Responder {
    /// Starts; `answer` makes the reply to each query, or none.
    pub fn start(answer: impl Fn(&Asked) -> Option<Vec<u8>> + Send + Sync + 'static) -> Self {
        Self::start_at(loopback::free(), answer)
    }

    /// The same, at this address.
    pub fn start_at(
        address: SocketAddr,
        answer: impl Fn(&Asked) -> Option<Vec<u8>> + Send + Sync + 'static,
    ) -> Self {
        let shared = Arc::new(Shared {
            answer: Box::new(answer),
            asked: Mutex::default(),
            streams: Mutex::default(),
            stopped: AtomicBool::new(false),
        });
        let udp = UdpSocket::bind(address).expect("the port is free");
        udp.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout above 0");
        let tcp = TcpListener::bind(address).expect("the port is free");
        let (for_udp, for_tcp) = (Arc::clone(&shared), Arc::clone(&shared));
        let threads = vec![
            thread::spawn(move || for_udp.serve_udp(&udp)),
            thread::spawn(move || serve_tcp(&for_tcp, &tcp)),
        ];
        Self { address, shared, threads }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Everything it was asked, probes of the upstream's health aside.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().unwrap().iter().filter(|asked| !asked.name.is_empty()).cloned().collect()
    }

    /// How often it was asked for this name and type.
    pub fn count(&self, name: &str, qtype: u16) -> usize {
        self.asked().iter().filter(|asked| asked.name == name && asked.qtype == qtype).count()
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        // Wakes the one that accepts.
        let _ = TcpStream::connect(self.address);
        for stream in self.shared.streams.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        for thread in self.threads.drain(..) {
            assert!(thread.join().is_ok() || thread::panicking(), "the responder panicked");
        }
    }
}

impl Shared {
    fn reply(&self, bytes: &[u8], udp: bool) -> Option<Vec<u8>> {
        let query = Message::from_vec(bytes).expect("nodens sends well-formed queries");
        let name = query.queries[0].name().to_ascii().trim_end_matches('.').to_ascii_lowercase();
        let qtype = u16::from(query.queries[0].query_type());
        let asked = {
            let mut all = self.asked.lock().unwrap();
            let before = all.iter().filter(|asked| asked.name == name && asked.qtype == qtype).count();
            let flags = u16::from_be_bytes([bytes[2], bytes[3]]);
            all.push(Asked { name, qtype, flags, before, udp, query, bytes: bytes.to_vec() });
            all[all.len() - 1].clone()
        };
        if asked.name.is_empty() {
            return Some(encode(&reply(&asked.query)));
        }
        (self.answer)(&asked)
    }

    fn serve_udp(&self, socket: &UdpSocket) {
        let mut buffer = [0; 4096];
        while !self.stopped.load(Ordering::SeqCst) {
            let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
            if let Some(reply) = self.reply(&buffer[..length], true) {
                let _ = socket.send_to(&reply, from);
            }
        }
    }
}

fn serve_tcp(shared: &Arc<Shared>, listener: &TcpListener) {
    let mut connections = Vec::new();
    while let Ok((stream, _)) = listener.accept() {
        if shared.stopped.load(Ordering::SeqCst) {
            break;
        }
        stream.set_nodelay(true).expect("TCP_NODELAY");
        shared.streams.lock().unwrap().push(stream.try_clone().expect("another descriptor"));
        let shared = Arc::clone(shared);
        connections.push(thread::spawn(move || serve_connection(&shared, stream)));
    }
    for connection in connections {
        connection.join().expect("the connection's thread panicked");
    }
}

fn serve_connection(shared: &Shared, mut stream: TcpStream) {
    let mut length = [0; 2];
    while stream.read_exact(&mut length).is_ok() {
        let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
        if stream.read_exact(&mut query).is_err() {
            return;
        }
        let Some(reply) = shared.reply(&query, false) else { continue };
        let mut frame = (reply.len() as u16).to_be_bytes().to_vec();
        frame.extend_from_slice(&reply);
        if stream.write_all(&frame).is_err() {
            return;
        }
    }
}

/// An empty NOERROR reply to a query, without its OPT.
pub fn reply(query: &Message) -> Message {
    let mut reply = query.clone();
    reply.metadata.message_type = MessageType::Response;
    reply.metadata.recursion_available = true;
    reply.metadata.authentic_data = false;
    reply.edns = None;
    reply
}

/// A reply of these answers.
pub fn answers(query: &Message, records: impl IntoIterator<Item = Record>) -> Vec<u8> {
    let mut reply = reply(query);
    reply.answers.extend(records);
    encode(&reply)
}

/// A negative reply: NXDOMAIN or NODATA, with the SOA of `zone`.
pub fn negative(query: &Message, rcode: ResponseCode, zone: &str, ttl: u32, minimum: u32) -> Vec<u8> {
    let mut reply = reply(query);
    reply.metadata.response_code = rcode;
    reply.authorities.push(soa(zone, ttl, minimum));
    encode(&reply)
}

/// A reply without records.
pub fn rcode(query: &Message, rcode: ResponseCode) -> Vec<u8> {
    let mut reply = reply(query);
    reply.metadata.response_code = rcode;
    encode(&reply)
}

/// As it is sent.
pub fn encode(message: &Message) -> Vec<u8> {
    message.to_vec().expect("hickory encodes what it made")
}

/// A record of type A.
pub fn a(name: &str, ttl: u32, address: [u8; 4]) -> Record {
    Record::from_rdata(host(name), ttl, RData::A(A(Ipv4Addr::from(address))))
}

/// A record of type CNAME.
pub fn cname(name: &str, ttl: u32, target: &str) -> Record {
    Record::from_rdata(host(name), ttl, RData::CNAME(CNAME(host(target))))
}

/// A record of type SOA.
pub fn soa(zone: &str, ttl: u32, minimum: u32) -> Record {
    let data =
        SOA::new(host(&format!("ns.{zone}")), host(&format!("admin.{zone}")), 1, 7200, 900, 86_400, minimum);
    Record::from_rdata(host(zone), ttl, RData::SOA(data))
}

/// An absolute name.
pub fn host(name: &str) -> Name {
    Name::from_ascii(format!("{}.", name.trim_end_matches('.'))).expect("a name")
}
