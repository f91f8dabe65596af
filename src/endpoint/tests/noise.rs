//! Corrupted and random datagrams.

use super::*;

/// HS-2, HS-4: no corrupted bit of an Accept misdirects a link. Found by the simulator: an Accept
/// with a corrupted bit in the connection id was accepted, and the client for ever named its link
/// by an id that the realm did not know.
#[test]
fn handshake_accept_with_any_corrupted_bit_does_not_misdirect_link() {
    let mut bit = 0;
    loop {
        let mut pair = Pair::new(Protection::Sealed);
        let link = pair.connect();
        pair.ask(link, true);
        let (mut init, mut accept) = (vec![], vec![]);
        pair.client.poll_transmit(pair.now, &mut init).unwrap();
        pair.server.handle_datagram(pair.now, pair.from, &init);
        let mut events = vec![];
        while accept.is_empty() {
            pair.serve(&mut events);
            pair.now = pair.now + RTT / 2;
            pair.server.handle_timeout(pair.now);
            pair.server.poll_transmit(pair.now, &mut accept);
        }
        if bit == accept.len() * 8 {
            return;
        }
        let mut bent = accept.clone();
        bent[bit / 8] ^= 1 << (bit % 8);
        for datagram in [bent, accept] {
            pair.client
                .handle_datagram(pair.now, server_address(), &datagram);
        }
        pair.drive(|_| false);
        let number = pair.ask(link, false);
        let events = pair.drive(|_| false);
        let is_reply =
            |event: &Event| matches!(event, Event::Reply { number: n, .. } if *n == number);
        assert!(events.iter().any(is_reply), "bit {bit}");
        bit += 1;
    }
}

/// WIRE-7, WIRE-10: random datagrams of any length do no harm.
#[test]
fn noise_datagram_of_any_length_is_ignored() {
    let mut pair = Pair::new(Protection::Sealed);
    let link = pair.connect();
    pair.ask(link, true);
    pair.drive(|_| false);
    for len in [0, 1, 2, 21, 84, 1200, 65_507] {
        for first in 0..=u8::MAX {
            let mut noise = vec![first; len];
            if let Some(last) = noise.last_mut() {
                *last = len.to_be_bytes()[7];
            }
            pair.server
                .handle_datagram(pair.now, client_address(), &noise);
            pair.client
                .handle_datagram(pair.now, server_address(), &noise);
        }
    }
    while pair.server.poll_transmit(pair.now, &mut vec![]).is_some() {}
    assert!(pair.server.poll_event().is_none());
    pair.ask(link, true);
    assert_eq!(replies(&pair.drive(|_| false)), 1);
}
