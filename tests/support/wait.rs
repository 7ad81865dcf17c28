//! Waiting for a condition, with a deadline.

#![allow(dead_code, unreachable_pub, reason = "each test file includes this and uses its part")]

use std::thread;
use std::time::{Duration, Instant};

/// Waits until `condition` holds. Panics with `what` when it does not within `limit`.
pub fn eventually(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Seconds as a duration.
pub const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
