//! The run as an SVG: one panel of bars per scenario, all of them CPU time per answer.

use std::fmt::Write as _;

use crate::report::Report;
use crate::scenario::Scenario;
use crate::servers::Server;

/// Draws the scenarios of [`PANELS`] that were run. Text and lines take the reader's light or dark scheme.
pub(crate) fn svg(report: &Report) -> String {
    let panels: Vec<_> = PANELS
        .iter()
        .map(|&scenario| (scenario, bars(report, scenario)))
        .filter(|(_, bars)| !bars.is_empty())
        .collect();
    let rows = panels.len().div_ceil(COLUMNS);
    let tallest = |row: usize| {
        panels[row * COLUMNS..].iter().take(COLUMNS).map(|(_, bars)| bars.len()).max().unwrap_or(0)
    };
    let height = HEAD + (0..rows).map(|row| panel_height(tallest(row))).sum::<usize>() + FOOT;
    let width = COLUMNS * PANEL_WIDTH;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         font-family=\"system-ui, sans-serif\" role=\"img\">\n\
         <title>CPU time per answer, in µs: less is better</title>\n<style>{STYLE}</style>\n\
         <text x=\"16\" y=\"26\" class=\"head\">CPU time per answer, µs: less is better</text>\n"
    );
    let mut top = HEAD;
    for row in 0..rows {
        for (column, (scenario, bars)) in panels[row * COLUMNS..].iter().take(COLUMNS).enumerate() {
            panel(&mut text, column * PANEL_WIDTH + 16, top, *scenario, bars);
        }
        top += panel_height(tallest(row));
    }
    let machine = &report.machine;
    let _ = writeln!(
        text,
        "<text x=\"16\" y=\"{}\" class=\"note\">{}, Linux {}, {}. One worker, {} names, median of {} runs.</text>\n</svg>",
        height - 12,
        machine.date,
        escape(&machine.kernel),
        escape(&machine.cpu),
        report.names,
        report.rounds,
    );
    text
}

/// Servers and their µs, cheapest first.
fn bars(report: &Report, scenario: Scenario) -> Vec<(Server, f64)> {
    let mut bars: Vec<_> = report
        .servers
        .iter()
        .filter_map(|entry| Some((entry.server, report.summary(entry.server, scenario)?.cpu_ns / 1e3)))
        .collect();
    bars.sort_by(|left, right| left.1.total_cmp(&right.1));
    bars
}

fn panel(text: &mut String, left: usize, top: usize, scenario: Scenario, bars: &[(Server, f64)]) {
    let longest = bars.iter().map(|&(_, value)| value).fold(f64::MIN_POSITIVE, f64::max);
    let _ =
        writeln!(text, "<text x=\"{left}\" y=\"{}\" class=\"title\">{}</text>", top + 14, scenario.title());
    for (index, &(server, value)) in bars.iter().enumerate() {
        let y = top + TITLE + index * BAR;
        let length = (value / longest * BAR_LENGTH as f64).max(1.0);
        let class = match server {
            Server::Floor | Server::FloorUring | Server::Relay => "floor",
            Server::Nodens => "nodens",
            _ => "peer",
        };
        let start = left + LABEL;
        let _ = writeln!(
            text,
            "<text x=\"{}\" y=\"{}\" class=\"label\">{}</text>\
             <rect x=\"{start}\" y=\"{y}\" width=\"{length:.1}\" height=\"{}\" rx=\"2\" class=\"{class}\"/>\
             <text x=\"{:.1}\" y=\"{}\" class=\"value\">{value:.2}</text>",
            start - 6,
            y + 12,
            server.name(),
            BAR - 5,
            start as f64 + length + 5.0,
            y + 12,
        );
    }
}

fn panel_height(bars: usize) -> usize {
    TITLE + bars * BAR + 18
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

/// What the chart shows: hits under full load and at a node's everyday rates, TCP, misses.
const PANELS: [Scenario; 6] =
    [Scenario::Warm, Scenario::Rate2k, Scenario::Rate10k, Scenario::Rate50k, Scenario::Tcp, Scenario::Miss];
const COLUMNS: usize = 2;
const PANEL_WIDTH: usize = 440;
const HEAD: usize = 44;
const FOOT: usize = 28;
const TITLE: usize = 24;
const BAR: usize = 20;
const LABEL: usize = 104;
const BAR_LENGTH: usize = 250;
const STYLE: &str = "text{fill:#24292f}.head{font-size:16px;font-weight:600}.title{font-size:13px;font-weight:600}\
    .label{font-size:12px;text-anchor:end}.value,.note{font-size:11px;fill:#57606a}\
    .floor{fill:#8c959f}.nodens{fill:#1a7f37}.peer{fill:#54aeff}\
    @media(prefers-color-scheme:dark){text{fill:#e6edf3}.value,.note{fill:#9198a1}.nodens{fill:#3fb950}.peer{fill:#388bfd}}";
