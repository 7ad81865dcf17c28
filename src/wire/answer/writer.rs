//! The records of an answer as they are written behind the question, and the compression of their names (RFC 1035 §4.1.4).
//!
//! Every name is a path from the root. A table knows the labels written so far, each by what it stands before: looking a
//! name up goes label by label from its end and compares each with a few at most, so that compression takes time linear in
//! what is written, and finds the longest ending that was written before, unless the table had no room for it.

use super::names::{Head, Name};
use crate::wire::HEADER_LEN;
use crate::wire::name::fold8;

/// How a name is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// As an owner: compressed, in whatever letters it was written before (RFC 4343 §4.1).
    Owner,
    /// As data: compressed where it was written before in the same letters.
    Data,
    /// In full, since readers need not know that the data has a name in it (RFC 3597 §4).
    Full,
}

/// What has been written.
pub(super) struct Writer<'a> {
    /// Before the records.
    pub(super) head: Head<'a>,
    /// The records.
    pub(super) body: Vec<u8>,
    known: Known,
}

impl<'a> Writer<'a> {
    /// Nothing yet, with room for `capacity` bytes.
    pub(super) fn new(head: Head<'a>, capacity: usize) -> Self {
        Self { head, body: Vec::with_capacity(capacity), known: Known::new() }
    }

    /// Length of the message so far.
    pub(super) fn len(&self) -> usize {
        self.head.end() + self.body.len()
    }

    /// Writes a pointer to the label at `at`.
    pub(super) fn pointer(&mut self, at: u16) {
        self.body.extend_from_slice(&(POINTER | at).to_be_bytes());
    }

    /// Writes a name. Where it became a pointer and nothing else, what that points to.
    pub(super) fn name(&mut self, name: &Name, form: Form) -> Option<u16> {
        // A peer that found the rest in the question would have found what is before it, but for its letters.
        if name.labels > 0 && (name.rest == ROOT || form == Form::Owner) {
            self.know_question();
        }
        let mut known = name.rest;
        let mut new = name.labels;
        while new > 0 {
            let Some(at) = self.find(known, name.label(new - 1), form) else { break };
            known = at;
            new -= 1;
        }
        let start = self.len();
        if form == Form::Full {
            self.body.extend_from_slice(name.before(name.labels));
            match name.rest {
                ROOT => self.body.push(0),
                rest => {
                    let rest = &self.head.bytes[usize::from(rest)..self.head.name_end()];
                    self.body.extend_from_slice(rest);
                }
            }
        } else {
            self.body.extend_from_slice(name.before(new));
            match known {
                ROOT => self.body.push(0),
                at => self.pointer(at),
            }
        }
        let is_pointer = new == 0 && known != ROOT && form != Form::Full;
        // The labels reach 254 bytes behind the start at most.
        while new > 0 && start < usize::from(POINTER_REACH) {
            new -= 1;
            let at = (start + name.start(new)) as u16;
            if at < POINTER_REACH {
                self.learn(Label { at, before: known });
            }
            known = at;
        }
        is_pointer.then_some(known)
    }

    /// The label at `at` and all behind it, its length before it.
    fn label(&self, at: u16) -> &[u8] {
        label_at(&self.head, &self.body, usize::from(at))
    }

    /// Where the label `text` was written before the one at `before`.
    fn find(&self, before: u16, text: &[u8], form: Form) -> Option<u16> {
        let slots = self.known.slots();
        for slot in probes(before, text, slots.len()) {
            let known = slots[slot];
            if known.at == ROOT {
                return None;
            }
            if known.before == before {
                let label = self.label(known.at);
                let same = match form {
                    Form::Owner => label.eq_ignore_ascii_case(text),
                    Form::Data | Form::Full => label == text,
                };
                if same {
                    return Some(known.at);
                }
            }
        }
        None
    }

    /// Has the question's labels in the table. Most answers have no name that is not found through a pointer to them.
    fn know_question(&mut self) {
        if std::mem::replace(&mut self.known.has_question, true) {
            return;
        }
        let mut before = ROOT;
        for at in (HEADER_LEN..self.head.name_end()).rev() {
            if self.head.has_label_at(at) {
                self.learn(Label { at: at as u16, before });
                before = at as u16;
            }
        }
    }

    /// Puts a label that was just written into the table. One that finds no room is forgotten: it is written again.
    fn learn(&mut self, new: Label) {
        if !self.insert(new) && self.known.large.is_empty() {
            self.known.large = vec![Known::NONE; LARGE];
            let small = self.known.small;
            for label in small.into_iter().filter(|label| label.at != ROOT) {
                self.insert(label);
            }
            self.insert(new);
        }
    }

    fn insert(&mut self, new: Label) -> bool {
        let text = label_at(&self.head, &self.body, usize::from(new.at));
        let slots = self.known.slots();
        let free = probes(new.before, text, slots.len()).find(|&slot| slots[slot].at == ROOT);
        if let Some(slot) = free {
            self.known.slots_mut()[slot] = new;
        }
        free.is_some()
    }

    /// The labels of the name at `at` in the body.
    pub(super) fn labels(&self, at: usize) -> Labels<'_> {
        Labels { head: &self.head, body: &self.body, at: self.head.end() + at }
    }
}

/// The label at `at` in the message, its length before it.
fn label_at<'b>(head: &'b Head<'_>, body: &'b [u8], at: usize) -> &'b [u8] {
    let bytes = match at.checked_sub(head.end()) {
        None => &head.bytes[at..],
        Some(at) => &body[at..],
    };
    &bytes[..=usize::from(bytes[0])]
}

/// The labels of a name that was written, each with its length before it, up to the root.
#[derive(Clone)]
pub(super) struct Labels<'b> {
    head: &'b Head<'b>,
    body: &'b [u8],
    at: usize,
}

impl<'b> Iterator for Labels<'b> {
    type Item = &'b [u8];

    fn next(&mut self) -> Option<&'b [u8]> {
        // What was written points to a label always, never to another pointer.
        if let Some(&[p0 @ 0xc0..=0xff, p1]) =
            self.at.checked_sub(self.head.end()).and_then(|at| self.body[at..].first_chunk())
        {
            self.at = usize::from(u16::from_be_bytes([p0, p1]) & !POINTER);
        }
        let label = label_at(self.head, self.body, self.at);
        if label.len() == 1 {
            return None;
        }
        self.at += label.len();
        Some(label)
    }
}

/// Whether two names that were written are the same (RFC 4343).
pub(super) fn same_name(mut a: Labels<'_>, mut b: Labels<'_>) -> bool {
    loop {
        if a.at == b.at {
            return true;
        }
        match (a.next(), b.next()) {
            (None, None) => return true,
            (Some(a), Some(b)) if a.eq_ignore_ascii_case(b) => {}
            _ => return false,
        }
    }
}

/// The two bits that make a pointer (RFC 1035 §4.1.4).
const POINTER: u16 = 0xc000;

/// A pointer's offset stays below.
const POINTER_REACH: u16 = 0x4000;

/// In place of an offset: no label. The message's first byte is never one.
const ROOT: u16 = 0;

/// Room for the labels of an ordinary answer; more of them are known at the cost of an allocation.
const SMALL: usize = 64;

/// Room for the labels within a pointer's reach, unless most of them are of a letter or two.
const LARGE: usize = 8192;

/// Slots that are looked at: a bound, whatever names an upstream makes up.
const PROBES: usize = 8;

/// A label that was written, and the one behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Label {
    at: u16,
    before: u16,
}

/// The labels written so far: a hash table, open and probed in line.
struct Known {
    small: [Label; SMALL],
    large: Vec<Label>,
    has_question: bool,
}

impl Known {
    const NONE: Label = Label { at: ROOT, before: ROOT };

    fn new() -> Self {
        Self { small: [Self::NONE; SMALL], large: Vec::new(), has_question: false }
    }

    fn slots(&self) -> &[Label] {
        if self.large.is_empty() { &self.small } else { &self.large }
    }

    fn slots_mut(&mut self) -> &mut [Label] {
        if self.large.is_empty() { &mut self.small } else { &mut self.large }
    }
}

/// The slots among `slots`, a power of two, where a label stands that was written before another.
fn probes(before: u16, text: &[u8], slots: usize) -> impl Iterator<Item = usize> + use<> {
    /// 2⁶⁴ divided by the golden ratio.
    const MIX: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut hash = u64::from(before);
    for chunk in text.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        // The upper half of the product folded onto the lower: labels differ in their last letters, which only reach the former.
        let product = u128::from(hash.rotate_left(23) ^ fold8(u64::from_le_bytes(word))) * u128::from(MIX);
        hash = product as u64 ^ (product >> 64) as u64;
    }
    let first = hash as usize & (slots - 1);
    (first..first + PROBES).map(move |slot| slot & (slots - 1))
}
