//! What connection tracking says of itself, for the metrics: a full table or lost insertions are how the outages begin
//! that this project exists to prevent.
//!
//! Everything is read when asked for. What the kernel does not offer or does not let us see is absent, without an error:
//! a node may well have no connection tracking.

use std::fs;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use netlink_packet_core::{DefaultNla, Emitable as _, NLA_F_NESTED, Nla, NlaBuffer, NlasIterator};
use netlink_packet_netfilter::NetfilterProtoFamily;
use netlink_packet_netfilter::conntrack::{ConntrackMessage, ProtoTuple, Protocol, Tuple};

use super::nfnetlink::{Channel, Request};

/// One look at connection tracking. Counters are sums over all cpus since boot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reading {
    /// Rows in the table.
    pub entries: Option<u64>,
    /// Most rows there can be (`net.netfilter.nf_conntrack_max`).
    pub limit: Option<u64>,
    /// Rows that could not be inserted, mostly because another packet of the flow was faster: a packet lost.
    pub insert_failed: Option<u64>,
    /// Packets dropped because the table was full.
    pub drop: Option<u64>,
    /// Rows thrown out early because the table was full.
    pub early_drop: Option<u64>,
    /// Rows of UDP flows to port 53, whoever's they are.
    pub dns: Option<DnsRows>,
}

/// Rows of UDP flows to port 53.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DnsRows {
    /// How many were found.
    pub count: u64,
    /// Whether the whole table was looked through; if not, there are at least `count`.
    pub complete: bool,
}

/// Reads connection tracking.
///
/// Everything but the DNS rows costs some 0.2 ms. To count those the kernel walks the whole table, 25 ms for each family
/// with 262,144 empty buckets and 140 ms with 205,000 rows (kernel 6.18). The count is therefore given out again for
/// [`DNS_ROWS_AGE`], and for longer where it takes longer: it uses at most a [`DNS_ROWS_SHARE`]th of one cpu.
#[derive(Debug, Default)]
pub struct Conntrack {
    dns: Mutex<Option<CachedRows>>,
}

#[derive(Debug, Clone, Copy)]
struct CachedRows {
    rows: Option<DnsRows>,
    due: Instant,
}

impl Conntrack {
    /// Reads everything. May block for [`DNS_ROWS_TIME`] and more; call it off the async threads.
    pub fn read(&self, now: Instant) -> Reading {
        let Some(entries) = read_number("/proc/sys/net/netfilter/nf_conntrack_count") else {
            return Reading::default();
        };
        let counters = counters();
        Reading {
            entries: Some(entries),
            limit: read_number("/proc/sys/net/netfilter/nf_conntrack_max"),
            insert_failed: counters.map(|counters| counters.insert_failed),
            drop: counters.map(|counters| counters.drop),
            early_drop: counters.map(|counters| counters.early_drop),
            dns: self.dns_rows(now),
        }
    }

    fn dns_rows(&self, now: Instant) -> Option<DnsRows> {
        let mut cached = self.dns.lock().unwrap_or_else(PoisonError::into_inner);
        match *cached {
            Some(CachedRows { rows, due }) if now < due => rows,
            _ => {
                let rows = count_dns_rows(now + DNS_ROWS_TIME);
                *cached = Some(CachedRows { rows, due: now + valid_for(now.elapsed()) });
                rows
            }
        }
    }
}

/// How long a count is given out again after it took this long.
fn valid_for(took: Duration) -> Duration {
    DNS_ROWS_AGE.max(took * DNS_ROWS_SHARE)
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counters {
    insert_failed: u64,
    drop: u64,
    early_drop: u64,
}

/// The counters by ctnetlink, or from procfs where that is not allowed. Not every kernel has the procfs file
/// (CONFIG_NF_CONNTRACK_PROCFS), and ctnetlink needs CAP_NET_ADMIN.
fn counters() -> Option<Counters> {
    netlink_counters().or_else(|| parse_proc(&fs::read_to_string("/proc/net/stat/nf_conntrack").ok()?))
}

fn netlink_counters() -> Option<Counters> {
    let mut channel = Channel::open().ok()?;
    let message =
        ConntrackMessage::Other { message_type: IPCTNL_MSG_CT_GET_STATS_CPU, attributes: Vec::new() };
    let mut sum = Counters::default();
    let mut cpus = 0;
    let complete = channel
        .dump(Request::new(NetfilterProtoFamily::Unspec, 0, message), None, |_, attributes| {
            cpus += 1;
            for attribute in NlasIterator::new(attributes).filter_map(Result::ok) {
                let value =
                    attribute.value().try_into().map_or(0, |bytes| u64::from(u32::from_be_bytes(bytes)));
                match attribute.kind() {
                    CTA_STATS_INSERT_FAILED => sum.insert_failed += value,
                    CTA_STATS_DROP => sum.drop += value,
                    CTA_STATS_EARLY_DROP => sum.early_drop += value,
                    _ => {}
                }
            }
        })
        .ok()?;
    (complete && cpus > 0).then_some(sum)
}

/// One line of column names, then one of hexadecimal numbers for each cpu (net/netfilter/nf_conntrack_standalone.c).
fn parse_proc(text: &str) -> Option<Counters> {
    let mut lines = text.lines();
    let names: Vec<_> = lines.next()?.split_ascii_whitespace().collect();
    let column = |name| names.iter().position(|&column| column == name);
    let (insert_failed, drop, early_drop) =
        (column("insert_failed")?, column("drop")?, column("early_drop")?);
    let mut sum = Counters::default();
    for line in lines {
        let numbers: Vec<_> =
            line.split_ascii_whitespace().map(|n| u64::from_str_radix(n, 16).unwrap_or(0)).collect();
        let number = |index: usize| numbers.get(index).copied().unwrap_or(0);
        sum.insert_failed += number(insert_failed);
        sum.drop += number(drop);
        sum.early_drop += number(early_drop);
    }
    Some(sum)
}

/// Counts the rows of both families, or as many as the kernel has handed out at the deadline.
///
/// The kernel sorts them out by itself from Linux 5.8 on (`CTA_FILTER`); before, it sends all and they are sorted out
/// here.
fn count_dns_rows(deadline: Instant) -> Option<DnsRows> {
    let mut rows = DnsRows { count: 0, complete: true };
    for family in [NetfilterProtoFamily::IPv4, NetfilterProtoFamily::IPv6] {
        let mut channel = Channel::open().ok()?;
        let count = |_, attributes: &[u8]| rows.count += u64::from(is_dns(attributes).unwrap_or(false));
        rows.complete &= channel.dump(dns_request(family), Some(deadline), count).ok()?;
    }
    Some(rows)
}

/// Asks for the rows of UDP flows to port 53 alone.
///
/// Put together from plain attributes: a typed message of the crate drops the nested flag of attributes it does not know,
/// without which the kernel refuses the filter.
fn dns_request(family: NetfilterProtoFamily) -> Request {
    let tuple =
        [Tuple::Proto(vec![ProtoTuple::Protocol(Protocol::Udp), ProtoTuple::DestinationPort(DNS_PORT)])];
    let flags = CTA_FILTER_F_CTA_PROTO_NUM | CTA_FILTER_F_CTA_PROTO_DST_PORT;
    let filter = [DefaultNla::new(CTA_FILTER_ORIG_FLAGS, flags.to_ne_bytes().to_vec())];
    let attributes = vec![nested(CTA_TUPLE_ORIG, &tuple), nested(CTA_FILTER, &filter)];
    Request::new(family, 0, ConntrackMessage::Other { message_type: IPCTNL_MSG_CT_GET, attributes })
}

fn nested<T: Nla>(kind: u16, attributes: &[T]) -> DefaultNla {
    let mut value = vec![0; attributes.buffer_len()];
    attributes.emit(&mut value);
    DefaultNla::new(kind | NLA_F_NESTED, value)
}

/// Whether a row's first packet was UDP to port 53. `None` when the row cannot be read.
fn is_dns(row: &[u8]) -> Option<bool> {
    let original = find(row, CTA_TUPLE_ORIG)?;
    let protocol = find(original.value(), CTA_TUPLE_PROTO)?;
    let number = find(protocol.value(), CTA_PROTO_NUM)?;
    let port = find(protocol.value(), CTA_PROTO_DST_PORT)?;
    Some(number.value() == [IPPROTO_UDP] && port.value() == DNS_PORT.to_be_bytes())
}

fn find(attributes: &[u8], kind: u16) -> Option<NlaBuffer<&[u8]>> {
    NlasIterator::new(attributes).filter_map(Result::ok).find(|attribute| attribute.kind() == kind)
}

fn read_number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Shortest time a count of DNS rows is given out again.
pub const DNS_ROWS_AGE: Duration = Duration::from_secs(10);

/// A count is given out again for at least this many times as long as it took.
pub const DNS_ROWS_SHARE: u32 = 100;

/// Time after which a count of DNS rows is given up. A step of the kernel's walk is not interrupted.
pub const DNS_ROWS_TIME: Duration = Duration::from_millis(500);

const DNS_PORT: u16 = 53;
/// RFC 768.
const IPPROTO_UDP: u8 = 17;

// include/uapi/linux/netfilter/nfnetlink_conntrack.h
const IPCTNL_MSG_CT_GET: u8 = 1;
const IPCTNL_MSG_CT_GET_STATS_CPU: u8 = 4;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_FILTER: u16 = 25;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_STATS_INSERT_FAILED: u16 = 9;
const CTA_STATS_DROP: u16 = 10;
const CTA_STATS_EARLY_DROP: u16 = 11;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
// net/netfilter/nf_internals.h; part of the interface since 5.8, though not in a uapi header.
const CTA_FILTER_F_CTA_PROTO_NUM: u32 = 1 << 3;
const CTA_FILTER_F_CTA_PROTO_DST_PORT: u32 = 1 << 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_procfs_table_is_summed_over_cpus_by_column_name() {
        let text = "entries  clashres found new invalid ignore delete chainlength insert insert_failed drop early_drop icmp_error\n\
                    00000010  0 0 0 0 0 0 0 0 0000000a 00000001 00000002 0\n\
                    00000010  0 0 0 0 0 0 0 0 00000010 00000003 00000000 0\n";
        assert_eq!(parse_proc(text), Some(Counters { insert_failed: 26, drop: 4, early_drop: 2 }));
        assert_eq!(parse_proc(""), None);
        assert_eq!(parse_proc("entries found\n1 2\n"), None);
    }

    #[test]
    fn a_slow_count_is_not_repeated_soon() {
        assert_eq!(valid_for(Duration::from_millis(1)), DNS_ROWS_AGE);
        assert_eq!(valid_for(Duration::from_millis(400)), Duration::from_secs(40));
    }

    #[test]
    fn only_udp_to_port_53_counts() {
        let row = |protocol, port| {
            let tuple =
                [Tuple::Proto(vec![ProtoTuple::Protocol(protocol), ProtoTuple::DestinationPort(port)])];
            let attributes = [nested(CTA_TUPLE_ORIG, &tuple)];
            let mut bytes = vec![0; attributes.as_slice().buffer_len()];
            attributes.as_slice().emit(&mut bytes);
            is_dns(&bytes)
        };
        assert_eq!(row(Protocol::Udp, 53), Some(true));
        assert_eq!(row(Protocol::Tcp, 53), Some(false));
        assert_eq!(row(Protocol::Udp, 54), Some(false));
        assert_eq!(is_dns(&[1, 2, 3]), None);
    }
}
