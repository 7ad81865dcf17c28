//! The bound on queries asked twice: a share of all queries, and a small burst, so that hedges cannot double the load
//! of an upstream that is merely slow.

use tokio::time::Instant;

/// A token bucket that queries fill and hedges empty.
#[derive(Debug)]
pub(super) struct HedgeBudget {
    share: f64,
    tokens: f64,
    refilled: Instant,
}

/// How badly a hedge is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// The query is the oldest of its connection: its name may just be slow. Leaves half of the burst to the others.
    Head,
    /// The query waits behind an older one on a connection that is served in order.
    Behind,
}

impl HedgeBudget {
    /// A full bucket; `share` 0 means that nothing is ever hedged.
    pub(super) fn new(share: f64, now: Instant) -> Self {
        Self { share, tokens: if share > 0.0 { BURST } else { 0.0 }, refilled: now }
    }

    /// One query was asked.
    pub(super) fn earn(&mut self) {
        self.tokens = (self.tokens + self.share).min(BURST);
    }

    /// Takes a token, if there is one for this need.
    pub(super) fn take(&mut self, need: Need, now: Instant) -> bool {
        if self.share <= 0.0 {
            return false;
        }
        let elapsed = now.saturating_duration_since(self.refilled).as_secs_f64();
        self.refilled = now;
        self.tokens = (self.tokens + elapsed * REFILL_PER_SECOND).min(BURST);
        let floor = match need {
            Need::Head => BURST / 2.0,
            Need::Behind => 0.0,
        };
        let granted = self.tokens >= floor + 1.0;
        if granted {
            self.tokens -= 1.0;
        }
        granted
    }
}

/// Hedges that may go out at once, after a quiet while.
const BURST: f64 = 64.0;
/// Hedges a second whatever the traffic, so that a node with little traffic recovers as fast as a busy one.
const REFILL_PER_SECOND: f64 = 4.0;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_share_of_nothing_hedges_nothing() {
        let mut budget = HedgeBudget::new(0.0, Instant::now());
        for _ in 0..1_000 {
            budget.earn();
        }
        assert!(!budget.take(Need::Behind, Instant::now() + Duration::from_mins(1)));
    }

    #[test]
    fn heads_leave_half_to_those_behind() {
        let now = Instant::now();
        let mut budget = HedgeBudget::new(0.05, now);
        let heads = (0..1_000).filter(|_| budget.take(Need::Head, now)).count();
        let behind = (0..1_000).filter(|_| budget.take(Need::Behind, now)).count();
        assert_eq!((heads, behind), (32, 32));
    }

    proptest! {
        #[test]
        fn never_more_than_the_share_and_the_burst(queries in 0u32..5_000, share in 0.0f64..0.5, seconds in 0u64..30) {
            let start = Instant::now();
            let mut budget = HedgeBudget::new(share, start);
            let mut hedges = 0u32;
            for query in 0..queries {
                budget.earn();
                let now = start + Duration::from_secs(seconds) * query / queries;
                hedges += u32::from(budget.take(Need::Behind, now));
            }
            let bound = f64::from(queries) * share + BURST + seconds as f64 * REFILL_PER_SECOND;
            prop_assert!(f64::from(hedges) <= bound + 1e-6, "{hedges} > {bound}");
        }
    }
}
