//! What must hold for any bytes, one module for each way bytes come in. The fuzz targets of this folder run the checks from
//! coverage-guided inputs, `tests/fuzz_seeds.rs` from the corpus and from seeded mutations of it.
//!
//! A check panics where something does not hold, and otherwise says whether the input got past the parser, so that a
//! corpus that no longer reaches anything is noticed.

// A target is a crate of its own that uses one of them.
#![allow(dead_code, reason = "each fuzz target uses one check")]

#[path = "checks/config.rs"]
pub(crate) mod config;
#[path = "checks/corefile.rs"]
pub(crate) mod corefile;
#[path = "checks/near.rs"]
pub(crate) mod near;
#[path = "checks/query.rs"]
pub(crate) mod query;
#[path = "checks/records.rs"]
pub(crate) mod records;
#[path = "checks/reply.rs"]
pub(crate) mod reply;
#[path = "checks/zone_file.rs"]
pub(crate) mod zone_file;
