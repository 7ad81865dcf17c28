//! A slot's own copy of an answer whose bytes change: with several TTLs to count down, or addresses that take turns.

use super::MAX_BODY;
use crate::cache::entry::Entry;
use crate::cache::time::Now;
use crate::wire::answer::{Kind, Offset};
use crate::wire::reply::{Ttls, set_ttls};
use crate::wire::rotation::Addresses;

/// Addresses that take turns are kept twice over up to this many bytes, so that each hit sends another window of them.
const MAX_WINDOW: usize = 1024;

/// More TTLs than a copy lists: the store is asked every second, and all of it copied anew.
const MANY: u8 = u8::MAX;

/// An answer's body as it stands in one second of its age.
#[derive(Debug)]
pub(super) struct Copy {
    /// The body, an RRset that takes turns twice, and behind it the list of where the TTLs stand.
    bytes: Box<[u8]>,
    /// The moment its TTLs cease to hold.
    due: Now,
    window: Window,
    /// Length of the body as sent.
    body_len: u16,
    /// TTLs to count down; [`MANY`] where they are not listed.
    ttls: u8,
}

/// Where in a body the addresses stand that take turns. `count` below 2: none do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Window {
    start: u16,
    unit: u8,
    count: u8,
    next: u8,
}

impl Window {
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

impl Copy {
    /// A copy of the entry's body as it stands at `now`, in the memory of the slot's last one; `None` of a body that no
    /// UDP client takes whole.
    pub(super) fn of(entry: &Entry, now: Now, rotate: bool, last: Option<Box<Self>>) -> Option<Box<Self>> {
        let parts = entry.parts();
        if parts.body.len() > MAX_BODY {
            return None;
        }
        let next = last.as_ref().map_or(0, |last| last.window.next);
        let mut bytes = last.map_or_else(Vec::new, |last| Vec::from(last.bytes));
        bytes.clear();
        bytes.reserve_exact(parts.body.len() + 2 * parts.ttl_at.len());
        bytes.extend_from_slice(parts.body);
        let age = entry.age(now);
        set_ttls(&mut bytes, parts.ttl_at, Ttls::Aged(age));
        let mut copy = Self {
            bytes: Box::default(),
            // An entry that is not fresh is never copied, so this is at most the end of its time.
            due: entry.stored().plus_secs(age.saturating_add(1)),
            window: Window::default(),
            body_len: parts.body.len() as u16,
            ttls: u8::try_from(parts.ttl_at.len()).unwrap_or(MANY),
        };
        if rotate
            && entry.kind() == Kind::Positive
            && let Some(window) = Addresses::of(parts.body, parts.counts[0]).and_then(Window::of)
        {
            copy.rotate(&mut bytes, Window { next, ..window });
        }
        copy.list_ttls(&mut bytes, parts.ttl_at);
        copy.bytes = bytes.into_boxed_slice();
        Some(Box::new(copy))
    }

    /// Whether its TTLs hold at `now`, once the seconds that have passed are taken off them where they lie. False, and
    /// nothing done, where it must be copied anew.
    #[inline]
    pub(super) fn count_down(&mut self, now: Now) -> bool {
        if now < self.due {
            return true;
        }
        if self.ttls == MANY {
            return false;
        }
        let seconds = (now.millis_since(self.due) / 1000) as u32 + 1;
        self.due = self.due.plus_secs(seconds);
        let (bytes, list) = self.bytes.split_at_mut(self.bytes.len() - usize::from(self.ttls) * 2);
        set_ttls(bytes, list.as_chunks().0, Ttls::Aged(seconds));
        true
    }

    /// Which of its addresses stands first the next time.
    #[inline]
    pub(super) fn next_rotation(&mut self) -> u8 {
        let window = &mut self.window;
        if window.count < 2 {
            return 0;
        }
        let rotation = window.next;
        window.next = if rotation + 1 == window.count { 0 } else { rotation + 1 };
        rotation
    }

    /// The body with this address first, in the pieces it lies in.
    #[inline]
    pub(super) fn pieces(&self, rotation: u8) -> [&[u8]; 3] {
        let window = self.window;
        if window.count < 2 {
            return [&self.bytes[..usize::from(self.body_len)], &[], &[]];
        }
        let start = usize::from(window.start);
        let doubled = start + 2 * window.len();
        let from = start + usize::from(rotation) * usize::from(window.unit);
        let behind = usize::from(self.body_len) - start - window.len();
        [&self.bytes[..start], &self.bytes[from..from + window.len()], &self.bytes[doubled..doubled + behind]]
    }

    /// Bytes of memory it takes.
    pub(super) fn size(&self) -> usize {
        size_of::<Self>() + self.bytes.len()
    }

    /// Makes the addresses of `window` ready for turns: twice over, so that any window of their length is one, or, where
    /// they are too large for that, in another order each time.
    fn rotate(&mut self, bytes: &mut Vec<u8>, window: Window) {
        let at = usize::from(window.start);
        let end = at + window.len();
        if window.len() > MAX_WINDOW {
            let turn = self.due.0 as usize / 1000 % usize::from(window.count);
            bytes[at..end].rotate_left(turn * usize::from(window.unit));
            return;
        }
        let behind = bytes.len();
        bytes.resize(behind + window.len(), 0);
        bytes.copy_within(end..behind, end + window.len());
        bytes.copy_within(at..end, end);
        self.window = Window { next: if window.next < window.count { window.next } else { 0 }, ..window };
    }

    /// Appends where the TTLs stand.
    fn list_ttls(&mut self, bytes: &mut Vec<u8>, ttl_at: &[Offset]) {
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
            bytes.extend_from_slice(&(if behind { at + len } else { at }).to_ne_bytes());
            if window.count > 0 && !behind && at >= start {
                bytes.extend_from_slice(&(at + len).to_ne_bytes());
            }
        }
    }
}
