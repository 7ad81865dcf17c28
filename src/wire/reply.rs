//! The reply to a client: its own header and question flipped, an answer's body, and an OPT if it sent one.

use std::time::Duration;

use super::answer::Offset;
use super::query::{Edns, Query};
use super::rotation::Addresses;
use super::{HEADER_LEN, MAX_MESSAGE, MIN_UDP_PAYLOAD, flags, read_u16, rtype};

/// UDP payload size announced to clients, in bytes (RFC 9715 §3, the value of DNS flag day 2020).
pub const ANNOUNCED_UDP_PAYLOAD: u16 = 1232;

/// Length of an OPT record without options, in bytes.
pub const OPT_LEN: usize = 11;

/// Length of each of the options that go out, in bytes: code, length, and a number of 16 bits.
pub const OPTION_LEN: usize = 6;

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

/// What of an answer fits: its first records, and whether a client must be told that some are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fit {
    /// Bytes of the body.
    pub len: usize,
    /// Records in the three sections.
    pub counts: [u16; 3],
    /// TC: something is missing that the answer needs (RFC 2181 §9).
    pub truncated: bool,
}

impl Parts<'_> {
    /// What of the answer fits into `room` bytes: all of it; without the additional section; without the authority section too,
    /// where the answer does not need it; else the first whole records of the answer section, with TC. Never a cut record
    /// (RFC 9715 §3.2), and not an empty answer where something fits: a stub resolver without TCP takes what is there.
    ///
    /// Time is logarithmic in the number of records, but for the authority section's, which are looked at.
    pub fn fit(&self, room: usize) -> Fit {
        if self.body.len() <= room {
            return Fit { len: self.body.len(), counts: self.counts, truncated: false };
        }
        let [answers, authorities, _] = self.counts;
        let without_additional = usize::from(answers) + usize::from(authorities);
        let len = self.len_of(without_additional);
        if len <= room && !self.needs_additional() {
            return Fit { len, counts: [answers, authorities, 0], truncated: false };
        }
        let len = self.len_of(usize::from(answers));
        if len <= room && !self.needs_authority() {
            return Fit { len, counts: [answers, 0, 0], truncated: false };
        }
        let of_answer = self.ttl_at.get(..usize::from(answers)).unwrap_or_default();
        let fitting = of_answer.partition_point(|&at| self.end_of(at) <= room);
        Fit { len: self.len_of(fitting), counts: [fitting as u16, 0, 0], truncated: true }
    }

    /// Bytes of the first `records` records.
    fn len_of(&self, records: usize) -> usize {
        let last = records.checked_sub(1).and_then(|last| self.ttl_at.get(last));
        last.map_or(0, |&at| self.end_of(at))
    }

    /// Where the record ends whose TTL stands at `ttl_at`: behind that come RDLENGTH and RDATA (RFC 1035 §4.1.3).
    fn end_of(&self, ttl_at: Offset) -> usize {
        let at = usize::from(u16::from_ne_bytes(ttl_at));
        at + 6 + usize::from(read_u16(self.body, at + 4).unwrap_or(0))
    }

    /// The types of the authority section's records, for signatures the type they cover.
    fn authority_types(&self) -> impl Iterator<Item = u16> {
        let [answers, authorities, _] = self.counts.map(usize::from);
        let ttls = self.ttl_at.get(answers..answers + authorities).unwrap_or_default();
        ttls.iter().filter_map(|&at| {
            let at = usize::from(u16::from_ne_bytes(at));
            match read_u16(self.body, at.checked_sub(4)?)? {
                rtype::RRSIG => read_u16(self.body, at + 6),
                other => Some(other),
            }
        })
    }

    /// A negative answer is made of its SOA, and DNSSEC proofs stand here too (RFC 2308 §3, RFC 4035 §3.1.3). Who is
    /// authoritative for an answer is said beside it.
    fn needs_authority(&self) -> bool {
        self.counts[0] == 0 || self.authority_types().any(|rtype| rtype != rtype::NS)
    }

    /// A referral is made of its glue (RFC 9471). It has no answer, and no SOA.
    fn needs_additional(&self) -> bool {
        self.counts[0] == 0 && !self.authority_types().any(|rtype| rtype == rtype::SOA)
    }
}

/// Appends the reply to `asked` to `out`: with what of the answer fits, see [`Parts::fit`].
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
    let keepalive = match asked.transport {
        Transport::Tcp { idle_timeout } => asked.edns.filter(|edns| edns.keepalive).map(|_| idle_timeout),
        Transport::Udp { .. } => None,
    };
    let options = usize::from(extended_error.is_some()) + usize::from(keepalive.is_some());
    let opt_len = if asked.edns.is_some() { OPT_LEN + options * OPTION_LEN } else { 0 };
    let fit = parts.fit(asked.limit().saturating_sub(asked.head.len() + opt_len));
    out.extend_from_slice(asked.head);
    let body_start = out.len();
    match turn {
        Some((addresses, first)) if fit.len == parts.body.len() => {
            addresses.push_turned(out, parts.body, first);
        }
        _ => out.extend_from_slice(&parts.body[..fit.len]),
    }
    let records = fit.counts.iter().map(|&count| usize::from(count)).sum::<usize>();
    let ttl_at = parts.ttl_at.get(..records).unwrap_or(parts.ttl_at);
    set_ttls(&mut out[body_start..], ttl_at, ttls);
    if let Some(edns) = asked.edns {
        push_opt(out, parts.rcode, edns.dnssec_ok, extended_error, keepalive);
    }
    let query_flags = u16::from_be_bytes([asked.head[2], asked.head[3]]);
    let wants_ad = query_flags & flags::AD != 0 || asked.edns.is_some_and(|edns| edns.dnssec_ok);
    let reply_flags = reply_flags(query_flags, parts.rcode, parts.authentic_data && wants_ad, fit.truncated);
    if let Some(header) = out[start..].first_chunk_mut::<HEADER_LEN>() {
        flip_header(header, reply_flags, asked.head.len() > HEADER_LEN, fit.counts, asked.edns.is_some());
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
