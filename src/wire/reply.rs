//! The reply to a client: its own header and question flipped, an answer's body, and an OPT if it sent one.

use std::time::Duration;

use super::answer::Offset;
use super::query::{Edns, Query};
use super::rotation::Addresses;
use super::{HEADER_LEN, MAX_MESSAGE, MIN_UDP_PAYLOAD, flags};

/// UDP payload size announced to clients, in bytes (RFC 9715 §3, the value of DNS flag day 2020).
pub const ANNOUNCED_UDP_PAYLOAD: u16 = 1232;

/// Length of an OPT record without options, in bytes.
pub const OPT_LEN: usize = 11;

/// An answer's parts, wherever they are kept.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    /// The response code, 12 bits.
    pub rcode: u16,
    /// The AD bit as upstream set it.
    pub authentic_data: bool,
    /// Records in the three sections.
    pub counts: [u16; 3],
    /// The sections' bytes.
    pub body: &'a [u8],
    /// Where in `body` the TTLs stand.
    pub ttl_at: &'a [Offset],
}

/// The TTLs a reply goes out with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ttls {
    /// As stored, less this many seconds.
    Aged(u32),
    /// All of them this, in seconds: a stale answer's (RFC 8767 §4).
    Fixed(u32),
}

/// How a reply reaches its client, as far as its size goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// UDP, with the configured upper bound of a reply in bytes.
    Udp {
        /// `listen.max_udp_payload`.
        max_payload: u16,
    },
    /// TCP, with the idle timeout announced to a client that asks for it (RFC 7828).
    Tcp {
        /// `listen.tcp.idle_timeout`.
        idle_timeout: Duration,
    },
}

/// What of a query its reply depends on.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// Header and question as received.
    pub head: &'a [u8],
    /// The client's OPT.
    pub edns: Option<Edns>,
    /// How the reply travels.
    pub transport: Transport,
}

impl<'a> Asked<'a> {
    /// What of `query`, received over `transport`, its reply depends on.
    pub fn of(query: &Query<'a>, transport: Transport) -> Self {
        Self { head: query.head(), edns: query.edns(), transport }
    }

    /// Largest reply in bytes.
    pub fn limit(&self) -> usize {
        reply_limit(self.edns, self.transport)
    }
}

/// Largest reply in bytes that the client takes over this transport.
#[inline]
pub fn reply_limit(edns: Option<Edns>, transport: Transport) -> usize {
    match transport {
        Transport::Udp { max_payload } => {
            usize::from(edns.map_or(MIN_UDP_PAYLOAD, |edns| edns.udp_payload.min(max_payload)))
        }
        Transport::Tcp { .. } => MAX_MESSAGE,
    }
}

/// The flags of a reply to a query with `query_flags`.
///
/// Opcode, RD and CD are echoed, RA is set, AA and Z are clear; AD goes out only to a client that understands it
/// (RFC 6840 §5.8).
#[inline]
pub fn reply_flags(query_flags: u16, rcode: u16, authentic_data: bool, truncated: bool) -> u16 {
    let mut reply = flags::QR | flags::RA | (rcode & 0xf);
    reply |= query_flags & (flags::OPCODE | flags::RD | flags::CD);
    if authentic_data {
        reply |= flags::AD;
    }
    if truncated {
        reply |= flags::TC;
    }
    reply
}

/// Writes the reply's flags and counts over the query's header. The id stays; QDCOUNT says whether a question follows.
#[inline]
pub fn flip_header(header: &mut [u8; HEADER_LEN], flags: u16, question: bool, counts: [u16; 3], opt: bool) {
    header[2..4].copy_from_slice(&flags.to_be_bytes());
    header[4..6].copy_from_slice(&u16::from(question).to_be_bytes());
    header[6..8].copy_from_slice(&counts[0].to_be_bytes());
    header[8..10].copy_from_slice(&counts[1].to_be_bytes());
    // Saturating: a full additional section of 65,535 records does not fit a message in the first place.
    header[10..12].copy_from_slice(&counts[2].saturating_add(u16::from(opt)).to_be_bytes());
}

/// An OPT record's bytes without options (RFC 6891 §6.1.2). DO is echoed (RFC 3225 §3).
#[inline]
pub const fn opt_record(rcode: u16, dnssec_ok: bool) -> [u8; OPT_LEN] {
    let [p0, p1] = ANNOUNCED_UDP_PAYLOAD.to_be_bytes();
    [0, 0, 41, p0, p1, (rcode >> 4) as u8, 0, if dnssec_ok { 0x80 } else { 0 }, 0, 0, 0]
}

/// Appends an OPT record, with an extended error (RFC 8914 §2) and a keepalive (RFC 7828 §3.1) where given.
pub fn push_opt(
    out: &mut Vec<u8>,
    rcode: u16,
    dnssec_ok: bool,
    extended_error: Option<u16>,
    keepalive: Option<Duration>,
) {
    const EXTENDED_ERROR: u16 = 15;
    const KEEPALIVE: u16 = 11;
    let start = out.len();
    out.extend_from_slice(&opt_record(rcode, dnssec_ok));
    let mut option = |code: u16, value: u16| {
        out.extend_from_slice(&code.to_be_bytes());
        out.extend_from_slice(&2u16.to_be_bytes());
        out.extend_from_slice(&value.to_be_bytes());
    };
    if let Some(info_code) = extended_error {
        option(EXTENDED_ERROR, info_code);
    }
    if let Some(timeout) = keepalive {
        // In units of 100 ms.
        option(KEEPALIVE, u16::try_from(timeout.as_millis() / 100).unwrap_or(u16::MAX));
    }
    let options_len = (out.len() - start - OPT_LEN) as u16;
    out[start + OPT_LEN - 2..start + OPT_LEN].copy_from_slice(&options_len.to_be_bytes());
}

/// Appends the reply to `asked` to `out`: with TC and no records where it is larger than the client takes
/// (RFC 2181 §9, RFC 9715 §3.2: never a cut record).
///
/// `asked.head` must be the head of a [`Query`], or the header alone.
pub fn push_reply(
    out: &mut Vec<u8>,
    asked: &Asked<'_>,
    parts: &Parts<'_>,
    ttls: Ttls,
    extended_error: Option<u16>,
) {
    push_turned_reply(out, asked, parts, ttls, extended_error, None);
}

/// As [`push_reply`], with the answer's addresses turned round: these, and which of them stands first.
pub fn push_turned_reply(
    out: &mut Vec<u8>,
    asked: &Asked<'_>,
    parts: &Parts<'_>,
    ttls: Ttls,
    extended_error: Option<u16>,
    turn: Option<(Addresses, usize)>,
) {
    let start = out.len();
    out.extend_from_slice(asked.head);
    let body_start = out.len();
    match turn {
        Some((addresses, first)) => addresses.push_turned(out, parts.body, first),
        None => out.extend_from_slice(parts.body),
    }
    let keepalive = match asked.transport {
        Transport::Tcp { idle_timeout } => asked.edns.filter(|edns| edns.keepalive).map(|_| idle_timeout),
        Transport::Udp { .. } => None,
    };
    let push_client_opt = |out: &mut Vec<u8>| {
        if let Some(edns) = asked.edns {
            push_opt(out, parts.rcode, edns.dnssec_ok, extended_error, keepalive);
        }
    };
    push_client_opt(out);
    let truncated = out.len() - start > asked.limit();
    if truncated {
        out.truncate(body_start);
        push_client_opt(out);
    } else {
        set_ttls(&mut out[body_start..body_start + parts.body.len()], parts.ttl_at, ttls);
    }
    let query_flags = u16::from_be_bytes([asked.head[2], asked.head[3]]);
    let wants_ad = query_flags & flags::AD != 0 || asked.edns.is_some_and(|edns| edns.dnssec_ok);
    let reply_flags = reply_flags(query_flags, parts.rcode, parts.authentic_data && wants_ad, truncated);
    let counts = if truncated { [0; 3] } else { parts.counts };
    if let Some(header) = out[start..].first_chunk_mut::<HEADER_LEN>() {
        flip_header(header, reply_flags, asked.head.len() > HEADER_LEN, counts, asked.edns.is_some());
    }
}

/// Appends a reply without records that says TC: the answer was cut before it came here, so that the client asks again
/// over TCP (RFC 1035 §4.1.1).
pub fn push_truncated(out: &mut Vec<u8>, asked: &Asked<'_>, rcode: u16) {
    let start = out.len();
    out.extend_from_slice(asked.head);
    if let Some(edns) = asked.edns {
        push_opt(out, rcode, edns.dnssec_ok, None, None);
    }
    let query_flags = u16::from_be_bytes([asked.head[2], asked.head[3]]);
    let reply_flags = reply_flags(query_flags, rcode, false, true);
    if let Some(header) = out[start..].first_chunk_mut::<HEADER_LEN>() {
        flip_header(header, reply_flags, asked.head.len() > HEADER_LEN, [0; 3], asked.edns.is_some());
    }
}

/// Writes the TTLs at `ttl_at` in `body`.
#[inline]
pub fn set_ttls(body: &mut [u8], ttl_at: &[Offset], ttls: Ttls) {
    for &at in ttl_at {
        let at = usize::from(u16::from_ne_bytes(at));
        let Some(field) = body.get_mut(at..).and_then(<[u8]>::first_chunk_mut::<4>) else {
            continue;
        };
        *field = match ttls {
            Ttls::Aged(0) => return,
            // An RRset of a fresh entry outlives its age; saturating for the entry that is served regardless.
            Ttls::Aged(age) => u32::from_be_bytes(*field).saturating_sub(age),
            Ttls::Fixed(ttl) => ttl,
        }
        .to_be_bytes();
    }
}
