//! Memory and descriptors as time passes, and the judgement at the end.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::faults::Site;
use super::load::Seen;

/// How often it is looked.
const EVERY: Duration = Duration::from_secs(2);

/// The ages at which processes of the phase of hand-overs are compared.
const AGES: std::ops::Range<u64> = 8..16;

/// What memory may grow by: the bound of the issue.
const GROWTH: f64 = 1.05;

/// What the fewest descriptors of a time may grow by: connections come and go, what is left behind stays.
const DESCRIPTORS: f64 = 10.0;

/// A soak shorter than this says nothing of memory: one outage more or less moves its medians.
const SETTLED: Duration = Duration::from_mins(10);

/// What a process takes at a moment.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sample {
    /// Seconds since the soak began.
    at: u64,
    /// Seconds since this process took over.
    age: u64,
    pid: u32,
    phase: &'static str,
    /// Resident memory, in bytes.
    pub(crate) resident: u64,
    descriptors: u64,
}

/// Looks at the process that serves.
pub(crate) struct Sampler {
    watched: Arc<Mutex<Watched>>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

struct Watched {
    pid: u32,
    since: Instant,
    phase: &'static str,
    samples: Vec<Sample>,
}

impl Sampler {
    /// Begins.
    pub(crate) fn start(pid: u32) -> Self {
        let watched = Watched { pid, since: Instant::now(), phase: "", samples: Vec::new() };
        let watched = Arc::new(Mutex::new(watched));
        let stop = Arc::new(AtomicBool::new(false));
        let (of_thread, stopped, begun) = (Arc::clone(&watched), Arc::clone(&stop), Instant::now());
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                of_thread.lock().unwrap().look(begun);
                thread::park_timeout(EVERY);
            }
        });
        Self { watched, stop, thread }
    }

    /// Another process serves.
    pub(crate) fn watch(&self, pid: u32) {
        let mut watched = self.watched.lock().unwrap();
        (watched.pid, watched.since) = (pid, Instant::now());
    }

    /// Another phase begins.
    pub(crate) fn phase(&self, phase: &'static str) {
        self.watched.lock().unwrap().phase = phase;
    }

    /// The last sample.
    pub(crate) fn last(&self) -> Sample {
        self.watched.lock().unwrap().samples.last().copied().unwrap_or_default()
    }

    /// Ends; all samples.
    pub(crate) fn finish(self) -> Vec<Sample> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.thread().unpark();
        self.thread.join().expect("looking does not panic");
        std::mem::take(&mut self.watched.lock().unwrap().samples)
    }
}

impl Watched {
    fn look(&mut self, begun: Instant) {
        let pid = self.pid;
        // A process that has just left is not there to be looked at.
        let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else { return };
        let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return };
        let Some(resident) = status.lines().find_map(|line| line.strip_prefix("VmRSS:")) else { return };
        let kib: u64 = resident.trim().trim_end_matches(" kB").parse().expect("proc(5): a number of kB");
        self.samples.push(Sample {
            at: begun.elapsed().as_secs(),
            age: self.since.elapsed().as_secs(),
            pid,
            phase: self.phase,
            resident: kib << 10,
            descriptors: descriptors.count() as u64,
        });
    }
}

/// Two times that are to be alike: the median of resident memory, the fewest descriptors.
#[derive(Debug)]
struct Compared {
    phase: &'static str,
    what: &'static str,
    resident: [f64; 2],
    descriptors: [f64; 2],
}

/// All of it.
pub(crate) struct Report {
    length: Duration,
    json: Value,
    compared: Vec<Compared>,
    /// Losses by what was being done, and whether that explains them.
    lost: BTreeMap<(String, String), (bool, u64)>,
    wrong: Vec<String>,
    counts: BTreeMap<&'static str, u64>,
}

impl Report {
    /// Judges.
    pub(crate) fn new(
        length: Duration,
        rate: u64,
        seed: u64,
        seen: &Seen,
        site: &Site,
        samples: &[Sample],
    ) -> Self {
        let mut lost = BTreeMap::new();
        for one in seen.lost.lock().unwrap().iter() {
            let met: Vec<_> = site.done.iter().filter(|done| done.meets(one.asked, one.ended)).collect();
            let explained = met.iter().any(|done| done.leaves_no_upstream);
            if !explained {
                eprintln!("LOST: {}: {}, during {met:?}", one.reason, one.question);
            }
            let explaining = met.iter().filter(|done| done.leaves_no_upstream == explained);
            let during = explaining.map(|done| done.what.as_str()).next_back().unwrap_or("nothing");
            lost.entry((during.to_owned(), one.reason.clone())).or_insert((explained, 0)).1 += 1;
        }
        let mut faults = BTreeMap::new();
        for done in &site.done {
            *faults.entry(done.what.as_str()).or_insert(0) += 1;
        }
        let compared = compare(samples);
        let counts = site.counts();
        let json = json!({
            "seconds": length.as_secs(),
            "rate_over_udp": rate,
            "seed": seed,
            "clients": seen.counts(),
            "processes": counts,
            "answered_upstream": site.answered_upstream(),
            "faults": faults,
            "lost": lost.iter().map(|((during, reason), (explained, count))| json!({
                "during": during, "reason": reason, "explained": explained, "count": count,
            })).collect::<Vec<_>>(),
            "compared": compared.iter().map(|one| json!({
                "phase": one.phase, "what": one.what, "resident_bytes": one.resident, "descriptors": one.descriptors,
            })).collect::<Vec<_>>(),
            "samples": samples.iter().map(|one| json!([
                one.at, one.phase, one.pid, one.age, one.resident, one.descriptors,
            ])).collect::<Vec<_>>(),
        });
        let wrong = seen.wrong.lock().unwrap().clone();
        Self { length, json, compared, lost, wrong, counts }
    }

    /// Writes the file and the table.
    pub(crate) fn write(&self) {
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("soak.json");
        fs::write(&file, format!("{:#}\n", self.json)).expect("the directory of tests is writable");
        let clients = &self.json["clients"];
        println!("\n| | |\n|---|---|");
        for (what, value) in [
            ("seconds", &self.json["seconds"]),
            ("asked over UDP", &clients["asked_over_udp"]),
            ("asked over TCP", &clients["asked_over_tcp"]),
            ("right answers", &clients["right"]),
            ("wrong answers", &clients["wrong"]),
            ("truncated, then asked over TCP", &clients["truncated_and_asked_over_tcp"]),
            ("asked again on another connection", &clients["asked_again_on_another_connection"]),
        ] {
            println!("| {what} | {value} |");
        }
        for (fault, count) in self.json["faults"].as_object().expect("it is a map") {
            println!("| {fault} | {count} times |");
        }
        for ((during, reason), (explained, count)) in &self.lost {
            let explained = if *explained { "no upstream answered" } else { "NOT EXPLAINED" };
            println!("| lost, during {during} | {count}: {reason} ({explained}) |");
        }
        for Compared { phase, what, resident: [r0, r1], descriptors: [d0, d1] } in &self.compared {
            let [k0, k1] = [r0, r1].map(|bytes| bytes / 1024.0);
            println!("| {phase}, {what} | {k0:.0} KiB, {k1:.0} KiB; {d0} descriptors, {d1} |");
        }
        for (family, count) in &self.counts {
            println!("| `{family}` | {count} |");
        }
        println!("\n{}", file.display());
    }

    /// Panics where something is not as it must be.
    pub(crate) fn check(&self) {
        assert!(self.wrong.is_empty(), "{} wrong answers; the first: {}", self.wrong.len(), self.wrong[0]);
        let unexplained: Vec<_> = self.lost.iter().filter(|(_, (explained, _))| !explained).collect();
        assert!(unexplained.is_empty(), "lost for no reason: {unexplained:?}");
        assert_eq!(self.counts["nodens_panics_total"], 0);
        if self.length < SETTLED {
            println!("too short to judge memory and descriptors: that takes {SETTLED:?}");
            return;
        }
        assert_eq!(self.compared.len(), 3, "nothing to compare");
        for one in &self.compared {
            let ([r0, r1], [d0, d1]) = (one.resident, one.descriptors);
            assert!(r1 <= r0 * GROWTH, "memory grows: {one:?}");
            assert!(d1 <= d0 + DESCRIPTORS, "descriptors are left behind: {one:?}");
        }
    }
}

/// Of a long phase its second fifth and its last; of the hand-overs processes of one age, in its first third and its last.
fn compare(samples: &[Sample]) -> Vec<Compared> {
    let mut compared = Vec::new();
    for (phase, parts, what) in [
        ("one process", [1..2, 4..5], "second fifth and last"),
        ("hand-overs", [0..2, 3..5], "processes of one age, first two fifths and last"),
        ("one process again", [1..2, 4..5], "second fifth and last"),
    ] {
        let of_phase = samples.iter().filter(|sample| sample.phase == phase);
        let of_phase: Vec<_> =
            of_phase.filter(|sample| phase != "hand-overs" || AGES.contains(&sample.age)).collect();
        let medians = parts.map(|part: std::ops::Range<usize>| {
            let of_part = &of_phase[of_phase.len() * part.start / 5..of_phase.len() * part.end / 5];
            let mut resident: Vec<_> = of_part.iter().map(|sample| sample.resident).collect();
            resident.sort_unstable();
            let descriptors = of_part.iter().map(|sample| sample.descriptors).min()?;
            Some((resident[resident.len() / 2] as f64, descriptors as f64))
        });
        if let [Some((r0, d0)), Some((r1, d1))] = medians {
            compared.push(Compared { phase, what, resident: [r0, r1], descriptors: [d0, d1] });
        }
    }
    compared
}
