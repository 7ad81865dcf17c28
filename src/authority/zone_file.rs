//! A zone served from a master file (RFC 1035 §5), by hickory-server's catalog and in-memory store.

use std::borrow::Cow;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::StreamExt;
use hickory_proto::ProtoError;
use hickory_proto::rr::{LowerName, Name, RData, Record, RecordData as _, RecordSet, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinEncodable};
use hickory_proto::serialize::txt::{ParseError, Parser};
use hickory_server::net::BufDnsStreamHandle;
use hickory_server::net::runtime::TokioRuntimeProvider;
use hickory_server::net::xfer::Protocol;
use hickory_server::server::{Request, ResponseHandle};
use hickory_server::store::in_memory::InMemoryZoneHandler;
use hickory_server::zone_handler::{AxfrPolicy, Catalog, ZoneType};

use crate::wire::HEADER_LEN;

/// A loaded zone.
pub struct ZoneFile {
    catalog: Catalog,
    path: PathBuf,
}

/// Why a master file cannot be served. Every message names the file, and the line where there is one.
#[derive(Debug, thiserror::Error)]
pub enum ZoneFileError {
    /// It cannot be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A line does not parse, in it or in a file it includes.
    #[error("{}:{line}: {source}; expected a record of a master file (RFC 1035 §5.1)", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Counted from 1: the last line of the record that does not parse.
        line: usize,
        /// What hickory-proto said.
        #[source]
        source: ParseError,
    },
    /// A record whose owner lies outside the zone.
    #[error("{}: {owner} is not in the zone {zone}", path.display())]
    OutsideZone {
        /// The file.
        path: PathBuf,
        /// The record's owner.
        owner: Box<Name>,
        /// The zone.
        zone: Box<Name>,
    },
    /// A record that reads, and that no message can carry: `alpn=` without a value, for one.
    #[error("{}: the {rtype} record of {owner} cannot be sent: {source}", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// The record's owner.
        owner: Box<Name>,
        /// The record's type.
        rtype: RecordType,
        /// What hickory-proto said.
        #[source]
        source: ProtoError,
    },
    /// The records are no zone: without a SOA record, or with a CNAME beside other data.
    #[error("{}: {reason}", path.display())]
    NoZone {
        /// The file.
        path: PathBuf,
        /// What hickory-server said.
        reason: String,
    },
}

/// Why a loaded zone gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ZoneAnswerError {
    /// hickory-server sent nothing back.
    #[error("the zone gave no answer")]
    Silent,
    /// The question cannot be put.
    #[error("the question cannot be put to the zone: {0}")]
    Question(#[from] ProtoError),
}

impl ZoneFile {
    /// Loads the zone `origin` from `path`. `$ORIGIN` starts as the zone's name; `$TTL` and `$INCLUDE` are understood,
    /// the latter relative to the file's folder.
    pub fn load(origin: &str, path: &Path) -> Result<Self, ZoneFileError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ZoneFileError::Read { path: path.to_owned(), source })?;
        Self::parse(origin, path, &text)
    }

    /// As [`Self::load`], from the text of a file: `path` names it in messages, and its folder holds what it includes.
    pub fn parse(origin: &str, path: &Path, text: &str) -> Result<Self, ZoneFileError> {
        let no_zone = |reason: String| ZoneFileError::NoZone { path: path.to_owned(), reason };
        let mut zone = Name::from_ascii(origin).map_err(|error| no_zone(error.to_string()))?.to_lowercase();
        zone.set_fqdn(true);
        let text = &*spell_out_origin(text, origin);
        let parse =
            |text: &str| Parser::new(text.to_owned(), Some(path.to_owned()), Some(zone.clone())).parse();
        let (_, records) = parse(text).map_err(|source| {
            let line = failing_line(text, &source.to_string(), |text| parse(text).err());
            ZoneFileError::Parse { path: path.to_owned(), line, source }
        })?;
        if let Some(outside) = records.values().find(|records| !zone.zone_of(records.name())) {
            let owner = Box::new(outside.name().clone());
            return Err(ZoneFileError::OutsideZone { path: path.to_owned(), owner, zone: Box::new(zone) });
        }
        for record in records.values().flat_map(RecordSet::records_without_rrsigs) {
            // hickory-server would find out with each answer, and send a bare SERVFAIL.
            encodes(record).map_err(|source| ZoneFileError::Record {
                path: path.to_owned(),
                owner: Box::new(record.name.clone()),
                rtype: record.record_type(),
                source,
            })?;
        }
        let handler = InMemoryZoneHandler::<TokioRuntimeProvider>::new(
            zone.clone(),
            records,
            ZoneType::Primary,
            AxfrPolicy::Deny,
        )
        .map_err(no_zone)?;
        let mut catalog = Catalog::new();
        catalog.upsert(LowerName::from(zone), vec![Arc::new(handler)]);
        Ok(Self { catalog, path: path.to_owned() })
    }

    /// The file it was loaded from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The zone's reply, as a whole message, to a question for the wire-form name `name`.
    pub async fn reply(&self, name: &[u8], qtype: u16, qclass: u16) -> Result<Vec<u8>, ZoneAnswerError> {
        /// Nobody in particular: the catalog only passes it through.
        const CLIENT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
        let mut query = Vec::with_capacity(HEADER_LEN + name.len() + 4);
        // Id 0, RD, one question.
        query.extend_from_slice(&[0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        query.extend_from_slice(name);
        query.extend_from_slice(&qtype.to_be_bytes());
        query.extend_from_slice(&qclass.to_be_bytes());
        let request = Request::from_bytes(query, CLIENT, Protocol::Tcp)?;
        let (handle, mut replies) = BufDnsStreamHandle::new(CLIENT);
        let handle = ResponseHandle::new(CLIENT, handle, Protocol::Tcp);
        // The time matters for signatures alone, and zones here are not signed.
        self.catalog.lookup(&request, None, 0, handle).await;
        let reply = replies.next().await.ok_or(ZoneAnswerError::Silent)?;
        Ok(reply.into_parts().0)
    }
}

impl fmt::Debug for ZoneFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZoneFile").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Whether a message can carry the record, and whoever gets it can read it.
fn encodes(record: &Record) -> Result<(), ProtoError> {
    let read = Record::<RData>::from_bytes(&record.to_bytes()?)?;
    // hickory-proto takes a record without data for one of an UPDATE (RFC 2136 §2.5) and refuses it in an answer.
    if read.data.is_update() { Err("it has no data".into()) } else { Ok(()) }
}

/// Writes the origin where `@` stands for it within a record, and a relative `$ORIGIN` in full (RFC 1035 §5.1):
/// hickory-proto knows `@` as an owner only.
/// Line breaks stay where they are. Files that are included are left as they are.
fn spell_out_origin<'a>(text: &'a str, origin: &str) -> Cow<'a, str> {
    if !text.contains(['@', '$']) {
        return Cow::Borrowed(text);
    }
    let absolute = |name: &str, origin: &str| match (name, name.ends_with('.')) {
        (_, true) => name.to_owned(),
        (_, false) if origin == "." => format!("{name}."),
        (_, false) => format!("{name}.{origin}"),
    };
    let mut origin = absolute(origin, ".");
    let mut spelled = String::with_capacity(text.len() + 64);
    for line in text.split_inclusive('\n') {
        if let Some(name) = line.strip_prefix("$ORIGIN").and_then(|rest| rest.split_ascii_whitespace().next())
        {
            origin = absolute(name, &origin);
            // Absolute, since hickory-proto takes every $ORIGIN for that.
            spelled.extend(["$ORIGIN ", &origin, "\n"]);
            continue;
        }
        let (mut quoted, mut comment, mut escaped) = (false, false, false);
        let mut before = '\n';
        let mut characters = line.char_indices().peekable();
        while let Some((at, character)) = characters.next() {
            let alone = before.is_ascii_whitespace() || before == '(';
            let ends =
                characters.peek().is_none_or(|&(_, next)| next.is_ascii_whitespace() || ");".contains(next));
            if character == '@' && at > 0 && alone && ends && !quoted && !comment && !escaped {
                spelled.push_str(&origin);
            } else {
                spelled.push(character);
            }
            match character {
                '"' if !escaped && !comment => quoted = !quoted,
                ';' if !escaped && !quoted => comment = true,
                _ => {}
            }
            escaped = character == '\\' && !escaped;
            before = character;
        }
    }
    Cow::Owned(spelled)
}

/// The first line with which `text`, cut behind it, fails as the whole does. hickory-proto's errors name no line; a text
/// that fails goes on failing alike however much follows, so the line is found by halving.
fn failing_line(text: &str, message: &str, error_of: impl Fn(&str) -> Option<ParseError>) -> usize {
    let ends: Vec<usize> = text.match_indices('\n').map(|(at, _)| at + 1).chain([text.len()]).collect();
    ends.partition_point(|&end| error_of(&text[..end]).is_none_or(|error| error.to_string() != message)) + 1
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::config::name::to_wire;
    use crate::wire::answer::{Answer, Kind};
    use crate::wire::{CLASS_IN, rtype};

    const ZONE: &str = "$TTL 300\n@ IN SOA ns.corp.example. admin.corp.example. 7 3600 600 86400 60\n  NS ns\n\
        ns A 10.0.0.1\nwww 120 IN A 10.0.0.2\nwww A 10.0.0.3\nalias CNAME www\n*.wild TXT \"any\"\n\
        $ORIGIN sub.corp.example.\nhost AAAA fd00::1\n";

    fn parse(text: &str) -> Result<ZoneFile, ZoneFileError> {
        ZoneFile::parse("Corp.Example", Path::new("/zones/corp"), text)
    }

    async fn ask(zone: &ZoneFile, name: &str, qtype: u16) -> Answer {
        let reply = zone.reply(&to_wire(name).unwrap(), qtype, CLASS_IN).await.unwrap();
        Answer::from_reply(&reply).unwrap()
    }

    #[tokio::test]
    async fn rfc1035_records_aliases_and_wildcards_are_answered() {
        let zone = parse(ZONE).unwrap();
        let www = ask(&zone, "www.corp.example", rtype::A).await;
        assert_eq!((www.kind, www.counts[0]), (Kind::Positive, 2));
        let alias = ask(&zone, "alias.corp.example", rtype::A).await;
        assert_eq!((alias.kind, alias.counts[0]), (Kind::Positive, 3), "CNAME and two addresses");
        assert_eq!(ask(&zone, "a.wild.corp.example", 16).await.kind, Kind::Positive);
        assert_eq!(ask(&zone, "host.sub.corp.example", rtype::AAAA).await.kind, Kind::Positive);
    }

    #[tokio::test]
    async fn rfc2308_nxdomain_and_nodata_carry_the_zones_soa() {
        let zone = parse(ZONE).unwrap();
        for (name, kind) in [("www.corp.example", Kind::NoData), ("none.corp.example", Kind::NxDomain)] {
            let answer = ask(&zone, name, 15).await;
            assert_eq!((answer.kind, answer.counts, answer.ttl), (kind, [0, 1, 0], 60), "{name}");
        }
    }

    #[tokio::test]
    async fn rfc1035_an_at_sign_is_the_origin_wherever_a_name_stands() {
        let zone = parse(
            "$TTL 60\n@ SOA @ admin ( 1 2 3 4 60 ) ; @ is us\n@ NS @\n@ A 10.0.0.1\nwww CNAME @\n\
             mail MX 10 @\ntext TXT \"a @ b\"\n$ORIGIN sub\nalias CNAME @\n@ A 10.0.0.2\n",
        )
        .unwrap();
        let www = ask(&zone, "www.corp.example", rtype::A).await;
        assert!(www.counts[0] == 2 && www.body.ends_with(&[10, 0, 0, 1]));
        let alias = ask(&zone, "alias.sub.corp.example", rtype::A).await;
        assert!(alias.counts[0] == 2 && alias.body.ends_with(&[10, 0, 0, 2]));
        assert!(ask(&zone, "text.corp.example", 16).await.body.ends_with(b"a @ b"));
        assert_eq!(ask(&zone, "mail.corp.example", 15).await.kind, Kind::Positive);
    }

    #[test]
    fn errors_name_file_and_line() {
        let bad = ZONE.replace("10.0.0.3", "10.0.0.300");
        let error = parse(&bad).unwrap_err().to_string();
        assert!(error.starts_with("/zones/corp:6: "), "{error}");
        let open = ZONE.replace("7 3600", "(7 36x00)");
        let error = parse(&open).unwrap_err().to_string();
        assert!(error.starts_with("/zones/corp:2: "), "{error}");
    }

    #[test]
    fn a_zone_has_a_soa_and_only_its_own_names() {
        let error = parse("www 60 IN A 10.0.0.1\n").unwrap_err().to_string();
        assert!(error.contains("SOA"), "{error}");
        let error = parse(&format!("{ZONE}www.example.org. 60 IN A 10.0.0.1\n")).unwrap_err().to_string();
        assert_eq!(error, "/zones/corp: www.example.org. is not in the zone corp.example.");
    }

    #[test]
    fn a_record_that_no_message_can_carry_is_found_at_load() {
        for (rtype, data) in [("HTTPS", "1 . alpn="), ("TXT", "")] {
            let error = parse(&format!("{ZONE}www {rtype} {data}\n")).unwrap_err().to_string();
            let expected = format!("/zones/corp: the {rtype} record of www.sub.corp.example.");
            assert!(error.starts_with(&expected), "{error}");
        }
    }

    #[tokio::test]
    async fn includes_are_relative_to_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            std::fs::File::create(folder.path().join(name)).unwrap().write_all(text.as_bytes()).unwrap();
        };
        write("more", "more 60 IN A 10.0.0.9\n");
        write("zone", &format!("{}$INCLUDE more\n", ZONE.split("$ORIGIN").next().unwrap()));
        let zone = ZoneFile::load("corp.example", &folder.path().join("zone")).unwrap();
        assert_eq!(ask(&zone, "more.corp.example", rtype::A).await.kind, Kind::Positive);
        let error = ZoneFile::load("corp.example", &folder.path().join("none")).unwrap_err().to_string();
        assert!(error.contains("none: cannot be read"), "{error}");
    }
}
