//! Link slots, when more links want one than there are slots.

use super::super::holder::SlotKind;
use super::{floods::strict, *};

/// Returns the subnet at which a link from `address` counts.
fn slot_subnet(address: [u8; 4]) -> Subnet {
    SocketAddr::from((address, 0)).into()
}

fn open_as(pair: &mut Pair, n: u16, from: [u8; 4], user: Option<AccountId>) -> LinkId {
    open_from(pair, n, (from, 5000).into(), user)
}

/// Opens a link with its own key. With a user, an even `n` is a device that the realm knows, and an
/// odd one logs in.
fn open_from(pair: &mut Pair, n: u16, from: SocketAddr, user: Option<AccountId>) -> LinkId {
    pair.now = pair.now + Duration::from_secs(1);
    let mut key = [7; 32];
    key[1..3].copy_from_slice(&n.to_be_bytes());
    let key = SecretKey::from_bytes(key);
    pair.client = Endpoint::new(config(None), &key.into(), [1; 32]);
    pair.from = from;
    let link = pair.connect();
    pair.ask(link, false);
    pair.is_known = user.is_some() && n.is_multiple_of(2);
    pair.account = user.unwrap_or(AccountId::new(0));
    let events = pair.drive(|_| false);
    assert_eq!(replies(&events), 1, "{n} gets in");
    let opened = events.iter().find_map(|event| match event {
        Event::Incoming { link, .. } => Some(*link),
        _ => None,
    });
    let opened = opened.unwrap();
    if let Some(user) = user {
        pair.server.trust(opened, user);
    }
    opened
}

/// HS-13: strangers, who need only a key, hold few link slots, and not for long. Users who log in
/// get in, even if hundreds come from one address.
#[test]
fn link_slots_of_strangers_are_few_and_make_room_for_users() {
    let mut pair = Pair::new(Protection::Sealed);
    pair.server.config.links_max = 320;
    let address = [192, 0, 2, 7];
    for n in 0..200 {
        open_as(
            &mut pair,
            n,
            address,
            Some(AccountId::new(u64::from(n) + 1)),
        );
    }
    for n in 200..500 {
        open_as(&mut pair, n, address, None);
    }
    let slots = pair.server.accounting.slots();
    assert_eq!(slots.strangers(), STRANGERS_PER_SUBNET);
    assert_eq!(pair.server.links(), 200 + STRANGERS_PER_SUBNET);
    // Users from the strangers' address take the strangers' slots, except those reserved for
    // newcomers.
    for n in 500..700 {
        open_as(
            &mut pair,
            n,
            address,
            Some(AccountId::new(u64::from(n) + 1)),
        );
    }
    let kept = 320 / NEWCOMERS_PART;
    let counts = |pair: &Pair| {
        let slots = pair.server.accounting.slots();
        (slots.accounts().len(), slots.newcomers() <= kept)
    };
    assert_eq!(counts(&pair), (320 - kept, true));
    // Any number of strangers, from any address, use the reserved slots only.
    for n in 700..900_u16 {
        let [high, low] = n.to_be_bytes();
        open_as(&mut pair, n, [198, high, low, 1], None);
    }
    assert_eq!(counts(&pair), (320 - kept, true));
}

/// HS-13: a user with many devices, from any addresses, makes room for all others.
#[test]
fn link_slots_of_account_with_many_links_make_room() {
    let mut pair = Pair::new(Protection::Sealed);
    pair.server.config.links_max = 100;
    let honest: Vec<LinkId> = (0..30)
        .map(|n| {
            open_as(
                &mut pair,
                n,
                [192, 0, 2, 7],
                Some(AccountId::new(u64::from(n) + 1)),
            )
        })
        .collect();
    let greedy = AccountId::new(9999);
    for n in 100..400_u16 {
        let [high, low] = n.to_be_bytes();
        open_as(&mut pair, n, [high, low, 2, 7], Some(greedy));
    }
    assert_eq!(pair.server.accounting.slots().accounts().len(), 94);
    // The others come again and again with several devices each, and keep their links.
    let again: Vec<LinkId> = (400..454)
        .map(|n| {
            open_as(
                &mut pair,
                n,
                [192, 0, 2, 7],
                Some(AccountId::new(u64::from(n) % 27 + 1)),
            )
        })
        .collect();
    let is_there = |id: &&LinkId| pair.server.link(**id).is_some();
    assert_eq!(honest.iter().filter(is_there).count(), 30);
    assert_eq!(again.iter().filter(is_there).count(), 54);
    assert_eq!(pair.server.accounting.slots().accounts().len(), 94);
}

/// HS-13: a network with many accounts makes room for users from elsewhere, however many subnets it
/// has. Accounts with several links lose theirs first, and then the oldest links go.
#[test]
fn link_slots_of_network_with_many_accounts_make_room() {
    let mut pair = Pair::new(Protection::Sealed);
    pair.server.config.links_max = 100;
    let greedy: Vec<LinkId> = (0..100_u16)
        .map(|n| {
            let from = SocketAddr::from(([0x2001, 0xdb8, 1, n, 0, 0, 0, 1], 5000));
            open_from(
                &mut pair,
                n,
                from,
                Some(AccountId::new(u64::from(n.max(2)))),
            )
        })
        .collect();
    let honest: Vec<LinkId> = (200..240)
        .map(|n| {
            open_as(
                &mut pair,
                n,
                [198, 51, 100, 7],
                Some(AccountId::new(n.into())),
            )
        })
        .collect();
    assert!(honest.iter().all(|id| pair.server.link(*id).is_some()));
    let left: Vec<usize> = (0..100)
        .filter(|n| pair.server.link(greedy[*n]).is_some())
        .collect();
    assert_eq!(left, (46..100).collect::<Vec<_>>());
}

/// HS-13: a link counts at its last proven address, however often it migrates without proof. It
/// stays among the links that make room, and takes no slot elsewhere.
#[test]
fn link_slots_count_link_at_last_proven_address() {
    let mut pair = Pair::new(Protection::Sealed);
    let (ann, here, there) = (AccountId::new(1), [192, 0, 2, 7], [198, 51, 100, 7]);
    let id = open_as(&mut pair, 1, here, Some(ann));
    let counts = |pair: &Pair, at: [u8; 4]| {
        let subnet = slot_subnet(at);
        pair.server
            .accounting
            .slots()
            .accounts()
            .counts(ann, subnet.into())
    };
    assert_eq!(counts(&pair, [192, 0, 2, 99]), (1, 1));
    let link = pair.client.links.any();
    let mut out = vec![];
    for port in 6000..6040 {
        // Nothing that is sent to the new address arrives.
        pair.ask(link, false);
        while pair.client.poll_transmit(pair.now, &mut out).is_some() {
            let from = SocketAddr::from((there, port));
            pair.server.handle_datagram(pair.now, from, &out);
        }
        while pair.server.poll_transmit(pair.now, &mut out).is_some() {}
        pair.now = pair.now + Duration::from_secs(1);
        pair.server.handle_timeout(pair.now);
        assert_eq!(
            (counts(&pair, here), counts(&pair, there)),
            ((1, 1), (1, 0))
        );
        assert_eq!(pair.server.accounting.slots().len(), pair.server.links());
    }
    // The new address is proven.
    pair.from = (there, 6039).into();
    pair.ask(link, false);
    pair.drive(|_| false);
    assert_eq!(
        (counts(&pair, here), counts(&pair, there)),
        ((1, 0), (1, 1))
    );
    pair.server.trust(id, AccountId::new(2));
    assert_eq!(counts(&pair, there), (1, 1), "it is of who was first");
    pair.server.close_all(pair.now);
    pair.drive(|_| false);
    pair.now = pair.now + Duration::from_hours(48);
    pair.server.handle_timeout(pair.now);
    assert_eq!(
        (pair.server.links(), pair.server.accounting.slots().len()),
        (0, 0)
    );
}

/// HS-13: a newcomer on a slow path gets in while others begin handshake after handshake from a few
/// subnets, with cookies. Links of the subnet with the most newcomers go first.
#[test]
fn link_slots_admit_slow_newcomer_during_flood_of_newcomers() {
    let mut pair = strict(1000);
    pair.server.config.links_max = 200;
    for n in 0..200 {
        open_as(
            &mut pair,
            n,
            [192, 0, 2, 7],
            Some(AccountId::new(u64::from(n) + 1)),
        );
    }
    let key = SecretKey::from_bytes([9; 32]);
    pair.client = Endpoint::new(config(None), &key.into(), [1; 32]);
    pair.from = ([203, 0, 113, 9], 5000).into();
    let link = pair.connect();
    pair.ask(link, false);
    let mut greedy = 0_u16;
    let mut out = vec![];
    let mut answered = 0;
    // Each way takes as long as a hundred handshakes of the others.
    for _ in 0..20 {
        while pair.client.poll_transmit(pair.now, &mut out).is_some() {
            pair.server.handle_datagram(pair.now, pair.from, &out);
        }
        let mut down = vec![];
        for _ in 0..100 {
            greedy += 1;
            knock_with_cookie(&mut pair.server, pair.now, greedy, &mut down);
            pair.now = pair.now + Duration::from_millis(5);
        }
        let mut events = vec![];
        pair.serve(&mut events);
        pair.server.handle_timeout(pair.now);
        while let Some(Path { remote: to, .. }) = pair.server.poll_transmit(pair.now, &mut out) {
            if to == pair.from {
                down.push(out.clone());
            }
        }
        for datagram in down {
            pair.client
                .handle_datagram(pair.now, server_address(), &datagram);
        }
        pair.client.handle_timeout(pair.now);
        while let Some(event) = pair.client.poll_event() {
            answered += usize::from(matches!(event, Event::Reply { .. }));
        }
    }
    assert_eq!(answered, 1);
    assert_eq!(pair.server.accounting.slots().len(), pair.server.links());
    let users = pair.server.accounting.slots().accounts().len();
    assert_eq!(users, 200 - 200 / NEWCOMERS_PART);
}

/// Begins a handshake from one of four /24 subnets and shows the cookie. Datagrams for other
/// addresses are appended to `others`.
pub(super) fn knock_with_cookie(
    server: &mut Endpoint,
    now: Time,
    n: u16,
    others: &mut Vec<Vec<u8>>,
) {
    let from = SocketAddr::from(([100, 64, n.to_be_bytes()[1] % 4, 1], n));
    let mut key = [8; 32];
    key[1..3].copy_from_slice(&n.to_be_bytes());
    let key = SecretKey::from_bytes(key);
    let mut client = Endpoint::new(config(None), &key.into(), [2; 32]);
    client.connect(now, server_address(), realm_key().public(), None);
    let mut out = vec![];
    for _ in 0..2 {
        client.handle_timeout(now);
        while client.poll_transmit(now, &mut out).is_some() {
            server.handle_datagram(now, from, &out);
        }
        while let Some(Path { remote: to, .. }) = server.poll_transmit(now, &mut out) {
            if to == from {
                client.handle_datagram(now, server_address(), &out);
            } else {
                others.push(out.clone());
            }
        }
    }
}

/// HS-13: a stranger's link that is the oldest of too many when it is proven is removed without a
/// trace.
#[test]
fn eviction_of_stranger_at_once_leaves_no_trace() {
    let mut pair = Pair::new(Protection::Sealed);
    let from = [192, 0, 2, 7];
    let key = SecretKey::from_bytes([9; 32]);
    let mut slow = Endpoint::new(config(None), &key.into(), [1; 32]);
    let address = SocketAddr::from((from, 4999));
    let link = slow.connect(pair.now, server_address(), pair.realm, Some(RTT));
    let deadline = pair.now + Duration::from_mins(5);
    slow.request(
        pair.now,
        link,
        b"ask".to_vec(),
        deadline,
        EarlyData::Forbidden,
    );
    let mut out = vec![];
    while slow.poll_transmit(pair.now, &mut out).is_some() {
        pair.server.handle_datagram(pair.now, address, &out);
    }
    pair.is_known = false;
    pair.serve(&mut vec![]);
    let mut accept = vec![];
    while let Some(to) = pair.server.poll_transmit(pair.now, &mut out) {
        assert_eq!(to.remote, address);
        accept.push(out.clone());
    }
    for n in 0..u16::try_from(STRANGERS_PER_SUBNET).unwrap() {
        open_as(&mut pair, n, from, None);
    }
    let (links, keys) = (pair.server.links(), pair.server.links.keys());
    for datagram in accept {
        slow.handle_datagram(pair.now, server_address(), &datagram);
    }
    while slow.poll_transmit(pair.now, &mut out).is_some() {
        pair.server.handle_datagram(pair.now, address, &out);
    }
    assert_eq!(
        (pair.server.links(), pair.server.links.keys()),
        (links - 1, keys)
    );
}

/// LINK-23: the account that holds the most memory over all its links gives up a link, not one that
/// holds a little more on a single link.
#[test]
fn eviction_takes_link_of_account_that_holds_most_memory() {
    let mut pair = Pair::new(Protection::Sealed);
    let ann = open_as(&mut pair, 1, [192, 0, 2, 7], Some(AccountId::new(1)));
    let eve: Vec<LinkId> = (2..12)
        .map(|n| open_as(&mut pair, n, [198, 51, 100, 7], Some(AccountId::new(2))))
        .collect();
    pair.server.config.memory_max = 60_000;
    for link in &eve {
        pair.server
            .push(pair.now, *link, vec![1; 4000], Urgency::Live);
    }
    pair.server
        .push(pair.now, ann, vec![1; 16_000], Urgency::Live);
    pair.server
        .push(pair.now, ann, vec![1; 8000], Urgency::Live);
    assert!(pair.server.link(ann).is_some());
    let left = eve
        .iter()
        .filter(|link| pair.server.link(**link).is_some())
        .count();
    assert!((7..10).contains(&left), "{left}");
}

/// LINK-23: many links that hold little memory each end no other link. What they hold is bounded
/// separately.
#[test]
fn eviction_is_not_caused_by_links_that_hold_little_memory() {
    let mut pair = Pair::new(Protection::Sealed);
    pair.server.config.memory_max = 20_000;
    let many: Vec<LinkId> = (0..40)
        .map(|n| open_as(&mut pair, n, [198, 51, 100, 7], None))
        .collect();
    for link in &many {
        pair.server
            .push(pair.now, *link, vec![1; 300], Urgency::Live);
    }
    let ann = open_as(&mut pair, 100, [192, 0, 2, 7], Some(AccountId::new(1)));
    pair.server
        .push(pair.now, ann, vec![1; 9000], Urgency::Live);
    assert!(pair.server.link(ann).is_some());
    let held = |link: &LinkId| {
        pair.server
            .links
            .get(*link)
            .map(|entry| entry.holding().memory())
    };
    let held: Vec<usize> = many.iter().filter_map(held).collect();
    assert_eq!(held.len(), many.len());
    assert!(held.iter().all(|held| *held < WORTH_ENDING));
    assert!(held.iter().sum::<usize>() + 9000 > pair.server.config.memory_max);
}

/// HS-13: a sender of an Init with a forged address takes no slot at that address, though it gets
/// the Accept. Its link counts at the address where it answers a challenge.
#[test]
fn link_slots_are_not_taken_at_forged_address_of_init() {
    let mut pair = Pair::new(Protection::Sealed);
    pair.is_known = false;
    let (forged, real) = ([192, 0, 2, 7], [198, 51, 100, 7]);
    let link = pair.connect();
    pair.ask(link, false);
    let mut out = vec![];
    pair.client.poll_transmit(pair.now, &mut out).unwrap();
    let at = SocketAddr::from((forged, 5000));
    pair.server.handle_datagram(pair.now, at, &out);
    pair.serve(&mut vec![]);
    pair.from = SocketAddr::from((real, 5000));
    // The repeat comes from another address, so the Accept is sent there.
    pair.server.handle_datagram(pair.now, pair.from, &out);
    let id = pair.server.links.any();
    let slot = |pair: &Pair| pair.server.links[id].holding().slot();
    while pair.server.poll_transmit(pair.now, &mut out).is_some() {
        pair.client
            .handle_datagram(pair.now, server_address(), &out);
    }
    while pair.client.poll_transmit(pair.now, &mut out).is_some() {
        pair.server.handle_datagram(pair.now, pair.from, &out);
        assert!(!matches!(slot(&pair), SlotKind::Stranger(_)));
    }
    assert_eq!(replies(&pair.drive(|_| false)), 1);
    assert_eq!(slot(&pair), SlotKind::Stranger(slot_subnet(real)));
}

/// HS-13: a stranger's silent link ends soon.
#[test]
fn link_slots_of_silent_stranger_are_freed_soon() {
    let mut pair = Pair::new(Protection::Sealed);
    pair.is_known = false;
    let link = pair.connect();
    pair.ask(link, false);
    pair.drive(|_| false);
    let id = pair.server.links.any();
    for (wait, is_there) in [(STRANGER_IDLE / 2, true), (STRANGER_IDLE, false)] {
        pair.now = pair.now + wait;
        pair.server.handle_timeout(pair.now);
        assert_eq!(pair.server.link(id).is_some(), is_there);
    }
    assert_eq!(pair.server.accounting.slots().strangers(), 0);
}

/// HS-13: links that this side opens to other realms take no slots of newcomers.
#[test]
fn link_slots_of_newcomers_are_not_taken_by_links_to_realms() {
    let mut pair = Pair::new(Protection::Sealed);
    pair.server.config.links_max = 32;
    for n in 0..32 {
        open_as(
            &mut pair,
            n,
            [192, 0, 2, 7],
            Some(AccountId::new(u64::from(n) + 1)),
        );
    }
    for n in 0..3 {
        let other = SocketAddr::from(([203, 0, 113, n], 6377));
        pair.server
            .connect(pair.now, other, realm_key().public(), None);
    }
    assert!(pair.server.links() > 32);
    open_as(&mut pair, 99, [198, 51, 100, 7], None);
}

/// HS-13: a packet for which there is no reassembly memory still proves its link. Before, the link
/// counted as half open for ever, and the early data that waited for the proof went on waiting.
#[test]
fn link_slots_count_link_as_proven_by_packet_without_room() {
    let mut pair = Pair::new(Protection::Sealed);
    pair.server.config.early_data = false;
    pair.is_known = false;
    let link = pair.connect();
    pair.ask(link, true);
    let mut out = vec![];
    pair.client.poll_transmit(pair.now, &mut out).unwrap();
    pair.server.handle_datagram(pair.now, pair.from, &out);
    pair.serve(&mut vec![]);
    let id = pair.server.links.any();
    pair.now = pair.now + RTT;
    pair.server.handle_timeout(pair.now);
    pair.server.poll_transmit(pair.now, &mut out).unwrap();
    pair.client
        .handle_datagram(pair.now, server_address(), &out);
    // A fragment of a message for which there is no reassembly memory.
    let holder = pair.server.links[id].holder();
    pair.server
        .accounting
        .change_reassembly(holder, 0, ASSEMBLING_MAX);
    pair.client
        .request(
            pair.now,
            link,
            vec![7; 900],
            pair.now + Duration::from_mins(1),
            EarlyData::Forbidden,
        )
        .unwrap();
    out.clear();
    while out.len() < 400 {
        pair.client.poll_transmit(pair.now, &mut out).unwrap();
    }
    pair.server.handle_datagram(pair.now, pair.from, &out);
    assert_eq!(pair.server.links[id].link.assembling(), 0);
    let mut events = vec![];
    pair.serve(&mut events);
    assert_eq!(requests(&events), 1, "what came early");
    let slot = pair.server.links[id].holding().slot();
    assert!(matches!(slot, SlotKind::Stranger(_)), "{slot:?}");
    assert_eq!(pair.server.links.keys(), 1);
}
