//! The process: every room started in order, reloaded together, and stopped without losing a query.
//!
//! Four kinds of threads: the caller's (signals, HTTP, netlink, reloads), one for misses ([`miss`]), one for TCP clients, and
//! the UDP workers ([`crate::server::front`]).
//!
//! Start: interface → miss path → sockets → HTTP → first answer of an upstream → rules that attract traffic → ready.
//! Stop: not ready → sockets leave the kernel's choice → what was received is answered → rules and interface go.

mod account;
pub mod figures;
mod gather;
mod miss;
mod reload;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::cache::Store;
use crate::cache::store::SWEPT_WITHIN_SECS;
use crate::config::{Config, ConfigError, Loaded};
use crate::node::ports::{Protocol, holder_of};
use crate::node::{Network, NodeError, instances};
use crate::observe::{Http, LogHandle, Metrics, QueryLog, SetupStep, health};
use crate::resolver::control::ReloadError;
use crate::resolver::job::CHANNEL;
use crate::server::front::{Context, Front, FrontError};
use crate::sys::clock;

pub use miss::MissError;
use miss::MissThread;
pub use reload::Watch;

/// The process could not start, or follow another configuration.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A listener.
    #[error("the listeners do not start: {0}")]
    Front(#[source] FrontError),
    /// A listener whose address somebody else has.
    #[error(
        "the listeners do not start: {source}; {holder} has it: stop that, or choose another address or port"
    )]
    Taken {
        /// What the system said.
        #[source]
        source: FrontError,
        /// Whose socket it is.
        holder: String,
    },
    /// The miss path.
    #[error("the resolver does not start: {0}")]
    Miss(#[from] MissError),
    /// The miss path, at a reload.
    #[error("{0}")]
    Reload(#[from] ReloadError),
    /// The node's network.
    #[error("the node's network: {0}")]
    Node(#[from] NodeError),
    /// Two metrics of one name: a mistake in the program.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The query log's thread.
    #[error("the query log does not start: {0}")]
    QueryLog(#[source] std::io::Error),
}

impl From<FrontError> for RunError {
    /// Looks up who has an address that is in use.
    fn from(source: FrontError) -> Self {
        let holder = match &source {
            FrontError::Udp(error) => error.taken().and_then(|address| holder_of(Protocol::Udp, address)),
            FrontError::Tcp(error) => error.taken().and_then(|address| holder_of(Protocol::Tcp, address)),
            FrontError::Thread(_) => None,
        };
        match holder {
            Some(holder) => Self::Taken { source, holder },
            None => Self::Front(source),
        }
    }
}

/// A running nodens.
pub struct Process {
    config: Config,
    metrics: Metrics,
    log: Option<LogHandle>,
    query_log: QueryLog,
    context: Context,
    miss: MissThread,
    front: Front,
    http: Http,
    network: Network,
}

/// Blocks readiness until an upstream has answered.
const UPSTREAM: &str = "upstream";

/// Shortest wait before it is said again that no upstream answers.
const UPSTREAM_AGAIN: Duration = Duration::from_secs(10);

/// How often entries too old to be served even stale are taken out of the store.
const SWEEP: Duration = Duration::from_secs(SWEPT_WITHIN_SECS);

/// How long the query log may take to write its last lines.
const LOG_PATIENCE: Duration = Duration::from_secs(1);

impl Process {
    /// Starts everything but the rules that attract traffic: those wait for [`Self::run`]. On return, queries are
    /// answered. `log` follows reloads; in a process whose log is someone else's it is `None`.
    ///
    /// Call it on a current-thread tokio runtime with I/O and time.
    pub async fn start(loaded: Loaded, log: Option<LogHandle>) -> Result<Self, RunError> {
        let origin = loaded.origin_name();
        let config = loaded.config;
        let metrics = Metrics::new()?;
        metrics.configure(&config);
        let query_log = QueryLog::new(metrics.counters.query_log_dropped.clone());
        query_log.configure(&config.log.queries, config.log.format).map_err(RunError::QueryLog)?;

        let network = Network::start(&config).await.inspect_err(|_| {
            metrics.counters.setup_errors(SetupStep::InterfaceAdd).inc();
        })?;
        let store = Arc::new(Store::new(crate::resolver::budgets(&config)));
        let (jobs, received) = tokio::sync::mpsc::channel(CHANNEL);
        let miss = MissThread::start(&config, &store, &metrics, &query_log, received).await?;
        let context = Context {
            store,
            jobs,
            tallies: metrics.tallies.clone(),
            zones: metrics.zones.clone(),
            query_log: query_log.clone(),
            near_figures: Arc::default(),
            tcp_connections: metrics.counters.tcp_connections.clone(),
        };
        let front = Front::start(&config, &context)?;
        figures::provide(&metrics.providers, &context.store, &context.near_figures, network.counters());
        let mut http = Http::new(metrics.clone());
        http.apply(&config.observe);
        if network.slot().is_some() {
            metrics.health.watch_others(|| {
                instances::any_is_starting().then(|| "another instance on this node is starting".to_owned())
            });
        }
        metrics.health.loaded(format!("{:016x}", loaded.hash), SystemTime::now());
        metrics.health.block(UPSTREAM, "no upstream has answered yet");
        metrics.health.clear(health::START);
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            addresses = ?front.addresses(),
            config = %origin,
            "answering"
        );
        Ok(Self { config, metrics, log, query_log, context, miss, front, http, network })
    }

    /// The addresses it answers on.
    pub fn addresses(&self) -> &[std::net::SocketAddr] {
        self.front.addresses()
    }

    /// What it counts.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Serves until `stop` is ready; meanwhile follows `changes` of the configuration, which `load` then reads again. Then
    /// drains and leaves.
    pub async fn run(
        mut self,
        mut changes: Watch,
        load: impl Fn() -> Result<Loaded, ConfigError>,
        stop: impl Future<Output = ()>,
    ) -> Result<(), RunError> {
        tokio::pin!(stop);
        let upstream_wait = self.config.node.upstream_wait.0;
        let answered = self.miss.first_answer(upstream_wait);
        tokio::pin!(answered);
        let mut attracted = false;
        let mut sweep = tokio::time::interval(SWEEP);
        sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = &mut stop => break,
                has_answered = &mut answered, if !attracted => {
                    if !has_answered && self.network.has_predecessor() {
                        tracing::warn!("no upstream has answered; not ready, another instance on this node serves");
                        answered.set(self.miss.first_answer(upstream_wait.max(UPSTREAM_AGAIN)));
                        continue;
                    }
                    attracted = true;
                    if !has_answered {
                        tracing::warn!(waited = ?upstream_wait, "no upstream has answered; serving what there is");
                    }
                    self.attract().await;
                }
                _ = sweep.tick() => self.context.store.sweep(clock::now()),
                () = changes.changed() => self.reload_from(load()).await,
            }
        }
        self.stop().await
    }

    /// Puts the rules in force and tells that we are ready.
    async fn attract(&mut self) {
        if let Err(error) = self.network.attract(&self.config).await {
            // DNS works without them, if the packets come here; the guard goes on trying.
            self.metrics.counters.setup_errors(SetupStep::Rules).inc();
            tracing::error!(%error, "the rules that keep DNS out of connection tracking are not in force");
        }
        self.metrics.health.clear(UPSTREAM);
        self.network.started();
        tracing::info!("ready");
    }

    async fn reload_from(&mut self, loaded: Result<Loaded, ConfigError>) {
        let result = match loaded {
            Ok(loaded) => {
                let hash = format!("{:016x}", loaded.hash);
                if loaded.config == self.config {
                    tracing::info!(hash, "the configuration has not changed");
                    self.metrics.health.loaded(hash, SystemTime::now());
                    return;
                }
                self.reload(loaded.config).await.map(|()| hash).map_err(|error| error.to_string())
            }
            Err(error) => Err(error.to_string()),
        };
        match result {
            Ok(hash) => {
                tracing::info!(hash, "serving another configuration");
                self.metrics.health.loaded(hash, SystemTime::now());
            }
            Err(error) => {
                tracing::error!(%error, "the configuration is refused; the last good one goes on serving");
                self.metrics.counters.setup_errors(SetupStep::Config).inc();
                self.metrics.health.load_failed(error);
            }
        }
    }

    /// Follows another configuration. On an error the old one goes on serving, whole.
    pub async fn reload(&mut self, config: Config) -> Result<(), RunError> {
        self.miss.reload(&config).await?;
        let listens_otherwise = config.listen != self.config.listen
            || config.cache.near_size != self.config.cache.near_size
            || config.cache.rotate != self.config.cache.rotate
            || config.limits.client_share != self.config.limits.client_share;
        let new_front = if listens_otherwise {
            match Front::start(&config, &self.context) {
                Ok(front) => Some(front),
                Err(error) => {
                    // What was valid a moment ago still is.
                    let _ = self.miss.reload(&self.config).await;
                    return Err(error.into());
                }
            }
        } else {
            None
        };
        if let Err(error) = self.network.update(&config).await {
            self.metrics.counters.setup_errors(SetupStep::InterfaceCheck).inc();
            tracing::error!(%error, "the node's network does not follow the new configuration");
        }
        if let Some(new) = new_front {
            drain(std::mem::replace(&mut self.front, new)).await;
        }
        self.metrics.configure(&config);
        self.http.apply(&config.observe);
        if let Some(log) = &self.log {
            log.configure(&config.log);
        }
        self.query_log.configure(&config.log.queries, config.log.format).map_err(RunError::QueryLog)?;
        self.config = config;
        Ok(())
    }

    /// Leaves: no new packets, everything received answered within `listen.drain`, then the node as it was before.
    async fn stop(self) -> Result<(), RunError> {
        let patience = self.config.listen.drain.0;
        tracing::info!(?patience, "draining");
        self.metrics.health.drain();
        let Self { front, context, miss, network, query_log, http, .. } = self;
        // Both processes listen on the health address in a hand-over: probes are for the successor from here on. Without one
        // they are told that we are not ready.
        let http = (!network.has_others()).then_some(http);
        drain(front).await;
        // The last way into the miss path: it ends once what is in flight is answered.
        drop(context);
        miss.finish(patience).await;
        let released = network.release().await;
        query_log.close(LOG_PATIENCE);
        drop(http);
        tracing::info!("stopped");
        Ok(released?)
    }
}

async fn drain(front: Front) {
    // It joins threads, which must not hold up this one: HTTP and the guards run here.
    if tokio::task::spawn_blocking(move || front.drain()).await.is_err() {
        tracing::error!("draining panicked");
    }
}
