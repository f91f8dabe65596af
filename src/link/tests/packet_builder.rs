//! The contents of a packet.

use super::*;
use crate::wire::LinkName;

/// Returns a pair of plain links with names, as between realms without keys.
fn named() -> Pair {
    let pair = Pair::new();
    let name = LinkName {
        connection: ConnectionId(8),
        token: [7; 16],
    };
    let mut client = Link::initiate(CONFIG, Some(name));
    client.establish_plain(Some(ConnectionId(9)));
    let mut server = Link::respond(CONFIG, 0);
    server.establish_plain(Some(ConnectionId(8)));
    server.opening_mut().trust();
    Pair {
        client,
        server,
        ..pair
    }
}

/// LINK-4: OPEN is in each packet until it is answered. A request that fits a packet but not
/// together with OPEN leaves in fragments. Before, packets with nothing but OPEN left without end.
#[test]
fn fragments_carry_request_that_does_not_fit_beside_open() {
    for len in 400..600 {
        let mut pair = named();
        pair.client.ask(vec![1; len], END, false).unwrap();
        let mut lens = vec![];
        while let Some(up) = transmit(&mut pair.client, pair.now) {
            assert!(lens.len() < 4, "{len}: {lens:?}");
            lens.push(up.len());
            deliver(&mut pair.server, pair.now, &up).unwrap();
        }
        let arrived = events(&mut pair.server);
        let is_there =
            |event: &Event| matches!(event, Event::Request { bytes, .. } if bytes.len() == len);
        assert!(arrived.iter().any(is_there), "{len}: {lens:?}, {arrived:?}");
    }
}

/// LINK-16: after many timeouts, an event waits until something is heard, whether that measures the
/// path or not. Before, a realm whose replies and UPDATE had been repeated on a path of 50 s pushed
/// nothing any more as long as the link lived.
#[test]
fn push_backlog_after_timeouts_leaves_once_something_is_heard() {
    let mut pair = Pair::new();
    let number = pair.client.ask(b"ask".to_vec(), END, false).unwrap();
    pair.drive();
    events(&mut pair.server);
    pair.server.send_update(crate::wire::Update {
        standing: Some(([7; 16], crate::wire::OperationNumber(1))),
        life: None,
    });
    pair.server.reply(number, b"ok".to_vec());
    while pair.server.timeouts() < 12 {
        assert!(pair.now < Time(3_600_000_000), "{}", pair.server.timeouts());
        while transmit(&mut pair.server, pair.now).is_some() {}
        match pair.server.poll_timeout() {
            Some(at) => {
                pair.now = at.max(pair.now);
                pair.server.handle_timeout(pair.now);
            }
            None => {
                // Keepalives arrive all the while.
                pair.client.ping();
                while let Some(up) = transmit(&mut pair.client, pair.now) {
                    deliver(&mut pair.server, pair.now, &up).unwrap();
                }
            }
        }
    }
    assert!(!pair.server.recovery.rtt().is_measured());
    pair.server.push(vec![2; 600], Urgency::Backlog).unwrap();
    while transmit(&mut pair.client, pair.now).is_some() {}
    pair.client.ping();
    let up = transmit(&mut pair.client, pair.now).unwrap();
    deliver(&mut pair.server, pair.now, &up).unwrap();
    let mut sent = 0;
    while let Some(down) = transmit(&mut pair.server, pair.now) {
        sent += down.len();
    }
    assert!(sent > 500, "{sent}");
}

/// LINK-13: nothing answers an event. An event that is too long closes the link and is not
/// acknowledged.
#[test]
fn push_of_too_long_event_closes_link() {
    let mut pair = Pair::new();
    pair.server.path_proven();
    pair.server.push(vec![1; 20_001], Urgency::Live).unwrap();
    let mut refused = None;
    while let Some(down) = transmit(&mut pair.server, pair.now) {
        refused = refused.or(deliver(&mut pair.client, pair.now, &down).err());
    }
    assert_eq!(refused, Some(Ignored::Violation));
    assert!(events(&mut pair.client).is_empty());
}
