//! The closed sets a label's value comes from, each with its index into the counters.

pub use crate::wire::answer::Kind;

/// Transport of a client's query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the two transports")]
pub enum Proto {
    Udp,
    Tcp,
}

/// Where an answer came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// The worker's own table.
    Near,
    /// The store all workers share.
    Store,
    /// The store, past its TTL (RFC 8767).
    Stale,
    /// An upstream, just now.
    Upstream,
    /// A local zone, hosts, a fixed answer or a special-use name.
    Local,
    /// Nobody: every upstream failed, or the query was wrong (FORMERR, NOTIMP, BADVERS).
    Failure,
    /// Nobody: the query was turned away, see [`ShedReason`].
    Shed,
}

/// Why a message got no answer at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// Too short for a DNS header, or nothing in it to answer.
    Malformed,
    /// Its QR bit says it is a response itself.
    Response,
    /// Sent from port 0, where nobody can be answered.
    Port,
    /// The kernel took no answer: a full socket buffer, an unreachable client.
    Send,
    /// Longer than the receive buffer.
    Oversize,
    /// A TCP client left, or read too slowly, before its answer was written.
    Gone,
    /// Still unanswered when the drain time was over.
    Drain,
}

/// Why a query was turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ShedReason {
    /// The channel from a worker to the miss path was full.
    Queue,
    /// `limits.in_flight` was reached.
    InFlight,
    /// One client had its `limits.client_share` of what may be in flight.
    ClientShare,
    /// `limits.waiters` already waited for the same question.
    Waiters,
    /// `listen.tcp.max_connections` was reached: the connection was closed.
    TcpConnections,
    /// `listen.tcp.max_connections_per_client` was reached: the connection was closed.
    TcpClient,
}

/// Source, rcode and kind of an answer as one number, so that counting it is one index.
/// A cache may keep it beside the entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Outcome(u8);

impl Outcome {
    /// How many there are; [`Outcome::index`] is below it.
    pub const COUNT: usize = Source::ALL.len().next_power_of_two() * RCODES;

    /// The outcome of an answer with this rcode (12 bits, RFC 6891 §6.1.3). `kind` only decides whether NOERROR is an
    /// answer or NODATA.
    #[inline]
    pub const fn new(source: Source, rcode: u16, kind: Kind) -> Self {
        let slot = match rcode {
            0 if matches!(kind, Kind::NoData) => NODATA,
            code @ 0..=10 => code as u8,
            16 => 11,
            _ => 12,
        };
        Self(source as u8 * RCODES as u8 + slot)
    }

    /// The same answer from another source.
    #[inline]
    #[must_use]
    pub const fn from_source(self, source: Source) -> Self {
        Self(source as u8 * RCODES as u8 + self.0 % RCODES as u8)
    }

    /// An index below [`Outcome::COUNT`].
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize % Self::COUNT
    }

    /// Every outcome there is.
    pub fn all() -> impl Iterator<Item = Self> {
        Source::ALL.iter().flat_map(|source| {
            (0..RCODE_NAMES.len() as u8).map(|slot| Self(*source as u8 * RCODES as u8 + slot))
        })
    }

    /// Where the answer came from.
    pub fn source(self) -> Source {
        Source::ALL[usize::from(self.0) / RCODES]
    }

    /// What it is to a cache.
    pub fn kind(self) -> Kind {
        match self.0 % RCODES as u8 {
            0 => Kind::Positive,
            3 => Kind::NxDomain,
            NODATA => Kind::NoData,
            _ => Kind::Failure,
        }
    }

    /// The rcode's mnemonic (IANA DNS RCODEs); those without a counter of their own are `other`.
    pub fn rcode(self) -> &'static str {
        RCODE_NAMES[usize::from(self.0) % RCODES]
    }
}

/// A query type's index below [`TYPES`]: CoreDNS's set, everything else shares one.
#[inline]
pub const fn type_slot(qtype: u16) -> usize {
    if qtype < 256 { TYPE_SLOTS[qtype as usize] as usize } else { 0 }
}

/// The type label of an index, `other` for 0.
pub fn type_name(slot: usize) -> &'static str {
    TYPE_NAMES.get(slot).map_or("other", |(_, name)| name)
}

/// The indexes that are in use.
pub fn type_slots() -> std::ops::Range<usize> {
    0..TYPE_NAMES.len()
}

macro_rules! labelled {
    ($type:ident { $($variant:ident => $label:literal),+ $(,)? }) => {
        impl $type {
            /// All of them, in index order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The label's value.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label),+ }
            }
        }
    };
}

labelled!(Proto { Udp => "udp", Tcp => "tcp" });
labelled!(Source {
    Near => "near",
    Store => "store",
    Stale => "stale",
    Upstream => "upstream",
    Local => "local",
    Failure => "failure",
    Shed => "shed",
});
labelled!(Kind { Positive => "positive", NxDomain => "nxdomain", NoData => "nodata", Failure => "failure" });
labelled!(DropReason {
    Malformed => "malformed",
    Response => "response",
    Port => "port",
    Send => "send",
    Oversize => "oversize",
    Gone => "gone",
    Drain => "drain",
});
labelled!(ShedReason {
    Queue => "queue",
    InFlight => "in_flight",
    ClientShare => "client_share",
    Waiters => "waiters",
    TcpConnections => "tcp_connections",
    TcpClient => "tcp_client",
});

/// Room for one source's rcodes in [`Outcome`].
const RCODES: usize = 16;

/// The slot of NOERROR without records.
const NODATA: u8 = 13;

/// Slots 0 to 10 are the rcodes themselves; NODATA goes out as NOERROR.
const RCODE_NAMES: [&str; 14] = [
    "NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "YXDOMAIN", "YXRRSET", "NXRRSET",
    "NOTAUTH", "NOTZONE", "BADVERS", "other", "NOERROR",
];

/// Room for query types in a zone's counters.
pub const TYPES: usize = 32;

/// The types CoreDNS counts by name (its `monitorType`), with SVCB beside HTTPS.
const TYPE_NAMES: [(u16, &str); 20] = [
    (0, "other"),
    (1, "A"),
    (28, "AAAA"),
    (15, "MX"),
    (6, "SOA"),
    (5, "CNAME"),
    (12, "PTR"),
    (16, "TXT"),
    (2, "NS"),
    (33, "SRV"),
    (43, "DS"),
    (48, "DNSKEY"),
    (46, "RRSIG"),
    (47, "NSEC"),
    (50, "NSEC3"),
    (65, "HTTPS"),
    (64, "SVCB"),
    (255, "ANY"),
    (252, "AXFR"),
    (251, "IXFR"),
];

static TYPE_SLOTS: [u8; 256] = {
    let mut slots = [0; 256];
    let mut slot = 1;
    while slot < TYPE_NAMES.len() {
        slots[TYPE_NAMES[slot].0 as usize] = slot as u8;
        slot += 1;
    }
    slots
};

const _: () = assert!(TYPE_NAMES.len() <= TYPES && RCODE_NAMES.len() <= RCODES);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_gives_back_what_it_was_made_of() {
        for &source in Source::ALL {
            let cases = [
                (0, Kind::Positive, "NOERROR"),
                (0, Kind::NoData, "NOERROR"),
                (2, Kind::Failure, "SERVFAIL"),
                (3, Kind::NxDomain, "NXDOMAIN"),
                (5, Kind::Failure, "REFUSED"),
                (10, Kind::Failure, "NOTZONE"),
                (16, Kind::Failure, "BADVERS"),
                (23, Kind::Failure, "other"),
                (4095, Kind::Failure, "other"),
            ];
            for (rcode, kind, name) in cases {
                let outcome = Outcome::new(source, rcode, kind);
                assert_eq!((outcome.source(), outcome.kind(), outcome.rcode()), (source, kind, name));
                assert_eq!(outcome, Outcome::new(Source::Shed, rcode, kind).from_source(source));
                assert_eq!(outcome.index(), usize::from(outcome.0), "no two share a counter");
            }
        }
        assert_eq!(Outcome::all().count(), Source::ALL.len() * RCODE_NAMES.len());
    }

    #[test]
    fn every_type_has_its_name_and_the_rest_is_other() {
        for (qtype, name) in TYPE_NAMES {
            assert_eq!(type_name(type_slot(qtype)), name);
        }
        for qtype in [0, 3, 99, 256, 257, u16::MAX] {
            assert_eq!(type_name(type_slot(qtype)), "other");
        }
    }

    #[test]
    fn the_enums_are_in_index_order() {
        assert!(Source::ALL.iter().enumerate().all(|(index, source)| *source as usize == index));
        assert!(DropReason::ALL.iter().enumerate().all(|(index, reason)| *reason as usize == index));
        assert!(ShedReason::ALL.iter().enumerate().all(|(index, reason)| *reason as usize == index));
    }
}
