//! What an answer is kept under: name without case, type, class, DO and CD.

use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::OnceLock;

use crate::wire::name::{MAX_NAME, fold8};
use crate::wire::query::Query;

/// A question as the cache knows it, with its hash. Built on the stack, once per query.
#[derive(Clone)]
pub struct Key {
    hash: u64,
    qtype: u16,
    qclass: u16,
    flags: KeyFlags,
    name_len: u8,
    name: [u8; NAME_ROOM],
}

/// Bits of a query that make its answer another answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct KeyFlags(u8);

impl KeyFlags {
    /// DO: the answer carries DNSSEC records (RFC 4035 §3.1).
    pub const DNSSEC_OK: Self = Self(1);
    /// CD: the answer may be one that failed validation (RFC 4035 §3.2.2).
    pub const CHECKING_DISABLED: Self = Self(2);

    /// The flags with these bits.
    pub const fn new(dnssec_ok: bool, checking_disabled: bool) -> Self {
        Self(dnssec_ok as u8 | (checking_disabled as u8) << 1)
    }

    /// The flags as bits.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Whether DO is set.
    pub const fn dnssec_ok(self) -> bool {
        self.0 & Self::DNSSEC_OK.0 != 0
    }

    /// Whether CD is set.
    pub const fn checking_disabled(self) -> bool {
        self.0 & Self::CHECKING_DISABLED.0 != 0
    }
}

/// A name's bytes and room to write the last eight of them at once.
const NAME_ROOM: usize = (MAX_NAME + 1).next_multiple_of(8);

/// The hash's secret, drawn once per process, so that nobody can choose names that collide.
static SEED: OnceLock<[u64; 2]> = OnceLock::new();

/// The per-process secret of [`Key`]'s hash, to be read once and handed to [`Key::of`].
#[derive(Debug, Clone, Copy)]
pub struct Seed([u64; 2]);

impl Seed {
    /// This process's seed.
    ///
    /// # Panics
    /// If the kernel has no random numbers to give, at the first call.
    pub fn of_process() -> Self {
        Self(*SEED.get_or_init(|| {
            let word = || getrandom::u64().expect("getrandom(2) gives random numbers once the kernel is up");
            // Odd, so that the multiplication loses nothing.
            [word(), word() | 1]
        }))
    }

    /// Its words, for other tables of this process that must not be predictable.
    pub fn words(self) -> [u64; 2] {
        self.0
    }
}

/// A question where it stands: a name in wire form of at most 255 bytes, letters in any case, and what is asked of it.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The name.
    pub name: &'a [u8],
    /// The type asked.
    pub qtype: u16,
    /// The class asked.
    pub qclass: u16,
    /// DO and CD.
    pub flags: KeyFlags,
}

impl<'a> Question<'a> {
    /// The question of a query.
    #[inline]
    pub fn of(query: &Query<'a>) -> Self {
        Self {
            name: query.name(),
            qtype: query.qtype(),
            qclass: query.qclass(),
            flags: KeyFlags::new(query.dnssec_ok(), query.checking_disabled()),
        }
    }

    /// The hash its key has.
    #[inline]
    pub fn hash(&self, seed: Seed) -> u64 {
        self.fold(seed, |_, _| {})
    }

    /// The hash, and each eight bytes of the folded name, the last padded with zeroes, to `word` with their position.
    #[inline]
    fn fold(&self, seed: Seed, mut word: impl FnMut(usize, [u8; 8])) -> u64 {
        let (tail, len) =
            (u64::from(self.qtype) << 32 | u64::from(self.qclass) << 16, self.name.len() as u64);
        let mut hash = mix(seed.0[0] ^ tail ^ u64::from(self.flags.0) << 8 ^ len, seed.0[1]);
        let (words, rest) = self.name.as_chunks::<8>();
        let mut last = [0u8; 8];
        last[..rest.len()].copy_from_slice(rest);
        for (number, bytes) in words.iter().chain((!rest.is_empty()).then_some(&last)).enumerate() {
            let folded = fold8(u64::from_le_bytes(*bytes));
            word(number * 8, folded.to_le_bytes());
            hash = mix(hash ^ folded, seed.0[1]);
        }
        hash
    }
}

impl Key {
    /// The key of a query.
    #[inline]
    pub fn of(query: &Query<'_>, seed: Seed) -> Self {
        Self::new(&Question::of(query), seed)
    }

    /// The key of a question.
    ///
    /// # Panics
    /// If its name is longer than 255 bytes.
    #[inline]
    pub fn new(question: &Question<'_>, seed: Seed) -> Self {
        assert!(question.name.len() <= MAX_NAME, "a name that was parsed has at most 255 bytes");
        let mut name = [0u8; NAME_ROOM];
        let hash = question.fold(seed, |at, word| name[at..at + 8].copy_from_slice(&word));
        Self {
            hash,
            qtype: question.qtype,
            qclass: question.qclass,
            flags: question.flags,
            name_len: question.name.len() as u8,
            name,
        }
    }

    /// The question it was made of, its name folded.
    #[inline]
    pub fn question(&self) -> Question<'_> {
        Question { name: self.name(), qtype: self.qtype, qclass: self.qclass, flags: self.flags }
    }

    /// The seeded hash over all of the key.
    #[inline]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// The name in wire form, folded.
    #[inline]
    pub fn name(&self) -> &[u8] {
        &self.name[..usize::from(self.name_len)]
    }

    /// The type asked.
    pub fn qtype(&self) -> u16 {
        self.qtype
    }

    /// The class asked.
    pub fn qclass(&self) -> u16 {
        self.qclass
    }

    /// DO and CD.
    pub fn flags(&self) -> KeyFlags {
        self.flags
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash
            && (self.qtype, self.qclass, self.flags) == (other.qtype, other.qclass, other.flags)
            && self.name() == other.name()
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = crate::wire::name::Display(self.name());
        write!(f, "{name} type {} class {} flags {}", self.qtype, self.qclass, self.flags.0)
    }
}

/// One folded multiplication, as in wyhash and its kin.
#[inline]
fn mix(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ (product >> 64) as u64
}

/// Hands a key's own hash on: keys carry a seeded hash, another round would only cost.
#[derive(Debug, Clone, Copy, Default)]
pub struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // Keys write one u64 only; anything else still hashes to something sound.
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// Builds [`KeyHasher`]s.
#[derive(Debug, Clone, Copy, Default)]
pub struct BuildKeyHasher;

impl BuildHasher for BuildKeyHasher {
    type Hasher = KeyHasher;

    fn build_hasher(&self) -> KeyHasher {
        KeyHasher::default()
    }
}
