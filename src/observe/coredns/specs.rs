//! What each family is: names and labels are those of CoreDNS 1.14 and node-cache.

use crate::observe::family::Spec;

pub(super) static REQUESTS: Spec = Spec::counter(
    "coredns_dns_requests_total",
    &["server", "zone", "view", "proto", "family", "type"],
    "DNS requests.",
);
pub(super) static RESPONSES: Spec = Spec::counter(
    "coredns_dns_responses_total",
    &["server", "zone", "view", "rcode", "plugin"],
    "DNS responses, by the plugin that would have answered.",
);
pub(super) static DURATIONS: Spec = Spec::histogram(
    "coredns_dns_request_duration_seconds",
    &["server", "zone", "view"],
    "Time each request took.",
);
pub(super) static REQUEST_SIZES: Spec = Spec::histogram(
    "coredns_dns_request_size_bytes",
    &["server", "zone", "view", "proto"],
    "Size of the requests.",
);
pub(super) static RESPONSE_SIZES: Spec = Spec::histogram(
    "coredns_dns_response_size_bytes",
    &["server", "zone", "view", "proto"],
    "Size of the responses.",
);
pub(super) static DO_REQUESTS: Spec =
    Spec::counter("coredns_dns_do_requests_total", &["server", "zone", "view"], "Requests with the DO bit.");
pub(super) static CACHE_REQUESTS: Spec = Spec::counter(
    "coredns_cache_requests_total",
    &["server", "zones", "view"],
    "Questions the cache was asked.",
);
pub(super) static CACHE_HITS: Spec = Spec::counter(
    "coredns_cache_hits_total",
    &["server", "type", "zones", "view"],
    "Answers from the cache, stale ones among them.",
);
pub(super) static CACHE_MISSES: Spec = Spec::counter(
    "coredns_cache_misses_total",
    &["server", "zones", "view"],
    "Questions the cache could not answer.",
);
pub(super) static CACHE_STALE: Spec = Spec::counter(
    "coredns_cache_served_stale_total",
    &["server", "zones", "view"],
    "Answers sent past their TTL.",
);
pub(super) static CACHE_DROPS: Spec = Spec::counter(
    "coredns_cache_drops_total",
    &["server", "zones", "view"],
    "Replies not cached because they did not match; always 0.",
);
pub(super) static CACHE_PREFETCH: Spec = Spec::counter(
    "coredns_cache_prefetch_total",
    &["server", "zones", "view"],
    "Entries refreshed before they expired.",
);
pub(super) static CACHE_ENTRIES: Spec = Spec::gauge(
    "coredns_cache_entries",
    &["server", "type", "zones", "view"],
    "Entries held, all listeners together.",
);
pub(super) static CACHE_EVICTIONS: Spec = Spec::counter(
    "coredns_cache_evictions_total",
    &["server", "type", "zones", "view"],
    "Entries pushed out to make room.",
);
pub(super) static PROXY_DURATIONS: Spec = Spec::histogram(
    "coredns_proxy_request_duration_seconds",
    &["proxy_name", "to", "rcode"],
    "Time of an exchange with an upstream.",
);
pub(super) static PROXY_HEALTHCHECK_FAILURES: Spec =
    Spec::counter("coredns_proxy_healthcheck_failures_total", &["proxy_name", "to"], "Failed health checks.");
pub(super) static PROXY_CONN_HITS: Spec = Spec::counter(
    "coredns_proxy_conn_cache_hits_total",
    &["proxy_name", "to", "proto"],
    "Queries sent: all but the first on a connection find it open.",
);
pub(super) static PROXY_CONN_MISSES: Spec = Spec::counter(
    "coredns_proxy_conn_cache_misses_total",
    &["proxy_name", "to", "proto"],
    "Connections opened.",
);
pub(super) static FORWARD_REQUESTS: Spec =
    Spec::counter("coredns_forward_requests_total", &["to"], "Exchanges with an upstream (older name).");
pub(super) static FORWARD_RESPONSES: Spec = Spec::counter(
    "coredns_forward_responses_total",
    &["to", "rcode"],
    "Replies of an upstream (older name).",
);
pub(super) static FORWARD_DURATIONS: Spec = Spec::histogram(
    "coredns_forward_request_duration_seconds",
    &["to", "rcode"],
    "Time of an exchange with an upstream (older name).",
);
pub(super) static FORWARD_HEALTHCHECK_FAILURES: Spec = Spec::counter(
    "coredns_forward_healthcheck_failures_total",
    &["to"],
    "Failed health checks (older name).",
);
pub(super) static FORWARD_BROKEN: Spec = Spec::counter(
    "coredns_forward_healthcheck_broken_total",
    &[],
    "Queries that found every upstream unhealthy.",
);
pub(super) static FORWARD_REJECTS: Spec = Spec::counter(
    "coredns_forward_max_concurrent_rejects_total",
    &[],
    "Queries turned away because too many were in flight.",
);
pub(super) static PANICS: Spec = Spec::counter("coredns_panics_total", &[], "Panics caught.");
pub(super) static PLUGIN_ENABLED: Spec = Spec::gauge(
    "coredns_plugin_enabled",
    &["server", "zone", "view", "name"],
    "Always 1; the plugin that does with CoreDNS what this configuration does.",
);
pub(super) static BUILD_INFO: Spec =
    Spec::gauge("coredns_build_info", &["version", "revision", "goversion"], "Always 1; what is running.");
pub(super) static RELOAD_FAILED: Spec =
    Spec::counter("coredns_reload_failed_total", &[], "Configurations that were refused.");
pub(super) static RELOAD_VERSION: Spec = Spec::gauge(
    "coredns_reload_version_info",
    &["hash", "value"],
    "Always 1; the hash of the configuration being served.",
);
pub(super) static HEALTH_DURATIONS: Spec =
    Spec::histogram("coredns_health_request_duration_seconds", &[], "Time a request to /health took.");
pub(super) static HEALTH_FAILURES: Spec = Spec::counter(
    "coredns_health_request_failures_total",
    &[],
    "Requests to /health that were not answered with 200; always 0.",
);
pub(super) static SETUP_ERRORS: Spec = Spec::counter(
    "coredns_nodecache_setup_errors_total",
    &["errortype"],
    "Failed attempts to set up the node.",
);

pub(super) static SPECS: [&Spec; 32] = [
    &REQUESTS,
    &RESPONSES,
    &DURATIONS,
    &REQUEST_SIZES,
    &RESPONSE_SIZES,
    &DO_REQUESTS,
    &CACHE_REQUESTS,
    &CACHE_HITS,
    &CACHE_MISSES,
    &CACHE_STALE,
    &CACHE_DROPS,
    &CACHE_PREFETCH,
    &CACHE_ENTRIES,
    &CACHE_EVICTIONS,
    &PROXY_DURATIONS,
    &PROXY_HEALTHCHECK_FAILURES,
    &PROXY_CONN_HITS,
    &PROXY_CONN_MISSES,
    &FORWARD_REQUESTS,
    &FORWARD_RESPONSES,
    &FORWARD_DURATIONS,
    &FORWARD_HEALTHCHECK_FAILURES,
    &FORWARD_BROKEN,
    &FORWARD_REJECTS,
    &PANICS,
    &PLUGIN_ENABLED,
    &BUILD_INFO,
    &RELOAD_FAILED,
    &RELOAD_VERSION,
    &HEALTH_DURATIONS,
    &HEALTH_FAILURES,
    &SETUP_ERRORS,
];
