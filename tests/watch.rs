//! Watches: messages are pushed as they come, earlier ones first, once and in order, whatever
//! happens to the realm and to the link meanwhile (WATCH-1 … WATCH-5).

mod support;

use support::{
    Home, Realm,
    path::Node,
    relay::{Carried, Relay, Way},
    watch::Watch,
};

fn numbered(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{prefix} {n}")).collect()
}

/// WATCH-1, WATCH-2, WATCH-5: waiting messages come first, then new ones, from all mailboxes,
/// including a group that is joined later.
#[test]
fn watch_pushes_waiting_then_new_messages() {
    let (realm, home) = (Realm::start(), Home::new());
    for name in ["ann", "bob"] {
        home.register(name, &realm.connect);
    }
    let group = |who: &str, command: &str| {
        home.run(who, &[command, "cats", "--no-password"]).ok();
    };
    for text in numbered("waiting", 30) {
        home.run("ann", &["send", "bob", &text]).ok();
    }
    assert_eq!(
        home.run("bob", &["unread"]).objects(),
        [serde_json::json!({ "mailbox": "private", "count": 30 })]
    );
    let mut watch = Watch::start(&home, "bob", &[]);
    assert_eq!(watch.texts(30), numbered("waiting", 30));
    for text in numbered("live", 3) {
        home.run("ann", &["send", "bob", &text]).ok();
        assert_eq!(watch.next()["text"], text);
    }
    group("ann", "addgroup");
    group("bob", "joingroup");
    home.run("ann", &["sendgroup", "cats", "to the group"]).ok();
    let entry = watch.next();
    assert_eq!(
        (&entry["text"], &entry["group"], &entry["from"]),
        (&"to the group".into(), &"cats".into(), &"ann".into())
    );
    // A message of many datagrams is pushed whole.
    let long = "x".repeat(16_000);
    home.run("ann", &["send", "bob", &long]).ok();
    assert!(watch.next()["text"] == long);
    watch.stop();
    // Entries that were shown are not shown again. The next watch continues behind them, and ends
    // by itself.
    home.run("ann", &["send", "bob", "afterwards"]).ok();
    let run = home.run("bob", &["watch", "--count", "1"]);
    assert_eq!(run.texts(), ["afterwards"]);
    assert!(home.run("bob", &["inbox"]).out.is_empty());
}

/// WATCH-3: a client that ends its watch tells the realm. Otherwise the realm would keep
/// retransmitting pushes to nobody.
#[test]
fn watch_end_is_told_to_realm() {
    let (realm, home) = (Realm::start(), Home::new());
    let relay = Relay::to(realm.address);
    home.register("ann", &realm.connect);
    home.register("bob", &realm.connect_through(relay.address));
    let mut watch = Watch::start(&home, "bob", &[]);
    home.run("ann", &["send", "bob", "before"]).ok();
    assert_eq!(watch.next()["text"], "before");
    // The entries are acknowledged and confirmed, so only the end of the watch remains to be sent.
    home.run("ann", &["send", "bob", "again"]).ok();
    assert_eq!(watch.next()["text"], "again");
    relay.take_carried();
    watch.stop();
    let carried = relay.take_carried();
    let is_up = |one: &Carried| one.way == Way::ToRealm;
    assert!(carried.iter().any(is_up), "it has closed its link");
    for text in ["one", "two", "three"] {
        home.run("ann", &["send", "bob", text]).ok();
    }
    let pushed = relay.take_carried();
    assert!(
        pushed.iter().all(|one| one.way == Way::ToRealm),
        "{}",
        pushed.len()
    );
}

/// HS-22: a realm that was killed sends a Reset to each watching client at its start, in one
/// datagram each, and they come back at once. They received nothing until their next keepalive went
/// unanswered.
#[test]
fn watch_gets_reset_when_killed_realm_starts() {
    let (mut realm, home) = (Realm::start(), Home::new());
    let relay = Relay::to(realm.address);
    home.register("ann", &realm.connect);
    home.register("bob", &realm.connect_through(relay.address));
    let mut watch = Watch::start(&home, "bob", &[]);
    home.run("ann", &["send", "bob", "before"]).ok();
    assert_eq!(watch.next()["text"], "before");
    for _ in 0..3 {
        realm.kill();
        relay.take_carried();
        let mut is_told = false;
        relay.lose(move |way, bytes| {
            is_told |= way == Way::ToClient && bytes[0] == 6;
            way == Way::ToRealm && !is_told
        });
        realm.start_again();
        home.run("ann", &["send", "bob", "afterwards"]).ok();
        assert_eq!(watch.next()["text"], "afterwards");
        // The realm stores the watching devices before the next message, so this message shows that
        // they are stored.
        home.run("ann", &["send", "bob", "again"]).ok();
        assert_eq!(watch.next()["text"], "again");
        let carried = relay.take_carried();
        let count = |way: Way, kind: u8, from: &[Carried]| {
            let is_one = |one: &&Carried| (one.way, one.bytes[0], one.lost) == (way, kind, false);
            from.iter().filter(is_one).count()
        };
        let resets = count(Way::ToClient, 6, &carried);
        // Datagrams in flight on the old link are answered with a Reset, too.
        let begun = carried.iter().position(|one| one.bytes[0] == 8).unwrap();
        let strays = count(Way::ToRealm, 224, &carried[..begun]);
        assert!(resets >= 1 && resets <= 1 + strays, "{resets} and {strays}");
        // The resumed link is watched as well, and is told at the next start.
    }
    watch.stop();
}

/// WATCH-3, LINK-17: the realm is killed repeatedly. Each message is shown once, in order.
#[test]
fn watch_survives_repeated_kills_of_realm() {
    let (mut realm, home) = (Realm::start(), Home::new());
    for name in ["ann", "bob"] {
        home.register(name, &realm.connect);
    }
    let mut watch = Watch::start(&home, "bob", &[]);
    for round in 0..4 {
        for text in numbered(&round.to_string(), 5) {
            home.run("ann", &["send", "bob", &text]).ok();
        }
        realm.kill();
        realm.start_again();
        assert_eq!(watch.texts(5), numbered(&round.to_string(), 5));
    }
}

/// WATCH-3, LINK-16: a watch shows everything over a link that loses a third each way.
#[test]
fn watch_over_lossy_link_shows_everything() {
    let (realm, home) = (Realm::start(), Home::new());
    for name in ["ann", "bob"] {
        home.register(name, &realm.connect);
    }
    let relay = Relay::to(realm.address);
    relay.set_path(7, &[Node::Loss(0.3)]);
    let through = realm.connect_through(relay.address);
    for text in numbered("waiting", 100) {
        home.run("ann", &["send", "bob", &text]).ok();
    }
    let mut watch = Watch::start(&home, "bob", &["--server", &through]);
    assert_eq!(watch.texts(100), numbered("waiting", 100));
    for text in numbered("live", 20) {
        home.run("ann", &["send", "bob", &text]).ok();
    }
    assert_eq!(watch.texts(20), numbered("live", 20));
}

/// WATCH-4: a session that has ended receives no more pushes, and is told.
#[test]
fn watch_ends_with_its_session() {
    let (realm, home) = (Realm::start(), Home::new());
    for name in ["ann", "bob"] {
        home.register(name, &realm.connect);
    }
    let elsewhere = [
        "--server",
        &realm.connect,
        "auth",
        "bob",
        "--password-file",
        "password",
    ];
    home.run("elsewhere", &elsewhere).ok();
    let mut watch = Watch::start(&home, "bob", &[]);
    home.run("ann", &["send", "bob", "before"]).ok();
    assert_eq!(watch.next()["text"], "before");
    let sessions = home.run("elsewhere", &["sessions"]).objects();
    let other = sessions
        .iter()
        .find(|session| session["current"] == false)
        .unwrap();
    home.run("elsewhere", &["revoke", other["handle"].as_str().unwrap()])
        .ok();
    home.run("ann", &["send", "bob", "after"]).ok();
    let end = watch.next();
    assert_eq!(
        (&end["ok"], &end["error"]),
        (&false.into(), &"no-session".into())
    );
    assert_eq!(watch.process.wait().unwrap().code(), Some(1));
    assert_eq!(home.texts("elsewhere"), ["before", "after"]);
}

/// LINK-18: the client's address changes repeatedly. Its link continues without another handshake.
#[test]
fn migration_of_watching_client_keeps_its_link() {
    const INIT: u8 = 0x03;
    const RESUME: u8 = 0x07;
    let (realm, home) = (Realm::start(), Home::new());
    for name in ["ann", "bob"] {
        home.register(name, &realm.connect);
    }
    let relay = Relay::to(realm.address);
    let through = realm.connect_through(relay.address);
    let mut watch = Watch::start(&home, "bob", &["--server", &through]);
    for round in 0..20 {
        for text in numbered(&round.to_string(), 2) {
            home.run("ann", &["send", "bob", &text]).ok();
        }
        assert_eq!(watch.texts(2), numbered(&round.to_string(), 2));
        relay.move_on();
    }
    let carried = relay.take_carried();
    let opens = carried.iter();
    let opens = opens.filter(|datagram| [INIT, RESUME].contains(&datagram.bytes[0]));
    assert_eq!(opens.count(), 1);
}
