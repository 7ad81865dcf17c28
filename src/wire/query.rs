//! A client's query, viewed where it was received.

use super::name::plain_name_len;
use super::{HEADER_LEN, MIN_UDP_PAYLOAD, flags, rcode, read_u16, rtype};

/// A query that can be answered: one question, sound records, EDNS version 0 or none.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    packet: &'a [u8],
    facts: Facts,
}

/// What was found in a query's packet, without the packet: it can be kept while the packet is written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Bytes of header and question.
    pub head_len: u16,
    /// The header's flags.
    pub flags: u16,
    /// The type asked.
    pub qtype: u16,
    /// The class asked.
    pub qclass: u16,
    /// The client's OPT.
    pub edns: Option<Edns>,
}

/// What of a client's OPT record matters for its answer (RFC 6891 §6.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edns {
    /// Largest UDP reply the client takes, in bytes; at least 512 (RFC 6891 §6.2.3).
    pub udp_payload: u16,
    /// The DO bit (RFC 3225).
    pub dnssec_ok: bool,
    /// The client sent edns-tcp-keepalive (RFC 7828).
    pub keepalive: bool,
}

/// Why a packet is not a [`Query`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    /// Nothing may be answered.
    Ignore(Ignored),
    /// Answered with an error, and with the question where `head_len` covers it.
    Answer {
        /// The response code, 12 bits (RFC 6891 §6.1.3).
        rcode: u16,
        /// How much of the packet goes back: 12 without the question, more with it.
        head_len: usize,
        /// What the client's OPT says, if it sent one that can be read: then one goes back (RFC 6891 §6.1.1).
        edns: Option<Edns>,
    },
}

/// Why a packet gets no answer at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ignored {
    /// Shorter than a header.
    Short,
    /// A response (QR=1): answering those makes loops.
    Response,
}

impl<'a> Query<'a> {
    /// Views `packet` as a query.
    ///
    /// Records behind the question are walked, so that a second OPT, an OPT out of place, a signature or a broken
    /// record is seen. Bytes behind the last record are ignored.
    #[inline]
    pub fn parse(packet: &'a [u8]) -> Result<Self, Rejection> {
        let Some(header) = packet.first_chunk::<HEADER_LEN>() else {
            return Err(Rejection::Ignore(Ignored::Short));
        };
        let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let query_flags = word(2);
        if query_flags & flags::QR != 0 {
            return Err(Rejection::Ignore(Ignored::Response));
        }
        if query_flags & flags::OPCODE != 0 {
            return Err(Rejection::bare(rcode::NOTIMP, packet));
        }
        if word(4) != 1 {
            return Err(Rejection::bare(rcode::FORMERR, packet));
        }
        let name_len =
            plain_name_len(&packet[HEADER_LEN..]).map_err(|_| Rejection::bare(rcode::FORMERR, packet))?;
        let name_end = HEADER_LEN + name_len;
        let Some(&[t0, t1, c0, c1]) = packet[name_end..].first_chunk() else {
            return Err(Rejection::bare(rcode::FORMERR, packet));
        };
        let mut facts = Facts {
            // At most a header, 255 bytes of name, type and class.
            head_len: (name_end + 4) as u16,
            flags: query_flags,
            qtype: u16::from_be_bytes([t0, t1]),
            qclass: u16::from_be_bytes([c0, c1]),
            edns: None,
        };
        let records = Records::of(header);
        if records != (Records { answers: 0, authorities: 0, additionals: 0 }) {
            facts.edns = records.edns(packet, name_end + 4)?;
        }
        // A question for a pseudo-record (RFC 6895 §3.1) or a zone transfer is nothing a cache can answer.
        match facts.qtype {
            0 | rtype::OPT | rtype::TKEY | rtype::TSIG => Err(facts.rejected(rcode::FORMERR)),
            rtype::AXFR | rtype::IXFR => Err(facts.rejected(rcode::REFUSED)),
            _ => Ok(Self { packet, facts }),
        }
    }

    /// The query again that `facts` were found in.
    ///
    /// # Panics
    /// If `packet` is shorter than its head was. Another packet of that length gives another query's name.
    #[inline]
    pub fn again(packet: &'a [u8], facts: Facts) -> Self {
        assert!(usize::from(facts.head_len) <= packet.len(), "the packet that was parsed");
        Self { packet, facts }
    }

    /// What was found in the packet.
    #[inline]
    pub fn facts(&self) -> Facts {
        self.facts
    }

    /// Header and question as the client sent them: what comes back to it, flipped.
    pub fn head(&self) -> &'a [u8] {
        &self.packet[..usize::from(self.facts.head_len)]
    }

    /// Bytes of the whole packet.
    pub fn packet_len(&self) -> usize {
        self.packet.len()
    }

    /// The name in wire form, letters as the client sent them.
    #[inline]
    pub fn name(&self) -> &'a [u8] {
        &self.packet[HEADER_LEN..usize::from(self.facts.head_len) - 4]
    }

    /// The type asked.
    pub fn qtype(&self) -> u16 {
        self.facts.qtype
    }

    /// The class asked.
    pub fn qclass(&self) -> u16 {
        self.facts.qclass
    }

    /// The header's flags.
    pub fn flags(&self) -> u16 {
        self.facts.flags
    }

    /// What the client's OPT says, if it sent one.
    pub fn edns(&self) -> Option<Edns> {
        self.facts.edns
    }

    /// The DO bit.
    pub fn dnssec_ok(&self) -> bool {
        self.facts.dnssec_ok()
    }

    /// The CD bit.
    pub fn checking_disabled(&self) -> bool {
        self.facts.flags & flags::CD != 0
    }

    /// The RD bit.
    pub fn recursion_desired(&self) -> bool {
        self.facts.flags & flags::RD != 0
    }
}

impl Facts {
    /// The DO bit.
    #[inline]
    pub fn dnssec_ok(&self) -> bool {
        self.edns.is_some_and(|edns| edns.dnssec_ok)
    }

    /// The client understands AD in a reply: it set AD or DO (RFC 6840 §5.7, §5.8).
    #[inline]
    pub fn wants_authentic_data(&self) -> bool {
        self.flags & flags::AD != 0 || self.dnssec_ok()
    }

    fn rejected(&self, rcode: u16) -> Rejection {
        Rejection::Answer { rcode, head_len: usize::from(self.head_len), edns: self.edns }
    }
}

impl Rejection {
    /// An answer of the header alone, and an OPT if there is one behind whatever makes `packet` no query.
    #[cold]
    fn bare(rcode: u16, packet: &[u8]) -> Self {
        Self::Answer { rcode, head_len: HEADER_LEN, edns: find_edns(packet) }
    }
}

/// How many records the header announces behind the question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Records {
    answers: u16,
    authorities: u16,
    additionals: u16,
}

impl Records {
    fn of(header: &[u8; HEADER_LEN]) -> Self {
        let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        Self { answers: word(6), authorities: word(8), additionals: word(10) }
    }

    /// Walks the records; the one OPT among them, if any.
    fn edns(self, packet: &[u8], question_end: usize) -> Result<Option<Edns>, Rejection> {
        let mut at = question_end;
        let mut edns: Option<Edns> = None;
        let before = u32::from(self.answers) + u32::from(self.authorities);
        for index in 0..before + u32::from(self.additionals) {
            let formerr = Rejection::Answer { rcode: rcode::FORMERR, head_len: HEADER_LEN, edns };
            let unreadable = Rejection::Answer { rcode: rcode::FORMERR, head_len: HEADER_LEN, edns: None };
            let owner = at;
            at = super::name::skip_name(packet, at).map_err(|_| formerr)?;
            let fixed: &[u8; 10] = packet.get(at..).and_then(<[u8]>::first_chunk).ok_or(formerr)?;
            let rtype = u16::from_be_bytes([fixed[0], fixed[1]]);
            let rdata_len = usize::from(u16::from_be_bytes([fixed[8], fixed[9]]));
            let rdata = packet.get(at + 10..at + 10 + rdata_len).ok_or(formerr)?;
            match rtype {
                rtype::OPT => {
                    // RFC 6891 §6.1.1, §6.1.2: in the additional section, owned by the root, and only one.
                    if index < before || edns.is_some() || packet[owner] != 0 {
                        return Err(unreadable);
                    }
                    let udp_payload = u16::from_be_bytes([fixed[2], fixed[3]]).max(MIN_UDP_PAYLOAD);
                    let dnssec_ok = fixed[6] & 0x80 != 0;
                    if fixed[5] != 0 {
                        return Err(Rejection::Answer {
                            rcode: rcode::BADVERS,
                            head_len: question_end,
                            edns: Some(Edns { udp_payload, dnssec_ok, keepalive: false }),
                        });
                    }
                    let keepalive = has_keepalive(rdata).ok_or(unreadable)?;
                    edns = Some(Edns { udp_payload, dnssec_ok, keepalive });
                }
                // No key is shared with anyone (RFC 8945 §5.2): refused rather than answered unsigned.
                rtype::TSIG | rtype::SIG if index >= before => {
                    return Err(Rejection::Answer { rcode: rcode::REFUSED, head_len: question_end, edns });
                }
                _ => {}
            }
            at += 10 + rdata_len;
        }
        Ok(edns)
    }
}

/// The OPT of a packet that is no query: of an opcode that is not implemented, with no question, more than one or one that does
/// not read. What stands behind the questions reads the same for them all (RFC 6895 §2, RFC 2136 §2.2).
fn find_edns(packet: &[u8]) -> Option<Edns> {
    let header = packet.first_chunk()?;
    let mut at = HEADER_LEN;
    for _ in 0..read_u16(packet, 4)? {
        at = super::name::skip_name(packet, at).ok()? + 4;
    }
    match Records::of(header).edns(packet, at) {
        Ok(edns) | Err(Rejection::Answer { rcode: rcode::FORMERR | rcode::REFUSED, edns, .. }) => edns,
        // Of another version: the rcode that says so is not the one that goes out.
        Err(_) => None,
    }
}

/// Whether edns-tcp-keepalive is among the options; `None` if one runs past the end.
fn has_keepalive(mut options: &[u8]) -> Option<bool> {
    const KEEPALIVE: u16 = 11;
    let mut found = false;
    while !options.is_empty() {
        let code = read_u16(options, 0)?;
        let len = usize::from(read_u16(options, 2)?);
        options = options.get(4 + len..)?;
        found |= code == KEEPALIVE;
    }
    Some(found)
}
