//! An answer made of a message of hickory-proto's: a rewritten or a local one.
//!
//! Each record is encoded by itself and without compression, and then goes the way of a reply's. A message as a whole does not
//! encode where it has thousands of records: hickory-proto compresses the names of the first 120 only.

use hickory_proto::op::{Message, MessageType, OpCode};
use hickory_proto::rr::Record;
use hickory_proto::serialize::binary::{BinEncodable, BinEncoder, NameEncoding};

use super::names::{Head, Source};
use super::records::Records;
use super::writer::Writer;
use super::{Answer, AnswerError};
use crate::wire::HEADER_LEN;

impl Answer {
    /// As [`Answer::from_reply`], from a message at hand.
    ///
    /// A compression pointer in data of which hickory-proto knows the bytes only is malformed: the message that it led
    /// into is no more.
    pub fn from_message(message: &Message) -> Result<Self, AnswerError> {
        let (meta, [question]) = (&message.metadata, &message.queries[..]) else {
            return Err(AnswerError::NotAResponse);
        };
        if meta.message_type != MessageType::Response || meta.op_code != OpCode::Query {
            return Err(AnswerError::NotAResponse);
        }
        if meta.truncation {
            return Err(AnswerError::Truncated);
        }
        let mut bytes = vec![0; HEADER_LEN];
        encode(question, &mut bytes)?;
        let head = Head::of(&bytes).map_err(AnswerError::in_question)?;
        let sections = [&message.answers, &message.authorities, &message.additionals];
        let count = sections.iter().map(|section| section.len()).sum();
        let mut records = Records::new(Writer::new(head, 512), count);
        let mut bytes = Vec::with_capacity(512);
        let mut push = |record: &Record, section: usize, number: usize| {
            bytes.clear();
            encode(record, &mut bytes)?;
            let pushed = records.push(Source::record(&bytes), 0, section);
            pushed.map(drop).map_err(|error| AnswerError::at(section, number as u16, error))
        };
        for (section, all) in sections.into_iter().enumerate() {
            for (index, record) in all.iter().enumerate() {
                push(record, section, index + 1)?;
            }
        }
        if let Some(edns) = &message.edns {
            push(&Record::from(edns), 2, message.additionals.len() + 1)?;
        }
        Ok(records.into_answer(u16::from(meta.response_code), meta.authentic_data))
    }
}

/// Appends a question's or a record's bytes.
fn encode(what: &impl BinEncodable, bytes: &mut Vec<u8>) -> Result<(), AnswerError> {
    let start = bytes.len() as u32;
    let mut encoder = BinEncoder::with_offset(bytes, start);
    encoder.set_max_size(u16::MAX);
    encoder.set_name_encoding(NameEncoding::Uncompressed);
    Ok(what.emit(&mut encoder)?)
}
