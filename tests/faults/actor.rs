//! What the test binary plays when it is started again inside a namespace: an endpoint, a load, a flood, an agent.

use std::io::{BufRead as _, stdin};
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::cluster::FAVOURED;
use super::load;
use crate::support::client::{self, A, Query};
use crate::support::netns::{Netns, Process};
use crate::support::nodens;
use crate::support::upstream::{Behaviour, Order, Upstream};

/// A running actor: it answers each line of its standard input.
pub(crate) struct Actor(pub(crate) Process);

impl Actor {
    /// Starts one inside a namespace; it is ready when this returns.
    pub(crate) fn start(namespace: &Netns, role: &str, part: &impl Serialize) -> Self {
        let mut command = Command::new("setpriv");
        command
            .args(FAVOURED)
            .arg(std::env::current_exe().expect("the test binary has a path"))
            .args(["actor", "--exact", "--ignored", "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .env(PART, serde_json::to_string(part).expect("plain data"));
        let actor = Self(namespace.spawn(&command));
        assert_eq!(actor.0.read_line("@"), "ready");
        actor
    }

    /// Gives an order and returns the answer.
    pub(crate) fn ask(&mut self, order: &str) -> String {
        self.0.write_line(order);
        self.0.read_line("@")
    }
}

/// Plays the role that the environment names.
pub(crate) fn play() {
    let role = std::env::var(ROLE).expect("the starter sets it");
    match &*role {
        "endpoint" => endpoint(part()),
        "load" => answer(&load::run(&part::<load::Plan>(), || answer("ready"))),
        "flood" => answer(&load::flood(&part::<load::Flood>(), || answer("ready"))),
        "agent" => agent(),
        other => panic!("no such role: {other}"),
    }
}

fn part<T: DeserializeOwned>() -> T {
    let part = std::env::var(PART).expect("the starter sets it");
    serde_json::from_str(&part).expect("the starter wrote it")
}

/// A scripted upstream; what a name meets stands in its first letters, up to a hyphen.
fn endpoint(address: SocketAddr) {
    let upstream = Upstream::start_at(Order::Serial, address);
    upstream.by_rule(|name, before| {
        let once = |behaviour| if before == 0 { behaviour } else { Behaviour::Answer };
        Some(match name.split_once('-')?.0 {
            "slow" => Behaviour::After(Duration::from_secs(3)),
            "held" => Behaviour::After(Duration::from_millis(20)),
            "fin" => once(Behaviour::Fin),
            "reset" => once(Behaviour::Reset),
            "half" => once(Behaviour::HalfFrame),
            "thenfin" => once(Behaviour::AnswerThenFin),
            "thenreset" => once(Behaviour::AnswerThenReset),
            "truncated" => Behaviour::Truncated,
            "alwaystruncated" => Behaviour::AlwaysTruncated,
            "wrongid" => Behaviour::WrongId,
            "wrongquestion" => Behaviour::WrongQuestion,
            "wrongsource" => Behaviour::WrongSourceThenAnswer,
            "lies" => Behaviour::LiesThenAnswer,
            "garbage" => Behaviour::Garbage,
            "silent" => Behaviour::Silent,
            "stuck" => Behaviour::HalfFrameThenSilent,
            _ => return None,
        })
    });
    answer("ready");
    orders(|order| match order.split_once(' ') {
        Some(("asked", name)) => upstream.asked(name).to_string(),
        Some(("cut", how)) => {
            upstream.cut(how == "reset");
            "cut".to_owned()
        }
        _ => (upstream.tcp_queries() + upstream.udp_queries()).to_string(),
    });
}

/// Asks and fetches inside the node's namespace what the test wants to know.
fn agent() {
    answer("ready");
    orders(|order| {
        let mut words = order.split(' ');
        let mut next = || words.next().expect("an order has three words");
        let (what, address, of) = (next(), next(), next());
        let address: SocketAddr = address.parse().expect("an address");
        if what == "get" {
            let page = nodens::get(address, of).filter(|(status, _)| *status == 200);
            return serde_json::to_string(&page.map(|(_, body)| body)).expect("a string");
        }
        let reply = client::udp_within(address, &Query::new(of, A).bytes(), Duration::from_millis(200));
        reply.is_some().to_string()
    });
}

/// Obeys lines until the input ends.
fn orders(mut obey: impl FnMut(&str) -> String) {
    for order in stdin().lock().lines().map_while(Result::ok) {
        answer(&obey(&order));
    }
}

fn answer(line: &str) {
    // libtest has begun a line of its own by now.
    println!("\n@{line}");
}

const ROLE: &str = "NODENS_FAULTS_ROLE";
const PART: &str = "NODENS_FAULTS_PART";
