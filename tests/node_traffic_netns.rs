//! What the rules do to packets, in namespaces: connection tracking, kube-proxy's DNAT, a host firewall.
//!
//! Needs root and the tools named in each test; without them a test says SKIP, and fails with `CI=true`.

mod support {
    pub(crate) mod netns;
    pub(crate) mod node;
    pub(crate) mod node_actor;
}

use support::netns::{self, Netns, eventually};
use support::node::{LINK_LOCAL, REPAIRED, SERVICE, SERVICE_V6, node_config, pods_and_node};
use support::node_actor::{self, Actor};

/// Plays an instance, a client and so on when another test starts it; see `support::node_actor`.
#[test]
#[ignore = "started by the other tests as a process of its own"]
fn actor() {
    node_actor::play();
}

/// Switches connection tracking on in a namespace: the kernel tracks only where a rule asks for it.
fn track_connections(node: &Netns) {
    node.exec(
        "nft 'add table inet control; add chain inet control input { type filter hook input priority 0; }; \
         add rule inet control input ct state new counter'",
    );
}

/// The rows of connection tracking for UDP and TCP, queries and replies; there is no other traffic in these namespaces.
fn tracked_rows(node: &Netns) -> String {
    node.exec(
        "for family in ipv4 ipv6; do for protocol in udp tcp; do \
             conntrack -L --family $family --proto $protocol 2>/dev/null; \
         done; done",
    )
}

/// UDP lookups of each of the two clients at each of two addresses; a tenth of it comes by TCP on top.
const LOOKUPS: usize = 1_250;
const REPLIES: &str = "1250 by UDP, 125 by TCP";

#[test]
fn five_thousand_lookups_leave_no_row_and_without_the_rules_thousands() {
    if !netns::usable(&["nft", "conntrack"]) {
        return;
    }
    let (pods, node) = pods_and_node();
    track_connections(&node);
    let (mut instance, answer) = Actor::start(&node, "instance", &node_config());
    assert_eq!(answer, "ok");
    let (_echo, _) = Actor::start(&node, "echo", &node_config());
    let (mut pod, _) = Actor::start(&pods, "clients", &node_config());
    let (mut host, _) = Actor::start(&node, "clients", &node_config());
    let targets = [format!("{SERVICE}:53"), format!("[{SERVICE_V6}]:53")];
    let mut lookups = || {
        for target in &targets {
            for (name, client) in [("pod", &mut pod), ("host", &mut host)] {
                assert_eq!(client.ask(&format!("{target} {LOOKUPS}")), REPLIES, "{target} from {name}");
            }
        }
    };

    assert_eq!(instance.ask("attract"), "ok");
    lookups();
    assert_eq!(tracked_rows(&node), "");
    assert_eq!(instance.ask("release"), "ok");
    drop(instance);

    // The control: the same without NOTRACK.
    let mut config = node_config();
    config.node.notrack = false;
    let (_instance, answer) = Actor::start(&node, "instance", &config);
    assert_eq!(answer, "ok");
    lookups();
    let rows = tracked_rows(&node);
    let udp = rows.lines().filter(|row| row.starts_with("udp")).count();
    // Of random ports some are taken twice.
    assert!(udp > 3 * LOOKUPS, "{udp}");

    let (_, reading) = Actor::start(&node, "conntrack", &config);
    let expected = format!("dns: Some(DnsRows {{ count: {udp}, complete: true }})");
    assert!(reading.contains(&expected), "{reading}, expected {expected}");
    for field in ["insert_failed: Some(", "drop: Some(", "early_drop: Some(", "limit: Some("] {
        assert!(reading.contains(field), "{reading}");
    }
}

#[test]
fn untracked_packets_pass_a_dnat_rule_for_the_service_address() {
    if !netns::usable(&["nft"]) {
        return;
    }
    let (pods, node) = pods_and_node();
    node.exec(&format!(
        "sysctl -qw net.ipv4.ip_forward=1; nft 'add table ip kube-proxy; \
         add chain ip kube-proxy services {{ type nat hook prerouting priority dstnat; }}; \
         add rule ip kube-proxy services ip daddr {SERVICE} udp dport 53 dnat to 192.0.2.1; \
         add rule ip kube-proxy services ip daddr {SERVICE} tcp dport 53 dnat to 192.0.2.1'"
    ));
    let (mut instance, answer) = Actor::start(&node, "instance", &node_config());
    assert_eq!(answer, "ok");
    let (_echo, _) = Actor::start(&node, "echo", &node_config());
    let (mut pod, _) = Actor::start(&pods, "clients", &node_config());
    let target = format!("{SERVICE}:53");
    assert_eq!(
        pod.ask(&format!("{target} 1")),
        "0 by UDP, 0 by TCP",
        "before, kube-proxy's rule takes them away"
    );
    assert_eq!(instance.ask("attract"), "ok");
    assert_eq!(pod.ask(&format!("{target} 100")), "100 by UDP, 10 by TCP");
    instance.0.kill();
    assert_eq!(pod.ask(&format!("{target} 1")), "0 by UDP, 0 by TCP", "and again when nodens is dead");
}

#[test]
fn accept_rules_open_a_host_firewall_and_are_taken_back() {
    if !netns::usable(&["nft", "iptables-nft", "ip6tables-nft"]) {
        return;
    }
    let (pods, node) = pods_and_node();
    for iptables in ["iptables-nft", "ip6tables-nft"] {
        node.exec(&format!(
            "{iptables} -P INPUT DROP; {iptables} -P OUTPUT DROP; {iptables} -A INPUT -i lo -j ACCEPT"
        ));
    }
    // Neighbour discovery is ICMPv6 and falls to the same policy.
    node.exec("ip6tables-nft -A INPUT -p icmpv6 -j ACCEPT; ip6tables-nft -A OUTPUT -p icmpv6 -j ACCEPT");
    let before =
        node.exec("iptables-nft-save; ip6tables-nft-save").lines().filter(|l| l.starts_with('-')).count();

    let mut config = node_config();
    config.node.accept_rules = true;
    let (mut instance, answer) = Actor::start(&node, "instance", &config);
    assert_eq!(answer, "ok");
    let (_echo, _) = Actor::start(&node, "echo", &config);
    let (mut pod, _) = Actor::start(&pods, "clients", &config);
    assert_eq!(pod.ask(&format!("{LINK_LOCAL}:53 1")), "0 by UDP, 0 by TCP", "the policy drops");
    assert_eq!(instance.ask("attract"), "ok");
    assert_eq!(pod.ask(&format!("{LINK_LOCAL}:53 10")), "10 by UDP, 1 by TCP");
    assert_eq!(pod.ask(&format!("[{SERVICE_V6}]:53 10")), "10 by UDP, 1 by TCP");
    let rules = node.exec("iptables-nft -S");
    let shown = "-A INPUT -d 169.254.20.10/32 -p udp -m udp --dport 53 -m comment --comment nodens -j ACCEPT";
    assert!(rules.contains(shown), "iptables can read them: {rules}");

    let ours =
        |node: &Netns| node.exec("iptables-nft -S; ip6tables-nft -S").matches("--comment nodens ").count();
    let all = ours(&node);
    assert_eq!(
        all,
        (3 * 2 + 1) * 2,
        "DNS by two transports on three addresses and the health port, in two chains"
    );
    node.exec("iptables-nft -D INPUT 1");
    eventually("a removed accept rule", REPAIRED, || ours(&node) == all);

    assert_eq!(instance.ask("release"), "ok");
    let after =
        node.exec("iptables-nft-save; ip6tables-nft-save").lines().filter(|l| l.starts_with('-')).count();
    assert_eq!(after, before, "what was there before is there, and nothing else");

    let mut killed = Actor::attracting(&node, "instance", &config);
    killed.0.kill();
    assert_eq!(ours(&node), all, "they have no owner");
    let (_, answer) = Actor::start(&node, "cleanup", &config);
    assert!(answer.ends_with("left []"), "{answer}");
    assert_eq!(ours(&node), 0);
}
