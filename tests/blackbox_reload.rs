//! Another configuration without another process: what changes, what stays, and what a bad one does.

mod support {
    pub mod client;
    pub mod dnsperf;
    pub mod loopback;
    pub mod need;
    pub mod nodens;
    pub mod upstream;
    pub mod wait;
}

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use hickory_proto::op::ResponseCode;

use support::client::{A, Query, Reply, Tcp, tcp, udp, udp_within};
use support::dnsperf::{self, Load, Queries};
use support::loopback;
use support::need;
use support::nodens::{Nodens, Places, zone_dot};
use support::upstream::{Order, Upstream, address_of};
use support::wait::{eventually, seconds};

fn query(name: &str) -> Query {
    Query::new(name, A)
}

fn check(reply: &Reply, name: &str) {
    assert_eq!(reply.addresses(), [address_of(name).octets()], "{name}: {:?}", reply.rcode());
}

/// A way to put another configuration where the old one is.
type Write<'a> = &'a dyn Fn(&str);

/// A mounted ConfigMap: kubelet writes a directory named by time, and swaps the symlink `..data` to it (rename(2)); the
/// file itself is a symlink into `..data`.
struct ConfigMap {
    directory: tempfile::TempDir,
    number: u32,
}

impl ConfigMap {
    fn new(yaml: &str) -> Self {
        let mut map = Self { directory: tempfile::tempdir().unwrap(), number: 0 };
        map.swap(yaml);
        symlink("..data/nodens.yaml", map.path()).unwrap();
        map
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("nodens.yaml")
    }

    fn swap(&mut self, yaml: &str) {
        let root = self.directory.path();
        let old = fs::read_link(root.join("..data")).ok();
        self.number += 1;
        let name = format!("..2026_01_01.{}", self.number);
        fs::create_dir(root.join(&name)).unwrap();
        fs::write(root.join(&name).join("nodens.yaml"), yaml).unwrap();
        symlink(&name, root.join("..data_tmp")).unwrap();
        fs::rename(root.join("..data_tmp"), root.join("..data")).unwrap();
        if let Some(old) = old {
            fs::remove_dir_all(root.join(old)).unwrap();
        }
    }
}

fn hash(nodens: &Nodens) -> String {
    let metrics = nodens.metrics();
    let info = metrics.non_zero("nodens_config_info");
    assert_eq!(info.len(), 1, "{info:?}");
    info[0].0.to_owned()
}

/// Waits until the configuration that is served is another one than `before`.
fn until_another(nodens: &Nodens, before: &str) {
    eventually("another configuration is served", seconds(20), || hash(nodens) != before);
}

#[test]
fn a_configmap_is_followed_and_a_bad_one_is_told_and_changes_nothing() {
    let (one, two) = (Upstream::start(Order::Concurrent), Upstream::start(Order::Concurrent));
    let mut map = ConfigMap::new(&zone_dot(one.address(), "tcp"));
    let nodens = Nodens::start_from(&map.path(), Places::free());
    check(&udp(nodens.address(), &query("a.example")), "a.example");
    let first = hash(&nodens);

    map.swap(&zone_dot(two.address(), "tcp"));
    until_another(&nodens, &first);
    check(&udp(nodens.address(), &query("b.example")), "b.example");
    assert_eq!((one.asked("b.example"), two.asked("b.example")), (0, 1), "the other upstream is asked");
    let second = hash(&nodens);

    map.swap("listen: {prot: 53}\n");
    eventually("it is refused", seconds(20), || {
        nodens.count("nodens_config_reload_failures_total", &[]) == 1
    });
    let metrics = nodens.metrics();
    assert_eq!(metrics.count("nodens_config_last_reload_successful", &[]), 0);
    assert_eq!(hash(&nodens), second, "what is served is the last good one");
    let (status, body) = nodens.get("/ready").unwrap();
    assert!(status == 200 && body.contains("last reload failed") && body.contains("prot"), "{status} {body}");
    assert!(nodens.said().contains("prot"), "{}", nodens.said());
    check(&udp(nodens.address(), &query("c.example")), "c.example");

    map.swap(&zone_dot(one.address(), "tcp"));
    until_another(&nodens, &second);
    let metrics = nodens.metrics();
    assert_eq!(metrics.count("nodens_config_last_reload_successful", &[]), 1);
    assert_eq!(nodens.get("/ready").unwrap(), (200, "OK\n".to_owned()));
    assert_eq!(nodens.stop(), Some(0));
}

#[test]
fn a_file_that_is_written_or_renamed_is_followed_and_sighup_reads_it_too() {
    let (one, two) = (Upstream::start(Order::Concurrent), Upstream::start(Order::Concurrent));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("nodens.yaml");
    fs::write(&file, zone_dot(one.address(), "tcp")).unwrap();
    let nodens = Nodens::start_from(&file, Places::free());
    let ways: [(&str, Write<'_>); 3] = [
        ("written", &|yaml| fs::write(&file, yaml).unwrap()),
        ("renamed", &|yaml| {
            fs::write(file.with_extension("new"), yaml).unwrap();
            fs::rename(file.with_extension("new"), &file).unwrap();
        }),
        ("SIGHUP", &|yaml| {
            fs::write(&file, yaml).unwrap();
            nodens.signal("HUP");
        }),
    ];
    for (number, (way, write)) in ways.iter().enumerate() {
        let before = hash(&nodens);
        let to = [&two, &one][number % 2];
        write(&zone_dot(to.address(), "tcp"));
        eventually(way, seconds(20), || hash(&nodens) != before);
        let name = format!("n{number}.example");
        check(&udp(nodens.address(), &query(&name)), &name);
        assert_eq!(to.asked(&name), 1, "{way}");
    }
}

#[test]
fn a_warm_entry_that_is_still_valid_survives_and_one_of_a_changed_zone_does_not() {
    let (one, two) = (Upstream::start(Order::Concurrent), Upstream::start(Order::Concurrent));
    let mut map = ConfigMap::new(&zone_dot(one.address(), "tcp"));
    let nodens = Nodens::start_from(&map.path(), Places::free());
    for name in ["stays.example", "a.moved.example"] {
        check(&udp(nodens.address(), &query(name)), name);
    }
    let first = hash(&nodens);
    // Only below moved.example is another upstream asked from now on.
    map.swap(&format!(
        "zones: [{{name: '.', forward: {{to: ['{}'], transport: tcp, hedge: 0%}}}}, {{name: moved.example, forward: {{to: ['{}']}}}}]\n",
        one.address(),
        two.address()
    ));
    until_another(&nodens, &first);
    for name in ["stays.example", "a.moved.example"] {
        check(&udp(nodens.address(), &query(name)), name);
        check(&tcp(nodens.address(), &query(name)), name);
    }
    assert_eq!(one.asked("stays.example"), 1, "the entry survived");
    assert_eq!(two.asked("a.moved.example"), 1, "what another upstream said does not stand for this one");
}

#[test]
fn listen_addresses_ttls_hosts_and_log_follow() {
    let upstream = Upstream::start(Order::Concurrent);
    let (dns, other) = (loopback::free(), loopback::free());
    let observe = Places::free();
    let yaml = |addresses: &str, port: u16, rest: &str| {
        format!(
            "listen: {{addresses: [{addresses}], port: {port}, workers: 1}}\n{}{rest}",
            zone_dot(upstream.address(), "tcp")
        )
    };
    let mut map = ConfigMap::new(&yaml(&dns.ip().to_string(), dns.port(), ""));
    let mut command = std::process::Command::new(support::nodens::binary());
    command.args(["run", "--config"]).arg(map.path());
    // Not in the environment, which a reload cannot change.
    command.env("NODENS__OBSERVE__METRICS", observe.metrics.to_string());
    command.env("NODENS__OBSERVE__HEALTH", observe.health.to_string());
    let mut nodens = Nodens::spawn(command, Places { dns, ..observe }, tempfile::tempdir().unwrap());
    nodens.until("ready", |nodens| nodens.get("/ready").is_some_and(|(status, _)| status == 200));
    check(&udp(dns, &query("a.example")), "a.example");
    let mut open = Tcp::connect(dns);
    open.send(&query("a.example").bytes());
    check(&open.receive(), "a.example");

    let first = hash(&nodens);
    let both = format!("{}, {}", dns.ip(), other.ip());
    map.swap(&yaml(
        &both,
        dns.port(),
        "cache: {max_ttl: 7s}\nhosts: {new.internal: ['10.0.0.9']}\nlog: {queries: true}\n",
    ));
    until_another(&nodens, &first);
    let other = (other.ip(), dns.port()).into();
    for address in [dns, other] {
        let reply = udp(address, &query("a.example"));
        check(&reply, "a.example");
        assert!(
            reply.ttl() <= 7,
            "an entry kept under the old bound is not served above the new one: {}",
            reply.ttl()
        );
        check(&tcp(address, &query("b.example")), "b.example");
        assert_eq!(udp(address, &query("new.internal")).addresses(), [[10, 0, 0, 9]]);
    }
    nodens.until_said("b.example");

    let second = hash(&nodens);
    map.swap(&yaml(&other.ip().to_string(), dns.port(), ""));
    until_another(&nodens, &second);
    check(&udp(other, &query("a.example")), "a.example");
    assert_eq!(udp_within(dns, &query("a.example").bytes(), std::time::Duration::from_millis(200)), None);
    assert_eq!(
        udp(other, &query("new.internal")).rcode(),
        ResponseCode::NoError,
        "hosts are gone: the upstream answers"
    );
    assert_eq!(nodens.stop(), Some(0));
}

#[test]
fn a_configuration_that_cannot_be_bound_is_refused_whole() {
    let upstream = Upstream::start(Order::Concurrent);
    let held = std::net::UdpSocket::bind((loopback::address(), 0)).unwrap();
    let dns = loopback::free();
    let places = Places { dns, ..Places::free() };
    let yaml = |port: u16, ip: std::net::IpAddr| {
        format!("listen: {{addresses: ['{ip}'], port: {port}}}\n{}", zone_dot(upstream.address(), "tcp"))
    };
    let mut map = ConfigMap::new(&yaml(dns.port(), dns.ip()));
    let mut command = std::process::Command::new(support::nodens::binary());
    command.args(["run", "--config"]).arg(map.path());
    command.env("NODENS__OBSERVE__METRICS", places.metrics.to_string());
    command.env("NODENS__OBSERVE__HEALTH", places.health.to_string());
    let mut nodens = Nodens::spawn(command, places, tempfile::tempdir().unwrap());
    nodens.until("ready", |nodens| nodens.get("/ready").is_some_and(|(status, _)| status == 200));
    let taken = held.local_addr().unwrap();
    map.swap(&yaml(taken.port(), taken.ip()));
    eventually("it is refused", seconds(20), || {
        nodens.count("nodens_config_reload_failures_total", &[]) == 1
    });
    assert!(nodens.get("/ready").unwrap().1.contains(&taken.to_string()));
    check(&udp(dns, &query("a.example")), "a.example");
}

#[test]
fn fifty_reloads_under_load_ten_of_them_bad_lose_nothing() {
    if !need::programs(&["dnsperf"]) {
        return;
    }
    let (one, two) = (Upstream::start(Order::Concurrent), Upstream::start(Order::Concurrent));
    let good = |number: u32| {
        let to = [&one, &two][number as usize % 2].address();
        // Listeners, zones, TTLs, budgets and hosts change; every fifth changes the sockets themselves.
        format!(
            "listen: {{workers: {}}}\ncache: {{max_ttl: {}s, size: {}MiB, negative_max_ttl: 20s}}\n\
             hosts: {{h{number}.internal: ['10.0.0.1']}}\n{}",
            1 + number / 5 % 2,
            20 + number,
            8 + number,
            zone_dot(to, "tcp")
        )
    };
    let bad = [
        "zones: [",
        "listen: {workers: 0}\n",
        "cache: {min_ttl: 9h}\n",
        "nonsense: 1\n",
        "zones: [{name: a}]\n",
    ];
    let mut map = ConfigMap::new(&good(0));
    let nodens = Nodens::start_from(&map.path(), Places::free());
    let names: Vec<_> = (0..500).map(|number| format!("n{number}.example")).collect();
    let queries = Queries::new(names.iter().map(|name| (name.as_str(), "A")));
    let mut dnsperf =
        dnsperf::start(nodens.address(), &queries, Load { seconds: 30, rate: 4000, ..Load::default() });
    let mut failures = 0;
    for number in 1..=50 {
        let before = hash(&nodens);
        if number % 5 == 0 {
            map.swap(bad[number as usize / 5 % bad.len()]);
            failures += 1;
            eventually("it is refused", seconds(20), || {
                nodens.count("nodens_config_reload_failures_total", &[]) == failures
            });
            assert_eq!(hash(&nodens), before);
            let (status, body) = nodens.get("/ready").unwrap();
            assert!(status == 200 && body.contains("last reload failed"), "{status} {body}");
        } else {
            map.swap(&good(number));
            until_another(&nodens, &before);
            assert_eq!(nodens.get("/ready").unwrap(), (200, "OK\n".to_owned()));
        }
    }
    assert!(dnsperf.is_running(), "the reloads took longer than the load");
    let counted = dnsperf.finish();
    println!("50 reloads, 10 of them bad, {} queries", counted.sent);
    counted.lost_nothing("50 reloads");
    assert_eq!(failures, 10);
}
