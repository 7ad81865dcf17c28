//! Single flight, RD, what is kept, bounds.

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

use super::support::*;
use crate::observe::{ShedReason, Source};
use crate::resolver::Resolver;
use crate::resolver::job::Job;
use crate::wire::ede;

const NAME: &str = "www.example.";

#[test]
fn rfc5452_a_thousand_clients_asking_one_cold_name_are_one_upstream_query() {
    run(async {
        let world = World::new(FORWARD, late(SECOND, address(30)));
        let waiting: Vec<_> = (0..1000u16)
            .map(|number| {
                let [high, low] = number.to_be_bytes();
                let name = if number % 2 == 0 { NAME } else { "WWW.example." };
                let asks = Asks { from: [10, 1, high, low], ..Asks::default() };
                world.send(name, RecordType::A, asks)
            })
            .collect();
        for (number, replies) in waiting.into_iter().enumerate() {
            let reply = receive(replies).await;
            assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
            assert_eq!(reply.answers.len(), 1);
            let name = reply.queries[0].name().to_ascii();
            assert_eq!(name, if number % 2 == 0 { NAME } else { "WWW.example." }, "its own letters back");
        }
        assert_eq!(world.asked(), 1);
        assert_eq!(world.counters.in_flight.get(), 0);
    });
}

#[test]
fn a_thousand_cold_names_at_once_are_all_answered() {
    run(async {
        let world = World::new(FORWARD, late(SECOND, address(30)));
        let waiting: Vec<_> = (0..1000)
            .map(|number| world.send(&format!("n{number}.example."), RecordType::A, Asks::default()))
            .collect();
        for replies in waiting {
            assert_eq!(receive(replies).await.answers.len(), 1);
        }
        assert_eq!(world.asked(), 1000);
    });
}

#[test]
fn a_second_question_is_answered_from_the_store_with_its_ttl_counted_down() {
    run(async {
        let world = World::new(FORWARD, address(30));
        world.ask(NAME, RecordType::A).await;
        pass(10 * SECOND).await;
        let reply = world.ask(NAME, RecordType::A).await;
        assert_eq!((reply.answers[0].ttl, world.asked()), (20, 1));
        assert_eq!(world.last_source(), Some(Source::Store));
    });
}

#[test]
fn rfc4035_do_and_cd_are_questions_of_their_own() {
    run(async {
        let world = World::new(FORWARD, address(30));
        for (dnssec_ok, checking_disabled) in [(false, false), (true, false), (false, true), (true, true)] {
            let asks = Asks { dnssec_ok, checking_disabled, ..Asks::default() };
            world.ask_as(NAME, RecordType::A, asks).await;
            let asked = world.script.asked.borrow().last().unwrap().clone();
            assert_eq!((asked.dnssec_ok, asked.checking_disabled), (dnssec_ok, checking_disabled));
        }
        assert_eq!(world.asked(), 4);
    });
}

#[test]
fn rfc1035_without_rd_a_question_is_passed_on_so_and_its_answer_is_nobody_elses() {
    run(async {
        let world = World::new(FORWARD, address(30));
        let iterative = Asks { recursion_desired: false, ..Asks::default() };
        world.ask_as(NAME, RecordType::A, iterative).await;
        assert!(!world.script.asked.borrow()[0].recursion_desired);
        world.ask(NAME, RecordType::A).await;
        assert!(world.script.asked.borrow()[1].recursion_desired);
        world.ask_as(NAME, RecordType::A, iterative).await;
        assert_eq!(world.asked(), 2, "what recursion brought answers it too");
    });
}

#[test]
fn rfc1035_a_ttl_of_0_is_passed_on_and_not_kept() {
    run(async {
        let world = World::new(FORWARD, address(0));
        for asked in 1..=2 {
            let reply = world.ask(NAME, RecordType::A).await;
            assert_eq!((reply.answers[0].ttl, world.asked()), (0, asked));
        }
    });
}

#[test]
fn rfc2308_a_negative_answer_without_soa_is_passed_on_and_not_kept() {
    run(async {
        let world = World::new(FORWARD, rcode(ResponseCode::NXDomain));
        for asked in 1..=2 {
            let reply = world.ask(NAME, RecordType::A).await;
            assert_eq!((reply.metadata.response_code, world.asked()), (ResponseCode::NXDomain, asked));
        }
    });
}

#[test]
fn rfc2308_negative_answers_are_kept_no_longer_than_negative_max_ttl() {
    run(async {
        let world = World::new(FORWARD, nxdomain(900));
        let reply = world.ask(NAME, RecordType::A).await;
        assert_eq!(reply.authorities[0].ttl, 30);
        pass(29 * SECOND).await;
        assert_eq!(world.ask(NAME, RecordType::A).await.authorities[0].ttl, 1);
        assert_eq!(world.asked(), 1);
        pass(SECOND).await;
        world.ask(NAME, RecordType::A).await;
        assert_eq!(world.asked(), 2);
    });
}

#[test]
fn rfc1035_a_cut_reply_is_passed_on_with_tc_and_not_kept() {
    run(async {
        let world = World::new(FORWARD, |query| {
            let mut reply = reply_to(query, ResponseCode::NoError);
            reply.metadata.truncation = true;
            says(&reply)
        });
        for asked in 1..=2 {
            let reply = world.ask(NAME, RecordType::A).await;
            assert!(reply.metadata.truncation && reply.answers.is_empty());
            assert_eq!((reply.metadata.id, world.asked()), (77, asked));
        }
    });
}

#[test]
fn a_popular_answer_is_refreshed_with_nobody_waiting() {
    run(async {
        let world = World::new(FORWARD, address(30));
        world.ask(NAME, RecordType::A).await;
        pass(28 * SECOND).await;
        let key = key_of(NAME);
        let entry = world.store.find(&key, now()).unwrap();
        assert!(entry.claim_prefetch());
        world.jobs.try_send(Job::Prefetch(entry)).unwrap();
        pass(5 * SECOND).await;
        assert_eq!(world.counters.prefetches.get(), 1);
        assert_eq!(world.ask(NAME, RecordType::A).await.answers[0].ttl, 25);
        assert_eq!(world.asked(), 2);
    });
}

#[test]
fn rfc8767_who_joins_a_prefetch_that_outlives_its_entry_gets_the_stale_answer() {
    run(async {
        let world = World::new(FORWARD, address(30));
        world.ask(NAME, RecordType::A).await;
        pass(28 * SECOND).await;
        let entry = world.store.find(&key_of(NAME), now()).unwrap();
        assert!(entry.claim_prefetch());
        world.says(late(4 * SECOND, rcode(ResponseCode::ServFail)));
        world.jobs.try_send(Job::Prefetch(entry)).unwrap();
        // The upstream is silent, and meanwhile the time of the answer is over.
        pass(3 * SECOND).await;
        let reply = world.ask(NAME, RecordType::A).await;
        assert_eq!((reply.answers.len(), extended_error(&reply)), (1, Some(ede::STALE_ANSWER)));
        assert_eq!(world.asked(), 2, "the first query and the prefetch");
    });
}

#[test]
fn a_prefetch_that_fails_may_be_tried_again_and_is_no_remembered_failure() {
    run(async {
        let world = World::new(FORWARD, address(30));
        world.ask(NAME, RecordType::A).await;
        let entry = world.store.find(&key_of(NAME), now()).unwrap();
        assert!(entry.claim_prefetch());
        world.says(rcode(ResponseCode::ServFail));
        world.jobs.try_send(Job::Prefetch(entry.clone())).unwrap();
        pass(SECOND).await;
        assert!(entry.claim_prefetch(), "released");
        assert!(world.store.failure(&key_of(NAME)).is_none());
        assert_eq!(world.ask(NAME, RecordType::A).await.answers.len(), 1);
    });
}

#[test]
fn one_client_that_floods_is_refused_beyond_its_share_and_the_others_go_on() {
    run(async {
        let yaml = format!("{FORWARD}\nlimits: {{in_flight: 1000, client_share: 10%}}");
        let world = World::new(&yaml, late(3 * SECOND, address(30)));
        let flood: Vec<_> = (0..1000)
            .map(|number| world.send(&format!("f{number}.example."), RecordType::A, Asks::default()))
            .collect();
        tokio::task::yield_now().await;
        let others: Vec<_> = (0..200u8)
            .map(|number| {
                let asks = Asks { from: [10, 244, 1, number], ..Asks::default() };
                world.send(&format!("o{number}.example."), RecordType::A, asks)
            })
            .collect();
        let mut refused = 0;
        for replies in flood {
            let reply = receive(replies).await;
            if reply.metadata.response_code == ResponseCode::Refused {
                assert_eq!(extended_error(&reply), Some(ede::PROHIBITED));
                refused += 1;
            }
        }
        for replies in others {
            assert_eq!(receive(replies).await.answers.len(), 1);
        }
        // Half of the table may be taken by anyone; beyond it a client of more than 100 gets nothing.
        assert_eq!(refused, 499);
        assert!(world.told.sheds.borrow().iter().all(|reason| *reason == ShedReason::ClientShare));
        assert_eq!(world.told.sheds.borrow().len(), 499);
    });
}

#[test]
fn s7_a_flood_of_20000_unique_names_a_second_costs_another_client_nothing() {
    run(async {
        // An upstream that answers 4,000 a second, one after another, as far as it is asked.
        let mut free_at = now();
        let world = World::new(FORWARD, move |query| {
            free_at = free_at.max(now());
            let wait = free_at.millis_since(now());
            let done = if query.name[2] % 4 == 0 { free_at.plus_millis(1) } else { free_at };
            free_at = done;
            late(std::time::Duration::from_millis(wait), nxdomain(30))(query)
        });
        let quiet = Asks { from: [10, 244, 9, 9], ..Asks::default() };
        let (mut flood, mut others) = (Vec::new(), Vec::new());
        for tick in 0..100 {
            for number in 0..200 {
                let name = format!("f{:04}x{tick}.example.", number * 37 % 1000);
                flood.push(world.send(&name, RecordType::A, Asks::default()));
            }
            for number in 0..2 {
                others.push(world.send(&format!("o{number}x{tick}.example."), RecordType::A, quiet));
            }
            pass(SECOND / 100).await;
        }
        let mut failed = 0;
        for replies in others {
            failed += u32::from(receive(replies).await.metadata.response_code != ResponseCode::NXDomain);
        }
        assert_eq!(failed, 0);
        let mut refused = 0;
        for replies in flood {
            refused += u32::from(receive(replies).await.metadata.response_code == ResponseCode::Refused);
        }
        assert!(refused > 10_000, "{refused} of 20,000 were refused");
        assert_eq!(world.counters.in_flight.get(), 0);
        assert!(world.told.sheds.borrow().iter().all(|reason| *reason == ShedReason::ClientShare));
        let stats = world.store.stats();
        assert!(stats.negative.bytes <= stats.negative.budget);
    });
}

#[test]
fn a_full_table_sheds_with_servfail() {
    run(async {
        let yaml = format!("{FORWARD}\nlimits: {{in_flight: 10, client_share: 100%}}");
        let world = World::new(&yaml, late(SECOND, address(30)));
        let waiting: Vec<_> = (0..11)
            .map(|number| world.send(&format!("n{number}.example."), RecordType::A, Asks::default()))
            .collect();
        let mut replies = Vec::new();
        for waiting in waiting {
            replies.push(receive(waiting).await);
        }
        let shed: Vec<_> =
            replies.iter().filter(|reply| reply.metadata.response_code == ResponseCode::ServFail).collect();
        assert_eq!(shed.len(), 1);
        assert_eq!(extended_error(shed[0]), Some(ede::NOT_READY));
        assert_eq!(*world.told.sheds.borrow(), [ShedReason::InFlight]);
    });
}

#[test]
fn waiters_of_one_lookup_are_bounded() {
    run(async {
        let yaml = format!("{FORWARD}\nlimits: {{waiters: 3}}");
        let world = World::new(&yaml, late(SECOND, address(30)));
        let waiting: Vec<_> = (0..4).map(|_| world.send(NAME, RecordType::A, Asks::default())).collect();
        let mut shed = 0;
        for replies in waiting {
            shed += u32::from(receive(replies).await.metadata.response_code == ResponseCode::ServFail);
        }
        assert_eq!((shed, world.asked()), (1, 1));
        assert_eq!(*world.told.sheds.borrow(), [ShedReason::Waiters]);
    });
}

#[test]
fn when_the_servers_leave_what_is_on_its_way_is_answered_within_the_drain_time() {
    run(async {
        let world = World::new(FORWARD, |query| match query.name[1] {
            b's' => timeout(60 * SECOND)(query),
            _ => late(2 * SECOND, address(30))(query),
        });
        let answered = world.send(NAME, RecordType::A, Asks::default());
        let silent = world.send("silent.example.", RecordType::A, Asks::default());
        drop(world.jobs);
        let start = now();
        assert_eq!(receive(answered).await.answers.len(), 1);
        let reply = receive(silent).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
        assert_eq!(extended_error(&reply), Some(ede::NOT_READY));
        assert_eq!(now().seconds_since(start), 4, "listen.drain is 5 s");
    });
}

pub(super) fn key_of(name: &str) -> crate::cache::Key {
    use crate::cache::key::{Key, KeyFlags, Question, Seed};
    let name = crate::config::name::to_wire(name).unwrap();
    Key::new(&Question { name: &name, qtype: 1, qclass: 1, flags: KeyFlags::default() }, Seed::of_process())
}

#[test]
fn a_burst_is_looked_up_while_it_is_taken_in() {
    run(async {
        let world = World::new(FORWARD, address(30));
        let jobs = world.jobs.clone();
        let left = std::rc::Rc::new(std::cell::Cell::new(None));
        let (told, mut answer) = (std::rc::Rc::clone(&left), address(30));
        world.says(move |query| {
            told.set(told.get().or(Some(jobs.max_capacity() - jobs.capacity())));
            answer(query)
        });
        let waiting: Vec<_> = (0..4000)
            .map(|number| world.send(&format!("n{number}.example."), RecordType::A, Asks::default()))
            .collect();
        for replies in waiting {
            assert_eq!(receive(replies).await.answers.len(), 1);
        }
        let left = left.get().unwrap();
        assert!(left > 3000, "{left} were left when the first one was asked");
    });
}

/// There are as many of these futures as lookups under way, and above 1,024 bytes mimalloc takes its slow way.
#[test]
fn a_lookup_under_way_is_small() {
    fn size_of_future<A, B, F: Future>(_: impl FnOnce(A, B) -> F) -> usize {
        size_of::<F>()
    }
    let bytes = size_of_future(Resolver::<crate::upstream::Group>::fly);
    assert!(bytes <= 1_024, "{bytes} bytes");
}
