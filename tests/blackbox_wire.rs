//! What a client sees on the wire: one test for each rule, named after its RFC. The real binary, nsd behind it.

mod support {
    pub mod client;
    pub mod loopback;
    pub mod need;
    pub mod nodens;
    pub mod nsd;
    pub mod wait;
}

use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

#[allow(unused_imports)]
use support::client::{
    A, AA, AAAA, AD, ANY, CD, Edns, NS, OPT, QR, Query, RA, RD, Reply, SOA, TC, TXT, Tcp, Udp, Z, both,
    frame, tcp, tcp_bytes, udp, udp_bytes, udp_silence, udp_within, wire_name,
};
use support::need;
use support::nodens::{Nodens, zone_dot};
use support::nsd::{CLUSTER, EXTERNAL, Nsd};
use support::wait::seconds;

/// nodens with one worker, so that answers over UDP come in order, before nsd.
struct Server {
    nodens: Nodens,
    nsd: Nsd,
}

fn server() -> Option<Server> {
    server_with("")
}

fn server_with(yaml: &str) -> Option<Server> {
    if !need::programs(&["nsd"]) {
        return None;
    }
    let nsd = Nsd::start(&[EXTERNAL, CLUSTER]);
    let nodens = Nodens::start(&format!("listen: {{workers: 1}}\n{}{yaml}", zone_dot(nsd.address(), "tcp")));
    Some(Server { nodens, nsd })
}

impl Server {
    /// The reply to the query when its answer has to be fetched, when it is in the store, and when it is near.
    fn each_way(&self, query: &Query) -> Vec<Reply> {
        let address = self.nodens.address();
        let mut replies: Vec<_> = (0..3).map(|_| udp(address, query)).collect();
        replies.extend((0..2).map(|_| tcp(address, query)));
        replies
    }
}

const WWW: [u8; 4] = [192, 0, 2, 80];

#[test]
fn rfc1035_an_answer_over_udp_and_tcp() {
    let Some(server) = server() else { return };
    for reply in server.each_way(&Query::new("www.example.test", A)) {
        assert_eq!((reply.rcode(), reply.addresses()), (ResponseCode::NoError, vec![WWW.into()]));
        // A forwarder's answer is not authoritative, offers recursion, and is no query.
        assert_eq!(reply.flags(), QR | RD | RA);
    }
    assert_eq!(server.nodens.stop(), Some(0));
}

#[test]
fn rfc1035_id_question_and_letter_case_come_back() {
    let Some(server) = server() else { return };
    for name in ["WwW.eXample.TEST", "www.example.test", "WWW.EXAMPLE.TEST", "Nx.ExAmple.Test"] {
        let query = Query::new(name, A);
        for reply in server.each_way(&query) {
            assert_eq!((reply.id(), reply.question()), (query.id, &query.question()[..]), "{name}");
        }
    }
    // RFC 4343: they were one name.
    assert_eq!(server.nodens.metrics().sum("nodens_cache_misses_total", &[]), 2.0);
}

#[test]
fn rfc1035_qdcount_other_than_1_is_formerr() {
    let Some(server) = server() else { return };
    let address = server.nodens.address();
    let query = Query::new("www.example.test", A);
    for (count, questions) in [(0_u16, 0), (2, 2), (65_535, 1)] {
        let mut bytes = query.bytes()[..12].to_vec();
        bytes[4..6].copy_from_slice(&count.to_be_bytes());
        for _ in 0..questions {
            bytes.extend_from_slice(&query.question());
        }
        for reply in [udp_bytes(address, &bytes), tcp_bytes(address, &bytes).unwrap()] {
            assert_eq!((reply.rcode(), reply.id()), (ResponseCode::FormErr, query.id), "QDCOUNT {count}");
            assert_eq!(reply.counts(), [0; 4], "QDCOUNT {count}");
        }
    }
    let good = udp(address, &query);
    assert_eq!(good.addresses(), [WWW.into()]);
}
