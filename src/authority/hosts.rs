//! `hosts`: fixed addresses by name, and the names of those addresses.
//!
//! A host is a name, not a zone: names below it, and its siblings, are looked up where they belong.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use super::records;
use crate::config::HumanDuration;
use crate::config::name::{self, NameError};
use crate::wire::answer::{Answer, Kind};
use crate::wire::{CLASS_IN, rtype};

/// The configured hosts.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Hosts {
    ttl: u32,
    by_name: HashMap<Box<[u8]>, Host>,
}

#[derive(Debug, PartialEq, Eq)]
enum Host {
    Addresses(Box<[IpAddr]>),
    /// A reverse name, and the hosts with that address.
    Names(Vec<Box<[u8]>>),
}

impl Hosts {
    /// Hosts and, for each of their addresses, the reverse name. Fails with the first name that is none.
    pub fn new(config: &BTreeMap<String, Vec<IpAddr>>, ttl: HumanDuration) -> Result<Self, NameError> {
        let mut by_name = HashMap::new();
        for (host, addresses) in config {
            let host = name::to_wire(host)?;
            for address in addresses {
                let reverse = name::to_wire(&reverse_name(*address))?;
                match by_name.entry(reverse).or_insert_with(|| Host::Names(Vec::new())) {
                    Host::Names(names) => names.push(host.clone()),
                    // A host that is itself a reverse name: what is configured stands.
                    Host::Addresses(_) => {}
                }
            }
            by_name.insert(host, Host::Addresses(addresses.as_slice().into()));
        }
        // Validated to be a week at most.
        let ttl = u32::try_from(ttl.as_millis() / 1000).unwrap_or(u32::MAX);
        Ok(Self { ttl, by_name })
    }

    /// The answer for a folded name, if it is a host or the reverse name of one. Types a host has not are NODATA.
    pub fn answer(&self, name: &[u8], qtype: u16, qclass: u16) -> Option<Answer> {
        if self.by_name.is_empty() || qclass != CLASS_IN {
            return None;
        }
        Some(match self.by_name.get(name)? {
            Host::Addresses(addresses) => records::addresses(name, name.len(), qtype, addresses, self.ttl),
            Host::Names(names) if matches!(qtype, rtype::PTR | rtype::ANY) => {
                records::pointers(names.iter().map(|name| &**name), self.ttl)
            }
            Host::Names(_) => records::negative(Kind::NoData, name, name.len(), self.ttl),
        })
    }

    /// Whether both say the same of this name.
    pub fn agrees(&self, other: &Self, name: &[u8]) -> bool {
        let (host, other_host) = (self.by_name.get(name), other.by_name.get(name));
        host == other_host && (host.is_none() || self.ttl == other.ttl)
    }
}

/// The name PTR records of an address stand at (RFC 1035 §3.5, RFC 3596 §2.5).
pub fn reverse_name(address: IpAddr) -> String {
    use std::fmt::Write;
    let mut name = String::with_capacity(74);
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            let _ = write!(name, "{d}.{c}.{b}.{a}.in-addr.arpa");
        }
        IpAddr::V6(v6) => {
            for byte in v6.octets().iter().rev() {
                let _ = write!(name, "{:x}.{:x}.", byte & 0xf, byte >> 4);
            }
            name.push_str("ip6.arpa");
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::name::to_wire;

    fn hosts() -> Hosts {
        let addresses = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>();
        let config = BTreeMap::from([
            ("Registry.Internal".to_owned(), addresses(&["10.0.0.7", "fd00::7"])),
            ("mirror.internal".to_owned(), addresses(&["10.0.0.7"])),
        ]);
        Hosts::new(&config, HumanDuration::from_secs(90)).unwrap()
    }

    fn ask(name: &str, qtype: u16) -> Option<Answer> {
        hosts().answer(&to_wire(name).unwrap(), qtype, CLASS_IN)
    }

    #[test]
    fn a_host_has_its_addresses_and_nothing_else() {
        assert!(ask("registry.internal", rtype::A).unwrap().body.ends_with(&[10, 0, 0, 7]));
        assert_eq!(ask("registry.internal", rtype::AAAA).unwrap().counts, [1, 0, 0]);
        assert_eq!(ask("mirror.internal", rtype::AAAA).unwrap().kind, Kind::NoData);
        assert_eq!(ask("registry.internal", 16).unwrap().kind, Kind::NoData);
        assert!(ask("a.registry.internal", rtype::A).is_none(), "a host is no zone");
        assert!(ask("internal", rtype::A).is_none());
    }

    #[test]
    fn answers_have_the_configured_ttl() {
        assert_eq!(ask("registry.internal", rtype::A).unwrap().ttl, 90);
        assert_eq!(ask("7.0.0.10.in-addr.arpa", rtype::PTR).unwrap().ttl, 90);
        let other = Hosts { ttl: 30, ..hosts() };
        assert!(!hosts().agrees(&other, &to_wire("registry.internal").unwrap()));
        assert!(hosts().agrees(&other, &to_wire("other.internal").unwrap()));
    }

    #[test]
    fn an_address_has_the_names_of_its_hosts() {
        let answer = ask("7.0.0.10.in-addr.arpa", rtype::PTR).unwrap();
        assert_eq!(answer.counts, [2, 0, 0]);
        for host in [&b"\x08registry\x08internal\x00"[..], b"\x06mirror\x08internal\x00"] {
            assert!(answer.body.windows(host.len()).any(|part| part == host));
        }
        let v6 = format!("7.{}0.0.d.f.ip6.arpa", "0.".repeat(27));
        assert_eq!(ask(&v6, rtype::PTR).unwrap().counts, [1, 0, 0]);
        assert!(ask("8.0.0.10.in-addr.arpa", rtype::PTR).is_none());
    }

    #[test]
    fn another_class_is_no_host() {
        assert!(hosts().answer(&to_wire("registry.internal").unwrap(), rtype::A, 3).is_none());
    }
}
