//! What kind of query some bytes are, decided without any code of nodens': the rules stand here a second time, so that they
//! can disagree.

#![allow(dead_code, unreachable_pub, reason = "each test file includes this and uses its part")]

/// A query by its shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shape {
    /// One to be answered.
    Asked(Asked),
    /// One that is refused or ignored.
    Refused(Refusal),
}

/// A question that can be put to an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    question: Vec<u8>,
    /// In wire form, letters as sent.
    pub name: Vec<u8>,
    /// The type.
    pub qtype: u16,
    /// The class.
    pub qclass: u16,
    /// The header's second word.
    pub flags: u16,
    /// What the OPT offers, if there is one.
    pub payload: Option<u16>,
    /// The DO bit.
    pub dnssec_ok: bool,
}

/// Why a query is not answered from any upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Less than a header, or a response.
    Ignored,
    /// Another opcode than QUERY.
    Opcode,
    /// Not one question, or none that reads.
    Question,
    /// A record behind the question that does not read, or an OPT that is not as it must be.
    Records,
    /// An EDNS version above 0.
    Version,
    /// TSIG or SIG(0).
    Signed,
    /// A question for a type that is none.
    PseudoType,
    /// A zone transfer.
    Transfer,
}

impl Refusal {
    /// The rcode of nodens' reply; `None` where there is none.
    pub fn rcode(self) -> Option<u16> {
        match self {
            Self::Ignored => None,
            Self::Opcode => Some(4),
            Self::Question | Self::Records | Self::PseudoType => Some(1),
            Self::Version => Some(16),
            Self::Signed | Self::Transfer => Some(5),
        }
    }

    /// Why nsd may differ.
    pub fn against_nsd(self) -> &'static str {
        match self {
            Self::Ignored => "nsd: it answers what is shorter than a header or says QR",
            Self::Opcode => "nsd: it knows NOTIFY and refuses it; others it words otherwise",
            Self::Question => "nsd: it is stricter or laxer with QDCOUNT and the question",
            Self::Records => "nsd: it does not look at every record behind the question",
            Self::Version => "nsd: it does not look at the version where something else is wrong",
            Self::Signed => "nsd: it says NOTAUTH to a key it does not know, and ignores SIG(0)",
            Self::PseudoType => "nsd: it answers questions for types that cannot be asked for",
            Self::Transfer => "nsd: it answers or words the refusal of a transfer otherwise",
        }
    }

    /// Why unbound may differ.
    pub fn against_unbound(self) -> &'static str {
        match self {
            Self::Ignored => "unbound: it answers what is shorter than a header or says QR",
            Self::Opcode => "unbound: it words the refusal of an opcode otherwise",
            Self::Question => "unbound: it is silent, or laxer with QDCOUNT and the question",
            Self::Records => "unbound: it does not look at every record behind the question",
            Self::Version => "unbound: it does not look at the version where something else is wrong",
            Self::Signed => "unbound: it ignores signatures of queries, or is stricter with them",
            Self::PseudoType => "unbound: it refuses questions for types that cannot be asked for otherwise",
            Self::Transfer => "unbound: it words the refusal of a transfer otherwise",
        }
    }
}

impl Shape {
    /// The shape of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        match Self::parse(bytes) {
            Ok(asked) => Self::Asked(asked),
            Err(refusal) => Self::Refused(refusal),
        }
    }

    fn parse(bytes: &[u8]) -> Result<Asked, Refusal> {
        let word = |at: usize| bytes.get(at..at + 2).map(|word| u16::from_be_bytes([word[0], word[1]]));
        if bytes.len() < 12 {
            return Err(Refusal::Ignored);
        }
        let [flags, qdcount, ancount, nscount, arcount] = [2, 4, 6, 8, 10].map(|at| word(at).unwrap_or(0));
        if flags & 0x8000 != 0 {
            return Err(Refusal::Ignored);
        }
        if flags & 0x7800 != 0 {
            return Err(Refusal::Opcode);
        }
        if qdcount != 1 {
            return Err(Refusal::Question);
        }
        let name_end = plain_name(bytes, 12).ok_or(Refusal::Question)?;
        let (Some(qtype), Some(qclass)) = (word(name_end), word(name_end + 2)) else {
            return Err(Refusal::Question);
        };
        let mut at = name_end + 4;
        let mut opt = None;
        let before = u32::from(ancount) + u32::from(nscount);
        for index in 0..before + u32::from(arcount) {
            let owner = at;
            at = any_name(bytes, at).ok_or(Refusal::Records)?;
            let (Some(rtype), Some(length)) = (word(at), word(at + 8)) else { return Err(Refusal::Records) };
            let data = bytes.get(at + 10..at + 10 + usize::from(length)).ok_or(Refusal::Records)?;
            let is_additional = index >= before;
            match rtype {
                41 => {
                    if !is_additional || opt.is_some() || bytes[owner] != 0 {
                        return Err(Refusal::Records);
                    }
                    if bytes[at + 5] != 0 {
                        return Err(Refusal::Version);
                    }
                    if !options_add_up(data) {
                        return Err(Refusal::Records);
                    }
                    opt = Some((word(at + 2).unwrap_or(0), bytes[at + 6] & 0x80 != 0));
                }
                24 | 250 if is_additional => return Err(Refusal::Signed),
                _ => {}
            }
            at += 10 + usize::from(length);
        }
        match qtype {
            0 | 41 | 249 | 250 => return Err(Refusal::PseudoType),
            251 | 252 => return Err(Refusal::Transfer),
            _ => {}
        }
        Ok(Asked {
            question: bytes[12..name_end + 4].to_vec(),
            name: bytes[12..name_end].to_vec(),
            qtype,
            qclass,
            flags,
            payload: opt.map(|(payload, _)| payload),
            dnssec_ok: opt.is_some_and(|(_, dnssec_ok)| dnssec_ok),
        })
    }
}

impl Asked {
    /// Name, type and class, as sent.
    pub fn question(&self) -> &[u8] {
        &self.question
    }

    /// The largest reply over UDP.
    pub fn limit(&self) -> usize {
        self.payload.map_or(512, |payload| usize::from(payload.clamp(512, 4096)))
    }

    /// Whether nodens answers the name by itself (RFC 6761, 7686, 9476, 9462, 6303).
    pub fn is_special(&self) -> bool {
        let suffixes = [
            "localhost",
            "test",
            "invalid",
            "onion",
            "alt",
            "resolver.arpa",
            "127.in-addr.arpa",
            "0.in-addr.arpa",
            "254.169.in-addr.arpa",
            "8.e.f.ip6.arpa",
        ];
        self.qclass == 1 && suffixes.iter().any(|suffix| self.is_below(suffix))
    }

    /// Whether unbound answers the name by itself: private reverse zones (RFC 6303), and whatever it has for special.
    pub fn is_local_to_unbound(&self) -> bool {
        ["10.in-addr.arpa", "home.arpa", "arpa"].iter().any(|suffix| self.is_below(suffix))
    }

    /// Whether the name is at or below the delegation in the test's zone.
    pub fn is_below_a_cut(&self) -> bool {
        self.is_below("sub.example.org")
    }

    fn is_below(&self, suffix: &str) -> bool {
        let suffix = super::client::wire_name(suffix);
        let name = self.name.to_ascii_lowercase();
        let mut at = 0;
        while at < name.len() {
            if name[at..] == suffix[..] {
                return true;
            }
            at += 1 + usize::from(name[at]);
        }
        false
    }
}

/// The question of a message, if it reads.
pub fn question_of(message: &[u8]) -> Option<&[u8]> {
    message.get(12..plain_name(message, 12)? + 4)
}

/// The end of a name without pointers, of at most 255 bytes.
fn plain_name(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start;
    loop {
        let length = usize::from(*bytes.get(at)?);
        if length > 63 {
            return None;
        }
        at += 1 + length;
        if at - start > 255 {
            return None;
        }
        if length == 0 {
            return Some(at);
        }
    }
}

/// The end of a name that may end in a pointer, which is not followed.
fn any_name(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start;
    loop {
        match *bytes.get(at)? {
            0 => return Some(at + 1),
            length @ 1..=63 => at += 1 + usize::from(length),
            192.. => return bytes.get(at + 1).map(|_| at + 2),
            _ => return None,
        }
        if at - start > 255 {
            return None;
        }
    }
}

fn options_add_up(mut options: &[u8]) -> bool {
    while !options.is_empty() {
        let [_, _, l0, l1, rest @ ..] = options else { return false };
        let Some(behind) = rest.get(usize::from(u16::from_be_bytes([*l0, *l1]))..) else { return false };
        options = behind;
    }
    true
}
