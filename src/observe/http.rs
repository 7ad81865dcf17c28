//! `/metrics`, `/health` and `/ready` over HTTP/1.1.
//!
//! DNS never depends on it: an address that cannot be bound is tried again in the background, connections are few and
//! short, and a scrape runs on a thread of its own. Listeners set SO_REUSEPORT, so that a new process can bind before
//! the old one has left.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;

use super::metrics::Metrics;
use crate::config::Observe;

/// Connections served at once on one address. One more takes the place of the oldest: clients that hold connections
/// open cannot keep a probe out.
pub const MAX_CONNECTIONS: usize = 64;

/// How long a client may take to send its request's header.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a connection may last in all: a client that does not read its answer is cut off.
pub const CONNECTION_TIMEOUT: Duration = Duration::from_secs(15);

/// Header bytes and fields a request may have; Prometheus and kubelet send a few hundred bytes.
pub const MAX_HEADER_BYTES: usize = 16 << 10;
/// See [`MAX_HEADER_BYTES`].
pub const MAX_HEADERS: usize = 64;

/// Time between two attempts to bind an address.
pub const BIND_RETRY: Duration = Duration::from_secs(2);

/// The HTTP listeners. Dropping it closes them.
#[derive(Debug)]
pub struct Http {
    metrics: Metrics,
    listeners: Vec<Listener>,
}

/// What is served at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Routes {
    metrics: bool,
    health: bool,
}

#[derive(Debug)]
struct Listener {
    address: SocketAddr,
    routes: Routes,
    bound: watch::Receiver<Option<SocketAddr>>,
    task: AbortHandle,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Http {
    /// No listener yet.
    pub fn new(metrics: Metrics) -> Self {
        Self { metrics, listeners: Vec::new() }
    }

    /// Makes the listeners those of the configuration: what stays the same stays open. It returns at once; binding
    /// happens in the background and is repeated until it works. Call it inside a tokio runtime.
    pub fn apply(&mut self, observe: &Observe) {
        let mut wanted: Vec<(SocketAddr, Routes)> = Vec::new();
        if let Some(address) = observe.metrics {
            wanted.push((address, Routes { metrics: true, health: observe.health == Some(address) }));
        }
        if let Some(address) = observe.health.filter(|address| observe.metrics != Some(*address)) {
            wanted.push((address, Routes { metrics: false, health: true }));
        }
        // The new ones are started before the old ones go: SO_REUSEPORT lets both hold the same address.
        for (address, routes) in &wanted {
            if !self.listeners.iter().any(|open| (open.address, open.routes) == (*address, *routes)) {
                self.listeners.push(self.listen(*address, *routes));
            }
        }
        self.listeners.retain(|open| wanted.contains(&(open.address, open.routes)));
    }

    /// The address /metrics is served at, once it is bound; `None` if none is configured.
    pub async fn metrics_address(&self) -> Option<SocketAddr> {
        self.bound(|routes| routes.metrics).await
    }

    /// The address /health and /ready are served at, once it is bound; `None` if none is configured.
    pub async fn health_address(&self) -> Option<SocketAddr> {
        self.bound(|routes| routes.health).await
    }

    async fn bound(&self, which: impl Fn(Routes) -> bool) -> Option<SocketAddr> {
        let listener = self.listeners.iter().find(|open| which(open.routes))?;
        let mut bound = listener.bound.clone();
        bound.wait_for(Option::is_some).await.ok().and_then(|address| *address)
    }

    fn listen(&self, address: SocketAddr, routes: Routes) -> Listener {
        let (announce, bound) = watch::channel(None);
        let metrics = self.metrics.clone();
        let task = tokio::spawn(async move {
            let listener = bind_patiently(address, &metrics).await;
            announce.send_replace(listener.local_addr().ok());
            accept(listener, routes, metrics).await;
        });
        Listener { address, routes, bound, task: task.abort_handle() }
    }
}

/// Binds, however long it takes. The first failure is told; the metric counts the rest.
async fn bind_patiently(address: SocketAddr, metrics: &Metrics) -> TcpListener {
    let mut told = false;
    loop {
        match bind(address) {
            Ok(listener) => {
                tracing::info!(%address, "http: listening");
                return listener;
            }
            Err(error) => {
                metrics.counters.http_bind_failures.inc();
                if !told {
                    told = true;
                    tracing::warn!(
                        %address, %error, retry_seconds = BIND_RETRY.as_secs(),
                        "http: cannot bind; DNS is not affected. Free the port or change observe.metrics, observe.health",
                    );
                }
                tokio::time::sleep(BIND_RETRY).await;
            }
        }
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    // Connections of a predecessor in TIME_WAIT must not keep the port.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Connections the kernel holds for us while [`MAX_CONNECTIONS`] are being served.
const BACKLOG: i32 = 128;

async fn accept(listener: TcpListener, routes: Routes, metrics: Metrics) {
    let scrapes = Arc::new(Semaphore::new(SCRAPES_AT_ONCE));
    let mut open: VecDeque<AbortHandle> = VecDeque::with_capacity(MAX_CONNECTIONS);
    let mut server = http1::Builder::new();
    server
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEADER_BYTES)
        // One request a connection: an idle client holds no place, and none stays with a process that is leaving.
        .keep_alive(false);
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // The client is gone already, or descriptors have run out: the latter takes a moment to pass.
                tracing::debug!(%error, "http: accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if open.len() == MAX_CONNECTIONS {
            open.retain(|connection| !connection.is_finished());
        }
        if open.len() == MAX_CONNECTIONS
            && let Some(oldest) = open.pop_front()
        {
            oldest.abort();
        }
        let (server, metrics, scrapes) = (server.clone(), metrics.clone(), Arc::clone(&scrapes));
        let connection = tokio::spawn(async move { serve(&server, stream, routes, metrics, scrapes).await });
        open.push_back(connection.abort_handle());
    }
}

/// How long to wait after an accept that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

async fn serve(
    server: &http1::Builder,
    stream: TcpStream,
    routes: Routes,
    metrics: Metrics,
    scrapes: Arc<Semaphore>,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        let (metrics, scrapes) = (metrics.clone(), Arc::clone(&scrapes));
        async move {
            let path = request.uri().path();
            Ok::<_, Infallible>(answer(request.method(), path, routes, metrics, scrapes).await)
        }
    });
    let connection = server.serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(CONNECTION_TIMEOUT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "http: connection"),
        Err(_) => tracing::debug!("http: connection took too long"),
    }
}

/// Scrapes at a time, at each listener. A client that does not wait for its answer leaves the scrape behind, and threads are
/// bounded by hundreds only.
const SCRAPES_AT_ONCE: usize = 1;

async fn answer(
    method: &Method,
    path: &str,
    routes: Routes,
    metrics: Metrics,
    scrapes: Arc<Semaphore>,
) -> Response<Full<Bytes>> {
    type Route = fn(&Metrics) -> Response<Full<Bytes>>;
    let (route, takes_long): (Route, _) = match path {
        "/metrics" if routes.metrics => (metrics_text, true),
        "/health" if routes.health => (health, false),
        "/ready" if routes.health => (ready, false),
        _ => return plain(StatusCode::NOT_FOUND, "not found\n"),
    };
    if method != Method::GET && method != Method::HEAD {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "GET or HEAD\n");
        response.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    if !takes_long {
        return route(&metrics);
    }
    // A scrape reads files and sums every counter: not on a thread that answers DNS.
    let Ok(scrape) = scrapes.acquire_owned().await else {
        return plain(StatusCode::SERVICE_UNAVAILABLE, "stopping\n");
    };
    let answered = tokio::task::spawn_blocking(move || {
        let _until_done = scrape;
        route(&metrics)
    })
    .await;
    answered.unwrap_or_else(|error| plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")))
}

fn metrics_text(metrics: &Metrics) -> Response<Full<Bytes>> {
    match metrics.scrape() {
        Ok(text) => response(StatusCode::OK, TEXT_FORMAT, text),
        Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

fn health(metrics: &Metrics) -> Response<Full<Bytes>> {
    let begun = Instant::now();
    let response = plain(StatusCode::OK, "OK");
    metrics.health_requests.durations.observe(begun.elapsed().as_secs_f64());
    response
}

fn ready(metrics: &Metrics) -> Response<Full<Bytes>> {
    let (ready, body) = metrics.health.ready();
    plain(if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, body)
}

/// Prometheus's text exposition format, version 0.0.4.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

fn plain(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    response(status, "text/plain; charset=utf-8", body)
}

fn response(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, hyper::header::HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn observe(metrics: Option<SocketAddr>, health: Option<SocketAddr>) -> Observe {
        Observe { metrics, health, coredns_metrics: true }
    }

    fn any_port() -> SocketAddr {
        "127.0.0.1:0".parse().expect("an address")
    }

    /// Sends `request` and returns everything that comes back until the server closes.
    async fn exchange(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.expect("the listener is up");
        stream.write_all(request.as_bytes()).await.expect("the request fits the socket's buffer");
        let mut text = Vec::new();
        let deadline = Duration::from_secs(20);
        let read =
            tokio::time::timeout(deadline, stream.read_to_end(&mut text)).await.expect("an answer in time");
        // A server that does not read all of a request resets the connection behind its answer.
        read.or_else(|error| if error.kind() == io::ErrorKind::ConnectionReset { Ok(0) } else { Err(error) })
            .expect("the whole answer");
        String::from_utf8(text).expect("an answer in UTF-8")
    }

    async fn request(address: SocketAddr, method: &str, path: &str) -> String {
        exchange(address, &format!("{method} {path} HTTP/1.1\r\nHost: n\r\n\r\n")).await
    }

    #[tokio::test]
    async fn scrapes_are_one_at_a_time_also_for_clients_that_leave() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        use std::sync::{Condvar, Mutex};
        let metrics = Metrics::new().expect("unique names");
        let (begun, may_end) = (Arc::new(AtomicUsize::new(0)), Arc::new((Mutex::new(false), Condvar::new())));
        let (count, gate) = (Arc::clone(&begun), Arc::clone(&may_end));
        metrics.providers.set_conntrack(move || {
            count.fetch_add(1, Ordering::SeqCst);
            let open = gate.0.lock().expect("nobody panicked");
            drop(gate.1.wait_while(open, |open| !*open).expect("nobody panicked"));
            None
        });
        let mut http = Http::new(metrics);
        http.apply(&observe(Some(any_port()), Some("[::1]:0".parse().expect("an address"))));
        let (at, health_at) = (
            http.metrics_address().await.expect("configured"),
            http.health_address().await.expect("configured"),
        );
        for _ in 0..20 {
            let mut stream = TcpStream::connect(at).await.expect("the listener is up");
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: n\r\n\r\n").await.expect("it fits");
        }
        let last = tokio::spawn(request(at, "GET", "/metrics"));
        // By then all that came before it have been read.
        for _ in 0..50 {
            assert!(request(health_at, "GET", "/health").await.starts_with("HTTP/1.1 200 "));
        }
        let at_once = begun.load(Ordering::SeqCst);
        *may_end.0.lock().expect("nobody panicked") = true;
        may_end.1.notify_all();
        assert!(last.await.expect("no panic").starts_with("HTTP/1.1 200 "));
        assert_eq!(at_once, 1);
    }

    #[tokio::test]
    async fn each_path_at_its_address_and_nothing_else() {
        let metrics = Metrics::new().expect("unique names");
        let mut http = Http::new(metrics.clone());
        // The two differ, since each port is chosen by the kernel: v4 for one, v6 for the other.
        http.apply(&observe(Some(any_port()), Some("[::1]:0".parse().expect("an address"))));
        let at = http.metrics_address().await.expect("configured");
        let health_at = http.health_address().await.expect("configured");

        let scrape = request(at, "GET", "/metrics").await;
        assert!(scrape.starts_with("HTTP/1.1 200 OK\r\n"), "{scrape}");
        assert!(scrape.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"));
        assert!(scrape.contains("\nnodens_in_flight 0\n"));
        assert!(request(at, "GET", "/health").await.starts_with("HTTP/1.1 404 "));
        assert!(request(health_at, "GET", "/metrics").await.starts_with("HTTP/1.1 404 "));
        let health = request(health_at, "GET", "/health").await;
        assert!(health.starts_with("HTTP/1.1 200 ") && health.ends_with("\r\n\r\nOK"), "{health}");
        let posted = request(health_at, "POST", "/health").await;
        assert!(posted.starts_with("HTTP/1.1 405 ") && posted.contains("allow: GET, HEAD\r\n"), "{posted}");
        let head = request(at, "HEAD", "/metrics").await;
        assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");

        let ready = request(health_at, "GET", "/ready").await;
        assert!(ready.starts_with("HTTP/1.1 503 ") && ready.ends_with("\r\n\r\nstarting\n"), "{ready}");
        metrics.health.clear(crate::observe::health::START);
        assert!(request(health_at, "GET", "/ready").await.starts_with("HTTP/1.1 200 "));
        metrics.health.drain();
        assert!(request(health_at, "GET", "/ready").await.ends_with("\r\n\r\ndraining\n"));
    }

    #[tokio::test]
    async fn one_address_can_serve_both_and_a_reload_moves_them() {
        let mut http = Http::new(Metrics::new().expect("unique names"));
        http.apply(&observe(Some(any_port()), Some(any_port())));
        let at = http.metrics_address().await.expect("configured");
        assert_eq!(http.health_address().await, Some(at));
        assert!(request(at, "GET", "/ready").await.starts_with("HTTP/1.1 503 "));

        http.apply(&observe(Some(any_port()), None));
        assert_eq!(http.health_address().await, None);
        let moved = http.metrics_address().await.expect("configured");
        assert!(request(moved, "GET", "/health").await.starts_with("HTTP/1.1 404 "));
    }

    #[tokio::test]
    async fn a_taken_port_is_bound_when_it_is_free() {
        let taken = std::net::TcpListener::bind(any_port()).expect("a free port");
        let address = taken.local_addr().expect("it is bound");
        let metrics = Metrics::new().expect("unique names");
        let mut http = Http::new(metrics.clone());
        http.apply(&observe(Some(address), None));
        while metrics.counters.http_bind_failures.get() == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        drop(taken);
        assert_eq!(http.metrics_address().await, Some(address));
    }

    #[tokio::test]
    async fn two_processes_can_hold_one_address() {
        let metrics = Metrics::new().expect("unique names");
        let (mut old, mut new) = (Http::new(metrics.clone()), Http::new(metrics.clone()));
        old.apply(&observe(Some(any_port()), None));
        let address = old.metrics_address().await.expect("configured");
        new.apply(&observe(Some(address), None));
        assert_eq!(new.metrics_address().await, Some(address));
        assert_eq!(metrics.counters.http_bind_failures.get(), 0);
    }

    #[tokio::test]
    async fn clients_that_hold_connections_keep_no_probe_out() {
        let mut http = Http::new(Metrics::new().expect("unique names"));
        http.apply(&observe(None, Some(any_port())));
        let at = http.health_address().await.expect("configured");
        let mut held = Vec::new();
        for _ in 0..MAX_CONNECTIONS + 10 {
            held.push(TcpStream::connect(at).await.expect("the listener is up"));
        }
        let begun = Instant::now();
        assert!(request(at, "GET", "/health").await.starts_with("HTTP/1.1 200 "));
        assert!(begun.elapsed() < HEADER_TIMEOUT, "it did not wait for the others' time-out");
        // The oldest had to go: its end reads as closed. The youngest is still there.
        assert_eq!(held[0].read(&mut [0]).await.expect("an orderly end"), 0);
        let (_, youngest) = (held.pop(), held.last_mut().expect("many"));
        youngest.write_all(b"GET /health HTTP/1.1\r\nHost: n\r\n\r\n").await.expect("it is open");
        assert_ne!(youngest.read(&mut [0]).await.expect("an answer"), 0);
    }

    #[tokio::test]
    async fn a_client_that_sends_no_header_is_cut_off_and_an_endless_one_too() {
        let mut http = Http::new(Metrics::new().expect("unique names"));
        http.apply(&observe(Some(any_port()), None));
        let at = http.metrics_address().await.expect("configured");
        let endless =
            format!("GET /metrics HTTP/1.1\r\nHost: n\r\nX: {}\r\n\r\n", "x".repeat(2 * MAX_HEADER_BYTES));
        assert!(exchange(at, &endless).await.starts_with("HTTP/1.1 431 "));
        let begun = Instant::now();
        exchange(at, "GET /metrics HTTP/1.1\r\n").await;
        assert!(begun.elapsed() >= HEADER_TIMEOUT);
    }
}
