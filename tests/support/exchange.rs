//! A group and its metrics, as the tests of upstream exchange use them.

#![allow(dead_code, unreachable_pub, reason = "each test file includes this and uses its part")]

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use hickory_proto::op::Message;
use hickory_proto::rr::RData;
use nodens::config::{Forward, Fraction, Transport};
use nodens::upstream::{ExchangeError, Group, Metrics, Query, Reply};
use prometheus::Registry;
use prometheus::proto::MetricFamily;

use super::upstream::{Upstream, address_of};

/// Runs on the kind of runtime that nodens gives this room.
pub fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, work)
}

pub struct Bench {
    pub group: Rc<Group>,
    registry: Registry,
}

/// A group that forwards to these upstreams.
pub fn bench(spec: &Forward, upstreams: &[&Upstream]) -> Bench {
    bench_at(spec, upstreams.iter().map(|upstream| upstream.address()).collect())
}

/// A group that forwards to these addresses.
pub fn bench_at(spec: &Forward, addresses: Vec<SocketAddr>) -> Bench {
    let registry = Registry::new();
    let metrics = Metrics::register(&registry).expect("an empty registry");
    Bench { group: Rc::new(Group::new(spec, addresses, metrics)), registry }
}

impl Bench {
    /// The sum of a family's values whose labels contain all of these values.
    pub fn count(&self, family: &str, labels: &[&str]) -> u64 {
        let families = self.registry.gather();
        let found =
            families.iter().find(|f| f.name() == family).map(MetricFamily::get_metric).unwrap_or_default();
        found
            .iter()
            .filter(|metric| {
                labels.iter().all(|value| metric.get_label().iter().any(|pair| pair.value() == *value))
            })
            .map(|metric| (metric.get_counter().get_value() + metric.get_gauge().get_value()) as u64)
            .sum()
    }

    pub async fn ask(&self, name: &str) -> Result<Reply, ExchangeError> {
        self.group.exchange(&query(name)).await
    }

    /// Asks, and holds the answer to be the right one.
    pub async fn right(&self, name: &str) -> Reply {
        let reply = self.ask(name).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(first_address(&reply), Some(address_of(name)), "{name}");
        reply
    }
}

pub fn spec(transport: Transport) -> Forward {
    Forward { transport, ..Forward::default() }
}

/// For tests that count queries: a machine that stands still for a moment must not make one more.
pub fn without_hedges(transport: Transport) -> Forward {
    Forward { hedge: Fraction(0.0), ..spec(transport) }
}

pub fn query(name: &str) -> Query {
    let mut wire = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        wire.push(label.len() as u8);
        wire.extend_from_slice(label.as_bytes());
    }
    wire.push(0);
    Query {
        name: wire.into_boxed_slice(),
        qtype: 1,
        qclass: 1,
        dnssec_ok: false,
        checking_disabled: false,
        recursion_desired: true,
        authentic_data: false,
    }
}

pub fn parsed(reply: &Reply) -> Message {
    Message::from_vec(&reply.message).expect("a well-formed reply")
}

pub fn first_address(reply: &Reply) -> Option<Ipv4Addr> {
    parsed(reply).answers.iter().find_map(|record| match &record.data {
        RData::A(address) => Some(address.0),
        _ => None,
    })
}

/// Waits until `condition` holds; fails after ten seconds.
pub async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
