//! What can go wrong on the node's network, in words that say what to do.

use std::io;
use std::net::IpAddr;

/// Why something could not be done to the node's network.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The kernel answered EPERM.
    #[error(
        "cannot {action}: CAP_NET_ADMIN is missing; add NET_ADMIN to securityContext.capabilities.add, or start with \
         `setpriv --ambient-caps +net_admin --inh-caps +net_admin`"
    )]
    NotPermitted {
        /// What was tried, e.g. `create interface nodens`.
        action: String,
    },
    /// The kernel answered with another error.
    #[error("cannot {action}: {source}")]
    Kernel {
        /// What was tried.
        action: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// An interface of the configured name exists and does not carry the mark.
    #[error(
        "interface {name} exists and was not made by nodens (its alias is not `{mark}`): choose another \
         node.interface.name, or remove it with `ip link del {name}`",
        mark = super::interface::ALIAS
    )]
    ForeignInterface {
        /// Its name.
        name: String,
    },
    /// A v6 listen address on a node that has IPv6 switched off.
    #[error(
        "cannot add {address}: IPv6 is switched off on this node (net.ipv6.conf.all.disable_ipv6 = 1); remove the v6 \
         listen addresses or switch it on"
    )]
    Ipv6Disabled {
        /// The address.
        address: IpAddr,
    },
    /// An nftables table of our name belongs to a process that is none of our instances.
    #[error(
        "nftables table inet {table} belongs to another program that is still running (see `nft list table inet \
         {table}`): stop it, or have it use another name"
    )]
    ForeignTable {
        /// Its name.
        table: String,
    },
    /// Every slot is taken.
    #[error(
        "{limit} instances already live in this network namespace, more than a hand-over needs: find them with \
         `grep nodens/instance /proc/net/unix` and stop the old ones",
        limit = super::instances::MAX_INSTANCES
    )]
    TooManyInstances,
    /// Somebody else is changing the node's network and does not finish.
    #[error(
        "another instance has been changing this node's network for more than {seconds} s: find it with `grep \
         nodens/change /proc/net/unix` and stop it",
        seconds = super::instances::CHANGE_TIMEOUT.as_secs()
    )]
    Busy,
    /// `cleanup` without force while an instance lives.
    #[error(
        "{living} instance(s) of nodens still live on this node: stop them first, or clean up with --force"
    )]
    InstancesLive {
        /// How many.
        living: usize,
    },
}

impl NodeError {
    /// The kernel's error as this room's: EPERM names the missing capability.
    pub(crate) fn kernel(action: impl Into<String>, source: io::Error) -> Self {
        let action = action.into();
        match source.kind() {
            io::ErrorKind::PermissionDenied => Self::NotPermitted { action },
            _ => Self::Kernel { action, source },
        }
    }
}
