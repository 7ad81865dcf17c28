//! Processes that stand for `nodens run` and its surroundings in the namespace tests of the node's network.
//!
//! The test binary starts itself again inside a namespace: the test [`crate::actor`] then plays the role that
//! `NODENS_ACTOR` names, obeys the lines of its standard input and answers each with a line that begins with `@`.

#![allow(dead_code, reason = "every test file includes this one and uses what it needs")]

use std::io::{BufRead as _, Read as _, Write as _, stdin};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nodens::config::Config;
use nodens::node::{self, Network, NodeError, Ownership, conntrack::Conntrack, privileges};

use crate::support::netns::{Netns, Process};

/// A running actor.
#[derive(Debug)]
pub(crate) struct Actor(pub(crate) Process);

impl Actor {
    /// Starts an actor and returns it with its first answer.
    pub(crate) fn start(namespace: &Netns, role: &str, config: &Config) -> (Self, String) {
        Self::start_by(namespace, &[], role, config)
    }

    /// The same by way of another program that ends in executing the rest of its arguments, such as setpriv(1).
    pub(crate) fn start_by(
        namespace: &Netns,
        wrapper: &[&str],
        role: &str,
        config: &Config,
    ) -> (Self, String) {
        let executable = std::env::current_exe().expect("the test binary has a path");
        let mut command = match wrapper {
            [] => Command::new(executable),
            [program, arguments @ ..] => {
                let mut command = Command::new(program);
                command.args(arguments).arg(executable);
                command
            }
        };
        let actor = Self(namespace.spawn(describe(&mut command, role, config)));
        let answer = actor.0.read_line("@");
        (actor, answer)
    }

    /// Starts an instance that has set up its interface, and attracts traffic.
    pub(crate) fn attracting(namespace: &Netns, role: &str, config: &Config) -> Self {
        let (mut actor, answer) = Self::start(namespace, role, config);
        assert_eq!(answer, "ok");
        assert_eq!(actor.ask("attract"), "ok");
        actor
    }

    /// Gives an order and returns the answer.
    pub(crate) fn ask(&mut self, order: &str) -> String {
        self.0.write_line(order);
        self.0.read_line("@")
    }
}

fn describe<'a>(command: &'a mut Command, role: &str, config: &Config) -> &'a mut Command {
    command
        .args(["actor", "--exact", "--ignored", "--nocapture", "--test-threads=1"])
        .env("NODENS_ACTOR", role)
        .env("NODENS_ACTOR_CONFIG", serde_json::to_string(config).expect("a configuration is plain data"))
}

/// Plays the role the environment names; returns at once without one.
pub(crate) fn play() {
    let Ok(role) = std::env::var("NODENS_ACTOR") else { return };
    let config = std::env::var("NODENS_ACTOR_CONFIG").expect("it is set with the role");
    let config: Config = serde_json::from_str(&config).expect("it was written by `describe`");
    match &*role {
        "instance" => instance(config, Ownership::Owned),
        "instance-plain" => instance(config, Ownership::Plain),
        "cleanup" => cleanup(&config, false),
        "cleanup-force" => cleanup(&config, true),
        "preflight" => {
            let findings = node::preflight(&config);
            answer(
                &findings
                    .iter()
                    .map(|f| format!("{:?}: {}", f.severity, f.message))
                    .collect::<Vec<_>>()
                    .join(" | "),
            );
        }
        "conntrack" => {
            let conntrack = Conntrack::default();
            answer(&format!("{:?}", conntrack.read(Instant::now())));
        }
        "privileges" => {
            // libtest runs each test in a thread of its own, beside the main thread.
            let refused = privileges::reduce().expect_err("other threads would keep their capabilities");
            assert!(
                matches!(refused, privileges::PrivilegeError::ThreadsRunning { threads: 2 }),
                "{refused}"
            );
            let reduced = privileges::reduce_thread().and_then(|()| privileges::require(&config));
            let status = std::fs::read_to_string("/proc/thread-self/status").expect("proc is mounted");
            let sets: Vec<_> =
                status.lines().filter(|l| l.starts_with("Cap") || l.starts_with("NoNewPrivs")).collect();
            answer(&format!(
                "{} {}",
                reduced.map_or_else(|error| error.to_string(), |()| "ok".to_owned()),
                sets.join(" ")
            ));
        }
        "echo" => echo(&config),
        "clients" => {
            answer("ok");
            orders(|order| {
                let mut words = order.split_whitespace();
                let target =
                    words.next().and_then(|word| word.parse().ok()).expect("clients are given an address");
                let count =
                    words.next().and_then(|word| word.parse().ok()).expect("clients are given a number");
                let (udp, tcp) = ask_from_fresh_ports(target, count);
                Some(format!("{udp} by UDP, {tcp} by TCP"))
            });
        }
        other => panic!("no such role: {other}"),
    }
}

fn instance(config: Config, ownership: Ownership) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime can be built");
    let mut config = config;
    let mut network = match runtime.block_on(Network::start_with(&config, ownership)) {
        Ok(network) => Some(network),
        Err(error) => return answer(&error.to_string()),
    };
    answer("ok");
    let show = |result: Result<(), NodeError>| {
        Some(result.map_or_else(|error| error.to_string(), |()| "ok".to_owned()))
    };
    orders(|order| {
        if order == "release" {
            return show(runtime.block_on(network.take()?.release()));
        }
        let network = network.as_mut()?;
        match order {
            "attract" => show(runtime.block_on(network.attract(&config))),
            "counters" => Some(format!(
                "interface={} rules={} failures={}",
                network.counters().interface_repairs(),
                network.counters().rule_repairs(),
                network.counters().failures()
            )),
            update => {
                config = serde_json::from_str(update).expect("any other order is a configuration");
                show(runtime.block_on(network.update(&config)))
            }
        }
    });
}

fn cleanup(config: &Config, force: bool) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be built");
    match runtime.block_on(node::cleanup(config, force)) {
        Ok(report) => answer(&format!("removed {:?} left {:?}", report.removed, report.left)),
        Err(error) => answer(&error.to_string()),
    }
}

/// Answers every packet and connection on the listen addresses with what it says.
fn echo(config: &Config) {
    for &address in &config.listen.addresses {
        let address = SocketAddr::new(address, config.listen.port);
        let udp = UdpSocket::bind(address).expect("the address is on an interface");
        let tcp = TcpListener::bind(address).expect("the address is on an interface");
        thread::spawn(move || {
            let mut packet = [0; 64];
            while let Ok((length, from)) = udp.recv_from(&mut packet) {
                let _ = udp.send_to(&packet[..length], from);
            }
        });
        thread::spawn(move || {
            for mut stream in tcp.incoming().map_while(Result::ok) {
                let mut byte = [0];
                let _ = stream.read_exact(&mut byte).and_then(|()| stream.write_all(&byte));
            }
        });
    }
    answer("ok");
    orders(|_| None);
}

/// Asks `count` times by UDP and a tenth of that by TCP, each time from a port of its own; returns the replies.
fn ask_from_fresh_ports(target: SocketAddr, count: usize) -> (usize, usize) {
    let any: IpAddr = if target.is_ipv4() { [0, 0, 0, 0].into() } else { [0_u16; 8].into() };
    let udp = |_| {
        let socket = UdpSocket::bind((any, 0)).ok()?;
        socket.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
        socket.connect(target).ok()?;
        socket.send(b"?").ok()?;
        socket.recv(&mut [0; 8]).ok()
    };
    let tcp = |_| {
        let mut stream = TcpStream::connect_timeout(&target, Duration::from_secs(1)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
        stream.write_all(b"?").ok()?;
        stream.read_exact(&mut [0]).ok()
    };
    ((0..count).filter_map(udp).count(), (0..count.div_ceil(10)).filter_map(tcp).count())
}

/// Obeys lines until the input ends or an order has no answer.
fn orders(mut obey: impl FnMut(&str) -> Option<String>) {
    for order in stdin().lock().lines().map_while(Result::ok) {
        let Some(text) = obey(&order) else { break };
        answer(&text);
    }
}

fn answer(text: &str) {
    // libtest has begun a line of its own by now.
    println!("\n@{}", text.replace('\n', " "));
}
