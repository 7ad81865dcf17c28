//! One lookup: attempts on connections and endpoints until one is answered or its time is up.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::budget::Need;
use super::endpoint::Endpoint;
use super::flight::{Event, Failure, Flight, Landing, Sent};
use super::group::Group;
use super::message::{Header, Message};
use super::{ExchangeError, Query, Reply};

/// A lookup under way.
pub(super) struct Exchange<'a> {
    group: &'a Group,
    flight: Rc<Flight>,
    _landing: Landing,
    started: Instant,
    deadline: Instant,
    /// When to look whether the query is stuck behind another one.
    behind_at: Option<Instant>,
    /// When to ask a second time.
    hedge_at: Option<Instant>,
    /// When to try again after nothing could be reached.
    retry_at: Option<Instant>,
    /// When to wonder whether the endpoint is there at all.
    suspect_at: Option<Instant>,
    retries: u32,
    /// Those of them that were made after a pause.
    pauses: u32,
    /// A reply over UDP was truncated: whatever follows goes over TCP.
    tcp: bool,
    /// A reply with an rcode that another endpoint may improve on.
    second_best: Option<Reply>,
}

enum Step {
    Event(Event),
    Time,
}

impl<'a> Exchange<'a> {
    /// Makes the first attempt.
    pub(super) fn begin(group: &'a Group, query: &Query) -> Result<Self, ExchangeError> {
        let started = Instant::now();
        let endpoint = group.choose(started, |_| false)?;
        let flight = Flight::new(Message::encode(query));
        group.earn_hedge();
        let mut exchange = Self {
            group,
            _landing: Landing(Rc::clone(&flight)),
            flight,
            started,
            deadline: started + group.settings().timeout,
            behind_at: (!group.settings().udp).then(|| started + endpoint.blocked_after()),
            hedge_at: Some(started + endpoint.hedge_delay()),
            retry_at: None,
            suspect_at: Some(started + SUSPECT_AFTER),
            retries: 0,
            pauses: 0,
            tcp: false,
            second_best: None,
        };
        exchange.attempt(&endpoint, started, Attempt::FIRST)?;
        Ok(exchange)
    }

    /// Waits for the first good reply.
    pub(super) async fn run(mut self) -> Result<Reply, ExchangeError> {
        let mut timer = pin!(sleep_until(self.next_time()));
        loop {
            let step = poll_fn(|context| match self.flight.poll_event(context) {
                Poll::Ready(event) => Poll::Ready(Step::Event(event)),
                Poll::Pending => timer.as_mut().poll(context).map(|()| Step::Time),
            })
            .await;
            let outcome = match step {
                Step::Event(Event::Reply { attempt, message, header, read }) => {
                    self.on_reply(attempt, message, header, read)
                }
                Step::Event(Event::Failed { attempt, failure }) => {
                    self.on_failure(attempt, failure, Instant::now())
                }
                Step::Time => self.on_time(Instant::now()),
            };
            if let Some(result) = outcome {
                return result;
            }
            timer.as_mut().reset(self.next_time());
        }
    }

    fn next_time(&self) -> Instant {
        let times = [self.behind_at, self.hedge_at, self.retry_at, self.suspect_at];
        times.into_iter().flatten().fold(self.deadline, Instant::min)
    }

    fn attempt(&mut self, endpoint: &Rc<Endpoint>, now: Instant, how: Attempt) -> Result<(), ExchangeError> {
        if endpoint.is_full() {
            endpoint.metrics.failed_overloaded.inc();
            return Err(ExchangeError::Overloaded { endpoint: Rc::clone(endpoint).label.clone() });
        }
        let number = self.flight.begin(endpoint, now, how.hedge);
        endpoint.submit(&self.flight, number, now, self.tcp, how.after);
        Ok(())
    }

    fn on_reply(
        &mut self,
        attempt: usize,
        message: Vec<u8>,
        header: Header,
        read: Instant,
    ) -> Option<Result<Reply, ExchangeError>> {
        let (endpoint, over_udp, hedge) = self.flight.attempts(|attempts| {
            let this = &attempts[attempt];
            (Rc::clone(&this.endpoint), matches!(this.sent, Some(Sent::Udp(_))), this.hedge)
        });
        if over_udp && header.truncated && self.group.settings().tcp_after_truncation {
            let now = Instant::now();
            self.flight.settle(attempt);
            self.behind_at = None;
            self.hedge_at = Some(now + endpoint.hedge_delay());
            self.tcp = true;
            let made = self.attempt(&endpoint, now, Attempt::FIRST);
            return made.err().map(|error| self.give_up(error));
        }
        if hedge {
            endpoint.metrics.hedges_won.inc();
            self.group.hedge_won();
        }
        self.count_lost_hedges(attempt, read);
        endpoint.metrics.replied(header.rcode, (read - self.started).as_secs_f64());
        let reply = Reply { message, endpoint: endpoint.label.clone(), truncated: header.truncated };
        if !MAY_BE_BETTER_ELSEWHERE.contains(&header.rcode) {
            return Some(Ok(reply));
        }
        self.flight.settle(attempt);
        if self.second_best.is_none() {
            self.second_best = Some(reply);
        }
        if self.has_open_attempt() {
            return None;
        }
        let now = Instant::now();
        match self.untried(now) {
            Some(other) if self.attempt(&other, now, Attempt::FIRST).is_ok() => {
                self.hedge_at = Some(now + other.hedge_delay());
                None
            }
            _ => self.second_best.take().map(Ok),
        }
    }

    /// Connections and endpoints that are silent while a later attempt is answered have let a hedge win.
    fn count_lost_hedges(&self, winner: usize, now: Instant) {
        self.flight.attempts(|attempts| {
            let best = &attempts[winner].endpoint;
            for loser in attempts[..winner].iter().filter(|attempt| !attempt.over) {
                if let Some(Sent::Tcp(connection)) = &loser.sent {
                    connection.let_hedge_win();
                }
                if !Rc::ptr_eq(&loser.endpoint, best) {
                    loser.endpoint.was_beaten(now, loser.made);
                }
            }
        });
    }

    fn on_failure(
        &mut self,
        attempt: usize,
        failure: Failure,
        now: Instant,
    ) -> Option<Result<Reply, ExchangeError>> {
        if self.has_open_attempt() {
            // The others may still be answered, and time will tell.
            return None;
        }
        let endpoint = self.flight.attempts(|attempts| Rc::clone(&attempts[attempt].endpoint));
        if failure == Failure::Truncated {
            // It would say the same again.
            return match self.untried(now) {
                Some(other) => self.turn_to(&other, now),
                None => Some(self.give_up(ExchangeError::Truncated { endpoint: endpoint.label.clone() })),
            };
        }
        if self.group.is_down() {
            return Some(self.give_up(ExchangeError::Unreachable { endpoint: endpoint.label.clone() }));
        }
        self.retries += 1;
        if self.retries > RETRIES {
            return Some(self.give_up(ExchangeError::Unreachable { endpoint: endpoint.label.clone() }));
        }
        if failure == Failure::Lost && !endpoint.is_down() && self.retries <= RETRIES_AT_ONCE {
            // A connection that was closed under the query is no failure: once more, where life is proven.
            self.hedge_at = Some(now + endpoint.hedge_delay());
            let made = self.flight.attempts(|attempts| attempts[attempt].made);
            let made = self.attempt(&endpoint, now, Attempt { after: Some(made), ..Attempt::FIRST });
            return made.err().map(|error| self.give_up(error));
        }
        if let Some(other) = self.untried(now) {
            return self.turn_to(&other, now);
        }
        self.hedge_at = None;
        // Retries at once are no reason to wait longer.
        self.retry_at = Some(now + RETRY_FIRST * (1 << self.pauses.min(3)));
        self.pauses += 1;
        None
    }

    /// Asks `other`, now that nobody else is being asked.
    fn turn_to(&mut self, other: &Rc<Endpoint>, now: Instant) -> Option<Result<Reply, ExchangeError>> {
        self.hedge_at = Some(now + other.hedge_delay());
        self.attempt(other, now, Attempt::FIRST).err().map(|error| self.give_up(error))
    }

    fn on_time(&mut self, now: Instant) -> Option<Result<Reply, ExchangeError>> {
        if now >= self.deadline {
            return Some(self.timed_out());
        }
        if self.group.is_down() {
            return Some(self.give_up(ExchangeError::Down));
        }
        if due(&mut self.suspect_at, now) {
            self.suspect_silent();
        }
        if due(&mut self.retry_at, now) {
            match self.group.choose(now, |_| false) {
                Ok(endpoint) => {
                    self.hedge_at = Some(now + endpoint.hedge_delay());
                    if let Err(error) = self.attempt(&endpoint, now, Attempt::FIRST) {
                        return Some(self.give_up(error));
                    }
                }
                Err(error) => return Some(self.give_up(error)),
            }
        }
        if due(&mut self.behind_at, now) && self.is_behind(now) {
            self.hedge(Need::Behind, now);
        }
        if due(&mut self.hedge_at, now) {
            let need = if self.is_behind(now) || self.is_doubted(now) { Need::Behind } else { Need::Head };
            self.hedge(need, now);
        }
        None
    }

    /// Asks a second time, on another endpoint if there is one, else on another connection.
    fn hedge(&mut self, need: Need, now: Instant) {
        let tried = self.flight.attempts(<[_]>::len);
        let Ok(endpoint) = self.group.choose(now, |endpoint| self.has_tried(endpoint)) else { return };
        // Each further hedge waits longer than the one before.
        self.hedge_at = Some(now + endpoint.hedge_delay() * (1 << tried.min(3)));
        let waiting_for_a_dial = self.flight.attempts(|attempts| {
            attempts.iter().any(|a| !a.over && a.sent.is_none() && Rc::ptr_eq(&a.endpoint, &endpoint))
        });
        self.doubt_connections(now);
        if waiting_for_a_dial || tried >= ATTEMPTS || endpoint.is_full() {
            return;
        }
        // A query that was never sent may go elsewhere without asking for leave, and a datagram may have been lost.
        let unsent = self.flight.attempts(|attempts| attempts.iter().all(|a| a.over || a.sent.is_none()));
        let lost_datagram = self.group.settings().udp
            && !self.tcp
            && now - self.started >= endpoint.retransmit_delay() * (1 << (tried - 1).min(3));
        if !unsent && !lost_datagram && !self.group.take_hedge(need) {
            endpoint.metrics.hedges_denied.inc();
            return;
        }
        if self.attempt(&endpoint, now, Attempt { hedge: true, after: Some(self.started) }).is_ok() {
            endpoint.metrics.hedges_sent.inc();
        }
    }

    /// Has the kernel asked whether the peers of silent connections are there: if one is not, all its queries are asked
    /// again at once, without a budget.
    fn doubt_connections(&self, now: Instant) {
        self.flight.attempts(|attempts| {
            for attempt in attempts.iter().filter(|attempt| !attempt.over) {
                if let Some(Sent::Tcp(connection)) = &attempt.sent {
                    connection.doubt(now, attempt.endpoint.rtt().unwrap_or_default());
                }
            }
        });
    }

    fn timed_out(&mut self) -> Result<Reply, ExchangeError> {
        let endpoint = self.flight.attempts(|attempts| {
            for attempt in attempts.iter().filter(|attempt| !attempt.over) {
                attempt.endpoint.metrics.failed_timeout.inc();
            }
            attempts.last().map(|attempt| Rc::clone(&attempt.endpoint))
        });
        self.suspect_silent();
        let error = endpoint.map_or(ExchangeError::NoUpstream, |endpoint| ExchangeError::Timeout {
            endpoint: endpoint.label.clone(),
            after: self.group.settings().timeout,
        });
        self.give_up(error)
    }

    fn give_up(&mut self, error: ExchangeError) -> Result<Reply, ExchangeError> {
        self.second_best.take().ok_or(error)
    }

    /// Has every endpoint checked that was asked and has told nobody anything since.
    fn suspect_silent(&self) {
        self.flight.attempts(|attempts| {
            for attempt in attempts.iter().filter(|attempt| !attempt.over) {
                if attempt.endpoint.last_reply().is_none_or(|reply| reply < self.started) {
                    attempt.endpoint.suspect();
                }
            }
        });
    }

    fn is_behind(&self, now: Instant) -> bool {
        self.flight.attempts(|attempts| {
            let mut open = attempts.iter().filter(|attempt| !attempt.over).peekable();
            open.peek().is_some()
                && open.all(|attempt| match &attempt.sent {
                    Some(Sent::Tcp(connection)) => {
                        connection.is_behind(&self.flight, now, attempt.endpoint.blocked_after())
                    }
                    _ => false,
                })
        })
    }

    /// Whether all that was asked has failed others meanwhile.
    fn is_doubted(&self, now: Instant) -> bool {
        self.flight.attempts(|attempts| {
            attempts.iter().filter(|attempt| !attempt.over).all(|attempt| attempt.endpoint.is_doubted(now))
        })
    }

    fn has_open_attempt(&self) -> bool {
        self.flight.attempts(|attempts| attempts.iter().any(|attempt| !attempt.over))
    }

    fn has_tried(&self, endpoint: &Rc<Endpoint>) -> bool {
        self.flight
            .attempts(|attempts| attempts.iter().any(|attempt| Rc::ptr_eq(&attempt.endpoint, endpoint)))
    }

    /// An endpoint that is up and has not been asked for this lookup.
    fn untried(&self, now: Instant) -> Option<Rc<Endpoint>> {
        self.group
            .choose(now, |endpoint| self.has_tried(endpoint))
            .ok()
            .filter(|endpoint| !self.has_tried(endpoint))
    }
}

/// How an attempt is made.
#[derive(Clone, Copy)]
struct Attempt {
    hedge: bool,
    /// Only on a connection opened or heard from after this, where one can be had.
    after: Option<Instant>,
}

impl Attempt {
    const FIRST: Self = Self { hedge: false, after: None };
}

fn due(time: &mut Option<Instant>, now: Instant) -> bool {
    time.take_if(|time| *time <= now).is_some()
}

/// Attempts of one lookup in all.
const ATTEMPTS: usize = 8;
/// Attempts after failures.
const RETRIES: u32 = 6;
/// Those of them that follow a closed connection without a pause.
const RETRIES_AT_ONCE: u32 = 3;
/// The pause before the second attempt to reach what could not be reached; doubles.
const RETRY_FIRST: Duration = Duration::from_millis(50);
/// A lookup without any reply for so long makes the endpoint suspect.
const SUSPECT_AFTER: Duration = Duration::from_millis(800);
/// SERVFAIL, NOTIMP and REFUSED.
const MAY_BE_BETTER_ELSEWHERE: [u8; 3] = [2, 4, 5];
