//! Clients that migrate (LINK-18).

use super::*;

fn elsewhere(n: u16) -> SocketAddr {
    SocketAddr::from(([10, 9, 9, 9], 1000 + n))
}

/// Returns a pair whose link is proven and in use.
pub fn in_use() -> (Pair, LinkId) {
    let mut pair = Pair::new(Protection::Sealed);
    let link = pair.connect();
    for _ in 0..2 {
        pair.ask(link, false);
        assert_eq!(replies(&pair.drive(|_| false)), 1);
    }
    (pair, link)
}

fn address(pair: &Pair) -> SocketAddr {
    pair.server.links.values().next().unwrap().path().remote
}

/// LINK-18: a client that migrates every five seconds for ten minutes loses no request, also over a
/// path that loses a fifth of the packets each way.
#[test]
fn migration_every_five_seconds_loses_no_request() {
    for loss in [0, 5] {
        let (mut pair, link) = in_use();
        let mut rng = StdRng::seed_from_u64(1);
        for round in 0..120 {
            pair.from = elsewhere(round);
            let ends = pair.now + Duration::from_secs(5);
            pair.ask(link, false);
            let mut events = vec![];
            while replies(&events) == 0 {
                events.extend(pair.drive(|_| loss > 0 && rng.next_u32() % loss == 0));
                if replies(&events) == 0 {
                    pair.wait();
                }
            }
            assert!(requests(&events) <= 1, "carried out once");
            pair.now = pair.now.max(ends);
            pair.server.handle_timeout(pair.now);
            pair.client.handle_timeout(pair.now);
        }
        assert_eq!(pair.server.links(), 1);
        assert_eq!(pair.client.links(), 1);
    }
}

/// LINK-18: a packet for which there is no reassembly memory still migrates the link. Otherwise the
/// messages in reassembly would never be completed and make room.
#[test]
fn migration_happens_on_packet_without_reassembly_room() {
    let (mut pair, link) = in_use();
    let holder = pair.server.links.values().next().unwrap().holder();
    pair.server
        .accounting
        .change_reassembly(holder, 0, ASSEMBLING_MAX);
    let deadline = pair.now + Duration::from_mins(1);
    let long = vec![7; 3000];
    pair.client
        .request(pair.now, link, long, deadline, EarlyData::Forbidden)
        .unwrap();
    let mut out = vec![];
    while out.len() < 400 {
        pair.client.poll_transmit(pair.now, &mut out).unwrap();
    }
    pair.server.handle_datagram(pair.now, elsewhere(1), &out);
    let no_room = pair.server.stats().dropped_for(Dropped::NoRoom);
    assert_eq!((no_room, address(&pair)), (1, elsewhere(1)));
    // The same packet from a third address is not the newest any more once another has arrived.
    pair.from = elsewhere(1);
    pair.server
        .accounting
        .change_reassembly(holder, ASSEMBLING_MAX, 0);
    let mut events = vec![];
    while replies(&events) == 0 {
        events.extend(pair.drive(|_| false));
        pair.wait();
    }
    pair.server.handle_datagram(pair.now, elsewhere(2), &out);
    assert_eq!(address(&pair), elsewhere(1));
}

/// LINK-18: an event that was sent to a client's former address is retransmitted at once when the
/// client is seen at a new one, and not at the next timeout.
#[test]
fn migration_retransmits_event_sent_to_former_address_at_once() {
    let (mut pair, link) = in_use();
    let at_server = pair.server.links.any();
    pair.server
        .push(pair.now, at_server, vec![7; 20], Urgency::Live);
    let mut out = vec![];
    // Everything that leaves for the old address is lost.
    for _ in 0..5 {
        while pair.server.poll_transmit(pair.now, &mut out).is_some() {}
        pair.now = pair.server.poll_timeout().unwrap();
        pair.server.handle_timeout(pair.now);
    }
    while pair.server.poll_transmit(pair.now, &mut out).is_some() {}
    let deadline = pair.now + Duration::from_secs(30);
    pair.client
        .request(pair.now, link, vec![1; 60], deadline, EarlyData::Forbidden);
    pair.client.poll_transmit(pair.now, &mut out).unwrap();
    pair.server.handle_datagram(pair.now, elsewhere(1), &out);
    // The client cannot have answered that yet.
    while pair.server.poll_transmit(pair.now, &mut out).is_some() {
        pair.client
            .handle_datagram(pair.now, server_address(), &out);
    }
    let mut events = core::iter::from_fn(|| pair.client.poll_event());
    assert!(events.any(|event| matches!(event, Event::Pushed { .. })));
}

/// LINK-18: a client that migrates right after the handshake is heard. Found by a test with real
/// processes: a client that migrated right after a handshake whose Init had carried its only
/// request was not heard for three minutes.
#[test]
fn migration_right_after_handshake_is_followed() {
    let mut pair = Pair::new(Protection::Sealed);
    let link = pair.connect();
    pair.ask(link, true);
    assert_eq!(replies(&pair.drive(|_| false)), 1);
    assert!(
        pair.server
            .links
            .values()
            .all(|entry| !entry.link.is_proven())
    );
    pair.from = elsewhere(1);
    pair.ask(link, false);
    assert_eq!(replies(&pair.drive(|_| false)), 1);
    assert_eq!(address(&pair), elsewhere(1));
    assert!(
        pair.server
            .links
            .values()
            .all(|entry| entry.link.is_proven())
    );
}

/// LINK-18: until a new address has answered, it gets at most three times the bytes that came from
/// it.
#[test]
fn migration_to_unproven_address_sends_at_most_three_times_received() {
    let (mut pair, link) = in_use();
    pair.ask(link, false);
    let mut out = vec![];
    pair.client.poll_transmit(pair.now, &mut out).unwrap();
    // An attacker on the path forwards the client's newest packet from its own address.
    pair.from = elsewhere(1);
    pair.server.handle_datagram(pair.now, pair.from, &out);
    pair.from = elsewhere(2);
    let mut events = vec![];
    pair.serve(&mut events);
    let link_at_server = pair.server.links.any();
    for _ in 0..30 {
        pair.server
            .push(pair.now, link_at_server, vec![7; 300], Urgency::Live);
    }
    while pair.now < Time(30_000_000) {
        let mut out = vec![];
        while let Some(Path { remote: to, .. }) = pair.server.poll_transmit(pair.now, &mut out) {
            *pair.sent_to.entry(to).or_default() += out.len();
        }
        let next = pair.server.poll_timeout().unwrap();
        pair.now = next.max(pair.now + Duration::from_millis(1));
        pair.server.handle_timeout(pair.now);
        if address(&pair) == client_address() {
            break;
        }
    }
    let stolen = pair.sent_to.get(&elsewhere(1)).copied().unwrap_or(0);
    assert!(stolen <= 3 * out.len().max(60), "{stolen} bytes");
    assert_eq!(address(&pair), client_address(), "given up again");
    assert!(
        pair.server
            .links
            .values()
            .all(|entry| entry.link.is_proven())
    );
}

/// LINK-18: a link does not go back to the unproven address of its Init. Found by a fuzzer: the
/// address of the Init had not been proven when the first packet came from elsewhere, and yet
/// everything was sent there once the new address did not answer.
#[test]
fn migration_does_not_go_back_to_unproven_address_of_init() {
    let mut pair = Pair::new(Protection::Sealed);
    let link = pair.connect();
    let mut init = vec![];
    pair.client.poll_transmit(pair.now, &mut init).unwrap();
    // An attacker that has seen the Init delivers a copy before it, with a forged address.
    let stranger = elsewhere(1);
    pair.server.handle_datagram(pair.now, stranger, &init);
    pair.serve(&mut vec![]);
    let send = |pair: &mut Pair| {
        let (mut out, mut all) = (vec![], vec![]);
        while let Some(Path { remote: to, .. }) = pair.server.poll_transmit(pair.now, &mut out) {
            *pair.sent_to.entry(to).or_default() += out.len();
            all.push((to, out.clone()));
        }
        all
    };
    send(&mut pair);
    pair.server
        .handle_datagram(pair.now, client_address(), &init);
    for (to, datagram) in send(&mut pair) {
        if to == client_address() {
            pair.client
                .handle_datagram(pair.now, server_address(), &datagram);
        }
    }
    pair.ask(link, false);
    let mut request = vec![];
    pair.client.poll_transmit(pair.now, &mut request).unwrap();
    pair.server
        .handle_datagram(pair.now, client_address(), &request);
    pair.serve(&mut vec![]);
    let id = pair.server.links.any();
    for _ in 0..10 {
        pair.server.push(pair.now, id, vec![7; 300], Urgency::Live);
    }
    // Nothing reaches the client for a while.
    for _ in 0..60 {
        send(&mut pair);
        pair.now = pair.now + Duration::from_secs(1);
        pair.server.handle_timeout(pair.now);
    }
    let got = pair.sent_to.get(&stranger).copied().unwrap_or(0);
    assert!(
        (1..=init.len()).contains(&got),
        "{got} bytes for {}",
        init.len()
    );
    assert_eq!(address(&pair), client_address());
    // After that everything does.
    pair.ask(link, false);
    let events = pair.drive(|_| false);
    assert!(replies(&events) >= 1, "{events:?}");
    assert!(
        pair.server
            .links
            .values()
            .all(|entry| entry.link.is_proven())
    );
}

/// LINK-18: a replayed packet, or one that a newer packet has overtaken, does not migrate the link.
#[test]
fn migration_is_not_caused_by_replayed_packet() {
    let (mut pair, link) = in_use();
    pair.ask(link, false);
    pair.ask(link, false);
    pair.drive(|_| false);
    let before = address(&pair);
    let carried = pair.carried.clone();
    for (from_client, datagram) in &carried {
        if *from_client {
            pair.server
                .handle_datagram(pair.now, elsewhere(7), datagram);
        }
    }
    assert_eq!(address(&pair), before);
    let mut events = vec![];
    pair.serve(&mut events);
    assert!(requests(&events) == 0, "{events:?}");
}

/// Carries the server's datagrams for the client's address to the client. Returns the number of
/// bytes that went elsewhere.
fn carry_down(pair: &mut Pair) -> usize {
    let (mut out, mut astray) = (vec![], 0);
    while let Some(path) = pair.server.poll_transmit(pair.now, &mut out) {
        if path.remote == pair.from {
            pair.client
                .handle_datagram(pair.now, server_address(), &out);
        } else {
            astray += out.len();
        }
    }
    astray
}

/// LINK-18: the owner of a link's keys can send packets with any source address. Its requests count
/// at the address where it was proven, and not at another's, whose rate limit they would use up.
#[test]
fn migration_without_proof_counts_requests_at_proven_address() {
    let (mut pair, link) = in_use();
    let id = pair.server.links.any();
    let mut out = vec![];
    for (at, counted) in [
        (elsewhere(1), client_address()),
        (elsewhere(2), client_address()),
        (client_address(), client_address()),
        (elsewhere(1), client_address()),
    ] {
        pair.ask(link, false);
        while pair.client.poll_transmit(pair.now, &mut out).is_some() {
            pair.server.handle_datagram(pair.now, at, &out);
        }
        let mut events = vec![];
        pair.serve(&mut events);
        assert_eq!(requests(&events), 1);
        assert_eq!(
            pair.server.link(id).map(LinkStatus::proven_address),
            Some(counted),
            "from {at}"
        );
    }
    // Once the client has answered at the new address, its requests count there.
    pair.from = elsewhere(1);
    pair.drive(|_| false);
    assert_eq!(address(&pair), elsewhere(1));
    assert_eq!(
        pair.server.link(id).map(LinkStatus::proven_address),
        Some(elsewhere(1))
    );
}

/// LINK-18: as long as no address has been proven, requests wait.
#[test]
fn path_validation_pending_makes_requests_wait() {
    let mut pair = Pair::new(Protection::Sealed);
    let link = pair.connect();
    let mut out = vec![];
    pair.client.poll_transmit(pair.now, &mut out).unwrap();
    pair.server.handle_datagram(pair.now, pair.from, &out);
    pair.serve(&mut vec![]);
    carry_down(&mut pair);
    pair.ask(link, false);
    pair.client.poll_transmit(pair.now, &mut out).unwrap();
    let mut events = vec![];
    pair.server.handle_datagram(pair.now, elsewhere(1), &out);
    pair.serve(&mut events);
    assert_eq!(requests(&events), 0, "it may have come from anywhere");
    pair.from = elsewhere(1);
    let events = pair.drive(|_| false);
    assert_eq!((requests(&events), replies(&events)), (1, 1));
}

/// LINK-18: an Init comes from a forged address, and again from another one, so that its sender
/// gets the Accept. A first sealed packet from the forged address does not prove that address, and
/// few bytes go there.
#[test]
fn path_validation_does_not_prove_forged_address_of_init() {
    let mut pair = Pair::new(Protection::Sealed);
    let (link, forged, real) = (pair.connect(), elsewhere(1), elsewhere(2));
    let (mut out, mut came, mut went) = (vec![], 0, 0);
    pair.client.poll_transmit(pair.now, &mut out).unwrap();
    pair.server.handle_datagram(pair.now, forged, &out);
    came += out.len();
    pair.serve(&mut vec![]);
    pair.from = real;
    went += carry_down(&mut pair);
    pair.server.handle_datagram(pair.now, real, &out);
    went += carry_down(&mut pair);
    let id = pair.server.links.any();
    let mut events = vec![];
    for _ in 0..20 {
        pair.ask(link, false);
        while pair.client.poll_transmit(pair.now, &mut out).is_some() {
            came += out.len();
            pair.server.handle_datagram(pair.now, forged, &out);
        }
        pair.serve(&mut events);
        pair.server.push(pair.now, id, vec![7; 1000], Urgency::Live);
        went += carry_down(&mut pair);
        pair.now = pair.now + RTT;
        pair.server.handle_timeout(pair.now);
    }
    assert_eq!(requests(&events), 0, "nobody is proven to be there");
    assert!((1..=3 * came).contains(&went), "{went} bytes for {came}");
    // At its real address the client is served.
    let mut events = vec![];
    for _ in 0..10 {
        events.extend(pair.drive(|_| false));
        pair.wait();
    }
    assert_eq!(replies(&events), 20);
    assert_eq!(
        pair.server.link(id).map(LinkStatus::proven_address),
        Some(real)
    );
}

/// LINK-18: a challenge may be answered from yet another address: then both addresses are proven,
/// one after the other.
#[test]
fn path_validation_answered_from_other_address_proves_both_in_turn() {
    for is_new in [false, true] {
        let mut pair = Pair::new(Protection::Sealed);
        let link = pair.connect();
        if is_new {
            // Nothing is proven when the client migrates.
            pair.ask(link, true);
            pair.drive(|_| false);
        } else {
            (pair, _) = in_use();
        }
        let link = pair.client.links.any();
        let id = pair.server.links.any();
        pair.ask(link, false);
        let mut out = vec![];
        while pair.client.poll_transmit(pair.now, &mut out).is_some() {
            pair.server.handle_datagram(pair.now, elsewhere(1), &out);
        }
        let mut events = vec![];
        pair.serve(&mut events);
        assert_eq!(requests(&events), usize::from(!is_new));
        pair.from = elsewhere(1);
        carry_down(&mut pair);
        while pair.client.poll_transmit(pair.now, &mut out).is_some() {
            pair.server.handle_datagram(pair.now, elsewhere(2), &out);
        }
        pair.serve(&mut events);
        assert_eq!(requests(&events), 1);
        assert_eq!(
            pair.server.link(id).map(LinkStatus::proven_address),
            Some(elsewhere(1))
        );
        assert_eq!(address(&pair), elsewhere(2), "where it says it is now");
        let counts = |pair: &Pair| pair.server.links[id].holding().slot();
        let there = Subnet::from(elsewhere(1));
        assert!(
            matches!(counts(&pair), super::super::holder::SlotKind::Account(at, _) if at == there)
        );
        // If it does not answer at the newest address, the link goes back to the one before.
        carry_down(&mut pair);
        pair.now = pair.now + Duration::from_mins(1);
        pair.server.handle_timeout(pair.now);
        assert_eq!(address(&pair), elsewhere(1));
    }
}
