//! Hands the cache's and the node's figures to `observe`, which knows neither.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::cache::Store;
use crate::cache::store::TableStats;
use crate::node::conntrack::Conntrack;
use crate::observe::{CacheFigures, CacheStats, ConntrackFigures, Providers};
use crate::server::hit::NearFigures;

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
pub(super) fn provide(providers: &Providers, store: &Arc<Store>, near: &Arc<NearFigures>) {
    providers.set_cache(Arc::new(Cache { store: Arc::clone(store), near: Arc::clone(near) }));
    let conntrack = Conntrack::default();
    providers.set_conntrack(move || {
        let reading = conntrack.read(Instant::now());
        // Without connection tracking in the kernel there is nothing to show.
        let entries = reading.entries?;
        Some(ConntrackFigures {
            entries,
            limit: reading.limit.unwrap_or_default(),
            insert_failed: reading.insert_failed.unwrap_or_default(),
            drop: reading.drop.unwrap_or_default(),
            early_drop: reading.early_drop.unwrap_or_default(),
            dns_rows: reading.dns.map(|rows| rows.count),
        })
    });
}

fn figures(table: TableStats) -> CacheFigures {
    CacheFigures {
        entries: table.entries,
        bytes: table.bytes,
        budget: table.budget,
        evictions: table.evictions,
    }
}
