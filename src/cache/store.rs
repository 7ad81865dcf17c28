//! The store all workers share: moka, byte-weighed, with TinyLFU admission.
//!
//! Each entry has an expiry of its own, which it knows itself: what is too old is not found, and [`Store::sweep`] takes it
//! out. moka's timers for that would cost 63 bytes an entry and a reading of the clock per lookup (measured).
//!
//! Positive, negative and failed answers have budgets of their own, so that a flood of one kind cannot push out
//! another: a search path of five suffixes makes most answers of a cluster NXDOMAIN.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use moka::sync::Cache as Moka;

use super::entry::{Entry, Freshness, Origin};
use super::key::{BuildKeyHasher, Key};
use super::time::Now;
use crate::wire::answer::{Answer, Kind};

/// Bytes an entry costs beside its own: moka's map bucket, value entry, key, info and queue node and what the allocator
/// rounds up (about 250 of resident memory, measured over 36,752 entries), and what churn leaves unused.
pub const ENTRY_OVERHEAD: usize = 320;

/// Seconds between two sweeps.
pub const SWEPT_WITHIN_SECS: u64 = 60;

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
    /// When the last of all failures so far will have been swept, as [`Now`] counts, even if two sweeps are late. From then on
    /// their table is empty, as it is where lookups succeed, and a miss need not ask it.
    failures_until: AtomicU64,
}

/// All that is kept for one question, whatever its age.
#[derive(Debug, Clone, Default)]
pub struct Kept {
    /// The answer, positive or negative.
    pub answer: Option<Entry>,
    /// The last failure, past its time too: what its backoff counts on.
    pub failure: Option<Entry>,
    holds: Holds,
    /// The store's [`generation`](Store::generation) when this was true.
    pub generation: u64,
}

/// Which tables have something for a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Holds {
    positive: bool,
    negative: bool,
    failure: bool,
}

impl Kept {
    fn add(&mut self, entry: Option<Entry>) {
        let Some(entry) = entry else { return };
        match entry.kind() {
            Kind::Positive => self.holds.positive = true,
            Kind::NoData | Kind::NxDomain => self.holds.negative = true,
            Kind::Failure => {
                self.holds.failure = true;
                self.failure = Some(entry);
                return;
            }
        }
        // The younger one, should there ever be two.
        if self.answer.as_ref().is_none_or(|answer| answer.stored() < entry.stored()) {
            self.answer = Some(entry);
        }
    }

    /// Where it is kept.
    pub fn holds(&self) -> Holds {
        self.holds
    }
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
    /// By the hash of the question alone. The entry says which question it answers, and is asked: two questions with one
    /// hash of 64 bits take each other's place, no more. moka keeps keys longer than values (a key that is replaced for as
    /// long as the question stays, one that was removed until its table grows), so there must be nothing of weight in them.
    entries: Moka<u64, Entry, BuildKeyHasher>,
    budget: u64,
    /// Questions that were not in it before, as far as the caller knew, so far.
    added: AtomicU64,
    /// Those taken out by us, so far. What is neither here nor in it any more was evicted: counted so, since a listener
    /// would have moka take a lock for every key it writes.
    removed: AtomicU64,
    /// Evictions told so far.
    evicted: AtomicU64,
}

impl Store {
    /// An empty store.
    pub fn new(budgets: Budgets) -> Self {
        Self {
            tables: ArcSwap::from_pointee(Tables::new(budgets)),
            generation: AtomicU64::new(0),
            failures_until: AtomicU64::new(0),
        }
    }

    /// A fresh answer to `key`, or else all that is kept for it; a fresh failure only where nothing stale could be served
    /// instead.
    pub fn find(&self, key: &Key, now: Now) -> Result<Entry, Kept> {
        let mut kept = Kept { generation: self.generation(), ..Kept::default() };
        let tables = self.tables.load();
        let fresh = |entry: &Entry| entry.freshness(now) == Freshness::Fresh;
        for table in [&tables.positive, &tables.negative] {
            match table.get(key) {
                Some(entry) if fresh(&entry) => return Ok(entry),
                entry => kept.add(entry),
            }
        }
        if now.0 > self.failures_until.load(Ordering::Relaxed) {
            return Err(kept);
        }
        let failure = tables.failure.get(key);
        let stale = kept.answer.as_ref().is_some_and(|entry| entry.freshness(now) == Freshness::Stale);
        match failure {
            Some(failure) if !stale && fresh(&failure) => Ok(failure),
            failure => {
                kept.add(failure);
                Err(kept)
            }
        }
    }

    /// All that is kept for `key`: what the miss path decides on.
    pub fn kept(&self, key: &Key) -> Kept {
        let mut kept = Kept { generation: self.generation(), ..Kept::default() };
        let tables = self.tables.load();
        for table in [&tables.positive, &tables.negative, &tables.failure] {
            kept.add(table.get(key));
        }
        kept
    }

    /// The failure last remembered for `key`, whether its time has passed or not: what its backoff counts on.
    pub fn failure(&self, key: &Key) -> Option<Entry> {
        self.tables.load().failure.get(key)
    }

    /// Keeps `answer` to `key`, in place of whatever stands for its question. A failure leaves an answer that stands: it
    /// may be served stale.
    pub fn insert(&self, key: &Key, answer: &Answer, origin: Origin) -> Entry {
        self.replace(key, answer, origin, self.kept(key).holds())
    }

    /// The same, where the caller knows what stands for the question: each table that need not be asked is a miss of the
    /// processor's caches less. What stands there unknown to the caller stays, so nobody else may have kept an answer to
    /// the question meanwhile: all that is kept comes from the miss path's one thread, and of a question there is one
    /// lookup at a time.
    pub fn replace(&self, key: &Key, answer: &Answer, origin: Origin, before: Holds) -> Entry {
        let entry = Entry::new(key, answer, origin);
        let tables = self.tables.load();
        let remove = |table: &Table, there: bool| {
            if there {
                table.remove(key.hash());
            }
        };
        match entry.kind() {
            Kind::Positive => {
                tables.positive.insert(key.hash(), &entry, before.positive);
                remove(&tables.negative, before.negative);
                remove(&tables.failure, before.failure);
            }
            Kind::NoData | Kind::NxDomain => {
                tables.negative.insert(key.hash(), &entry, before.negative);
                remove(&tables.positive, before.positive);
                remove(&tables.failure, before.failure);
            }
            Kind::Failure => {
                let swept =
                    entry.stored().0 + (entry.kept_for() + FAILURE_GRACE_SECS + 3 * SWEPT_WITHIN_SECS) * 1000;
                self.failures_until.fetch_max(swept, Ordering::Relaxed);
                tables.failure.insert(key.hash(), &entry, before.failure);
            }
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
            for (key, entry) in &from.entries {
                to.insert(*key, &entry, false);
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
                    table.remove(*key);
                }
            }
        }
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Drops what is too old to be served even stale, to be called every [`SWEPT_WITHIN_SECS`]. It walks all entries, so not
    /// for a thread that clients wait for.
    pub fn sweep(&self, now: Now) {
        let tables = self.tables.load();
        for (table, grace) in
            [(&tables.positive, 0), (&tables.negative, 0), (&tables.failure, FAILURE_GRACE_SECS)]
        {
            for (key, entry) in &table.entries {
                if now.millis_since(entry.stored()) >= (entry.kept_for() + grace) * 1000 {
                    table.remove_only(*key, &entry);
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
            .weigher(|_: &u64, entry: &Entry| {
                u32::try_from(entry.size() + ENTRY_OVERHEAD).unwrap_or(u32::MAX)
            })
            .build_with_hasher(BuildKeyHasher);
        Self {
            entries,
            budget,
            added: AtomicU64::new(0),
            removed: AtomicU64::new(0),
            evicted: AtomicU64::new(0),
        }
    }

    /// What is kept for `key`. Asked whether it has it first: moka would write a miss to its log.
    fn get(&self, key: &Key) -> Option<Entry> {
        if !self.entries.contains_key(&key.hash()) {
            return None;
        }
        self.entries.get(&key.hash()).filter(|entry| entry.answers(key))
    }

    /// `known`: it has an entry for the question already.
    fn insert(&self, hash: u64, entry: &Entry, known: bool) {
        if !known {
            self.added.fetch_add(1, Ordering::Relaxed);
        }
        self.entries.insert(hash, entry.clone());
    }

    fn remove(&self, hash: u64) {
        if self.entries.contains_key(&hash) {
            self.removed.fetch_add(1, Ordering::Relaxed);
            self.entries.invalidate(&hash);
        }
    }

    /// Removes what is there if it is still `entry`: a walk of the table is long, and the miss path may have kept another one
    /// meanwhile. (In the moment between look and removal it still may; then the answer is looked up once more.)
    fn remove_only(&self, hash: u64, entry: &Entry) {
        if self.entries.get(&hash).is_some_and(|there| there.is(entry)) {
            self.remove(hash);
        }
    }

    fn stats(&self) -> TableStats {
        self.entries.run_pending_tasks();
        let entries = self.entries.entry_count();
        let left = self.added.load(Ordering::Relaxed).saturating_sub(self.removed.load(Ordering::Relaxed));
        // An entry that was evicted while its question was looked up again makes the difference one less: the count stands.
        let evictions = left.saturating_sub(entries);
        let evictions = self.evicted.fetch_max(evictions, Ordering::Relaxed).max(evictions);
        TableStats { entries, bytes: self.entries.weighted_size(), budget: self.budget, evictions }
    }
}

/// Seconds a failure is remembered past its own time: its backoff counts on the last one.
const FAILURE_GRACE_SECS: u64 = 60;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::KeyFlags;
    use crate::cache::key::{Question, Seed};

    fn store() -> Store {
        Store::new(Budgets { positive: 1 << 20, negative: 1 << 20, failure: 1 << 20 })
    }

    fn key_of(name: &[u8]) -> Key {
        let question = Question { name, qtype: 1, qclass: 1, flags: KeyFlags::default() };
        Key::new(&question, Seed::of_process())
    }

    fn key() -> Key {
        key_of(b"\x03www\x00")
    }

    fn other() -> Key {
        key_of(b"\x05other\x00")
    }

    #[test]
    fn an_entry_that_was_replaced_is_let_go() {
        let (store, key) = (store(), key());
        let kinds = [Kind::Positive, Kind::Positive, Kind::NxDomain, Kind::NoData, Kind::Positive];
        let entries = kinds.map(|kind| store.insert(&key, &Answer::empty(0, kind, 60), Origin::default()));
        let stats = store.stats();
        // moka frees what was taken out in its own time: when no reader can still be looking at it.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while entries[..4].iter().any(|entry| entry.sharers() > 1) {
            assert!(std::time::Instant::now() < deadline, "{:?}", entries.map(|entry| entry.sharers()));
            store.insert(&other(), &Answer::empty(0, Kind::Failure, 60), Origin::default());
            store.stats();
        }
        assert_eq!((stats.positive.entries, stats.negative.entries), (1, 0));
        assert_eq!((stats.positive.evictions, stats.negative.evictions), (0, 0));
        assert_eq!(entries[4].sharers(), 2, "ours and the table's");
    }

    #[test]
    fn a_sweep_takes_out_only_what_it_looked_at() {
        let (store, key) = (store(), key());
        let old = store.insert(&key, &Answer::empty(0, Kind::Positive, 1), Origin::default());
        let new = store.insert(&key, &Answer::empty(0, Kind::Positive, 60), Origin::default());
        let tables = store.tables.load();
        tables.positive.remove_only(key.hash(), &old);
        assert!(tables.positive.get(&key).is_some_and(|entry| entry.is(&new)));
        tables.positive.remove_only(key.hash(), &new);
        assert!(tables.positive.get(&key).is_none());
        let stats = store.stats().positive;
        assert_eq!((stats.entries, stats.evictions), (0, 0));
    }

    #[test]
    fn another_question_with_the_same_hash_is_not_answered() {
        let (store, key) = (store(), key());
        let entry = store.insert(&key, &Answer::empty(0, Kind::Positive, 60), Origin::default());
        let tables = store.tables.load();
        tables.positive.insert(other().hash(), &entry, false);
        assert!(store.find(&key, Now::default()).is_ok());
        assert!(store.find(&other(), Now::default()).is_err() && store.kept(&other()).answer.is_none());
    }

    #[test]
    fn a_failure_is_found_until_it_is_swept() {
        let (store, key) = (store(), key());
        let at = |secs: u32| Origin::default().stored.plus_secs(secs);
        let holds_failure = |now: Now| match store.find(&key, now) {
            Ok(entry) => entry.kind() == Kind::Failure,
            Err(kept) => kept.failure.is_some(),
        };
        assert!(!holds_failure(at(0)));
        store.insert(&key, &Answer::empty(2, Kind::Failure, 300), Origin::default());
        store.insert(&other(), &Answer::empty(2, Kind::Failure, 1), Origin::default());
        assert!(holds_failure(at(0)) && holds_failure(at(300)), "a shorter one since does not shorten it");
        assert!(holds_failure(at(359)), "its backoff counts on it");
        assert!(holds_failure(at(539)), "the sweep may be late");
        store.sweep(at(539));
        assert!(!holds_failure(at(539)) && store.failure(&key).is_none());
    }

    #[test]
    fn what_stands_is_known_table_by_table() {
        let (store, key) = (store(), key());
        assert_eq!(store.kept(&key).holds(), Holds::default());
        store.insert(&key, &Answer::empty(2, Kind::Failure, 60), Origin::default());
        assert_eq!(store.kept(&key).holds(), Holds { failure: true, ..Holds::default() });
        store.insert(&key, &Answer::empty(3, Kind::NxDomain, 60), Origin::default());
        assert_eq!(store.kept(&key).holds(), Holds { negative: true, ..Holds::default() });
        let past = Now(Origin::default().stored.0 + 61_000);
        assert_eq!(store.find(&key, past).unwrap_err().holds(), store.kept(&key).holds());
    }
}
