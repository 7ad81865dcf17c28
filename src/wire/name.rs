//! Names in wire form: where one ends, and its letters folded to lower case eight at a time (RFC 4343).

use std::fmt;

/// Longest name in wire form, in bytes, root byte included (RFC 1035 §3.1).
pub const MAX_NAME: usize = 255;

/// Longest label, in bytes (RFC 1035 §3.1).
pub const MAX_LABEL: u8 = 63;

/// What is wrong with a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The bytes end before the root label.
    #[error("the name runs past the end of the message")]
    Truncated,
    /// A compression pointer or a reserved label type where neither can stand.
    #[error("a label type other than a plain label")]
    NotPlain,
    /// Longer than 255 bytes.
    #[error("the name is longer than 255 bytes")]
    TooLong,
    /// A compression pointer to elsewhere than an earlier name (RFC 1035 §4.1.4).
    #[error("a compression pointer that does not point to an earlier name")]
    Pointer,
    /// More compression pointers than a name can have labels.
    #[error("more than 127 compression pointers")]
    Pointers,
}

/// Length in bytes, root byte included, of the uncompressed name at the start of `bytes`.
pub fn plain_name_len(bytes: &[u8]) -> Result<usize, NameError> {
    let mut at = 0;
    loop {
        let Some(&label) = bytes.get(at) else { return Err(NameError::Truncated) };
        at += 1;
        if label == 0 {
            return Ok(at);
        }
        if label > MAX_LABEL {
            return Err(NameError::NotPlain);
        }
        at += usize::from(label);
        if at >= MAX_NAME {
            return Err(NameError::TooLong);
        }
    }
}

/// The position behind the possibly compressed name at `at`; pointers are passed over, not followed.
pub fn skip_name(message: &[u8], mut at: usize) -> Result<usize, NameError> {
    loop {
        let Some(&label) = message.get(at) else { return Err(NameError::Truncated) };
        match label {
            0 => return Ok(at + 1),
            1..=MAX_LABEL => at += 1 + usize::from(label),
            0xc0..=0xff if at + 2 <= message.len() => return Ok(at + 2),
            0xc0..=0xff => return Err(NameError::Truncated),
            _ => return Err(NameError::NotPlain),
        }
    }
}

/// Folds the ASCII capitals among eight bytes to lower case.
///
/// Length bytes of labels are at most 63, below `A` (65), so a whole name can be folded without looking for them.
#[inline]
pub const fn fold8(word: u64) -> u64 {
    const LOW7: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    const EACH: u64 = 0x0101_0101_0101_0101;
    let low = word & LOW7;
    let from_a = low + EACH * (0x80 - b'A' as u64);
    let past_z = low + EACH * (0x7f - b'Z' as u64);
    let capital = (from_a ^ past_z) & !word & (EACH << 7);
    word | (capital >> 2)
}

/// Whether the wire-form name `name`, in any case, is the folded one `folded`.
#[inline]
pub fn folds_to(name: &[u8], folded: &[u8]) -> bool {
    if name.len() != folded.len() {
        return false;
    }
    let word =
        |bytes: &[u8], at: usize| bytes[at..].first_chunk().map_or(0, |word| u64::from_le_bytes(*word));
    let Some(last) = name.len().checked_sub(8) else {
        return name.iter().zip(folded).all(|(byte, folded)| byte.to_ascii_lowercase() == *folded);
    };
    // The last eight bytes overlap those before: no remainder to go through byte by byte.
    let mut at = 0;
    while at < last {
        if fold8(word(name, at)) != word(folded, at) {
            return false;
        }
        at += 8;
    }
    fold8(word(name, last)) == word(folded, last)
}

/// Whether the wire-form name `name` is `suffix` or lies below it; both folded.
pub fn is_at_or_below(name: &[u8], suffix: &[u8]) -> bool {
    let Some(cut) = name.len().checked_sub(suffix.len()) else { return false };
    if &name[cut..] != suffix {
        return false;
    }
    // The suffix must start at a label of the name, not within one.
    let mut at = 0;
    while at < cut {
        at += 1 + usize::from(name[at]);
    }
    at == cut
}

/// Shows a wire-form name as text, dots and escapes as in RFC 1035 §5.1.
pub struct Display<'a>(pub &'a [u8]);

impl fmt::Display for Display<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        if rest.first().is_none_or(|&label| label == 0) {
            return f.write_str(".");
        }
        while let Some((&label, tail)) = rest.split_first() {
            if label == 0 {
                break;
            }
            let (label, tail) = tail.split_at(usize::from(label).min(tail.len()));
            for &byte in label {
                match byte {
                    b'.' | b'\\' => write!(f, "\\{}", char::from(byte))?,
                    0x21..=0x7e => write!(f, "{}", char::from(byte))?,
                    _ => write!(f, "\\{byte:03}")?,
                }
            }
            f.write_str(".")?;
            rest = tail;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_root_is_one_byte() {
        assert_eq!(plain_name_len(&[0, 7, 7]), Ok(1));
        assert_eq!(Display(&[0]).to_string(), ".");
    }

    #[test]
    fn a_name_of_255_bytes_is_the_longest() {
        let mut name = Vec::new();
        for label in [63u8, 63, 63, 61] {
            name.push(label);
            name.extend(std::iter::repeat_n(b'a', usize::from(label)));
        }
        name.push(0);
        assert_eq!(name.len(), MAX_NAME);
        assert_eq!(plain_name_len(&name), Ok(MAX_NAME));
        name.splice(0..0, [1, b'x']);
        assert_eq!(plain_name_len(&name), Err(NameError::TooLong));
    }

    #[test]
    fn pointers_and_reserved_types_are_not_plain() {
        assert_eq!(plain_name_len(&[0xc0, 12]), Err(NameError::NotPlain));
        assert_eq!(plain_name_len(&[0x40, 0]), Err(NameError::NotPlain));
        assert_eq!(plain_name_len(&[1, b'a', 0x80]), Err(NameError::NotPlain));
        assert_eq!(plain_name_len(&[3, b'a', b'b']), Err(NameError::Truncated));
    }

    #[test]
    fn a_suffix_starts_at_a_label() {
        let name = b"\x03www\x07example\x00";
        assert!(is_at_or_below(name, b"\x07example\x00"));
        assert!(is_at_or_below(name, b"\x00"));
        assert!(is_at_or_below(name, name));
        assert!(!is_at_or_below(b"\x07example\x00", name));
        // "\x01a\x00" ends both names, but within the label of the second.
        assert!(!is_at_or_below(b"\x04x\x01aa\x00", b"\x01a\x00"));
        assert!(!is_at_or_below(b"\x03\x01a\x00\x00", b"\x01a\x00\x00"));
    }

    proptest! {
        #[test]
        fn fold8_is_ascii_lower_case_of_each_byte(word: u64) {
            prop_assert_eq!(fold8(word).to_le_bytes(), word.to_le_bytes().map(|b| b.to_ascii_lowercase()));
        }

        #[test]
        fn any_bytes_give_a_length_within_them_or_an_error(bytes: Vec<u8>) {
            if let Ok(len) = plain_name_len(&bytes) {
                prop_assert!(len <= bytes.len() && len <= MAX_NAME);
                prop_assert_eq!(skip_name(&bytes, 0), Ok(len));
            }
        }
    }
}
