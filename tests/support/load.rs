//! Clients that run in a namespace, as a process of their own, and tell what became of each of their lookups.
//!
//! The test binary starts itself again inside the namespace: its test `actor` then calls [`play`], which obeys the lines of
//! standard input and answers each with a line that begins with `@`.
//!
//! | order | answer |
//! |---|---|
//! | `fresh ADDRESS UDP TCP` | lookups from fresh ports, hits and misses by turns: how many were answered by each |
//! | `flood ADDRESS RATE KIND` | begins to ask over UDP, `KIND` `hit` or `miss` |
//! | `mark` | lookups of the flood sent so far; those have arrived at the node |
//! | `settle MS` | ends the flood, waits this long for late answers: `sent S answered A marked M gap G` |
//! | `tcp ADDRESS` | begins to ask over one TCP connection after the other |
//! | `tcp-end` | ends it: `answered A closed C unanswered U broken B refused R` |

#![allow(dead_code, reason = "every test file includes this one and uses what it needs")]

use std::io::{self, BufRead as _, Read as _, Write as _, stdin};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::support::client::{A, Query, frame};
use crate::support::netns::{Netns, Process};

/// Clients in a namespace.
#[derive(Debug)]
pub(crate) struct Load(Process);

impl Load {
    /// Starts them; they do nothing yet.
    pub(crate) fn start(namespace: &Netns) -> Self {
        let executable = std::env::current_exe().expect("the test binary has a path");
        let mut command = Command::new(executable);
        command.args(["actor", "--exact", "--ignored", "--nocapture", "--test-threads=1"]);
        let load = Self(namespace.spawn(command.env("NODENS_LOAD", "1")));
        load.0.read_line("@");
        load
    }

    /// Gives an order and returns the answer.
    pub(crate) fn ask(&mut self, order: &str) -> String {
        self.0.write_line(order);
        self.0.read_line("@")
    }

    /// How many lookups from fresh ports were answered, over UDP and over TCP.
    pub(crate) fn fresh(&mut self, address: &str, udp: usize, tcp: usize) -> [usize; 2] {
        numbers(&self.ask(&format!("fresh {address} {udp} {tcp}")))
    }

    /// Ends a flood.
    pub(crate) fn settle(&mut self, patience: Duration) -> Flooded {
        let [sent, answered, marked, gap] = numbers(&self.ask(&format!("settle {}", patience.as_millis())));
        Flooded { sent, answered, marked, gap: Duration::from_millis(gap as u64) }
    }

    /// Ends the TCP client.
    pub(crate) fn tcp_end(&mut self) -> TcpSeen {
        let [answered, closed, unanswered, broken, refused] = numbers(&self.ask("tcp-end"));
        TcpSeen { answered, closed, unanswered, broken, refused }
    }
}

/// What became of a flood.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flooded {
    /// Lookups sent.
    pub(crate) sent: usize,
    /// Of these, answered.
    pub(crate) answered: usize,
    /// Of those before `mark`, answered.
    pub(crate) marked: usize,
    /// The longest time in which nothing was answered.
    pub(crate) gap: Duration,
}

/// What a TCP client saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TcpSeen {
    /// Lookups answered.
    pub(crate) answered: usize,
    /// Connections the server closed between two messages.
    pub(crate) closed: usize,
    /// Lookups that were on their way when it did, and were asked again.
    pub(crate) unanswered: usize,
    /// Resets, and closes within a message.
    pub(crate) broken: usize,
    /// Connections that did not come about.
    pub(crate) refused: usize,
}

fn numbers<const COUNT: usize>(text: &str) -> [usize; COUNT] {
    let numbers: Vec<usize> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    numbers.try_into().unwrap_or_else(|_| panic!("not {COUNT} numbers: {text}"))
}

/// Obeys, if this process was started for it.
pub(crate) fn play() {
    if std::env::var_os("NODENS_LOAD").is_none() {
        return;
    }
    answer("ok");
    let mut flood: Option<Flood> = None;
    let mut marked = 0;
    let mut tcp: Option<(Arc<AtomicBool>, JoinHandle<TcpSeen>)> = None;
    for order in stdin().lock().lines().map_while(Result::ok) {
        let words: Vec<_> = order.split_whitespace().collect();
        match *words.as_slice() {
            ["fresh", address, udp, over_tcp] => {
                let (address, number) = (address.parse().unwrap(), |word: &str| word.parse().unwrap());
                let udp = (0..number(udp)).filter(|_| fresh_udp(address).is_some()).count();
                let tcp = (0..number(over_tcp)).filter(|_| fresh_tcp(address).is_ok()).count();
                answer(&format!("{udp} {tcp}"));
            }
            ["flood", address, rate, kind] => {
                let kind = kind.to_owned();
                flood = Some(Flood::start(address.parse().unwrap(), rate.parse().unwrap(), kind));
                answer("ok");
            }
            ["mark"] => {
                marked = flood.as_ref().expect("a flood is on").sent.load(Ordering::SeqCst);
                answer(&marked.to_string());
            }
            ["settle", patience] => {
                let patience = Duration::from_millis(patience.parse().unwrap());
                let answered = flood.take().expect("a flood is on").settle(patience);
                let in_time: Vec<_> = answered.iter().flatten().copied().collect();
                let of_marked = answered[..marked.min(answered.len())].iter().flatten().count();
                let mut order = in_time.clone();
                order.sort();
                let gap = order.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default();
                let (sent, count) = (answered.len(), in_time.len());
                answer(&format!("sent {sent} answered {count} marked {of_marked} gap {}", gap.as_millis()));
            }
            ["tcp", address] => {
                let (address, stop) = (address.parse().unwrap(), Arc::new(AtomicBool::new(false)));
                let stopping = Arc::clone(&stop);
                tcp = Some((stop, thread::spawn(move || ask_by_tcp(address, &stopping))));
                answer("ok");
            }
            ["tcp-end"] => {
                let (stop, client) = tcp.take().expect("the client runs");
                stop.store(true, Ordering::SeqCst);
                let TcpSeen { answered, closed, unanswered, broken, refused } = client.join().unwrap();
                answer(&format!(
                    "answered {answered} closed {closed} unanswered {unanswered} broken {broken} refused {refused}"
                ));
            }
            _ => panic!("no such order: {order}"),
        }
    }
}

fn answer(text: &str) {
    // libtest has begun a line of its own by now.
    println!("\n@{text}");
}

/// The next lookup, no two of which are the same but for hits.
fn query(kind: &str) -> Query {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let unique = format!("{}-{number}", std::process::id());
    let name = match kind {
        "hit" => format!("hit{}.yes.load.example.org", number % 100),
        "miss" if number.is_multiple_of(2) => format!("{unique}.yes.load.example.org"),
        "miss" => format!("{unique}.no.load.example.org"),
        other => panic!("no such kind: {other}"),
    };
    Query::new(&name, A)
}

/// By turns a hit and a miss.
fn mixed() -> Query {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    query(["hit", "miss"][NEXT.fetch_add(1, Ordering::Relaxed) % 2])
}

const PATIENCE: Duration = Duration::from_secs(2);

fn socket(server: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = if server.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(server)?;
    Ok(socket)
}

fn fresh_udp(server: SocketAddr) -> Option<()> {
    let (socket, query) = (socket(server).ok()?, mixed());
    socket.set_read_timeout(Some(PATIENCE)).ok()?;
    socket.send(&query.bytes()).ok()?;
    let mut reply = [0; 512];
    let length = socket.recv(&mut reply).ok()?;
    is_answer(&reply[..length], query.id).then_some(())
}

/// Same id, a response, and NOERROR or NXDOMAIN: the upstream has said so.
fn is_answer(reply: &[u8], id: u16) -> bool {
    reply.len() >= 12
        && reply[..2] == id.to_be_bytes()
        && reply[2] & 0x80 != 0
        && matches!(reply[3] & 15, 0 | 3)
}

fn fresh_tcp(server: SocketAddr) -> io::Result<()> {
    let mut stream = connect(server)?;
    let answered = exchange(&mut stream, &mixed())?;
    if answered { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

fn connect(server: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&server, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Asks and reads the answer; false where the server has closed instead, between two messages.
fn exchange(stream: &mut TcpStream, query: &Query) -> io::Result<bool> {
    // If it is closed already, reading says how.
    let _ = stream.write_all(&frame(&query.bytes()));
    let mut length = [0; 2];
    if stream.read(&mut length[..1])? == 0 {
        return Ok(false);
    }
    stream.read_exact(&mut length[1..])?;
    let mut reply = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut reply)?;
    if is_answer(&reply, query.id) { Ok(true) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// Asks one question after the other over a connection; a new one where the server closes it.
fn ask_by_tcp(server: SocketAddr, stopping: &AtomicBool) -> TcpSeen {
    const PAUSE: Duration = Duration::from_millis(2);
    let mut seen = TcpSeen { answered: 0, closed: 0, unanswered: 0, broken: 0, refused: 0 };
    while !stopping.load(Ordering::SeqCst) {
        let Ok(mut stream) = connect(server) else {
            seen.refused += 1;
            thread::sleep(PAUSE);
            continue;
        };
        loop {
            if stopping.load(Ordering::SeqCst) {
                break;
            }
            if has_ended(&stream) {
                seen.closed += 1;
                break;
            }
            match exchange(&mut stream, &mixed()) {
                Ok(true) => seen.answered += 1,
                Ok(false) => {
                    seen.closed += 1;
                    seen.unanswered += 1;
                    break;
                }
                Err(_) => {
                    seen.broken += 1;
                    break;
                }
            }
            thread::sleep(PAUSE);
        }
    }
    seen
}

/// Whether the server has closed in good order, and sent nothing unasked.
fn has_ended(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let ended = matches!(stream.peek(&mut [0]), Ok(0));
    stream.set_nonblocking(false).unwrap();
    ended
}

struct Flood {
    sent: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Option<Instant>>>,
    settle: Arc<AtomicUsize>,
}

impl Flood {
    fn start(server: SocketAddr, rate: usize, kind: String) -> Self {
        let (sent, stop, settle): (Arc<AtomicUsize>, Arc<AtomicBool>, Arc<AtomicUsize>) = Default::default();
        let (count, stopping, patience) = (Arc::clone(&sent), Arc::clone(&stop), Arc::clone(&settle));
        let thread = thread::spawn(move || flood(server, rate, &kind, &count, &stopping, &patience));
        Self { sent, stop, thread, settle }
    }

    /// When each lookup was answered.
    fn settle(self, patience: Duration) -> Vec<Option<Instant>> {
        self.settle.store(patience.as_millis() as usize, Ordering::SeqCst);
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}

/// Sends evenly, from 64 ports, and takes answers as they come.
fn flood(
    server: SocketAddr,
    rate: usize,
    kind: &str,
    sent: &AtomicUsize,
    stopping: &AtomicBool,
    patience: &AtomicUsize,
) -> Vec<Option<Instant>> {
    const PORTS: usize = 64;
    let sockets: Vec<_> = (0..PORTS).map(|_| socket(server).expect("there is a route")).collect();
    for socket in &sockets {
        socket.set_nonblocking(true).unwrap();
    }
    let (mut answered, mut deadline, start) = (Vec::new(), None, Instant::now());
    // The lookup that an id stands for at its port, from 1: 65,536 lookups of a port are more than any test asks.
    let mut of_id = vec![vec![0_u32; 1 << 16]; PORTS];
    let mut buffer = [0; 4096];
    loop {
        let now = Instant::now();
        if stopping.load(Ordering::SeqCst) {
            let limit = Duration::from_millis(patience.load(Ordering::SeqCst) as u64);
            if now >= *deadline.get_or_insert(now + limit) || answered.iter().all(Option::is_some) {
                return answered;
            }
        } else {
            let due = (now.duration_since(start).as_secs_f64() * rate as f64) as usize;
            while answered.len() < due {
                let (number, port) = (answered.len(), answered.len() % PORTS);
                let mut query = query(kind);
                query.id = (number / PORTS) as u16;
                answered.push(None);
                of_id[port][usize::from(query.id)] = number as u32 + 1;
                // One that does not leave, for want of a route, is one not answered.
                let _ = sockets[port].send(&query.bytes());
                sent.store(answered.len(), Ordering::SeqCst);
            }
        }
        for (port, socket) in sockets.iter().enumerate() {
            while let Ok(length) = socket.recv(&mut buffer) {
                let id = u16::from_be_bytes([buffer[0], buffer[1]]);
                let number = of_id[port][usize::from(id)];
                if number > 0 && is_answer(&buffer[..length], id) {
                    answered[number as usize - 1].get_or_insert_with(Instant::now);
                }
            }
        }
        thread::sleep(Duration::from_micros(500));
    }
}
