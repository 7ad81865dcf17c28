//! The scenarios: what each drives at a server, and what comes out of it.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use crate::client;
use crate::dnsperf::{self, Answer, Load, Outcome};
use crate::mix::{Mix, Question};
use crate::process::Process;
use crate::servers::Server;

/// One way of driving a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scenario {
    /// The whole mix, as fast as it goes, 400 queries outstanding.
    Warm,
    /// One name, as fast as it goes.
    Hot,
    /// The mix at 2,000 queries a second.
    Rate2k,
    /// The mix at 10,000 queries a second.
    Rate10k,
    /// The mix at 50,000 queries a second.
    Rate50k,
    /// The mix over 20 TCP connections.
    Tcp,
    /// The mix, 5,000 queries outstanding.
    Burst,
    /// The mix, each query from a port of its own.
    FreshPorts,
    /// Names never asked for before.
    Miss,
}

impl Scenario {
    /// All of them, in the order they are run: what fills caches comes last.
    pub(crate) const ALL: [Self; 9] = [
        Self::Warm,
        Self::Hot,
        Self::Rate2k,
        Self::Rate10k,
        Self::Rate50k,
        Self::Tcp,
        Self::Burst,
        Self::FreshPorts,
        Self::Miss,
    ];

    /// As the results and `--scenario` call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Warm => "warm",
            Self::Hot => "hot",
            Self::Rate2k => "rate-2k",
            Self::Rate10k => "rate-10k",
            Self::Rate50k => "rate-50k",
            Self::Tcp => "tcp",
            Self::Burst => "burst",
            Self::FreshPorts => "fresh-ports",
            Self::Miss => "miss",
        }
    }

    /// As a table's heading.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Warm => "warm hit",
            Self::Hot => "one hot name",
            Self::Rate2k => "hit at 2k/s",
            Self::Rate10k => "hit at 10k/s",
            Self::Rate50k => "hit at 50k/s",
            Self::Tcp => "TCP hit",
            Self::Burst => "5,000 outstanding",
            Self::FreshPorts => "fresh port a query",
            Self::Miss => "miss",
        }
    }

    /// Whether the scenario means anything for the server: the floor speaks UDP alone and has nothing to miss, and the relay
    /// does nothing else.
    pub(crate) fn suits(self, server: Server) -> bool {
        match server {
            Server::Floor | Server::FloorUring => !matches!(self, Self::Tcp | Self::Miss),
            Server::Relay => self == Self::Miss,
            _ => true,
        }
    }

    fn load(self, seconds: u32) -> Load {
        let base = Load { clients: 8, outstanding: 400, seconds, ..Load::default() };
        match self {
            Self::Warm | Self::Hot | Self::FreshPorts => base,
            Self::Rate2k => Load { rate: 2_000, verbose: true, ..base },
            Self::Rate10k => Load { rate: 10_000, verbose: true, ..base },
            Self::Rate50k => Load { rate: 50_000, verbose: true, ..base },
            Self::Tcp => Load { tcp: true, clients: 20, ..base },
            Self::Burst => Load { clients: 50, outstanding: 5_000, ..base },
            Self::Miss => Load { once: true, verbose: true, outstanding: 200, ..base },
        }
    }
}

/// What a server did in one scenario of one round.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Measurement {
    /// CPU time of the server, in nanoseconds, over the answers it gave.
    pub(crate) cpu_ns: f64,
    /// Answers a second.
    pub(crate) rate: f64,
    pub(crate) completed: u64,
    pub(crate) lost: u64,
    /// As dnsperf prints it; none where the harness's own client drives.
    pub(crate) average_us: Option<f64>,
    /// The 50th, 99th and 99.9th percentile, in µs, where each answer's time is known.
    pub(crate) percentiles_us: Option<[f64; 3]>,
    /// What was wrong with the answers, if anything was.
    pub(crate) wrong: Option<String>,
}

/// Everything a scenario needs beside the server.
pub(crate) struct Driver<'a> {
    pub(crate) mix: &'a Mix,
    /// Right answers by (name, type), for checking verbose runs.
    pub(crate) expected: HashMap<(&'a str, &'a str), &'static str>,
    pub(crate) dir: PathBuf,
    pub(crate) load_cpu: usize,
    pub(crate) seconds: u32,
}

impl<'a> Driver<'a> {
    /// A driver whose query files are in `dir`.
    pub(crate) fn new(mix: &'a Mix, dir: &Path, load_cpu: usize, seconds: u32) -> Self {
        let expected = mix
            .questions
            .iter()
            .map(|question| ((question.name.as_str(), question.qtype.mnemonic()), question.rcode()))
            .collect();
        Self { mix, expected, dir: dir.to_owned(), load_cpu, seconds }
    }

    /// Asks every question of the mix once and checks each answer's response code; lost ones are asked again, twice at most.
    /// Returns what stayed wrong.
    pub(crate) fn warm_up(&self, port: u16) -> io::Result<Option<String>> {
        let load = Load { clients: 4, outstanding: 64, once: true, verbose: true, ..Load::default() };
        let mut wrong = None;
        for _ in 0..3 {
            let outcome = self.dnsperf(&load, port, "mix.txt")?;
            wrong = self.judge_each(&outcome.answers);
            if outcome.lost > 0 {
                wrong = Some(format!("{} questions had no answer", outcome.lost));
            }
            if wrong.is_none() {
                break;
            }
        }
        Ok(wrong)
    }

    /// Runs one scenario against one warm server.
    pub(crate) fn measure(
        &self,
        scenario: Scenario,
        server: Server,
        process: &Process,
        port: u16,
    ) -> io::Result<Measurement> {
        let before = process.cpu_time()?;
        let mut measurement = if scenario == Scenario::FreshPorts {
            self.fresh_ports(port)?
        } else {
            let file = match scenario {
                Scenario::Hot => "hot.txt",
                Scenario::Miss => "cold.txt",
                _ => "mix.txt",
            };
            let outcome = self.dnsperf(&scenario.load(self.seconds), port, file)?;
            let wrong = match scenario {
                Scenario::Hot | Scenario::Miss => judge_share(&outcome, 0.0),
                _ if outcome.answers.is_empty() => judge_share(&outcome, self.mix.nxdomain_share()),
                _ => self.judge_each(&outcome.answers),
            };
            Measurement {
                cpu_ns: 0.0,
                rate: outcome.rate,
                completed: outcome.completed,
                lost: outcome.lost,
                average_us: Some(outcome.average_latency.as_secs_f64() * 1e6),
                percentiles_us: percentiles(outcome.answers),
                wrong,
            }
        };
        let used = process.cpu_time()?.saturating_sub(before);
        measurement.cpu_ns = used.as_nanos() as f64 / measurement.completed.max(1) as f64;
        if !server.resolves() {
            measurement.wrong = None;
        }
        Ok(measurement)
    }

    fn fresh_ports(&self, port: u16) -> io::Result<Measurement> {
        let result =
            client::fresh_ports(port, &self.mix.questions, Duration::from_secs(u64::from(self.seconds)))?;
        let share = result.nxdomain as f64 / result.answered.max(1) as f64;
        Ok(Measurement {
            cpu_ns: 0.0,
            rate: result.answered as f64 / result.elapsed.as_secs_f64(),
            completed: result.answered,
            lost: result.lost,
            average_us: None,
            percentiles_us: None,
            wrong: off_by(result.answered, share, self.mix.nxdomain_share()),
        })
    }

    fn dnsperf(&self, load: &Load, port: u16, file: &str) -> io::Result<Outcome> {
        dnsperf::run(load, port, &self.dir.join(file), self.load_cpu, &self.dir.join("dnsperf.log"))
    }

    fn judge_each(&self, answers: &[Answer]) -> Option<String> {
        // A query without an answer is counted as lost, not as wrong.
        let mut wrong = answers.iter().filter(|answer| answer.rcode != LOST).filter(|answer| {
            self.expected
                .get(&(answer.name.as_str(), answer.qtype.as_str()))
                .is_none_or(|&rcode| rcode != answer.rcode)
        });
        let first = wrong.next()?;
        let count = 1 + wrong.count();
        Some(format!(
            "{count} of {} answers wrong, first {} {}: {}",
            answers.len(),
            first.name,
            first.qtype,
            first.rcode
        ))
    }
}

/// Questions of every kind in the mix, to check a fresh server with.
pub(crate) fn samples(mix: &Mix) -> Vec<&Question> {
    let mut kinds: HashMap<(&str, bool, u16), &Question> = HashMap::new();
    for question in &mix.questions {
        kinds.entry((question.qtype.mnemonic(), question.exists, question.answers)).or_insert(question);
    }
    kinds.into_values().collect()
}

/// Nothing but NOERROR and NXDOMAIN, the latter for about the given share of the questions.
fn judge_share(outcome: &Outcome, nxdomain: f64) -> Option<String> {
    if let Some((rcode, count)) =
        outcome.rcodes.iter().find(|(rcode, _)| !matches!(rcode.as_str(), "NOERROR" | "NXDOMAIN"))
    {
        return Some(format!("{count} answers {rcode}"));
    }
    let count = outcome.rcodes.get("NXDOMAIN").copied().unwrap_or_default();
    off_by(outcome.completed, count as f64 / outcome.completed.max(1) as f64, nxdomain)
}

fn off_by(answers: u64, share: f64, expected: f64) -> Option<String> {
    (answers >= SHARE_NEEDS && (share - expected).abs() > SHARE_TOLERANCE)
        .then(|| format!("{:.1} % NXDOMAIN where {:.1} % were asked for", share * 100.0, expected * 100.0))
}

fn percentiles(answers: Vec<Answer>) -> Option<[f64; 3]> {
    let mut latencies: Vec<Duration> =
        answers.into_iter().filter(|answer| answer.rcode != LOST).map(|answer| answer.latency).collect();
    if latencies.is_empty() {
        return None;
    }
    latencies.sort_unstable();
    Some([500, 990, 999].map(|share| {
        let index = (latencies.len() * share / 1_000).min(latencies.len() - 1);
        latencies[index].as_secs_f64() * 1e6
    }))
}

/// A run that ends in the middle of the file has not seen the whole mix.
const SHARE_TOLERANCE: f64 = 0.05;
/// Too few answers say nothing about shares.
const SHARE_NEEDS: u64 = 1_000;
/// What dnsperf prints in place of a response code for a query that got no answer.
const LOST: &str = "T";
