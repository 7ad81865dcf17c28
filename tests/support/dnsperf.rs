//! dnsperf as the client: many queries outstanding, and every one of them accounted for.

#![allow(dead_code, unreachable_pub, reason = "each test file includes this and uses its part")]

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::need;

/// A list of queries for dnsperf.
pub struct Queries {
    file: PathBuf,
    _directory: tempfile::TempDir,
}

impl Queries {
    /// These names and types, such as `("a.example", "A")`.
    pub fn new<'a>(queries: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("queries");
        let mut text = String::new();
        for (name, qtype) in queries {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{name} {qtype}");
        }
        fs::write(&file, text).expect("the directory is writable");
        Self { file, _directory: directory }
    }
}

/// How dnsperf asks.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Queries outstanding at most.
    pub outstanding: u32,
    /// How long.
    pub seconds: u32,
    /// At most so many queries a second; 0: as fast as answers come.
    pub rate: u32,
    /// Over TCP; else over UDP.
    pub tcp: bool,
    /// Clients, each with a socket of its own.
    pub clients: u32,
}

impl Default for Load {
    fn default() -> Self {
        Self { outstanding: 100, seconds: 3, rate: 0, tcp: false, clients: 4 }
    }
}

/// A dnsperf at work; killed when dropped.
pub struct Running(Option<Child>);

/// What dnsperf counted.
#[derive(Debug, Clone)]
pub struct Counted {
    /// Queries sent.
    pub sent: u64,
    /// Answers received.
    pub completed: u64,
    /// Queries without an answer.
    pub lost: u64,
    /// Answers with the rcodes NOERROR and NXDOMAIN.
    pub good: u64,
    /// All dnsperf has printed.
    pub text: String,
}

/// Asks `server` for a while.
pub fn run(server: SocketAddr, queries: &Queries, load: Load) -> Counted {
    start(server, queries, load).finish()
}

/// The same, beside the test.
pub fn start(server: SocketAddr, queries: &Queries, load: Load) -> Running {
    let mut command = Command::new(need::find("dnsperf").expect("the test has asked `need` for dnsperf"));
    command.arg("-s").arg(server.ip().to_string()).arg("-p").arg(server.port().to_string());
    command.arg("-d").arg(&queries.file);
    command.args(["-m", if load.tcp { "tcp" } else { "udp" }, "-T", "1"]);
    command.args([
        "-q",
        &load.outstanding.to_string(),
        "-c",
        &load.clients.to_string(),
        "-l",
        &load.seconds.to_string(),
    ]);
    if load.rate > 0 {
        command.args(["-Q", &load.rate.to_string()]);
    }
    // The sockets' buffers in kB: the client's must hold what a burst brings, too.
    command.args(["-b", "8192"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Running(Some(command.spawn().expect("dnsperf starts")))
}

impl Running {
    /// Whether it still asks.
    pub fn is_running(&mut self) -> bool {
        self.0.as_mut().is_some_and(|child| child.try_wait().is_ok_and(|status| status.is_none()))
    }

    /// Waits for its end.
    pub fn finish(mut self) -> Counted {
        let child = self.0.take().expect("there until now");
        let output = child.wait_with_output().expect("dnsperf ends");
        let text =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{text}");
        let number = |line: &str| -> u64 {
            let rest = text
                .lines()
                .find_map(|found| found.trim().strip_prefix(line))
                .unwrap_or_else(|| panic!("{line}: {text}"));
            rest.split_whitespace()
                .next()
                .and_then(|word| word.parse().ok())
                .unwrap_or_else(|| panic!("{line}: {text}"))
        };
        let rcode = |name: &str| -> u64 {
            let codes =
                text.lines().find_map(|line| line.trim().strip_prefix("Response codes:")).unwrap_or("");
            let words: Vec<_> = codes.split_whitespace().collect();
            let at = words.iter().position(|word| *word == name);
            at.and_then(|at| words.get(at + 1)?.parse().ok()).unwrap_or(0)
        };
        let good = rcode("NOERROR") + rcode("NXDOMAIN");
        Counted {
            sent: number("Queries sent:"),
            completed: number("Queries completed:"),
            lost: number("Queries lost:"),
            good,
            text,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Counted {
    /// Panics unless every query was answered, and well.
    pub fn lost_nothing(&self, what: &str) {
        assert!(self.sent > 100, "{what}: {}", self.text);
        assert_eq!(
            (self.lost, self.completed, self.good),
            (0, self.sent, self.sent),
            "{what}: {}",
            self.text
        );
    }
}
