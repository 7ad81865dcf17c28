//! Addresses nodens binds, and the interface that carries them.

use std::net::{IpAddr, SocketAddr};

use super::super::schema::Config;
use super::Findings;

/// Checks `listen.addresses`, `listen.port`, `observe` and `node.interface`.
pub(super) fn check(config: &Config, findings: &mut Findings) {
    let listen = &config.listen;
    if listen.port == 0 {
        findings.add("listen.port", 0, "1 to 65535");
    }
    if listen.addresses.is_empty() {
        findings.add("listen.addresses", "an empty list", "at least one address");
    }
    for (index, address) in listen.addresses.iter().enumerate() {
        let path = format!("listen.addresses[{index}]");
        if let Some(expected) = unfit_to_listen(*address) {
            findings.add(&path, address, expected);
        }
        if listen.addresses[..index].contains(address) {
            findings.add(&path, format!("{address} a second time"), "each address once");
        }
        if config.node.interface.manage && address.is_loopback() {
            let expected = "an address that can be put on node.interface, such as 169.254.20.10; \
                            loopback addresses are there already: set node.interface.manage to false for them";
            findings.add(&path, address, expected);
        }
    }
    interface_name(config, findings);
    observe(config, findings);
}

fn unfit_to_listen(address: IpAddr) -> Option<&'static str> {
    match address {
        // A reply must leave from the address that was asked, also after a change of the node's addresses.
        _ if address.is_unspecified() => Some(
            "the addresses that clients ask, each by itself: replies leave from the address that was asked",
        ),
        _ if address.is_multicast() => Some("a unicast address"),
        IpAddr::V4(v4) if v4.is_broadcast() => Some("a unicast address"),
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Some("the IPv4 address itself"),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            Some("an address that pods can name without a scope, such as a unique local one (fd00::/8)")
        }
        _ => None,
    }
}

/// Longest name of an interface, in bytes: IFNAMSIZ with its NUL is 16.
const MAX_INTERFACE_NAME: usize = 15;

fn interface_name(config: &Config, findings: &mut Findings) {
    let name = &config.node.interface.name;
    let path = "node.interface.name";
    // dev_valid_name() of the kernel.
    let valid = !name.is_empty()
        && name.len() <= MAX_INTERFACE_NAME
        && name != "."
        && name != ".."
        && name.bytes().all(|byte| byte.is_ascii_graphic() && !b"/:%".contains(&byte));
    if !valid {
        let expected = "the name of an interface: 1 to 15 characters, none of them a blank, `/`, `:` or `%`";
        findings.add(path, format!("{name:?}"), expected);
    } else if ["lo", "all", "default"].contains(&name.as_str()) {
        findings.add(path, name, "a name of its own: this one has a meaning to the kernel");
    }
}

fn observe(config: &Config, findings: &mut Findings) {
    let observe = &config.observe;
    for (path, address) in [("observe.metrics", observe.metrics), ("observe.health", observe.health)] {
        let Some(address) = address else { continue };
        if address.port() == 0 {
            findings.add(path, address, "a port from 1 to 65535; null turns it off");
        }
        if address.ip().is_multicast() {
            findings.add(path, address, "a unicast address, or 0.0.0.0 or [::] for all");
        }
        let dns = config.listen.addresses.iter().map(|ip| SocketAddr::new(*ip, config.listen.port));
        for own in dns.filter(|own| overlap(address, *own)) {
            findings.add(path, address, format!("another port: DNS over TCP is on {own}"));
        }
    }
    if let (Some(metrics), Some(health)) = (observe.metrics, observe.health)
        && overlap(metrics, health)
    {
        findings.add(
            "observe.health",
            health,
            format!("another port than observe.metrics, which is {metrics}"),
        );
    }
}

/// Whether two listeners would meet: the same port, and the same address or a wildcard that covers it.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let covers = |wild: IpAddr, other: IpAddr| {
        // [::] takes IPv4 connections as well (bindv6only 0, the default).
        wild.is_unspecified() && (wild.is_ipv6() || other.is_ipv4())
    };
    let (x, y) = (a.ip().to_canonical(), b.ip().to_canonical());
    a.port() == b.port() && (x == y || covers(x, y) || covers(y, x))
}
