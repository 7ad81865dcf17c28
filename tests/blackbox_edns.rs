//! EDNS as a client sees it: OPT, its options, and what a reply may measure. One test for each rule, named after its RFC. The real
//! binary, nsd behind it.

mod support {
    pub mod client;
    pub mod loopback;
    pub mod need;
    pub mod nodens;
    pub mod nsd;
    pub mod server;
    pub mod wait;
}

use std::process::Command;

use hickory_proto::op::ResponseCode;

use support::client::{A, Edns, Query, TC, TXT, both, tcp, udp};
use support::need;
use support::nodens::{Nodens, zone_dot};
use support::server::{WWW, server, www};

/// hickory-proto calls 16 BADSIG, which is TSIG's name for it.
const BADVERS: u16 = 16;

#[test]
fn rfc6891_no_opt_without_one_and_one_with_one() {
    let Some(server) = server() else { return };
    for name in ["www.example.org", "nx.example.org"] {
        for reply in server.each_way(&Query::new(name, A)) {
            assert!(reply.message.edns.is_none());
        }
        for reply in server.each_way(&Query::new(name, A).payload(4096)) {
            let edns = reply.message.edns.as_ref().expect("an OPT");
            assert_eq!((edns.version(), edns.max_payload(), edns.rcode_high()), (0, 1232, 0));
            assert!(!edns.flags().dnssec_ok);
        }
    }
}

#[test]
fn rfc6891_other_versions_are_badvers() {
    let Some(server) = server() else { return };
    for version in [1, 100, 255] {
        // RFC 8906 §3.2.2: also with options and flags that nobody knows.
        let edns = Edns { version, flags: 0x4001, options: vec![(65_001, vec![1, 2])], ..Edns::default() };
        let query = www().edns(edns);
        for reply in server.each_way_bytes(&query.bytes()) {
            assert_eq!(u16::from(reply.rcode()), BADVERS, "version {version}");
            let edns = reply.message.edns.as_ref().expect("an OPT");
            assert_eq!((edns.version(), reply.options()), (0, vec![]));
            assert_eq!((reply.counts(), reply.question()), ([1, 0, 0, 1], &query.question()[..]));
        }
    }
}

#[test]
fn an_error_is_counted_with_its_opt() {
    let Some(server) = server() else { return };
    let query = www().edns(Edns { version: 1, ..Edns::default() });
    let size = |proto| server.nodens.count("nodens_response_size_bytes_sum", &[("proto", proto)]);
    let before = ["udp", "tcp"].map(size);
    let sent = server.each_way_bytes(&query.bytes()).map(|reply| reply.bytes.len() as u64);
    assert_eq!(["udp", "tcp"].map(size), [before[0] + sent[0], before[1] + sent[1]]);
}

#[test]
fn rfc6891_unknown_options_and_flags_are_not_echoed() {
    let Some(server) = server() else { return };
    let options =
        vec![(65_001, b"whatever".to_vec()), (3, vec![]), (5, vec![1]), (12, vec![0; 40]), (26_946, vec![])];
    let edns = Edns { flags: 0x7fff, options, ..Edns::default() };
    for reply in server.each_way(&www().edns(edns)) {
        assert_eq!(reply.addresses(), [WWW]);
        assert_eq!(reply.options(), []);
        let flags = reply.message.edns.as_ref().expect("an OPT").flags();
        assert_eq!((flags.dnssec_ok, flags.z), (false, 0));
    }
}

#[test]
fn rfc3225_do_is_echoed() {
    let Some(server) = server() else { return };
    for name in ["www.example.org", "nx.example.org"] {
        for reply in server.each_way(&Query::new(name, A).dnssec_ok()) {
            assert!(reply.message.edns.as_ref().expect("an OPT").flags().dnssec_ok);
        }
    }
}

#[test]
fn rfc6891_a_second_opt_is_formerr_and_one_out_of_place_too() {
    let Some(server) = server() else { return };
    let opt = Edns::default().bytes();
    let two = {
        let mut bytes = www().payload(1232).bytes();
        bytes[11] = 2;
        bytes.extend_from_slice(&opt);
        bytes
    };
    let placed = |count_at: usize| {
        let mut bytes = www().bytes();
        bytes[count_at] = 1;
        bytes.extend_from_slice(&opt);
        bytes
    };
    let owned = {
        let mut bytes = www().bytes();
        bytes[11] = 1;
        bytes.extend_from_slice(b"\x01x");
        bytes.extend_from_slice(&opt);
        bytes
    };
    for (what, bytes) in [
        ("two", two),
        ("as an answer", placed(7)),
        ("as an authority", placed(9)),
        ("not of the root", owned),
    ] {
        for reply in server.each_way_bytes(&bytes) {
            assert_eq!(reply.rcode(), ResponseCode::FormErr, "{what}");
        }
    }
}

#[test]
fn rfc6891_errors_carry_an_opt_where_the_query_has_one() {
    let Some(server) = server() else { return };
    let question = www().dnssec_ok();
    let with = |at: usize, byte: u8| {
        let mut bytes = question.bytes();
        bytes[at] = byte;
        bytes
    };
    let qtype_at = 12 + question.question().len() - 3;
    for (what, bytes, rcode) in [
        ("NOTIFY", with(2, 0x20), ResponseCode::NotImp),
        ("opcode 15", with(2, 0x78), ResponseCode::NotImp),
        ("QDCOUNT 0, and so no record where the OPT is", with(5, 0), ResponseCode::FormErr),
        ("AXFR", with(qtype_at, 252), ResponseCode::Refused),
        ("a question for a TSIG", with(qtype_at, 250), ResponseCode::FormErr),
        ("a record is missing", with(11, 2), ResponseCode::FormErr),
    ] {
        for reply in server.each_way_bytes(&bytes) {
            assert_eq!(reply.rcode(), rcode, "{what}");
            let edns = reply.message.edns.as_ref();
            if what.starts_with("QDCOUNT") {
                assert!(edns.is_none(), "{what}");
            } else {
                let edns = edns.unwrap_or_else(|| panic!("{what}: no OPT"));
                assert!(edns.flags().dnssec_ok && reply.options().is_empty(), "{what}");
            }
        }
    }
    // SERVFAIL for want of an upstream.
    let nodens = Nodens::start_unready(&zone_dot(support::loopback::free(), "tcp"));
    for reply in both(nodens.address(), &question) {
        assert_eq!(reply.rcode(), ResponseCode::ServFail);
        assert!(reply.message.edns.as_ref().expect("an OPT").flags().dnssec_ok);
    }
}

#[test]
fn rfc6891_options_that_do_not_add_up_are_formerr() {
    let Some(server) = server() else { return };
    let whole = www().option(65_001, b"eight...").bytes();
    // The record, or the option in it, promises more than there is.
    let (mut record, mut option) = (whole.clone(), whole.clone());
    let rdlength = whole.len() - 12 - 2;
    record[rdlength + 1] += 1;
    option[rdlength + 5] += 1;
    let cut = whole[..whole.len() - 1].to_vec();
    for bytes in [record, option, cut] {
        for reply in server.each_way_bytes(&bytes) {
            assert_eq!(reply.rcode(), ResponseCode::FormErr, "{bytes:02x?}");
        }
    }
}

#[test]
fn rfc7873_cookies_are_neither_answered_nor_echoed() {
    let Some(server) = server() else { return };
    for cookie in [&b"8 bytes."[..], b"8 bytes.and a server's."] {
        for reply in server.each_way(&www().option(10, cookie)) {
            assert_eq!((reply.addresses(), reply.options()), (vec![WWW], vec![]));
        }
    }
}

#[test]
fn rfc7871_a_client_subnet_is_not_echoed_nor_passed_on() {
    let Some(server) = server() else { return };
    for reply in server.each_way(&www().option(8, &[0, 1, 24, 0, 192, 0, 2])) {
        assert_eq!((reply.addresses(), reply.options()), (vec![WWW], vec![]));
    }
    // Clients of all subnets share the answer.
    assert_eq!(server.nodens.count("nodens_cache_misses_total", &[]), 1);
}

#[test]
fn rfc7828_keepalive_is_answered_over_tcp_only() {
    let Some(server) = server() else { return };
    let query = www().option(11, &[]);
    for _ in 0..3 {
        let [over_udp, over_tcp] = both(server.nodens.address(), &query);
        assert_eq!(over_udp.options(), []);
        // The idle timeout of 10 s, in units of 100 ms.
        assert_eq!(over_tcp.options(), [(11, vec![0, 100])]);
    }
    assert_eq!(tcp(server.nodens.address(), &www().payload(1232)).options(), []);
}

#[test]
fn rfc9715_replies_fit_what_the_client_offers_or_are_cut_between_records() {
    let Some(server) = server() else { return };
    let address = server.nodens.address();
    // 40 addresses: 12 + 23 + 40 * 16 bytes, then the zone's NS record and 16 bytes of its address, and 11 more with an OPT.
    let large = || Query::new("large.example.org", A);
    let all = tcp(address, &large());
    assert_eq!(all.counts(), [1, 40, 1, 1]);
    let (whole, head) = (all.bytes.len() as u16, 12 + large().question().len());
    let needed = (head + 40 * 16) as u16;
    let offers = [
        (None, false),
        (Some(0), false),
        (Some(512), false),
        (Some(needed + 10), false),
        (Some(needed + 11), true),
        (Some(whole - 16 + 10), true),
        (Some(whole - 16 + 11), true),
        (Some(whole + 10), true),
        (Some(whole + 11), true),
        (Some(1232), true),
        (Some(65_535), true),
    ];
    for (offer, fits) in offers {
        let query = offer.map_or_else(large, |offer| large().payload(offer));
        let room = usize::from(offer.unwrap_or(0).max(512)) - head - if offer.is_some() { 11 } else { 0 };
        let addresses = if fits { 40 } else { room / 16 };
        for _ in 0..3 {
            let reply = udp(address, &query);
            assert_eq!(reply.has(TC), !fits, "{offer:?}");
            assert_eq!(reply.addresses().len(), addresses, "{offer:?}");
            assert!(reply.addresses().iter().all(|one| all.addresses().contains(one)), "{offer:?}");
            // Who is authoritative is left out before TC is set, and before that the address of that one.
            let takes = |bytes: u16| u16::from(offer.is_some_and(|offer| offer >= bytes + 11));
            let counts = [1, addresses as u16, takes(whole - 16), takes(whole) + u16::from(offer.is_some())];
            assert_eq!(reply.counts(), counts, "{offer:?}");
            assert_eq!((reply.rcode(), reply.question()), (ResponseCode::NoError, &query.question()[..]));
        }
        assert_eq!(tcp(address, &query).addresses().len(), 40, "{offer:?}");
    }
}

#[test]
fn rfc9715_no_reply_over_udp_is_larger_than_the_node_allows() {
    let Some(server) = server() else { return };
    let address = server.nodens.address();
    // 200 texts of 244 bytes: 50 kB, far above listen.max_udp_payload, and above what is kept for UDP.
    let query = Query::new("huge.example.org", TXT).payload(65_535);
    for _ in 0..3 {
        let reply = udp(address, &query);
        assert!(reply.has(TC) && reply.bytes.len() <= 4096, "{} bytes", reply.bytes.len());
        assert!((14..=17).contains(&reply.message.answers.len()), "{}", reply.message.answers.len());
        let whole = tcp(address, &query);
        assert!(!whole.has(TC));
        assert_eq!(whole.message.answers.len(), 200);
    }
}

#[test]
fn dig_over_udp_and_tcp_with_and_without_edns() {
    if !need::programs(&["dig"]) {
        return;
    }
    let Some(server) = server() else { return };
    let address = server.nodens.address();
    let dig = |arguments: &[&str]| {
        let mut command = Command::new(need::find("dig").expect("dig is installed"));
        command.arg(format!("@{}", address.ip())).args([
            "-p",
            &address.port().to_string(),
            "+tries=1",
            "+time=5",
        ]);
        let output = command.args(arguments).output().expect("dig starts");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{arguments:?}: {text}");
        // dig says so of anything that is not as it should be.
        assert!(!text.contains("WARNING") && !text.contains("Got bad packet"), "{arguments:?}: {text}");
        text
    };
    for transport in ["+notcp", "+tcp"] {
        for edns in ["+noedns", "+edns=0", "+dnssec", "+bufsize=4096"] {
            for _ in 0..2 {
                let text = dig(&[transport, edns, "+nocookie", "www.example.org", "A"]);
                assert!(text.contains("status: NOERROR") && text.contains("192.0.2.80"), "{text}");
                assert_eq!(text.contains("OPT PSEUDOSECTION"), edns != "+noedns", "{text}");
                let text = dig(&[transport, edns, "nx.example.org", "A"]);
                assert!(text.contains("status: NXDOMAIN") && text.contains("SOA"), "{text}");
            }
        }
    }
    // Too large for 512 bytes: dig goes to TCP by itself.
    let text = dig(&["+noedns", "large.example.org", "A"]);
    assert_eq!(text.matches("198.51.100.").count(), 40, "{text}");
    assert!(text.contains(";; Truncated, retrying in TCP mode."), "{text}");
    // With cookies, an unknown version and an unknown option, as in RFC 8906 §8.
    let text = dig(&["+cookie", "www.example.org"]);
    assert!(text.contains("192.0.2.80") && !text.contains("COOKIE:"), "{text}");
    let text = dig(&["+edns=100", "+noednsnegotiation", "www.example.org"]);
    assert!(text.contains("status: BADVERS"), "{text}");
    let text = dig(&["+ednsopt=100:1234", "+ednsflags=0x40", "www.example.org"]);
    assert!(text.contains("192.0.2.80"), "{text}");
    let text = dig(&["+opcode=15", "+noedns", "+noad", "www.example.org"]);
    assert!(text.contains("status: NOTIMP"), "{text}");
    let text = dig(&["+header-only", "+noedns"]);
    assert!(text.contains("status: FORMERR"), "{text}");
}
