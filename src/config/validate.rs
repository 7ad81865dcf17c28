//! What types alone do not say: bounds, and how one key limits another. Every check runs; none stops the next.

mod sockets;
mod zones;

use std::fmt::Display;
use std::ops::RangeInclusive;

pub(super) use zones::is_type;

use super::error::Problem;
use super::schema::{Cache, Config, FailureTtl, Listen, Prefetch, ServeStale, Workers};
use super::units::{ByteSize, HumanDuration, Switch};

/// One thing wrong, before it is known where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) path: String,
    pub(super) found: String,
    pub(super) expected: String,
}

impl Finding {
    pub(super) fn new(path: String, found: &str, expected: &str) -> Self {
        Self { path, found: found.to_owned(), expected: expected.to_owned() }
    }

    pub(super) fn from(self, origin: &str) -> Problem {
        let Self { path, found, expected } = self;
        Problem { origin: origin.to_owned(), path, found, expected }
    }
}

/// Whether the files that a configuration names are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Files {
    /// They must be there.
    Checked,
    /// They may be gone.
    Ignored,
}

/// Everything wrong with a configuration.
pub(super) fn validate(config: &Config, files: Files) -> Vec<Finding> {
    let mut findings = Findings { found: Vec::new(), files };
    listen(&config.listen, &mut findings);
    cache(&config.cache, &mut findings);
    limits(config, &mut findings);
    sockets::check(config, &mut findings);
    zones::check(config, &mut findings);
    findings.found
}

/// A value as messages show it, cut to one bearable line.
pub(super) fn quoted(value: &str) -> String {
    const LONGEST: usize = 80;
    match value.char_indices().nth(LONGEST) {
        None => value.to_owned(),
        Some((end, _)) => format!("{}…", &value[..end]),
    }
}

struct Findings {
    found: Vec<Finding>,
    files: Files,
}

impl Findings {
    fn add(&mut self, path: impl Into<String>, found: impl Display, expected: impl Into<String>) {
        let (path, expected) = (path.into(), expected.into());
        self.found.push(Finding { path, found: quoted(&found.to_string()), expected });
    }

    /// Notes a value that lies outside of its bounds.
    fn within<T: PartialOrd + Display>(&mut self, path: &str, value: T, bounds: RangeInclusive<T>) {
        if !bounds.contains(&value) {
            self.add(path, value, format!("{} to {}", bounds.start(), bounds.end()));
        }
    }

    /// Notes a TTL that is not whole seconds or above `largest`.
    fn ttl(&mut self, path: &str, ttl: HumanDuration, largest: HumanDuration) {
        if ttl.0.subsec_nanos() != 0 {
            self.add(path, ttl, "whole seconds: a TTL has no finer unit");
        }
        self.within(path, ttl, SECONDS_0..=largest);
    }
}

/// Longest TTL taken from anyone (RFC 8767 §4 suggests a bound of 7 days), and longest that a stale answer is kept.
const LONGEST_TTL: HumanDuration = HumanDuration::from_secs(7 * 86_400);

/// Longest that a failure may be remembered (RFC 9520 §3.2).
const LONGEST_FAILURE: HumanDuration = HumanDuration::from_secs(300);

/// Receive buffers are asked for as a C int, which the kernel doubles (socket(7)).
const LARGEST_RECEIVE_BUFFER: ByteSize = ByteSize::from_mib(512);

/// Largest byte budget: above it a unit was mistaken, for no node has this to spare for DNS.
const LARGEST_BUDGET: ByteSize = ByteSize(64 << 30);

/// Smallest byte budget of a cache, in which some hundred answers fit.
const SMALLEST_BUDGET: ByteSize = ByteSize(64 << 10);

const SECONDS_0: HumanDuration = HumanDuration::from_secs(0);
const SECONDS_1: HumanDuration = HumanDuration::from_secs(1);
const MILLIS_1: HumanDuration = HumanDuration::from_millis(1);

fn listen(listen: &Listen, findings: &mut Findings) {
    if let Workers::Count(count) = listen.workers {
        findings.within("listen.workers", count, 1..=256);
    }
    findings.within("listen.receive_buffer", listen.receive_buffer, SMALLEST_BUDGET..=LARGEST_RECEIVE_BUFFER);
    // RFC 9715 R3 and R6: nothing below RFC 1035's 512 makes sense, nothing above 4096 passes unfragmented anywhere.
    findings.within("listen.max_udp_payload", listen.max_udp_payload, 512..=4096);
    findings.within("listen.tcp.max_connections", listen.tcp.max_connections, 1..=1_000_000);
    findings.within(
        "listen.tcp.max_connections_per_client",
        listen.tcp.max_connections_per_client,
        1..=1_000_000,
    );
    findings.within(
        "listen.tcp.idle_timeout",
        listen.tcp.idle_timeout,
        MILLIS_1..=HumanDuration::from_secs(3600),
    );
    findings.within("listen.drain", listen.drain, SECONDS_0..=HumanDuration::from_secs(300));
}

fn cache(cache: &Cache, findings: &mut Findings) {
    for (path, size) in [
        ("cache.size", cache.size),
        ("cache.negative_size", cache.negative_size),
        ("cache.failure_size", cache.failure_size),
        ("cache.near_size", cache.near_size),
    ] {
        findings.within(path, size, SMALLEST_BUDGET..=LARGEST_BUDGET);
    }
    ttl_bounds("cache", cache.min_ttl, cache.max_ttl, findings);
    findings.ttl("cache.max_ttl", cache.max_ttl, LONGEST_TTL);
    findings.ttl("cache.min_ttl", cache.min_ttl, LONGEST_TTL);
    findings.ttl("cache.negative_max_ttl", cache.negative_max_ttl, LONGEST_TTL);
    failure_ttl(&cache.failure_ttl, findings);
    serve_stale("cache", &cache.serve_stale, findings);
    prefetch("cache", &cache.prefetch, findings);
}

/// `max_ttl` 0s turns caching off, so `min_ttl` bounds nothing then. A negative answer's TTL is capped after
/// `min_ttl` raised it, so these two need no check.
fn ttl_bounds(path: &str, min: HumanDuration, max: HumanDuration, findings: &mut Findings) {
    if min > max && max > SECONDS_0 {
        findings.add(format!("{path}.min_ttl"), min, format!("at most max_ttl, which is {max}"));
    }
}

fn failure_ttl(ttl: &FailureTtl, findings: &mut Findings) {
    findings.ttl("cache.failure_ttl.min", ttl.min, LONGEST_FAILURE);
    if ttl.min > SECONDS_0 {
        findings.within("cache.failure_ttl.max", ttl.max, SECONDS_1..=LONGEST_FAILURE);
        if ttl.min > ttl.max {
            findings.add(
                "cache.failure_ttl.min",
                ttl.min,
                format!("at most failure_ttl.max, which is {}", ttl.max),
            );
        }
    }
}

fn serve_stale(path: &str, setting: &Switch<ServeStale>, findings: &mut Findings) {
    let Switch::On(stale) = setting else { return };
    let path = format!("{path}.serve_stale");
    findings.within(&format!("{path}.max_age"), stale.max_age, SECONDS_1..=LONGEST_TTL);
    // RFC 8767 §4: a TTL of 0 would make clients ask again at once; 30 s is recommended.
    findings.ttl(&format!("{path}.answer_ttl"), stale.answer_ttl, HumanDuration::from_secs(3600));
    if stale.answer_ttl < SECONDS_1 {
        findings.add(format!("{path}.answer_ttl"), stale.answer_ttl, "at least 1s (RFC 8767 §4)");
    }
    // Resolvers in pods give up after 5 s; a stale answer after that helps nobody.
    findings.within(
        &format!("{path}.client_timeout"),
        stale.client_timeout,
        SECONDS_0..=HumanDuration::from_secs(5),
    );
}

fn prefetch(path: &str, setting: &Switch<Prefetch>, findings: &mut Findings) {
    let Switch::On(prefetch) = setting else { return };
    findings.within(&format!("{path}.prefetch.min_hits"), prefetch.min_hits, 1..=1_000_000);
    // Refreshing from the first half on would more than double the upstream's load.
    let remaining = prefetch.remaining;
    if !(0.01..=0.5).contains(&remaining.0) {
        findings.add(format!("{path}.prefetch.remaining"), remaining, "1% to 50%");
    }
}

fn limits(config: &Config, findings: &mut Findings) {
    let limits = &config.limits;
    findings.within("limits.in_flight", limits.in_flight, 1..=1_000_000);
    findings.within("limits.waiters", limits.waiters, 1..=1_000_000);
    if limits.client_share.0 <= 0.0 {
        findings.add("limits.client_share", limits.client_share, "more than 0%, or no client gets an answer");
    }
    if let Switch::On(queries) = &config.log.queries
        && queries.sample.0 <= 0.0
    {
        findings.add(
            "log.queries.sample",
            queries.sample,
            "more than 0%; `queries: false` turns the log off",
        );
    }
    findings.within(
        "node.upstream_wait",
        config.node.upstream_wait,
        SECONDS_0..=HumanDuration::from_secs(300),
    );
}
