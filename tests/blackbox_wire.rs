//! What a client sees on the wire: header, question, names, records. One test for each rule, named after its RFC. The real binary, nsd
//! behind it.

mod support {
    pub mod client;
    pub mod loopback;
    pub mod need;
    pub mod nodens;
    pub mod nsd;
    pub mod server;
    pub mod wait;
}

use hickory_proto::op::{Message, OpCode, ResponseCode};
use hickory_proto::rr::RecordType;

use support::client::{
    A, AA, AAAA, AD, ANY, CD, CNAME, QR, Query, RA, RD, SOA, TC, TXT, Tcp, Udp, Z, tcp, tcp_bytes, udp,
    udp_silence,
};
use support::server::{WWW, server, www};

#[test]
fn rfc1035_an_answer_over_udp_and_tcp() {
    let Some(server) = server() else { return };
    for reply in server.each_way(&www()) {
        assert_eq!((reply.rcode(), reply.addresses()), (ResponseCode::NoError, vec![WWW]));
        // A forwarder's answer is not authoritative, offers recursion, and is no query.
        assert_eq!(reply.flags(), QR | RD | RA);
    }
    assert_eq!(server.nodens.stop(), Some(0));
}

#[test]
fn rfc1035_id_and_question_come_back_letter_case_and_all_and_rfc4343_case_does_not_matter() {
    let Some(server) = server() else { return };
    for name in ["WwW.eXample.ORG", "www.example.org", "WWW.EXAMPLE.ORG", "Nx.ExAmple.Org", "nx.example.org"]
    {
        let query = Query::new(name, A);
        for reply in server.each_way(&query) {
            assert_eq!((reply.id(), reply.question()), (query.id, &query.question()[..]), "{name}");
        }
    }
    // They were two names.
    assert_eq!(server.nodens.count("nodens_cache_misses_total", &[]), 2);
}

#[test]
fn rfc4343_only_ascii_letters_have_case() {
    let Some(server) = server() else { return };
    // [ and { differ by the same bit as A and a do.
    for (name, other) in [("a[.example.org", "a{.example.org"), ("a@.example.org", "a`.example.org")] {
        for name in [name, other] {
            let query = Query::new(name, A);
            assert_eq!(udp(server.nodens.address(), &query).question(), query.question());
        }
    }
    assert_eq!(server.nodens.count("nodens_cache_misses_total", &[]), 4);
}

#[test]
fn rfc1035_rfc9619_qdcount_other_than_1_is_formerr() {
    let Some(server) = server() else { return };
    let query = www();
    for (count, questions) in [(0_u16, 0), (0, 1), (2, 2), (2, 1), (65_535, 1)] {
        let mut bytes = query.bytes()[..12].to_vec();
        bytes[4..6].copy_from_slice(&count.to_be_bytes());
        for _ in 0..questions {
            bytes.extend_from_slice(&query.question());
        }
        for reply in server.each_way_bytes(&bytes) {
            assert_eq!((reply.rcode(), reply.id()), (ResponseCode::FormErr, query.id), "QDCOUNT {count}");
            assert_eq!((reply.counts(), reply.bytes.len()), ([0; 4], 12), "QDCOUNT {count}");
        }
    }
    assert_eq!(udp(server.nodens.address(), &query).addresses(), [WWW]);
}

#[test]
fn rfc1035_a_response_gets_no_answer() {
    let Some(server) = server() else { return };
    let address = server.nodens.address();
    let response = www().flags(QR | RD).bytes();
    udp_silence(address, &response, &www());
    assert!(tcp_bytes(address, &response).is_none(), "the connection is closed");
    assert_eq!(server.nodens.count("nodens_drops_total", &[("reason", "response")]), 2, "one each way");
}

#[test]
fn rfc1035_less_than_a_header_gets_no_answer() {
    let Some(server) = server() else { return };
    let address = server.nodens.address();
    let whole = www().bytes();
    for length in [0, 1, 2, 11] {
        udp_silence(address, &whole[..length], &www());
        assert!(
            tcp_bytes(address, &whole[..length]).is_none(),
            "{length} bytes over TCP close the connection"
        );
    }
}

#[test]
fn rfc8906_a_header_alone_and_a_cut_question_are_formerr() {
    let Some(server) = server() else { return };
    let whole = www().bytes();
    for length in 12..whole.len() {
        for reply in server.each_way_bytes(&whole[..length]) {
            assert_eq!(reply.rcode(), ResponseCode::FormErr, "{length} bytes");
            assert_eq!((reply.id(), reply.counts()), (u16::from_be_bytes([whole[0], whole[1]]), [0; 4]));
        }
    }
}

#[test]
fn rfc8906_every_other_opcode_is_notimp_update_and_notify_too() {
    let Some(server) = server() else { return };
    for opcode in 1..16_u16 {
        let query = www().flags(RD | opcode << 11);
        for reply in server.each_way_bytes(&query.bytes()) {
            assert_eq!(reply.rcode(), ResponseCode::NotImp, "opcode {opcode}");
            assert_eq!(reply.flags(), QR | RD | RA | opcode << 11, "opcode and RD are echoed");
            assert_eq!((reply.id(), reply.counts()), (query.id, [0; 4]));
        }
    }
    // An UPDATE as it really is (RFC 2136): a zone, and a record in the update section.
    let mut update = Message::query();
    update.metadata.op_code = OpCode::Update;
    let mut bytes = update.to_vec().unwrap();
    bytes[5] = 1;
    bytes[9] = 1;
    bytes.extend_from_slice(&Query::new("example.org", SOA).question());
    bytes.extend_from_slice(b"\x01x\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\x0a\x00\x00\x01");
    for reply in server.each_way_bytes(&bytes) {
        assert_eq!(reply.rcode(), ResponseCode::NotImp);
    }
}

#[test]
fn rfc1035_rd_is_echoed_and_rfc4035_cd_too_and_z_is_not() {
    let Some(server) = server() else { return };
    for flags in [0, RD, CD, RD | CD, Z, RD | Z, AA, TC | RD, RA | RD, RD | CD | Z | AA | RA] {
        for reply in server.each_way(&www().flags(flags)) {
            // RFC 8906 §3.1.2: unusual flags are answered like any query.
            assert_eq!(reply.addresses(), [WWW], "{flags:04x}");
            assert_eq!(reply.flags(), QR | RA | flags & (RD | CD), "{flags:04x}");
        }
    }
}

#[test]
fn rfc6840_ad_of_an_upstream_that_validates_nothing_is_never_set() {
    let Some(server) = server() else { return };
    for query in [www().flags(RD | AD), www().dnssec_ok(), www().flags(RD | AD).dnssec_ok()] {
        assert!(server.each_way(&query).iter().all(|reply| !reply.has(AD)));
    }
}

#[test]
fn rfc3597_types_that_nobody_knows_pass_untouched() {
    let Some(server) = server() else { return };
    for (name, qtype, rdata) in [
        ("private", 65_280, &b"\x0a\x00\x00\x01"[..]),
        ("https", 65, b"\x00\x01\x00"),
        ("hinfo", 13, b"\x03CPU\x02OS"),
    ] {
        for reply in server.each_way(&Query::new(&format!("{name}.example.org"), qtype)) {
            assert_eq!(reply.counts()[1], 1, "{name}");
            let mut record = (rdata.len() as u16).to_be_bytes().to_vec();
            record.extend_from_slice(rdata);
            let found = reply.bytes.windows(record.len()).any(|window| window == record);
            assert!(found, "{name}: {:02x?}", reply.bytes);
        }
    }
    // Types that do not exist at the name are NODATA, whatever their number.
    for qtype in [3, 99, 1000, 65_534] {
        for reply in server.each_way(&Query::new("www.example.org", qtype)) {
            assert_eq!(
                (reply.rcode(), reply.counts()[1..3].to_vec()),
                (ResponseCode::NoError, vec![0, 1]),
                "{qtype}"
            );
        }
    }
}

#[test]
fn every_record_type_of_the_zone_is_what_the_upstream_says() {
    let Some(server) = server() else { return };
    let names = [
        "", "www", "mail", "alias", "chain1", "loc", "naptr", "ptr", "srv", "hinfo", "wild", "x.wild",
        "full", "https",
    ];
    for name in names {
        for qtype in [A, 2, CNAME, SOA, 12, 13, 15, TXT, AAAA, 29, 33, 35, 64, 65, 257, 65_280] {
            let query = Query::new(&format!("{name}.example.org"), qtype);
            let expected = tcp(server.nsd.address(), &query).message;
            for reply in server.each_way(&query) {
                let got = &reply.message;
                assert_eq!(got.metadata.response_code, expected.metadata.response_code, "{name} {qtype}");
                let sorted = |records: &[hickory_proto::rr::Record]| {
                    let mut shown: Vec<_> =
                        records.iter().map(|record| format!("{} {:?}", record.name, record.data)).collect();
                    shown.sort();
                    shown
                };
                assert_eq!(sorted(&got.answers), sorted(&expected.answers), "{name} {qtype}");
                if expected.answers.is_empty() {
                    assert_eq!(sorted(&got.authorities), sorted(&expected.authorities), "{name} {qtype}");
                }
            }
        }
    }
}

#[test]
fn rfc5625_classes_are_passed_on_and_kept_apart() {
    let Some(server) = server() else { return };
    let address = server.nodens.address();
    assert_eq!(udp(address, &www()).addresses(), [WWW]);
    for class in [3, 4, 254, 255, 4096] {
        let query = www().class(class);
        let expected = tcp(server.nsd.address(), &query).rcode();
        for reply in server.each_way(&query) {
            assert_eq!((reply.rcode(), reply.question()), (expected, &query.question()[..]), "class {class}");
        }
    }
    assert_eq!(udp(address, &www()).addresses(), [WWW], "and class IN is as it was");
}

#[test]
fn rfc6895_questions_for_pseudo_types_are_formerr() {
    let Some(server) = server() else { return };
    for qtype in [0, 41, 249, 250] {
        let query = Query::new("www.example.org", qtype);
        for reply in server.each_way_bytes(&query.bytes()) {
            assert_eq!(
                (reply.rcode(), reply.counts()),
                (ResponseCode::FormErr, [1, 0, 0, 0]),
                "type {qtype}"
            );
            assert_eq!(reply.question(), query.question());
        }
    }
}

#[test]
fn rfc5936_rfc1995_zone_transfers_are_refused() {
    let Some(server) = server() else { return };
    for qtype in [251, 252] {
        for reply in server.each_way_bytes(&Query::new("example.org", qtype).bytes()) {
            assert_eq!(
                (reply.rcode(), reply.counts()),
                (ResponseCode::Refused, [1, 0, 0, 0]),
                "type {qtype}"
            );
        }
    }
    assert_eq!(server.nodens.count("nodens_cache_misses_total", &[]), 0);
}

#[test]
fn rfc8482_any_is_passed_on_and_feeds_no_other_type() {
    let Some(server) = server() else { return };
    let address = server.nodens.address();
    let any = server.each_way(&Query::new("www.example.org", ANY));
    let expected = tcp(server.nsd.address(), &Query::new("www.example.org", ANY));
    assert!(any.iter().all(|reply| reply.message.answers.len() == expected.message.answers.len()));
    let before = server.nodens.count("nodens_cache_misses_total", &[]);
    assert_eq!(udp(address, &www()).addresses(), [WWW]);
    assert_eq!(server.nodens.count("nodens_cache_misses_total", &[]), before + 1);
}

#[test]
fn rfc1035_compression_in_the_question_is_formerr() {
    let Some(server) = server() else { return };
    let header = &www().bytes()[..12];
    // A pointer to itself, into the header, past the end, and behind a label; label types that do not exist.
    for name in [&b"\xc0\x0c"[..], b"\xc0\x00", b"\xc0\xff", b"\x01a\xc0\x0c", b"\x40a\x00", b"\x80a\x00"] {
        let bytes = [header, name, &[0, 1, 0, 1]].concat();
        for reply in server.each_way_bytes(&bytes) {
            assert_eq!((reply.rcode(), reply.counts()), (ResponseCode::FormErr, [0; 4]), "{name:02x?}");
        }
    }
}

#[test]
fn rfc1035_names_up_to_255_bytes_and_not_one_more() {
    let Some(server) = server() else { return };
    let label = "a".repeat(63);
    // Three labels of 63, and one that fills it up: 3 * 64 + 1 + n + 1 with the root.
    let longest = format!("{label}.{label}.{label}.{}", "b".repeat(61));
    let query = Query::new(&longest, A);
    assert_eq!(query.name.len(), 255);
    for reply in server.each_way(&query) {
        assert_eq!(reply.question(), query.question());
        assert_ne!(reply.rcode(), ResponseCode::FormErr);
    }
    let over = Query::new(&format!("{label}.{label}.{label}.{}", "b".repeat(62)), A);
    for reply in server.each_way_bytes(&over.bytes()) {
        assert_eq!(reply.rcode(), ResponseCode::FormErr);
    }
    // The root, 127 labels, and bytes that no host name has.
    for name in [".", &"a.".repeat(127), "\u{1}\u{2}.example.org", "a b.example.org"] {
        let query = Query::new(name, A);
        for reply in server.each_way(&query) {
            assert_eq!(reply.question(), query.question(), "{name:?}");
            assert_ne!(reply.rcode(), ResponseCode::FormErr, "{name:?}");
        }
    }
}

#[test]
fn bytes_behind_the_last_record_are_ignored() {
    let Some(server) = server() else { return };
    for query in [www(), www().payload(1232)] {
        let mut bytes = query.bytes();
        bytes.extend_from_slice(&[0xff; 20]);
        for _ in 0..2 {
            for reply in server.each_way_bytes(&bytes) {
                assert_eq!(reply.addresses(), [WWW]);
                assert!(!reply.bytes.ends_with(&[0xff; 4]));
            }
        }
    }
}

#[test]
fn rfc1035_records_that_are_announced_but_missing_are_formerr() {
    let Some(server) = server() else { return };
    for at in [7, 9, 11] {
        let mut bytes = www().bytes();
        bytes[at] = 1;
        for reply in server.each_way_bytes(&bytes) {
            assert_eq!(reply.rcode(), ResponseCode::FormErr, "count at {at}");
        }
    }
}

#[test]
fn rfc8945_rfc2931_signed_queries_are_refused_and_nothing_of_them_is_kept() {
    let Some(server) = server() else { return };
    // The record's type: TSIG of class ANY, SIG(0).
    for (rtype, class) in [(250_u16, 255_u16), (24, 255)] {
        let mut bytes = Query::new("signed.example.org", A).bytes();
        bytes[11] = 1;
        bytes.extend_from_slice(&support::client::wire_name("key.example.org"));
        bytes.extend_from_slice(&rtype.to_be_bytes());
        bytes.extend_from_slice(&class.to_be_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&[0, 18]);
        bytes.extend_from_slice(&[0; 18]);
        for reply in server.each_way_bytes(&bytes) {
            assert_eq!((reply.rcode(), reply.counts()[1..].to_vec()), (ResponseCode::Refused, vec![0; 3]));
        }
    }
    assert_eq!(server.nodens.count("nodens_cache_misses_total", &[]), 0);
}

#[test]
fn queries_are_answered_on_one_socket_in_one_burst() {
    let Some(server) = server() else { return };
    // As glibc asks: A and AAAA from one socket at once, both wanted, in any order.
    for _ in 0..50 {
        let socket = Udp::connect(server.nodens.address());
        let queries = [www(), Query::new("www.example.org", AAAA)];
        for query in &queries {
            socket.send(&query.bytes());
        }
        let mut replies = [socket.receive(), socket.receive()];
        replies.sort_by_key(|reply| reply.message.queries[0].query_type() != RecordType::A);
        for (reply, query) in replies.iter().zip(&queries) {
            assert_eq!((reply.id(), reply.question()), (query.id, &query.question()[..]));
            assert_eq!(reply.message.answers.len(), 1);
        }
    }
}

#[test]
fn rfc7766_a_length_and_its_message_may_come_in_pieces() {
    let Some(server) = server() else { return };
    let mut connection = Tcp::connect(server.nodens.address());
    for byte in support::client::frame(&www().bytes()) {
        connection.write(&[byte]).unwrap();
    }
    assert_eq!(connection.receive().addresses(), [WWW]);
}
