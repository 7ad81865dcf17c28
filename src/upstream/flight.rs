//! One lookup on its way: where the connections put what they find out, and where the lookup waits for it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::connection::Connection;
use super::endpoint::Endpoint;
use super::message::{Header, Message};

/// A lookup and all its attempts.
pub(super) struct Flight {
    /// What is asked.
    pub(super) message: Message,
    done: Cell<bool>,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    waker: Option<Waker>,
    /// Nearly always there is one event at a time.
    event: Option<Event>,
    more: Vec<Event>,
    attempts: Vec<Attempt>,
}

/// One query to one endpoint.
pub(super) struct Attempt {
    /// Where to.
    pub(super) endpoint: Rc<Endpoint>,
    /// When the attempt was made.
    pub(super) made: Instant,
    /// Where it went: nothing while it waits for a connection.
    pub(super) sent: Option<Sent>,
    /// Whether it is a second question beside one that is still open.
    pub(super) hedge: bool,
    /// Whether it has failed or its reply did not settle the lookup.
    pub(super) over: bool,
}

impl Attempt {
    /// It takes none of its endpoint's room any more: a retry may.
    fn end(&mut self) {
        if !self.over {
            self.over = true;
            self.endpoint.in_flight_changed(-1);
        }
    }

    /// Whether it went out on this connection.
    pub(super) fn is_on(&self, connection: &Rc<Connection>) -> bool {
        matches!(&self.sent, Some(Sent::Tcp(other)) if Rc::ptr_eq(other, connection))
    }
}

/// How a query left.
#[derive(Clone)]
pub(super) enum Sent {
    /// On this connection.
    Tcp(Rc<Connection>),
    /// From a socket of its own, whose task this ends.
    Udp(AbortHandle),
}

/// What happened to an attempt.
pub(super) enum Event {
    /// A reply whose id and question match.
    Reply {
        /// The attempt's number.
        attempt: usize,
        /// The whole message.
        message: Vec<u8>,
        /// What its header says.
        header: Header,
        /// When it was read.
        read: Instant,
    },
    /// It will not be answered.
    Failed {
        /// The attempt's number.
        attempt: usize,
        /// Why.
        failure: Failure,
    },
}

/// Why an attempt will not be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// The connection was closed with the query on it, by the peer or because the peer is gone.
    Lost,
    /// No connection could be opened.
    Dial,
    /// The host says that nobody listens there (ICMP, over UDP).
    Refused,
    /// No socket could be had.
    Socket,
    /// It was answered over TCP, with TC.
    Truncated,
}

impl Flight {
    pub(super) fn new(message: Message) -> Rc<Self> {
        Rc::new(Self { message, done: Cell::new(false), state: RefCell::default() })
    }

    /// Whether nobody waits any more.
    pub(super) fn is_done(&self) -> bool {
        self.done.get()
    }

    /// Adds an attempt and gives its number.
    pub(super) fn begin(&self, endpoint: &Rc<Endpoint>, made: Instant, hedge: bool) -> usize {
        endpoint.in_flight_changed(1);
        let attempts = &mut self.state.borrow_mut().attempts;
        attempts.push(Attempt { endpoint: Rc::clone(endpoint), made, sent: None, hedge, over: false });
        attempts.len() - 1
    }

    /// Notes how the attempt left.
    pub(super) fn sent(&self, attempt: usize, now: Instant, how: Sent) {
        if let Some(attempt) = self.state.borrow_mut().attempts.get_mut(attempt) {
            attempt.made = now;
            attempt.sent = Some(how);
        }
    }

    /// The attempt's reply has been used, and the lookup goes on.
    pub(super) fn settle(&self, attempt: usize) {
        if let Some(attempt) = self.state.borrow_mut().attempts.get_mut(attempt) {
            attempt.end();
        }
    }

    /// Looks at the attempts made so far.
    pub(super) fn attempts<T>(&self, look: impl FnOnce(&[Attempt]) -> T) -> T {
        look(&self.state.borrow().attempts)
    }

    /// Hands an event to whoever waits.
    pub(super) fn deliver(&self, event: Event) {
        if self.done.get() {
            return;
        }
        let waker = {
            let mut state = self.state.borrow_mut();
            if let Event::Failed { attempt, .. } = &event
                && let Some(attempt) = state.attempts.get_mut(*attempt)
            {
                attempt.end();
            }
            if state.event.is_none() {
                state.event = Some(event);
            } else {
                state.more.push(event);
            }
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The next event, in the order they happened.
    pub(super) fn poll_event(&self, context: &mut Context<'_>) -> Poll<Event> {
        let mut state = self.state.borrow_mut();
        if let Some(event) = state.event.take() {
            if !state.more.is_empty() {
                state.event = Some(state.more.remove(0));
            }
            return Poll::Ready(event);
        }
        if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            state.waker = Some(context.waker().clone());
        }
        Poll::Pending
    }
}

/// Ends the flight when the lookup returns or is dropped: late replies find nobody, and the circle of flight and
/// connection is cut.
pub(super) struct Landing(pub(super) Rc<Flight>);

impl Drop for Landing {
    fn drop(&mut self) {
        self.0.done.set(true);
        let mut state = std::mem::take(&mut *self.0.state.borrow_mut());
        for attempt in &mut state.attempts {
            attempt.end();
            if let Some(Sent::Udp(task)) = &attempt.sent {
                task.abort();
            }
        }
    }
}
