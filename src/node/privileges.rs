//! Capabilities: which are needed, which are missing, and dropping the rest.
//!
//! nodens needs two (capabilities(7)), and only where the configuration asks for what they allow:
//!
//! | capability | for |
//! |---|---|
//! | `CAP_NET_ADMIN` | the interface, the nftables rules, and connection tracking counters |
//! | `CAP_NET_BIND_SERVICE` | ports below `net.ipv4.ip_unprivileged_port_start` (1024) |
//!
//! Both are kept for as long as the process runs: the guards and a reload use them.

use std::collections::HashSet;
use std::fmt;
use std::fs;

use caps::{CapSet, Capability};

use crate::config::Config;
use crate::sys;

/// A capability the configuration needs, and for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// Its name, e.g. `CAP_NET_ADMIN`.
    pub capability: &'static str,
    /// What it is for.
    pub purpose: String,
}

impl fmt::Display for Need {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { capability, purpose } = self;
        let short = capability.trim_start_matches("CAP_");
        let lower = short.to_ascii_lowercase();
        write!(
            formatter,
            "{capability} is missing, needed {purpose}: add {short} to securityContext.capabilities.add, or start with \
             `setpriv --inh-caps +{lower} --ambient-caps +{lower}`"
        )
    }
}

/// Why capabilities could not be read or dropped.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    /// At least one needed capability is missing.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Missing(Vec<Need>),
    /// Capabilities belong to threads; others would keep theirs.
    #[error("capabilities must be dropped before threads are started: {threads} are running")]
    ThreadsRunning {
        /// How many run.
        threads: usize,
    },
    /// The kernel refused.
    #[error("cannot {action}: {source}")]
    Kernel {
        /// What was tried.
        action: &'static str,
        /// Its answer.
        #[source]
        source: caps::errors::CapsError,
    },
    /// The kernel refused to forbid new privileges.
    #[error("cannot forbid new privileges (prctl PR_SET_NO_NEW_PRIVS): {0}")]
    NewPrivileges(#[source] std::io::Error),
}

/// What a configuration needs.
pub fn needs(config: &Config) -> Vec<Need> {
    let mut needs = Vec::new();
    let node = &config.node;
    let mut network = Vec::new();
    if node.interface.manage {
        network.push(format!("to manage interface {} (node.interface.manage)", node.interface.name));
    }
    if node.notrack {
        network.push("to keep DNS out of connection tracking (node.notrack)".to_owned());
    }
    if node.accept_rules {
        network.push("to add accept rules (node.accept_rules)".to_owned());
    }
    if !network.is_empty() {
        needs.push(Need { capability: NET_ADMIN, purpose: network.join(" and ") });
    }

    let first_free = unprivileged_port_start();
    let mut ports = vec![("listen.port", config.listen.port)];
    ports.extend(config.observe.metrics.map(|address| ("observe.metrics", address.port())));
    ports.extend(config.observe.health.map(|address| ("observe.health", address.port())));
    ports.retain(|&(_, port)| port != 0 && port < first_free);
    if !ports.is_empty() {
        let list: Vec<_> = ports.iter().map(|(key, port)| format!("port {port} ({key})")).collect();
        needs.push(Need { capability: NET_BIND_SERVICE, purpose: format!("to bind {}", list.join(" and ")) });
    }
    needs
}

/// What a configuration needs and this process does not have.
pub fn missing(config: &Config) -> Result<Vec<Need>, PrivilegeError> {
    let permitted = read(CapSet::Permitted)?;
    let mut missing = needs(config);
    missing.retain(|need| !permitted.iter().any(|capability| capability.to_string() == need.capability));
    Ok(missing)
}

/// Fails with [`PrivilegeError::Missing`], which names each, if a needed capability is missing.
pub fn require(config: &Config) -> Result<(), PrivilegeError> {
    let missing = missing(config)?;
    if missing.is_empty() { Ok(()) } else { Err(PrivilegeError::Missing(missing)) }
}

/// Drops every capability but the two of this module, from every set, and forbids gaining any by executing a file; those two
/// stay in force if the process has them.
///
/// Call it first thing: capabilities are a property of threads, so it fails with [`PrivilegeError::ThreadsRunning`] once
/// there are others. Nothing else that nodens does needs any other. Works without root: a process that has nothing to
/// drop is left as it is, and one that has the two from its file (`setcap cap_net_admin,cap_net_bind_service+p`) gets them
/// in force.
pub fn reduce() -> Result<(), PrivilegeError> {
    let threads = fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if threads > 1 {
        return Err(PrivilegeError::ThreadsRunning { threads });
    }
    reduce_thread()
}

/// As [`reduce`], for the calling thread and those it will start.
pub fn reduce_thread() -> Result<(), PrivilegeError> {
    let held = read(CapSet::Permitted)?;
    let keep: HashSet<Capability> = KEEP.into_iter().filter(|capability| held.contains(capability)).collect();

    // The bounding set limits what a program started from here could gain. nodens starts none, so where the right to
    // shrink the set is not there (CAP_SETPCAP), nothing is lost.
    if read(CapSet::Effective)?.contains(&Capability::CAP_SETPCAP) {
        for capability in read(CapSet::Bounding)?.difference(&keep) {
            caps::drop(None, CapSet::Bounding, *capability)
                .map_err(|source| PrivilegeError::Kernel { action: "shrink the bounding set", source })?;
        }
    }
    let clear =
        |set, action| caps::clear(None, set).map_err(|source| PrivilegeError::Kernel { action, source });
    let set =
        |set, action| caps::set(None, set, &keep).map_err(|source| PrivilegeError::Kernel { action, source });
    clear(CapSet::Ambient, "clear the ambient capabilities")?;
    clear(CapSet::Inheritable, "clear the inheritable capabilities")?;
    set(CapSet::Effective, "drop effective capabilities")?;
    set(CapSet::Permitted, "drop permitted capabilities")?;
    sys::caps::forbid_new_privileges().map_err(PrivilegeError::NewPrivileges)
}

fn read(set: CapSet) -> Result<HashSet<Capability>, PrivilegeError> {
    caps::read(None, set).map_err(|source| PrivilegeError::Kernel { action: "read capabilities", source })
}

/// The first port anybody may bind (Documentation/networking/ip-sysctl.rst).
fn unprivileged_port_start() -> u16 {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or_default();
    text.trim().parse().unwrap_or(1024)
}

const NET_ADMIN: &str = "CAP_NET_ADMIN";
const NET_BIND_SERVICE: &str = "CAP_NET_BIND_SERVICE";
const KEEP: [Capability; 2] = [Capability::CAP_NET_ADMIN, Capability::CAP_NET_BIND_SERVICE];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_configuration_needs_nothing() {
        assert_eq!(needs(&Config::default()), []);
    }

    #[test]
    fn a_node_needs_both_and_each_message_names_its_capability() {
        let mut config = Config::default();
        config.node.interface.manage = true;
        config.node.notrack = true;
        config.listen.port = 1;
        let needs = needs(&config);
        let names: Vec<_> = needs.iter().map(|need| need.capability).collect();
        assert_eq!(names, [NET_ADMIN, NET_BIND_SERVICE]);
        for need in needs {
            assert!(need.to_string().contains(need.capability));
        }
    }
}
