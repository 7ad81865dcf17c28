//! Capabilities and the preflight, in namespaces: what is missing is named, what is not needed is dropped.
//!
//! Needs root and the tools named in each test; without them a test says SKIP, and fails with `CI=true`.

mod support {
    pub(crate) mod netns;
    pub(crate) mod node;
    pub(crate) mod node_actor;
}

use std::fs;

use support::netns::{self, Netns};
use support::node::{
    ALL_RULES, LINK_LOCAL, SERVICE_V6, addresses, all_addresses, has_interface, node_config, rule_count,
    tables,
};
use support::node_actor::{self, Actor};

/// Plays an instance, a client and so on when another test starts it; see `support::node_actor`.
#[test]
#[ignore = "started by the other tests as a process of its own"]
fn actor() {
    node_actor::play();
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
                CapAmb: 0000000000000000 NoNewPrivs: 1";
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
