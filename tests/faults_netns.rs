//! The scenarios of `docs/faults.md`: the real binary on a node with conntrack, between pods and endpoints of a service
//! that vanish, stall, close, lie and come back, and pods that flood.
//!
//! Needs root, `ip`, `ss`, `nft` and `nsd`; without them a test says SKIP, and fails with `CI=true`. Figures are printed
//! with `--no-capture`.

mod support {
    pub mod client;
    pub mod heartbeat;
    pub mod loopback;
    pub mod need;
    pub mod netns;
    pub mod nodens;
    pub mod nsd;
    pub mod upstream;
    pub mod wait;
}

mod faults {
    pub(crate) mod actor;
    pub(crate) mod cluster;
    pub(crate) mod load;

    /// What every name of the endpoints' zone is answered with.
    pub(crate) const WILDCARD: std::net::Ipv4Addr = std::net::Ipv4Addr::new(192, 0, 2, 53);
}

use std::time::{Duration, Instant};

use faults::actor::{self, Actor};
use faults::cluster::{CLIENTS, Cluster, PLACES, SERVICE, Server};
use faults::load::{Figures, Flood, Flooded, Load, Lookup, Outcome, Plan};
use support::{need, netns};

/// Plays a part inside a namespace when another test starts it there.
#[test]
#[ignore = "started by the other tests as a process of its own"]
fn actor() {
    actor::play();
}

fn usable() -> bool {
    netns::usable(&["nft", "ss", "nstat", "setpriv", "setsid"]) && need::programs(&["nsd"])
}

/// Misses all: 40 clients that ask 400 different names a second together.
fn steady(seconds: usize) -> Plan {
    Plan {
        target: PLACES.dns,
        source: CLIENTS[0],
        clients: 40,
        lookups: 400 * seconds,
        every: Duration::from_micros(2_500),
        names: vec!["n#.faults.example".to_owned()],
        modulo: usize::MAX,
        patience: Duration::from_secs(5),
    }
}

/// The control group: pods that ask the service themselves, over UDP, 100 names a second together.
fn without_nodens(seconds: usize) -> Plan {
    Plan {
        target: SERVICE,
        lookups: 100 * seconds,
        every: Duration::from_millis(10),
        names: vec!["c#.faults.example".to_owned()],
        ..steady(0)
    }
}

fn after(lookups: &[Lookup], moment: Duration) -> impl Iterator<Item = &Lookup> {
    lookups.iter().filter(move |lookup| lookup.asked > moment)
}

#[test]
fn s1_an_endpoint_that_vanishes_is_a_non_event() {
    if !usable() {
        return;
    }
    let mut cluster = Cluster::start(Server::Nsd, 2, 0);
    cluster.run_nodens("", "");
    let control = cluster.load(&without_nodens(8));
    let load = cluster.load(&steady(8));
    load.until(Duration::from_secs(2));
    let lost = cluster.busier();
    cluster.vanish(lost);
    cluster.point_at(&[1 - lost]);
    let gone = load.elapsed();
    let (lookups, control) = (load.lookups(), control.lookups());
    let all = Figures::of("S1", &lookups);
    let later = Figures::of("S1, asked after the loss", after(&lookups, gone + IN_FLIGHT));
    let control = Figures::of("S1, control group", &control);
    assert_eq!((all.failed, later.slow), (0, 0));
    assert!(all.max < Duration::from_secs(1), "{:?}", all.max);
    assert!(control.failed * 10 > control.lookups, "the control group does not suffer: {control:?}");
}

#[test]
fn s2_a_service_that_is_repointed_late_is_a_non_event() {
    if !usable() {
        return;
    }
    let mut cluster = Cluster::start(Server::Nsd, 2, 0);
    cluster.run_nodens("", "");
    let control = cluster.load(&without_nodens(24));
    let load = cluster.load(&steady(24));
    load.until(Duration::from_secs(2));
    let lost = cluster.busier();
    cluster.vanish(lost);
    load.until(Duration::from_secs(22));
    cluster.point_at(&[1 - lost]);
    let (lookups, control) = (load.lookups(), control.lookups());
    let all = Figures::of("S2", &lookups);
    let control = Figures::of("S2, control group", &control);
    assert!(control.failed * 10 > control.lookups, "the control group does not suffer: {control:?}");
    assert_eq!(all.failed, 0);
    assert!(all.slow * 1_000 <= all.lookups * 2, "{} of {} over 250 ms", all.slow, all.lookups);
    assert!(all.max < Duration::from_secs(1), "{:?}", all.max);
}

#[test]
fn s3_with_all_endpoints_gone_known_names_are_answered_and_others_fail_fast() {
    if !usable() {
        return;
    }
    let mut cluster = Cluster::start(Server::Nsd, 2, 0);
    cluster.run_nodens("", "");
    // Fifty names that everybody asks; their TTL is a second.
    let known = Plan {
        lookups: 100 * 22,
        every: Duration::from_millis(10),
        names: vec!["k#.faults.example".to_owned()],
        modulo: 50,
        ..steady(0)
    };
    let unknown = Plan { lookups: 50 * 22, every: Duration::from_millis(20), ..steady(0) };
    let control = Plan { names: known.names.clone(), modulo: 50, ..without_nodens(22) };
    let (known, unknown, control) = (cluster.load(&known), cluster.load(&unknown), cluster.load(&control));
    known.until(Duration::from_secs(3));
    for number in 0..2 {
        cluster.vanish(number);
    }
    let (gone, gone_unknown, gone_control) = (known.elapsed(), unknown.elapsed(), control.elapsed());
    known.until(gone + KNOWN_AFTER);
    let (before, counting) = (cluster.knocks(), Instant::now());
    known.until(gone + Duration::from_secs(15));
    let (knocks, counted) = (cluster.knocks() - before, counting.elapsed());
    for number in 0..2 {
        cluster.come_back(number);
    }
    let (back, back_unknown, back_control) = (known.elapsed(), unknown.elapsed(), control.elapsed());
    let (known, unknown, control) = (known.lookups(), unknown.lookups(), control.lookups());
    let during = |lookups: &[Lookup], gone: Duration, back: Duration| -> Vec<Lookup> {
        let during = |lookup: &&Lookup| lookup.asked > gone + IN_FLIGHT && lookup.asked < back;
        lookups.iter().filter(during).copied().collect()
    };
    let all_known = Figures::of("S3, names known", &known);
    let at_once =
        Figures::of("S3, names known, once the loss was", &during(&known, gone + KNOWN_AFTER, back));
    let lost = Figures::of("S3, names unknown", &during(&unknown, gone_unknown, back_unknown));
    let second = Duration::from_secs(1);
    let again =
        Figures::of("S3, names unknown, a second after the return", after(&unknown, back_unknown + second));
    let control =
        Figures::of("S3, control group, names known", &during(&control, gone_control, back_control));
    eprintln!("S3: {knocks} SYNs in {counted:?}");
    // The two vanish one after the other.
    assert!(control.failed * 100 >= control.lookups * 99, "the control group does not suffer: {control:?}");
    assert_eq!(all_known.failed, 0);
    assert!(at_once.max < Duration::from_millis(100), "{:?}", at_once.max);
    // SERVFAIL, not silence; the last ones may meet the return.
    assert_eq!(lost.wrong, 0);
    assert!(lost.failed * 10 >= lost.lookups * 9, "{lost:?}");
    assert!(lost.max < Duration::from_secs(2), "{:?}", lost.max);
    assert!(knocks >= 1 && knocks as f64 <= 5.0 * counted.as_secs_f64(), "{knocks} SYNs in {counted:?}");
    assert_eq!((again.failed, again.slow), (0, 0));
}

#[test]
fn s4_connections_that_close_at_the_worst_moments_cost_a_dial() {
    if !usable() {
        return;
    }
    // Both at the same time, so that a busy machine slows both.
    let mut clusters = [(); 2].map(|()| Cluster::start(Server::Scripted, 2, 0));
    for cluster in &mut clusters {
        cluster.run_nodens("", "");
    }
    let [left_alone, cluster] = &mut clusters;
    // One name in ten meets a close: instead of its answer, half way through it, or right behind it.
    let mut names = vec!["n#.faults.example".to_owned(); 50];
    for (index, how) in ["fin", "reset", "half", "thenfin", "thenreset"].iter().enumerate() {
        names[index * 10] = format!("{how}-#.faults.example");
    }
    let plan = Plan { lookups: 200 * 8, every: Duration::from_millis(5), ..steady(0) };
    let (quiet, load) = (left_alone.load(&plan), cluster.load(&Plan { names, ..plan.clone() }));
    // And all connections of an endpoint are closed ten times a second, idle or not.
    for turn in 1..80 {
        load.until(Duration::from_millis(100) * turn);
        let how = if turn % 4 < 2 { "fin" } else { "reset" };
        assert_eq!(cluster.scripted[turn as usize % 2].ask(&format!("cut {how}")), "cut");
    }
    let (quiet, lookups) = (quiet.lookups(), load.lookups());
    let quiet = Figures::of("S4, left alone", &quiet);
    let all = Figures::of("S4", &lookups);
    let met = Figures::of("S4, names that met a close", lookups.iter().filter(|l| l.number % 10 == 0));
    let closed = cluster.metrics().count("nodens_upstream_retirements_total", &[("reason", "closed")]);
    eprintln!("S4: {closed} connections closed by the peer");
    assert!(closed >= 100, "{closed}");
    assert_eq!((all.failed, all.slow, quiet.failed), (0, 0, 0));
    // A dial and another query cost what a query costs; a pause or a hedge would be 25 ms more.
    let once_more = 2 * quiet.p99 + Duration::from_millis(5);
    assert!(all.p99 <= once_more, "{:?}, left alone {:?}", all.p99, quiet.p99);
    assert!(met.p50 <= once_more && met.p99 <= 2 * once_more, "{met:?}, left alone {quiet:?}");
}

#[test]
fn s5_slow_names_hold_up_nobody_else() {
    if !usable() {
        return;
    }
    // Both at the same time, so that a busy machine slows both.
    let mut clusters = [(); 2].map(|()| Cluster::start(Server::Scripted, 2, 0));
    for cluster in &mut clusters {
        cluster.run_nodens("", "");
    }
    let plan = |slow: bool| {
        let mut names = vec!["n#.faults.example".to_owned(); 10];
        if slow {
            names[0] = "slow-#.faults.example".to_owned();
        }
        Plan { names, lookups: 40 * 10, every: Duration::from_millis(25), ..steady(0) }
    };
    let loads = [clusters[0].load(&plan(false)), clusters[1].load(&plan(true))];
    let [quiet, mixed] = loads.map(Load::lookups);
    // Past the first slow ones, as in service.
    let others = |lookups: &[Lookup]| -> Vec<Lookup> {
        lookups.iter().filter(|lookup| lookup.number % 10 != 0).copied().collect()
    };
    let all = Figures::of("S5, all", &mixed);
    let quiet = Figures::of("S5, quiet", &others(&quiet));
    let beside = Figures::of("S5, beside slow names", &others(&mixed));
    assert_eq!((all.failed, quiet.failed), (0, 0));
    assert!(all.slow >= 40, "the slow names are not slow: {all:?}");
    let limit = quiet.p99 * 2 + Duration::from_millis(5);
    assert!(beside.p99 <= limit, "{:?} beside slow names, {:?} without", beside.p99, quiet.p99);
}

#[test]
fn s6_a_thousand_clients_at_once() {
    if !usable() {
        return;
    }
    let mut cluster = Cluster::start(Server::Scripted, 2, 0);
    cluster.run_nodens("", "");
    let at_once = Plan { clients: 1_000, lookups: 1_000, every: Duration::ZERO, ..steady(0) };
    // Held for less than the shortest wait before a hedge.
    let one = Plan { names: vec!["held-one.faults.example".to_owned()], ..at_once.clone() };
    let one = Figures::of("S6, one name", &cluster.load(&one).lookups());
    let asked: usize = cluster
        .scripted
        .iter_mut()
        .map(|endpoint| endpoint.ask("asked held-one.faults.example").parse::<usize>().expect("a number"))
        .sum();
    let hedges = cluster.metrics().count("nodens_upstream_hedges_total", &[("result", "sent")]) as usize;
    eprintln!("S6: {asked} upstream queries for one name, {hedges} of them hedges");
    let different = Figures::of("S6, different names", &cluster.load(&at_once).lookups());
    assert_eq!((one.failed, asked - hedges, different.failed), (0, 1, 0));
}

#[test]
fn s7_a_flood_of_one_client_costs_others_nothing() {
    if !usable() {
        return;
    }
    let mut cluster = Cluster::start(Server::Nsd, 2, 0);
    // Caches that the flood fills many times over, so that their bounds are what is measured.
    cluster.run_nodens(
        "",
        "listen: {workers: 1}\ncache: {size: 2MiB, negative_size: 1MiB, failure_size: 1MiB, near_size: 2MiB}\n",
    );
    let before = cluster.metrics().count("process_resident_memory_bytes", &[]);
    let flood = Flood { target: PLACES.dns, source: CLIENTS[1], rate: 20_000, time: Duration::from_secs(10) };
    let flood = Actor::start(&cluster.pods, "flood", &flood);
    let load = cluster.load(&Plan { lookups: 200 * 9, every: Duration::from_millis(5), ..steady(0) });
    let other = Figures::of("S7, the other client", &load.lookups());
    let metrics = cluster.metrics();
    let flooded = flood.0.read_line("@");
    let resident = metrics.count("process_resident_memory_bytes", &[]);
    let shed = metrics.non_zero("nodens_shed_total");
    for kind in ["positive", "negative", "failure", "near"] {
        let [bytes, budget] = ["nodens_cache_bytes", "nodens_cache_budget_bytes"]
            .map(|family| metrics.count(family, &[("kind", kind)]));
        eprintln!("S7: {kind}: {bytes} of {budget} bytes");
        assert!(budget > 0 && bytes <= budget, "{kind}: {bytes} of {budget} bytes");
    }
    eprintln!("S7: {flooded}, {before} bytes resident before and {resident} after, {shed:?}");
    let flooded: Flooded = serde_json::from_str(&flooded).expect("the flood wrote it");
    assert!(flooded.sent >= 150_000, "{flooded:?}");
    // Some 500 bytes each: the caches have had several times what they hold.
    assert!(flooded.answered >= 20_000, "{flooded:?}");
    assert!(other.failed * 1_000 < other.lookups, "{other:?}");
    assert!(resident <= before + CACHES + UNDER_WAY, "{before} bytes resident grew to {resident}");
}

#[test]
fn s8_a_third_endpoint_gets_its_share_within_the_max_age() {
    if !usable() {
        return;
    }
    let mut cluster = Cluster::start(Server::Scripted, 3, 1);
    cluster.point_in_turn(&[0, 1]);
    cluster.run_nodens("max_age: 2s", "");
    // Names that take 20 ms each, one after another on each connection, keep many connections open.
    let names = vec!["held-#.faults.example".to_owned()];
    let load = cluster.load(&Plan { names, lookups: 200 * 10, every: Duration::from_millis(5), ..steady(0) });
    load.until(Duration::from_secs(2));
    assert_eq!(cluster.accepted(2), 0);
    let opened = || [0, 1, 2].map(|number| cluster.accepted(number));
    let since = |before: [u64; 3]| -> Vec<u64> {
        opened().iter().zip(before).map(|(now, before)| now - before).collect()
    };
    // One dealt out meanwhile may still go by the old rule.
    cluster.point_in_turn(&[0, 1, 2]);
    let (scaled, clock, before) = (load.elapsed(), Instant::now(), opened());
    let old = [0, 1].map(|number| cluster.peers(number));
    let first =
        netns::eventually("the third endpoint has connections", MAX_AGE, || cluster.connections(2) >= 1);
    load.until(scaled + MAX_AGE);
    // What is asked on an old connection when its time is over is answered on it.
    netns::eventually("no connection is older than max_age", LAST_ANSWERS, || {
        [0, 1].iter().all(|&number| cluster.peers(number).is_disjoint(&old[number]))
    });
    let (took, dealt, open) = (clock.elapsed(), since(before), [0, 1, 2].map(|n| cluster.connections(n)));
    eprintln!("S8: the third endpoint's first connection after {first:.1?}; no old one after {took:.1?}");
    eprintln!("S8: opened until then by endpoint {dealt:?}, open {open:?}");
    let fair = |dealt: &[u64]| (dealt[2] + 1) * 3 >= dealt.iter().sum::<u64>();
    assert!(dealt[2] >= 1 && fair(&dealt), "{dealt:?}");
    load.until(scaled + 3 * MAX_AGE);
    let later = since(before);
    eprintln!("S8: opened in {:.1?} by endpoint: {later:?}", clock.elapsed());
    assert!(fair(&later), "{later:?}");
    let all = Figures::of("S8", &load.lookups());
    assert_eq!(all.failed, 0);
    assert!(all.max < Duration::from_secs(1), "{:?}", all.max);
}

#[test]
fn s9_ten_thousand_bad_rounds_leave_nothing_behind() {
    if !usable() {
        return;
    }
    let mut cluster = Cluster::start(Server::Scripted, 2, 0);
    // Small caches are full soon: what grows then is a leak.
    cluster.run_nodens_with(&format!(
        "zones:\n- {{name: tcp.example, forward: {{to: ['{SERVICE}'], timeout: 300ms}}}}\n\
         - {{name: auto.example, forward: {{to: ['{SERVICE}'], transport: auto, timeout: 300ms}}}}\n\
         cache: {{size: 256KiB, negative_size: 256KiB, failure_size: 256KiB, near_size: 256KiB, serve_stale: false}}\n"
    ));
    let bad = [
        "truncated",
        "alwaystruncated",
        "wrongid",
        "wrongquestion",
        "wrongsource",
        "lies",
        "garbage",
        "silent",
        "half",
        "stuck",
        "fin",
        "reset",
        "thenreset",
    ];
    let zones = ["tcp", "auto"];
    let names = zones.iter().flat_map(|zone| bad.map(|how| format!("{how}-#.{zone}.example")));
    let names: Vec<_> = names.flat_map(|bad| [bad.clone(), format!("n{bad}")]).collect();
    let rounds = |cluster: &Cluster, label: &str, lookups: usize| {
        let names = names.iter().map(|name| name.replace('#', &format!("{label}#"))).collect();
        let plan = Plan { names, lookups, every: Duration::from_millis(1), ..steady(0) };
        let lookups = cluster.load(&plan).lookups();
        let all = Figures::of("S9", &lookups);
        let lost = lookups.iter().filter(|lookup| lookup.outcome == Outcome::Lost).count();
        assert_eq!((all.wrong, lost), (0, 0));
        // Half of the names are good, and of the bad ones some have an answer in the end.
        assert!(all.failed * 2 <= all.lookups, "{all:?}");
        netns::eventually("nothing is in flight", Duration::from_secs(10), || {
            cluster.metrics().count("nodens_upstream_in_flight", &[]) == 0
        });
        let connections = cluster.metrics().count("nodens_upstream_connections", &[]);
        // An idle connection is closed after 8 s; what is left then belongs to nobody.
        netns::eventually("all connections are closed", Duration::from_secs(15), || {
            cluster.metrics().count("nodens_upstream_connections", &[]) == 0
        });
        let metrics = cluster.metrics();
        let held =
            ["process_open_fds", "process_resident_memory_bytes"].map(|family| metrics.count(family, &[]));
        eprintln!(
            "S9: {connections} connections at the end, without them {held:?} descriptors, bytes resident"
        );
        assert!(connections <= CONNECTIONS, "{connections} connections");
        held
    };
    let [early_descriptors, early_memory] = rounds(&cluster, "a", 3_000);
    let [descriptors, memory] = rounds(&cluster, "b", 10_000);
    let ignored = cluster.metrics().count("nodens_upstream_ignored_replies_total", &[]);
    eprintln!("S9: {ignored} replies ignored");
    assert!(ignored >= 1_000, "{ignored}");
    assert!(descriptors <= early_descriptors + 2, "{early_descriptors} descriptors grew to {descriptors}");
    assert!(memory <= early_memory + ROUNDING, "{early_memory} bytes resident grew to {memory}");
}

/// The caches' budgets in scenario 7: 4 MiB in the store, 2 MiB near.
const CACHES: u64 = 6 << 20;

/// Lookups under way in scenario 7: `limits.client_share` of `limits.in_flight`, what the channel holds, and the
/// allocator's own.
const UNDER_WAY: u64 = 16 << 20;

/// `max_age` in scenario 8.
const MAX_AGE: Duration = Duration::from_secs(2);

/// How long it takes to answer what is asked on a connection in scenario 8.
const LAST_ANSWERS: Duration = Duration::from_millis(250);

/// Connections at the worst in scenario 9: two zones, `max_connections`, and eight times as many for slow names.
const CONNECTIONS: u64 = 2 * 16 * 8;

/// What resident memory may move by without a leak, of which half a megabyte is usual: 200 bytes a lookup would be more.
const ROUNDING: u64 = 3 << 19;

/// When the loss of all endpoints is known.
const KNOWN_AFTER: Duration = Duration::from_millis(2_500);

/// What may lie between a moment of the load's and ours.
const IN_FLIGHT: Duration = Duration::from_millis(10);
