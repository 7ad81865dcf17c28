//! An answer in the near table, hit again and again while it ages. The input is eight bytes and an upstream's reply: bits
//! (rotation, OPT wanted, DO, prefetch), the entry's age in seconds when it comes near (two bytes), and five steps of time.

use hickory_proto::rr::Record;
use nodens::cache::entry::{Origin, PrefetchRule};
use nodens::cache::key::{Question, Seed};
use nodens::cache::near::{Found, SlotId};
use nodens::cache::{Entry, Freshness, Key, KeyFlags, Near, Now};
use nodens::wire::answer::Answer;
use nodens::wire::query::Query;
use nodens::wire::reply::{flip_header, opt_record, reply_flags};
use nodens::wire::{HEADER_LEN, MAX_MESSAGE};

use super::records::{Sections, assert_aged, expected, head_of, read};

pub(crate) fn check(input: &[u8]) -> bool {
    let Some((&[bits, a0, a1, ref steps @ ..], reply)) = input.split_first_chunk::<8>() else { return false };
    if reply.len() > MAX_MESSAGE {
        return false;
    }
    let Ok(answer) = Answer::from_reply(reply) else { return false };
    let Some((sections, _)) = expected(reply) else { return false };
    let Some(head) = head_of(reply, 0x0100) else { return false };
    let Ok(query) = Query::parse(&head) else { return false };

    let bit = |n: u8| bits >> n & 1 != 0;
    let (rotate, opt, dnssec_ok, prefetch) = (bit(0), bit(1), bit(2), bit(3));
    let flags = KeyFlags::new(dnssec_ok, false);
    let key = Key::new(&Question { flags, ..Question::of(&query) }, Seed::of_process());
    let stored = Now(1_234_567);
    let prefetch = if prefetch { PrefetchRule { min_hits: 3, window: 5 } } else { PrefetchRule::default() };
    let entry = Entry::new(&key, &answer, Origin { stored, prefetch, ..Origin::default() });

    let mut now = stored.plus_secs(u32::from(u16::from_be_bytes([a0, a1]))).plus_millis(u64::from(bits) * 3);
    if entry.freshness(now) != Freshness::Fresh {
        return false;
    }
    let mut near = Near::new(1 << 20, rotate);
    near.begin_batch(1);
    // Larger than any UDP reply: what of it fits is taken from the entry, as the target `reply` does.
    let Some(slot) = near.fill(&key, &entry, now) else {
        assert!(answer.body.len() > 4096, "an empty table has room");
        return true;
    };
    let mut hit = Hit { head: &head, sections: &sections, rotate, opt };
    hit.check(&mut near, slot, &entry, now);
    for &step in steps {
        // Up to a quarter of a second, up to 63 seconds, or up to some hours: within a second, counted down, asked anew.
        now = match step >> 6 {
            0 | 1 => now.plus_millis(u64::from(step) * 2),
            2 => now.plus_secs(u32::from(step & 63)),
            _ => now.plus_secs(u32::from(step & 63) * 301),
        };
        near.begin_batch(1);
        let slot = match near.find(key.hash(), &key.question(), now) {
            Found::Ready(slot) => {
                assert_eq!(entry.freshness(now), Freshness::Fresh, "only a fresh entry is served unasked");
                slot
            }
            Found::Due(slot) if entry.freshness(now) == Freshness::Fresh => {
                near.renew(slot, &entry, now);
                slot
            }
            Found::Due(slot) => {
                near.drop_slot(slot);
                assert!(near.is_empty() && near.find(key.hash(), &key.question(), now) == Found::Nothing);
                break;
            }
            Found::Nothing => panic!("what was filled is found"),
        };
        hit.check(&mut near, slot, &entry, now);
    }
    true
}

/// A client's hit, and what it must get.
struct Hit<'a> {
    head: &'a [u8],
    sections: &'a Sections,
    rotate: bool,
    opt: bool,
}

impl Hit<'_> {
    fn check(&mut self, near: &mut Near, slot: SlotId, entry: &Entry, now: Now) {
        let age = entry.age(now);
        let rotation = near.next_rotation(slot);
        let served = near.served(slot);
        let mut bytes = self.head.to_vec();
        let flags = reply_flags(0x0100, served.parts.rcode, false, false);
        let body = [served.lead(now).bytes(), &served.rest(rotation).concat()].concat();
        assert_eq!(Some(body.len()), served.body_len());
        bytes.extend_from_slice(&body);
        if self.opt {
            bytes.extend_from_slice(&opt_record(served.parts.rcode, entry.flags().dnssec_ok()));
        }
        Self::flip(&mut bytes, flags, served.parts.counts, self.opt);
        let read = read(&bytes).expect("what goes out reads");
        assert_eq!(read.has_edns, self.opt);
        let [answers, authorities, additionals] = self.sections;
        if self.rotate {
            let (mut got, mut kept) = (read.sections[0].clone(), answers.clone());
            // In whatever order, but of each record as many as there were.
            // hickory-proto writes all classes it does not know alike.
            let text = |record: &Record| (record.to_string().to_lowercase(), u16::from(record.dns_class));
            for record in &mut kept {
                record.ttl = record.ttl.saturating_sub(age);
            }
            got.sort_by_cached_key(text);
            kept.sort_by_cached_key(text);
            assert_aged(&got, &kept, 0);
        } else {
            assert_aged(&read.sections[0], answers, age);
        }
        assert_aged(&read.sections[1], authorities, age);
        assert_aged(&read.sections[2], additionals, age);
    }

    fn flip(bytes: &mut [u8], flags: u16, counts: [u16; 3], opt: bool) {
        let header = bytes.first_chunk_mut::<HEADER_LEN>().expect("a head begins with a header");
        flip_header(header, flags, true, counts, opt);
    }
}
