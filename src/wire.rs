//! DNS messages as bytes: a view of a client's query, a cacheable body made from an upstream's reply, and the reply
//! that goes back to a client.
//!
//! This room touches bytes only: no sockets, no clock, and no allocation on the read side.
//!
//! | RFC | what of it stands here |
//! |---|---|
//! | 1035, 9619 | header, question, QDCOUNT, names ([`query`], [`name`]), a reply's records ([`answer`]) |
//! | 1794 | addresses in another order for each client ([`rotation`]) |
//! | 2181 §5.2, §8 | RRset TTLs equalised, top bit means 0 ([`answer`]) |
//! | 2181 §9, 9715 | what goes out of an answer that is too large ([`reply`]) |
//! | 2308 | NXDOMAIN, NODATA and their TTL ([`answer`]) |
//! | 3597 §4 | which data has names that are decompressed, and opaque data ([`answer`]) |
//! | 4343 | names compared without case ([`name`]) |
//! | 6891 | OPT read, checked, and answered hop by hop ([`query`], [`reply`]) |
//! | 7828 | the keepalive option on TCP ([`reply`]) |
//! | 8914 | extended errors ([`reply`]) |

pub mod answer;
pub mod name;
pub mod query;
pub mod reply;
pub mod rotation;

/// Length of a DNS header, in bytes (RFC 1035 §4.1.1).
pub const HEADER_LEN: usize = 12;

/// Longest DNS message, in bytes: the length field of TCP is 16 bits (RFC 1035 §4.2.2).
pub const MAX_MESSAGE: usize = 65_535;

/// Largest UDP reply to a client that sent no OPT, in bytes (RFC 1035 §4.2.1).
pub const MIN_UDP_PAYLOAD: u16 = 512;

/// Bits of the header's second 16-bit word (RFC 1035 §4.1.1, RFC 4035 §3).
pub mod flags {
    /// A response.
    pub const QR: u16 = 0x8000;
    /// Authoritative answer.
    pub const AA: u16 = 0x0400;
    /// Truncated.
    pub const TC: u16 = 0x0200;
    /// Recursion desired.
    pub const RD: u16 = 0x0100;
    /// Recursion available.
    pub const RA: u16 = 0x0080;
    /// Authentic data.
    pub const AD: u16 = 0x0020;
    /// Checking disabled.
    pub const CD: u16 = 0x0010;
    /// The opcode's bits.
    pub const OPCODE: u16 = 0x7800;
}

/// Response codes (RFC 1035 §4.1.1, RFC 6891 §9).
pub mod rcode {
    #![expect(missing_docs, reason = "the registry's own names")]
    pub const NOERROR: u16 = 0;
    pub const FORMERR: u16 = 1;
    pub const SERVFAIL: u16 = 2;
    pub const NXDOMAIN: u16 = 3;
    pub const NOTIMP: u16 = 4;
    pub const REFUSED: u16 = 5;
    pub const BADVERS: u16 = 16;
}

/// Record types this program treats by name (IANA DNS parameters).
pub mod rtype {
    #![expect(missing_docs, reason = "the registry's own names")]
    pub const A: u16 = 1;
    pub const NS: u16 = 2;
    pub const CNAME: u16 = 5;
    pub const SOA: u16 = 6;
    pub const PTR: u16 = 12;
    pub const SIG: u16 = 24;
    pub const AAAA: u16 = 28;
    pub const OPT: u16 = 41;
    pub const DNAME: u16 = 39;
    pub const RRSIG: u16 = 46;
    pub const TKEY: u16 = 249;
    pub const TSIG: u16 = 250;
    pub const IXFR: u16 = 251;
    pub const AXFR: u16 = 252;
    pub const ANY: u16 = 255;
}

/// The Internet class.
pub const CLASS_IN: u16 = 1;

/// Extended error codes (RFC 8914 §4).
pub mod ede {
    #![expect(missing_docs, reason = "the registry's own names")]
    pub const OTHER: u16 = 0;
    pub const STALE_ANSWER: u16 = 3;
    pub const CACHED_ERROR: u16 = 13;
    pub const NOT_READY: u16 = 14;
    pub const PROHIBITED: u16 = 18;
    pub const STALE_NXDOMAIN: u16 = 19;
    pub const NOT_AUTHORITATIVE: u16 = 20;
    pub const NO_REACHABLE_AUTHORITY: u16 = 22;
    pub const NETWORK_ERROR: u16 = 23;
    pub const INVALID_DATA: u16 = 24;
}

/// Reads a big-endian 16-bit number; `None` past the end.
pub fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Reads a big-endian 32-bit number; `None` past the end.
pub fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}
