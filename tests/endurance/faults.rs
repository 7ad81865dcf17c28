//! What is done to a nodens under load, and when: its upstreams fail, its configuration changes, another process takes its place.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use rand::RngExt as _;
use rand::rngs::StdRng;

use super::origin::Origin;
use crate::support::loopback;
use crate::support::nodens::{Nodens, Places};
use crate::support::wait::{eventually, seconds};

/// Queries may still fail this long after a fault is over: probes of the upstreams come every 400 ms at most, a failure is
/// remembered for 2 s by the configuration of [`Site`], and a client waits for 5 s.
const AFTERMATH: Duration = Duration::from_secs(5);

/// Something that is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// One upstream closes all connections, with FIN or RST.
    OneCloses,
    /// Both do.
    AllClose,
    /// One upstream is gone for up to three seconds.
    OneRestarts,
    /// Both are.
    AllRestart,
    /// One upstream reads and says nothing for up to three seconds.
    OneIsSilent,
    /// Both do.
    AllAreSilent,
    /// Another configuration: other rules for the zone and its upstreams.
    Reload,
    /// Another one: the sockets are bound anew.
    ReloadOfListeners,
    /// A broken one, and a good one again.
    BadReload,
}

impl Fault {
    /// All that are drawn from.
    pub(crate) const ALL: [Self; 9] = [
        Self::OneCloses,
        Self::AllClose,
        Self::OneRestarts,
        Self::AllRestart,
        Self::OneIsSilent,
        Self::AllAreSilent,
        Self::Reload,
        Self::ReloadOfListeners,
        Self::BadReload,
    ];

    /// Whether names that are not cached cannot be looked up meanwhile.
    pub(crate) fn leaves_no_upstream(self) -> bool {
        matches!(self, Self::AllRestart | Self::AllAreSilent)
    }
}

/// What was done from when to when.
#[derive(Debug, Clone)]
pub(crate) struct Done {
    pub(crate) what: String,
    pub(crate) leaves_no_upstream: bool,
    pub(crate) from: Instant,
    pub(crate) until: Instant,
}

impl Done {
    /// Whether a query of this time may have met it.
    pub(crate) fn meets(&self, asked: Instant, ended: Instant) -> bool {
        asked <= self.until + AFTERMATH && ended >= self.from
    }
}

/// A nodens, its upstreams, and what was done to them.
pub(crate) struct Site {
    nodens: Nodens,
    places: Places,
    origins: [Origin; 2],
    generation: u32,
    /// What was done, in order.
    pub(crate) done: Vec<Done>,
    /// What the processes that left counted.
    counted: BTreeMap<&'static str, u64>,
}

impl Site {
    /// Starts all of it.
    pub(crate) fn start() -> Self {
        let origins = [(); 2].map(|()| Origin::start(loopback::free()));
        let places = Places::free();
        let nodens = Nodens::start_at(places, &yaml(&origins, 0));
        Self { nodens, places, origins, generation: 0, done: Vec::new(), counted: BTreeMap::new() }
    }

    /// Where clients ask.
    pub(crate) fn address(&self) -> std::net::SocketAddr {
        self.places.dns
    }

    /// The process that serves.
    pub(crate) fn pid(&self) -> u32 {
        self.nodens.pid()
    }

    /// Lets time pass; panics if the process ends meanwhile.
    pub(crate) fn rest(&mut self, time: Duration) {
        let until = Instant::now() + time;
        loop {
            assert!(self.nodens.is_running(), "nodens ended:\n{}", self.nodens.said());
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            thread::sleep(left.min(seconds(1)));
        }
    }

    /// A new process takes over on the same addresses; the old one must leave in good order.
    pub(crate) fn hand_over(&mut self) {
        let from = Instant::now();
        let places = Places { dns: self.places.dns, ..Places::free() };
        let new = Nodens::start_at(places, &self.yaml());
        let old = std::mem::replace(&mut self.nodens, new);
        add(&mut self.counted, &old);
        let said = old.said();
        assert_eq!(old.stop(), Some(0), "the process that hands over fails: {said}");
        self.record("HandOver".to_owned(), false, from);
    }

    /// Does it, and undoes it.
    pub(crate) fn inject(&mut self, fault: Fault, random: &mut StdRng) {
        let from = Instant::now();
        let outage = Duration::from_millis(random.random_range(200..3_000));
        let one = random.random_range(0..2);
        let chosen = match fault {
            Fault::OneCloses | Fault::OneRestarts | Fault::OneIsSilent => one..one + 1,
            _ => 0..2,
        };
        match fault {
            Fault::OneCloses | Fault::AllClose => {
                let reset = random.random();
                self.origins[chosen].iter().for_each(|origin| origin.cut(reset));
            }
            Fault::OneRestarts | Fault::AllRestart => {
                self.origins[chosen.clone()].iter_mut().for_each(Origin::stop);
                self.rest(outage);
                self.origins[chosen].iter_mut().for_each(Origin::start_again);
            }
            Fault::OneIsSilent | Fault::AllAreSilent => {
                self.origins[chosen.clone()].iter().for_each(|origin| origin.silence(true));
                self.rest(outage);
                self.origins[chosen].iter().for_each(|origin| origin.silence(false));
            }
            Fault::Reload => {
                // Odd and even ones differ in the zone, every second pair in the listeners.
                self.generation ^= 1;
                self.reload();
            }
            Fault::ReloadOfListeners => {
                self.generation ^= 2;
                self.reload();
            }
            Fault::BadReload => {
                let refused = self.nodens.count("nodens_config_reload_failures_total", &[]);
                self.nodens.write_config("listen: {prot: 53}\n");
                eventually("the configuration is refused", seconds(20), || {
                    self.nodens.count("nodens_config_reload_failures_total", &[]) > refused
                });
                self.reload();
            }
        }
        self.record(format!("{fault:?}"), fault.leaves_no_upstream(), from);
    }

    fn reload(&mut self) {
        // A comment, so that the file is another one also where the configuration is not.
        let marked = format!("{}# {}\n", self.yaml(), self.done.len());
        let read = |nodens: &Nodens| {
            ["serving another configuration", "the configuration has not changed"]
                .map(|words| nodens.said().matches(words).count())
                .iter()
                .sum::<usize>()
        };
        let before = read(&self.nodens);
        self.nodens.write_config(&marked);
        eventually("the configuration is read", seconds(30), || read(&self.nodens) > before);
        assert_eq!(self.nodens.count("nodens_config_last_reload_successful", &[]), 1);
    }

    fn record(&mut self, what: String, leaves_no_upstream: bool, from: Instant) {
        self.done.push(Done { what, leaves_no_upstream, from, until: Instant::now() });
    }

    fn yaml(&self) -> String {
        yaml(&self.origins, self.generation)
    }

    /// Queries that the upstreams have answered.
    pub(crate) fn answered_upstream(&self) -> u64 {
        self.origins.iter().map(Origin::answered).sum()
    }

    /// What the processes counted by themselves, the one that serves included.
    pub(crate) fn counts(&self) -> BTreeMap<&'static str, u64> {
        let mut counts = self.counted.clone();
        add(&mut counts, &self.nodens);
        counts
    }

    /// Ends it in good order.
    pub(crate) fn finish(self) {
        assert_eq!(self.nodens.stop(), Some(0));
    }
}

/// What is reported of the processes' own counts.
const FAMILIES: [&str; 10] = [
    "nodens_queries_total",
    "nodens_responses_total",
    "nodens_cache_hits_total",
    "nodens_cache_misses_total",
    "nodens_cache_evictions_total",
    "nodens_stale_served_total",
    "nodens_prefetches_total",
    "nodens_drops_total",
    "nodens_shed_total",
    "nodens_panics_total",
];

fn add(counts: &mut BTreeMap<&'static str, u64>, nodens: &Nodens) {
    let metrics = nodens.metrics();
    for family in FAMILIES {
        *counts.entry(family).or_default() += metrics.count(family, &[]);
    }
}

/// The configuration. The caches hold what is asked again and again, and little more: new names fill them within minutes, and
/// push each other out from then on, as on a node after some days.
fn yaml(origins: &[Origin; 2], generation: u32) -> String {
    let [policy, negative] = [["random", "30s"], ["sequential", "15s"]][generation as usize & 1];
    let payload = [4096, 3900][generation as usize >> 1 & 1];
    format!(
        "listen: {{workers: 1, max_udp_payload: {payload}, tcp: {{max_connections_per_client: 1000}}}}\n\
         cache: {{size: 12MiB, negative_size: 3MiB, failure_size: 512KiB, near_size: 2MiB, \
         failure_ttl: {{min: 1s, max: 2s}}}}\n\
         zones: [{{name: '.', cache: {{negative_max_ttl: {negative}}}, \
         forward: {{policy: {policy}, to: ['{}', '{}']}}}}]\n",
        origins[0].address(),
        origins[1].address(),
    )
}
