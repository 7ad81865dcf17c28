//! Domain names as configuration writes them, and the lower-case wire form the other rooms compare.

/// Why a text is not a domain name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing at all.
    #[error("a domain name, which is not empty; the root is written `.`")]
    Empty,
    /// Two dots in a row, or one at the start.
    #[error("a domain name without empty labels")]
    EmptyLabel,
    /// RFC 1035 §2.3.4.
    #[error("a domain name whose labels have at most 63 bytes")]
    LongLabel,
    /// RFC 1035 §2.3.4.
    #[error("a domain name of at most 255 bytes")]
    Long,
    /// RFC 1035 §5.1: `\DDD` up to 255, or `\` and a character that is no digit.
    #[error(r"a domain name with escapes as \046 or \. only")]
    Escape,
    /// A byte that a name in a configuration may hold only as an escape.
    #[error(
        r"a domain name of printable ASCII; write others as \DDD, international names as xn-- labels (RFC 5890)"
    )]
    Character,
}

/// The uncompressed wire form of a domain name (RFC 1035 §3.1), letters in lower case, with the root's byte at the end.
///
/// The dot at the end may be left out. Escapes are those of master files (RFC 1035 §5.1).
pub fn to_wire(text: &str) -> Result<Box<[u8]>, NameError> {
    match text {
        "" => return Err(NameError::Empty),
        "." => return Ok(Box::new([0])),
        _ => {}
    }
    let mut wire = Vec::with_capacity(text.len() + 2);
    let mut label = Vec::with_capacity(MAX_LABEL);
    let mut bytes = text.bytes();
    loop {
        let byte = match bytes.next() {
            None if label.is_empty() => break,
            None | Some(b'.') => {
                push_label(&mut wire, &mut label)?;
                if bytes.len() == 0 {
                    break;
                }
                continue;
            }
            Some(b'\\') => unescape(&mut bytes)?,
            Some(byte) if byte.is_ascii_graphic() => byte,
            Some(_) => return Err(NameError::Character),
        };
        label.push(byte.to_ascii_lowercase());
        if label.len() > MAX_LABEL {
            return Err(NameError::LongLabel);
        }
    }
    wire.push(0);
    if wire.len() > MAX_NAME { Err(NameError::Long) } else { Ok(wire.into_boxed_slice()) }
}

/// Whether a name is a suffix or lies below it; both as [`to_wire`] makes them.
pub use crate::wire::name::is_at_or_below as is_within;

/// Longest label, in bytes (RFC 1035 §2.3.4).
const MAX_LABEL: usize = 63;

/// Longest name in wire form, in bytes, the root's byte included (RFC 1035 §2.3.4).
const MAX_NAME: usize = 255;

fn push_label(wire: &mut Vec<u8>, label: &mut Vec<u8>) -> Result<(), NameError> {
    if label.is_empty() {
        return Err(NameError::EmptyLabel);
    }
    wire.push(label.len() as u8);
    wire.append(label);
    if wire.len() >= MAX_NAME { Err(NameError::Long) } else { Ok(()) }
}

fn unescape(bytes: &mut std::str::Bytes<'_>) -> Result<u8, NameError> {
    let first = bytes.next().ok_or(NameError::Escape)?;
    if !first.is_ascii_digit() {
        return if first.is_ascii_graphic() { Ok(first) } else { Err(NameError::Escape) };
    }
    let mut value = u16::from(first - b'0');
    for _ in 0..2 {
        let digit = bytes.next().filter(u8::is_ascii_digit).ok_or(NameError::Escape)?;
        value = value * 10 + u16::from(digit - b'0');
    }
    u8::try_from(value).map_err(|_| NameError::Escape)
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::Name;
    use hickory_proto::serialize::binary::BinEncodable;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn wire_form_is_lower_case_and_ends_in_the_root() {
        assert_eq!(*to_wire("Cluster.Local").unwrap(), *b"\x07cluster\x05local\0");
        assert_eq!(to_wire("cluster.local."), to_wire("cluster.local"));
        assert_eq!(*to_wire(".").unwrap(), [0]);
        assert_eq!(*to_wire(r"a\.b\065.c").unwrap(), *b"\x04a.ba\x01c\0");
        assert_eq!(*to_wire("_dns._tcp.*.x").unwrap(), *b"\x04_dns\x04_tcp\x01*\x01x\0");
    }

    #[test]
    fn names_that_are_none_are_refused() {
        let long_label = format!("{}.example", "a".repeat(64));
        let long_name = vec!["a".repeat(63); 4].join(".");
        for (text, error) in [
            ("", NameError::Empty),
            ("..", NameError::EmptyLabel),
            (".example", NameError::EmptyLabel),
            ("a..b", NameError::EmptyLabel),
            (&long_label, NameError::LongLabel),
            (&long_name, NameError::Long),
            (r"a\", NameError::Escape),
            (r"a\25", NameError::Escape),
            (r"a\256", NameError::Escape),
            ("a b", NameError::Character),
            ("bücher.example", NameError::Character),
        ] {
            assert_eq!(to_wire(text), Err(error), "{text}");
        }
        let longest = format!("{0}.{0}.{0}.{1}", "a".repeat(63), "a".repeat(61));
        assert_eq!(to_wire(&longest).unwrap().len(), 255);
        assert_eq!(to_wire(&format!("{longest}a")), Err(NameError::Long));
    }

    #[test]
    fn suffixes_match_at_label_borders_only() {
        let within = |name, suffix| is_within(&to_wire(name).unwrap(), &to_wire(suffix).unwrap());
        assert!(within("a.cluster.local", "cluster.local") && within("cluster.local", "Cluster.Local."));
        assert!(within("a", ".") && within(".", "."));
        assert!(!within("mycluster.local", "cluster.local") && !within("local", "cluster.local"));
    }

    proptest! {
        #[test]
        fn any_text_is_a_name_or_an_error(text in ".{0,300}") {
            if let Ok(wire) = to_wire(&text) {
                prop_assert!(wire.len() <= 255 && wire.last() == Some(&0));
            }
        }

        #[test]
        fn agrees_with_hickory(text in "([A-Za-z0-9_][A-Za-z0-9_-]{0,19}\\.){1,5}[A-Za-z0-9]{1,10}\\.?") {
            let mut text = text;
            if !text.ends_with('.') {
                text.push('.');
            }
            let theirs = Name::from_ascii(&text).unwrap().to_lowercase().to_bytes().unwrap();
            prop_assert_eq!(&*to_wire(&text).unwrap(), &*theirs);
        }
    }
}
