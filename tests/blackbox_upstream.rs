//! Upstreams that close, lie, cut, hang and go away, and what clients notice of it: nothing, where that can be.

mod support {
    pub mod client;
    pub mod loopback;
    pub mod need;
    pub mod nodens;
    pub mod responder;
    pub mod upstream;
    pub mod wait;
}

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;

use support::client::{A, Query, Reply, Udp, tcp, udp};
use support::loopback;
use support::need;
use support::nodens::{Nodens, zone_dot};
use support::responder::{Responder, a, answers};
use support::upstream::{Behaviour, LIE, Order, Upstream, address_of};
use support::wait::{eventually, seconds};

fn query(name: &str) -> Query {
    Query::new(name, A)
}

/// Everything goes to these, with these settings of `forward`.
fn before(to: &[SocketAddr], forward: &str) -> String {
    let mut yaml = String::from("zones: [{name: '.', forward: {to: [");
    for address in to {
        // Writing to a string cannot fail.
        let _ = write!(yaml, "'{address}', ");
    }
    yaml + &format!("], {forward}}}}}]\n")
}

fn check(reply: &Reply, name: &str) {
    assert_eq!(reply.addresses(), [address_of(name).octets()], "{name}: {:?}", reply.rcode());
}

#[test]
fn rfc7766_an_upstream_may_close_at_any_time_and_no_client_sees_an_error() {
    for order in [Order::Serial, Order::Concurrent] {
        let upstream = Upstream::start(order);
        let nodens = Nodens::start(&before(&[upstream.address()], ""));
        let once = [
            Behaviour::Fin,
            Behaviour::Reset,
            Behaviour::AnswerThenFin,
            Behaviour::AnswerThenReset,
            Behaviour::HalfFrame,
        ];
        for round in 0..4 {
            for (number, behaviour) in once.iter().enumerate() {
                let name = format!("close{number}.r{round}.example");
                upstream.on_each(&name, [behaviour.clone(), Behaviour::Answer]);
                check(&udp(nodens.address(), &query(&name)), &name);
                let next = format!("next{number}.r{round}.example");
                check(&udp(nodens.address(), &query(&next)), &next);
            }
        }
    }
}

#[test]
fn rfc7766_connections_that_were_closed_while_idle_cost_no_client_an_error() {
    let upstream = Upstream::start(Order::Concurrent);
    let nodens = Nodens::start(&before(&[upstream.address()], ""));
    for round in 0..30 {
        let names: Vec<_> = (0..20).map(|number| format!("i{number}.r{round}.example")).collect();
        let socket = Udp::connect(nodens.address());
        for name in &names {
            socket.send(&query(name).bytes());
        }
        for _ in &names {
            let reply = socket.receive();
            check(&reply, &reply.message.queries[0].name().to_ascii());
        }
        upstream.cut(round % 2 == 0);
    }
}

#[test]
fn closing_under_load_loses_no_query() {
    let upstream = Upstream::start(Order::Concurrent);
    upstream.otherwise(Behaviour::After(Duration::from_millis(5)));
    let nodens = Nodens::start(&before(&[upstream.address()], ""));
    thread::scope(|scope| {
        let cutter = scope.spawn(|| {
            for turn in 0..20 {
                thread::sleep(Duration::from_millis(50));
                upstream.cut(turn % 2 == 0);
            }
        });
        let mut number = 0;
        while !cutter.is_finished() {
            let socket = Udp::connect(nodens.address());
            for _ in 0..50 {
                number += 1;
                socket.send(&query(&format!("l{number}.example")).bytes());
            }
            for _ in 0..50 {
                let reply = socket.receive();
                check(&reply, &reply.message.queries[0].name().to_ascii());
            }
        }
        println!("{number} lookups while their connections were cut 20 times");
    });
}

#[test]
fn a_few_connections_carry_all_queries() {
    let upstream = Upstream::start(Order::Concurrent);
    let nodens = Nodens::start(&before(&[upstream.address()], "hedge: 0%"));
    for number in 0..500 {
        let name = format!("c{number}.example");
        check(&udp(nodens.address(), &query(&name)), &name);
    }
    assert!(upstream.accepted() <= 4, "{} connections for 500 queries in a row", upstream.accepted());
    assert_eq!(upstream.udp_queries(), 0);
}

#[test]
fn a_slow_name_does_not_hold_up_others_even_where_the_upstream_answers_in_order() {
    let upstream = Upstream::start(Order::Serial);
    upstream.on("slow.example", Behaviour::After(seconds(2)));
    let nodens = Nodens::start(&before(&[upstream.address()], ""));
    for number in 0..20 {
        udp(nodens.address(), &query(&format!("warm{number}.example")));
    }
    let slow = Udp::connect(nodens.address());
    slow.send(&query("slow.example").bytes());
    eventually("it is on its way", seconds(5), || upstream.asked("slow.example") > 0);
    let started = Instant::now();
    for number in 0..20 {
        let name = format!("fast{number}.example");
        check(&udp(nodens.address(), &query(&name)), &name);
    }
    println!("20 names beside a slow one: {:?}", started.elapsed());
    assert!(
        slow.receive_within(Duration::from_millis(1)).is_none(),
        "the fast ones were answered before the slow one"
    );
    check(&slow.receive(), "slow.example");
}

#[test]
fn rfc5452_lies_are_never_believed_and_the_right_answer_is_waited_for() {
    for transport in ["tcp", "udp", "auto"] {
        let upstream = Upstream::start(Order::Concurrent);
        let nodens =
            Nodens::start(&before(&[upstream.address()], &format!("transport: {transport}, timeout: 1s")));
        for (name, behaviour) in [
            ("lies.example", Behaviour::LiesThenAnswer),
            ("thrice.example", Behaviour::Thrice),
            ("folded.example", Behaviour::FoldedCase),
            ("source.example", Behaviour::WrongSourceThenAnswer),
        ] {
            upstream.on(name, behaviour);
            for _ in 0..2 {
                check(&udp(nodens.address(), &query(name)), name);
            }
        }
        for (name, behaviour) in [
            ("id.example", Behaviour::WrongId),
            ("question.example", Behaviour::WrongQuestion),
            ("garbage.example", Behaviour::Garbage),
        ] {
            upstream.on(name, behaviour);
            let reply = udp(nodens.address(), &query(name));
            assert_eq!(reply.rcode(), ResponseCode::ServFail, "{transport} {name}");
            assert!(!reply.addresses().contains(&LIE.octets()));
        }
        // None of it has hurt the others.
        check(&udp(nodens.address(), &query("good.example")), "good.example");
    }
}

#[test]
fn rfc7766_truncated_over_tcp_too_is_servfail_with_invalid_data_at_once() {
    let upstream = Upstream::start(Order::Concurrent);
    upstream.on("cut.example", Behaviour::AlwaysTruncated);
    for transport in ["tcp", "auto"] {
        let nodens = Nodens::start(&before(&[upstream.address()], &format!("transport: {transport}")));
        let started = Instant::now();
        let reply = udp(nodens.address(), &query("cut.example").payload(1232));
        assert_eq!(
            (reply.rcode(), reply.extended_error()),
            (ResponseCode::ServFail, Some(24)),
            "{transport}"
        );
        // The time of a lookup is 4 s.
        assert!(started.elapsed() < seconds(2), "{:?}", started.elapsed());
        check(&udp(nodens.address(), &query("good.example")), "good.example");
    }
}

#[test]
fn rfc8914_a_silent_upstream_is_servfail_with_no_reachable_authority_in_the_configured_time() {
    let upstream = Upstream::start(Order::Concurrent);
    upstream.on("silent.example", Behaviour::Silent);
    upstream.on("half.example", Behaviour::HalfFrameThenSilent);
    let nodens = Nodens::start(&before(&[upstream.address()], "timeout: 1s"));
    for name in ["silent.example", "half.example"] {
        let started = Instant::now();
        let reply = udp(nodens.address(), &query(name).payload(1232));
        println!("{name}: {:?}", started.elapsed());
        assert_eq!((reply.rcode(), reply.extended_error()), (ResponseCode::ServFail, Some(22)), "{name}");
        assert!(started.elapsed() < seconds(5));
        check(&udp(nodens.address(), &query("good.example")), "good.example");
    }
}

#[test]
fn rfc1035_cut_replies_are_asked_again_over_tcp_or_passed_on() {
    let upstream = Upstream::start(Order::Concurrent);
    upstream.on("cut.example", Behaviour::Truncated);
    upstream.on("always.example", Behaviour::AlwaysTruncated);
    let auto = Nodens::start(&before(&[upstream.address()], "transport: auto, timeout: 1s"));
    check(&udp(auto.address(), &query("cut.example")), "cut.example");
    let reply = udp(auto.address(), &query("always.example"));
    assert_eq!(reply.counts()[1], 0, "nothing of a cut reply is taken for an answer");
    let over_udp = Nodens::start(&before(&[upstream.address()], "transport: udp"));
    assert!(udp(over_udp.address(), &query("cut.example")).has(support::client::TC));
}

#[test]
fn rfc8914_where_nobody_listens_it_is_servfail_soon_and_not_ready() {
    let nodens =
        Nodens::start_unready(&format!("{}node: {{upstream_wait: 2s}}\n", before(&[loopback::free()], "")));
    let (status, body) = nodens.get("/ready").unwrap();
    assert_eq!((status, body.as_str()), (503, "no upstream has answered yet\n"));
    let started = Instant::now();
    let reply = udp(nodens.address(), &query("a.example").payload(1232));
    println!("refused connections: SERVFAIL after {:?}", started.elapsed());
    assert_eq!(reply.rcode(), ResponseCode::ServFail);
    assert!(matches!(reply.extended_error(), Some(22 | 23)), "{:?}", reply.extended_error());
    // Names of the node's own need nobody.
    assert_eq!(udp(nodens.address(), &query("localhost")).addresses(), [[127, 0, 0, 1]]);
    // After the wait it serves what there is.
    eventually("ready all the same", seconds(10), || {
        nodens.get("/ready").is_some_and(|(status, _)| status == 200)
    });
    nodens.until_said("no upstream has answered");
}

#[test]
fn an_upstream_that_comes_back_is_used_at_once_and_hits_go_on_meanwhile() {
    let upstream = Upstream::start(Order::Concurrent);
    let address = upstream.address();
    let nodens =
        Nodens::start(&format!("{}cache: {{failure_ttl: {{min: 1s, max: 1s}}}}\n", before(&[address], "")));
    check(&udp(nodens.address(), &query("warm.example")), "warm.example");
    upstream.stop();
    for _ in 0..100 {
        check(&udp(nodens.address(), &query("warm.example")), "warm.example");
    }
    assert_eq!(udp(nodens.address(), &query("cold.example")).rcode(), ResponseCode::ServFail);
    let upstream = Upstream::start_at(Order::Concurrent, address);
    let started = Instant::now();
    eventually("the upstream is used again", seconds(15), || {
        udp(nodens.address(), &query("cold.example")).rcode() == ResponseCode::NoError
    });
    println!("used again after {:?}", started.elapsed());
    drop(upstream);
}

#[test]
fn one_of_two_upstreams_may_be_down_or_hang_and_no_client_sees_an_error() {
    for hangs in [false, true] {
        let good = Upstream::start(Order::Concurrent);
        let bad = Upstream::start(Order::Concurrent);
        let bad_address = bad.address();
        let bad = if hangs {
            bad.serve_connections(|_| false);
            Some(bad)
        } else {
            bad.stop();
            None
        };
        for policy in ["random", "round_robin", "sequential", "latency"] {
            let yaml = before(&[bad_address, good.address()], &format!("policy: {policy}"));
            let nodens = Nodens::start(&yaml);
            let started = Instant::now();
            for number in 0..100 {
                let name = format!("n{number}.{policy}.example");
                check(&udp(nodens.address(), &query(&name)), &name);
            }
            println!("hangs: {hangs}, {policy}: 100 lookups in {:?}", started.elapsed());
        }
        drop(bad);
    }
}

#[test]
fn every_upstream_and_endpoint_is_counted() {
    let upstream = Upstream::start(Order::Concurrent);
    let nodens = Nodens::start(&before(&[upstream.address()], ""));
    for number in 0..10 {
        udp(nodens.address(), &query(&format!("m{number}.example")));
    }
    let metrics = nodens.metrics();
    let label = upstream.address().to_string();
    let to = [("endpoint", label.as_str())];
    let asked = metrics.sum("nodens_upstream_duration_seconds_count", &to);
    assert!(asked >= 10.0, "{:?}", metrics.non_zero("nodens_upstream"));
    assert_eq!(metrics.count("nodens_cache_misses_total", &[]), 10);
}

#[test]
fn a_resolv_conf_is_followed_when_it_changes() {
    if !need::root() {
        return;
    }
    // Nameservers of a resolv.conf are asked at port 53, which needs root.
    let at = || SocketAddr::from((loopback::address(), 53));
    let answer = |last: u8| {
        move |asked: &support::responder::Asked| {
            Some(answers(&asked.query, [a(&asked.name, 60, [192, 0, 2, last])]))
        }
    };
    let (one, two) = (Responder::start_at(at(), answer(1)), Responder::start_at(at(), answer(2)));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("resolv.conf");
    let write = |responder: &Responder| {
        let new = directory.path().join("new");
        std::fs::write(
            &new,
            format!("search a.example\nnameserver {}\noptions ndots:5\n", responder.address().ip()),
        )
        .unwrap();
        std::fs::rename(new, &file).unwrap();
    };
    write(&one);
    let yaml = format!("zones: [{{name: '.', forward: {{to: ['{}'], transport: auto}}}}]\n", file.display());
    let nodens = Nodens::start(&yaml);
    assert_eq!(udp(nodens.address(), &query("first.example")).addresses(), [[192, 0, 2, 1]]);
    write(&two);
    let mut number = 0;
    eventually("the other one is asked", seconds(15), || {
        number += 1;
        udp(nodens.address(), &query(&format!("n{number}.example"))).addresses() == [[192, 0, 2, 2]]
    });
    // A file without a nameserver is a moment's mistake: what was there goes on.
    std::fs::write(&file, "# nothing\n").unwrap();
    nodens.until_said("resolv.conf names no server");
    assert_eq!(udp(nodens.address(), &query("last.example")).addresses(), [[192, 0, 2, 2]]);
}

#[test]
fn large_replies_over_tcp_upstream_reach_clients_of_both_transports() {
    let upstream = Upstream::start(Order::Concurrent);
    upstream.on("large.example", Behaviour::Large(1000));
    let nodens = Nodens::start(&zone_dot(upstream.address(), "tcp"));
    assert_eq!(tcp(nodens.address(), &query("large.example")).addresses().len(), 1000);
    assert!(udp(nodens.address(), &query("large.example")).has(support::client::TC));
}
