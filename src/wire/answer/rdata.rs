//! Which types of records have names in their data, and where.
//!
//! Names that the types of RFC 1035 have are compressed; a receiver decompresses them in some more types, since peers compressed
//! them there, and never compresses them (RFC 3597 §4). The data of every other type is opaque.

/// What the data of a type of records is made of.
#[derive(Debug, Clone, Copy)]
pub(super) enum Layout {
    /// Any bytes, or none.
    Opaque,
    /// So many bytes.
    Bytes(usize, &'static str),
    /// One character-string or more.
    Strings,
    /// Names, and what stands around them.
    Names(Named),
}

/// Data with names in it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Named {
    /// Bytes before everything.
    pub(super) fixed: usize,
    /// Character-strings behind them.
    pub(super) strings: u8,
    /// Names behind those.
    pub(super) names: u8,
    /// What stands behind the names.
    pub(super) rest: Rest,
    /// Whether the names may be written compressed.
    pub(super) compressed: bool,
    /// All of it in words.
    pub(super) expected: &'static str,
}

/// What stands behind the names.
#[derive(Debug, Clone, Copy)]
pub(super) enum Rest {
    /// So many bytes.
    Bytes(usize),
    /// Any bytes, or none.
    Any,
}

/// Data of a type, named in [`layout`].
const fn names(fixed: usize, names: u8, expected: &'static str) -> Named {
    Named { fixed, strings: 0, names, rest: Rest::Bytes(0), compressed: false, expected }
}

/// What the data of the type `rtype` is made of.
pub(super) const fn layout(rtype: u16) -> Layout {
    const ONE: Named = names(0, 1, "a name");
    const TWO: Named = names(0, 2, "two names");
    const PREFERENCE: Named = names(2, 1, "two bytes and a name");
    match rtype {
        A => Layout::Bytes(4, "an address of 4 bytes"),
        AAAA => Layout::Bytes(16, "an address of 16 bytes"),
        TXT => Layout::Strings,
        NS | MD | MF | CNAME | MB | MG | MR | PTR => Layout::Names(Named { compressed: true, ..ONE }),
        SOA => Layout::Names(Named {
            compressed: true,
            rest: Rest::Bytes(20),
            ..names(0, 2, "two names and five numbers of 4 bytes")
        }),
        MINFO => Layout::Names(Named { compressed: true, ..TWO }),
        MX => Layout::Names(Named { compressed: true, ..PREFERENCE }),
        RP => Layout::Names(TWO),
        AFSDB | RT | KX => Layout::Names(PREFERENCE),
        PX => Layout::Names(names(2, 2, "two bytes and two names")),
        SIG | RRSIG => Layout::Names(Named {
            rest: Rest::Any,
            ..names(18, 1, "18 bytes, the signer's name and a signature")
        }),
        NXT | NSEC => {
            Layout::Names(Named { rest: Rest::Any, ..names(0, 1, "the next name and a bitmap of types") })
        }
        SRV => Layout::Names(names(6, 1, "three numbers of 2 bytes and a name")),
        NAPTR => Layout::Names(Named {
            strings: 3,
            ..names(4, 1, "two numbers of 2 bytes, three character-strings and a name")
        }),
        DNAME => Layout::Names(ONE),
        // Not to be compressed (RFC 9460 §2.2), and read so by all but the strictest nevertheless.
        SVCB | HTTPS => Layout::Names(Named {
            rest: Rest::Any,
            ..names(2, 1, "a number of 2 bytes, a name and parameters")
        }),
        _ => Layout::Opaque,
    }
}

use crate::wire::rtype::{A, AAAA, CNAME, DNAME, NS, PTR, RRSIG, SIG, SOA};

const MD: u16 = 3;
const MF: u16 = 4;
const MB: u16 = 7;
const MG: u16 = 8;
const MR: u16 = 9;
const MINFO: u16 = 14;
const MX: u16 = 15;
const TXT: u16 = 16;
const RP: u16 = 17;
const AFSDB: u16 = 18;
const RT: u16 = 21;
const PX: u16 = 26;
const NXT: u16 = 30;
const SRV: u16 = 33;
const NAPTR: u16 = 35;
const KX: u16 = 36;
const NSEC: u16 = 47;
const SVCB: u16 = 64;
const HTTPS: u16 = 65;
