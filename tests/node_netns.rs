//! The node's network in namespaces: the interface, the rules, their guards, hand-over, cleanup, capabilities.
//!
//! Each test makes the namespaces it needs and runs instances in them as processes of their own. Needs root and the tools
//! named in each test; without them a test says SKIP, and fails with `CI=true`.

mod support {
    pub(crate) mod netns;
    pub(crate) mod node_actor;
}

use std::fs;
use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use nodens::config::{Config, InterfaceKind};
use support::netns::{self, Netns, eventually, veth};
use support::node_actor::{self, Actor};

const LINK_LOCAL: &str = "169.254.20.10";
const SERVICE: &str = "10.96.0.10";
const SERVICE_V6: &str = "fd00:96::10";
/// The promise for every repair.
const REPAIRED: Duration = Duration::from_secs(1);
/// Generous for what is not promised to be fast.
const SOON: Duration = Duration::from_secs(10);

/// Plays an instance, a client and so on when another test starts it; see `support::node_actor`.
#[test]
#[ignore = "started by the other tests as a process of its own"]
fn actor() {
    node_actor::play();
}

fn node_config() -> Config {
    let mut config = Config::default();
    config.listen.addresses = [LINK_LOCAL, SERVICE, SERVICE_V6].map(|a| a.parse().unwrap()).to_vec();
    config.listen.port = 53;
    config.observe.health = Some(format!("{LINK_LOCAL}:8080").parse().unwrap());
    config.node.interface.manage = true;
    config.node.interface.kind = InterfaceKind::Bridge;
    config.node.notrack = true;
    config
}

fn addresses(node: &Netns) -> Vec<String> {
    let text = node.exec("ip -oneline address show dev nodens 2>/dev/null || true");
    let mut addresses: Vec<_> =
        text.lines().filter_map(|line| line.split_whitespace().nth(3)).map(str::to_owned).collect();
    addresses.retain(|address| !address.starts_with("fe80"));
    addresses.sort();
    addresses
}

fn all_addresses() -> Vec<String> {
    vec![format!("{SERVICE}/32"), format!("{LINK_LOCAL}/32"), format!("{SERVICE_V6}/128")]
}

fn interface_index(node: &Netns) -> String {
    node.exec("cat /sys/class/net/nodens/ifindex")
}

fn has_interface(node: &Netns) -> bool {
    node.try_exec("ip link show nodens").status.success()
}

fn tables(node: &Netns) -> Vec<String> {
    let text = node.exec("nft list tables inet");
    text.lines().filter_map(|line| line.strip_prefix("table inet ")).map(str::to_owned).collect()
}

fn rule_count(node: &Netns, table: &str) -> usize {
    let output = node.try_exec(&format!("nft list table inet {table}"));
    String::from_utf8_lossy(&output.stdout).matches(" notrack ").count()
}

/// Three DNS addresses by two transports and the health port, each in both directions, in two chains.
const ALL_RULES: usize = (3 * 2 + 1) * 2 * 2;

#[test]
fn the_interface_is_made_with_every_address_and_goes_with_the_last_instance() {
    if !netns::usable(&["nft"]) {
        return;
    }
    let node = Netns::new("node");
    let (mut instance, answer) = Actor::start(&node, "instance", &node_config());
    assert_eq!(answer, "ok");
    assert_eq!(addresses(&node), all_addresses());
    let link = node.exec("ip link show nodens");
    assert!(link.contains("alias nodens") && link.contains("UP"), "{link}");
    assert!(!node.exec("ip address show nodens").contains("tentative"));
    assert_eq!(tables(&node), [""; 0], "no traffic is attracted before `attract`");
    assert_eq!(instance.ask("release"), "ok");
    assert!(!has_interface(&node));
}

#[test]
fn a_dummy_falls_back_to_a_bridge_only_where_the_kernel_has_none() {
    if !netns::usable(&[]) {
        return;
    }
    let node = Netns::new("node");
    let kernel_has_dummy =
        node.try_exec("ip link add probe type dummy && ip link del probe").status.success();
    let mut config = node_config();
    config.node.interface.kind = InterfaceKind::Dummy;
    let (_instance, answer) = Actor::start(&node, "instance", &config);
    assert_eq!(answer, "ok");
    let link = node.exec("ip -details link show nodens");
    assert!(link.contains(if kernel_has_dummy { "dummy" } else { "bridge" }), "{link}");
    assert_eq!(addresses(&node), all_addresses());
}

#[test]
fn a_killed_instances_interface_is_adopted_and_its_stale_addresses_go() {
    if !netns::usable(&[]) {
        return;
    }
    let node = Netns::new("node");
    let (mut first, answer) = Actor::start(&node, "instance", &node_config());
    assert_eq!(answer, "ok");
    let index = interface_index(&node);
    first.0.kill();
    assert_eq!(addresses(&node), all_addresses(), "a killed process leaves the interface");

    let mut config = node_config();
    config.listen.addresses = vec![LINK_LOCAL.parse().unwrap()];
    let (_second, answer) = Actor::start(&node, "instance", &config);
    assert_eq!(answer, "ok");
    assert_eq!(interface_index(&node), index, "adopted, not made anew");
    assert_eq!(addresses(&node), [format!("{LINK_LOCAL}/32")]);
}

#[test]
fn an_interface_that_is_not_ours_is_refused_and_left_alone() {
    if !netns::usable(&[]) {
        return;
    }
    let node = Netns::new("node");
    node.exec("ip link add nodens type bridge && ip address add 192.0.2.1/32 dev nodens");
    let (_instance, answer) = Actor::start(&node, "instance", &node_config());
    assert!(answer.contains("interface nodens exists and was not made by nodens"), "{answer}");
    let (_preflight, answer) = Actor::start(&node, "preflight", &node_config());
    assert!(answer.starts_with("Problem: interface nodens exists and was not made by nodens"), "{answer}");
    let (_cleanup, answer) = Actor::start(&node, "cleanup", &node_config());
    assert!(answer.starts_with("removed [] left [\"interface nodens exists"), "{answer}");
    assert_eq!(addresses(&node), ["192.0.2.1/32"]);
}

#[test]
fn ipv6_switched_off_is_named() {
    if !netns::usable(&["sysctl"]) {
        return;
    }
    let node = Netns::new("node");
    node.exec("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1");
    for (role, prefix) in [("preflight", "Problem: "), ("instance", "")] {
        let (_, answer) = Actor::start(&node, role, &node_config());
        let expected = format!("{prefix}cannot add {SERVICE_V6}: IPv6 is switched off on this node");
        assert!(answer.starts_with(&expected), "{role}: {answer}");
    }
}

#[test]
fn an_interface_whose_maker_died_before_it_could_set_the_alias_is_known_by_its_hardware_address() {
    if !netns::usable(&[]) {
        return;
    }
    let node = Netns::new("node");
    node.exec("ip link add nodens address 6e:6f:64:65:6e:73 type bridge");
    let (_instance, answer) = Actor::start(&node, "instance", &node_config());
    assert_eq!(answer, "ok");
    assert!(node.exec("ip link show nodens").contains("alias nodens"));
}

#[test]
fn what_is_removed_from_the_interface_is_back_within_a_second() {
    if !netns::usable(&[]) {
        return;
    }
    let node = Netns::new("node");
    let (mut instance, answer) = Actor::start(&node, "instance", &node_config());
    assert_eq!(answer, "ok");
    let changes = [
        "ip link del nodens",
        "ip address del 169.254.20.10/32 dev nodens",
        "ip -6 address del fd00:96::10/128 dev nodens",
        "ip address flush dev nodens",
        "ip link set nodens down",
        "ip link del nodens",
    ];
    for change in changes {
        node.exec(change);
        let took = eventually(change, REPAIRED, || {
            let link = node.try_exec("ip link show nodens up").stdout;
            addresses(&node) == all_addresses() && String::from_utf8_lossy(&link).contains("alias nodens")
        });
        eprintln!("repaired after {took:?}: {change}");
    }
    let counters = instance.ask("counters");
    assert!(counters.ends_with("failures=0"), "{counters}");
    let repairs: usize = counters.split(['=', ' ']).nth(1).unwrap().parse().unwrap();
    assert!(repairs >= changes.len(), "{counters}");
}

#[test]
fn an_update_exchanges_addresses_and_rules() {
    if !netns::usable(&["nft"]) {
        return;
    }
    let node = Netns::new("node");
    let mut instance = Actor::attracting(&node, "instance", &node_config());
    let mut config = node_config();
    config.listen.addresses = ["169.254.20.11", SERVICE_V6].map(|a| a.parse::<IpAddr>().unwrap()).to_vec();
    config.listen.port = 5300;
    assert_eq!(instance.ask(&serde_json::to_string(&config).unwrap()), "ok");
    assert_eq!(addresses(&node), ["169.254.20.11/32".to_owned(), format!("{SERVICE_V6}/128")]);
    let rules = node.exec("nft list table inet nodens");
    assert!(rules.contains("ip daddr 169.254.20.11 udp dport 5300 notrack"), "{rules}");
    assert!(rules.contains("ip6 saddr fd00:96::10 tcp sport 5300 notrack"), "{rules}");
    assert!(!rules.contains(LINK_LOCAL), "{rules}");
}

#[test]
fn the_rules_are_one_owned_table_that_dies_with_the_process() {
    if !netns::usable(&["nft"]) {
        return;
    }
    let node = Netns::new("node");
    let mut first = Actor::attracting(&node, "instance", &node_config());
    let rules = node.exec("nft list ruleset");
    assert_eq!(rules.matches("table ").count(), 1, "{rules}");
    assert!(rules.contains("table inet nodens") && rules.contains("flags owner"), "{rules}");
    for hook in ["prerouting", "output"] {
        assert!(rules.contains(&format!("type filter hook {hook} priority raw; policy accept;")), "{rules}");
    }
    for rule in [
        "ip daddr 169.254.20.10 udp dport 53 notrack",
        "ip saddr 169.254.20.10 tcp sport 53 notrack",
        "ip6 daddr fd00:96::10 tcp dport 53 notrack",
        "ip daddr 169.254.20.10 tcp dport 8080 notrack",
        "ip saddr 169.254.20.10 tcp sport 8080 notrack",
    ] {
        assert_eq!(rules.matches(rule).count(), 2, "once in each chain: {rule} in {rules}");
    }
    assert_eq!(rule_count(&node, "nodens"), ALL_RULES);

    node.exec("nft flush ruleset");
    assert_eq!(rule_count(&node, "nodens"), ALL_RULES, "others cannot flush an owned table");

    first.0.kill();
    assert_eq!(tables(&node), [""; 0], "gone at once");
    let _second = Actor::attracting(&node, "instance", &node_config());
    assert_eq!(rule_count(&node, "nodens"), ALL_RULES, "and a new start works");
}

#[test]
fn plain_rules_are_back_within_a_second_whatever_is_done_to_them() {
    if !netns::usable(&["nft"]) {
        return;
    }
    let node = Netns::new("node");
    let mut instance = Actor::attracting(&node, "instance-plain", &node_config());
    assert!(!node.exec("nft list ruleset").contains("flags owner"));
    let changes = [
        "nft flush ruleset",
        "nft delete table inet nodens",
        "nft flush chain inet nodens prerouting",
        "nft 'flush chain inet nodens output; delete chain inet nodens output'",
        "nft delete rule inet nodens output handle \
         $(nft -a list chain inet nodens output | sed -n '/notrack/{s/.*handle //;p;q}')",
        "nft add rule inet nodens output ip daddr 192.0.2.1 drop",
        "nft 'add table inet nodens { flags dormant; }'",
    ];
    for change in changes {
        node.exec(change);
        let took = eventually(change, REPAIRED, || {
            let rules = node.exec("nft list ruleset");
            rule_count(&node, "nodens") == ALL_RULES && !rules.contains("drop") && !rules.contains("dormant")
        });
        eprintln!("repaired after {took:?}: {change}");
    }
    let counters = instance.ask("counters");
    assert!(counters.contains(&format!("rules={} failures=0", changes.len())), "{counters}");
}

#[test]
fn plain_rules_of_a_killed_instance_are_swept_by_the_next() {
    if !netns::usable(&["nft"]) {
        return;
    }
    let node = Netns::new("node");
    let mut first = Actor::attracting(&node, "instance-plain", &node_config());
    let mut second = Actor::attracting(&node, "instance-plain", &node_config());
    assert_eq!(tables(&node), ["nodens", "nodens-2"]);
    first.0.kill();
    second.0.kill();
    assert_eq!(tables(&node), ["nodens", "nodens-2"], "no owner, so they stay");
    let mut third = Actor::attracting(&node, "instance", &node_config());
    assert_eq!(tables(&node), ["nodens"]);
    assert!(node.exec("nft list table inet nodens").contains("flags owner"));
    assert_eq!(third.ask("release"), "ok");
    assert_eq!(tables(&node), [""; 0]);
}

#[test]
fn ten_hand_overs_leave_the_interface_alone_and_are_never_without_rules() {
    if !netns::usable(&["nft"]) {
        return;
    }
    let node = Netns::new("node");
    let mut current = Actor::attracting(&node, "instance", &node_config());
    let index = interface_index(&node);
    // The kernel's own record of what happened: a table must appear before the other one goes.
    let monitor = node.spawn(Command::new("nft").args(["monitor", "tables"]));
    eventually("`nft monitor` listens", SOON, || {
        node.exec("nft 'add table ip probe; delete table ip probe'");
        monitor.read_line_within("delete table ip probe", Duration::from_millis(50)).is_some()
    });
    for _ in 0..10 {
        let next = Actor::attracting(&node, "instance", &node_config());
        assert_eq!(current.ask("release"), "ok");
        assert!(current.0.finish().success());
        current = next;
    }
    node.exec("nft add table inet end-of-test");
    let (mut living, mut seen) = (1_i32, 0);
    loop {
        let line = monitor.read_line("");
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["add", "table", "inet", "end-of-test", ..] => break,
            ["create", "table", "inet", ..] => living += 1,
            ["delete", "table", "inet", ..] => living -= 1,
            _ => continue,
        }
        seen += 1;
        assert!(living >= 1, "a moment without rules: {line}");
    }
    assert_eq!(seen, 20, "each hand-over makes one table and removes one");
    assert_eq!(interface_index(&node), index);
    assert_eq!(addresses(&node), all_addresses());
    assert_eq!(current.ask("release"), "ok");
    assert!(!has_interface(&node));
}

#[test]
fn an_address_only_the_old_instance_had_is_removed_when_the_new_one_is_alone() {
    if !netns::usable(&[]) {
        return;
    }
    let node = Netns::new("node");
    let (mut old, answer) = Actor::start(&node, "instance", &node_config());
    assert_eq!(answer, "ok");
    let mut config = node_config();
    config.listen.addresses = vec![LINK_LOCAL.parse().unwrap()];
    let (_new, answer) = Actor::start(&node, "instance", &config);
    assert_eq!(answer, "ok");
    assert_eq!(addresses(&node), all_addresses(), "the old one still serves them");
    assert_eq!(old.ask("release"), "ok");
    eventually("only the new one's address", SOON + SOON, || {
        addresses(&node) == [format!("{LINK_LOCAL}/32")]
    });
}

#[test]
fn kept_rules_and_interface_outlive_the_last_instance_and_are_taken_over() {
    if !netns::usable(&["nft"]) {
        return;
    }
    let node = Netns::new("node");
    let mut config = node_config();
    config.node.keep = true;
    let mut first = Actor::attracting(&node, "instance", &config);
    assert_eq!(first.ask("release"), "ok");
    assert!(first.0.finish().success());
    assert_eq!(rule_count(&node, "nodens"), ALL_RULES);
    assert_eq!(addresses(&node), all_addresses());

    let mut second = Actor::attracting(&node, "instance", &node_config());
    assert!(node.exec("nft list table inet nodens").contains("flags owner"));
    assert_eq!(second.ask("release"), "ok");
    assert_eq!(tables(&node), [""; 0]);
    assert!(!has_interface(&node));
}

#[test]
fn cleanup_removes_everything_twice_without_error_and_never_while_an_instance_lives() {
    if !netns::usable(&["nft"]) {
        return;
    }
    let node = Netns::new("node");
    node.exec("nft add table inet other");
    let mut instance = Actor::attracting(&node, "instance", &node_config());
    let (_, answer) = Actor::start(&node, "cleanup", &node_config());
    assert!(answer.starts_with("1 instance(s) of nodens still live"), "{answer}");
    assert_eq!(addresses(&node), all_addresses());
    let (_, answer) = Actor::start(&node, "cleanup-force", &node_config());
    assert!(answer.contains("removed [\"interface nodens\"]"), "{answer}");
    assert!(
        answer.contains("nftables table inet nodens: it belongs to an instance that still lives"),
        "{answer}"
    );
    instance.0.kill();

    let mut plain = Actor::attracting(&node, "instance-plain", &node_config());
    plain.0.kill();
    let (_, answer) = Actor::start(&node, "cleanup", &node_config());
    assert_eq!(answer, "removed [\"nftables table inet nodens\", \"interface nodens\"] left []");
    assert!(!has_interface(&node));
    assert_eq!(tables(&node), ["other"], "what is not ours stays");
    let (_, answer) = Actor::start(&node, "cleanup", &node_config());
    assert_eq!(answer, "removed [] left []");
}

/// Switches connection tracking on in a namespace: the kernel tracks only where a rule asks for it.
fn track_connections(node: &Netns) {
    node.exec(
        "nft 'add table inet control; add chain inet control input { type filter hook input priority 0; }; \
         add rule inet control input ct state new counter'",
    );
}

/// The rows of connection tracking that are about port 53.
fn tracked_rows(node: &Netns) -> String {
    node.exec(
        "for family in ipv4 ipv6; do for protocol in udp tcp; do \
             conntrack -L --family $family --proto $protocol --orig-port-dst 53 2>/dev/null; \
         done; done",
    )
}

fn pods_and_node() -> (Netns, Netns) {
    let (pods, node) = (Netns::new("pods"), Netns::new("node"));
    veth(&pods, &["10.1.0.2/24", "fd00:1::2/64"], &node, &["10.1.0.1/24", "fd00:1::1/64"]);
    pods.exec("ip route add default via 10.1.0.1 && ip -6 route add default via fd00:1::1");
    (pods, node)
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
    assert_eq!(all, ALL_RULES / 2, "half of the chains' both directions");
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

/// A command line under which the rest of it runs as nobody with these capabilities alone.
fn as_nobody_with(capabilities: &'static [&'static str]) -> Vec<&'static str> {
    let list = |prefix: &str| match capabilities {
        [] => format!("--{prefix}=-all"),
        some => format!("--{prefix}=-all,+{}", some.join(",+")),
    };
    let mut line = vec!["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    line.extend([list("inh-caps"), list("ambient-caps"), list("bounding-set")].map(|word| &*word.leak()));
    line
}

#[test]
fn each_missing_capability_is_named() {
    if !netns::usable(&["setpriv"]) {
        return;
    }
    let node = Netns::new("node");
    let cases: [(&[&str], &[&str], &[&str]); 4] = [
        (&[], &["CAP_NET_ADMIN is missing", "CAP_NET_BIND_SERVICE is missing"], &[]),
        (&["net_bind_service"], &["CAP_NET_ADMIN is missing"], &["CAP_NET_BIND_SERVICE is missing"]),
        (&["net_admin"], &["CAP_NET_BIND_SERVICE is missing"], &["CAP_NET_ADMIN is missing"]),
        (&["net_admin", "net_bind_service"], &[], &["is missing"]),
    ];
    for (held, named, not_named) in cases {
        for role in ["privileges", "preflight"] {
            let (_, answer) = Actor::start_by(&node, &as_nobody_with(held), role, &node_config());
            assert!(named.iter().all(|name| answer.contains(name)), "{role} with {held:?}: {answer}");
            assert!(!not_named.iter().any(|name| answer.contains(name)), "{role} with {held:?}: {answer}");
        }
    }
    let (_, answer) =
        Actor::start_by(&node, &as_nobody_with(&["net_bind_service"]), "instance", &node_config());
    assert!(answer.starts_with("cannot create interface nodens: CAP_NET_ADMIN is missing"), "{answer}");
    let mut config = node_config();
    config.node.interface.manage = false;
    let (mut rules, answer) = Actor::start_by(&node, &as_nobody_with(&[]), "instance", &config);
    let answer = if answer == "ok" { rules.ask("attract") } else { answer };
    assert!(answer.contains("CAP_NET_ADMIN is missing"), "{answer}");
}

#[test]
fn root_keeps_two_capabilities_and_nobody_works_with_them_on_a_read_only_root() {
    if !netns::usable(&["setpriv", "unshare", "nft"]) {
        return;
    }
    let node = Netns::new("node");
    // CAP_NET_BIND_SERVICE is bit 10, CAP_NET_ADMIN bit 12.
    let kept = "CapInh: 0000000000000000 CapPrm: 0000000000001400 CapEff: 0000000000001400 CapBnd: 0000000000001400 \
                CapAmb: 0000000000000000";
    let (_, answer) = Actor::start(&node, "privileges", &node_config());
    assert_eq!(answer.replace('\t', " "), format!("ok {kept}"));

    let read_only = ["unshare", "--mount", "sh", "-c", "mount -o remount,ro,bind / && exec \"$@\"", "sh"];
    let wrapper = [&read_only[..], &as_nobody_with(&["net_admin", "net_bind_service"])].concat();
    let (mut instance, answer) = Actor::start_by(&node, &wrapper, "instance", &node_config());
    assert_eq!(answer, "ok");
    let mounts = fs::read_to_string(format!("/proc/{}/mounts", instance.0.pid())).unwrap();
    let root = mounts.lines().rfind(|line| line.split_whitespace().nth(1) == Some("/")).unwrap();
    assert!(root.split_whitespace().nth(3).unwrap().split(',').any(|option| option == "ro"), "{root}");
    assert_eq!(instance.ask("attract"), "ok");
    assert_eq!(rule_count(&node, "nodens"), ALL_RULES);
    assert_eq!(addresses(&node), all_addresses());
    assert_eq!(instance.ask("release"), "ok");
    assert!(!has_interface(&node));
    assert_eq!(tables(&node), [""; 0]);
}

#[test]
fn the_preflight_is_silent_where_all_is_well_and_changes_nothing() {
    if !netns::usable(&["nft"]) {
        return;
    }
    let node = Netns::new("node");
    let (_, answer) = Actor::start(&node, "preflight", &node_config());
    assert_eq!(answer, "");
    assert!(!has_interface(&node));
    assert_eq!(tables(&node), [""; 0]);

    node.exec(&format!("ip address add {LINK_LOCAL}/32 dev lo"));
    let mut config = node_config();
    config.listen.addresses = vec![LINK_LOCAL.parse().unwrap()];
    let (echo, _) = Actor::start(&node, "echo", &config);
    let (_, answer) = Actor::start(&node, "preflight", &config);
    for transport in ["UDP", "TCP"] {
        let expected = format!("Problem: {transport} {LINK_LOCAL}:53 (listen) is taken by ");
        assert!(answer.contains(&expected), "{answer}");
    }
    assert!(answer.contains(&format!("(pid {})", echo.0.pid())), "{answer}");
}
