//! `ping`: whoever doubts their path sees what it is like, logged in or not.

mod support;

use support::{Home, Realm};

/// HS-18, LINK-25: a device that has no account has answers, too; one that was here before comes back; and what was found out of the path is said.
#[test]
fn ping_says_what_the_path_is_like() {
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
    // A command that begins with nothing, and one on an open link.
    let bytes =
        |line: usize| lines[line]["up"].as_u64().unwrap() + lines[line]["down"].as_u64().unwrap();
    assert!(bytes(0) > bytes(2) && bytes(2) > 40, "{}", run.out);
    let path = lines.last().unwrap();
    assert!(path["rtt_ms"].as_f64().unwrap() > 0.0, "{path}");
    assert_eq!(path["lost_percent"], 0.0);
    assert_eq!(path["address"], realm.address.to_string());
    let run = home.run("ann", &["ping", "--count", "0"]);
    assert_eq!(run.code, Some(2));
}
