//! A cacheable answer, made from an upstream's reply: validated by hickory-proto once, and encoded anew.
//!
//! An answer's *body* is everything behind the question. The question has the same length whatever its letter case, so
//! compression pointers in the body hold for every client, and each client gets its own question back untouched.

mod encode;

use std::collections::HashMap;

use hickory_proto::op::{Message, MessageType, OpCode};
use hickory_proto::rr::{RData, Record, RecordType};

use self::encode::Body;
use super::name::skip_name;
use super::{rcode, read_u16, rtype};

/// An answer to one question, ready to be cached or sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// What kind of answer it is.
    pub kind: Kind,
    /// The response code, 12 bits.
    pub rcode: u16,
    /// The AD bit as upstream set it.
    pub authentic_data: bool,
    /// Records in the answer, authority and additional section; OPT is not among them.
    pub counts: [u16; 3],
    /// The sections' bytes, as they stand behind the question.
    pub body: Vec<u8>,
    /// Where in `body` each record's TTL stands. Each is at most `i32::MAX` (RFC 2181 §8).
    pub ttl_at: Vec<Offset>,
    /// Seconds the answer lives: the smallest TTL of its records, for a negative answer no more than the SOA's
    /// MINIMUM (RFC 2308 §5). 0 means it must not be cached.
    pub ttl: u32,
}

/// A position in a body: a 16-bit number in native byte order, as bytes, so that a table of them can be kept behind the
/// body in one allocation.
pub type Offset = [u8; 2];

/// Kinds of answers, as far as caching goes (RFC 2308 §2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Records of the type asked.
    Positive,
    /// The name exists, the type does not.
    NoData,
    /// The name does not exist.
    NxDomain,
    /// Anything else: SERVFAIL, REFUSED and the rest.
    Failure,
}

impl Kind {
    /// NXDOMAIN or NODATA.
    pub fn is_negative(self) -> bool {
        matches!(self, Self::NoData | Self::NxDomain)
    }
}

/// Why a reply is not an answer.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// hickory-proto could not parse it.
    #[error("the reply does not parse: {0}")]
    Malformed(#[from] hickory_proto::serialize::binary::DecodeError),
    /// It cannot be encoded in a message.
    #[error("the reply does not encode: {0}")]
    Encode(#[from] hickory_proto::ProtoError),
    /// Not a response with one question.
    #[error("not a response to one query")]
    NotAResponse,
    /// Cut short; never to be taken for a whole answer (RFC 1035 §7.4).
    #[error("the reply is truncated")]
    Truncated,
}

impl Answer {
    /// Makes an answer from a reply whose id and question have been matched with the query's.
    ///
    /// Time and memory are linear in the reply's size, which the caller bounds by [`super::MAX_MESSAGE`].
    pub fn from_reply(reply: &[u8]) -> Result<Self, AnswerError> {
        Self::from_message(Message::from_vec(reply)?)
    }

    /// As [`Self::from_reply`], from a message at hand: a rewritten or a local one.
    pub fn from_message(mut message: Message) -> Result<Self, AnswerError> {
        let meta = &message.metadata;
        if meta.message_type != MessageType::Response
            || meta.op_code != OpCode::Query
            || message.queries.len() != 1
        {
            return Err(AnswerError::NotAResponse);
        }
        if meta.truncation {
            return Err(AnswerError::Truncated);
        }
        message.additionals.retain(|record| {
            // SIG(0) is a signature over the hop, as TSIG is, which hickory-proto takes out by itself.
            !matches!(u16::from(record.record_type()), rtype::TSIG | rtype::SIG)
        });
        let rcode = u16::from(message.metadata.response_code);
        let kind = classify(&message, rcode);
        equalise_ttls(&mut message.answers);
        equalise_ttls(&mut message.authorities);
        equalise_ttls(&mut message.additionals);
        let lifetime = lifetime(&mut message, kind);
        // An answer scoped to a client subnet, which nobody asked for, is not for everyone (RFC 7871 §7.3.1).
        let ttl = if is_scoped(&message) { 0 } else { lifetime };
        let Body { bytes: body, counts, ttl_at } = encode::body(&message)?;
        Ok(Self { kind, rcode, authentic_data: message.metadata.authentic_data, counts, body, ttl_at, ttl })
    }

    /// An answer without records.
    pub fn empty(rcode: u16, kind: Kind, ttl: u32) -> Self {
        Self { kind, rcode, authentic_data: false, counts: [0; 3], body: Vec::new(), ttl_at: Vec::new(), ttl }
    }

    /// Bounds every TTL, and with them the lifetime, in seconds. A TTL of 0 stays 0 (RFC 1035 §3.2.1).
    pub fn clamp_ttls(&mut self, min: u32, max: u32) {
        let clamp = |ttl: u32| if ttl == 0 { 0 } else { ttl.max(min).min(max) };
        for &at in &self.ttl_at {
            let at = usize::from(u16::from_ne_bytes(at));
            let field = &mut self.body[at..at + 4];
            let ttl = u32::from_be_bytes([field[0], field[1], field[2], field[3]]);
            field.copy_from_slice(&clamp(ttl).to_be_bytes());
        }
        self.ttl = clamp(self.ttl);
    }
}

/// Positions of the TTL fields of the records in `body`; empty past the first that does not read.
///
/// `body` starts where the question ends; pointers in it are passed over, so it need not stand in its message.
pub fn ttl_offsets(body: &[u8], counts: [u16; 3]) -> Vec<Offset> {
    let records = counts.iter().map(|&n| usize::from(n)).sum::<usize>();
    let mut offsets = Vec::with_capacity(records);
    let mut at = 0;
    for _ in 0..records {
        let Ok(fixed) = skip_name(body, at) else { break };
        let Some(rdata_len) = read_u16(body, fixed + 8) else { break };
        offsets.push(((fixed + 4) as u16).to_ne_bytes());
        at = fixed + 10 + usize::from(rdata_len);
    }
    offsets
}

fn is_scoped(message: &Message) -> bool {
    use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
    let option = message.edns.as_ref().and_then(|edns| edns.option(EdnsCode::Subnet));
    matches!(option, Some(EdnsOption::Subnet(subnet)) if subnet.scope_prefix() > 0)
}

fn classify(message: &Message, rcode: u16) -> Kind {
    match rcode {
        rcode::NXDOMAIN => Kind::NxDomain,
        rcode::NOERROR => {
            let qtype = message.queries[0].query_type();
            let answers = |record: &Record| match qtype {
                RecordType::ANY => true,
                _ => record.record_type() == qtype,
            };
            if message.answers.iter().any(answers) { Kind::Positive } else { Kind::NoData }
        }
        _ => Kind::Failure,
    }
}

/// Gives the records of each RRset the smallest of their TTLs (RFC 2181 §5.2); the top bit means 0 (§8).
fn equalise_ttls(records: &mut [Record]) {
    /// Past this many records a hash map groups them, so that a hostile reply costs linear time.
    const QUADRATIC_UP_TO: usize = 16;
    for record in records.iter_mut() {
        if record.ttl > i32::MAX as u32 {
            record.ttl = 0;
        }
    }
    let uneven = records.windows(2).any(|pair| pair[0].ttl != pair[1].ttl);
    if !uneven {
        return;
    }
    if records.len() <= QUADRATIC_UP_TO {
        for i in 0..records.len() {
            let same = |other: &Record| {
                other.record_type() == records[i].record_type()
                    && other.dns_class == records[i].dns_class
                    && other.name == records[i].name
            };
            let min = records.iter().filter(|r| same(r)).map(|r| r.ttl).min().unwrap_or(0);
            records[i].ttl = min;
        }
        return;
    }
    let mut min_of = HashMap::new();
    let group = |r: &Record| (r.name.to_lowercase(), r.record_type(), r.dns_class);
    for record in records.iter() {
        let min = min_of.entry(group(record)).or_insert(record.ttl);
        *min = record.ttl.min(*min);
    }
    for record in records.iter_mut() {
        record.ttl = min_of[&group(record)];
    }
}

/// The lifetime in seconds; for a negative answer the SOA's TTL is lowered to it, since it counts down with it.
fn lifetime(message: &mut Message, kind: Kind) -> u32 {
    let smallest = |records: &[Record]| records.iter().map(|r| r.ttl).min();
    match kind {
        Kind::Positive => [&message.answers, &message.authorities, &message.additionals]
            .into_iter()
            .filter_map(|records| smallest(records))
            .min()
            .unwrap_or(0),
        Kind::NoData | Kind::NxDomain => {
            let soa = message.authorities.iter_mut().find_map(|record| match &record.data {
                RData::SOA(soa) => Some((soa.minimum, record)),
                _ => None,
            });
            // Without a SOA nothing says how long the negative answer holds (RFC 2308 §5): it is passed on only.
            let Some((minimum, record)) = soa else { return 0 };
            record.ttl = record.ttl.min(minimum);
            [&message.answers, &message.authorities]
                .into_iter()
                .filter_map(|r| smallest(r))
                .min()
                .unwrap_or(0)
        }
        Kind::Failure => 0,
    }
}
