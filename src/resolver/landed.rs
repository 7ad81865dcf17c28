//! When a question's answer was last kept: whether what a worker saw in the store still holds.
//!
//! A worker looks in the store before it hands a miss over. Between that and the miss path's turn another lookup of the
//! same question may have landed; the store would have to be asked a second time for the sake of that moment, and three
//! tables of it cost as much as all else that the miss path does to start a lookup. A small table by hash says when it
//! must: two questions that share a place merely make it ask for nothing.

use crate::cache::Now;

/// Places: a power of two, some times the lookups that land while a miss is in the channel.
const PLACES: usize = 4096;

/// Moments by question.
pub(super) struct Landed {
    at: Box<[Now]>,
}

impl Landed {
    pub(super) fn new() -> Self {
        Self { at: vec![Now::default(); PLACES].into() }
    }

    /// An answer to the question with this hash is in the store, as of `now`, which was read after it came there.
    pub(super) fn note(&mut self, hash: u64, now: Now) {
        self.at[hash as usize % PLACES] = now;
    }

    /// Whether one may have come there at `moment` or later.
    pub(super) fn since(&self, hash: u64, moment: Now) -> bool {
        self.at[hash as usize % PLACES] >= moment
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_moment_itself_counts_as_later() {
        let mut landed = Landed::new();
        assert!(!landed.since(7, Now(1)));
        landed.note(7, Now(1000));
        assert!(landed.since(7, Now(999)) && landed.since(7, Now(1000)));
        assert!(!landed.since(7, Now(1001)) && !landed.since(8, Now(1)));
        assert!(landed.since(7 + PLACES as u64, Now(1000)), "another question's place may be the same");
    }
}
