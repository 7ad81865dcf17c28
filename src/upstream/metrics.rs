//! What is counted of the upstreams. Handles are resolved once per endpoint; a query only touches plain atomics.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::core::{Collector, Metric as _};
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, proto,
};

/// The families `nodens_upstream_*`, shared by all groups.
#[derive(Debug)]
pub struct Metrics {
    duration: HistogramVec,
    queries: IntCounterVec,
    failures: IntCounterVec,
    up: IntGaugeVec,
    in_flight: IntGaugeVec,
    connections: IntGaugeVec,
    dials: IntCounterVec,
    hedges: IntCounterVec,
    retirements: IntCounterVec,
    ignored: IntCounterVec,
    rtt: GaugeVec,
    probes: IntCounterVec,
    all_down: IntCounter,
    /// Groups that forward to an endpoint share its series; the last one to let go removes them.
    users: Mutex<HashMap<Arc<str>, usize>>,
}

impl Metrics {
    /// Registers all families. Fails if the registry has one of these names already.
    pub fn register(registry: &Registry) -> Result<Arc<Self>, prometheus::Error> {
        let histogram = HistogramOpts::new(
            "nodens_upstream_duration_seconds",
            "Time from a query to its reply, by the endpoint that gave the reply and its rcode (NOERROR, NXDOMAIN, \
             SERVFAIL or other), hedges and retries included.",
        )
        .buckets(prometheus::exponential_buckets(0.000_25, 2.0, 16)?);
        let metrics = Self {
            duration: register(registry, HistogramVec::new(histogram, &["endpoint", "rcode"])?)?,
            queries: counters(
                registry,
                "queries_total",
                "Queries sent, hedges and retries included.",
                &["endpoint"],
            )?,
            failures: counters(
                registry,
                "failures_total",
                "Attempts that failed: timeout, dial, refused, closed, dead, overloaded or socket.",
                &["endpoint", "reason"],
            )?,
            up: gauges(registry, "up", "1 while the endpoint answers or is not known not to.")?,
            in_flight: gauges(registry, "in_flight", "Queries that wait for a reply.")?,
            connections: gauges(registry, "connections", "Open TCP connections.")?,
            dials: counters(
                registry,
                "dials_total",
                "TCP dials by result: ok, refused, timeout or error.",
                &["endpoint", "result"],
            )?,
            hedges: counters(
                registry,
                "hedges_total",
                "Queries asked a second time because the first went unanswered: sent, won (answered first), or \
                 denied (over the budget).",
                &["endpoint", "result"],
            )?,
            retirements: counters(
                registry,
                "retirements_total",
                "Connections given up, by reason: idle, age, closed (by the peer), hedged, dead, excess or removed.",
                &["endpoint", "reason"],
            )?,
            ignored: counters(
                registry,
                "ignored_replies_total",
                "Messages that were not the reply waited for: id, question, malformed or late.",
                &["endpoint", "reason"],
            )?,
            rtt: register(
                registry,
                GaugeVec::new(
                    Opts::new("nodens_upstream_rtt_seconds", "Smoothed round trip (RFC 6298)."),
                    &["endpoint"],
                )?,
            )?,
            probes: counters(
                registry,
                "probes_total",
                "Health queries to an endpoint that is down, by result: ok or failed.",
                &["endpoint", "result"],
            )?,
            all_down: register(
                registry,
                IntCounter::new(
                    "nodens_upstream_all_down_total",
                    "Queries that found every endpoint of their zone down.",
                )?,
            )?,
            users: Mutex::default(),
        };
        Ok(Arc::new(metrics))
    }

    /// A query found every endpoint of its zone down.
    pub(super) fn count_down(&self) {
        self.all_down.inc();
    }

    /// Queries so far that found every endpoint of their zone down.
    pub fn all_down(&self) -> u64 {
        self.all_down.get()
    }

    /// Every endpoint there is, asked or not.
    pub fn snapshot(&self) -> Vec<EndpointSnapshot> {
        let users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        let endpoints = users.keys().map(|label| {
            let histogram = |rcode| {
                let of_rcode = self.duration.with_label_values(&[&**label, rcode]);
                (rcode, of_rcode.metric().get_histogram().clone())
            };
            EndpointSnapshot {
                durations: RCODES.map(histogram).into(),
                queries: self.queries.with_label_values(&[&**label]).get(),
                dials: self.dials.with_label_values(&[&**label, "ok"]).get(),
                probes_failed: self.probes.with_label_values(&[&**label, "failed"]).get(),
                endpoint: Arc::clone(label),
            }
        });
        endpoints.collect()
    }

    /// The series of one endpoint; dropped series leave the registry when the last user has gone.
    pub(super) fn endpoint(self: &Arc<Self>, label: &Arc<str>) -> EndpointMetrics {
        *self.users.lock().unwrap_or_else(PoisonError::into_inner).entry(Arc::clone(label)).or_default() += 1;
        let one = |family: &IntCounterVec, value: &str| family.with_label_values(&[&**label, value]);
        let up = self.up.with_label_values(&[&**label]);
        up.set(1);
        EndpointMetrics {
            durations: RCODES.map(|rcode| self.duration.with_label_values(&[&**label, rcode])),
            queries: self.queries.with_label_values(&[&**label]),
            failed_timeout: one(&self.failures, "timeout"),
            failed_dial: one(&self.failures, "dial"),
            failed_refused: one(&self.failures, "refused"),
            failed_closed: one(&self.failures, "closed"),
            failed_dead: one(&self.failures, "dead"),
            failed_overloaded: one(&self.failures, "overloaded"),
            failed_socket: one(&self.failures, "socket"),
            failed_truncated: one(&self.failures, "truncated"),
            up,
            in_flight: self.in_flight.with_label_values(&[&**label]),
            connections: self.connections.with_label_values(&[&**label]),
            dials_ok: one(&self.dials, "ok"),
            dials_refused: one(&self.dials, "refused"),
            dials_timeout: one(&self.dials, "timeout"),
            dials_error: one(&self.dials, "error"),
            hedges_sent: one(&self.hedges, "sent"),
            hedges_won: one(&self.hedges, "won"),
            hedges_denied: one(&self.hedges, "denied"),
            retired_idle: one(&self.retirements, "idle"),
            retired_age: one(&self.retirements, "age"),
            retired_closed: one(&self.retirements, "closed"),
            retired_hedged: one(&self.retirements, "hedged"),
            retired_dead: one(&self.retirements, "dead"),
            retired_excess: one(&self.retirements, "excess"),
            retired_removed: one(&self.retirements, "removed"),
            ignored_id: one(&self.ignored, "id"),
            ignored_question: one(&self.ignored, "question"),
            ignored_malformed: one(&self.ignored, "malformed"),
            ignored_late: one(&self.ignored, "late"),
            rtt: self.rtt.with_label_values(&[&**label]),
            probes_ok: one(&self.probes, "ok"),
            probes_failed: one(&self.probes, "failed"),
            label: Arc::clone(label),
            families: Arc::clone(self),
        }
    }
}

/// What is known of one endpoint at a scrape, for metrics under other names.
#[derive(Debug)]
pub struct EndpointSnapshot {
    /// The endpoint's label, `address:port`.
    pub endpoint: Arc<str>,
    /// Time from a query to its reply in seconds, by rcode.
    pub durations: Vec<(&'static str, proto::Histogram)>,
    /// Queries sent, hedges and retries included.
    pub queries: u64,
    /// TCP connections opened.
    pub dials: u64,
    /// Health queries that failed.
    pub probes_failed: u64,
}

/// The handles of one endpoint.
#[derive(Debug)]
pub(super) struct EndpointMetrics {
    /// By rcode, in the order of [`RCODES`].
    durations: [Histogram; RCODES.len()],
    pub(super) queries: IntCounter,
    pub(super) failed_timeout: IntCounter,
    pub(super) failed_dial: IntCounter,
    pub(super) failed_refused: IntCounter,
    pub(super) failed_closed: IntCounter,
    pub(super) failed_dead: IntCounter,
    pub(super) failed_overloaded: IntCounter,
    pub(super) failed_socket: IntCounter,
    pub(super) failed_truncated: IntCounter,
    pub(super) up: IntGauge,
    pub(super) in_flight: IntGauge,
    pub(super) connections: IntGauge,
    pub(super) dials_ok: IntCounter,
    pub(super) dials_refused: IntCounter,
    pub(super) dials_timeout: IntCounter,
    pub(super) dials_error: IntCounter,
    pub(super) hedges_sent: IntCounter,
    pub(super) hedges_won: IntCounter,
    pub(super) hedges_denied: IntCounter,
    pub(super) retired_idle: IntCounter,
    pub(super) retired_age: IntCounter,
    pub(super) retired_closed: IntCounter,
    pub(super) retired_hedged: IntCounter,
    pub(super) retired_dead: IntCounter,
    pub(super) retired_excess: IntCounter,
    pub(super) retired_removed: IntCounter,
    pub(super) ignored_id: IntCounter,
    pub(super) ignored_question: IntCounter,
    pub(super) ignored_malformed: IntCounter,
    pub(super) ignored_late: IntCounter,
    pub(super) rtt: Gauge,
    pub(super) probes_ok: IntCounter,
    pub(super) probes_failed: IntCounter,
    label: Arc<str>,
    families: Arc<Metrics>,
}

impl EndpointMetrics {
    /// A reply with this rcode came, so many seconds after its query.
    pub(super) fn replied(&self, rcode: u8, seconds: f64) {
        let slot = match rcode {
            0 => 0,
            3 => 1,
            2 => 2,
            _ => 3,
        };
        self.durations[slot].observe(seconds);
    }
}

impl Drop for EndpointMetrics {
    fn drop(&mut self) {
        let families = &self.families;
        let mut users = families.users.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(count) = users.get_mut(&self.label) else { return };
        *count -= 1;
        if *count > 0 {
            return;
        }
        users.remove(&self.label);
        // A series that is gone already is no error here.
        let only = [&*self.label];
        for rcode in RCODES {
            let _ = families.duration.remove_label_values(&[&*self.label, rcode]);
        }
        let _ = families.queries.remove_label_values(&only);
        let _ = families.rtt.remove_label_values(&only);
        for family in [&families.up, &families.in_flight, &families.connections] {
            let _ = family.remove_label_values(&only);
        }
        for (family, values) in [
            (&families.failures, FAILURES),
            (&families.dials, DIALS),
            (&families.hedges, HEDGES),
            (&families.retirements, RETIREMENTS),
            (&families.ignored, IGNORED),
            (&families.probes, PROBES),
        ] {
            for value in values {
                let _ = family.remove_label_values(&[&*self.label, value]);
            }
        }
    }
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, family: C) -> Result<C, prometheus::Error> {
    registry.register(Box::new(family.clone()))?;
    Ok(family)
}

fn counters(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntCounterVec, prometheus::Error> {
    register(registry, IntCounterVec::new(Opts::new(format!("nodens_upstream_{name}"), help), labels)?)
}

fn gauges(registry: &Registry, name: &str, help: &str) -> Result<IntGaugeVec, prometheus::Error> {
    register(registry, IntGaugeVec::new(Opts::new(format!("nodens_upstream_{name}"), help), &["endpoint"])?)
}

/// Rcodes with a duration of their own, as RFC 1035 and IANA spell them; the rest shares the last.
const RCODES: [&str; 4] = ["NOERROR", "NXDOMAIN", "SERVFAIL", "other"];

const FAILURES: &[&str] =
    &["timeout", "dial", "refused", "closed", "dead", "overloaded", "socket", "truncated"];
const DIALS: &[&str] = &["ok", "refused", "timeout", "error"];
const HEDGES: &[&str] = &["sent", "won", "denied"];
const RETIREMENTS: &[&str] = &["idle", "age", "closed", "hedged", "dead", "excess", "removed"];
const IGNORED: &[&str] = &["id", "question", "malformed", "late"];
const PROBES: &[&str] = &["ok", "failed"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_series_of_an_endpoint_leave_with_its_last_user() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).expect("an empty registry");
        let label: Arc<str> = "192.0.2.1:53".into();
        let series = || registry.gather().iter().map(|family| family.get_metric().len()).sum::<usize>();
        let first = metrics.endpoint(&label);
        let second = metrics.endpoint(&label);
        assert!(series() >= 12);
        drop(first);
        assert!(series() >= 12);
        drop(second);
        assert_eq!(series(), 1, "what has no endpoint stays");
    }

    #[test]
    fn a_snapshot_tells_replies_by_rcode_and_makes_no_series() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).expect("an empty registry");
        let label: Arc<str> = "192.0.2.1:53".into();
        let endpoint = metrics.endpoint(&label);
        for (rcode, times) in [(0, 4), (3, 3), (2, 2), (5, 1)] {
            for _ in 0..times {
                endpoint.replied(rcode, 0.001);
            }
        }
        endpoint.queries.inc_by(11);
        endpoint.dials_ok.inc();
        endpoint.probes_failed.inc_by(2);
        let [snapshot] = &metrics.snapshot()[..] else { panic!("one endpoint") };
        let counts: Vec<_> = snapshot
            .durations
            .iter()
            .map(|(rcode, histogram)| (*rcode, histogram.get_sample_count()))
            .collect();
        assert_eq!(counts, [("NOERROR", 4), ("NXDOMAIN", 3), ("SERVFAIL", 2), ("other", 1)]);
        assert_eq!(
            (&*snapshot.endpoint, snapshot.queries, snapshot.dials, snapshot.probes_failed),
            (&*label, 11, 1, 2)
        );
        drop(endpoint);
        assert!(metrics.snapshot().is_empty());
        let left: Vec<_> = registry.gather().iter().map(|family| family.name().to_owned()).collect();
        assert_eq!(left, ["nodens_upstream_all_down_total"]);
    }

    #[test]
    fn the_page_lists_every_family() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).expect("an empty registry");
        let _endpoint = metrics.endpoint(&"192.0.2.1:53".into());
        let page = include_str!("../../docs/metrics.md");
        let rows = page.lines().filter(|line| line.starts_with("| `nodens_upstream_"));
        let documented: Vec<&str> = rows.map(|row| row.rsplit_once(" | ").expect("columns").0).collect();
        let shown: Vec<String> = registry
            .gather()
            .iter()
            .map(|family| {
                let labels: Vec<String> = family.get_metric()[0]
                    .get_label()
                    .iter()
                    .map(|label| format!("`{}`", label.name()))
                    .collect();
                let kind = format!("{:?}", family.get_field_type()).to_lowercase();
                format!("| `{}` | {kind} | {}", family.name(), labels.join(", "))
            })
            .collect();
        assert_eq!(documented, shown);
    }

    #[test]
    fn a_name_is_registered_once() {
        let registry = Registry::new();
        assert!(Metrics::register(&registry).is_ok());
        assert!(Metrics::register(&registry).is_err());
    }
}
