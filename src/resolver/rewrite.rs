//! `rewrite`: names asked under one name and looked up under another.

use hickory_proto::op::Message;
use hickory_proto::rr::Name;

use crate::config::{self, name};
use crate::wire::name::{MAX_NAME, is_at_or_below};

/// The rules, in the order of the configuration; the first that fits counts, and its result is not rewritten again.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Rewrites(Vec<Rule>);

#[derive(Debug, PartialEq, Eq)]
struct Rule {
    from: Box<[u8]>,
    to: Box<[u8]>,
    below: bool,
}

impl Rewrites {
    pub(super) fn new(rules: &[config::Rewrite]) -> Result<Self, name::NameError> {
        let rule = |rule: &config::Rewrite| {
            let (from, below) = match (&rule.name, &rule.suffix) {
                (Some(name), _) => (name, false),
                (None, Some(suffix)) => (suffix, true),
                // Refused by the validation; as a rule it would fit nothing.
                (None, None) => return Ok(None),
            };
            Ok(Some(Rule { from: name::to_wire(from)?, to: name::to_wire(&rule.to)?, below }))
        };
        rules.iter().map(rule).filter_map(Result::transpose).collect::<Result<_, _>>().map(Self)
    }

    /// What a folded name is looked up as; `None` for the name itself, also where the result would be too long for a
    /// name.
    pub(super) fn target(&self, name: &[u8]) -> Option<Box<[u8]>> {
        let fits = |rule: &&Rule| *name == *rule.from || (rule.below && is_at_or_below(name, &rule.from));
        let rule = self.0.iter().find(fits)?;
        let kept = &name[..name.len() - rule.from.len()];
        if kept.len() + rule.to.len() > MAX_NAME {
            return None;
        }
        Some([kept, &rule.to].concat().into_boxed_slice())
    }
}

/// Gives the records of `message` that `target` owns to `asked`, and the question too: the client sees the name it
/// asked. Names within the records stay what they are.
pub(super) fn map_back(message: &mut Message, asked: &Name, target: &Name) {
    for query in &mut message.queries {
        query.set_name(asked.clone());
    }
    let sections = [&mut message.answers, &mut message.authorities, &mut message.additionals];
    for record in sections.into_iter().flatten() {
        if record.name == *target {
            record.name = asked.clone();
        }
    }
}

/// A wire-form name as hickory-proto has it.
pub(super) fn proto_name(wire: &[u8]) -> Name {
    use hickory_proto::serialize::binary::BinDecodable;
    // A name that was parsed from a query or a configuration is a name.
    Name::from_bytes(wire).unwrap_or_else(|_| Name::root())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::name::to_wire;

    fn rules() -> Rewrites {
        let rule = |name: Option<&str>, suffix: Option<&str>, to: &str| config::Rewrite {
            name: name.map(str::to_owned),
            suffix: suffix.map(str::to_owned),
            to: to.to_owned(),
        };
        Rewrites::new(&[
            rule(Some("API.example"), None, "api.default.svc.cluster.local"),
            rule(None, Some("example"), "default.svc.cluster.local"),
            rule(None, Some("svc.cluster.local"), "loops.example"),
        ])
        .unwrap()
    }

    fn target(name: &str) -> Option<String> {
        let target = rules().target(&to_wire(name).unwrap())?;
        Some(crate::wire::name::Display(&target).to_string())
    }

    #[test]
    fn the_first_rule_that_fits_counts_and_only_once() {
        assert_eq!(target("api.example").as_deref(), Some("api.default.svc.cluster.local."));
        assert_eq!(target("b.api.example").as_deref(), Some("b.api.default.svc.cluster.local."));
        assert_eq!(target("example").as_deref(), Some("default.svc.cluster.local."));
        assert_eq!(target("myexample"), None);
    }

    #[test]
    fn a_result_longer_than_a_name_is_not_taken() {
        let long = format!("{0}.{0}.{0}.{1}.example", "a".repeat(63), "b".repeat(50));
        assert_eq!(target(&long), None);
    }
}
