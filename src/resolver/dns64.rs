//! DNS64 (RFC 6147): AAAA answers made of A answers, for clients that have IPv6 alone.
//!
//! | section | here |
//! |---|---|
//! | 5.1.2, 5.1.3 | NODATA, and any failure but NXDOMAIN, of the AAAA question lead to the A question |
//! | 5.1.4 | AAAA records in ::ffff:0:0/96 count as none |
//! | 5.1.7 | TTL: the A record's, no more than the SOA's of the AAAA answer, or 600 s without one |
//! | 5.3.1 | PTR under the prefix: not translated, it is looked up as any other |
//! | 5.5 | with CD and DO set nothing is made up; answers made up here never carry AD |

use std::net::Ipv6Addr;

use hickory_proto::op::{Message, Metadata, ResponseCode};
use hickory_proto::rr::{RData, Record, RecordType, rdata::AAAA};

use crate::cache::Key;
use crate::config::Dns64;
use crate::wire::{CLASS_IN, rtype};

/// Whether DNS64 has a say in this question.
pub(super) fn applies(key: &Key) -> bool {
    let validates_itself = key.flags().dnssec_ok() && key.flags().checking_disabled();
    key.qtype() == rtype::AAAA && key.qclass() == CLASS_IN && !validates_itself
}

/// What an AAAA reply leads to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It is the answer.
    Keep,
    /// The A question is put; records made of its answer live no longer than this many seconds.
    AskA {
        /// RFC 6147 §5.1.7.
        max_ttl: u32,
    },
}

/// Looks at the reply to the AAAA question, from which it takes the records that count as none.
pub(super) fn after_aaaa(reply: &mut Message) -> Next {
    match reply.metadata.response_code {
        ResponseCode::NXDomain => return Next::Keep,
        ResponseCode::NoError => {
            let before = reply.answers.len();
            reply.answers.retain(|record| !matches!(record.data, RData::AAAA(aaaa) if is_mapped(aaaa.0)));
            let left = reply.answers.iter().any(|record| record.record_type() == RecordType::AAAA);
            if left {
                return Next::Keep;
            }
            // Without those records the answer is NODATA, and without a SOA it is not kept.
            debug_assert!(reply.answers.len() <= before);
        }
        // RFC 6147 §5.1.2: as if it were an empty answer.
        _ => {}
    }
    let soa_ttl = reply.authorities.iter().find_map(|record| match &record.data {
        RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
        _ => None,
    });
    Next::AskA { max_ttl: soa_ttl.unwrap_or(MAX_TTL_WITHOUT_SOA) }
}

/// Makes the answer to the AAAA question of the reply to the A question; `None` where that has no address.
pub(super) fn synthesize(a: Message, max_ttl: u32, settings: &Dns64) -> Option<Message> {
    if a.metadata.response_code != ResponseCode::NoError {
        return None;
    }
    let mut answers = Vec::with_capacity(a.answers.len());
    let mut made = false;
    for record in a.answers {
        match record.data {
            RData::A(address) => {
                let mapped = embed(settings.prefix, address.0);
                let ttl = record.ttl.min(max_ttl);
                let mut aaaa = Record::from_rdata(record.name, ttl, RData::AAAA(AAAA(mapped)));
                aaaa.dns_class = record.dns_class;
                answers.push(aaaa);
                made = true;
            }
            // The way there, without the signatures of what has been changed.
            RData::CNAME(_) => answers.push(record),
            _ if record.record_type() == RecordType::from(rtype::DNAME) => answers.push(record),
            _ => {}
        }
    }
    if !made {
        return None;
    }
    let mut metadata: Metadata = a.metadata;
    metadata.authentic_data = false;
    let mut message = Message::new(metadata.id, metadata.message_type, metadata.op_code);
    message.metadata = metadata;
    for mut query in a.queries {
        query.set_query_type(RecordType::AAAA);
        message.add_query(query);
    }
    message.insert_answers(answers);
    Some(message)
}

/// An IPv4 address in the low 32 bits of the prefix (RFC 6052 §2.2, /96).
fn embed(prefix: Ipv6Addr, address: std::net::Ipv4Addr) -> Ipv6Addr {
    Ipv6Addr::from_bits(prefix.to_bits() & !u128::from(u32::MAX) | u128::from(address.to_bits()))
}

/// Whether an address is in ::ffff:0:0/96 (RFC 6147 §5.1.4).
fn is_mapped(address: Ipv6Addr) -> bool {
    address.to_ipv4_mapped().is_some()
}

/// RFC 6147 §5.1.7, in seconds.
const MAX_TTL_WITHOUT_SOA: u32 = 600;
