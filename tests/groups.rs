//! Groups as their users see them: rows 6 to 9 of the command table, each success and each error,
//! and the commands of owners and moderators.

mod support;

use support::{Home, Realm, Run};

/// Starts a realm with ann, who owns the group cats, and bob.
fn setting() -> (Realm, Home) {
    let (realm, home) = (Realm::start(), Home::new());
    home.register("ann", &realm.connect);
    home.register("bob", &realm.connect);
    home.run("ann", &["addgroup", "cats", "--password-file", "password"])
        .ok();
    (realm, home)
}

fn join(home: &Home, profile: &str, group: &str, file: &str) -> Run {
    home.run(profile, &["joingroup", group, "--password-file", file])
}

/// Row 6: `addgroup` creates a group, and a second one with its name is refused.
#[test]
fn group_creation_with_taken_name_is_refused() {
    let (realm, home) = setting();
    let add = ["addgroup", "CATS", "--no-password"];
    assert_eq!(home.run("bob", &add).error(1), "group-exists");
    let run = home.run("cat", &[&["--server", &realm.connect][..], &add].concat());
    assert_eq!(run.error(1), "no-session");
    assert_eq!(home.run("ann", &["groups"]).objects()[0]["group"], "cats");
    assert_eq!(
        home.run("ann", &["addgroup", "a b", "--no-password"])
            .error(2),
        "usage"
    );
    assert_eq!(
        home.run("ann", &["addgroup", "dogs"]).error(2),
        "usage",
        "no terminal to ask on"
    );
}

/// Row 7: `joingroup` accepts the group's password, and refuses others.
#[test]
fn membership_join_needs_group_password() {
    let (_realm, home) = setting();
    assert_eq!(
        join(&home, "bob", "dogs", "password").error(1),
        "no-such-group"
    );
    assert_eq!(
        join(&home, "bob", "cats", "wrong").error(1),
        "wrong-password"
    );
    let none = ["joingroup", "cats", "--no-password"];
    assert_eq!(home.run("bob", &none).error(1), "wrong-password");
    join(&home, "bob", "cats", "password").ok();
    join(&home, "bob", "cats", "password").ok();
    let members = home.run("bob", &["members", "cats"]).objects();
    let roles: Vec<_> = members
        .iter()
        .map(|member| member["role"].as_str().unwrap())
        .collect();
    assert_eq!(roles, ["owner", "member"]);
}

/// Row 8: `sendgroup` is for members.
#[test]
fn membership_is_needed_to_send_to_group() {
    let (realm, home) = setting();
    let send = ["sendgroup", "cats", "meow"];
    assert_eq!(home.run("bob", &send).error(1), "not-a-member");
    assert_eq!(
        home.run("bob", &["sendgroup", "dogs", "woof"]).error(1),
        "no-such-group"
    );
    let run = home.run("cat", &[&["--server", &realm.connect][..], &send].concat());
    assert_eq!(run.error(1), "no-session");
    assert_eq!(home.run("ann", &send).ok()["state"], "stored");
}

/// Row 9: `inboxgroup` is for members, and shows each message once.
#[test]
fn membership_is_needed_to_read_group_messages_shown_once() {
    let (mut realm, home) = setting();
    let inbox = ["inboxgroup", "cats"];
    assert_eq!(home.run("bob", &inbox).error(1), "not-a-member");
    assert_eq!(
        home.run("bob", &["inboxgroup", "dogs"]).error(1),
        "no-such-group"
    );
    let run = home.run("cat", &[&["--server", &realm.connect][..], &inbox].concat());
    assert_eq!(run.error(1), "no-session");
    join(&home, "bob", "cats", "password").ok();
    home.run("ann", &["sendgroup", "cats", "one"]).ok();
    home.run("bob", &["sendgroup", "cats", "two"]).ok();
    home.run("bob", &["send", "ann", "private"]).ok();
    realm.kill();
    realm.start_again();
    assert_eq!(home.run("ann", &inbox).texts(), ["one", "two"]);
    assert_eq!(home.run("bob", &inbox).objects()[0]["from"], "ann");
    assert!(home.run("bob", &inbox).out.is_empty());
    home.run("bob", &["sendgroup", "cats", "three"]).ok();
    assert_eq!(home.run("ann", &inbox).texts(), ["three"]);
    assert_eq!(
        home.run("ann", &["inboxgroup", "cats", "--after", "1"])
            .texts(),
        ["two", "three"]
    );
    assert_eq!(home.texts("ann"), ["private"], "private messages are apart");
}

#[test]
fn moderation_by_owners_and_moderators_is_enforced() {
    let (_realm, home) = setting();
    let run = |profile: &str, arguments: &[&str]| home.run(profile, arguments);
    join(&home, "bob", "cats", "password").ok();
    assert_eq!(
        run("bob", &["kick", "cats", "ann"]).error(1),
        "not-permitted"
    );
    run("ann", &["ban", "cats", "bob"]).ok();
    assert_eq!(join(&home, "bob", "cats", "password").error(1), "banned");
    run("ann", &["unban", "cats", "bob"]).ok();
    run("ann", &["grouppasswd", "cats", "--no-password"]).ok();
    run("bob", &["joingroup", "cats", "--no-password"]).ok();
    run("ann", &["kick", "cats", "bob"]).ok();
    run("bob", &["joingroup", "cats", "--no-password"]).ok();
    assert_eq!(
        run("ann", &["role", "cats", "bob", "king"]).error(2),
        "usage"
    );
    run("ann", &["role", "cats", "bob", "owner"]).ok();
    assert_eq!(run("ann", &["delgroup", "cats"]).error(1), "not-permitted");
    run("ann", &["leavegroup", "cats"]).ok();
    assert_eq!(run("ann", &["leavegroup", "cats"]).error(1), "not-a-member");
    run("bob", &["delgroup", "cats"]).ok();
    assert_eq!(run("bob", &["members", "cats"]).error(1), "no-such-group");
    assert!(run("bob", &["groups"]).out.is_empty());
}
