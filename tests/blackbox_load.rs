//! Load and abuse: dnsperf with many queries outstanding, floods, swarms of connections. A good client loses nothing, and
//! afterwards everything is as it was.

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

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;

use support::client::{A, Query, Tcp, frame, tcp, udp};
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

/// A lookup by a client of another kind than the attackers, over UDP and TCP.
fn good_client(server: SocketAddr) {
    for name in ["good.example", "also-good.example"] {
        for reply in [udp(server, &query(name)), tcp(server, &query(name))] {
            assert_eq!(reply.addresses(), [address_of(name).octets()], "{:?}", reply.rcode());
        }
    }
}

/// Checks that nothing is left of what was: connections, queries, descriptors.
fn back_to_idle(nodens: &Nodens, descriptors: u64) {
    eventually("nothing is left", seconds(20), || {
        let metrics = nodens.metrics();
        metrics.count("nodens_tcp_connections", &[]) == 0
            && metrics.count("nodens_in_flight", &[]) == 0
            // Connections to the upstream come and go by themselves.
            && metrics.count("process_open_fds", &[]) <= descriptors + 20
    });
    assert_eq!(nodens.count("nodens_panics_total", &[]), 0);
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
fn a_flood_of_garbage_costs_a_good_client_nothing() {
    let upstream = Upstream::start(Order::Concurrent);
    let nodens = Nodens::start(&format!("listen: {{workers: 1}}\n{}", zone_dot(upstream.address(), "tcp")));
    let server = nodens.address();
    good_client(server);
    let (before, descriptors) = (nodens.resident(), nodens.count("process_open_fds", &[]));
    let done = AtomicBool::new(false);
    let sent = thread::scope(|scope| {
        let flood = scope.spawn(|| {
            let socket = UdpSocket::bind((Ipv4Addr::new(127, 9, 9, 9), 0)).unwrap();
            let whole = query("garbage.example").payload(1232).bytes();
            let mut sent = 0_u64;
            while !done.load(Ordering::SeqCst) {
                for _ in 0..200 {
                    // Noise, and queries with a few bytes of noise in them.
                    let is_noise = sent & 1 == 1;
                    let mut bytes =
                        if is_noise { vec![0; usize::from(rand::random::<u8>())] } else { whole.clone() };
                    for _ in 0..if is_noise { bytes.len() } else { 3 } {
                        let at = rand::random_range(0..bytes.len());
                        bytes[at] = rand::random();
                    }
                    // Answers pile up in the socket unread: the kernel drops them.
                    let _ = socket.send_to(&bytes, server);
                    sent += 1;
                }
                // About as fast as one worker takes them, so that the socket buffer is not what is tested.
                thread::sleep(Duration::from_millis(5));
            }
            sent
        });
        let started = Instant::now();
        while started.elapsed() < seconds(4) {
            good_client(server);
        }
        done.store(true, Ordering::SeqCst);
        flood.join().unwrap()
    });
    println!("{sent} packets of garbage");
    let grown = nodens.resident().saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes more than before");
    back_to_idle(&nodens, descriptors);
    assert_eq!(nodens.stop(), Some(0));
}

#[test]
fn a_swarm_of_idle_slow_and_broken_connections_costs_a_good_client_nothing() {
    let upstream = Upstream::start(Order::Concurrent);
    let limits =
        "listen: {tcp: {max_connections: 2000, max_connections_per_client: 400, idle_timeout: 3s}}\n";
    let nodens = Nodens::start(&format!("{limits}{}", zone_dot(upstream.address(), "tcp")));
    let server = nodens.address();
    good_client(server);
    let (before, descriptors) = (nodens.resident(), nodens.count("process_open_fds", &[]));
    let half = &frame(&query("half.example").bytes())[..9];
    let mut swarm = Vec::new();
    for number in 0..1600_u32 {
        // Four clients, each up to its cap.
        let mut connection = Tcp::connect_from(Ipv4Addr::new(127, 9, 8, (number % 4) as u8 + 1), server);
        let written = match number % 4 {
            0 => Ok(()),
            1 => connection.write(half),
            2 => connection.write(&[0xff, 0xff]),
            _ => connection.write(&frame(&[0x5a; 600])),
        };
        written.expect("the connection is open");
        swarm.push(connection);
        if number % 100 == 0 {
            good_client(server);
        }
    }
    let grown = nodens.resident().saturating_sub(before);
    println!("1,600 connections: {grown} bytes");
    assert!(grown < 32 << 20, "{grown} bytes more than before");
    good_client(server);
    // They are closed by themselves.
    eventually("the swarm is gone", seconds(20), || nodens.count("nodens_tcp_connections", &[]) == 0);
    drop(swarm);
    back_to_idle(&nodens, descriptors);
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
    good_client(nodens.address());
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
