//! How a realm starts: killed at its very first start, with files missing or truncated, and in a
//! directory that is open to others.

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use support::{Home, Realm, program};

/// Runs `serve` in a directory where it is expected to refuse. Returns its exit code and its
/// output.
fn refused(directory: &Path) -> (Option<i32>, String) {
    let output = program()
        .current_dir(directory)
        .args([
            "serve",
            "--json",
            "--data",
            "data",
            "--listen",
            "127.0.0.1:0",
        ])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!said.contains("connect"), "{said}");
    (output.status.code(), said)
}

/// Returns all files of a directory.
fn all_in(directory: &Path) -> Vec<PathBuf> {
    let mut found = vec![directory.to_path_buf()];
    let mut at = 0;
    while let Some(path) = found.get(at).cloned() {
        at += 1;
        if path.is_dir() {
            let entries = fs::read_dir(&path).unwrap();
            found.extend(entries.map(|entry| entry.unwrap().path()));
        }
    }
    found
}

/// A realm that is killed a moment after its very first start starts the next time.
#[test]
fn start_after_kill_at_first_start_succeeds() {
    for number in 0..60_u64 {
        let directory = tempfile::tempdir().unwrap();
        let mut first = program()
            .current_dir(directory.path())
            .args(["serve", "--data", "data", "--listen", "127.0.0.1:0"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // The time is fixed on purpose: the test tries where the process dies.
        thread::sleep(Duration::from_micros(500 * number));
        first.kill().unwrap();
        first.wait().unwrap();
        let realm = Realm::start_in(directory);
        assert!(realm.connect.contains('#'), "{number}");
    }
}

/// HS-10: a realm with a store and without its secrets refuses to start, and makes no new ones. An
/// empty or truncated operator code is refused, too.
#[test]
fn start_without_secrets_is_refused() {
    let mut realm = Realm::start();
    let home = Home::new();
    home.register("ann", &realm.connect);
    realm.kill();
    let directory = realm.directory.path().to_path_buf();
    for file in ["realm.key", "realm.secret"] {
        let path = directory.join("data").join(file);
        let kept = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let (code, said) = refused(&directory);
        assert_eq!(code, Some(5), "{said}");
        assert!(said.contains(file) && said.contains("backup"), "{said}");
        assert!(!path.exists(), "nothing is made in its place");
        fs::write(&path, kept).unwrap();
        Command::new("chmod")
            .arg("600")
            .arg(&path)
            .status()
            .unwrap();
    }
    let path = directory.join("data/operator-code");
    let kept = fs::read_to_string(&path).unwrap();
    for cut in ["", "\n", &kept[..8]] {
        fs::write(&path, cut).unwrap();
        let (code, said) = refused(&directory);
        assert_eq!(code, Some(5), "{said}");
        assert!(said.contains("operator-code"), "{said}");
    }
    fs::write(&path, kept).unwrap();
    realm.start_again();
    assert_eq!(home.run("ann", &["whoami"]).ok()["username"], "ann");
}

/// HS-10: all data files become private to their owner, whatever their mode was before.
#[cfg(unix)]
#[test]
fn start_makes_data_directory_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    fs::create_dir(&data).unwrap();
    fs::set_permissions(&data, fs::Permissions::from_mode(0o755)).unwrap();
    let mut realm = Realm::start_in(directory);
    let home = Home::new();
    home.register("ann", &realm.connect);
    home.run("ann", &["send", "ann", "for nobody else"]).ok();
    let open = |data: &Path| {
        let mode = |path: &PathBuf| fs::metadata(path).unwrap().permissions().mode();
        let all = all_in(data).into_iter();
        all.filter(|path| mode(path) & 0o077 != 0)
            .collect::<Vec<_>>()
    };
    assert_eq!(open(&data), Vec::<PathBuf>::new());
    // As an earlier release left it.
    realm.kill();
    for path in all_in(&data) {
        let mode = if path.is_dir() { 0o755 } else { 0o644 };
        if !path.ends_with("realm.key") && !path.ends_with("realm.secret") {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
    }
    realm.start_again();
    assert_eq!(open(&data), Vec::<PathBuf>::new());
    assert_eq!(home.texts("ann"), ["for nobody else"]);
}

/// A full disk at the very first start is reported as such, with the place. The message does not
/// mention a backup, because there is none yet.
#[cfg(target_os = "linux")]
#[test]
fn disk_full_at_first_start_is_reported_with_place() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("data")).unwrap();
    let program = program().get_program().to_string_lossy().into_owned();
    // Other processes do not see this mount.
    let on_disk = |size: &str, what: &str| {
        let mount = format!("mount -t tmpfs -o size={size} tmpfs data && {what}");
        Command::new("unshare")
            .current_dir(directory.path())
            .args(["--map-root-user", "--mount", "sh", "-c", &mount])
            .stdin(Stdio::null())
            .output()
    };
    if !on_disk("4k", "true").is_ok_and(|output| output.status.success()) {
        eprintln!("not tried: file systems cannot be mounted here");
        return;
    }
    let serve = format!("exec '{program}' serve --json --data data --listen 127.0.0.1:0");
    let mut places = Vec::new();
    for size in ["4k", "8k", "12k", "16k", "20k"] {
        let output = on_disk(size, &serve).unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(5), "{size}: {said}");
        for word in ["no room", "data", "make room", "no store yet"] {
            assert!(said.contains(word), "{size}: {said}");
        }
        assert!(!said.contains("backup"), "{size}: {said}");
        places.push(said.contains("realm.") || said.contains("operator-code"));
    }
    assert_eq!(places.first(), Some(&true), "a secret has no room");
    assert_eq!(places.last(), Some(&false), "the store has no room");
}

/// SIGHUP does not end a realm, neither from a terminal that closes nor from an operator who
/// expects it to reload the configuration.
#[cfg(unix)]
#[test]
fn signal_hangup_does_not_end_realm() {
    let mut realm = Realm::start();
    let home = Home::new();
    home.register("ann", &realm.connect);
    let id = realm.process_id().to_string();
    for _ in 0..3 {
        let sent = Command::new("kill").args(["-HUP", &id]).status().unwrap();
        assert!(sent.success());
        assert_eq!(home.run("ann", &["whoami"]).ok()["username"], "ann");
    }
    assert_eq!(realm.stop(), Some(0));
    let log = realm.log();
    assert!(log.contains("SIGHUP"), "{log}");
}

/// A realm whose system limits are too low says so and does not begin to serve.
#[cfg(unix)]
#[test]
fn start_with_low_system_limits_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let serve = |limit: &str| {
        let program = program().get_program().to_string_lossy().into_owned();
        let script = format!(
            "ulimit {limit} && exec '{program}' serve --json --data data --listen 127.0.0.1:0"
        );
        let output = Command::new("sh")
            .current_dir(directory.path())
            .args(["-c", &script])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), said)
    };
    for (limit, word) in [
        ("-n 12", "ulimit -n"),
        ("-n 64", "ulimit -n"),
        ("-v 153600", "ulimit -v"),
    ] {
        let (code, said) = serve(limit);
        assert_eq!(code, Some(5), "{limit}: {said}");
        assert!(
            said.contains(word) && !said.contains("connect"),
            "{limit}: {said}"
        );
    }
    assert!(!directory.path().join("data").exists(), "nothing is begun");
}
