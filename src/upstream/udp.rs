//! One query over UDP: a socket, a source port and an id of its own, and the letters of its name in random case.
//!
//! The socket is connected, so that the kernel drops datagrams from anywhere but the endpoint (RFC 5452 §9.2), and is
//! given its port at random by the kernel when it is bound.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;

use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::time::Instant;

use super::endpoint::Endpoint;
use super::flight::{Event, Failure, Flight};
use super::message::{self, Message, Mismatch};

/// What is known of an upstream's way with letter case (draft-vixie-dnsext-dns0x20 §6).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum LetterCase {
    /// Nothing yet: queries go out in mixed case, and the first reply tells.
    #[default]
    Unknown,
    /// Replies repeat it: any other case is a forgery. Counts replies in a row that did not.
    Kept(u8),
    /// Replies do not repeat it: queries go out in lower case.
    Folded,
}

impl LetterCase {
    fn mixes(self) -> bool {
        self != Self::Folded
    }

    /// A reply repeated a question that had letters in upper case.
    fn kept(&mut self) {
        *self = Self::Kept(0);
    }

    /// A reply had the right id and question in another case. Returns true if that is now held to be the upstream's
    /// way, and the query is to be asked again in lower case.
    fn lost(&mut self) -> bool {
        match self {
            Self::Kept(count) if *count + 1 < FORGERIES => {
                *count += 1;
                false
            }
            // Something else answers at this address now, or an attacker who can guess ports and ids need not bother.
            _ => {
                *self = Self::Folded;
                true
            }
        }
    }
}

/// Sends the query and waits for its reply, until the flight ends and the task is aborted.
pub(super) async fn attempt(endpoint: Rc<Endpoint>, flight: Rc<Flight>, attempt: usize) {
    let failure = match ask(&endpoint, &flight, attempt).await {
        Ok(()) => return,
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            endpoint.metrics.failed_refused.inc();
            endpoint.failed(Instant::now());
            Failure::Refused
        }
        Err(error) => {
            endpoint.metrics.failed_socket.inc();
            tracing::debug!(endpoint = &*endpoint.label, %error, "udp query failed");
            Failure::Socket
        }
    };
    flight.deliver(Event::Failed { attempt, failure });
}

async fn ask(endpoint: &Rc<Endpoint>, flight: &Rc<Flight>, attempt: usize) -> io::Result<()> {
    let any = match endpoint.address {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(endpoint.address).await?;
    let (mut id, mut query) = dress(endpoint, &flight.message);
    let mut sent = Instant::now();
    socket.send(query.bytes()).await?;
    let metrics = &endpoint.metrics;
    loop {
        // A pending ICMP error makes the socket not readable but in error.
        if socket.ready(Interest::READABLE | Interest::ERROR).await?.is_error() {
            if let Some(error) = socket.take_error()? {
                return Err(error);
            }
            let _ = socket.try_io(Interest::ERROR, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
            continue;
        }
        // Nothing between here and the loop's next turn waits, so the shared buffer is not held over an await.
        let scratch = endpoint.scratch();
        let mut scratch = scratch.borrow_mut();
        let reply = match socket.try_recv(&mut scratch) {
            Ok(length) => &scratch[..length],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        match message::id(reply) {
            None => metrics.ignored_malformed.inc(),
            Some(other) if other != id => metrics.ignored_id.inc(),
            Some(_) => {
                let mixed = endpoint.letter_case.borrow().mixes();
                match message::check(reply, query.question(), mixed) {
                    Ok(header) => {
                        if query.question() != flight.message.question() && mixed {
                            endpoint.letter_case.borrow_mut().kept();
                        }
                        let now = Instant::now();
                        endpoint.answered(&flight.message, header, now, sent);
                        let message = restore(reply, &flight.message);
                        flight.deliver(Event::Reply { attempt, message, header, read: now });
                        return Ok(());
                    }
                    Err(Mismatch::Malformed) => metrics.ignored_malformed.inc(),
                    Err(Mismatch::Case) if endpoint.letter_case.borrow_mut().lost() => {
                        metrics.ignored_question.inc();
                        (id, query) = dress(endpoint, &flight.message);
                        sent = Instant::now();
                        metrics.queries.inc();
                        // A full socket buffer is a lost datagram like any other: the next attempt makes up for it.
                        let _ = socket.try_send(query.bytes());
                    }
                    Err(_) => metrics.ignored_question.inc(),
                }
            }
        }
    }
}

/// The query as it goes out: a random id, and random letter case unless the upstream does not keep it.
fn dress(endpoint: &Endpoint, message: &Message) -> (u16, Message) {
    let id = rand::random();
    if !endpoint.letter_case.borrow().mixes() {
        return (id, message.for_udp(id, || false));
    }
    let (mut bits, mut left) = (0u64, 0);
    let coin = || {
        if left == 0 {
            (bits, left) = (rand::random(), 64);
        }
        left -= 1;
        bits >> left & 1 == 1
    };
    (id, message.for_udp(id, coin))
}

/// The reply with the question in the letter case of the lookup: the mixed case is between this room and the upstream.
fn restore(reply: &[u8], message: &Message) -> Vec<u8> {
    let mut reply = reply.to_vec();
    let question = message.question();
    reply[message::HEADER..message::HEADER + question.len()].copy_from_slice(question);
    reply
}

/// Replies in a row in another letter case before an upstream that kept it is held to do so no longer.
const FORGERIES: u8 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reply_tells_and_a_single_forgery_changes_nothing() {
        let mut case = LetterCase::default();
        assert!(case.mixes());
        case.kept();
        assert!(!case.lost());
        assert!(!case.lost());
        case.kept();
        assert!(!case.lost());
        assert!(case.mixes());
        assert!(!case.lost());
        assert!(case.lost(), "three in a row");
        assert!(!case.mixes());
        assert!(LetterCase::Unknown.lost());
    }
}
