//! Replay of everything that was sent in a session: one datagram at a time, all together, after a
//! restart, and from another address.

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

/// Returns the visible state of a realm, without the times of last use.
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
            // `unread` comes last, because what is shown above counts as read.
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

/// Removes the fields that reading the state changes.
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

/// Plays a session of two users with all commands that change something. Returns the datagrams that
/// went to the realm.
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
    // A long message, in fragments.
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

/// True if `answer` may come back for a replayed datagram: a Reset, or for an Init or a Resume an
/// answer that its device alone can read.
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
            // A worker that has not admitted the device handles its Init anew, and answers a little
            // later.
            let is_harmless = datagrams.iter().any(|sent| is_harmless(sent, &answer));
            assert!(is_harmless, "{answer:02x?} comes back");
        }
    }
    assert!(stranger.came < stranger.sent);
}

/// HS-6, LINK-4, EXACT-1: a replay of every packet of a session has no effect.
#[test]
fn replay_of_whole_session_has_no_effect() {
    let home = Home::new();
    // Limits reject nothing here: every datagram is handled.
    let limits = "[limits]\nhandshakes = \"unlimited\"\nhandshakes_per_subnet = \"unlimited\"";
    let mut realm = home.realm_as(limits);
    let relay = Relay::to(realm.address);
    let datagrams = session(&home, &realm, &relay);
    let sealed = |datagram: &&Vec<u8>| matches!(Packet::parse(datagram), Ok(Packet::Link(packet)) if packet.protection == Protection::Sealed);
    let kinds = (datagrams.len(), datagrams.iter().filter(sealed).count());
    // Each of the seventeen commands and the watch performs a handshake. How much else a datagram
    // contains depends on timing.
    assert!(kinds.0 > 18 && kinds.1 > 9, "{kinds:?} are replayed");
    let before = state(&home);
    // From the original address and from another one. The links of some are still open.
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

/// HS-7, HS-14: a realm restored from a backup does not know what was executed since. Requests
/// recorded since then take effect on it no second time.
#[test]
fn replay_to_restored_realm_has_no_effect() {
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
    // With this answer ann learns the life that the backup does not know.
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

/// HS-5, HS-7: an attacker who has recorded the first packet of a watch and replays it receives
/// none of the watching user's entries.
#[test]
fn replay_of_recorded_watch_shows_no_entries() {
    let home = Home::new();
    let mut realm = home.realm_as("");
    let relay = Relay::to(realm.address);
    let connect = realm.connect_through(relay.address);
    for name in ["ann", "bob"] {
        home.register(name, &connect);
    }
    // A watch names the groups of its user, so its first packet is long enough for an answer with
    // an event in it.
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
    // The realm has forgotten its answer, and a message has arrived since.
    realm.kill();
    realm.start_again();
    home.run("bob", &["send", "ann", "hi"]).ok();
    let mut stranger = Stranger::at(Ipv4Addr::LOCALHOST, &realm);
    stranger.send(&recorded);
    let mut answers = Vec::new();
    // The store answers after a while.
    while answers.is_empty() {
        answers.extend(stranger.answers());
    }
    for _ in 0..20 {
        answers.extend(stranger.answers());
    }
    // Only the answer to a handshake or a resumption comes, and no packet of a link.
    let opened = |datagram: &Vec<u8>| {
        let packet = Packet::parse(datagram);
        matches!(packet, Ok(Packet::Accept { .. } | Packet::Resumed { .. }))
    };
    assert!(answers.len() == 1 && opened(&answers[0]), "{answers:02x?}");
}
