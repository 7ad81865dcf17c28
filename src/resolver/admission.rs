//! Fairness before the channel to the miss path: what a UDP worker asks before it hands a miss over.
//!
//! The channel is first come, first served, so whoever floods it with unique names would take all of it, and the miss
//! path's own fairness would see nobody else. Each worker therefore counts the misses of its clients over the last
//! moments, in a small table that any number of clients fits (a count-min sketch), and once the channel is half full a
//! client gets no more than its share of it. The fuller it is, the smaller the share, so that it does not fill up.
//!
//! Decisions only: time, load and client are arguments. 8 KiB a worker, two cache lines touched per miss.

use std::net::IpAddr;

use super::job::Jobs;
use crate::cache::Now;
use crate::observe::ShedReason;
use crate::wire::{ede, rcode};

/// One worker's counts.
#[derive(Debug)]
pub struct Admission {
    counts: Box<[[u16; WIDTH]; ROWS]>,
    seeds: [u64; ROWS],
    halved: Now,
    client_share: f64,
}

/// How full the channel is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Channel {
    /// Jobs it can still take.
    pub free: usize,
    /// Jobs it holds at most.
    pub capacity: usize,
}

impl Channel {
    /// How full this one is now.
    pub fn of(jobs: &Jobs) -> Self {
        Self { free: jobs.capacity(), capacity: jobs.max_capacity() }
    }
}

/// What a client is told whose miss is turned away, here and on the miss path: rcode and extended error (RFC 8914 §4).
pub fn refusal(reason: ShedReason) -> (u16, u16) {
    match reason {
        ShedReason::ClientShare => (rcode::REFUSED, ede::PROHIBITED),
        _ => (rcode::SERVFAIL, ede::NOT_READY),
    }
}

impl Admission {
    /// Counts at zero. `client_share` is `limits.client_share`, from 0 to 1; `seed` is random, so that no one can choose
    /// addresses that share another client's counts.
    pub fn new(client_share: f64, seed: [u64; 2]) -> Self {
        Self {
            counts: Box::new([[0; WIDTH]; ROWS]),
            seeds: seed.map(|word| word | 1),
            halved: Now::default(),
            client_share,
        }
    }

    /// Whether a miss of `client` may go to the miss path; if so it is counted.
    pub fn admit(&mut self, client: IpAddr, channel: Channel, now: Now) -> bool {
        self.decay(now);
        let places = self.places(client);
        if channel.free * 2 < channel.capacity {
            // From the whole share at half full down to nothing but a few at full.
            let share = self.client_share * channel.free as f64 * 2.0;
            #[expect(clippy::cast_sign_loss, reason = "a share of a number of places is not negative")]
            let share = (share as usize).max(ALWAYS);
            let held = places.iter().zip(self.counts.iter()).map(|(&place, row)| row[place]).min();
            if usize::from(held.unwrap_or_default()) >= share {
                return false;
            }
        }
        for (&place, row) in places.iter().zip(self.counts.iter_mut()) {
            row[place] = row[place].saturating_add(1);
        }
        true
    }

    /// Halves all counts for every window that has passed: old misses are forgotten.
    fn decay(&mut self, now: Now) {
        let windows = now.millis_since(self.halved) / WINDOW_MILLIS;
        if windows == 0 {
            return;
        }
        self.halved = now;
        let shift = u32::try_from(windows).unwrap_or(u32::MAX).min(u16::BITS - 1);
        for count in self.counts.as_flattened_mut() {
            *count >>= shift;
        }
    }

    fn places(&self, client: IpAddr) -> [usize; ROWS] {
        let bits = match client {
            IpAddr::V4(v4) => u128::from(v4.to_bits()),
            // The whole of it: the pods of a node share a /64.
            IpAddr::V6(v6) => v6.to_bits(),
        };
        let folded = bits as u64 ^ (bits >> 64) as u64;
        self.seeds.map(|seed| {
            let product = u128::from(folded ^ seed.rotate_left(32)) * u128::from(seed);
            ((product as u64) ^ (product >> 64) as u64) as usize % WIDTH
        })
    }
}

/// Independent counts of a client; the smallest counts, so two clients are taken for one only if they meet in all rows.
const ROWS: usize = 2;

/// Counters of a row: a node has some hundred pods, so that a client meets another in both rows once in ten thousand.
const WIDTH: usize = 2048;

/// How long a miss counts in full, in milliseconds: the time the miss path takes to empty a full channel.
const WINDOW_MILLIS: u64 = 100;

/// Misses a client always has, however full the channel is, as long as it takes any.
const ALWAYS: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    const CAPACITY: usize = 16_384;

    fn admission() -> Admission {
        Admission::new(0.1, [0x1234_5678_9abc_def0, 0x0fed_cba9_8765_4321])
    }

    fn client(number: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, number])
    }

    fn channel(free: usize) -> Channel {
        Channel { free, capacity: CAPACITY }
    }

    #[test]
    fn nobody_is_turned_away_while_the_channel_is_half_empty() {
        let mut admission = admission();
        assert!((0..100_000).all(|_| admission.admit(client(1), channel(CAPACITY / 2), Now(1))));
    }

    #[test]
    fn a_flooder_is_held_to_its_share_and_the_others_go_on() {
        let mut admission = admission();
        let now = Now(1_000);
        let free = CAPACITY / 2 - 1;
        let admitted = (0..20_000).filter(|_| admission.admit(client(1), channel(free), now)).count();
        assert_eq!(admitted, (CAPACITY - 2) / 10);
        for number in 2..=110 {
            assert!((0..20).all(|_| admission.admit(client(number), channel(free), now)), "client {number}");
        }
    }

    #[test]
    fn pods_of_one_ipv6_subnet_are_clients_of_their_own() {
        let mut admission = admission();
        let client = |number: u16| IpAddr::from([0xfd00, 0x10, 0x244, 1, 0, 0, 0, number]);
        let free = CAPACITY / 2 - 1;
        assert!((0..20_000).any(|_| !admission.admit(client(1), channel(free), Now(1_000))));
        for number in 2..=110 {
            assert!(
                (0..20).all(|_| admission.admit(client(number), channel(free), Now(1_000))),
                "client {number}"
            );
        }
    }

    #[test]
    fn the_share_shrinks_as_the_channel_fills() {
        let admitted = |free| {
            let mut admission = admission();
            (0..20_000).filter(|_| admission.admit(client(1), channel(free), Now(1_000))).count()
        };
        assert!(admitted(8000) > admitted(4000) && admitted(4000) > admitted(400));
        assert_eq!(admitted(1), ALWAYS);
    }

    #[test]
    fn a_flood_that_ends_is_forgotten_within_a_second() {
        let mut admission = admission();
        let free = CAPACITY / 4;
        while admission.admit(client(1), channel(free), Now(1_000)) {}
        assert!(!admission.admit(client(1), channel(free), Now(1_050)));
        assert!(admission.admit(client(1), channel(free), Now(1_100)), "half of it after a window");
        while admission.admit(client(1), channel(free), Now(1_100)) {}
        assert!((0..700).all(|_| admission.admit(client(1), channel(free), Now(2_500))));
    }

    /// A model of the whole: a miss path that does 50,000 a second, a flooder with twice that, a client with 100 a second.
    #[test]
    fn the_channel_never_fills_while_one_client_floods() {
        let mut admission = admission();
        let mut queued = 0usize;
        let mut lowest = CAPACITY;
        let mut refused = 0;
        for millis in 0..5_000u64 {
            queued = queued.saturating_sub(50);
            for miss in 0..100 {
                let channel = Channel { free: CAPACITY - queued, capacity: CAPACITY };
                if channel.free > 0 && admission.admit(client(1), channel, Now(millis + 1)) {
                    queued += 1;
                }
                if miss == 50 && millis % 10 == 0 {
                    refused += u32::from(!admission.admit(client(2), channel, Now(millis + 1)));
                }
            }
            lowest = lowest.min(CAPACITY - queued);
        }
        assert_eq!(refused, 0, "the other client's misses all went on");
        assert!(lowest > CAPACITY / 8, "{lowest} places were left at least");
    }
}
