//! Tests of every error of rows 1–5 of the command table, and of every exit code, as users see
//! them.

mod support;

use std::{fs, process::Stdio};

use support::{
    Home, Realm, finished, program,
    relay::{Relay, Way},
};

struct Setting {
    realm: Realm,
    home: Home,
}

/// Starts a realm with one user, ann.
fn setting() -> Setting {
    let (realm, home) = (Realm::start(), Home::new());
    home.register("ann", &realm.connect);
    Setting { realm, home }
}

/// Returns the exit code and the output for people.
fn told(home: &Home, profile: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = program();
    command
        .current_dir(home.directory.path())
        .args(["--home", "profiles", "--profile", profile])
        .args(arguments)
        .stdin(Stdio::null());
    let run = finished(&mut command);
    assert!(run.out.is_empty(), "an error is no output: {run:?}");
    (run.code, run.err)
}

/// Row 1, ACC-3: a wrong username and a wrong password get the same error, in the same bytes.
#[test]
fn password_wrong_gets_same_error_as_wrong_username() {
    let Setting { realm, home } = setting();
    let auth = |user: &'static str, file: &'static str| {
        home.run(
            "bob",
            &[
                "--server",
                &realm.connect,
                "auth",
                user,
                "--password-file",
                file,
            ],
        )
    };
    let (wrong_password, wrong_user) = (auth("ann", "wrong"), auth("nobody", "password"));
    assert_eq!(wrong_password.error(1), "bad-credentials");
    assert_eq!(wrong_user.error(1), "bad-credentials");
    assert_eq!(wrong_password.out, wrong_user.out);
    auth("ann", "password").ok();
}

/// Row 2: `logout` without a login is refused.
#[test]
fn session_logout_without_login_is_refused() {
    let Setting { realm, home } = setting();
    assert_eq!(
        home.run("bob", &["--server", &realm.connect, "logout"])
            .error(1),
        "no-session"
    );
    home.run("ann", &["logout"]).ok();
    assert_eq!(home.run("ann", &["logout"]).error(1), "no-session");
    let (code, text) = told(&home, "ann", &["logout"]);
    assert_eq!(code, Some(1));
    assert!(text.contains("log in first"), "{text}");
}

/// Row 3: `register` with a taken username is refused.
#[test]
fn account_registration_of_taken_username_is_refused() {
    let Setting { realm, home } = setting();
    let run = home.run(
        "bob",
        &[
            "--server",
            &realm.connect,
            "register",
            "B",
            "id",
            "ANN",
            "--password-file",
            "wrong",
        ],
    );
    assert_eq!(run.error(1), "username-taken", "capital letters are folded");
    let auth = ["auth", "ann", "--password-file", "password"];
    home.run("bob", &auth).ok();
}

/// Row 4: `send` without a session or to an unknown user is refused.
#[test]
fn send_without_session_or_to_unknown_user_is_refused() {
    let Setting { realm, home } = setting();
    assert_eq!(
        home.run("ann", &["send", "nobody", "hi"]).error(1),
        "no-such-user"
    );
    assert_eq!(
        home.run("ann", &["send", "no body", "hi"]).error(2),
        "usage"
    );
    let send = ["--server", &realm.connect, "send", "ann", "hi"];
    assert_eq!(home.run("bob", &send).error(1), "no-session");
    let unknown = "aaaaaaaaaaaaaaaaaaaaaaaaaa";
    let run = home.run("ann", &["--session", unknown, "send", "ann", "hi"]);
    assert_eq!(run.error(1), "no-session");
    assert!(home.texts("ann").is_empty());
}

/// Row 5: `inbox` without a session is refused.
#[test]
fn inbox_without_session_is_refused() {
    let Setting { realm, home } = setting();
    assert_eq!(
        home.run("bob", &["--server", &realm.connect, "inbox"])
            .error(1),
        "no-session"
    );
}

#[test]
fn limits_exceeded_field_gets_own_error() {
    let Setting { realm, home } = setting();
    let long = "x".repeat(65);
    let register = |name: &str| {
        home.run(
            "bob",
            &[
                "--server",
                &realm.connect,
                "register",
                name,
                "id",
                "bob",
                "--password-file",
                "password",
            ],
        )
    };
    let run = register(&long);
    assert_eq!(run.error(1), "too-large");
    assert_eq!(run.objects()[0]["limit"], 64);
    fs::write(home.directory.path().join("short"), "1234567").unwrap();
    let run = home.run(
        "bob",
        &["register", "B", "id", "bob", "--password-file", "short"],
    );
    assert_eq!(run.error(2), "usage");
    assert!(run.out.contains("8 to 128 bytes"), "{run:?}");
    register("Bob").ok();
}

/// Exit code 2: wrong usage is explained.
#[test]
fn cli_wrong_usage_is_explained() {
    let home = Home::new();
    for (arguments, wanted) in [
        (&["send", "ann", "hi"][..], "--server"),
        (&["--server", "http://x", "whoami"], "merpati://"),
        (
            &["--server", "merpati://127.0.0.1:1#short", "whoami"],
            "43 letters",
        ),
        (&["--server", "merpati://127.0.0.1:1", "whoami"], "--trust"),
        (&["--deadline", "soon", "whoami"], "30s"),
        (&["auth", "ann"], "--password-stdin"),
        (&["frobnicate"], "frobnicate"),
        (&["inbox", "--limit", "0"], "limit"),
        (&["--session", "short", "whoami"], "26 letters"),
    ] {
        let (code, text) = told(&home, "bob", arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {text}");
        assert!(text.contains(wanted), "{arguments:?}: {text}");
        assert!(!home.run("bob", arguments).error(2).is_empty());
    }
    let (code, text) = told(&home, "../x", &["whoami"]);
    assert_eq!(code, Some(2));
    assert!(text.contains("not a name for a profile"), "{text}");
}

/// Exit code 3: nothing is heard from the realm, or its name does not resolve.
#[test]
fn cli_unreachable_realm_is_reported_with_code_3() {
    let Setting { mut realm, home } = setting();
    realm.kill();
    let run = home.run("ann", &["--deadline", "200ms", "whoami"]);
    assert_eq!(run.error(3), "unreachable");
    assert!(run.out.contains("nothing listens there"), "{run:?}");
    let run = home.run(
        "bob",
        &[
            "--server",
            "merpati://no.such.host.invalid",
            "--trust",
            "--deadline",
            "1s",
            "whoami",
        ],
    );
    assert_eq!(run.error(3), "unreachable");
    assert!(run.out.contains("no.such.host.invalid"), "{run:?}");
}

/// Exit code 4: the realm was heard, but its answer was not. A command with a password is not kept,
/// and the message does not advise to repeat it blindly.
#[test]
fn cli_unknown_outcome_is_reported_with_code_4() {
    let Setting { realm, home } = setting();
    let relay = Relay::to(realm.address);
    let connect = realm.connect_through(relay.address);
    relay.lose(|way, bytes| way == Way::ToClient && bytes[0] != 0x04);
    let auth = [
        "--server",
        &connect,
        "--deadline",
        "1s",
        "auth",
        "ann",
        "--password-file",
        "password",
    ];
    let run = home.run("bob", &auth);
    assert_eq!(run.error(4), "unknown");
    assert_eq!(run.objects()[0]["state"], "unknown", "{run:?}");
    for wanted in [
        "may have been done or not",
        "It is not kept",
        "Check before you repeat it",
    ] {
        assert!(run.out.contains(wanted), "{wanted}: {run:?}");
    }
}

/// Exit code 5: the message about a local failure names its file.
#[cfg(unix)]
#[test]
fn cli_local_failure_names_its_file() {
    use std::os::unix::fs::PermissionsExt as _;
    let Setting { realm, home } = setting();
    let key = home.profile("ann").join("device.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let run = home.run("ann", &["whoami"]);
    assert_eq!(run.error(5), "local");
    assert!(run.out.contains("chmod 600"), "HS-10: {run:?}");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(home.profile("ann").join("state"), "damaged").unwrap();
    let (code, text) = told(&home, "ann", &["whoami"]);
    assert_eq!(code, Some(5));
    assert!(text.contains("state is damaged"), "{text}");
    fs::remove_file(home.profile("ann").join("state")).unwrap();
    fs::write(
        home.profile("ann").join("profile.db"),
        "damaged ".repeat(1000),
    )
    .unwrap();
    let (code, text) = told(&home, "ann", &["whoami"]);
    assert_eq!(code, Some(5));
    assert!(text.contains("profile.db is damaged"), "{text}");
    let run = home.run("ann", &["auth", "ann", "--password-file", "missing"]);
    assert_eq!(run.error(5), "local");
    let other = tempfile::tempdir().unwrap();
    let address = realm.address.to_string();
    let mut serve = program();
    serve
        .args(["serve", "--listen", &address, "--data"])
        .arg(other.path());
    let run = finished(&mut serve);
    assert_eq!(run.code, Some(5));
    assert!(
        run.err.contains(&address) && run.err.contains("another address"),
        "{run:?}"
    );
}

/// An invalid configuration is refused with its line and with what to write instead.
#[test]
fn config_invalid_is_refused_with_its_line() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("config.toml");
    fs::write(&config, "[realm]\nsession_ttl = 30\n").unwrap();
    let mut serve = program();
    serve.current_dir(directory.path()).arg("serve");
    let run = finished(&mut serve);
    assert_eq!(run.code, Some(2));
    for wanted in ["config.toml", "line 2", "\"30s\""] {
        assert!(run.err.contains(wanted), "{run:?}");
    }
    assert!(!directory.path().join("data").exists(), "nothing was begun");
}

/// A server that is asked to stop answers the commands in work, and exits with 0.
#[test]
fn shutdown_on_request_keeps_messages_and_exits_with_0() {
    let Setting { mut realm, home } = setting();
    home.run("ann", &["send", "ann", "before"]).ok();
    assert_eq!(realm.stop(), Some(0));
    realm.start_again();
    assert_eq!(home.texts("ann"), ["before"]);
}
