//! The program's manners: what it refuses, what it prints, and that it prints that before anything
//! is lost.

mod support;

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    process::{Command, Stdio},
};

use support::{Home, PASSWORD, Realm, Run, finished, program};

fn setting() -> (Realm, Home) {
    let (realm, home) = (Realm::start(), Home::new());
    home.register("ann", &realm.connect);
    (realm, home)
}

/// Runs a command with this standard input.
fn with_input(home: &Home, profile: &str, arguments: &[&str], input: &[u8]) -> Run {
    let mut process = home
        .command(profile, arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The program may stop reading long before the end.
    let _ = process.stdin.take().unwrap().write_all(input);
    let output = process.wait_with_output().unwrap();
    Run {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

fn message(run: &Run) -> String {
    let object = run.objects().pop().unwrap();
    object["message"].as_str().unwrap().into()
}

/// Runs a command without `--json`, for people.
fn read_by_person(home: &Home, profile: &str, arguments: &[&str]) -> Run {
    let mut command = program();
    command
        .current_dir(home.directory.path())
        .args(["--home", "profiles", "--profile", profile])
        .args(arguments)
        .stdin(Stdio::null());
    finished(&mut command)
}

#[test]
fn cli_empty_message_is_refused() {
    let (_realm, home) = setting();
    for (given, input) in [("-", &b""[..]), ("-", b"\n"), ("", b"")] {
        let run = with_input(&home, "ann", &["send", "ann", given], input);
        assert_eq!(run.error(2), "usage");
        assert!(message(&run).contains("nothing was sent"), "{run:?}");
    }
    let line = format!(
        "false | '{}' --home profiles --profile ann send ann -",
        env!("CARGO_BIN_EXE_merpati")
    );
    let mut bash = Command::new("bash");
    let bash = bash.current_dir(home.directory.path()).args(["-c", &line]);
    let run = finished(bash);
    assert_eq!(run.code, Some(2));
    assert!(run.err.contains("standard input brought no message"));
    assert!(home.texts("ann").is_empty());
}

#[test]
fn cli_message_from_stdin_is_bounded() {
    let (_realm, home) = setting();
    let send = ["send", "ann", "-"];
    let long = vec![b'x'; 4 << 20];
    let run = with_input(&home, "ann", &send, &long);
    assert_eq!(run.error(2), "usage");
    assert!(message(&run).contains("65536 bytes"), "{run:?}");
    let run = with_input(&home, "ann", &send, b"ab\xff");
    assert!(message(&run).contains("byte 2"), "{run:?}");
    // The realm refuses what exceeds the realm's own limit.
    let run = with_input(&home, "ann", &send, &vec![b'x'; 65_536]);
    assert_eq!(run.error(1), "too-large");
    let run = with_input(&home, "ann", &send, b"two\nlines\n");
    run.ok();
    assert_eq!(home.texts("ann"), ["two\nlines"]);
}

#[test]
fn cli_empty_environment_variable_counts_as_unset() {
    let (_realm, home) = setting();
    let mut command = home.command("ann", &["whoami"]);
    for name in [
        "MERPATI_LINK",
        "MERPATI_SERVER",
        "MERPATI_PROFILE",
        "MERPATI_LISTEN",
    ] {
        command.env(name, "");
    }
    finished(&mut command).ok();
    let mut command = home.command("ann", &["whoami"]);
    command.env("MERPATI_LINK", "wifi");
    assert_eq!(finished(&mut command).error(2), "usage");
}

#[test]
fn cli_message_like_option_needs_dashes() {
    let (_realm, home) = setting();
    for text in ["--help", "-h", "--trust", "--ttl"] {
        let run = home.run("ann", &["send", "ann", text]);
        assert_eq!(run.error(2), "usage");
        // The suggested line goes to the same profile.
        let wanted = format!("merpati --home profiles --profile ann --json send ann -- {text}");
        assert!(message(&run).contains(&wanted), "{run:?}");
        let wanted = wanted.replace(" --json", "");
        let run = read_by_person(&home, "ann", &["send", "ann", text]);
        assert_eq!((run.code, &*run.out), (Some(2), ""), "{run:?}");
        assert!(run.err.contains(&wanted), "{run:?}");
    }
    home.run("ann", &["send", "ann", "--", "--help"]).ok();
    assert_eq!(home.texts("ann"), ["--help"]);
    let run = read_by_person(&home, "ann", &["send", "--help"]);
    assert_eq!(run.code, Some(0));
    assert!(run.out.contains("--ttl"));
}

#[test]
fn cli_refusal_names_cause_and_remedy() {
    let (_realm, home) = setting();
    let run = home.run("ann", &["revoke", "nothing"]);
    assert_eq!(run.error(1), "no-session");
    assert!(message(&run).contains("no session with the handle nothing"));
    let run = home.run("ann", &["claim", "--password-file", "wrong"]);
    assert_eq!(run.error(1), "wrong-password");
    assert!(message(&run).contains("operator-code"), "{run:?}");
    let mut serve = program();
    let run = finished(serve.args(["serve", "--listen", "localhost:1"]));
    assert_eq!(run.code, Some(2));
    assert!(run.err.contains("0.0.0.0:6377") && run.err.contains("advertise"));
}

/// A name of another realm is accepted wherever a name is.
#[test]
fn cli_name_at_realm_goes_to_that_realm() {
    let home = Home::new();
    let (alpha, beta) = (home.realm("alpha", "open"), home.realm("beta", "open"));
    home.register("ann", &alpha.connect);
    home.register("bob", &beta.connect);
    let code = alpha.data().join("operator-code");
    let claim = ["claim", "--password-file", code.to_str().unwrap()];
    home.run("ann", &claim).ok();
    let port = beta.address.port().to_string();
    let (_, key) = beta.connect.split_once('#').unwrap();
    let peer = ["addrealm", "beta", "127.0.0.1", &port, "--key", key];
    home.run("ann", &peer).ok();
    home.run("ann", &["send", "bob@beta", "hi bob"]).ok();
    let run = with_input(&home, "ann", &["shell"], b"send bob@beta from the shell\n");
    run.ok();
    assert_eq!(home.texts("bob"), ["hi bob", "from the shell"]);
    home.run("bob", &["addgroup", "devs", "--no-password"]).ok();
    home.run("ann", &["joingroup", "devs@beta", "--no-password"])
        .ok();
    home.run("ann", &["sendgroup", "devs@beta", "hi devs"]).ok();
    assert_eq!(
        home.run("bob", &["inboxgroup", "devs"]).texts(),
        ["hi devs"]
    );
    let watch = ["watch", "--count", "1"];
    let run = home.run("ann", &watch);
    assert_eq!(run.objects()[0]["mailbox"], "group devs@beta");
    let inbox = ["inboxgroup", "devs@beta", "--after", "0"];
    assert_eq!(home.run("ann", &inbox).texts(), ["hi devs"]);
    home.run("ann", &["leavegroup", "devs@beta"]).ok();
    let run = home.run("ann", &["sendgroup", "devs@beta", "hi"]);
    assert_eq!(run.code, Some(1), "{run:?}");
}

#[test]
fn cli_wrong_name_is_reported_with_field_rule_and_character() {
    let (realm, home) = setting();
    for (arguments, wanted) in [
        (
            &["send", "b\u{1b}b", "hi"][..],
            ["<USERNAME_TO>", "ESC (U+001B) is not allowed"],
        ),
        (
            &["send", "bob\n", "hi"],
            ["<USERNAME_TO>", "a line end (U+000A)"],
        ),
        (
            &["addgroup", "my group", "--no-password"],
            ["<GROUPNAME>", "a space is not allowed"],
        ),
        (&["inboxrealm", "bé"], ["<REALM_ID>", "(U+00E9)"]),
    ] {
        let run = read_by_person(&home, "ann", arguments);
        assert_eq!(run.code, Some(2), "{run:?}");
        for wanted in wanted {
            assert!(run.err.contains(wanted), "{wanted}: {run:?}");
        }
        assert!(!run.err.contains('\u{1b}'), "{run:?}");
    }
    let register = |name: &str, country: &str| {
        let arguments = ["--server", &realm.connect, "register", name, country, "bob"];
        let source = ["--password-file", "password"];
        home.run("bob", &[&arguments[..], &source].concat())
    };
    let run = register("Bob\u{1b}[2J", "id");
    assert_eq!(run.error(2), "usage");
    assert!(message(&run).contains("<NAME>") && message(&run).contains("ESC (U+001B)"));
    let run = register("Bob", "i\nd");
    assert!(message(&run).contains("<COUNTRY>") && message(&run).contains("a line end"));
    assert!(message(&register("", "id")).contains("may not be empty"));
}

#[test]
fn account_registration_replaces_no_account_without_option() {
    let (realm, home) = setting();
    let elsewhere = Realm::start();
    let register = |at: &Realm, username: &str, more: &[&str]| {
        let arguments = [
            "--server",
            &at.connect,
            "register",
            "Ann",
            "id",
            username,
            "--password-file",
            "password",
        ];
        home.run("ann", &[&arguments[..], more].concat())
    };
    let whoami = |at: &Realm| home.run("ann", &["--server", &at.connect, "whoami"]);
    let run = register(&realm, "ann2", &[]);
    assert_eq!(run.error(2), "usage");
    for wanted in ["ann", "--replace", "--profile"] {
        assert!(message(&run).contains(wanted), "{run:?}");
    }
    assert_eq!(whoami(&realm).ok()["username"], "ann");
    // A profile keeps an account for each realm. An account at another realm replaces none.
    let object = register(&elsewhere, "ann2", &[]).ok();
    assert_eq!(object["server"], elsewhere.address.to_string());
    assert_eq!(whoami(&elsewhere).ok()["username"], "ann2");
    assert_eq!(whoami(&realm).ok()["username"], "ann");
    let run = register(&elsewhere, "ann3", &[]);
    assert_eq!(run.error(2), "usage");
    assert!(message(&run).contains("ann2"), "{run:?}");
    let object = register(&realm, "ann2", &["--replace"]).ok();
    assert_eq!(object["username"], "ann2");
    assert_eq!(object["server"], realm.address.to_string());
    assert_eq!(object["fingerprint"], realm.announced["fingerprint"]);
    let whoami = home.run("ann", &["whoami"]).ok();
    assert_eq!(whoami["server"], realm.address.to_string());
    assert_eq!(whoami["fingerprint"], realm.announced["fingerprint"]);
    let run = read_by_person(&home, "ann", &["whoami"]);
    let fingerprint = realm.announced["fingerprint"].as_str().unwrap();
    assert!(run.out.contains(&realm.address.to_string()), "{run:?}");
    assert!(run.out.contains(fingerprint), "{run:?}");
}

#[test]
fn shell_failed_line_is_reported_by_number() {
    let (_realm, home) = setting();
    let lines = b"send ann one\nsend ann --ttl 10m two\n\nsend nobody hi\nsend ann never\n";
    let run = with_input(&home, "ann", &["shell"], lines);
    assert_eq!(run.error(1), "no-such-user");
    assert!(message(&run).starts_with("line 4: "), "{run:?}");
    assert_eq!(run.objects().pop().unwrap()["line"], 4);
    assert_eq!(home.texts("ann"), ["one", "two"]);
    let run = with_input(&home, "ann", &["shell"], b"inbox --after 0\nsned\n");
    assert_eq!((run.code, run.objects().len()), (Some(2), 3), "{run:?}");
    // A password may be a line of the same input. A quote in a message is part of the message.
    let lines = format!("auth ann --password-stdin\n{PASSWORD}\nsend ann it's #1\n");
    let run = with_input(&home, "ann", &["shell"], lines.as_bytes());
    assert_eq!(run.code, Some(0), "{run:?}");
    assert_eq!(home.texts("ann").last().unwrap(), "it's #1");
    let run = with_input(&home, "ann", &["shell"], b"inbox --ack\n1\n");
    assert!(message(&run).contains("line 1: --ack"), "{run:?}");
    let run = with_input(&home, "ann", &["shell"], b"help\n");
    let help = run.ok()["text"].as_str().unwrap().to_owned();
    assert!(help.contains("send <username_to> <message>") && !help.contains("sessionid"));
}

/// Runs this line in a piped shell whose realm is gone, and interrupts it with Ctrl-C. Returns the
/// output and the exit code.
#[cfg(unix)]
fn interrupted(
    home: &Home,
    realm: &mut Realm,
    options: &[&str],
    line: &str,
) -> (String, Option<i32>) {
    let mut shell = home
        .command("ann", &[options, &["shell"]].concat())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = shell.stdin.take().unwrap();
    let mut out = BufReader::new(shell.stdout.take().unwrap());
    input.write_all(b"whoami\n").unwrap();
    let mut answer = String::new();
    out.read_line(&mut answer).unwrap();
    realm.kill();
    input.write_all(line.as_bytes()).unwrap();
    drop(input);
    // Interrupts repeatedly until one comes while the command waits. It waits for long, because no
    // answer comes.
    let id = shell.id().to_string();
    let interrupt = || Command::new("kill").args(["-INT", &id]).status();
    while shell.try_wait().unwrap().is_none() {
        assert!(interrupt().unwrap().success());
        std::thread::yield_now();
    }
    let said = io::read_to_string(out).unwrap();
    let aside = io::read_to_string(shell.stderr.take().unwrap()).unwrap();
    (said + &aside, shell.wait().unwrap().code())
}

/// Ctrl-C ends a command of the shell, and prints its outcome.
#[cfg(unix)]
#[test]
fn shell_interrupted_command_is_reported_as_kept() {
    let (mut realm, home) = setting();
    let (said, code) = interrupted(&home, &mut realm, &[], "send ann hi\n");
    assert!(
        said.contains("the command is kept, and sent again"),
        "{said}"
    );
    assert_eq!(code, Some(130));
}

/// A command with `--no-keep` is not reported as kept.
#[cfg(unix)]
#[test]
fn shell_interrupted_command_with_no_keep_is_reported_as_not_kept() {
    let (mut realm, home) = setting();
    let (said, code) = interrupted(&home, &mut realm, &["--no-keep"], "send ann hi\n");
    assert!(said.contains("it is not kept"), "{said}");
    assert_eq!(code, Some(130));
}

/// Ctrl-C also ends a watch before the realm has answered.
#[cfg(unix)]
#[test]
fn shell_interrupt_ends_watch_before_it_begins() {
    let (mut realm, home) = setting();
    let (said, code) = interrupted(&home, &mut realm, &[], "watch\n");
    assert_eq!(code, Some(0), "{said}");
}
