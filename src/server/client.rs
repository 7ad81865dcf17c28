//! A client that waits for an answer the cache did not have.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::cache::Now;
use crate::sys::socket::UdpListener;
use crate::wire::query::{Edns, Query};
use crate::wire::reply::{Asked, Transport};

/// A client, as far as its reply goes: what it asked, and the way back to it.
#[derive(Debug)]
pub struct Client {
    head: Box<[u8]>,
    edns: Option<Edns>,
    transport: Transport,
    /// The client's address and port.
    pub peer: SocketAddr,
    /// When its query was received.
    pub received: Now,
    /// The way back.
    pub way: Way,
}

/// The way back to a client.
#[derive(Debug, Clone)]
pub enum Way {
    /// A datagram from the address that was asked.
    Udp(Arc<UdpListener>),
    /// The connection's writer: replies without their length prefix. Bounded by the connection's own limit of queries
    /// in flight, so it has room for every answer that is owed.
    Tcp(mpsc::Sender<Vec<u8>>),
}

impl Client {
    /// A client that sent `query`.
    pub fn new(query: &Query<'_>, transport: Transport, peer: SocketAddr, received: Now, way: Way) -> Self {
        Self { head: query.head().into(), edns: query.edns(), transport, peer, received, way }
    }

    /// What of the query its reply depends on.
    pub fn asked(&self) -> Asked<'_> {
        Asked { head: &self.head, edns: self.edns, transport: self.transport }
    }

    /// The client's address: what fairness between clients goes by.
    pub fn address(&self) -> IpAddr {
        self.peer.ip()
    }
}
