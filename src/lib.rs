//! nodens: a node-local caching DNS forwarder for Kubernetes.
//!
//! The rooms, and what each may touch, are described in `ARCHITECTURE.md`.

pub mod config;
pub mod node;
