//! Realms that peer: rows 10, 13 and 14 of the command table, and what must hold when a peer is
//! away, is killed, lies, or has lost its memory.

mod support;

use std::fs;

use support::{Home, Realm, Run, copy_directory};

/// Two realms, each with an operator who is also a user: ann in alpha, bob in beta.
struct Pair {
    alpha: Realm,
    beta: Realm,
    home: Home,
}

fn operator(home: &Home, realm: &Realm, name: &str) {
    home.register(name, &realm.connect);
    let code = realm.data().join("operator-code");
    home.run(name, &["claim", "--password-file", code.to_str().unwrap()])
        .ok();
}

impl Pair {
    fn new(peering: &str) -> Self {
        let home = Home::new();
        let alpha = home.realm("alpha", peering);
        let beta = home.realm("beta", peering);
        operator(&home, &alpha, "ann");
        operator(&home, &beta, "bob");
        Self { alpha, beta, home }
    }

    /// Starts two realms and peers them.
    fn peered() -> Self {
        let pair = Self::new("open");
        assert_eq!(
            pair.add("ann", "beta", &pair.beta).ok()["state"],
            "accepted"
        );
        pair
    }

    fn add(&self, who: &str, name: &str, realm: &Realm) -> Run {
        let port = realm.address.port().to_string();
        let (_, key) = realm.connect.split_once('#').unwrap();
        self.home.run(
            who,
            &["addrealm", name, "127.0.0.1", &port, "-", "-", "--key", key],
        )
    }

    fn send(&self, who: &str, realm: &str, to: &str, text: &str) -> Run {
        self.home.run(who, &["sendrealm", realm, to, text])
    }

    /// Returns the line of `realms` about the one peer.
    fn peer(&self, who: &str) -> serde_json::Value {
        self.home.run(who, &["realms"]).objects().remove(0)
    }

    /// Polls until `is_so`. A poll takes a while by itself.
    fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        let began = std::time::Instant::now();
        while !is_so() {
            assert!(
                began.elapsed().as_secs() < 30,
                "{what} in 30 s\n{}\n{}",
                self.alpha.log(),
                self.beta.log()
            );
        }
    }
}

/// Row 10, PEER-1, PEER-2: one `addrealm` makes the peering work in both directions.
#[test]
fn peering_by_addrealm_works_in_both_directions() {
    let pair = Pair::peered();
    assert_eq!(
        pair.send("ann", "beta", "bob", "hi bob").ok()["state"],
        "delivered"
    );
    assert_eq!(
        pair.send("bob", "alpha", "ann", "hi ann").ok()["state"],
        "delivered"
    );
    let entry = pair.home.run("bob", &["inbox"]).objects().remove(0);
    assert_eq!(
        (&entry["from"], &entry["realm"], &entry["text"]),
        (&"ann".into(), &"alpha".into(), &"hi bob".into())
    );
    assert_eq!(
        pair.home.run("ann", &["inboxrealm", "beta"]).texts(),
        ["hi ann"]
    );
    assert!(pair.home.run("ann", &["inboxrealm", "beta"]).out.is_empty());
    let peer = pair.peer("ann");
    assert_eq!(
        (&peer["realm"], &peer["state"], &peer["queued"]),
        (&"beta".into(), &"open".into(), &0.into())
    );
}

/// Row 10: the errors of `addrealm`.
#[test]
fn peering_invalid_addrealm_is_refused() {
    let pair = Pair::peered();
    assert_eq!(pair.add("ann", "beta", &pair.beta).error(1), "realm-exists");
    assert_eq!(
        pair.add("ann", "other", &pair.beta).error(1),
        "realm-exists",
        "its key is known"
    );
    pair.home.register("cat", &pair.alpha.connect);
    assert_eq!(
        pair.add("cat", "gamma", &pair.beta).error(1),
        "not-operator"
    );
    let shown = pair.home.run("cat", &["realms"]).objects();
    assert_eq!(shown[0]["realm"], "beta");
    assert!(
        shown[0].get("address").is_none(),
        "users see the names only"
    );
    assert_eq!(
        pair.home
            .run("cat", &["claim", "--password-file", "wrong"])
            .error(1),
        "wrong-password"
    );
    let bad = ["addrealm", "gamma", "127.0.0.1", "9", "192.0.2.9", "9"];
    assert_eq!(pair.home.run("ann", &bad).error(1), "bad-source");
    assert_eq!(
        pair.home.run("ann", &["removerealm", "gamma"]).error(1),
        "no-such-realm"
    );
}

/// PEER-3: by default a peering needs both operators.
#[test]
fn peering_listed_needs_both_operators() {
    let pair = Pair::new("listed");
    assert_eq!(pair.add("ann", "beta", &pair.beta).ok()["state"], "waiting");
    assert_eq!(pair.peer("ann")["state"], "waiting");
    assert_eq!(
        pair.send("ann", "beta", "bob", "early").ok()["state"],
        "queued"
    );
    assert_eq!(
        pair.add("bob", "alpha", &pair.alpha).ok()["state"],
        "accepted"
    );
    pair.until("the message arrives", || {
        pair.home.texts("bob") == ["early"]
    });
    assert_eq!(
        pair.send("bob", "alpha", "ann", "back").ok()["state"],
        "delivered"
    );
}

/// PEER-28: an operator sees a pending realm and accepts it by the shown key under another name.
#[test]
fn peering_pending_realm_is_listed_and_accepted() {
    let pair = Pair::new("listed");
    assert_eq!(pair.add("ann", "beta", &pair.beta).ok()["state"], "waiting");
    assert_eq!(
        pair.send("ann", "beta", "bob", "early").ok()["state"],
        "queued"
    );
    let home = &pair.home;
    let pending = home.run("bob", &["realms", "--pending"]).objects();
    assert_eq!(pending.len(), 1, "{pending:?}");
    let alpha = &pending[0];
    let (_, key) = pair.alpha.connect.split_once('#').unwrap();
    assert_eq!(alpha["realm"], "alpha");
    assert_eq!(alpha["key"], key);
    assert_eq!(alpha["claimed"], pair.alpha.address.to_string());
    let told = home.run("ann", &["realms", "--details"]).objects();
    assert_eq!(told[0]["state"], "refused");
    assert_eq!(told[0]["why"], "peer-refused");
    assert_eq!(home.run("bob", &["realms"]).objects().len(), 0);
    let fingerprint = alpha["fingerprint"].as_str().unwrap();
    let other = fingerprint.replace(|c: char| c.is_ascii_alphanumeric(), "a");
    let accept = |key: &str| {
        home.run(
            "bob",
            &["acceptrealm", "alpha", "--as", "friends", "--key", key],
        )
    };
    assert_eq!(accept(&other).error(1), "no-such-realm");
    accept(fingerprint).ok();
    assert!(pair.beta.log().contains(fingerprint), "{}", pair.beta.log());
    pair.until("the message arrives", || home.texts("bob") == ["early"]);
    pair.until("the peer is believed to be where it says", || {
        let details = home.run("bob", &["realms", "--details"]).objects();
        details[0]["address"] == pair.alpha.address.to_string()
    });
    assert_eq!(
        pair.send("bob", "friends", "ann", "back").ok()["state"],
        "delivered"
    );
    let refused = home.run("bob", &["refuserealm", "alpha", "--key", key]);
    assert_eq!(refused.error(1), "no-such-realm");
}

/// PEER-27: after a realm was removed and added again, both agree that its members are gone.
#[test]
fn peering_added_again_ends_former_memberships() {
    let pair = Pair::with_group();
    let are_in = || {
        let members = pair.home.run("ann", &["members", "cats"]).out;
        let reads = pair.home.run("bob", &["inboxgrouprealm", "alpha", "cats"]);
        (members.contains("bob"), reads.code == Some(0))
    };
    assert_eq!(are_in(), (true, true));
    pair.home.run("ann", &["removerealm", "beta"]).ok();
    pair.until("the name is free", || {
        pair.add("ann", "beta", &pair.beta).code == Some(0)
    });
    pair.until("both agree", || are_in() == (false, false));
    let join = [
        "joingrouprealm",
        "alpha",
        "cats",
        "--password-file",
        "password",
    ];
    pair.until("bob joins again", || {
        pair.home.run("bob", &join).code == Some(0)
    });
    assert_eq!(are_in(), (true, true));
}

/// Row 13: the errors of `sendrealm`.
#[test]
fn delivery_to_unknown_user_or_realm_is_refused() {
    let pair = Pair::peered();
    assert_eq!(
        pair.send("ann", "gamma", "bob", "x").error(1),
        "no-such-realm"
    );
    assert_eq!(
        pair.send("ann", "beta", "nobody", "x").error(1),
        "no-such-user"
    );
    let bad = ["sendrealm", "beta", "bob", "x", "--src", "192.0.2.9:9"];
    assert_eq!(pair.home.run("ann", &bad).error(1), "bad-source");
    let own = format!("127.0.0.1:{}", pair.alpha.address.port());
    pair.home
        .run(
            "ann",
            &["sendrealm", "beta", "bob", "by name", "--src", &own],
        )
        .ok();
    pair.home.run("ann", &["logout"]).ok();
    assert_eq!(pair.send("ann", "beta", "bob", "x").error(1), "no-session");
    assert_eq!(pair.home.texts("bob"), ["by name"]);
    assert!(
        pair.home
            .run("bob", &["inbox", "--after", "0"])
            .out
            .contains("\"realm\":\"alpha\"")
    );
}

/// Row 14: the errors of `inboxrealm`.
#[test]
fn inboxrealm_without_session_or_known_realm_is_refused() {
    let pair = Pair::peered();
    assert_eq!(
        pair.home.run("ann", &["inboxrealm", "gamma"]).error(1),
        "no-such-realm"
    );
    pair.home.run("ann", &["logout"]).ok();
    assert_eq!(
        pair.home.run("ann", &["inboxrealm", "beta"]).error(1),
        "no-session"
    );
}

/// PEER-5: a peer that is away receives its messages on its return, once and in order.
#[test]
fn queue_for_absent_peer_arrives_once_in_order() {
    let mut pair = Pair::peered();
    pair.send("ann", "beta", "bob", "one").ok();
    pair.beta.kill();
    for text in ["two", "three"] {
        assert_eq!(
            pair.send("ann", "beta", "bob", text).ok()["state"],
            "queued"
        );
    }
    assert_eq!(pair.peer("ann")["queued"], 2);
    pair.alpha.kill();
    pair.alpha.start_again();
    assert_eq!(pair.peer("ann")["queued"], 2, "a queue outlives its realm");
    assert!(pair.peer("ann")["age"].is_u64());
    pair.beta.start_again();
    pair.until("both arrive", || pair.home.texts("bob").len() >= 3);
    assert_eq!(pair.home.texts("bob"), ["one", "two", "three"]);
    pair.until("the queue is empty", || pair.peer("ann")["queued"] == 0);
}

/// PEER-22: a realm that is gone for good can be removed. Its queue comes back, its users leave all
/// groups. The answer was that the queue is full, and the next to have the name was a member.
#[test]
fn peer_removed_while_dead_returns_queue_and_ends_membership() {
    let mut pair = Pair::peered();
    pair.home
        .run("ann", &["addgroup", "crew", "--no-password"])
        .ok();
    pair.home
        .run("bob", &["joingrouprealm", "alpha", "crew", "--no-password"])
        .ok();
    pair.beta.kill();
    let waits = pair.send("ann", "beta", "bob", "are you there?").ok();
    assert_eq!(waits["state"], "queued");
    pair.home.run("ann", &["removerealm", "beta"]).ok();
    pair.until("it comes back", || !pair.home.texts("ann").is_empty());
    assert!(pair.home.texts("ann")[0].contains("are you there?"));
    pair.until("nobody of it is a member", || {
        pair.home.run("ann", &["members", "crew"]).objects().len() == 1
    });
    assert_eq!(
        pair.send("ann", "beta", "bob", "again").error(1),
        "no-such-realm"
    );
}

/// PEER-6: a message that fails after its sender has gone on comes back as a notice. It delays no
/// other message.
#[test]
fn receipt_of_late_failure_comes_back_as_notice() {
    let mut pair = Pair::peered();
    pair.beta.kill();
    assert_eq!(
        pair.send("ann", "beta", "nobody", "to nobody").ok()["state"],
        "queued"
    );
    assert_eq!(
        pair.send("ann", "beta", "bob", "to bob").ok()["state"],
        "queued"
    );
    pair.beta.start_again();
    pair.until("the good one arrives", || {
        pair.home.texts("bob") == ["to bob"]
    });
    let notice = pair.home.run("ann", &["inbox"]).objects().remove(0);
    assert_eq!(notice["notice"], true);
    assert_eq!(
        (&notice["from"], &notice["realm"]),
        (&"nobody".into(), &"beta".into())
    );
    assert_eq!(notice["text"], "not delivered (no-such-user): to nobody");
}

/// PEER-4, PEER-5: both realms, killed repeatedly under load, lose and double nothing, in order.
#[test]
fn delivery_between_killed_realms_loses_and_doubles_nothing() {
    let mut pair = Pair::peered();
    let mut sent = 0;
    for round in 0..6 {
        for _ in 0..10 {
            pair.send("ann", "beta", "bob", &sent.to_string()).ok();
            sent += 1;
        }
        let realm = if round % 2 == 0 {
            &mut pair.beta
        } else {
            &mut pair.alpha
        };
        realm.kill();
        if round % 2 == 0 {
            pair.send("ann", "beta", "bob", &sent.to_string()).ok();
            sent += 1;
            pair.beta.start_again();
        } else {
            pair.alpha.start_again();
        }
    }
    pair.until("all arrive", || pair.home.texts("bob").len() >= sent);
    let wanted: Vec<_> = (0..sent).map(|n| n.to_string()).collect();
    assert_eq!(pair.home.texts("bob"), wanted);
}

/// PEER-7: a realm restored from an old copy neither repeats delivered messages nor loses new ones.
#[test]
fn delivery_from_restored_realm_loses_and_doubles_nothing() {
    let mut pair = Pair::peered();
    pair.send("ann", "beta", "bob", "before").ok();
    pair.alpha.stop();
    let copy = pair.home.directory.path().join("copy");
    copy_directory(&pair.alpha.data(), &copy);
    pair.alpha.start_again();
    for text in ["lost from memory 1", "lost from memory 2"] {
        assert_eq!(
            pair.send("ann", "beta", "bob", text).ok()["state"],
            "delivered"
        );
    }
    pair.alpha.stop();
    fs::remove_dir_all(pair.alpha.data()).unwrap();
    copy_directory(&copy, &pair.alpha.data());
    pair.alpha.start_again();
    for text in ["new 1", "new 2", "new 3"] {
        pair.send("ann", "beta", "bob", text).ok();
    }
    pair.until("the new ones arrive", || pair.home.texts("bob").len() >= 6);
    assert_eq!(
        pair.home.texts("bob"),
        [
            "before",
            "lost from memory 1",
            "lost from memory 2",
            "new 1",
            "new 2",
            "new 3"
        ]
    );
}

impl Pair {
    /// Starts two peered realms. In alpha is the group cats, with bob of beta as a member.
    fn with_group() -> Self {
        let pair = Self::peered();
        let home = &pair.home;
        home.run("ann", &["addgroup", "cats", "--password-file", "password"])
            .ok();
        home.run("ann", &["sendgroup", "cats", "before"]).ok();
        home.run(
            "bob",
            &[
                "joingrouprealm",
                "alpha",
                "cats",
                "--password-file",
                "password",
            ],
        )
        .ok();
        pair
    }

    fn post(&self, text: &str) -> Run {
        self.home
            .run("bob", &["sendgrouprealm", "alpha", "cats", text])
    }

    /// Returns the texts of the replica in beta, from the beginning.
    fn copy(&self) -> Vec<String> {
        self.home
            .run("bob", &["inboxgrouprealm", "alpha", "cats", "--after", "0"])
            .texts()
    }

    fn group(&self) -> Vec<String> {
        self.home
            .run("ann", &["inboxgroup", "cats", "--after", "0"])
            .texts()
    }
}

/// Rows 11 and 12, PEER-8, PEER-9, PEER-10: a group is one conversation across realms.
#[test]
fn group_across_realms_is_one_conversation() {
    let pair = Pair::with_group();
    assert_eq!(pair.post("from beta").ok()["state"], "delivered");
    pair.home
        .run("ann", &["sendgroup", "cats", "from alpha"])
        .ok();
    let all = ["before", "from beta", "from alpha"];
    assert_eq!(pair.group(), all);
    pair.until("the copy is equal", || pair.copy() == all);
    let run = pair
        .home
        .run("bob", &["inboxgrouprealm", "alpha", "cats", "--after", "0"]);
    let senders: Vec<_> = run
        .objects()
        .iter()
        .map(|entry| (entry["from"].clone(), entry["realm"].clone()))
        .collect();
    let alpha = serde_json::Value::from("alpha");
    assert_eq!(senders[0], ("ann".into(), alpha), "who wrote from there");
    assert_eq!(
        senders[1],
        ("bob".into(), serde_json::Value::Null),
        "who wrote from here"
    );
    let members = pair.home.run("ann", &["members", "cats"]).objects();
    assert_eq!(
        (&members[1]["user"], &members[1]["realm"]),
        (&"bob".into(), &"beta".into())
    );
}

/// Row 11 and `joingrouprealm`: their errors.
#[test]
fn group_of_other_realm_refuses_nonmembers() {
    let pair = Pair::with_group();
    let run = |arguments: &[&str]| pair.home.run("bob", arguments);
    assert_eq!(
        run(&["sendgrouprealm", "gamma", "cats", "x"]).error(1),
        "no-such-realm"
    );
    assert_eq!(
        run(&["sendgrouprealm", "alpha", "dogs", "x"]).error(1),
        "not-a-member"
    );
    let join = |realm: &str, group: &str, file: &str| {
        pair.home.run(
            "bob",
            &["joingrouprealm", realm, group, "--password-file", file],
        )
    };
    assert_eq!(join("gamma", "cats", "password").error(1), "no-such-realm");
    assert_eq!(join("alpha", "dogs", "password").error(1), "no-such-group");
    assert_eq!(join("alpha", "cats", "wrong").error(1), "wrong-password");
    join("alpha", "cats", "password").ok();
    pair.home.register("cat", &pair.beta.connect);
    let stranger = pair
        .home
        .run("cat", &["sendgrouprealm", "alpha", "cats", "x"]);
    assert_eq!(stranger.error(1), "not-a-member");
    run(&["leavegrouprealm", "alpha", "cats"]).ok();
    assert_eq!(pair.post("x").error(1), "not-a-member");
    assert_eq!(
        pair.home.run("ann", &["members", "cats"]).objects().len(),
        1
    );
    run(&["logout"]).ok();
    assert_eq!(pair.post("x").error(1), "no-session");
}

/// Row 12: the errors of `inboxgrouprealm`.
#[test]
fn membership_is_needed_to_read_group_of_other_realm() {
    let pair = Pair::with_group();
    pair.home.register("cat", &pair.beta.connect);
    let inbox = |who: &str, realm: &str, group: &str| {
        pair.home.run(who, &["inboxgrouprealm", realm, group])
    };
    assert_eq!(inbox("cat", "alpha", "cats").error(1), "not-a-member");
    assert_eq!(inbox("bob", "gamma", "cats").error(1), "no-such-realm");
    assert_eq!(inbox("bob", "alpha", "dogs").error(1), "not-a-member");
    pair.home.run("bob", &["logout"]).ok();
    assert_eq!(inbox("bob", "alpha", "cats").error(1), "no-session");
}

/// PEER-11: while the home realm is away, members elsewhere read their replica, and their messages
/// are queued. On its return all replicas become equal, whoever was away.
#[test]
fn replica_becomes_equal_when_home_realm_returns() {
    let mut pair = Pair::with_group();
    pair.until("the copy is equal", || pair.copy() == ["before"]);
    pair.alpha.kill();
    assert_eq!(pair.post("while away").ok()["state"], "queued");
    assert_eq!(pair.copy(), ["before"]);
    let join = [
        "joingrouprealm",
        "alpha",
        "cats",
        "--password-file",
        "password",
    ];
    assert_eq!(pair.home.run("bob", &join).error(1), "realm-unreachable");
    pair.alpha.start_again();
    pair.until("the message arrives", || {
        pair.group() == ["before", "while away"]
    });
    pair.until("the copy is equal", || {
        pair.copy() == ["before", "while away"]
    });
    pair.beta.kill();
    for text in ["one", "two"] {
        pair.home.run("ann", &["sendgroup", "cats", text]).ok();
    }
    pair.alpha.kill();
    pair.alpha.start_again();
    pair.beta.start_again();
    let all = ["before", "while away", "one", "two"];
    pair.until("the copy is equal", || pair.copy() == all);
    pair.home.run("ann", &["delgroup", "cats"]).ok();
    assert_eq!(pair.post("x").error(1), "no-such-group");
    assert_eq!(pair.copy(), all, "what was read stays");
}

/// PEER-15: an owner removes and bans members of other realms, too. They can read no further.
#[test]
fn moderation_of_member_of_other_realm_ends_its_access() {
    let mut pair = Pair::with_group();
    pair.home.register("cat", &pair.beta.connect);
    let join = |who: &str| {
        let join = [
            "joingrouprealm",
            "alpha",
            "cats",
            "--password-file",
            "password",
        ];
        pair.home.run(who, &join)
    };
    join("cat").ok();
    let kick = |command: &str| pair.home.run("ann", &[command, "cats", "bob@beta"]);
    assert_eq!(
        pair.home.run("ann", &["kick", "cats", "dan@beta"]).error(1),
        "no-such-user"
    );
    assert_eq!(
        pair.home.run("ann", &["ban", "cats", "bob@gamma"]).error(1),
        "no-such-realm"
    );
    kick("kick").ok();
    let inbox = |who: &str| {
        pair.home
            .run(who, &["inboxgrouprealm", "alpha", "cats", "--after", "0"])
    };
    pair.until("bob is out", || inbox("bob").code == Some(1));
    assert_eq!(inbox("bob").error(1), "not-a-member");
    assert_eq!(pair.post("x").error(1), "not-a-member");
    join("bob").ok();
    kick("ban").ok();
    assert_eq!(join("bob").error(1), "banned");
    pair.home
        .run("ann", &["sendgroup", "cats", "without bob"])
        .ok();
    pair.until("the copy is equal", || {
        inbox("cat").texts() == ["before", "without bob"]
    });
    kick("unban").ok();
    pair.beta.kill();
    pair.home.run("ann", &["kick", "cats", "cat@beta"]).ok();
    pair.beta.start_again();
    pair.until("cat is out, though her realm was away", || {
        inbox_code(&pair, "cat") == Some(1)
    });
    let members = pair.home.run("ann", &["members", "cats"]).objects();
    assert_eq!(members.len(), 1);
}

/// PEER-19, GRP-7: members in another realm are told once that a group has ended, also if their
/// realm was away, and can read what there was.
#[test]
fn group_ended_is_told_to_members_of_other_realm() {
    let mut pair = Pair::with_group();
    pair.until("the copy is equal", || pair.copy() == ["before"]);
    pair.beta.kill();
    pair.home.run("ann", &["leavegroup", "cats"]).ok();
    // Anybody may take the name. That makes another group.
    pair.home
        .run("ann", &["addgroup", "cats", "--no-password"])
        .ok();
    pair.home
        .run("ann", &["sendgroup", "cats", "not for bob"])
        .ok();
    pair.beta.start_again();
    let inbox = || pair.home.run("bob", &["inbox", "--after", "0"]).objects();
    pair.until("bob is told", || !inbox().is_empty());
    let told = inbox();
    assert_eq!(told.len(), 1);
    assert_eq!(
        (&told[0]["from"], &told[0]["realm"], &told[0]["notice"]),
        (&"cats".into(), &"alpha".into(), &true.into())
    );
    assert!(told[0]["text"].as_str().unwrap().contains("has ended"));
    assert_eq!(pair.copy(), ["before"]);
    assert_eq!(pair.post("x").error(1), "no-such-group");
    let leave = ["leavegrouprealm", "alpha", "cats"];
    pair.home.run("bob", &leave).ok();
    assert_eq!(inbox_code(&pair, "bob"), Some(1));
}

fn inbox_code(pair: &Pair, who: &str) -> Option<i32> {
    pair.home
        .run(who, &["inboxgrouprealm", "alpha", "cats"])
        .code
}

/// HS-11, PEER-13: a realm changes its key. Clients and peers follow by themselves and report it.
#[test]
fn key_rotation_is_followed_by_clients_and_peers() {
    let mut pair = Pair::peered();
    let old = pair.alpha.connect.clone();
    pair.alpha.stop();
    let rotate = |pair: &Pair| {
        let data = pair.alpha.data();
        support::finished(
            support::program()
                .args(["rotatekey", "--json", "--data"])
                .arg(data),
        )
        .ok()
    };
    let rotated = rotate(&pair);
    pair.alpha.start_again();
    assert_eq!(pair.alpha.announced["fingerprint"], rotated["fingerprint"]);
    let new = pair.alpha.announced["connect"]
        .as_str()
        .unwrap()
        .to_string();
    assert_ne!(new, old);
    let run = pair.send("ann", "beta", "bob", "under a new key");
    run.ok();
    assert!(run.err.contains("the realm has a new key"), "{run:?}");
    assert!(
        run.err.contains(rotated["fingerprint"].as_str().unwrap()),
        "{run:?}"
    );
    let run = pair.home.run("ann", &["whoami"]);
    assert!(run.err.is_empty(), "said once: {run:?}");
    pair.until("beta follows", || {
        pair.beta.log().contains("peer changed its key")
    });
    assert_eq!(
        pair.send("bob", "alpha", "ann", "to the new key").ok()["state"],
        "delivered"
    );
    // The old connection string still leads to the realm, and to the same profile.
    let run = pair.home.run("ann", &["--server", &old, "whoami"]);
    assert_eq!((run.code, run.err.as_str()), (Some(0), ""));
    pair.home.register("cat", &old);
    // Without the old key everything continues, except for users who have not been here since.
    pair.alpha.stop();
    fs::remove_file(pair.alpha.data().join("realm.key.former")).unwrap();
    pair.alpha.start_again();
    assert_eq!(
        pair.send("ann", "beta", "bob", "on").ok()["state"],
        "delivered"
    );
    assert_eq!(
        pair.send("bob", "alpha", "ann", "back").ok()["state"],
        "delivered"
    );
    let late = ["--server", &old, "--deadline", "12s", "whoami"];
    let run = pair.home.run("dan", &late);
    assert_eq!(run.error(3), "key-changed", "{run:?}");
    assert_eq!(pair.home.texts("bob"), ["under a new key", "on"]);
    assert_eq!(pair.home.texts("ann"), ["to the new key", "back"]);
}

/// PEER-13: a peer follows two rotations that it missed. The configuration names the first key.
#[test]
fn key_rotation_missed_twice_is_followed_later() {
    let mut pair = Pair::peered();
    for _ in 0..2 {
        pair.beta.kill();
        pair.alpha.kill();
        let data = pair.alpha.data();
        support::finished(
            support::program()
                .args(["rotatekey", "--json", "--data"])
                .arg(data),
        )
        .ok();
        pair.alpha.start_again();
        pair.send("ann", "beta", "bob", "queued").ok();
        pair.beta.start_again();
    }
    pair.until("all arrive", || pair.home.texts("bob").len() >= 2);
    assert_eq!(pair.home.texts("bob"), ["queued", "queued"]);
    assert_eq!(
        pair.send("bob", "alpha", "ann", "back").ok()["state"],
        "delivered"
    );
}

/// PEER-16: of several listeners, of both families, `--src` selects the one that sends.
#[test]
fn delivery_leaves_by_named_source_address() {
    let home = Home::new();
    let start = |name: &str, listeners: &[&str]| {
        let mut text =
            format!("[realm]\nid = \"{name}\"\npeering = \"open\"\n[log]\nlevel = \"debug\"\n");
        for listener in listeners {
            text = format!("{text}[[listen]]\naddress = \"{listener}\"\n");
        }
        let config = home.directory.path().join(format!("{name}.toml"));
        fs::write(&config, text).unwrap();
        Realm::start_with(&["--config", config.to_str().unwrap()])
    };
    let alpha = start("alpha", &["127.0.0.1:0", "127.0.0.2:0", "[::1]:0"]);
    let beta = start("beta", &["127.0.0.1:0"]);
    let gamma = start("gamma", &["[::1]:0"]);
    operator(&home, &alpha, "ann");
    home.register("bob", &beta.connect);
    home.register("cat", &gamma.connect);
    let own: Vec<_> = alpha.announced["listen"]
        .as_array()
        .unwrap()
        .iter()
        .map(|a| a.as_str().unwrap())
        .collect();
    let run = |arguments: &[&str]| home.run("ann", arguments);
    // By name, to an address of a family that fits.
    let port = beta.address.port().to_string();
    assert_eq!(
        run(&["addrealm", "beta", "localhost", &port]).ok()["state"],
        "accepted"
    );
    assert!(
        beta.log().contains(&format!("address={}", own[0])),
        "{}",
        beta.log()
    );
    assert!(!beta.log().contains(own[1]));
    assert_eq!(
        run(&["sendrealm", "beta", "bob", "one", "--src", own[1]]).ok()["state"],
        "delivered"
    );
    assert!(
        beta.log().contains(&format!("address={}", own[1])),
        "{}",
        beta.log()
    );
    let port = gamma.address.port().to_string();
    let (host, source) = own[2].rsplit_once(':').unwrap();
    let host = host.trim_matches(['[', ']']);
    assert_eq!(
        run(&["addrealm", "gamma", "::1", &port, host, source]).ok()["state"],
        "accepted"
    );
    assert_eq!(
        run(&["sendrealm", "gamma", "cat", "two"]).ok()["state"],
        "delivered"
    );
    assert_eq!(
        home.run("cat", &["sendrealm", "alpha", "ann", "three"])
            .ok()["state"],
        "delivered",
        "the way back is by IPv6 too"
    );
    assert_eq!(
        (home.texts("bob"), home.texts("cat"), home.texts("ann")),
        (
            vec!["one".to_string()],
            vec!["two".to_string()],
            vec!["three".to_string()]
        )
    );
}

/// An operator is told why a peer is unreachable: its name does not resolve, or nothing is there.
#[test]
fn peer_unreachable_operator_is_told_why() {
    let pair = Pair::new("open");
    let (_, key) = pair.beta.connect.split_once('#').unwrap();
    let add = |name: &str, host: &str| {
        pair.home.run(
            "ann",
            &["addrealm", name, host, "9", "-", "-", "--key", key],
        )
    };
    let nowhere = ["addrealm", "gamma", "no-such-host.invalid", "6377"];
    let run = pair.home.run("ann", &nowhere);
    assert_eq!(run.error(1), "realm-unreachable");
    assert_eq!(
        add("gamma", "no-such-host.invalid").ok()["state"],
        "waiting"
    );
    pair.until("the log says so", || {
        pair.alpha.log().contains("did not resolve")
    });
    assert_eq!(
        pair.send("ann", "gamma", "bob", "x").ok()["state"],
        "queued",
        "kept all the same"
    );
    let peer = pair.peer("ann");
    assert_eq!(
        (&peer["state"], &peer["queued"]),
        (&"waiting".into(), &1.into())
    );
}

/// A `[[peer]]` table does what `addrealm` does, at every start.
#[test]
fn config_peer_table_makes_peering_at_start() {
    let home = Home::new();
    let beta = home.realm("beta", "open");
    let (_, key) = beta.connect.split_once('#').unwrap();
    let config = home.directory.path().join("alpha.toml");
    let table = format!(
        "[[peer]]\nrealm = \"beta\"\naddress = \"{}\"\nkey = \"{key}\"\n",
        beta.address
    );
    fs::write(
        &config,
        format!("[realm]\nid = \"alpha\"\n[[listen]]\naddress = \"127.0.0.1:0\"\n{table}"),
    )
    .unwrap();
    let mut alpha = Realm::start_fixed(&["--config", config.to_str().unwrap()]);
    home.register("ann", &alpha.connect);
    home.register("bob", &beta.connect);
    home.run("ann", &["sendrealm", "beta", "bob", "hi"]).ok();
    alpha.kill();
    alpha.start_again();
    home.run("ann", &["sendrealm", "beta", "bob", "hi again"])
        .ok();
    let began = std::time::Instant::now();
    while home.texts("bob") != ["hi", "hi again"] {
        assert!(began.elapsed().as_secs() < 30, "{}", alpha.log());
    }
}

/// PEER-17: a message with a `--ttl` of seconds comes back if the other realm is away for longer.
#[test]
fn queue_message_past_ttl_comes_back() {
    let mut pair = Pair::peered();
    pair.beta.kill();
    let send = |text, more: &[&str]| {
        let send = [&["sendrealm", "beta", "bob", text], more].concat();
        pair.home.run("ann", &send).ok()["state"].clone()
    };
    assert_eq!(send("patient", &[]), "queued");
    // Longer than the command waits. Otherwise the command itself would report it.
    assert_eq!(send("hurried", &["--ttl", "4s"]), "queued");
    pair.until("the message comes back", || {
        pair.home.texts("ann") == ["not delivered (expired): hurried"]
    });
    pair.beta.start_again();
    pair.until("the other arrives", || {
        pair.home.texts("bob") == ["patient"]
    });
    let sent = pair.send("ann", "beta", "bob", "on time").ok();
    assert_eq!(sent["state"], "delivered");
    assert_eq!(pair.home.texts("bob"), ["patient", "on time"]);
    let late = pair.home.run("ann", &["send", "ann", "x", "--ttl", "0s"]);
    assert_eq!(late.error(2), "usage");
}

/// PEER-6, PEER-17: the outcome of a message is reported once, however often the realm is killed.
/// An expired message came back once more with each start.
#[test]
fn receipt_after_repeated_kills_is_told_once() {
    let mut pair = Pair::peered();
    pair.beta.kill();
    let send = |pair: &Pair, text: &str, worth: &str| {
        let send = ["sendrealm", "beta", "bob", text, "--ttl", worth];
        pair.home.run("ann", &send)
    };
    assert_eq!(send(&pair, "patient", "1h").ok()["state"], "queued");
    // The command still waits, so its answer reports the outcome, and nothing else does.
    assert_eq!(send(&pair, "brief", "1s").error(1), "expired");
    let mut told = Vec::new();
    for text in ["one", "two", "three"] {
        // Longer than the command waits.
        assert_eq!(send(&pair, text, "4s").ok()["state"], "queued");
        // Earlier messages would come back before it.
        told.push(format!("not delivered (expired): {text}"));
        pair.until("the message comes back", || {
            pair.home.texts("ann").contains(&told[told.len() - 1])
        });
        assert_eq!(pair.home.texts("ann"), told);
        pair.alpha.kill();
        pair.alpha.start_again();
    }
    pair.beta.start_again();
    pair.until("the other arrives", || {
        pair.home.texts("bob") == ["patient"]
    });
    let sent = pair.send("ann", "beta", "bob", "on time").ok();
    assert_eq!(sent["state"], "delivered");
    pair.alpha.kill();
    pair.alpha.start_again();
    pair.home.run("ann", &["send", "ann", "last"]).ok();
    told.push("last".into());
    assert_eq!(pair.home.texts("ann"), told);
    assert_eq!(pair.home.texts("bob"), ["patient", "on time"]);
}
