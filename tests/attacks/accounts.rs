//! Attacks on accounts: registration without permission, and guessed passwords.

use std::{fs, net::Ipv4Addr, os::unix::fs::PermissionsExt as _};

use merpati::wire::Answer;

use crate::support::{
    Home, PASSWORD,
    device::{Device, Target, new_key, user},
};

const REGISTER: &[&str] = &[
    "register",
    "Ann",
    "id",
    "ann",
    "--password-file",
    "password",
];

/// ACC-6: a realm that requires a code writes the code to a file that only its operator can read.
#[test]
fn account_registration_without_code_is_refused() {
    let home = Home::new();
    let mut realm = home.realm_as("[realm]\nregistration = \"code\"");
    let run = |further: &[&str]| {
        let server = ["--server", realm.connect.as_str()];
        home.run("ann", &[&server, REGISTER, further].concat())
    };
    let refused = run(&[]);
    assert_eq!(refused.error(1), "wrong-code");
    let message = refused.objects()[0]["message"].to_string();
    assert!(message.contains("--code-file"), "{message}");
    let code = realm.data().join("registration-code");
    let mode = fs::metadata(&code).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let wrong = home.directory.path().join("wrong");
    fs::write(&wrong, "aaaaaaaaaaaaaaaa\n").unwrap();
    let wrong = run(&["--code-file", wrong.to_str().unwrap()]);
    assert_eq!(wrong.error(1), "wrong-code");
    run(&["--code-file", code.to_str().unwrap()]).ok();
    // A restart keeps the code, and the log does not contain it.
    let text = fs::read_to_string(&code).unwrap();
    realm.stop();
    realm.start_again();
    assert_eq!(fs::read_to_string(&code).unwrap(), text);
    let log = realm.log();
    assert!(!log.contains(text.trim()), "{log}");
}

/// ACC-6: a closed realm creates no accounts.
#[test]
fn account_registration_on_closed_realm_is_refused() {
    let home = Home::new();
    let realm = home.realm_as("[realm]\nregistration = \"closed\"");
    let server = ["--server", realm.connect.as_str()];
    let run = home.run("ann", &[&server, REGISTER].concat());
    assert_eq!(run.error(1), "registration-closed");
}

/// ACC-5: after wrong guesses a login is refused with the time to wait, and the refusal says that
/// nothing was done. Sessions that are logged in are not affected.
#[test]
fn password_wrong_guesses_delay_next_login() {
    let home = Home::new();
    let realm = home.realm_as("");
    home.register("ann", &realm.connect);
    let auth = |file| {
        let server = ["--server", realm.connect.as_str(), "--deadline", "10s"];
        let auth = ["auth", "ann", "--password-file", file];
        home.run("eve", &[&server[..], &auth].concat())
    };
    for _ in 0..3 {
        assert_eq!(auth("wrong").error(1), "bad-credentials");
    }
    let run = auth("password");
    assert_eq!(run.error(1), "rate-limited");
    let told = run.objects().pop().unwrap();
    let wait = told["retry_after_ms"].as_u64().unwrap();
    assert!((50_000..=60_000).contains(&wait), "{wait}");
    assert!(told["state"].is_null(), "it is certain: {told}");
    assert_eq!(
        home.run("eve", &["--server", &realm.connect, "whoami"])
            .error(1),
        "no-session"
    );
    home.run("ann", &["send", "ann", "still here"]).ok();
}

/// ACC-7: a client that is told to wait does so, and its command takes effect once.
#[test]
fn rate_limit_exceeded_sends_wait_and_none_is_lost() {
    let home = Home::new();
    let realm = home.realm_as("[limits]\ncommands_per_link = \"5/s\"");
    home.register("ann", &realm.connect);
    let client = home.client("ann", &realm.connect);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut sends = tokio::task::JoinSet::new();
        let client = std::sync::Arc::new(client);
        for n in 0..40 {
            let client = std::sync::Arc::clone(&client);
            sends.spawn(async move {
                let text = format!("message {n}");
                client.send("ann".parse().unwrap(), text.as_str()).await
            });
        }
        while let Some(sent) = sends.join_next().await {
            sent.unwrap().unwrap();
        }
    });
    let mut texts = home.texts("ann");
    texts.sort_by_key(|text| text.trim_start_matches("message ").parse::<u32>().unwrap());
    let all: Vec<_> = (0..40).map(|n| format!("message {n}")).collect();
    assert_eq!(texts, all);
    assert!(!realm.log().contains(PASSWORD));
}

/// HS-13: an account that logs in with ever more devices takes no other user's link slot: existing
/// links stay, and new ones are admitted.
#[test]
fn link_slots_account_with_many_devices_displaces_nobody() {
    let home = Home::new();
    let realm = home.realm_as(
        "[limits]\nworkers = 1\nlinks = 30\nlogins_per_subnet = \"unlimited\"\nhandshakes_per_subnet = \"unlimited\"\n",
    );
    let target = Target::of(&realm);
    let elsewhere = Ipv4Addr::new(127, 1, 0, 7);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut ann = Device::begin(&new_key(), Ipv4Addr::LOCALHOST, target).await;
        ann.register("ann").await;
        let mut greedy = Vec::new();
        for n in 0..60 {
            let mut device = Device::begin(&new_key(), elsewhere, target).await;
            if n == 0 {
                device.register("eve").await;
            } else {
                device.auth("eve").await;
            }
            greedy.push(device);
        }
        // This is sent on the link that she had before.
        let message = ann.send(user("ann"), b"still here");
        let answer = ann.answer(message).await;
        assert!(matches!(answer, Answer::Sent(_)), "{answer:?}");
        for name in ["bob", "cho", "dia"] {
            let mut device = Device::begin(&new_key(), Ipv4Addr::LOCALHOST, target).await;
            device.register(name).await;
        }
    });
}
