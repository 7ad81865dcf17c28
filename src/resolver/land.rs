//! The end of a lookup: what is kept, and what those who wait for it get.

use super::Resolver;
use super::exchange::Exchange;
use super::failure::{Failed, Looked, Memory};
use super::flight::Flight;
use super::reply::Reply;
use super::zone::{Local, Tables};
use crate::cache::entry::Origin;
use crate::cache::store::Holds;
use crate::cache::{Entry, Freshness, Key, Now};
use crate::observe::{Source, ZoneId};
use crate::server::client::Client;
use crate::wire::answer::{Answer, Kind};
use crate::wire::ede;

impl<U: Exchange> Resolver<U> {
    /// Keeps what can be kept and answers all who wait.
    pub(super) fn land(&self, flight: &Flight<U>, looked: Looked) {
        let now = (self.context.clock)();
        self.flights.borrow_mut().end(flight);
        if let Some(forwarder) = flight.zone.forwarder() {
            forwarder.in_flight.set(forwarder.in_flight.get() - 1);
        }
        match looked {
            Looked::Answer(mut answer) => {
                let source = match flight.zone.forwarder() {
                    Some(_) => Source::Upstream,
                    None => Source::Local,
                };
                let zone = &flight.zone;
                if zone.policy.bound(&mut answer) && flight.recursion_desired && self.is_current(flight) {
                    let origin = Origin {
                        stored: now,
                        stale_for: zone.policy.stale_for(),
                        zone: zone.id.index() as u16,
                        failures: 0,
                        extended_error: None,
                        prefetch: zone.policy.prefetch(answer.ttl),
                    };
                    self.keep(&flight.key, &answer, origin, flight.before);
                }
                self.answer_waiters(flight, &answer, None, source, now);
            }
            Looked::Truncated => self.answer_waiters_truncated(flight, now),
            Looked::Failed(failed) => self.land_failed(flight, &failed, now),
        }
        self.landed.notify_one();
    }

    fn land_failed(&self, flight: &Flight<U>, failed: &Failed, now: Now) {
        if let Some(entry) = &flight.refreshes {
            // The entry is good for a while yet: it may be tried again.
            entry.release_prefetch();
        }
        if flight.recursion_desired && flight.refreshes.is_none() && self.is_current(flight) {
            self.remember(flight, failed, now);
        }
        if let Some(stale) = flight.stale.as_ref().filter(|entry| entry.freshness(now) != Freshness::Dead) {
            self.answer_waiters_stale(flight, stale, now);
        } else {
            self.answer_waiters(flight, &failed.answer, failed.extended_error, Source::Failure, now);
        }
    }

    fn keep(&self, key: &Key, answer: &Answer, origin: Origin, before: Holds) {
        self.context.store.replace(key, answer, origin, before);
        self.landed_at.borrow_mut().note(key.hash(), (self.context.clock)());
    }

    /// Remembers a failure (RFC 9520 §3.2): its next occurrence is answered from memory.
    fn remember(&self, flight: &Flight<U>, failed: &Failed, now: Now) {
        let Some(settings) = flight.zone.policy.failure else { return };
        let recent = |entry: &Entry| {
            u64::from(now.seconds_since(entry.stored())) < entry.kept_for() + BACKOFF_MEMORY_SECS
        };
        let before =
            self.context.store.failure(&flight.key).filter(recent).map_or(0, |entry| entry.failures());
        let (ttl, failures) = match failed.memory {
            Memory::Backoff if !flight.zone.is_down() => (settings.after(before), before.saturating_add(1)),
            Memory::Backoff | Memory::Brief => (settings.after(0), before),
            Memory::None => return,
        };
        let mut answer = failed.answer.clone();
        answer.ttl = ttl;
        let origin = Origin {
            stored: now,
            zone: flight.zone.id.index() as u16,
            failures,
            extended_error: Some(ede::CACHED_ERROR),
            ..Origin::default()
        };
        self.keep(&flight.key, &answer, origin, flight.before);
        self.context.counters.failures_cached.inc();
    }

    /// Keeps an answer made here, and gives it back with its TTLs bounded.
    pub(super) fn keep_local(&self, tables: &Tables<U>, key: &Key, local: Local<U>, now: Now) -> Answer {
        let Local { mut answer, zone } = local;
        let policy = zone.as_ref().map_or(&tables.policy, |zone| &zone.policy);
        let keep = match answer.kind {
            // A refusal that the operator wrote down: as long as it says.
            Kind::Failure => answer.ttl > 0,
            _ => policy.bound(&mut answer),
        };
        if keep {
            let zone = zone.as_ref().map_or(ZoneId::OTHER, |zone| zone.id).index() as u16;
            let origin = Origin { stored: now, zone, ..Origin::default() };
            self.keep(key, &answer, origin, self.context.store.kept(key).holds());
        }
        answer
    }

    /// Gives all who wait for `flight` the same answer.
    pub(super) fn answer_waiters(
        &self,
        flight: &Flight<U>,
        answer: &Answer,
        extended_error: Option<u16>,
        source: Source,
        now: Now,
    ) {
        let answered_by = flight.answered_by.borrow();
        let how = Reply::new(&flight.key, flight.zone.id, source, now);
        let how = Reply { extended_error, upstream: answered_by.as_deref(), ..how };
        for client in self.take_waiters(flight) {
            self.reply(&client, answer, &how);
        }
    }

    /// Gives all who wait for `flight` what is past its TTL.
    pub(super) fn answer_waiters_stale(&self, flight: &Flight<U>, stale: &Entry, now: Now) {
        for client in self.take_waiters(flight) {
            self.reply_stale(&client, &flight.key, stale, &flight.zone.policy, now);
        }
    }

    fn answer_waiters_truncated(&self, flight: &Flight<U>, now: Now) {
        let answered_by = flight.answered_by.borrow();
        let how = Reply::new(&flight.key, flight.zone.id, Source::Upstream, now);
        let how = Reply { upstream: answered_by.as_deref(), ..how };
        for client in self.take_waiters(flight) {
            self.reply_truncated(&client, &how);
        }
    }

    fn take_waiters(&self, flight: &Flight<U>) -> Vec<Client> {
        let mut flights = self.flights.borrow_mut();
        let waiters = flights.take_waiters(flight);
        self.context.counters.in_flight.set(i64::try_from(flights.waiting()).unwrap_or(i64::MAX));
        waiters
    }

    /// Whether the configuration is still the one the lookup started under.
    fn is_current(&self, flight: &Flight<U>) -> bool {
        flight.epoch == self.epoch.get()
    }
}

/// Seconds past its time for which a failure makes the next one last longer.
const BACKOFF_MEMORY_SECS: u64 = 60;
