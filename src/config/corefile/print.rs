//! An import as a commented nodens.yaml: the findings first, then only what differs from the defaults.

use std::fmt::Write;
use std::path::Path;

use serde_norway::{Mapping, Value};

use super::super::schema::{Config, Forward, QueryLog};
use super::Import;
use super::findings::{Kind, listed};
use super::translate::STAND_IN_UPSTREAM;

/// Prints an import; what comes out loads as `import.config`.
pub(super) fn yaml(import: &Import, file: &Path) -> String {
    let mut text =
        format!("# Made from {} by nodens import-corefile.\n", one_line(&file.display().to_string()));
    text.push_str("# Keys that are not here have their defaults: docs/configure.md. Check it: nodens check --config FILE\n");
    text.push_str("# Stale answers and prefetching are on in nodens without being asked for; `serve_stale: false` and\n");
    text.push_str("# `prefetch: false` under cache turn them off.\n");
    for kind in [Kind::NoEquivalent, Kind::NotFilled, Kind::Different, Kind::BuiltIn] {
        let lines = listed(&import.findings, kind, file);
        if !lines.is_empty() {
            let _ = writeln!(text, "#\n# {}:", kind.heading());
        }
        for line in lines {
            let _ = writeln!(text, "#   {line}");
        }
    }
    let mut config = value(&import.config);
    let zones = take(&mut config, "zones");
    if let Some(queries) = config.get_mut("log").and_then(|log| log.get_mut("queries"))
        && *queries == value(&QueryLog::default())
    {
        *queries = Value::Bool(true);
    }
    let Value::Mapping(sections) = without(config, &value(&Config::default())) else { return text };
    for (key, section) in sections {
        section_comment(&mut text, key.as_str().unwrap_or_default());
        text.push_str(&block(&key, section));
    }
    section_comment(&mut text, "zones");
    text.push_str("zones:\n");
    let Value::Sequence(zones) = zones else { return text };
    for (zone, at) in zones.into_iter().zip(&import.zone_origins) {
        let place =
            if *at.file == *file.to_string_lossy() { "line ".to_owned() } else { format!("{}:", at.file) };
        let fill_in = if is_unfilled(&zone) { "; upstreams to be filled in" } else { "" };
        let _ = writeln!(text, "  # {}{}{fill_in}", one_line(&place), at.line);
        let item = plain(&Value::Sequence(vec![short_zone(zone)]));
        for line in item.lines() {
            let _ = writeln!(text, "  {line}");
        }
    }
    text
}

fn section_comment(text: &mut String, key: &str) {
    let comment = match key {
        "zones" => "Where names are looked up: the longest suffix wins.",
        "hosts" => "Fixed addresses, for all zones.",
        "hosts_ttl" => "TTL of the answers from hosts.",
        "rewrite" => "Names looked up under another name, for all zones.",
        "node" => "The interface that carries the addresses, and rules that keep DNS out of conntrack.",
        "listen" => "Where clients ask.",
        "observe" => "Metrics and probes.",
        _ => "",
    };
    text.push('\n');
    if !comment.is_empty() {
        let _ = writeln!(text, "# {comment}");
    }
}

fn is_unfilled(zone: &Value) -> bool {
    let to = zone.get("forward").and_then(|forward| forward.get("to")).and_then(Value::as_sequence);
    let stand_in = format!("{STAND_IN_UPSTREAM}:53");
    to.is_some_and(|to| to.iter().any(|to| to.as_str() == Some(stand_in.as_str())))
}

/// A zone without what is the default of its keys.
fn short_zone(mut zone: Value) -> Value {
    if let Some(forward) = zone.get_mut("forward") {
        let to = take(forward, "to");
        let mut short = Mapping::from_iter([(Value::from("to"), to)]);
        if let Value::Mapping(rest) = without(std::mem::take(forward), &value(&Forward::default())) {
            short.extend(rest);
        }
        *forward = Value::Mapping(short);
    }
    zone
}

/// What of `value` is not the same in `default`; whole values where they are no blocks.
fn without(value: Value, default: &Value) -> Value {
    let (Value::Mapping(mapping), Value::Mapping(default)) = (&value, default) else { return value };
    let differing = mapping.iter().filter(|(key, value)| default.get(*key) != Some(*value));
    differing
        .map(|(key, value)| match default.get(key) {
            Some(default) => (key.clone(), without(value.clone(), default)),
            None => (key.clone(), value.clone()),
        })
        .collect::<Mapping>()
        .into()
}

fn take(value: &mut Value, key: &str) -> Value {
    value.as_mapping_mut().and_then(|mapping| mapping.shift_remove(key)).unwrap_or_default()
}

fn block(key: &Value, section: Value) -> String {
    plain(&Mapping::from_iter([(key.clone(), section)]).into())
}

fn value(data: &impl serde::Serialize) -> Value {
    serde_norway::to_value(data).expect("plain data with string keys always serializes")
}

fn plain(value: &Value) -> String {
    serde_norway::to_string(value).expect("plain data with string keys always serializes")
}

/// Text for a comment: what could end the line is a blank.
fn one_line(text: &str) -> String {
    let ends = |c: char| {
        c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
    };
    text.chars().map(|c| if ends(c) { ' ' } else { c }).collect()
}
