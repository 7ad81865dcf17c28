//! A worker with its socket, driven in whole batches from the same thread.

use std::net::UdpSocket;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;

use nodens::cache::entry::Origin;
use nodens::cache::key::Seed;
use nodens::cache::store::Budgets;
use nodens::cache::{Entry, Key, Now, Store};
use nodens::observe::{Proto, QueryLog, Server, Tallies, ZoneId};
use nodens::resolver::job::{CHANNEL, Job};
use nodens::server::client::Client;
use nodens::server::hit::{HitPath, Parts};
use nodens::sys::mmsg::{BATCH, Batch};
use nodens::sys::socket::UdpListener;
use nodens::wire::answer::Answer;
use nodens::wire::query::Query;
use nodens::wire::reply::{Ttls, push_reply};
use tokio::sync::mpsc;

use crate::allocations;
use crate::mix::{Mix, Qtype, Question};

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// Answers that lie ready in the near table.
    Hit,
    /// Near answers whose second is over: the store is asked and the slot rendered anew.
    Due,
    /// Answers that only the store has: another worker fetched them.
    Store,
    /// The worker's part of a miss, and all of the reply's way from upstream's bytes to the client's but for sockets and tasks.
    Miss,
}

impl Work {
    pub(crate) const ALL: [Self; 4] = [Self::Hit, Self::Due, Self::Store, Self::Miss];

    /// As the baseline calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Due => "due",
            Self::Store => "store",
            Self::Miss => "miss",
        }
    }
}

/// A client, a worker and an upstream's answers.
pub(crate) struct Replay {
    work: Work,
    client: UdpSocket,
    listener: Arc<UdpListener>,
    batch: Batch,
    path: HitPath,
    store: Arc<Store>,
    jobs: mpsc::Receiver<Job>,
    /// Each query and upstream's reply to it.
    exchanges: Vec<(Vec<u8>, Vec<u8>)>,
    now: Now,
}

/// A query log that is off, as on most nodes.
fn query_log() -> QueryLog {
    QueryLog::new(prometheus::IntCounter::new("dropped", "dropped").expect("a sound name"))
}

impl Replay {
    /// Sets the work up: what is to be found is in the near table or the store when this returns.
    pub(crate) fn new(work: Work) -> Self {
        let listener = UdpListener::bind("127.0.0.1:0".parse().expect("a literal address"))
            .expect("loopback has a free port");
        let client = UdpSocket::bind("127.0.0.1:0").expect("loopback has a free port");
        client.connect(listener.address()).expect("connecting a UDP socket sends nothing");
        client.set_read_timeout(Some(Duration::from_secs(5))).expect("the timeout is not zero");
        let budgets = Budgets { positive: 64 << 20, negative: 64 << 20, failure: 1 << 20 };
        let store = Arc::new(Store::new(budgets));
        let (sender, jobs) = mpsc::channel(CHANNEL);
        let tally = Tallies::new().tally(Server { address: listener.address(), proto: Proto::Udp });
        tally.prepare(ZoneId::OTHER);
        let path = HitPath::new(Parts {
            store: Arc::clone(&store),
            jobs: sender,
            tally,
            logger: query_log().logger(),
            figures: Arc::default(),
            near_size: 12 << 20,
            rotate: true,
            max_payload: 4096,
            client_share: 0.1,
        });
        let mix = Mix::generate();
        let exchanges = mix.questions[..QUESTIONS]
            .iter()
            .enumerate()
            .map(|(index, question)| (query(question, index), upstream_reply(question)))
            .collect();
        let mut replay = Self {
            work,
            client,
            listener: Arc::new(listener),
            batch: Batch::new(),
            path,
            store,
            jobs,
            exchanges,
            now: Now(1_000),
        };
        if work != Work::Miss {
            replay.fill_store();
        }
        if matches!(work, Work::Hit | Work::Due) {
            replay.once(Self::ask);
        }
        replay
    }

    /// Replays the work; how many queries were answered, and how many allocations that took.
    pub(crate) fn run(&mut self) -> (u64, u64) {
        match self.work {
            Work::Hit => (0..HIT_ROUNDS).map(|_| self.once(Self::ask)).fold((0, 0), add),
            Work::Due => (0..DUE_ROUNDS)
                .map(|_| {
                    self.now = self.now.plus_secs(1);
                    self.once(Self::ask)
                })
                .fold((0, 0), add),
            Work::Store => self.once(Self::ask),
            Work::Miss => self.once(Self::ask_and_resolve),
        }
    }

    /// All exchanges once, in batches.
    fn once(&mut self, ask: fn(&mut Self, usize) -> u64) -> (u64, u64) {
        (0..QUESTIONS / BATCH).map(|number| (BATCH as u64, ask(self, number * BATCH))).fold((0, 0), add)
    }

    /// One batch that the worker itself answers; its allocations.
    fn ask(&mut self, first: usize) -> u64 {
        self.send(first);
        let before = allocations::count();
        let sent = guarded_batch(&mut self.path, &mut self.batch, &self.listener, self.now);
        let taken = allocations::count() - before;
        assert_eq!(sent, BATCH, "the worker answers a batch of known names by itself");
        for index in first..first + BATCH {
            let mut buffer = [0; 4_096];
            let len = self.client.recv(&mut buffer).expect("each query is answered");
            self.check(index, &buffer[..len]);
        }
        taken
    }

    /// One batch of unknown names, and what becomes of upstream's replies to them; its allocations.
    fn ask_and_resolve(&mut self, first: usize) -> u64 {
        self.send(first);
        let before = allocations::count();
        let sent = guarded_batch(&mut self.path, &mut self.batch, &self.listener, self.now);
        assert_eq!(sent, 0, "the worker itself knows no answer");
        let mut replies = Vec::with_capacity(BATCH);
        for index in first..first + BATCH {
            let Ok(Job::Miss(miss)) = self.jobs.try_recv() else {
                panic!("each miss is handed to the resolver")
            };
            replies.push(guarded_reply(
                &miss.key,
                &miss.client,
                &self.exchanges[index].1,
                &self.store,
                self.now,
            ));
        }
        // The vector of the replies is the replay's own.
        let taken = allocations::count() - before - 1;
        for (index, reply) in (first..).zip(&replies) {
            self.check(index, reply);
        }
        taken
    }

    fn send(&self, first: usize) {
        for (query, _) in &self.exchanges[first..first + BATCH] {
            self.client.send(query).expect("loopback takes a batch");
        }
    }

    /// A reply has its query's id and question, QR, and the response code and as many answers as upstream gave.
    fn check(&self, index: usize, reply: &[u8]) {
        let (query, upstream) = &self.exchanges[index];
        let question = 12..upstream_question_end(upstream);
        assert_eq!(reply[..2], query[..2], "the query's id");
        assert_eq!(reply[question.clone()], query[question], "the query's question");
        assert_eq!(reply[2] & 0x80, 0x80, "a response");
        if reply[2] & 0x02 == 0 {
            assert_eq!(reply[3] & 0x0f, upstream[3] & 0x0f, "upstream's response code");
            assert_eq!(reply[6..8], upstream[6..8], "upstream's answers");
        }
    }

    fn fill_store(&self) {
        for (query, reply) in &self.exchanges {
            let query = Query::parse(query).expect("the replay's queries are well formed");
            let key = Key::of(&query, Seed::of_process());
            keep(&key, reply, &self.store, self.now);
        }
    }
}

/// What a worker does between two waits, from the received batch to the sent one.
#[inline(never)]
fn guarded_batch(path: &mut HitPath, batch: &mut Batch, listener: &Arc<UdpListener>, now: Now) -> usize {
    let socket = listener.as_fd();
    let count = batch.receive(socket, true).expect("a batch was sent");
    path.begin(now);
    for index in 0..count {
        path.read(index, &batch.datagram(index));
    }
    path.prefetch(count);
    for index in 0..count {
        path.plan(index, batch.datagram(index), listener);
    }
    let (sent, error) = batch.reply(socket, |index| path.reply(index));
    assert!(error.is_none(), "loopback takes every reply: {error:?}");
    path.finish(sent);
    sent
}

/// What becomes of upstream's reply: validated, encoded anew, kept, and sent to the client that waits.
#[inline(never)]
fn guarded_reply(key: &Key, client: &Client, reply: &[u8], store: &Store, now: Now) -> Vec<u8> {
    let entry = keep(key, reply, store, now);
    let mut out = Vec::new();
    push_reply(&mut out, &client.asked(), &entry.parts(), Ttls::Aged(0), None);
    out
}

fn keep(key: &Key, reply: &[u8], store: &Store, now: Now) -> Entry {
    let answer = Answer::from_reply(reply).expect("the replay's replies are well formed");
    let origin = Origin { stored: now, zone: ZoneId::OTHER.index() as u16, ..Origin::default() };
    store.insert(key, &answer, origin)
}

/// The query for a question; every fourth carries an OPT record, as stub resolvers with EDNS send it.
fn query(question: &Question, index: usize) -> Vec<u8> {
    let edns = index.is_multiple_of(4);
    let mut query = (index as u16).to_be_bytes().to_vec();
    query.extend_from_slice(&[0x01, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(edns)]);
    push_question(&mut query, question);
    if edns {
        query.extend_from_slice(&[0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0]);
    }
    query
}

/// Upstream's reply: as many records as the mix says, or the SOA of the zone.
fn upstream_reply(question: &Question) -> Vec<u8> {
    let negative = question.answers == 0;
    let mut reply = vec![0, 0, 0x81, if question.exists { 0x80 } else { 0x83 }, 0, 1];
    reply.extend_from_slice(&question.answers.to_be_bytes());
    reply.extend_from_slice(&[0, u8::from(negative), 0, 0]);
    push_question(&mut reply, question);
    for number in 0..question.answers {
        push_record(&mut reply, OWNER, question.qtype.code(), &rdata(question.qtype, number));
    }
    if negative {
        let mut soa = Vec::new();
        push_name(&mut soa, "ns.dns.cluster.local");
        push_name(&mut soa, "hostmaster.cluster.local");
        for number in [1_u32, 7_200, 1_800, 86_400, 3_600] {
            soa.extend_from_slice(&number.to_be_bytes());
        }
        // The zone is the last two labels of the name.
        let zone = question.name.rmatch_indices('.').nth(1).map_or(0, |(dot, _)| dot as u16 + 1);
        push_record(&mut reply, OWNER + zone, SOA, &soa);
    }
    reply
}

fn rdata(qtype: Qtype, number: u16) -> Vec<u8> {
    let [high, low] = number.to_be_bytes();
    let mut data = match qtype {
        Qtype::A => return vec![10, 0, high, low],
        Qtype::Aaaa => return vec![0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, high, low],
        Qtype::Ptr => Vec::new(),
        Qtype::Srv => vec![0, 0, 0, 10, 0x1b, 0x58],
    };
    push_name(&mut data, &format!("pod-{number}.peers.default.svc.cluster.local"));
    data
}

/// A record with an hour to live, whose owner stands at `owner` in the message.
fn push_record(message: &mut Vec<u8>, owner: u16, rtype: u16, rdata: &[u8]) {
    message.extend_from_slice(&(0xc000 | owner).to_be_bytes());
    message.extend_from_slice(&rtype.to_be_bytes());
    message.extend_from_slice(&[0, 1, 0, 0, 0x0e, 0x10]);
    message.extend_from_slice(&(rdata.len() as u16).to_be_bytes());
    message.extend_from_slice(rdata);
}

fn push_question(message: &mut Vec<u8>, question: &Question) {
    push_name(message, &question.name);
    message.extend_from_slice(&question.qtype.code().to_be_bytes());
    message.extend_from_slice(&[0, 1]);
}

fn push_name(message: &mut Vec<u8>, name: &str) {
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend_from_slice(label.as_bytes());
    }
    message.push(0);
}

fn upstream_question_end(message: &[u8]) -> usize {
    let name = message[12..].iter().position(|&byte| byte == 0).expect("names of the mix hold no zero byte");
    12 + name + 1 + 4
}

fn add(sum: (u64, u64), next: (u64, u64)) -> (u64, u64) {
    (sum.0 + next.0, sum.1 + next.1)
}

/// Questions of the mix that are replayed: whole batches.
const QUESTIONS: usize = 64 * BATCH;
const HIT_ROUNDS: usize = 16;
const DUE_ROUNDS: usize = 4;
/// Where a question's name stands: the owner of what it asks for.
const OWNER: u16 = 12;
/// RFC 1035 section 3.2.2.
const SOA: u16 = 6;
