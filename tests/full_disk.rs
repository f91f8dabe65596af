//! A profile on a full disk: every report about a command is true, and nothing is duplicated
//! (EXACT-7, EXACT-9).

mod support;

use std::{fs, process::Command};

use support::{Home, Realm, finished, program, typing::Shell};

/// Bytes in a block of `ulimit -f`.
const BLOCK: usize = 512;

/// Returns a command whose process may write files up to a size only. At some point it can write
/// nothing more, as on a full disk.
fn limited(home: &Home, blocks: usize, arguments: &[&str]) -> Command {
    let plain = home.command("ann", arguments);
    let mut limited = Command::new("sh");
    limited
        .args(["-c", "trap '' XFSZ; ulimit -f $0; exec \"$@\""])
        .arg(blocks.to_string())
        .arg(program().get_program())
        .args(plain.get_args())
        .current_dir(plain.get_current_dir().unwrap());
    for (name, value) in plain.get_envs() {
        limited.env(name, value.unwrap_or_default());
    }
    limited
}

/// Wherever the disk is full between two steps of a command, a message reported as `stored` is
/// stored, a kept one arrives once, and one reported as not done and not kept never arrives.
#[test]
fn disk_full_during_send_outcome_is_reported_truly() {
    let realm = Realm::start();
    let home = Home::new();
    home.register("ann", &realm.connect);
    let (mut stored, mut kept, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    for kilobytes in (24..112).step_by(5) {
        // The text is so long that each step of the command takes several pages.
        let text = format!("with {kilobytes} KiB ").repeat(450);
        let arguments = ["--deadline", "1s", "send", "ann", &text];
        let run = finished(&mut limited(&home, kilobytes * 1024 / BLOCK, &arguments));
        let error = run.objects().pop().unwrap_or_default();
        match (run.code, &error["state"]) {
            (Some(0), _) => stored.push(text),
            (Some(4), state) if state.is_string() && error["id"].is_u64() => kept.push(text),
            (Some(5), state) if state.is_null() => {
                let message = error["message"].as_str().unwrap();
                assert!(message.contains("cannot use the profile"), "{message}");
                refused.push(text);
            }
            _ => panic!("{text}: {run:?}"),
        }
    }
    home.run("ann", &["outbox", "wait"]);
    let mut all = [stored.clone(), kept.clone()].concat();
    let mut texts = home.texts("ann");
    all.sort_unstable();
    texts.sort_unstable();
    assert_eq!(
        texts, all,
        "stored {stored:?}, kept {kept:?}, refused {refused:?}"
    );
    assert!(
        !stored.is_empty() && !refused.is_empty(),
        "{stored:?} {refused:?}"
    );
    println!(
        "{} stored, {} kept, {} neither done nor kept",
        stored.len(),
        kept.len(),
        refused.len()
    );
}

/// The same for a command of a kind that carries a password (here `addgroup`): done means done, and
/// not done means not done.
#[test]
fn disk_full_during_password_command_outcome_is_reported_truly() {
    let realm = Realm::start();
    let home = Home::new();
    home.register("ann", &realm.connect);
    // The open shell keeps the database's log from being reset, so the next command writes behind
    // it.
    let mut shell = Shell::start(&home, "ann", &[]);
    assert_eq!(shell.ask("whoami")["username"], "ann");
    let (mut done, mut unknown, mut refused) = (0, 0, 0);
    for kilobytes in 0..48 {
        let written = fs::metadata(home.profile("ann").join("profile.db-wal")).unwrap();
        let blocks = usize::try_from(written.len()).unwrap() / BLOCK + kilobytes * 1024 / BLOCK;
        let group = format!("g{kilobytes}");
        let add = ["--deadline", "2s", "addgroup", &group, "--no-password"];
        let run = finished(&mut limited(&home, blocks, &add));
        let is_there = home.run("ann", &["members", &group]).code == Some(0);
        match run.code {
            Some(0) => {
                assert!(is_there, "{group}: {run:?}");
                done += 1;
            }
            Some(4) => unknown += 1,
            Some(3 | 5) => {
                assert!(!is_there, "{group}: {run:?}");
                refused += 1;
            }
            _ => panic!("{group}: {run:?}"),
        }
    }
    println!("{done} done, {unknown} unknown, {refused} not done");
    assert!(done > 0 && refused > 0, "{done} {unknown} {refused}");
}
