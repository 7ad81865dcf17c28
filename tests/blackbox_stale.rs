//! Answers past their time, failures that are remembered, answers refreshed ahead of time: one test for each rule, named after its
//! RFC. The real binary, and an upstream that fails as the test says.

mod support {
    pub mod client;
    pub mod fetched;
    pub mod loopback;
    pub mod need;
    pub mod nodens;
    pub mod responder;
    pub mod wait;
}

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;

use support::client::{A, AAAA, Query, both, udp};
use support::fetched::{ADDRESS, before, one_address, query, until};
use support::responder::{Responder, a, answers, negative, rcode};
use support::wait::{eventually, seconds};

/// An upstream that answers with this TTL until it is told to fail.
fn failing_later(ttl: u32, nx: bool) -> (Responder, Arc<AtomicBool>) {
    let fails = Arc::new(AtomicBool::new(false));
    let upstream = {
        let fails = Arc::clone(&fails);
        Responder::start(move |asked| {
            if fails.load(Ordering::SeqCst) {
                return Some(rcode(&asked.query, ResponseCode::ServFail));
            }
            if nx {
                return Some(negative(&asked.query, ResponseCode::NXDomain, "example", ttl, ttl));
            }
            Some(answers(&asked.query, [a(&asked.name, ttl, ADDRESS)]))
        })
    };
    (upstream, fails)
}

#[test]
fn rfc8767_rfc8914_a_stale_answer_after_a_failure_has_ttl_30_and_says_so() {
    for (nx, code) in [(false, 3), (true, 19)] {
        let (upstream, fails) = failing_later(1, nx);
        let nodens = before(&upstream, "cache: {prefetch: false}\n");
        let query = query("stale.example");
        let fresh = udp(nodens.address(), &query.clone().payload(1232));
        assert_eq!(fresh.extended_error(), None);
        fails.store(true, Ordering::SeqCst);
        let stale = until(&nodens, &query.clone().payload(1232), "it is stale", seconds(10), |reply| {
            reply.extended_error().is_some()
        });
        assert_eq!((stale.ttl(), stale.extended_error(), stale.rcode()), (30, Some(code), fresh.rcode()));
        for reply in both(nodens.address(), &query) {
            // Without EDNS there is nothing to say it with.
            assert!(reply.message.edns.is_none());
            assert_eq!((reply.ttl(), reply.rcode()), (30, fresh.rcode()));
        }
        // RFC 8767 §5: the recheck is throttled; a hundred clients in a row are a handful of queries.
        let before = upstream.count("stale.example", A);
        for _ in 0..100 {
            udp(nodens.address(), &query);
        }
        assert!(upstream.count("stale.example", A) <= before + 2);
        assert!(nodens.count("nodens_stale_served_total", &[]) >= 103);
        // And when the upstream is back, so is the answer.
        fails.store(false, Ordering::SeqCst);
        until(&nodens, &query, "it is fresh again", seconds(20), |reply| reply.ttl() <= 1);
    }
}

#[test]
fn rfc8767_a_stale_answer_after_the_client_timer_where_the_upstream_is_silent() {
    let silent = Arc::new(AtomicBool::new(false));
    let upstream = {
        let silent = Arc::clone(&silent);
        Responder::start(move |asked| {
            let answer = answers(&asked.query, [a(&asked.name, 1, ADDRESS)]);
            (!silent.load(Ordering::SeqCst)).then_some(answer)
        })
    };
    let stale = "cache: {prefetch: false, serve_stale: {client_timeout: 300ms}}\n";
    let nodens = before(&upstream, stale);
    udp(nodens.address(), &query("timer.example"));
    silent.store(true, Ordering::SeqCst);
    let started = Instant::now();
    let reply = until(&nodens, &query("timer.example").payload(1232), "it is stale", seconds(10), |reply| {
        reply.extended_error() == Some(3)
    });
    assert_eq!((reply.ttl(), reply.addresses()), (30, vec![ADDRESS]));
    println!("a stale answer after {:?}", started.elapsed());
}

#[test]
fn rfc8767_nothing_stale_over_a_fresh_nxdomain() {
    let gone = Arc::new(AtomicBool::new(false));
    let upstream = {
        let gone = Arc::clone(&gone);
        Responder::start(move |asked| {
            Some(if gone.load(Ordering::SeqCst) {
                negative(&asked.query, ResponseCode::NXDomain, "example", 60, 60)
            } else {
                answers(&asked.query, [a(&asked.name, 1, ADDRESS)])
            })
        })
    };
    let nodens = before(&upstream, "cache: {prefetch: false}\n");
    udp(nodens.address(), &query("gone.example"));
    gone.store(true, Ordering::SeqCst);
    until(&nodens, &query("gone.example"), "it is gone", seconds(10), |reply| {
        reply.rcode() == ResponseCode::NXDomain
    });
    for reply in both(nodens.address(), &query("gone.example")) {
        assert_eq!(reply.rcode(), ResponseCode::NXDomain);
    }
}

#[test]
fn serve_stale_false_and_max_age_are_obeyed() {
    for stale in ["false", "{max_age: 1s}"] {
        let (upstream, fails) = failing_later(1, false);
        let nodens = before(&upstream, &format!("cache: {{prefetch: false, serve_stale: {stale}}}\n"));
        udp(nodens.address(), &query("stale.example"));
        fails.store(true, Ordering::SeqCst);
        until(&nodens, &query("stale.example"), "SERVFAIL", seconds(10), |reply| {
            reply.rcode() == ResponseCode::ServFail
        });
    }
}

#[test]
fn rfc9520_failures_are_remembered_per_question_and_rfc8914_says_cached_error() {
    for code in [ResponseCode::ServFail, ResponseCode::Refused, ResponseCode::NotImp] {
        let upstream = Responder::start(move |asked| {
            Some(match asked.name.as_str() {
                "bad.example" if asked.qtype == A => rcode(&asked.query, code),
                _ => answers(&asked.query, [a(&asked.name, 60, ADDRESS)]),
            })
        });
        let nodens = before(&upstream, "cache: {failure_ttl: {min: 30s, max: 60s}}\n");
        let first = udp(nodens.address(), &query("bad.example").payload(1232));
        assert_eq!((first.rcode(), first.extended_error()), (code, None));
        let asked = upstream.count("bad.example", A);
        for _ in 0..20 {
            for reply in both(nodens.address(), &query("bad.example").payload(1232)) {
                assert_eq!((reply.rcode(), reply.extended_error()), (code, Some(13)));
            }
            assert!(udp(nodens.address(), &query("bad.example")).message.edns.is_none());
        }
        assert_eq!(upstream.count("bad.example", A), asked, "{code:?} is remembered");
        // Another type and another name are other questions.
        assert_eq!(udp(nodens.address(), &Query::new("bad.example", AAAA)).rcode(), ResponseCode::NoError);
        assert_eq!(udp(nodens.address(), &query("good.example")).addresses(), [ADDRESS]);
    }
}

#[test]
fn rfc9520_failures_are_asked_for_again_after_a_while_ever_longer() {
    let upstream = Responder::start(|asked| Some(rcode(&asked.query, ResponseCode::ServFail)));
    let nodens = before(&upstream, "cache: {failure_ttl: {min: 1s, max: 2s}}\n");
    let started = Instant::now();
    eventually("it is asked for four times", seconds(20), || {
        udp(nodens.address(), &query("bad.example"));
        upstream.count("bad.example", A) >= 4
    });
    // 1, 2 and 2 seconds apart: no deadline of a test, but the least the RFC allows.
    assert!(started.elapsed() >= seconds(4), "{:?}", started.elapsed());
}

#[test]
fn failure_ttl_0_remembers_no_failure() {
    let upstream = Responder::start(|asked| Some(rcode(&asked.query, ResponseCode::ServFail)));
    let nodens = before(&upstream, "cache: {failure_ttl: {min: 0s}}\n");
    for number in 1..=3 {
        assert_eq!(udp(nodens.address(), &query("bad.example")).rcode(), ResponseCode::ServFail);
        assert!(upstream.count("bad.example", A) >= number);
    }
}

#[test]
fn popular_answers_are_refreshed_before_they_expire() {
    let upstream = Responder::start(one_address(4));
    let nodens = before(&upstream, "cache: {serve_stale: false, prefetch: {min_hits: 3, remaining: 50%}}\n");
    // Asked all the time it never expires: no client waits a second time.
    let started = Instant::now();
    while started.elapsed() < seconds(9) {
        assert_eq!(udp(nodens.address(), &query("popular.example")).addresses(), [ADDRESS]);
        thread::sleep(Duration::from_millis(20));
    }
    let metrics = nodens.metrics();
    assert_eq!(metrics.count("nodens_cache_misses_total", &[]), 1, "only the first client waited");
    assert!(metrics.count("nodens_prefetches_total", &[]) >= 2);
}
