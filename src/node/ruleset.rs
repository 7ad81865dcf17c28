//! What is in the nftables table: which packets stay out of connection tracking.
//!
//! ```text
//! table inet nodens {                                   # flags owner: goes with the process
//!   chain queries   { udp dport 53 notrack; tcp dport 53 notrack; … }
//!   chain replies   { udp sport 53 notrack; tcp sport 53 notrack; … }
//!   chain prerouting {
//!     type filter hook prerouting priority raw;
//!     ip daddr 169.254.20.10 jump queries; ip saddr 169.254.20.10 jump replies; …
//!   }
//!   chain output { the same at hook output }
//! }
//! ```
//!
//! Every packet of the node passes the two base chains, and hardly any is DNS for us. They hold two rules for each address
//! and look at nothing but the address; protocol and port are looked at only where that matches. With three addresses
//! this costs a foreign packet some 120 ns in each hook, where a flat list of the same costs 315 ns.
//!
//! Both base chains have the same rules: pods' packets come in by prerouting, those of the host's own clients and our
//! replies by output.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use netlink_packet_netfilter::nftables::InetHookNumber;

use super::nftables::{
    End, Expression, Hook, Transport, jump, match_address, match_family, match_port, notrack,
};

/// One socket address whose packets stay out of connection tracking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// The address; an unspecified one matches no packet and is left out.
    pub address: SocketAddr,
    /// Whether UDP is served there beside TCP.
    pub udp: bool,
}

impl Endpoint {
    /// A DNS listener.
    pub fn dns(address: SocketAddr) -> Self {
        Self { address, udp: true }
    }

    /// An HTTP listener.
    pub fn http(address: SocketAddr) -> Self {
        Self { address, udp: false }
    }

    /// The protocols served there.
    pub(crate) fn transports(self) -> &'static [Transport] {
        if self.udp { &[Transport::Udp, Transport::Tcp] } else { &[Transport::Tcp] }
    }
}

/// A chain and its rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chain {
    /// Its name.
    pub(crate) name: String,
    /// Where packets enter it; `None` if only from other chains.
    pub(crate) hook: Option<Hook>,
    /// Its rules.
    pub(crate) rules: Vec<Vec<Expression>>,
}

/// The chains for these endpoints, each after those it jumps to.
pub(crate) fn chains(endpoints: &[Endpoint]) -> Vec<Chain> {
    let mut chains = Vec::new();
    let mut entry = Vec::new();
    for (number, (services, addresses)) in by_services(endpoints).into_iter().enumerate() {
        for (end, direction) in [(End::Destination, "queries"), (End::Source, "replies")] {
            let name = if number == 0 { direction.to_owned() } else { format!("{direction}-{}", number + 1) };
            let mut rules = Vec::new();
            for &(transport, port) in &services {
                let mut rule = match_port(end, transport, port).to_vec();
                rule.push(notrack());
                rules.push(rule);
            }
            for &address in &addresses {
                let mut rule = match_family(address).to_vec();
                rule.extend(match_address(end, address));
                rule.push(jump(&name));
                entry.push(rule);
            }
            chains.push(Chain { name, hook: None, rules });
        }
    }
    for (name, hook) in [("prerouting", InetHookNumber::PreRouting), ("output", InetHookNumber::LocalOut)] {
        let hook = Some(Hook { number: hook, priority: PRIORITY_RAW });
        chains.push(Chain { name: name.to_owned(), hook, rules: entry.clone() });
    }
    chains
}

/// Whether packets carry this address.
pub(crate) fn matchable(address: IpAddr) -> bool {
    !address.is_unspecified()
}

/// What is served on an address, sorted.
type Services = Vec<(Transport, u16)>;

/// The addresses, put together by what is served on them: the health port is on one, DNS on all.
fn by_services(endpoints: &[Endpoint]) -> BTreeMap<Services, Vec<IpAddr>> {
    let mut services: BTreeMap<IpAddr, Services> = BTreeMap::new();
    for endpoint in endpoints.iter().filter(|endpoint| matchable(endpoint.address.ip())) {
        let of_address = services.entry(endpoint.address.ip()).or_default();
        of_address
            .extend(endpoint.transports().iter().map(|&transport| (transport, endpoint.address.port())));
    }
    let mut groups: BTreeMap<Services, Vec<IpAddr>> = BTreeMap::new();
    for (address, mut services) in services {
        services.sort_unstable();
        services.dedup();
        groups.entry(services).or_default().push(address);
    }
    groups
}

/// `NF_IP_PRI_RAW` (include/uapi/linux/netfilter_ipv4.h): before connection tracking, which is at -200.
const PRIORITY_RAW: i32 = -300;

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(endpoints: &[Endpoint]) -> Vec<(String, usize)> {
        chains(endpoints).into_iter().map(|chain| (chain.name, chain.rules.len())).collect()
    }

    fn named(shape: &[(&str, usize)]) -> Vec<(String, usize)> {
        shape.iter().map(|&(name, rules)| (name.to_owned(), rules)).collect()
    }

    #[test]
    fn addresses_with_the_same_services_share_chains() {
        let dns = |address: &str| Endpoint::dns(address.parse().unwrap());
        assert_eq!(
            shape(&[dns("169.254.20.10:53"), dns("[fd00::10]:53")]),
            named(&[("queries", 2), ("replies", 2), ("prerouting", 4), ("output", 4)])
        );
    }

    #[test]
    fn a_service_of_one_address_is_not_one_of_another() {
        let endpoints = [
            Endpoint::dns("169.254.20.10:53".parse().unwrap()),
            Endpoint::dns("10.96.0.10:53".parse().unwrap()),
            Endpoint::http("169.254.20.10:8080".parse().unwrap()),
        ];
        assert_eq!(
            shape(&endpoints),
            named(&[
                ("queries", 2),
                ("replies", 2),
                ("queries-2", 3),
                ("replies-2", 3),
                ("prerouting", 4),
                ("output", 4)
            ])
        );
    }

    #[test]
    fn an_unspecified_address_has_no_rules() {
        let anywhere = Endpoint::dns("[::]:53".parse().unwrap());
        assert_eq!(shape(&[anywhere]), named(&[("prerouting", 0), ("output", 0)]));
    }
}
