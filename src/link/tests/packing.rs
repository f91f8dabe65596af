//! What goes into a packet.

use super::*;
use crate::wire::LinkName;

/// A plain link with a name, as realms have among each other without keys.
fn named() -> Pair {
    let pair = Pair::new();
    let name = LinkName {
        connection: ConnectionId(8),
        token: [7; 16],
    };
    let mut client = Link::initiate(pair.client.config, Some(name));
    client.establish_plain(Some(ConnectionId(9)));
    let mut server = Link::respond(pair.server.config, 0);
    server.establish_plain(Some(ConnectionId(8)));
    server.trust();
    Pair {
        client,
        server,
        ..pair
    }
}

/// LINK-4: OPEN is in each packet until it is answered: a request that fits a packet, and not beside it, let
/// packets leave without end that had nothing but OPEN in them.
#[test]
fn what_does_not_fit_beside_an_open_leaves_in_parts() {
    for len in 400..600 {
        let mut pair = named();
        pair.client.request(vec![1; len], END, false).unwrap();
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

/// LINK-13: nothing answers an event. One that is too long ends the link, and is not acknowledged as if it were there.
#[test]
fn an_event_that_is_too_long_is_a_violation() {
    let mut pair = Pair::new();
    pair.server.credit = None;
    pair.server.push(vec![1; 20_001], Urgency::Live).unwrap();
    let mut refused = None;
    while let Some(down) = transmit(&mut pair.server, pair.now) {
        refused = refused.or(deliver(&mut pair.client, pair.now, &down).err());
    }
    assert_eq!(refused, Some(Ignored::Violation));
    assert!(events(&mut pair.client).is_empty());
}
