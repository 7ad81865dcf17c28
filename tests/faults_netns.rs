//! The scenarios of `docs/faults.md`: the real binary on a node with conntrack, between pods and endpoints of a service
//! that vanish, stall, close, lie and come back, and pods that flood.
//!
//! Needs root, `ip`, `ss`, `nft` and `nsd`; without them a test says SKIP, and fails with `CI=true`. Figures are printed
//! with `--no-capture`.

mod support {
    pub mod client;
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

use std::time::Duration;

use faults::actor;
use faults::cluster::{CLIENTS, Cluster, PLACES, SERVICE, Server};
use faults::load::{Figures, Lookup, Plan};
use support::{need, netns};

/// Plays a part inside a namespace when another test starts it there.
#[test]
#[ignore = "started by the other tests as a process of its own"]
fn actor() {
    actor::play();
}

fn usable() -> bool {
    netns::usable(&["nft", "ss"]) && need::programs(&["nsd"])
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
    // The control group: pods that ask the service themselves, over UDP.
    let control = cluster.load(&Plan {
        target: SERVICE,
        lookups: 100 * 8,
        every: Duration::from_millis(10),
        names: vec!["c#.faults.example".to_owned()],
        ..steady(0)
    });
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

/// What may lie between a moment of the load's and ours.
const IN_FLIGHT: Duration = Duration::from_millis(10);
