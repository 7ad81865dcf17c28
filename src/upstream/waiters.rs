//! The queries that wait on one connection: found by id, and watched in the order they were sent.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::time::Duration;

use tokio::time::Instant;

/// A table from message id to whoever waits for that reply.
#[derive(Debug)]
pub(super) struct Waiters<T> {
    table: HashMap<u16, Waiter<T>, BuildHasherDefault<IdHasher>>,
    /// Sent and not overtaken by a later reply, oldest first.
    order: VecDeque<(u64, u16)>,
    sequence: u64,
}

/// Who waits for one reply.
#[derive(Debug)]
pub(super) struct Waiter<T> {
    sequence: u64,
    /// When the query was sent.
    pub(super) sent: Instant,
    /// Bytes of all queries of the connection up to its end.
    pub(super) end: u64,
    /// Who asked it.
    pub(super) who: T,
}

impl<T> Default for Waiters<T> {
    fn default() -> Self {
        Self { table: HashMap::default(), order: VecDeque::new(), sequence: 0 }
    }
}

impl<T> Waiters<T> {
    /// Adds a waiter under an id that is not in use, drawn from `random`. Nothing is added when the table is full.
    /// `end`: bytes of all queries of the connection, this one included.
    pub(super) fn insert(
        &mut self,
        who: T,
        now: Instant,
        end: u64,
        mut random: impl FnMut() -> u16,
    ) -> Option<u16> {
        if self.is_full() {
            return None;
        }
        // The table is at most a sixteenth full, so that a few draws suffice.
        let id = loop {
            let id = random();
            if !self.table.contains_key(&id) {
                break id;
            }
        };
        self.sequence += 1;
        self.table.insert(id, Waiter { sequence: self.sequence, sent: now, end, who });
        self.order.push_back((self.sequence, id));
        Some(id)
    }

    /// Who waits for this id.
    pub(super) fn find(&self, id: u16) -> Option<&T> {
        self.table.get(&id).map(|waiter| &waiter.who)
    }

    /// Takes out who waited for this id and when it was sent. Older queries count as overtaken from now on: this
    /// upstream does not answer in order, so they hold up nobody.
    pub(super) fn take(&mut self, id: u16) -> Option<(T, Instant)> {
        let waiter = self.table.remove(&id)?;
        while self.order.front().is_some_and(|(sequence, _)| *sequence <= waiter.sequence) {
            self.order.pop_front();
        }
        Some((waiter.who, waiter.sent))
    }

    /// The oldest query that nothing sent later has overtaken.
    pub(super) fn oldest(&self) -> Option<&Waiter<T>> {
        // What the order holds is in the table: `take` cuts the order behind what it takes.
        let (_, id) = self.order.front()?;
        self.table.get(id)
    }

    /// Forgets overtaken queries older than `age`: the upstream dropped them.
    pub(super) fn forget_lost(&mut self, now: Instant, age: Duration) {
        if self.table.len() > self.order.len() {
            let first = self.order.front().map_or(u64::MAX, |(sequence, _)| *sequence);
            self.table.retain(|_, waiter| {
                waiter.sequence >= first || now.saturating_duration_since(waiter.sent) < age
            });
        }
    }

    /// Takes out everyone.
    pub(super) fn drain(&mut self) -> Vec<T> {
        self.order.clear();
        self.table.drain().map(|(_, waiter)| waiter.who).collect()
    }

    /// Queries without a reply.
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Whether no further query fits.
    pub(super) fn is_full(&self) -> bool {
        self.table.len() >= CAPACITY
    }
}

/// Ids are drawn at random: one multiplication spreads them over the table's tag and index bits.
#[derive(Debug, Default)]
pub(super) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 << 8 | u64::from(*byte)).wrapping_mul(MULTIPLIER);
        }
    }

    fn write_u16(&mut self, id: u16) {
        self.0 = u64::from(id).wrapping_mul(MULTIPLIER);
    }
}

/// Unanswered queries of one connection: few enough that ids stay hard to guess and free ones easy to draw.
const CAPACITY: usize = 4096;
/// 2^64 divided by the golden ratio.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_later_reply_overtakes_an_older_query() {
        let start = Instant::now();
        let mut waiters = Waiters::default();
        let mut next = 0u16;
        let mut ids = || {
            next += 1;
            next
        };
        for (name, offset) in [("a", 0), ("b", 1), ("c", 2)] {
            waiters.insert(name, start + Duration::from_millis(offset), 30 * (offset + 1), &mut ids);
        }
        assert_eq!(waiters.oldest().map(|waiter| waiter.who), Some("a"));
        assert_eq!(waiters.oldest().map(|waiter| waiter.end), Some(30));
        assert_eq!(waiters.take(2).map(|(who, _)| who), Some("b"));
        assert_eq!(waiters.oldest().map(|waiter| waiter.who), Some("c"), "a is slow, not in the way");
        assert_eq!(waiters.len(), 2);
        waiters.forget_lost(start + Duration::from_secs(9), Duration::from_secs(5));
        assert_eq!(waiters.find(1), None);
        assert_eq!(
            waiters.find(3),
            Some(&"c"),
            "not overtaken: whether it is lost is the connection's matter"
        );
    }

    #[test]
    fn a_full_table_takes_no_more() {
        let mut waiters = Waiters::default();
        let now = Instant::now();
        while waiters.insert((), now, 0, rand::random).is_some() {}
        assert_eq!(waiters.len(), CAPACITY);
    }

    proptest! {
        #[test]
        fn every_waiter_is_found_once(actions in proptest::collection::vec((any::<bool>(), 0u16..64), 1..300)) {
            let now = Instant::now();
            let mut waiters = Waiters::default();
            let mut model: HashMap<u16, u32> = HashMap::new();
            for (number, (insert, id)) in actions.into_iter().enumerate() {
                let number = u32::try_from(number).unwrap();
                if insert && !model.contains_key(&id) {
                    prop_assert_eq!(waiters.insert(number, now, 0, || id), Some(id));
                    model.insert(id, number);
                } else if !insert {
                    prop_assert_eq!(waiters.take(id).map(|(who, _)| who), model.remove(&id));
                }
                prop_assert_eq!(waiters.len(), model.len());
                if let Some(waiter) = waiters.oldest() {
                    prop_assert!(model.values().any(|other| *other == waiter.who));
                }
            }
        }
    }
}
