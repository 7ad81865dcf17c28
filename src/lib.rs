//! nodens: a node-local caching DNS forwarder for Kubernetes.
//!
//! The rooms, and what each may touch, are described in `ARCHITECTURE.md`.

pub mod authority;
pub mod cache;
pub mod cli;
pub mod config;
pub mod node;
pub mod observe;
pub mod resolver;
pub mod run;
pub mod server;
pub mod sys;
pub mod upstream;
pub mod wire;
