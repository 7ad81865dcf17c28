//! What every name is answered with: it follows from the name, so that whoever reads an answer can tell whether it is right.
//!
//! | name | answer |
//! |---|---|
//! | `a-N` | one to four addresses made of the name |
//! | `t-N` | an alias of `a-N`, and that one's addresses |
//! | `l-N` | sixty addresses: too large for most UDP clients |
//! | `d-N` | NODATA |
//! | `x-N` | NXDOMAIN |
//!
//! [`reply`] writes the bytes by hand, [`check`] reads them by hickory-proto: neither believes the other.

use std::net::{Ipv4Addr, Ipv6Addr};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};

use crate::support::client::{A, AAAA, Edns, Query, SOA};

/// The zone of all names.
pub(crate) const ZONE: &str = "soak.example";

/// Numbers below this are asked again and again, those from it up once.
pub(crate) const KNOWN: u32 = 500;

/// TTL of an SOA record, and the time a negative answer holds, in seconds.
const NEGATIVE_TTL: u32 = 20;

/// The TTL of a stale answer (RFC 8767 §4), in seconds.
const STALE_TTL: u32 = 30;

/// Addresses of a large answer.
const LARGE: u32 = 60;

/// Kinds of names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Plain,
    Alias,
    Large,
    NoData,
    NxDomain,
}

/// A question, as the load asks it.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    pub(crate) kind: Kind,
    pub(crate) number: u32,
    pub(crate) query: Query,
}

/// What is to be said of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is the answer of the rule.
    Right,
    /// It is cut short, and what there is of it is right: to be asked over TCP.
    Truncated,
    /// A failure that says so.
    Failed(ResponseCode),
    /// It is none of those.
    Wrong(String),
}

impl Kind {
    fn letter(self) -> char {
        match self {
            Self::Plain => 'a',
            Self::Alias => 't',
            Self::Large => 'l',
            Self::NoData => 'd',
            Self::NxDomain => 'x',
        }
    }

    fn of(letter: u8) -> Option<Self> {
        [Self::Plain, Self::Alias, Self::Large, Self::NoData, Self::NxDomain]
            .into_iter()
            .find(|kind| kind.letter() as u8 == letter.to_ascii_lowercase())
    }

    fn addresses(self, number: u32) -> u32 {
        match self {
            Self::Plain | Self::Alias => number % 4 + 1,
            Self::Large => LARGE,
            Self::NoData | Self::NxDomain => 0,
        }
    }
}

impl Question {
    /// A question; `letters` upper case or lower, `payload` for an OPT.
    pub(crate) fn new(kind: Kind, number: u32, qtype: u16, upper: bool, payload: Option<u16>) -> Self {
        let mut name = format!("{}-{number}.{ZONE}", kind.letter());
        if upper {
            name.make_ascii_uppercase();
        }
        let mut query = Query::new(&name, qtype);
        query.edns = payload.map(|payload| Edns { payload, ..Edns::default() });
        Self { kind, number, query }
    }

    /// Whether it is asked again and again.
    pub(crate) fn is_known(&self) -> bool {
        self.number < KNOWN
    }
}

/// Known names expire every now and then; those asked once are kept until their room is needed.
fn ttl(number: u32) -> u32 {
    if number < KNOWN { 10 + number % 50 } else { 600 }
}

fn address(number: u32, index: u32) -> u32 {
    (number.wrapping_mul(0x9e37_79b1) ^ 0x5bd1_e995).wrapping_add(index)
}

fn rdata(qtype: u16, number: u32, index: u32) -> Vec<u8> {
    let low = address(number, index).to_be_bytes();
    if qtype == AAAA {
        [&[0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0][..], &low].concat()
    } else {
        low.to_vec()
    }
}

/// The reply to a query that nodens has sent; `None` where it is none of ours, a probe say: then it is answered empty.
pub(crate) fn reply(query: &[u8]) -> Option<Vec<u8>> {
    let mut end = 12;
    while *query.get(end)? != 0 {
        end += 1 + usize::from(query[end]);
    }
    let question_end = end + 5;
    let mut reply = query.get(..question_end)?.to_vec();
    reply[2] = 0x80 | query[2] & 1;
    reply[3] = 0x80;
    reply[6..12].fill(0);
    let label = usize::from(query[12]);
    if label < 3 {
        return Some(reply);
    }
    let kind = Kind::of(query[13])?;
    let number = std::str::from_utf8(&query[15..13 + label]).ok()?.parse().ok()?;
    let qtype = u16::from_be_bytes([query[end + 1], query[end + 2]]);
    let mut record = |owner: u16, rtype: u16, ttl: u32, data: &[u8]| {
        reply.extend_from_slice(&(0xc000 | owner).to_be_bytes());
        reply.extend_from_slice(&[rtype.to_be_bytes(), [0, 1]].concat());
        reply.extend_from_slice(&ttl.to_be_bytes());
        reply.extend_from_slice(&(data.len() as u16).to_be_bytes());
        reply.extend_from_slice(data);
        (reply.len() - data.len()) as u16
    };
    let zone = 13 + label as u16;
    let mut counts = [0_u16; 2];
    if matches!(kind, Kind::NoData | Kind::NxDomain) {
        let mut soa = [&[2_u8][..], b"ns", &(0xc000 | zone).to_be_bytes(), &[5], b"admin"].concat();
        soa.extend_from_slice(&(0xc000 | zone).to_be_bytes());
        for word in [1, 7200, 900, 86_400, NEGATIVE_TTL] {
            soa.extend_from_slice(&word.to_be_bytes());
        }
        record(zone, SOA, NEGATIVE_TTL, &soa);
        counts[1] = 1;
        if kind == Kind::NxDomain {
            reply[3] |= 3;
        }
    } else {
        let mut owner = 12;
        if kind == Kind::Alias {
            let mut target = query[12..13 + label].to_vec();
            target[1] = b'a';
            target.extend_from_slice(&(0xc000 | zone).to_be_bytes());
            owner = record(owner, crate::support::client::CNAME, ttl(number), &target);
            counts[0] = 1;
        }
        for index in 0..kind.addresses(number) {
            record(owner, qtype, ttl(number), &rdata(qtype, number, index));
            counts[0] += 1;
        }
    }
    reply[6..8].copy_from_slice(&counts[0].to_be_bytes());
    reply[8..10].copy_from_slice(&counts[1].to_be_bytes());
    Some(reply)
}

/// Judges an answer whose id is the question's.
pub(crate) fn check(question: &Question, bytes: &[u8], over_udp: bool) -> Verdict {
    match judge(question, bytes, over_udp) {
        Ok(verdict) => verdict,
        Err(reason) => Verdict::Wrong(format!("{reason}: {question:?}: {bytes:02x?}")),
    }
}

fn judge(question: &Question, bytes: &[u8], over_udp: bool) -> Result<Verdict, String> {
    let Question { kind, number, query } = question;
    let message = Message::from_vec(bytes).map_err(|error| error.to_string())?;
    let asked = query.question();
    let demand = |holds: bool, what: &str| if holds { Ok(()) } else { Err(what.to_owned()) };
    demand(bytes[2] & 0x80 != 0, "not a response")?;
    demand(bytes.get(12..12 + asked.len()) == Some(&asked[..]), "another question")?;
    demand(message.edns.is_some() == query.edns.is_some(), "OPT")?;
    if over_udp {
        let limit = query.edns.as_ref().map_or(512, |edns| edns.payload.max(512));
        demand(bytes.len() <= usize::from(limit), "too large")?;
    }
    let rcode = message.metadata.response_code;
    if matches!(rcode, ResponseCode::ServFail | ResponseCode::Refused) {
        demand(message.answers.is_empty(), "a failure with records")?;
        return Ok(Verdict::Failed(rcode));
    }
    let wanted = if *kind == Kind::NxDomain { ResponseCode::NXDomain } else { ResponseCode::NoError };
    demand(rcode == wanted, "rcode")?;

    let name = |letter: char| Name::from_ascii(format!("{letter}-{number}.{ZONE}.")).expect("a name");
    let mut expected = Vec::new();
    let mut owner = name(kind.letter());
    if *kind == Kind::Alias {
        expected.push(format!("{owner} CNAME {}", name('a')).to_lowercase());
        owner = name('a');
    }
    for index in 0..kind.addresses(*number) {
        let low = address(*number, index);
        let data = if query.qtype == A {
            Ipv4Addr::from(low).to_string()
        } else {
            Ipv6Addr::from(0x2001_0db8 << 96 | u128::from(low)).to_string()
        };
        expected.push(format!("{owner} {} {data}", RecordType::from(query.qtype)).to_lowercase());
    }
    let mut found = Vec::new();
    for record in &message.answers {
        let data = match &record.data {
            RData::A(address) => address.to_string(),
            RData::AAAA(address) => address.to_string(),
            RData::CNAME(target) => target.to_string(),
            other => return Err(format!("a record of another type: {other:?}")),
        };
        demand((1..=ttl(*number).max(STALE_TTL)).contains(&record.ttl), "TTL")?;
        found.push(format!("{} {} {data}", record.name, record.record_type()).to_lowercase());
    }
    if message.metadata.truncation {
        demand(over_udp && *kind == Kind::Large, "truncated for nothing")?;
        demand(found.iter().all(|record| expected.contains(record)), "records of another answer")?;
        return Ok(Verdict::Truncated);
    }
    found.sort_unstable();
    expected.sort_unstable();
    demand(found == expected, "other records")?;
    if expected.is_empty() {
        let [soa] = message.authorities.as_slice() else { return Err("no SOA".to_owned()) };
        demand(matches!(soa.data, RData::SOA(_)), "no SOA")?;
        demand((1..=NEGATIVE_TTL.max(STALE_TTL)).contains(&soa.ttl), "TTL of the SOA")?;
    }
    Ok(Verdict::Right)
}
