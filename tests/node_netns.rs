//! The node's network in namespaces: the interface, the rules, their guards, hand-over and cleanup.
//!
//! Each test makes the namespaces it needs and runs instances in them as processes of their own. Needs root and the tools
//! named in each test; without them a test says SKIP, and fails with `CI=true`.

mod support {
    pub(crate) mod netns;
    pub(crate) mod node;
    pub(crate) mod node_actor;
}

use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use nodens::config::InterfaceKind;
use support::netns::{self, Netns, eventually};
use support::node::{
    ALL_RULES, LINK_LOCAL, REPAIRED, SERVICE, SERVICE_V6, SOON, addresses, all_addresses, has_interface,
    interface_index, node_config, rule_count, tables,
};
use support::node_actor::{self, Actor};

/// Plays an instance, a client and so on when another test starts it; see `support::node_actor`.
#[test]
#[ignore = "started by the other tests as a process of its own"]
fn actor() {
    node_actor::play();
}

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
    assert!(rules.contains("ip daddr 169.254.20.11 jump queries"), "{rules}");
    assert!(rules.contains("udp dport 5300 notrack") && rules.contains("tcp sport 5300 notrack"), "{rules}");
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
    for (address, services) in [(LINK_LOCAL, "-2"), (SERVICE, "")] {
        for (end, direction) in [("daddr", "queries"), ("saddr", "replies")] {
            let rule = format!("ip {end} {address} jump {direction}{services} ");
            assert_eq!(rules.matches(&rule).count(), 2, "once in each base chain: {rule} in {rules}");
        }
    }
    assert_eq!(rules.matches(&format!("ip6 saddr {SERVICE_V6} jump replies ")).count(), 2, "{rules}");
    for (port, count) in
        [("udp dport 53", 2), ("tcp sport 53", 2), ("tcp dport 8080", 1), ("tcp sport 8080", 1)]
    {
        assert_eq!(rules.matches(&format!("{port} notrack ")).count(), count, "{port} in {rules}");
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
        "nft flush chain inet nodens replies",
        "nft 'flush chain inet nodens output; delete chain inet nodens output'",
        "nft delete rule inet nodens output handle \
         $(nft -a list chain inet nodens output | sed -n '/jump/{s/.*handle //;p;q}')",
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
