//! `process_*`: the figures every Prometheus client reports, read from `/proc` (proc(5)) at a scrape.

use std::fs;
use std::io;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;

use super::family::Spec;

/// Reads `/proc/self` at every scrape. What cannot be read is left out.
#[derive(Debug)]
pub(super) struct ProcessCollector {
    descs: Vec<Desc>,
}

impl ProcessCollector {
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        Ok(Self { descs: SPECS.iter().map(|spec| spec.desc()).collect::<Result<_, _>>()? })
    }
}

impl Collector for ProcessCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let stat = fs::read_to_string("/proc/self/stat").ok().and_then(|text| Stat::parse(&text));
        let figures = [
            (&CPU, stat.as_ref().map(|stat| stat.cpu_ticks as f64 / TICKS_PER_SECOND)),
            (&START_TIME, stat.as_ref().and_then(|stat| start_time(stat).ok().flatten())),
            (&VIRTUAL, stat.as_ref().map(|stat| stat.virtual_bytes as f64)),
            (&THREADS, stat.as_ref().map(|stat| stat.threads as f64)),
            (&RESIDENT, resident_bytes().ok().flatten()),
            (&OPEN_FDS, open_fds().ok()),
            (&MAX_FDS, max_fds().ok().flatten()),
        ];
        let known = figures.into_iter().filter_map(|(spec, value)| Some((spec, value?)));
        known
            .map(|(spec, value)| {
                let mut family = spec.family();
                family.value(&[], value);
                family.finish()
            })
            .collect()
    }
}

/// The fields of `/proc/self/stat` that are reported.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    cpu_ticks: u64,
    threads: u64,
    start_ticks: u64,
    virtual_bytes: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The second field is the command in parentheses and may hold anything, parentheses too.
        let (_, fields) = text.rsplit_once(')')?;
        let fields: Vec<u64> = fields.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
        // `fields` begins with field 3 of proc(5): utime is 14, stime 15, num_threads 20, starttime 22, vsize 23.
        let field = |number: usize| fields.get(number - 3).copied();
        Some(Self {
            cpu_ticks: field(14)? + field(15)?,
            threads: field(20)?,
            start_ticks: field(22)?,
            virtual_bytes: field(23)?,
        })
    }
}

/// Seconds since the epoch: the boot time plus the ticks after it.
fn start_time(stat: &Stat) -> io::Result<Option<f64>> {
    let text = fs::read_to_string("/proc/stat")?;
    let boot = text.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse::<f64>().ok());
    Ok(boot.map(|boot| boot + stat.start_ticks as f64 / TICKS_PER_SECOND))
}

fn resident_bytes() -> io::Result<Option<f64>> {
    let text = fs::read_to_string("/proc/self/status")?;
    let kibibytes = text.lines().find_map(|line| {
        line.strip_prefix("VmRSS:")?.trim().strip_suffix("kB")?.trim_end().parse::<f64>().ok()
    });
    Ok(kibibytes.map(|kibibytes| kibibytes * 1024.0))
}

fn open_fds() -> io::Result<f64> {
    // One of them is the directory being read.
    Ok(fs::read_dir("/proc/self/fd")?.count().saturating_sub(1) as f64)
}

fn max_fds() -> io::Result<Option<f64>> {
    let text = fs::read_to_string("/proc/self/limits")?;
    let soft = text.lines().find_map(|line| {
        line.strip_prefix("Max open files")?.split_whitespace().next().map(|soft| match soft {
            "unlimited" => f64::INFINITY,
            number => number.parse().unwrap_or(0.0),
        })
    });
    Ok(soft)
}

/// `USER_HZ`: what the kernel reports times in, 100 on every architecture Rust's std runs Linux on.
const TICKS_PER_SECOND: f64 = 100.0;

static CPU: Spec =
    Spec::counter("process_cpu_seconds_total", &[], "User and system CPU time spent, in seconds.");
static START_TIME: Spec =
    Spec::gauge("process_start_time_seconds", &[], "When the process started, in seconds since the epoch.");
static VIRTUAL: Spec = Spec::gauge("process_virtual_memory_bytes", &[], "Virtual memory size in bytes.");
static RESIDENT: Spec = Spec::gauge("process_resident_memory_bytes", &[], "Resident memory size in bytes.");
static THREADS: Spec = Spec::gauge("process_threads", &[], "Threads of the process.");
static OPEN_FDS: Spec = Spec::gauge("process_open_fds", &[], "Open file descriptors.");
static MAX_FDS: Spec = Spec::gauge("process_max_fds", &[], "How many file descriptors may be open.");

static SPECS: [&Spec; 7] = [&CPU, &START_TIME, &VIRTUAL, &RESIDENT, &THREADS, &OPEN_FDS, &MAX_FDS];

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;

    #[test]
    fn a_command_with_parentheses_does_not_shift_the_fields() {
        let text = "42 (a) b (c) S 1 42 42 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 7 0 12345 1048576 300 0 0";
        let expected = Stat { cpu_ticks: 300, threads: 7, start_ticks: 12_345, virtual_bytes: 1_048_576 };
        assert_eq!(Stat::parse(text), Some(expected));
        assert_eq!(Stat::parse("42 (a) S 1"), None);
    }

    #[test]
    fn this_process_is_reported_as_it_is() {
        let families = ProcessCollector::new().expect("valid names").collect();
        let value = |name: &str| {
            let family = families.iter().find(|family| family.name() == name).expect(name);
            let metric = &family.get_metric()[0];
            metric.get_gauge().get_value() + metric.get_counter().get_value()
        };
        assert_eq!(families.len(), SPECS.len());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after the epoch").as_secs_f64();
        let age = now - value("process_start_time_seconds");
        assert!((-1.0..3600.0).contains(&age), "{age} s");
        assert!((0.0..3600.0).contains(&value("process_cpu_seconds_total")));
        assert!(value("process_resident_memory_bytes") > 100_000.0);
        assert!(value("process_virtual_memory_bytes") > value("process_resident_memory_bytes"));
        assert!(value("process_threads") >= 1.0);
        assert!(value("process_open_fds") >= 3.0 && value("process_max_fds") >= value("process_open_fds"));
    }
}
