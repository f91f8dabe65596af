//! What users do, with real processes over real UDP.

mod support;

use std::{
    fs,
    io::Write as _,
    process::Stdio,
    sync::mpsc::channel,
    time::{Duration, Instant},
};

use merpati::{
    client::{CallError, Client, End, Notice, Options, OutboxState, Profile, system_rng},
    wire::{Answer, ErrorCode},
};
use support::{
    Home, PASSWORD, Realm, copy_directory, finished,
    relay::{Carried, Relay, Way},
};

/// Two new users register and send each other a message.
#[test]
fn inbox_message_of_other_user_is_shown_once() {
    let realm = Realm::start();
    let home = Home::new();
    home.register("ann", &realm.connect);
    home.register("bob", &realm.connect);
    assert_eq!(
        home.run("ann", &["send", "bob", "hi bob"]).ok()["state"],
        "stored"
    );
    assert_eq!(
        home.run("bob", &["send", "ann", "hi ann"]).ok()["state"],
        "stored"
    );
    let inbox = home.run("bob", &["inbox"]);
    let entry = &inbox.objects()[0];
    assert_eq!(
        (&entry["from"], &entry["text"]),
        (&"ann".into(), &"hi bob".into())
    );
    assert_eq!(entry["position"], 1);
    assert!(entry["realm"].is_null());
    assert!(entry["time"].as_str().unwrap().ends_with('Z'));
    assert_eq!(home.texts("ann"), ["hi ann"]);
    // Entries that were shown are not shown again, unless asked for.
    assert!(home.run("bob", &["inbox"]).out.is_empty());
    assert_eq!(home.texts("bob"), ["hi bob"]);
}

/// EXACT-2: a server that is killed between any two steps loses nothing that it acknowledged.
#[test]
fn recovery_realm_killed_between_steps_loses_nothing() {
    let mut realm = Realm::start();
    let home = Home::new();
    let mut killed = |then: &mut dyn FnMut()| {
        realm.kill();
        realm.start_again();
        then();
        realm.connect.clone()
    };
    let connect = killed(&mut || {});
    home.register("ann", &connect);
    killed(&mut || drop(home.register("bob", &connect)));
    killed(&mut || drop(home.run("ann", &["send", "bob", "one"]).ok()));
    killed(&mut || drop(home.run("bob", &["send", "ann", "two"]).ok()));
    killed(&mut || drop(home.run("ann", &["send", "bob", "three"]).ok()));
    killed(&mut || assert_eq!(home.texts("bob"), ["one", "three"]));
    killed(&mut || assert_eq!(home.texts("ann"), ["two"]));
    killed(&mut || drop(home.run("ann", &["logout"]).ok()));
    killed(&mut || assert_eq!(home.run("ann", &["whoami"]).error(1), "no-session"));
}

/// What a later run reports of a message whose sender was killed.
const FINISHED: &str = "`send ann`: stored";

/// EXACT-7: a client that is killed after its command left and before the answer came leaves
/// exactly one message after its next run, whatever that run does.
#[test]
fn outbox_client_killed_before_answer_delivers_once() {
    let realm = Realm::start();
    let relay = Relay::to(realm.address);
    let home = Home::new();
    home.register("ann", &realm.connect_through(relay.address));
    let sent_by_killed = |text: &str| {
        let (tell, answered) = channel();
        relay.lose(move |way, _| {
            if way == Way::ToClient {
                // The realm has answered, so the command has taken effect.
                let _ = tell.send(());
            }
            way == Way::ToClient
        });
        let mut client = home
            .command("ann", &["--deadline", "2s", "send", "ann", text])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        answered.recv().unwrap();
        client.kill().unwrap();
        client.wait().unwrap();
        relay.lose(|_, _| false);
    };
    sent_by_killed("message 0");
    // Until its deadline somebody might wait for the command. Then exactly one run reports its
    // outcome.
    let told = || {
        let run = home.run("ann", &["whoami"]);
        run.ok();
        run.err.contains(FINISHED)
    };
    let limit = Instant::now() + Duration::from_mins(1);
    while !told() {
        assert!(Instant::now() < limit, "nobody was told");
    }
    assert!(!told(), "told twice");
    assert_eq!(home.texts("ann"), ["message 0"]);
    // A later command to the same conversation follows it.
    sent_by_killed("message 1");
    home.run("ann", &["send", "ann", "message 2"]).ok();
    assert_eq!(home.texts("ann"), ["message 0", "message 1", "message 2"]);
}

/// EXACT-9: a client that is killed before anything has left also leaves one message.
#[test]
fn outbox_kept_while_realm_away_is_sent_by_next_run() {
    let mut realm = Realm::start();
    let home = Home::new();
    home.register("ann", &realm.connect);
    let ann = |arguments: &[&str]| home.run("ann", &[&["--deadline", "100ms"], arguments].concat());
    realm.kill();
    // Early data may have arrived. Without early data nothing of the command has left. Both
    // commands are kept.
    let run = ann(&["send", "ann", "early"]);
    assert_eq!(run.error(4), "unknown");
    assert_eq!(run.objects()[0]["state"], "unknown");
    let run = ann(&["--no-early-data", "send", "ann", "later"]);
    assert_eq!(run.error(4), "kept");
    assert_eq!(run.objects()[0]["state"], "kept");
    assert_eq!(ann(&["--id", "once", "send", "ann", "once"]).code, Some(4));
    realm.start_again();
    // The same command again is another message, unless a token marks it as the same. Earlier
    // commands go first.
    for _ in 0..2 {
        home.run("ann", &["--id", "once", "send", "ann", "once"])
            .ok();
    }
    home.run("ann", &["send", "ann", "later"]).ok();
    assert!(home.run("ann", &["outbox"]).out.is_empty());
    assert_eq!(home.texts("ann"), ["early", "later", "once", "later"]);
}

/// A `register` whose answer was lost is answered again, rather than refused as taken.
#[test]
fn account_registration_with_lost_answer_is_answered_again() {
    let realm = Realm::start();
    let relay = Relay::to(realm.address);
    let home = Home::new();
    let connect = realm.connect_through(relay.address);
    let register = [
        "--server",
        &connect,
        "--deadline",
        "2s",
        "register",
        "A",
        "id",
        "ann",
        "--password-file",
        "password",
    ];
    // The answer to the handshake passes. Later answers are lost.
    relay.lose(|way, bytes| way == Way::ToClient && bytes[0] != 0x04);
    assert_eq!(home.run("ann", &register).error(4), "unknown");
    relay.lose(|_, _| false);
    let session = home.run("ann", &register).ok()["session"].clone();
    assert_eq!(home.run("ann", &["whoami"]).ok()["username"], "ann");
    assert!(session.as_str().unwrap().len() == 26);
}

/// EXACT-11: the number of a cut-off `register` is used up before the next request, so that it
/// cannot take effect later. If it has taken effect, its user is told.
#[tokio::test]
async fn account_registration_cut_off_outcome_is_reported_later() {
    let realm = Realm::start();
    let relay = Relay::to(realm.address);
    let home = Home::new();
    let directory = home.directory.path().join("profiles");
    let client = |deadline| {
        let profile = Profile::open(&directory, "ann", &mut system_rng().unwrap()).unwrap();
        let options = Options {
            server: Some(realm.connect_through(relay.address).parse().unwrap()),
            deadline,
            ..Options::default()
        };
        Client::open(profile, options).unwrap()
    };
    let ann = "ann".parse().unwrap();
    relay.lose(|way, bytes| way == Way::ToClient && bytes[0] != 0x04);
    let first = client(Duration::from_secs(1));
    let outcome = first.register("A", "id", ann, PASSWORD.as_bytes()).await;
    assert!(matches!(outcome, Err(CallError::OutcomeUnknown { .. })));
    let left = first.outbox().unwrap();
    let [entry] = left.as_slice() else {
        panic!("{left:?}");
    };
    assert_eq!(entry.state, OutboxState::Cancelling);
    drop(first);
    relay.lose(|_, _| false);
    let second = client(Duration::from_secs(30));
    for _ in 0..2 {
        // The realm has created the session, but this profile does not know it.
        second.whoami().await.unwrap();
    }
    assert!(second.outbox_wait().await.unwrap());
    let notices = second.take_notices();
    let [
        Notice::Finished {
            what,
            end: End::Done(Answer::Account(account)),
            ..
        },
    ] = notices.as_slice()
    else {
        panic!("{notices:?}");
    };
    assert_eq!((what.as_str(), account.username), ("register", ann));
    assert!(second.take_notices().is_empty(), "it is told once");
    // The account exists: its password opens another session of this device, in addition to the one
    // whose id was lost.
    second
        .register("A", "id", ann, PASSWORD.as_bytes())
        .await
        .unwrap();
    let taken = second.register("A", "id", ann, b"battery staple").await;
    assert!(
        matches!(taken, Err(CallError::Refused(refusal)) if refusal.code == ErrorCode::UsernameTaken)
    );
    let sessions = second.sessions().await.unwrap();
    let current: Vec<_> = sessions.iter().map(|session| session.current).collect();
    assert_eq!(current, [false, true]);
    assert!(second.outbox().unwrap().is_empty());
}

/// Shows the fingerprints that two people compare.
#[test]
fn fingerprint_of_realm_and_device_is_printed() {
    let realm = Realm::start();
    let home = Home::new();
    let run = home.run("ann", &["--server", &realm.connect, "fingerprint"]);
    assert_eq!(run.ok()["realm"], realm.announced["fingerprint"]);
    let device = run.ok()["device"].clone();
    assert_eq!(home.run("ann", &["fingerprint"]).ok()["device"], device);
}

/// EXACT-8, EXACT-10: a profile restored from an old copy notices that, and loses nothing: neither
/// new messages nor messages that its past has sent with the same text.
#[test]
fn dedup_restored_profile_continues_above_used_numbers() {
    let realm = Realm::start();
    let home = Home::new();
    home.register("ann", &realm.connect);
    let (profile, copy) = (home.profile("ann"), home.directory.path().join("copy"));
    copy_directory(&profile, &copy);
    let said = |what: &str| {
        let texts: Vec<_> = (0..5).map(|n| format!("{what} {n}")).collect();
        for text in &texts {
            assert_eq!(
                home.run("ann", &["send", "ann", text]).ok()["state"],
                "stored"
            );
        }
        texts
    };
    let mut wanted = said("old");
    for what in ["new", "old"] {
        fs::remove_dir_all(&profile).unwrap();
        copy_directory(&copy, &profile);
        wanted.extend(said(what));
    }
    assert_eq!(home.texts("ann"), wanted);
}

/// Two programs of one user at the same time do not disturb each other.
#[test]
fn profile_serves_several_processes_at_once() {
    let realm = Realm::start();
    let home = Home::new();
    home.register("ann", &realm.connect);
    let clients: Vec<_> = (0..8)
        .map(|n| {
            home.command("ann", &["send", "ann", &format!("message {n}")])
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    for client in clients {
        let output = client.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    let mut texts = home.texts("ann");
    texts.sort();
    let wanted: Vec<_> = (0..8).map(|n| format!("message {n}")).collect();
    assert_eq!(texts, wanted);
}

#[test]
fn inbox_long_message_is_read_whole_or_in_pieces() {
    let realm = Realm::start();
    let home = Home::new();
    home.register("ann", &realm.connect);
    let long: String = ('a'..='z').cycle().take(1000).collect();
    for _ in 0..3 {
        home.run("ann", &["send", "ann", &long]).ok();
    }
    assert_eq!(
        home.texts("ann"),
        [long.clone(), long.clone(), long.clone()]
    );
    let mut read = String::new();
    let (mut after, mut offset) = (0, 0);
    while after < 3 {
        let (at, from) = (after.to_string(), offset.to_string());
        let arguments = ["inbox", "--after", &at, "--offset", &from, "--bytes", "300"];
        for entry in home.run("ann", &arguments).objects() {
            let text = entry["text"].as_str().unwrap();
            read.push_str(text);
            offset += text.len();
            if offset
                == entry["total"]
                    .as_u64()
                    .map_or(1000, |n| usize::try_from(n).unwrap())
            {
                (after, offset) = (after + 1, 0);
            }
        }
    }
    assert_eq!(read, [&long[..]; 3].concat());
    assert_eq!(
        home.run("ann", &["inbox", "--after", "0", "--limit", "2"])
            .objects()
            .len(),
        2
    );
    // A message longer than the realm accepts is refused with the limit, and not kept. A shorter
    // one travels both ways in as many datagrams as it needs.
    for len in [16_385, 50_000] {
        let run = home.run("ann", &["send", "ann", &"x".repeat(len)]);
        assert_eq!(run.error(1), "too-large");
        assert_eq!(run.objects()[0]["limit"], 16_384);
    }
    let fits = "y".repeat(16_384);
    home.run("ann", &["send", "ann", &fits]).ok();
    assert_eq!(home.texts("ann").last().unwrap(), &fits);
}

/// SES-5, ACC-4: sessions, revoke and passwd on the command line.
#[test]
fn session_is_listed_revoked_and_ended_by_password_change() {
    let realm = Realm::start();
    let home = Home::new();
    home.register("ann", &realm.connect);
    let auth = [
        "--server",
        &realm.connect,
        "auth",
        "ann",
        "--password-file",
        "password",
    ];
    let session = home.run("other", &auth).ok()["session"].clone();
    let sessions = home.run("ann", &["sessions"]).objects();
    assert_eq!(sessions.len(), 2);
    let other = sessions
        .iter()
        .find(|session| session["current"] == false)
        .unwrap();
    home.run("ann", &["revoke", other["handle"].as_str().unwrap()])
        .ok();
    assert_eq!(home.run("other", &["whoami"]).error(1), "no-session");
    assert_eq!(
        home.run("ann", &["--session", session.as_str().unwrap(), "whoami"])
            .error(1),
        "no-session",
        "SES-1: another device's session id is worth nothing"
    );
    home.run("other", &auth).ok();
    let passwd = [
        "passwd",
        "--password-file",
        "password",
        "--new-password-file",
        "wrong",
    ];
    home.run("ann", &passwd).ok();
    assert_eq!(home.run("other", &["whoami"]).error(1), "no-session");
    assert_eq!(home.run("other", &auth).error(1), "bad-credentials");
    assert_eq!(home.run("ann", &passwd).error(1), "wrong-password");
    home.run("ann", &["whoami"]).ok();
}

/// HS-6: a client accepts a realm's key on first use, and from then on refuses another.
#[test]
fn realm_key_trusted_on_first_use_changed_one_is_refused() {
    let mut realm = Realm::start();
    let home = Home::new();
    let (bare, _) = realm.connect.split_once('#').unwrap();
    let register = |trust: &'static [&'static str]| {
        let mut arguments = vec!["--server", bare, "register", "A", "id", "ann"];
        arguments.extend(["--password-file", "password"]);
        arguments.extend(trust);
        home.run("ann", &arguments)
    };
    assert_eq!(register(&[]).error(2), "no-key");
    let run = register(&["--trust"]);
    run.ok();
    assert!(
        run.err
            .contains(realm.announced["fingerprint"].as_str().unwrap()),
        "{run:?}"
    );
    home.run("ann", &["whoami"]).ok();
    realm.stop();
    // The realm gets another key, as when somebody takes over its address.
    let other = Realm::start();
    let key = fs::read(other.data().join("realm.key")).unwrap();
    fs::write(realm.data().join("realm.key"), key).unwrap();
    realm.start_again();
    let run = home.run("ann", &["whoami"]);
    assert_eq!(run.error(3), "key-changed");
    assert!(run.out.contains("Ask the operator"), "{run:?}");
}

/// LINK-11: a plain realm works for clients that ask for it explicitly.
#[test]
fn plain_link_serves_client_that_asks_for_it() {
    let config = tempfile::NamedTempFile::new().unwrap();
    let text = "[[listen]]\naddress = \"127.0.0.1:0\"\nsecurity = \"plain\"\n";
    fs::write(config.path(), text).unwrap();
    let realm = Realm::start_with(&["--config", config.path().to_str().unwrap()]);
    assert!(!realm.connect.contains('#'));
    let home = Home::new();
    let register = [
        "--server",
        &realm.connect,
        "--plain",
        "register",
        "A",
        "id",
        "ann",
        "--password-file",
        "password",
    ];
    let session = home.run("ann", &register).ok()["session"].clone();
    home.run("ann", &["send", "ann", "in clear"]).ok();
    assert_eq!(home.texts("ann"), ["in clear"]);
    let named = [
        "--server",
        &realm.connect,
        "--plain",
        "--session",
        session.as_str().unwrap(),
    ];
    home.run("other", &[&named[..], &["whoami"]].concat()).ok();
    home.run("ann", &["logout"]).ok();
    assert_eq!(home.run("ann", &["whoami"]).error(1), "no-session");
}

/// The shell accepts the syntax of the command table, with and without the session id.
#[test]
fn shell_accepts_command_table_syntax() {
    let realm = Realm::start();
    let home = Home::new();
    let mut shell = home
        .command("ann", &["--server", &realm.connect, "shell"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = format!(
        "register \"Ann Example\" id ann {PASSWORD}\nsend ann hello  there\ninbox\nlogout\nauth ann {PASSWORD}\nwhoami\n"
    );
    shell
        .stdin
        .take()
        .unwrap()
        .write_all(lines.as_bytes())
        .unwrap();
    let output = shell.wait_with_output().unwrap();
    assert!(output.status.success());
    let out = String::from_utf8(output.stdout).unwrap();
    let objects: Vec<serde_json::Value> = out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(objects[1]["state"], "stored");
    assert_eq!(objects[2]["text"], "hello  there");
    assert_eq!(objects[5]["name"], "Ann Example");
    let session = objects[4]["session"].as_str().unwrap();
    let mut shell = home
        .command("ann", &["shell"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = format!("send {session} ann with the session\nsned\n");
    shell
        .stdin
        .take()
        .unwrap()
        .write_all(lines.as_bytes())
        .unwrap();
    let output = shell.wait_with_output().unwrap();
    assert_eq!(
        output.status.code(),
        Some(2),
        "the line that is wrong ends it"
    );
    assert_eq!(home.texts("ann"), ["hello  there", "with the session"]);
}

/// A message may come from standard input, and may begin with a hyphen.
#[test]
fn cli_message_from_stdin_or_with_hyphen_is_sent() {
    let realm = Realm::start();
    let home = Home::new();
    home.register("ann", &realm.connect);
    let mut send = home
        .command("ann", &["send", "ann", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    send.stdin
        .take()
        .unwrap()
        .write_all(b"two\nlines\n")
        .unwrap();
    assert!(send.wait_with_output().unwrap().status.success());
    home.run("ann", &["send", "ann", "-not an option"]).ok();
    assert_eq!(home.texts("ann"), ["two\nlines", "-not an option"]);
    // In the output for people, messages of others cannot control the terminal.
    home.run("ann", &["send", "ann", "\x1b[2Jboo"]).ok();
    let mut human = support::program();
    human
        .args(["--home"])
        .arg(home.directory.path().join("profiles"));
    let run = finished(human.args(["--profile", "ann", "inbox", "--after", "2"]));
    assert!(run.out.contains("ann: \u{fffd}[2Jboo"), "{run:?}");
}

/// LINK-20: a link sends no datagram that is larger, and no data faster, than its profile carries.
#[test]
fn link_profile_lora_bounds_datagram_size_and_rate() {
    let (realm, home) = (Realm::start(), Home::new());
    home.register("ann", &realm.connect);
    let relay = Relay::to(realm.address);
    let through = realm.connect_through(relay.address);
    let text = "x".repeat(1_000);
    let began = std::time::Instant::now();
    let send = ["--server", &through, "--link", "lora", "send", "ann", &text];
    home.run("ann", &send).ok();
    let carried = relay.take_carried();
    let longest = carried.iter().map(|datagram| datagram.bytes.len()).max();
    assert!(longest <= Some(160), "{longest:?}");
    // Handshake packets are not packets of the link.
    let is_of_link = |carried: &&Carried| carried.way == Way::ToRealm && carried.bytes[0] >= 0x80;
    let sent = carried.iter().filter(is_of_link);
    let bytes: usize = sent.map(|datagram| datagram.bytes.len()).sum();
    // The pacer has delayed all of them but the last.
    let least = f64::from(u32::try_from(bytes - 160).unwrap()) / 600.0;
    assert!(began.elapsed().as_secs_f64() >= least, "{bytes} bytes");
    assert_eq!(home.texts("ann"), [text]);
    let wrong = home.run("ann", &["--link", "wifi", "whoami"]);
    assert_eq!(wrong.error(2), "usage");
}
