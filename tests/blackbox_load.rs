//! Load: dnsperf with many queries outstanding, hand-overs under it, clients that take more than their share. Hostile bytes and
//! connections are in `blackbox_abuse.rs`.

mod support {
    pub mod client;
    pub mod dnsperf;
    pub mod loopback;
    pub mod need;
    pub mod nodens;
    pub mod nsd;
    pub mod upstream;
    pub mod wait;
}

use std::net::{Ipv4Addr, UdpSocket};

use hickory_proto::op::ResponseCode;

use support::client::{A, Query, udp};
use support::dnsperf::{Load, Queries, run, start};
use support::need;
use support::nodens::{Nodens, Places, zone_dot};
use support::nsd::{CLUSTER, EXTERNAL, Nsd};
use support::upstream::{Behaviour, Order, Upstream, address_of};
use support::wait::{eventually, seconds};

fn query(name: &str) -> Query {
    Query::new(name, A)
}

/// What pods ask: services by their full name and through the search path, names outside, names that are not there.
fn kubernetes_mix() -> Queries {
    let mut names = Vec::new();
    for number in 0..20 {
        let service = format!("s{number}.load.svc.cluster.local");
        names.push(service.clone());
        names.push(format!("{service}.default.svc.cluster.local"));
        names.push(format!("{service}.svc.cluster.local"));
        names.push(format!("{service}.cluster.local"));
        names.push(format!("n{number}.wild.example.org"));
        names.push(format!("nx{number}.example.org"));
    }
    Queries::new(names.iter().flat_map(|name| [(name.as_str(), "A"), (name.as_str(), "AAAA")]))
}

#[test]
fn dnsperf_with_400_and_5000_outstanding_loses_nothing_cold_and_warm() {
    if !need::programs(&["dnsperf", "nsd"]) {
        return;
    }
    let nsd = Nsd::start(&[EXTERNAL, CLUSTER]);
    let queries = kubernetes_mix();
    for outstanding in [400, 5000] {
        let nodens = Nodens::start(&format!("listen: {{workers: 1}}\n{}", zone_dot(nsd.address(), "tcp")));
        for state in ["cold", "warm"] {
            let counted =
                run(nodens.address(), &queries, Load { outstanding, clients: 20, ..Load::default() });
            println!("{outstanding} outstanding, {state}: {} queries in 3 s", counted.sent);
            counted.lost_nothing(&format!("{outstanding} outstanding, {state}"));
        }
        let metrics = nodens.metrics();
        assert_eq!(metrics.count("nodens_drops_total", &[]) + metrics.count("nodens_shed_total", &[]), 0);
        // 240 questions; between two looks at the store an answer of 5 s may expire.
        assert!(metrics.count("nodens_cache_misses_total", &[]) < 20_000);
        assert_eq!(nodens.stop(), Some(0));
    }
}

#[test]
fn dnsperf_over_tcp_loses_nothing() {
    if !need::programs(&["dnsperf", "nsd"]) {
        return;
    }
    let nsd = Nsd::start(&[EXTERNAL, CLUSTER]);
    let nodens = Nodens::start(&zone_dot(nsd.address(), "tcp"));
    let queries = kubernetes_mix();
    for outstanding in [100, 2000] {
        let load = Load { outstanding, tcp: true, clients: 20, ..Load::default() };
        let counted = run(nodens.address(), &queries, load);
        println!("{outstanding} outstanding over TCP: {} queries in 3 s", counted.sent);
        counted.lost_nothing(&format!("{outstanding} outstanding over TCP"));
    }
}

#[test]
fn misses_alone_lose_nothing() {
    if !need::programs(&["dnsperf"]) {
        return;
    }
    let upstream = Upstream::start(Order::Concurrent);
    let nodens =
        Nodens::start(&format!("limits: {{client_share: 100%}}\n{}", zone_dot(upstream.address(), "tcp")));
    let names: Vec<_> = (0..30_000).map(|number| format!("m{number}.example")).collect();
    let queries = Queries::new(names.iter().map(|name| (name.as_str(), "A")));
    let load = Load { outstanding: 400, rate: 3000, seconds: 5, ..Load::default() };
    let counted = run(nodens.address(), &queries, load);
    println!("{} names that were asked once", counted.sent);
    counted.lost_nothing("misses");
    assert!(nodens.count("nodens_cache_misses_total", &[]) >= counted.sent * 9 / 10);
}

#[test]
fn sigterm_under_load_answers_all_that_was_received() {
    if !need::programs(&["dnsperf"]) {
        return;
    }
    let upstream = Upstream::start(Order::Concurrent);
    let yaml = format!("listen: {{workers: 2}}\n{}", zone_dot(upstream.address(), "tcp"));
    let places = Places::free();
    let names: Vec<_> = (0..2000).map(|number| format!("t{number}.example")).collect();
    let queries = Queries::new(names.iter().map(|name| (name.as_str(), "A")));
    let mut nodens = Nodens::start_at(places, &yaml);
    // Five times the old one leaves while the new one is there, as a DaemonSet with maxSurge does it.
    let load = Load { outstanding: 200, rate: 5000, seconds: 12, clients: 50, ..Load::default() };
    let mut dnsperf = start(places.dns, &queries, load);
    for _ in 0..5 {
        let next = Nodens::start_at(Places { dns: places.dns, ..Places::free() }, &yaml);
        assert_eq!(std::mem::replace(&mut nodens, next).stop(), Some(0));
    }
    assert!(dnsperf.is_running(), "the hand-overs took longer than the load");
    let counted = dnsperf.finish();
    println!("5 hand-overs under {} queries", counted.sent);
    counted.lost_nothing("hand-overs");
}

#[test]
fn one_client_with_slow_names_leaves_room_for_others() {
    // Names that are never answered: all that one client may have in flight, and more.
    let upstream = Upstream::start(Order::Concurrent);
    let yaml = format!(
        "limits: {{in_flight: 500, client_share: 10%}}\nzones: [{{name: '.', forward: {{to: ['{}'], timeout: 2s}}}}]\n",
        upstream.address()
    );
    let nodens = Nodens::start(&yaml);
    udp(nodens.address(), &query("good.example"));
    for number in 0..2000 {
        upstream.on(&format!("slow{number}.example"), Behaviour::Silent);
    }
    let greedy = UdpSocket::bind((Ipv4Addr::new(127, 9, 7, 7), 0)).unwrap();
    for number in 0..2000 {
        greedy.send_to(&query(&format!("slow{number}.example")).bytes(), nodens.address()).unwrap();
    }
    eventually("the client is turned away", seconds(10), || nodens.count("nodens_shed_total", &[]) > 0);
    for number in 0..50 {
        let name = format!("other{number}.example");
        let reply = udp(nodens.address(), &query(&name));
        assert_eq!(reply.addresses(), [address_of(&name).octets()], "{:?}", reply.rcode());
    }
    eventually("all is over", seconds(15), || nodens.count("nodens_in_flight", &[]) == 0);
    // Every query was counted as answered: none just vanished.
    let metrics = nodens.metrics();
    let [queries, responses] =
        ["nodens_queries_total", "nodens_responses_total"].map(|family| metrics.count(family, &[]));
    assert_eq!(queries, responses, "{:?}", metrics.non_zero("nodens_"));
}

#[test]
fn a_flood_of_names_that_do_not_exist_does_not_push_out_those_that_do() {
    let upstream = Upstream::start(Order::Concurrent);
    let yaml = format!(
        "cache: {{size: 1MiB, negative_size: 64KiB, near_size: 64KiB}}\nlimits: {{client_share: 100%}}\n{}",
        zone_dot(upstream.address(), "tcp")
    );
    let nodens = Nodens::start(&yaml);
    let names: Vec<_> = (0..100).map(|number| format!("keep{number}.example")).collect();
    for name in &names {
        udp(nodens.address(), &query(name));
    }
    upstream.otherwise(Behaviour::Rcode(ResponseCode::NXDomain));
    let socket = support::client::Udp::connect(nodens.address());
    for batch in 0..50 {
        for number in 0..100 {
            socket.send(&query(&format!("nx{batch}x{number}.example")).bytes());
        }
        for _ in 0..100 {
            assert_eq!(socket.receive().rcode(), ResponseCode::NXDomain);
        }
    }
    for name in &names {
        assert_eq!(udp(nodens.address(), &query(name)).addresses(), [address_of(name).octets()]);
    }
    assert!(names.iter().all(|name| upstream.asked(name) == 1), "all were still there");
    let metrics = nodens.metrics();
    for kind in ["positive", "negative", "near"] {
        let [bytes, budget] = ["nodens_cache_bytes", "nodens_cache_budget_bytes"]
            .map(|family| metrics.count(family, &[("kind", kind)]));
        assert!(bytes <= budget, "{kind}: {bytes} of {budget}");
    }
}
