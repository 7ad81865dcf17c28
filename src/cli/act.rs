//! What the commands do that end by themselves, and where `run` gets its configuration.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;

use super::{Check, Cleanup, EXIT_FAILURE, EXIT_OK, EXIT_USAGE, Exit, ImportCorefile, Run};
use crate::authority::ZoneFile;
use crate::config::{self, ConfigError, Loaded};
use crate::node::{self, Severity};

/// The configuration `run` serves: a file's, the embedded default, or what NodeLocal DNSCache's flags and Corefile say.
pub fn load(run: &Run) -> Result<Loaded, ConfigError> {
    match &run.node_cache {
        None => config::load(run.config.as_deref()),
        Some(flags) => {
            let (loaded, findings) = config::corefile::load_node_cache(flags, &environment())?;
            for finding in findings.iter().filter(|finding| finding.kind.is_loss()) {
                // The log takes its level from this configuration, so it is not there yet.
                let _ = writeln!(std::io::stderr(), "nodens: {finding}");
            }
            Ok(loaded)
        }
    }
}

/// Loads the zone files of a configuration that `run` is to start with, so that a bad one is refused like a bad key.
///
/// Fails with a line for each file that cannot be served, and code 64. At a reload the resolver finds out, and goes on with
/// what it has.
pub fn check_zone_files(loaded: &Loaded) -> Result<(), Exit> {
    let mut message = String::new();
    for (index, zone) in loaded.config.zones.iter().enumerate() {
        let Some(path) = &zone.file else { continue };
        if let Err(error) = ZoneFile::load(&zone.name, path) {
            let variable = format!("NODENS__ZONES__{index}__FILE");
            let origin = match std::env::var_os(&variable) {
                Some(_) => format!("environment {variable}"),
                None => loaded.origin_name(),
            };
            // Writing to a string cannot fail.
            let _ = writeln!(message, "{origin}: zones[{index}].file: {error}");
        }
    }
    if message.is_empty() { Ok(()) } else { Err(Exit { code: EXIT_USAGE, message }) }
}

/// `nodens check`: prints the effective configuration; with `--node`, what this node lacks for it.
pub fn check(check: &Check) -> Result<Exit, Exit> {
    let mut message = super::check(check.config.as_deref())?;
    if !check.node {
        return Ok(Exit { code: EXIT_OK, message });
    }
    let findings = node::preflight(&config::load(check.config.as_deref())?.config);
    message.clear();
    for finding in &findings {
        let word = match finding.severity {
            Severity::Note => "note",
            Severity::Problem => "problem",
        };
        // Writing to a string cannot fail.
        let _ = writeln!(message, "{word}: {}", finding.message);
    }
    let bad = findings.iter().any(|finding| finding.severity == Severity::Problem);
    if !bad {
        message.push_str("this node has what the configuration needs\n");
    }
    Ok(Exit { code: if bad { EXIT_FAILURE } else { EXIT_OK }, message })
}

/// `nodens import-corefile`, in the process's environment.
pub fn import_corefile(arguments: &ImportCorefile) -> Result<Exit, Exit> {
    let imported = super::import::import_corefile(arguments, &environment())?;
    // Two streams: the YAML can be redirected into a file while the report is read.
    // Whoever reads them may be gone.
    let _ = std::io::stderr().write_all(imported.report.as_bytes());
    let _ = std::io::stdout().write_all(imported.yaml.as_bytes());
    Ok(Exit { code: imported.code, message: String::new() })
}

/// `nodens cleanup`: what was removed and what had to stay.
pub async fn cleanup(cleanup: &Cleanup) -> Result<Exit, Exit> {
    // Zone files and resolv.confs may be gone before the interface is.
    let config = config::load_without_files(cleanup.config.as_deref())?.config;
    let done = node::cleanup(&config, cleanup.force)
        .await
        .map_err(|error| Exit { code: EXIT_FAILURE, message: format!("nodens: {error}\n") })?;
    let mut message = String::new();
    for removed in &done.removed {
        let _ = writeln!(message, "removed {removed}");
    }
    for left in &done.left {
        let _ = writeln!(message, "left: {left}");
    }
    Ok(Exit { code: if done.left.is_empty() { EXIT_OK } else { EXIT_FAILURE }, message })
}

fn environment() -> BTreeMap<String, String> {
    // What is not UTF-8 is no value of ours.
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}
