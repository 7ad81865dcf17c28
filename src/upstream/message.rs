//! Query messages as they go upstream, and the match of a reply to its query (RFC 5452 §9.1).

use super::Query;
use crate::wire::rcode;

/// A query in wire form with id 0, and where its question ends.
#[derive(Debug, Clone)]
pub(super) struct Message {
    bytes: Box<[u8]>,
    question_end: usize,
}

/// What a matching reply's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// TC: the reply was cut.
    pub(super) truncated: bool,
    /// The low four bits of the rcode.
    pub(super) rcode: u8,
}

/// Why a message is not the reply that is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mismatch {
    /// Shorter than a header, not a reply, or another opcode.
    Malformed,
    /// Another question, or the question in another letter case where the case counts.
    Question,
    /// The right question, but in another letter case: the upstream does not keep it.
    Case,
}

impl Message {
    /// The query with RD, CD, AD and an OPT record. Neither ECS nor a cookie goes along.
    pub(super) fn encode(query: &Query) -> Self {
        let question_end = HEADER + query.name.len() + 4;
        let mut bytes = Vec::with_capacity(question_end + OPT);
        let flags = (u16::from(query.recursion_desired) * RD)
            | (u16::from(query.authentic_data) * AD)
            | (u16::from(query.checking_disabled) * CD);
        bytes.extend_from_slice(&[0, 0]);
        bytes.extend_from_slice(&flags.to_be_bytes());
        // One question, no answer, no authority, one additional: the OPT.
        bytes.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, 1]);
        bytes.extend_from_slice(&query.name);
        bytes.extend_from_slice(&query.qtype.to_be_bytes());
        bytes.extend_from_slice(&query.qclass.to_be_bytes());
        // Root name, type OPT, payload size, extended rcode and version 0, flags, no options (RFC 6891 §6.1.2).
        bytes.extend_from_slice(&[0, 0, 41]);
        bytes.extend_from_slice(&PAYLOAD.to_be_bytes());
        bytes.extend_from_slice(&[0, 0, u8::from(query.dnssec_ok) << 7, 0, 0, 0]);
        Self { bytes: bytes.into_boxed_slice(), question_end }
    }

    /// The whole message, id 0.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Name, type and class.
    pub(super) fn question(&self) -> &[u8] {
        &self.bytes[HEADER..self.question_end]
    }

    /// A copy with this id, and each letter of the name in upper case where `upper` says so
    /// (draft-vixie-dnsext-dns0x20).
    pub(super) fn for_udp(&self, id: u16, mut upper: impl FnMut() -> bool) -> Self {
        let mut bytes = self.bytes.clone();
        bytes[..2].copy_from_slice(&id.to_be_bytes());
        // Length bytes are below 64 and are no letters, so the name may be walked byte by byte.
        for byte in &mut bytes[HEADER..self.question_end - 4] {
            if byte.is_ascii_lowercase() && upper() {
                byte.make_ascii_uppercase();
            }
        }
        Self { bytes, question_end: self.question_end }
    }
}

/// The id of a message, if it has a whole header.
pub(super) fn id(message: &[u8]) -> Option<u16> {
    (message.len() >= HEADER).then(|| u16::from_be_bytes([message[0], message[1]]))
}

/// Whether `reply`, whose id already matched, is a reply to `question`: QR, opcode QUERY, one question, the same name,
/// type and class. With `exact` the letter case counts too.
pub(super) fn check(reply: &[u8], question: &[u8], exact: bool) -> Result<Header, Mismatch> {
    if reply.len() < HEADER {
        return Err(Mismatch::Malformed);
    }
    let flags = u16::from_be_bytes([reply[2], reply[3]]);
    if flags & QR == 0 || flags & OPCODE != 0 {
        return Err(Mismatch::Malformed);
    }
    let Some(theirs) = reply.get(HEADER..HEADER + question.len()) else {
        return Err(Mismatch::Question);
    };
    let (name, fixed) = question.split_at(question.len() - 4);
    if reply[4..6] != [0, 1]
        || theirs[name.len()..] != *fixed
        || !theirs[..name.len()].eq_ignore_ascii_case(name)
    {
        return Err(Mismatch::Question);
    }
    if exact && theirs != question {
        return Err(Mismatch::Case);
    }
    Ok(Header { truncated: flags & TC != 0, rcode: reply[3] & 0x0f })
}

/// A reply without a question and without an answer that says why there is no answer, with the question put back; `None` for all others.
///
/// nsd refuses a class it does not serve in this way, and servers that cannot read a query have no question to repeat
/// (RFC 8906 §3.1.4). Only for TCP, where the connection says who replies: over UDP the question is what keeps a forger
/// out (RFC 5452 §9.1).
pub(super) fn complete_bare_error(reply: &[u8], question: &[u8]) -> Option<Vec<u8>> {
    let header: &[u8; HEADER] = reply.first_chunk()?;
    let flags = u16::from_be_bytes([header[2], header[3]]);
    let is_error = matches!(
        u16::from(header[3] & 0x0f),
        rcode::FORMERR | rcode::SERVFAIL | rcode::NOTIMP | rcode::REFUSED
    );
    if flags & QR == 0 || flags & (OPCODE | TC) != 0 || !is_error || header[4..10] != [0; 6] {
        return None;
    }
    let mut whole = Vec::with_capacity(HEADER + question.len());
    whole.extend_from_slice(&header[..4]);
    whole.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
    whole.extend_from_slice(question);
    Some(whole)
}

/// Bytes of a message header.
pub(super) const HEADER: usize = 12;
/// Bytes of an OPT record without options.
const OPT: usize = 11;
/// The UDP payload offered (RFC 9715). Over TCP it has no meaning (RFC 6891 §6.2.5), and the same message serves both.
const PAYLOAD: u16 = 1232;

const QR: u16 = 0x8000;
const OPCODE: u16 = 0x7800;
const TC: u16 = 0x0200;
const RD: u16 = 0x0100;
const AD: u16 = 0x0020;
const CD: u16 = 0x0010;

#[cfg(test)]
mod tests {
    use hickory_proto::op::{Message as Oracle, MessageType, OpCode};
    use proptest::prelude::*;

    use super::*;

    fn query(name: &[u8]) -> Query {
        Query {
            name: name.into(),
            qtype: 28,
            qclass: 1,
            dnssec_ok: true,
            checking_disabled: true,
            recursion_desired: true,
            authentic_data: false,
        }
    }

    const NAME: &[u8] = b"\x03www\x07example\x00";

    fn reply_to(message: &Message) -> Vec<u8> {
        let mut reply = message.bytes().to_vec();
        reply[2] |= 0x80;
        reply
    }

    #[test]
    fn the_oracle_reads_the_query() {
        let message = Message::encode(&query(NAME));
        let read = Oracle::from_vec(message.bytes()).expect("well-formed");
        assert_eq!(read.metadata.message_type, MessageType::Query);
        assert_eq!(read.metadata.op_code, OpCode::Query);
        assert!(read.metadata.recursion_desired && read.metadata.checking_disabled);
        assert!(!read.metadata.authentic_data);
        assert_eq!(read.queries.len(), 1);
        assert_eq!(read.queries[0].name().to_ascii(), "www.example.");
        let edns = read.edns.expect("an OPT record");
        assert_eq!(edns.max_payload(), 1232);
        assert!(edns.flags().dnssec_ok);
        assert!(edns.options().as_ref().is_empty());
    }

    #[test]
    fn an_error_without_a_question_gets_it_back_and_nothing_else_does() {
        let message = Message::encode(&query(b"\x01a\x00"));
        let bare = |flags: u16| [&[7, 7][..], &flags.to_be_bytes(), &[0; 8]].concat();
        let refused = bare(QR | 5);
        let whole = complete_bare_error(&refused, message.question()).unwrap();
        assert_eq!(check(&whole, message.question(), true), Ok(Header { truncated: false, rcode: 5 }));
        assert_eq!(whole[..2], [7, 7]);
        for flags in [5, QR, QR | 3, QR | TC | 5, QR | 0x2800 | 5] {
            assert_eq!(complete_bare_error(&bare(flags), message.question()), None, "{flags:04x}");
        }
        let with_opt = [&bare(QR | 5)[..10], &[0, 1, 0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]].concat();
        assert_eq!(complete_bare_error(&with_opt, message.question()), Some(whole));
        for (at, byte) in [(5, 1), (7, 1), (9, 1)] {
            let mut counted = refused.clone();
            counted[at] = byte;
            assert_eq!(complete_bare_error(&counted, message.question()), None, "count at {at}");
        }
        assert_eq!(complete_bare_error(&refused[..11], message.question()), None);
    }

    #[test]
    fn a_reply_must_repeat_the_whole_question() {
        let message = Message::encode(&query(NAME));
        let good = reply_to(&message);
        assert_eq!(check(&good, message.question(), true), Ok(Header { truncated: false, rcode: 0 }));
        for at in HEADER..HEADER + message.question().len() {
            let mut bad = good.clone();
            bad[at] ^= 0x01;
            assert_eq!(check(&bad, message.question(), false), Err(Mismatch::Question), "byte {at}");
        }
        assert_eq!(check(message.bytes(), message.question(), false), Err(Mismatch::Malformed), "QR=0");
        let mut notify = good.clone();
        notify[2] |= 0x20;
        assert_eq!(check(&notify, message.question(), false), Err(Mismatch::Malformed), "opcode");
        assert_eq!(check(&good[..20], message.question(), false), Err(Mismatch::Question), "cut");
        let mut none = good.clone();
        none[5] = 0;
        assert_eq!(check(&none, message.question(), false), Err(Mismatch::Question), "QDCOUNT 0");
    }

    #[test]
    fn letter_case_counts_only_when_asked() {
        let message = Message::encode(&query(NAME));
        let mixed = message.for_udp(0x1234, || true);
        assert_eq!(&mixed.question()[..5], b"\x03WWW\x07");
        assert_eq!(id(mixed.bytes()), Some(0x1234));
        let folded = reply_to(&message);
        assert_eq!(check(&folded, mixed.question(), true), Err(Mismatch::Case));
        assert!(check(&folded, mixed.question(), false).is_ok());
    }

    proptest! {
        #[test]
        fn no_input_panics(reply in proptest::collection::vec(any::<u8>(), 0..64)) {
            let message = Message::encode(&query(NAME));
            let _ = check(&reply, message.question(), true);
            let _ = id(&reply);
        }
    }
}
