//! A reply's way into an answer against hickory-proto: the question with the answer's body behind it reads as the reply did,
//! whatever of it was compressed, and no reply makes the way long or a wrong turn.

use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query as HickoryQuery, ResponseCode};
use hickory_proto::rr::rdata::{
    A, AAAA, CAA, CNAME, HINFO, HTTPS, MX, NAPTR, NS, NULL, PTR, SOA, SRV, SVCB, TXT,
};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use nodens::wire::HEADER_LEN;
use nodens::wire::answer::{Answer, AnswerError, Flaw, Kind, Malformed, Section};
use nodens::wire::name::NameError;
use proptest::prelude::*;

#[path = "wire_transcode/by_hand.rs"]
mod by_hand;
#[allow(dead_code, reason = "the fuzz targets use more of it")]
#[path = "../fuzz/checks/records.rs"]
mod records;

use by_hand::{Reply, WITH_NAMES, wire};

fn head_len(reply: &[u8]) -> usize {
    HEADER_LEN + nodens::wire::name::plain_name_len(&reply[HEADER_LEN..]).expect("a question") + 4
}

/// The reply's head with the answer's body behind it.
fn rebuilt(reply: &[u8], answer: &Answer) -> Vec<u8> {
    let mut again = reply[..head_len(reply)].to_vec();
    for (section, count) in answer.counts.iter().enumerate() {
        again[6 + 2 * section..8 + 2 * section].copy_from_slice(&count.to_be_bytes());
    }
    again.extend_from_slice(&answer.body);
    again
}

/// Asserts that the answer of `reply` reads as the reply does; the answer.
fn assert_same(reply: &[u8]) -> Answer {
    let answer =
        Answer::from_reply(reply).unwrap_or_else(|error| panic!("{error}: {}", reply.escape_ascii()));
    let (sections, lifetime) = records::expected(reply).expect("the reply reads");
    let again = records::read(&rebuilt(reply, &answer)).expect("what goes out reads");
    for (got, kept) in again.sections.iter().zip(&sections) {
        records::assert_aged(got, kept, 0);
    }
    assert_eq!(answer.ttl, lifetime);
    let ttls = answer.ttl_at.iter().map(|&at| {
        let at = usize::from(u16::from_ne_bytes(at));
        u32::from_be_bytes(answer.body[at..at + 4].try_into().expect("four bytes"))
    });
    assert!(ttls.eq(sections.iter().flatten().map(|record| record.ttl)));
    answer
}

fn flaw_of(reply: &[u8]) -> Malformed {
    match Answer::from_reply(reply) {
        Err(AnswerError::Malformed(malformed)) => malformed,
        other => panic!("{other:?}"),
    }
}

/// Names that end alike, as those of one reply do.
fn labels() -> impl Strategy<Value = Vec<&'static str>> {
    let label = prop::sample::select(vec!["a", "www", "svc", "example", "cluster", "b"]);
    let top = prop::sample::select(vec!["com", "local", "org"]);
    (prop::collection::vec(label, 0..4), top).prop_map(|(mut labels, top)| {
        labels.push(top);
        labels
    })
}

/// The same with capitals here and there.
fn mixed() -> impl Strategy<Value = Vec<u8>> {
    (labels(), any::<u64>(), any::<bool>()).prop_map(|(labels, capitals, mixed)| {
        let mut name = wire(&labels);
        for (bit, byte) in name.iter_mut().enumerate() {
            if mixed && byte.is_ascii_lowercase() && (capitals >> (bit % 64)).trailing_zeros() >= 3 {
                byte.make_ascii_uppercase();
            }
        }
        name
    })
}

fn lower() -> impl Strategy<Value = Name> {
    labels()
        .prop_map(|labels| Name::from_labels(labels.iter().map(|label| label.as_bytes())).expect("a name"))
}

fn rdata() -> impl Strategy<Value = RData> {
    prop_oneof![
        any::<u32>().prop_map(|ip| RData::A(A(ip.into()))),
        any::<u128>().prop_map(|ip| RData::AAAA(AAAA(ip.into()))),
        lower().prop_map(|name| RData::CNAME(CNAME(name))),
        lower().prop_map(|name| RData::NS(NS(name))),
        lower().prop_map(|name| RData::PTR(PTR(name))),
        (any::<u16>(), lower()).prop_map(|(p, name)| RData::MX(MX::new(p, name))),
        (any::<[u16; 3]>(), lower()).prop_map(|([p, w, port], name)| RData::SRV(SRV::new(p, w, port, name))),
        (lower(), lower(), 1..90_u32).prop_map(|(m, r, min)| RData::SOA(SOA::new(m, r, 1, 2, 3, 4, min))),
        lower().prop_map(|name| {
            RData::NAPTR(NAPTR::new(1, 2, b"s"[..].into(), b"SIP+D2U"[..].into(), b""[..].into(), name))
        }),
        lower().prop_map(|name| RData::SVCB(SVCB::new(1, name, vec![]))),
        lower().prop_map(|name| RData::HTTPS(HTTPS(SVCB::new(1, name, vec![])))),
        prop::collection::vec("[ -~]{0,40}", 1..3).prop_map(|texts| RData::TXT(TXT::new(texts))),
        Just(RData::HINFO(HINFO::new("cpu".into(), "os".into()))),
        lower().prop_map(|name| RData::CAA(CAA::new_issue(true, Some(name), vec![]))),
        prop::collection::vec(any::<u8>(), 1..20)
            .prop_map(|bytes| RData::Unknown { code: RecordType::from(65_400), rdata: NULL::with(bytes) }),
    ]
}

fn section(most: usize) -> impl Strategy<Value = Vec<Record>> {
    let ttl = prop_oneof![Just(30_u32), 0..100_u32, any::<u32>()];
    let record = (lower(), ttl, rdata()).prop_map(|(name, ttl, data)| Record::from_rdata(name, ttl, data));
    prop::collection::vec(record, 0..most)
}

proptest! {
    #[test]
    fn a_message_of_hickory_reads_the_same_and_is_no_longer(
        question in lower(),
        qtype in prop::sample::select(vec![1_u16, 5, 6, 28, 33, 255, 65_400]),
        answers in section(24), authorities in section(4), additionals in section(24),
        rcode in prop::sample::select(vec![0_u16, 0, 0, 2, 3]),
        edns: bool,
    ) {
        let mut message = Message::new(0x1234, MessageType::Response, OpCode::Query);
        message.add_query(HickoryQuery::query(question, RecordType::from(qtype)));
        message.metadata.response_code = ResponseCode::from(0, rcode as u8);
        message.add_answers(answers);
        message.add_authorities(authorities);
        message.add_additionals(additionals);
        if edns {
            message.set_edns(Edns::new());
        }
        let reply = message.to_vec().expect("encodes");
        let answer = assert_same(&reply);
        let opt_len = if edns { 11 } else { 0 };
        prop_assert!(head_len(&reply) + answer.body.len() + opt_len <= reply.len());
        let from_message = Answer::from_message(&Message::from_vec(&reply).expect("reads")).expect("an answer");
        prop_assert_eq!(from_message, answer);
    }

    #[test]
    fn rfc3597_names_that_a_peer_compressed_are_written_so_that_they_hold(
        question in mixed(),
        parts in prop::collection::vec(
            (prop::sample::select(WITH_NAMES.to_vec()), mixed(), prop::collection::vec((mixed(), any::<bool>()), 2), 0..2_usize),
            1..12,
        ),
        mut compress in any::<u64>(),
    ) {
        let mut reply = Reply::to(&question, 255);
        let mut sections = parts;
        sections.sort_by_key(|part| part.3);
        for ((rtype, fixed, strings, names, rest), owner, targets, section) in sections {
            compress = compress.rotate_left(1);
            reply.record(section, &owner, compress & 1 != 0, rtype, 60, |reply| {
                reply.bytes.resize(reply.bytes.len() + fixed, 7);
                for _ in 0..strings {
                    reply.bytes.extend_from_slice(b"\x02hi");
                }
                for (name, compress) in &targets[..names] {
                    reply.name(name, *compress);
                }
                if rest {
                    reply.bytes.extend_from_slice(&[0xc0, 12, 1, 2]);
                }
            });
        }
        let answer = assert_same(&reply.bytes);
        // What needed no compression to be understood has none: the record by itself reads.
        let whole = rebuilt(&reply.bytes, &answer);
        for &at in &answer.ttl_at {
            let at = head_len(&reply.bytes) + usize::from(u16::from_ne_bytes(at));
            let rtype = u16::from_be_bytes([whole[at - 4], whole[at - 3]]);
            if let Some((_, fixed, 0, ..)) = WITH_NAMES.iter().find(|with| with.0 == rtype && rtype > 15) {
                let name = nodens::wire::name::plain_name_len(&whole[at + 6 + fixed..]);
                prop_assert!(name.is_ok(), "type {}: {:?}", rtype, name);
            }
        }
    }

    #[test]
    fn no_change_of_a_reply_panics_or_reads_otherwise_than_it_goes_out(
        question in mixed(), owner in mixed(), target in mixed(),
        rtype in prop::sample::select(WITH_NAMES.to_vec()),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut reply = Reply::to(&question, 255);
        reply.a(0, &question, 1);
        reply.record(0, &owner, true, rtype.0, 60, |reply| {
            reply.bytes.resize(reply.bytes.len() + rtype.1, 1);
            reply.name(&target, true);
            reply.name(&question, true);
        });
        let mut bytes = reply.bytes;
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(answer) = Answer::from_reply(&bytes) {
            let (sections, _) = records::expected(&bytes).expect("the reply reads");
            let again = records::read(&rebuilt(&bytes, &answer)).expect("what goes out reads");
            for (got, kept) in again.sections.iter().zip(&sections) {
                records::assert_aged(got, kept, 0);
            }
        }
    }
}

const QUESTION: [&str; 5] = ["a", "default", "svc", "cluster", "local"];

/// A reply with one A record of the question's name, whose owner is `owner`.
fn owned_by(owner: &[u8]) -> Vec<u8> {
    let mut reply = Reply::to(&wire(&QUESTION), 1).bytes;
    reply[7] = 1;
    reply.extend_from_slice(owner);
    reply.extend_from_slice(&[0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1]);
    reply
}

#[test]
fn rfc1035_a_pointer_points_to_an_earlier_name_and_nowhere_else() {
    let at = head_len(&owned_by(&[0])) as u16;
    let pointer = |to: u16| (0xc000 | to).to_be_bytes();
    assert_same(&owned_by(&pointer(12)));
    // Into a label of the question: unusual, and a name nevertheless.
    let mut reply = Reply::to(&wire(&["a\u{1}b\0c"]), 1);
    reply.known.insert(wire(&["b"]), 14);
    reply.a(0, &wire(&["b"]), 1);
    assert_same(&reply.bytes);
    for (to, offset) in [(at, at), (at + 2, at), (at + 1, at), (0, at), (11, at), (0x3fff, at)] {
        let expected = Malformed {
            section: Section::Answer,
            number: 1,
            offset: usize::from(offset),
            flaw: Flaw::Name(NameError::Pointer),
        };
        assert_eq!(flaw_of(&owned_by(&pointer(to))), expected, "to {to}");
    }
    // Two that point to each other.
    let mut name = vec![1, b'x'];
    name.extend_from_slice(&pointer(at));
    assert_eq!(flaw_of(&owned_by(&name)).flaw, Flaw::Name(NameError::Pointer));
    for reserved in [0x40, 0x80, 0xbf] {
        assert_eq!(flaw_of(&owned_by(&[reserved, 0])).flaw, Flaw::Name(NameError::NotPlain));
    }
}

#[test]
fn rfc1035_a_name_is_255_bytes_at_most_however_it_is_written() {
    let question = wire(&QUESTION);
    let label = |len: u8| [vec![len], vec![b'x'; usize::from(len)]].concat();
    // 255 bytes with the question behind them, and one more.
    let left = 255 - question.len() as u8;
    let rest = |len: u8| [label(63), label(63), label(63), label(len - 193), vec![0xc0, 12]].concat();
    assert_same(&owned_by(&rest(left)));
    assert_eq!(flaw_of(&owned_by(&rest(left + 1))).flaw, Flaw::Name(NameError::TooLong));
    let plain = |last: u8| [label(63), label(63), label(63), label(last), vec![0]].concat();
    assert_same(&owned_by(&plain(61)));
    assert_eq!(flaw_of(&owned_by(&plain(62))).flaw, Flaw::Name(NameError::TooLong));
}

/// A reply with a chain of pointers in the data of its first record, and A records owned by what is behind `hops` of them.
fn chained(hops: usize, records: usize) -> Vec<u8> {
    let mut reply = Reply::to(&wire(&QUESTION), 1);
    let mut last = 0;
    reply.record(0, &wire(&QUESTION), true, 65_400, 60, |reply| {
        // Of another name than the question's, where no shortcut is taken.
        last = reply.bytes.len();
        reply.bytes.extend_from_slice(b"\x01z\x00");
        for _ in 1..hops {
            let pointer = (0xc000 | last as u16).to_be_bytes();
            last = reply.bytes.len();
            reply.bytes.extend_from_slice(&pointer);
        }
    });
    reply.bytes[6..8].copy_from_slice(&(records as u16 + 1).to_be_bytes());
    for _ in 0..records {
        reply.bytes.extend_from_slice(&(0xc000 | last as u16).to_be_bytes());
        reply.bytes.extend_from_slice(&[0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1]);
    }
    reply.bytes
}

#[test]
fn chains_of_pointers_are_followed_as_far_as_names_have_labels() {
    assert_same(&chained(127, 3));
    assert_eq!(flaw_of(&chained(128, 3)).flaw, Flaw::Name(NameError::Pointers));
    assert_eq!(flaw_of(&chained(8_000, 3)).flaw, Flaw::Name(NameError::Pointers));
}

/// Far more than it takes, and far less than work that is quadratic in the reply's size.
fn assert_quick(reply: &[u8]) -> Result<Answer, AnswerError> {
    let start = Instant::now();
    let answer = Answer::from_reply(reply);
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    answer
}

#[test]
fn a_hostile_reply_takes_time_linear_in_its_size() {
    let too_many_labels = |reply: &[u8]| match assert_quick(reply) {
        Err(AnswerError::Malformed(malformed)) => matches!(malformed.flaw, Flaw::Labels(_)),
        _ => false,
    };
    assert_quick(&chained(127, 4_000)).expect("an answer");
    // 127 labels, in other letters each time: everything is found but for the last letters.
    let mut reply = Reply::to(&wire(&["q"]), 255);
    let mut name: Vec<u8> = [1, b'x'].repeat(127);
    name.push(0);
    for number in 0..240_u8 {
        for (bit, at) in (0..8).zip((1..name.len()).step_by(2).rev()) {
            name[at] = if number >> bit & 1 == 0 { b'x' } else { b'X' };
        }
        reply.record(0, &[0], true, 5, u32::from(number), |reply| reply.name(&name, false));
    }
    assert_quick(&reply.bytes).expect("an answer");
    // Data of a pointer to a long name, thousands of times: too large in full, and found out before it is written.
    let mut reply = Reply::to(&wire(&["q"]), 255);
    for number in 0..4_000_u32 {
        reply.record(0, &[0], true, 39, number, |reply| reply.name(&name, true));
    }
    assert!(matches!(assert_quick(&reply.bytes), Err(AnswerError::TooLarge)));
    // The same in data that is compressed: it is as long as it came, and its TTLs are made one.
    let aliases = |records: u32| {
        let mut reply = Reply::to(&wire(&["q"]), 255);
        for number in 0..records {
            reply.record(0, &name, true, 5, records - number, |reply| reply.name(&name, true));
        }
        reply
    };
    assert!(too_many_labels(&aliases(4_000).bytes));
    let reply = aliases(2_000);
    let answer = assert_quick(&reply.bytes).expect("an answer");
    assert_eq!(answer.body.len(), reply.bytes.len() - head_len(&reply.bytes));
    assert_eq!(answer.ttl, 1);
    assert_eq!(&answer.body[answer.body.len() - 8..answer.body.len() - 4], [0, 0, 0, 1]);
}

#[test]
fn an_answer_that_came_in_one_message_fits_into_one() {
    // A headless service: a SRV record for each of its pods, and their addresses.
    let suffix = ["headless", "default", "svc", "cluster", "local"];
    let mut reply = Reply::to(&wire(&[&["_http", "_tcp"][..], &suffix].concat()), 33);
    let question = wire(&[&["_http", "_tcp"][..], &suffix].concat());
    let pod = |number: usize| {
        let label = format!("pod-{number}");
        wire(&[&[label.as_str()][..], &suffix].concat())
    };
    for number in 0..700 {
        reply.record(0, &question, true, 33, 60, |reply| {
            reply.bytes.extend_from_slice(&[0, 0, 0, 1, 0, 80]);
            reply.name(&pod(number), false);
        });
    }
    for number in 0..700 {
        reply.a(2, &pod(number), number as u8);
    }
    assert!(reply.bytes.len() > 45_000);
    let answer = assert_same(&reply.bytes);
    assert!(answer.body.len() <= reply.bytes.len() - head_len(&reply.bytes));

    // Thousands of addresses of as many names.
    let mut reply = Reply::to(&question, 33);
    for number in 0..2_600 {
        reply.a(2, &pod(number), number as u8);
    }
    assert!(reply.bytes.len() > 60_000);
    let answer = assert_same(&reply.bytes);
    assert!(answer.body.len() <= reply.bytes.len() - head_len(&reply.bytes));

    // A chain of aliases, each below the one before.
    let mut reply = Reply::to(&wire(&["x"]), 1);
    let mut name = wire(&["x"]);
    for _ in 0..100 {
        let alias = [&[1, b'y'], &name[..]].concat();
        reply.record(0, &name, true, 5, 60, |reply| reply.name(&alias, true));
        name = alias;
    }
    reply.a(0, &name, 1);
    let answer = assert_same(&reply.bytes);
    assert_eq!(answer.kind, Kind::Positive);
    assert_eq!(answer.body.len(), reply.bytes.len() - head_len(&reply.bytes));
}

#[test]
fn a_reply_that_is_cut_or_counts_wrong_is_malformed_and_says_where() {
    let mut reply = Reply::to(&wire(&QUESTION), 1);
    reply.a(0, &wire(&QUESTION), 1);
    reply.record(1, &wire(&["local"]), true, 6, 60, |reply| {
        reply.name(&wire(&["ns", "local"]), true);
        reply.name(&wire(&["root", "local"]), true);
        reply.bytes.extend_from_slice(&[0; 20]);
    });
    reply.record(2, &wire(&["ns", "local"]), true, 16, 60, |reply| {
        reply.bytes.extend_from_slice(b"\x02hi\x00");
    });
    let sound = reply.bytes;
    assert_same(&sound);
    for cut in 0..sound.len() {
        let Malformed { section, number, offset, .. } = flaw_of(&sound[..cut]);
        assert!(number == 1 && offset <= cut, "{cut}: {section} {offset}");
    }
    let mut trailing = sound.clone();
    trailing.extend_from_slice(b"trailing");
    assert_eq!(
        Answer::from_reply(&trailing).expect("an answer"),
        Answer::from_reply(&sound).expect("an answer")
    );
    for section in 0..3 {
        let mut more = sound.clone();
        more[7 + 2 * section] += 1;
        flaw_of(&more);
    }
    let mut many = sound.clone();
    many[10..12].fill(0xff);
    let error = Answer::from_reply(&many).expect_err("malformed").to_string();
    let end = sound.len();
    assert_eq!(
        error,
        format!(
            "the reply is malformed: additional section, record 2, byte {end}: expected a name: \
             the name runs past the end of the message"
        )
    );
    let mut opcode = sound.clone();
    opcode[2] |= 0x20;
    assert!(matches!(Answer::from_reply(&opcode), Err(AnswerError::NotAResponse)));
}

/// A reply whose only record is of type `rtype` with these bytes as data.
fn with_data(rtype: u16, data: &[u8]) -> Vec<u8> {
    let mut reply = Reply::to(&wire(&QUESTION), rtype);
    reply.record(0, &wire(&QUESTION), true, rtype, 60, |reply| reply.bytes.extend_from_slice(data));
    reply.bytes
}

#[test]
fn data_is_what_its_type_says() {
    let soa = |rest: usize| [&[0xc0, 12, 0][..], &vec![1; rest]].concat();
    let sound: [(u16, &[u8]); 16] = [
        (1, &[0; 4]),
        (28, &[0; 16]),
        (5, &[0xc0, 12]),
        (5, &[0]),
        (6, &soa(20)),
        (15, &[0, 1, 0]),
        (33, &[0, 1, 0, 1, 0, 1, 0]),
        (16, &[0]),
        (16, b"\x01a\x00\x02bc"),
        (35, &[0, 1, 0, 1, 0, 0, 1, b'!', 0]),
        (46, &[1; 19 + 256][..18 + 1 + 256]),
        (47, &[0]),
        (65_400, &[]),
        (42, &[]),
        (257, &[1]),
        (65, &[0, 1, 0, 9]),
    ];
    for (rtype, data) in sound {
        let mut data = data.to_vec();
        if rtype == 46 {
            data[18] = 0;
        }
        assert_same(&with_data(rtype, &data));
    }
    let flawed: [(u16, &[u8]); 19] = [
        (1, &[0; 3]),
        (1, &[0; 5]),
        (1, &[]),
        (28, &[0; 15]),
        (5, &[]),
        (5, &[0, 0]),
        (5, &[0xc0, 12, 0]),
        (6, &soa(19)),
        (6, &soa(21)),
        (15, &[0, 1]),
        (15, &[0]),
        (33, &[0, 1, 0, 1, 0, 1]),
        (33, &[0, 1, 0, 1, 0, 1, 0, 0]),
        (16, &[]),
        (16, b"\x03ab"),
        (17, &[0]),
        (35, &[0, 1, 0, 1, 0, 0]),
        (46, &[0; 18]),
        (65, &[0, 1]),
    ];
    for (rtype, data) in flawed {
        let reply = with_data(rtype, data);
        let Malformed { section, number, offset, flaw } = flaw_of(&reply);
        assert_eq!(
            (section, number, offset),
            (Section::Answer, 1, head_len(&reply) + 12),
            "{rtype} {data:?}"
        );
        assert!(
            matches!(flaw, Flaw::Rdata { rtype: found, .. } if found == rtype),
            "{rtype} {data:?}: {flaw}"
        );
        // As hickory-proto has it, for the types it knows.
        if !matches!(rtype, 17 | 46) {
            assert!(Message::from_vec(&reply).is_err(), "{rtype} {data:?}");
        }
    }
    for rtype in [0, 251, 252, 255] {
        assert_eq!(flaw_of(&with_data(rtype, &[0])).flaw, Flaw::NotARecord(rtype));
    }
}

#[test]
fn rfc4343_an_owner_is_a_pointer_whatever_its_letters_and_a_target_keeps_its_own() {
    let mut reply = Reply::to(&wire(&QUESTION), 1);
    let other = wire(&["A", "Default", "Svc", "Cluster", "Local"]);
    reply.record(0, &other, false, 5, 60, |reply| reply.name(&wire(&["B", "Other"]), false));
    reply.record(0, &wire(&["b", "other"]), false, 1, 60, |reply| reply.bytes.extend_from_slice(&[1; 4]));
    let answer = assert_same(&reply.bytes);
    assert_eq!(answer.body[..2], [0xc0, 12]);
    // The last owner points to the target of the alias, in its letters.
    let target = (head_len(&reply.bytes) + 12) as u16;
    assert_eq!(answer.body[12..21], *b"\x01B\x05Other\x00");
    assert_eq!(answer.body[answer.body.len() - 16..][..2], (0xc000 | target).to_be_bytes());
}

#[test]
fn an_owner_is_a_pointer_to_the_question_where_its_peer_compressed_it_letter_by_letter() {
    // CoreDNS does, and the letters of a question over UDP are mixed: it finds the last label alone.
    let mut reply = Reply::to(&wire(&["wWw", "ExaMple", "com"]), 1);
    let owner = wire(&["www", "example", "com"]);
    for last in 0..3 {
        reply.a(0, &owner, last);
    }
    let owners = reply.bytes[head_len(&reply.bytes)..].starts_with(b"\x03www\x07example\xc0\x18");
    assert!(owners, "{}", reply.bytes.escape_ascii());
    let answer = assert_same(&reply.bytes);
    let run = nodens::wire::rotation::Addresses::of(&answer.body, answer.counts[0]).expect("addresses");
    assert_eq!((run.start, run.unit, run.count), (0, 16, 3), "all of them change places");
}

#[test]
fn rfc4034_a_signature_keeps_the_ttl_of_what_it_covers() {
    const RRSIG: u16 = 46;
    const NSEC: u16 = 47;
    let zone = wire(&["example"]);
    // More than sixteen records go another way.
    for addresses in [0, 20] {
        let mut reply = Reply::to(&wire(&["x", "example"]), 1);
        let signature = |reply: &mut Reply, covered: u16, ttl| {
            reply.record(1, &zone, true, RRSIG, ttl, |reply| {
                reply.bytes.extend_from_slice(&covered.to_be_bytes());
                reply.bytes.extend_from_slice(&[8; 16]);
                reply.name(&zone, false);
                reply.bytes.extend_from_slice(b"signature");
            });
        };
        reply.record(1, &zone, true, 6, 900, |reply| {
            reply.name(&zone, true);
            reply.name(&zone, true);
            reply.bytes.extend_from_slice(&[0, 0, 4, 0].repeat(5));
        });
        signature(&mut reply, 6, 900);
        reply.record(1, &zone, true, NSEC, 300, |reply| {
            reply.name(&wire(&["z", "example"]), false);
            reply.bytes.extend_from_slice(&[0, 1, 0x40]);
        });
        signature(&mut reply, NSEC, 300);
        // Two of one type, by two keys, are one RRset.
        signature(&mut reply, NSEC, 200);
        for last in 0..addresses {
            reply.a(1, &wire(&["ns", "example"]), last);
        }
        let answer = assert_same(&reply.bytes);
        let ttls = answer.ttl_at.iter().take(5).map(|&at| {
            let at = usize::from(u16::from_ne_bytes(at));
            u32::from_be_bytes(answer.body[at..at + 4].try_into().expect("four bytes"))
        });
        assert_eq!(ttls.collect::<Vec<_>>(), [900, 900, 300, 200, 200]);
    }
}

#[test]
fn rfc6891_rfc8945_what_is_of_the_hop_is_taken_out() {
    let root = [0];
    let answered = || {
        let mut reply = Reply::to(&wire(&QUESTION), 1);
        reply.a(0, &wire(&QUESTION), 1);
        reply
    };
    let mut reply = answered();
    reply
        .record(2, &wire(&["key", "example"]), false, 24, 0, |reply| reply.bytes.extend_from_slice(&[0; 19]));
    // Behind the extended rcode stand a version, DO, and an option that nobody knows.
    reply
        .record(2, &root, false, 41, 0x0100_8000, |reply| reply.bytes.extend_from_slice(&[0xfe, 0, 0, 1, 7]));
    reply.a(2, &wire(&["key", "example"]), 2);
    reply.record(2, &wire(&["key", "example"]), true, 250, 0, |reply| {
        reply.bytes.extend_from_slice(b"signature");
    });
    let answer = assert_same(&reply.bytes);
    assert_eq!((answer.rcode, answer.kind, answer.counts), (16, Kind::Failure, [1, 0, 1]));

    let scoped = |option: &[u8]| {
        let mut reply = answered();
        reply.record(2, &root, false, 41, 0, |reply| reply.bytes.extend_from_slice(option));
        Answer::from_reply(&reply.bytes).expect("an answer").ttl
    };
    assert_eq!(scoped(&[0, 8, 0, 7, 0, 1, 24, 0, 192, 0, 2]), 60, "for everyone");
    assert_eq!(scoped(&[0, 8, 0, 7, 0, 1, 24, 24, 192, 0, 2]), 0, "for a subnet");
    assert_eq!(scoped(&[0, 10, 0, 1, 9, 0, 8, 0, 4, 0, 1, 0, 1]), 0, "behind another option");
    assert_eq!(scoped(&[0, 8, 0, 2, 0, 1]), 0, "not to be told");
    assert_eq!(scoped(&[0, 10, 0, 9, 1]), 0, "not to be told");

    let mut two = answered();
    two.record(2, &root, false, 41, 0, |_| {});
    two.record(2, &root, false, 41, 0, |_| {});
    assert_eq!(flaw_of(&two.bytes).flaw, Flaw::Opt);
    let mut owned = answered();
    owned.record(2, &wire(&["x"]), false, 41, 0, |_| {});
    assert_eq!(flaw_of(&owned.bytes).flaw, Flaw::Opt);
    for rtype in [41, 250] {
        for section in 0..2 {
            let mut misplaced = Reply::to(&wire(&QUESTION), 1);
            misplaced.record(section, &root, false, rtype, 0, |_| {});
            assert_eq!(flaw_of(&misplaced.bytes).flaw, Flaw::Misplaced(rtype));
        }
    }
}

#[test]
fn a_message_at_hand_may_have_more_records_than_hickory_compresses() {
    let name =
        Name::from_ascii("a-service-of-many-endpoints.its-namespace.svc.cluster.local.").expect("a name");
    let mut message = Message::new(0, MessageType::Response, OpCode::Query);
    message.add_query(HickoryQuery::query(name.clone(), RecordType::A));
    message
        .add_answers((0..4_000_u32).map(|ip| Record::from_rdata(name.clone(), 60, RData::A(A(ip.into())))));
    let answer = Answer::from_message(&message).expect("an answer");
    assert_eq!(answer.body.len(), 4_000 * 16);
    message.add_answers((0..100_u32).map(|ip| Record::from_rdata(name.clone(), 60, RData::A(A(ip.into())))));
    assert!(matches!(Answer::from_message(&message), Err(AnswerError::TooLarge)));
    message.answers.clear();
    // Of a message that is no more, a pointer says nothing.
    let minfo = RData::Unknown { code: RecordType::from(14), rdata: NULL::with(vec![0xc0, 12, 0]) };
    message.add_answer(Record::from_rdata(name, 60, minfo));
    assert!(matches!(Answer::from_message(&message), Err(AnswerError::Malformed(_))));
}
