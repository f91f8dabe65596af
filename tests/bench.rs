//! `merpati bench` as used to measure what a realm can do.

mod support;

use std::{fs, process::Command};

use serde_json::Value;
use support::{Home, Realm, finished, program};

fn bench(arguments: &[&str]) -> (Option<i32>, Value, String) {
    let home = tempfile::tempdir().unwrap();
    let mut command: Command = program();
    command.arg("bench").args(arguments);
    command.args(["--json", "--home"]).arg(home.path());
    let run = finished(&mut command);
    let object: Value = serde_json::from_str(&run.out).unwrap_or_default();
    // Errors, as everything for programs, are on standard output.
    let error = object.get("error").map_or(run.err, |_| run.out.clone());
    (run.code, object, error)
}

#[test]
fn bench_of_own_realm_measures_and_removes_it() {
    let place = tempfile::tempdir().unwrap();
    let picture = place.path().join("latency.svg");
    let (code, told, error) = bench(&[
        "--connections=3",
        "--in-flight=4",
        "--count=200",
        "--time=1m",
        "--mix=send=3,sendgroup,inbox,unread,whoami",
        "--workers=3",
        "--data",
        place.path().to_str().unwrap(),
        "--svg",
        picture.to_str().unwrap(),
    ]);
    assert_eq!((code, error.as_str()), (Some(0), ""));
    assert_eq!(told["commands"], 200);
    assert_eq!(told["refused"], serde_json::json!({}));
    assert_eq!(told["unanswered"], 0);
    // Several commands share a datagram. Each takes at least its number in both directions.
    for (field, least, most) in [
        ("bytes_up_per_command", 5.0, 200.0),
        ("bytes_down_per_command", 1.0, 2000.0),
        ("datagrams_up_per_command", 0.1, 2.0),
        ("realm_cpu_us_per_command", 0.1, 1e6),
        ("part_of_echo", 1e-6, 1e3),
        ("disk_sync_us", 0.1, 1e7),
    ] {
        let value = told[field].as_f64().unwrap();
        assert!((least..most).contains(&value), "{field}: {value}");
    }
    let quantile = |of: &Value, name: &str| of["latency_us"][name].as_u64().unwrap();
    assert!(quantile(&told, "p50") <= quantile(&told, "p99"));
    assert!(quantile(&told["echo"], "p50") <= quantile(&told["echo"], "max"));
    let picture = fs::read_to_string(picture).unwrap();
    assert!(picture.starts_with("<svg") && picture.trim_end().ends_with("</svg>"));
    let left = fs::read_dir(place.path()).unwrap();
    assert_eq!(left.count(), 1, "the picture is what is left");
}

#[test]
fn bench_of_running_realm_measures_and_reuses_accounts() {
    let realm = Realm::start();
    let home = tempfile::tempdir().unwrap();
    let run = |more: &[&str]| {
        let mut command = program();
        command.args(["bench", &realm.connect, "--connections=2", "--count=40"]);
        command.args(more).arg("--home").arg(home.path());
        finished(&mut command)
    };
    let first = run(&[]);
    assert_eq!(first.code, Some(0), "{}", first.err);
    assert!(first.out.contains("40 in "), "{}", first.out);
    assert!(!first.out.contains("realm used"), "{}", first.out);
    let users = || {
        let places = fs::read_dir(home.path().join("bench")).unwrap();
        let accounts = places.map(|place| fs::read_dir(place.unwrap().path()).unwrap().count());
        accounts.sum::<usize>()
    };
    assert_eq!(users(), 2);
    let again = run(&["--pid", &realm.process_id().to_string()]);
    assert_eq!(again.code, Some(0), "{}", again.err);
    assert!(again.out.contains("realm used"), "{}", again.out);
    assert!(!again.out.contains("refused"), "{}", again.out);
    assert_eq!(users(), 2);
}

/// The output says that the realm's limits reject load, and names them.
#[test]
fn bench_load_rejected_by_limits_names_them() {
    let home = Home::new();
    let realm = home.realm_as("[limits]\nregistrations_per_subnet = \"1/h\"");
    let mut command = program();
    command.args(["bench", &realm.connect, "--connections=8", "--count=40"]);
    let run = finished(command.arg("--home").arg(home.directory.path()));
    assert_eq!(run.code, Some(1), "{run:?}");
    for limit in ["registrations_per_subnet", "joins_per_subnet"] {
        assert!(run.err.contains(limit), "{}", run.err);
    }
}

#[test]
fn bench_impossible_options_are_refused_with_reason() {
    for (arguments, code, said) in [
        (&["--mix=fetch"][..], 2, "send=8,unread=1"),
        (&["--in-flight=500"], 2, "128"),
        (&["--time=0s"], 2, "100ms"),
        (&["--pid=1"], 2, "STRING"),
        (&["--data=/dev/null/place"], 5, "/dev/null/place"),
    ] {
        let (told, _, error) = bench(arguments);
        assert_eq!(told, Some(code), "{arguments:?} {error}");
        assert!(error.contains(said), "{arguments:?} {error}");
    }
}
