//! The TCP listener (RFC 7766, RFC 9210): pipelined, answers in any order, bounded in every direction.
//!
//! One thread with an async runtime of its own accepts and serves. A connection is one task: it answers all hits of what
//! it has read in one write, hands misses to the resolver, and writes their answers as they come, those that are ready
//! together in one write. An idle connection holds next to no buffer, and all of them together no more than [`super::kept`] allows.

mod connections;

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

pub use connections::Connections;

use super::client::{Client, TcpWay, Way};
use super::kept::{Kept, Part};
use crate::cache::key::Seed;
use crate::cache::{Key, Store};
use crate::config::ListenTcp;
use crate::observe::query_log;
use crate::observe::{
    DropReason, Kind, Outcome, Proto, QueryLogger, SharedTally, ShedReason, Source, ZoneId,
};
use crate::resolver::admission::{self, Admission, Channel};
use crate::resolver::job::{Job, Jobs, Miss};
use crate::sys::clock;
use crate::wire::MAX_MESSAGE;
use crate::wire::query::{Ignored, Query, Rejection};
use crate::wire::reply::{self, Asked, Parts, Transport, Ttls};
use crate::wire::rotation::Addresses;
use connections::Permit;

/// Queries of one connection that may wait for an answer; past it the connection is not read (RFC 7766 §6.2.1.1 leaves
/// the number open). It is also what [`TcpWay`]'s channel holds.
const MAX_IN_FLIGHT: usize = 256;

/// Bytes taken from a connection at once.
const READ_ROOM: usize = 64 * 1024;

/// Replies collected before they are written, in bytes, even if more queries have been read.
const WRITE_ROOM: usize = 64 * 1024;

/// Bytes of write buffer an idle connection may hold.
const IDLE_ROOM: usize = 2048;

/// How long a connection on which nothing is asked stays open once we leave: long enough for a query that is on its way.
const LEAVING_IDLE: Duration = Duration::from_millis(100);

/// What the listeners of one thread share.
pub struct Shared {
    /// The store.
    pub store: Arc<Store>,
    /// The way to the resolver.
    pub jobs: Jobs,
    /// `listen.tcp`.
    pub limits: ListenTcp,
    /// `cache.rotate`.
    pub rotate: bool,
    /// Whose turn it is among the addresses of an answer.
    pub turns: Turns,
    /// The open connections.
    pub connections: Rc<Connections>,
    /// Turns true once, when connections are to end: the listeners are closed by then, so a client that connects again
    /// reaches whoever comes after us.
    pub leaving: watch::Receiver<bool>,
    /// The query log.
    pub logger: RefCell<QueryLogger>,
    /// What is kept for clients that read slowly.
    pub kept: Kept,
    /// Fairness between clients before the channel.
    pub admission: RefCell<Admission>,
}

/// Counts the answers to a question, so that its clients get each order of addresses in turn. Questions that share a place
/// share a count.
#[derive(Debug)]
pub struct Turns([std::cell::Cell<u16>; Self::PLACES]);

impl Turns {
    const PLACES: usize = 256;

    fn next(&self, hash: u64) -> usize {
        let place = &self.0[hash as usize % Self::PLACES];
        place.replace(place.get().wrapping_add(1)).into()
    }
}

impl Default for Turns {
    fn default() -> Self {
        Self([const { std::cell::Cell::new(0) }; Self::PLACES])
    }
}

/// Accepts connections until draining begins, then those already queued, and closes the listener. Connections go on as
/// local tasks.
pub async fn accept(
    listener: TcpListener,
    shared: Rc<Shared>,
    tally: SharedTally,
    mut draining: watch::Receiver<bool>,
) {
    /// After running out of descriptors or memory: others close theirs meanwhile.
    const PAUSE: Duration = Duration::from_millis(50);
    loop {
        let accepted = tokio::select! {
            biased;
            accepted = listener.accept() => accepted,
            _ = draining.wait_for(|&draining| draining) => return admit_queued(listener, &shared, &tally),
        };
        match accepted {
            Ok((stream, peer)) => admit(stream, peer, &shared, &tally),
            Err(error) if is_transient(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "accepting a TCP connection");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Admits what the kernel has queued. The listener is asked itself: a connection that came after tokio last looked is unknown to
/// it, and would be reset.
fn admit_queued(listener: TcpListener, shared: &Rc<Shared>, tally: &SharedTally) {
    let Ok(listener) = listener.into_std() else { return };
    loop {
        match listener.accept() {
            Ok((stream, peer)) => {
                let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
                match stream {
                    Ok(stream) => admit(stream, peer, shared, tally),
                    Err(error) => tracing::warn!(%error, "taking over a TCP connection"),
                }
            }
            Err(error) if is_transient(&error) => {}
            // Nothing is left, or nothing more can be had.
            Err(_) => return,
        }
    }
}

/// Errors of accept(2) that belong to the connection, not to the listener.
fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

fn admit(stream: TcpStream, peer: SocketAddr, shared: &Rc<Shared>, tally: &SharedTally) {
    let permit = match shared.connections.admit(peer.ip().to_canonical(), &shared.limits) {
        Ok(permit) => permit,
        Err(reason) => return tally.shed(reason),
    };
    let (replies, waiting) = mpsc::channel(MAX_IN_FLIGHT);
    let connection = Connection {
        stream,
        peer,
        shared: Rc::clone(shared),
        tally: tally.clone(),
        seed: Seed::of_process(),
        unread: Vec::new(),
        in_flight: 0,
        replies,
        part: shared.kept.part(),
        _permit: permit,
    };
    tokio::task::spawn_local(connection.serve(waiting));
}

struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    shared: Rc<Shared>,
    tally: SharedTally,
    seed: Seed,
    /// Bytes of queries not yet taken up: a part of one, or those past the limit in flight.
    unread: Vec<u8>,
    in_flight: usize,
    replies: mpsc::Sender<Vec<u8>>,
    /// What is kept in `unread`, and of answers that could not be written at once.
    part: Part,
    _permit: Permit,
}

/// Lets the thread's other tasks run. Reading and writing what is ready takes nothing of tokio's budget for a task: a client that
/// always has another query, and always reads, would have the thread to itself.
#[derive(Default)]
struct Passes {
    done: u32,
}

impl Passes {
    /// One read or write is done.
    async fn one_more(&mut self) {
        /// Some milliseconds at most, and a small part of a system call each.
        const TURN: u32 = 16;
        self.done += 1;
        if self.done.is_multiple_of(TURN) {
            tokio::task::yield_now().await;
        }
    }
}

/// Why a connection ends.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// The client is done, idle for too long, or we drain.
    Done,
    /// The client broke the protocol, reads too slowly, or is gone.
    Broken,
}

impl Connection {
    async fn serve(mut self, mut waiting: mpsc::Receiver<Vec<u8>>) {
        let end = self.exchange(&mut waiting).await;
        waiting.close();
        while let Ok(reply) = waiting.try_recv() {
            self.shared.kept.give_back(reply.len());
        }
        if end == End::Done {
            // FIN behind the last answer; what goes wrong now is the client's own.
            let _ = self.stream.shutdown().await;
        } else {
            for _ in 0..self.in_flight {
                self.tally.dropped(DropReason::Gone);
            }
        }
    }

    async fn exchange(&mut self, waiting: &mut mpsc::Receiver<Vec<u8>>) -> End {
        let idle_timeout = self.shared.limits.idle_timeout.0;
        let idle = tokio::time::sleep(idle_timeout);
        tokio::pin!(idle);
        let mut leave = self.shared.leaving.clone();
        let mut leaving = false;
        let mut open = true;
        let mut out = Vec::new();
        let mut passes = Passes::default();
        loop {
            let may_read = open && self.in_flight < MAX_IN_FLIGHT;
            if !open && self.in_flight == 0 {
                return End::Done;
            }
            tokio::select! {
                biased;
                Some(reply) = waiting.recv(), if self.in_flight > 0 => {
                    self.push_waited(&reply, &mut out);
                    while out.len() < WRITE_ROOM && let Ok(reply) = waiting.try_recv() {
                        self.push_waited(&reply, &mut out);
                    }
                    // Room for more queries in flight: those already read come first.
                    if self.take_up(&mut out, &[]).is_err() {
                        return End::Broken;
                    }
                }
                ready = self.stream.readable(), if may_read => {
                    if ready.is_err() {
                        return End::Broken;
                    }
                    match self.read(&mut out) {
                        Ok(0) => open = false,
                        Ok(_) => {}
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                        Err(_) => return End::Broken,
                    }
                }
                () = &mut idle, if self.in_flight == 0 => return End::Done,
                _ = leave.wait_for(|&leave| leave), if !leaving => {
                    leaving = true;
                    idle.as_mut().reset(Instant::now() + LEAVING_IDLE.min(idle_timeout));
                }
            }
            passes.one_more().await;
            while !out.is_empty() {
                // A query was answered: the connection is not idle. One that is never complete does not count.
                idle.as_mut().reset(Instant::now() + if leaving { LEAVING_IDLE } else { idle_timeout });
                if self.write(&out, idle_timeout).await.is_err() {
                    return End::Broken;
                }
                passes.one_more().await;
                out.clear();
                if out.capacity() > IDLE_ROOM {
                    out = Vec::new();
                }
                // What a full write buffer left behind.
                if self.take_up(&mut out, &[]).is_err() {
                    return End::Broken;
                }
                // Behind an answer is the moment to leave that is least likely to cross a query.
                if leaving && open && self.in_flight == 0 && out.is_empty() {
                    match self.read(&mut out) {
                        Ok(0) => open = false,
                        Ok(_) => {}
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return End::Done,
                        Err(_) => return End::Broken,
                    }
                }
            }
        }
    }

    /// Writes all of `out`. Fails where the client does not read it within `patience`, or where what is kept for clients like
    /// it has reached its bound: such a client is slow, gone, or hostile.
    async fn write(&mut self, out: &[u8], patience: Duration) -> io::Result<()> {
        let written = match self.stream.try_write(out) {
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        if written == out.len() {
            return Ok(());
        }
        self.keep(self.unread.len() + out.len())?;
        tokio::time::timeout(patience, self.stream.write_all(&out[written..])).await??;
        self.keep(self.unread.len())
    }

    fn keep(&mut self, bytes: usize) -> io::Result<()> {
        if self.part.set(bytes) { Ok(()) } else { Err(io::ErrorKind::OutOfMemory.into()) }
    }

    /// The idle timeout that is told to clients: none once we leave, which asks them to close (RFC 7828 §3.4).
    fn told_idle_timeout(&self) -> Duration {
        if *self.shared.leaving.borrow() { Duration::ZERO } else { self.shared.limits.idle_timeout.0 }
    }

    /// Takes what has arrived and answers it into `out`; 0 at the end of the stream.
    fn read(&mut self, out: &mut Vec<u8>) -> io::Result<usize> {
        thread_local! {
            /// One room for all connections of the thread: what is read is taken up, or copied away, at once.
            static ROOM: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_ROOM].into_boxed_slice());
        }
        ROOM.with_borrow_mut(|room| {
            let count = self.stream.try_read(room)?;
            self.take_up(out, &room[..count])?;
            Ok(count)
        })
    }

    /// Takes up the queries in what was left unread and in `arrived`; what is incomplete, or past the limit in flight, is
    /// left unread.
    fn take_up(&mut self, out: &mut Vec<u8>, arrived: &[u8]) -> io::Result<()> {
        let mut unread = std::mem::take(&mut self.unread);
        if unread.is_empty() {
            let taken = self.take_up_frames(arrived, out)?;
            unread.extend_from_slice(&arrived[taken..]);
        } else {
            unread.extend_from_slice(arrived);
            let taken = self.take_up_frames(&unread, out)?;
            unread.drain(..taken);
        }
        if unread.is_empty() {
            unread = Vec::new();
        }
        // At most one room and one frame: reading stops while a complete frame is left.
        debug_assert!(unread.len() <= READ_ROOM + 2 + MAX_MESSAGE);
        self.unread = unread;
        self.keep(self.unread.len())
    }

    /// How many bytes of whole frames were taken up.
    fn take_up_frames(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<usize> {
        let mut at = 0;
        while self.in_flight < MAX_IN_FLIGHT && out.len() < WRITE_ROOM {
            let Some(&length) = bytes[at..].first_chunk() else { break };
            let end = at + 2 + usize::from(u16::from_be_bytes(length));
            let Some(message) = bytes.get(at + 2..end) else { break };
            self.answer(message, out)?;
            at = end;
        }
        Ok(at)
    }

    /// Answers one query into `out`, or hands it to the resolver.
    fn answer(&mut self, message: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        let query = match Query::parse(message) {
            Ok(query) => query,
            Err(Rejection::Ignore(ignored)) => {
                self.tally.dropped(match ignored {
                    Ignored::Short => DropReason::Malformed,
                    Ignored::Response => DropReason::Response,
                });
                // Nothing that could be answered will follow from such a client.
                return Err(io::ErrorKind::InvalidData.into());
            }
            Err(Rejection::Answer { rcode, head_len, edns }) => {
                let transport = Transport::Tcp { idle_timeout: self.told_idle_timeout() };
                let len =
                    push_empty(&Asked { head: &message[..head_len], edns, transport }, rcode, None, out);
                self.tally.query(ZoneId::OTHER, 0, message.len(), false);
                let outcome = Outcome::new(Source::Failure, rcode, Kind::Failure);
                self.tally.response(ZoneId::OTHER, outcome, len, 0);
                return Ok(());
            }
        };
        let now = clock::now();
        let key = Key::of(&query, self.seed);
        let transport = Transport::Tcp { idle_timeout: self.told_idle_timeout() };
        let found = self.shared.store.find(&key, now);
        if let Ok(entry) = &found {
            entry.add_hits(1);
            if entry.wants_prefetch(now) && self.shared.jobs.try_send(Job::Prefetch(entry.clone())).is_err() {
                entry.release_prefetch();
            }
            let zone = ZoneId::from_index(usize::from(entry.zone())).unwrap_or(ZoneId::OTHER);
            let parts = entry.parts();
            let asked = Asked::of(&query, transport);
            let turn = (self.shared.rotate && entry.kind() == Kind::Positive)
                .then(|| Addresses::of(parts.body, parts.counts[0]))
                .flatten()
                .map(|addresses| (addresses, self.shared.turns.next(key.hash())));
            let ttls = Ttls::Aged(entry.age(now));
            let len = framed(out, |out| {
                reply::push_turned_reply(out, &asked, &parts, ttls, entry.extended_error(), turn);
            });
            self.tally.query(zone, query.qtype(), message.len(), query.dnssec_ok());
            let outcome = Outcome::new(Source::Store, parts.rcode, entry.kind());
            self.tally.response(zone, outcome, len, 0);
            let mut logger = self.shared.logger.borrow_mut();
            if logger.wants() {
                logger.log(&query_log::Entry {
                    at: SystemTime::now(),
                    client: self.peer,
                    proto: Proto::Tcp,
                    name: query.name(),
                    qtype: query.qtype(),
                    qclass: query.qclass(),
                    outcome,
                    upstream: None,
                    micros: 0,
                    size: len as u32,
                });
            }
            return Ok(());
        }
        let channel = Channel::of(&self.shared.jobs);
        if !self.shared.admission.borrow_mut().admit(self.peer.ip(), channel, now) {
            self.shed(&query, ShedReason::ClientShare, out);
            return Ok(());
        }
        let way = TcpWay {
            replies: self.replies.clone(),
            kept: self.shared.kept.clone(),
            listener: self.tally.server().address,
        };
        let client = Client::new(&query, transport, self.peer, now, Way::Tcp(way));
        let miss = Miss {
            key,
            kept: found.err().unwrap_or_default(),
            recursion_desired: query.recursion_desired(),
            client,
        };
        if self.shared.jobs.try_send(Job::Miss(Box::new(miss))).is_ok() {
            self.in_flight += 1;
        } else {
            self.shed(&query, ShedReason::Queue, out);
        }
        Ok(())
    }

    /// Turns a miss away at once, as over UDP.
    fn shed(&self, query: &Query<'_>, reason: ShedReason, out: &mut Vec<u8>) {
        let (rcode, extended_error) = admission::refusal(reason);
        let transport = Transport::Tcp { idle_timeout: self.told_idle_timeout() };
        let len = push_empty(&Asked::of(query, transport), rcode, Some(extended_error), out);
        self.tally.shed(reason);
        self.tally.query(ZoneId::OTHER, query.qtype(), query.packet_len(), query.dnssec_ok());
        let outcome = Outcome::new(Source::Shed, rcode, Kind::Failure);
        self.tally.response(ZoneId::OTHER, outcome, len, 0);
    }

    fn push_waited(&mut self, reply: &[u8], out: &mut Vec<u8>) {
        self.in_flight -= 1;
        self.shared.kept.give_back(reply.len());
        if reply.is_empty() {
            // There was no room even for an error.
            return self.tally.dropped(DropReason::Gone);
        }
        framed(out, |out| out.extend_from_slice(reply));
    }
}

/// Appends a reply without records; its length.
fn push_empty(asked: &Asked<'_>, rcode: u16, extended_error: Option<u16>, out: &mut Vec<u8>) -> usize {
    let parts = Parts { rcode, authentic_data: false, counts: [0; 3], body: &[], ttl_at: &[] };
    framed(out, |out| reply::push_reply(out, asked, &parts, Ttls::Aged(0), extended_error))
}

/// Appends what `push` appends, behind its length (RFC 1035 §4.2.2); that length.
fn framed(out: &mut Vec<u8>, push: impl FnOnce(&mut Vec<u8>)) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0, 0]);
    push(out);
    let len = out.len() - start - 2;
    out[start..start + 2].copy_from_slice(&(len as u16).to_be_bytes());
    len
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{Edns, Message, Query, ResponseCode};
    use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
    use hickory_proto::rr::{Name, RecordType};
    use tokio::io::AsyncReadExt;

    use super::*;
    use crate::config::Config;
    use crate::observe::Metrics;
    use crate::wire::ede;

    /// A listener whose every miss is turned away, since nobody takes jobs; `test` gets what [`accept`] takes, and an end of
    /// `draining`.
    fn with_listener<F: Future<Output = ()>>(
        test: impl FnOnce(TcpListener, Rc<Shared>, SharedTally, watch::Sender<bool>) -> F,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let metrics = Metrics::new().unwrap();
            let (jobs, receiver) = mpsc::channel(1);
            drop(receiver);
            let (_leave, leaving) = watch::channel(false);
            let config = Config::default();
            let shared = Rc::new(Shared {
                store: Arc::new(Store::new(crate::resolver::budgets(&config))),
                jobs,
                limits: config.listen.tcp,
                rotate: true,
                turns: Turns::default(),
                connections: Rc::default(),
                leaving,
                logger: RefCell::new(
                    crate::observe::QueryLog::new(metrics.counters.query_log_dropped.clone()).logger(),
                ),
                kept: Kept::default(),
                admission: RefCell::new(Admission::new(0.1, [1, 2])),
            });
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let tally = metrics.tallies.shared(crate::observe::Server { address, proto: Proto::Tcp });
            test(listener, shared, tally, watch::channel(false).0).await;
        });
    }

    async fn ask(client: &mut TcpStream) -> Message {
        let mut query = Message::query();
        query.add_query(Query::query(Name::from_ascii("a.example.").unwrap(), RecordType::A));
        query.set_edns(Edns::new());
        let query = query.to_vec().unwrap();
        client.write_all(&[&(query.len() as u16).to_be_bytes()[..], &query].concat()).await.unwrap();
        let len = client.read_u16().await.unwrap();
        let mut reply = vec![0; usize::from(len)];
        client.read_exact(&mut reply).await.unwrap();
        Message::from_vec(&reply).unwrap()
    }

    #[test]
    fn a_connection_that_came_unseen_is_served_though_we_drain() {
        with_listener(|listener, shared, tally, drain| async move {
            // The kernel completes the handshake; nobody has looked at the listener since.
            let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            drain.send_replace(true);
            accept(listener, shared, tally, drain.subscribe()).await;
            client.set_nonblocking(true).unwrap();
            let mut client = TcpStream::from_std(client).unwrap();
            assert_eq!(ask(&mut client).await.metadata.response_code, ResponseCode::ServFail);
        });
    }

    #[test]
    fn rfc8914_who_is_turned_away_over_tcp_learns_why() {
        with_listener(|listener, shared, tally, drain| async move {
            let address = listener.local_addr().unwrap();
            tokio::task::spawn_local(accept(listener, shared, tally, drain.subscribe()));
            let message = ask(&mut TcpStream::connect(address).await.unwrap()).await;
            assert_eq!(message.metadata.response_code, ResponseCode::ServFail);
            let edns = message.edns.unwrap();
            let Some(EdnsOption::Unknown(_, told)) = edns.option(EdnsCode::Unknown(15)) else {
                panic!("no extended error in {edns:?}")
            };
            assert_eq!(told[..], ede::NOT_READY.to_be_bytes());
        });
    }
}
