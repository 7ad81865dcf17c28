//! What a client must get for an upstream's reply, worked out from the reply as hickory-proto reads it: a second
//! reading of the rules of RFC 2181 §5.2 and §8, RFC 2308 §5, RFC 3597 §4 and RFC 4034 §3, written for plainness and not for speed.

use hickory_proto::op::{Header, Metadata, Query};
use hickory_proto::rr::rdata::NULL;
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder, Restrict};
use nodens::wire::HEADER_LEN;
use nodens::wire::name::plain_name_len;

/// Three sections of records.
pub(crate) type Sections = [Vec<Record>; 3];

/// A message, read with hickory-proto's means.
pub(crate) struct Reading {
    pub(crate) metadata: Metadata,
    /// 12 bits.
    pub(crate) rcode: u16,
    pub(crate) qtype: RecordType,
    /// Without OPT, and without signatures over the hop.
    pub(crate) sections: Sections,
    pub(crate) has_edns: bool,
}

/// Reads a message as hickory-proto does, but for the data of the types that [`data`] reads otherwise.
pub(crate) fn read(message: &[u8]) -> Option<Reading> {
    let mut decoder = BinDecoder::new(message);
    let header = Header::read(&mut decoder).ok()?;
    let query = Query::read(&mut decoder).ok().filter(|_| header.counts.queries == 1)?;
    let mut rcode = u16::from(header.metadata.response_code);
    let mut has_edns = false;
    let counts = [header.counts.answers, header.counts.authorities, header.counts.additionals];
    let mut sections = Sections::default();
    for (section, count) in counts.into_iter().enumerate() {
        for _ in 0..count {
            let name = Name::read(&mut decoder).ok()?;
            let rtype = RecordType::read(&mut decoder).ok()?;
            let class = decoder.read_u16().ok()?.unverified();
            let ttl = decoder.read_u32().ok()?.unverified();
            let len = decoder.read_u16().ok()?.unverified();
            let data_at = u16::try_from(decoder.index()).ok()?;
            decoder.read_slice(usize::from(len)).ok()?;
            if matches!(u16::from(rtype), 41 | 250) && section != 2 {
                return None;
            }
            if rtype == RecordType::OPT {
                if has_edns || !name.is_root() {
                    return None;
                }
                rcode |= (ttl >> 24 << 4) as u16;
                has_edns = true;
                continue;
            }
            // Signatures over the hop: SIG(0) and TSIG.
            if section == 2 && matches!(u16::from(rtype), 24 | 250) {
                continue;
            }
            let data = data(decoder.clone(data_at), rtype, len)?;
            let mut record = Record::from_rdata(name, ttl, data);
            record.dns_class = DNSClass::from(class);
            sections[section].push(record);
        }
    }
    Some(Reading { metadata: header.metadata, rcode, qtype: query.query_type(), sections, has_edns })
}

/// Reads data of `len` bytes.
///
/// Types that RFC 3597 §4 names, and of which hickory-proto knows the bytes only, have their names decompressed. Types without
/// compressed names are their bytes: hickory-proto refuses some that are not as it knows them, a cache passes them on.
fn data(mut decoder: BinDecoder<'_>, rtype: RecordType, len: u16) -> Option<RData> {
    let end = decoder.index() + usize::from(len);
    // Bytes before the names, character-strings behind those, names, and whether anything may follow.
    let (fixed, strings, names, rest) = match u16::from(rtype) {
        // A, NS, CNAME, SOA, PTR, MX, TXT, AAAA, SRV.
        1 | 2 | 5 | 6 | 12 | 15 | 16 | 28 | 33 => {
            return RData::read(&mut decoder, rtype, Restrict::new(len)).ok().filter(|_| len > 0);
        }
        // No such records.
        0 | 251 | 252 | 255 => return None,
        // MD, MF, MB, MG, MR; DNAME.
        3 | 4 | 7 | 8 | 9 | 39 => (0, 0, 1, false),
        // MINFO, RP.
        14 | 17 => (0, 0, 2, false),
        // AFSDB, RT, KX.
        18 | 21 | 36 => (2, 0, 1, false),
        // SIG, RRSIG.
        24 | 46 => (18, 0, 1, true),
        // PX.
        26 => (2, 0, 2, false),
        // NXT, NSEC.
        30 | 47 => (0, 0, 1, true),
        // NAPTR.
        35 => (4, 3, 1, false),
        // SVCB, HTTPS.
        64 | 65 => (2, 0, 1, true),
        _ => (0, 0, 0, true),
    };
    let mut bytes = decoder.read_vec(fixed.min(usize::from(len))).ok()?.unverified();
    for _ in 0..strings {
        let string = decoder.read_character_data().ok()?.unverified();
        bytes.push(string.len() as u8);
        bytes.extend_from_slice(string);
    }
    for _ in 0..names {
        let name = Name::read(&mut decoder).ok()?;
        for label in &name {
            bytes.push(label.len() as u8);
            bytes.extend_from_slice(label);
        }
        bytes.push(0);
    }
    let left = end.checked_sub(decoder.index()).filter(|&left| rest || left == 0)?;
    bytes.extend_from_slice(decoder.read_slice(left).ok()?.unverified());
    let rdata = if bytes.is_empty() { NULL::new() } else { NULL::with(bytes) };
    Some(RData::Unknown { code: rtype, rdata })
}

/// The records of an upstream's reply as they must be kept, and for how long the answer lives, in seconds.
///
/// `None` where that is not to be told from the records alone: the reply is none that is cached.
pub(crate) fn expected(reply: &[u8]) -> Option<(Sections, u32)> {
    let Reading { rcode, qtype, mut sections, .. } = read(reply)?;
    for section in &mut sections {
        for record in section.iter_mut() {
            if record.ttl >> 31 != 0 {
                record.ttl = 0;
            }
        }
        let before = section.clone();
        if before.windows(2).all(|pair| pair[0].ttl == pair[1].ttl) {
            continue;
        }
        for record in section.iter_mut() {
            let set = before.iter().filter(|other| {
                other.name == record.name
                    && other.record_type() == record.record_type()
                    && other.dns_class == record.dns_class
                    && covered(other) == covered(record)
            });
            record.ttl = set.map(|other| other.ttl).min()?;
        }
    }
    let any = hickory_proto::rr::RecordType::ANY;
    let positive = rcode == 0 && sections[0].iter().any(|r| qtype == any || r.record_type() == qtype);
    let smallest = |sections: &[Vec<Record>]| sections.iter().flatten().map(|record| record.ttl).min();
    let lifetime = if positive {
        smallest(&sections)?
    } else if matches!(rcode, 0 | 3) {
        let soa = sections[1].iter_mut().find_map(|record| match &record.data {
            RData::SOA(soa) => Some((soa.minimum, &mut record.ttl)),
            _ => None,
        });
        if let Some((minimum, ttl)) = soa {
            *ttl = minimum.min(*ttl);
            smallest(&sections[..2])?
        } else {
            0
        }
    } else {
        0
    };
    Some((sections, lifetime))
}

/// The type that a signature covers: those of one owner are RRsets by it (RFC 4034 §3).
fn covered(record: &Record) -> Option<[u8; 2]> {
    match &record.data {
        RData::Unknown { code: RecordType::RRSIG, rdata } => rdata.anything.first_chunk().copied(),
        _ => None,
    }
}

/// A header with id 0x1234 and RD, and the reply's question as a client writes it: without compression.
///
/// `None` where the question is compressed: such a reply matches no query.
pub(crate) fn head_of(reply: &[u8], flags: u16) -> Option<Vec<u8>> {
    let question = reply.get(HEADER_LEN..)?;
    let end = plain_name_len(question).ok()? + 4;
    let mut head = vec![0x12, 0x34];
    head.extend_from_slice(&flags.to_be_bytes());
    head.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
    head.extend_from_slice(question.get(..end)?);
    Some(head)
}

/// Asserts that `got` are the records `kept`, each TTL less `age`.
pub(crate) fn assert_aged(got: &[Record], kept: &[Record], age: u32) {
    assert_eq!(got.len(), kept.len(), "as many records");
    for (got, kept) in got.iter().zip(kept) {
        assert_eq!(got.name, kept.name);
        assert_eq!(got.record_type(), kept.record_type(), "{}", kept.name);
        assert_eq!(got.dns_class, kept.dns_class, "{}", kept.name);
        assert_eq!(got.data, kept.data, "{}", kept.name);
        // That is whatever the letters; they stay as upstream sent them.
        assert_eq!(got.data.to_string(), kept.data.to_string(), "{}", kept.name);
        assert_eq!(got.ttl, kept.ttl.saturating_sub(age), "TTL of {} {}", kept.name, kept.record_type());
    }
}
