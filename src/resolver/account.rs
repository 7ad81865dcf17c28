//! Who is told what the miss path answered: the counters by listener and the query log hang on it.

use crate::cache::{Key, Now};
use crate::observe::{Outcome, Server, ShedReason, ZoneId};
use crate::server::client::Client;

/// What became of one query. Everything is borrowed for the call.
#[derive(Debug, Clone, Copy)]
pub struct Answered<'a> {
    /// Who asked, over what, and when.
    pub client: &'a Client,
    /// What was asked.
    pub key: &'a Key,
    /// The zone it was looked up in.
    pub zone: ZoneId,
    /// Where the answer came from, and what it was.
    pub outcome: Outcome,
    /// The upstream that gave it, where one did and it is known.
    pub upstream: Option<&'a str>,
    /// Bytes of the reply.
    pub reply_len: usize,
    /// When the reply was made.
    pub now: Now,
}

/// Told of every query the miss path took: once when it is answered.
pub trait Account {
    /// A query was answered.
    fn answered(&self, answered: &Answered<'_>);

    /// A query was turned away; [`Account::answered`] follows for the answer that says so.
    fn shed(&self, client: &Client, reason: ShedReason);

    /// The kernel did not take so many of the replies that were to leave by `server`.
    fn refused(&self, server: Server, replies: usize);
}
