//! The outbox from the keyboard: each typed command takes effect once, whatever is killed or cut
//! off, and every exit code is true (EXACT-7, EXACT-9, EXACT-11).

mod support;

use std::{
    process::Stdio,
    time::{Duration, SystemTime},
};

use support::{
    Home, Realm,
    relay::Relay,
    typing::{kill, until},
    watch::Watch,
};

/// The first byte of an Init.
const INIT: u8 = 0x03;

/// A realm with ann, who connects through a relay, and with bob and cid.
struct Setting {
    realm: Realm,
    relay: Relay,
    home: Home,
}

impl Setting {
    fn new() -> Self {
        Self::at(Realm::start(), Home::new())
    }

    fn at(realm: Realm, home: Home) -> Self {
        let relay = Relay::to(realm.address);
        home.register("ann", &realm.connect_through(relay.address));
        home.register("bob", &realm.connect);
        home.register("cid", &realm.connect);
        Self { realm, relay, home }
    }

    /// Starts a watch of ann's and waits until it works.
    fn watch(&self) -> Watch {
        let mut watch = Watch::start(&self.home, "ann", &[]);
        self.home.run("bob", &["send", "ann", "ready"]).ok();
        // The watch shows earlier entries first.
        while watch.texts(1) != ["ready"] {}
        watch
    }

    /// Makes ann's group devs, with bob as a member.
    fn make_group(&self) {
        let home = &self.home;
        home.run("ann", &["addgroup", "devs", "--no-password"]).ok();
        home.run("bob", &["joingroup", "devs", "--no-password"])
            .ok();
    }

    /// Returns the texts that `user` has been sent.
    fn has(&self, user: &str) -> Vec<String> {
        self.home.texts(user)
    }
}

/// EXACT-7, EXACT-9: a command that takes effect and whose answer is lost is neither lost nor
/// repeated, and is reported as unknown.
#[test]
fn outbox_answers_lost_delivers_once_without_rerun() {
    let at = Setting::new();
    for (round, early) in [true, false].into_iter().enumerate() {
        let _lost = if early {
            at.relay.lose_answers()
        } else {
            at.relay.lose_answers_on_links()
        };
        let options = ["--no-early-data", "--deadline", "500ms", "send", "bob", "A"];
        let run = at.home.run("ann", &options[usize::from(early)..]);
        assert_eq!(run.error(4), "unknown");
        let listed = at.home.outbox("ann");
        assert_eq!(listed[0]["id"], run.kept());
        assert!(!run.out.contains("not kept"), "{run:?}");
        assert_eq!(listed[0]["state"], "unknown");
        at.relay.lose_nothing();
        // The next command completes it, and its outcome is reported.
        at.home.run("ann", &["send", "bob", "B"]).ok();
        assert_eq!(at.has("bob"), ["A", "B"].repeat(round + 1));
        assert!(at.home.outbox("ann").is_empty());
    }
}

/// EXACT-7: two commands that are cut off at once both take effect, once each.
#[test]
fn outbox_two_commands_cut_off_at_once_take_effect_once() {
    let at = Setting::new();
    at.relay.lose_answers();
    let runs = ["C", "D"].map(|text| {
        let arguments = ["--deadline", "500ms", "send", "bob", text];
        let mut command = at.home.command("ann", &arguments);
        command.stdout(Stdio::piped()).spawn().unwrap()
    });
    for run in runs {
        assert_eq!(run.wait_with_output().unwrap().status.code(), Some(4));
    }
    at.relay.lose_nothing();
    at.home.drain("ann");
    let mut texts = at.has("bob");
    texts.sort();
    assert_eq!(texts, ["C", "D"]);
}

/// EXACT-7: next to a watch, a command uses the watch's link: one datagram each way, and no
/// handshake.
#[test]
fn outbox_beside_watch_sends_over_its_link() {
    const TRIES: usize = 20;
    let at = Setting::new();
    let _watch = at.watch();
    let mut least = usize::MAX;
    for n in 0..TRIES {
        at.relay.take_carried();
        at.home.run("ann", &["send", "bob", &n.to_string()]).ok();
        let carried = at.relay.take_carried();
        // On a busy machine the carrier may be late, and then the sender sends by itself. The watch
        // also sends keepalives.
        let is_own = carried.iter().any(|datagram| datagram.bytes[0] == INIT);
        least = least.min(if is_own { usize::MAX } else { carried.len() });
        if least == 2 {
            break;
        }
    }
    assert_eq!(least, 2);
}

/// EXACT-9: the same token means the same command. A token with another text is refused.
#[test]
fn outbox_token_repeated_beside_watch_sends_once() {
    let at = Setting::new();
    let _watch = at.watch();
    at.relay.lose_answers();
    let send = |id, text, deadline| {
        let arguments = ["--deadline", deadline, "send", "--id", id, "bob", text];
        at.home.run("ann", &arguments)
    };
    let first = send("w1", "W", "500ms").kept();
    assert_eq!(send("w1", "W", "50ms").kept(), first);
    at.relay.lose_nothing();
    for _ in 0..2 {
        assert_eq!(send("w1", "W", "1m").ok()["id"], first);
    }
    assert_eq!(send("w1", "V", "1m").error(2), "id-reused");
    assert_ne!(send("w2", "W", "1m").ok()["id"], first);
    assert_eq!(at.has("bob"), ["W", "W"]);
}

/// EXACT-7: the watch completes what a killed process has begun.
#[test]
fn outbox_sender_killed_beside_watch_is_finished_by_watch() {
    let mut at = Setting::new();
    let _watch = at.watch();
    at.realm.kill();
    let send = at.home.spawn("ann", &["send", "bob", "K"]);
    at.home.until_in_outbox("ann", 1);
    kill(send);
    at.realm.start_again();
    until("the watch sends", || at.has("bob") == ["K"]);
    until("the watch is answered", || at.home.outbox("ann").is_empty());
    assert_eq!(at.has("bob"), ["K"]);
}

/// EXACT-7, EXACT-9: while the realm is away commands are kept. An unrelated command takes them
/// along, in the order of each conversation.
#[test]
fn outbox_kept_while_realm_away_goes_with_next_command() {
    let mut at = Setting::new();
    at.realm.kill();
    let texts: Vec<_> = (0..6).map(|n| format!("message {n}")).collect();
    for text in &texts {
        for to in ["bob", "cid"] {
            at.home.send_briefly("ann", &["send", to, text]).kept();
        }
    }
    assert_eq!(at.home.outbox("ann").len(), 12);
    at.realm.start_again();
    until("unrelated commands take all along", || {
        at.home.run("ann", &["whoami"]).ok();
        at.home.outbox("ann").is_empty()
    });
    for to in ["bob", "cid"] {
        assert_eq!(at.has(to), texts);
    }
}

/// EXACT-7: what a process has written down is done, however many processes are killed at once.
#[test]
fn outbox_with_80_senders_killed_delivers_all_once() {
    const SENDERS: usize = 80;
    let mut at = Setting::new();
    at.realm.kill();
    let texts: Vec<_> = (0..SENDERS).map(|n| format!("message {n:02}")).collect();
    let send = |text: &String| at.home.spawn("ann", &["send", "bob", text]);
    let senders: Vec<_> = texts.iter().map(send).collect();
    at.home.until_in_outbox("ann", SENDERS);
    senders.into_iter().for_each(kill);
    at.realm.start_again();
    at.home.drain("ann");
    let mut has = at.has("bob");
    has.sort();
    assert_eq!(has, texts);
}

/// EXACT-7: a message to a group waits for the join that was typed before it. The join carries a
/// password and is not kept.
#[test]
fn outbox_join_goes_before_message_to_group() {
    let mut at = Setting::new();
    let home = &at.home;
    let password = ["--password-file", "password"];
    let add = ["addgroup", "devs", password[0], password[1]];
    home.run("ann", &add).ok();
    at.realm.kill();
    let join = ["joingroup", "devs", password[0], password[1]];
    let join = home.command("bob", &join).stdout(Stdio::piped()).spawn();
    home.until_in_outbox("bob", 1);
    let send = ["sendgroup", "devs", "I am here"];
    let send = home.command("bob", &send).stdout(Stdio::piped()).spawn();
    home.until_in_outbox("bob", 2);
    at.realm.start_again();
    for process in [join, send] {
        let output = process.unwrap().wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    assert_eq!(
        home.run("ann", &["inboxgroup", "devs"]).texts(),
        ["I am here"]
    );
}

/// EXACT-9: `outbox` lists unfinished commands, and `outbox wait` waits for them.
#[test]
fn outbox_unfinished_commands_are_listed_and_waited_for() {
    let mut at = Setting::new();
    let home = &at.home;
    assert!(home.outbox("ann").is_empty());
    home.drain("ann");
    at.realm.kill();
    let id = home.send_briefly("ann", &["send", "bob", "hello"]).kept();
    let listed = home.outbox("ann");
    assert_eq!(listed.len(), 1);
    let entry = &listed[0];
    assert_eq!(entry["id"], id);
    assert_eq!(entry["command"], "send bob");
    assert_eq!(entry["username"], "ann");
    let server = format!("merpati://{}", at.relay.address);
    assert_eq!(entry["server"], server.as_str());
    assert!(entry["created"].as_str().unwrap().ends_with('Z'));
    let run = home.send_briefly("ann", &["outbox", "wait", &id.to_string()]);
    assert_eq!((run.error(4), run.kept()), ("kept".into(), id));
    at.realm.start_again();
    home.run("ann", &["outbox", "wait", &id.to_string()]).ok();
    assert!(home.outbox("ann").is_empty());
    assert_eq!(at.has("bob"), ["hello"]);
}

/// EXACT-11: a command that has not left this machine is certainly cancelled.
#[test]
fn outbox_cancel_of_unsent_command_is_certain() {
    let mut at = Setting::new();
    let home = &at.home;
    at.realm.kill();
    let send = |text| home.send_briefly("ann", &["--no-early-data", "send", "bob", text]);
    let [first, second] = ["first", "second"].map(send);
    assert_eq!(second.state(), "kept");
    for run in [second, first] {
        let cancel = ["outbox", "cancel", &run.kept().to_string()];
        assert_eq!(home.run("ann", &cancel).ok()["state"], "cancelled");
        assert_eq!(home.run("ann", &cancel).error(2), "usage");
    }
    assert!(home.outbox("ann").is_empty());
    at.realm.start_again();
    home.run("ann", &["whoami"]).ok();
    assert!(at.has("bob").is_empty());
}

/// EXACT-11: the realm confirms a command that was done.
#[test]
fn outbox_cancel_of_done_command_is_refused() {
    let at = Setting::new();
    at.relay.lose_answers();
    let send = ["--deadline", "500ms", "send", "bob", "done"];
    let cancel = [
        "outbox",
        "cancel",
        &at.home.run("ann", &send).kept().to_string(),
    ];
    at.relay.lose_nothing();
    assert_eq!(at.home.run("ann", &cancel).error(1), "already-done");
    assert!(at.home.outbox("ann").is_empty());
    assert_eq!(at.has("bob"), ["done"]);
}

/// EXACT-11: the number of a command that left and did not arrive is used up, so that it is never
/// done.
#[test]
fn outbox_cancel_of_lost_command_uses_up_its_number() {
    let at = Setting::new();
    let lost = at.relay.lose_commands();
    let send = [
        "--no-early-data",
        "--deadline",
        "500ms",
        "send",
        "bob",
        "lost",
    ];
    let id = at.home.run("ann", &send).kept().to_string();
    lost.recv().unwrap();
    at.relay.lose_all();
    // Without the realm, the outcome is unknown.
    let run = at.home.send_briefly("ann", &["outbox", "cancel", &id]);
    assert_eq!(run.error(4), "unknown");
    assert_eq!(at.home.outbox("ann")[0]["state"], "cancelling");
    at.relay.lose_nothing();
    let run = at.home.run("ann", &["outbox", "cancel", &id]);
    assert_eq!(run.ok()["state"], "cancelled");
    at.home.run("ann", &["send", "bob", "next"]).ok();
    assert_eq!(at.has("bob"), ["next"]);
}

/// EXACT-11: `--no-keep` gives up at the deadline. A command that has not left is certainly not
/// done, the outcome of any other is unknown, and neither is done later.
#[test]
fn outbox_no_keep_command_ends_at_deadline() {
    let mut at = Setting::new();
    let home = &at.home;
    let send = [
        "--no-early-data",
        "--no-keep",
        "--deadline",
        "500ms",
        "send",
        "bob",
    ];
    let send = |text| home.run("ann", &[&send[..], &[text]].concat());
    at.realm.kill();
    assert_eq!(send("never").error(3), "unreachable");
    assert!(home.outbox("ann").is_empty());
    at.realm.start_again();
    at.relay.lose_commands();
    let run = send("lost");
    assert_eq!(run.error(4), "unknown");
    assert_eq!(run.state(), "unknown");
    at.relay.lose_nothing();
    home.drain("ann");
    assert!(at.has("bob").is_empty());
    // A command whose answer alone was lost was done, and stays done once.
    at.relay.lose_answers_on_links();
    assert_eq!(send("done").error(4), "unknown");
    at.relay.lose_nothing();
    home.drain("ann");
    assert_eq!(at.has("bob"), ["done"]);
}

/// EXACT-7: the `--ttl` of a message applies in the outbox, too.
#[test]
fn outbox_message_past_ttl_is_not_sent() {
    let mut at = Setting::new();
    let home = &at.home;
    at.realm.kill();
    let soon = ["--no-early-data", "send", "--ttl", "2s", "bob", "soon"];
    let id = home.send_briefly("ann", &soon).kept();
    assert_eq!(home.outbox("ann")[0]["state"], "kept");
    let typed = SystemTime::now();
    until("it is worth nothing any more", || {
        typed.elapsed().unwrap() > Duration::from_secs(3)
    });
    at.realm.start_again();
    let run = home.run("ann", &["send", "--ttl", "1h", "bob", "later"]);
    run.ok();
    assert!(
        run.err
            .contains(&format!("entry {id} of the outbox, `send bob`: not done")),
        "{run:?}"
    );
    let cancel = ["outbox", "cancel", &id.to_string()];
    assert_eq!(home.run("ann", &cancel).error(2), "usage");
    assert_eq!(at.has("bob"), ["later"]);
}

/// EXACT-11: a message that has outlived its `--ttl` is taken back and does not leave, even next to
/// a watch that keeps asking while the realm is away.
#[test]
fn outbox_message_past_ttl_beside_watch_is_not_sent() {
    let mut at = Setting::new();
    let _watch = at.watch();
    at.realm.kill();
    let soon = ["send", "--ttl", "2s", "bob", "soon"];
    at.home.send_briefly("ann", &soon).kept();
    until("it is taken back", || {
        let entries = at.home.outbox("ann");
        entries
            .first()
            .is_none_or(|entry| entry["state"] == "cancelling")
    });
    at.realm.start_again();
    at.home.drain("ann");
    assert!(at.has("bob").is_empty());
}

/// EXACT-7: a `leavegroup` that ended with 4 takes effect before the join that was typed after it,
/// or not at all.
#[test]
fn outbox_leave_never_undoes_later_join() {
    let mut at = Setting::new();
    at.make_group();
    let join = ["joingroup", "devs", "--no-password"];
    at.home.run("ann", &["leavegroup", "devs"]).ok();
    at.home.run("ann", &join).ok();
    for is_lost in [true, false] {
        let _watch = at.watch();
        if is_lost {
            at.relay.lose_all();
        } else {
            at.realm.kill();
        }
        at.home.send_briefly("ann", &["leavegroup", "devs"]).kept();
        if is_lost {
            at.relay.lose_nothing();
        } else {
            at.realm.start_again();
        }
        at.home.run("ann", &join).ok();
        at.home.drain("ann");
        at.home
            .run("ann", &["sendgroup", "devs", "still here"])
            .ok();
    }
    let texts = at.home.run("bob", &["inboxgroup", "devs"]).texts();
    assert_eq!(texts, ["still here", "still here"]);
}

/// EXACT-7: the same for the group of another realm.
#[test]
fn outbox_leave_of_peer_group_never_undoes_later_join() {
    let home = Home::new();
    let (alpha, mut beta) = (home.realm("alpha", "open"), home.realm("beta", "open"));
    home.register("ann", &alpha.connect);
    home.register("bob", &beta.connect);
    let code = alpha.data().join("operator-code");
    home.run("ann", &["claim", "--password-file", code.to_str().unwrap()])
        .ok();
    let (_, key) = beta.connect.split_once('#').unwrap();
    let port = beta.address.port().to_string();
    home.run(
        "ann",
        &["addrealm", "beta", "127.0.0.1", &port, "--key", key],
    )
    .ok();
    home.run("ann", &["addgroup", "devs", "--no-password"]).ok();
    let join = ["joingrouprealm", "alpha", "devs", "--no-password"];
    home.run("bob", &join).ok();
    let mut watch = Watch::start(&home, "bob", &[]);
    for round in ["first", "second"] {
        home.run("ann", &["sendgroup", "devs", round]).ok();
        assert_eq!(watch.texts(1), [round]);
        beta.kill();
        home.send_briefly("bob", &["leavegrouprealm", "alpha", "devs"])
            .kept();
        beta.start_again();
        home.run("bob", &join).ok();
        home.drain("bob");
        home.run("bob", &["sendgrouprealm", "alpha", "devs", "still here"])
            .ok();
        assert_eq!(watch.texts(1), ["still here"]);
    }
}

/// EXACT-7: a command that the realm has deferred has not been done. Its sender is told that, and
/// why. It was reported as unanswered and unknown.
#[test]
fn outbox_deferred_command_is_reported_as_not_done() {
    let home = Home::new();
    let realm = home.realm_as("[limits]\ncommands_per_account = \"1/m\"");
    for who in ["ann", "bob"] {
        home.register(who, &realm.connect);
    }
    let send = || home.run("ann", &["--deadline", "2s", "send", "bob", "hi"]);
    let kept = (0..6).map(|_| send()).find(|run| run.code != Some(0));
    let kept = kept.expect("one in a minute is let through, and four at once");
    assert_eq!(kept.code, Some(4), "{kept:?}");
    let object = kept.objects().pop().unwrap();
    assert_eq!(object["state"], "kept", "{kept:?}");
    let message = object["message"].as_str().unwrap();
    assert!(message.contains("not done in 2s"), "{message}");
    assert!(message.contains("Too much was asked"), "{message}");
}

/// Commands that wait for another realm are reported, and the advice in the message names the
/// profile as the user named it.
#[test]
fn outbox_waiting_for_other_realm_is_reported() {
    let (mut alpha, beta, home) = (Realm::start(), Realm::start(), Home::new());
    home.register("ann", &alpha.connect);
    alpha.kill();
    let kept = home.run("ann", &["--deadline", "1s", "send", "ann", "to alpha"]);
    assert_eq!(kept.code, Some(4), "{kept:?}");
    let object = kept.objects().remove(0);
    let (id, message) = (
        object["id"].to_string(),
        object["message"].as_str().unwrap(),
    );
    let hint = format!("`merpati --home profiles --profile ann outbox wait {id}`");
    assert!(message.contains(&hint), "{message}");
    let register = ["--server", &beta.connect, "register", "A", "id", "ann"];
    let password = ["--password-file", "password"];
    home.run("ann", &[&register[..], &password].concat()).ok();
    let wait = home.run("ann", &["outbox", "wait"]);
    assert_eq!(wait.error(4), "kept");
    alpha.start_again();
    let wait = home.run("ann", &["--server", &alpha.connect, "outbox", "wait"]);
    wait.ok();
    assert_eq!(home.texts("ann"), ["to alpha"]);
}
