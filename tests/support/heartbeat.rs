//! Moments in which the machine itself stood still, so that a test of delays does not measure its neighbours.
//!
//! A thread for each processor sleeps for five milliseconds again and again. Where it wakes much later, nothing else
//! could rely on getting a processor either.

#![allow(dead_code, unreachable_pub, reason = "each test file includes this and uses its part")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Watches until it is stopped.
pub struct Heartbeat {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Vec<Stall>>>,
}

type Stall = (Instant, Instant);

/// When the machine stood still; these do not overlap.
#[derive(Debug)]
pub struct Stalls(Vec<Stall>);

impl Heartbeat {
    /// Starts to watch.
    pub fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let threads = (0..processors)
            .map(|_| {
                let stop = Arc::clone(&stop);
                thread::spawn(move || beat(&stop))
            })
            .collect();
        Self { stop, threads }
    }

    /// What it has seen.
    pub fn stop(self) -> Stalls {
        self.stop.store(true, Ordering::Relaxed);
        let seen = self.threads.into_iter().flat_map(|thread| thread.join().expect("a heartbeat ends"));
        Stalls::merge(seen.collect())
    }
}

impl Stalls {
    fn merge(mut seen: Vec<Stall>) -> Self {
        seen.sort_unstable();
        let mut merged: Vec<Stall> = Vec::new();
        for (from, to) in seen {
            match merged.last_mut() {
                Some((_, end)) if from <= *end => *end = to.max(*end),
                _ => merged.push((from, to)),
            }
        }
        Self(merged)
    }

    /// How long in all.
    pub fn total(&self) -> Duration {
        self.0.iter().map(|(from, to)| to.duration_since(*from)).sum()
    }

    /// Whether a stall that makes hedges explains why a lookup took so long: it lies in this time or shortly before it, since
    /// what it has set off (hedges, dials, connections held for dead) takes its time too, but no more than a second.
    pub fn disturbed(&self, from: Instant, took: Duration) -> bool {
        let (begin, end) = (from.checked_sub(AFTERMATH).unwrap_or(from), from + took);
        let mut felt = self.0.iter().filter(|(stall, until)| until.duration_since(*stall) >= FELT);
        let stood = |&(stall, until): &Stall| until.min(end).saturating_duration_since(stall.max(from));
        felt.any(|&(stall, until)| stall < end && until > begin)
            && took <= AFTERMATH + self.0.iter().map(stood).sum::<Duration>()
    }
}

fn beat(stop: &AtomicBool) -> Vec<Stall> {
    let mut stalls = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let due = Instant::now() + BEAT;
        thread::sleep(BEAT);
        let woken = Instant::now();
        if woken.duration_since(due) > TOLERANCE {
            stalls.push((due, woken));
        }
    }
    stalls
}

const BEAT: Duration = Duration::from_millis(5);
/// Before the shortest hedge a stall sets nothing off.
const FELT: Duration = Duration::from_millis(25);
/// Within a second all is to be normal after a fault, and so after a stall.
const AFTERMATH: Duration = Duration::from_secs(1);
/// What a sleep is late on a machine that is merely busy.
const TOLERANCE: Duration = Duration::from_millis(10);
