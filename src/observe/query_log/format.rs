//! A line of the query log, as text or as a JSON object.

use std::fmt::{self, Write as _};
use std::io::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use hickory_proto::rr::{DNSClass, RecordType};

use super::Line;

/// `TIME CLIENT PROTO CLASS TYPE NAME RCODE SOURCE[@UPSTREAM] MICROS SIZE`, space between.
pub(super) fn text(line: &Line, output: &mut impl Write) -> io::Result<()> {
    write!(
        output,
        "{} {} {} {} {} {} {} {}",
        Timestamp(line.at),
        line.client,
        line.proto.label(),
        Class(line.qclass),
        Type(line.qtype),
        Name(&line.name),
        line.outcome.rcode(),
        line.outcome.source().label(),
    )?;
    if let Some(upstream) = line.upstream {
        write!(output, "@{upstream}")?;
    }
    writeln!(output, " {}us {}", line.micros, line.size)
}

/// The same with a key each; `upstream` is only there where one answered.
pub(super) fn json(line: &Line, output: &mut impl Write) -> io::Result<()> {
    #[derive(serde::Serialize)]
    struct Record {
        time: String,
        client: String,
        proto: &'static str,
        class: String,
        r#type: String,
        name: String,
        rcode: &'static str,
        source: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        upstream: Option<String>,
        duration_us: u32,
        size: u32,
    }
    let record = Record {
        time: Timestamp(line.at).to_string(),
        client: line.client.to_string(),
        proto: line.proto.label(),
        class: Class(line.qclass).to_string(),
        r#type: Type(line.qtype).to_string(),
        name: Name(&line.name).to_string(),
        rcode: line.outcome.rcode(),
        source: line.outcome.source().label(),
        upstream: line.upstream.map(|upstream| upstream.to_string()),
        duration_us: line.micros,
        size: line.size,
    };
    serde_json::to_writer(&mut *output, &record)?;
    output.write_all(b"\n")
}

/// RFC 3339 in UTC, with milliseconds.
struct Timestamp(SystemTime);

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = self.0.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
        let (year, month, day) = civil(days);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
            second / 3600,
            second / 60 % 60,
            second % 60,
            since.subsec_millis()
        )
    }
}

/// Year, month and day of so many days after 1970-01-01 (Howard Hinnant's `civil_from_days`).
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    // Years begin in March here, so that the leap day is the last of its year.
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// A type's mnemonic, or TYPE and its number (RFC 3597 §5).
struct Type(u16);

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match RecordType::from(self.0) {
            RecordType::Unknown(number) => write!(f, "TYPE{number}"),
            known => known.fmt(f),
        }
    }
}

/// A class's mnemonic, or CLASS and its number (RFC 3597 §5).
struct Class(u16);

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match DNSClass::from(self.0) {
            DNSClass::Unknown(number) => write!(f, "CLASS{number}"),
            known => known.fmt(f),
        }
    }
}

/// A wire name in presentation format (RFC 1035 §5.1). Nothing a client sends can break a line or reach a terminal:
/// all but printable ASCII is escaped.
struct Name<'a>(&'a [u8]);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        let mut labels = 0;
        while let Some((&length, after)) = rest.split_first() {
            if length == 0 {
                break;
            }
            let (label, after) = after.split_at(usize::from(length).min(after.len()));
            for byte in label {
                match byte {
                    b'.' | b'\\' | b'"' => write!(f, "\\{}", char::from(*byte))?,
                    b'!'..=b'~' => f.write_char(char::from(*byte))?,
                    _ => write!(f, "\\{byte:03}")?,
                }
            }
            f.write_char('.')?;
            labels += 1;
            rest = after;
        }
        if labels == 0 { f.write_char('.') } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::observe::labels::{Kind, Outcome, Proto, Source};

    fn line() -> Line {
        Line {
            at: UNIX_EPOCH + Duration::from_millis(1_709_210_096_007),
            client: "[fd00::7]:5353".parse().expect("an address"),
            proto: Proto::Tcp,
            name: (*b"\x03wWw\x07example\x00").into(),
            qtype: 28,
            qclass: 1,
            outcome: Outcome::new(Source::Upstream, 3, Kind::NxDomain),
            upstream: Some("10.96.0.10:53".parse().expect("an address")),
            micros: 812,
            size: 110,
        }
    }

    fn written(write: impl Fn(&Line, &mut Vec<u8>) -> io::Result<()>, line: &Line) -> String {
        let mut bytes = Vec::new();
        write(line, &mut bytes).expect("memory takes everything");
        String::from_utf8(bytes).expect("the log is UTF-8")
    }

    #[test]
    fn text_is_one_line() {
        assert_eq!(
            written(text, &line()),
            "2024-02-29T12:34:56.007Z [fd00::7]:5353 tcp IN AAAA wWw.example. NXDOMAIN upstream@10.96.0.10:53 \
             812us 110\n"
        );
    }

    #[test]
    fn json_is_one_object_that_reads_back() {
        let mut local = line();
        local.upstream = None;
        local.qtype = 65_280;
        local.qclass = 77;
        let text = written(json, &local);
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let expected = serde_json::json!({
            "time": "2024-02-29T12:34:56.007Z", "client": "[fd00::7]:5353", "proto": "tcp", "class": "CLASS77",
            "type": "TYPE65280", "name": "wWw.example.", "rcode": "NXDOMAIN", "source": "upstream",
            "duration_us": 812, "size": 110,
        });
        assert_eq!(value, expected);
        assert!(text.ends_with("}\n") && text.lines().count() == 1);
    }

    #[test]
    fn a_name_cannot_break_the_line() {
        let name = |wire: &[u8]| Name(wire).to_string();
        assert_eq!(name(b"\x00"), ".");
        assert_eq!(name(b"\x05a\nb c\x03x.y\x00"), "a\\010b\\032c.x\\.y.");
        assert_eq!(name(b"\x03\x1b[0\x02\"\\\x00"), "\\027[0.\\\"\\\\.");
        assert_eq!(name(b"\x3fab"), "ab.", "a length past the end is no panic");
        assert_eq!(name(b""), ".");
    }

    #[test]
    fn days_are_counted_across_leap_years() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(59), (1970, 3, 1));
        assert_eq!(civil(11_016), (2000, 2, 29));
        assert_eq!(civil(20_781), (2026, 11, 24));
        assert_eq!(civil(47_541), (2100, 3, 1));
    }
}
