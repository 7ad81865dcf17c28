//! `forward`, `kubernetes` and `file`: where a block looks names up.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use super::super::super::schema::{Forward, Policy, Transport, UpstreamAddress};
use super::super::findings::Kind;
use super::super::lexer::Position;
use super::super::parser::Directive;
use super::super::values;
use super::{
    Block, CLUSTER_DNS, DNS_SERVER, Draft, LOCAL_DNS, STAND_IN_UPSTREAM, Translator, UPSTREAM_SERVERS, within,
};

impl Translator<'_> {
    /// `forward FROM TO... { ... }`.
    pub(super) fn forward(&mut self, directive: &Directive, block: &Block, draft: &mut Draft) {
        let Some((from, to)) = directive.arguments.split_first() else {
            return self.note(
                Kind::NoEquivalent,
                &directive.at,
                "forward",
                "has no FROM and TO",
                "it is left out",
            );
        };
        let Some(from) = values::zone_name(from) else {
            let instead = "it is left out: its FROM is no name";
            return self.note(
                Kind::NoEquivalent,
                &directive.at,
                &directive.text(),
                "forwards names",
                instead,
            );
        };
        let mut forward = Forward { transport: Transport::Auto, ..Forward::default() };
        for word in to {
            self.to(word, &directive.at, &mut forward.to);
        }
        for option in &directive.block {
            self.forward_option(directive, option, &mut forward);
        }
        self.custom_upstreams(directive, &mut forward);
        forward.except.retain(|except| block.zones.iter().any(|zone| within(except, zone)));
        if forward.to.is_empty() {
            draft.lost_answers = true;
        } else if draft.forwards.iter().any(|(base, _)| *base == from) {
            let instead = "nodens forwards a zone to one list of upstreams; the first forward is taken";
            self.note(
                Kind::NoEquivalent,
                &directive.at,
                &directive.text(),
                "a second forward for the same names",
                instead,
            );
        } else {
            draft.forwards.push((from, forward));
        }
    }

    /// node-cache asks the kube-dns ConfigMap's upstreamNameservers over UDP, whatever `force_tcp` says.
    fn custom_upstreams(&mut self, directive: &Directive, forward: &mut Forward) {
        let placeholder = directive.arguments.iter().any(|word| word.contains(UPSTREAM_SERVERS));
        let given =
            self.inputs.upstream_servers.is_empty() && !self.inputs.kube_dns.upstream_nameservers.is_empty();
        // It replaces a block of this one option and leaves others alone.
        let [option] = directive.block.as_slice() else { return };
        if placeholder && given && option.name == "force_tcp" {
            forward.transport = Transport::Auto;
            let instead = "so does nodens, transport auto; set tcp if they are to be asked over TCP";
            let did = "is taken out by node-cache where upstreamNameservers are given";
            self.note(Kind::Different, &option.at, &option.text(), did, instead);
        }
    }

    /// One TO, which may be a placeholder for several.
    fn to(&mut self, word: &str, at: &Position, to: &mut Vec<UpstreamAddress>) {
        let mut add = |upstream: UpstreamAddress| {
            if !to.contains(&upstream) {
                to.push(upstream);
            }
        };
        let inputs = self.inputs;
        if word.contains(UPSTREAM_SERVERS) {
            let given = inputs.kube_dns.upstream_nameservers.iter();
            let named: Vec<_> = match inputs.upstream_servers.as_slice() {
                [] => given.filter_map(|server| self.upstream(server, at)).collect(),
                servers => servers.to_vec(),
            };
            if named.is_empty() {
                // What node-cache does.
                add(UpstreamAddress::ResolvConf("/etc/resolv.conf".into()));
            }
            named.into_iter().for_each(add);
        } else if word.contains(CLUSTER_DNS) || word.contains(DNS_SERVER) || word.contains(LOCAL_DNS) {
            add(UpstreamAddress::Address(SocketAddr::new(self.cluster_dns(at, word), 53)));
        } else if let Some(upstream) = self.upstream(word, at) {
            add(upstream);
        }
    }

    /// The cluster's DNS service, or a stand-in and a finding.
    fn cluster_dns(&mut self, at: &Position, directive: &str) -> IpAddr {
        if let Some(ip) = self.inputs.cluster_dns {
            return ip;
        }
        let instead = format!(
            "{STAND_IN_UPSTREAM} is in its place and reaches nobody; put the address of the kube-dns-upstream service \
             there, or import with --cluster-dns"
        );
        self.note(Kind::NotFilled, at, directive, "the service that leads to CoreDNS", instead);
        STAND_IN_UPSTREAM.into()
    }

    /// An upstream as CoreDNS writes it; none, and a finding, for what nodens cannot ask.
    pub(super) fn upstream(&mut self, word: &str, at: &Position) -> Option<UpstreamAddress> {
        let plain = match word.split_once("://") {
            None => word,
            Some(("dns", plain)) => plain,
            Some(_) => {
                let instead = "nodens asks upstreams in plain DNS; put a forwarder for it on this node and name that here";
                self.note(Kind::NoEquivalent, at, word, "an encrypted upstream", instead);
                return None;
            }
        };
        let parsed = plain.parse::<UpstreamAddress>().ok().filter(|upstream| match upstream {
            UpstreamAddress::Address(address) => address.port() > 0 && !address.ip().is_unspecified(),
            UpstreamAddress::ResolvConf(_) => true,
        });
        if parsed.is_none() {
            let instead =
                "an upstream is an IP address with or without a port, or the absolute path of a resolv.conf";
            self.note(Kind::NoEquivalent, at, word, "an upstream", instead);
        }
        parsed
    }

    fn forward_option(&mut self, directive: &Directive, option: &Directive, forward: &mut Forward) {
        let first = option.arguments.first().map(String::as_str);
        let (at, text) = (&option.at, option.text());
        match option.name.as_str() {
            "force_tcp" => forward.transport = Transport::Tcp,
            "prefer_udp" if forward.transport != Transport::Tcp => forward.transport = Transport::Auto,
            "prefer_udp" => {}
            "except" => {
                forward.except.extend(option.arguments.iter().filter_map(|name| values::zone_name(name)));
            }
            "policy" => match first {
                Some("random") => forward.policy = Policy::Random,
                Some("round_robin") => forward.policy = Policy::RoundRobin,
                Some("sequential") => forward.policy = Policy::Sequential,
                _ => self.note(Kind::NoEquivalent, at, &text, "chooses upstreams", "policy random is taken"),
            },
            "max_concurrent" => match first.and_then(|max| max.parse::<usize>().ok()) {
                Some(0) | None => {}
                Some(max) => {
                    forward.max_in_flight = max.min(1 << 20);
                    let instead = "max_in_flight bounds the queries of each upstream by itself";
                    self.note(
                        Kind::Different,
                        at,
                        &text,
                        "bounds the queries of all upstreams together",
                        instead,
                    );
                }
            },
            "max_fails"
            | "health_check"
            | "expire"
            | "max_connect_attempts"
            | "max_idle_conns"
            | "max_age" => {
                let did = "tunes connections and health checks";
                let instead =
                    "nodens learns an upstream's health from its answers and replaces connections by max_age";
                self.note(Kind::BuiltIn, at, &text, did, instead);
            }
            "tls" | "tls_servername" => {
                let encrypted = directive.arguments.iter().any(|to| to.starts_with("tls://"));
                let kind = if encrypted { Kind::NoEquivalent } else { Kind::BuiltIn };
                let instead = "nodens asks upstreams in plain DNS";
                self.note(kind, at, &text, "settings for encrypted upstreams", instead);
            }
            "next" | "failover" => {
                let instead =
                    "nodens asks the next upstream when one fails, but passes answers on as they are";
                self.note(Kind::NoEquivalent, at, &text, "asks elsewhere after certain rcodes", instead);
            }
            "failfast_all_unhealthy_upstreams" => {
                let did = "answers SERVFAIL at once when all upstreams are down";
                let instead =
                    "nodens serves stale answers, remembers failures, and tries upstreams again now and then";
                self.note(Kind::BuiltIn, at, &text, did, instead);
            }
            _ => self.unknown_option(directive, option),
        }
    }

    /// `kubernetes [ZONES...]`: CoreDNS itself, which stays behind nodens.
    pub(super) fn kubernetes(&mut self, directive: &Directive, block: &Block, draft: &mut Draft) {
        let named: Vec<_> =
            directive.arguments.iter().filter_map(|zone| values::zone_names(zone)).flatten().collect();
        let zones = if named.is_empty() { block.zones.clone() } else { named };
        let ip = self.cluster_dns(&directive.at, &directive.text());
        for zone in zones {
            let to = vec![UpstreamAddress::Address(SocketAddr::new(ip, 53))];
            draft.forwards.push((zone, Forward { to, ..Forward::default() }));
        }
        let did = "answers from the cluster's services and pods";
        let instead = "nodens is the cache in front of CoreDNS; these zones are forwarded there";
        self.note(Kind::NoEquivalent, &directive.at, &directive.text(), did, instead);
    }

    /// `file DBFILE [ZONES...]`.
    pub(super) fn file(&mut self, directive: &Directive, block: &Block, draft: &mut Draft) {
        let Some((file, zones)) = directive.arguments.split_first().filter(|(file, _)| file.starts_with('/'))
        else {
            draft.lost_answers = true;
            let instead = "name the file by an absolute path in zones[].file";
            return self.note(
                Kind::NoEquivalent,
                &directive.at,
                &directive.text(),
                "serves a master file",
                instead,
            );
        };
        let named: Vec<_> = zones.iter().filter_map(|zone| values::zone_names(zone)).flatten().collect();
        let zones = if named.is_empty() { block.zones.clone() } else { named };
        draft.files.extend(zones.into_iter().map(|zone| (zone, PathBuf::from(file))));
        for option in &directive.block {
            let (at, text) = (&option.at, option.text());
            match option.name.as_str() {
                "fallthrough" => {
                    let instead = "a zone with a file answers all its names from it";
                    self.note(Kind::NoEquivalent, at, &text, "passes unknown names on", instead);
                }
                "reload" | "no_reload" | "upstream" => {
                    let instead = "nodens watches the file";
                    self.note(Kind::BuiltIn, at, &text, "tunes the file plugin", instead);
                }
                _ => self.unknown_option(directive, option),
            }
        }
    }

    /// An upstream that is one of our own addresses would be a loop.
    pub(super) fn finish_own_upstreams(&mut self) {
        let listen = self.config.listen.clone();
        let mut lost = Vec::new();
        for (zone, at) in self.config.zones.iter_mut().zip(&self.zone_origins) {
            let Some(forward) = &mut zone.forward else { continue };
            let own = |to: &UpstreamAddress| {
                matches!(to, UpstreamAddress::Address(to)
                    if to.port() == listen.port && listen.addresses.contains(&to.ip()))
            };
            let loops: Vec<_> = forward.to.iter().filter(|to| own(to)).map(ToString::to_string).collect();
            forward.to.retain(|to| !own(to));
            if forward.to.is_empty() {
                forward.to.push(UpstreamAddress::Address(SocketAddr::new(STAND_IN_UPSTREAM.into(), 53)));
            }
            lost.extend(loops.into_iter().map(|to| (at.clone(), to)));
        }
        for (at, to) in lost {
            let instead = format!(
                "it is also a listen address, and queries would loop; name the kube-dns-upstream service instead \
                 ({STAND_IN_UPSTREAM} stands where nothing else is left)"
            );
            self.note(Kind::NotFilled, &at, &to, "an upstream", instead);
        }
    }
}
