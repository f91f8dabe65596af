//! Rekeying: links that are replaced.

use super::*;

/// Returns a pair whose link is due for a rekey: it was used every half hour for a day.
fn day_old() -> (Pair, LinkId) {
    let mut pair = Pair::new(Protection::Sealed);
    let link = pair.connect();
    let begun = pair.now;
    pair.ask(link, true);
    assert_eq!(replies(&pair.drive(|_| false)), 1);
    while pair.now - begun < Duration::from_hours(23) {
        pair.ask(link, true);
        assert_eq!(replies(&pair.drive(|_| false)), 1);
        pair.now = pair.now + Duration::from_mins(30);
        pair.client.handle_timeout(pair.now);
        pair.server.handle_timeout(pair.now);
    }
    assert_eq!((pair.client.links(), pair.server.links()), (1, 1));
    pair.now = begun + LINK_LIFETIME;
    (pair, link)
}

fn opened(events: &[Event]) -> Option<LinkId> {
    events.iter().find_map(|event| match event {
        Event::Opened { link, .. } => Some(*link),
        _ => None,
    })
}

/// LINK-21: a link is replaced when it is used after 24 hours. An idle one costs nothing.
#[test]
fn rekey_after_a_day_happens_on_next_use() {
    let (mut pair, old) = day_old();
    assert!(
        pair.drive(|_| false).is_empty(),
        "an idle one costs nothing"
    );
    pair.ask(old, true);
    let events = pair.drive(|_| false);
    assert_eq!(replies(&events), 1);
    let new = opened(&events).unwrap();
    assert_ne!(new, old);
    assert!(events.contains(&Event::Closed {
        link: old,
        reason: None
    }));
    assert_eq!((pair.client.links(), pair.server.links()), (1, 1));
    let before = pair.carried.len();
    pair.ask(new, true);
    assert_eq!(replies(&pair.drive(|_| false)), 1);
    assert_eq!(
        pair.carried.len() - before,
        2,
        "it is open, and known to be"
    );
}

/// LINK-21: a request that waits for its reply on the old link moves to the new one.
#[test]
fn rekey_moves_waiting_request_to_new_link() {
    let (mut pair, old) = day_old();
    let number = pair.ask(old, true);
    let first = pair.carried.len();
    // The old link's packet is lost, the handshake is not.
    let events = pair.drive(|n| n == first);
    assert_eq!(replies(&events), 1);
    let moved = events.iter().find_map(|event| match event {
        Event::Moved {
            link, number, to, ..
        } => Some((*link, *number, *to)),
        _ => None,
    });
    assert_eq!(moved, Some((old, number, opened(&events).unwrap())));
    assert_eq!(requests(&events), 1);
}

/// LINK-21: the old link goes on until a fresh handshake succeeds.
#[test]
fn rekey_keeps_old_link_until_new_one_is_open() {
    let (mut pair, old) = day_old();
    let (mut out, mut lost) = (vec![], 0);
    for _ in 0..10 {
        pair.ask(old, true);
        let mut events = vec![];
        while replies(&events) == 0 {
            while pair.client.poll_transmit(pair.now, &mut out).is_some() {
                if matches!(Packet::parse(&out), Ok(Packet::Init(_))) {
                    lost += 1;
                } else {
                    pair.server.handle_datagram(pair.now, pair.from, &out);
                }
            }
            pair.serve(&mut events);
            while pair.server.poll_transmit(pair.now, &mut out).is_some() {
                let from = server_address();
                pair.client.handle_datagram(pair.now, from, &out);
            }
            events.extend(core::iter::from_fn(|| pair.client.poll_event()));
            pair.now = pair.now + Duration::from_secs(2);
            pair.client.handle_timeout(pair.now);
            pair.server.handle_timeout(pair.now);
        }
    }
    assert!(lost > 3, "{lost} handshakes lost");
    // No further handshake is lost.
    pair.ask(old, true);
    let mut events = pair.drive(|_| false);
    while opened(&events).is_none() {
        pair.wait();
        events.extend(pair.drive(|_| false));
    }
}

/// LINK-21: closing one of two links closes both. Found by the simulator: the new link was closed
/// before any packet had arrived on it, and the old one stayed, with its subscription.
#[test]
fn rekey_close_of_one_link_closes_both() {
    for closes_new in [false, true] {
        let (mut pair, old) = day_old();
        pair.ask(old, true);
        let mut out = vec![];
        while pair.client.poll_transmit(pair.now, &mut out).is_some() {
            pair.server.handle_datagram(pair.now, pair.from, &out);
        }
        assert_eq!(pair.client.links(), 2);
        let mut closing = old;
        if closes_new {
            let mut events = vec![];
            while opened(&events).is_none() {
                pair.serve(&mut events);
                while pair.server.poll_transmit(pair.now, &mut out).is_some() {
                    let from = server_address();
                    pair.client.handle_datagram(pair.now, from, &out);
                }
                events.extend(core::iter::from_fn(|| pair.client.poll_event()));
                pair.wait();
            }
            closing = opened(&events).unwrap();
        }
        pair.client.close(pair.now, closing, CloseReason::Done);
        pair.drive(|_| false);
        assert_eq!(pair.client.links(), 0, "{closes_new}");
        pair.now = pair.now + Duration::from_mins(4);
        pair.server.handle_timeout(pair.now);
        assert_eq!(pair.server.links(), 0, "{closes_new}");
    }
}
