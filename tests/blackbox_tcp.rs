//! TCP as clients see it (RFC 7766, RFC 9210): pipelines, order, idleness, caps, and what slow and hostile clients cost others.

mod support {
    pub mod client;
    pub mod loopback;
    pub mod need;
    pub mod nodens;
    pub mod responder;
    pub mod upstream;
    pub mod wait;
}

use std::collections::HashSet;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;

use support::client::{A, Query, RD, Reply, Tcp, frame, tcp, udp};
use support::nodens::{Nodens, zone_dot};
use support::responder::{Responder, a, answers};
use support::upstream::{Behaviour, Order, Upstream, address_of};
use support::wait::{eventually, seconds};

fn query(name: &str) -> Query {
    Query::new(name, A)
}

fn before(upstream: &Upstream, listen_tcp: &str) -> Nodens {
    let zones = zone_dot(upstream.address(), "tcp");
    Nodens::start(&format!("listen: {{workers: 1, tcp: {{{listen_tcp}}}}}\n{zones}"))
}

/// Checks a reply against what the scripted upstream answers to this name.
fn check(reply: &Reply, name: &str) {
    assert_eq!(reply.addresses(), [address_of(name).octets()], "{name}: {:?}", reply.rcode());
}

#[test]
fn rfc7766_a_pipeline_of_misses_and_hits_is_answered_each_once() {
    let upstream = Upstream::start(Order::Concurrent);
    let nodens = before(&upstream, "");
    for round in 0..2 {
        let mut connection = Tcp::connect(nodens.address());
        let names: Vec<_> = (0..1000).map(|number| format!("p{number}.example")).collect();
        let mut bytes = Vec::new();
        for (number, name) in names.iter().enumerate() {
            let query = Query { id: number as u16, ..query(name) };
            bytes.extend_from_slice(&frame(&query.bytes()));
        }
        connection.write(&bytes).unwrap();
        let mut answered = HashSet::new();
        for _ in &names {
            let reply = connection.receive();
            check(&reply, &names[usize::from(reply.id())]);
            assert!(answered.insert(reply.id()), "round {round}: {} twice", reply.id());
        }
    }
    assert_eq!(nodens.count("nodens_cache_misses_total", &[]), 1000);
}

#[test]
fn a_client_that_always_has_another_query_leaves_the_thread_to_others_and_to_sigterm() {
    let upstream = Upstream::start(Order::Concurrent);
    let mut nodens = before(&upstream, "");
    check(&tcp(nodens.address(), &query("hot.example")), "hot.example");
    let connection = std::net::TcpStream::connect(nodens.address()).unwrap();
    let (mut reads, mut writes) = (connection.try_clone().unwrap(), connection.try_clone().unwrap());
    let reader = std::thread::spawn(move || {
        let mut buffer = vec![0; 1 << 20];
        while reads.read(&mut buffer).is_ok_and(|read| read > 0) {}
    });
    let writer = std::thread::spawn(move || {
        let queries = frame(&query("hot.example").bytes()).repeat(200);
        while writes.write_all(&queries).is_ok() {}
    });
    for _ in 0..20 {
        let asked = Instant::now();
        check(&tcp(nodens.address(), &query("hot.example")), "hot.example");
        assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
        std::thread::sleep(Duration::from_millis(50));
    }
    nodens.signal("TERM");
    let asked = Instant::now();
    assert!(nodens.ended().success());
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    let _ = connection.shutdown(std::net::Shutdown::Both);
    reader.join().unwrap();
    writer.join().unwrap();
}

#[test]
fn rfc7766_answers_come_as_they_are_ready_not_in_the_order_of_the_queries() {
    let upstream = Upstream::start(Order::Concurrent);
    upstream.on("slow.example", Behaviour::After(Duration::from_millis(700)));
    let nodens = before(&upstream, "");
    let mut connection = Tcp::connect(nodens.address());
    let slow = query("slow.example");
    connection.send(&slow.bytes());
    let fast: Vec<_> = (0..20).map(|number| query(&format!("fast{number}.example"))).collect();
    for query in &fast {
        connection.send(&query.bytes());
    }
    for _ in &fast {
        assert_ne!(connection.receive().id(), slow.id);
    }
    check(&connection.receive(), "slow.example");
}

#[test]
fn rfc7766_a_client_that_has_said_all_still_gets_all_answers() {
    let upstream = Upstream::start(Order::Concurrent);
    upstream.otherwise(Behaviour::After(Duration::from_millis(300)));
    let nodens = before(&upstream, "");
    let mut connection = Tcp::connect(nodens.address());
    for number in 0..50 {
        connection.send(&query(&format!("h{number}.example")).bytes());
    }
    connection.stream().shutdown(Shutdown::Write).unwrap();
    for _ in 0..50 {
        assert_eq!(connection.receive().rcode(), ResponseCode::NoError);
    }
    assert!(connection.try_receive().unwrap().is_none(), "then the connection ends");
}

#[test]
fn rfc7766_idle_connections_are_closed_and_those_that_wait_for_an_answer_are_not() {
    let upstream = Upstream::start(Order::Concurrent);
    upstream.on("slow.example", Behaviour::After(seconds(2)));
    let nodens = before(&upstream, "idle_timeout: 500ms");
    let mut silent = Tcp::connect(nodens.address());
    let mut asked = Tcp::connect(nodens.address());
    let mut waits = Tcp::connect(nodens.address());
    waits.send(&query("slow.example").bytes());
    asked.send(&query("a.example").bytes());
    check(&asked.receive(), "a.example");
    silent.closed_within(seconds(5));
    asked.closed_within(seconds(5));
    check(&waits.receive(), "slow.example");
    waits.closed_within(seconds(5));
    eventually("no connection is left", seconds(5), || nodens.count("nodens_tcp_connections", &[]) == 0);
}

#[test]
fn a_query_that_is_never_complete_does_not_keep_a_connection_open() {
    let upstream = Upstream::start(Order::Concurrent);
    let nodens = before(&upstream, "idle_timeout: 500ms");
    let started = Instant::now();
    let whole = frame(&query("a.example").bytes());
    let mut connection = Tcp::connect(nodens.address());
    // A byte every 50 ms: at that pace the query would take more than a second and a half.
    let mut closed = false;
    for byte in &whole[..whole.len() - 1] {
        thread::sleep(Duration::from_millis(50));
        closed = connection.write(&[*byte]).is_err();
        if closed {
            break;
        }
    }
    if !closed {
        connection.closed_within(seconds(5));
    }
    assert!(started.elapsed() < seconds(8));
}

#[test]
fn rfc9210_connections_are_capped_for_each_client_and_in_all() {
    let upstream = Upstream::start(Order::Concurrent);
    let nodens = before(&upstream, "max_connections: 8, max_connections_per_client: 3");
    let client = |last: u8| Ipv4Addr::new(127, 3, 3, last);
    let open = |last: u8| {
        let mut connection = Tcp::connect_from(client(last), nodens.address());
        connection.send(&query("a.example").bytes());
        connection.try_receive().expect("an answer or the end in time").map(|_| connection)
    };
    let first: Vec<_> = (0..3).map(|_| open(1).expect("within the client's cap")).collect();
    assert!(open(1).is_none(), "a fourth of the same client is closed");
    let others: Vec<_> = [2, 2, 2, 3, 3].map(|last| open(last).expect("others have room")).into();
    assert!(open(4).is_none(), "a ninth in all is closed");
    let metrics = nodens.metrics();
    assert_eq!(metrics.count("nodens_tcp_connections", &[]), 8);
    assert_eq!(metrics.count("nodens_shed_total", &[("reason", "tcp_client")]), 1);
    assert_eq!(metrics.count("nodens_shed_total", &[("reason", "tcp_connections")]), 1);
    // UDP is none of it.
    check(&udp(nodens.address(), &query("a.example")), "a.example");
    drop(first);
    eventually("there is room again", seconds(5), || nodens.count("nodens_tcp_connections", &[]) == 5);
    assert!(open(1).is_some() && open(4).is_some());
    drop(others);
}

#[test]
fn ten_thousand_queries_pipelined_without_reading_cost_nobody_else_anything() {
    // 100 addresses each: all answers together are 16 MB, far more than the sockets hold.
    let upstream = Upstream::start(Order::Concurrent);
    upstream.on("large.example", Behaviour::Large(100));
    let nodens = before(&upstream, "");
    assert_eq!(tcp(nodens.address(), &query("large.example")).addresses().len(), 100);
    check(&tcp(nodens.address(), &query("good.example")), "good.example");
    let before = nodens.resident();

    let mut connection = Tcp::connect(nodens.address());
    let mut writing = connection.stream().try_clone().unwrap();
    let written = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let bytes: Vec<_> = (0..10_000_u16)
                .flat_map(|id| frame(&Query { id, flags: RD, ..query("large.example") }.bytes()))
                .collect();
            writing.write_all(&bytes).expect("nodens reads on as soon as it can write");
            written.store(true, Ordering::SeqCst);
        });
        // Meanwhile others are served, over new connections, an old one and UDP.
        let mut old = Tcp::connect(nodens.address());
        for _ in 0..200 {
            old.send(&query("good.example").bytes());
            check(&old.receive(), "good.example");
            check(&tcp(nodens.address(), &query("good.example")), "good.example");
            check(&udp(nodens.address(), &query("good.example")), "good.example");
        }
        let grown = nodens.resident().saturating_sub(before);
        assert!(grown < 8 << 20, "it holds {grown} bytes for a client that does not read");
        for _ in 0..10_000 {
            let message = connection.try_receive().unwrap().expect("the connection stays open");
            assert!(message.len() > 1600, "{} bytes", message.len());
        }
    });
    assert!(written.load(Ordering::SeqCst));
}

#[test]
fn a_client_that_never_reads_is_closed_after_the_idle_timeout() {
    let upstream = Upstream::start(Order::Concurrent);
    upstream.on("large.example", Behaviour::Large(100));
    let nodens = before(&upstream, "idle_timeout: 500ms");
    tcp(nodens.address(), &query("large.example"));
    let mut connection = Tcp::connect(nodens.address());
    let bytes = frame(&query("large.example").bytes()).repeat(20_000);
    // Cut off while it writes, or after.
    let _ = connection.write(&bytes);
    eventually("it is closed", seconds(10), || nodens.count("nodens_tcp_connections", &[]) == 0);
}

#[test]
fn clients_that_vanish_with_queries_in_flight_leave_nothing_behind() {
    let upstream = Upstream::start(Order::Concurrent);
    upstream.otherwise(Behaviour::After(Duration::from_millis(300)));
    let nodens = before(&upstream, "");
    for round in 0..20 {
        let mut connection = Tcp::connect(nodens.address());
        for number in 0..50 {
            connection.send(&query(&format!("v{number}.r{round}.example")).bytes());
        }
        // With RST: what the client has not read yet is thrown away.
        socket2::SockRef::from(&*connection.stream()).set_linger(Some(Duration::ZERO)).unwrap();
    }
    eventually("all is over", seconds(10), || {
        let metrics = nodens.metrics();
        metrics.count("nodens_tcp_connections", &[]) == 0 && metrics.count("nodens_in_flight", &[]) == 0
    });
    check(&tcp(nodens.address(), &query("v1.r1.example")), "v1.r1.example");
}

#[test]
fn frames_of_every_length_are_taken_as_they_are() {
    let upstream = Upstream::start(Order::Concurrent);
    let nodens = before(&upstream, "");
    let address = nodens.address();
    // The longest there is: a query with bytes behind it.
    let mut longest = query("a.example").bytes();
    longest.resize(65_535, 0xee);
    let mut connection = Tcp::connect(address);
    connection.send(&longest);
    connection.send(&query("b.example").bytes());
    let replies = [connection.receive(), connection.receive()];
    for reply in &replies {
        check(reply, &reply.message.queries[0].name().to_ascii());
    }
    // Nothing but a length, less than a header, and all zeros: closed, and the next client is served.
    for bytes in [&[0, 0][..], &[0, 1, 7], &[0, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]] {
        let mut connection = Tcp::connect(address);
        connection.write(bytes).unwrap();
        connection.closed_within(seconds(5));
    }
    // A frame whose end never comes, then the end.
    let mut connection = Tcp::connect(address);
    connection.write(&[0xff, 0xff, 1, 2, 3]).unwrap();
    connection.stream().shutdown(Shutdown::Write).unwrap();
    connection.closed_within(seconds(5));
    check(&tcp(address, &query("a.example")), "a.example");
}

#[test]
fn good_queries_before_a_bad_one_are_answered() {
    let upstream = Upstream::start(Order::Concurrent);
    let nodens = before(&upstream, "");
    tcp(nodens.address(), &query("warm.example"));
    let mut connection = Tcp::connect(nodens.address());
    let bad = [0x12, 0x34, 0x01, 0x00, 0, 0, 0, 0, 0, 0, 0, 0];
    connection
        .write(
            &[frame(&query("warm.example").bytes()), frame(&bad), frame(&query("warm.example").bytes())]
                .concat(),
        )
        .unwrap();
    check(&connection.receive(), "warm.example");
    assert_eq!(connection.receive().rcode(), ResponseCode::FormErr);
    check(&connection.receive(), "warm.example");
}

#[test]
fn length_and_message_leave_in_one_segment() {
    // A forwarder that writes the length by itself, or without TCP_NODELAY, shows delays of 40 ms.
    let upstream =
        Responder::start(|asked| Some(answers(&asked.query, [a(&asked.name, 60, [192, 0, 2, 1])])));
    let nodens = Nodens::start(&zone_dot(upstream.address(), "tcp"));
    let mut connection = Tcp::connect(nodens.address());
    let mut buffer = [0; 512];
    let mut whole = 0;
    let started = Instant::now();
    for _ in 0..100 {
        connection.send(&query("a.example").bytes());
        let length = connection.stream().read(&mut buffer).unwrap();
        let expected = 2 + usize::from(u16::from_be_bytes([buffer[0], buffer[1]]));
        whole += usize::from(length == expected);
        if length < expected {
            connection.stream().read_exact(&mut buffer[length..expected]).unwrap();
        }
    }
    println!("100 questions in a row over TCP: {:?}", started.elapsed());
    assert_eq!(whole, 100, "each answer is read at once");
}

#[test]
fn a_draining_process_answers_what_arrived_and_closes() {
    let upstream = Upstream::start(Order::Concurrent);
    upstream.otherwise(Behaviour::After(Duration::from_millis(500)));
    let nodens = before(&upstream, "");
    let mut idle = Tcp::connect(nodens.address());
    let mut busy: Vec<_> = (0..10).map(|_| Tcp::connect(nodens.address())).collect();
    for (number, connection) in busy.iter_mut().enumerate() {
        for query_number in 0..20 {
            connection.send(&query(&format!("d{number}x{query_number}.example")).bytes());
        }
    }
    eventually("all are on their way", seconds(5), || nodens.count("nodens_in_flight", &[]) == 200);
    nodens.signal("TERM");
    idle.closed_within(seconds(5));
    for connection in &mut busy {
        for _ in 0..20 {
            let reply = connection.receive();
            check(&reply, &reply.message.queries[0].name().to_ascii());
        }
        assert!(connection.try_receive().unwrap().is_none());
    }
    assert_eq!(nodens.stop_after_signal(), Some(0));
}
