//! Names read out of a message, decompressed (RFC 1035 §4.1.4).
//!
//! A pointer points backwards, and what is read through it ends before the name that had it begins: no loops. As many pointers as
//! a name can have labels are followed and no more, so that a message of thousands of names, each at the end of a long chain
//! of pointers, is read in time linear in its size.

use super::malformed::{Flaw, Found};
use crate::wire::HEADER_LEN;
use crate::wire::name::{MAX_LABEL, MAX_NAME, NameError, plain_name_len};

/// Most pointers of one name; every encoder has a label between two, of which a name has 127 at most.
const MAX_POINTERS: usize = 127;

/// Most labels of a name, the root not counted: one letter each.
const MAX_LABELS: usize = MAX_NAME / 2;

/// The header and question that stand before the records.
pub(super) struct Head<'a> {
    /// Their bytes.
    pub(super) bytes: &'a [u8],
    /// Where labels of the question's name start, as bits counted from the end of the header. The root is not among them.
    label_starts: [u64; 4],
}

impl<'a> Head<'a> {
    /// The head of `message`, which has one question.
    ///
    /// The question's name is the first of the message: there is nothing that it could point to.
    pub(super) fn of(message: &'a [u8]) -> Result<Self, Found> {
        let name = message.get(HEADER_LEN..).unwrap_or_default();
        let len = plain_name_len(name).map_err(|error| (HEADER_LEN, error.into()))?;
        let name_end = HEADER_LEN + len;
        let bytes =
            message.get(..name_end + 4).ok_or((name_end, Flaw::Ends("the question's type and class")))?;
        let mut label_starts = [0_u64; 4];
        let mut at = 0;
        while name[at] != 0 {
            label_starts[at / 64] |= 1 << (at % 64);
            at += 1 + usize::from(name[at]);
        }
        Ok(Self { bytes, label_starts })
    }

    /// The question's type.
    pub(super) fn qtype(&self) -> u16 {
        let at = self.bytes.len() - 4;
        u16::from_be_bytes([self.bytes[at], self.bytes[at + 1]])
    }

    /// Behind the question.
    pub(super) fn end(&self) -> usize {
        self.bytes.len()
    }

    /// Behind the root label of the question's name.
    pub(super) fn name_end(&self) -> usize {
        self.bytes.len() - 4
    }

    /// Whether one of the question's labels, but for the root, starts at `at`.
    #[inline]
    pub(super) fn has_label_at(&self, at: usize) -> bool {
        let Some(bit) = at.checked_sub(HEADER_LEN) else { return false };
        self.label_starts.get(bit / 64).is_some_and(|word| word >> (bit % 64) & 1 != 0)
    }
}

/// Bytes that records are read from.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    /// A message, or a record alone.
    pub(super) bytes: &'a [u8],
    /// The first byte that a pointer may point to.
    pub(super) first_target: usize,
}

impl<'a> Source<'a> {
    /// A whole message. Its header is no name.
    pub(super) fn message(bytes: &'a [u8]) -> Self {
        Self { bytes, first_target: HEADER_LEN }
    }

    /// A record without its message: a pointer in it leads nowhere.
    pub(super) fn record(bytes: &'a [u8]) -> Self {
        Self { bytes, first_target: usize::MAX }
    }

    /// The pointer at `at`, if there is one: where it points.
    #[inline]
    pub(super) fn pointer(&self, at: usize) -> Option<usize> {
        match self.bytes.get(at..)?.first_chunk::<2>()? {
            &[p0 @ 0xc0..=0xff, p1] => Some(usize::from(u16::from_be_bytes([p0 & 0x3f, p1]))),
            _ => None,
        }
    }
}

/// A name, decompressed up to where it goes on as the question's does.
pub(super) struct Name {
    /// The labels, each behind its length; without the root.
    bytes: [u8; MAX_NAME],
    /// Where in `bytes` each label starts, and behind the last of them their end.
    starts: [u8; MAX_LABELS + 1],
    /// How many labels there are.
    pub(super) labels: usize,
    /// Where in the question's name the rest stands; 0 where the rest is the root.
    pub(super) rest: u16,
}

impl Name {
    /// The root, as room to read others into.
    pub(super) fn root() -> Self {
        Self { bytes: [0; MAX_NAME], starts: [0; MAX_LABELS + 1], labels: 0, rest: 0 }
    }

    /// Whether it is the root.
    pub(super) fn is_root(&self) -> bool {
        self.labels == 0 && self.rest == 0
    }

    /// The label numbered `index`, its length before it.
    pub(super) fn label(&self, index: usize) -> &[u8] {
        &self.bytes[self.start(index)..self.start(index + 1)]
    }

    /// The labels before the one numbered `index`.
    pub(super) fn before(&self, index: usize) -> &[u8] {
        &self.bytes[..self.start(index)]
    }

    /// Where the label numbered `index` starts, counted from the first.
    pub(super) fn start(&self, index: usize) -> usize {
        usize::from(self.starts[index])
    }

    /// Reads the name at `at`; the position behind it.
    pub(super) fn read(&mut self, source: Source<'_>, head: &Head<'_>, at: usize) -> Result<usize, Found> {
        self.labels = 0;
        self.rest = 0;
        let mut len = 0;
        let mut end = None;
        // What is being read starts here, and must end before `limit`.
        let (mut start, mut limit) = (at, source.bytes.len());
        let mut at = at;
        let mut pointers = 0;
        loop {
            let flaw = |error: NameError| (at, Flaw::Name(error));
            let overrun = if end.is_none() { NameError::Truncated } else { NameError::Pointer };
            if at >= limit {
                return Err(flaw(overrun));
            }
            match source.bytes[at] {
                0 => return Ok(end.unwrap_or(at + 1)),
                label @ 1..=MAX_LABEL => {
                    let size = 1 + usize::from(label);
                    let text = source.bytes.get(at..at + size).ok_or(flaw(overrun))?;
                    if len + size >= MAX_NAME {
                        return Err(flaw(NameError::TooLong));
                    }
                    self.bytes[len..len + size].copy_from_slice(text);
                    len += size;
                    self.labels += 1;
                    self.starts[self.labels] = len as u8;
                    at += size;
                }
                0xc0.. => {
                    let target = source.pointer(at).ok_or(flaw(overrun))?;
                    if target >= start || target < source.first_target {
                        return Err(flaw(NameError::Pointer));
                    }
                    pointers += 1;
                    if pointers > MAX_POINTERS {
                        return Err(flaw(NameError::Pointers));
                    }
                    let behind = *end.get_or_insert(at + 2);
                    if head.has_label_at(target) {
                        // It began within a label of the question's name, and would run into itself.
                        if head.name_end() > start {
                            return Err(flaw(NameError::Pointer));
                        }
                        if len + (head.name_end() - target) > MAX_NAME {
                            return Err(flaw(NameError::TooLong));
                        }
                        self.rest = target as u16;
                        return Ok(behind);
                    }
                    limit = start;
                    start = target;
                    at = target;
                }
                _ => return Err(flaw(NameError::NotPlain)),
            }
        }
    }
}
