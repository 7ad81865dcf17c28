//! Replies written by hand, as no encoder would.

use std::collections::HashMap;

/// Writes replies by hand: with names compressed wherever a pointer reaches, if `compress` says so.
pub(crate) struct Reply {
    pub(crate) bytes: Vec<u8>,
    /// Where each name and each ending of one stands.
    pub(crate) known: HashMap<Vec<u8>, u16>,
}

impl Reply {
    pub(crate) fn to(question: &[u8], qtype: u16) -> Self {
        let mut bytes = vec![0x12, 0x34, 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0];
        let mut known = HashMap::new();
        note(&mut known, question, bytes.len());
        bytes.extend_from_slice(question);
        bytes.extend_from_slice(&qtype.to_be_bytes());
        bytes.extend_from_slice(&[0, 1]);
        Self { bytes, known }
    }

    pub(crate) fn name(&mut self, name: &[u8], compress: bool) {
        let start = self.bytes.len();
        let mut at = 0;
        while name[at] != 0 {
            if let Some(known) = self.known.get(&name[at..]).filter(|_| compress) {
                self.bytes.extend_from_slice(&name[..at]);
                self.bytes.extend_from_slice(&(0xc000 | known).to_be_bytes());
                note(&mut self.known, name, start);
                return;
            }
            at += 1 + usize::from(name[at]);
        }
        self.bytes.extend_from_slice(name);
        note(&mut self.known, name, start);
    }

    /// A record up to its data, which `data` writes.
    pub(crate) fn record(
        &mut self,
        section: usize,
        owner: &[u8],
        compress: bool,
        rtype: u16,
        ttl: u32,
        data: impl FnOnce(&mut Self),
    ) {
        let count = &mut self.bytes[7 + 2 * section];
        let (sum, carry) = count.overflowing_add(1);
        *count = sum;
        self.bytes[6 + 2 * section] += u8::from(carry);
        self.name(owner, compress);
        self.bytes.extend_from_slice(&rtype.to_be_bytes());
        self.bytes.extend_from_slice(&[0, 1]);
        self.bytes.extend_from_slice(&ttl.to_be_bytes());
        let len_at = self.bytes.len();
        self.bytes.extend_from_slice(&[0, 0]);
        data(self);
        let len = (self.bytes.len() - len_at - 2) as u16;
        self.bytes[len_at..len_at + 2].copy_from_slice(&len.to_be_bytes());
    }

    pub(crate) fn a(&mut self, section: usize, owner: &[u8], last: u8) {
        self.record(section, owner, true, 1, 60, |reply| reply.bytes.extend_from_slice(&[192, 0, 2, last]));
    }
}

/// Notes where each ending of `name`, written at `start`, stands.
fn note(known: &mut HashMap<Vec<u8>, u16>, name: &[u8], start: usize) {
    let mut at = 0;
    while name[at] != 0 {
        if start + at < 0x4000 {
            // Behind the first pointer of a compressed name these are wrong; they are known from before then.
            known.entry(name[at..].to_vec()).or_insert((start + at) as u16);
        }
        at += 1 + usize::from(name[at]);
    }
}

/// A name in wire form.
pub(crate) fn wire(labels: &[&str]) -> Vec<u8> {
    let mut name = Vec::new();
    for label in labels {
        name.push(label.len() as u8);
        name.extend_from_slice(label.as_bytes());
    }
    name.push(0);
    name
}

/// The types whose data has names: bytes before them, character-strings, names, whether anything may follow.
pub(crate) const WITH_NAMES: [(u16, usize, usize, usize, bool); 24] = [
    (2, 0, 0, 1, false),
    (3, 0, 0, 1, false),
    (4, 0, 0, 1, false),
    (5, 0, 0, 1, false),
    (7, 0, 0, 1, false),
    (8, 0, 0, 1, false),
    (9, 0, 0, 1, false),
    (12, 0, 0, 1, false),
    (14, 0, 0, 2, false),
    (15, 2, 0, 1, false),
    (17, 0, 0, 2, false),
    (18, 2, 0, 1, false),
    (21, 2, 0, 1, false),
    (24, 18, 0, 1, true),
    (26, 2, 0, 2, false),
    (30, 0, 0, 1, true),
    (33, 6, 0, 1, false),
    (35, 4, 3, 1, false),
    (36, 2, 0, 1, false),
    (39, 0, 0, 1, false),
    (46, 18, 0, 1, true),
    (47, 0, 0, 1, true),
    (64, 2, 0, 1, true),
    (65, 2, 0, 1, true),
];
