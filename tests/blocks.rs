//! Blocking as users meet it: real processes, two realms, and what each of them sees.

mod support;

use support::{Home, Realm, watch::Watch};

/// Two realms that are peers: ann, mal and cat in alpha, bob in beta, all in the group devs.
struct Pair {
    home: Home,
    _realms: [Realm; 2],
}

impl Pair {
    fn new() -> Self {
        let home = Home::new();
        let (alpha, beta) = (home.realm("alpha", "open"), home.realm("beta", "open"));
        for name in ["ann", "mal", "cat"] {
            home.register(name, &alpha.connect);
        }
        home.register("bob", &beta.connect);
        let code = alpha.data().join("operator-code");
        home.run("ann", &["claim", "--password-file", code.to_str().unwrap()])
            .ok();
        let port = beta.address.port().to_string();
        let (_, key) = beta.connect.split_once('#').unwrap();
        let add = ["addrealm", "beta", "127.0.0.1", &port, "--key", key];
        home.run("ann", &add).ok();
        home.run("ann", &["addgroup", "devs", "--no-password"]).ok();
        for name in ["mal", "cat"] {
            home.run(name, &["joingroup", "devs", "--no-password"]).ok();
        }
        home.run("bob", &["joingroup", "devs@alpha", "--no-password"])
            .ok();
        Self {
            home,
            _realms: [alpha, beta],
        }
    }

    fn state(&self, who: &str, arguments: &[&str]) -> String {
        let object = self.home.run(who, arguments).ok();
        object["state"].as_str().unwrap().to_string()
    }
}

/// BLK-1 to BLK-3: the users who are blocked are told what everybody is told, and nothing of theirs
/// is shown to who blocks them, in the own realm and in another one.
#[test]
fn blocked_users_are_answered_and_not_seen() {
    let pair = Pair::new();
    let home = &pair.home;
    home.run("ann", &["block", "mal"]).ok();
    home.run("ann", &["block", "bob@beta"]).ok();
    home.run("bob", &["block", "mal@alpha"]).ok();
    let blocked = home.run("ann", &["blocks"]).objects();
    assert_eq!(blocked.len(), 2);
    assert_eq!(
        (&blocked[0]["user"], &blocked[0]["realm"]),
        (&"bob".into(), &"beta".into())
    );
    assert!(home.run("mal", &["blocks"]).out.is_empty());

    assert_eq!(pair.state("mal", &["send", "ann", "from mal"]), "stored");
    assert_eq!(
        pair.state("bob", &["send", "ann@alpha", "from bob"]),
        "delivered"
    );
    assert_eq!(
        pair.state("mal", &["send", "bob@beta", "mal to bob"]),
        "delivered"
    );
    assert_eq!(pair.state("cat", &["send", "ann", "from cat"]), "stored");
    assert_eq!(
        pair.state("cat", &["send", "bob@beta", "cat to bob"]),
        "delivered"
    );
    assert_eq!(home.texts("ann"), ["from cat"]);
    assert_eq!(home.texts("bob"), ["cat to bob"]);
    assert!(home.run("ann", &["inboxrealm", "beta"]).out.is_empty());

    for (who, group, text) in [
        ("mal", "devs", "1 mal"),
        ("bob", "devs@alpha", "2 bob"),
        ("cat", "devs", "3 cat"),
        ("mal", "devs", "4 mal"),
    ] {
        home.run(who, &["sendgroup", group, text]).ok();
    }
    let read = |who: &str, group: &str| {
        home.run(who, &["inboxgroup", group, "--after", "0"])
            .texts()
    };
    assert_eq!(read("ann", "devs"), ["3 cat"]);
    assert_eq!(read("cat", "devs"), ["1 mal", "2 bob", "3 cat", "4 mal"]);
    assert_eq!(read("mal", "devs"), ["1 mal", "2 bob", "3 cat", "4 mal"]);
    // bob's realm keeps all of it, and shows bob what he does not block.
    let whole = || read("bob", "devs@alpha");
    let began = std::time::Instant::now();
    while whole() != ["2 bob", "3 cat"] {
        assert!(began.elapsed().as_secs() < 30, "{:?}", whole());
    }
    home.run("ann", &["unblock", "mal"]).ok();
    assert_eq!(read("ann", "devs"), ["1 mal", "3 cat", "4 mal"]);
    assert_eq!(pair.state("mal", &["send", "ann", "again"]), "stored");
    assert_eq!(home.texts("ann"), ["from cat", "again"]);
}

/// BLK-3: a watch that runs follows `block` and `unblock` of another process.
#[test]
fn watch_that_runs_follows_blocks() {
    let (realm, home) = (Realm::start(), Home::new());
    for name in ["ann", "mal"] {
        home.register(name, &realm.connect);
    }
    home.run("ann", &["addgroup", "devs", "--no-password"]).ok();
    home.run("mal", &["joingroup", "devs", "--no-password"])
        .ok();
    let mut watch = Watch::start(&home, "ann", &[]);
    let say = |who: &str, text: &str| home.run(who, &["sendgroup", "devs", text]).ok();
    say("mal", "one");
    assert_eq!(watch.texts(1), ["one"]);
    home.run("ann", &["block", "mal"]).ok();
    say("mal", "two");
    home.run("mal", &["send", "ann", "psst"]).ok();
    say("ann", "three");
    assert_eq!(watch.texts(1), ["three"]);
    home.run("ann", &["unblock", "mal"]).ok();
    say("mal", "four");
    assert_eq!(watch.texts(1), ["four"]);
    watch.stop();
    assert!(home.texts("ann").is_empty());
}

/// BLK-1: what cannot be blocked is refused with a reason, before and after it leaves.
#[test]
fn block_of_nobody_is_refused() {
    let (realm, home) = (Realm::start(), Home::new());
    home.register("ann", &realm.connect);
    for (name, code, error) in [
        ("ann", 2, "usage"),
        ("nobody", 1, "no-such-user"),
        ("b b", 2, "usage"),
    ] {
        assert_eq!(
            home.run("ann", &["block", name]).error(code),
            error,
            "{name}"
        );
    }
    home.run("ann", &["unblock", "nobody"]).ok();
}
