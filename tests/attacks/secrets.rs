//! Places where secrets could leak: logs, process lists, files, and core dumps.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::{fs::PermissionsExt as _, process::ExitStatusExt as _},
    path::Path,
    process::{Child, Command, Stdio},
};

use merpati::wire::SessionId;
use serde_json::Value;

use crate::support::{Home, PASSWORD, Realm, finished, program, watch::Watch};

/// No log contains passwords, session ids, codes or messages, whatever its level.
#[test]
fn secrets_stay_out_of_log() {
    let home = Home::new();
    let realm = home.realm_as("[realm]\nregistration = \"code\"\n[log]\nlevel = \"trace\"");
    let code = realm.data().join("registration-code");
    let register = ["--server", &realm.connect, "register", "Ann", "id", "ann"];
    let secrets = ["--password-file", "password", "--code-file"];
    let code_file = [code.to_str().unwrap()];
    let run = home.run("ann", &[&register[..], &secrets, &code_file].concat());
    let session = run.ok()["session"].as_str().unwrap().to_string();
    home.run("ann", &["send", "ann", "a private message"]).ok();
    home.run("ann", &["--session", &session, "inbox"]);
    home.run("ann", &["auth", "ann", "--password-file", "wrong"])
        .error(1);
    home.run("ann", &["addgroup", "cats", "--password-file", "wrong"])
        .ok();
    let operator = realm.data().join("operator-code");
    let claim = ["claim", "--password-file", operator.to_str().unwrap()];
    home.run("ann", &claim).ok();
    let log = realm.log();
    assert!(log.contains("refused"), "it does log: {log}");
    let read = |path: &Path| fs::read_to_string(path).unwrap_or_default();
    let (code, operator) = (read(&code), read(&operator));
    let key = read(&realm.data().join("realm.key"));
    for secret in [
        PASSWORD,
        "battery staple",
        "a private message",
        &session,
        code.trim(),
        operator.trim(),
        key.trim(),
    ] {
        assert!(secret.len() > 10, "{secret:?} is none");
        assert!(!log.contains(secret), "{secret} is in the log");
    }
    let id: SessionId = session.parse().unwrap();
    assert!(!log.contains(&format!("{:?}", id.0)));
}

/// No argument or environment variable of a process, which `ps` shows to everybody, contains a
/// secret, and no option accepts a password.
#[test]
fn secrets_stay_out_of_process_list() {
    let home = Home::new();
    let realm = Realm::start();
    let session = home.register("ann", &realm.connect);
    let watch = Watch::start(&home, "ann", &[]);
    for process in [realm.process_id(), watch.process.id()] {
        for what in ["cmdline", "environ"] {
            let shown = fs::read(format!("/proc/{process}/{what}")).unwrap();
            let shown = String::from_utf8_lossy(&shown);
            for secret in [PASSWORD, &session] {
                assert!(!shown.contains(secret), "{what}: {shown}");
            }
        }
    }
    for refused in [
        &["auth", "ann", PASSWORD][..],
        &["auth", "ann", "--password", PASSWORD],
        &["addgroup", "cats", PASSWORD],
    ] {
        let run = home.run("ann", refused);
        assert_eq!(run.code, Some(2), "{run:?}");
    }
}

/// Returns what a server announces once it serves.
fn announced(serve: &mut Child) -> Value {
    let mut line = String::new();
    let mut out = BufReader::new(serve.stdout.take().unwrap());
    out.read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap()
}

/// Checks that all files of a directory are private, except those of the store, which is in a
/// private directory.
fn assert_private(directory: &Path) {
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o77;
    assert_eq!(mode(directory), 0, "{}", directory.display());
    let mut with_secrets = 0;
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let metadata = fs::metadata(&path).unwrap();
        if metadata.is_file() && metadata.len() > 0 {
            with_secrets += 1;
            assert_eq!(mode(&path), 0, "{}", path.display());
        }
    }
    assert!(with_secrets >= 2, "{}", directory.display());
}

/// Files with secrets, and their directories, are private to their owner, whatever the umask.
#[test]
fn secrets_files_are_private_to_owner() {
    let directory = tempfile::tempdir().unwrap();
    let home = Home::new();
    let script = "umask 0; exec \"$0\" \"$@\"";
    let merpati = env!("CARGO_BIN_EXE_merpati");
    let mut serve = Command::new("sh");
    serve
        .args([
            "-c",
            script,
            merpati,
            "serve",
            "--json",
            "--listen",
            "127.0.0.1:0",
            "--data",
        ])
        .arg(directory.path().join("data"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut serve = serve.spawn().unwrap();
    let announced = announced(&mut serve);
    let mut register = Command::new("sh");
    register
        .current_dir(home.directory.path())
        .args([
            "-c", script, merpati, "--home", "profiles", "--json", "--server",
        ])
        .arg(announced["connect"].as_str().unwrap())
        .args([
            "register",
            "Ann",
            "id",
            "ann",
            "--password-file",
            "password",
        ]);
    finished(&mut register).ok();
    serve.kill().unwrap();
    serve.wait().unwrap();
    assert_private(&directory.path().join("data"));
    assert_private(&home.directory.path().join("profiles/default"));
}

/// A process that crashes leaves no core dump, which would contain all its secrets.
#[test]
fn secrets_crash_leaves_no_core_dump() {
    let directory = tempfile::tempdir().unwrap();
    let script = "ulimit -c unlimited 2>/dev/null; exec \"$0\" \"$@\"";
    let mut serve = Command::new("sh");
    serve
        .current_dir(directory.path())
        .args(["-c", script])
        .arg(program().get_program())
        .args([
            "serve",
            "--json",
            "--listen",
            "127.0.0.1:0",
            "--data",
            "data",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut serve = serve.spawn().unwrap();
    announced(&mut serve);
    let id = serve.id().to_string();
    let asked = Command::new("kill").args(["-ABRT", &id]).status().unwrap();
    assert!(asked.success());
    let status = serve.wait().unwrap();
    assert_eq!(status.signal(), Some(6), "{status}");
    assert!(!status.core_dumped());
    let left = fs::read_dir(directory.path()).unwrap();
    let mut names = left.map(|entry| entry.unwrap().file_name());
    assert!(names.all(|name| name == "data"));
}
