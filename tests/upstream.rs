//! Upstream exchange against a scripted upstream on loopback.

mod support {
    pub(crate) mod exchange;
    pub(crate) mod heartbeat;
    pub(crate) mod upstream;
}

use std::rc::Rc;
use std::time::{Duration, Instant};

use hickory_proto::rr::Name;
use nodens::config::{Forward, HumanDuration, Policy, Transport};
use nodens::upstream::{ExchangeError, Query};
use support::exchange::{bench, first_address, parsed, query, run, spec, without_hedges};
use support::heartbeat::Heartbeat;
use support::upstream::{Behaviour, LIE, Order, Upstream};

#[test]
fn tcp_gives_the_right_answer_over_one_connection() {
    let upstream = Upstream::start(Order::Serial);
    run(async {
        let heartbeat = Heartbeat::start();
        let bench = bench(&without_hedges(Transport::Tcp), &[&upstream]);
        for number in 0..200 {
            bench.right(&format!("n{number}.example")).await;
        }
        // A dial that stalls is joined by two others.
        let dials = if heartbeat.stop().total().is_zero() { 1 } else { 3 };
        assert!(upstream.accepted() <= dials, "{}", upstream.accepted());
        assert_eq!(upstream.udp_queries(), 0);
        assert_eq!(bench.count("nodens_upstream_queries_total", &[]), 200);
        assert_eq!(bench.count("nodens_upstream_in_flight", &[]), 0);
    });
}

#[test]
fn a_thousand_names_at_once_are_all_answered() {
    for order in [Order::Serial, Order::Concurrent] {
        let upstream = Upstream::start(order);
        run(async {
            let bench = Rc::new(bench(&spec(Transport::Tcp), &[&upstream]));
            let tasks: Vec<_> = (0..1_000)
                .map(|number| {
                    let bench = Rc::clone(&bench);
                    tokio::task::spawn_local(async move { bench.right(&format!("n{number}.example")).await })
                })
                .collect();
            for task in tasks {
                task.await.expect("answered");
            }
            assert!(upstream.accepted() <= 16, "{}", upstream.accepted());
        });
    }
}

#[test]
fn a_reply_larger_than_one_read_is_put_together() {
    let upstream = Upstream::start(Order::Concurrent);
    // As much as hickory puts into 64 KiB.
    upstream.on("big.example", Behaviour::Large(2_000));
    run(async {
        let bench = Rc::new(bench(&spec(Transport::Tcp), &[&upstream]));
        let tasks: Vec<_> = (0..20)
            .map(|_| {
                let bench = Rc::clone(&bench);
                tokio::task::spawn_local(
                    async move { parsed(&bench.right("big.example").await).answers.len() },
                )
            })
            .collect();
        for task in tasks {
            assert_eq!(task.await.expect("answered"), 2_000);
        }
    });
}

#[test]
fn the_server_may_close_at_any_time() {
    let worst = [
        Behaviour::Fin,
        Behaviour::Reset,
        Behaviour::AnswerThenFin,
        Behaviour::AnswerThenReset,
        Behaviour::HalfFrame,
    ];
    for behaviour in worst {
        let upstream = Upstream::start(Order::Serial);
        run(async {
            let bench = bench(&spec(Transport::Tcp), &[&upstream]);
            for number in 0..20 {
                let name = format!("n{number}.example");
                bench.right(&format!("before{number}.example")).await;
                upstream.on_each(&name, [behaviour.clone(), Behaviour::Answer]);
                let start = Instant::now();
                bench.right(&name).await;
                bench.right(&format!("after{number}.example")).await;
                assert!(start.elapsed() < Duration::from_millis(250), "{behaviour:?}: {:?}", start.elapsed());
            }
            for reset in [false, true] {
                upstream.cut(reset);
                bench.right("cut.example").await;
            }
        });
    }
}

#[test]
fn lies_are_ignored_and_counted_while_the_answer_is_waited_for() {
    for transport in [Transport::Tcp, Transport::Udp] {
        let upstream = Upstream::start(Order::Concurrent);
        upstream.on("lies.example", Behaviour::LiesThenAnswer);
        upstream.on("thrice.example", Behaviour::Thrice);
        run(async {
            let bench = bench(&spec(transport), &[&upstream]);
            bench.right("lies.example").await;
            bench.right("thrice.example").await;
            bench.right("after.example").await;
            let ignored = |reason| bench.count("nodens_upstream_ignored_replies_total", &[reason]);
            assert!(ignored("id") >= 1);
            assert!(ignored("question") >= 1);
        });
    }
}

#[test]
fn only_lies_end_in_a_timeout_never_in_a_wrong_answer() {
    let lies = [Behaviour::WrongId, Behaviour::WrongQuestion, Behaviour::Garbage, Behaviour::Silent];
    for transport in [Transport::Tcp, Transport::Udp, Transport::Auto] {
        let upstream = Upstream::start(Order::Concurrent);
        run(async {
            let spec = Forward { timeout: HumanDuration::from_millis(600), ..spec(transport) };
            let bench = bench(&spec, &[&upstream]);
            for behaviour in &lies {
                upstream.on("lie.example", behaviour.clone());
                let start = Instant::now();
                let result = bench.ask("lie.example").await;
                assert!(matches!(result, Err(ExchangeError::Timeout { .. })), "{behaviour:?}: {result:?}");
                assert!(start.elapsed() < Duration::from_millis(900), "{:?}", start.elapsed());
                bench.right("truth.example").await;
            }
        });
    }
}

#[test]
fn truncated_goes_to_tcp_with_auto_and_is_passed_on_with_udp() {
    let upstream = Upstream::start(Order::Serial);
    upstream.on("tc.example", Behaviour::Truncated);
    run(async {
        let auto = bench(&without_hedges(Transport::Auto), &[&upstream]);
        assert!(!auto.right("tc.example").await.truncated);
        assert_eq!((upstream.udp_queries(), upstream.tcp_queries()), (1, 1));
        let udp = bench(&without_hedges(Transport::Udp), &[&upstream]);
        assert!(udp.ask("tc.example").await.expect("a reply").truncated);
        assert_eq!((upstream.udp_queries(), upstream.tcp_queries()), (2, 1));
    });
}

#[test]
fn truncated_over_tcp_too_fails_at_once_and_is_asked_elsewhere() {
    let (cuts, whole) = (Upstream::start(Order::Serial), Upstream::start(Order::Serial));
    cuts.on("tc.example", Behaviour::AlwaysTruncated);
    for transport in [Transport::Tcp, Transport::Auto] {
        run(async {
            let spec = Forward { policy: Policy::Sequential, ..spec(transport) };
            let one = bench(&spec, &[&cuts]);
            let start = Instant::now();
            let result = one.ask("tc.example").await;
            assert!(matches!(result, Err(ExchangeError::Truncated { .. })), "{result:?}");
            let two = bench(&spec, &[&cuts, &whole]);
            two.right("tc.example").await;
            assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
            assert_eq!(one.count("nodens_upstream_failures_total", &["truncated"]), 1);
            one.right("n.example").await;
        });
    }
    // Even an upstream that answers nothing else is there.
    cuts.otherwise(Behaviour::AlwaysTruncated);
    run(async {
        let bench = bench(&spec(Transport::Tcp), &[&cuts]);
        assert!(bench.group.probe().await && !bench.group.is_down());
    });
}

#[test]
fn udp_queries_have_ports_ids_and_letters_of_their_own() {
    let upstream = Upstream::start(Order::Serial);
    run(async {
        let bench = bench(&spec(Transport::Udp), &[&upstream]);
        for _ in 0..50 {
            let reply = bench.right("www.example.com").await;
            assert_eq!(
                parsed(&reply).queries[0].name().to_ascii(),
                "www.example.com.",
                "the lookup's own case"
            );
        }
        let sources = upstream.udp_sources();
        let distinct = |of: &dyn Fn(&(u16, u16)) -> u16| {
            sources.iter().map(of).collect::<std::collections::HashSet<_>>().len()
        };
        assert!(distinct(&|source| source.0) > 45, "ports");
        assert!(distinct(&|source| source.1) > 45, "ids");
    });
}

#[test]
fn an_upstream_that_folds_case_is_remembered() {
    let upstream = Upstream::start(Order::Serial);
    upstream.otherwise(Behaviour::FoldedCase);
    run(async {
        let bench = bench(&without_hedges(Transport::Udp), &[&upstream]);
        for _ in 0..10 {
            bench.right("a-long-name-with-many-letters.example.com").await;
        }
        assert_eq!(upstream.udp_queries(), 11, "asked again once, in lower case");
    });
}

#[test]
fn a_datagram_from_another_port_is_not_an_answer() {
    let upstream = Upstream::start(Order::Serial);
    upstream.otherwise(Behaviour::WrongSourceThenAnswer);
    run(async {
        let bench = bench(&spec(Transport::Udp), &[&upstream]);
        for number in 0..20 {
            let reply = bench.right(&format!("n{number}.example")).await;
            assert_ne!(first_address(&reply), Some(LIE));
        }
    });
}

#[test]
fn the_query_carries_what_was_asked() {
    let upstream = Upstream::start(Order::Serial);
    run(async {
        let bench = bench(&spec(Transport::Tcp), &[&upstream]);
        let asked =
            Query { dnssec_ok: true, checking_disabled: true, authentic_data: true, ..query("do.example") };
        let reply = parsed(&bench.group.exchange(&asked).await.expect("a reply"));
        assert!(reply.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok));
        assert!(reply.metadata.checking_disabled && reply.metadata.authentic_data);
        assert_eq!(reply.queries[0].name(), &Name::from_ascii("do.example.").expect("a name"));
    });
}
