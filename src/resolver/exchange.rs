//! What the miss path needs of an upstream: the seam that tests put a scripted one behind.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

/// A query to put to an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "they are the header's and OPT's flag bits")]
pub struct Query {
    /// The name in wire form.
    pub name: Box<[u8]>,
    /// The type.
    pub qtype: u16,
    /// The class.
    pub qclass: u16,
    /// DO.
    pub dnssec_ok: bool,
    /// CD.
    pub checking_disabled: bool,
    /// RD.
    pub recursion_desired: bool,
    /// AD.
    pub authentic_data: bool,
}

/// A reply whose id and question match the query's.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The whole message.
    pub message: Vec<u8>,
    /// Who gave it.
    pub endpoint: Arc<str>,
    /// TC is set.
    pub truncated: bool,
}

/// Why there is no reply. `endpoint` is the last one that was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "superseded by the upstream room's own")]
pub enum ExchangeError {
    #[error("no reply from {endpoint} within {after:?}")]
    Timeout { endpoint: Arc<str>, after: std::time::Duration },
    #[error("{endpoint} cannot be reached")]
    Unreachable { endpoint: Arc<str> },
    #[error("all upstreams of the zone are down")]
    Down,
    #[error("{endpoint} has forward.max_in_flight unanswered queries already")]
    Overloaded { endpoint: Arc<str> },
    #[error("the zone has no upstream address")]
    NoUpstream,
}

/// A group of upstreams that give the same answers.
pub trait Exchange: 'static {
    /// Asks, with all retries and hedges there are.
    fn exchange(&self, query: &Query) -> impl Future<Output = Result<Reply, ExchangeError>>;

    /// Whether all of it is known to be down.
    fn is_down(&self) -> bool;

    /// Whether it answers anything at all.
    fn probe(&self) -> impl Future<Output = bool>;

    /// Takes these addresses from now on.
    fn set_addresses(&self, addresses: Vec<SocketAddr>);
}
