//! The miss path: routing by zone, single flight, serve-stale, prefetch, and what a client gets when all fails.
//!
//! All of it runs on one thread, in a `tokio::task::LocalSet`: no locks, and what one bulk of upstream replies answers
//! leaves in one `sendmmsg`. This room touches the cache, [`crate::authority`] and upstreams, and sends replies through
//! [`Outbox`]. It reads a clock once per event.
//!
//! The way of a question, top to bottom: `Resolver::miss` → `zone::Tables::route` → `Resolver::join_or_start` →
//! `Resolver::fly` → `Resolver::look_up` → `Resolver::land`.
//!
//! | RFC | what of it stands here |
//! |---|---|
//! | 1035 §4.1.1, §7.4 | RD=0 is passed on and shared with nobody; a cut reply is passed on with TC, never kept (`land`) |
//! | 2308 §5 | negative TTLs, no SOA: not kept ([`policy`]) |
//! | 5452 §3 | one upstream query for identical questions ([`flight`]) |
//! | 6147 | DNS64 ([`dns64`]) |
//! | 6761 and its kin | local names before any zone ([`zone`]) |
//! | 8767 | stale answers after a failure or the client timer, at once while upstreams are down (`miss`, `look_up_or_serve_stale`, `land`) |
//! | 8914 | extended errors ([`failure`]) |
//! | 9520 | failures are remembered, longer each time ([`failure`], [`policy`]) |

pub mod account;
pub mod admission;
pub mod control;
pub mod exchange;
pub mod job;

mod dns64;
mod failure;
mod fixed;
mod flight;
mod land;
mod landed;
mod look_up;
mod policy;
mod reload;
mod reply;
mod rewrite;
mod zone;

#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::task::spawn_local;

pub use account::{Account, Answered};
pub use control::{Controls, Handle};
pub use fixed::FixedAnswerError;
pub use zone::TablesError;

use crate::cache::key::Seed;
use crate::cache::store::{Budgets, Kept};
use crate::cache::{Entry, Freshness, Key, Now, Store};
use crate::config::{Config, Forward};
use crate::observe::{Counters, ShedReason, Source, ZoneId, Zones};
use crate::server::client::Client;
use crate::server::outbox::Outbox;
use crate::wire::answer::{Answer, Kind};
use crate::wire::{ede, rcode};
use exchange::Exchange;
use failure::Looked;
use flight::{Flight, Flights, Load, Start};
use job::{Job, Miss};
use landed::Landed;
use reply::Reply;
use zone::{Forwarder, Local, Open, Route, Tables, Zone};

/// What the miss path is given: everything it shares with other rooms.
pub struct Context {
    /// Where answers are kept.
    pub store: Arc<Store>,
    /// Zone numbers.
    pub zones: Zones,
    /// Process-wide counters.
    pub counters: Counters,
    /// Told of every answer.
    pub account: Box<dyn Account>,
    /// Milliseconds of a monotonic clock; [`crate::sys::clock::now`] but in tests.
    pub clock: fn() -> Now,
}

/// The miss path. See the module's documentation.
pub struct Resolver<U> {
    context: Context,
    seed: Seed,
    tables: RefCell<Rc<Tables<U>>>,
    config: RefCell<Config>,
    epoch: Cell<u64>,
    flights: RefCell<Flights<U>>,
    outbox: RefCell<Outbox>,
    flush: Notify,
    flush_due: Cell<bool>,
    landed: Notify,
    landed_at: RefCell<Landed>,
    open: Box<Open<U>>,
    upstream_has_answered: Arc<AtomicBool>,
}

impl<U: Exchange> Resolver<U> {
    /// A resolver for `config`. `open` makes a group of upstreams.
    ///
    /// Fails where a file of the configuration cannot be read or is wrong.
    pub fn new(
        config: &Config,
        context: Context,
        open: impl Fn(&Forward, Vec<SocketAddr>) -> U + 'static,
    ) -> Result<Rc<Self>, TablesError> {
        let open: Box<Open<U>> = Box::new(open);
        let tables = Tables::build(config, None, &context.zones, &open)?;
        Ok(Rc::new(Self {
            context,
            seed: Seed::of_process(),
            tables: RefCell::new(Rc::new(tables)),
            config: RefCell::new(config.clone()),
            epoch: Cell::new(0),
            flights: RefCell::new(Flights::new(&config.limits)),
            outbox: RefCell::default(),
            flush: Notify::new(),
            flush_due: Cell::new(false),
            landed: Notify::new(),
            landed_at: RefCell::new(Landed::new()),
            open,
            upstream_has_answered: Arc::default(),
        }))
    }

    /// Takes jobs until their senders are gone, then finishes what is on its way, for a little less than `listen.drain`;
    /// what is left then gets SERVFAIL. Must run within a `LocalSet`.
    pub async fn run(self: Rc<Self>, mut jobs: mpsc::Receiver<Job>, controls: Controls) {
        controls.share(&self.upstream_has_answered);
        let helpers = [
            spawn_local(Rc::clone(&self).flush_replies()),
            spawn_local(Rc::clone(&self).obey(controls)),
            spawn_local(Rc::clone(&self).watch_files()),
        ];
        let mut batch = Vec::with_capacity(JOBS_AT_ONCE);
        while let taken @ 1.. = jobs.recv_many(&mut batch, JOBS_AT_ONCE).await {
            let now = (self.context.clock)();
            for job in batch.drain(..) {
                match job {
                    Job::Miss(miss) => self.miss(*miss, now),
                    Job::Prefetch(entry) => self.prefetch(entry),
                }
            }
            // What was answered at once need not wait for the first step of all the lookups that were started.
            if self.outbox.borrow().len() >= JOBS_AT_ONCE {
                self.flush_now();
            }
            // Nor is the channel emptied before anything of it goes out: a burst fills it, and tokio would let that pass.
            if taken == JOBS_AT_ONCE {
                tokio::task::yield_now().await;
            }
        }
        let drain = self.config.borrow().listen.drain.0;
        self.finish(drain.saturating_sub(DRAIN_RESERVE)).await;
        for helper in helpers {
            helper.abort();
        }
    }

    /// Waits for the lookups on their way, and answers whoever still waits then.
    async fn finish(&self, at_most: Duration) {
        let all_landed = async {
            while self.flights.borrow().len() > 0 {
                self.landed.notified().await;
            }
        };
        let _ = tokio::time::timeout(at_most, all_landed).await;
        let now = (self.context.clock)();
        let servfail = Answer::empty(rcode::SERVFAIL, Kind::Failure, 0);
        let left = self.flights.borrow().all();
        for flight in left {
            self.answer_waiters(&flight, &servfail, Some(ede::NOT_READY), Source::Failure, now);
        }
        self.flush_now();
    }

    /// A client waits for an answer.
    fn miss(self: &Rc<Self>, miss: Miss, now: Now) {
        let Miss { key, kept, recursion_desired, client } = miss;
        let kept = self.kept_now(&key, kept, client.received);
        let before = kept.holds();
        let answer = kept.answer.filter(|entry| entry.freshness(now) != Freshness::Dead);
        if let Some(entry) = &answer
            && entry.freshness(now) == Freshness::Fresh
        {
            return self.reply_fresh(&client, &key, entry, now);
        }
        let flight = self.flights.borrow().find(&key, recursion_desired, self.epoch.get());
        if let Some(flight) = flight {
            return self.join(&flight, client, now);
        }
        let tables = Rc::clone(&self.tables.borrow());
        let (zone, target) = match tables.route(&key) {
            Route::Zone { zone, target } => (zone, target),
            Route::Local(local) => return self.answer_locally(&tables, &client, &key, local, now),
            Route::Nowhere => {
                let refused = Answer::empty(rcode::REFUSED, Kind::Failure, 0);
                let extended_error = Some(ede::NOT_AUTHORITATIVE);
                let how = Reply { extended_error, ..Reply::new(&key, ZoneId::OTHER, Source::Failure, now) };
                return self.reply(&client, &refused, &how);
            }
        };
        let stale = answer.filter(|_| zone.policy.stale.is_some());
        let failure = kept.failure.filter(|entry| entry.freshness(now) == Freshness::Fresh);
        match (&stale, &failure) {
            // RFC 8767 §5: the recheck is throttled by the remembered failure, and there is none of an upstream that is
            // known to be down, which its own probes find up again.
            (Some(stale), failure) if failure.is_some() || zone.is_down() => {
                return self.reply_stale(&client, &key, stale, &zone.policy, now);
            }
            (None, Some(failure)) if recursion_desired => {
                return self.reply_fresh(&client, &key, failure, now);
            }
            _ => {}
        }
        let epoch = self.epoch.get();
        let start = Start { key, recursion_desired, zone, target, stale, refreshes: None, before, epoch };
        self.start_for(client, start, now);
    }

    /// What is kept for `key`: what the worker saw at `seen_at`, unless it may have changed since.
    fn kept_now(&self, key: &Key, seen: Kept, seen_at: Now) -> Kept {
        let store = &self.context.store;
        if store.generation() != seen.generation || self.landed_at.borrow().since(key.hash(), seen_at) {
            return store.kept(key);
        }
        seen
    }

    /// Lets the client wait for a lookup that is on its way.
    fn join(&self, flight: &Rc<Flight<U>>, client: Client, now: Now) {
        // Of an upstream that went down since the lookup began nobody need wait for a failure (RFC 8767 §5).
        let at_once = |entry: &&Entry| {
            let stale = entry.freshness(now) == Freshness::Stale;
            flight.stale_due.get() || stale && flight.zone.is_down()
        };
        if let Some(stale) = flight.stale.as_ref().filter(at_once) {
            return self.reply_stale(&client, &flight.key, stale, &flight.zone.policy, now);
        }
        let may_join = self.flights.borrow().may_join(flight, client.address());
        match may_join {
            Ok(()) => self.wait(flight, client),
            Err(reason) => self.shed(&client, &flight.key, &flight.zone, flight.stale.as_ref(), reason, now),
        }
    }

    /// Starts a lookup for which the client waits.
    fn start_for(self: &Rc<Self>, client: Client, start: Start<U>, now: Now) {
        let may_start = self.flights.borrow().may_start(client.address(), load_of(&start.zone));
        if let Err(reason) = may_start {
            return self.shed(&client, &start.key, &start.zone, start.stale.as_ref(), reason, now);
        }
        let flight = self.start(start);
        self.wait(&flight, client);
    }

    /// A popular answer nears its end: looks it up anew, with nobody waiting.
    fn prefetch(self: &Rc<Self>, entry: Entry) {
        let key = Key::new(&entry.question(), self.seed);
        if self.flights.borrow().find(&key, true, self.epoch.get()).is_some() {
            return entry.release_prefetch();
        }
        let tables = Rc::clone(&self.tables.borrow());
        match tables.route(&key) {
            Route::Local(local) => {
                self.keep_local(&tables, &key, local, (self.context.clock)());
            }
            Route::Zone { zone, target }
                if !zone.is_down() && self.flights.borrow().has_room_for_prefetch(load_of(&zone)) =>
            {
                self.context.counters.prefetches.inc();
                let epoch = self.epoch.get();
                // Should its time be over before the lookup is, whoever asks then has it to fall back on.
                let stale = zone.policy.stale.map(|_| entry.clone());
                self.start(Start {
                    recursion_desired: true,
                    zone,
                    target,
                    stale,
                    refreshes: Some(entry),
                    before: self.context.store.kept(&key).holds(),
                    key,
                    epoch,
                });
            }
            _ => entry.release_prefetch(),
        }
    }

    fn start(self: &Rc<Self>, start: Start<U>) -> Rc<Flight<U>> {
        let flight = self.flights.borrow_mut().start(start);
        if let Some(forwarder) = flight.zone.forwarder() {
            forwarder.in_flight.set(forwarder.in_flight.get() + 1);
        }
        // Boxed: a task is aligned to 128 bytes, and mimalloc takes its slow way for that as for more than 1,024 bytes,
        // which the future alone has not (`tests::flights`).
        spawn_local(Box::pin(Rc::clone(self).fly(Rc::clone(&flight))));
        flight
    }

    fn wait(&self, flight: &Flight<U>, client: Client) {
        let mut flights = self.flights.borrow_mut();
        flights.wait(flight, client);
        self.context.counters.in_flight.set(i64::try_from(flights.waiting()).unwrap_or(i64::MAX));
    }

    /// One lookup from start to end.
    async fn fly(self: Rc<Self>, flight: Rc<Flight<U>>) {
        let looked = match flight.stale.as_ref().zip(flight.zone.policy.stale) {
            None => self.look_up(&flight).await,
            // Boxed: every lookup under way has room for this future otherwise.
            Some((stale, settings)) => {
                Box::pin(self.look_up_or_serve_stale(&flight, stale, settings.client_timeout)).await
            }
        };
        self.land(&flight, looked);
    }

    /// A client with something stale to fall back on waits for the client timer at most; the lookup goes on all the same
    /// (RFC 8767 §5).
    async fn look_up_or_serve_stale(
        &self,
        flight: &Flight<U>,
        stale: &Entry,
        client_timeout: Duration,
    ) -> Looked {
        let mut looking_up = std::pin::pin!(self.look_up(flight));
        if let Ok(looked) = tokio::time::timeout(client_timeout, &mut looking_up).await {
            return looked;
        }
        flight.stale_due.set(true);
        self.answer_waiters_stale(flight, stale, (self.context.clock)());
        looking_up.await
    }

    /// Turns a client away, unless there is something stale for it.
    ///
    /// A client beyond its share is refused: that is policy, and about this client (RFC 1035 §4.1.1, RFC 8914 §4.19).
    /// Where the node as a whole has no room it is SERVFAIL, which says to try again (RFC 8914 §4.15).
    fn shed(
        &self,
        client: &Client,
        key: &Key,
        zone: &Zone<U>,
        stale: Option<&Entry>,
        reason: ShedReason,
        now: Now,
    ) {
        self.context.account.shed(client, reason);
        if let Some(stale) = stale {
            return self.reply_stale(client, key, stale, &zone.policy, now);
        }
        let (rcode, extended_error) = admission::refusal(reason);
        let answer = Answer::empty(rcode, Kind::Failure, 0);
        let extended_error = Some(extended_error);
        self.reply(client, &answer, &Reply { extended_error, ..Reply::new(key, zone.id, Source::Shed, now) });
    }

    fn answer_locally(&self, tables: &Tables<U>, client: &Client, key: &Key, local: Local<U>, now: Now) {
        let zone = local.zone.as_ref().map_or(ZoneId::OTHER, |zone| zone.id);
        let answer = self.keep_local(tables, key, local, now);
        self.reply(client, &answer, &Reply::new(key, zone, Source::Local, now));
    }
}

/// What the store may hold.
pub fn budgets(config: &Config) -> Budgets {
    let cache = &config.cache;
    Budgets { positive: cache.size.0, negative: cache.negative_size.0, failure: cache.failure_size.0 }
}

/// How full the way to a zone's upstreams is.
fn load_of<U: Exchange>(zone: &Zone<U>) -> Load {
    let load = |forwarder: &Rc<Forwarder<U>>| Load {
        in_flight: forwarder.in_flight.get(),
        capacity: Some(forwarder.capacity()),
    };
    zone.forwarder().map(load).unwrap_or_default()
}

/// Jobs taken from the channel at once, between two looks at what else is ready.
const JOBS_AT_ONCE: usize = 256;

/// What is left of the drain time to answer those whose lookups have not ended.
const DRAIN_RESERVE: Duration = Duration::from_millis(200);
