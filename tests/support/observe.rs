//! What the tests of `observe` share: a configured process's metrics, and just enough of Prometheus's two languages.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use nodens::config::{Config, Forward, Zone};
use nodens::observe::{
    CacheFigures, CacheStats, ConntrackFigures, DropReason, Durations, EndpointFigures, Kind, Metrics,
    Outcome, Proto, Server, ShedReason, Source, UpstreamFigures,
};

/// The listener of the tests.
pub(crate) fn server(proto: Proto) -> Server {
    Server { address: "169.254.20.10:53".parse().expect("an address"), proto }
}

/// Two zones that are forwarded, as on a node.
pub(crate) fn config() -> Config {
    let zone = |name: &str| Zone {
        name: name.to_owned(),
        forward: Some(Forward::default()),
        file: None,
        answers: Vec::new(),
        dns64: None,
        cache: nodens::config::ZoneCache::default(),
    };
    Config { zones: vec![zone("cluster.local"), zone(".")], ..Config::default() }
}

struct Cache;

impl CacheStats for Cache {
    fn positive(&self) -> CacheFigures {
        CacheFigures { entries: 10, bytes: 2_000, budget: 32 << 20, evictions: 1 }
    }

    fn negative(&self) -> CacheFigures {
        CacheFigures { entries: 20, bytes: 3_000, budget: 8 << 20, evictions: 2 }
    }

    fn failure(&self) -> CacheFigures {
        CacheFigures::default()
    }

    fn near(&self) -> CacheFigures {
        CacheFigures { entries: 5, bytes: 1_000, budget: 12 << 20, evictions: 0 }
    }
}

/// Metrics as they are when everything has been bound and nobody has asked yet.
pub(crate) fn configured() -> Metrics {
    let metrics = Metrics::new().expect("unique names");
    metrics.configure(&config());
    metrics.health.loaded("0123abcd", std::time::SystemTime::now());
    metrics.providers.set_cache(Arc::new(Cache));
    metrics.providers.set_conntrack(|| {
        Some(ConntrackFigures {
            entries: 100,
            limit: Some(262_144),
            insert_failed: Some(0),
            drop: Some(0),
            early_drop: Some(0),
            dns_rows: Some(0),
        })
    });
    let endpoint = EndpointFigures::new("10.96.0.10:53");
    metrics
        .providers
        .set_upstream(move || UpstreamFigures { endpoints: vec![endpoint.clone()], all_unhealthy: 0 });
    // The cells outlive these handles, as they outlive a worker.
    metrics.tallies.tally(server(Proto::Udp));
    metrics.tallies.shared(server(Proto::Tcp));
    metrics
}

/// One of everything that can happen, and an upstream that has answered; `round` counts the calls from 1 on.
pub(crate) fn traffic(metrics: &Metrics, round: u64) {
    let zones = [metrics.zones.intern("cluster.local"), metrics.zones.intern(".")];
    let udp = metrics.tallies.tally(server(Proto::Udp));
    let tcp = metrics.tallies.shared(server(Proto::Tcp));
    for (step, outcome) in Outcome::all().enumerate() {
        let qtype = [1, 28, 33, 12, 65, 257][step % 6];
        udp.query(zones[step % 2], qtype, 40 + step, step % 3 == 0);
        udp.response(zones[step % 2], outcome, 60 + 5 * step, 1 << (step % 24));
        tcp.query(zones[step % 2], qtype, 40 + step, false);
        tcp.response(zones[step % 2], outcome, 60 + 50 * step, 1 << (step % 24));
    }
    for reason in DropReason::ALL {
        udp.dropped(*reason);
    }
    for reason in ShedReason::ALL {
        tcp.shed(*reason);
    }
    udp.response(zones[0], Outcome::new(Source::Near, 0, Kind::Positive), 100, 5);
    metrics.providers.set_upstream(move || {
        let mut endpoint = EndpointFigures::new("10.96.0.10:53");
        let durations =
            Durations { buckets: vec![(0.001, 3 * round), (0.002, 7 * round)], count: 8 * round, sum: 0.1 };
        endpoint.durations.insert("NOERROR".to_owned(), durations.clone());
        endpoint.durations.insert("SERVFAIL".to_owned(), durations);
        endpoint.connection_hits.insert("tcp", 7 * round);
        endpoint.connection_misses.insert("tcp", round);
        UpstreamFigures { endpoints: vec![endpoint], all_unhealthy: 1 }
    });
}

/// The path of a tool from Debian's prometheus package. Without it a test says so and passes, but not in CI.
pub(crate) fn required_tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file());
    if found.is_none() {
        assert!(
            std::env::var_os("CI").is_none_or(|ci| ci != "true"),
            "{name} is missing: install prometheus"
        );
        eprintln!("SKIPPED: {name} is not installed (Debian package: prometheus)");
    }
    found
}

/// One line of the exposition.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) value: f64,
}

/// The samples of an exposition. Label values with escapes do not occur in the tests.
pub(crate) fn parse(text: &str) -> Vec<Sample> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').expect("a value");
            let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
            let labels = labels.strip_suffix('}').expect("closed labels");
            let value = value.parse().unwrap_or_else(|_| panic!("a number: {line}"));
            Sample { name: name.to_owned(), labels: pairs(labels).map(|(l, _, v)| (l, v)).collect(), value }
        })
        .collect()
}

/// A metric selector of an expression.
#[derive(Debug)]
pub(crate) struct Selector {
    name: String,
    matchers: Vec<(String, String, String)>,
}

impl Selector {
    /// Whether the sample is one it selects. Of the regular expressions, alternatives of plain text and `.*` are
    /// understood: dashboards use no others.
    pub(crate) fn matches(&self, sample: &Sample) -> bool {
        // Prometheus adds these itself at a scrape.
        let of_target = ["job", "instance", "pod", "namespace", "cluster", "node"];
        sample.name == self.name
            && self.matchers.iter().filter(|(label, ..)| !of_target.contains(&&**label)).all(
                |(label, operator, wanted)| {
                    let is = sample.labels.get(label).map_or("", String::as_str);
                    let one_of =
                        wanted.split('|').any(|one| one == is || one == ".*" || one.starts_with('$'));
                    match operator.as_str() {
                        "=" => is == wanted || wanted.starts_with('$'),
                        "!=" => is != wanted,
                        "=~" => one_of,
                        "!~" => !one_of,
                        _ => panic!("an unknown operator: {operator}"),
                    }
                },
            )
    }
}

/// Every selector of our own metrics in an expression.
pub(crate) fn selectors(expression: &str) -> Vec<Selector> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    let mut rest = expression;
    while let Some(start) = rest.find(is_word) {
        let word = &rest[start..];
        let end = word.find(|c| !is_word(c)).unwrap_or(word.len());
        let name = &word[..end];
        rest = &word[end..];
        let ours = ["coredns_", "process_", "nodens_"].iter().any(|prefix| name.starts_with(prefix));
        let mut matchers = Vec::new();
        if let Some(inside) = rest.strip_prefix('{') {
            let (inside, after) = inside.split_once('}').expect("closed matchers");
            matchers = pairs(inside).collect();
            rest = after;
        }
        if ours {
            found.push(Selector { name: name.to_owned(), matchers });
        }
    }
    found
}

/// `label operator "value"`, separated by commas.
fn pairs(text: &str) -> impl Iterator<Item = (String, String, String)> {
    let mut rest = text;
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches([',', ' ']);
        if rest.is_empty() {
            return None;
        }
        let (head, tail) = rest.split_once('"').expect("a quoted value");
        let (value, tail) = tail.split_once('"').expect("a closed value");
        rest = tail;
        let label = head.trim_end_matches(['=', '!', '~', ' ']);
        let operator = head[label.len()..].trim();
        Some((label.to_owned(), operator.to_owned(), value.to_owned()))
    })
}

/// The expressions of public dashboards and alerts, see the file.
pub(crate) fn dashboard_expressions() -> impl Iterator<Item = &'static str> {
    let lines = include_str!("coredns_dashboards.promql").lines();
    lines.filter(|line| !line.is_empty() && !line.starts_with('#'))
}
