//! The course of a run: rounds, and within each the servers' turns.

use std::fs;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use crate::client;
use crate::machine::Machine;
use crate::mix::{self, Mix, Qtype, ZONES};
use crate::process::Process;
use crate::report::{Report, ServerReport};
use crate::scenario::{Driver, Scenario, samples};
use crate::servers::{self, Server};
use crate::sys;

/// What is to be run.
pub(crate) struct Plan {
    pub(crate) servers: Vec<Server>,
    pub(crate) scenarios: Vec<Scenario>,
    pub(crate) seconds: u32,
    pub(crate) rounds: usize,
    pub(crate) server_cpu: usize,
    pub(crate) load_cpu: usize,
}

/// A server that was started, checked and warmed.
struct Contender {
    server: Server,
    process: Process,
    port: u16,
    /// Its place in the report.
    index: usize,
}

impl Plan {
    /// Runs all rounds.
    pub(crate) fn run(&self) -> io::Result<Report> {
        let dir = tempfile::Builder::new().prefix("nodens-bench-").tempdir()?;
        let mix = Mix::generate();
        mix.write_zones(dir.path())?;
        mix.write_queries(&dir.path().join("mix.txt"))?;
        fs::write(dir.path().join("hot.txt"), format!("{} A\n", mix::HOT))?;
        let mut report = Report {
            machine: Machine::read(self.server_cpu, self.load_cpu)?,
            seconds: self.seconds,
            rounds: self.rounds,
            names: mix.names,
            questions: mix.questions.len(),
            nxdomain_share: mix.nxdomain_share(),
            scenarios: self.scenarios.clone(),
            servers: self.servers.iter().map(|&server| ServerReport::new(server)).collect(),
        };
        let upstream = servers::free_port()?;
        let mut nsd = servers::start_upstream(dir.path(), upstream, &ZONES, self.load_cpu)?;
        await_answer(&mut nsd, upstream)?;
        let driver = Driver::new(&mix, dir.path(), self.load_cpu, self.seconds);
        for round in 0..self.rounds {
            let cold = COLD_PER_SECOND * self.seconds as usize;
            mix::write_cold_queries(&dir.path().join("cold.txt"), round, cold)?;
            self.round(round, upstream, &driver, &mut report)?;
        }
        Ok(report)
    }

    fn round(&self, round: usize, upstream: u16, driver: &Driver<'_>, report: &mut Report) -> io::Result<()> {
        let mut contenders = Vec::new();
        for (index, &server) in self.servers.iter().enumerate() {
            let entry = &mut report.servers[index];
            if entry.missing {
                continue;
            }
            eprintln!("round {}: starting {}", round + 1, server.name());
            match self.start(server, index, upstream, driver, entry) {
                Ok(contender) => contenders.push(contender),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
                Err(error) => entry.fault(format!("did not start: {error}")),
            }
        }
        // Another server goes first each round, so that chance favours none.
        if !contenders.is_empty() {
            let shift = round % contenders.len();
            contenders.rotate_left(shift);
        }
        for &scenario in &self.scenarios {
            for contender in &mut contenders {
                if scenario.suits(contender.server) {
                    let entry = &mut report.servers[contender.index];
                    measure(round, scenario, contender, driver, entry)?;
                }
            }
        }
        Ok(())
    }

    fn start(
        &self,
        server: Server,
        index: usize,
        upstream: u16,
        driver: &Driver<'_>,
        entry: &mut ServerReport,
    ) -> io::Result<Contender> {
        let port = servers::free_port()?;
        let begin = Instant::now();
        let mut process = server.start(&driver.dir, port, upstream, self.server_cpu)?;
        await_answer(&mut process, port)?;
        entry.first_answer_ms.push(begin.elapsed().as_secs_f64() * 1e3);
        entry.idle_kib.push(process.resident_kib()?);
        if server.resolves() {
            for question in samples(driver.mix) {
                let reply = client::ask(port, &question.name, question.qtype, PATIENCE)?;
                let exists = reply.rcode == 0;
                let refused = !exists && reply.rcode != client::NXDOMAIN;
                if refused || exists != question.exists || reply.answers != question.answers {
                    entry.fault(format!(
                        "{} {}: expected {} with {} answers, got {reply:?}",
                        question.name,
                        question.qtype.mnemonic(),
                        question.rcode(),
                        question.answers
                    ));
                }
            }
            if let Some(wrong) = driver.warm_up(port)? {
                entry.fault(format!("warm-up: {wrong}"));
            }
        }
        entry.warm_kib.push(process.resident_kib()?);
        Ok(Contender { server, process, port, index })
    }
}

fn measure(
    round: usize,
    scenario: Scenario,
    contender: &mut Contender,
    driver: &Driver<'_>,
    entry: &mut ServerReport,
) -> io::Result<()> {
    if let Some(status) = contender.process.ended()? {
        entry.fault(format!("ended with {status} before {}", scenario.name()));
        return Ok(());
    }
    let result = driver.measure(scenario, contender.server, &contender.process, contender.port);
    if sys::interrupted() {
        return Err(io::ErrorKind::Interrupted.into());
    }
    match result {
        Ok(measurement) => {
            eprintln!(
                "  {:<12} {:<14} {:>7.2} µs/answer {:>9.0}/s {:>6} lost {}",
                scenario.name(),
                contender.server.name(),
                measurement.cpu_ns / 1e3,
                measurement.rate,
                measurement.lost,
                measurement.wrong.as_deref().unwrap_or_default(),
            );
            entry.add(round, scenario, measurement);
        }
        Err(error) => entry.fault(format!("{}: {error}", scenario.name())),
    }
    Ok(())
}

/// Asks until the server answers.
fn await_answer(process: &mut Process, port: u16) -> io::Result<()> {
    let end = Instant::now() + START_LIMIT;
    while Instant::now() < end {
        if sys::interrupted() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        if let Some(status) = process.ended()? {
            return Err(io::Error::other(format!("ended with {status}: {}", process.last_words())));
        }
        // A closed port answers at once (ECONNREFUSED); a listening server takes as long as it takes.
        if let Ok(reply) = client::ask(port, mix::HOT, Qtype::A, RETRY)
            && reply.rcode == 0
        {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(2));
    }
    let said = process.last_words();
    Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {START_LIMIT:?}: {said}")))
}

/// Cold names generated per second of a measurement: more than any server here resolves.
const COLD_PER_SECOND: usize = 150_000;
const START_LIMIT: Duration = Duration::from_secs(20);
const RETRY: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(5);
