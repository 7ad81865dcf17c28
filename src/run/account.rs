//! Counts and logs what the miss path answered, under the listener that was asked.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use crate::cache::Now;
use crate::observe::query_log::Entry;
use crate::observe::{DropReason, QueryLogger, Server, SharedTally, ShedReason, Tallies};
use crate::resolver::account::{Account, Answered};
use crate::server::client::Client;

/// The miss path's accounts: one tally a listener.
pub(super) struct Ledger {
    tallies: Tallies,
    of_server: RefCell<HashMap<Server, SharedTally>>,
    logger: RefCell<QueryLogger>,
    /// Clients answered, for whoever wants to know how busy this is.
    answered: Arc<AtomicU64>,
}

impl Ledger {
    pub(super) fn new(tallies: Tallies, logger: QueryLogger, answered: Arc<AtomicU64>) -> Self {
        Self { tallies, of_server: RefCell::default(), logger: RefCell::new(logger), answered }
    }

    fn tally(&self, server: Server) -> SharedTally {
        let mut of_server = self.of_server.borrow_mut();
        of_server.entry(server).or_insert_with(|| self.tallies.shared(server)).clone()
    }
}

impl Account for Ledger {
    fn answered(&self, answered: &Answered<'_>) {
        let Answered { client, key, zone, outcome, upstream, reply_len, now } = *answered;
        self.answered.fetch_add(1, Ordering::Relaxed);
        let tally = self.tally(client.way.server());
        let micros = micros_between(client.received, now);
        tally.query(zone, key.qtype(), client.query_len(), key.flags().dnssec_ok());
        tally.response(zone, outcome, reply_len, micros);
        let mut logger = self.logger.borrow_mut();
        if logger.wants() {
            logger.log(&Entry {
                at: SystemTime::now(),
                client: client.peer,
                proto: client.way.server().proto,
                name: client.name(),
                qtype: key.qtype(),
                qclass: key.qclass(),
                outcome,
                upstream: upstream.and_then(|label| label.parse().ok()),
                micros,
                size: u32::try_from(reply_len).unwrap_or(u32::MAX),
            });
        }
    }

    fn shed(&self, client: &Client, reason: ShedReason) {
        self.tally(client.way.server()).shed(reason);
    }

    fn refused(&self, server: Server, replies: usize) {
        let tally = self.tally(server);
        for _ in 0..replies {
            tally.dropped(DropReason::Send);
        }
    }
}

fn micros_between(received: Now, answered: Now) -> u32 {
    u32::try_from(answered.millis_since(received).saturating_mul(1000)).unwrap_or(u32::MAX)
}
