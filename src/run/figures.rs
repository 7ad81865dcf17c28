//! Hands the cache's, the upstreams' and the node's figures to `observe`, which knows none of them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::cache::Store;
use crate::cache::store::TableStats;
use crate::node::Counters;
use crate::node::conntrack::Conntrack;
use crate::observe::{
    CacheFigures, CacheStats, ConntrackFigures, Durations, EndpointFigures, Providers, RepairFigures,
    UpstreamFigures,
};
use crate::server::hit::NearFigures;
use crate::upstream::{self, EndpointSnapshot};

struct Cache {
    store: Arc<Store>,
    near: Arc<NearFigures>,
}

impl CacheStats for Cache {
    fn positive(&self) -> CacheFigures {
        figures(self.store.stats().positive)
    }

    fn negative(&self) -> CacheFigures {
        figures(self.store.stats().negative)
    }

    fn failure(&self) -> CacheFigures {
        figures(self.store.stats().failure)
    }

    fn near(&self) -> CacheFigures {
        CacheFigures {
            entries: self.near.entries.load(Ordering::Relaxed),
            bytes: self.near.bytes.load(Ordering::Relaxed),
            budget: self.near.budget.load(Ordering::Relaxed),
            evictions: 0,
        }
    }
}

/// Sets the providers of everything a scrape reads from other rooms.
pub(super) fn provide(
    providers: &Providers,
    store: &Arc<Store>,
    near: &Arc<NearFigures>,
    guards: Arc<Counters>,
) {
    providers.set_cache(Arc::new(Cache { store: Arc::clone(store), near: Arc::clone(near) }));
    providers.set_repairs(move || RepairFigures {
        interface: guards.interface_repairs(),
        rules: guards.rule_repairs(),
        failures: guards.failures(),
    });
    let conntrack = Conntrack::default();
    providers.set_conntrack(move || {
        let reading = conntrack.read(Instant::now());
        // Without connection tracking in the kernel there is nothing to show.
        let entries = reading.entries?;
        Some(ConntrackFigures {
            entries,
            limit: reading.limit,
            insert_failed: reading.insert_failed,
            drop: reading.drop,
            early_drop: reading.early_drop,
            dns_rows: reading.dns.map(|rows| rows.count),
        })
    });
}

/// Sets the provider of what the upstreams report under CoreDNS's names.
pub(super) fn provide_upstream(providers: &Providers, upstream: Arc<upstream::Metrics>) {
    providers.set_upstream(move || UpstreamFigures {
        endpoints: upstream.snapshot().iter().map(endpoint_figures).collect(),
        all_unhealthy: upstream.all_down(),
    });
}

fn endpoint_figures(snapshot: &EndpointSnapshot) -> EndpointFigures {
    let mut figures = EndpointFigures::new(&*snapshot.endpoint);
    for (rcode, histogram) in &snapshot.durations {
        figures.durations.insert((*rcode).to_owned(), Durations::from(histogram));
    }
    figures.connection_hits.insert("tcp", snapshot.queries);
    figures.connection_misses.insert("tcp", snapshot.dials);
    figures.healthcheck_failures = snapshot.probes_failed;
    figures
}

fn figures(table: TableStats) -> CacheFigures {
    CacheFigures {
        entries: table.entries,
        bytes: table.bytes,
        budget: table.budget,
        evictions: table.evictions,
    }
}
