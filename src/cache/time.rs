//! Time as the cache counts it.

/// Milliseconds of a monotonic clock. Read once per batch or event, and handed down as a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Now(pub u64);

impl Now {
    /// Milliseconds from `earlier` to this; 0 if it is later.
    pub fn millis_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Whole seconds from `earlier` to this, rounded down: an age as TTLs count it.
    pub fn seconds_since(self, earlier: Self) -> u32 {
        u32::try_from(self.millis_since(earlier) / 1000).unwrap_or(u32::MAX)
    }

    /// So many milliseconds later.
    #[must_use]
    pub fn plus_millis(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis))
    }

    /// So many seconds later.
    #[must_use]
    pub fn plus_secs(self, seconds: u32) -> Self {
        self.plus_millis(u64::from(seconds) * 1000)
    }
}
