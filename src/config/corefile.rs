//! From a Corefile, as NodeLocal DNSCache and CoreDNS read it, to a configuration of nodens and a list of what it does
//! not carry over.
//!
//! A Corefile is never refused for what it asks: what has no equivalent becomes a [`Finding`] with its line, what it
//! did and what to do instead. Only what is no Corefile at all is an error, or what no nodens.yaml can say.

mod findings;
mod kube_dns;
mod lexer;
mod parser;
mod pattern;
mod print;
mod translate;
mod values;

use std::collections::BTreeMap;
use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

pub use findings::{Finding, Kind, listed};
pub use kube_dns::KubeDns;
pub use lexer::Position;

use super::error::ConfigError;
use super::layers::Yaml;
use super::node_cache::NodeCacheFlags;
use super::schema::{Config, UpstreamAddress};
use super::{Loaded, check};

/// What a Corefile alone does not say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inputs {
    /// The addresses to listen on: `__PILLAR__LOCAL__DNS__` the first, `__PILLAR__DNS__SERVER__` the others.
    pub local_ips: Vec<IpAddr>,
    /// `__PILLAR__CLUSTER__DNS__`: the service that forwards to CoreDNS.
    pub cluster_dns: Option<IpAddr>,
    /// `__PILLAR__UPSTREAM__SERVERS__`; if there are none, the kube-dns ConfigMap's, or else /etc/resolv.conf.
    pub upstream_servers: Vec<UpstreamAddress>,
    /// The kube-dns ConfigMap.
    pub kube_dns: KubeDns,
    /// `{$NAME}` in the Corefile.
    pub environment: BTreeMap<String, String>,
    /// The port of server blocks that name none.
    pub port: u16,
}

impl Default for Inputs {
    fn default() -> Self {
        Self {
            local_ips: Vec::new(),
            cluster_dns: None,
            upstream_servers: Vec::new(),
            kube_dns: KubeDns::default(),
            environment: BTreeMap::new(),
            port: 53,
        }
    }
}

/// What a Corefile became.
#[derive(Debug, Clone, PartialEq)]
pub struct Import {
    /// The configuration. It is complete, but not checked against this machine's files.
    pub config: Config,
    /// What differs, in the order of lines.
    pub findings: Vec<Finding>,
    /// Where each of `config.zones` comes from.
    pub zone_origins: Vec<Position>,
    /// Whether a `prometheus` line says where metrics are served.
    pub metrics_named: bool,
}

impl Import {
    /// The configuration as a commented nodens.yaml: the findings first, then what differs from the defaults.
    ///
    /// Fails when the loader would not read it: its bound on nesting counts brackets wherever they stand, also in names.
    pub fn to_yaml(&self, file: &Path) -> Result<String, CorefileError> {
        let yaml = print::yaml(self, file);
        match Yaml::parse(&yaml, "the nodens.yaml it becomes") {
            Ok(_) => Ok(yaml),
            Err(error) => {
                Err(CorefileError::Unwritable { file: file.to_owned(), message: error.to_string() })
            }
        }
    }

    /// Whether everything in the Corefile has an equivalent and every placeholder was filled.
    pub fn is_complete(&self) -> bool {
        !self.findings.iter().any(|finding| finding.kind.is_loss())
    }
}

/// A text that is no Corefile, or a file that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CorefileError {
    /// It cannot be read.
    #[error("{}: cannot be read: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It is not a Corefile.
    #[error("{file}:{line}: {message}")]
    Syntax {
        /// The file, which may be an imported one.
        file: String,
        /// Counted from 1.
        line: usize,
        /// What was found and what was expected.
        message: String,
    },
    /// It is a Corefile, and what it says cannot be written as a nodens.yaml.
    #[error("{}: {message}", file.display())]
    Unwritable {
        /// The file.
        file: PathBuf,
        /// Why the loader would refuse it.
        message: String,
    },
    /// The kube-dns ConfigMap does not read.
    #[error("{}: {message}", file.display())]
    KubeDns {
        /// The file.
        file: PathBuf,
        /// What was found and what was expected.
        message: String,
    },
}

/// Translates the text of a Corefile. Relative imports are looked up beside `file`.
pub fn import(text: &str, file: &Path, inputs: &Inputs) -> Result<Import, CorefileError> {
    let parsed = parser::parse(text, file, &inputs.environment)?;
    Ok(translate::translate(parsed, inputs))
}

/// Reads and translates a Corefile of at most 1 MiB, which errors call `file`. Relative imports are looked up beside that.
pub fn import_from(source: impl Read, file: &Path, inputs: &Inputs) -> Result<Import, CorefileError> {
    import(&parser::read_from(source, file)?, file, inputs)
}

/// Reads and translates a Corefile of at most 1 MiB.
pub fn import_file(file: &Path, inputs: &Inputs) -> Result<Import, CorefileError> {
    import(&parser::read(file)?, file, inputs)
}

/// Takes NodeLocal DNSCache's place: its flags, its Corefile and its environment give the configuration to run with.
///
/// [`Loaded::origin`] is the Corefile to watch. Fails if that does not read, if a placeholder cannot be filled, or if
/// what comes out is not valid on this machine; what has no equivalent is only listed.
pub fn load_node_cache(
    flags: &NodeCacheFlags,
    environment: &BTreeMap<String, String>,
) -> Result<(Loaded, Vec<Finding>), ConfigError> {
    let base = flags.base_corefile.clone().unwrap_or_else(|| BASE_COREFILE.into());
    let file = match &flags.corefile {
        // node-cache writes the one from the other; without node-cache only the base is there, or is the newer.
        Some(corefile) if !base.is_file() => corefile.clone(),
        _ => base,
    };
    let kube_dns = flags.kube_dns_dir.clone().unwrap_or_else(|| KUBE_DNS_DIRECTORY.into());
    let inputs = Inputs {
        local_ips: flags.local_ips.clone(),
        cluster_dns: environment.get(&flags.upstream_variable()).and_then(|address| address.parse().ok()),
        upstream_servers: Vec::new(),
        kube_dns: KubeDns::from_directory(&kube_dns)?,
        environment: environment.clone(),
        port: flags.port.unwrap_or(53),
    };
    let Import { mut config, mut findings, metrics_named, .. } = import_file(&file, &inputs)?;
    let origin = file.display().to_string();
    if let Some(unfilled) = findings.iter().find(|finding| finding.kind == Kind::NotFilled) {
        return Err(CorefileError::Syntax {
            file: unfilled.at.file.to_string(),
            line: unfilled.at.line,
            message: format!(
                "{} is not filled, expected -localip with all addresses, and ${} from -upstreamsvc",
                unfilled.directive,
                flags.upstream_variable()
            ),
        }
        .into());
    }
    flags.interface_name.clone_into(&mut config.node.interface.name);
    config.node.interface.manage &= flags.setup_interface;
    config.node.notrack &= flags.setup_iptables;
    config.node.keep = flags.skip_teardown;
    findings.extend(http_flags(flags, &mut config, metrics_named));
    check(&config, &origin)?;
    findings.extend(
        flags
            .without_effect
            .iter()
            .map(|flag| flag_finding(Kind::BuiltIn, flag, "a flag of node-cache", "nothing to do")),
    );
    Ok((Loaded { hash: config.hash(), config, origin: Some(file) }, findings))
}

/// `-metrics-listen-address` and `-health-port`, which in nodens are settings of the one HTTP listener each.
fn http_flags(flags: &NodeCacheFlags, config: &mut Config, metrics_named: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(address) = flags.setup_metrics {
        let taken = config.observe.health.is_some_and(|health| health.port() == address.port());
        if !metrics_named && !taken {
            config.observe.metrics = Some(address);
        } else if config.observe.metrics != Some(address) {
            let instead = match config.observe.metrics {
                Some(metrics) => {
                    format!("coredns_nodecache_setup_errors_total is with the others at {metrics}")
                }
                None => "no metrics are served; give the Corefile a prometheus line".to_owned(),
            };
            let flag = format!("-metrics-listen-address {address}");
            findings.push(flag_finding(
                Kind::Different,
                &flag,
                "serves node-cache's own metrics apart",
                &instead,
            ));
        }
    }
    if let Some(port) = flags.health_port {
        let health = config.observe.health;
        if health.is_none_or(|health| health.port() != port) {
            let instead = match health {
                Some(health) => format!("the rules are for {health}, where health is served"),
                None => "no health is served; give the Corefile a health line".to_owned(),
            };
            let flag = format!("-health-port {port}");
            findings.push(flag_finding(Kind::Different, &flag, "keeps this port out of conntrack", &instead));
        }
    }
    findings
}

fn flag_finding(kind: Kind, flag: &str, did: &str, instead: &str) -> Finding {
    Finding {
        at: Position { file: "command line".into(), line: 1 },
        kind,
        directive: flag.to_owned(),
        did: did.to_owned(),
        instead: instead.to_owned(),
    }
}

/// Where NodeLocal DNSCache's manifest mounts its ConfigMap.
const BASE_COREFILE: &str = "/etc/coredns/Corefile.base";

/// Where it mounts the kube-dns ConfigMap.
const KUBE_DNS_DIRECTORY: &str = "/etc/kube-dns";

#[cfg(test)]
mod tests;
