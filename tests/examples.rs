//! The programs in `examples/`, as their readers run them.

mod support;

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use support::{Home, PASSWORD, Realm, Run, example, finished, typing::kill, watch::Watch};

#[test]
fn light_client_message_reaches_other_light_client() {
    let (realm, home, program) = (Realm::start(), Home::new(), example("light"));
    let light = |arguments: &[&str]| -> Run { finished(Command::new(&program).args(arguments)) };
    let [ann, bob] = ["ann", "bob"].map(|name| home.profile(name).to_str().unwrap().to_string());
    for (home, name) in [(&ann, "ann"), (&bob, "bob")] {
        let run = light(&[home, "register", &realm.connect, name, PASSWORD]);
        assert_eq!(run.code, Some(0), "{run:?}");
    }
    for text in ["hello", "there"] {
        let run = light(&[&ann, "send", "bob", text]);
        assert_eq!(run.code, Some(0), "{run:?}");
    }
    // Entries that were shown are not shown again.
    for shown in ["ann: hello\nann: there\n", ""] {
        let run = light(&[&bob, "read"]);
        assert_eq!((run.code, &*run.out), (Some(0), shown), "{run:?}");
    }
    let run = light(&[&ann, "send", "nobody", "hello"]);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.err.contains("light: "), "{run:?}");
    assert!(light(&[]).err.contains("usage: light"));
}

/// Starts the bot. With `account`, it makes its account first.
fn bot(program: &Path, home: &Path, account: &[&str]) -> Child {
    Command::new(program)
        .arg(home)
        .args(account)
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// The bot answers each message exactly once, however often it is killed. Its realm is another
/// program that embeds the server.
#[test]
fn bot_killed_after_each_message_answers_each_once() {
    let home = Home::new();
    let mut realm = Command::new(example("embed"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(realm.stdout.take().unwrap()).lines();
    let said = lines.next().unwrap().unwrap();
    let connect = said.strip_prefix("connect with ").unwrap();
    home.register("ann", connect);
    let (program, bots) = (example("bot"), home.profile("bot"));
    let mut running = bot(&program, &bots, &[connect, "botty", PASSWORD]);
    let mut watch = Watch::start(&home, "ann", &[]);
    // Its account is there once a message for it is accepted.
    support::typing::until("the bot has an account", || {
        home.run("ann", &["send", "botty", "0"]).code == Some(0)
    });
    let mut answers = watch.texts(1);
    for number in 1..12 {
        home.run("ann", &["send", "botty", &number.to_string()])
            .ok();
        // Killed at some moment while it receives or answers, or before that.
        kill(running);
        running = bot(&program, &bots, &[]);
        if number % 3 == 0 {
            answers.extend(watch.texts(3));
        }
    }
    answers.extend(watch.texts(12 - answers.len()));
    kill(running);
    // The last bot answers to nothing more.
    let mut running = bot(&program, &bots, &[]);
    home.run("ann", &["send", "botty", "12"]).ok();
    answers.extend(watch.texts(1));
    let _ = running.kill();
    let number = |text: &String| text.strip_prefix("Confirmed: your message ")?.parse().ok();
    let mut answered: Vec<u32> = answers.iter().filter_map(number).collect();
    answered.sort_unstable();
    assert_eq!(answered, (1..=13).collect::<Vec<_>>(), "{answers:?}");
    let _ = (running.wait(), realm.kill(), realm.wait());
}
