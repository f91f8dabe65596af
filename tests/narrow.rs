//! Real processes on both sides of a bottleneck with a queue.

mod support;

use support::{
    Home, Realm,
    relay::{Relay, Way},
    watch::Watch,
};

/// LINK-16: a backlog delays a new message by no more than the time of one datagram.
#[test]
fn congestion_backlog_does_not_delay_new_message() {
    const WAITING: usize = 12;
    let (realm, home) = (Realm::start(), Home::new());
    for name in ["ann", "bob"] {
        home.register(name, &realm.connect);
    }
    home.run("ann", &["addgroup", "crew", "--no-password"]).ok();
    home.run("bob", &["joingroup", "crew", "--no-password"])
        .ok();
    for n in 0..WAITING {
        let text = format!("{n:>900}");
        home.run("ann", &["send", "bob", &text]).ok();
    }
    let relay = Relay::to(realm.address);
    // 9,600 bit/s.
    relay.narrow(1200, 4000);
    let through = realm.connect_through(relay.address);
    let mut watch = Watch::start(&home, "bob", &["--server", &through]);
    assert!(watch.texts(1)[0].ends_with(" 0"), "the first that waited");
    home.run("ann", &["sendgroup", "crew", "look up"]).ok();
    let texts = watch.texts(WAITING);
    let place = texts.iter().position(|text| text == "look up").unwrap();
    assert!(place < WAITING / 2, "{place} others came first");
    let waited = texts.iter().filter(|text| *text != "look up");
    let order: Vec<usize> = waited.map(|text| text.trim().parse().unwrap()).collect();
    assert_eq!(order, (1..WAITING).collect::<Vec<_>>());
    // The queue of the path does not fill until it overflows.
    let carried = relay.take_carried();
    let down = carried.iter().filter(|one| one.way == Way::ToClient);
    let lost = down.filter(|one| one.lost).count();
    assert!(lost <= 2, "{lost} datagrams lost to the queue");
}

/// A link of 300 bit/s that the client knows of.
#[test]
fn congestion_link_of_300_bps_carries_commands() {
    let (realm, home) = (Realm::start(), Home::new());
    for name in ["ann", "bob"] {
        home.register(name, &realm.connect);
    }
    let relay = Relay::to(realm.address);
    relay.narrow(37, 1500);
    let through = realm.connect_through(relay.address);
    let server = ["--server", &through, "--max-bitrate", "300bps"];
    let text = "slow and sure ".repeat(20);
    home.run("ann", &[&server[..], &["send", "bob", &text]].concat())
        .ok();
    let read = home.run("bob", &[&server[..], &["inbox"]].concat());
    assert_eq!(read.texts(), [text.as_str()]);
    let unread = home.run("bob", &[&server[..], &["inbox"]].concat());
    assert!(unread.texts().is_empty(), "it was confirmed");
    let carried = relay.take_carried();
    let bytes: usize = carried.iter().map(|one| one.bytes.len()).sum();
    // The text travels both ways, and there are three handshakes.
    assert!(bytes < 6000, "{bytes} bytes");
}
