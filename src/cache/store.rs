//! The store all workers share: moka, byte-weighed, with TinyLFU admission.
//!
//! Each entry has an expiry of its own, which it knows itself: what is too old is not found, and [`Store::sweep`] takes it
//! out. moka's timers for that would cost 63 bytes an entry and a reading of the clock per lookup (measured).
//!
//! Positive, negative and failed answers have budgets of their own, so that a flood of one kind cannot push out
//! another: a search path of five suffixes makes most answers of a cluster NXDOMAIN.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use equivalent::Equivalent;
use moka::sync::Cache as Moka;

use super::entry::{Entry, Freshness};
use super::key::{BuildKeyHasher, Key};
use super::time::Now;
use crate::wire::answer::Kind;

/// Bytes an entry costs beside its own: moka's map bucket, value entry, key and queue node (272, measured as resident
/// memory over 100,000 entries), the counts of its `Arc`, and what the allocator rounds up.
pub const ENTRY_OVERHEAD: usize = 320;

/// Upper bounds of what the store holds, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budgets {
    /// Positive answers.
    pub positive: u64,
    /// NXDOMAIN and NODATA.
    pub negative: u64,
    /// Failures (RFC 9520).
    pub failure: u64,
}

/// The shared store.
#[derive(Debug)]
pub struct Store {
    tables: ArcSwap<Tables>,
    generation: AtomicU64,
}

/// All that is kept for one question, whatever its age.
#[derive(Debug, Clone, Default)]
pub struct Kept {
    /// The answer, positive or negative.
    pub answer: Option<Arc<Entry>>,
    /// The last failure, past its time too: what its backoff counts on.
    pub failure: Option<Arc<Entry>>,
}

/// A table's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TableStats {
    /// Entries in it.
    pub entries: u64,
    /// Bytes they take, as weighed.
    pub bytes: u64,
    /// Bytes it may hold.
    pub budget: u64,
    /// Entries evicted for want of room.
    pub evictions: u64,
}

/// The tables' states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Positive answers.
    pub positive: TableStats,
    /// NXDOMAIN and NODATA.
    pub negative: TableStats,
    /// Failures.
    pub failure: TableStats,
}

#[derive(Debug)]
struct Tables {
    positive: Table,
    negative: Table,
    failure: Table,
}

#[derive(Debug)]
struct Table {
    entries: Moka<StoredKey, Arc<Entry>, BuildKeyHasher>,
    budget: u64,
    /// Questions that were not in it before, so far.
    added: AtomicU64,
    /// Those taken out by us, so far. What is neither here nor in it any more was evicted: counted so, since a listener
    /// would have moka take a lock for every key it writes.
    removed: AtomicU64,
}

impl Store {
    /// An empty store.
    pub fn new(budgets: Budgets) -> Self {
        Self { tables: ArcSwap::from_pointee(Tables::new(budgets)), generation: AtomicU64::new(0) }
    }

    /// A fresh answer to `key`; a fresh failure only where nothing stale could be served instead.
    pub fn fresh(&self, key: &Key, now: Now) -> Option<Arc<Entry>> {
        let tables = self.tables.load();
        let mut stale = false;
        for table in [&tables.positive, &tables.negative] {
            if let Some(entry) = table.get(key) {
                match entry.freshness(now) {
                    Freshness::Fresh => return Some(entry),
                    Freshness::Stale => stale = true,
                    Freshness::Dead => {}
                }
            }
        }
        if stale { None } else { tables.failure.peek(key).filter(|e| e.freshness(now) == Freshness::Fresh) }
    }

    /// All that is kept for `key`: what the miss path decides on.
    pub fn kept(&self, key: &Key) -> Kept {
        let tables = self.tables.load();
        let answer = [&tables.positive, &tables.negative].into_iter().find_map(|table| table.peek(key));
        Kept { answer, failure: tables.failure.peek(key) }
    }

    /// The failure last remembered for `key`, whether its time has passed or not: what its backoff counts on.
    pub fn failure(&self, key: &Key) -> Option<Arc<Entry>> {
        self.tables.load().failure.peek(key)
    }

    /// Keeps `entry`, in place of whatever stood for its question. A failure leaves an answer that stands: it may be
    /// served stale.
    pub fn insert(&self, entry: Entry) -> Arc<Entry> {
        let entry = Arc::new(entry);
        let tables = self.tables.load();
        match entry.kind() {
            Kind::Positive => {
                tables.positive.insert(&entry);
                tables.negative.remove(&StoredKey(Arc::clone(&entry)));
                tables.failure.remove(&StoredKey(Arc::clone(&entry)));
            }
            Kind::NoData | Kind::NxDomain => {
                tables.negative.insert(&entry);
                tables.positive.remove(&StoredKey(Arc::clone(&entry)));
                tables.failure.remove(&StoredKey(Arc::clone(&entry)));
            }
            Kind::Failure => tables.failure.insert(&entry),
        }
        entry
    }

    /// Changes the budgets; entries that fit the new ones stay.
    pub fn resize(&self, budgets: Budgets) {
        let old = self.tables.load();
        if old.budgets() == budgets {
            return;
        }
        let new = Tables::new(budgets);
        for (from, to) in
            [(&old.positive, &new.positive), (&old.negative, &new.negative), (&old.failure, &new.failure)]
        {
            for (_, entry) in &from.entries {
                to.insert(&entry);
            }
        }
        self.tables.store(Arc::new(new));
    }

    /// Drops the entries that `keep` refuses, here and in every near table.
    pub fn retain(&self, keep: impl Fn(&Entry) -> bool) {
        let tables = self.tables.load();
        for table in [&tables.positive, &tables.negative, &tables.failure] {
            for (key, entry) in &table.entries {
                if !keep(&entry) {
                    table.remove(&key);
                }
            }
        }
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Drops what is too old to be served even stale. It walks all entries, so not for a thread that clients wait for.
    pub fn sweep(&self, now: Now) {
        let tables = self.tables.load();
        for (table, grace) in
            [(&tables.positive, 0), (&tables.negative, 0), (&tables.failure, FAILURE_GRACE_SECS)]
        {
            for (key, entry) in &table.entries {
                if now.millis_since(entry.stored()) >= (entry.kept_for() + grace) * 1000 {
                    table.remove(&key);
                }
            }
        }
    }

    /// Grows whenever entries were dropped by [`Self::retain`]: near tables start anew then.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The tables' states; runs moka's pending work first, so not for the hot path.
    pub fn stats(&self) -> Stats {
        let tables = self.tables.load();
        Stats {
            positive: tables.positive.stats(),
            negative: tables.negative.stats(),
            failure: tables.failure.stats(),
        }
    }
}

impl Tables {
    fn new(budgets: Budgets) -> Self {
        Self {
            positive: Table::new(budgets.positive),
            negative: Table::new(budgets.negative),
            failure: Table::new(budgets.failure),
        }
    }

    fn budgets(&self) -> Budgets {
        Budgets {
            positive: self.positive.budget,
            negative: self.negative.budget,
            failure: self.failure.budget,
        }
    }
}

impl Table {
    fn new(budget: u64) -> Self {
        let entries = Moka::builder()
            .max_capacity(budget)
            .weigher(|_: &StoredKey, entry: &Arc<Entry>| {
                u32::try_from(entry.size() + ENTRY_OVERHEAD).unwrap_or(u32::MAX)
            })
            .build_with_hasher(BuildKeyHasher);
        Self { entries, budget, added: AtomicU64::new(0), removed: AtomicU64::new(0) }
    }

    /// What is kept for `key`; moka learns that it was asked for.
    fn get(&self, key: &Key) -> Option<Arc<Entry>> {
        self.entries.get(key)
    }

    /// What is kept for `key`, where it is unlikely or moka has been told already: a miss leaves no trace.
    fn peek(&self, key: &Key) -> Option<Arc<Entry>> {
        if self.entries.contains_key(key) { self.entries.get(key) } else { None }
    }

    fn insert(&self, entry: &Arc<Entry>) {
        let key = StoredKey(Arc::clone(entry));
        if !self.entries.contains_key(&key) {
            self.added.fetch_add(1, Ordering::Relaxed);
        }
        self.entries.insert(key, Arc::clone(entry));
    }

    fn remove(&self, key: &StoredKey) {
        if self.entries.contains_key(key) {
            self.removed.fetch_add(1, Ordering::Relaxed);
            self.entries.invalidate(key);
        }
    }

    fn stats(&self) -> TableStats {
        self.entries.run_pending_tasks();
        let entries = self.entries.entry_count();
        let left = self.added.load(Ordering::Relaxed).saturating_sub(self.removed.load(Ordering::Relaxed));
        TableStats {
            entries,
            bytes: self.entries.weighted_size(),
            budget: self.budget,
            evictions: left.saturating_sub(entries),
        }
    }
}

/// moka's key: the entry itself, so that no name is kept twice.
#[derive(Debug, Clone)]
struct StoredKey(Arc<Entry>);

impl PartialEq for StoredKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.same_question(&other.0)
    }
}

impl Eq for StoredKey {}

impl Hash for StoredKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0.key().hash());
    }
}

impl Equivalent<StoredKey> for Key {
    fn equivalent(&self, stored: &StoredKey) -> bool {
        stored.0.answers(self)
    }
}

/// Seconds a failure is remembered past its own time: its backoff counts on the last one.
const FAILURE_GRACE_SECS: u64 = 60;
