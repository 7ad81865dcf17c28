//! The encoding of an answer's records: hickory-proto's, but for the owners' names.
//!
//! Most owners are the question's name or a zone above it, and are two bytes that point there. hickory-proto finds that out by
//! keeping every ending of every name in an allocation of its own, for 120 names of a message at most; of the thousands of
//! records that a large service has, each further one would have its whole name, and an answer that came in one message
//! would not fit into one. (What the allocations cost: a third of the instructions of a miss, see docs/performance.md.)

use hickory_proto::op::Message;
use hickory_proto::rr::{Name, RData, Record, RecordData as _};
use hickory_proto::serialize::binary::{BinEncodable as _, BinEncoder};

use super::{AnswerError, Offset};
use crate::wire::name::MAX_NAME;
use crate::wire::{HEADER_LEN, MAX_MESSAGE};

/// Records as they stand behind the question.
pub(super) struct Body {
    pub(super) bytes: Vec<u8>,
    pub(super) counts: [u16; 3],
    pub(super) ttl_at: Vec<Offset>,
}

/// Encodes the records of `message`, which has one question.
pub(super) fn body(message: &Message) -> Result<Body, AnswerError> {
    let sections = [&message.answers, &message.authorities, &message.additionals];
    let mut bytes = Vec::with_capacity(512);
    let mut ttl_at = Vec::with_capacity(sections.iter().map(|records| records.len()).sum());
    let mut encoder = Encoder::new(&mut bytes, message.queries[0].name())?;
    let question_end = encoder.inner.len();
    for record in sections.into_iter().flatten() {
        let at = encoder.record(record)?;
        ttl_at.push(((at - question_end) as u16).to_ne_bytes());
    }
    debug_assert!(bytes.len() <= MAX_MESSAGE);
    bytes.drain(..question_end);
    Ok(Body { bytes, counts: sections.map(|records| records.len() as u16), ttl_at })
}

/// The two bits that make a pointer (RFC 1035 §4.1.4). As an offset: out of reach.
const POINTER: u16 = 0xc000;

struct Encoder<'a> {
    inner: BinEncoder<'a>,
    /// Where the question's root label stands.
    name_end: usize,
    /// Where the first of the question's labels stands that hickory-proto knows of; `name_end` while it knows none.
    known_from: usize,
    /// The owner at work, uncompressed.
    owner: Vec<u8>,
    /// The last owner that does not end the question's name, uncompressed, and what points to it.
    last_owner: Option<(Vec<u8>, u16)>,
}

impl<'a> Encoder<'a> {
    fn new(bytes: &'a mut Vec<u8>, question: &Name) -> Result<Self, AnswerError> {
        let mut inner = BinEncoder::new(bytes);
        inner.set_max_size(u16::MAX);
        // A header's worth of bytes, so that offsets are those of the whole message.
        inner.emit_vec(&[0; HEADER_LEN])?;
        labels(question, &mut inner)?;
        let name_end = inner.len() - 1;
        inner.emit_u32(0)?;
        Ok(Self {
            inner,
            name_end,
            known_from: name_end,
            owner: Vec::with_capacity(MAX_NAME),
            last_owner: None,
        })
    }

    /// Encodes a record; where its TTL stands.
    fn record(&mut self, record: &Record) -> Result<usize, AnswerError> {
        self.owner(&record.name)?;
        if !matches!(record.data, RData::A(_) | RData::AAAA(_) | RData::TXT(_) | RData::SOA(_)) {
            // There may be names in it. (A SOA's are in the zone it is of, which its owner made known.)
            self.make_known(HEADER_LEN);
        }
        let encoder = &mut self.inner;
        record.record_type().emit(encoder)?;
        record.dns_class.emit(encoder)?;
        let ttl_at = encoder.len();
        encoder.emit_u32(record.ttl)?;
        let length = encoder.place::<u16>()?;
        if !record.data.is_update() {
            record.data.emit(encoder)?;
        }
        let rdata_len = encoder.len_since_place(&length);
        length.replace(encoder, rdata_len as u16)?;
        Ok(ttl_at)
    }

    /// Encodes an owner: as a pointer where it is the question's name or ends it, or is the owner written out last.
    fn owner(&mut self, name: &Name) -> Result<(), AnswerError> {
        self.owner.clear();
        for label in name {
            self.owner.push(label.len() as u8);
            self.owner.extend_from_slice(label);
        }
        self.owner.push(0);
        // The root is shorter than a pointer.
        if self.owner.len() == 1 {
            return Ok(self.inner.emit(0)?);
        }
        let pointer = match (self.in_question(), &self.last_owner) {
            (Some(at), _) => {
                self.make_known(at);
                at as u16
            }
            (None, Some((last, pointer))) if last.eq_ignore_ascii_case(&self.owner) => *pointer,
            _ => return self.owner_in_full(name),
        };
        Ok(self.inner.emit_u16(POINTER | pointer)?)
    }

    /// Encodes an owner with hickory-proto's compression.
    fn owner_in_full(&mut self, name: &Name) -> Result<(), AnswerError> {
        self.make_known(HEADER_LEN);
        let start = self.inner.len();
        name.emit(&mut self.inner)?;
        let at = match self.inner.slice_of(start, self.inner.len()) {
            // Where a whole name became a pointer, the next one points where it does.
            &[p0, p1] if p0 >= 0xc0 => Some(u16::from_be_bytes([p0, p1]) & !POINTER),
            // A pointer reaches below 0x4000.
            _ => (start < 0x4000).then_some(start as u16),
        };
        self.last_owner = at.map(|at| (self.owner.clone(), at));
        Ok(())
    }

    /// Where in the question's name `owner` stands, if it is that or the end of it.
    fn in_question(&self) -> Option<usize> {
        let at = (self.name_end + 1).checked_sub(self.owner.len()).filter(|&at| at >= HEADER_LEN)?;
        let question = self.inner.slice_of(HEADER_LEN, self.name_end + 1);
        // It must start at a label, not within one.
        let mut label = HEADER_LEN;
        while label < at {
            label += 1 + usize::from(question[label - HEADER_LEN]);
        }
        (label == at && question[at - HEADER_LEN..].eq_ignore_ascii_case(&self.owner)).then_some(at)
    }

    /// Has hickory-proto know the endings of the question's name from `at` on, so that names in records can point there.
    fn make_known(&mut self, at: usize) {
        let mut label = at;
        while label < self.known_from {
            self.inner.store_label_pointer(label, self.name_end);
            label += 1 + usize::from(self.inner.slice_of(label, label + 1)[0]);
        }
        self.known_from = self.known_from.min(at);
    }
}

/// Writes a name's labels and the root.
fn labels(name: &Name, encoder: &mut BinEncoder<'_>) -> Result<(), AnswerError> {
    for label in name {
        encoder.emit_character_data(label)?;
    }
    Ok(encoder.emit(0)?)
}
