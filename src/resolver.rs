//! The miss path: routing by zone, single flight, serve-stale, prefetch, and what a client gets when all fails.

pub mod job;
