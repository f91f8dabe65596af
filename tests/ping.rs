//! `ping` shows a user what their path is like, logged in or not.

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};

use support::{Home, Realm, relay::Relay};

/// HS-18, LINK-25: a device without an account is answered, a device that was here before resumes,
/// and the properties of the path are printed.
#[test]
fn ping_prints_path_properties_with_and_without_account() {
    let (realm, home) = (Realm::start(), Home::new());
    let run = home.run("new", &["--server", &realm.connect, "ping", "--count", "2"]);
    let lines = run.objects();
    assert_eq!(lines.len(), 3, "{}{}", run.out, run.err);
    assert_eq!(
        (&lines[0]["link"], &lines[1]["link"]),
        (&"opened".into(), &"open".into())
    );
    home.register("ann", &realm.connect);
    let run = home.run("ann", &["ping", "--count", "3"]);
    let lines = run.objects();
    assert_eq!(lines[0]["link"], "resumed", "{}{}", run.out, run.err);
    // A command on a resumed link costs more than one on an open link.
    let bytes =
        |line: usize| lines[line]["up"].as_u64().unwrap() + lines[line]["down"].as_u64().unwrap();
    assert!(bytes(0) > bytes(2) && bytes(2) > 40, "{}", run.out);
    let path = lines.last().unwrap();
    assert!(path["rtt_ms"].as_f64().unwrap() > 0.0, "{path}");
    assert_eq!(path["lost_percent"], 0.0);
    assert_eq!(path["address"], realm.address.to_string());
    // The properties are printed also if an answer is missing in the end. The error does not speak
    // of a command that may have taken effect.
    let relay = Relay::to(realm.address);
    let count = AtomicUsize::new(0);
    relay.lose(move |_, _| count.fetch_add(1, Ordering::Relaxed) > 8);
    home.register("bob", &realm.connect);
    let through = realm.connect_through(relay.address);
    let run = home.run(
        "bob",
        &[
            "--server",
            &through,
            "--deadline",
            "1s",
            "ping",
            "--count",
            "1000",
        ],
    );
    assert_eq!(run.code, Some(3), "{}{}", run.out, run.err);
    assert_eq!(run.error(3), "unreachable");
    assert!(run.out.contains("datagrams_up"), "{}", run.out);
    let run = home.run("ann", &["ping", "--count", "0"]);
    assert_eq!(run.code, Some(2));
}
