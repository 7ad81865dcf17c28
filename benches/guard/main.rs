//! A fixed replay of hits and misses through a worker, for counting instructions and allocations.
//!
//! Times differ from machine to machine and from minute to minute; what the program itself executes for an answer does not.
//! `benches/guard/compare.sh` runs this under callgrind, which counts only what happens inside the functions named
//! `guarded_*` (user space alone: the kernel's share is not the program's), and holds it against `baseline.json`.
//!
//! `cargo bench --bench guard` runs it without callgrind: it checks every answer, prints allocations per query, and fails if a
//! hit allocates.

mod allocations;
#[path = "../load/mix.rs"]
#[allow(dead_code, reason = "the guard takes the mix's questions, the load benchmark its files too")]
mod mix;
#[path = "../load/rng.rs"]
mod rng;
mod worker;

use std::process::ExitCode;

use crate::worker::{Replay, Work};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // A test runner that builds all targets must neither find tests here nor wait for a replay.
    if arguments.is_empty() || arguments.iter().any(|argument| argument == "--list") {
        return ExitCode::SUCCESS;
    }
    let only = arguments.iter().find(|argument| !argument.starts_with('-'));
    let mut ok = true;
    for work in Work::ALL {
        if only.is_some_and(|only| only != work.name()) {
            continue;
        }
        let mut replay = Replay::new(work);
        let (queries, allocations) = replay.run();
        println!("{} queries {queries} allocations {allocations}", work.name());
        if work == Work::Hit && allocations > 0 {
            eprintln!("a hit must not allocate: {allocations} allocations in {queries} hits");
            ok = false;
        }
    }
    if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
