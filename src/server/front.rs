//! All listeners of one configuration: a UDP worker per address and worker number, and one TCP thread.
//!
//! A front is bound whole or not at all, and drained whole. A reload that changes a listener, and a new process that takes
//! over from an old one, do the same thing: bind another front beside this one, then drain this one.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::sync::watch;

use super::hit::{HitPath, NearFigures, Parts};
use super::kept::Kept;
use super::tcp;
use super::udp::Worker;
use crate::cache::Store;
use crate::cache::key::Seed;
use crate::config::{ByteSize, Config, Workers};
use crate::observe::{Proto, QueryLog, Server, Tallies, Zones};
use crate::resolver::admission::Admission;
use crate::resolver::job::Jobs;
use crate::sys::socket::{BindError, UdpListener, bind_tcp};

/// What every listener needs, whatever the configuration.
#[derive(Debug, Clone)]
pub struct Context {
    /// The store.
    pub store: Arc<Store>,
    /// The way to the resolver.
    pub jobs: Jobs,
    /// Where listeners count.
    pub tallies: Tallies,
    /// Zone names as numbers.
    pub zones: Zones,
    /// The query log.
    pub query_log: QueryLog,
    /// What the near tables hold.
    pub near_figures: Arc<NearFigures>,
    /// `nodens_tcp_connections`.
    pub tcp_connections: prometheus::IntGauge,
}

/// A front that could not be started.
#[derive(Debug, thiserror::Error)]
pub enum FrontError {
    /// A UDP socket could not be bound.
    #[error(transparent)]
    Udp(BindError),
    /// A TCP socket could not be bound.
    #[error(transparent)]
    Tcp(BindError),
    /// A thread could not be started.
    #[error("starting a thread: {0}")]
    Thread(#[source] std::io::Error),
}

/// The running listeners of one configuration.
#[derive(Debug)]
pub struct Front {
    workers: Vec<Worker>,
    tcp: Option<thread::JoinHandle<()>>,
    draining: watch::Sender<bool>,
    addresses: Vec<SocketAddr>,
}

/// How many workers each address gets with `auto`: one for each processor that the affinity mask and the cgroup's cpu
/// limit leave, and no more than four. One worker answered 150,000 queries a second
/// (docs/performance.md), so further ones would only take memory.
pub fn worker_count(workers: Workers) -> usize {
    const AUTO_AT_MOST: usize = 4;
    match workers {
        Workers::Count(count) => count.max(1),
        Workers::Auto => thread::available_parallelism().map_or(1, usize::from).min(AUTO_AT_MOST),
    }
}

impl Front {
    /// Binds every address for UDP and TCP and starts answering.
    pub fn start(config: &Config, context: &Context) -> Result<Self, FrontError> {
        let addresses = config.listen.addresses.iter().map(|&ip| SocketAddr::new(ip, config.listen.port));
        let addresses: Vec<_> = addresses.collect();
        let mut udp = Vec::new();
        for &address in &addresses {
            for _ in 0..worker_count(config.listen.workers) {
                let listener = UdpListener::bind(address).map_err(FrontError::Udp)?;
                size_buffers(&listener, config.listen.receive_buffer);
                udp.push(Arc::new(listener));
            }
        }
        let tcp = addresses.iter().map(|&address| bind_tcp(address));
        let tcp = tcp.collect::<Result<Vec<_>, _>>().map_err(FrontError::Tcp)?;

        // Everything is bound: from here on only a thread can fail.
        let (draining, drain) = watch::channel(false);
        let mut front = Self { workers: Vec::new(), tcp: None, draining, addresses };
        for (index, listener) in udp.into_iter().enumerate() {
            let server = Server { address: listener.address(), proto: Proto::Udp };
            let tally = context.tallies.tally(server);
            for (zone, _) in context.zones.known() {
                tally.prepare(zone);
            }
            let hit_path = HitPath::new(Parts {
                store: Arc::clone(&context.store),
                jobs: context.jobs.clone(),
                tally,
                logger: context.query_log.logger(),
                figures: Arc::clone(&context.near_figures),
                near_size: usize::try_from(config.cache.near_size.0).unwrap_or(usize::MAX),
                rotate: config.cache.rotate,
                max_payload: config.listen.max_udp_payload,
                client_share: config.limits.client_share.0,
            });
            front.workers.push(Worker::spawn(hit_path, listener, index).map_err(FrontError::Thread)?);
        }
        front.tcp = Some(spawn_tcp(tcp, config, context.clone(), drain).map_err(FrontError::Thread)?);
        Ok(front)
    }

    /// The addresses it answers on.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Leaves new packets and connections to others, answers what was received, and ends. Blocks for at most about
    /// `config.listen.drain`; TCP connections that are not done by then are closed.
    pub fn drain(mut self) {
        for worker in &self.workers {
            worker.stop_attracting();
        }
        self.draining.send_replace(true);
        thread::sleep(DELIVERY);
        for worker in &self.workers {
            worker.stop();
        }
        for worker in self.workers.drain(..) {
            worker.join();
        }
        if let Some(tcp) = self.tcp.take()
            && tcp.join().is_err()
        {
            tracing::error!("the TCP thread panicked");
        }
    }
}

/// How long a packet may be on its way into a socket that the kernel has chosen for it before the socket left the choice:
/// microseconds, unless a hypervisor takes the processor away meanwhile.
const DELIVERY: Duration = Duration::from_millis(5);

impl Drop for Front {
    /// A front that was not drained ends all the same.
    fn drop(&mut self) {
        self.draining.send_replace(true);
        for worker in &self.workers {
            worker.stop();
        }
    }
}

fn size_buffers(listener: &UdpListener, wanted: ByteSize) {
    let address = listener.address();
    match listener.set_receive_buffer(wanted) {
        Ok(got) if got >= wanted.0 => {}
        Ok(got) => tracing::warn!(
            %address, %wanted, got = %ByteSize(got),
            "the kernel gives a smaller receive buffer; bursts may be lost (CAP_NET_ADMIN or a larger net.core.rmem_max helps)"
        ),
        Err(error) => tracing::warn!(%error, %address, "sizing the receive buffer"),
    }
    if let Err(error) = listener.set_send_buffer(wanted) {
        tracing::warn!(%error, %address, "sizing the send buffer");
    }
}

fn spawn_tcp(
    listeners: Vec<std::net::TcpListener>,
    config: &Config,
    context: Context,
    mut draining: watch::Receiver<bool>,
) -> std::io::Result<thread::JoinHandle<()>> {
    let limits = config.listen.tcp.clone();
    let rotate = config.cache.rotate;
    let drain = config.listen.drain.0;
    let admission = Admission::new(config.limits.client_share.0, Seed::of_process().words());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    thread::Builder::new().name("tcp".to_owned()).spawn(move || {
        let connections = Rc::new(tcp::Connections::new(context.tcp_connections));
        let (leave, leaving) = watch::channel(false);
        let shared = Rc::new(tcp::Shared {
            store: context.store,
            jobs: context.jobs,
            limits,
            rotate,
            turns: tcp::Turns::default(),
            connections: Rc::clone(&connections),
            leaving,
            logger: RefCell::new(context.query_log.logger()),
            kept: Kept::default(),
            admission: RefCell::new(admission),
        });
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, async {
            let mut accepting = Vec::new();
            for listener in listeners {
                let Ok(address) = listener.local_addr() else { continue };
                match tokio::net::TcpListener::from_std(listener) {
                    Ok(listener) => {
                        let tally = context.tallies.shared(Server { address, proto: Proto::Tcp });
                        let accept = tcp::accept(listener, Rc::clone(&shared), tally, draining.clone());
                        accepting.push(tokio::task::spawn_local(accept));
                    }
                    Err(error) => tracing::error!(%error, %address, "the TCP listener does not run"),
                }
            }
            // An error means that the front is gone, which is a drain too.
            let _ = draining.wait_for(|&draining| draining).await;
            let deadline = tokio::time::Instant::now() + drain;
            for accept in accepting {
                if tokio::time::timeout_at(deadline, accept).await.is_ok_and(|ended| ended.is_err()) {
                    tracing::error!("a TCP listener panicked");
                }
            }
            leave.send_replace(true);
            let _ = tokio::time::timeout_at(deadline, connections.all_closed()).await;
        });
        // What is left is closed with the runtime; the resolver must not wait for it.
        drop(local);
        runtime.shutdown_timeout(Duration::from_millis(100));
    })
}
