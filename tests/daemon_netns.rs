//! What the real binary does for a node, in namespaces: it keeps what others take away, leaves nothing when it is killed, keeps
//! lookups out of connection tracking and from DNAT, and says which privilege it lacks.
//!
//! Needs root and the tools named in each test; without them a test says SKIP, and fails with `CI=true`.

mod support {
    pub(crate) mod client;
    pub(crate) mod load;
    pub(crate) mod loopback;
    pub(crate) mod need;
    pub(crate) mod netns;
    pub(crate) mod node;
    pub(crate) mod nodens;
    pub(crate) mod nsd;
    pub(crate) mod site;
    pub(crate) mod wait;
}

use std::fs;
use std::time::Duration;

use support::load::{self, Load};
use support::need;
use support::netns::{self, Netns, eventually};
use support::node::{
    ALL_RULES, LINK_LOCAL, REPAIRED, SERVICE, SERVICE_V6, addresses, all_addresses, has_interface,
    interface_index, rule_count, tables,
};
use support::site::{Site, UPSTREAM};

/// Plays the clients when another test starts it; see `support::load`.
#[test]
#[ignore = "started by the other tests as a process of its own"]
fn actor() {
    load::play();
}

fn usable(tools: &[&str]) -> bool {
    netns::usable(&[&["nft", "ss", "curl"], tools].concat()) && need::programs(&["nsd"])
}

#[test]
fn what_others_take_away_under_load_is_back_within_a_second() {
    if !usable(&[]) {
        return;
    }
    let site = Site::new();
    let node = &site.node;
    let _nodens = site.start();
    let mut load = Load::start(&site.pods);
    let mut probe = Load::start(&site.pods);
    let flooded: [(&str, &str, &dyn Fn() -> bool); 3] = [
        ("ip link del nodens", SERVICE, &|| addresses(node) == all_addresses()),
        ("ip addr del 10.96.0.10/32 dev nodens", SERVICE, &|| addresses(node) == all_addresses()),
        ("nft flush ruleset", LINK_LOCAL, &|| rule_count(node, "nodens") == ALL_RULES),
    ];
    for (damage, address, is_repaired) in flooded {
        assert_eq!(load.ask(&format!("flood {address}:53 1000 hit")), "ok");
        eventually("the load is on", Duration::from_secs(5), || {
            load.ask("mark").parse().is_ok_and(|n: usize| n > 300)
        });
        node.exec(damage);
        let repaired = eventually(damage, REPAIRED, is_repaired);
        assert_eq!(probe.fresh(&format!("{address}:53"), 50, 5), [50, 5], "lookups after {damage}");
        let flooded = load.settle(Duration::from_millis(500));
        println!("{damage}: repaired {repaired:.0?} after it; {flooded:?}");
        assert!(flooded.gap < REPAIRED, "{damage}: {flooded:?}");
        // They were answered before it and again after it; only in between some were not.
        assert!(flooded.answered + 1_000 > flooded.sent && flooded.answered > 300, "{damage}: {flooded:?}");
    }
    let metrics = site.metrics();
    assert_eq!(metrics.count("nodens_node_repairs_total", &[("what", "interface")]), 2);
    assert_eq!(metrics.count("nodens_node_repair_failures_total", &[]), 0);
}

#[test]
fn a_killed_nodens_leaves_no_rules_and_its_interface_to_the_next_or_to_cleanup() {
    if !usable(&[]) {
        return;
    }
    let site = Site::new();
    let cleanup = |arguments: &[&str]| {
        let output = site.command(&[], &[&["cleanup"], arguments].concat()).output().unwrap();
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.code(), text)
    };
    let mut probe = Load::start(&site.pods);
    let mut killed = site.start();
    assert_eq!(rule_count(&site.node, "nodens"), ALL_RULES);
    let index = interface_index(&site.node);
    killed.signal("KILL");
    killed.ended();
    assert_eq!(tables(&site.node), [""; 0], "the kernel removes the table with the process");
    assert_eq!(addresses(&site.node), all_addresses());

    let mut next = site.start();
    assert_eq!(interface_index(&site.node), index, "the interface is adopted");
    assert_eq!(rule_count(&site.node, "nodens"), ALL_RULES);
    assert_eq!(probe.fresh(&format!("{SERVICE}:53"), 20, 5), [20, 5]);

    let (code, said) = cleanup(&[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("still live") && said.contains("--force"), "it says why: {said}");
    assert_eq!(addresses(&site.node), all_addresses(), "nothing was touched");
    assert_eq!(rule_count(&site.node, "nodens"), ALL_RULES);
    assert_eq!(probe.fresh(&format!("{SERVICE}:53"), 20, 5), [20, 5]);

    next.signal("KILL");
    next.ended();
    let (code, said) = cleanup(&[]);
    assert_eq!((code, said.contains("removed")), (Some(0), true), "{said}");
    assert!(!has_interface(&site.node));
    let (code, said) = cleanup(&[]);
    assert_eq!((code, &*said), (Some(0), ""), "a second time there is nothing to do");
}

/// Connection tracking on, and kube-proxy's part: both addresses are taken elsewhere, from pods and from the node itself.
fn kube_proxy(node: &Netns) {
    for (family, address) in [("ip", SERVICE), ("ip", LINK_LOCAL), ("ip6", SERVICE_V6)] {
        let nowhere = if family == "ip" { "192.0.2.1" } else { "2001:db8::1" };
        for (chain, hook) in [("services", "prerouting"), ("own", "output")] {
            node.exec(&format!(
                "nft 'add table {family} kube-proxy; \
                 add chain {family} kube-proxy {chain} {{ type nat hook {hook} priority -100; }}; \
                 add rule {family} kube-proxy {chain} {family} daddr {address} udp dport 53 counter dnat to {nowhere}; \
                 add rule {family} kube-proxy {chain} {family} daddr {address} tcp dport 53 counter dnat to {nowhere}'"
            ));
        }
    }
}

#[test]
fn untracked_lookups_pass_the_dnat_rules_of_kube_proxy() {
    if !usable(&[]) {
        return;
    }
    let site = Site::new();
    kube_proxy(&site.node);
    let targets = [format!("{LINK_LOCAL}:53"), format!("{SERVICE}:53"), format!("[{SERVICE_V6}]:53")];
    let (mut pod, mut host) = (Load::start(&site.pods), Load::start(&site.node));
    let mut nodens = site.start();
    for target in &targets {
        assert_eq!(pod.fresh(target, 50, 10), [50, 10], "a pod to {target}");
        assert_eq!(host.fresh(target, 50, 10), [50, 10], "the node to {target}");
    }
    let seen = site.node.exec("nft list table ip kube-proxy; nft list table ip6 kube-proxy");
    assert_eq!(seen.matches("counter packets 0 ").count(), 12, "no rule has seen a packet: {seen}");
    nodens.signal("KILL");
    nodens.ended();
    assert_eq!(pod.fresh(&targets[1], 1, 0), [0, 0], "without nodens the rules are in force");
    let seen = site.node.exec("nft list table ip kube-proxy");
    assert!(seen.contains("counter packets 1 "), "{seen}");
}

/// The rows of connection tracking of this protocol whose first packet went to this port.
fn rows(node: &Netns, protocol: &str) -> Vec<String> {
    let text = node.exec(&format!(
        "for family in ipv4 ipv6; do conntrack -L --family $family --proto {protocol} 2>/dev/null; done"
    ));
    let to_dns = |line: &&str| line.contains(" dport=53 ");
    text.lines().filter(to_dns).map(str::to_owned).collect()
}

#[test]
fn five_thousand_lookups_leave_no_row_and_without_the_rules_thousands() {
    if !usable(&["conntrack"]) {
        return;
    }
    let site = Site::new();
    let node = &site.node;
    node.exec(
        "nft 'add table inet control; add chain inet control input { type filter hook input priority 0; }; \
         add rule inet control input ct state new counter'",
    );
    let (mut pod, mut host) = (Load::start(&site.pods), Load::start(node));
    let targets = [format!("{SERVICE}:53"), format!("[{SERVICE_V6}]:53")];
    // Two families from pod and node: 5,000 together.
    let (udp, tcp) = (1_150, 100);
    let mut lookups = || {
        for target in &targets {
            assert_eq!(pod.fresh(target, udp, tcp), [udp, tcp], "a pod to {target}");
            assert_eq!(host.fresh(target, udp, tcp), [udp, tcp], "the node to {target}");
        }
    };

    let nodens = site.start();
    lookups();
    let (by_udp, by_tcp) = (rows(node, "udp"), rows(node, "tcp"));
    let upstream = by_tcp.iter().filter(|row| row.contains(&format!(" dst={UPSTREAM} "))).count();
    println!(
        "5,000 lookups: {} rows by UDP, {} by TCP, {upstream} of these to the upstream",
        by_udp.len(),
        by_tcp.len()
    );
    assert_eq!(by_udp, [""; 0]);
    assert_eq!(by_tcp.len(), upstream, "{by_tcp:?}");
    assert!((1..=8).contains(&upstream), "{by_tcp:?}");
    let metrics = site.metrics();
    assert_eq!(metrics.count("nodens_conntrack_dns_rows", &[]), 0);
    let misses = metrics.count("nodens_cache_misses_total", &[]);
    assert!((2_000..3_500).contains(&misses), "half of them were misses, each of its own: {misses}");
    assert_eq!(nodens.stop(), Some(0));

    // The control: the same without NOTRACK.
    fs::write(
        site.directory.path().join("nodens.yaml"),
        fs::read_to_string(site.directory.path().join("nodens.yaml"))
            .unwrap()
            .replace("notrack: true", "notrack: false"),
    )
    .unwrap();
    let nodens = site.start();
    lookups();
    let (by_udp, by_tcp) = (rows(node, "udp").len(), rows(node, "tcp").len());
    println!("without NOTRACK: {by_udp} rows by UDP, {by_tcp} by TCP");
    // Of random ports some are taken twice.
    assert!(by_udp > 4 * udp * 9 / 10, "{by_udp}");
    assert!(by_tcp > 4 * tcp * 9 / 10, "{by_tcp}");
    assert_eq!(nodens.stop(), Some(0));
}

/// A command line under which the rest of it runs as nobody with these capabilities alone.
fn as_nobody_with(capabilities: &[&str]) -> Vec<String> {
    let sets = ["inh-caps", "ambient-caps", "bounding-set"].map(|set| match capabilities {
        [] => format!("--{set}=-all"),
        some => format!("--{set}=-all,+{}", some.join(",+")),
    });
    let user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"].map(str::to_owned);
    user.into_iter().chain(sets).collect()
}

#[test]
fn each_missing_capability_is_named_and_two_are_enough_on_a_read_only_root() {
    if !usable(&["setpriv", "unshare"]) {
        return;
    }
    let site = Site::new();
    let words =
        |line: &[String]| -> Vec<&'static str> { line.iter().map(|word| &*word.clone().leak()).collect() };
    let cases: [(&[&str], &[&str], &[&str]); 3] = [
        (&[], &["CAP_NET_ADMIN is missing", "CAP_NET_BIND_SERVICE is missing"], &[]),
        (&["net_bind_service"], &["CAP_NET_ADMIN is missing"], &["CAP_NET_BIND_SERVICE"]),
        (&["net_admin"], &["CAP_NET_BIND_SERVICE is missing"], &["CAP_NET_ADMIN"]),
    ];
    for (held, named, not_named) in cases {
        for arguments in [&["run"][..], &["check", "--node"]] {
            let output = site.command(&words(&as_nobody_with(held)), arguments).output().unwrap();
            let said = String::from_utf8_lossy(&output.stdout).into_owned()
                + &String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{arguments:?} with {held:?}: {said}");
            assert!(named.iter().all(|name| said.contains(name)), "{arguments:?} with {held:?}: {said}");
            assert!(!not_named.iter().any(|name| said.contains(name)), "{arguments:?} with {held:?}: {said}");
            assert!(!has_interface(&site.node), "nothing was begun");
        }
    }

    let read_only = ["unshare", "--mount", "sh", "-c", "mount -o remount,ro,bind / && exec \"$@\"", "sh"];
    let with_both = as_nobody_with(&["net_admin", "net_bind_service"]);
    let nodens = site.start_by(&[&read_only[..], &words(&with_both)].concat());
    let mounts = fs::read_to_string(format!("/proc/{}/mounts", nodens.pid())).unwrap();
    let root = mounts.lines().rfind(|line| line.split_whitespace().nth(1) == Some("/")).unwrap();
    assert!(root.split_whitespace().nth(3).unwrap().split(',').any(|option| option == "ro"), "{root}");
    // CAP_NET_BIND_SERVICE is bit 10, CAP_NET_ADMIN bit 12.
    let status = fs::read_to_string(format!("/proc/{}/status", nodens.pid())).unwrap();
    for line in ["Uid:\t65534", "CapPrm:\t0000000000001400", "CapInh:\t0000000000000000", "NoNewPrivs:\t1"] {
        assert!(status.contains(line), "{line} is not in {status}");
    }
    assert_eq!(Load::start(&site.pods).fresh(&format!("{SERVICE}:53"), 50, 10), [50, 10]);
    assert_eq!(rule_count(&site.node, "nodens"), ALL_RULES);
    assert_eq!(nodens.stop(), Some(0));
    assert!(!has_interface(&site.node));
    assert_eq!(tables(&site.node), [""; 0]);
}
