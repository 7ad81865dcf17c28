//! Special-use names: answered on the node, never sent on, so that neither upstream nor root ever sees them.
//!
//! A zone configured for such a name, or for one below it, takes precedence: whoever runs a `test` zone says so.
//! The reverse zones of private addresses (RFC 6303 §4.1) are not here: in a cluster they hold pods and services.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::records;
use crate::wire::answer::{Answer, Kind};
use crate::wire::name::is_at_or_below;
use crate::wire::{CLASS_IN, rtype};

/// What a special-use suffix answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Special {
    suffix: &'static [u8],
    rule: Rule,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// 127.0.0.1 and ::1, and NODATA for every other type (RFC 6761 §6.3).
    Loopback,
    /// PTR `localhost.` for exactly this name, NXDOMAIN below it.
    LoopbackReverse,
    /// The name exists and has nothing.
    NoData,
    /// The name does not exist.
    NxDomain,
}

impl Special {
    /// The rule for a folded name, unless the zone it would be looked up in, `zone_len` bytes of its end, is as long
    /// as the special suffix: then somebody configured that zone. `zone_len` is 0 where no zone covers the name.
    pub fn of(name: &[u8], qclass: u16, zone_len: usize) -> Option<Self> {
        if qclass != CLASS_IN {
            return None;
        }
        // Nearly no name ends in one of these labels: one comparison of the last label sorts the others out.
        let last = last_label(name)?;
        let special = SPECIAL
            .iter()
            .find(|special| special.suffix.ends_with(last) && is_at_or_below(name, special.suffix))?;
        (zone_len < special.suffix.len()).then_some(*special)
    }

    /// The answer to a question for `name` under this rule.
    pub fn answer(self, name: &[u8], qtype: u16) -> Answer {
        let apex_len = self.suffix.len();
        match self.rule {
            Rule::Loopback => {
                let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
                records::addresses(name, apex_len, qtype, &loopback, TTL)
            }
            Rule::LoopbackReverse if name.len() == apex_len => match qtype {
                rtype::PTR | rtype::ANY => records::pointers([&b"\x09localhost\x00"[..]], TTL),
                _ => records::negative(Kind::NoData, name, apex_len, TTL),
            },
            Rule::NoData => records::negative(Kind::NoData, name, apex_len, TTL),
            Rule::LoopbackReverse | Rule::NxDomain => records::negative(Kind::NxDomain, name, apex_len, TTL),
        }
    }
}

/// The last label with its length and the root byte behind it; `None` for the root itself.
fn last_label(name: &[u8]) -> Option<&[u8]> {
    let (mut at, mut last) = (0, None);
    while let Some(&len) = name.get(at).filter(|&&len| len != 0) {
        last = Some(at);
        at += 1 + usize::from(len);
    }
    name.get(last?..)
}

const fn special(suffix: &'static [u8], rule: Rule) -> Special {
    Special { suffix, rule }
}

/// Longer suffixes before those they end in.
const SPECIAL: &[Special] = &[
    // RFC 6761 §6.3.
    special(b"\x09localhost\x00", Rule::Loopback),
    // RFC 6761 §6.4.
    special(b"\x07invalid\x00", Rule::NxDomain),
    // RFC 6761 §6.2: negative by default; a zone of that name is how one says otherwise.
    special(b"\x04test\x00", Rule::NxDomain),
    // RFC 7686 §2.
    special(b"\x05onion\x00", Rule::NxDomain),
    // RFC 9476 §3.
    special(b"\x03alt\x00", Rule::NxDomain),
    // RFC 9462 §6.4: a forwarder keeps these to itself; nothing is designated here.
    special(b"\x08resolver\x04arpa\x00", Rule::NoData),
    // RFC 6303 §4.2 to §4.5: this host, loopback, link-local, documentation and broadcast addresses.
    special(b"\x011\x010\x010\x03127\x07in-addr\x04arpa\x00", Rule::LoopbackReverse),
    special(b"\x03127\x07in-addr\x04arpa\x00", Rule::NxDomain),
    special(b"\x010\x07in-addr\x04arpa\x00", Rule::NxDomain),
    special(b"\x03254\x03169\x07in-addr\x04arpa\x00", Rule::NxDomain),
    special(b"\x012\x010\x03192\x07in-addr\x04arpa\x00", Rule::NxDomain),
    special(b"\x03100\x0251\x03198\x07in-addr\x04arpa\x00", Rule::NxDomain),
    special(b"\x03113\x010\x03203\x07in-addr\x04arpa\x00", Rule::NxDomain),
    special(b"\x03255\x03255\x03255\x03255\x07in-addr\x04arpa\x00", Rule::NxDomain),
    special(IP6_ONE, Rule::LoopbackReverse),
    special(IP6_ZERO, Rule::NxDomain),
    special(b"\x018\x01e\x01f\x03ip6\x04arpa\x00", Rule::NxDomain),
    special(b"\x019\x01e\x01f\x03ip6\x04arpa\x00", Rule::NxDomain),
    special(b"\x01a\x01e\x01f\x03ip6\x04arpa\x00", Rule::NxDomain),
    special(b"\x01b\x01e\x01f\x03ip6\x04arpa\x00", Rule::NxDomain),
    special(b"\x018\x01b\x01d\x010\x011\x010\x010\x012\x03ip6\x04arpa\x00", Rule::NxDomain),
];

/// The reverse name of `::1`.
const IP6_ONE: &[u8] =
    b"\x011\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\
    \x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x03ip6\x04arpa\x00";

/// The reverse name of `::`.
const IP6_ZERO: &[u8] =
    b"\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\
    \x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x03ip6\x04arpa\x00";

/// TTL of these answers, in seconds: a day, since they never change (RFC 6303 §3 uses 10800 for its zones, and the
/// zone's own `max_ttl` bounds it as any other).
const TTL: u32 = 86_400;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::name::to_wire;
    use crate::wire::rcode;

    fn ask(name: &str, qtype: u16) -> Option<Answer> {
        let name = to_wire(name).unwrap();
        Special::of(&name, CLASS_IN, 1).map(|special| special.answer(&name, qtype))
    }

    #[test]
    fn rfc6761_localhost_and_all_below_it_are_loopback() {
        for name in ["localhost", "a.b.localhost"] {
            let answer = ask(name, rtype::A).unwrap();
            assert!(answer.body.ends_with(&[127, 0, 0, 1]) && answer.counts == [1, 0, 0], "{name}");
            let answer = ask(name, rtype::AAAA).unwrap();
            assert!(answer.body.ends_with(&Ipv6Addr::LOCALHOST.octets()), "{name}");
            assert_eq!(ask(name, 15).unwrap().kind, Kind::NoData, "{name} MX");
        }
        assert!(ask("mylocalhost", rtype::A).is_none() && ask("localhost.example", rtype::A).is_none());
    }

    #[test]
    fn rfc6761_rfc7686_rfc9476_invalid_test_onion_and_alt_do_not_exist() {
        for name in ["invalid", "a.invalid", "x.test", "abc.onion", "onion", "y.alt"] {
            let answer = ask(name, rtype::A).unwrap();
            assert_eq!((answer.kind, answer.rcode), (Kind::NxDomain, rcode::NXDOMAIN), "{name}");
            assert_eq!(answer.counts, [0, 1, 0], "{name}: with a SOA");
        }
    }

    #[test]
    fn rfc6303_reverse_of_link_local_and_loopback_stays_here() {
        for name in ["10.20.254.169.in-addr.arpa", "1.1.0.127.in-addr.arpa", "1.0.8.e.f.ip6.arpa"] {
            assert_eq!(ask(name, rtype::PTR).unwrap().kind, Kind::NxDomain, "{name}");
        }
        let one = format!("1.{}ip6.arpa", "0.".repeat(31));
        for name in ["1.0.0.127.in-addr.arpa", &one] {
            let answer = ask(name, rtype::PTR).unwrap();
            assert_eq!(answer.kind, Kind::Positive, "{name}");
            assert!(answer.body.ends_with(b"\x09localhost\x00"));
        }
        let zero = format!("0.{}ip6.arpa", "0.".repeat(31));
        assert_eq!(ask(&zero, rtype::PTR).unwrap().kind, Kind::NxDomain);
    }

    #[test]
    fn private_reverse_zones_and_cluster_names_are_forwarded() {
        for name in
            ["10.0.96.10.in-addr.arpa", "1.0.d.f.ip6.arpa", "kubernetes.default.svc.cluster.local", "."]
        {
            assert!(ask(name, rtype::PTR).is_none(), "{name}");
        }
    }

    #[test]
    fn a_zone_configured_for_the_name_or_below_it_takes_precedence() {
        let name = to_wire("a.corp.test").unwrap();
        assert!(Special::of(&name, CLASS_IN, to_wire(".").unwrap().len()).is_some());
        assert!(Special::of(&name, CLASS_IN, to_wire("test").unwrap().len()).is_none());
        assert!(Special::of(&name, CLASS_IN, to_wire("corp.test").unwrap().len()).is_none());
    }

    #[test]
    fn another_class_is_no_special_name() {
        assert!(Special::of(&to_wire("localhost").unwrap(), 3, 1).is_none());
    }
}
