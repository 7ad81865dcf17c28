//! `zones`, `hosts` and `rewrite`: names, files, upstreams that are nodens itself.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use hickory_proto::rr::RecordType;

use super::super::name;
use super::super::resolv_conf;
use super::super::schema::{Config, FixedAnswer, FixedRcode, Forward, Listen, UpstreamAddress, Zone};
use super::super::units::HumanDuration;
use super::{Files, Findings, LONGEST_TTL, SECONDS_1};

/// Checks `zones`, `hosts` and `rewrite`.
pub(super) fn check(config: &Config, findings: &mut Findings) {
    if config.zones.is_empty() && config.hosts.is_empty() {
        findings.add("zones", "none, and no hosts", "at least one zone, such as `.` with a forward");
    }
    let mut seen = HashMap::new();
    for (index, zone) in config.zones.iter().enumerate() {
        let path = format!("zones[{index}]");
        let wire = wire_name(&format!("{path}.name"), &zone.name, findings);
        if let Some(wire) = &wire
            && let Some(first) = seen.insert(wire.clone(), index)
        {
            findings.add(
                format!("{path}.name"),
                &zone.name,
                format!("each zone once; zones[{first}] has this name"),
            );
        }
        check_zone(&path, zone, wire.as_deref(), config, findings);
    }
    hosts(config, findings);
    rewrite(config, findings);
}

fn check_zone(path: &str, zone: &Zone, wire: Option<&[u8]>, config: &Config, findings: &mut Findings) {
    match (&zone.forward, &zone.file) {
        (Some(_), Some(_)) => findings.add(path, "both forward and file", "one of them"),
        (None, None) if zone.answers.is_empty() => {
            findings.add(path, "neither forward nor file", "one of them, or answers");
        }
        (Some(forward), None) => check_forward(path, forward, wire, &config.listen, findings),
        (None, Some(file)) => readable(&format!("{path}.file"), file, "a master file (RFC 1035)", findings),
        (None, None) => {}
    }
    for (index, answer) in zone.answers.iter().enumerate() {
        check_answer(&format!("{path}.answers[{index}]"), answer, wire, findings);
    }
    if let Some(dns64) = &zone.dns64 {
        // RFC 6052 §2.2: of the prefix lengths, /96 is the one whose low 32 bits are the IPv4 address.
        let segments = dns64.prefix.segments();
        if segments[6..] != [0, 0] || dns64.prefix.is_unspecified() || dns64.prefix.is_multicast() {
            findings.add(
                format!("{path}.dns64.prefix"),
                dns64.prefix,
                "a /96 prefix whose last 32 bits are 0",
            );
        }
    }
    let path = format!("{path}.cache");
    for (key, ttl) in [
        ("min_ttl", zone.cache.min_ttl),
        ("max_ttl", zone.cache.max_ttl),
        ("negative_max_ttl", zone.cache.negative_max_ttl),
    ] {
        if let Some(ttl) = ttl {
            findings.ttl(&format!("{path}.{key}"), ttl, LONGEST_TTL);
        }
    }
    if zone.cache.min_ttl.is_some() || zone.cache.max_ttl.is_some() {
        let min = zone.cache.min_ttl.unwrap_or(config.cache.min_ttl);
        super::ttl_bounds(&path, min, zone.cache.max_ttl.unwrap_or(config.cache.max_ttl), findings);
    }
    if let Some(stale) = &zone.cache.serve_stale {
        super::serve_stale(&path, stale, findings);
    }
    if let Some(prefetch) = &zone.cache.prefetch {
        super::prefetch(&path, prefetch, findings);
    }
}

fn check_forward(
    path: &str,
    forward: &Forward,
    zone: Option<&[u8]>,
    listen: &Listen,
    findings: &mut Findings,
) {
    let path = format!("{path}.forward");
    if forward.to.is_empty() {
        findings.add(format!("{path}.to"), "an empty list", "at least one upstream");
    }
    for (index, upstream) in forward.to.iter().enumerate() {
        let at = format!("{path}.to[{index}]");
        if forward.to[..index].contains(upstream) {
            findings.add(&at, format!("{upstream} a second time"), "each upstream once");
        }
        match upstream {
            UpstreamAddress::Address(address) => {
                if let Some(expected) = unfit_upstream(*address) {
                    findings.add(&at, upstream, expected);
                }
                if is_own(*address, listen) {
                    let expected =
                        "another server: this is nodens itself (listen.addresses), and queries would loop";
                    findings.add(&at, upstream, expected);
                }
            }
            UpstreamAddress::ResolvConf(file) => resolv_conf(&at, file, listen, findings),
        }
    }
    let (ms_100, minute) = (HumanDuration::from_millis(100), HumanDuration::from_secs(60));
    findings.within(&format!("{path}.timeout"), forward.timeout, ms_100..=minute);
    findings.within(&format!("{path}.max_connections"), forward.max_connections, 1..=1024);
    findings.within(
        &format!("{path}.max_age"),
        forward.max_age,
        SECONDS_1..=HumanDuration::from_secs(86_400),
    );
    // One query id each on every connection.
    findings.within(&format!("{path}.max_in_flight"), forward.max_in_flight, 1..=65_536 * 16);
    for (index, except) in forward.except.iter().enumerate() {
        let at = format!("{path}.except[{index}]");
        if let (Some(wire), Some(zone)) = (wire_name(&at, except, findings), zone)
            && !name::is_within(&wire, zone)
        {
            findings.add(&at, except, "a name within this zone");
        }
    }
}

fn resolv_conf(path: &str, file: &Path, listen: &Listen, findings: &mut Findings) {
    if findings.files == Files::Ignored {
        return;
    }
    let conf = match resolv_conf::read(file) {
        Ok(conf) => conf,
        Err(error) => return findings.add(path, error, "a readable resolv.conf"),
    };
    if conf.nameservers.is_empty() {
        let mut found = format!("no nameserver in {}", file.display());
        for ignored in conf.ignored.iter().take(1) {
            found = format!("{found} ({ignored})");
        }
        findings.add(path, found, "at least one line `nameserver ADDRESS`");
    }
    for own in conf.nameservers.iter().filter(|address| is_own(**address, listen)) {
        findings.add(
            path,
            format!("nameserver {} in {}", own.ip(), file.display()),
            "a resolv.conf without nodens' own listen addresses, or queries would loop; \
             point to the file the node's network setup writes, such as /run/systemd/resolve/resolv.conf",
        );
    }
}

fn unfit_upstream(address: SocketAddr) -> Option<&'static str> {
    match address {
        _ if address.port() == 0 => Some("a port from 1 to 65535"),
        _ if address.ip().is_unspecified() || address.ip().is_multicast() => Some("a unicast address"),
        SocketAddr::V4(v4) if v4.ip().is_broadcast() => Some("a unicast address"),
        SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() && v6.scope_id() == 0 => {
            Some("a link-local address with the number of its interface, such as [fe80::1%2]:53")
        }
        _ => None,
    }
}

fn is_own(address: SocketAddr, listen: &Listen) -> bool {
    let same = |own: &IpAddr| own.to_canonical() == address.ip().to_canonical();
    address.port() == listen.port && listen.addresses.iter().any(same)
}

fn readable(path: &str, file: &Path, expected: &str, findings: &mut Findings) {
    if findings.files == Files::Ignored {
        return;
    }
    let opened = std::fs::File::open(file).and_then(|opened| opened.metadata());
    let problem = match opened {
        Ok(metadata) if metadata.is_dir() => "it is a directory".to_owned(),
        Ok(_) => return,
        Err(error) => error.to_string(),
    };
    findings.add(path, format!("{} ({problem})", file.display()), expected);
}

fn check_answer(path: &str, answer: &FixedAnswer, zone: Option<&[u8]>, findings: &mut Findings) {
    for (index, kind) in answer.types.iter().enumerate() {
        if !is_type(kind) {
            let expected = "the name of a query type, such as AAAA, or TYPE65 (RFC 3597)";
            findings.add(format!("{path}.types[{index}]"), kind, expected);
        }
    }
    if let Some(name) = &answer.name {
        let at = format!("{path}.name");
        let plain = name.strip_prefix("*.").filter(|rest| !rest.is_empty()).unwrap_or(name);
        if let (Some(wire), Some(zone)) = (wire_name(&at, plain, findings), zone)
            && !name::is_within(&wire, zone)
        {
            findings.add(at, name, "a name within this zone, or `*.` and one for all below it");
        }
    }
    if answer.rcode != FixedRcode::Noerror && !answer.addresses.is_empty() {
        findings.add(format!("{path}.addresses"), "addresses", "none with this rcode");
    }
    findings.ttl(&format!("{path}.ttl"), answer.ttl, LONGEST_TTL);
}

/// Whether `text` names a type a query can ask for, in upper or lower case, or as `TYPE65`.
pub(in crate::config) fn is_type(text: &str) -> bool {
    let upper = text.to_ascii_uppercase();
    match upper.strip_prefix("TYPE") {
        Some(number) => number.parse::<u16>().is_ok(),
        None => upper.parse::<RecordType>().is_ok(),
    }
}

fn hosts(config: &Config, findings: &mut Findings) {
    findings.ttl("hosts_ttl", config.hosts_ttl, LONGEST_TTL);
    let mut seen = HashSet::new();
    for (host, addresses) in &config.hosts {
        let path = super::super::decode::join("hosts", host);
        if let Some(wire) = wire_name(&path, host, findings)
            && !seen.insert(wire)
        {
            findings.add(&path, host, "each host once, whatever its letter case");
        }
        if addresses.is_empty() {
            findings.add(&path, "an empty list", "at least one address");
        }
    }
}

fn rewrite(config: &Config, findings: &mut Findings) {
    let mut seen = HashSet::new();
    for (index, rule) in config.rewrite.iter().enumerate() {
        let path = format!("rewrite[{index}]");
        let to = wire_name(&format!("{path}.to"), &rule.to, findings);
        let (key, from) = match (&rule.name, &rule.suffix) {
            (Some(name), None) => ("name", name),
            (None, Some(suffix)) => ("suffix", suffix),
            (Some(_), Some(_)) => {
                findings.add(path, "both name and suffix", "one of them");
                continue;
            }
            (None, None) => {
                findings.add(path, "neither name nor suffix", "one of them");
                continue;
            }
        };
        let path = format!("{path}.{key}");
        let Some(wire) = wire_name(&path, from, findings) else { continue };
        if to.as_ref() == Some(&wire) {
            findings.add(&path, from, "another name than `to`");
        }
        if !seen.insert((key, wire)) {
            findings.add(&path, from, "each name or suffix once; the first rule would hide this one");
        }
    }
}

fn wire_name(path: &str, text: &str, findings: &mut Findings) -> Option<Box<[u8]>> {
    name::to_wire(text).map_err(|error| findings.add(path, format!("{text:?}"), error.to_string())).ok()
}
