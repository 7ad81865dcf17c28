//! The layers of a configuration (the embedded default, a YAML file, the environment) as sources of the `config`
//! crate, which lays one over the other and remembers where each value came from.

use std::ffi::OsString;
use std::io::Read;
use std::path::Path;

use ::config::{Map, Source, Value, ValueKind};
use serde_norway::Value as Node;

use super::error::{ConfigError, Problem};

/// The embedded default.
pub(super) const DEFAULT: &str = include_str!("../../config/default.yaml");

/// Where a value of the embedded default says it came from.
pub(super) const DEFAULT_ORIGIN: &str = "embedded default";

/// Lays `environment` over `yaml` over the embedded default.
pub(super) fn merge(yaml: Option<Yaml>, environment: Environment) -> Result<Value, ConfigError> {
    let mut builder = ::config::Config::builder().add_source(Yaml::parse(DEFAULT, DEFAULT_ORIGIN)?);
    if let Some(yaml) = yaml {
        builder = builder.add_source(yaml);
    }
    for setting in environment.settings {
        builder = builder.add_source(setting);
    }
    let merged = builder.build().and_then(|merged| merged.collect());
    // The sources are parsed already, so the crate has nothing left to fail at; its message is passed on all the same.
    merged.map(Value::from).map_err(|error| ConfigError::Syntax {
        origin: "configuration".to_owned(),
        message: error.to_string(),
    })
}

/// A YAML document, checked for what YAML itself asks: UTF-8, no key twice, text as keys, bounded depth and size.
#[derive(Debug, Clone)]
pub(super) struct Yaml {
    root: Map<String, Value>,
}

impl Yaml {
    /// Reads a file of at most [`MAX_BYTES`].
    pub(super) fn read(path: &Path) -> Result<Self, ConfigError> {
        let failed = |source| ConfigError::Read { file: path.to_owned(), source };
        let mut bytes = Vec::new();
        let file = std::fs::File::open(path).map_err(failed)?;
        file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
        let origin = path.display().to_string();
        let text = match std::str::from_utf8(&bytes) {
            // A cut at the size limit may fall within a character: say that it is too large, not that it is not UTF-8.
            _ if bytes.len() as u64 > MAX_BYTES => {
                return Err(ConfigError::TooLarge { origin, limit: MAX_BYTES });
            }
            Ok(text) => text,
            Err(error) => {
                let line = bytes[..error.valid_up_to()].split(|byte| *byte == b'\n').count();
                return Err(ConfigError::Syntax {
                    origin,
                    message: format!("found bytes that are not UTF-8 at line {line}, expected text"),
                });
            }
        };
        Self::parse(text, &origin)
    }

    /// Parses a text of at most [`MAX_BYTES`]. `origin` stands for the file in messages.
    pub(super) fn parse(text: &str, origin: &str) -> Result<Self, ConfigError> {
        if text.len() as u64 > MAX_BYTES {
            return Err(ConfigError::TooLarge { origin: origin.to_owned(), limit: MAX_BYTES });
        }
        if let Some(line) = too_deep(text) {
            return Err(ConfigError::Syntax {
                origin: origin.to_owned(),
                message: format!(
                    "found brackets nested deeper than {MAX_DEPTH} at line {line}, expected fewer"
                ),
            });
        }
        let syntax = |error: serde_norway::Error| ConfigError::Syntax {
            origin: origin.to_owned(),
            message: error.to_string(),
        };
        let mut node: Node = serde_norway::from_str(text).map_err(syntax)?;
        node.apply_merge().map_err(syntax)?;
        match node_to_value(node, origin, "") {
            Ok(None) => Ok(Self { root: Map::new() }),
            Ok(Some(Value { kind: ValueKind::Table(root), .. })) => {
                // The crate reads a top-level key as a path: `listen.port: 53` would slip through as a key of `listen`.
                let problems: Vec<_> = root
                    .keys()
                    .filter(|key| key.contains(['.', '[']))
                    .map(|key| Problem {
                        origin: origin.to_owned(),
                        path: super::decode::join("", key),
                        found: "an unknown key".to_owned(),
                        expected: "a block such as `listen:` with the key inside it".to_owned(),
                    })
                    .collect();
                if problems.is_empty() { Ok(Self { root }) } else { Err(ConfigError::Invalid { problems }) }
            }
            Ok(Some(other)) => {
                let found = if let ValueKind::Array(_) = other.kind { "a list" } else { "a single value" };
                Err(ConfigError::Syntax {
                    origin: origin.to_owned(),
                    message: format!("found {found}, expected a block of keys such as `listen:`"),
                })
            }
            Err(problem) => Err(ConfigError::Invalid { problems: vec![problem] }),
        }
    }
}

impl Source for Yaml {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ::config::ConfigError> {
        Ok(self.root.clone())
    }
}

/// The `NODENS__*` variables: `NODENS__LISTEN__PORT` is `listen.port`, `NODENS__ZONES__0__NAME` is `zones[0].name`.
#[derive(Debug, Clone, Default)]
pub(super) struct Environment {
    /// Sorted by path: a whole block before the keys in it.
    settings: Vec<Setting>,
}

impl Environment {
    /// Picks the variables out of an environment. Fails when one is not UTF-8 or its path cannot be one.
    pub(super) fn new(
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, ConfigError> {
        let mut settings = Vec::new();
        let mut problems = Vec::new();
        for (name, value) in environment {
            let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) else { continue };
            match setting(name, value) {
                Ok(Some(setting)) => settings.push(setting),
                Ok(None) => {}
                Err(problem) => problems.push(problem),
            }
        }
        settings.sort_by(|a, b| a.path.cmp(&b.path));
        for pair in settings.windows(2) {
            if pair[0].path == pair[1].path {
                problems.push(Problem {
                    origin: pair[0].value.origin().unwrap_or_default().to_owned(),
                    path: pair[0].path.clone(),
                    found: format!("the same key in {}", pair[1].value.origin().unwrap_or_default()),
                    expected: "one variable for one key".to_owned(),
                });
            }
        }
        if problems.is_empty() { Ok(Self { settings }) } else { Err(ConfigError::Invalid { problems }) }
    }
}

/// One variable: a source of its own, so that a block comes before the keys in it whatever a map's order.
#[derive(Debug, Clone)]
struct Setting {
    path: String,
    value: Value,
}

impl Source for Setting {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ::config::ConfigError> {
        Ok(Map::from([(self.path.clone(), self.value.clone())]))
    }
}

/// Largest configuration file, in bytes: what a ConfigMap can hold.
const MAX_BYTES: u64 = 1 << 20;

/// Deepest nesting of brackets; the schema has six levels. The parser's time grows with the square of it.
const MAX_DEPTH: usize = 64;

const PREFIX: &str = "NODENS__";

/// Largest index of a list element set from the environment.
const MAX_INDEX: usize = 255;

/// Keys whose value in the environment is a list; commas part its elements.
const LISTS: [&str; 5] = ["listen.addresses", ".forward.to", ".forward.except", ".types", ".addresses"];

/// Keys whose value in the environment is text even where it reads as a number.
const TEXTS: [&str; 4] = [".name", ".suffix", ".file", ".to"];

/// Key paths at which null has a meaning of its own; anywhere else it stands for the default.
const NULLABLE: [&str; 2] = ["observe.metrics", "observe.health"];

/// The line on which more than [`MAX_DEPTH`] brackets are open, whether or not they are text in quotes. Lines of comment do
/// not count: an imported Corefile's own text stands in them.
fn too_deep(text: &str) -> Option<usize> {
    /// What ends a comment: YAML 1.1 has more line breaks than `\n`.
    const BREAKS: [char; 5] = ['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}'];
    let (mut depth, mut number) = (0_usize, 1);
    for line in text.split_inclusive(BREAKS) {
        if !line.trim_start_matches([' ', '\t']).starts_with('#') {
            for byte in line.bytes() {
                match byte {
                    b'[' | b'{' => depth += 1,
                    b']' | b'}' => depth = depth.saturating_sub(1),
                    _ => {}
                }
                if depth > MAX_DEPTH {
                    return Some(number);
                }
            }
        }
        number += usize::from(line.ends_with('\n'));
    }
    None
}

fn setting(name: &str, value: OsString) -> Result<Option<Setting>, Problem> {
    let origin = format!("environment {name}");
    let mut path = String::new();
    for segment in name[PREFIX.len()..].split("__") {
        let index = segment.parse::<usize>();
        match index {
            Ok(index) if index <= MAX_INDEX && !path.is_empty() => path = format!("{path}[{index}]"),
            _ if segment.is_empty() || index.is_ok() => {
                return Err(Problem {
                    origin,
                    path: path.clone(),
                    found: format!("`{segment}` in the variable's name"),
                    expected: format!("a key, or the number of a list element up to {MAX_INDEX}"),
                });
            }
            _ => {
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(&segment.to_ascii_lowercase());
            }
        }
    }
    let Ok(text) = value.into_string() else {
        return Err(Problem {
            origin,
            path,
            found: "bytes that are not UTF-8".to_owned(),
            expected: "text".to_owned(),
        });
    };
    let problem = |found: String, expected: &str| Problem {
        origin: origin.clone(),
        path: path.clone(),
        found,
        expected: expected.to_owned(),
    };
    let is =
        |keys: &[&str]| keys.iter().any(|key| path == *key || key.starts_with('.') && path.ends_with(key));
    let trimmed = text.trim();
    let node = if is(&LISTS) && !trimmed.starts_with('[') {
        let elements = trimmed.split(',').map(str::trim).filter(|element| !element.is_empty());
        Node::Sequence(elements.map(|element| Node::String(element.to_owned())).collect())
    } else if is(&TEXTS) && !is(&LISTS) {
        Node::String(text)
    } else if trimmed.starts_with(['[', '{', '"', '\'']) {
        serde_norway::from_str(trimmed)
            .map_err(|error| problem(format!("`{trimmed}`"), &format!("a value in YAML ({error})")))?
    } else {
        // A scalar as in a file: a number, true, false, null, or else text, such as `::1` and `10%`.
        match serde_norway::from_str(trimmed) {
            Ok(node @ (Node::Number(_) | Node::Bool(_) | Node::Null)) => node,
            _ => Node::String(text),
        }
    };
    Ok(node_to_value(node, &origin, &path)?.map(|value| Setting { path, value }))
}

fn node_to_value(node: Node, origin: &str, path: &str) -> Result<Option<Value>, Problem> {
    let problem = |path: &str, found: String, expected: &str| Problem {
        origin: origin.to_owned(),
        path: path.to_owned(),
        found,
        expected: expected.to_owned(),
    };
    let kind = match node {
        Node::Null if NULLABLE.contains(&path) || path.ends_with(']') => ValueKind::Nil,
        Node::Null => return Ok(None),
        Node::Bool(bool) => ValueKind::Boolean(bool),
        Node::String(text) => ValueKind::String(text),
        Node::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(number), _, _) => ValueKind::I64(number),
            (_, Some(number), _) => ValueKind::U64(number),
            (_, _, Some(number)) if number.is_finite() => ValueKind::Float(number),
            _ => return Err(problem(path, number.to_string(), "a finite number")),
        },
        Node::Sequence(nodes) => {
            let mut values = Vec::with_capacity(nodes.len());
            for (index, node) in nodes.into_iter().enumerate() {
                let path = format!("{path}[{index}]");
                values.push(node_to_value(node, origin, &path)?.expect("a null element of a list is kept"));
            }
            ValueKind::Array(values)
        }
        Node::Mapping(mapping) => {
            let mut table = Map::new();
            for (key, node) in mapping {
                let Node::String(key) = key else {
                    let key = serde_norway::to_string(&key).unwrap_or_default();
                    let found = format!("the key `{}`, which is not text", key.trim());
                    return Err(problem(path, found, "text as a key; put it in quotes"));
                };
                let path = super::decode::join(path, &key);
                if let Some(value) = node_to_value(node, origin, &path)? {
                    table.insert(key, value);
                }
            }
            ValueKind::Table(table)
        }
        Node::Tagged(tagged) => {
            return Err(problem(path, format!("the tag `{}`", tagged.tag), "a plain value"));
        }
    };
    Ok(Some(Value::new(Some(&origin.to_owned()), kind)))
}
