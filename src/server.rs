//! Where clients are met: UDP workers and the TCP listener.
//!
//! This room touches sockets through [`crate::sys`], the cache, and the resolver's channel. It reads the clock, once per
//! batch or event, and hands the time down.

pub mod client;
pub mod front;
pub mod hit;
pub mod kept;
pub mod outbox;
pub mod tcp;
pub mod udp;
