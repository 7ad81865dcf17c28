//! One TCP connection to an endpoint: queries go out in batches, replies are matched as they come (RFC 7766).

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use super::endpoint::Endpoint;
use super::flight::{Event, Failure, Flight, Sent};
use super::message::{self, Mismatch};
use super::waiters::Waiters;

/// The part of a connection that lookups see. Its own task drives the socket.
pub(super) struct Connection {
    /// When the handshake was complete.
    pub(super) opened: Instant,
    expires: Instant,
    state: Cell<State>,
    waiters: RefCell<Waiters<(Rc<Flight>, usize)>>,
    outgoing: RefCell<Outgoing>,
    /// Bytes of all queries so far, sent or not.
    queued: Cell<u64>,
    /// When a query was last sent or a reply last read.
    used: Cell<Instant>,
    /// When a reply was last read.
    heard: Cell<Option<Instant>>,
    /// When to ask the kernel whether the peer acknowledges anything.
    doubt: Cell<Option<Instant>>,
    /// Hedges that won in a row over queries of this connection.
    lost: Cell<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Takes queries.
    Open,
    /// Takes none; closes when what it has is answered.
    Draining(Retirement),
    /// To be closed by its task, if that has not happened yet.
    Closed(Retirement),
}

/// Why a connection is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Retirement {
    /// Unused for a while.
    Idle,
    /// Older than `max_age`.
    Age,
    /// The peer closed it, or the kernel gave up on it.
    Closed,
    /// Hedges won over it.
    Hedged,
    /// Queries stay unanswered and nothing comes from it at all.
    Dead,
    /// More connections than `max_connections`, after a time of need.
    Excess,
    /// The endpoint is no longer configured.
    Removed,
}

#[derive(Default)]
struct Outgoing {
    bytes: Vec<u8>,
    written: usize,
    /// The task has been woken for what is in `bytes`.
    woken: bool,
    /// The task has let the others run once before it writes.
    yielded: bool,
    waker: Option<Waker>,
}

impl Connection {
    pub(super) fn new(now: Instant, lifetime: Duration) -> Rc<Self> {
        Rc::new(Self {
            opened: now,
            expires: now + lifetime,
            state: Cell::new(State::Open),
            waiters: RefCell::default(),
            outgoing: RefCell::default(),
            queued: Cell::new(0),
            used: Cell::new(now),
            heard: Cell::new(None),
            doubt: Cell::new(None),
            lost: Cell::new(0),
        })
    }

    /// Whether it was opened, or a reply came on it, after this moment.
    pub(super) fn is_proven_since(&self, moment: Instant) -> bool {
        self.opened > moment || self.heard.get().is_some_and(|heard| heard > moment)
    }

    /// Whether it takes queries.
    pub(super) fn is_usable(&self) -> bool {
        self.state.get() == State::Open && !self.waiters.borrow().is_full()
    }

    /// Queries without a reply.
    pub(super) fn load(&self) -> usize {
        self.waiters.borrow().len()
    }

    /// Whether queries wait for the next write, and not many.
    pub(super) fn is_filling(&self) -> bool {
        let bytes = self.outgoing.borrow().bytes.len();
        bytes > 0 && bytes < BATCH
    }

    /// How long the oldest unanswered query has waited: on an upstream that answers in order, nothing sent after it
    /// is answered before it.
    pub(super) fn oldest_age(&self, now: Instant) -> Option<Duration> {
        self.waiters.borrow().oldest().map(|waiter| now.saturating_duration_since(waiter.sent))
    }

    /// Whether another lookup's query is ahead of this one and has waited longer than `age`.
    pub(super) fn is_behind(&self, flight: &Rc<Flight>, now: Instant, age: Duration) -> bool {
        self.waiters.borrow().oldest().is_some_and(|waiter| {
            !Rc::ptr_eq(&waiter.who.0, flight) && now.saturating_duration_since(waiter.sent) >= age
        })
    }

    /// Puts the query into the next batch. Returns false if the connection has no room.
    pub(super) fn send(self: &Rc<Self>, flight: &Rc<Flight>, attempt: usize, now: Instant) -> bool {
        let message = flight.message.bytes();
        let end = self.queued.get() + 2 + message.len() as u64;
        let who = (Rc::clone(flight), attempt);
        let Some(id) = self.waiters.borrow_mut().insert(who, now, end, rand::random) else {
            return false;
        };
        self.queued.set(end);
        self.used.set(now);
        flight.sent(attempt, now, Sent::Tcp(Rc::clone(self)));
        let mut outgoing = self.outgoing.borrow_mut();
        // A query is at most 12 + 255 + 4 + 11 bytes.
        outgoing.bytes.extend_from_slice(&(message.len() as u16).to_be_bytes());
        outgoing.bytes.extend_from_slice(&id.to_be_bytes());
        outgoing.bytes.extend_from_slice(&message[2..]);
        if !outgoing.woken {
            outgoing.woken = true;
            outgoing.yielded = false;
            if let Some(waker) = &outgoing.waker {
                waker.wake_by_ref();
            }
        }
        true
    }

    /// A hedge answered before this connection did. Once too often, and it takes no more queries.
    pub(super) fn let_hedge_win(&self) {
        self.lost.set(self.lost.get() + 1);
        if self.lost.get() >= LOST_HEDGES && self.state.get() == State::Open {
            self.state.set(State::Draining(Retirement::Hedged));
            self.wake();
        }
    }

    /// A query has gone unanswered for long: when a living peer must have acknowledged it, the kernel is asked.
    pub(super) fn doubt(&self, now: Instant, rtt: Duration) {
        if self.doubt.get().is_some() {
            return;
        }
        if let Some(waiter) = self.waiters.borrow().oldest() {
            self.doubt.set(Some((waiter.sent + ACKNOWLEDGED_BY + rtt).max(now)));
            self.wake();
        }
    }

    /// Closes the connection; its task fails what is unanswered.
    pub(super) fn close(&self, reason: Retirement) {
        if !matches!(self.state.get(), State::Closed(_)) {
            self.state.set(State::Closed(reason));
            self.wake();
        }
    }

    fn wake(&self) {
        if let Some(waker) = &self.outgoing.borrow().waker {
            waker.wake_by_ref();
        }
    }

    /// One complete message from the peer, read at `now`.
    fn receive(&self, endpoint: &Endpoint, reply: &[u8], now: Instant) {
        let metrics = &endpoint.metrics;
        let Some(id) = message::id(reply) else {
            return metrics.ignored_malformed.inc();
        };
        let mut waiters = self.waiters.borrow_mut();
        let Some((flight, _)) = waiters.find(id) else {
            return metrics.ignored_id.inc();
        };
        let completed = message::complete_bare_error(reply, flight.message.question());
        let reply = completed.as_deref().unwrap_or(reply);
        let header = match message::check(reply, flight.message.question(), false) {
            Ok(header) => header,
            Err(Mismatch::Malformed) => return metrics.ignored_malformed.inc(),
            Err(_) => return metrics.ignored_question.inc(),
        };
        let Some(((flight, attempt), sent)) = waiters.take(id) else { return };
        drop(waiters);
        self.used.set(now);
        self.heard.set(Some(now));
        self.doubt.set(None);
        self.lost.set(0);
        endpoint.answered(&flight.message, header, now, sent);
        if flight.is_done() {
            return metrics.ignored_late.inc();
        }
        if header.truncated {
            metrics.failed_truncated.inc();
            return flight.deliver(Event::Failed { attempt, failure: Failure::Truncated });
        }
        flight.deliver(Event::Reply { attempt, message: reply.to_vec(), header, read: now });
    }
}

/// The socket's side of a connection.
pub(super) struct Driver {
    endpoint: Rc<Endpoint>,
    connection: Rc<Connection>,
    stream: TcpStream,
    /// The beginning of a message whose end has not arrived.
    partial: Vec<u8>,
    /// Something was read and not acknowledged while more is owed.
    unacknowledged: bool,
    timer: Pin<Box<Sleep>>,
}

impl Driver {
    pub(super) fn new(endpoint: Rc<Endpoint>, connection: Rc<Connection>, stream: TcpStream) -> Self {
        let timer = Box::pin(tokio::time::sleep_until(connection.expires.min(Instant::now() + TICK)));
        Self { endpoint, connection, stream, partial: Vec::new(), unacknowledged: false, timer }
    }

    /// Runs until the connection is closed, by either side. What is unanswered then fails.
    pub(super) async fn run(mut self) {
        let reason = std::future::poll_fn(|context| self.poll(context)).await;
        self.connection.state.set(State::Closed(reason));
        let waiters = self.connection.waiters.borrow_mut().drain();
        self.endpoint.closed(&self.connection, reason);
        for (flight, attempt) in waiters {
            if !flight.is_done() {
                let metrics = &self.endpoint.metrics;
                if reason == Retirement::Dead { &metrics.failed_dead } else { &metrics.failed_closed }.inc();
                flight.deliver(Event::Failed { attempt, failure: Failure::Lost });
            }
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Retirement> {
        if let Poll::Ready(reason) = self.poll_receive(context) {
            return Poll::Ready(reason);
        }
        if let State::Closed(reason) = self.connection.state.get() {
            return Poll::Ready(reason);
        }
        if let Poll::Ready(Err(_)) = self.poll_send(context) {
            return Poll::Ready(Retirement::Closed);
        }
        if let State::Draining(reason) = self.connection.state.get()
            && self.connection.waiters.borrow().is_empty()
        {
            return Poll::Ready(reason);
        }
        // A doubt that has come up since makes the next look sooner.
        if let Some(at) = self.connection.doubt.get()
            && at < self.timer.deadline()
        {
            self.timer.as_mut().reset(at);
        }
        while self.timer.as_mut().poll(context).is_ready() {
            let now = Instant::now();
            if let Some(reason) = self.look_after(now) {
                return Poll::Ready(reason);
            }
            // Its age ends when it does: load spreads over a new endpoint within `max_age`.
            let expires = self.connection.expires;
            let next = now + TICK;
            self.timer.as_mut().reset(if now < expires { next.min(expires) } else { next });
        }
        Poll::Pending
    }

    /// Reads what there is and hands out every complete message. Ready only when the connection is over.
    fn poll_receive(&mut self, context: &mut Context<'_>) -> Poll<Retirement> {
        let scratch = self.endpoint.scratch();
        let mut scratch = scratch.borrow_mut();
        loop {
            let mut buffer = ReadBuf::new(&mut scratch);
            if ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer)).is_err() {
                return Poll::Ready(Retirement::Closed);
            }
            let read = buffer.filled();
            if read.is_empty() {
                return Poll::Ready(Retirement::Closed);
            }
            let now = Instant::now();
            if self.partial.is_empty() {
                let rest = deliver(&self.connection, &self.endpoint, read, now);
                self.partial.extend_from_slice(rest);
            } else {
                self.partial.extend_from_slice(read);
                let rest = deliver(&self.connection, &self.endpoint, &self.partial, now).len();
                let used = self.partial.len() - rest;
                self.partial.drain(..used);
            }
            self.unacknowledged = true;
            self.endpoint.relieve(&self.connection);
        }
    }

    /// Writes what has been queued, once everything that is ready to run has had its turn to queue more; where nothing has,
    /// acknowledges what was read. A server that has left Nagle's algorithm on (NSD has) holds its next small reply back until
    /// then, and the kernel would wait 40 ms for something to send along.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let mut outgoing = self.connection.outgoing.borrow_mut();
        if !outgoing.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            outgoing.waker = Some(context.waker().clone());
        }
        let owes_acknowledgement = self.unacknowledged && !self.connection.waiters.borrow().is_empty();
        if outgoing.bytes.is_empty() && !owes_acknowledgement {
            self.unacknowledged = false;
            return Poll::Pending;
        }
        if !outgoing.yielded {
            outgoing.yielded = true;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        if outgoing.bytes.is_empty() {
            outgoing.yielded = false;
            self.unacknowledged = false;
            // Where it is refused replies are late, not lost.
            let _ = crate::sys::tcp::acknowledge(&self.stream);
            return Poll::Pending;
        }
        while outgoing.written < outgoing.bytes.len() {
            let rest = &outgoing.bytes[outgoing.written..];
            let written = ready!(Pin::new(&mut self.stream).poll_write(context, rest))?;
            outgoing.written += written;
            // It took an acknowledgement along.
            self.unacknowledged = false;
        }
        outgoing.bytes.clear();
        outgoing.bytes.shrink_to(OUTGOING_KEPT);
        outgoing.written = 0;
        outgoing.woken = false;
        outgoing.yielded = false;
        Poll::Pending
    }

    /// What a connection looks after now and then: its age, its use, and queries that nobody will answer.
    fn look_after(&mut self, now: Instant) -> Option<Retirement> {
        let connection = &self.connection;
        let patience = self.endpoint.patience();
        if connection.oldest_age(now).is_some_and(|age| age >= patience) {
            return Some(Retirement::Dead);
        }
        if connection.doubt.get().is_some_and(|at| at <= now) {
            connection.doubt.set(None);
            if self.is_oldest_unacknowledged() {
                self.endpoint.failed(now);
                return Some(Retirement::Dead);
            }
        }
        connection.waiters.borrow_mut().forget_lost(now, patience);
        if connection.load() == 0 {
            if now.saturating_duration_since(connection.used.get()) >= IDLE {
                return Some(Retirement::Idle);
            }
            if now >= connection.expires {
                return Some(Retirement::Age);
            }
            if self.endpoint.has_excess(now) {
                return Some(Retirement::Excess);
            }
        } else if now >= connection.expires && connection.state.get() == State::Open {
            connection.state.set(State::Draining(Retirement::Age));
        }
        None
    }

    /// Whether the peer has not acknowledged the oldest query, whatever was sent after it. Where the kernel does not say, the
    /// peer is taken to live.
    fn is_oldest_unacknowledged(&self) -> bool {
        let Some(end) = self.connection.waiters.borrow().oldest().map(|waiter| waiter.end) else {
            return false;
        };
        let outgoing = self.connection.outgoing.borrow();
        let written = self.connection.queued.get() - (outgoing.bytes.len() - outgoing.written) as u64;
        crate::sys::tcp::unacknowledged(&self.stream)
            .is_ok_and(|unacknowledged| is_missing(end, written, unacknowledged as u64))
    }
}

/// Whether of `written` bytes the last `unacknowledged` ones include some before `end`. A query that was not written whole, since
/// this thread was late, is none that a peer could have acknowledged.
fn is_missing(end: u64, written: u64, unacknowledged: u64) -> bool {
    end <= written && end + unacknowledged > written
}

/// Hands out the complete messages at the start of `bytes`; returns the rest.
fn deliver<'a>(connection: &Connection, endpoint: &Endpoint, mut bytes: &'a [u8], now: Instant) -> &'a [u8] {
    while let Some((length, rest)) = bytes.split_first_chunk() {
        let Some((message, rest)) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length))) else {
            break;
        };
        connection.receive(endpoint, message, now);
        bytes = rest;
    }
    bytes
}

/// Bytes of the buffer that all connections of a thread read into.
pub(super) const SCRATCH: usize = 64 * 1024;
/// A connection unused for this long is closed: CoreDNS closes at 10 s, and a query must not meet that close.
const IDLE: Duration = Duration::from_secs(8);
/// How often a connection looks after itself.
const TICK: Duration = Duration::from_secs(1);
/// A living peer acknowledges by then, beside the round trip: Linux delays an ACK by 40 ms, others up to twice that.
const ACKNOWLEDGED_BY: Duration = Duration::from_millis(100);
/// Hedges lost in a row after which a connection takes no more queries.
const LOST_HEDGES: u32 = 2;
/// Bytes of a write that is full: some twenty queries. While there is no crowd to pack, much longer ones would queue up on one
/// connection what others could have answered.
const BATCH: usize = 1024;
/// Bytes of write buffer kept between batches.
const OUTGOING_KEPT: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_missing_if_it_was_written_and_not_acknowledged_whatever_came_after_it() {
        assert!(is_missing(30, 30, 30) && is_missing(30, 90, 90) && is_missing(30, 90, 61));
        assert!(!is_missing(30, 90, 60), "those after it alone");
        assert!(!is_missing(30, 30, 0) && !is_missing(30, 29, 29) && !is_missing(30, 0, 0));
    }
}
