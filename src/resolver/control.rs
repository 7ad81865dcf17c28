//! What other threads ask of the miss path, beside answers.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{mpsc, oneshot};

use super::zone::TablesError;
use crate::config::Config;

/// The other threads' end.
#[derive(Debug, Clone)]
pub struct Handle {
    orders: mpsc::Sender<Order>,
    upstream_has_answered: Arc<OnceLock<Arc<AtomicBool>>>,
}

/// The miss path's end.
#[derive(Debug)]
pub struct Controls {
    orders: mpsc::Receiver<Order>,
    upstream_has_answered: Arc<OnceLock<Arc<AtomicBool>>>,
}

/// The miss path does not run any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the miss path has ended")]
pub struct Ended;

/// Why a reload was not applied.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The configuration names files that cannot be used; the last one keeps serving.
    #[error(transparent)]
    Tables(#[from] TablesError),
    /// There is nobody to apply it.
    #[error(transparent)]
    Ended(#[from] Ended),
}

#[derive(Debug)]
pub(super) enum Order {
    Reload(Box<Config>, oneshot::Sender<Result<(), TablesError>>),
    Probe(oneshot::Sender<bool>),
}

/// A handle and what it moves.
pub fn channel() -> (Handle, Controls) {
    let (sender, receiver) = mpsc::channel(8);
    let answered = Arc::new(OnceLock::new());
    (
        Handle { orders: sender, upstream_has_answered: Arc::clone(&answered) },
        Controls { orders: receiver, upstream_has_answered: answered },
    )
}

impl Handle {
    /// Applies another configuration: zones, upstreams, TTLs, budgets and limits. Nothing is applied in part.
    pub async fn reload(&self, config: Config) -> Result<(), ReloadError> {
        let (done, outcome) = oneshot::channel();
        self.orders.send(Order::Reload(Box::new(config), done)).await.map_err(|_| Ended)?;
        Ok(outcome.await.map_err(|_| Ended)??)
    }

    /// Asks the upstreams whether they answer: true as soon as any does, and where there is none to ask.
    pub async fn probe(&self) -> Result<bool, Ended> {
        let (done, outcome) = oneshot::channel();
        self.orders.send(Order::Probe(done)).await.map_err(|_| Ended)?;
        outcome.await.map_err(|_| Ended)
    }

    /// Whether any upstream has ever answered a query or a probe.
    pub fn upstream_has_answered(&self) -> bool {
        self.upstream_has_answered.get().is_some_and(|answered| answered.load(Ordering::Acquire))
    }
}

impl Controls {
    pub(super) fn share(&self, answered: &Arc<AtomicBool>) {
        // Controls are handed to one resolver, once.
        let _ = self.upstream_has_answered.set(Arc::clone(answered));
    }

    pub(super) async fn next(&mut self) -> Option<Order> {
        self.orders.recv().await
    }
}
