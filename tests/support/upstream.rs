//! A scripted upstream on loopback, TCP and UDP on one ephemeral port, that answers, lies and fails as it is told.
//!
//! It runs on a thread of its own until it is dropped. What it does is set per name and may be a sequence; what it saw
//! is counted. Replies are made with hickory-proto, so that a test compares nodens with another implementation.

#![allow(dead_code, unreachable_pub, reason = "each test file includes this and uses its part")]

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{RData, Record};
use socket2::{Domain, SockRef, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{oneshot, watch};

/// What happens to a query.
#[derive(Debug, Clone)]
pub enum Behaviour {
    /// Its answer: one A record, [`address_of`] its name.
    Answer,
    /// The answer, so much later. On a serial upstream everything behind it on the connection waits too.
    After(Duration),
    /// An answer of so many A records.
    Large(usize),
    /// This rcode and no record.
    Rcode(ResponseCode),
    /// TC over UDP, the answer over TCP.
    Truncated,
    /// TC over both.
    AlwaysTruncated,
    /// Nothing.
    Silent,
    /// FIN instead of an answer.
    Fin,
    /// RST instead of an answer.
    Reset,
    /// The answer, then FIN.
    AnswerThenFin,
    /// The answer, then RST.
    AnswerThenReset,
    /// The first half of the answer's frame, then FIN.
    HalfFrame,
    /// The first half of the answer's frame, then nothing.
    HalfFrameThenSilent,
    /// The answer under another id, with the address of a liar; never the right one.
    WrongId,
    /// An answer to another question under the right id; never the right one.
    WrongQuestion,
    /// Random bytes of message size; never an answer.
    Garbage,
    /// Wrong id, wrong question and garbage first, then the answer.
    LiesThenAnswer,
    /// The answer three times.
    Thrice,
    /// The answer, its question in lower case whatever was asked.
    FoldedCase,
    /// Over UDP: the answer from another port first (with the liar's address), then the right one from the right port.
    WrongSourceThenAnswer,
}

/// The address in a lie: no right answer has it.
pub const LIE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 66);

/// The address that `name` (any case, with or without the last dot) is answered with.
pub fn address_of(name: &str) -> Ipv4Addr {
    let hash = name
        .trim_end_matches('.')
        .to_ascii_lowercase()
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let [_, b, c, d] = hash.to_be_bytes();
    Ipv4Addr::new(10, b, c, d)
}

/// How queries of one TCP connection are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// One after another, as CoreDNS does.
    Serial,
    /// Each as it comes, as unbound does.
    Concurrent,
}

/// What a name meets, by how many times it was asked before; `None` leaves it to the rest of the script.
pub type Rule = Box<dyn Fn(&str, usize) -> Option<Behaviour> + Send + Sync>;

/// Whether a TCP connection, by its number from 0, is served at all.
pub type Fate = Box<dyn Fn(usize) -> bool + Send + Sync>;

/// A running upstream.
pub struct Upstream {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    order: Order,
    script: Mutex<Script>,
    served: Mutex<Option<Fate>>,
    /// Changed to close all TCP connections; true for RST.
    cut: watch::Sender<(u64, bool)>,
    accepted: AtomicUsize,
    open: AtomicUsize,
    tcp_queries: AtomicUsize,
    udp_queries: AtomicUsize,
    udp_sources: Mutex<Vec<(u16, u16)>>,
    names: Mutex<HashMap<String, usize>>,
}

#[derive(Default)]
struct Script {
    names: HashMap<String, Vec<Behaviour>>,
    otherwise: Option<Behaviour>,
    rule: Option<Rule>,
}

impl Upstream {
    /// Starts on an ephemeral port of 127.0.0.1.
    pub fn start(order: Order) -> Self {
        Self::start_at(order, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
    }

    /// Starts on this address, for instance that of one that was stopped.
    pub fn start_at(order: Order, address: SocketAddr) -> Self {
        let shared = Arc::new(Shared {
            order,
            script: Mutex::default(),
            served: Mutex::default(),
            cut: watch::Sender::new((0, false)),
            accepted: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            tcp_queries: AtomicUsize::new(0),
            udp_queries: AtomicUsize::new(0),
            udp_sources: Mutex::default(),
            names: Mutex::default(),
        });
        let (stop, stopped) = oneshot::channel();
        let (ready, address_bound) = mpsc::channel();
        let serving = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                let (listener, socket) = bind(address);
                ready.send(listener.local_addr().expect("a bound socket")).expect("the starter waits");
                tokio::spawn(serve_udp(Arc::clone(&serving), socket));
                tokio::spawn(accept(serving, listener));
                let _ = stopped.await;
            });
        });
        let address = address_bound.recv().expect("the upstream binds");
        Self { address, shared, stop: Some(stop), thread: Some(thread) }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What every query for `name` meets from now on.
    pub fn on(&self, name: &str, behaviour: Behaviour) {
        self.on_each(name, [behaviour]);
    }

    /// What the queries for `name` meet one after the other; the last behaviour stays.
    pub fn on_each(&self, name: &str, behaviours: impl IntoIterator<Item = Behaviour>) {
        let mut steps: Vec<Behaviour> = behaviours.into_iter().collect();
        steps.reverse();
        self.shared
            .script
            .lock()
            .unwrap()
            .names
            .insert(name.trim_end_matches('.').to_ascii_lowercase(), steps);
    }

    /// What queries for all other names meet; at first they are answered.
    pub fn otherwise(&self, behaviour: Behaviour) {
        self.shared.script.lock().unwrap().otherwise = Some(behaviour);
    }

    /// What names in lower case without the last dot meet, where it is to be computed; it goes before the others.
    pub fn by_rule(&self, rule: impl Fn(&str, usize) -> Option<Behaviour> + Send + Sync + 'static) {
        self.shared.script.lock().unwrap().rule = Some(Box::new(rule));
    }

    /// Decides for each TCP connection accepted from now on whether it is served; one that is not is read and stays
    /// silent, as one to an endpoint that hangs.
    pub fn serve_connections(&self, fate: impl Fn(usize) -> bool + Send + Sync + 'static) {
        *self.shared.served.lock().unwrap() = Some(Box::new(fate));
    }

    /// Closes every open TCP connection, with RST or FIN.
    pub fn cut(&self, reset: bool) {
        self.shared.cut.send_modify(|(turn, with_reset)| {
            *turn += 1;
            *with_reset = reset;
        });
    }

    /// TCP connections accepted so far.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// TCP connections open now.
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// Queries read over TCP.
    pub fn tcp_queries(&self) -> usize {
        self.shared.tcp_queries.load(Ordering::SeqCst)
    }

    /// Queries read over UDP.
    pub fn udp_queries(&self) -> usize {
        self.shared.udp_queries.load(Ordering::SeqCst)
    }

    /// Queries for all names, over both.
    pub fn asked_in_all(&self) -> usize {
        self.shared.names.lock().unwrap().values().sum()
    }

    /// Source port and id of each query over UDP.
    pub fn udp_sources(&self) -> Vec<(u16, u16)> {
        self.shared.udp_sources.lock().unwrap().clone()
    }

    /// Queries for this name, over both.
    pub fn asked(&self, name: &str) -> usize {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        self.shared.names.lock().unwrap().get(&name).copied().unwrap_or_default()
    }

    /// Stops it; everything is closed when this returns. Its address can be given to another.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the scripted upstream panicked");
        }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn behaviour(&self, query: &Message) -> Behaviour {
        let name = query.queries[0].name().to_ascii().trim_end_matches('.').to_ascii_lowercase();
        let before = {
            let mut names = self.names.lock().unwrap();
            let asked = names.entry(name.clone()).or_default();
            *asked += 1;
            *asked - 1
        };
        let mut script = self.script.lock().unwrap();
        if let Some(behaviour) = script.rule.as_ref().and_then(|rule| rule(&name, before)) {
            return behaviour;
        }
        if let Some(steps) = script.names.get_mut(&name) {
            let step = if steps.len() > 1 { steps.pop() } else { steps.last().cloned() };
            if let Some(step) = step {
                return step;
            }
        }
        script.otherwise.clone().unwrap_or(Behaviour::Answer)
    }
}

/// What is to be written, and what becomes of the connection then.
struct Plan {
    delay: Duration,
    messages: Vec<Vec<u8>>,
    /// Only half of the last message's frame.
    half: bool,
    end: End,
    wrong_source: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Stay,
    Fin,
    Reset,
}

fn plan(behaviour: &Behaviour, query: &Message, udp: bool) -> Plan {
    let mut plan = Plan {
        delay: Duration::ZERO,
        messages: Vec::new(),
        half: false,
        end: End::Stay,
        wrong_source: false,
    };
    let answer = || answer(query, 1);
    match behaviour {
        Behaviour::Answer => plan.messages.push(answer()),
        Behaviour::After(delay) => {
            plan.delay = *delay;
            plan.messages.push(answer());
        }
        Behaviour::Large(count) => plan.messages.push(self::answer(query, *count)),
        Behaviour::Rcode(rcode) => plan.messages.push(with_rcode(query, *rcode)),
        Behaviour::Truncated if !udp => plan.messages.push(answer()),
        Behaviour::Truncated | Behaviour::AlwaysTruncated => plan.messages.push(truncated(query)),
        Behaviour::Silent => {}
        Behaviour::Fin => plan.end = End::Fin,
        Behaviour::Reset => plan.end = End::Reset,
        Behaviour::AnswerThenFin => {
            plan.messages.push(answer());
            plan.end = End::Fin;
        }
        Behaviour::AnswerThenReset => {
            plan.messages.push(answer());
            plan.end = End::Reset;
        }
        Behaviour::HalfFrame => {
            plan.messages.push(answer());
            plan.half = true;
            plan.end = End::Fin;
        }
        Behaviour::HalfFrameThenSilent => {
            plan.messages.push(answer());
            plan.half = true;
        }
        Behaviour::WrongId => plan.messages.push(wrong_id(query)),
        Behaviour::WrongQuestion => plan.messages.push(wrong_question(query)),
        Behaviour::Garbage => plan.messages.push(garbage()),
        Behaviour::LiesThenAnswer => {
            plan.messages.extend([wrong_id(query), wrong_question(query), garbage(), answer()]);
        }
        Behaviour::Thrice => plan.messages.extend([answer(), answer(), answer()]),
        Behaviour::FoldedCase => plan.messages.push(folded(answer())),
        Behaviour::WrongSourceThenAnswer => {
            plan.wrong_source = udp;
            plan.messages.push(answer());
        }
    }
    plan
}

fn reply(query: &Message) -> Message {
    let mut reply = query.clone();
    reply.metadata.message_type = MessageType::Response;
    reply.metadata.recursion_available = true;
    reply
}

fn encode(message: &Message) -> Vec<u8> {
    message.to_vec().expect("hickory encodes what it made")
}

fn answer(query: &Message, count: usize) -> Vec<u8> {
    let mut reply = reply(query);
    let name = query.queries[0].name();
    let first = u32::from(address_of(&name.to_ascii()));
    for number in 0..count {
        let address = Ipv4Addr::from(first.wrapping_add(number as u32));
        reply.add_answer(Record::from_rdata(name.clone(), 30, RData::A(A(address))));
    }
    encode(&reply)
}

fn lie(query: &Message) -> Message {
    let mut reply = reply(query);
    reply.add_answer(Record::from_rdata(query.queries[0].name().clone(), 30, RData::A(A(LIE))));
    reply
}

fn with_rcode(query: &Message, rcode: ResponseCode) -> Vec<u8> {
    let mut reply = reply(query);
    reply.metadata.response_code = rcode;
    encode(&reply)
}

fn truncated(query: &Message) -> Vec<u8> {
    let mut reply = reply(query);
    reply.metadata.truncation = true;
    encode(&reply)
}

fn wrong_id(query: &Message) -> Vec<u8> {
    let mut bytes = encode(&lie(query));
    bytes[0] ^= 0x55;
    bytes
}

fn wrong_question(query: &Message) -> Vec<u8> {
    let mut bytes = encode(&lie(query));
    // The type: always there, also where the name is the root.
    let end = question_end(&bytes);
    bytes[end - 3] ^= 0x10;
    bytes
}

fn garbage() -> Vec<u8> {
    (0..48).map(|_| rand::random()).collect()
}

fn folded(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = question_end(&bytes);
    bytes[12..end - 4].make_ascii_lowercase();
    bytes
}

fn question_end(message: &[u8]) -> usize {
    let mut at = 12;
    while message[at] != 0 {
        at += 1 + usize::from(message[at]);
    }
    at + 5
}

/// TCP and UDP on the same port: an ephemeral one is taken for TCP, and another is tried where UDP has it already.
fn bind(address: SocketAddr) -> (TcpListener, UdpSocket) {
    for _ in 0..100 {
        let listener = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("a socket");
        listener.set_reuse_address(true).expect("SO_REUSEADDR");
        listener.set_nonblocking(true).expect("O_NONBLOCK");
        if listener.bind(&address.into()).is_err() {
            // A port that was just let go may be held by a dying connection for a moment.
            std::thread::sleep(Duration::from_millis(20));
            continue;
        }
        listener.listen(1024).expect("listen");
        let listener = TcpListener::from_std(listener.into()).expect("a listener");
        let bound = listener.local_addr().expect("a bound socket");
        let Ok(socket) = std::net::UdpSocket::bind(bound) else { continue };
        socket.set_nonblocking(true).expect("O_NONBLOCK");
        SockRef::from(&socket).set_recv_buffer_size(4 << 20).expect("SO_RCVBUF");
        return (listener, UdpSocket::from_std(socket).expect("a socket"));
    }
    panic!("no port of {address} is free for TCP and UDP");
}

async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        let number = shared.accepted.fetch_add(1, Ordering::SeqCst);
        let served = shared.served.lock().unwrap().as_ref().is_none_or(|fate| fate(number));
        shared.open.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(serve_tcp(Arc::clone(&shared), stream, served));
    }
}

/// Serves one connection until either side ends it.
async fn serve_tcp(shared: Arc<Shared>, stream: TcpStream, served: bool) {
    let mut cut = shared.cut.subscribe();
    let (end_wanted, mut ends) = tokio::sync::mpsc::unbounded_channel();
    stream.set_nodelay(true).expect("TCP_NODELAY");
    let (mut reader, writer) = stream.into_split();
    let writer = Arc::new(tokio::sync::Mutex::new(writer));
    let end = loop {
        let frame = tokio::select! {
            frame = read_frame(&mut reader) => frame,
            Some(end) = ends.recv() => break end,
            changed = cut.changed() => {
                break if changed.is_ok() && cut.borrow().1 { End::Reset } else { End::Fin };
            }
        };
        let Some(frame) = frame else { break End::Fin };
        shared.tcp_queries.fetch_add(1, Ordering::SeqCst);
        let query = Message::from_vec(&frame).expect("nodens sends well-formed queries");
        let behaviour = shared.behaviour(&query);
        if !served {
            continue;
        }
        let plan = plan(&behaviour, &query, false);
        match shared.order {
            Order::Serial => {
                tokio::select! {
                    end = carry_out(plan, &writer) => if end != End::Stay { break end },
                    changed = cut.changed() => {
                        break if changed.is_ok() && cut.borrow().1 { End::Reset } else { End::Fin };
                    }
                }
            }
            Order::Concurrent => {
                let (writer, end_wanted) = (Arc::clone(&writer), end_wanted.clone());
                tokio::spawn(async move {
                    let end = carry_out(plan, &writer).await;
                    if end != End::Stay {
                        // The connection may be gone already.
                        let _ = end_wanted.send(end);
                    }
                });
            }
        }
    };
    let writer = writer.lock().await;
    if end == End::Reset {
        // SO_LINGER 0: close sends RST.
        SockRef::from(writer.as_ref()).set_linger(Some(Duration::ZERO)).expect("SO_LINGER");
    }
    drop(writer);
    shared.open.fetch_sub(1, Ordering::SeqCst);
}

async fn read_frame(reader: &mut tokio::net::tcp::OwnedReadHalf) -> Option<Vec<u8>> {
    let length = reader.read_u16().await.ok()?;
    let mut frame = vec![0; usize::from(length)];
    reader.read_exact(&mut frame).await.ok()?;
    Some(frame)
}

async fn carry_out(plan: Plan, writer: &tokio::sync::Mutex<OwnedWriteHalf>) -> End {
    tokio::time::sleep(plan.delay).await;
    let mut bytes = Vec::new();
    for (index, message) in plan.messages.iter().enumerate() {
        let start = bytes.len();
        bytes.extend_from_slice(&(message.len() as u16).to_be_bytes());
        bytes.extend_from_slice(message);
        if plan.half && index + 1 == plan.messages.len() {
            bytes.truncate(start + (bytes.len() - start) / 2);
        }
    }
    // The peer may have closed: that is its right.
    let _ = writer.lock().await.write_all(&bytes).await;
    plan.end
}

async fn serve_udp(shared: Arc<Shared>, socket: UdpSocket) {
    let socket = Arc::new(socket);
    let mut buffer = vec![0; 65_535];
    loop {
        // An ICMP error of an earlier reply shows up here; it says nothing about the next query.
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
        shared.udp_queries.fetch_add(1, Ordering::SeqCst);
        let query = Message::from_vec(&buffer[..length]).expect("nodens sends well-formed queries");
        shared.udp_sources.lock().unwrap().push((from.port(), query.metadata.id));
        let plan = plan(&shared.behaviour(&query), &query, true);
        let socket = Arc::clone(&socket);
        tokio::spawn(async move {
            tokio::time::sleep(plan.delay).await;
            if plan.wrong_source {
                let here = socket.local_addr().expect("a bound socket").ip();
                let other = UdpSocket::bind((here, 0)).await.expect("a socket");
                let _ = other.send_to(&encode(&lie(&query)), from).await;
            }
            for message in &plan.messages {
                let end = if plan.half { message.len() / 2 } else { message.len() };
                // The asker may be gone.
                let _ = socket.send_to(&message[..end], from).await;
            }
        });
    }
}
