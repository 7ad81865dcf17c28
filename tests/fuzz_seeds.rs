//! Every seed of `fuzz/corpus` through the check of its fuzz target, and then mutations of them, drawn by a seeded
//! generator, for a second each: `NODENS_FUZZ_SECONDS=60` takes longer. See `docs/fuzzing.md`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

#[path = "../fuzz/checks.rs"]
mod checks;

/// Seconds of mutation for each target, unless the environment says otherwise.
const VARIABLE: &str = "NODENS_FUZZ_SECONDS";

/// Mutations stay below this many bytes, so that one is quick in an unoptimised build.
const LONGEST: usize = 4096;

/// Miri takes minutes for a message of some kilobytes: it passes over seeds of more bytes than this.
const LONGEST_IN_MIRI: usize = 512;

/// Runs the seeds of `target`, of which at least `past_parser` must get past the parser, and mutations of them.
fn run(target: &str, past_parser: usize, check: fn(&[u8]) -> bool) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files: Vec<_> = std::fs::read_dir(&directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
        .map(|entry| entry.expect("a folder that is there reads").path())
        .collect();
    files.sort();
    let mut seeds = Vec::new();
    let mut accepted = 0;
    for file in files {
        let seed = std::fs::read(&file).expect("a seed reads");
        if cfg!(miri) && seed.len() > LONGEST_IN_MIRI {
            continue;
        }
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        accepted += usize::from(guarded(&format!("seed {name}"), &seed, check));
        seeds.push(seed);
    }
    assert!(accepted >= past_parser, "{accepted} of {} seeds get past the parser of {target}", seeds.len());

    let seconds = std::env::var(VARIABLE).ok().map_or(1, |seconds| seconds.parse().expect("whole seconds"));
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut generator = StdRng::seed_from_u64(0x6e6f_6465_6e73);
    let (mut number, mut accepted) = (0_u64, 0_u64);
    while Instant::now() < end {
        number += 1;
        let input = mutated(&seeds, &mut generator);
        accepted += u64::from(guarded(&format!("mutation {number}"), &input, check));
    }
    assert!(seconds == 0 || accepted > 0, "none of {number} mutations got past the parser of {target}");
    println!("{target}: {} seeds, {number} mutations, {accepted} of them past the parser", seeds.len());
}

/// Runs a check; where it fails, the input is shown as a byte string, to be made a seed of.
fn guarded(what: &str, input: &[u8], check: fn(&[u8]) -> bool) -> bool {
    catch_unwind(AssertUnwindSafe(|| check(input)))
        .unwrap_or_else(|_| panic!("{what} fails: b\"{}\"", input.escape_ascii()))
}

/// A seed with one to four changes.
fn mutated(seeds: &[Vec<u8>], generator: &mut StdRng) -> Vec<u8> {
    let mut input = pick(seeds, generator).clone();
    for _ in 0..generator.random_range(1..=4) {
        let at = generator.random_range(0..=input.len());
        let some = generator.random_range(0..=16).min(input.len() - at);
        match generator.random_range(0..7) {
            0 if at < input.len() => input[at] ^= 1 << generator.random_range(0..8),
            1 if at < input.len() => input[at] = generator.random(),
            // Lengths, counts, pointers and types are full of these.
            2 if at < input.len() => {
                input[at] = *pick(&[0, 1, 12, 41, 0x3f, 0x40, 0x80, 0xc0, 0xff], generator);
            }
            3 => drop(input.drain(at..at + some)),
            4 => {
                let copy = input[at..at + some].to_vec();
                let to = generator.random_range(0..=input.len());
                input.splice(to..to, copy);
            }
            5 => input.truncate(at),
            _ => {
                // A piece of another seed: a record, a key, a directive.
                let other = pick(seeds, generator);
                let from = generator.random_range(0..=other.len());
                let len = generator.random_range(0..=64).min(other.len() - from);
                input.splice(at..at, other[from..from + len].iter().copied());
            }
        }
    }
    input.truncate(LONGEST);
    input
}

fn pick<'a, T>(from: &'a [T], generator: &mut StdRng) -> &'a T {
    &from[generator.random_range(0..from.len())]
}

#[test]
fn queries() {
    run("query", 10, checks::query::check);
}

#[test]
fn replies() {
    run("reply", 25, checks::reply::check);
}

#[test]
fn near_answers() {
    run("near", 15, checks::near::check);
}

#[test]
fn configurations() {
    run("config", 10, checks::config::check);
}

#[test]
fn corefiles() {
    run("corefile", 15, checks::corefile::check);
}

#[test]
fn zone_files() {
    run("zone_file", 6, checks::zone_file::check);
}
