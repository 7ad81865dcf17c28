//! When the miss thread lets replies gather.
//!
//! A thread that wakes for each of an upstream's replies reads, acknowledges and sends them one by one. Under a load of misses
//! it pays to let them gather for a moment: with fewer acknowledgements the upstream has less to do as well (measured:
//! docs/performance.md).
//!
//! That many wait is not enough to tell: a hundred may wait for an upstream that is dead or far away, and a lookup in another
//! zone, which takes a fraction of a millisecond, would be held up by as much again for nothing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use prometheus::IntGauge;

/// What tells how busy the miss thread is.
pub(super) struct Gathering {
    /// Clients that wait.
    waiting: IntGauge,
    /// Clients answered so far.
    answered: Arc<AtomicU64>,
    rate: Mutex<Rate>,
}

impl Gathering {
    pub(super) fn new(waiting: IntGauge, answered: Arc<AtomicU64>) -> Self {
        Self { waiting, answered, rate: Mutex::new(Rate::new(Instant::now())) }
    }

    /// To be called when all that was ready is done, and sent.
    pub(super) fn pause(&self) {
        if self.waiting.get() >= CROWD {
            let mut rate = self.rate.lock().unwrap_or_else(PoisonError::into_inner);
            let is_high = rate.is_high(Instant::now(), self.answered.load(Ordering::Relaxed));
            drop(rate);
            if is_high {
                thread::sleep(GATHER);
            }
        }
    }
}

/// How many clients are answered in a time, as of the last whole [`WINDOW`].
struct Rate {
    /// When the window began, and how many were answered then.
    begun: (Instant, u64),
    is_high: bool,
}

impl Rate {
    fn new(now: Instant) -> Self {
        Self { begun: (now, 0), is_high: false }
    }

    /// Whether each pause would gather several answers.
    fn is_high(&mut self, now: Instant, answered: u64) -> bool {
        let (since, before) = self.begun;
        let window = now.saturating_duration_since(since);
        if window >= WINDOW {
            let of_one = window / u32::try_from(answered - before).unwrap_or(u32::MAX).max(1);
            self.is_high = of_one <= PACE;
            self.begun = (now, answered);
        }
        self.is_high
    }
}

/// Clients that wait, from which on a pause is little beside the wait.
const CROWD: i64 = 32;
/// How long a pause is, beside the kernel's slack for timers, up to 50 µs.
const GATHER: Duration = Duration::from_micros(150);
/// Time of one answer from which on it is no load to gather for: 20,000 a second, three in a pause.
const PACE: Duration = Duration::from_micros(50);
/// How long answers are counted before their rate is told: longer than an upstream that shares its processor waits for its turn.
const WINDOW: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_gather_at_a_high_rate_only_and_not_in_a_crowd_that_is_not_answered() {
        let start = Instant::now();
        let mut rate = Rate::new(start);
        let at = |micros| start + Duration::from_micros(micros);
        assert!(!rate.is_high(at(100), 50), "nothing is known yet");
        assert!(rate.is_high(at(10_000), 500), "50,000 a second");
        assert!(rate.is_high(at(19_999), 500), "as of the last whole window");
        assert!(!rate.is_high(at(20_000), 550), "5,000 a second");
        assert!(!rate.is_high(at(1_020_000), 19_550), "19,000 a second, over a long time");
        assert!(rate.is_high(at(1_030_000), 19_750), "20,000 a second");
        assert!(!rate.is_high(at(1_040_000), 19_750), "none");
    }
}
