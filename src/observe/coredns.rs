//! The names and labels of CoreDNS and node-cache, so that the dashboards and alerts of a cluster go on working.
//!
//! All of it is derived from what the native metrics count. Where the two designs differ, a sum over the series means
//! what it means with CoreDNS: the cache is one for all listeners here, so its size stands at the first listener alone
//! and not at each.

mod specs;

use std::collections::BTreeMap;

use prometheus::core::Collector;
use prometheus::proto::{Histogram, MetricFamily};

use super::counters::{Counters, SetupStep};
use super::family::{Family, Spec};
use super::figures::{CacheFigures, Providers};
use super::health::Health;
use super::labels::{Kind, Outcome, ShedReason, Source, type_name, type_slots};
use super::metrics::{HealthRequests, duration_bounds, size_bounds};
use super::native::{REVISION, VERSION};
use super::totals::{Totals, is_hit};
use specs::{
    BUILD_INFO, CACHE_DROPS, CACHE_ENTRIES, CACHE_EVICTIONS, CACHE_HITS, CACHE_MISSES, CACHE_PREFETCH,
    CACHE_REQUESTS, CACHE_STALE, DO_REQUESTS, DURATIONS, FORWARD_BROKEN, FORWARD_DURATIONS,
    FORWARD_HEALTHCHECK_FAILURES, FORWARD_REJECTS, FORWARD_REQUESTS, FORWARD_RESPONSES, HEALTH_DURATIONS,
    HEALTH_FAILURES, PANICS, PLUGIN_ENABLED, PROXY_CONN_HITS, PROXY_CONN_MISSES, PROXY_DURATIONS,
    PROXY_HEALTHCHECK_FAILURES, RELOAD_FAILED, RELOAD_VERSION, REQUEST_SIZES, REQUESTS, RESPONSE_SIZES,
    RESPONSES, SETUP_ERRORS,
};

/// What the families are derived from.
pub(super) struct Inputs<'a> {
    pub(super) totals: &'a Totals,
    pub(super) providers: &'a Providers,
    pub(super) counters: &'a Counters,
    pub(super) health: &'a Health,
    pub(super) health_requests: &'a HealthRequests,
    /// Which of CoreDNS's plugins do what this configuration does, by zone label.
    pub(super) plugins: &'a BTreeMap<String, Vec<&'static str>>,
}

/// Everything under CoreDNS's names.
pub(super) fn families(inputs: &Inputs<'_>) -> Vec<MetricFamily> {
    let mut families = server(inputs.totals);
    families.extend(cache(inputs));
    families.extend(upstream(inputs));
    families.extend(process(inputs));
    families.into_iter().map(Family::finish).collect()
}

/// The specs of [`families`].
pub(super) fn specs() -> impl Iterator<Item = &'static Spec> {
    specs::SPECS.iter().copied()
}

/// The one view there is.
const VIEW: &str = "";

/// The plugin that would have answered with CoreDNS.
fn plugin(source: Source) -> &'static str {
    match source {
        Source::Near | Source::Store | Source::Stale => "cache",
        Source::Upstream => "forward",
        Source::Local => "file",
        Source::Failure | Source::Shed => "",
    }
}

fn server(totals: &Totals) -> Vec<Family> {
    let mut requests = REQUESTS.family();
    let (mut request_sizes, mut response_sizes) = (REQUEST_SIZES.family(), RESPONSE_SIZES.family());
    for (server, zone) in totals.zones() {
        let label = server.to_string();
        let (name, proto) = (&*zone.zone, server.proto.label());
        for slot in type_slots() {
            let count = zone.queries[slot];
            if count > 0 || matches!(type_name(slot), "A" | "AAAA") {
                let labels = [&label, name, VIEW, proto, server.family(), type_name(slot)];
                requests.count(&labels, count);
            }
        }
        let labels = [&label, name, VIEW, proto];
        request_sizes.histogram(&labels, size_bounds(), &zone.request_sizes, zone.request_bytes as f64);
        response_sizes.histogram(&labels, size_bounds(), &zone.response_sizes, zone.response_bytes as f64);
    }
    let (mut responses, mut durations, mut dnssec_ok) =
        (RESPONSES.family(), DURATIONS.family(), DO_REQUESTS.family());
    for ((server, zone), counts) in totals.by(|server, zone| (server.to_string(), zone.zone.clone())) {
        let mut series: BTreeMap<(&str, &str), u64> = BTreeMap::new();
        for (outcome, count) in counts.answers() {
            let usual = matches!(outcome.rcode(), "NOERROR" | "NXDOMAIN" | "SERVFAIL")
                && matches!(outcome.source(), Source::Near | Source::Upstream);
            if count > 0 || usual {
                *series.entry((outcome.rcode(), plugin(outcome.source()))).or_default() += count;
            }
        }
        for ((rcode, plugin), count) in series {
            responses.count(&[&server, &zone, VIEW, rcode, plugin], count);
        }
        let seconds = counts.micros as f64 / 1e6;
        durations.histogram(&[&server, &zone, VIEW], duration_bounds(), &counts.durations, seconds);
        dnssec_ok.count(&[&server, &zone, VIEW], counts.dnssec_ok);
    }
    vec![requests, responses, durations, request_sizes, response_sizes, dnssec_ok]
}

/// CoreDNS's two caches.
const CACHE_TYPES: [&str; 2] = ["success", "denial"];

fn cache_type(outcome: Outcome) -> &'static str {
    if outcome.kind() == Kind::Positive { "success" } else { "denial" }
}

fn cache(inputs: &Inputs<'_>) -> Vec<Family> {
    let (mut requests, mut hits, mut misses) =
        (CACHE_REQUESTS.family(), CACHE_HITS.family(), CACHE_MISSES.family());
    let (mut stale, mut drops, mut prefetch) =
        (CACHE_STALE.family(), CACHE_DROPS.family(), CACHE_PREFETCH.family());
    let by_server = inputs.totals.by(|server, zone| (server.to_string(), zone.zone.clone()));
    for ((server, zone), counts) in &by_server {
        let labels = [server.as_str(), zone, VIEW];
        for wanted in CACHE_TYPES {
            let count = counts.sum(|outcome| is_hit(outcome) && cache_type(outcome) == wanted);
            hits.count(&[server, wanted, zone, VIEW], count);
        }
        misses.count(&labels, counts.misses());
        requests.count(&labels, counts.misses() + counts.sum(is_hit));
        stale.count(&labels, counts.sum(|outcome| outcome.source() == Source::Stale));
        // CoreDNS counts replies here that do not match their question; those never come as far as the cache.
        drops.count(&labels, 0);
    }
    let (mut entries, mut evictions) = (CACHE_ENTRIES.family(), CACHE_EVICTIONS.family());
    if let Some((server, _)) = by_server.keys().next() {
        let [(_, positive), (_, negative), (_, failure), _near] = inputs.providers.cache();
        let denial = CacheFigures {
            entries: negative.entries + failure.entries,
            evictions: negative.evictions + failure.evictions,
            ..negative
        };
        for (kind, figures) in CACHE_TYPES.into_iter().zip([positive, denial]) {
            entries.count(&[server, kind, ".", VIEW], figures.entries);
            evictions.count(&[server, kind, ".", VIEW], figures.evictions);
        }
        prefetch.count(&[server, ".", VIEW], inputs.counters.prefetches.get());
    }
    vec![requests, hits, misses, stale, drops, prefetch, entries, evictions]
}

fn upstream(inputs: &Inputs<'_>) -> Vec<Family> {
    let (mut durations, mut failures) = (PROXY_DURATIONS.family(), PROXY_HEALTHCHECK_FAILURES.family());
    let (mut conn_hits, mut conn_misses) = (PROXY_CONN_HITS.family(), PROXY_CONN_MISSES.family());
    let (mut requests, mut responses) = (FORWARD_REQUESTS.family(), FORWARD_RESPONSES.family());
    let (mut old_durations, mut old_failures) =
        (FORWARD_DURATIONS.family(), FORWARD_HEALTHCHECK_FAILURES.family());
    let figures = inputs.providers.upstream();
    for endpoint in &figures.endpoints {
        let to = &*endpoint.to;
        let mut all = 0;
        if !endpoint.durations.contains_key("NOERROR") {
            let (bounds, counts) = (duration_bounds(), vec![0; duration_bounds().len() + 1]);
            durations.histogram(&["forward", to, "NOERROR"], bounds, &counts, 0.0);
            old_durations.histogram(&[to, "NOERROR"], bounds, &counts, 0.0);
            responses.count(&[to, "NOERROR"], 0);
        }
        for (rcode, histogram) in &endpoint.durations {
            all += histogram.count;
            durations.histogram_made(&["forward", to, rcode], Histogram::from(histogram));
            old_durations.histogram_made(&[to, rcode], Histogram::from(histogram));
            responses.count(&[to, rcode], histogram.count);
        }
        requests.count(&[to], all);
        failures.count(&["forward", to], endpoint.healthcheck_failures);
        old_failures.count(&[to], endpoint.healthcheck_failures);
        for (family, counts) in
            [(&mut conn_hits, &endpoint.connection_hits), (&mut conn_misses, &endpoint.connection_misses)]
        {
            for proto in ["tcp", "udp"] {
                family.count(&["forward", to, proto], counts.get(proto).copied().unwrap_or(0));
            }
        }
    }
    let (mut broken, mut rejects) = (FORWARD_BROKEN.family(), FORWARD_REJECTS.family());
    broken.count(&[], figures.all_unhealthy);
    rejects.count(&[], inputs.totals.shed(ShedReason::InFlight));
    vec![
        durations,
        failures,
        conn_hits,
        conn_misses,
        requests,
        responses,
        old_durations,
        old_failures,
        broken,
        rejects,
    ]
}

fn process(inputs: &Inputs<'_>) -> Vec<Family> {
    let mut panics = PANICS.family();
    panics.count(&[], inputs.counters.panics.get());
    let mut enabled = PLUGIN_ENABLED.family();
    let servers = inputs.totals.by(|server, _| server.to_string());
    for server in servers.keys() {
        for (zone, plugins) in inputs.plugins {
            for plugin in plugins {
                enabled.count(&[server, zone, VIEW, plugin], 1);
            }
        }
    }
    let mut build = BUILD_INFO.family();
    build.count(&[VERSION, REVISION, "none"], 1);
    let reload = inputs.health.reload();
    let (mut failed, mut version) = (RELOAD_FAILED.family(), RELOAD_VERSION.family());
    failed.count(&[], reload.failures);
    version.count(&["config", &reload.hash], 1);
    let (mut health, mut health_failures) = (HEALTH_DURATIONS.family(), HEALTH_FAILURES.family());
    if let Some(histogram) = inputs.health_requests.durations.collect().first() {
        health.histogram_made(&[], histogram.get_metric()[0].get_histogram().clone());
    }
    health_failures.count(&[], inputs.health_requests.failures.get());
    let mut setup = SETUP_ERRORS.family();
    for (errortype, step) in SETUP_TYPES {
        let count = step.map_or(0, |step| inputs.counters.setup_errors(step).get());
        setup.count(&[errortype], count);
    }
    vec![panics, enabled, build, failed, version, health, health_failures, setup]
}

/// node-cache's names for what can go wrong; there is no lock to wait for here.
const SETUP_TYPES: [(&str, Option<SetupStep>); 5] = [
    ("iptables", Some(SetupStep::Rules)),
    ("iptables_lock", None),
    ("interface_add", Some(SetupStep::InterfaceAdd)),
    ("interface_check", Some(SetupStep::InterfaceCheck)),
    ("configmap", Some(SetupStep::Config)),
];
