//! Failures remembered, and stale answers in their place.

use std::time::Duration;

use hickory_proto::op::{Edns, ResponseCode};
use hickory_proto::rr::RecordType;

use super::flights::key_of;
use super::support::*;
use crate::observe::Source;
use crate::upstream::ExchangeError;
use crate::wire::ede;

const NAME: &str = "www.example.";

#[test]
fn rfc9520_a_failure_is_remembered_longer_each_time() {
    run(async {
        let world = World::new(FORWARD, rcode(ResponseCode::ServFail));
        let mut asked_at = Vec::new();
        let start = now();
        for _ in 0..70 {
            let before = world.asked();
            let reply = world.ask(NAME, RecordType::A).await;
            assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
            if world.asked() > before {
                assert_eq!(extended_error(&reply), None);
                asked_at.push(now().seconds_since(start));
            } else {
                assert_eq!(extended_error(&reply), Some(ede::CACHED_ERROR));
            }
            pass(SECOND).await;
        }
        assert_eq!(asked_at, [0, 1, 3, 7, 15, 31, 61]);
        assert_eq!(world.counters.failures_cached.get(), 7);
    });
}

#[test]
fn rfc9520_an_answer_ends_the_backoff() {
    run(async {
        let world = World::new(FORWARD, rcode(ResponseCode::ServFail));
        for _ in 0..4 {
            world.ask(NAME, RecordType::A).await;
            pass(SECOND).await;
        }
        pass(30 * SECOND).await;
        world.says(address(1));
        assert_eq!(world.ask(NAME, RecordType::A).await.answers.len(), 1);
        assert!(world.store.failure(&key_of(NAME)).is_none());
    });
}

#[test]
fn rfc9520_a_failure_long_past_does_not_count_any_more() {
    run(async {
        let world = World::new(FORWARD, rcode(ResponseCode::ServFail));
        for _ in 0..5 {
            world.ask(NAME, RecordType::A).await;
            pass(20 * SECOND).await;
        }
        pass(100 * SECOND).await;
        world.ask(NAME, RecordType::A).await;
        let asked = world.asked();
        pass(SECOND).await;
        world.ask(NAME, RecordType::A).await;
        assert_eq!(world.asked(), asked + 1, "remembered for a second, as the first time");
    });
}

#[test]
fn refused_and_notimp_pass_as_they_are_and_formerr_is_our_own_fault() {
    run(async {
        for (theirs, ours) in [
            (ResponseCode::Refused, ResponseCode::Refused),
            (ResponseCode::NotImp, ResponseCode::NotImp),
            (ResponseCode::ServFail, ResponseCode::ServFail),
            (ResponseCode::YXDomain, ResponseCode::YXDomain),
            (ResponseCode::FormErr, ResponseCode::ServFail),
            // Without an OPT record the client would read four bits of them: NXDOMAIN and YXRRSET.
            (ResponseCode::BADALG, ResponseCode::ServFail),
            (ResponseCode::BADCOOKIE, ResponseCode::ServFail),
        ] {
            let says = move |query: &_| {
                let mut reply = reply_to(query, theirs);
                reply.set_edns(Edns::new());
                says(&reply)
            };
            let world = World::new(FORWARD, says);
            assert_eq!(world.ask(NAME, RecordType::A).await.metadata.response_code, ours, "{theirs}");
            assert_eq!(
                world.ask(NAME, RecordType::A).await.metadata.response_code,
                ours,
                "{theirs}, remembered"
            );
            assert_eq!(world.asked(), 1);
        }
    });
}

#[test]
fn rfc8914_the_client_learns_why() {
    run(async {
        let endpoint: std::sync::Arc<str> = "10.96.0.10:53".into();
        for (error, code) in [
            (
                ExchangeError::Timeout { endpoint: endpoint.clone(), after: SECOND },
                ede::NO_REACHABLE_AUTHORITY,
            ),
            (ExchangeError::Unreachable { endpoint: endpoint.clone() }, ede::NETWORK_ERROR),
            (ExchangeError::Down, ede::NO_REACHABLE_AUTHORITY),
            (ExchangeError::NoUpstream, ede::NO_REACHABLE_AUTHORITY),
            (ExchangeError::Truncated { endpoint: endpoint.clone() }, ede::INVALID_DATA),
            (ExchangeError::Overloaded { endpoint }, ede::NOT_READY),
        ] {
            let world = World::new(FORWARD, move |_| (Duration::ZERO, Err(error.clone())));
            let reply = world.ask(NAME, RecordType::A).await;
            assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
            assert_eq!(extended_error(&reply), Some(code));
            let plain = Asks { edns: false, ..Asks::default() };
            assert!(
                world.ask_as(NAME, RecordType::A, plain).await.edns.is_none(),
                "only EDNS clients see it"
            );
        }
    });
}

#[test]
fn a_reply_that_does_not_parse_is_servfail() {
    run(async {
        let world = World::new(FORWARD, |query| {
            let (wait, reply) = address(30)(query);
            (wait, reply.map(|mut bytes| bytes.split_off(0)[..20].to_vec()))
        });
        let reply = world.ask(NAME, RecordType::A).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
        assert_eq!(extended_error(&reply), Some(ede::INVALID_DATA));
    });
}

#[test]
fn while_all_is_down_failures_do_not_back_off_so_that_recovery_is_seen_within_a_second() {
    run(async {
        let world = World::new(FORWARD, |_| (Duration::ZERO, Err(ExchangeError::Down)));
        world.script.down.set(true);
        for _ in 0..15 {
            world.ask(NAME, RecordType::A).await;
            pass(SECOND).await;
        }
        world.script.down.set(false);
        world.says(address(30));
        assert_eq!(world.ask(NAME, RecordType::A).await.answers.len(), 1);
    });
}

#[test]
fn rfc8767_after_a_failure_a_stale_answer_goes_out_with_ttl_30_and_ede_3() {
    run(async {
        let world = World::new(FORWARD, address(10));
        world.ask(NAME, RecordType::A).await;
        pass(11 * SECOND).await;
        world.says(rcode(ResponseCode::ServFail));
        let reply = world.ask(NAME, RecordType::A).await;
        assert_eq!((reply.metadata.response_code, reply.answers[0].ttl), (ResponseCode::NoError, 30));
        assert_eq!((extended_error(&reply), world.asked()), (Some(ede::STALE_ANSWER), 2));
        assert_eq!(world.last_source(), Some(Source::Stale));
        let again = world.ask(NAME, RecordType::A).await;
        assert_eq!((again.answers[0].ttl, world.asked()), (30, 2), "the recheck is throttled");
    });
}

#[test]
fn rfc8767_a_stale_nxdomain_says_ede_19() {
    run(async {
        let world = World::new(FORWARD, nxdomain(5));
        world.ask(NAME, RecordType::A).await;
        pass(6 * SECOND).await;
        world.says(timeout(Duration::from_millis(500)));
        let reply = world.ask(NAME, RecordType::A).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(extended_error(&reply), Some(ede::STALE_NXDOMAIN));
    });
}

#[test]
fn rfc8767_the_client_timer_gives_stale_and_the_lookup_goes_on() {
    run(async {
        let world = World::new(FORWARD, address(10));
        world.ask(NAME, RecordType::A).await;
        pass(11 * SECOND).await;
        world.says(late(3 * SECOND, address(10)));
        let start = now();
        let reply = world.ask(NAME, RecordType::A).await;
        assert_eq!(extended_error(&reply), Some(ede::STALE_ANSWER));
        let waited = now().millis_since(start);
        assert!((1800..1900).contains(&waited), "{waited} ms");
        let start = now();
        let reply = world.ask(NAME, RecordType::A).await;
        assert_eq!(extended_error(&reply), Some(ede::STALE_ANSWER), "whoever comes now need not wait");
        assert!(now().millis_since(start) < 10);
        pass(2 * SECOND).await;
        let reply = world.ask(NAME, RecordType::A).await;
        assert_eq!((extended_error(&reply), reply.answers[0].ttl, world.asked()), (None, 10, 2));
    });
}

#[test]
fn rfc8767_a_quick_answer_is_preferred_to_a_stale_one() {
    run(async {
        let world = World::new(FORWARD, address(10));
        world.ask(NAME, RecordType::A).await;
        pass(11 * SECOND).await;
        world.says(late(SECOND, address(10)));
        let reply = world.ask(NAME, RecordType::A).await;
        assert_eq!((extended_error(&reply), reply.answers[0].ttl), (None, 10));
    });
}

#[test]
fn while_upstreams_are_known_to_be_down_stale_goes_out_at_once_and_nothing_is_sent() {
    run(async {
        let world = World::new(FORWARD, address(10));
        world.ask(NAME, RecordType::A).await;
        pass(11 * SECOND).await;
        world.script.down.set(true);
        world.says(timeout(4 * SECOND));
        let start = now();
        for _ in 0..100 {
            assert_eq!(extended_error(&world.ask(NAME, RecordType::A).await), Some(ede::STALE_ANSWER));
        }
        assert!(now().millis_since(start) < 10);
        assert_eq!(world.asked(), 1);
        world.script.down.set(false);
        world.says(address(10));
        assert_eq!(extended_error(&world.ask(NAME, RecordType::A).await), None, "back to normal at once");
    });
}

#[test]
fn rfc8767_stale_ends_with_max_age_and_is_never_used_over_a_fresh_nxdomain() {
    run(async {
        let world = World::new(FORWARD, address(10));
        world.ask(NAME, RecordType::A).await;
        pass(11 * SECOND).await;
        world.says(nxdomain(5));
        let reply = world.ask(NAME, RecordType::A).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain, "the name is gone");
        world.says(rcode(ResponseCode::ServFail));
        pass(6 * SECOND).await;
        let reply = world.ask(NAME, RecordType::A).await;
        assert_eq!(extended_error(&reply), Some(ede::STALE_NXDOMAIN), "and stays gone");
        pass(Duration::from_secs(3601)).await;
        let reply = world.ask(NAME, RecordType::A).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    });
}

#[test]
fn serve_stale_can_be_turned_off() {
    run(async {
        let yaml = format!("{FORWARD}\ncache: {{serve_stale: false}}");
        let world = World::new(&yaml, address(10));
        world.ask(NAME, RecordType::A).await;
        pass(11 * SECOND).await;
        world.says(rcode(ResponseCode::ServFail));
        let reply = world.ask(NAME, RecordType::A).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    });
}
