//! The `nodens_*` families that are made at a scrape. The table of all of them is `docs/metrics.md`.

use std::collections::BTreeMap;
use std::time::UNIX_EPOCH;

use prometheus::proto::MetricFamily;

use super::family::Spec;
use super::figures::Providers;
use super::health::Health;
use super::labels::{DropReason, Kind, ShedReason, Source, type_name, type_slots};
use super::metrics::{duration_bounds, size_bounds};
use super::totals::{Totals, is_hit};

/// Everything native, from one reading of the tallies.
pub(super) fn families(totals: &Totals, providers: &Providers, health: &Health) -> Vec<MetricFamily> {
    let mut families = queries(totals);
    families.extend(cache(totals, providers));
    families.extend(refused(totals));
    families.extend(config(health));
    families.extend(conntrack(providers));
    families.extend(repairs(providers));
    families
}

/// The specs of [`families`].
pub(super) fn specs() -> impl Iterator<Item = &'static Spec> {
    SPECS.iter().copied()
}

fn queries(totals: &Totals) -> Vec<MetricFamily> {
    let (mut queries, mut responses) = (QUERIES.family(), RESPONSES.family());
    let by_listener = totals.by(|server, zone| (server.proto, server.family(), zone.zone.clone()));
    for ((proto, family, zone), counts) in &by_listener {
        for slot in type_slots() {
            // The types every client asks exist from the start, the others once they were asked.
            if counts.queries[slot] > 0 || matches!(type_name(slot), "A" | "AAAA") {
                queries.count(&[proto.label(), family, type_name(slot), zone], counts.queries[slot]);
            }
        }
    }
    let (mut durations, mut stale) = (DURATIONS.family(), STALE.family());
    for (zone, counts) in totals.by(|_, zone| zone.zone.clone()) {
        // NODATA is NOERROR here: the two outcomes share a series.
        let mut series: BTreeMap<(&str, &str), u64> = BTreeMap::new();
        for (outcome, count) in counts.answers() {
            let usual = matches!(outcome.rcode(), "NOERROR" | "NXDOMAIN" | "SERVFAIL");
            if count > 0 || usual {
                *series.entry((outcome.rcode(), outcome.source().label())).or_default() += count;
            }
        }
        for ((rcode, source), count) in series {
            responses.count(&[&zone, rcode, source], count);
        }
        stale.count(&[&zone], counts.sum(|outcome| outcome.source() == Source::Stale));
        durations.histogram(&[&zone], duration_bounds(), &counts.durations, counts.micros as f64 / 1e6);
    }
    let (mut requests, mut sizes) = (REQUEST_SIZES.family(), RESPONSE_SIZES.family());
    for (proto, counts) in totals.by(|server, _| server.proto) {
        let proto = [proto.label()];
        requests.histogram(&proto, size_bounds(), &counts.request_sizes, counts.request_bytes as f64);
        sizes.histogram(&proto, size_bounds(), &counts.response_sizes, counts.response_bytes as f64);
    }
    [queries, responses, durations, stale, requests, sizes].map(super::family::Family::finish).into()
}

fn cache(totals: &Totals, providers: &Providers) -> Vec<MetricFamily> {
    let mut hits = HITS.family();
    for source in [Source::Near, Source::Store, Source::Stale] {
        for kind in Kind::ALL {
            let count = totals.zones().map(|(_, zone)| {
                zone.sum(|outcome| is_hit(outcome) && outcome.source() == source && outcome.kind() == *kind)
            });
            hits.count(&[source.label(), kind.label()], count.sum());
        }
    }
    let mut misses = MISSES.family();
    misses.count(&[], totals.zones().map(|(_, zone)| zone.misses()).sum());
    let (mut entries, mut bytes) = (ENTRIES.family(), BYTES.family());
    let (mut budgets, mut evictions) = (BUDGETS.family(), EVICTIONS.family());
    for (kind, figures) in providers.cache() {
        entries.count(&[kind], figures.entries);
        bytes.count(&[kind], figures.bytes);
        budgets.count(&[kind], figures.budget);
        evictions.count(&[kind], figures.evictions);
    }
    [hits, misses, entries, bytes, budgets, evictions].map(super::family::Family::finish).into()
}

fn refused(totals: &Totals) -> Vec<MetricFamily> {
    let (mut drops, mut shed) = (DROPS.family(), SHED.family());
    for reason in DropReason::ALL {
        drops.count(
            &[reason.label()],
            totals.servers.iter().map(|server| server.drops[*reason as usize]).sum(),
        );
    }
    for reason in ShedReason::ALL {
        shed.count(&[reason.label()], totals.shed(*reason));
    }
    vec![drops.finish(), shed.finish()]
}

fn config(health: &Health) -> Vec<MetricFamily> {
    let reload = health.reload();
    let (mut successful, mut failures, mut loaded, mut info) =
        (RELOAD_OK.family(), RELOAD_FAILURES.family(), RELOADED.family(), CONFIG_INFO.family());
    successful.value(&[], f64::from(u8::from(reload.error.is_none())));
    failures.count(&[], reload.failures);
    let at = reload.loaded.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    loaded.value(&[], at.map_or(0.0, |at| at.as_secs_f64()));
    info.value(&[&reload.hash], 1.0);
    let mut ready = READY.family();
    ready.value(&[], f64::from(u8::from(health.ready().0)));
    let mut build = BUILD_INFO.family();
    build.value(&[VERSION, REVISION, std::env::consts::ARCH], 1.0);
    [successful, failures, loaded, info, ready, build].map(super::family::Family::finish).into()
}

fn conntrack(providers: &Providers) -> Vec<MetricFamily> {
    let Some(figures) = providers.conntrack() else {
        return Vec::new();
    };
    let values = [
        (&CONNTRACK_ENTRIES, Some(figures.entries)),
        (&CONNTRACK_LIMIT, figures.limit),
        (&CONNTRACK_INSERT_FAILED, figures.insert_failed),
        (&CONNTRACK_DROP, figures.drop),
        (&CONNTRACK_EARLY_DROP, figures.early_drop),
        (&CONNTRACK_DNS_ROWS, figures.dns_rows),
    ];
    let known = values.into_iter().filter_map(|(spec, value)| Some((spec, value?)));
    known
        .map(|(spec, value)| {
            let mut family = spec.family();
            family.count(&[], value);
            family.finish()
        })
        .collect()
}

fn repairs(providers: &Providers) -> Vec<MetricFamily> {
    let figures = providers.repairs();
    let (mut repairs, mut failures) = (REPAIRS.family(), REPAIR_FAILURES.family());
    repairs.count(&["interface"], figures.interface);
    repairs.count(&["rules"], figures.rules);
    failures.count(&[], figures.failures);
    vec![repairs.finish(), failures.finish()]
}

/// The version of this build.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit it was built from, where the build said so (`NODENS_REVISION` in its environment).
pub(super) const REVISION: &str = match option_env!("NODENS_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};

static QUERIES: Spec = Spec::counter(
    "nodens_queries_total",
    &["proto", "family", "type", "zone"],
    "Messages that get an answer; what cannot be read as a question has type and zone `other`.",
);
static RESPONSES: Spec = Spec::counter(
    "nodens_responses_total",
    &["zone", "rcode", "source"],
    "Answers sent, by where they came from.",
);
static DURATIONS: Spec = Spec::histogram(
    "nodens_response_duration_seconds",
    &["zone"],
    "Time from receiving a query to sending its answer; hits share the time of their batch.",
);
static STALE: Spec =
    Spec::counter("nodens_stale_served_total", &["zone"], "Answers sent past their TTL (RFC 8767).");
static REQUEST_SIZES: Spec =
    Spec::histogram("nodens_request_size_bytes", &["proto"], "Size of queries, without TCP's length field.");
static RESPONSE_SIZES: Spec =
    Spec::histogram("nodens_response_size_bytes", &["proto"], "Size of answers, without TCP's length field.");
static HITS: Spec = Spec::counter(
    "nodens_cache_hits_total",
    &["layer", "kind"],
    "Answers from the cache: near and store are fresh, stale is past its TTL.",
);
static MISSES: Spec =
    Spec::counter("nodens_cache_misses_total", &[], "Queries the cache was asked for and could not answer.");
static ENTRIES: Spec = Spec::gauge("nodens_cache_entries", &["kind"], "Entries held.");
static BYTES: Spec = Spec::gauge(
    "nodens_cache_bytes",
    &["kind"],
    "Bytes the entries weigh; near counts those its slots name, which the store counts too.",
);
static BUDGETS: Spec = Spec::gauge("nodens_cache_budget_bytes", &["kind"], "Bytes the entries may weigh.");
static EVICTIONS: Spec =
    Spec::counter("nodens_cache_evictions_total", &["kind"], "Entries pushed out to make room.");
static DROPS: Spec = Spec::counter("nodens_drops_total", &["reason"], "Messages that got no answer.");
static SHED: Spec = Spec::counter(
    "nodens_shed_total",
    &["reason"],
    "Queries and connections turned away because of a limit.",
);
static RELOAD_OK: Spec = Spec::gauge(
    "nodens_config_last_reload_successful",
    &[],
    "1 if the last configuration read is the one being served, 0 if it was refused.",
);
static RELOAD_FAILURES: Spec =
    Spec::counter("nodens_config_reload_failures_total", &[], "Configurations that were refused.");
static RELOADED: Spec = Spec::gauge(
    "nodens_config_last_reload_success_timestamp_seconds",
    &[],
    "When the configuration being served was read.",
);
static CONFIG_INFO: Spec =
    Spec::gauge("nodens_config_info", &["hash"], "Always 1; the hash of the configuration being served.");
static READY: Spec = Spec::gauge("nodens_ready", &[], "1 while /ready answers 200.");
static BUILD_INFO: Spec =
    Spec::gauge("nodens_build_info", &["version", "revision", "arch"], "Always 1; what is running.");
static CONNTRACK_ENTRIES: Spec =
    Spec::gauge("nodens_conntrack_entries", &[], "Rows in the node's conntrack table.");
static CONNTRACK_LIMIT: Spec =
    Spec::gauge("nodens_conntrack_limit", &[], "Rows there may be (nf_conntrack_max).");
static CONNTRACK_INSERT_FAILED: Spec =
    Spec::counter("nodens_conntrack_insert_failed_total", &[], "Rows the kernel could not insert.");
static CONNTRACK_DROP: Spec =
    Spec::counter("nodens_conntrack_drop_total", &[], "Packets dropped because no row could be made.");
static CONNTRACK_EARLY_DROP: Spec =
    Spec::counter("nodens_conntrack_early_drop_total", &[], "Rows the kernel removed early to make room.");
static CONNTRACK_DNS_ROWS: Spec = Spec::gauge(
    "nodens_conntrack_dns_rows",
    &[],
    "Rows of UDP flows to port 53 on the whole node, whoever is asked. None of them is nodens's clients' where NOTRACK works.",
);

static REPAIRS: Spec = Spec::counter(
    "nodens_node_repairs_total",
    &["what"],
    "Times the interface or the rules were changed from outside and put back.",
);
static REPAIR_FAILURES: Spec = Spec::counter(
    "nodens_node_repair_failures_total",
    &[],
    "Checks and repairs of the interface or the rules that failed.",
);

static SPECS: [&Spec; 28] = [
    &QUERIES,
    &RESPONSES,
    &DURATIONS,
    &STALE,
    &REQUEST_SIZES,
    &RESPONSE_SIZES,
    &HITS,
    &MISSES,
    &ENTRIES,
    &BYTES,
    &BUDGETS,
    &EVICTIONS,
    &DROPS,
    &SHED,
    &RELOAD_OK,
    &RELOAD_FAILURES,
    &RELOADED,
    &CONFIG_INFO,
    &READY,
    &BUILD_INFO,
    &CONNTRACK_ENTRIES,
    &CONNTRACK_LIMIT,
    &CONNTRACK_INSERT_FAILED,
    &CONNTRACK_DROP,
    &CONNTRACK_EARLY_DROP,
    &CONNTRACK_DNS_ROWS,
    &REPAIRS,
    &REPAIR_FAILURES,
];
