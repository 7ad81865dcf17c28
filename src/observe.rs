//! What an operator can see: counters, `/metrics`, `/health`, `/ready`, the log and the query log.
//!
//! This room reads counters that others own and serves them over HTTP. It never makes the hit path wait: a UDP worker
//! counts in plain cells of its own ([`Tally`]), which are summed when someone scrapes.

pub mod counters;
pub mod labels;
pub mod tally;
pub mod zones;

pub use counters::Counters;
pub use labels::{DropReason, Kind, Outcome, Proto, ShedReason, Source};
pub use tally::{Server, SharedTally, Tallies, Tally};
pub use zones::{ZoneId, Zones};
