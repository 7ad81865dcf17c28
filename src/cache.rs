//! The cache: what an answer is kept under, for how long, and the two tables that hold it.
//!
//! This room takes (bytes, now) and returns decisions: no sockets, and time is an argument.
//!
//! - [`near`] is one worker's own table: no locks, no atomics, no allocation on a hit.
//! - [`store`] is shared by all: moka, with budgets in bytes for positive, negative and failed answers.

pub mod entry;
pub mod key;
pub mod near;
pub mod store;
pub mod time;

pub use entry::{Entry, Freshness};
pub use key::{Key, KeyFlags};
pub use near::Near;
pub use store::Store;
pub use time::Now;
