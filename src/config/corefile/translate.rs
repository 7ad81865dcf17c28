//! Server blocks to zones: each block becomes the zones its keys name, all behind one set of listeners.

mod cache;
mod forward;
mod names;
mod order;
mod process;
mod unsupported;

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};

use super::super::name;
use super::super::schema::{Config, Dns64, FixedAnswer, FixedRcode, Forward, Transport, Zone, ZoneCache};
use super::super::units::HumanDuration;
use super::findings::{Finding, Kind};
use super::lexer::Position;
use super::parser::{Directive, Parsed, ServerBlock};
use super::{Import, Inputs, values};

/// Translates what was parsed. Never fails: what cannot be carried over becomes a finding.
pub(super) fn translate(parsed: Parsed, inputs: &Inputs) -> Import {
    let mut translator = Translator::new(parsed.start, inputs);
    for (at, name) in parsed.missing_imports {
        // A pattern that matches nothing is usual: the ConfigMap for one's own additions is empty.
        let kind = if name.contains(['*', '?']) { Kind::BuiltIn } else { Kind::NoEquivalent };
        let instead = "no such file here; run the import where its files are, or put their text in its place";
        translator.note(kind, &at, &format!("import {name}"), "takes in other files or a snippet", instead);
    }
    for (at, name) in parsed.missing_variables {
        let instead =
            "it is not set here and nothing is in its place, as in CoreDNS; import where it has its value";
        translator.note(Kind::NoEquivalent, &at, &name, "takes a value from the environment", instead);
    }
    let blocks = translator.read_keys(parsed.blocks);
    translator.choose_port(&blocks);
    let (main, others): (Vec<_>, Vec<_>) =
        blocks.into_iter().partition(|block| block.port == translator.config.listen.port);
    for block in main.iter().chain(&others) {
        translator.block(block);
    }
    translator.stub_domains();
    translator.finish()
}

/// A server block with its keys read.
struct Block {
    zones: Vec<String>,
    port: u16,
    source: ServerBlock,
}

/// What a block's directives say, until its zones are made.
#[derive(Default)]
struct Draft {
    /// Base names and where to forward what is below them.
    forwards: Vec<(String, Forward)>,
    /// Zones and their master files.
    files: Vec<(String, std::path::PathBuf)>,
    /// Of `template`, which CoreDNS asks before `hosts` and whatever looks names up.
    answers: Vec<FixedAnswer>,
    /// Of `hosts` for zones within the block's whose other names it takes.
    host_answers: Vec<FixedAnswer>,
    /// The hosts this block names.
    hosts: Vec<String>,
    /// Zones whose names come from `hosts` alone.
    closed: Vec<String>,
    dns64: Option<Dns64>,
    /// None where nothing is cached.
    cache: Option<ZoneCache>,
    /// Whether some directive made answers, although not ones that nodens can make.
    lost_answers: bool,
}

struct Translator<'a> {
    inputs: &'a Inputs,
    /// The Corefile's first line.
    start: Position,
    config: Config,
    findings: HashSet<Finding>,
    zone_origins: Vec<Position>,
    /// The zones of all blocks in wire form and the line of their block.
    owners: Vec<(Box<[u8]>, Position)>,
    listen: Vec<IpAddr>,
    /// The first block's addresses, to tell when another's differ.
    first_bind: Option<Vec<IpAddr>>,
    metrics_seen: bool,
    health_seen: bool,
    capacity: [u64; 2],
    /// Where each of `config.hosts` was named first.
    host_lines: BTreeMap<String, Position>,
    /// The TTL of each `hosts` and its line.
    hosts_ttls: Vec<(HumanDuration, Position)>,
}

impl<'a> Translator<'a> {
    fn new(start: Position, inputs: &'a Inputs) -> Self {
        Self {
            inputs,
            start,
            config: Config::default(),
            findings: HashSet::new(),
            zone_origins: Vec::new(),
            owners: Vec::new(),
            listen: Vec::new(),
            first_bind: None,
            metrics_seen: false,
            health_seen: false,
            capacity: [0; 2],
            host_lines: BTreeMap::new(),
            hosts_ttls: Vec::new(),
        }
    }

    fn note(
        &mut self,
        kind: Kind,
        at: &Position,
        directive: &str,
        did: impl Into<String>,
        instead: impl Into<String>,
    ) {
        let finding = Finding {
            at: at.clone(),
            kind,
            directive: directive.to_owned(),
            did: did.into(),
            instead: instead.into(),
        };
        // The same line of a snippet is met once for each block that imports it.
        self.findings.insert(finding);
    }

    fn read_keys(&mut self, sources: Vec<ServerBlock>) -> Vec<Block> {
        let mut blocks: Vec<Block> = Vec::new();
        for source in sources {
            let mut by_port: Vec<(u16, Vec<String>)> = Vec::new();
            for key in &source.keys {
                let filled = key.replace(DNS_DOMAIN, "cluster.local");
                if filled != *key {
                    let instead = "cluster.local is in its place; change the zone's name if yours differs";
                    self.note(Kind::NotFilled, &source.at, DNS_DOMAIN, "the cluster's domain", instead);
                }
                match values::server_key(&filled) {
                    Ok(_) if self.owners.len() > MAX_ZONES => {
                        let instead = format!("nodens takes the first {MAX_ZONES} zones of a Corefile");
                        self.note(Kind::NoEquivalent, &source.at, key, "another zone", instead);
                    }
                    Ok((zones, port)) => {
                        let port = port.unwrap_or(self.inputs.port);
                        match by_port.iter_mut().find(|(known, _)| *known == port) {
                            Some((_, known)) => known.extend(zones),
                            None => by_port.push((port, zones)),
                        }
                    }
                    Err(what) => {
                        let instead = "nodens listens for plain DNS over UDP and TCP; this key is left out";
                        self.note(Kind::NoEquivalent, &source.at, key, what, instead);
                    }
                }
            }
            for (port, mut zones) in by_port {
                zones.truncate(MAX_ZONES);
                let wires = zones.iter().filter_map(|zone| name::to_wire(zone).ok());
                self.owners.extend(wires.map(|wire| (wire, source.at.clone())));
                blocks.push(Block { zones, port, source: source.clone() });
            }
        }
        blocks
    }

    /// nodens has one port: the one that most zones are on, of several the first.
    fn choose_port(&mut self, blocks: &[Block]) {
        let count =
            |port| blocks.iter().filter(|block| block.port == port).map(|b| b.zones.len()).sum::<usize>();
        // max_by_key takes the last of several: look from the end.
        let port = blocks.iter().rev().max_by_key(|block| count(block.port)).map(|block| block.port);
        self.config.listen.port = port.filter(|port| *port > 0).unwrap_or(self.inputs.port);
    }

    fn block(&mut self, block: &Block) {
        let mut draft = Draft::default();
        let mut bind = None;
        for directive in &block.source.directives {
            match directive.name.as_str() {
                "bind" => bind.get_or_insert_with(Vec::new).extend(self.bind(directive)),
                "cache" => self.cache(directive, block, &mut draft),
                "forward" | "proxy" => self.forward(directive, block, &mut draft),
                "kubernetes" => self.kubernetes(directive, block, &mut draft),
                "file" => self.file(directive, block, &mut draft),
                "hosts" => self.hosts(directive, block, &mut draft),
                "template" => self.template(directive, block, &mut draft),
                "rewrite" => self.rewrite(directive, block),
                "dns64" => self.dns64(directive, &mut draft),
                _ => self.process(directive, &mut draft),
            }
        }
        self.listeners(block, bind);
        self.templates_before_hosts(&mut draft);
        self.zones(block, &draft);
    }

    /// Takes a block's addresses into the one set.
    fn listeners(&mut self, block: &Block, bind: Option<Vec<IpAddr>>) {
        let at = &block.source.at;
        let keys = block.source.keys.join(" ");
        if block.port != self.config.listen.port {
            let did = format!("serves its zones on port {} alone", block.port);
            let instead =
                format!("nodens has one port, {}: its zones are served there", self.config.listen.port);
            self.note(Kind::Different, at, &keys, did, instead);
        }
        let Some(bind) = bind else {
            let did = "has no bind: CoreDNS listens on every address";
            let instead = "nodens listens on the addresses in listen.addresses, which clients ask";
            self.note(Kind::Different, at, &keys, did, instead);
            return;
        };
        for address in &bind {
            if !self.listen.contains(address) {
                self.listen.push(*address);
            }
        }
        match &self.first_bind {
            None => self.first_bind = Some(bind),
            Some(first)
                if first.iter().all(|a| bind.contains(a)) && bind.iter().all(|a| first.contains(a)) => {}
            Some(_) => {
                let did = "serves its zones on other addresses than the first block";
                let instead = "nodens has one set of listeners: all zones are served on all of them";
                self.note(Kind::Different, at, &keys, did, instead);
            }
        }
    }

    fn zones(&mut self, block: &Block, draft: &Draft) {
        let at = &block.source.at;
        for zone in &block.zones {
            let mut names = vec![zone.clone()];
            let inner =
                draft.forwards.iter().map(|(base, _)| base).chain(draft.files.iter().map(|(name, _)| name));
            for inner in inner.filter(|inner| within(inner, zone)) {
                if !names.contains(inner) {
                    names.push(inner.clone());
                }
            }
            for name in names {
                let made = self.zone(name, draft, at);
                if let Some(made) = made {
                    self.add_zone(made, at, block);
                }
            }
        }
    }

    fn zone(&mut self, name: String, draft: &Draft, at: &Position) -> Option<Zone> {
        let closed = draft.closed.iter().any(|closed| within(&name, closed));
        let file = draft.files.iter().find(|(zone, _)| *zone == name).map(|(_, file)| file.clone());
        // The most specific base name wins; the first of equals.
        let fitting = draft.forwards.iter().filter(|(base, _)| within(&name, base)).rev();
        let forward = fitting.max_by_key(|(base, _)| if base == "." { 0 } else { base.len() });
        let forward = forward.filter(|_| file.is_none() && !closed).map(|(_, forward)| {
            let mut forward = forward.clone();
            forward.except.retain(|except| within(except, &name));
            forward
        });
        let made = draft.answers.iter().chain(&draft.host_answers);
        let mut answers: Vec<_> = made.filter_map(|answer| narrowed(answer, &name)).collect();
        if closed {
            answers.push(rcode_answer(FixedRcode::Servfail));
        }
        if forward.is_none() && file.is_none() && answers.is_empty() {
            if draft.lost_answers {
                // Better an error that is seen than another zone's answers.
                answers.push(rcode_answer(FixedRcode::Servfail));
            } else if self.covered(&name) {
                answers.push(rcode_answer(FixedRcode::Refused));
            } else {
                return None;
            }
        }
        let cache = match (&draft.cache, &forward) {
            (Some(cache), _) => cache.clone(),
            (None, None) => ZoneCache::default(),
            (None, Some(_)) => {
                let instead =
                    "the zone's TTLs are set to 0s, so nothing is cached; take its cache block out to cache";
                self.note(Kind::Different, at, &name, "has no cache plugin", instead);
                let off = Some(HumanDuration::from_secs(0));
                ZoneCache { max_ttl: off, negative_max_ttl: off, ..ZoneCache::default() }
            }
        };
        Some(Zone { name, forward, file, answers, dns64: draft.dns64.clone(), cache })
    }

    fn add_zone(&mut self, zone: Zone, at: &Position, block: &Block) {
        match self.config.zones.iter().find(|known| known.name == zone.name) {
            None => {
                self.config.zones.push(zone);
                self.zone_origins.push(at.clone());
            }
            Some(known) if *known == zone => {}
            Some(_) => {
                let did = format!(
                    "serves {} a second time, on port {} or its own addresses",
                    zone.name, block.port
                );
                let instead =
                    "nodens answers a name in one way on all its listeners; the first block is taken";
                self.note(Kind::NoEquivalent, at, &block.source.keys.join(" "), did, instead);
            }
        }
    }

    /// Whether a zone of another block would take `name` if it had none of its own.
    fn covered(&self, name: &str) -> bool {
        let Ok(wire) = name::to_wire(name) else { return false };
        self.owners.iter().any(|(owner, _)| *owner != wire && name::is_within(&wire, owner))
    }

    /// Whether names at `name` reach the block at `at`, and not one with a longer suffix.
    fn reaches(&self, name: &str, at: &Position) -> bool {
        let Ok(wire) = name::to_wire(name) else { return false };
        let fitting = self.owners.iter().filter(|(owner, _)| name::is_within(&wire, owner));
        let longest = fitting.clone().map(|(owner, _)| owner.len()).max();
        fitting.filter(|(owner, _)| Some(owner.len()) == longest).any(|(_, owner)| owner == at)
    }

    /// The stub domains of the kube-dns ConfigMap, as node-cache makes server blocks of them.
    fn stub_domains(&mut self) {
        let kube_dns = &self.inputs.kube_dns;
        let at = Position { file: kube_dns.origin.as_str().into(), line: 1 };
        for (domain, servers) in &kube_dns.stub_domains {
            let to: Vec<_> = servers.iter().filter_map(|server| self.upstream(server, &at)).collect();
            let Some(name) = values::zone_name(domain).filter(|_| !to.is_empty()) else {
                let instead = "an upstream is an IP address; the domain is left out";
                self.note(Kind::NoEquivalent, &at, domain, "a stub domain", instead);
                continue;
            };
            let ttl = Some(HumanDuration::from_secs(30));
            let zone = Zone {
                name,
                forward: Some(Forward { to, transport: Transport::Auto, ..Forward::default() }),
                file: None,
                answers: Vec::new(),
                dns64: None,
                cache: ZoneCache { max_ttl: ttl, negative_max_ttl: ttl, ..ZoneCache::default() },
            };
            if self.config.zones.iter().any(|known| known.name == zone.name) {
                let instead = "the Corefile's own block for it is taken";
                self.note(Kind::Different, &at, domain, "a stub domain", instead);
            } else {
                self.config.zones.push(zone);
                self.zone_origins.push(at.clone());
            }
        }
    }

    fn finish(mut self) -> Import {
        if self.listen.is_empty() {
            self.listen.clone_from(&self.inputs.local_ips);
        }
        if self.listen.is_empty() {
            self.listen.push(STAND_IN_LOCAL.into());
        }
        if self.config.zones.is_empty() {
            let at = self.owners.first().map_or_else(|| self.start.clone(), |(_, at)| at.clone());
            let instead = "the one zone here answers SERVFAIL; put your zones in its place";
            self.note(Kind::NoEquivalent, &at, "no zones", "nothing in it answers names", instead);
            self.zone_origins.push(at);
            self.config.zones.push(Zone {
                name: ".".to_owned(),
                forward: None,
                file: None,
                answers: vec![rcode_answer(FixedRcode::Servfail)],
                dns64: None,
                cache: ZoneCache::default(),
            });
        }
        self.finish_hosts();
        self.finish_process();
        self.finish_cache();
        self.finish_own_upstreams();
        let mut findings: Vec<_> = self.findings.into_iter().collect();
        let key = |f: &Finding| (f.kind, f.at.clone(), f.directive.clone(), f.did.clone());
        findings.sort_by_cached_key(key);
        Import {
            config: self.config,
            findings,
            zone_origins: self.zone_origins,
            metrics_named: self.metrics_seen,
        }
    }
}

/// Most zones taken from a Corefile; a cluster has a few dozen.
const MAX_ZONES: usize = 1_000;

const DNS_DOMAIN: &str = "__PILLAR__DNS__DOMAIN__";
const LOCAL_DNS: &str = "__PILLAR__LOCAL__DNS__";
const DNS_SERVER: &str = "__PILLAR__DNS__SERVER__";
const CLUSTER_DNS: &str = "__PILLAR__CLUSTER__DNS__";
const UPSTREAM_SERVERS: &str = "__PILLAR__UPSTREAM__SERVERS__";

/// The address NodeLocal DNSCache's documentation uses.
const STAND_IN_LOCAL: Ipv4Addr = Ipv4Addr::new(169, 254, 20, 10);

/// Stands where an upstream must be filled in: of a network for documentation (RFC 5737), so that it reaches nobody.
pub(super) const STAND_IN_UPSTREAM: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 53);

/// Whether `name` is `zone` or below it; both are names that [`values::zone_name`] made.
fn within(name: &str, zone: &str) -> bool {
    matches!((name::to_wire(name), name::to_wire(zone)), (Ok(name), Ok(zone)) if name::is_within(&name, &zone))
}

fn rcode_answer(rcode: FixedRcode) -> FixedAnswer {
    FixedAnswer {
        types: Vec::new(),
        name: None,
        rcode,
        addresses: Vec::new(),
        ttl: HumanDuration::from_secs(60),
    }
}

/// A block's answer as far as it concerns one of its zones.
fn narrowed(answer: &FixedAnswer, zone: &str) -> Option<FixedAnswer> {
    let Some(name) = &answer.name else { return Some(answer.clone()) };
    let (plain, below) = match name.strip_prefix("*.") {
        Some(plain) => (plain, true),
        None => (name.as_str(), false),
    };
    if within(plain, zone) {
        Some(answer.clone())
    } else if below && within(zone, plain) {
        Some(FixedAnswer { name: None, ..answer.clone() })
    } else {
        None
    }
}

/// The options of a directive's block with the given name.
fn options<'d>(directive: &'d Directive, name: &'d str) -> impl Iterator<Item = &'d Directive> {
    directive.block.iter().filter(move |option| option.name == name)
}
