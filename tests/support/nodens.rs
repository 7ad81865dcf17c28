//! The real binary as a child process, on loopback.
//!
//! ```ignore
//! let nodens = Nodens::forwarding_to(upstream.address());
//! let reply = client::udp(nodens.address(), &Query::new("a.test", A));
//! assert_eq!(nodens.count("nodens_cache_misses_total", &[]), 1);
//! assert_eq!(nodens.stop(), Some(0));
//! ```
//!
//! Where it listens comes from the environment (`NODENS__LISTEN__PORT` and so on); the YAML of a test says the rest.

#![allow(dead_code, unreachable_pub, reason = "each test file includes this and uses its part")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::loopback;
use super::wait::{eventually, seconds};

/// Longest that a start may take on a busy machine.
const START: Duration = seconds(20);

/// Longest that a stop may take: the drain time and some.
const STOP: Duration = seconds(20);

/// The binary under test.
pub fn binary() -> PathBuf {
    std::env::var_os("NODENS_BIN").map_or_else(|| env!("CARGO_BIN_EXE_nodens").into(), PathBuf::from)
}

/// A running nodens; killed when dropped.
pub struct Nodens {
    child: Child,
    places: Places,
    directory: tempfile::TempDir,
    said: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
}

/// Where a nodens listens.
#[derive(Debug, Clone, Copy)]
pub struct Places {
    /// DNS, over UDP and TCP.
    pub dns: SocketAddr,
    /// /metrics.
    pub metrics: SocketAddr,
    /// /health and /ready.
    pub health: SocketAddr,
}

impl Places {
    /// Free ones, on a loopback address of their own.
    pub fn free() -> Self {
        let address = loopback::address();
        let [dns, metrics, health] = [(); 3].map(|()| loopback::free_at(address));
        Self { dns, metrics, health }
    }

    /// As environment variables for a nodens.
    pub fn environment(&self) -> [(&'static str, String); 4] {
        [
            ("NODENS__LISTEN__ADDRESSES", self.dns.ip().to_string()),
            ("NODENS__LISTEN__PORT", self.dns.port().to_string()),
            ("NODENS__OBSERVE__METRICS", self.metrics.to_string()),
            ("NODENS__OBSERVE__HEALTH", self.health.to_string()),
        ]
    }
}

impl Nodens {
    /// Starts with everything forwarded to `upstream` over TCP, and waits until it is ready.
    pub fn forwarding_to(upstream: SocketAddr) -> Self {
        Self::start(&zone_dot(upstream, "tcp"))
    }

    /// Starts with this YAML, and waits until it is ready.
    pub fn start(yaml: &str) -> Self {
        Self::start_at(Places::free(), yaml)
    }

    /// The same, at these places.
    pub fn start_at(places: Places, yaml: &str) -> Self {
        let mut nodens = Self::launch(places, yaml);
        nodens.until("ready", |nodens| nodens.get("/ready").is_some_and(|(status, _)| status == 200));
        nodens
    }

    /// Starts where no upstream answers: waits until queries are, ready or not.
    pub fn start_unready(yaml: &str) -> Self {
        let mut nodens = Self::launch(Places::free(), yaml);
        nodens.until("alive", |nodens| nodens.get("/health").is_some_and(|(status, _)| status == 200));
        nodens
    }

    /// Starts and waits for nothing.
    pub fn launch(places: Places, yaml: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("nodens.yaml");
        fs::write(&file, yaml).expect("the directory is writable");
        let mut command = Command::new(binary());
        command.args(["run", "--config"]).arg(&file).envs(places.environment());
        Self::spawn(command, places, directory)
    }

    /// Starts with the configuration at a path of the caller's own.
    pub fn start_from(config: &Path, places: Places) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut command = Command::new(binary());
        command.args(["run", "--config"]).arg(config).envs(places.environment());
        let mut nodens = Self::spawn(command, places, directory);
        nodens.until("ready", |nodens| nodens.get("/ready").is_some_and(|(status, _)| status == 200));
        nodens
    }

    /// Starts a command of the caller's own that becomes a nodens at these places, as it is in a namespace.
    pub fn spawn(mut command: Command, places: Places, directory: tempfile::TempDir) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let said = Arc::new(Mutex::new(String::new()));
        let log = child.stderr.take().expect("stderr is piped");
        let query_log = child.stdout.take().expect("stdout is piped");
        let readers = vec![collect(log, &said), collect(query_log, &said)];
        Self { child, places, directory, said, readers }
    }

    /// Waits for a condition; panics with what nodens said when it ends first, or does not come to it in time.
    pub fn until(&mut self, what: &str, condition: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !condition(self) {
            if let Some(status) = self.child.try_wait().expect("the child is ours to wait for") {
                panic!("nodens ended with {status} before it was {what}:\n{}", self.said());
            }
            assert!(start.elapsed() < START, "nodens is not {what} within {START:?}:\n{}", self.said());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Where it answers queries.
    pub fn address(&self) -> SocketAddr {
        self.places.dns
    }

    /// Where all of it listens.
    pub fn places(&self) -> Places {
        self.places
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written so far: the log, and the query log.
    pub fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    /// Waits until it has written this.
    pub fn until_said(&self, words: &str) {
        eventually(&format!("nodens says {words:?}"), seconds(20), || self.said().contains(words));
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("the child is ours to wait for").is_none()
    }

    /// Status and body of a page of the health listener; `None` where nothing answers.
    pub fn get(&self, path: &str) -> Option<(u16, String)> {
        get(self.places.health, path)
    }

    /// What it counts now.
    pub fn metrics(&self) -> Metrics {
        let (status, body) = get(self.places.metrics, "/metrics").expect("/metrics answers");
        assert_eq!(status, 200, "{body}");
        Metrics::parse(&body)
    }

    /// One count of [`Self::metrics`].
    pub fn count(&self, family: &str, labels: &[(&str, &str)]) -> u64 {
        self.metrics().count(family, labels)
    }

    /// Resident memory, in bytes.
    pub fn resident(&self) -> u64 {
        self.count("process_resident_memory_bytes", &[])
    }

    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) {
        signal(self.child.id(), name);
    }

    /// Writes another configuration where it reads its own.
    pub fn write_config(&self, yaml: &str) {
        let file = self.directory.path().join("nodens.yaml");
        let new = self.directory.path().join("nodens.yaml.new");
        fs::write(&new, yaml).expect("the directory is writable");
        fs::rename(new, file).expect("the directory is writable");
    }

    /// Sends SIGTERM and waits for the end: its exit code, `None` after a signal.
    pub fn stop(mut self) -> Option<i32> {
        self.signal("TERM");
        self.ended().code()
    }

    /// After a signal that the test has sent: its exit code.
    pub fn stop_after_signal(mut self) -> Option<i32> {
        self.ended().code()
    }

    /// Waits for the end.
    pub fn ended(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("the child is ours to wait for") {
                for reader in self.readers.drain(..) {
                    let _ = reader.join();
                }
                return status;
            }
            assert!(start.elapsed() < STOP, "nodens does not end within {STOP:?}:\n{}", self.said());
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Nodens {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        if thread::panicking() {
            eprintln!("nodens said:\n{}", self.said());
        }
    }
}

/// Adds the lines of a pipe to what was said.
fn collect(pipe: impl Read + Send + 'static, said: &Arc<Mutex<String>>) -> JoinHandle<()> {
    let said = Arc::clone(said);
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            let mut said = said.lock().unwrap();
            said.push_str(&line);
            said.push('\n');
        }
    })
}

/// Everything forwarded to `upstream`, as YAML. Without hedges: a machine that stands still for a moment makes some, and
/// tests count queries.
pub fn zone_dot(upstream: SocketAddr, transport: &str) -> String {
    format!("zones: [{{name: '.', forward: {{to: ['{upstream}'], transport: {transport}, hedge: 0%}}}}]\n")
}

/// Runs the binary to its end.
pub fn run_to_end(arguments: &[&str], environment: &[(&str, String)]) -> Ended {
    let mut command = Command::new(binary());
    command.args(arguments).envs(environment.iter().map(|(name, value)| (name, value))).stdin(Stdio::null());
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// How a run of the binary ended.
#[derive(Debug)]
pub struct Ended {
    /// The exit code.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it complained of.
    pub stderr: String,
}

/// Sends a signal to a process that the test has started.
pub fn signal(pid: u32, name: &str) {
    // A shell, since kill(1) is not installed everywhere.
    let status = Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status();
    assert!(status.is_ok_and(|status| status.success()), "SIG{name} could not be sent to {pid}");
}

/// Status and body of a page; `None` where nothing answers.
pub fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, seconds(2)).ok()?;
    stream.set_read_timeout(Some(seconds(5))).ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: nodens\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut response = Vec::new();
    stream.read_to_end(&mut response).ok()?;
    let response = String::from_utf8_lossy(&response);
    let (head, body) = response.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

/// One scrape: values by series, the series as it is written.
#[derive(Debug, Clone)]
pub struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    /// Parses the text format.
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let series = lines.filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            Some((series.to_owned(), value.parse().ok()?))
        });
        Self(series.collect())
    }

    /// The sum over the series of this family that have all these labels. Panics if the family is missing.
    pub fn sum(&self, family: &str, labels: &[(&str, &str)]) -> f64 {
        let of_family = |series: &str| {
            series.strip_prefix(family).is_some_and(|rest| rest.is_empty() || rest.starts_with('{'))
        };
        assert!(self.0.keys().any(|series| of_family(series)), "no series of {family}");
        let labels: Vec<_> = labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
        self.0
            .iter()
            .filter(|(series, _)| of_family(series) && labels.iter().all(|label| series.contains(label)))
            .map(|(_, value)| value)
            .sum()
    }

    /// The same, of whole numbers.
    pub fn count(&self, family: &str, labels: &[(&str, &str)]) -> u64 {
        self.sum(family, labels) as u64
    }

    /// The series and values, for messages.
    pub fn non_zero(&self, prefix: &str) -> Vec<(&str, f64)> {
        let series = self.0.iter().filter(|(series, value)| series.starts_with(prefix) && **value != 0.0);
        series.map(|(series, value)| (series.as_str(), *value)).collect()
    }
}
