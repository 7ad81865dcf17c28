//! The incident, at the upstream room alone: endpoints behind a service IP with real conntrack and DNAT vanish without
//! a word. Every lookup is a miss here; no cache helps.
//!
//! Needs root, `ip`, `ss` and `nft`; without them a test says SKIP, and fails with `CI=true`.

mod support {
    pub(crate) mod exchange;
    pub(crate) mod heartbeat;
    pub(crate) mod netns;
    pub(crate) mod upstream;
}

use std::io::BufRead as _;
use std::net::SocketAddr;
use std::process::Command;
use std::rc::Rc;
use std::time::{Duration, Instant};

use nodens::config::Transport;
use support::exchange::{bench_at, run, spec};
use support::heartbeat::Heartbeat;
use support::netns::{self, Netns, Process, veth};
use support::upstream::{Order, Upstream};

/// Plays an endpoint or a node's load when another test starts it inside a namespace.
#[test]
#[ignore = "started by the other tests as a process of its own"]
fn actor() {
    let argument = |name: &str| std::env::var(name).expect("the starter sets it");
    match argument("ROLE").as_str() {
        "endpoint" => {
            let _upstream =
                Upstream::start_at(Order::Serial, argument("ADDRESS").parse().expect("an address"));
            println!("\n@listening");
            // Until the starter goes or lets go.
            for _ in std::io::stdin().lock().lines() {}
        }
        "load" => {
            let lookups = load(argument("SECONDS").parse().expect("a number"));
            let slowest = lookups.iter().map(|lookup| lookup.took).max().unwrap_or_default();
            let failed = lookups.iter().filter(|lookup| !lookup.answered).count();
            let slow = lookups.iter().filter(|lookup| lookup.took > LONG).count();
            println!("\n@{} {failed} {slow} {}", lookups.len(), slowest.as_millis());
        }
        other => panic!("no such role: {other}"),
    }
}

struct Lookup {
    /// Zero where the machine itself stood still.
    took: Duration,
    answered: bool,
}

/// A lookup every 2.5 ms through the service IP, as 40 clients with 10 a second make.
fn load(seconds: u32) -> Vec<Lookup> {
    run(async {
        let bench = Rc::new(bench_at(&spec(Transport::Tcp), vec![SERVICE.parse().expect("an address")]));
        // Warm: a pool as it is in service.
        for number in 0..400 {
            let _ = bench.ask(&format!("w{number}.example")).await;
        }
        println!("\n@ready");
        let heartbeat = Heartbeat::start();
        let start = tokio::time::Instant::now();
        let mut tasks = Vec::new();
        for number in 0..seconds * 400 {
            tokio::time::sleep_until(start + Duration::from_micros(2_500) * number).await;
            let bench = Rc::clone(&bench);
            tasks.push(tokio::task::spawn_local(async move {
                let asked = Instant::now();
                let result = bench.ask(&format!("n{number}.example")).await;
                (asked, Lookup { took: asked.elapsed(), answered: result.is_ok() })
            }));
        }
        let mut lookups = Vec::new();
        for task in tasks {
            lookups.push(task.await.expect("no panic"));
        }
        let stalls = heartbeat.stop();
        // What the machine itself has held up says nothing; that it was answered does.
        let timed = |(asked, Lookup { took, answered })| {
            let disturbed = answered && stalls.disturbed(asked, took);
            Lookup { took: if disturbed { Duration::ZERO } else { took }, answered }
        };
        lookups.into_iter().map(timed).collect()
    })
}

/// A node with a service IP in front of two endpoints.
struct Cluster {
    node: Netns,
    endpoints: [Netns; 2],
    _processes: [Process; 2],
}

impl Cluster {
    fn start() -> Self {
        let (node, endpoints) = (Netns::new("node"), [Netns::new("one"), Netns::new("two")]);
        let processes = [0, 1].map(|number| {
            let endpoint = &endpoints[number];
            veth(
                &node,
                &[&format!("10.91.{number}.1/24")],
                endpoint,
                &[&format!("{}/24", ENDPOINTS[number])],
            );
            let address = SocketAddr::new(ENDPOINTS[number].parse().expect("an address"), 53);
            let process = endpoint.spawn(act("endpoint").env("ADDRESS", address.to_string()));
            assert_eq!(process.read_line("@"), "listening");
            process
        });
        // Locally made packets to an address that no interface has need a route before DNAT.
        node.exec("ip route add 10.96.0.0/16 dev to-one src 10.91.0.1");
        // Sources follow the endpoint's network.
        node.exec(
            "nft add table ip kube; nft add chain ip kube out '{ type nat hook output priority -100; }'",
        );
        node.exec("nft add chain ip kube post '{ type nat hook postrouting priority 100; }'");
        node.exec("nft add rule ip kube post masquerade");
        let cluster = Self { node, endpoints, _processes: processes };
        cluster.point_at(&ENDPOINTS);
        cluster
    }

    /// Sends new connections to these endpoints, as kube-proxy would; conntrack rows stay.
    fn point_at(&self, endpoints: &[&str]) {
        let map: Vec<_> =
            endpoints.iter().enumerate().map(|(n, address)| format!("{n} : {address}")).collect();
        self.node.exec(&format!(
            "nft 'flush chain ip kube out; add rule ip kube out ip daddr 10.96.0.10 tcp dport 53 dnat to numgen random mod {} map {{ {} }}'",
            endpoints.len(),
            map.join(", ")
        ));
    }

    /// The endpoint is gone: nothing comes from it, not even a RST.
    fn vanish(&self, number: usize) {
        self.endpoints[number].exec(
            "nft 'add table ip gone; add chain ip gone in { type filter hook prerouting priority -400; policy drop; }; \
             add chain ip gone out { type filter hook output priority -400; policy drop; }; \
             add rule ip gone in tcp flags syn / syn,ack counter drop'",
        );
    }

    /// The endpoint that holds more connections of the node: its loss is felt.
    fn busier(&self) -> usize {
        let connections = |number: usize| {
            self.endpoints[number].exec("ss -Htn state established sport = :53").lines().count()
        };
        usize::from(connections(1) > connections(0))
    }

    fn come_back(&self, number: usize) {
        self.endpoints[number].exec("nft delete table ip gone");
    }

    /// SYNs that reached an endpoint since it vanished.
    fn knocks(&self, number: usize) -> u64 {
        let rules = self.endpoints[number].exec("nft list chain ip gone in");
        let count = rules.split("packets ").nth(1).and_then(|rest| rest.split(' ').next());
        count.expect("the rule counts").parse().expect("a number")
    }

    fn load(&self, seconds: u32) -> Process {
        let process = self.node.spawn(act("load").env("SECONDS", seconds.to_string()));
        assert_eq!(process.read_line("@"), "ready");
        process
    }
}

fn act(role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("the test binary has a path"));
    command.args(["--exact", "actor", "--ignored", "--nocapture"]).env("ROLE", role);
    command
}

/// What a load came to: lookups, failed, over 250 ms, the slowest in milliseconds.
fn result(load: &Process, limit: Duration) -> [u64; 4] {
    let line = load.read_line_within("@", limit).expect("the load ends in time");
    eprintln!("lookups, failed, over 250 ms, slowest in ms: {line}");
    let mut numbers = line.split(' ').map_while(|word| word.parse().ok());
    std::array::from_fn(|_| numbers.next().expect("four numbers"))
}

#[test]
fn an_endpoint_that_vanishes_is_a_non_event() {
    if !netns::usable(&["nft", "ss"]) {
        return;
    }
    // S1: new connections are sent to the other endpoint at once. S2: only after the whole run.
    for at_once in [true, false] {
        let cluster = Cluster::start();
        let load = cluster.load(10);
        std::thread::sleep(Duration::from_secs(1));
        let lost = cluster.busier();
        cluster.vanish(lost);
        if at_once {
            cluster.point_at(&[ENDPOINTS[1 - lost]]);
        }
        let [lookups, failed, slow, slowest] = result(&load, Duration::from_secs(30));
        assert_eq!(failed, 0);
        assert!(slowest < 1_000, "{slowest} ms");
        assert!(slow * 1_000 <= lookups * 2, "{slow} of {lookups} over 250 ms");
    }
}

#[test]
fn when_both_are_gone_that_is_known_soon_and_over_at_once() {
    if !netns::usable(&["nft", "ss"]) {
        return;
    }
    let cluster = Cluster::start();
    let load = cluster.load(10);
    std::thread::sleep(Duration::from_secs(1));
    for number in 0..2 {
        cluster.vanish(number);
    }
    std::thread::sleep(Duration::from_secs(3));
    let knocks = || cluster.knocks(0) + cluster.knocks(1);
    let (before, start) = (knocks(), Instant::now());
    std::thread::sleep(Duration::from_secs(3));
    let (knocks, elapsed) = (knocks() - before, start.elapsed());
    assert!(knocks >= 1 && knocks as f64 <= 5.0 * elapsed.as_secs_f64(), "{knocks} SYNs in {elapsed:?}");
    for number in 0..2 {
        cluster.come_back(number);
    }
    let [_, failed, _, slowest] = result(&load, Duration::from_secs(30));
    assert!(slowest < 2_000, "{slowest} ms");
    // Down for about 6 s, and up again within one more.
    assert!((1_000..=400 * 8).contains(&failed), "{failed}");
}

const SERVICE: &str = "10.96.0.10:53";
const ENDPOINTS: [&str; 2] = ["10.91.0.2", "10.91.1.2"];
/// What a lookup may take.
const LONG: Duration = Duration::from_millis(250);
