//! The hit path, without its sockets: what becomes of each datagram of a batch.
//!
//! [`Query::parse`] → [`Question::hash`] → [`Near::find`] → the header flipped where it was received, the bytes up to the TTL
//! written behind it. Nothing on it allocates or locks, and no more of an answer is copied: the rest is pieces of the store's
//! entry, or of a near slot's copy, which the kernel reads where they lie. What is not near is looked for in the store, and
//! what is not there goes to the resolver, which answers by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use super::client::{Client, Way};
use crate::cache::key::{Question, Seed};
use crate::cache::near::{Found, SlotId};
use crate::cache::store::Kept;
use crate::cache::{Entry, Freshness, Key, Near, Now, Store};
use crate::observe::query_log;
use crate::observe::{DropReason, Kind, Outcome, Proto, QueryLogger, ShedReason, Source, Tally, ZoneId};
use crate::resolver::admission::{self, Admission, Channel};
use crate::resolver::job::{Job, Jobs, Miss};
use crate::sys::mmsg::{BATCH, Datagram, PIECES};
use crate::sys::socket::UdpListener;
use crate::wire::query::{Facts, Ignored, Query, Rejection};
use crate::wire::reply::{self, Asked, OPT_LEN, Transport, Ttls};
use crate::wire::{HEADER_LEN, flags};

/// What a worker knows and owns.
pub struct HitPath {
    near: Near,
    store: Arc<Store>,
    jobs: Jobs,
    admission: Admission,
    tally: Tally,
    logger: QueryLogger,
    figures: Arc<NearFigures>,
    reported: (usize, usize),
    seed: Seed,
    transport: Transport,
    now: Now,
    seen: Box<[Seen; BATCH]>,
    plans: Box<[Plan; BATCH]>,
    planned: usize,
    /// Replies that are in no near slot, of this batch.
    scratch: Vec<u8>,
}

/// What a worker is made of.
pub struct Parts {
    /// The store all workers share.
    pub store: Arc<Store>,
    /// The way to the resolver.
    pub jobs: Jobs,
    /// The worker's counters.
    pub tally: Tally,
    /// The worker's end of the query log.
    pub logger: QueryLogger,
    /// Where the worker's near table is counted in.
    pub figures: Arc<NearFigures>,
    /// `cache.near_size`, in bytes.
    pub near_size: usize,
    /// `cache.rotate`.
    pub rotate: bool,
    /// `listen.max_udp_payload`, in bytes.
    pub max_payload: u16,
    /// `limits.client_share`, from 0 to 1.
    pub client_share: f64,
}

/// What the near tables of all workers hold together. Each worker adds and takes away its own.
#[derive(Debug, Default)]
pub struct NearFigures {
    /// Names.
    pub entries: AtomicU64,
    /// Bytes.
    pub bytes: AtomicU64,
    /// Bytes they may hold.
    pub budget: AtomicU64,
}

impl Drop for HitPath {
    fn drop(&mut self) {
        self.report((0, 0));
        self.figures.budget.fetch_sub(self.near.budget() as u64, Ordering::Relaxed);
    }
}

/// What a datagram turned out to be.
#[derive(Debug, Clone, Copy)]
enum Seen {
    /// Longer than its room.
    Oversize,
    /// Nothing that can be answered from the cache.
    Rejected(Rejection),
    /// A query, and its question's hash.
    Query(Facts, u64),
}

/// What goes back for one datagram.
#[derive(Debug, Clone, Copy)]
enum Plan {
    /// Nothing, or nothing yet.
    Nothing,
    /// The first bytes of the datagram, flipped, and an OPT if it had one.
    Head { len: u16, opt: Option<[u8; OPT_LEN]> },
    /// The datagram's head, flipped, and behind it the lead of a near slot's answer; then its rest, and an OPT.
    Near { len: u16, slot: SlotId, rotation: u8, opt: Option<[u8; OPT_LEN]> },
    /// A whole reply in the scratch buffer.
    Scratch { start: u32, end: u32 },
}

impl HitPath {
    /// A worker with an empty near table.
    pub fn new(parts: Parts) -> Self {
        parts.figures.budget.fetch_add(parts.near_size as u64, Ordering::Relaxed);
        Self {
            near: Near::new(parts.near_size, parts.rotate),
            store: parts.store,
            jobs: parts.jobs,
            admission: Admission::new(parts.client_share, Seed::of_process().words()),
            tally: parts.tally,
            logger: parts.logger,
            figures: parts.figures,
            reported: (0, 0),
            seed: Seed::of_process(),
            transport: Transport::Udp { max_payload: parts.max_payload },
            now: Now::default(),
            seen: Box::new([Seen::Oversize; BATCH]),
            plans: Box::new([Plan::Nothing; BATCH]),
            planned: 0,
            scratch: Vec::new(),
        }
    }

    /// Begins a batch at `now`: the one reading of the clock for all of it.
    pub fn begin(&mut self, now: Now) {
        self.now = now;
        self.planned = 0;
        self.scratch.clear();
        self.near.begin_batch(self.store.generation());
    }

    /// Reads datagram `index`: the first of three steps that all datagrams of a batch take together, so that one waits
    /// for memory while the others are worked on.
    ///
    /// # Panics
    /// If `index` is not below [`BATCH`].
    #[inline]
    pub fn read(&mut self, index: usize, datagram: &Datagram<'_>) {
        self.seen[index] = if datagram.oversize {
            Seen::Oversize
        } else {
            match Query::parse(datagram.bytes()) {
                Ok(query) => {
                    let hash = Question::of(&query).hash(self.seed);
                    self.near.prefetch_set(hash);
                    Seen::Query(query.facts(), hash)
                }
                Err(rejection) => Seen::Rejected(rejection),
            }
        };
    }

    /// Brings near what the first `count` datagrams' answers consist of.
    #[inline]
    pub fn prefetch(&self, count: usize) {
        let mut slots = [None; BATCH];
        for (slot, seen) in slots.iter_mut().zip(&self.seen[..count]) {
            if let Seen::Query(_, hash) = seen {
                *slot = self.near.prefetch_slot(*hash);
            }
        }
        for slot in slots[..count].iter().flatten() {
            self.near.prefetch_answer(*slot);
        }
    }

    /// Decides what goes back for datagram `index`, and writes its header. `listener` is the way back for an answer that
    /// has to be looked up first.
    ///
    /// # Panics
    /// If `index` is not below [`BATCH`], or another datagram was read there.
    #[inline]
    pub fn plan(&mut self, index: usize, mut datagram: Datagram<'_>, listener: &Arc<UdpListener>) {
        let plan = match self.seen[index] {
            Seen::Query(facts, hash) => {
                let question = Question::of(&Query::again(datagram.bytes(), facts));
                match self.near.find(hash, &question, self.now) {
                    Found::Ready(slot) => self.near_reply(&mut datagram, facts, slot, Source::Near),
                    Found::Due(slot) => self.ask_store(datagram, facts, Some(slot), listener),
                    Found::Nothing => self.ask_store(datagram, facts, None, listener),
                }
            }
            Seen::Rejected(rejection) => self.reject(datagram.bytes_mut(), rejection),
            Seen::Oversize => {
                self.tally.dropped(DropReason::Oversize);
                Plan::Nothing
            }
        };
        self.plans[index] = plan;
        self.planned += usize::from(!matches!(plan, Plan::Nothing));
    }

    /// The pieces of datagram `index`'s reply: how much of the datagram itself, and what stands behind it.
    #[inline]
    pub fn reply(&self, index: usize) -> Option<(usize, [&[u8]; PIECES - 1])> {
        match &self.plans[index] {
            Plan::Nothing => None,
            Plan::Head { len, opt } => {
                let opt = opt.as_ref().map_or(&[][..], |opt| opt);
                Some((usize::from(*len), [opt, &[], &[], &[]]))
            }
            Plan::Near { len, slot, rotation, opt } => {
                let [a, b, c] = self.near.served(*slot).rest(*rotation);
                Some((usize::from(*len), [a, b, c, opt.as_ref().map_or(&[][..], |opt| opt)]))
            }
            Plan::Scratch { start, end } => {
                Some((0, [&self.scratch[*start as usize..*end as usize], &[], &[], &[]]))
            }
        }
    }

    /// Ends a batch of whose replies the kernel took `sent`.
    pub fn finish(&mut self, sent: usize) {
        for _ in sent..self.planned {
            self.tally.dropped(DropReason::Send);
        }
        let near = (self.near.len(), self.near.bytes());
        if near != self.reported {
            self.report(near);
        }
    }

    /// Tells what the near table holds now. Only a batch that filled or dropped a slot comes here.
    fn report(&mut self, (entries, bytes): (usize, usize)) {
        let add = |total: &AtomicU64, now: usize, before: usize| {
            total.fetch_add((now as u64).wrapping_sub(before as u64), Ordering::Relaxed);
        };
        add(&self.figures.entries, entries, self.reported.0);
        add(&self.figures.bytes, bytes, self.reported.1);
        self.reported = (entries, bytes);
    }

    /// The near table, for its figures.
    pub fn near(&self) -> &Near {
        &self.near
    }

    #[inline]
    fn near_reply(
        &mut self,
        datagram: &mut Datagram<'_>,
        asked: Facts,
        slot: SlotId,
        source: Source,
    ) -> Plan {
        let rotation = self.near.next_rotation(slot);
        let served = self.near.served(slot);
        let parts = served.parts;
        let opt = asked.edns.map(|edns| reply::opt_record(parts.rcode, edns.dnssec_ok));
        let opt_len = if opt.is_some() { OPT_LEN } else { 0 };
        let len = usize::from(asked.head_len);
        let whole = served.body_len().map(|body| len + body + opt_len);
        let fits = whole.filter(|&whole| whole <= reply::reply_limit(asked.edns, self.transport));
        let with_option = opt.is_some() && served.entry.extended_error().is_some();
        let Some(reply_len) = fits.filter(|_| !with_option) else {
            return self.copied_reply(datagram, asked, slot, source);
        };
        let lead = served.lead(self.now);
        let (zone, kind) = (zone_of(served.entry.zone()), served.entry.kind());
        let authentic_data = parts.authentic_data && asked.wants_authentic_data();
        let reply_flags = reply::reply_flags(asked.flags, parts.rcode, authentic_data, false);
        self.tally.query(zone, asked.qtype, datagram.bytes().len(), asked.dnssec_ok());
        let outcome = Outcome::new(source, parts.rcode, kind);
        self.tally.response(zone, outcome, reply_len, 0);
        if let Some(header) = datagram.bytes_mut().first_chunk_mut::<HEADER_LEN>() {
            reply::flip_header(header, reply_flags, true, parts.counts, opt.is_some());
        }
        datagram.write(len, lead.room());
        if self.logger.wants() {
            self.log(datagram, len, outcome, reply_len);
        }
        Plan::Near { len: asked.head_len + lead.bytes().len() as u16, slot, rotation, opt }
    }

    /// The reply of a near slot that does not fit, or with an extended error: copied, since it is put together anew.
    #[cold]
    fn copied_reply(&mut self, datagram: &Datagram<'_>, facts: Facts, slot: SlotId, source: Source) -> Plan {
        let entry = self.near.served(slot).entry.clone();
        self.scratch_reply(datagram, facts, &entry, source)
    }

    /// Logs a query; its header may have been flipped, its question is as it was.
    #[cold]
    fn log(&self, datagram: &Datagram<'_>, head_len: usize, outcome: Outcome, reply_len: usize) {
        let question = &datagram.bytes()[HEADER_LEN..head_len];
        let (name, tail) = question.split_at(question.len() - 4);
        self.logger.log(&query_log::Entry {
            at: SystemTime::now(),
            client: datagram.peer(),
            proto: Proto::Udp,
            name,
            qtype: u16::from_be_bytes([tail[0], tail[1]]),
            qclass: u16::from_be_bytes([tail[2], tail[3]]),
            outcome,
            upstream: None,
            micros: 0,
            size: reply_len as u32,
        });
    }

    /// A near miss, or a slot for which the store must be asked.
    fn ask_store(
        &mut self,
        mut datagram: Datagram<'_>,
        facts: Facts,
        due: Option<SlotId>,
        listener: &Arc<UdpListener>,
    ) -> Plan {
        let key = &Key::of(&Query::again(datagram.bytes(), facts), self.seed);
        let last = due.and_then(|slot| self.near.take_hits(slot));
        let entry = match (self.store.find(key, self.now), last) {
            // Evicted, and looked up since for someone else, who had nothing to fall back on.
            (Ok(failure), Some((old, _)))
                if failure.kind() == Kind::Failure
                    && old.kind() != Kind::Failure
                    && old.freshness(self.now) == Freshness::Fresh =>
            {
                old
            }
            (Ok(entry), Some((old, hits))) => {
                entry.add_hits(if entry.is(&old) { hits + 1 } else { 1 });
                entry
            }
            (Ok(entry), None) => {
                entry.add_hits(1);
                entry
            }
            // Evicted for want of room, but good: it was asked a minute ago.
            (Err(kept), Some((old, _)))
                if kept.answer.is_none() && old.freshness(self.now) == Freshness::Fresh =>
            {
                old
            }
            (Err(kept), _) => {
                if let Some(slot) = due {
                    self.near.drop_slot(slot);
                }
                return self.miss(&mut datagram, facts, key, kept, listener);
            }
        };
        if entry.wants_prefetch(self.now) && self.jobs.try_send(Job::Prefetch(entry.clone())).is_err() {
            entry.release_prefetch();
        }
        let (slot, source) = match due {
            Some(slot) => {
                self.near.renew(slot, &entry, self.now);
                (Some(slot), Source::Near)
            }
            None => (self.near.fill(key, &entry, self.now), Source::Store),
        };
        match slot {
            Some(slot) => self.near_reply(&mut datagram, facts, slot, source),
            // The batch itself holds every slot that could make room, or it is larger than any.
            None => self.scratch_reply(&datagram, facts, &entry, source),
        }
    }

    /// A reply that is in no near slot as it goes out.
    fn scratch_reply(
        &mut self,
        datagram: &Datagram<'_>,
        facts: Facts,
        entry: &Entry,
        source: Source,
    ) -> Plan {
        let query = Query::again(datagram.bytes(), facts);
        let start = self.scratch.len();
        let ttls = Ttls::Aged(entry.age(self.now));
        let parts = entry.parts();
        reply::push_reply(
            &mut self.scratch,
            &Asked::of(&query, self.transport),
            &parts,
            ttls,
            entry.extended_error(),
        );
        let zone = zone_of(entry.zone());
        self.tally.query(zone, query.qtype(), query.packet_len(), query.dnssec_ok());
        let outcome = Outcome::new(source, parts.rcode, entry.kind());
        let reply_len = self.scratch.len() - start;
        self.tally.response(zone, outcome, reply_len, 0);
        if self.logger.wants() {
            let head_len = query.head().len();
            self.log(datagram, head_len, outcome, reply_len);
        }
        Plan::Scratch { start: start as u32, end: self.scratch.len() as u32 }
    }

    fn miss(
        &mut self,
        datagram: &mut Datagram<'_>,
        facts: Facts,
        key: &Key,
        kept: Kept,
        listener: &Arc<UdpListener>,
    ) -> Plan {
        let peer = datagram.peer();
        if peer.port() == 0 {
            self.tally.dropped(DropReason::Port);
            return Plan::Nothing;
        }
        if !self.admission.admit(peer.ip(), Channel::of(&self.jobs), self.now) {
            return self.shed(datagram, facts, ShedReason::ClientShare);
        }
        let query = Query::again(datagram.bytes(), facts);
        let way = Way::Udp(Arc::clone(listener));
        let client = Client::new(&query, self.transport, peer, self.now, way);
        let miss = Miss { key: key.clone(), kept, recursion_desired: query.recursion_desired(), client };
        if self.jobs.try_send(Job::Miss(Box::new(miss))).is_ok() {
            return Plan::Nothing;
        }
        // Full: the miss path has more than it can do, and waiting would make hits pay for it.
        self.shed(datagram, facts, ShedReason::Queue)
    }

    /// Turns a miss away at once: an answer costs less than the retries of a client that gets none.
    #[cold]
    fn shed(&mut self, datagram: &mut Datagram<'_>, facts: Facts, reason: ShedReason) -> Plan {
        let (rcode, extended_error) = admission::refusal(reason);
        let query = Query::again(datagram.bytes(), facts);
        self.tally.shed(reason);
        self.tally.query(ZoneId::OTHER, query.qtype(), query.packet_len(), query.dnssec_ok());
        let (head_len, edns) = (query.head().len(), query.edns());
        let outcome = Outcome::new(Source::Shed, rcode, Kind::Failure);
        let (plan, reply_len) = if edns.is_some() {
            let start = self.scratch.len();
            let parts = reply::Parts { rcode, authentic_data: false, counts: [0; 3], body: &[], ttl_at: &[] };
            let asked = Asked::of(&query, self.transport);
            reply::push_reply(&mut self.scratch, &asked, &parts, Ttls::Aged(0), Some(extended_error));
            let end = self.scratch.len();
            (Plan::Scratch { start: start as u32, end: end as u32 }, end - start)
        } else {
            (flip_error(datagram.bytes_mut(), rcode, head_len, None), head_len)
        };
        self.tally.response(ZoneId::OTHER, outcome, reply_len, 0);
        plan
    }

    #[cold]
    fn reject(&mut self, bytes: &mut [u8], rejection: Rejection) -> Plan {
        match rejection {
            Rejection::Ignore(ignored) => {
                self.tally.dropped(match ignored {
                    Ignored::Short => DropReason::Malformed,
                    Ignored::Response => DropReason::Response,
                });
                Plan::Nothing
            }
            Rejection::Answer { rcode, head_len, edns } => {
                let zone = ZoneId::OTHER;
                self.tally.query(zone, 0, bytes.len(), false);
                let outcome = Outcome::new(Source::Failure, rcode, Kind::Failure);
                let reply_len = head_len + if edns.is_some() { OPT_LEN } else { 0 };
                self.tally.response(zone, outcome, reply_len, 0);
                flip_error(bytes, rcode, head_len, edns.map(|edns| edns.dnssec_ok))
            }
        }
    }
}

fn zone_of(number: u16) -> ZoneId {
    ZoneId::from_index(usize::from(number)).unwrap_or(ZoneId::OTHER)
}

/// An error without records, written over the query's own header; with an OPT and this DO bit if there is one.
fn flip_error(bytes: &mut [u8], rcode: u16, head_len: usize, dnssec_ok: Option<bool>) -> Plan {
    let Some(header) = bytes.first_chunk_mut::<HEADER_LEN>() else { return Plan::Nothing };
    let query_flags = u16::from_be_bytes([header[2], header[3]]) & !flags::AD;
    let reply_flags = reply::reply_flags(query_flags, rcode, false, false);
    reply::flip_header(header, reply_flags, head_len > HEADER_LEN, [0; 3], dnssec_ok.is_some());
    Plan::Head { len: head_len as u16, opt: dnssec_ok.map(|dnssec_ok| reply::opt_record(rcode, dnssec_ok)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::entry::Origin;
    use crate::cache::store::Budgets;
    use crate::observe::{QueryLog, Tallies};
    use crate::sys::mmsg::DATAGRAM_ROOM;
    use crate::wire::answer::{Answer, Kind};
    use crate::wire::rcode;

    const QUERY: &[u8] = b"\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x00\x00\x01\x00\x01";

    /// The rcode of what goes back for [`QUERY`] at `now`.
    fn rcode_at(path: &mut HitPath, listener: &Arc<UdpListener>, now: Now) -> Option<u8> {
        let mut room = Box::new([0; DATAGRAM_ROOM]);
        room[..QUERY.len()].copy_from_slice(QUERY);
        path.begin(now);
        path.read(0, &Datagram::detached(&mut room, QUERY.len()));
        path.prefetch(1);
        path.plan(0, Datagram::detached(&mut room, QUERY.len()), listener);
        let (own, rest) = path.reply(0)?;
        let reply = [&[&room[..own]][..], &rest].concat().concat();
        Some(reply[3] & 0xf)
    }

    #[test]
    fn an_answer_at_hand_is_kept_over_another_clients_failure() {
        let listener = Arc::new(UdpListener::bind("127.0.0.1:0".parse().unwrap()).unwrap());
        let budgets = Budgets { positive: 1 << 20, negative: 1 << 20, failure: 1 << 20 };
        let store = Arc::new(Store::new(budgets));
        let (jobs, _taken) = tokio::sync::mpsc::channel(8);
        let mut path = HitPath::new(Parts {
            store: Arc::clone(&store),
            jobs,
            tally: Tallies::new()
                .tally(crate::observe::Server { address: listener.address(), proto: Proto::Udp }),
            logger: QueryLog::new(prometheus::IntCounter::new("dropped", "dropped").unwrap()).logger(),
            figures: Arc::default(),
            near_size: 1 << 20,
            rotate: true,
            max_payload: 1232,
            client_share: 0.1,
        });
        let now = Now(1_000_000);
        let key = Key::of(&Query::parse(QUERY).unwrap(), Seed::of_process());
        let origin = |stored| Origin { stored, ..Origin::default() };
        store.insert(&key, &Answer::empty(rcode::NOERROR, Kind::Positive, 3600), origin(now));
        assert_eq!(rcode_at(&mut path, &listener, now), Some(0));

        // The store loses it, and a lookup for a client of another worker fails.
        store.resize(Budgets { positive: 0, ..budgets });
        assert_eq!(store.stats().positive.entries, 0);
        let later = now.plus_secs(61);
        store.insert(&key, &Answer::empty(rcode::SERVFAIL, Kind::Failure, 30), origin(later));
        assert_eq!(rcode_at(&mut path, &listener, later), Some(0));

        // Once its own time is over the failure is what there is.
        let end = now.plus_secs(3601);
        store.insert(&key, &Answer::empty(rcode::SERVFAIL, Kind::Failure, 30), origin(end));
        assert_eq!(rcode_at(&mut path, &listener, end), Some(2));
    }
}
