//! The end of a lookup: what is kept, and what those who wait for it get.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::exchange::Exchange;
use super::failure::{Failed, Looked, Memory};
use super::flight::Flight;
use super::zone::{Local, Tables};
use super::{Reply, Resolver};
use crate::cache::entry::Origin;
use crate::cache::{Entry, Freshness, Key, Now};
use crate::observe::{Source, ZoneId};
use crate::wire::answer::{self, Answer};
use crate::wire::ede;
use crate::wire::reply::Ttls;

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
                    self.context.store.insert(Entry::new(&flight.key, &answer, origin));
                }
                self.answer_waiters(flight, &answer, None, source, None, now);
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
        match flight.stale.as_ref().filter(|entry| entry.freshness(now) == Freshness::Stale) {
            Some(stale) => self.answer_waiters_stale(flight, stale, now),
            None => {
                let (answer, extended_error) = (&failed.answer, failed.extended_error);
                self.answer_waiters(flight, answer, extended_error, Source::Failure, None, now);
            }
        }
    }

    /// Remembers a failure (RFC 9520 §3.2): its next occurrence is answered from memory.
    fn remember(&self, flight: &Flight<U>, failed: &Failed, now: Now) {
        let Some(settings) = flight.zone.policy.failure else { return };
        let before = self.context.store.failure(&flight.key).map_or(0, |entry| entry.failures());
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
        self.context.store.insert(Entry::new(&flight.key, &answer, origin));
        self.context.counters.failures_cached.inc();
    }

    /// Keeps an answer made here, and gives it back with its TTLs bounded.
    pub(super) fn keep_local(&self, tables: &Tables<U>, key: &Key, local: Local<U>, now: Now) -> Answer {
        let Local { mut answer, zone } = local;
        let policy = zone.as_ref().map_or(&tables.policy, |zone| &zone.policy);
        let keep = match answer.kind {
            // A refusal that the operator wrote down: as long as it says.
            answer::Kind::Failure => answer.ttl > 0,
            _ => policy.bound(&mut answer),
        };
        if keep {
            let zone = zone.as_ref().map_or(ZoneId::OTHER, |zone| zone.id).index() as u16;
            let origin = Origin { stored: now, zone, ..Origin::default() };
            self.context.store.insert(Entry::new(key, &answer, origin));
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
        upstream: Option<&str>,
        now: Now,
    ) {
        let way = Reply { zone: flight.zone.id, source, upstream };
        for client in self.take_waiters(flight) {
            self.reply(&client, &flight.key, answer, Ttls::Aged(0), extended_error, &way, now);
        }
    }

    /// Gives all who wait for `flight` what is past its TTL.
    pub(super) fn answer_waiters_stale(&self, flight: &Flight<U>, stale: &Arc<Entry>, now: Now) {
        for client in self.take_waiters(flight) {
            self.reply_stale(&client, &flight.key, stale, &flight.zone.policy, now);
        }
    }

    fn answer_waiters_truncated(&self, flight: &Flight<U>, now: Now) {
        let way = Reply { zone: flight.zone.id, source: Source::Upstream, upstream: None };
        for client in self.take_waiters(flight) {
            let rcode = crate::wire::rcode::NOERROR;
            let reply_len = self.outbox.borrow_mut().reply_truncated(&client, rcode);
            self.replied(&client, &flight.key, rcode, answer::Kind::NoData, &way, reply_len, now);
        }
    }

    fn take_waiters(&self, flight: &Flight<U>) -> Vec<crate::server::client::Client> {
        let mut flights = self.flights.borrow_mut();
        let waiters = flights.take_waiters(flight);
        self.context.counters.in_flight.set(i64::try_from(flights.waiting()).unwrap_or(i64::MAX));
        waiters
    }

    /// Whether the configuration is still the one the lookup started under.
    fn is_current(&self, flight: &Flight<U>) -> bool {
        flight.epoch == self.epoch.get()
    }

    /// Notes that an upstream has answered.
    pub(super) fn note_answer(&self) {
        if !self.upstream_has_answered.load(Ordering::Relaxed) {
            self.upstream_has_answered.store(true, Ordering::Release);
        }
    }
}
