//! The nameservers of a resolv.conf, as resolv.conf(5) defines them.
//!
//! `search`, `options` and the rest steer the resolver of a program; a forwarder has no use for them. All nameserver
//! lines count, not only the first three that glibc reads (its MAXNS).

use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::path::{Path, PathBuf};

/// What a resolv.conf says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResolvConf {
    /// The nameservers in the file's order, port 53, none twice.
    pub nameservers: Vec<SocketAddr>,
    /// Nameserver lines that cannot be used.
    pub ignored: Vec<IgnoredLine>,
}

/// A nameserver line that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: nameserver {value:?} is ignored: {reason}")]
pub struct IgnoredLine {
    /// Counted from 1.
    pub line: usize,
    /// What stands behind `nameserver`.
    pub value: String,
    /// Why it cannot be used.
    pub reason: &'static str,
}

/// A resolv.conf that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{}: cannot be read: {source}", path.display())]
pub struct ReadError {
    /// The file.
    pub path: PathBuf,
    /// What the system said.
    #[source]
    pub source: std::io::Error,
}

/// Reads a resolv.conf of any encoding; at most 64 KiB of it count.
pub fn read(path: &Path) -> Result<ResolvConf, ReadError> {
    let read = || {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(
            &mut std::io::Read::take(std::fs::File::open(path)?, MAX_BYTES),
            &mut bytes,
        )?;
        Ok(bytes)
    };
    let bytes = read().map_err(|source| ReadError { path: path.to_owned(), source })?;
    Ok(parse(&String::from_utf8_lossy(&bytes)))
}

/// Parses a resolv.conf. A scope such as `%eth0` is looked up in /sys/class/net.
pub fn parse(text: &str) -> ResolvConf {
    parse_with(text, interface_index)
}

/// Parses a resolv.conf, with the lookup of an interface's index as an argument.
pub fn parse_with(text: &str, index_of: impl Fn(&str) -> Option<u32>) -> ResolvConf {
    let mut conf = ResolvConf::default();
    for (number, line) in text.lines().enumerate() {
        // Comments start in the first column; glibc takes the keyword only there, others allow blanks before it.
        let mut words = line.split_ascii_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        let value = words.next().unwrap_or_default();
        match nameserver(value, &index_of) {
            Ok(address) if conf.nameservers.contains(&address) => {}
            Ok(address) => conf.nameservers.push(address),
            Err(reason) => {
                conf.ignored.push(IgnoredLine { line: number + 1, value: value.to_owned(), reason });
            }
        }
    }
    conf
}

/// Most bytes of a resolv.conf that are read.
const MAX_BYTES: u64 = 64 << 10;

/// The port of DNS; resolv.conf knows no other.
const PORT: u16 = 53;

fn nameserver(value: &str, index_of: impl Fn(&str) -> Option<u32>) -> Result<SocketAddr, &'static str> {
    let (ip, scope) = match value.split_once('%') {
        Some((ip, scope)) => (ip, Some(scope)),
        None => (value, None),
    };
    let ip: IpAddr = ip.parse().map_err(|_| "it is not an IPv4 or IPv6 address")?;
    if ip.is_unspecified() || ip.is_multicast() {
        return Err("nobody can be reached at this address");
    }
    match (ip, scope) {
        (IpAddr::V6(ip), scope) if ip.is_unicast_link_local() => {
            let scope = scope.ok_or("a link-local address needs its interface, such as %eth0")?;
            let index = scope.parse().ok().or_else(|| index_of(scope));
            let index = index.filter(|index| *index > 0).ok_or("there is no such interface")?;
            Ok(SocketAddrV6::new(ip, PORT, 0, index).into())
        }
        // A scope means nothing on an address that is not link-local.
        (IpAddr::V4(_), Some(_)) => Err("an IPv4 address has no interface"),
        (ip, _) => Ok(SocketAddr::new(ip, PORT)),
    }
}

fn interface_index(name: &str) -> Option<u32> {
    if name.is_empty() || name.contains('/') || name.starts_with('.') {
        return None;
    }
    let text = std::fs::read_to_string(Path::new("/sys/class/net").join(name).join("ifindex")).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nameserver_lines_count_and_others_do_not() {
        let conf = parse_with(
            "# by hand\n; nameserver 1.1.1.1\nsearch example.org\nnameserver 10.0.0.10\n\tnameserver  fd00::1 # two\n\
             nameserver 10.0.0.10\noptions ndots:5\nnameserver fe80::1%eth0\nnameserver fe80::2%3\n",
            |name| (name == "eth0").then_some(2),
        );
        let expected = ["10.0.0.10:53", "[fd00::1]:53", "[fe80::1%2]:53", "[fe80::2%3]:53"];
        assert_eq!(conf.nameservers, expected.map(|address| address.parse().unwrap()));
        assert_eq!(conf.ignored, []);
    }

    #[test]
    fn lines_that_cannot_be_used_say_why() {
        let conf = parse_with(
            "nameserver\nnameserver dns.example\nnameserver 0.0.0.0\nnameserver fe80::1\nnameserver fe80::1%no\n\
             nameserver 1.1.1.1%eth0\nnameservers 1.1.1.1\n",
            |_| None,
        );
        assert!(conf.nameservers.is_empty());
        assert_eq!(conf.ignored.iter().map(|ignored| ignored.line).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
        assert!(conf.ignored[3].to_string().contains("needs its interface"), "{}", conf.ignored[3]);
    }

    #[test]
    fn loopback_has_an_index() {
        assert_eq!(interface_index("lo"), Some(1));
        assert_eq!(interface_index("../net/lo"), None);
    }

    proptest! {
        #[test]
        fn any_text_parses(text in "(nameserver[ \t]+)?.{0,40}\n?(nameserver [0-9a-f:.%]{0,20}\n)?") {
            let conf = parse_with(&text, |_| None);
            prop_assert!(conf.nameservers.len() + conf.ignored.len() <= 2);
        }
    }
}
