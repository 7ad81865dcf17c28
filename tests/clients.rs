//! The resolvers that pods have, as they are: glibc's and musl's, c-ares, Go's, Java's, dnspython's, dig, drill and kdig. Each runs in a network
//! namespace where nodens answers on 127.0.0.1:53, with a resolv.conf of its own like that of a pod: a search path and
//! `ndots:5`. It must find what is there, and tell what is not there from what has no such address.

mod support {
    pub(crate) mod need;
    pub(crate) mod netns;
}

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use support::need;
use support::netns::{Netns, Process, eventually};

/// A pod on a node: nodens at port 53, nsd behind it.
struct Pod {
    netns: Netns,
    directory: tempfile::TempDir,
    _processes: [Process; 2],
}

/// What a resolver said of each name.
type Said = BTreeMap<String, Vec<String>>;

/// As kubelet writes it.
const SEARCH: &str = "search default.svc.cluster.local svc.cluster.local cluster.local example.org";

fn pod(tools: &[&str]) -> Option<Pod> {
    if !need::root() || !need::programs(&[&["ip", "nsd", "dig", "unshare", "mount"], tools].concat()) {
        return None;
    }
    let netns = Netns::new("pod");
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let write = |name: &str, text: &str| fs::write(root.join(name), text).unwrap();
    write("cluster.zone", include_str!("support/cluster.local.zone"));
    write("example.zone", include_str!("support/example.org.zone"));
    write(
        "root.zone",
        "$ORIGIN .\n$TTL 60\n@ SOA a.root. admin.root. 1 2 3 4 60\n@ NS a.root.\na.root. A 192.0.2.53\n",
    );
    let shown = root.display();
    write(
        "nsd.conf",
        &format!(
            "server:\n ip-address: 127.0.0.1@5300\n username: \"\"\n chroot: \"\"\n zonesdir: \"{shown}\"\n database: \"\"\n \
             pidfile: \"{shown}/nsd.pid\"\n xfrdfile: \"{shown}/xfrd.state\"\n zonelistfile: \"{shown}/zone.list\"\n \
             tcp-query-count: 0\nremote-control:\n control-enable: no\n\
             zone:\n name: \".\"\n zonefile: \"root.zone\"\n\
             zone:\n name: \"cluster.local\"\n zonefile: \"cluster.zone\"\n\
             zone:\n name: \"example.org\"\n zonefile: \"example.zone\"\n"
        ),
    );
    write(
        "nodens.yaml",
        "listen: {addresses: ['127.0.0.1', '::1'], port: 53, workers: 1}\n\
         zones: [{name: '.', forward: {to: ['127.0.0.1:5300'], transport: tcp}}]\n",
    );
    let mut nsd = Command::new(need::find("nsd").unwrap());
    nsd.args(["-d", "-c"]).arg(root.join("nsd.conf"));
    let mut nodens = Command::new(env!("CARGO_BIN_EXE_nodens"));
    nodens.args(["run", "--config"]).arg(root.join("nodens.yaml")).env("NODENS__LOG__LEVEL", "warn");
    let processes = [netns.spawn(&nsd), netns.spawn(&nodens)];
    let pod = Pod { netns, directory, _processes: processes };
    eventually("nodens answers in the pod", Duration::from_secs(20), || {
        let dig = pod.netns.try_exec("dig +tries=1 +time=1 +short @127.0.0.1 www.example.org A");
        String::from_utf8_lossy(&dig.stdout).contains("192.0.2.80")
    });
    Some(pod)
}

impl Pod {
    /// Runs a command with a resolv.conf that has these options, and returns what it prints.
    fn run(&self, options: &str, command: &[&str]) -> String {
        let resolv_conf = self.path("resolv.conf");
        fs::write(&resolv_conf, format!("{SEARCH}\nnameserver 127.0.0.1\noptions ndots:5 {options}\n"))
            .unwrap();
        let script = format!("mount --bind {} /etc/resolv.conf && exec \"$@\"", resolv_conf.display());
        let mut inside = self.netns.command("unshare");
        inside.args(["--mount", "--", "sh", "-c", &script, "sh"]).args(command);
        let output = inside.output().expect("ip starts");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?}: {stderr}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What a resolver said of each name; its lines are the name and then what it found.
    fn ask(&self, options: &str, command: &[&str], names: &[&str]) -> Said {
        let text = self.run(options, &[command, names].concat());
        let lines = text.lines().map(|line| line.split(' ').map(str::to_owned).collect::<Vec<_>>());
        let said: Said = lines.map(|mut words| (words.remove(0), words)).collect();
        assert_eq!(said.len(), names.len(), "{text}");
        said
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Compiles the C client.
    fn compile(&self, compiler: &str, flags: &[&str]) -> String {
        let program = self.path("getaddrinfo");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/resolvers/getaddrinfo.c");
        let output = Command::new(need::find(compiler).unwrap())
            .args(flags)
            .arg("-o")
            .arg(&program)
            .arg(source)
            .output();
        let output = output.expect("the compiler starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        program.display().to_string()
    }
}

fn source(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/resolvers").join(name).display().to_string()
}

/// Names that are there, by the search path and in full, and their addresses.
const FOUND: &[(&str, &[&str])] = &[
    // In the pod's own namespace, in another, and with `svc`: each by another entry of the search path.
    ("kubernetes", &["10.96.0.1"]),
    ("web.shop", &["10.96.7.7", "fd00:10:96::707"]),
    ("web.shop.svc", &["10.96.7.7", "fd00:10:96::707"]),
    ("web.shop.svc.cluster.local", &["10.96.7.7", "fd00:10:96::707"]),
    // Outside: four NXDOMAINs of the search path before it, or none with the last dot.
    ("www.example.org", &["192.0.2.80", "2001:db8::80"]),
    ("www.example.org.", &["192.0.2.80", "2001:db8::80"]),
    ("mail", &["192.0.2.25"]),
    ("v4.example.org.", &["192.0.2.4"]),
    ("v6.example.org.", &["2001:db8::6"]),
    // Chains, also from the cluster's zone to the other.
    ("chain1.example.org.", &["192.0.2.80", "2001:db8::80"]),
    ("MiXeD.example.org.", &["192.0.2.99"]),
    ("a.b.wild.example.org.", &["192.0.2.42"]),
];

/// Answers that need TCP, or EDNS: 40 and 200 addresses.
const LARGE: &[(&str, usize)] = &[("large.example.org.", 40), ("pods.shop.svc.cluster.local.", 200)];

/// Not there at all, by the search path and in full.
const NX: &[&str] = &["nx", "nx.shop.svc", "nx.example.org", "nx.example.org."];

/// There, but with no address.
const NODATA: &[&str] = &["hinfo.example.org.", "private.example.org."];

fn check_found(said: &Said, names: &[(&str, &[&str])], what: &str) {
    for (name, addresses) in names {
        assert_eq!(said[*name], *addresses, "{what}: {name}");
    }
}

fn check_large(said: &Said, what: &str) {
    for (name, count) in LARGE {
        assert_eq!(said[*name].len(), *count, "{what}: {name}: {:?}", said[*name]);
    }
}

fn check_error(said: &Said, names: &[&str], expected: &[&str], what: &str) {
    for name in names {
        let [error] = &said[*name][..] else { panic!("{what}: {name}: {:?}", said[*name]) };
        assert!(expected.contains(&error.as_str()), "{what}: {name}: {error}");
    }
}

fn every_name() -> Vec<&'static str> {
    let found = FOUND.iter().map(|(name, _)| *name);
    found
        .chain(LARGE.iter().map(|(name, _)| *name))
        .chain(NX.iter().copied())
        .chain(NODATA.iter().copied())
        .collect()
}

#[test]
fn glibc_with_every_option_that_changes_how_it_asks() {
    let Some(pod) = pod(&["gcc"]) else { return };
    let program = pod.compile("gcc", &[]);
    for options in [
        "",
        "use-vc",
        "single-request",
        "single-request-reopen",
        "edns0",
        "trust-ad",
        "edns0 trust-ad use-vc",
        "rotate timeout:1 attempts:1",
    ] {
        // Cold and warm.
        for _ in 0..2 {
            let said = pod.ask(options, &[&program], &every_name());
            check_found(&said, FOUND, options);
            check_large(&said, options);
            check_error(&said, NX, &["EAI_NONAME"], options);
            check_error(&said, NODATA, &["EAI_NODATA"], options);
        }
    }
}

#[test]
fn musl() {
    let Some(pod) = pod(&["musl-gcc"]) else { return };
    let program = pod.compile("musl-gcc", &["-static"]);
    for _ in 0..2 {
        let said = pod.ask("", &[&program], &every_name());
        check_found(&said, FOUND, "musl");
        check_error(&said, NX, &["EAI_NONAME"], "musl");
        // It has no name of its own for this.
        check_error(&said, NODATA, &["EAI_NODATA", "EAI_NONAME"], "musl");
        // Before 1.2.4 it takes what came over UDP, in 512 bytes; from then on it asks over TCP and keeps 48.
        for (name, count) in LARGE {
            let found = &said[*name];
            assert!((28..=48.min(*count)).contains(&found.len()), "{name}: {found:?}");
            assert_eq!(found.iter().collect::<std::collections::BTreeSet<_>>().len(), found.len(), "{name}");
        }
    }
}

#[test]
fn node_by_getaddrinfo_and_by_c_ares() {
    let Some(pod) = pod(&["node"]) else { return };
    for _ in 0..2 {
        let said = pod.ask("", &["node", &source("resolve.js"), "lookup"], &every_name());
        check_found(&said, FOUND, "lookup");
        check_large(&said, "lookup");
        check_error(&said, NX, &["ENOTFOUND"], "lookup");
        check_error(&said, NODATA, &["ENOTFOUND", "ENODATA"], "lookup");
        // c-ares goes by no search path here.
        let full = |name: &&str| name.ends_with('.');
        let names: Vec<_> = every_name().into_iter().filter(full).collect();
        let said = pod.ask("", &["node", &source("resolve.js"), "resolve"], &names);
        let found: Vec<_> = FOUND.iter().copied().filter(|(name, _)| full(name)).collect();
        check_found(&said, &found, "resolve");
        check_large(&said, "resolve");
        check_error(&said, &["nx.example.org."], &["ENOTFOUND"], "resolve");
        check_error(&said, NODATA, &["ENODATA"], "resolve");
    }
}

#[test]
fn java_by_inetaddress_and_by_its_own_resolver() {
    let Some(pod) = pod(&["java"]) else { return };
    let said = pod.ask("", &["java", &source("Resolve.java"), "inet"], &every_name());
    // It writes v6 addresses in full.
    let v4_of = |said: &Said, name: &str| {
        said[name].iter().filter(|one| !one.contains(':')).cloned().collect::<Vec<_>>()
    };
    for (name, addresses) in FOUND.iter().filter(|(name, _)| *name != "v6.example.org.") {
        let v4: Vec<_> = addresses.iter().copied().filter(|one| !one.contains(':')).collect();
        assert_eq!(v4_of(&said, name), v4, "inet: {name}");
        assert_eq!(said[*name].len(), addresses.len(), "inet: {name}");
    }
    check_large(&said, "inet");
    check_error(&said, NX, &["UnknownHostException"], "inet");
    check_error(&said, NODATA, &["UnknownHostException"], "inet");

    let names = [
        "www.example.org",
        "chain1.example.org",
        "large.example.org",
        "pods.shop.svc.cluster.local",
        "nx.example.org",
        "v6.example.org",
    ];
    let said =
        pod.ask("", &["java", "--add-modules", "jdk.naming.dns", &source("Resolve.java"), "jndi"], &names);
    assert_eq!(said["www.example.org"], ["192.0.2.80"]);
    assert_eq!(said["chain1.example.org"], ["192.0.2.80"]);
    // No EDNS, so these come over TCP.
    assert_eq!((said["large.example.org"].len(), said["pods.shop.svc.cluster.local"].len()), (40, 200));
    assert_eq!(said["nx.example.org"], ["NameNotFoundException"]);
    assert_eq!(said["v6.example.org"], ["nothing"]);
}

#[test]
fn go_by_its_own_resolver() {
    let Some(pod) = pod(&["go"]) else { return };
    let program = pod.path("resolve").display().to_string();
    let mut build = Command::new(need::find("go").unwrap());
    build
        .args(["build", "-o", &program, &source("resolve.go")])
        .env("GOCACHE", pod.path("go"))
        .env("GO111MODULE", "off");
    let output = build.output().expect("go starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for options in ["", "use-vc", "single-request", "edns0"] {
        for _ in 0..2 {
            let said = pod.ask(options, &[&program], &every_name());
            check_found(&said, FOUND, options);
            check_large(&said, options);
            check_error(&said, &[NX, NODATA].concat(), &["not-found"], options);
        }
    }
}

#[test]
fn dnspython() {
    // Debian's own Python, for which its packages are.
    let python = "/usr/bin/python3";
    let is_there =
        Command::new(python).args(["-c", "import dns"]).output().is_ok_and(|output| output.status.success());
    if !is_there && !need::programs(&["python3-dnspython"]) {
        return;
    }
    let Some(pod) = pod(&[]) else { return };
    for _ in 0..2 {
        let said = pod.ask("", &[python, &source("resolve.py")], &every_name());
        check_found(&said, FOUND, "dnspython");
        check_large(&said, "dnspython");
        check_error(&said, NX, &["NXDOMAIN"], "dnspython");
        check_error(&said, NODATA, &["NoAnswer"], "dnspython");
    }
}

#[test]
fn dig_drill_and_kdig_by_the_search_path() {
    let Some(pod) = pod(&["dig", "drill", "kdig"]) else { return };
    for _ in 0..2 {
        for (program, arguments) in [
            ("dig", &["+search", "+short"][..]),
            ("dig", &["+search", "+short", "+tcp"]),
            ("dig", &["+search", "+short", "+noedns"]),
            ("kdig", &["+short"]),
            ("kdig", &["+short", "+tcp"]),
            ("kdig", &["+short", "+dnssec"]),
        ] {
            let ask = |name: &str, qtype: &str| {
                let text = pod.run("", &[&[program], arguments, &[name, qtype]].concat());
                // kdig says here that it goes on to TCP.
                let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with(";;"));
                lines.map(str::to_owned).collect::<Vec<_>>()
            };
            assert_eq!(ask("www.example.org.", "A"), ["192.0.2.80"], "{program} {arguments:?}");
            assert_eq!(ask("www.example.org.", "AAAA"), ["2001:db8::80"], "{program} {arguments:?}");
            let pods = ask("pods.shop.svc.cluster.local.", "A");
            assert_eq!(pods.len(), 200, "{program} {arguments:?}: {pods:?}");
            assert_eq!(ask("huge.example.org.", "TXT").len(), 200, "{program} {arguments:?}");
            assert!(ask("nx.example.org.", "A").is_empty() && ask("v4.example.org.", "AAAA").is_empty());
            if program == "dig" {
                assert_eq!(ask("web.shop", "A"), ["10.96.7.7"], "{arguments:?}");
            }
        }
        for (name, qtype, rcode, records) in [
            ("www.example.org.", "A", "NOERROR", 1),
            ("nx.example.org.", "A", "NXDOMAIN", 0),
            ("v4.example.org.", "AAAA", "NOERROR", 0),
            ("pods.shop.svc.cluster.local.", "A", "NOERROR", 200),
        ] {
            // It does not go on to TCP by itself.
            let over_udp = [&[][..], &["-D"]].into_iter().filter(|_| records <= 1);
            for flags in over_udp.chain([&["-t"][..]]) {
                let text = pod.run("", &[&["drill"], flags, &["@127.0.0.1", name, qtype]].concat());
                assert!(text.contains(&format!("rcode: {rcode}")), "{flags:?} {name}: {text}");
                let answers = text
                    .lines()
                    .filter(|line| line.starts_with(name.trim_end_matches('.')) && line.contains("\tIN\t"));
                assert_eq!(answers.count(), records, "{flags:?} {name}: {text}");
            }
        }
    }
}

#[test]
fn both_nameservers_of_both_families_answer() {
    let Some(pod) = pod(&["gcc"]) else { return };
    let program = pod.compile("gcc", &[]);
    let resolv_conf = pod.path("resolv.conf");
    fs::write(&resolv_conf, format!("{SEARCH}\nnameserver ::1\noptions ndots:5\n")).unwrap();
    let script = format!(
        "mount --bind {} /etc/resolv.conf && exec {program} web.shop nx.example.org.",
        resolv_conf.display()
    );
    let output = pod.netns.command("unshare").args(["--mount", "--", "sh", "-c", &script]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(text, "web.shop 10.96.7.7 fd00:10:96::707\nnx.example.org. EAI_NONAME\n");
}
