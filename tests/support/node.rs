//! What the namespace tests of the node's network have in common: the configuration of a node, and what can be seen of it
//! with ip(8) and nft(8).

#![allow(dead_code, reason = "every test file includes this one and uses what it needs")]

use std::time::Duration;

use nodens::config::{Config, InterfaceKind};

use crate::support::netns::{Netns, veth};

/// The link-local listen address.
pub(crate) const LINK_LOCAL: &str = "169.254.20.10";
/// A service address of each family.
pub(crate) const SERVICE: &str = "10.96.0.10";
pub(crate) const SERVICE_V6: &str = "fd00:96::10";
/// The promise for every repair.
pub(crate) const REPAIRED: Duration = Duration::from_secs(1);
/// Generous for what is not promised to be fast.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// The configuration of a node: three addresses of both families, the interface managed, rules wanted.
pub(crate) fn node_config() -> Config {
    let mut config = Config::default();
    config.listen.addresses = [LINK_LOCAL, SERVICE, SERVICE_V6].map(|a| a.parse().unwrap()).to_vec();
    config.listen.port = 53;
    config.observe.health = Some(format!("{LINK_LOCAL}:8080").parse().unwrap());
    config.node.interface.manage = true;
    config.node.interface.kind = InterfaceKind::Bridge;
    config.node.notrack = true;
    config
}

/// The addresses on the interface, sorted, without the link-local one the kernel gives it.
pub(crate) fn addresses(node: &Netns) -> Vec<String> {
    let text = node.exec("ip -oneline address show dev nodens 2>/dev/null || true");
    let mut addresses: Vec<_> =
        text.lines().filter_map(|line| line.split_whitespace().nth(3)).map(str::to_owned).collect();
    addresses.retain(|address| !address.starts_with("fe80"));
    addresses.sort();
    addresses
}

/// Those of [`node_config`].
pub(crate) fn all_addresses() -> Vec<String> {
    vec![format!("{SERVICE}/32"), format!("{LINK_LOCAL}/32"), format!("{SERVICE_V6}/128")]
}

pub(crate) fn interface_index(node: &Netns) -> String {
    node.exec("cat /sys/class/net/nodens/ifindex")
}

pub(crate) fn has_interface(node: &Netns) -> bool {
    node.try_exec("ip link show nodens").status.success()
}

/// The names of all tables in family inet.
pub(crate) fn tables(node: &Netns) -> Vec<String> {
    let text = node.exec("nft list tables inet");
    text.lines().filter_map(|line| line.strip_prefix("table inet ")).map(str::to_owned).collect()
}

/// How many rules a table has; each of ours has a comment.
pub(crate) fn rule_count(node: &Netns, table: &str) -> usize {
    let output = node.try_exec(&format!("nft list table inet {table}"));
    String::from_utf8_lossy(&output.stdout).matches(" comment ").count()
}

/// Two rules for each of three addresses in two base chains; two directions of DNS by two transports, with the health port
/// and without.
pub(crate) const ALL_RULES: usize = 3 * 2 * 2 + (2 + 1) * 2 + 2 * 2;

/// A node and the namespace of its pods, joined, with the node as the pods' gateway.
pub(crate) fn pods_and_node() -> (Netns, Netns) {
    let (pods, node) = (Netns::new("pods"), Netns::new("node"));
    veth(&pods, &["10.1.0.2/24", "fd00:1::2/64"], &node, &["10.1.0.1/24", "fd00:1::1/64"]);
    pods.exec("ip route add default via 10.1.0.1 && ip -6 route add default via fd00:1::1");
    (pods, node)
}
