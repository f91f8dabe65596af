//! Messages leave the disk after their retention, and users who had not read them are told
//! (READ-10, READ-11).

mod support;

use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Home, Realm, finished, program};

const SHORT: &str = "[retention]\nage = \"1s\"\nunread_age = \"3s\"\n";

/// Polls all messages until the only entry says that `count` are gone.
fn until_gone(home: &Home, who: &str, count: u64) {
    let until = Instant::now() + Duration::from_mins(1);
    loop {
        let objects = home.run(who, &["inbox", "--after", "0"]).objects();
        if let [only] = &objects[..]
            && only["gone"] == count
        {
            assert_eq!(only["position"], count);
            assert_eq!(only["text"], Value::Null);
            return;
        }
        assert!(Instant::now() < until, "they do not go: {objects:?}");
    }
}

/// Messages go when they are old enough, read ones first. A user who had not read them is told once
/// how many they were, in words and as JSON. Later messages are shown as usual.
#[test]
fn retention_old_messages_go_and_reader_is_told() {
    let home = Home::new();
    let realm = home.realm_as(SHORT);
    for who in ["ann", "bob", "eve"] {
        home.register(who, &realm.connect);
    }
    for n in 0..3 {
        home.run("ann", &["send", "bob", &format!("read {n}")]).ok();
    }
    assert_eq!(home.run("bob", &["inbox"]).texts().len(), 3);
    assert!(home.run("bob", &["inbox"]).texts().is_empty());
    // A user who asks for all messages sees that there were more.
    until_gone(&home, "bob", 3);
    for n in 0..2 {
        home.run("ann", &["send", "eve", &format!("unread {n}")])
            .ok();
    }
    let counts = |_| home.run("eve", &["unread"]).objects()[0]["count"] == 1;
    assert!((0..1000).any(counts), "what is unread does not go");
    let told = home.run("eve", &["inbox"]).objects();
    assert_eq!((told.len(), &told[0]["gone"]), (1, &2.into()), "{told:?}");
    assert!(home.run("eve", &["inbox"]).objects().is_empty());
    let mut plain = program();
    let arguments = [
        "--home",
        "profiles",
        "--profile",
        "bob",
        "inbox",
        "--after",
        "0",
    ];
    let words = finished(plain.current_dir(home.directory.path()).args(arguments)).out;
    assert!(
        words.contains("3 earlier messages are not kept any more"),
        "{words}"
    );
    home.run("ann", &["send", "bob", "new"]).ok();
    assert_eq!(home.run("bob", &["inbox"]).texts(), ["new"]);
}

/// A start without configuration logs the default retention.
#[test]
fn retention_period_is_logged_at_start() {
    let mut realm = Realm::start();
    assert_eq!(realm.stop(), Some(0));
    assert!(realm.log().contains("age=\"90d\""), "{}", realm.log());
}
