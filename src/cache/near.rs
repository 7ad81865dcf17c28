//! One worker's own table of answers at hand: no locks, no atomics, no allocation on a hit.
//!
//! A slot names an entry of the store, and a hit goes out of that entry's own bytes: the kernel reads them where they lie.
//! Only what stands up to the first TTL, the one TTL of most answers, is written anew, behind each client's question
//! ([`Served::lead`]). An answer with more TTLs, or with addresses that take turns, has a copy in its slot, which is
//! counted down once a second.
//!
//! The store is asked again when the entry's time is over, when it is due for a prefetch, and at the latest after
//! [`TOUCH_SECS`], which keeps recency and popularity known there. (Asking once a second and
//! name made a hit at 50,000 queries a second over 31,000 names 1.42 times the floor in place of 1.12:
//! docs/performance.md.)
//!
//! A name's slot is named in one of two sets of the index, its second one where the first was full: of names that fill a bit
//! over half the ways, one in twelve would otherwise share a set with more than have room there, and those would take each
//! other's places for ever.
//!
//! Memory: 32 bytes a slot, an index of 8 bytes a way, the copies, and the entries: a slot can outlive its entry's place in
//! the store, so all its bytes count here too. A slot that an answer of the batch at work points to is never changed or
//! dropped before the next batch begins.

mod copy;

use self::copy::Copy as OwnCopy;
use super::entry::Entry;
use super::key::{Key, Question};
use super::time::Now;
use crate::sys::prefetch;
use crate::wire::reply::Parts;

/// A worker's table.
pub struct Near {
    sets: Box<[Set]>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    bytes: usize,
    budget: usize,
    rotate: bool,
    batch: u32,
    hand: usize,
    generation: u64,
}

/// Names one slot until the batch ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotId(u32);

/// What [`Near::find`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// An answer that can go out as it is.
    Ready(SlotId),
    /// An answer that the store must be asked about: then [`Near::renew`] or [`Near::drop_slot`].
    Due(SlotId),
    /// Nothing.
    Nothing,
}

/// A slot's answer.
#[derive(Debug, Clone, Copy)]
pub struct Served<'a> {
    /// The entry's parts, TTLs as they were when it was stored.
    pub parts: Parts<'a>,
    /// The entry itself.
    pub entry: &'a Entry,
    copy: Option<&'a OwnCopy>,
}

/// The first bytes of an answer, up to its first TTL, which is counted down.
#[derive(Debug, Clone, Copy)]
pub struct Lead {
    bytes: [u8; LEAD_ROOM],
    len: u8,
}

/// Ways of a set: as many tags and slot numbers as fill a cache line.
const WAYS: usize = 8;

/// Bytes a lead may have: an owner that is a pointer or a short name, type, class and TTL.
pub const LEAD_ROOM: usize = 16;

/// The largest body of interest, in bytes: the largest `listen.max_udp_payload`.
const MAX_BODY: usize = 4096;

/// In place of a slot's number, in a way that never had a slot. Ways are taken in order, so that the last one of a set tells
/// whether names may have gone to their second set.
const NEVER: u32 = u32::MAX;

/// The same, in a way whose slot was dropped.
const EMPTIED: u32 = NEVER - 1;

/// Seconds after which a name that is asked is looked up in the store again, so that moka knows it is in use.
const TOUCH_SECS: u32 = 60;

#[derive(Clone)]
#[repr(C, align(64))]
struct Set {
    tags: [u32; WAYS],
    slots: [u32; WAYS],
}

#[derive(Debug, Default)]
#[repr(align(32))]
struct Slot {
    /// The answer; a slot without one is free.
    entry: Option<Entry>,
    /// Its body, where it cannot go out of the entry's own bytes.
    copy: Option<Box<OwnCopy>>,
    batch: u32,
    /// The second from which on the store is asked.
    ask_at: u32,
    hits: u16,
}

impl Set {
    /// The ways with this hash's tag, a bit each: rarely more than one. No branch, so that nothing is guessed wrong.
    #[inline]
    fn ways_of(&self, hash: u64) -> u32 {
        let tag = tag_of(hash);
        let mut ways = 0;
        for (way, &other) in self.tags.iter().enumerate() {
            ways |= u32::from(other == tag) << way;
        }
        ways
    }

    /// Whether there was a slot in each way at some time since the table was last emptied.
    #[inline]
    fn was_full(&self) -> bool {
        self.slots[WAYS - 1] != NEVER
    }

    fn free_way(&self) -> Option<usize> {
        self.slots.iter().position(|&id| id >= EMPTIED)
    }
}

impl Near {
    /// An empty table of at most about `budget` bytes. Its index is allocated at once (a sixteenth of the budget at
    /// most), the rest as names are asked.
    pub fn new(budget: usize, rotate: bool) -> Self {
        /// What a name takes in a cluster's mix, about: slot and entry.
        const USUAL: usize = 256;
        /// Ways filled on average when the budget is spent, or up to twice as many: sets are a power of two. Few enough that both
        /// sets of a name are rarely full with the budget that is the default.
        const FILLED: usize = WAYS * 3 / 4;
        // A power of two, and rather too few than too many: all of it is resident.
        let sets = 1 << (budget / USUAL / FILLED).clamp(1, 1 << 24).ilog2();
        Self {
            sets: vec![Set { tags: [0; WAYS], slots: [NEVER; WAYS] }; sets].into_boxed_slice(),
            // Address space only: a vector that grows would leave its old memory behind, as much again in all.
            slots: Vec::with_capacity(sets * WAYS),
            free: Vec::new(),
            bytes: sets * size_of::<Set>(),
            budget,
            rotate,
            batch: 0,
            hand: 0,
            generation: 0,
        }
    }

    /// Begins a batch: slots of the last one may be changed and dropped from here on. A store of another `generation`
    /// than the last empties the table.
    pub fn begin_batch(&mut self, generation: u64) {
        self.batch = self.batch.wrapping_add(1);
        // Once in 4 billion batches the numbers begin anew: no slot may seem to be of a batch that it is not of.
        if self.generation != generation || self.batch == 0 {
            self.generation = generation;
            self.clear();
        }
    }

    /// Brings near what [`Self::find`] reads first. Of a batch, all questions take this step, then all take the next: so
    /// their waits for memory overlap.
    #[inline]
    pub fn prefetch_set(&self, hash: u64) {
        prefetch::line(&self.sets[self.set_of(hash)]);
    }

    /// The second step: the slot that probably answers, if any.
    #[inline]
    pub fn prefetch_slot(&self, hash: u64) -> Option<SlotId> {
        let set = &self.sets[self.set_of(hash)];
        let way = set.ways_of(hash).trailing_zeros();
        let Some(&id) = set.slots.get(way as usize) else {
            if set.was_full() {
                prefetch::line(&self.sets[self.second_set_of(hash)]);
            }
            return None;
        };
        prefetch::line(self.slots.get(id as usize)?);
        Some(SlotId(id))
    }

    /// The third: its answer, as far as most go.
    #[inline]
    pub fn prefetch_answer(&self, SlotId(id): SlotId) {
        let slot = &self.slots[id as usize];
        if let Some(entry) = &slot.entry {
            entry.prefetch();
        }
        if let Some(copy) = &slot.copy {
            prefetch::line(&**copy);
        }
    }

    /// Looks the question with this hash up. A slot that is ready is held until the batch ends.
    #[inline]
    pub fn find(&mut self, hash: u64, question: &Question<'_>, now: Now) -> Found {
        let first = self.set_of(hash);
        match self.find_in(first, hash, question, now) {
            Found::Nothing if self.sets[first].was_full() => self.find_in_second(hash, question, now),
            found => found,
        }
    }

    /// The same in the second set: a few names in a hundred are there.
    #[cold]
    fn find_in_second(&mut self, hash: u64, question: &Question<'_>, now: Now) -> Found {
        self.find_in(self.second_set_of(hash), hash, question, now)
    }

    #[inline]
    fn find_in(&mut self, set: usize, hash: u64, question: &Question<'_>, now: Now) -> Found {
        let set = &self.sets[set];
        let mut ways = set.ways_of(hash);
        while ways != 0 {
            let id = set.slots[ways.trailing_zeros() as usize];
            ways &= ways - 1;
            // A way that was emptied keeps its tag.
            let Some(slot) = self.slots.get_mut(id as usize) else { continue };
            if slot.entry.as_ref().is_some_and(|entry| entry.is_asked(question)) {
                // Once in a batch is enough: what an answer of this batch points to stays as it is, also where its time ends
                // within this second.
                if !slot.holds(now) && slot.batch != self.batch {
                    return Found::Due(SlotId(id));
                }
                slot.batch = self.batch;
                slot.hits = slot.hits.saturating_add(1);
                return Found::Ready(SlotId(id));
            }
        }
        Found::Nothing
    }

    /// The entry of a slot that was found, and the hits since the store was last asked, which are taken.
    pub fn take_hits(&mut self, SlotId(id): SlotId) -> Option<(Entry, u32)> {
        let slot = &mut self.slots[id as usize];
        let hits = u32::from(std::mem::take(&mut slot.hits));
        slot.entry.clone().map(|entry| (entry, hits))
    }

    /// Gives a slot that was due `entry`, and holds it until the batch ends.
    pub fn renew(&mut self, SlotId(id): SlotId, entry: &Entry, now: Now) {
        let slot = &mut self.slots[id as usize];
        self.bytes -= slot.size();
        slot.set(entry, now, self.rotate);
        slot.batch = self.batch;
        slot.hits = 0;
        self.bytes += slot.size();
        self.keep_within_budget();
    }

    /// Makes a slot for `entry`, the answer to `key`, and holds it until the batch ends. `None` where every slot that
    /// could make room is held by this batch, and for an answer that no UDP client takes whole.
    pub fn fill(&mut self, key: &Key, entry: &Entry, now: Now) -> Option<SlotId> {
        if entry.parts().body.len() > MAX_BODY {
            return None;
        }
        let (set, way) = self.place_for(key.hash())?;
        let id = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.bytes += size_of::<Slot>();
            (self.slots.len() - 1) as u32
        });
        self.sets[set].tags[way] = tag_of(key.hash());
        self.sets[set].slots[way] = id;
        self.renew(SlotId(id), entry, now);
        Some(SlotId(id))
    }

    /// Drops a slot whose entry is no longer good.
    pub fn drop_slot(&mut self, SlotId(id): SlotId) {
        let Some(entry) = &self.slots[id as usize].entry else { return };
        let hash = entry.key().hash();
        for set in [self.set_of(hash), self.second_set_of(hash)] {
            if let Some(way) = self.sets[set].slots.iter().position(|&other| other == id) {
                self.sets[set].slots[way] = EMPTIED;
                return self.release(id);
            }
        }
    }

    /// The answer of a slot held by this batch.
    ///
    /// # Panics
    /// If the slot was dropped.
    #[inline]
    pub fn served(&self, SlotId(id): SlotId) -> Served<'_> {
        let slot = &self.slots[id as usize];
        let entry = slot.entry.as_ref().expect("a slot that was found is held until the batch ends");
        Served { parts: entry.parts(), entry, copy: slot.copy.as_deref() }
    }

    /// Which of its addresses stands first in the next reply from the slot.
    #[inline]
    pub fn next_rotation(&mut self, SlotId(id): SlotId) -> u8 {
        self.slots[id as usize].copy.as_mut().map_or(0, |copy| copy.next_rotation())
    }

    /// Bytes the table takes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes it may take.
    pub fn budget(&self) -> usize {
        self.budget
    }

    /// Names in it.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether it holds no name.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn set_of(&self, hash: u64) -> usize {
        hash as usize & (self.sets.len() - 1)
    }

    /// Of bits that say nothing of the first one.
    fn second_set_of(&self, hash: u64) -> usize {
        self.set_of(hash >> 24)
    }

    /// A free way of the hash's first set, else of its second, else the one of both whose slot was used longest ago.
    fn place_for(&mut self, hash: u64) -> Option<(usize, usize)> {
        let sets = [self.set_of(hash), self.second_set_of(hash)];
        let free = |set: usize| self.sets[set].free_way().map(|way| (set, way));
        if let Some(place) = sets.into_iter().find_map(free) {
            return Some(place);
        }
        let batches_ago = |&(set, way): &(usize, usize)| {
            self.batch.wrapping_sub(self.slots[self.sets[set].slots[way] as usize].batch)
        };
        let (set, way) = sets
            .into_iter()
            .flat_map(|set| (0..WAYS).map(move |way| (set, way)))
            .filter(|place| batches_ago(place) > 0)
            .max_by_key(batches_ago)?;
        let id = std::mem::replace(&mut self.sets[set].slots[way], EMPTIED);
        self.release(id);
        Some((set, way))
    }

    /// Drops slots until the budget is kept: those not asked since the hand last came by and not held by this batch.
    fn keep_within_budget(&mut self) {
        let mut looked_at = 0;
        let slots = self.slots.len();
        while self.bytes > self.budget && looked_at < 2 * slots {
            self.hand = if self.hand + 1 >= slots { 0 } else { self.hand + 1 };
            looked_at += 1;
            let slot = &mut self.slots[self.hand];
            let Some(entry) = slot.entry.as_ref().filter(|_| slot.batch != self.batch) else { continue };
            // A second chance for what was hit since the store was asked; its hits still count towards popularity.
            if slot.hits > 0 && looked_at <= slots {
                entry.add_hits(u32::from(std::mem::take(&mut slot.hits)));
                continue;
            }
            self.drop_slot(SlotId(self.hand as u32));
        }
    }

    fn release(&mut self, id: u32) {
        let slot = &mut self.slots[id as usize];
        self.bytes -= slot.size();
        let hits = u32::from(std::mem::take(&mut slot.hits));
        if let Some(entry) = slot.entry.take() {
            entry.add_hits(hits);
        }
        slot.copy = None;
        self.free.push(id);
    }

    fn clear(&mut self) {
        let (budget, rotate) = (self.budget, self.rotate);
        let (batch, generation) = (self.batch, self.generation);
        *self = Self { batch, generation, ..Self::new(budget, rotate) };
    }
}

impl<'a> Served<'a> {
    /// Bytes of the answer's body; `None` where it is longer than any UDP reply may be.
    #[inline]
    pub fn body_len(&self) -> Option<usize> {
        (self.copy.is_some() || lead_len(&self.parts).is_some()).then_some(self.parts.body.len())
    }

    /// The body's first bytes as they stand at `now`. None of an answer that has a copy.
    #[inline]
    pub fn lead(&self, now: Now) -> Lead {
        let mut lead = Lead { bytes: [0; LEAD_ROOM], len: self.lead_len() as u8 };
        let len = usize::from(lead.len);
        if len == 0 {
            return lead;
        }
        // As many bytes whatever the length, where there are as many: that is an instruction in place of a call.
        match self.parts.body.first_chunk() {
            Some(first) => lead.bytes = *first,
            None => lead.bytes[..len].copy_from_slice(&self.parts.body[..len]),
        }
        if let Some(field) = lead.bytes[..len].last_chunk_mut::<4>() {
            // An RRset of a fresh entry outlives its age.
            *field = u32::from_be_bytes(*field).saturating_sub(self.entry.age(now)).to_be_bytes();
        }
        lead
    }

    /// What of the body stands behind the lead, with this address first, in the pieces it lies in.
    #[inline]
    pub fn rest(&self, rotation: u8) -> [&'a [u8]; 3] {
        match self.copy {
            Some(copy) => copy.pieces(rotation),
            None => [&self.parts.body[self.lead_len()..], &[], &[]],
        }
    }

    #[inline]
    fn lead_len(&self) -> usize {
        if self.copy.is_some() { 0 } else { lead_len(&self.parts).unwrap_or(0) }
    }
}

impl Lead {
    /// The bytes.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// The bytes, and behind them others of no meaning.
    #[inline]
    pub fn room(&self) -> &[u8; LEAD_ROOM] {
        &self.bytes
    }
}

/// Bytes up to and with the only TTL; `None` where there are more, or where it stands too far behind.
#[inline]
fn lead_len(parts: &Parts<'_>) -> Option<usize> {
    match parts.ttl_at {
        [] => Some(0),
        [at] => Some(usize::from(u16::from_ne_bytes(*at)) + 4).filter(|&len| len <= LEAD_ROOM),
        _ => None,
    }
}

impl Slot {
    /// Whether it can be answered from at `now`, TTLs counted down.
    #[inline]
    fn holds(&mut self, now: Now) -> bool {
        // Rounded down, as `ask_at` is: the store is asked up to a second too early, never too late.
        now.0 / 1000 < u64::from(self.ask_at) && self.copy.as_mut().is_none_or(|copy| copy.count_down(now))
    }

    /// Puts the entry's answer in, as it stands at `now`.
    fn set(&mut self, entry: &Entry, now: Now, rotate: bool) {
        let ask_again = entry.next_decision(now).min(now.plus_secs(TOUCH_SECS));
        self.ask_at = u32::try_from(ask_again.0 / 1000).unwrap_or(u32::MAX);
        let last = self.copy.take();
        if lead_len(&entry.parts()).is_none() {
            self.copy = OwnCopy::of(entry, now, rotate, last);
        }
        if !self.entry.as_ref().is_some_and(|own| own.is(entry)) {
            self.entry = Some(entry.clone());
        }
    }

    /// Bytes it holds beside its own.
    fn size(&self) -> usize {
        self.entry.as_ref().map_or(0, Entry::size) + self.copy.as_ref().map_or(0, |copy| copy.size())
    }
}

fn tag_of(hash: u64) -> u32 {
    (hash >> 32) as u32
}

// Two slots fill a cache line: what a hit reads of one is one miss of the cache at most.
const _: () = assert!(size_of::<Slot>() == 32);
const _: () = assert!(size_of::<Set>() == 64);
