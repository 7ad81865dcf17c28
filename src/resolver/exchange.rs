//! What the miss path needs of an upstream: the seam that tests put a scripted one behind.

use std::future::Future;
use std::net::SocketAddr;

pub use crate::upstream::{ExchangeError, Query, Reply};

use crate::upstream::Group;

/// A group of upstreams that give the same answers.
pub trait Exchange: 'static {
    /// Asks, with all retries and hedges there are.
    fn exchange(&self, query: &Query) -> impl Future<Output = Result<Reply, ExchangeError>>;

    /// Whether all of it is known to be down.
    fn is_down(&self) -> bool;

    /// Whether it answers anything at all.
    fn probe(&self) -> impl Future<Output = bool>;

    /// Takes these addresses from now on.
    fn set_addresses(&self, addresses: Vec<SocketAddr>);
}

impl Exchange for Group {
    async fn exchange(&self, query: &Query) -> Result<Reply, ExchangeError> {
        Self::exchange(self, query).await
    }

    fn is_down(&self) -> bool {
        Self::is_down(self)
    }

    async fn probe(&self) -> bool {
        Self::probe(self).await
    }

    fn set_addresses(&self, addresses: Vec<SocketAddr>) {
        Self::set_addresses(self, addresses);
    }
}
