//! Clients that ask by the rule and judge every answer: some thousand queries a second over UDP from ports that come and go,
//! and pipelines over TCP. What was cut short over UDP is asked again over TCP, as a resolver does.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use socket2::SockRef;

use super::rule::{self, KNOWN, Kind, Question, Verdict};
use crate::support::client::{A, AAAA, Tcp, frame};

/// Longest wait for an answer: glibc's.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// Ports that are in use at once.
const PORTS: usize = 64;

/// Pipelines over TCP, and the pause of each behind a batch.
const PIPELINES: u64 = 2;
const PIPELINE_PAUSE: Duration = Duration::from_millis(30);

/// What the clients saw, and when.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) udp: AtomicU64,
    pub(crate) tcp: AtomicU64,
    pub(crate) right: AtomicU64,
    /// Answers over UDP that were cut short, and were asked for again over TCP.
    pub(crate) truncated: AtomicU64,
    /// Queries on TCP connections that the server closed first; asked again on the next (RFC 7766 §6.2.4).
    pub(crate) asked_again: AtomicU64,
    pub(crate) wrong: Mutex<Vec<String>>,
    pub(crate) lost: Mutex<Vec<Lost>>,
}

/// A query without an answer.
#[derive(Debug, Clone)]
pub(crate) struct Lost {
    pub(crate) asked: Instant,
    pub(crate) ended: Instant,
    pub(crate) reason: String,
    pub(crate) question: String,
}

/// Clients at work; they end when this is told to.
pub(crate) struct Load {
    pub(crate) seen: Arc<Seen>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Begins to ask `server` so many times a second over UDP.
    pub(crate) fn start(server: SocketAddr, rate: u32, seed: u64) -> Self {
        let (seen, stop, unique): (Arc<Seen>, Arc<AtomicBool>, Arc<AtomicU32>) = Default::default();
        unique.store(KNOWN, Ordering::SeqCst);
        let (cut_short, to_ask) = mpsc::channel();
        let mut threads = Vec::new();
        let client = |number: u64| Client {
            server,
            mix: Mix { random: StdRng::seed_from_u64(seed ^ number << 32), unique: Arc::clone(&unique) },
            seen: Arc::clone(&seen),
            stop: Arc::clone(&stop),
        };
        for number in 0..PIPELINES {
            let client = client(number + 1);
            threads.push(thread::spawn(move || client.pipelines()));
        }
        let (udp, follow) = (client(0), client(PIPELINES + 1));
        threads.push(thread::spawn(move || udp.datagrams(rate, &cut_short)));
        threads.push(thread::spawn(move || follow.follow(&to_ask)));
        Self { seen, stop, threads }
    }

    /// Ends the load, once all that was asked is answered or given up.
    pub(crate) fn finish(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            thread.join().expect("a client does not panic");
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

impl Seen {
    fn judge(&self, question: &Question, bytes: &[u8], over_udp: bool, asked: Instant) -> bool {
        match rule::check(question, bytes, over_udp) {
            Verdict::Right => {
                self.right.fetch_add(1, Ordering::Relaxed);
            }
            Verdict::Truncated => {
                self.truncated.fetch_add(1, Ordering::Relaxed);
                return true;
            }
            Verdict::Failed(rcode) => self.lose(question, &rcode.to_string(), over_udp, asked),
            Verdict::Wrong(what) => {
                let mut wrong = self.wrong.lock().unwrap();
                eprintln!("WRONG: {what}");
                wrong.push(what);
            }
        }
        false
    }

    fn lose(&self, question: &Question, reason: &str, over_udp: bool, asked: Instant) {
        let transport = if over_udp { "UDP" } else { "TCP" };
        let class = if question.is_known() { "known" } else { "new" };
        let what = format!("{transport}, {class} {:?}: {reason}", question.kind);
        let question = format!("{:?} {} {}", question.kind, question.number, question.query.qtype);
        let lost = Lost { asked, ended: Instant::now(), reason: what, question };
        self.lost.lock().unwrap().push(lost);
    }

    /// The counts, for the report.
    pub(crate) fn counts(&self) -> Value {
        let count = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
        let mut lost = BTreeMap::new();
        for one in self.lost.lock().unwrap().iter() {
            *lost.entry(one.reason.clone()).or_insert(0) += 1;
        }
        json!({
            "asked_over_udp": count(&self.udp), "asked_over_tcp": count(&self.tcp), "right": count(&self.right),
            "truncated_and_asked_over_tcp": count(&self.truncated),
            "asked_again_on_another_connection": count(&self.asked_again),
            "wrong": self.wrong.lock().unwrap().len(), "lost": lost,
        })
    }
}

/// Draws questions.
struct Mix {
    random: StdRng,
    unique: Arc<AtomicU32>,
}

impl Mix {
    fn question(&mut self, over_udp: bool) -> Question {
        let random = &mut self.random;
        let (kind, is_known) = match random.random_range(0..100) {
            0..55 => (Kind::Plain, true),
            55..65 => (Kind::Alias, true),
            65..73 => (Kind::NxDomain, true),
            73..78 => (Kind::NoData, true),
            78..80 => (Kind::Large, true),
            80..90 => (Kind::Plain, false),
            90..92 => (Kind::Alias, false),
            92..99 => (Kind::NxDomain, false),
            _ => (Kind::NoData, false),
        };
        let number = if is_known {
            // Few names are asked often.
            let share: f64 = random.random();
            (share.powi(3) * f64::from(KNOWN)) as u32
        } else {
            self.unique.fetch_add(1, Ordering::Relaxed)
        };
        let qtype = if random.random_bool(0.4) { AAAA } else { A };
        let payload = match random.random_range(0..3) {
            0 => None,
            1 => Some(1232),
            _ if over_udp => Some(4096),
            _ => Some(512),
        };
        Question::new(kind, number, qtype, random.random_bool(0.2), payload)
    }
}

struct Client {
    server: SocketAddr,
    mix: Mix,
    seen: Arc<Seen>,
    stop: Arc<AtomicBool>,
}

impl Client {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Asks over UDP at a rate, and hands on what comes back truncated.
    fn datagrams(mut self, rate: u32, cut_short: &mpsc::Sender<Question>) {
        let mut ports: Vec<_> = (0..PORTS).map(|number| self.port(number)).collect();
        let mut asked: HashMap<(usize, u16), (Question, Instant)> = HashMap::new();
        let mut order: VecDeque<(Instant, usize, u16)> = VecDeque::new();
        let mut open = [0_usize; PORTS];
        let (mut turn, mut buffer, mut due, mut last) = (0_usize, vec![0; 65_535], 0.0, Instant::now());
        while !self.stopped() || !asked.is_empty() {
            let now = Instant::now();
            if self.stopped() {
                due = 0.0;
            } else {
                // No more than a tenth of a second is made up for: a machine that stood still is no burst.
                due = f64::min(due + (now - last).as_secs_f64() * f64::from(rate), f64::from(rate) / 10.0);
            }
            last = now;
            while due >= 1.0 {
                due -= 1.0;
                turn += 1;
                let port = turn % PORTS;
                if turn.is_multiple_of(PORTS * 8 + 1) && open[port] == 0 {
                    ports[port] = self.port(port);
                }
                let mut question = self.mix.question(true);
                let id = (turn / PORTS) as u16;
                question.query.id = id;
                if asked.contains_key(&(port, id)) {
                    continue;
                }
                self.seen.udp.fetch_add(1, Ordering::Relaxed);
                // One that does not leave is one without an answer.
                let _ = ports[port].send(&question.query.bytes());
                asked.insert((port, id), (question, now));
                order.push_back((now, port, id));
                open[port] += 1;
            }
            for (port, socket) in ports.iter().enumerate() {
                while let Ok(length) = socket.recv(&mut buffer) {
                    let id = u16::from_be_bytes([buffer[0], buffer[1]]);
                    // One that was given up may still come.
                    let Some((question, at)) = asked.remove(&(port, id)) else { continue };
                    open[port] -= 1;
                    if self.seen.judge(&question, &buffer[..length], true, at) {
                        cut_short.send(question).expect("the follower outlives us");
                    }
                }
            }
            while let Some(&(at, port, id)) = order.front()
                && now.saturating_duration_since(at) > PATIENCE
            {
                order.pop_front();
                if asked.get(&(port, id)).is_some_and(|(_, asked_at)| *asked_at == at) {
                    let (question, at) = asked.remove(&(port, id)).expect("it is there");
                    open[port] -= 1;
                    self.seen.lose(&question, "no answer in 5 s", true, at);
                }
            }
            thread::sleep(Duration::from_micros(500));
        }
    }

    /// A port of a client's own, of one of eight pods.
    fn port(&self, number: usize) -> UdpSocket {
        let source = Ipv4Addr::new(127, 77, 0, 1 + (number % 8) as u8);
        let socket = UdpSocket::bind((source, 0)).expect("loopback has free ports");
        SockRef::from(&socket).set_recv_buffer_size(1 << 20).expect("SO_RCVBUF");
        socket.set_nonblocking(true).expect("O_NONBLOCK");
        socket.connect(self.server).expect("loopback has a route");
        socket
    }

    /// Asks over TCP what came back truncated, a connection for each, as a resolver does.
    fn follow(mut self, cut_short: &mpsc::Receiver<Question>) {
        // It ends when the sender does.
        for question in cut_short {
            self.batch(&mut None, vec![question]);
        }
    }

    /// Asks batches of one to twenty over connections that last some batches.
    fn pipelines(mut self) {
        let mut connection = None;
        while !self.stopped() {
            if self.mix.random.random_ratio(1, 50) {
                connection = None;
            }
            let count = self.mix.random.random_range(1..=20);
            let batch = (0..count)
                .map(|id| {
                    let mut question = self.mix.question(false);
                    question.query.id = id;
                    question
                })
                .collect();
            self.batch(&mut connection, batch);
            thread::sleep(PIPELINE_PAUSE);
        }
    }

    /// Asks these at once; those on a connection that is closed first are asked once more on the next.
    fn batch(&mut self, connection: &mut Option<Tcp>, mut batch: Vec<Question>) {
        let asked = Instant::now();
        self.seen.tcp.fetch_add(batch.len() as u64, Ordering::Relaxed);
        for attempt in 1..=2 {
            let mut unanswered = Vec::new();
            match self.exchange(connection, batch, &mut unanswered, asked) {
                Ok(()) => return,
                Err(error) => {
                    *connection = None;
                    batch = unanswered;
                    let closed = matches!(
                        error.kind(),
                        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof
                    );
                    if closed && attempt == 1 {
                        self.seen.asked_again.fetch_add(batch.len() as u64, Ordering::Relaxed);
                        continue;
                    }
                    let reason = match error.kind() {
                        ErrorKind::WouldBlock | ErrorKind::TimedOut => "no answer in time".to_owned(),
                        kind => kind.to_string(),
                    };
                    for question in &batch {
                        self.seen.lose(question, &reason, false, asked);
                    }
                    return;
                }
            }
        }
    }

    /// Sends and reads; what is not answered is left in `unanswered`.
    fn exchange(
        &mut self,
        connection: &mut Option<Tcp>,
        batch: Vec<Question>,
        unanswered: &mut Vec<Question>,
        asked: Instant,
    ) -> io::Result<()> {
        *unanswered = batch;
        let connection = match connection {
            Some(connection) => connection,
            None => connection.insert(Tcp::try_connect(self.server)?),
        };
        let bytes: Vec<u8> = unanswered.iter().flat_map(|question| frame(&question.query.bytes())).collect();
        connection.write(&bytes)?;
        while !unanswered.is_empty() {
            let reply = connection.try_receive()?.ok_or(ErrorKind::UnexpectedEof)?;
            let id = u16::from_be_bytes([reply[0], reply[1]]);
            match unanswered.iter().position(|question| question.query.id == id) {
                Some(at) => {
                    let question = unanswered.swap_remove(at);
                    self.seen.judge(&question, &reply, false, asked);
                }
                None => self
                    .seen
                    .wrong
                    .lock()
                    .unwrap()
                    .push(format!("over TCP, an id that nobody asked: {reply:02x?}")),
            }
        }
        Ok(())
    }
}
