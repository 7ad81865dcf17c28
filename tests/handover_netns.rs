//! The real binary's life on a node, in namespaces: it starts, hands over to its successor under load, and leaves.
//!
//! Needs root and the tools named in each test; without them a test says SKIP, and fails with `CI=true`. `NODENS_BIN` names
//! another binary, a release build say, and `NODENS_RATE` the rate of the hand-over's load.

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

use std::fmt::Write as _;
use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use support::load::{self, Load};
use support::need;
use support::netns;
use support::node::{
    ALL_RULES, LINK_LOCAL, SERVICE, SERVICE_V6, addresses, all_addresses, has_interface, rule_count, tables,
};
use support::site::Site;

/// Plays the clients when another test starts it; see `support::load`.
#[test]
#[ignore = "started by the other tests as a process of its own"]
fn actor() {
    load::play();
}

fn usable(tools: &[&str]) -> bool {
    netns::usable(&[&["nft", "ss", "curl"], tools].concat()) && need::programs(&["nsd"])
}

/// Queries a second that a development build and its load carry on two busy cores.
const RATE: u32 = 5_000;

/// How long the load lasts: all hand-overs are to be within.
const LOAD: Duration = Duration::from_secs(15);

/// Hand-overs in a row.
const HAND_OVERS: u32 = 10;

#[test]
fn ten_upgrades_under_load_lose_no_query() {
    if !usable(&["dnsperf"]) {
        return;
    }
    let rate = std::env::var("NODENS_RATE").ok().and_then(|rate| rate.parse().ok()).unwrap_or(RATE);
    let site = Site::new();
    let names = (0..500).fold(String::new(), |mut names, number| {
        let _ = writeln!(names, "{number}.{}.load.example.org A", if number % 2 == 0 { "yes" } else { "no" });
        names
    });
    let data = site.directory.path().join("queries");
    fs::write(&data, names).unwrap();

    let mut serving = site.start();
    let mut tcp = Load::start(&site.pods);
    assert_eq!(tcp.ask(&format!("tcp {SERVICE}:53")), "ok");
    let loads: Vec<_> = [SERVICE, LINK_LOCAL, SERVICE_V6]
        .into_iter()
        .map(|address| {
            let mut dnsperf = site.pods.command("dnsperf");
            dnsperf
                .args([
                    "-s",
                    address,
                    "-c",
                    "40",
                    "-q",
                    "5000",
                    "-t",
                    "3",
                    "-l",
                    &LOAD.as_secs().to_string(),
                    "-d",
                ])
                .arg(&data);
            dnsperf.args(["-Q", &(rate / 3).to_string()]);
            dnsperf.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let start = Instant::now();
    netns::eventually("the load has begun", Duration::from_secs(10), || {
        site.metrics().count("nodens_queries_total", &[]) > u64::from(rate / 2)
    });
    for hand_over in 1..=HAND_OVERS {
        let new = site.start();
        let old = std::mem::replace(&mut serving, new);
        assert_eq!(old.stop(), Some(0), "hand-over {hand_over}");
    }
    let took = start.elapsed();
    let mut reports = Vec::new();
    assert!(took < LOAD, "the last hand-over ended {took:.1?} after the load began");
    for load in loads {
        let output = load.wait_with_output().unwrap();
        reports.push(
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr),
        );
    }
    let tcp = tcp.tcp_end();
    println!(
        "{HAND_OVERS} hand-overs in {took:.1?} at {rate} queries a second; TCP: {tcp:?}\n\
         {} rows of conntrack for DNS\nnode: {}\npods: {}\n{}",
        site.metrics().count("nodens_conntrack_dns_rows", &[]),
        dropped(&site.node),
        dropped(&site.pods),
        reports.join("\n")
    );
    for report in &reports {
        let number = |label: &str| -> u64 {
            let line = report.lines().find_map(|line| line.trim().strip_prefix(label));
            line.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
                .unwrap_or_else(|| panic!("{report}"))
        };
        assert_eq!(number("Queries lost:"), 0, "{report}");
        assert_eq!(number("Queries sent:"), number("Queries completed:"), "{report}");
        assert!(!report.contains("SERVFAIL") && !report.contains("REFUSED"), "{report}");
        assert!(report.contains("NOERROR") && report.contains("NXDOMAIN"), "{report}");
        assert!(!report.contains("rror:"), "{report}");
        // It was a load, all the time.
        assert!(number("Queries sent:") > u64::from(rate / 3) * LOAD.as_secs() * 9 / 10, "{report}");
    }
    assert!(tcp.answered > 100 && tcp.closed > 0, "{tcp:?}");
    assert_eq!((tcp.unanswered, tcp.broken, tcp.refused), (0, 0, 0), "{tcp:?}");

    let slot = if HAND_OVERS.is_multiple_of(2) { "nodens" } else { "nodens-2" };
    assert_eq!(tables(&site.node), [slot]);
    assert_eq!(rule_count(&site.node, slot), ALL_RULES);
    assert_eq!(addresses(&site.node), all_addresses());
    assert_eq!(serving.stop(), Some(0));
    assert!(!has_interface(&site.node));
    assert_eq!(tables(&site.node), [""; 0]);
}

/// What the kernel says of datagrams that a namespace could not deliver: whose loss it was, if there was one.
fn dropped(namespace: &netns::Netns) -> String {
    let output =
        namespace.try_exec("grep ^Udp: /proc/net/snmp; grep -E '^Udp6.*(NoPorts|Errors)' /proc/net/snmp6");
    String::from_utf8_lossy(&output.stdout).split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn on_sigterm_all_that_was_received_is_answered() {
    if !usable(&[]) {
        return;
    }
    for (kind, frozen) in [("hit", false), ("hit", true), ("miss", false), ("miss", true)] {
        let site = Site::new();
        let nodens = site.start();
        let mut load = Load::start(&site.pods);
        assert_eq!(load.ask(&format!("flood {SERVICE}:53 2000 {kind}")), "ok");
        netns::eventually("the load has begun", Duration::from_secs(10), || {
            site.metrics().count("nodens_queries_total", &[]) > 1_000
        });
        if frozen && kind == "hit" {
            // What comes now waits in the sockets of the process.
            nodens.signal("STOP");
            let sent: usize = load.ask("mark").parse().unwrap();
            netns::eventually("lookups are queued", Duration::from_secs(5), || {
                load.ask("mark").parse::<usize>().unwrap() > sent + 2_000
            });
        } else if frozen {
            site.freeze_upstream(true);
            netns::eventually("lookups are in flight", Duration::from_secs(5), || {
                site.metrics().count("nodens_in_flight", &[]) > 200
            });
        }
        let marked: usize = load.ask("mark").parse().unwrap();
        let start = Instant::now();
        nodens.signal("TERM");
        if frozen && kind == "hit" {
            nodens.signal("CONT");
        } else if frozen {
            nodens.until_said("draining");
            site.freeze_upstream(false);
        }
        assert_eq!(nodens.stop_after_signal(), Some(0));
        let took = start.elapsed();
        let flooded = load.settle(Duration::from_millis(200));
        println!(
            "{kind}, frozen {frozen}: {marked} sent before SIGTERM, gone {took:.1?} after it; {flooded:?}"
        );
        assert_eq!(flooded.marked, marked, "{kind}: {flooded:?}");
        assert!(took < Duration::from_secs(3), "{kind}: {took:?}");
        assert!(!has_interface(&site.node));
    }
}

#[test]
fn while_a_successor_starts_the_shared_ready_page_does_not_answer_for_it() {
    if !usable(&[]) {
        return;
    }
    let site = Site::new();
    site.upstream_wait("1s");
    let ready = |site: &Site| site.page(&format!("{LINK_LOCAL}:8080/ready")).0;
    let serving = site.start();
    site.freeze_upstream(true);
    let mut new = site.launch(&[]);
    new.until("answering", |new| new.said().contains("http: listening address=169.254.20.10:8080"));
    new.until_said("no upstream has answered; not ready");
    // Twenty probes reach either of the two.
    assert_eq!((0..20).map(|_| ready(&site)).filter(|&status| status != 503).count(), 0);
    new.signal("KILL");
    new.ended();
    assert_eq!(ready(&site), 200, "the one that serves is ready again");
    site.freeze_upstream(false);
    let new = site.start();
    assert_eq!((0..20).map(|_| ready(&site)).filter(|&status| status != 200).count(), 0);
    assert_eq!(serving.stop(), Some(0));
    assert_eq!(new.stop(), Some(0));
}
