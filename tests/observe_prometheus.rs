//! A real Prometheus scrapes a real listener and evaluates what dashboards and alerts ask.

#[path = "support/observe.rs"]
mod support;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nodens::config::Observe;
use nodens::observe::Http;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use support::{configured, dashboard_expressions, required_tool, traffic};

/// Prometheus, until the test ends.
struct Prometheus {
    child: Child,
    address: SocketAddr,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // Either fails only when it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Prometheus {
    fn start(binary: &Path, directory: &Path, target: SocketAddr) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let address = free.expect("a free port");
        let config = format!(
            "global: {{scrape_interval: 200ms, scrape_timeout: 200ms}}\n\
             scrape_configs:\n\
             - {{job_name: nodens, static_configs: [{{targets: ['{target}']}}]}}\n"
        );
        let file = directory.join("prometheus.yml");
        std::fs::write(&file, config).expect("the directory is ours");
        let log = std::fs::File::create(directory.join("log")).expect("the directory is ours");
        let child = Command::new(binary)
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", directory.join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("prometheus starts");
        Self { child, address }
    }

    /// The samples an instant query returns; `None` while Prometheus is not up yet.
    fn query(&self, expression: &str) -> Option<Vec<serde_json::Value>> {
        let mut stream = TcpStream::connect(self.address).ok()?;
        let body = format!("query={}", escaped(expression));
        write!(
            stream,
            "POST /api/v1/query HTTP/1.0\r\nContent-Type: application/x-www-form-urlencoded\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (_, body) = answer.split_once("\r\n\r\n")?;
        let value: serde_json::Value = serde_json::from_str(body).ok()?;
        assert_eq!(value["status"], "success", "{expression}: {value}");
        value["data"]["result"].as_array().cloned()
    }
}

/// Percent-encoded for a form.
fn escaped(text: &str) -> String {
    let escape = |byte: u8| {
        if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") }
    };
    text.bytes().map(escape).collect()
}

/// Grafana's variables and the labels Prometheus gives a target, as they are here.
fn localized(expression: &str) -> String {
    let replaced = [
        ("job=\"$job\"", "job=\"nodens\""),
        ("job=\"kube-dns\"", "job=\"nodens\""),
        ("=~\"$instance\"", "=~\".*\""),
        ("=~\"$protocol\"", "=~\".*\""),
        ("=~\"$pod\"", "=~\".*\""),
        ("$__rate_interval", "5m"),
    ];
    replaced.iter().fold(expression.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// What kubelet does.
async fn probe(address: SocketAddr) {
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("the listener is up");
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: n\r\n\r\n").await.expect("the listener reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("the listener answers");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn every_expression_returns_data() {
    let Some(binary) = required_tool("prometheus") else { return };
    let metrics = configured();
    let mut http = Http::new(metrics.clone());
    let any_port = "127.0.0.1:0".parse().ok();
    http.apply(&Observe { metrics: any_port, health: any_port, coredns_metrics: true });
    let target = http.metrics_address().await.expect("configured");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let prometheus = Prometheus::start(&binary, directory.path(), target);

    let deadline = Instant::now() + Duration::from_mins(1);
    let mut open: Vec<String> = dashboard_expressions().map(localized).collect();
    open.push("absent(up{job=\"nodens\"} == 0)".to_owned());
    let (mut rate, mut round) = (0.0, 0);
    while !open.is_empty() || rate <= 0.0 {
        let log = || std::fs::read_to_string(directory.path().join("log")).unwrap_or_default();
        assert!(Instant::now() < deadline, "no data for {open:#?}, rate {rate}\n{}", log());
        round += 1;
        traffic(&metrics, round);
        probe(target).await;
        // A scrape's interval; the loop ends when the data is there.
        tokio::time::sleep(Duration::from_millis(200)).await;
        // Data, not just series: a quotient of two counters that stand still would be NaN.
        open.retain(|expression| {
            let result = prometheus.query(expression).unwrap_or_default();
            result.is_empty() || result.iter().all(|sample| sample["value"][1] == "NaN")
        });
        let sum = prometheus.query("sum(rate(coredns_dns_requests_total[5m]))").unwrap_or_default();
        rate = sum.first().and_then(|sample| sample["value"][1].as_str()?.parse().ok()).unwrap_or(0.0);
    }
}
