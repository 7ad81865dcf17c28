//! What belongs to the process as a whole: listeners, health, metrics, logs, sizes.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::super::super::schema::{LogLevel, QueryLog, Workers};
use super::super::super::units::{HumanDuration, Switch};
use super::super::findings::Kind;
use super::super::lexer::Position;
use super::super::parser::Directive;
use super::super::values;
use super::unsupported;
use super::{DNS_SERVER, Draft, LOCAL_DNS, STAND_IN_LOCAL, Translator, options};

impl Translator<'_> {
    /// `bind ADDRESS|INTERFACE ...`.
    pub(super) fn bind(&mut self, directive: &Directive) -> Vec<IpAddr> {
        let mut addresses = Vec::new();
        let mut add = |address: IpAddr| {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        };
        for word in
            directive.arguments.iter().flat_map(|words| words.split(',')).filter(|word| !word.is_empty())
        {
            if word.contains(LOCAL_DNS) {
                let inputs = self.inputs;
                if inputs.local_ips.is_empty() {
                    add(self.local_dns(&directive.at));
                }
                // node-cache puts all of -localip in its place.
                inputs.local_ips.iter().copied().for_each(&mut add);
            } else if word.contains(DNS_SERVER) {
                // The others of -localip: with a link-local address alone there is none.
                if self.inputs.local_ips.is_empty() {
                    let instead = "it is left out; add kube-dns' service address to listen.addresses where kubelets \
                                   keep it (iptables and nftables mode), or import with --local-ip";
                    self.note(
                        Kind::NotFilled,
                        &directive.at,
                        DNS_SERVER,
                        "the address of the kube-dns service",
                        instead,
                    );
                }
                self.inputs.local_ips.iter().skip(1).copied().for_each(&mut add);
            } else {
                match word.parse::<IpAddr>() {
                    Ok(address) if !unfit(address) => add(address),
                    _ => {
                        let instead = "listen.addresses names the addresses that clients ask, each by itself";
                        self.note(
                            Kind::NoEquivalent,
                            &directive.at,
                            &directive.text(),
                            format!("binds {word}"),
                            instead,
                        );
                    }
                }
            }
        }
        for option in options(directive, "except") {
            let instead = "listen.addresses names the addresses alone";
            self.note(Kind::NoEquivalent, &option.at, &option.text(), "leaves addresses out", instead);
        }
        addresses
    }

    /// The first address to listen on, or a stand-in and a finding.
    fn local_dns(&mut self, at: &Position) -> IpAddr {
        if let Some(address) = self.inputs.local_ips.first() {
            return *address;
        }
        let instead = format!(
            "{STAND_IN_LOCAL} is in its place; change it if yours differs, or import with --local-ip"
        );
        self.note(Kind::NotFilled, at, LOCAL_DNS, "the address clients ask", instead);
        STAND_IN_LOCAL.into()
    }

    /// Every other directive.
    pub(super) fn process(&mut self, directive: &Directive, draft: &mut Draft) {
        let (at, text) = (&directive.at, directive.text());
        let first = directive.arguments.first().map(String::as_str);
        match directive.name.as_str() {
            "prometheus" | "metrics" => {
                let address = self.address(at, first.unwrap_or("localhost:9153"), &text);
                let known = self.config.observe.metrics.filter(|_| self.metrics_seen);
                self.config.observe.metrics = self.one_address(at, &text, known, address);
                self.metrics_seen |= address.is_some();
            }
            "health" => {
                let address = self.address(at, first.unwrap_or(":8080"), &text);
                let known = self.config.observe.health.filter(|_| self.health_seen);
                self.config.observe.health = self.one_address(at, &text, known, address);
                self.health_seen |= address.is_some();
                for option in &directive.block {
                    if option.name != "lameduck" {
                        self.unknown_option(directive, option);
                        continue;
                    }
                    let did = "goes on for a while after SIGTERM";
                    let instead = "on SIGTERM, /ready fails at once and all that was received is answered, up to listen.drain";
                    self.note(Kind::BuiltIn, &option.at, &option.text(), did, instead);
                }
            }
            "ready" => {
                let instead =
                    "nodens serves /ready on the address of observe.health; change the probe's port";
                self.note(Kind::Different, at, &text, "serves /ready on a port of its own", instead);
            }
            "log" => {
                self.config.log.queries = Switch::On(QueryLog::default());
                if !directive.arguments.is_empty() || !directive.block.is_empty() {
                    let instead = "log.queries logs all queries, or a share of them, in one format";
                    self.note(Kind::Different, at, &text, "chooses what is logged and how", instead);
                }
            }
            "debug" => self.config.log.level = LogLevel::Debug,
            "bufsize" => {
                let size = first.map_or(Ok(1232), str::parse::<u16>);
                match size {
                    Ok(size) => {
                        let payload = &mut self.config.listen.max_udp_payload;
                        *payload = size.clamp(512, 4096).min(*payload);
                        if self.owners.len() > 1 {
                            let instead = "listen.max_udp_payload holds for all zones; the smallest is taken";
                            self.note(
                                Kind::Different,
                                at,
                                &text,
                                "bounds UDP payloads of its zones",
                                instead,
                            );
                        }
                    }
                    Err(_) => {
                        self.note(Kind::Different, at, &text, "bounds UDP payloads", "the default is taken");
                    }
                }
            }
            "timeouts" => {
                for option in &directive.block {
                    let time = option.arguments.first().and_then(|time| values::duration(time));
                    match (option.name.as_str(), time) {
                        ("idle", Some(time)) => {
                            let bounds = [HumanDuration::from_secs(1), HumanDuration::from_secs(3600)];
                            self.config.listen.tcp.idle_timeout = time.clamp(bounds[0], bounds[1]);
                        }
                        ("read" | "write", _) => {
                            let instead = "listen.tcp.idle_timeout bounds a silent or slow client";
                            self.note(
                                Kind::BuiltIn,
                                &option.at,
                                &option.text(),
                                "bounds one read or write",
                                instead,
                            );
                        }
                        _ => self.unknown_option(directive, option),
                    }
                }
            }
            "multisocket" => {
                if let Some(count @ 1..=256) = first.and_then(|count| count.parse().ok()) {
                    self.config.listen.workers = Workers::Count(count);
                } else if first.is_some() {
                    let instead = "listen.workers takes 1 to 256; it is left at auto";
                    self.note(Kind::Different, at, &text, "opens so many sockets", instead);
                }
            }
            "loadbalance"
                if first.is_some_and(|policy| policy != "round_robin") || !directive.block.is_empty() =>
            {
                let instead = "cache.rotate turns an answer's addresses round";
                self.note(Kind::NoEquivalent, at, &text, "orders an answer's addresses", instead);
            }
            name => {
                if let Some(plugin) = unsupported::plugin(name) {
                    draft.lost_answers |= plugin.answers;
                    self.note(plugin.kind, at, &text, plugin.did, plugin.instead);
                    for option in directive.block.iter().filter(|_| plugin.kind == Kind::BuiltIn) {
                        let did = format!("tunes {name}, which nodens does in its own way");
                        self.note(Kind::Different, &option.at, &option.text(), did, "it is left out");
                    }
                } else {
                    draft.lost_answers = true;
                    let instead = "nodens has no plugins; see docs/corefile.md for what it does";
                    self.note(Kind::NoEquivalent, at, &text, "is no plugin of node-cache", instead);
                }
            }
        }
    }

    /// An option that no version of the plugin known here has.
    pub(super) fn unknown_option(&mut self, directive: &Directive, option: &Directive) {
        let did = format!("is not known as an option of {}", directive.name);
        self.note(Kind::NoEquivalent, &option.at, &option.text(), did, "it is left out");
    }

    fn address(&mut self, at: &Position, word: &str, text: &str) -> Option<SocketAddr> {
        let filled = if word.contains(LOCAL_DNS) {
            let ip = self.local_dns(at);
            let text = if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() };
            word.replace(LOCAL_DNS, &text).replace("[[", "[").replace("]]", "]")
        } else {
            word.to_owned()
        };
        let address = values::listen_address(&filled).filter(|address| !address.ip().is_multicast());
        if address.is_none() {
            self.note(Kind::NoEquivalent, at, text, "an address to serve HTTP on", "the default is taken");
        }
        address
    }

    /// One listener for the process: the first, and a finding for others.
    fn one_address(
        &mut self,
        at: &Position,
        text: &str,
        known: Option<SocketAddr>,
        address: Option<SocketAddr>,
    ) -> Option<SocketAddr> {
        if let (Some(known), Some(address)) = (known, address)
            && known != address
        {
            let instead = format!("nodens has one for all zones, {known}");
            self.note(Kind::Different, at, text, "an address of its own", instead);
        }
        known.or(address).or(if text.starts_with("health") {
            self.config.observe.health
        } else {
            self.config.observe.metrics
        })
    }

    /// Listeners and the node's network, once all blocks are known.
    pub(super) fn finish_process(&mut self) {
        let config = &mut self.config;
        config.listen.addresses = std::mem::take(&mut self.listen);
        // The interface cannot carry loopback addresses, which need none.
        let managed = !config.listen.addresses.iter().any(IpAddr::is_loopback);
        config.node.interface.manage = managed;
        config.node.notrack = managed;
        let only_v6 = config.listen.addresses.iter().all(IpAddr::is_ipv6);
        for address in [&mut config.observe.metrics, &mut config.observe.health].into_iter().flatten() {
            if only_v6 && address.ip().is_unspecified() {
                address.set_ip(Ipv6Addr::UNSPECIFIED.into());
            }
        }
        self.finish_observe();
    }

    /// Two listeners that would meet: the latter goes.
    fn finish_observe(&mut self) {
        let observe = &mut self.config.observe;
        let meet = |a: SocketAddr, b: SocketAddr| {
            a.port() == b.port() && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
        };
        let port = self.config.listen.port;
        let mut lost = Vec::new();
        for (key, address) in [("metrics", &mut observe.metrics), ("health", &mut observe.health)] {
            if let Some(clash) = address.filter(|address| address.port() == port) {
                *address = None;
                lost.push((key, clash));
            }
        }
        if let (Some(metrics), Some(health)) = (observe.metrics, observe.health)
            && meet(metrics, health)
        {
            observe.health = None;
            lost.push(("health", health));
        }
        for (key, address) in lost {
            let at = self.owners.first().map_or_else(|| self.start.clone(), |(_, at)| at.clone());
            let instead = format!("another listener has that port; choose one and set observe.{key}");
            self.note(Kind::NoEquivalent, &at, key, format!("serves HTTP on {address}"), instead);
        }
    }
}

/// Whether nodens cannot listen there: replies must leave from the address that was asked.
fn unfit(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_unspecified() || v4.is_multicast() || v4.is_broadcast(),
        IpAddr::V6(v6) => {
            v6.is_unspecified()
                || v6.is_multicast()
                || v6.to_ipv4_mapped().is_some()
                || v6.is_unicast_link_local()
        }
    }
}
