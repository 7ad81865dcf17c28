//! nodens before an upstream whose every answer the test writes.

#![allow(dead_code, unreachable_pub, reason = "each test file includes this and uses its part")]

use std::time::Duration;

use super::client::{A, Query, Reply, udp};
use super::nodens::{Nodens, zone_dot};
use super::responder::{Asked, Responder, a, answers};
use super::wait::eventually;

/// What names are answered with.
pub const ADDRESS: [u8; 4] = [192, 0, 2, 1];

/// Everything goes to `upstream` over TCP; `yaml` is added.
pub fn before(upstream: &Responder, yaml: &str) -> Nodens {
    Nodens::start(&format!("listen: {{workers: 1}}\n{}{yaml}", zone_dot(upstream.address(), "tcp")))
}

/// The same, where a slow upstream is not asked a second time on another connection.
pub fn without_hedges(upstream: &Responder, yaml: &str) -> Nodens {
    let to = upstream.address();
    Nodens::start(&format!("zones: [{{name: '.', forward: {{to: ['{to}'], hedge: 0%}}}}]\n{yaml}"))
}

/// A query for the name's addresses.
pub fn query(name: &str) -> Query {
    Query::new(name, A)
}

/// One A record for whatever is asked, with this TTL.
pub fn one_address(ttl: u32) -> impl Fn(&Asked) -> Option<Vec<u8>> + Send + Sync {
    move |asked| Some(answers(&asked.query, [a(&asked.name, ttl, ADDRESS)]))
}

/// Asks until a reply is as wanted; that reply.
pub fn until(
    nodens: &Nodens,
    query: &Query,
    what: &str,
    limit: Duration,
    wanted: impl Fn(&Reply) -> bool,
) -> Reply {
    let mut last = None;
    eventually(what, limit, || {
        let reply = udp(nodens.address(), query);
        let done = wanted(&reply);
        last = Some(reply);
        done
    });
    last.expect("one was received")
}
