//! `zones[].answers`: fixed answers, as CoreDNS's `template` is mostly used.

use std::net::IpAddr;
use std::str::FromStr;

use hickory_proto::rr::RecordType;

use crate::authority::records;
use crate::config::{self, FixedRcode, name};
use crate::wire::answer::{Answer, Kind};
use crate::wire::name::is_at_or_below;
use crate::wire::{CLASS_IN, rcode};

/// A zone's fixed answers, in order.
#[derive(Debug, Default)]
pub(super) struct FixedAnswers {
    rules: Vec<Rule>,
    apex_len: usize,
}

#[derive(Debug)]
struct Rule {
    /// Empty: every type.
    types: Vec<u16>,
    names: Names,
    rcode: FixedRcode,
    addresses: Vec<IpAddr>,
    ttl: u32,
}

#[derive(Debug)]
enum Names {
    All,
    Exactly(Box<[u8]>),
    Below(Box<[u8]>),
}

/// A fixed answer that says nothing sensible.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FixedAnswerError {
    /// Its name is none.
    #[error("{name:?}: expected {source}")]
    Name {
        /// What stands there.
        name: String,
        /// What was expected.
        #[source]
        source: name::NameError,
    },
    /// A type that does not exist.
    #[error("{0:?}: expected a record type, such as AAAA or TYPE65")]
    Type(String),
}

impl FixedAnswers {
    /// The answers of the zone whose name in wire form has `apex_len` bytes.
    pub(super) fn new(answers: &[config::FixedAnswer], apex_len: usize) -> Result<Self, FixedAnswerError> {
        let rules = answers.iter().map(Rule::new).collect::<Result<_, _>>()?;
        Ok(Self { rules, apex_len })
    }

    /// The answer to a question for a folded name in the zone, by the first rule that fits.
    pub(super) fn answer(&self, name: &[u8], qtype: u16, qclass: u16) -> Option<Answer> {
        if qclass != CLASS_IN {
            return None;
        }
        let rule = self.rules.iter().find(|rule| rule.fits(name, qtype))?;
        let refusal = |rcode| Some(Answer::empty(rcode, Kind::Failure, rule.ttl));
        match rule.rcode {
            FixedRcode::Noerror => {
                Some(records::addresses(name, self.apex_len, qtype, &rule.addresses, rule.ttl))
            }
            FixedRcode::Nxdomain => Some(records::negative(Kind::NxDomain, name, self.apex_len, rule.ttl)),
            FixedRcode::Refused => refusal(rcode::REFUSED),
            FixedRcode::Servfail => refusal(rcode::SERVFAIL),
        }
    }
}

impl Rule {
    fn new(answer: &config::FixedAnswer) -> Result<Self, FixedAnswerError> {
        let wire = |text: &str| {
            name::to_wire(text).map_err(|source| FixedAnswerError::Name { name: text.to_owned(), source })
        };
        Ok(Self {
            types: answer.types.iter().map(|text| rtype(text)).collect::<Result<_, _>>()?,
            names: match answer.name.as_deref() {
                None => Names::All,
                Some(text) => match text.strip_prefix("*.") {
                    Some(below) => Names::Below(wire(below)?),
                    None => Names::Exactly(wire(text)?),
                },
            },
            rcode: answer.rcode,
            addresses: answer.addresses.clone(),
            ttl: answer.ttl.as_ttl(),
        })
    }

    fn fits(&self, name: &[u8], qtype: u16) -> bool {
        (self.types.is_empty() || self.types.contains(&qtype))
            && match &self.names {
                Names::All => true,
                Names::Exactly(exactly) => *name == **exactly,
                Names::Below(suffix) => name.len() > suffix.len() && is_at_or_below(name, suffix),
            }
    }
}

/// A type by its mnemonic in any letter case, or as `TYPE65` (RFC 3597 §5).
fn rtype(text: &str) -> Result<u16, FixedAnswerError> {
    let upper = text.to_ascii_uppercase();
    let number = match upper.strip_prefix("TYPE") {
        Some(number) => number.parse().ok(),
        None => RecordType::from_str(&upper).ok().map(u16::from),
    };
    number.ok_or_else(|| FixedAnswerError::Type(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HumanDuration;
    use crate::config::name::to_wire;
    use crate::wire::rtype;

    fn answers() -> FixedAnswers {
        let rule = |types: &[&str], name: Option<&str>, rcode, addresses: &[&str]| config::FixedAnswer {
            types: types.iter().map(|text| (*text).to_owned()).collect(),
            name: name.map(str::to_owned),
            rcode,
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            ttl: HumanDuration::from_secs(60),
        };
        let rules = [
            rule(&[], Some("blocked.example"), FixedRcode::Refused, &[]),
            rule(&["A", "AAAA"], Some("*.fixed.example"), FixedRcode::Noerror, &["10.0.0.1"]),
            rule(&["aaaa"], None, FixedRcode::Noerror, &[]),
            rule(&["TYPE65"], None, FixedRcode::Nxdomain, &[]),
        ];
        FixedAnswers::new(&rules, to_wire("example").unwrap().len()).unwrap()
    }

    fn ask(name: &str, qtype: u16) -> Option<Answer> {
        answers().answer(&to_wire(name).unwrap(), qtype, CLASS_IN)
    }

    #[test]
    fn the_first_rule_that_fits_name_and_type_answers() {
        assert_eq!(ask("blocked.example", rtype::A).unwrap().rcode, rcode::REFUSED);
        let fixed = ask("a.fixed.example", rtype::A).unwrap();
        assert!(fixed.kind == Kind::Positive && fixed.body.ends_with(&[10, 0, 0, 1]));
        assert_eq!(
            ask("a.fixed.example", rtype::AAAA).unwrap().kind,
            Kind::NoData,
            "no address of the family"
        );
        assert_eq!(ask("www.example", rtype::AAAA).unwrap().kind, Kind::NoData);
        assert_eq!(ask("www.example", 65).unwrap().kind, Kind::NxDomain);
    }

    #[test]
    fn what_no_rule_fits_goes_on() {
        assert!(ask("fixed.example", rtype::A).is_none(), "*. is what lies below");
        assert!(ask("www.example", rtype::A).is_none());
        assert!(answers().answer(&to_wire("blocked.example").unwrap(), rtype::A, 3).is_none());
    }
}
