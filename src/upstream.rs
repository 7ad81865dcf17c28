//! Asking upstreams: a few long-lived TCP connections with pipelining, UDP where configured, hedges against peers that
//! vanish, and the health of every endpoint.
//!
//! This room opens sockets and reads the clock (tokio's, so that tests can stop it). It knows the wire form of a query
//! and of a reply's header and question, and leaves the rest of a reply to its caller. All of it runs on one thread, in
//! a `tokio::task::LocalSet`.
//!
//! | RFC | what it says here | where |
//! |---|---|---|
//! | 5452 | random ids and ports; id, source and the whole question must match | `message`, `waiters`, `udp` |
//! | 6298 | smoothed round trip and its variation, per endpoint | `estimate` |
//! | 6891 | a plain OPT on every query, none of the client's options | `message` |
//! | 7766 | pipelining, replies in any order, the server may close at any time | `connection`, `exchange` |
//! | 9715 | 1232 bytes offered over UDP | `message` |
//!
//! The way of a lookup: `group` chooses an endpoint by policy and health; `exchange` makes attempts until one is
//! answered or time is up; `pool` chooses the connection, `dial` opens new ones; `connection` writes in batches and
//! gives replies to the `flight` that waits. Decisions (`estimate`, `budget`, `health`, `policy`, `pool`, `waiters`)
//! are plain structures that take the time as an argument.

use std::sync::Arc;
use std::time::Duration;

mod budget;
mod connection;
mod dial;
mod endpoint;
mod estimate;
mod exchange;
mod flight;
mod group;
mod health;
mod message;
mod metrics;
mod policy;
mod pool;
mod udp;
mod waiters;

pub use group::Group;
pub use metrics::{EndpointSnapshot, Metrics};

/// What is asked of an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "they are the header's and OPT's flag bits")]
pub struct Query {
    /// The name in wire form, ASCII letters in lower case, with the root byte; at most 255 bytes.
    pub name: Box<[u8]>,
    /// QTYPE.
    pub qtype: u16,
    /// QCLASS.
    pub qclass: u16,
    /// DO (RFC 3225).
    pub dnssec_ok: bool,
    /// CD (RFC 4035 §3.2.2).
    pub checking_disabled: bool,
    /// RD.
    pub recursion_desired: bool,
    /// AD (RFC 6840 §5.7).
    pub authentic_data: bool,
}

impl Query {
    /// The health query, `. NS`: most upstreams have it in their cache, and any reply to it counts.
    pub(crate) fn health() -> Self {
        Self {
            name: Box::new([0]),
            qtype: 2,
            qclass: 1,
            dnssec_ok: false,
            checking_disabled: false,
            recursion_desired: true,
            authentic_data: false,
        }
    }
}

/// A reply whose source, id and full question matched the query. Nothing else of it has been looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The whole message, with an id of its own.
    pub message: Vec<u8>,
    /// Who gave it, as metrics and logs name it, e.g. `10.96.0.10:53`.
    pub endpoint: Arc<str>,
    /// TC is set. Only with transport `udp`: `auto` and `tcp` give complete replies.
    pub truncated: bool,
}

/// Why there is no reply. `endpoint` is the last one that was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExchangeError {
    /// Queries were sent and went unanswered until the lookup's time (`forward.timeout`) was up.
    #[error("no reply from {endpoint} within {after:?}: check that it answers, or raise forward.timeout")]
    Timeout {
        /// Whom.
        endpoint: Arc<str>,
        /// The time that was given.
        after: Duration,
    },
    /// No connection could be opened, or each was closed before it answered.
    #[error("{endpoint} cannot be reached: check its address and the network policy on the way")]
    Unreachable {
        /// Whom.
        endpoint: Arc<str>,
    },
    /// Every endpoint is known to be down. Told at once; probes go on beside.
    #[error("all upstreams of the zone are down")]
    Down,
    /// Whoever was asked over TCP said TC, which asks for what was just done (RFC 7766 §5): there is no whole answer.
    #[error(
        "{endpoint} truncates its reply over TCP: the answer is too large for a message, or the server at fault"
    )]
    Truncated {
        /// Whom.
        endpoint: Arc<str>,
    },
    /// The endpoint has `forward.max_in_flight` unanswered queries.
    #[error("{endpoint} has forward.max_in_flight unanswered queries already")]
    Overloaded {
        /// Whom.
        endpoint: Arc<str>,
    },
    /// The group has no address, since its resolv.conf names none.
    #[error("the zone has no upstream address: its resolv.conf names no usable nameserver")]
    NoUpstream,
}
