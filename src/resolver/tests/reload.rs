//! Reload: what is kept, and what is not.

use hickory_proto::rr::RData;
use hickory_proto::rr::RecordType;
use hickory_proto::rr::rdata::A;

use super::support::*;

const TWO: &str = "zones:\n\
    - {name: '.', forward: {to: ['10.0.0.1']}}\n\
    - {name: example, forward: {to: ['10.0.0.2']}}\n";

#[test]
fn answers_that_are_still_right_stay_and_the_others_go() {
    run(async {
        let world = World::new(TWO, address(600));
        for name in ["a.example.", "b.other.", "c.other."] {
            world.ask(name, RecordType::A).await;
        }
        let new = format!("{}hosts: {{c.other: ['10.9.9.9']}}", TWO.replace("10.0.0.2", "10.0.0.3"));
        world.handle.reload(config(&new)).await.unwrap();
        world.ask("b.other.", RecordType::A).await;
        assert_eq!(world.asked(), 3, "its zone is as it was");
        world.ask("a.example.", RecordType::A).await;
        assert_eq!(world.asked(), 4, "its zone has another upstream");
        let host = world.ask("c.other.", RecordType::A).await;
        assert_eq!(host.answers[0].data, RData::A(A::new(10, 9, 9, 9)));
    });
}

#[test]
fn upstreams_whose_settings_stay_are_kept_and_shared() {
    run(async {
        let shared = TWO.replace("10.0.0.2", "10.0.0.1");
        let world = World::new(&shared, address(600));
        assert_eq!(world.script.opened.get(), 1, "two zones that forward alike share their upstreams");
        world.handle.reload(config(TWO)).await.unwrap();
        assert_eq!(world.script.opened.get(), 2);
        world.handle.reload(config(&format!("{TWO}limits: {{in_flight: 77}}"))).await.unwrap();
        assert_eq!(world.script.opened.get(), 2);
    });
}

#[test]
fn an_answer_that_lives_longer_than_the_new_bounds_goes() {
    run(async {
        let world = World::new(TWO, address(600));
        world.ask("b.other.", RecordType::A).await;
        world.handle.reload(config(&format!("{TWO}cache: {{max_ttl: 60s}}"))).await.unwrap();
        assert_eq!(world.ask("b.other.", RecordType::A).await.answers[0].ttl, 60);
    });
}

#[test]
fn a_lookup_under_way_is_answered_but_not_kept() {
    run(async {
        let world = World::new(TWO, late(SECOND, address(600)));
        let replies = world.send("a.example.", RecordType::A, Asks::default());
        pass(SECOND / 2).await;
        world.handle.reload(config(&TWO.replace("10.0.0.2", "10.0.0.3"))).await.unwrap();
        // Who comes now is not made to wait for where nobody may be any more.
        let later = world.send("a.example.", RecordType::A, Asks::default());
        assert_eq!(receive(replies).await.answers.len(), 1);
        assert_eq!(world.asked(), 2);
        assert_eq!(receive(later).await.answers.len(), 1);
        world.ask("a.example.", RecordType::A).await;
        assert_eq!(world.asked(), 2, "the second one is kept");
    });
}

#[test]
fn a_configuration_whose_file_is_wrong_changes_nothing() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bad.zone");
        std::fs::write(&path, "www A 10.0.0.1\n").unwrap();
        let world = World::new(TWO, address(600));
        world.ask("a.example.", RecordType::A).await;
        let bad = format!("zones: [{{name: example, file: '{}'}}]", path.display());
        let error = world.handle.reload(config(&bad)).await.unwrap_err().to_string();
        assert!(error.contains("bad.zone"), "{error}");
        world.ask("a.example.", RecordType::A).await;
        assert_eq!(world.asked(), 1);
    });
}

#[test]
fn a_resolv_conf_is_read_again_and_our_own_address_in_it_is_ignored() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resolv.conf");
        std::fs::write(&path, "nameserver 10.0.0.1\n").unwrap();
        let yaml = format!(
            "listen: {{addresses: ['169.254.20.10'], port: 53}}\n\
             zones: [{{name: '.', forward: {{to: ['{}']}}}}]",
            path.display()
        );
        let world = World::new(&yaml, address(600));
        let addresses =
            || world.script.addresses.borrow().iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(addresses(), ["10.0.0.1:53"]);
        pass(2 * SECOND).await;
        std::fs::write(&path, "nameserver 169.254.20.10\nnameserver 10.0.0.2\n").unwrap();
        pass(2 * SECOND).await;
        assert_eq!(addresses(), ["10.0.0.2:53"]);
        std::fs::remove_file(&path).unwrap();
        pass(2 * SECOND).await;
        assert_eq!(addresses(), ["10.0.0.2:53"], "the last ones known stay");
    });
}

#[test]
fn readiness_follows_the_first_answer_of_any_upstream() {
    run(async {
        let world = World::new(TWO, address(600));
        world.script.down.set(true);
        assert!(!world.handle.probe().await.unwrap());
        assert!(!world.handle.upstream_has_answered());
        world.script.down.set(false);
        assert!(world.handle.probe().await.unwrap());
        assert!(world.handle.upstream_has_answered());
        let local = World::new("hosts: {a.example: ['10.0.0.1']}\nzones: []", address(600));
        assert!(local.handle.probe().await.unwrap(), "nothing to wait for");
    });
}
