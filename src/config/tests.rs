//! Loading as a whole: layers, messages, round trips, and the files in `config/`.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::Write;

use proptest::prelude::*;
use serde_norway::Value;

use super::*;

const REFERENCE: &str = include_str!("../../config/reference.yaml");

fn load_text(text: &str) -> Result<Loaded, ConfigError> {
    from_str(text, "test.yaml")
}

/// The messages of a configuration that must be refused.
fn messages(text: &str) -> String {
    load_text(text).expect_err(text).to_string()
}

fn with_environment(text: Option<&str>, variables: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
    let variables = variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    let Some(text) = text else { return load_with(None, variables) };
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    load_with(Some(file.path()), variables)
}

/// A zone that forwards somewhere, so that the default's /etc/resolv.conf plays no part.
const ZONE: &str = "zones: [{name: ., forward: {to: [192.0.2.1]}}]\n";

#[test]
fn the_file_of_the_issue_loads() {
    let loaded = load_text(
        r#"
listen: {addresses: ["127.0.0.1"], port: 5450, workers: 1}
cache: {max_ttl: 1h, negative_max_ttl: 1h}
zones:
  - name: "."
    forward: {to: ["127.0.0.1:5301"], transport: tcp}
node: {interface: {manage: false}, notrack: false}
observe: {metrics: "127.0.0.1:9253", health: "127.0.0.1:8080"}
"#,
    )
    .unwrap();
    let config = loaded.config;
    assert_eq!(config.listen.workers, Workers::Count(1));
    assert_eq!(config.listen.port, 5450);
    assert_eq!(config.cache.negative_max_ttl, HumanDuration::from_secs(3600));
    let forward = config.zones[0].forward.as_ref().unwrap();
    assert_eq!(forward.to, [UpstreamAddress::Address("127.0.0.1:5301".parse().unwrap())]);
    assert_eq!(config.cache.serve_stale, Switch::On(ServeStale::default()));
}

#[test]
fn without_a_file_the_embedded_default_stands() {
    let expected = Config {
        zones: vec![Zone {
            name: ".".to_owned(),
            forward: Some(Forward {
                to: vec![UpstreamAddress::ResolvConf("/etc/resolv.conf".into())],
                transport: Transport::Auto,
                ..Forward::default()
            }),
            file: None,
            answers: Vec::new(),
            dns64: None,
            cache: ZoneCache::default(),
        }],
        ..Config::default()
    };
    let layer = layers::merge(None, layers::Environment::default()).unwrap();
    // The machine's own resolv.conf must not decide this test.
    match decode::decode(&layer, Files::Checked) {
        Ok(config) => assert_eq!(config, expected),
        Err(error) => assert!(error.to_string().contains("resolv.conf"), "{error}"),
    }
    let read: Config = serde_norway::from_str(layers::DEFAULT).unwrap();
    assert_eq!(read, expected);
}

#[test]
fn environment_lies_over_file_over_default() {
    let file = "listen: {port: 1053, addresses: [192.0.2.5]}\nhosts: {a.b.c: [192.0.2.9]}\n";
    let loaded = with_environment(
        Some(file),
        &[
            ("NODENS__LISTEN__PORT", "2053"),
            ("NODENS__LISTEN__ADDRESSES", "169.254.20.10, fd00::10"),
            ("NODENS__LISTEN__WORKERS", "2"),
            ("NODENS__ZONES__0__FORWARD__TO", "10.96.0.10,[fd00::53]:1053"),
            ("NODENS__ZONES__1__NAME", "1e5"),
            ("NODENS__ZONES__1__FORWARD__TO__0", "10.96.0.11"),
            ("NODENS__CACHE__PREFETCH", "false"),
            ("NODENS__CACHE__SERVE_STALE__MAX_AGE", "2h"),
            ("NODENS__CACHE__ROTATE", "false"),
            ("NODENS__LIMITS__CLIENT_SHARE", "0.2"),
            ("NODENS__OBSERVE__METRICS", "null"),
            ("NODENS__REWRITE", "[{name: a.example, to: b.example}]"),
            ("NODENS__LOG__QUERIES__SAMPLE", "5%"),
            ("NODENS_PORT", "tcp://10.0.0.1:53"),
            ("UNRELATED", "1"),
        ],
    )
    .unwrap();
    let config = loaded.config;
    assert_eq!(config.listen.port, 2053);
    let addresses: [std::net::IpAddr; 2] =
        ["169.254.20.10", "fd00::10"].map(|address| address.parse().unwrap());
    assert_eq!(config.listen.addresses, addresses);
    assert_eq!(config.listen.workers, Workers::Count(2));
    let upstreams = ["10.96.0.10:53", "[fd00::53]:1053"];
    let forward = config.zones[0].forward.as_ref().unwrap();
    assert_eq!(forward.to, upstreams.map(|to| UpstreamAddress::Address(to.parse().unwrap())));
    assert_eq!(config.zones[1].name, "1e5");
    assert_eq!(config.cache.prefetch, Switch::Off);
    assert_eq!(config.cache.serve_stale.on().unwrap().max_age, HumanDuration::from_secs(7200));
    assert!(!config.cache.rotate && config.observe.metrics.is_none());
    assert_eq!(config.limits.client_share, Fraction::from_percent(20));
    assert_eq!(config.rewrite[0].to, "b.example");
    assert_eq!(config.log.queries.on().unwrap().sample, Fraction::from_percent(5));
    assert_eq!(config.hosts.keys().collect::<Vec<_>>(), ["a.b.c"]);
}

#[test]
fn environment_problems_name_the_variable() {
    let refused = |name, value| with_environment(Some(ZONE), &[(name, value)]).unwrap_err().to_string();
    let message = refused("NODENS__LISTEN__PORT", "dns");
    let expected = "environment NODENS__LISTEN__PORT: listen.port: found \"dns\", expected a whole number";
    assert!(message.starts_with(expected), "{message}");
    for (name, value, part) in [
        ("NODENS__LISTEN__PROT", "53", "listen.prot: found an unknown key"),
        ("NODENS__LISTEN", "53", "listen: found 53, expected a block of keys"),
        ("NODENS__ZONES__256__NAME", "a", "found `256` in the variable's name"),
        ("NODENS__ZONES__3__NAME", "a", "zones[1]: found nothing"),
        ("NODENS__ZONES__3__FORWARD__TRANSPORT", "udp", "zones[1]: found nothing"),
        ("NODENS__ZONES__1__FORWARD__TO", "192.0.2.7", "zones[1].name: found nothing"),
        ("NODENS____PORT", "53", "found `` in the variable's name"),
        ("NODENS__REWRITE", "[{", "rewrite: found `[{`, expected a value in YAML"),
    ] {
        let message = refused(name, value);
        assert!(message.contains(part), "{message}");
        assert!(message.lines().all(|line| line.starts_with(&format!("environment {name}: "))), "{message}");
    }
    let error =
        with_environment(Some(ZONE), &[("NODENS__LOG__LEVEL", "info"), ("NODENS__log__level", "debug")]);
    assert!(error.unwrap_err().to_string().contains("one variable for one key"));
}

#[test]
fn all_problems_are_told_at_once_with_file_path_value_and_expectation() {
    let message = messages(
        r#"
listen: {port: 70000, prot: 1, addresses: [nowhere, 127.0.0.1, 0.0.0.0]}
cache: {min_ttl: 2h, size: 1MB, serve_stale: {max_age: 8d, anwser_ttl: 1s}}
zones:
  - forward: {to: ["10.0.0.1"]}
  - name: cluster.local
    forward: {to: ["10.0.0.256", 10.0.0.1], transport: tls}
  - name: Cluster.LOCAL.
    forward: {to: ["10.0.0.1"]}
log: {level: loud}
"#,
    );
    let expected = "\
test.yaml: cache.min_ttl: found 2h, expected at most max_ttl, which is 1h
test.yaml: cache.serve_stale.anwser_ttl: found an unknown key, expected one of max_age, answer_ttl, client_timeout (did you mean answer_ttl?)
test.yaml: cache.serve_stale.max_age: found 8d, expected 1s to 7d
test.yaml: cache.size: found \"1MB\", expected a whole number of bytes or one with KiB, MiB or GiB, such as 32MiB
test.yaml: listen.addresses[0]: found \"nowhere\", expected an IPv4 or IPv6 address
test.yaml: listen.addresses[2]: found 0.0.0.0, expected the addresses that clients ask, each by itself: replies leave from the address that was asked
test.yaml: listen.port: found 70000, expected a whole number from 1 to 65535
test.yaml: listen.prot: found an unknown key, expected one of addresses, port, workers, receive_buffer, max_udp_payload, tcp, drain (did you mean port?)
test.yaml: log.level: found \"loud\", expected one of error, warn, info, debug, trace
test.yaml: zones[0].name: found nothing, expected a value: this key is required
test.yaml: zones[1].forward.to[0]: found \"10.0.0.256\", expected an IP, ip:port, [v6]:port, or the absolute path of a resolv.conf
test.yaml: zones[1].forward.transport: found \"tls\", expected one of tcp, udp, auto
test.yaml: zones[2].name: found Cluster.LOCAL., expected each zone once; zones[1] has this name";
    assert_eq!(message, expected);
}

#[test]
fn wrong_values_are_refused() {
    for (text, part) in [
        ("listen: {port: 0}", "listen.port: found 0, expected 1 to 65535"),
        ("listen: {port: '53'}", "listen.port: found \"53\", expected a whole number"),
        ("listen: {port: true}", "listen.port: found true, expected a whole number"),
        ("listen: {addresses: []}", "listen.addresses: found an empty list"),
        (
            "listen: {addresses: [127.0.0.1, '127.0.0.1']}",
            "listen.addresses[1]: found 127.0.0.1 a second time",
        ),
        ("listen: {addresses: [224.0.0.251]}", "a unicast address"),
        ("listen: {addresses: ['::ffff:10.0.0.1']}", "the IPv4 address itself"),
        ("listen: {addresses: ['fe80::1']}", "without a scope"),
        ("listen: {addresses: 127.0.0.1}", "listen.addresses: found \"127.0.0.1\", expected a list"),
        ("listen: {workers: 0}", "listen.workers: found 0, expected auto or a whole number from 1 to 256"),
        ("listen: {max_udp_payload: 511}", "512 to 4096"),
        ("listen: {tcp: {max_connections: 0}}", "listen.tcp.max_connections: found 0"),
        ("listen.port: 53", "\"listen.port\": found an unknown key"),
        ("listen: {port: 53, port: 54}", "duplicate entry"),
        ("hosts: {a.example: [192.0.2.1], A.example.: [192.0.2.1]}", "each host once"),
        ("hosts: {a.example: []}", "hosts.\"a.example\": found an empty list"),
        ("hosts: {a.example: [b.example]}", "hosts.\"a.example\"[0]: found \"b.example\", expected an IPv4"),
        ("hosts: {1.5: [192.0.2.1]}", "hosts: found the key `1.5`, which is not text"),
        ("hosts: {'a..b': [192.0.2.1]}", "without empty labels"),
        ("cache: {max_ttl: 1500ms}", "whole seconds"),
        ("cache: {max_ttl: 8d}", "cache.max_ttl: found 8d, expected 0s to 7d"),
        ("cache: {max_ttl: 30}", "cache.max_ttl: found 30, expected a whole number with a unit"),
        ("cache: {size: 1KiB}", "cache.size: found 1KiB, expected 64KiB to 64GiB"),
        ("cache: {size: -1}", "cache.size: found -1, expected a whole number of bytes"),
        ("cache: {failure_ttl: {max: 6m}}", "cache.failure_ttl.max: found 6m, expected 1s to 5m"),
        ("cache: {failure_ttl: {min: 1m, max: 30s}}", "at most failure_ttl.max"),
        ("cache: {serve_stale: yes}", "cache.serve_stale: found \"yes\", expected true, false or a block"),
        ("cache: {serve_stale: {answer_ttl: 0s}}", "at least 1s"),
        ("cache: {prefetch: {remaining: 110%}}", "a share from 0% to 100%"),
        ("cache: {prefetch: {remaining: 0.6}}", "found 60%, expected 1% to 50%"),
        ("limits: {client_share: 0}", "limits.client_share: found 0%"),
        ("node: {interface: {name: a-name-too-long-x}}", "node.interface.name"),
        ("node: {interface: {name: lo}}", "a meaning to the kernel"),
        ("node: {interface: {kind: veth}}", "expected dummy or bridge"),
        (
            "node: {interface: {manage: true}}",
            "listen.addresses[0]: found 127.0.0.1, expected an address that can",
        ),
        ("observe: {metrics: 127.0.0.1}", "observe.metrics: found \"127.0.0.1\", expected ip:port"),
        ("observe: {metrics: '127.0.0.1:0'}", "observe.metrics: found 127.0.0.1:0"),
        ("observe: {health: '0.0.0.0:9253'}", "another port than observe.metrics"),
        ("observe: {health: '[::]:5353'}", "another port: DNS over TCP is on 127.0.0.1:5353"),
        ("rewrite: [{to: a}]", "rewrite[0]: found neither name nor suffix"),
        ("rewrite: [{name: a, suffix: b, to: c}]", "rewrite[0]: found both"),
        ("rewrite: [{name: a, to: A.}]", "another name than"),
        ("rewrite: [{name: a, to: b}, {name: A, to: c}]", "rewrite[1].name: found A, expected each"),
        ("log: {queries: {sample: 0%}}", "log.queries.sample: found 0%"),
        ("log: 3", "log: found 3, expected a block of keys"),
        ("zoness: []", "zoness: found an unknown key, expected one of listen"),
        ("a: !tag b", "found the tag `!tag`"),
        ("[1, 2]", "found a list, expected a block of keys"),
        ("- a", "found a list, expected a block of keys"),
        ("a", "found a single value, expected a block of keys"),
        ("listen: {max_udp_payload: many}", "expected a whole number from 512 to 4096"),
        ("a: .nan", "a finite number"),
        ("\tlisten: 1", "test.yaml: is not valid YAML"),
    ] {
        let message = messages(&format!("{text}\n"));
        assert!(message.contains(part) && message.contains("test.yaml"), "{text}: {message}");
    }
}

#[test]
fn wrong_zones_are_refused() {
    for (zone, part) in [
        ("{name: ., }", "zones[0]: found neither forward nor file"),
        ("{name: ., file: /dev/null, forward: {to: [192.0.2.1]}}", "zones[0]: found both"),
        ("{name: ., forward: {to: []}}", "zones[0].forward.to: found an empty list"),
        ("{name: ., forward: {}}", "zones[0].forward.to: found an empty list"),
        ("{name: ., forward: {to: [192.0.2.1, '192.0.2.1:53']}}", "to[1]: found 192.0.2.1:53 a second time"),
        ("{name: ., forward: {to: ['127.0.0.1:5353']}}", "this is nodens itself"),
        ("{name: ., forward: {to: ['[::ffff:127.0.0.1]:5353']}}", "this is nodens itself"),
        ("{name: ., forward: {to: ['192.0.2.1:0']}}", "a port from 1 to 65535"),
        ("{name: ., forward: {to: [0.0.0.0]}}", "a unicast address"),
        ("{name: ., forward: {to: ['fe80::1']}}", "such as [fe80::1%2]:53"),
        ("{name: ., forward: {to: [/nonexistent/resolv.conf]}}", "a readable resolv.conf"),
        ("{name: ., forward: {to: [/dev/null]}}", "no nameserver in /dev/null"),
        ("{name: ., forward: {to: [192.0.2.1], timeout: 2m}}", "zones[0].forward.timeout: found 2m"),
        ("{name: a, forward: {to: [192.0.2.1], except: [b]}}", "except[0]: found b, expected a name within"),
        ("{name: a, file: /nonexistent/zone}", "zones[0].file: found /nonexistent/zone (No such file"),
        ("{name: a, file: /}", "it is a directory"),
        ("{name: '', answers: [{}]}", "zones[0].name: found \"\", expected a domain name"),
        ("{name: a, answers: [{types: [NOPE]}]}", "zones[0].answers[0].types[0]: found NOPE"),
        ("{name: a, answers: [{name: b}]}", "zones[0].answers[0].name: found b"),
        ("{name: a, answers: [{rcode: nxdomain, addresses: [192.0.2.1]}]}", "none with this rcode"),
        ("{name: a, answers: [{}], dns64: {prefix: '64:ff9b::1'}}", "zones[0].dns64.prefix"),
        ("{name: a, answers: [{}], cache: {max_ttl: 30s, min_ttl: 1m}}", "zones[0].cache.min_ttl: found 1m"),
        ("{name: a, answers: [{}], cache: {size: 1MiB}}", "zones[0].cache.size: found an unknown key"),
    ] {
        let message = messages(&format!("zones: [{zone}]\n"));
        assert!(message.contains(part), "{zone}: {message}");
        assert_eq!(message.lines().count(), 1, "{zone}: {message}");
    }
}

#[test]
fn files_that_are_gone_hold_up_no_cleanup() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let zones =
        "zones: [{name: ., forward: {to: [/nonexistent/resolv.conf]}}, {name: a, file: /nonexistent/zone}]\n";
    writeln!(file, "{zones}node: {{interface: {{name: nodens7}}}}").unwrap();
    assert_eq!(load_with(Some(file.path()), []).unwrap_err().problems().len(), 2);
    let loaded = load_without_files(Some(file.path())).unwrap();
    assert_eq!(loaded.config.node.interface.name, "nodens7");
    writeln!(file, "limits: {{waiters: 0}}").unwrap();
    assert_eq!(load_without_files(Some(file.path())).unwrap_err().problems().len(), 1, "all else is checked");
}

#[test]
fn a_resolv_conf_that_names_us_is_a_loop() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"nameserver 10.0.0.1\nnameserver 169.254.20.10\n").unwrap();
    let path = file.path().display();
    let text = |port: u16| {
        format!(
            "listen: {{addresses: [169.254.20.10], port: {port}}}\nzones: [{{name: ., forward: {{to: [{path}]}}}}]"
        )
    };
    let message = messages(&text(53));
    assert!(message.contains("zones[0].forward.to[0]: found nameserver 169.254.20.10"), "{message}");
    assert!(load_text(&text(5353)).is_ok(), "another port is another server");
}

#[test]
fn null_stands_for_the_default_and_turns_listeners_off() {
    let loaded =
        load_text(&format!("{ZONE}cache:\nlisten: {{port: }}\nobserve: {{metrics: null, health: ~}}\n"));
    let config = loaded.unwrap().config;
    assert_eq!((config.cache, config.listen), (Cache::default(), Listen::default()));
    assert_eq!((config.observe.metrics, config.observe.health), (None, None));
}

#[test]
fn anchors_work_and_input_is_bounded() {
    let text = "zones:\n  - {name: a, forward: &up {to: [192.0.2.1]}}\n  - {name: b, forward: *up}\n  \
                - {name: c, forward: {<<: *up, policy: latency}}\n";
    let config = load_text(text).unwrap().config;
    assert_eq!(config.zones[0].forward, config.zones[1].forward);
    assert_eq!(config.zones[2].forward.as_ref().unwrap().policy, Policy::Latency);

    let bomb = (1..30).fold("a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned(), |text, level| {
        let inner = format!("*a{},", level - 1).repeat(9);
        format!("{text}a{level}: &a{level} [{inner}]\n")
    });
    assert!(messages(&bomb).contains("repetition limit"));
    assert!(messages(&"[".repeat(100_000)).contains("brackets nested deeper than 64 at line 1"));
    // Those in a comment are nothing that nests; a lone carriage return ends it.
    let comment = format!("  # {}\n", "[{".repeat(1000));
    assert!(load_text(&format!("{comment}log: {{level: info}}\n")).is_ok());
    let hidden = format!("# \r{}", "[".repeat(100_000));
    assert!(messages(&hidden).contains("brackets nested deeper than 64 at line 1"));
    assert!(messages(&"- ".repeat(1_000)).contains("recursion limit"));
    assert!(messages(&"#".repeat(2 << 20)).contains("more than 1048576 bytes"));

    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"log: {}\nhosts: {\xff: 1}\n").unwrap();
    let message = load_with(Some(file.path()), []).unwrap_err().to_string();
    assert!(message.contains("not UTF-8 at line 2"), "{message}");
    let message = load_with(Some(Path::new("/nonexistent/nodens.yaml")), []).unwrap_err().to_string();
    assert!(message.starts_with("/nonexistent/nodens.yaml: cannot be read: No such file"), "{message}");
}

#[test]
fn the_hash_follows_the_meaning() {
    let hash = |text: &str| load_text(&format!("{ZONE}{text}")).unwrap().hash;
    assert_eq!(
        hash("cache: {max_ttl: 60m}\nlog: {level: info}"),
        hash("log: {}\ncache: {max_ttl: 1h}\n# note")
    );
    assert_ne!(hash("cache: {max_ttl: 1h}"), hash("cache: {max_ttl: 2h}"));
}

#[test]
fn shipped_files_are_valid() {
    for text in [include_str!("../../config/nodens.yaml"), include_str!("../../config/dev.yaml"), REFERENCE] {
        // The machine's resolv.conf is not the file's fault.
        load_text(&text.replace("[/etc/resolv.conf]", "[192.0.2.1]")).unwrap();
    }
}

#[test]
fn the_reference_has_every_key_with_its_default() {
    // Every optional part present, so that serializing shows every key there is.
    let full: Config = serde_norway::from_str(
        "zones: [{name: ., forward: {except: [a]}, file: /f, answers: [{types: [A], name: b, addresses: [192.0.2.1]}], \
         dns64: {}, cache: {min_ttl: 0s, max_ttl: 0s, negative_max_ttl: 0s, serve_stale: false, prefetch: true}}]\n\
         rewrite: [{name: a, to: b}, {suffix: a, to: b}]\nlog: {queries: true}",
    )
    .unwrap();
    let mut keys = BTreeSet::new();
    collect_keys(&serde_norway::to_value(&full).unwrap(), "", &mut keys);
    let reference: Value = serde_norway::from_str(REFERENCE).unwrap();
    let mut stated = BTreeSet::new();
    collect_keys(&reference, "", &mut stated);
    // Keys that the reference shows in a comment, as two of a kind exclude each other.
    for (key, comment) in
        [("zones[].file", "#   file: /etc/nodens/corp.zone"), ("log.queries.sample", "{sample: 10%}")]
    {
        assert!(keys.contains(key) && REFERENCE.contains(comment), "{key}");
        stated.insert(key.to_owned());
    }
    let missing: Vec<_> = keys.difference(&stated).collect();
    assert!(missing.is_empty(), "config/reference.yaml lacks {missing:?}");

    let loaded = load_text(&REFERENCE.replace("[/etc/resolv.conf]", "[192.0.2.1]")).unwrap().config;
    let Config { zones, hosts: _, hosts_ttl, rewrite: _, listen, cache, limits, node, observe, log } = loaded;
    let default = Config::default();
    assert_eq!((listen, cache, hosts_ttl), (default.listen, default.cache, default.hosts_ttl));
    assert_eq!((limits, node, observe, log), (default.limits, default.node, default.observe, default.log));
    let forward = zones[0].forward.clone().unwrap();
    let examples = Forward { to: forward.to.clone(), except: forward.except.clone(), ..Forward::default() };
    assert_eq!(forward, examples);
    assert_eq!(zones[0].dns64, Some(Dns64::default()));
    let answer: FixedAnswer = serde_norway::from_str("{types: [AAAA], name: '*.v4.cluster.local'}").unwrap();
    assert_eq!(zones[0].answers, [answer]);
}

#[test]
fn the_page_explains_every_key_and_shows_real_messages() {
    const PAGE: &str = include_str!("../../docs/configure.md");
    let reference: Value = serde_norway::from_str(REFERENCE).unwrap();
    let mut keys = BTreeSet::new();
    collect_keys(&reference, "", &mut keys);
    for key in keys.iter().filter(|key| !key.starts_with("zones[].cache.") && *key != "zones[].forward") {
        let last = key.rsplit('.').next().unwrap();
        let written = [format!("`{last}"), format!(".{last}`"), format!("{last}\n"), format!("{last} and ")];
        assert!(written.iter().any(|text| PAGE.contains(text.as_str())), "docs/configure.md lacks {key}");
    }
    let messages = PAGE.split("```\n").nth(1).unwrap();
    let text = "listen: {prot: 1}\nzones: [{name: a, forward: {to: [192.0.2.1]}}, {name: b, forward: {to: [10.0.0.256]}}]";
    let error = from_str(text, "/etc/nodens/nodens.yaml").unwrap_err();
    let variable = with_environment(Some(ZONE), &[("NODENS__LISTEN__PORT", "dns")]).unwrap_err();
    let printed: Vec<_> =
        error.problems().iter().chain(variable.problems()).map(ToString::to_string).collect();
    for line in messages.lines() {
        assert!(printed.iter().any(|printed| printed == line), "{line}\n{printed:#?}");
    }
}

#[test]
fn every_key_is_reachable_from_the_environment() {
    let mut leaves = Vec::new();
    let config = Config { zones: load_text(ZONE).unwrap().config.zones, ..Config::default() };
    collect_leaves(&serde_norway::to_value(&config).unwrap(), "NODENS_", &mut leaves);
    assert!(leaves.len() > 40, "{leaves:?}");
    for (variable, value) in &leaves {
        let loaded = with_environment(Some(ZONE), &[(variable, value)]);
        assert_eq!(
            loaded.unwrap_or_else(|error| panic!("{variable}={value}: {error}")).config,
            config,
            "{variable}"
        );
        // A value that is right nowhere is noticed, so the variable is read.
        let wrong = with_environment(Some(ZONE), &[(variable, "{a: [b]}")]);
        assert!(wrong.is_err(), "{variable}");
    }
    let all = with_environment(
        Some(ZONE),
        &leaves.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect::<Vec<_>>(),
    );
    assert_eq!(all.unwrap().config, config);
}

fn collect_leaves(value: &Value, variable: &str, leaves: &mut Vec<(String, String)>) {
    match value {
        Value::Mapping(mapping) => {
            for (key, value) in mapping {
                let key = key.as_str().unwrap().to_ascii_uppercase();
                collect_leaves(value, &format!("{variable}__{key}").replace("NODENS___", "NODENS__"), leaves);
            }
        }
        Value::Sequence(list) if list.iter().all(Value::is_string) && !list.is_empty() => {
            let list: Vec<_> = list.iter().filter_map(Value::as_str).collect();
            leaves.push((variable.to_owned(), list.join(",")));
        }
        Value::Sequence(list) => {
            for (index, value) in list.iter().enumerate() {
                collect_leaves(value, &format!("{variable}__{index}"), leaves);
            }
        }
        value => {
            leaves.push((variable.to_owned(), serde_norway::to_string(value).unwrap().trim().to_owned()));
        }
    }
}

fn collect_keys(value: &Value, path: &str, keys: &mut BTreeSet<String>) {
    match value {
        Value::Mapping(mapping) => {
            for (key, value) in mapping {
                let path = decode::join(path, key.as_str().unwrap());
                // Names of hosts are data, not keys.
                if !path.starts_with("hosts.") {
                    keys.insert(path.clone());
                    collect_keys(value, &path, keys);
                }
            }
        }
        Value::Sequence(list) => {
            for value in list {
                collect_keys(value, &format!("{path}[]"), keys);
            }
        }
        _ => {}
    }
}

prop_compose! {
    fn some_duration()(millis in 0..604_800_000u64) -> HumanDuration { HumanDuration::from_millis(millis) }
}

prop_compose! {
    fn some_ttl()(seconds in 0..604_800u64) -> HumanDuration { HumanDuration::from_secs(seconds) }
}

prop_compose! {
    fn some_zone()(
        label in "[a-z]{1,10}",
        to in prop::collection::btree_set(any::<(u8, u16)>(), 1..4),
        file in any::<bool>(),
        max_ttl in prop::option::of(some_ttl()),
        hedge in 0..=1_000_000u32,
        stale in prop::option::of(any::<bool>()),
        dns64 in any::<bool>(),
        addresses in prop::collection::vec(any::<std::net::IpAddr>(), 0..3),
    ) -> Zone {
        let to = to.into_iter().map(|(host, port)| {
            UpstreamAddress::Address(([192, 0, 2, host], port.max(1)).into())
        });
        let forward = Forward { to: to.collect(), hedge: Fraction(f64::from(hedge) / 1e6), ..Forward::default() };
        let stale = stale.map(|on| if on { Switch::On(ServeStale::default()) } else { Switch::Off });
        Zone {
            name: label,
            forward: (!file).then_some(forward),
            file: file.then(|| "/dev/null".into()),
            answers: vec![FixedAnswer {
                types: Vec::new(),
                name: None,
                rcode: FixedRcode::Noerror,
                addresses,
                ttl: HumanDuration::from_secs(60),
            }],
            dns64: dns64.then(Dns64::default),
            cache: ZoneCache { max_ttl, serve_stale: stale, ..ZoneCache::default() },
        }
    }
}

proptest! {
    #[test]
    fn what_is_printed_loads_as_the_same(
        zone in some_zone(),
        port in 1..=1023u16,
        size in 65_536..1u64 << 36,
        drain in 0..=300_000u64,
        negative in some_ttl(),
        workers in prop::option::of(1..=256usize),
        host in "[a-z]{1,8}(\\.[a-z0-9]{1,8}){0,3}",
        remaining in 1..=50u32,
        metrics in any::<bool>(),
    ) {
        let mut config = Config { zones: vec![zone], ..Config::default() };
        config.listen.port = port;
        config.listen.drain = HumanDuration::from_millis(drain);
        config.listen.workers = workers.map_or(Workers::Auto, Workers::Count);
        config.cache.size = ByteSize(size);
        config.cache.negative_max_ttl = negative;
        config.cache.prefetch = Switch::On(Prefetch { min_hits: 1, remaining: Fraction::from_percent(remaining) });
        config.hosts.insert(host, vec!["192.0.2.1".parse().unwrap()]);
        if !metrics {
            config.observe.metrics = None;
        }
        let text = config.to_yaml();
        let loaded = load_text(&text).map_err(|error| TestCaseError::fail(format!("{error}\n{text}")))?;
        prop_assert_eq!(loaded.hash, config.hash());
        prop_assert_eq!(loaded.config, config);
    }

    #[test]
    fn units_print_as_they_read(duration in some_duration(), bytes in any::<u64>(), share in 0..=1_000_000u32) {
        prop_assert_eq!(duration.to_string().parse(), Ok(duration));
        prop_assert_eq!(ByteSize(bytes).to_string().parse(), Ok(ByteSize(bytes)));
        let share = Fraction(f64::from(share) / 1e6);
        prop_assert_eq!(share.to_string().parse(), Ok(share));
    }

    #[test]
    fn no_text_makes_it_panic(text in "([a-z]{1,6}|zones|listen|cache|name|forward|[:\\-\\[\\]{},#&*!|>'\"%@` \n]){0,60}") {
        let _ = load_text(&text);
    }
}
