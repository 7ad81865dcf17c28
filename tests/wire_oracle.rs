//! The wire room against hickory-proto: what one writes the other reads, and no bytes make either disagree or panic.

use std::str::FromStr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query as HickoryQuery, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, MX, NS, SOA, SRV, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::BinEncodable as _;
use nodens::wire::answer::{Answer, AnswerError, Kind};
use nodens::wire::query::{Ignored, Query, Rejection};
use nodens::wire::reply::{Asked, Parts, Transport, Ttls, push_reply};
use nodens::wire::{MIN_UDP_PAYLOAD, flags, rcode};
use proptest::prelude::*;

fn label() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9_-]{1,15}"
}

fn name() -> impl Strategy<Value = Name> {
    prop::collection::vec(label(), 1..6).prop_map(|labels| {
        Name::from_labels(labels.iter().map(String::as_bytes)).expect("short labels make a name")
    })
}

fn qtype() -> impl Strategy<Value = RecordType> {
    // Types of pseudo-records and zone transfers are refused, which other tests look at.
    any::<u16>()
        .prop_filter("asked of a cache", |t| !matches!(t, 0 | 41 | 249..=252))
        .prop_map(RecordType::from)
}

fn query_message(name: &Name, qtype: RecordType, bits: u8, edns: Option<(u16, bool)>) -> Message {
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = bits & 1 != 0;
    message.metadata.checking_disabled = bits & 2 != 0;
    message.metadata.authentic_data = bits & 4 != 0;
    message.add_query(HickoryQuery::query(name.clone(), qtype));
    if let Some((payload, dnssec_ok)) = edns {
        let mut edns = Edns::new();
        edns.set_max_payload(payload).set_dnssec_ok(dnssec_ok).set_version(0);
        message.set_edns(edns);
    }
    message
}

fn rdata() -> impl Strategy<Value = RData> {
    prop_oneof![
        any::<u32>().prop_map(|ip| RData::A(A(ip.into()))),
        any::<u128>().prop_map(|ip| RData::AAAA(AAAA(ip.into()))),
        name().prop_map(|target| RData::CNAME(CNAME(target))),
        (any::<u16>(), name()).prop_map(|(p, host)| RData::MX(MX::new(p, host))),
        (any::<[u16; 3]>(), name()).prop_map(|([p, w, port], host)| RData::SRV(SRV::new(p, w, port, host))),
        prop::collection::vec("[ -~]{0,40}", 1..3).prop_map(|texts| RData::TXT(TXT::new(texts))),
    ]
}

fn record() -> impl Strategy<Value = Record> {
    (name(), 1..100_000u32, rdata()).prop_map(|(name, ttl, data)| Record::from_rdata(name, ttl, data))
}

/// What stands in an authority section: who is authoritative, a negative answer's SOA, something else.
fn authority() -> impl Strategy<Value = Record> {
    prop_oneof![
        (name(), name()).prop_map(|(zone, host)| Record::from_rdata(zone, 300, RData::NS(NS(host)))),
        Just(soa(300, 60)),
        record(),
    ]
}

fn response(query: &Message, answers: Vec<Record>, authorities: Vec<Record>) -> Message {
    let mut message = Message::new(query.metadata.id, MessageType::Response, OpCode::Query);
    message.metadata.recursion_available = true;
    message.add_query(query.queries[0].clone());
    message.add_answers(answers);
    message.add_authorities(authorities);
    message
}

fn soa(ttl: u32, minimum: u32) -> Record {
    let zone = Name::from_str("cluster.local.").expect("a name");
    let host = Name::from_str("ns.dns.cluster.local.").expect("a name");
    Record::from_rdata(zone, ttl, RData::SOA(SOA::new(host.clone(), host, 1, 7200, 1800, 86_400, minimum)))
}

fn reply_to(query: &[u8], answer: &Answer, ttls: Ttls, transport: Transport) -> Vec<u8> {
    let query = Query::parse(query).expect("a query");
    let parts = Parts {
        rcode: answer.rcode,
        authentic_data: answer.authentic_data,
        counts: answer.counts,
        body: &answer.body,
        ttl_at: &answer.ttl_at,
    };
    let mut out = Vec::new();
    push_reply(&mut out, &Asked::of(&query, transport), &parts, ttls, None);
    out
}

const TCP: Transport = Transport::Tcp { idle_timeout: std::time::Duration::from_secs(10) };
const UDP: Transport = Transport::Udp { max_payload: 4096 };

proptest! {
    #[test]
    fn a_query_reads_as_hickory_wrote_it(
        name in name(), qtype in qtype(), bits in 0u8..8, edns in prop::option::of((any::<u16>(), any::<bool>())),
    ) {
        let message = query_message(&name, qtype, bits, edns);
        let bytes = message.to_vec().expect("encodes");
        let query = Query::parse(&bytes).expect("a sound query");
        prop_assert_eq!(query.qtype(), u16::from(qtype));
        prop_assert_eq!(query.qclass(), 1);
        prop_assert_eq!(query.recursion_desired(), bits & 1 != 0);
        prop_assert_eq!(query.checking_disabled(), bits & 2 != 0);
        let dnssec_ok = edns.is_some_and(|(_, dnssec_ok)| dnssec_ok);
        prop_assert_eq!(query.dnssec_ok(), dnssec_ok);
        prop_assert_eq!(query.facts().wants_authentic_data(), dnssec_ok || bits & 4 != 0);
        prop_assert_eq!(query.edns().map(|e| e.udp_payload), edns.map(|(payload, _)| payload.max(512)));
        let mut wire = Vec::new();
        for label in &name {
            wire.push(label.len() as u8);
            wire.extend_from_slice(label);
        }
        wire.push(0);
        prop_assert_eq!(query.name(), &wire[..]);
    }

    #[test]
    fn no_bytes_panic_and_a_query_is_one_for_hickory_too(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        if let Ok(query) = Query::parse(&bytes) {
            let question = &bytes[..query.head().len()];
            let mut alone = question.to_vec();
            alone[6..12].fill(0);
            let message = Message::from_vec(&alone).expect("hickory reads what the view accepts");
            prop_assert_eq!(u16::from(message.queries[0].query_type()), query.qtype());
        }
        let _ = Answer::from_reply(&bytes);
    }

    #[test]
    fn a_mutated_query_never_panics(
        name in name(), at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = query_message(&name, RecordType::A, 1, Some((1232, true))).to_vec().expect("encodes");
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let cut = cut.index(bytes.len() + 1);
        let _ = Query::parse(&bytes);
        let _ = Query::parse(&bytes[..cut]);
    }

    #[test]
    fn a_reply_decodes_to_the_same_records_with_ttls_counted_down(
        name in name(), records in prop::collection::vec(record(), 0..12), age in 0..200_000u32, edns: bool,
    ) {
        let query = query_message(&name, RecordType::A, 1, edns.then_some((1232, false)));
        let asked = query.to_vec().expect("encodes");
        let upstream = response(&query, records.clone(), vec![]);
        let answer = Answer::from_reply(&upstream.to_vec().expect("encodes")).expect("an answer");
        let bytes = reply_to(&asked, &answer, Ttls::Aged(age), TCP);
        let reply = Message::from_vec(&bytes).expect("hickory reads it");
        prop_assert_eq!(reply.metadata.id, query.metadata.id);
        prop_assert_eq!(reply.metadata.message_type, MessageType::Response);
        prop_assert_eq!(&reply.queries, &query.queries);
        prop_assert_eq!(reply.edns.is_some(), edns);
        prop_assert_eq!(reply.answers.len(), records.len());
        for (got, sent) in reply.answers.iter().zip(&records) {
            prop_assert_eq!(&got.name, &sent.name);
            prop_assert_eq!(&got.data, &sent.data);
            // RFC 2181 §5.2: the smallest TTL of the RRset, for all of it.
            let of_set = records.iter().filter(|r| r.name == sent.name && r.record_type() == sent.record_type());
            let smallest = of_set.map(|r| r.ttl).min().expect("itself");
            prop_assert_eq!(got.ttl, smallest.saturating_sub(age));
        }
        let smallest = records.iter().map(|r| r.ttl).min();
        if answer.kind == Kind::Positive {
            prop_assert_eq!(Some(answer.ttl), smallest);
        }
    }

    #[test]
    fn rfc2181_rfc9715_a_udp_reply_fits_the_client_and_says_tc_where_it_lacks_what_it_needs(
        name in name(),
        answers in prop::collection::vec(record(), 0..40),
        authorities in prop::collection::vec(authority(), 0..4),
        additionals in prop::collection::vec(record(), 0..8),
        payload in prop::option::of(any::<u16>()),
        age in 0..200_000_u32,
    ) {
        let query = query_message(&name, RecordType::A, 1, payload.map(|p| (p, false)));
        let asked = query.to_vec().expect("encodes");
        let mut upstream = response(&query, answers, authorities);
        upstream.add_additionals(additionals);
        let answer = Answer::from_reply(&upstream.to_vec().expect("encodes")).expect("an answer");
        let read = |transport| Message::from_vec(&reply_to(&asked, &answer, Ttls::Aged(age), transport));
        let bytes = reply_to(&asked, &answer, Ttls::Aged(age), UDP);
        let limit = usize::from(payload.map_or(MIN_UDP_PAYLOAD, |p| p.clamp(512, 4096)));
        prop_assert!(bytes.len() <= limit);
        let (reply, whole) = (read(UDP).expect("hickory reads it"), read(TCP).expect("hickory reads it"));
        prop_assert_eq!(reply.edns.is_some(), payload.is_some());
        let fits = reply_to(&asked, &answer, Ttls::Aged(age), TCP).len() <= limit;
        // A proof or a SOA makes the answer; NS records beside an answer do not.
        let optional = !whole.answers.is_empty()
            && whole.authorities.iter().all(|record| record.record_type() == RecordType::NS);
        let is_referral = whole.answers.is_empty()
            && whole.authorities.iter().all(|record| record.record_type() != RecordType::SOA);
        if reply.metadata.truncation {
            prop_assert!(!fits);
            prop_assert!(whole.answers.starts_with(&reply.answers));
            prop_assert!(reply.authorities.is_empty() && reply.additionals.is_empty());
            // The next record would not have fitted, with the shortest owner that there is.
            if let Some(next) = whole.answers.get(reply.answers.len()) {
                let longest = next.to_bytes().expect("encodes").len();
                prop_assert!(bytes.len() + longest > limit, "{} and {longest} in {limit}", bytes.len());
            }
        } else {
            prop_assert_eq!(&reply.answers, &whole.answers);
            prop_assert!(reply.authorities == whole.authorities || (reply.authorities.is_empty() && optional && !fits));
            prop_assert!(
                reply.additionals == whole.additionals || (reply.additionals.is_empty() && !is_referral && !fits)
            );
        }
    }

    #[test]
    fn the_client_gets_its_own_letters_back(name in name(), flip in any::<u64>()) {
        let query = query_message(&name, RecordType::A, 1, None);
        let records = vec![Record::from_rdata(name.clone(), 60, RData::A(A([10, 0, 0, 1].into())))];
        let upstream = response(&query, records, vec![]).to_vec().expect("encodes");
        let answer = Answer::from_reply(&upstream).expect("an answer");
        let mut asked = query.to_vec().expect("encodes");
        let end = asked.len() - 4;
        for (i, byte) in asked[12..end].iter_mut().enumerate() {
            if byte.is_ascii_alphabetic() && flip >> (i % 64) & 1 != 0 {
                *byte ^= 0x20;
            }
        }
        let bytes = reply_to(&asked, &answer, Ttls::Aged(0), UDP);
        prop_assert_eq!(&bytes[12..asked.len()], &asked[12..]);
        let reply = Message::from_vec(&bytes).expect("hickory reads it");
        // The owner is a pointer to the question, so it has the client's letters too.
        prop_assert_eq!(reply.answers[0].name.to_string(), reply.queries[0].name().to_string());
    }
}

fn cluster_query() -> Message {
    query_message(&Name::from_str("a.default.svc.cluster.local.").expect("a name"), RecordType::A, 1, None)
}

fn answer_of(message: &Message) -> Answer {
    Answer::from_reply(&message.to_vec().expect("encodes")).expect("an answer")
}

/// As its bytes, since hickory-proto would write it without compression and not fit it into a message.
fn reply_of_addresses(name: &Name, cname: bool, count: u16) -> Vec<u8> {
    let query = query_message(name, RecordType::A, 0, None).to_vec().unwrap();
    let mut reply = query.clone();
    reply[2..4].copy_from_slice(&[0x81, 0x80]);
    reply[6..8].copy_from_slice(&(count + u16::from(cname)).to_be_bytes());
    let mut owner = 12_u16;
    if cname {
        reply.extend_from_slice(&[0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 60, 0, 4]);
        owner = reply.len() as u16;
        reply.extend_from_slice(&[1, b'x', 0xc0, 12]);
    }
    for number in 0..count {
        reply.extend_from_slice(&(0xc000 | owner).to_be_bytes());
        reply.extend_from_slice(&[0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 0]);
        reply.extend_from_slice(&number.to_be_bytes());
    }
    reply
}

#[test]
fn an_answer_of_thousands_of_records_is_no_larger_than_it_came() {
    let name = Name::from_str("a-service-of-many-endpoints.its-namespace.svc.cluster.local.").unwrap();
    // 4,090 of them are 65,535 bytes but for a few.
    for (cname, count) in [(false, 4090), (false, 4000), (true, 4000), (false, 119), (false, 1)] {
        let reply = reply_of_addresses(&name, cname, count);
        let answer = Answer::from_reply(&reply).unwrap();
        let query = query_message(&name, RecordType::A, 0, None).to_vec().unwrap();
        assert_eq!(answer.body.len(), reply.len() - query.len(), "{cname} {count}");
        let again = reply_to(&query, &answer, Ttls::Aged(0), TCP);
        let (again, reply) = (Message::from_vec(&again).unwrap(), Message::from_vec(&reply).unwrap());
        assert_eq!(again.answers, reply.answers, "{cname} {count}");
    }
}

#[test]
fn rfc2308_the_negative_ttl_is_the_smaller_of_soa_ttl_and_minimum() {
    for (ttl, minimum) in [(300, 5), (5, 300), (60, 60)] {
        let mut message = response(&cluster_query(), vec![], vec![soa(ttl, minimum)]);
        message.metadata.response_code = ResponseCode::NXDomain;
        let answer = answer_of(&message);
        assert_eq!((answer.kind, answer.ttl), (Kind::NxDomain, ttl.min(minimum)));
        // The SOA stays in the answer, and counts down from the same number.
        let bytes = reply_to(&cluster_query().to_vec().expect("encodes"), &answer, Ttls::Aged(2), UDP);
        let reply = Message::from_vec(&bytes).expect("hickory reads it");
        assert_eq!(reply.authorities[0].ttl, ttl.min(minimum) - 2);
    }
}

#[test]
fn rfc2308_nodata_is_no_record_of_the_type_asked() {
    let owner = Name::from_str("a.default.svc.cluster.local.").expect("a name");
    let target = Name::from_str("b.default.svc.cluster.local.").expect("a name");
    let cname = Record::from_rdata(owner, 20, RData::CNAME(CNAME(target)));
    let answer = answer_of(&response(&cluster_query(), vec![cname], vec![soa(30, 30)]));
    assert_eq!((answer.kind, answer.ttl), (Kind::NoData, 20), "the CNAME's TTL bounds it too");
    let answer = answer_of(&response(&cluster_query(), vec![], vec![]));
    assert_eq!((answer.kind, answer.ttl), (Kind::NoData, 0), "without a SOA it is not cached");
}

#[test]
fn rfc2181_a_ttl_with_the_top_bit_set_is_zero() {
    let owner = cluster_query().queries[0].name().clone();
    let records = vec![Record::from_rdata(owner, 0x8000_0001, RData::A(A([10, 0, 0, 1].into())))];
    let answer = answer_of(&response(&cluster_query(), records, vec![]));
    assert_eq!(answer.ttl, 0);
}

#[test]
fn rfc1035_a_truncated_reply_is_no_answer() {
    let mut message = response(&cluster_query(), vec![], vec![]);
    message.metadata.truncation = true;
    let bytes = message.to_vec().expect("encodes");
    assert!(matches!(Answer::from_reply(&bytes), Err(AnswerError::Truncated)));
}

#[test]
fn rfc6891_the_opt_of_a_reply_stays_on_its_hop() {
    let mut message = response(&cluster_query(), vec![], vec![soa(30, 30)]);
    message.set_edns(Edns::new());
    let answer = answer_of(&message);
    assert_eq!(answer.counts, [0, 1, 0]);
    let bytes = reply_to(&cluster_query().to_vec().expect("encodes"), &answer, Ttls::Aged(0), UDP);
    assert!(Message::from_vec(&bytes).expect("hickory reads it").edns.is_none());
}

#[test]
fn clamping_bounds_every_ttl_but_leaves_zero() {
    let owner = cluster_query().queries[0].name().clone();
    let a = |ttl| Record::from_rdata(owner.clone(), ttl, RData::A(A([10, 0, 0, 1].into())));
    let mut answer = answer_of(&response(&cluster_query(), vec![a(5000)], vec![]));
    answer.clamp_ttls(5, 30);
    assert_eq!(answer.ttl, 30);
    answer.clamp_ttls(60, 90);
    assert_eq!(answer.ttl, 60);
    let mut zero = answer_of(&response(&cluster_query(), vec![a(0)], vec![]));
    zero.clamp_ttls(60, 90);
    assert_eq!(zero.ttl, 0);
}

fn rejected(bytes: &[u8]) -> Rejection {
    Query::parse(bytes).expect_err("rejected")
}

fn rcode_of(rejection: Rejection) -> u16 {
    match rejection {
        Rejection::Answer { rcode, .. } => rcode,
        Rejection::Ignore(ignored) => panic!("ignored: {ignored:?}"),
    }
}

#[test]
fn rfc9619_other_than_one_question_is_formerr() {
    let mut bytes = cluster_query().to_vec().expect("encodes");
    for count in [0u8, 2, 255] {
        bytes[5] = count;
        assert_eq!(rcode_of(rejected(&bytes)), rcode::FORMERR);
    }
    assert_eq!(rcode_of(rejected(&bytes[..12])), rcode::FORMERR, "a header alone");
}

#[test]
fn rfc1035_a_response_or_less_than_a_header_is_ignored() {
    let mut bytes = cluster_query().to_vec().expect("encodes");
    assert_eq!(rejected(&bytes[..11]), Rejection::Ignore(Ignored::Short));
    bytes[2] |= (flags::QR >> 8) as u8;
    assert_eq!(rejected(&bytes), Rejection::Ignore(Ignored::Response));
}

#[test]
fn rfc8906_every_other_opcode_is_notimp() {
    for opcode in 1..16u8 {
        let mut bytes = cluster_query().to_vec().expect("encodes");
        bytes[2] |= opcode << 3;
        assert_eq!(rcode_of(rejected(&bytes)), rcode::NOTIMP);
    }
}

#[test]
fn rfc6891_an_error_carries_an_opt_where_the_query_has_one_that_reads() {
    let name = Name::from_str("example.org.").expect("a name");
    let sound = query_message(&name, RecordType::A, 1, Some((1232, true))).to_vec().expect("encodes");
    let edns = |bytes: &[u8]| match rejected(bytes) {
        Rejection::Answer { rcode, edns, .. } => (rcode, edns.map(|edns| edns.dnssec_ok)),
        Rejection::Ignore(ignored) => panic!("ignored: {ignored:?}"),
    };
    let question_end = sound.len() - 11;
    let with = |at: usize, byte: u8| {
        let mut bytes = sound.clone();
        bytes[at] = byte;
        bytes
    };
    assert_eq!(edns(&with(2, 0x28)), (rcode::NOTIMP, Some(true)), "UPDATE");
    assert_eq!(edns(&with(question_end - 3, 252)), (rcode::REFUSED, Some(true)), "AXFR");
    assert_eq!(edns(&with(question_end - 3, 41)), (rcode::FORMERR, Some(true)), "a question for an OPT");
    assert_eq!(edns(&with(question_end + 6, 1)), (rcode::BADVERS, Some(true)), "version 1");
    // QDCOUNT 0 and 2, as DNS cookies and nobody ask.
    let mut none = sound[..12].to_vec();
    none[5] = 0;
    none.extend_from_slice(&sound[question_end..]);
    assert_eq!(edns(&none), (rcode::FORMERR, Some(true)), "no question");
    let two = [&with(5, 2)[..question_end], &sound[12..]].concat();
    assert_eq!(edns(&two), (rcode::FORMERR, Some(true)), "two questions");
    // A record behind the OPT is announced and missing.
    assert_eq!(edns(&with(11, 2)), (rcode::FORMERR, Some(true)), "a record is missing");
    // What cannot be told from garbage has none.
    let mut option_too_long = with(question_end + 10, 4);
    option_too_long.extend_from_slice(&[0, 10, 0, 8]);
    assert_eq!(edns(&option_too_long), (rcode::FORMERR, None), "an option runs past the end");
    assert_eq!(edns(&with(question_end, 1)), (rcode::FORMERR, None), "an OPT with a name");
    let mut second = with(11, 2);
    second.extend_from_slice(&sound[question_end..]);
    assert_eq!(edns(&second), (rcode::FORMERR, None), "two OPTs");
    assert_eq!(edns(&sound[..question_end + 5]), (rcode::FORMERR, None), "half an OPT");
    assert_eq!(edns(&with(5, 255)), (rcode::FORMERR, None), "questions to the end");
}

#[test]
fn rfc6891_edns_version_second_opt_and_misplaced_opt() {
    let name = Name::from_str("example.org.").expect("a name");
    let bytes = query_message(&name, RecordType::A, 1, Some((1232, false))).to_vec().expect("encodes");
    let opt = bytes.len() - 11;
    let mut version = bytes.clone();
    version[opt + 6] = 1;
    assert_eq!(rcode_of(rejected(&version)), rcode::BADVERS);
    let mut second = bytes.clone();
    second.extend_from_slice(&bytes[opt..]);
    second[11] = 2;
    assert_eq!(rcode_of(rejected(&second)), rcode::FORMERR);
    let mut misplaced = bytes.clone();
    (misplaced[7], misplaced[11]) = (1, 0);
    assert_eq!(rcode_of(rejected(&misplaced)), rcode::FORMERR);
    let mut option_too_long = bytes.clone();
    option_too_long[opt + 10] = 4;
    option_too_long.extend_from_slice(&[0, 10, 0, 8]);
    assert_eq!(rcode_of(rejected(&option_too_long)), rcode::FORMERR);
    let mut trailing = bytes;
    trailing.extend_from_slice(b"trailing");
    assert!(Query::parse(&trailing).is_ok(), "bytes behind the last record are ignored");
}

#[test]
fn rfc5936_a_zone_transfer_and_rfc8945_a_signed_query_are_refused() {
    let name = Name::from_str("example.org.").expect("a name");
    for qtype in [RecordType::AXFR, RecordType::IXFR] {
        let bytes = query_message(&name, qtype, 0, None).to_vec().expect("encodes");
        assert_eq!(rcode_of(rejected(&bytes)), rcode::REFUSED);
    }
    let mut signed = query_message(&name, RecordType::A, 1, None).to_vec().expect("encodes");
    signed[11] = 1;
    signed.extend_from_slice(&[0, 0, 250, 0, 255, 0, 0, 0, 0, 0, 0]);
    assert_eq!(rcode_of(rejected(&signed)), rcode::REFUSED);
}

#[test]
fn rfc3597_an_unknown_type_and_class_pass_untouched() {
    let owner = Name::from_str("x.example.").expect("a name");
    let mut query = query_message(&owner, RecordType::from(65_400), 1, None);
    query.queries[0].set_query_class(DNSClass::from(3));
    let data = RData::Unknown {
        code: RecordType::from(65_400),
        rdata: hickory_proto::rr::rdata::NULL::with(vec![1, 2, 3, 0xc0, 12]),
    };
    let mut record = Record::from_rdata(owner, 60, data.clone());
    record.dns_class = DNSClass::from(3);
    let answer = answer_of(&response(&query, vec![record], vec![]));
    assert_eq!(answer.kind, Kind::Positive);
    let bytes = reply_to(&query.to_vec().expect("encodes"), &answer, Ttls::Aged(1), UDP);
    let reply = Message::from_vec(&bytes).expect("hickory reads it");
    assert_eq!(reply.answers[0].data, data);
}
