//! What a client must get for an upstream's reply, worked out from the reply as hickory-proto reads it: a second
//! reading of the rules of RFC 2181 §5.2 and §8 and RFC 2308 §5, written for plainness and not for speed.

use hickory_proto::op::Message;
use hickory_proto::rr::{RData, Record};
use nodens::wire::HEADER_LEN;
use nodens::wire::name::plain_name_len;

/// Three sections of records.
pub(crate) type Sections = [Vec<Record>; 3];

/// The records of an upstream's reply as they must be kept, and for how long the answer lives, in seconds.
///
/// `None` where that is not to be told from the records alone: the reply is none that is cached.
pub(crate) fn expected(reply: &[u8]) -> Option<(Sections, u32)> {
    const SIG: u16 = 24;
    const TSIG: u16 = 250;
    let message = Message::from_vec(reply).ok()?;
    let rcode = u16::from(message.metadata.response_code);
    let qtype = message.queries.first()?.query_type();
    let mut sections = [message.answers, message.authorities, message.additionals];
    sections[2].retain(|record| !matches!(u16::from(record.record_type()), SIG | TSIG));
    for section in &mut sections {
        for record in section.iter_mut() {
            if record.ttl >> 31 != 0 {
                record.ttl = 0;
            }
        }
        let before = section.clone();
        for record in section.iter_mut() {
            let set = before.iter().filter(|other| {
                other.name == record.name
                    && other.record_type() == record.record_type()
                    && other.dns_class == record.dns_class
            });
            record.ttl = set.map(|other| other.ttl).min()?;
        }
    }
    let any = hickory_proto::rr::RecordType::ANY;
    let positive = rcode == 0 && sections[0].iter().any(|r| qtype == any || r.record_type() == qtype);
    let smallest = |sections: &[Vec<Record>]| sections.iter().flatten().map(|record| record.ttl).min();
    let lifetime = if positive {
        smallest(&sections)?
    } else if matches!(rcode, 0 | 3) {
        let soa = sections[1].iter_mut().find_map(|record| match &record.data {
            RData::SOA(soa) => Some((soa.minimum, &mut record.ttl)),
            _ => None,
        });
        if let Some((minimum, ttl)) = soa {
            *ttl = minimum.min(*ttl);
            smallest(&sections[..2])?
        } else {
            0
        }
    } else {
        0
    };
    Some((sections, lifetime))
}

/// A header with id 0x1234 and RD, and the reply's question as a client writes it: without compression.
///
/// `None` where the question is compressed: such a reply matches no query.
pub(crate) fn head_of(reply: &[u8], flags: u16) -> Option<Vec<u8>> {
    let question = reply.get(HEADER_LEN..)?;
    let end = plain_name_len(question).ok()? + 4;
    let mut head = vec![0x12, 0x34];
    head.extend_from_slice(&flags.to_be_bytes());
    head.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
    head.extend_from_slice(question.get(..end)?);
    Some(head)
}

/// Asserts that `got` are the records `kept`, each TTL less `age`.
pub(crate) fn assert_aged(got: &[Record], kept: &[Record], age: u32) {
    assert_eq!(got.len(), kept.len(), "as many records");
    for (got, kept) in got.iter().zip(kept) {
        assert_eq!(got.name, kept.name);
        assert_eq!(got.record_type(), kept.record_type(), "{}", kept.name);
        assert_eq!(got.dns_class, kept.dns_class, "{}", kept.name);
        assert_eq!(got.data, kept.data, "{}", kept.name);
        assert_eq!(got.ttl, kept.ttl.saturating_sub(age), "TTL of {} {}", kept.name, kept.record_type());
    }
}
