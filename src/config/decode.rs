//! From merged values to the typed configuration, with every problem on the way and not only the first.
//!
//! serde stops at the first wrong value. So a wrong value is noted, taken out, and the rest is read again.

use ::config::{Value, ValueKind};
use serde_json::Value as Json;
use serde_path_to_error::Segment;

use super::error::ConfigError;
use super::layers::DEFAULT_ORIGIN;
use super::schema::Config;
use super::validate::{Files, Finding, validate};

/// Reads and checks a configuration; fails with all that is wrong in it.
pub(super) fn decode(merged: &Value, files: Files) -> Result<Config, ConfigError> {
    let mut json = to_json(merged);
    let mut removed = Removed::default();
    let mut findings = Vec::new();
    let config = loop {
        let (path, message) = match serde_path_to_error::deserialize::<_, Config>(&json) {
            Ok(config) => break Some(config),
            Err(error) => (error.path().iter().cloned().collect::<Vec<_>>(), error.into_inner().to_string()),
        };
        let (finding, repaired) = take_out(&mut json, &path, &message, &mut removed);
        findings.push(finding);
        if !repaired || findings.len() >= MAX_PROBLEMS {
            break None;
        }
    };
    if let Some(config) = &config {
        // What was taken out leaves traces (an empty list, a missing zone) that are no problems of their own.
        let broken: Vec<String> = findings.iter().map(|finding| finding.path.clone()).collect();
        let more = validate(config, files).into_iter().map(|mut finding| {
            finding.path = removed.original_text(&finding.path);
            finding
        });
        findings.extend(more.filter(|finding| !broken.iter().any(|path| related(path, &finding.path))));
    }
    match config {
        Some(config) if findings.is_empty() => Ok(config),
        _ => {
            let mut problems: Vec<_> = findings
                .into_iter()
                .map(|finding| {
                    let origin = origin(merged, &finding.path);
                    finding.from(&origin)
                })
                .collect();
            problems.sort_by(|a, b| a.path.cmp(&b.path));
            problems.dedup();
            Err(ConfigError::Invalid { problems })
        }
    }
}

/// `path.key`, the key in quotes where it holds something else than letters, digits and `_`.
pub(super) fn join(path: &str, key: &str) -> String {
    let plain =
        !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    match (plain, path.is_empty()) {
        (true, true) => key.to_owned(),
        (true, false) => format!("{path}.{key}"),
        (false, true) => format!("{key:?}"),
        (false, false) => format!("{path}.{key:?}"),
    }
}

/// Most problems looked for in one pass: a file with more is no nodens configuration.
const MAX_PROBLEMS: usize = 50;

/// Stands for a name that is missing, until the rest is read.
const PLACEHOLDER: &str = "missing.invalid";

/// Notes what is wrong at `path` and takes it out of `json`, so that the rest can be read. False if it cannot.
fn take_out(json: &mut Json, path: &[Segment], message: &str, removed: &mut Removed) -> (Finding, bool) {
    let steps: Vec<Step> = path.iter().filter_map(Step::new).collect();
    let original = removed.original(&steps);
    if let Some(key) = message.strip_prefix("missing field `").and_then(|rest| rest.split('`').next()) {
        let finding = Finding::new(join(&text(&original), key), "nothing", "a value: this key is required");
        let repaired = match get_mut(json, &steps) {
            Some(Json::Object(table)) => table.insert(key.to_owned(), PLACEHOLDER.into()).is_none(),
            _ => false,
        };
        return (finding, repaired);
    }
    let Some((last, parents)) = steps.split_last() else {
        return (Finding::new(String::new(), "a document that is no configuration", message), false);
    };
    let path = text(&original);
    let taken = match (get_mut(json, parents), last) {
        (Some(Json::Object(table)), Step::Key(key)) => table.remove(key),
        (Some(Json::Array(list)), Step::Index(index)) if *index < list.len() => {
            removed.note(&original);
            Some(list.remove(*index))
        }
        _ => None,
    };
    let unknown = message.strip_prefix("unknown field `").and_then(|rest| rest.split_once('`'));
    let finding = if let Some((key, known)) = unknown {
        let known = known.trim_start_matches(", expected ").replace('`', "");
        let likely = nearest(key, &known).map(|near| format!(" (did you mean {near}?)")).unwrap_or_default();
        Finding::new(path, "an unknown key", &format!("{known}{likely}"))
    } else {
        let expected = expected(message, &path);
        Finding::new(path, &shown(taken.as_ref()), &expected)
    };
    (finding, taken.is_some())
}

/// The elements taken out of lists so far, by their original path.
#[derive(Default)]
struct Removed(Vec<Vec<Step>>);

impl Removed {
    fn note(&mut self, original: &[Step]) {
        self.0.push(original.to_vec());
        self.0.sort();
    }

    /// Where a path of what is left was in the file.
    fn original(&self, steps: &[Step]) -> Vec<Step> {
        let mut original: Vec<Step> = Vec::with_capacity(steps.len());
        for step in steps {
            let mut step = step.clone();
            if let Step::Index(index) = &mut step {
                for gone in &self.0 {
                    if let Some((Step::Index(gone), parents)) = gone.split_last()
                        && parents == original
                        && *gone <= *index
                    {
                        *index += 1;
                    }
                }
            }
            original.push(step);
        }
        original
    }

    fn original_text(&self, path: &str) -> String {
        if self.0.is_empty() { path.to_owned() } else { text(&self.original(&steps_of(path))) }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Key(String),
    Index(usize),
}

impl Step {
    fn new(segment: &Segment) -> Option<Self> {
        match segment {
            Segment::Seq { index } => Some(Self::Index(*index)),
            Segment::Map { key } => Some(Self::Key(key.clone())),
            Segment::Enum { .. } | Segment::Unknown => None,
        }
    }
}

fn text(steps: &[Step]) -> String {
    steps.iter().fold(String::new(), |path, step| match step {
        Step::Key(key) => join(&path, key),
        Step::Index(index) => format!("{path}[{index}]"),
    })
}

/// The reverse of [`text`].
fn steps_of(path: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        rest = rest.strip_prefix('.').unwrap_or(rest);
        if rest.starts_with('"')
            && let Some(Ok(key)) = serde_json::Deserializer::from_str(rest).into_iter::<String>().next()
        {
            rest = &rest
                [serde_json::to_string(&key).map_or(rest.len(), |quoted| quoted.len().min(rest.len()))..];
            steps.push(Step::Key(key));
        } else if let Some((index, after)) = rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            steps.extend(index.parse().map(Step::Index));
            rest = after;
        } else {
            let end = rest.find(['.', '[']).unwrap_or(rest.len()).max(1);
            let end = (end..=rest.len()).find(|end| rest.is_char_boundary(*end)).unwrap_or(rest.len());
            steps.push(Step::Key(rest[..end].to_owned()));
            rest = &rest[end..];
        }
    }
    steps
}

/// Whether one path is the other or lies within it.
fn related(a: &str, b: &str) -> bool {
    let (short, long) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    long.strip_prefix(short).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

fn get_mut<'a>(json: &'a mut Json, steps: &[Step]) -> Option<&'a mut Json> {
    steps.iter().try_fold(json, |json, step| match step {
        Step::Key(key) => json.get_mut(key),
        Step::Index(index) => json.get_mut(index),
    })
}

/// Where the value at `path`, or else the nearest block around it, came from.
fn origin(merged: &Value, path: &str) -> String {
    let mut value = merged;
    let mut origin = None;
    for step in steps_of(path) {
        let next = match (&value.kind, &step) {
            (ValueKind::Table(table), Step::Key(key)) => table.get(key),
            (ValueKind::Array(list), Step::Index(index)) => list.get(*index),
            _ => None,
        };
        let Some(next) = next else { break };
        let made = match (&value.kind, &step) {
            (ValueKind::Array(list), Step::Index(index)) if next.origin().is_none() => {
                list[*index..].iter().find_map(environment_origin)
            }
            _ => None,
        };
        value = next;
        origin = value.origin().or(made).or(origin);
    }
    match origin {
        // A key that stands nowhere, in a block of the file: the block may be merged into one of the default.
        None | Some(DEFAULT_ORIGIN) => file_origin(merged).unwrap_or(DEFAULT_ORIGIN),
        Some(origin) => origin,
    }
    .to_owned()
}

/// The variable that a value came from, or one within it: an element that no layer below has is the environment's, and so
/// are the holes before it.
fn environment_origin(value: &Value) -> Option<&str> {
    match &value.kind {
        ValueKind::Table(table) => table.values().find_map(environment_origin),
        ValueKind::Array(list) => list.iter().find_map(environment_origin),
        _ => value.origin().filter(|origin| origin.starts_with("environment ")),
    }
}

/// The file's name, from any value that came from it.
fn file_origin(value: &Value) -> Option<&str> {
    match &value.kind {
        ValueKind::Table(table) => table.values().find_map(file_origin),
        ValueKind::Array(list) => list.iter().find_map(file_origin),
        _ => value.origin().filter(|origin| *origin != DEFAULT_ORIGIN && !origin.starts_with("environment ")),
    }
}

fn to_json(value: &Value) -> Json {
    match &value.kind {
        ValueKind::Nil => Json::Null,
        ValueKind::Boolean(bool) => Json::Bool(*bool),
        ValueKind::I64(number) => Json::from(*number),
        ValueKind::U64(number) => Json::from(*number),
        // The layers make no wider numbers than 64 bits.
        ValueKind::I128(number) => Json::String(number.to_string()),
        ValueKind::U128(number) => Json::String(number.to_string()),
        ValueKind::Float(number) => Json::from(*number),
        ValueKind::String(text) => Json::String(text.clone()),
        ValueKind::Table(table) => table.iter().map(|(key, value)| (key.clone(), to_json(value))).collect(),
        ValueKind::Array(list) => list.iter().map(to_json).collect(),
    }
}

/// A wrong value as it is shown, cut to one line of bearable length.
fn shown(value: Option<&Json>) -> String {
    match value {
        None | Some(Json::Null) => "nothing".to_owned(),
        Some(Json::Object(_)) => "a block of keys".to_owned(),
        Some(Json::Array(_)) => "a list".to_owned(),
        Some(value) => super::validate::quoted(&value.to_string()),
    }
}

/// serde's "expected ..." in the words of someone who writes YAML.
fn expected(message: &str, path: &str) -> String {
    let wanted = message.rsplit_once(", expected ").map_or(message, |(_, wanted)| wanted);
    let plain = match wanted {
        "u16" if path == "listen.max_udp_payload" => "a whole number from 512 to 4096",
        "u16" => "a whole number from 1 to 65535",
        "u32" | "u64" | "usize" => "a whole number, 0 or more",
        "a boolean" => "true or false",
        "a string" | "string or map" | "path string" => "text",
        "a sequence" => "a list",
        "a map" => "a block of keys",
        "IP address" | "invalid IP address syntax" => "an IPv4 or IPv6 address",
        "IPv6 address" | "invalid IPv6 address syntax" => "an IPv6 address",
        "socket address" | "invalid socket address syntax" => "ip:port or [v6]:port",
        _ if wanted.starts_with("struct ") => "a block of keys",
        _ => return wanted.replace('`', ""),
    };
    plain.to_owned()
}

/// The known key that `key` is most likely a misspelling of.
fn nearest<'a>(key: &str, known: &'a str) -> Option<&'a str> {
    known
        .trim_start_matches("one of ")
        .split([',', ' '])
        .filter(|word| !word.is_empty() && *word != "or")
        .map(|word| (distance(key, word), word))
        .filter(|(distance, word)| *distance <= 2 && *distance < word.len())
        .min()
        .map(|(_, word)| word)
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a) in a.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
