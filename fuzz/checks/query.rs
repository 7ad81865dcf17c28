//! A client's packet as [`Query::parse`] views it, against hickory-proto. The input is the packet.

use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode};
use hickory_proto::rr::rdata::opt::EdnsCode;
use nodens::wire::HEADER_LEN;
use nodens::wire::query::{Query, Rejection};
use nodens::wire::reply::{Asked, Parts, Transport, Ttls, push_reply, push_truncated};

pub(crate) fn check(packet: &[u8]) -> bool {
    match Query::parse(packet) {
        Ok(query) => {
            accepted(packet, &query);
            true
        }
        Err(Rejection::Ignore(_)) => false,
        Err(Rejection::Answer { rcode, head_len, edns }) => {
            assert!(rcode != 0 && rcode <= 0xfff);
            assert!((HEADER_LEN..=packet.len()).contains(&head_len));
            let asked = Asked { head: &packet[..head_len], edns, transport: UDP };
            let reply = error(&asked, rcode);
            assert_eq!(
                reply[HEADER_LEN..head_len],
                packet[HEADER_LEN..head_len],
                "the question comes back as it was"
            );
            assert_eq!(reply.len() > head_len, edns.is_some(), "behind it stands an OPT or nothing");
            let reply = Message::from_vec(&reply);
            // Other opcodes are answered too, but have sections of their own meaning.
            if packet[2] & 0x78 == 0 {
                let reply = reply.expect("hickory-proto reads an error");
                let bits = if edns.is_some() { 0xfff } else { 0xf };
                assert_eq!(u16::from(reply.metadata.response_code), rcode & bits);
                assert_eq!(reply.edns.is_some(), edns.is_some());
                assert_eq!(reply.queries.len(), usize::from(head_len > HEADER_LEN));
            }
            false
        }
    }
}

const UDP: Transport = Transport::Udp { max_payload: 1232 };
const TCP: Transport = Transport::Tcp { idle_timeout: Duration::from_secs(10) };

fn accepted(packet: &[u8], query: &Query<'_>) {
    let head = query.head();
    assert_eq!(head, &packet[..head.len()]);
    assert_eq!(query.name().len() + HEADER_LEN + 4, head.len());
    // The question by itself: records behind it may hold what only hickory-proto looks into.
    let mut alone = head.to_vec();
    alone[6..HEADER_LEN].fill(0);
    let message = Message::from_vec(&alone).expect("hickory-proto reads what the view accepts");
    assert_eq!(message.metadata.message_type, MessageType::Query);
    assert_eq!(message.metadata.op_code, OpCode::Query);
    assert_eq!(message.metadata.recursion_desired, query.recursion_desired());
    assert_eq!(message.metadata.checking_disabled, query.checking_disabled());
    let [question] = &message.queries[..] else { panic!("one question, not {}", message.queries.len()) };
    assert_eq!(u16::from(question.query_type()), query.qtype());
    assert_eq!(u16::from(question.query_class()), query.qclass());
    let mut name = Vec::new();
    for label in question.name() {
        name.push(label.len() as u8);
        name.extend_from_slice(label);
    }
    name.push(0);
    assert_eq!(name, query.name());

    if let Ok(whole) = Message::from_vec(packet) {
        assert_eq!(whole.edns.is_some(), query.edns().is_some(), "an OPT");
        if let (Some(theirs), Some(ours)) = (&whole.edns, query.edns()) {
            assert_eq!(theirs.version(), 0);
            assert_eq!(theirs.max_payload().max(512), ours.udp_payload);
            assert_eq!(theirs.flags().dnssec_ok, ours.dnssec_ok);
            assert_eq!(theirs.option(EdnsCode::Keepalive).is_some(), ours.keepalive);
        }
    }

    for transport in [UDP, TCP] {
        let asked = Asked::of(query, transport);
        let reply = error(&asked, 2);
        let message = Message::from_vec(&reply).expect("hickory-proto reads an error");
        assert_eq!((message.queries.len(), message.edns.is_some()), (1, query.edns().is_some()));
        assert!(reply.len() <= asked.limit().max(head.len() + 64));
        let mut truncated = Vec::new();
        push_truncated(&mut truncated, &asked, 0);
        assert!(Message::from_vec(&truncated).expect("hickory-proto reads it").metadata.truncation);
    }
}

fn error(asked: &Asked<'_>, rcode: u16) -> Vec<u8> {
    let mut out = Vec::new();
    let parts = Parts { rcode, authentic_data: true, counts: [0; 3], body: &[], ttl_at: &[] };
    push_reply(&mut out, asked, &parts, Ttls::Aged(0), Some(23));
    out
}
