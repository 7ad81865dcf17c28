//! Which endpoint of a group is asked first.

use std::time::Duration;

use crate::config::Policy;

/// What the choice looks at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    /// Answers, as far as is known.
    pub(super) up: bool,
    /// Already asked for this query.
    pub(super) tried: bool,
    /// Failed, or let another endpoint win, a moment ago.
    pub(super) doubted: bool,
    /// The smoothed round trip, once known.
    pub(super) rtt: Option<Duration>,
}

impl Candidate {
    /// Lower is better.
    fn rank(&self) -> u8 {
        (u8::from(self.tried) << 1) | u8::from(self.doubted)
    }
}

/// The index of the endpoint to ask, among the best of those that are up: not tried before not doubted. `turn` counts the
/// queries of the group; `random` is uniform. Nothing if every endpoint is down.
pub(super) fn choose(policy: Policy, candidates: &[Candidate], turn: u32, random: u32) -> Option<usize> {
    let best = candidates.iter().filter(|c| c.up).map(Candidate::rank).min()?;
    let eligible = |c: &Candidate| c.up && c.rank() == best;
    let count = candidates.iter().filter(|c| eligible(c)).count();
    let nth =
        |n: usize| candidates.iter().enumerate().filter(|(_, c)| eligible(c)).nth(n).map(|(index, _)| index);
    match policy {
        Policy::Random => nth(random as usize % count),
        Policy::RoundRobin => nth(turn as usize % count),
        Policy::Sequential => nth(0),
        // An endpoint without an estimate is asked at once, and any now and then: estimates age.
        Policy::Latency if random.is_multiple_of(EXPLORE_ONE_IN) => {
            nth((random / EXPLORE_ONE_IN) as usize % count)
        }
        Policy::Latency => candidates
            .iter()
            .enumerate()
            .filter(|(_, c)| eligible(c))
            .min_by_key(|(_, c)| c.rtt.unwrap_or_default())
            .map(|(index, _)| index),
    }
}

/// One query in so many goes to an endpoint that need not be the fastest.
const EXPLORE_ONE_IN: u32 = 32;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn candidate(up: bool, tried: bool, millis: u64) -> Candidate {
        Candidate { up, tried, doubted: false, rtt: Some(Duration::from_millis(millis)) }
    }

    #[test]
    fn each_policy_chooses_as_it_says() {
        let three = [candidate(true, false, 9), candidate(true, false, 3), candidate(true, false, 5)];
        assert_eq!(choose(Policy::Sequential, &three, 7, 7), Some(0));
        assert_eq!(choose(Policy::Latency, &three, 7, 7), Some(1));
        let turns: Vec<_> = (0..4).filter_map(|turn| choose(Policy::RoundRobin, &three, turn, 7)).collect();
        assert_eq!(turns, [0, 1, 2, 0]);
        let mut seen = [0u32; 3];
        for random in 0..300 {
            seen[choose(Policy::Random, &three, 0, random).unwrap()] += 1;
        }
        assert_eq!(seen, [100, 100, 100]);
    }

    #[test]
    fn latency_asks_the_unknown_and_explores() {
        let mut two = [candidate(true, false, 1), candidate(true, false, 90)];
        let explored =
            (0..3_200).filter(|random| choose(Policy::Latency, &two, 0, *random) == Some(1)).count();
        assert_eq!(explored, 50, "half of one in 32");
        two[1].rtt = None;
        assert_eq!(choose(Policy::Latency, &two, 0, 1), Some(1));
    }

    proptest! {
        #[test]
        fn never_a_dead_one_and_a_tried_one_only_as_the_last(
            states in proptest::collection::vec((any::<bool>(), any::<bool>(), any::<bool>()), 0..6),
            turn: u32,
            random: u32,
        ) {
            let candidates: Vec<_> = states
                .into_iter()
                .map(|(up, tried, doubted)| Candidate { doubted, ..candidate(up, tried, 1) })
                .collect();
            for policy in [Policy::Random, Policy::RoundRobin, Policy::Sequential, Policy::Latency] {
                match choose(policy, &candidates, turn, random) {
                    None => prop_assert!(candidates.iter().all(|c| !c.up)),
                    Some(index) => {
                        prop_assert!(candidates[index].up);
                        if candidates[index].tried {
                            prop_assert!(candidates.iter().all(|c| !c.up || c.tried));
                        }
                        if candidates[index].doubted && !candidates[index].tried {
                            prop_assert!(candidates.iter().all(|c| !c.up || c.tried || c.doubted));
                        }
                    }
                }
            }
        }
    }
}
