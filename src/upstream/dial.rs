//! Opening a TCP connection: with a bound on its time, and with others beside it when it stalls.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;

use super::connection::{Connection, Driver};
use super::endpoint::Endpoint;
use crate::sys::limits;

/// Starts a dial. If it succeeds, its task goes on to drive the connection.
pub(super) fn start(endpoint: &Rc<Endpoint>) {
    endpoint.dial_began();
    tokio::task::spawn_local(run(Rc::clone(endpoint)));
}

async fn run(endpoint: Rc<Endpoint>) {
    let limit = endpoint.dial_limit();
    let result = tokio::time::timeout(limit, open(&endpoint)).await;
    let now = Instant::now();
    let metrics = &endpoint.metrics;
    match result {
        Ok(Ok(stream)) => {
            metrics.dials_ok.inc();
            let jitter = 1.0 - AGE_JITTER * rand::random::<f64>();
            let connection = Connection::new(now, endpoint.settings.max_age.mul_f64(jitter));
            endpoint.dial_succeeded(&connection, now);
            Driver::new(endpoint, connection, stream).run().await;
        }
        Ok(Err(error)) => {
            match error.kind() {
                io::ErrorKind::ConnectionRefused => metrics.dials_refused.inc(),
                io::ErrorKind::TimedOut => metrics.dials_timeout.inc(),
                _ => metrics.dials_error.inc(),
            }
            tracing::debug!(endpoint = &*endpoint.label, %error, "dial failed");
            endpoint.dial_failed(now, limits::is_exhausted(&error));
        }
        Err(_) => {
            metrics.dials_timeout.inc();
            tracing::debug!(endpoint = &*endpoint.label, ?limit, "dial timed out");
            endpoint.dial_failed(now, false);
        }
    }
}

/// Connects. When that stalls and queries wait for it, two more dials are started: behind a service IP each may be sent
/// to another endpoint, so that with half of them gone a few of these steps always find a living one.
async fn open(endpoint: &Rc<Endpoint>) -> io::Result<TcpStream> {
    let connect = connect(endpoint.address, endpoint.settings.timeout);
    tokio::pin!(connect);
    if let Ok(result) = tokio::time::timeout(endpoint.dial_stall(), &mut connect).await {
        return result;
    }
    if endpoint.has_pending() && !endpoint.is_down() {
        for _ in 0..DIALS_BESIDE {
            if endpoint.dialing() < DIALS_AT_ONCE {
                start(endpoint);
            }
        }
    }
    connect.await
}

async fn connect(address: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_nodelay(true)?;
    let options = SockRef::from(&socket);
    options.set_tcp_keepalive(
        &TcpKeepalive::new().with_time(KEEPALIVE_TIME).with_interval(KEEPALIVE_INTERVAL).with_retries(2),
    )?;
    // The kernel gives up on a peer that acknowledges nothing while a lookup's time still allows another attempt.
    options.set_tcp_user_timeout(Some(timeout / 2))?;
    socket.connect(address).await
}

/// Dials started beside one that stalls.
const DIALS_BESIDE: usize = 2;
/// Dials of one endpoint under way at once.
const DIALS_AT_ONCE: usize = 8;
/// Share by which a connection's age may fall short of `max_age`, so that not all are replaced at once.
const AGE_JITTER: f64 = 0.2;
/// Idle time before the kernel asks whether the peer is there.
const KEEPALIVE_TIME: Duration = Duration::from_secs(3);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);
