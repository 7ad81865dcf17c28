//! A cached answer.

use std::sync::atomic::{AtomicU16, Ordering};

use triomphe::ThinArc;

use super::key::{Key, KeyFlags, Question, Seed};
use super::time::Now;
use crate::sys::prefetch;
use crate::wire::MAX_MESSAGE;
use crate::wire::answer::{Answer, Kind};
use crate::wire::name::folds_to;
use crate::wire::reply::Parts;

/// One cached answer, shared: a clone is the same entry. Immutable but for its popularity.
///
/// One allocation holds its fields and, behind them, its bytes: the name, the body, the table of its TTLs' offsets.
#[derive(Debug, Clone)]
pub struct Entry(ThinArc<Fields, u8>);

/// An entry's fields, packed: eight bytes less each are a quarter of a MiB over 31,000 names.
#[derive(Debug)]
struct Fields {
    stored: Now,
    ttl: u32,
    stale_for: u32,
    counts: [u16; 3],
    body_len: u16,
    qtype: u16,
    qclass: u16,
    rcode: u16,
    zone: u16,
    /// [`PrefetchRule::window`], or [`NO_PREFETCH`].
    prefetch_window: u16,
    /// Hits that it takes yet to be popular, and [`PREFETCH_ASKED`].
    unpopular: AtomicU16,
    name_len: u8,
    traits: Traits,
    failures: u8,
    extended_error: u8,
}

/// DO and CD of the question (the low two bits, as in [`KeyFlags`]), AD, and the answer's kind.
#[derive(Debug, Clone, Copy)]
struct Traits(u8);

impl Traits {
    const AD: u8 = 1 << 2;
    const KIND_SHIFT: u8 = 3;
    /// Kinds by their number.
    const KINDS: [Kind; 4] = [Kind::Positive, Kind::NoData, Kind::NxDomain, Kind::Failure];

    fn new(flags: KeyFlags, authentic_data: bool, kind: Kind) -> Self {
        let ad = if authentic_data { Self::AD } else { 0 };
        Self(flags.bits() | ad | (kind as u8) << Self::KIND_SHIFT)
    }

    #[inline]
    fn flags(self) -> KeyFlags {
        KeyFlags::new(self.0 & 1 != 0, self.0 & 2 != 0)
    }

    #[inline]
    fn authentic_data(self) -> bool {
        self.0 & Self::AD != 0
    }

    #[inline]
    fn kind(self) -> Kind {
        Self::KINDS[usize::from(self.0 >> Self::KIND_SHIFT) % Self::KINDS.len()]
    }
}

/// When an entry is worth refreshing before its TTL ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PrefetchRule {
    /// Hits that make it popular; 0: never.
    pub min_hits: u16,
    /// The last seconds of its TTL, in which it is refreshed.
    pub window: u16,
}

/// What an entry is good for at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// Within its TTL.
    Fresh,
    /// Past its TTL, within the time it may be served stale (RFC 8767).
    Stale,
    /// Good for nothing.
    Dead,
}

/// What is known of an entry beside its answer.
#[derive(Debug, Clone, Copy, Default)]
pub struct Origin {
    /// When the answer arrived.
    pub stored: Now,
    /// Seconds past its TTL for which it may be served stale.
    pub stale_for: u32,
    /// The zone it was looked up in, as `observe` numbers zones.
    pub zone: u16,
    /// How often in a row the lookup has failed; 0 for an answer.
    pub failures: u8,
    /// Extended error (RFC 8914) that goes out with it; `None` for none.
    pub extended_error: Option<u16>,
    /// When to refresh it ahead of time.
    pub prefetch: PrefetchRule,
}

/// Stands for "no extended error": those in use are below 32 (RFC 8914 §5.2).
const NO_EXTENDED_ERROR: u8 = u8::MAX;

/// Stands for "never refreshed ahead of time".
const NO_PREFETCH: u16 = u16::MAX;

/// Set in `unpopular` once a prefetch was asked for.
const PREFETCH_ASKED: u16 = 1 << 15;

impl Entry {
    /// An entry that answers `key` with `answer` for `answer.ttl` seconds.
    pub fn new(key: &Key, answer: &Answer, origin: Origin) -> Self {
        debug_assert!(answer.body.len() <= MAX_MESSAGE, "whoever makes answers sees to it");
        let mut data = Vec::with_capacity(key.name().len() + answer.body.len() + 2 * answer.ttl_at.len());
        data.extend_from_slice(key.name());
        data.extend_from_slice(&answer.body);
        data.extend_from_slice(answer.ttl_at.as_flattened());
        let rule = origin.prefetch;
        let fields = Fields {
            stored: origin.stored,
            ttl: answer.ttl,
            stale_for: origin.stale_for,
            counts: answer.counts,
            body_len: answer.body.len() as u16,
            qtype: key.qtype(),
            qclass: key.qclass(),
            rcode: answer.rcode,
            zone: origin.zone,
            prefetch_window: if rule.min_hits == 0 { NO_PREFETCH } else { rule.window.min(NO_PREFETCH - 1) },
            unpopular: AtomicU16::new(rule.min_hits.min(PREFETCH_ASKED - 1)),
            name_len: key.name().len() as u8,
            traits: Traits::new(key.flags(), answer.authentic_data, answer.kind),
            failures: origin.failures,
            extended_error: origin
                .extended_error
                .and_then(|code| u8::try_from(code).ok())
                .unwrap_or(NO_EXTENDED_ERROR),
        };
        Self(ThinArc::from_header_and_slice(fields, &data))
    }

    /// Whether both are the same entry, not merely alike.
    pub fn is(&self, other: &Self) -> bool {
        std::ptr::eq(self.fields(), other.fields())
    }

    /// How many hold it.
    #[cfg(test)]
    pub(super) fn sharers(&self) -> usize {
        ThinArc::strong_count(&self.0)
    }

    #[inline]
    fn fields(&self) -> &Fields {
        &self.0.header.header
    }

    #[inline]
    fn data(&self) -> &[u8] {
        &self.0.slice
    }

    /// Whether this entry answers `key`: the whole of it, not its hash alone.
    #[inline]
    pub fn answers(&self, key: &Key) -> bool {
        self.fields().qtype == key.qtype()
            && self.fields().qclass == key.qclass()
            && self.fields().traits.flags() == key.flags()
            && self.name() == key.name()
    }

    /// Whether this entry answers the question, whatever the letters' case.
    #[inline]
    pub fn is_asked(&self, question: &Question<'_>) -> bool {
        let fields = self.fields();
        // Most clients write small letters.
        (fields.qtype, fields.qclass, fields.traits.flags())
            == (question.qtype, question.qclass, question.flags)
            && (self.name() == question.name || folds_to(question.name, self.name()))
    }

    /// The key it answers. Built anew: keeping its hash would cost every entry eight bytes.
    pub fn key(&self) -> Key {
        Key::new(&self.question(), Seed::of_process())
    }

    /// The question it answers, the name folded.
    pub fn question(&self) -> Question<'_> {
        Question {
            name: self.name(),
            qtype: self.fields().qtype,
            qclass: self.fields().qclass,
            flags: self.fields().traits.flags(),
        }
    }

    /// The name in wire form, folded.
    #[inline]
    pub fn name(&self) -> &[u8] {
        &self.data()[..usize::from(self.fields().name_len)]
    }

    /// The type asked.
    pub fn qtype(&self) -> u16 {
        self.fields().qtype
    }

    /// The class asked.
    pub fn qclass(&self) -> u16 {
        self.fields().qclass
    }

    /// DO and CD of the question.
    pub fn flags(&self) -> KeyFlags {
        self.fields().traits.flags()
    }

    /// The answer's kind.
    pub fn kind(&self) -> Kind {
        self.fields().traits.kind()
    }

    /// The zone it was looked up in.
    pub fn zone(&self) -> u16 {
        self.fields().zone
    }

    /// How often in a row the lookup has failed.
    pub fn failures(&self) -> u8 {
        self.fields().failures
    }

    /// The extended error that goes out with it.
    pub fn extended_error(&self) -> Option<u16> {
        Some(self.fields().extended_error).filter(|&code| code != NO_EXTENDED_ERROR).map(u16::from)
    }

    /// The answer's parts, TTLs as they were when it was stored.
    pub fn parts(&self) -> Parts<'_> {
        let behind_name = &self.data()[usize::from(self.fields().name_len)..];
        let (body, ttl_at) = behind_name.split_at(usize::from(self.fields().body_len));
        Parts {
            rcode: self.fields().rcode,
            authentic_data: self.fields().traits.authentic_data(),
            counts: self.fields().counts,
            body,
            ttl_at: ttl_at.as_chunks().0,
        }
    }

    /// Whole seconds since it was stored: what a hit takes off every TTL.
    pub fn age(&self, now: Now) -> u32 {
        now.seconds_since(self.fields().stored)
    }

    /// What the entry is good for.
    #[inline]
    pub fn freshness(&self, now: Now) -> Freshness {
        let age = now.millis_since(self.fields().stored);
        let fresh_for = u64::from(self.fields().ttl) * 1000;
        if age < fresh_for {
            Freshness::Fresh
        } else if age < fresh_for + u64::from(self.fields().stale_for) * 1000 {
            Freshness::Stale
        } else {
            Freshness::Dead
        }
    }

    /// Milliseconds until its TTL ends; 0 past it.
    pub fn remaining_millis(&self, now: Now) -> u64 {
        (u64::from(self.fields().ttl) * 1000).saturating_sub(now.millis_since(self.fields().stored))
    }

    /// Its lifetime in seconds.
    pub fn ttl(&self) -> u32 {
        self.fields().ttl
    }

    /// When it was stored.
    pub fn stored(&self) -> Now {
        self.fields().stored
    }

    /// Seconds it is kept in all: its TTL and the time it may be served stale.
    pub fn kept_for(&self) -> u64 {
        u64::from(self.fields().ttl) + u64::from(self.fields().stale_for)
    }

    /// Adds hits that were answered from it.
    pub fn add_hits(&self, hits: u32) {
        let hits = u16::try_from(hits).unwrap_or(u16::MAX);
        let unpopular = &self.fields().unpopular;
        if unpopular.load(Ordering::Relaxed) & !PREFETCH_ASKED == 0 {
            return;
        }
        // The closure gives a value always, so that this cannot fail.
        let _ = unpopular.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |missing| {
            Some(missing & PREFETCH_ASKED | (missing & !PREFETCH_ASKED).saturating_sub(hits))
        });
    }

    /// Whether it has had the hits that make it popular, as far as they have been added.
    pub fn is_popular(&self) -> bool {
        self.fields().unpopular.load(Ordering::Relaxed) & !PREFETCH_ASKED == 0
    }

    /// Whether now is the time to refresh it, and nobody has yet: true for one caller. A near slot asks at most once a
    /// second, so the window is widened by that second: the next call may be too late.
    pub fn wants_prefetch(&self, now: Now) -> bool {
        self.window().is_some_and(|window| self.remaining_millis(now) <= window)
            && self.is_popular()
            && self.claim_prefetch()
    }

    /// When something is to be decided about it next: whether to refresh it, or that its time is over.
    pub fn next_decision(&self, now: Now) -> Now {
        let end = self.fields().stored.plus_secs(self.fields().ttl);
        let Some(window) = self.window() else { return end };
        // Within the window every second may be the one in which it has become popular, or its successor has arrived.
        Now(end.0.saturating_sub(window)).max(now.plus_secs(1)).min(end)
    }

    /// The last milliseconds of its TTL in which it may be refreshed.
    fn window(&self) -> Option<u64> {
        let window = self.fields().prefetch_window;
        (window != NO_PREFETCH).then_some((u64::from(window) + 1) * 1000)
    }

    /// Claims the entry's one prefetch: true for the first caller only.
    pub fn claim_prefetch(&self) -> bool {
        let unpopular = &self.fields().unpopular;
        unpopular.load(Ordering::Relaxed) & PREFETCH_ASKED == 0
            && unpopular.fetch_or(PREFETCH_ASKED, Ordering::Relaxed) & PREFETCH_ASKED == 0
    }

    /// Lets the entry be prefetched again: the last attempt failed.
    pub fn release_prefetch(&self) {
        self.fields().unpopular.fetch_and(!PREFETCH_ASKED, Ordering::Relaxed);
    }

    /// Brings near what a hit reads of it, as far as most go.
    #[inline]
    pub fn prefetch(&self) {
        /// Fields, name and answer of most entries, in cache lines.
        const LINES: usize = 4;
        prefetch::lines::<LINES, _>(self.fields());
    }

    /// Bytes of memory it takes, tables' overhead not included.
    pub fn size(&self) -> usize {
        /// The count of those who share it, and the length.
        const SHARED: usize = 2 * size_of::<usize>();
        SHARED + size_of::<Fields>() + self.data().len()
    }
}

// What a node's memory is made of.
const _: () = assert!(size_of::<Fields>() == 40);
