//! A client that waits for an answer the cache did not have.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::sync::mpsc;

use super::kept::Kept;
use crate::cache::Now;
use crate::observe::{Proto, Server};
use crate::sys::socket::UdpListener;
use crate::wire::HEADER_LEN;
use crate::wire::query::{Edns, Query};
use crate::wire::reply::{Asked, Transport};

/// A client, as far as its reply goes: what it asked, and the way back to it.
#[derive(Debug)]
pub struct Client {
    head: Box<[u8]>,
    edns: Option<Edns>,
    transport: Transport,
    query_len: u16,
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
    /// The connection's writer.
    Tcp(TcpWay),
}

/// The way back over a TCP connection.
#[derive(Debug, Clone)]
pub struct TcpWay {
    /// The connection's writer: replies without their length prefix. Bounded by the connection's own limit of queries in
    /// flight, so it has room for every answer that is owed.
    pub replies: mpsc::Sender<Vec<u8>>,
    /// What the replies that wait there are counted in, in bytes.
    pub kept: Kept,
    /// The listener the client connected to.
    pub listener: SocketAddr,
}

impl Way {
    /// The listener that was asked.
    pub fn server(&self) -> Server {
        match self {
            Self::Udp(listener) => Server { address: listener.address(), proto: Proto::Udp },
            Self::Tcp(way) => Server { address: way.listener, proto: Proto::Tcp },
        }
    }
}

impl Client {
    /// A client that sent `query`.
    pub fn new(query: &Query<'_>, transport: Transport, peer: SocketAddr, received: Now, way: Way) -> Self {
        let query_len = query.packet_len() as u16;
        Self { head: query.head().into(), edns: query.edns(), transport, query_len, peer, received, way }
    }

    /// What of the query its reply depends on.
    pub fn asked(&self) -> Asked<'_> {
        Asked { head: &self.head, edns: self.edns, transport: self.transport }
    }

    /// Bytes of the whole query.
    pub fn query_len(&self) -> usize {
        usize::from(self.query_len)
    }

    /// The name as the client sent it, in wire form.
    pub fn name(&self) -> &[u8] {
        &self.head[HEADER_LEN..self.head.len() - 4]
    }

    /// The client's address: what fairness between clients goes by.
    pub fn address(&self) -> IpAddr {
        self.peer.ip()
    }
}
