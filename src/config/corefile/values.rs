//! Values as Corefiles write them: zones with ports, Go durations, addresses with a default.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::super::name;
use super::super::units::HumanDuration;

/// A server block's key: the zones it means (several for a network that is no whole octet) and its port.
pub(super) fn server_key(key: &str) -> Result<(Vec<String>, Option<u16>), &'static str> {
    let rest = match key.split_once("://") {
        None => key,
        Some(("dns", rest)) => rest,
        Some(_) => return Err("an encrypted listener"),
    };
    if let Some((ip, rest)) = rest.split_once('/') {
        let (length, port) = match rest.split_once(':') {
            Some((length, port)) => (length, Some(port)),
            None => (rest, None),
        };
        let ip: IpAddr = ip.parse().map_err(|_| "no zone")?;
        let length: u8 = length.parse().map_err(|_| "no zone")?;
        let port = port.map(|port| port.parse().map_err(|_| "no zone")).transpose()?;
        return Ok((reverse_zones(ip, length).ok_or("no zone")?, port));
    }
    let (zone, port) = match rest.rsplit_once(':') {
        Some((zone, port)) => (zone, Some(port.parse::<u16>().map_err(|_| "no zone")?)),
        None => (rest, None),
    };
    Ok((vec![zone_name(zone).ok_or("no zone")?], port))
}

/// Whether a word can be a server block's key, also one of a listener that nodens does not have (`tls://`).
pub(super) fn is_server_key(key: &str) -> bool {
    key.contains("://") || server_key(key).is_ok()
}

/// A zone as nodens writes it: lower case, no dot at the end but the root's.
pub(super) fn zone_name(text: &str) -> Option<String> {
    let text = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let text = if text.is_empty() { ".".to_owned() } else { text };
    name::to_wire(&text).is_ok().then_some(text)
}

/// A zone in a plugin's list, which may also be a network.
pub(super) fn zone_names(text: &str) -> Option<Vec<String>> {
    server_key(text).ok().map(|(zones, _)| zones)
}

/// A duration as Go's time.ParseDuration reads it, e.g. `1h30m`, or a number of seconds.
pub(super) fn duration(text: &str) -> Option<HumanDuration> {
    if let Ok(seconds) = text.parse::<u32>() {
        return Some(HumanDuration::from_secs(seconds.into()));
    }
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        let after = &rest[digits..];
        let unit = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let scale = match &after[..unit] {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        total = total.checked_add(Duration::try_from_secs_f64(number * scale).ok()?)?;
        rest = &after[unit..];
    }
    (!text.is_empty()).then_some(HumanDuration::from_millis(u64::try_from(total.as_millis()).ok()?))
}

/// A duration as a TTL: whole seconds, rounded up, within `largest`.
pub(super) fn ttl(text: &str, largest: u64) -> Option<HumanDuration> {
    let millis = duration(text)?.as_millis();
    Some(HumanDuration::from_secs(millis.div_ceil(1000).min(largest)))
}

/// `ip:port`, `:port`, `localhost:port`: where a listener of CoreDNS is. No address means all of them.
pub(super) fn listen_address(text: &str) -> Option<SocketAddr> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return (address.port() > 0).then_some(address);
    }
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port > 0)?;
    let ip: IpAddr = match host {
        "" => Ipv4Addr::UNSPECIFIED.into(),
        "localhost" => Ipv4Addr::LOCALHOST.into(),
        // CoreDNS also takes an IPv6 address without brackets.
        host => host.parse().ok()?,
    };
    Some(SocketAddr::new(ip, port))
}

/// The reverse zones of a network: one if its length is a whole octet or nibble, else one for each that it covers.
fn reverse_zones(ip: IpAddr, length: u8) -> Option<Vec<String>> {
    let (digits, per, apex): (Vec<u8>, u8, &str) = match ip {
        IpAddr::V4(ip) => (ip.octets().to_vec(), 8, "in-addr.arpa"),
        IpAddr::V6(ip) => {
            (ip.octets().iter().flat_map(|octet| [octet >> 4, octet & 15]).collect(), 4, "ip6.arpa")
        }
    };
    let whole = length.div_ceil(per);
    if length == 0 {
        return Some(vec![apex.to_owned()]);
    }
    let last = usize::from(whole) - 1;
    if last >= digits.len() {
        return None;
    }
    // The bits of the last digit that the network leaves open.
    let open = whole * per - length;
    let first = u16::from(digits[last]) >> open << open;
    let zones = (first..first + (1 << open)).map(|digit| {
        let labels = digits[..last].iter().copied().map(u16::from).chain([digit]).rev();
        let labels: Vec<_> =
            labels.map(|digit| if per == 8 { digit.to_string() } else { format!("{digit:x}") }).collect();
        format!("{}.{apex}", labels.join("."))
    });
    Some(zones.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys() {
        let zones = |key: &str| server_key(key).map(|(zones, port)| (zones.join(" "), port));
        assert_eq!(zones("cluster.local:53"), Ok(("cluster.local".to_owned(), Some(53))));
        assert_eq!(zones("dns://.:1053"), Ok((".".to_owned(), Some(1053))));
        assert_eq!(zones(":53"), Ok((".".to_owned(), Some(53))));
        assert_eq!(zones("Corp.Example."), Ok(("corp.example".to_owned(), None)));
        assert_eq!(zones("10.0.0.0/8"), Ok(("10.in-addr.arpa".to_owned(), None)));
        assert_eq!(
            zones("10.96.0.0/15:53"),
            Ok(("96.10.in-addr.arpa 97.10.in-addr.arpa".to_owned(), Some(53)))
        );
        assert_eq!(zones("2001:db8::/32"), Ok(("8.b.d.0.1.0.0.2.ip6.arpa".to_owned(), None)));
        assert_eq!(zones("fd00::/7").map(|(zones, _)| zones), Ok("c.f.ip6.arpa d.f.ip6.arpa".to_owned()));
        for wrong in ["tls://.", "a..b", "10.0.0.0/33", "a:port", "x/8", "255.255.255.255/99"] {
            assert!(server_key(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn durations() {
        for (text, millis) in
            [("30", Some(30_000)), ("1h30m", Some(5_400_000)), ("1.5s", Some(1_500)), ("100ms", Some(100))]
        {
            assert_eq!(duration(text).map(HumanDuration::as_millis), millis, "{text}");
        }
        for text in ["", "s", "1x", "-1s", "1e9999s", "1..s", "99999999999999999999h"] {
            assert_eq!(duration(text), None, "{text}");
        }
        assert_eq!(ttl("1500ms", 10), Some(HumanDuration::from_secs(2)));
    }

    #[test]
    fn listen_addresses() {
        for (text, address) in [
            (":9253", Some("0.0.0.0:9253")),
            ("localhost:9153", Some("127.0.0.1:9153")),
            ("169.254.20.10:8080", Some("169.254.20.10:8080")),
            ("[::1]:1", Some("[::1]:1")),
            ("fd00::10:8080", Some("[fd00::10]:8080")),
            ("9253", None),
            (":0", None),
            ("host:1", None),
        ] {
            assert_eq!(listen_address(text), address.map(|address| address.parse().unwrap()), "{text}");
        }
    }
}
