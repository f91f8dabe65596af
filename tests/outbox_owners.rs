//! The owner of an outbox entry: a command for one realm and one account goes nowhere else,
//! passwords are not written down, and the outbox does not grow without bound (EXACT-7).

mod support;

use std::{fs, path::Path, time::Duration};

use merpati::client::{CallError, Withdrawn};
use support::{
    Home, PASSWORD, Realm,
    relay::Relay,
    typing::{kill, until},
    watch::Watch,
};

/// The content of the file `wrong`.
const GROUP_PASSWORD: &str = "battery staple";

/// True if a file of the directory contains the text.
fn contains(directory: &Path, text: &str) -> bool {
    let is_in = |bytes: Vec<u8>| {
        bytes
            .windows(text.len())
            .any(|part| part == text.as_bytes())
    };
    let mut files = fs::read_dir(directory).unwrap().map(Result::unwrap);
    // A file may be removed during the search.
    files.any(|file| fs::read(file.path()).is_ok_and(is_in))
}

/// EXACT-7: an unfinished command goes to the realm that it was for, or to none.
#[test]
fn outbox_of_one_realm_is_not_sent_to_another() {
    let text = "for bob at alpha alone".repeat(20);
    let (mut alpha, beta, gamma) = (Realm::start(), Realm::start(), Realm::start());
    let home = Home::new();
    home.register("ann", &alpha.connect);
    home.register("bob", &alpha.connect);
    // In beta both names belong to others. In gamma there is no ann.
    home.register_as("ann", "ann", &beta.connect);
    home.register_as("other-bob", "bob", &beta.connect);
    let whoami = |connect: &str| home.run("ann", &["--server", connect, "whoami"]);
    whoami(&alpha.connect).ok();
    alpha.kill();
    home.send_briefly("ann", &["send", "bob", &text]).kept();
    whoami(&beta.connect).ok();
    home.run("ann", &["send", "bob", "for beta"]).ok();
    assert_eq!(home.texts("other-bob"), ["for beta"]);
    let relay = Relay::to(gamma.address);
    assert_eq!(
        whoami(&gamma.connect_through(relay.address)).error(1),
        "no-session"
    );
    let carried = relay.take_carried();
    let bytes: usize = carried.iter().map(|datagram| datagram.bytes.len()).sum();
    assert!(bytes < text.len(), "{bytes} bytes for a whoami");
    assert_eq!(home.outbox("ann").len(), 1, "it waits for alpha");
    alpha.start_again();
    until("ann speaks to alpha, and all is sent", || {
        whoami(&alpha.connect).ok();
        home.outbox("ann").is_empty()
    });
    assert_eq!(home.texts("bob"), [text]);
    assert_eq!(home.texts("other-bob"), ["for beta"]);
}

/// EXACT-6, EXACT-7: an unfinished command of one account of a profile is neither sent as the next
/// account nor reported to it.
#[test]
fn outbox_of_former_account_is_not_sent_by_next() {
    let mut realm = Realm::start();
    let home = Home::new();
    for name in ["ann", "bob", "cid"] {
        home.register(name, &realm.connect);
    }
    realm.kill();
    home.send_briefly("ann", &["send", "bob", "as ann"]).kept();
    realm.start_again();
    let auth = |user| home.run("ann", &["auth", user, "--password-file", "password"]);
    auth("cid").ok();
    let run = home.run("ann", &["send", "bob", "as cid"]);
    run.ok();
    assert_eq!(run.err, "");
    let from = || {
        let entries = home.run("bob", &["inbox", "--after", "0"]).objects();
        let from = |entry: &serde_json::Value| entry["from"].as_str().unwrap().to_string();
        entries.iter().map(from).collect::<Vec<_>>()
    };
    // If the login takes long, the message may have gone before, as ann.
    let early = from();
    assert!(early == ["cid"] || early == ["ann", "cid"], "{early:?}");
    // Else its number is older than the session in which it goes.
    auth("ann").ok();
    home.drain("ann");
    let mut all = from();
    all.sort_unstable();
    assert_eq!(all, ["ann", "cid"]);
}

/// READ-7: a watch records what it has shown for the account whose messages it shows, whoever logs
/// in meanwhile.
#[test]
fn cursor_login_beside_watch_loses_no_entries_of_new_account() {
    let realm = Realm::start();
    let home = Home::new();
    for name in ["ann", "bob", "cid"] {
        home.register(name, &realm.connect);
    }
    let mut watch = Watch::start(&home, "bob", &[]);
    home.run("ann", &["send", "bob", "ready"]).ok();
    assert_eq!(watch.texts(1), ["ready"]);
    home.run("bob", &["auth", "cid", "--password-file", "password"])
        .ok();
    for to in ["bob", "cid"] {
        for text in ["one", "two", "three"] {
            home.run("ann", &["send", to, text]).ok();
        }
    }
    // The session of the watch continues.
    let next = watch.next();
    assert_eq!(
        (&next["text"], &next["from"]),
        (&"one".into(), &"ann".into())
    );
    drop(watch);
    assert_eq!(home.run("bob", &["whoami"]).ok()["username"], "cid");
    let run = home.run("bob", &["unread"]);
    assert_eq!(run.objects()[0]["count"], 3, "{run:?}");
    assert_eq!(home.run("bob", &["inbox"]).texts(), ["one", "two", "three"]);
}

/// EXACT-7: a server that was not heard, or was named by the environment, is not remembered. The
/// profile's known server stays.
#[test]
fn profile_wrong_server_is_not_remembered() {
    let (realm, other, home) = (Realm::start(), Realm::start(), Home::new());
    let relay = Relay::to(realm.address);
    for name in ["ann", "bob"] {
        home.register(name, &realm.connect_through(relay.address));
    }
    home.run("bob", &["send", "ann", "hello"]).ok();
    assert_eq!(home.run("ann", &["inbox"]).texts(), ["hello"]);
    relay.lose_all();
    home.send_briefly("ann", &["send", "bob", "unfinished"])
        .kept();
    let (address, _) = realm.connect.split_once('#').unwrap();
    let (_, key) = other.connect.split_once('#').unwrap();
    let closed = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let wrong_port = realm.connect_through(closed.local_addr().unwrap());
    for wrong in [wrong_port, format!("{address}#{key}")] {
        let run = home.run(
            "ann",
            &["--server", &wrong, "--deadline", "500ms", "whoami"],
        );
        assert_eq!(run.code, Some(3), "{run:?}");
        assert_eq!(home.outbox("ann").len(), 1, "{wrong}");
    }
    let mut by_environment = home.command("ann", &["whoami"]);
    by_environment.env("MERPATI_SERVER", &other.connect);
    assert_eq!(
        support::finished(&mut by_environment).error(1),
        "no-session"
    );
    relay.lose_nothing();
    let run = home.run("ann", &["whoami"]);
    assert_eq!(run.ok()["server"], relay.address.to_string());
    home.drain("ann");
    assert!(home.run("ann", &["inbox"]).out.is_empty());
    assert_eq!(home.texts("bob"), ["unfinished"]);
}

/// EXACT-7: a command with a password is tried, and nothing of the password is written down,
/// whenever its process is killed.
#[test]
fn password_is_never_written_to_disk() {
    let realm = Realm::start();
    let (relay, home) = (Relay::to(realm.address), Home::new());
    let connect = realm.connect_through(relay.address);
    home.register("ann", &connect);
    let group = ["addgroup", "devs", "--password-file", "wrong"];
    home.run("ann", &group).ok();
    let password = ["--password-file", "password"];
    let new = ["--new-password-file", "wrong"];
    let register = ["--server", &connect, "register", "Bob", "id", "bob"];
    let auth = ["--server", &connect, "auth", "ann"];
    for (profile, command) in [
        ("bob", [&register[..], &password].concat()),
        ("cid", [&auth[..], &password].concat()),
        (
            "bob",
            ["joingroup", "devs", "--password-file", "wrong"].to_vec(),
        ),
        ("bob", [&["passwd"], &password[..], &new].concat()),
    ] {
        let lost = relay.lose_answers_on_links();
        // No process can tell that another is dead before its deadline.
        let process = home.spawn(profile, &[&["--deadline", "3s"], &command[..]].concat());
        // The realm has answered, so the command has left.
        lost.recv().unwrap();
        kill(process);
        relay.lose_nothing();
        let directory = home.profile(profile);
        let has = |text| contains(&directory, text);
        assert!(!has(PASSWORD) && !has(GROUP_PASSWORD), "{command:?}");
        // The command is finished, whether done or not, and is not asked again.
        let wait = ["--server", &connect, "outbox", "wait"];
        let waited = home.run(profile, &wait);
        // It is known who is logged in, but not whether this command did it.
        let ended = waited.objects().pop().unwrap();
        let is_over = ended["ok"] == true || ended["error"] == "not-done";
        assert!(is_over || ended["error"] == "unknown", "{waited:?}");
        assert!(!has(PASSWORD) && !has(GROUP_PASSWORD), "{command:?}");
        home.run(profile, &["whoami"]).ok();
    }
    // The search would find such a text.
    relay.lose_all();
    home.send_briefly("ann", &["send", "bob", "these words"])
        .kept();
    assert!(contains(&home.profile("ann"), "these words"));
}

/// EXACT-7: the outbox holds 16 MiB. Beyond that, a command is refused and nothing else changes:
/// kept commands are delivered, and a cancelled one makes room.
#[test]
fn outbox_full_refuses_and_delivers_kept_commands() {
    const LEN: usize = 65_000;
    const FIT: usize = (16 << 20) / LEN;
    /// This many are delivered. The others are cancelled, which takes less time.
    const DELIVERED: usize = 12;
    let home = Home::new();
    let mut realm = home.realm_as("[limits]\nmax_message = \"64KiB\"");
    let names = ["ann", "bob", "cid"];
    for name in names {
        home.register(name, &realm.connect);
    }
    let text = |n: usize| format!("{n:04}{}", "x".repeat(LEN));
    realm.kill();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let client = home.client("ann", &realm.connect);
    let ids = runtime.block_on(async {
        for n in 0..=FIT {
            let to = names[n % names.len()].parse().unwrap();
            match tokio::time::timeout(Duration::ZERO, client.send(to, text(n).as_bytes())).await {
                // The first poll writes the entry down.
                Err(_) => {}
                Ok(Err(CallError::OutboxFull { .. })) => break,
                Ok(other) => panic!("{other:?}"),
            }
        }
        let entries = client.outbox().unwrap().into_iter();
        entries.map(|entry| entry.id).collect::<Vec<_>>()
    });
    assert!((FIT - 1..=FIT).contains(&ids.len()), "{}", ids.len());
    let run = home.run("ann", &["send", "bob", &text(FIT)]);
    assert_eq!(run.error(5), "outbox-full");
    assert!(run.out.contains("16777216"), "{run:?}");
    assert_eq!(home.outbox("ann").len(), ids.len());
    for id in &ids[DELIVERED..] {
        // These wait behind others to the same user, so they have not left.
        let cancelled = runtime.block_on(client.outbox_cancel(*id)).unwrap();
        assert_eq!(cancelled, Withdrawn::Cancelled);
    }
    drop((client, runtime));
    home.send_briefly("ann", &["send", "bob", "there is room again"])
        .kept();
    realm.start_again();
    home.drain("ann");
    for (at, name) in names.into_iter().enumerate() {
        let wanted = (at..DELIVERED).step_by(names.len()).map(text);
        let wanted = wanted.chain((name == "bob").then(|| "there is room again".into()));
        assert!(home.texts(name).into_iter().eq(wanted), "{name}");
    }
}

/// EXACT-7: a kept logout ends the session in which it was typed, and no other.
#[test]
fn outbox_kept_logout_ends_no_later_session() {
    let mut realm = Realm::start();
    let home = Home::new();
    home.register("ann", &realm.connect);
    let auth = ["auth", "ann", "--password-file", "password"];
    let elsewhere = [["--server", &realm.connect].as_slice(), &auth].concat();
    home.run("phone", &elsewhere).ok();
    realm.kill();
    home.send_briefly("ann", &["logout"]).kept();
    // The copy finds its session ended before it has sent anything.
    support::copy_directory(&home.profile("ann"), &home.profile("copy"));
    realm.start_again();
    let sessions = home.run("phone", &["sessions"]).objects();
    let other = sessions.iter().find(|one| one["current"] == false).unwrap();
    let handle = other["handle"].as_str().unwrap().to_string();
    home.run("phone", &["revoke", &handle]).ok();
    // One logs in after its logout was refused, the other before.
    for (profile, settles_first) in [("ann", true), ("copy", false)] {
        if settles_first {
            home.drain(profile);
        }
        home.run(profile, &auth).ok();
        home.drain(profile);
        assert_eq!(home.run(profile, &["whoami"]).ok()["username"], "ann");
    }
}

/// EXACT-7: a session to be revoked that no longer exists says nothing about the own session.
#[test]
fn outbox_revoke_of_ended_session_delays_nothing() {
    let mut realm = Realm::start();
    let home = Home::new();
    home.register("ann", &realm.connect);
    home.run("ann", &["send", "ann", "before"]).ok();
    realm.kill();
    home.send_briefly("ann", &["revoke", "abc234"]).kept();
    home.send_briefly("ann", &["send", "ann", "after"]).kept();
    realm.start_again();
    home.drain("ann");
    assert!(home.outbox("ann").is_empty());
    assert_eq!(home.texts("ann"), ["before", "after"]);
}

/// LINK-13: a device whose session has ended is told so, whatever the length of its message.
#[test]
fn session_ended_is_told_at_any_message_length() {
    let realm = Realm::start();
    let home = Home::new();
    home.register("ann", &realm.connect);
    let auth = ["auth", "ann", "--password-file", "password"];
    let elsewhere = [["--server", &realm.connect].as_slice(), &auth].concat();
    for early in [true, false] {
        for len in [20, 520, 700, 1000, 1100] {
            home.run("phone", &elsewhere).ok();
            let sessions = home.run("ann", &["sessions"]).objects();
            let other = sessions.iter().find(|one| one["current"] == false).unwrap();
            let handle = other["handle"].as_str().unwrap().to_string();
            home.run("ann", &["revoke", &handle]).ok();
            let text = "x".repeat(len);
            let mut send = vec!["--deadline", "30s", "send", "ann", &text];
            if !early {
                send.insert(0, "--no-early-data");
            }
            let run = home.run("phone", &send);
            assert_eq!(run.error(1), "no-session", "{len} bytes");
        }
    }
    assert!(home.texts("ann").is_empty());
}
