//! `cache`.

use super::super::super::schema::{Prefetch, ServeStale, ZoneCache};
use super::super::super::units::{ByteSize, Fraction, HumanDuration, Switch};
use super::super::findings::Kind;
use super::super::parser::Directive;
use super::super::values;
use super::{Block, Draft, Translator, within};

impl Translator<'_> {
    /// `cache [TTL] [ZONES...] { success, denial, prefetch, serve_stale, servfail, disable, keepttl }`.
    pub(super) fn cache(&mut self, directive: &Directive, block: &Block, draft: &mut Draft) {
        let (ttl, zones) = match directive.arguments.split_first() {
            Some((first, rest)) if first.parse::<u32>().is_ok() => (values::ttl(first, WEEK), rest),
            _ => (None, directive.arguments.as_slice()),
        };
        self.cached_zones(directive, zones, block);
        let mut cache = ZoneCache {
            max_ttl: Some(ttl.unwrap_or(HumanDuration::from_secs(MAX_TTL))),
            negative_max_ttl: Some(ttl.unwrap_or(HumanDuration::from_secs(MAX_NEGATIVE_TTL))),
            ..ZoneCache::default()
        };
        let mut disabled = [false; 2];
        for option in &directive.block {
            let at = &option.at;
            match option.name.as_str() {
                "success" => {
                    let [max, min] = self.bounds(option, 0);
                    cache.max_ttl = max.or(cache.max_ttl);
                    cache.min_ttl = min;
                }
                "denial" => {
                    let [max, min] = self.bounds(option, 1);
                    cache.negative_max_ttl = max.or(cache.negative_max_ttl);
                    if min.is_some() {
                        let did = "raises short TTLs of negative answers";
                        let instead = "min_ttl holds for both kinds of answers; it is taken from success";
                        self.note(Kind::Different, at, &option.text(), did, instead);
                    }
                }
                "prefetch" => cache.prefetch = self.prefetch(option),
                "serve_stale" => cache.serve_stale = Some(Switch::On(self.serve_stale(option))),
                "servfail" => self.servfail(option),
                "disable" => {
                    let all = option.arguments.len() < 2;
                    let kind = option.arguments.first().map(String::as_str);
                    disabled[0] |= all && kind == Some("success");
                    disabled[1] |= all && kind == Some("denial");
                    if !all {
                        let instead =
                            "give these zones a block of their own, with max_ttl or negative_max_ttl 0s";
                        self.note(
                            Kind::NoEquivalent,
                            at,
                            &option.text(),
                            "turns caching off for some zones",
                            instead,
                        );
                    }
                }
                "keepttl" => {
                    let instead = "nodens counts TTLs down, so that clients do not keep an answer longer than its owner said";
                    self.note(Kind::NoEquivalent, at, &option.text(), "keeps TTLs as they came", instead);
                }
                _ => self.unknown_option(directive, option),
            }
        }
        let off = HumanDuration::from_secs(0);
        if disabled[0] {
            cache.max_ttl = Some(off);
        }
        if disabled[1] {
            cache.negative_max_ttl = Some(off);
        }
        if let (Some(min), Some(max)) = (cache.min_ttl, cache.max_ttl) {
            // CoreDNS lets the smaller TTL win over the larger, too.
            cache.min_ttl = Some(min.min(max)).filter(|min| *min > off);
        }
        draft.cache = Some(cache);
    }

    fn cached_zones(&mut self, directive: &Directive, zones: &[String], block: &Block) {
        if zones.is_empty() {
            return;
        }
        let named: Vec<_> = zones.iter().filter_map(|zone| values::zone_names(zone)).flatten().collect();
        if !block.zones.iter().all(|zone| named.iter().any(|named| within(zone, named))) {
            let instead = "all zones of the block are cached; give the others a zone with max_ttl 0s";
            self.note(
                Kind::NoEquivalent,
                &directive.at,
                &directive.text(),
                "caches only some zones",
                instead,
            );
        }
    }

    /// `success|denial CAPACITY [TTL [MINTTL]]`.
    fn bounds(&mut self, option: &Directive, kind: usize) -> [Option<HumanDuration>; 2] {
        let argument = |index: usize| option.arguments.get(index);
        if let Some(Ok(capacity)) = argument(0).map(|capacity| capacity.parse::<u64>()) {
            self.capacity[kind] = self.capacity[kind].saturating_add(capacity);
        } else {
            let instead = "the capacity is left at nodens' default";
            self.note(
                Kind::Different,
                &option.at,
                &option.text(),
                "has no capacity that is a number",
                instead,
            );
        }
        [argument(1), argument(2)].map(|ttl| ttl.and_then(|ttl| values::ttl(ttl, WEEK)))
    }

    /// `prefetch AMOUNT [DURATION [PERCENTAGE%]]`.
    fn prefetch(&mut self, option: &Directive) -> Option<Switch<Prefetch>> {
        let min_hits = option.arguments.first().and_then(|amount| amount.parse::<u32>().ok());
        let min_hits = min_hits.map(|amount| amount.min(1_000_000));
        let percent =
            option.arguments.get(2).and_then(|percent| percent.trim_end_matches('%').parse::<u32>().ok());
        match min_hits {
            // CoreDNS's 0 turns it off.
            Some(0) => Some(Switch::Off),
            Some(min_hits) => {
                let remaining = percent.unwrap_or(10);
                if remaining > 50 || remaining == 0 {
                    let instead = "nodens refreshes in the last half of the TTL at most; 50% or 1% is taken";
                    self.note(Kind::Different, &option.at, &option.text(), "refreshes early", instead);
                }
                if option.arguments.get(1).is_some_and(|duration| duration != "1m") {
                    let instead = "nodens counts the hits within one TTL";
                    let did = "sets how far apart the hits may be";
                    self.note(Kind::Different, &option.at, &option.text(), did, instead);
                }
                let remaining = Fraction::from_percent(remaining.clamp(1, 50));
                Some(Switch::On(Prefetch { min_hits, remaining }))
            }
            None => {
                let instead = "nodens' default is taken";
                self.note(
                    Kind::Different,
                    &option.at,
                    &option.text(),
                    "has no amount that is a number",
                    instead,
                );
                None
            }
        }
    }

    /// `serve_stale [DURATION] [immediate|verify]`.
    fn serve_stale(&mut self, option: &Directive) -> ServeStale {
        let mut stale = ServeStale::default();
        let age = option.arguments.first().and_then(|age| values::ttl(age, u64::MAX / 1000));
        if let Some(age) = age.filter(|age| *age > HumanDuration::from_secs(0)) {
            stale.max_age = age.min(HumanDuration::from_secs(WEEK));
            if age > stale.max_age {
                let instead = "nodens keeps them 7 days (RFC 8767)";
                self.note(Kind::Different, &option.at, &option.text(), "keeps expired answers long", instead);
            }
        }
        if option.arguments.last().is_none_or(|mode| mode != "verify") {
            stale.client_timeout = HumanDuration::from_secs(0);
        }
        let instead = "nodens gives stale answers a TTL of 30s (RFC 8767), serve_stale.answer_ttl";
        self.note(
            Kind::Different,
            &option.at,
            &option.text(),
            "serves stale answers with a TTL of 0",
            instead,
        );
        stale
    }

    /// `servfail DURATION`.
    fn servfail(&mut self, option: &Directive) {
        let Some(ttl) = option.arguments.first().and_then(|ttl| values::ttl(ttl, 300)) else {
            let instead = "nodens' default is taken";
            return self.note(Kind::Different, &option.at, &option.text(), "has no duration", instead);
        };
        let failure = &mut self.config.cache.failure_ttl;
        if ttl == HumanDuration::from_secs(0) {
            failure.min = ttl;
        } else {
            failure.max = ttl;
        }
        let instead = "cache.failure_ttl holds for all zones and starts at 1s, doubling up to this";
        self.note(Kind::Different, &option.at, &option.text(), "remembers SERVFAIL for this long", instead);
    }

    /// What is the same in all zones, or the default, is said once.
    pub(super) fn finish_cache(&mut self) {
        let cache = &mut self.config.cache;
        for (capacity, size) in self.capacity.iter().zip([&mut cache.size, &mut cache.negative_size]) {
            let bytes = capacity.saturating_mul(ENTRY).min(1 << 30);
            *size = ByteSize(size.0.max(bytes.next_multiple_of(1 << 20)));
        }
        for zone in &mut self.config.zones {
            let own = &mut zone.cache;
            own.max_ttl = own.max_ttl.filter(|ttl| *ttl != cache.max_ttl);
            own.negative_max_ttl = own.negative_max_ttl.filter(|ttl| *ttl != cache.negative_max_ttl);
            own.serve_stale = own.serve_stale.take().filter(|stale| *stale != cache.serve_stale);
            own.prefetch = own.prefetch.take().filter(|prefetch| *prefetch != cache.prefetch);
        }
    }
}

/// CoreDNS's largest TTLs where the Corefile names none, in seconds.
const MAX_TTL: u64 = 3600;
const MAX_NEGATIVE_TTL: u64 = 1800;

/// nodens' largest TTL, in seconds.
const WEEK: u64 = 7 * 86_400;

/// Bytes for each entry of a capacity: an answer of a few records with its key.
const ENTRY: u64 = 512;
