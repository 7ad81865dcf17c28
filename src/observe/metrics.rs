//! The one registry, and everything that is registered in it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Encoder, Histogram, HistogramOpts, IntCounter, Registry, TextEncoder};

use super::counters::Counters;
use super::figures::Providers;
use super::health::Health;
use super::process::ProcessCollector;
use super::tally::{DURATION_BOUNDS, FIRST_DURATION_MICROS, SIZE_BOUNDS, Tallies};
use super::totals::Totals;
use super::zones::Zones;
use super::{coredns, native};
use crate::config::{Config, Switch};

/// Everything that is counted, and the registry it is read from. A clone is the same.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Where rooms register metrics of their own.
    pub registry: Registry,
    /// The listeners' counters.
    pub tallies: Tallies,
    /// Zone names as numbers.
    pub zones: Zones,
    /// Counts that belong to no listener.
    pub counters: Counters,
    /// Readiness and the last reload.
    pub health: Health,
    /// Where figures of the cache, the upstreams and the node come from.
    pub providers: Providers,
    pub(super) health_requests: HealthRequests,
    settings: Arc<Settings>,
}

/// Requests to /health, for CoreDNS's names.
#[derive(Debug, Clone)]
pub(super) struct HealthRequests {
    pub(super) durations: Histogram,
    pub(super) failures: IntCounter,
}

#[derive(Debug, Default)]
struct Settings {
    coredns: AtomicBool,
    plugins: Mutex<BTreeMap<String, Vec<&'static str>>>,
}

impl Metrics {
    /// A registry with everything this room knows. It fails only if two metrics share a name, which is a mistake in
    /// the program.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let durations =
            HistogramOpts::new("health_request_duration_seconds", "Time of a request to /health.")
                // CoreDNS's SlimTimeBuckets.
                .buckets(prometheus::exponential_buckets(0.000_25, 10.0, 5)?);
        let metrics = Self {
            counters: Counters::register(&registry)?,
            registry,
            tallies: Tallies::new(),
            zones: Zones::new(),
            health: Health::new(),
            providers: Providers::default(),
            health_requests: HealthRequests {
                durations: Histogram::with_opts(durations)?,
                failures: IntCounter::new("health_request_failures_total", "Failed requests to /health.")?,
            },
            settings: Arc::default(),
        };
        metrics.registry.register(Box::new(ProcessCollector::new()?))?;
        metrics.registry.register(Box::new(TallyCollector::new(&metrics)?))?;
        Ok(metrics)
    }

    /// Takes over what the configuration says about metrics; at start and at every reload.
    pub fn configure(&self, config: &Config) {
        self.settings.coredns.store(config.observe.coredns_metrics, Relaxed);
        let mut plugins = BTreeMap::new();
        for zone in &config.zones {
            let id = self.zones.intern(&zone.name);
            plugins.insert(self.zones.name(id).to_string(), coredns_plugins(config, zone));
        }
        *self.settings.plugins.lock().unwrap_or_else(PoisonError::into_inner) = plugins;
    }

    /// The answer to /metrics, in Prometheus's text format. It blocks for as long as a scrape takes.
    pub fn scrape(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::with_capacity(64 << 10);
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

/// The plugins that would be enabled in the server block of this zone.
fn coredns_plugins(config: &Config, zone: &crate::config::Zone) -> Vec<&'static str> {
    let all = [
        ("bind", true),
        ("cache", true),
        ("dns64", zone.dns64.is_some()),
        ("errors", true),
        ("file", zone.file.is_some()),
        ("forward", zone.forward.is_some()),
        ("health", config.observe.health.is_some()),
        ("hosts", !config.hosts.is_empty()),
        ("log", matches!(config.log.queries, Switch::On(_))),
        ("prometheus", config.observe.metrics.is_some()),
        ("reload", true),
        ("rewrite", !config.rewrite.is_empty()),
        ("template", !zone.answers.is_empty()),
    ];
    all.into_iter().filter(|(_, enabled)| *enabled).map(|(name, _)| name).collect()
}

/// Sums the tallies and asks the providers at every scrape.
#[derive(Debug)]
struct TallyCollector {
    descs: Vec<Desc>,
    tallies: Tallies,
    zones: Zones,
    counters: Counters,
    health: Health,
    providers: Providers,
    health_requests: HealthRequests,
    settings: Arc<Settings>,
}

impl TallyCollector {
    fn new(metrics: &Metrics) -> Result<Self, prometheus::Error> {
        Ok(Self {
            descs: native::specs()
                .chain(coredns::specs())
                .map(super::family::Spec::desc)
                .collect::<Result<_, _>>()?,
            tallies: metrics.tallies.clone(),
            zones: metrics.zones.clone(),
            counters: metrics.counters.clone(),
            health: metrics.health.clone(),
            providers: metrics.providers.clone(),
            health_requests: metrics.health_requests.clone(),
            settings: metrics.settings.clone(),
        })
    }
}

impl Collector for TallyCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let totals = Totals::read(&self.tallies, &self.zones);
        let mut families = native::families(&totals, &self.providers, &self.health);
        if self.settings.coredns.load(Relaxed) {
            families.extend(coredns::families(&coredns::Inputs {
                totals: &totals,
                providers: &self.providers,
                counters: &self.counters,
                health: &self.health,
                health_requests: &self.health_requests,
                plugins: &self.settings.plugins.lock().unwrap_or_else(PoisonError::into_inner),
            }));
        }
        families
    }
}

/// The duration histogram's bounds in seconds.
pub(super) fn duration_bounds() -> &'static [f64] {
    static BOUNDS: OnceLock<Vec<f64>> = OnceLock::new();
    BOUNDS.get_or_init(|| {
        let micros = (0..DURATION_BOUNDS).map(|doublings| u64::from(FIRST_DURATION_MICROS) << doublings);
        micros.map(|micros| micros as f64 / 1e6).collect()
    })
}

/// The size histograms' bounds in bytes.
pub(super) fn size_bounds() -> &'static [f64] {
    static BOUNDS: OnceLock<Vec<f64>> = OnceLock::new();
    BOUNDS.get_or_init(|| SIZE_BOUNDS.iter().map(|bound| f64::from(*bound)).collect())
}
