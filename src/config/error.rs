//! What can be wrong with a configuration, in words that say what to change.

use std::fmt;
use std::path::PathBuf;

use super::corefile::CorefileError;

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: cannot be read: {source}; expected a readable YAML file", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file is larger than any sensible configuration.
    #[error("{origin}: found more than {limit} bytes, expected a configuration below that")]
    TooLarge {
        /// The file.
        origin: String,
        /// The largest size, in bytes.
        limit: u64,
    },
    /// The file is not YAML in UTF-8.
    #[error("{origin}: is not valid YAML: {message}")]
    Syntax {
        /// The file or environment variable.
        origin: String,
        /// What is wrong and where, by line and column.
        message: String,
    },
    /// The Corefile to run with does not read.
    #[error(transparent)]
    Corefile(#[from] CorefileError),
    /// It is YAML, but not a valid configuration.
    #[error("{}", Lines(problems))]
    Invalid {
        /// Everything that was found, in the order of key paths.
        problems: Vec<Problem>,
    },
}

/// One thing wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The file, `environment NAME` or `embedded default`.
    pub origin: String,
    /// The key, such as `zones[1].forward.to[0]`.
    pub path: String,
    /// What stands there.
    pub found: String,
    /// What should stand there.
    pub expected: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { origin, path, found, expected } = self;
        write!(f, "{origin}: {path}: found {found}, expected {expected}")
    }
}

impl ConfigError {
    /// The single problems of an [`ConfigError::Invalid`], none for the others.
    pub fn problems(&self) -> &[Problem] {
        match self {
            Self::Invalid { problems } => problems,
            _ => &[],
        }
    }
}

struct Lines<'a>(&'a [Problem]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, problem) in self.0.iter().enumerate() {
            if number > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}
