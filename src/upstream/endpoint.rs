//! One upstream address: its connections, its round trip, and whether it answers.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};
use tokio::time::Instant;

use super::Query;
use super::connection::{Connection, Retirement};
use super::dial;
use super::estimate::RttEstimator;
use super::flight::{Event, Failure, Flight, Landing, Sent};
use super::health::{Health, ProbeLimiter, probe_delay};
use super::message::{Header, Message};
use super::metrics::EndpointMetrics;
use super::pool::{self, Choice, Fit, Limits, View};
use super::udp::{self, LetterCase};

/// What a group's configuration says about each endpoint.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings {
    /// Whether queries go by UDP first.
    pub(super) udp: bool,
    /// Whether a truncated reply over UDP is asked again over TCP.
    pub(super) tcp_after_truncation: bool,
    /// Longest a lookup may take.
    pub(super) timeout: Duration,
    /// Connections that take queries at the same time.
    pub(super) max_connections: usize,
    /// Age of a connection, before jitter.
    pub(super) max_age: Duration,
    /// Unanswered queries.
    pub(super) max_in_flight: usize,
}

/// One upstream address.
pub(super) struct Endpoint {
    /// The address as metrics and logs name it.
    pub(super) label: Arc<str>,
    /// Where it is.
    pub(super) address: SocketAddr,
    /// The group's settings.
    pub(super) settings: Settings,
    /// Its series.
    pub(super) metrics: EndpointMetrics,
    /// Whether it keeps the letter case of questions.
    pub(super) letter_case: RefCell<LetterCase>,
    rtt: RefCell<RttEstimator>,
    health: RefCell<Health>,
    last_reply: Cell<Option<Instant>>,
    /// A question that it answered soon, to be asked when it is not sure that it lives; when it was noted.
    familiar: RefCell<Option<(Instant, Message)>>,
    connections: RefCell<Vec<Rc<Connection>>>,
    /// Queries that wait for a connection.
    pending: RefCell<VecDeque<(Rc<Flight>, usize)>>,
    dialing: Cell<usize>,
    in_flight: Cell<usize>,
    /// A check of the endpoint is under way.
    checking: Cell<bool>,
    removed: Cell<bool>,
    scratch: Rc<RefCell<Box<[u8]>>>,
}

impl Endpoint {
    pub(super) fn new(
        address: SocketAddr,
        settings: Settings,
        metrics: EndpointMetrics,
        label: Arc<str>,
        scratch: Rc<RefCell<Box<[u8]>>>,
    ) -> Rc<Self> {
        Rc::new(Self {
            label,
            address,
            settings,
            metrics,
            letter_case: RefCell::default(),
            rtt: RefCell::default(),
            health: RefCell::default(),
            last_reply: Cell::new(None),
            familiar: RefCell::default(),
            connections: RefCell::default(),
            pending: RefCell::default(),
            dialing: Cell::new(0),
            in_flight: Cell::new(0),
            checking: Cell::new(false),
            removed: Cell::new(false),
            scratch,
        })
    }

    /// The buffer that all connections of the thread read into.
    pub(super) fn scratch(&self) -> Rc<RefCell<Box<[u8]>>> {
        Rc::clone(&self.scratch)
    }

    /// Whether it is known not to answer, or no longer configured.
    pub(super) fn is_down(&self) -> bool {
        self.removed.get() || self.health.borrow().is_down()
    }

    /// Whether others are to be asked first.
    pub(super) fn is_doubted(&self, now: Instant) -> bool {
        self.health.borrow().is_doubted(now)
    }

    /// Another endpoint answered a lookup that this one had been asked first.
    pub(super) fn was_beaten(self: &Rc<Self>, now: Instant, asked: Instant) {
        self.health.borrow_mut().doubt(now);
        if self.last_reply.get().is_none_or(|reply| reply < asked) {
            self.suspect();
        }
    }

    /// Whether it has as many unanswered queries as it may.
    pub(super) fn is_full(&self) -> bool {
        self.in_flight.get() >= self.settings.max_in_flight
    }

    /// The smoothed round trip.
    pub(super) fn rtt(&self) -> Option<Duration> {
        self.rtt.borrow().smoothed()
    }

    /// How long a query may go unanswered before it is asked a second time.
    pub(super) fn hedge_delay(&self) -> Duration {
        self.rtt.borrow().hedge_delay()
    }

    /// How long a datagram may go unanswered before it is sent again whatever the hedge budget says; doubles.
    pub(super) fn retransmit_delay(&self) -> Duration {
        self.rtt.borrow().retransmit_delay().min(self.settings.timeout / 4)
    }

    /// The age of its oldest query from which on a connection is passed over.
    pub(super) fn blocked_after(&self) -> Duration {
        self.rtt.borrow().blocked_after()
    }

    /// How long a dial may take before others are started beside it.
    pub(super) fn dial_stall(&self) -> Duration {
        self.rtt.borrow().dial_stall()
    }

    /// How long a dial may take in all.
    pub(super) fn dial_limit(&self) -> Duration {
        self.rtt.borrow().dial_limit()
    }

    /// How long a query may stay unanswered, with nothing sent later answered either, before its connection is dead.
    pub(super) fn patience(&self) -> Duration {
        self.settings.timeout + PATIENCE_BEYOND_TIMEOUT
    }

    /// When the last reply came.
    pub(super) fn last_reply(&self) -> Option<Instant> {
        self.last_reply.get()
    }

    /// Whether more connections take queries than should.
    pub(super) fn has_excess(&self, now: Instant) -> bool {
        let after = self.blocked_after();
        let takes_queries = |connection: &&Rc<Connection>| {
            connection.is_usable() && connection.oldest_age(now).is_none_or(|age| age < after)
        };
        self.connections.borrow().iter().filter(takes_queries).count() > self.settings.max_connections
    }

    /// Open connections.
    pub(super) fn connections(&self) -> usize {
        self.connections.borrow().len()
    }

    /// Counts unanswered queries up or down.
    pub(super) fn in_flight_changed(&self, by: isize) {
        self.in_flight.set(self.in_flight.get().saturating_add_signed(by));
        self.metrics.in_flight.add(by as i64);
    }

    /// A reply with this header to `message`, which was sent at `sent`, was read at `now`.
    pub(super) fn answered(&self, message: &Message, header: Header, now: Instant, sent: Instant) {
        self.last_reply.set(Some(now));
        let mut rtt = self.rtt.borrow_mut();
        rtt.observe(now.saturating_duration_since(sent));
        if let Some(smoothed) = rtt.smoothed() {
            self.metrics.rtt.set(smoothed.as_secs_f64());
        }
        if self.health.borrow_mut().success() {
            self.metrics.up.set(1);
            tracing::info!(endpoint = &*self.label, "upstream answers again");
        }
        drop(rtt);
        if matches!(header.rcode, NOERROR | NXDOMAIN) {
            self.note_familiar(message, now, sent);
        }
    }

    /// What was told in no more than the usual time needed nobody else's answer: it will be told again as long as the endpoint
    /// lives.
    fn note_familiar(&self, message: &Message, now: Instant, sent: Instant) {
        let mut familiar = self.familiar.borrow_mut();
        let is_old = |(noted, _): &(Instant, Message)| now.saturating_duration_since(*noted) >= FAMILIAR_FOR;
        let soon = || self.rtt().is_none_or(|usual| now.saturating_duration_since(sent) <= usual);
        if familiar.as_ref().is_none_or(is_old) && soon() {
            *familiar = Some((now, message.clone()));
        }
    }

    /// A dial failed, or a host refused: enough of these and the endpoint is down.
    pub(super) fn failed(self: &Rc<Self>, now: Instant) {
        if self.health.borrow_mut().failure(now) {
            self.went_down();
        }
    }

    /// A lookup has had no reply for long, and neither had any other: asks whether the endpoint is there at all. A slow
    /// name alone must not take it out of use.
    pub(super) fn suspect(self: &Rc<Self>) {
        if self.checking.get() || self.is_down() {
            return;
        }
        self.checking.set(true);
        let endpoint = Rc::clone(self);
        let began = Instant::now();
        tokio::task::spawn_local(async move {
            let answered = endpoint.check(CHECK_TIMEOUT).await
                || endpoint.last_reply.get().is_some_and(|reply| reply > began);
            endpoint.checking.set(false);
            if !answered && !endpoint.removed.get() && endpoint.health.borrow_mut().set_down() {
                endpoint.went_down();
            }
        });
    }

    /// Sends an attempt of `flight` on its way. `after`: on a connection that was opened or heard from after this moment,
    /// since those silent for longer may be as dead as the one before.
    pub(super) fn submit(
        self: &Rc<Self>,
        flight: &Rc<Flight>,
        attempt: usize,
        now: Instant,
        tcp: bool,
        after: Option<Instant>,
    ) {
        if tcp || !self.settings.udp {
            self.submit_tcp(flight, attempt, now, after);
        } else {
            self.metrics.queries.inc();
            let task = tokio::task::spawn_local(udp::attempt(Rc::clone(self), Rc::clone(flight), attempt));
            flight.sent(attempt, now, Sent::Udp(task.abort_handle()));
        }
    }

    fn submit_tcp(
        self: &Rc<Self>,
        flight: &Rc<Flight>,
        attempt: usize,
        now: Instant,
        after: Option<Instant>,
    ) {
        let limits = Limits {
            blocked_after: self.blocked_after(),
            first_attempt: attempt == 0,
            dialing: self.dialing.get(),
            max: self.settings.max_connections,
        };
        let connections = self.connections.borrow();
        let choice = flight.attempts(|attempts| {
            let on_it = |connection: &Rc<Connection>| attempts.iter().any(|a| a.is_on(connection));
            let view = |connection: &Rc<Connection>| View {
                fit: if !connection.is_usable() {
                    Fit::Closed
                } else if on_it(connection) {
                    Fit::Tried
                } else if after.is_none_or(|moment| connection.is_proven_since(moment)) {
                    Fit::Proven
                } else {
                    Fit::Unproven
                },
                filling: connection.is_filling(),
                load: connection.load(),
                oldest: connection.oldest_age(now),
            };
            pool::choose(connections.iter().map(view), limits)
        });
        if let Choice::Use { index, spare } = choice
            && connections[index].send(flight, attempt, now)
        {
            drop(connections);
            self.metrics.queries.inc();
            if spare && !self.is_down() {
                dial::start(self);
            }
            return;
        }
        drop(connections);
        self.pending.borrow_mut().push_back((Rc::clone(flight), attempt));
        let wanted = (1 + self.pending.borrow().len() / QUERIES_PER_DIAL).min(DIALS_FOR_PENDING);
        if self.dialing.get() < if self.is_down() { 1 } else { wanted } {
            dial::start(self);
        }
    }

    /// Whether anyone still waits for a connection.
    pub(super) fn has_pending(&self) -> bool {
        let mut pending = self.pending.borrow_mut();
        while pending.front().is_some_and(|(flight, _)| flight.is_done()) {
            pending.pop_front();
        }
        !pending.is_empty()
    }

    /// Dials under way.
    pub(super) fn dialing(&self) -> usize {
        self.dialing.get()
    }

    /// A dial has begun.
    pub(super) fn dial_began(&self) {
        self.dialing.set(self.dialing.get() + 1);
    }

    /// A dial succeeded: puts waiting queries on the new connection, unless the endpoint has been removed.
    pub(super) fn dial_succeeded(&self, connection: &Rc<Connection>, now: Instant) {
        self.dialing.set(self.dialing.get().saturating_sub(1));
        if self.removed.get() {
            connection.close(Retirement::Removed);
            return;
        }
        self.connections.borrow_mut().push(Rc::clone(connection));
        self.metrics.connections.inc();
        let mut pending = self.pending.borrow_mut();
        // What other dials will take over need not queue up here.
        let share = (pending.len() / (1 + self.dialing.get())).max(QUERIES_PER_DIAL);
        let mut taken = 0;
        while taken < share
            && let Some((flight, attempt)) = pending.pop_front()
        {
            if flight.is_done() {
                continue;
            }
            if !connection.send(&flight, attempt, now) {
                pending.push_front((flight, attempt));
                break;
            }
            self.metrics.queries.inc();
            taken += 1;
        }
    }

    /// A connection was heard from: those that found it held up and wait for a dial are asked on it, since the dial may
    /// take long. Few at a time, since a peer may serve them one after another.
    pub(super) fn relieve(&self, connection: &Rc<Connection>) {
        let mut pending = self.pending.borrow_mut();
        if pending.is_empty() || !connection.is_usable() || connection.load() >= QUERIES_PER_DIAL {
            return;
        }
        let now = Instant::now();
        if connection.oldest_age(now).is_some_and(|age| age >= self.blocked_after()) {
            return;
        }
        let mut left = VecDeque::new();
        while let Some((flight, attempt)) = pending.pop_front() {
            if flight.is_done() {
                continue;
            }
            // Not where it has been, and only where a reply has come since it waits.
            let fits = flight.attempts(|attempts| {
                attempts.get(attempt).is_some_and(|this| connection.is_proven_since(this.made))
                    && !attempts.iter().any(|other| other.is_on(connection))
            });
            if fits && connection.load() < QUERIES_PER_DIAL && connection.send(&flight, attempt, now) {
                self.metrics.queries.inc();
            } else {
                left.push_back((flight, attempt));
            }
        }
        *pending = left;
    }

    /// A dial failed. When it was the last, whoever waits for a connection is told. `here`: for want of something on this side,
    /// which says nothing of the endpoint.
    pub(super) fn dial_failed(self: &Rc<Self>, now: Instant, here: bool) {
        self.dialing.set(self.dialing.get().saturating_sub(1));
        if !here {
            self.failed(now);
        }
        if self.dialing.get() == 0 {
            self.fail_pending();
        }
    }

    /// A connection is over.
    pub(super) fn closed(self: &Rc<Self>, connection: &Rc<Connection>, reason: Retirement) {
        let mut connections = self.connections.borrow_mut();
        let before = connections.len();
        connections.retain(|other| !Rc::ptr_eq(other, connection));
        if connections.len() < before {
            self.metrics.connections.dec();
        }
        drop(connections);
        match reason {
            Retirement::Idle => self.metrics.retired_idle.inc(),
            Retirement::Age => self.metrics.retired_age.inc(),
            Retirement::Closed => self.metrics.retired_closed.inc(),
            Retirement::Hedged => self.metrics.retired_hedged.inc(),
            Retirement::Dead => self.metrics.retired_dead.inc(),
            Retirement::Excess => self.metrics.retired_excess.inc(),
            Retirement::Removed => self.metrics.retired_removed.inc(),
        }
        tracing::debug!(endpoint = &*self.label, ?reason, "upstream connection over");
    }

    /// The endpoint is no longer configured, or the group is dropped: everything of it ends.
    pub(super) fn remove(&self) {
        self.removed.set(true);
        self.close_all(Retirement::Removed);
        self.fail_pending();
    }

    /// Whether the endpoint answers anything, found out with queries on fresh connections. Any reply counts.
    ///
    /// The first question is one that it answered soon before, if there is one, and the health query joins it after half of the
    /// time, and has all of it again: a CoreDNS that answers for its cluster lives, also where what it forwards `. NS` to does not.
    pub(super) async fn check(self: &Rc<Self>, timeout: Duration) -> bool {
        let familiar = self.familiar.borrow().as_ref().map(|(_, message)| message.clone());
        let health = Message::encode(&Query::health());
        let Some(familiar) = familiar else { return self.is_answered(health, timeout).await };
        let first = std::pin::pin!(self.is_answered(familiar, timeout));
        let second = std::pin::pin!(async {
            tokio::time::sleep(timeout / 2).await;
            self.is_answered(health, timeout).await
        });
        match select(first, second).await {
            Either::Left((true, _)) | Either::Right((true, _)) => true,
            Either::Left((false, second)) => second.await,
            Either::Right((false, first)) => first.await,
        }
    }

    /// Whether a reply to `message` comes in time, on a connection that is opened for it.
    async fn is_answered(self: &Rc<Self>, message: Message, timeout: Duration) -> bool {
        let flight = Flight::new(message);
        let landing = Landing(Rc::clone(&flight));
        let now = Instant::now();
        let attempt = flight.begin(self, now, false);
        self.submit(&flight, attempt, now, false, Some(now));
        let event =
            tokio::time::timeout(timeout, std::future::poll_fn(|context| flight.poll_event(context))).await;
        drop(landing);
        matches!(event, Ok(Event::Reply { .. } | Event::Failed { failure: Failure::Truncated, .. }))
    }

    fn went_down(self: &Rc<Self>) {
        self.metrics.up.set(0);
        tracing::warn!(endpoint = &*self.label, "upstream does not answer; it is probed until it does");
        self.close_all(Retirement::Dead);
        self.fail_pending();
        let endpoint = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let mut failed = 0;
            loop {
                tokio::time::sleep(probe_delay(failed, rand::random())).await;
                let slot = LIMITER.with_borrow_mut(|limiter| limiter.reserve(Instant::now()));
                tokio::time::sleep_until(slot).await;
                if endpoint.removed.get() || !endpoint.is_down() {
                    return;
                }
                if endpoint.check(endpoint.dial_limit()).await {
                    endpoint.metrics.probes_ok.inc();
                    return;
                }
                endpoint.metrics.probes_failed.inc();
                failed += 1;
            }
        });
    }

    fn close_all(&self, reason: Retirement) {
        for connection in self.connections.borrow().iter() {
            connection.close(reason);
        }
    }

    fn fail_pending(&self) {
        let pending = std::mem::take(&mut *self.pending.borrow_mut());
        for (flight, attempt) in pending {
            if !flight.is_done() {
                self.metrics.failed_dial.inc();
                flight.deliver(Event::Failed { attempt, failure: Failure::Dial });
            }
        }
    }
}

thread_local! {
    /// All groups run on one thread, and the bound on probes is one for all of them.
    static LIMITER: RefCell<ProbeLimiter> = RefCell::default();
}

/// Rcodes of what an upstream knows, as the header has them.
const NOERROR: u8 = 0;
const NXDOMAIN: u8 = 3;
/// How long a familiar question is kept before another takes its place.
const FAMILIAR_FOR: Duration = Duration::from_secs(1);
/// Beyond a lookup's time nobody waits for a query.
const PATIENCE_BEYOND_TIMEOUT: Duration = Duration::from_secs(1);
/// Waiting queries for which one dial is made.
const QUERIES_PER_DIAL: usize = 32;
/// Dials at a time for waiting queries.
const DIALS_FOR_PENDING: usize = 4;
/// How long a suspected endpoint may take over its health query. With the wait before the suspicion it leaves a lookup
/// to a dead upstream without an answer for less than two seconds.
const CHECK_TIMEOUT: Duration = Duration::from_millis(700);
