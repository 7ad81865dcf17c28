//! What NodeLocal DNSCache was told by its flags: the other half of its configuration, beside the Corefile.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// The flags of NodeLocal DNSCache (`node-cache`) that mean something to nodens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeCacheFlags {
    /// `-localip`: the addresses to listen on and to put on the interface.
    pub local_ips: Vec<IpAddr>,
    /// `-conf`: the Corefile. node-cache writes it from the one below, which wins if it exists.
    pub corefile: Option<PathBuf>,
    /// `-basecorefile`: the Corefile with placeholders, as the ConfigMap has it. Default /etc/coredns/Corefile.base.
    pub base_corefile: Option<PathBuf>,
    /// `-kubednscm`: the directory in which the kube-dns ConfigMap is mounted. Default /etc/kube-dns.
    pub kube_dns_dir: Option<PathBuf>,
    /// `-upstreamsvc`: the service whose address stands for `__PILLAR__CLUSTER__DNS__`. Default kube-dns.
    pub upstream_service: String,
    /// `-interfacename`. Default nodelocaldns.
    pub interface_name: String,
    /// `-setupinterface`. Default true.
    pub setup_interface: bool,
    /// `-setupiptables`. Default true.
    pub setup_iptables: bool,
    /// `-skipteardown`. Default false.
    pub skip_teardown: bool,
    /// `-metrics-listen-address`: where node-cache serves its own few metrics, beside CoreDNS's. nodens serves all at one
    /// address: this one if the Corefile has no `prometheus`.
    pub setup_metrics: Option<SocketAddr>,
    /// `-health-port`: the port that rules keep out of conntrack. Here that is the port of the Corefile's `health`.
    pub health_port: Option<u16>,
    /// `-dns.port`: the port of server blocks that name none. Default 53.
    pub port: Option<u16>,
    /// Flags that were given and change nothing here.
    pub without_effect: Vec<String>,
}

impl Default for NodeCacheFlags {
    fn default() -> Self {
        Self {
            local_ips: Vec::new(),
            corefile: None,
            base_corefile: None,
            kube_dns_dir: None,
            upstream_service: "kube-dns".to_owned(),
            interface_name: "nodelocaldns".to_owned(),
            setup_interface: true,
            setup_iptables: true,
            skip_teardown: false,
            setup_metrics: None,
            health_port: None,
            port: None,
            without_effect: Vec::new(),
        }
    }
}

impl NodeCacheFlags {
    /// The environment variable in which Kubernetes gives the upstream service's address, e.g.
    /// `KUBE_DNS_UPSTREAM_SERVICE_HOST`.
    pub fn upstream_variable(&self) -> String {
        format!("{}_SERVICE_HOST", self.upstream_service.to_ascii_uppercase().replace('-', "_"))
    }
}
