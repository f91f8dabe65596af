//! What is done to a store behind the realm's back.

use std::fs;

use crate::support::{Home, Realm, copy_directory, finished, program};

/// A store restored from an old backup: it knows less than its clients, whose sessions of then go on, whose numbers
/// do not come again, and whose messages are each delivered once.
#[test]
fn a_realm_that_is_restored_from_an_old_copy_serves_its_clients() {
    let home = Home::new();
    let mut realm = Realm::start();
    for who in ["ann", "bob"] {
        home.register(who, &realm.connect);
    }
    home.run("ann", &["send", "bob", "before"]).ok();
    realm.stop();
    let copy = home.directory.path().join("copy");
    copy_directory(&realm.data(), &copy);
    realm.start_again();
    for n in 0..3 {
        home.run("ann", &["send", "bob", &format!("forgotten {n}")])
            .ok();
    }
    home.register("cho", &realm.connect);
    assert_eq!(home.texts("bob").len(), 4);
    realm.kill();
    fs::remove_dir_all(realm.data()).unwrap();
    copy_directory(&copy, &realm.data());
    realm.start_again();
    for n in 0..3 {
        home.run("ann", &["send", "bob", &format!("after {n}")])
            .ok();
    }
    assert_eq!(
        home.texts("bob"),
        ["before", "after 0", "after 1", "after 2"]
    );
    // Who registered meanwhile is told so, and registers again.
    assert_eq!(home.run("cho", &["whoami"]).error(1), "no-session");
    home.register("cho", &realm.connect);
    assert!(!realm.log().contains("panicked"), "{}", realm.log());
}

/// Two servers on one store directory: the second is told so, and the first goes on.
#[test]
fn a_store_has_one_server() {
    let realm = Realm::start();
    let home = Home::new();
    home.register("ann", &realm.connect);
    let mut second = program();
    second
        .args(["serve", "--listen", "127.0.0.1:0", "--data"])
        .arg(realm.data());
    let run = finished(&mut second);
    assert_eq!(run.code, Some(5), "{run:?}");
    assert!(run.err.contains("stop it first"), "{run:?}");
    home.run("ann", &["send", "ann", "still here"]).ok();
}
