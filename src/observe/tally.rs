//! The hot path's counters: plain cells with one writer each, summed when someone scrapes.
//!
//! A hit costs six additions to lines that only this thread writes: no locked instruction, no line shared with another
//! worker. That is what the two banks per kind of event are for: the usual case (a query of at most 100 bytes, an
//! answer within a quarter of a millisecond) is one cell, and its histogram bucket is that bank's sum.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed},
    fence,
};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::labels::{DropReason, Outcome, Proto, ShedReason, TYPES, type_slot};
use super::zones::ZoneId;

/// Upper bounds of the request and response size histograms, in bytes: CoreDNS's own.
pub const SIZE_BOUNDS: [u32; 14] =
    [0, 100, 200, 300, 400, 511, 1023, 2047, 4095, 8291, 16_000, 32_000, 48_000, 64_000];

/// Buckets of a size histogram, the last one without a bound.
pub const SIZE_BUCKETS: usize = SIZE_BOUNDS.len() + 1;

/// Bounds of the duration histogram: 0.25 ms, doubled fifteen times (CoreDNS's own).
pub const DURATION_BOUNDS: usize = 16;

/// Buckets of the duration histogram, the last one without a bound.
pub const DURATION_BUCKETS: usize = DURATION_BOUNDS + 1;

/// The first duration bound, in microseconds.
pub const FIRST_DURATION_MICROS: u32 = 250;

/// Which listener a tally counts for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Server {
    /// The address and port it listens on.
    pub address: SocketAddr,
    /// Its transport.
    pub proto: Proto,
}

impl Server {
    /// CoreDNS's family label: `1` is IPv4, `2` is IPv6.
    pub fn family(&self) -> &'static str {
        if self.address.is_ipv4() { "1" } else { "2" }
    }
}

impl fmt::Display for Server {
    /// CoreDNS's server label, such as `dns://169.254.20.10:53`, whatever the transport.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dns://{}", self.address)
    }
}

/// Counters of one thread. It can move to another thread, but two cannot hold it at once (it is not `Sync`): that is
/// what makes a load and a store enough to count.
#[derive(Debug)]
pub struct Tally {
    cells: Arc<Cells>,
    one_writer: PhantomData<Cell<()>>,
}

/// Counters of many threads, for paths where a locked addition does not matter: the miss path and TCP.
#[derive(Debug, Clone)]
pub struct SharedTally {
    cells: Arc<Cells>,
}

/// All tallies of the process.
#[derive(Debug, Clone, Default)]
pub struct Tallies {
    all: Arc<Mutex<Vec<Arc<Cells>>>>,
}

impl Tallies {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A tally for one worker of `server`. Dropping it keeps what it counted: the next worker of the same server goes
    /// on from there.
    pub fn tally(&self, server: Server) -> Tally {
        Tally { cells: self.cells(server), one_writer: PhantomData }
    }

    /// A tally for many tasks of `server`.
    pub fn shared(&self, server: Server) -> SharedTally {
        SharedTally { cells: self.cells(server) }
    }

    /// What every tally holds, for a scrape.
    pub(super) fn snapshot(&self) -> Vec<Arc<Cells>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn cells(&self, server: Server) -> Arc<Cells> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        // Only this list hands cells out, under its lock: one reference means that nobody writes to them any more.
        // (A scrape under way may hold a second one; then there is simply one set of cells more.)
        let idle = all.iter().find(|cells| cells.server == server && Arc::strong_count(cells) == 1);
        if let Some(cells) = idle {
            // Pairs with the release in the drop of the last writer's handle: its counts are seen by the next one.
            fence(Acquire);
            return cells.clone();
        }
        let cells = Arc::new(Cells::new(server));
        all.push(cells.clone());
        cells
    }
}

macro_rules! counting {
    ($type:ident, $adder:ty) => {
        impl $type {
            /// The listener it counts for.
            pub fn server(&self) -> Server {
                self.cells.server
            }

            /// Makes the cells of a zone, so that its first query allocates nothing.
            pub fn prepare(&self, zone: ZoneId) {
                self.cells.zone(zone);
            }

            /// A well-formed query of `length` bytes came in.
            #[inline]
            pub fn query(&self, zone: ZoneId, qtype: u16, length: usize, dnssec_ok: bool) {
                self.cells.zone(zone).query::<$adder>(type_slot(qtype), length, dnssec_ok);
            }

            /// It was answered with `length` bytes, `micros` microseconds after it was received. A worker may give all
            /// hits of a batch the same duration.
            #[inline]
            pub fn response(&self, zone: ZoneId, outcome: Outcome, length: usize, micros: u32) {
                self.cells.zone(zone).response::<$adder>(outcome, length, micros);
            }

            /// A message got no answer. One that was counted as a query before stays counted.
            #[inline]
            pub fn dropped(&self, reason: DropReason) {
                <$adder>::add(&self.cells.drops[reason as usize], 1);
            }

            /// A query or a connection was turned away. If the client gets an answer that says so, count that too,
            /// with [`super::Source::Shed`].
            #[inline]
            pub fn shed(&self, reason: ShedReason) {
                <$adder>::add(&self.cells.shed[reason as usize], 1);
            }
        }
    };
}

counting!(Tally, OneWriter);
counting!(SharedTally, ManyWriters);

/// How a cell grows.
trait Adder {
    fn add(cell: &AtomicU64, amount: u64);
}

/// A load and a store: right as long as one thread writes.
struct OneWriter;

/// A locked addition.
struct ManyWriters;

impl Adder for OneWriter {
    #[inline]
    fn add(cell: &AtomicU64, amount: u64) {
        cell.store(cell.load(Relaxed).wrapping_add(amount), Relaxed);
    }
}

impl Adder for ManyWriters {
    #[inline]
    fn add(cell: &AtomicU64, amount: u64) {
        cell.fetch_add(amount, Relaxed);
    }
}

/// One tally's cells. The alignment keeps it off the lines (and the neighbour line the prefetcher pulls in) of
/// another thread.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct Cells {
    pub(super) server: Server,
    zones: Box<[OnceLock<Box<ZoneCells>>; ZoneId::COUNT]>,
    pub(super) drops: [AtomicU64; DropReason::ALL.len()],
    pub(super) shed: [AtomicU64; ShedReason::ALL.len()],
}

/// One tally's cells of one zone.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct ZoneCells {
    /// Queries by type, of at most 100 bytes: the usual ones.
    pub(super) small: [AtomicU64; TYPES],
    /// Answers within the first duration bound: all hits.
    pub(super) quick: [AtomicU64; Outcome::COUNT],
    pub(super) request_bytes: AtomicU64,
    pub(super) response_bytes: AtomicU64,
    pub(super) micros: AtomicU64,
    pub(super) dnssec_ok: AtomicU64,
    pub(super) response_sizes: [AtomicU64; SIZE_BUCKETS],
    /// Longer queries by type, and by size.
    pub(super) large: [AtomicU64; TYPES],
    pub(super) large_sizes: [AtomicU64; SIZE_BUCKETS],
    /// Later answers by outcome, and by duration.
    pub(super) slow: [AtomicU64; Outcome::COUNT],
    pub(super) slow_durations: [AtomicU64; DURATION_BUCKETS],
}

impl Cells {
    fn new(server: Server) -> Self {
        Self {
            server,
            zones: Box::new([const { OnceLock::new() }; ZoneId::COUNT]),
            drops: [const { AtomicU64::new(0) }; _],
            shed: [const { AtomicU64::new(0) }; _],
        }
    }

    #[inline]
    fn zone(&self, zone: ZoneId) -> &ZoneCells {
        self.zones[zone.index()].get_or_init(ZoneCells::boxed)
    }

    /// The cells of every zone that was asked for or prepared.
    pub(super) fn zones(&self) -> impl Iterator<Item = (ZoneId, &ZoneCells)> {
        let cells = self.zones.iter().enumerate();
        cells.filter_map(|(index, cells)| Some((ZoneId::from_index(index)?, &**cells.get()?)))
    }
}

impl ZoneCells {
    #[cold]
    fn boxed() -> Box<Self> {
        Box::new(Self {
            small: [const { AtomicU64::new(0) }; _],
            quick: [const { AtomicU64::new(0) }; _],
            request_bytes: AtomicU64::new(0),
            response_bytes: AtomicU64::new(0),
            micros: AtomicU64::new(0),
            dnssec_ok: AtomicU64::new(0),
            response_sizes: [const { AtomicU64::new(0) }; _],
            large: [const { AtomicU64::new(0) }; _],
            large_sizes: [const { AtomicU64::new(0) }; _],
            slow: [const { AtomicU64::new(0) }; _],
            slow_durations: [const { AtomicU64::new(0) }; _],
        })
    }

    #[inline]
    fn query<A: Adder>(&self, slot: usize, length: usize, dnssec_ok: bool) {
        // The remainder tells the compiler that the index is in bounds; it is a mask.
        let slot = slot % TYPES;
        if length <= SMALL_QUERY {
            A::add(&self.small[slot], 1);
        } else {
            A::add(&self.large[slot], 1);
            A::add(&self.large_sizes[size_bucket(length)], 1);
        }
        A::add(&self.request_bytes, length as u64);
        if dnssec_ok {
            A::add(&self.dnssec_ok, 1);
        }
    }

    #[inline]
    fn response<A: Adder>(&self, outcome: Outcome, length: usize, micros: u32) {
        if micros <= FIRST_DURATION_MICROS {
            A::add(&self.quick[outcome.index()], 1);
        } else {
            A::add(&self.slow[outcome.index()], 1);
            A::add(&self.slow_durations[duration_bucket(micros)], 1);
        }
        A::add(&self.response_sizes[size_bucket(length)], 1);
        A::add(&self.response_bytes, length as u64);
        A::add(&self.micros, u64::from(micros));
    }
}

/// The longest query of the bank `small`: the bound of bucket [`SMALL_BUCKET`].
const SMALL_QUERY: usize = 100;

/// The bucket of [`SIZE_BOUNDS`] that the bank `small` is: a DNS message is never empty.
pub(super) const SMALL_BUCKET: usize = 1;

/// The bucket of [`SIZE_BOUNDS`] a length falls into.
#[inline]
fn size_bucket(length: usize) -> usize {
    if length <= 511 {
        // Steps of a hundred up to 400, then one to 511.
        length.div_ceil(100).min(5)
    } else {
        SIZE_BOUNDS[6..].iter().filter(|bound| length > **bound as usize).count() + 6
    }
}

/// The duration bucket of so many microseconds.
#[inline]
fn duration_bucket(micros: u32) -> usize {
    if micros == 0 {
        return 0;
    }
    // How often the first bound must double to hold it: the number of bits of (micros - 1) / bound.
    let doublings = u32::BITS - ((micros - 1) / FIRST_DURATION_MICROS).leading_zeros();
    (doublings as usize).min(DURATION_BUCKETS - 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::labels::{Kind, Source};
    use super::*;

    fn server(proto: Proto) -> Server {
        Server { address: "169.254.20.10:53".parse().expect("an address"), proto }
    }

    fn zone(index: usize) -> ZoneId {
        ZoneId::from_index(index).expect("an index in bounds")
    }

    fn load(cells: &[AtomicU64]) -> u64 {
        cells.iter().map(|cell| cell.load(Relaxed)).sum()
    }

    #[test]
    fn servers_are_labelled_as_coredns_labels_them() {
        let v6 = Server { address: "[fd00::10]:53".parse().expect("an address"), proto: Proto::Tcp };
        assert_eq!((v6.to_string().as_str(), v6.family()), ("dns://[fd00::10]:53", "2"));
        let v4 = server(Proto::Udp);
        assert_eq!((v4.to_string().as_str(), v4.family()), ("dns://169.254.20.10:53", "1"));
    }

    #[test]
    fn what_a_worker_counted_outlives_it_and_is_not_counted_twice() {
        let tallies = Tallies::new();
        for _ in 0..3 {
            let tally = tallies.tally(server(Proto::Udp));
            tally.query(ZoneId::OTHER, 1, 40, false);
        }
        let cells = tallies.snapshot();
        assert_eq!(cells.len(), 1, "a restarted worker takes over its predecessor's cells");
        assert_eq!(load(&cells[0].zone(ZoneId::OTHER).small), 3);
        drop(cells);
        let (_one, _two) = (tallies.tally(server(Proto::Udp)), tallies.tally(server(Proto::Udp)));
        assert_eq!(tallies.snapshot().len(), 2, "two workers never share cells");
    }

    #[test]
    fn a_shared_tally_loses_nothing_to_a_race() {
        let tallies = Tallies::new();
        let tally = tallies.shared(server(Proto::Tcp));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let tally = tally.clone();
                scope.spawn(move || {
                    for _ in 0..10_000 {
                        tally.query(zone(0), 28, 50, true);
                    }
                });
            }
        });
        let cells = tallies.snapshot();
        assert_eq!(load(&cells[0].zone(zone(0)).small), 40_000);
        assert_eq!(cells[0].zone(zone(0)).dnssec_ok.load(Relaxed), 40_000);
    }

    proptest! {
        #[test]
        fn a_size_falls_into_the_first_bucket_that_holds_it(length in 0usize..70_000) {
            let expected = SIZE_BOUNDS.iter().position(|bound| length <= *bound as usize);
            prop_assert_eq!(size_bucket(length), expected.unwrap_or(SIZE_BUCKETS - 1));
        }

        #[test]
        fn a_duration_falls_into_the_first_bucket_that_holds_it(micros in prop_oneof![0u32..20_000, any::<u32>()]) {
            let expected = (0..DURATION_BOUNDS)
                .position(|doublings| u64::from(micros) <= u64::from(FIRST_DURATION_MICROS) << doublings);
            prop_assert_eq!(duration_bucket(micros), expected.unwrap_or(DURATION_BUCKETS - 1));
        }

        #[test]
        fn the_cells_add_up_to_what_was_counted(
            events in prop::collection::vec(
                (0usize..ZoneId::COUNT, any::<u16>(), 12usize..65_536, any::<bool>(), 0u16..30, any::<u32>(), 0usize..3),
                0..200,
            )
        ) {
            let tallies = Tallies::new();
            let workers = [tallies.tally(server(Proto::Udp)), tallies.tally(server(Proto::Udp)),
                tallies.tally(server(Proto::Tcp))];
            let mut micros_total = 0;
            for (at, qtype, length, dnssec_ok, rcode, micros, worker) in &events {
                let kind = if rcode % 2 == 0 { Kind::Positive } else { Kind::NoData };
                let outcome = Outcome::new(Source::ALL[at % Source::ALL.len()], *rcode, kind);
                workers[*worker].query(zone(*at), *qtype, *length, *dnssec_ok);
                workers[*worker].response(zone(*at), outcome, *length, *micros);
                micros_total += u64::from(*micros);
            }
            let cells = tallies.snapshot();
            let zones: Vec<_> = cells.iter().flat_map(|cells| cells.zones()).map(|(_, zone)| zone).collect();
            let sum = |pick: &dyn Fn(&ZoneCells) -> u64| zones.iter().map(|zone| pick(zone)).sum::<u64>();
            let count = events.len() as u64;
            prop_assert_eq!(sum(&|zone| load(&zone.small) + load(&zone.large)), count);
            prop_assert_eq!(sum(&|zone| load(&zone.small) + load(&zone.large_sizes)), count);
            prop_assert_eq!(sum(&|zone| load(&zone.quick) + load(&zone.slow)), count);
            prop_assert_eq!(sum(&|zone| load(&zone.quick) + load(&zone.slow_durations)), count);
            prop_assert_eq!(sum(&|zone| load(&zone.response_sizes)), count);
            prop_assert_eq!(sum(&|zone| zone.micros.load(Relaxed)), micros_total);
            let bytes: u64 = events.iter().map(|event| event.2 as u64).sum();
            prop_assert_eq!(sum(&|zone| zone.request_bytes.load(Relaxed)), bytes);
            prop_assert_eq!(sum(&|zone| zone.response_bytes.load(Relaxed)), bytes);
            let dnssec_ok = events.iter().filter(|event| event.3).count() as u64;
            prop_assert_eq!(sum(&|zone| zone.dnssec_ok.load(Relaxed)), dnssec_ok);
        }
    }
}
