//! What is kept, for whom, and what is asked for it: one test for each rule, named after its RFC. The real binary, and an upstream
//! whose every answer the test writes.

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
use std::time::Duration;

use hickory_proto::op::{Edns as ProtoEdns, ResponseCode};
use hickory_proto::rr::rdata::opt::{ClientSubnet, EdnsCode, EdnsOption};
use hickory_proto::rr::rdata::{HINFO, TXT as Text};
use hickory_proto::rr::{RData, Record};

use support::client::{A, AD, ANY, CD, Query, RD, Reply, TC, TXT, Udp, both, tcp, udp};
use support::fetched::{ADDRESS, before, one_address, query, without_hedges};
use support::nodens::{Nodens, zone_dot};
use support::responder::{Responder, a, answers, encode, host, negative, rcode, reply, soa};

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

#[test]
fn rfc5452_a_thousand_clients_of_one_cold_name_are_one_query_upstream() {
    let upstream = Responder::start(|asked| {
        thread::sleep(Duration::from_millis(300));
        Some(answers(&asked.query, [a(&asked.name, 60, ADDRESS)]))
    });
    let nodens = without_hedges(&upstream, "limits: {client_share: 100%}\n");
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
    let nodens = without_hedges(&upstream, "");
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
