//! What the servers hand to the miss path, over a bounded channel.

use tokio::sync::mpsc;

use crate::cache::store::Kept;
use crate::cache::{Entry, Key};
use crate::server::client::Client;

/// Something to look up.
#[derive(Debug)]
pub enum Job {
    /// A client waits for it.
    Miss(Box<Miss>),
    /// A popular answer nears the end of its TTL; nobody waits.
    Prefetch(Entry),
}

/// A question the cache has no fresh answer to, and who asks.
#[derive(Debug)]
pub struct Miss {
    /// The question.
    pub key: Key,
    /// What the store had for it when the server looked.
    pub kept: Kept,
    /// RD: without it the question is passed on as it is, and the answer serves no one else.
    pub recursion_desired: bool,
    /// Who asks.
    pub client: Client,
}

/// The servers' end of the channel.
pub type Jobs = mpsc::Sender<Job>;

/// Jobs the channel holds before the servers shed. With [`crate::config::Limits::in_flight`] it bounds what waits: a
/// burst of 5,000 cold queries fits twice.
pub const CHANNEL: usize = 16_384;
