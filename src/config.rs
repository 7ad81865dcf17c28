//! The configuration: typed, loaded from defaults ◂ file ◂ environment, and valid before anything is bound.
//!
//! [`load`] is the way in. It reports every problem it can find at once, each with its file or environment variable,
//! the key's path, the value found and what was expected. What it returns needs no further checks.
//!
//! This room opens files and reads the environment. It touches no socket.

pub mod corefile;
pub mod error;
pub mod name;
pub mod node_cache;
pub mod resolv_conf;
pub mod schema;
pub mod units;

mod decode;
mod layers;
mod validate;

use std::path::{Path, PathBuf};

pub use error::{ConfigError, Problem};
pub use node_cache::NodeCacheFlags;
pub use schema::*;
pub use units::{ByteSize, Fraction, HumanDuration, Switch};
use validate::Files;

/// A configuration that is complete and valid, and where it came from.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// The effective configuration.
    pub config: Config,
    /// A hash of the effective configuration, the same for the same settings whatever their order in the file and
    /// whichever release of nodens reads them. The contents of zone files and of a resolv.conf are not part of it.
    pub hash: u64,
    /// The file, or none for the embedded default.
    pub origin: Option<PathBuf>,
}

impl Loaded {
    /// Where it came from, for people.
    pub fn origin_name(&self) -> String {
        self.origin
            .as_ref()
            .map_or_else(|| "the embedded default".to_owned(), |file| file.display().to_string())
    }
}

/// Loads the configuration: the embedded default, over it `file`, over it the `NODENS__*` environment variables.
///
/// Fails with every problem found; nothing is applied in part.
pub fn load(file: Option<&Path>) -> Result<Loaded, ConfigError> {
    load_with(file, std::env::vars_os())
}

/// As [`load`], with the environment as an argument.
pub fn load_with(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (std::ffi::OsString, std::ffi::OsString)>,
) -> Result<Loaded, ConfigError> {
    read(file, environment, Files::Checked)
}

/// As [`load`], for who does not serve with it: the zone files and resolv.confs that it names may be gone.
pub fn load_without_files(file: Option<&Path>) -> Result<Loaded, ConfigError> {
    read(file, std::env::vars_os(), Files::Ignored)
}

/// Loads the configuration from a text of YAML over the embedded default; the environment is not looked at.
///
/// `origin` stands for the file in messages.
pub fn from_str(text: &str, origin: &str) -> Result<Loaded, ConfigError> {
    build(
        Some(layers::Yaml::parse(text, origin)?),
        layers::Environment::default(),
        Some(PathBuf::from(origin)),
        Files::Checked,
    )
}

/// Checks a configuration that was built in memory, as [`load`] checks one it has read.
///
/// `origin` stands for the file in messages.
pub fn check(config: &Config, origin: &str) -> Result<(), ConfigError> {
    let problems = validate::validate(config, Files::Checked);
    if problems.is_empty() {
        return Ok(());
    }
    let problems = problems.into_iter().map(|finding| finding.from(origin)).collect();
    Err(ConfigError::Invalid { problems })
}

impl Config {
    /// The configuration as YAML with every key that has a value; loading it gives the same configuration.
    pub fn to_yaml(&self) -> String {
        serde_norway::to_string(self).expect("plain data with string keys always serializes")
    }

    /// See [`Loaded::hash`].
    pub fn hash(&self) -> u64 {
        // FNV-1a: stable across releases and platforms, which std's hashers do not promise.
        self.to_yaml().bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
    }
}

fn read(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (std::ffi::OsString, std::ffi::OsString)>,
    files: Files,
) -> Result<Loaded, ConfigError> {
    let environment = layers::Environment::new(environment)?;
    let yaml = match file {
        Some(path) => Some(layers::Yaml::read(path)?),
        None => None,
    };
    build(yaml, environment, file.map(Path::to_owned), files)
}

fn build(
    yaml: Option<layers::Yaml>,
    environment: layers::Environment,
    origin: Option<PathBuf>,
    files: Files,
) -> Result<Loaded, ConfigError> {
    let config = decode::decode(&layers::merge(yaml, environment)?, files)?;
    Ok(Loaded { hash: config.hash(), config, origin })
}

#[cfg(test)]
mod tests;
