//! The bound on queries asked twice: a share of all queries, and a small burst, so that hedges cannot double the load
//! of an upstream that is merely slow.

use tokio::time::Instant;

/// A token bucket that queries fill and hedges empty.
#[derive(Debug)]
pub(super) struct HedgeBudget {
    share: f64,
    tokens: f64,
    /// What hedges of heads have earned by winning: where they never win, names are slow and no peer is lost.
    head_credit: f64,
    refilled: Instant,
}

/// How badly a hedge is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// The query is the oldest of its connection: its name may just be slow. Leaves half of the burst to the others,
    /// and is granted as long as such hedges win.
    Head,
    /// The query waits behind an older one on a connection that is served in order.
    Behind,
}

impl HedgeBudget {
    /// A full bucket; `share` 0 means that nothing is ever hedged.
    pub(super) fn new(share: f64, now: Instant) -> Self {
        Self { share, tokens: if share > 0.0 { BURST } else { 0.0 }, head_credit: HEAD_CREDIT, refilled: now }
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
        self.head_credit = (self.head_credit + elapsed * HEAD_CREDIT_PER_SECOND).min(HEAD_CREDIT);
        let granted = match need {
            Need::Head => self.tokens >= BURST / 2.0 + 1.0 && self.head_credit >= 1.0,
            Need::Behind => self.tokens >= 1.0,
        };
        if granted {
            self.tokens -= 1.0;
            self.head_credit -= f64::from(u8::from(need == Need::Head));
        }
        granted
    }

    /// A hedge was answered before the query it stood in for.
    pub(super) fn won(&mut self) {
        self.head_credit = (self.head_credit + HEAD_CREDIT_OF_A_WIN).min(HEAD_CREDIT);
    }
}

/// Hedges that may go out at once, after a quiet while.
const BURST: f64 = 64.0;
/// Hedges a second whatever the traffic, so that a node with little traffic recovers as fast as a busy one.
const REFILL_PER_SECOND: f64 = 4.0;
/// Hedges of heads that may lose in a row.
const HEAD_CREDIT: f64 = 32.0;
/// A win pays for itself and two that lose: of two endpoints behind a service IP one may be gone.
const HEAD_CREDIT_OF_A_WIN: f64 = 3.0;
/// Hedges of heads a second that are tried nevertheless.
const HEAD_CREDIT_PER_SECOND: f64 = 1.0;

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

    #[test]
    fn heads_are_hedged_as_long_as_that_helps() {
        let start = Instant::now();
        let hedged = |wins: bool| {
            let mut budget = HedgeBudget::new(1.0, start);
            let mut sent = 0;
            for query in 0..1_000u32 {
                budget.earn();
                if budget.take(Need::Head, start + Duration::from_millis(10) * query) {
                    sent += 1;
                    if wins && sent % 3 == 0 {
                        budget.won();
                    }
                }
            }
            sent
        };
        assert_eq!(hedged(true), 1_000);
        assert_eq!(hedged(false), 32 + 9, "the credit, and one a second");
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
