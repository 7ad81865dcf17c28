//! The miss path against a scripted upstream, with the clock stopped.

mod failures;
mod flights;
mod local;
mod reload;
pub(super) mod support;
