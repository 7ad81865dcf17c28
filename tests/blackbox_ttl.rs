//! How long answers are kept, and what their TTLs say meanwhile: one test for each rule, named after its RFC. The real binary, and an
//! upstream whose every answer the test writes.

mod support {
    pub mod client;
    pub mod fetched;
    pub mod loopback;
    pub mod need;
    pub mod nodens;
    pub mod responder;
    pub mod wait;
}

use std::thread;
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::NULL;
use hickory_proto::rr::{RData, Record, RecordType};

use support::client::{A, AAAA, Query, TXT, both, tcp, udp};
use support::fetched::{ADDRESS, before, one_address, query, until};
use support::responder::{Responder, a, answers, cname, encode, host, negative, rcode, reply, soa};
use support::wait::seconds;

#[test]
fn rfc1035_a_ttl_of_0_is_passed_on_and_never_cached() {
    let upstream = Responder::start(one_address(0));
    let nodens = before(&upstream, "cache: {min_ttl: 10s}\n");
    for number in 1..=3 {
        let [over_udp, over_tcp] = both(nodens.address(), &query("zero.example"));
        assert_eq!((over_udp.ttl(), over_tcp.ttl()), (0, 0));
        assert_eq!(upstream.count("zero.example", A), 2 * number);
    }
}

#[test]
fn rfc2181_the_ttls_of_an_rrset_are_equal() {
    let upstream = Responder::start(|asked| {
        let name = &asked.name;
        let others = [a("other.example", 900, ADDRESS)];
        let mut reply = reply(&asked.query);
        reply.answers =
            vec![a(name, 300, [192, 0, 2, 1]), a(name, 60, [192, 0, 2, 2]), a(name, 120, [192, 0, 2, 3])];
        reply.additionals.extend(others);
        Some(encode(&reply))
    });
    let nodens = before(&upstream, "");
    for reply in [udp(nodens.address(), &query("set.example")), udp(nodens.address(), &query("set.example"))]
    {
        let ttls: Vec<_> = reply.answer_ttls().into_iter().map(|(_, ttl)| ttl).collect();
        assert!(ttls.iter().all(|&ttl| ttl == ttls[0] && (59..=60).contains(&ttl)), "{ttls:?}");
        assert!(reply.message.additionals[0].ttl > 60, "another RRset keeps its own");
    }
}

#[test]
fn rfc2181_a_ttl_with_the_top_bit_set_is_0() {
    let upstream = Responder::start(one_address(0x8000_0001));
    let nodens = before(&upstream, "");
    for _ in 0..2 {
        assert_eq!(udp(nodens.address(), &query("top.example")).ttl(), 0);
    }
    assert_eq!(upstream.count("top.example", A), 2);
}

#[test]
fn rfc1035_every_ttl_of_a_hit_counts_down_and_none_reaches_0() {
    // Each of the sections, and each record of a chain, with a TTL of its own.
    let upstream = Responder::start(|asked| {
        let mut reply = reply(&asked.query);
        reply.answers = vec![cname(&asked.name, 4, "target.example"), a("target.example", 100, ADDRESS)];
        reply.authorities = vec![soa("example", 50, 60)];
        reply.additionals = vec![a("extra.example", 20, ADDRESS)];
        Some(encode(&reply))
    });
    let nodens = before(&upstream, "cache: {prefetch: false}\n");
    let asked_at = Instant::now();
    udp(nodens.address(), &query("count.example"));
    let mut seen = Vec::new();
    while upstream.count("count.example", A) == 1 {
        assert!(asked_at.elapsed() < seconds(20), "it never expires; seen {seen:?}");
        for reply in both(nodens.address(), &query("count.example")) {
            let message = &reply.message;
            let ttls = [
                message.answers[0].ttl,
                message.answers[1].ttl - 96,
                message.authorities[0].ttl - 46,
                message.additionals[0].ttl - 16,
            ];
            assert!(ttls.iter().all(|&ttl| ttl == ttls[0]), "they count down together: {ttls:?}");
            assert!((1..=4).contains(&ttls[0]), "{ttls:?}");
            // Never more than is left of it: a second may have begun since, but none may be given twice.
            let elapsed = asked_at.elapsed().as_secs_f64();
            assert!(f64::from(ttls[0]) < 5.0 - elapsed + 0.1 || ttls[0] == 4, "{ttls:?} after {elapsed}");
            seen.push(ttls[0]);
        }
        thread::sleep(Duration::from_millis(20));
    }
    seen.dedup();
    assert!(seen.starts_with(&[4, 3, 2, 1]), "{seen:?}");
}

#[test]
fn a_hit_counts_down_over_udp_from_near_and_over_tcp_from_the_store_alike() {
    let upstream = Responder::start(one_address(30));
    let nodens = before(&upstream, "");
    udp(nodens.address(), &query("down.example"));
    let until_28 =
        until(&nodens, &query("down.example"), "2 s have passed", seconds(10), |reply| reply.ttl() <= 28);
    let over_tcp = tcp(nodens.address(), &query("down.example"));
    assert!(until_28.ttl().abs_diff(over_tcp.ttl()) <= 1, "{} {}", until_28.ttl(), over_tcp.ttl());
    assert_eq!(upstream.count("down.example", A), 1);
}

#[test]
fn max_ttl_and_min_ttl_bound_positive_answers() {
    let upstream = Responder::start(|asked| {
        let ttl = if asked.name.starts_with("long") { 86_400 } else { 3 };
        Some(answers(&asked.query, [a(&asked.name, ttl, ADDRESS)]))
    });
    let nodens = before(&upstream, "cache: {min_ttl: 10s, max_ttl: 100s}\n");
    for _ in 0..2 {
        assert!((99..=100).contains(&udp(nodens.address(), &query("long.example")).ttl()));
        assert!((9..=10).contains(&udp(nodens.address(), &query("short.example")).ttl()));
    }
}

#[test]
fn rfc2308_a_negative_ttl_is_the_least_of_the_soas_ttl_and_minimum_and_the_cap() {
    let upstream = Responder::start(|asked| {
        let (rcode, ttl, minimum) = match asked.name.split('.').next().unwrap() {
            "nx-ttl" => (ResponseCode::NXDomain, 7, 900),
            "nx-minimum" => (ResponseCode::NXDomain, 900, 8),
            "nodata-ttl" => (ResponseCode::NoError, 9, 900),
            "nodata-minimum" => (ResponseCode::NoError, 900, 10),
            _ => (ResponseCode::NXDomain, 900, 900),
        };
        Some(negative(&asked.query, rcode, "example", ttl, minimum))
    });
    let nodens = before(&upstream, "cache: {negative_max_ttl: 20s}\n");
    for (name, ttl) in
        [("nx-ttl", 7), ("nx-minimum", 8), ("nodata-ttl", 9), ("nodata-minimum", 10), ("capped", 20)]
    {
        let name = format!("{name}.example");
        for _ in 0..2 {
            for reply in both(nodens.address(), &query(&name)) {
                let soa = &reply.message.authorities;
                assert_eq!((soa.len(), soa[0].record_type()), (1, RecordType::SOA), "{name}: the SOA stays");
                assert!((ttl - 1..=ttl).contains(&soa[0].ttl), "{name}: {}", soa[0].ttl);
            }
        }
        assert_eq!(upstream.count(&name, A), 1, "{name}");
    }
    until(&nodens, &query("capped.example"), "the SOA's TTL counts down", seconds(10), |reply| {
        reply.ttl() <= 18
    });
}

#[test]
fn rfc2308_nodata_is_per_type_and_a_name_that_does_not_exist_has_no_type() {
    let upstream = Responder::start(|asked| match (asked.name.as_str(), asked.qtype) {
        ("host.example", A) => Some(answers(&asked.query, [a(&asked.name, 60, ADDRESS)])),
        ("host.example", _) => Some(negative(&asked.query, ResponseCode::NoError, "example", 60, 60)),
        _ => Some(negative(&asked.query, ResponseCode::NXDomain, "example", 60, 60)),
    });
    let nodens = before(&upstream, "");
    for _ in 0..2 {
        let nodata = udp(nodens.address(), &Query::new("host.example", AAAA));
        assert_eq!((nodata.rcode(), nodata.counts()[1]), (ResponseCode::NoError, 0));
        assert_eq!(udp(nodens.address(), &query("host.example")).addresses(), [ADDRESS]);
        for qtype in [A, AAAA, TXT] {
            assert_eq!(
                udp(nodens.address(), &Query::new("nx.example", qtype)).rcode(),
                ResponseCode::NXDomain
            );
        }
    }
    assert_eq!((upstream.count("host.example", A), upstream.count("host.example", AAAA)), (1, 1));
}

#[test]
fn rfc2308_a_negative_answer_without_a_soa_is_not_kept() {
    let upstream = Responder::start(|asked| Some(rcode(&asked.query, ResponseCode::NXDomain)));
    let nodens = before(&upstream, "");
    for number in 1..=3 {
        let reply = udp(nodens.address(), &query("nosoa.example"));
        assert_eq!((reply.rcode(), reply.counts()[1..].to_vec()), (ResponseCode::NXDomain, vec![0; 3]));
        assert_eq!(upstream.count("nosoa.example", A), number);
    }
}

#[test]
fn rfc8020_names_below_one_that_does_not_exist_are_asked_for() {
    let upstream = Responder::start(|asked| match asked.name.as_str() {
        "gone.example" => Some(negative(&asked.query, ResponseCode::NXDomain, "example", 60, 60)),
        _ => Some(answers(&asked.query, [a(&asked.name, 60, ADDRESS)])),
    });
    let nodens = before(&upstream, "");
    assert_eq!(udp(nodens.address(), &query("gone.example")).rcode(), ResponseCode::NXDomain);
    assert_eq!(udp(nodens.address(), &query("not.gone.example")).addresses(), [ADDRESS]);
}

#[test]
fn rfc8198_nothing_is_made_of_an_nsec_record() {
    let upstream = Responder::start(|asked| {
        let mut reply = reply(&asked.query);
        reply.metadata.response_code = ResponseCode::NXDomain;
        reply.authorities.push(soa("example", 60, 60));
        // From a to z, and nothing between: next name, window 0, a bitmap of one byte.
        let rdata = [&support::client::wire_name("z.example")[..], &[0, 1, 0x40]].concat();
        let unknown = RData::Unknown { code: RecordType::NSEC, rdata: NULL::with(rdata) };
        reply.authorities.push(Record::from_rdata(host("a.example"), 60, unknown));
        Some(encode(&reply))
    });
    let nodens = before(&upstream, "");
    for name in ["b.example", "c.example"] {
        assert_eq!(udp(nodens.address(), &Query::new(name, A).dnssec_ok()).rcode(), ResponseCode::NXDomain);
        assert_eq!(upstream.count(name, A), 1);
    }
}

#[test]
fn cname_chains_are_kept_by_the_question_and_count_down_each_by_itself() {
    let upstream = Responder::start(|asked| match asked.name.as_str() {
        "alias.example" => Some(answers(
            &asked.query,
            [
                cname("alias.example", 60, "b.example"),
                cname("b.example", 120, "c.example"),
                a("c.example", 30, ADDRESS),
            ],
        )),
        _ => Some(answers(&asked.query, [a(&asked.name, 90, [192, 0, 2, 77])])),
    });
    let nodens = before(&upstream, "");
    for _ in 0..2 {
        let reply = udp(nodens.address(), &query("alias.example"));
        let ttls = reply.answer_ttls();
        let types: Vec<_> = ttls.iter().map(|(rtype, _)| *rtype).collect();
        assert_eq!(types, [RecordType::CNAME, RecordType::CNAME, RecordType::A]);
        for ((_, ttl), full) in ttls.iter().zip([60, 120, 30]) {
            assert!((full - 1..=full).contains(ttl), "{ttls:?}");
        }
    }
    assert_eq!(upstream.count("alias.example", A), 1);
    // What stood in the chain is no answer to another question.
    assert_eq!(udp(nodens.address(), &query("c.example")).addresses(), [[192, 0, 2, 77]]);
}

#[test]
fn a_cname_without_its_target_is_nodata_with_the_chain_in_it() {
    let upstream = Responder::start(|asked| {
        let mut reply = reply(&asked.query);
        reply.answers.push(cname(&asked.name, 60, "target.example"));
        reply.authorities.push(soa("example", 40, 40));
        Some(encode(&reply))
    });
    let nodens = before(&upstream, "");
    for _ in 0..3 {
        let reply = udp(nodens.address(), &Query::new("half.example", AAAA));
        assert_eq!((reply.rcode(), reply.counts()), (ResponseCode::NoError, [1, 1, 1, 0]));
    }
    assert_eq!(upstream.count("half.example", AAAA), 1);
}
