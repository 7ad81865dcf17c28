//! An upstream's reply made an answer, kept as an entry, and sent to a client. The input is four bytes that say how the client
//! asks and how old the entry is ([`Client`]), and the reply.

use std::time::Duration;

use hickory_proto::op::{Message, MessageType};
use nodens::cache::entry::Origin;
use nodens::cache::key::Seed;
use nodens::cache::{Entry, Key, Now};
use nodens::wire::answer::Answer;
use nodens::wire::query::Query;
use nodens::wire::reply::{Asked, OPT_LEN, Transport, Ttls, push_reply};
use nodens::wire::{MAX_MESSAGE, flags};

use super::records::{assert_aged, expected, head_of, read};

pub(crate) fn check(input: &[u8]) -> bool {
    let Some((control, reply)) = input.split_first_chunk::<4>() else { return false };
    if reply.len() > MAX_MESSAGE {
        return false;
    }
    let Ok(answer) = Answer::from_reply(reply) else { return false };
    let (sections, lifetime) = expected(reply).expect("an answer reads, and has a question");
    assert!(answer.ttl == lifetime || answer.ttl == 0, "{} s, not {lifetime} s", answer.ttl);
    assert_eq!(answer.counts.map(usize::from), [0, 1, 2].map(|section| sections[section].len()));
    assert_eq!(answer.ttl_at.len(), sections.iter().map(Vec::len).sum::<usize>(), "every TTL is found");

    let client = Client::new(*control);
    let Some(packet) = client.query(reply) else { return false };
    let Ok(query) = Query::parse(&packet) else { return false };
    let key = Key::of(&query, Seed::of_process());
    let stored = Now(1_000);
    let entry = Entry::new(&key, &answer, Origin { stored, ..Origin::default() });
    assert!(entry.answers(&key));
    let age = entry.age(stored.plus_secs(client.age).plus_millis(999));
    assert_eq!(age, client.age);

    let asked = Asked::of(&query, client.transport);
    let head_len = query.head().len();
    let mut whole = Vec::new();
    push_reply(&mut whole, &asked, &entry.parts(), Ttls::Aged(age), None);
    assert!(whole.len() <= asked.limit(), "{} bytes, {} at most", whole.len(), asked.limit());
    // It refuses some data that is opaque here.
    if Message::from_vec(reply).is_ok() {
        Message::from_vec(&whole).expect("hickory-proto reads what goes out, as it read what came");
    }
    let read = read(&whole).expect("what goes out reads");
    assert_eq!((read.metadata.id, read.metadata.message_type), (0x1234, MessageType::Response));
    assert_eq!(whole[12..query.head().len()], query.head()[12..]);
    assert_eq!(read.has_edns, query.edns().is_some());
    let wants_ad = client.flags & flags::AD != 0 || query.dnssec_ok();
    assert_eq!(read.metadata.authentic_data, wants_ad && answer.authentic_data);
    assert_eq!(read.rcode & 0xf, answer.rcode & 0xf);
    let [answers, authorities, additionals] = &read.sections;
    let got = [answers, authorities, additionals];
    if read.metadata.truncation {
        assert!(authorities.is_empty() && additionals.is_empty());
        assert!(answers.len() <= sections[0].len());
        assert_aged(answers, &sections[0][..answers.len()], age);
        return true;
    }
    let whole = head_len + entry.parts().body.len() + if query.edns().is_some() { OPT_LEN } else { 0 };
    for (section, (got, kept)) in got.into_iter().zip(&sections).enumerate() {
        // Authority and additional section go where the whole does not fit, in this order from behind.
        if section > 0 && got.is_empty() && !kept.is_empty() {
            assert!(whole > asked.limit(), "{whole} bytes fit into {}", asked.limit());
            assert!(section == 2 || additionals.is_empty());
            continue;
        }
        assert_aged(got, kept, age);
    }
    true
}

/// How a client asks.
struct Client {
    flags: u16,
    edns: Option<(u16, bool)>,
    transport: Transport,
    /// Of the entry, in seconds.
    age: u32,
}

impl Client {
    fn new([bits, payload, a0, a1]: [u8; 4]) -> Self {
        let bit = |n: u8| bits >> n & 1 != 0;
        Self {
            flags: flags::RD | (u16::from(bit(0)) * flags::AD) | (u16::from(bit(1)) * flags::CD),
            edns: bit(2).then_some((u16::from(payload) * 64, bit(3))),
            transport: if bit(4) {
                Transport::Tcp { idle_timeout: Duration::from_secs(10) }
            } else {
                Transport::Udp { max_payload: 4096 }
            },
            age: u32::from(u16::from_be_bytes([a0, a1])) << if bit(5) { 16 } else { 0 },
        }
    }

    /// The query that `reply` answers.
    fn query(&self, reply: &[u8]) -> Option<Vec<u8>> {
        let mut packet = head_of(reply, self.flags)?;
        if let Some((payload, dnssec_ok)) = self.edns {
            packet[11] = 1;
            packet.extend_from_slice(&[0, 0, 41]);
            packet.extend_from_slice(&payload.to_be_bytes());
            packet.extend_from_slice(&[0, 0, u8::from(dnssec_ok) << 7, 0, 0, 0]);
        }
        Some(packet)
    }
}
