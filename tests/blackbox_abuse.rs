//! Abuse: garbage at line rate, ten thousand connections, clients that half write and half read. A good client loses nothing
//! beyond what the kernel drops of a full socket buffer, memory and descriptors stay bounded, and afterwards all is as it was.

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
use std::fs;
use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;

use support::client::{A, Query, Reply, Tcp, frame, tcp, udp};
use support::need;
use support::nodens::{Nodens, zone_dot};
use support::responder::{Responder, a, answers};
use support::upstream::{Behaviour, Order, Upstream, address_of};
use support::wait::{eventually, seconds};

/// Ends what runs beside a test, also when that fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// What is kept for TCP clients that are slow, all together: `src/server/kept.rs`.
const KEPT: u64 = 32 << 20;

fn query(name: &str) -> Query {
    Query::new(name, A)
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
    eventually("nothing is left", seconds(30), || {
        let metrics = nodens.metrics();
        metrics.count("nodens_tcp_connections", &[]) == 0
            && metrics.count("nodens_in_flight", &[]) == 0
            // Connections to the upstream come and go by themselves.
            && metrics.count("process_open_fds", &[]) <= descriptors + 20
    });
    assert_eq!(nodens.count("nodens_panics_total", &[]), 0);
}

/// The most memory that a process ever had, in bytes (proc(5): VmHWM).
fn peak(nodens: &Nodens) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", nodens.pid())).expect("nodens runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number of kB") << 10
}

/// Datagrams that the kernel has dropped of the sockets at this address since they were opened.
fn kernel_drops(address: SocketAddr) -> u64 {
    let SocketAddr::V4(address) = address else { panic!("the tests use IPv4") };
    // As the kernel writes it: the address as a number in host order.
    let local = format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port());
    let table = fs::read_to_string("/proc/net/udp").expect("proc is mounted");
    let lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let drops = lines
        .filter(|words| words.get(1) == Some(&local.as_str()))
        .filter_map(|words| words.last()?.parse::<u64>().ok());
    drops.sum()
}

/// Raises the descriptors that this process and its children may open. False, and said, where that is not allowed.
fn may_open(count: usize) -> bool {
    if !need::root() || !need::programs(&["prlimit"]) {
        return false;
    }
    let pid = std::process::id().to_string();
    let raised = Command::new("prlimit").args(["--pid", &pid, &format!("--nofile={count}:{count}")]).status();
    if !raised.is_ok_and(|status| status.success()) {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{count} descriptors are not allowed");
        eprintln!("SKIP: {count} descriptors are not allowed");
        return false;
    }
    true
}

#[test]
fn garbage_at_line_rate_costs_a_good_client_no_more_than_the_kernel_drops() {
    const QUERIES: u16 = 2_000;
    let upstream = Upstream::start(Order::Concurrent);
    let nodens = Nodens::start(&format!("listen: {{workers: 1}}\n{}", zone_dot(upstream.address(), "tcp")));
    let server = nodens.address();
    good_client(server);
    let (before, descriptors) = (nodens.resident(), nodens.count("process_open_fds", &[]));
    let done = AtomicBool::new(false);
    let (sent, answered) = thread::scope(|scope| {
        let end = Ends(&done);
        let flood = scope.spawn(|| {
            let socket = UdpSocket::bind((Ipv4Addr::new(127, 9, 9, 9), 0)).unwrap();
            let whole = query("garbage.example").payload(1232).bytes();
            // Noise, and queries with a few bytes of noise in them; made first, so that sending is all that it does.
            let packets: Vec<_> = (0..4096)
                .map(|number| {
                    let is_noise = number & 1 == 1;
                    let mut bytes =
                        if is_noise { vec![0; usize::from(rand::random::<u8>())] } else { whole.clone() };
                    for _ in 0..if is_noise { bytes.len() } else { 3 } {
                        let at = rand::random_range(0..bytes.len());
                        bytes[at] = rand::random();
                    }
                    bytes
                })
                .collect();
            let mut sent = 0_u64;
            while !done.load(Ordering::SeqCst) {
                for packet in &packets {
                    // Answers pile up in the socket unread: the kernel drops them.
                    let _ = socket.send_to(packet, server);
                }
                sent += packets.len() as u64;
            }
            sent
        });
        // A query every two milliseconds; what comes back, whenever it does.
        let socket = UdpSocket::bind((Ipv4Addr::new(127, 9, 9, 8), 0)).unwrap();
        socket.connect(server).unwrap();
        socket.set_nonblocking(true).unwrap();
        let (mut answered, mut buffer, started) = (HashSet::new(), [0; 512], Instant::now());
        let mut collect = |limit: Instant| {
            while Instant::now() < limit {
                match socket.recv(&mut buffer) {
                    Ok(length) => {
                        let reply = Reply::parse(buffer[..length].to_vec());
                        assert_eq!(reply.addresses(), [address_of("good.example").octets()]);
                        assert!(answered.insert(reply.id()), "answered twice");
                    }
                    Err(_) => thread::sleep(Duration::from_micros(200)),
                }
            }
        };
        for id in 0..QUERIES {
            let bytes = Query { id, ..query("good.example") }.bytes();
            socket.send(&bytes).expect("loopback takes it");
            collect(started + Duration::from_millis(2) * u32::from(id));
            if id % 500 == 0 {
                // Who asks over TCP is not in that queue.
                let reply = tcp(server, &query("good.example"));
                assert_eq!(reply.addresses(), [address_of("good.example").octets()]);
            }
        }
        drop(end);
        let sent = flood.join().unwrap();
        collect(Instant::now() + seconds(2));
        (sent, answered.len() as u64)
    });
    let (lost, dropped) = (u64::from(QUERIES) - answered, kernel_drops(server));
    println!(
        "{sent} packets of garbage in 4 s; of {QUERIES} good queries {lost} lost, {dropped} packets dropped by the kernel"
    );
    // The kernel drops whichever packet finds the buffer full, the good client's as often as others: about in proportion.
    let [of_good, of_all] =
        [(lost, u64::from(QUERIES)), (dropped, sent)].map(|(part, whole)| part as f64 / whole as f64);
    assert!(
        of_good <= 2.0 * of_all + 0.01,
        "{lost} of {QUERIES} lost; the kernel dropped {dropped} of {sent}"
    );
    let grown = nodens.resident().saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes more than before");
    good_client(server);
    back_to_idle(&nodens, descriptors);
    // Every packet that reached it was counted as answered or as dropped for a reason.
    let metrics = nodens.metrics();
    let [queries, responses] =
        ["nodens_queries_total", "nodens_responses_total"].map(|family| metrics.count(family, &[]));
    assert_eq!(queries, responses, "{:?}", metrics.non_zero("nodens_"));
    assert_eq!(nodens.stop(), Some(0));
}

#[test]
fn ten_thousand_idle_slow_and_broken_connections_cost_a_good_client_nothing() {
    /// Connections, and of one address.
    const CONNECTIONS: u32 = 10_000;
    const OF_ONE: u32 = 400;
    /// Memory for each: its task, and room for a query that has begun.
    const EACH: u64 = 4 << 10;
    if !may_open(2 * CONNECTIONS as usize) {
        return;
    }
    let upstream = Upstream::start(Order::Concurrent);
    let limits = format!(
        "listen: {{tcp: {{max_connections: {}, max_connections_per_client: {OF_ONE}, idle_timeout: 20s}}}}\n",
        CONNECTIONS + 100
    );
    let nodens = Nodens::start(&format!("{limits}{}", zone_dot(upstream.address(), "tcp")));
    let server = nodens.address();
    good_client(server);
    let (before, descriptors) = (nodens.resident(), nodens.count("process_open_fds", &[]));
    let half = &frame(&query("half.example").bytes())[..9];
    let started = Instant::now();
    let mut swarm = Vec::new();
    for number in 0..CONNECTIONS {
        let source = Ipv4Addr::new(127, 9, 8, (number / OF_ONE) as u8 + 1);
        let mut connection = Tcp::connect_from(source, server);
        let written = match number % 4 {
            0 => Ok(()),
            1 => connection.write(half),
            2 => connection.write(&[0xff, 0xff]),
            _ => connection.write(&frame(&[0x5a; 600])),
        };
        written.expect("the connection is open");
        swarm.push(connection);
        if number % 500 == 0 {
            good_client(server);
        }
    }
    eventually("all are accepted", seconds(10), || {
        nodens.count("nodens_tcp_connections", &[]) >= u64::from(CONNECTIONS)
    });
    let grown = nodens.resident().saturating_sub(before);
    println!("{CONNECTIONS} connections after {:?}: {grown} bytes more", started.elapsed());
    assert!(grown < u64::from(CONNECTIONS) * EACH, "{grown} bytes more than before");
    assert!(nodens.count("process_open_fds", &[]) <= descriptors + u64::from(CONNECTIONS) + 20);
    for _ in 0..50 {
        good_client(server);
    }
    // They are closed by themselves.
    eventually("the swarm is gone", seconds(40), || nodens.count("nodens_tcp_connections", &[]) == 0);
    drop(swarm);
    back_to_idle(&nodens, descriptors);
    good_client(server);
    assert_eq!(nodens.stop(), Some(0));
}

#[test]
fn clients_that_half_write_and_half_read_cost_a_good_client_nothing() {
    let upstream = Upstream::start(Order::Concurrent);
    upstream.on("large.example", Behaviour::Large(100));
    let tcp_limits = "tcp: {max_connections_per_client: 100, idle_timeout: 2s}";
    let yaml = format!("listen: {{workers: 1, {tcp_limits}}}\n{}", zone_dot(upstream.address(), "tcp"));
    let nodens = Nodens::start(&yaml);
    let server = nodens.address();
    good_client(server);
    assert_eq!(tcp(server, &query("large.example")).addresses().len(), 100);
    let (before, descriptors) = (nodens.resident(), nodens.count("process_open_fds", &[]));
    let done = AtomicBool::new(false);
    let cut_off = AtomicUsize::new(0);
    // Each attack over and over from an address of its own, a new connection whenever the server ends one.
    let attack = |last: u8, of: &(dyn Fn(&mut Tcp) -> std::io::Result<()> + Sync)| {
        while !done.load(Ordering::SeqCst) {
            let mut connection = Tcp::connect_from(Ipv4Addr::new(127, 9, 6, last), server);
            connection.stream().set_write_timeout(Some(Duration::from_millis(500))).expect("above 0");
            connection.stream().set_read_timeout(Some(Duration::from_millis(500))).expect("above 0");
            if of(&mut connection).is_err() {
                cut_off.fetch_add(1, Ordering::SeqCst);
            }
            // They share the processors with what they attack.
            thread::sleep(Duration::from_millis(20));
        }
    };
    let mut longest = query("large.example").bytes();
    longest.resize(65_535, 0xee);
    let longest = frame(&longest);
    let pipeline: Vec<_> =
        (0..10_000_u16).flat_map(|id| frame(&Query { id, ..query("large.example") }.bytes())).collect();
    let one = frame(&query("good.example").bytes());
    let drip = |connection: &mut Tcp, bytes: &[u8]| {
        for byte in bytes {
            connection.write(&[*byte])?;
            thread::sleep(Duration::from_millis(20));
            if done.load(Ordering::SeqCst) {
                break;
            }
        }
        Ok(())
    };
    let hold = |connection: &mut Tcp| match connection.stream().read(&mut [0; 64]) {
        // Nothing comes: until the server has had enough.
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock && !done.load(Ordering::SeqCst) => {
            Ok(())
        }
        ended => ended.map(|_| ()),
    };
    let asked = thread::scope(|scope| {
        let _end = Ends(&done);
        for last in 1..=2 {
            // The longest messages there are, not one answer read.
            scope.spawn({
                let (attack, longest) = (&attack, &longest);
                move || attack(last, &|connection| (0..100).try_for_each(|_| connection.write(longest)))
            });
            // Ten thousand queries for 1.6 kB each, not one answer read.
            scope.spawn({
                let (attack, pipeline) = (&attack, &pipeline);
                move || attack(10 + last, &|connection| connection.write(pipeline))
            });
            // A query byte by byte, and half a frame.
            scope.spawn({
                let (attack, one) = (&attack, &one);
                move || attack(20 + last, &|connection| drip(connection, one))
            });
            scope.spawn({
                let (attack, longest) = (&attack, &longest);
                move || {
                    attack(30 + last, &|connection| {
                        connection.write(&longest[..30_000])?;
                        (0..4).try_for_each(|_| hold(connection))
                    });
                }
            });
            // Ten thousand queries, and their answers read byte by byte.
            scope.spawn({
                let (attack, pipeline) = (&attack, &pipeline);
                move || {
                    attack(40 + last, &|connection| {
                        connection.write(&pipeline[..60_000])?;
                        for _ in 0..100 {
                            connection.stream().read_exact(&mut [0])?;
                            thread::sleep(Duration::from_millis(10));
                        }
                        Ok(())
                    });
                }
            });
        }
        let (started, mut asked) = (Instant::now(), 0);
        while started.elapsed() < seconds(6) {
            good_client(server);
            asked += 4;
        }
        asked
    });
    let grown = peak(&nodens).saturating_sub(before);
    println!(
        "{asked} good queries answered; {} attacks cut off; {grown} bytes more at most",
        cut_off.into_inner()
    );
    assert!(grown < KEPT, "{grown} bytes more than before");
    back_to_idle(&nodens, descriptors);
    assert_eq!(nodens.stop(), Some(0));
}

#[test]
fn large_answers_that_nobody_reads_stay_within_the_bound_of_all_tcp_clients() {
    /// Clients, and queries of each, which is what a connection may have in flight; within `limits.waiters` together.
    const CLIENTS: usize = 16;
    const QUERIES: u16 = 250;
    /// Addresses in an answer: 32 kB, and nearly twice that as the upstream writes it.
    const ADDRESSES: u32 = 2_000;
    /// What else grows: write buffers of 64 KiB a connection, the cached answer, the allocator's own.
    const SLACK: u64 = 16 << 20;
    // All wait for the same lookup, so that the answers are there at one moment.
    let gate: Arc<(Mutex<bool>, Condvar)> = Arc::default();
    let of_upstream = Arc::clone(&gate);
    let upstream = Responder::start(move |asked| {
        if asked.name != "large.example" {
            return Some(answers(&asked.query, [a(&asked.name, 60, address_of(&asked.name).octets())]));
        }
        let (open, opened) = &*of_upstream;
        drop(opened.wait_while(open.lock().unwrap(), |open| !*open).unwrap());
        let addresses = (0..ADDRESSES).map(|number| a(&asked.name, 60, number.to_be_bytes()));
        Some(answers(&asked.query, addresses))
    });
    let yaml = format!(
        "listen: {{workers: 1, tcp: {{idle_timeout: 8s}}}}\nlimits: {{client_share: 100%}}\n\
         zones: [{{name: '.', forward: {{to: ['{}'], timeout: 30s}}}}]\n",
        upstream.address()
    );
    let nodens = Nodens::start(&yaml);
    let server = nodens.address();
    good_client(server);
    let (before, descriptors) = (peak(&nodens), nodens.count("process_open_fds", &[]));
    let mut clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let mut client = Tcp::connect(server);
            let queries = (0..QUERIES).flat_map(|id| frame(&Query { id, ..query("large.example") }.bytes()));
            client.write(&queries.collect::<Vec<_>>()).expect("the connection is open");
            client
        })
        .collect();
    let wanted = CLIENTS as u64 * u64::from(QUERIES);
    eventually("all wait", seconds(20), || nodens.count("nodens_in_flight", &[]) == wanted);
    let waiting = peak(&nodens).saturating_sub(before);
    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
    eventually("all are answered", seconds(20), || nodens.count("nodens_responses_total", &[]) >= wanted);
    let grown = peak(&nodens).saturating_sub(before);
    // They read after all: what fitted comes through whole, and who came too late was told. In which order they were
    // answered is nobody's business.
    let (mut whole, mut failed) = (0, 0);
    for client in &mut clients {
        if whole > 0 && failed > 0 {
            break;
        }
        client.stream().set_read_timeout(Some(seconds(1))).expect("above 0");
        while let Ok(Some(message)) = client.try_receive() {
            // Parsing two thousand records takes a test longer than these clients are waited for.
            let (rcode, answers) = (message[3] & 0xf, u16::from_be_bytes([message[6], message[7]]));
            match (rcode, u32::from(answers)) {
                (0, ADDRESSES) => whole += 1,
                (2, 0) => failed += 1,
                other => panic!("rcode and records: {other:?}"),
            }
        }
    }
    println!(
        "{wanted} answers of 32 kB: {waiting} bytes more while they waited, {grown} at most; \
         of them clients read {whole} answers and {failed} SERVFAIL"
    );
    assert!(grown < KEPT + SLACK, "{grown} bytes more than before");
    let shed = nodens.count("nodens_responses_total", &[("rcode", "SERVFAIL"), ("source", "shed")]);
    assert!(shed > wanted / 4, "what was turned away is counted: {shed}");
    assert!(whole > 0 && failed > 0, "{whole} answers, {failed} SERVFAIL");
    // UDP is none of it, and once those clients are gone all is as it was.
    assert_eq!(udp(server, &query("good.example")).addresses(), [address_of("good.example").octets()]);
    eventually("they are closed", seconds(30), || nodens.count("nodens_tcp_connections", &[]) == 0);
    drop(clients);
    back_to_idle(&nodens, descriptors);
    let large = tcp(server, &query("large.example"));
    assert_eq!((large.rcode(), large.addresses().len()), (ResponseCode::NoError, ADDRESSES as usize));
    good_client(server);
    assert_eq!(nodens.stop(), Some(0));
}
