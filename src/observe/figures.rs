//! What other rooms report at a scrape: plain numbers behind closures, so that this room knows none of them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::proto::{Bucket, Histogram};

/// Entries and bytes of one part of the cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheFigures {
    /// Entries held.
    pub entries: u64,
    /// Bytes they weigh.
    pub bytes: u64,
    /// Bytes they may weigh.
    pub budget: u64,
    /// Entries pushed out to make room, so far.
    pub evictions: u64,
}

/// All parts of the cache.
pub trait CacheStats: Send + Sync {
    /// Answers with records (`cache.size`).
    fn positive(&self) -> CacheFigures;
    /// NXDOMAIN and NODATA (`cache.negative_size`).
    fn negative(&self) -> CacheFigures;
    /// Resolution failures (`cache.failure_size`).
    fn failure(&self) -> CacheFigures;
    /// All workers' near tables together (`cache.near_size`).
    fn near(&self) -> CacheFigures;
}

/// The node's connection tracking. `None` where the kernel does not tell, or not us: the series is then left out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ConntrackFigures {
    /// Rows in the table.
    pub entries: u64,
    /// Rows there may be (`nf_conntrack_max`).
    pub limit: Option<u64>,
    /// Rows that could not be inserted.
    pub insert_failed: Option<u64>,
    /// Packets dropped because no row could be made.
    pub drop: Option<u64>,
    /// Rows removed early to make room.
    pub early_drop: Option<u64>,
    /// Rows of UDP flows to port 53 on the whole node, whoever is asked.
    pub dns_rows: Option<u64>,
}

/// What the guards of the node's interface and rules did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RepairFigures {
    /// Times the interface or an address was put back.
    pub interface: u64,
    /// Times rules were put back.
    pub rules: u64,
    /// Checks and repairs that failed.
    pub failures: u64,
}

/// What the upstream side reports for the `coredns_*` names.
#[derive(Debug, Clone, Default)]
pub struct UpstreamFigures {
    /// Every endpoint, asked so far or not. The same address may come twice: it is added up.
    pub endpoints: Vec<EndpointFigures>,
    /// How often a query found every endpoint unhealthy.
    pub all_unhealthy: u64,
}

/// One upstream endpoint.
#[derive(Debug, Clone)]
pub struct EndpointFigures {
    /// Its address and port, `10.96.0.10:53` or `[fd00::a]:53`.
    pub to: String,
    /// Exchange durations in seconds, by the reply's rcode mnemonic.
    pub durations: BTreeMap<String, Durations>,
    /// Queries sent, by transport (`udp`, `tcp`): all but the first on a connection find it open.
    pub connection_hits: BTreeMap<&'static str, u64>,
    /// Queries that had to open one.
    pub connection_misses: BTreeMap<&'static str, u64>,
    /// Failed health checks.
    pub healthcheck_failures: u64,
}

impl EndpointFigures {
    /// An endpoint nothing has happened to yet.
    pub fn new(to: impl Into<String>) -> Self {
        Self {
            to: to.into(),
            durations: BTreeMap::new(),
            connection_hits: BTreeMap::new(),
            connection_misses: BTreeMap::new(),
            healthcheck_failures: 0,
        }
    }

    /// Adds another report about the same address.
    pub(super) fn merge(&mut self, other: Self) {
        for (rcode, durations) in other.durations {
            self.durations.entry(rcode).or_default().merge(&durations);
        }
        for (proto, count) in other.connection_hits {
            *self.connection_hits.entry(proto).or_default() += count;
        }
        for (proto, count) in other.connection_misses {
            *self.connection_misses.entry(proto).or_default() += count;
        }
        self.healthcheck_failures += other.healthcheck_failures;
    }
}

/// A histogram as numbers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Durations {
    /// Upper bounds in seconds with the count at or below each.
    pub buckets: Vec<(f64, u64)>,
    /// All observations.
    pub count: u64,
    /// Their sum, in seconds.
    pub sum: f64,
}

impl Durations {
    fn merge(&mut self, other: &Self) {
        if self.buckets.is_empty() {
            self.buckets.clone_from(&other.buckets);
        } else {
            for ((_, count), (_, more)) in self.buckets.iter_mut().zip(&other.buckets) {
                *count += more;
            }
        }
        self.count += other.count;
        self.sum += other.sum;
    }
}

impl From<&Histogram> for Durations {
    fn from(histogram: &Histogram) -> Self {
        let buckets = histogram.get_bucket().iter();
        Self {
            buckets: buckets.map(|bucket| (bucket.upper_bound(), bucket.cumulative_count())).collect(),
            count: histogram.get_sample_count(),
            sum: histogram.get_sample_sum(),
        }
    }
}

impl From<&Durations> for Histogram {
    fn from(durations: &Durations) -> Self {
        let buckets = durations.buckets.iter().map(|(bound, count)| {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(*count);
            bucket
        });
        let mut histogram = Self::default();
        histogram.set_bucket(buckets.collect());
        histogram.set_sample_count(durations.count);
        histogram.set_sample_sum(durations.sum);
        histogram
    }
}

type ConntrackProvider = Arc<dyn Fn() -> Option<ConntrackFigures> + Send + Sync>;
type RepairProvider = Arc<dyn Fn() -> RepairFigures + Send + Sync>;
type UpstreamProvider = Arc<dyn Fn() -> UpstreamFigures + Send + Sync>;

/// Where the figures come from. A scrape before a provider is set reads zeros.
#[derive(Clone, Default)]
pub struct Providers {
    cache: Arc<Mutex<Option<Arc<dyn CacheStats>>>>,
    conntrack: Arc<Mutex<Option<ConntrackProvider>>>,
    repairs: Arc<Mutex<Option<RepairProvider>>>,
    upstream: Arc<Mutex<Option<UpstreamProvider>>>,
}

impl fmt::Debug for Providers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Providers")
            .field("cache", &get(&self.cache).is_some())
            .field("conntrack", &get(&self.conntrack).is_some())
            .field("repairs", &get(&self.repairs).is_some())
            .field("upstream", &get(&self.upstream).is_some())
            .finish()
    }
}

impl Providers {
    /// Takes the cache's figures from here, from now on.
    pub fn set_cache(&self, stats: Arc<dyn CacheStats>) {
        set(&self.cache, stats);
    }

    /// Takes the node's figures from here. `None` from the closure (no conntrack in this kernel, or no right to read
    /// it) leaves the series out.
    pub fn set_conntrack(&self, figures: impl Fn() -> Option<ConntrackFigures> + Send + Sync + 'static) {
        set(&self.conntrack, Arc::new(figures));
    }

    /// Takes what the guards of the node did from here.
    pub fn set_repairs(&self, figures: impl Fn() -> RepairFigures + Send + Sync + 'static) {
        set(&self.repairs, Arc::new(figures));
    }

    /// Takes the upstreams' figures from here.
    pub fn set_upstream(&self, figures: impl Fn() -> UpstreamFigures + Send + Sync + 'static) {
        set(&self.upstream, Arc::new(figures));
    }

    /// The cache's figures with their label.
    pub(super) fn cache(&self) -> [(&'static str, CacheFigures); 4] {
        let stats = get(&self.cache);
        let read = |pick: fn(&dyn CacheStats) -> CacheFigures| stats.as_deref().map(pick).unwrap_or_default();
        [
            ("positive", read(|stats| stats.positive())),
            ("negative", read(|stats| stats.negative())),
            ("failure", read(|stats| stats.failure())),
            ("near", read(|stats| stats.near())),
        ]
    }

    pub(super) fn conntrack(&self) -> Option<ConntrackFigures> {
        get(&self.conntrack).and_then(|figures| figures())
    }

    pub(super) fn repairs(&self) -> RepairFigures {
        get(&self.repairs).map(|figures| figures()).unwrap_or_default()
    }

    /// The upstreams' figures, each address once.
    pub(super) fn upstream(&self) -> UpstreamFigures {
        let Some(figures) = get(&self.upstream).map(|figures| figures()) else {
            return UpstreamFigures::default();
        };
        let mut merged: BTreeMap<String, EndpointFigures> = BTreeMap::new();
        for endpoint in figures.endpoints {
            let known = merged.entry(endpoint.to.clone());
            known.or_insert_with(|| EndpointFigures::new(endpoint.to.clone())).merge(endpoint);
        }
        UpstreamFigures { endpoints: merged.into_values().collect(), ..figures }
    }
}

/// A copy of the provider, so that it runs outside of the lock.
fn get<T: ?Sized>(slot: &Mutex<Option<Arc<T>>>) -> Option<Arc<T>> {
    slot.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

fn set<T: ?Sized>(slot: &Mutex<Option<Arc<T>>>, provider: Arc<T>) {
    *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(provider);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_reports_about_one_endpoint_are_one_series() {
        let providers = Providers::default();
        providers.set_upstream(move || {
            let mut endpoint = EndpointFigures::new("10.96.0.10:53");
            let durations = Durations { buckets: vec![(0.1, 2), (1.0, 3)], count: 4, sum: 5.5 };
            endpoint.durations.insert("NOERROR".to_owned(), durations);
            endpoint.connection_hits.insert("tcp", 7);
            UpstreamFigures { endpoints: vec![endpoint.clone(), endpoint], all_unhealthy: 1 }
        });
        let figures = providers.upstream();
        assert_eq!(figures.endpoints.len(), 1);
        let endpoint = &figures.endpoints[0];
        assert_eq!(
            endpoint.durations["NOERROR"],
            Durations { buckets: vec![(0.1, 4), (1.0, 6)], count: 8, sum: 11.0 }
        );
        assert_eq!(endpoint.connection_hits["tcp"], 14);
        assert_eq!(figures.all_unhealthy, 1);
    }

    #[test]
    fn a_histogram_survives_the_way_through_numbers() {
        let durations = Durations { buckets: vec![(0.25, 1), (0.5, 4)], count: 9, sum: 12.5 };
        assert_eq!(Durations::from(&Histogram::from(&durations)), durations);
    }
}
