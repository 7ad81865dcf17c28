//! The node's network: the interface that carries the listen addresses, the rules that keep DNS out of connection
//! tracking, their guards, and what connection tracking says of itself.
//!
//! This room speaks netlink (rtnetlink and nfnetlink) and reads `/proc`. It executes nothing and needs `CAP_NET_ADMIN`.
//!
//! [`Network`] is the way in:
//!
//! ```text
//! Network::start    join the instances on this node, make or adopt the interface     before sockets are bound
//! Network::attract  put the rules in force                                           sockets bound, an upstream answered
//! Network::update   another configuration: addresses, ports, rules                   at a reload
//! Network::release  take away what is ours alone; the last instance takes everything after the drain
//! cleanup           the same after any kind of death                                 `nodens cleanup`
//! ```
//!
//! # What stays while another instance lives
//!
//! | | owned by | goes |
//! |---|---|---|
//! | interface and addresses | all instances | with the last instance; a killed process leaves it for the next |
//! | nftables table | one instance, by slot | with that instance, however it ends |
//! | accept rules | one instance, by comment | with that instance; a killed process leaves them for the next |
//!
//! For a hand-over without a gap, release the old instance only after [`Network::attract`] of the new one has returned.

mod accept;
pub mod conntrack;
mod counters;
mod error;
mod guard;
pub mod instances;
pub mod interface;
mod nfnetlink;
mod nftables;
pub mod notrack;
pub(crate) mod ports;
pub mod preflight;
pub mod privileges;
mod ruleset;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rtnetlink::Handle;

pub use counters::Counters;
pub use error::NodeError;
pub use notrack::Ownership;
pub use preflight::{Finding, Severity, preflight};
pub use ruleset::Endpoint;

use crate::config::{Config, Node};
use guard::{InterfaceGuard, RulesGuard, run_blocking};
use instances::{ChangeLock, Instance};
use notrack::{Rules, Wanted};

/// What this instance does to the node's network, from start to release.
///
/// Dropping it without [`Network::release`] is like a sudden death: owned rules go, interface and accept rules stay.
#[derive(Debug)]
pub struct Network {
    node: Node,
    /// `None` when the configuration asks for no change to the node.
    instance: Option<Arc<Instance>>,
    interface: Option<InterfaceGuard>,
    rules: Option<RulesGuard>,
    counters: Arc<Counters>,
    attracting: bool,
}

impl Network {
    /// Joins the instances of this node and makes or adopts the interface, with every listen address on it, so that
    /// sockets can be bound. No traffic is attracted yet. Does nothing where `node` asks for nothing.
    ///
    /// Call it on a tokio runtime; the guards are tasks there.
    pub async fn start(config: &Config) -> Result<Self, NodeError> {
        Self::start_with(config, Ownership::Owned).await
    }

    /// As [`Network::start`], with a choice of how the rules are tied to the process. [`Ownership::Plain`] is what older
    /// kernels do.
    pub async fn start_with(config: &Config, ownership: Ownership) -> Result<Self, NodeError> {
        let counters = Arc::new(Counters::default());
        let mut network = Self {
            node: config.node.clone(),
            instance: None,
            interface: None,
            rules: None,
            counters: Arc::clone(&counters),
            attracting: false,
        };
        let node = &config.node;
        if !node.interface.manage && !node.notrack && !node.accept_rules {
            return Ok(network);
        }

        let _lock = ChangeLock::acquire().await?;
        let instance = Arc::new(Instance::join()?);
        let alone = instance.others()?.is_empty();
        network.instance = Some(Arc::clone(&instance));
        if node.interface.manage {
            let handle = route_handle()?;
            let addresses = &config.listen.addresses;
            let interface::Ensured { index, changes, refused } =
                interface::ensure(&handle, &node.interface, addresses, alone).await?;
            refused?;
            tracing::info!(
                interface = node.interface.name,
                adopted = changes.created.is_none(),
                kind = ?changes.created,
                added = ?changes.added,
                removed = ?changes.removed,
                "the interface is up"
            );
            network.interface = Some(InterfaceGuard::start(
                handle,
                node.interface.clone(),
                index,
                addresses.clone(),
                Arc::clone(&instance),
                Arc::clone(&counters),
            ));
        }
        if node.notrack || node.accept_rules {
            network.rules = Some(RulesGuard::start(Rules::open(instance.slot(), ownership)?, counters));
        }
        Ok(network)
    }

    /// Puts the rules in force: from here on clients' packets come here untracked and past any DNAT. Call it once the
    /// sockets are bound and an upstream has answered (or `node.upstream_wait` has passed).
    ///
    /// Also removes what dead instances left behind. Calling it again applies the rules again.
    pub async fn attract(&mut self, config: &Config) -> Result<(), NodeError> {
        let (Some(rules), Some(instance)) = (&self.rules, &self.instance) else { return Ok(()) };
        let _lock = ChangeLock::acquire().await?;
        // Should it fail, the guard repairs it, and a reload follows.
        self.attracting = true;
        rules.apply(wanted(config)).await?;
        let living = instances::living()?;
        let slot = instance.slot();
        let (removed, _) =
            run_blocking(move || notrack::sweep(|other| other != slot && !living.contains(&other))).await?;
        if !removed.is_empty() {
            tracing::info!(tables = ?removed, "removed the rules of instances that died");
        }
        tracing::info!(table = notrack::table_name(slot), "traffic is attracted");
        Ok(())
    }

    /// Follows another configuration: new addresses are added and old ones removed, the rules are exchanged in one
    /// transaction (if traffic is attracted already).
    ///
    /// Bind new sockets before (`IP_FREEBIND`) and close old ones after. `node.interface` and switching `node.notrack` or
    /// `node.accept_rules` on where both were off take effect at the next start; the log says so.
    pub async fn update(&mut self, config: &Config) -> Result<(), NodeError> {
        if config.node.interface != self.node.interface {
            tracing::warn!("node.interface has changed: it takes effect at the next start");
        }
        if self.rules.is_none() && (config.node.notrack || config.node.accept_rules) {
            tracing::warn!(
                "node.notrack or node.accept_rules has been switched on: it takes effect at the next start"
            );
        }
        let _lock = if self.instance.is_some() { Some(ChangeLock::acquire().await?) } else { None };
        self.node.keep = config.node.keep;
        let interface = match &self.interface {
            Some(interface) => interface.set_addresses(&config.listen.addresses).await,
            None => Ok(()),
        };
        // Whatever became of an address: clients of the others must not be tracked.
        if let Some(rules) = self.rules.as_ref().filter(|_| self.attracting) {
            rules.apply(wanted(config)).await?;
        }
        interface
    }

    /// Takes away what is this instance's alone, and interface and leftovers too if it is the last one and `node.keep` is
    /// off. Goes on after an error and returns the first.
    pub async fn release(self) -> Result<(), NodeError> {
        let Some(instance) = self.instance else { return Ok(()) };
        let _lock = ChangeLock::acquire().await?;
        let last = instance.others()?.is_empty();
        let keep = last && self.node.keep;
        let mut result = Ok(());
        if let Some(guard) = self.rules
            && let Some(rules) = guard.stop().await
        {
            result = run_blocking(move || if keep { rules.leave() } else { rules.remove() }).await;
        }
        if let Some(guard) = self.interface {
            guard.stop().await;
            if last && !keep {
                let removed = interface::remove(&route_handle()?, &self.node.interface).await;
                result = result.and(removed.map(drop));
            }
        }
        tracing::info!(last, kept = keep, "the node's network is released");
        result
    }

    /// Whether traffic is attracted.
    pub fn is_attracting(&self) -> bool {
        self.attracting
    }

    /// Whether another instance lives on this node: a successor, in a hand-over. False where nothing is done to the node.
    pub fn has_others(&self) -> bool {
        self.instance
            .as_ref()
            .is_some_and(|instance| instance.others().is_ok_and(|others| !others.is_empty()))
    }

    /// This instance's slot, from 1; `None` where nothing is done to the node.
    pub fn slot(&self) -> Option<u8> {
        self.instance.as_ref().map(|instance| instance.slot())
    }

    /// Whether another instance of this node serves already.
    pub fn has_predecessor(&self) -> bool {
        self.instance.as_ref().is_some_and(|instance| instance.has_predecessor())
    }

    /// Tells other instances that this one is ready for queries; see [`instances::any_is_starting`].
    pub fn started(&self) {
        if let Some(instance) = &self.instance {
            instance.started();
        }
    }

    /// What the guards have counted.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }
}

/// What [`cleanup`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cleanup {
    /// What was removed, e.g. `interface nodens`.
    pub removed: Vec<String>,
    /// What could not be, and why.
    pub left: Vec<String>,
}

/// Removes the interface, every table and every accept rule of ours, after any kind of death. Nothing there is fine.
///
/// While an instance lives it fails with [`NodeError::InstancesLive`] unless `force` is set. Even then an owned table of
/// a living process stays: the kernel lets nobody else remove it, and removes it itself when that process ends. The
/// result says so.
pub async fn cleanup(config: &Config, force: bool) -> Result<Cleanup, NodeError> {
    let _lock = ChangeLock::acquire().await?;
    let living = instances::living()?.len();
    if living > 0 && !force {
        return Err(NodeError::InstancesLive { living });
    }
    let mut report = Cleanup::default();
    let (removed, owned) = run_blocking(|| notrack::sweep(|_| true)).await?;
    report.removed.extend(removed.into_iter().map(|name| format!("nftables table inet {name}")));
    report.left.extend(owned.into_iter().map(|owned| {
        format!(
            "nftables table inet {}: it belongs to an instance that still lives, and the kernel removes it when that ends",
            owned.table
        )
    }));
    let name = &config.node.interface.name;
    match interface::remove(&route_handle()?, &config.node.interface).await {
        Ok(true) => report.removed.push(format!("interface {name}")),
        Ok(false) => {}
        Err(error @ NodeError::ForeignInterface { .. }) => report.left.push(error.to_string()),
        Err(error) => return Err(error),
    }
    Ok(report)
}

/// The rules a configuration asks for: DNS on every listen address, and the health port where it is on one of them.
fn wanted(config: &Config) -> Wanted {
    let mut endpoints: Vec<Endpoint> = config
        .listen
        .addresses
        .iter()
        .map(|&address| Endpoint::dns(SocketAddr::new(address, config.listen.port)))
        .collect();
    let on_listen_address = |address: IpAddr| config.listen.addresses.contains(&address);
    endpoints
        .extend(config.observe.health.filter(|health| on_listen_address(health.ip())).map(Endpoint::http));
    Wanted {
        notrack: if config.node.notrack { endpoints.clone() } else { Vec::new() },
        accept: if config.node.accept_rules { endpoints } else { Vec::new() },
    }
}

/// A handle for route requests; its task ends with the last copy.
fn route_handle() -> Result<Handle, NodeError> {
    let (connection, handle, _) =
        rtnetlink::new_connection().map_err(|error| NodeError::kernel("open a route socket", error))?;
    tokio::spawn(connection);
    Ok(handle)
}
