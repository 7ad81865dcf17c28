//! Bytes kept in memory for TCP clients, all together: queries half read, answers waiting to be written.
//!
//! Counts of connections and of queries in flight do not bound memory alone: 16,000 queries for 60 kB answers each, and a
//! client that does not read, are a gigabyte.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes kept for all TCP clients at most. Usual queries and answers pass through without being kept at all.
pub const MAX_KEPT: usize = 32 << 20;

/// The bytes kept for all clients of a front. A clone is the same.
#[derive(Debug, Clone, Default)]
pub struct Kept(Arc<AtomicUsize>);

/// One connection's part of it, given back when it ends.
#[derive(Debug)]
pub(super) struct Part {
    of: Kept,
    bytes: usize,
}

impl Kept {
    /// Takes `bytes` more, unless that were too many; whether it did.
    pub(super) fn take(&self, bytes: usize) -> bool {
        let before = self.0.fetch_add(bytes, Ordering::Relaxed);
        let fits = before + bytes <= MAX_KEPT;
        if !fits {
            self.give_back(bytes);
        }
        fits
    }

    /// Gives back what was taken.
    pub(super) fn give_back(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// A connection's part, empty.
    pub(super) fn part(&self) -> Part {
        Part { of: self.clone(), bytes: 0 }
    }

    /// What is kept now.
    pub fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Part {
    /// Keeps `bytes` from now on. False if all clients together would keep too many: then the connection has to go.
    pub(super) fn set(&mut self, bytes: usize) -> bool {
        if bytes > self.bytes {
            if !self.of.take(bytes - self.bytes) {
                return false;
            }
        } else if bytes < self.bytes {
            self.of.give_back(self.bytes - bytes);
        }
        self.bytes = bytes;
        true
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.of.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_fit_together_or_not_at_all_and_are_given_back() {
        let kept = Kept::default();
        let (mut one, mut two) = (kept.part(), kept.part());
        assert!(one.set(MAX_KEPT - 10) && two.set(10));
        assert!(!two.set(11), "one byte too many");
        assert_eq!(kept.bytes(), MAX_KEPT, "what did not fit is not counted");
        assert!(one.set(0) && two.set(11));
        drop(two);
        assert_eq!(kept.bytes(), 0);
    }
}
