//! `merpati cost` reports what was really sent: a relay counts the same.

mod support;

use std::io::Write as _;

use serde_json::Value;
use support::{
    Home, Realm,
    relay::{Relay, Way},
};

/// Returns the bytes and datagrams that the relay has counted, by direction.
fn carried(relay: &Relay) -> impl Fn(Way) -> (u64, u64) {
    let carried = relay.take_carried();
    move |way| {
        let those = || carried.iter().filter(|one| one.way == way);
        let bytes = those().map(|one| one.bytes.len() as u64).sum();
        (bytes, those().count() as u64)
    }
}

fn told(of: &Value, way: &str) -> (u64, u64) {
    let number = |field: &str| of[way][field].as_u64().unwrap();
    (number("bytes"), number("datagrams"))
}

#[test]
fn cost_of_run_equals_bytes_carried() {
    let home = Home::new();
    let realm = Realm::start();
    let relay = Relay::to(realm.address);
    home.register("ann", &realm.connect_through(relay.address));
    let registering = carried(&relay);
    home.run("ann", &["send", "ann", "hello"]).ok();
    let sending = carried(&relay);
    let cost = home.run("ann", &["cost"]).ok();
    assert_eq!(cost["command"], "send");
    assert_eq!(cost["runs"], 2);
    for (name, way) in [("up", Way::ToRealm), ("down", Way::ToClient)] {
        assert_eq!(told(&cost["last"], name), sending(way));
        let (bytes, datagrams) = (
            sending(way).0 + registering(way).0,
            sending(way).1 + registering(way).1,
        );
        assert_eq!(told(&cost["total"], name), (bytes, datagrams));
    }
    let (up, down) = (sending(Way::ToRealm), sending(Way::ToClient));
    let with_headers = up.0 + down.0 + 28 * (up.1 + down.1);
    assert_eq!(cost["last"]["bytes_with_headers"], with_headers);
    // A command that does not talk to the realm costs nothing, and reading the cost changes
    // nothing.
    home.run("ann", &["fingerprint"]);
    assert_eq!(home.run("ann", &["cost", "--reset"]).ok(), cost);
    assert_eq!(home.run("ann", &["cost"]).ok()["runs"], 0);
}

#[test]
fn cost_of_shell_counts_all_its_commands() {
    let home = Home::new();
    let realm = Realm::start();
    home.register("ann", &realm.connect);
    let mut shell = home.command("ann", &["shell"]);
    let mut shell = shell
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let lines = b"send ann one\nsend ann two\ncost\n";
    shell.stdin.take().unwrap().write_all(lines).unwrap();
    let output = shell.wait_with_output().unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    let so_far: Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    let cost = home.run("ann", &["cost"]).ok();
    assert_eq!(cost["command"], "shell");
    for way in ["up", "down"] {
        assert_eq!(told(&cost["last"], way), told(&so_far["last"], way));
        assert!(told(&so_far["last"], way).1 >= 2, "{so_far}");
    }
}
