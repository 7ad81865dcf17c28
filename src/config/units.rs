//! Values with a unit, as people write them: `30s`, `32MiB`, `10%`, and `false` or a block.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::ser::{Serialize, Serializer};

use super::schema::{UpstreamAddress, Workers};

/// A span of time: a whole number with `ms`, `s`, `m`, `h` or `d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HumanDuration(pub Duration);

/// A number of bytes: a whole number with `KiB`, `MiB`, `GiB` or nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// A share from 0 to 1, written `10%` or `0.1`.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Fraction(pub f64);

/// Something that `false` turns off and `true` turns on with its defaults.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Switch<T> {
    /// `false`.
    Off,
    /// `true`, or the block itself.
    On(T),
}

impl HumanDuration {
    /// So many seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// So many milliseconds.
    pub const fn from_millis(milliseconds: u64) -> Self {
        Self(Duration::from_millis(milliseconds))
    }

    /// Whole seconds, rounded down, at most `u32::MAX`: the unit of a TTL.
    pub fn as_ttl(self) -> u32 {
        u32::try_from(self.0.as_secs()).unwrap_or(u32::MAX)
    }

    /// Whole milliseconds.
    pub fn as_millis(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }
}

impl ByteSize {
    /// So many mebibytes.
    pub const fn from_mib(mebibytes: u64) -> Self {
        Self(mebibytes << 20)
    }
}

impl Fraction {
    /// So many per cent.
    pub fn from_percent(percent: u32) -> Self {
        Self(f64::from(percent) / 100.0)
    }
}

impl<T> Switch<T> {
    /// The settings, if it is on.
    pub fn on(&self) -> Option<&T> {
        match self {
            Self::Off => None,
            Self::On(settings) => Some(settings),
        }
    }
}

/// A value that does not read as its unit; the message says what was expected.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("expected {expected}")]
pub struct UnitError {
    expected: &'static str,
}

const EXPECTED_DURATION: &str = "a whole number with a unit, such as 1800ms, 30s, 10m, 1h or 2d";
const EXPECTED_SIZE: &str = "a whole number of bytes or one with KiB, MiB or GiB, such as 32MiB";
const EXPECTED_FRACTION: &str = "a share from 0% to 100%, such as 10% or 0.1";

impl FromStr for HumanDuration {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        const ERROR: UnitError = UnitError { expected: EXPECTED_DURATION };
        let (number, unit) = split_unit(text);
        let number: u64 = number.parse().map_err(|_| ERROR)?;
        let millis = match unit {
            "ms" => Some(number),
            "s" => number.checked_mul(1_000),
            "m" => number.checked_mul(60_000),
            "h" => number.checked_mul(3_600_000),
            "d" => number.checked_mul(86_400_000),
            _ => None,
        };
        millis.map(Self::from_millis).ok_or(ERROR)
    }
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.as_millis();
        match millis {
            0 => f.write_str("0s"),
            _ if millis.is_multiple_of(86_400_000) => write!(f, "{}d", millis / 86_400_000),
            _ if millis.is_multiple_of(3_600_000) => write!(f, "{}h", millis / 3_600_000),
            _ if millis.is_multiple_of(60_000) => write!(f, "{}m", millis / 60_000),
            _ if millis.is_multiple_of(1_000) => write!(f, "{}s", millis / 1_000),
            _ => write!(f, "{millis}ms"),
        }
    }
}

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        const ERROR: UnitError = UnitError { expected: EXPECTED_SIZE };
        let (number, unit) = split_unit(text);
        let number: u64 = number.parse().map_err(|_| ERROR)?;
        let shift = match unit {
            "" | "B" => 0,
            "KiB" => 10,
            "MiB" => 20,
            "GiB" => 30,
            _ => return Err(ERROR),
        };
        number.checked_mul(1 << shift).map(Self).ok_or(ERROR)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes == 0 || !bytes.is_multiple_of(1 << 10) => write!(f, "{bytes}"),
            bytes if !bytes.is_multiple_of(1 << 20) => write!(f, "{}KiB", bytes >> 10),
            bytes if !bytes.is_multiple_of(1 << 30) => write!(f, "{}MiB", bytes >> 20),
            bytes => write!(f, "{}GiB", bytes >> 30),
        }
    }
}

impl FromStr for Fraction {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        const ERROR: UnitError = UnitError { expected: EXPECTED_FRACTION };
        let share = match text.strip_suffix('%') {
            Some(percent) => percent.trim().parse::<f64>().map_err(|_| ERROR)? / 100.0,
            None => text.parse::<f64>().map_err(|_| ERROR)?,
        };
        // To a millionth, as it is printed.
        if (0.0..=1.0).contains(&share) { Ok(Self((share * 1e6).round() / 1e6)) } else { Err(ERROR) }
    }
}

impl fmt::Display for Fraction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Rounded to what a person writes: 0.07 * 100 is 7.000000000000001.
        write!(f, "{}%", (self.0 * 1e6).round() / 1e4)
    }
}

fn split_unit(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

/// A scalar that is a string in one spelling and a number in another (`0` and `"0s"`, `0.1` and `"10%"`).
struct Scalar<T> {
    expected: &'static str,
    marker: std::marker::PhantomData<T>,
}

impl<T: FromStr> Visitor<'_> for Scalar<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        number.to_string().parse().map_err(|_| E::invalid_value(de::Unexpected::Unsigned(number), &self))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        number.to_string().parse().map_err(|_| E::invalid_value(de::Unexpected::Signed(number), &self))
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<T, E> {
        number.to_string().parse().map_err(|_| E::invalid_value(de::Unexpected::Float(number), &self))
    }
}

macro_rules! scalar_serde {
    ($type:ty, $expected:expr) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(Scalar {
                    expected: $expected,
                    marker: std::marker::PhantomData::<$type>,
                })
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    };
}

scalar_serde!(HumanDuration, EXPECTED_DURATION);
scalar_serde!(ByteSize, EXPECTED_SIZE);
scalar_serde!(Fraction, EXPECTED_FRACTION);

impl<'de, T: Deserialize<'de> + Default> Deserialize<'de> for Switch<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SwitchVisitor(std::marker::PhantomData))
    }
}

struct SwitchVisitor<T>(std::marker::PhantomData<T>);

impl<'de, T: Deserialize<'de> + Default> Visitor<'de> for SwitchVisitor<T> {
    type Value = Switch<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("true, false or a block of settings")
    }

    fn visit_bool<E: de::Error>(self, on: bool) -> Result<Switch<T>, E> {
        Ok(if on { Switch::On(T::default()) } else { Switch::Off })
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Switch<T>, E> {
        // The environment knows strings only.
        match text {
            "true" => Ok(Switch::On(T::default())),
            "false" => Ok(Switch::Off),
            _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
        }
    }

    fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Switch<T>, A::Error> {
        T::deserialize(de::value::MapAccessDeserializer::new(map)).map(Switch::On)
    }
}

impl<T: Serialize> Serialize for Switch<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Off => serializer.serialize_bool(false),
            Self::On(settings) => settings.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Workers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Scalar {
            expected: EXPECTED_WORKERS,
            marker: std::marker::PhantomData::<Workers>,
        })
    }
}

impl Serialize for Workers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Count(count) => serializer.serialize_u64(*count as u64),
        }
    }
}

const EXPECTED_WORKERS: &str = "auto or a whole number from 1 to 256";

impl FromStr for Workers {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        match text {
            "auto" => Ok(Self::Auto),
            _ => match text.parse() {
                Ok(count @ 1..=256) => Ok(Self::Count(count)),
                _ => Err(UnitError { expected: EXPECTED_WORKERS }),
            },
        }
    }
}

const EXPECTED_UPSTREAM: &str = "an IP, ip:port, [v6]:port, or the absolute path of a resolv.conf";

impl FromStr for UpstreamAddress {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        if text.starts_with('/') {
            return Ok(Self::ResolvConf(PathBuf::from(text)));
        }
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Self::Address(SocketAddr::new(ip, 53)));
        }
        text.parse().map(Self::Address).map_err(|_| UnitError { expected: EXPECTED_UPSTREAM })
    }
}

impl fmt::Display for UpstreamAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::ResolvConf(path) => path.display().fmt(f),
        }
    }
}

scalar_serde!(UpstreamAddress, EXPECTED_UPSTREAM);
