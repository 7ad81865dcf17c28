//! Replies that are ready together, and leave together: one `sendmmsg` a socket.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;

use super::client::{Client, Way};
use crate::observe::{Proto, Server};
use crate::sys::mmsg::Outgoing;
use crate::sys::socket::UdpListener;
use crate::wire::reply::{Asked, Parts, Ttls, push_reply, push_truncated};
use crate::wire::{ede, rcode};

/// Collects replies until [`Outbox::flush`].
#[derive(Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    datagrams: Vec<Datagram>,
    outgoing: Outgoing,
}

struct Datagram {
    listener: Arc<UdpListener>,
    peer: SocketAddr,
    start: usize,
    end: usize,
}

/// What went to a client, or will.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pushed {
    /// Bytes of the reply.
    pub len: usize,
    /// It is not the answer but SERVFAIL: clients that do not read have taken all there is for them (see [`super::kept`]).
    pub shed: bool,
}

impl Outbox {
    /// Replies to `client` with an answer's parts. A TCP reply goes to its connection's writer at once, a datagram waits for
    /// [`Self::flush`].
    pub fn reply(
        &mut self,
        client: &Client,
        parts: &Parts<'_>,
        ttls: Ttls,
        extended_error: Option<u16>,
    ) -> Pushed {
        self.push(client, |out, asked| push_reply(out, asked, parts, ttls, extended_error))
    }

    /// Tells `client` that the answer was cut before it came here.
    pub fn reply_truncated(&mut self, client: &Client, rcode: u16) -> Pushed {
        self.push(client, |out, asked| push_truncated(out, asked, rcode))
    }

    fn push(&mut self, client: &Client, write: impl FnOnce(&mut Vec<u8>, &Asked<'_>)) -> Pushed {
        match &client.way {
            Way::Udp(listener) => {
                let start = self.bytes.len();
                write(&mut self.bytes, &client.asked());
                let end = self.bytes.len();
                let listener = Arc::clone(listener);
                self.datagrams.push(Datagram { listener, peer: client.peer, start, end });
                Pushed { len: end - start, shed: false }
            }
            Way::Tcp(way) => {
                let mut reply = Vec::with_capacity(512);
                write(&mut reply, &client.asked());
                let shed = !way.kept.take(reply.len());
                if shed {
                    // An answer without records always fits beside it.
                    reply = Vec::new();
                    let nothing = Parts {
                        rcode: rcode::SERVFAIL,
                        authentic_data: false,
                        counts: [0; 3],
                        body: &[],
                        ttl_at: &[],
                    };
                    push_reply(&mut reply, &client.asked(), &nothing, Ttls::Aged(0), Some(ede::NOT_READY));
                    if !way.kept.take(reply.len()) {
                        reply.clear();
                    }
                }
                let len = reply.len();
                // Closed: the client is gone, and its answer with it. Full cannot be (see TcpWay).
                if way.replies.try_send(reply).is_err() {
                    way.kept.give_back(len);
                }
                Pushed { len, shed }
            }
        }
    }

    /// Whether there is nothing to flush.
    pub fn is_empty(&self) -> bool {
        self.datagrams.is_empty()
    }

    /// Datagrams that wait to be flushed.
    pub fn len(&self) -> usize {
        self.datagrams.len()
    }

    /// Sends the datagrams, those of one socket in one batch. `refused` is told whose datagrams the kernel did not take, and how
    /// many: a full send buffer, an unreachable peer, a rule that drops them.
    pub fn flush(&mut self, mut refused: impl FnMut(Server, usize)) {
        // Almost always one listener, and then already in order; stable, so each socket keeps its replies' order.
        self.datagrams.sort_by_key(|datagram| Arc::as_ptr(&datagram.listener).addr());
        for of_listener in self.datagrams.chunk_by(|a, b| Arc::ptr_eq(&a.listener, &b.listener)) {
            let datagrams = of_listener.iter().map(|d| (d.peer, &self.bytes[d.start..d.end]));
            let (sent, _) = self.outgoing.send(of_listener[0].listener.as_fd(), datagrams);
            if sent < of_listener.len() {
                let address = of_listener[0].listener.address();
                refused(Server { address, proto: Proto::Udp }, of_listener.len() - sent);
            }
        }
        self.datagrams.clear();
        self.bytes.clear();
        // A burst of large replies must not be remembered forever.
        self.bytes.shrink_to(KEPT_BYTES);
    }
}

/// Bytes of reply buffer kept between flushes: a batch of usual replies.
const KEPT_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Now;
    use crate::wire::query::Query;
    use crate::wire::reply::Transport;

    #[test]
    fn what_the_kernel_does_not_take_is_told_by_listener() {
        let listener = Arc::new(UdpListener::bind("127.0.0.1:0".parse().unwrap()).unwrap());
        let packet = b"\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x00\x00\x01\x00\x01";
        let query = Query::parse(packet).unwrap();
        let mut outbox = Outbox::default();
        // A socket on loopback has no way to another network: refused at once, and nothing leaves.
        for peer in ["203.0.113.1:53", "127.0.0.1:9", "203.0.113.2:53"] {
            let transport = Transport::Udp { max_payload: 1232 };
            let way = Way::Udp(Arc::clone(&listener));
            let client = Client::new(&query, transport, peer.parse().unwrap(), Now::default(), way);
            outbox.reply_truncated(&client, rcode::NOERROR);
        }
        assert_eq!(outbox.len(), 3);
        let mut told = Vec::new();
        outbox.flush(|server, replies| told.push((server, replies)));
        assert_eq!(told, [(Server { address: listener.address(), proto: Proto::Udp }, 2)]);
        assert!(outbox.is_empty());
    }
}
