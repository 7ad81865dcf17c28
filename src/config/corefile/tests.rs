//! Translation line by line, taking node-cache's place, and no text that makes it panic.

use proptest::prelude::*;

use super::super::schema::{FixedRcode, Policy, Transport, Workers};
use super::super::units::{HumanDuration, Switch};
use super::*;

fn inputs() -> Inputs {
    Inputs {
        local_ips: vec!["169.254.20.10".parse().unwrap(), "10.96.0.10".parse().unwrap()],
        cluster_dns: Some("10.96.0.99".parse().unwrap()),
        upstream_servers: vec!["192.0.2.1".parse().unwrap()],
        ..Inputs::default()
    }
}

fn import_text(text: &str) -> Import {
    import(text, Path::new("Corefile"), &inputs()).expect(text)
}

/// A block `.` with these lines and a bind.
fn block(lines: &str) -> Import {
    import_text(&format!(". {{\nbind 169.254.20.10\n{lines}\n}}\n"))
}

/// The findings of a kind, as `line: directive`.
fn found(import: &Import, kind: Kind) -> Vec<String> {
    let of_kind = import.findings.iter().filter(|finding| finding.kind == kind);
    of_kind.map(|finding| format!("{}: {}", finding.at.line, finding.directive)).collect()
}

#[test]
fn what_is_printed_loads_as_what_was_made() {
    for text in [
        include_str!("../../../tests/corefiles/upstream-flags.Corefile"),
        include_str!("../../../tests/corefiles/gardener.Corefile"),
        include_str!("../../../tests/corefiles/ipv6-dns64.Corefile"),
        include_str!("../../../tests/corefiles/deliveryhero.Corefile"),
    ] {
        let import = import_text(text);
        let loaded =
            super::super::from_str(&import.to_yaml(Path::new("Corefile")).unwrap(), "printed").unwrap();
        assert_eq!(loaded.config, import.config);
    }
}

#[test]
fn what_the_loader_would_refuse_is_not_printed() {
    let zone = |brackets: usize| format!("{}.example", "[".repeat(brackets));
    let print = |zones: String| {
        import_text(&format!("{zones} {{\n forward . 192.0.2.1\n}}\n")).to_yaml(Path::new("Corefile"))
    };
    assert!(print(zone(16)).unwrap().contains(&zone(16)));
    let error = print(format!("{} {}", zone(33), zone(32))).unwrap_err().to_string();
    assert!(
        error.starts_with("Corefile: the nodens.yaml it becomes: is not valid YAML: found brackets nested"),
        "{error}"
    );
}

#[test]
fn a_text_without_a_server_block_is_no_corefile() {
    for (text, line) in [
        ("", 1),
        ("# only a comment\n", 1),
        ("\nabc\n", 2),
        ("{\"a\":1}", 1),
        ("listen:\n  port: 53\n", 1),
        ("(snippet) {\nerrors\n}\n", 1),
        ("import /nonexistent/*.server\n", 1),
    ] {
        let error = import(text, Path::new("/etc/Corefile"), &inputs()).expect_err(text).to_string();
        assert!(error.starts_with(&format!("/etc/Corefile:{line}: found ")), "{text}: {error}");
    }
    // CoreDNS takes these; that they answer nothing is a finding at their own line.
    for (text, expected) in
        [(". {\n}\n", "1: no zones"), ("\ntls://. {\nforward . 192.0.2.1\n}\n", "1: no zones")]
    {
        assert!(found(&import_text(text), Kind::NoEquivalent).contains(&expected.to_owned()), "{text}");
    }
    assert_eq!(import_text(".\nforward . 192.0.2.1\n").config.zones.len(), 1, "braces may be left out");
    let listed = findings::listed(
        &import_text("tls://. {\nwhoami\n}\n").findings,
        Kind::NoEquivalent,
        Path::new("Corefile"),
    );
    assert!(listed.iter().any(|line| line.starts_with("line 1: no zones")), "{listed:?}");
}

#[test]
fn forward_options() {
    let import = block(
        "forward . 192.0.2.1 [2001:db8::1]:5353 dns://192.0.2.2 {\nexcept a.example b.example.\nforce_tcp\n\
         policy round_robin\nmax_fails 2\nnext NXDOMAIN\nfrob\n}\ncache",
    );
    let zone = &import.config.zones[0];
    let forward = zone.forward.as_ref().unwrap();
    let to: Vec<_> = forward.to.iter().map(ToString::to_string).collect();
    assert_eq!(to, ["192.0.2.1:53", "[2001:db8::1]:5353", "192.0.2.2:53"]);
    assert_eq!((forward.transport, forward.policy), (Transport::Tcp, Policy::RoundRobin));
    assert_eq!(forward.except, ["a.example", "b.example"]);
    assert_eq!(found(&import, Kind::NoEquivalent), ["8: next NXDOMAIN", "9: frob"]);
    assert_eq!(found(&import, Kind::BuiltIn), ["7: max_fails 2"]);
    // CoreDNS's own largest TTLs: an hour is nodens' default too.
    assert_eq!(
        (zone.cache.max_ttl, zone.cache.negative_max_ttl),
        (None, Some(HumanDuration::from_secs(1800)))
    );
}

#[test]
fn narrower_forwards_become_zones_of_their_own() {
    let import = block("forward corp.example 192.0.2.7\nforward . 192.0.2.1\ncache 30");
    let zones: Vec<_> = import.config.zones.iter().map(|zone| zone.name.as_str()).collect();
    assert_eq!(zones, [".", "corp.example"]);
    let to = |index: usize| import.config.zones[index].forward.as_ref().unwrap().to[0].to_string();
    assert_eq!((to(0), to(1)), ("192.0.2.1:53".to_owned(), "192.0.2.7:53".to_owned()));
}

#[test]
fn an_upstream_that_is_ourselves_is_not_kept() {
    let import = block("forward . 169.254.20.10\ncache");
    assert_eq!(found(&import, Kind::NotFilled), ["1: 169.254.20.10:53"]);
    assert!(check(&import.config, "x").is_ok());
}

#[test]
fn cache_options() {
    let import = block(
        "forward . 192.0.2.1\ncache 120 {\nsuccess 200000 60 5\ndenial 100 10 2\nprefetch 3 1m 80%\nserve_stale\n\
         servfail 30s\n}",
    );
    let cache = &import.config.zones[0].cache;
    let seconds = |seconds| Some(HumanDuration::from_secs(seconds));
    assert_eq!(
        (cache.min_ttl, cache.max_ttl, cache.negative_max_ttl),
        (seconds(5), seconds(60), seconds(10))
    );
    let Some(Switch::On(prefetch)) = cache.prefetch.clone() else { panic!("{cache:?}") };
    assert_eq!((prefetch.min_hits, prefetch.remaining.to_string()), (3, "50%".to_owned()));
    let Some(Switch::On(stale)) = &cache.serve_stale else { panic!("{cache:?}") };
    assert_eq!(
        (stale.max_age, stale.client_timeout),
        (HumanDuration::from_secs(3600), HumanDuration::from_secs(0))
    );
    assert_eq!(import.config.cache.size.to_string(), "98MiB");
    assert_eq!(import.config.cache.failure_ttl.max, HumanDuration::from_secs(30));

    let off = block("forward . 192.0.2.1\ncache {\ndisable success\n}");
    assert_eq!(off.config.zones[0].cache.max_ttl, seconds(0));
    let none = block("forward . 192.0.2.1");
    assert_eq!(none.config.zones[0].cache.negative_max_ttl, seconds(0));
    assert!(found(&none, Kind::Different)[0].starts_with("1: ."));
}

#[test]
fn templates() {
    let answers = |lines: &str| {
        let import = block(&format!("{lines}\nforward . 192.0.2.1\ncache"));
        let answers = import.config.zones[0].answers.clone();
        let shown = answers.into_iter().map(|answer| {
            let addresses: Vec<_> = answer.addresses.iter().map(ToString::to_string).collect();
            format!(
                "{} {} {:?} {} {}",
                answer.types.join(","),
                answer.name.unwrap_or_default(),
                answer.rcode,
                addresses.join(","),
                answer.ttl
            )
        });
        (shown.collect::<Vec<_>>(), found(&import, Kind::NoEquivalent))
    };
    for (lines, expected) in [
        ("template ANY AAAA", &["AAAA  Noerror  1m"][..]),
        ("template ANY ANY . {\nrcode NXDOMAIN\n}", &["  Nxdomain  1m"]),
        (
            "template IN ANY corp.example {\nrcode REFUSED\nauthority \"{{ .Zone }} 300 IN SOA a. b. (1 60 60 60 60)\"\n}",
            &[" corp.example Refused  5m", " *.corp.example Refused  5m"],
        ),
        (
            "template IN A {\nmatch \"^db[.]example[.]$\"\nanswer \"{{ .Name }} 30 IN A 192.0.2.9\"\n\
             answer \"{{.Name}} IN A 192.0.2.10\"\nfallthrough\n}",
            &["A db.example Noerror 192.0.2.9,192.0.2.10 30s"],
        ),
    ] {
        let (answers, lost) = answers(lines);
        assert_eq!(
            (answers.as_slice(), lost.as_slice()),
            (expected.map_to_strings().as_slice(), &[][..]),
            "{lines}"
        );
    }
    for lines in [
        "template IN A {\nanswer \"{{ .Name }} 60 IN A {{ .Group.ip }}\"\n}",
        "template IN A {\nanswer \"{{ .Name }} 60 IN CNAME a.example.\"\n}",
        "template IN A {\nmatch \"^ip-([0-9]+)\\.example\\.$\"\nrcode NXDOMAIN\n}",
        "template CH TXT",
        "template IN forward",
        "template IN A {\nrcode NOTIMP\n}",
    ] {
        let (answers, lost) = answers(lines);
        assert!(answers.is_empty() && lost.len() == 1, "{lines}: {answers:?} {lost:?}");
    }
}

trait MapToStrings {
    fn map_to_strings(&self) -> Vec<String>;
}

impl MapToStrings for [&str] {
    fn map_to_strings(&self) -> Vec<String> {
        self.iter().map(|text| (*text).to_owned()).collect()
    }
}

#[test]
fn rewrites() {
    let rules = |line: &str| {
        let import = block(&format!("{line}\nforward . 192.0.2.1\ncache"));
        let rules = import.config.rewrite.iter().map(|rule| {
            let from = rule.name.clone().or_else(|| rule.suffix.clone().map(|suffix| format!("*{suffix}")));
            format!("{} {}", from.unwrap(), rule.to)
        });
        (rules.collect::<Vec<_>>().join(", "), found(&import, Kind::NoEquivalent).len())
    };
    for (line, expected, lost) in [
        ("rewrite name a.example b.example.", "a.example b.example", 0),
        ("rewrite stop name exact A.example b.example", "a.example b.example", 0),
        ("rewrite name suffix .old.example .new.example answer auto", "*old.example new.example", 0),
        (r"rewrite name regex (.*)\.old\.example {1}.new.example answer auto", "*old.example new.example", 0),
        (r"rewrite name regex (.*)-x\.example {1}.new.example", "", 1),
        ("rewrite name substring a b", "", 1),
        ("rewrite ttl a.example 30", "", 1),
        ("rewrite name a.example a.example", "", 1),
        ("rewrite", "", 1),
    ] {
        assert_eq!(rules(line), (expected.to_owned(), lost), "{line}");
    }
}

#[test]
fn hosts_stay_within_what_their_block_saw() {
    let import = import_text(
        "cluster.local {\nforward . 192.0.2.1\ncache\n}\n. {\nhosts {\n10.0.0.1 a.example b.cluster.local\n\
         10.0.0.2 a.example\nfallthrough\n}\nforward . 192.0.2.1\ncache\n}\n",
    );
    let hosts: Vec<_> = import.config.hosts.iter().collect();
    assert_eq!(hosts.len(), 1);
    assert_eq!((hosts[0].0.as_str(), hosts[0].1.len()), ("a.example", 2));
    assert!(found(&import, Kind::Different).contains(&"7: 10.0.0.1 a.example b.cluster.local".to_owned()));

    let closed = block("hosts {\n10.0.0.1 a.example\n}\nforward . 192.0.2.1\ncache");
    let zone = &closed.config.zones[0];
    assert!(zone.forward.is_none() && zone.answers.len() == 1, "{zone:?}");

    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("hosts");
    std::fs::write(&file, "# by hand\n10.0.0.3 c.example d.example # two\n").unwrap();
    let read = block(&format!("hosts {} {{\nfallthrough\n}}\nforward . 192.0.2.1\ncache", file.display()));
    assert_eq!(read.config.hosts.keys().collect::<Vec<_>>(), ["c.example", "d.example"]);
}

#[test]
fn what_comes_first_in_coredns_wins_over_hosts() {
    let import = block(
        "hosts {\n10.0.0.1 both.example\n10.0.0.2 a.example\nfd00::2 a.example\n10.0.0.3 kept.example\n10.0.0.4 old.example\n\
         10.0.0.5 nodata.example\n10.0.0.6 half.example\nttl 60\nfallthrough\n}\n\
         template IN ANY both.example {\nrcode NXDOMAIN\n}\n\
         template IN AAAA a.example nodata.example\n\
         template IN A nodata.example half.example kept.example {\nmatch \"^nodata[.]example[.]$\"\nfallthrough\n}\n\
         template IN A half.example {\nrcode REFUSED\n}\n\
         rewrite name old.example new.example\nforward . 192.0.2.1\ncache",
    );
    let hosts: Vec<_> = import.config.hosts.iter().map(|(host, to)| format!("{host} {to:?}")).collect();
    assert_eq!(hosts, ["a.example [10.0.0.2]", "half.example [10.0.0.6]", "kept.example [10.0.0.3]"]);
    assert_eq!(import.config.hosts_ttl, HumanDuration::from_secs(60));
    let first = |finding: &&Finding| finding.did.contains(" before hosts") || finding.did.contains("first");
    let told: Vec<_> = import.findings.iter().filter(first).map(|f| f.directive.as_str()).collect();
    assert_eq!(told, ["both.example", "a.example", "old.example", "nodata.example", "half.example"]);
    // hosts knows nodata.example: its other types are NODATA, too.
    let nodata = import.config.zones[0].answers.last().unwrap();
    assert_eq!((nodata.name.as_deref(), nodata.types.len()), (Some("nodata.example"), 0));
}

#[test]
fn hosts_have_one_ttl_and_a_template_without_fallthrough_ends_the_search() {
    let import = import_text(
        "a {\nhosts {\n10.0.0.1 h.a\nttl 90\nfallthrough\n}\nforward . 192.0.2.1\ncache\n}\nb {\nhosts {\n10.0.0.1 h.b\n\
         fallthrough\n}\ntemplate IN A c.b {\nmatch \"^x[.]c[.]b[.]$\"\n}\nforward . 192.0.2.1\ncache\n}\n",
    );
    assert_eq!(import.config.hosts_ttl, HumanDuration::from_secs(90));
    assert!(found(&import, Kind::Different).contains(&"11: hosts".to_owned()), "{:?}", import.findings);
    let answers: Vec<_> =
        import.config.zones[1].answers.iter().map(|a| (a.name.as_deref(), a.rcode)).collect();
    let failed = FixedRcode::Servfail;
    assert_eq!(
        answers,
        [(Some("x.c.b"), FixedRcode::Noerror), (Some("c.b"), failed), (Some("*.c.b"), failed)]
    );
    assert!(
        found(&import, Kind::Different).contains(&"15: template IN A c.b".to_owned()),
        "{:?}",
        import.findings
    );
}

#[test]
fn no_option_is_lost_without_a_word() {
    let import = block(
        "errors {\nconsolidate 5m x\n}\nhealth :8080 {\nfrob\n}\nmultisocket 1000\nprometheus {$UNSET}:9253\n\
         rewrite continue {\nname suffix .a.example .b.example\nanswer value x y\nfrob\n}\n\
         forward . 192.0.2.1\ncache {\nprefetch 3 5m\n}\nfile /dev/null c.example {\nreload 1m\nfrob\n}",
    );
    let lost = ["7: frob", "10: {$UNSET}", "13: answer value x y", "14: frob", "22: frob"];
    assert_eq!(found(&import, Kind::NoEquivalent), lost);
    let different =
        ["4: consolidate 5m x", "9: multisocket 1000", "11: rewrite continue", "18: prefetch 3 5m"];
    assert_eq!(found(&import, Kind::Different), different);
    assert!(found(&import, Kind::BuiltIn).contains(&"21: reload 1m".to_owned()));
}

#[test]
fn ports_addresses_and_second_blocks() {
    let import = import_text(
        "a {\nbind 169.254.20.10\nforward . 192.0.2.1\ncache\n}\nb:53 {\nbind 10.96.0.10 eth0\nforward . 192.0.2.1\n\
         cache\n}\nc:54 {\nbind 10.96.0.10\nforward . 192.0.2.1\ncache\n}\na:54 {\nforward . 192.0.2.2\ncache\n}\n\
         tls://d {\nwhoami\n}\n",
    );
    assert_eq!(import.config.listen.port, 53);
    let zones: Vec<_> = import.config.zones.iter().map(|zone| zone.name.as_str()).collect();
    assert_eq!(zones, ["a", "b", "c"]);
    assert_eq!(import.config.listen.addresses.len(), 2);
    assert_eq!(found(&import, Kind::NoEquivalent), ["7: bind 10.96.0.10 eth0", "16: a:54", "20: tls://d"]);
}

#[test]
fn the_process_s_own_settings() {
    let import = block(
        "forward . 192.0.2.1\ncache\nprometheus :9253\nhealth __PILLAR__LOCAL__DNS__:8080 {\nlameduck 5s\n}\nlog\ndebug\n\
         bufsize 1232\nmultisocket 2\ntimeouts {\nidle 30s\n}\nloadbalance weighted w.txt\nnoplugin",
    );
    let config = &import.config;
    assert_eq!(config.observe.metrics.unwrap().to_string(), "0.0.0.0:9253");
    assert_eq!(config.observe.health.unwrap().to_string(), "169.254.20.10:8080");
    assert!(config.log.queries.on().is_some() && config.node.notrack && config.node.interface.manage);
    assert_eq!((config.listen.max_udp_payload, config.listen.workers), (1232, Workers::Count(2)));
    assert_eq!(config.listen.tcp.idle_timeout, HumanDuration::from_secs(30));
    assert_eq!(found(&import, Kind::NoEquivalent), ["16: loadbalance weighted w.txt", "17: noplugin"]);

    let clash = block("forward . 192.0.2.1\ncache\nprometheus :8080\nhealth :8080");
    assert_eq!(clash.config.observe.health, None);
    assert_eq!(found(&clash, Kind::NoEquivalent), ["1: health"]);
    let local = import_text(". {\nbind 127.0.0.1\nforward . 192.0.2.1\ncache\n}\n");
    assert!(!local.config.node.interface.manage && !local.config.node.notrack);
}

#[test]
fn what_answered_and_is_lost_does_not_go_elsewhere() {
    let import =
        import_text(". {\nforward . 192.0.2.1\ncache\n}\na.example {\nwhoami\n}\nb.example {\nerrors\n}\n");
    let rcode = |index: usize| import.config.zones[index].answers[0].rcode;
    assert_eq!((rcode(1), rcode(2)), (FixedRcode::Servfail, FixedRcode::Refused));
}

#[test]
fn node_caches_flags_corefile_and_environment_are_enough() {
    let directory = tempfile::tempdir().unwrap();
    let base = directory.path().join("Corefile.base");
    let text = include_str!("../../../tests/corefiles/upstream-unfilled.Corefile");
    std::fs::write(&base, text.replace("__PILLAR__DNS__DOMAIN__", "cluster.local")).unwrap();
    std::fs::write(directory.path().join("upstreamNameservers"), "[\"192.0.2.1\"]").unwrap();
    let flags = NodeCacheFlags {
        local_ips: inputs().local_ips,
        corefile: Some("/nonexistent/Corefile".into()),
        base_corefile: Some(base.clone()),
        kube_dns_dir: Some(directory.path().to_owned()),
        upstream_service: "kube-dns-upstream".to_owned(),
        skip_teardown: true,
        ..NodeCacheFlags::default()
    };
    let environment =
        BTreeMap::from([("KUBE_DNS_UPSTREAM_SERVICE_HOST".to_owned(), "10.96.0.99".to_owned())]);
    let (loaded, findings) = load_node_cache(&flags, &environment).unwrap();
    assert_eq!(loaded.origin.as_ref(), Some(&base));
    assert!(findings.iter().all(|finding| !finding.kind.is_loss()), "{findings:?}");
    let config = loaded.config;
    assert_eq!(config.listen.addresses, flags.local_ips);
    assert_eq!(config.node.interface.name, "nodelocaldns");
    assert!(config.node.keep && config.node.notrack && config.node.interface.manage);
    let to = |name: &str| {
        let zone = config.zones.iter().find(|zone| zone.name == name).unwrap();
        zone.forward.as_ref().unwrap().to[0].to_string()
    };
    assert_eq!((to("cluster.local"), to(".")), ("10.96.0.99:53".to_owned(), "192.0.2.1:53".to_owned()));

    // The Corefile names both addresses: the flags say something else, and are told of.
    let apart = NodeCacheFlags {
        setup_metrics: Some("0.0.0.0:9353".parse().unwrap()),
        health_port: Some(8081),
        ..flags.clone()
    };
    let (loaded, findings) = load_node_cache(&apart, &environment).unwrap();
    assert_eq!(loaded.config, config);
    let told: Vec<_> =
        findings.iter().filter(|f| &*f.at.file == "command line").map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "command line:1: -metrics-listen-address 0.0.0.0:9353: serves node-cache's own metrics apart; \
             coredns_nodecache_setup_errors_total is with the others at 0.0.0.0:9253",
            "command line:1: -health-port 8081: keeps this port out of conntrack; the rules are for 169.254.20.10:8080, \
             where health is served",
        ]
    );
    let text = std::fs::read_to_string(&base).unwrap().replace("prometheus :9253", "");
    std::fs::write(&base, text).unwrap();
    let (loaded, _) = load_node_cache(&apart, &environment).unwrap();
    assert_eq!(loaded.config.observe.metrics, apart.setup_metrics);

    let message = load_node_cache(&flags, &BTreeMap::new()).unwrap_err().to_string();
    assert!(message.contains("Corefile.base:11: __PILLAR__CLUSTER__DNS__ is not filled"), "{message}");
    assert!(message.contains("$KUBE_DNS_UPSTREAM_SERVICE_HOST"), "{message}");
}

/// Words that Corefiles are made of, so that random texts get beyond the parser.
const WORDS: &[&str] = &[
    "cluster.local",
    ".",
    "a.example:53",
    "b.example,",
    "10.0.0.0/15",
    "{",
    "{",
    "}",
    "}",
    "\n",
    "\n",
    "\n",
    "\"",
    "forward",
    "cache",
    "hosts",
    "template",
    "rewrite",
    "name",
    "suffix",
    "regex",
    "bind",
    "10.0.0.1",
    "fd00::1",
    "0.0.0.0",
    "eth0",
    "IN",
    "ANY",
    "AAAA",
    "match",
    "answer",
    "rcode",
    "NXDOMAIN",
    "success",
    "denial",
    "9984",
    "0",
    "30",
    "4294967295",
    "import",
    "(s)",
    "s",
    "health",
    ":8080",
    "prometheus",
    ":9253",
    ":53",
    "kubernetes",
    "dns64",
    "64:ff9b::/96",
    "fallthrough",
    "bufsize",
    "serve_stale",
    "1h",
    "9999h",
    "prefetch",
    "servfail",
    "except",
    "file",
    "/dev/null",
    "timeouts",
    "idle",
    "policy",
    "max_concurrent",
    "__PILLAR__DNS__DOMAIN__",
    "__PILLAR__LOCAL__DNS__",
    "__PILLAR__CLUSTER__DNS__",
    "__PILLAR__UPSTREAM__SERVERS__",
    "{$X}",
    "tls://192.0.2.1",
    "(.*)\\.old",
    "^(.*\\.)?a\\.example\\.$",
    "whoami",
    "log",
    "x..y",
];

const KEYS: &[&str] =
    &[".", ".:53", "cluster.local", "a.example:53", "b.a.example:54", "10.0.0.0/15", "old.a.example"];

fn word() -> impl Strategy<Value = &'static str> {
    prop::sample::select(WORDS)
}

fn key() -> impl Strategy<Value = &'static str> {
    prop::sample::select(KEYS)
}

/// A directive with words that it could have, or with a block of such lines.
fn line() -> impl Strategy<Value = String> {
    let words: Vec<_> = WORDS.iter().copied().filter(|word| !word.contains(['{', '}', '"', '\n'])).collect();
    let plain = || prop::collection::vec(prop::sample::select(words.clone()), 1..6);
    (plain(), prop::collection::vec(plain(), 0..4)).prop_map(|(line, block)| {
        // What import takes in may hold braces of its own.
        let text = |words: &Vec<&str>| match words[0] {
            "import" => "errors".to_owned(),
            _ => words.join(" "),
        };
        match block.iter().map(text).collect::<Vec<_>>() {
            lines if lines.is_empty() => text(&line),
            lines => format!("{} {{\n{}\n}}", text(&line), lines.join("\n")),
        }
    })
}

fn valid(import: &Import) -> Result<(), TestCaseError> {
    prop_assert_eq!(import.zone_origins.len(), import.config.zones.len());
    let yaml = import.to_yaml(Path::new("/nonexistent/Corefile"));
    let yaml = yaml.map_err(|error| TestCaseError::fail(error.to_string()))?;
    // Files of the machine must not decide this.
    let yaml = yaml.replace("- /etc/resolv.conf", "- 198.51.100.1").replace("- /dev/null", "- 198.51.100.2");
    match super::super::from_str(&yaml, "printed") {
        Ok(_) => Ok(()),
        Err(error) => Err(TestCaseError::fail(format!("{error}\n{yaml}"))),
    }
}

proptest! {
    #[test]
    fn any_text_imports_to_something_valid_or_fails(words in prop::collection::vec(word(), 0..80)) {
        if let Ok(import) = import(&words.join(" "), Path::new("/nonexistent/Corefile"), &Inputs::default()) {
            valid(&import)?;
        }
    }

    #[test]
    fn any_block_imports_to_something_valid(
        blocks in prop::collection::vec(
            (prop::collection::vec(key(), 1..3), prop::collection::vec(line(), 0..12)),
            1..4,
        ),
        filled in any::<bool>(),
    ) {
        let block = |(keys, lines): (Vec<&str>, Vec<String>)| format!("{} {{\n{}\n}}\n", keys.join(" "), lines.join("\n"));
        let text: String = blocks.into_iter().map(block).collect();
        let inputs = if filled { inputs() } else { Inputs::default() };
        let import = import(&text, Path::new("/nonexistent/Corefile"), &inputs);
        valid(&import.map_err(|error| TestCaseError::fail(format!("{error}\n{text}")))?)?;
    }

    #[test]
    fn random_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let text = String::from_utf8_lossy(&bytes);
        if let Ok(import) = import(&text, Path::new("/nonexistent/Corefile"), &Inputs::default()) {
            valid(&import)?;
            let yaml = import.to_yaml(Path::new(&*text)).unwrap();
            prop_assert!(super::super::from_str(&yaml, "printed").is_ok());
        }
    }
}
