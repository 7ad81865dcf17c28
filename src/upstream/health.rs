//! Whether an endpoint answers, judged by real traffic; and when one that does not is asked again.

use std::time::Duration;

use tokio::time::Instant;

/// The state of one endpoint.
#[derive(Debug, Default)]
pub(super) struct Health {
    down: bool,
    failures: u32,
    first_failure: Option<Instant>,
    doubted_until: Option<Instant>,
}

impl Health {
    /// Whether the endpoint is known not to answer.
    pub(super) fn is_down(&self) -> bool {
        self.down
    }

    /// A reply arrived, whatever it says. Returns true if the endpoint was down until now.
    pub(super) fn success(&mut self) -> bool {
        self.failures = 0;
        self.first_failure = None;
        self.doubted_until = None;
        std::mem::replace(&mut self.down, false)
    }

    /// A dial failed, a connection turned out dead, or a query ran out of time. Returns true if the endpoint is down
    /// from now on: several failures in a row, over a while, with no reply between them. Behind a service IP half of
    /// all dials may fail while the other endpoint is well; a reply through that one starts the count again.
    pub(super) fn failure(&mut self, now: Instant) -> bool {
        self.doubt(now);
        let first = *self.first_failure.get_or_insert(now);
        self.failures = self.failures.saturating_add(1);
        if self.down || self.failures < DOWN_FAILURES || now.saturating_duration_since(first) < DOWN_AFTER {
            return false;
        }
        self.set_down()
    }

    /// Something speaks against the endpoint: for a moment others are asked first.
    pub(super) fn doubt(&mut self, now: Instant) {
        self.doubted_until = Some(now + DOUBTED_FOR);
    }

    /// Whether others are to be asked first.
    pub(super) fn is_doubted(&self, now: Instant) -> bool {
        self.doubted_until.is_some_and(|until| now < until)
    }

    /// A check of its own found the endpoint silent. Returns true if it was up until now.
    pub(super) fn set_down(&mut self) -> bool {
        !std::mem::replace(&mut self.down, true)
    }
}

/// The wait before the probe after `failed` failed ones: doubling to a bound below a second, so that recovery is seen
/// within one. `jitter` is uniform in 0..1 and spreads the nodes of a cluster by ±10 %.
pub(super) fn probe_delay(failed: u32, jitter: f64) -> Duration {
    let base = PROBE_FIRST.saturating_mul(1 << failed.min(8)).min(PROBE_LAST);
    base.mul_f64(0.9 + 0.2 * jitter)
}

/// At most so many probes a second in all, whatever the number of dead endpoints.
#[derive(Debug, Default)]
pub(super) struct ProbeLimiter {
    next: Option<Instant>,
}

impl ProbeLimiter {
    /// When the next probe may leave; the place is taken by the call.
    pub(super) fn reserve(&mut self, now: Instant) -> Instant {
        let at = self.next.map_or(now, |next| next.max(now));
        self.next = Some(at + PROBE_SPACING);
        at
    }
}

/// Failures in a row.
const DOWN_FAILURES: u32 = 3;
/// The shortest span those failures must cover: longer than one burst of parallel dials.
const DOWN_AFTER: Duration = Duration::from_millis(500);
/// How long an endpoint is passed over after a failure; short enough that failures add up to its being down.
const DOUBTED_FOR: Duration = Duration::from_millis(300);
/// The first probe's wait.
const PROBE_FIRST: Duration = Duration::from_millis(100);
/// The longest wait between two probes of one endpoint. With a probe's own time, 400 ms for one that is lost, an
/// endpoint that returns is seen within a second.
const PROBE_LAST: Duration = Duration::from_millis(400);
/// Five probes a second.
const PROBE_SPACING: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn down_needs_failures_in_a_row_and_a_while() {
        let start = Instant::now();
        let mut health = Health::default();
        for _ in 0..10 {
            assert!(!health.failure(start), "a burst is one event");
        }
        assert!(health.failure(start + DOWN_AFTER));
        assert!(health.is_down());
        assert!(!health.failure(start + DOWN_AFTER), "told once");
        assert!(health.is_doubted(start + DOWN_AFTER));
        assert!(health.success());
        assert!(!health.is_down() && !health.is_doubted(start + DOWN_AFTER));
        assert!(!health.success());
    }

    #[test]
    fn one_reply_starts_the_count_again() {
        let start = Instant::now();
        let mut health = Health::default();
        health.failure(start);
        health.failure(start + DOWN_AFTER);
        health.success();
        assert!(!health.failure(start + 2 * DOWN_AFTER));
        assert!(!health.is_down());
    }

    proptest! {
        #[test]
        fn probes_back_off_within_bounds(failed in 0u32..1_000, jitter in 0.0f64..1.0) {
            let delay = probe_delay(failed, jitter);
            prop_assert!(delay >= PROBE_FIRST.mul_f64(0.89) && delay <= PROBE_LAST.mul_f64(1.11));
        }

        #[test]
        fn never_more_than_five_probes_a_second(asks in proptest::collection::vec(0u64..5_000, 1..100)) {
            let start = Instant::now();
            let mut limiter = ProbeLimiter::default();
            let mut asks = asks;
            asks.sort_unstable();
            let times: Vec<Instant> =
                asks.iter().map(|ms| limiter.reserve(start + Duration::from_millis(*ms))).collect();
            for window in times.windows(6) {
                prop_assert!(window[5] - window[0] >= Duration::from_secs(1));
            }
        }
    }
}
