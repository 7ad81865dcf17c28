//! The command line: what was asked for, and the exit code when it makes no sense.
//!
//! [`parse`] only reads its arguments; `main` acts on the [`Command`].

pub mod act;
mod import;
mod node_cache;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};

pub use import::{Imported, import_corefile};

use crate::config::{self, ConfigError, NodeCacheFlags};

/// Exit code of a clean end.
pub const EXIT_OK: u8 = 0;
/// Exit code of a runtime failure.
pub const EXIT_FAILURE: u8 = 1;
/// Exit code of `import-corefile --strict` when something has no equivalent.
pub const EXIT_NO_EQUIVALENT: u8 = 2;
/// Exit code of bad usage or configuration: EX_USAGE of sysexits(3).
pub const EXIT_USAGE: u8 = 64;

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Serve DNS until SIGTERM or SIGINT. Without --config: loopback port 5353, no privileges, no node changes
    Run(Run),
    /// Check a configuration and print the effective one; exit 64 if it is bad
    Check(Check),
    /// Turn a NodeLocal DNSCache or CoreDNS Corefile into a commented nodens.yaml on standard output
    ImportCorefile(ImportCorefile),
    /// Remove the interface and rules that a nodens left behind; does nothing where there are none
    Cleanup(Cleanup),
}

/// `nodens run`.
#[derive(Debug, Default, PartialEq, Eq, Args)]
pub struct Run {
    /// The configuration, in YAML
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// NodeLocal DNSCache's own flags (-localip, -conf, ...), if it was started with these.
    #[arg(skip)]
    pub node_cache: Option<NodeCacheFlags>,
}

/// `nodens check`.
#[derive(Debug, Default, PartialEq, Eq, Args)]
pub struct Check {
    /// The configuration, in YAML; without it the embedded default is checked
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Check this node too, and print what it lacks in place of the configuration: kernel, privileges, ports in use.
    /// Exit 1 if `run` would fail
    #[arg(long)]
    pub node: bool,
}

/// `nodens import-corefile`.
#[derive(Debug, PartialEq, Eq, Args)]
pub struct ImportCorefile {
    /// The Corefile; `-` is standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// A kube-dns ConfigMap (YAML), for its stubDomains and upstreamNameservers
    #[arg(long, value_name = "FILE")]
    pub kube_dns: Option<PathBuf>,
    /// What __PILLAR__LOCAL__DNS__ and __PILLAR__DNS__SERVER__ stand for: the addresses to listen on
    #[arg(long, value_name = "IP,...", value_delimiter = ',')]
    pub local_ip: Vec<std::net::IpAddr>,
    /// What __PILLAR__CLUSTER__DNS__ stands for: the address of the kube-dns-upstream service
    /// [default: $KUBE_DNS_UPSTREAM_SERVICE_HOST]
    #[arg(long, value_name = "IP")]
    pub cluster_dns: Option<std::net::IpAddr>,
    /// What __PILLAR__UPSTREAM__SERVERS__ stands for [default: /etc/resolv.conf]
    #[arg(long, value_name = "TO,...", value_delimiter = ',')]
    pub upstream_servers: Vec<String>,
    /// Exit 2 if anything in the Corefile has no equivalent
    #[arg(long)]
    pub strict: bool,
}

/// `nodens cleanup`.
#[derive(Debug, Default, PartialEq, Eq, Args)]
pub struct Cleanup {
    /// The configuration, for the interface's name
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Remove them even while a nodens is running with them
    #[arg(long)]
    pub force: bool,
}

/// An end before anything was done: help, the version, or an error.
#[derive(Debug, PartialEq, Eq)]
pub struct Exit {
    /// The exit code.
    pub code: u8,
    /// What to print, with its newline: to standard output if the code is [`EXIT_OK`], else to standard error.
    pub message: String,
}

/// Reads the arguments, the program's name first.
///
/// Fails with help or the version (code 0), or with what is wrong and code 64.
pub fn parse(arguments: impl IntoIterator<Item = impl Into<OsString>>) -> Result<Command, Exit> {
    let arguments: Vec<OsString> = arguments.into_iter().map(Into::into).collect();
    if let Some(flags) = node_cache::parse(arguments.get(1..).unwrap_or_default())? {
        return Ok(Command::Run(Run { config: None, node_cache: Some(flags) }));
    }
    let parsed = Arguments::try_parse_from(arguments);
    parsed.map(|arguments| arguments.command).map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            Exit { code: EXIT_OK, message: error.render().to_string() }
        }
        _ => Exit { code: EXIT_USAGE, message: error.render().to_string() },
    })
}

/// `nodens check`: the effective configuration to print, or what is wrong with it.
pub fn check(config: Option<&Path>) -> Result<String, Exit> {
    let loaded = config::load(config)?;
    act::check_zone_files(&loaded)?;
    let (origin, hash) = (loaded.origin_name(), loaded.hash);
    Ok(format!("# The effective configuration of {origin}, hash {hash:016x}\n{}", loaded.config.to_yaml()))
}

impl From<ConfigError> for Exit {
    fn from(error: ConfigError) -> Self {
        Self { code: EXIT_USAGE, message: format!("{error}\n") }
    }
}

/// A node-local caching DNS forwarder for Kubernetes
#[derive(Debug, Parser)]
#[command(name = "nodens", version, subcommand_required = true, after_help = AFTER_HELP)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Environment: NODENS__LISTEN__PORT=5353 overrides listen.port, and so on for every key.
`run` also takes NodeLocal DNSCache's flags (-localip, -conf, -upstreamsvc, ...) in place of --config.
Exit codes: 0 clean, 1 runtime failure, 2 import-corefile --strict found no equivalent, 64 bad usage or configuration.";

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn command(line: &str) -> Result<Command, Exit> {
        parse(line.split_whitespace())
    }

    #[test]
    fn commands_parse() {
        assert_eq!(command("nodens run"), Ok(Command::Run(Run::default())));
        let run = Run { config: Some("a.yaml".into()), node_cache: None };
        assert_eq!(command("nodens run --config a.yaml"), Ok(Command::Run(run)));
        let check = Check { config: Some("b".into()), node: true };
        assert_eq!(command("nodens check --config=b --node"), Ok(Command::Check(check)));
        let cleanup = Cleanup { config: None, force: true };
        assert_eq!(command("nodens cleanup --force"), Ok(Command::Cleanup(cleanup)));
        let Ok(Command::ImportCorefile(import)) = command(
            "nodens import-corefile Corefile --strict --local-ip 169.254.20.10,10.96.0.10 --cluster-dns 10.96.0.11 \
             --upstream-servers 1.1.1.1,/etc/resolv.conf --kube-dns cm.yaml",
        ) else {
            panic!("not an import")
        };
        assert!(import.strict && import.local_ip.len() == 2 && import.upstream_servers.len() == 2);
    }

    #[test]
    fn help_and_version_are_no_errors() {
        let version = command("nodens --version").unwrap_err();
        assert_eq!(version, Exit { code: 0, message: format!("nodens {}\n", env!("CARGO_PKG_VERSION")) });
        let help = command("nodens --help").unwrap_err();
        assert_eq!(help.code, 0);
        for word in ["run", "check", "import-corefile", "cleanup", "NODENS__", "Exit codes"] {
            assert!(help.message.contains(word), "{}", help.message);
        }
        assert!(command("nodens run --help").unwrap_err().message.contains("--config <FILE>"));
    }

    #[test]
    fn bad_usage_is_64() {
        for line in [
            "nodens",
            "nodens serve",
            "nodens run --konfig a",
            "nodens run --config",
            "nodens check a.yaml",
            "nodens import-corefile",
            "nodens import-corefile f --local-ip nowhere",
            "nodens run -localip nowhere",
            "nodens run -nonsense",
            "nodens run -localip 169.254.20.10 --config a",
        ] {
            let exit = command(line).expect_err(line);
            assert!(exit.code == EXIT_USAGE && exit.message.ends_with('\n'), "{line}: {exit:?}");
        }
    }

    #[test]
    fn check_prints_what_loads_again_or_says_what_is_wrong() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"zones: [{name: ., forward: {to: [192.0.2.1]}}]\n").unwrap();
        let printed = check(Some(file.path())).unwrap();
        let again = config::from_str(&printed, "printed").unwrap();
        assert!(printed.contains(&format!("hash {:016x}", again.hash)), "{printed}");

        file.write_all(b"listen: {port: 0}\n").unwrap();
        let exit = check(Some(file.path())).unwrap_err();
        let expected = format!("{}: listen.port: found 0, expected 1 to 65535\n", file.path().display());
        assert_eq!(exit, Exit { code: EXIT_USAGE, message: expected });
    }
}
