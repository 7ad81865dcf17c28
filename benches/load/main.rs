//! The load benchmark: what an answer costs nodens, the floor under any server, and the servers people use today.
//!
//! `cargo bench --bench load` starts the floor (a bare recvmmsg/sendmmsg responder), nodens and every peer it finds on one
//! pinned core, drives them with dnsperf from another, and reports CPU time per answer from /proc beside throughput, latency,
//! losses and memory. Servers take turns within each scenario, the others idle meanwhile, so that what else happens on the
//! machine hits all of them alike; figures are medians over the rounds.
//!
//! (Stopping the idle ones with SIGSTOP was tried: knot-resolver answers SERVFAIL for a while after it is continued.)
//!
//! It needs `dnsperf` and `nsd` (which stands in for CoreDNS); peers that are not installed are listed as missing. All traffic
//! is on 127.0.0.1, everything started ends with the harness.

mod chart;
mod client;
mod dnsperf;
mod floor;
mod floor_uring;
mod machine;
mod mix;
mod process;
mod relay;
mod report;
mod rng;
mod round;
mod scenario;
mod servers;
mod sys;
mod table;

use std::io;
use std::process::ExitCode;

use clap::Parser;

use crate::report::Report;
use crate::round::Plan;
use crate::scenario::Scenario;
use crate::servers::Server;

/// CPU per answer, throughput, latency, losses and memory of nodens, the floor and its peers.
#[derive(Debug, Parser)]
#[allow(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
#[command(name = "cargo bench --bench load --")]
struct Options {
    /// nodens and the floor alone, a second each: fails on lost queries and wrong answers, never on time
    #[arg(long)]
    quick: bool,
    /// Only these servers; `floor-uring` runs only if it is named
    #[arg(long, value_delimiter = ',', value_name = "SERVER")]
    only: Vec<String>,
    /// Only these scenarios
    #[arg(long, value_delimiter = ',', value_name = "SCENARIO")]
    scenario: Vec<String>,
    /// Length of each measurement
    #[arg(long, value_name = "N")]
    seconds: Option<u32>,
    /// How often everything is repeated
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// The core the servers run on [default: the last one allowed]
    #[arg(long, value_name = "CPU")]
    server_cpu: Option<usize>,
    /// The core dnsperf, nsd and the harness run on [default: the first one allowed]
    #[arg(long, value_name = "CPU")]
    load_cpu: Option<usize>,
    /// Write benches/results/latest.json and docs/bench.* also after a partial run
    #[arg(long)]
    save: bool,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
    /// Given by test runners that look for tests
    #[arg(long, hide = true)]
    list: bool,
    #[arg(long, hide = true)]
    format: Option<String>,
    #[arg(long, hide = true)]
    ignored: bool,
    /// Be the floor
    #[arg(long, hide = true, value_name = "PORT")]
    serve_floor: Option<u16>,
    /// Be the floor on io_uring
    #[arg(long, hide = true, value_name = "PORT")]
    serve_floor_uring: Option<u16>,
    /// Be the floor of a miss
    #[arg(long, hide = true, num_args = 2, value_names = ["PORT", "UPSTREAM"])]
    serve_relay: Vec<u16>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    if let Some(port) = options.serve_floor {
        return match floor::serve(port) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&format!("floor: {error}")),
        };
    }
    if let Some(port) = options.serve_floor_uring {
        return match floor_uring::serve(port) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&format!("floor-uring: {error}")),
        };
    }
    if let [port, upstream] = options.serve_relay[..] {
        return match relay::serve(port, upstream) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&format!("relay: {error}")),
        };
    }
    // A test runner that builds all targets must neither find tests here nor start a benchmark.
    if options.list || std::env::args_os().len() == 1 {
        return ExitCode::SUCCESS;
    }
    match run(&options) {
        Ok(report) => finish(&options, &report),
        Err(error) => fail(&error.to_string()),
    }
}

fn run(options: &Options) -> io::Result<Report> {
    let plan = plan(options)?;
    sys::catch_signals();
    sys::pin(plan.load_cpu)?;
    plan.run()
}

fn plan(options: &Options) -> io::Result<Plan> {
    let cpus = sys::allowed_cpus()?;
    let last = *cpus.last().ok_or_else(|| io::Error::other("no processor allowed"))?;
    let (mut servers, mut scenarios) = (Server::ALL.to_vec(), Scenario::ALL.to_vec());
    if options.only.is_empty() {
        servers.retain(|server| !server.on_request());
    }
    if options.quick {
        servers.retain(|server| !server.is_peer());
        scenarios.retain(|scenario| !matches!(scenario, Scenario::Rate2k | Scenario::Rate50k));
    }
    choose(&mut servers, &options.only, Server::name, "--only")?;
    choose(&mut scenarios, &options.scenario, Scenario::name, "--scenario")?;
    Ok(Plan {
        servers,
        scenarios,
        seconds: options.seconds.unwrap_or(if options.quick { 1 } else { 3 }).max(1),
        rounds: options.rounds.unwrap_or(if options.quick { 1 } else { 3 }).max(1),
        server_cpu: options.server_cpu.unwrap_or(last),
        load_cpu: options.load_cpu.unwrap_or(cpus[0]),
    })
}

fn choose<T: Copy>(
    from: &mut Vec<T>,
    wanted: &[String],
    name: fn(T) -> &'static str,
    option: &str,
) -> io::Result<()> {
    if let Some(unknown) =
        wanted.iter().find(|wanted| !from.iter().any(|&item| name(item) == wanted.as_str()))
    {
        let known: Vec<_> = from.iter().map(|&item| name(item)).collect();
        return Err(io::Error::other(format!("{option} {unknown}: expected some of {}", known.join(", "))));
    }
    if !wanted.is_empty() {
        from.retain(|&item| wanted.iter().any(|wanted| wanted == name(item)));
    }
    Ok(())
}

/// Prints, saves and judges.
fn finish(options: &Options, report: &Report) -> ExitCode {
    print!("\n{}", table::markdown(report));
    let partial = options.quick || !options.only.is_empty() || !options.scenario.is_empty();
    if (!partial || options.save)
        && let Err(error) = report.save()
    {
        return fail(&format!("cannot write the results: {error}"));
    }
    let faults = report.faults();
    if options.quick && !faults.is_empty() {
        return fail(&faults.join("\n"));
    }
    ExitCode::SUCCESS
}

fn fail(message: &str) -> ExitCode {
    eprintln!("{message}");
    ExitCode::FAILURE
}
