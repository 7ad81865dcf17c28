//! A cluster as the node sees it: pods, the node with nodens and kube-proxy's rules, endpoints of the DNS service.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};

use super::WILDCARD;
use super::actor::Actor;
use super::load::{Load, Plan};
use crate::support::need;
use crate::support::netns::{Netns, veth};
use crate::support::nodens::{Metrics, Nodens, Places, binary};
use crate::support::nsd::{Nsd, configure};

/// What the endpoints run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Server {
    /// nsd with a zone of wildcards.
    Nsd,
    /// The scripted upstream, serial as CoreDNS.
    Scripted,
}

/// Pods, node and endpoints. Processes are declared before the namespaces that they live in.
pub(crate) struct Cluster {
    /// nodens, once started.
    pub(crate) nodens: Option<Nodens>,
    /// The scripted upstreams.
    pub(crate) scripted: Vec<Actor>,
    _nsd: Vec<Nsd>,
    agent: std::cell::RefCell<Actor>,
    /// Where clients are.
    pub(crate) pods: Netns,
    /// Where nodens is.
    pub(crate) node: Netns,
    /// Where upstreams are.
    pub(crate) endpoints: Vec<Netns>,
}

impl Cluster {
    /// Starts so many endpoints; all but the last `spare` are behind the service.
    pub(crate) fn start(server: Server, count: usize, spare: usize) -> Self {
        let (pods, node) = (Netns::new("pods"), Netns::new("node"));
        let addresses = CLIENTS.map(|address| format!("{address}/24"));
        veth(&pods, &addresses.each_ref().map(String::as_str), &node, &["10.90.0.1/24"]);
        pods.exec("ip route add default via 10.90.0.1");
        node.exec(&format!("ip address add {}/32 dev lo", PLACES.dns.ip()));
        node.exec("echo 1 > /proc/sys/net/ipv4/ip_forward");
        let endpoints: Vec<_> = (0..count)
            .map(|number| {
                let endpoint = Netns::new(&format!("e{number}"));
                let address = format!("{}/24", endpoint_address(number).ip());
                veth(&node, &[&format!("10.91.{number}.1/24")], &endpoint, &[&address]);
                endpoint
            })
            .collect();
        // Locally made packets to an address that no interface has need a route before DNAT.
        node.exec("ip route add 10.96.0.0/16 dev to-e0 src 10.91.0.1");
        node.exec(
            "nft 'add table ip kube; add chain ip kube services; \
             add chain ip kube out { type nat hook output priority -100; }; \
             add chain ip kube pre { type nat hook prerouting priority -100; }; \
             add chain ip kube post { type nat hook postrouting priority 100; }; \
             add rule ip kube out jump services; add rule ip kube pre jump services; \
             add rule ip kube post ip daddr 10.91.0.0/16 masquerade'",
        );
        let mut agent = Actor::start(&node, "agent", &());
        let (mut nsd, mut scripted) = (Vec::new(), Vec::new());
        for (number, endpoint) in endpoints.iter().enumerate() {
            let address = endpoint_address(number);
            match server {
                Server::Nsd => nsd.push(start_nsd(endpoint, address, &mut agent)),
                Server::Scripted => scripted.push(Actor::start(endpoint, "endpoint", &address)),
            }
        }
        let agent = std::cell::RefCell::new(agent);
        let cluster = Self { nodens: None, scripted, _nsd: nsd, agent, pods, node, endpoints };
        cluster.point_at(&(0..count - spare).collect::<Vec<_>>());
        cluster
    }

    /// Starts nodens on the node with everything forwarded to the service, with these settings of `forward` and these
    /// lines besides; it is ready when this returns.
    pub(crate) fn run_nodens(&mut self, forward: &str, besides: &str) {
        self.run_nodens_with(&format!(
            "zones: [{{name: '.', forward: {{to: ['{SERVICE}'], {forward}}}}}]\n{besides}"
        ));
    }

    /// The same with this YAML.
    pub(crate) fn run_nodens_with(&mut self, yaml: &str) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("nodens.yaml");
        std::fs::write(&file, yaml).expect("the directory is writable");
        let mut command = self.node.command("setpriv");
        command.args(FAVOURED).arg(binary()).args(["run", "--config"]).arg(&file).envs(PLACES.environment());
        let mut nodens = Nodens::spawn(command, PLACES, directory);
        nodens.until("ready", |_| self.get(PLACES.health, "/ready").is_some());
        self.nodens = Some(nodens);
    }

    /// What nodens counts now.
    pub(crate) fn metrics(&self) -> Metrics {
        Metrics::parse(&self.get(PLACES.metrics, "/metrics").expect("/metrics answers"))
    }

    fn get(&self, address: SocketAddr, path: &str) -> Option<String> {
        let answer = self.agent.borrow_mut().ask(&format!("get {address} {path}"));
        serde_json::from_str(&answer).expect("the agent wrote it")
    }

    /// Sends new connections to these endpoints, at random as kube-proxy's iptables rules; conntrack rows stay.
    pub(crate) fn point_at(&self, endpoints: &[usize]) {
        self.point(endpoints, "random");
    }

    /// The same in turn, as IPVS does.
    pub(crate) fn point_in_turn(&self, endpoints: &[usize]) {
        self.point(endpoints, "inc");
    }

    fn point(&self, endpoints: &[usize], how: &str) {
        let mut map = String::new();
        for (index, &number) in endpoints.iter().enumerate() {
            // Writing to a string cannot fail.
            let _ = write!(map, "{index} : {}, ", endpoint_address(number).ip());
        }
        self.node.exec(&format!(
            "nft 'flush chain ip kube services; add rule ip kube services ip daddr {} meta l4proto {{ tcp, udp }} \
             th dport 53 dnat to numgen {how} mod {} map {{ {map} }}'",
            SERVICE.ip(),
            endpoints.len(),
        ));
    }

    /// The endpoint is gone: nothing comes from it, not even a RST. SYNs that still reach it are counted.
    pub(crate) fn vanish(&self, number: usize) {
        self.endpoints[number].exec(
            "nft 'add table ip gone; add chain ip gone in { type filter hook prerouting priority -400; policy drop; }; \
             add chain ip gone out { type filter hook output priority -400; policy drop; }; \
             add rule ip gone in tcp flags syn / syn,ack counter drop'",
        );
    }

    /// It is there again.
    pub(crate) fn come_back(&self, number: usize) {
        self.endpoints[number].exec("nft delete table ip gone");
    }

    /// SYNs that reached endpoints since they vanished.
    pub(crate) fn knocks(&self) -> u64 {
        let of = |endpoint: &Netns| -> u64 {
            let rules = endpoint.exec("nft list chain ip gone in");
            let count = rules.split("packets ").nth(1).and_then(|rest| rest.split(' ').next());
            count.expect("the rule counts").parse().expect("a number")
        };
        self.endpoints.iter().map(of).sum()
    }

    /// The node's open connections to an endpoint.
    pub(crate) fn connections(&self, number: usize) -> usize {
        self.endpoints[number].exec("ss -Htn state established sport = :53").lines().count()
    }

    /// The node's ends of them.
    pub(crate) fn peers(&self, number: usize) -> BTreeSet<String> {
        let lines = self.endpoints[number].exec("ss -Htn state established sport = :53");
        lines.lines().filter_map(|line| line.split_whitespace().last()).map(str::to_owned).collect()
    }

    /// The connections that an endpoint has ever had.
    pub(crate) fn accepted(&self, number: usize) -> u64 {
        let counters = self.endpoints[number].exec("nstat -asz TcpPassiveOpens");
        let count = counters.lines().last().and_then(|line| line.split_whitespace().nth(1));
        count.expect("nstat says the name and the count").parse().expect("a number")
    }

    /// The endpoint that holds more of them: its loss is felt.
    pub(crate) fn busier(&self) -> usize {
        usize::from(self.connections(1) > self.connections(0))
    }

    /// Starts a load on nodens, or with `target` on another.
    pub(crate) fn load(&self, plan: &Plan) -> Load {
        Load::start(&self.pods, plan)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // It complains with what it said, should the test be failing.
        drop(self.nodens.take());
    }
}

fn start_nsd(endpoint: &Netns, address: SocketAddr, agent: &mut Actor) -> Nsd {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let zone = format!(
        "$ORIGIN faults.example.\n$TTL 1\n@ IN SOA ns hostmaster 1 7200 1800 86400 5\n@ IN NS ns\nns IN A {WILDCARD}\n\
         * IN A {WILDCARD}\n"
    );
    let config = configure(directory.path(), address, &[("faults.example", &zone)]);
    let mut command = endpoint.command("setpriv");
    let nsd = need::find("nsd").expect("the test has asked `need` for nsd");
    command.args(FAVOURED).arg(nsd).args(["-d", "-c"]).arg(&config);
    Nsd::spawn(command, address, directory, || {
        agent.ask(&format!("ask {address} ns.faults.example")) == "true"
    })
}

fn endpoint_address(number: usize) -> SocketAddr {
    SocketAddr::from(([10, 91, number as u8, 2], 53))
}

/// Arguments of setpriv(1) behind which a program and its arguments stand. It ends with the test; and what else runs on
/// the machine does not decide when it gets a processor: it has a session of its own, which the kernel's scheduler takes
/// as a group, with a weight of its own (sched(7)).
pub(crate) const FAVOURED: [&str; 7] =
    ["--pdeathsig", "TERM", "setsid", "sh", "-c", "echo -15 >/proc/self/autogroup; exec \"$@\"", "sh"];

/// The DNS service.
pub(crate) const SERVICE: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10)), 53);
/// Where nodens listens.
pub(crate) const PLACES: Places = Places { dns: at_node(53), metrics: at_node(9253), health: at_node(8080) };
/// Addresses of pods.
pub(crate) const CLIENTS: [Ipv4Addr; 3] =
    [Ipv4Addr::new(10, 90, 0, 2), Ipv4Addr::new(10, 90, 0, 3), Ipv4Addr::new(10, 90, 0, 4)];

const fn at_node(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(169, 254, 20, 10)), port)
}
