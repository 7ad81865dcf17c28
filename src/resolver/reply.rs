//! Replies to clients, and when they leave.

use std::rc::Rc;

use super::exchange::Exchange;
use super::policy::Policy;
use super::{Answered, Resolver};
use crate::cache::{Entry, Key, Now};
use crate::observe::{Outcome, Source, ZoneId};
use crate::server::client::Client;
use crate::server::outbox::Pushed;
use crate::wire::answer::{Answer, Kind};
use crate::wire::reply::{Parts, Ttls};
use crate::wire::{ede, rcode};

/// How an answer goes out, and what is told of it.
#[derive(Clone, Copy)]
pub(super) struct Reply<'a> {
    pub(super) key: &'a Key,
    pub(super) zone: ZoneId,
    pub(super) source: Source,
    pub(super) upstream: Option<&'a str>,
    pub(super) ttls: Ttls,
    pub(super) extended_error: Option<u16>,
    pub(super) now: Now,
}

impl<'a> Reply<'a> {
    /// TTLs as they are, no extended error, no upstream.
    pub(super) fn new(key: &'a Key, zone: ZoneId, source: Source, now: Now) -> Self {
        Self { key, zone, source, upstream: None, ttls: Ttls::Aged(0), extended_error: None, now }
    }
}

impl<U: Exchange> Resolver<U> {
    /// Replies from an entry within its TTL.
    pub(super) fn reply_fresh(&self, client: &Client, key: &Key, entry: &Entry, now: Now) {
        let zone = ZoneId::from_index(usize::from(entry.zone())).unwrap_or(ZoneId::OTHER);
        let ttls = Ttls::Aged(entry.age(now));
        let extended_error = entry.extended_error();
        let how = Reply { ttls, extended_error, ..Reply::new(key, zone, Source::Store, now) };
        self.reply_parts(client, &entry.parts(), entry.kind(), &how);
    }

    /// Replies from an entry past its TTL (RFC 8767 §4).
    pub(super) fn reply_stale(&self, client: &Client, key: &Key, entry: &Entry, policy: &Policy, now: Now) {
        let zone = ZoneId::from_index(usize::from(entry.zone())).unwrap_or(ZoneId::OTHER);
        let ttls = Ttls::Fixed(policy.stale.map_or(DEFAULT_STALE_TTL, |stale| stale.answer_ttl));
        let extended_error = match entry.kind() {
            Kind::NxDomain => Some(ede::STALE_NXDOMAIN),
            _ => Some(ede::STALE_ANSWER),
        };
        let how = Reply { ttls, extended_error, ..Reply::new(key, zone, Source::Stale, now) };
        self.reply_parts(client, &entry.parts(), entry.kind(), &how);
    }

    /// Replies with an answer at hand.
    pub(super) fn reply(&self, client: &Client, answer: &Answer, how: &Reply<'_>) {
        let parts = Parts {
            rcode: answer.rcode,
            authentic_data: answer.authentic_data,
            counts: answer.counts,
            body: &answer.body,
            ttl_at: &answer.ttl_at,
        };
        self.reply_parts(client, &parts, answer.kind, how);
    }

    /// Tells a client that the answer was cut on its way here.
    pub(super) fn reply_truncated(&self, client: &Client, how: &Reply<'_>) {
        let pushed = self.outbox.borrow_mut().reply_truncated(client, rcode::NOERROR);
        self.replied(client, rcode::NOERROR, Kind::NoData, how, pushed);
    }

    fn reply_parts(&self, client: &Client, parts: &Parts<'_>, kind: Kind, how: &Reply<'_>) {
        let pushed = self.outbox.borrow_mut().reply(client, parts, how.ttls, how.extended_error);
        self.replied(client, parts.rcode, kind, how, pushed);
    }

    fn replied(&self, client: &Client, rcode: u16, kind: Kind, how: &Reply<'_>, pushed: Pushed) {
        let Reply { key, zone, source, upstream, now, .. } = *how;
        let outcome = if pushed.shed {
            Outcome::new(Source::Shed, rcode::SERVFAIL, Kind::Failure)
        } else {
            Outcome::new(source, rcode, kind)
        };
        let reply_len = pushed.len;
        self.context.account.answered(&Answered { client, key, zone, outcome, upstream, reply_len, now });
        if !self.flush_due.replace(true) {
            self.flush.notify_one();
        }
    }

    /// Sends what is ready, whenever something is: this task is woken by the first reply, and runs when the lookups that
    /// are ready with it have run.
    pub(super) async fn flush_replies(self: Rc<Self>) {
        loop {
            self.flush.notified().await;
            self.flush_now();
        }
    }

    pub(super) fn flush_now(&self) {
        self.flush_due.set(false);
        let refused = |server, replies| self.context.account.refused(server, replies);
        self.outbox.borrow_mut().flush(refused);
    }
}

/// TTL of a stale answer whose zone has since turned them off (RFC 8767 §4), in seconds.
const DEFAULT_STALE_TTL: u32 = 30;
