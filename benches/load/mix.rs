//! The query mix: 31,162 names as a Kubernetes node's pods ask for them, and the zones that answer them.
//!
//! `ndots:5` makes a resolver try every search suffix before the name itself, so most questions of a node are for names
//! that do not exist. The mix follows that: about 60 % of its questions end in NXDOMAIN. The rest are services (with an
//! address of one family or both), headless services with several addresses, their pods, SRV and PTR records, and external
//! names, many of them behind a CNAME. Every fifth name is asked for as a dual-stack `getaddrinfo` does it, A and AAAA one after
//! the other, the rest for A alone, as clients with IPv4 only do.
//!
//! Everything follows from [`SEED`]; two runs on two machines drive the same bytes.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufWriter, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;

use crate::rng::Rng;

/// One question of the mix and what a right answer to it looks like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Question {
    /// The name, without its final dot.
    pub(crate) name: String,
    /// The record type's mnemonic.
    pub(crate) qtype: Qtype,
    /// Whether the name exists.
    pub(crate) exists: bool,
    /// Records in the answer section, CNAMEs included.
    pub(crate) answers: u16,
}

impl Question {
    /// The response code a right answer carries, by dnsperf's word for it.
    pub(crate) fn rcode(&self) -> &'static str {
        if self.exists { "NOERROR" } else { "NXDOMAIN" }
    }
}

/// The record types the mix asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Qtype {
    A,
    Aaaa,
    Ptr,
    Srv,
}

impl Qtype {
    /// As dnsperf's query file and a zone file spell it.
    pub(crate) fn mnemonic(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::Aaaa => "AAAA",
            Self::Ptr => "PTR",
            Self::Srv => "SRV",
        }
    }

    /// The code on the wire (RFC 1035, RFC 3596, RFC 2782).
    pub(crate) fn code(self) -> u16 {
        match self {
            Self::A => 1,
            Self::Aaaa => 28,
            Self::Ptr => 12,
            Self::Srv => 33,
        }
    }
}

/// The whole mix.
pub(crate) struct Mix {
    /// Every question once, names in random order, the A and AAAA of a name next to each other.
    pub(crate) questions: Vec<Question>,
    /// Distinct names in it.
    pub(crate) names: usize,
    cluster: String,
    reverse: String,
    root: String,
}

/// The zones the stand-in for CoreDNS serves, and the file each is in.
pub(crate) const ZONES: [(&str, &str); 3] =
    [("cluster.local", "cluster.zone"), ("10.in-addr.arpa", "reverse.zone"), (".", "root.zone")];

/// The name that the one-hot-name scenario asks for: it exists in every mix.
pub(crate) const HOT: &str = "kubernetes.default.svc.cluster.local";

impl Mix {
    /// Generates the mix; always the same one.
    pub(crate) fn generate() -> Self {
        Builder::new().build()
    }

    /// The share of questions whose name does not exist, 0 to 1.
    pub(crate) fn nxdomain_share(&self) -> f64 {
        let nx = self.questions.iter().filter(|question| !question.exists).count();
        nx as f64 / self.questions.len() as f64
    }

    /// Writes the zone files of [`ZONES`] into `dir`.
    pub(crate) fn write_zones(&self, dir: &Path) -> std::io::Result<()> {
        for ((_, file), text) in ZONES.iter().zip([&self.cluster, &self.reverse, &self.root]) {
            fs::write(dir.join(file), text)?;
        }
        Ok(())
    }

    /// Writes the mix as a dnsperf query file.
    pub(crate) fn write_queries(&self, path: &Path) -> std::io::Result<()> {
        let mut file = BufWriter::new(fs::File::create(path)?);
        for question in &self.questions {
            writeln!(file, "{} {}", question.name, question.qtype.mnemonic())?;
        }
        file.flush()
    }
}

/// Writes `count` names that nobody asked for before, as a dnsperf query file: a wildcard of the cluster zone answers them.
/// Files of different `round`s share no name.
pub(crate) fn write_cold_queries(path: &Path, round: usize, count: usize) -> std::io::Result<()> {
    let mut file = BufWriter::new(fs::File::create(path)?);
    for number in 0..count {
        writeln!(file, "r{round}-{number:07}.miss.cluster.local A")?;
    }
    file.flush()
}

struct Builder {
    rng: Rng,
    questions: BTreeMap<String, Vec<Question>>,
    cluster: String,
    reverse: String,
    root: String,
    namespaces: Vec<String>,
    /// `service.namespace` of every service with a cluster address.
    services: Vec<String>,
    externals: Vec<String>,
}

impl Builder {
    fn new() -> Self {
        let mut cluster = header("cluster.local.");
        cluster.push_str("*.miss A 10.255.0.1\n");
        Self {
            rng: Rng::new(SEED),
            questions: BTreeMap::new(),
            cluster,
            reverse: header("10.in-addr.arpa."),
            root: header("."),
            namespaces: Vec::new(),
            services: Vec::new(),
            externals: Vec::new(),
        }
    }

    fn build(mut self) -> Mix {
        self.services();
        self.headless();
        self.externals();
        self.search_path();
        let names = self.questions.len();
        assert_eq!(names, NAMES, "the generator makes exactly the stated number of names");
        let mut groups: Vec<Vec<Question>> = self.questions.into_values().collect();
        self.rng.shuffle(&mut groups);
        Mix {
            questions: groups.into_iter().flatten().collect(),
            names,
            cluster: self.cluster,
            reverse: self.reverse,
            root: self.root,
        }
    }

    /// Adds a name that is asked for one type, unless it is there already.
    fn ask(&mut self, name: &str, qtype: Qtype, exists: bool, answers: u16) {
        self.questions
            .entry(name.to_owned())
            .or_insert_with(|| vec![Question { name: name.to_owned(), qtype, exists, answers }]);
    }

    /// Adds a name that is asked for addresses, unless it is there already: A, and for some AAAA too.
    fn ask_addresses(&mut self, name: &str, exists: bool, v4: u16, v6: u16) {
        if self.questions.contains_key(name) {
            return;
        }
        self.ask(name, Qtype::A, exists, v4);
        if self.rng.chance(PAIRED_PERCENT)
            && let Some(questions) = self.questions.get_mut(name)
        {
            questions.push(Question { name: name.to_owned(), qtype: Qtype::Aaaa, exists, answers: v6 });
        }
    }

    fn services(&mut self) {
        let mut address = 0x0a60_0001_u32; // 10.96.0.1, the first of the service range
        self.namespaces.push("default".to_owned());
        for team in TEAMS {
            for stage in STAGES {
                self.namespaces.push(format!("{team}-{stage}"));
            }
        }
        for namespace in self.namespaces.clone() {
            for index in 0..SERVICES_PER_NAMESPACE {
                let service = if namespace == "default" && index == 0 {
                    "kubernetes".to_owned()
                } else {
                    format!("{}-{}-{index}", self.rng.pick(&WORDS), self.rng.pick(&ROLES))
                };
                let dual = self.rng.chance(20);
                let name = format!("{service}.{namespace}.svc.cluster.local");
                let v4 = Ipv4Addr::from(address);
                let _ = writeln!(self.cluster, "{name}. A {v4}");
                if dual {
                    let v6 = Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, address as u16);
                    let _ = writeln!(self.cluster, "{name}. AAAA {v6}");
                }
                self.ask_addresses(&name, true, 1, u16::from(dual));
                if index % 3 == 0 {
                    let srv = format!("_http._tcp.{name}");
                    let _ = writeln!(self.cluster, "{srv}. SRV 0 100 80 {name}.");
                    self.ask(&srv, Qtype::Srv, true, 1);
                }
                self.services.push(format!("{service}.{namespace}"));
                address += 1;
            }
        }
    }

    fn headless(&mut self) {
        let mut address = 0x0af4_0001_u32; // 10.244.0.1, the first of the pod range
        let mut pointers = 0;
        for namespace in self.namespaces.clone() {
            for index in 0..HEADLESS_PER_NAMESPACE {
                let service = format!("{}-set-{index}", self.rng.pick(&WORDS));
                let name = format!("{service}.{namespace}.svc.cluster.local");
                let srv = format!("_peer._tcp.{name}");
                let pods = self.rng.between(3, 8);
                for pod in 0..pods {
                    let host = format!("{service}-{pod}.{name}");
                    let v4 = Ipv4Addr::from(address);
                    let _ = writeln!(
                        self.cluster,
                        "{name}. A {v4}\n{host}. A {v4}\n{srv}. SRV 0 10 7000 {host}."
                    );
                    self.ask_addresses(&host, true, 1, 0);
                    if pointers < POINTERS {
                        let [a, b, c, d] = v4.octets();
                        let pointer = format!("{d}.{c}.{b}.{a}.in-addr.arpa");
                        let _ = writeln!(self.reverse, "{pointer}. PTR {host}.");
                        self.ask(&pointer, Qtype::Ptr, true, 1);
                        pointers += 1;
                    }
                    address += 1;
                }
                self.ask_addresses(&name, true, pods as u16, 0);
                self.ask(&srv, Qtype::Srv, true, pods as u16);
            }
        }
    }

    fn externals(&mut self) {
        while self.externals.len() < EXTERNALS {
            let number = self.externals.len();
            let name = format!(
                "{}.{}{}.{}",
                self.rng.pick(&ROLES),
                self.rng.pick(&WORDS),
                number / 4,
                self.rng.pick(&TLDS)
            );
            if self.questions.contains_key(&name) {
                continue;
            }
            let mut owner = name.clone();
            let mut aliases = 0;
            if self.rng.chance(40) {
                let hops = if self.rng.chance(25) { 2 } else { 1 };
                for hop in 0..hops {
                    let target =
                        format!("{}{number}-{hop}.edge{}.cdn.net", self.rng.pick(&WORDS), number % 9);
                    let _ = writeln!(self.root, "{owner}. CNAME {target}.");
                    owner = target;
                    aliases += 1;
                }
            }
            let v4 = self.rng.between(1, 4);
            let v6 = if self.rng.chance(50) { self.rng.between(1, 4) } else { 0 };
            for index in 0..v4 {
                let _ = writeln!(
                    self.root,
                    "{owner}. A {}",
                    Ipv4Addr::from(0xc633_0000 + number as u32 * 4 + index)
                );
            }
            for index in 0..v6 {
                let host = number as u16 * 4 + index as u16;
                let _ = writeln!(
                    self.root,
                    "{owner}. AAAA {}",
                    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, host)
                );
            }
            self.ask_addresses(&name, true, aliases + v4 as u16, aliases + v6 as u16);
            self.externals.push(name);
        }
    }

    /// What `ndots:5` and three search suffixes add: the same names, with suffixes under which they do not exist.
    fn search_path(&mut self) {
        while self.questions.len() < NAMES {
            let namespace = self.rng.pick(&self.namespaces).clone();
            let own = format!("{namespace}.svc.cluster.local");
            if self.rng.chance(70) {
                let name = self.rng.pick(&self.externals).clone();
                for suffix in [own.as_str(), "svc.cluster.local", "cluster.local"] {
                    if self.questions.len() < NAMES {
                        self.ask_addresses(&format!("{name}.{suffix}"), false, 0, 0);
                    }
                }
            } else {
                let service = self.rng.pick(&self.services).clone();
                self.ask_addresses(&format!("{service}.{own}"), false, 0, 0);
            }
        }
    }
}

/// TTLs and the negative TTL are an hour: nothing of the mix expires within a run.
fn header(zone: &str) -> String {
    format!(
        "$ORIGIN {zone}\n$TTL 3600\n\
         @ SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 3600\n\
         @ NS ns.dns.cluster.local.\n"
    )
}

/// Distinct names in the mix.
const NAMES: usize = 31_162;
const SEED: u64 = 0x6e6f_6465_6e73;
const SERVICES_PER_NAMESPACE: usize = 48;
const HEADLESS_PER_NAMESPACE: usize = 8;
const POINTERS: usize = 2_000;
const EXTERNALS: usize = 4_600;
const PAIRED_PERCENT: u32 = 20;

const TEAMS: [&str; 12] = [
    "payments", "search", "orders", "identity", "media", "ledger", "catalog", "mail", "ads", "data",
    "platform", "mobile",
];
const STAGES: [&str; 4] = ["prod", "staging", "canary", "dev"];
const WORDS: [&str; 24] = [
    "apollo", "atlas", "beacon", "cobalt", "delta", "ember", "falcon", "granite", "harbor", "iris",
    "juniper", "kestrel", "lumen", "marble", "nimbus", "onyx", "pioneer", "quartz", "raven", "sierra",
    "tundra", "umber", "vertex", "willow",
];
const ROLES: [&str; 12] = [
    "api", "auth", "cache", "db", "events", "gateway", "jobs", "metrics", "queue", "static", "web", "worker",
];
const TLDS: [&str; 5] = ["com", "net", "org", "io", "dev"];
