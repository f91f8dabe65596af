//! Changes to a store while its realm is not looking: restored, shared and damaged stores.

use std::{
    fs,
    io::{Seek as _, SeekFrom, Write as _},
};

use crate::support::{Home, Realm, copy_directory, finished, program};

/// A store restored from an old backup knows less than its clients. Their sessions of that time
/// continue, used operation numbers do not come again, and each message is delivered once.
#[test]
fn restored_store_from_old_backup_serves_its_clients() {
    let home = Home::new();
    let mut realm = Realm::start();
    for who in ["ann", "bob"] {
        home.register(who, &realm.connect);
    }
    home.run("ann", &["send", "bob", "before"]).ok();
    realm.stop();
    let copy = home.directory.path().join("copy");
    copy_directory(&realm.data(), &copy);
    realm.start_again();
    for n in 0..3 {
        home.run("ann", &["send", "bob", &format!("forgotten {n}")])
            .ok();
    }
    home.register("cho", &realm.connect);
    assert_eq!(home.texts("bob").len(), 4);
    realm.kill();
    fs::remove_dir_all(realm.data()).unwrap();
    copy_directory(&copy, &realm.data());
    realm.start_again();
    for n in 0..3 {
        home.run("ann", &["send", "bob", &format!("after {n}")])
            .ok();
    }
    assert_eq!(
        home.texts("bob"),
        ["before", "after 0", "after 1", "after 2"]
    );
    // A user who registered after the backup is told so, and registers again.
    assert_eq!(home.run("cho", &["whoami"]).error(1), "no-session");
    home.register("cho", &realm.connect);
    assert!(!realm.log().contains("panicked"), "{}", realm.log());
}

/// Two servers on one store directory: the second refuses to start, and the first continues.
#[test]
fn store_in_use_second_server_is_refused() {
    let realm = Realm::start();
    let home = Home::new();
    home.register("ann", &realm.connect);
    let mut second = program();
    second
        .args(["serve", "--listen", "127.0.0.1:0", "--data"])
        .arg(realm.data());
    let run = finished(&mut second);
    assert_eq!(run.code, Some(5), "{run:?}");
    assert!(run.err.contains("stop it first"), "{run:?}");
    home.run("ann", &["send", "ann", "still here"]).ok();
}

/// A zeroed page in the middle of the journal is reported and costs what was in it. The page was
/// taken for the end of the journal, and the acknowledged entries behind it were lost silently.
#[test]
fn journal_zeroed_page_is_reported_and_loses_only_its_entries() {
    let home = Home::new();
    let mut realm = Realm::start();
    home.register("ann", &realm.connect);
    let journal = realm.data().join("store/0.jnl");
    let written = || {
        let bytes = fs::read(&journal).unwrap();
        bytes.iter().rposition(|byte| *byte != 0).unwrap() as u64
    };
    let mut middle = 0;
    for n in 0..20 {
        home.run("ann", &["send", "ann", &format!("message {n}")])
            .ok();
        if n == 10 {
            middle = written();
        }
    }
    realm.kill();
    let mut file = fs::OpenOptions::new().write(true).open(&journal).unwrap();
    file.seek(SeekFrom::Start(middle / 512 * 512)).unwrap();
    file.write_all(&[0; 512]).unwrap();
    let serve = |more: &[&str]| {
        let mut serve = program();
        serve.args(["serve", "--listen", "127.0.0.1:0", "--data"]);
        serve.arg(realm.data()).args(more);
        serve
    };
    for _ in 0..2 {
        let run = finished(&mut serve(&[]));
        assert_eq!(run.code, Some(5), "{run:?}");
        for said in ["lost writes", "0.jnl", "backup", "--accept-damage"] {
            assert!(run.err.contains(said), "{said}: {run:?}");
        }
    }
    realm.start_again_with(&["--accept-damage"]);
    assert!(realm.log().contains("were left out"), "{}", realm.log());
    let texts = home.texts("ann");
    assert!(
        texts.contains(&"message 0".into()) && texts.contains(&"message 19".into()),
        "{texts:?}"
    );
    assert!((16..20).contains(&texts.len()), "{texts:?}");
    home.run("ann", &["send", "ann", "afterwards"]).ok();
    realm.stop();
    realm.start_again();
    assert_eq!(home.texts("ann").last().unwrap(), "afterwards");
}

/// A zeroed sector at the end of the journal is cut off if it may never have been acknowledged, and
/// reported if it was. The engine refused for good to open such a journal.
#[test]
fn journal_zeroed_sector_at_end_is_cut_off_or_reported() {
    for is_stopped in [false, true] {
        let home = Home::new();
        let mut realm = Realm::start();
        home.register("ann", &realm.connect);
        home.run("ann", &["send", "ann", "before"]).ok();
        if is_stopped {
            realm.stop();
        } else {
            realm.kill();
            // As an earlier release left the store, or a realm that was killed at once: nothing
            // records how far the store had come.
            fs::remove_file(realm.data().join("store.mark")).unwrap();
        }
        let journal = realm.data().join("store/0.jnl");
        let mut bytes = fs::read(&journal).unwrap();
        let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        bytes[end - 60..end - 20].fill(0);
        fs::write(&journal, bytes).unwrap();
        if is_stopped {
            let mut serve = program();
            serve.args(["serve", "--listen", "127.0.0.1:0", "--data"]);
            let run = finished(serve.arg(realm.data()));
            assert_eq!(run.code, Some(5), "{run:?}");
            assert!(run.err.contains("lost writes"), "{run:?}");
        } else {
            realm.start_again();
            for said in [
                "was cut off",
                "what was acknowledged last",
                "store.mark was missing",
            ] {
                assert!(realm.log().contains(said), "{said}: {}", realm.log());
            }
            home.run("ann", &["send", "ann", "after"]).ok();
        }
    }
}

/// An operator who creates the empty file `store.distrusted` by hand, as docs/disk.md describes,
/// gets no warning that the realm's key may be known. An operator whose secrets others could read
/// gets it.
#[cfg(unix)]
#[test]
fn secrets_warning_for_readable_secret_but_not_for_empty_marker() {
    use std::os::unix::fs::PermissionsExt as _;

    let mut realm = Realm::start();
    for (name, is_alarming) in [("store.distrusted", false), ("realm.secret", true)] {
        realm.stop();
        let path = realm.data().join(name);
        if !path.exists() {
            fs::write(&path, b"").unwrap();
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let before = realm.log().len();
        realm.start_again();
        let log = realm.log()[before..].to_string();
        assert_eq!(log.contains("rotatekey"), is_alarming, "{name}: {log}");
        assert_eq!(
            log.contains("store.distrusted was there"),
            !is_alarming,
            "{name}: {log}"
        );
    }
}
