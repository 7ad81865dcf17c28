//! Counts that belong to no listener, kept off the hit path: a locked addition each.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// What was being done to the node when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetupStep {
    /// Making the interface or adding an address.
    InterfaceAdd,
    /// Looking whether both are as they should be.
    InterfaceCheck,
    /// Making or repairing the rules.
    Rules,
    /// Reading the configuration.
    Config,
}

impl SetupStep {
    /// All of them.
    pub const ALL: &'static [Self] = &[Self::InterfaceAdd, Self::InterfaceCheck, Self::Rules, Self::Config];

    /// The label's value.
    pub const fn label(self) -> &'static str {
        match self {
            Self::InterfaceAdd => "interface_add",
            Self::InterfaceCheck => "interface_check",
            Self::Rules => "rules",
            Self::Config => "config",
        }
    }
}

/// Handles on the process's own counts; a clone counts into the same cells.
#[derive(Debug, Clone)]
pub struct Counters {
    /// Queries on the miss path: received, not answered yet.
    pub in_flight: IntGauge,
    /// Open TCP connections of clients.
    pub tcp_connections: IntGauge,
    /// Entries refreshed before they expired.
    pub prefetches: IntCounter,
    /// Failures put into the cache (RFC 9520).
    pub failures_cached: IntCounter,
    /// Panics caught; a build that aborts on panic never counts one.
    pub panics: IntCounter,
    /// See [`Counters::setup_errors`].
    setup_errors: IntCounterVec,
    /// Lines of the query log that were dropped because its writer was behind.
    pub query_log_dropped: IntCounter,
    /// Failed attempts to bind an address of `observe`.
    pub http_bind_failures: IntCounter,
}

impl Counters {
    /// Counters at zero, registered under their native names.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counters = Self {
            in_flight: IntGauge::new(
                "nodens_in_flight",
                "Queries on the miss path: received, not answered yet.",
            )?,
            tcp_connections: IntGauge::new("nodens_tcp_connections", "Open TCP connections of clients.")?,
            prefetches: IntCounter::new("nodens_prefetches_total", "Entries refreshed before they expired.")?,
            failures_cached: IntCounter::new(
                "nodens_failures_cached_total",
                "Resolution failures put into the cache (RFC 9520).",
            )?,
            panics: IntCounter::new("nodens_panics_total", "Panics caught.")?,
            setup_errors: IntCounterVec::new(
                Opts::new(
                    "nodens_node_setup_errors_total",
                    "Failed attempts to put the interface, its addresses or the rules in place.",
                ),
                &["step"],
            )?,
            query_log_dropped: IntCounter::new(
                "nodens_query_log_dropped_total",
                "Lines of the query log dropped because its writer was behind.",
            )?,
            http_bind_failures: IntCounter::new(
                "nodens_http_bind_failures_total",
                "Failed attempts to bind an address of observe.metrics or observe.health.",
            )?,
        };
        for gauge in [&counters.in_flight, &counters.tcp_connections] {
            registry.register(Box::new(gauge.clone()))?;
        }
        for counter in [
            &counters.prefetches,
            &counters.failures_cached,
            &counters.panics,
            &counters.query_log_dropped,
            &counters.http_bind_failures,
        ] {
            registry.register(Box::new(counter.clone()))?;
        }
        registry.register(Box::new(counters.setup_errors.clone()))?;
        for step in SetupStep::ALL {
            counters.setup_errors(*step);
        }
        Ok(counters)
    }

    /// Failed attempts to put the interface, its addresses or the rules in place, by step.
    pub fn setup_errors(&self, step: SetupStep) -> IntCounter {
        self.setup_errors.with_label_values(&[step.label()])
    }
}
