//! The process: exit codes and messages, start, readiness, stop, and two of them at once.

mod support {
    pub mod client;
    pub mod loopback;
    pub mod need;
    pub mod nodens;
    pub mod upstream;
    pub mod wait;
}

use std::fs;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::client::{A, Query, Reply, Udp, tcp, udp, udp_within};
use support::loopback;
use support::need;
use support::nodens::{Nodens, Places, binary, get, run_to_end, zone_dot};
use support::upstream::{Behaviour, Order, Upstream, address_of};
use support::wait::{eventually, seconds};

fn query(name: &str) -> Query {
    Query::new(name, A)
}

fn check(reply: &Reply, name: &str) {
    assert_eq!(reply.addresses(), [address_of(name).octets()], "{name}: {:?}", reply.rcode());
}

/// Writes a configuration; its path.
fn config(directory: &tempfile::TempDir, yaml: &str) -> String {
    let file = directory.path().join("nodens.yaml");
    fs::write(&file, yaml).unwrap();
    file.display().to_string()
}

#[test]
fn help_and_version_exit_0() {
    let version = run_to_end(&["--version"], &[]);
    assert_eq!(
        (version.code, version.stdout.as_str()),
        (Some(0), concat!("nodens ", env!("CARGO_PKG_VERSION"), "\n"))
    );
    let help = run_to_end(&["--help"], &[]);
    assert_eq!(help.code, Some(0));
    for command in ["run", "check", "import-corefile", "cleanup"] {
        assert!(help.stdout.contains(command), "{}", help.stdout);
    }
}

#[test]
fn bad_usage_exits_64() {
    for arguments in [&[][..], &["serve"], &["run", "--config"], &["run", "--nonsense"], &["check", "file"]] {
        let ended = run_to_end(arguments, &[]);
        assert_eq!(ended.code, Some(64), "{arguments:?}: {ended:?}");
        assert!(!ended.stderr.is_empty());
    }
}

#[test]
fn a_bad_configuration_exits_64_and_names_file_key_value_and_what_was_expected() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing.zone");
    let zone_of_missing = format!("zones: [{{name: a.example, file: '{}'}}]", missing.display());
    let written = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        format!("zones: [{{name: '.', answers: [{{}}]}}, {{name: corp.test, file: '{}'}}]", path.display())
    };
    let zone_of_bad_ip =
        written("badip.zone", "$TTL 60\n@ SOA @ admin 1 2 3 4 60\n\nok A 10.1.0.1\nwww A 10.1.0.299\n");
    let zone_of_hello = written("hello.zone", "hello\n");
    let cases: &[(&str, &[&str])] = &[
        ("listen: {prot: 53}", &["listen", "prot"]),
        ("listen: {port: 0}", &["listen.port", "0", "1 to 65535"]),
        ("listen: {port: many}", &["listen.port", "many"]),
        ("listen: {port: 70000}", &["listen.port", "70000"]),
        ("listen: {addresses: [nowhere]}", &["listen.addresses", "nowhere"]),
        ("cache: {min_ttl: 2h, max_ttl: 1h}", &["cache.min_ttl", "2h", "1h"]),
        ("cache: {size: lots}", &["cache.size", "lots"]),
        (
            "zones: [{name: a.example, forward: {to: ['192.0.2.1']}}, {name: A.example., forward: {to: ['192.0.2.2']}}]",
            &["zones[1].name", "A.example"],
        ),
        ("zones: [{name: a.example}]", &["zones[0]"]),
        (
            "listen: {addresses: [127.0.0.1], port: 5399}\nzones: [{name: '.', forward: {to: ['127.0.0.1:5399']}}]",
            &["zones[0].forward.to[0]", "127.0.0.1:5399"],
        ),
        (&zone_of_missing, &["zones[0].file", "missing.zone"]),
        (&zone_of_bad_ip, &["zones[1].file: ", "badip.zone:5: "]),
        (&zone_of_hello, &["zones[1].file: ", "hello.zone"]),
        ("zones: {", &["YAML"]),
    ];
    for (yaml, words) in cases {
        let file = config(&directory, yaml);
        for command in ["check", "run"] {
            let ended = run_to_end(&[command, "--config", &file], &[]);
            assert_eq!(ended.code, Some(64), "{command} {yaml}: {ended:?}");
            assert!(ended.stdout.is_empty(), "{ended:?}");
            for word in [&[file.as_str()][..], words].concat() {
                assert!(ended.stderr.contains(word), "{yaml}: no {word:?} in {}", ended.stderr);
            }
        }
    }
    let nowhere = run_to_end(&["run", "--config", "/nonexistent/nodens.yaml"], &[]);
    assert!(nowhere.code == Some(64) && nowhere.stderr.contains("/nonexistent/nodens.yaml"), "{nowhere:?}");
    // And the environment is named where it is the environment's.
    let file = config(&directory, &zone_of_bad_ip);
    let hello = directory.path().join("hello.zone").display().to_string();
    let ended = run_to_end(&["check", "--config", &file], &[("NODENS__ZONES__1__FILE", hello.clone())]);
    let expected = format!("environment NODENS__ZONES__1__FILE: zones[1].file: {hello}");
    assert!(ended.code == Some(64) && ended.stderr.starts_with(&expected), "{ended:?}");
    let file = config(&directory, "listen: {port: 5399}");
    let ended = run_to_end(&["check", "--config", &file], &[("NODENS__LISTEN__PORT", "no".to_owned())]);
    assert!(ended.code == Some(64) && ended.stderr.contains("NODENS__LISTEN__PORT"), "{ended:?}");
}

#[test]
fn who_has_the_address_already_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (udp, tcp) =
        (udp.local_addr().map(|at| (at, udp)).unwrap(), tcp.local_addr().map(|at| (at, tcp)).unwrap());
    for (address, step) in [(udp.0, "binding UDP for"), (tcp.0, "binding TCP for")] {
        let zones =
            "zones: [{name: '.', forward: {to: ['192.0.2.1']}}]\nobserve: {metrics: null, health: null}";
        let yaml = format!("listen: {{addresses: [127.0.0.1], port: {}}}\n{zones}\n", address.port());
        let ended = run_to_end(&["run", "--config", &config(&directory, &yaml)], &[]);
        assert_eq!(ended.code, Some(1), "{ended:?}");
        let system = format!("{step} {address}: Address already in use");
        assert!(ended.stderr.contains(&system), "{system:?} is not in {}", ended.stderr);
        // Without privileges, which are dropped by then, the process of another user, root, is not seen.
        let holder =
            [format!("(pid {}) has it: ", std::process::id()), "a process of user 0 that".to_owned()];
        assert!(holder.iter().any(|holder| ended.stderr.contains(holder)), "{}", ended.stderr);
    }
}

#[test]
fn check_prints_what_it_would_serve_and_that_loads_again() {
    let directory = tempfile::tempdir().unwrap();
    let file = config(&directory, "zones: [{name: '.', forward: {to: ['192.0.2.1']}}]\n");
    let first = run_to_end(&["check", "--config", &file], &[]);
    assert_eq!(first.code, Some(0), "{first:?}");
    let again = directory.path().join("again.yaml");
    fs::write(&again, &first.stdout).unwrap();
    let second = run_to_end(&["check", "--config", again.to_str().unwrap()], &[]);
    let body = |text: &str| {
        text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(body(&first.stdout), body(&second.stdout));
}

#[test]
fn the_configuration_of_the_introduction_starts_as_it_stands() {
    let upstream = Upstream::start(Order::Concurrent);
    let places = Places::free();
    let directory = tempfile::tempdir().unwrap();
    let yaml = format!(
        r#"listen: {{addresses: ["{ip}"], port: {port}, workers: 1}}
cache: {{max_ttl: 1h, negative_max_ttl: 1h}}
zones:
  - name: "."
    forward: {{to: ["{upstream}"], transport: tcp}}
node: {{interface: {{manage: false}}, notrack: false}}
observe: {{metrics: "{metrics}", health: "{health}"}}
"#,
        ip = places.dns.ip(),
        port = places.dns.port(),
        upstream = upstream.address(),
        metrics = places.metrics,
        health = places.health,
    );
    let file = config(&directory, &yaml);
    let mut command = Command::new(binary());
    command.args(["run", "--config", &file]);
    let started = Instant::now();
    let nodens = Nodens::spawn(command, places, directory);
    let bytes = query("first.example").bytes();
    eventually("an answer", seconds(20), || {
        udp_within(places.dns, &bytes, Duration::from_millis(5)).is_some()
    });
    println!("first answer after {:?}", started.elapsed());
    for reply in [udp(places.dns, &query("a.example")), tcp(places.dns, &query("a.example"))] {
        check(&reply, "a.example");
    }
    assert_eq!(get(places.health, "/health").map(|(status, _)| status), Some(200));
    assert!(nodens.count("nodens_queries_total", &[]) >= 3);
    assert_eq!(nodens.stop(), Some(0));
}

#[test]
fn without_a_file_it_serves_loopback_from_resolv_conf() {
    if !fs::read_to_string("/etc/resolv.conf")
        .is_ok_and(|text| text.lines().any(|line| line.starts_with("nameserver")))
    {
        eprintln!("SKIP: /etc/resolv.conf names no server");
        return;
    }
    let places = Places::free();
    let mut command = Command::new(binary());
    command.arg("run").envs(places.environment());
    let mut nodens = Nodens::spawn(command, places, tempfile::tempdir().unwrap());
    nodens.until("alive", |nodens| nodens.get("/health").is_some_and(|(status, _)| status == 200));
    assert_eq!(udp(places.dns, &query("localhost")).addresses(), [[127, 0, 0, 1]]);
    assert!(nodens.said().contains("embedded default"), "{}", nodens.said());
    assert_eq!(nodens.stop(), Some(0));
}

#[test]
fn it_runs_without_any_privilege() {
    if !need::root() || !need::programs(&["setpriv"]) {
        return;
    }
    let upstream = Upstream::start(Order::Concurrent);
    let places = Places::free();
    let directory = tempfile::tempdir().unwrap();
    let file = config(&directory, &zone_dot(upstream.address(), "tcp"));
    // The binary too must be readable for nobody, which a home directory may not be.
    let copy = directory.path().join("nodens");
    fs::copy(binary(), &copy).unwrap();
    assert!(Command::new("chmod").args(["-R", "a+rX"]).arg(directory.path()).status().unwrap().success());
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs", "--inh-caps=-all"]);
    command.arg(&copy).args(["run", "--config", &file]).envs(places.environment());
    let mut nodens = Nodens::spawn(command, places, directory);
    nodens.until("ready", |nodens| nodens.get("/ready").is_some_and(|(status, _)| status == 200));
    check(&udp(places.dns, &query("a.example")), "a.example");
    assert_eq!(nodens.stop(), Some(0));
}

#[test]
fn an_address_that_another_program_has_is_a_failure_that_names_it() {
    let upstream = Upstream::start(Order::Concurrent);
    let directory = tempfile::tempdir().unwrap();
    let file = config(&directory, &zone_dot(upstream.address(), "tcp"));
    for over_tcp in [false, true] {
        let places = Places::free();
        let held: Box<dyn std::any::Any> = if over_tcp {
            Box::new(TcpListener::bind(places.dns).unwrap())
        } else {
            Box::new(UdpSocket::bind(places.dns).unwrap())
        };
        let ended = run_to_end(&["run", "--config", &file], &places.environment());
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(ended.stderr.contains(&places.dns.to_string()), "{ended:?}");
        drop(held);
    }
}

#[test]
fn a_clash_of_metrics_or_health_does_not_stop_dns() {
    let upstream = Upstream::start(Order::Concurrent);
    let places = Places::free();
    let held = TcpListener::bind(places.metrics).unwrap();
    let mut nodens = Nodens::launch(places, &zone_dot(upstream.address(), "tcp"));
    nodens.until("ready", |nodens| nodens.get("/ready").is_some_and(|(status, _)| status == 200));
    check(&udp(places.dns, &query("a.example")), "a.example");
    drop(held);
    // It is bound as soon as it is free.
    eventually("/metrics answers", seconds(20), || get(places.metrics, "/metrics").is_some());
    assert!(nodens.count("nodens_http_bind_failures_total", &[]) >= 1);
}

#[test]
fn health_ready_and_metrics_answer_and_nothing_else_does() {
    let upstream = Upstream::start(Order::Concurrent);
    let nodens = Nodens::forwarding_to(upstream.address());
    assert_eq!(nodens.get("/health").unwrap(), (200, "OK".to_owned()));
    assert_eq!(nodens.get("/ready").unwrap(), (200, "OK\n".to_owned()));
    assert_eq!(nodens.get("/nothing").unwrap().0, 404);
    let metrics = nodens.metrics();
    for family in
        ["nodens_build_info", "process_open_fds", "coredns_dns_requests_total", "nodens_config_info"]
    {
        assert!(metrics.sum(family, &[]) >= 0.0, "{family}");
    }
}

#[test]
fn sigterm_and_sigint_drain_everything_received_is_answered() {
    for signal in ["TERM", "INT"] {
        let upstream = Upstream::start(Order::Concurrent);
        upstream.otherwise(Behaviour::After(Duration::from_millis(400)));
        let nodens =
            Nodens::start(&format!("listen: {{workers: 2}}\n{}", zone_dot(upstream.address(), "tcp")));
        let sockets: Vec<_> = (0..300).map(|_| Udp::connect(nodens.address())).collect();
        for (number, socket) in sockets.iter().enumerate() {
            socket.send(&query(&format!("d{number}.example")).bytes());
        }
        eventually("all are on their way", seconds(5), || nodens.count("nodens_in_flight", &[]) == 300);
        nodens.signal(signal);
        for (number, socket) in sockets.iter().enumerate() {
            check(&socket.receive(), &format!("d{number}.example"));
        }
        assert_eq!(nodens.stop_after_signal(), Some(0), "SIG{signal}");
    }
}

#[test]
fn a_draining_process_is_not_ready_and_ends_within_its_time() {
    let upstream = Upstream::start(Order::Concurrent);
    upstream.on("silent.example", Behaviour::Silent);
    let nodens = Nodens::start(&format!("listen: {{drain: 1s}}\n{}", zone_dot(upstream.address(), "tcp")));
    let socket = Udp::connect(nodens.address());
    socket.send(&query("silent.example").bytes());
    eventually("it is on its way", seconds(5), || upstream.asked("silent.example") > 0);
    let signalled = Instant::now();
    nodens.signal("TERM");
    let mut seen = None;
    eventually("it is draining", seconds(5), || {
        seen = nodens.get("/ready");
        !matches!(seen, Some((200, _)))
    });
    if let Some((status, body)) = seen {
        assert_eq!((status, body.as_str()), (503, "draining\n"));
    }
    // Whoever still waits at the end is told so.
    let reply = socket.receive();
    assert_eq!(reply.rcode(), hickory_proto::op::ResponseCode::ServFail);
    assert_eq!(nodens.stop_after_signal(), Some(0));
    println!("ended {:?} after SIGTERM, of 1 s to drain", signalled.elapsed());
    assert!(signalled.elapsed() < seconds(5));
}

#[test]
fn a_new_process_takes_over_on_the_same_addresses_and_nothing_is_lost() {
    let upstream = Upstream::start(Order::Concurrent);
    let yaml = format!("listen: {{workers: 2}}\n{}", zone_dot(upstream.address(), "tcp"));
    let places = Places::free();
    let second_places = Places { dns: places.dns, ..Places::free() };
    let first = Nodens::start_at(places, &yaml);
    for number in 0..50 {
        udp(places.dns, &query(&format!("w{number}.example")));
    }
    let (done, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let asking = scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                // A fresh port for each, as many pods do: the kernel chooses the socket by it.
                let name = format!("w{}.example", asked.fetch_add(1, Ordering::SeqCst) % 50);
                check(&udp(places.dns, &query(&name)), &name);
                check(&tcp(places.dns, &query(&name)), &name);
            }
        });
        let second = Nodens::start_at(second_places, &yaml);
        assert_eq!(first.stop(), Some(0));
        let by_then = asked.load(Ordering::SeqCst);
        eventually("the second one is asked alone", seconds(10), || {
            asked.load(Ordering::SeqCst) > by_then + 50
        });
        done.store(true, Ordering::SeqCst);
        asking.join().unwrap();
        println!("{} lookups over both transports, none lost", asked.load(Ordering::SeqCst));
        check(&udp(places.dns, &query("after.example")), "after.example");
        assert_eq!(second.stop(), Some(0));
    });
}

#[test]
fn killed_without_a_word_it_starts_again_at_once_on_the_same_addresses() {
    let upstream = Upstream::start(Order::Concurrent);
    let yaml = zone_dot(upstream.address(), "tcp");
    let places = Places::free();
    for _ in 0..3 {
        let mut nodens = Nodens::start_at(places, &yaml);
        // Connections in TIME_WAIT hold the port for a minute, if one lets them.
        check(&tcp(places.dns, &query("a.example")), "a.example");
        nodens.signal("KILL");
        assert_eq!(nodens.ended().code(), None);
    }
}

#[test]
fn both_address_families_at_once() {
    if UdpSocket::bind("[::1]:0").is_err() {
        eprintln!("SKIP: no IPv6 on loopback");
        return;
    }
    let upstream = Upstream::start(Order::Concurrent);
    let v4 = loopback::free();
    let v6: SocketAddr = format!("[::1]:{}", v4.port()).parse().unwrap();
    let places = Places { dns: v4, ..Places::free() };
    let mut command = Command::new(binary());
    let directory = tempfile::tempdir().unwrap();
    let file = config(&directory, &zone_dot(upstream.address(), "tcp"));
    command.args(["run", "--config", &file]).envs(places.environment());
    command.env("NODENS__LISTEN__ADDRESSES", format!("{},::1", v4.ip()));
    let mut nodens = Nodens::spawn(command, places, directory);
    nodens.until("ready", |nodens| nodens.get("/ready").is_some_and(|(status, _)| status == 200));
    for address in [v4, v6] {
        check(&udp(address, &query("a.example")), "a.example");
        check(&tcp(address, &query("a.example")), "a.example");
    }
    let metrics = nodens.metrics();
    for family in ["1", "2"] {
        assert_eq!(metrics.count("nodens_queries_total", &[("family", family)]), 2);
    }
}

#[test]
fn the_query_log_says_who_asked_what_and_where_the_answer_came_from() {
    let upstream = Upstream::start(Order::Concurrent);
    for format in ["text", "json"] {
        let log = format!(
            "listen: {{workers: 1}}\nlog: {{format: {format}, queries: true}}\n{}",
            zone_dot(upstream.address(), "tcp")
        );
        let nodens = Nodens::start(&log);
        for _ in 0..3 {
            udp(nodens.address(), &query("logged.example"));
        }
        tcp(nodens.address(), &query("logged.example"));
        eventually("four lines", seconds(10), || nodens.said().matches("logged.example").count() == 4);
        let said = nodens.said();
        let lines: Vec<_> = said.lines().filter(|line| line.contains("logged.example")).collect();
        for (source, line) in ["upstream", "store", "near", "store"].iter().zip(&lines) {
            assert!(line.contains(source) && line.contains("127.0.0.1"), "{source}: {line}");
        }
    }
}
