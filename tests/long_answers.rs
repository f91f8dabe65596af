//! Long answers, which do not fit a datagram, to commands in the first message of a handshake
//! (HS-5): the client gets all of the answer, with a handshake and with a resumption.

mod support;

use support::{Home, Realm, Run, typing::Shell};

/// Runs a command in a process of its own: with a handshake, then by resumption (HS-18), then after
/// the realm was killed.
fn asked_in_three_ways(home: &Home, realm: &mut Realm, profile: &str, command: &str) -> Vec<Run> {
    let first = home.run(profile, &["--no-early-data", "whoami"]);
    first.ok();
    let begun = home.run(profile, &[command]);
    let resumed = home.run(profile, &[command]);
    realm.kill();
    realm.start_again();
    vec![begun, resumed, home.run(profile, &[command])]
}

/// Makes `count` groups with ann and bob as members. Each has a message that bob has not read.
fn in_many_groups(home: &Home, realm: &Realm, options: &[&str], count: usize) {
    for name in ["ann", "bob"] {
        let register = [
            "--server",
            &realm.connect,
            "register",
            "Some One",
            "id",
            name,
        ];
        let password = ["--password-file", "password"];
        home.run(name, &[options, &register, &password].concat())
            .ok();
    }
    let mut ann = Shell::start(home, "ann", &[]);
    let mut bob = Shell::start(home, "bob", &[]);
    for n in 0..count {
        let group = format!("team-{n:03}-{}", "a".repeat(23));
        let done = |shell: &mut Shell, line: String| {
            let answer = shell.ask(&line);
            assert!(answer.get("error").is_none(), "{line}: {answer}");
        };
        done(&mut ann, format!("addgroup {group} --no-password"));
        done(&mut bob, format!("joingroup {group} --no-password"));
        done(&mut ann, format!("sendgroup {group} x"));
    }
}

/// WATCH-5, HS-5: `unread` with 40 groups is answered. It was refused with `too-large`, without a
/// workaround.
#[test]
fn early_data_unread_in_40_groups_is_answered() {
    let home = Home::new();
    let mut realm = home.realm_as("[limits]\njoins_per_subnet = \"unlimited\"");
    in_many_groups(&home, &realm, &[], 40);
    for run in asked_in_three_ways(&home, &mut realm, "bob", "unread") {
        assert_eq!(run.code, Some(0), "{}{}", run.out, run.err);
        assert_eq!(run.objects().len(), 40);
    }
}

/// WATCH-5, LINK-13: the first command on a plain link may have a long answer, too.
#[test]
fn plain_link_unread_in_40_groups_is_answered() {
    let home = Home::new();
    let config = "[limits]\njoins_per_subnet = \"unlimited\"\n[[listen]]\nsecurity = \"plain\"\naddress = \"127.0.0.1:0\"\n";
    let path = home.directory.path().join("plain.toml");
    std::fs::write(&path, config).unwrap();
    let realm = Realm::start_fixed(&["--config", path.to_str().unwrap()]);
    in_many_groups(&home, &realm, &["--plain"], 40);
    let run = home.run("bob", &["unread"]);
    assert_eq!(run.code, Some(0), "{}{}", run.out, run.err);
    assert_eq!(run.objects().len(), 40);
}

/// GRP-8, WATCH-1: a member of hundreds of groups can watch and count them, however long the
/// request.
#[test]
fn watch_of_hundreds_of_groups_shows_all_messages() {
    let home = Home::new();
    let realm = home.realm_as(
        "[limits]\nmax_message = \"1KiB\"\njoins_per_subnet = \"unlimited\"\ncommands_per_account = \"unlimited\"\nstored_per_account = \"unlimited\"",
    );
    in_many_groups(&home, &realm, &[], 150);
    let run = home.run("bob", &["watch", "--count", "150"]);
    assert_eq!(
        (run.code, run.objects().len()),
        (Some(0), 150),
        "{}{}",
        run.out,
        run.err
    );
    let run = home.run("bob", &["unread"]);
    assert_eq!(
        (run.code, run.objects().len()),
        (Some(0), 0),
        "{}{}",
        run.out,
        run.err
    );
    home.run("ann", &["send", "bob", "one more"]).ok();
    let run = home.run("bob", &["watch", "--count", "1"]);
    assert_eq!(run.texts(), ["one more"], "{}{}", run.out, run.err);
}

/// PEER-1, HS-5: an operator of 20 peers can list them. This was not possible.
#[test]
fn early_data_list_of_20_peers_is_answered() {
    let home = Home::new();
    let mut config = "[realm]\nid = \"alpha\"\n".to_owned();
    for n in 0..20 {
        let key = merpati::crypto::SecretKey::from_bytes([n + 1; 32]).public();
        let peer = format!(
            "[[peer]]\nrealm = \"realm-number-{n:02}-with-a-long-name\"\naddress = \"host-{n:02}.example.invalid:6377\"\nkey = \"{key}\"\n"
        );
        config.push_str(&peer);
    }
    let mut realm = home.realm_as(&config);
    home.register("op", &realm.connect);
    let code = realm.data().join("operator-code");
    home.run("op", &["claim", "--password-file", code.to_str().unwrap()])
        .ok();
    for run in asked_in_three_ways(&home, &mut realm, "op", "realms") {
        assert_eq!(run.code, Some(0), "{}{}", run.out, run.err);
        assert_eq!(run.objects().len(), 20);
    }
}
