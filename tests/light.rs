//! The light client (`examples/light.rs`) against a realm in another process.

mod support;

use std::process::Command;

use support::{Home, PASSWORD, Realm, Run, finished};

/// Builds the client if necessary, and returns a function that runs it.
fn light() -> impl Fn(&[&str]) -> Run {
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--example", "light"])
        .status()
        .unwrap();
    assert!(built.success());
    let program = std::env::current_exe().unwrap();
    // target/debug/deps/light-…
    let program = program
        .ancestors()
        .nth(2)
        .unwrap()
        .join("examples")
        .join("light");
    move |arguments| finished(Command::new(&program).args(arguments))
}

#[test]
fn light_client_message_reaches_other_light_client() {
    let (realm, home, light) = (Realm::start(), Home::new(), light());
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
