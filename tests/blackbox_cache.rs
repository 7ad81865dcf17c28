//! What is kept and for how long: one test for each rule, named after its RFC. The real binary, and an upstream whose every
//! answer the test writes.

mod support {
    pub mod client;
    pub mod loopback;
    pub mod need;
    pub mod nodens;
    pub mod responder;
    pub mod wait;
}

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns as ProtoEdns, ResponseCode};
use hickory_proto::rr::rdata::opt::{ClientSubnet, EdnsCode, EdnsOption};
use hickory_proto::rr::rdata::{HINFO, NULL, TXT as Text};
use hickory_proto::rr::{RData, Record, RecordType};

use support::client::{A, AAAA, AD, ANY, CD, Query, RD, Reply, TC, TXT, Udp, both, tcp, udp};
use support::nodens::{Nodens, zone_dot};
use support::responder::{Asked, Responder, a, answers, cname, encode, host, negative, rcode, reply, soa};
use support::wait::{eventually, seconds};

const ADDRESS: [u8; 4] = [192, 0, 2, 1];

/// Everything goes to `upstream` over TCP; `yaml` is added.
fn before(upstream: &Responder, yaml: &str) -> Nodens {
    Nodens::start(&format!("listen: {{workers: 1}}\n{}{yaml}", zone_dot(upstream.address(), "tcp")))
}

fn query(name: &str) -> Query {
    Query::new(name, A)
}

/// One A record for whatever is asked, with this TTL.
fn one_address(ttl: u32) -> impl Fn(&Asked) -> Option<Vec<u8>> + Send + Sync {
    move |asked| Some(answers(&asked.query, [a(&asked.name, ttl, ADDRESS)]))
}

/// Asks until a reply is as wanted; that reply.
fn until(
    nodens: &Nodens,
    query: &Query,
    what: &str,
    limit: Duration,
    wanted: impl Fn(&Reply) -> bool,
) -> Reply {
    let mut last = None;
    eventually(what, limit, || {
        let reply = udp(nodens.address(), query);
        let done = wanted(&reply);
        last = Some(reply);
        done
    });
    last.expect("one was received")
}

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

#[test]
fn rfc4035_do_and_cd_are_in_the_key() {
    let upstream = Responder::start(|asked| {
        // Each of the four gets an address of its own.
        let dnssec_ok = asked.query.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok);
        let last = u8::from(dnssec_ok) * 2 + u8::from(asked.flags & CD != 0);
        Some(answers(&asked.query, [a(&asked.name, 60, [192, 0, 2, last])]))
    });
    let nodens = before(&upstream, "");
    let each = || {
        [
            query("bits.example"),
            query("bits.example").flags(RD | CD),
            query("bits.example").dnssec_ok(),
            query("bits.example").flags(RD | CD).dnssec_ok(),
        ]
    };
    for _ in 0..3 {
        for (last, query) in each().iter().enumerate() {
            for reply in both(nodens.address(), query) {
                assert_eq!(reply.addresses(), [[192, 0, 2, last as u8]]);
            }
        }
    }
    assert_eq!(upstream.count("bits.example", A), 4);
    // EDNS without DO is no difference, and neither are AD, Z and RD of the client.
    for query in [
        query("bits.example").payload(4096),
        query("bits.example").flags(RD | AD),
        query("bits.example").flags(0),
    ] {
        assert_eq!(udp(nodens.address(), &query).addresses(), [[192, 0, 2, 0]]);
    }
    assert_eq!(upstream.count("bits.example", A), 4);
}

#[test]
fn rfc6840_ad_goes_to_clients_who_understand_it_if_the_upstream_said_so() {
    let upstream = Responder::start(|asked| {
        let mut reply = reply(&asked.query);
        reply.metadata.authentic_data = asked.name.starts_with("secure");
        if asked.name.contains("nx") {
            reply.metadata.response_code = ResponseCode::NXDomain;
            reply.authorities.push(soa("example", 60, 60));
        } else {
            reply.answers.push(a(&asked.name, 60, ADDRESS));
        }
        Some(encode(&reply))
    });
    let nodens = before(&upstream, "");
    for (name, secure) in [("secure.example", true), ("secure-nx.example", true), ("plain.example", false)] {
        for (query, understands) in [
            (query(name), false),
            (query(name).flags(RD | AD), true),
            (query(name).dnssec_ok(), true),
            (query(name).payload(1232), false),
            (query(name), false),
        ] {
            for _ in 0..2 {
                for reply in both(nodens.address(), &query) {
                    assert_eq!(reply.has(AD), secure && understands, "{name} {query:?}");
                }
            }
        }
    }
    // The upstream was told that we understand it, and asked no more often than the keys differ.
    assert!(upstream.asked().iter().all(|asked| asked.flags & AD != 0));
    assert_eq!(upstream.count("secure.example", A), 2);
}

#[test]
fn rfc4035_rd_0_is_answered_from_the_cache_or_passed_on_as_it_is() {
    let upstream = Responder::start(|asked| match asked.flags & RD {
        0 => Some(rcode(&asked.query, ResponseCode::Refused)),
        _ => Some(answers(&asked.query, [a(&asked.name, 60, ADDRESS)])),
    });
    let nodens = before(&upstream, "");
    let cold = udp(nodens.address(), &query("cold.example").flags(0));
    assert_eq!((cold.rcode(), cold.has(RD)), (ResponseCode::Refused, false));
    // What it was told serves no one else.
    assert_eq!(udp(nodens.address(), &query("cold.example")).addresses(), [ADDRESS]);
    let warm = udp(nodens.address(), &query("cold.example").flags(0));
    assert_eq!((warm.addresses(), warm.has(RD)), (vec![ADDRESS], false));
    assert_eq!(upstream.count("cold.example", A), 2);
}

#[test]
fn rfc6891_what_goes_upstream_has_our_own_opt_and_nothing_of_the_clients() {
    let upstream = Responder::start(one_address(60));
    let nodens = before(&upstream, "");
    udp(nodens.address(), &query("plain.example"));
    let options = vec![(8, vec![0, 1, 24, 0, 192, 0, 2]), (10, b"8 bytes.".to_vec()), (65_001, vec![1])];
    let edns = support::client::Edns { payload: 512, options, ..Default::default() };
    udp(nodens.address(), &query("optioned.example").edns(edns));
    let asked = upstream.asked();
    assert_eq!(asked.len(), 2);
    for asked in asked {
        let edns = asked.query.edns.as_ref().expect("an OPT");
        // RFC 9715: 1232; RFC 7871, 7873: no subnet, no cookie of a client's.
        assert_eq!((edns.max_payload(), edns.options().as_ref().len()), (1232, 0), "{}", asked.name);
        assert_eq!(asked.query.all_sections().count(), 0);
    }
}

#[test]
fn rfc6891_an_upstreams_opt_is_not_kept_nor_passed_on() {
    let upstream = Responder::start(|asked| {
        let mut reply = reply(&asked.query);
        reply.answers.push(a(&asked.name, 60, ADDRESS));
        let mut edns = ProtoEdns::new();
        edns.set_max_payload(4000);
        edns.options_mut().insert(EdnsOption::Unknown(3, b"nsid of the upstream".to_vec()));
        edns.options_mut().insert(EdnsOption::Unknown(10, b"8 bytes.and a server's.".to_vec()));
        reply.set_edns(edns);
        Some(encode(&reply))
    });
    let nodens = before(&upstream, "");
    for _ in 0..2 {
        for reply in both(nodens.address(), &query("opt.example")) {
            assert!(reply.message.edns.is_none());
        }
        for reply in both(nodens.address(), &query("opt.example").payload(1400)) {
            assert_eq!((reply.options(), reply.message.edns.as_ref().unwrap().max_payload()), (vec![], 1232));
        }
    }
}

#[test]
fn rfc7871_an_answer_for_one_subnet_is_not_handed_to_everyone() {
    let upstream = Responder::start(|asked| {
        let mut reply = reply(&asked.query);
        reply.answers.push(a(&asked.name, 60, ADDRESS));
        let mut edns = ProtoEdns::new();
        edns.options_mut().insert(EdnsOption::Subnet(ClientSubnet::new([192, 0, 2, 0].into(), 24, 24)));
        assert!(edns.option(EdnsCode::Subnet).is_some());
        reply.set_edns(edns);
        Some(encode(&reply))
    });
    let nodens = before(&upstream, "");
    for number in 1..=3 {
        udp(nodens.address(), &query("scoped.example"));
        assert_eq!(upstream.count("scoped.example", A), number);
    }
}

#[test]
fn rfc8482_a_minimal_answer_to_any_passes_and_feeds_no_other_type() {
    let upstream = Responder::start(|asked| match asked.qtype {
        ANY | 13 => {
            let text = if asked.qtype == ANY { "RFC8482" } else { "asked for HINFO" };
            let hinfo = RData::HINFO(HINFO::new(text.to_owned(), String::new()));
            Some(answers(&asked.query, [Record::from_rdata(host(&asked.name), 60, hinfo)]))
        }
        _ => Some(answers(&asked.query, [a(&asked.name, 60, ADDRESS)])),
    });
    let nodens = before(&upstream, "");
    let has = |reply: &Reply, text: &[u8]| reply.bytes.windows(text.len()).any(|window| window == text);
    for _ in 0..2 {
        assert!(has(&udp(nodens.address(), &Query::new("any.example", ANY)), b"RFC8482"));
        assert!(has(&udp(nodens.address(), &Query::new("any.example", 13)), b"asked for HINFO"));
        assert_eq!(udp(nodens.address(), &query("any.example")).addresses(), [ADDRESS]);
    }
    assert_eq!(upstream.asked().len(), 3);
}

#[test]
fn rfc1035_truncated_replies_are_never_kept() {
    let upstream = Responder::start(|asked| {
        let mut message = reply(&asked.query);
        if asked.udp {
            message.metadata.truncation = true;
        } else {
            message.answers.push(a(&asked.name, 60, ADDRESS));
        }
        Some(encode(&message))
    });
    // auto: asked again over TCP, and that is kept.
    let nodens = Nodens::start(&zone_dot(upstream.address(), "auto"));
    for _ in 0..2 {
        let reply = udp(nodens.address(), &query("auto.example"));
        assert_eq!((reply.has(TC), reply.addresses()), (false, vec![ADDRESS]));
    }
    assert_eq!(upstream.count("auto.example", A), 2);
    drop(nodens);
    // udp: TC is passed on, every time.
    let nodens = Nodens::start(&zone_dot(upstream.address(), "udp"));
    for number in 1..=2 {
        let reply = udp(nodens.address(), &query("udp.example"));
        assert_eq!((reply.has(TC), reply.counts()), (true, [1, 0, 0, 0]));
        assert_eq!(upstream.count("udp.example", A), number);
    }
}

/// An upstream that answers with this TTL until it is told to fail.
fn failing_later(ttl: u32, nx: bool) -> (Responder, Arc<AtomicBool>) {
    let fails = Arc::new(AtomicBool::new(false));
    let upstream = {
        let fails = Arc::clone(&fails);
        Responder::start(move |asked| {
            if fails.load(Ordering::SeqCst) {
                return Some(rcode(&asked.query, ResponseCode::ServFail));
            }
            if nx {
                return Some(negative(&asked.query, ResponseCode::NXDomain, "example", ttl, ttl));
            }
            Some(answers(&asked.query, [a(&asked.name, ttl, ADDRESS)]))
        })
    };
    (upstream, fails)
}

#[test]
fn rfc8767_rfc8914_a_stale_answer_after_a_failure_has_ttl_30_and_says_so() {
    for (nx, code) in [(false, 3), (true, 19)] {
        let (upstream, fails) = failing_later(1, nx);
        let nodens = before(&upstream, "cache: {prefetch: false}\n");
        let query = query("stale.example");
        let fresh = udp(nodens.address(), &query.clone().payload(1232));
        assert_eq!(fresh.extended_error(), None);
        fails.store(true, Ordering::SeqCst);
        let stale = until(&nodens, &query.clone().payload(1232), "it is stale", seconds(10), |reply| {
            reply.extended_error().is_some()
        });
        assert_eq!((stale.ttl(), stale.extended_error(), stale.rcode()), (30, Some(code), fresh.rcode()));
        for reply in both(nodens.address(), &query) {
            // Without EDNS there is nothing to say it with.
            assert!(reply.message.edns.is_none());
            assert_eq!((reply.ttl(), reply.rcode()), (30, fresh.rcode()));
        }
        // RFC 8767 §5: the recheck is throttled; a hundred clients in a row are a handful of queries.
        let before = upstream.count("stale.example", A);
        for _ in 0..100 {
            udp(nodens.address(), &query);
        }
        assert!(upstream.count("stale.example", A) <= before + 2);
        assert!(nodens.count("nodens_stale_served_total", &[]) >= 103);
        // And when the upstream is back, so is the answer.
        fails.store(false, Ordering::SeqCst);
        until(&nodens, &query, "it is fresh again", seconds(20), |reply| reply.ttl() <= 1);
    }
}

#[test]
fn rfc8767_a_stale_answer_after_the_client_timer_where_the_upstream_is_silent() {
    let silent = Arc::new(AtomicBool::new(false));
    let upstream = {
        let silent = Arc::clone(&silent);
        Responder::start(move |asked| {
            let answer = answers(&asked.query, [a(&asked.name, 1, ADDRESS)]);
            (!silent.load(Ordering::SeqCst)).then_some(answer)
        })
    };
    let stale = "cache: {prefetch: false, serve_stale: {client_timeout: 300ms}}\n";
    let nodens = before(&upstream, stale);
    udp(nodens.address(), &query("timer.example"));
    silent.store(true, Ordering::SeqCst);
    let started = Instant::now();
    let reply = until(&nodens, &query("timer.example").payload(1232), "it is stale", seconds(10), |reply| {
        reply.extended_error() == Some(3)
    });
    assert_eq!((reply.ttl(), reply.addresses()), (30, vec![ADDRESS]));
    println!("a stale answer after {:?}", started.elapsed());
}

#[test]
fn rfc8767_nothing_stale_over_a_fresh_nxdomain() {
    let gone = Arc::new(AtomicBool::new(false));
    let upstream = {
        let gone = Arc::clone(&gone);
        Responder::start(move |asked| {
            Some(if gone.load(Ordering::SeqCst) {
                negative(&asked.query, ResponseCode::NXDomain, "example", 60, 60)
            } else {
                answers(&asked.query, [a(&asked.name, 1, ADDRESS)])
            })
        })
    };
    let nodens = before(&upstream, "cache: {prefetch: false}\n");
    udp(nodens.address(), &query("gone.example"));
    gone.store(true, Ordering::SeqCst);
    until(&nodens, &query("gone.example"), "it is gone", seconds(10), |reply| {
        reply.rcode() == ResponseCode::NXDomain
    });
    for reply in both(nodens.address(), &query("gone.example")) {
        assert_eq!(reply.rcode(), ResponseCode::NXDomain);
    }
}

#[test]
fn serve_stale_false_and_max_age_are_obeyed() {
    for stale in ["false", "{max_age: 1s}"] {
        let (upstream, fails) = failing_later(1, false);
        let nodens = before(&upstream, &format!("cache: {{prefetch: false, serve_stale: {stale}}}\n"));
        udp(nodens.address(), &query("stale.example"));
        fails.store(true, Ordering::SeqCst);
        until(&nodens, &query("stale.example"), "SERVFAIL", seconds(10), |reply| {
            reply.rcode() == ResponseCode::ServFail
        });
    }
}

#[test]
fn rfc9520_failures_are_remembered_per_question_and_rfc8914_says_cached_error() {
    for code in [ResponseCode::ServFail, ResponseCode::Refused, ResponseCode::NotImp] {
        let upstream = Responder::start(move |asked| {
            Some(match asked.name.as_str() {
                "bad.example" if asked.qtype == A => rcode(&asked.query, code),
                _ => answers(&asked.query, [a(&asked.name, 60, ADDRESS)]),
            })
        });
        let nodens = before(&upstream, "cache: {failure_ttl: {min: 30s, max: 60s}}\n");
        let first = udp(nodens.address(), &query("bad.example").payload(1232));
        assert_eq!((first.rcode(), first.extended_error()), (code, None));
        let asked = upstream.count("bad.example", A);
        for _ in 0..20 {
            for reply in both(nodens.address(), &query("bad.example").payload(1232)) {
                assert_eq!((reply.rcode(), reply.extended_error()), (code, Some(13)));
            }
            assert!(udp(nodens.address(), &query("bad.example")).message.edns.is_none());
        }
        assert_eq!(upstream.count("bad.example", A), asked, "{code:?} is remembered");
        // Another type and another name are other questions.
        assert_eq!(udp(nodens.address(), &Query::new("bad.example", AAAA)).rcode(), ResponseCode::NoError);
        assert_eq!(udp(nodens.address(), &query("good.example")).addresses(), [ADDRESS]);
    }
}

#[test]
fn rfc9520_failures_are_asked_for_again_after_a_while_ever_longer() {
    let upstream = Responder::start(|asked| Some(rcode(&asked.query, ResponseCode::ServFail)));
    let nodens = before(&upstream, "cache: {failure_ttl: {min: 1s, max: 2s}}\n");
    let started = Instant::now();
    eventually("it is asked for four times", seconds(20), || {
        udp(nodens.address(), &query("bad.example"));
        upstream.count("bad.example", A) >= 4
    });
    // 1, 2 and 2 seconds apart: no deadline of a test, but the least the RFC allows.
    assert!(started.elapsed() >= seconds(4), "{:?}", started.elapsed());
}

#[test]
fn failure_ttl_0_remembers_no_failure() {
    let upstream = Responder::start(|asked| Some(rcode(&asked.query, ResponseCode::ServFail)));
    let nodens = before(&upstream, "cache: {failure_ttl: {min: 0s}}\n");
    for number in 1..=3 {
        assert_eq!(udp(nodens.address(), &query("bad.example")).rcode(), ResponseCode::ServFail);
        assert!(upstream.count("bad.example", A) >= number);
    }
}

#[test]
fn rfc5452_a_thousand_clients_of_one_cold_name_are_one_query_upstream() {
    let upstream = Responder::start(|asked| {
        thread::sleep(Duration::from_millis(300));
        Some(answers(&asked.query, [a(&asked.name, 60, ADDRESS)]))
    });
    let nodens = before(&upstream, "limits: {client_share: 100%}\n");
    let sockets: Vec<_> = (0..1000).map(|_| Udp::connect(nodens.address())).collect();
    let queries: Vec<_> = (0..sockets.len())
        .map(|number| query(if number % 2 == 0 { "cold.example" } else { "COLD.example" }))
        .collect();
    for (socket, query) in sockets.iter().zip(&queries) {
        socket.send(&query.bytes());
    }
    for (socket, query) in sockets.iter().zip(&queries) {
        let reply = socket.receive();
        assert_eq!((reply.id(), reply.question()), (query.id, &query.question()[..]));
        assert_eq!(reply.addresses(), [ADDRESS]);
    }
    assert_eq!(upstream.count("cold.example", A), 1);
}

#[test]
fn clients_with_and_without_do_do_not_share_a_query() {
    let upstream = Responder::start(|asked| {
        thread::sleep(Duration::from_millis(200));
        let dnssec_ok = asked.query.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok);
        Some(answers(&asked.query, [a(&asked.name, 60, [192, 0, 2, u8::from(dnssec_ok)])]))
    });
    let nodens = before(&upstream, "");
    let sockets: Vec<_> = (0..20).map(|_| Udp::connect(nodens.address())).collect();
    for (number, socket) in sockets.iter().enumerate() {
        let query = query("two.example");
        socket.send(&if number % 2 == 0 { query } else { query.dnssec_ok() }.bytes());
    }
    for (number, socket) in sockets.iter().enumerate() {
        assert_eq!(socket.receive().addresses(), [[192, 0, 2, (number % 2) as u8]]);
    }
    assert_eq!(upstream.count("two.example", A), 2);
}

#[test]
fn popular_answers_are_refreshed_before_they_expire() {
    let upstream = Responder::start(one_address(4));
    let nodens = before(&upstream, "cache: {serve_stale: false, prefetch: {min_hits: 3, remaining: 50%}}\n");
    // Asked all the time it never expires: no client waits a second time.
    let started = Instant::now();
    while started.elapsed() < seconds(9) {
        assert_eq!(udp(nodens.address(), &query("popular.example")).addresses(), [ADDRESS]);
        thread::sleep(Duration::from_millis(20));
    }
    let metrics = nodens.metrics();
    assert_eq!(metrics.count("nodens_cache_misses_total", &[]), 1, "only the first client waited");
    assert!(metrics.count("nodens_prefetches_total", &[]) >= 2);
}

#[test]
fn rfc1794_addresses_change_places_unless_told_otherwise() {
    // A headless service is larger than any UDP reply: those who ask for it come over TCP.
    for (count, asks) in [(4_u16, [udp, tcp].as_slice()), (300, &[tcp])] {
        for rotate in [true, false] {
            let upstream = Responder::start(move |asked| {
                let address = |number: u16| [192, 0, (number >> 8) as u8, number as u8];
                Some(answers(&asked.query, (0..count).map(|number| a(&asked.name, 60, address(number)))))
            });
            let nodens = before(&upstream, &format!("cache: {{rotate: {rotate}}}\n"));
            for ask in asks {
                // The first of all is no hit.
                ask(nodens.address(), &query("many.example"));
                let firsts: std::collections::BTreeSet<_> = (0..8)
                    .map(|_| {
                        let reply = ask(nodens.address(), &query("many.example"));
                        assert_eq!(reply.addresses().len(), usize::from(count), "all of them every time");
                        assert!(reply.message.answers.iter().all(|record| record.ttl <= 60));
                        match &reply.message.answers[0].data {
                            RData::A(address) => address.0,
                            other => panic!("{other:?}"),
                        }
                    })
                    .collect();
                assert_eq!(firsts.len(), if rotate { usize::from(count).min(8) } else { 1 }, "{count}");
            }
        }
    }
}

#[test]
fn rfc6761_rfc7686_special_names_are_answered_here() {
    let upstream = Responder::start(one_address(60));
    let nodens = before(&upstream, "");
    let ask = |name: &str, qtype| udp(nodens.address(), &Query::new(name, qtype));
    for name in ["localhost", "a.b.LOCALHOST"] {
        assert_eq!(ask(name, A).addresses(), [[127, 0, 0, 1]]);
        assert_eq!(ask(name, AAAA).message.answers.len(), 1);
        assert_eq!((ask(name, TXT).rcode(), ask(name, TXT).counts()[1]), (ResponseCode::NoError, 0));
    }
    for name in [
        "invalid",
        "x.invalid",
        "x.onion",
        "x.test",
        "x.alt",
        "1.20.254.169.in-addr.arpa",
        "1.0.8.e.f.ip6.arpa",
    ] {
        for reply in both(nodens.address(), &Query::new(name, 12)) {
            assert_eq!(
                (reply.rcode(), reply.message.authorities.len()),
                (ResponseCode::NXDomain, 1),
                "{name}"
            );
        }
    }
    assert!(upstream.asked().is_empty(), "{:?}", upstream.asked());
    // Reverse names of pods and services are not special.
    ask("1.0.96.10.in-addr.arpa", 12);
    assert_eq!(upstream.asked().len(), 1);
}

#[test]
fn hosts_and_zone_files_are_answered_here_and_longest_suffix_wins() {
    let upstream = Responder::start(one_address(60));
    let other = Responder::start(|asked| Some(answers(&asked.query, [a(&asked.name, 60, [192, 0, 2, 200])])));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("corp.zone");
    let text = "$ORIGIN corp.example.\n$TTL 60\n@ SOA ns admin 1 2 3 4 5\n@ NS ns\nns A 10.0.0.1\nwww A 10.0.0.2\n\
                alias CNAME www\n*.wild A 10.0.0.3\n";
    std::fs::write(&file, text).unwrap();
    let yaml = format!(
        "zones:\n- {{name: '.', forward: {{to: ['{}']}}}}\n- {{name: deep.example, forward: {{to: ['{}']}}}}\n\
         - {{name: corp.example, file: '{}'}}\nhosts: {{registry.internal: ['10.0.0.7', 'fd00::7'], x.corp.example: ['10.9.9.9']}}\n",
        upstream.address(),
        other.address(),
        file.display()
    );
    let nodens = Nodens::start(&yaml);
    for _ in 0..3 {
        let addresses = |name: &str| udp(nodens.address(), &query(name)).addresses();
        assert_eq!(addresses("registry.internal"), [[10, 0, 0, 7]]);
        assert_eq!(addresses("x.corp.example"), [[10, 9, 9, 9]], "hosts come before zones");
        assert_eq!(addresses("www.corp.example"), [[10, 0, 0, 2]]);
        assert_eq!(addresses("alias.corp.example"), [[10, 0, 0, 2]]);
        assert_eq!(addresses("any.wild.corp.example"), [[10, 0, 0, 3]]);
        assert_eq!(addresses("a.deep.example"), [[192, 0, 2, 200]]);
        assert_eq!(addresses("deep.example"), [[192, 0, 2, 200]]);
        assert_eq!(addresses("notdeep.example"), [ADDRESS], "a suffix of labels, not of letters");
        for reply in both(nodens.address(), &query("nx.corp.example")) {
            assert_eq!((reply.rcode(), reply.message.authorities.len()), (ResponseCode::NXDomain, 1));
        }
        let nodata = udp(nodens.address(), &Query::new("registry.internal", TXT));
        assert_eq!((nodata.rcode(), nodata.counts()[1]), (ResponseCode::NoError, 0));
    }
    assert_eq!((upstream.asked().len(), other.asked().len()), (1, 2));
    assert!(nodens.count("nodens_responses_total", &[("source", "local")]) > 0);
}

#[test]
fn names_of_no_zone_are_refused() {
    let upstream = Responder::start(one_address(60));
    let nodens = Nodens::start(&format!(
        "zones: [{{name: cluster.local, forward: {{to: ['{}'], except: [no.cluster.local]}}}}]\n",
        upstream.address()
    ));
    for name in ["www.example", "a.no.cluster.local"] {
        let reply = udp(nodens.address(), &query(name).payload(1232));
        assert_eq!((reply.rcode(), reply.extended_error()), (ResponseCode::Refused, Some(20)), "{name}");
    }
    assert_eq!(udp(nodens.address(), &query("a.cluster.local")).addresses(), [ADDRESS]);
}

#[test]
fn large_answers_and_many_records_come_through_whole() {
    let upstream = Responder::start(|asked| {
        let number: usize = asked.name.split('.').next().unwrap().parse().unwrap();
        let text = |n: usize| RData::TXT(Text::new(vec![format!("{n:05}{}", "x".repeat(200))]));
        let reply =
            answers(&asked.query, (0..number).map(|n| Record::from_rdata(host(&asked.name), 60, text(n))));
        assert_eq!(reply[2] & 2, 0, "hickory has cut it at {} bytes", reply.len());
        Some(reply)
    });
    let nodens = before(&upstream, "");
    // Up to nearly the largest message there is: hickory writes 224 bytes for each record.
    for number in [1, 5, 100, 290] {
        let query = Query::new(&format!("{number}.example"), TXT);
        for _ in 0..2 {
            assert_eq!(tcp(nodens.address(), &query).message.answers.len(), number);
            let over_udp = udp(nodens.address(), &query.clone().payload(4096));
            assert_eq!(over_udp.has(TC), number > 5, "{number}");
        }
    }
}

#[test]
fn hits_are_counted_by_layer_and_kind_and_every_query_once() {
    let upstream = Responder::start(|asked| {
        Some(match asked.name.as_str() {
            "nx.example" => negative(&asked.query, ResponseCode::NXDomain, "example", 60, 60),
            "nodata.example" => negative(&asked.query, ResponseCode::NoError, "example", 60, 60),
            "bad.example" => rcode(&asked.query, ResponseCode::ServFail),
            _ => answers(&asked.query, [a(&asked.name, 60, ADDRESS)]),
        })
    });
    let nodens = before(&upstream, "cache: {failure_ttl: {min: 60s, max: 60s}}\n");
    let names = [
        ("pos.example", "positive"),
        ("nx.example", "nxdomain"),
        ("nodata.example", "nodata"),
        ("bad.example", "failure"),
    ];
    for (name, _) in names {
        // A miss; the store's, that fills near; three of near; two over TCP, of the store.
        for _ in 0..5 {
            udp(nodens.address(), &query(name));
        }
        for _ in 0..2 {
            tcp(nodens.address(), &query(name));
        }
    }
    let metrics = nodens.metrics();
    let hits = |layer, kind| metrics.count("nodens_cache_hits_total", &[("layer", layer), ("kind", kind)]);
    for (name, kind) in names {
        assert_eq!(
            hits("near", kind) + hits("store", kind),
            6,
            "{name}: {:?}",
            metrics.non_zero("nodens_cache")
        );
        assert!(hits("store", kind) >= 3 && hits("near", kind) >= 1, "{name}");
        assert_eq!(hits("stale", kind), 0);
    }
    assert_eq!(metrics.count("nodens_cache_misses_total", &[]), 4);
    assert_eq!(metrics.count("nodens_queries_total", &[]), 28);
    assert_eq!(metrics.count("nodens_queries_total", &[("proto", "tcp"), ("type", "A")]), 8);
    assert_eq!(metrics.count("nodens_responses_total", &[]), 28);
    assert_eq!(metrics.count("nodens_responses_total", &[("rcode", "NXDOMAIN")]), 7);
    assert_eq!(
        metrics.count("nodens_responses_total", &[("source", "upstream")])
            + metrics.count("nodens_responses_total", &[("source", "failure")]),
        4
    );
    assert_eq!(metrics.count("nodens_cache_entries", &[("kind", "positive")]), 1);
    assert_eq!(metrics.count("nodens_cache_entries", &[("kind", "negative")]), 2);
    assert_eq!(metrics.count("nodens_cache_entries", &[("kind", "failure")]), 1);
    assert_eq!(metrics.count("nodens_in_flight", &[]), 0);
    assert_eq!(metrics.count("nodens_response_duration_seconds_count", &[]), 28);
    assert_eq!(metrics.count("nodens_drops_total", &[]) + metrics.count("nodens_shed_total", &[]), 0);
}

#[test]
fn rfc6147_aaaa_answers_are_made_of_a_answers_where_a_zone_asks_for_it() {
    let upstream = Responder::start(|asked| {
        Some(match (asked.name.as_str(), asked.qtype) {
            (_, A) => answers(&asked.query, [a(&asked.name, 60, ADDRESS)]),
            _ => negative(&asked.query, ResponseCode::NoError, "example", 60, 60),
        })
    });
    let nodens = Nodens::start(&format!(
        "zones: [{{name: '.', forward: {{to: ['{}']}}, dns64: {{}}}}]\n",
        upstream.address()
    ));
    for _ in 0..2 {
        let reply = udp(nodens.address(), &Query::new("v4.example", AAAA));
        let RData::AAAA(address) = &reply.message.answers[0].data else { panic!("{reply:?}") };
        assert_eq!(address.0, "64:ff9b::c000:201".parse::<std::net::Ipv6Addr>().unwrap());
    }
}

#[test]
fn rewritten_names_and_fixed_answers() {
    let upstream = Responder::start(one_address(60));
    let nodens = Nodens::start(&format!(
        "zones: [{{name: '.', forward: {{to: ['{}']}}, answers: [{{types: [AAAA]}}, {{name: '*.blocked.example', rcode: nxdomain}}]}}]\n\
         rewrite: [{{name: db.example, to: db.prod.example}}, {{suffix: old.example, to: new.example}}]\n",
        upstream.address()
    ));
    for _ in 0..2 {
        for (asked, looked_up) in [("db.example", "db.prod.example"), ("a.old.example", "a.new.example")] {
            let reply = udp(nodens.address(), &query(asked));
            assert_eq!(reply.message.answers[0].name.to_ascii(), format!("{asked}."), "under the name asked");
            assert_eq!((upstream.count(looked_up, A), upstream.count(asked, A)), (1, 0));
        }
        let aaaa = udp(nodens.address(), &Query::new("www.example", AAAA));
        assert_eq!((aaaa.rcode(), aaaa.counts()[1]), (ResponseCode::NoError, 0));
        assert_eq!(udp(nodens.address(), &query("x.blocked.example")).rcode(), ResponseCode::NXDomain);
    }
    assert_eq!(upstream.asked().len(), 2);
}
