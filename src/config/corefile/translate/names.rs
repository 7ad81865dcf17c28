//! `hosts`, `template`, `rewrite` and `dns64`: answers that are made, and names that are changed.

use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;

use super::super::super::schema::{Dns64, FixedAnswer, FixedRcode, Rewrite};
use super::super::super::units::HumanDuration;
use super::super::super::validate::is_type;
use super::super::findings::Kind;
use super::super::lexer::Position;
use super::super::parser::{Directive, read};
use super::super::pattern::{self, Pattern};
use super::super::values;
use super::{Block, Draft, Translator, options, rcode_answer, within};

impl Translator<'_> {
    /// `hosts [FILE [ZONES...]] { IP NAME..., ttl, no_reverse, reload, fallthrough [ZONES...] }`.
    pub(super) fn hosts(&mut self, directive: &Directive, block: &Block, draft: &mut Draft) {
        let (file, zones) = match directive.arguments.split_first() {
            Some((file, zones)) => (Some(file.as_str()), zones),
            None => (None, &[][..]),
        };
        self.hosts_file(directive, file, block, draft);
        let mut falls_through = false;
        let mut ttl = HumanDuration::from_secs(3600);
        for option in &directive.block {
            let text = option.text();
            match option.name.as_str() {
                "fallthrough" => {
                    falls_through = true;
                    if !option.arguments.is_empty() {
                        let instead = "names that hosts does not have are looked up in all zones";
                        self.note(
                            Kind::Different,
                            &option.at,
                            &text,
                            "passes on names of some zones",
                            instead,
                        );
                    }
                }
                "ttl" => match option.arguments.first().and_then(|ttl| ttl.parse::<u16>().ok()) {
                    Some(seconds) => ttl = HumanDuration::from_secs(seconds.into()),
                    None => self.unknown_option(directive, option),
                },
                "no_reverse" | "reload" => {
                    let instead = "the addresses are in nodens.yaml, which is watched";
                    self.note(Kind::BuiltIn, &option.at, &text, "tunes the hosts plugin", instead);
                }
                address => match address.parse() {
                    Ok(address) => self.host_line(address, option, block, draft),
                    Err(_) => self.unknown_option(directive, option),
                },
            }
        }
        self.hosts_ttls.push((ttl, directive.at.clone()));
        if falls_through {
            return;
        }
        let named: Vec<_> = zones.iter().filter_map(|zone| values::zone_names(zone)).flatten().collect();
        let closed = if named.is_empty() { block.zones.clone() } else { named };
        for zone in closed {
            if block.zones.contains(&zone) {
                draft.closed.push(zone);
            } else {
                // A zone within one of the block's: its other names fail, those of the block do not.
                draft.host_answers.extend(whole_zone(&zone, &rcode_answer(FixedRcode::Servfail)));
            }
        }
        let did = "has no fallthrough: CoreDNS answers other names of its zones with SERVFAIL";
        let instead = "so does zones[].answers here; take that out and forward them if it was not meant";
        self.note(Kind::Different, &directive.at, &directive.text(), did, instead);
    }

    fn hosts_file(&mut self, directive: &Directive, file: Option<&str>, block: &Block, draft: &mut Draft) {
        let (at, text) = (&directive.at, directive.text());
        let Some(file) = file else {
            let instead = "only the lines in the Corefile are taken over; add others to hosts";
            return self.note(Kind::Different, at, &text, "also reads /etc/hosts of its container", instead);
        };
        let path = Path::new(file);
        let Some(content) = Some(path).filter(|path| path.is_file()).and_then(|path| read(path).ok()) else {
            let instead = "the file is not here; put its lines into hosts";
            return self.note(Kind::NoEquivalent, at, &text, format!("reads {file}"), instead);
        };
        for (number, line) in content.lines().enumerate() {
            let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
            let Some(Ok(address)) = words.next().map(str::parse::<IpAddr>) else { continue };
            let at = super::Position { file: file.into(), line: number + 1 };
            let arguments = words.map(str::to_owned).collect();
            let line = Directive { name: address.to_string(), arguments, block: Vec::new(), at };
            self.host_line(address, &line, block, draft);
        }
        let instead = "its lines were copied into hosts; later changes of the file are not seen";
        self.note(Kind::Different, at, &text, format!("reads {file} and watches it"), instead);
    }

    fn host_line(&mut self, address: IpAddr, line: &Directive, block: &Block, draft: &mut Draft) {
        for host in &line.arguments {
            let name = values::zone_name(host).filter(|name| self.reaches(name, &block.source.at));
            let Some(name) = name else {
                let instead =
                    "it is left out, for this block never saw the name; hosts holds for all zones in nodens";
                self.note(Kind::Different, &line.at, &line.text(), format!("names {host}"), instead);
                continue;
            };
            draft.hosts.push(name.clone());
            self.host_lines.entry(name.clone()).or_insert_with(|| line.at.clone());
            let addresses = self.config.hosts.entry(name).or_default();
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
    }

    /// `template CLASS TYPE [ZONE...] { match, answer, additional, authority, rcode, fallthrough }`.
    pub(super) fn template(&mut self, directive: &Directive, block: &Block, draft: &mut Draft) {
        match self.template_answers(directive, block) {
            Ok(answers) => {
                for answer in answers {
                    if !draft.answers.contains(&answer) {
                        draft.answers.push(answer);
                    }
                }
            }
            Err((option, instead)) => {
                draft.lost_answers = true;
                let (at, text) =
                    option.map_or((&directive.at, directive.text()), |option| (&option.at, option.text()));
                self.note(Kind::NoEquivalent, at, &text, "makes answers", instead);
            }
        }
    }

    fn template_answers<'d>(
        &mut self,
        directive: &'d Directive,
        block: &Block,
    ) -> Result<Vec<FixedAnswer>, (Option<&'d Directive>, &'static str)> {
        let [class, kind, zones @ ..] = directive.arguments.as_slice() else {
            return Err((None, "it is left out: it has no class and type"));
        };
        if !["IN", "ANY"].contains(&class.to_ascii_uppercase().as_str()) {
            return Err((None, "it is left out: nodens' fixed answers are of class IN"));
        }
        let kind = kind.to_ascii_uppercase();
        let mut answer = rcode_answer(FixedRcode::Noerror);
        let mut falls_through = false;
        if kind != "ANY" && !is_type(&kind) {
            return Err((
                None,
                "it is left out: nodens does not know its type; write it as TYPE65 (RFC 3597)",
            ));
        }
        if kind != "ANY" {
            answer.types.push(kind);
        }
        for option in &directive.block {
            match option.name.as_str() {
                "rcode" => {
                    let rcode = option.arguments.first().map(|rcode| rcode.to_ascii_uppercase());
                    answer.rcode = match rcode.as_deref() {
                        Some("NOERROR") => FixedRcode::Noerror,
                        Some("NXDOMAIN") => FixedRcode::Nxdomain,
                        Some("REFUSED") => FixedRcode::Refused,
                        Some("SERVFAIL") => FixedRcode::Servfail,
                        _ => {
                            return Err((
                                Some(option),
                                "zones[].answers has noerror, nxdomain, refused and servfail",
                            ));
                        }
                    };
                }
                "answer" => {
                    let (address, ttl) = fixed_address(&option.arguments.join(" ")).ok_or((
                        Some(option),
                        "zones[].answers has fixed A and AAAA records of the name that was asked",
                    ))?;
                    answer.addresses.push(address);
                    answer.ttl = ttl.unwrap_or(answer.ttl);
                }
                "authority" => {
                    // Its SOA only says how long clients may remember the answer.
                    let line = option.arguments.join(" ");
                    let ttl = line
                        .rsplit("}}")
                        .next()
                        .unwrap_or_default()
                        .split_whitespace()
                        .find_map(|w| w.parse().ok());
                    answer.ttl = ttl
                        .map_or(answer.ttl, |ttl: u32| HumanDuration::from_secs(u64::from(ttl).min(604_800)));
                }
                "additional" | "ederror" => {
                    let instead = "the answer goes out without it";
                    self.note(Kind::Different, &option.at, &option.text(), "adds to the answer", instead);
                }
                "match" => {}
                "fallthrough" => falls_through = true,
                "upstream" => {
                    let instead = "fixed answers are addresses, which need no further lookup";
                    self.note(
                        Kind::BuiltIn,
                        &option.at,
                        &option.text(),
                        "looks up a CNAME's target",
                        instead,
                    );
                }
                _ => self.unknown_option(directive, option),
            }
        }
        if answer.rcode != FixedRcode::Noerror {
            answer.addresses.clear();
        }
        let zones: Vec<_> = zones.iter().filter_map(|zone| values::zone_names(zone)).flatten().collect();
        let names = self.template_names(directive, block, &zones)?;
        let everything = names.iter().any(Option::is_none);
        let mut answers: Vec<_> =
            names.into_iter().map(|name| FixedAnswer { name, ..answer.clone() }).collect();
        if !everything && !falls_through && options(directive, "match").next().is_some() {
            // What is in its zones and of its type, but not matched, ends here in CoreDNS.
            let other = FixedAnswer { types: answer.types, ..rcode_answer(FixedRcode::Servfail) };
            if covers(&zones, block) {
                answers.push(other);
            } else {
                answers.extend(zones.iter().flat_map(|zone| whole_zone(zone, &other)));
            }
            let did = "has no fallthrough: CoreDNS answers names that it does not match with SERVFAIL";
            let instead = "so does zones[].answers here; take that out if it was not meant";
            self.note(Kind::Different, &directive.at, &directive.text(), did, instead);
        }
        Ok(answers)
    }

    /// The names a template answers: what `match` says within the zones it names.
    fn template_names<'d>(
        &mut self,
        directive: &'d Directive,
        block: &Block,
        zones: &[String],
    ) -> Result<Vec<Option<String>>, (Option<&'d Directive>, &'static str)> {
        let mut names: Vec<String> = Vec::new();
        let mut all = true;
        for option in options(directive, "match") {
            for expression in &option.arguments {
                match pattern::read(expression) {
                    Some(Pattern::All) => {}
                    Some(Pattern::Names { names: found, loose }) => {
                        all = false;
                        names.extend(found);
                        if loose {
                            let did = "also matches names that only end in these letters";
                            let instead = "nodens matches whole labels";
                            self.note(Kind::Different, &option.at, &option.text(), did, instead);
                        }
                    }
                    None => {
                        let instead = "zones[].answers takes a name, or `*.` and a name for all below it";
                        return Err((Some(option), instead));
                    }
                }
            }
        }
        let covers_block = covers(zones, block);
        Ok(match (all, covers_block) {
            (true, true) => vec![None],
            (true, false) => {
                let answer = rcode_answer(FixedRcode::Noerror);
                zones.iter().flat_map(|zone| whole_zone(zone, &answer)).map(|answer| answer.name).collect()
            }
            (false, _) => {
                let fits = |name: &String| {
                    let plain = name.strip_prefix("*.").unwrap_or(name);
                    covers_block || zones.iter().any(|zone| within(plain, zone))
                };
                names.into_iter().filter(fits).map(Some).collect()
            }
        })
    }

    /// `rewrite [continue|stop] FIELD [MODE] FROM TO [...]`, or with the rest in a block.
    pub(super) fn rewrite(&mut self, directive: &Directive, block: &Block) {
        let mut words: Vec<&str> = directive.arguments.iter().map(String::as_str).collect();
        let continues = words.first() == Some(&"continue");
        if words.first().is_some_and(|word| ["continue", "stop"].contains(word)) {
            words.remove(0);
        }
        if words.is_empty()
            && let Some(rule) = options(directive, "name").next()
        {
            words = std::iter::once("name").chain(rule.arguments.iter().map(String::as_str)).collect();
        }
        let (rule, rest) = match words.as_slice() {
            ["name", "suffix", from, to, rest @ ..] => (suffix(from, to), rest),
            ["name", "regex", from, to, rest @ ..] => {
                match (pattern::captured_suffix(from), to.strip_prefix("{1}.")) {
                    (Some(from), Some(to)) => (suffix(&from, to), rest),
                    _ => (None, rest),
                }
            }
            ["name", "prefix" | "substring", ..] => (None, &[][..]),
            ["name", "exact", from, to, rest @ ..] | ["name", from, to, rest @ ..] => (exact(from, to), rest),
            _ => (None, &[][..]),
        };
        let (at, text) = (&directive.at, directive.text());
        let Some(rule) = rule else {
            let instead =
                "rewrite takes whole names and suffixes; write the names in question as rules of their own";
            return self.note(Kind::NoEquivalent, at, &text, "changes queries or answers", instead);
        };
        let from = rule.name.as_ref().or(rule.suffix.as_ref()).cloned().unwrap_or_default();
        let concerned = self.reaches(&from, &block.source.at)
            || rule.suffix.is_some() && block.zones.iter().any(|zone| within(zone, &from));
        if !concerned {
            let instead =
                "it is left out, for this block never saw the name; rewrite holds for all zones in nodens";
            return self.note(Kind::Different, at, &text, format!("changes {from}"), instead);
        }
        self.rewrite_answers(at, rest, rule.suffix.is_some());
        for option in &directive.block {
            match option.name.as_str() {
                "name" => {}
                "answer" => {
                    let words: Vec<_> = std::iter::once("answer")
                        .chain(option.arguments.iter().map(String::as_str))
                        .collect();
                    self.rewrite_answers(&option.at, &words, rule.suffix.is_some());
                }
                _ => self.unknown_option(directive, option),
            }
        }
        if continues {
            let instead = "in nodens the first rule that fits is the only one";
            self.note(Kind::Different, at, &text, "applies further rules to what it made", instead);
        }
        if !self.reaches(&rule.to, &block.source.at) {
            let instead = "nodens looks it up in the zone that the new name belongs to";
            self.note(Kind::Different, at, &text, "looks the new name up in this block", instead);
        }
        let same = |known: &Rewrite| known.name == rule.name && known.suffix == rule.suffix;
        match self.config.rewrite.iter().find(|known| same(known)) {
            None => self.config.rewrite.push(rule),
            Some(known) if *known == rule => {}
            Some(_) => {
                let instead = "rewrite holds for all zones in nodens; the first rule for it is taken";
                self.note(Kind::NoEquivalent, at, &text, format!("changes {from} in another way"), instead);
            }
        }
    }

    /// `answer auto`, `answer name FROM TO` and `answer value FROM TO`, as often as they are given.
    fn rewrite_answers(&mut self, at: &Position, words: &[&str], suffix: bool) {
        for words in words.split(|word| *word == "answer").skip(1) {
            let text = words.iter().fold("answer".to_owned(), |text, word| format!("{text} {word}"));
            match words {
                // Of a name, it is what nodens does; of a suffix, values are changed too.
                ["auto"] if !suffix => {}
                ["auto"] => {
                    let instead =
                        "the answer is given under the name that was asked; names within records stay";
                    self.note(Kind::Different, at, &text, "gives names in answers their old suffix", instead);
                }
                ["name", ..] => {
                    let instead = "the answer is given under the name that was asked";
                    self.note(Kind::Different, at, &text, "renames the owners of records", instead);
                }
                _ => {
                    let instead = "names within records stay as the upstream gave them";
                    self.note(Kind::NoEquivalent, at, &text, "changes names within records", instead);
                }
            }
        }
    }

    /// `dns64 [PREFIX] { prefix PREFIX, translate_all, allow_ipv4 }`.
    pub(super) fn dns64(&mut self, directive: &Directive, draft: &mut Draft) {
        let mut dns64 = Dns64::default();
        let mut prefixes: Vec<(&Directive, &String)> =
            directive.arguments.first().map(|prefix| (directive, prefix)).into_iter().collect();
        let mut for_all = false;
        for option in &directive.block {
            match option.name.as_str() {
                "prefix" => prefixes.extend(option.arguments.first().map(|prefix| (option, prefix))),
                "translate_all" => dns64.translate_all = true,
                "allow_ipv4" => for_all = true,
                _ => self.unknown_option(directive, option),
            }
        }
        for (line, prefix) in prefixes {
            if let Some(prefix) = prefix_96(prefix) {
                dns64.prefix = prefix;
            } else {
                let instead = "nodens takes a /96; 64:ff9b:: is in its place";
                self.note(Kind::NoEquivalent, &line.at, &line.text(), "makes AAAA answers", instead);
            }
        }
        if !for_all {
            let instead = "nodens does so for all clients";
            self.note(
                Kind::Different,
                &directive.at,
                &directive.text(),
                "makes AAAA answers for clients that ask over IPv6",
                instead,
            );
        }
        draft.dns64 = Some(dns64);
    }
}

/// Whether a template for these zones takes every name of a block.
fn covers(zones: &[String], block: &Block) -> bool {
    zones.is_empty() || block.zones.iter().all(|zone| zones.iter().any(|z| within(zone, z)))
}

/// An answer for a zone's own name, and for all below it.
fn whole_zone(zone: &str, answer: &FixedAnswer) -> [FixedAnswer; 2] {
    [zone.to_owned(), format!("*.{zone}")].map(|name| FixedAnswer { name: Some(name), ..answer.clone() })
}

fn prefix_96(text: &str) -> Option<Ipv6Addr> {
    let prefix: Ipv6Addr = text.strip_suffix("/96")?.parse().ok()?;
    let low = prefix.segments()[6..] == [0, 0];
    (low && !prefix.is_unspecified() && !prefix.is_multicast()).then_some(prefix)
}

fn exact(from: &str, to: &str) -> Option<Rewrite> {
    let (from, to) = (values::zone_name(from)?, values::zone_name(to)?);
    (from != to).then_some(Rewrite { name: Some(from), suffix: None, to })
}

fn suffix(from: &str, to: &str) -> Option<Rewrite> {
    let plain = |text: &str| values::zone_name(text.strip_prefix('.').unwrap_or(text));
    let (from, to) = (plain(from)?, plain(to)?);
    (from != to).then_some(Rewrite { name: None, suffix: Some(from), to })
}

/// The address and TTL in `{{ .Name }} 60 IN A 192.0.2.1`.
fn fixed_address(line: &str) -> Option<(IpAddr, Option<HumanDuration>)> {
    let (owner, rest) = line.trim().strip_prefix("{{")?.split_once("}}")?;
    if owner.trim() != ".Name" {
        return None;
    }
    let mut words: Vec<_> = rest.split_whitespace().collect();
    let ttl = match words.first()?.parse::<u64>() {
        Ok(seconds) => {
            words.remove(0);
            Some(HumanDuration::from_secs(seconds.min(604_800)))
        }
        Err(_) => None,
    };
    if words.first().is_some_and(|class| class.eq_ignore_ascii_case("IN")) {
        words.remove(0);
    }
    let [kind, address] = words.as_slice() else { return None };
    let address: IpAddr = address.parse().ok()?;
    let fits = if address.is_ipv4() { "A" } else { "AAAA" };
    kind.eq_ignore_ascii_case(fits).then_some((address, ttl))
}
