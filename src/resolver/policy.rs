//! What a zone's settings make of an answer's TTL, and for how long it may be served past it.

use std::time::Duration;

use crate::cache::entry::PrefetchRule;
use crate::config;
use crate::wire::answer::{Answer, Kind};

/// `cache` with a zone's overrides.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Policy {
    min_ttl: u32,
    max_ttl: u32,
    negative_max_ttl: u32,
    prefetch_min_hits: u16,
    prefetch_remaining: f64,
    /// Serving expired answers; `None` where it is off.
    pub(super) stale: Option<Stale>,
    /// How long failures are remembered; `None` where they are not.
    pub(super) failure: Option<FailureTtl>,
}

/// `serve_stale` (RFC 8767).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stale {
    /// Seconds past its TTL for which an answer is kept.
    max_age: u32,
    /// TTL of a stale answer, in seconds (RFC 8767 §4).
    pub(super) answer_ttl: u32,
    /// How long a client waits before it gets a stale answer (RFC 8767 §5).
    pub(super) client_timeout: Duration,
}

/// `failure_ttl` (RFC 9520 §3.2), in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FailureTtl {
    min: u32,
    max: u32,
}

impl Policy {
    /// What `cache` says, unless `zone` says otherwise.
    pub(super) fn new(cache: &config::Cache, zone: &config::ZoneCache) -> Self {
        let stale = zone.serve_stale.as_ref().unwrap_or(&cache.serve_stale).on();
        let prefetch = zone.prefetch.as_ref().unwrap_or(&cache.prefetch).on();
        let failure = FailureTtl { min: cache.failure_ttl.min.as_ttl(), max: cache.failure_ttl.max.as_ttl() };
        Self {
            min_ttl: zone.min_ttl.unwrap_or(cache.min_ttl).as_ttl(),
            max_ttl: zone.max_ttl.unwrap_or(cache.max_ttl).as_ttl(),
            negative_max_ttl: zone.negative_max_ttl.unwrap_or(cache.negative_max_ttl).as_ttl(),
            prefetch_min_hits: prefetch
                .map_or(0, |prefetch| u16::try_from(prefetch.min_hits.max(1)).unwrap_or(u16::MAX)),
            prefetch_remaining: prefetch.map_or(0.0, |prefetch| prefetch.remaining.0),
            stale: stale.map(|stale| Stale {
                max_age: stale.max_age.as_ttl(),
                answer_ttl: stale.answer_ttl.as_ttl(),
                client_timeout: stale.client_timeout.0,
            }),
            failure: (failure.min > 0).then_some(failure),
        }
    }

    /// Bounds the answer's TTLs; whether it may be kept.
    ///
    /// `min_ttl` raises positive answers only: a negative one that is kept for longer than its SOA says would hide a
    /// service that has just been made (RFC 2308 §5). Where caching is off (a largest TTL of 0) TTLs pass untouched.
    pub(super) fn bound(&self, answer: &mut Answer) -> bool {
        let (min, max) = match answer.kind {
            Kind::Positive => (self.min_ttl, self.max_ttl),
            Kind::NoData | Kind::NxDomain => (0, self.negative_max_ttl),
            Kind::Failure => return false,
        };
        if max == 0 {
            return false;
        }
        answer.clamp_ttls(min, max);
        answer.ttl > 0
    }

    /// Whether an answer that was kept for `ttl` seconds could have been kept for so long under this policy.
    pub(super) fn allows(&self, kind: Kind, ttl: u32) -> bool {
        match kind {
            Kind::Positive => ttl <= self.max_ttl,
            Kind::NoData | Kind::NxDomain => ttl <= self.negative_max_ttl,
            Kind::Failure => self.failure.is_some_and(|failure| ttl <= failure.max),
        }
    }

    /// Seconds past its TTL for which an answer is kept.
    pub(super) fn stale_for(&self) -> u32 {
        self.stale.map_or(0, |stale| stale.max_age)
    }

    /// When an answer that lives for `ttl` seconds is refreshed ahead of time.
    pub(super) fn prefetch(&self, ttl: u32) -> PrefetchRule {
        let window = (f64::from(ttl) * self.prefetch_remaining).ceil();
        // `as` saturates, and the share is at most 1.
        #[expect(clippy::cast_sign_loss, reason = "a TTL times a share is not negative")]
        PrefetchRule { min_hits: self.prefetch_min_hits, window: window as u16 }
    }
}

impl FailureTtl {
    /// Seconds to remember a failure that follows `failures` others: doubled each time (RFC 9520 §3.2).
    pub(super) fn after(self, failures: u8) -> u32 {
        self.min.saturating_mul(1 << failures.min(16)).min(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{HumanDuration, ZoneCache};

    fn policy(zone: &ZoneCache) -> Policy {
        Policy::new(&config::Cache::default(), zone)
    }

    fn answer(kind: Kind, ttl: u32) -> Answer {
        Answer::empty(0, kind, ttl)
    }

    #[test]
    fn ttls_are_bounded_by_kind() {
        let zone = ZoneCache { min_ttl: Some(HumanDuration::from_secs(10)), ..ZoneCache::default() };
        let policy = policy(&zone);
        for (kind, ttl, bounded) in [
            (Kind::Positive, 5, 10),
            (Kind::Positive, 60, 60),
            (Kind::Positive, 86_400, 3600),
            (Kind::NxDomain, 5, 5),
            (Kind::NoData, 900, 30),
        ] {
            let mut answer = answer(kind, ttl);
            assert!(policy.bound(&mut answer), "{kind:?} {ttl}");
            assert_eq!(answer.ttl, bounded, "{kind:?} {ttl}");
        }
    }

    #[test]
    fn rfc1035_a_ttl_of_0_is_not_kept_and_never_raised() {
        let zone = ZoneCache { min_ttl: Some(HumanDuration::from_secs(10)), ..ZoneCache::default() };
        let mut zero = answer(Kind::Positive, 0);
        assert!(!policy(&zone).bound(&mut zero));
        assert_eq!(zero.ttl, 0);
    }

    #[test]
    fn a_largest_ttl_of_0_turns_caching_off_and_leaves_ttls_alone() {
        let zone = ZoneCache {
            max_ttl: Some(HumanDuration::from_secs(0)),
            negative_max_ttl: Some(HumanDuration::from_secs(0)),
            ..ZoneCache::default()
        };
        for kind in [Kind::Positive, Kind::NxDomain] {
            let mut answer = answer(kind, 60);
            assert!(!policy(&zone).bound(&mut answer));
            assert_eq!(answer.ttl, 60);
        }
    }

    #[test]
    fn rfc9520_failures_are_remembered_twice_as_long_each_time_up_to_the_maximum() {
        let failure = policy(&ZoneCache::default()).failure.unwrap();
        let ttls: Vec<_> = [0, 1, 2, 3, 4, 5, 200].map(|failures| failure.after(failures)).into();
        assert_eq!(ttls, [1, 2, 4, 8, 16, 30, 30]);
    }

    #[test]
    fn the_prefetch_window_is_a_share_of_the_ttl() {
        let rule = policy(&ZoneCache::default()).prefetch(30);
        assert_eq!((rule.min_hits, rule.window), (5, 3));
        let off = ZoneCache { prefetch: Some(config::Switch::Off), ..ZoneCache::default() };
        assert_eq!(policy(&off).prefetch(30).min_hits, 0);
    }
}
