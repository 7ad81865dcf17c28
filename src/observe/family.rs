//! Metric families made at a scrape, for collectors that hold no metric objects.

use prometheus::core::Desc;
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};

/// What a family is, whatever it counts.
#[derive(Debug)]
pub(super) struct Spec {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) kind: MetricType,
    pub(super) labels: &'static [&'static str],
}

impl Spec {
    pub(super) const fn counter(
        name: &'static str,
        labels: &'static [&'static str],
        help: &'static str,
    ) -> Self {
        Self { name, help, kind: MetricType::COUNTER, labels }
    }

    pub(super) const fn gauge(
        name: &'static str,
        labels: &'static [&'static str],
        help: &'static str,
    ) -> Self {
        Self { name, help, kind: MetricType::GAUGE, labels }
    }

    pub(super) const fn histogram(
        name: &'static str,
        labels: &'static [&'static str],
        help: &'static str,
    ) -> Self {
        Self { name, help, kind: MetricType::HISTOGRAM, labels }
    }

    /// The registry's description of it.
    pub(super) fn desc(&self) -> Result<Desc, prometheus::Error> {
        let labels = self.labels.iter().map(|label| (*label).to_owned()).collect();
        Desc::new(self.name.to_owned(), self.help.to_owned(), labels, std::collections::HashMap::new())
    }

    /// An empty family of it.
    pub(super) fn family(&'static self) -> Family {
        Family { spec: self, metrics: Vec::new() }
    }
}

/// A family under construction.
#[derive(Debug)]
pub(super) struct Family {
    spec: &'static Spec,
    metrics: Vec<Metric>,
}

impl Family {
    /// Adds a counter's or gauge's series. `labels` are in the order of the spec's.
    pub(super) fn value(&mut self, labels: &[&str], value: f64) {
        let mut metric = self.metric(labels);
        if self.spec.kind == MetricType::COUNTER {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        self.metrics.push(metric);
    }

    /// Adds a series of a whole number. A float holds them exactly up to 2⁵³.
    pub(super) fn count(&mut self, labels: &[&str], count: u64) {
        self.value(labels, count as f64);
    }

    /// Adds a histogram's series. `counts` has one bucket more than there are bounds.
    pub(super) fn histogram(&mut self, labels: &[&str], bounds: &[f64], counts: &[u64], sum: f64) {
        let mut cumulative = 0;
        let mut buckets = Vec::with_capacity(bounds.len());
        for (bound, count) in bounds.iter().zip(counts) {
            cumulative += count;
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(cumulative);
            buckets.push(bucket);
        }
        let mut histogram = Histogram::default();
        histogram.set_bucket(buckets);
        histogram.set_sample_count(counts.iter().sum());
        histogram.set_sample_sum(sum);
        self.histogram_made(labels, histogram);
    }

    /// Adds a histogram that someone else made.
    pub(super) fn histogram_made(&mut self, labels: &[&str], histogram: Histogram) {
        let mut metric = self.metric(labels);
        metric.set_histogram(histogram);
        self.metrics.push(metric);
    }

    /// The finished family.
    pub(super) fn finish(self) -> MetricFamily {
        let mut family = MetricFamily::default();
        family.set_name(self.spec.name.to_owned());
        family.set_help(self.spec.help.to_owned());
        family.set_field_type(self.spec.kind);
        family.set_metric(self.metrics);
        family
    }

    fn metric(&self, labels: &[&str]) -> Metric {
        debug_assert_eq!(labels.len(), self.spec.labels.len(), "{}", self.spec.name);
        let pairs = self.spec.labels.iter().zip(labels).map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        });
        Metric::from_label(pairs.collect())
    }
}
