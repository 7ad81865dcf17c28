//! The run as Markdown, for the terminal and the documentation.

use std::fmt::Write as _;

use crate::report::{COMMAND, Report, ServerReport, Summary};
use crate::scenario::Scenario;

/// Two tables with the machine, the date and the command above them and what to know about the peers below.
pub(crate) fn markdown(report: &Report) -> String {
    let machine = &report.machine;
    let mut text = format!(
        "`{COMMAND}`, {}, Linux {}, {}, {} CPUs: servers on CPU {}, dnsperf and the upstream on CPU {}.\n\
         {} names ({} questions, {:.0} % NXDOMAIN); medians of {} × {} s.\n\n",
        machine.date,
        machine.kernel,
        machine.cpu,
        machine.cpus,
        machine.server_cpu,
        machine.load_cpu,
        thousands(report.names as u64),
        thousands(report.questions as u64),
        report.nxdomain_share * 100.0,
        report.rounds,
        report.seconds,
    );
    text.push_str("CPU time per answer, in µs (in brackets: times the floor's):\n\n");
    cpu_table(report, &mut text);
    text.push_str("\nAnswers a second, latency in µs, losses and memory:\n\n");
    speed_table(report, &mut text);
    notes(report, &mut text);
    text
}

fn cpu_table(report: &Report, text: &mut String) {
    row(text, "server", report.scenarios.iter().map(|scenario| scenario.title().to_owned()));
    row(text, "---", report.scenarios.iter().map(|_| "---:".to_owned()));
    for entry in present(report) {
        let cells = report.scenarios.iter().map(|&scenario| {
            let Some(summary) = report.summary(entry.server, scenario) else { return "–".to_owned() };
            let cpu = summary.cpu_ns / 1e3;
            match summary.to_floor.filter(|_| !entry.server.is_floor()) {
                Some(ratio) => format!("{cpu:.2} ({ratio:.2})"),
                None => format!("{cpu:.2}"),
            }
        });
        row(text, &title(entry), cells);
    }
}

fn speed_table(report: &Report, text: &mut String) {
    let ran = |scenario: Scenario| report.scenarios.contains(&scenario);
    let mut columns: Vec<(&str, Cell<'_>)> = Vec::new();
    for (scenario, heading) in
        [(Scenario::Warm, "hits/s"), (Scenario::Tcp, "TCP hits/s"), (Scenario::Miss, "misses/s")]
    {
        if ran(scenario) {
            columns.push((
                heading,
                Box::new(move |entry| Some(whole(report.summary(entry.server, scenario)?.rate))),
            ));
        }
    }
    for (scenario, heading) in [
        (Scenario::Rate10k, "p50 / p99 / p99.9 at 10k/s"),
        (Scenario::Rate50k, "at 50k/s"),
        (Scenario::Miss, "of a miss"),
    ] {
        if ran(scenario) {
            columns.push((
                heading,
                Box::new(move |entry| {
                    let [p50, p99, p999] = report.summary(entry.server, scenario)?.percentiles_us?;
                    Some(format!("{p50:.0} / {p99:.0} / {p999:.0}"))
                }),
            ));
        }
    }
    for (scenario, heading) in
        [(Scenario::Warm, "lost, 400 outstanding"), (Scenario::Burst, "lost, 5,000 outstanding")]
    {
        if ran(scenario) {
            columns.push((
                heading,
                Box::new(move |entry| {
                    let Summary { lost, completed, .. } = report.summary(entry.server, scenario)?;
                    Some(match lost {
                        0 => "0".to_owned(),
                        _ => format!(
                            "{} ({:.2} %)",
                            thousands(lost),
                            lost as f64 * 100.0 / (lost + completed) as f64
                        ),
                    })
                }),
            ));
        }
    }
    columns.push(("RSS idle, MiB", Box::new(|entry| Some(format!("{:.1}", entry.idle_rss_kib()? / 1024.0)))));
    columns.push((
        "warm",
        Box::new(|entry| {
            entry.server.resolves().then_some(())?;
            Some(format!("{:.1}", entry.warm_rss_kib()? / 1024.0))
        }),
    ));
    row(text, "server", columns.iter().map(|(heading, _)| (*heading).to_owned()));
    row(text, "---", columns.iter().map(|_| "---:".to_owned()));
    for entry in present(report) {
        row(
            text,
            &title(entry),
            columns.iter().map(|(_, cell)| cell(entry).unwrap_or_else(|| "–".to_owned())),
        );
    }
}

fn notes(report: &Report, text: &mut String) {
    let named = |condition: &dyn Fn(&ServerReport) -> bool| {
        let names: Vec<_> =
            report.servers.iter().filter(|entry| condition(entry)).map(|entry| entry.server.name()).collect();
        names.join(", ")
    };
    let missing = named(&|entry| entry.missing);
    let udp = named(&|entry| !entry.missing && !entry.server.tcp_upstream());
    text.push('\n');
    if !missing.is_empty() {
        let _ = writeln!(text, "Missing, not installed here: {missing}.");
    }
    if !udp.is_empty() {
        let _ = writeln!(text, "Misses over UDP, since the server cannot be told to use TCP: {udp}.");
    }
    text.push_str("The floor answers a constant over UDP, the relay passes queries on over TCP and answers back: what the system calls alone cost.\n");
    for entry in &report.servers {
        for fault in &entry.faults {
            let _ = writeln!(text, "\n{}: {}.", entry.server.name(), fault.replace('\n', " "));
        }
    }
}

/// Servers with any figures.
fn present(report: &Report) -> impl Iterator<Item = &ServerReport> {
    report.servers.iter().filter(|entry| !entry.idle_kib.is_empty())
}

fn title(entry: &ServerReport) -> String {
    format!("{} {}", entry.server.name(), entry.version).trim_end().to_owned()
}

fn row(text: &mut String, first: &str, cells: impl Iterator<Item = String>) {
    let _ = write!(text, "| {first} |");
    for cell in cells {
        let _ = write!(text, " {cell} |");
    }
    text.push('\n');
}

/// Rounds to a whole number with grouped digits.
fn whole(number: f64) -> String {
    thousands(format!("{number:.0}").parse().unwrap_or(0))
}

/// Groups digits by commas.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// What a column shows of a server, if it has it.
type Cell<'a> = Box<dyn Fn(&ServerReport) -> Option<String> + 'a>;
