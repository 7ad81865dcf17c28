//! nodens before nsd, asked in every way that an answer can come.

#![allow(dead_code, unreachable_pub, reason = "each test file includes this and uses its part")]

use super::client::{A, Query, Reply, tcp, tcp_bytes, udp, udp_bytes};
use super::need;
use super::nodens::{Nodens, zone_dot};
use super::nsd::{CLUSTER, EXTERNAL, Nsd};

/// nodens with one worker, so that answers over UDP come in order, before nsd.
pub struct Server {
    pub nodens: Nodens,
    pub nsd: Nsd,
}

/// Both, if nsd is installed.
pub fn server() -> Option<Server> {
    if !need::programs(&["nsd"]) {
        return None;
    }
    let nsd = Nsd::start(&[EXTERNAL, CLUSTER]);
    let nodens = Nodens::start(&format!("listen: {{workers: 1}}\n{}", zone_dot(nsd.address(), "tcp")));
    Some(Server { nodens, nsd })
}

impl Server {
    /// The replies to the query when its answer has to be fetched, when it is in the store, when it is near, and over TCP.
    pub fn each_way(&self, query: &Query) -> Vec<Reply> {
        let address = self.nodens.address();
        let mut replies: Vec<_> = (0..3).map(|_| udp(address, query)).collect();
        replies.extend((0..2).map(|_| tcp(address, query)));
        replies
    }

    /// The replies to these bytes over UDP and TCP.
    pub fn each_way_bytes(&self, bytes: &[u8]) -> [Reply; 2] {
        let address = self.nodens.address();
        [udp_bytes(address, bytes), tcp_bytes(address, bytes).expect("the connection stays open")]
    }
}

/// The address of `www.example.org`.
pub const WWW: [u8; 4] = [192, 0, 2, 80];

/// A query for the addresses of `www.example.org`.
pub fn www() -> Query {
    Query::new("www.example.org", A)
}
