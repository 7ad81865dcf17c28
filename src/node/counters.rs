//! What the guards count.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of the guards, from the start of the process on.
#[derive(Debug, Default)]
pub struct Counters {
    interface_repairs: AtomicU64,
    rule_repairs: AtomicU64,
    failures: AtomicU64,
}

impl Counters {
    /// Times the interface or an address was put back.
    pub fn interface_repairs(&self) -> u64 {
        self.interface_repairs.load(Ordering::Relaxed)
    }

    /// Times rules were put back.
    pub fn rule_repairs(&self) -> u64 {
        self.rule_repairs.load(Ordering::Relaxed)
    }

    /// Checks and repairs that failed; each is in the log.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    pub(crate) fn count_interface_repair(&self) {
        self.interface_repairs.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_rule_repair(&self) {
        self.rule_repairs.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_failure(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }
}
