//! The miss thread: one async runtime for the resolver, its upstreams, and everything that waits for them.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::account::Ledger;
use super::gather::Gathering;
use crate::cache::Store;
use crate::config::Config;
use crate::observe::{Metrics, QueryLog};
use crate::resolver::control::{Handle, ReloadError, channel};
use crate::resolver::job::Job;
use crate::resolver::{Context, Resolver, TablesError};
use crate::sys::clock;
use crate::upstream::{self, Group};

/// The miss path could not start.
#[derive(Debug, thiserror::Error)]
pub enum MissError {
    /// The thread or its runtime.
    #[error("starting a thread: {0}")]
    Thread(#[source] std::io::Error),
    /// Two metrics of one name: a mistake in the program.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// A file that the configuration names.
    #[error(transparent)]
    Tables(#[from] TablesError),
    /// The thread ended before it began.
    #[error("the miss thread has ended")]
    Gone,
}

/// The running miss thread.
#[derive(Debug)]
pub(super) struct MissThread {
    handle: Handle,
    thread: thread::JoinHandle<()>,
}

/// Time between two probes of upstreams at start.
const PROBE_PAUSE: Duration = Duration::from_millis(200);

impl MissThread {
    /// Starts the thread; it takes jobs until all their senders are gone.
    pub(super) async fn start(
        config: &Config,
        store: &Arc<Store>,
        metrics: &Metrics,
        query_log: &QueryLog,
        jobs: mpsc::Receiver<Job>,
    ) -> Result<Self, MissError> {
        let upstream_metrics = upstream::Metrics::register(&metrics.registry)?;
        super::figures::provide_upstream(&metrics.providers, Arc::clone(&upstream_metrics));
        let (store, metrics, logger) = (Arc::clone(store), metrics.clone(), query_log.logger());
        let config = config.clone();
        let (handle, controls) = channel();
        let (started, start) = oneshot::channel();
        let answered = Arc::default();
        let gathering = Gathering::new(metrics.counters.in_flight.clone(), Arc::clone(&answered));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .on_thread_park(move || gathering.pause())
            .build()
            .map_err(MissError::Thread)?;
        let run = move || {
            let local = tokio::task::LocalSet::new();
            local.block_on(&runtime, async move {
                let open = move |forward: &_, addresses| {
                    Group::new(forward, addresses, Arc::clone(&upstream_metrics))
                };
                let context = Context {
                    store,
                    zones: metrics.zones,
                    counters: metrics.counters,
                    account: Box::new(Ledger::new(metrics.tallies, logger, answered)),
                    clock: clock::now,
                };
                let resolver = match Resolver::new(&config, context, open) {
                    Ok(resolver) => resolver,
                    Err(error) => return drop(started.send(Err(error))),
                };
                // Whoever started us may be gone; then the senders of jobs are too.
                let _ = started.send(Ok(()));
                resolver.run(jobs, controls).await;
            });
        };
        let thread = thread::Builder::new().name("miss".to_owned()).spawn(run).map_err(MissError::Thread)?;
        start.await.map_err(|_| MissError::Gone)??;
        Ok(Self { handle, thread })
    }

    /// Follows another configuration, or leaves everything as it is.
    pub(super) async fn reload(&self, config: &Config) -> Result<(), ReloadError> {
        self.handle.reload(config.clone()).await
    }

    /// Waits until an upstream has answered a query or a probe, at most `patience`; whether one has.
    pub(super) fn first_answer(&self, patience: Duration) -> impl Future<Output = bool> + use<> {
        let handle = self.handle.clone();
        let probing = async move {
            while !handle.upstream_has_answered() {
                match handle.probe().await {
                    Ok(true) => return true,
                    Ok(false) => tokio::time::sleep(PROBE_PAUSE).await,
                    Err(_) => return false,
                }
            }
            true
        };
        async move { tokio::time::timeout(patience, probing).await == Ok(true) }
    }

    /// Waits until everything in flight is answered, at most `patience`. The senders of jobs must be gone.
    pub(super) async fn finish(self, patience: Duration) {
        let Self { handle, thread } = self;
        drop(handle);
        let joined = tokio::task::spawn_blocking(move || thread.join());
        match tokio::time::timeout(patience, joined).await {
            Ok(Ok(Ok(()))) => {}
            Ok(_) => tracing::error!("the miss thread panicked"),
            Err(_) => tracing::warn!(?patience, "some lookups were not answered in the drain time"),
        }
    }
}
