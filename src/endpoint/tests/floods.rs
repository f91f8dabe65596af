//! Floods of handshakes.

use super::{link_slots::knock_with_cookie, *};
use crate::rate_limit::RateLimit;

/// Returns a pair whose server admits `per_subnet` handshakes a second without a cookie, and four
/// times as many at once.
pub(super) fn strict(per_subnet: u32) -> Pair {
    let mut pair = Pair::new(Protection::Sealed);
    let config = Config {
        handshakes: Handshakes {
            all: RateLimit::per_second(100),
            per_subnet: RateLimit::per_second(per_subnet),
        },
        ..config(Some(Protection::Sealed))
    };
    pair.server = Endpoint::new(config, &realm_key().into(), [4; 32]);
    pair
}

/// HS-12: above the rate limit, an initiator must show a cookie, which takes one round trip.
#[test]
fn cookie_is_required_above_rate_limit_and_costs_one_round_trip() {
    let mut pair = strict(1);
    for n in 0..6 {
        let begun = pair.now;
        let link = pair.connect();
        pair.ask(link, true);
        let before = pair.carried.len();
        let events = pair.drive(|_| false);
        assert_eq!((replies(&events), requests(&events)), (1, 1));
        let retries = pair
            .carried
            .iter()
            .skip(before)
            .filter(|(_, bytes)| matches!(Packet::parse(bytes), Ok(Packet::Retry { .. })));
        let (trips, asked_back) = if n < 4 { (1, 0) } else { (2, 1) };
        assert_eq!(retries.count(), asked_back, "handshake {n}");
        assert_eq!(pair.replied - begun, RTT * trips, "handshake {n}");
        // No time passes, so that the token bucket does not fill.
        pair.now = begun;
    }
}

/// HS-12: a flood from forged addresses leaves no state at the server, and the server sends no more
/// bytes than it receives.
#[test]
fn cookie_flood_from_forged_addresses_leaves_no_state() {
    let mut pair = strict(5);
    let mut out = vec![];
    let (mut came, mut sent) = (0, 0);
    for n in 0..2000_u32 {
        pair.connect();
        while pair.client.poll_transmit(pair.now, &mut out).is_some() {
            let from = SocketAddr::from((n.to_be_bytes(), 4000));
            pair.server.handle_datagram(pair.now, from, &out);
            came += out.len();
        }
        while pair.server.poll_transmit(pair.now, &mut out).is_some() {
            assert!(matches!(Packet::parse(&out), Ok(Packet::Retry { .. })));
            sent += out.len();
        }
    }
    assert!(pair.server.links() <= 400, "{}", pair.server.links());
    assert!(sent < came, "{sent} bytes for {came}");
}

/// HS-8, HS-12: several endpoints behind one address share their rate limits: a sender begins no
/// more handshakes at them, and gets no more Resets, than at one.
#[test]
fn limits_are_shared_by_endpoints_behind_one_address() {
    let mut pair = strict(5);
    let mut servers: Vec<Endpoint> = Vec::new();
    for own in 0..4 {
        let config = Config {
            worker: WorkerId::new(own, 4_u32.try_into().unwrap()).unwrap(),
            ..pair.server.config
        };
        let mut server = Endpoint::new(config, &realm_key().into(), [4; 32]);
        if let Some(first) = servers.first() {
            server.count_with(first);
        }
        servers.push(server);
    }
    // Packets of links that the servers do not know, with connection ids of all servers.
    let mut lost = vec![vec![]; 12];
    for packet in &mut lost {
        let link = pair.connect();
        pair.ask(link, false);
        pair.drive(|_| false);
        pair.ask(link, false);
        pair.client.poll_transmit(pair.now, packet).unwrap();
    }
    let mut out = vec![];
    let (mut retries, mut resets) = (0, 0);
    for n in 0..400_u16 {
        let from = SocketAddr::from(([192, 0, 2, 1], 4000 + n));
        let mut seed = [0; 32];
        seed[..2].copy_from_slice(&n.to_be_bytes());
        let key = SecretKey::from_bytes([1; 32]).into();
        pair.client = Endpoint::new(config(None), &key, seed);
        pair.connect();
        let mut init = vec![];
        pair.client.poll_transmit(pair.now, &mut init).unwrap();
        servers[usize::from(n % 4)].handle_datagram(pair.now, from, &init);
        for server in &mut servers {
            server.handle_datagram(pair.now, from, &lost[usize::from(n % 12)]);
            while server.poll_transmit(pair.now, &mut out).is_some() {
                match Packet::parse(&out) {
                    Ok(Packet::Retry { .. }) => retries += 1,
                    Ok(Packet::Reset { .. }) => resets += 1,
                    _ => {}
                }
            }
        }
    }
    assert_eq!((400 - retries, resets), (20, 40));
}

/// HS-13: the number of half-open links is bounded, however long a flood lasts. An initiator that
/// has shown a cookie, and a link that is proven, stay.
#[test]
fn link_slots_of_half_open_links_are_bounded_in_flood() {
    let mut pair = strict(1000);
    let link = pair.connect();
    pair.ask(link, false);
    assert_eq!(replies(&pair.drive(|_| false)), 1);
    let knock = |pair: &mut Pair, from: SocketAddr| {
        pair.connect();
        let mut out = vec![];
        while pair.client.poll_transmit(pair.now, &mut out).is_some() {
            pair.server.handle_datagram(pair.now, from, &out);
        }
        while pair.server.poll_transmit(pair.now, &mut out).is_some() {}
    };
    pair.server.config.links_max = HALF_OPEN_MAX + 10;
    for n in 0..2000_u32 {
        pair.now = pair.now + Duration::from_millis(20);
        knock(&mut pair, SocketAddr::from((n.to_be_bytes(), 4000)));
        assert!(pair.server.links() <= HALF_OPEN_MAX + 1);
    }
    assert_eq!(pair.server.accounting.slots().half_open(), HALF_OPEN_MAX);
    pair.ask(link, false);
    let events = pair.drive(|_| false);
    assert_eq!(replies(&events), 1, "who is in stays in");
    // With all link slots taken, an Init without a cookie is answered with a Retry. An Init with a
    // cookie takes the slot of the oldest half-open link.
    pair.server.config.links_max = pair.server.links();
    let first = pair.server.accounting.slots().first_unverified().unwrap();
    pair.now = pair.now + Duration::from_secs(1);
    knock(&mut pair, SocketAddr::from(([203, 0, 113, 9], 4000)));
    assert!(
        pair.server.link(first).is_some(),
        "it has to show where it is first"
    );
    let mut answers = vec![];
    let key = SecretKey::from_bytes([10; 32]);
    pair.client = Endpoint::new(config(None), &key.into(), [1; 32]);
    knock_with_cookie(&mut pair.server, pair.now, 1, &mut answers);
    assert!(pair.server.link(first).is_none());
}

/// HS-12: a forged Retry delays a handshake by no more than a round trip.
#[test]
fn cookie_retry_forged_does_not_delay_handshake() {
    let mut pair = Pair::new(Protection::Sealed);
    let link = pair.connect();
    pair.ask(link, true);
    let mut out = vec![];
    pair.client.poll_transmit(pair.now, &mut out).unwrap();
    let Ok(Packet::Init(init)) = Packet::parse(&out) else {
        panic!("no Init")
    };
    pair.now = pair.now + RTT * 10;
    let mut forged = vec![];
    Packet::emit_retry(init.handshake, &[9; 16], &mut forged);
    for _ in 0..20 {
        let from = server_address();
        pair.client.handle_datagram(pair.now, from, &forged);
    }
    assert_eq!(
        pair.client.link(link).and_then(LinkStatus::rtt),
        Some(RTT),
        "it measures nothing"
    );
    assert_eq!(replies(&pair.drive(|_| false)), 1);
}

/// A packet without a connection id is not tried with each link that strangers have opened from its
/// address and named, so that the cost of a datagram does not grow with their number.
#[test]
fn link_lookup_does_not_try_links_named_by_strangers() {
    let mut pair = Pair::new(Protection::Sealed);
    let links = 50;
    for n in 0..links {
        let key = SecretKey::from_bytes([n + 100; 32]);
        pair.client = Endpoint::new(config(None), &key.clone().into(), [n; 32]);
        let realm = realm_key().public();
        let link = pair
            .client
            .link_for_requests(pair.now, &key.public(), realm, server_address());
        pair.ask(link, false);
        assert_eq!(replies(&pair.drive(|_| false)), 1);
    }
    assert_eq!(pair.server.links(), usize::from(links));
    assert_eq!(pair.server.links.named(), usize::from(links));
    assert_eq!(pair.server.links.opened_to(client_address()).count(), 0);
    // Each of these links is found by its connection id alone, and the id is removed with the link.
    pair.server.close_all(pair.now);
    pair.drive(|_| false);
    assert!(pair.server.links.named() == 0);
}

/// LINK-13: a client without a session is answered, however long its message is.
#[test]
fn stranger_message_of_any_length_is_answered() {
    for len in [20, 400, 510, 600, 900, 1100, 1140, 1166, 1300, 5000] {
        let mut pair = Pair::new(Protection::Sealed);
        pair.is_known = false;
        let link = pair.connect();
        let deadline = pair.now + Duration::from_secs(30);
        let bytes = vec![7; len];
        pair.client
            .request(pair.now, link, bytes, deadline, EarlyData::Forbidden)
            .unwrap();
        let (mut answered, mut too_long) = (0, 0);
        for _ in 0..40 {
            let events = pair.drive(|_| false);
            answered += replies(&events);
            too_long += events
                .iter()
                .filter(|event| matches!(event, Event::Oversized { .. }))
                .count();
            if answered + too_long > 0 {
                break;
            }
            pair.wait();
        }
        assert_eq!(answered + too_long, 1, "{len} bytes");
        assert_eq!(too_long > 0, len > 1166, "{len} bytes");
    }
}
