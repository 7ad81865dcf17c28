//! The order of plugins: CoreDNS asks `rewrite`, then `template`, then `hosts`, whatever their order in the Corefile;
//! nodens asks `hosts` first. Where that would give another answer, what comes second in CoreDNS gives way here.

use std::net::IpAddr;

use super::super::super::schema::{FixedAnswer, FixedRcode};
use super::super::findings::Kind;
use super::super::lexer::Position;
use super::{Draft, Translator, rcode_answer, within};

impl Translator<'_> {
    /// Takes from `hosts` what one of the block's templates answers first.
    pub(super) fn templates_before_hosts(&mut self, draft: &mut Draft) {
        for host in &draft.hosts {
            let Some(addresses) = self.config.hosts.get(host) else { continue };
            let first = |kind: &str| draft.answers.iter().find(|answer| takes(answer, host, kind));
            let (v4, v6) = (first("A"), first("AAAA"));
            let own = |v6: bool| addresses.iter().copied().filter(move |address| address.is_ipv6() == v6);
            let agrees = |answer: Option<&FixedAnswer>, v6: bool| match answer {
                Some(answer) if answer.rcode == FixedRcode::Noerror => of_family(answer, v6).eq(own(v6)),
                other => other.is_none(),
            };
            if agrees(v4, false) && agrees(v6, true) {
                continue;
            }
            let refused =
                |answer: Option<&FixedAnswer>| answer.is_some_and(|a| a.rcode != FixedRcode::Noerror);
            let did = "is answered by a template first";
            if refused(v4) != refused(v6) {
                let instead = "in nodens hosts comes first, for both families; take the name out of hosts if the template's rcode is meant";
                self.host_gives_way(host, did, instead);
                continue;
            }
            let family = |answer: Option<&FixedAnswer>, v6: bool| -> Vec<IpAddr> {
                answer.map_or_else(|| own(v6).collect(), |answer| of_family(answer, v6).collect())
            };
            let merged = [family(v4, false), family(v6, true)].concat();
            if refused(v4) || merged.is_empty() {
                if !refused(v4) {
                    // hosts still knows the name, so that its other types are NODATA.
                    let empty = rcode_answer(FixedRcode::Noerror);
                    draft.host_answers.push(FixedAnswer { name: Some(host.clone()), ..empty });
                }
                self.config.hosts.remove(host);
                self.host_gives_way(host, did, "so it is here: it is left out of hosts");
            } else {
                self.config.hosts.insert(host.clone(), merged);
                self.host_gives_way(
                    host,
                    did,
                    "so it is here: hosts has the template's addresses of that type",
                );
            }
        }
    }

    /// What belongs to `hosts` as a whole, once all blocks are known.
    pub(super) fn finish_hosts(&mut self) {
        let rules = &self.config.rewrite;
        let rewritten = |host: &String| {
            rules.iter().any(|rule| {
                rule.name.as_ref() == Some(host)
                    || rule.suffix.as_ref().is_some_and(|suffix| within(host, suffix))
            })
        };
        let lost: Vec<_> = self.config.hosts.keys().filter(|host| rewritten(host)).cloned().collect();
        for host in lost {
            self.config.hosts.remove(&host);
            self.host_gives_way(&host, "is rewritten before hosts sees it", "it is left out of hosts");
        }
        if let Some(shortest) = self.hosts_ttls.iter().map(|(ttl, _)| *ttl).min() {
            self.config.hosts_ttl = shortest;
            for (ttl, at) in std::mem::take(&mut self.hosts_ttls) {
                if ttl != shortest {
                    let instead = format!("hosts_ttl holds for all hosts; the shortest is taken, {shortest}");
                    self.note(
                        Kind::Different,
                        &at,
                        "hosts",
                        format!("gives its answers a TTL of {ttl}"),
                        instead,
                    );
                }
            }
        }
    }

    fn host_gives_way(&mut self, host: &str, did: &str, instead: &str) {
        let nowhere = || Position { file: "Corefile".into(), line: 1 };
        let at = self.host_lines.get(host).cloned().unwrap_or_else(nowhere);
        self.note(Kind::Different, &at, host, did, instead);
    }
}

/// Whether a fixed answer is one to a question for `host` and this type.
fn takes(answer: &FixedAnswer, host: &str, kind: &str) -> bool {
    let name = match &answer.name {
        None => true,
        Some(name) => match name.strip_prefix("*.") {
            Some(above) => host != above && within(host, above),
            None => name == host,
        },
    };
    name && (answer.types.is_empty() || answer.types.iter().any(|known| known == kind))
}

fn of_family(answer: &FixedAnswer, v6: bool) -> impl Iterator<Item = IpAddr> {
    answer.addresses.iter().copied().filter(move |address| address.is_ipv6() == v6)
}
