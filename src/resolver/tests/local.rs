//! Routing, local names, fixed answers, rewriting, DNS64.

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{A, AAAA, CNAME};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::support::*;
use crate::observe::Source;
use crate::wire::ede;

#[test]
fn the_longest_suffix_wins_and_what_no_zone_covers_is_refused() {
    run(async {
        let yaml = "zones:\n\
            - {name: example, forward: {to: ['10.0.0.1'], except: [private.example]}}\n\
            - {name: sub.example, answers: [{types: [A], addresses: ['10.9.9.9']}]}\n";
        let world = World::new(yaml, address(30));
        assert_eq!(world.ask("www.example.", RecordType::A).await.answers.len(), 1);
        assert_eq!(world.last_source(), Some(Source::Upstream));
        let fixed = world.ask("a.sub.example.", RecordType::A).await;
        assert_eq!(fixed.answers[0].data, RData::A(A::new(10, 9, 9, 9)));
        assert_eq!(world.last_source(), Some(Source::Local));
        for name in ["www.other.", "xexample.", "a.private.example.", "."] {
            let reply = world.ask(name, RecordType::A).await;
            assert_eq!(reply.metadata.response_code, ResponseCode::Refused, "{name}");
            assert_eq!(extended_error(&reply), Some(ede::NOT_AUTHORITATIVE));
        }
        let reply = world.ask("a.sub.example.", RecordType::TXT).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::Refused, "fixed answers stand alone there");
        assert_eq!(world.asked(), 1);
    });
}

#[test]
fn local_names_and_hosts_are_answered_here_and_cached() {
    run(async {
        let yaml = format!("{FORWARD}\nhosts: {{registry.internal: ['10.0.0.7']}}");
        let world = World::new(&yaml, address(30));
        for (name, qtype, count) in [
            ("localhost.", RecordType::A, 1),
            ("Registry.internal.", RecordType::A, 1),
            ("registry.internal.", RecordType::AAAA, 0),
            ("7.0.0.10.in-addr.arpa.", RecordType::PTR, 1),
        ] {
            let reply = world.ask(name, qtype).await;
            assert_eq!(reply.answers.len(), count, "{name} {qtype}");
            assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
            assert_eq!(world.last_source(), Some(Source::Local));
            world.ask(name, qtype).await;
            assert_eq!(world.last_source(), Some(Source::Store), "{name} {qtype}");
        }
        for name in ["a.invalid.", "abc.onion."] {
            let reply = world.ask(name, RecordType::A).await;
            assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
            assert_eq!(reply.authorities.len(), 1, "with a SOA");
        }
        assert_eq!(world.asked(), 0);
    });
}

#[test]
fn a_configured_zone_takes_a_special_name_over() {
    run(async {
        let yaml = "zones: [{name: '.', forward: {to: ['10.0.0.1']}}, {name: corp.test, forward: {to: ['10.0.0.2']}}]";
        let world = World::new(yaml, address(30));
        assert_eq!(world.ask("a.corp.test.", RecordType::A).await.answers.len(), 1);
        let reply = world.ask("a.test.", RecordType::A).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
    });
}

#[test]
fn a_special_name_that_is_rewritten_is_looked_up_as_what_it_becomes() {
    run(async {
        let yaml = format!(
            "{FORWARD}\nhosts: {{printer.alt: ['10.0.0.7']}}\nrewrite: [{{suffix: sfx.test, to: example}}, \
             {{name: db.localhost, to: www.example}}, {{suffix: alt, to: example}}, {{name: gone.example, to: a.invalid}}]"
        );
        let world = World::new(&yaml, address(30));
        for (number, name) in ["a.sfx.test.", "db.localhost.", "b.alt."].into_iter().enumerate() {
            let reply = world.ask(name, RecordType::A).await;
            assert_eq!((reply.answers.len(), world.asked()), (1, number + 1), "{name}");
            assert_eq!(reply.answers[0].name.to_ascii(), name);
            assert_eq!(world.last_source(), Some(Source::Upstream));
        }
        let reply = world.ask("printer.alt.", RecordType::A).await;
        assert_eq!(reply.answers[0].data, RData::A(A::new(10, 0, 0, 7)), "hosts go before a rewriting");
        for name in ["b.test.", "gone.example."] {
            let reply = world.ask(name, RecordType::A).await;
            assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain, "{name}");
        }
        assert_eq!(world.ask("a.localhost.", RecordType::A).await.answers.len(), 1);
        assert_eq!(world.asked(), 3, "what stays special, or becomes it, leaves no node");
    });
}

#[test]
fn a_zone_file_is_served_and_read_again_when_it_changes() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("corp.zone");
        let zone = |address: &str| {
            let text = format!("$TTL 60\n@ SOA ns admin 1 2 3 4 60\nwww A {address}\n");
            // As Kubernetes and editors do: a new file in the old one's place.
            std::fs::write(folder.path().join("new"), text).unwrap();
            std::fs::rename(folder.path().join("new"), &path).unwrap();
        };
        zone("10.0.0.1");
        let yaml = format!("zones: [{{name: corp.example, file: '{}'}}]", path.display());
        let world = World::new(&yaml, address(30));
        let ask = async || world.ask("www.corp.example.", RecordType::A).await.answers[0].data.clone();
        assert_eq!(ask().await, RData::A(A::new(10, 0, 0, 1)));
        assert_eq!(world.last_source(), Some(Source::Local));
        ask().await;
        assert_eq!(world.last_source(), Some(Source::Store));
        zone("10.0.0.2");
        pass(2 * SECOND).await;
        assert_eq!(ask().await, RData::A(A::new(10, 0, 0, 2)));
        zone("no address");
        pass(2 * SECOND).await;
        assert_eq!(ask().await, RData::A(A::new(10, 0, 0, 2)), "a bad file leaves the last good one");
        let reply = world.ask("none.corp.example.", RecordType::A).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
    });
}

#[test]
fn an_alias_out_of_a_zone_file_is_followed_by_the_zones_that_know_it() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("corp.zone");
        let text = "$TTL 60\n@ SOA @ admin 1 2 3 4 60\nout CNAME www.elsewhere.example.\n\
            in CNAME here\nhere A 10.0.0.7\nlost CNAME nowhere.invalid-zone.\n";
        std::fs::write(&path, text).unwrap();
        let yaml = format!(
            "zones: [{{name: corp.example, file: '{}'}}, {{name: elsewhere.example, forward: {{to: ['10.0.0.1']}}}}]",
            path.display()
        );
        let world = World::new(&yaml, address(30));
        let reply = world.ask("out.corp.example.", RecordType::A).await;
        assert_eq!((reply.answers.len(), world.asked()), (2, 1));
        assert_eq!(reply.answers[1].name.to_ascii(), "www.elsewhere.example.");
        let reply = world.ask("out.corp.example.", RecordType::AAAA).await;
        assert_eq!((reply.answers.len(), reply.authorities.len()), (1, 1), "NODATA, with the SOA from there");
        assert_eq!(world.ask("in.corp.example.", RecordType::A).await.answers.len(), 2);
        assert_eq!(world.asked(), 2);
        assert_eq!(world.ask("lost.corp.example.", RecordType::A).await.answers.len(), 1);
        world.says(rcode(ResponseCode::NXDomain));
        pass(60 * SECOND).await;
        let reply = world.ask("out.corp.example.", RecordType::A).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
        world.says(timeout(SECOND));
        let reply = world.ask("out.corp.example.", RecordType::MX).await;
        assert_eq!(
            reply.metadata.response_code,
            ResponseCode::ServFail,
            "half an answer would be a wrong one"
        );
    });
}

#[test]
fn a_rewritten_name_is_looked_up_as_another_and_answered_as_asked() {
    run(async {
        let yaml = format!(
            "{FORWARD}\nrewrite: [{{name: api.example, to: api.default.svc.cluster.local}}, \
             {{suffix: old.example, to: new.example}}]\nhosts: {{h.new.example: ['10.0.0.9']}}"
        );
        let world = World::new(&yaml, |query| {
            let mut reply = reply_to(query, ResponseCode::NoError);
            let owner = reply.queries[0].name().clone();
            let target = Name::from_ascii("target.example.").unwrap();
            reply.add_answer(Record::from_rdata(owner, 30, RData::CNAME(CNAME(target.clone()))));
            reply.add_answer(Record::from_rdata(target, 30, RData::A(A::new(10, 0, 0, 1))));
            says(&reply)
        });
        let reply = world.ask("API.example.", RecordType::A).await;
        assert_eq!(
            &*world.script.asked.borrow()[0].name,
            b"\x03api\x07default\x03svc\x07cluster\x05local\x00"
        );
        assert_eq!(reply.queries[0].name().to_ascii(), "API.example.");
        assert_eq!(reply.answers[0].name.to_ascii(), "API.example.");
        assert_eq!(reply.answers[1].name.to_ascii(), "target.example.");
        world.ask("api.example.", RecordType::A).await;
        assert_eq!(
            (world.last_source(), world.asked()),
            (Some(Source::Store), 1),
            "kept under the asked name"
        );
        let reply = world.ask("x.old.example.", RecordType::A).await;
        assert_eq!(reply.answers[0].name.to_ascii(), "x.old.example.");
        let reply = world.ask("h.old.example.", RecordType::A).await;
        assert_eq!(reply.answers[0].data, RData::A(A::new(10, 0, 0, 9)), "hosts answer for the target too");
        let reply = world.ask("h.old.example.", RecordType::AAAA).await;
        assert_eq!(
            (reply.answers.len(), reply.authorities[0].name.to_ascii()),
            (0, "h.old.example.".to_owned())
        );
    });
}

const DNS64: &str = "zones: [{name: '.', forward: {to: ['10.0.0.1']}, dns64: {}}]";

#[test]
fn rfc6147_without_aaaa_the_answer_is_made_of_a() {
    run(async {
        let world = World::new(DNS64, address(300));
        let reply = world.ask("v4.example.", RecordType::AAAA).await;
        let expected: std::net::Ipv6Addr = "64:ff9b::10.0.0.1".parse().unwrap();
        assert_eq!(reply.answers.len(), 1);
        assert_eq!(reply.answers[0].data, RData::AAAA(AAAA(expected)));
        assert_eq!((reply.answers[0].ttl, world.asked()), (300, 2));
        world.ask("v4.example.", RecordType::AAAA).await;
        assert_eq!(world.asked(), 2, "kept");
        assert_eq!(world.ask("v4.example.", RecordType::MX).await.answers.len(), 0);
    });
}

#[test]
fn rfc6147_5_1_7_the_ttl_is_no_more_than_the_soas() {
    run(async {
        let world = World::new(DNS64, |query| match RecordType::from(query.qtype) {
            RecordType::A => address(300)(query),
            _ => address(20)(query),
        });
        assert_eq!(world.ask("v4.example.", RecordType::AAAA).await.answers[0].ttl, 20);
    });
}

/// AAAA questions get this address, A questions 10.0.0.1.
fn with_aaaa(text: &'static str) -> impl FnMut(&crate::upstream::Query) -> Says {
    move |query| match RecordType::from(query.qtype) {
        RecordType::AAAA => {
            let mut reply = reply_to(query, ResponseCode::NoError);
            let owner = reply.queries[0].name().clone();
            reply.add_answer(Record::from_rdata(owner, 60, RData::AAAA(AAAA(text.parse().unwrap()))));
            says(&reply)
        }
        _ => address(60)(query),
    }
}

#[test]
fn rfc6147_real_aaaa_records_stand_unless_all_is_translated_or_they_are_mapped() {
    run(async {
        let made = RData::AAAA(AAAA("64:ff9b::10.0.0.1".parse().unwrap()));
        let all = DNS64.replace("dns64: {}", "dns64: {translate_all: true}");
        for (yaml, address, expected, asked) in [
            (DNS64, "fd00::1", RData::AAAA(AAAA("fd00::1".parse().unwrap())), 1),
            (DNS64, "::ffff:10.0.0.1", made.clone(), 2),
            (&all, "fd00::1", made.clone(), 1),
        ] {
            let world = World::new(yaml, with_aaaa(address));
            let reply = world.ask("v6.example.", RecordType::AAAA).await;
            assert_eq!((&reply.answers[0].data, world.asked()), (&expected, asked), "{yaml} {address}");
        }
    });
}

#[test]
fn rfc6147_5_5_a_client_that_validates_itself_gets_nothing_made_up() {
    run(async {
        let world = World::new(DNS64, address(60));
        let asks = Asks { dnssec_ok: true, checking_disabled: true, ..Asks::default() };
        assert_eq!(world.ask_as("v4.example.", RecordType::AAAA, asks).await.answers.len(), 0);
        let asks = Asks { dnssec_ok: true, ..Asks::default() };
        let reply = world.ask_as("v4.example.", RecordType::AAAA, asks).await;
        assert!(reply.answers.len() == 1 && !reply.metadata.authentic_data);
    });
}

#[test]
fn rfc6147_nxdomain_stays_and_other_failures_lead_to_a() {
    run(async {
        let world = World::new(DNS64, nxdomain(5));
        let reply = world.ask("none.example.", RecordType::AAAA).await;
        assert_eq!((reply.metadata.response_code, world.asked()), (ResponseCode::NXDomain, 1));
        let world = World::new(DNS64, |query| match RecordType::from(query.qtype) {
            RecordType::A => address(60)(query),
            _ => rcode(ResponseCode::ServFail)(query),
        });
        assert_eq!(world.ask("v4.example.", RecordType::AAAA).await.answers.len(), 1);
    });
}
