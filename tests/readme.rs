//! The README's tour works as written: its commands, word for word, against a real realm.

mod support;

use std::{fs, process::Command};

use support::{Home, PASSWORD, Realm};

/// Returns the shell commands of the blocks that the README marks as the tour.
fn tour() -> String {
    let readme = include_str!("../README.md");
    let blocks = readme.split("<!-- tour -->\n```sh\n").skip(1);
    blocks
        .map(|block| block.split("```").next().unwrap())
        .collect()
}

#[test]
fn readme_tour_works_as_written() {
    let tour = tour();
    assert!(tour.lines().count() >= 6, "the tour was found: {tour}");
    let realm = Realm::start();
    let home = Home::new();
    // A person would type the password. Here a file replaces the person.
    let merpati = format!(
        "set -eu\nmerpati() {{\n  case \"$*\" in\n    *register*) set -- \"$@\" --password-file password ;;\n  esac\n  '{}' \"$@\"\n}}\n",
        env!("CARGO_BIN_EXE_merpati")
    );
    fs::write(home.directory.path().join("password"), PASSWORD).unwrap();
    let output = Command::new("bash")
        .current_dir(home.directory.path())
        .env("MERPATI_HOME", home.directory.path().join("profiles"))
        .env("CONNECT", &realm.connect)
        .args(["-c", &(merpati + &tour)])
        .output()
        .unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{out}{err}");
    assert!(
        out.contains("bob: hello Ann") && out.contains("ann: hello Bob"),
        "{out}"
    );
    assert!(err.is_empty(), "{err}");
}

/// The README's example of the outbox: a realm that is away, a realm that is back, and a command
/// with a token.
#[test]
fn readme_outbox_example_works_as_written() {
    let readme = include_str!("../README.md");
    let block = |title: &str| {
        let (_, block) = readme
            .split_once(&format!("<!-- kept: {title} -->\n```sh\n"))
            .unwrap();
        block.split("```").next().unwrap()
    };
    let (mut realm, home) = (Realm::start(), Home::new());
    home.register("ann", &realm.connect);
    home.register("bob", &realm.connect);
    let run = |commands: &str| {
        let merpati = format!(
            "merpati() {{ '{}' \"$@\"; }}\n",
            env!("CARGO_BIN_EXE_merpati")
        );
        let output = Command::new("bash")
            .current_dir(home.directory.path())
            .env("MERPATI_HOME", home.directory.path().join("profiles"))
            .args(["-c", &(merpati + commands)])
            .output()
            .unwrap();
        let out = String::from_utf8(output.stdout).unwrap();
        (output.status.code(), out)
    };
    realm.kill();
    let away = block("the realm is away");
    let (send, list) = away.split_once('\n').unwrap();
    assert_eq!(run(send).0, Some(4), "{send}");
    let (code, out) = run(list);
    assert!(code == Some(0) && out.contains("send ann"), "{out}");
    realm.start_again();
    let (code, out) = run(&format!("set -e\n{}", block("the realm is back")));
    assert_eq!(code, Some(0), "{out}");
    assert!(out.contains("bob: are you there?"), "{out}");
    let (code, out) = run(&format!("set -e\n{}", block("once")));
    assert_eq!(code, Some(0), "{out}");
    assert_eq!(out.matches("bob: the backup is done").count(), 1, "{out}");
}

/// The README's commands for two realms, with ports that are free.
#[test]
fn readme_two_realms_peer_as_written() {
    let readme = include_str!("../README.md");
    let (_, block) = readme.split_once("<!-- peers -->\n```sh\n").unwrap();
    let (commands, _) = block.split_once("```").unwrap();
    let home = Home::new();
    let config = home.directory.path().join("beta.toml");
    let text =
        "[realm]\nid = \"beta\"\npeering = \"open\"\n[[listen]]\naddress = \"127.0.0.1:0\"\n";
    assert!(readme.contains("[realm]\\nid = \"beta\"\\npeering = \"open\""));
    fs::write(&config, text).unwrap();
    let alpha = Realm::start();
    let beta = Realm::start_with(&["--config", config.to_str().unwrap()]);
    home.register("ann", &alpha.connect);
    home.register("bob", &beta.connect);
    let (_, key) = beta.connect.split_once('#').unwrap();
    let port = beta.address.port().to_string();
    let commands = commands.replace("6378", &port).replace(
        "data/operator-code",
        alpha.data().join("operator-code").to_str().unwrap(),
    );
    let merpati = format!(
        "set -eu\nmerpati() {{ '{}' \"$@\"; }}\n",
        env!("CARGO_BIN_EXE_merpati")
    );
    let output = Command::new("bash")
        .current_dir(home.directory.path())
        .env("MERPATI_HOME", home.directory.path().join("profiles"))
        .env("BETA_KEY", key)
        .env("ALPHA", alpha.announced["realm"].as_str().unwrap())
        .args(["-c", &(merpati + &commands)])
        .output()
        .unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{out}");
    assert!(
        out.contains("accepted") && out.contains("delivered") && out.contains("hello back"),
        "{out}"
    );
    assert_eq!(home.texts("bob"), ["hello from next door"]);
}

/// The README names the declared MSRV.
#[test]
fn readme_rust_version_equals_manifest() {
    let (readme, manifest) = (include_str!("../README.md"), include_str!("../Cargo.toml"));
    assert!(manifest.contains("rust-version = \"1.91\"") && readme.contains("Rust 1.91"));
}
