//! The bound on queries asked twice: a share of all queries and a small burst, so that hedges cannot double the load of
//! an upstream that is merely slow. It holds from the first query on: the burst too is earned, a quarter of a hedge a
//! query.
//!
//! Peers that are dead do not depend on it. Their queries are asked again because the kernel has no acknowledgement
//! (`connection`), or because no dial succeeds; a budget is only wanted where a peer that lives does not answer.

/// A token bucket that queries fill and hedges empty. Time fills nothing: a node with little traffic has little to hedge.
#[derive(Debug)]
pub(super) struct HedgeBudget {
    share: f64,
    tokens: f64,
    /// What is left of the burst to be earned.
    early: f64,
    /// What hedges of heads may take: where they never win, names are slow and no peer is lost.
    head_credit: f64,
}

/// How badly a hedge is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// The query is the oldest of its connection: its name may just be slow. Granted as long as such hedges win; where
    /// they do not, they get half of what there is at most, and a few at a time.
    Head,
    /// The query waits behind an older one on a connection that is served in order.
    Behind,
}

impl HedgeBudget {
    /// Room for a single hedge; `share` 0 means that nothing is ever hedged.
    pub(super) fn new(share: f64) -> Self {
        let (first, early) = if share > 0.0 { (FIRST, EARLY) } else { (0.0, 0.0) };
        Self { share, tokens: first, early, head_credit: first }
    }

    /// One query was asked.
    pub(super) fn earn(&mut self) {
        let early = self.early.min(EARLY_SHARE);
        self.early -= early;
        self.tokens = (self.tokens + self.share + early).min(BURST);
        self.head_credit = (self.head_credit + HEAD_PART * (self.share + early)).min(HEAD_CREDIT);
    }

    /// Takes a token, if there is one for this need.
    pub(super) fn take(&mut self, need: Need) -> bool {
        let head = f64::from(u8::from(need == Need::Head));
        let granted = self.tokens >= 1.0 && self.head_credit >= head;
        if granted {
            self.tokens -= 1.0;
            self.head_credit -= head;
        }
        granted
    }

    /// A hedge was answered before the query it stood in for.
    pub(super) fn won(&mut self) {
        self.head_credit = (self.head_credit + HEAD_CREDIT_OF_A_WIN).min(HEAD_CREDIT);
    }
}

/// Hedges that may go out at once, after many queries without one.
pub(super) const BURST: f64 = 64.0;
/// Hedges before any query has earned one: the very first may meet a connection that hangs.
const FIRST: f64 = 1.0;
/// Hedges that a new group's first queries earn beyond their share.
const EARLY: f64 = 16.0;
/// The part of them that one query earns.
const EARLY_SHARE: f64 = 0.25;
/// What heads get of all that is earned, where they never win.
const HEAD_PART: f64 = 0.5;
/// Hedges of heads that may lose in a row.
const HEAD_CREDIT: f64 = 8.0;
/// A win pays for itself and two that lose: of two endpoints behind a service IP one may be gone.
const HEAD_CREDIT_OF_A_WIN: f64 = 3.0;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Hedges granted when each of so many queries wants `wanted` of them.
    fn hedges(share: f64, queries: u32, need: Need, wanted: u32) -> u32 {
        let mut budget = HedgeBudget::new(share);
        let mut granted = 0;
        for _ in 0..queries {
            budget.earn();
            granted += (0..wanted).filter(|_| budget.take(need)).count() as u32;
        }
        granted
    }

    #[test]
    fn a_share_of_nothing_hedges_nothing() {
        assert_eq!(hedges(0.0, 1_000, Need::Behind, 4), 0);
    }

    #[test]
    fn a_cold_upstream_is_not_asked_twice() {
        assert_eq!(hedges(0.05, 1, Need::Head, 4), 1);
        assert_eq!(hedges(0.05, 10, Need::Head, 4), 2);
        assert_eq!(hedges(0.05, 10, Need::Behind, 4), 4);
        assert_eq!(hedges(0.05, 64, Need::Head, 4), 1 + 8 + 1);
        assert_eq!(hedges(0.05, 1_000, Need::Head, 4), 1 + 8 + 25);
    }

    #[test]
    fn a_warm_upstream_that_becomes_slow_is_not_asked_twice_either() {
        let mut budget = HedgeBudget::new(0.05);
        (0..10_000).for_each(|_| budget.earn());
        let heads = (0..1_000).filter(|_| budget.take(Need::Head)).count();
        let behind = (0..1_000).filter(|_| budget.take(Need::Behind)).count();
        assert_eq!((heads, behind), (8, 56), "heads leave most of the burst to those behind");
    }

    #[test]
    fn heads_are_hedged_as_long_as_that_helps() {
        let mut budget = HedgeBudget::new(0.5);
        let mut sent = 0;
        for _ in 0..2_000 {
            budget.earn();
            if budget.take(Need::Head) {
                sent += 1;
                if sent % 3 == 0 {
                    budget.won();
                }
            }
        }
        assert!(sent >= 1_000, "all of the share, {sent}");
    }

    proptest! {
        #[test]
        fn never_more_than_the_share_and_a_burst_that_is_earned(
            asks in proptest::collection::vec((0u32..5, any::<bool>(), any::<bool>()), 0..3_000),
            share in 0.001f64..0.5,
        ) {
            let mut budget = HedgeBudget::new(share);
            let mut hedges = 0;
            for (queries, (wanted, head, wins)) in (1u32..).zip(asks) {
                budget.earn();
                for _ in 0..wanted {
                    if budget.take(if head { Need::Head } else { Need::Behind }) {
                        hedges += 1;
                        if wins {
                            budget.won();
                        }
                    }
                }
                let queries = f64::from(queries);
                let bound = FIRST + share * queries + EARLY.min(EARLY_SHARE * queries);
                prop_assert!(f64::from(hedges) <= bound + 1e-6, "{hedges} > {bound}");
            }
        }
    }
}
