//! Runs dnsperf and reads what it prints.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::process::Process;
use crate::servers::find;

/// How dnsperf is to drive a server.
#[derive(Debug, Clone, Default)]
pub(crate) struct Load {
    pub(crate) tcp: bool,
    /// Queries outstanding at most; 0 leaves dnsperf's own 100.
    pub(crate) outstanding: u32,
    /// Sockets, or TCP connections.
    pub(crate) clients: u32,
    /// Queries a second at most; 0 is without a limit.
    pub(crate) rate: u32,
    /// Ends after so many seconds, or with the file if it is walked once.
    pub(crate) seconds: u32,
    /// Walks the file once instead of again and again.
    pub(crate) once: bool,
    /// Prints every answer, from which come percentiles and the response code of each question.
    pub(crate) verbose: bool,
}

/// What a run of dnsperf came to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outcome {
    pub(crate) completed: u64,
    pub(crate) lost: u64,
    /// Completed queries a second.
    pub(crate) rate: f64,
    pub(crate) average_latency: Duration,
    pub(crate) rcodes: BTreeMap<String, u64>,
    /// Of every answer, if the run was verbose.
    pub(crate) answers: Vec<Answer>,
}

/// One line of a verbose run.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    /// The response code's mnemonic, or `T` for a query that got no answer.
    pub(crate) rcode: String,
    pub(crate) name: String,
    pub(crate) qtype: String,
    pub(crate) latency: Duration,
}

/// Drives 127.0.0.1:`port` with the queries in `file`, from `cpu`.
pub(crate) fn run(load: &Load, port: u16, file: &Path, cpu: usize, log: &Path) -> io::Result<Outcome> {
    let program =
        find("dnsperf").ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "dnsperf is not installed"))?;
    let mut command = Command::new(program);
    command
        .args(["-s", "127.0.0.1", "-p", &port.to_string(), "-t", TIMEOUT, "-T", "1", "-b", BUFFER_KIB, "-d"])
        .arg(file);
    if load.tcp {
        command.args(["-m", "tcp"]);
    }
    if load.outstanding > 0 {
        command.args(["-q", &load.outstanding.to_string()]);
    }
    if load.clients > 0 {
        command.args(["-c", &load.clients.to_string()]);
    }
    if load.rate > 0 {
        command.args(["-Q", &load.rate.to_string()]);
    }
    if load.once {
        command.args(["-n", "1"]);
    }
    if load.seconds > 0 {
        command.args(["-l", &load.seconds.to_string()]);
    }
    if load.verbose {
        command.arg("-v");
    }
    let mut process = Process::start(&mut command, cpu, log, libc::SIGKILL)?;
    let limit = Duration::from_secs(if load.seconds > 0 { u64::from(load.seconds) + 30 } else { 120 });
    let status = process.wait(limit)?;
    if !status.success() {
        return Err(io::Error::other(format!("dnsperf ended with {status}: {}", process.last_words())));
    }
    let text = fs::read_to_string(log)?;
    parse(&text)
        .ok_or_else(|| io::Error::other(format!("dnsperf printed no statistics: {}", process.last_words())))
}

fn parse(text: &str) -> Option<Outcome> {
    let mut outcome = Outcome::default();
    let mut complete = false;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("> ") {
            let mut words = rest.split(' ');
            let (Some(rcode), Some(name), Some(qtype)) = (words.next(), words.next(), words.next()) else {
                continue;
            };
            outcome.answers.push(Answer {
                rcode: rcode.to_owned(),
                name: name.to_owned(),
                qtype: qtype.to_owned(),
                latency: words.next().and_then(seconds).unwrap_or_default(),
            });
            continue;
        }
        let Some((key, value)) = line.trim().split_once(':') else { continue };
        let value = value.trim();
        let first = value.split(' ').next().unwrap_or_default();
        match key {
            "Queries completed" => outcome.completed = first.parse().ok()?,
            "Queries lost" => outcome.lost = first.parse().ok()?,
            "Queries per second" => {
                outcome.rate = first.parse().ok()?;
                complete = true;
            }
            "Response codes" => {
                for part in value.split(", ") {
                    let mut words = part.split(' ');
                    if let (Some(rcode), Some(count)) =
                        (words.next(), words.next().and_then(|count| count.parse().ok()))
                    {
                        outcome.rcodes.insert(rcode.to_owned(), count);
                    }
                }
            }
            // Connections have a line of the same name below; the first one is the queries'.
            "Average Latency (s)" if outcome.average_latency.is_zero() => {
                outcome.average_latency = seconds(first).unwrap_or_default();
            }
            _ => {}
        }
    }
    complete.then_some(outcome)
}

fn seconds(text: &str) -> Option<Duration> {
    Duration::try_from_secs_f64(text.parse().ok()?).ok()
}

/// Seconds until an unanswered query counts as lost.
const TIMEOUT: &str = "3";
/// dnsperf's socket buffers: the answers to a burst must not be lost on its own side.
const BUFFER_KIB: &str = "4096";
