//! What an operator can see: counters, `/metrics`, `/health`, `/ready`, the log and the query log.
//!
//! This room reads counters that others own and serves them over HTTP. It never makes the hit path wait: a UDP worker
//! counts in plain cells of its own ([`Tally`]), which are summed when someone scrapes. It knows the configuration and
//! no other room; what others report comes through the closures of [`Providers`].

mod coredns;
pub mod counters;
mod family;
pub mod figures;
pub mod health;
pub mod http;
pub mod labels;
pub mod log;
pub mod metrics;
mod native;
mod process;
pub mod query_log;
pub mod tally;
mod totals;
pub mod zones;

pub use counters::{Counters, SetupStep};
pub use figures::{
    CacheFigures, CacheStats, ConntrackFigures, Durations, EndpointFigures, Providers, RepairFigures,
    UpstreamFigures,
};
pub use health::Health;
pub use http::Http;
pub use labels::{DropReason, Kind, Outcome, Proto, ShedReason, Source};
pub use log::LogHandle;
pub use metrics::Metrics;
pub use query_log::{QueryLog, QueryLogger};
pub use tally::{Server, SharedTally, Tallies, Tally};
pub use zones::{ZoneId, Zones};
