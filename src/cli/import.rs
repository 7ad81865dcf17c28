//! `nodens import-corefile`.

use std::collections::BTreeMap;
use std::path::Path;

use super::{EXIT_NO_EQUIVALENT, EXIT_OK, EXIT_USAGE, Exit, ImportCorefile};
use crate::config::corefile::{self, CorefileError, Inputs, Kind, KubeDns};
use crate::config::{ConfigError, UpstreamAddress};

/// What `import-corefile` prints and ends with.
#[derive(Debug, PartialEq, Eq)]
pub struct Imported {
    /// The commented nodens.yaml, for standard output.
    pub yaml: String,
    /// What has no equivalent and what is to be filled in, for standard error; empty if there is nothing.
    pub report: String,
    /// [`EXIT_OK`], or [`EXIT_NO_EQUIVALENT`] where `--strict` found something.
    pub code: u8,
}

/// Runs `import-corefile` with the process's environment as an argument.
///
/// Fails with code 64 if the Corefile or the ConfigMap does not read, or what they say cannot be written as a nodens.yaml.
pub fn import_corefile(
    arguments: &ImportCorefile,
    environment: &BTreeMap<String, String>,
) -> Result<Imported, Exit> {
    let inputs = inputs(arguments, environment)?;
    let (file, import) = if arguments.file == Path::new("-") {
        let file = Path::new("standard input");
        (file, corefile::import_from(std::io::stdin(), file, &inputs)?)
    } else {
        (arguments.file.as_path(), corefile::import_file(&arguments.file, &inputs)?)
    };
    let mut report = String::new();
    for kind in [Kind::NoEquivalent, Kind::NotFilled] {
        let lines = corefile::listed(&import.findings, kind, file);
        if !lines.is_empty() {
            report = format!("{report}{}:\n  {}\n", kind.heading(), lines.join("\n  "));
        }
    }
    let code = if arguments.strict && !import.is_complete() { EXIT_NO_EQUIVALENT } else { EXIT_OK };
    match import.to_yaml(file) {
        Ok(yaml) => Ok(Imported { yaml, report, code }),
        Err(error) => {
            let Exit { code, message } = error.into();
            Err(Exit { code, message: report + &message })
        }
    }
}

impl From<CorefileError> for Exit {
    fn from(error: CorefileError) -> Self {
        Self { code: EXIT_USAGE, message: format!("{error}\n") }
    }
}

/// Where Kubernetes tells the address of the manifest's upstream service.
const CLUSTER_DNS_VARIABLE: &str = "KUBE_DNS_UPSTREAM_SERVICE_HOST";

fn inputs(arguments: &ImportCorefile, environment: &BTreeMap<String, String>) -> Result<Inputs, Exit> {
    let mut upstream_servers = Vec::new();
    for server in &arguments.upstream_servers {
        let server: UpstreamAddress = server.parse().map_err(|error| Exit {
            code: EXIT_USAGE,
            message: format!("error: --upstream-servers: found {server:?}, {error}\n"),
        })?;
        upstream_servers.push(server);
    }
    let from_environment = || environment.get(CLUSTER_DNS_VARIABLE)?.parse().ok();
    Ok(Inputs {
        local_ips: arguments.local_ip.clone(),
        cluster_dns: arguments.cluster_dns.or_else(from_environment),
        upstream_servers,
        kube_dns: match &arguments.kube_dns {
            Some(file) => KubeDns::from_file(file).map_err(ConfigError::from)?,
            None => KubeDns::default(),
        },
        environment: environment.clone(),
        ..Inputs::default()
    })
}
