//! Answers made here, in the form the cache keeps: records whose owner is the question's name, or a suffix of it. Of more
//! records than a message has room for the first are taken: no protocol carries the others.

use std::net::IpAddr;

use crate::wire::answer::{Answer, Kind, ttl_offsets};
use crate::wire::name::MAX_NAME;
use crate::wire::reply::{OPT_LEN, OPTION_LEN};
use crate::wire::{CLASS_IN, HEADER_LEN, MAX_MESSAGE, rcode, rtype};

/// The answer to a question of type `qtype` for a name that has `addresses`: those of the asked family, all of them for
/// ANY, and NODATA where there are none (RFC 2308 §2.2). `name` is the question's name, `apex_len` as in
/// [`negative`].
pub fn addresses(name: &[u8], apex_len: usize, qtype: u16, addresses: &[IpAddr], ttl: u32) -> Answer {
    let mut answer = Builder::default();
    for address in addresses {
        match address {
            IpAddr::V4(v4) if matches!(qtype, rtype::A | rtype::ANY) => {
                answer.push(QUESTION, rtype::A, ttl, &v4.octets());
            }
            IpAddr::V6(v6) if matches!(qtype, rtype::AAAA | rtype::ANY) => {
                answer.push(QUESTION, rtype::AAAA, ttl, &v6.octets());
            }
            _ => {}
        }
    }
    if answer.count == 0 {
        return negative(Kind::NoData, name, apex_len, ttl);
    }
    let counts = [answer.count, 0, 0];
    answer.finish(Kind::Positive, rcode::NOERROR, counts, ttl)
}

/// The answer to a PTR question whose address has these names, in wire form.
pub fn pointers<'a>(names: impl IntoIterator<Item = &'a [u8]>, ttl: u32) -> Answer {
    let mut answer = Builder::default();
    for name in names {
        answer.push(QUESTION, rtype::PTR, ttl, name);
    }
    let counts = [answer.count, 0, 0];
    answer.finish(Kind::Positive, rcode::NOERROR, counts, ttl)
}

/// NXDOMAIN or NODATA for `name`, with a SOA record owned by its last `apex_len` bytes, so that whoever caches it knows
/// for how long (RFC 2308 §5).
pub fn negative(kind: Kind, name: &[u8], apex_len: usize, ttl: u32) -> Answer {
    let mut answer = Builder::default();
    let owner = QUESTION + (name.len() - apex_len.min(name.len())) as u16;
    let mut rdata = [0u8; SOA_NAMES.len() + 20];
    rdata[..SOA_NAMES.len()].copy_from_slice(SOA_NAMES);
    for (field, value) in rdata[SOA_NAMES.len()..].chunks_exact_mut(4).zip([1, 3600, 1200, 604_800, ttl]) {
        field.copy_from_slice(&value.to_be_bytes());
    }
    answer.push(owner, rtype::SOA, ttl, &rdata);
    let rcode = if kind == Kind::NxDomain { rcode::NXDOMAIN } else { rcode::NOERROR };
    answer.finish(kind, rcode, [0, 1, 0], ttl)
}

/// Compression pointer to the question's name (RFC 1035 §4.1.4).
const QUESTION: u16 = 0xc000 | HEADER_LEN as u16;

/// MNAME and RNAME of a zone that exists here only: `localhost.` and `nobody.invalid.` (RFC 6303 §3, RFC 2606 §2).
const SOA_NAMES: &[u8] = b"\x09localhost\x00\x06nobody\x07invalid\x00";

/// Bytes of a record before its data, where its owner is a pointer.
const RECORD: usize = 12;

/// Bytes of records for which every message has room, behind its header and the longest question, with an OPT record and an
/// extended error (RFC 1035 §4.2.2, RFC 6891 §6.1.2, RFC 8914 §2).
const MAX_BODY: usize = MAX_MESSAGE - HEADER_LEN - MAX_NAME - 4 - OPT_LEN - OPTION_LEN;

#[derive(Default)]
struct Builder {
    body: Vec<u8>,
    count: u16,
}

impl Builder {
    fn push(&mut self, owner: u16, rtype: u16, ttl: u32, rdata: &[u8]) {
        if self.body.len() + RECORD + rdata.len() > MAX_BODY {
            return;
        }
        self.body.extend_from_slice(&owner.to_be_bytes());
        self.body.extend_from_slice(&rtype.to_be_bytes());
        self.body.extend_from_slice(&CLASS_IN.to_be_bytes());
        self.body.extend_from_slice(&ttl.to_be_bytes());
        self.body.extend_from_slice(&(rdata.len() as u16).to_be_bytes());
        self.body.extend_from_slice(rdata);
        self.count += 1;
    }

    fn finish(self, kind: Kind, rcode: u16, counts: [u16; 3], ttl: u32) -> Answer {
        let ttl_at = ttl_offsets(&self.body, counts);
        Answer { kind, rcode, authentic_data: false, counts, body: self.body, ttl_at, ttl }
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::Message;
    use hickory_proto::rr::RData;

    use super::*;

    /// The answer as a whole message, read by hickory-proto.
    fn read(name: &[u8], qtype: u16, answer: &Answer) -> Message {
        let mut bytes = vec![0, 1, 0x80, answer.rcode as u8, 0, 1];
        for count in answer.counts {
            bytes.extend_from_slice(&count.to_be_bytes());
        }
        bytes.extend_from_slice(name);
        bytes.extend_from_slice(&qtype.to_be_bytes());
        bytes.extend_from_slice(&CLASS_IN.to_be_bytes());
        bytes.extend_from_slice(&answer.body);
        Message::from_vec(&bytes).expect("a well-formed message")
    }

    const NAME: &[u8] = b"\x01a\x07example\x00";

    #[test]
    fn addresses_of_the_asked_family_are_the_answer() {
        let both = ["10.0.0.7".parse().unwrap(), "fd00::7".parse().unwrap()];
        for (qtype, count) in [(rtype::A, 1), (rtype::AAAA, 1), (rtype::ANY, 2)] {
            let answer = addresses(NAME, NAME.len(), qtype, &both, 60);
            let message = read(NAME, qtype, &answer);
            assert_eq!((message.answers.len(), answer.kind, answer.ttl), (count, Kind::Positive, 60));
            assert_eq!(message.answers[0].name.to_ascii(), "a.example.");
            assert_eq!(answer.ttl_at.len(), count);
        }
    }

    #[test]
    fn rfc2308_no_address_of_the_family_is_nodata_with_a_soa() {
        let answer = addresses(NAME, 9, rtype::AAAA, &["10.0.0.7".parse().unwrap()], 60);
        let message = read(NAME, rtype::AAAA, &answer);
        assert_eq!((answer.kind, message.answers.len()), (Kind::NoData, 0));
        assert_eq!(message.authorities[0].name.to_ascii(), "example.");
        assert_eq!(message.authorities[0].ttl, 60);
        assert!(matches!(&message.authorities[0].data, RData::SOA(soa) if soa.minimum == 60));
    }

    #[test]
    fn no_answer_has_more_records_than_a_message_has_room_for() {
        let many = vec!["10.0.0.7".parse().unwrap(); 5_000];
        let names = vec![&b"\x01a\x00"[..]; 5_000];
        for answer in [addresses(NAME, NAME.len(), rtype::A, &many, 60), pointers(names, 60)] {
            let records = usize::from(answer.counts[0]);
            assert!((4_000..5_000).contains(&records), "{records}");
            assert_eq!((answer.ttl_at.len(), answer.body.len() % records), (records, 0));
            assert!(answer.body.len() <= MAX_BODY && answer.body.len() + 16 > MAX_BODY);
            let message = read(NAME, rtype::A, &answer);
            assert_eq!(message.answers.len(), records);
        }
    }

    #[test]
    fn a_pointer_names_every_host() {
        let answer = pointers([&b"\x01a\x00"[..], b"\x01b\x00"], 9);
        let message = read(NAME, rtype::PTR, &answer);
        let names: Vec<_> = message.answers.iter().map(|record| record.data.to_string()).collect();
        assert_eq!(names, ["a.", "b."]);
    }
}
