//! Copies of a profile are harmless. A profile that is restored from a backup, and two copies in
//! use on two machines, report `stored` only for messages that are in the mailbox once (EXACT-8,
//! EXACT-10).

mod support;

use std::{collections::BTreeMap, fs};

use support::{
    Home, Realm, copy_directory,
    relay::Relay,
    typing::{Shell, until},
};

/// A realm with ann, who connects through a relay, and bob.
struct Setting {
    realm: Realm,
    relay: Relay,
    home: Home,
}

impl Setting {
    fn new() -> Self {
        let (realm, home) = (Realm::start(), Home::new());
        let relay = Relay::to(realm.address);
        home.register("ann", &realm.connect_through(relay.address));
        home.register("bob", &realm.connect);
        home.run("ann", &["send", "bob", "first"]).ok();
        Self { realm, relay, home }
    }

    /// Copies ann's profile.
    fn copy_to(&self, name: &str) {
        copy_directory(&self.home.profile("ann"), &self.home.profile(name));
    }

    /// Replaces ann's profile by a copy.
    fn restore(&self, name: &str) {
        fs::remove_dir_all(self.home.profile("ann")).unwrap();
        copy_directory(&self.home.profile(name), &self.home.profile("ann"));
    }

    /// Counts bob's messages by text.
    fn counts(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for text in self.home.texts("bob") {
            *counts.entry(text).or_default() += 1;
        }
        counts
    }
}

/// Types the same line again and again. Each time the shell reports it as stored.
fn say(shell: &mut Shell, times: usize) {
    for _ in 0..times {
        let answer = shell.ask("send bob \"good morning\"");
        assert_eq!(answer["state"], "stored", "{answer}");
    }
}

/// Restores a profile from a copy that is `behind` commands old, and sends on.
fn restored_profile_behind_by(behind: usize, times: usize) {
    let at = Setting::new();
    at.copy_to("backup");
    say(&mut Shell::start(&at.home, "ann", &[]), behind);
    at.restore("backup");
    say(&mut Shell::start(&at.home, "ann", &[]), times);
    // A process for each message behaves in the same way.
    at.restore("backup");
    for _ in 0..3 {
        let run = at.home.run("ann", &["send", "bob", "good morning"]);
        assert_eq!(run.ok()["state"], "stored");
    }
    assert_eq!(at.counts()["good morning"], behind + times + 3);
    assert!(at.home.outbox("ann").is_empty());
}

/// EXACT-8, EXACT-10: a copy 10 commands behind sends the same text to the same user under used
/// numbers. Each message is stored once.
#[test]
fn dedup_profile_copy_10_behind_stores_each_message_once() {
    restored_profile_behind_by(10, 12);
}

/// EXACT-8, EXACT-10: the same for a copy 31 commands behind.
#[test]
fn dedup_profile_copy_31_behind_stores_each_message_once() {
    restored_profile_behind_by(31, 33);
}

/// EXACT-8, EXACT-10: the same for a copy 40 commands behind.
#[test]
fn dedup_profile_copy_40_behind_stores_each_message_once() {
    restored_profile_behind_by(40, 42);
}

/// EXACT-8, EXACT-10: the same for a copy 100 commands behind.
#[test]
fn dedup_profile_copy_100_behind_stores_each_message_once() {
    restored_profile_behind_by(100, 102);
}

/// EXACT-3, EXACT-8: the same for a copy whose numbers are older than the realm's idempotency
/// records.
#[test]
fn dedup_profile_copy_300_behind_stores_each_message_once() {
    restored_profile_behind_by(300, 20);
}

/// EXACT-8, EXACT-10: messages of two copies are stored, each once. Both links are open before
/// anything is typed, so no handshake tells which numbers the other copy has used.
#[test]
fn dedup_profile_copies_used_at_once_store_each_message_once() {
    const ROUNDS: usize = 20;
    let at = Setting::new();
    at.copy_to("laptop");
    let mut shells = ["ann", "laptop"].map(|profile| Shell::start(&at.home, profile, &[]));
    for shell in &mut shells {
        assert_eq!(shell.ask("whoami")["username"], "ann");
    }
    for round in 0..ROUNDS {
        // Both type at once, and then await their answers.
        for shell in &mut shells {
            assert!(shell.type_line(&format!("send bob \"round {round}\"")));
        }
        for shell in &mut shells {
            let answer = shell.answer().unwrap();
            assert_eq!(answer["state"], "stored", "{answer}");
        }
    }
    // In between, one of the two sends more than the other.
    say(&mut shells[0], 5);
    say(&mut shells[1], 3);
    say(&mut shells[0], 5);
    let counts = at.counts();
    for round in 0..ROUNDS {
        assert_eq!(counts[&format!("round {round}")], 2);
    }
    assert_eq!(counts["good morning"], 13);
}

/// EXACT-8, READ-3: a copy that resumes by its ticket learns a little later that others have used
/// numbers. From then on it names its session. bob, who logs in with the original, reads all of his
/// messages.
#[test]
fn resumption_by_profile_copy_reads_no_other_users_messages() {
    let at = Setting::new();
    at.home.run("ann", &["send", "ann", "to herself"]).ok();
    at.home.run("bob", &["send", "bob", "for bob alone"]).ok();
    at.copy_to("laptop");
    for _ in 0..5 {
        at.home.run("ann", &["send", "bob", "good morning"]).ok();
    }
    let mut laptop = Shell::start(&at.home, "laptop", &[]);
    for _ in 0..3 {
        assert_eq!(laptop.ask("whoami")["username"], "ann");
    }
    let run = ["auth", "bob", "--password-file", "password"];
    at.home.run("ann", &run).ok();
    assert!(laptop.type_line("inbox --after 0") && laptop.type_line("whoami"));
    let mut read = Vec::new();
    loop {
        let answer = laptop.answer().unwrap();
        if answer["username"].is_string() && answer["text"].is_null() {
            break;
        }
        read.push(answer["text"].to_string());
    }
    assert!(read.contains(&"\"to herself\"".into()), "{read:?}");
    assert!(!read.contains(&"\"for bob alone\"".into()), "{read:?}");
}

/// EXACT-8, EXACT-10: without early data each process learns the highest used number before it
/// sends.
#[test]
fn dedup_profile_copies_without_early_data_store_each_message() {
    let at = Setting::new();
    at.copy_to("laptop");
    for _ in 0..5 {
        for profile in ["ann", "laptop"] {
            let run = at
                .home
                .run(profile, &["--no-early-data", "send", "bob", "ok"]);
            assert_eq!(run.ok()["state"], "stored");
        }
    }
    assert_eq!(at.counts()["ok"], 10);
}

impl Setting {
    /// Returns sender and text of each message to `profile`.
    fn senders(&self, profile: &str) -> Vec<(String, String)> {
        let entries = self.home.run(profile, &["inbox", "--after", "0"]).objects();
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_string();
        entries
            .iter()
            .map(|entry| (text(&entry["from"]), text(&entry["text"])))
            .collect()
    }

    /// Logs another user in on ann's device, with the original profile.
    fn bob_logs_in(&self) {
        let run = ["auth", "bob", "--password-file", "password"];
        self.home.run("ann", &run).ok();
    }
}

/// EXACT-7, EXACT-8: a copy that has used as many numbers as its original is recognised as a copy.
#[test]
fn dedup_profile_copy_at_same_number_sends_as_its_own_user() {
    let at = Setting::new();
    at.home.register("cid", &at.realm.connect);
    for waiting in [0, 4] {
        at.bob_logs_in();
        let run = ["auth", "ann", "--password-file", "password"];
        at.home.run("ann", &run).ok();
        at.copy_to("backup");
        // Uses one number.
        at.bob_logs_in();
        at.restore("backup");
        at.relay.lose_all();
        for number in 0..waiting {
            let (to, text) = (["bob", "cid"][number % 2], format!("kept {number}"));
            at.home.send_briefly("ann", &["send", to, &text]).kept();
        }
        at.relay.lose_nothing();
        if waiting == 0 {
            at.home.run("ann", &["send", "cid", "restored"]).ok();
            continue;
        }
        // A command that may have left could take effect in bob's session, so it waits until ann is
        // logged in.
        let waited = at.home.run("ann", &["outbox", "wait"]);
        assert_eq!(waited.error(4), "kept", "{waited:?}");
        at.home.run("ann", &run).ok();
        at.home.run("ann", &["send", "cid", "restored"]).ok();
        at.home.drain("ann");
    }
    let all = [at.senders("bob"), at.senders("cid")].concat();
    assert_eq!(all.len(), 7, "{all:?}");
    assert!(all.iter().all(|(from, _)| from == "ann"), "{all:?}");
}

/// READ-3: what a copy reads first confirms no entries of the user who has logged in since.
#[test]
fn cursor_profile_copy_reading_confirms_nothing_of_other_user() {
    let at = Setting::new();
    for number in 0..4 {
        at.home
            .run("bob", &["send", "ann", &format!("ann {number}")])
            .ok();
        at.home
            .run("ann", &["send", "bob", &format!("bob {number}")])
            .ok();
    }
    assert_eq!(at.home.run("ann", &["inbox"]).texts().len(), 4);
    for command in ["inbox", "unread"] {
        at.copy_to("backup");
        at.bob_logs_in();
        at.copy_to("original");
        at.restore("backup");
        at.home.run("ann", &[command]);
        at.restore("original");
        let run = at.home.run("ann", &["unread"]);
        assert_eq!(run.objects()[0]["count"], 5, "{command}: {run:?}");
        let run = ["auth", "ann", "--password-file", "password"];
        at.home.run("ann", &run).ok();
    }
    at.bob_logs_in();
    let texts = at.home.run("ann", &["inbox"]).texts();
    assert_eq!(texts, ["first", "bob 0", "bob 1", "bob 2", "bob 3"]);
}

/// EXACT-9, EXACT-10: an entry whose answer was lost is in the copy, too. Whichever copy sends it,
/// it is one message.
#[test]
fn dedup_profile_copied_while_answer_lost_stores_once() {
    let at = Setting::new();
    at.relay.lose_answers();
    let send = ["--deadline", "500ms", "send", "bob", "unfinished"];
    at.home.run("ann", &send).kept();
    at.copy_to("backup");
    at.relay.lose_nothing();
    at.home.drain("ann");
    at.home.run("ann", &["send", "bob", "after it"]).ok();
    at.restore("backup");
    at.home.drain("ann");
    at.home.run("ann", &["send", "bob", "restored"]).ok();
    let texts = at.home.texts("bob");
    assert_eq!(texts, ["first", "unfinished", "after it", "restored"]);
}

/// EXACT-10: an entry that was tried and did not arrive is in both copies. Both send it later, and
/// it is one message.
#[test]
fn dedup_profile_copied_while_realm_away_stores_once() {
    let mut at = Setting::new();
    at.realm.kill();
    at.home
        .send_briefly("ann", &["send", "bob", "unfinished"])
        .kept();
    at.copy_to("laptop");
    at.realm.start_again();
    for profile in ["ann", "laptop"] {
        until("it is sent", || {
            at.home.run(profile, &["whoami"]).ok();
            at.home.outbox(profile).is_empty()
        });
    }
    assert_eq!(at.counts()["unfinished"], 1);
}
/// EXACT-10: several entries of one conversation, which wait for each other, are stored once each.
#[test]
fn dedup_profile_copied_while_messages_wait_stores_each_once() {
    let mut at = Setting::new();
    at.realm.kill();
    let texts = ["one", "two", "three"];
    for text in texts {
        at.home.send_briefly("ann", &["send", "bob", text]).kept();
    }
    at.copy_to("laptop");
    at.realm.start_again();
    for profile in ["ann", "laptop"] {
        at.home.drain(profile);
    }
    let counts = at.counts();
    assert_eq!(texts.map(|text| counts[text]), [1, 1, 1]);
}
