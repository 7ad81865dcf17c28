//! The tallies summed: what one scrape sees.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::labels::{DropReason, Outcome, ShedReason, Source, TYPES};
use super::tally::{Cells, DURATION_BUCKETS, SIZE_BUCKETS, SMALL_BUCKET, Server, Tallies, ZoneCells};
use super::zones::Zones;

/// Everything counted so far, by listener.
#[derive(Debug, Default)]
pub(super) struct Totals {
    pub(super) servers: Vec<ServerTotals>,
}

/// What the tallies of one listener hold together.
#[derive(Debug)]
pub(super) struct ServerTotals {
    pub(super) server: Server,
    /// Every zone with a name, asked for or not, so that its series exist from the start.
    pub(super) zones: Vec<ZoneTotals>,
    pub(super) drops: [u64; DropReason::ALL.len()],
    pub(super) shed: [u64; ShedReason::ALL.len()],
}

/// One zone's counts at one listener.
#[derive(Debug, Clone)]
pub(super) struct ZoneTotals {
    pub(super) zone: Arc<str>,
    pub(super) queries: [u64; TYPES],
    pub(super) outcomes: [u64; Outcome::COUNT],
    pub(super) dnssec_ok: u64,
    pub(super) request_sizes: [u64; SIZE_BUCKETS],
    pub(super) request_bytes: u64,
    pub(super) response_sizes: [u64; SIZE_BUCKETS],
    pub(super) response_bytes: u64,
    pub(super) durations: [u64; DURATION_BUCKETS],
    pub(super) micros: u64,
}

impl Totals {
    /// Reads every tally once.
    pub(super) fn read(tallies: &Tallies, zones: &Zones) -> Self {
        let mut servers: Vec<(ServerTotals, BTreeMap<usize, ZoneTotals>)> = Vec::new();
        let known = zones.known();
        for cells in tallies.snapshot() {
            let position =
                servers.iter().position(|(totals, _)| totals.server == cells.server).unwrap_or_else(|| {
                    let zones =
                        known.iter().map(|(id, name)| (id.index(), ZoneTotals::new(name.clone()))).collect();
                    servers.push((ServerTotals::new(cells.server), zones));
                    servers.len() - 1
                });
            let (server, of_zone) = &mut servers[position];
            server.add(&cells);
            for (id, cells) in cells.zones() {
                let totals = of_zone.entry(id.index()).or_insert_with(|| ZoneTotals::new(zones.name(id)));
                totals.add(cells);
            }
        }
        let servers = servers
            .into_iter()
            .map(|(server, zones)| ServerTotals { zones: zones.into_values().collect(), ..server });
        Self { servers: servers.collect() }
    }

    /// What was turned away for this reason, by all listeners.
    pub(super) fn shed(&self, reason: ShedReason) -> u64 {
        self.servers.iter().map(|server| server.shed[reason as usize]).sum()
    }

    /// The zones of every listener, added up by what `key` gives them.
    pub(super) fn by<K: Ord>(&self, key: impl Fn(Server, &ZoneTotals) -> K) -> BTreeMap<K, ZoneTotals> {
        let mut merged: BTreeMap<K, ZoneTotals> = BTreeMap::new();
        for (server, zone) in self.zones() {
            merged.entry(key(server, zone)).or_insert_with(|| ZoneTotals::new(zone.zone.clone())).merge(zone);
        }
        merged
    }

    /// Every zone of every listener.
    pub(super) fn zones(&self) -> impl Iterator<Item = (Server, &ZoneTotals)> {
        self.servers.iter().flat_map(|server| server.zones.iter().map(|zone| (server.server, zone)))
    }
}

impl ServerTotals {
    fn new(server: Server) -> Self {
        Self { server, zones: Vec::new(), drops: [0; _], shed: [0; _] }
    }

    fn add(&mut self, cells: &Cells) {
        sum(&mut self.drops, &cells.drops);
        sum(&mut self.shed, &cells.shed);
    }
}

impl ZoneTotals {
    fn new(zone: Arc<str>) -> Self {
        Self {
            zone,
            queries: [0; _],
            outcomes: [0; _],
            dnssec_ok: 0,
            request_sizes: [0; _],
            request_bytes: 0,
            response_sizes: [0; _],
            response_bytes: 0,
            durations: [0; _],
            micros: 0,
        }
    }

    fn add(&mut self, cells: &ZoneCells) {
        let mut small = [0; TYPES];
        sum(&mut small, &cells.small);
        self.request_sizes[SMALL_BUCKET] += small.iter().sum::<u64>();
        add(&mut self.queries, &small);
        sum(&mut self.queries, &cells.large);
        sum(&mut self.request_sizes, &cells.large_sizes);

        let mut quick = [0; Outcome::COUNT];
        sum(&mut quick, &cells.quick);
        self.durations[0] += quick.iter().sum::<u64>();
        add(&mut self.outcomes, &quick);
        sum(&mut self.outcomes, &cells.slow);
        sum(&mut self.durations, &cells.slow_durations);

        sum(&mut self.response_sizes, &cells.response_sizes);
        self.dnssec_ok += cells.dnssec_ok.load(Relaxed);
        self.request_bytes += cells.request_bytes.load(Relaxed);
        self.response_bytes += cells.response_bytes.load(Relaxed);
        self.micros += cells.micros.load(Relaxed);
    }

    /// Adds the same zone's counts at another listener.
    pub(super) fn merge(&mut self, other: &Self) {
        add(&mut self.queries, &other.queries);
        add(&mut self.outcomes, &other.outcomes);
        add(&mut self.request_sizes, &other.request_sizes);
        add(&mut self.response_sizes, &other.response_sizes);
        add(&mut self.durations, &other.durations);
        self.dnssec_ok += other.dnssec_ok;
        self.request_bytes += other.request_bytes;
        self.response_bytes += other.response_bytes;
        self.micros += other.micros;
    }

    /// Answers of each outcome.
    pub(super) fn answers(&self) -> impl Iterator<Item = (Outcome, u64)> {
        Outcome::all().map(|outcome| (outcome, self.outcomes[outcome.index()]))
    }

    /// Answers of the outcomes that satisfy `which`.
    pub(super) fn sum(&self, which: impl Fn(Outcome) -> bool) -> u64 {
        self.answers().filter(|(outcome, _)| which(*outcome)).map(|(_, count)| count).sum()
    }

    /// Queries the cache was asked for and could not answer.
    pub(super) fn misses(&self) -> u64 {
        self.sum(is_miss)
    }
}

/// Whether the cache answered, fresh or stale.
pub(super) fn is_hit(outcome: Outcome) -> bool {
    matches!(outcome.source(), Source::Near | Source::Store | Source::Stale)
}

/// Whether the cache was asked in vain. A query that was refused for what it is never reached the cache.
pub(super) fn is_miss(outcome: Outcome) -> bool {
    match outcome.source() {
        Source::Upstream | Source::Shed => true,
        Source::Failure => !matches!(outcome.rcode(), "FORMERR" | "NOTIMP" | "REFUSED" | "BADVERS"),
        _ => false,
    }
}

fn sum(totals: &mut [u64], cells: &[AtomicU64]) {
    for (total, cell) in totals.iter_mut().zip(cells) {
        *total += cell.load(Relaxed);
    }
}

fn add(totals: &mut [u64], more: &[u64]) {
    for (total, more) in totals.iter_mut().zip(more) {
        *total += more;
    }
}

#[cfg(test)]
mod tests {
    use super::super::labels::{Kind, Proto};
    use super::*;

    #[test]
    fn a_scrape_during_traffic_never_sees_a_count_go_back() {
        const QUERIES: u64 = 50_000;
        let (tallies, zones) = (Tallies::new(), Zones::new());
        let zone = zones.intern("cluster.local.");
        let server = Server { address: "[fd00::10]:53".parse().expect("an address"), proto: Proto::Udp };
        let worker = tallies.tally(server);
        let read = || {
            let totals = Totals::read(&tallies, &zones);
            let zone = &totals.servers[0].zones[0];
            // Every kind of derived figure: totals, histogram buckets and sums.
            [
                zone.queries.iter().sum(),
                zone.request_sizes[SMALL_BUCKET],
                zone.durations[0],
                zone.durations.iter().sum(),
                zone.sum(|outcome| outcome.source() == Source::Near),
                zone.response_bytes,
                zone.micros,
            ]
        };
        std::thread::scope(|scope| {
            let counting = scope.spawn(move || {
                for query in 0..QUERIES {
                    worker.query(zone, 1, if query % 4 == 0 { 150 } else { 50 }, false);
                    let outcome = Outcome::new(Source::Near, 0, Kind::Positive);
                    worker.response(zone, outcome, 100, if query % 5 == 0 { 400 } else { 4 });
                }
            });
            let mut last = read();
            while !counting.is_finished() {
                let now = read();
                assert!(now.iter().zip(&last).all(|(now, last)| now >= last), "{last:?} {now:?}");
                last = now;
            }
        });
        assert_eq!(
            read(),
            [
                QUERIES,
                QUERIES / 4 * 3,
                QUERIES / 5 * 4,
                QUERIES,
                QUERIES,
                QUERIES * 100,
                QUERIES / 5 * 400 + QUERIES / 5 * 4 * 4
            ]
        );
    }
}
