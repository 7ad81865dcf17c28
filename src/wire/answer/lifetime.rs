//! How long an answer lives, and the TTLs its records go out with (RFC 2181 §5.2, RFC 2308 §5, RFC 4034 §3).

use std::collections::HashMap;

use super::writer::{Labels, Writer, same_name};
use super::{Kind, Offset};
use crate::wire::{read_u16, read_u32, rtype};

/// What is known of the records' TTLs, section by section, each of them in seconds.
#[derive(Debug, Default)]
pub(super) struct Ttls {
    sections: [SectionTtls; 3],
    /// The first SOA of the authority section: which of all the records it is, and its MINIMUM.
    soa: Option<(usize, u32)>,
}

#[derive(Debug, Default, Clone, Copy)]
struct SectionTtls {
    /// The smallest TTL, once there is a record.
    min: Option<u32>,
    /// The largest one.
    max: u32,
}

impl Ttls {
    /// Notes the TTL of a record in the section numbered `section`.
    pub(super) fn note(&mut self, section: usize, ttl: u32) {
        let section = &mut self.sections[section];
        section.min = Some(section.min.map_or(ttl, |min| min.min(ttl)));
        section.max = section.max.max(ttl);
    }

    /// Notes a SOA of the authority section, which is the record numbered `index` of all.
    pub(super) fn note_soa(&mut self, index: usize, minimum: u32) {
        self.soa.get_or_insert((index, minimum));
    }

    /// Makes the written TTLs those that the answer goes out with; how long it lives.
    ///
    /// A negative answer's SOA has its TTL lowered to its MINIMUM, since it counts down with the answer.
    pub(super) fn settle(
        &self,
        kind: Kind,
        counts: [u16; 3],
        writer: &mut Writer<'_>,
        ttl_at: &[Offset],
    ) -> u32 {
        let mut first = 0;
        for (section, count) in self.sections.iter().zip(counts) {
            let end = first + usize::from(count);
            if section.min.is_some_and(|min| min != section.max) {
                equalise(writer, ttl_at, first..end);
            }
            first = end;
        }
        let smallest = |sections: &[SectionTtls]| sections.iter().filter_map(|section| section.min).min();
        match kind {
            Kind::Positive => smallest(&self.sections).unwrap_or(0),
            Kind::NoData | Kind::NxDomain => {
                // Without a SOA nothing says how long the negative answer holds (RFC 2308 §5): it is passed on only.
                let Some((index, minimum)) = self.soa else { return 0 };
                let at = offset(ttl_at[index]);
                if ttl(&writer.body, at) > minimum {
                    set_ttl(&mut writer.body, at, minimum);
                }
                smallest(&self.sections[..2]).unwrap_or(0).min(minimum)
            }
            Kind::Failure => 0,
        }
    }
}

/// Gives the records of each RRset the smallest of their TTLs.
fn equalise(writer: &mut Writer<'_>, ttl_at: &[Offset], records: std::ops::Range<usize>) {
    /// Past this many records a hash map groups them, so that a hostile reply costs linear time.
    const QUADRATIC_UP_TO: usize = 16;
    // An owner starts where the record before it ends.
    let mut owner_at = match records.start.checked_sub(1) {
        None => 0,
        Some(before) => end(&writer.body, offset(ttl_at[before])),
    };
    let ttl_at = &ttl_at[records];
    if ttl_at.len() > QUADRATIC_UP_TO {
        return equalise_many(writer, ttl_at, owner_at);
    }
    let mut owners = [0; QUADRATIC_UP_TO];
    for (owner, &at) in owners.iter_mut().zip(ttl_at) {
        *owner = owner_at;
        owner_at = end(&writer.body, offset(at));
    }
    for (i, &at) in ttl_at.iter().enumerate() {
        let at = offset(at);
        let mut min = ttl(&writer.body, at);
        for (j, &other) in ttl_at.iter().enumerate() {
            let other = offset(other);
            if j != i
                && kind_of_set(&writer.body, at) == kind_of_set(&writer.body, other)
                && ttl(&writer.body, other) < min
                && same_name(writer.labels(owners[i]), writer.labels(owners[j]))
            {
                min = ttl(&writer.body, other);
            }
        }
        set_ttl(&mut writer.body, at, min);
    }
}

/// As [`equalise`], for many records; the first starts at `owner_at`.
fn equalise_many(writer: &mut Writer<'_>, ttl_at: &[Offset], mut owner_at: usize) {
    let mut sets = HashMap::new();
    let mut mins = Vec::new();
    let mut set_of = Vec::with_capacity(ttl_at.len());
    for &at in ttl_at {
        let at = offset(at);
        let key = (folded(writer.labels(owner_at)), kind_of_set(&writer.body, at));
        owner_at = end(&writer.body, at);
        let ttl = ttl(&writer.body, at);
        let set = *sets.entry(key).or_insert(mins.len());
        match mins.get_mut(set) {
            Some(min) => *min = ttl.min(*min),
            None => mins.push(ttl),
        }
        set_of.push(set);
    }
    for (&at, set) in ttl_at.iter().zip(set_of) {
        set_ttl(&mut writer.body, offset(at), mins[set]);
    }
}

/// A name in lower case.
fn folded(labels: Labels<'_>) -> Vec<u8> {
    let mut name = Vec::with_capacity(64);
    labels.for_each(|label| name.extend_from_slice(label));
    name.make_ascii_lowercase();
    name
}

fn offset(at: Offset) -> usize {
    usize::from(u16::from_ne_bytes(at))
}

/// What records of one owner have in common if they are one RRset, for the record whose TTL is at `ttl_at`: type and class, and
/// of signatures the type that they cover, whose TTL each of them has (RFC 4034 §3).
fn kind_of_set(body: &[u8], ttl_at: usize) -> (Option<u32>, Option<u16>) {
    let is_signature = read_u16(body, ttl_at - 4) == Some(rtype::RRSIG);
    let covered = if is_signature { read_u16(body, ttl_at + 6) } else { None };
    (read_u32(body, ttl_at - 4), covered)
}

fn ttl(body: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([body[at], body[at + 1], body[at + 2], body[at + 3]])
}

fn set_ttl(body: &mut [u8], at: usize, ttl: u32) {
    body[at..at + 4].copy_from_slice(&ttl.to_be_bytes());
}

/// Where the record ends whose TTL is at `ttl_at`.
fn end(body: &[u8], ttl_at: usize) -> usize {
    ttl_at + 6 + usize::from(u16::from_be_bytes([body[ttl_at + 4], body[ttl_at + 5]]))
}
