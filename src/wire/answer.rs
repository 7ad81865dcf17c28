//! A cacheable answer, made from an upstream's reply: checked and written anew in one pass over its bytes.
//!
//! An answer's *body* is everything behind the question. The question has the same length whatever its letter case, so
//! compression pointers in the body hold for every client, and each client gets its own question back untouched.
//!
//! | RFC | what of it stands here |
//! |---|---|
//! | 1035 §4.1.4 | names decompressed, and compressed again |
//! | 2181 §5.2, §8 | RRset TTLs equalised, top bit means 0 |
//! | 2308 §5 | how long a negative answer lives |
//! | 3597 §4 | which types' data has names in it; all other data is opaque |
//! | 4034 §3 | signatures are RRsets by the type that they cover |
//! | 4343 §4.1 | owners found again whatever their letters; names in data keep theirs |
//! | 6891 §6.1, 7871 §7.3.1 | OPT taken out, for its rcode and the scope of the answer |
//! | 2931, 8945 | signatures over the hop taken out |

mod lifetime;
mod malformed;
mod message;
mod names;
mod rdata;
mod records;
mod writer;

use self::malformed::Found;
pub use self::malformed::{Flaw, Malformed, Section};
use self::names::{Head, Source};
use self::records::{RecordError, Records};
use self::writer::Writer;
use super::name::skip_name;
use super::{HEADER_LEN, flags, rcode, read_u16};

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
    /// It does not read as a message.
    #[error("the reply is malformed: {0}")]
    Malformed(#[from] Malformed),
    /// Its records do not fit into a message with names in full where they must be.
    #[error("the reply is larger than a message once it is decompressed")]
    TooLarge,
    /// A message at hand that hickory-proto does not encode.
    #[error("the answer does not encode: {0}")]
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
    /// Time and memory are linear in the reply's size, which the caller bounds by [`super::MAX_MESSAGE`]. Bytes behind the
    /// last record are ignored.
    pub fn from_reply(reply: &[u8]) -> Result<Self, AnswerError> {
        let Some(&[_, _, f0, f1, q0, q1, ref counts @ ..]) = reply.first_chunk::<HEADER_LEN>() else {
            let flaw = Flaw::Ends("a header of 12 bytes");
            return Err(Malformed { section: Section::Header, number: 1, offset: 0, flaw }.into());
        };
        let reply_flags = u16::from_be_bytes([f0, f1]);
        if reply_flags & (flags::QR | flags::OPCODE) != flags::QR || [q0, q1] != [0, 1] {
            return Err(AnswerError::NotAResponse);
        }
        if reply_flags & flags::TC != 0 {
            return Err(AnswerError::Truncated);
        }
        let head = Head::of(reply).map_err(AnswerError::in_question)?;
        let source = Source::message(reply);
        let mut at = head.end();
        let counts = [0, 2, 4].map(|at| u16::from_be_bytes([counts[at], counts[at + 1]]));
        let announced = counts.iter().map(|&count| usize::from(count)).sum::<usize>();
        let capacity = reply.len() - at;
        let mut records =
            Records::new(Writer::new(head, capacity), announced.min(capacity / SHORTEST_RECORD));
        for (section, count) in counts.into_iter().enumerate() {
            for number in 1..=count {
                at = records
                    .push(source, at, section)
                    .map_err(|error| AnswerError::at(section, number, error))?;
            }
        }
        let rcode = u16::from(records.opt.map_or(0, |opt| opt.rcode_high)) << 4 | (reply_flags & 0xf);
        Ok(records.into_answer(rcode, reply_flags & flags::AD != 0))
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

impl AnswerError {
    fn in_question((offset, flaw): Found) -> Self {
        Malformed { section: Section::Question, number: 1, offset, flaw }.into()
    }

    /// What is wrong with the record `number`, from 1, of the section numbered `section`.
    fn at(section: usize, number: u16, error: RecordError) -> Self {
        match error {
            RecordError::Malformed((offset, flaw)) => {
                Malformed { section: Section::OF_RECORDS[section], number, offset, flaw }.into()
            }
            RecordError::TooLarge => Self::TooLarge,
        }
    }
}

impl Records<'_> {
    /// The answer that the records make.
    fn into_answer(mut self, rcode: u16, authentic_data: bool) -> Answer {
        let kind = match rcode {
            rcode::NXDOMAIN => Kind::NxDomain,
            rcode::NOERROR if self.is_answered => Kind::Positive,
            rcode::NOERROR => Kind::NoData,
            _ => Kind::Failure,
        };
        let lifetime = self.ttls.settle(kind, self.counts, &mut self.writer, &self.ttl_at);
        // An answer scoped to a client subnet, which nobody asked for, is not for everyone (RFC 7871 §7.3.1).
        let ttl = if self.opt.is_some_and(|opt| opt.is_scoped) { 0 } else { lifetime };
        let (counts, body, ttl_at) = (self.counts, self.writer.body, self.ttl_at);
        Answer { kind, rcode, authentic_data, counts, body, ttl_at, ttl }
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

/// Bytes of a record of the root without data (RFC 1035 §4.1.3).
const SHORTEST_RECORD: usize = 11;
