//! Everything that was sent in a session, sent again: one by one, all together, after a restart, from elsewhere.

use std::{fs, net::Ipv4Addr};

use merpati::wire::{Packet, Protection};
use serde_json::Value;

use crate::{
    stranger::Stranger,
    support::{
        Home, Realm, copy_directory,
        relay::{Relay, Way},
        watch::Watch,
    },
};

/// What there is to be seen of a realm, but for when it was last used.
fn state(home: &Home) -> Vec<Value> {
    let mut seen = Vec::new();
    for who in ["ann", "bob"] {
        for what in [
            &["inbox", "--after", "0"][..],
            &["inboxgroup", "cats", "--after", "0"],
            &["groups"],
            &["members", "cats"],
            &["sessions"],
            &["whoami"],
            // Last: what is shown above counts as read.
            &["unread"],
        ] {
            let run = home.run(who, what);
            assert_eq!(run.code, Some(0), "{what:?} {run:?}");
            for mut object in run.objects() {
                forget_times(&mut object);
                seen.push(object);
            }
        }
    }
    seen
}

/// Takes out what the looking itself changes.
fn forget_times(object: &mut Value) {
    match object {
        Value::Object(fields) => {
            fields.retain(|name, _| !name.contains("used"));
            fields.values_mut().for_each(forget_times);
        }
        Value::Array(values) => values.iter_mut().for_each(forget_times),
        _ => {}
    }
}

/// A session of two users with all that changes something; what went to the realm.
fn session(home: &Home, realm: &Realm, relay: &Relay) -> Vec<Vec<u8>> {
    let connect = realm.connect_through(relay.address);
    let password = ["--password-file", "password"];
    for who in ["ann", "bob"] {
        home.register(who, &connect);
    }
    let run = |who: &str, command: &[&str]| home.run(who, command).ok();
    run("ann", &[&["addgroup", "cats"], &password[..]].concat());
    run("bob", &[&["joingroup", "cats"], &password[..]].concat());
    let mut watch = Watch::start(home, "bob", &[]);
    for n in 0..3 {
        run("ann", &["send", "bob", &format!("private {n}")]);
        run("ann", &["sendgroup", "cats", &format!("to all {n}")]);
    }
    watch.texts(6);
    watch.stop();
    // A long one, in parts.
    run("bob", &["send", "ann", &"purr ".repeat(1000)]);
    home.run("ann", &["inbox"]);
    run("ann", &["role", "cats", "bob", "moderator"]);
    run(
        "ann",
        &[&["grouppasswd", "cats"], &["--password-file", "wrong"][..]].concat(),
    );
    run("bob", &["leavegroup", "cats"]);
    run(
        "bob",
        &[&["joingroup", "cats"], &["--password-file", "wrong"][..]].concat(),
    );
    run("ann", &[&["auth", "ann"], &password[..]].concat());
    let carried = relay.take_carried();
    let up = carried.into_iter().filter(|one| one.way == Way::ToRealm);
    up.map(|one| one.bytes).collect()
}

/// What may come back for a replayed datagram: a Reset, or for an Init or a Resume what its device alone can read.
fn is_harmless(sent: &[u8], answer: &[u8]) -> bool {
    let fits = answer.len() <= sent.len();
    fits && match Packet::parse(answer) {
        Ok(Packet::Reset { .. }) => true,
        Ok(Packet::Accept { .. } | Packet::Retry { .. }) => {
            matches!(Packet::parse(sent), Ok(Packet::Init(_)))
        }
        Ok(Packet::Resumed { .. }) => matches!(Packet::parse(sent), Ok(Packet::Resume(_))),
        _ => false,
    }
}

fn replay(realm: &Realm, from: Ipv4Addr, datagrams: &[Vec<u8>], at_once: usize) {
    let mut stranger = Stranger::at(from, realm);
    for some in datagrams.chunks(at_once) {
        for datagram in some {
            stranger.send(datagram);
        }
        for answer in stranger.answers() {
            // A worker that did not let the device in begins with its Init anew, and answers a little later.
            let is_harmless = datagrams.iter().any(|sent| is_harmless(sent, &answer));
            assert!(is_harmless, "{answer:02x?} comes back");
        }
    }
    assert!(stranger.came < stranger.sent);
}

/// HS-6, LINK-4, EXACT-1: replay of every packet of a session.
#[test]
fn a_session_that_is_replayed_has_no_effect() {
    let home = Home::new();
    // Nothing is held off by limits: each of them is looked at.
    let limits = "[limits]\nhandshakes = \"unlimited\"\nhandshakes_per_subnet = \"unlimited\"";
    let mut realm = home.realm_as(limits);
    let relay = Relay::to(realm.address);
    let datagrams = session(&home, &realm, &relay);
    let sealed = |datagram: &&Vec<u8>| matches!(Packet::parse(datagram), Ok(Packet::Link(packet)) if packet.protection == Protection::Sealed);
    let kinds = (datagrams.len(), datagrams.iter().filter(sealed).count());
    // Each of the seventeen commands and the watch shakes hands; how much else goes in a datagram is a matter of time.
    assert!(kinds.0 > 18 && kinds.1 > 9, "{kinds:?} are replayed");
    let before = state(&home);
    // From where they came, and from elsewhere; the links of some are still there.
    for (machine, at_once) in [(1, 1), (2, 64)] {
        for from in [Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 0, machine, 1)] {
            replay(&realm, from, &datagrams, at_once);
        }
    }
    assert_eq!(state(&home), before);
    for round in 0..2 {
        realm.kill();
        realm.start_again();
        for at_once in [1, 64] {
            let from = Ipv4Addr::new(127, 0, 10 + round, 1);
            replay(&realm, from, &datagrams, at_once);
        }
        assert_eq!(state(&home), before, "after restart {round}");
    }
    home.run("ann", &["send", "bob", "goes on"]).ok();
    assert!(!realm.log().contains("panicked"), "{}", realm.log());
}

/// HS-7, HS-14: a realm that was restored from a copy does not know what has been done since; what was recorded of that does it no second time.
#[test]
fn nothing_recorded_is_done_again_by_a_restored_realm() {
    let home = Home::new();
    let limits = "[limits]\nhandshakes = \"unlimited\"\nhandshakes_per_subnet = \"unlimited\"";
    let mut realm = home.realm_as(limits);
    let relay = Relay::to(realm.address);
    let connect = realm.connect_through(relay.address);
    for name in ["ann", "bob"] {
        home.register(name, &connect);
    }
    assert_eq!(realm.stop(), Some(0));
    let backup = home.directory.path().join("backup");
    copy_directory(&realm.data(), &backup);
    realm.start_again();
    // By which ann learns the life that the copy does not know.
    home.run("ann", &["whoami"]).ok();
    relay.take_carried();
    home.run("ann", &["send", "bob", "recorded"]).ok();
    let carried = relay.take_carried();
    let up = carried.into_iter().filter(|one| one.way == Way::ToRealm);
    let datagrams: Vec<Vec<u8>> = up.map(|one| one.bytes).collect();
    assert_eq!(realm.stop(), Some(0));
    fs::remove_dir_all(realm.data()).unwrap();
    copy_directory(&backup, &realm.data());
    realm.start_again();
    replay(&realm, Ipv4Addr::new(127, 0, 1, 1), &datagrams, 1);
    home.run("ann", &["send", "bob", "goes on"]).ok();
    assert_eq!(home.texts("bob"), ["goes on"]);
}

/// HS-5, HS-7: who has recorded the first packet of a watch, and sends it again, sees nothing of what comes for its user.
#[test]
fn recorded_watch_is_shown_nothing() {
    let home = Home::new();
    let mut realm = home.realm_as("");
    let relay = Relay::to(realm.address);
    let connect = realm.connect_through(relay.address);
    for name in ["ann", "bob"] {
        home.register(name, &connect);
    }
    // A watch names the groups of its user: its first packet is long enough for an answer with an event in it.
    for group in [
        "a-group-of-some-length",
        "another-one-as-long",
        "and-a-third-such-one",
    ] {
        let make = ["addgroup", group, "--password-file", "password"];
        home.run("ann", &make).ok();
        home.run("ann", &["sendgroup", group, "seen"]).ok();
        home.run("ann", &["inboxgroup", group]);
    }
    relay.take_carried();
    let mut watch = Watch::start(&home, "ann", &[]);
    home.run("bob", &["send", "ann", "seen"]).ok();
    assert_eq!(watch.texts(1), ["seen"]);
    watch.stop();
    let opens = |datagram: &Vec<u8>| {
        let packet = Packet::parse(datagram);
        matches!(packet, Ok(Packet::Init(_) | Packet::Resume(_)))
    };
    let carried = relay.take_carried();
    let mut up = carried.into_iter().filter(|one| one.way == Way::ToRealm);
    let recorded = up.find_map(|one| Some(one.bytes).filter(opens)).unwrap();
    // What it was answered is forgotten, and something has come since.
    realm.kill();
    realm.start_again();
    home.run("bob", &["send", "ann", "hi"]).ok();
    let mut stranger = Stranger::at(Ipv4Addr::LOCALHOST, &realm);
    stranger.send(&recorded);
    let mut answers = Vec::new();
    // What is asked of the store takes a while.
    while answers.is_empty() {
        answers.extend(stranger.answers());
    }
    for _ in 0..20 {
        answers.extend(stranger.answers());
    }
    // Not a packet of a link, only what it begins with.
    let opened = |datagram: &Vec<u8>| {
        let packet = Packet::parse(datagram);
        matches!(packet, Ok(Packet::Accept { .. } | Packet::Resumed { .. }))
    };
    assert!(answers.len() == 1 && opened(&answers[0]), "{answers:02x?}");
}
