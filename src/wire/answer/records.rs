//! The walk over a reply's records: each is read, checked, and written anew behind the question, in one pass.

use super::Offset;
use super::lifetime::Ttls;
use super::malformed::{Flaw, Found};
use super::names::{Name, Source};
use super::rdata::{Layout, Rest, layout};
use super::writer::{Form, Writer};
use crate::wire::name::skip_name;
use crate::wire::{MAX_MESSAGE, read_u16, read_u32, rtype};

/// The records written so far, and what was learnt from them.
pub(super) struct Records<'a> {
    pub(super) writer: Writer<'a>,
    /// Records in each section.
    pub(super) counts: [u16; 3],
    /// Where in the body each record's TTL stands.
    pub(super) ttl_at: Vec<Offset>,
    /// What is known of the TTLs.
    pub(super) ttls: Ttls,
    /// What the OPT record says, once it was met.
    pub(super) opt: Option<Opt>,
    /// A record of the type asked is in the answer section.
    pub(super) is_answered: bool,
    qtype: u16,
    /// Room for the name at work.
    name: Name,
    /// Labels read so far.
    labels: usize,
    /// The last pointer that was an owner, where it points in the source, and where in what is written.
    last_owner: Option<(usize, u16)>,
}

/// What of a reply's OPT record matters (RFC 6891 §6.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Opt {
    /// The upper 8 of the 12 bits of the rcode.
    pub(super) rcode_high: u8,
    /// The answer may be for the clients of one subnet.
    pub(super) is_scoped: bool,
}

impl<'a> Records<'a> {
    /// None yet, behind the head of `writer`.
    pub(super) fn new(writer: Writer<'a>, capacity: usize) -> Self {
        let qtype = writer.head.qtype();
        Self {
            writer,
            counts: [0; 3],
            ttl_at: Vec::with_capacity(capacity),
            ttls: Ttls::default(),
            opt: None,
            is_answered: false,
            qtype,
            name: Name::root(),
            labels: 0,
            last_owner: None,
        }
    }

    /// Reads the record at `at` and writes it to the section numbered `section`; the position behind it.
    pub(super) fn push(
        &mut self,
        source: Source<'_>,
        at: usize,
        section: usize,
    ) -> Result<usize, RecordError> {
        if section == ADDITIONAL
            && let Some(end) = self.take_out(source, at)?
        {
            return Ok(end);
        }
        let fixed_at = self.owner(source, at)?;
        let Fixed { rtype, ttl: read, end } = Fixed::read(source, fixed_at)?;
        match rtype {
            // RFC 6895 §3.1: what these stand for in a question is no record.
            0 | rtype::IXFR | rtype::AXFR | rtype::ANY => {
                return Err((fixed_at, Flaw::NotARecord(rtype)).into());
            }
            rtype::OPT | rtype::TSIG => return Err((fixed_at, Flaw::Misplaced(rtype)).into()),
            _ => {}
        }
        let ttl_at = self.writer.body.len() + 4;
        self.rdata(source, rtype, fixed_at, end)?;
        let ttl = if read > i32::MAX as u32 { 0 } else { read };
        if ttl != read {
            self.writer.body[ttl_at..ttl_at + 4].copy_from_slice(&ttl.to_be_bytes());
        }
        if self.writer.len() > MAX_MESSAGE {
            return Err(RecordError::TooLarge);
        }
        self.ttls.note(section, ttl);
        if section == ANSWER {
            self.is_answered |= rtype == self.qtype || self.qtype == rtype::ANY;
        }
        if section == AUTHORITY && rtype == rtype::SOA {
            let minimum = read_u32(&self.writer.body, self.writer.body.len() - 4).unwrap_or(0);
            self.ttls.note_soa(self.ttl_at.len(), minimum);
        }
        self.ttl_at.push((ttl_at as u16).to_ne_bytes());
        self.counts[section] += 1;
        Ok(end)
    }

    /// Reads the name at `at`; the position behind it.
    fn name(&mut self, source: Source<'_>, at: usize) -> Result<usize, Found> {
        let behind = self.name.read(source, &self.writer.head, at)?;
        self.labels += self.name.labels;
        if self.labels > MAX_LABELS_READ {
            return Err((at, Flaw::Labels(MAX_LABELS_READ)));
        }
        Ok(behind)
    }

    /// Reads the owner at `at` and writes it; the position behind it.
    fn owner(&mut self, source: Source<'_>, at: usize) -> Result<usize, Found> {
        let target = source.pointer(at);
        // Most owners are the question's name or a zone above it, or the owner before: nothing to decompress.
        if let Some(target) = target.filter(|&target| target >= source.first_target) {
            if self.writer.head.has_label_at(target) {
                self.writer.pointer(target as u16);
                return Ok(at + 2);
            }
            if let Some((_, known)) = self.last_owner.filter(|&(last, _)| last == target) {
                self.writer.pointer(known);
                return Ok(at + 2);
            }
        }
        let behind = self.name(source, at)?;
        let known = self.writer.name(&self.name, Form::Owner);
        if let (Some(target), Some(known)) = (target, known) {
            self.last_owner = Some((target, known));
        }
        Ok(behind)
    }

    /// Writes a record from its type on, which is read at `fixed_at`, to the end of its data.
    fn rdata(&mut self, source: Source<'_>, rtype: u16, fixed_at: usize, end: usize) -> Result<(), Found> {
        let rdata_at = fixed_at + FIXED_LEN;
        let flaw = |expected| (rdata_at, Flaw::Rdata { rtype, expected });
        let layout = match layout(rtype) {
            Layout::Names(layout) => layout,
            Layout::Bytes(len, expected) if end - rdata_at != len => return Err(flaw(expected)),
            Layout::Strings if !is_strings(&source.bytes[rdata_at..end]) => {
                return Err(flaw("one character-string or more"));
            }
            Layout::Opaque | Layout::Bytes(..) | Layout::Strings => {
                self.writer.body.extend_from_slice(&source.bytes[fixed_at..end]);
                return Ok(());
            }
        };
        let flaw = || flaw(layout.expected);
        let mut at = rdata_at + layout.fixed;
        for _ in 0..layout.strings {
            at += 1 + usize::from(*source.bytes.get(at).ok_or_else(flaw)?);
        }
        self.writer.body.extend_from_slice(source.bytes.get(fixed_at..at).ok_or_else(flaw)?);
        let written_at = self.writer.body.len() - (at - rdata_at);
        for _ in 0..layout.names {
            if at >= end {
                return Err(flaw());
            }
            at = self.name(source, at)?;
            self.writer.name(&self.name, if layout.compressed { Form::Data } else { Form::Full });
        }
        let rest = source.bytes.get(at..end).ok_or_else(flaw)?;
        if matches!(layout.rest, Rest::Bytes(len) if len != rest.len()) {
            return Err(flaw());
        }
        self.writer.body.extend_from_slice(rest);
        let len = self.writer.body.len() - written_at;
        let Ok(len) = u16::try_from(len) else { return Err(flaw()) };
        self.writer.body[written_at - 2..written_at].copy_from_slice(&len.to_be_bytes());
        Ok(())
    }

    /// Takes out of the additional section what is of the hop and not of the answer; the position behind it.
    fn take_out(&mut self, source: Source<'_>, at: usize) -> Result<Option<usize>, Found> {
        let fixed_at = skip_name(source.bytes, at).map_err(|error| (at, error.into()))?;
        if !matches!(read_u16(source.bytes, fixed_at), Some(rtype::OPT | rtype::TSIG | rtype::SIG)) {
            return Ok(None);
        }
        self.name(source, at)?;
        let Fixed { rtype, ttl, end } = Fixed::read(source, fixed_at)?;
        // SIG(0) is a signature over the hop (RFC 2931 §3), as TSIG is.
        if rtype == rtype::OPT {
            if self.opt.is_some() || !self.name.is_root() {
                return Err((at, Flaw::Opt));
            }
            let is_scoped = is_scoped(&source.bytes[fixed_at + FIXED_LEN..end]);
            self.opt = Some(Opt { rcode_high: (ttl >> 24) as u8, is_scoped });
        }
        Ok(Some(end))
    }
}

/// Why a record is not written.
#[derive(Debug, Clone, Copy)]
pub(super) enum RecordError {
    /// It is malformed.
    Malformed(Found),
    /// A message would be too long with it.
    TooLarge,
}

impl From<Found> for RecordError {
    fn from(found: Found) -> Self {
        Self::Malformed(found)
    }
}

const ANSWER: usize = 0;
const AUTHORITY: usize = 1;
const ADDITIONAL: usize = 2;

/// Bytes of a record between its owner and its data: type, class, TTL and length (RFC 1035 §4.1.3).
const FIXED_LEN: usize = 10;

/// Most labels in the names of all records: 48 for each record that a message has room for. Through compression pointers it could
/// have six times as many, and cost 50 ms.
const MAX_LABELS_READ: usize = 4 * (MAX_MESSAGE + 1);

/// What stands between a record's owner and its data.
struct Fixed {
    rtype: u16,
    ttl: u32,
    /// Where the record's data ends.
    end: usize,
}

impl Fixed {
    #[inline]
    fn read(source: Source<'_>, at: usize) -> Result<Self, Found> {
        let fixed: Option<&[u8; FIXED_LEN]> = source.bytes.get(at..).and_then(<[u8]>::first_chunk);
        let Some(&[t0, t1, _, _, ttl @ .., l0, l1]) = fixed else {
            return Err((at, Flaw::Ends("a record's type, class, TTL and length")));
        };
        let end = at + FIXED_LEN + usize::from(u16::from_be_bytes([l0, l1]));
        if end > source.bytes.len() {
            return Err((at + 8, Flaw::Ends("as many bytes of data as this says")));
        }
        Ok(Self { rtype: u16::from_be_bytes([t0, t1]), ttl: u32::from_be_bytes(ttl), end })
    }
}

/// Whether `data` is one character-string or more (RFC 1035 §3.3).
fn is_strings(data: &[u8]) -> bool {
    let mut at = 0;
    while let Some(&len) = data.get(at) {
        at += 1 + usize::from(len);
    }
    at == data.len() && at > 0
}

/// Whether among an OPT record's options is a client subnet with a scope (RFC 7871 §7.2.1), or may be: options that run past
/// their end say nothing for sure.
fn is_scoped(mut options: &[u8]) -> bool {
    const CLIENT_SUBNET: u16 = 8;
    while !options.is_empty() {
        let (Some(code), Some(len)) = (read_u16(options, 0), read_u16(options, 2)) else { return true };
        let Some((option, rest)) = options[4..].split_at_checked(usize::from(len)) else { return true };
        if code == CLIENT_SUBNET && option.get(3).is_none_or(|&scope| scope > 0) {
            return true;
        }
        options = rest;
    }
    false
}
