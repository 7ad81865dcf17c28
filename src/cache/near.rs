//! One worker's own table of rendered answers: no locks, no atomics, no allocation on a hit.
//!
//! A slot holds an answer's bytes as they go out: TTLs counted down, an OPT record behind them. Its bytes hold for one
//! second of the entry's age; between two such seconds a hit touches none of them, and the kernel reads them where they
//! lie. The first hit of a new second counts the TTLs down in place.
//!
//! The store is asked again when the entry's time is over, when it is due for a prefetch, and at the latest after
//! [`TOUCH_SECS`], which keeps recency and popularity known there. (Asking once a second and
//! name made a hit at 50,000 queries a second over 31,000 names 1.42 times the floor in place of 1.12:
//! docs/performance.md.)
//!
//! Memory: 64 bytes a slot, the question and the answer's bytes, and an index of 8 bytes a way. A slot that an answer of the batch at
//! work points to is never changed or dropped before the next batch begins.

use super::entry::Entry;
use super::key::{Key, KeyFlags, Question};
use super::time::Now;
use crate::sys::prefetch;
use crate::wire::answer::Kind;
use crate::wire::answer::Offset;
use crate::wire::name::folds_to;
use crate::wire::reply::{OPT_LEN, Ttls, push_opt, set_ttls};
use crate::wire::rotation::Addresses;

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
    /// The response code's low four bits.
    pub rcode: u16,
    /// The AD bit as upstream set it.
    pub authentic_data: bool,
    /// Records in the three sections.
    pub counts: [u16; 3],
    /// Bytes of the answer without OPT; `None` where it is larger than any UDP reply may be.
    pub body_len: Option<usize>,
    /// Bytes of the OPT record behind it.
    pub opt_len: usize,
    /// The answer's kind.
    pub kind: Kind,
    /// The zone it was looked up in.
    pub zone: u16,
    slot: &'a Slot,
}

/// Ways of a set: as many tags and slot numbers as fill a cache line.
const WAYS: usize = 8;

/// The largest body kept, in bytes: beyond it no UDP client gets all of it.
const MAX_BODY: usize = 4096;

/// A rotated RRset up to this many bytes is kept twice over, so that each hit sends another window of it.
const MAX_WINDOW: usize = 1024;

/// No slot.
const NONE: u32 = u32::MAX;

#[derive(Clone)]
#[repr(C, align(64))]
struct Set {
    tags: [u32; WAYS],
    slots: [u32; WAYS],
}

#[derive(Debug)]
#[repr(align(64))]
struct Slot {
    /// The question (name, type, class, flags), the body (a rotated RRset twice), an OPT, and where the TTLs stand.
    block: Box<[u8]>,
    entry: Entry,
    /// The moment its bytes cease to hold.
    due: Now,
    batch: u32,
    /// The second from which on the store is asked.
    ask_at: u32,
    counts: [u16; 3],
    hits: u16,
    /// Length of the body as sent; [`TOO_LONG`] where none is kept.
    body_len: u16,
    zone: u16,
    window: Window,
    name_len: u8,
    opt_len: u8,
    /// TTLs to count down; [`MANY`] where they are not listed.
    ttls: u8,
    bits: u8,
}

/// Bits of `Slot::bits`: the low rcode, AD, and the answer's kind.
const RCODE_BITS: u8 = 0x0f;
const AD_BIT: u8 = 0x10;
const KIND_SHIFT: u8 = 5;

/// Kinds by their number.
const KINDS: [Kind; 4] = [Kind::Positive, Kind::NoData, Kind::NxDomain, Kind::Failure];

const TOO_LONG: u16 = u16::MAX;

/// More TTLs than a slot lists: the store is asked every second, and all of it rendered anew.
const MANY: u8 = u8::MAX;

/// Bytes of a question behind its name: type, class, and the flags of the key.
const TAIL: usize = 5;

/// Seconds after which a name that is asked is looked up in the store again, so that moka knows it is in use.
const TOUCH_SECS: u32 = 60;

/// Where in a body the rotated RRset stands. `count` below 2: nothing rotates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Window {
    start: u16,
    unit: u8,
    count: u8,
    next: u8,
}

impl Window {
    /// Where these stand. A body that is kept has no more records than it can count, but for one of 256.
    fn of(addresses: Addresses) -> Option<Self> {
        Some(Self {
            start: u16::try_from(addresses.start).ok()?,
            unit: u8::try_from(addresses.unit).ok()?,
            count: u8::try_from(addresses.count).ok()?,
            next: 0,
        })
    }

    fn len(self) -> usize {
        usize::from(self.unit) * usize::from(self.count)
    }
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
}

impl Near {
    /// An empty table of at most about `budget` bytes. Its index is allocated at once (a sixteenth of the budget at
    /// most), the rest as names are asked.
    pub fn new(budget: usize, rotate: bool) -> Self {
        /// What a name takes in a cluster's mix, about: slot, question and answer.
        const USUAL: usize = 192;
        /// Ways filled on average when the budget is spent: few enough that sets rarely overflow.
        const FILLED: usize = WAYS * 3 / 4;
        // A power of two, and rather too few than too many: all of it is resident.
        let sets = 1 << (budget / USUAL / FILLED).clamp(1, 1 << 24).ilog2();
        Self {
            sets: vec![Set { tags: [0; WAYS], slots: [NONE; WAYS] }; sets].into_boxed_slice(),
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
        // Slot numbers wrap after 4 billion batches; a slot untouched since then is merely kept for one batch more.
        self.batch = self.batch.wrapping_add(1);
        if self.generation != generation {
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
        let id = *set.slots.get(way as usize)?;
        prefetch::line(self.slots.get(id as usize)?);
        Some(SlotId(id))
    }

    /// The third: its question and its answer, as far as most go.
    #[inline]
    pub fn prefetch_answer(&self, SlotId(id): SlotId) {
        /// Question and answer of most names, in cache lines.
        const LINES: usize = 4;
        prefetch::lines::<LINES>(&self.slots[id as usize].block);
    }

    /// Looks the question with this hash up. A slot that is ready is held until the batch ends.
    #[inline]
    pub fn find(&mut self, hash: u64, question: &Question<'_>, now: Now) -> Found {
        let set = &self.sets[self.set_of(hash)];
        let mut ways = set.ways_of(hash);
        while ways != 0 {
            let id = set.slots[ways.trailing_zeros() as usize];
            ways &= ways - 1;
            // A way that was emptied keeps its tag.
            let Some(slot) = self.slots.get_mut(id as usize) else { continue };
            if slot.answers(question) {
                if now >= slot.due && !slot.count_down(now) {
                    return Found::Due(SlotId(id));
                }
                slot.batch = self.batch;
                slot.hits = slot.hits.saturating_add(1);
                return Found::Ready(SlotId(id));
            }
        }
        Found::Nothing
    }

    /// The entry a slot was rendered from, and the hits since the store was last asked, which are taken.
    pub fn take_hits(&mut self, SlotId(id): SlotId) -> (Entry, u32) {
        let slot = &mut self.slots[id as usize];
        (slot.entry.clone(), u32::from(std::mem::take(&mut slot.hits)))
    }

    /// The entry a slot was rendered from.
    pub fn entry(&self, SlotId(id): SlotId) -> Entry {
        self.slots[id as usize].entry.clone()
    }

    /// Renders a slot that was due from `entry`, and holds it until the batch ends.
    pub fn renew(&mut self, SlotId(id): SlotId, entry: &Entry, now: Now) {
        let slot = &mut self.slots[id as usize];
        self.bytes -= slot.block.len();
        slot.render(entry, now, self.rotate);
        slot.batch = self.batch;
        slot.hits = 1;
        self.bytes += slot.block.len();
    }

    /// Makes a slot for `entry`, the answer to `key`, and holds it until the batch ends. `None` where every slot that
    /// could make room is held by this batch.
    pub fn fill(&mut self, key: &Key, entry: &Entry, now: Now) -> Option<SlotId> {
        let set = self.set_of(key.hash());
        let way = self.way_for(set)?;
        let mut slot = Slot::new(entry, now, self.rotate);
        slot.batch = self.batch;
        slot.hits = 1;
        self.bytes += slot.block.len();
        let id = if let Some(id) = self.free.pop() {
            self.slots[id as usize] = slot;
            id
        } else {
            self.slots.push(slot);
            self.bytes += size_of::<Slot>();
            (self.slots.len() - 1) as u32
        };
        self.sets[set].tags[way] = tag_of(key.hash());
        self.sets[set].slots[way] = id;
        self.keep_within_budget();
        Some(SlotId(id))
    }

    /// Drops a slot whose entry is no longer good.
    pub fn drop_slot(&mut self, SlotId(id): SlotId) {
        let set = self.set_of(self.slots[id as usize].entry.key().hash());
        if let Some(way) = self.sets[set].slots.iter().position(|&other| other == id) {
            self.sets[set].slots[way] = NONE;
            self.release(id);
        }
    }

    /// The answer of a slot held by this batch.
    #[inline]
    pub fn served(&self, SlotId(id): SlotId) -> Served<'_> {
        let slot = &self.slots[id as usize];
        Served {
            rcode: u16::from(slot.bits & RCODE_BITS),
            authentic_data: slot.bits & AD_BIT != 0,
            counts: slot.counts,
            body_len: (slot.body_len != TOO_LONG).then_some(usize::from(slot.body_len)),
            opt_len: usize::from(slot.opt_len),
            kind: KINDS[usize::from(slot.bits >> KIND_SHIFT) % KINDS.len()],
            zone: slot.zone,
            slot,
        }
    }

    /// Which rotation of its addresses the next reply from the slot gets.
    #[inline]
    pub fn next_rotation(&mut self, SlotId(id): SlotId) -> u8 {
        let window = &mut self.slots[id as usize].window;
        if window.count < 2 {
            return 0;
        }
        let rotation = window.next;
        window.next = if rotation + 1 == window.count { 0 } else { rotation + 1 };
        rotation
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

    /// A free way of the set, or the one whose slot was used longest ago.
    fn way_for(&mut self, set: usize) -> Option<usize> {
        if let Some(way) = self.sets[set].slots.iter().position(|&id| id == NONE) {
            return Some(way);
        }
        let way = (0..WAYS)
            .filter(|&way| self.slots[self.sets[set].slots[way] as usize].batch != self.batch)
            .min_by_key(|&way| self.slots[self.sets[set].slots[way] as usize].due)?;
        let id = std::mem::replace(&mut self.sets[set].slots[way], NONE);
        self.release(id);
        Some(way)
    }

    /// Drops slots until the budget is kept: those not asked since the hand last came by and not held by this batch.
    fn keep_within_budget(&mut self) {
        let mut looked_at = 0;
        let slots = self.slots.len();
        while self.bytes > self.budget && looked_at < 2 * slots {
            self.hand = if self.hand + 1 >= slots { 0 } else { self.hand + 1 };
            looked_at += 1;
            let slot = &mut self.slots[self.hand];
            if slot.block.is_empty() || slot.batch == self.batch {
                continue;
            }
            // A second chance for what was hit since it was rendered; its hits still count towards popularity.
            if slot.hits > 0 && looked_at <= slots {
                slot.entry.add_hits(u32::from(std::mem::take(&mut slot.hits)));
                continue;
            }
            self.drop_slot(SlotId(self.hand as u32));
        }
    }

    fn release(&mut self, id: u32) {
        let slot = &mut self.slots[id as usize];
        self.bytes -= slot.block.len();
        slot.block = Box::default();
        slot.due = Now::default();
        self.free.push(id);
    }

    fn clear(&mut self) {
        let (budget, rotate) = (self.budget, self.rotate);
        let (batch, generation) = (self.batch, self.generation);
        *self = Self { batch, generation, ..Self::new(budget, rotate) };
    }
}

impl<'a> Served<'a> {
    /// The answer's bytes, in pieces that lie in the slot: the body in the given rotation, and the OPT if wanted.
    #[inline]
    pub fn pieces(&self, rotation: u8, opt: bool) -> [&'a [u8]; 3] {
        let slot = self.slot;
        let behind_name = &slot.block[usize::from(slot.name_len) + TAIL..];
        let opt_len = if opt { self.opt_len } else { 0 };
        let window = slot.window;
        if window.count < 2 {
            return [&behind_name[..usize::from(slot.body_len) + opt_len], &[], &[]];
        }
        let start = usize::from(window.start);
        let doubled = start + 2 * window.len();
        let from = start + usize::from(rotation) * usize::from(window.unit);
        let tail = usize::from(slot.body_len) - start - window.len();
        [
            &behind_name[..start],
            &behind_name[from..from + window.len()],
            &behind_name[doubled..doubled + tail + opt_len],
        ]
    }
}

impl Slot {
    fn new(entry: &Entry, now: Now, rotate: bool) -> Self {
        let mut slot = Self {
            block: Box::default(),
            entry: entry.clone(),
            due: now,
            batch: 0,
            ask_at: 0,
            counts: [0; 3],
            hits: 0,
            body_len: 0,
            zone: 0,
            window: Window::default(),
            name_len: entry.name().len() as u8,
            opt_len: 0,
            ttls: 0,
            bits: 0,
        };
        slot.render(entry, now, rotate);
        slot
    }

    #[inline]
    fn answers(&self, question: &Question<'_>) -> bool {
        let len = usize::from(self.name_len);
        self.block.get(..len + TAIL).is_some_and(|own| {
            let (name, tail) = own.split_at(len);
            tail == tail_of(question.qtype, question.qclass, question.flags) && name_is(question.name, name)
        })
    }

    /// Takes the seconds that have passed off every TTL. False, and nothing done, where the store must be asked.
    #[inline]
    fn count_down(&mut self, now: Now) -> bool {
        // Rounded down, as `ask_at` is: the store is asked up to a second too early, never too late.
        if now.0 / 1000 >= u64::from(self.ask_at) || self.ttls == MANY {
            return false;
        }
        let seconds = (now.millis_since(self.due) / 1000) as u32 + 1;
        self.due = self.due.plus_secs(seconds);
        let body = usize::from(self.name_len) + TAIL;
        let (bytes, list) = self.block.split_at_mut(self.block.len() - usize::from(self.ttls) * 2);
        set_ttls(&mut bytes[body..], list.as_chunks().0, Ttls::Aged(seconds));
        true
    }

    /// Writes the entry's answer as it stands at `now`.
    fn render(&mut self, entry: &Entry, now: Now, rotate: bool) {
        let parts = entry.parts();
        let age = entry.age(now);
        // An entry that is not fresh is never rendered, so this is at most the end of its time.
        self.due = entry.stored().plus_secs(age.saturating_add(1));
        let ask_again = entry.next_decision(now).min(now.plus_secs(TOUCH_SECS));
        self.ask_at = u32::try_from(ask_again.0 / 1000).unwrap_or(u32::MAX);
        self.counts = parts.counts;
        self.zone = entry.zone();
        self.bits = (parts.rcode as u8 & RCODE_BITS)
            | if parts.authentic_data { AD_BIT } else { 0 }
            | (entry.kind() as u8) << KIND_SHIFT;
        let next = self.window.next;
        self.window = Window::default();
        self.ttls = u8::try_from(parts.ttl_at.len()).unwrap_or(MANY);

        // The old block's memory serves again: an answer of the same length costs no allocation.
        let mut block = Vec::from(std::mem::take(&mut self.block));
        block.clear();
        let body_len = if parts.body.len() > MAX_BODY { 0 } else { parts.body.len() };
        block.reserve_exact(entry.name().len() + TAIL + body_len + OPT_LEN + 2 * parts.ttl_at.len());
        block.extend_from_slice(entry.name());
        block.extend_from_slice(&tail_of(entry.qtype(), entry.qclass(), entry.flags()));
        let start = block.len();
        if parts.body.len() > MAX_BODY {
            self.body_len = TOO_LONG;
            self.ttls = 0;
        } else {
            self.body_len = parts.body.len() as u16;
            block.extend_from_slice(parts.body);
            set_ttls(&mut block[start..], parts.ttl_at, Ttls::Aged(age));
            if rotate
                && entry.kind() == Kind::Positive
                && let Some(window) = Addresses::of(parts.body, parts.counts[0]).and_then(Window::of)
            {
                self.rotate(&mut block, start, Window { next, ..window });
            }
        }
        let before_opt = block.len();
        push_opt(&mut block, parts.rcode, entry.flags().dnssec_ok(), entry.extended_error(), None);
        self.opt_len = (block.len() - before_opt) as u8;
        self.list_ttls(&mut block, parts.ttl_at);
        self.block = block.into_boxed_slice();
        if !self.entry.is(entry) {
            self.entry = entry.clone();
        }
    }

    /// Makes the RRset of `window` ready for rotation: twice over, so that any window of its length is one, or, where it is
    /// too large for that, in another order each time.
    fn rotate(&mut self, block: &mut Vec<u8>, body: usize, window: Window) {
        let at = body + usize::from(window.start);
        let end = at + window.len();
        if window.len() > MAX_WINDOW {
            let turn = self.due.0 as usize / 1000 % usize::from(window.count);
            block[at..end].rotate_left(turn * usize::from(window.unit));
            return;
        }
        let behind = block.len();
        block.resize(behind + window.len(), 0);
        block.copy_within(end..behind, end + window.len());
        block.copy_within(at..end, end);
        self.window = Window { next: if window.next < window.count { window.next } else { 0 }, ..window };
    }

    /// Appends where the TTLs stand in the slot's own bytes.
    fn list_ttls(&mut self, block: &mut Vec<u8>, ttl_at: &[Offset]) {
        if self.ttls == 0 || self.ttls == MANY {
            return;
        }
        let window = self.window;
        let listed = ttl_at.len() + usize::from(window.count);
        if listed >= usize::from(MANY) {
            self.ttls = MANY;
            return;
        }
        self.ttls = listed as u8;
        let (start, len) = (window.start, window.len() as u16);
        for at in ttl_at.iter().map(|&at| u16::from_ne_bytes(at)) {
            // What stands behind the doubled RRset has moved; what stands in it is there twice.
            let behind = window.count > 0 && at >= start + len;
            block.extend_from_slice(&(if behind { at + len } else { at }).to_ne_bytes());
            if window.count > 0 && !behind && at >= start {
                block.extend_from_slice(&(at + len).to_ne_bytes());
            }
        }
    }
}

/// Whether a client's name is the slot's: most clients write small letters.
#[inline]
fn name_is(name: &[u8], own: &[u8]) -> bool {
    name == own || folds_to(name, own)
}

/// A question behind its name, as bytes.
#[inline]
fn tail_of(qtype: u16, qclass: u16, flags: KeyFlags) -> [u8; TAIL] {
    let ([t0, t1], [c0, c1]) = (qtype.to_ne_bytes(), qclass.to_ne_bytes());
    [t0, t1, c0, c1, flags.bits()]
}

fn tag_of(hash: u64) -> u32 {
    (hash >> 32) as u32
}

// The slot is one cache line: what a hit reads of it is one miss of the cache at most.
const _: () = assert!(size_of::<Slot>() == 64);
const _: () = assert!(size_of::<Set>() == 64);
