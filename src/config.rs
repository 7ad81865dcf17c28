//! The configuration: typed, loaded from defaults ◂ file ◂ environment, and valid before anything is bound.
//!
//! This room opens files and reads the environment. It touches no socket.

pub mod schema;
pub mod units;

pub use schema::*;
pub use units::{ByteSize, Fraction, HumanDuration, Switch};
