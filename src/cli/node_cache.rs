//! NodeLocal DNSCache's flags, in the notation of Go's `flag` package: one dash or two, `-name value` or `-name=value`,
//! and a bool without a value.

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};

use crate::config::NodeCacheFlags;

use super::{EXIT_USAGE, Exit};

/// The flags, if the arguments (without the program's name) are those of NodeLocal DNSCache, with or without `run`
/// before them. Fails on a wrong value, and on anything that is no flag of it.
pub(super) fn parse(arguments: &[OsString]) -> Result<Option<NodeCacheFlags>, Exit> {
    let words: Vec<_> = arguments.iter().map(|argument| argument.to_string_lossy()).collect();
    let words = match words.split_first() {
        Some((first, rest)) if first == "run" => rest,
        _ => &words,
    };
    // One dash and more than a letter is what clap's flags never look like.
    let is_go = |word: &str| {
        let flag = word.split('=').next().unwrap_or_default();
        let name = flag.strip_prefix('-').unwrap_or_default();
        name.len() > 1 && !name.starts_with('-')
            || name.strip_prefix('-').is_some_and(|name| FLAGS.contains(&name))
    };
    if !words.first().is_some_and(|word| is_go(word)) {
        return Ok(None);
    }
    let mut flags = NodeCacheFlags::default();
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        let name = word.strip_prefix("--").or_else(|| word.strip_prefix('-'));
        let Some(name) = name.filter(|name| !name.is_empty()) else {
            return Err(usage(&format!("found `{word}`, expected one of NodeLocal DNSCache's flags")));
        };
        let (name, value) = match name.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (name, None),
        };
        if !FLAGS.contains(&name) {
            let known = FLAGS.join(", -");
            return Err(usage(&format!("found `-{name}`, expected one of -{known} (or --config alone)")));
        }
        let value = match value {
            Some(value) => value,
            None if SWITCHES.contains(&name) => "true".to_owned(),
            None => match rest.next() {
                Some(value) => value.to_string(),
                None => return Err(usage(&format!("found nothing behind -{name}, expected a value"))),
            },
        };
        set(&mut flags, name, &value)
            .map_err(|expected| usage(&format!("-{name}: found {value:?}, expected {expected}")))?;
    }
    Ok(Some(flags))
}

/// Every flag that node-cache takes, and those of CoreDNS that reach it.
const FLAGS: [&str; 21] = [
    "localip",
    "conf",
    "basecorefile",
    "corefile",
    "kubednscm",
    "upstreamsvc",
    "interfacename",
    "setupinterface",
    "setupiptables",
    "setupebtables",
    "skipteardown",
    "metrics-listen-address",
    "health-port",
    "syncinterval",
    "pidfile",
    "reloadwithsignal",
    "dns.port",
    "p",
    "quiet",
    "logtostderr",
    "v",
];

/// Those that are true without a value.
const SWITCHES: [&str; 7] = [
    "setupinterface",
    "setupiptables",
    "setupebtables",
    "skipteardown",
    "reloadwithsignal",
    "quiet",
    "logtostderr",
];

fn set(flags: &mut NodeCacheFlags, name: &str, value: &str) -> Result<(), &'static str> {
    match name {
        "localip" => {
            let ips = value.split(',').map(str::trim).filter(|ip| !ip.is_empty()).map(str::parse::<IpAddr>);
            flags.local_ips =
                ips.collect::<Result<_, _>>().map_err(|_| "IP addresses, commas between them")?;
            if flags.local_ips.is_empty() {
                return Err("at least one IP address");
            }
        }
        "conf" | "corefile" => flags.corefile = Some(value.into()),
        "basecorefile" => flags.base_corefile = Some(value.into()),
        "kubednscm" => flags.kube_dns_dir = Some(value.into()),
        "upstreamsvc" => value.clone_into(&mut flags.upstream_service),
        "interfacename" => value.clone_into(&mut flags.interface_name),
        "setupinterface" => flags.setup_interface = go_bool(value)?,
        "setupiptables" => flags.setup_iptables = go_bool(value)?,
        "skipteardown" => flags.skip_teardown = go_bool(value)?,
        "metrics-listen-address" => {
            let address: SocketAddr = match value.strip_prefix(':') {
                Some(port) => format!("0.0.0.0:{port}"),
                None => value.to_owned(),
            }
            .parse()
            .map_err(|_| "ip:port")?;
            flags.setup_metrics = Some(address);
        }
        "health-port" => flags.health_port = Some(port(value)?),
        "dns.port" | "p" => flags.port = Some(port(value)?),
        // Nothing to do for these: ebtables' rules have no use here, rules are repaired on events and not by the clock,
        // nodens writes no pid file, watches its file, and its log is configured elsewhere.
        "setupebtables" | "reloadwithsignal" | "quiet" | "logtostderr" => {
            go_bool(value)?;
            flags.without_effect.push(format!("-{name}"));
        }
        _ => flags.without_effect.push(format!("-{name}")),
    }
    Ok(())
}

fn port(value: &str) -> Result<u16, &'static str> {
    value.parse().ok().filter(|port| *port > 0).ok_or("a port from 1 to 65535")
}

/// strconv.ParseBool.
fn go_bool(value: &str) -> Result<bool, &'static str> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("true or false"),
    }
}

fn usage(message: &str) -> Exit {
    Exit { code: EXIT_USAGE, message: format!("error: {message}\n") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(line: &str) -> Result<Option<NodeCacheFlags>, Exit> {
        parse(&line.split_whitespace().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn the_manifests_arguments_are_understood() {
        let manifest = "-localip 169.254.20.10,10.96.0.10 -conf /etc/Corefile -upstreamsvc kube-dns-upstream";
        for line in [
            manifest.to_owned(),
            format!("run {manifest}"),
            manifest.replace(" -", " --"),
            format!("-{}", manifest.replacen(' ', "=", 1)),
        ] {
            let flags = flags(&line).unwrap().unwrap();
            assert_eq!(flags.local_ips.len(), 2);
            assert_eq!(flags.corefile.unwrap().to_str(), Some("/etc/Corefile"));
            assert_eq!(flags.upstream_service, "kube-dns-upstream");
            assert!(flags.setup_interface && flags.setup_iptables && !flags.skip_teardown);
        }
    }

    #[test]
    fn go_notation() {
        let flags = flags(
            "run -localip=fd00::10 -setupiptables=false -setupinterface=0 -skipteardown -interfacename nld0 \
             -metrics-listen-address :9353 -health-port 8081 -dns.port=1053 -syncinterval 60s -pidfile=/run/x \
             -setupebtables -reloadwithsignal -kubednscm /etc/kube-dns -basecorefile /etc/coredns/Corefile.base",
        )
        .unwrap()
        .unwrap();
        assert_eq!(flags.local_ips, ["fd00::10".parse::<IpAddr>().unwrap()]);
        assert!(!flags.setup_iptables && !flags.setup_interface && flags.skip_teardown);
        assert_eq!(
            (flags.interface_name.as_str(), flags.port, flags.health_port),
            ("nld0", Some(1053), Some(8081))
        );
        assert_eq!(flags.setup_metrics, Some(([0, 0, 0, 0], 9353).into()));
        assert_eq!(
            flags.without_effect,
            ["-syncinterval", "-pidfile", "-setupebtables", "-reloadwithsignal"]
        );
    }

    #[test]
    fn other_command_lines_are_not_node_caches() {
        for line in ["", "run", "run --config a", "check --node", "--help", "--version", "-h"] {
            assert_eq!(flags(line), Ok(None), "{line}");
        }
    }

    #[test]
    fn wrong_flags_say_what_was_expected() {
        for (line, part) in [
            ("run -localip", "found nothing behind -localip"),
            ("run -localip 1.2.3", "-localip: found \"1.2.3\", expected IP addresses"),
            ("run -localip 10.0.0.1 -setupiptables=maybe", "expected true or false"),
            ("run -localip 10.0.0.1 stray", "found `stray`"),
            ("run -localip 10.0.0.1 -health-port 0", "a port from 1 to 65535"),
            ("run -lokalip 10.0.0.1", "found `-lokalip`, expected one of -localip"),
        ] {
            let exit = flags(line).unwrap_err();
            assert!(exit.code == EXIT_USAGE && exit.message.contains(part), "{line}: {exit:?}");
        }
    }
}
