//! The miss thread: one async runtime for the resolver, its upstreams, and everything that waits for them.

use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::account::Ledger;
use crate::cache::Store;
use crate::config::Config;
use crate::observe::{Metrics, QueryLog};
use crate::resolver::job::Job;
use crate::resolver::{Resolver, ResolverError};
use crate::upstream;

/// The miss path could not start, or follow another configuration.
#[derive(Debug, thiserror::Error)]
pub enum MissError {
    /// The thread or its runtime.
    #[error("starting a thread: {0}")]
    Thread(#[source] std::io::Error),
    /// Two metrics of one name: a mistake in the program.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The configuration's zones.
    #[error(transparent)]
    Resolver(#[from] ResolverError),
    /// The thread is gone.
    #[error("the miss thread has ended")]
    Gone,
}

/// The running miss thread.
#[derive(Debug)]
pub(super) struct MissThread {
    control: mpsc::UnboundedSender<Control>,
    thread: thread::JoinHandle<()>,
}

#[derive(Debug)]
enum Control {
    /// Follow another configuration.
    Reload(Box<Config>, oneshot::Sender<Result<(), ResolverError>>),
    /// Ask an upstream something, and tell whether it answered.
    Probe(oneshot::Sender<bool>),
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
        let ledger = Ledger::new(metrics.tallies.clone(), query_log.logger());
        let (config, store, metrics) = (config.clone(), Arc::clone(store), metrics.clone());
        let (control, controls) = mpsc::unbounded_channel();
        let (started, start) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .map_err(MissError::Thread)?;
        let run = move || {
            let local = tokio::task::LocalSet::new();
            local.block_on(&runtime, async {
                let resolver = Resolver::new(&config, store, upstream_metrics, &metrics, Rc::new(ledger));
                match resolver {
                    Ok(resolver) => {
                        // The starter may be gone; then the senders of jobs are too.
                        let _ = started.send(Ok(()));
                        let controlled =
                            tokio::task::spawn_local(control_loop(Rc::clone(&resolver), controls));
                        resolver.run(jobs).await;
                        controlled.abort();
                    }
                    Err(error) => {
                        let _ = started.send(Err(error));
                    }
                }
            });
        };
        let thread = thread::Builder::new().name("miss".to_owned()).spawn(run).map_err(MissError::Thread)?;
        start.await.map_err(|_| MissError::Gone)??;
        Ok(Self { control, thread })
    }

    /// Follows another configuration, or leaves everything as it is.
    pub(super) async fn reload(&self, config: &Config) -> Result<(), MissError> {
        let (done, result) = oneshot::channel();
        self.control.send(Control::Reload(Box::new(config.clone()), done)).map_err(|_| MissError::Gone)?;
        Ok(result.await.map_err(|_| MissError::Gone)??)
    }

    /// Waits until an upstream has answered a probe, at most `patience`; whether one has.
    pub(super) fn first_answer(&self, patience: Duration) -> impl Future<Output = bool> + use<> {
        let control = self.control.clone();
        let probe = async move {
            loop {
                let (done, answered) = oneshot::channel();
                if control.send(Control::Probe(done)).is_err() {
                    return false;
                }
                if answered.await == Ok(true) {
                    return true;
                }
                tokio::time::sleep(PROBE_PAUSE).await;
            }
        };
        async move { tokio::time::timeout(patience, probe).await == Ok(true) }
    }

    /// Waits until everything in flight is answered, at most `patience`. The senders of jobs must be gone.
    pub(super) async fn finish(self, patience: Duration) {
        drop(self.control);
        let thread = self.thread;
        let joined = tokio::task::spawn_blocking(move || thread.join());
        match tokio::time::timeout(patience, joined).await {
            Ok(Ok(Ok(()))) => {}
            Ok(_) => tracing::error!("the miss thread panicked"),
            Err(_) => tracing::warn!(?patience, "some lookups were not answered in the drain time"),
        }
    }
}

async fn control_loop(resolver: Rc<Resolver>, mut controls: mpsc::UnboundedReceiver<Control>) {
    while let Some(control) = controls.recv().await {
        match control {
            Control::Reload(config, done) => {
                let _ = done.send(resolver.reload(&config));
            }
            Control::Probe(done) => {
                let resolver = Rc::clone(&resolver);
                tokio::task::spawn_local(async move { done.send(resolver.probe().await) });
            }
        }
    }
}
