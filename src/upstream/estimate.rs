//! The round trip to an endpoint, smoothed as TCP does it (RFC 6298), and the delays derived from it.

use std::time::Duration;

/// SRTT and RTTVAR of one endpoint.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RttEstimator {
    /// Seconds; nothing before the first sample.
    smoothed: Option<f64>,
    variation: f64,
}

impl RttEstimator {
    /// Takes one round trip in. A sample above one and a half times the mean counts as just that: names that take
    /// seconds upstream, and those caught behind them, must not carry the estimate away as long as they are less than
    /// half of all, while a lasting change still does, by some 6 % a sample.
    pub(super) fn observe(&mut self, sample: Duration) {
        let sample = sample.as_secs_f64();
        let Some(smoothed) = self.smoothed else {
            // RFC 6298 §2.2.
            self.smoothed = Some(sample.min(FIRST_SAMPLE_CAP));
            self.variation = sample.min(FIRST_SAMPLE_CAP) / 2.0;
            return;
        };
        let sample = sample.min((SAMPLE_CLIP * smoothed).max(SAMPLE_FLOOR));
        // RFC 6298 §2.3: beta 1/4, alpha 1/8, the variation first.
        self.variation += ((smoothed - sample).abs() - self.variation) / 4.0;
        self.smoothed = Some(smoothed + (sample - smoothed) / 8.0);
    }

    /// The smoothed round trip, once there was one.
    pub(super) fn smoothed(&self) -> Option<Duration> {
        self.smoothed.map(Duration::from_secs_f64)
    }

    /// How long a query may go unanswered before it is asked a second time elsewhere.
    pub(super) fn hedge_delay(&self) -> Duration {
        self.bounded(HEDGE_UNKNOWN, HEDGE_FLOOR, HEDGE_CAP)
    }

    /// How long a datagram may go unanswered before it counts as lost (RFC 6298 §2, RFC 8085 §3.1.1).
    pub(super) fn retransmit_delay(&self) -> Duration {
        self.bounded(RETRANSMIT_FLOOR, RETRANSMIT_FLOOR, RETRANSMIT_CAP)
    }

    /// The age of its oldest unanswered query from which on a connection is passed over.
    pub(super) fn blocked_after(&self) -> Duration {
        // Of the mean alone: each slow name would widen the variation, and with it the wait behind the next.
        self.smoothed()
            .map_or(BLOCKED_UNKNOWN, |rtt| (rtt * BLOCKED_ROUND_TRIPS).clamp(BLOCKED_FLOOR, BLOCKED_CAP))
    }

    /// How long a dial may take before further ones are started beside it.
    pub(super) fn dial_stall(&self) -> Duration {
        self.bounded(HEDGE_UNKNOWN, HEDGE_FLOOR, HEDGE_CAP)
    }

    /// How long a dial may take in all.
    pub(super) fn dial_limit(&self) -> Duration {
        Duration::from_secs_f64(self.raw() * DIAL_ROUND_TRIPS).clamp(DIAL_FLOOR, DIAL_CAP)
    }

    fn bounded(&self, unknown: Duration, floor: Duration, cap: Duration) -> Duration {
        match self.smoothed {
            None => unknown,
            Some(_) => Duration::from_secs_f64(self.raw()).clamp(floor, cap),
        }
    }

    /// SRTT + 4 RTTVAR, in seconds.
    fn raw(&self) -> f64 {
        self.smoothed.unwrap_or_default() + 4.0 * self.variation
    }
}

/// Hedges sooner than this would mostly chase the scheduler, not a lost peer.
const HEDGE_FLOOR: Duration = Duration::from_millis(25);
/// Hedges later than this would let a client's 1 s budget pass.
const HEDGE_CAP: Duration = Duration::from_millis(400);
/// RFC 6298 §2.1 and §2.4 want a second, before the first sample and at least.
const RETRANSMIT_FLOOR: Duration = Duration::from_secs(1);
/// Leaves room for two more within the default time of a lookup.
const RETRANSMIT_CAP: Duration = Duration::from_millis(1_500);
/// Before the first sample.
const HEDGE_UNKNOWN: Duration = Duration::from_millis(100);
/// The round trips after which a connection is passed over.
const BLOCKED_ROUND_TRIPS: u32 = 3;
/// A connection of a cluster's own DNS, with round trips of some 0.2 ms, is passed over after this.
const BLOCKED_FLOOR: Duration = Duration::from_millis(3);
const BLOCKED_CAP: Duration = Duration::from_millis(200);
const BLOCKED_UNKNOWN: Duration = Duration::from_millis(50);
/// A dial may take so many retransmission times.
const DIAL_ROUND_TRIPS: f64 = 4.0;
/// Shortest limit of a dial.
const DIAL_FLOOR: Duration = Duration::from_millis(400);
/// Longest limit of a dial: the first SYN's retransmission comes after 1 s (RFC 6298 §2.1), a new dial is no later.
const DIAL_CAP: Duration = Duration::from_secs(1);
/// Multiple of the mean at which a sample is clipped.
const SAMPLE_CLIP: f64 = 1.5;
/// Seconds: what the clipping of samples leaves alone.
const SAMPLE_FLOOR: f64 = 0.002;
/// Seconds: a first query that had to wait for a dial or a slow name says little.
const FIRST_SAMPLE_CAP: f64 = 0.05;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn settled(millis: f64) -> RttEstimator {
        let mut rtt = RttEstimator::default();
        for _ in 0..100 {
            rtt.observe(Duration::from_secs_f64(millis / 1e3));
        }
        rtt
    }

    #[test]
    fn settles_on_a_steady_round_trip() {
        let rtt = settled(10.0);
        let smoothed = rtt.smoothed().unwrap().as_secs_f64();
        assert!((smoothed - 0.010).abs() < 0.0005, "{smoothed}");
        assert_eq!(rtt.hedge_delay(), HEDGE_FLOOR);
    }

    #[test]
    fn slow_names_leave_the_delays_short() {
        let mut rtt = settled(5.0);
        for round in 0..3_000 {
            // One name in ten, its hedge, and two that were caught behind.
            let slow = round % 10 < 4;
            rtt.observe(if slow { Duration::from_secs(3) } else { Duration::from_millis(5) });
            assert!(rtt.hedge_delay() < Duration::from_millis(50), "{:?}", rtt.hedge_delay());
            assert!(rtt.blocked_after() < Duration::from_millis(40), "{:?}", rtt.blocked_after());
        }
    }

    #[test]
    fn follows_a_lasting_change() {
        let mut rtt = settled(0.3);
        for _ in 0..150 {
            rtt.observe(Duration::from_millis(120));
        }
        let smoothed = rtt.smoothed().unwrap();
        assert!(smoothed > Duration::from_millis(100), "{smoothed:?}");
    }

    proptest! {
        #[test]
        fn delays_stay_in_their_bounds(samples in proptest::collection::vec(0u64..10_000_000, 0..200)) {
            let mut rtt = RttEstimator::default();
            for sample in samples {
                rtt.observe(Duration::from_micros(sample));
                prop_assert!((HEDGE_FLOOR..=HEDGE_CAP).contains(&rtt.hedge_delay()));
                prop_assert!((BLOCKED_FLOOR..=BLOCKED_CAP).contains(&rtt.blocked_after()));
            }
        }
    }
}
