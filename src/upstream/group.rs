//! The endpoints of one zone's `forward` block.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use tokio::time::Instant;

use super::budget::{HedgeBudget, Need};
use super::connection::SCRATCH;
use super::endpoint::{Endpoint, Settings};
use super::exchange::Exchange;
use super::metrics::Metrics;
use super::policy::{self, Candidate};
use super::{ExchangeError, Query, Reply};
use crate::config::{Forward, Policy, Transport};

/// The endpoints of one zone's `forward` block.
///
/// It lives on one thread; [`Group::exchange`] and [`Group::probe`] must run inside a `tokio::task::LocalSet`. Dropping
/// it closes its connections and ends its tasks.
pub struct Group {
    settings: Settings,
    policy: Policy,
    metrics: Arc<Metrics>,
    endpoints: RefCell<Vec<Rc<Endpoint>>>,
    budget: RefCell<HedgeBudget>,
    turn: Cell<u32>,
    scratch: Rc<RefCell<Box<[u8]>>>,
}

impl Group {
    /// A group that forwards to `addresses`; `spec.to` is not looked at, the caller has resolved it.
    pub fn new(spec: &Forward, addresses: Vec<SocketAddr>, metrics: Arc<Metrics>) -> Self {
        let group = Self {
            settings: Settings {
                udp: spec.transport != Transport::Tcp,
                tcp_after_truncation: spec.transport == Transport::Auto,
                timeout: spec.timeout.0,
                max_connections: spec.max_connections,
                max_age: spec.max_age.0,
                max_in_flight: spec.max_in_flight,
            },
            policy: spec.policy,
            metrics,
            endpoints: RefCell::default(),
            budget: RefCell::new(HedgeBudget::new(spec.hedge.0)),
            turn: Cell::new(0),
            scratch: Rc::new(RefCell::new(vec![0; SCRATCH].into_boxed_slice())),
        };
        group.set_addresses(addresses);
        group
    }

    /// Replaces the addresses, in this order. Endpoints that stay keep their connections and their health; queries on
    /// those that go are asked elsewhere.
    pub fn set_addresses(&self, addresses: Vec<SocketAddr>) {
        let mut old = self.endpoints.take();
        let mut new: Vec<Rc<Endpoint>> = Vec::with_capacity(addresses.len());
        for address in addresses {
            if new.iter().any(|endpoint| endpoint.address == address) {
                continue;
            }
            let kept = old.iter().position(|endpoint| endpoint.address == address);
            new.push(kept.map_or_else(|| self.endpoint(address), |index| old.swap_remove(index)));
        }
        self.endpoints.replace(new);
        for endpoint in old {
            endpoint.remove();
        }
    }

    /// Asks, and gives the first good reply. Retries, hedges, other endpoints and the time limit are inside.
    pub async fn exchange(&self, query: &Query) -> Result<Reply, ExchangeError> {
        let result = self.ask(query).await;
        if matches!(result, Err(ExchangeError::Down)) {
            self.metrics.count_down();
        }
        result
    }

    /// Whether every endpoint is known to be down. A group without addresses is.
    pub fn is_down(&self) -> bool {
        self.endpoints.borrow().iter().all(|endpoint| endpoint.is_down())
    }

    /// Asks one health query; true if anyone replied, whatever the rcode.
    pub async fn probe(&self) -> bool {
        matches!(self.ask(&Query::health()).await, Ok(_) | Err(ExchangeError::Truncated { .. }))
    }

    /// Open TCP connections of all endpoints.
    pub fn connections(&self) -> usize {
        self.endpoints.borrow().iter().map(|endpoint| endpoint.connections()).sum()
    }

    async fn ask(&self, query: &Query) -> Result<Reply, ExchangeError> {
        Exchange::begin(self, query)?.run().await
    }

    /// The endpoint for the next attempt, by policy, among those that are up and not in `tried`.
    pub(super) fn choose(
        &self,
        now: Instant,
        tried: impl Fn(&Rc<Endpoint>) -> bool,
    ) -> Result<Rc<Endpoint>, ExchangeError> {
        let endpoints = self.endpoints.borrow();
        // Most zones have one upstream, a service IP.
        if let [only] = &endpoints[..] {
            return if only.is_down() { Err(ExchangeError::Down) } else { Ok(Rc::clone(only)) };
        }
        if endpoints.is_empty() {
            return Err(ExchangeError::NoUpstream);
        }
        let candidates: Vec<Candidate> = endpoints
            .iter()
            .map(|endpoint| Candidate {
                up: !endpoint.is_down(),
                tried: tried(endpoint),
                // One without room would turn the query away.
                doubted: endpoint.is_doubted(now) || endpoint.is_full(),
                rtt: endpoint.rtt(),
            })
            .collect();
        let turn = self.turn.replace(self.turn.get().wrapping_add(1));
        policy::choose(self.policy, &candidates, turn, rand::random())
            .map(|index| Rc::clone(&endpoints[index]))
            .ok_or(ExchangeError::Down)
    }

    /// The settings of each endpoint.
    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// A lookup earns its share of a hedge.
    pub(super) fn earn_hedge(&self) {
        self.budget.borrow_mut().earn();
    }

    /// Takes a hedge from the budget.
    pub(super) fn take_hedge(&self, need: Need) -> bool {
        self.budget.borrow_mut().take(need)
    }

    /// A hedge was worth it.
    pub(super) fn hedge_won(&self) {
        self.budget.borrow_mut().won();
    }

    fn endpoint(&self, address: SocketAddr) -> Rc<Endpoint> {
        let label: Arc<str> = address.to_string().into();
        let metrics = self.metrics.endpoint(&label);
        Endpoint::new(address, self.settings, metrics, label, Rc::clone(&self.scratch))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.set_addresses(Vec::new());
    }
}
