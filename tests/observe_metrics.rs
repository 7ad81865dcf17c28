//! What a scrape shows: its format, its table in the docs, and the series that dashboards and alerts read.

#[path = "support/observe.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::process::{Command, Stdio};

use nodens::observe::{DropReason, Kind, Metrics, Outcome, Proto, ShedReason, Source, ZoneId};
use support::{Sample, configured, dashboard_expressions, parse, required_tool, selectors, server, traffic};

fn scrape(metrics: &Metrics) -> String {
    String::from_utf8(metrics.scrape().expect("the families are consistent")).expect("the format is UTF-8")
}

/// The one sample with this name and these labels.
fn value(samples: &[Sample], name: &str, labels: &[(&str, &str)]) -> f64 {
    let found: Vec<&Sample> = samples
        .iter()
        .filter(|sample| sample.name == name)
        .filter(|sample| {
            labels.iter().all(|(label, value)| sample.labels.get(*label).is_some_and(|is| is == value))
        })
        .collect();
    assert_eq!(found.len(), 1, "{name} {labels:?}: {found:?}");
    found[0].value
}

#[test]
fn promtool_finds_nothing_wrong() {
    let Some(promtool) = required_tool("promtool") else { return };
    let metrics = configured();
    traffic(&metrics, 1);
    let mut child = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool starts");
    // Dropped at the end of the statement: promtool reads to the end.
    child.stdin.take().expect("piped").write_all(scrape(&metrics).as_bytes()).expect("promtool reads");
    let output = child.wait_with_output().expect("promtool ends");
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}

#[test]
fn no_series_comes_twice() {
    let metrics = configured();
    traffic(&metrics, 1);
    let mut seen = BTreeSet::new();
    for sample in parse(&scrape(&metrics)) {
        assert!(seen.insert((sample.name.clone(), sample.labels.clone())), "{sample:?}");
    }
}

#[test]
fn every_series_a_dashboard_reads_is_there_before_the_first_query() {
    let samples = parse(&scrape(&configured()));
    for expression in dashboard_expressions() {
        let selectors = selectors(expression);
        assert!(!selectors.is_empty(), "no selector in {expression}");
        for selector in selectors {
            assert!(samples.iter().any(|sample| selector.matches(sample)), "{selector:?} of {expression}");
        }
    }
}

#[test]
fn both_sets_of_names_tell_what_was_counted() {
    let metrics = configured();
    let (udp, tcp) = (metrics.tallies.tally(server(Proto::Udp)), metrics.tallies.shared(server(Proto::Tcp)));
    let zone = metrics.zones.intern("cluster.local");
    let near = Outcome::new(Source::Near, 0, Kind::Positive);
    let denial = Outcome::new(Source::Store, 3, Kind::NxDomain);
    for _ in 0..5 {
        udp.query(zone, 1, 50, true);
        udp.response(zone, near, 90, 10);
    }
    for _ in 0..3 {
        udp.query(zone, 28, 120, false);
        udp.response(zone, denial, 150, 20);
    }
    tcp.query(zone, 99, 60, false);
    tcp.response(zone, Outcome::new(Source::Upstream, 0, Kind::NoData), 600, 3_000);
    tcp.query(zone, 1, 60, false);
    tcp.response(zone, Outcome::new(Source::Failure, 1, Kind::Failure), 60, 100);
    udp.query(ZoneId::OTHER, 1, 50, false);
    udp.response(ZoneId::OTHER, Outcome::new(Source::Stale, 0, Kind::Positive), 90, 1_800_000);
    udp.dropped(DropReason::Malformed);
    udp.shed(ShedReason::InFlight);

    let samples = parse(&scrape(&metrics));
    let value = |name: &str, labels: &[(&str, &str)]| {
        let value = value(&samples, name, labels);
        assert!(value >= 0.0 && value.fract() == 0.0, "{name} is a count");
        format!("{value}").parse::<u64>().expect("a whole number")
    };
    let in_zone = ("zone", "cluster.local.");
    assert_eq!(value("nodens_queries_total", &[in_zone, ("type", "A"), ("proto", "udp")]), 5);
    assert_eq!(
        value("nodens_queries_total", &[in_zone, ("type", "other"), ("proto", "tcp"), ("family", "1")]),
        1
    );
    assert_eq!(value("nodens_responses_total", &[in_zone, ("rcode", "NXDOMAIN"), ("source", "store")]), 3);
    assert_eq!(value("nodens_responses_total", &[in_zone, ("rcode", "NOERROR"), ("source", "upstream")]), 1);
    assert_eq!(value("nodens_cache_hits_total", &[("layer", "near"), ("kind", "positive")]), 5);
    assert_eq!(value("nodens_cache_hits_total", &[("layer", "store"), ("kind", "nxdomain")]), 3);
    assert_eq!(value("nodens_cache_hits_total", &[("layer", "stale"), ("kind", "positive")]), 1);
    assert_eq!(value("nodens_cache_misses_total", &[]), 1, "a FORMERR never asks the cache");
    assert_eq!(value("nodens_stale_served_total", &[("zone", "other")]), 1);
    assert_eq!(value("nodens_drops_total", &[("reason", "malformed")]), 1);
    assert_eq!(value("nodens_shed_total", &[("reason", "in_flight")]), 1);
    assert_eq!(value("nodens_request_size_bytes_bucket", &[("proto", "udp"), ("le", "100")]), 6);
    assert_eq!(value("nodens_request_size_bytes_bucket", &[("proto", "udp"), ("le", "200")]), 9);
    assert_eq!(value("nodens_request_size_bytes_sum", &[("proto", "udp")]), 5 * 50 + 3 * 120 + 50);
    assert_eq!(value("nodens_response_duration_seconds_bucket", &[in_zone, ("le", "0.00025")]), 9);
    assert_eq!(value("nodens_response_duration_seconds_bucket", &[in_zone, ("le", "0.004")]), 10);
    assert_eq!(value("nodens_response_duration_seconds_count", &[in_zone]), 10);

    let listener = ("server", "dns://169.254.20.10:53");
    let coredns = [listener, in_zone, ("view", "")];
    let with = |more: &[(&'static str, &'static str)]| [&coredns, more].concat();
    assert_eq!(
        value("coredns_dns_requests_total", &with(&[("type", "A"), ("proto", "udp"), ("family", "1")])),
        5
    );
    assert_eq!(value("coredns_dns_responses_total", &with(&[("rcode", "NXDOMAIN"), ("plugin", "cache")])), 3);
    assert_eq!(
        value("coredns_dns_responses_total", &with(&[("rcode", "NOERROR"), ("plugin", "forward")])),
        1
    );
    assert_eq!(value("coredns_dns_do_requests_total", &coredns), 5);
    assert_eq!(value("coredns_dns_request_duration_seconds_count", &coredns), 10, "both transports together");
    assert_eq!(value("coredns_dns_response_size_bytes_sum", &with(&[("proto", "tcp")])), 660);
    let of_cache = [listener, ("zones", "cluster.local."), ("view", "")];
    assert_eq!(value("coredns_cache_hits_total", &[&of_cache[..], &[("type", "success")]].concat()), 5);
    assert_eq!(value("coredns_cache_hits_total", &[&of_cache[..], &[("type", "denial")]].concat()), 3);
    assert_eq!(value("coredns_cache_misses_total", &of_cache), 1);
    assert_eq!(value("coredns_cache_requests_total", &of_cache), 9);
    assert_eq!(value("coredns_forward_max_concurrent_rejects_total", &[]), 1);
    assert_eq!(
        value(
            "coredns_proxy_request_duration_seconds_count",
            &[("to", "10.96.0.10:53"), ("rcode", "NOERROR")]
        ),
        0
    );
}

#[test]
fn coredns_names_can_be_turned_off() {
    let metrics = configured();
    let mut config = support::config();
    config.observe.coredns_metrics = false;
    metrics.configure(&config);
    let text = scrape(&metrics);
    assert!(!text.contains("coredns_") && text.contains("nodens_queries_total"));
}

#[test]
fn without_conntrack_its_series_are_left_out() {
    let metrics = configured();
    metrics.providers.set_conntrack(|| None);
    assert!(!scrape(&metrics).contains("nodens_conntrack_"));
}

/// Name, type and labels of every row of the tables in the page, but those of upstream metrics, which other code
/// registers.
fn documented() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let page = include_str!("../docs/metrics.md");
    let mut rows = BTreeMap::new();
    let mut section = "";
    for line in page.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            section = title;
        }
        if !line.starts_with("| `") || section == "Upstreams" {
            continue;
        }
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, labels, meaning] = cells[..] else { panic!("four columns: {line}") };
        assert!(!meaning.is_empty(), "{line}");
        let labels = labels.split(", ").map(|label| label.trim_matches('`').to_owned());
        let labels = labels.filter(|label| !label.is_empty()).collect();
        let known = rows.insert(name.trim_matches('`').to_owned(), (kind.to_owned(), labels));
        assert!(known.is_none(), "twice: {line}");
    }
    rows
}

#[test]
fn the_page_lists_what_a_scrape_shows() {
    let metrics = configured();
    traffic(&metrics, 1);
    let text = scrape(&metrics);
    let mut shown: BTreeMap<String, (String, BTreeSet<String>)> = BTreeMap::new();
    for line in text.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            shown.insert(name.to_owned(), (kind.to_owned(), BTreeSet::new()));
        }
    }
    for sample in parse(&text) {
        let family = ["_bucket", "_sum", "_count"]
            .iter()
            .filter_map(|suffix| sample.name.strip_suffix(suffix))
            .find(|name| shown.get(*name).is_some_and(|(kind, _)| kind == "histogram"))
            .unwrap_or(&sample.name)
            .to_owned();
        let labels = sample.labels.into_keys().filter(|label| label != "le");
        shown.get_mut(&family).expect("a type line came before").1.extend(labels);
    }
    let documented = documented();
    for (name, what) in &shown {
        assert_eq!(documented.get(name), Some(what), "{name} in docs/metrics.md");
    }
    for name in documented.keys() {
        assert!(shown.contains_key(name), "{name} is documented and not there");
    }
}
