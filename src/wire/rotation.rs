//! The order of an answer's addresses: clients take the first, so each is given another one (RFC 1794).

use super::name::skip_name;
use super::{read_u16, rtype};

/// Address records in a row, all of one owner, type and size: they can stand in any order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// Where in the body the first one begins.
    pub start: usize,
    /// Bytes of one record.
    pub unit: usize,
    /// How many there are; at least two.
    pub count: usize,
}

impl Addresses {
    /// The last such run in the answer section of `body`, which has `answers` records.
    ///
    /// Nothing in a message points into such records: their owner is a pointer itself, and a pointer to a name first
    /// written in one of them would make their sizes differ.
    pub fn of(body: &[u8], answers: u16) -> Option<Self> {
        let mut at = 0;
        let mut run = Self { start: 0, unit: 0, count: 0 };
        let mut owner: &[u8] = &[];
        let mut run_type = 0;
        for _ in 0..answers {
            let fixed = skip_name(body, at).ok()?;
            let rtype = read_u16(body, fixed)?;
            let unit = fixed + 10 + usize::from(read_u16(body, fixed + 8)?) - at;
            let is_address = matches!(rtype, rtype::A | rtype::AAAA) && body[at] & 0xc0 == 0xc0;
            let name = &body[at..fixed];
            if is_address && run.count > 0 && name == owner && rtype == run_type && unit == run.unit {
                run.count += 1;
            } else {
                run = Self { start: at, unit, count: usize::from(is_address) };
                (owner, run_type) = (name, rtype);
            }
            at += unit;
        }
        (run.count >= 2 && at <= body.len()).then_some(run)
    }

    /// Appends `body`, which they were found in, with the record at `first` in front of them, counted round and round.
    /// TTLs stay where they stood: those of an RRset are one (RFC 2181 §5.2).
    pub fn push_turned(self, out: &mut Vec<u8>, body: &[u8], first: usize) {
        let (before, rest) = body.split_at(self.start);
        let (addresses, behind) = rest.split_at(self.unit * self.count);
        let (last, first) = addresses.split_at(first % self.count * self.unit);
        for piece in [before, first, last, behind] {
            out.extend_from_slice(piece);
        }
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{Message, MessageType, OpCode, Query};
    use hickory_proto::rr::rdata::{A, CNAME, TXT};
    use hickory_proto::rr::{Name, RData, Record};
    use proptest::prelude::*;

    use super::*;
    use crate::wire::answer::Answer;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).expect("a name")
    }

    fn addresses(owner: &str, count: u8) -> Vec<Record> {
        let record = |last| Record::from_rdata(name(owner), 30, RData::A(A::new(192, 0, 2, last)));
        (0..count).map(record).collect()
    }

    fn answer(records: Vec<Record>) -> Answer {
        let mut message = Message::new(1, MessageType::Response, OpCode::Query);
        message.add_query(Query::query(name("www.example."), hickory_proto::rr::RecordType::A));
        message.add_answers(records);
        Answer::from_message(&message).expect("an answer")
    }

    fn turned(answer: &Answer, first: usize) -> Vec<u8> {
        let run = Addresses::of(&answer.body, answer.counts[0]).expect("addresses");
        let mut out = Vec::new();
        run.push_turned(&mut out, &answer.body, first);
        out
    }

    #[test]
    fn the_addresses_behind_an_alias_go_round() {
        let alias = RData::CNAME(CNAME(name("web.example.")));
        let mut records = vec![Record::from_rdata(name("www.example."), 30, alias)];
        records.extend(addresses("web.example.", 3));
        let answer = answer(records);
        let run = Addresses::of(&answer.body, answer.counts[0]).expect("addresses");
        assert_eq!((run.count, run.unit), (3, 16));
        let last = |body: &[u8], place: usize| body[run.start + place * run.unit + 15];
        for first in 0..7 {
            let body = turned(&answer, first);
            assert_eq!(body.len(), answer.body.len());
            assert_eq!(body[..run.start], answer.body[..run.start]);
            let order: Vec<_> = (0..3).map(|place| usize::from(last(&body, place))).collect();
            assert_eq!(order, [first % 3, (first + 1) % 3, (first + 2) % 3]);
        }
    }

    #[test]
    fn one_address_and_other_records_stay() {
        let none = |records| {
            let answer = answer(records);
            assert_eq!(Addresses::of(&answer.body, answer.counts[0]), None);
        };
        none(addresses("www.example.", 1));
        let text = |text: &str| {
            Record::from_rdata(name("www.example."), 30, RData::TXT(TXT::new(vec![text.to_owned()])))
        };
        none(vec![text("a"), text("b")]);
        none([addresses("www.example.", 2), vec![text("signed")]].concat());
    }

    proptest! {
        #[test]
        fn no_body_panics(body in proptest::collection::vec(any::<u8>(), 0..200), answers in 0u16..20, first: usize) {
            if let Some(run) = Addresses::of(&body, answers) {
                let mut out = Vec::new();
                run.push_turned(&mut out, &body, first);
                prop_assert_eq!(out.len(), body.len());
            }
        }

        #[test]
        fn all_of_many_go_round(count in 2u8.., first: usize) {
            let answer = answer(addresses("www.example.", count));
            let body = turned(&answer, first);
            let order = |body: &[u8]| body.chunks(16).map(|record| record[15]).collect::<Vec<_>>();
            let mut expected = order(&answer.body);
            expected.rotate_left(first % usize::from(count));
            prop_assert_eq!(order(&body), expected);
        }
    }
}
