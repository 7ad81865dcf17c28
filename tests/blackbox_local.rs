//! What is answered on the node itself, or made of other answers: special names, hosts, zone files, fixed answers, rewrites, DNS64.

mod support {
    pub mod client;
    pub mod fetched;
    pub mod loopback;
    pub mod need;
    pub mod nodens;
    pub mod responder;
    pub mod wait;
}

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RData;

use support::client::{A, AAAA, Query, TXT, both, udp};
use support::fetched::{ADDRESS, before, one_address, query};
use support::nodens::Nodens;
use support::responder::{Responder, a, answers, negative};

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
