//! Shown means taken: a message counts as read once the reader of the output has it, and not
//! before.

#![cfg(unix)]

mod support;

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    process::{Child, ChildStdout, Command, Stdio},
};

use support::{Home, Realm, Run, finished};

/// Starts a realm with two users, ann and bob.
fn setting() -> (Realm, Home) {
    let (realm, home) = (Realm::start(), Home::new());
    for name in ["ann", "bob"] {
        home.register(name, &realm.connect);
    }
    (realm, home)
}

/// Lets ann send `count` messages to bob.
fn say(home: &Home, count: usize) {
    for n in 0..count {
        home.run("ann", &["send", "bob", &format!("m{n}")]).ok();
    }
}

/// Runs a line of bash in which `$merpati` is the program with bob's profile.
fn bash(home: &Home, line: &str) -> Run {
    let program = env!("CARGO_BIN_EXE_merpati");
    let merpati = format!("'{program}' --home profiles --profile bob --json");
    let mut command = Command::new("bash");
    command
        .current_dir(home.directory.path())
        .env("merpati", merpati)
        .args(["-c", &format!("set -o pipefail; {line}")]);
    finished(&mut command)
}

/// Returns the number of bob's unread messages, which count as read afterwards.
fn unread(home: &Home) -> usize {
    home.run("bob", &["inbox"]).objects().len()
}

fn with_pipes(home: &Home, arguments: &[&str]) -> (Child, BufReader<ChildStdout>) {
    let mut process = home
        .command("bob", arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let out = BufReader::new(process.stdout.take().unwrap());
    (process, out)
}

fn next(out: &mut BufReader<ChildStdout>) -> serde_json::Value {
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line:?}"))
}

#[test]
fn inbox_reader_gone_leaves_rest_unread() {
    let (_realm, home) = setting();
    say(&home, 10);
    let run = bash(&home, "eval $merpati inbox | head -n 1");
    assert_eq!(run.code, Some(141), "{run:?}");
    assert_eq!((run.objects().len(), &*run.err), (1, ""));
    assert!(unread(&home) >= 8);
}

#[test]
fn inbox_without_stdout_confirms_nothing() {
    let (_realm, home) = setting();
    say(&home, 3);
    let run = bash(&home, "eval $merpati inbox >&-");
    assert_eq!(run.code, Some(5), "{run:?}");
    let human = bash(&home, "eval ${merpati%--json} inbox >&-");
    assert!(human.err.contains("standard output is closed"), "{human:?}");
    let run = bash(&home, "eval $merpati inbox > /dev/full");
    assert_eq!(run.code, Some(5), "{run:?}");
    assert_eq!(unread(&home), 3);
    say(&home, 2);
    let run = bash(&home, "eval $merpati inbox > /dev/null");
    assert_eq!((run.code, unread(&home)), (Some(0), 0));
}

/// A pipe buffers 64 KiB that nobody may ever read. `inbox` confirms only entries that have left
/// the pipe.
#[test]
fn inbox_pipe_half_read_confirms_only_taken_entries() {
    let (_realm, home) = setting();
    say(&home, 20);
    let (mut inbox, mut out) = with_pipes(&home, &["inbox"]);
    let mut byte = [0];
    out.get_mut().read_exact(&mut byte).unwrap();
    // The first message is half read when the reader goes.
    drop(out);
    assert_eq!(inbox.wait().unwrap().code(), Some(141));
    assert_eq!(unread(&home), 20);
    say(&home, 150);
    let run = bash(&home, "eval $merpati inbox | cat");
    assert_eq!((run.code, run.texts().len()), (Some(0), 150));
    assert_eq!(unread(&home), 0);
}

/// A watch ends with its reader, also while no entries arrive.
#[test]
fn watch_ends_with_its_reader() {
    let (_realm, home) = setting();
    say(&home, 1);
    let (mut watch, mut out) = with_pipes(&home, &["watch"]);
    assert_eq!(next(&mut out)["text"], "m0");
    drop(out);
    assert_eq!(watch.wait().unwrap().code(), Some(141));
    say(&home, 6);
    let run = bash(&home, "eval $merpati watch | head -n 1");
    assert_eq!((run.code, run.objects().len()), (Some(141), 1));
    assert!(unread(&home) >= 4);
}

/// A closed output is no error of any command, and no panic.
#[test]
fn cli_closed_output_ends_command_quietly() {
    let (_realm, home) = setting();
    for arguments in [
        &["whoami"][..],
        &["sessions"],
        &["fingerprint"],
        &["limits"],
        &["cost"],
        &["--help"],
        &["completions", "bash"],
        &["send", "ann", "hi"],
    ] {
        // The reader is gone before the program starts.
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = home.command("bob", arguments);
        let run = command.stdout(writer).stderr(Stdio::piped()).spawn();
        let run = run.unwrap().wait_with_output().unwrap();
        assert_eq!(run.status.code(), Some(141), "{arguments:?}: {run:?}");
        assert!(run.stderr.is_empty(), "{arguments:?}: {run:?}");
    }
}

/// `unread` does not count entries that were shown, even before the realm knows it.
#[test]
fn unread_does_not_count_shown_entries() {
    let (_realm, home) = setting();
    let count = || home.run("bob", &["unread"]).objects();
    say(&home, 3);
    assert_eq!(count()[0]["count"], 3);
    assert_eq!(unread(&home), 3);
    assert!(count().is_empty());
    say(&home, 2);
    let run = home.run("bob", &["watch", "--count", "1"]);
    assert_eq!(run.texts(), ["m0"]);
    assert_eq!(count()[0]["count"], 1);
    assert_eq!(unread(&home), 1);
    assert!(count().is_empty());
}

#[test]
fn inbox_ack_confirms_only_named_positions() {
    let (_realm, home) = setting();
    say(&home, 5);
    // Without any acknowledgement all entries are shown, and none is confirmed.
    let run = home.run("bob", &["inbox", "--ack"]);
    assert_eq!(run.texts().len(), 5);
    let (mut inbox, mut out) = with_pipes(&home, &["inbox", "--ack"]);
    for n in 0..5 {
        assert_eq!(next(&mut out)["text"], format!("m{n}"));
    }
    let mut acks = inbox.stdin.take().unwrap();
    acks.write_all(b"2\n").unwrap();
    drop(acks);
    assert_eq!(inbox.wait().unwrap().code(), Some(0));
    let (mut inbox, mut out) = with_pipes(&home, &["inbox", "--ack"]);
    assert_eq!(
        next(&mut out)["text"],
        "m2",
        "what was not named comes again"
    );
    for _ in 0..2 {
        next(&mut out);
    }
    let mut acks = inbox.stdin.take().unwrap();
    acks.write_all(b"3\n4\n5\n").unwrap();
    assert_eq!(
        inbox.wait().unwrap().code(),
        Some(0),
        "all are acknowledged"
    );
    assert_eq!(unread(&home), 0);
    say(&home, 1);
    for (line, wanted) in [
        ("99\n", "99"),
        ("six\n", "six"),
        ("private 6\n", "private 6"),
    ] {
        let (mut inbox, mut out) = with_pipes(&home, &["inbox", "--ack"]);
        next(&mut out);
        inbox
            .stdin
            .take()
            .unwrap()
            .write_all(line.as_bytes())
            .unwrap();
        let end = next(&mut out);
        assert_eq!(inbox.wait().unwrap().code(), Some(2), "{line}");
        assert!(end["message"].as_str().unwrap().contains(wanted), "{end}");
    }
    assert_eq!(unread(&home), 1);
}

#[test]
fn watch_ack_confirms_by_mailbox_and_ends_with_its_input() {
    let (_realm, home) = setting();
    home.run("ann", &["addgroup", "devs", "--no-password"]).ok();
    home.run("bob", &["joingroup", "devs", "--no-password"])
        .ok();
    let (mut watch, mut out) = with_pipes(&home, &["watch", "--ack"]);
    say(&home, 2);
    home.run("ann", &["sendgroup", "devs", "g0"]).ok();
    let mut acks = watch.stdin.take().unwrap();
    for _ in 0..3 {
        let entry = next(&mut out);
        if entry["text"] != "m1" {
            let mailbox = entry["mailbox"].as_str().unwrap();
            writeln!(acks, "{mailbox} {}", entry["position"]).unwrap();
        }
    }
    drop(acks);
    assert_eq!(watch.wait().unwrap().code(), Some(0));
    assert_eq!(home.run("bob", &["inbox"]).texts(), ["m1"]);
    assert!(home.run("bob", &["inboxgroup", "devs"]).out.is_empty());
}
