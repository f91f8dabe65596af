//! `MERPATI_TRACE=DIR`: the events of each link can be read afterwards, without any message text.

mod support;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
};

use serde_json::Value;
use support::{
    Home, Realm, finished,
    relay::{Relay, Way},
    typing::until,
};

const SECRET: &str = "meet me at the old bridge";

/// Returns the content of each trace file so far: its first line, and the events behind it.
fn traces(directory: &Path) -> Vec<(Value, Vec<Value>)> {
    let mut traces = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        assert!(!text.contains(SECRET), "{text}");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", path.display());
        // The last line of a running process may be incomplete.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let mut lines = whole
            .lines()
            .map(|line| serde_json::from_str(line).unwrap());
        if let Some(header) = lines.next() {
            traces.push((header, lines.collect()));
        }
    }
    traces
}

/// Returns the one link of a process that has ended.
fn only_link(directory: &Path) -> (Value, Vec<Value>) {
    let mut links = traces(directory);
    links.retain(|(header, _)| header["link"].is_string());
    assert_eq!(links.len(), 1, "{links:?}");
    links.remove(0)
}

fn named<'a>(events: &'a [Value], name: &str) -> Vec<&'a Value> {
    let is_one = |event: &&Value| event["name"] == name;
    events
        .iter()
        .filter(is_one)
        .map(|event| &event["data"])
        .collect()
}

/// Returns the packets that left one side and arrived at the other, each with its bytes and frames.
fn of_packets(events: &[Value], names: [&str; 2]) -> Vec<(u64, String)> {
    let is_one = |event: &&Value| names.iter().any(|name| event["name"] == *name);
    let packets = events.iter().filter(is_one).map(|event| &event["data"]);
    packets
        .map(|data| {
            let frames = data["frames"].as_str().unwrap_or_default().to_owned();
            (data["bytes"].as_u64().unwrap(), frames)
        })
        .collect()
}

#[test]
fn trace_of_both_sides_agrees_and_contains_no_text() {
    let home = Home::new();
    let theirs = home.directory.path().join("theirs");
    let realm = Realm::start_with(&[&format!("MERPATI_TRACE={}", theirs.display())]);
    home.register("ann", &realm.connect);
    let ours = home.directory.path().join("ours/of/ann");
    let mut send = home.command("ann", &["send", "ann", SECRET]);
    finished(send.env("MERPATI_TRACE", &ours)).ok();
    let (header, events) = only_link(&ours);
    assert_eq!(
        (&header["schema"], &header["time_unit"]),
        (&1.into(), &"ms".into())
    );
    let path = named(&events, "path_updated");
    assert_eq!(path[0]["remote"], realm.address.to_string());
    let down = of_packets(&events, ["handshake_received", "packet_received"]);
    assert!(
        down.iter()
            .any(|(_, frames)| frames.contains("reply 0 (1)")),
        "{down:?}"
    );
    // All packets received here were sent on one of the realm's links.
    let is_same = |events: &Vec<Value>| {
        let sent = of_packets(events, ["handshake_sent", "packet_sent"]);
        down.iter().all(|packet| sent.contains(packet))
    };
    let links = traces(&theirs);
    let same = links.iter().filter(|(_, events)| is_same(events));
    assert_eq!(same.count(), 1, "{links:?}");
    // Times do not decrease.
    for (_, events) in &links {
        let times: Vec<f64> = events
            .iter()
            .map(|one| one["time"].as_f64().unwrap())
            .collect();
        assert!(times.is_sorted(), "{times:?}");
    }
}

#[test]
fn trace_shows_lost_and_doubled_packets() {
    let home = Home::new();
    let theirs = home.directory.path().join("theirs");
    let realm = Realm::start_with(&[&format!("MERPATI_TRACE={}", theirs.display())]);
    let relay = Relay::to(realm.address);
    home.register("ann", &realm.connect);
    let through = realm.connect_through(relay.address);
    let count = AtomicUsize::new(0);
    relay.lose(move |way, _| way == Way::ToRealm && count.fetch_add(1, Ordering::Relaxed) % 3 == 2);
    let ours = home.directory.path().join("ours");
    let arguments = ["--server", &through, "ping", "--count", "12"];
    let mut ping = home.command("ann", &arguments);
    let run = finished(ping.env("MERPATI_TRACE", &ours));
    assert_eq!(run.code, Some(0), "{}", run.err);
    // Replays earlier datagrams, and sends garbage.
    for one in relay
        .take_carried()
        .iter()
        .rev()
        .filter(|one| one.way == Way::ToRealm && !one.lost)
    {
        relay.inject(&one.bytes);
    }
    relay.inject(b"garbage");
    let (_, events) = only_link(&ours);
    let timers = named(&events, "timer_expired");
    assert!(
        timers.iter().any(|data| data["timer"] == "retransmit"),
        "{events:?}"
    );
    let (sent, received) = (
        named(&events, "packet_sent"),
        named(&events, "packet_received"),
    );
    assert!(sent.len() > 12 && received.len() >= 11, "{events:?}");
    let metrics = named(&events, "metrics_updated");
    let is_sane = |data: &&Value| {
        data["latest_rtt_ms"].as_f64().unwrap() > 0.0
            && data["timeout_ms"].as_f64().unwrap() >= 50.0
    };
    assert!(
        !metrics.is_empty() && metrics.iter().all(is_sane),
        "{events:?}"
    );
    let is_noted = || {
        let traces = traces(&theirs);
        let of = |reason: &str| {
            let mut events = traces.iter().flat_map(|(_, events)| events);
            events.any(|event| event["data"]["reason"] == reason)
        };
        of("replayed") && of("not_a_packet")
    };
    until("the realm has noted both", is_noted);
}

#[test]
fn trace_to_unwritable_place_is_refused_before_command() {
    let (realm, home) = (Realm::start(), Home::new());
    home.register("ann", &realm.connect);
    let mut send = home.command("ann", &["send", "ann", "hello"]);
    let file = home.directory.path().join("password");
    let run = finished(send.env("MERPATI_TRACE", &file));
    assert_eq!(run.error(2), "usage");
    assert!(run.out.contains("MERPATI_TRACE") || run.err.contains("MERPATI_TRACE"));
    assert!(home.texts("ann").is_empty());
    // An empty value equals an unset one.
    let mut send = home.command("ann", &["send", "ann", "hello"]);
    finished(send.env("MERPATI_TRACE", "")).ok();
    assert_eq!(home.texts("ann"), ["hello"]);
}

/// A trace that reaches the file size limit ends, and nothing else does.
#[test]
fn trace_that_reaches_file_limit_ends_alone() {
    let (realm, home) = (Realm::start(), Home::new());
    home.register("ann", &realm.connect);
    let ours = home.directory.path().join("ours");
    let ping = home.command("ann", &["ping", "--count", "600"]);
    let mut limited = std::process::Command::new("bash");
    // In blocks of 1024 bytes. The profile's files stay below the limit.
    limited
        .args(["-c", "ulimit -f 128; exec \"$0\" \"$@\""])
        .arg(ping.get_program())
        .args(ping.get_args())
        .current_dir(home.directory.path())
        .env("MERPATI_TRACE", &ours);
    let run = finished(&mut limited);
    assert!(run.err.contains("the trace in"), "{} {}", run.out, run.err);
    assert_ne!(run.code, None, "ended by a signal");
    let (_, events) = only_link(&ours);
    assert!(events.len() > 100, "{events:?}");
}
