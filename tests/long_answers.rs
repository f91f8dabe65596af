//! Answers that fit no datagram, to commands that travel in a handshake's first message (HS-5): whoever asks has all of
//! it, whether it is the first time or they have been here before.

mod support;

use support::{Home, Realm, Run, typing::Shell};

/// Asks in a process of its own: with a handshake, then by resumption (HS-18), then after the realm has been killed.
fn asked_in_three_ways(home: &Home, realm: &mut Realm, profile: &str, command: &str) -> Vec<Run> {
    let first = home.run(profile, &["--no-early-data", "whoami"]);
    first.ok();
    let begun = home.run(profile, &[command]);
    let resumed = home.run(profile, &[command]);
    realm.kill();
    realm.start_again();
    vec![begun, resumed, home.run(profile, &[command])]
}

/// WATCH-5, HS-5: `unread` with 40 groups was answered `too-large`, with no way on.
#[test]
fn unread_with_many_groups_is_answered() {
    let home = Home::new();
    let mut realm = home.realm_as("[limits]\njoins_per_subnet = \"unlimited\"");
    home.register("ann", &realm.connect);
    home.register("bob", &realm.connect);
    let mut ann = Shell::start(&home, "ann", &[]);
    let mut bob = Shell::start(&home, "bob", &[]);
    for n in 0..40 {
        let group = format!("team-{n:02}-{}", "a".repeat(24));
        let done = |shell: &mut Shell, line: String| {
            let answer = shell.ask(&line);
            assert!(answer.get("error").is_none(), "{line}: {answer}");
        };
        done(&mut ann, format!("addgroup {group} --no-password"));
        done(&mut bob, format!("joingroup {group} --no-password"));
        done(&mut ann, format!("sendgroup {group} x"));
    }
    drop((ann, bob));
    for run in asked_in_three_ways(&home, &mut realm, "bob", "unread") {
        assert_eq!(run.code, Some(0), "{}{}", run.out, run.err);
        assert_eq!(run.objects().len(), 40);
    }
}

/// PEER-1, HS-5: an operator of 20 peers could not list them.
#[test]
fn realms_with_many_peers_is_answered() {
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
