//! Dormant links.

use super::*;

/// Returns a pair whose link is dormant after a few requests, their replies and four idle minutes.
fn at_rest(protection: Protection) -> (Pair, LinkId) {
    let mut pair = Pair::new(protection);
    let link = match protection {
        Protection::Sealed => pair.connect(),
        Protection::Plain => pair
            .client
            .connect_plain(pair.now, server_address(), Some(RTT)),
    };
    for _ in 0..3 {
        pair.ask(link, false);
        pair.drive(|_| false);
    }
    pair.now = pair.now + Duration::from_mins(4);
    pass(&mut pair);
    assert!(is_dormant(&pair), "{protection:?}");
    (pair, link)
}

/// Handles everything that is due, and carries no datagram.
fn pass(pair: &mut Pair) {
    let mut out = vec![];
    for _ in 0..10 {
        pair.server.handle_timeout(pair.now);
        while pair.server.poll_transmit(pair.now, &mut out).is_some() {}
    }
    let due = pair.server.poll_timeout();
    assert!(due.is_none_or(|due| due > pair.now), "it never rests");
}

fn is_dormant(pair: &Pair) -> bool {
    // Looks at the oldest link, because a replayed Init may have opened another.
    let first = pair
        .server
        .links
        .values()
        .min_by_key(|entry| entry.opened());
    first.is_some_and(|entry| entry.link.is_dormant())
}

/// LINK-24: a dormant link goes on when either side sends something.
#[test]
fn dormant_link_wakes_when_either_side_sends() {
    for protection in [Protection::Sealed, Protection::Plain] {
        let (mut pair, link) = at_rest(protection);
        assert_eq!(pair.server.accounting.memory(), 0);
        pair.ask(link, false);
        let events = pair.drive(|_| false);
        assert_eq!(
            (requests(&events), replies(&events)),
            (1, 1),
            "{protection:?} {events:?}"
        );
        assert!(!is_dormant(&pair));
        // Once more, with something that the server sends first.
        pair.now = pair.now + Duration::from_mins(4);
        pass(&mut pair);
        assert!(is_dormant(&pair));
        let at_server = pair.server.links.any();
        for urgency in [Urgency::Live, Urgency::Backlog] {
            let event = vec![1];
            pair.server.push(pair.now, at_server, event, urgency);
        }
        let events = pair.drive(|_| false);
        let pushed = |event: &&Event| matches!(event, Event::Pushed { .. });
        assert_eq!(events.iter().filter(pushed).count(), 2, "{events:?}");
    }
}

/// LINK-3: packets from before a link became dormant have no effect after it, whatever address they
/// come from. They wake the link only until that is found out.
#[test]
fn dormant_link_ignores_packets_from_before_hibernation() {
    let (mut pair, _) = at_rest(Protection::Sealed);
    let carried = pair.carried.clone();
    for from in [client_address(), SocketAddr::from(([10, 0, 0, 9], 1))] {
        for (_, datagram) in carried.iter().filter(|(from_client, _)| *from_client) {
            pair.server.handle_datagram(pair.now, from, datagram);
        }
        let mut events = vec![];
        pair.serve(&mut events);
        assert_eq!(requests(&events), 0, "{events:?}");
        pass(&mut pair);
        assert!(is_dormant(&pair), "{from}");
    }
    let mut addresses = pair.server.links.values().map(|entry| entry.path().remote);
    assert!(addresses.any(|address| address == client_address()));
}

/// LINK-5: a packet that never arrived is not acknowledged because the link was dormant.
#[test]
fn dormant_link_does_not_acknowledge_packets_lost_before() {
    let mut pair = Pair::new(Protection::Sealed);
    let link = pair.connect();
    pair.ask(link, false);
    pair.drive(|_| false);
    let mut out = vec![];
    pair.ask(link, false);
    assert!(pair.client.poll_transmit(pair.now, &mut out).is_some());
    assert!(pair.client.links[link].link.is_waiting());
    pair.now = pair.now + Duration::from_mins(4);
    pass(&mut pair);
    assert!(is_dormant(&pair));
    // The repeats of the request come late, and get their reply.
    pair.client.handle_timeout(pair.now);
    pair.ask(link, false);
    let events = pair.drive(|_| false);
    assert_eq!(replies(&events), 2, "{events:?}");
    assert!(pair.client.links[link].link.is_idle());
}

/// LINK-24: a dormant link takes little memory, so that a realm can hold many.
#[test]
fn dormant_link_takes_little_memory() {
    let bytes = (size_of::<LinkEntry>(), size_of::<link::DormantLink>());
    assert!(bytes.0 <= 280 && bytes.1 <= 224, "{bytes:?} bytes");
}
