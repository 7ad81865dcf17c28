//! What each step of a hit costs, without sockets: `cargo bench --bench steps`.
//!
//! Absolute times depend on the machine; `benches/guard` counts instructions, which do not. The load benchmark
//! (`cargo bench --bench load`) says what a whole answer costs with the kernel's share.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use nodens::cache::entry::Origin;
use nodens::cache::key::{Question, Seed};
use nodens::cache::near::Found;
use nodens::cache::store::Budgets;
use nodens::cache::{Key, KeyFlags, Near, Now, Store};
use nodens::observe::{Proto, QueryLog, Server, Tallies, ZoneId};
use nodens::server::hit::{HitPath, Parts};
use nodens::sys::clock;
use nodens::sys::mmsg::{BATCH, DATAGRAM_ROOM, Datagram};
use nodens::sys::socket::UdpListener;
use nodens::wire::answer::{Answer, Kind};
use nodens::wire::query::Query;
use nodens::wire::reply::{Asked, Transport, Ttls, flip_header, push_reply};
use nodens::wire::{CLASS_IN, HEADER_LEN, rcode, rtype};

/// Names in the tables: as many as a busy node's pods ask for.
const NAMES: usize = 31_162;

const NOW: Now = Now(1_000_000);

fn query(number: usize) -> Vec<u8> {
    let mut packet = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in [&*format!("service-{number:05}"), "namespace", "svc", "cluster", "local"] {
        packet.push(label.len() as u8);
        packet.extend_from_slice(label.as_bytes());
    }
    packet.extend_from_slice(&[0, 0, rtype::A as u8, 0, CLASS_IN as u8]);
    packet
}

fn key(packet: &[u8]) -> Key {
    Key::of(&Query::parse(packet).expect("a sound query"), Seed::of_process())
}

fn answer(addresses: u16) -> Answer {
    let mut answer = Answer::empty(rcode::NOERROR, Kind::Positive, 3600);
    for number in 0..addresses {
        answer.ttl_at.push((answer.body.len() as u16 + 6).to_ne_bytes());
        answer.body.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 14, 16, 0, 4, 10, 0, 0, number as u8]);
    }
    answer.counts[0] = addresses;
    answer
}

fn store() -> Arc<Store> {
    let store = Store::new(Budgets { positive: 64 << 20, negative: 8 << 20, failure: 1 << 20 });
    for number in 0..NAMES {
        let origin = Origin { stored: NOW, zone: ZoneId::OTHER.index() as u16, ..Origin::default() };
        store.insert(&key(&query(number)), &answer(1 + number as u16 % 3), origin);
    }
    Arc::new(store)
}

fn steps(c: &mut Criterion) {
    let packets: Vec<_> = (0..NAMES).map(query).collect();
    let keys: Vec<_> = packets.iter().map(|packet| key(packet)).collect();
    let store = store();
    let mut near = Near::new(12 << 20, true);
    near.begin_batch(0);
    for key in &keys {
        let entry = store.find(key, NOW).expect("just stored");
        near.begin_batch(0);
        near.fill(key, &entry, NOW);
    }
    near.begin_batch(0);
    let mut next = 0;
    let mut number = move || {
        next = (next + 7919) % NAMES;
        next
    };
    c.bench_function("parse", |b| b.iter(|| Query::parse(black_box(&packets[0])).is_ok()));
    c.bench_function("key (fold and hash)", |b| {
        let query = Query::parse(&packets[0]).expect("a sound query");
        b.iter(|| Key::of(black_box(&query), Seed::of_process()).hash());
    });
    c.bench_function("near, one name", |b| {
        b.iter(|| near.find(keys[0].hash(), &black_box(&keys[0]).question(), NOW) != Found::Nothing);
    });
    c.bench_function("near, 31k names", |b| {
        b.iter(|| {
            let key = &keys[number()];
            near.find(key.hash(), &key.question(), NOW) != Found::Nothing
        });
    });
    c.bench_function("near, a new second each time", |b| {
        let mut now = NOW;
        // Within the minute after which the store is asked.
        b.iter(|| {
            now = if now.0 > NOW.0 + 55_000 { NOW } else { now.plus_secs(1) };
            near.find(keys[1].hash(), &black_box(&keys[1]).question(), now) != Found::Nothing
        });
    });
    c.bench_function("store, 31k names", |b| b.iter(|| store.find(&keys[number()], NOW).is_ok()));
    let entry = store.find(&keys[0], NOW).expect("just stored");
    c.bench_function("render into a slot", |b| {
        let Found::Ready(slot) = near.find(keys[0].hash(), &keys[0].question(), NOW) else {
            panic!("it is near")
        };
        b.iter(|| near.renew(slot, black_box(&entry), NOW));
    });
    c.bench_function("reply as TCP makes it", |b| {
        let query = Query::parse(&packets[0]).expect("a sound query");
        let asked = Asked::of(&query, Transport::Udp { max_payload: 4096 });
        let mut out = Vec::with_capacity(512);
        b.iter(|| {
            out.clear();
            push_reply(&mut out, &asked, &black_box(&entry).parts(), Ttls::Aged(3), None);
            out.len()
        });
    });
    c.bench_function("flip", |b| {
        let mut header = [0u8; HEADER_LEN];
        b.iter(|| flip_header(black_box(&mut header), 0x8180, true, [1, 0, 0], false));
    });
    c.bench_function("key of a name without case", |b| {
        let name = b"\x07EXAMPLE\x03Org\x00";
        let question = Question { name, qtype: 1, qclass: 1, flags: KeyFlags::default() };
        b.iter(|| Key::new(black_box(&question), Seed::of_process()).hash());
    });
}

/// Where a datagram is received, and its length.
type Room = (Box<[u8; DATAGRAM_ROOM]>, usize);

fn room(packet: &[u8]) -> Room {
    let mut room = Box::new([0; DATAGRAM_ROOM]);
    room[..packet.len()].copy_from_slice(packet);
    (room, packet.len())
}

fn batch(c: &mut Criterion) {
    let listener =
        Arc::new(UdpListener::bind("127.0.0.1:0".parse().expect("a literal")).expect("a free port"));
    let (jobs, _kept) = tokio::sync::mpsc::channel(64);
    let server = Server { address: listener.address(), proto: Proto::Udp };
    let dropped = prometheus::IntCounter::new("dropped", "dropped").expect("a sound name");
    let mut path = HitPath::new(Parts {
        store: store(),
        jobs,
        tally: Tallies::new().tally(server),
        logger: QueryLog::new(dropped).logger(),
        figures: Arc::default(),
        near_size: 12 << 20,
        rotate: true,
        max_payload: 4096,
        client_share: 0.1,
    });
    let mut answer = |packets: &mut Vec<Room>| {
        path.begin(NOW);
        for (index, packet) in packets.iter_mut().enumerate() {
            path.read(index, &Datagram::detached(&mut packet.0, packet.1));
        }
        path.prefetch(packets.len());
        for (index, packet) in packets.iter_mut().enumerate() {
            path.plan(index, Datagram::detached(&mut packet.0, packet.1), &listener);
        }
        // As the kernel does: every byte of every piece is read.
        let sum = (0..packets.len())
            .filter_map(|index| path.reply(index))
            .flat_map(|(_, pieces)| pieces)
            .fold(0u8, |sum, piece| piece.iter().fold(sum, |sum, byte| sum ^ byte));
        path.finish(packets.len());
        sum
    };
    let packets: Vec<_> = (0..NAMES).map(query).collect();
    for batch in packets.chunks(BATCH) {
        answer(&mut batch.iter().map(|packet| room(packet)).collect());
    }
    let mut next = 0;
    let mut names_apart = move |count: usize, step: usize| {
        let mut batch = Vec::with_capacity(count);
        for _ in 0..count {
            next = (next + step) % NAMES;
            batch.push(room(&packets[next]));
        }
        batch
    };
    let mut group = c.benchmark_group("hits, read, planned and in pieces");
    for (name, count, step) in
        [("64 of one name", BATCH, 0), ("64 of 31k names", BATCH, 7919), ("one of 31k names", 1, 7919)]
    {
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(name, |b| {
            b.iter_batched_ref(|| names_apart(count, step), &mut answer, BatchSize::SmallInput);
        });
    }
    group.finish();
    c.bench_function("the clock, once a batch", |b| b.iter(clock::now));
}

criterion_group!(benches, steps, batch);
criterion_main!(benches);
