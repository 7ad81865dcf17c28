//! What all rounds came to, as figures and as JSON.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Value, json};

use crate::chart;
use crate::machine::Machine;
use crate::scenario::{Measurement, Scenario};
use crate::servers::Server;
use crate::table;

/// A whole run.
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) seconds: u32,
    pub(crate) rounds: usize,
    pub(crate) names: usize,
    pub(crate) questions: usize,
    pub(crate) nxdomain_share: f64,
    pub(crate) scenarios: Vec<Scenario>,
    pub(crate) servers: Vec<ServerReport>,
}

/// One server over all rounds.
pub(crate) struct ServerReport {
    pub(crate) server: Server,
    pub(crate) version: String,
    /// Not installed.
    pub(crate) missing: bool,
    pub(crate) first_answer_ms: Vec<f64>,
    pub(crate) idle_kib: Vec<u64>,
    pub(crate) warm_kib: Vec<u64>,
    /// What went wrong, apart from lost queries.
    pub(crate) faults: Vec<String>,
    /// By scenario and round.
    runs: BTreeMap<&'static str, BTreeMap<usize, Measurement>>,
}

/// One server in one scenario: medians over the rounds.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Summary {
    pub(crate) cpu_ns: f64,
    /// The lowest and highest round.
    pub(crate) cpu_ns_range: [f64; 2],
    /// CPU by that of the floor in the same round, where the floor takes part.
    pub(crate) to_floor: Option<f64>,
    /// CPU by that of the cheapest peer in the same round, where one takes part.
    pub(crate) to_best_peer: Option<f64>,
    pub(crate) rate: f64,
    pub(crate) average_us: Option<f64>,
    pub(crate) percentiles_us: Option<[f64; 3]>,
    /// Over all rounds.
    pub(crate) completed: u64,
    /// Over all rounds.
    pub(crate) lost: u64,
}

impl Report {
    /// A server's figures in a scenario, if it took part.
    pub(crate) fn summary(&self, server: Server, scenario: Scenario) -> Option<Summary> {
        let runs = self.runs(server, scenario)?;
        let all: Vec<&Measurement> = runs.values().collect();
        let of = |figure: fn(&Measurement) -> f64| median(all.iter().map(|run| figure(run)).collect());
        let cpu = all.iter().map(|run| run.cpu_ns);
        let average: Vec<f64> = all.iter().filter_map(|run| run.average_us).collect();
        let percentile =
            |index: usize| median(all.iter().filter_map(|run| Some(run.percentiles_us?[index])).collect());
        Some(Summary {
            cpu_ns: of(|run| run.cpu_ns)?,
            cpu_ns_range: [cpu.clone().fold(f64::INFINITY, f64::min), cpu.fold(0.0, f64::max)],
            to_floor: self.ratio(runs, scenario, Server::is_floor),
            to_best_peer: self.ratio(runs, scenario, Server::is_peer),
            rate: of(|run| run.rate)?,
            average_us: median(average),
            percentiles_us: percentile(0)
                .zip(percentile(1))
                .zip(percentile(2))
                .map(|((p50, p99), p999)| [p50, p99, p999]),
            completed: all.iter().map(|run| run.completed).sum(),
            lost: all.iter().map(|run| run.lost).sum(),
        })
    }

    /// What nodens or a floor did wrong, one line each.
    pub(crate) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for entry in self.servers.iter().filter(|entry| !entry.server.is_peer()) {
            let name = entry.server.name();
            if entry.missing {
                faults.push(format!("{name} is not built"));
            }
            faults.extend(entry.faults.iter().map(|fault| format!("{name}: {fault}")));
            for &scenario in &self.scenarios {
                match self.summary(entry.server, scenario) {
                    Some(Summary { lost: lost @ 1.., completed, .. }) => {
                        faults.push(format!(
                            "{name}: {} lost {lost} of {}",
                            scenario.name(),
                            lost + completed
                        ));
                    }
                    Some(Summary { completed: 0, .. }) => {
                        faults.push(format!("{name}: {} answered nothing", scenario.name()));
                    }
                    None if scenario.suits(entry.server) => {
                        faults.push(format!("{name}: {} did not run", scenario.name()));
                    }
                    _ => {}
                }
            }
        }
        faults
    }

    /// Writes benches/results/latest.json, docs/bench.svg and docs/bench-table.md.
    pub(crate) fn save(&self) -> io::Result<()> {
        write("benches/results/latest.json", &format!("{:#}\n", self.json()))?;
        write("docs/bench.svg", &chart::svg(self))?;
        write("docs/bench-table.md", &table::markdown(self))
    }

    fn json(&self) -> Value {
        let servers: Vec<Value> = self.servers.iter().map(|entry| self.server_json(entry)).collect();
        json!({
            "command": COMMAND,
            "machine": self.machine,
            "seconds": self.seconds,
            "rounds": self.rounds,
            "mix": {"names": self.names, "questions": self.questions, "nxdomain_share": self.nxdomain_share},
            "servers": servers,
        })
    }

    fn server_json(&self, entry: &ServerReport) -> Value {
        if entry.missing {
            return json!({"name": entry.server.name(), "missing": true});
        }
        let scenarios: serde_json::Map<String, Value> = self
            .scenarios
            .iter()
            .filter_map(|&scenario| {
                let summary = self.summary(entry.server, scenario)?;
                let runs: Vec<_> = self.runs(entry.server, scenario)?.values().collect();
                Some((scenario.name().to_owned(), json!({"median": summary, "rounds": runs})))
            })
            .collect();
        json!({
            "name": entry.server.name(),
            "version": entry.version,
            "missing": false,
            "upstream_over_tcp": entry.server.resolves() && entry.server.tcp_upstream(),
            "first_answer_ms": median(entry.first_answer_ms.clone()),
            "idle_rss_kib": entry.idle_rss_kib(),
            "warm_rss_kib": entry.warm_rss_kib(),
            "faults": entry.faults,
            "scenarios": scenarios,
        })
    }

    fn runs(&self, server: Server, scenario: Scenario) -> Option<&BTreeMap<usize, Measurement>> {
        self.servers.iter().find(|entry| entry.server == server)?.runs.get(scenario.name())
    }

    /// The median over the rounds of CPU by the lowest CPU that any server for which `of` holds took in the same round.
    fn ratio(
        &self,
        runs: &BTreeMap<usize, Measurement>,
        scenario: Scenario,
        of: impl Fn(Server) -> bool,
    ) -> Option<f64> {
        let others: Vec<_> = self
            .servers
            .iter()
            .filter(|entry| of(entry.server))
            .filter_map(|entry| entry.runs.get(scenario.name()))
            .collect();
        let ratios = runs.iter().filter_map(|(round, run)| {
            let least = others
                .iter()
                .filter_map(|other| Some(other.get(round)?.cpu_ns))
                .fold(f64::INFINITY, f64::min);
            (least.is_finite() && least > 0.0).then(|| run.cpu_ns / least)
        });
        median(ratios.collect())
    }
}

impl ServerReport {
    /// An empty report of a server.
    pub(crate) fn new(server: Server) -> Self {
        Self {
            server,
            version: server.version(),
            missing: server.program().is_none(),
            first_answer_ms: Vec::new(),
            idle_kib: Vec::new(),
            warm_kib: Vec::new(),
            faults: Vec::new(),
            runs: BTreeMap::new(),
        }
    }

    /// Notes what went wrong, and says so at once.
    pub(crate) fn fault(&mut self, text: String) {
        eprintln!("  {}: {text}", self.server.name());
        self.faults.push(text);
    }

    /// Takes up one measurement.
    pub(crate) fn add(&mut self, round: usize, scenario: Scenario, measurement: Measurement) {
        if let Some(wrong) = &measurement.wrong {
            self.faults.push(format!("{}: {wrong}", scenario.name()));
        }
        self.runs.entry(scenario.name()).or_default().insert(round, measurement);
    }

    /// Resident memory after the first answer, KiB.
    pub(crate) fn idle_rss_kib(&self) -> Option<f64> {
        median(self.idle_kib.iter().map(|&kib| kib as f64).collect())
    }

    /// Resident memory with the whole mix cached, KiB.
    pub(crate) fn warm_rss_kib(&self) -> Option<f64> {
        median(self.warm_kib.iter().map(|&kib| kib as f64).collect())
    }
}

/// What reproduces the figures.
pub(crate) const COMMAND: &str = "cargo bench --bench load";

fn median(mut figures: Vec<f64>) -> Option<f64> {
    figures.sort_unstable_by(f64::total_cmp);
    let middle = figures.len() / 2;
    match figures.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(figures[middle]),
        _ => Some(f64::midpoint(figures[middle - 1], figures[middle])),
    }
}

/// Writes `text` to a file of the package, whose place cargo knows.
fn write(path: &str, text: &str) -> io::Result<()> {
    let root = std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from("."), PathBuf::from);
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
    fs::write(path, text)
}
