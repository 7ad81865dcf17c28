//! What would stand in the way of `run` on this node, in plain words (`nodens check --node`).
//!
//! Nothing is changed: the one transaction that is sent makes and removes a table in the same breath.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use super::error::NodeError;
use super::instances;
use super::interface;
use super::notrack::{self, Ownership};
use super::ports::{Protocol, holders};
use super::privileges;
use crate::config::{Config, InterfaceKind};

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It works, but otherwise than one may think.
    Note,
    /// `run` would fail, or part of what is configured would not be there.
    Problem,
}

/// One thing found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// What it is and what to do.
    pub message: String,
}

impl Finding {
    fn note(message: impl Into<String>) -> Self {
        Self { severity: Severity::Note, message: message.into() }
    }

    fn problem(message: impl Into<String>) -> Self {
        Self { severity: Severity::Problem, message: message.into() }
    }
}

/// Looks at this node for what the configuration needs: capabilities, kernel support, free ports. Blocks for some
/// milliseconds.
pub fn preflight(config: &Config) -> Vec<Finding> {
    let mut findings = capabilities(config);
    if config.node.notrack || config.node.accept_rules {
        findings.extend(nftables());
    }
    if config.node.interface.manage {
        findings.extend(interface(config));
    }
    if config.node.notrack && !Path::new(CONNTRACK_COUNT).exists() {
        findings.push(Finding::note(
            "this kernel does not track connections (nf_conntrack is not loaded): node.notrack has nothing to do yet, \
             and there will be no conntrack metrics",
        ));
    }
    findings.extend(ports(config));
    findings
}

fn capabilities(config: &Config) -> Vec<Finding> {
    match privileges::missing(config) {
        Ok(missing) => missing.iter().map(|need| Finding::problem(need.to_string())).collect(),
        Err(error) => vec![Finding::problem(error.to_string())],
    }
}

fn nftables() -> Option<Finding> {
    match notrack::probe_ownership() {
        Ok(Ownership::Owned) => None,
        Ok(Ownership::Plain) => Some(Finding::note(
            "this kernel has no owners of nftables tables (Linux 5.12 has): if nodens is killed, its rules stay until the \
             next start or `nodens cleanup`",
        )),
        // Already said by name.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => None,
        Err(error) => Some(Finding::problem(format!(
            "this kernel refuses nftables ({error}): load nf_tables, nf_tables_inet and nft_ct (CONFIG_NF_TABLES_INET, \
             CONFIG_NFT_CT), or set node.notrack to false"
        ))),
    }
}

fn interface(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    let name = &config.node.interface.name;
    let device = Path::new("/sys/class/net").join(name);
    if device.exists() {
        let read = |file: &str| fs::read_to_string(device.join(file)).unwrap_or_default();
        if !interface::has_mark(read("ifalias").trim_end(), read("address").trim_end()) {
            findings.push(Finding::problem(NodeError::ForeignInterface { name: name.clone() }.to_string()));
        }
    } else if config.node.interface.kind == InterfaceKind::Dummy {
        findings.extend(dummy());
    }
    let is_v6 = |address: &&IpAddr| address.is_ipv6() && interface::belongs_on_interface(**address);
    if let Some(&address) = config.listen.addresses.iter().find(is_v6)
        && fs::read_to_string(IPV6_DISABLED).is_ok_and(|text| text.trim() == "1")
    {
        findings.push(Finding::problem(NodeError::Ipv6Disabled { address }.to_string()));
    }
    findings
}

fn dummy() -> Option<Finding> {
    // The parameter `numdummies` makes the directory there whether the driver is built in or loaded.
    if Path::new("/sys/module/dummy").exists() {
        return None;
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let modules = Path::new("/lib/modules").join(release.trim());
    let listed =
        |file: &str| fs::read_to_string(modules.join(file)).is_ok_and(|list| list.contains("/dummy.ko"));
    if listed("modules.dep") || listed("modules.builtin") {
        return None;
    }
    Some(Finding::note(
        "the dummy device is not loaded and no module of it is in sight: if the kernel has none, a bridge without ports is \
         made instead (node.interface.kind: bridge says so from the start)",
    ))
}

fn ports(config: &Config) -> Vec<Finding> {
    let mut wanted: Vec<(&str, Protocol, SocketAddr)> = Vec::new();
    for &address in &config.listen.addresses {
        let address = SocketAddr::new(address, config.listen.port);
        wanted.extend([("listen", Protocol::Udp, address), ("listen", Protocol::Tcp, address)]);
    }
    wanted.extend(config.observe.metrics.map(|address| ("observe.metrics", Protocol::Tcp, address)));
    wanted.extend(config.observe.health.map(|address| ("observe.health", Protocol::Tcp, address)));

    let taken = [(Protocol::Udp, holders(Protocol::Udp)), (Protocol::Tcp, holders(Protocol::Tcp))];
    let instances_live = instances::living().is_ok_and(|living| !living.is_empty());
    let mut findings: Vec<Finding> = Vec::new();
    for (key, protocol, address) in wanted.into_iter().filter(|(.., address)| address.port() != 0) {
        let sockets = taken.iter().filter(|(of, _)| *of == protocol).flat_map(|(_, sockets)| sockets);
        for socket in sockets.filter(|socket| socket.meets(address)) {
            let process = socket.process();
            let what = format!("{} {address} ({key}) is taken by {}", protocol.name(), socket.named());
            let is_instance = match &process {
                Some(process) => process.command == "nodens",
                None => instances_live,
            };
            let finding = if is_instance {
                Finding::note(format!(
                    "{what}: as another instance of nodens it shares the port for a hand-over"
                ))
            } else {
                Finding::problem(format!(
                    "{what}, bound to {}: stop it or choose another address or port",
                    socket.address
                ))
            };
            if !findings.contains(&finding) {
                findings.push(finding);
            }
        }
    }
    findings
}

/// Whether IPv6 is switched off on all interfaces, those to come included (Documentation/networking/ip-sysctl.rst).
const IPV6_DISABLED: &str = "/proc/sys/net/ipv6/conf/all/disable_ipv6";

/// There exactly when connection tracking is.
const CONNTRACK_COUNT: &str = "/proc/sys/net/netfilter/nf_conntrack_count";

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    #[test]
    fn a_taken_port_is_reported_with_its_process() {
        let holder = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = holder.local_addr().unwrap();
        let mut config = Config::default();
        config.listen.addresses = vec![address.ip()];
        config.listen.port = address.port();
        config.observe.metrics = None;
        config.observe.health = None;
        let findings = preflight(&config);
        let expected = format!("UDP {address} (listen) is taken by ");
        let found = findings.iter().find(|finding| finding.message.starts_with(&expected)).unwrap();
        assert_eq!(found.severity, Severity::Problem);
        assert!(found.message.contains(&format!("(pid {})", std::process::id())), "{}", found.message);
    }
}
